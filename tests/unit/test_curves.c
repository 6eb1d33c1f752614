/* SPDX-License-Identifier: Apache-2.0 */
/* Content-based plans before anything runs: curves, windows, what is always met, what a step keeps and costs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/gilbert.h"
#include "attn/pattern.h"
#include "attn/select.h"
#include "base/rng.h"
#include "selected.h"

/* ---- curves ---- */

static void curve_vectors(void **state)
{
    (void)state;
    static const struct {
        int64_t w, h, d;
        int32_t index[24]; /* of each point in linear order */
    } c[] = {
        {4, 4, 1, {0, 1, 14, 15, 3, 2, 13, 12, 4, 7, 8, 11, 5, 6, 9, 10}},
        {6, 4, 1, {0, 1, 2, 3, 22, 23, 7, 6, 5, 4, 21, 20, 8, 11, 12, 15, 16, 19, 9, 10, 13, 14, 17, 18}},
        {2, 2, 2, {0, 7, 1, 6, 3, 4, 2, 5}},
    };
    int32_t order[24];
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_gilbert(c[i].w, c[i].h, c[i].d, order);
        for (int k = 0; k < c[i].w * c[i].h * c[i].d; k++) assert_int_equal(c[i].index[order[k]], k);
    }
    static const int32_t sliced[] = {0,  5,  6,  7,  14, 1,  4,  9,  8,  13, 2,  3,  10, 11, 12,
                                     29, 22, 21, 20, 15, 28, 23, 24, 19, 16, 27, 26, 25, 18, 17};
    t3v_plan *p = make("jenga", (t3v_grid){2, 3, 5}, 0);
    for (int s = 0; s < 30; s++) assert_int_equal(sliced[token(&self_of(p)->term[0], s)], s);
    t3v_plan_free(p);
}

static int jumps(const int32_t *order, int64_t n, int64_t w, int64_t h)
{
    int count = 0;
    for (int64_t i = 1; i < n; i++) {
        int64_t a = order[i - 1], b = order[i];
        count += llabs(a % w - b % w) + llabs(a / w % h - b / w % h) + llabs(a / w / h - b / w / h) != 1;
    }
    return count;
}

/* Every point once, where the descents find it. */
static void curves_fill_their_box(void **state)
{
    (void)state;
    t3v_rng r = t3v_rng_make(3, 0);
    for (int i = 0; i < 200; i++) {
        int64_t w = 1 + t3v_rng_below(&r, 14), h = 1 + t3v_rng_below(&r, 14),
                d = i % 2 ? 1 : 1 + t3v_rng_below(&r, 9), n = w * h * d, p[3];
        int32_t *order = must(malloc((size_t)n * sizeof *order));
        uint8_t *seen = must(calloc((size_t)n, 1));
        t3v_gilbert(w, h, d, order);
        for (int64_t k = 0; k < n; k++) {
            assert_true(order[k] >= 0 && order[k] < n && !seen[order[k]]++);
            assert_int_equal(t3v_gilbert_index(w, h, d, order[k] % w, order[k] / w % h, order[k] / w / h), k);
            t3v_gilbert_point(w, h, d, k, p);
            assert_int_equal((p[2] * h + p[1]) * w + p[0], order[k]);
        }
        free(order), free(seen);
    }
    static const struct {
        int64_t w, h, d;
        int jumps;
    } c[] = {{52, 30, 21, 76}, {80, 45, 21, 360}, {80, 45, 32, 208}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int32_t *order = must(malloc((size_t)(c[i].w * c[i].h * c[i].d) * sizeof *order));
        t3v_gilbert(c[i].w, c[i].h, c[i].d, order);
        assert_int_equal(jumps(order, c[i].w * c[i].h * c[i].d, c[i].w, c[i].h), c[i].jumps);
        free(order);
    }
}

/* ---- what is always met ---- */

/* Adjacency from the order alone, against published figures, and the plan against adjacency and the first-frame rule. */
static void jenga_figures(void **state)
{
    (void)state;
    static const struct {
        t3v_grid g;
        int jumps, least, most, first;
        double mean, density;
    } c[] = {
        {{21, 30, 52}, 0, 6, 23, 12, 13.5, 5.28},
        {{21, 45, 80}, 0, 6, 29, 28, 16.3, 2.76},
        {{21, 22, 39}, 21, 6, 16, 6, 10.9, 7.70},
        {{21, 33, 60}, 0, 6, 25, 15, 13.8, 4.24},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        const t3v_grid g = c[i].g;
        t3v_plan *p = make("jenga", g, 0);
        const t3v_term *t = &self_of(p)->term[0];
        int64_t n = p->tokens, M = (n + 127) / 128, all = 0, added = 0, least = M, most = 0;
        assert_int_equal(t->blocks, M);
        int32_t *slot = must(malloc((size_t)n * sizeof *slot));
        uint8_t *next = must(calloc((size_t)(M * M), 1));
        for (int64_t s = 0; s < n; s++) slot[t->order[s]] = (int32_t)s;
        assert_int_equal(jumps(t->order, n, g.w, g.h), c[i].jumps);
        for (int64_t z = 0; z < g.t; z++)
            for (int64_t y = 0; y < g.h; y++)
                for (int64_t x = 0; x < g.w; x++)
                    for (int64_t w = z > 0 ? z - 1 : 0; w <= z + 1 && w < g.t; w++)
                        for (int64_t v = y > 0 ? y - 1 : 0; v <= y + 1 && v < g.h; v++)
                            for (int64_t u = x > 0 ? x - 1 : 0; u <= x + 1 && u < g.w; u++)
                                next[slot[(z * g.h + y) * g.w + x] / 128 * M +
                                     slot[(w * g.h + v) * g.w + u] / 128] = 1;
        for (int64_t a = 0; a < M; a++) {
            int64_t own = 0;
            for (int64_t b = 0; b < M; b++) {
                own += next[a * M + b];
                assert_int_equal(next[a * M + b], next[b * M + a]);
                bool first = a < c[i].first && b < c[i].first;
                added += first && !next[a * M + b];
                assert_int_equal(always(t, a, b), next[a * M + b] || first);
            }
            assert_true(next[a * M + a]);
            all += own;
            least = own < least ? own : least, most = own > most ? own : most;
        }
        assert_true(added > 0);
        assert_int_equal(least, c[i].least);
        assert_int_equal(most, c[i].most);
        assert_true(fabs((double)all / (double)M - c[i].mean) <= 0.05);
        assert_true(fabs(100 * (double)all / (double)(M * M) - c[i].density) <= 0.005);
        free(slot), free(next);
        t3v_plan_free(p);
    }
}

static void keep_by_step(void **state)
{
    (void)state;
    t3v_plan *p = make("jenga", (t3v_grid){21, 30, 52}, 0);
    const t3v_select *s = self_of(p)->term[0].select;
    static const double drop[] = {0, 0.153, 0.306, 0.459, 0.612, 0.75, 0.75};
    for (int i = 0; i < 50; i++) {
        t3v_moment m = {.step = i, .steps = 50};
        double d = i < 7 ? drop[i] : i <= 25 ? 0.75 : 0.85;
        /* the ramp is given to three places */
        int64_t want = i < 2 ? 256 : (int64_t)floor(256 * (1 - d) + (i < 5 ? 0.2 : 0));
        assert_true(llabs(t3v_select_keep(s, 256, &m) - want) <= (i >= 2 && i < 5));
    }
    assert_int_equal(t3v_select_keep(s, 256, NULL), 64);
    t3v_moment third = {.step = 2, .steps = 50};
    assert_int_equal(t3v_select_keep(s, 256, &third), (int64_t)floor(256 * (1 - 0.75 * 20 / 49)));
    t3v_plan_free(p);

    /* rainfusion2 at 0.8: 24.4 to 29.2 % at 480p, 24.1 to 28.7 % at 720p; the first 15 of 40 steps are dense. */
    static const struct {
        t3v_grid g;
        int64_t first, keep;
        double low, high;
    } c[] = {{{21, 30, 52}, 13, 52, 24.4, 29.2}, {{21, 45, 80}, 29, 119, 24.1, 28.7}};
    for (size_t i = 0; i < 2; i++) {
        p = make("rainfusion2", c[i].g, 12);
        const t3v_term *t = &self_of(p)->term[0];
        double M = (double)t->blocks, first = (double)c[i].first, keep = (double)c[i].keep;
        assert_int_equal(t3v_select_keep(t->select, t->blocks, NULL), c[i].keep);
        for (int q = 0; q < t->blocks; q++)
            for (int k = 0; k < t->blocks; k += 7)
                assert_int_equal(always(t, q, k), q < c[i].first || k < c[i].first);
        assert_true(fabs(100 * (first * M + (M - first) * keep) / M / M - c[i].low) <= 0.06);
        assert_true(fabs(100 * (first * M + (M - first) * (keep + first)) / M / M - c[i].high) <= 0.06);
        double pairs = (double)t3v_term_pairs(t, 0, 0) / (double)p->tokens / (double)p->tokens * 100;
        assert_true(fabs(pairs - c[i].low) <= 0.3); /* the tail block is small */
        for (int step = 0; step < 40; step++) {
            t3v_moment m = {.step = step, .steps = 40};
            assert_int_equal(t3v_select_keep(t->select, t->blocks, &m), step < 15 ? t->blocks : c[i].keep);
        }
        t3v_plan_free(p);
    }
}

static void windows(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{8, 8}, {30, 52}, {45, 80}, {7, 9}, {16, 24}, {8, 9}, {1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t H = sizes[i][0], W = sizes[i][1], h = H / 8 * 8, w = W / 8 * 8, at = 0;
        t3v_plan *p = make("rainfusion2", (t3v_grid){3, H, W}, 0);
        const t3v_term *t = &self_of(p)->term[0];
        for (int64_t f = 0; f < 3; f++) {
            bool raster = f == 0 && (h < H || w < W);
            for (int64_t k = 0; raster && k < H * W; k++) assert_int_equal(token(t, at++), k);
            if (raster) continue;
            for (int64_t k = 0; k < h * w; k++) { /* window, line, column */
                int64_t window = k / 64, y = window / (w / 8) * 8 + k / 8 % 8,
                        x = window % (w / 8) * 8 + k % 8;
                assert_int_equal(token(t, at++), (f * H + y) * W + x);
            }
            for (int64_t y = h; y < H; y++)
                for (int64_t x = 0; x < W; x++) assert_int_equal(token(t, at++), (f * H + y) * W + x);
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = w; x < W; x++) assert_int_equal(token(t, at++), (f * H + y) * W + x);
        }
        t3v_plan_free(p);
    }
}

/* The ranges of a selected term against allows(), with blocks small enough that there are many. */
static void allows_is_always(void **state)
{
    (void)state;
    static const t3v_grid grids[] = {{3, 5, 7}, {4, 3, 5}, {1, 11, 6}, {5, 2, 9}, {2, 4, 8}, {13, 1, 1}};
    static const char *const names[] = {"jenga", "rainfusion2"}, *const options[] = {"block=3",
                                                                                     "block=7,window=2"};
    static const char *const jenga_options[] = {"block=3", "block=7"};
    for (int i = 0; i < 6; i++)
        for (int n = 0; n < 2; n++) {
            const char *own = n ? options[i % 2] : jenga_options[i % 2];
            char text[64];
            int64_t store[32];
            snprintf(text, sizeof text, "%s:%s", names[n], own);
            t3v_plan *p = make(text, grids[i], 0);
            const t3v_term *t = &self_of(p)->term[0];
            const t3v_pattern *pattern = t3v_pattern_find(names[n], strlen(names[n]));
            t3v_geom geom = {grids[i], p->tokens, 0, 1, 1536, 0};
            assert_int_equal(t3v_options_parse(pattern->options, store, names[n], own, strlen(own), 1),
                             T3V_OK);
            for (int64_t q = 0; q < p->tokens; q++)
                for (int64_t k = 0; k < p->tokens; k++) {
                    int64_t a = 0, b = 0;
                    while (t->block_first[a + 1] <= q) a++;
                    while (t->block_first[b + 1] <= k) b++;
                    if (always(t, a, b) != pattern->allows(store, &geom, 0, token(t, q), token(t, k)))
                        fail_msg("'%s' on grid %d: slots %d and %d", text, i, (int)q, (int)k);
                }
            t3v_plan_free(p);
        }
}

/* Pairs and multiply-adds of a site whose heads and steps differ. */
static void costs_by_step(void **state)
{
    (void)state;
    t3v_plan *p = make("heads 0 -> full; steps 0-1 -> full; rainfusion2:block=4,sparsity=0.5",
                       (t3v_grid){4, 2, 4}, 4);
    const t3v_site *s = self_of(p);
    assert_int_equal(s->rules, 3);
    int64_t pairs, macs;
    for (int step = 0; step < 4; step++) {
        t3v_moment m = {.step = step, .steps = 4};
        assert_true(t3v_site_cost(s, 32, 32, 4, 16, &m, &pairs, &macs));
        /* two first blocks of eight meet all, the others at least four blocks */
        int64_t sparse = 32 * 32 / 4 + 24 * 16, full = 32 * 32;
        assert_int_equal(pairs, step < 2 ? 4 * full : full + 3 * sparse);
        assert_int_equal(macs, 32 * pairs);
    }
    assert_true(t3v_site_selects(s));
    assert_false(t3v_plan_needs_tuning(p));
    t3v_plan_free(p);
    p = make("steps 1 -> t3; full", (t3v_grid){2, 2, 4}, 4);
    assert_true(t3v_plan_needs_tuning(p));
    t3v_plan_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curve_vectors), cmocka_unit_test(curves_fill_their_box),
        cmocka_unit_test(jenga_figures), cmocka_unit_test(keep_by_step),
        cmocka_unit_test(windows),       cmocka_unit_test(allows_is_always),
        cmocka_unit_test(costs_by_step),
    };
    return cmocka_run_group_tests_name("curves", tests, NULL, NULL);
}
