/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of dense kernels: random buffers, and running the same program again under another CPU mask. */
#ifndef T3V_TESTS_DENSE_H
#define T3V_TESTS_DENSE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "tensor/dtype.h"

static inline float dense_get(const void *p, t3v_dtype type, int64_t i)
{
    return type == T3V_BF16 ? t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]) : ((const float *)p)[i];
}

static inline void dense_set(void *p, t3v_dtype type, int64_t i, float v)
{
    if (type == T3V_BF16) ((t3v_bf16 *)p)[i] = t3v_f32_to_bf16(v);
    else ((float *)p)[i] = v;
}

static inline void *dense_alloc(int64_t n, t3v_dtype type)
{
    size_t bytes = ((size_t)n * t3v_dtype_size(type) + 127) / 64 * 64;
    void *p = aligned_alloc(64, bytes);
    if (!p) abort();
    memset(p, 0xff, bytes); /* NaN in both types: reading a gap shows */
    return p;
}

static inline void *dense_random(int64_t n, t3v_dtype type, uint64_t seed)
{
    void *p = dense_alloc(n, type);
    float *f = malloc((size_t)n * sizeof *f + 1);
    if (!f) abort();
    t3v_normal_fill(f, n, seed, 0, 0);
    for (int64_t i = 0; i < n; i++) dense_set(p, type, i, f[i]);
    free(f);
    return p;
}

/* n elements of a packed type with values of usual size: random bytes, in which no F16 has an exponent above 2^-3. */
static inline unsigned char *dense_packed(int64_t n, t3v_dtype type, uint64_t seed)
{
    int64_t bytes;
    if (!t3v_dtype_bytes(type, n, &bytes)) abort();
    unsigned char *p = malloc((size_t)bytes);
    if (!p) abort();
    for (int64_t i = 0; i < bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (unsigned char)(seed >> 56 & 0xb3);
    }
    return p;
}

/* Runs this program with T3V_CPU=mask; true when all its tests pass there. Children do not run again. */
static inline bool dense_again_with(const char *mask)
{
    char path[4096], command[4400];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return false;
    path[n] = 0;
    snprintf(command, sizeof command, "T3V_TEST_CHILD=1 T3V_CPU=%s '%s' > /dev/null 2>&1", mask, path);
    return system(command) == 0;
}

static inline bool dense_is_child(void) { return getenv("T3V_TEST_CHILD") != NULL; }

#endif
