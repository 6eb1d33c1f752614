/* SPDX-License-Identifier: Apache-2.0 */
/* Content-based plans: what is chosen, the contract of selections, and attention over what was chosen against its definition. */
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
#include "attn/select.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "dense.h"
#include "selected.h"

/* ---- running ---- */

typedef struct problem {
    t3v_attend_args a;
    int64_t width;
    void *in[4]; /* q k v dout, dense */
    float *out, *lse, *grad[3];
    uint64_t *chosen;
    size_t words;
} problem;

enum { GUARD = 64 };

static problem start(const t3v_site *site, int64_t n, int heads, int dim, t3v_dtype type, uint64_t seed,
                     t3v_moment moment)
{
    problem p = {.width = heads * (int64_t)dim};
    for (uint64_t i = 0; i < 4; i++) p.in[i] = dense_random(n * p.width, type, seed * 8 + i);
    p.out = must(malloc((size_t)(n * p.width) * sizeof *p.out));
    p.lse = must(malloc((size_t)(site->terms * heads * n) * sizeof *p.lse));
    for (int i = 0; i < 3; i++) p.grad[i] = must(malloc((size_t)(n * p.width) * sizeof *p.grad[i]));
    p.words = t3v_attend_chosen_words(site, heads);
    p.chosen = must(calloc(p.words + 1, sizeof *p.chosen));
    p.a = (t3v_attend_args){.n_q = n,
                            .n_k = n,
                            .heads = heads,
                            .dim = dim,
                            .q = p.in[0],
                            .k = p.in[1],
                            .v = p.in[2],
                            .type = type,
                            .q_stride = p.width,
                            .k_stride = p.width,
                            .v_stride = p.width,
                            .out = p.out,
                            .out_type = T3V_F32,
                            .out_stride = p.width,
                            .lse = p.lse,
                            .moment = moment,
                            .chosen = p.chosen};
    return p;
}

static void finish(problem *p)
{
    for (int i = 0; i < 4; i++) free(p->in[i]);
    for (int i = 0; i < 3; i++) free(p->grad[i]);
    free(p->out), free(p->lse), free(p->chosen);
}

/* Scratch of exactly what was asked for, with bytes behind it that must stay. */
static void run_forward(const t3v_site *site, problem *p)
{
    p->a.scratch_bytes = t3v_attend_scratch(site, &p->a);
    char *scratch = must(malloc(p->a.scratch_bytes + GUARD));
    memset(scratch, 0xff, p->a.scratch_bytes + GUARD);
    p->a.scratch = scratch;
    if (t3v_attend_run(site, &p->a)) fail_msg("%s", t3v_error_text());
    for (int i = 0; i < GUARD; i++) assert_int_equal((uint8_t)scratch[p->a.scratch_bytes + (size_t)i], 0xff);
    free(scratch);
}

static void run_backward(const t3v_site *site, problem *p)
{
    t3v_attend_grad g = {.out = p->out,
                         .dout = p->in[3],
                         .dout_type = p->a.type,
                         .dout_stride = p->width,
                         .dq = p->grad[0],
                         .dk = p->grad[1],
                         .dv = p->grad[2],
                         .dq_stride = p->width,
                         .dk_stride = p->width,
                         .dv_stride = p->width};
    p->a.scratch_bytes = t3v_attend_backward_scratch(site, &p->a, &g);
    char *scratch = must(malloc(p->a.scratch_bytes + GUARD));
    memset(scratch, 0xff, p->a.scratch_bytes + GUARD);
    p->a.scratch = scratch;
    if (t3v_attend_backward(site, &p->a, &g)) fail_msg("%s", t3v_error_text());
    for (int i = 0; i < GUARD; i++) assert_int_equal((uint8_t)scratch[p->a.scratch_bytes + (size_t)i], 0xff);
    free(scratch);
}

/* mask [n][n]: does the term let the head's query meet the key? From the lists that were handed out where it chooses. */
static void mask_of(const t3v_site *site, const problem *p, int term, int head, uint8_t *mask)
{
    const t3v_term *t = &site->term[term];
    int64_t n = p->a.n_q;
    memset(mask, 0, (size_t)(n * n));
    for (int64_t b = 0; b < t->blocks; b++)
        for (int64_t k = 0; k < n; k++) {
            bool meets = false;
            if (t->select) {
                int64_t block = 0;
                while (t->block_first[block + 1] <= k) block++;
                meets = t3v_attend_chosen(site, p->a.heads, p->chosen, term, head, b)[block / 64] >>
                            (block % 64) &
                        1;
            } else {
                const int64_t *list = t->range_first + (t->heads ? head * t->blocks : 0);
                for (int64_t r = list[b]; r < list[b + 1]; r++)
                    meets = meets || (k >= t->ranges[r].first && k < t->ranges[r].last);
            }
            for (int64_t q = t->block_first[b]; meets && q < t->block_first[b + 1]; q++)
                mask[token(t, q) * n + token(t, k)] = 1;
        }
}

static double at(const problem *p, int which, int64_t row, int head, int d)
{
    return (double)dense_get(p->in[which], p->a.type, row * p->width + head * p->a.dim + d);
}

/* Output, lse and gradients by definition, in double; the worst distance of what is in the problem, in tolerances. */
static double distance(const t3v_site *site, const problem *p, bool back)
{
    int64_t n = p->a.n_q, size = n * p->width;
    int dim = p->a.dim, heads = p->a.heads;
    double *want[4], *scale[4], *pr = must(malloc((size_t)n * sizeof *pr)), worst = 0, norm = 1 / sqrt(dim);
    for (int i = 0; i < 4; i++)
        want[i] = must(calloc((size_t)size, sizeof(double))),
        scale[i] = must(calloc((size_t)size, sizeof(double)));
    uint8_t *mask = must(malloc((size_t)(n * n)));
    bool bf16 = p->a.type == T3V_BF16;
    for (int t = 0; t < site->terms; t++)
        for (int h = 0; h < heads; h++) {
            if (!t3v_term_active(site, t, h, &p->a.moment)) {
                for (int64_t i = 0; i < n; i++)
                    if (p->lse[(t * heads + h) * n + i] != -INFINITY) worst = 1e30;
                continue;
            }
            double w = (double)site->term[t].weight;
            mask_of(site, p, t, h, mask);
            for (int64_t i = 0; i < n; i++) {
                double sum = 0, mean = 0, mean_size = 0;
                for (int64_t j = 0; j < n; j++) {
                    pr[j] = 0;
                    for (int d = 0; d < dim && mask[i * n + j]; d++)
                        pr[j] += at(p, 0, i, h, d) * at(p, 1, j, h, d) * norm;
                    pr[j] = mask[i * n + j] ? exp(pr[j]) : 0;
                    sum += pr[j];
                }
                double e = fabs((double)p->lse[(t * heads + h) * n + i] - log(sum)) /
                           (bf16 ? 2.0 / 256 : 1e-5) / (1 + fabs(log(sum)));
                if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
                for (int pass = 0; pass < 2; pass++)
                    for (int64_t j = 0; j < n; j++) {
                        if (!mask[i * n + j]) continue;
                        double q = pr[j] / sum, dp = 0, dp_size = 0;
                        for (int d = 0; d < dim; d++)
                            dp += at(p, 3, i, h, d) * at(p, 2, j, h, d) * w,
                                dp_size += fabs(at(p, 3, i, h, d) * at(p, 2, j, h, d)) * w;
                        if (!pass) mean += q * dp, mean_size += q * dp_size;
                        for (int d = 0; d < dim; d++) {
                            int64_t a = i * p->width + h * dim + d, b = j * p->width + h * dim + d;
                            double ds = q * (dp - mean) * norm, ds_size = q * (dp_size + mean_size) * norm;
                            if (!pass) {
                                want[0][a] += w * q * at(p, 2, j, h, d),
                                    scale[0][a] += w * q * fabs(at(p, 2, j, h, d));
                                want[3][b] += w * q * at(p, 3, i, h, d),
                                    scale[3][b] += w * q * fabs(at(p, 3, i, h, d));
                            } else {
                                want[1][a] += ds * at(p, 1, j, h, d),
                                    scale[1][a] += ds_size * fabs(at(p, 1, j, h, d));
                                want[2][b] += ds * at(p, 0, i, h, d),
                                    scale[2][b] += ds_size * fabs(at(p, 0, i, h, d));
                            }
                        }
                    }
            }
        }
    for (int f = 0; f < (back ? 4 : 1); f++)
        for (int64_t i = 0; i < size; i++) {
            double got = (double)(f ? p->grad[f - 1] : p->out)[i],
                   eps = f      ? (bf16 ? 6.0 / 256 : 30.0 / (1 << 23))
                         : bf16 ? 2.0 / 256
                                : 16.0 / (1 << 23);
            double e = fabs(got - want[f][i]) / (eps * (scale[f][i] + 1e-3));
            if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
        }
    for (int i = 0; i < 4; i++) free(want[i]), free(scale[i]);
    free(mask), free(pr);
    return worst;
}

/* What holds of any lists that were handed out. */
static void invariants(const t3v_site *site, const problem *p, const char *text)
{
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (!t->select) continue;
        int64_t keep = t3v_select_keep(t->select, t->blocks, &p->a.moment);
        for (int h = 0; h < p->a.heads; h++)
            for (int64_t b = 0; b < t->blocks && t3v_term_active(site, i, h, &p->a.moment); b++) {
                const uint64_t *bits = t3v_attend_chosen(site, p->a.heads, p->chosen, i, h, b);
                int64_t count = 0;
                for (int64_t k = 0; k < t->blocks; k++) {
                    bool on = bits[k / 64] >> (k % 64) & 1;
                    count += on;
                    if (always(t, b, k) && !on)
                        fail_msg("%s: block %d does not meet block %d", text, (int)b, (int)k);
                }
                if (count < keep || count < 1)
                    fail_msg("%s: block %d meets %d blocks, at least %d", text, (int)b, (int)count,
                             (int)keep);
            }
    }
    if (t3v_select_check(site, &p->a)) fail_msg("%s: %s", text, t3v_error_text());
}

#ifdef __SANITIZE_ADDRESS__
enum { CASE_STEP = 4 };
#else
enum { CASE_STEP = 1 };
#endif

/* Random grids with tails, steps, heads of several rules; every instruction set, both types, forward and backward. */
static void chosen_lists_are_attended(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "jenga:block=8,p=0.3",
        "rainfusion2:block=8,window=3,sparsity=0.7",
        "jenga:block=16,p=0,drop=0.9",
        "rainfusion2:block=5,window=2,sparsity=1",
        "heads 0 -> full; heads 2 steps 1-3 -> rainfusion2:block=8,window=2; jenga:block=9",
        "steps 0 mod 2 -> t3:blocks=2x1x2; heads 1-2 -> jenga:block=7,p=0.5",
    };
    t3v_isa best = t3v_cpu();
    t3v_rng r = t3v_rng_make(11, 0);
    for (int i = 0; i < 12; i += CASE_STEP) {
        t3v_grid g = {2 + t3v_rng_below(&r, 3), 2 + t3v_rng_below(&r, 5), 3 + t3v_rng_below(&r, 5)};
        const char *text = texts[i % 6];
        int heads = 3, dim = i % 3 ? 16 : 32;
        t3v_dtype type = i / 6 ? T3V_BF16 : T3V_F32;
        t3v_moment m = {.step = i % 4, .steps = i % 5 ? 4 : 1};
        if (m.steps == 1) m.step = 0;
        t3v_plan *plan = make(text, g, heads);
        const t3v_site *site = self_of(plan);
        problem p = start(site, plan->tokens, heads, dim, type, (uint64_t)i, m);
        uint64_t *first = NULL;
        for (int isa = 0; isa <= (int)best; isa++) {
            t3v_cpu_mask((t3v_isa)isa);
            run_forward(site, &p);
            run_backward(site, &p);
            invariants(site, &p, text);
            double e = distance(site, &p, true);
            if (e > 1)
                fail_msg("'%s' %s %s, %dx%dx%d: %.3g tolerances", text, t3v_isa_name((t3v_isa)isa),
                         t3v_dtype_name(type), (int)g.t, (int)g.h, (int)g.w, e);
            if (!first) {
                first = must(malloc(p.words * sizeof *first + 1));
                memcpy(first, p.chosen, p.words * sizeof *first);
            }
            assert_memory_equal(first, p.chosen, p.words * sizeof *first);
        }
        t3v_cpu_mask(best);
        free(first);
        finish(&p);
        t3v_plan_free(plan);
    }
}

/* Blocks of whole strips, whose keys are packed once a head: tails, a rule for some heads, scores that need a maximum; the
 * same bytes with one thread and three. */
static void keys_packed_once_are_attended(void **state)
{
    (void)state;
    static const char *const texts[] = {"jenga:block=64,p=0.3", "rainfusion2:block=128,window=4,sparsity=0.8",
                                        "heads 0 -> t3:blocks=1x2x2; jenga:block=64,p=0,drop=0.6"};
    static const t3v_grid grids[] = {{3, 10, 11}, {2, 12, 17}, {3, 8, 16}};
    for (int i = 0; i < 3; i++) {
        t3v_plan *plan = make(texts[i], grids[i], 2);
        const t3v_site *site = self_of(plan);
        problem p[2];
        for (int k = 0; k < 2; k++) {
            t3v_threads_set(k ? 3 : 1);
            p[k] = start(site, plan->tokens, 2, i ? 32 : 16, T3V_BF16, 70,
                         (t3v_moment){.step = 3, .steps = 4});
            if (i == 1) /* up to some hundred nats */
                for (int64_t j = 0; j < plan->tokens * p[k].width; j += 7)
                    ((uint16_t *)p[k].in[0])[j] += 5 << 7;
            run_forward(site, &p[k]);
        }
        invariants(site, &p[0], texts[i]);
        double e = distance(site, &p[0], false);
        if (e > 1) fail_msg("'%s': %.3g tolerances", texts[i], e);
        assert_memory_equal(p[0].out, p[1].out, (size_t)(plan->tokens * p[0].width) * sizeof(float));
        finish(&p[0]), finish(&p[1]);
        t3v_plan_free(plan);
    }
    t3v_threads_set(0);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {"jenga:block=16,p=0.4",
                                        "heads 0 -> rainfusion2:block=16,window=4; jenga:block=24"};
    for (int i = 0; i < 2; i++)
        for (int type = T3V_F32; type <= T3V_BF16; type++) {
            t3v_plan *plan = make(texts[i], (t3v_grid){3, 10, 11}, 2);
            problem p[2];
            for (int k = 0; k < 2; k++) {
                t3v_threads_set(k ? 3 : 1);
                p[k] = start(self_of(plan), plan->tokens, 2, 32, (t3v_dtype)type, 50,
                             (t3v_moment){.step = 3, .steps = 9});
                run_forward(self_of(plan), &p[k]);
                run_backward(self_of(plan), &p[k]);
            }
            size_t bytes = (size_t)(plan->tokens * p[0].width) * sizeof(float);
            assert_memory_equal(p[0].out, p[1].out, bytes);
            assert_memory_equal(p[0].chosen, p[1].chosen, p[0].words * sizeof *p[0].chosen);
            for (int k = 0; k < 3; k++) assert_memory_equal(p[0].grad[k], p[1].grad[k], bytes);
            finish(&p[0]), finish(&p[1]);
            t3v_plan_free(plan);
        }
    t3v_threads_set(0);
}

static void keep_all_is_full(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        t3v_moment m;
    } c[] = {{"jenga:block=8,drop=0", {0}},
             {"jenga:block=8,p=1", {0}},
             {"jenga:block=8", {.step = 1, .steps = 50}},
             {"rainfusion2:block=8,sparsity=0", {0}},
             {"rainfusion2:block=8", {.step = 14, .steps = 40}}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_grid g = {3, 5, 9};
        t3v_plan *plan = make(c[i].text, g, 2), *full = make("full", g, 2);
        problem p = start(self_of(plan), plan->tokens, 2, 16, T3V_F32, 60, c[i].m),
                f = start(self_of(full), plan->tokens, 2, 16, T3V_F32, 60, c[i].m);
        run_forward(self_of(plan), &p);
        run_forward(self_of(full), &f);
        assert_int_equal(t3v_attend_pairs(self_of(plan), &p.a), 2 * plan->tokens * plan->tokens);
        assert_int_equal(t3v_attend_pairs(self_of(full), &f.a), 2 * plan->tokens * plan->tokens);
        for (int64_t k = 0; k < plan->tokens * p.width; k++) assert_true(fabsf(p.out[k] - f.out[k]) < 2e-5f);
        finish(&p), finish(&f);
        t3v_plan_free(plan), t3v_plan_free(full);
    }
}

/* ---- what is chosen, against scores in double ---- */

static t3v_status build_site(t3v_site *s, int64_t n, int64_t block, const t3v_select *select,
                             int64_t always_to)
{
    t3v_builder *b;
    t3v_status st = t3v_builder_make(&b, n, 1 << 30);
    assert_int_equal(st, T3V_OK);
    int32_t *order = must(t3v_build_term(b, 1));
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)(n - 1 - i);
    t3v_build_select(b, select);
    for (int64_t i = 0; i < n; i += block) {
        t3v_build_block(b, n - i < block ? n - i : block);
        t3v_build_keys(b, 0, always_to);
    }
    st = t3v_builder_finish(b, s);
    t3v_builder_free(b);
    return st;
}

static void the_best_are_chosen(void **state)
{
    (void)state;
    enum { N = 117, BLOCK = 10, M = 12, DIM = 16 };
    static const t3v_select c[] = {
        {.score = T3V_SCORE_DOT, .drop = {0.7, 0.7}, .min = 1},
        {.score = T3V_SCORE_DOT, .drop = {0.7, 0.7}, .round_up = true, .min = 1},
        {.score = T3V_SCORE_SOFTMAX, .drop = {1, 1}, .p = 0.5, .min = 2},
        {.score = T3V_SCORE_SOFTMAX, .drop = {0.5, 0.5}, .p = 0.6, .min = 1},
        {.score = T3V_SCORE_SOFTMAX, .drop = {0.9, 0.9}, .p = 0.9, .min = 1, .max = 5},
        {.summary = T3V_SUMMARY_SAMPLE, .sample = 3, .score = T3V_SCORE_DOT, .drop = {0.6, 0.6}, .min = 1},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_site site;
        if (build_site(&site, N, BLOCK, &c[i], 0)) fail_msg("%s", t3v_error_text());
        problem p = start(&site, N, 1, DIM, T3V_F32, 70 + i, (t3v_moment){0});
        run_forward(&site, &p);
        int64_t keep = t3v_select_keep(&c[i], M, NULL);
        for (int64_t b = 0; b < M; b++) {
            double score[M], sum = 0, mass = 0, least = INFINITY, most = -INFINITY;
            for (int64_t k = 0; k < M; k++) {
                int64_t first[2] = {b * BLOCK, k * BLOCK};
                double mean[2][DIM] = {{0}};
                for (int s = 0; s < 2; s++) {
                    int64_t size = N - first[s] < BLOCK ? N - first[s] : BLOCK,
                            rows = c[i].sample && c[i].sample < size ? c[i].sample : size;
                    for (int64_t j = 0; j < rows; j++)
                        for (int d = 0; d < DIM; d++)
                            mean[s][d] += at(&p, s, N - 1 - (first[s] + j * size / rows), 0, d) /
                                          (double)rows;
                }
                score[k] = 0;
                for (int d = 0; d < DIM; d++) score[k] += mean[0][d] * mean[1][d] / 4;
                if (c[i].score == T3V_SCORE_SOFTMAX) score[k] = exp(score[k]);
                sum += score[k];
            }
            int64_t n = 0;
            for (int64_t k = 0; k < M; k++) {
                if (c[i].score == T3V_SCORE_SOFTMAX) score[k] /= sum;
                bool on = *t3v_attend_chosen(&site, 1, p.chosen, 0, 0, b) >> k & 1;
                if (on) n++, mass += score[k], least = score[k] < least ? score[k] : least;
                else most = score[k] > most ? score[k] : most;
            }
            assert_true(least > most - 1e-6);
            int64_t limit = c[i].max ? c[i].max : M;
            assert_true(n >= keep && n >= c[i].min && n <= limit);
            if (c[i].p == 0) assert_int_equal(n, keep);
            else assert_true(n == limit || mass > c[i].p - 1e-6);
            if (c[i].p > 0 && n > keep) assert_true(mass - least <= c[i].p + 1e-6);
        }
        finish(&p);
        t3v_site_free(&site);
    }
}

/* ---- the contract ---- */

static int64_t chooses_nothing(const void *user, const float *score, int64_t row, int64_t blocks,
                               int32_t *list)
{
    (void)score, (void)list, (void)blocks;
    return row == *(const int64_t *)user ? 0 : (list[0] = (int32_t)row, 1);
}

static int64_t chooses_beyond(const void *user, const float *score, int64_t row, int64_t blocks,
                              int32_t *list)
{
    (void)score;
    list[0] = (int32_t)row, list[1] = (int32_t)(row == *(const int64_t *)user ? blocks : (row + 1) % blocks);
    return 2;
}

static int64_t chooses_below(const void *user, const float *score, int64_t row, int64_t blocks, int32_t *list)
{
    (void)score, (void)blocks;
    list[0] = row == *(const int64_t *)user ? -1 : 0;
    return 1;
}

static int64_t chooses_twice(const void *user, const float *score, int64_t row, int64_t blocks, int32_t *list)
{
    (void)user, (void)score, (void)blocks;
    list[0] = list[1] = (int32_t)row;
    return 2;
}

static int64_t chooses_itself(const void *user, const float *score, int64_t row, int64_t blocks,
                              int32_t *list)
{
    (void)user, (void)score, (void)blocks;
    list[0] = (int32_t)row;
    return 1;
}

/* A broken selection fails the contract, and a run with it still writes every row. */
static void broken_selections_are_caught(void **state)
{
    (void)state;
    static const int64_t row = 4;
    static const struct {
        int64_t (*choose)(const void *, const float *, int64_t, int64_t, int32_t *);
        const char *error;
    } c[] = {
        {chooses_itself, NULL},
        {chooses_nothing, "query block 4: 0 blocks chosen, expected 1 to 6"},
        {chooses_beyond, "query block 4: block 6, which is out of 0 to 5"},
        {chooses_below, "query block 4: block -1, which is out of"},
        {chooses_twice, "query block 0: block 0, which is out of 0 to 5 or chosen twice"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_select s = {
            .score = T3V_SCORE_DOT, .drop = {1, 1}, .min = 1, .choose = c[i].choose, .user = &row};
        t3v_site site;
        if (build_site(&site, 57, 10, &s, 0)) fail_msg("%s", t3v_error_text());
        problem p = start(&site, 57, 2, 16, T3V_F32, 80, (t3v_moment){0});
        t3v_status st = t3v_select_check(&site, &p.a);
        assert_int_equal(st, c[i].error ? T3V_E_ARG : T3V_OK);
        if (c[i].error && !strstr(t3v_error_text(), c[i].error)) fail_msg("%s", t3v_error_text());
        run_forward(&site, &p);
        run_backward(&site, &p);
        assert_true(distance(&site, &p, true) <= 1); /* of the lists that were followed */
        assert_true(*t3v_attend_chosen(&site, 2, p.chosen, 0, 1, 4) != 0);
        finish(&p);
        t3v_site_free(&site);
    }
}

static void bad_descriptions(void **state)
{
    (void)state;
    static const t3v_select c[] = {
        {.drop = {1.1, 0}, .min = 1},
        {.drop = {0.5, -0.1}, .min = 1},
        {.p = 0.5, .score = T3V_SCORE_DOT, .min = 1},
        {.p = 1.5, .score = T3V_SCORE_SOFTMAX, .min = 1},
        {.min = 0},
        {.min = 3, .max = 2},
        {.summary = T3V_SUMMARY_SAMPLE, .min = 1},
    };
    t3v_site site;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        assert_int_equal(build_site(&site, 20, 5, &c[i], 0), T3V_E_ARG);
    static const t3v_select good = {.min = 1};
    assert_int_equal(build_site(&site, 20, 5, &good, 7), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "whole blocks, slot 7"));
    assert_int_equal(build_site(&site, 20, 5, &good, 10), T3V_OK);
    t3v_site_free(&site);

    static const char *const texts[][2] = {
        {"jenga:drop=1.5", "column 7: drop is '1.5', expected a number from 0 to 1"},
        {"jenga:block=0", "column 7: block is '0', expected a number from 1 to 1048576"},
        {"jenga:p=x", "column 7: p is 'x'"},
        {"jenga:p=nan", "column 7: p is 'nan'"},
        {"jenga:later=", "column 7: later is ''"},
        {"jenga:block=8,sparsity=1",
         "column 15: jenga has no option 'sparsity'; its options: block, preset, drop, later, p"},
        {"rainfusion2:sparsity=-1", "column 13: sparsity is '-1'"},
        {"rainfusion2:window=0", "column 13: window is '0'"},
        {"heads 2 -> jenga", "column 7: the model has heads 0 to 1"},
        {"heads 0-1 -> full; heads 1 -> jenga", "column 20: this rule can never match"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        t3v_plan *p;
        assert_int_equal(t3v_plan_make_for(&p, texts[i][0], (t3v_grid){2, 3, 4}, 1, 0, 2), T3V_E_ARG);
        if (!strstr(t3v_error_text(), texts[i][1])) fail_msg("'%s' gave '%s'", texts[i][0], t3v_error_text());
    }
    t3v_plan *p = make("heads 5 -> jenga; full", (t3v_grid){2, 3, 4}, 0); /* heads not known before the run */
    problem x = start(self_of(p), 24, 2, 16, T3V_F32, 1, (t3v_moment){0});
    assert_int_equal(t3v_attend_run(self_of(p), &x.a), T3V_E_ARG);
    finish(&x);
    t3v_plan_free(p);
}

/* ---- lists per head ---- */

static void lists_per_head(void **state)
{
    (void)state;
    enum { N = 61, HEADS = 3 };
    t3v_isa best = t3v_cpu();
    t3v_rng r = t3v_rng_make(5, 5);
    for (int type = T3V_F32; type <= T3V_BF16; type++) {
        t3v_builder *b;
        t3v_site site;
        assert_int_equal(t3v_builder_make(&b, N, 1 << 30), T3V_OK);
        must(t3v_build_term(b, 1));
        for (int h = 0; h < HEADS; h++) {
            if (h) t3v_build_next_head(b);
            for (int64_t i = 0; i < N; i += 9) {
                int64_t from = t3v_rng_below(&r, N - 20);
                t3v_build_block(b, N - i < 9 ? N - i : 9);
                t3v_build_keys(b, from, from + 5);
                t3v_build_keys(b, from + 7 + h, from + 8 + h + t3v_rng_below(&r, 10));
            }
        }
        if (t3v_builder_finish(b, &site)) fail_msg("%s", t3v_error_text());
        t3v_builder_free(b);
        problem p = start(&site, N, HEADS, 16, (t3v_dtype)type, 90, (t3v_moment){0});
        int64_t pairs, macs, sum = 0;
        for (int h = 0; h < HEADS; h++) {
            uint8_t mask[N * N];
            mask_of(&site, &p, 0, h, mask);
            for (int i = 0; i < N * N; i++) sum += mask[i];
        }
        assert_true(t3v_site_cost(&site, N, N, HEADS, 16, NULL, &pairs, &macs));
        assert_int_equal(pairs, sum);
        assert_int_equal(macs, 32 * sum);
        assert_int_equal(t3v_term_pairs(&site.term[0], N, N), (sum + HEADS - 1) / HEADS);
        for (int isa = 0; isa <= (int)best; isa++) {
            t3v_cpu_mask((t3v_isa)isa);
            run_forward(&site, &p);
            run_backward(&site, &p);
            assert_true(distance(&site, &p, true) <= 1);
        }
        t3v_cpu_mask(best);
        p.a.heads = 2;
        assert_int_equal(t3v_attend_run(&site, &p.a), T3V_E_SHAPE);
        finish(&p);
        t3v_site_free(&site);
    }
    t3v_builder *b;
    t3v_site site;
    assert_int_equal(t3v_builder_make(&b, 8, 1 << 30), T3V_OK);
    must(t3v_build_term(b, 1));
    for (int h = 0; h < 2; h++) {
        if (h) t3v_build_next_head(b);
        for (int i = 0; i < 2; i++) {
            t3v_build_block(b, h ? 3 + 2 * i : 4); /* not the same blocks */
            t3v_build_keys(b, 0, 8);
        }
    }
    assert_int_equal(t3v_builder_finish(b, &site), T3V_E_ARG);
    t3v_builder_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_lists_are_attended), cmocka_unit_test(keys_packed_once_are_attended),
        cmocka_unit_test(threads_change_nothing),    cmocka_unit_test(keep_all_is_full),
        cmocka_unit_test(the_best_are_chosen),       cmocka_unit_test(broken_selections_are_caught),
        cmocka_unit_test(bad_descriptions),          cmocka_unit_test(lists_per_head),
    };
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
