//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// become runs the file in this process's place.
func become(path string, arguments []string) error {
	return fmt.Errorf("cannot start %s: %w", path, syscall.Exec(path, arguments, os.Environ()))
}
