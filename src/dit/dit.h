/* SPDX-License-Identifier: Apache-2.0 */
/* The Wan diffusion transformer, 2.1 and 2.2: configuration, weights, and the one forward pass that inference and
 * training share. Source: Wan-Video/Wan2.1 and Wan2.2, wan/modules/model.py. */
#ifndef T3V_DIT_DIT_H
#define T3V_DIT_DIT_H

#include "attn/attend_op.h"
#include "attn/plan.h"
#include "cuda/device.h"
#include "t3v/log.h"
#include "ops/ops.h"
#include "ops/rows/rows.h"

typedef struct t3v_dit_config {
    int64_t dim, ffn_dim, heads, layers;
    int64_t in_dim, out_dim; /* latent channels */
    int64_t freq_dim;        /* of the sinusoidal time embedding */
    int64_t text_dim, text_len;
    int64_t clip_dim; /* width of the CLIP features that the blocks look at; 0: they look at none */
    double eps;
} t3v_dit_config;

/* How a model takes an image. */
typedef enum t3v_dit_image_use {
    T3V_DIT_NO_IMAGE,
    /* channels after the latent's own: a mask of 4, then the latent of a clip that begins with the image and goes on grey */
    T3V_DIT_IMAGE_CHANNELS,
    /* optional: the first latent frame is the image's, at timestep 0 (the 5B of Wan2.2, with its VAE's 48 channels) */
    T3V_DIT_IMAGE_FRAME,
} t3v_dit_image_use;
enum { T3V_DIT_MASK = 4, T3V_DIT_CLIP_ROWS = 257 /* of an image's features in Wan2.1 */ };

t3v_dit_image_use t3v_dit_image_used(const t3v_dit_config *c);

typedef struct t3v_dit_block {
    t3v_tensor modulation; /* [1, 6, dim]: shift, scale, gate of self-attention; the same of the FFN */
    t3v_weight q, k, v, o;
    t3v_tensor norm_q, norm_k;   /* [dim] */
    t3v_tensor norm3_w, norm3_b; /* [dim]: before cross-attention */
    t3v_weight cross_q, cross_k, cross_v, cross_o;
    t3v_tensor cross_norm_q, cross_norm_k;
    t3v_weight cross_k_img, cross_v_img; /* with clip_dim */
    t3v_tensor cross_norm_k_img;
    t3v_weight ffn_up, ffn_down;
} t3v_dit_block;

typedef struct t3v_dit_stream t3v_dit_stream;

typedef struct t3v_dit {
    t3v_dit_config config;
    t3v_params params; /* every tensor below under its checkpoint name */
    t3v_weight patch_embedding, text_up, text_down, time_up, time_down, time_projection, head;
    t3v_tensor head_modulation; /* [1, 2, dim] */
    /* img_emb, with clip_dim: norm [clip_dim], two layers, norm [dim] */
    t3v_tensor clip_norm_w, clip_norm_b, clip_out_w, clip_out_b;
    t3v_weight clip_up, clip_down;
    t3v_dit_block *block; /* [layers] */
    /* [layers][T3V_SITE_PARAMS_MAX]: what adopted plans have of their own; NULL: nothing */
    t3v_tensor *own;
    const t3v_device *device; /* that has the parameters' data; NULL: the host */
    bool fp8;                 /* there the matrices of t3v_dit_fp8 are 8-bit floats */
    t3v_dit_stream *stream;   /* dit/stream.h; NULL: all parameters are there */
} t3v_dit;

/* Lists the parameters of a model of this shape (no data yet). E_ARG names the field that is out of range. */
t3v_status t3v_dit_open(t3v_dit *dit, const t3v_dit_config *config);
void t3v_dit_close(t3v_dit *dit);
/* The same with the time embedding alone, which is all that t3v_dit_time reads. */
t3v_status t3v_dit_open_time(t3v_dit *dit, const t3v_dit_config *config);

/* The layer whose matrix is `t`, one of dit->params; NULL: another parameter. */
t3v_weight *t3v_dit_layer(t3v_dit *dit, const t3v_tensor *t);

/* Whether the parameter is a matrix of the blocks that products of 8-bit floats take, for its size. */
bool t3v_dit_fp8(const t3v_param *p);

/* Lists the parameters that the plan's self sites have of their own and the model does not have yet, after all others,
 * without data. E_ARG: a layer has them in other shapes, from another plan. */
t3v_status t3v_dit_adopt(t3v_dit *dit, const t3v_plan *plan);

/* A prompt as the blocks need it, computed once per prompt: keys and values of the text rows for each
 * layer. Rows past the prompt's tokens are all zero, so one row with log-weight ln(text_len - L) stands for
 * them exactly. */
typedef struct t3v_dit_prompt {
    int64_t rows;        /* L, or L + 1 with the padding row */
    t3v_tensor **k, **v; /* [layers] of [rows, dim], compute type */
    float *log_weight;   /* [rows], nats, where kernels read it */
} t3v_dit_prompt;

/* context [L, text_dim] F32, 1 <= L <= text_len. */
t3v_status t3v_dit_prompt_make(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *context, t3v_dit_prompt *out);

/* An image as the blocks look at it: keys and values of its CLIP features for each layer, the same for all prompts. */
typedef struct t3v_dit_image {
    t3v_tensor **k, **v; /* [layers] of [rows, dim], compute type */
} t3v_dit_image;

/* clip [rows, clip_dim] F32. */
t3v_status t3v_dit_image_make(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *clip, t3v_dit_image *out);

/* q, k, v [tokens, dim] as self-attention gets them. */
typedef struct t3v_qkv {
    t3v_tensor *q, *k, *v;
} t3v_qkv;

/* Is told what a layer's self-attention is about to run on. */
typedef struct t3v_dit_watch {
    t3v_status (*fn)(void *user, int64_t layer, const t3v_qkv *x);
    void *user;
} t3v_dit_watch;

/* A pass that can be left before a block and gone on with there. Of passes on the CPU that are not recorded. */
typedef struct t3v_dit_halfway {
    int64_t layer; /* begin before this block; above 0, `read` fills the residual stream [tokens, dim] F32 */
    double
        every; /* seconds: `keep` is called before a block when it was not for so long, and when a pass is stopped */
    t3v_status (*read)(void *user, t3v_tensor *stream);
    /* why: what stops the pass, whose text stays the last message; else T3V_OK */
    void (*keep)(void *user, int64_t layer, const t3v_tensor *stream, t3v_status why);
    void *user;
} t3v_dit_halfway;

typedef struct t3v_dit_graphs t3v_dit_graphs;

typedef struct t3v_dit_call {
    const t3v_plan *plan; /* for this grid */
    const t3v_dit_prompt *prompt;
    const t3v_dit_image *image; /* of models with clip_dim; else NULL */
    double timestep;            /* 0 .. 1000 */
    /* the first latent frame is given, not to be made: its tokens have timestep 0 */
    bool first_given;
    bool skip_first;   /* t3v_dit_loss compares the other latent frames alone; there must be some */
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
    const t3v_dit_watch *watch;     /* may be NULL */
    t3v_dit_graphs *graphs;         /* dit/graph.h; NULL: none */
    bool reuse;                     /* add `residual` instead of running the blocks; else it is written */
    const t3v_progress *progress;   /* told about blocks; may be NULL */
    const t3v_dit_halfway *halfway; /* may be NULL */
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

/* What is computed once for each timestep of a pass: there are two where the first latent frame is given. Entry 0 is of
 * the tokens before `edge`, entry 1 of the others; an entry without tokens is NULL. */
typedef struct t3v_dit_by_time {
    int64_t edge;
    t3v_tensor *of[2];
} t3v_dit_by_time;

/* e and e0 of the call's timesteps on a grid. */
void t3v_dit_times(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call, const int64_t grid[3],
                   t3v_dit_by_time *e, t3v_dit_by_time *e0);
/* That of the token `first`. */
static inline t3v_tensor *t3v_dit_of(const t3v_dit_by_time *x, int64_t first)
{
    return x->of[first >= x->edge];
}
/* How many of n tokens are walked at once from `first` on: `range` at most, all of one timestep. */
static inline int64_t t3v_dit_piece(const t3v_dit_by_time *x, int64_t first, int64_t range, int64_t n)
{
    int64_t end = first < x->edge ? x->edge : n;
    return end - first < range ? end - first : range;
}
/* The token grid of a latent. E_SHAPE, E_ARG: the model does not take it, or not with the call's image. */
t3v_status t3v_dit_check(const t3v_dit *dit, const t3v_tensor *latent, const t3v_dit_call *call,
                         int64_t grid[3]);
t3v_rope *t3v_dit_rope(t3v_ctx *ctx, const t3v_dit *dit, const int64_t grid[3]);
/* Tokens walked at a time of n: the call's choice, else all (`whole`) or some thousands, on a device more. */
int64_t t3v_dit_range(const t3v_ctx *ctx, const t3v_dit_call *call, bool whole, int64_t n);
/* Rows of tokens [first, first + n): [n, dim]. */
t3v_tensor *t3v_dit_embed(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t first, int64_t n);
/* All n tokens, `range` at a time. */
t3v_tensor *t3v_dit_embed_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t n, int64_t range);
/* [n, 4 out_dim] of the last block's rows. */
t3v_tensor *t3v_dit_head(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, t3v_tensor *e);
/* The same of all rows, into the velocity. */
void t3v_dit_head_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, const t3v_dit_by_time *e,
                      int64_t range, t3v_tensor *velocity);

/* ---- block.c: the three parts of a block ---------------------------------------------------------- */

/* m = modulation + e0: [6, dim]. */
t3v_dit_by_time t3v_dit_modulation(t3v_ctx *ctx, const t3v_dit_block *b, const t3v_dit_by_time *e0);
/* q, k, v of tokens [first, first + rows of x), which have one timestep; m is its modulation. */
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
                        const t3v_dit_by_time *m, const t3v_rope *rope, int64_t range);
/* Block `layer` on x [n, dim]. The result is written to `into` (may be x), or is a new tensor when recorded. */
t3v_tensor *t3v_dit_block_run(t3v_ctx *ctx, const t3v_dit *dit, int64_t layer, t3v_tensor *x,
                              const t3v_dit_by_time *m, const t3v_rope *rope, const t3v_dit_call *call,
                              int64_t range, t3v_tensor *into);

#endif
