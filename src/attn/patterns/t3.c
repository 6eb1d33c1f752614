/* SPDX-License-Identifier: Apache-2.0 */
/* t3 - windows of neighbours and windows of every n-th token, two softmaxes averaged (T3-Video, arXiv 2512.13492).
 *
 * A layer cuts time, height and width into n blocks each. Along an axis of G tokens, token x is in the close
 * block a, the largest with floor(a*G/n) <= x, and in the remote block x mod n. A query meets the keys that
 * share its block on all three axes. Blocks need not divide the axis: their sizes differ by one then. */
#include <string.h>

#include "attn/pattern.h"

enum { BOTH, CLOSE, REMOTE };
enum { FAMILY_AUTO, FAMILY_1_3B, FAMILY_5B };
enum { ROWS = 5, DIM_5B = 3072 };

typedef struct options {
    t3v_option_text blocks;
    int64_t branch, family;
} options;

static const char *const branches[] = {"both", "close", "remote", NULL};
static const char *const families[] = {"auto", "1.3b", "5b", NULL};

static const t3v_option table[] = {
    {.name = "blocks",
     .help = "blocks along time, height, width of each layer, TxHxW/TxHxW/..., repeated over the layers",
     .offset = offsetof(options, blocks),
     .kind = T3V_OPTION_TEXT},
    {.name = "branch",
     .help = "both, or close or remote alone",
     .offset = offsetof(options, branch),
     .initial = BOTH,
     .kind = T3V_OPTION_WORD,
     .words = branches},
    {.name = "family",
     .help = "whose published counts are used without blocks: 1.3b, 5b, or auto, by the model's width",
     .offset = offsetof(options, family),
     .initial = FAMILY_AUTO,
     .kind = T3V_OPTION_WORD,
     .words = families},
    {0},
};

/* The counts that the released models were tuned with, layer index modulo 5, and the token grid they are for
 * (2176x3840, 81 frames). Values of github.com/zhangzjn/T3-Video, Apache-2.0. */
typedef struct published {
    int64_t grid[3], n[ROWS][3];
} published;

static const published released[] = {
    [FAMILY_1_3B] = {{21, 136, 240}, {{21, 1, 1}, {1, 17, 30}, {1, 8, 40}, {3, 17, 8}, {7, 8, 6}}},
    [FAMILY_5B] = {{21, 68, 120}, {{21, 1, 1}, {1, 17, 20}, {1, 17, 6}, {3, 4, 15}, {7, 4, 8}}},
};

static const published *family_of(const options *o, int64_t dim)
{
    int64_t f = o->family != FAMILY_AUTO ? o->family : dim == DIM_5B ? FAMILY_5B : FAMILY_1_3B;
    return &released[f];
}

static void sizes(t3v_grid g, int64_t out[3]) { out[0] = g.t, out[1] = g.h, out[2] = g.w; }

static t3v_status counts(const options *o, const t3v_geom *g, int64_t n[3], const char **source)
{
    int64_t axis[3];
    sizes(g->grid, axis);
    if (o->blocks.length) {
        *source = "given";
        return t3v_option_counts(&o->blocks, "blocks", 3, 1, axis, g->layer, n);
    }
    const published *p = family_of(o, g->dim);
    const int64_t *row = p->n[g->layer % ROWS];
    if (memcmp(axis, p->grid, sizeof axis) == 0) {
        *source = "table";
        memcpy(n, row, sizeof axis);
        return T3V_OK;
    }
    *source = "derived";
    for (int i = 0; i < 3; i++) {
        /* portrait: height takes the published edge of width */
        int from = i && axis[1] > axis[2] ? 3 - i : i;
        int64_t edge = p->grid[from] / row[from], G = axis[i];
        int64_t v = edge == 1 ? G : row[from] == 1 ? 1 : (2 * G + edge) / (2 * edge);
        n[i] = v < 1 ? 1 : v > G ? G : v;
    }
    return T3V_OK;
}

/* Token `slot` of block `a`: close blocks run on, remote ones step by n. */
static int64_t coordinate(bool remote, int64_t G, int64_t n, int64_t a, int64_t slot)
{
    return remote ? a + slot * n : a * G / n + slot;
}

static int64_t block_size(bool remote, int64_t G, int64_t n, int64_t a)
{
    return remote ? (G - a + n - 1) / n : (a + 1) * G / n - a * G / n;
}

static void describe(t3v_builder *b, const int64_t G[3], const int64_t n[3], bool remote, float weight,
                     const char *name)
{
    int32_t *order = t3v_build_term(b, weight);
    if (!order) return;
    t3v_build_name(b, name);
    int64_t slot = 0;
    for (int64_t at = 0; at < n[0]; at++)
        for (int64_t ah = 0; ah < n[1]; ah++)
            for (int64_t aw = 0; aw < n[2]; aw++) {
                int64_t T = block_size(remote, G[0], n[0], at), H = block_size(remote, G[1], n[1], ah);
                int64_t W = block_size(remote, G[2], n[2], aw), first = slot;
                for (int64_t t = 0; t < T; t++)
                    for (int64_t h = 0; h < H; h++) {
                        int64_t line = (coordinate(remote, G[0], n[0], at, t) * G[1] +
                                        coordinate(remote, G[1], n[1], ah, h)) *
                                       G[2];
                        for (int64_t w = 0; w < W; w++)
                            order[slot++] = (int32_t)(line + coordinate(remote, G[2], n[2], aw, w));
                    }
                t3v_build_block(b, slot - first);
                t3v_build_keys(b, first, slot);
            }
}

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    int64_t n[3], G[3];
    const char *source;
    T3V_TRY(counts(o, geom, n, &source));
    sizes(geom->grid, G);
    t3v_build_counts(b, n[0], n[1], n[2], source);
    bool same = true;
    for (int i = 0; i < 3; i++) same = same && (n[i] == 1 || n[i] == G[i]);
    if (o->branch == BOTH && !same) {
        describe(b, G, n, false, 0.5f, "close");
        describe(b, G, n, true, 0.5f, "remote");
    } else {
        describe(b, G, n, o->branch == REMOTE, 1, same ? "close = remote" : branches[o->branch]);
    }
    return T3V_OK;
}

static bool together(bool remote, int64_t x, int64_t y, int64_t G, int64_t n)
{
    if (remote) return x % n == y % n;
    int64_t a = n - 1, c = n - 1;
    while (a * G / n > x) a--;
    while (c * G / n > y) c--;
    return a == c;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    const options *o = opt;
    int64_t n[3], G[3];
    const char *source;
    if (counts(o, geom, n, &source)) return false;
    sizes(geom->grid, G);
    bool remote = o->branch == REMOTE || (o->branch == BOTH && term == 1);
    return together(remote, q % G[2], k % G[2], G[2], n[2]) &&
           together(remote, q / G[2] % G[1], k / G[2] % G[1], G[1], n[1]) &&
           together(remote, q / G[2] / G[1], k / G[2] / G[1], G[0], n[0]);
}

/* 2160 rows of pixels are 135 of tokens, the table is for 136. */
static void fit(const void *opt, int64_t dim, t3v_grid *grid)
{
    const options *o = opt;
    const published *p = family_of(o, dim);
    int64_t dh = p->grid[1] - grid->h, dw = p->grid[2] - grid->w;
    if (o->blocks.length || grid->t != p->grid[0] || dh < 0 || dh > 1 || dw < 0 || dw > 1) return;
    grid->h = p->grid[1], grid->w = p->grid[2];
}

static const char *const examples[] = {"blocks=2x1x1/1x2x3/2x2x2", "blocks=1x3x2,branch=remote",
                                       "blocks=2x2x3,branch=close", NULL};

const t3v_pattern t3v_pattern_t3 = {
    .name = "t3",
    .summary = "the mean of two softmaxes: over a window of neighbours, and over every n-th token",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .needs_tuning = true,
    .fit = fit,
    .examples = examples,
};
