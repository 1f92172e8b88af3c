package machnet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	machnet "github.com/machnet/machnet/go"
)

func TestEchoOfEverySizeThroughTwoSidecarsAndThroughOne(t *testing.T) {
	for name, host := range map[string]*machnet.Channel{"udp": attach(t, far), "same host": attach(t, near)} {
		t.Run(name, func(t *testing.T) {
			client, server := flows(t, attach(t, near), host)
			ctx := patience(t)
			go echo(ctx, server)
			for number, length := range []int{1, 2, 64, 1000, 1400, 65_535, 65_536, 1 << 20, machnet.MaxMessage} {
				want := pattern(number, length)
				must(t, client.Send(ctx, want))
				got, err := client.Recv(ctx)
				must(t, err)
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes came back as %d others", length, len(got))
				}
			}
			if client.MaxMessage() != machnet.MaxMessage {
				t.Errorf("the flow takes %d bytes", client.MaxMessage())
			}
		})
	}
}

func TestBatchesKeepTheOrder(t *testing.T) {
	const count = 20_000
	client, server := flows(t, attach(t, near), attach(t, far))
	ctx := patience(t)
	go func() {
		batch := make([][]byte, 0, 600)
		for number := range count {
			batch = append(batch, binary.LittleEndian.AppendUint32(nil, uint32(number)))
			if len(batch) == cap(batch) || number == count-1 {
				if sent, err := client.SendMany(ctx, batch); err != nil || sent != len(batch) {
					t.Errorf("sent %d: %v", sent, err)
					return
				}
				batch = batch[:0]
			}
		}
	}()
	for next := 0; next < count; {
		messages, err := server.RecvMany(ctx, 1000)
		must(t, err)
		for _, message := range messages {
			if got := int(binary.LittleEndian.Uint32(message.Bytes())); got != next || message.Len() != 4 {
				t.Fatalf("got %d in place of %d", got, next)
			}
			message.Release()
			next++
		}
	}
}

func TestManyFlowsInManyGoroutines(t *testing.T) {
	const (
		flowCount = 64
		rounds    = 200
	)
	client, server := attach(t, near), attach(t, far)
	listener := listen(t, server)
	ctx := patience(t)
	go func() {
		for {
			flow, err := listener.AcceptFlow(ctx)
			if err != nil {
				return
			}
			go echo(ctx, flow)
		}
	}()
	var group sync.WaitGroup
	for number := range flowCount {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := echoRounds(ctx, client, listener.Addr().String(), number, rounds); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
}

func echoRounds(ctx context.Context, client *machnet.Channel, address string, number, rounds int) error {
	flow, err := client.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer flow.Close()
	buffer := make([]byte, 4096)
	for round := range rounds {
		want := pattern(number*1000+round, 1+(number*37+round*11)%3000)
		if err := flow.Send(ctx, want); err != nil {
			return err
		}
		length, err := flow.RecvInto(ctx, buffer)
		if err != nil {
			return err
		}
		if !bytes.Equal(buffer[:length], want) {
			return fmt.Errorf("flow %d, round %d: another message came back", number, round)
		}
	}
	return nil
}

// Neither a flow that nobody reads nor its sender, who waits for credit, keeps the others of the channel from working.
func TestAFlowThatNobodyReadsHoldsUpNobodyElse(t *testing.T) {
	ctx := patience(t)
	client, server := attach(t, near), attach(t, far)
	unread, _ := flows(t, client, server)
	stuck, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		for {
			if err := unread.Send(stuck, make([]byte, 10_000)); err != nil {
				ended <- err
				return
			}
		}
	}()
	// The flow is full: nothing can be sent without waiting.
	for unread.TrySend([]byte{1}) == nil {
	}
	listener := listen(t, server)
	go func() {
		flow, err := listener.AcceptFlow(ctx)
		if err == nil {
			echo(ctx, flow)
		}
	}()
	must(t, echoRounds(ctx, client, listener.Addr().String(), 1, 500))
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, machnet.ErrCancelled) {
		t.Errorf("the sender ended with %v", err)
	}
}

func TestAThousandReceivesThatWaitHoldFewThreads(t *testing.T) {
	client, server := attach(t, near), attach(t, near)
	listener, err := server.ListenBacklog(patience(t), ":0", 1000)
	must(t, err)
	ctx := patience(t)
	const count = 1000
	received := make(chan error, count)
	var senders []*machnet.Flow
	for range count {
		flow, err := client.Connect(ctx, listener.Addr().String())
		must(t, err)
		defer flow.Close()
		peer, err := listener.AcceptFlow(ctx)
		must(t, err)
		defer peer.Close()
		senders = append(senders, peer)
		go func() {
			_, err := flow.Recv(ctx)
			received <- err
		}()
	}
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	if len(threads) > 100 {
		t.Errorf("%d threads", len(threads))
	}
	for _, sender := range senders {
		must(t, sender.Send(ctx, []byte("done")))
	}
	for range count {
		must(t, <-received)
	}
}

func TestLoans(t *testing.T) {
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	loan, err := client.Lend(ctx, 5000)
	must(t, err)
	want := pattern(3, 5000)
	copy(loan.Bytes(), want)
	must(t, loan.Send())
	if err := loan.Send(); !errors.Is(err, machnet.ErrInvalidArgument) || loan.Bytes() != nil {
		t.Errorf("a loan was sent twice: %v", err)
	}
	dropped, err := client.Lend(ctx, 10)
	must(t, err)
	dropped.Drop()
	dropped.Drop()
	message, err := server.RecvLoan(ctx)
	must(t, err)
	if !bytes.Equal(message.Bytes(), want) {
		t.Error("another message came")
	}
	// What is lent stays valid behind the end of flow and channel.
	server.Close()
	server.Channel().Close()
	if !bytes.Equal(message.Bytes(), want) {
		t.Error("the message changed")
	}
	message.Release()
	message.Release()
	if message.Bytes() != nil {
		t.Error("a released message has bytes")
	}
}

func TestWhatDoesNotFitTheBufferStays(t *testing.T) {
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	must(t, client.Send(ctx, pattern(1, 300)))
	_, err := server.RecvInto(ctx, make([]byte, 299))
	var failure *machnet.Error
	if !errors.As(err, &failure) || failure.Code != machnet.ErrBufferTooSmall || failure.Needed != 300 {
		t.Fatalf("got %v", err)
	}
	length, err := server.RecvInto(ctx, make([]byte, failure.Needed))
	must(t, err)
	if length != 300 {
		t.Errorf("%d bytes", length)
	}
	if err := client.Send(ctx, nil); !errors.Is(err, machnet.ErrEmptyMessage) {
		t.Errorf("an empty message: %v", err)
	}
	if err := client.Send(ctx, make([]byte, machnet.MaxMessage+1)); !errors.Is(err, machnet.ErrMessageTooLarge) {
		t.Errorf("a large message: %v", err)
	}
	if _, err := server.TryRecvInto(make([]byte, 1)); !errors.Is(err, machnet.ErrWouldBlock) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := server.TryRecvLoan(); !errors.Is(err, machnet.ErrWouldBlock) {
		t.Errorf("nothing there: %v", err)
	}
}

func TestStatsCount(t *testing.T) {
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	go echo(ctx, server)
	for range 10 {
		must(t, client.Send(ctx, pattern(0, 100)))
		_, err := client.Recv(ctx)
		must(t, err)
	}
	stats, err := client.Stats(ctx)
	must(t, err)
	if stats.MessagesSent != 10 || stats.BytesSent != 1000 || stats.MessagesReceived != 10 || stats.Local || stats.SmoothedRTT <= 0 {
		t.Errorf("%+v", stats)
	}
	info := client.Channel().Info()
	if info.Local.String() != near.Address || info.SidecarPID == 0 || info.MaxFlows == 0 {
		t.Errorf("%+v", info)
	}
}

// Receives that are cancelled all the time lose no message and return none twice.
func TestACancelStormLosesNothing(t *testing.T) {
	const count = 100_000
	ctx := patience(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	go func() {
		message := make([]byte, 4)
		for number := range count {
			binary.LittleEndian.PutUint32(message, uint32(number))
			if err := client.Send(ctx, message); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	buffer := make([]byte, 4)
	cancelled := 0
	for next := 0; next < count || cancelled < count; {
		brief, cancel := context.WithCancel(ctx)
		go cancel()
		length, err := server.RecvInto(brief, buffer)
		cancel()
		switch {
		case errors.Is(err, context.Canceled):
			cancelled++
		case err != nil:
			t.Fatal(err)
		default:
			if got := int(binary.LittleEndian.Uint32(buffer)); got != next || length != 4 {
				t.Fatalf("got %d in place of %d", got, next)
			}
			next++
		}
	}
}
