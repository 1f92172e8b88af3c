// Freeport prints a UDP port that nobody uses at the moment.
package main

import (
	"fmt"
	"os"

	"github.com/machnet/machnet/go/internal/sidecar"
)

func main() {
	port, err := sidecar.FreePort()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(port)
}
