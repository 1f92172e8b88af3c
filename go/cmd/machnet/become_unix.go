//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// become runs the file in this process's place.
func become(path string, arguments []string) error {
	err := syscall.Exec(path, arguments, os.Environ())
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("cannot start %s: %w; if nothing may be started from there, name another folder with XDG_CACHE_HOME", path, err)
	}
	return fmt.Errorf("cannot start %s: %w", path, err)
}
