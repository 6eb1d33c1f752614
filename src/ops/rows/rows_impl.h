/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/ops/rows: what an instruction set provides. All functions are single-threaded, work on a block
 * of rows (or of a flat array), and take pointers to the block; contracts are those of rows.h. Column sums
 * (`float *` gradients of parameters) are assigned for the block, which has at most T3V_ROWS_CHUNK rows; the
 * caller adds chunks in double, in order. A NULL gradient is skipped. */
#ifndef T3V_OPS_ROWS_IMPL_H
#define T3V_OPS_ROWS_IMPL_H

#include "base/cpu.h"
#include "ops/rows/rows.h"

#define T3V_ROWS_CHUNK 64

typedef struct t3v_rows_impl {
    t3v_isa needs;
    void (*layernorm)(void *y, t3v_dtype yt, const float *x, const float *scale, const float *shift,
                      bool one_plus, float eps, int64_t n, int64_t d);
    void (*layernorm_bwd)(float *dx, bool accumulate, float *dscale, float *dshift, const void *dy,
                          t3v_dtype dyt, const float *x, const float *scale, bool one_plus, float eps,
                          int64_t n, int64_t d);
    void (*qk)(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
               float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d);
    void (*qk_bwd)(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate, float *dg, const void *dy,
                   t3v_dtype dyt, int64_t lddy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
                   float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d);
    void (*vae_norm)(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                     int64_t n, int64_t d);
    void (*vae_norm_bwd)(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma, const void *dy,
                         t3v_dtype dyt, const void *x, t3v_dtype xt, const float *gamma, bool silu, int64_t n,
                         int64_t d);
    /* bias points at the first bias row; the block's row r takes bias row (row0 + r) % bias_rows. */
    void (*softmax)(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale, const float *bias,
                    int64_t bias_rows, int64_t row0, int64_t n, int64_t d);
    void (*softmax_bwd)(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                        const void *y, t3v_dtype yt, float scale, int64_t n, int64_t d);
    void (*gate_residual)(float *out, const float *x, const float *gate, const void *y, t3v_dtype yt,
                          int64_t n, int64_t d);
    void (*gate_residual_bwd)(float *dx, void *dy, t3v_dtype dyt, bool accumulate, float *dgate,
                              const float *dout, const float *gate, const void *y, t3v_dtype yt, int64_t n,
                              int64_t d);
    void (*act)(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n);
    void (*act_bwd)(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                    const void *x, t3v_dtype xt, int64_t n);
    void (*geglu)(void *y, t3v_dtype yt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n);
    void (*geglu_bwd)(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate, const void *dy,
                      t3v_dtype dyt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n);
    void (*lincomb)(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype at, float beta,
                    const void *b, t3v_dtype bt, int64_t n);
    double (*sumsq)(const void *x, t3v_dtype xt, int64_t n);
    bool (*all_finite)(const void *x, t3v_dtype xt, int64_t n);
    /* Sum of squared differences; dv = k * (v - target). */
    double (*mse)(float *dv, float k, const float *v, const float *target, int64_t n);
    /* step_size = lr / (1 - b1^step), inv_bc2 = 1 / sqrt(1 - b2^step). */
    void (*adamw)(float *p, float *m, float *v, t3v_bf16 *p16, float *ema, const float *g, const t3v_adamw *o,
                  float step_size, float inv_bc2, int64_t n);
    void (*sum)(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d);
    void (*affine)(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a, const float *b,
                   int64_t n, int64_t c);
    void (*affine1)(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float a, float b, int64_t n);
    /* x [n,d] rows [i0,i1), columns [j0,j1) into y [d,n]; whole-matrix pointers. */
    void (*transpose)(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n, int64_t d, int64_t i0,
                      int64_t i1, int64_t j0, int64_t j1);
    /* One output row of t3v_rows_upsample2x_bwd: dy0, dy1 two input rows [2W,C]. */
    void (*up_bwd)(void *dx, t3v_dtype dxt, bool accumulate, const void *dy0, const void *dy1, t3v_dtype dyt,
                   int64_t W, int64_t C);
} t3v_rows_impl;

extern const t3v_rows_impl t3v__rows_ref, t3v__rows_avx2, t3v__rows_avx512;

#endif
