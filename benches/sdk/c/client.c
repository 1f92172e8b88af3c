// The C client of `ci/bench.sh sdk`; what it has to do is said in ../README.md.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <machnet.h>

#define FOR_EVER (-1)
#define MOST_WINDOW 256

static struct {
    const char *socket;
    char ip[64];
    uint16_t port;
    size_t bytes, window, warm_up, count;
    double pause_us;
} chosen = {.bytes = 64, .window = 32, .warm_up = 1000, .count = 10000, .pause_us = 100};

static machnet_flow_handle_t *flow;
static uint64_t next_number, next_answer;
static uint8_t *message, *buffer;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void need(int32_t status, const char *what) {
    if (status != 0) fail(what, machnet_last_error());
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double quantile(double *values, size_t count, double share) {
    if (count == 0) fail("quantile", "nothing was measured");
    qsort(values, count, sizeof *values, by_value);
    size_t place = (size_t)((double)count * share);
    return values[place < count ? place : count - 1];
}

static void send_one(void) {
    memcpy(message, &next_number, 8);
    next_number++;
    need(machnet_flow_send(flow, message, chosen.bytes, FOR_EVER), "send");
}

static void receive_one(int is_checked) {
    size_t len = 0;
    need(machnet_flow_recv(flow, buffer, chosen.bytes, FOR_EVER, &len), "recv");
    if (len != chosen.bytes) fail("recv", "an answer has another length");
    if (is_checked && memcmp(buffer, &next_answer, 8) != 0) fail("recv", "an answer is not that of its question");
    next_answer++;
}

static void latency(void) {
    double *times = calloc(chosen.count, sizeof *times), sum = 0;
    for (size_t round = 0; round < chosen.warm_up + chosen.count; round++) {
        uint64_t before = now_ns();
        send_one();
        receive_one(round < chosen.warm_up);
        if (round >= chosen.warm_up) sum += times[round - chosen.warm_up] = (double)(now_ns() - before);
    }
    double p50 = quantile(times, chosen.count, 0.5), p99 = quantile(times, chosen.count, 0.99);
    printf("{\"p50_ns\": %.0f, \"p99_ns\": %.0f, \"mean_ns\": %.1f}\n", p50, p99, sum / (double)chosen.count);
}

static void window(void) {
    uint64_t began = 0;
    for (size_t i = 0; i < chosen.window; i++) send_one();
    for (size_t round = 0; round < chosen.warm_up + chosen.count; round++) {
        if (round == chosen.warm_up) began = now_ns();
        receive_one(round < chosen.warm_up);
        send_one();
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    printf("{\"messages_per_second\": %.1f}\n", (double)chosen.count / seconds);
}

static void pause_a_while(void) {
    uint64_t until = now_ns() + (uint64_t)(chosen.pause_us * 1e3);
    while (now_ns() < until) {
    }
}

// One round: nanoseconds a message, or negative if an answer was late.
static double single_round(void) {
    int is_late = 0;
    uint64_t began = now_ns();
    for (size_t i = 0; i < chosen.window; i++) {
        if (machnet_flow_try_send(flow, message, chosen.bytes) != 0) fail("try_send", machnet_last_error());
    }
    uint64_t spent = now_ns() - began;
    pause_a_while();
    began = now_ns();
    for (size_t i = 0; i < chosen.window; i++) {
        size_t len = 0;
        int32_t status;
        while ((status = machnet_flow_try_recv(flow, buffer, chosen.bytes, &len)) == MACHNET_STATUS_WOULD_BLOCK) is_late = 1;
        need(status, "try_recv");
        if (len != chosen.bytes) fail("try_recv", "an answer has another length");
    }
    spent += now_ns() - began;
    return is_late ? -1 : (double)spent / (double)chosen.window;
}

static double batched_round(const MachnetIovec_t *messages) {
    machnet_message_t *received[MOST_WINDOW];
    int is_late = 0;
    size_t sent = 0, taken = 0, count;
    uint64_t began = now_ns();
    while (sent < chosen.window) {
        need(machnet_flow_try_send_many(flow, messages + sent, chosen.window - sent, &count), "try_send_many");
        sent += count;
    }
    uint64_t spent = now_ns() - began;
    pause_a_while();
    began = now_ns();
    while (taken < chosen.window) {
        int32_t status = machnet_flow_try_recv_many(flow, received, chosen.window - taken, &count);
        if (status == MACHNET_STATUS_WOULD_BLOCK) {
            is_late = 1;
            continue;
        }
        need(status, "try_recv_many");
        for (size_t i = 0; i < count; i++) {
            size_t len = machnet_message_len(received[i]);
            const uint8_t *data = machnet_message_data(received[i]);
            if (len != chosen.bytes || data[8] != message[8]) fail("try_recv_many", "an answer is another");
            machnet_message_release(received[i]);
        }
        taken += count;
    }
    spent += now_ns() - began;
    return is_late ? -1 : (double)spent / (double)chosen.window;
}

static void calls(void) {
    if (chosen.window > MOST_WINDOW) fail("--window", "is too large");
    MachnetIovec_t messages[MOST_WINDOW];
    for (size_t i = 0; i < chosen.window; i++) {
        messages[i].base = malloc(chosen.bytes);
        messages[i].len = chosen.bytes;
        memcpy(messages[i].base, message, chosen.bytes);
    }
    double *times[2] = {calloc(chosen.count, sizeof(double)), calloc(chosen.count, sizeof(double))};
    size_t counts[2] = {0, 0}, late = 0;
    for (size_t round = 0; round < chosen.warm_up + chosen.count; round++) {
        double took[2] = {single_round(), batched_round(messages)};
        for (int kind = 0; kind < 2; kind++) {
            if (took[kind] < 0) late++;
            else if (round >= chosen.warm_up) times[kind][counts[kind]++] = took[kind];
        }
    }
    printf("{\"single_ns\": %.2f, \"batched_ns\": %.2f, \"late\": %zu, \"rounds\": %zu}\n", quantile(times[0], counts[0], 0.5),
           quantile(times[1], counts[1], 0.5), late, chosen.count);
}

static void wakeup(void) {
    uint64_t asked[2] = {chosen.count, (uint64_t)chosen.pause_us}, sent;
    double *times = calloc(chosen.count, sizeof *times);
    size_t kept = 0, len;
    need(machnet_flow_send(flow, asked, sizeof asked, FOR_EVER), "send");
    for (size_t i = 0; i < chosen.count; i++) {
        need(machnet_flow_recv(flow, &sent, sizeof sent, FOR_EVER, &len), "recv");
        if (i >= chosen.warm_up) times[kept++] = (double)(now_ns() - sent);
    }
    double p50 = quantile(times, kept, 0.5), p99 = quantile(times, kept, 0.99);
    printf("{\"p50_ns\": %.0f, \"p99_ns\": %.0f}\n", p50, p99);
}

static const struct {
    const char *name;
    void (*run)(void);
} measures[] = {{"latency", latency}, {"window", window}, {"calls", calls}, {"wakeup", wakeup}};

static void options(int count, char **arguments) {
    if (count % 2 != 0) fail("the command line", "each option has a value");
    for (int i = 0; i < count; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (strcmp(name, "--socket") == 0) chosen.socket = value;
        if (strcmp(name, "--bytes") == 0) chosen.bytes = strtoul(value, NULL, 10);
        if (strcmp(name, "--window") == 0) chosen.window = strtoul(value, NULL, 10);
        if (strcmp(name, "--warm-up") == 0) chosen.warm_up = strtoul(value, NULL, 10);
        if (strcmp(name, "--count") == 0) chosen.count = strtoul(value, NULL, 10);
        if (strcmp(name, "--pause-us") == 0) chosen.pause_us = strtod(value, NULL);
        if (strcmp(name, "--at") == 0) {
            const char *colon = strrchr(value, ':');
            if (colon == NULL || (size_t)(colon - value) >= sizeof chosen.ip) fail("--at", "is no address");
            memcpy(chosen.ip, value, (size_t)(colon - value));
            chosen.port = (uint16_t)strtoul(colon + 1, NULL, 10);
        }
    }
    if (chosen.bytes < 9) fail("--bytes", "is too small");
}

int main(int count, char **arguments) {
    if (count < 3) fail("usage", "client API MEASURE --socket PATH --at IP:PORT ...");
    if (strcmp(arguments[1], "sync") != 0) {
        fprintf(stderr, "C has no API '%s'\n", arguments[1]);
        return 3;
    }
    options(count - 3, arguments + 3);
    message = malloc(chosen.bytes);
    buffer = malloc(chosen.bytes);
    memset(message, 7, chosen.bytes);

    machnet_attach_options_t how;
    machnet_attach_options_init(&how, sizeof how);
    how.socket_path = chosen.socket;
    machnet_channel_t *channel;
    need(machnet_attach_with(&how, &channel), "attach");
    need(machnet_flow_connect(channel, NULL, chosen.ip, chosen.port, FOR_EVER, &flow), "connect");
    for (size_t i = 0; i < sizeof measures / sizeof *measures; i++) {
        if (strcmp(arguments[2], measures[i].name) == 0) {
            measures[i].run();
            machnet_flow_close(flow);
            return machnet_channel_close(channel) == 0 ? 0 : 1;
        }
    }
    fprintf(stderr, "there is no measure '%s'\n", arguments[2]);
    return 3;
}
