// The Go client of `ci/bench.sh sdk`; what it has to do is said in ../README.md.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	machnet "github.com/machnet/machnet/go"
)

const notHere = 3

type chosen struct {
	socket, at, pipe             string
	bytes, window, warmUp, count int
	pause                        time.Duration
}

type found map[string]float64

// errNotHere is answered to an API or a measure that Go does not have.
var errNotHere = errors.New("Go does not have it")

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: go API MEASURE --socket PATH --at IP:PORT ...")
		os.Exit(2)
	}
	outcome, err := run(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", os.Args[1], os.Args[2], err)
		if errors.Is(err, errNotHere) {
			os.Exit(notHere)
		}
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcome); err != nil {
		os.Exit(1)
	}
}

func options(arguments []string) (chosen, error) {
	c := chosen{bytes: 64, window: 32, warmUp: 1000, count: 10000, pause: 100 * time.Microsecond}
	if len(arguments)%2 != 0 {
		return c, errors.New("each option has a value")
	}
	numbers := map[string]*int{"--bytes": &c.bytes, "--window": &c.window, "--warm-up": &c.warmUp, "--count": &c.count}
	texts := map[string]*string{"--socket": &c.socket, "--at": &c.at, "--pipe": &c.pipe}
	for i := 0; i < len(arguments); i += 2 {
		name, value := arguments[i], arguments[i+1]
		if text := texts[name]; text != nil {
			*text = value
		}
		if number := numbers[name]; number != nil {
			parsed, err := strconv.Atoi(value)
			if err != nil {
				return c, err
			}
			*number = parsed
		}
		if name == "--pause-us" {
			us, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return c, err
			}
			c.pause = time.Duration(us * float64(time.Microsecond))
		}
	}
	return c, nil
}

func run(api, measure string, arguments []string) (found, error) {
	c, err := options(arguments)
	if err != nil {
		return nil, err
	}
	switch api {
	case "net":
		conn, err := net.Dial("tcp", c.at)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return overConn(measure, &c, conn)
	case "sync", "stream":
	default:
		return nil, errNotHere
	}
	if c.pipe != "" {
		return wakeupOfPipe(&c)
	}
	ctx := context.Background()
	channel, err := machnet.Attach(ctx, machnet.WithSocket(c.socket))
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	if api == "stream" {
		// The server echoes messages, and those of a stream come back as they are, so it is a stream's echo, too.
		conn, err := channel.Dial(ctx, c.at)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return overConn(measure, &c, conn)
	}
	flow, err := channel.Connect(ctx, c.at)
	if err != nil {
		return nil, err
	}
	defer flow.Close()
	buffer := make([]byte, c.bytes)
	link := link{
		send: func(message []byte) error { return flow.Send(ctx, message) },
		recv: func() ([]byte, error) {
			length, err := flow.RecvInto(ctx, buffer)
			return buffer[:length], err
		},
	}
	switch measure {
	case "latency":
		return latency(&c, link)
	case "window":
		return window(&c, link)
	case "calls":
		return calls(&c, flow)
	case "wakeup":
		return wakeup(&c, link)
	}
	return nil, errNotHere
}

func overConn(measure string, c *chosen, conn net.Conn) (found, error) {
	buffer := make([]byte, c.bytes)
	link := link{
		send: func(message []byte) error {
			_, err := conn.Write(message)
			return err
		},
		recv: func() ([]byte, error) {
			_, err := io.ReadFull(conn, buffer)
			return buffer, err
		},
	}
	switch measure {
	case "latency":
		return latency(c, link)
	case "window":
		return window(c, link)
	}
	return nil, errNotHere
}

// link is a message there and one back; both wait.
type link struct {
	send func([]byte) error
	recv func() ([]byte, error)
}

// numbered makes messages with growing numbers, and knows whether the answers are theirs.
type numbered struct {
	message        []byte
	sent, answered uint64
}

func newNumbered(length int) *numbered {
	return &numbered{message: bytes.Repeat([]byte{7}, length)}
}

func (n *numbered) next() []byte {
	binary.LittleEndian.PutUint64(n.message, n.sent)
	n.sent++
	return n.message
}

func (n *numbered) check(answer []byte, isWarmUp bool) error {
	if len(answer) != len(n.message) {
		return fmt.Errorf("an answer has %d bytes and not %d", len(answer), len(n.message))
	}
	if isWarmUp && binary.LittleEndian.Uint64(answer) != n.answered {
		return errors.New("an answer is not that of its question")
	}
	n.answered++
	return nil
}

func quantiles(times []float64) found {
	slices.Sort(times)
	at := func(share float64) float64 { return times[min(int(float64(len(times))*share), len(times)-1)] }
	sum := 0.0
	for _, time := range times {
		sum += time
	}
	return found{"p50_ns": at(0.5), "p99_ns": at(0.99), "mean_ns": sum / float64(len(times))}
}

func latency(c *chosen, over link) (found, error) {
	numbered, times := newNumbered(c.bytes), make([]float64, 0, c.count)
	for round := range c.warmUp + c.count {
		before := time.Now()
		if err := over.send(numbered.next()); err != nil {
			return nil, err
		}
		answer, err := over.recv()
		if err != nil {
			return nil, err
		}
		if err := numbered.check(answer, round < c.warmUp); err != nil {
			return nil, err
		}
		if round >= c.warmUp {
			times = append(times, float64(time.Since(before)))
		}
	}
	return quantiles(times), nil
}

func window(c *chosen, over link) (found, error) {
	numbered := newNumbered(c.bytes)
	for range c.window {
		if err := over.send(numbered.next()); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	for round := range c.warmUp + c.count {
		if round == c.warmUp {
			began = time.Now()
		}
		answer, err := over.recv()
		if err != nil {
			return nil, err
		}
		if err := numbered.check(answer, round < c.warmUp); err != nil {
			return nil, err
		}
		if err := over.send(numbered.next()); err != nil {
			return nil, err
		}
	}
	return found{"messages_per_second": float64(c.count) / time.Since(began).Seconds()}, nil
}

func pause(span time.Duration) {
	for began := time.Now(); time.Since(began) < span; {
	}
}

// singleRound answers nanoseconds a message, and whether an answer was late.
func singleRound(c *chosen, flow *machnet.Flow, message, buffer []byte) (took float64, isLate bool, err error) {
	began := time.Now()
	for range c.window {
		if err := flow.TrySend(message); err != nil {
			return 0, false, err
		}
	}
	spent := time.Since(began)
	pause(c.pause)
	began = time.Now()
	for range c.window {
		length, err := flow.TryRecvInto(buffer)
		for errors.Is(err, machnet.ErrWouldBlock) {
			isLate = true
			length, err = flow.TryRecvInto(buffer)
		}
		if err != nil {
			return 0, false, err
		}
		if length != len(message) {
			return 0, false, errors.New("an answer has another length")
		}
	}
	spent += time.Since(began)
	return float64(spent) / float64(c.window), isLate, nil
}

// batchedRound cannot tell of late answers: RecvMany waits.
func batchedRound(c *chosen, flow *machnet.Flow, messages [][]byte) (float64, error) {
	ctx := context.Background()
	began := time.Now()
	if _, err := flow.SendMany(ctx, messages); err != nil {
		return 0, err
	}
	spent := time.Since(began)
	pause(c.pause)
	began = time.Now()
	for taken := 0; taken < c.window; {
		answers, err := flow.RecvMany(ctx, c.window-taken)
		if err != nil {
			return 0, err
		}
		for _, answer := range answers {
			if answer.Len() != c.bytes || answer.Bytes()[8] != 7 {
				return 0, errors.New("an answer is another")
			}
			answer.Release()
		}
		taken += len(answers)
	}
	spent += time.Since(began)
	return float64(spent) / float64(c.window), nil
}

func calls(c *chosen, flow *machnet.Flow) (found, error) {
	message, buffer := newNumbered(c.bytes).next(), make([]byte, c.bytes)
	messages := make([][]byte, c.window)
	for i := range messages {
		messages[i] = bytes.Clone(message)
	}
	var single, batched []float64
	late := 0
	for round := range c.warmUp + c.count {
		took, isLate, err := singleRound(c, flow, message, buffer)
		if err != nil {
			return nil, err
		}
		if isLate {
			late++
		} else if round >= c.warmUp {
			single = append(single, took)
		}
		took, err = batchedRound(c, flow, messages)
		if err != nil {
			return nil, err
		}
		if round >= c.warmUp {
			batched = append(batched, took)
		}
	}
	return found{
		"single_ns": quantiles(single)["p50_ns"], "batched_ns": quantiles(batched)["p50_ns"],
		"late": float64(late), "rounds": float64(c.count),
	}, nil
}

// monotonic is the clock that all processes share, which package time does not give away.
func monotonic() uint64 {
	const clockMonotonic = 1
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	return uint64(now.Nano())
}

func stamps(c *chosen, next func() ([]byte, error)) (found, error) {
	times := make([]float64, 0, c.count)
	for range c.count {
		stamp, err := next()
		now := monotonic()
		if err != nil {
			return nil, err
		}
		times = append(times, float64(now-binary.LittleEndian.Uint64(stamp)))
	}
	return quantiles(times[c.warmUp:]), nil
}

func wakeup(c *chosen, over link) (found, error) {
	asked := binary.LittleEndian.AppendUint64(nil, uint64(c.count))
	asked = binary.LittleEndian.AppendUint64(asked, uint64(c.pause.Microseconds()))
	if err := over.send(asked); err != nil {
		return nil, err
	}
	return stamps(c, over.recv)
}

func wakeupOfPipe(c *chosen) (found, error) {
	// Opened for writing as well, it is no end of file that nobody else has done so yet; it never blocks a thread.
	pipe, err := os.OpenFile(c.pipe, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer pipe.Close()
	stamp := make([]byte, 8)
	return stamps(c, func() ([]byte, error) {
		_, err := io.ReadFull(pipe, stamp)
		return stamp, err
	})
}
