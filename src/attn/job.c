/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel for a site's arguments, and a block's queries and keys from the plan. */
#include "attn/job.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attn/select.h"
#include "attn/source.h"
#include "base/cpu.h"

/* Best first; the last accepts everything. */
static const t3v_attn_impl *const impls[] = {&t3v_attn_avx512bf16, &t3v_attn_avx512, &t3v_attn_avx2,
                                             &t3v_attn_ref};
enum { IMPLS = sizeof impls / sizeof *impls };

const t3v_attn_impl *t3v_attn_choose(const t3v_attend_args *a, char *why, size_t why_size)
{
    size_t at = 0;
    if (why_size) why[0] = 0;
    for (int i = 0; i < IMPLS; i++) {
        const char *reason = impls[i]->isa > t3v_cpu() ? "not on this CPU (or masked)"
                                                       : impls[i]->declines(a->dim, a->type);
        if (!reason) return impls[i];
        if (at < why_size) {
            int n = snprintf(why + at, why_size - at, "%s%s: %s", at ? "; " : "", impls[i]->name, reason);
            at += n > 0 ? (size_t)n : 0;
        }
    }
    return &t3v_attn_ref;
}

const char *t3v_attend_impl(const t3v_site *site, const t3v_attend_args *a, char *why, size_t why_size)
{
    (void)site;
    return t3v_attn_choose(a, why, why ? why_size : 0)->name;
}

t3v_status t3v_attn_check(const t3v_site *site, const t3v_attend_args *a)
{
    if (a->n_q < 1 || a->n_k < 1 || a->n_q > INT32_MAX || a->n_k > INT32_MAX)
        return t3v_fail(T3V_E_SHAPE, "attention of %lld queries over %lld keys: 1 to 2^31-1 are possible",
                        (long long)a->n_q, (long long)a->n_k);
    if (a->heads < 1 || a->dim < 1 || a->dim > T3V_HEAD_DIM_MAX)
        return t3v_fail(T3V_E_SHAPE, "attention with %d heads of dimension %d: the dimension must be 1 to %d",
                        a->heads, a->dim, T3V_HEAD_DIM_MAX);
    if ((a->type != T3V_F32 && a->type != T3V_BF16) || (a->out_type != T3V_F32 && a->out_type != T3V_BF16))
        return t3v_fail(T3V_E_DTYPE, "attention from %s to %s: F32 and BF16 are possible",
                        t3v_dtype_name(a->type), t3v_dtype_name(a->out_type));
    for (int i = 0; i < site->rules; i++)
        if (site->rule[i].head_first >= a->heads)
            return t3v_fail(T3V_E_ARG,
                            "the attention plan has a rule for heads from %d on, there are heads 0 to %d",
                            site->rule[i].head_first, a->heads - 1);
    for (int i = 0; i < site->terms; i++) {
        int64_t slots = site->term[i].slots;
        if (slots && (slots != a->n_q || slots != a->n_k))
            return t3v_fail(T3V_E_SHAPE,
                            "the attention plan is for %lld tokens, got %lld queries and %lld keys",
                            (long long)slots, (long long)a->n_q, (long long)a->n_k);
        if (site->term[i].heads && site->term[i].heads != a->heads)
            return t3v_fail(T3V_E_SHAPE, "the attention plan lists keys for %d heads, got %d heads",
                            site->term[i].heads, a->heads);
        if (site->term[i].kind != T3V_TERM_LINEAR) continue;
        if (a->key_log_weight) return t3v_fail(T3V_E_ARG, "a linear attention term takes no key log-weights");
        if (site->term[i].phi.layers && !a->params)
            return t3v_fail(T3V_E_ARG, "a linear attention term got no parameters");
    }
    return T3V_OK;
}

/* ---- cutting the work ---- */

int64_t t3v_attn_blocks(const t3v_term *t) { return t->slots ? t->blocks : 1; }

int64_t t3v_attn_most_keys(const t3v_site *site, int64_t n_k, bool linear)
{
    int64_t most = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (t->kind == T3V_TERM_LINEAR && !linear) continue;
        if (!t->slots || t->select) return n_k;
        for (int h = 0; h < (t->heads ? t->heads : 1); h++)
            for (int64_t b = 0; b < t->blocks; b++) {
                const int64_t *list = t3v_term_lists(t, h) + b;
                int64_t n = 0;
                for (int64_t r = list[0]; r < list[1]; r++) n += t->ranges[r].last - t->ranges[r].first;
                if (n > most) most = n;
            }
    }
    return most;
}

int64_t t3v_attn_most_queries(const t3v_site *site, int64_t n_q)
{
    int64_t most = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (!t->slots) return n_q;
        for (int64_t b = 0; b < t->blocks; b++)
            if (t->block_first[b + 1] - t->block_first[b] > most)
                most = t->block_first[b + 1] - t->block_first[b];
    }
    return most;
}

/* Does some block meet its keys in several ranges, so that their tokens must be listed? */
static bool needs_list(const t3v_site *site)
{
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        int64_t lists = (t->heads ? t->heads : 1) * t->blocks;
        if (t->select || (t->slots && t->range_first[lists] > lists)) return true;
    }
    return false;
}

const t3v_term *t3v_attn_linear_term(const t3v_site *site)
{
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].kind == T3V_TERM_LINEAR) return &site->term[i];
    return NULL;
}

bool t3v_attn_needs_top(const t3v_site *site)
{
    return site->row_max && t3v_attn_linear_term(site) && site->terms > 1;
}

size_t t3v_attn_source_bytes(const t3v_site *site, const t3v_attend_args *a)
{
    size_t most = 0;
    for (int i = 0; i < site->terms; i++) {
        size_t n = t3v_source_bytes(&site->term[i], a);
        if (n > most) most = n;
    }
    return t3v_attn_align(most);
}

size_t t3v_attn_means_bytes(const t3v_term *t, int dim)
{
    return t->select ? t3v_attn_align((size_t)t->blocks * (size_t)dim * sizeof(float)) : 0;
}

/* Work memory of a selection: bits, the summary of the queries, scores. */
static size_t pick_bytes(const t3v_term *t, int dim)
{
    if (!t->select) return 0;
    return t3v_attn_align((size_t)t3v_select_words(t->blocks) * 8) +
           t3v_attn_align((size_t)dim * sizeof(float)) + t3v_attn_align(t3v_select_work(t->blocks));
}

/* For making the list of a block's keys: that of the selection, and the rows. */
size_t t3v_attn_list_bytes(const t3v_site *site, const t3v_attend_args *a)
{
    size_t most = 0;
    if (!needs_list(site)) return 0;
    for (int i = 0; i < site->terms; i++)
        if (pick_bytes(&site->term[i], a->dim) > most) most = pick_bytes(&site->term[i], a->dim);
    return most + t3v_attn_align((size_t)t3v_attn_most_keys(site, a->n_k, true) * sizeof(int32_t));
}

const char *t3v_attn_at_head(const void *base, t3v_dtype type, int head, int dim)
{
    return (const char *)base + (size_t)head * (size_t)dim * t3v_dtype_size(type);
}

/* Chooses the keys of block b from the summaries `means` of this head's keys; fills tokens, returns how many. */
static int64_t pick(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a,
                    const t3v_attn_job *job, int head, int64_t b, const float *means, char *work,
                    int32_t *tokens)
{
    size_t words = (size_t)t3v_select_words(t->blocks);
    uint64_t *bits = (uint64_t *)(void *)work;
    float *q = (float *)(void *)(work + t3v_attn_align(words * 8));
    void *rest = (char *)q + t3v_attn_align((size_t)a->dim * sizeof *q);
    const int32_t *list;
    t3v_select_summary(t, job->q, a->type, a->q_stride, a->dim, b, b + 1, q);
    int64_t n = t3v_select_row(t, &a->moment, q, means, a->dim, job->scale, b, rest, &list);
    t3v_select_bits(t, head, b, list, n, bits);
    if (a->chosen)
        memcpy((uint64_t *)t3v_attend_chosen(site, a->heads, a->chosen, (int)(t - site->term), head, b), bits,
               words * 8);
    n = 0;
    for (int64_t k = 0; k < t->blocks; k++)
        for (int32_t s = t->block_first[k]; bits[k / 64] >> (k % 64) & 1 && s < t->block_first[k + 1]; s++)
            tokens[n++] = t->order ? t->order[s] : s;
    return n;
}

t3v_attn_job t3v_attn_job_of(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, int head,
                             int64_t b, char *list, void *source, const float *means)
{
    t3v_key_source keys = t3v_source_make(t, a, head, source);
    t3v_attn_job job = {
        .q = t3v_attn_at_head(a->q, a->type, head, a->dim),
        .k = keys.k,
        .v = keys.v,
        .type = a->type,
        .q_stride = a->q_stride,
        .k_stride = keys.k_stride,
        .v_stride = keys.v_stride,
        .key_log_weight = keys.log_weight,
        .scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)a->dim),
        .dim = a->dim,
        .queries = {NULL, 0, a->n_q},
        .keys = {NULL, 0, a->n_k},
    };
    job.packed = job.keys;
    if (!t->slots) return job;
    int64_t first = t->block_first[b];
    job.queries = (t3v_token_list){t->order ? t->order + first : NULL, first, t->block_first[b + 1] - first};
    int32_t *rows = (int32_t *)(void *)(list + pick_bytes(t, a->dim));
    if (t->select) {
        job.keys = job.packed = (t3v_token_list){rows, 0, pick(site, t, a, &job, head, b, means, list, rows)};
        return job;
    }
    const int64_t *lists = t3v_term_lists(t, head);
    const t3v_range *r = &t->ranges[lists[b]];
    int64_t ranges = lists[b + 1] - lists[b];
    const int32_t *order = t->pool > 1 ? NULL : t->order;
    if (ranges == 1) {
        job.keys = job.packed = (t3v_token_list){order ? order + r->first : NULL, r->first,
                                                 r->last - r->first};
        return job;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < ranges; i++)
        for (int32_t s = r[i].first; s < r[i].last; s++) rows[n++] = order ? order[s] : s;
    job.keys = job.packed = (t3v_token_list){rows, 0, n};
    return job;
}

/* ---- keys of all blocks packed once ---- */

bool t3v_attn_packs_once(const t3v_attn_impl *impl, const t3v_term *t)
{
    if (!t->select || !impl->lists || t->pool > 1 || t->log_weight) return false;
    for (int64_t b = 1; b < t->blocks; b++)
        if (t->block_first[b] % impl->strip) return false;
    return true;
}

t3v_attn_job t3v_attn_all_keys(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, int head)
{
    const t3v_term all = {0};
    t3v_attn_job job = t3v_attn_job_of(site, &all, a, head, 0, NULL, NULL, NULL);
    job.keys = job.packed = (t3v_token_list){t->order, 0, t->slots};
    return job;
}

void t3v_attn_use_strips(const t3v_attn_impl *impl, const t3v_term *t, const uint64_t *met,
                         const t3v_token_list *packed, int32_t *strip, t3v_attn_job *job)
{
    job->packed = *packed;
    job->strip = strip;
    job->strips = 0;
    for (int64_t k = 0; k < t->blocks; k++) {
        if (!(met[k / 64] >> (k % 64) & 1)) continue;
        for (int64_t s = t->block_first[k] / impl->strip; s * impl->strip < t->block_first[k + 1]; s++)
            strip[job->strips++] = (int32_t)s;
    }
}

int64_t t3v_attn_strips(const t3v_attn_impl *impl, int64_t keys)
{
    return (keys + impl->strip - 1) / impl->strip;
}

/* Query chunks: equal multiples of q_step, at most q_block. */
int64_t t3v_attn_chunk_rows(const t3v_attn_impl *impl, int64_t queries)
{
    int64_t chunks = (queries + impl->q_block - 1) / impl->q_block;
    int64_t rows = (queries + chunks - 1) / chunks;
    return (rows + impl->q_step - 1) / impl->q_step * impl->q_step;
}

void t3v_attn_run_chunks(const t3v_attn_impl *impl, const t3v_attn_job *job, const void *packed, void *work,
                         const t3v_attn_sink *sink)
{
    int64_t rows = t3v_attn_chunk_rows(impl, job->queries.count);
    for (int64_t i = 0; i < job->queries.count; i += rows) {
        int64_t left = job->queries.count - i;
        impl->queries(job, packed, i, left < rows ? left : rows, work, sink);
    }
}
