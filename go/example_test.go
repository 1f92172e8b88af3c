package machnet_test

import (
	"context"
	"fmt"
	"io"

	machnet "github.com/machnet/machnet/go"
)

// The ten lines of README.md, in which the sidecar's address is 127.0.0.1.
func Example() {
	ctx := context.Background()
	listener, _ := machnet.Listen(ctx, ":7000")
	go func() {
		server, _ := listener.Accept() // A net.Conn.
		io.Copy(server, server)
		server.Close()
	}()
	client, err := machnet.Dial(ctx, "127.0.0.1:7000")
	fmt.Fprintf(client, "hello")
	client.CloseWrite()
	answer, _ := io.ReadAll(client)
	fmt.Println(string(answer), err)
	// Output: hello <nil>
}

// Whole messages, without a stream around them.
func ExampleConn_SendMsg() {
	ctx := context.Background()
	listener, err := machnet.Listen(ctx, ":7001")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()
	go func() {
		server, err := listener.AcceptFlow(ctx)
		if err != nil {
			return
		}
		defer server.Close()
		question, err := server.Recv(ctx)
		if err == nil {
			server.Send(ctx, append(question, '!'))
			server.Recv(ctx) // Until the client closes.
		}
	}()
	client, err := machnet.Dial(ctx, "127.0.0.1:7001")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	if err := client.SendMsg([]byte("hello")); err != nil {
		fmt.Println(err)
	}
	answer := make([]byte, 100)
	length, err := client.RecvMsg(answer)
	fmt.Println(string(answer[:length]), err)
	// Output: hello! <nil>
}
