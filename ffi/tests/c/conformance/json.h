/* As much of JSON as the commands of the conformance suite need: members of an object, found in its text. */
#ifndef CONFORMANCE_JSON_H
#define CONFORMANCE_JSON_H

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char *json_skip_space(const char *at) {
    while (*at != '\0' && isspace((unsigned char)*at)) at++;
    return at;
}

/* Behind the text that begins at `at` with its quote; NULL if it does not end. */
static const char *json_skip_text(const char *at) {
    for (at++; *at != '"'; at++) {
        if (*at == '\\' && at[1] != '\0') at++;
        if (*at == '\0') return NULL;
    }
    return at + 1;
}

/* Behind the value that begins at `at`; NULL if it is none. */
static const char *json_skip_value(const char *at) {
    int depth = 0;
    do {
        at = json_skip_space(at);
        if (*at == '"') {
            if ((at = json_skip_text(at)) == NULL) return NULL;
        } else if (*at == '{' || *at == '[') {
            depth++, at++;
        } else if (*at == '}' || *at == ']') {
            depth--, at++;
        } else if ((*at == ',' || *at == ':') && depth > 0) {
            at++;
        } else {
            const char *begin = at;
            while (isalnum((unsigned char)*at) || *at == '-' || *at == '+' || *at == '.') at++;
            if (at == begin) return NULL;
        }
    } while (depth > 0);
    return at;
}

/* Where the value of a member begins; NULL if there is none. */
static const char *json_member(const char *object, const char *name) {
    const char *at = json_skip_space(object);
    if (*at != '{') return NULL;
    for (at = json_skip_space(at + 1); *at == '"'; at = json_skip_space(at)) {
        const char *key = at + 1;
        if ((at = json_skip_text(at)) == NULL) return NULL;
        size_t length = (size_t)(at - 1 - key);
        at = json_skip_space(at);
        if (*at != ':') return NULL;
        at = json_skip_space(at + 1);
        if (strlen(name) == length && memcmp(key, name, length) == 0) return at;
        if ((at = json_skip_value(at)) == NULL) return NULL;
        at = json_skip_space(at);
        if (*at == ',') at = json_skip_space(at + 1);
    }
    return NULL;
}

/* A copy of a value's own JSON text, to be freed; NULL if there is none. */
static char *json_copy(const char *object, const char *name) {
    const char *begin = json_member(object, name);
    const char *end = begin == NULL ? NULL : json_skip_value(begin);
    return end == NULL ? NULL : strndup(begin, (size_t)(end - begin));
}

/* Copies a text into `out`; says whether it was there and fits. The suite's texts have no character but these to escape. */
static bool json_text(const char *object, const char *name, char *out, size_t capacity) {
    const char *at = json_member(object, name);
    if (at == NULL || *at != '"') return false;
    size_t used = 0;
    for (at++; *at != '"' && *at != '\0'; at++) {
        if (*at == '\\' && (at[1] == '"' || at[1] == '\\' || at[1] == '/')) at++;
        if (used + 1 >= capacity) return false;
        out[used++] = *at;
    }
    out[used] = '\0';
    return *at == '"';
}

static bool json_has(const char *object, const char *name) {
    const char *at = json_member(object, name);
    return at != NULL && strncmp(at, "null", 4) != 0;
}

/* A number, or `otherwise` if the member is left out. */
static int64_t json_number(const char *object, const char *name, int64_t otherwise) {
    return json_has(object, name) ? strtoll(json_member(object, name), NULL, 10) : otherwise;
}

/* The numbers of a list; says how many. */
static size_t json_numbers(const char *object, const char *name, size_t *out, size_t most) {
    const char *at = json_member(object, name);
    size_t count = 0;
    if (at == NULL || *at != '[') return 0;
    for (at = json_skip_space(at + 1); *at != ']' && *at != '\0' && count < most;) {
        char *end;
        out[count++] = strtoull(at, &end, 10);
        if (end == at) return 0;
        at = json_skip_space(end);
        if (*at == ',') at = json_skip_space(at + 1);
    }
    return count;
}

#endif
