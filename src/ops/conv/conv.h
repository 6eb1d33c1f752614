/* SPDX-License-Identifier: Apache-2.0 */
/* 3-D convolution over channels-last activations, forward and backward. */
#ifndef T3V_OPS_CONV_H
#define T3V_OPS_CONV_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "t3v/dtype.h"

/* x [t,h,w,cin] -> y [to,ho,wo,cout], weights [cout,cin,kt,kh,kw] as checkpoints store them, bias [cout] f32.
 * y[o] = bias + sum over taps d of w[d] x[o*stride - pad0 + d]; x is zero outside. A 2-D convolution has kt = 1.
 * Causal padding in time is the caller's: cached frames come first in x. `type`: of x, dy and the weights in use,
 * F32 or BF16; sums are in f32. Where the CPU has no bf16 products, BF16 tensors are widened frame by frame. */
typedef struct t3v_conv_shape {
    int64_t t, h, w, cin, cout;
    int64_t kt, kh, kw;
    int64_t st, sh, sw;                   /* strides, >= 1 */
    int64_t pt0, pt1, ph0, ph1, pw0, pw1; /* zeros in front of and behind each axis */
    t3v_dtype type;
} t3v_conv_shape;

typedef enum t3v_conv_dir { T3V_CONV_FORWARD, T3V_CONV_BACKWARD_DATA } t3v_conv_dir;

/* Checks a shape and gives the output's extent; any pointer may be NULL. E_SHAPE names what is wrong. */
t3v_status t3v_conv_out(const t3v_conv_shape *s, int64_t *to, int64_t *ho, int64_t *wo);

/* Weights are packed once, per direction, into the layout of the kernel that will use them. The packed weights
 * serve every t, h, w and padding; they are fastest at the shape they were packed for. */
t3v_status t3v_conv_packed_size(const t3v_conv_shape *s, t3v_conv_dir dir, size_t *bytes);
/* w: of w_type F32 or BF16 (rounded to, or widened to, what s->type needs). packed: 64-byte aligned. */
t3v_status t3v_conv_pack(const t3v_conv_shape *s, t3v_conv_dir dir, const void *w, t3v_dtype w_type,
                         void *packed);

/* bias may be NULL. y_type F32 or BF16. The result does not depend on the number of threads. */
t3v_status t3v_conv_forward(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                            void *y, t3v_dtype y_type);
/* The same, added to what y [to,ho,wo,cout] holds. */
t3v_status t3v_conv_forward_add(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                                float *y);
/* Bytes of scratch in which a thread that calls them keeps widened frames from then on: 0 where the CPU has bf16 products.
 * For a count before anything runs. */
int64_t t3v_conv_forward_scratch(const t3v_conv_shape *s, t3v_dtype y_type);
/* dx [t,h,w,cin] of dx_type F32 or BF16 is overwritten; `packed` is for T3V_CONV_BACKWARD_DATA. */
t3v_status t3v_conv_backward_data(const t3v_conv_shape *s, const void *dy, const void *packed, void *dx,
                                  t3v_dtype dx_type);
/* dw [cout,cin,kt,kh,kw] += , dbias [cout] += (either may be NULL). Output frames are cut into at most 8 slices, one
 * thread each, summed in order: the result does not depend on the number of threads. */
t3v_status t3v_conv_backward_weights(const t3v_conv_shape *s, const void *x, const void *dy, float *dw,
                                     float *dbias);

/* The definitions: sums in double, one thread; w [cout,cin,kt,kh,kw] f32. dw and dbias are added to. */
void t3v_conv_forward_ref(const t3v_conv_shape *s, const void *x, const float *w, const float *bias, void *y,
                          t3v_dtype y_type);
void t3v_conv_backward_data_ref(const t3v_conv_shape *s, const void *dy, const float *w, void *dx,
                                t3v_dtype dx_type);
void t3v_conv_backward_weights_ref(const t3v_conv_shape *s, const void *x, const void *dy, float *dw,
                                   float *dbias);

#endif
