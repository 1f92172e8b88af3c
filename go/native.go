//go:build linux && cgo && (amd64 || arm64 || machnet_pkgconfig)

package machnet

// The library itself comes from a module per platform: library_linux_amd64.go.

/*
#cgo !machnet_pkgconfig CFLAGS: -I${SRCDIR}/internal/lib/include
#cgo machnet_pkgconfig pkg-config: machnet
#cgo noescape mn_try_send
#cgo nocallback mn_try_send
#cgo noescape mn_try_recv
#cgo nocallback mn_try_recv
#cgo nocallback mn_try_recv_loan
#cgo noescape mn_take_news
#cgo nocallback mn_take_news
#cgo noescape mn_stream_try_read
#cgo nocallback mn_stream_try_read
#cgo noescape mn_stream_try_write
#cgo nocallback mn_stream_try_write

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <machnet.h>

// What a call answers. The text is read in the same C call, because it belongs to the operating system thread.
typedef struct {
	int32_t status;
	size_t count;
	void *handle;
	char *text;
} mn_result;

static mn_result mn_done(int32_t status, size_t count, void *handle) {
	mn_result result = {status, count, handle, NULL};
	if (status != MACHNET_STATUS_OK && status != MACHNET_STATUS_WOULD_BLOCK) {
		result.text = strdup(machnet_last_error());
	}
	return result;
}

// Bit 0: something to read; bit 1: the other end is gone.
static int mn_look(int fd) {
	struct pollfd watched = {fd, POLLIN, 0};
	if (poll(&watched, 1, 0) <= 0) return 0;
	return ((watched.revents & POLLIN) != 0) | ((watched.revents & (POLLHUP | POLLERR)) != 0) << 1;
}

static mn_result mn_attach(const machnet_attach_options_t *chosen, const char *socket, const char *name) {
	machnet_attach_options_t options = *chosen;
	machnet_channel_t *channel = NULL;
	options.socket_path = socket;
	options.name = name;
	int32_t status = machnet_attach_with(&options, &channel);
	return mn_done(status, 0, channel);
}

static mn_result mn_engine_number(const char *name) {
	int32_t engine = -1;
	int32_t status = machnet_engine_number(name, &engine);
	return mn_done(status, (size_t)engine, NULL);
}

static mn_result mn_channel_shutdown(void *channel) { return mn_done(machnet_channel_shutdown(channel), 0, NULL); }
static void mn_channel_close(void *channel) { machnet_channel_close(channel); }

static mn_result mn_event_fd(void *channel) {
	int32_t fd = -1;
	int32_t status = machnet_channel_event_fd(channel, &fd);
	return mn_done(status, (size_t)fd, NULL);
}

static mn_result mn_take_news(void *channel, machnet_news_t *news, size_t most) {
	size_t count = 0;
	int32_t status = machnet_channel_take_news(channel, news, most, &count);
	return mn_done(status, count, NULL);
}

static void mn_flow_set_token(void *flow, uint64_t token) { machnet_flow_set_token(flow, token); }
static void mn_listener_set_token(void *listener, uint64_t token) { machnet_listener_set_token(listener, token); }
static void mn_pending_set_token(void *pending, uint64_t token) { machnet_pending_set_token(pending, token); }

static mn_result mn_listen(void *channel, const char *ip, uint16_t port, uint32_t backlog) {
	machnet_listener_t *listener = NULL;
	int32_t status = machnet_listener_open(channel, ip, port, backlog, &listener);
	return mn_done(status, 0, listener);
}

static mn_result mn_try_accept(void *listener) {
	machnet_flow_handle_t *flow = NULL;
	int32_t status = machnet_listener_try_accept(listener, &flow);
	return mn_done(status, 0, flow);
}

static void mn_listener_shutdown(void *listener) { machnet_listener_shutdown(listener); }
static void mn_listener_close(void *listener) { machnet_listener_close(listener); }

static mn_result mn_start_connect(void *channel, const char *ip, uint16_t port, int32_t timeout_ms) {
	machnet_pending_t *pending = NULL;
	int32_t status = machnet_flow_start_connect(channel, NULL, ip, port, timeout_ms, &pending);
	return mn_done(status, 0, pending);
}

static mn_result mn_try_finish(void *pending) {
	machnet_flow_handle_t *flow = NULL;
	int32_t status = machnet_pending_try_finish(pending, &flow);
	return mn_done(status, 0, flow);
}

static void mn_pending_drop(void *pending) { machnet_pending_drop(pending); }

static mn_result mn_try_send(void *flow, const void *bytes, size_t len) {
	return mn_done(machnet_flow_try_send(flow, bytes, len), 0, NULL);
}

static mn_result mn_try_send_many(void *flow, const MachnetIovec_t *messages, size_t count) {
	size_t sent = 0;
	int32_t status = machnet_flow_try_send_many(flow, messages, count, &sent);
	return mn_done(status, sent, NULL);
}

static mn_result mn_try_recv(void *flow, void *buffer, size_t capacity) {
	size_t len = 0;
	int32_t status = machnet_flow_try_recv(flow, buffer, capacity, &len);
	return mn_done(status, len, NULL);
}

static mn_result mn_try_recv_loan(void *flow) {
	machnet_message_t *message = NULL;
	int32_t status = machnet_flow_try_recv_loan(flow, &message);
	return mn_done(status, machnet_message_len(message), message);
}

static mn_result mn_try_recv_many(void *flow, void **messages, size_t most) {
	size_t count = 0;
	int32_t status = machnet_flow_try_recv_many(flow, (machnet_message_t **)messages, most, &count);
	return mn_done(status, count, NULL);
}

static mn_result mn_try_lend(void *flow, size_t len) {
	machnet_loan_t *loan = NULL;
	int32_t status = machnet_flow_try_lend(flow, len, &loan);
	return mn_done(status, len, loan);
}

static const void *mn_message_data(void *message) { return machnet_message_data(message); }
static size_t mn_message_len(void *message) { return machnet_message_len(message); }
static void mn_message_release(void *message) { machnet_message_release(message); }
static void *mn_loan_data(void *loan) { return machnet_loan_data(loan); }
static mn_result mn_loan_send(void *loan) { return mn_done(machnet_loan_send(loan), 0, NULL); }
static void mn_loan_drop(void *loan) { machnet_loan_drop(loan); }

// The scope of a canceller belongs to the thread: it is set, used and taken away in one C call.
static mn_result mn_shutdown_wait(void *flow, int32_t timeout_ms, machnet_cancel_t *cancel) {
	machnet_cancel_scope(cancel);
	mn_result result = mn_done(machnet_flow_shutdown_wait(flow, timeout_ms), 0, NULL);
	machnet_cancel_scope(NULL);
	return result;
}

static mn_result mn_cancel_new(void *channel) {
	machnet_cancel_t *cancel = NULL;
	int32_t status = machnet_cancel_new(channel, &cancel);
	return mn_done(status, 0, cancel);
}

static mn_result mn_flow_reset(void *flow) { return mn_done(machnet_flow_reset(flow), 0, NULL); }
static mn_result mn_stream_reset(void *stream) { return mn_done(machnet_stream_reset(stream), 0, NULL); }
static void mn_flow_close(void *flow) { machnet_flow_close(flow); }
static void mn_stream_close(void *stream) { machnet_stream_close(stream); }

static mn_result mn_flow_stats(void *flow, machnet_flow_stats_t *stats) {
	stats->struct_size = sizeof *stats;
	return mn_done(machnet_flow_stats(flow, stats), 0, NULL);
}

static mn_result mn_stream_stats(void *stream, machnet_flow_stats_t *stats) {
	stats->struct_size = sizeof *stats;
	return mn_done(machnet_stream_stats(stream, stats), 0, NULL);
}

static mn_result mn_channel_info(void *channel, machnet_channel_info_t *info) {
	info->struct_size = sizeof *info;
	return mn_done(machnet_channel_info(channel, info), 0, NULL);
}

static mn_result mn_stream_open(void *flow) {
	machnet_stream_t *stream = NULL;
	int32_t status = machnet_stream_open(flow, &stream);
	return mn_done(status, 0, stream);
}

static mn_result mn_stream_try_read(void *stream, void *buffer, size_t capacity) {
	size_t len = 0;
	int32_t status = machnet_stream_try_read(stream, buffer, capacity, &len);
	return mn_done(status, len, NULL);
}

static mn_result mn_stream_try_write(void *stream, const void *bytes, size_t len) {
	size_t written = 0;
	int32_t status = machnet_stream_try_write(stream, bytes, len, &written);
	return mn_done(status, written, NULL);
}

static mn_result mn_stream_try_end(void *stream) { return mn_done(machnet_stream_try_end(stream), 0, NULL); }
*/
import "C"

import (
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// supported tells whether programs of this platform can attach to a sidecar.
const supported = true

// result is what a call of the C library answers, as a value of Go.
type result struct {
	code   Code
	count  int
	handle unsafe.Pointer
	text   string
}

func took(r C.mn_result) result {
	out := result{code: Code(r.status), count: int(r.count), handle: r.handle}
	if r.text != nil {
		out.text = C.GoString(r.text)
		C.free(unsafe.Pointer(r.text))
	}
	return out
}

func libraryVersion() string { return C.GoString(C.machnet_version_string()) }

func nameOf(code Code) string { return C.GoString(C.machnet_error_name(C.int32_t(code))) }

func textOf(code Code) string { return C.GoString(C.machnet_strerror(C.int32_t(code))) }

func errnoOf(code Code) int { return int(C.machnet_status_errno(C.int32_t(code))) }

// duplicate is a descriptor of the same thing, which the caller closes.
func duplicate(fd uintptr) (uintptr, error) {
	own, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return 0, errno
	}
	return own, nil
}

// yieldProcessor lets another thread run on this processor, if one waits for it.
func yieldProcessor() { syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

// look tells of a descriptor, without waiting, whether it is readable and whether the other end is gone.
func look(fd uintptr) (readable, gone bool) {
	seen := C.mn_look(C.int(fd))
	return seen&1 != 0, seen&2 != 0
}

func engineNumber(name string) result {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	return took(C.mn_engine_number(text))
}

func attach(chosen *options) result {
	var native C.machnet_attach_options_t
	C.machnet_attach_options_init(&native, C.size_t(unsafe.Sizeof(native)))
	native.engine = C.int32_t(chosen.engine)
	native.sizes = C.uint32_t(chosen.sizes)
	if chosen.linger >= 0 {
		native.linger_ms = C.uint32_t(chosen.linger.Milliseconds())
	}
	native.send_slots = C.uint32_t(chosen.sendSlots)
	native.receive_slots = C.uint32_t(chosen.receiveSlots)
	native.tx_buffers = C.uint32_t(chosen.txBuffers)
	native.rx_buffers = C.uint32_t(chosen.rxBuffers)
	native.buffer_bytes = C.uint32_t(chosen.bufferBytes)
	native.max_flows = C.uint32_t(chosen.maxFlows)
	native.flow_credit = C.uint32_t(chosen.flowCredit)
	var socket, name *C.char
	if chosen.socket != "" {
		socket = C.CString(chosen.socket)
		defer C.free(unsafe.Pointer(socket))
	}
	if chosen.name != "" {
		name = C.CString(chosen.name)
		defer C.free(unsafe.Pointer(name))
	}
	return took(C.mn_attach(&native, socket, name))
}

func channelShutdown(channel unsafe.Pointer) result { return took(C.mn_channel_shutdown(channel)) }

func channelFree(channel unsafe.Pointer) { C.mn_channel_close(channel) }

func eventFD(channel unsafe.Pointer) result { return took(C.mn_event_fd(channel)) }

const (
	newsToReceive = C.MACHNET_NEWS_RECEIVE | C.MACHNET_NEWS_ACCEPT | C.MACHNET_NEWS_CONNECT
	newsToSend    = C.MACHNET_NEWS_SEND
)

// takeNews answers how many news there are, and fills them in.
func takeNews(channel unsafe.Pointer, out *[newsMost]news) result {
	var native [newsMost]C.machnet_news_t
	r := took(C.mn_take_news(channel, &native[0], newsMost))
	for i := range native[:r.count] {
		out[i] = news{token: uint64(native[i].token), events: uint32(native[i].events)}
	}
	return r
}

// A token of something that was closed meanwhile has no news.
func flowSetToken(flow unsafe.Pointer, token uint64) { C.mn_flow_set_token(flow, C.uint64_t(token)) }

func listenerSetToken(listener unsafe.Pointer, token uint64) {
	C.mn_listener_set_token(listener, C.uint64_t(token))
}

func pendingSetToken(pending unsafe.Pointer, token uint64) {
	C.mn_pending_set_token(pending, C.uint64_t(token))
}

func channelInfo(channel unsafe.Pointer) (Info, result) {
	var native C.machnet_channel_info_t
	r := took(C.mn_channel_info(channel, &native))
	return Info{
		Channel: uint64(native.channel), Engine: int(native.engine), SidecarPID: int(native.sidecar_pid),
		Local: addressOf(native.local).Addr(), TxBuffers: int(native.tx_buffers), RxBuffers: int(native.rx_buffers),
		BufferBytes: int(native.buffer_bytes), MaxFlows: int(native.max_flows), FlowCredit: int(native.flow_credit),
	}, r
}

func listen(channel unsafe.Pointer, at netip.AddrPort, backlog int) result {
	ip := C.CString(at.Addr().String())
	defer C.free(unsafe.Pointer(ip))
	return took(C.mn_listen(channel, ip, C.uint16_t(at.Port()), C.uint32_t(backlog)))
}

func listenerAddress(listener unsafe.Pointer) netip.AddrPort {
	var native C.machnet_address_t
	C.machnet_listener_address((*C.machnet_listener_t)(listener), &native)
	return addressOf(native)
}

func tryAccept(listener unsafe.Pointer) result { return took(C.mn_try_accept(listener)) }

func listenerShutdown(listener unsafe.Pointer) { C.mn_listener_shutdown(listener) }

func listenerFree(listener unsafe.Pointer) { C.mn_listener_close(listener) }

// startConnect takes the remote address as text that ends with a zero byte.
func startConnect(channel unsafe.Pointer, ip []byte, port uint16, timeoutMS int32) result {
	return took(C.mn_start_connect(channel, (*C.char)(unsafe.Pointer(&ip[0])), C.uint16_t(port), C.int32_t(timeoutMS)))
}

func tryFinish(pending unsafe.Pointer) result { return took(C.mn_try_finish(pending)) }

func pendingFree(pending unsafe.Pointer) { C.mn_pending_drop(pending) }

func flowAddresses(flow unsafe.Pointer) (local, peer netip.AddrPort) {
	var native C.machnet_address_t
	C.machnet_flow_local_address((*C.machnet_flow_handle_t)(flow), &native)
	local = addressOf(native)
	C.machnet_flow_peer_address((*C.machnet_flow_handle_t)(flow), &native)
	return local, addressOf(native)
}

func flowMaxMessage(flow unsafe.Pointer) int {
	return int(C.machnet_flow_max_message((*C.machnet_flow_handle_t)(flow)))
}

func flowUnacknowledged(flow unsafe.Pointer) int {
	return int(C.machnet_flow_unacknowledged((*C.machnet_flow_handle_t)(flow)))
}

func trySend(flow unsafe.Pointer, message []byte) result {
	if len(message) == 0 {
		return result{code: ErrEmptyMessage, text: textOf(ErrEmptyMessage)}
	}
	return took(C.mn_try_send(flow, unsafe.Pointer(&message[0]), C.size_t(len(message))))
}

// batchMost is the most messages that one call of the C library takes.
const batchMost = 256

// trySendMany sends the first of these messages, as many as there is credit for.
func trySendMany(flow unsafe.Pointer, messages [][]byte) result {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pieces := make([]C.MachnetIovec_t, min(len(messages), batchMost))
	for i := range pieces {
		if len(messages[i]) > 0 {
			pinner.Pin(&messages[i][0])
			pieces[i].base = unsafe.Pointer(&messages[i][0])
			pieces[i].len = C.size_t(len(messages[i]))
		}
	}
	return took(C.mn_try_send_many(flow, &pieces[0], C.size_t(len(pieces))))
}

func tryRecv(flow unsafe.Pointer, buffer []byte) result {
	return took(C.mn_try_recv(flow, unsafe.Pointer(&buffer[0]), C.size_t(len(buffer))))
}

func tryRecvLoan(flow unsafe.Pointer) result { return took(C.mn_try_recv_loan(flow)) }

func tryRecvMany(flow unsafe.Pointer, messages []unsafe.Pointer) result {
	return took(C.mn_try_recv_many(flow, &messages[0], C.size_t(len(messages))))
}

func messageBytes(message unsafe.Pointer) []byte {
	return unsafe.Slice((*byte)(C.mn_message_data(message)), int(C.mn_message_len(message)))
}

func messageFree(message unsafe.Pointer) { C.mn_message_release(message) }

func tryLend(flow unsafe.Pointer, length int) result {
	return took(C.mn_try_lend(flow, C.size_t(length)))
}

func loanBytes(loan unsafe.Pointer, length int) []byte {
	return unsafe.Slice((*byte)(C.mn_loan_data(loan)), length)
}

func loanSend(loan unsafe.Pointer) result { return took(C.mn_loan_send(loan)) }

func loanFree(loan unsafe.Pointer) { C.mn_loan_drop(loan) }

func flowReset(flow unsafe.Pointer) result { return took(C.mn_flow_reset(flow)) }

func flowFree(flow unsafe.Pointer) { C.mn_flow_close(flow) }

func cancelNew(channel unsafe.Pointer) result { return took(C.mn_cancel_new(channel)) }

func cancelTrigger(cancel unsafe.Pointer) {
	C.machnet_cancel_trigger((*C.machnet_cancel_t)(cancel))
}

func cancelFree(cancel unsafe.Pointer) { C.machnet_cancel_free((*C.machnet_cancel_t)(cancel)) }

func flowShutdownWait(flow unsafe.Pointer, timeoutMS int32, cancel unsafe.Pointer) result {
	return took(C.mn_shutdown_wait(flow, C.int32_t(timeoutMS), (*C.machnet_cancel_t)(cancel)))
}

func flowStats(flow unsafe.Pointer) (Stats, result) {
	var native C.machnet_flow_stats_t
	r := took(C.mn_flow_stats(flow, &native))
	return statsOf(&native), r
}

func streamOpen(flow unsafe.Pointer) result { return took(C.mn_stream_open(flow)) }

func streamTryRead(stream unsafe.Pointer, buffer []byte) result {
	return took(C.mn_stream_try_read(stream, unsafe.Pointer(&buffer[0]), C.size_t(len(buffer))))
}

func streamTryWrite(stream unsafe.Pointer, bytes []byte) result {
	return took(C.mn_stream_try_write(stream, unsafe.Pointer(&bytes[0]), C.size_t(len(bytes))))
}

func streamTryEnd(stream unsafe.Pointer) result { return took(C.mn_stream_try_end(stream)) }

func streamReset(stream unsafe.Pointer) result { return took(C.mn_stream_reset(stream)) }

func streamFree(stream unsafe.Pointer) { C.mn_stream_close(stream) }

func streamStats(stream unsafe.Pointer) (Stats, result) {
	var native C.machnet_flow_stats_t
	r := took(C.mn_stream_stats(stream, &native))
	return statsOf(&native), r
}

func statsOf(native *C.machnet_flow_stats_t) Stats {
	return Stats{
		SmoothedRTT:           time.Duration(native.smoothed_rtt_ns),
		MinRTT:                time.Duration(native.min_rtt_ns),
		MessagesSent:          uint64(native.messages_sent),
		BytesSent:             uint64(native.bytes_sent),
		MessagesAcknowledged:  uint64(native.messages_acknowledged),
		BytesAcknowledged:     uint64(native.bytes_acknowledged),
		MessagesReceived:      uint64(native.messages_received),
		BytesReceived:         uint64(native.bytes_received),
		Retransmissions:       uint64(native.retransmissions),
		DatagramsSent:         uint64(native.datagrams_sent),
		DatagramsReceived:     uint64(native.datagrams_received),
		WireBytesSent:         uint64(native.wire_bytes_sent),
		WireBytesReceived:     uint64(native.wire_bytes_received),
		CongestionWindowBytes: uint64(native.congestion_window_bytes),
		BytesInFlight:         uint64(native.bytes_in_flight),
		PathDatagramBytes:     uint64(native.path_datagram_bytes),
		Local:                 native.local != 0,
	}
}

func addressOf(native C.machnet_address_t) netip.AddrPort {
	bytes := *(*[16]byte)(unsafe.Pointer(&native.bytes))
	address := netip.AddrFrom16(bytes)
	if native.ip_version == 4 {
		address = netip.AddrFrom4([4]byte(bytes[:4]))
	}
	return netip.AddrPortFrom(address, uint16(native.port))
}
