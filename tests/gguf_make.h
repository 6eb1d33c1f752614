/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF files byte by byte, valid or not, for tests. */
#ifndef T3V_TESTS_GGUF_MAKE_H
#define T3V_TESTS_GGUF_MAKE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"

typedef struct gguf_bytes {
    unsigned char *data;
    size_t size, capacity;
} gguf_bytes;

static inline void gguf_raw(gguf_bytes *b, const void *data, size_t n)
{
    if (b->size + n > b->capacity) {
        b->capacity = 2 * (b->size + n) + 64;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) abort();
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
}

/* v in n bytes, low ones first. */
static inline void gguf_number(gguf_bytes *b, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gguf_raw(b, &(unsigned char){(unsigned char)(i < sizeof v ? v >> 8 * i : 0)}, 1);
}

static inline void gguf_text(gguf_bytes *b, const char *s)
{
    gguf_number(b, strlen(s), 8);
    gguf_raw(b, s, strlen(s));
}

static inline void gguf_head(gguf_bytes *b, uint32_t version, uint64_t tensors, uint64_t pairs)
{
    gguf_raw(b, "GGUF", 4);
    gguf_number(b, version, 4);
    gguf_number(b, tensors, 8);
    gguf_number(b, pairs, 8);
}

static inline void gguf_pair_u32(gguf_bytes *b, const char *key, uint32_t v)
{
    gguf_text(b, key);
    gguf_number(b, 4, 4);
    gguf_number(b, v, 4);
}

static inline void gguf_pair_text(gguf_bytes *b, const char *key, const char *v)
{
    gguf_text(b, key);
    gguf_number(b, 8, 4);
    gguf_text(b, v);
}

/* Shape in PyTorch's order, ggml's number of the type, offset in the data. */
static inline void gguf_info(gguf_bytes *b, const char *name, int ndim, const int64_t *shape, uint32_t type,
                             uint64_t offset)
{
    gguf_text(b, name);
    gguf_number(b, (uint64_t)ndim, 4);
    for (int i = ndim - 1; i >= 0; i--) gguf_number(b, (uint64_t)shape[i], 8);
    gguf_number(b, type, 4);
    gguf_number(b, offset, 8);
}

static inline void gguf_align(gguf_bytes *b, size_t alignment)
{
    while (b->size % alignment) gguf_number(b, 0, 1);
}

static inline uint32_t gguf_type_number(t3v_dtype t)
{
    switch (t) {
    case T3V_F32: return 0;
    case T3V_F16: return 1;
    case T3V_Q4_0: return 2;
    case T3V_Q4_1: return 3;
    case T3V_Q5_0: return 6;
    case T3V_Q5_1: return 7;
    case T3V_Q8_0: return 8;
    case T3V_Q2_K: return 10;
    case T3V_Q3_K: return 11;
    case T3V_Q4_K: return 12;
    case T3V_Q5_K: return 13;
    case T3V_Q6_K: return 14;
    case T3V_BF16: return 30;
    default: abort();
    }
}

static inline void gguf_save(const gguf_bytes *b, const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b->data, 1, b->size, f) != b->size || fclose(f) != 0) abort();
}

static inline void gguf_free(gguf_bytes *b)
{
    free(b->data);
    *b = (gguf_bytes){0};
}

#endif
