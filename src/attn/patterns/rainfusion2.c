/* SPDX-License-Identifier: Apache-2.0 */
/* rainfusion2 - blocks of windows meet the first frame and the blocks whose means score highest (RainFusion2.0, arXiv
 * 2512.24086, as github.com/Ascend/MindIE-SD does it).
 *
 * The tokens of a frame are listed window by window, and cut into blocks (of 128: two windows side by side). What is left at
 * the bottom and at the right of windows follows those of its frame; the first frame is then listed line by line. A block
 * of queries meets the ceil(blocks * (1 - sparsity)) blocks with the highest product of block means, and the blocks of the
 * first frame, which meet all. The first steps are dense. The mean of the last block is that of the tokens it has; of equal
 * scores the lower blocks are kept, where the published code keeps all. */
#include "attn/pattern.h"

typedef struct options {
    int64_t window, block;
    double sparsity, dense;
} options;

static const t3v_option table[] = {
    {.name = "sparsity",
     .help = "share of the blocks that scores leave out",
     .offset = offsetof(options, sparsity),
     .kind = T3V_OPTION_REAL,
     .real = 0.8,
     .real_max = 1},
    {.name = "dense",
     .help = "share of the steps, the first ones, that leave out nothing",
     .offset = offsetof(options, dense),
     .kind = T3V_OPTION_REAL,
     .real = 0.375,
     .real_max = 1},
    {.name = "window",
     .help = "tokens along a side of a window",
     .offset = offsetof(options, window),
     .initial = 8,
     .min = 1,
     .max = 4096},
    {.name = "block",
     .help = "tokens of a block",
     .offset = offsetof(options, block),
     .initial = 128,
     .min = 1,
     .max = 1 << 20},
    {0},
};

/* Lists the rectangle [y, y + h) x [x, x + w) of frame t line by line. */
static int32_t *lines(int32_t *to, t3v_grid g, int64_t t, int64_t y, int64_t x, int64_t h, int64_t w)
{
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) *to++ = (int32_t)((t * g.h + y + i) * g.w + x + j);
    return to;
}

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    const t3v_grid g = geom->grid;
    t3v_select select = {.summary = T3V_SUMMARY_MEAN,
                         .score = T3V_SCORE_DOT,
                         .drop = {o->sparsity, o->sparsity},
                         .drop_until = 1,
                         .dense_first = o->dense,
                         .round_up = true,
                         .min = 1};
    int32_t *to = t3v_build_term(b, 1);
    if (!to) return T3V_OK; /* the builder tells */
    t3v_build_name(b, "always (more by content)");
    t3v_build_select(b, &select);
    int64_t a = o->window, main_h = g.h / a * a, main_w = g.w / a * a;
    for (int64_t t = 0; t < g.t; t++) {
        if (!t && (main_h < g.h || main_w < g.w)) {
            to = lines(to, g, 0, 0, 0, g.h, g.w);
            continue;
        }
        for (int64_t y = 0; y < main_h; y += a)
            for (int64_t x = 0; x < main_w; x += a) to = lines(to, g, t, y, x, a, a);
        to = lines(to, g, t, main_h, 0, g.h - main_h, g.w);
        to = lines(to, g, t, 0, main_w, main_h, g.w - main_w);
    }
    int64_t N = geom->tokens, blocks = (N - 1) / o->block + 1, first = (g.h * g.w - 1) / o->block + 1;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t last = (i + 1) * o->block < N ? (i + 1) * o->block : N;
        t3v_build_block(b, last - i * o->block);
        t3v_build_keys(b, 0, i < first || first * o->block > N ? N : first * o->block);
    }
    return T3V_OK;
}

/* The slot of a token, by counting what comes before it. */
static int64_t slot_of(const options *o, t3v_grid g, int64_t token)
{
    int64_t t = token / g.w / g.h, y = token / g.w % g.h, x = token % g.w, a = o->window;
    int64_t main_h = g.h - g.h % a, main_w = g.w - g.w % a, before = t * g.h * g.w;
    if (t == 0 && (g.h % a || g.w % a)) return token;
    if (y >= main_h) return before + main_h * main_w + (y - main_h) * g.w + x;
    if (x >= main_w) return before + main_h * main_w + (g.h - main_h) * g.w + y * (g.w - main_w) + x - main_w;
    return before + (y / a * (main_w / a) + x / a) * a * a + y % a * a + x % a;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    (void)term;
    const options *o = opt;
    int64_t own = slot_of(o, geom->grid, q) / o->block, other = slot_of(o, geom->grid, k) / o->block;
    int64_t frame = geom->grid.h * geom->grid.w;
    return own * o->block < frame || other * o->block < frame;
}

static const char *const examples[] = {"block=16,window=4", "sparsity=0.9,dense=0", NULL};

const t3v_pattern t3v_pattern_rainfusion2 = {
    .name = "rainfusion2",
    .summary = "blocks of windows meet the first frame and the blocks that score highest",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .same_layers = true,
    .examples = examples,
};
