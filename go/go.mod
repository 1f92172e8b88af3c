module github.com/machnet/machnet/go

go 1.24
