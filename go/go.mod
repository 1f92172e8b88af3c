module github.com/machnet/machnet/go

go 1.24

require (
	github.com/machnet/machnet/go/platform/linux_amd64 v0.1.0
	github.com/machnet/machnet/go/platform/linux_arm64 v0.1.0
)
