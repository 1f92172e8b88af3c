// Echo is a server that sends back what comes, and a client that asks it and says how long the answers took.
//
//	echo server :7000
//	echo client 10.0.0.5:7000
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	machnet "github.com/machnet/machnet/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "server":
		err = serve(ctx, os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "client":
		err = ask(ctx, os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: echo server ADDRESS | echo client ADDRESS")
		os.Exit(2)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address string) error {
	listener, err := machnet.Listen(ctx, address)
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Println("listening on", listener.Addr())
	for {
		flow, err := listener.AcceptFlow(ctx)
		if err != nil {
			return err
		}
		go func() {
			defer flow.Close()
			for {
				message, err := flow.RecvLoan(ctx)
				if err != nil {
					return // The end of the flow, in order or not: its client knows.
				}
				err = flow.Send(ctx, message.Bytes())
				message.Release()
				if err != nil {
					return
				}
			}
		}()
	}
}

// rounds is how many questions the client asks.
const rounds = 1000

func ask(ctx context.Context, address string) error {
	client, err := machnet.Dial(ctx, address)
	if err != nil {
		return err
	}
	defer client.Close()
	flow, err := client.Flow()
	if err != nil {
		return err
	}
	question, answer := bytes.Repeat([]byte("x"), 64), make([]byte, 64)
	times := make([]time.Duration, 0, rounds)
	for range rounds {
		before := time.Now()
		if err := flow.Send(ctx, question); err != nil {
			return err
		}
		length, err := flow.RecvInto(ctx, answer)
		if err != nil {
			return err
		}
		if !bytes.Equal(answer[:length], question) {
			return errors.New("another answer came")
		}
		times = append(times, time.Since(before))
	}
	slices.Sort(times)
	fmt.Printf("%d answers of 64 B; half of them within %v, 99 of 100 within %v\n", rounds, times[rounds/2], times[rounds*99/100])
	return nil
}
