/* Layouts, constants and the shape of the header, checked by the compiler; also compiled as C++. */
#include <machnet.h>

#include <assert.h>
#include <stddef.h>

#ifndef __cplusplus
#define STATIC_CHECK _Static_assert
#else
#define STATIC_CHECK static_assert
#endif

STATIC_CHECK(sizeof(MachnetFlow_t) == 12, "flow");
STATIC_CHECK(offsetof(MachnetFlow_t, src_ip) == 0, "src_ip");
STATIC_CHECK(offsetof(MachnetFlow_t, dst_ip) == 4, "dst_ip");
STATIC_CHECK(offsetof(MachnetFlow_t, src_port) == 8, "src_port");
STATIC_CHECK(offsetof(MachnetFlow_t, dst_port) == 10, "dst_port");
STATIC_CHECK(sizeof(MachnetIovec_t) == 16, "iovec");
STATIC_CHECK(offsetof(MachnetIovec_t, base) == 0, "base");
STATIC_CHECK(offsetof(MachnetIovec_t, len) == 8, "len");
STATIC_CHECK(sizeof(MachnetMsgHdr_t) == 40, "msghdr");
STATIC_CHECK(offsetof(MachnetMsgHdr_t, msg_size) == 0, "msg_size");
STATIC_CHECK(offsetof(MachnetMsgHdr_t, flow_info) == 4, "flow_info");
STATIC_CHECK(offsetof(MachnetMsgHdr_t, msg_iov) == 16, "msg_iov");
STATIC_CHECK(offsetof(MachnetMsgHdr_t, msg_iovlen) == 24, "msg_iovlen");
STATIC_CHECK(offsetof(MachnetMsgHdr_t, flags) == 32, "flags");
STATIC_CHECK(MACHNET_MSG_MAX_LEN == 8 * 1024 * 1024, "largest message");
STATIC_CHECK(sizeof(machnet_status) == 4, "status");
STATIC_CHECK(sizeof(machnet_address_t) == 20, "address");
STATIC_CHECK(sizeof(machnet_attach_options_t) == 72, "attach options");
STATIC_CHECK(offsetof(machnet_attach_options_t, engine) == 24, "engine");
STATIC_CHECK(offsetof(machnet_attach_options_t, flow_credit) == 68, "flow_credit");
STATIC_CHECK(sizeof(machnet_channel_info_t) == 72, "channel info");
STATIC_CHECK(offsetof(machnet_channel_info_t, local) == 32, "local");
STATIC_CHECK(offsetof(machnet_channel_info_t, flow_credit) == 68, "flow_credit");
STATIC_CHECK(sizeof(machnet_flow_stats_t) == 144, "flow statistics");
STATIC_CHECK(sizeof(machnet_news_t) == 16 && offsetof(machnet_news_t, events) == 8, "news");
STATIC_CHECK(offsetof(machnet_flow_stats_t, local) == 136, "local");
STATIC_CHECK(MACHNET_STATUS_OK == 0 && MACHNET_STATUS_NO_SIDECAR == 1 && MACHNET_STATUS_IO == 27, "status codes");

/* Both ways to name the public structs. */
struct MachnetFlow flow_by_tag;
MachnetFlow_t *flow_by_name = &flow_by_tag;
struct MachnetIovec iovec_by_tag;
struct MachnetMsgHdr msghdr_by_tag;

/* A channel is a `void *` to old programs, in C++ too; each function has the type that the documentation gives it. */
int (*init_function)(void) = machnet_init;
void *(*attach_function)(void) = machnet_attach;
int (*listen_function)(void *, const char *, uint16_t) = machnet_listen;
int (*connect_function)(void *, const char *, const char *, uint16_t, MachnetFlow_t *) = machnet_connect;
int (*send_function)(const void *, MachnetFlow_t, const void *, size_t) = machnet_send;
int (*sendmsg_function)(const void *, const MachnetMsgHdr_t *) = machnet_sendmsg;
int (*sendmmsg_function)(const void *, const MachnetMsgHdr_t *, int) = machnet_sendmmsg;
ssize_t (*recv_function)(const void *, void *, size_t, MachnetFlow_t *) = machnet_recv;
int (*recvmsg_function)(const void *, MachnetMsgHdr_t *) = machnet_recvmsg;
void (*detach_function)(const void *) = machnet_detach;
void *(*bind_function)(int, size_t *) = machnet_bind;

int main(void) {
  machnet_channel_t *typed = (machnet_channel_t *)machnet_attach();
  assert(machnet_version() == MACHNET_VERSION);
  assert(machnet_strerror(MACHNET_STATUS_CLOSED) != NULL);
  machnet_detach(typed);
  return 0;
}
