package machnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	machnet "github.com/machnet/machnet/go"
	"github.com/machnet/machnet/go/internal/sidecar"
)

func TestACloseInOrderComesBehindTheMessages(t *testing.T) {
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	must(t, client.Send(ctx, []byte("last")))
	must(t, client.CloseWait(ctx))
	if err := client.Send(ctx, []byte("more")); !errors.Is(err, net.ErrClosed) || !errors.Is(err, machnet.ErrClosed) {
		t.Errorf("a send after close: %v", err)
	}
	if err := client.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second close: %v", err)
	}
	message, err := server.Recv(ctx)
	must(t, err)
	if string(message) != "last" {
		t.Errorf("got %q", message)
	}
	if _, err := server.Recv(ctx); !errors.Is(err, machnet.ErrClosed) || !errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		t.Errorf("behind the last message: %v", err)
	}
}

func TestAResetTellsItsReason(t *testing.T) {
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	received := make(chan error, 1)
	go func() {
		_, err := server.Recv(ctx)
		received <- err
	}()
	must(t, client.Reset())
	err := <-received
	if !errors.Is(err, machnet.ErrReset) || !errors.Is(err, syscall.EPIPE) || !strings.Contains(err.Error(), "the peer aborted the flow") {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsTheWaitsOfThisSide(t *testing.T) {
	ctx := patience(t)
	channel := attach(t, near)
	client, _ := flows(t, channel, attach(t, far))
	listener := listen(t, channel)
	ended := make(chan error, 4)
	receive := func() {
		_, err := client.Recv(ctx)
		ended <- err
	}
	go receive()
	go receive() // Queues behind the other.
	go func() {
		_, err := listener.Accept()
		ended <- err
	}()
	must(t, client.Close())
	must(t, listener.Close())
	for range 3 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	other, _ := flows(t, channel, attach(t, far))
	go func() {
		_, err := other.Recv(ctx)
		ended <- err
	}()
	must(t, channel.Close())
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := channel.Connect(ctx, "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connect on a closed channel: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	ctx := patience(t)
	_, err := machnet.Dial(ctx, far.Address+":4711")
	if !errors.Is(err, machnet.ErrRefused) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "no listener on port 4711") {
		t.Errorf("got %v", err)
	}
	if machnet.ErrRefused.Name() != "Refused" || machnet.Code(12345).Name() != "Unknown" {
		t.Error("the names of codes")
	}
	for _, address := range []string{"nothing", "127.0.0.1:x", "127.0.0.1:70000"} {
		if _, err := machnet.Dial(ctx, address); !errors.Is(err, machnet.ErrInvalidArgument) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestAConnectWithoutAnAnswerEndsWithItsContext(t *testing.T) {
	brief, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := attach(t, near).Dial(brief, "127.0.0.3:1")
	var failure net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &failure) || !failure.Timeout() {
		t.Errorf("got %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := attach(t, near).Dial(cancelled, "127.0.0.3:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWaitsEndWithTheirTime(t *testing.T) {
	channel := attach(t, near)
	client, _ := flows(t, channel, attach(t, far))
	brief, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := client.Recv(brief)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, machnet.ErrTimedOut) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	listener := listen(t, channel)
	must(t, listener.SetDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, listener.SetDeadline(time.Time{}))
	a, b := conns(t, channel, channel)
	must(t, a.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := a.RecvMsg(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, a.SendMsg([]byte("x")))
	must(t, a.SetReadDeadline(time.Time{}))
	flow, err := b.Flow()
	must(t, err)
	got, err := flow.Recv(patience(t))
	must(t, err)
	must(t, flow.Send(patience(t), got))
	length, err := a.RecvMsg(make([]byte, 10))
	must(t, err)
	if length != 1 {
		t.Errorf("%d bytes", length)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, machnet.ErrWrongMode) {
		t.Errorf("a read of messages: %v", err)
	}
}

func TestNoSidecarIsSaidWithWhatHelps(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "machnet.sock")
	_, err := machnet.Attach(patience(t), machnet.WithSocket(nowhere))
	if !errors.Is(err, machnet.ErrNoSidecar) || !strings.Contains(err.Error(), "no sidecar at "+nowhere+"; start one with `machnet up`") {
		t.Errorf("got %v", err)
	}
}

// A sidecar that is killed ends every wait, at once, and a new one can be attached to.
func TestEngineLost(t *testing.T) {
	port, err := sidecar.FreePort()
	must(t, err)
	mortal, err := sidecar.Start("127.0.0.1", port)
	must(t, err)
	ctx := patience(t)
	channel := attach(t, mortal)
	client, server := flows(t, channel, channel)
	conn, _ := conns(t, channel, channel)
	listener := listen(t, channel)
	must(t, client.Send(ctx, []byte("before")))
	must(t, client.Send(ctx, []byte("and after")))
	first, err := server.Recv(ctx)
	must(t, err)
	ended := make(chan error, 4)
	go func() {
		_, err := client.Recv(ctx)
		ended <- err
	}()
	go func() {
		_, err := listener.Accept()
		ended <- err
	}()
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	mortal.Kill()
	for range 3 {
		if err := <-ended; !errors.Is(err, machnet.ErrEngineLost) || !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("got %v", err)
		}
	}
	select {
	case <-channel.Lost():
	case <-ctx.Done():
		t.Fatal("nobody was told")
	}
	if err := client.Send(ctx, first); !errors.Is(err, machnet.ErrEngineLost) {
		t.Errorf("got %v", err)
	}
	if _, err := channel.Connect(ctx, "127.0.0.1:1"); !errors.Is(err, machnet.ErrEngineLost) {
		t.Errorf("got %v", err)
	}
	again, err := sidecar.Start("127.0.0.1", port)
	must(t, err)
	defer again.Stop()
	flows(t, attach(t, again), attach(t, again))
}

// An idle channel is told, too.
func TestAnIdleChannelHearsThatItsSidecarIsGone(t *testing.T) {
	port, err := sidecar.FreePort()
	must(t, err)
	mortal, err := sidecar.Start("127.0.0.1", port)
	must(t, err)
	channel := attach(t, mortal)
	mortal.Kill()
	select {
	case <-channel.Lost():
	case <-patience(t).Done():
		t.Fatal("nobody was told")
	}
}
