/* SPDX-License-Identifier: Apache-2.0 */
/* The UMT5 encoder of Wan (wan/modules/t5.py), on the real tokens only: padding is masked as keys there and
 * dropped as rows, so leaving it out is exact. */
#ifndef T3V_TEXT_UMT5_H
#define T3V_TEXT_UMT5_H

#include "cuda/device.h"
#include "ops/ops.h"

typedef struct t3v_umt5_config {
    int64_t vocab, dim, dim_attn, heads, dim_ffn, layers, buckets;
} t3v_umt5_config;

typedef struct t3v_umt5_block {
    t3v_tensor norm1, norm2; /* [dim] */
    t3v_weight q, k, v, o;   /* no biases, no 1/sqrt(d) */
    t3v_tensor position;     /* [buckets, heads]: every layer has its own */
    t3v_weight gate, fc1, fc2;
} t3v_umt5_block;

typedef struct t3v_umt5 {
    t3v_umt5_config config;
    t3v_params params;
    const t3v_device *device; /* that has the data of all parameters but the embeddings; NULL: the host */
    t3v_tensor embedding;     /* [vocab, dim] */
    t3v_umt5_block *block;
    t3v_tensor norm;
} t3v_umt5;

/* Lists the parameters under the names of the original .pth. */
t3v_status t3v_umt5_open(t3v_umt5 *m, const t3v_umt5_config *config);
void t3v_umt5_close(t3v_umt5 *m);

/* Rows [n, dim] F32 of token ids (EOS included); every id must be below the vocabulary's size. */
t3v_tensor *t3v_umt5_encode(t3v_ctx *ctx, const t3v_umt5 *m, const int32_t *ids, int64_t n);

#endif
