// Package sidecar starts sidecars for tests: the `machnet` binary of $MACHNET, else of the repository's target/release.
package sidecar

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience is far more than a sidecar needs to start: only one that hangs takes so long.
const patience = 30 * time.Second

// Sidecar is a process that a test has started.
type Sidecar struct {
	// Socket is the path to attach to.
	Socket string
	// Address is the sidecar's IP address.
	Address string

	command *exec.Cmd
	folder  string
}

// Binary is the path of the `machnet` command.
func Binary() string {
	if path := os.Getenv("MACHNET"); path != "" {
		return path
	}
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../../target/release/machnet")
}

// FreePort is a UDP port that nobody uses at the moment.
func FreePort() (int, error) {
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer socket.Close()
	return socket.LocalAddr().(*net.UDPAddr).Port, nil
}

// Start starts a sidecar at a loopback address, and waits until it is up.
func Start(address string, udpPort int, more ...string) (*Sidecar, error) {
	folder, err := os.MkdirTemp("", "machnet-go")
	if err != nil {
		return nil, err
	}
	s := &Sidecar{Socket: filepath.Join(folder, "machnet.sock"), Address: address, folder: folder}
	arguments := append([]string{
		"up", "--no-config", "--socket", s.Socket, "--address", address, "--udp-port", fmt.Sprint(udpPort), "--log-level", "warn",
	}, more...)
	s.command = exec.Command(Binary(), arguments...)
	s.command.Stderr = os.Stderr
	// A test that dies takes its sidecars with it.
	s.command.SysProcAttr = endsWithParent()
	output, err := s.command.StdoutPipe()
	if err == nil {
		err = s.command.Start()
	}
	if err != nil {
		os.RemoveAll(folder)
		return nil, err
	}
	up := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "machnet is up:") {
				up <- true
			}
		}
		close(up)
	}()
	select {
	case started := <-up:
		if started {
			return s, nil
		}
	case <-time.After(patience):
	}
	s.Kill()
	return nil, errors.New("the sidecar did not start")
}

// Kill ends it as a crash would.
func (s *Sidecar) Kill() { s.end(syscall.SIGKILL) }

// Stop ends it in order.
func (s *Sidecar) Stop() { s.end(syscall.SIGTERM) }

func (s *Sidecar) end(signal syscall.Signal) {
	s.command.Process.Signal(signal)
	s.command.Wait()
	os.RemoveAll(s.folder)
}
