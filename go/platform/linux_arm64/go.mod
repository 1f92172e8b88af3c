module github.com/machnet/machnet/go/platform/linux_arm64

go 1.24
