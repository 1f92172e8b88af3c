//go:build cgo && !machnet_pkgconfig

package machnet

import _ "github.com/machnet/machnet/go/platform/linux_arm64" // The library that native.go calls.
