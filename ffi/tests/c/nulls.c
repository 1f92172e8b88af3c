/* Every function with NULL for every pointer, and the errors of a host without a sidecar. Run with a MACHNET_SOCKET that leads nowhere. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <machnet.h>

static int failures;

#define CHECK(condition)                                                                                         \
  do {                                                                                                           \
    if (!(condition)) {                                                                                          \
      fprintf(stderr, "nulls.c:%d: %s does not hold (%s)\n", __LINE__, #condition, machnet_last_error());        \
      failures++;                                                                                                \
    }                                                                                                            \
  } while (0)

#define INVALID(call) CHECK((call) == MACHNET_STATUS_INVALID_ARGUMENT)
#define POSIX(call, answer, number)        \
  do {                                     \
    errno = 0;                             \
    CHECK((call) == (answer));             \
    CHECK(errno == (number));              \
  } while (0)

static void compatible(void) {
  MachnetFlow_t flow;
  MachnetMsgHdr_t message;
  char byte = 0;
  size_t size = 5;
  memset(&flow, 0, sizeof flow);
  memset(&message, 0, sizeof message);
  POSIX(machnet_init(), -1, ENOENT);
  POSIX(machnet_attach() != NULL, 0, ENOENT);
  CHECK(strstr(machnet_last_error(), "machnet up") != NULL);
  CHECK(strstr(machnet_last_error(), getenv("MACHNET_SOCKET")) != NULL);
  POSIX(machnet_listen(NULL, "127.0.0.1", 1), -1, EINVAL);
  POSIX(machnet_connect(NULL, NULL, "127.0.0.1", 1, &flow), -1, EINVAL);
  POSIX(machnet_send(NULL, flow, &byte, 1), -1, EINVAL);
  POSIX(machnet_sendmsg(NULL, &message), -1, EINVAL);
  POSIX(machnet_sendmmsg(NULL, &message, 1), 0, EINVAL);
  POSIX(machnet_recv(NULL, &byte, 1, &flow), -1, EINVAL);
  POSIX(machnet_recvmsg(NULL, &message), -1, EINVAL);
  machnet_detach(NULL);
  CHECK(machnet_bind(-1, &size) == NULL && size == 0);
  CHECK(machnet_bind(0, NULL) == NULL);
}

static void attach(void) {
  machnet_attach_options_t options;
  machnet_channel_t *channel = NULL;
  machnet_news_t news;
  int32_t engine = -1;
  size_t count = 0;
  machnet_channel_info_t info;
  unsigned char newer[sizeof options + 8];
  INVALID(machnet_attach_options_init(NULL, sizeof options));
  INVALID(machnet_attach_options_init(&options, 0));
  INVALID(machnet_attach_options_init(&options, 1 << 20));
  CHECK(machnet_attach_options_init(&options, sizeof options) == MACHNET_STATUS_OK);
  CHECK(options.engine == -1 && options.linger_ms == 1000 && options.struct_size == sizeof options);
  INVALID(machnet_attach_with(&options, NULL));
  CHECK(machnet_attach_with(NULL, &channel) == MACHNET_STATUS_NO_SIDECAR);
  CHECK(machnet_attach_with(&options, &channel) == MACHNET_STATUS_NO_SIDECAR);
  CHECK(machnet_status_errno(MACHNET_STATUS_NO_SIDECAR) == ENOENT);
  options.doorbell = 7;
  INVALID(machnet_attach_with(&options, &channel));
  options.doorbell = 1;
  options.buffer_bytes = 1000;
  INVALID(machnet_attach_with(&options, &channel));
  CHECK(strstr(machnet_last_error(), "buffer_bytes") != NULL);
  options.buffer_bytes = 0;
  options.socket_path = "/nowhere/of/mine";
  CHECK(machnet_attach_with(&options, &channel) == MACHNET_STATUS_NO_SIDECAR);
  CHECK(strstr(machnet_last_error(), "/nowhere/of/mine") != NULL);

  /* A program compiled with a newer header: good as long as it sets nothing that this library does not know. */
  CHECK(machnet_attach_options_init((machnet_attach_options_t *)(void *)newer, sizeof newer) == MACHNET_STATUS_OK);
  CHECK(machnet_attach_with((machnet_attach_options_t *)(void *)newer, &channel) == MACHNET_STATUS_NO_SIDECAR);
  newer[sizeof newer - 1] = 1;
  INVALID(machnet_attach_with((machnet_attach_options_t *)(void *)newer, &channel));
  CHECK(channel == NULL);

  info.struct_size = sizeof info;
  INVALID(machnet_channel_info(NULL, &info));
  INVALID(machnet_channel_event_fd(NULL, NULL));
  INVALID(machnet_engine_number(NULL, &engine));
  INVALID(machnet_engine_number("engine0", NULL));
  INVALID(machnet_engine_number("zero", &engine));
  INVALID(machnet_engine_number("engine4294967294", &engine));
  CHECK(machnet_engine_number("engine12", &engine) == MACHNET_STATUS_OK && engine == 12);
  INVALID(machnet_channel_take_news(NULL, &news, 1, &count));
  INVALID(machnet_flow_set_token(NULL, 1));
  INVALID(machnet_stream_set_token(NULL, 1));
  INVALID(machnet_listener_set_token(NULL, 1));
  INVALID(machnet_pending_set_token(NULL, 1));
  CHECK(machnet_channel_close(NULL) == MACHNET_STATUS_OK);
}

static void handles(void) {
  machnet_listener_t *listener = NULL;
  machnet_flow_handle_t *flow = NULL;
  machnet_pending_t *pending = NULL;
  machnet_message_t *message = NULL;
  machnet_loan_t *loan = NULL;
  machnet_flow_stats_t stats;
  machnet_cancel_t *cancel = NULL;
  machnet_stream_t *stream = NULL;
  machnet_message_t *messages[1];
  size_t many = 0;
  MachnetFlow_t no_flow = {0, 0, 0, 0};
  machnet_address_t address;
  MachnetFlow_t names;
  MachnetIovec_t piece;
  char byte = 0;
  size_t len = 0;
  memset(&names, 0, sizeof names);
  piece.base = &byte;
  piece.len = 1;
  INVALID(machnet_channel_recv_loan(NULL, 0, &names, &message));
  INVALID(machnet_channel_send(NULL, names, &byte, 1, 0));
  INVALID(machnet_channel_close_flow(NULL, names));
  INVALID(machnet_listener_open(NULL, "127.0.0.1", 1, 0, &listener));
  INVALID(machnet_listener_accept(NULL, 0, &flow));
  INVALID(machnet_listener_try_accept(NULL, &flow));
  INVALID(machnet_listener_address(NULL, &address));
  INVALID(machnet_listener_shutdown(NULL));
  machnet_listener_close(NULL);
  INVALID(machnet_flow_connect(NULL, NULL, "127.0.0.1", 1, 0, &flow));
  INVALID(machnet_flow_start_connect(NULL, NULL, "127.0.0.1", 1, 0, &pending));
  INVALID(machnet_pending_try_finish(NULL, &flow));
  machnet_pending_drop(NULL);
  INVALID(machnet_flow_send(NULL, &byte, 1, 0));
  INVALID(machnet_flow_try_send(NULL, &byte, 1));
  INVALID(machnet_flow_try_send_many(NULL, &piece, 1, &len));
  INVALID(machnet_flow_recv(NULL, &byte, 1, 0, &len));
  INVALID(machnet_flow_try_recv(NULL, &byte, 1, &len));
  INVALID(machnet_flow_recv_loan(NULL, 0, &message));
  INVALID(machnet_flow_try_recv_loan(NULL, &message));
  INVALID(machnet_flow_try_recv_many(NULL, &message, 1, &len));
  INVALID(machnet_flow_try_lend(NULL, 1, &loan));
  INVALID(machnet_flow_peer_address(NULL, &address));
  INVALID(machnet_flow_local_address(NULL, &address));
  INVALID(machnet_flow_stats(NULL, &stats));
  INVALID(machnet_flow_send_many(NULL, NULL, 1, 0, &many));
  INVALID(machnet_flow_recv_many(NULL, messages, 1, 0, &many));
  INVALID(machnet_flow_lend(NULL, 1, 0, &loan));
  INVALID(machnet_flow_shutdown_wait(NULL, 0));
  INVALID(machnet_flow_reset(NULL));
  INVALID(machnet_pending_finish(NULL, 0, NULL));
  INVALID(machnet_channel_shutdown(NULL));
  INVALID(machnet_cancel_new(NULL, &cancel));
  INVALID(machnet_cancel_trigger(NULL));
  CHECK(machnet_cancel_scope(NULL) == MACHNET_STATUS_OK);
  machnet_cancel_free(NULL);
  INVALID(machnet_stream_open(NULL, &stream));
  INVALID(machnet_stream_read(NULL, messages, 1, 0, &many));
  INVALID(machnet_stream_try_read(NULL, messages, 1, &many));
  INVALID(machnet_stream_write(NULL, "x", 1, 0, &many));
  INVALID(machnet_stream_try_write(NULL, "x", 1, &many));
  INVALID(machnet_stream_end(NULL, 0));
  INVALID(machnet_stream_try_end(NULL));
  INVALID(machnet_stream_peer_address(NULL, &address));
  INVALID(machnet_stream_local_address(NULL, &address));
  INVALID(machnet_stream_stats(NULL, &stats));
  INVALID(machnet_stream_reset(NULL));
  machnet_stream_close(NULL);
  INVALID(machnet_channel_flow_stats(NULL, no_flow, &stats));
  INVALID(machnet_flow_shutdown(NULL));
  INVALID(machnet_flow_close_wait(NULL, 0));
  INVALID(machnet_loan_send(NULL));
  CHECK(machnet_flow_max_message(NULL) == 0);
  CHECK(machnet_flow_unacknowledged(NULL) == 0);
  CHECK(machnet_flow_close(NULL) == MACHNET_STATUS_OK);
  machnet_flow_abort(NULL);
  CHECK(machnet_message_data(NULL) == NULL);
  CHECK(machnet_message_len(NULL) == 0);
  machnet_message_release(NULL);
  CHECK(machnet_loan_data(NULL) == NULL);
  machnet_loan_drop(NULL);
}

static void texts(void) {
  int32_t code;
  CHECK(machnet_version() == MACHNET_VERSION);
  CHECK(strlen(machnet_version_string()) >= 5);
  for (code = -3; code < 1003; code++) CHECK(strlen(machnet_strerror(code)) > 4);
  CHECK(strcmp(machnet_strerror(12345), machnet_strerror(INT32_MIN)) == 0);
  CHECK(machnet_status_errno(MACHNET_STATUS_OK) == 0);
  CHECK(machnet_status_errno(MACHNET_STATUS_CLOSED) == EPIPE);
}

int main(void) {
  CHECK(strcmp(machnet_last_error(), "success") == 0);
  compatible();
  attach();
  handles();
  texts();
  if (failures == 0) printf("all checks hold\n");
  return failures != 0;
}
