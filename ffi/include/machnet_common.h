/*
 * The public structs of Machnet. Written from ffi/src/common.rs by ci/c-header.sh; do not edit.
 */

#ifndef MACHNET_COMMON_H
#define MACHNET_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * The largest message: 8 MiB, in bytes.
 */
#define MACHNET_MSG_MAX_LEN 8388608

/**
 * One flow as one side sees it. All fields are in host byte order, so 10.0.0.1 is `0x0A000001`.
 *
 * `machnet_connect` answers it with `src` = this side and `dst` = the peer, ready for `machnet_send`. On a received
 * message `src` is the peer and `dst` is this side: swap both pairs to reply.
 */
typedef struct MachnetFlow {
  /**
   * IPv4 address of the sender.
   */
  uint32_t src_ip;
  /**
   * IPv4 address of the receiver.
   */
  uint32_t dst_ip;
  /**
   * Flow port of the sender.
   */
  uint16_t src_port;
  /**
   * Flow port of the receiver.
   */
  uint16_t dst_port;
} MachnetFlow;

/**
 * The name that C programs use.
 */
typedef struct MachnetFlow MachnetFlow_t;

/**
 * One piece of memory of a message.
 */
typedef struct MachnetIovec {
  /**
   * First byte. May be NULL only if `len` is 0.
   */
  void *base;
  /**
   * Length in bytes.
   */
  size_t len;
} MachnetIovec;

/**
 * The name that C programs use.
 */
typedef struct MachnetIovec MachnetIovec_t;

/**
 * One message that is spread over several pieces of memory.
 */
typedef struct MachnetMsgHdr {
  /**
   * Length of the message in bytes. Send: how many bytes of the pieces are the message, so the pieces hold at least
   * as many. Receive: set to the length of the message received.
   */
  uint32_t msg_size;
  /**
   * Send: the flow, `src` = this side. Receive: set to the flow, `src` = the peer.
   */
  MachnetFlow_t flow_info;
  /**
   * The pieces, in order. Neither they nor their lengths are changed by a receive.
   */
  MachnetIovec_t *msg_iov;
  /**
   * Number of pieces.
   */
  size_t msg_iovlen;
  /**
   * Reserved. Ignored by a send, set to 0 by a receive.
   */
  uint16_t flags;
} MachnetMsgHdr;

/**
 * The name that C programs use.
 */
typedef struct MachnetMsgHdr MachnetMsgHdr_t;

#endif  /* MACHNET_COMMON_H */
