/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: published figures, any grid, reach, equal terms computed once, errors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "attn/attend.h"
#include "attn/pattern.h"
#include "attn/plan.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "tensor/dtype.h"

static t3v_plan *make(const char *text, t3v_grid grid, int layers, int64_t dim)
{
    t3v_plan *plan;
    if (t3v_plan_make_for(&plan, text, grid, layers, dim, 0)) fail_msg("'%s': %s", text, t3v_error_text());
    return plan;
}

static const t3v_site *self_of(const t3v_plan *p, int layer) { return &p->layer[layer].site[T3V_SITE_SELF]; }

static double macs_of(const t3v_plan *p, int64_t dim)
{
    double sum = 0;
    for (int i = 0; i < p->layers; i++)
        for (int t = 0; t < self_of(p, i)->terms; t++)
            sum += 2.0 * (double)dim * (double)t3v_term_pairs(&self_of(p, i)->term[t], 0, 0);
    return sum;
}

/* spec: windows and their tokens by layer, and the sums over 30 layers in 1e12 multiply-adds. */
static void published_figures(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        t3v_grid grid;
        int64_t dim, keys[5];
        double full, plan, ratio;
    } c[] = {
        {"t3", {21, 136, 240}, 1536, {32640, 1344, 2142, 1680, 2040}, 43299.3, 594.5, 72.84},
        {"t3", {21, 68, 120}, 3072, {8160, 504, 1680, 952, 765}, 5412.4, 100.8, 53.68},
        {"t3:family=5b", {21, 68, 120}, 0, {8160, 504, 1680, 952, 765}, 0, 0, 53.68},
        {"t3:blocks=21x1x1/1x17x20/1x17x6/3x4x15/7x4x8,family=1.3b",
         {21, 68, 120},
         3072,
         {8160, 504, 1680, 952, 765},
         5412.4,
         100.8,
         53.68},
    };
    for (int i = 0; i < 4; i++) {
        t3v_plan *p = make(c[i].text, c[i].grid, 30, c[i].dim);
        double n = (double)p->tokens, full = 2.0 * (double)c[i].dim * n * n * 30, plan = macs_of(p, c[i].dim);
        if (c[i].full > 0) {
            assert_true(fabs(full / 1e12 - c[i].full) <= 0.05);
            assert_true(fabs(plan / 1e12 - c[i].plan) <= 0.05);
            assert_true(fabs(full / plan - c[i].ratio) <= 0.005);
        }
        for (int l = 0; l < 30; l++) {
            const t3v_site *s = self_of(p, l);
            assert_int_equal(s->terms, l % 5 ? 2 : 1);
            assert_ptr_equal(s->term, self_of(p, l % 5)->term); /* kept once */
            assert_string_equal(p->layer[l].source, i == 3 ? "given" : "table");
            assert_int_equal(p->layer[l].blocks[0] * p->layer[l].blocks[1] * p->layer[l].blocks[2],
                             s->term[0].blocks);
            for (int t = 0; t < s->terms; t++)
                for (int64_t b = 0; b < s->term[t].blocks; b++)
                    assert_int_equal(t3v_term_keys(&s->term[t], b, 0), c[i].keys[l % 5]);
        }
        t3v_plan_free(p);
    }
}

/* Counts derived from the published edges: by hand from floor(G/m + 1/2). */
static void derived_counts(void **state)
{
    (void)state;
    static const struct {
        t3v_grid grid;
        int64_t dim, n[5][3];
    } c[] = {
        {{21, 45, 80}, 1536, {{21, 1, 1}, {1, 6, 10}, {1, 3, 13}, {3, 6, 3}, {7, 3, 2}}},
        {{21, 80, 45}, 1536, {{21, 1, 1}, {1, 10, 6}, {1, 13, 3}, {3, 3, 6}, {7, 2, 3}}},
        {{21, 240, 136}, 1536, {{21, 1, 1}, {1, 30, 17}, {1, 40, 8}, {3, 8, 17}, {7, 6, 8}}},
        {{42, 30, 52}, 1536, {{42, 1, 1}, {1, 4, 7}, {1, 2, 9}, {6, 4, 2}, {14, 2, 1}}},
        {{1, 2, 3}, 1536, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
        {{21, 68, 120}, 1536, {{21, 1, 1}, {1, 9, 15}, {1, 4, 20}, {3, 9, 4}, {7, 4, 3}}},
        {{21, 23, 40}, 3072, {{21, 1, 1}, {1, 6, 7}, {1, 6, 2}, {3, 1, 5}, {7, 1, 3}}},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_plan *p = make("t3", c[i].grid, 10, c[i].dim);
        for (int l = 0; l < 10; l++) {
            assert_string_equal(p->layer[l].source, "derived");
            for (int a = 0; a < 3; a++) assert_int_equal(p->layer[l].blocks[a], c[i].n[l % 5][a]);
        }
        t3v_plan_free(p);
    }
}

static void grid_is_rounded_to_the_table(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        t3v_grid from, to;
        int64_t dim;
    } c[] = {
        {"t3", {21, 135, 240}, {21, 136, 240}, 1536},
        {"t3", {21, 134, 240}, {21, 134, 240}, 1536},
        {"t3", {20, 135, 240}, {20, 135, 240}, 1536},
        {"full", {21, 135, 240}, {21, 135, 240}, 1536},
        {"t3:blocks=1x1x1", {21, 135, 240}, {21, 135, 240}, 0},
        {"t3", {21, 68, 119}, {21, 68, 120}, 3072},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_grid g = c[i].from;
        assert_int_equal(t3v_plan_fit(c[i].text, 30, c[i].dim, &g), T3V_OK);
        assert_true(g.t == c[i].to.t && g.h == c[i].to.h && g.w == c[i].to.w);
    }
}

/* block[token] of a term that is a partition; fails when a token is in none or in two. */
static int32_t *blocks_of(const t3v_plan *p, const t3v_term *t)
{
    int32_t *block = malloc((size_t)p->tokens * sizeof *block);
    for (int64_t i = 0; i < p->tokens; i++) block[i] = -1;
    assert_int_equal(t->block_first[0], 0);
    assert_int_equal(t->block_first[t->blocks], p->tokens);
    for (int64_t b = 0; b < t->blocks; b++) {
        assert_int_equal(t->range_first[b + 1] - t->range_first[b], 1);
        assert_int_equal(t->ranges[b].first, t->block_first[b]);
        assert_int_equal(t->ranges[b].last, t->block_first[b + 1]);
        for (int32_t s = t->block_first[b]; s < t->block_first[b + 1]; s++) {
            int32_t token = t->order ? t->order[s] : s;
            assert_int_equal(block[token], -1);
            block[token] = (int32_t)b;
        }
    }
    return block;
}

/* Plan against allows(): all pairs up to `limit` tokens, else pairs at random and pairs of a block. */
static void check_plan(const char *text, const void *options, t3v_grid g, int layers, int64_t limit,
                       t3v_rng *rng)
{
    t3v_plan *p = make(text, g, layers, 1536);
    for (int l = 0; l < layers; l++) {
        const t3v_site *s = self_of(p, l);
        t3v_geom geom = {g, p->tokens, l, layers, 1536, 0};
        double weight = 0;
        for (int t = 0; t < s->terms; t++) {
            const t3v_term *term = &s->term[t];
            int32_t *block = blocks_of(p, term);
            int64_t wrong = 0;
            if (p->tokens <= limit) {
                for (int64_t q = 0; q < p->tokens; q++)
                    for (int64_t k = 0; k < p->tokens; k++)
                        wrong += (block[q] == block[k]) !=
                                 p->layer[l].pattern->allows(options, &geom, t, q, k);
            } else {
                for (int i = 0; i < 2000; i++) {
                    int64_t q = t3v_rng_below(rng, p->tokens), k = t3v_rng_below(rng, p->tokens);
                    if (i % 2) {
                        int32_t b = block[q];
                        int32_t slot = term->block_first[b] +
                                       (int32_t)t3v_rng_below(rng, term->block_first[b + 1] -
                                                                       term->block_first[b]);
                        k = term->order ? term->order[slot] : slot;
                    }
                    wrong += (block[q] == block[k]) != p->layer[l].pattern->allows(options, &geom, t, q, k);
                }
            }
            if (wrong)
                fail_msg("'%s' on %lldx%lldx%lld, layer %d, term %d: %lld pairs differ from allows()", text,
                         (long long)g.t, (long long)g.h, (long long)g.w, l, t, (long long)wrong);
            weight += (double)term->weight;
            free(block);
        }
        assert_true(weight == 1);
        if (s->terms == 2) assert_false(t3v_term_equal(&s->term[0], &s->term[1]));
    }
    t3v_plan_free(p);
}

static void any_grid(void **state)
{
    (void)state;
    static const t3v_grid grids[] = {
        /* 2160, 1080, 720, 480 lines */
        {21, 135, 240}, {21, 68, 120}, {21, 45, 80},  {21, 30, 52},
        {21, 240, 135}, {21, 120, 68}, {21, 80, 45},  {21, 52, 30}, /* upright */
        {42, 30, 52},   {42, 45, 80},  {1, 135, 240}, {1, 30, 52},
        {5, 16, 16},    {1, 1, 1},     {21, 1, 1},
    };
    int64_t options[32];
    const t3v_pattern *t3 = t3v_pattern_find("t3", 2);
    assert_non_null(t3);
    assert_true(t3->options_size <= sizeof options);
    assert_int_equal(t3v_options_parse(t3->options, options, "t3", "", 0, 1), T3V_OK);
    t3v_rng rng = t3v_rng_make(1, 0);
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++)
        check_plan("t3", options, grids[i], 5, 400, &rng);

    /* 200 random grids, half of their axes prime, with random counts. */
    static const int64_t primes[] = {2, 3, 5, 7, 11, 13};
    for (int i = 0; i < 200; i++) {
        int64_t G[3];
        for (int a = 0; a < 3; a++)
            G[a] = t3v_rng_below(&rng, 2) ? primes[t3v_rng_below(&rng, a ? 6 : 3)]
                                          : 1 + t3v_rng_below(&rng, a ? 12 : 6);
        char text[200];
        int at = snprintf(text, sizeof text, "t3:branch=%s,blocks=",
                          i % 3 == 0   ? "close"
                          : i % 3 == 1 ? "remote"
                                       : "both");
        for (int r = 0; r < 2; r++) {
            at += snprintf(text + at, sizeof text - (size_t)at, "%s", r ? "/" : "");
            for (int a = 0; a < 3; a++)
                at += snprintf(text + at, sizeof text - (size_t)at, "%s%d", a ? "x" : "",
                               1 + (int)t3v_rng_below(&rng, G[a]));
        }
        assert_int_equal(t3v_options_parse(t3->options, options, "t3", text + 3, strlen(text + 3), 1),
                         T3V_OK);
        check_plan(text, options, (t3v_grid){G[0], G[1], G[2]}, 3, 1000, &rng);
    }
}

/* The definition, with a matrix of who knows whom, from allows(). */
static int reach_by_force(const t3v_plan *p, const void *options)
{
    int64_t n = p->tokens;
    bool *know = malloc((size_t)(n * n)), *next = malloc((size_t)(n * n));
    int most = 0;
    for (int start = 0; start < p->layers && most >= 0; start++) {
        for (int64_t i = 0; i < n * n; i++) know[i] = i / n == i % n;
        int k = 0;
        for (bool all = false; !all && k >= 0;) {
            int l = (start + k) % p->layers;
            t3v_geom geom = {p->grid, n, l, p->layers, 0, 0};
            memcpy(next, know, (size_t)(n * n));
            for (int t = 0; t < self_of(p, l)->terms; t++)
                for (int64_t q = 0; q < n; q++)
                    for (int64_t x = 0; x < n; x++)
                        if (p->layer[l].pattern->allows(options, &geom, t, q, x))
                            for (int64_t s = 0; s < n; s++) next[q * n + s] |= know[x * n + s];
            memcpy(know, next, (size_t)(n * n));
            all = true;
            for (int64_t i = 0; i < n * n; i++) all &= know[i];
            if (++k > 20) k = -1;
        }
        most = k < 0 ? -1 : k > most ? k : most;
    }
    free(know), free(next);
    return most;
}

static void reach(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        t3v_grid grid;
        int layers, want; /* want 0: only the two ways are compared */
    } c[] = {
        {"t3:blocks=3x1x1", {3, 2, 2}, 2, -1},
        {"t3:blocks=1x1x1", {3, 2, 2}, 2, 1},
        {"t3:blocks=3x1x1/1x2x2", {3, 2, 2}, 4, 2},
        {"t3:blocks=1x1x7,branch=close", {1, 1, 7}, 1, -1},
        {"t3:blocks=1x1x2,branch=both", {1, 1, 7}, 3, 0},
        {"t3:blocks=4x1x1/1x2x3/1x2x2/2x2x2/2x1x3", {4, 3, 5}, 5, 0},
        {"t3:blocks=5x1x1/1x3x4,branch=remote", {5, 3, 4}, 2, 0},
        {"t3:blocks=1x2x2/2x1x1", {2, 5, 5}, 3, 0},
        {"t3", {3, 5, 4}, 6, 0},
        {"swin:window=1x1x4", {1, 1, 13}, 2, 0},
        {"swin:window=2x2x3", {3, 5, 7}, 4, 0},
        {"swin:window=2x2x3,shift=never", {3, 5, 7}, 2, -1},
        {"swin:window=1x2x3/3x5x7", {3, 5, 7}, 4, 0},
        {"swin", {3, 5, 9}, 3, 0},
        {"tile", {7, 2, 3}, 2, 2}, /* through a reference frame */
        {"tile:k=0", {5, 2, 3}, 2, -1},
        {"tile:k=0/5", {5, 2, 3}, 4, 2},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_plan *p = make(c[i].text, c[i].grid, c[i].layers, 0);
        int64_t options[32];
        const t3v_pattern *pattern = p->layer[0].pattern;
        const char *text = c[i].text + strlen(pattern->name);
        text += *text == ':';
        assert_true(pattern->options_size <= sizeof options);
        assert_int_equal(t3v_options_parse(pattern->options, options, pattern->name, text, strlen(text), 1),
                         T3V_OK);
        int got, want = reach_by_force(p, options);
        assert_int_equal(t3v_plan_reach(p, &got), T3V_OK);
        if (got != want || (c[i].want && got != c[i].want))
            fail_msg("'%s' reaches everything in %d layers, by force %d, expected %d", c[i].text, got, want,
                     c[i].want);
        t3v_plan_free(p);
    }
    t3v_plan *p = make("full", (t3v_grid){17, 17, 17}, 2, 0); /* beyond what is computed exactly */
    int got;
    assert_int_equal(t3v_plan_reach(p, &got), T3V_OK);
    assert_int_equal(got, 1);
    t3v_plan_free(p);
    p = make("t3:blocks=17x1x1", (t3v_grid){17, 17, 17}, 2, 0);
    assert_int_equal(t3v_plan_reach(p, &got), T3V_OK);
    assert_int_equal(got, -1);
    t3v_plan_free(p);
}

/* A layer whose two partitions are one gives the same bits as the mean of both, computed separately: a weight of 1/2
 * scales a row by a power of two, which is exact, and x/2 + x/2 is x. True of every kernel, as each puts the weight into
 * the reciprocal of the row's denominator or on the row; false of a joint softmax over doubled keys. */
static void once_is_twice(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    static const t3v_grid grids[] = {{5, 6, 7}, {3, 1, 40}, {1, 9, 9}};
    enum { HEADS = 2, DIM = 32, WIDTH = HEADS * DIM };
    for (size_t i = 0; i < 3; i++)
        for (int kind = 0; kind < 2 * ((int)best + 1); kind++) {
            bool bf16 = kind % 2;
            t3v_cpu_mask((t3v_isa)(kind / 2));
            char text[64];
            snprintf(text, sizeof text, "t3:blocks=%lldx1x1", (long long)grids[i].t);
            t3v_plan *p = make(text, grids[i], 1, 0);
            const t3v_site *once = self_of(p, 0);
            assert_int_equal(once->terms, 1);
            t3v_term two[2] = {once->term[0], once->term[0]};
            two[0].weight = two[1].weight = 0.5f;
            t3v_site twice = {.terms = 2, .term = two};
            int64_t n = p->tokens;
            t3v_dtype type = bf16 ? T3V_BF16 : T3V_F32;
            float *x = malloc((size_t)(3 * n * WIDTH) * sizeof *x),
                  *out = malloc((size_t)(2 * n * WIDTH) * sizeof *out);
            t3v_bf16 *half = malloc((size_t)(3 * n * WIDTH) * sizeof *half);
            t3v_normal_fill(x, 3 * n * WIDTH, 7, i, 0);
            for (int64_t j = 0; j < 3 * n * WIDTH; j++) half[j] = t3v_f32_to_bf16(x[j]);
            char *in = bf16 ? (char *)half : (char *)x;
            size_t step = (size_t)(n * WIDTH) * t3v_dtype_size(type);
            for (int k = 0; k < 2; k++) {
                const t3v_site *s = k ? &twice : once;
                t3v_attend_args a = {.n_q = n,
                                     .n_k = n,
                                     .heads = HEADS,
                                     .dim = DIM,
                                     .q = in,
                                     .k = in + step,
                                     .v = in + 2 * step,
                                     .type = type,
                                     .q_stride = WIDTH,
                                     .k_stride = WIDTH,
                                     .v_stride = WIDTH,
                                     .out = out + k * n * WIDTH,
                                     .out_type = T3V_F32,
                                     .out_stride = WIDTH};
                a.scratch_bytes = t3v_attend_scratch(s, &a);
                a.scratch = malloc(a.scratch_bytes + 1);
                if (t3v_attend_run(s, &a)) fail_msg("%s", t3v_error_text());
                free(a.scratch);
            }
            assert_memory_equal(out, out + n * WIDTH, (size_t)(n * WIDTH) * sizeof *out);
            free(x), free(out), free(half);
            t3v_plan_free(p);
        }
    t3v_cpu_mask(best);
}

/* Lengths of the blocks of a line of tokens. */
static void expect_blocks(const char *text, int64_t n, int layer, int blocks, const int64_t *sizes)
{
    t3v_plan *p = make(text, (t3v_grid){1, 1, n}, 4, 0);
    const t3v_site *s = self_of(p, layer);
    assert_int_equal(s->terms, 1);
    assert_int_equal(s->term[0].blocks, blocks);
    assert_int_equal(p->layer[layer].blocks[2], blocks);
    for (int b = 0; b < blocks; b++)
        assert_int_equal(s->term[0].block_first[b + 1] - s->term[0].block_first[b], sizes[b]);
    t3v_plan_free(p);
}

static void swin_windows(void **state)
{
    (void)state;
    expect_blocks("swin:window=1x1x4", 10, 0, 3, (int64_t[]){4, 4, 2});
    expect_blocks("swin:window=1x1x4", 10, 1, 3, (int64_t[]){2, 4, 4});
    expect_blocks("swin:window=1x1x4,shift=never", 10, 1, 3, (int64_t[]){4, 4, 2});
    expect_blocks("swin:window=1x1x5,shift=always", 10, 2, 3, (int64_t[]){2, 5, 3});
    expect_blocks("swin:window=1x1x1", 3, 1, 3, (int64_t[]){1, 1, 1});
    expect_blocks("swin:window=1x1x4/1x1x10", 10, 3, 1,
                  (int64_t[]){10}); /* as large as the axis: not moved */
    expect_blocks("swin", 15, 0, 3, (int64_t[]){7, 7, 1});
    expect_blocks("swin", 15, 1, 3, (int64_t[]){3, 7, 5});
    expect_blocks("swin", 5, 1, 1, (int64_t[]){5});
}

/* The sparsities printed for the masks k : N-k: kernel blocks of 128 x 128 tokens without any pair that meets, at 45 x 80
 * tokens a frame (spec: Table 1). And by pairs, 1 - (2kN - k^2 + N - k) / N^2. */
static void tile_sparsities(void **state)
{
    (void)state;
    static const struct {
        int frames, k;
        double percent;
    } c[] = {{8, 4, 17.60},  {8, 3, 29.88},  {8, 2, 45.47},  {8, 1, 64.38}, {24, 12, 21.51},
             {24, 8, 40.30}, {24, 6, 51.88}, {24, 4, 64.98}, {24, 3, 72.05}};
    enum { S = 45 * 80, BLOCK = 128, MOST = 24 * S / BLOCK };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char text[32];
        snprintf(text, sizeof text, "tile:k=%d", c[i].k);
        int64_t N = c[i].frames, k = c[i].k, n = N * S / BLOCK, kept = 0;
        t3v_plan *p = make(text, (t3v_grid){N, 45, 80}, 1, 0);
        const t3v_term *t = &self_of(p, 0)->term[0];
        assert_int_equal(t3v_term_pairs(t, 0, 0), (2 * k * N - k * k + N - k) * S * S);
        for (int64_t q = 0; q < n; q++) {
            bool seen[MOST] = {false};
            for (int64_t f = q * BLOCK / S; f <= ((q + 1) * BLOCK - 1) / S; f++)
                for (int64_t r = t->range_first[f]; r < t->range_first[f + 1]; r++)
                    for (int64_t j = t->ranges[r].first / BLOCK; j <= (t->ranges[r].last - 1) / BLOCK; j++)
                        seen[j] = true;
            for (int64_t j = 0; j < n; j++) kept += seen[j];
        }
        double percent = 100 * (1 - (double)kept / (double)(n * n));
        if (!(fabs(percent - c[i].percent) <= 0.005))
            fail_msg("%s: %.4f %%, printed %.2f", text, percent, c[i].percent);
        t3v_plan_free(p);
    }
    /* All frames as references is full attention; references that would run over the end are spread evenly. */
    t3v_plan *p = make("layers 0 -> full; tile:k=5/5/4", (t3v_grid){5, 2, 2}, 3, 0);
    assert_ptr_equal(self_of(p, 1)->term, self_of(p, 0)->term);
    assert_int_equal(t3v_term_pairs(&self_of(p, 2)->term[0], 0, 0), (2 * 4 * 5 - 16 + 1) * 16);
    t3v_plan_free(p);
}

static void bad_plans(void **state)
{
    (void)state;
    static const char *const c[][2] = {
        {"t3:blocks=0x1x1", "column 11: 0 blocks along time, expected 1 to 4"},
        {"t3:blocks=-1x1x1", "column 11: -1 blocks along time"},
        {"t3:blocks=1x4x1", "column 13: 4 blocks along height, expected 1 to 3"},
        {"t3:blocks=1x1x1/1x1x6", "column 21: 6 blocks along width, expected 1 to 5"},
        {"t3:blocks=1x1", "column 14: expected TxHxW"},
        {"t3:blocks=1x1x", "column 15: expected a count of blocks along width"},
        {"t3:blocks=1x1x1/", "column 17: expected a count of blocks along time"},
        {"t3:blocks=1x1x1;", "column 17: expected a rule"},
        {"t3:blocks=1x1x1x1", "column 16: expected '/'"},
        {"t3:blocks=ax1x1", "column 11: expected a count"},
        {"t3:blocks=9999999999x1x1", "column 11: 999999999 blocks along time"},
        {"t3:blocks=", "column 4: blocks is empty"},
        {"t3:branch=near", "column 4: branch is 'near', expected one of: both, close, remote"},
        {"t3:branch=", "column 4: branch is '', expected one of"},
        {"t3:family=14b", "column 4: family is '14b', expected one of: auto, 1.3b, 5b"},
        {"t3:windows=1x1x1", "column 4: t3 has no option 'windows'; its options: blocks, branch, family"},
        {"layers 1 -> t3:blocks=1x1x9", "layer 1: plan, column 27: 9 blocks along width"},
        {"cross -> t3", "column 10: cross-attention can only be full"},
        {"swin:window=0x1x1", "column 13: 0 tokens of a window along time, expected 1 to 4"},
        {"swin:window=1x4x1", "column 15: 4 tokens of a window along height, expected 1 to 3"},
        {"swin:window=1x1", "column 16: expected TxHxW"},
        {"swin:shift=half", "column 6: shift is 'half', expected one of: alternate, never, always"},
        {"swin:blocks=1x1x1", "column 6: swin has no option 'blocks'; its options: window, shift"},
        {"tile:k=5", "column 8: 5 reference frames along time, expected 0 to 4"},
        {"tile:k=-1", "column 8: -1 reference frames along time"},
        {"tile:k=1/", "column 10: expected a count of reference frames"},
        {"tile:k=1x2", "column 9: expected '/' and the next layer's count"},
        {"tile:k=", "column 6: k is empty"},
        {"tiles", "column 1: unknown pattern 'tiles'; known: "},
        {"layers 0 -> windows", "column 13: unknown pattern 'windows'"},
        {"layers 2 -> t3", "column 8: the model has layers 0 to 1"},
        {"layers 0-2 -> swin", "column 8: the model has layers 0 to 1"},
        {"layers 2 mod 3 -> tile", "column 8: the model has layers 0 to 1"},
        {"layers -1 -> tile", "column 8: expected a layer number"},
        {"layers 99999999999 -> tile", "column 8: expected a layer number"},
        {"layers 0-1 -> swin; tile", "column 21: this rule can never match"},
        {"layers 0 mod 1 -> swin; else -> tile", "column 25: this rule can never match"},
        {"layers 1 -> t3; layers 1 mod 2 -> swin", "column 17: this rule can never match"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_plan *p;
        assert_int_equal(t3v_plan_make(&p, c[i][0], (t3v_grid){4, 3, 5}, 2), T3V_E_ARG);
        assert_null(p);
        if (!strstr(t3v_error_text(), c[i][1]))
            fail_msg("'%s' gave '%s', expected '%s' in it", c[i][0], t3v_error_text(), c[i][1]);
    }
    char path[] = "/tmp/t3v_plan_XXXXXX", text[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("# first\nlayers 0 -> t3:blocks=1x1x2\nt3:blocks=1x8x1\n", f);
    fclose(f);
    snprintf(text, sizeof text, "@%s", path);
    t3v_plan *p;
    assert_int_equal(t3v_plan_make(&p, text, (t3v_grid){4, 3, 5}, 2), T3V_E_ARG);
    remove(path);
    if (!strstr(t3v_error_text(), "line 3") || !strstr(t3v_error_text(), "column 13: 8 blocks along height"))
        fail_msg("%s", t3v_error_text());

    static const t3v_grid large[] = {{1 << 16, 1 << 15, 1},
                                     {1 << 21, 1 << 21, 1 << 21},
                                     {INT64_MAX, 1, 1},
                                     {INT64_MAX, INT64_MAX, 2}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        assert_int_equal(t3v_plan_make(&p, "t3", large[i], 2), T3V_E_TOO_BIG);
        assert_null(p);
        assert_non_null(strstr(t3v_error_text(), "more than 2^31-1 tokens"));
    }
    static const t3v_grid none[] = {{0, 1, 1}, {1, -1, 1}, {1, 1, 0}};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(t3v_plan_make(&p, "t3", none[i], 2), T3V_E_ARG);
}

/* What a plan may cost is bounded before it is spent: memory, and the time to find rules that never match. */
static void hostile_plans(void **state)
{
    (void)state;
    t3v_plan *p;
    /* 8 GB for one order; and 32 layers that differ, 400 MB each. */
    assert_int_equal(t3v_plan_make(&p, "t3", (t3v_grid){2000, 1000, 1000}, 1), T3V_E_TOO_BIG);
    assert_non_null(strstr(t3v_error_text(), "more than 4 GiB"));
    t3v_builder *b;
    t3v_site site;
    assert_int_equal(t3v_builder_make(&b, 100, 4 * 100 + 2000), T3V_OK);
    t3v_build_term(b, 1);
    for (int i = 0; i < 100; i++) t3v_build_block(b, 1), t3v_build_keys(b, i, i + 1);
    assert_int_equal(t3v_builder_finish(b, &site), T3V_E_TOO_BIG);
    t3v_builder_free(b);

    enum { SIZE = 1 << 17 };
    char *text = malloc(SIZE);
    assert_non_null(text);
    memset(text, ' ', SIZE - 1);
    text[SIZE - 1] = 0;
    memcpy(text, "full", 4);
    assert_int_equal(t3v_plan_make(&p, text, (t3v_grid){2, 2, 2}, 1), T3V_E_TOO_BIG);
    assert_non_null(strstr(t3v_error_text(), "at most 65535"));

    /* 255 rules of as many heads and cycles of steps: to try all steps of all of them would take hours. */
    size_t at = 0;
    for (int i = 0; i < 255; i++)
        at += (size_t)snprintf(text + at, SIZE - at, "heads %d steps %d mod %d -> full;", i, i, 733 + i);
    snprintf(text + at, SIZE - at, "heads 0-254 steps 0 mod 2 -> full");
    clock_t start = clock();
    t3v_status st = t3v_plan_make(&p, text, (t3v_grid){1, 1, 1}, 1000);
    assert_true(st == T3V_OK || st == T3V_E_ARG);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 20); /* with sanitizers; 0.2 s without */
    t3v_plan_free(p);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_figures),
        cmocka_unit_test(derived_counts),
        cmocka_unit_test(grid_is_rounded_to_the_table),
        cmocka_unit_test(any_grid),
        cmocka_unit_test(reach),
        cmocka_unit_test(once_is_twice),
        cmocka_unit_test(swin_windows),
        cmocka_unit_test(tile_sparsities),
        cmocka_unit_test(bad_plans),
        cmocka_unit_test(hostile_plans),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
