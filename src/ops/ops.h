/* SPDX-License-Identifier: Apache-2.0 */
/* The differentiable ops of DiT, text encoder and VAE. Each returns a new tensor (NULL after a failure, see
 * ops/ctx.h) and has its backward in the same file. Rows are all axes but the last. */
#ifndef T3V_OPS_OPS_H
#define T3V_OPS_OPS_H

#include "ops/ctx.h"
#include "ops/rows/rows.h"
#include "tensor/dtype.h"

/* ---- linear.c: dense layers --------------------------------------------------------------------- */

/* One low-rank update of a weight: + strength * B A. A [rank, in], B [out, rank], F32 or BF16. */
typedef struct t3v_lora_pair {
    t3v_tensor a, b;
    float strength;
} t3v_lora_pair;

/* A dense layer as the checkpoint stores it: w [out, in...] (axes after the first are flattened), F32, BF16 or packed
 * (quantised blocks, 8-bit floats); bias [out] F32 or absent (data NULL), and low-rank updates applied on the fly. */
typedef struct t3v_weight {
    t3v_tensor w, bias;
    t3v_lora_pair *lora;
    int loras;
} t3v_weight;

/* The type in which a weight's products are made. */
static inline t3v_dtype t3v_operand(const t3v_tensor *w, t3v_dtype compute)
{
    return t3v_dtype_packed(w->type) ? compute : w->type;
}

/* y = x w^T + bias + sum_i strength_i (x a_i^T) b_i^T. x [rows.., in] F32 or BF16, y [rows.., out] of type
 * `out`. With a BF16 weight, x is rounded to BF16 first; sums are F32. A packed weight is expanded to the context's compute
 * type, tile by tile, in forward and backward; it gets no gradient of its own (E_UNSUPPORTED if it should). With a row_scale the
 * product is made in 8-bit floats (ops/fp8/fp8.h; updates as before); E_UNSUPPORTED then while something is recorded. */
t3v_tensor *t3v_linear(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out);

/* The same for a layer that every token of a clip goes through. With ctx->int8 its product is made in 8-bit integers
 * (ops/int8/int8.h; updates as before); E_UNSUPPORTED then while something is recorded, and on a device. */
t3v_tensor *t3v_linear_tokens(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out);

/* gelu(x w^T + bias), tanh form, as t3v_linear_tokens and t3v_gelu. On a device what the gradient needs of the values before
 * GELU has the type `out` where it is recorded, on the CPU F32. */
t3v_tensor *t3v_linear_gelu(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out);
/* x + y w^T + bias, F32. Unless something is recorded the result may take over x's memory. */
t3v_tensor *t3v_linear_add(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *y, t3v_tensor *x);

/* y[i] = table[ids[i]], F32. table [vocab, dim] of a float or packed type; ids in range (checked by the caller). */
t3v_tensor *t3v_embed(t3v_ctx *ctx, const t3v_tensor *table, const int32_t *ids, int64_t n);

/* ---- norm.c ------------------------------------------------------------------------------------- */

/* y = LN(x) * (one_plus + scale) + shift over the last axis; x F32; scale, shift [d] F32. one_plus is the
 * modulation of a DiT block, else scale is the affine weight. */
t3v_tensor *t3v_layernorm(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *scale, t3v_tensor *shift, bool one_plus,
                          double eps, t3v_dtype out);

/* y = x / sqrt(mean(x^2) + eps) * g. */
t3v_tensor *t3v_rmsnorm(t3v_ctx *ctx, t3v_tensor *x, const t3v_tensor *g, double eps, t3v_dtype out);

/* RMS norm of whole rows (all heads together), then 3-D rotary embedding of each head; x [n, heads*hd].
 * rope NULL: no rotation (cross-attention). `first` is the token index of x's first row. */
t3v_tensor *t3v_qk_norm_rope(t3v_ctx *ctx, t3v_tensor *x, const t3v_tensor *g, int64_t heads, double eps,
                             const t3v_rope *rope, int64_t first, t3v_dtype out);

/* ---- pointwise.c -------------------------------------------------------------------------------- */

t3v_tensor *t3v_gelu(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out); /* tanh form */
/* Records that y, which another op computed, is gelu(x). */
void t3v_gelu_made(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *y);
/* The exact form, x Phi(x), of CLIP and of the image embedding; x F32. Not vectorised: it meets hundreds of rows. */
t3v_tensor *t3v_gelu_erf(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out);
t3v_tensor *t3v_silu(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out);
t3v_tensor *t3v_geglu(t3v_ctx *ctx, t3v_tensor *gate, t3v_tensor *x, t3v_dtype out); /* gelu(gate) * x */
/* a + s * b; F32 or BF16, same number of elements; shape and type of a. */
t3v_tensor *t3v_add_scaled(t3v_ctx *ctx, t3v_tensor *a, t3v_tensor *b, float s);
/* x + gate * y, gate [d] or NULL (1); x F32, y F32 or BF16. */
t3v_tensor *t3v_gate_residual(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *y, t3v_tensor *gate);
t3v_tensor *t3v_cast(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out); /* x itself when it has the type */
t3v_tensor *t3v_copy(t3v_ctx *ctx, t3v_tensor *x);
/* Copies src over rows [first, ...) of dst (same type); dst's rows are written once while recording. */
void t3v_put(t3v_ctx *ctx, t3v_tensor *dst, int64_t first, t3v_tensor *src);

/* ---- sdpa.c: small dense attention for text encoder, VAE and CLIP ------------------------------------ */

/* softmax(scale q k^T + bias) v for each head; q [n_q, heads * hd], k, v [n_k, heads * hd] of the compute type;
 * bias [heads, n_q, n_k] F32 or NULL; out like q. Holds all scores while recorded, else a band of them. */
t3v_tensor *t3v_sdpa(t3v_ctx *ctx, t3v_tensor *q, t3v_tensor *k, t3v_tensor *v, int64_t heads, double scale,
                     t3v_tensor *bias);

/* ---- patch.c: 2x2 patches of a latent [C, T, H, W], tokens in f, row, column order ------------------- */

/* Rows [n, 4 C] of tokens [first, first + n). */
t3v_tensor *t3v_patchify(t3v_ctx *ctx, t3v_tensor *latent, int64_t first, int64_t n);
/* Writes the head's rows [n, 4 C] of tokens [first, first + n) into their cells of `latent`. */
void t3v_unpatchify(t3v_ctx *ctx, t3v_tensor *latent, int64_t first, t3v_tensor *rows);

#endif
