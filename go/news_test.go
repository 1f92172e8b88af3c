package machnet_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	machnet "github.com/machnet/machnet/go"
)

// A ring costs tries for the flow that it rings for, and none for those that wait in vain.
func TestIdleFlowsCostNoTries(t *testing.T) {
	const idle, rounds = 1000, 500
	client := attach(t, near, machnet.WithMaxFlows(2048))
	server := attach(t, far, machnet.WithMaxFlows(2048))
	listener := listen(t, server)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	for range idle {
		flow, err := client.Connect(patience(t), listener.Addr().String())
		must(t, err)
		defer flow.Close()
		other, err := listener.AcceptFlow(patience(t))
		must(t, err)
		defer other.Close()
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := flow.Recv(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
	}
	for client.Waiting() < idle {
		runtime.Gosched()
	}
	ours, theirs := flows(t, client, server)
	before := client.Tries()
	message := make([]byte, 8)
	for range rounds {
		must(t, ours.Send(patience(t), []byte("question")))
		_, err := theirs.RecvInto(patience(t), message)
		must(t, err)
		must(t, theirs.Send(patience(t), []byte("answer")))
		_, err = ours.RecvInto(patience(t), message)
		must(t, err)
	}
	if tries := client.Tries() - before; tries > 2*rounds {
		t.Errorf("%d tries for %d messages beside %d idle flows", tries, rounds, idle)
	} else {
		t.Logf("%d tries for %d messages beside %d idle flows", tries, rounds, idle)
	}
	cancel()
	group.Wait()
	if left := client.Waiting(); left != 0 {
		t.Errorf("%d calls are counted as waiting, and none is", left)
	}
}

// Room that this program gives back itself rings no bell, and wakes a call that waits for it all the same.
func TestADroppedLoanWakesASend(t *testing.T) {
	client, server := attach(t, near, machnet.WithSizes(machnet.SizesSmall)), attach(t, near)
	hoarder, _ := flows(t, client, server)
	other, _ := flows(t, client, server)
	var loans []*machnet.Loan
	for {
		loan, err := hoarder.TryLend(2048)
		if errors.Is(err, machnet.ErrWouldBlock) {
			break
		}
		must(t, err)
		loans = append(loans, loan)
	}
	large := make([]byte, 35*2048)
	sent := make(chan error, 1)
	go func() { sent <- other.Send(patience(t), large) }()
	for client.Waiting() == 0 && len(sent) == 0 {
		runtime.Gosched()
	}
	for _, loan := range loans {
		loan.Drop()
	}
	must(t, <-sent)
}
