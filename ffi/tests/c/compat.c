/*
 * A program as people wrote them for the original Machnet C library: it uses only the functions and structs documented there,
 * includes <machnet.h> and links -lmachnet_shim. It is built unchanged to prove that such programs only have to be compiled again.
 *
 *   compat server LOCAL_IP PORT               echoes every message; prints "ready"; ends after the message "quit"
 *   compat client LOCAL_IP REMOTE_IP PORT     runs the checks against such a server; exit code 0 when all hold
 *
 * The sidecar is the one of $MACHNET_SOCKET.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <machnet.h>

#define PATIENCE_S 30
#define FLOOD_MOST 100000

static unsigned char *out_buffer, *in_buffer;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "compat.c:%d: %s does not hold (errno %d: %s)\n", __LINE__, #condition,      \
              errno, strerror(errno));                                                             \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static time_t deadline(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + PATIENCE_S;
}

/* Waits a moment between two looks; ends the program when the deadline has passed. */
static void pause_until(time_t end) {
  struct timespec now, moment = {0, 20000};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (now.tv_sec > end) {
    fprintf(stderr, "compat.c: no progress for %d seconds\n", PATIENCE_S);
    exit(1);
  }
  nanosleep(&moment, NULL);
}

static MachnetFlow_t reply_flow(MachnetFlow_t flow) {
  MachnetFlow_t reply;
  reply.src_ip = flow.dst_ip;
  reply.dst_ip = flow.src_ip;
  reply.src_port = flow.dst_port;
  reply.dst_port = flow.src_port;
  return reply;
}

static int same_flow(MachnetFlow_t a, MachnetFlow_t b) {
  return a.src_ip == b.src_ip && a.dst_ip == b.dst_ip && a.src_port == b.src_port && a.dst_port == b.dst_port;
}

static void send_all(const void *channel, MachnetFlow_t flow, const void *bytes, size_t len) {
  time_t end = deadline();
  while (machnet_send(channel, flow, bytes, len) != 0) {
    CHECK(errno == EAGAIN);
    pause_until(end);
  }
}

static size_t receive(const void *channel, void *bytes, size_t len, MachnetFlow_t *flow) {
  time_t end = deadline();
  MachnetFlow_t unused;
  for (;;) {
    long got = (long)machnet_recv(channel, bytes, len, flow != NULL ? flow : &unused);
    CHECK(got >= 0);
    if (got > 0) return (size_t)got;
    pause_until(end);
  }
}

static void fill(size_t len, unsigned seed) {
  size_t i;
  for (i = 0; i < len; i++) out_buffer[i] = (unsigned char)(i * 31 + i / 251 + seed);
}

/* ---- the server ---- */

static int server(const char *local_ip, uint16_t port) {
  void *channel = machnet_attach();
  CHECK(channel != NULL);
  CHECK(machnet_listen(channel, "not an address", port) == -22);
  CHECK(machnet_listen(channel, local_ip, port) == 0);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    /* Three pieces, so that most messages are cut somewhere. */
    MachnetIovec_t pieces[3];
    MachnetMsgHdr_t message;
    int got;
    pieces[0].base = in_buffer;
    pieces[0].len = 7;
    pieces[1].base = in_buffer + 7;
    pieces[1].len = 1000;
    pieces[2].base = in_buffer + 1007;
    pieces[2].len = MACHNET_MSG_MAX_LEN - 1007;
    memset(&message, 0, sizeof message);
    message.msg_iov = pieces;
    message.msg_iovlen = 3;
    got = machnet_recvmsg(channel, &message);
    CHECK(got >= 0);
    if (got == 0) {
      struct timespec moment = {0, 20000};
      nanosleep(&moment, NULL);
      continue;
    }
    CHECK(got == 1);
    if (message.msg_size == 4 && memcmp(in_buffer, "quit", 4) == 0) break;
    send_all(channel, reply_flow(message.flow_info), in_buffer, message.msg_size);
  }
  machnet_detach(channel);
  return 0;
}

/* ---- the client's checks ---- */

static void check_wrong_arguments(void *channel, MachnetFlow_t flow) {
  MachnetFlow_t unknown = flow;
  MachnetFlow_t none;
  size_t size = 77;
  unknown.dst_port = (uint16_t)(flow.dst_port + 1);

  errno = 0;
  CHECK(machnet_send(channel, flow, out_buffer, 0) == -1 && errno == EINVAL);
  errno = 0;
  CHECK(machnet_send(channel, flow, NULL, 10) == -1 && errno == EINVAL);
  errno = 0;
  CHECK(machnet_send(channel, flow, out_buffer, (size_t)MACHNET_MSG_MAX_LEN + 1) == -1 && errno == EMSGSIZE);
  errno = 0;
  CHECK(machnet_send(channel, unknown, out_buffer, 10) == -1 && errno == ENOTCONN);
  errno = 0;
  CHECK(machnet_send(NULL, flow, out_buffer, 10) == -1 && errno == EINVAL);
  errno = 0;
  CHECK(machnet_recv(channel, NULL, 10, &none) == -1 && errno == EINVAL);
  CHECK(machnet_bind(-1, &size) == NULL && size == 0);
  CHECK(machnet_recv(channel, in_buffer, 10, &none) == 0);
}

static void check_sizes(const void *channel, MachnetFlow_t flow) {
  static const size_t sizes[] = {1, 2, 63, 64, 65, 100, 101, 1000, 1460, 4096, 9000, 65536, 1000003, MACHNET_MSG_MAX_LEN};
  size_t i;
  for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    MachnetFlow_t from;
    fill(sizes[i], (unsigned)i);
    send_all(channel, flow, out_buffer, sizes[i]);
    CHECK(receive(channel, in_buffer, MACHNET_MSG_MAX_LEN, &from) == sizes[i]);
    CHECK(memcmp(out_buffer, in_buffer, sizes[i]) == 0);
    CHECK(same_flow(reply_flow(from), flow));
  }
}

static void check_pieces(const void *channel, MachnetFlow_t flow) {
  MachnetIovec_t pieces[4];
  MachnetMsgHdr_t message;
  time_t end = deadline();
  size_t total = 3 + 0 + 70000 + 997;
  int got;
  fill(total, 5);
  pieces[0].base = out_buffer;
  pieces[0].len = 3;
  pieces[1].base = NULL;
  pieces[1].len = 0;
  pieces[2].base = out_buffer + 3;
  pieces[2].len = 70000;
  pieces[3].base = out_buffer + 70003;
  pieces[3].len = 997;
  memset(&message, 0, sizeof message);
  message.msg_size = (uint32_t)total;
  message.flow_info = flow;
  message.msg_iov = pieces;
  message.msg_iovlen = 4;
  while (machnet_sendmsg(channel, &message) != 0) {
    CHECK(errno == EAGAIN);
    pause_until(end);
  }
  memset(&message, 0, sizeof message);
  pieces[0].base = in_buffer;
  pieces[0].len = 60001;
  pieces[1].base = in_buffer + 60001;
  pieces[1].len = 20000;
  message.msg_iov = pieces;
  message.msg_iovlen = 2;
  while ((got = machnet_recvmsg(channel, &message)) == 0) pause_until(end);
  CHECK(got == 1);
  CHECK(message.msg_size == total);
  CHECK(same_flow(reply_flow(message.flow_info), flow));
  CHECK(memcmp(out_buffer, in_buffer, total) == 0);

  /* Pieces that hold less than the message says: nothing is sent. */
  message.flow_info = flow;
  message.msg_size = 80002;
  errno = 0;
  CHECK(machnet_sendmsg(channel, &message) == -1 && errno == EINVAL);
}

static void check_many(const void *channel, MachnetFlow_t flow) {
  enum { MANY = 16 };
  MachnetIovec_t pieces[MANY];
  MachnetMsgHdr_t messages[MANY];
  int i, queued = 0;
  time_t end = deadline();
  fill(MANY * 10, 9);
  memset(messages, 0, sizeof messages);
  for (i = 0; i < MANY; i++) {
    pieces[i].base = out_buffer + i;
    pieces[i].len = (size_t)i + 1;
    messages[i].msg_size = (uint32_t)i + 1;
    messages[i].flow_info = flow;
    messages[i].msg_iov = &pieces[i];
    messages[i].msg_iovlen = 1;
  }
  while (queued < MANY) {
    int now = machnet_sendmmsg(channel, messages + queued, MANY - queued);
    CHECK(now >= 0 && now <= MANY - queued);
    if (now == 0) pause_until(end);
    queued += now;
  }
  for (i = 0; i < MANY; i++) {
    CHECK(receive(channel, in_buffer, 100, NULL) == (size_t)i + 1);
    CHECK(memcmp(in_buffer, out_buffer + i, (size_t)i + 1) == 0);
  }
  /* A bad message in the middle: those before it are queued. */
  messages[3].msg_size = 0;
  CHECK(machnet_sendmmsg(channel, messages, MANY) == 3);
  for (i = 0; i < 3; i++) CHECK(receive(channel, in_buffer, 100, NULL) == (size_t)i + 1);
}

static void check_too_small_a_buffer(const void *channel, MachnetFlow_t flow) {
  MachnetFlow_t from;
  time_t end = deadline();
  long got;
  fill(1000, 3);
  send_all(channel, flow, out_buffer, 1000);
  send_all(channel, flow, out_buffer, 10);
  while ((got = (long)machnet_recv(channel, in_buffer, 999, &from)) == 0) pause_until(end);
  CHECK(got == -1 && errno == EMSGSIZE);
  /* The large one is gone, the next one is whole. */
  CHECK(receive(channel, in_buffer, 999, &from) == 10);
}

static void check_full(const void *channel, MachnetFlow_t flow) {
  int sent = 0, i;
  fill(16384, 1);
  /* Nobody reads the echoes, so the server stops, and the credit ends. */
  while (sent < FLOOD_MOST && machnet_send(channel, flow, out_buffer, 16384) == 0) sent++;
  CHECK(sent < FLOOD_MOST && errno == EAGAIN);
  CHECK(sent > 0);
  for (i = 0; i < sent; i++) CHECK(receive(channel, in_buffer, 16384, NULL) == 16384);
}

static void check_end(const void *channel, MachnetFlow_t flow) {
  time_t end = deadline();
  send_all(channel, flow, "quit", 4);
  for (;;) {
    if (machnet_send(channel, flow, "x", 1) != 0 && errno != EAGAIN) break;
    pause_until(end);
  }
  CHECK(errno == EPIPE);
}

static int client(const char *local_ip, const char *remote_ip, uint16_t port) {
  MachnetFlow_t flow, second;
  void *channel;
  CHECK(machnet_init() == 0);
  channel = machnet_attach();
  CHECK(channel != NULL);
  CHECK(machnet_connect(channel, local_ip, "1.2.3.4.5", port, &flow) == -1 && errno == EINVAL);
  CHECK(machnet_connect(channel, local_ip, remote_ip, port, &flow) == 0);
  CHECK(flow.dst_port == port && flow.src_port != 0);
  CHECK(machnet_connect(channel, local_ip, remote_ip, port, &second) == 0);
  CHECK(!same_flow(flow, second));
  check_wrong_arguments(channel, flow);
  check_sizes(channel, flow);
  check_sizes(channel, second);
  check_pieces(channel, flow);
  check_many(channel, second);
  check_too_small_a_buffer(channel, flow);
  check_full(channel, flow);
  check_end(channel, flow);
  machnet_detach(channel);
  printf("all checks hold\n");
  return 0;
}

int main(int argc, char **argv) {
  out_buffer = malloc((size_t)MACHNET_MSG_MAX_LEN + 1);
  in_buffer = malloc((size_t)MACHNET_MSG_MAX_LEN + 1);
  if (out_buffer == NULL || in_buffer == NULL) return 1;
  if (argc == 4 && strcmp(argv[1], "server") == 0) return server(argv[2], (uint16_t)atoi(argv[3]));
  if (argc == 5 && strcmp(argv[1], "client") == 0) return client(argv[2], argv[3], (uint16_t)atoi(argv[4]));
  fprintf(stderr, "usage: compat server LOCAL_IP PORT | compat client LOCAL_IP REMOTE_IP PORT\n");
  return 2;
}
