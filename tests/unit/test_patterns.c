/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of a pattern file, for all that are there: what build() describes (of a selected term what is always met)
 * is what allows() says, on any grid, and every kernel computes it. */
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
#include "attn/grammar.h"
#include "attn/pattern.h"
#include "attn/plan.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "tensor/dtype.h"

enum { HEADS = 2 };

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

/* A pattern with one of its option texts: number 0 is none, then come the examples. */
typedef struct subject {
    const t3v_pattern *pattern;
    char text[256];
    t3v_rules rules; /* owns the options */
    t3v_plan *plan;
} subject;

static bool example_text(const t3v_pattern *p, int index, char *text, size_t size)
{
    if (index && (!p->examples || !p->examples[index - 1])) return false;
    snprintf(text, size, "%s%s%s", p->name, index ? ":" : "", index ? p->examples[index - 1] : "");
    return true;
}

static int examples_of(const t3v_pattern *p)
{
    int n = 1;
    while (p->examples && p->examples[n - 1]) n++;
    return n;
}

/* False where this grid does not suit the options, which only an example may say. */
static bool open_subject(subject *s, const t3v_pattern *p, int index, t3v_grid g, int layers)
{
    *s = (subject){.pattern = p};
    assert_true(example_text(p, index, s->text, sizeof s->text));
    t3v_status st = t3v_plan_make_for(&s->plan, s->text, g, layers, 0, HEADS);
    if (st == T3V_E_ARG && index) {
        assert_non_null(strstr(t3v_error_text(), "column"));
        return false;
    }
    if (st)
        fail_msg("'%s' on %lldx%lldx%lld: %s", s->text, (long long)g.t, (long long)g.h, (long long)g.w,
                 t3v_error_text());
    assert_int_equal(t3v_rules_parse(&s->rules, s->text, layers, HEADS), T3V_OK);
    return true;
}

static void close_subject(subject *s)
{
    t3v_plan_free(s->plan);
    t3v_rules_free(&s->rules);
}

static const t3v_site *self_of(const subject *s, int layer)
{
    return &s->plan->layer[layer].site[T3V_SITE_SELF];
}

static bool allowed(const subject *s, int layer, int term, int64_t q, int64_t k)
{
    t3v_geom geom = {.grid = s->plan->grid,
                     .tokens = s->plan->tokens,
                     .layer = layer,
                     .layers = s->plan->layers,
                     .heads = HEADS};
    return s->pattern->allows(s->rules.rule[0].options, &geom, term, q, k);
}

/* Keys of a term: tokens, or means of `pool` slots, which have numbers of their own. */
static int64_t keys_of(const subject *s, const t3v_term *t)
{
    return t->pool > 1 ? (s->plan->tokens - 1) / t->pool + 1 : s->plan->tokens;
}

static int64_t key_at(const t3v_term *t, int64_t slot)
{
    return t->order && t->pool <= 1 ? t->order[slot] : slot;
}

/* An order of all tokens, each in exactly one block; ranges ascend, do not touch, lie in the grid. Returns the slot of
 * each token. */
static int32_t *check_term(const subject *s, const t3v_term *t)
{
    int64_t n = s->plan->tokens;
    int32_t *slot = must(malloc((size_t)n * sizeof *slot));
    for (int64_t i = 0; i < n; i++) slot[i] = -1;
    assert_true(t->slots == n && t->blocks >= 1 && t->block_first[0] == 0 && t->block_first[t->blocks] == n &&
                t->weight > 0);
    for (int32_t i = 0; i < n; i++) {
        int32_t token = t->order ? t->order[i] : i;
        assert_true(token >= 0 && token < n && slot[token] == -1);
        slot[token] = i;
    }
    for (int64_t b = 0; b < t->blocks; b++) {
        assert_true(t->block_first[b] < t->block_first[b + 1]);
        assert_true(t->select || t->range_first[b] < t->range_first[b + 1]);
        int64_t from = -1;
        for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++) {
            assert_true(t->ranges[r].first > from && t->ranges[r].last > t->ranges[r].first &&
                        t->ranges[r].last <= keys_of(s, t));
            from = t->ranges[r].last;
        }
    }
    return slot;
}

/* Which query meets which key, from the term's lists. */
static uint8_t *mask_of(const subject *s, const t3v_term *t)
{
    int64_t n = s->plan->tokens, keys = keys_of(s, t);
    uint8_t *m = must(calloc((size_t)(n * keys), 1));
    for (int64_t b = 0; b < t->blocks; b++)
        for (int32_t i = t->block_first[b]; i < t->block_first[b + 1]; i++)
            for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++)
                for (int32_t j = t->ranges[r].first; j < t->ranges[r].last; j++)
                    m[(t->order ? t->order[i] : i) * keys + key_at(t, j)] = 1;
    return m;
}

static void complain(const subject *s, int layer, int term, int64_t wrong)
{
    t3v_grid g = s->plan->grid;
    fail_msg("'%s' on %lldx%lldx%lld, layer %d, term %d: %lld pairs differ from allows()", s->text,
             (long long)g.t, (long long)g.h, (long long)g.w, layer, term, (long long)wrong);
}

/* All pairs. */
static void check_small(const subject *s)
{
    int64_t n = s->plan->tokens;
    for (int l = 0; l < s->plan->layers; l++) {
        const t3v_site *site = self_of(s, l);
        double weight = 0;
        for (int t = 0; t < site->terms; t++) {
            free(check_term(s, &site->term[t]));
            weight += (double)site->term[t].weight;
            if (site->term[t].heads) continue; /* allows() knows no heads */
            uint8_t *mask = mask_of(s, &site->term[t]);
            int64_t wrong = 0, pairs = 0, keys = keys_of(s, &site->term[t]);
            /* What is always met beside a selection is a matter of whole blocks: a part of the pairs, allows() is slow there. */
            for (int64_t i = 0; i < n * keys; i += site->term[t].select ? 997 : 1) {
                bool meets = allowed(s, l, t, i / keys, i % keys);
                wrong += meets != mask[i];
                pairs += meets;
            }
            if (wrong) complain(s, l, t, wrong);
            if (!site->term[t].select) assert_int_equal(pairs, t3v_term_pairs(&site->term[t], n, n));
            free(mask);
            for (int u = 0; u < t && site->combine == T3V_COMBINE_MEAN; u++)
                assert_false(t3v_term_equal(&site->term[u], &site->term[t]));
        }
        if (site->combine == T3V_COMBINE_MEAN) assert_true(fabs(weight - 1) < 1e-6);
    }
}

/* Pairs at random, half of them of a query and one of its keys. */
static void check_large(const subject *s, t3v_rng *rng)
{
    int64_t n = s->plan->tokens;
    for (int l = 0; l < s->plan->layers; l++) {
        const t3v_site *site = self_of(s, l);
        bool seen = false; /* equal layers are one in memory */
        for (int i = 0; i < l && !seen; i++) seen = self_of(s, i)->term == site->term;
        for (int t = 0; t < site->terms && !seen; t++) {
            const t3v_term *term = &site->term[t];
            int32_t *slot = check_term(s, term);
            int64_t wrong = 0;
            for (int i = 0; i < (term->select ? 100 : 1000) && !term->heads; i++) {
                int64_t q = t3v_rng_below(rng, n), k = t3v_rng_below(rng, keys_of(s, term)), b = 0,
                        high = term->blocks;
                while (b + 1 < high) {
                    int64_t middle = (b + high) / 2;
                    *(term->block_first[middle] <= slot[q] ? &b : &high) = middle;
                }
                const t3v_range *first = &term->ranges[term->range_first[b]],
                                *last = &term->ranges[term->range_first[b + 1]];
                if (i % 2 && last > first) {
                    const t3v_range *r = first + t3v_rng_below(rng, last - first);
                    k = key_at(term, r->first + t3v_rng_below(rng, r->last - r->first));
                }
                int64_t at = term->pool > 1 ? k : slot[k];
                bool meets = false;
                for (const t3v_range *r = first; r < last; r++)
                    meets = meets || (r->first <= at && at < r->last);
                wrong += meets != allowed(s, l, t, q, k);
            }
            free(slot);
            if (wrong) complain(s, l, t, wrong);
        }
    }
}

/* 200 grids, half of their axes prime; every pattern, its examples in turn. */
static void random_grids(void **state)
{
    (void)state;
    static const int64_t primes[] = {2, 3, 5, 7, 11, 13};
    t3v_rng rng = t3v_rng_make(31, 0);
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++) {
        int examples = examples_of(*p), *built = must(calloc((size_t)examples, sizeof *built));
        for (int i = 0; i < 200; i++) {
            int64_t G[3];
            for (int a = 0; a < 3; a++)
                G[a] = t3v_rng_below(&rng, 2) ? primes[t3v_rng_below(&rng, a ? 6 : 4)]
                                              : 1 + t3v_rng_below(&rng, a ? 12 : 9);
            while (G[0] * G[1] * G[2] > 300) G[G[1] > G[2] ? 1 : 2] = G[G[1] > G[2] ? 1 : 2] / 2 + 1;
            subject s;
            if (!open_subject(&s, *p, i % examples, (t3v_grid){G[0], G[1], G[2]}, 3)) continue;
            check_small(&s);
            built[i % examples]++;
            close_subject(&s);
        }
        for (int e = 0; e < examples; e++)
            if (!built[e]) fail_msg("%s: example %d suits none of the grids that were tried", (*p)->name, e);
        free(built);
    }
}

static void video_grids(void **state)
{
    (void)state;
    static const t3v_grid grids[] = {
        /* 2160, 1080, 720, 480 lines */
        {21, 135, 240}, {21, 136, 240}, {21, 68, 120}, {21, 45, 80}, {21, 30, 52},
        {21, 240, 135}, {21, 240, 136}, {21, 120, 68}, {21, 80, 45}, {21, 52, 30}, /* upright */
        {42, 45, 80},   {42, 30, 52},   {1, 135, 240}, {1, 30, 52},  {1, 1, 1},
        {21, 1, 1},     {2, 1, 3},
    };
    t3v_rng rng = t3v_rng_make(32, 0);
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
            subject s;
            assert_true(open_subject(&s, *p, 0, grids[i], 5));
            check_large(&s, &rng);
            close_subject(&s);
        }
}

/* ---- kernels ---- */

typedef struct image {
    float *f;
    t3v_bf16 *h;
} image;

/* Random numbers that both types hold. */
static image random_image(int64_t n, uint64_t seed, uint64_t stream, float scale)
{
    image x = {must(malloc((size_t)n * sizeof(float))), must(malloc((size_t)n * sizeof(t3v_bf16)))};
    t3v_normal_fill(x.f, n, seed, stream, 0);
    for (int64_t i = 0; i < n; i++)
        x.h[i] = t3v_f32_to_bf16(scale * x.f[i]), x.f[i] = t3v_bf16_to_f32(x.h[i]);
    return x;
}

static void free_image(image x) { free(x.f), free(x.h); }

/* Softmaxes over tokens, averaged: what allows() alone defines. Other sites have tests of their own. */
static bool plain(const t3v_site *site)
{
    bool all = site->combine == T3V_COMBINE_MEAN;
    for (int t = 0; t < site->terms; t++)
        all = all && site->term[t].kind == T3V_TERM_SOFTMAX && site->term[t].pool <= 1 &&
              !site->term[t].log_weight && !site->term[t].select && !site->term[t].heads;
    return all;
}

/* Softmax over the pairs that allows() names, in doubles: out and sum of |p v| [n, heads, dim], lse [terms, heads, n]. */
static void definition(const subject *s, int layer, int dim, const float *q, const float *k, const float *v,
                       double *out, double *size, double *lse)
{
    const t3v_site *site = self_of(s, layer);
    int64_t n = s->plan->tokens, width = (int64_t)HEADS * dim;
    double *score = must(malloc((size_t)n * sizeof *score));
    for (int64_t i = 0; i < n * width; i++) out[i] = size[i] = 0;
    for (int t = 0; t < site->terms; t++)
        for (int h = 0; h < HEADS; h++)
            for (int64_t i = 0; i < n; i++) {
                double max = -INFINITY, sum = 0;
                for (int64_t j = 0; j < n; j++) {
                    score[j] = -INFINITY;
                    if (!allowed(s, layer, t, i, j)) continue;
                    score[j] = 0;
                    for (int d = 0; d < dim; d++)
                        score[j] += (double)q[i * width + h * dim + d] * (double)k[j * width + h * dim + d];
                    score[j] /= sqrt(dim);
                    if (score[j] > max) max = score[j];
                }
                for (int64_t j = 0; j < n; j++) sum += score[j] = exp(score[j] - max);
                lse[(t * HEADS + h) * n + i] = max + log(sum);
                for (int64_t j = 0; j < n; j++)
                    for (int d = 0; d < dim && score[j] > 0; d++) {
                        double x = (double)site->term[t].weight * score[j] / sum *
                                   (double)v[j * width + h * dim + d];
                        out[i * width + h * dim + d] += x, size[i * width + h * dim + d] += fabs(x);
                    }
            }
    free(score);
}

/* Tolerances by which the worst number of a kernel is off. Scores are about 1 nat; P is rounded to the type, scores
 * carry an error of eps times their size. */
static double off(const subject *s, int layer, int dim, t3v_dtype type, const image in[3], const double *out,
                  const double *size, const double *lse)
{
    const t3v_site *site = self_of(s, layer);
    int64_t n = s->plan->tokens, width = (int64_t)HEADS * dim, rows = (int64_t)site->terms * HEADS * n;
    float *got = must(malloc((size_t)(n * width) * sizeof *got)),
          *sums = must(malloc((size_t)rows * sizeof *sums));
    bool bf16 = type == T3V_BF16;
    t3v_attend_args a = {.n_q = n,
                         .n_k = n,
                         .heads = HEADS,
                         .dim = dim,
                         .type = type,
                         .q_stride = width,
                         .k_stride = width,
                         .v_stride = width,
                         .out = got,
                         .out_type = T3V_F32,
                         .out_stride = width,
                         .lse = sums};
    a.q = bf16 ? (void *)in[0].h : in[0].f, a.k = bf16 ? (void *)in[1].h : in[1].f,
    a.v = bf16 ? (void *)in[2].h : in[2].f;
    memset(got, 0xff, (size_t)(n * width) * sizeof *got);
    a.scratch_bytes = t3v_attend_scratch(site, &a);
    a.scratch = must(malloc(a.scratch_bytes + 1));
    if (t3v_attend_run(site, &a)) fail_msg("%s: %s", s->text, t3v_error_text());
    double eps = bf16 ? 2.0 / 256 : 24.0 / (1 << 23), worst = 0;
    for (int64_t i = 0; i < n * width; i++) {
        double e = fabs((double)got[i] - out[i]) / (eps * (size[i] + 1e-3));
        if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
    }
    for (int64_t i = 0; i < rows; i++) {
        double e = fabs((double)sums[i] - lse[i]) /
                   ((bf16 ? 2.0 / 256 : 8.0 / (1 << 23)) * (1 + fabs(lse[i])));
        if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
    }
    free(got), free(sums), free(a.scratch);
    return worst;
}

static void kernels_compute_what_is_allowed(void **state)
{
    (void)state;
    static const t3v_grid grids[] = {{5, 3, 7}, {4, 7, 5}, {8, 4, 6}, {1, 11, 13}, {3, 5, 11}};
    static const int dims[] = {16, 32, 48, 24};
    t3v_isa best = t3v_cpu();
    int run = 0;
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        for (int e = 0; e < examples_of(*p); e++)
            for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
                subject s;
                if (!open_subject(&s, *p, e, grids[g], 4)) continue;
                int dim = dims[run % 4], layer = run % 4;
                if (!plain(self_of(&s, layer))) {
                    close_subject(&s);
                    continue;
                }
                int64_t n = s.plan->tokens, total = n * HEADS * dim;
                image in[3];
                for (int i = 0; i < 3; i++)
                    in[i] = random_image(total, (uint64_t)run, (uint64_t)i, i ? 1 : 0.25f);
                double *out = must(malloc((size_t)total * sizeof *out)),
                       *size = must(malloc((size_t)total * sizeof *size));
                double *lse = must(malloc((size_t)(self_of(&s, layer)->terms * HEADS * n) * sizeof *lse));
                definition(&s, layer, dim, in[0].f, in[1].f, in[2].f, out, size, lse);
                for (int isa = 0; isa <= (int)best; isa++)
                    for (int bf16 = 0; bf16 < 2; bf16++) {
                        t3v_cpu_mask((t3v_isa)isa);
                        double x = off(&s, layer, dim, bf16 ? T3V_BF16 : T3V_F32, in, out, size, lse);
                        if (!(x <= 1))
                            fail_msg(
                                "'%s' on %lldx%lldx%lld, layer %d, dim %d, %s on %s: %.3g tolerances off",
                                s.text, (long long)grids[g].t, (long long)grids[g].h, (long long)grids[g].w,
                                layer, dim, bf16 ? "bf16" : "f32", t3v_isa_name((t3v_isa)isa), x);
                    }
                t3v_cpu_mask(best);
                for (int i = 0; i < 3; i++) free_image(in[i]);
                free(out), free(size), free(lse);
                close_subject(&s);
                run++;
            }
    assert_true(run >= 20);
}

/* Each option says what it is for, fits its struct, and has a value that works. */
static void options_are_told(void **state)
{
    (void)state;
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++) {
        assert_non_null((*p)->summary);
        assert_true((*p)->options_size <= T3V_OPTIONS_MAX && !(*p)->options == !(*p)->options_size);
        for (const t3v_option *o = (*p)->options; o && o->name; o++) {
            assert_true(o->help && *o->help);
            size_t size = o->kind == T3V_OPTION_TEXT ? sizeof(t3v_option_text) : sizeof(int64_t);
            assert_true(o->offset + size <= (*p)->options_size);
            int64_t words = 0;
            while (o->kind == T3V_OPTION_WORD && o->words[words]) words++;
            if (o->kind == T3V_OPTION_WORD) assert_true(o->initial >= 0 && o->initial < words);
            if (o->kind == T3V_OPTION_REAL) assert_true(o->real <= o->real_max);
            if (o->kind == T3V_OPTION_NUMBER) assert_true(o->min <= o->initial && o->initial <= o->max);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_told),
        cmocka_unit_test(random_grids),
        cmocka_unit_test(video_grids),
        cmocka_unit_test(kernels_compute_what_is_allowed),
    };
    return cmocka_run_group_tests_name("patterns", tests, NULL, NULL);
}
