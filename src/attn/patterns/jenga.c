/* SPDX-License-Identifier: Apache-2.0 */
/* jenga - blocks along a space-filling curve meet those whose means score highest, and their neighbours (AttenCarve of
 * Jenga, arXiv 2505.16864, as github.com/dvlab-research/Jenga does it for Wan2.1).
 *
 * Each frame is walked along a Gilbert curve, mirrored so that it begins near the end of the one before, and the walk is cut
 * into blocks. A block of queries meets (1) the blocks that the selection keeps: the k highest softmax scores of block means,
 * k a share of all blocks that shrinks with the step, and as many as it takes to exceed p; (2) every block with a token next
 * to one of its own; (3) if it is one of the first F = floor(blocks / frames), the first F blocks. Steps that drop a quarter or
 * less are dense. The mean of the last block is that of the tokens it has (the published code divides by the full size). */
#include <stdlib.h>
#include <string.h>

#include "attn/gilbert.h"
#include "attn/pattern.h"

enum { AUTO, WAN_1_3B, WAN_14B, WAN_14B_TURBO };
enum { DIM_14B = 5120 };

typedef struct options {
    int64_t block, preset;
    double drop, later, p;
} options;

static const char *const presets[] = {"auto", "1.3b", "14b", "14b-turbo", NULL};

/* drop in the first half of the steps, in the second, p: the scripts of the repository. */
static const double published[][3] = {
    [WAN_1_3B] = {0.75, 0.85, 0.9}, [WAN_14B] = {0.7, 0.8, 0.8}, [WAN_14B_TURBO] = {0.5, 0.9, 0.9}};

static const t3v_option table[] = {
    {.name = "block",
     .help = "tokens of a block",
     .offset = offsetof(options, block),
     .initial = 128,
     .min = 1,
     .max = 1 << 20},
    {.name = "preset",
     .help = "published rates: 1.3b 0.75/0.85, p 0.9; 14b 0.7/0.8, p 0.8; 14b-turbo 0.5/0.9, p 0.9; auto, by "
             "the model's width",
     .offset = offsetof(options, preset),
     .initial = AUTO,
     .kind = T3V_OPTION_WORD,
     .words = presets},
    {.name = "drop",
     .help = "share of the blocks that scores leave out in the first half of the steps; it rises to that "
             "over a tenth of them",
     .offset = offsetof(options, drop),
     .kind = T3V_OPTION_REAL,
     .real = -1,
     .real_max = 1},
    {.name = "later",
     .help = "that share in the second half",
     .offset = offsetof(options, later),
     .kind = T3V_OPTION_REAL,
     .real = -1,
     .real_max = 1},
    {.name = "p",
     .help = "blocks are kept until their scores, which sum to 1, exceed p",
     .offset = offsetof(options, p),
     .kind = T3V_OPTION_REAL,
     .real = -1,
     .real_max = 1},
    {0},
};

typedef struct flips {
    bool x, y;
} flips;

/* How frame t is mirrored: its curve begins in the corner next to where that of frame t - 1 ends. */
static flips flips_of(t3v_grid g, int64_t t)
{
    flips f = {false, false};
    int64_t end[3];
    t3v_gilbert_point(g.w, g.h, 1, g.h * g.w - 1, end);
    for (int64_t i = 0; i < t; i++) {
        int64_t x = f.x ? g.w - 1 - end[0] : end[0], y = f.y ? g.h - 1 - end[1] : end[1];
        f = (flips){2 * x >= g.w, 2 * y >= g.h};
    }
    return f;
}

static void walk_frames(t3v_grid g, int32_t *order)
{
    int64_t frame = g.h * g.w;
    t3v_gilbert(g.w, g.h, 1, order); /* frame 0 is not mirrored; the others are copies of it */
    for (int64_t t = 1; t < g.t; t++) {
        flips f = flips_of(g, t);
        for (int64_t i = 0; i < frame; i++) {
            int64_t px = order[i] % g.w, py = order[i] / g.w;
            order[t * frame + i] = (int32_t)(t * frame + (f.y ? g.h - 1 - py : py) * g.w +
                                             (f.x ? g.w - 1 - px : px));
        }
    }
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The blocks next to block b, ascending, into list; `seen` [blocks] holds what no b of before equals. */
static int64_t neighbours(t3v_grid g, const int32_t *order, const int32_t *slot, int64_t block, int64_t b,
                          int64_t last, int32_t *seen, int32_t *list)
{
    int64_t n = 0;
    for (int64_t s = b * block; s < last; s++) {
        int64_t x = order[s] % g.w, y = order[s] / g.w % g.h, t = order[s] / g.w / g.h;
        for (int64_t i = 0; i < 27; i++) {
            int64_t nt = t + i / 9 - 1, ny = y + i / 3 % 3 - 1, nx = x + i % 3 - 1;
            if (nt < 0 || nt >= g.t || ny < 0 || ny >= g.h || nx < 0 || nx >= g.w) continue;
            int32_t other = (int32_t)(slot[(nt * g.h + ny) * g.w + nx] / block);
            if (seen[other] == b) continue;
            seen[other] = (int32_t)b;
            list[n++] = other;
        }
    }
    qsort(list, (size_t)n, sizeof *list, ascending);
    return n;
}

static double or_else(double given, double preset) { return given < 0 ? preset : given; }

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    const t3v_grid g = geom->grid;
    int64_t preset = o->preset != AUTO      ? o->preset
                     : geom->dim == DIM_14B ? WAN_14B
                                            : WAN_1_3B,
            N = geom->tokens;
    const double *rates = published[preset];
    t3v_select select = {.summary = T3V_SUMMARY_MEAN,
                         .score = T3V_SCORE_SOFTMAX,
                         .drop = {or_else(o->drop, rates[0]), or_else(o->later, rates[1])},
                         .drop_until = 0.5,
                         .ramp = 10,
                         .dense_drop = 0.25,
                         .p = or_else(o->p, rates[2]),
                         .min = 1};
    int32_t *order = t3v_build_term(b, 1);
    if (!order) return T3V_OK; /* the builder tells */
    t3v_build_name(b, "always (more by content)");
    t3v_build_select(b, &select);
    walk_frames(g, order);

    int64_t blocks = (N - 1) / o->block + 1, first = blocks / g.t;
    int32_t *slot = malloc((size_t)N * sizeof *slot), *seen = malloc((size_t)blocks * sizeof *seen),
            *list = malloc((size_t)blocks * sizeof *list);
    t3v_status st = slot && seen && list
                        ? T3V_OK
                        : t3v_fail(T3V_E_NOMEM, "no memory for the neighbours of %lld blocks",
                                   (long long)blocks);
    for (int64_t s = 0; s < N && !st; s++) slot[order[s]] = (int32_t)s;
    for (int64_t i = 0; i < blocks && !st; i++) seen[i] = -1;
    for (int64_t i = 0; i < blocks && !st; i++) {
        int64_t last = (i + 1) * o->block < N ? (i + 1) * o->block : N,
                n = neighbours(g, order, slot, o->block, i, last, seen, list);
        t3v_build_block(b, last - i * o->block);
        if (i < first) t3v_build_keys(b, 0, first * o->block < N ? first * o->block : N);
        for (int64_t j = 0; j < n; j++)
            if (i >= first || list[j] >= first)
                t3v_build_keys(b, list[j] * o->block,
                               (list[j] + 1) * o->block < N ? (list[j] + 1) * o->block : N);
    }
    free(slot), free(seen), free(list);
    return st;
}

static int64_t block_of(const options *o, t3v_grid g, int64_t token)
{
    int64_t t = token / g.w / g.h, y = token / g.w % g.h, x = token % g.w;
    flips f = flips_of(g, t);
    return (t * g.h * g.w + t3v_gilbert_index(g.w, g.h, 1, f.x ? g.w - 1 - x : x, f.y ? g.h - 1 - y : y, 0)) /
           o->block;
}

/* Where the token of a slot is: x, y, t. */
static void place(t3v_grid g, int64_t slot, int64_t xyt[3])
{
    xyt[2] = slot / (g.h * g.w);
    flips f = flips_of(g, xyt[2]);
    int64_t p[3];
    t3v_gilbert_point(g.w, g.h, 1, slot % (g.h * g.w), p);
    xyt[0] = f.x ? g.w - 1 - p[0] : p[0], xyt[1] = f.y ? g.h - 1 - p[1] : p[1];
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    (void)term;
    const options *o = opt;
    const t3v_grid g = geom->grid;
    int64_t own = block_of(o, g, q), other = block_of(o, g, k),
            first = ((geom->tokens - 1) / o->block + 1) / g.t, a[3];
    if (own < first && other < first) return true;
    int64_t start = other * o->block,
            count = geom->tokens - start < o->block ? geom->tokens - start : o->block;
    int64_t(*b)[3] = malloc((size_t)count * sizeof *b);
    bool near = false;
    for (int64_t j = 0; b && j < count; j++) place(g, start + j, b[j]);
    for (int64_t i = own * o->block; b && i < (own + 1) * o->block && i < geom->tokens && !near; i++) {
        place(g, i, a);
        for (int64_t j = 0; j < count && !near; j++)
            near = llabs(a[0] - b[j][0]) <= 1 && llabs(a[1] - b[j][1]) <= 1 && llabs(a[2] - b[j][2]) <= 1;
    }
    free(b);
    return near;
}

static const char *const examples[] = {"block=16", "block=64,drop=0.9,p=0.5", NULL};

const t3v_pattern t3v_pattern_jenga = {
    .name = "jenga",
    .summary = "blocks along a space-filling curve meet their neighbours and the blocks that score highest",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .same_layers = true,
    .examples = examples,
};
