/* SPDX-License-Identifier: Apache-2.0 */
/* f32 products with AVX2 and FMA: tiles of 6 x 16, B packed into strips of 16 columns, A copied into blocks that stay in
 * the second cache. An element is the sum over blocks of 256 terms of sums in order: a row of the result depends on
 * nothing but that row of A, whatever the rows beside it and the threads. */
#include <immintrin.h>
#include <stdatomic.h>
#include <string.h>

#include "base/threads.h"
#include "ops/gemm/gemm_impl.h"
#include "ops/rows/rows.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS6(X) X(0) X(1) X(2) X(3) X(4) X(5)

enum {
    MR = 6,
    NR = 16,
    KC = 256,             /* terms of a block: a strip of B, 16 KiB, stays in the first cache */
    MC = 120,             /* rows of a block of A: 120 KiB */
    TILE_BYTES = 8 << 20, /* of packed strips of B */
};

/* ---- the tile ---- */

typedef struct tile_args {
    const float *a;    /* [rows][KC] */
    const float *b;    /* [depth][NR] */
    const float *next; /* lines of the next strip, of which a tile asks for some ahead */
    float *c;
    int64_t ldc;
    int depth, cols, lines;
    bool add; /* to what C holds */
} tile_args;

INLINE __m256i first_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE void tile(const int rows, const tile_args *x)
{
    const float *restrict a = x->a, *restrict b = x->b;
#define DECLARE(r) __m256 l##r = _mm256_setzero_ps(), h##r = l##r;
    ROWS6(DECLARE)
#undef DECLARE
    for (int i = 0; i < x->lines; i++) _mm_prefetch((const char *)(x->next + i * 16), _MM_HINT_T0);
    for (int r = 0; r < rows; r++) {
        _mm_prefetch((const char *)(x->c + r * x->ldc), _MM_HINT_T0);
        _mm_prefetch((const char *)(x->c + r * x->ldc + x->cols - 1), _MM_HINT_T0);
    }
    for (int i = 0; i < x->depth; i++, a++, b += NR) {
        const __m256 b0 = _mm256_load_ps(b), b1 = _mm256_load_ps(b + 8);
#define STEP(r)                                           \
    if (r < rows) {                                       \
        const __m256 s = _mm256_broadcast_ss(a + r * KC); \
        l##r = _mm256_fmadd_ps(s, b0, l##r);              \
        h##r = _mm256_fmadd_ps(s, b1, h##r);              \
    }
        ROWS6(STEP)
#undef STEP
    }
    float *c = x->c;
    if (x->cols == NR) {
#define STORE(r)                                                \
    if (r < rows) {                                             \
        if (x->add) {                                           \
            l##r = _mm256_add_ps(_mm256_loadu_ps(c), l##r);     \
            h##r = _mm256_add_ps(_mm256_loadu_ps(c + 8), h##r); \
        }                                                       \
        _mm256_storeu_ps(c, l##r);                              \
        _mm256_storeu_ps(c + 8, h##r);                          \
        c += x->ldc;                                            \
    }
        ROWS6(STORE)
#undef STORE
        return;
    }
    const __m256i m0 = first_lanes(x->cols), m1 = first_lanes(x->cols - 8);
#define STORE(r)                                                       \
    if (r < rows) {                                                    \
        if (x->add) {                                                  \
            l##r = _mm256_add_ps(_mm256_maskload_ps(c, m0), l##r);     \
            h##r = _mm256_add_ps(_mm256_maskload_ps(c + 8, m1), h##r); \
        }                                                              \
        _mm256_maskstore_ps(c, m0, l##r);                              \
        _mm256_maskstore_ps(c + 8, m1, h##r);                          \
        c += x->ldc;                                                   \
    }
    ROWS6(STORE)
#undef STORE
}

#define INSTANCE(n) \
    static __attribute__((noinline)) void tile_##n(const tile_args *x) { tile(n, x); }
INSTANCE(1)
INSTANCE(2)
INSTANCE(3)
INSTANCE(4)
INSTANCE(5)
INSTANCE(6)
#undef INSTANCE

static void (*const tiles[MR])(const tile_args *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

/* ---- packing ---- */

INLINE __m256 load8(const void *p, t3v_dtype type)
{
    if (type == T3V_F32) return _mm256_loadu_ps(p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

static float load1(const void *p, t3v_dtype type)
{
    return type == T3V_F32 ? *(const float *)p : t3v_bf16_to_f32(*(const t3v_bf16 *)p);
}

/* dst [rows] `stride` apart, [cols] <- src, whose rows are `ld` apart. */
static void copy(float *dst, int64_t stride, const char *src, t3v_dtype type, int64_t ld, int64_t rows,
                 int64_t cols)
{
    const int64_t size = (int64_t)t3v_dtype_size(type);
    for (int64_t i = 0; i < rows; i++, dst += stride, src += ld * size) {
        int64_t j = 0;
        for (; j + 8 <= cols; j += 8) {
            if (i + 4 < rows) _mm_prefetch(src + 4 * ld * size + j * size, _MM_HINT_T0);
            _mm256_storeu_ps(dst + j, load8(src + j * size, type));
        }
        for (; j < cols; j++) dst[j] = load1(src + j * size, type);
    }
}

INLINE void turn8(float *dst, int64_t stride, const char *src, t3v_dtype type, int64_t line)
{
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = load8(src + i * line, type);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* dst [rows] `stride` apart, [cols] <- the transpose of src, whose [cols] rows are `ld` apart. */
static void turn(float *dst, int64_t stride, const char *src, t3v_dtype type, int64_t ld, int64_t rows,
                 int64_t cols)
{
    const int64_t size = (int64_t)t3v_dtype_size(type), line = ld * size;
    int64_t j = 0;
    for (; j + 8 <= cols; j += 8) {
        int64_t i = 0;
        for (; i + 8 <= rows; i += 8)
            turn8(dst + i * stride + j, stride, src + j * line + i * size, type, line);
        for (; i < rows; i++)
            for (int64_t l = j; l < j + 8; l++) dst[i * stride + l] = load1(src + l * line + i * size, type);
    }
    for (; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) dst[i * stride + j] = load1(src + j * line + i * size, type);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Terms k0.. of columns j0.., at most 16 of them, into a strip [depth][16], zeros behind the last column. */
static void pack_strip(const t3v_gemm_args *g, const char *b, int64_t k0, int64_t depth, int64_t j0,
                       int64_t cols, float *strip)
{
    const int64_t size = (int64_t)t3v_dtype_size(g->b_type);
    if (cols < NR) memset(strip, 0, (size_t)(depth * NR) * sizeof *strip);
    if (g->b_trans) turn(strip, NR, b + (j0 * g->ldb + k0) * size, g->b_type, g->ldb, depth, cols);
    else copy(strip, NR, b + (k0 * g->ldb + j0) * size, g->b_type, g->ldb, depth, cols);
}

/* ---- blocks ---- */

/* One product, or some of its columns. */
typedef struct work {
    const t3v_gemm_args *g;
    const char *a;
    char *c, *before;
    const float *strips; /* [k in blocks of KC][strips][depth][NR] */
    int64_t j0, cols;    /* columns of the product that are packed */
} work;

/* Bias, and C as it is asked for, of a block [rows, cols] that holds A B. */
static void finish(const work *w, int64_t i0, int64_t rows, int64_t j0, int64_t cols, float *block)
{
    const t3v_gemm_args *g = w->g;
    const int64_t size = (int64_t)t3v_dtype_size(g->c_type);
    for (int64_t i = 0; g->bias && i < rows; i++)
        for (int64_t j = 0; j < cols; j++) block[i * cols + j] += g->bias[j0 + j];
    char *const to[2] = {w->before, w->c};
    for (int t = w->before ? 0 : 1; t < 2; t++) {
        if (t && g->act) t3v_rows_act(T3V_ROWS_GELU_TANH, block, T3V_F32, block, T3V_F32, rows * cols);
        for (int64_t i = 0; i < rows; i++) {
            char *row = to[t] + ((i0 + i) * g->ldc + j0) * size;
            const float *s = block + i * cols;
            if (g->c_type == T3V_BF16)
                for (int64_t j = 0; j < cols; j++) ((t3v_bf16 *)(void *)row)[j] = t3v_f32_to_bf16(s[j]);
            else if (g->accumulate && t)
                for (int64_t j = 0; j < cols; j++) ((float *)(void *)row)[j] += s[j];
            else memcpy(row, s, (size_t)cols * sizeof *s);
        }
    }
}

/* Rows i0.. times strips s0..s1. */
static t3v_status block(const work *w, int64_t i0, int64_t rows, int64_t s0, int64_t s1)
{
    const t3v_gemm_args *g = w->g;
    const int64_t strips = (w->cols + NR - 1) / NR, size = (int64_t)t3v_dtype_size(g->a_type);
    const int64_t j0 = s0 * NR, cols = least(s1 * NR, w->cols) - j0;
    const bool straight = g->c_type == T3V_F32 && !g->bias && !g->act && !w->before;
    float *a = t3v_thread_scratch(T3V_SCRATCH_GEMM_A, (size_t)(rows * KC) * sizeof *a), *c = NULL;
    if (straight) c = (float *)(void *)w->c + i0 * g->ldc + w->j0 + j0;
    else c = t3v_thread_scratch(T3V_SCRATCH_GEMM_C, (size_t)(rows * cols) * sizeof *c);
    if (!a || !c) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a block");
    tile_args x = {.ldc = straight ? g->ldc : cols};
    for (int64_t k0 = 0; k0 < g->k; k0 += KC) {
        x.depth = (int)least(g->k - k0, KC);
        x.add = k0 || (straight && g->accumulate);
        x.lines = (int)(x.depth / ((rows + MR - 1) / MR) + 1); /* a strip has `depth` lines */
        if (g->a_trans) turn(a, KC, w->a + (k0 * g->lda + i0) * size, g->a_type, g->lda, rows, x.depth);
        else copy(a, KC, w->a + (i0 * g->lda + k0) * size, g->a_type, g->lda, rows, x.depth);
        for (int64_t s = s0; s < s1; s++) {
            x.b = w->strips + (k0 * strips + s * x.depth) * NR;
            x.cols = (int)least(w->cols - s * NR, NR);
            x.a = a;
            x.c = c + (s - s0) * NR;
            x.next = x.b + x.depth * NR;
            for (int64_t i = 0; i < rows; i += MR, x.a += MR * KC, x.c += MR * x.ldc) {
                tiles[least(rows - i, MR) - 1](&x);
                x.next += x.lines * 16;
            }
        }
    }
    if (!straight) finish(w, i0, rows, w->j0 + j0, cols, c);
    return T3V_OK;
}

/* All rows times the packed strips: blocks of rows, and of strips where there are fewer blocks than threads. */
static t3v_status blocks(const work *w)
{
    const int64_t m = w->g->m, threads = t3v_threads(), strips = (w->cols + NR - 1) / NR;
    int64_t parts = (m + MC - 1) / MC;
    if (parts > 1) parts = (parts + threads - 1) / threads * threads;
    const int64_t rows = ((m + parts - 1) / parts + MR - 1) / MR * MR;
    parts = (m + rows - 1) / rows;
    const int64_t sides = parts < threads ? least((threads + parts - 1) / parts, strips) : 1;
    atomic_int failed = 0;
#pragma omp parallel for schedule(static) if (parts * sides > 1)
    for (int64_t p = 0; p < parts * sides; p++) {
        const int64_t i0 = p / sides * rows, side = p % sides;
        t3v_status st = block(w, i0, least(m - i0, rows), strips * side / sides, strips * (side + 1) / sides);
        if (st) atomic_store(&failed, (int)st);
    }
    if (!failed) return T3V_OK;
    return t3v_fail((t3v_status)failed, "gemm of %lld x %lld: %s", (long long)m, (long long)w->g->n,
                    t3v_status_text((t3v_status)failed));
}

static t3v_status product(work *w, const char *b)
{
    const t3v_gemm_args *g = w->g;
    /* Columns of a tile: neither the strips nor a block of C are larger. */
    const int64_t fit = TILE_BYTES / ((g->k > MC ? g->k : MC) * (int64_t)sizeof(float)) / 64 * 64;
    const int64_t step = fit < 64 ? 64 : fit;
    for (w->j0 = 0; w->j0 < g->n; w->j0 += step) {
        w->cols = least(g->n - w->j0, step);
        const int64_t strips = (w->cols + NR - 1) / NR, depths = (g->k + KC - 1) / KC;
        float *packed = t3v_thread_scratch(T3V_SCRATCH_GEMM_B, (size_t)(strips * NR * g->k) * sizeof *packed);
        if (!packed) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a tile");
#pragma omp parallel for schedule(static) if (strips * g->k > 1 << 13)
        for (int64_t p = 0; p < strips * depths; p++) {
            const int64_t k0 = p / strips * KC, s = p % strips, depth = least(g->k - k0, KC);
            pack_strip(g, b, k0, depth, w->j0 + s * NR, least(w->cols - s * NR, NR),
                       packed + (k0 * strips + s * depth) * NR);
        }
        w->strips = packed;
        T3V_TRY(blocks(w));
    }
    return T3V_OK;
}

t3v_status t3v__gemm_avx2(const t3v_gemm_args *g)
{
    for (int64_t i = 0; i < g->batch; i++) {
        const int64_t c = i * g->c_batch * (int64_t)t3v_dtype_size(g->c_type);
        work w = {.g = g,
                  .a = (const char *)g->a + i * g->a_batch * (int64_t)t3v_dtype_size(g->a_type),
                  .c = (char *)g->c + c,
                  .before = g->before ? (char *)g->before + c : NULL};
        T3V_TRY(product(&w, (const char *)g->b + i * g->b_batch * (int64_t)t3v_dtype_size(g->b_type)));
    }
    return T3V_OK;
}
