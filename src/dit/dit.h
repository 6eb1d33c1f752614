/* SPDX-License-Identifier: Apache-2.0 */
/* The Wan2.1 diffusion transformer: configuration, weights, and the one forward pass that inference and
 * training share. Source: spec of Wan-Video/Wan2.1 wan/modules/model.py. */
#ifndef T3V_DIT_DIT_H
#define T3V_DIT_DIT_H

#include "attn/attend_op.h"
#include "attn/plan.h"
#include "t3v/log.h"
#include "ops/ops.h"
#include "ops/rows/rows.h"

typedef struct t3v_dit_config {
    int64_t dim, ffn_dim, heads, layers;
    int64_t in_dim, out_dim; /* latent channels */
    int64_t freq_dim;        /* of the sinusoidal time embedding */
    int64_t text_dim, text_len;
    double eps;
} t3v_dit_config;

typedef struct t3v_dit_block {
    t3v_tensor modulation; /* [1, 6, dim]: shift, scale, gate of self-attention; the same of the FFN */
    t3v_weight q, k, v, o;
    t3v_tensor norm_q, norm_k;   /* [dim] */
    t3v_tensor norm3_w, norm3_b; /* [dim]: before cross-attention */
    t3v_weight cross_q, cross_k, cross_v, cross_o;
    t3v_tensor cross_norm_q, cross_norm_k;
    t3v_weight ffn_up, ffn_down;
} t3v_dit_block;

typedef struct t3v_dit {
    t3v_dit_config config;
    t3v_params params; /* every tensor below under its checkpoint name */
    t3v_weight patch_embedding, text_up, text_down, time_up, time_down, time_projection, head;
    t3v_tensor head_modulation; /* [1, 2, dim] */
    t3v_dit_block *block;       /* [layers] */
    /* [layers][T3V_SITE_PARAMS_MAX]: what adopted plans have of their own; NULL: nothing */
    t3v_tensor *own;
} t3v_dit;

/* Lists the parameters of a model of this shape (no data yet). E_ARG names the field that is out of range. */
t3v_status t3v_dit_open(t3v_dit *dit, const t3v_dit_config *config);
void t3v_dit_close(t3v_dit *dit);
/* The same with the time embedding alone, which is all that t3v_dit_time reads. */
t3v_status t3v_dit_open_time(t3v_dit *dit, const t3v_dit_config *config);

/* The layer whose matrix is `t`, one of dit->params; NULL: another parameter. */
t3v_weight *t3v_dit_layer(t3v_dit *dit, const t3v_tensor *t);

/* Lists the parameters that the plan's self sites have of their own and the model does not have yet, after all others,
 * without data. E_ARG: a layer has them in other shapes, from another plan. */
t3v_status t3v_dit_adopt(t3v_dit *dit, const t3v_plan *plan);

/* A prompt as the blocks need it, computed once per prompt: keys and values of the text rows for each
 * layer. Rows past the prompt's tokens are all zero, so one row with log-weight ln(text_len - L) stands for
 * them exactly. */
typedef struct t3v_dit_prompt {
    int64_t rows;        /* L, or L + 1 with the padding row */
    t3v_tensor **k, **v; /* [layers] of [rows, dim], compute type */
    float *log_weight;   /* [rows], nats */
} t3v_dit_prompt;

/* context [L, text_dim] F32, 1 <= L <= text_len. */
t3v_status t3v_dit_prompt_make(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *context, t3v_dit_prompt *out);

/* q, k, v [tokens, dim] as self-attention gets them. */
typedef struct t3v_qkv {
    t3v_tensor *q, *k, *v;
} t3v_qkv;

/* Is told what a layer's self-attention is about to run on. */
typedef struct t3v_dit_watch {
    t3v_status (*fn)(void *user, int64_t layer, const t3v_qkv *x);
    void *user;
} t3v_dit_watch;

typedef struct t3v_dit_call {
    const t3v_plan *plan; /* for this grid */
    const t3v_dit_prompt *prompt;
    double timestep;   /* 0 .. 1000 */
    t3v_moment moment; /* what the plan may depend on */
    /* t3v_plan_state bytes of this guidance branch, zero at first; NULL: the plan keeps nothing */
    void *state;
    int state_number;    /* bytes of a number in it: 4, or 2 for a run in BF16 */
    t3v_attend_met *met; /* gets the pairs of self-attention that chooses its keys; NULL: not counted */
    int64_t range;       /* tokens walked at a time; 0: chosen */
    /* [layers] of [tokens, dim], compute type: get what self-attention gives, before its output projection; or NULL */
    t3v_tensor *const *attention;
    /* The same of a teacher: t3v_dit_loss pulls self-attention towards it with this weight, and adds to *taught the mean
     * over the layers of mean((own - teacher's)^2). NULL: no teacher. */
    t3v_tensor *const *teacher;
    double teach, *taught;
    /* [tokens, dim] of the compute type: what the blocks added to the residual stream. Not for a recorded pass; may be
     * NULL. */
    void *residual;
    const t3v_dit_watch *watch;   /* may be NULL */
    bool reuse;                   /* add `residual` instead of running the blocks; else it is written */
    const t3v_progress *progress; /* told about blocks; may be NULL */
} t3v_dit_call;

/* Velocity [out_dim, T, H, W] F32 of latent [in_dim, T, H, W] F32; H and W even. */
t3v_tensor *t3v_dit_forward(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, const t3v_dit_call *call);

/* Forward, *loss = mean((v - target)^2), and the gradient of weight * loss: of the parameters in ctx->param_grad, of
 * latent and context in theirs if they need one. Everything on ctx->tape is walked back, also what made the context.
 * recompute: of the blocks only the inputs are kept; on the way back each is run again, recorded range by range. The
 * sums over ranges are in fixed order. With a call->teacher, the gradient of its term is added; *loss does not have it.
 * call->prompt is not read: the prompt is made of `context` [L, text_dim]. */
t3v_status t3v_dit_loss(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, t3v_tensor *context,
                        const float *target, double weight, const t3v_dit_call *call, bool recompute,
                        double *loss);

/* ---- the ends of the model (model.c) --------------------------------------------------------------- */

/* e [1, dim] and e0 [1, 6 dim] of a timestep. */
void t3v_dit_time(t3v_ctx *ctx, const t3v_dit *dit, double timestep, t3v_tensor **e, t3v_tensor **e0);
/* The token grid of a latent. E_SHAPE when the model does not take it. */
t3v_status t3v_dit_grid(const t3v_dit *dit, const t3v_tensor *latent, int64_t grid[3]);
t3v_rope *t3v_dit_rope(t3v_ctx *ctx, const t3v_dit *dit, const int64_t grid[3]);
/* Tokens walked at a time of n: the call's choice, else all (`whole`) or some thousands. */
int64_t t3v_dit_range(const t3v_dit_call *call, bool whole, int64_t n);
/* Rows of tokens [first, first + n): [n, dim]. */
t3v_tensor *t3v_dit_embed(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t first, int64_t n);
/* All n tokens, `range` at a time. */
t3v_tensor *t3v_dit_embed_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t n, int64_t range);
/* [n, 4 out_dim] of the last block's rows. */
t3v_tensor *t3v_dit_head(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, t3v_tensor *e);
/* The same of all rows, into the velocity. */
void t3v_dit_head_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, t3v_tensor *e, int64_t range,
                      t3v_tensor *velocity);

/* ---- block.c: the three parts of a block ---------------------------------------------------------- */

/* m = modulation + e0: [6, dim]. */
t3v_tensor *t3v_dit_modulation(t3v_ctx *ctx, const t3v_dit_block *b, t3v_tensor *e0);
/* q, k, v of tokens [first, first + rows of x). */
t3v_qkv t3v_dit_pre(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x, t3v_tensor *m,
                    const t3v_rope *rope, int64_t first);
/* x after self-attention's output o, cross-attention and FFN, for the rows given. */
t3v_tensor *t3v_dit_post(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x,
                         t3v_tensor *o, t3v_tensor *m, const t3v_dit_call *call, int64_t layer);
/* What self-attention of a layer has of its own. */
t3v_attend_own t3v_dit_own(const t3v_dit *dit, const t3v_dit_call *call, int64_t layer);
/* Recorded self-attention o of a layer meets the call's teacher: the gradient of `teach` times the squared distance is
 * added to that of o. */
void t3v_dit_teach(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call, int64_t layer, t3v_tensor *o);
/* q, k, v of all tokens, `range` at a time. */
t3v_qkv t3v_dit_pre_all(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x,
                        t3v_tensor *m, const t3v_rope *rope, int64_t range);
/* Block `layer` on x [n, dim]. The result is written to `into` (may be x), or is a new tensor when recorded. */
t3v_tensor *t3v_dit_block_run(t3v_ctx *ctx, const t3v_dit *dit, int64_t layer, t3v_tensor *x, t3v_tensor *m,
                              const t3v_rope *rope, const t3v_dit_call *call, int64_t range,
                              t3v_tensor *into);

#endif
