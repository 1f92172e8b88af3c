/*
 * Echo over Machnet: a server that answers every message with itself, and a client that checks the answers.
 *
 *   echo server ADDRESS:PORT
 *   echo client ADDRESS:PORT [SIZE [COUNT]]
 *
 * Talks to the sidecar of $MACHNET_SOCKET, or else of the user, or else of the system. It speaks with the same program in every
 * other language: see examples/rust/src/bin/echo.rs.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <machnet.h>

#define FOREVER (-1)

/* Ends the program with the reason, unless the call went well. */
static void check(int32_t status, const char *what) {
  if (status == MACHNET_STATUS_OK) return;
  fprintf(stderr, "echo: %s: %s\n", what, machnet_last_error());
  exit(1);
}

/* Answers each message of one flow until the peer closes it. The answer is sent from where the message lies: no copy here. */
static void *serve(void *argument) {
  machnet_flow_handle_t *flow = argument;
  machnet_message_t *message;
  int32_t status;
  while ((status = machnet_flow_recv_loan(flow, FOREVER, &message)) == MACHNET_STATUS_OK) {
    status = machnet_flow_send(flow, machnet_message_data(message), machnet_message_len(message), FOREVER);
    machnet_message_release(message);
    if (status != MACHNET_STATUS_OK) break;
  }
  if (status != MACHNET_STATUS_CLOSED) fprintf(stderr, "echo: flow ended: %s\n", machnet_last_error());
  machnet_flow_close(flow);
  return NULL;
}

/* Never returns: accepts flows until the program is ended. */
static void server(machnet_channel_t *channel, const char *address, uint16_t port) {
  machnet_listener_t *listener;
  machnet_flow_handle_t *flow;
  check(machnet_listener_open(channel, address, port, 0, &listener), "listen");
  printf("listening on %s:%u\n", address, (unsigned)port);
  fflush(stdout);
  for (;;) {
    pthread_t thread;
    check(machnet_listener_accept(listener, FOREVER, &flow), "accept");
    if (pthread_create(&thread, NULL, serve, flow) == 0) pthread_detach(thread);
    else machnet_flow_abort(flow);
  }
}

static int client(machnet_channel_t *channel, const char *address, uint16_t port, size_t size, unsigned long count) {
  unsigned char *request = malloc(size + 1), *answer = malloc(size + 1);
  machnet_flow_handle_t *flow;
  unsigned long number;
  size_t i, len = 0;
  if (request == NULL || answer == NULL) return 1;
  check(machnet_flow_connect(channel, NULL, address, port, FOREVER, &flow), "connect");
  for (number = 0; number < count; number++) {
    for (i = 0; i < size; i++) request[i] = (unsigned char)(i + number);
    check(machnet_flow_send(flow, request, size, FOREVER), "send");
    check(machnet_flow_recv(flow, answer, size, FOREVER, &len), "receive");
    if (len != size || memcmp(request, answer, size) != 0) {
      fprintf(stderr, "echo: answer %lu differs from its request\n", number);
      return 1;
    }
  }
  check(machnet_flow_close_wait(flow, 5000), "close");
  printf("%lu messages of %lu bytes came back intact\n", count, (unsigned long)size);
  free(request);
  free(answer);
  return 0;
}

static int usage(void) {
  fprintf(stderr, "usage: echo server ADDRESS:PORT\n       echo client ADDRESS:PORT [SIZE [COUNT]]\n");
  return 2;
}

int main(int argc, char **argv) {
  machnet_channel_t *channel;
  char address[64];
  const char *colon = argc >= 3 ? strrchr(argv[2], ':') : NULL;
  uint16_t port;
  int result;
  if (colon == NULL || (size_t)(colon - argv[2]) >= sizeof address) return usage();
  memcpy(address, argv[2], (size_t)(colon - argv[2]));
  address[colon - argv[2]] = '\0';
  port = (uint16_t)strtoul(colon + 1, NULL, 10);

  check(machnet_attach_with(NULL, &channel), "attach");
  if (strcmp(argv[1], "server") == 0) {
    server(channel, address, port);
    result = 0;
  } else if (strcmp(argv[1], "client") == 0) {
    size_t size = argc > 3 ? strtoul(argv[3], NULL, 10) : 64;
    result = client(channel, address, port, size, argc > 4 ? strtoul(argv[4], NULL, 10) : 10);
  } else {
    result = usage();
  }
  machnet_channel_close(channel);
  return result;
}
