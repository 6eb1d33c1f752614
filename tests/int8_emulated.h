/* SPDX-License-Identifier: Apache-2.0 */
/* The text of the vector kernels in plain C, in the shape of AVX-512 VNNI: bytes, x without sign. So the packing and the
 * walk of that version are tested on every CPU, and only its dozen instructions are not. */
#ifndef T3V_TESTS_INT8_EMULATED_H
#define T3V_TESTS_INT8_EMULATED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { EMULATED_LANES = 16 };

typedef struct emulated_v {
    int32_t at[EMULATED_LANES];
} emulated_v;
typedef struct emulated_f {
    float at[EMULATED_LANES];
} emulated_f;

static inline emulated_v emulated_load(const void *p)
{
    emulated_v v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline emulated_v emulated_spread(uint32_t u)
{
    emulated_v v;
    for (int i = 0; i < EMULATED_LANES; i++) memcpy(&v.at[i], &u, sizeof u);
    return v;
}

static inline emulated_v emulated_round(emulated_f f)
{
    emulated_v v;
    for (int i = 0; i < EMULATED_LANES; i++) v.at[i] = (int32_t)rintf(f.at[i]);
    return v;
}

static inline emulated_f emulated_float(emulated_v v)
{
    emulated_f f;
    for (int i = 0; i < EMULATED_LANES; i++) f.at[i] = (float)v.at[i];
    return f;
}

static inline emulated_f emulated_fload(const float *p)
{
    emulated_f f;
    memcpy(&f, p, sizeof f);
    return f;
}

static inline emulated_f emulated_set(float x)
{
    emulated_f f;
    for (int i = 0; i < EMULATED_LANES; i++) f.at[i] = x;
    return f;
}

static inline emulated_f emulated_mul(emulated_f a, emulated_f b)
{
    for (int i = 0; i < EMULATED_LANES; i++) a.at[i] *= b.at[i];
    return a;
}

static inline emulated_f emulated_fma(emulated_f a, emulated_f b, emulated_f c)
{
    for (int i = 0; i < EMULATED_LANES; i++) c.at[i] = fmaf(a.at[i], b.at[i], c.at[i]);
    return c;
}

/* VPDPBUSD: each 16-bit product of a byte without and a byte with sign is added to 32 bits. */
static inline emulated_v emulated_dot(emulated_v c, emulated_v x, emulated_v w)
{
    for (int i = 0; i < EMULATED_LANES; i++) {
        uint8_t a[4];
        int8_t b[4];
        memcpy(a, &x.at[i], 4), memcpy(b, &w.at[i], 4);
        for (int j = 0; j < 4; j++) c.at[i] += (int16_t)(a[j] * b[j]);
    }
    return c;
}

#define V emulated_v
#define VF emulated_f
#define LANES EMULATED_LANES
#define VLOAD(p) emulated_load(p)
#define VSPREAD(u) emulated_spread(u)
#define VSTORE(p, v) emulated_store(p, v)
#define VROUND(v) emulated_round(v)
#define VFLOAT(v) emulated_float(v)
#define FLOAD(p) emulated_fload(p)
#define FSTORE(p, v) emulated_fstore(p, v)
#define FSET(x) emulated_set(x)
#define FMUL(a, b) emulated_mul(a, b)
#define FFMA(a, b, c) emulated_fma(a, b, c)
#define PER 4
#define X_ELEM uint8_t
#define W_ELEM int8_t
#define X_ZERO 128
#define VDOT(c, x, w) ((c) = emulated_dot(c, x, w))
#define IMPL int8_emulated
#define IMPL_NAME "emulated"

static inline void emulated_store(int32_t *p, emulated_v v) { memcpy(p, &v, sizeof v); }
static inline void emulated_fstore(float *p, emulated_f f) { memcpy(p, &f, sizeof f); }

#include "ops/int8/int8_simd.h"

#endif
