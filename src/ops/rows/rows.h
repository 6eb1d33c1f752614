/* SPDX-License-Identifier: Apache-2.0 */
/* Row-wise and element-wise kernels of the models and the trainer, forward and backward.
 *
 * What holds for every function here, unless its comment says otherwise:
 *   shapes    n rows of d elements, row after row without gaps; flat arrays have n elements; n, d >= 0
 *   types     a `void *` is followed by its element type, T3V_F32 or T3V_BF16 (round to nearest even on
 *             store); a `float *` is F32. Statistics and arithmetic are F32.
 *   alignment any (that of the element type)
 *   aliasing  outputs overlap no other argument; "in place" in a comment allows output == input with the
 *             same element type
 *   NaN       in gives NaN out in what depends on it
 *   gradients of activations are assigned, or added to when `accumulate`; of parameters and modulation
 *             rows always added to (+=). A NULL gradient is not computed.
 *   threads   pure; OpenMP over rows for work above 64K elements unless called inside a parallel region;
 *             results do not depend on the number of threads
 *   errors    functions that return t3v_status fail only with T3V_E_NOMEM (scratch of column sums)
 */
#ifndef T3V_OPS_ROWS_H
#define T3V_OPS_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

/* ---- norms ------------------------------------------------------------------------------------- */

/* y = (x - mean) / sqrt(var + eps) * s + shift, with s = 1 + scale (one_plus: modulation) or scale (affine);
 * biased variance. scale, shift [d], each may be NULL (s = 1, shift = 0). In place for F32. */
void t3v_rows_layernorm(void *y, t3v_dtype yt, const float *x, const float *scale, const float *shift,
                        bool one_plus, float eps, int64_t n, int64_t d);
/* From dy and the saved x: dx [n,d], dscale [d] (gradient of scale), dshift [d]. dx may be dy (F32). */
t3v_status t3v_rows_layernorm_bwd(float *dx, bool accumulate, float *dscale, float *dshift, const void *dy,
                                  t3v_dtype dyt, const float *x, const float *scale, bool one_plus, float eps,
                                  int64_t n, int64_t d);

/* y = x * rsqrt(mean(x^2) + eps) * g[d]. In place. */
void t3v_rows_rmsnorm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *g, float eps,
                      int64_t n, int64_t d);
t3v_status t3v_rows_rmsnorm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dg, const void *dy,
                                t3v_dtype dyt, const void *x, t3v_dtype xt, const float *g, float eps,
                                int64_t n, int64_t d);

/* Rotary tables of a grid [T,H,W] (Wan: pairs of a head split in t | h | w = hd/2 - 2*(hd/6) | hd/6 | hd/6,
 * angle of pair k of an axis with p pairs: position * theta^(-k/p), in double). */
typedef struct t3v_rope {
    int64_t grid[3];     /* T, H, W */
    int64_t hd;          /* head dim, even, 2..T3V_ROPE_MAX_HD */
    int64_t pairs[3];    /* per axis */
    const float *cos[3]; /* [grid[a], 2*pairs[a]]: each cosine twice */
    const float *sin[3]; /* [grid[a], 2*pairs[a]]: (-sin, +sin) for each pair */
} t3v_rope;
#define T3V_ROPE_MAX_HD 512

/* Number of floats that t3v_rope_tables_make needs; E_ARG for an odd or too large hd or an empty grid,
 * E_TOO_BIG on overflow. */
t3v_status t3v_rope_tables_size(int64_t *floats, int64_t T, int64_t H, int64_t W, int64_t hd);
/* Fills `mem` (t3v_rope_tables_size floats, owned by the caller, must outlive `out`). theta: 10000. */
void t3v_rope_tables_make(t3v_rope *out, float *mem, int64_t T, int64_t H, int64_t W, int64_t hd,
                          double theta);

/* Row r is token first + r (f-major, then row, then column of rope->grid), d = heads * hd:
 * u = RMS norm of the whole row times g (g NULL: u = x), then each head's interleaved pairs (2k, 2k+1) are
 * rotated: (a, b) -> (a cos - b sin, a sin + b cos) (rope NULL: no rotation). ldx, ldy: row strides in
 * elements, >= d. In place when ldx == ldy. */
void t3v_rows_qk_norm_rope(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx,
                           const float *g, float eps, const t3v_rope *rope, int64_t first, int64_t n,
                           int64_t d);
/* dx with row stride lddx, dy with lddy, x with ldx; dg [d] ignored when g is NULL; x may be NULL when g is.
 * dx may be dy (same type and stride, not accumulating). */
t3v_status t3v_rows_qk_norm_rope_bwd(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate, float *dg,
                                     const void *dy, t3v_dtype dyt, int64_t lddy, const void *x, t3v_dtype xt,
                                     int64_t ldx, const float *g, float eps, const t3v_rope *rope,
                                     int64_t first, int64_t n, int64_t d);

/* VAE norm over channels-last rows: y = x / max(||x||_2, 1e-12) * sqrt(d) * gamma[d], then SiLU when `silu`.
 * |x| < 1e18 (squares are summed in F32). In place. */
void t3v_rows_vae_norm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                       int64_t n, int64_t d);
t3v_status t3v_rows_vae_norm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma, const void *dy,
                                 t3v_dtype dyt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                                 int64_t n, int64_t d);

/* y = softmax(scale * x + bias) over each row. bias [bias_rows, d] or NULL; row r takes bias row
 * r % bias_rows. A row that is all -inf, or has +inf or NaN, gives NaN: mask with a finite number. In place.
 */
void t3v_rows_softmax(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale, const float *bias,
                      int64_t bias_rows, int64_t n, int64_t d);
/* dx = scale * y * (dy - sum(y * dy)); dx may be dy (same type). No gradient of the bias. */
void t3v_rows_softmax_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                          const void *y, t3v_dtype yt, float scale, int64_t n, int64_t d);

/* ---- residual and activations ------------------------------------------------------------------- */

/* out = x + gate[d] * y (gate NULL: 1). out may be x. */
void t3v_rows_gate_residual(float *out, const float *x, const float *gate, const void *y, t3v_dtype yt,
                            int64_t n, int64_t d);
/* dx += dout; dy = gate * dout (or += when accumulate); dgate[d] += sum_n dout * y (y may be NULL without
 * dgate). dx may not be dout: pass NULL when the gradient of the residual stream stays in place. */
t3v_status t3v_rows_gate_residual_bwd(float *dx, void *dy, t3v_dtype dyt, bool accumulate, float *dgate,
                                      const float *dout, const float *gate, const void *y, t3v_dtype yt,
                                      int64_t n, int64_t d);

/* Relative error of the values below 5e-7 (GELU, SiLU: times 1 + the magnitude of their exponent), of results
 * above 1e-37. Slopes: some F32 epsilons of the largest slope, for |x| < 1e18. */
typedef enum t3v_rows_fn {
    T3V_ROWS_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    T3V_ROWS_SILU,      /* x / (1 + exp(-x)) */
    T3V_ROWS_SIGMOID,
    T3V_ROWS_TANH,
    T3V_ROWS_EXP,
} t3v_rows_fn;
/* y[i] = f(x[i]); dx[i] = dy[i] * f'(x[i]). Flat; y may be x, dx may be dy or x (same type). */
void t3v_rows_act(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n);
void t3v_rows_act_bwd(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                      const void *x, t3v_dtype xt, int64_t n);
/* y = gelu_tanh(a) * b (T5's gated GELU). Flat; y may be a or b (same type). */
void t3v_rows_geglu(void *y, t3v_dtype yt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt,
                    int64_t n);
void t3v_rows_geglu_bwd(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate, const void *dy,
                        t3v_dtype dyt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n);

/* GELU by the error function, in double, all F32: y = x Phi(x); dx += dy y'(x). */
void t3v_rows_gelu_erf(float *y, const float *x, int64_t n);
void t3v_rows_gelu_erf_bwd(float *dx, const float *dy, const float *x, int64_t n);

/* ---- element-wise, flat ------------------------------------------------------------------------ */

/* y = alpha * a + beta * b (b NULL: alpha * a). y may be a or b (same type). Add, axpy, scale, and the
 * flow-match x_sigma = (1 - s) * x0 + s * eps. */
void t3v_rows_lincomb(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype at, float beta,
                      const void *b, t3v_dtype bt, int64_t n);
/* y = a + b, all F32. */
void t3v_rows_add(float *y, const float *a, const float *b, int64_t n);
/* y += alpha * x, all F32. */
void t3v_rows_axpy(float *y, float alpha, const float *x, int64_t n);
/* Type conversion, exact for BF16 -> F32. */
void t3v_rows_convert(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n);
void t3v_rows_to_bf16(t3v_bf16 *y, const float *x, int64_t n);
void t3v_rows_from_bf16(float *y, const t3v_bf16 *x, int64_t n);

/* Sum of squares in double over a fixed tree. */
double t3v_rows_sumsq(const void *x, t3v_dtype xt, int64_t n);
/* False when any element is NaN or infinite. */
bool t3v_rows_all_finite(const void *x, t3v_dtype xt, int64_t n);
/* Returns mean((v - target)^2) (0 for n = 0); dv (NULL or [n]) = weight * 2/n * (v - target), assigned. */
double t3v_rows_mse(float *dv, float weight, const float *v, const float *target, int64_t n);

/* One AdamW step (Loshchilov and Hutter, arXiv:1711.05101), decay before the update as PyTorch does:
 *   g' = grad_scale * g;  p *= 1 - lr * weight_decay;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
 *   p -= lr / (1 - b1^step) * m / (sqrt(v / (1 - b2^step)) + eps);  ema = ema_decay * ema + (1 - ema_decay) p
 */
typedef struct t3v_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    float grad_scale; /* clipping and loss scale; 1 for none */
    float ema_decay;  /* used when ema is given */
    int64_t step;     /* 1 for the first */
} t3v_adamw;
/* p, m, v [n] updated; p16 (NULL or [n]) gets bf16(p); ema NULL or [n]. */
void t3v_rows_adamw(float *p, float *m, float *v, t3v_bf16 *p16, float *ema, const float *g,
                    const t3v_adamw *o, int64_t n);

/* ---- sums over rows, channels, layouts ----------------------------------------------------------- */

/* db[d] += sum_n dy[n,d] (bias gradient). */
t3v_status t3v_rows_sum(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d);

/* y[n,c] = x[n,c] * a[c] + b[c], channels last. a, b may be NULL (1, 0). In place. */
void t3v_rows_affine(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a, const float *b,
                     int64_t n, int64_t c);
/* y[c,p] = x[c,p] * a[c] + b[c], planes. a, b may be NULL. In place. */
void t3v_rows_affine_planes(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a,
                            const float *b, int64_t c, int64_t p);

/* [n,d] -> [d,n]. Planar [C,T,H,W] to channels-last [T,H,W,C] is n = C, d = T*H*W; back is n = T*H*W, d = C.
 */
void t3v_rows_transpose(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n, int64_t d);
void t3v_rows_transpose_bf16(t3v_bf16 *y, const t3v_bf16 *x, int64_t n, int64_t d);

/* Nearest, channels last: x [T,H,W,C] -> y [T,2H,2W,C]; same type. */
void t3v_rows_upsample2x(void *y, const void *x, t3v_dtype t, int64_t T, int64_t H, int64_t W, int64_t C);
/* dx [T,H,W,C] = sum of the four of dy [T,2H,2W,C]. */
void t3v_rows_upsample2x_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                             int64_t T, int64_t H, int64_t W, int64_t C);

/* A fine clip of `frames` frames [h fs, w fs, c] beside a coarse one [t, h, w, c m]. In the block of a coarse cell the position
 * (a, b, d) in frame, row, column has the number r = (a fs + b) fs + d (columns: (a fs + d) fs + b); its channel k goes
 * with channel k m + r / g of the cell, g = ft fs fs / m. The first block lacks its first `skip` = ft t - frames frames. */
typedef struct t3v_blocks {
    int64_t ft, fs, t, h, w, c, m, frames;
    bool columns;
} t3v_blocks;
/* coarse += scale * the sum of what goes with each channel, over the fine frames [first, first + n); fine: those. */
void t3v_rows_blocks_gather(float *coarse, const float *fine, const t3v_blocks *b, int64_t first, int64_t n,
                            float scale);
/* fine += scale * the coarse channel that goes with each. */
void t3v_rows_blocks_spread(float *fine, const float *coarse, const t3v_blocks *b, float scale);

/* Order of the 4*C elements of a token's row (2x2 patch, kh row, kw column of it). */
typedef enum t3v_patch_order {
    T3V_PATCH_IN,  /* (c*2 + kh)*2 + kw: what the patch embedding multiplies */
    T3V_PATCH_OUT, /* (kh*2 + kw)*C + c: what the head gives */
} t3v_patch_order;
/* Latent [C,T,H,W] (H, W even) -> rows of tokens [n0,n1), token (f*(H/2) + i)*(W/2) + j; `rows` points at the
 * row of n0. Also the backward of t3v_rows_unpatchify with the same order. */
void t3v_rows_patchify(void *rows, t3v_dtype rt, const void *latent, t3v_dtype lt, t3v_patch_order order,
                       bool accumulate, int64_t C, int64_t T, int64_t H, int64_t W, int64_t n0, int64_t n1);
/* Rows of tokens [n0,n1) -> their cells of latent [C,T,H,W]; other cells stay. Also the backward of
 * t3v_rows_patchify with the same order. */
void t3v_rows_unpatchify(void *latent, t3v_dtype lt, const void *rows, t3v_dtype rt, t3v_patch_order order,
                         bool accumulate, int64_t C, int64_t T, int64_t H, int64_t W, int64_t n0, int64_t n1);

#endif
