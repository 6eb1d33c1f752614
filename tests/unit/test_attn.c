/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: every kernel against the definition on random sites. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/attend.h"
#include "attn/plan.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "random_site.h"
#include "tensor/dtype.h"

typedef struct problem {
    t3v_site site, own; /* own: to free */
    t3v_attend_args a;
    float *q, *k, *v; /* f32 images of what is in a.q, a.k, a.v, dense [n][heads*dim] */
    float *dout;      /* dense, exact in both types */
    float *logw;
    void *raw[4]; /* q k v dout in type a.type, strided, guarded */
    int64_t dout_stride;
    double max_score;
} problem;

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

/* A strided, misaligned copy in `type`; *dense becomes what it holds. */
static void *store(float *dense, int64_t n, int64_t width, int64_t stride, t3v_dtype type)
{
    size_t size = t3v_dtype_size(type);
    char *raw = must(malloc((size_t)(n * stride + 64) * size));
    memset(raw, 0xff, (size_t)(n * stride + 64) * size); /* NaN between the rows */
    char *base = raw + size;                             /* one element past the allocation's alignment */
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) {
            if (type == T3V_F32) {
                ((float *)(void *)base)[i * stride + j] = dense[i * width + j];
            } else {
                t3v_bf16 h = t3v_f32_to_bf16(dense[i * width + j]);
                ((t3v_bf16 *)(void *)base)[i * stride + j] = h;
                dense[i * width + j] = t3v_bf16_to_f32(h);
            }
        }
    return raw;
}

static void *base_of(void *raw, t3v_dtype type) { return (char *)raw + t3v_dtype_size(type); }

static float *normal(int64_t n, uint64_t seed, uint64_t stream, float scale)
{
    float *x = must(malloc((size_t)n * sizeof *x));
    t3v_normal_fill(x, n, seed, stream, 0);
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
    return x;
}

/* Scores reach about `nats`. */
static problem make_problem(uint64_t seed, int64_t n_q, int64_t n_k, int heads, int dim, t3v_dtype type,
                            int terms, bool logw, float nats)
{
    problem p = {0};
    t3v_rng r = t3v_rng_make(seed, 99);
    int64_t width = heads * dim;
    if (terms) {
        random_site(&p.own, &r, n_q, terms);
        p.site = p.own;
    } else {
        p.site = *t3v_site_full();
    }
    p.q = normal(n_q * width, seed, 1, nats / 4), p.k = normal(n_k * width, seed, 2, 1),
    p.v = normal(n_k * width, seed, 3, 1);
    p.dout = normal(n_q * width, seed, 4, 1);
    for (int64_t i = 0; i < n_q * width; i++) p.dout[i] = t3v_bf16_to_f32(t3v_f32_to_bf16(p.dout[i]));
    int64_t pad[5];
    for (int i = 0; i < 5; i++) pad[i] = t3v_rng_below(&r, 3) * (1 + t3v_rng_below(&r, 9));
    p.a = (t3v_attend_args){.n_q = n_q,
                            .n_k = n_k,
                            .heads = heads,
                            .dim = dim,
                            .type = type,
                            .q_stride = width + pad[0],
                            .k_stride = width + pad[1],
                            .v_stride = width + pad[2],
                            .out_stride = width + pad[3],
                            .out_type = T3V_F32};
    p.dout_stride = width + pad[4];
    p.raw[0] = store(p.q, n_q, width, p.a.q_stride, type);
    p.raw[1] = store(p.k, n_k, width, p.a.k_stride, type);
    p.raw[2] = store(p.v, n_k, width, p.a.v_stride, type);
    p.raw[3] = store(p.dout, n_q, width, p.dout_stride, type);
    p.a.q = base_of(p.raw[0], type), p.a.k = base_of(p.raw[1], type), p.a.v = base_of(p.raw[2], type);
    if (logw) {
        p.logw = normal(n_k, seed, 5, 2);
        p.logw[n_k - 1] = 6.2f;
        if (n_k > 3) p.logw[1] = -INFINITY;
        p.a.key_log_weight = p.logw;
    }
    return p;
}

static void free_problem(problem *p)
{
    if (p->own.terms) t3v_site_free(&p->own);
    free(p->q), free(p->k), free(p->v), free(p->dout), free(p->logw);
    for (int i = 0; i < 4; i++) free(p->raw[i]);
}

/* Does slot-level query block list say that q meets k? Builds [n_q][n_k] for a term. */
static uint8_t *mask_of(const t3v_term *t, int64_t n_q, int64_t n_k)
{
    uint8_t *m = must(calloc((size_t)(n_q * n_k), 1));
    if (!t->slots) {
        memset(m, 1, (size_t)(n_q * n_k));
        return m;
    }
    for (int64_t b = 0; b < t->blocks; b++)
        for (int64_t i = t->block_first[b]; i < t->block_first[b + 1]; i++)
            for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++)
                for (int64_t j = t->ranges[r].first; j < t->ranges[r].last; j++)
                    m[(t->order ? t->order[i] : i) * n_k + (t->order ? t->order[j] : j)] = 1;
    return m;
}

typedef struct answer {
    double *out, *lse, *dq, *dk, *dv;    /* dense */
    double *dq_size, *dk_size, *dv_size; /* sums of |products|, for the tolerance */
    double *out_size;
} answer;

/* Dense and masked, in double: shares no code with the library. */
static answer solve(const problem *p, bool back)
{
    const t3v_attend_args *a = &p->a;
    int64_t width = a->heads * a->dim, nq = a->n_q, nk = a->n_k;
    int dim = a->dim;
    answer x = {0};
    x.out = must(calloc((size_t)(nq * width), sizeof(double))),
    x.out_size = must(calloc((size_t)(nq * width), sizeof(double)));
    x.lse = must(calloc((size_t)(p->site.terms * a->heads * nq), sizeof(double)));
    x.dq = must(calloc((size_t)(nq * width), sizeof(double))),
    x.dk = must(calloc((size_t)(nk * width), sizeof(double)));
    x.dv = must(calloc((size_t)(nk * width), sizeof(double)));
    x.dq_size = must(calloc((size_t)(nq * width), sizeof(double))),
    x.dk_size = must(calloc((size_t)(nk * width), sizeof(double)));
    x.dv_size = must(calloc((size_t)(nk * width), sizeof(double)));
    double *s = must(malloc((size_t)nk * sizeof *s)),
           scale = a->scale != 0 ? (double)a->scale : 1 / sqrt(dim);
    for (int t = 0; t < p->site.terms; t++) {
        uint8_t *mask = mask_of(&p->site.term[t], nq, nk);
        double w = (double)p->site.term[t].weight;
        for (int h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < nq; i++) {
                const float *q = p->q + i * width + h * dim, *go = p->dout + i * width + h * dim;
                double max = -INFINITY, sum = 0, mean = 0, mean_size = 0;
                for (int64_t j = 0; j < nk; j++) {
                    const float *k = p->k + j * width + h * dim;
                    s[j] = 0;
                    for (int d = 0; d < dim; d++) s[j] += (double)q[d] * (double)k[d];
                    s[j] = s[j] * scale + (p->logw ? (double)p->logw[j] : 0);
                    if (!mask[i * nk + j]) s[j] = -INFINITY;
                    else if (!(s[j] <= max)) max = s[j];
                }
                for (int64_t j = 0; j < nk; j++) sum += exp(s[j] - max);
                x.lse[(t * a->heads + h) * nq + i] = max + log(sum);
                for (int64_t j = 0; j < nk; j++) {
                    if (!mask[i * nk + j]) continue;
                    const float *v = p->v + j * width + h * dim;
                    double pr = exp(s[j] - max) / sum, dp = 0, dp_size = 0;
                    for (int d = 0; d < dim; d++) {
                        x.out[i * width + h * dim + d] += w * pr * (double)v[d];
                        x.out_size[i * width + h * dim + d] += w * pr * fabs((double)v[d]);
                        dp += (double)go[d] * (double)v[d] * w,
                            dp_size += fabs((double)go[d] * (double)v[d]) * w;
                    }
                    mean += pr * dp, mean_size += pr * dp_size;
                }
                for (int64_t j = 0; back && j < nk; j++) {
                    if (!mask[i * nk + j]) continue;
                    const float *k = p->k + j * width + h * dim, *v = p->v + j * width + h * dim;
                    double pr = exp(s[j] - max) / sum, dp = 0, dp_size = 0;
                    for (int d = 0; d < dim; d++)
                        dp += (double)go[d] * (double)v[d] * w,
                            dp_size += fabs((double)go[d] * (double)v[d]) * w;
                    double ds = pr * (dp - mean) * scale, size = pr * (dp_size + mean_size) * scale;
                    for (int d = 0; d < dim; d++) {
                        int64_t at = i * width + h * dim + d, to = j * width + h * dim + d;
                        x.dq[at] += ds * (double)k[d], x.dq_size[at] += size * fabs((double)k[d]);
                        x.dk[to] += ds * (double)q[d], x.dk_size[to] += size * fabs((double)q[d]);
                        x.dv[to] += pr * w * (double)go[d], x.dv_size[to] += pr * w * fabs((double)go[d]);
                    }
                }
            }
        free(mask);
    }
    free(s);
    return x;
}

static void free_answer(answer *x)
{
    free(x->out), free(x->out_size), free(x->lse), free(x->dq), free(x->dk), free(x->dv);
    free(x->dq_size), free(x->dk_size), free(x->dv_size);
}

enum { GUARD = 64 }; /* floats before and after an output; the gaps between rows are guarded too */
static const float guard_value = -12345.678f;

static float *guarded(int64_t n)
{
    float *x = must(malloc((size_t)(n + 2 * GUARD) * sizeof *x));
    for (int64_t i = 0; i < n + 2 * GUARD; i++) x[i] = guard_value;
    return x;
}

/* The worst |got - want| / (eps * (size + floor)); 1e30 for a NaN, a missing value or a broken guard. */
static double judge(const float *raw, int64_t n, int64_t width, int64_t stride, const double *want,
                    const double *size, double eps, double floor)
{
    const float *x = raw + GUARD;
    double worst = 0;
    for (int64_t i = 0; i < GUARD; i++)
        if (raw[i] != guard_value || x[n * stride + i] != guard_value) return 1e30;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < stride; j++) {
            float got = x[i * stride + j];
            if (j >= width) {
                if (got != guard_value) return 1e30;
                continue;
            }
            double e = fabs((double)got - want[i * width + j]) / (eps * (size[i * width + j] + floor));
            if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
        }
    return worst;
}

/* Root mean square of the error over that of the answer. */
static double nrms(const float *raw, int64_t n, int64_t width, int64_t stride, const double *want)
{
    double e = 0, s = 1e-30;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) {
            double w = want[i * width + j], d = (double)raw[GUARD + i * stride + j] - w;
            e += d * d, s += w * w;
        }
    return sqrt(e / s);
}

typedef t3v_status run_fn(const t3v_site *, const t3v_attend_args *);

/* Runs `fn` and returns how far it is from the answer, in tolerances; NaN never passes. */
static double check_forward(const problem *p, const answer *x, run_fn *fn)
{
    t3v_attend_args a = p->a;
    int64_t width = a.heads * a.dim, rows = p->site.terms * a.heads;
    float *out = guarded(a.n_q * a.out_stride), *lse = guarded(rows * a.n_q);
    a.out = out + GUARD, a.lse = lse + GUARD;
    a.scratch_bytes = t3v_attend_scratch(&p->site, &a);
    a.scratch = must(malloc(a.scratch_bytes));
    memset(a.scratch, 0xff, a.scratch_bytes);
    assert_int_equal(fn(&p->site, &a), T3V_OK);
    bool bf16 = a.type == T3V_BF16;
    /* P and the output are rounded to the type; scores carry an error of eps times their size. */
    double eps = bf16 ? 1.0 / 256 : 1.0 / (1 << 23), reach = 8 + 2 * p->max_score;
    double worst = judge(out, a.n_q, width, a.out_stride, x->out, x->out_size, eps * (bf16 ? 2 : reach),
                         1e-3);
    double *ones = must(malloc((size_t)(rows * a.n_q) * sizeof *ones));
    for (int64_t i = 0; i < rows * a.n_q; i++) ones[i] = 1 + fabs(x->lse[i]);
    double e = judge(lse, rows, a.n_q, a.n_q, x->lse, ones, bf16 ? 2.0 / 256 : eps * 8, 0);
    free(ones);
    if (e > worst) worst = e;
    e = nrms(out, a.n_q, width, a.out_stride, x->out) / (bf16 ? 4e-3 : eps * reach);
    if (!(e <= worst)) worst = e;
    free(out), free(lse), free(a.scratch);
    return worst;
}

static double check_backward(const problem *p, const answer *x, bool given_out, bool accumulate)
{
    t3v_attend_args a = p->a;
    int64_t width = a.heads * a.dim, rows = p->site.terms * a.heads;
    float *out = must(malloc((size_t)(a.n_q * a.out_stride) * sizeof *out)),
          *lse = must(malloc((size_t)(rows * a.n_q) * sizeof *lse));
    for (int64_t i = 0; i < a.n_q; i++)
        for (int64_t j = 0; j < width; j++) out[i * a.out_stride + j] = (float)x->out[i * width + j];
    for (int64_t i = 0; i < rows * a.n_q; i++) lse[i] = (float)x->lse[i];
    a.lse = lse;
    float *dq = guarded(a.n_q * (width + 3)), *dk = guarded(a.n_k * (width + 5)),
          *dv = guarded(a.n_k * (width + 1));
    if (accumulate) {
        for (int64_t j = 0; j < width; j++) {
            for (int64_t i = 0; i < a.n_q; i++) dq[GUARD + i * (width + 3) + j] = 1;
            for (int64_t i = 0; i < a.n_k; i++)
                dk[GUARD + i * (width + 5) + j] = 1, dv[GUARD + i * (width + 1) + j] = 1;
        }
    }
    t3v_attend_grad g = {.out = given_out ? out : NULL,
                         .dout = base_of(p->raw[3], a.type),
                         .dout_type = a.type,
                         .dout_stride = p->dout_stride,
                         .dq = dq + GUARD,
                         .dk = dk + GUARD,
                         .dv = dv + GUARD,
                         .dq_stride = width + 3,
                         .dk_stride = width + 5,
                         .dv_stride = width + 1,
                         .accumulate = accumulate};
    a.scratch_bytes = t3v_attend_backward_scratch(&p->site, &a, &g);
    a.scratch = must(malloc(a.scratch_bytes));
    memset(a.scratch, 0xff, a.scratch_bytes);
    assert_int_equal(t3v_attend_backward(&p->site, &a, &g), T3V_OK);
    if (accumulate) {
        for (int64_t j = 0; j < width; j++) {
            for (int64_t i = 0; i < a.n_q; i++) dq[GUARD + i * (width + 3) + j] -= 1;
            for (int64_t i = 0; i < a.n_k; i++)
                dk[GUARD + i * (width + 5) + j] -= 1, dv[GUARD + i * (width + 1) + j] -= 1;
        }
    }
    bool bf16 = a.type == T3V_BF16;
    double eps = bf16 ? 4.0 / 256 : (8 + p->max_score) * 2 / (1 << 23),
           floor = accumulate ? 1 : 1e-3; /* adding to 1 rounds at 1 */
    double worst = judge(dq, a.n_q, width, width + 3, x->dq, x->dq_size, eps, floor);
    double e = judge(dk, a.n_k, width, width + 5, x->dk, x->dk_size, eps, floor);
    if (e > worst) worst = e;
    e = judge(dv, a.n_k, width, width + 1, x->dv, x->dv_size, eps, floor);
    if (e > worst) worst = e;
    free(out), free(lse), free(dq), free(dk), free(dv), free(a.scratch);
    return worst;
}

static void one_case(uint64_t seed, int64_t n_q, int64_t n_k, int heads, int dim, t3v_dtype type, int terms,
                     bool logw, float nats)
{
    t3v_isa best = t3v_cpu();
    problem p = make_problem(seed, n_q, n_k, heads, dim, type, terms, logw, nats);
    p.max_score = (double)nats * 1.5 + (logw ? 6 : 0);
    answer x = solve(&p, true);
    /* The reference is slow and always the same code: every fourth case. */
    for (int isa = seed % 4 && best > T3V_ISA_REF ? 1 : 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        double f = check_forward(&p, &x, t3v_attend_run);
        double b = check_backward(&p, &x, seed % 2, seed % 3 == 0);
        if (f > 1 || b > 1)
            fail_msg("%s %s: seed %d, %d x %d, %d heads, dim %d, %d terms, log weights %d, %g nats: forward "
                     "%.3g, backward %.3g tolerances",
                     t3v_isa_name((t3v_isa)isa), t3v_dtype_name(type), (int)seed, (int)n_q, (int)n_k, heads,
                     dim, terms, logw, (double)nats, f, b);
    }
    t3v_cpu_mask(best);
    free_answer(&x);
    free_problem(&p);
}

/* With AddressSanitizer everything takes ten times as long: every seventh case. Dims, types and levels all still occur. */
#ifdef __SANITIZE_ADDRESS__
enum { CASE_STEP = 7 };
#else
enum { CASE_STEP = 1 };
#endif

static void random_shapes(void **state)
{
    (void)state;
    static const int dims[] = {16, 32, 48, 64, 80, 128, 24, 5, 256};
    static const int64_t sizes[] = {1, 2, 5, 6, 7, 11, 13, 16, 17, 31, 32, 33, 63, 64, 65, 97, 101, 130};
    t3v_rng r = t3v_rng_make(20, 1);
    for (uint64_t seed = 0; seed < 90; seed += CASE_STEP) {
        int dim = dims[seed % 9], heads = 1 + (int)t3v_rng_below(&r, 3);
        int64_t n_q = sizes[t3v_rng_below(&r, 18)], n_k = sizes[t3v_rng_below(&r, 18)];
        if (dim == 256) heads = 1;
        one_case(seed, n_q, n_k, heads, dim, seed & 4 ? T3V_BF16 : T3V_F32, 0, seed % 5 == 0, 1);
    }
}

static void larger_shapes(void **state)
{
    (void)state;
    for (int type = T3V_F32; type <= T3V_BF16; type++) {
        one_case(200 + (uint64_t)type, 211, 389, 1, 64, (t3v_dtype)type, 0, false, 1);
        if (CASE_STEP == 1) one_case(202 + (uint64_t)type, 193, 801, 1, 32, (t3v_dtype)type, 0, true, 2);
        one_case(204 + (uint64_t)type, 401, 9, 2, 64, (t3v_dtype)type, 0, true, 1);
    }
}

static void orders_and_windows(void **state)
{
    (void)state;
    t3v_rng r = t3v_rng_make(21, 1);
    for (uint64_t seed = 300; seed < 330; seed += CASE_STEP) {
        int64_t n = 1 + t3v_rng_below(&r, seed % 3 ? 150 : 450);
        one_case(seed, n, n, 1 + (int)(seed % 2), seed % 4 ? 32 : 64, seed & 1 ? T3V_BF16 : T3V_F32,
                 1 + (int)(seed % 3), seed % 7 == 0, 1);
    }
}

static void large_scores(void **state)
{
    (void)state;
    static const float nats[] = {20, 60, 100, 200};
    for (int i = 0; i < 4; i++)
        for (int type = T3V_F32; type <= T3V_BF16; type++)
            one_case(400 + (uint64_t)(2 * i + type), 67, 203, 1, 64, (t3v_dtype)type, 0, i & 1, nats[i]);
}

/* dq, dk, dv of the reference against differences of its own forward pass. */
static void reference_gradient_is_the_slope(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    t3v_cpu_mask(T3V_ISA_REF);
    problem p = make_problem(500, 9, 9, 2, 8, T3V_F32, 2, true, 1);
    answer x = solve(&p, true);
    assert_true(check_backward(&p, &x, false, false) < 1);
    int64_t width = 16;
    float *fields[] = {p.q, p.k, p.v};
    double *grads[] = {x.dq, x.dk, x.dv};
    for (int f = 0; f < 3; f++)
        for (int64_t i = 0; i < 9 * width; i += 5) {
            float keep = fields[f][i], h = 1.0f / 256;
            double loss[2] = {0, 0};
            for (int side = 0; side < 2; side++) {
                fields[f][i] = keep + (side ? h : -h);
                answer y = solve(&p, false);
                for (int64_t j = 0; j < 9 * width; j++) loss[side] += y.out[j] * (double)p.dout[j];
                free_answer(&y);
            }
            double step = (double)(keep + h) - (double)(keep - h);
            fields[f][i] = keep;
            double slope = (loss[1] - loss[0]) / step;
            if (!(fabs(slope - grads[f][i]) <= 1e-4 * (1 + fabs(slope))))
                fail_msg("field %d: %g, slope %g", f, grads[f][i], slope);
        }
    free_answer(&x);
    free_problem(&p);
    t3v_cpu_mask(best);
}

/* out over q, bf16 out, no lse. */
static void output_may_replace_q(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    for (int isa = 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        for (int terms = 0; terms < 3; terms++) {
            problem p = make_problem(600, 203, 203, 2, 64, T3V_BF16, terms, false, 1);
            answer x = solve(&p, false);
            t3v_attend_args a = p.a;
            a.out = (void *)a.q, a.out_type = T3V_BF16, a.out_stride = a.q_stride;
            a.scratch_bytes = t3v_attend_scratch(&p.site, &a);
            a.scratch = must(malloc(a.scratch_bytes));
            assert_int_equal(t3v_attend_run(&p.site, &a), T3V_OK);
            for (int64_t i = 0; i < a.n_q; i++)
                for (int64_t j = 0; j < 128; j++) {
                    double got = (double)t3v_bf16_to_f32(((const t3v_bf16 *)a.q)[i * a.q_stride + j]);
                    double e = fabs(got - x.out[i * 128 + j]);
                    assert_true(e <= 3.0 / 256 * (x.out_size[i * 128 + j] + 1e-3));
                }
            free(a.scratch);
            free_answer(&x);
            free_problem(&p);
        }
    }
    t3v_cpu_mask(best);
}

/* NaN in q spoils its row, NaN in k all rows that meet it, NaN in v its column; -inf scores are nothing. */
static void nan_and_infinity(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    for (int isa = 0; isa <= (int)best; isa++)
        for (int type = T3V_F32; type <= T3V_BF16; type++)
            for (int kind = 0; kind < 4; kind++) {
                t3v_cpu_mask((t3v_isa)isa);
                problem p = make_problem(700, 61, 75, 1, 32, (t3v_dtype)type, 0, kind == 3, 1);
                t3v_attend_args a = p.a;
                float bad = kind == 2 ? INFINITY : NAN;
                int64_t row = 37, column = 3;
                if (kind == 3) {
                    for (int64_t j = 0; j < 75; j++) p.logw[j] = j == 70 ? 0 : -INFINITY;
                } else {
                    void *base = (void *)(kind == 1 ? a.v : a.q);
                    int64_t at = row * (kind == 1 ? a.v_stride : a.q_stride) + column;
                    if (type == T3V_F32) ((float *)base)[at] = bad;
                    else ((t3v_bf16 *)base)[at] = t3v_f32_to_bf16(bad);
                }
                float *out = must(malloc((size_t)(a.n_q * a.out_stride) * sizeof *out)),
                      *lse = must(malloc(61 * sizeof *lse));
                a.out = out, a.lse = lse;
                a.scratch_bytes = t3v_attend_scratch(&p.site, &a);
                a.scratch = must(malloc(a.scratch_bytes));
                assert_int_equal(t3v_attend_run(&p.site, &a), T3V_OK);
                for (int64_t i = 0; i < 61; i++)
                    for (int64_t d = 0; d < 32; d++) {
                        float y = out[i * a.out_stride + d];
                        bool expect = kind == 1 ? d == column : kind == 3 ? false : i == row;
                        if (isnan(y) != expect)
                            fail_msg("isa %d type %d kind %d: row %d column %d is %g", isa, type, kind,
                                     (int)i, (int)d, (double)y);
                        if (kind == 3)
                            assert_true(fabsf(y - p.v[70 * 32 + d]) <=
                                        0.01f * fabsf(p.v[70 * 32 + d]) + 1e-6f);
                    }
                free(out), free(lse), free(a.scratch);
                free_problem(&p);
            }
    /* NaN in one key. */
    for (int isa = 0; isa <= (int)best; isa++)
        for (int type = T3V_F32; type <= T3V_BF16; type++) {
            t3v_cpu_mask((t3v_isa)isa);
            problem p = make_problem(701, 30, 75, 1, 32, (t3v_dtype)type, 0, false, 1);
            t3v_attend_args a = p.a;
            if (type == T3V_F32) ((float *)a.k)[66 * a.k_stride] = NAN;
            else ((t3v_bf16 *)a.k)[66 * a.k_stride] = 0x7fc0;
            float *out = must(malloc((size_t)(a.n_q * a.out_stride) * sizeof *out));
            a.out = out;
            a.scratch_bytes = t3v_attend_scratch(&p.site, &a);
            a.scratch = must(malloc(a.scratch_bytes));
            assert_int_equal(t3v_attend_run(&p.site, &a), T3V_OK);
            for (int64_t i = 0; i < 30; i++)
                for (int64_t d = 0; d < 32; d++) assert_true(isnan(out[i * a.out_stride + d]));
            free(out), free(a.scratch);
            free_problem(&p);
        }
    t3v_cpu_mask(best);
}

/* One thread, all threads, and inside another parallel region: the same bytes. */
static void threads_change_nothing(void **state)
{
    (void)state;
    for (int terms = 0; terms < 3; terms++)
        for (int type = T3V_F32; type <= T3V_BF16; type++) {
            problem p = make_problem(800, 300, 300, 2, 64, (t3v_dtype)type, terms, false, 1);
            float *out[3], *grad[3];
            size_t n = (size_t)(300 * p.a.out_stride), m = 300 * 128;
            float *lse = must(malloc(3 * 2 * 300 * sizeof *lse));
            for (int i = 0; i < 3; i++) {
                t3v_threads_set(i == 0 ? 1 : 3);
                out[i] = must(calloc(n, sizeof *out[i]));
                grad[i] = must(calloc(3 * m, sizeof *grad[i]));
                t3v_attend_args a = p.a;
                t3v_attend_grad g = {.dout = base_of(p.raw[3], a.type),
                                     .dout_type = a.type,
                                     .dout_stride = p.dout_stride,
                                     .dq = grad[i],
                                     .dk = grad[i] + m,
                                     .dv = grad[i] + 2 * m,
                                     .dq_stride = 128,
                                     .dk_stride = 128,
                                     .dv_stride = 128};
                a.out = out[i], a.lse = lse;
                size_t need = t3v_attend_scratch(&p.site, &a),
                       need2 = t3v_attend_backward_scratch(&p.site, &a, &g);
                a.scratch_bytes = need > need2 ? need : need2;
                a.scratch = must(malloc(a.scratch_bytes));
                if (i < 2) {
                    assert_int_equal(t3v_attend_run(&p.site, &a), T3V_OK);
                    assert_int_equal(t3v_attend_backward(&p.site, &a, &g), T3V_OK);
                } else {
                    int bad = 0;
#pragma omp parallel for num_threads(2)
                    for (int k = 0; k < 2; k++)
                        if (k == 1 && (t3v_attend_run(&p.site, &a) || t3v_attend_backward(&p.site, &a, &g)))
                            bad = 1;
                    assert_int_equal(bad, 0);
                }
                free(a.scratch);
            }
            for (int i = 1; i < 3; i++) {
                assert_memory_equal(out[0], out[i], n * sizeof(float));
                assert_memory_equal(grad[0], grad[i], 3 * m * sizeof(float));
            }
            for (int i = 0; i < 3; i++) free(out[i]), free(grad[i]);
            free(lse);
            free_problem(&p);
        }
    t3v_threads_set(0);
}

static void arguments_are_checked(void **state)
{
    (void)state;
    problem p = make_problem(900, 20, 20, 1, 16, T3V_F32, 1, false, 1);
    t3v_attend_args a = p.a;
    a.n_k = 19;
    assert_int_equal(t3v_attend_run(&p.site, &a), T3V_E_SHAPE);
    a.n_k = 20, a.dim = 257;
    assert_int_equal(t3v_attend_run(&p.site, &a), T3V_E_SHAPE);
    a.dim = 16, a.type = T3V_F16;
    assert_int_equal(t3v_attend_run(&p.site, &a), T3V_E_DTYPE);
    a.type = T3V_F32, a.scratch_bytes = 0;
    assert_int_equal(t3v_attend_run(&p.site, &a), T3V_E_ARG);
    free_problem(&p);
}

/* ---- the checker itself ---- */

static t3v_status forgets_the_tail(const t3v_site *site, const t3v_attend_args *a)
{
    t3v_attend_args b = *a;
    b.n_k = a->n_k / 16 * 16;
    return t3v_attend_run(site, &b);
}

static t3v_status writes_too_far(const t3v_site *site, const t3v_attend_args *a)
{
    t3v_status st = t3v_attend_run(site, a);
    ((float *)a->out)[(a->n_q - 1) * a->out_stride + a->heads * a->dim] = 0;
    return st;
}

static t3v_status skips_a_row(const t3v_site *site, const t3v_attend_args *a)
{
    t3v_attend_args b = *a;
    b.n_q--;
    return t3v_attend_run(site, &b);
}

static void broken_kernels_are_caught(void **state)
{
    (void)state;
    for (int type = T3V_F32; type <= T3V_BF16; type++) {
        problem p = make_problem(1000, 50, 83, 1, 32, (t3v_dtype)type, 0, false, 1);
        answer x = solve(&p, false);
        p.max_score = 1.5;
        assert_true(check_forward(&p, &x, t3v_attend_run) <= 1);
        assert_true(check_forward(&p, &x, forgets_the_tail) > 1);
        assert_true(check_forward(&p, &x, writes_too_far) > 1);
        assert_true(check_forward(&p, &x, skips_a_row) > 1);
        free_answer(&x);
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(larger_shapes),
        cmocka_unit_test(orders_and_windows),
        cmocka_unit_test(large_scores),
        cmocka_unit_test(reference_gradient_is_the_slope),
        cmocka_unit_test(output_may_replace_q),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(broken_kernels_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
