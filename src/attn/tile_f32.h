/* SPDX-License-Identifier: Apache-2.0 */
/* f32 attention, forward and backward, written once for vectors of any width; included by one file per
 * instruction set, which defines
 *   V, LANES, VLOAD, VSTORE, VSET, VZERO, VADD, VSUB, VMUL, VFMA (a*b+c), VMAX, VSUM, VTOP (horizontal),
 *   VEXP2 (2^x; x <= -126 gives 0; NaN stays), WIDE (1: strips of four vectors, else of two), PV_ROWS, IMPL, IMPL_NAME, IMPL_ISA.
 * BF16 inputs are expanded while packing. Registers are named, not indexed, so that no compiler has to unroll.
 *
 * The choice of the reference exponent is that of forward_avx512bf16.c: none where Cauchy-Schwarz bounds the scores,
 * else the maximum over the first strip, else that of all keys. */
#include <math.h>
#include <string.h>

#include "attn/kernel.h"
#include "tensor/dtype.h"

#define ROWS6(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define ROWS12(X) ROWS6(X) X(6) X(7) X(8) X(9) X(10) X(11)
#define INLINE static inline __attribute__((always_inline))
#define LOG2E 1.44269504088896341f
#define HIDDEN 1e9f /* P of the keys and queries that pad a strip is 2^-HIDDEN = 0 */

enum {
    UNIT = 2 * LANES,          /* rows and columns of a packed square of V */
    STRIP = UNIT * (1 + WIDE), /* keys of a packed strip of K */
    BLOCK = 192,               /* keys between two passes over V */
    Q_BLOCK = 48,
    KEYS = 96,     /* backward: a block of keys */
    QUERIES = 192, /* backward: a block of queries */
};

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t strip_width(int64_t n, int64_t s) { return n - s * STRIP > UNIT ? STRIP : UNIT; }
static float larger(float a, float b) { return b > a || isnan(b) ? b : a; }

/* ---- products ---- */

/* O += P V, MR rows by two vectors. */
typedef struct pv_args {
    const float *p;
    int64_t p_stride, p_unit; /* from row to row, from unit to unit */
    const float *v;           /* [rows of the unit][UNIT] */
    int64_t v_unit, v_panel;
    int64_t units, rows, last; /* rows of V in a unit, in the last one */
    float *o;
    int64_t o_stride, panels;
    bool first; /* O = P V */
} pv_args;

INLINE void pv(const int MR, const pv_args *x)
{
    const int64_t ps = x->p_stride, os = x->o_stride;
    float *restrict o = x->o;
#define DECLARE(r) V a##r = VZERO(), b##r = a##r;
    ROWS12(DECLARE)
#undef DECLARE
    if (!x->first) {
#define LOAD(r) \
    if (MR > r) a##r = VLOAD(o + r * os), b##r = VLOAD(o + r * os + LANES);
        ROWS12(LOAD)
#undef LOAD
    }
    for (int64_t u = 0; u < x->units; u++) {
        const float *p = x->p + u * x->p_unit, *v = x->v + u * x->v_unit;
        int64_t rows = u + 1 == x->units ? x->last : x->rows;
#define ROW(r)                       \
    if (MR > r) {                    \
        V w##r = VSET(p[r * ps]);    \
        a##r = VFMA(w##r, v0, a##r); \
        b##r = VFMA(w##r, v1, b##r); \
    }
#define STEP                                \
    V v0 = VLOAD(v), v1 = VLOAD(v + LANES); \
    ROWS12(ROW)                             \
    v += UNIT, p++;
        if (rows == UNIT) {
#pragma GCC unroll 32
            for (int j = 0; j < UNIT; j++) {
                STEP
            }
        } else {
            for (int64_t j = 0; j < rows; j++) {
                STEP
            }
        }
#undef STEP
#undef ROW
    }
#define STORE(r) \
    if (MR > r) VSTORE(o + r * os, a##r), VSTORE(o + r * os + LANES, b##r);
    ROWS12(STORE)
#undef STORE
}

#define INSTANCE(n) \
    static __attribute__((noinline)) void pv_##n(const pv_args *x) { pv(n, x); }
/* clang-format off */
INSTANCE(1) INSTANCE(2) INSTANCE(3) INSTANCE(4) INSTANCE(5) INSTANCE(6)
#if PV_ROWS == 12
INSTANCE(7) INSTANCE(8) INSTANCE(9) INSTANCE(10) INSTANCE(11) INSTANCE(12)
#endif
/* clang-format on */
#undef INSTANCE

    /* Panel by panel: a panel of V stays in the first cache while the rows pass. */
    static void run_pv(int64_t rows, pv_args x)
{
    static void (*const table[])(const pv_args *) = {
        pv_1,
        pv_2,
        pv_3,
        pv_4,
        pv_5,
        pv_6,
#if PV_ROWS == 12
        pv_7,
        pv_8,
        pv_9,
        pv_10,
        pv_11,
        pv_12,
#endif
    };
    for (int64_t panel = 0; panel < x.panels; panel++, x.v += x.v_panel, x.o += UNIT) {
        pv_args y = x;
        for (int64_t i = 0; i < rows; i += PV_ROWS) {
            table[(rows - i < PV_ROWS ? rows - i : PV_ROWS) - 1](&y);
            y.p += PV_ROWS * x.p_stride, y.o += PV_ROWS * x.o_stride;
        }
    }
}

/* Rows times a packed strip: EXP and PROBABILITY give P, MAXIMUM the largest score, SLOPE dS. */
enum { EXP, MAXIMUM, PROBABILITY, SLOPE };

typedef struct tile_args {
    const float *row;   /* [rows][dim] */
    const float *strip; /* [dim][width] */
    const float *lane;  /* EXP, MAXIMUM: log2 of the keys' weights; else lse * log2(e) or D of the queries */
    const float *per_row; /* EXP: reference exponent; PROBABILITY: log2 of the keys' weights */
    float *p;             /* [width / UNIT][p_unit], rows UNIT apart */
    float *ds;            /* like p */
    int64_t p_unit;
    float *top; /* [rows][LANES] */
    int dim;
    float c; /* scale * log2(e) */
} tile_args;

INLINE void tile(const int MR, const int NR, const int mode, const tile_args *x)
{
    const int dim = x->dim;
    const float *restrict row = x->row, *restrict k = x->strip, *lane = x->lane;
#define DECLARE(r) V a##r = VZERO(), b##r = a##r, c##r = a##r, d##r = a##r;
    ROWS6(DECLARE)
#undef DECLARE
    for (int i = 0; i < dim; i++) {
        V k0 = VLOAD(k), k1 = VLOAD(k + LANES), k2 = k0, k3 = k0;
        if (NR > 2) k2 = VLOAD(k + 2 * LANES), k3 = VLOAD(k + 3 * LANES);
#define STEP(r)                          \
    if (MR > r) {                        \
        V w##r = VSET(row[r * dim]);     \
        a##r = VFMA(w##r, k0, a##r);     \
        b##r = VFMA(w##r, k1, b##r);     \
        if (NR > 2) {                    \
            c##r = VFMA(w##r, k2, c##r); \
            d##r = VFMA(w##r, k3, d##r); \
        }                                \
    }
        ROWS6(STEP)
#undef STEP
        k += NR * LANES;
        row++;
    }
    float *restrict p = x->p, *restrict p2 = mode == MAXIMUM ? p : p + x->p_unit, *restrict ds = x->ds,
                    *restrict ds2 = mode == SLOPE ? ds + x->p_unit : ds; /* NULL but for SLOPE */
    V s = VSET(x->c), l0 = VLOAD(lane), l1 = VLOAD(lane + LANES), l2 = l0, l3 = l1;
    if (NR > 2) l2 = VLOAD(lane + 2 * LANES), l3 = VLOAD(lane + 3 * LANES);
        /* EXP adds the lane's bias and subtracts the row's reference; PROBABILITY the other way round. */
#define EXPONENT(acc, l) (mode == PROBABILITY ? VSUB(VFMA(acc, s, m), l) : VSUB(VFMA(acc, s, l), m))
#define OUT(r)                                                                                      \
    if (MR > r) {                                                                                   \
        if (mode == MAXIMUM) {                                                                      \
            V m = VMAX(VLOAD(x->top + r * LANES), VMAX(VFMA(a##r, s, l0), VFMA(b##r, s, l1)));      \
            if (NR > 2) m = VMAX(m, VMAX(VFMA(c##r, s, l2), VFMA(d##r, s, l3)));                    \
            VSTORE(x->top + r * LANES, m);                                                          \
        } else if (mode == SLOPE) {                                                                 \
            VSTORE(ds + r * UNIT, VMUL(VLOAD(p + r * UNIT), VSUB(a##r, l0)));                       \
            VSTORE(ds + r * UNIT + LANES, VMUL(VLOAD(p + r * UNIT + LANES), VSUB(b##r, l1)));       \
            if (NR > 2) {                                                                           \
                VSTORE(ds2 + r * UNIT, VMUL(VLOAD(p2 + r * UNIT), VSUB(c##r, l2)));                 \
                VSTORE(ds2 + r * UNIT + LANES, VMUL(VLOAD(p2 + r * UNIT + LANES), VSUB(d##r, l3))); \
            }                                                                                       \
        } else {                                                                                    \
            V m = VSET(x->per_row[r]);                                                              \
            VSTORE(p + r * UNIT, VEXP2(EXPONENT(a##r, l0)));                                        \
            VSTORE(p + r * UNIT + LANES, VEXP2(EXPONENT(b##r, l1)));                                \
            if (NR > 2) {                                                                           \
                VSTORE(p2 + r * UNIT, VEXP2(EXPONENT(c##r, l2)));                                   \
                VSTORE(p2 + r * UNIT + LANES, VEXP2(EXPONENT(d##r, l3)));                           \
            }                                                                                       \
        }                                                                                           \
    }
    ROWS6(OUT)
#undef OUT
#undef EXPONENT
}

INLINE void strip_rows(const int NR, const int mode, int64_t rows, tile_args x)
{
    for (; rows >= 6; rows -= 6) {
        tile(6, NR, mode, &x);
        x.row += 6 * x.dim, x.p += 6 * UNIT;
        if (mode == SLOPE) x.ds += 6 * UNIT;
        if (mode == MAXIMUM) x.top += 6 * LANES;
        if (mode == EXP || mode == PROBABILITY) x.per_row += 6;
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

#define INSTANCE(name, NR, mode)                                                 \
    static __attribute__((noinline)) void name(int64_t rows, const tile_args *x) \
    {                                                                            \
        strip_rows(NR, mode, rows, *x);                                          \
    }
INSTANCE(exp_narrow, 2, EXP)
INSTANCE(max_narrow, 2, MAXIMUM)
INSTANCE(probability_narrow, 2, PROBABILITY)
INSTANCE(slope_narrow, 2, SLOPE)
#if WIDE
INSTANCE(exp_wide, 4, EXP)
INSTANCE(max_wide, 4, MAXIMUM)
INSTANCE(probability_wide, 4, PROBABILITY)
INSTANCE(slope_wide, 4, SLOPE)
#endif
#undef INSTANCE

static void run_strip(int mode, int64_t width, int64_t rows, const tile_args *x)
{
    static void (*const table[2][4])(int64_t, const tile_args *) = {
        {exp_narrow, max_narrow, probability_narrow, slope_narrow},
#if WIDE
        {exp_wide, max_wide, probability_wide, slope_wide},
#endif
    };
    table[width > UNIT][mode](rows, x);
}

/* ---- packing ---- */

static void load_row(float *restrict dst, const void *base, t3v_dtype type, int64_t at, int dim)
{
    if (type == T3V_F32) {
        memcpy(dst, (const float *)base + at, (size_t)dim * sizeof *dst);
        return;
    }
    const t3v_bf16 *src = (const t3v_bf16 *)base + at;
    for (int d = 0; d < dim; d++) dst[d] = t3v_bf16_to_f32(src[d]);
}

/* Rows [first, first + width) of a tensor in K form [dim][width], zeros beyond the end. */
static void pack_k(float *restrict dst, const void *base, t3v_dtype type, int64_t stride,
                   const t3v_token_list *rows, int64_t first, int64_t width, int dim)
{
    for (int64_t i = 0; i < width; i++) {
        if (first + i >= rows->count) {
            for (int d = 0; d < dim; d++) dst[d * width + i] = 0;
            continue;
        }
        int64_t at = t3v_row(rows, first + i) * stride;
        if (type == T3V_F32)
            for (int d = 0; d < dim; d++) dst[d * width + i] = ((const float *)base)[at + d];
        else
            for (int d = 0; d < dim; d++)
                dst[d * width + i] = t3v_bf16_to_f32(((const t3v_bf16 *)base)[at + d]);
    }
}

/* UNIT rows in V form [UNIT][UNIT] for each panel of columns, zeros beyond the end; returns a vector's largest magnitudes. */
static float pack_v(float *restrict dst, int64_t panel, const void *base, t3v_dtype type, int64_t stride,
                    const t3v_token_list *rows, int64_t first, int dim)
{
    const int64_t columns = round_up(dim, UNIT);
    float row[T3V_HEAD_DIM_MAX + UNIT], top = 0;
    for (int64_t i = 0; i < UNIT; i++) {
        memset(row, 0, (size_t)columns * sizeof *row);
        if (first + i < rows->count) load_row(row, base, type, t3v_row(rows, first + i) * stride, dim);
        for (int64_t d = 0; d < columns; d++) {
            top = larger(top, fabsf(row[d]));
            dst[d / UNIT * panel + i * UNIT + d % UNIT] = row[d];
        }
    }
    return top;
}

/* ---- forward ---- */

typedef struct strip_info {
    float norm2, value, log_weight, unused; /* largest |k|^2, |v|, log-weight (at least 0, inf for NaN) */
} strip_info;

typedef struct packed_view {
    strip_info *info;
    float *bias, *k, *v;
    int64_t strips, k_size, v_panel; /* elements of a strip of K, of a panel of V */
} packed_view;

static packed_view view(void *packed, int64_t n_k, int dim)
{
    packed_view p = {.strips = (n_k + STRIP - 1) / STRIP,
                     .k_size = (int64_t)STRIP * dim,
                     .v_panel = (n_k + STRIP - 1) / STRIP * STRIP * UNIT};
    p.info = packed;
    p.bias = (float *)packed + round_up(p.strips * 4, 16);
    p.k = p.bias + p.strips * STRIP;
    p.v = p.k + p.strips * p.k_size;
    return p;
}

static size_t packed_bytes(int64_t n_k, int dim)
{
    int64_t strips = (n_k + STRIP - 1) / STRIP;
    return (size_t)(round_up(strips * 4, 16) + strips * STRIP * (1 + dim + round_up(dim, UNIT))) *
           sizeof(float);
}

static void pack(const t3v_attn_job *job, void *packed, int64_t first, int64_t last)
{
    packed_view p = view(packed, job->keys.count, job->dim);
    for (int64_t s = first; s < last; s++) {
        int64_t width = strip_width(job->keys.count, s);
        float *bias = p.bias + s * STRIP, *k = p.k + s * p.k_size;
        strip_info info = {0};
        for (int64_t i = 0; i < width; i++) {
            bias[i] = -HIDDEN;
            if (s * STRIP + i >= job->keys.count) continue;
            float w = job->key_log_weight ? job->key_log_weight[t3v_row(&job->keys, s * STRIP + i)] : 0;
            bias[i] = w * LOG2E;
            if (!(w <= info.log_weight)) info.log_weight = isnan(w) ? INFINITY : w;
        }
        pack_k(k, job->k, job->type, job->k_stride, &job->keys, s * STRIP, width, job->dim);
        for (int64_t i = 0; i < width; i += LANES) {
            float lanes[LANES];
            V norm = VZERO();
            for (int d = 0; d < job->dim; d++) {
                V x = VLOAD(k + d * width + i);
                norm = VFMA(x, x, norm);
            }
            VSTORE(lanes, norm);
            for (int j = 0; j < LANES; j++) info.norm2 = larger(info.norm2, lanes[j]);
        }
        for (int64_t i = 0; i < width; i += UNIT) {
            float top = pack_v(p.v + (s * STRIP + i) * UNIT, p.v_panel, job->v, job->type, job->v_stride,
                               &job->keys, s * STRIP + i, job->dim);
            info.value = larger(info.value, top);
        }
        p.info[s] = info;
    }
}

typedef struct work_view {
    float *q, *p, *o, *sum, *top, *reference;
} work_view;

static size_t work_bytes(int dim)
{
    return Q_BLOCK * (size_t)(dim + BLOCK + round_up(dim, UNIT) + 2 * LANES + 16) * sizeof(float);
}

static work_view lay_work(float *at, int dim)
{
    work_view w;
    w.q = at, at += Q_BLOCK * dim;
    w.p = at, at += Q_BLOCK * BLOCK;
    w.o = at, at += Q_BLOCK * round_up(dim, UNIT);
    w.sum = at, at += Q_BLOCK * LANES;
    w.top = at, at += Q_BLOCK * LANES;
    w.reference = at;
    return w;
}

static void attend(const t3v_attn_job *job, const packed_view *pk, const work_view *w, int64_t rows)
{
    const int64_t columns = round_up(job->dim, UNIT);
    const int64_t per_block = BLOCK / STRIP, blocks = (pk->strips + per_block - 1) / per_block;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t s0 = pk->strips * b / blocks, s1 = pk->strips * (b + 1) / blocks, units = 0;
        for (int64_t s = s0; s < s1; s++) {
            int64_t width = strip_width(job->keys.count, s);
            tile_args x = {.row = w->q,
                           .strip = pk->k + s * pk->k_size,
                           .lane = pk->bias + s * STRIP,
                           .per_row = w->reference,
                           .p = w->p + units * Q_BLOCK * UNIT,
                           .p_unit = Q_BLOCK * UNIT,
                           .dim = job->dim,
                           .c = job->scale * LOG2E};
            run_strip(EXP, width, rows, &x);
            units += width / UNIT;
        }
        for (int64_t i = 0; i < rows; i++) {
            V a = b ? VLOAD(w->sum + i * LANES) : VZERO(), c = VZERO();
            for (int64_t u = 0; u < units; u++) {
                const float *p = w->p + (u * Q_BLOCK + i) * UNIT;
                a = VADD(a, VLOAD(p)), c = VADD(c, VLOAD(p + LANES));
            }
            VSTORE(w->sum + i * LANES, VADD(a, c));
        }
        /* Every unit is padded with zeros, so all of its rows can be used. */
        run_pv(rows, (pv_args){w->p, UNIT, Q_BLOCK * UNIT, pk->v + s0 * STRIP * UNIT, UNIT * UNIT,
                               pk->v_panel, units, UNIT, UNIT, w->o, columns, columns / UNIT, b == 0});
    }
}

static void take_maximum(const t3v_attn_job *job, const packed_view *pk, const work_view *w, int64_t rows,
                         int64_t strips)
{
    for (int64_t i = 0; i < rows * LANES; i++) w->top[i] = -INFINITY;
    for (int64_t s = 0; s < strips; s++) {
        tile_args x = {.row = w->q,
                       .strip = pk->k + s * pk->k_size,
                       .lane = pk->bias + s * STRIP,
                       .p = w->p,
                       .ds = w->p,
                       .top = w->top,
                       .dim = job->dim,
                       .c = job->scale * LOG2E};
        run_strip(MAXIMUM, strip_width(job->keys.count, s), rows, &x);
    }
    for (int64_t i = 0; i < rows; i++) {
        float m = VTOP(VLOAD(w->top + i * LANES));
        w->reference[i] = m > -16000 && m < 16000 ? rintf(m) : 0;
    }
}

static bool usable(float sum) { return sum > 0x1p-60f && sum < 0x1p60f; }

static bool all_usable(const work_view *w, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        if (!usable(VSUM(VLOAD(w->sum + i * LANES)))) return false;
    return true;
}

static void write_row(const t3v_attn_sink *sink, int64_t token, const float *o, float factor, int dim)
{
    const float *sum = sink->sum ? sink->sum + token * dim : NULL;
    for (int d = 0; d < dim; d++) {
        float y = o[d] * factor + (sum ? sum[d] : 0);
        int64_t at = token * sink->stride + d;
        if (sink->type == T3V_BF16) ((t3v_bf16 *)sink->out)[at] = t3v_f32_to_bf16(y);
        else ((float *)sink->out)[at] = y;
    }
}

static void queries(const t3v_attn_job *job, const void *packed, int64_t first, int64_t count, void *work,
                    const t3v_attn_sink *sink)
{
    packed_view pk = view((void *)packed, job->keys.count, job->dim);
    work_view w = lay_work(work, job->dim);
    V norm = VZERO();
    for (int64_t i = 0; i < count; i++) {
        float *q = w.q + i * job->dim;
        load_row(q, job->q, job->type, t3v_row(&job->queries, first + i) * job->q_stride, job->dim);
        V own = VZERO();
        for (int d = 0; d < job->dim; d += LANES) own = VFMA(VLOAD(q + d), VLOAD(q + d), own);
        norm = VMAX(own, norm);
        if (isnan(VSUM(own))) norm = VSET(NAN);
    }
    float k2 = 0, value = 0, weight = 0;
    for (int64_t s = 0; s < pk.strips; s++) {
        k2 = larger(k2, pk.info[s].norm2);
        value = larger(value, pk.info[s].value);
        weight = larger(weight, pk.info[s].log_weight);
    }
    float bound = (sqrtf(VSUM(norm)) * sqrtf(k2) * 1.01f * job->scale + weight) * LOG2E;
    if (!(bound < 16000) || !(job->scale > 1e-20f)) {
        t3v_attn_ref_queries(job, packed, first, count, work, sink);
        return;
    }
    for (int64_t i = 0; i < count; i++) w.reference[i] = 0;
    bool small = bound <= 80 && value * (float)job->keys.count < 0x1p40f;
    if (!small) take_maximum(job, &pk, &w, count, 1);
    attend(job, &pk, &w, count);
    if (!all_usable(&w, count)) {
        take_maximum(job, &pk, &w, count, pk.strips);
        attend(job, &pk, &w, count);
    }
    for (int64_t i = 0; i < count; i++) {
        float sum = VSUM(VLOAD(w.sum + i * LANES));
        int64_t token = t3v_row(&job->queries, first + i);
        if (!usable(sum)) { /* even the maximum over all keys did not help */
            t3v_attn_ref_queries(job, packed, first + i, 1, work, sink);
            continue;
        }
        write_row(sink, token, w.o + i * round_up(job->dim, UNIT), sink->weight / sum, job->dim);
        if (sink->lse) sink->lse[token] = w.reference[i] * 0.693147181f + logf(sum);
    }
}

/* ---- backward: as in backward_avx512bf16.c; P and dS serve both as rows and as squares, so each is stored once ---- */

typedef struct back_view {
    float *qk, *gk; /* Q, dO in K form */
    float *qv, *gv; /* and in V form: [columns / UNIT][queries][UNIT] */
    float *dqt;     /* [units of queries][dim][UNIT] */
    float *lse, *mean;
    float *k, *v, *kt; /* [KEYS][dim], [dim][KEYS] */
    float *p, *ds;     /* [QUERIES / UNIT][KEYS][UNIT] */
    float *dk, *dv, *bias;
} back_view;

static size_t lay_back(back_view *w, uintptr_t base, int64_t n_q, int dim)
{
    int64_t n = round_up(n_q, STRIP), columns = round_up(dim, UNIT);
    uintptr_t at = base;
#define TAKE(field, count) \
    w->field = (float *)at, at += (size_t)round_up((count) * (int64_t)sizeof(float), 64)
    TAKE(qk, n * dim);
    TAKE(gk, n * dim);
    TAKE(qv, n * columns);
    TAKE(gv, n * columns);
    TAKE(dqt, n * dim);
    TAKE(lse, n);
    TAKE(mean, n);
    TAKE(k, KEYS * dim);
    TAKE(v, KEYS * dim);
    TAKE(kt, KEYS * dim);
    TAKE(p, KEYS * QUERIES);
    TAKE(ds, KEYS * QUERIES);
    TAKE(dk, KEYS * columns);
    TAKE(dv, KEYS * columns);
    TAKE(bias, KEYS);
#undef TAKE
    return at - base;
}

static size_t backward_bytes(int64_t n_q, int64_t n_k, int dim)
{
    (void)n_k;
    back_view w;
    return lay_back(&w, 0, n_q, dim);
}

static void prepare_queries(const t3v_attn_job *job, const t3v_attn_grad *g, const back_view *w)
{
    const int dim = job->dim;
    const int64_t n = job->queries.count, panel = round_up(n, STRIP) * UNIT;
    float o[T3V_HEAD_DIM_MAX], d[T3V_HEAD_DIM_MAX];
    for (int64_t i = 0; i < round_up(n, STRIP); i++) {
        w->lse[i] = HIDDEN, w->mean[i] = 0;
        if (i >= n) continue;
        int64_t token = t3v_row(&job->queries, i);
        load_row(o, g->out, g->out_type, token * g->out_stride, dim);
        load_row(d, g->dout, g->dout_type, token * g->dout_stride, dim);
        V mean = VZERO();
        for (int j = 0; j < dim; j += LANES) mean = VFMA(VLOAD(o + j), VLOAD(d + j), mean);
        w->mean[i] = VSUM(mean);
        w->lse[i] = g->lse[token] * LOG2E;
    }
    for (int64_t s = 0; s * STRIP < n; s++) {
        int64_t width = strip_width(n, s);
        pack_k(w->qk + s * STRIP * dim, job->q, job->type, job->q_stride, &job->queries, s * STRIP, width,
               dim);
        pack_k(w->gk + s * STRIP * dim, g->dout, g->dout_type, g->dout_stride, &job->queries, s * STRIP,
               width, dim);
    }
    for (int64_t i = 0; i < n; i += UNIT) {
        pack_v(w->qv + i * UNIT, panel, job->q, job->type, job->q_stride, &job->queries, i, dim);
        pack_v(w->gv + i * UNIT, panel, g->dout, g->dout_type, g->dout_stride, &job->queries, i, dim);
    }
}

static void add_rows(float *dst, int64_t stride, const t3v_token_list *rows, int64_t first, int64_t count,
                     const float *src, int64_t columns, float factor, int dim)
{
    for (int64_t i = 0; i < count; i++) {
        float *restrict to = dst + t3v_row(rows, first + i) * stride;
        const float *restrict from = src + i * columns;
        for (int d = 0; d < dim; d++) to[d] += from[d] * factor;
    }
}

static void key_block(const t3v_attn_job *job, const back_view *w, int64_t count, bool first)
{
    const int dim = job->dim;
    const int64_t n = job->queries.count, columns = round_up(dim, UNIT), strips = (n + STRIP - 1) / STRIP,
                  panel = strips * STRIP * UNIT;
    for (int64_t s0 = 0; s0 < strips; s0 += QUERIES / STRIP) {
        int64_t s1 = s0 + QUERIES / STRIP < strips ? s0 + QUERIES / STRIP : strips, units = 0;
        for (int64_t s = s0; s < s1; s++) {
            int64_t width = strip_width(n, s);
            tile_args x = {.row = w->k,
                           .strip = w->qk + s * STRIP * dim,
                           .lane = w->lse + s * STRIP,
                           .per_row = w->bias,
                           .p = w->p + units * KEYS * UNIT,
                           .ds = w->ds + units * KEYS * UNIT,
                           .p_unit = KEYS * UNIT,
                           .dim = dim,
                           .c = job->scale * LOG2E};
            run_strip(PROBABILITY, width, count, &x);
            x.row = w->v, x.strip = w->gk + s * STRIP * dim, x.lane = w->mean + s * STRIP;
            run_strip(SLOPE, width, count, &x);
            units += width / UNIT;
        }
        pv_args x = {w->p,        UNIT,  KEYS * UNIT, w->gv + s0 * STRIP * UNIT,
                     UNIT * UNIT, panel, units,       UNIT,
                     UNIT,        w->dv, columns,     columns / UNIT,
                     s0 == 0};
        run_pv(count, x);
        x.p = w->ds, x.v = w->qv + s0 * STRIP * UNIT, x.o = w->dk;
        run_pv(count, x);
        for (int64_t u = 0; u < units; u++)
            run_pv(dim, (pv_args){w->kt, KEYS, 0, w->ds + u * KEYS * UNIT, 0, 0, 1, count, count,
                                  w->dqt + (s0 * STRIP + u * UNIT) * dim, UNIT, 1, first});
    }
}

static void backward(const t3v_attn_job *job, const t3v_attn_grad *g, void *work)
{
    const int dim = job->dim;
    const int64_t n = job->queries.count, columns = round_up(dim, UNIT);
    back_view w;
    lay_back(&w, (uintptr_t)work, n, dim);
    prepare_queries(job, g, &w);
    for (int64_t k = 0; k < job->keys.count; k += KEYS) {
        int64_t count = job->keys.count - k < KEYS ? job->keys.count - k : KEYS;
        for (int64_t i = 0; i < count; i++) {
            int64_t token = t3v_row(&job->keys, k + i);
            load_row(w.k + i * dim, job->k, job->type, token * job->k_stride, dim);
            load_row(w.v + i * dim, job->v, job->type, token * job->v_stride, dim);
            for (int d = 0; d < dim; d++) w.kt[d * KEYS + i] = w.k[i * dim + d];
            w.bias[i] = job->key_log_weight ? job->key_log_weight[token] * LOG2E : 0;
        }
        key_block(job, &w, count, k == 0);
        add_rows(g->dk, g->dk_stride, &job->keys, k, count, w.dk, columns, job->scale * g->weight, dim);
        add_rows(g->dv, g->dv_stride, &job->keys, k, count, w.dv, columns, g->weight, dim);
    }
    for (int64_t i = 0; i < n; i++) {
        float *restrict to = g->dq + t3v_row(&job->queries, i) * g->dq_stride;
        const float *restrict from = w.dqt + i / UNIT * UNIT * dim + i % UNIT;
        for (int d = 0; d < dim; d++) to[d] += from[d * UNIT] * job->scale * g->weight;
    }
}

static const char *declines(int dim, t3v_dtype type)
{
    (void)type;
    return dim % 16 ? "head dimension is no multiple of 16" : NULL;
}

const t3v_attn_impl IMPL = {
    .name = IMPL_NAME,
    .isa = IMPL_ISA,
    .declines = declines,
    .q_block = Q_BLOCK,
    .q_step = PV_ROWS,
    .strip = STRIP,
    .packed_bytes = packed_bytes,
    .work_bytes = work_bytes,
    .pack = pack,
    .queries = queries,
    .backward_bytes = backward_bytes,
    .backward = backward,
};
