/* SPDX-License-Identifier: Apache-2.0 */
/* Inside ops: what we ask of oneDNN. Primitives are made once per thread and shape, and kept. */
#ifndef T3V_OPS_ONEDNN_H
#define T3V_OPS_ONEDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/conv/conv.h"
#include "ops/gemm/gemm.h"

/* A product of dense matrices (no gaps between rows). in: type of A and B. */
typedef struct t3v_dnn_matmul {
    int64_t m, n, k;
    t3v_dtype in, out;
    bool a_trans, b_trans, accumulate;
    t3v_act act;
} t3v_dnn_matmul;
/* m, n, k >= 1. in F32 -> out F32 only. */
t3v_status t3v_dnn_gemm(const t3v_dnn_matmul *p, const void *a, const void *b, const float *bias, void *c);

/* Bytes of the opaque record that describes packed weights, and of the packed weights themselves, for a
 * convolution whose activations and weights have type `type`. */
size_t t3v_dnn_layout_bytes(void);
t3v_status t3v_dnn_conv_layout(const t3v_conv_shape *s, t3v_conv_dir dir, t3v_dtype type, void *layout,
                               size_t *bytes);
/* Weights [cout,cin,kt,kh,kw] of `type` into that layout. */
t3v_status t3v_dnn_conv_pack(const t3v_conv_shape *s, t3v_dtype type, const void *w, const void *layout,
                             void *packed);
/* in: type of activations and weights; out: F32, or BF16 when `in` is. sum: y += (out F32). */
t3v_status t3v_dnn_conv_forward(const t3v_conv_shape *s, t3v_dtype in, const void *x, const void *layout,
                                const void *packed, const float *bias, bool sum, void *y, t3v_dtype out);
t3v_status t3v_dnn_conv_backward_data(const t3v_conv_shape *s, t3v_dtype in, const void *dy,
                                      const void *layout, const void *packed, void *dx, t3v_dtype out);
/* dw [cout,cin,kt,kh,kw] f32 is overwritten. */
t3v_status t3v_dnn_conv_backward_weights(const t3v_conv_shape *s, t3v_dtype in, const void *x, const void *dy,
                                         float *dw);

/* Name of the implementation that the last call on this thread ran, "" before; for benchmarks and tests. */
const char *t3v_dnn_last_impl(void);

#endif
