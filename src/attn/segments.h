/* SPDX-License-Identifier: Apache-2.0 */
/* The GPU's attention kernels over a plan's segments: what each gets, in plain C. Every pointer inside is to memory of the
 * device; `stream` is a CUDA stream. A launch returns 0 or the CUDA error.
 *
 * Rows of q, k, v and out are tokens (of pooled keys: pooled rows) with all heads in a row, as t3v_attend_args has them. */
#ifndef T3V_ATTN_SEGMENTS_H
#define T3V_ATTN_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/plan.h"
#include "t3v/dtype.h"

enum { T3V_SEG_ROWS = 128 }; /* of an item, at most */

/* Work of one thread block: row slots [first, first + count), which meet the columns of list number `list`. */
typedef struct t3v_seg_item {
    int32_t list, first, count;
} t3v_seg_item;

/* Rows and the columns that they meet: of queries and keys, or, on the way back, of keys and queries. */
typedef struct t3v_seg_lists {
    const t3v_seg_item *item; /* [items]; NULL: rows 0 .. rows, cut at multiples of T3V_SEG_ROWS, list 0 */
    int64_t items, rows, columns;
    int32_t most; /* rows of an item */
    /* ranges[begin[l] .. begin[l + 1]) of column slots, ascending; NULL and no bits: all columns */
    const int64_t *begin;
    const t3v_range *ranges;
    /* instead of ranges: of list l the blocks whose bits are set in bits[l * words ..], block j being the column slots
     * [block_first[j], block_first[j + 1]) */
    const uint64_t *bits;
    const int32_t *block_first;
    int64_t words;
    int64_t per_head; /* lists of head h follow those of head 0 after h * per_head; 0: all heads share them */
    const int32_t *row_order, *column_order; /* slot -> row of the matrices; NULL: identity */
} t3v_seg_lists;

typedef struct t3v_seg_inputs {
    const void *q, *k, *v;
    t3v_dtype type; /* F32 or BF16 */
    int64_t n_q, q_stride, k_stride, v_stride;
    int dim, head_first, heads; /* heads [head_first, head_first + heads) */
    const float *log_weight;    /* [rows of k] nats, or NULL */
    float scale;
} t3v_seg_inputs;

/* out = weight * softmax(scale q.k + log_weight) v + sum, rules as in attn/attend.h. */
typedef struct t3v_seg_forward {
    t3v_seg_inputs in;
    t3v_seg_lists lists;
    void *out;
    t3v_dtype out_type;
    int64_t out_stride;
    int out_first; /* head whose columns come first in rows of out */
    float weight;
    const float *sum; /* like out; NULL: none. May be out */
    int64_t sum_stride;
    int sum_first;
    float *lse; /* [all heads][n_q], or NULL */
    float *top; /* the same: gets the largest score; or NULL */
} t3v_seg_forward;

/* Pooled keys and values, as attn/source.h defines them, for all heads; pool 1: only log-weights, which are added. */
typedef struct t3v_seg_pool {
    const void *k, *v;
    t3v_dtype type;
    int64_t n_k, k_stride, v_stride, width; /* width: numbers of a row that are pooled */
    const int32_t *order;                   /* slot -> token; NULL: identity */
    int pool;
    const float *log_weight, *key_log_weight; /* [rows] of the plan, [n_k] by token; NULL: none */
    void *pooled_k, *pooled_v;                /* rows of `type`, `pooled_stride` apart */
    int64_t pooled_stride;
    float *weight; /* [rows] */
} t3v_seg_pool;

/* Choosing key blocks by content, as attn/select.h defines it. */
typedef struct t3v_seg_pick {
    t3v_seg_inputs in; /* q and k, in.n_q tokens each; v is not read */
    const int32_t *order, *block_first;
    int64_t blocks, words;
    int sample; /* rows of a summary; 0: all */
    bool softmax;
    int64_t keep, most; /* blocks: kept at least, at most */
    double p;
    const uint64_t *always; /* [lists][words] */
    int64_t always_per_head;
    float *means;     /* [2][in.heads][blocks][dim], of q and of k; memory to work in */
    uint64_t *bits;   /* out: [all heads][blocks][words] */
    uint64_t *turned; /* out: the same with rows and columns exchanged; NULL: not wanted */
} t3v_seg_pick;
enum { T3V_SEG_PICK_MOST = 8192 }; /* blocks */

/* What decides how terms of a joint site are weighed (attn/combine.h); numbers [all heads][n_q]. */
typedef struct t3v_seg_shares {
    int terms, linear;               /* linear: the term that is, -1: none */
    const float *lse[T3V_TERMS_MAX]; /* of a linear term its denominator */
    /* the largest scores of softmax terms, where a linear one weighs exp of the row's; else NULL */
    const float *top[T3V_TERMS_MAX];
} t3v_seg_shares;

/* One softmax over terms. `part`: rows [n_q] of heads [head_first, ..), of a linear term the numerator. */
typedef struct t3v_seg_joint {
    t3v_seg_shares by;
    int dim, head_first, heads;
    int64_t n_q;
    const float *part[T3V_TERMS_MAX];
    int64_t part_stride;
    void *out;
    t3v_dtype out_type;
    int64_t out_stride;
} t3v_seg_joint;

/* A method's epilogue and what it keeps. */
typedef struct t3v_seg_keep {
    t3v_epilogue_form form;
    int dim, head_first, heads, number; /* number: bytes of one of a record's */
    int64_t n_q;
    const float *part, *whole; /* rows of the form's terms as in t3v_seg_joint; not read where not computed */
    int64_t part_stride;
    const float *part_lse, *whole_lse; /* [all heads][n_q] */
    char *record;                      /* [all heads][n_q], record_bytes each */
    int64_t record_bytes;
    void *out;
    t3v_dtype out_type;
    int64_t out_stride;
} t3v_seg_keep;

/* For each query of a term what its gradients need: delta = out . dout, and the factor of the term's output: `weight`, or
 * its share at a joint site. */
typedef struct t3v_seg_stats {
    int dim, head_first, heads;
    int64_t n_q;
    const void *out, *dout; /* out: of the term, unweighted, or of the joint softmax */
    t3v_dtype out_type, dout_type;
    int64_t out_stride, dout_stride;
    t3v_seg_shares by; /* terms 0: no joint site */
    int index;
    float weight;
    float *delta, *factor; /* out: [all heads][n_q] */
    uint16_t *
        rounded; /* out: dout as bf16 [n_q][all heads * dim], `rounded_stride` apart, from which delta then is; NULL: not
                        * wanted */
    int64_t rounded_stride;
} t3v_seg_stats;

/* Gradients of the rows of `lists`: of queries, dq += scale dS k, or of keys, dk += scale dS^T q and dv += (factor P)^T dout;
 * P = exp(score - lse), dS = factor P (dout . v - delta). */
typedef struct t3v_seg_backward {
    t3v_seg_inputs in;
    t3v_seg_lists lists;
    const void *dout;
    t3v_dtype dout_type;
    int64_t dout_stride;
    const float *lse, *delta, *factor; /* [all heads][n_q] */
    float *dq, *dk, *dv;               /* added to; rows like q, k, v */
    int64_t dq_stride, dk_stride, dv_stride;
} t3v_seg_backward;

/* Adds gradients of pooled keys and values [rows][width] to those of the tokens. */
typedef struct t3v_seg_unpool {
    const float *pooled_dk, *pooled_dv;
    int64_t n_k, width;
    const int32_t *order;
    int pool;
    float *dk, *dv;
    int64_t dk_stride, dv_stride;
} t3v_seg_unpool;

/* ---- linear terms ---- */

/* Behind a row of values: 1, and zeros that let rows begin at multiples of 16 bytes. */
enum { T3V_SEG_ONE = 4 };

/* Rows [heads][count][width] f32 of slots [first, first + count) of an order, and tokens [n] with all heads in a row. */
typedef struct t3v_seg_rows {
    const int32_t *order;
    int64_t first, count, n;
    int dim, width, head_first, heads; /* width: dim, or dim + T3V_SEG_ONE */
    void *x;                           /* tokens; rows begin with head x_first */
    t3v_dtype type;
    int64_t stride;
    int x_first;
    float *rows;
    /* gather: NULL, or [all heads][n]: rows are factor x, then -factor delta in the place of 1 */
    const float *factor, *delta;
    bool add;   /* scatter: to x, of f32, instead of assigning */
    float *one; /* scatter: NULL, or [all heads][n]: gets what stands in the place of 1 */
} t3v_seg_rows;

/* The non-linearity of a layer of a feature map (t3v_phi), on u [heads][count][features]. */
typedef struct t3v_seg_phi {
    bool hidden; /* SiLU; else `last` and powers */
    t3v_phi_last last;
    int dim, features, heads;
    int64_t count;
    const float *x;    /* u becomes this [heads][count][dim] in every part; NULL: u is given */
    const float *bias; /* [heads][features], added to u; or NULL */
    float *u, *f;      /* f: the values; on the way back f is multiplied by the slopes at u */
} t3v_seg_phi;

/* to [all heads][n] of the slots' tokens: the products a . b of rows of `rows`. */
typedef struct t3v_seg_dots {
    t3v_seg_rows rows; /* order, sizes and heads */
    const float *a, *b;
    float *to;
} t3v_seg_dots;

/* Each query's largest score and the row of k that has it, [all heads][n_q]; -inf and -1 where it meets none. */
typedef struct t3v_seg_peak {
    t3v_seg_inputs in;
    t3v_seg_lists lists;
    float *top;
    int32_t *key;
} t3v_seg_peak;

/* What a row's largest score passes on, slope [all heads][n_q], goes to its query and key in the first term that has it. */
typedef struct t3v_seg_peak_back {
    t3v_seg_inputs in;
    t3v_seg_shares by; /* whose tops are compared */
    int index;
    const int32_t *key;
    const float *slope;
    int64_t keys; /* rows of k */
    float *dq, *dk;
    int64_t dq_stride, dk_stride;
} t3v_seg_peak_back;

/* A reason why a kernel cannot take these arguments or should not, NULL: it can. Of forward_hopper a card may have none. */
const char *t3v_seg_hopper_declines(const t3v_seg_forward *f);
const char *t3v_seg_forward_declines(const t3v_seg_forward *f);
const char *t3v_seg_backward_declines(const t3v_seg_inputs *in);

/* The kernels of a device; the functions launch and do not wait. 0, or the CUDA error. */
typedef struct t3v_seg_kernels {
    int (*forward_hopper)(const t3v_seg_forward *f, void *stream); /* wgmma; NULL on other cards than sm_90 */
    int (*forward)(const t3v_seg_forward *f, void *stream);        /* tensor cores; declines as above */
    int (*forward_plain)(const t3v_seg_forward *f,
                         void *stream); /* any dim up to 256, F32 or BF16, f32 arithmetic */
    int (*pool)(const t3v_seg_pool *p, void *stream);
    int (*pick)(const t3v_seg_pick *p, void *stream);
    int (*joint)(const t3v_seg_joint *j, void *stream);
    int (*stats)(const t3v_seg_stats *s, void *stream);
    /* of queries and of keys; tensor cores: dout is bf16, rows are as multiples of 8 */
    int (*backward_queries)(const t3v_seg_backward *b, void *stream);
    int (*backward_keys)(const t3v_seg_backward *b, void *stream);
    int (*backward_queries_plain)(const t3v_seg_backward *b, void *stream);
    int (*backward_keys_plain)(const t3v_seg_backward *b, void *stream);
    int (*unpool)(const t3v_seg_unpool *u, void *stream);
    /* x [rows][width], `stride` apart */
    int (*fill)(float *x, int64_t rows, int64_t width, int64_t stride, float value, void *stream);
    int (*keep)(const t3v_seg_keep *k, void *stream);
    int (*gather)(const t3v_seg_rows *r, void *stream);
    int (*scatter)(const t3v_seg_rows *r, void *stream);
    int (*phi)(const t3v_seg_phi *p, void *stream);
    int (*phi_back)(const t3v_seg_phi *p, void *stream);
    int (*phi_sum)(const t3v_seg_phi *p, float *x,
                   void *stream); /* x [heads][count][dim]: the sum of f's parts */
    int (*dots)(const t3v_seg_dots *d, void *stream);
    int (*peak)(const t3v_seg_peak *p, void *stream); /* f32, as forward_plain */
    int (*peak_back)(const t3v_seg_peak_back *p, void *stream);
} t3v_seg_kernels;

#ifdef __cplusplus
extern "C" {
#endif
/* Linked where the kernels are: all of them, and those for a card of this compute capability. The environment variable
 * T3V_CARD says otherwise: "sm_80" leaves out what only a later card has. */
extern const t3v_seg_kernels t3v_seg_device;
t3v_seg_kernels t3v_seg_device_for(int major, int minor);
#ifdef __cplusplus
}
#endif

#endif
