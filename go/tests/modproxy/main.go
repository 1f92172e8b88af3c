// Modproxy writes a folder that serves one module as GOPROXY=file://... : what `go get` finds of a release.
//
//	modproxy SOURCE LICENSE MODULE VERSION PROXY
//
// As of a repository, a module in a folder below its root has the root's licence.
package main

import (
	"archive/zip"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: modproxy SOURCE LICENSE MODULE VERSION PROXY")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, "modproxy:", err)
		os.Exit(1)
	}
}

func write(source, license, module, version, proxy string) error {
	folder := filepath.Join(proxy, filepath.FromSlash(module), "@v")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"list":            version + "\n",
		version + ".info": fmt.Sprintf("{\"Version\":%q,\"Time\":\"2026-01-01T00:00:00Z\"}\n", version),
		version + ".mod":  string(manifest),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(folder, version+".zip"))
	if err != nil {
		return err
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	prefix := module + "@" + version + "/"
	if err := pack(archive, source, prefix); err != nil {
		return err
	}
	if err := add(archive, license, prefix+"LICENSE"); err != nil {
		return err
	}
	return archive.Close()
}

// pack adds the files of a module, but no module below it.
func pack(archive *zip.Writer, source, prefix string) error {
	return filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, missing := os.Stat(filepath.Join(path, "go.mod"))
			if relative != "." && (missing == nil || strings.HasPrefix(entry.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		// A workspace is for a clone.
		if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "go.work" {
			return nil
		}
		return add(archive, path, prefix+filepath.ToSlash(relative))
	})
}

func add(archive *zip.Writer, path, name string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := archive.Create(name)
	if err == nil {
		_, err = file.Write(content)
	}
	return err
}
