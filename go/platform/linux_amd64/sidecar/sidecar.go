// Package sidecar brings the `machnet` command for Linux on x86-64 processors, with glibc 2.28 or newer. Only the command
// github.com/machnet/machnet/go/cmd/machnet imports it: a program that sends messages does not grow by the sidecar.
package sidecar

import _ "embed" // For the line below.

// Binary is the executable file.
//
//go:embed machnet
var Binary string
