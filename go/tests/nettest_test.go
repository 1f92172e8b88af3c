// Package tests holds what needs a dependency, so that the library has none.
package tests

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"

	machnet "github.com/machnet/machnet/go"
	"github.com/machnet/machnet/go/internal/sidecar"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) {
	// The sidecars end with the thread that started them.
	runtime.LockOSThread()
	os.Exit(m.Run())
}

func TestConn(t *testing.T) {
	port, err := sidecar.FreePort()
	must(t, err)
	near, err := sidecar.Start("127.0.0.1", port)
	must(t, err)
	defer near.Stop()
	far, err := sidecar.Start("127.0.0.2", port)
	must(t, err)
	defer far.Stop()
	t.Run("UDP", func(t *testing.T) { nettest.TestConn(t, pipes(near, far)) })
	t.Run("SameHost", func(t *testing.T) { nettest.TestConn(t, pipes(near, near)) })
}

// pipes makes connections between programs of two hosts.
func pipes(client, server *sidecar.Sidecar) nettest.MakePipe {
	return func() (net.Conn, net.Conn, func(), error) {
		ctx := context.Background()
		one, err := machnet.Attach(ctx, machnet.WithSocket(client.Socket))
		if err != nil {
			return nil, nil, nil, err
		}
		other, err := machnet.Attach(ctx, machnet.WithSocket(server.Socket))
		if err != nil {
			return nil, nil, nil, err
		}
		listener, err := other.Listen(ctx, ":0")
		if err != nil {
			return nil, nil, nil, err
		}
		a, err := one.Dial(ctx, listener.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		b, err := listener.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		stop := func() {
			a.Close()
			b.Close()
			listener.Close()
			one.Close()
			other.Close()
		}
		return a, b, stop, nil
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
