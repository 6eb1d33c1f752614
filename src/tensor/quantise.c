/* SPDX-License-Identifier: Apache-2.0 */
/* From floats to the block types of GGUF: simple scales for blocks of 32, least squares for the K types. */
#include "tensor/quantise.h"

#include <math.h>
#include <string.h>

#include "tensor/dtype.h"

enum { BLOCK = 32, SUPER = 256 };

static void put_f16(unsigned char *p, float v)
{
    uint16_t h = t3v_f32_to_f16(v);
    memcpy(p, &h, 2);
}

/* ---- blocks of 32: one scale, and an offset in the types *_1 ----------------------------------------- */

static void extremes(const float *x, float *least, float *most, float *farthest)
{
    *least = *most = *farthest = x[0];
    for (int i = 1; i < BLOCK; i++) {
        if (x[i] < *least) *least = x[i];
        if (x[i] > *most) *most = x[i];
        if (fabsf(x[i]) > fabsf(*farthest)) *farthest = x[i];
    }
}

static float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }

static void q8_0(unsigned char *p, const float *x)
{
    float least, most, far;
    extremes(x, &least, &most, &far);
    float d = fabsf(far) / 127, id = inverse(d);
    put_f16(p, d);
    for (int i = 0; i < BLOCK; i++) p[2 + i] = (unsigned char)(signed char)roundf(x[i] * id);
}

/* The level of v + 0.5, cut to [0, top]. */
static int level(float v, int top)
{
    int q = (int)(v + 0.5f);
    return q > top ? top : q;
}

/* Levels 0 .. 15 or 31 of a block: nibbles, and for 5 bits the fifth ones as a word at `high`. */
static void put_levels(unsigned char *qs, unsigned char *high, const int *q)
{
    uint32_t fifth = 0;
    for (int i = 0; i < BLOCK / 2; i++) qs[i] = (unsigned char)((q[i] & 15) | (q[i + BLOCK / 2] & 15) << 4);
    for (int i = 0; i < BLOCK; i++) fifth |= (uint32_t)(q[i] >> 4 & 1) << i;
    if (high) memcpy(high, &fifth, 4);
}

/* w = d (q - half): the value farthest from zero gets level 0. */
static void symmetric(unsigned char *p, const float *x, int half)
{
    float least, most, far;
    int q[BLOCK];
    extremes(x, &least, &most, &far);
    float d = far / (float)-half, id = inverse(d);
    put_f16(p, d);
    for (int i = 0; i < BLOCK; i++) q[i] = level(x[i] * id + (float)half, 2 * half - 1);
    bool five = half == 16;
    put_levels(p + (five ? 6 : 2), five ? p + 2 : NULL, q);
}

/* w = d q + m. */
static void affine(unsigned char *p, const float *x, int top)
{
    float least, most, far;
    int q[BLOCK];
    extremes(x, &least, &most, &far);
    float d = (most - least) / (float)top, id = inverse(d);
    put_f16(p, d);
    put_f16(p + 2, least);
    for (int i = 0; i < BLOCK; i++) q[i] = level((x[i] - least) * id, top);
    bool five = top == 31;
    put_levels(p + (five ? 8 : 4), five ? p + 4 : NULL, q);
}

static void q4_0(unsigned char *p, const float *x) { symmetric(p, x, 8); }
static void q5_0(unsigned char *p, const float *x) { symmetric(p, x, 16); }
static void q4_1(unsigned char *p, const float *x) { affine(p, x, 15); }
static void q5_1(unsigned char *p, const float *x) { affine(p, x, 31); }

/* ---- K types: scales of least squared error ------------------------------------------------------------ */

/* To the nearest whole number, ties to even; |v| < 2^22. Unlike rintf it becomes two vector additions. */
static inline float nearest(float v)
{
    const float big = 12582912.0f; /* 1.5 * 2^23 */
    return (v + big) - big;
}

static inline float cut(float v, float low, float high)
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* Sums over the levels q of x in a number system of step 1/inverse from `zero`. */
typedef struct sums {
    double q, qq, xq;
} sums;

static sums measure(const float *x, int n, float zero, float inv, float low, float high)
{
    enum { LANES = 4 };
    float q[LANES] = {0}, qq[LANES] = {0}, xq[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float v = nearest(cut((x[i + l] - zero) * inv, low, high));
            q[l] += v;
            qq[l] += v * v;
            xq[l] += v * x[i + l];
        }
    return (sums){(double)(q[0] + q[1]) + (double)(q[2] + q[3]),
                  (double)(qq[0] + qq[1]) + (double)(qq[2] + qq[3]),
                  (double)(xq[0] + xq[1]) + (double)(xq[2] + xq[3])};
}

/* The s of least sum (x - s q)^2 over levels q in [-half, half - 1]; negative where the farthest value is positive. */
static float fit_scale(const float *x, int n, int half)
{
    enum { TRIES = 19 };
    float far = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(far)) far = x[i];
    if (fabsf(far) < 1e-30f) return 0;
    double best = -1, scale = 0;
    for (int k = 0; k < TRIES; k++) { /* the farthest value's level: about -half, then others around it */
        float at = (float)half + 0.1f * (float)(k % 2 ? (k + 1) / 2 : -k / 2);
        sums s = measure(x, n, 0, -at / far, (float)-half, (float)(half - 1));
        if (s.qq <= 0 || s.xq * s.xq <= best * s.qq) continue; /* the error is sum x^2 - xq^2 / qq */
        best = s.xq * s.xq / s.qq;
        scale = s.xq / s.qq;
    }
    return (float)scale;
}

/* The s >= 0 and m >= 0 of least sum (x - (s q - m))^2 over levels q in [0, top]. */
static void fit_affine(const float *x, int n, int top, float *scale, float *offset)
{
    enum { TRIES = 22 };
    float low = 0, high = x[0];
    double sum = 0, squares = 0, best = INFINITY;
    for (int i = 0; i < n; i++) {
        if (x[i] < low) low = x[i]; /* the offset cannot lift: a block of positive values starts at zero */
        if (x[i] > high) high = x[i];
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    *scale = 0;
    *offset = -low;
    if (high - low < 1e-30f) return;
    for (int k = 0; k < TRIES; k++) {
        float at = (float)top + 0.1f * (float)(k - TRIES / 2);
        sums s = measure(x, n, low, at / (high - low), 0, (float)top);
        double det = n * s.qq - s.q * s.q;
        if (det <= 0) continue;
        double d = (n * s.xq - sum * s.q) / det, c = (s.qq * sum - s.q * s.xq) / det;
        if (c > 0) {
            c = 0;
            d = s.xq / s.qq;
        }
        double error = squares + d * d * s.qq + n * c * c + 2 * (d * c * s.q - d * s.xq - c * sum);
        if (d <= 0 || error >= best) continue;
        best = error;
        *scale = (float)d;
        *offset = (float)-c;
    }
}

/* Values whose scale and offset are whole numbers of steps d and dmin: w = d scale q - dmin offset, q in [low, high]. */
typedef struct run {
    const float *x;
    int n;
    float d, dmin;
    int scale, offset;
    float low, high;
} run;

/* Levels of value i; 0 where the scale is 0. */
static inline float level_of(const run *r, float inv, float zero, int i)
{
    return nearest(cut((r->x[i] - zero) * inv, r->low, r->high));
}

static double error_of(const run *r)
{
    enum { LANES = 4 };
    float step = r->d * (float)r->scale, zero = -r->dmin * (float)r->offset, inv = inverse(step),
          sum[LANES] = {0};
    for (int i = 0; i < r->n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float e = r->x[i + l] - zero - step * level_of(r, inv, zero, i + l);
            sum[l] += e * e;
        }
    return (double)(sum[0] + sum[1]) + (double)(sum[2] + sum[3]);
}

/* Where runs of very different sizes share one step, the nearest whole number of steps is not always the best: puts the
 * best of *at (the run's scale or offset) and its neighbours in [least, most] there. */
static void improve(const run *r, int *at, int least, int most)
{
    int middle = *at, best = middle;
    double error = INFINITY;
    for (int k = 0; k < 3; k++) {
        *at = middle + (k == 2 ? -1 : k);
        double e = *at < least || *at > most ? INFINITY : error_of(r);
        if (e >= error) continue;
        error = e;
        best = *at;
    }
    *at = best;
}

static void levels_of(const run *r, int *q)
{
    float zero = -r->dmin * (float)r->offset, inv = inverse(r->d * (float)r->scale);
    for (int i = 0; i < r->n; i++) q[i] = (int)level_of(r, inv, zero, i);
}

/* Q4_K and Q5_K: 8 runs of 32, each with 6-bit scale and offset. The levels of all 256 values. */
static void k_affine(unsigned char *p, const float *x, int top, int *q)
{
    enum { RUNS = 8, STEPS = 63 };
    float scale[RUNS], offset[RUNS], most = 0, deepest = 0;
    for (int j = 0; j < RUNS; j++) {
        fit_affine(x + BLOCK * j, BLOCK, top, &scale[j], &offset[j]);
        if (scale[j] > most) most = scale[j];
        if (offset[j] > deepest) deepest = offset[j];
    }
    uint16_t h = t3v_f32_to_f16(most / STEPS), hmin = t3v_f32_to_f16(deepest / STEPS);
    float d = t3v_f16_to_f32(h), dmin = t3v_f16_to_f32(hmin), id = inverse(d), idmin = inverse(dmin);
    unsigned char *s = p + 4;
    memcpy(p, &h, 2);
    memcpy(p + 2, &hmin, 2);
    memset(s, 0, 12);
    for (int j = 0; j < RUNS; j++) {
        run r = {.x = x + BLOCK * j, .n = BLOCK, .d = d, .dmin = dmin, .high = (float)top};
        r.scale = (int)cut(nearest(scale[j] * id), 0, STEPS);
        r.offset = (int)cut(nearest(offset[j] * idmin), 0, STEPS);
        improve(&r, &r.scale, 0, STEPS);
        improve(&r, &r.offset, 0, STEPS);
        levels_of(&r, q + BLOCK * j);
        if (j < 4) {
            s[j] |= (unsigned char)r.scale;
            s[j + 4] |= (unsigned char)r.offset;
        } else {
            s[j + 4] = (unsigned char)((r.scale & 15) | (r.offset & 15) << 4);
            s[j - 4] |= (unsigned char)(r.scale >> 4 << 6);
            s[j] |= (unsigned char)(r.offset >> 4 << 6);
        }
    }
}

static void q4_k(unsigned char *p, const float *x)
{
    int q[SUPER];
    k_affine(p, x, 15, q);
    for (int pair = 0; pair < 4; pair++)
        for (int l = 0; l < BLOCK; l++)
            p[16 + BLOCK * pair + l] = (unsigned char)(q[64 * pair + l] | q[64 * pair + BLOCK + l] << 4);
}

static void q5_k(unsigned char *p, const float *x)
{
    int q[SUPER];
    k_affine(p, x, 31, q);
    memset(p + 16, 0, BLOCK);
    for (int i = 0; i < SUPER; i++) p[16 + i % BLOCK] |= (unsigned char)((q[i] >> 4) << i / BLOCK);
    for (int pair = 0; pair < 4; pair++)
        for (int l = 0; l < BLOCK; l++)
            p[48 + BLOCK * pair + l] = (unsigned char)((q[64 * pair + l] & 15) |
                                                       (q[64 * pair + BLOCK + l] & 15) << 4);
}

/* Q3_K and Q6_K: 16 runs of 16, each with a signed scale of `steps` levels on either side. Levels from 0. */
static void k_symmetric(unsigned char *p, const float *x, int half, int steps, int *scales, int *q)
{
    enum { RUNS = 16, RUN = 16 };
    float scale[RUNS], far = 0;
    for (int j = 0; j < RUNS; j++) {
        scale[j] = fit_scale(x + RUN * j, RUN, half);
        if (fabsf(scale[j]) > fabsf(far)) far = scale[j];
    }
    uint16_t h = t3v_f32_to_f16(far / (float)-steps);
    float d = t3v_f16_to_f32(h), id = inverse(d);
    memcpy(p, &h, 2);
    for (int j = 0; j < RUNS; j++) {
        run r = {.x = x + RUN * j, .n = RUN, .d = d, .low = (float)-half, .high = (float)(half - 1)};
        r.scale = (int)cut(nearest(scale[j] * id), (float)-steps, (float)(steps - 1));
        improve(&r, &r.scale, -steps, steps - 1);
        levels_of(&r, q + RUN * j);
        scales[j] = r.scale;
    }
    for (int i = 0; i < SUPER; i++) q[i] += half;
}

static void q3_k(unsigned char *p, const float *x)
{
    int q[SUPER], scales[16];
    k_symmetric(p + 108, x, 4, 32, scales, q);
    memset(p, 0, 108);
    for (int j = 0; j < 16; j++) {
        int s = scales[j] + 32;
        p[96 + j % 8] |= (unsigned char)((s & 15) << (j < 8 ? 0 : 4));
        p[104 + j % 4] |= (unsigned char)((s >> 4) << 2 * (j / 4));
    }
    for (int i = 0; i < SUPER; i++) {
        p[32 + BLOCK * (i / 128) + i % BLOCK] |= (unsigned char)((q[i] & 3) << 2 * (i % 128 / BLOCK));
        p[i % BLOCK] |= (unsigned char)((q[i] >> 2) << i / BLOCK);
    }
}

static void q6_k(unsigned char *p, const float *x)
{
    int q[SUPER], scales[16];
    k_symmetric(p + 208, x, 32, 128, scales, q);
    memset(p, 0, 192);
    for (int j = 0; j < 16; j++) p[192 + j] = (unsigned char)(signed char)scales[j];
    for (int i = 0; i < SUPER; i++) {
        int half = i / 128, row = i % 128 / BLOCK, l = i % BLOCK;
        p[64 * half + BLOCK * (row & 1) + l] |= (unsigned char)((q[i] & 15) << (row < 2 ? 0 : 4));
        p[128 + BLOCK * half + l] |= (unsigned char)((q[i] >> 4) << 2 * row);
    }
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static void (*const blocks[T3V_DTYPE_COUNT])(unsigned char *p, const float *x) = {
    [T3V_Q8_0] = q8_0, [T3V_Q4_0] = q4_0, [T3V_Q4_1] = q4_1, [T3V_Q5_0] = q5_0, [T3V_Q5_1] = q5_1,
    [T3V_Q3_K] = q3_k, [T3V_Q4_K] = q4_k, [T3V_Q5_K] = q5_k, [T3V_Q6_K] = q6_k,
};

bool t3v_quantises(t3v_dtype type) { return blocks[type] != NULL; }

t3v_status t3v_quantise(void *dst, t3v_dtype type, const float *src, int64_t n)
{
    int64_t values = t3v_dtype_block(type);
    size_t bytes = t3v_dtype_block_bytes(type);
    if (!blocks[type]) return t3v_fail(T3V_E_ARG, "%s is not a type of blocks", t3v_dtype_name(type));
    if (n < 0 || n % values)
        return t3v_fail(T3V_E_ARG, "%lld values are not whole blocks of %s, which has %lld", (long long)n,
                        t3v_dtype_name(type), (long long)values);
#pragma omp parallel for schedule(static) if (n >= 1 << 14)
    for (int64_t b = 0; b < n / values; b++)
        blocks[type]((unsigned char *)dst + (size_t)b * bytes, src + b * values);
    return T3V_OK;
}
