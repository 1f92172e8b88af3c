package machnet_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	machnet "github.com/machnet/machnet/go"
	"github.com/machnet/machnet/go/internal/sidecar"
)

// Two hosts of the tests: the sidecars that all of them use but those that end one.
var near, far *sidecar.Sidecar

func TestMain(m *testing.M) {
	// Pdeathsig is sent when the thread that started the sidecar ends, so that thread is kept.
	runtime.LockOSThread()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	port, err := sidecar.FreePort()
	if err == nil {
		near, err = sidecar.Start("127.0.0.1", port)
	}
	if err == nil {
		defer near.Stop()
		far, err = sidecar.Start("127.0.0.2", port)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot start %s: %v\n", sidecar.Binary(), err)
		return 1
	}
	defer far.Stop()
	os.Setenv("MACHNET_SOCKET", near.Socket)
	return m.Run()
}

// patience is a context that ends only for what hangs.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func attach(t testing.TB, to *sidecar.Sidecar, choices ...machnet.Option) *machnet.Channel {
	t.Helper()
	ch, err := machnet.Attach(patience(t), append(choices, machnet.WithSocket(to.Socket))...)
	must(t, err)
	t.Cleanup(func() { ch.Close() })
	return ch
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func listen(t testing.TB, ch *machnet.Channel) *machnet.Listener {
	t.Helper()
	listener, err := ch.Listen(patience(t), ":0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// flows makes a flow between two channels.
func flows(t testing.TB, client, server *machnet.Channel) (*machnet.Flow, *machnet.Flow) {
	t.Helper()
	listener := listen(t, server)
	defer listener.Close()
	a, err := client.Connect(patience(t), listener.Addr().String())
	must(t, err)
	b, err := listener.AcceptFlow(patience(t))
	must(t, err)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// conns makes a connection between two channels.
func conns(t testing.TB, client, server *machnet.Channel) (*machnet.Conn, *machnet.Conn) {
	t.Helper()
	listener := listen(t, server)
	defer listener.Close()
	a, err := client.Dial(patience(t), listener.Addr().String())
	must(t, err)
	b, err := listener.AcceptConn(patience(t))
	must(t, err)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// echo sends back what comes until the flow ends.
func echo(ctx context.Context, flow *machnet.Flow) error {
	for {
		message, err := flow.RecvLoan(ctx)
		if err != nil {
			return err
		}
		err = flow.Send(ctx, message.Bytes())
		message.Release()
		if err != nil {
			return err
		}
	}
}

// pattern is a message that tells its number and length.
func pattern(number, length int) []byte {
	message := make([]byte, length)
	for i := range message {
		message[i] = byte(number + i*7 + i>>8)
	}
	return message
}

// deadline is that of patience.
func deadline(t testing.TB) time.Time {
	at, _ := patience(t).Deadline()
	return at
}
