/*
 * Checks of the functions beside the compatible ones, against an echo server.
 *
 *   flows checks REMOTE_IP PORT      runs the checks; exit code 0 when all hold
 *   flows lost REMOTE_IP PORT        prints "waiting" and waits for a message that never comes, until the sidecar dies
 *   flows nobody REMOTE_IP PORT      connects to a port without a listener
 *   flows storm REMOTE_IP PORT       100,000 receives that another thread cancels, among 100,000 messages
 */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <machnet.h>

#define PATIENCE_MS 30000
#define MANY 64

static unsigned char *request, *answer;

#define CHECK(condition)                                                                                           \
  do {                                                                                                             \
    if (!(condition)) {                                                                                            \
      fprintf(stderr, "flows.c:%d: %s does not hold (%s)\n", __LINE__, #condition, machnet_last_error());          \
      exit(1);                                                                                                     \
    }                                                                                                              \
  } while (0)

#define OK(call) CHECK((call) == MACHNET_STATUS_OK)

static void fill(size_t len, unsigned seed) {
  size_t i;
  for (i = 0; i < len; i++) request[i] = (unsigned char)(i * 7 + seed);
}

static void check_copies(machnet_flow_handle_t *flow) {
  size_t len = 0, max = machnet_flow_max_message(flow);
  CHECK(max == MACHNET_MSG_MAX_LEN);
  fill(1000, 1);
  CHECK(machnet_flow_try_recv(flow, answer, 1000, &len) == MACHNET_STATUS_WOULD_BLOCK);
  CHECK(machnet_flow_recv(flow, answer, 1000, 0, &len) == MACHNET_STATUS_TIMED_OUT);
  CHECK(machnet_flow_recv(flow, answer, 1000, 20, &len) == MACHNET_STATUS_TIMED_OUT);
  CHECK(machnet_flow_try_send(flow, request, 0) == MACHNET_STATUS_EMPTY_MESSAGE);
  CHECK(machnet_flow_try_send(flow, request, max + 1) == MACHNET_STATUS_MESSAGE_TOO_LARGE);
  OK(machnet_flow_send(flow, request, 1000, PATIENCE_MS));
  CHECK(machnet_flow_recv(flow, answer, 999, PATIENCE_MS, &len) == MACHNET_STATUS_BUFFER_TOO_SMALL && len == 1000);
  OK(machnet_flow_recv(flow, answer, len, PATIENCE_MS, &len));
  CHECK(len == 1000 && memcmp(request, answer, len) == 0);
}

static void check_loans(machnet_flow_handle_t *flow) {
  static const size_t sizes[] = {1, 100, 5000, 300000, MACHNET_MSG_MAX_LEN};
  size_t i;
  for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    machnet_loan_t *loan = NULL;
    machnet_message_t *message = NULL;
    int32_t status;
    int tries = 0;
    fill(sizes[i], (unsigned)i + 40);
    while ((status = machnet_flow_try_lend(flow, sizes[i], &loan)) == MACHNET_STATUS_WOULD_BLOCK) {
      CHECK(tries++ < PATIENCE_MS);
      poll(NULL, 0, 1);
    }
    OK(status);
    memcpy(machnet_loan_data(loan), request, sizes[i]);
    OK(machnet_loan_send(loan));
    OK(machnet_flow_recv_loan(flow, PATIENCE_MS, &message));
    CHECK(machnet_message_len(message) == sizes[i]);
    CHECK(memcmp(machnet_message_data(message), request, sizes[i]) == 0);
    machnet_message_release(message);
  }
  {
    machnet_loan_t *loan = NULL;
    OK(machnet_flow_try_lend(flow, 10, &loan));
    machnet_loan_drop(loan);
    CHECK(machnet_flow_try_lend(flow, 0, &loan) == MACHNET_STATUS_EMPTY_MESSAGE);
  }
}

static void check_stats(machnet_flow_handle_t *flow) {
  machnet_flow_stats_t before, after;
  size_t len, first_three = offsetof(machnet_flow_stats_t, messages_sent);
  before.struct_size = after.struct_size = sizeof before;
  OK(machnet_flow_stats(flow, &before));
  fill(1000, 9);
  OK(machnet_flow_send(flow, request, 1000, PATIENCE_MS));
  OK(machnet_flow_recv(flow, answer, 1000, PATIENCE_MS, &len));
  OK(machnet_flow_stats(flow, &after));
  CHECK(after.messages_sent == before.messages_sent + 1 && after.bytes_sent == before.bytes_sent + 1000);
  CHECK(after.messages_received == before.messages_received + 1);
  CHECK(after.bytes_received == before.bytes_received + 1000);
  CHECK(after.local == 0 && after.smoothed_rtt_ns > 0 && after.min_rtt_ns > 0 && after.path_datagram_bytes > 0);
  CHECK(after.datagrams_sent > 0 && after.wire_bytes_sent > after.datagrams_sent && after.reserved == 0);
  /* A program of a time when the struct was shorter: nothing is written behind its end. */
  memset(&before, 0xee, sizeof before);
  before.struct_size = first_three;
  OK(machnet_flow_stats(flow, &before));
  CHECK(before.struct_size == first_three && before.min_rtt_ns > 0);
  CHECK(before.messages_sent == UINT64_C(0xeeeeeeeeeeeeeeee));
  before.struct_size = 3;
  CHECK(machnet_flow_stats(flow, &before) == MACHNET_STATUS_INVALID_ARGUMENT);
}

/* Waits as an event loop does: only on the descriptor, and only after "would block". */
static void check_many_with_events(machnet_channel_t *channel, machnet_flow_handle_t *flow) {
  MachnetIovec_t pieces[MANY];
  machnet_message_t *messages[MANY];
  struct pollfd event;
  size_t i, sent = 0, received = 0, now = 0;
  OK(machnet_channel_event_fd(channel, &event.fd));
  event.events = POLLIN;
  fill(MANY * 2, 77);
  for (i = 0; i < MANY; i++) {
    pieces[i].base = request + i;
    pieces[i].len = i + 1;
  }
  while (received < MANY) {
    int32_t status = MACHNET_STATUS_WOULD_BLOCK;
    if (sent < MANY) {
      status = machnet_flow_try_send_many(flow, pieces + sent, MANY - sent, &now);
      if (status == MACHNET_STATUS_OK) sent += now;
      else CHECK(status == MACHNET_STATUS_WOULD_BLOCK);
    }
    status = machnet_flow_try_recv_many(flow, messages, MANY, &now);
    if (status == MACHNET_STATUS_WOULD_BLOCK) {
      CHECK(poll(&event, 1, PATIENCE_MS) == 1);
      continue;
    }
    OK(status);
    for (i = 0; i < now; i++, received++) {
      CHECK(machnet_message_len(messages[i]) == received + 1);
      CHECK(memcmp(machnet_message_data(messages[i]), request + received, received + 1) == 0);
      machnet_message_release(messages[i]);
    }
  }
  CHECK(sent == MANY);
}

struct cancelled {
  machnet_flow_handle_t *flow;
  machnet_cancel_t *cancel;
};

static void *wait_to_be_cancelled(void *argument) {
  struct cancelled *with = argument;
  machnet_message_t *messages[4];
  size_t count = 77;
  OK(machnet_cancel_scope(with->cancel));
  CHECK(machnet_flow_recv_many(with->flow, messages, 4, -1, &count) == MACHNET_STATUS_CANCELLED && count == 77);
  CHECK(machnet_flow_recv(with->flow, answer, 10, -1, &count) == MACHNET_STATUS_CANCELLED);
  OK(machnet_cancel_scope(NULL));
  CHECK(machnet_flow_recv(with->flow, answer, 10, 1, &count) == MACHNET_STATUS_TIMED_OUT);
  return NULL;
}

/* Another thread ends a wait for ever, and the next one; without the scope the thread waits as before. */
static void check_cancel(machnet_channel_t *channel, machnet_flow_handle_t *flow) {
  struct cancelled with;
  pthread_t thread;
  with.flow = flow;
  OK(machnet_cancel_new(channel, &with.cancel));
  CHECK(pthread_create(&thread, NULL, wait_to_be_cancelled, &with) == 0);
  poll(NULL, 0, 20);
  OK(machnet_cancel_trigger(with.cancel));
  CHECK(pthread_join(thread, NULL) == 0);
  machnet_cancel_free(with.cancel);
  CHECK(strcmp(machnet_error_name(MACHNET_STATUS_CANCELLED), "Cancelled") == 0);
  CHECK(strcmp(machnet_error_name(MACHNET_STATUS_OK), "Ok") == 0);
  CHECK(strcmp(machnet_error_name(-7), "Unknown") == 0);
}

static void check_many_with_waits(machnet_flow_handle_t *flow) {
  MachnetIovec_t pieces[3];
  machnet_message_t *messages[3];
  machnet_loan_t *loan = NULL;
  size_t i, count = 0, received = 0;
  fill(5000, 5);
  for (i = 0; i < 3; i++) {
    pieces[i].base = request + i;
    pieces[i].len = 1 + i * 2000;
  }
  OK(machnet_flow_send_many(flow, pieces, 3, PATIENCE_MS, &count));
  CHECK(count == 3);
  while (received < 3) {
    OK(machnet_flow_recv_many(flow, messages, 3 - received, PATIENCE_MS, &count));
    for (i = 0; i < count; i++, received++) {
      CHECK(machnet_message_len(messages[i]) == pieces[received].len);
      CHECK(memcmp(machnet_message_data(messages[i]), request + received, pieces[received].len) == 0);
      machnet_message_release(messages[i]);
    }
  }
  OK(machnet_flow_lend(flow, 3, PATIENCE_MS, &loan));
  memcpy(machnet_loan_data(loan), "abc", 3);
  OK(machnet_loan_send(loan));
  OK(machnet_flow_recv(flow, answer, 10, PATIENCE_MS, &count));
  CHECK(count == 3 && memcmp(answer, "abc", 3) == 0);
}

/* Two ends of a stream in one program: bytes both ways, a half-close, what was written before it, and the end. */
static void check_stream(machnet_channel_t *channel, const char *local) {
  machnet_listener_t *listener = NULL;
  machnet_flow_handle_t *flow = NULL, *accepted = NULL;
  machnet_stream_t *here = NULL, *there = NULL;
  machnet_address_t address;
  machnet_flow_stats_t stats;
  size_t sent = 0, got = 0, now = 0, total = 300000;
  OK(machnet_listener_open(channel, local, 0, 0, &listener));
  OK(machnet_listener_address(listener, &address));
  OK(machnet_flow_connect(channel, NULL, local, address.port, PATIENCE_MS, &flow));
  OK(machnet_listener_accept(listener, PATIENCE_MS, &accepted));
  machnet_listener_close(listener);
  OK(machnet_stream_open(flow, &here));
  OK(machnet_stream_open(accepted, &there));
  OK(machnet_stream_local_address(there, &address));
  CHECK(address.ip_version == 4);
  OK(machnet_stream_peer_address(here, &address));
  stats.struct_size = sizeof stats;
  CHECK(machnet_stream_try_read(there, answer, 10, &now) == MACHNET_STATUS_WOULD_BLOCK);
  CHECK(machnet_stream_read(there, answer, 10, 1, &now) == MACHNET_STATUS_TIMED_OUT);
  CHECK(machnet_stream_write(here, request, 0, 1, &now) == MACHNET_STATUS_EMPTY_MESSAGE);
  fill(total, 3);
  while (got < total) {
    int32_t status = sent < total ? machnet_stream_try_write(here, request + sent, total - sent, &now) : 0;
    if (sent < total && status == MACHNET_STATUS_OK) sent += now;
    else if (sent < total) CHECK(status == MACHNET_STATUS_WOULD_BLOCK);
    OK(machnet_stream_read(there, answer + got, total - got, PATIENCE_MS, &now));
    CHECK(now > 0);
    got += now;
  }
  CHECK(memcmp(request, answer, total) == 0);
  OK(machnet_stream_stats(here, &stats));
  CHECK(stats.local == 1 && stats.messages_sent >= 5 && stats.bytes_sent == total + stats.messages_sent);
  OK(machnet_stream_write(here, "bye", 3, PATIENCE_MS, &now));
  OK(machnet_stream_end(here, PATIENCE_MS));
  OK(machnet_stream_try_end(here));
  CHECK(machnet_stream_write(here, "x", 1, PATIENCE_MS, &now) == MACHNET_STATUS_CLOSED);
  OK(machnet_stream_read(there, answer, 10, PATIENCE_MS, &now));
  CHECK(now == 3 && memcmp(answer, "bye", 3) == 0);
  OK(machnet_stream_read(there, answer, 10, PATIENCE_MS, &now));
  CHECK(now == 0);
  OK(machnet_stream_write(there, "still heard", 11, PATIENCE_MS, &now));
  machnet_stream_close(there);
  OK(machnet_stream_read(here, answer, 20, PATIENCE_MS, &now));
  CHECK(now == 11);
  OK(machnet_stream_read(here, answer, 20, PATIENCE_MS, &now));
  CHECK(now == 0);
  OK(machnet_stream_reset(here));
  machnet_stream_close(here);
}

static void *wait_for_the_end(void *flow) {
  machnet_message_t *message = NULL;
  CHECK(machnet_flow_recv_loan(flow, PATIENCE_MS, &message) == MACHNET_STATUS_CLOSED);
  return NULL;
}

/* A close while another thread waits: the thread gets the news, and the handle lives until both are done. */
static void check_shutdown(machnet_flow_handle_t *flow) {
  pthread_t thread;
  size_t len;
  CHECK(pthread_create(&thread, NULL, wait_for_the_end, flow) == 0);
  poll(NULL, 0, 20);
  OK(machnet_flow_shutdown(flow));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(machnet_flow_try_send(flow, "x", 1) == MACHNET_STATUS_CLOSED);
  CHECK(machnet_flow_try_recv(flow, answer, 10, &len) == MACHNET_STATUS_CLOSED);
  machnet_flow_close(flow);
}

static void check_pending(machnet_channel_t *channel, const char *remote, uint16_t port) {
  machnet_pending_t *pending = NULL;
  machnet_flow_handle_t *flow = NULL;
  int32_t status;
  int tries = 0;
  OK(machnet_flow_start_connect(channel, NULL, remote, port, PATIENCE_MS, &pending));
  while ((status = machnet_pending_try_finish(pending, &flow)) == MACHNET_STATUS_WOULD_BLOCK) {
    CHECK(tries++ < PATIENCE_MS);
    poll(NULL, 0, 1);
  }
  OK(status);
  machnet_pending_drop(pending);
  OK(machnet_flow_close_wait(flow, PATIENCE_MS));
}

static void check_listener(machnet_channel_t *channel, const char *local) {
  machnet_listener_t *listener = NULL;
  machnet_flow_handle_t *flow = NULL;
  machnet_address_t address;
  OK(machnet_listener_open(channel, local, 0, 0, &listener));
  OK(machnet_listener_address(listener, &address));
  CHECK(address.ip_version == 4 && address.port != 0);
  CHECK(machnet_listener_try_accept(listener, &flow) == MACHNET_STATUS_WOULD_BLOCK);
  CHECK(machnet_listener_accept(listener, 10, &flow) == MACHNET_STATUS_TIMED_OUT);
  {
    machnet_listener_t *second = NULL;
    CHECK(machnet_listener_open(channel, local, address.port, 0, &second) == MACHNET_STATUS_ADDRESS_IN_USE);
    CHECK(machnet_listener_open(channel, "192.0.2.77", 1, 0, &second) == MACHNET_STATUS_ADDRESS_NOT_LOCAL);
  }
  machnet_listener_close(listener);
}

/* The waiting calls of channel mode, on a flow of the compatible connect. */
static void check_channel_mode(machnet_channel_t *channel, const char *remote, uint16_t port) {
  MachnetFlow_t flow, from;
  machnet_message_t *message = NULL;
  CHECK(machnet_connect(channel, NULL, remote, port, &flow) == 0);
  CHECK(machnet_channel_recv_loan(channel, 10, &from, &message) == MACHNET_STATUS_TIMED_OUT);
  fill(5000, 3);
  OK(machnet_channel_send(channel, flow, request, 5000, PATIENCE_MS));
  OK(machnet_channel_recv_loan(channel, PATIENCE_MS, &from, &message));
  CHECK(machnet_message_len(message) == 5000 && memcmp(machnet_message_data(message), request, 5000) == 0);
  CHECK(from.src_ip == flow.dst_ip && from.src_port == flow.dst_port && from.dst_port == flow.src_port);
  /* A loan outlives its flow. */
  OK(machnet_channel_close_flow(channel, flow));
  CHECK(machnet_channel_send(channel, flow, request, 1, 0) == MACHNET_STATUS_CLOSED);
  CHECK(memcmp(machnet_message_data(message), request, 5000) == 0);
  machnet_message_release(message);
  flow.src_port ^= 1;
  flow.dst_port ^= 1;
  CHECK(machnet_channel_send(channel, flow, request, 1, 0) == MACHNET_STATUS_UNKNOWN_FLOW);
}

/* A child gets a clear answer and does the parent's flow no harm. */
static void check_fork(machnet_channel_t *channel, machnet_flow_handle_t *flow) {
  size_t len = 0;
  int status = 0, fd;
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(machnet_flow_try_send(flow, "x", 1) == MACHNET_STATUS_FORKED);
    CHECK(machnet_flow_recv(flow, answer, 10, 1000, &len) == MACHNET_STATUS_FORKED);
    CHECK(machnet_channel_event_fd(channel, &fd) == MACHNET_STATUS_FORKED);
    machnet_flow_close(flow);
    machnet_channel_close(channel);
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  OK(machnet_flow_send(flow, "still here", 10, PATIENCE_MS));
  OK(machnet_flow_recv(flow, answer, 10, PATIENCE_MS, &len));
  CHECK(len == 10 && memcmp(answer, "still here", 10) == 0);
}

/* An event loop over many flows that tries only those that have news. */
static void check_news(machnet_channel_t *channel, const char *remote, uint16_t port) {
  machnet_flow_handle_t *flows[8];
  machnet_pending_t *pending = NULL;
  machnet_news_t news[3];
  struct pollfd event;
  size_t len = 0, i, count = 0, received = 0, told = 0, connected = 0;
  OK(machnet_channel_event_fd(channel, &event.fd));
  event.events = POLLIN;
  CHECK(machnet_channel_take_news(channel, NULL, 1, &count) == MACHNET_STATUS_INVALID_ARGUMENT);
  CHECK(machnet_channel_take_news(channel, news, 0, &count) == MACHNET_STATUS_INVALID_ARGUMENT);
  for (i = 0; i < 8; i++) {
    OK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &flows[i]));
    OK(machnet_flow_set_token(flows[i], 100 + i));
    CHECK(machnet_flow_try_recv(flows[i], answer, 10, &len) == MACHNET_STATUS_WOULD_BLOCK);
  }
  for (i = 0; i < 8; i++) OK(machnet_flow_send(flows[i], "ping", 4, PATIENCE_MS));
  OK(machnet_flow_start_connect(channel, NULL, remote, port, -1, &pending));
  OK(machnet_pending_set_token(pending, 7));
  while (received < 8 || !connected) {
    OK(machnet_channel_take_news(channel, news, 3, &count));
    for (i = 0; i < count; i++) {
      if (news[i].token == 7) {
        machnet_flow_handle_t *flow = NULL;
        CHECK(news[i].events == MACHNET_NEWS_CONNECT);
        OK(machnet_pending_try_finish(pending, &flow));
        OK(machnet_flow_close(flow));
        connected = 1;
      } else if (news[i].token >= 100) {
        CHECK(news[i].token < 108 && (news[i].events & MACHNET_NEWS_RECEIVE) != 0);
        told++;
        while (machnet_flow_try_recv(flows[news[i].token - 100], answer, 10, &len) == MACHNET_STATUS_OK) {
          CHECK(len == 4 && memcmp(answer, "ping", 4) == 0);
          received++;
        }
      }
    }
    if (count < 3 && (received < 8 || !connected)) CHECK(poll(&event, 1, PATIENCE_MS) == 1);
  }
  CHECK(told == 8);
  machnet_pending_drop(pending);
  for (i = 0; i < 8; i++) OK(machnet_flow_close(flows[i]));
}

static machnet_channel_t *attach(void) {
  machnet_attach_options_t options;
  machnet_channel_t *channel = NULL;
  OK(machnet_attach_options_init(&options, sizeof options));
  options.name = "flows";
  options.doorbell = 1;
  OK(machnet_attach_with(&options, &channel));
  return channel;
}

static void checks(const char *remote, uint16_t port) {
  machnet_channel_t *channel = attach();
  machnet_channel_info_t info;
  machnet_flow_handle_t *flow = NULL;
  machnet_address_t peer, local;
  char text[16];
  info.struct_size = sizeof info;
  OK(machnet_channel_info(channel, &info));
  CHECK(info.sidecar_pid != 0 && info.buffer_bytes != 0 && info.dropped_too_small == 0);
  OK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &flow));
  OK(machnet_flow_peer_address(flow, &peer));
  OK(machnet_flow_local_address(flow, &local));
  CHECK(peer.port == port && peer.ip_version == 4 && local.port != 0);
  CHECK(memcmp(local.bytes, info.local.bytes, 16) == 0);
  snprintf(text, sizeof text, "%u.%u.%u.%u", local.bytes[0], local.bytes[1], local.bytes[2], local.bytes[3]);
  check_copies(flow);
  check_loans(flow);
  check_stats(flow);
  check_many_with_waits(flow);
  check_cancel(channel, flow);
  check_many_with_events(channel, flow);
  check_fork(channel, flow);
  check_shutdown(flow);
  check_channel_mode(channel, remote, port);
  check_pending(channel, remote, port);
  check_listener(channel, text);
  check_stream(channel, text);
  check_news(channel, remote, port);
  OK(machnet_channel_shutdown(channel));
  CHECK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &flow) == MACHNET_STATUS_CLOSED);
  OK(machnet_channel_close(channel));
  printf("all checks hold\n");
}

static void lost(const char *remote, uint16_t port) {
  machnet_channel_t *channel = attach();
  machnet_flow_handle_t *flow = NULL;
  machnet_message_t *message = NULL;
  OK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &flow));
  printf("waiting\n");
  fflush(stdout);
  CHECK(machnet_flow_recv_loan(flow, PATIENCE_MS, &message) == MACHNET_STATUS_ENGINE_LOST);
  CHECK(machnet_flow_try_send(flow, "x", 1) == MACHNET_STATUS_ENGINE_LOST);
  machnet_flow_close(flow);
  machnet_channel_close(channel);
  printf("engine lost, process alive\n");
}

static void nobody(const char *remote, uint16_t port) {
  machnet_channel_t *channel = attach();
  machnet_flow_handle_t *flow = NULL;
  CHECK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &flow) == MACHNET_STATUS_REFUSED);
  CHECK(strstr(machnet_last_error(), remote) != NULL);
  OK(machnet_channel_close(channel));
}

#define STORM 100000u

struct storm {
  machnet_flow_handle_t *flow;
  int to_cancel[2];
};

static void *send_storm(void *argument) {
  struct storm *storm = argument;
  unsigned number;
  for (number = 0; number < STORM; number++) OK(machnet_flow_send(storm->flow, &number, sizeof number, PATIENCE_MS));
  return NULL;
}

static void *cancel_storm(void *argument) {
  struct storm *storm = argument;
  machnet_cancel_t *cancel;
  while (read(storm->to_cancel[0], &cancel, sizeof cancel) == (ssize_t)sizeof cancel) {
    OK(machnet_cancel_trigger(cancel));
    machnet_cancel_free(cancel);
  }
  return NULL;
}

/* Each receive is cancelled by another thread, before, while or after it finds the next message. */
static void storm(const char *remote, uint16_t port) {
  machnet_channel_t *channel = attach();
  struct storm storm;
  pthread_t sender, canceller;
  unsigned next = 0, cancelled = 0, number = 0;
  size_t len = 0;
  OK(machnet_flow_connect(channel, NULL, remote, port, PATIENCE_MS, &storm.flow));
  CHECK(pipe(storm.to_cancel) == 0);
  CHECK(pthread_create(&canceller, NULL, cancel_storm, &storm) == 0);
  CHECK(pthread_create(&sender, NULL, send_storm, &storm) == 0);
  while (next < STORM || cancelled < STORM) {
    machnet_cancel_t *cancel = NULL;
    int32_t status;
    OK(machnet_cancel_new(channel, &cancel));
    OK(machnet_cancel_scope(cancel)); /* From here on it is the other thread's. */
    CHECK(write(storm.to_cancel[1], &cancel, sizeof cancel) == (ssize_t)sizeof cancel);
    status = machnet_flow_recv(storm.flow, &number, sizeof number, -1, &len);
    if (status == MACHNET_STATUS_CANCELLED) {
      cancelled++;
      continue;
    }
    OK(status);
    CHECK(len == sizeof number && number == next);
    next++;
  }
  OK(machnet_cancel_scope(NULL));
  close(storm.to_cancel[1]);
  CHECK(pthread_join(sender, NULL) == 0 && pthread_join(canceller, NULL) == 0);
  close(storm.to_cancel[0]);
  CHECK(machnet_flow_try_recv(storm.flow, &number, sizeof number, &len) == MACHNET_STATUS_WOULD_BLOCK);
  OK(machnet_flow_close(storm.flow));
  OK(machnet_channel_close(channel));
  printf("%u messages, each once\n", next);
}

int main(int argc, char **argv) {
  request = malloc(MACHNET_MSG_MAX_LEN + 1);
  answer = malloc(MACHNET_MSG_MAX_LEN + 1);
  if (argc != 4 || request == NULL || answer == NULL) return 2;
  if (strcmp(argv[1], "checks") == 0) checks(argv[2], (uint16_t)atoi(argv[3]));
  else if (strcmp(argv[1], "lost") == 0) lost(argv[2], (uint16_t)atoi(argv[3]));
  else if (strcmp(argv[1], "nobody") == 0) nobody(argv[2], (uint16_t)atoi(argv[3]));
  else if (strcmp(argv[1], "storm") == 0) storm(argv[2], (uint16_t)atoi(argv[3]));
  else return 2;
  return 0;
}
