/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a site of a plan: chooses the kernel, cuts the work into units, packs, and combines the terms. */
#include "attn/attend.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "attn/combine.h"
#include "attn/kernel.h"
#include "attn/linear.h"
#include "attn/select.h"
#include "attn/source.h"
#include "base/threads.h"
#include "tensor/dtype.h"

/* Best first; the last accepts everything. */
static const t3v_attn_impl *const impls[] = { &t3v_attn_avx512bf16, &t3v_attn_avx512, &t3v_attn_avx2, &t3v_attn_ref };
enum { IMPLS = sizeof impls / sizeof *impls, ALIGN = 64 };

static const t3v_attn_impl *choose(const t3v_attend_args *a, char *why, size_t why_size)
{
    size_t at = 0;
    if (why_size) why[0] = 0;
    for (int i = 0; i < IMPLS; i++) {
        const char *reason = impls[i]->isa > t3v_cpu() ? "not on this CPU (or masked)" : impls[i]->declines(a->dim, a->type);
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
    return choose(a, why, why ? why_size : 0)->name;
}

static t3v_status check(const t3v_site *site, const t3v_attend_args *a)
{
    if (a->n_q < 1 || a->n_k < 1 || a->n_q > INT32_MAX || a->n_k > INT32_MAX)
        return t3v_fail(T3V_E_SHAPE, "attention of %lld queries over %lld keys: 1 to 2^31-1 are possible", (long long)a->n_q,
                        (long long)a->n_k);
    if (a->heads < 1 || a->dim < 1 || a->dim > T3V_HEAD_DIM_MAX)
        return t3v_fail(T3V_E_SHAPE, "attention with %d heads of dimension %d: the dimension must be 1 to %d", a->heads, a->dim,
                        T3V_HEAD_DIM_MAX);
    if ((a->type != T3V_F32 && a->type != T3V_BF16) || (a->out_type != T3V_F32 && a->out_type != T3V_BF16))
        return t3v_fail(T3V_E_DTYPE, "attention from %s to %s: F32 and BF16 are possible", t3v_dtype_name(a->type),
                        t3v_dtype_name(a->out_type));
    for (int i = 0; i < site->rules; i++)
        if (site->rule[i].head_first >= a->heads)
            return t3v_fail(T3V_E_ARG, "the attention plan has a rule for heads from %d on, there are heads 0 to %d",
                            site->rule[i].head_first, a->heads - 1);
    for (int i = 0; i < site->terms; i++) {
        int64_t slots = site->term[i].slots;
        if (slots && (slots != a->n_q || slots != a->n_k))
            return t3v_fail(T3V_E_SHAPE, "the attention plan is for %lld tokens, got %lld queries and %lld keys", (long long)slots,
                            (long long)a->n_q, (long long)a->n_k);
        if (site->term[i].heads && site->term[i].heads != a->heads)
            return t3v_fail(T3V_E_SHAPE, "the attention plan lists keys for %d heads, got %d heads", site->term[i].heads, a->heads);
        if (site->term[i].kind != T3V_TERM_LINEAR) continue;
        if (a->key_log_weight) return t3v_fail(T3V_E_ARG, "a linear attention term takes no key log-weights");
        if (site->term[i].phi.layers && !a->params) return t3v_fail(T3V_E_ARG, "a linear attention term got no parameters");
    }
    return T3V_OK;
}

/* ---- cutting the work ---- */

static int64_t blocks_of(const t3v_term *t) { return t->slots ? t->blocks : 1; }

static int64_t most_keys(const t3v_site *site, int64_t n_k, bool linear)
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

static int64_t most_queries(const t3v_site *site, int64_t n_q)
{
    int64_t most = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (!t->slots) return n_q;
        for (int64_t b = 0; b < t->blocks; b++)
            if (t->block_first[b + 1] - t->block_first[b] > most) most = t->block_first[b + 1] - t->block_first[b];
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

/* How the scratch is divided. `shared`: the threads work on one block's queries together, with one packed copy of
 * its keys; else each takes whole blocks of its own. `team`: lists that the threads use together all the same. */
typedef struct layout {
    const t3v_attn_impl *impl;
    int threads;
    bool shared, team;
    int64_t keys;
    size_t packed, work, list, thread, sum, lse, top, source, linear, means, common, total; /* bytes */
} layout;

static size_t align_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static const t3v_term *linear_term(const t3v_site *site)
{
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].kind == T3V_TERM_LINEAR) return &site->term[i];
    return NULL;
}

/* Do linear terms weigh exp(largest score), so that these scores are needed? */
static bool needs_top(const t3v_site *site) { return site->row_max && linear_term(site) && site->terms > 1; }

static size_t most_source(const t3v_site *site, const t3v_attend_args *a)
{
    size_t most = 0;
    for (int i = 0; i < site->terms; i++) {
        size_t n = t3v_source_bytes(&site->term[i], a);
        if (n > most) most = n;
    }
    return align_up(most);
}

/* Key summaries of one head for one term: [blocks][dim]. */
static size_t means_of_head(const t3v_term *t, int dim)
{
    return t->select ? align_up((size_t)t->blocks * (size_t)dim * sizeof(float)) : 0;
}

/* Where the key summaries of a term begin; with term = site->terms the bytes of all. */
static size_t means_before(const t3v_site *site, int64_t term, int heads, int dim)
{
    size_t n = 0;
    for (int64_t i = 0; i < term; i++) n += (size_t)heads * means_of_head(&site->term[i], dim);
    return n;
}

/* Work memory of a selection: bits, the summary of the queries, scores. */
static size_t pick_bytes(const t3v_term *t, int dim)
{
    if (!t->select) return 0;
    return align_up((size_t)t3v_select_words(t->blocks) * 8) + align_up((size_t)dim * sizeof(float)) + align_up(t3v_select_work(t->blocks));
}

/* For making the list of a block's keys: that of the selection, and the rows. */
static size_t list_bytes(const t3v_site *site, const t3v_attend_args *a)
{
    size_t most = 0;
    if (!needs_list(site)) return 0;
    for (int i = 0; i < site->terms; i++)
        if (pick_bytes(&site->term[i], a->dim) > most) most = pick_bytes(&site->term[i], a->dim);
    return most + align_up((size_t)most_keys(site, a->n_k, true) * sizeof(int32_t));
}

static layout lay_out(const t3v_site *site, const t3v_attend_args *a)
{
    layout l = { .impl = choose(a, NULL, 0), .threads = t3v_threads(), .keys = most_keys(site, a->n_k, false) };
    const t3v_term *linear = linear_term(site);
    size_t row = (size_t)a->n_q * sizeof(float);
    l.source = most_source(site, a);
    int64_t units = INT64_MAX;
    for (int i = 0; i < site->terms; i++) {
        int64_t u = blocks_of(&site->term[i]) * (site->terms == 1 && !l.source ? a->heads : 1);
        if (u < units) units = u;
    }
    l.shared = l.threads > 1 && (units < 4 * l.threads || l.keys > 8192);
    l.packed = align_up(l.impl->packed_bytes(l.keys, a->dim));
    l.work = align_up(l.impl->work_bytes(a->dim));
    l.list = list_bytes(site, a);
    if (site->combine != T3V_COMBINE_MEAN) {
        l.sum = align_up((size_t)site->terms * (size_t)a->dim * row);
        if (!a->lse) l.lse = align_up((size_t)site->terms * row);
    } else if (site->terms > 1) {
        l.sum = align_up((size_t)a->dim * row);
    }
    if (linear) {
        size_t work = align_up(t3v_linear_work(&linear->phi, a->dim));
        if (work > l.work) l.work = work;
        l.linear = align_up(t3v_linear_shared(&linear->phi, a->dim));
        l.team = true;
        if (needs_top(site)) l.top = align_up(row);
    }
    l.means = means_before(site, site->terms, a->heads, a->dim);
    l.thread = l.work + (l.shared ? 0 : l.packed + l.list);
    l.common = (l.shared ? l.packed : 0) + (l.shared || l.team ? l.list : 0);
    l.total = l.sum + l.lse + l.top + l.source + l.linear + l.means + l.common + l.thread * (size_t)l.threads + ALIGN;
    return l;
}

size_t t3v_attend_scratch(const t3v_site *site, const t3v_attend_args *a) { return lay_out(site, a).total; }

static const char *at_head(const void *base, t3v_dtype type, int head, int dim)
{
    return (const char *)base + (size_t)head * (size_t)dim * t3v_dtype_size(type);
}

/* Chooses the keys of block b from the summaries `means` of this head's keys; fills tokens, returns how many. */
static int64_t pick(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, const t3v_attn_job *job, int head, int64_t b,
                    const float *means, char *work, int32_t *tokens)
{
    size_t words = (size_t)t3v_select_words(t->blocks);
    uint64_t *bits = (uint64_t *)(void *)work;
    float *q = (float *)(void *)(work + align_up(words * 8));
    void *rest = (char *)q + align_up((size_t)a->dim * sizeof *q);
    const int32_t *list;
    t3v_select_summary(t, job->q, a->type, a->q_stride, a->dim, b, b + 1, q);
    int64_t n = t3v_select_row(t, &a->moment, q, means, a->dim, job->scale, b, rest, &list);
    t3v_select_bits(t, head, b, list, n, bits);
    if (a->chosen)
        memcpy((uint64_t *)t3v_attend_chosen(site, a->heads, a->chosen, (int)(t - site->term), head, b), bits, words * 8);
    n = 0;
    for (int64_t k = 0; k < t->blocks; k++)
        for (int32_t s = t->block_first[k]; bits[k / 64] >> (k % 64) & 1 && s < t->block_first[k + 1]; s++)
            tokens[n++] = t->order ? t->order[s] : s;
    return n;
}

/* Queries and keys of block b; `list` is for the rows of several ranges, `source` has what must be computed of keys, `means`
 * the key summaries of a term that chooses. */
static t3v_attn_job job_of(const t3v_site *site, const t3v_term *t, const t3v_attend_args *a, int head, int64_t b, char *list,
                           void *source, const float *means)
{
    t3v_key_source keys = t3v_source_make(t, a, head, source);
    t3v_attn_job job = {
        .q = at_head(a->q, a->type, head, a->dim),
        .k = keys.k,
        .v = keys.v,
        .type = a->type,
        .q_stride = a->q_stride,
        .k_stride = keys.k_stride,
        .v_stride = keys.v_stride,
        .key_log_weight = keys.log_weight,
        .scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)a->dim),
        .dim = a->dim,
        .queries = { NULL, 0, a->n_q },
        .keys = { NULL, 0, a->n_k },
    };
    if (!t->slots) return job;
    int64_t first = t->block_first[b];
    job.queries = (t3v_token_list){ t->order ? t->order + first : NULL, first, t->block_first[b + 1] - first };
    int32_t *rows = (int32_t *)(void *)(list + pick_bytes(t, a->dim));
    if (t->select) {
        job.keys = (t3v_token_list){ rows, 0, pick(site, t, a, &job, head, b, means, list, rows) };
        return job;
    }
    const int64_t *lists = t3v_term_lists(t, head);
    const t3v_range *r = &t->ranges[lists[b]];
    int64_t ranges = lists[b + 1] - lists[b];
    const int32_t *order = t->pool > 1 ? NULL : t->order;
    if (ranges == 1) {
        job.keys = (t3v_token_list){ order ? order + r->first : NULL, r->first, r->last - r->first };
        return job;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < ranges; i++)
        for (int32_t s = r[i].first; s < r[i].last; s++) rows[n++] = order ? order[s] : s;
    job.keys = (t3v_token_list){ rows, 0, n };
    return job;
}

static int64_t strips_of(const t3v_attn_impl *impl, int64_t keys) { return (keys + impl->strip - 1) / impl->strip; }

/* Query chunks: equal multiples of q_step, at most q_block. */
static int64_t chunk_rows(const t3v_attn_impl *impl, int64_t queries)
{
    int64_t chunks = (queries + impl->q_block - 1) / impl->q_block;
    int64_t rows = (queries + chunks - 1) / chunks;
    return (rows + impl->q_step - 1) / impl->q_step * impl->q_step;
}

static void run_chunks(const t3v_attn_impl *impl, const t3v_attn_job *job, const void *packed, void *work,
                       const t3v_attn_sink *sink)
{
    int64_t rows = chunk_rows(impl, job->queries.count);
    for (int64_t i = 0; i < job->queries.count; i += rows) {
        int64_t left = job->queries.count - i;
        impl->queries(job, packed, i, left < rows ? left : rows, work, sink);
    }
}

typedef struct run {
    const t3v_site *site;
    const t3v_attend_args *a;
    layout l;
    char *sum, *lse, *top, *source, *linear, *means, *common, *threads; /* parts of the scratch */
    int phase;                                                          /* of the epilogue */
    int failed;                                                         /* a product found no memory */
    int only;                                                           /* the one term to run, for all heads; -1: several */
    t3v_attn_job job;                                                   /* that the team works on */
} run;

static void fails(run *r)
{
#pragma omp atomic write
    r->failed = 1;
}

static bool uses(const t3v_site *site, int phase, int term) { return !site->epilogue || site->epilogue->uses(phase, term); }

static float *lse_of(const run *r, int index, int head)
{
    const t3v_attend_args *a = r->a;
    if (a->lse) return a->lse + ((int64_t)index * a->heads + head) * a->n_q;
    return r->l.lse ? (float *)(void *)r->lse + index * a->n_q : NULL;
}

/* The sink of term `index`: its own rows, the output itself, or for several terms their sum. */
static t3v_attn_sink sink_of(const run *r, int index, int head, bool add)
{
    const t3v_attend_args *a = r->a;
    t3v_attn_sink s = { .weight = r->site->term[index].weight, .lse = lse_of(r, index, head) };
    if (r->site->combine != T3V_COMBINE_MEAN) {
        s.out = (float *)(void *)r->sum + index * a->n_q * a->dim, s.type = T3V_F32, s.stride = a->dim, s.weight = 1;
    } else if (r->only < 0) {
        s.out = r->sum, s.type = T3V_F32, s.stride = a->dim, s.add = add;
    } else {
        s.out = (void *)at_head(a->out, a->out_type, head, a->dim), s.type = a->out_type, s.stride = a->out_stride;
    }
    return s;
}

static float *means_of(const run *r, const t3v_term *t, int head)
{
    size_t at = means_before(r->site, t - r->site->term, r->a->heads, r->a->dim);
    return (float *)(void *)(r->means + at + (size_t)head * means_of_head(t, r->a->dim));
}

/* Block `b` for all threads of the team, which use one list. */
static t3v_attn_job team_job(run *r, const t3v_term *t, int head, int64_t b)
{
#pragma omp single /* its barrier comes before any use, that of the last loop after all */
    r->job = job_of(r->site, t, r->a, head, b, r->common + (r->l.shared ? r->l.packed : 0), r->source, means_of(r, t, head));
    return r->job;
}

/* A term that is not active, or that an epilogue leaves out, meets nothing. */
static void run_nothing(const run *r, int index, int head)
{
    float *lse = lse_of(r, index, head);
    if (!lse) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < r->a->n_q; i++) lse[i] = -INFINITY;
}

/* The numerators and denominators of a linear term; called by all threads of the team. */
static void run_linear(run *r, int index, int head, char *mine)
{
    const t3v_term *t = &r->site->term[index];
    t3v_phi_net net[2];
    for (int map = 0; map < 2; map++) net[map] = t3v_phi_of(&t->phi, map, head, r->a->dim, r->a->params, NULL);
    for (int64_t b = 0; b < t->blocks; b++) {
        t3v_attn_job job = team_job(r, t, head, b);
        if (!t3v_linear_forward(&job, net, r->linear, mine, sink_of(r, index, head, false).out, lse_of(r, index, head))) fails(r);
    }
}

static void make_source(const run *r, const t3v_term *t, int head)
{
    int64_t rows = t3v_source_rows(t, r->a);
    if (!rows) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; i++) t3v_source_fill(t, r->a, head, r->source, i, i + 1);
}

/* The summaries of all keys, for the terms that choose. */
static void summarise(const run *r)
{
    const t3v_attend_args *a = r->a;
    for (int i = 0; i < r->site->terms; i++) {
        const t3v_term *t = &r->site->term[i];
        if (!t->select) continue;
#pragma omp for schedule(static)
        for (int64_t u = 0; u < a->heads * t->blocks; u++) {
            int h = (int)(u / t->blocks);
            int64_t b = u % t->blocks;
            if (t3v_term_active(r->site, i, h, &a->moment))
                t3v_select_summary(t, at_head(a->k, a->type, h, a->dim), a->type, a->k_stride, a->dim, b, b + 1, means_of(r, t, h) + b * a->dim);
        }
    }
}

/* The largest softmax score of every row; called by all threads of the team. */
static void find_top(run *r, int head, char *mine)
{
    float *top = (float *)(void *)r->top;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < r->a->n_q; i++) top[i] = -INFINITY;
    for (int index = 0; index < r->site->terms; index++) {
        const t3v_term *t = &r->site->term[index];
        if (t->kind == T3V_TERM_LINEAR) continue;
        make_source(r, t, head);
        for (int64_t b = 0; b < blocks_of(t); b++) {
            t3v_attn_job job = team_job(r, t, head, b);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < job.queries.count; i += T3V_LINEAR_ROWS) {
                int64_t left = job.queries.count - i;
                if (!t3v_row_max(&job, i, left < T3V_LINEAR_ROWS ? left : T3V_LINEAR_ROWS, mine, top, NULL)) fails(r);
            }
        }
    }
}

/* Heads [head, head + heads) of one softmax term; called by all threads of the team. */
static void run_term(run *r, int index, int head, int heads, bool add, char *mine)
{
    const t3v_term *t = &r->site->term[index];
    const layout *l = &r->l;
    int64_t units = heads * blocks_of(t);
    make_source(r, t, head);
    if (!l->shared) {
        char *packed = mine + l->work;
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int h = head + (int)(u / blocks_of(t));
            t3v_attn_job job = job_of(r->site, t, r->a, h, u % blocks_of(t), packed + l->packed, r->source, means_of(r, t, h));
            t3v_attn_sink sink = sink_of(r, index, h, add);
            l->impl->pack(&job, packed, 0, strips_of(l->impl, job.keys.count));
            run_chunks(l->impl, &job, packed, mine, &sink);
        }
        return;
    }
    for (int64_t u = 0; u < units; u++) {
        int h = head + (int)(u / blocks_of(t));
        t3v_attn_sink sink = sink_of(r, index, h, add);
        t3v_attn_job job = team_job(r, t, h, u % blocks_of(t));
        int64_t strips = strips_of(l->impl, job.keys.count);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < strips; s++) l->impl->pack(&job, r->common, s, s + 1);
        int64_t rows = chunk_rows(l->impl, job.queries.count);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < job.queries.count; i += rows) {
            int64_t left = job.queries.count - i;
            l->impl->queries(&job, r->common, i, left < rows ? left : rows, mine, &sink);
        }
    }
}

/* Row i of a head's output. */
static void write_row(const t3v_attend_args *a, int head, int64_t i, const float *x)
{
    void *out = (void *)at_head(a->out, a->out_type, head, a->dim);
    if (a->out_type == T3V_F32) {
        memcpy((float *)out + i * a->out_stride, x, (size_t)a->dim * sizeof *x);
    } else {
        t3v_bf16 *y = (t3v_bf16 *)out + i * a->out_stride;
        for (int d = 0; d < a->dim; d++) y[d] = t3v_f32_to_bf16(x[d]);
    }
}

static t3v_head_terms terms_of(const run *r, int head)
{
    const t3v_attend_args *a = r->a;
    t3v_head_terms x = { .site = r->site, .n_q = a->n_q, .dim = a->dim, .number = (int)t3v_dtype_size(a->out_type),
                         .top = r->l.top ? (const float *)(const void *)r->top : NULL, .phase = r->phase };
    for (int i = 0; i < r->site->terms; i++) {
        if (!uses(r->site, r->phase, i)) continue;
        x.out[i] = (const float *)(const void *)r->sum + i * a->n_q * a->dim;
        x.lse[i] = lse_of(r, i, head);
    }
    if (!r->site->epilogue || !a->state) return x;
    x.counter = a->state;
    x.record_bytes = r->site->epilogue->record(r->site->options, a->dim, x.number);
    x.record = (char *)a->state + T3V_STATE_COUNTERS * sizeof *x.counter + (size_t)head * (size_t)a->n_q * x.record_bytes;
    return x;
}

static void write_head(const run *r, int head)
{
    const t3v_attend_args *a = r->a;
    if (r->site->combine == T3V_COMBINE_MEAN) {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < a->n_q; i++) write_row(a, head, i, (const float *)(const void *)r->sum + i * a->dim);
        return;
    }
    t3v_head_terms x = terms_of(r, head);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->n_q; i++) {
        float y[T3V_HEAD_DIM_MAX];
        t3v_combine_row(&x, i, y);
        write_row(a, head, i, y);
    }
}

static void run_team(run *r, char *mine)
{
    const t3v_site *site = r->site;
    bool all_heads = r->only >= 0 && !r->l.source;
    summarise(r);
    if (all_heads) run_term(r, r->only, 0, r->a->heads, false, mine);
    for (int h = 0; h < r->a->heads; h++) {
        bool add = false;
        for (int i = 0; i < site->terms; i++) {
            bool active = t3v_term_active(site, i, h, &r->a->moment) && uses(site, r->phase, i);
            if (site->term[i].kind == T3V_TERM_LINEAR) run_linear(r, i, h, mine);
            else if (!active) run_nothing(r, i, h);
            else if (!all_heads) run_term(r, i, h, 1, add, mine);
            add = add || active;
        }
        if (r->l.top) find_top(r, h, mine);
        if (r->only < 0) write_head(r, h);
    }
}

/* The term that is the only one active for every head and whose output is the site's; -1: there is none such. */
static int only_term(const t3v_site *site, const t3v_attend_args *a)
{
    int only = -1;
    if (site->combine != T3V_COMBINE_MEAN) return -1;
    for (int h = 0; h < a->heads; h++) {
        int active = 0;
        for (int i = 0; i < site->terms; i++) {
            if (!t3v_term_active(site, i, h, &a->moment)) continue;
            if (active++ || (h && i != only)) return -1;
            only = i;
        }
    }
    return only;
}

t3v_status t3v_attend_run(const t3v_site *site, const t3v_attend_args *a)
{
    T3V_TRY(check(site, a));
    run r = { .site = site, .a = a, .l = lay_out(site, a), .only = only_term(site, a) };
    if (a->scratch_bytes < r.l.total)
        return t3v_fail(T3V_E_ARG, "attention got %zu bytes of scratch, needs %zu", a->scratch_bytes, r.l.total);
    r.sum = (char *)(((uintptr_t)a->scratch + ALIGN - 1) / ALIGN * ALIGN);
    r.lse = r.sum + r.l.sum;
    r.top = r.lse + r.l.lse;
    r.source = r.top + r.l.top;
    r.linear = r.source + r.l.source;
    r.means = r.linear + r.l.linear;
    r.common = r.means + r.l.means;
    r.threads = r.common + r.l.common;
    if (site->epilogue) r.phase = a->state ? site->epilogue->phase(site->options, &a->moment, a->state) : site->epilogue->without_state;
    /* A region of its own even for one thread: the loops inside must not bind to a region of the caller. */
#pragma omp parallel num_threads(r.l.threads)
    run_team(&r, r.threads + (size_t)omp_get_thread_num() * r.l.thread);
    return r.failed ? t3v_fail(T3V_E_NOMEM, "no memory for the products of linear attention") : T3V_OK;
}

/* ---- backward: a head is one unit, its blocks in order, so that sums have a fixed order ---- */

/* What a joint site keeps by row: the term's share and that times dout.y; largest score, what it passes on, where it is. */
enum { ROW_WEIGHT, ROW_DELTA, ROW_SLOPE, ROW_TOP, ROW_KEY, ROW_OWNER, ROW_WHICH, BACK_ROWS };

typedef struct back_layout {
    const t3v_attn_impl *impl;
    int threads;
    bool again;      /* the output of a term is computed again */
    int64_t keys;    /* most rows of a source */
    size_t out, packed, work, list, means, source, pooled, backward, rows, dout, shared, thread, total; /* bytes */
} back_layout;

static back_layout lay_out_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    back_layout l = { .impl = choose(a, NULL, 0), .threads = t3v_threads() };
    int64_t keys = most_keys(site, a->n_k, false), queries = most_queries(site, a->n_q);
    bool joint = site->combine == T3V_COMBINE_JOINT;
    size_t row = (size_t)a->n_q * sizeof(float);
    if (l.threads > a->heads) l.threads = a->heads;
    l.again = !joint && ((site->terms > 1 && !site->epilogue) || !g->out);
    if (l.again) {
        l.out = align_up((size_t)a->dim * row);
        l.packed = align_up(l.impl->packed_bytes(keys, a->dim));
        l.work = align_up(l.impl->work_bytes(a->dim));
    }
    if (joint) {
        const t3v_term *linear = linear_term(site);
        l.rows = align_up(BACK_ROWS * row);
        l.dout = align_up((size_t)a->dim * row);
        if (linear) l.work = align_up(t3v_linear_work(&linear->phi, a->dim));
        if (linear) l.shared = align_up(t3v_linear_shared(&linear->phi, a->dim));
    }
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        size_t pooled = t->pool > 1 ? align_up(2 * (size_t)t3v_source_rows(t, a) * (size_t)a->dim * sizeof(float)) : 0;
        if (pooled > l.pooled) l.pooled = pooled;
        if (means_of_head(t, a->dim) > l.means) l.means = means_of_head(t, a->dim);
    }
    l.source = most_source(site, a);
    l.list = list_bytes(site, a);
    l.backward = align_up(l.impl->backward_bytes(queries, keys, a->dim));
    l.thread = l.out + l.packed + l.work + l.list + l.means + l.source + l.pooled + l.backward + l.rows + l.dout + l.shared;
    l.total = l.thread * (size_t)l.threads + ALIGN;
    return l;
}

size_t t3v_attend_backward_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    return lay_out_backward(site, a, g).total;
}

static void clear(float *x, int64_t rows, int64_t stride, int dim)
{
    for (int64_t i = 0; i < rows; i++) memset(x + i * stride, 0, (size_t)dim * sizeof *x);
}

/* A head on its way back, with the parts of a thread's scratch. */
typedef struct back {
    const t3v_site *site;
    const t3v_attend_args *a;
    const t3v_attend_grad *g;
    const back_layout *l;
    int head;
    char *out, *packed, *work, *list, *source, *scratch, *shared;
    float *means, *pooled, *dout; /* gradients of pooled keys and values; dout by row weights */
    float *row[BACK_ROWS];
    t3v_attn_grad b;
} back;

static float at_row(const void *base, t3v_dtype type, int64_t i)
{
    return type == T3V_F32 ? ((const float *)base)[i] : t3v_bf16_to_f32(((const t3v_bf16 *)base)[i]);
}

/* Key summaries of a term that chooses; pooled keys and log-weights. */
static void prepare_keys(const back *k, const t3v_term *t)
{
    const t3v_attend_args *a = k->a;
    int64_t made = t3v_source_rows(t, a);
    if (made) t3v_source_fill(t, a, k->head, k->source, 0, made);
    if (t->select) t3v_select_summary(t, at_head(a->k, a->type, k->head, a->dim), a->type, a->k_stride, a->dim, 0, t->blocks, k->means);
}

/* The blocks of a softmax term, with k->b as it is; what the largest score of a row passes on. */
static void backward_term(const back *k, int index, const float *slope)
{
    const t3v_term *t = &k->site->term[index];
    const t3v_attend_args *a = k->a;
    const int32_t *key = (const int32_t *)(const void *)k->row[ROW_KEY], *owner = (const int32_t *)(const void *)k->row[ROW_OWNER];
    int64_t made = t3v_source_rows(t, a);
    t3v_attn_grad b = k->b;
    prepare_keys(k, t);
    if (t->pool > 1) {
        b.dk = k->pooled, b.dv = k->pooled + made * a->dim;
        b.dk_stride = b.dv_stride = a->dim;
        memset(k->pooled, 0, 2 * (size_t)(made * a->dim) * sizeof *k->pooled);
    }
    for (int64_t block = 0; block < blocks_of(t); block++) {
        t3v_attn_job job = job_of(k->site, t, a, k->head, block, k->list, k->source, k->means);
        if (k->l->again) {
            t3v_attn_sink sink = { .out = k->out, .type = T3V_F32, .stride = a->dim, .weight = 1 };
            k->l->impl->pack(&job, k->packed, 0, strips_of(k->l->impl, job.keys.count));
            run_chunks(k->l->impl, &job, k->packed, k->work, &sink);
        }
        k->l->impl->backward(&job, &b, k->scratch);
        for (int64_t i = 0; slope && i < job.queries.count; i++) {
            int64_t q = t3v_row(&job.queries, i);
            if (owner[q] != index) continue;
            float s = slope[q] * job.scale;
            for (int d = 0; d < a->dim; d++) {
                b.dq[q * b.dq_stride + d] += s * at_row(job.k, a->type, key[q] * job.k_stride + d);
                b.dk[key[q] * b.dk_stride + d] += s * at_row(job.q, a->type, q * job.q_stride + d);
            }
        }
    }
    if (t->pool > 1) t3v_source_backward(t, a, b.dk, b.dv, k->b.dk, k->b.dk_stride, k->b.dv, k->b.dv_stride);
}

/* Finds each row's largest score, its term and key. */
static bool find_top_again(const back *k)
{
    const t3v_attend_args *a = k->a;
    int32_t *key = (int32_t *)(void *)k->row[ROW_KEY], *owner = (int32_t *)(void *)k->row[ROW_OWNER];
    int32_t *which = (int32_t *)(void *)k->row[ROW_WHICH];
    for (int64_t i = 0; i < a->n_q; i++) k->row[ROW_TOP][i] = -INFINITY, owner[i] = -1;
    for (int index = 0; index < k->site->terms; index++) {
        const t3v_term *t = &k->site->term[index];
        if (t->kind == T3V_TERM_LINEAR) continue;
        prepare_keys(k, t);
        for (int64_t block = 0; block < blocks_of(t); block++) {
            t3v_attn_job job = job_of(k->site, t, a, k->head, block, k->list, k->source, k->means);
            for (int64_t i = 0; i < job.queries.count; i++) which[t3v_row(&job.queries, i)] = -1;
            if (!t3v_row_max(&job, 0, job.queries.count, k->work, k->row[ROW_TOP], which)) return false;
            for (int64_t i = 0; i < job.queries.count; i++) {
                int64_t q = t3v_row(&job.queries, i);
                if (which[q] >= 0) owner[q] = index, key[q] = (int32_t)t3v_row(&job.keys, which[q]);
            }
        }
    }
    return true;
}

/* y = (sum of e^s v + linear numerator) / (sum of e^s + linear denominator): with u = dout / denominator a softmax
 * term's gradient is its own for dout scaled by its share of the denominator, and y in place of its output. */
static bool backward_joint(back *k)
{
    const t3v_site *site = k->site;
    const t3v_attend_args *a = k->a;
    bool top = needs_top(site);
    t3v_head_terms x = { .site = site, .n_q = a->n_q, .dim = a->dim, .top = top ? k->row[ROW_TOP] : NULL };
    for (int i = 0; i < site->terms; i++) x.lse[i] = a->lse + ((int64_t)i * a->heads + k->head) * a->n_q;
    if (top && !find_top_again(k)) return false;
    t3v_attn_grad b = k->b;
    double share[T3V_TERMS_MAX];
    for (int pass = 0; pass < 2; pass++) /* the linear term first: it gives the slopes of the largest scores */
        for (int index = 0; index < site->terms; index++) {
            const t3v_term *t = &site->term[index];
            bool linear = t->kind == T3V_TERM_LINEAR;
            if (linear == (pass > 0)) continue;
            for (int64_t i = 0; i < a->n_q; i++) {
                t3v_joint_shares(&x, i, share);
                float w = (float)share[index], delta = 0;
                for (int d = 0; d < a->dim; d++) {
                    float dy = at_row(b.dout, b.dout_type, i * b.dout_stride + d);
                    if (linear) delta += dy * at_row(b.out, b.out_type, i * b.out_stride + d);
                    else k->dout[i * a->dim + d] = w * dy;
                }
                k->row[ROW_WEIGHT][i] = w, k->row[ROW_DELTA][i] = w * delta;
            }
            if (!linear) {
                k->b.dout = k->dout, k->b.dout_type = T3V_F32, k->b.dout_stride = a->dim, k->b.weight = 1;
                k->b.lse = x.lse[index];
                backward_term(k, index, top ? k->row[ROW_SLOPE] : NULL);
                continue;
            }
            t3v_phi_net net[2];
            for (int map = 0; map < 2; map++) net[map] = t3v_phi_of(&t->phi, map, k->head, a->dim, a->params, k->g->dparams);
            t3v_linear_grad grad = { b.dout, b.dout_type, b.dout_stride, k->row[ROW_WEIGHT], k->row[ROW_DELTA], k->row[ROW_SLOPE],
                                     b.dq, b.dk, b.dv, b.dq_stride, b.dk_stride, b.dv_stride };
            for (int64_t block = 0; block < t->blocks; block++) {
                t3v_attn_job job = job_of(k->site, t, a, k->head, block, k->list, k->source, k->means);
                if (!t3v_linear_backward(&job, net, &grad, k->shared, k->work)) return false;
            }
        }
    return true;
}

static bool backward_head(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g, const back_layout *l,
                          int head, char *mine)
{
    int64_t column = (int64_t)head * a->dim;
    back k = { .site = site, .a = a, .g = g, .l = l, .head = head, .out = mine };
    k.packed = k.out + l->out;
    k.work = k.packed + l->packed;
    k.list = k.work + l->work;
    k.means = (float *)(void *)(k.list + l->list);
    k.source = (char *)k.means + l->means;
    k.pooled = (float *)(void *)(k.source + l->source);
    k.scratch = (char *)k.pooled + l->pooled;
    k.dout = (float *)(void *)(k.scratch + l->backward);
    k.shared = (char *)k.dout + l->dout;
    for (int i = 0; i < BACK_ROWS; i++) k.row[i] = (float *)(void *)(k.shared + l->shared) + i * a->n_q;
    k.b = (t3v_attn_grad){
        .out = g->out ? at_head(g->out, a->out_type, head, a->dim) : NULL,
        .out_type = a->out_type,
        .out_stride = a->out_stride,
        .dout = at_head(g->dout, g->dout_type, head, a->dim),
        .dout_type = g->dout_type,
        .dout_stride = g->dout_stride,
        .dq = g->dq + column,
        .dk = g->dk + column,
        .dv = g->dv + column,
        .dq_stride = g->dq_stride,
        .dk_stride = g->dk_stride,
        .dv_stride = g->dv_stride,
    };
    if (!g->accumulate) {
        clear(k.b.dq, a->n_q, k.b.dq_stride, a->dim);
        clear(k.b.dk, a->n_k, k.b.dk_stride, a->dim);
        clear(k.b.dv, a->n_k, k.b.dv_stride, a->dim);
    }
    if (site->combine == T3V_COMBINE_JOINT) return backward_joint(&k);
    if (l->again) k.b.out = k.out, k.b.out_type = T3V_F32, k.b.out_stride = a->dim;
    for (int i = 0; i < site->terms; i++) {
        if (site->epilogue && !site->epilogue->uses(site->epilogue->without_state, i)) continue;
        if (!t3v_term_active(site, i, head, &a->moment)) continue;
        k.b.weight = site->epilogue ? 1 : site->term[i].weight;
        k.b.lse = a->lse + ((int64_t)i * a->heads + head) * a->n_q;
        backward_term(&k, i, NULL);
    }
    return true;
}

t3v_status t3v_attend_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    T3V_TRY(check(site, a));
    if (g->dout_type != T3V_F32 && g->dout_type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "attention gradient of type %s: F32 and BF16 are possible", t3v_dtype_name(g->dout_type));
    if (!a->lse) return t3v_fail(T3V_E_ARG, "the gradient of attention needs the lse of the forward run");
    if (site->combine == T3V_COMBINE_JOINT && !g->out) return t3v_fail(T3V_E_ARG, "the gradient of joint attention needs its output");
    if (site->epilogue && a->state) return t3v_fail(T3V_E_UNSUPPORTED, "attention that keeps a state from step to step has no gradient");
    back_layout l = lay_out_backward(site, a, g);
    if (a->scratch_bytes < l.total)
        return t3v_fail(T3V_E_ARG, "the gradient of attention got %zu bytes of scratch, needs %zu", a->scratch_bytes, l.total);
    char *base = (char *)(((uintptr_t)a->scratch + ALIGN - 1) / ALIGN * ALIGN);
    int failed = 0;
#pragma omp parallel for num_threads(l.threads) schedule(dynamic)
    for (int head = 0; head < a->heads; head++)
        if (!backward_head(site, a, g, &l, head, base + (size_t)omp_get_thread_num() * l.thread)) {
#pragma omp atomic write
            failed = 1;
        }
    return failed ? t3v_fail(T3V_E_NOMEM, "no memory for the products of linear attention") : T3V_OK;
}
