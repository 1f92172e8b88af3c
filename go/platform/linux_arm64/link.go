//go:build linux && arm64

package linux_arm64

// #cgo LDFLAGS: ${SRCDIR}/libmachnet.a -lpthread -ldl -lm
import "C"
