package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	machnet "github.com/machnet/machnet/go"
)

const piece = 64 * 1024

// A connection is a stream from its first read or write on, so that only its name changes.
func (a *agent) stream(_ context.Context, c *command) (answer, error) {
	conn, ok := a.take(c.Flow).(*machnet.Conn)
	if !ok {
		return nil, fault("no flow %q", c.Flow)
	}
	a.put(c.As, conn)
	return nil, nil
}

// once makes one call with a deadline, as users of package net do; a cancelled task is a deadline that has passed.
func once(ctx context.Context, c *command, set func(time.Time) error, call func() (int, error)) (int, error) {
	deadline := time.Time{}
	if c.TimeoutMS != nil {
		deadline = time.Now().Add(time.Duration(*c.TimeoutMS) * time.Millisecond)
	}
	if err := set(deadline); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = set(time.Unix(1, 0)) })
	defer stop()
	count, err := call()
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = ctx.Err()
	}
	return count, err
}

func (a *agent) write(ctx context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Stream)
	if err != nil {
		return nil, err
	}
	rest, written := content(c.seed(), c.Length), 0
	for len(rest) > 0 && err == nil {
		next := rest
		if c.Chunk > 0 {
			next = rest[:min(c.Chunk, len(rest))]
		}
		var count int
		count, err = once(ctx, c, conn.SetWriteDeadline, func() (int, error) { return conn.Write(next) })
		rest, written = rest[count:], written+count
	}
	return answer{"written": written}, err
}

func (a *agent) read(ctx context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Stream)
	if err != nil {
		return nil, err
	}
	buffer, length := make([]byte, c.Length), 0
	for length < c.Length && err == nil {
		var count int
		count, err = once(ctx, c, conn.SetReadDeadline, func() (int, error) { return conn.Read(buffer[length:]) })
		length += count
	}
	if err != nil && err != io.EOF {
		return answer{"length": length}, err
	}
	return answer{"length": length, "ok": isContent(buffer[:length], c.seed(), c.Offset), "end": err == io.EOF}, nil
}

func (a *agent) end(_ context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Stream)
	if err != nil {
		return nil, err
	}
	return nil, conn.CloseWrite()
}

func (a *agent) streamEcho(ctx context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Stream)
	if err != nil {
		return nil, err
	}
	buffer, bytes := make([]byte, piece), 0
	for {
		count, err := once(ctx, c, conn.SetReadDeadline, func() (int, error) { return conn.Read(buffer) })
		if err == io.EOF {
			return answer{"bytes": bytes}, conn.CloseWrite()
		}
		if err == nil {
			_, err = once(ctx, c, conn.SetWriteDeadline, func() (int, error) { return conn.Write(buffer[:count]) })
		}
		if err != nil {
			return answer{"bytes": bytes}, err
		}
		bytes += count
	}
}
