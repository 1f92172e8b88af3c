module github.com/machnet/machnet/go/platform/linux_amd64

go 1.24
