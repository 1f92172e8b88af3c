package machnet_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	machnet "github.com/machnet/machnet/go"
)

// descriptors are the open descriptors of this process, with their flags.
func descriptors(t *testing.T) map[string]uint64 {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	open := make(map[string]uint64)
	for _, entry := range entries {
		info, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", entry.Name()))
		if err != nil {
			continue // The directory's own.
		}
		for line := range strings.Lines(string(info)) {
			if text, found := strings.CutPrefix(line, "flags:"); found {
				flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
				must(t, err)
				open[entry.Name()] = flags
			}
		}
	}
	return open
}

// Whatever waits when a channel is closed ends, and nothing of the channel stays: no goroutine, no descriptor.
func TestCloseLeavesNoGoroutineAndNoDescriptor(t *testing.T) {
	round := func() {
		client, err := machnet.Attach(patience(t), machnet.WithSocket(near.Socket))
		must(t, err)
		server, err := machnet.Attach(patience(t), machnet.WithSocket(far.Socket))
		must(t, err)
		listener, err := server.Listen(patience(t), ":0")
		must(t, err)
		ended := make(chan error, 4)
		go func() {
			for {
				flow, err := listener.AcceptFlow(context.Background())
				if err != nil {
					ended <- err
					return
				}
				defer flow.Close()
			}
		}()
		for range 3 {
			flow, err := client.Connect(patience(t), listener.Addr().String())
			must(t, err)
			go func() {
				defer flow.Close()
				_, err := flow.Recv(context.Background())
				ended <- err
			}()
		}
		for client.Waiting() < 3 {
			runtime.Gosched()
		}
		must(t, client.Close())
		must(t, server.Close())
		must(t, listener.Close())
		for range 4 {
			if err := <-ended; !errors.Is(err, machnet.ErrClosed) {
				t.Error(err)
			}
		}
	}
	round()
	goroutines, open := runtime.NumGoroutine(), len(descriptors(t))
	for range 20 {
		round()
	}
	// The last of them may be on its way out.
	for tries := 0; runtime.NumGoroutine() > goroutines && tries < 1_000_000; tries++ {
		runtime.Gosched()
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		buffer := make([]byte, 1<<16)
		t.Errorf("%d goroutines, and %d before:\n%s", now, goroutines, buffer[:runtime.Stack(buffer, true)])
	}
	now := len(descriptors(t))
	for tries := 0; now > open && tries < 10_000; tries++ {
		runtime.Gosched()
		now = len(descriptors(t))
	}
	if now > open {
		t.Errorf("%d descriptors, and %d before", now, open)
	}
}

// A program that this one starts gets none of its descriptors.
func TestAProgramThatIsStartedInheritsNothing(t *testing.T) {
	const closeOnExec = 0o2000000
	before := descriptors(t)
	client, server := flows(t, attach(t, near), attach(t, far))
	must(t, client.Send(patience(t), []byte("x")))
	_, err := server.Recv(patience(t))
	must(t, err)
	added := 0
	for name, flags := range descriptors(t) {
		if _, was := before[name]; was {
			continue
		}
		added++
		if flags&closeOnExec == 0 {
			target, _ := os.Readlink(filepath.Join("/proc/self/fd", name))
			t.Errorf("descriptor %s (%s) would be inherited", name, target)
		}
	}
	if added < 4 {
		t.Errorf("two channels have only %d descriptors", added)
	}
	// What this process was itself started with it passes on; and ls opens the folder.
	inherited := 4
	for name, flags := range before {
		if number, err := strconv.Atoi(name); err == nil && number > 2 && flags&closeOnExec == 0 {
			inherited++
		}
	}
	listing, err := exec.Command("ls", "/proc/self/fd").Output()
	must(t, err)
	if open := strings.Fields(string(listing)); len(open) > inherited {
		t.Errorf("the child has descriptors %v", open)
	}
	must(t, client.Send(patience(t), []byte("the channel goes on")))
}

func TestSizesAreChosenAndTold(t *testing.T) {
	ch := attach(t, near, machnet.WithSendSlots(64), machnet.WithReceiveSlots(256), machnet.WithTxBuffers(100),
		machnet.WithRxBuffers(200), machnet.WithBufferBytes(4096), machnet.WithMaxFlows(7), machnet.WithFlowCredit(32))
	info := ch.Info()
	if info.TxBuffers != 100 || info.RxBuffers != 200 || info.BufferBytes != 4096 || info.MaxFlows != 7 || info.FlowCredit != 32 {
		t.Errorf("granted %+v", info)
	}
	_, err := machnet.Attach(patience(t), machnet.WithSocket(near.Socket), machnet.WithSendSlots(100))
	if !errors.Is(err, machnet.ErrInvalidArgument) {
		t.Errorf("sizes that cannot be: %v", err)
	}
}

func TestEnginesHaveNames(t *testing.T) {
	for _, name := range []string{"engine0", "engine 0", "0"} {
		if ch := attach(t, near, machnet.WithEngineName(name)); ch.Info().Engine != 0 {
			t.Errorf("%s is engine %d", name, ch.Info().Engine)
		}
	}
	_, err := machnet.Attach(patience(t), machnet.WithSocket(near.Socket), machnet.WithEngineName("engine77"))
	if !errors.Is(err, machnet.ErrNoEngine) || !strings.Contains(err.Error(), "engine77") {
		t.Errorf("no such engine: %v", err)
	}
	_, err = machnet.Attach(patience(t), machnet.WithSocket(near.Socket), machnet.WithEngineName("first"))
	if !errors.Is(err, machnet.ErrInvalidArgument) {
		t.Errorf("no name of an engine: %v", err)
	}
}
