/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512-BF16 attention: scores stay in registers, only P (bf16) is stored between the two products.
 *
 * exp: the score is scaled to a fixed-point exponent of 2 with 7 fraction bits by one fma whose addend ends in
 * 1.5 * 2^23; its low 16 bits are then a bf16 with a linear mantissa, which a 128-byte table corrects. P and
 * its sum come from the same rounded values, so the rounding cancels in the quotient.
 *
 * bf16 has the range of f32, so a maximum is needed only against overflow and underflow. By Cauchy-Schwarz
 * |score| <= |q| max|k|: where that is small (nearly always with normalised q and k) no maximum is taken. Else the
 * maximum over the first strip serves as reference, and where the sum shows that it did not, that of all strips. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "attn/bf16_avx512.h"

enum { Q_BLOCK = 96 };

#define LOG2E 1.44269504088896341f
#define MAGIC 12582912.0f /* 1.5 * 2^23 */

/* ---- packed keys and values of one head ---- */

typedef struct strip_info {
    float norm2;      /* largest |k|^2; may be NaN or inf */
    float value;      /* largest |v| */
    float log_weight; /* largest log-weight, at least 0; inf when one is NaN */
    float unused;
} strip_info;

typedef struct packed_view {
    strip_info *info;               /* [strips] */
    float *bias;                    /* [strips * 64] log-weight / scale, very low for missing keys */
    t3v_bf16 *k, *v;                /* strips */
    int64_t strips, k_size, v_size; /* elements of a strip */
} packed_view;

static int64_t round64(int64_t n) { return (n + 63) / 64 * 64; }

static packed_view view(void *packed, int64_t n_k, int dim)
{
    packed_view p = {.strips = (n_k + T3V_STRIP - 1) / T3V_STRIP,
                     .k_size = T3V_STRIP * dim,
                     .v_size = T3V_STRIP * T3V_PANEL * t3v_panels(dim)};
    char *at = packed;
    p.info = packed, at += round64(p.strips * (int64_t)sizeof *p.info);
    p.bias = (float *)(void *)at, at += p.strips * T3V_STRIP * 4;
    p.k = (t3v_bf16 *)(void *)at, at += p.strips * p.k_size * 2;
    p.v = (t3v_bf16 *)(void *)at;
    return p;
}

static size_t packed_bytes(int64_t n_k, int dim)
{
    int64_t strips = (n_k + T3V_STRIP - 1) / T3V_STRIP, columns = dim + T3V_PANEL * t3v_panels(dim);
    return (size_t)(round64(strips * (int64_t)sizeof(strip_info)) + strips * T3V_STRIP * (4 + columns * 2));
}

static void pack(const t3v_attn_job *job, void *packed, int64_t first, int64_t last)
{
    packed_view p = view(packed, job->packed.count, job->dim);
    for (int64_t s = first; s < last; s++) {
        const t3v_bf16 *k[T3V_STRIP], *v[T3V_STRIP];
        int64_t width = t3v_strip_width(job->packed.count, s), n = job->packed.count - s * T3V_STRIP;
        float *bias = p.bias + s * T3V_STRIP, top = 0;
        for (int64_t i = T3V_STRIP; i < n && i < 2 * T3V_STRIP; i++) { /* the next strip's rows */
            int64_t token = t3v_row(&job->packed, s * T3V_STRIP + i);
            t3v_fetch((const char *)((const t3v_bf16 *)job->k + token * job->k_stride), job->dim * 2);
            t3v_fetch((const char *)((const t3v_bf16 *)job->v + token * job->v_stride), job->dim * 2);
        }
        if (n > T3V_STRIP) n = T3V_STRIP;
        for (int64_t i = 0; i < width; i++) {
            k[i] = v[i] = NULL;
            bias[i] = -1e30f;
            if (i >= n) continue;
            int64_t token = t3v_row(&job->packed, s * T3V_STRIP + i);
            k[i] = (const t3v_bf16 *)job->k + token * job->k_stride;
            v[i] = (const t3v_bf16 *)job->v + token * job->v_stride;
            float w = job->key_log_weight ? job->key_log_weight[token] : 0;
            bias[i] = w / job->scale;
            if (!(w <= top)) top = isnan(w) ? INFINITY : w;
        }
        uint32_t norm = t3v_bf16_pack_k(p.k + s * p.k_size, k, width, job->dim);
        uint32_t value = t3v_bf16_pack_v(p.v + s * p.v_size, v, width, job->dim) << 16;
        p.info[s].log_weight = top;
        memcpy(&p.info[s].norm2, &norm, 4);
        memcpy(&p.info[s].value, &value, 4);
    }
}

/* ---- QK^T and exp: 6 queries x 64 keys ---- */

enum { FAST, GENERAL, MAXIMUM };

typedef struct tile_args {
    const t3v_bf16 *q;  /* [rows][dim] */
    const t3v_bf16 *k;  /* strip */
    const float *bias;  /* [64] */
    const float *shift; /* [rows] MAGIC + 128 * (127 - reference exponent) */
    t3v_bf16 *p;        /* [rows][T3V_P_STRIDE] */
    float *top;         /* MAXIMUM: [rows][16] largest score so far */
    int dim;
    float c;         /* 128 * log2(e) * scale */
    t3v_ahead ahead; /* what is needed soon */
} tile_args;

/* round(m - 128 (2^(m/128) - 1)): the mantissa m of a bf16 that is linear in the exponent, minus that of 2^x. */
static const uint8_t correction[128] = {
    0,  0,  1,  1,  1,  1,  2,  2,  2,  3,  3,  3,  3,  4,  4,  4,  4,  5,  5,  5,  5,  6,  6,  6,  6,  6,
    7,  7,  7,  7,  7,  8,  8,  8,  8,  8,  8,  9,  9,  9,  9,  9,  9,  9,  10, 10, 10, 10, 10, 10, 10, 10,
    10, 10, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11,
    11, 11, 11, 11, 10, 10, 10, 10, 10, 10, 10, 10, 10, 9,  9,  9,  9,  9,  9,  9,  8,  8,  8,  8,  8,  7,
    7,  7,  7,  7,  6,  6,  6,  6,  5,  5,  5,  4,  4,  4,  3,  3,  3,  3,  2,  2,  1,  1,  1,  0,
};

static inline __attribute__((always_inline)) __m512i exp_pair(const int mode, __m512 x, __m512 y, __m512 c,
                                                              __m512 shift, __m512i t0, __m512i t1)
{
    __m512 u = _mm512_fmadd_ps(x, c, shift), v = _mm512_fmadd_ps(y, c, shift);
    if (mode == GENERAL) {
        __m512 low = _mm512_set1_ps(MAGIC), high = _mm512_set1_ps(MAGIC + 254 * 128);
        u = _mm512_min_ps(_mm512_max_ps(u, low), high);
        v = _mm512_min_ps(_mm512_max_ps(v, low), high);
    }
    /* (u & 0xffff) | (v << 16) */
    __m512i w = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), _mm512_castps_si512(u),
                                          _mm512_slli_epi32(_mm512_castps_si512(v), 16), 0xca);
    return _mm512_sub_epi16(w, _mm512_maskz_permutex2var_epi8(0x5555555555555555u, t0, w, t1));
}

/* MR rows x 16*NR keys. */
static inline __attribute__((always_inline)) void tile(const int MR, const int NR, const int mode,
                                                       const tile_args *x)
{
    const int dim = x->dim;
    const t3v_bf16 *restrict row = x->q, *restrict k = x->k;
    __m512 i0 = _mm512_setzero_ps(), i1 = i0, i2 = i0, i3 = i0;
    if (mode != FAST) {
        i0 = _mm512_load_ps(x->bias), i1 = _mm512_load_ps(x->bias + 16);
        if (NR > 2) i2 = _mm512_load_ps(x->bias + 32), i3 = _mm512_load_ps(x->bias + 48);
    }
#define DECLARE(r) __m512 a##r = i0, b##r = i1, c##r = i2, d##r = i3;
    T3V_ROWS6(DECLARE)
#undef DECLARE
    for (int d = 0; d < dim; d += 8) {
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
    }
    if (mode == MAXIMUM) {
        float *top = x->top;
#define TOP(r)                                                                             \
    if (MR > r) {                                                                          \
        __m512 m = _mm512_max_ps(_mm512_max_ps(a##r, b##r), _mm512_load_ps(top + 16 * r)); \
        if (NR > 2) m = _mm512_max_ps(m, _mm512_max_ps(c##r, d##r));                       \
        _mm512_store_ps(top + 16 * r, m);                                                  \
    }
        T3V_ROWS6(TOP)
#undef TOP
        return;
    }
    const float *restrict shift = x->shift;
    t3v_bf16 *restrict p = x->p;
    __m512 cc = _mm512_set1_ps(x->c), s = _mm512_set1_ps(shift[0]);
    __m512i t0 = _mm512_loadu_si512(correction), t1 = _mm512_loadu_si512(correction + 64);
#define OUT(r)                                                                                        \
    if (MR > r) {                                                                                     \
        if (mode == GENERAL) s = _mm512_set1_ps(shift[r]);                                            \
        _mm512_store_si512(p + r * T3V_P_STRIDE, exp_pair(mode, a##r, b##r, cc, s, t0, t1));          \
        if (NR > 2)                                                                                   \
            _mm512_store_si512(p + r * T3V_P_STRIDE + 32, exp_pair(mode, c##r, d##r, cc, s, t0, t1)); \
    }
    T3V_ROWS6(OUT)
#undef OUT
}

/* All rows of a block against one strip, six at a time. */
static inline __attribute__((always_inline)) void strip_rows(const int NR, const int mode, int64_t rows,
                                                             tile_args x)
{
    for (; rows >= 6; rows -= 6) {
        if (mode != MAXIMUM) t3v_ahead_tile(&x.ahead);
        tile(6, NR, mode, &x);
        x.q += 6 * x.dim, x.p += 6 * T3V_P_STRIDE, x.shift += 6, x.top += 6 * 16;
    }
    switch (rows) {
    case 5: tile(5, NR, mode, &x); break;
    case 4: tile(4, NR, mode, &x); break;
    case 3: tile(3, NR, mode, &x); break;
    case 2: tile(2, NR, mode, &x); break;
    case 1: tile(1, NR, mode, &x); break;
    default: break;
    }
}

static __attribute__((noinline)) void fast_64(int64_t rows, const tile_args *x)
{
    strip_rows(4, FAST, rows, *x);
}
static __attribute__((noinline)) void fast_32(int64_t rows, const tile_args *x)
{
    strip_rows(2, FAST, rows, *x);
}
static __attribute__((noinline)) void general_64(int64_t rows, const tile_args *x)
{
    strip_rows(4, GENERAL, rows, *x);
}
static __attribute__((noinline)) void general_32(int64_t rows, const tile_args *x)
{
    strip_rows(2, GENERAL, rows, *x);
}
static __attribute__((noinline)) void max_64(int64_t rows, const tile_args *x)
{
    strip_rows(4, MAXIMUM, rows, *x);
}
static __attribute__((noinline)) void max_32(int64_t rows, const tile_args *x)
{
    strip_rows(2, MAXIMUM, rows, *x);
}

static void run_strip(int mode, int64_t width, int64_t rows, const tile_args *x)
{
    static void (*const table[3][2])(int64_t, const tile_args *) = {{fast_32, fast_64},
                                                                    {general_32, general_64},
                                                                    {max_32, max_64}};
    table[mode][width == T3V_STRIP](rows, x);
}

/* ---- one block of queries ---- */

typedef struct work_view {
    t3v_bf16 *q, *p;
    float *o, *sum, *top, *shift, *reference;
} work_view;

static size_t work_bytes(int dim)
{
    return Q_BLOCK *
           (size_t)(dim * 2 + T3V_P_STRIDE * 2 + T3V_PANEL * t3v_panels(dim) * 4 + 2 * 16 * 4 + 2 * 4);
}

static void lay_work(work_view *w, char *at, int dim)
{
    w->q = (t3v_bf16 *)(void *)at, at += Q_BLOCK * dim * 2;
    w->p = (t3v_bf16 *)(void *)at, at += Q_BLOCK * T3V_P_STRIDE * 2;
    w->o = (float *)(void *)at, at += Q_BLOCK * T3V_PANEL * t3v_panels(dim) * 4;
    w->sum = (float *)(void *)at, at += Q_BLOCK * 16 * 4;
    w->top = (float *)(void *)at, at += Q_BLOCK * 16 * 4;
    w->shift = (float *)(void *)at, at += Q_BLOCK * 4;
    w->reference = (float *)(void *)at;
}

/* Copies the queries; returns a bound of the largest |q|^2. */
static float load_queries(const t3v_attn_job *job, int64_t first, int64_t count, t3v_bf16 *dst)
{
    const int dim = job->dim;
    __m512i top = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i++, dst += dim) {
        const t3v_bf16 *src = (const t3v_bf16 *)job->q + t3v_row(&job->queries, first + i) * job->q_stride;
        __m512 norm = _mm512_setzero_ps();
        for (int d = 0; d < dim; d += 32) {
            __mmask16 m = dim - d >= 32 ? 0xffff : 0x00ff;
            __m512i x = _mm512_maskz_loadu_epi32(m, src + d);
            _mm512_mask_storeu_epi32(dst + d, m, x);
            norm = _mm512_dpbf16_ps(norm, (__m512bh)x, (__m512bh)x);
        }
        top = _mm512_max_epu32(top, _mm512_castps_si512(norm));
    }
    return _mm512_reduce_add_ps(_mm512_castsi512_ps(top)); /* each lane's largest: at least the largest sum */
}

static void add_sums(const t3v_bf16 *p, int64_t width, int64_t rows, float *sum, bool first)
{
    const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int64_t i = 0; i < rows; i++, p += T3V_P_STRIDE) {
        __m512 a = first ? _mm512_setzero_ps() : _mm512_load_ps(sum + i * 16), b = _mm512_setzero_ps();
        int64_t j = 0;
        for (; j + 64 <= width; j += 64) {
            a = _mm512_dpbf16_ps(a, (__m512bh)_mm512_load_si512(p + j), one);
            b = _mm512_dpbf16_ps(b, (__m512bh)_mm512_load_si512(p + j + 32), one);
        }
        if (j < width) a = _mm512_dpbf16_ps(a, (__m512bh)_mm512_load_si512(p + j), one);
        _mm512_store_ps(sum + i * 16, _mm512_add_ps(a, b));
    }
}

/* Asks for rows [from, to) of what the block at `first` will write and add to, and of the next block's queries. */
static void fetch_rows(const t3v_attn_job *job, const t3v_attn_sink *sink, int64_t first, int64_t rows,
                       int64_t from, int64_t to)
{
    const int64_t size = (int64_t)t3v_dtype_size(sink->type), dim = job->dim;
    for (int64_t i = first + from; i < first + to; i++) {
        int64_t token = t3v_row(&job->queries, i);
        t3v_fetch((const char *)sink->out + token * sink->stride * size, dim * size);
        if (sink->sum && sink->sum != sink->out) t3v_fetch((const char *)(sink->sum + token * dim), dim * 4);
        if (i + rows >= job->queries.count) continue;
        t3v_fetch((const char *)((const t3v_bf16 *)job->q + t3v_row(&job->queries, i + rows) * job->q_stride),
                  dim * 2);
    }
}

static int64_t strip_count(const t3v_attn_job *job, const packed_view *pk)
{
    return job->strip ? job->strips : pk->strips;
}

static int64_t strip_at(const t3v_attn_job *job, int64_t i) { return job->strip ? job->strip[i] : i; }

/* O and the row sums of the `rows` queries from `first` on over all keys. */
static void attend(const t3v_attn_job *job, const packed_view *pk, const work_view *w, int64_t first,
                   int64_t rows, int mode, const t3v_attn_sink *sink)
{
    const int64_t strips = strip_count(job, pk);
    const int64_t panels = t3v_panels(job->dim), blocks = (strips + T3V_BLOCK_STRIPS - 1) / T3V_BLOCK_STRIPS;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t i0 = strips * b / blocks, i1 = strips * (b + 1) / blocks, width = 0;
        for (int64_t i = i0; i < i1; i++) {
            int64_t s = strip_at(job, i), next = strip_at(job, i + 1 < strips ? i + 1 : 0);
            int64_t own = t3v_strip_width(job->packed.count, s);
            bool whole = s * T3V_STRIP + own <= job->packed.count;
            fetch_rows(job, sink, first, rows, rows * i / strips, rows * (i + 1) / strips);
            tile_args x = {.q = w->q,
                           .k = pk->k + s * pk->k_size,
                           .bias = pk->bias + s * T3V_STRIP,
                           .shift = w->shift,
                           .p = w->p + width,
                           .top = w->top,
                           .dim = job->dim,
                           .c = 128 * LOG2E * job->scale};
            t3v_ahead_add(&x.ahead, 0, pk->k + next * pk->k_size, pk->k_size * 2, rows / 6);
            t3v_ahead_add(&x.ahead, 1, pk->v + s * pk->v_size, pk->v_size * 2, rows / 6);
            run_strip(whole ? mode : GENERAL, own, rows, &x);
            width += own;
        }
        int64_t last = t3v_strip_width(job->packed.count, strip_at(job, i1 - 1)) / 2;
        for (int64_t i = 0; i < rows; i += 12) {
            int64_t n = rows - i < 12 ? rows - i : 12;
            add_sums(w->p + i * T3V_P_STRIDE, width, n, w->sum + i * 16, b == 0);
            t3v_pv_args x = {w->p + i * T3V_P_STRIDE,
                             job->strip ? pk->v : pk->v + i0 * pk->v_size,
                             job->strip ? job->strip + i0 : NULL,
                             i1 - i0,
                             pk->v_size,
                             T3V_STRIP / 2,
                             last,
                             w->o + i * panels * T3V_PANEL,
                             panels * T3V_PANEL,
                             panels,
                             b == 0};
            t3v_bf16_pv((int)n, &x);
        }
    }
}

/* Sets each row's reference exponent from the largest score over the first `strips` strips. */
static void take_maximum(const t3v_attn_job *job, const packed_view *pk, const work_view *w, int64_t rows,
                         int64_t strips)
{
    for (int64_t i = 0; i < rows * 16; i++) w->top[i] = -INFINITY;
    for (int64_t i = 0; i < strips; i++) {
        int64_t s = strip_at(job, i);
        tile_args x = {.q = w->q,
                       .k = pk->k + s * pk->k_size,
                       .bias = pk->bias + s * T3V_STRIP,
                       .shift = w->shift,
                       .p = w->p,
                       .top = w->top,
                       .dim = job->dim};
        run_strip(MAXIMUM, t3v_strip_width(job->packed.count, s), rows, &x);
    }
    for (int64_t i = 0; i < rows; i++) {
        float m = _mm512_reduce_max_ps(_mm512_load_ps(w->top + i * 16)) * job->scale * LOG2E;
        w->reference[i] = m > -16000 && m < 16000 ? rintf(m) : 0;
    }
}

static void set_shifts(const work_view *w, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) w->shift[i] = MAGIC + 128 * (127 - w->reference[i]);
}

/* NaN stays. */
static float larger(float a, float b) { return b > a || isnan(b) ? b : a; }

static bool usable(float sum) { return sum > 0x1p-60f && sum < 0x1p60f; }

static bool all_usable(const work_view *w, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        if (!usable(_mm512_reduce_add_ps(_mm512_load_ps(w->sum + i * 16)))) return false;
    return true;
}

/* y[i] = ln x[i] for x > 0; degree 8 on [1, 2], 3e-8. n is rounded up to 16. */
static void logarithms(float *y, const float *x, int64_t n)
{
    static const float c[] = {-0.006299644666f, 0.01024391279f,  -0.01426425718f,
                              0.02596729362f,   -0.04942119367f, 0.09879175601f,
                              -0.2222207895f,   0.6666661659f,   0.4054650993f};
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_load_ps(x + i), e = _mm512_getexp_ps(v);
        __m512 t = _mm512_sub_ps(_mm512_getmant_ps(v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src),
                                 _mm512_set1_ps(1.5f));
        __m512 p = _mm512_set1_ps(c[0]);
        for (int j = 1; j < 9; j++) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c[j]));
        _mm512_store_ps(y + i, _mm512_fmadd_ps(e, _mm512_set1_ps(0.693147181f), p));
    }
}

static void write_row(const t3v_attn_sink *sink, int64_t token, const float *o, float factor, int dim)
{
    __m512 f = _mm512_set1_ps(factor);
    const float *sum = sink->sum ? sink->sum + token * dim : NULL;
    for (int d = 0; d < dim; d += 16) {
        __m512 x = _mm512_mul_ps(_mm512_load_ps(o + d), f);
        if (sum) x = _mm512_add_ps(x, _mm512_loadu_ps(sum + d));
        int64_t at = token * sink->stride + d;
        if (sink->type == T3V_BF16)
            _mm256_storeu_si256((__m256i *)(void *)((t3v_bf16 *)sink->out + at),
                                (__m256i)_mm512_cvtneps_pbh(x));
        else _mm512_storeu_ps((float *)sink->out + at, x);
    }
}

static void queries(const t3v_attn_job *job, const void *packed, int64_t first, int64_t count, void *work,
                    const t3v_attn_sink *sink)
{
    packed_view pk = view((void *)packed, job->packed.count, job->dim);
    work_view w;
    lay_work(&w, work, job->dim);
    const int64_t columns = t3v_panels(job->dim) * T3V_PANEL;
    float q2 = load_queries(job, first, count, w.q), k2 = 0, value = 0, weight = 0;
    const int64_t strips = strip_count(job, &pk);
    for (int64_t i = 0; i < strips; i++) {
        int64_t s = strip_at(job, i);
        k2 = larger(k2, pk.info[s].norm2);
        value = larger(value, pk.info[s].value);
        weight = larger(weight, pk.info[s].log_weight);
    }
    /* No score exceeds 2^bound; 1.01: the sums of squares are rounded. */
    float bound = (sqrtf(q2) * sqrtf(k2) * 1.01f * job->scale + weight) * LOG2E;
    if (!(bound < 16000) || !(job->scale > 1e-20f)) {
        t3v_attn_ref_queries(job, packed, first, count, work, sink);
        return;
    }
    for (int64_t i = 0; i < count; i++) w.reference[i] = 0;
    set_shifts(&w, count);
    bool small = bound <= 80 && value * (float)job->keys.count < 0x1p40f;
    bool fast = small && !job->key_log_weight;
    if (fast) {
        attend(job, &pk, &w, first, count, FAST, sink);
    } else {
        if (!small) take_maximum(job, &pk, &w, count, 1), set_shifts(&w, count);
        attend(job, &pk, &w, first, count, GENERAL, sink);
        if (!all_usable(&w, count)) {
            take_maximum(job, &pk, &w, count, strips);
            set_shifts(&w, count);
            attend(job, &pk, &w, first, count, GENERAL, sink);
        }
    }
    float *sums = w.top, *logs = w.top + Q_BLOCK;
    for (int64_t i = 0; i < count; i++) sums[i] = _mm512_reduce_add_ps(_mm512_load_ps(w.sum + i * 16));
    if (sink->lse) logarithms(logs, sums, count);
    for (int64_t i = 0; i < count; i++) {
        int64_t token = t3v_row(&job->queries, first + i);
        if (!fast && !usable(sums[i])) {
            t3v_attn_ref_queries(job, packed, first + i, 1, work, sink);
            continue;
        }
        write_row(sink, token, w.o + i * columns, sink->weight / sums[i], job->dim);
        if (sink->lse) sink->lse[token] = w.reference[i] * 0.693147181f + logs[i];
    }
}

static const char *declines(int dim, t3v_dtype type)
{
    if (type != T3V_BF16) return "inputs are not BF16";
    if (dim % 16) return "head dimension is no multiple of 16";
    return NULL;
}

const t3v_attn_impl t3v_attn_avx512bf16 = {
    .name = "avx512bf16",
    .isa = T3V_ISA_AVX512BF16,
    .declines = declines,
    .q_block = Q_BLOCK,
    .q_step = 12,
    .strip = T3V_STRIP,
    .lists = true,
    .packed_bytes = packed_bytes,
    .work_bytes = work_bytes,
    .pack = pack,
    .queries = queries,
    .backward_bytes = t3v_bf16_backward_bytes,
    .backward = t3v_bf16_backward,
};
