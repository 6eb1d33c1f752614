/* SPDX-License-Identifier: Apache-2.0 */
/* The differentiable ops of the VAE, over channels-last clips [T, H, W, C]. */
#ifndef T3V_OPS_CONV_OP_H
#define T3V_OPS_CONV_OP_H

#include "ops/ops.h"

/* A convolution's parameters: w [out, in, kt, kh, kw] or [out, in, kh, kw], and the packed forms that inference
 * prepares once (NULL: packed on every call, as in training, where weights change). */
typedef struct t3v_conv_weight {
    t3v_tensor w, bias;
    void *packed;
} t3v_conv_weight;

/* Stride and zero padding; the extent of the kernel is the weight's. */
typedef struct t3v_conv_geom {
    int64_t stride_t, stride_hw;
    int64_t front;         /* zero frames in front */
    int64_t before, after; /* zero rows above and below, and columns left and right */
} t3v_conv_geom;

t3v_tensor *t3v_conv(t3v_ctx *ctx, const t3v_conv_weight *w, t3v_tensor *x, const t3v_conv_geom *g,
                     t3v_dtype out);
/* The same into memory that is there, replacing or (F32) added to its values; not recorded. */
void t3v_conv_into(t3v_ctx *ctx, const t3v_conv_weight *w, t3v_tensor *x, const t3v_conv_geom *g,
                   t3v_tensor *y, bool add);
/* Packs w for x of about [t, h, w] in the compute type, in memory of ctx's arena. */
t3v_status t3v_conv_prepare(t3v_ctx *ctx, t3v_conv_weight *w, int64_t t, int64_t height, int64_t width);

/* [front; f(x)] along time: `front` (compute type, or NULL) is copied, f is the channel norm with gamma, then SiLU if
 * asked; gamma NULL: f only converts. Out: compute type. */
t3v_tensor *t3v_cat_norm(t3v_ctx *ctx, t3v_tensor *front, t3v_tensor *x, const t3v_tensor *gamma, bool silu);

/* Nearest, both sides doubled. */
t3v_tensor *t3v_upsample2x(t3v_ctx *ctx, t3v_tensor *x);

/* [t, h, w, 2 C] -> [2 t, h, w, C]: frame 2i from the first half of the channels, 2i + 1 from the second. */
t3v_tensor *t3v_interleave_frames(t3v_ctx *ctx, t3v_tensor *x);

/* ---- blocks.c: ft x fs x fs positions of a clip [T, H, W, C] beside the channels of a coarser one [ceil(T / ft), H / fs,
 * W / fs, m C], F32. The positions of a block are numbered r in the order time, row, column (columns: time, column, row);
 * channel c of position r belongs to channel c m + r / g of the block, g = ft fs fs / m. When ft does not divide T, the
 * first block lacks its first frames. */
typedef struct t3v_block_geom {
    int64_t ft, fs;
    bool columns;
} t3v_block_geom;

/* Every channel of a block is the mean of the g values that belong to it; those of frames that it lacks count as 0. */
t3v_tensor *t3v_block_mean(t3v_ctx *ctx, t3v_tensor *x, const t3v_block_geom *geom, int64_t channels);
/* The reverse: each position gets the channels of its block that belong to it; `frames` of them. */
t3v_tensor *t3v_block_spread(t3v_ctx *ctx, t3v_tensor *x, const t3v_block_geom *geom, int64_t channels,
                             int64_t frames);
/* The same, added to what y holds, not recorded; x: the frames from `first` on of a clip of `frames`. */
void t3v_block_mean_add(t3v_ctx *ctx, const t3v_tensor *x, int64_t first, int64_t frames,
                        const t3v_block_geom *geom, t3v_tensor *y);
void t3v_block_spread_add(t3v_ctx *ctx, const t3v_tensor *x, const t3v_block_geom *geom, t3v_tensor *y);

/* [C, T, H, W] F32 <-> [T, H, W, C] of type `out`. */
t3v_tensor *t3v_channels_last(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out);
t3v_tensor *t3v_channels_first(t3v_ctx *ctx, t3v_tensor *x);

/* x [n, c] -> the columns [first, first + n_cols). F32. */
t3v_tensor *t3v_columns(t3v_ctx *ctx, t3v_tensor *x, int64_t first, int64_t n);

#endif
