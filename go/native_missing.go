//go:build !linux || !cgo || (!amd64 && !arm64 && !machnet_pkgconfig)

package machnet

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"
)

// A program of another platform compiles with this package, and learns at Attach what is possible there. All else here is never
// called, because there is no channel to call it on.

// supported tells whether programs of this platform can attach to a sidecar.
const supported = false

// result is what a call of the C library would answer.
type result struct {
	code   Code
	count  int
	handle unsafe.Pointer
	text   string
}

func missing() result {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	switch {
	case runtime.GOOS != "linux":
		return result{code: ErrNoSidecar, text: fmt.Sprintf("Machnet runs on Linux, and this program was built for %s: it compiles there, "+
			"but there is no sidecar to attach to; build it with GOOS=linux and run it in a Linux container or virtual machine", platform)}
	case runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64":
		return result{code: ErrNoSidecar, text: fmt.Sprintf("this package brings no library for %s; install one from the sources "+
			"(make build && make install) and build with CGO_ENABLED=1 and -tags machnet_pkgconfig", platform)}
	default:
		return result{code: ErrNoSidecar, text: "this program was built without cgo, by which Go calls Machnet's library; " +
			"build it with CGO_ENABLED=1 and a C compiler"}
	}
}

func engineNumber(string) result { return missing() }

func attach(*options) result { return missing() }

func libraryVersion() string { return "none" }

func nameOf(code Code) string {
	if name, ok := codeNames[code]; ok {
		return name
	}
	return "Unknown"
}

func textOf(code Code) string { return nameOf(code) }

// errnoOf knows what can fail without a sidecar.
func errnoOf(code Code) int {
	switch code {
	case ErrNoSidecar:
		return int(syscall.ENOENT)
	case ErrTimedOut:
		return int(syscall.ETIMEDOUT)
	case ErrCancelled:
		return int(syscall.ECANCELED)
	case ErrInvalidArgument:
		return int(syscall.EINVAL)
	}
	return int(syscall.EIO)
}

func duplicate(uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

func yieldProcessor() {}

func look(uintptr) (readable, gone bool) { return false, true }

const batchMost = 256

const newsToReceive, newsToSend = 1, 2

func channelShutdown(unsafe.Pointer) result { return missing() }

func channelFree(unsafe.Pointer) {}

func eventFD(unsafe.Pointer) result { return missing() }

func channelInfo(unsafe.Pointer) (Info, result) { return Info{}, missing() }

func listen(unsafe.Pointer, netip.AddrPort, int) result { return missing() }

func listenerAddress(unsafe.Pointer) netip.AddrPort { return netip.AddrPort{} }

func tryAccept(unsafe.Pointer) result { return missing() }

func listenerShutdown(unsafe.Pointer) {}

func listenerFree(unsafe.Pointer) {}

func startConnect(unsafe.Pointer, []byte, uint16, int32) result { return missing() }

func tryFinish(unsafe.Pointer) result { return missing() }

func pendingFree(unsafe.Pointer) {}

func flowAddresses(unsafe.Pointer) (local, peer netip.AddrPort) { return local, peer }

func flowMaxMessage(unsafe.Pointer) int { return 0 }

func flowUnacknowledged(unsafe.Pointer) int { return 0 }

func trySend(unsafe.Pointer, []byte) result { return missing() }

func trySendMany(unsafe.Pointer, [][]byte) result { return missing() }

func tryRecv(unsafe.Pointer, []byte) result { return missing() }

func tryRecvLoan(unsafe.Pointer) result { return missing() }

func tryRecvMany(unsafe.Pointer, []unsafe.Pointer) result { return missing() }

func messageBytes(unsafe.Pointer) []byte { return nil }

func messageFree(unsafe.Pointer) {}

func tryLend(unsafe.Pointer, int) result { return missing() }

func loanBytes(unsafe.Pointer, int) []byte { return nil }

func loanSend(unsafe.Pointer) result { return missing() }

func loanFree(unsafe.Pointer) {}

func flowReset(unsafe.Pointer) result { return missing() }

func flowFree(unsafe.Pointer) {}

func cancelNew(unsafe.Pointer) result { return missing() }

func cancelTrigger(unsafe.Pointer) {}

func cancelFree(unsafe.Pointer) {}

func flowShutdownWait(unsafe.Pointer, int32, unsafe.Pointer) result { return missing() }

func flowStats(unsafe.Pointer) (Stats, result) { return Stats{}, missing() }

func streamOpen(unsafe.Pointer) result { return missing() }

func streamTryRead(unsafe.Pointer, []byte) result { return missing() }

func streamTryWrite(unsafe.Pointer, []byte) result { return missing() }

func streamTryEnd(unsafe.Pointer) result { return missing() }

func streamReset(unsafe.Pointer) result { return missing() }

func streamFree(unsafe.Pointer) {}

func streamStats(unsafe.Pointer) (Stats, result) { return Stats{}, missing() }

func takeNews(unsafe.Pointer, *[newsMost]news) result { return missing() }

func flowSetToken(unsafe.Pointer, uint64) {}

func listenerSetToken(unsafe.Pointer, uint64) {}

func pendingSetToken(unsafe.Pointer, uint64) {}
