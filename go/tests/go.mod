module github.com/machnet/machnet/go/tests

go 1.25.0

require (
	github.com/machnet/machnet/go v0.0.0
	golang.org/x/net v0.50.0
)

require (
	github.com/machnet/machnet/go/platform/linux_amd64 v0.1.0 // indirect
	github.com/machnet/machnet/go/platform/linux_arm64 v0.1.0 // indirect
)

replace github.com/machnet/machnet/go => ../

replace github.com/machnet/machnet/go/platform/linux_amd64 => ../platform/linux_amd64

replace github.com/machnet/machnet/go/platform/linux_arm64 => ../platform/linux_arm64
