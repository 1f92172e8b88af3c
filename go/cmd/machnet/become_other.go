//go:build !unix

package main

import "errors"

// become is never reached: where there is no sidecar, there is nothing to become.
func become(string, []string) error { return errors.ErrUnsupported }
