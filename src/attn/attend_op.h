/* SPDX-License-Identifier: Apache-2.0 */
/* Attention as an op: the call a DiT block makes at each of its sites. */
#ifndef T3V_ATTN_ATTEND_OP_H
#define T3V_ATTN_ATTEND_OP_H

#include "attn/attend.h"
#include "attn/plan.h"
#include "ops/ctx.h"

/* Pairs of queries and keys at sites that choose their keys by content, summed over calls: those that were met, the least
 * that the plan counts, and all. Beyond 2^53 they are rounded. */
typedef struct t3v_attend_met {
    double met, counted, all;
} t3v_attend_met;

/* What a site has of its own in a layer: its parameters, as t3v_site_params lists them (NULL: none), and what it keeps
 * from step to step (t3v_attend_args.state; NULL: nothing is kept); met: NULL, or where its pairs are added. */
typedef struct t3v_attend_own {
    t3v_tensor *param;
    void *state;
    t3v_attend_met *met;
} t3v_attend_own;

/* out [n_q, heads * hd] of q [n_q, heads * hd] over k, v [n_k, heads * hd] as the site's terms say; all of the
 * same type; key_log_weight [n_k] nats, where kernels read it, or NULL; it must outlive the tape. Unless something is recorded, the
 * output takes over q's memory. moment is copied; NULL: nowhere in particular. own: NULL for a site without; its
 * parameters get gradients as q, k and v do. */
t3v_tensor *t3v_attend(t3v_ctx *ctx, const t3v_site *site, int64_t heads, t3v_tensor *q, t3v_tensor *k,
                       t3v_tensor *v, const float *key_log_weight, const t3v_moment *moment,
                       const t3v_attend_own *own);

#endif
