package machnet

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Why a function of the C library is not called here.
var notCalled = map[string]string{}

func init() {
	for reason, names := range map[string]string{
		"waits inside C, where it would hold a thread: the try form, a goroutine that parks, and a context take its place": `
			machnet_flow_connect machnet_flow_lend machnet_flow_recv machnet_flow_recv_loan machnet_flow_recv_many machnet_flow_send
			machnet_flow_send_many machnet_listener_accept machnet_pending_finish machnet_stream_read machnet_stream_write
			machnet_stream_end`,
		"channel mode: a goroutine for each flow takes its place": `
			machnet_channel_recv_loan machnet_channel_send machnet_channel_close_flow machnet_channel_flow_stats`,
		"for programs written for the original C library": `
			machnet_init machnet_attach machnet_detach machnet_bind machnet_listen machnet_connect machnet_send machnet_sendmsg
			machnet_sendmmsg machnet_recv machnet_recvmsg`,
		"the handle is closed when the last call on it has returned, and Go's own state ends the waits before": `
			machnet_flow_shutdown`,
		"Close and CloseWait keep the handle while other goroutines use it, and so does Reset": `
			machnet_flow_close_wait machnet_flow_abort`,
		"the flow told its addresses and its token before it became a stream": `
			machnet_stream_local_address machnet_stream_peer_address machnet_stream_set_token`,
		"machnet_version_string tells it as text": `machnet_version`,
	} {
		for name := range strings.FieldsSeq(names) {
			notCalled[name] = reason
		}
	}
}

// Every function of the header is called by native.go, or is named above with a reason.
func TestEveryFunctionOfTheLibraryHasItsPlace(t *testing.T) {
	header, err := os.ReadFile("internal/lib/include/machnet.h")
	if os.IsNotExist(err) {
		t.Skip("SKIPPED the header is that of an installed library")
	}
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("native.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(header), "")
	functions := make(map[string]bool)
	for _, match := range regexp.MustCompile(`\b(machnet_\w+)\s*\(`).FindAllStringSubmatch(code, -1) {
		functions[match[1]] = true
	}
	if len(functions) < 80 {
		t.Fatalf("only %d functions were found in the header", len(functions))
	}
	for name := range functions {
		called := regexp.MustCompile(`\b` + name + `\(`).Match(source)
		switch reason := notCalled[name]; {
		case called && reason != "":
			t.Errorf("%s is called, and said not to be: %s", name, reason)
		case !called && reason == "":
			t.Errorf("%s is not called, and nothing says why", name)
		}
	}
	for name := range notCalled {
		if !functions[name] {
			t.Errorf("%s is no function of the library", name)
		}
	}
}
