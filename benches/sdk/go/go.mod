module github.com/machnet/machnet/benches/sdk/go

go 1.24

require (
	github.com/machnet/machnet/go v0.0.0
	github.com/machnet/machnet/go/platform/linux_amd64 v0.1.0 // indirect
	github.com/machnet/machnet/go/platform/linux_arm64 v0.1.0 // indirect
)

replace github.com/machnet/machnet/go => ../../../go

replace github.com/machnet/machnet/go/platform/linux_amd64 => ../../../go/platform/linux_amd64

replace github.com/machnet/machnet/go/platform/linux_arm64 => ../../../go/platform/linux_arm64
