module github.com/machnet/machnet/benches/sdk/go

go 1.24

require github.com/machnet/machnet/go v0.0.0

replace github.com/machnet/machnet/go => ../../../go
