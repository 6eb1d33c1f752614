/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512-BF16 gradient of attention: the forward's two products, five times, without transposing scores.
 *
 * Keys are rows and queries lanes, so that what belongs to a query (lse, D) is a vector and rows are broadcast:
 *   P^T = exp(scale K Q^T - lse)    dS^T = P^T * (V dO^T - D)    D = rowsum(dO * O)
 *   dV = P^T dO    dK = scale dS^T Q    (dQ)^T = scale K^T dS^T, for which dS^T is stored a second time in pairs of keys
 * A block of keys meets all queries before the next; dQ is kept transposed until the end. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "attn/bf16_avx512.h"

enum {
    KEYS = 192,      /* a block of keys */
    STRIPS = 4,      /* a block of queries, in strips */
    AHEAD_ROWS = 16, /* how far ahead rows are asked for */
};

#define LOG2E 1.44269504088896341f
#define HIDDEN 1e9f /* lse of the queries that pad a strip: their P is 0 */

/* ---- tiles: 6 keys x 64 queries ---- */

typedef struct tile_args {
    const t3v_bf16 *row;   /* [keys][dim] K or V */
    const t3v_bf16 *strip; /* K form of Q or dO */
    const float *lane;     /* [64] lse * log2(e), or D */
    const float *bias;     /* [keys] log-weight / scale */
    t3v_bf16 *p, *ds;      /* [keys][T3V_P_STRIDE], pairs (q, q + 16) */
    t3v_bf16 *ds2;         /* V form over queries: [2 or 1 panels][ds2_pairs][32][2] */
    int64_t ds2_panel;     /* elements of a panel */
    int dim;
    float c;         /* scale * log2(e) */
    t3v_ahead ahead; /* what is needed soon */
} tile_args;

/* 2^x, cubic: 7.5e-5 relative, far below the rounding of P. */
static inline __attribute__((always_inline)) __m512 exp2_of(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-200), x); /* second operand: NaN stays */
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.0551715000f), f, _mm512_set1_ps(0.2426111436f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6932610196f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999280731f));
    return _mm512_scalef_ps(p, n);
}

/* Lanes of x in the low halves, of y in the high halves, rounded to bf16. */
static inline __attribute__((always_inline)) __m512i join(__m512 x, __m512 y)
{
    __m512i half = _mm512_set1_epi32(0x8000);
    __m512i a = _mm512_add_epi32(_mm512_castps_si512(x), half),
            b = _mm512_add_epi32(_mm512_castps_si512(y), half);
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), _mm512_srli_epi32(a, 16), b, 0xca);
}

static inline __attribute__((always_inline)) __m512 low_half(__m512i w)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

static inline __attribute__((always_inline)) __m512 high_half(__m512i w)
{
    return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}

/* P of MR keys x 16*NR queries. */
static inline __attribute__((always_inline)) void tile_p(const int MR, const int NR, const tile_args *x)
{
    const int dim = x->dim;
    const t3v_bf16 *restrict row = x->row, *restrict k = x->strip;
#define DECLARE(r) \
    __m512 a##r = _mm512_set1_ps(MR > r ? x->bias[r] : 0), b##r = a##r, c##r = a##r, d##r = a##r;
    T3V_ROWS6(DECLARE)
#undef DECLARE
    for (int i = 0; i < dim; i += 8) {
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
    }
    const float *lane = x->lane;
    t3v_bf16 *restrict p = x->p;
    __m512 s = _mm512_set1_ps(x->c), l0 = _mm512_load_ps(lane), l1 = _mm512_load_ps(lane + 16), l2 = l0,
           l3 = l0;
    if (NR > 2) l2 = _mm512_load_ps(lane + 32), l3 = _mm512_load_ps(lane + 48);
#define OUT(r)                                                                                       \
    if (MR > r) {                                                                                    \
        __m512 u = exp2_of(_mm512_fmsub_ps(a##r, s, l0)), v = exp2_of(_mm512_fmsub_ps(b##r, s, l1)); \
        _mm512_store_si512(p + r * T3V_P_STRIDE, join(u, v));                                        \
        if (NR > 2) {                                                                                \
            u = exp2_of(_mm512_fmsub_ps(c##r, s, l2)), v = exp2_of(_mm512_fmsub_ps(d##r, s, l3));    \
            _mm512_store_si512(p + r * T3V_P_STRIDE + 32, join(u, v));                               \
        }                                                                                            \
    }
    T3V_ROWS6(OUT)
#undef OUT
}

/* dS of MR keys x 16*NR queries, in both forms. */
static inline __attribute__((always_inline)) void tile_ds(const int MR, const int NR, const tile_args *x)
{
    const int dim = x->dim;
    const t3v_bf16 *restrict row = x->row, *restrict k = x->strip;
#define DECLARE(r) __m512 a##r = _mm512_setzero_ps(), b##r = a##r, c##r = a##r, d##r = a##r;
    T3V_ROWS6(DECLARE)
#undef DECLARE
    for (int i = 0; i < dim; i += 8) {
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
        T3V_DOT_STEP;
    }
    const float *lane = x->lane;
    const t3v_bf16 *restrict p = x->p;
    t3v_bf16 *restrict ds = x->ds, *restrict ds2 = x->ds2, *restrict ds3 = ds2 + x->ds2_panel;
    __m512 l0 = _mm512_load_ps(lane), l1 = _mm512_load_ps(lane + 16), l2 = l0, l3 = l0;
    if (NR > 2) l2 = _mm512_load_ps(lane + 32), l3 = _mm512_load_ps(lane + 48);
#define TIMES_P(r)                                                            \
    if (MR > r) {                                                             \
        __m512i w = _mm512_load_si512(p + r * T3V_P_STRIDE);                  \
        a##r = _mm512_mul_ps(_mm512_sub_ps(a##r, l0), low_half(w));           \
        b##r = _mm512_mul_ps(_mm512_sub_ps(b##r, l1), high_half(w));          \
        _mm512_store_si512(ds + r * T3V_P_STRIDE, join(a##r, b##r));          \
        if (NR > 2) {                                                         \
            w = _mm512_load_si512(p + r * T3V_P_STRIDE + 32);                 \
            c##r = _mm512_mul_ps(_mm512_sub_ps(c##r, l2), low_half(w));       \
            d##r = _mm512_mul_ps(_mm512_sub_ps(d##r, l3), high_half(w));      \
            _mm512_store_si512(ds + r * T3V_P_STRIDE + 32, join(c##r, d##r)); \
        }                                                                     \
    }
    T3V_ROWS6(TIMES_P)
#undef TIMES_P
    /* Rows in pairs; an unpaired last row meets the zeros of a register that was never used. */
#define PAIR(r, t)                                                   \
    if (MR > r) {                                                    \
        _mm512_store_si512(ds2 + r * 32, join(a##r, a##t));          \
        _mm512_store_si512(ds2 + r * 32 + 32, join(b##r, b##t));     \
        if (NR > 2) {                                                \
            _mm512_store_si512(ds3 + r * 32, join(c##r, c##t));      \
            _mm512_store_si512(ds3 + r * 32 + 32, join(d##r, d##t)); \
        }                                                            \
    }
    PAIR(0, 1)
    PAIR(2, 3)
    PAIR(4, 5)
#undef PAIR
}

static inline __attribute__((always_inline)) void strip_rows(const int NR, const bool ds, int64_t rows,
                                                             tile_args x)
{
#define ONE(n)                      \
    do {                            \
        if (ds) tile_ds(n, NR, &x); \
        else tile_p(n, NR, &x);     \
    } while (0)
    for (; rows >= 6; rows -= 6) {
        t3v_ahead_tile(&x.ahead);
        ONE(6);
        x.row += 6 * x.dim, x.p += 6 * T3V_P_STRIDE, x.ds += 6 * T3V_P_STRIDE, x.ds2 += 3 * 64, x.bias += 6;
    }
    switch (rows) {
    case 5: ONE(5); break;
    case 4: ONE(4); break;
    case 3: ONE(3); break;
    case 2: ONE(2); break;
    case 1: ONE(1); break;
    default: break;
    }
#undef ONE
}

static __attribute__((noinline)) void p_64(int64_t rows, const tile_args *x)
{
    strip_rows(4, false, rows, *x);
}
static __attribute__((noinline)) void p_32(int64_t rows, const tile_args *x)
{
    strip_rows(2, false, rows, *x);
}
static __attribute__((noinline)) void ds_64(int64_t rows, const tile_args *x)
{
    strip_rows(4, true, rows, *x);
}
static __attribute__((noinline)) void ds_32(int64_t rows, const tile_args *x)
{
    strip_rows(2, true, rows, *x);
}

/* ---- layout of the work memory ---- */

typedef struct work_view {
    t3v_bf16 *qk, *qv, *gk, *gv; /* Q and dO in K form and in V form: strips of 64*dim, of 64*columns */
    float *dqt;                  /* [strips][dim][64] */
    float *lse, *mean;           /* [strips * 64] */
    t3v_bf16 *k, *v;             /* [KEYS][dim] */
    t3v_bf16 *kt;                /* [dim][T3V_P_STRIDE], keys in pairs */
    t3v_bf16 *p, *ds;            /* [KEYS][T3V_P_STRIDE] */
    t3v_bf16 *ds2;               /* [STRIPS][64 * KEYS] */
    float *dk, *dv;              /* [KEYS][columns] */
    float *bias;                 /* [KEYS] */
    t3v_bf16 *rounded;           /* [64][dim] */
    float *turned;               /* [64][dim] */
} work_view;

/* Places everything after `base` (which may be 0, to measure); returns the bytes. */
static size_t lay_out(work_view *w, uintptr_t base, int64_t n_q, int dim)
{
    int64_t strips = (n_q + T3V_STRIP - 1) / T3V_STRIP, columns = t3v_panels(dim) * T3V_PANEL;
    uintptr_t at = base;
#define TAKE(field, count) \
    w->field = (void *)at; \
    at += ((size_t)(count) * sizeof *w->field + 63) / 64 * 64
    TAKE(qk, strips * T3V_STRIP * dim);
    TAKE(qv, strips * T3V_STRIP * columns);
    TAKE(gk, strips * T3V_STRIP * dim);
    TAKE(gv, strips * T3V_STRIP * columns);
    TAKE(dqt, strips * T3V_STRIP * dim);
    TAKE(lse, strips * T3V_STRIP);
    TAKE(mean, strips * T3V_STRIP);
    TAKE(k, KEYS * dim);
    TAKE(v, KEYS * dim);
    TAKE(kt, T3V_P_STRIDE * dim);
    TAKE(p, KEYS * T3V_P_STRIDE);
    TAKE(ds, KEYS * T3V_P_STRIDE);
    TAKE(ds2, STRIPS * T3V_STRIP * KEYS);
    TAKE(dk, KEYS * columns);
    TAKE(dv, KEYS * columns);
    TAKE(bias, KEYS);
    TAKE(rounded, T3V_STRIP * dim);
    TAKE(turned, T3V_STRIP * dim);
#undef TAKE
    return at - base;
}

size_t t3v_bf16_backward_bytes(int64_t n_q, int64_t n_k, int dim)
{
    (void)n_k;
    work_view w;
    return lay_out(&w, 0, n_q, dim);
}

/* ---- preparing ---- */

static __m512 load16(const void *base, t3v_dtype type, int64_t at)
{
    if (type == T3V_F32) return _mm512_loadu_ps((const float *)base + at);
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                              (const __m256i *)(const void *)((const t3v_bf16 *)base + at))),
                          16));
}

static void fetch_query(const t3v_attn_job *job, const t3v_attn_grad *g, int64_t token)
{
    const int64_t out = (int64_t)t3v_dtype_size(g->out_type), dout = (int64_t)t3v_dtype_size(g->dout_type);
    t3v_fetch((const t3v_bf16 *)job->q + token * job->q_stride, job->dim * 2);
    t3v_fetch((const char *)g->out + token * g->out_stride * out, job->dim * out);
    t3v_fetch((const char *)g->dout + token * g->dout_stride * dout, job->dim * dout);
}

/* Packs the queries and their output gradients; lse and D of each. */
static void prepare_queries(const t3v_attn_job *job, const t3v_attn_grad *g, const work_view *w)
{
    const int dim = job->dim;
    const int64_t n = job->queries.count, columns = t3v_panels(dim) * T3V_PANEL;
    for (int64_t s = 0; s * T3V_STRIP < n; s++) {
        const t3v_bf16 *q[T3V_STRIP], *d[T3V_STRIP];
        int64_t width = t3v_strip_width(n, s);
        for (int64_t i = 0; i < width; i++) {
            int64_t at = s * T3V_STRIP + i;
            q[i] = d[i] = NULL;
            w->lse[at] = HIDDEN, w->mean[at] = 0;
            if (at >= n) continue;
            int64_t token = t3v_row(&job->queries, at);
            if (at + AHEAD_ROWS < n) fetch_query(job, g, t3v_row(&job->queries, at + AHEAD_ROWS));
            q[i] = (const t3v_bf16 *)job->q + token * job->q_stride;
            __m512 mean = _mm512_setzero_ps();
            for (int j = 0; j < dim; j += 16) {
                __m512 x = load16(g->dout, g->dout_type, token * g->dout_stride + j);
                mean = _mm512_fmadd_ps(x, load16(g->out, g->out_type, token * g->out_stride + j), mean);
                if (g->dout_type == T3V_F32)
                    _mm256_storeu_si256((__m256i *)(void *)(w->rounded + i * dim + j),
                                        (__m256i)_mm512_cvtneps_pbh(x));
            }
            d[i] = g->dout_type == T3V_F32 ? w->rounded + i * dim
                                           : (const t3v_bf16 *)g->dout + token * g->dout_stride;
            w->mean[at] = _mm512_reduce_add_ps(mean);
            w->lse[at] = g->lse[token] * LOG2E;
        }
        t3v_bf16_pack_k(w->qk + s * T3V_STRIP * dim, q, width, dim);
        t3v_bf16_pack_v(w->qv + s * T3V_STRIP * columns, q, width, dim);
        t3v_bf16_pack_k(w->gk + s * T3V_STRIP * dim, d, width, dim);
        t3v_bf16_pack_v(w->gv + s * T3V_STRIP * columns, d, width, dim);
    }
}

/* Copies a block of keys and values; K once more with keys in pairs along the row. */
static void prepare_keys(const t3v_attn_job *job, int64_t first, int64_t count, const work_view *w)
{
    const int dim = job->dim;
    for (int64_t i = 0; i < count; i++) {
        int64_t token = t3v_row(&job->keys, first + i);
        if (first + i + AHEAD_ROWS < job->keys.count) {
            int64_t next = t3v_row(&job->keys, first + i + AHEAD_ROWS);
            t3v_fetch((const t3v_bf16 *)job->k + next * job->k_stride, dim * 2);
            t3v_fetch((const t3v_bf16 *)job->v + next * job->v_stride, dim * 2);
        }
        memcpy(w->k + i * dim, (const t3v_bf16 *)job->k + token * job->k_stride, (size_t)dim * 2);
        memcpy(w->v + i * dim, (const t3v_bf16 *)job->v + token * job->v_stride, (size_t)dim * 2);
        w->bias[i] = job->key_log_weight ? job->key_log_weight[token] / job->scale : 0;
    }
    t3v_bf16_pack_rows(w->kt, T3V_P_STRIDE, w->k, count, dim);
}

/* ---- */

static void add_rows(float *dst, int64_t stride, const t3v_token_list *rows, int64_t first, int64_t count,
                     const float *src, int64_t columns, float factor, int dim)
{
    __m512 f = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < count; i++) {
        float *to = dst + t3v_row(rows, first + i) * stride;
        if (i + AHEAD_ROWS < count) t3v_fetch(dst + t3v_row(rows, first + i + AHEAD_ROWS) * stride, dim * 4);
        for (int d = 0; d < dim; d += 16)
            _mm512_storeu_ps(to + d, _mm512_fmadd_ps(_mm512_load_ps(src + i * columns + d), f,
                                                     _mm512_loadu_ps(to + d)));
    }
}

/* Products of `count` keys with all queries. */
static void key_block(const t3v_attn_job *job, const work_view *w, int64_t count, bool first)
{
    const int dim = job->dim;
    const int64_t n = job->queries.count, strips = (n + T3V_STRIP - 1) / T3V_STRIP, panels = t3v_panels(dim),
                  columns = panels * T3V_PANEL;
    const int64_t pairs = (count + 1) / 2;
    for (int64_t s0 = 0; s0 < strips; s0 += STRIPS) {
        int64_t s1 = s0 + STRIPS < strips ? s0 + STRIPS : strips;
        for (int64_t s = s0; s < s1; s++) {
            bool wide = t3v_strip_width(n, s) == T3V_STRIP;
            tile_args x = {.row = w->k,
                           .strip = w->qk + s * T3V_STRIP * dim,
                           .lane = w->lse + s * T3V_STRIP,
                           .bias = w->bias,
                           .p = w->p + (s - s0) * T3V_STRIP,
                           .ds = w->ds + (s - s0) * T3V_STRIP,
                           .ds2 = w->ds2 + (s - s0) * T3V_STRIP * KEYS,
                           .ds2_panel = pairs * 64,
                           .dim = dim,
                           .c = job->scale * LOG2E};
            const int64_t form = T3V_STRIP * dim * 2, form_v = T3V_STRIP * columns * 2, tiles = count / 6;
            const char *dqt = (const char *)(w->dqt + s * dim * T3V_STRIP);
            t3v_ahead_add(&x.ahead, 0, w->gk + s * T3V_STRIP * dim, form, tiles);
            t3v_ahead_add(&x.ahead, 1, w->gv + s * T3V_STRIP * columns, form_v, tiles);
            t3v_ahead_add(&x.ahead, 2, dqt, form, tiles);
            (wide ? p_64 : p_32)(count, &x);
            x.row = w->v, x.strip = w->gk + s * T3V_STRIP * dim, x.lane = w->mean + s * T3V_STRIP;
            t3v_ahead_add(&x.ahead, 0, w->qk + (s + 1 < strips ? s + 1 : 0) * T3V_STRIP * dim, form, tiles);
            t3v_ahead_add(&x.ahead, 1, w->qv + s * T3V_STRIP * columns, form_v, tiles);
            t3v_ahead_add(&x.ahead, 2, dqt + form, form, tiles);
            (wide ? ds_64 : ds_32)(count, &x);
        }
        int64_t last = t3v_strip_width(n, s1 - 1) / 2;
        for (int64_t i = 0; i < count; i += 12) {
            int rows = (int)(count - i < 12 ? count - i : 12);
            t3v_pv_args x = {w->p + i * T3V_P_STRIDE,
                             w->gv + s0 * T3V_STRIP * columns,
                             NULL,
                             s1 - s0,
                             T3V_STRIP * columns,
                             T3V_STRIP / 2,
                             last,
                             w->dv + i * columns,
                             columns,
                             panels,
                             s0 == 0};
            t3v_bf16_pv(rows, &x);
            x.p = w->ds + i * T3V_P_STRIDE, x.v = w->qv + s0 * T3V_STRIP * columns, x.o = w->dk + i * columns;
            t3v_bf16_pv(rows, &x);
        }
        for (int64_t s = s0; s < s1; s++)
            for (int d = 0; d < dim; d += 12) {
                t3v_pv_args x = {w->kt + d * T3V_P_STRIDE,
                                 w->ds2 + (s - s0) * T3V_STRIP * KEYS,
                                 NULL,
                                 1,
                                 0,
                                 pairs,
                                 pairs,
                                 w->dqt + (s * dim + d) * T3V_STRIP,
                                 T3V_STRIP,
                                 t3v_strip_width(n, s) / T3V_PANEL,
                                 first};
                t3v_bf16_pv(dim - d < 12 ? dim - d : 12, &x);
            }
    }
}

void t3v_bf16_backward(const t3v_attn_job *job, const t3v_attn_grad *g, void *work)
{
    work_view w;
    lay_out(&w, (uintptr_t)work, job->queries.count, job->dim);
    const int64_t columns = t3v_panels(job->dim) * T3V_PANEL, n = job->queries.count;
    prepare_queries(job, g, &w);
    int64_t blocks = (job->keys.count + KEYS - 1) / KEYS, size = (job->keys.count + blocks - 1) / blocks;
    size = (size + 11) / 12 * 12;
    for (int64_t k = 0; k < job->keys.count; k += size) {
        int64_t count = job->keys.count - k < size ? job->keys.count - k : size;
        prepare_keys(job, k, count, &w);
        key_block(job, &w, count, k == 0);
        add_rows(g->dk, g->dk_stride, &job->keys, k, count, w.dk, columns, job->scale * g->weight, job->dim);
        add_rows(g->dv, g->dv_stride, &job->keys, k, count, w.dv, columns, g->weight, job->dim);
    }
    for (int64_t s = 0; s * T3V_STRIP < n; s++) {
        int64_t count = n - s * T3V_STRIP < T3V_STRIP ? n - s * T3V_STRIP : T3V_STRIP;
        t3v_f32_transpose(w.turned, w.dqt + s * job->dim * T3V_STRIP, job->dim);
        add_rows(g->dq, g->dq_stride, &job->queries, s * T3V_STRIP, count, w.turned, job->dim,
                 job->scale * g->weight, job->dim);
    }
}
