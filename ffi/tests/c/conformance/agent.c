/*
 * The agent of the conformance suite over machnet.h. ci/conformance/README.md specifies it.
 *
 * A command is a function that answers a machnet_status and puts the members of its answer into `struct answer`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <machnet.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "content.h"
#include "json.h"

enum { MOST_HANDLES = 4096, NAME_BYTES = 64, PATH_BYTES = 512, ANSWER_BYTES = 4096, BATCH = 32, PIECE = 64 * 1024 };

/* What a command answers beside the library's statuses: the agent itself cannot go on. */
enum { FAULT = -1 };

enum kind { CHANNEL = 1, LISTENER, FLOW, STREAM, MESSAGE };

struct handle {
    char name[NAME_BYTES];
    enum kind kind;
    void *native;
    machnet_channel_t *channel; /* It belongs to this one. */
};

struct answer {
    char members[ANSWER_BYTES], fault[256];
    size_t used;
};

struct task {
    char name[NAME_BYTES], *command, *line;
    machnet_cancel_t *cancel;
    pthread_t thread;
    struct task *next;
};

static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
static struct handle handles[MOST_HANDLES];
static size_t handle_count;
static struct task *tasks;

/* ---- answers and handles */

__attribute__((format(printf, 2, 3))) static void put(struct answer *answer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (answer->used > 0) answer->used += (size_t)snprintf(answer->members + answer->used, 3, ", ");
    size_t left = ANSWER_BYTES - answer->used;
    answer->used += (size_t)vsnprintf(answer->members + answer->used, left, format, arguments);
    va_end(arguments);
    if (answer->used >= ANSWER_BYTES) abort();
}

static int32_t fault(struct answer *answer, const char *text, const char *what) {
    snprintf(answer->fault, sizeof answer->fault, "%s %s", text, what);
    return FAULT;
}

static bool find(const char *command, const char *member, struct handle *found) {
    char name[NAME_BYTES];
    if (!json_text(command, member, name, sizeof name)) return false;
    bool is_there = false;
    pthread_mutex_lock(&handles_lock);
    for (size_t i = 0; i < handle_count && !is_there; i++) {
        is_there = strcmp(handles[i].name, name) == 0;
        if (is_there) *found = handles[i];
    }
    pthread_mutex_unlock(&handles_lock);
    return is_there;
}

static void *find_kind(const char *command, const char *member, enum kind kind) {
    struct handle found;
    return find(command, member, &found) && found.kind == kind ? found.native : NULL;
}

static void name_it(const char *command, enum kind kind, void *native, machnet_channel_t *channel) {
    struct handle made = {.kind = kind, .native = native, .channel = channel};
    json_text(command, "as", made.name, sizeof made.name);
    pthread_mutex_lock(&handles_lock);
    if (handle_count == MOST_HANDLES) abort();
    handles[handle_count++] = made;
    pthread_mutex_unlock(&handles_lock);
}

static void forget(const char *command, const char *member) {
    char name[NAME_BYTES];
    json_text(command, member, name, sizeof name);
    pthread_mutex_lock(&handles_lock);
    for (size_t i = 0; i < handle_count; i++) {
        if (strcmp(handles[i].name, name) == 0) handles[i--] = handles[--handle_count];
    }
    pthread_mutex_unlock(&handles_lock);
}

static machnet_channel_t *channel_of(const char *command) {
    static const char *const members[] = {"flow", "stream", "listener", "channel", "handle"};
    struct handle found;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (find(command, members[i], &found)) return found.channel;
    }
    return NULL;
}

static int32_t timeout_of(const char *command) { return (int32_t)json_number(command, "timeout_ms", -1); }

static bool how_is(const char *command, const char *how) {
    char given[16] = "copy";
    json_text(command, "how", given, sizeof given);
    return strcmp(given, how) == 0;
}

static bool read_series(const char *command, struct series *series) {
    series->seed = (uint64_t)json_number(command, "seed", 0);
    series->count_of_lengths = json_numbers(command, "lengths", series->lengths, MOST_LENGTHS);
    series->largest = 0;
    for (size_t i = 0; i < series->count_of_lengths; i++) {
        if (series->lengths[i] < NUMBER_BYTES) return false;
        if (series->lengths[i] > series->largest) series->largest = series->lengths[i];
    }
    return series->count_of_lengths > 0;
}

/* An address such as "127.0.0.5:7000" in its two parts. */
static bool split_address(const char *command, char *ip, size_t capacity, uint16_t *port) {
    if (!json_text(command, "address", ip, capacity)) return false;
    char *colon = strrchr(ip, ':');
    if (colon == NULL) return false;
    *colon = '\0';
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return true;
}

static const char *write_address(const machnet_address_t *address, char *out, size_t capacity, bool with_port) {
    char ip[INET6_ADDRSTRLEN];
    inet_ntop(address->ip_version == 4 ? AF_INET : AF_INET6, address->bytes, ip, sizeof ip);
    if (with_port) snprintf(out, capacity, "%s:%u", ip, address->port);
    else snprintf(out, capacity, "%s", ip);
    return out;
}

/* ---- channels, listeners, flows */

static int32_t do_features(const char *command, struct answer *answer) {
    (void)command;
    put(answer, "\"agent\": \"c\", \"version\": \"%s\", \"protocol\": 1, \"lacks\": {}", machnet_version_string());
    return 0;
}

static int32_t do_attach(const char *command, struct answer *answer) {
    char socket[PATH_BYTES], name[NAME_BYTES], ip[64];
    if (!json_text(command, "socket", socket, sizeof socket)) return fault(answer, "no", "socket");
    machnet_attach_options_t options;
    machnet_attach_options_init(&options, sizeof options);
    options.socket_path = socket;
    if (json_text(command, "name", name, sizeof name)) options.name = name;
    options.engine = (int32_t)json_number(command, "engine", -1);
    options.linger_ms = (uint32_t)json_number(command, "linger_ms", options.linger_ms);
    machnet_channel_t *channel;
    int32_t status = machnet_attach_with(&options, &channel);
    if (status != 0) return status;
    machnet_channel_info_t info = {.struct_size = sizeof info};
    if ((status = machnet_channel_info(channel, &info)) != 0) return status;
    name_it(command, CHANNEL, channel, channel);
    put(answer, "\"engine\": %u, \"sidecar_pid\": %u, \"local\": \"%s\"", info.engine, info.sidecar_pid,
        write_address(&info.local, ip, sizeof ip, false));
    return 0;
}

static int32_t do_listen(const char *command, struct answer *answer) {
    machnet_channel_t *channel = find_kind(command, "channel", CHANNEL);
    char ip[64];
    uint16_t port;
    if (channel == NULL || !split_address(command, ip, sizeof ip, &port)) return fault(answer, "no", "channel or address");
    machnet_listener_t *listener;
    int32_t status = machnet_listener_open(channel, ip, port, (uint32_t)json_number(command, "backlog", 0), &listener);
    if (status != 0) return status;
    machnet_address_t address;
    machnet_listener_address(listener, &address);
    name_it(command, LISTENER, listener, channel);
    put(answer, "\"address\": \"%s\"", write_address(&address, ip, sizeof ip, true));
    return 0;
}

static int32_t name_flow(const char *command, struct answer *answer, machnet_flow_handle_t *flow, machnet_channel_t *channel) {
    machnet_address_t local, peer;
    char local_text[64], peer_text[64];
    machnet_flow_local_address(flow, &local);
    machnet_flow_peer_address(flow, &peer);
    put(answer, "\"local\": \"%s\", \"peer\": \"%s\", \"max_message\": %zu", write_address(&local, local_text, sizeof local_text, true),
        write_address(&peer, peer_text, sizeof peer_text, true), machnet_flow_max_message(flow));
    name_it(command, FLOW, flow, channel);
    return 0;
}

static int32_t do_connect(const char *command, struct answer *answer) {
    machnet_channel_t *channel = find_kind(command, "channel", CHANNEL);
    char ip[64];
    uint16_t port;
    if (channel == NULL || !split_address(command, ip, sizeof ip, &port)) return fault(answer, "no", "channel or address");
    machnet_flow_handle_t *flow;
    int32_t status = machnet_flow_connect(channel, NULL, ip, port, timeout_of(command), &flow);
    return status != 0 ? status : name_flow(command, answer, flow, channel);
}

static int32_t do_accept(const char *command, struct answer *answer) {
    machnet_listener_t *listener = find_kind(command, "listener", LISTENER);
    if (listener == NULL) return fault(answer, "no", "listener");
    machnet_flow_handle_t *flow;
    int32_t status = machnet_listener_accept(listener, timeout_of(command), &flow);
    return status != 0 ? status : name_flow(command, answer, flow, channel_of(command));
}

static int32_t do_try_accept(const char *command, struct answer *answer) {
    machnet_listener_t *listener = find_kind(command, "listener", LISTENER);
    if (listener == NULL) return fault(answer, "no", "listener");
    machnet_flow_handle_t *flow;
    int32_t status = machnet_listener_try_accept(listener, &flow);
    return status != 0 ? status : name_flow(command, answer, flow, channel_of(command));
}

/* The calls that keep the handle: it is ended at `clear`. */
static int32_t do_close(const char *command, struct answer *answer) {
    struct handle it;
    if (!find(command, "handle", &it)) return fault(answer, "no", "handle");
    int32_t wait_ms = (int32_t)json_number(command, "wait_ms", -1);
    switch (it.kind) {
        case CHANNEL: return machnet_channel_shutdown(it.native);
        case LISTENER: return machnet_listener_shutdown(it.native);
        case FLOW:
            return json_has(command, "wait_ms") ? machnet_flow_shutdown_wait(it.native, wait_ms) : machnet_flow_shutdown(it.native);
        case STREAM:
            /* Streams have no such call: no scenario uses one after its own close. */
            forget(command, "handle");
            machnet_stream_close(it.native);
            return 0;
        default: return fault(answer, "cannot close", "a message");
    }
}

static int32_t do_reset(const char *command, struct answer *answer) {
    struct handle it;
    if (!find(command, "handle", &it) || (it.kind != FLOW && it.kind != STREAM)) return fault(answer, "no", "flow or stream");
    return it.kind == FLOW ? machnet_flow_reset(it.native) : machnet_stream_reset(it.native);
}

static int32_t do_stats(const char *command, struct answer *answer) {
    struct handle it;
    if (!find(command, "handle", &it) || (it.kind != FLOW && it.kind != STREAM)) return fault(answer, "no", "flow or stream");
    machnet_flow_stats_t stats = {.struct_size = sizeof stats};
    int32_t status = it.kind == FLOW ? machnet_flow_stats(it.native, &stats) : machnet_stream_stats(it.native, &stats);
    if (status != 0) return status;
    put(answer, "\"local\": %s", stats.local ? "true" : "false");
#define PUT(name) put(answer, "\"" #name "\": %llu", (unsigned long long)stats.name)
    PUT(smoothed_rtt_ns), PUT(min_rtt_ns), PUT(messages_sent), PUT(bytes_sent), PUT(messages_acknowledged);
    PUT(bytes_acknowledged), PUT(messages_received), PUT(bytes_received), PUT(retransmissions), PUT(datagrams_sent);
    PUT(datagrams_received), PUT(wire_bytes_sent), PUT(wire_bytes_received), PUT(congestion_window_bytes);
    PUT(bytes_in_flight), PUT(path_datagram_bytes);
#undef PUT
    return 0;
}

/* ---- single messages */

static uint8_t *room_of(size_t length) {
    uint8_t *room = malloc(length == 0 ? 1 : length);
    if (room == NULL) abort();
    return room;
}

static int32_t send_loan(machnet_flow_handle_t *flow, const struct series *series, uint32_t number, uint64_t seed, size_t length,
                         int32_t timeout_ms, bool is_sent) {
    machnet_loan_t *loan;
    int32_t status = machnet_flow_lend(flow, length, timeout_ms, &loan);
    if (status != 0) return status;
    if (series != NULL) series_fill(series, number, machnet_loan_data(loan));
    else content_fill(machnet_loan_data(loan), length, seed);
    if (is_sent) return machnet_loan_send(loan);
    machnet_loan_drop(loan);
    return 0;
}

static int32_t send_one(const char *command, struct answer *answer, bool waits) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    if (flow == NULL) return fault(answer, "no", "flow");
    uint64_t seed = (uint64_t)json_number(command, "seed", 0);
    size_t length = (size_t)json_number(command, "length", 0);
    if (!how_is(command, "copy")) {
        return send_loan(flow, NULL, 0, seed, length, timeout_of(command), how_is(command, "loan"));
    }
    uint8_t *message = room_of(length);
    content_fill(message, length, seed);
    int32_t status = waits ? machnet_flow_send(flow, message, length, timeout_of(command)) : machnet_flow_try_send(flow, message, length);
    free(message);
    return status;
}

static int32_t do_send(const char *command, struct answer *answer) { return send_one(command, answer, true); }
static int32_t do_try_send(const char *command, struct answer *answer) { return send_one(command, answer, false); }

static void put_received(const char *command, struct answer *answer, const void *bytes, size_t length) {
    put(answer, "\"length\": %zu", length);
    if (!json_has(command, "seed")) return;
    bool is_right = content_is(bytes, length, (uint64_t)json_number(command, "seed", 0), 0);
    put(answer, "\"ok\": %s", is_right ? "true" : "false");
}

/* A plain receive needs a buffer, so it asks for one of the needed size and tries again, as a program would. */
static int32_t recv_copy(machnet_flow_handle_t *flow, int32_t timeout_ms, bool waits, uint8_t **bytes, size_t *length) {
    size_t capacity = PIECE;
    for (;;) {
        *bytes = room_of(capacity);
        int32_t status = waits ? machnet_flow_recv(flow, *bytes, capacity, timeout_ms, length)
                               : machnet_flow_try_recv(flow, *bytes, capacity, length);
        if (status == 0) return 0;
        free(*bytes);
        if (status != MACHNET_STATUS_BUFFER_TOO_SMALL) return status;
        capacity = *length;
    }
}

static int32_t do_recv(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    if (flow == NULL) return fault(answer, "no", "flow");
    uint8_t *bytes;
    size_t length;
    int32_t status;
    if (how_is(command, "loan")) {
        machnet_message_t *message;
        if ((status = machnet_flow_recv_loan(flow, timeout_of(command), &message)) != 0) return status;
        put_received(command, answer, machnet_message_data(message), machnet_message_len(message));
        if (json_has(command, "as")) name_it(command, MESSAGE, message, channel_of(command));
        else machnet_message_release(message);
        return 0;
    }
    if (how_is(command, "into")) {
        size_t capacity = (size_t)json_number(command, "capacity", 0);
        bytes = room_of(capacity);
        status = machnet_flow_recv(flow, bytes, capacity, timeout_of(command), &length);
        if (status == 0) put_received(command, answer, bytes, length);
        free(bytes);
        return status;
    }
    if ((status = recv_copy(flow, timeout_of(command), true, &bytes, &length)) != 0) return status;
    put_received(command, answer, bytes, length);
    free(bytes);
    return 0;
}

static int32_t do_try_recv(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    uint8_t *bytes;
    size_t length;
    if (flow == NULL) return fault(answer, "no", "flow");
    int32_t status = recv_copy(flow, 0, false, &bytes, &length);
    if (status != 0) return status;
    put_received(command, answer, bytes, length);
    free(bytes);
    return 0;
}

static int32_t do_release(const char *command, struct answer *answer) {
    machnet_message_t *message = find_kind(command, "message", MESSAGE);
    if (message == NULL) return fault(answer, "no", "message");
    put_received(command, answer, machnet_message_data(message), machnet_message_len(message));
    forget(command, "message");
    machnet_message_release(message);
    return 0;
}

/* ---- series of messages */

static int32_t send_batch(machnet_flow_handle_t *flow, const struct series *series, uint32_t number, size_t count, int32_t timeout_ms,
                          size_t *sent) {
    MachnetIovec_t pieces[BATCH];
    for (size_t i = 0; i < count; i++) {
        pieces[i].len = series_length(series, number + (uint32_t)i);
        pieces[i].base = room_of(pieces[i].len);
        series_fill(series, number + (uint32_t)i, pieces[i].base);
    }
    int32_t status = machnet_flow_send_many(flow, pieces, count, timeout_ms, sent);
    for (size_t i = 0; i < count; i++) free(pieces[i].base);
    return status;
}

static int32_t do_send_series(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct series series;
    if (flow == NULL || !read_series(command, &series)) return fault(answer, "no", "flow or lengths");
    uint32_t first = (uint32_t)json_number(command, "first", 0), count = (uint32_t)json_number(command, "count", 0), sent = 0;
    int32_t timeout_ms = timeout_of(command), status = 0;
    uint8_t *room = room_of(series.largest);
    while (sent < count && status == 0) {
        uint32_t number = first + sent;
        size_t done = 1;
        if (how_is(command, "batch")) {
            status = send_batch(flow, &series, number, count - sent < BATCH ? count - sent : BATCH, timeout_ms, &done);
        } else if (how_is(command, "loan")) {
            status = send_loan(flow, &series, number, 0, series_length(&series, number), timeout_ms, true);
        } else {
            series_fill(&series, number, room);
            status = how_is(command, "try") ? machnet_flow_try_send(flow, room, series_length(&series, number))
                                            : machnet_flow_send(flow, room, series_length(&series, number), timeout_ms);
        }
        if (status == 0) sent += (uint32_t)done;
    }
    free(room);
    put(answer, "\"sent\": %u", sent);
    return status == MACHNET_STATUS_WOULD_BLOCK ? 0 : status;
}

/* Checks that each message is the next. */
struct expected {
    struct series series;
    uint32_t next, first, end;
    bool is_right;
};

static bool expect(const char *command, struct expected *expected) {
    expected->first = expected->next = (uint32_t)json_number(command, "first", 0);
    expected->end = expected->first + (uint32_t)json_number(command, "count", 0);
    expected->is_right = true;
    return read_series(command, &expected->series);
}

static void take(struct expected *expected, const void *message, size_t length) {
    uint32_t number;
    expected->is_right = expected->is_right && expected->next < expected->end &&
                         series_number(&expected->series, message, length, &number) && number == expected->next;
    if (expected->is_right) expected->next++;
}

static int32_t put_expected(struct answer *answer, const struct expected *expected, int32_t status) {
    put(answer, "\"received\": %u", expected->next - expected->first);
    if (status != 0) return status;
    put(answer, "\"ok\": %s", expected->is_right ? "true" : "false");
    if (!expected->is_right) put(answer, "\"number\": %u", expected->next);
    return 0;
}

static int32_t take_batch(machnet_flow_handle_t *flow, struct expected *expected, int32_t timeout_ms) {
    machnet_message_t *messages[BATCH];
    size_t most = expected->end - expected->next < BATCH ? expected->end - expected->next : BATCH, count;
    int32_t status = machnet_flow_recv_many(flow, messages, most, timeout_ms, &count);
    for (size_t i = 0; status == 0 && i < count; i++) {
        take(expected, machnet_message_data(messages[i]), machnet_message_len(messages[i]));
        machnet_message_release(messages[i]);
    }
    return status;
}

/* Takes what is there, then waits for the channel's descriptor. */
static int32_t take_ready(const char *command, machnet_flow_handle_t *flow, struct expected *expected, uint8_t *room) {
    int32_t fd, status = machnet_channel_event_fd(channel_of(command), &fd);
    size_t length;
    while (status == 0 && expected->is_right && expected->next < expected->end) {
        status = machnet_flow_try_recv(flow, room, expected->series.largest, &length);
        if (status == 0) take(expected, room, length);
    }
    if (status != MACHNET_STATUS_WOULD_BLOCK) return status;
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    return poll(&watched, 1, timeout_of(command)) == 0 ? MACHNET_STATUS_TIMED_OUT : 0;
}

static int32_t do_recv_series(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct expected expected;
    if (flow == NULL || !expect(command, &expected)) return fault(answer, "no", "flow or lengths");
    int32_t timeout_ms = timeout_of(command), status = 0;
    uint8_t *room = room_of(expected.series.largest);
    while (expected.next < expected.end && expected.is_right && status == 0) {
        if (how_is(command, "batch")) {
            status = take_batch(flow, &expected, timeout_ms);
        } else if (how_is(command, "event_fd")) {
            status = take_ready(command, flow, &expected, room);
        } else if (how_is(command, "loan")) {
            machnet_message_t *message;
            if ((status = machnet_flow_recv_loan(flow, timeout_ms, &message)) != 0) break;
            take(&expected, machnet_message_data(message), machnet_message_len(message));
            machnet_message_release(message);
        } else {
            size_t length;
            status = machnet_flow_recv(flow, room, expected.series.largest, timeout_ms, &length);
            if (status == 0) take(&expected, room, length);
        }
    }
    free(room);
    return put_expected(answer, &expected, status);
}

static int32_t do_drain(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct series series;
    if (flow == NULL || !read_series(command, &series)) return fault(answer, "no", "flow or lengths");
    uint64_t count = 0, sum = 0, squares = 0, number;
    bool is_right = true;
    machnet_message_t *message;
    int32_t status;
    while ((status = machnet_flow_recv_loan(flow, timeout_of(command), &message)) == 0) {
        uint32_t found;
        if (series_number(&series, machnet_message_data(message), machnet_message_len(message), &found)) {
            number = found, count++, sum += number, squares += number * number;
        } else {
            is_right = false;
        }
        machnet_message_release(message);
    }
    put(answer, "\"count\": %llu", (unsigned long long)count);
    if (status != MACHNET_STATUS_CLOSED) return status;
    put(answer, "\"sum\": %llu, \"squares\": %llu, \"ok\": %s", (unsigned long long)sum, (unsigned long long)squares,
        is_right ? "true" : "false");
    return 0;
}

static int32_t do_ping(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct expected expected;
    if (flow == NULL || !expect(command, &expected)) return fault(answer, "no", "flow or lengths");
    int32_t status = 0;
    size_t length;
    uint8_t *room = room_of(expected.series.largest);
    while (expected.next < expected.end && expected.is_right && status == 0) {
        series_fill(&expected.series, expected.next, room);
        status = machnet_flow_send(flow, room, series_length(&expected.series, expected.next), timeout_of(command));
        if (status == 0) status = machnet_flow_recv(flow, room, expected.series.largest, timeout_of(command), &length);
        if (status == 0) take(&expected, room, length);
    }
    free(room);
    return put_expected(answer, &expected, status);
}

static int32_t do_echo(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    if (flow == NULL) return fault(answer, "no", "flow");
    size_t messages = 0, bytes = 0;
    int32_t status;
    machnet_message_t *message;
    while ((status = machnet_flow_recv_loan(flow, timeout_of(command), &message)) == 0) {
        size_t length = machnet_message_len(message);
        status = machnet_flow_send(flow, machnet_message_data(message), length, timeout_of(command));
        machnet_message_release(message);
        if (status != 0) break;
        messages++, bytes += length;
    }
    put(answer, "\"messages\": %zu, \"bytes\": %zu", messages, bytes);
    return status == MACHNET_STATUS_CLOSED ? 0 : status;
}

static int32_t do_supply(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct expected expected;
    if (flow == NULL || !expect(command, &expected)) return fault(answer, "no", "flow or lengths");
    int32_t status = 0;
    uint8_t *room = room_of(expected.series.largest);
    uint32_t number = expected.first;
    for (; number < expected.end && status == 0; number++) {
        machnet_message_t *demand;
        if ((status = machnet_flow_recv_loan(flow, timeout_of(command), &demand)) != 0) break;
        machnet_message_release(demand);
        series_fill(&expected.series, number, room);
        status = machnet_flow_send(flow, room, series_length(&expected.series, number), timeout_of(command));
    }
    free(room);
    put(answer, "\"sent\": %u", number - expected.first);
    return status;
}

/* ---- the storm */

struct storm {
    int requests, answers; /* Pipes: a canceller to trigger, and that it was. */
};

static void *trigger_them(void *argument) {
    struct storm *storm = argument;
    machnet_cancel_t *cancel;
    while (read(storm->requests, &cancel, sizeof cancel) == (ssize_t)sizeof cancel) {
        machnet_cancel_trigger(cancel);
        if (write(storm->answers, "", 1) != 1) abort();
    }
    return NULL;
}

/* A receive that the other thread cancels at once. */
static int32_t recv_cancelled(machnet_channel_t *channel, machnet_flow_handle_t *flow, int requests, int answers, machnet_message_t **message) {
    machnet_cancel_t *cancel;
    char triggered;
    int32_t status = machnet_cancel_new(channel, &cancel);
    if (status != 0) return status;
    if (write(requests, &cancel, sizeof cancel) != (ssize_t)sizeof cancel) abort();
    machnet_cancel_scope(cancel);
    status = machnet_flow_recv_loan(flow, -1, message);
    machnet_cancel_scope(NULL);
    /* The other thread must be done with it before it is freed. */
    if (read(answers, &triggered, 1) != 1) abort();
    machnet_cancel_free(cancel);
    return status;
}

static int32_t storm_turn(const char *command, machnet_flow_handle_t *flow, int requests, int answers, struct expected *expected,
                          uint32_t *cancelled, uint32_t *won) {
    machnet_channel_t *channel = channel_of(command);
    machnet_message_t *message;
    uint8_t demand;
    content_fill(&demand, 1, 0);
    int32_t status = recv_cancelled(channel, flow, requests, answers, &message);
    if (status == 0) {
        expected->is_right = false;
        machnet_message_release(message);
        return 0;
    }
    if (status != MACHNET_STATUS_CANCELLED) return status;
    ++*cancelled;
    if ((status = machnet_flow_send(flow, &demand, 1, timeout_of(command))) != 0) return status;
    status = recv_cancelled(channel, flow, requests, answers, &message);
    if (status == MACHNET_STATUS_CANCELLED) {
        ++*cancelled;
        status = machnet_flow_recv_loan(flow, timeout_of(command), &message);
    } else if (status == 0) {
        ++*won;
    }
    if (status != 0) return status;
    take(expected, machnet_message_data(message), machnet_message_len(message));
    machnet_message_release(message);
    return 0;
}

static int32_t do_cancel_storm(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    struct expected expected;
    if (flow == NULL || !expect(command, &expected)) return fault(answer, "no", "flow or lengths");
    int requests[2], answers[2];
    if (pipe(requests) != 0 || pipe(answers) != 0) return fault(answer, "no", "pipe");
    struct storm storm = {.requests = requests[0], .answers = answers[1]};
    pthread_t helper;
    if (pthread_create(&helper, NULL, trigger_them, &storm) != 0) return fault(answer, "no", "thread");
    uint32_t cancelled = 0, won = 0;
    int32_t status = 0;
    while (status == 0 && expected.is_right && expected.next < expected.end) {
        status = storm_turn(command, flow, requests[1], answers[0], &expected, &cancelled, &won);
    }
    close(requests[1]);
    pthread_join(helper, NULL);
    close(requests[0]), close(answers[0]), close(answers[1]);
    put(answer, "\"cancelled\": %u, \"won\": %u", cancelled, won);
    return put_expected(answer, &expected, status);
}

/* ---- streams */

static int32_t do_stream(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW);
    machnet_channel_t *channel = channel_of(command);
    if (flow == NULL) return fault(answer, "no", "flow");
    forget(command, "flow");
    machnet_stream_t *stream;
    int32_t status = machnet_stream_open(flow, &stream);
    if (status == 0) name_it(command, STREAM, stream, channel);
    return status;
}

static int32_t do_write(const char *command, struct answer *answer) {
    machnet_stream_t *stream = find_kind(command, "stream", STREAM);
    if (stream == NULL) return fault(answer, "no", "stream");
    size_t length = (size_t)json_number(command, "length", 0), chunk = (size_t)json_number(command, "chunk", (int64_t)length), written = 0;
    uint8_t *bytes = room_of(length);
    content_fill(bytes, length, (uint64_t)json_number(command, "seed", 0));
    int32_t status = 0;
    while (written < length && status == 0) {
        size_t count = length - written < chunk ? length - written : chunk;
        status = machnet_stream_write(stream, bytes + written, count, timeout_of(command), &count);
        if (status == 0) written += count;
    }
    free(bytes);
    put(answer, "\"written\": %zu", written);
    return status;
}

static int32_t do_read(const char *command, struct answer *answer) {
    machnet_stream_t *stream = find_kind(command, "stream", STREAM);
    if (stream == NULL) return fault(answer, "no", "stream");
    size_t wanted = (size_t)json_number(command, "length", 0), length = 0;
    uint8_t *bytes = room_of(wanted);
    bool is_end = false;
    int32_t status = 0;
    while (length < wanted && !is_end && status == 0) {
        size_t count;
        status = machnet_stream_read(stream, bytes + length, wanted - length, timeout_of(command), &count);
        if (status == 0) is_end = count == 0, length += count;
    }
    size_t offset = (size_t)json_number(command, "offset", 0);
    bool is_right = content_is(bytes, length, (uint64_t)json_number(command, "seed", 0), offset);
    free(bytes);
    put(answer, "\"length\": %zu", length);
    if (status == 0) put(answer, "\"ok\": %s, \"end\": %s", is_right ? "true" : "false", is_end ? "true" : "false");
    return status;
}

static int32_t do_end(const char *command, struct answer *answer) {
    machnet_stream_t *stream = find_kind(command, "stream", STREAM);
    return stream == NULL ? fault(answer, "no", "stream") : machnet_stream_end(stream, timeout_of(command));
}

static int32_t do_stream_echo(const char *command, struct answer *answer) {
    machnet_stream_t *stream = find_kind(command, "stream", STREAM);
    if (stream == NULL) return fault(answer, "no", "stream");
    size_t bytes = 0, count = 1;
    int32_t status = 0, timeout_ms = timeout_of(command);
    uint8_t *room = room_of(PIECE);
    while (status == 0) {
        status = machnet_stream_read(stream, room, PIECE, timeout_ms, &count);
        if (status != 0 || count == 0) break;
        for (size_t done = 0, written; done < count && status == 0; done += written) {
            status = machnet_stream_write(stream, room + done, count - done, timeout_ms, &written);
        }
        if (status == 0) bytes += count;
    }
    free(room);
    if (status == 0) status = machnet_stream_end(stream, timeout_ms);
    put(answer, "\"bytes\": %zu", bytes);
    return status;
}

/* ---- processes */

static const char *outcome(int32_t status) { return status == MACHNET_STATUS_WOULD_BLOCK ? "WouldBlock" : machnet_error_name(status); }

static int32_t do_fork(const char *command, struct answer *answer) {
    machnet_flow_handle_t *flow = find_kind(command, "flow", FLOW), *accepted;
    machnet_listener_t *listener = find_kind(command, "listener", LISTENER), *other;
    machnet_channel_t *channel = find_kind(command, "channel", CHANNEL), *own = NULL;
    char socket[PATH_BYTES], text[512] = "";
    int ends[2];
    if (flow == NULL || listener == NULL || channel == NULL) return fault(answer, "no", "flow, listener or channel");
    if (!json_text(command, "socket", socket, sizeof socket) || pipe(ends) != 0) return fault(answer, "no", "socket or pipe");
    pid_t child = fork();
    if (child == 0) {
        size_t length;
        uint8_t byte = 0;
        machnet_attach_options_t options;
        machnet_attach_options_init(&options, sizeof options);
        options.socket_path = socket;
        int32_t received = machnet_flow_try_recv(flow, &byte, 1, &length), sent = machnet_flow_try_send(flow, &byte, 1);
        int32_t taken = machnet_listener_try_accept(listener, &accepted);
        int32_t listens = machnet_listener_open(channel, "0.0.0.0", 0, 0, &other), attached = machnet_attach_with(&options, &own);
        int count = snprintf(text, sizeof text,
                             "{\"try_recv\": \"%s\", \"try_send\": \"%s\", \"try_accept\": \"%s\", \"listen\": \"%s\", \"attach\": \"%s\"}",
                             outcome(received), outcome(sent), outcome(taken), outcome(listens), outcome(attached));
        machnet_channel_close(own);
        _exit(write(ends[1], text, (size_t)count) == count ? 0 : 1);
    }
    close(ends[1]);
    ssize_t count = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    waitpid(child, NULL, 0);
    if (count <= 0) return fault(answer, "the child", "told nothing");
    text[count] = '\0';
    put(answer, "\"child\": %s", text);
    return 0;
}

/* ---- commands and tasks */

static const struct {
    const char *op;
    int32_t (*run)(const char *, struct answer *);
} operations[] = {
    {"features", do_features}, {"attach", do_attach},   {"listen", do_listen},           {"connect", do_connect},
    {"accept", do_accept},     {"close", do_close},     {"try_accept", do_try_accept},   {"reset", do_reset},
    {"stats", do_stats},       {"send", do_send},       {"try_send", do_try_send},       {"recv", do_recv},
    {"release", do_release},   {"try_recv", do_try_recv}, {"send_series", do_send_series}, {"recv_series", do_recv_series},
    {"drain", do_drain},       {"ping", do_ping},       {"echo", do_echo},               {"supply", do_supply},
    {"stream", do_stream},     {"write", do_write},     {"cancel_storm", do_cancel_storm}, {"read", do_read},
    {"end", do_end},           {"fork", do_fork},       {"stream_echo", do_stream_echo},
};

/* Writes text as it stands inside quotes of JSON. */
static void escape(const char *text, char *out, size_t capacity) {
    size_t used = 0;
    for (; *text != '\0' && used + 7 < capacity; text++) {
        if (*text == '"' || *text == '\\') out[used++] = '\\', out[used++] = *text;
        else if ((unsigned char)*text < 0x20) used += (size_t)snprintf(out + used, 7, "\\u%04x", (unsigned)*text);
        else out[used++] = *text;
    }
    out[used] = '\0';
}

/* Works on a command until it can be answered: the answer's line, to be freed. */
static char *run(const char *command) {
    struct answer answer = {.used = 0};
    char op[32] = "", text[1024], *line = NULL;
    int32_t status = FAULT;
    json_text(command, "op", op, sizeof op);
    size_t i = 0, count = sizeof operations / sizeof *operations;
    while (i < count && strcmp(operations[i].op, op) != 0) i++;
    if (i < count) status = operations[i].run(command, &answer);
    else fault(&answer, "unknown op", op);
    int length;
    if (status == 0) {
        length = asprintf(&line, "{%s}", answer.members);
    } else if (status == FAULT) {
        escape(answer.fault, text, sizeof text);
        length = asprintf(&line, "{\"fault\": \"%s\"}", text);
    } else if (status == MACHNET_STATUS_WOULD_BLOCK) {
        length = asprintf(&line, "{\"none\": true}");
    } else if (status == MACHNET_STATUS_CANCELLED) {
        length = asprintf(&line, "{\"cancelled\": true}");
    } else {
        escape(machnet_last_error(), text, sizeof text);
        length = asprintf(&line, "{%s%s\"error\": {\"name\": \"%s\", \"code\": %d, \"text\": \"%s\"}}", answer.members,
                          answer.used > 0 ? ", " : "", machnet_error_name(status), status, text);
    }
    if (length < 0) abort();
    return line;
}

static void *run_task(void *argument) {
    struct task *task = argument;
    machnet_cancel_scope(task->cancel);
    task->line = run(task->command);
    machnet_cancel_scope(NULL);
    return NULL;
}

static struct task **find_task(const char *command) {
    char name[NAME_BYTES] = "";
    json_text(command, "task", name, sizeof name);
    struct task **at = &tasks;
    while (*at != NULL && strcmp((*at)->name, name) != 0) at = &(*at)->next;
    return at;
}

static void free_task(struct task *task) {
    machnet_cancel_free(task->cancel);
    free(task->command), free(task->line), free(task);
}

static char *start(const char *command) {
    struct task *task = calloc(1, sizeof *task);
    if (task == NULL) abort();
    json_text(command, "task", task->name, sizeof task->name);
    task->command = json_copy(command, "command");
    if (task->command == NULL) return free_task(task), strdup("{\"fault\": \"no command to start\"}");
    machnet_channel_t *channel = channel_of(task->command);
    if (channel != NULL) machnet_cancel_new(channel, &task->cancel);
    task->next = tasks, tasks = task;
    if (pthread_create(&task->thread, NULL, run_task, task) != 0) abort();
    return strdup("{}");
}

static char *join(const char *command) {
    struct task **at = find_task(command), *task = *at;
    if (task == NULL) return strdup("{\"fault\": \"no such task\"}");
    if (json_has(command, "timeout_ms")) {
        int64_t limit = json_number(command, "timeout_ms", 0);
        struct timespec deadline;
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_nsec += (long)(limit % 1000) * 1000000;
        deadline.tv_sec += (time_t)(limit / 1000) + deadline.tv_nsec / 1000000000;
        deadline.tv_nsec %= 1000000000;
        if (pthread_timedjoin_np(task->thread, NULL, &deadline) != 0) return strdup("{\"running\": true}");
    } else {
        pthread_join(task->thread, NULL);
    }
    char *line = task->line;
    task->line = NULL;
    *at = task->next;
    free_task(task);
    return line;
}

static char *cancel(const char *command) {
    struct task *task = *find_task(command);
    if (task == NULL || task->cancel == NULL) return strdup("{\"fault\": \"no such task, or no channel to cancel on\"}");
    machnet_cancel_trigger(task->cancel);
    return strdup("{}");
}

static char *clear(void) {
    for (struct task *task = tasks; task != NULL; task = task->next) {
        if (task->cancel != NULL) machnet_cancel_trigger(task->cancel);
    }
    for (size_t i = 0; i < handle_count; i++) {
        if (handles[i].kind == FLOW) machnet_flow_reset(handles[i].native);
        else if (handles[i].kind == STREAM) machnet_stream_reset(handles[i].native);
        else if (handles[i].kind == LISTENER) machnet_listener_shutdown(handles[i].native);
    }
    while (tasks != NULL) {
        struct task *task = tasks;
        pthread_join(task->thread, NULL);
        tasks = task->next;
        free_task(task);
    }
    /* Now nothing uses them. Channels last: the others belong to them. */
    for (size_t i = 0; i < handle_count; i++) {
        if (handles[i].kind == FLOW) machnet_flow_close(handles[i].native);
        else if (handles[i].kind == STREAM) machnet_stream_close(handles[i].native);
        else if (handles[i].kind == LISTENER) machnet_listener_close(handles[i].native);
        else if (handles[i].kind == MESSAGE) machnet_message_release(handles[i].native);
    }
    for (size_t i = 0; i < handle_count; i++) {
        if (handles[i].kind == CHANNEL) machnet_channel_close(handles[i].native);
    }
    handle_count = 0;
    return strdup("{}");
}

int main(void) {
    content_init();
    char *command = NULL;
    size_t capacity = 0;
    bool goes_on = true;
    while (goes_on && getline(&command, &capacity, stdin) > 0) {
        char op[32] = "", *line;
        json_text(command, "op", op, sizeof op);
        goes_on = strcmp(op, "exit") != 0;
        if (!goes_on) line = strdup("{}");
        else if (strcmp(op, "start") == 0) line = start(command);
        else if (strcmp(op, "join") == 0) line = join(command);
        else if (strcmp(op, "cancel") == 0) line = cancel(command);
        else if (strcmp(op, "clear") == 0) line = clear();
        else line = run(command);
        puts(line);
        fflush(stdout);
        free(line);
    }
    free(command);
    return 0;
}
