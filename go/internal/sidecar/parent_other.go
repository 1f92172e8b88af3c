//go:build !linux

package sidecar

import "syscall"

// endsWithParent asks for nothing where no sidecar runs: the tests only compile there.
func endsWithParent() *syscall.SysProcAttr { return nil }
