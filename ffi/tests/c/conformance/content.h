/* Contents of messages, made of a seed and a length on both sides. */
#ifndef CONFORMANCE_CONTENT_H
#define CONFORMANCE_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TABLE_BYTES = 65521, NUMBER_BYTES = 4, MOST_LENGTHS = 64 };

static uint8_t content_table[TABLE_BYTES];

static void content_init(void) {
    uint32_t x = 2463534242u;
    for (size_t i = 0; i < TABLE_BYTES; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        content_table[i] = (uint8_t)(x >> 24);
    }
}

/* The next piece of the table at `*at`, at most `left` bytes; moves on. */
static size_t content_piece(size_t *at, size_t left, const uint8_t **piece) {
    size_t count = TABLE_BYTES - *at < left ? TABLE_BYTES - *at : left;
    *piece = content_table + *at;
    *at = (*at + count) % TABLE_BYTES;
    return count;
}

static size_t content_start(uint64_t seed, size_t offset) { return (size_t)((seed * 7919 + offset) % TABLE_BYTES); }

static void content_fill(uint8_t *out, size_t length, uint64_t seed) {
    size_t at = content_start(seed, 0), done = 0;
    while (done < length) {
        const uint8_t *piece;
        size_t count = content_piece(&at, length - done, &piece);
        memcpy(out + done, piece, count);
        done += count;
    }
}

static bool content_is(const uint8_t *bytes, size_t length, uint64_t seed, size_t offset) {
    size_t at = content_start(seed, offset), done = 0;
    while (done < length) {
        const uint8_t *piece;
        size_t count = content_piece(&at, length - done, &piece);
        if (memcmp(bytes + done, piece, count) != 0) return false;
        done += count;
    }
    return true;
}

/* Messages that carry their number. */
struct series {
    uint64_t seed;
    size_t lengths[MOST_LENGTHS], count_of_lengths, largest;
};

static size_t series_length(const struct series *series, uint32_t number) {
    return series->lengths[number % series->count_of_lengths];
}

static void series_fill(const struct series *series, uint32_t number, uint8_t *out) {
    for (int i = 0; i < NUMBER_BYTES; i++) out[i] = (uint8_t)(number >> (8 * i));
    content_fill(out + NUMBER_BYTES, series_length(series, number) - NUMBER_BYTES, series->seed + number);
}

/* Whether it is a right message, and its number. */
static bool series_number(const struct series *series, const uint8_t *message, size_t length, uint32_t *number) {
    if (length < NUMBER_BYTES) return false;
    *number = 0;
    for (int i = 0; i < NUMBER_BYTES; i++) *number |= (uint32_t)message[i] << (8 * i);
    return length == series_length(series, *number) &&
           content_is(message + NUMBER_BYTES, length - NUMBER_BYTES, series->seed + *number, 0);
}

#endif
