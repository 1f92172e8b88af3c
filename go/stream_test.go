package machnet_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	machnet "github.com/machnet/machnet/go"
)

func TestAStreamCarriesEverythingBothWays(t *testing.T) {
	client, server := conns(t, attach(t, near), attach(t, far))
	go func() {
		io.Copy(server, server)
		server.CloseWrite()
	}()
	want := pattern(5, 8<<20)
	go func() {
		if _, err := client.Write(want); err != nil {
			t.Error(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	must(t, client.SetDeadline(deadline(t)))
	got, err := io.ReadAll(client)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back as %d others", len(want), len(got))
	}
	if _, err := client.Write([]byte("more")); !errors.Is(err, machnet.ErrClosed) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write behind the half-close: %v", err)
	}
	if err := client.SendMsg([]byte("message")); !errors.Is(err, machnet.ErrWrongMode) {
		t.Errorf("a message on a stream: %v", err)
	}
	stats, err := client.Stats(patience(t))
	if err == nil && stats.BytesSent < uint64(len(want)) || err != nil && !errors.Is(err, machnet.ErrUnknownFlow) {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestAStreamThatIsResetHasNoEnd(t *testing.T) {
	client, server := conns(t, attach(t, near), attach(t, far))
	_, err := server.Write([]byte("x"))
	must(t, err)
	must(t, client.SetDeadline(deadline(t)))
	_, err = io.ReadFull(client, make([]byte, 1))
	must(t, err)
	must(t, server.Reset())
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, machnet.ErrReset) {
		t.Errorf("got %v", err)
	}
}

func TestMessagesAreNoStream(t *testing.T) {
	client, server := conns(t, attach(t, near), attach(t, far))
	must(t, server.SendMsg([]byte("message")))
	must(t, client.SetDeadline(deadline(t)))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, machnet.ErrNotAStream) {
		t.Errorf("got %v", err)
	}
}

func TestAConnectionThatWasNeverUsedCloses(t *testing.T) {
	client, server := conns(t, attach(t, near), attach(t, far))
	if _, err := client.Stats(patience(t)); err != nil {
		t.Error(err)
	}
	must(t, client.Close())
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read after close: %v", err)
	}
	must(t, server.SetDeadline(deadline(t)))
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
	if client.LocalAddr().Network() != "machnet" || client.RemoteAddr().String() != server.LocalAddr().String() {
		t.Errorf("%v, %v", client.RemoteAddr(), server.LocalAddr())
	}
}
