/* SPDX-License-Identifier: Apache-2.0 */
/* A fuzzer's bytes in parts, each behind a line "=NAME". */
#ifndef T3V_FUZZ_PARTS_H
#define T3V_FUZZ_PARTS_H

#include <stdint.h>
#include <string.h>

typedef struct fuzz_part {
    const char *name; /* of the list that was given */
    const uint8_t *data;
    size_t size;
} fuzz_part;

static inline const uint8_t *fuzz_line_end(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *line = end > at ? memchr(at, '\n', (size_t)(end - at)) : NULL;
    return line ? line : end;
}

/* Up to `cap` parts with names of `known`, which ends with NULL; what is behind another name is left out. */
static inline int fuzz_parts(const uint8_t *data, size_t size, const char *const *known, fuzz_part *part,
                             int cap)
{
    const uint8_t *end = data + size, *at = data;
    int n = 0;
    while (at < end && n < cap) {
        const uint8_t *line = fuzz_line_end(at, end), *next = line < end ? line + 1 : end, *stop = next;
        while (stop < end && *stop != '=') {
            stop = fuzz_line_end(stop, end);
            if (stop < end) stop++;
        }
        size_t length = (size_t)(line - at);
        for (int k = 0; known[k] && *at == '='; k++)
            if (strlen(known[k]) == length - 1 && memcmp(known[k], at + 1, length - 1) == 0)
                part[n++] = (fuzz_part){known[k], next, (size_t)(stop - next)};
        at = stop;
    }
    return n;
}

#endif
