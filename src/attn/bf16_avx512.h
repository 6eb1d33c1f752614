/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the two AVX-512-BF16 files: layouts, packing, and the product that accumulates P times V. */
#ifndef T3V_ATTN_BF16_AVX512_H
#define T3V_ATTN_BF16_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/kernel.h"
#include "tensor/dtype.h"

/* Row macros: registers are named, not indexed, so that no compiler has to unroll to keep them out of memory. */
#define T3V_ROWS6(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define T3V_ROWS12(X) T3V_ROWS6(X) X(6) X(7) X(8) X(9) X(10) X(11)

/* Two elements of MR `row`s of `dim` against 16*NR columns at `k`, into sums a0..a5 (columns 0..15), b, c and d. For
 * tiles of named registers: MR, NR, row, dim, k and the sums are the caller's. */
#define T3V_DOT_ROW(r)                                  \
    if (MR > r) {                                       \
        int32_t w;                                      \
        memcpy(&w, row + r * dim, 4);                   \
        __m512bh w##r = (__m512bh)_mm512_set1_epi32(w); \
        a##r = _mm512_dpbf16_ps(a##r, w##r, k0);        \
        b##r = _mm512_dpbf16_ps(b##r, w##r, k1);        \
        if (NR > 2) {                                   \
            c##r = _mm512_dpbf16_ps(c##r, w##r, k2);    \
            d##r = _mm512_dpbf16_ps(d##r, w##r, k3);    \
        }                                               \
    }
#define T3V_DOT_STEP                                                                                     \
    do {                                                                                                 \
        __m512bh k0 = (__m512bh)_mm512_load_si512(k), k1 = (__m512bh)_mm512_load_si512(k + 32), k2 = k0, \
                 k3 = k0;                                                                                \
        if (NR > 2) k2 = (__m512bh)_mm512_load_si512(k + 64), k3 = (__m512bh)_mm512_load_si512(k + 96);  \
        T3V_ROWS6(T3V_DOT_ROW)                                                                           \
        k += 32 * NR;                                                                                    \
        row += 2;                                                                                        \
    } while (0)

enum {
    T3V_STRIP = 64,       /* keys packed as one unit; the last strip of a list holds 32 or 64 */
    T3V_PANEL = 32,       /* columns of V packed as one unit */
    T3V_BLOCK_STRIPS = 6, /* key block */
    T3V_P_STRIDE = T3V_STRIP * T3V_BLOCK_STRIPS + 32, /* elements; off a multiple of 4096 bytes */
};

/* Asks for memory that is needed soon: rows lie far apart and packed strips are cut at pages, so the processor does
 * not see them come. */
static inline __attribute__((always_inline)) void t3v_fetch(const void *p, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

/* What a strip's tiles ask for, in equal parts. */
enum { T3V_AHEAD = 3 };
typedef struct t3v_ahead {
    const char *at[T3V_AHEAD];
    int64_t step[T3V_AHEAD]; /* bytes of one tile */
} t3v_ahead;

static inline void t3v_ahead_add(t3v_ahead *x, int i, const void *p, int64_t bytes, int64_t tiles)
{
    x->at[i] = p;
    x->step[i] = (bytes / (tiles > 0 ? tiles : 1) + 63) / 64 * 64;
}

static inline __attribute__((always_inline)) void t3v_ahead_tile(t3v_ahead *x)
{
    for (int i = 0; i < T3V_AHEAD; i++) {
        t3v_fetch(x->at[i], x->step[i]);
        x->at[i] += x->step[i];
    }
}

/* Columns of a packed V: whole panels. */
static inline int64_t t3v_panels(int dim) { return (dim + T3V_PANEL - 1) / T3V_PANEL; }

/* Keys that strip `s` of `n` holds, padding included. */
static inline int64_t t3v_strip_width(int64_t n, int64_t s) { return n - s * T3V_STRIP > 32 ? 64 : 32; }

/* K form: [dim/2 pairs of columns][width rows][2]. `rows` gives the row's address or NULL beyond the end. Returns
 * the largest squared norm of a row as the bits of a float (order kept; above 0x7f800000: NaN). */
uint32_t t3v_bf16_pack_k(t3v_bf16 *dst, const t3v_bf16 *const rows[T3V_STRIP], int64_t width, int dim);
/* V form: [panels][width/2 pairs of rows (32(j/16) + j%16, that + 16)][32 columns][2]. Returns the largest
 * magnitude as the bits of a bf16. */
uint32_t t3v_bf16_pack_v(t3v_bf16 *dst, const t3v_bf16 *const rows[T3V_STRIP], int64_t width, int dim);

/* [dim][stride]: row d holds element d of `count` rows [count][dim], zeros up to a multiple of 2. stride: a
 * multiple of 32, at least count. */
void t3v_bf16_pack_rows(t3v_bf16 *dst, int64_t stride, const t3v_bf16 *rows, int64_t count, int dim);
/* dst [64][dim] = transpose of src [dim][64]; dim a multiple of 16. */
void t3v_f32_transpose(float *dst, const float *src, int dim);

/* One strip of a product O += P V over a key block. */
typedef struct t3v_pv_args {
    const t3v_bf16 *p;    /* [rows][T3V_P_STRIDE], pairs as in the V form; rows beyond are prefetched */
    const t3v_bf16 *v;    /* strips */
    const int32_t *strip; /* which of them; NULL: from the first on */
    int64_t strips;
    int64_t strip_size;        /* elements from strip to strip */
    int64_t pairs, last_pairs; /* row pairs of a strip, of the last strip */
    float *o;                  /* [rows][o_stride] */
    int64_t o_stride, panels;
    bool first; /* O = P V */
} t3v_pv_args;

/* rows 1 to 12 of O. */
void t3v_bf16_pv(int rows, const t3v_pv_args *x);

size_t t3v_bf16_backward_bytes(int64_t n_q, int64_t n_k, int dim);
void t3v_bf16_backward(const t3v_attn_job *job, const t3v_attn_grad *g, void *work);

#endif
