/* The plugin: DPDK behind the table of machnet_dpdk.h. Keeps to what DPDK 22.11, 23.11 and 24.11 all have. */
#define _GNU_SOURCE
#include "machnet_dpdk.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_udp.h>
#include <rte_version.h>

/* The drivers that are linked in: made by build.sh from what the archives say of themselves. */
#include "drivers.h"

/* Buffers that a thread keeps at hand. */
#define CACHE 64u
/* Most frames of one call. */
#define MOST 256u
/* Longest line of DPDK's log that is handed on whole. */
#define LINE_BYTES 512

/* The sidecar names these bits by their numbers. */
_Static_assert(RTE_ETH_RX_OFFLOAD_UDP_CKSUM == 1ull << 2, "RTE_ETH_RX_OFFLOAD_UDP_CKSUM moved");
_Static_assert(RTE_ETH_TX_OFFLOAD_UDP_CKSUM == 1ull << 2, "RTE_ETH_TX_OFFLOAD_UDP_CKSUM moved");
_Static_assert(RTE_ETH_RSS_IPV4 == 1ull << 2, "RTE_ETH_RSS_IPV4 moved");
_Static_assert(RTE_ETH_RSS_NONFRAG_IPV4_UDP == 1ull << 5, "RTE_ETH_RSS_NONFRAG_IPV4_UDP moved");

struct machnet_dpdk_queue {
	uint16_t port;
	uint16_t number;
	struct rte_mempool *pool;
};

/* A pool of buffers. Queues hold buffers until their port is closed, so pools go only then. */
struct pool {
	struct pool *next;
	struct rte_mempool *pool;
};

struct machnet_dpdk_port {
	uint16_t id;
	uint16_t queues;
	atomic_int gone;
	struct machnet_dpdk_queue *queue;
	struct pool *pools;
};

/* ---- the environment ---- */

static machnet_dpdk_log log_line;

/* DPDK writes its log to a stream; this hands on whole lines. */
static ssize_t log_write(void *cookie, const char *text, size_t size)
{
	char line[LINE_BYTES];
	size_t begin = 0;
	(void)cookie;
	while (begin < size) {
		const char *end = memchr(text + begin, '\n', size - begin);
		size_t length = end ? (size_t)(end - text) - begin : size - begin;
		size_t kept = length < sizeof(line) - 1 ? length : sizeof(line) - 1;
		memcpy(line, text + begin, kept);
		line[kept] = '\0';
		/* DPDK counts from EMERG = 1, syslog from 0. */
		if (kept > 0)
			log_line(rte_log_cur_msg_loglevel() - 1, line);
		begin += length + 1;
	}
	return (ssize_t)size;
}

static int begin_log(machnet_dpdk_log log)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", functions);
	if (!stream)
		return -ENOMEM;
	setvbuf(stream, NULL, _IOLBF, LINE_BYTES);
	log_line = log;
	return rte_openlog_stream(stream);
}

static const char *version(void)
{
	return rte_version();
}

static const struct machnet_dpdk_driver *drivers(uint64_t *count)
{
	*count = sizeof(linked_in) / sizeof(linked_in[0]);
	return linked_in;
}

static int start(int argc, const char *const *argv, machnet_dpdk_log log)
{
	char **copy = calloc((size_t)argc + 1, sizeof(*copy));
	int result = begin_log(log);
	if (!copy || result < 0) {
		free(copy);
		return copy ? result : -ENOMEM;
	}
	/* DPDK reorders the arguments and keeps pointers into them: they live as long as the process. */
	for (int i = 0; i < argc; i++) {
		copy[i] = strdup(argv[i]);
		if (!copy[i])
			return -ENOMEM;
	}
	if (rte_eal_init(argc, copy) < 0)
		return rte_errno > 0 ? -rte_errno : -EINVAL;
	/* A folder that DPDK made and, without files that other processes share, does not use. */
	(void)rmdir(rte_eal_get_runtime_dir());
	return 0;
}

static int thread_begins(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 0;
	return rte_thread_register() < 0 ? -rte_errno : 0;
}

static void thread_ends(void)
{
	rte_thread_unregister();
}

/* ---- ports ---- */

static int plug(const char *device)
{
	int result = rte_dev_probe(device);
	/* Positive: no driver wants it. */
	return result > 0 ? -ENODEV : result;
}

static int on_removal(uint16_t id, enum rte_eth_event_type event, void *argument, void *result)
{
	struct machnet_dpdk_port *port = argument;
	(void)id;
	(void)event;
	(void)result;
	atomic_store(&port->gone, 1);
	return 0;
}

static int open_port(const char *name, struct machnet_dpdk_port **port)
{
	uint16_t id;
	struct machnet_dpdk_port *made;
	if (rte_eth_dev_get_port_by_name(name, &id) != 0)
		return -ENODEV;
	made = calloc(1, sizeof(*made));
	if (!made)
		return -ENOMEM;
	made->id = id;
	rte_eth_dev_callback_register(id, RTE_ETH_EVENT_INTR_RMV, on_removal, made);
	*port = made;
	return 0;
}

static struct machnet_dpdk_limits limits(const struct rte_eth_desc_lim *of)
{
	return (struct machnet_dpdk_limits){ .max = of->nb_max, .min = of->nb_min, .align = of->nb_align };
}

static int info(struct machnet_dpdk_port *port, struct machnet_dpdk_port_info *into)
{
	struct rte_eth_dev_info of;
	struct rte_ether_addr mac;
	uint16_t mtu = 0;
	int result = rte_eth_dev_info_get(port->id, &of);
	if (result < 0)
		return result;
	result = rte_eth_macaddr_get(port->id, &mac);
	if (result < 0)
		return result;
	result = rte_eth_dev_get_mtu(port->id, &mtu);
	if (result < 0)
		return result;
	memset(into, 0, sizeof(*into));
	snprintf(into->driver, sizeof(into->driver), "%s", of.driver_name ? of.driver_name : "");
	into->rx_offload_capa = of.rx_offload_capa;
	into->tx_offload_capa = of.tx_offload_capa;
	into->flow_type_rss_offloads = of.flow_type_rss_offloads;
	into->min_rx_bufsize = of.min_rx_bufsize;
	into->max_rx_pktlen = of.max_rx_pktlen;
	if (of.dev_flags && *of.dev_flags & RTE_ETH_DEV_INTR_LSC)
		into->dev_flags |= MACHNET_DPDK_LINK_INTERRUPT;
	if (of.dev_flags && *of.dev_flags & RTE_ETH_DEV_INTR_RMV)
		into->dev_flags |= MACHNET_DPDK_REMOVAL_INTERRUPT;
	into->max_rx_queues = of.max_rx_queues;
	into->max_tx_queues = of.max_tx_queues;
	into->min_mtu = of.min_mtu;
	into->max_mtu = of.max_mtu;
	into->mtu = mtu;
	memcpy(into->mac, mac.addr_bytes, sizeof(into->mac));
	into->rx_desc = limits(&of.rx_desc_lim);
	into->tx_desc = limits(&of.tx_desc_lim);
	return 0;
}

static struct rte_mempool *make_pool(struct machnet_dpdk_port *port, uint32_t buffers, uint16_t room)
{
	static atomic_uint next;
	char name[RTE_MEMPOOL_NAMESIZE];
	struct pool *made = calloc(1, sizeof(*made));
	if (!made)
		return NULL;
	snprintf(name, sizeof(name), "machnet_%u", atomic_fetch_add(&next, 1));
	made->pool = rte_pktmbuf_pool_create(name, buffers, CACHE, 0, room, rte_eth_dev_socket_id(port->id));
	if (!made->pool) {
		free(made);
		return NULL;
	}
	made->next = port->pools;
	port->pools = made;
	return made->pool;
}

static int make_pools(struct machnet_dpdk_port *port, const struct machnet_dpdk_port_plan *plan)
{
	uint32_t room = plan->buffer_bytes + RTE_PKTMBUF_HEADROOM;
	if (room > UINT16_MAX)
		return -EMSGSIZE;
	port->queue = calloc(plan->queues, sizeof(*port->queue));
	if (!port->queue)
		return -ENOMEM;
	for (uint16_t i = 0; i < plan->queues; i++) {
		struct rte_mempool *pool = make_pool(port, plan->buffers, (uint16_t)room);
		if (!pool)
			return rte_errno > 0 ? -rte_errno : -ENOMEM;
		port->queue[i] = (struct machnet_dpdk_queue){ .port = port->id, .number = i, .pool = pool };
		port->queues = i + 1;
	}
	return 0;
}

static int make_queues(struct machnet_dpdk_port *port, const struct machnet_dpdk_port_plan *plan)
{
	struct rte_eth_dev_info of;
	int node = rte_eth_dev_socket_id(port->id);
	int result = rte_eth_dev_info_get(port->id, &of);
	for (uint16_t i = 0; result >= 0 && i < plan->queues; i++) {
		struct rte_eth_rxconf receive = of.default_rxconf;
		struct rte_eth_txconf transmit = of.default_txconf;
		receive.offloads = plan->rx_offloads;
		transmit.offloads = plan->tx_offloads;
		result = rte_eth_rx_queue_setup(port->id, i, plan->rx_descriptors, (unsigned)node, &receive, port->queue[i].pool);
		if (result >= 0)
			result = rte_eth_tx_queue_setup(port->id, i, plan->tx_descriptors, (unsigned)node, &transmit);
	}
	return result;
}

static int set_up(struct machnet_dpdk_port *port, const struct machnet_dpdk_port_plan *plan)
{
	struct rte_eth_conf conf = { 0 };
	uint16_t before = 0;
	int result;
	if (port->queue)
		return -EBUSY;
	conf.rxmode.mtu = plan->mtu;
	conf.rxmode.offloads = plan->rx_offloads;
	conf.txmode.offloads = plan->tx_offloads;
	conf.intr_conf.rxq = plan->rx_interrupts != 0;
	conf.intr_conf.lsc = (plan->dev_flags & MACHNET_DPDK_LINK_INTERRUPT) != 0;
	conf.intr_conf.rmv = (plan->dev_flags & MACHNET_DPDK_REMOVAL_INTERRUPT) != 0;
	if (plan->rss_functions) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = plan->rss_functions;
	}
	rte_eth_dev_get_mtu(port->id, &before);
	result = rte_eth_dev_configure(port->id, plan->queues, plan->queues, &conf);
	if (result < 0)
		return result;
	/* Most drivers take the MTU from the configuration; some, such as tap, only when asked in so many words. */
	if (before != plan->mtu)
		(void)rte_eth_dev_set_mtu(port->id, plan->mtu);
	result = make_pools(port, plan);
	if (result >= 0)
		result = make_queues(port, plan);
	if (result >= 0)
		result = rte_eth_dev_start(port->id);
	if (result < 0) {
		free(port->queue);
		port->queue = NULL;
		port->queues = 0;
	}
	return result;
}

static struct machnet_dpdk_queue *queue(struct machnet_dpdk_port *port, uint16_t number)
{
	return number < port->queues ? &port->queue[number] : NULL;
}

static void close_now(struct machnet_dpdk_port *port, int unplug)
{
	struct rte_eth_dev_info of;
	struct rte_device *device = rte_eth_dev_info_get(port->id, &of) == 0 ? of.device : NULL;
	rte_eth_dev_callback_unregister(port->id, RTE_ETH_EVENT_INTR_RMV, on_removal, port);
	if (port->queues > 0)
		(void)rte_eth_dev_stop(port->id);
	(void)rte_eth_dev_close(port->id);
	if (unplug && device)
		(void)rte_dev_remove(device);
	while (port->pools) {
		struct pool *pool = port->pools;
		port->pools = pool->next;
		rte_mempool_free(pool->pool);
		free(pool);
	}
	free(port->queue);
	free(port);
}

struct closing {
	struct machnet_dpdk_port *port;
	int unplug;
	sem_t done;
};

static void close_in_turn(void *argument)
{
	struct closing *closing = argument;
	close_now(closing->port, closing->unplug);
	sem_post(&closing->done);
}

/* virtio_user's handler of interrupts may run while its device is freed (seen with 22.11: it reads the freed device). In the thread
 * of interrupts, which alarms have, too, it cannot. */
static void close_port(struct machnet_dpdk_port *port, int unplug)
{
	struct rte_eth_dev_info of;
	int has_the_fault = rte_eth_dev_info_get(port->id, &of) == 0 && of.driver_name &&
			    strcmp(of.driver_name, "net_virtio_user") == 0;
	struct closing closing = { .port = port, .unplug = unplug };
	if (!has_the_fault || sem_init(&closing.done, 0, 0) != 0) {
		close_now(port, unplug);
		return;
	}
	if (rte_eal_alarm_set(1, close_in_turn, &closing) != 0) {
		close_now(port, unplug);
	} else {
		while (sem_wait(&closing.done) != 0 && errno == EINTR)
			;
	}
	sem_destroy(&closing.done);
}

static int link_state(struct machnet_dpdk_port *port)
{
	struct rte_eth_link link = { 0 };
	if (atomic_load(&port->gone) || !rte_eth_dev_is_valid_port(port->id))
		return MACHNET_DPDK_LINK_GONE;
	if (rte_eth_link_get_nowait(port->id, &link) < 0)
		return MACHNET_DPDK_LINK_DOWN;
	return link.link_status == RTE_ETH_LINK_UP ? MACHNET_DPDK_LINK_UP : MACHNET_DPDK_LINK_DOWN;
}

static int mtu_of(struct machnet_dpdk_port *port)
{
	uint16_t mtu = 0;
	int result = rte_eth_dev_get_mtu(port->id, &mtu);
	return result < 0 ? result : mtu;
}

static int statistics(struct machnet_dpdk_port *port, machnet_dpdk_each each, void *context)
{
	int count = rte_eth_xstats_get_names(port->id, NULL, 0);
	struct rte_eth_xstat_name *names;
	struct rte_eth_xstat *values;
	if (count <= 0)
		return count;
	names = calloc((size_t)count, sizeof(*names));
	values = calloc((size_t)count, sizeof(*values));
	/* A driver may have more by now; then the answer is larger than the room, and nothing is in it. */
	if (names && values && rte_eth_xstats_get_names(port->id, names, (unsigned)count) == count &&
	    rte_eth_xstats_get(port->id, values, (unsigned)count) == count) {
		for (int i = 0; i < count; i++)
			if (values[i].id < (uint64_t)count)
				each(context, names[values[i].id].name, values[i].value);
	}
	free(values);
	free(names);
	return 0;
}

static uint64_t missed(struct machnet_dpdk_port *port)
{
	struct rte_eth_stats stats;
	return rte_eth_stats_get(port->id, &stats) == 0 ? stats.imissed + stats.rx_nombuf : 0;
}

/* ---- queues ---- */

/* NONE says that the sum in the frame is not complete, but that nothing happened to the data on its way: it comes from a
 * virtual machine of the same host. */
static uint32_t checksum_of(uint64_t flags)
{
	switch (flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) {
	case RTE_MBUF_F_RX_L4_CKSUM_GOOD:
	case RTE_MBUF_F_RX_L4_CKSUM_NONE:
		return MACHNET_DPDK_CHECKSUM_GOOD;
	case RTE_MBUF_F_RX_L4_CKSUM_BAD:
		return MACHNET_DPDK_CHECKSUM_WRONG;
	default:
		return 0;
	}
}

static uint32_t receive(struct machnet_dpdk_queue *queue, struct machnet_dpdk_frame *frames, uint32_t room)
{
	struct rte_mbuf *burst[MOST];
	uint16_t count = rte_eth_rx_burst(queue->port, queue->number, burst, (uint16_t)RTE_MIN(room, MOST));
	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = burst[i];
		uint8_t *bytes = rte_pktmbuf_mtod(mbuf, uint8_t *);
		rte_prefetch0(bytes);
		frames[i].bytes = bytes;
		frames[i].buffer = mbuf;
		frames[i].length = rte_pktmbuf_data_len(mbuf);
		frames[i].flags = checksum_of(mbuf->ol_flags) | (mbuf->nb_segs > 1 ? MACHNET_DPDK_IN_PIECES : 0);
	}
	return count;
}

static uint32_t lend(struct machnet_dpdk_queue *queue, struct machnet_dpdk_frame *frames, uint32_t wanted)
{
	struct rte_mbuf *burst[MOST];
	uint32_t count = RTE_MIN(wanted, MOST);
	/* All or none; when the pool runs low, the last ones come one by one. */
	if (rte_pktmbuf_alloc_bulk(queue->pool, burst, count) != 0) {
		burst[0] = rte_pktmbuf_alloc(queue->pool);
		count = burst[0] ? 1 : 0;
	}
	for (uint32_t i = 0; i < count; i++) {
		frames[i].bytes = rte_pktmbuf_mtod(burst[i], uint8_t *);
		frames[i].buffer = burst[i];
		frames[i].length = rte_pktmbuf_tailroom(burst[i]);
		frames[i].flags = 0;
	}
	return count;
}

static void prepare(struct rte_mbuf *mbuf, const struct machnet_dpdk_frame *frame)
{
	mbuf->data_len = (uint16_t)frame->length;
	mbuf->pkt_len = frame->length;
	mbuf->ol_flags = 0;
	if (frame->flags & MACHNET_DPDK_COMPLETE_UDP) {
		uint32_t udp_at = frame->flags >> MACHNET_DPDK_UDP_AT_SHIFT;
		mbuf->l4_len = sizeof(struct rte_udp_hdr);
		mbuf->l3_len = sizeof(struct rte_ipv4_hdr);
		mbuf->l2_len = udp_at - sizeof(struct rte_ipv4_hdr);
		mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_UDP_CKSUM;
	}
}

static uint32_t send_frames(struct machnet_dpdk_queue *queue, const struct machnet_dpdk_frame *frames, uint32_t count,
			    uint32_t *refused)
{
	struct rte_mbuf *burst[MOST];
	uint32_t any = 0, done = 0;
	count = RTE_MIN(count, MOST);
	for (uint32_t i = 0; i < count; i++) {
		burst[i] = frames[i].buffer;
		prepare(burst[i], &frames[i]);
		any |= frames[i].flags;
	}
	*refused = 0;
	if (!(any & MACHNET_DPDK_COMPLETE_UDP))
		return rte_eth_tx_burst(queue->port, queue->number, burst, (uint16_t)count);
	while (done < count) {
		uint16_t left = (uint16_t)(count - done);
		uint16_t good = rte_eth_tx_prepare(queue->port, queue->number, burst + done, left);
		uint16_t taken = rte_eth_tx_burst(queue->port, queue->number, burst + done, good);
		done += taken;
		if (taken < good || done == count)
			break;
		/* The next one is none that this card can complete. */
		rte_pktmbuf_free(burst[done++]);
		*refused += 1;
	}
	return done;
}

static void give_back(struct machnet_dpdk_queue *queue, const struct machnet_dpdk_frame *frames, uint32_t count)
{
	struct rte_mbuf *burst[MOST];
	(void)queue;
	count = RTE_MIN(count, MOST);
	for (uint32_t i = 0; i < count; i++)
		burst[i] = frames[i].buffer;
	rte_pktmbuf_free_bulk(burst, count);
}

static int receive_fd(struct machnet_dpdk_queue *queue)
{
	return rte_eth_dev_rx_intr_ctl_q_get_fd(queue->port, queue->number);
}

static int wake_on_receive(struct machnet_dpdk_queue *queue, int on)
{
	return on ? rte_eth_dev_rx_intr_enable(queue->port, queue->number) :
		    rte_eth_dev_rx_intr_disable(queue->port, queue->number);
}

static const struct machnet_dpdk_table table = {
	.abi = MACHNET_DPDK_ABI,
	.size = sizeof(struct machnet_dpdk_table),
	.version = version,
	.drivers = drivers,
	.start = start,
	.plug = plug,
	.open = open_port,
	.info = info,
	.set_up = set_up,
	.queue = queue,
	.close = close_port,
	.link = link_state,
	.mtu = mtu_of,
	.statistics = statistics,
	.missed = missed,
	.thread_begins = thread_begins,
	.thread_ends = thread_ends,
	.receive = receive,
	.lend = lend,
	.send = send_frames,
	.give_back = give_back,
	.receive_fd = receive_fd,
	.wake_on_receive = wake_on_receive,
};

__attribute__((visibility("default"))) const struct machnet_dpdk_table *machnet_dpdk_table(void)
{
	return &table;
}
