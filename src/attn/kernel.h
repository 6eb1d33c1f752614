/* SPDX-License-Identifier: Apache-2.0 */
/* What a tile kernel implements: softmax attention of one block of queries of one head over its keys. */
#ifndef T3V_ATTN_KERNEL_H
#define T3V_ATTN_KERNEL_H

#include "attn/attend.h"
#include "base/cpu.h"

/* A list of tokens: index[i], or first + i when index is NULL. */
typedef struct t3v_token_list {
    const int32_t *index;
    int64_t first, count;
} t3v_token_list;

static inline int64_t t3v_row(const t3v_token_list *r, int64_t i)
{
    return r->index ? r->index[i] : r->first + i;
}

/* One block of queries of one head with the keys it meets; base pointers are at the head's first column. */
typedef struct t3v_attn_job {
    const void *q, *k, *v;
    t3v_dtype type;
    int64_t q_stride, k_stride, v_stride;
    const float *key_log_weight; /* by token, or NULL */
    float scale;
    int dim;
    t3v_token_list queries, keys;
    /* What is packed: the keys, or more of them when `strip` [strips] lists those of its strips that make up the keys. */
    t3v_token_list packed;
    const int32_t *strip;
    int64_t strips;
} t3v_attn_job;

/* Where the rows of a block go, by token. */
typedef struct t3v_attn_sink {
    void *out;
    t3v_dtype type;
    int64_t stride;
    float weight;     /* factor of the result */
    const float *sum; /* what is added to it, rows of `dim` by token, or NULL; may be out */
    float *lse;       /* [token] or NULL */
} t3v_attn_sink;

typedef struct t3v_attn_grad {
    const void *out; /* of this term, unweighted, or of the joint softmax it is part of; rows by token */
    t3v_dtype out_type;
    int64_t out_stride;
    const void *dout;
    t3v_dtype dout_type;
    int64_t dout_stride;
    float weight;        /* factor of dout */
    const float *lse;    /* [token] */
    float *dq, *dk, *dv; /* added to, by token */
    int64_t dq_stride, dk_stride, dv_stride;
} t3v_attn_grad;

typedef struct t3v_attn_impl {
    const char *name;
    t3v_isa isa;
    const char *(*declines)(int dim, t3v_dtype type); /* NULL: accepts */
    int q_block, q_step; /* rows a call of queries() takes at most; blocks are cut at multiples of q_step */
    int64_t strip;       /* keys packed as one unit */
    bool lists;          /* takes jobs with a list of strips */
    size_t (*packed_bytes)(int64_t n_k, int dim); /* 0: not packed */
    size_t (*work_bytes)(int dim);                /* of one thread */
    /* Packs key strips [first, last) of the job. Strips may be packed by different threads. */
    void (*pack)(const t3v_attn_job *job, void *packed, int64_t first, int64_t last);
    /* Queries [first, first + count) of the block against all its keys. */
    void (*queries)(const t3v_attn_job *job, const void *packed, int64_t first, int64_t count, void *work,
                    const t3v_attn_sink *sink);
    size_t (*backward_bytes)(int64_t n_q, int64_t n_k, int dim);
    void (*backward)(const t3v_attn_job *job, const t3v_attn_grad *g, void *work);
} t3v_attn_impl;

extern const t3v_attn_impl t3v_attn_avx512bf16, t3v_attn_avx512, t3v_attn_avx2, t3v_attn_ref;

/* The definition, in double; kernels hand it rows whose scores are beyond what they can hold. */
void t3v_attn_ref_queries(const t3v_attn_job *job, const void *packed, int64_t first, int64_t count,
                          void *work, const t3v_attn_sink *sink);
size_t t3v_attn_ref_backward_bytes(int64_t n_q, int64_t n_k, int dim);
void t3v_attn_ref_backward(const t3v_attn_job *job, const t3v_attn_grad *g, void *work);

#endif
