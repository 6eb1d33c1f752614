/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels: choice of the implementation and the split of the work over threads. */
#include "ops/rows/rows.h"

#include <math.h>

#include "base/checked.h"
#include "base/threads.h"
#include "ops/rows/rows_impl.h"
#include "ops/scratch.h"

/* Best first; every row kernel is in each of them. */
static const t3v_rows_impl *const impls[] = {
#if defined(__x86_64__)
    &t3v__rows_avx512, &t3v__rows_avx2,
#endif
    &t3v__rows_ref};

static const t3v_rows_impl *pick(void)
{
    int i = 0;
    while (impls[i]->needs > t3v_cpu()) i++;
    return impls[i];
}

enum { FLAT_BLOCK = 16384, MAX_PARTS = 64, MAX_TREE = 256 };

static bool worth(int64_t elements) { return elements > 65536 && t3v_threads() > 1; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

static bool typed(t3v_dtype t) { return t == T3V_F32 || t == T3V_BF16; }

/* Element i of a typed array; NULL stays NULL. */
static const void *cat(const void *p, t3v_dtype t, int64_t i)
{
    return p ? (const char *)p + i * (t == T3V_BF16 ? 2 : 4) : NULL;
}
static void *at(void *p, t3v_dtype t, int64_t i)
{
    return p ? (char *)p + i * (t == T3V_BF16 ? 2 : 4) : NULL;
}
static float *fat(float *p, int64_t i) { return p ? p + i : NULL; }

/* Runs the statement for row blocks [i0, i0 + cnt) of n rows of d elements. */
#define FOR_ROWS(n, d, stmt)                                                                          \
    do {                                                                                              \
        int64_t n_ = (n), rb_ = (d) < FLAT_BLOCK ? FLAT_BLOCK / ((d) > 0 ? (d) : 1) : 1;              \
        int64_t nb_ = blocks(n_, rb_);                                                                \
        bool worth_ = worth(n_ * (d));                                                                \
        _Pragma("omp parallel for schedule(static) if (worth_)") for (int64_t b_ = 0; b_ < nb_; b_++) \
        {                                                                                             \
            int64_t i0 = b_ * rb_, cnt = at_most(rb_, n_ - i0);                                       \
            stmt;                                                                                     \
        }                                                                                             \
    } while (0)
#define FOR_FLAT(n, stmt) FOR_ROWS(n, 1, stmt)

/* ---- column sums ----------------------------------------------------------------------------------- */

/* One chunk of at most T3V_ROWS_CHUNK rows: assigns its column sums (NULL: not wanted). */
typedef void chunk_fn(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                      float *s1);

/* Adds the column sums of all chunks to g0[d] and g1[d] (NULL: not wanted). Rows are cut into at most
 * MAX_PARTS parts by n alone; chunks of a part, and then the parts, are added in order, in double. */
static t3v_status column_sums(chunk_fn *fn, const void *args, float *g0, float *g1, int64_t n, int64_t d)
{
    const t3v_rows_impl *k = pick();
    int64_t chunks = blocks(n, T3V_ROWS_CHUNK);
    if (!g0 && !g1) {
#pragma omp parallel for schedule(static) if (worth(n * d))
        for (int64_t c = 0; c < chunks; c++) {
            int64_t row = c * T3V_ROWS_CHUNK;
            fn(k, args, row, at_most(T3V_ROWS_CHUNK, n - row), NULL, NULL);
        }
        return T3V_OK;
    }
    if (n <= 0 || d <= 0) return T3V_OK;
    int64_t part = blocks(chunks, MAX_PARTS), parts = blocks(chunks, part), bytes;
    int64_t each = (int64_t)(2 * sizeof(double) + 2 * sizeof(float));
    if (!t3v_mul3(parts, d, each, &bytes))
        return t3v_fail(T3V_E_TOO_BIG, "column sums of %lld columns", (long long)d);
    double *sums = t3v_thread_scratch(T3V_SCRATCH_SUMS, (size_t)bytes);
    if (!sums)
        return t3v_fail(T3V_E_NOMEM, "column sums of %lld columns need %lld bytes of scratch", (long long)d,
                        (long long)bytes);
    float *scratch = (float *)(sums + parts * 2 * d);
#pragma omp parallel for schedule(static) if (worth(n * d))
    for (int64_t p = 0; p < parts; p++) {
        double *s = sums + p * 2 * d;
        float *f = scratch + p * 2 * d;
        for (int64_t j = 0; j < 2 * d; j++) s[j] = 0;
        for (int64_t c = p * part; c < at_most((p + 1) * part, chunks); c++) {
            int64_t row = c * T3V_ROWS_CHUNK;
            fn(k, args, row, at_most(T3V_ROWS_CHUNK, n - row), g0 ? f : NULL, g1 ? f + d : NULL);
            for (int64_t j = 0; g0 && j < d; j++) s[j] += f[j];
            for (int64_t j = d; g1 && j < 2 * d; j++) s[j] += f[j];
        }
    }
    for (int64_t j = 0; j < d; j++) {
        double s0 = 0, s1 = 0;
        for (int64_t p = 0; p < parts; p++) s0 += sums[p * 2 * d + j], s1 += sums[p * 2 * d + d + j];
        if (g0) g0[j] = (float)(g0[j] + s0);
        if (g1) g1[j] = (float)(g1[j] + s1);
    }
    return T3V_OK;
}

/* What the backward chunks need; each reads its own fields. */
typedef struct bwd {
    void *dx;
    const void *dy, *x;
    const float *w;
    float *dres; /* gate_residual: gradient of the residual */
    const t3v_rope *rope;
    t3v_dtype dxt, dyt, xt;
    int64_t lddx, lddy, ldx, first, d;
    float eps;
    bool accumulate, flag; /* flag: one_plus, silu */
} bwd;

/* ---- norms ----------------------------------------------------------------------------------------- */

void t3v_rows_layernorm(void *y, t3v_dtype yt, const float *x, const float *scale, const float *shift,
                        bool one_plus, float eps, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(yt));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d, k->layernorm(at(y, yt, i0 * d), yt, x + i0 * d, scale, shift, one_plus, eps, cnt, d));
}

static void layernorm_chunk(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                            float *s1)
{
    const bwd *a = args;
    int64_t o = row * a->d;
    k->layernorm_bwd(at(a->dx, T3V_F32, o), a->accumulate, s0, s1, cat(a->dy, a->dyt, o), a->dyt,
                     (const float *)a->x + o, a->w, a->flag, a->eps, rows, a->d);
}

t3v_status t3v_rows_layernorm_bwd(float *dx, bool accumulate, float *dscale, float *dshift, const void *dy,
                                  t3v_dtype dyt, const float *x, const float *scale, bool one_plus, float eps,
                                  int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dyt));
    bwd a = {.dx = dx,
             .accumulate = accumulate,
             .dy = dy,
             .dyt = dyt,
             .x = x,
             .w = scale,
             .flag = one_plus,
             .eps = eps,
             .d = d};
    return column_sums(layernorm_chunk, &a, dscale, dshift, n, d);
}

void t3v_rows_qk_norm_rope(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx,
                           const float *g, float eps, const t3v_rope *rope, int64_t first, int64_t n,
                           int64_t d)
{
    T3V_ASSERT(typed(yt) && typed(xt) && ldy >= d && ldx >= d);
    T3V_ASSERT(!rope || (rope->hd > 0 && d % rope->hd == 0 && first >= 0 &&
                         first + n <= rope->grid[0] * rope->grid[1] * rope->grid[2]));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d,
             k->qk(at(y, yt, i0 * ldy), yt, ldy, cat(x, xt, i0 * ldx), xt, ldx, g, eps, rope, first + i0, cnt,
                   d));
}

static void qk_chunk(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                     float *s1)
{
    const bwd *a = args;
    (void)s1;
    k->qk_bwd(at(a->dx, a->dxt, row * a->lddx), a->dxt, a->lddx, a->accumulate, s0,
              cat(a->dy, a->dyt, row * a->lddy), a->dyt, a->lddy, cat(a->x, a->xt, row * a->ldx), a->xt,
              a->ldx, a->w, a->eps, a->rope, a->first + row, rows, a->d);
}

t3v_status t3v_rows_qk_norm_rope_bwd(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate, float *dg,
                                     const void *dy, t3v_dtype dyt, int64_t lddy, const void *x, t3v_dtype xt,
                                     int64_t ldx, const float *g, float eps, const t3v_rope *rope,
                                     int64_t first, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dxt) && typed(dyt) && typed(xt) && lddx >= d && lddy >= d && ldx >= d && (x || !g));
    T3V_ASSERT(!rope || (rope->hd > 0 && d % rope->hd == 0 && first >= 0 &&
                         first + n <= rope->grid[0] * rope->grid[1] * rope->grid[2]));
    bwd a = {.dx = dx,
             .dxt = dxt,
             .lddx = lddx,
             .accumulate = accumulate,
             .dy = dy,
             .dyt = dyt,
             .lddy = lddy,
             .x = x,
             .xt = xt,
             .ldx = ldx,
             .w = g,
             .eps = eps,
             .rope = rope,
             .first = first,
             .d = d};
    return column_sums(qk_chunk, &a, g ? dg : NULL, NULL, n, d);
}

void t3v_rows_rmsnorm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *g, float eps,
                      int64_t n, int64_t d)
{
    T3V_ASSERT(g || d == 0);
    t3v_rows_qk_norm_rope(y, yt, d, x, xt, d, g, eps, NULL, 0, n, d);
}

t3v_status t3v_rows_rmsnorm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dg, const void *dy,
                                t3v_dtype dyt, const void *x, t3v_dtype xt, const float *g, float eps,
                                int64_t n, int64_t d)
{
    T3V_ASSERT(g || d == 0);
    return t3v_rows_qk_norm_rope_bwd(dx, dxt, d, accumulate, dg, dy, dyt, d, x, xt, d, g, eps, NULL, 0, n, d);
}

void t3v_rows_vae_norm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                       int64_t n, int64_t d)
{
    T3V_ASSERT(typed(yt) && typed(xt));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d, k->vae_norm(at(y, yt, i0 * d), yt, cat(x, xt, i0 * d), xt, gamma, silu, cnt, d));
}

static void vae_chunk(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                      float *s1)
{
    const bwd *a = args;
    int64_t o = row * a->d;
    (void)s1;
    k->vae_norm_bwd(at(a->dx, a->dxt, o), a->dxt, a->accumulate, s0, cat(a->dy, a->dyt, o), a->dyt,
                    cat(a->x, a->xt, o), a->xt, a->w, a->flag, rows, a->d);
}

t3v_status t3v_rows_vae_norm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma, const void *dy,
                                 t3v_dtype dyt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                                 int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dxt) && typed(dyt) && typed(xt));
    bwd a = {.dx = dx,
             .dxt = dxt,
             .accumulate = accumulate,
             .dy = dy,
             .dyt = dyt,
             .x = x,
             .xt = xt,
             .w = gamma,
             .flag = silu,
             .d = d};
    return column_sums(vae_chunk, &a, dgamma, NULL, n, d);
}

void t3v_rows_softmax(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale, const float *bias,
                      int64_t bias_rows, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(yt) && typed(xt) && (!bias || bias_rows > 0));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d,
             k->softmax(at(y, yt, i0 * d), yt, cat(x, xt, i0 * d), xt, scale, bias, bias_rows, i0, cnt, d));
}

void t3v_rows_softmax_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                          const void *y, t3v_dtype yt, float scale, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dxt) && typed(dyt) && typed(yt));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d,
             k->softmax_bwd(at(dx, dxt, i0 * d), dxt, accumulate, cat(dy, dyt, i0 * d), dyt,
                            cat(y, yt, i0 * d), yt, scale, cnt, d));
}

/* ---- residual and activations ------------------------------------------------------------------------ */

void t3v_rows_gate_residual(float *out, const float *x, const float *gate, const void *y, t3v_dtype yt,
                            int64_t n, int64_t d)
{
    T3V_ASSERT(typed(yt));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, d, k->gate_residual(out + i0 * d, x + i0 * d, gate, cat(y, yt, i0 * d), yt, cnt, d));
}

static void gate_chunk(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                       float *s1)
{
    const bwd *a = args;
    int64_t o = row * a->d;
    (void)s1;
    k->gate_residual_bwd(fat(a->dres, o), at(a->dx, a->dxt, o), a->dxt, a->accumulate, s0,
                         (const float *)a->dy + o, a->w, cat(a->x, a->xt, o), a->xt, rows, a->d);
}

t3v_status t3v_rows_gate_residual_bwd(float *dx, void *dy, t3v_dtype dyt, bool accumulate, float *dgate,
                                      const float *dout, const float *gate, const void *y, t3v_dtype yt,
                                      int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dyt) && typed(yt) && (y || !dgate) && (!dx || dx != dout));
    bwd a = {.dres = dx,
             .dx = dy,
             .dxt = dyt,
             .accumulate = accumulate,
             .dy = dout,
             .w = gate,
             .x = y,
             .xt = yt,
             .d = d};
    return column_sums(gate_chunk, &a, dgate, NULL, n, d);
}

void t3v_rows_act(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
    T3V_ASSERT(typed(yt) && typed(xt));
    const t3v_rows_impl *k = pick();
    FOR_FLAT(n, k->act(f, at(y, yt, i0), yt, cat(x, xt, i0), xt, cnt));
}

void t3v_rows_act_bwd(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                      const void *x, t3v_dtype xt, int64_t n)
{
    T3V_ASSERT(typed(dxt) && typed(dyt) && typed(xt));
    const t3v_rows_impl *k = pick();
    FOR_FLAT(n,
             k->act_bwd(f, at(dx, dxt, i0), dxt, accumulate, cat(dy, dyt, i0), dyt, cat(x, xt, i0), xt, cnt));
}

void t3v_rows_geglu(void *y, t3v_dtype yt, const void *a, t3v_dtype ta, const void *b, t3v_dtype tb,
                    int64_t n)
{
    T3V_ASSERT(typed(yt) && typed(ta) && typed(tb));
    const t3v_rows_impl *k = pick();
    FOR_FLAT(n, k->geglu(at(y, yt, i0), yt, cat(a, ta, i0), ta, cat(b, tb, i0), tb, cnt));
}

void t3v_rows_geglu_bwd(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate, const void *dy,
                        t3v_dtype dyt, const void *a, t3v_dtype ta, const void *b, t3v_dtype tb, int64_t n)
{
    T3V_ASSERT(typed(dat) && typed(dbt) && typed(dyt) && typed(ta) && typed(tb));
    const t3v_rows_impl *k = pick();
    FOR_FLAT(n, k->geglu_bwd(at(da, dat, i0), dat, at(db, dbt, i0), dbt, accumulate, cat(dy, dyt, i0), dyt,
                             cat(a, ta, i0), ta, cat(b, tb, i0), tb, cnt));
}

/* ---- element-wise, flat ---------------------------------------------------------------------------------
 */

void t3v_rows_lincomb(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype ta, float beta,
                      const void *b, t3v_dtype tb, int64_t n)
{
    T3V_ASSERT(typed(yt) && typed(ta) && typed(tb));
    const t3v_rows_impl *k = pick();
    FOR_FLAT(n, k->lincomb(at(y, yt, i0), yt, alpha, cat(a, ta, i0), ta, beta, cat(b, tb, i0), tb, cnt));
}

void t3v_rows_add(float *y, const float *a, const float *b, int64_t n)
{
    t3v_rows_lincomb(y, T3V_F32, 1, a, T3V_F32, 1, b, T3V_F32, n);
}

void t3v_rows_axpy(float *y, float alpha, const float *x, int64_t n)
{
    t3v_rows_lincomb(y, T3V_F32, 1, y, T3V_F32, alpha, x, T3V_F32, n);
}

void t3v_rows_convert(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
    t3v_rows_lincomb(y, yt, 1, x, xt, 0, NULL, T3V_F32, n);
}

void t3v_rows_to_bf16(t3v_bf16 *y, const float *x, int64_t n)
{
    t3v_rows_convert(y, T3V_BF16, x, T3V_F32, n);
}
void t3v_rows_from_bf16(float *y, const t3v_bf16 *x, int64_t n)
{
    t3v_rows_convert(y, T3V_F32, x, T3V_BF16, n);
}

/* Size of a leaf of the fixed tree over n elements: at most MAX_TREE leaves. */
static int64_t leaf(int64_t n) { return blocks(blocks(n, MAX_TREE), 4096) * 4096; }

double t3v_rows_sumsq(const void *x, t3v_dtype xt, int64_t n)
{
    T3V_ASSERT(typed(xt));
    if (n <= 0) return 0;
    const t3v_rows_impl *k = pick();
    int64_t size = leaf(n), count = blocks(n, size);
    double part[MAX_TREE], sum = 0;
#pragma omp parallel for schedule(static) if (worth(n))
    for (int64_t p = 0; p < count; p++)
        part[p] = k->sumsq(cat(x, xt, p * size), xt, at_most(size, n - p * size));
    for (int64_t p = 0; p < count; p++) sum += part[p];
    return sum;
}

bool t3v_rows_all_finite(const void *x, t3v_dtype xt, int64_t n)
{
    T3V_ASSERT(typed(xt));
    if (n <= 0) return true;
    const t3v_rows_impl *k = pick();
    int64_t size = leaf(n), count = blocks(n, size);
    bool part[MAX_TREE], all = true;
#pragma omp parallel for schedule(static) if (worth(n))
    for (int64_t p = 0; p < count; p++)
        part[p] = k->all_finite(cat(x, xt, p * size), xt, at_most(size, n - p * size));
    for (int64_t p = 0; p < count; p++) all = all && part[p];
    return all;
}

double t3v_rows_mse(float *dv, float weight, const float *v, const float *target, int64_t n)
{
    if (n <= 0) return 0;
    const t3v_rows_impl *k = pick();
    int64_t size = leaf(n), count = blocks(n, size);
    float slope = (float)(2.0 * weight / (double)n);
    double part[MAX_TREE], sum = 0;
#pragma omp parallel for schedule(static) if (worth(n))
    for (int64_t p = 0; p < count; p++) {
        int64_t o = p * size;
        part[p] = k->mse(fat(dv, o), slope, v + o, target + o, at_most(size, n - o));
    }
    for (int64_t p = 0; p < count; p++) sum += part[p];
    return sum / (double)n;
}

void t3v_rows_adamw(float *p, float *m, float *v, t3v_bf16 *p16, float *ema, const float *g,
                    const t3v_adamw *o, int64_t n)
{
    T3V_ASSERT(o->step >= 1);
    const t3v_rows_impl *k = pick();
    float step_size = (float)(o->lr / (1 - pow(o->beta1, (double)o->step)));
    float inv_bc2 = (float)(1 / sqrt(1 - pow(o->beta2, (double)o->step)));
    FOR_FLAT(n, k->adamw(p + i0, m + i0, v + i0, at(p16, T3V_BF16, i0), fat(ema, i0), g + i0, o, step_size,
                         inv_bc2, cnt));
}

/* ---- sums over rows, channels, layouts --------------------------------------------------------------------
 */

static void sum_chunk(const t3v_rows_impl *k, const void *args, int64_t row, int64_t rows, float *s0,
                      float *s1)
{
    const bwd *a = args;
    (void)s1;
    k->sum(s0, cat(a->dy, a->dyt, row * a->d), a->dyt, rows, a->d);
}

t3v_status t3v_rows_sum(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(dyt) && (db || d == 0));
    bwd a = {.dy = dy, .dyt = dyt, .d = d};
    return d > 0 ? column_sums(sum_chunk, &a, db, NULL, n, d) : T3V_OK;
}

void t3v_rows_affine(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a, const float *b,
                     int64_t n, int64_t c)
{
    T3V_ASSERT(typed(yt) && typed(xt));
    const t3v_rows_impl *k = pick();
    FOR_ROWS(n, c, k->affine(at(y, yt, i0 * c), yt, cat(x, xt, i0 * c), xt, a, b, cnt, c));
}

void t3v_rows_affine_planes(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a,
                            const float *b, int64_t c, int64_t p)
{
    T3V_ASSERT(typed(yt) && typed(xt));
    const t3v_rows_impl *k = pick();
    int64_t each = blocks(p, FLAT_BLOCK);
#pragma omp parallel for schedule(static) if (worth(c * p))
    for (int64_t u = 0; u < c * each; u++) {
        int64_t ch = u / each, i0 = u % each * FLAT_BLOCK, o = ch * p + i0;
        k->affine1(at(y, yt, o), yt, cat(x, xt, o), xt, a ? a[ch] : 1, b ? b[ch] : 0,
                   at_most(FLAT_BLOCK, p - i0));
    }
}

void t3v_rows_transpose(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n, int64_t d)
{
    T3V_ASSERT(typed(yt) && typed(xt));
    enum { TILE = 128 };
    const t3v_rows_impl *k = pick();
    int64_t tn = blocks(n, TILE), td = blocks(d, TILE);
#pragma omp parallel for schedule(static) if (worth(n * d))
    for (int64_t u = 0; u < tn * td; u++) {
        int64_t i0 = u % tn * TILE, j0 = u / tn * TILE;
        k->transpose(y, yt, x, xt, n, d, i0, at_most(i0 + TILE, n), j0, at_most(j0 + TILE, d));
    }
}

void t3v_rows_transpose_bf16(t3v_bf16 *y, const t3v_bf16 *x, int64_t n, int64_t d)
{
    t3v_rows_transpose(y, T3V_BF16, x, T3V_BF16, n, d);
}

void t3v_rows_upsample2x_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                             int64_t T, int64_t H, int64_t W, int64_t C)
{
    T3V_ASSERT(typed(dxt) && typed(dyt));
    const t3v_rows_impl *k = pick();
#pragma omp parallel for schedule(static) if (worth(4 * T * H * W * C))
    for (int64_t r = 0; r < T * H; r++)
        k->up_bwd(at(dx, dxt, r * W * C), dxt, accumulate, cat(dy, dyt, 4 * r * W * C),
                  cat(dy, dyt, (4 * r + 2) * W * C), dyt, W, C);
}
