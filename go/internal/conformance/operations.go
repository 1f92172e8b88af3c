package main

import (
	"context"
	"errors"
	"time"

	machnet "github.com/machnet/machnet/go"
)

var operations = map[string]func(*agent, context.Context, *command) (answer, error){
	"features": func(*agent, context.Context, *command) (answer, error) {
		lacks := answer{
			"fork":     "a Go program cannot fork: its runtime has threads",
			"event_fd": "Go's network poller itself watches the descriptor",
		}
		return answer{"agent": "go", "version": machnet.LibraryVersion(), "protocol": 1, "lacks": lacks}, nil
	},
	"attach": (*agent).attach, "listen": (*agent).listen, "connect": (*agent).connect, "accept": (*agent).accept,
	"try_accept": (*agent).tryAccept, "close": (*agent).close, "reset": (*agent).reset, "stats": (*agent).stats,
	"send": (*agent).send, "try_send": (*agent).trySend, "recv": (*agent).recv, "try_recv": (*agent).tryRecv,
	"release": (*agent).release, "send_series": (*agent).sendSeries, "recv_series": (*agent).recvSeries,
	"drain": (*agent).drain, "ping": (*agent).ping, "echo": (*agent).echo, "supply": (*agent).supply,
	"cancel_storm": (*agent).cancelStorm, "stream": (*agent).stream, "write": (*agent).write, "read": (*agent).read,
	"end": (*agent).end, "stream_echo": (*agent).streamEcho,
}

// handleOf is what a name stands for, if it is of this kind.
func handleOf[T any](a *agent, name string) (T, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	handle, ok := a.handles[name].(T)
	if !ok {
		return handle, fault("no handle %q of that kind", name)
	}
	return handle, nil
}

func (a *agent) put(name string, handle any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handles[name] = handle
}

func (a *agent) take(name string) any {
	a.mu.Lock()
	defer a.mu.Unlock()
	handle := a.handles[name]
	delete(a.handles, name)
	return handle
}

func (a *agent) flow(c *command) (*machnet.Flow, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Flow)
	if err != nil {
		return nil, err
	}
	return conn.Flow()
}

// ---- channels, listeners, connections

func (a *agent) attach(ctx context.Context, c *command) (answer, error) {
	options := []machnet.Option{machnet.WithSocket(c.Socket)}
	if c.Engine != nil {
		options = append(options, machnet.WithEngine(*c.Engine))
	}
	if c.Name != "" {
		options = append(options, machnet.WithName(c.Name))
	}
	if c.LingerMS != nil {
		options = append(options, machnet.WithLinger(time.Duration(*c.LingerMS)*time.Millisecond))
	}
	channel, err := machnet.Attach(ctx, options...)
	if err != nil {
		return nil, err
	}
	a.put(c.As, channel)
	info := channel.Info()
	return answer{"engine": info.Engine, "sidecar_pid": info.SidecarPID, "local": info.Local.String()}, nil
}

func (a *agent) listen(ctx context.Context, c *command) (answer, error) {
	channel, err := handleOf[*machnet.Channel](a, c.Channel)
	if err != nil {
		return nil, err
	}
	listener, err := channel.ListenBacklog(ctx, c.Address, c.Backlog)
	if err != nil {
		return nil, err
	}
	a.put(c.As, listener)
	return answer{"address": listener.Addr().String()}, nil
}

func (a *agent) connect(ctx context.Context, c *command) (answer, error) {
	channel, err := handleOf[*machnet.Channel](a, c.Channel)
	if err != nil {
		return nil, err
	}
	ctx, stop := c.waiting(ctx)
	defer stop()
	conn, err := channel.Dial(ctx, c.Address)
	return a.putConn(c, conn, err)
}

// The largest message is not told: to ask for it would decide that the connection is no stream.
func (a *agent) putConn(c *command, conn *machnet.Conn, err error) (answer, error) {
	if err != nil {
		return nil, err
	}
	a.put(c.As, conn)
	return answer{"local": conn.LocalAddr().String(), "peer": conn.RemoteAddr().String()}, nil
}

func (a *agent) accept(ctx context.Context, c *command) (answer, error) {
	listener, err := handleOf[*machnet.Listener](a, c.Listener)
	if err != nil {
		return nil, err
	}
	ctx, stop := c.waiting(ctx)
	defer stop()
	conn, err := listener.AcceptConn(ctx)
	return a.putConn(c, conn, err)
}

// Package net has no such call; a deadline that has passed is Go's way to say so.
func (a *agent) tryAccept(ctx context.Context, c *command) (answer, error) {
	listener, err := handleOf[*machnet.Listener](a, c.Listener)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	conn, err := listener.AcceptConn(ctx)
	if errors.Is(err, machnet.ErrTimedOut) {
		return nil, errNone
	}
	return a.putConn(c, conn, err)
}

func (a *agent) close(ctx context.Context, c *command) (answer, error) {
	if c.WaitMS != nil {
		flow, err := a.flow(&command{Flow: c.Handle})
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithTimeout(ctx, time.Duration(*c.WaitMS)*time.Millisecond)
		defer stop()
		return nil, flow.CloseWait(ctx)
	}
	handle, err := handleOf[interface{ Close() error }](a, c.Handle)
	if err != nil {
		return nil, err
	}
	return nil, handle.Close()
}

func (a *agent) reset(_ context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Handle)
	if err != nil {
		return nil, err
	}
	return nil, conn.Reset()
}

func (a *agent) stats(ctx context.Context, c *command) (answer, error) {
	conn, err := handleOf[*machnet.Conn](a, c.Handle)
	if err != nil {
		return nil, err
	}
	s, err := conn.Stats(ctx)
	if err != nil {
		return nil, err
	}
	return answer{
		"local": s.Local, "smoothed_rtt_ns": s.SmoothedRTT.Nanoseconds(), "min_rtt_ns": s.MinRTT.Nanoseconds(),
		"messages_sent": s.MessagesSent, "bytes_sent": s.BytesSent,
		"messages_acknowledged": s.MessagesAcknowledged, "bytes_acknowledged": s.BytesAcknowledged,
		"messages_received": s.MessagesReceived, "bytes_received": s.BytesReceived,
		"retransmissions": s.Retransmissions, "datagrams_sent": s.DatagramsSent, "datagrams_received": s.DatagramsReceived,
		"wire_bytes_sent": s.WireBytesSent, "wire_bytes_received": s.WireBytesReceived,
		"congestion_window_bytes": s.CongestionWindowBytes, "bytes_in_flight": s.BytesInFlight,
		"path_datagram_bytes": s.PathDatagramBytes,
	}, nil
}

// ---- single messages

func (a *agent) send(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	ctx, stop := c.waiting(ctx)
	defer stop()
	if c.How == "" || c.How == "copy" {
		return nil, flow.Send(ctx, content(c.seed(), c.Length))
	}
	loan, err := flow.Lend(ctx, c.Length)
	if err != nil {
		return nil, err
	}
	fill(loan.Bytes(), c.seed())
	if c.How == "loan" {
		return nil, loan.Send()
	}
	loan.Drop()
	return nil, nil
}

func (a *agent) trySend(_ context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	return nil, flow.TrySend(content(c.seed(), c.Length))
}

func (c *command) received(message []byte) answer {
	found := answer{"length": len(message)}
	if c.Seed != nil {
		found["ok"] = isContent(message, *c.Seed, 0)
	}
	return found
}

func (a *agent) recv(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	ctx, stop := c.waiting(ctx)
	defer stop()
	switch c.How {
	case "into":
		buffer := make([]byte, c.Capacity)
		count, err := flow.RecvInto(ctx, buffer)
		if err != nil {
			return nil, err
		}
		return c.received(buffer[:count]), nil
	case "loan":
		message, err := flow.RecvLoan(ctx)
		if err != nil {
			return nil, err
		}
		if c.As == "" {
			defer message.Release()
		} else {
			a.put(c.As, message)
		}
		return c.received(message.Bytes()), nil
	}
	message, err := flow.Recv(ctx)
	if err != nil {
		return nil, err
	}
	return c.received(message), nil
}

func (a *agent) tryRecv(_ context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	message, err := flow.TryRecvLoan()
	if err != nil {
		return nil, err
	}
	defer message.Release()
	return c.received(message.Bytes()), nil
}

func (a *agent) release(_ context.Context, c *command) (answer, error) {
	message, ok := a.take(c.Message).(*machnet.Message)
	if !ok {
		return nil, fault("no message %q", c.Message)
	}
	defer message.Release()
	return c.received(message.Bytes()), nil
}
