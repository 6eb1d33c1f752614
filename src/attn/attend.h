/* SPDX-License-Identifier: Apache-2.0 */
/* Running a site of a plan on raw memory, forward and backward.
 *
 * For query i, head h and each softmax term that is active for h at the moment, over the keys j that the term lets i meet:
 *   s_j = scale * q_i . k_j + key_log_weight[j],   p = softmax(s),   o_i = sum_j p_j v_j,   lse = ln sum_j exp(s_j).
 * A row with a score of NaN or +inf, or with none above -inf, gives NaN. A linear term has the numerator
 * sum_j phi_q(q_i).phi_k(k_j) v_j and the denominator without v_j. The output is the weighted mean of the o_i, or
 *   joint: (sum over terms exp(lse) o_i + w numerator) / (sum exp(lse) + w denominator), w = 1 or exp(largest s_j),
 * or what the site's epilogue makes of o_i and lse.
 *
 * Nothing is allocated but the scratch of dense products; results do not depend on the number of threads. Called inside
 * a parallel region it runs on the calling thread alone. */
#ifndef T3V_ATTN_ATTEND_H
#define T3V_ATTN_ATTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/plan.h"
#include "base/status.h"
#include "t3v/dtype.h"

enum { T3V_HEAD_DIM_MAX = 256 };

/* q [n_q, heads, dim], k and v [n_k, heads, dim], out like q: token-major, rows `stride` elements apart, any
 * alignment of the element type. F32 runs in f32 precision, BF16 with bf16 products and f32 sums. */
typedef struct t3v_attend_args {
    int64_t n_q, n_k; /* >= 1, < 2^31; both the plan's tokens for a term with slots */
    int heads, dim;   /* dim: a multiple of 16 up to 256 is fast, anything up to 256 works */
    const void *q, *k, *v;
    t3v_dtype type; /* of q, k and v: F32 or BF16 */
    int64_t q_stride, k_stride, v_stride;
    /* [n_k] nats, or NULL; ln(512 - L) on the row that stands for all text padding */
    const float *key_log_weight;
    float scale;        /* 0: 1/sqrt(dim) */
    void *out;          /* may be q itself (same type and stride); not for a backward pass */
    t3v_dtype out_type; /* F32 or BF16 */
    int64_t out_stride;
    /* [terms, heads, n_q] or NULL; of a linear term its denominator; -inf where a term is not active */
    float *lse;
    const float *const *params; /* as t3v_site_params lists them; NULL for a site without */
    void *state; /* t3v_site_state bytes of this layer and branch, 8-byte aligned; NULL: nothing is kept, a
                                 * site that would keep something then runs its method's full pass */
    t3v_moment moment;
    /* t3v_attend_chosen_words, or NULL: the key blocks that were met, see t3v_attend_chosen */
    uint64_t *chosen;
    void *scratch; /* any alignment; not shared by calls that run at the same time */
    size_t scratch_bytes;
} t3v_attend_args;

/* The gradients of sum(out * dout). All f32, row strides in elements. */
typedef struct t3v_attend_grad {
    const void *out;  /* what the forward gave, type a->out_type, stride a->out_stride; NULL: computed again
                      * (slower; not for a joint site) */
    const void *dout; /* [n_q, heads, dim] */
    t3v_dtype dout_type; /* F32 or BF16 */
    int64_t dout_stride;
    float *dq, *dk, *dv; /* must not overlap the inputs or each other */
    int64_t dq_stride, dk_stride, dv_stride;
    bool accumulate;       /* add to dq, dk, dv instead of assigning */
    float *const *dparams; /* like params; added to; NULL, or an entry NULL: not wanted */
} t3v_attend_grad;

/* Bytes of scratch for a run with these shapes, types and the present thread count and CPU mask. Pointers
 * in `a` are not read, but whether key_log_weight is NULL counts. */
size_t t3v_attend_scratch(const t3v_site *site, const t3v_attend_args *a);
/* E_SHAPE, E_DTYPE: arguments that do not fit the site or each other; E_ARG: too little scratch. */
t3v_status t3v_attend_run(const t3v_site *site, const t3v_attend_args *a);

/* Needs a->lse from the forward run; a->out is not used. */
size_t t3v_attend_backward_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g);
t3v_status t3v_attend_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g);

/* Which key blocks the query blocks of selected terms met: a bit each, key block j of the term being bit j % 64 of word
 * j / 64 of the row. */
size_t t3v_attend_chosen_words(const t3v_site *site, int heads);
const uint64_t *t3v_attend_chosen(const t3v_site *site, int heads, const uint64_t *chosen, int term, int head,
                                  int64_t block);
/* The pairs that were met at a->moment, all heads, from a->chosen where terms select. */
int64_t t3v_attend_pairs(const t3v_site *site, const t3v_attend_args *a);
/* The contract of selections: for every head and block of queries, the list chosen from a->q and a->k has at least `min`
 * and at most `max` blocks, all of them blocks of the term, none twice. E_ARG names the first breach. For tests: E_NOMEM. */
t3v_status t3v_select_check(const t3v_site *site, const t3v_attend_args *a);

/* The implementation that would run, e.g. "avx512bf16"; with `why` (may be NULL) a line on why the faster
 * ones declined. */
const char *t3v_attend_impl(const t3v_site *site, const t3v_attend_args *a, char *why, size_t why_size);

#endif
