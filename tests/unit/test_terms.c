/* SPDX-License-Identifier: Apache-2.0 */
/* attn: linear terms, joint sums, pooled keys, log-weights and epilogues against dense sums in double, on every CPU level. */
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
#include "attn/pattern.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "tensor/dtype.h"

enum { Q, K, V, DOUT, INPUTS, PARAMS = T3V_SITE_PARAMS_MAX };

/* A site with its inputs, in double and in the type that the library gets. */
typedef struct problem {
    const t3v_site *site;
    int64_t n;
    int heads, dim, params;
    t3v_dtype type;
    double *x[INPUTS]; /* [n][heads][dim] */
    void *raw[INPUTS];
    float *logw; /* [n] or NULL */
    t3v_site_param info[PARAMS];
    double *p[PARAMS];
    float *fp[PARAMS];
} problem;

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static int64_t numel(const t3v_site_param *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->ndim; i++) n *= p->shape[i];
    return n;
}

static problem make_problem(const t3v_site *site, int64_t n, int heads, int dim, t3v_dtype type, bool logw,
                            uint64_t seed)
{
    problem p = {.site = site, .n = n, .heads = heads, .dim = dim, .type = type};
    int64_t count = n * heads * dim;
    float *f = must(malloc((size_t)count * sizeof *f));
    for (int i = 0; i < INPUTS; i++) {
        p.x[i] = must(malloc((size_t)count * sizeof(double)));
        p.raw[i] = must(malloc((size_t)count * sizeof(float)));
        t3v_normal_fill(f, count, seed, (uint64_t)i, 0);
        for (int64_t j = 0; j < count; j++) {
            if (type == T3V_BF16)
                ((t3v_bf16 *)p.raw[i])[j] = t3v_f32_to_bf16(f[j]),
                           f[j] = t3v_bf16_to_f32(((t3v_bf16 *)p.raw[i])[j]);
            else ((float *)p.raw[i])[j] = f[j];
            p.x[i][j] = (double)f[j];
        }
    }
    free(f);
    if (logw) {
        p.logw = must(malloc((size_t)n * sizeof *p.logw));
        t3v_normal_fill(p.logw, n, seed, 50, 0);
    }
    p.params = t3v_site_params(site, heads, dim, p.info);
    for (int i = 0; i < p.params; i++) {
        int64_t m = numel(&p.info[i]);
        p.fp[i] = must(malloc((size_t)m * sizeof(float)));
        p.p[i] = must(malloc((size_t)m * sizeof(double)));
        t3v_normal_fill(p.fp[i], m, seed, 100 + (uint64_t)i, 0);
        double s = p.info[i].spread > 0 ? p.info[i].spread : 0.1;
        for (int64_t j = 0; j < m; j++) p.fp[i][j] *= (float)s, p.p[i][j] = (double)p.fp[i][j];
    }
    return p;
}

static void free_problem(problem *p)
{
    for (int i = 0; i < INPUTS; i++) free(p->x[i]), free(p->raw[i]);
    for (int i = 0; i < p->params; i++) free(p->p[i]), free(p->fp[i]);
    free(p->logw);
}

/* ---- the definition, in double: shares no code with the library -------------------------------------- */

/* phi of one row: features [degree * dim]. */
static void phi_of(const problem *p, const t3v_phi *phi, int map, int head, const double *x, double *f)
{
    double a[2048], b[2048];
    int dim = p->dim, F = phi->degree * dim, in = dim;
    assert_true(F <= 2048);
    for (int j = 0; j < F; j++) a[j] = x[j % dim];
    for (int l = 0; l < phi->layers; l++) {
        const double *w = p->p[2 * (map * phi->layers + l)] + (int64_t)head * F * in,
                     *bias = p->p[2 * (map * phi->layers + l) + 1] + head * F;
        for (int j = 0; j < F; j++) {
            b[j] = bias[j];
            for (int i = 0; i < in; i++) b[j] += w[j * in + i] * a[i];
        }
        for (int j = 0; j < F; j++) a[j] = l + 1 < phi->layers ? b[j] / (1 + exp(-b[j])) : b[j];
        in = F;
    }
    for (int j = 0; j < F; j++) {
        double u = a[j];
        if (phi->last == T3V_PHI_SOFTPLUS) u = log1p(exp(u));
        else if (phi->last == T3V_PHI_RELU) u = (u > 0 ? u : 0) + 1e-6;
        else if (phi->last == T3V_PHI_ELU) u = u > 0 ? 1 + u : exp(u);
        f[j] = pow(u, 1 + j / dim);
    }
}

/* [n][keys]: whether query token q meets key number k (token, or pooled key) of a term. */
static uint8_t *mask_of(const t3v_term *t, int64_t n, int64_t keys)
{
    uint8_t *m = must(calloc((size_t)(n * keys), 1));
    for (int64_t b = 0; b < t->blocks; b++)
        for (int64_t i = t->block_first[b]; i < t->block_first[b + 1]; i++)
            for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++)
                for (int64_t j = t->ranges[r].first; j < t->ranges[r].last; j++)
                    m[(t->order ? t->order[i] : i) * keys + (t->order && t->pool <= 1 ? t->order[j] : j)] = 1;
    return m;
}

/* out [n][heads][dim] and what each term says of its rows, lse [terms][heads][n]. */
static void define(const problem *p, double *out, double *lse)
{
    const t3v_site *s = p->site;
    int64_t n = p->n, width = p->heads * p->dim;
    int dim = p->dim;
    double *weight[T3V_TERMS_MAX], *key = must(malloc((size_t)(s->terms * n * dim) * sizeof *key));
    double *value = must(malloc((size_t)(s->terms * n * dim) * sizeof *value)),
           *num = must(malloc((size_t)dim * sizeof *num));
    for (int h = 0; h < p->heads; h++) {
        const double *x[3];
        for (int i = 0; i < 3; i++) x[i] = p->x[i] + h * dim;
        for (int t = 0; t < s->terms;
             t++) { /* weight[t] [n][keys]: scores, or phi.phi; NaN: they do not meet */
            const t3v_term *m = &s->term[t];
            int64_t pool = m->pool > 1 ? m->pool : 1, keys = (n - 1) / pool + 1, F = m->phi.degree * dim;
            double *lw = must(calloc((size_t)keys, sizeof *lw)),
                   *fq = must(malloc((size_t)(F + 1) * sizeof *fq));
            double *fk = must(malloc((size_t)(keys * F + 1) * sizeof *fk));
            uint8_t *mask = mask_of(m, n, keys);
            weight[t] = must(malloc((size_t)(n * keys) * sizeof(double)));
            for (int64_t j = 0; j < keys; j++) {
                int64_t last = (j + 1) * pool < n ? (j + 1) * pool : n, count = last - j * pool;
                double *k = key + (t * n + j) * dim, *v = value + (t * n + j) * dim, sum = 0;
                for (int d = 0; d < dim; d++) k[d] = v[d] = 0;
                for (int64_t i = j * pool; i < last; i++) {
                    int64_t token = pool > 1 && m->order ? m->order[i] : i;
                    for (int d = 0; d < dim; d++)
                        k[d] += x[K][token * width + d] / (double)count,
                            v[d] += x[V][token * width + d] / (double)count;
                    sum += p->logw ? exp((double)p->logw[token]) : 1;
                }
                lw[j] = log(sum) + (m->log_weight ? (double)m->log_weight[j] : 0);
                if (m->kind == T3V_TERM_LINEAR) phi_of(p, &m->phi, 1, h, k, fk + j * F);
            }
            for (int64_t i = 0; i < n; i++) {
                const double *q = x[Q] + i * width;
                if (m->kind == T3V_TERM_LINEAR) phi_of(p, &m->phi, 0, h, q, fq);
                for (int64_t j = 0; j < keys; j++) {
                    double sum = 0;
                    if (m->kind == T3V_TERM_LINEAR) {
                        for (int64_t d = 0; d < F; d++) sum += fq[d] * fk[j * F + d];
                    } else {
                        for (int d = 0; d < dim; d++) sum += q[d] * key[(t * n + j) * dim + d];
                        sum = sum / sqrt((double)dim) + lw[j];
                    }
                    weight[t][i * keys + j] = mask[i * keys + j] ? sum : NAN;
                }
            }
            free(lw), free(fq), free(fk), free(mask);
        }
        for (int64_t i = 0; i < n; i++) {
            double *y = out + i * width + h * dim, c = -INFINITY, den = 0;
            for (int t = 0; t < s->terms; t++) {
                int64_t keys = s->term[t].pool > 1 ? (n - 1) / s->term[t].pool + 1 : n;
                for (int64_t j = 0; j < keys && s->term[t].kind == T3V_TERM_SOFTMAX; j++)
                    if (weight[t][i * keys + j] > c) c = weight[t][i * keys + j];
            }
            if (!s->row_max) c = 0; /* the scores of these tests are small */
            for (int d = 0; d < dim; d++) y[d] = num[d] = 0;
            for (int t = 0; t < s->terms; t++) {
                int64_t keys = s->term[t].pool > 1 ? (n - 1) / s->term[t].pool + 1 : n;
                double own = 0;
                if (s->combine == T3V_COMBINE_MEAN)
                    for (int d = 0; d < dim; d++) num[d] = 0;
                for (int64_t j = 0; j < keys; j++) {
                    double w = weight[t][i * keys + j];
                    if (isnan(w)) continue;
                    if (s->term[t].kind == T3V_TERM_SOFTMAX) w = exp(w - c);
                    own += w;
                    for (int d = 0; d < dim; d++) num[d] += w * value[(t * n + j) * dim + d];
                }
                den += own;
                lse[(t * p->heads + h) * n + i] = s->term[t].kind == T3V_TERM_SOFTMAX ? log(own) + c : own;
                if (s->combine == T3V_COMBINE_MEAN)
                    for (int d = 0; d < dim; d++) y[d] += (double)s->term[t].weight * num[d] / own;
            }
            if (s->combine == T3V_COMBINE_JOINT)
                for (int d = 0; d < dim; d++) y[d] = num[d] / den;
        }
        for (int t = 0; t < s->terms; t++) free(weight[t]);
    }
    free(key), free(value), free(num);
}

static double loss_of(const problem *p, double *out, double *lse)
{
    double sum = 0;
    define(p, out, lse);
    for (int64_t i = 0; i < p->n * p->heads * p->dim; i++) sum += out[i] * p->x[DOUT][i];
    return sum;
}

/* ---- the library ------------------------------------------------------------------------------------ */

typedef struct answer {
    float *out, *lse, *grad[3], *dp[PARAMS];
} answer;

static t3v_attend_args args_of(const problem *p)
{
    int64_t width = p->heads * p->dim;
    return (t3v_attend_args){.n_q = p->n,
                             .n_k = p->n,
                             .heads = p->heads,
                             .dim = p->dim,
                             .q = p->raw[Q],
                             .k = p->raw[K],
                             .v = p->raw[V],
                             .type = p->type,
                             .q_stride = width,
                             .k_stride = width,
                             .v_stride = width,
                             .out_type = T3V_F32,
                             .out_stride = width,
                             .key_log_weight = p->logw};
}

static void run(t3v_attend_args *a, const t3v_site *site)
{
    a->scratch_bytes = t3v_attend_scratch(site, a);
    a->scratch = must(malloc(a->scratch_bytes));
    memset(a->scratch, 0xff, a->scratch_bytes);
    if (t3v_attend_run(site, a)) fail_msg("%s", t3v_error_text());
    free(a->scratch);
}

static answer solve(const problem *p, bool back)
{
    answer x = {0};
    int64_t count = p->n * p->heads * p->dim;
    t3v_attend_args a = args_of(p);
    a.params = (const float *const *)p->fp;
    a.out = x.out = must(malloc((size_t)count * sizeof(float)));
    a.lse = x.lse = must(malloc((size_t)(p->site->terms * p->heads * p->n) * sizeof(float)));
    run(&a, p->site);
    if (!back) return x;
    for (int i = 0; i < 3; i++) x.grad[i] = must(malloc((size_t)count * sizeof(float)));
    for (int i = 0; i < p->params; i++) x.dp[i] = must(calloc((size_t)numel(&p->info[i]), sizeof(float)));
    t3v_attend_grad g = {.out = x.out,
                         .dout = p->raw[DOUT],
                         .dout_type = p->type,
                         .dout_stride = a.q_stride,
                         .dq = x.grad[0],
                         .dk = x.grad[1],
                         .dv = x.grad[2],
                         .dq_stride = a.q_stride,
                         .dk_stride = a.q_stride,
                         .dv_stride = a.q_stride,
                         .dparams = x.dp};
    a.scratch_bytes = t3v_attend_backward_scratch(p->site, &a, &g);
    a.scratch = must(malloc(a.scratch_bytes));
    memset(a.scratch, 0xff, a.scratch_bytes);
    if (t3v_attend_backward(p->site, &a, &g)) fail_msg("%s", t3v_error_text());
    free(a.scratch);
    return x;
}

static void free_answer(answer *x)
{
    free(x->out), free(x->lse);
    for (int i = 0; i < 3; i++) free(x->grad[i]);
    for (int i = 0; i < PARAMS; i++) free(x->dp[i]);
}

/* Relative L2 distance; NaN stays. */
static double distance(const float *got, const double *want, int64_t n)
{
    double e = 0, s = 1e-30;
    for (int64_t i = 0; i < n; i++)
        e += ((double)got[i] - want[i]) * ((double)got[i] - want[i]), s += want[i] * want[i];
    return sqrt(e / s);
}

/* The definition's slope along every `step`-th number of `at`; returns how many. */
static int64_t slopes_of(problem *p, double *at, int64_t n, int64_t step, double *slope)
{
    const double h = 1e-4;
    double *out = must(malloc((size_t)(p->n * p->heads * p->dim) * sizeof *out));
    double *lse = must(malloc((size_t)(p->site->terms * p->heads * p->n) * sizeof *lse));
    int64_t m = 0;
    for (int64_t i = step / 2; i < n; i += step, m++) {
        double keep = at[i];
        at[i] = keep + h, slope[m] = loss_of(p, out, lse);
        at[i] = keep - h, slope[m] = (slope[m] - loss_of(p, out, lse)) / (2 * h);
        at[i] = keep;
    }
    free(out), free(lse);
    return m;
}

/* floor: a size below which an error counts as one of it: gradients that are small differences of large sums. */
static double slope_distance(const double *slope, int64_t m, const float *grad, int64_t step, double floor)
{
    double e = 0, s = 1e-30 + floor * floor * (double)m;
    for (int64_t i = 0; i < m; i++) {
        double d = (double)grad[step / 2 + i * step] - slope[i];
        e += d * d, s += slope[i] * slope[i];
    }
    return sqrt(e / s);
}

/* ---- sites ------------------------------------------------------------------------------------------ */

enum { JOINT = 1, ROW_MAX = 2, LINEAR = 4, SOFTMAX = 8, POOLED = 16, LOGW = 32 };

/* Windows over a shuffled order: of each block its own slots, or some others too. */
static void random_blocks(t3v_builder *b, t3v_rng *r, int64_t n, int64_t keys, int64_t most)
{
    for (int64_t at = 0; at < n;) {
        int64_t rows = 1 + t3v_rng_below(r, n - at < most ? n - at : most), k = t3v_rng_below(r, keys);
        t3v_build_block(b, rows);
        do {
            int64_t end = k + 1 + t3v_rng_below(r, keys - k);
            t3v_build_keys(b, k, end);
            k = end + 1 + t3v_rng_below(r, 9);
        } while (k < keys && t3v_rng_below(r, 3));
        at += rows;
    }
}

static t3v_site random_site(uint64_t seed, int64_t n, int what, t3v_phi phi)
{
    t3v_rng r = t3v_rng_make(seed, 7);
    t3v_builder *b;
    t3v_site s;
    assert_int_equal(t3v_builder_make(&b, n, 1 << 30), T3V_OK);
    static const int kinds[] = {SOFTMAX, LINEAR, POOLED};
    int terms = 0;
    for (int i = 0; i < 3; i++) terms += (what & kinds[i]) != 0;
    for (int i = 0; i < 3; i++) {
        if (!(what & kinds[i])) continue;
        int32_t *order = t3v_build_term(b, 1 / (float)terms);
        for (int64_t j = n - 1; j > 0; j--) {
            int64_t o = t3v_rng_below(&r, j + 1);
            int32_t x = order[j];
            order[j] = order[o], order[o] = x;
        }
        int64_t keys = n, pool = kinds[i] == POOLED ? 2 + t3v_rng_below(&r, 4) : 1;
        if (kinds[i] == POOLED) t3v_build_pool(b, (int)pool), keys = (n - 1) / pool + 1;
        if (kinds[i] == LINEAR) t3v_build_linear(b, phi);
        else if (what & LOGW) t3v_normal_fill(t3v_build_log_weights(b), keys, seed, 9, 0);
        random_blocks(b, &r, n, keys, kinds[i] == LINEAR ? n : 40);
    }
    if (what & JOINT) t3v_build_joint(b, what & ROW_MAX);
    if (t3v_builder_finish(b, &s)) fail_msg("%s", t3v_error_text());
    t3v_builder_free(b);
    assert_int_equal(s.terms, terms);
    return s;
}

static void one_case(uint64_t seed, int64_t n, int heads, int dim, t3v_dtype type, int what, bool logw,
                     t3v_phi phi, bool back)
{
    t3v_isa best = t3v_cpu();
    t3v_site s = random_site(seed, n, what, phi);
    problem p = make_problem(&s, n, heads, dim, type, logw, seed);
    int64_t count = n * heads * dim, rows = s.terms * heads * n;
    double *out = must(malloc((size_t)count * sizeof *out)), *lse = must(malloc((size_t)rows * sizeof *lse));
    double *slope[3 + PARAMS] = {NULL};
    int64_t step[3 + PARAMS], slopes[3 + PARAMS];
    define(&p, out, lse);
    for (int i = 0; back && i < 3 + p.params; i++) {
        int64_t m = i < 3 ? count : numel(&p.info[i - 3]);
        step[i] = 1 + m / (i < 3 ? 17 : 7);
        slope[i] = must(malloc((size_t)m * sizeof(double)));
        slopes[i] = slopes_of(&p, i < 3 ? p.x[i] : p.p[i - 3], m, step[i], slope[i]);
    }
    /* bf16: products of bf16 numbers, probabilities and pooled keys rounded to 8 bits. */
    double eps = type == T3V_BF16 ? 6e-3 : 3e-6, slope_eps = type == T3V_BF16 ? 2e-2 : 3e-5;
    for (int isa = 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        answer x = solve(&p, back);
        double d = distance(x.out, out, count), e = distance(x.lse, lse, rows);
        if (!(d <= eps) || !(e <= eps))
            fail_msg("%s %s, seed %d, what %d: output %.2g, lse %.2g, limit %.2g", t3v_isa_name((t3v_isa)isa),
                     t3v_dtype_name(type), (int)seed, what, d, e, eps);
        for (int i = 0; back && i < 3 + p.params; i++) {
            d = slope_distance(slope[i], slopes[i], i < 3 ? x.grad[i] : x.dp[i - 3], step[i],
                               type == T3V_BF16 ? 0.3 : 1e-3);
            if (!(d <= slope_eps))
                fail_msg("%s %s, seed %d, what %d: gradient of %s %.2g, limit %.2g",
                         t3v_isa_name((t3v_isa)isa), t3v_dtype_name(type), (int)seed, what,
                         i < 3 ? (const char *[]){"q", "k", "v"}[i] : p.info[i - 3].name, d, slope_eps);
        }
        free_answer(&x);
    }
    t3v_cpu_mask(best);
    for (int i = 0; i < 3 + PARAMS; i++) free(slope[i]);
    free(out), free(lse);
    free_problem(&p);
    t3v_site_free(&s);
}

static const int forms[] = {
    SOFTMAX | POOLED,
    SOFTMAX | POOLED | LOGW,
    JOINT | SOFTMAX | POOLED,
    JOINT | SOFTMAX | POOLED | LOGW,
    JOINT | LINEAR,
    JOINT | LINEAR | SOFTMAX,
    JOINT | LINEAR | SOFTMAX | ROW_MAX,
    JOINT | LINEAR | SOFTMAX | POOLED,
    JOINT | LINEAR | SOFTMAX | POOLED | ROW_MAX | LOGW,
    JOINT | LINEAR | POOLED | ROW_MAX,
};
enum { FORMS = sizeof forms / sizeof *forms };

/* Feature maps of every depth, degree and last non-linearity; `none` is kept from denominators near 0 by an even degree. */
static t3v_phi phi_number(int i)
{
    t3v_phi phi = {i % 4, 1 + i % 3, (t3v_phi_last)(i % 4)};
    if (phi.last == T3V_PHI_NONE) phi = (t3v_phi){1, 1, T3V_PHI_SOFTPLUS};
    return phi;
}

static void forward_is_the_definition(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 7, 31, 64, 65, 130, 150};
    static const int dims[] = {16, 32, 8, 24};
    for (int i = 0; i < 2 * FORMS; i++)
        one_case((uint64_t)i, sizes[i % 8], 1 + i % 2, dims[i / 2 % 4], i & 1 ? T3V_BF16 : T3V_F32,
                 forms[i % FORMS], i % 3 == 0 && !(forms[i % FORMS] & LINEAR), phi_number(i), false);
}

static void gradients_are_the_slopes(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FORMS; i++)
        one_case(100 + (uint64_t)i, 9 + i % 5, i % 2 + 1, i % 3 ? 16 : 6, i < FORMS ? T3V_F32 : T3V_BF16,
                 forms[i % FORMS], i % 2 && !(forms[i % FORMS] & LINEAR), phi_number(i + 1), true);
}

/* Softmaxes over the two halves of the keys, joined, are one softmax, at scores of hundreds of nats too. */
static void joint_halves_are_the_whole(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    for (int isa = 0; isa <= (int)best; isa++)
        for (int big = 0; big < 2; big++) {
            t3v_cpu_mask((t3v_isa)isa);
            t3v_builder *b;
            t3v_site s;
            assert_int_equal(t3v_builder_make(&b, 70, 1 << 30), T3V_OK);
            for (int half = 0; half < 2; half++) {
                t3v_build_term(b, 1);
                t3v_build_block(b, 70);
                t3v_build_keys(b, half ? 33 : 0, half ? 70 : 33);
            }
            t3v_build_joint(b, false);
            assert_int_equal(t3v_builder_finish(b, &s), T3V_OK);
            t3v_builder_free(b);
            problem p = make_problem(&s, 70, 2, 16, T3V_F32, false, 5);
            for (int64_t i = 0; big && i < 70 * 32; i++) ((float *)p.raw[Q])[i] *= 100;
            answer joint = solve(&p, true);
            problem whole = p;
            whole.site = t3v_site_full();
            answer full = solve(&whole, true);
            const float *a[] = {joint.out, joint.grad[0], joint.grad[1], joint.grad[2]};
            const float *c[] = {full.out, full.grad[0], full.grad[1], full.grad[2]};
            for (int f = 0; f < 4; f++) {
                double top = 0, worst = 0;
                for (int i = 0; i < 70 * 32; i++) {
                    double d = fabs((double)a[f][i] - (double)c[f][i]);
                    if (!(d <= worst)) worst = d;
                    if (fabs((double)c[f][i]) > top) top = fabs((double)c[f][i]);
                }
                if (!(worst <= (big ? 2e-4 : 2e-6) * top))
                    fail_msg("isa %d, big %d, field %d: %g of %g", isa, big, f, worst, top);
            }
            free_answer(&joint), free_answer(&full);
            free_problem(&p);
            t3v_site_free(&s);
        }
    t3v_cpu_mask(best);
}

/* Keys equal in groups: one pooled key with ln n, or the n keys. */
static void pooled_is_repeated(void **state)
{
    (void)state;
    enum { N = 67, POOL = 4, D = 32 };
    t3v_isa best = t3v_cpu();
    for (int isa = 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        t3v_builder *b;
        t3v_site s;
        assert_int_equal(t3v_builder_make(&b, N, 1 << 30), T3V_OK);
        t3v_build_term(b, 1);
        t3v_build_pool(b, POOL);
        t3v_build_block(b, N);
        t3v_build_keys(b, 0, (N + POOL - 1) / POOL);
        assert_int_equal(t3v_builder_finish(b, &s), T3V_OK);
        t3v_builder_free(b);
        problem p = make_problem(&s, N, 1, D, T3V_F32, false, 6);
        for (int f = K; f <= V; f++)
            for (int i = 0; i < N; i++)
                memcpy((float *)p.raw[f] + i * D, (float *)p.raw[f] + i / POOL * POOL * D, D * sizeof(float));
        answer pooled = solve(&p, false);
        problem each = p;
        each.site = t3v_site_full();
        answer full = solve(&each, false);
        for (int i = 0; i < N * D; i++)
            if (!(fabsf(pooled.out[i] - full.out[i]) <= 3e-6f))
                fail_msg("isa %d: %g and %g", isa, (double)pooled.out[i], (double)full.out[i]);
        for (int i = 0; i < N; i++) assert_true(fabsf(pooled.lse[i] - full.lse[i]) <= 3e-6f);
        free_answer(&pooled), free_answer(&full);
        free_problem(&p);
        t3v_site_free(&s);
    }
    t3v_cpu_mask(best);
}

/* ---- hybrid ----------------------------------------------------------------------------------------- */

static t3v_plan *plan_of(const char *text, t3v_grid grid)
{
    t3v_plan *plan;
    if (t3v_plan_make(&plan, text, grid, 1)) fail_msg("'%s': %s", text, t3v_error_text());
    return plan;
}

static void hybrid_ends(void **state)
{
    (void)state;
    t3v_grid grid = {3, 5, 7};
    t3v_isa best = t3v_cpu();
    t3v_plan *all = plan_of("hybrid:rate=1", grid), *none = plan_of("hybrid:rate=0", grid),
             *third = plan_of("hybrid:rate=3,shift=none", grid);
    assert_int_equal(all->layer[0].site[T3V_SITE_SELF].combine, T3V_COMBINE_MEAN);
    const t3v_site *s = &third->layer[0].site[T3V_SITE_SELF];
    assert_int_equal(s->terms, 2);
    assert_int_equal(t3v_term_keys(&s->term[0], 0, 0), 35); /* ceil(105 / 3) */
    assert_int_equal(t3v_term_keys(&s->term[1], 0, 0), 70);
    for (int isa = 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        problem p = make_problem(&all->layer[0].site[T3V_SITE_SELF], 105, 2, 16, T3V_F32, false, 8);
        problem f = p;
        f.site = t3v_site_full();
        answer x = solve(&p, false), y = solve(&f, false);
        assert_memory_equal(x.out, y.out, 105 * 32 * sizeof(float)); /* the same kernel on the same keys */
        free_answer(&x), free_answer(&y);
        free_problem(&p);

        /* All linear: the explicit matrix phi(q).phi(k), rows divided by their sums, times v; equal v come out as they are. */
        p = make_problem(&none->layer[0].site[T3V_SITE_SELF], 105, 2, 16, T3V_F32, false, 9);
        double *out = must(malloc(105 * 32 * sizeof *out)), lse[210];
        define(&p, out, lse);
        x = solve(&p, false);
        assert_true(distance(x.out, out, 105 * 32) <= 1e-6);
        free_answer(&x);
        for (int i = 0; i < 105 * 32; i++) ((float *)p.raw[V])[i] = 0.75f;
        x = solve(&p, false);
        for (int i = 0; i < 105 * 32; i++) assert_true(fabsf(x.out[i] - 0.75f) <= 1e-6f);
        free_answer(&x);
        free(out);
        free_problem(&p);
    }
    t3v_cpu_mask(best);
    t3v_plan_free(all), t3v_plan_free(none), t3v_plan_free(third);
}

/* The parameters of one block of the 1.3B model are 1.186 M a map (A.3 of the derivation from the published tables). */
static void hybrid_counts(void **state)
{
    (void)state;
    t3v_plan *plan = plan_of("hybrid", (t3v_grid){21, 20, 30});
    const t3v_site *s = &plan->layer[0].site[T3V_SITE_SELF];
    t3v_site_param info[PARAMS];
    int n = t3v_site_params(s, 12, 128, info);
    int64_t weights = 0, all = 0;
    for (int i = 0; i < n; i++) {
        all += numel(&info[i]);
        if (strstr(info[i].name, "weight")) weights += numel(&info[i]);
        char name[80];
        snprintf(name, sizeof name, "blocks.3.self_attn.%.31s", info[i].name);
        assert_true(t3v_site_param_named(name));
    }
    assert_int_equal(n, 8);
    assert_int_equal(weights, 2 * 1179648);
    assert_int_equal(all, 2 * 1185792);
    assert_false(t3v_site_param_named("blocks.3.self_attn.q.weight"));
    /* Feature maps of all queries and three quarters of the keys, their state and its reading. */
    assert_int_equal(t3v_term_macs(&s->term[1], 12600, 12600, 128),
                     (12600 + 9450) * (128LL * 256 + 256 * 256 + 256 * 128));
    t3v_plan_free(plan);
}

/* 1, 2 and 3 threads: the same bytes, forward and backward. */
static void threads_change_nothing(void **state)
{
    (void)state;
    for (int f = 0; f < FORMS; f++) {
        t3v_site s = random_site(30 + (uint64_t)f, 280, forms[f], (t3v_phi){2, 2, T3V_PHI_SOFTPLUS});
        problem p = make_problem(&s, 280, 2, 16, T3V_BF16, false, 31);
        answer x[3];
        for (int i = 0; i < 3; i++) {
            t3v_threads_set(i + 1);
            x[i] = solve(&p, true);
        }
        for (int i = 1; i < 3; i++) {
            assert_memory_equal(x[0].out, x[i].out, 280 * 32 * sizeof(float));
            for (int j = 0; j < 3; j++)
                assert_memory_equal(x[0].grad[j], x[i].grad[j], 280 * 32 * sizeof(float));
            for (int j = 0; j < p.params; j++)
                assert_memory_equal(x[0].dp[j], x[i].dp[j], (size_t)numel(&p.info[j]) * sizeof(float));
        }
        for (int i = 0; i < 3; i++) free_answer(&x[i]);
        free_problem(&p);
        t3v_site_free(&s);
    }
    t3v_threads_set(0);
}

/* ---- re-ttention ------------------------------------------------------------------------------------ */

enum { GT = 3, GH = 4, GW = 5, TOKENS = GT * GH * GW, HEADS = 2, DIM = 16, COUNT = TOKENS * HEADS * DIM };

/* One call at a step, with a state or without; out and lse as the library gives them. */
static void at_step(const problem *p, int64_t step, int64_t steps, void *state, t3v_dtype type, float *out,
                    float *lse)
{
    t3v_attend_args a = args_of(p);
    t3v_bf16 half[COUNT];
    a.moment = (t3v_moment){.step = step, .steps = steps};
    a.out = type == T3V_F32 ? (void *)out : (void *)half, a.out_type = type, a.lse = lse, a.state = state;
    run(&a, p->site);
    for (int i = 0; type == T3V_BF16 && i < COUNT; i++) out[i] = t3v_bf16_to_f32(half[i]);
}

static void *new_state(const problem *p, int number)
{
    size_t n = t3v_site_state(p->site, p->n, p->heads, p->dim, number);
    assert_true(n > 0);
    return must(calloc(1, n));
}

static void same(const float *a, const float *b, double limit, const char *what)
{
    for (int i = 0; i < COUNT; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= limit))
            fail_msg("%s: %g and %g at %d", what, (double)a[i], (double)b[i], i);
}

/* With frozen inputs and lambda 0 every step is full attention; also where the pattern keeps all keys. */
static void frozen_is_full(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "rettention:lambda=0,window=2,warm=20", "rettention:lambda=0,of=full",
        "rettention:lambda=0,period=3,of=t3:blocks=1x2x2+branch=close,warm=0"};
    t3v_isa best = t3v_cpu();
    for (int isa = 0; isa <= (int)best; isa++)
        for (size_t t = 0; t < 3; t++)
            for (int type = T3V_F32; type <= T3V_BF16; type++) {
                t3v_cpu_mask((t3v_isa)isa);
                t3v_plan *plan = plan_of(texts[t], (t3v_grid){GT, GH, GW});
                problem p = make_problem(&plan->layer[0].site[T3V_SITE_SELF], TOKENS, HEADS, DIM,
                                         (t3v_dtype)type, false, 11);
                problem f = p;
                f.site = t3v_site_full();
                answer full = solve(&f, false);
                void *kept = new_state(&p, type == T3V_F32 ? 4 : 2);
                float out[COUNT], lse[2 * HEADS * TOKENS];
                for (int step = 0; step < 20; step++) {
                    at_step(&p, step, 20, kept, (t3v_dtype)type, out, lse);
                    same(out, full.out, type == T3V_F32 ? 3e-6 : 3e-2, texts[t]);
                }
                free(kept), free_answer(&full), free_problem(&p), t3v_plan_free(plan);
            }
    t3v_cpu_mask(best);
}

/* Keep-all: rho = 1 and R = 0, and 1 is as far as lambda takes it. */
static void keep_all_is_full(void **state)
{
    (void)state;
    t3v_plan *plan = plan_of("rettention:of=full,warm=0", (t3v_grid){GT, GH, GW});
    problem p = make_problem(&plan->layer[0].site[T3V_SITE_SELF], TOKENS, HEADS, DIM, T3V_F32, false, 12);
    problem f = p;
    f.site = t3v_site_full();
    void *kept = new_state(&p, 4);
    float out[COUNT], lse[2 * HEADS * TOKENS];
    for (int step = 0; step < 9; step++) {
        t3v_normal_fill(p.raw[V], COUNT, 40, (uint64_t)step, 0);
        t3v_normal_fill(p.raw[Q], COUNT, 41, (uint64_t)step, 0);
        answer full = solve(&f, false);
        at_step(&p, step, 9, kept, T3V_F32, out, lse);
        same(out, full.out, 2e-6, "keep all");
        free_answer(&full);
    }
    free(kept), free_problem(&p), t3v_plan_free(plan);
}

/* The schedule, lambda, the two branches, and a repeated step. */
static void steps_of_rettention(void **state)
{
    (void)state;
    enum { STEPS = 20 };
    t3v_plan *plan = plan_of("rettention:window=1,warm=25,period=5,lambda=0.01", (t3v_grid){GT, GH, GW});
    const t3v_site *site = &plan->layer[0].site[T3V_SITE_SELF];
    t3v_site alone = {.terms = 1, .term = &site->term[0]}; /* the window by itself */
    problem p[2], kept_only[2], f[2];
    void *kept[2];
    for (int b = 0; b < 2; b++) {
        p[b] = make_problem(site, TOKENS, HEADS, DIM, T3V_F32, false, 13 + (uint64_t)b);
        kept_only[b] = f[b] = p[b];
        kept_only[b].site = &alone, f[b].site = t3v_site_full();
        kept[b] = new_state(&p[b], 4);
    }
    double rho[2][HEADS * TOKENS],
        *rest[2] = {must(calloc(COUNT, sizeof(double))), must(calloc(COUNT, sizeof(double)))};
    for (int step = 0; step < STEPS; step++)
        for (int b = 0; b < 2; b++) { /* the branches take turns, as in a generation */
            float out[COUNT], again[COUNT], lse[2 * HEADS * TOKENS];
            t3v_normal_fill(p[b].raw[Q], COUNT, 60 + (uint64_t)b, (uint64_t)step, 0);
            answer full = solve(&f[b], false), window = solve(&kept_only[b], false);
            at_step(&p[b], step, STEPS, kept[b], T3V_F32, out, lse);
            bool cache = step >= 5 && (step - 5) % 5 == 0;
            int since = step < 5 || cache ? 0 : (step - 5) % 5 - 1;
            if (step < 5 || cache) same(out, full.out, 0, "full and cache steps give the full output");
            for (int h = 0; h < HEADS; h++)
                for (int i = 0; i < TOKENS; i++) {
                    if (cache)
                        rho[b][h * TOKENS + i] = exp((double)window.lse[h * TOKENS + i] -
                                                     (double)full.lse[h * TOKENS + i]);
                    double factor = rho[b][h * TOKENS + i] + 0.01 * since;
                    if (factor > 1) factor = 1;
                    /* full attention is not computed */
                    if (step >= 5 && !cache) assert_true(isinf(lse[(HEADS + h) * TOKENS + i]));
                    for (int d = 0; d < DIM; d++) {
                        int at = (i * HEADS + h) * DIM + d;
                        if (cache)
                            rest[b][at] = (double)full.out[at] -
                                          rho[b][h * TOKENS + i] * (double)window.out[at];
                        double want = factor * (double)window.out[at] + rest[b][at];
                        if (step >= 5 && !(fabs((double)out[at] - want) <= 3e-6))
                            fail_msg("step %d, branch %d: %g, expected %g", step, b, (double)out[at], want);
                    }
                }
            at_step(&p[b], step, STEPS, kept[b], T3V_F32, again, NULL);
            same(again, out, 0, "a step that is done again");
            free_answer(&full), free_answer(&window);
        }
    for (int b = 0; b < 2; b++) free(kept[b]), free(rest[b]), free_problem(&p[b]);
    t3v_plan_free(plan);
}

/* Without a state it is full attention, with its gradients. */
static void no_state_is_full(void **state)
{
    (void)state;
    t3v_plan *plan = plan_of("rettention:warm=0", (t3v_grid){GT, GH, GW});
    problem p = make_problem(&plan->layer[0].site[T3V_SITE_SELF], TOKENS, HEADS, DIM, T3V_F32, false, 14);
    problem f = p;
    f.site = t3v_site_full();
    answer x = solve(&p, true), y = solve(&f, true);
    assert_memory_equal(x.out, y.out, COUNT * sizeof(float));
    for (int i = 0; i < 3; i++) assert_memory_equal(x.grad[i], y.grad[i], COUNT * sizeof(float));
    free_answer(&x), free_answer(&y), free_problem(&p), t3v_plan_free(plan);
}

static void bad_options(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"rettention:of=nothing", "column 15: rettention: unknown pattern 'nothing'"},
        {"rettention:of=t3:blocks=1x2x2", "column 15: rettention needs a static pattern of one softmax"},
        {"rettention:of=hybrid", "one softmax"},
        {"rettention:of=rettention", "one softmax"},
        {"rettention:of=t3:blocks=9x1x1", "column 25: 9 blocks along time"},
        {"rettention:lambda=x", "lambda is 'x'"},
        {"rettention:period=0", "column 12: period is '0'"},
        {"rettention:warm=101", "warm is '101'"},
        {"hybrid:rate=-1", "rate is '-1'"},
        {"hybrid:degree=0", "degree is '0'"},
        {"hybrid:depth=9", "depth is '9'"},
        {"hybrid:last=tanh", "expected one of"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t3v_plan *plan;
        assert_int_equal(t3v_plan_make(&plan, bad[i][0], (t3v_grid){GT, GH, GW}, 2), T3V_E_ARG);
        if (!strstr(t3v_error_text(), bad[i][1]))
            fail_msg("'%s' gave '%s', expected '%s' in it", bad[i][0], t3v_error_text(), bad[i][1]);
    }
    t3v_plan *plan = plan_of("rettention",
                             (t3v_grid){2, 30,
                                        45}); /* 1350 tokens a frame: 21 on each side, 22 at the edge */
    const t3v_term *t = &plan->layer[0].site[T3V_SITE_SELF].term[0];
    assert_int_equal(t3v_term_keys(t, 0, 0), 2 * 22);
    assert_int_equal(t3v_term_keys(t, 700, 0), 2 * 43);
    t3v_plan_free(plan);
}

/* What does not go together is refused when the site is made. */
static void builder_refuses(void **state)
{
    (void)state;
    for (int bad = 0; bad < 6; bad++) {
        t3v_builder *b;
        t3v_site s;
        assert_int_equal(t3v_builder_make(&b, 8, 1 << 30), T3V_OK);
        for (int i = 0; i < (bad == 1 ? 2 : 1); i++) {
            t3v_build_term(b, 1);
            if (bad != 3) t3v_build_linear(b, (t3v_phi){2, bad == 5 ? 0 : 2, T3V_PHI_SOFTPLUS});
            if (bad == 2) t3v_build_pool(b, 2);
            if (bad == 3) t3v_build_pool(b, 0);
            t3v_build_block(b, 8);
            t3v_build_keys(b, 0, 4);
            if (bad == 4) t3v_build_pool(b, 2);
        }
        if (bad) t3v_build_joint(b, true);
        assert_int_equal(t3v_builder_finish(b, &s), T3V_E_ARG);
        t3v_builder_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_is_the_definition),
        cmocka_unit_test(gradients_are_the_slopes),
        cmocka_unit_test(joint_halves_are_the_whole),
        cmocka_unit_test(pooled_is_repeated),
        cmocka_unit_test(hybrid_ends),
        cmocka_unit_test(hybrid_counts),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(frozen_is_full),
        cmocka_unit_test(keep_all_is_full),
        cmocka_unit_test(steps_of_rettention),
        cmocka_unit_test(no_state_is_full),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(builder_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
