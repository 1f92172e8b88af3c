module github.com/machnet/machnet/go/tests

go 1.25.0

require (
	github.com/machnet/machnet/go v0.0.0
	golang.org/x/net v0.50.0
)

replace github.com/machnet/machnet/go => ../
