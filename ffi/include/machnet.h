/*
 * Machnet for C and C++: whole messages between hosts, through the sidecar of each.
 * Written from ffi/src/ by ci/c-header.sh; do not edit.
 *
 * Link with -lmachnet. Programs for the original C library link with -lmachnet_shim: the same library.
 *
 * A function that answers int32_t answers a machnet_status, 0 being success, and changes what its pointers
 * name only as it says. machnet_strerror puts a status into words, machnet_last_error the last failure of the
 * calling thread. A function that consumes a handle must be the last to use it. After a fork the child's
 * handles answer MACHNET_STATUS_FORKED; they can still be closed. Nothing is ever printed, and SIGPIPE is
 * never raised.
 */

#ifndef MACHNET_H
#define MACHNET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "machnet_common.h"

/**
 * Version of this header: `major << 16 | minor << 8 | patch`. Compare it with `machnet_version()` of the library.
 */
#define MACHNET_VERSION 256

/**
 * A receive finds something: a message, or how the flow ended.
 */
#define MACHNET_NEWS_RECEIVE 1

/**
 * A send that answered MACHNET_STATUS_WOULD_BLOCK may find credit and room now, or how the flow ended.
 */
#define MACHNET_NEWS_SEND 2

/**
 * The listener has a flow.
 */
#define MACHNET_NEWS_ACCEPT 4

/**
 * The connect has its outcome.
 */
#define MACHNET_NEWS_CONNECT 8

/**
 * The flow has ended: what was received before comes first.
 */
#define MACHNET_NEWS_ENDED 16

/**
 * Of the channel: with RECEIVE, a message of a flow made by `machnet_connect` or accepted by `machnet_listen`; with SEND, credit for
 * one of those, or room for a connect that answered MACHNET_STATUS_WOULD_BLOCK.
 */
#define MACHNET_NEWS_CHANNEL 32

/**
 * What a function of this header answers as `int32_t`: 0 or the reason of the failure. The numbers are stable.
 */
enum machnet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  MACHNET_STATUS_OK = 0,
  /**
   * No sidecar listens on the socket: start one with `machnet up`.
   */
  MACHNET_STATUS_NO_SIDECAR = 1,
  /**
   * The socket exists, but this user may not open it.
   */
  MACHNET_STATUS_SOCKET_PERMISSION = 2,
  /**
   * Library and sidecar speak different versions.
   */
  MACHNET_STATUS_VERSION = 3,
  /**
   * The sidecar refused the attach.
   */
  MACHNET_STATUS_ATTACH_REFUSED = 4,
  /**
   * The sidecar has no engine of that number.
   */
  MACHNET_STATUS_NO_ENGINE = 5,
  /**
   * The sidecar is gone: every handle of the channel answers this. Attach again when it is back.
   */
  MACHNET_STATUS_ENGINE_LOST = 6,
  /**
   * Nothing to receive, or no credit to send, right now.
   */
  MACHNET_STATUS_WOULD_BLOCK = 7,
  /**
   * The time given to the call has passed.
   */
  MACHNET_STATUS_TIMED_OUT = 8,
  /**
   * The local address does not belong to the sidecar.
   */
  MACHNET_STATUS_ADDRESS_NOT_LOCAL = 9,
  /**
   * Somebody listens there already.
   */
  MACHNET_STATUS_ADDRESS_IN_USE = 10,
  /**
   * The sidecar refused the listener.
   */
  MACHNET_STATUS_LISTEN_REFUSED = 11,
  /**
   * The peer did not answer: a wrong address, a firewall, or no sidecar there.
   */
  MACHNET_STATUS_CONNECT_TIMED_OUT = 12,
  /**
   * The peer's sidecar answered that nobody listens on that port.
   */
  MACHNET_STATUS_REFUSED = 13,
  /**
   * The peer's listener has too many flows waiting to be accepted.
   */
  MACHNET_STATUS_BUSY = 14,
  /**
   * The connection could not be made; `machnet_last_error` has the reason.
   */
  MACHNET_STATUS_CONNECT_FAILED = 15,
  /**
   * The channel has no such flow.
   */
  MACHNET_STATUS_UNKNOWN_FLOW = 16,
  /**
   * The peer has closed the flow and every message it sent has been received.
   */
  MACHNET_STATUS_CLOSED = 17,
  /**
   * The flow was broken off; some of the messages sent may not have arrived.
   */
  MACHNET_STATUS_RESET = 18,
  /**
   * The message is larger than the peer can take, or than 8 MiB.
   */
  MACHNET_STATUS_MESSAGE_TOO_LARGE = 19,
  /**
   * A message has at least one byte.
   */
  MACHNET_STATUS_EMPTY_MESSAGE = 20,
  /**
   * The message is larger than the buffer; it was not taken.
   */
  MACHNET_STATUS_BUFFER_TOO_SMALL = 21,
  /**
   * The call does not fit the flow's or the channel's mode.
   */
  MACHNET_STATUS_WRONG_MODE = 22,
  /**
   * The handle was made before a fork and used in the child.
   */
  MACHNET_STATUS_FORKED = 23,
  /**
   * A NULL pointer, a malformed address or a number out of range.
   */
  MACHNET_STATUS_INVALID_ARGUMENT = 24,
  /**
   * The channel or the sidecar has as many flows as it can hold.
   */
  MACHNET_STATUS_TOO_MANY_FLOWS = 25,
  /**
   * The sidecar broke the rules of the shared memory.
   */
  MACHNET_STATUS_SIDECAR_BROKEN = 26,
  /**
   * The operating system answered an error; `machnet_last_error` names it.
   */
  MACHNET_STATUS_IO = 27,
  /**
   * Another thread ended the wait with `machnet_cancel_trigger`.
   */
  MACHNET_STATUS_CANCELLED = 28,
  /**
   * The flow is a stream here, and something else to the peer.
   */
  MACHNET_STATUS_NOT_A_STREAM = 29,
  /**
   * A defect of this library, stopped at its boundary. Please report it.
   */
  MACHNET_STATUS_INTERNAL = 1000,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum machnet_status machnet_status;
#else
typedef int32_t machnet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Ends waits from another thread.
 */
typedef struct machnet_cancel_t machnet_cancel_t;

/**
 * A channel: the attachment to a sidecar. From `machnet_attach_with` or `machnet_attach`.
 */
typedef struct machnet_channel_t machnet_channel_t;

/**
 * One connection.
 */
typedef struct machnet_flow_handle_t machnet_flow_handle_t;

/**
 * Waits for flows on an address.
 */
typedef struct machnet_listener_t machnet_listener_t;

/**
 * Room for a message to send that is lent to the program.
 */
typedef struct machnet_loan_t machnet_loan_t;

/**
 * A received message that is lent to the program.
 */
typedef struct machnet_message_t machnet_message_t;

/**
 * A connect under way.
 */
typedef struct machnet_pending_t machnet_pending_t;

/**
 * A byte stream, both ways.
 */
typedef struct machnet_stream_t machnet_stream_t;

/**
 * What can be chosen at attach. Fill it with `machnet_attach_options_init` first, then change what matters.
 */
typedef struct {
  /**
   * `sizeof` this struct in the program, so that it may grow in later versions.
   */
  size_t struct_size;
  /**
   * The sidecar's socket. NULL: $MACHNET_SOCKET, else the user's own sidecar if there is one, else the system's.
   */
  const char *socket_path;
  /**
   * The name that `machnet status` shows. NULL: the program's.
   */
  const char *name;
  /**
   * Number of the engine that shall serve the channel; -1: any.
   */
  int32_t engine;
  /**
   * 0: the event fd is a pipe; 1: a stream socket.
   */
  uint32_t doorbell;
  /**
   * How blocking calls wait. 0: automatic; 1: spin, for a thread with a CPU of its own; 2: yield; 3: sleep at once.
   */
  uint32_t wait_policy;
  /**
   * How long a close of the channel waits until what was sent is acknowledged, in milliseconds. Default: 1000.
   */
  uint32_t linger_ms;
  /**
   * Sizes of the channel. 0: default, takes 8 MiB messages both ways; 1: small, 256 KiB in all; 2: large, for bulk.
   */
  uint32_t sizes;
  /**
   * Slots of the send ring, a power of two. This and the following: 0 keeps what `sizes` says.
   */
  uint32_t send_slots;
  /**
   * Slots of the receive ring, a power of two.
   */
  uint32_t receive_slots;
  /**
   * Buffers to send from.
   */
  uint32_t tx_buffers;
  /**
   * Buffers to receive into.
   */
  uint32_t rx_buffers;
  /**
   * Bytes of one buffer, a power of two.
   */
  uint32_t buffer_bytes;
  /**
   * Most flows at a time.
   */
  uint32_t max_flows;
  /**
   * Messages of one flow that may be sent and not yet acknowledged.
   */
  uint32_t flow_credit;
} machnet_attach_options_t;

/**
 * An IP address and a port.
 */
typedef struct {
  /**
   * The address in network byte order, as inet_ntop takes it; IPv4 in the first four bytes.
   */
  uint8_t bytes[16];
  /**
   * The port, in host byte order.
   */
  uint16_t port;
  /**
   * 4 or 6.
   */
  uint8_t ip_version;
  /**
   * 0.
   */
  uint8_t reserved;
} machnet_address_t;

/**
 * What a channel is. Set `struct_size` before asking.
 */
typedef struct {
  /**
   * `sizeof` this struct in the program: so much is written.
   */
  size_t struct_size;
  /**
   * Number of the channel, unique for the sidecar's life.
   */
  uint64_t channel;
  /**
   * Messages dropped by `machnet_recv` and `machnet_recvmsg` because the buffer was too small.
   */
  uint64_t dropped_too_small;
  /**
   * Engine that serves the channel.
   */
  uint32_t engine;
  /**
   * Process of the sidecar.
   */
  uint32_t sidecar_pid;
  /**
   * The sidecar's address.
   */
  machnet_address_t local;
  /**
   * Bytes of one buffer.
   */
  uint32_t buffer_bytes;
  /**
   * Buffers to send from.
   */
  uint32_t tx_buffers;
  /**
   * Buffers to receive into.
   */
  uint32_t rx_buffers;
  /**
   * Most flows at a time.
   */
  uint32_t max_flows;
  /**
   * Messages of one flow that may be sent and not yet acknowledged.
   */
  uint32_t flow_credit;
} machnet_channel_info_t;

/**
 * What came for a flow, a listener, a connect or the channel since it was told last.
 */
typedef struct {
  /**
   * Whose it is: what `machnet_flow_set_token` or its like said; 0 if nothing did, and for the channel.
   */
  uint64_t token;
  /**
   * What it is: some of MACHNET_NEWS_RECEIVE and its like, or'ed. Unknown bits may come; ignore them.
   */
  uint32_t events;
  /**
   * 0.
   */
  uint32_t reserved;
} machnet_news_t;

/**
 * What the sidecar knew of a flow when it was asked. Set `struct_size` before asking. Messages and bytes count from the opening
 * of the flow and stay after its end; what belongs to the network path is 0 for a flow between two programs of one host, and 0
 * once the flow has ended.
 */
typedef struct {
  /**
   * `sizeof` this struct in the program: so much is written.
   */
  size_t struct_size;
  /**
   * Smoothed round-trip time between the two sidecars in nanoseconds, 0 before the first sample.
   */
  uint64_t smoothed_rtt_ns;
  /**
   * Least round-trip time of the last 10 to 20 seconds in nanoseconds, 0 before the first sample.
   */
  uint64_t min_rtt_ns;
  /**
   * Messages taken from this program.
   */
  uint64_t messages_sent;
  /**
   * Bytes of those.
   */
  uint64_t bytes_sent;
  /**
   * Messages of those that the peer's sidecar has whole, or that the program on the same host was given.
   */
  uint64_t messages_acknowledged;
  /**
   * Bytes of those.
   */
  uint64_t bytes_acknowledged;
  /**
   * Messages put into this program's memory, read or not.
   */
  uint64_t messages_received;
  /**
   * Bytes of those.
   */
  uint64_t bytes_received;
  /**
   * Segments sent again.
   */
  uint64_t retransmissions;
  /**
   * Datagrams sent, whatever they carried.
   */
  uint64_t datagrams_sent;
  /**
   * Datagrams received.
   */
  uint64_t datagrams_received;
  /**
   * UDP payload bytes sent: headers, acknowledgements and repeats included.
   */
  uint64_t wire_bytes_sent;
  /**
   * UDP payload bytes received.
   */
  uint64_t wire_bytes_received;
  /**
   * Congestion window in bytes.
   */
  uint64_t congestion_window_bytes;
  /**
   * UDP payload bytes sent and neither acknowledged nor given up.
   */
  uint64_t bytes_in_flight;
  /**
   * Largest UDP payload in bytes that was proved to reach the peer.
   */
  uint64_t path_datagram_bytes;
  /**
   * 1 if the peer is a program of the same host, so that no packet is made; else 0.
   */
  uint32_t local;
  /**
   * 0.
   */
  uint32_t reserved;
} machnet_flow_stats_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the library: `major << 16 | minor << 8 | patch`. Thread-safe.
 */
uint32_t machnet_version(void);

/**
 * Version of the library as text, such as "0.1.0"; lives for ever. Thread-safe.
 */
const char *machnet_version_string(void);

/**
 * One sentence about a status; lives for ever, also for a number that is none. Thread-safe.
 */
const char *machnet_strerror(int32_t code);

/**
 * The name of a status, such as "NoSidecar"; "Ok" for 0 and "Unknown" for a number that is none. The same in every language, and
 * lives for ever. Thread-safe.
 */
const char *machnet_error_name(int32_t code);

/**
 * The reason of this thread's last failed call, with names, addresses and numbers. Valid until the thread's next failed call
 * or next `machnet_last_error`. Never NULL. Thread-safe.
 */
const char *machnet_last_error(void);

/**
 * The errno nearest in meaning to a status, the one that the compatible functions would set. Thread-safe.
 */
int32_t machnet_status_errno(int32_t code);

/**
 * Fills `options` with the defaults. `struct_size` is `sizeof *options`. Thread-safe.
 *
 * Returns 0, or MACHNET_STATUS_INVALID_ARGUMENT if `options` is NULL or smaller or larger than any version knows.
 */
int32_t machnet_attach_options_init(machnet_attach_options_t *options, size_t struct_size);

/**
 * The number of an engine, for `engine` of the options, that is named as `machnet status` does: "engine0", "engine 0" or "0". It does
 * not ask whether there is one: `machnet_attach_with` answers MACHNET_STATUS_NO_ENGINE, with those that there are. Thread-safe.
 *
 * Returns 0 and `*engine`; or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_engine_number(const char *name,
                              int32_t *engine);

/**
 * Attaches to a sidecar. `options` may be NULL for the defaults. Takes about a millisecond; waits at most 5 s. Thread-safe.
 *
 * Returns 0 and `*channel`, to be ended with `machnet_channel_close`; or MACHNET_STATUS_NO_SIDECAR, SOCKET_PERMISSION,
 * VERSION, ATTACH_REFUSED, NO_ENGINE, TIMED_OUT, INVALID_ARGUMENT or IO.
 */
int32_t machnet_attach_with(const machnet_attach_options_t *options,
                            machnet_channel_t **channel);

/**
 * Closes all flows of the channel in order, waits at most the linger time until what was sent is acknowledged, and detaches.
 * NULL is ignored. Consumes the handle: no other call may use it meanwhile or later. Flows and listeners of the channel that
 * are still open answer MACHNET_STATUS_CLOSED from now on and must still be closed.
 *
 * Returns 0; or the reason why some of what was sent may be lost. The channel is gone in every case.
 */
int32_t machnet_channel_close(machnet_channel_t *channel);

/**
 * As `machnet_channel_close`, and keeps the handle, for programs in which other threads may still use it: all calls on the channel answer
 * MACHNET_STATUS_CLOSED from now on. The handle must still be ended with `machnet_channel_close`. Thread-safe.
 */
int32_t machnet_channel_shutdown(const machnet_channel_t *channel);

/**
 * Tells what the channel is. Set `info->struct_size` to `sizeof *info` before. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_channel_info(const machnet_channel_t *channel, machnet_channel_info_t *info);

/**
 * The descriptor to poll for readability, alone or with others: poll, select, epoll level-triggered. Never read from it, never
 * close it. The first call switches the channel into event mode: from then on, when a `try_` call has answered
 * MACHNET_STATUS_WOULD_BLOCK (or a compatible one "none"), either the descriptor is readable or nothing has come since.
 * Thread-safe.
 *
 * Returns 0 and `*fd`; or MACHNET_STATUS_INVALID_ARGUMENT, ENGINE_LOST or FORKED.
 */
int32_t machnet_channel_event_fd(const machnet_channel_t *channel,
                                 int32_t *fd);

/**
 * Waits at most `timeout_ms` milliseconds (negative: for ever) for the next message of the flows made by `machnet_connect` or
 * accepted by `machnet_listen`, and lends it. `flow` may be NULL; else it tells whose it is, `src` being the peer. Thread-safe.
 *
 * Returns 0 and `*message`, to be given back with `machnet_message_release`; or MACHNET_STATUS_TIMED_OUT, ENGINE_LOST, FORKED
 * or INVALID_ARGUMENT.
 */
int32_t machnet_channel_recv_loan(const machnet_channel_t *channel,
                                  int32_t timeout_ms,
                                  MachnetFlow_t *flow,
                                  machnet_message_t **message);

/**
 * Sends one message on a flow made by `machnet_connect` or accepted by `machnet_listen`; waits at most `timeout_ms`
 * milliseconds (negative: for ever) for credit. `flow` as for `machnet_send`: `src` is this side. Thread-safe.
 *
 * Returns 0 when the message is accepted, which is not yet delivered; or MACHNET_STATUS_TIMED_OUT, UNKNOWN_FLOW, CLOSED,
 * RESET, MESSAGE_TOO_LARGE, EMPTY_MESSAGE, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was sent.
 */
int32_t machnet_channel_send(const machnet_channel_t *channel,
                             MachnetFlow_t flow,
                             const void *buf,
                             size_t len,
                             int32_t timeout_ms);

/**
 * Closes one flow made by `machnet_connect` or accepted by `machnet_listen`, in order. `flow` as for `machnet_send`: `src` is
 * this side. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW, CLOSED, RESET, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_channel_close_flow(const machnet_channel_t *channel,
                                   MachnetFlow_t flow);

/**
 * Listens on an address of the sidecar, IPv4 or IPv6 as text ("0.0.0.0": the sidecar's own), and a port (0: any free one).
 * `backlog`: how many flows may wait to be accepted; 0: 128. Thread-safe.
 *
 * Returns 0 and `*listener`, to be ended with `machnet_listener_close`; or MACHNET_STATUS_ADDRESS_NOT_LOCAL, ADDRESS_IN_USE,
 * LISTEN_REFUSED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_listener_open(const machnet_channel_t *channel,
                              const char *local_ip,
                              uint16_t port,
                              uint32_t backlog,
                              machnet_listener_t **listener);

/**
 * Waits at most `timeout_ms` milliseconds (negative: for ever) for a flow. Thread-safe.
 *
 * Returns 0 and `*flow`, to be ended with `machnet_flow_close` or its like; or MACHNET_STATUS_TIMED_OUT, CLOSED, ENGINE_LOST,
 * FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_listener_accept(const machnet_listener_t *listener,
                                int32_t timeout_ms,
                                machnet_flow_handle_t **flow);

/**
 * As `machnet_listener_accept`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no flow now. Thread-safe.
 */
int32_t machnet_listener_try_accept(const machnet_listener_t *listener, machnet_flow_handle_t **flow);

/**
 * Where it listens: tells the port that was chosen for port 0. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_listener_address(const machnet_listener_t *listener, machnet_address_t *address);

/**
 * Stops listening and keeps the handle: a thread in `machnet_listener_accept` gets MACHNET_STATUS_CLOSED. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_listener_shutdown(const machnet_listener_t *listener);

/**
 * Stops listening. Flows that were not accepted yet are refused. NULL is ignored. Consumes the handle: no other call may use it
 * meanwhile or later.
 */
void machnet_listener_close(machnet_listener_t *listener);

/**
 * Connects to a listener of another host, or of this one, and waits at most `timeout_ms` milliseconds (negative: as long as the
 * sidecar is configured to, 3 s by default). Addresses are IPv4 or IPv6 as text; `local_ip` NULL: the sidecar's. Thread-safe.
 *
 * Returns 0 and `*flow`, to be ended with `machnet_flow_close` or its like; or MACHNET_STATUS_CONNECT_TIMED_OUT, REFUSED, BUSY,
 * CONNECT_FAILED, ADDRESS_NOT_LOCAL, TOO_MANY_FLOWS, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_connect(const machnet_channel_t *channel,
                             const char *local_ip,
                             const char *remote_ip,
                             uint16_t remote_port,
                             int32_t timeout_ms,
                             machnet_flow_handle_t **flow);

/**
 * As `machnet_flow_connect`, without waiting. Thread-safe.
 *
 * Returns 0 and `*pending`, to be asked with `machnet_pending_try_finish` (when the event fd is readable) and ended with
 * `machnet_pending_drop`; or MACHNET_STATUS_TOO_MANY_FLOWS, WOULD_BLOCK, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_start_connect(const machnet_channel_t *channel,
                                   const char *local_ip,
                                   const char *remote_ip,
                                   uint16_t remote_port,
                                   int32_t timeout_ms,
                                   machnet_pending_t **pending);

/**
 * The outcome of a connect. Thread-safe.
 *
 * Returns 0 and `*flow`, once; MACHNET_STATUS_WOULD_BLOCK while there is none; or as `machnet_flow_connect`.
 */
int32_t machnet_pending_try_finish(const machnet_pending_t *pending, machnet_flow_handle_t **flow);

/**
 * As `machnet_pending_try_finish`, but waits at most `timeout_ms` milliseconds (negative: for ever): MACHNET_STATUS_TIMED_OUT if the
 * outcome is not there by then; it can be asked for again. Thread-safe.
 */
int32_t machnet_pending_finish(const machnet_pending_t *pending,
                               int32_t timeout_ms,
                               machnet_flow_handle_t **flow);

/**
 * Forgets a connect, finished or not; a flow that comes of it later is closed. NULL is ignored. Consumes the handle.
 */
void machnet_pending_drop(machnet_pending_t *pending);

/**
 * Sends one message of `len` bytes, at least 1; waits at most `timeout_ms` milliseconds (negative: for ever) for credit.
 * Thread-safe.
 *
 * Returns 0 when the message is accepted, which is not yet delivered; or MACHNET_STATUS_TIMED_OUT, CLOSED, RESET,
 * MESSAGE_TOO_LARGE, EMPTY_MESSAGE, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was sent.
 */
int32_t machnet_flow_send(const machnet_flow_handle_t *flow,
                          const void *buf,
                          size_t len,
                          int32_t timeout_ms);

/**
 * As `machnet_flow_send`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no credit now. Thread-safe.
 */
int32_t machnet_flow_try_send(const machnet_flow_handle_t *flow, const void *buf, size_t len);

/**
 * Receives the next message into a buffer of `capacity` bytes; waits at most `timeout_ms` milliseconds (negative: for ever).
 * One receive per flow at a time, others queue. Thread-safe.
 *
 * Returns 0 and the message's length in `*len`; MACHNET_STATUS_BUFFER_TOO_SMALL and the length needed in `*len`, and the
 * message stays; TIMED_OUT; CLOSED when the peer has closed and every message is received; RESET; WRONG_MODE, ENGINE_LOST,
 * FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_recv(const machnet_flow_handle_t *flow,
                          void *buf,
                          size_t capacity,
                          int32_t timeout_ms,
                          size_t *len);

/**
 * As `machnet_flow_recv`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no message now. Thread-safe.
 */
int32_t machnet_flow_try_recv(const machnet_flow_handle_t *flow, void *buf, size_t capacity, size_t *len);

/**
 * Lends the next message where it lies, without a copy if it lies in one piece; waits at most `timeout_ms` milliseconds
 * (negative: for ever). What is lent counts against the room that the peer may fill. Thread-safe.
 *
 * Returns 0 and `*message`, to be given back with `machnet_message_release`; else as `machnet_flow_recv`.
 */
int32_t machnet_flow_recv_loan(const machnet_flow_handle_t *flow,
                               int32_t timeout_ms,
                               machnet_message_t **message);

/**
 * As `machnet_flow_recv_loan`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no message now. Thread-safe.
 */
int32_t machnet_flow_try_recv_loan(const machnet_flow_handle_t *flow, machnet_message_t **message);

/**
 * Lends room to write a message of `len` bytes where it will be sent from, without waiting. Thread-safe.
 *
 * Returns 0 and `*loan`, to be filled through `machnet_loan_data` and ended with `machnet_loan_send` or `machnet_loan_drop`;
 * or MACHNET_STATUS_WOULD_BLOCK if there is no room or credit now, CLOSED, RESET, MESSAGE_TOO_LARGE, EMPTY_MESSAGE,
 * ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_try_lend(const machnet_flow_handle_t *flow,
                              size_t len,
                              machnet_loan_t **loan);

/**
 * As `machnet_flow_try_lend`; waits at most `timeout_ms` milliseconds (negative: for ever) for room and credit. Thread-safe.
 */
int32_t machnet_flow_lend(const machnet_flow_handle_t *flow,
                          size_t len,
                          int32_t timeout_ms,
                          machnet_loan_t **loan);

/**
 * The peer's address and port. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_flow_peer_address(const machnet_flow_handle_t *flow, machnet_address_t *address);

/**
 * The address and port of this side. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_flow_local_address(const machnet_flow_handle_t *flow, machnet_address_t *address);

/**
 * The largest message in bytes that the flow takes; 0 only for NULL. Thread-safe.
 */
size_t machnet_flow_max_message(const machnet_flow_handle_t *flow);

/**
 * How many messages were sent and are not yet acknowledged by the peer's sidecar; after the end of the flow: how many may not
 * have arrived. 0 for NULL. Thread-safe.
 */
uint32_t machnet_flow_unacknowledged(const machnet_flow_handle_t *flow);

/**
 * Closes the flow in order behind the last message sent, and keeps the handle: other calls on it, also those that wait in
 * another thread, answer MACHNET_STATUS_CLOSED. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_RESET, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_shutdown(const machnet_flow_handle_t *flow);

/**
 * As `machnet_flow_shutdown`, and waits at most `timeout_ms` milliseconds (negative: for ever) until the peer's sidecar has
 * everything. Keeps the handle. Thread-safe.
 *
 * Returns as `machnet_flow_close_wait`.
 */
int32_t machnet_flow_shutdown_wait(const machnet_flow_handle_t *flow,
                                   int32_t timeout_ms);

/**
 * Ends the flow at once and keeps the handle; what the peer's sidecar has not acknowledged may be lost. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_reset(const machnet_flow_handle_t *flow);

/**
 * Closes the flow in order behind the last message sent, and returns at once. NULL is ignored. Consumes the handle, whatever it
 * returns: no other call may use it meanwhile or later.
 *
 * Returns 0; or MACHNET_STATUS_CLOSED or RESET if the flow had ended, ENGINE_LOST or FORKED.
 */
int32_t machnet_flow_close(machnet_flow_handle_t *flow);

/**
 * Closes the flow in order and waits at most `timeout_ms` milliseconds (negative: for ever) until the peer's sidecar has
 * everything. Consumes the handle, whatever it returns.
 *
 * Returns 0 if it has; or MACHNET_STATUS_TIMED_OUT or CANCELLED (the close goes on), RESET, ENGINE_LOST, FORKED, or
 * INVALID_ARGUMENT for NULL.
 */
int32_t machnet_flow_close_wait(machnet_flow_handle_t *flow,
                                int32_t timeout_ms);

/**
 * Ends the flow at once; what the peer's sidecar has not acknowledged may be lost. NULL is ignored. Consumes the handle.
 */
void machnet_flow_abort(machnet_flow_handle_t *flow);

/**
 * Sends up to `count` messages in order, each piece of `messages` being one, as many as there is credit for, without waiting.
 * At most 256 a call. Thread-safe.
 *
 * Returns 0 and how many were accepted in `*sent`, at least 1; MACHNET_STATUS_WOULD_BLOCK if none could be; or as
 * `machnet_flow_try_send`, and then none was sent.
 */
int32_t machnet_flow_try_send_many(const machnet_flow_handle_t *flow,
                                   const MachnetIovec_t *messages,
                                   size_t count,
                                   size_t *sent);

/**
 * Sends `count` messages in order, each piece of `messages` being one; waits at most `timeout_ms` milliseconds (negative: for
 * ever) for credit. At most 256 a call. Thread-safe.
 *
 * Returns 0 and how many were accepted in `*sent`: all of them, or fewer if the time passed or the flow ended behind the first; or as
 * `machnet_flow_send`, and then none was sent.
 */
int32_t machnet_flow_send_many(const machnet_flow_handle_t *flow,
                               const MachnetIovec_t *messages,
                               size_t count,
                               int32_t timeout_ms,
                               size_t *sent);

/**
 * Lends up to `most` messages that are there, in order, without waiting. At most 256 a call. Thread-safe.
 *
 * Returns 0 and how many in `*count`, at least 1, each in its place of `messages` and each to be released; else as
 * `machnet_flow_try_recv_loan`.
 */
int32_t machnet_flow_try_recv_many(const machnet_flow_handle_t *flow,
                                   machnet_message_t **messages,
                                   size_t most,
                                   size_t *count);

/**
 * Waits at most `timeout_ms` milliseconds (negative: for ever) for a message, and lends it and those behind it that are there, up to
 * `most`. At most 256 a call. Thread-safe.
 *
 * Returns 0 and how many in `*count`, at least 1, each in its place of `messages` and each to be released; else as
 * `machnet_flow_recv_loan`.
 */
int32_t machnet_flow_recv_many(const machnet_flow_handle_t *flow,
                               machnet_message_t **messages,
                               size_t most,
                               int32_t timeout_ms,
                               size_t *count);

/**
 * The message's first byte, valid until the message is released. NULL only for NULL. Thread-safe.
 */
const void *machnet_message_data(const machnet_message_t *message);

/**
 * The message's length in bytes; 0 only for NULL. Thread-safe.
 */
size_t machnet_message_len(const machnet_message_t *message);

/**
 * Gives a message back; its peer may then send more. From any thread, also after the flow and the channel were closed. NULL is
 * ignored. Consumes the handle: no other call may use it meanwhile or later.
 */
void machnet_message_release(machnet_message_t *message);

/**
 * The first byte of the room, valid until the loan is sent or dropped. NULL only for NULL. Thread-safe.
 */
void *machnet_loan_data(machnet_loan_t *loan);

/**
 * Sends the message that was written into the room. It does not wait: room and credit were taken when it was lent. Consumes the
 * handle, whatever it returns.
 *
 * Returns 0; or MACHNET_STATUS_CLOSED, RESET, ENGINE_LOST, FORKED, or INVALID_ARGUMENT for NULL.
 */
int32_t machnet_loan_send(machnet_loan_t *loan);

/**
 * Gives the room back unsent. NULL is ignored. Consumes the handle.
 */
void machnet_loan_drop(machnet_loan_t *loan);

/**
 * Makes what ends waits on this channel from another thread. It does not keep the channel open. Thread-safe.
 *
 * Returns 0 and `*cancel`, to be ended with `machnet_cancel_free`; or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_cancel_new(const machnet_channel_t *channel, machnet_cancel_t **cancel);

/**
 * From now on, calls of this thread that wait end with MACHNET_STATUS_CANCELLED once `cancel` is triggered; NULL: no longer. Set it
 * before a call and take it away after, on the same thread. Meanwhile the thread's calls that wait must be on the channel of
 * `cancel`; they answer MACHNET_STATUS_INVALID_ARGUMENT on another one.
 *
 * Returns 0.
 */
int32_t machnet_cancel_scope(const machnet_cancel_t *cancel);

/**
 * Ends the waits of every thread in the scope of `cancel`, and those to come: it cannot be undone. What they waited for is not lost: a
 * message stays for the next receive, and a message whose send was cancelled was not sent. Not for signal handlers. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_cancel_trigger(const machnet_cancel_t *cancel);

/**
 * Forgets a canceller; threads in its scope go on as they are. NULL is ignored. Consumes the handle: no other call may use it
 * meanwhile or later.
 */
void machnet_cancel_free(machnet_cancel_t *cancel);

/**
 * For an event loop over many flows: writes what came since the last call, at most `most`, so that the loop tries only those
 * instead of all. Each is named by its token and is told once, as often as something comes: try it until it answers
 * MACHNET_STATUS_WOULD_BLOCK, or remember it. Who begins to wait sets the token first and tries then; messages, flows and ends are told
 * also to who never tried.
 *
 * From the first call on, only this call empties the descriptor of `machnet_channel_event_fd`: when it has answered fewer than `most`,
 * either the descriptor is readable or nothing has come since. What the program does itself (it drops a loan, and a send
 * that found no room would find it now) rings no bell, and is told at the next call. Thread-safe.
 *
 * Returns 0 and how many in `*count`, perhaps none. When the channel serves no more, everybody who waits has to be told, so that no
 * single one is: MACHNET_STATUS_ENGINE_LOST, SIDECAR_BROKEN or CLOSED. Else FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_channel_take_news(const machnet_channel_t *channel,
                                  machnet_news_t *news,
                                  size_t most,
                                  size_t *count);

/**
 * What `machnet_channel_take_news` calls the flow from now on; 0 until it is set. Try the flow once behind it: what came before may have
 * been told without it. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_set_token(const machnet_flow_handle_t *flow,
                               uint64_t token);

/**
 * As `machnet_flow_set_token`, of the stream's flow, which also keeps the token that it had. Thread-safe.
 *
 * Returns as that.
 */
int32_t machnet_stream_set_token(const machnet_stream_t *stream, uint64_t token);

/**
 * As `machnet_flow_set_token`, of a listener. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_CLOSED, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_listener_set_token(const machnet_listener_t *listener, uint64_t token);

/**
 * As `machnet_flow_set_token`, of a connect under way. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW after the outcome was told, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_pending_set_token(const machnet_pending_t *pending, uint64_t token);

/**
 * What the sidecar knows of a flow. Set `stats->struct_size` to `sizeof *stats` before. A rare call: the sidecar is asked over its
 * socket, which takes tens of microseconds. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_UNKNOWN_FLOW if it is no more, VERSION from a sidecar that is too old to know, TIMED_OUT after 5 s,
 * CLOSED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_flow_stats(const machnet_flow_handle_t *flow,
                           machnet_flow_stats_t *stats);

/**
 * As `machnet_flow_stats`, of a flow made by `machnet_connect` or accepted by `machnet_listen`. `flow` as for `machnet_send`: `src` is
 * this side. Thread-safe.
 */
int32_t machnet_channel_flow_stats(const machnet_channel_t *channel,
                                   MachnetFlow_t flow,
                                   machnet_flow_stats_t *stats);

/**
 * Makes a byte stream of a flow of which nothing was received yet. The peer has to do the same: both ends agree on it, as they agree
 * on a port. Consumes the flow's handle, whatever it returns. Thread-safe.
 *
 * Returns 0 and `*stream`, to be ended with `machnet_stream_close`; or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_stream_open(machnet_flow_handle_t *flow,
                            machnet_stream_t **stream);

/**
 * The peer's address and port. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_stream_peer_address(const machnet_stream_t *stream, machnet_address_t *address);

/**
 * The address and port of this side. Thread-safe.
 *
 * Returns 0 or MACHNET_STATUS_INVALID_ARGUMENT.
 */
int32_t machnet_stream_local_address(const machnet_stream_t *stream, machnet_address_t *address);

/**
 * As `machnet_flow_stats`, of the flow under the stream. Thread-safe.
 */
int32_t machnet_stream_stats(const machnet_stream_t *stream, machnet_flow_stats_t *stats);

/**
 * Ends both directions at once and keeps the handle: the peer gets MACHNET_STATUS_RESET, not the end of the stream. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_stream_reset(const machnet_stream_t *stream);

/**
 * Reads up to `capacity` bytes; waits at most `timeout_ms` milliseconds (negative: for ever) for the first. Thread-safe.
 *
 * Returns 0 and how many in `*len`, 0 being the end of the stream; or MACHNET_STATUS_TIMED_OUT, RESET, NOT_A_STREAM, CLOSED if this side
 * closed the channel, CANCELLED, ENGINE_LOST, FORKED or INVALID_ARGUMENT, and then nothing was read.
 */
int32_t machnet_stream_read(const machnet_stream_t *stream,
                            void *buf,
                            size_t capacity,
                            int32_t timeout_ms,
                            size_t *len);

/**
 * As `machnet_stream_read`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there are no bytes now. Thread-safe.
 */
int32_t machnet_stream_try_read(const machnet_stream_t *stream, void *buf, size_t capacity, size_t *len);

/**
 * Writes as many of `len` bytes as one message takes, at most 65,535; waits at most `timeout_ms` milliseconds (negative: for ever)
 * for room. What is written goes at once. Call it again for the rest. Thread-safe.
 *
 * Returns 0 and how many in `*written`, at least 1; or MACHNET_STATUS_TIMED_OUT, CLOSED if the peer closed or this side ended writing,
 * RESET, CANCELLED, ENGINE_LOST, FORKED, EMPTY_MESSAGE for 0 bytes, or INVALID_ARGUMENT, and then nothing was written.
 */
int32_t machnet_stream_write(const machnet_stream_t *stream,
                             const void *buf,
                             size_t len,
                             int32_t timeout_ms,
                             size_t *written);

/**
 * As `machnet_stream_write`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no room now. Thread-safe.
 */
int32_t machnet_stream_try_write(const machnet_stream_t *stream, const void *buf, size_t len, size_t *written);

/**
 * Half-closes: the peer reads what was written and then the end of the stream, and this side reads on. Waits at most `timeout_ms`
 * milliseconds (negative: for ever) for room to say so. Doing it again does nothing. Thread-safe.
 *
 * Returns 0; or MACHNET_STATUS_TIMED_OUT, RESET, CANCELLED, ENGINE_LOST, FORKED or INVALID_ARGUMENT.
 */
int32_t machnet_stream_end(const machnet_stream_t *stream,
                           int32_t timeout_ms);

/**
 * As `machnet_stream_end`, without waiting: MACHNET_STATUS_WOULD_BLOCK if there is no room now. Thread-safe.
 */
int32_t machnet_stream_try_end(const machnet_stream_t *stream);

/**
 * Closes both directions in order behind what was written, and returns at once. NULL is ignored. Consumes the handle: no other call may
 * use it meanwhile or later.
 */
void machnet_stream_close(machnet_stream_t *stream);

/**
 * Asks whether a sidecar answers. Nothing has to be set up before `machnet_attach`. Thread-safe.
 *
 * Returns 0 if one does, else -1 with errno.
 */
int machnet_init(void);

/**
 * Attaches to the sidecar of $MACHNET_SOCKET, else of the user, else of the system. Thread-safe.
 *
 * Returns a channel (a `machnet_channel_t *`), to be ended with `machnet_detach`; or NULL with errno.
 */
void *machnet_attach(void);

/**
 * Listens on an IPv4 address of the sidecar, given as text, and a port. Flows that arrive are accepted by themselves, and
 * `machnet_recv` returns their messages. Thread-safe.
 *
 * Returns 0; -22 if `local_ip` is no IPv4 address; -1 with errno if `channel` is NULL (EINVAL), the address is not the
 * sidecar's (EADDRNOTAVAIL) or in use (EADDRINUSE), or the sidecar is gone (ENETDOWN).
 */
int machnet_listen(void *channel,
                   const char *local_ip,
                   uint16_t port);

/**
 * Connects from an address of the sidecar ("0.0.0.0" or NULL: the sidecar's own) to a listener of another host. Waits for the
 * outcome as long as the sidecar is configured to, 3 s by default. Thread-safe.
 *
 * Returns 0 and `*flow`, ready for `machnet_send`; or -1 with errno: EINVAL for a NULL pointer or an address that is none,
 * EADDRNOTAVAIL for a local address that is not the sidecar's, ECONNREFUSED if nobody listens, EBUSY if the listener is full,
 * ETIMEDOUT if the peer does not answer, EHOSTUNREACH, EMFILE for too many flows, ENETDOWN if the sidecar is gone.
 */
int machnet_connect(void *channel,
                    const char *local_ip,
                    const char *remote_ip,
                    uint16_t remote_port,
                    MachnetFlow_t *flow);

/**
 * Sends one message of 1 to MACHNET_MSG_MAX_LEN bytes. `flow` is one that `machnet_connect` answered, or one that a message
 * came with, with its two sides swapped. Does not block. Thread-safe.
 *
 * Returns 0 when the message is accepted, which is not yet delivered; or -1 with errno: EAGAIN if the flow has no credit now,
 * EPIPE if it was closed or reset, ENOTCONN if there is no such flow, EMSGSIZE if the message is larger than the peer takes or
 * than MACHNET_MSG_MAX_LEN, EINVAL for 0 bytes or a NULL pointer, ENETDOWN if the sidecar is gone.
 */
int machnet_send(const void *channel,
                 MachnetFlow_t flow,
                 const void *buf,
                 size_t len);

/**
 * Sends one message that lies in several pieces: its first `msg_size` bytes. All or nothing: either the whole message is
 * accepted or none of it. Does not block. Thread-safe.
 *
 * Returns as `machnet_send`; EINVAL also if the pieces hold less than `msg_size` bytes or there are more than 1,024 of them.
 */
int machnet_sendmsg(const void *channel,
                    const MachnetMsgHdr_t *msghdr);

/**
 * Sends `vlen` messages in order, each as `machnet_sendmsg` would, and stops at the first that cannot be accepted. Does not
 * block. Thread-safe.
 *
 * Returns how many were accepted. If fewer than `vlen`, errno tells why the next one was not.
 */
int machnet_sendmmsg(const void *channel,
                     const MachnetMsgHdr_t *msghdr_iovec,
                     int vlen);

/**
 * Receives the next message of all flows of the channel, in the order of arrival, without blocking. `flow` may be NULL; else
 * it tells whose the message is: `src` is the peer, so swap the sides to reply. Thread-safe.
 *
 * Returns the message's length in bytes; 0 if there is none; or -1 with errno: EMSGSIZE if the message was larger than `len`,
 * and it is dropped and counted (see `machnet_channel_info`); EINVAL for a NULL pointer or `len` 0; ENETDOWN if the sidecar is
 * gone.
 */
ssize_t machnet_recv(const void *channel,
                     void *buf,
                     size_t len,
                     MachnetFlow_t *flow);

/**
 * Receives the next message of all flows of the channel into the pieces of `msghdr`, in order, without blocking. Sets
 * `msg_size`, `flow_info` and `flags`. Thread-safe.
 *
 * Returns 1; 0 if there is no message; or -1 with errno as `machnet_recv`, the pieces together being the buffer.
 */
int machnet_recvmsg(const void *channel, MachnetMsgHdr_t *msghdr);

/**
 * As `machnet_channel_close`: closes all flows in order, waits at most the linger time (1 s) until what was sent is
 * acknowledged, and detaches. NULL is ignored. Consumes the channel: no other call may use it meanwhile or later.
 */
void machnet_detach(const void *channel);

/**
 * Reserved: tells nothing, for there is no channel whose shared memory a program could bind by itself.
 *
 * Returns NULL and sets `*channel_size`, unless NULL, to 0. The local address of a channel is named by `machnet_listen` and
 * `machnet_connect`. Thread-safe.
 */
void *machnet_bind(int shm_fd,
                   size_t *channel_size);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MACHNET_H */
