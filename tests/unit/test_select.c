/* SPDX-License-Identifier: Apache-2.0 */
/* Content-based plans: curves, always-met blocks, what is chosen, and attention over what was chosen against its definition. */
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
#include "attn/gilbert.h"
#include "attn/pattern.h"
#include "attn/select.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "dense.h"

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static t3v_plan *make(const char *text, t3v_grid grid, int64_t heads)
{
    t3v_plan *plan;
    if (t3v_plan_make_for(&plan, text, grid, 1, 1536, heads)) fail_msg("'%s': %s", text, t3v_error_text());
    return plan;
}

static const t3v_site *self_of(const t3v_plan *p) { return &p->layer[0].site[T3V_SITE_SELF]; }
static int32_t token(const t3v_term *t, int64_t slot) { return t->order ? t->order[slot] : (int32_t)slot; }

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

static bool always(const t3v_term *t, int64_t q, int64_t k)
{
    for (int64_t r = t->range_first[q]; r < t->range_first[q + 1]; r++)
        if (t->ranges[r].first <= t->block_first[k] && t->block_first[k + 1] <= t->ranges[r].last)
            return true;
    return false;
}

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
    t3v_status st = t3v_builder_make(&b, n);
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
        assert_int_equal(t3v_builder_make(&b, N), T3V_OK);
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
    assert_int_equal(t3v_builder_make(&b, 8), T3V_OK);
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
        cmocka_unit_test(curve_vectors),
        cmocka_unit_test(curves_fill_their_box),
        cmocka_unit_test(jenga_figures),
        cmocka_unit_test(keep_by_step),
        cmocka_unit_test(windows),
        cmocka_unit_test(allows_is_always),
        cmocka_unit_test(chosen_lists_are_attended),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(keep_all_is_full),
        cmocka_unit_test(the_best_are_chosen),
        cmocka_unit_test(broken_selections_are_caught),
        cmocka_unit_test(bad_descriptions),
        cmocka_unit_test(lists_per_head),
        cmocka_unit_test(costs_by_step),
    };
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
