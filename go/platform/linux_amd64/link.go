//go:build linux && amd64

package linux_amd64

// #cgo LDFLAGS: ${SRCDIR}/libmachnet.a -lpthread -ldl -lm
import "C"
