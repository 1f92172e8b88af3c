/*
 * What the sidecar asks of its DPDK plugin.
 *
 * The sidecar is built without DPDK. It opens libmachnet_dpdk.so at run time, calls machnet_dpdk_table(), and uses what the
 * table holds if `abi` is the number that it knows. Nothing here names a type of DPDK: a plugin of any DPDK release fits any
 * sidecar of the same MACHNET_DPDK_ABI. engine/src/driver/dpdk/plugin.rs has the same declarations in Rust, and a test
 * compares sizes and offsets.
 *
 * Functions answer 0, or a negative errno value. Those of the table may be called by one thread at a time, except for the
 * four of a queue (receive, lend, send, give_back) and wake_on_receive, which each queue's own thread calls, and link, mtu and
 * statistics, which may be called beside them.
 */
#ifndef MACHNET_DPDK_H
#define MACHNET_DPDK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever something below changes its place, size or meaning. */
#define MACHNET_DPDK_ABI 1u

/* Longest name of a driver with its final zero. */
#define MACHNET_DPDK_NAME_BYTES 64

/* ---- frames ---- */

/* Flags of a frame that was received. None of the first two: nobody looked at the UDP checksum. */
#define MACHNET_DPDK_CHECKSUM_GOOD (1u << 0)
#define MACHNET_DPDK_CHECKSUM_WRONG (1u << 1)
/* Only the first part of the frame is in `bytes`: it did not fit a buffer. */
#define MACHNET_DPDK_IN_PIECES (1u << 2)

/* Flag of a frame to be sent: the card shall complete the UDP checksum; the upper 16 bits tell where the UDP header begins. */
#define MACHNET_DPDK_COMPLETE_UDP (1u << 3)
#define MACHNET_DPDK_UDP_AT_SHIFT 16

/* A frame and the buffer that it lies in. */
struct machnet_dpdk_frame {
	uint8_t *bytes;  /* where the Ethernet header begins */
	void *buffer;    /* DPDK's buffer */
	uint32_t length; /* bytes of the frame; of a buffer that was lent, the bytes there is room for */
	uint32_t flags;
};

/* ---- ports ---- */

/* Of rte_eth_dev_info and its like: what a port offers. */
struct machnet_dpdk_limits {
	uint16_t max;
	uint16_t min;
	uint16_t align;
	uint16_t reserved;
};

/* dev_flags: the port tells changes of the link, and that it was removed, by an interrupt. */
#define MACHNET_DPDK_LINK_INTERRUPT (1u << 0)
#define MACHNET_DPDK_REMOVAL_INTERRUPT (1u << 1)

struct machnet_dpdk_port_info {
	char driver[MACHNET_DPDK_NAME_BYTES];
	uint64_t rx_offload_capa;        /* RTE_ETH_RX_OFFLOAD_* */
	uint64_t tx_offload_capa;        /* RTE_ETH_TX_OFFLOAD_* */
	uint64_t flow_type_rss_offloads; /* RTE_ETH_RSS_* */
	uint32_t min_rx_bufsize;
	uint32_t max_rx_pktlen;
	uint32_t dev_flags; /* MACHNET_DPDK_*_INTERRUPT */
	uint32_t reserved;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t mtu; /* as it is now */
	uint8_t mac[6];
	struct machnet_dpdk_limits rx_desc;
	struct machnet_dpdk_limits tx_desc;
};

/* What the sidecar made of it: how the port is to be set up. */
struct machnet_dpdk_port_plan {
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	uint64_t rss_functions; /* 0: no RSS mode */
	uint32_t buffer_bytes;  /* room for a frame */
	uint32_t buffers;       /* of each queue */
	uint16_t queues;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu;
	uint32_t rx_interrupts; /* 0 or 1 */
	uint32_t dev_flags;     /* MACHNET_DPDK_*_INTERRUPT */
};

/* Whether frames pass. */
#define MACHNET_DPDK_LINK_DOWN 0
#define MACHNET_DPDK_LINK_UP 1
#define MACHNET_DPDK_LINK_GONE 2

/* A poll-mode driver that is linked in. */
struct machnet_dpdk_driver {
	const char *name;
	const uint16_t (*ids)[4]; /* PCI vendor, device, and both of the subsystem; 0xffff: any. None for drivers of other buses. */
	uint64_t id_count;
};

/* Opaque. */
struct machnet_dpdk_port;
struct machnet_dpdk_queue;

/* A line that DPDK logged: the severity as in syslog (3: error), without the line's end. */
typedef void (*machnet_dpdk_log)(int level, const char *line);
typedef void (*machnet_dpdk_each)(void *context, const char *name, uint64_t value);

struct machnet_dpdk_table {
	uint32_t abi;  /* MACHNET_DPDK_ABI */
	uint32_t size; /* of this table */

	/* The DPDK release, such as "DPDK 22.11.11". */
	const char *(*version)(void);
	/* The drivers that are linked in; their number goes to *count. Needs no start. */
	const struct machnet_dpdk_driver *(*drivers)(uint64_t *count);

	/* Starts DPDK's environment, once per process, with its command line. The calling thread is one of DPDK's from then on. */
	int (*start)(int argc, const char *const *argv, machnet_dpdk_log log);
	/* Makes a virtual device, such as "net_memif0,role=client". */
	int (*plug)(const char *device);
	/* Takes the port of a device by the device's name, such as "0000:00:05.0" or "net_memif0". -ENODEV: there is none. */
	int (*open)(const char *name, struct machnet_dpdk_port **port);
	int (*info)(struct machnet_dpdk_port *port, struct machnet_dpdk_port_info *info);
	/* Sets the port up, and starts it. After an error it may be tried again with another plan. */
	int (*set_up)(struct machnet_dpdk_port *port, const struct machnet_dpdk_port_plan *plan);
	/* A queue of a port that is set up; NULL if there is none of that number. Lives as long as the port. */
	struct machnet_dpdk_queue *(*queue)(struct machnet_dpdk_port *port, uint16_t number);
	/* Stops the port, gives its memory back and, with `unplug`, takes the device away. Every buffer was given back before. */
	void (*close)(struct machnet_dpdk_port *port, int unplug);

	/* MACHNET_DPDK_LINK_*. */
	int (*link)(struct machnet_dpdk_port *port);
	int (*mtu)(struct machnet_dpdk_port *port);
	/* Every statistic that the port has (xstats). */
	int (*statistics)(struct machnet_dpdk_port *port, machnet_dpdk_each each, void *context);
	/* Frames lost because nobody took them from the receive rings in time. */
	uint64_t (*missed)(struct machnet_dpdk_port *port);

	/* A thread that uses queues says so first, or pays for each buffer; and says when it ends. */
	int (*thread_begins)(void);
	void (*thread_ends)(void);

	/* Up to `room` frames that arrived; each is given back with give_back. */
	uint32_t (*receive)(struct machnet_dpdk_queue *queue, struct machnet_dpdk_frame *frames, uint32_t room);
	/* Up to `wanted` empty buffers; each is sent or given back. */
	uint32_t (*lend)(struct machnet_dpdk_queue *queue, struct machnet_dpdk_frame *frames, uint32_t wanted);
	/* Sends the first frames of `count`, answers how many; the others stay the caller's. Frames that the card refuses are dropped
	 * and added to *refused; they count as sent, too. */
	uint32_t (*send)(struct machnet_dpdk_queue *queue, const struct machnet_dpdk_frame *frames, uint32_t count,
			 uint32_t *refused);
	void (*give_back)(struct machnet_dpdk_queue *queue, const struct machnet_dpdk_frame *frames, uint32_t count);

	/* The eventfd that the queue's receive interrupt writes; negative: there is none. */
	int (*receive_fd)(struct machnet_dpdk_queue *queue);
	/* From now on (1) or no more (0) what arrives interrupts. */
	int (*wake_on_receive)(struct machnet_dpdk_queue *queue, int on);
};

const struct machnet_dpdk_table *machnet_dpdk_table(void);

#ifdef __cplusplus
}
#endif

#endif
