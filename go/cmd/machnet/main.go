// Machnet is the `machnet` command that came with this package: the sidecar, and what one asks it with.
//
//	go run github.com/machnet/machnet/go/cmd/machnet up
//	go install github.com/machnet/machnet/go/cmd/machnet@latest
//
// It becomes that command, so that a signal sent to it reaches the sidecar. (`go run` itself passes only Ctrl-C on: a service
// uses what `go install` made.) In a build with the tag machnet_pkgconfig and on processors for which the package brings none,
// it looks for `machnet` on PATH.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/machnet/machnet/go/internal/bundled"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "machnet:", err)
		os.Exit(1)
	}
}

func run() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the sidecar runs on Linux only, and this is %s; run it in a Linux container or virtual machine, "+
			"with the programs that use it", runtime.GOOS)
	}
	path, err := bundled.Path()
	if err == bundled.ErrNone {
		path, err = onPath()
	}
	if err != nil {
		return err
	}
	return become(path, append([]string{"machnet"}, os.Args[1:]...))
}

// onPath finds a `machnet` that is not this program.
func onPath() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	self, err := os.Stat(own)
	if err != nil {
		return "", err
	}
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		path, err := exec.LookPath(filepath.Join(folder, "machnet"))
		if err != nil || !filepath.IsAbs(path) {
			continue
		}
		if found, err := os.Stat(path); err == nil && !os.SameFile(found, self) {
			return path, nil
		}
	}
	return "", fmt.Errorf("this package brings no sidecar for %s/%s, and there is no other `machnet` on PATH; "+
		"build one from the sources: make build && make install", runtime.GOOS, runtime.GOARCH)
}
