/* SPDX-License-Identifier: Apache-2.0 */
/* The text of t3v_unpack, included once for each instruction set with UNPACK as its name.
 *
 * Every block type is brought into one form, small integers with a factor and a subtrahend for each 16 of them; then
 * w = factor * q - subtrahend. Types without a subtrahend have 0 there, which changes no value (x - 0 = x, also for
 * -0); factors and subtrahends of the K types are products rounded to F32 first, as ggml has it. The layouts are in the
 * comment above each reader; all numbers are little-endian, d, m and dmin are F16. */
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/unpack_versions.h"

enum { GROUP = 16, BLOCK_MAX = 256 };

typedef struct quants {
    int8_t q[BLOCK_MAX];
    float factor[BLOCK_MAX / GROUP], minus[BLOCK_MAX / GROUP];
} quants;

static inline float half(const uint8_t *p) { return t3v_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static inline void both_groups(quants *b, float factor, float minus)
{
    b->factor[0] = b->factor[1] = factor;
    b->minus[0] = b->minus[1] = minus;
}

/* d, q i8[32]. */
static inline void values_q8_0(float *w, const uint8_t *p)
{
    float d = half(p);
    int8_t q[32];
    memcpy(q, p + 2, sizeof q);
    for (int i = 0; i < 32; i++) w[i] = d * (float)q[i];
}

/* 16 bytes: the low nibbles are elements 0..15, the high ones 16..31. */
static inline void nibbles32(int8_t *q, const uint8_t *p, int bias)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((p[i] & 15) - bias);
        q[i + 16] = (int8_t)((p[i] >> 4) - bias);
    }
}

/* d, nibbles of q + 8. */
static inline void read_q4_0(quants *b, const uint8_t *p)
{
    nibbles32(b->q, p + 2, 8);
    both_groups(b, half(p), 0);
}

/* d, m, nibbles; + m. */
static inline void read_q4_1(quants *b, const uint8_t *p)
{
    nibbles32(b->q, p + 4, 0);
    both_groups(b, half(p), -half(p + 2));
}

/* `high`, 32 bits: bit e is worth 16 in element e. */
static inline void fifth_bits(int8_t *q, const uint8_t *high)
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) q[8 * i + j] = (int8_t)(q[8 * i + j] + (high[i] >> j & 1) * 16);
}

/* d, fifth bits, nibbles of q + 16. */
static inline void read_q5_0(quants *b, const uint8_t *p)
{
    nibbles32(b->q, p + 6, 16);
    fifth_bits(b->q, p + 2);
    both_groups(b, half(p), 0);
}

/* d, m, fifth bits, nibbles; + m. */
static inline void read_q5_1(quants *b, const uint8_t *p)
{
    nibbles32(b->q, p + 8, 0);
    fifth_bits(b->q, p + 4);
    both_groups(b, half(p), -half(p + 2));
}

/* 64 bytes: 2-bit numbers; 32 bytes hold 128 of them in four planes of 32. */
static inline void planes(int8_t *q, const uint8_t *p)
{
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++) q[128 * h + 32 * s + i] = (int8_t)(p[32 * h + i] >> 2 * s & 3);
}

/* 16 bytes (low nibble: times d, high: times dmin) one a group, planes, d, dmin. */
static inline void read_q2_k(quants *b, const uint8_t *p)
{
    float d = half(p + 80), dmin = half(p + 82);
    planes(b->q, p + 16);
    for (int g = 0; g < 16; g++) {
        b->factor[g] = d * (float)(p[g] & 15);
        b->minus[g] = dmin * (float)(p[g] >> 4);
    }
}

/* 32 bytes (bit 4 h + s of byte i: element 128 h + 32 s + i is not less by 4), planes, 12 bytes of 6-bit numbers one a
 * group (8 bytes of low then high nibbles; the two upper bits in 4 bytes) of factor + 32, d. */
static inline void read_q3_k(quants *b, const uint8_t *p)
{
    const uint8_t *scale = p + 96;
    float d = half(p + 108);
    planes(b->q, p + 32);
    for (int plane = 0; plane < 8; plane++)
        for (int i = 0; i < 32; i++)
            b->q[32 * plane + i] = (int8_t)(b->q[32 * plane + i] - 4 + (p[i] >> plane & 1) * 4);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? scale[g] & 15 : scale[g - 8] >> 4, high = scale[8 + g % 4] >> 2 * (g / 4) & 3;
        b->factor[g] = d * (float)((low | high << 4) - 32);
    }
    memset(b->minus, 0, sizeof b->minus);
}

/* d, dmin, then 12 bytes with two 6-bit numbers, times d and times dmin, for each 32 elements. */
static inline void k_factors(quants *b, const uint8_t *p)
{
    const uint8_t *s = p + 4;
    float d = half(p), dmin = half(p + 2);
    for (int j = 0; j < 8; j++) {
        int a = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
        b->factor[2 * j] = b->factor[2 * j + 1] = d * (float)a;
        b->minus[2 * j] = b->minus[2 * j + 1] = dmin * (float)m;
    }
}

/* 128 bytes: of each 32, the low nibbles are 32 elements and the high ones the next 32. */
static inline void nibbles256(int8_t *q, const uint8_t *p)
{
    for (int h = 0; h < 4; h++)
        for (int i = 0; i < 32; i++) {
            q[64 * h + i] = (int8_t)(p[32 * h + i] & 15);
            q[64 * h + 32 + i] = (int8_t)(p[32 * h + i] >> 4);
        }
}

static inline void read_q4_k(quants *b, const uint8_t *p)
{
    k_factors(b, p);
    nibbles256(b->q, p + 16);
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit s of byte i belongs to element 32 s + i. */
static inline void read_q5_k(quants *b, const uint8_t *p)
{
    k_factors(b, p);
    nibbles256(b->q, p + 48);
    for (int s = 0; s < 8; s++)
        for (int i = 0; i < 32; i++)
            b->q[32 * s + i] = (int8_t)(b->q[32 * s + i] + (p[16 + i] >> s & 1) * 16);
}

/* Of each 128 elements: nibbles (64 bytes: low ones 0..63, high ones 64..127) and two upper bits (32 bytes: four planes
 * of 32) of q + 32. All nibbles, all upper bits, i8[16] one a group, d. */
static inline void read_q6_k(quants *b, const uint8_t *p)
{
    const int8_t *scale = (const int8_t *)p + 192;
    float d = half(p + 208);
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++) {
                int low = p[64 * h + 32 * (s % 2) + i] >> 4 * (s / 2) & 15;
                int high = p[128 + 32 * h + i] >> 2 * s & 3;
                b->q[128 * h + 32 * s + i] = (int8_t)((low | high << 4) - 32);
            }
    for (int g = 0; g < 16; g++) b->factor[g] = d * (float)scale[g];
    memset(b->minus, 0, sizeof b->minus);
}

static inline void store(void *dst, t3v_dtype to, const float *w, int64_t first, int n)
{
    if (to == T3V_F32) {
        memcpy((float *)dst + first, w, (size_t)n * sizeof *w);
        return;
    }
    t3v_bf16 *d = (t3v_bf16 *)dst + first;
    for (int i = 0; i < n; i++) d[i] = t3v_f32_to_bf16(w[i]);
}

static inline void values(float *w, const quants *b, int groups)
{
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < GROUP; i++)
            w[GROUP * g + i] = b->factor[g] * (float)b->q[GROUP * g + i] - b->minus[g];
}

/* One loop for each type, so that its reader is in line and vectorised with it. */
#define BLOCKS(reader, elements, bytes)                         \
    for (int64_t i = 0; i < n; i += (elements), p += (bytes)) { \
        reader(&b, p);                                          \
        values(w, &b, (elements) / GROUP);                      \
        store(dst, to, w, i, (elements));                       \
    }                                                           \
    break

/* The same for types of one element. */
#define NARROW(type, expression)                                     \
    for (int64_t i = 0; i < n; i += BLOCK_MAX) {                     \
        int m = n - i < BLOCK_MAX ? (int)(n - i) : BLOCK_MAX;        \
        type v[BLOCK_MAX];                                           \
        memcpy(v, p + (size_t)i * sizeof *v, (size_t)m * sizeof *v); \
        for (int j = 0; j < m; j++) w[j] = (expression);             \
        store(dst, to, w, i, m);                                     \
    }                                                                \
    break

void UNPACK(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale, int64_t n)
{
    const uint8_t *p = src;
    quants b;
    float w[BLOCK_MAX];
    switch (from) {
    case T3V_Q8_0:
        for (int64_t i = 0; i < n; i += 32, p += 34) {
            values_q8_0(w, p);
            store(dst, to, w, i, 32);
        }
        break;
    case T3V_Q4_0: BLOCKS(read_q4_0, 32, 18);
    case T3V_Q4_1: BLOCKS(read_q4_1, 32, 20);
    case T3V_Q5_0: BLOCKS(read_q5_0, 32, 22);
    case T3V_Q5_1: BLOCKS(read_q5_1, 32, 24);
    case T3V_Q2_K: BLOCKS(read_q2_k, 256, 84);
    case T3V_Q3_K: BLOCKS(read_q3_k, 256, 110);
    case T3V_Q4_K: BLOCKS(read_q4_k, 256, 144);
    case T3V_Q5_K: BLOCKS(read_q5_k, 256, 176);
    case T3V_Q6_K: BLOCKS(read_q6_k, 256, 210);
    case T3V_F8_E4M3: NARROW(uint8_t, t3v_f8_e4m3_to_f32(v[j]) * scale);
    case T3V_F8_E5M2: NARROW(uint8_t, t3v_f8_e5m2_to_f32(v[j]) * scale);
    case T3V_F16: NARROW(uint16_t, t3v_f16_to_f32(v[j]));
    default: T3V_ASSERT(!"a type that is not packed");
    }
}
