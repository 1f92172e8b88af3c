package main

import (
	"context"
	"errors"

	machnet "github.com/machnet/machnet/go"
)

const batch = 32

func (a *agent) sendSeries(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	s, err := c.series()
	if err != nil {
		return nil, err
	}
	sent := 0
	for sent < c.Count && err == nil {
		var count int
		count, err = sendSome(ctx, c, flow, &s, c.First+sent, c.Count-sent)
		sent += count
	}
	if errors.Is(err, machnet.ErrWouldBlock) {
		err = nil
	}
	return answer{"sent": sent}, err
}

// sendSome sends the next message, or messages; it says how many.
func sendSome(ctx context.Context, c *command, flow *machnet.Flow, s *series, number, left int) (int, error) {
	ctx, stop := c.waiting(ctx)
	defer stop()
	var err error
	switch c.How {
	case "loan":
		var loan *machnet.Loan
		if loan, err = flow.Lend(ctx, s.length(number)); err == nil {
			s.fill(number, loan.Bytes())
			err = loan.Send()
		}
	case "batch":
		var messages [][]byte
		for i := range min(batch, left) {
			messages = append(messages, s.message(number+i))
		}
		return flow.SendMany(ctx, messages)
	case "try":
		err = flow.TrySend(s.message(number))
	default:
		err = flow.Send(ctx, s.message(number))
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

func (a *agent) recvSeries(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	e, err := c.expected()
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, 0)
	for _, length := range c.Lengths {
		buffer = make([]byte, max(len(buffer), length))
	}
	for e.goesOn() {
		if err := recvSome(ctx, c, flow, e, buffer); err != nil {
			return answer{"received": e.next - e.first}, err
		}
	}
	return e.answer(), nil
}

func recvSome(ctx context.Context, c *command, flow *machnet.Flow, e *expected, buffer []byte) error {
	ctx, stop := c.waiting(ctx)
	defer stop()
	switch c.How {
	case "into":
		count, err := flow.RecvInto(ctx, buffer)
		if err == nil {
			e.take(buffer[:count])
		}
		return err
	case "loan":
		message, err := flow.RecvLoan(ctx)
		if err == nil {
			e.take(message.Bytes())
			message.Release()
		}
		return err
	case "batch":
		messages, err := flow.RecvMany(ctx, min(batch, e.end-e.next))
		for _, message := range messages {
			e.take(message.Bytes())
			message.Release()
		}
		return err
	}
	message, err := flow.Recv(ctx)
	if err == nil {
		e.take(message)
	}
	return err
}

func (a *agent) drain(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	s, err := c.series()
	if err != nil {
		return nil, err
	}
	count, sum, squares, ok := 0, 0, 0, true
	for {
		message, err := recvOne(ctx, c, flow)
		if errors.Is(err, machnet.ErrClosed) {
			return answer{"count": count, "sum": sum, "squares": squares, "ok": ok}, nil
		}
		if err != nil {
			return answer{"count": count}, err
		}
		number, isRight := s.number(message)
		ok = ok && isRight
		count, sum, squares = count+1, sum+number, squares+number*number
	}
}

func recvOne(ctx context.Context, c *command, flow *machnet.Flow) ([]byte, error) {
	ctx, stop := c.waiting(ctx)
	defer stop()
	return flow.Recv(ctx)
}

func sendOne(ctx context.Context, c *command, flow *machnet.Flow, message []byte) error {
	ctx, stop := c.waiting(ctx)
	defer stop()
	return flow.Send(ctx, message)
}

func (a *agent) ping(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	e, err := c.expected()
	if err != nil {
		return nil, err
	}
	for e.goesOn() {
		err := sendOne(ctx, c, flow, e.message(e.next))
		var message []byte
		if err == nil {
			message, err = recvOne(ctx, c, flow)
		}
		if err != nil {
			return answer{"received": e.next - e.first}, err
		}
		e.take(message)
	}
	return e.answer(), nil
}

func (a *agent) echo(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	messages, bytes := 0, 0
	for {
		message, err := recvOne(ctx, c, flow)
		if err == nil {
			err = sendOne(ctx, c, flow, message)
		}
		if errors.Is(err, machnet.ErrClosed) {
			err = nil
		} else if err == nil {
			messages, bytes = messages+1, bytes+len(message)
			continue
		}
		return answer{"messages": messages, "bytes": bytes}, err
	}
}

func (a *agent) supply(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	s, err := c.series()
	if err != nil {
		return nil, err
	}
	for sent := range c.Count {
		_, err := recvOne(ctx, c, flow)
		if err == nil {
			err = sendOne(ctx, c, flow, s.message(c.First+sent))
		}
		if err != nil {
			return answer{"sent": sent}, err
		}
	}
	return answer{"sent": c.Count}, nil
}

func (a *agent) cancelStorm(ctx context.Context, c *command) (answer, error) {
	flow, err := a.flow(c)
	if err != nil {
		return nil, err
	}
	e, err := c.expected()
	if err != nil {
		return nil, err
	}
	cancelled, won := 0, 0
	requests := make(chan context.CancelFunc)
	defer close(requests)
	go func() {
		for cancel := range requests {
			cancel()
		}
	}()
	// A receive that another goroutine cancels at once.
	recvCancelled := func() ([]byte, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		requests <- cancel
		message, err := flow.Recv(ctx)
		if errors.Is(err, context.Canceled) {
			cancelled++
			return nil, nil
		}
		return message, err
	}
	for e.goesOn() {
		message, err := recvCancelled()
		if err == nil && message != nil {
			e.ok = false
			break
		}
		if err == nil {
			err = sendOne(ctx, c, flow, content(0, 1))
		}
		if err == nil {
			message, err = recvCancelled()
		}
		if err == nil && message == nil {
			message, err = recvOne(ctx, c, flow)
		} else {
			won++
		}
		if err != nil {
			return answer{"received": e.next - e.first}, err
		}
		e.take(message)
	}
	found := e.answer()
	found["cancelled"], found["won"] = cancelled, won
	return found, nil
}
