// Package linux_amd64 brings Machnet's library for Linux on x86-64 processors, with glibc 2.28 or newer. It has nothing to call: package
// machnet imports it on that platform, so that the linker finds the library.
//
// It is a module of its own, so that a program downloads the library of its own platform only.
package linux_amd64
