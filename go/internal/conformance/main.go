// Conformance is the agent of the conformance suite. ci/conformance/README.md specifies it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	machnet "github.com/machnet/machnet/go"
)

// answer is an object with the members of an answer.
type answer map[string]any

// command has the members of all commands.
type command struct {
	Op        string
	Task      string
	Command   *command
	Channel   string
	Listener  string
	Flow      string
	Stream    string
	Message   string
	Handle    string
	As        string
	Socket    string
	Name      string
	Engine    *int
	LingerMS  *int `json:"linger_ms"`
	Address   string
	Backlog   uint32
	TimeoutMS *int `json:"timeout_ms"`
	WaitMS    *int `json:"wait_ms"`
	Length    int
	Seed      *int
	How       string
	Capacity  int
	Count     int
	First     int
	Lengths   []int
	Chunk     int
	Offset    int
}

func (c *command) seed() int {
	if c.Seed == nil {
		return 0
	}
	return *c.Seed
}

func (c *command) series() (series, error) {
	for _, length := range c.Lengths {
		if length < 4 {
			return series{}, fault("a length is less than 4")
		}
	}
	if len(c.Lengths) == 0 {
		return series{}, fault("no lengths")
	}
	return series{c.seed(), c.Lengths}, nil
}

func (c *command) expected() (*expected, error) {
	s, err := c.series()
	return &expected{series: s, next: c.First, first: c.First, end: c.First + c.Count, ok: true}, err
}

// waiting is the context of one wait.
func (c *command) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.TimeoutMS == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(*c.TimeoutMS)*time.Millisecond)
}

// faulty is the agent's own failure.
type faulty string

func (f faulty) Error() string { return string(f) }

func fault(format string, arguments ...any) error { return faulty(fmt.Sprintf(format, arguments...)) }

var errNone = errors.New("nothing now")

// failed is the answer for an error, with what had been done before.
func failed(err error, done answer) answer {
	var of *machnet.Error
	switch {
	case errors.Is(err, errNone), errors.Is(err, machnet.ErrWouldBlock):
		return answer{"none": true}
	case errors.Is(err, context.Canceled):
		return answer{"cancelled": true}
	case errors.As(err, &of):
		found := answer{"error": answer{"name": of.Code.Name(), "code": int(of.Code), "text": of.Text}}
		for name, value := range done {
			found[name] = value
		}
		return found
	}
	return answer{"fault": err.Error()}
}

type task struct {
	cancel context.CancelFunc
	answer chan answer
}

// agent has all that the commands have made.
type agent struct {
	mu      sync.Mutex
	handles map[string]any
	tasks   map[string]*task
}

// run works on a command until it can be answered.
func (a *agent) run(ctx context.Context, c *command) answer {
	do, ok := operations[c.Op]
	if !ok {
		return answer{"fault": "unknown op " + c.Op}
	}
	done, err := do(a, ctx, c)
	if err != nil {
		return failed(err, done)
	}
	if done == nil {
		return answer{}
	}
	return done
}

func (a *agent) start(c *command) answer {
	if c.Command == nil {
		return answer{"fault": "no command to start"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{cancel, make(chan answer, 1)}
	a.tasks[c.Task] = t
	go func() { t.answer <- a.run(ctx, c.Command) }()
	return answer{}
}

func (a *agent) join(c *command) answer {
	t, ok := a.tasks[c.Task]
	if !ok {
		return answer{"fault": "no task " + c.Task}
	}
	ctx, stop := c.waiting(context.Background())
	defer stop()
	select {
	case found := <-t.answer:
		t.cancel()
		delete(a.tasks, c.Task)
		return found
	case <-ctx.Done():
		return answer{"running": true}
	}
}

func (a *agent) clear() answer {
	for _, t := range a.tasks {
		t.cancel()
	}
	// Flows first, then what they belong to.
	for _, handle := range a.handles {
		if conn, ok := handle.(*machnet.Conn); ok {
			_ = conn.Reset() // It is over in any case.
			_ = conn.Close()
		}
	}
	for _, handle := range a.handles {
		switch handle := handle.(type) {
		case *machnet.Listener:
			_ = handle.Close()
		case *machnet.Message:
			handle.Release()
		}
	}
	for _, t := range a.tasks {
		<-t.answer
	}
	for _, handle := range a.handles {
		if channel, ok := handle.(*machnet.Channel); ok {
			_ = channel.Close()
		}
	}
	clear(a.tasks)
	clear(a.handles)
	return answer{}
}

func (a *agent) answer(line []byte) (answer, bool) {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return answer{"fault": err.Error()}, false
	}
	switch c.Op {
	case "start":
		return a.start(&c), false
	case "join":
		return a.join(&c), false
	case "cancel":
		t, ok := a.tasks[c.Task]
		if !ok {
			return answer{"fault": "no task " + c.Task}, false
		}
		t.cancel()
		return answer{}, false
	case "clear":
		return a.clear(), false
	case "exit":
		return answer{}, true
	}
	return a.run(context.Background(), &c), false
}

func serve(input io.Reader, output io.Writer) error {
	a := &agent{handles: map[string]any{}, tasks: map[string]*task{}}
	lines := bufio.NewScanner(input)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(output)
	answers.SetEscapeHTML(false)
	for lines.Scan() {
		found, isLast := a.answer(lines.Bytes())
		if err := answers.Encode(found); err != nil || isLast {
			return err
		}
	}
	return lines.Err()
}

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
