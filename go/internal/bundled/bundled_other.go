//go:build !linux || (!amd64 && !arm64) || machnet_pkgconfig

package bundled

// Binary is the sidecar for this platform; empty if there is none.
func Binary() string { return "" }
