//go:build !machnet_pkgconfig

package bundled

import "github.com/machnet/machnet/go/platform/linux_arm64/sidecar"

// Binary is the sidecar for this platform; empty if there is none.
func Binary() string { return sidecar.Binary }
