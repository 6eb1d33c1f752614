/* SPDX-License-Identifier: Apache-2.0 */
/* tile - each frame meets itself and k reference frames, which meet everything (Efficient-vDiT, arXiv 2502.06155).
 *
 * Of N frames, k are references, at 0, s, 2s, ... with s = N/k rounded up: the rule that gives all nine sparsities the paper
 * prints for its masks k : N-k. Where that would end beyond the clip (21 frames, k = 8), at floor(m*N/k): ours. */
#include "attn/pattern.h"

typedef struct options {
    t3v_option_text k;
} options;

static const t3v_option table[] = {
    {.name = "k",
     .help = "reference frames of each layer, k/k/..., repeated over the layers; without it a quarter of the "
             "frames",
     .offset = offsetof(options, k),
     .kind = T3V_OPTION_TEXT},
    {0},
};

static t3v_status references(const options *o, const t3v_geom *g, int64_t *k)
{
    int64_t frames = g->grid.t;
    if (o->k.length) return t3v_option_counts(&o->k, "reference frames", 1, 0, &frames, g->layer, k);
    *k = frames > 1 ? (frames + 2) / 4 : 1; /* the paper's 2:6 and 6:18 */
    return T3V_OK;
}

/* The frame of reference m. */
static int64_t reference(int64_t frames, int64_t k, int64_t m)
{
    int64_t step = (frames + k - 1) / k;
    return (k - 1) * step < frames ? m * step : m * frames / k;
}

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    int64_t k, N = geom->grid.t, size = geom->grid.h * geom->grid.w;
    T3V_TRY(references(o, geom, &k));
    bool all = k == N;
    t3v_build_counts(b, all ? 1 : N, 1, 1, o->k.length ? "given" : "a quarter of the frames");
    t3v_build_term(b, 1);
    t3v_build_name(b, "own frame and references");
    int64_t next = 0; /* reference at or after the frame */
    for (int64_t f = 0; f < (all ? 1 : N); f++) {
        t3v_build_block(b, all ? geom->tokens : size);
        if (next < k && reference(N, k, next) == f) {
            t3v_build_keys(b, 0, geom->tokens);
            next++;
            continue;
        }
        for (int64_t m = 0; m < k; m++) {
            if (m == next) t3v_build_keys(b, f * size, (f + 1) * size);
            int64_t r = reference(N, k, m);
            t3v_build_keys(b, r * size, (r + 1) * size);
        }
        if (next == k) t3v_build_keys(b, f * size, (f + 1) * size);
    }
    return T3V_OK;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t key)
{
    (void)term;
    int64_t k, size = geom->grid.h * geom->grid.w, i = q / size, j = key / size;
    if (references(opt, geom, &k)) return false;
    bool meets = i == j;
    for (int64_t m = 0; m < k; m++)
        meets = meets || reference(geom->grid.t, k, m) == i || reference(geom->grid.t, k, m) == j;
    return meets;
}

static const char *const examples[] = {"k=1", "k=2/0", "k=3/4/8", NULL};

const t3v_pattern t3v_pattern_tile = {
    .name = "tile",
    .summary = "each frame meets itself and the reference frames, which meet everything",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .examples = examples,
};
