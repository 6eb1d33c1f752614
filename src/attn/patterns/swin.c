/* SPDX-License-Identifier: Apache-2.0 */
/* swin - windows of time, height and width, moved by half a window in every second layer (Video Swin, arXiv 2106.13230).
 *
 * The rival that T3-Video measured itself against. A layer's windows start at 0, or in odd layers at half a window before
 * it, so that the first is half a window and the last what is left: that is what the paper's cyclic shift with its mask
 * lets meet, without the padding. A window as large as its axis is not moved. Rows of several windows are ours. */
#include "attn/pattern.h"

enum { ALTERNATE, NEVER, ALWAYS };

typedef struct options {
    t3v_option_text window;
    int64_t shift;
} options;

static const char *const shifts[] = {"alternate", "never", "always", NULL};

static const t3v_option table[] = {
    {.name = "window",
     .help =
         "tokens of a window, TxHxW/TxHxW/..., each for two layers, repeated; without it 8x7x7 or the axis",
     .offset = offsetof(options, window),
     .kind = T3V_OPTION_TEXT},
    {.name = "shift",
     .help = "by half a window: alternate (odd layers), never, or always",
     .offset = offsetof(options, shift),
     .initial = ALTERNATE,
     .kind = T3V_OPTION_WORD,
     .words = shifts},
    {0},
};

static void sizes(t3v_grid g, int64_t out[3]) { out[0] = g.t, out[1] = g.h, out[2] = g.w; }

/* Edges of the windows and how far into the first one the grid begins, along each axis. */
static t3v_status windows(const options *o, const t3v_geom *g, int64_t edge[3], int64_t shift[3])
{
    static const int64_t published[3] = {8, 7, 7};
    int64_t axis[3];
    sizes(g->grid, axis);
    for (int i = 0; i < 3; i++) edge[i] = published[i] < axis[i] ? published[i] : axis[i];
    if (o->window.length)
        T3V_TRY(t3v_option_counts(&o->window, "tokens of a window", 3, 1, axis, g->layer / 2, edge));
    bool moved = o->shift == ALWAYS || (o->shift == ALTERNATE && g->layer % 2);
    for (int i = 0; i < 3; i++) shift[i] = moved && edge[i] < axis[i] ? edge[i] / 2 : 0;
    return T3V_OK;
}

static int64_t count(int64_t G, int64_t edge, int64_t shift)
{
    return (G - shift + edge - 1) / edge + (shift > 0);
}

static int64_t start(int64_t G, int64_t edge, int64_t shift, int64_t a)
{
    int64_t x = shift + (a - (shift > 0)) * edge;
    return x < 0 ? 0 : x < G ? x : G;
}

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    int64_t G[3], edge[3], shift[3], n[3];
    sizes(geom->grid, G);
    T3V_TRY(windows(o, geom, edge, shift));
    for (int i = 0; i < 3; i++) n[i] = count(G[i], edge[i], shift[i]);
    t3v_build_counts(b, n[0], n[1], n[2], o->window.length ? "given" : "published");
    int32_t *order = t3v_build_term(b, 1);
    if (!order) return T3V_OK; /* finish reports it */
    t3v_build_name(b, shift[0] || shift[1] || shift[2] ? "shifted window" : "window");
    int64_t slot = 0;
    for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) {
        int64_t a[3] = {i / n[2] / n[1], i / n[2] % n[1], i % n[2]}, first[3], last[3], begin = slot;
        for (int x = 0; x < 3; x++)
            first[x] = start(G[x], edge[x], shift[x], a[x]),
            last[x] = start(G[x], edge[x], shift[x], a[x] + 1);
        for (int64_t t = first[0]; t < last[0]; t++)
            for (int64_t h = first[1]; h < last[1]; h++)
                for (int64_t w = first[2]; w < last[2]; w++)
                    order[slot++] = (int32_t)((t * G[1] + h) * G[2] + w);
        t3v_build_block(b, slot - begin);
        t3v_build_keys(b, begin, slot);
    }
    return T3V_OK;
}

/* No border of windows lies between the two. */
static bool together(int64_t x, int64_t y, int64_t G, int64_t edge, int64_t shift)
{
    int64_t low = x < y ? x : y, high = x < y ? y : x;
    for (int64_t border = shift; border < G; border += edge)
        if (low < border && border <= high) return false;
    return true;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    (void)term;
    int64_t G[3], edge[3], shift[3];
    sizes(geom->grid, G);
    if (windows(opt, geom, edge, shift)) return false;
    return together(q % G[2], k % G[2], G[2], edge[2], shift[2]) &&
           together(q / G[2] % G[1], k / G[2] % G[1], G[1], edge[1], shift[1]) &&
           together(q / G[2] / G[1], k / G[2] / G[1], G[0], edge[0], shift[0]);
}

static const char *const examples[] = {"window=2x3x4", "window=1x4x6/3x2x2,shift=always",
                                       "window=2x2x5,shift=never", NULL};

const t3v_pattern t3v_pattern_swin = {
    .name = "swin",
    .summary = "windows, moved by half a window in every second layer",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .needs_tuning = true,
    .examples = examples,
};
