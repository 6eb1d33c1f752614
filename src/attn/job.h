/* SPDX-License-Identifier: Apache-2.0 */
/* What the forward and the backward pass over a site share: the kernel's choice, sizes, and a block's queries and keys. */
#ifndef T3V_ATTN_JOB_H
#define T3V_ATTN_JOB_H

#include "attn/kernel.h"

enum { T3V_ATTN_ALIGN = 64 }; /* of the parts of a scratch */

static inline size_t t3v_attn_align(size_t n)
{
    return (n + T3V_ATTN_ALIGN - 1) / T3V_ATTN_ALIGN * T3V_ATTN_ALIGN;
}

/* The fastest kernel that takes these arguments; with `why_size` > 0 `why` gets a line on those that declined. */
const t3v_attn_impl *t3v_attn_choose(const t3v_attend_args *a, char *why, size_t why_size);
/* E_SHAPE, E_DTYPE, E_ARG: arguments that do not fit the site or each other. */
t3v_status t3v_attn_check(const t3v_site *site, const t3v_attend_args *a);

/* Blocks of a term, and over a site's terms the most queries and keys of a block; `linear`: linear terms count too. */
int64_t t3v_attn_blocks(const t3v_term *t);
int64_t t3v_attn_most_queries(const t3v_site *site, int64_t n_q);
int64_t t3v_attn_most_keys(const t3v_site *site, int64_t n_k, bool linear);
/* The site's linear term, or NULL; do linear terms weigh exp(largest score), so that these scores are needed? */
const t3v_term *t3v_attn_linear_term(const t3v_site *site);
bool t3v_attn_needs_top(const t3v_site *site);

/* Bytes for what must be computed of a head's keys, for its key summaries [blocks][dim], and for a block's list of keys. */
size_t t3v_attn_source_bytes(const t3v_site *site, const t3v_attend_args *a);
size_t t3v_attn_means_bytes(const t3v_term *t, int dim);
size_t t3v_attn_list_bytes(const t3v_site *site, const t3v_attend_args *a);

/* The head's first column in rows of all heads. */
const char *t3v_attn_at_head(const void *base, t3v_dtype type, int head, int dim);
/* Queries and keys of block b; `list` is for the rows of several ranges, `source` has what must be computed of keys,
 * `means` the key summaries of a term that chooses. */
t3v_attn_job t3v_attn_job_of(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, int head,
                             int64_t b, char *list, void *source, const float *means);

/* A term whose blocks choose among the same keys: are its blocks whole strips, so that a head's keys can be packed once?
 * Then the job that packs them, and from `met`, the bits of a block's selection (which t3v_attn_job_of leaves at the
 * beginning of `list`), the strips [slots / impl->strip + 1] that make up the job's keys. */
bool t3v_attn_packs_once(const t3v_attn_impl *impl, const t3v_term *t);
t3v_attn_job t3v_attn_all_keys(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, int head);
void t3v_attn_use_strips(const t3v_attn_impl *impl, const t3v_term *t, const uint64_t *met,
                         const t3v_token_list *packed, int32_t *strip, t3v_attn_job *job);

/* Packed units of so many keys; rows of a call of impl->queries() for so many queries; all queries of a packed job. */
int64_t t3v_attn_strips(const t3v_attn_impl *impl, int64_t keys);
int64_t t3v_attn_chunk_rows(const t3v_attn_impl *impl, int64_t queries);
void t3v_attn_run_chunks(const t3v_attn_impl *impl, const t3v_attn_job *job, const void *packed, void *work,
                         const t3v_attn_sink *sink);

#endif
