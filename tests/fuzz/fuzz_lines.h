/* SPDX-License-Identifier: Apache-2.0 */
/* A safetensors file of what a fuzzer writes in lines "NAME TYPE SIZE...", as random bytes hardly ever are one. */
#ifndef T3V_FUZZ_LINES_H
#define T3V_FUZZ_LINES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"

/* A tensor a line; the caller frees the file. */
static inline uint8_t *fuzz_lines(const uint8_t *data, size_t size, size_t *total)
{
    char *lines = malloc(size + 1), *header = malloc(20 * size + 256), *at = header, *rest = NULL;
    if (!lines || !header) abort();
    enum { AXIS_MAX = 320, DATA_MAX = 1 << 16, ALL_MAX = 1 << 20 };
    memcpy(lines, data, size);
    lines[size] = 0;
    uint64_t end = 0;
    *at++ = '{';
    for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *word = NULL, *key = strtok_r(line, " ", &word), *type = strtok_r(NULL, " ", &word), *axis;
        if (!key || !type) continue;
        for (char *p = key; *p; p++)
            if (*p < ' ' || *p == '"' || *p == '\\' || *p > '~') *p = '_';
        for (char *p = type; *p; p++)
            if (*p < ' ' || *p == '"' || *p == '\\' || *p > '~') *p = '_';
        int dtype = 0;
        while (dtype < T3V_DTYPE_COUNT && strcmp(t3v_dtype_name((t3v_dtype)dtype), type) != 0) dtype++;
        bool sized = dtype < T3V_DTYPE_COUNT && t3v_dtype_block((t3v_dtype)dtype) == 1;
        uint64_t n = sized ? t3v_dtype_size((t3v_dtype)dtype) : 4;
        at += sprintf(at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", end || at > header + 1 ? "," : "", key,
                      type);
        for (int i = 0; (axis = strtok_r(NULL, " ", &word)); i++) {
            uint64_t v = strtoul(axis, NULL, 10) % AXIS_MAX;
            n = n * v % DATA_MAX;
            at += sprintf(at, "%s%u", i ? "," : "", (unsigned)v);
        }
        if (n > ALL_MAX - end) n = 0;
        at += sprintf(at, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)end,
                      (unsigned long long)(end + n));
        end += n;
    }
    *at++ = '}';
    size_t length = (size_t)(at - header);
    *total = 8 + length + end;
    uint8_t *file = calloc(1, *total);
    if (!file) abort();
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(file + 8, header, length);
    for (uint64_t i = 0; i < end; i++) file[8 + length + i] = (uint8_t)(i * 37);
    free(header);
    free(lines);
    return file;
}

#endif
