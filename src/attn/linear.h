/* SPDX-License-Identifier: Apache-2.0 */
/* Inside attn: a linear term of one head, and the largest score of rows. All sums are f32 in fixed order. */
#ifndef T3V_ATTN_LINEAR_H
#define T3V_ATTN_LINEAR_H

#include <stdbool.h>

#include "attn/kernel.h"

/* phi_q or phi_k of one head. */
typedef struct t3v_phi_net {
    t3v_phi phi;
    int dim, features; /* features: degree * dim */
    const float *w[T3V_PHI_LAYERS_MAX], *b[T3V_PHI_LAYERS_MAX];
    float *dw[T3V_PHI_LAYERS_MAX], *db[T3V_PHI_LAYERS_MAX]; /* added to; NULL: not wanted */
} t3v_phi_net;

/* phi_q (map 0) or phi_k (map 1) of head `head`; params and grads as t3v_site_params lists them, grads may be NULL. */
t3v_phi_net t3v_phi_of(const t3v_phi *phi, int map, int head, int dim, const float *const *params,
                       float *const *grads);

/* Bytes of a thread's own memory for any call here; of the memory that the threads share in t3v_linear_forward. */
size_t t3v_linear_work(const t3v_phi *phi, int dim);
size_t t3v_linear_shared(const t3v_phi *phi, int dim);

/* Numerators phi_q(q) . sum phi_k(k)^T v into out [token][dim], denominators into den [token], of one block. Called by
 * all threads of a team. False on this thread: memory is out. */
bool t3v_linear_forward(const t3v_attn_job *job, const t3v_phi_net net[2], void *shared, void *work,
                        float *out, float *den);

/* What the output of a row passes on: d(numerator) = weight * dout, d(denominator) = -delta. By token. */
typedef struct t3v_linear_grad {
    const void *dout;
    t3v_dtype dout_type;
    int64_t dout_stride;
    const float *weight, *delta;
    float *slope;        /* out: sum of feature * d(feature) of each query */
    float *dq, *dk, *dv; /* added to */
    int64_t dq_stride, dk_stride, dv_stride;
} t3v_linear_grad;

/* One block on the calling thread alone. */
bool t3v_linear_backward(const t3v_attn_job *job, const t3v_phi_net net[2], const t3v_linear_grad *g,
                         void *shared, void *work);

/* top[token] = the larger of itself and the largest score of the queries [first, first + count) of the block, log-weights
 * included; with `which` (may be NULL) the index in the key list that has it, else -1 stays. */
enum { T3V_LINEAR_ROWS = 128 };
bool t3v_row_max(const t3v_attn_job *job, int64_t first, int64_t count, void *work, float *top,
                 int32_t *which);

#endif
