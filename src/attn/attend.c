/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a site of a plan: chooses the kernel, cuts the work into units, packs, and combines the terms. */
#include "attn/attend.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "attn/kernel.h"
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
    for (int i = 0; i < site->terms; i++) {
        int64_t slots = site->term[i].slots;
        if (slots && (slots != a->n_q || slots != a->n_k))
            return t3v_fail(T3V_E_SHAPE, "the attention plan is for %lld tokens, got %lld queries and %lld keys", (long long)slots,
                            (long long)a->n_q, (long long)a->n_k);
    }
    return T3V_OK;
}

/* ---- cutting the work ---- */

static int64_t blocks_of(const t3v_term *t) { return t->slots ? t->blocks : 1; }

static int64_t most_keys(const t3v_site *site, int64_t n_k)
{
    int64_t most = 0;
    for (int i = 0; i < site->terms; i++)
        for (int64_t b = 0; b < blocks_of(&site->term[i]); b++) {
            int64_t n = t3v_term_keys(&site->term[i], b, n_k);
            if (n > most) most = n;
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
        if (t->slots && t->range_first[t->blocks] > t->blocks) return true;
    }
    return false;
}

/* How the scratch is divided. `shared`: the threads work on one block's queries together, with one packed copy of
 * its keys; else each takes whole blocks of its own. */
typedef struct layout {
    const t3v_attn_impl *impl;
    int threads;
    bool shared;
    int64_t keys, queries;
    size_t packed, work, list, thread, sum, total; /* bytes */
} layout;

static size_t align_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static layout lay_out(const t3v_site *site, const t3v_attend_args *a)
{
    layout l = { .impl = choose(a, NULL, 0), .threads = t3v_threads(), .keys = most_keys(site, a->n_k) };
    int64_t units = INT64_MAX;
    for (int i = 0; i < site->terms; i++) {
        int64_t u = blocks_of(&site->term[i]) * (site->terms == 1 ? a->heads : 1);
        if (u < units) units = u;
    }
    l.shared = l.threads > 1 && (units < 4 * l.threads || l.keys > 8192);
    l.packed = align_up(l.impl->packed_bytes(l.keys, a->dim));
    l.work = align_up(l.impl->work_bytes(a->dim));
    l.list = needs_list(site) ? align_up((size_t)l.keys * sizeof(int32_t)) : 0;
    l.thread = l.work + (l.shared ? 0 : l.packed + l.list);
    l.sum = site->terms > 1 ? align_up((size_t)a->n_q * (size_t)a->dim * sizeof(float)) : 0;
    l.total = l.sum + (l.shared ? l.packed + l.list : 0) + l.thread * (size_t)l.threads + ALIGN;
    return l;
}

size_t t3v_attend_scratch(const t3v_site *site, const t3v_attend_args *a) { return lay_out(site, a).total; }

static const char *at_head(const void *base, t3v_dtype type, int head, int dim)
{
    return (const char *)base + (size_t)head * (size_t)dim * t3v_dtype_size(type);
}

/* Queries and keys of block b; `list` holds the tokens of several ranges. */
static t3v_attn_job job_of(const t3v_term *t, const t3v_attend_args *a, int head, int64_t b, int32_t *list)
{
    t3v_attn_job job = {
        .q = at_head(a->q, a->type, head, a->dim),
        .k = at_head(a->k, a->type, head, a->dim),
        .v = at_head(a->v, a->type, head, a->dim),
        .type = a->type,
        .q_stride = a->q_stride,
        .k_stride = a->k_stride,
        .v_stride = a->v_stride,
        .key_log_weight = a->key_log_weight,
        .scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)a->dim),
        .dim = a->dim,
        .queries = { NULL, 0, a->n_q },
        .keys = { NULL, 0, a->n_k },
    };
    if (!t->slots) return job;
    int64_t first = t->block_first[b];
    job.queries = (t3v_token_list){ t->order ? t->order + first : NULL, first, t->block_first[b + 1] - first };
    const t3v_range *r = &t->ranges[t->range_first[b]];
    int64_t ranges = t->range_first[b + 1] - t->range_first[b];
    if (ranges == 1) {
        job.keys = (t3v_token_list){ t->order ? t->order + r->first : NULL, r->first, r->last - r->first };
        return job;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < ranges; i++)
        for (int32_t s = r[i].first; s < r[i].last; s++) list[n++] = t->order ? t->order[s] : s;
    job.keys = (t3v_token_list){ list, 0, n };
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
    char *sum, *common, *threads; /* parts of the scratch */
} run;

/* The sink of term `index`: the output itself, or for several terms the sum. */
static t3v_attn_sink sink_of(const run *r, int index, int head)
{
    const t3v_attend_args *a = r->a;
    t3v_attn_sink s = { .weight = r->site->term[index].weight };
    if (a->lse) s.lse = a->lse + ((int64_t)index * a->heads + head) * a->n_q;
    if (r->site->terms > 1) {
        s.out = r->sum, s.type = T3V_F32, s.stride = a->dim, s.add = index > 0;
    } else {
        s.out = (void *)at_head(a->out, a->out_type, head, a->dim), s.type = a->out_type, s.stride = a->out_stride;
    }
    return s;
}

/* Heads [head, head + heads) of one term; called by all threads of the team. */
static void run_term(const run *r, int index, int head, int heads, char *mine)
{
    const t3v_term *t = &r->site->term[index];
    const layout *l = &r->l;
    int64_t units = heads * blocks_of(t);
    if (!l->shared) {
        char *packed = mine + l->work;
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int h = head + (int)(u / blocks_of(t));
            t3v_attn_job job = job_of(t, r->a, h, u % blocks_of(t), (int32_t *)(void *)(packed + l->packed));
            t3v_attn_sink sink = sink_of(r, index, h);
            l->impl->pack(&job, packed, 0, strips_of(l->impl, job.keys.count));
            run_chunks(l->impl, &job, packed, mine, &sink);
        }
        return;
    }
    for (int64_t u = 0; u < units; u++) {
        int h = head + (int)(u / blocks_of(t));
        t3v_attn_job job;
        t3v_attn_sink sink = sink_of(r, index, h);
        int32_t *list = (int32_t *)(void *)(r->common + l->packed);
        if (l->list) {
#pragma omp single /* its barrier comes before any use, that of the last loop after all */
            job_of(t, r->a, h, u % blocks_of(t), list);
        }
        job = job_of(t, r->a, h, u % blocks_of(t), list);
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

static void write_head(const run *r, int head)
{
    const t3v_attend_args *a = r->a;
    const float *sum = (const float *)(const void *)r->sum;
    void *out = (void *)at_head(a->out, a->out_type, head, a->dim);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->n_q; i++) {
        const float *x = sum + i * a->dim;
        if (a->out_type == T3V_F32) {
            memcpy((float *)out + i * a->out_stride, x, (size_t)a->dim * sizeof *x);
        } else {
            t3v_bf16 *y = (t3v_bf16 *)out + i * a->out_stride;
            for (int d = 0; d < a->dim; d++) y[d] = t3v_f32_to_bf16(x[d]);
        }
    }
}

static void run_team(const run *r, char *mine)
{
    if (r->site->terms == 1) {
        run_term(r, 0, 0, r->a->heads, mine);
        return;
    }
    for (int h = 0; h < r->a->heads; h++) {
        for (int i = 0; i < r->site->terms; i++) run_term(r, i, h, 1, mine);
        write_head(r, h);
    }
}

t3v_status t3v_attend_run(const t3v_site *site, const t3v_attend_args *a)
{
    T3V_TRY(check(site, a));
    run r = { .site = site, .a = a, .l = lay_out(site, a) };
    if (a->scratch_bytes < r.l.total)
        return t3v_fail(T3V_E_ARG, "attention got %zu bytes of scratch, needs %zu", a->scratch_bytes, r.l.total);
    r.sum = (char *)(((uintptr_t)a->scratch + ALIGN - 1) / ALIGN * ALIGN);
    r.common = r.sum + r.l.sum;
    r.threads = r.common + (r.l.shared ? r.l.packed + r.l.list : 0);
    /* A region of its own even for one thread: the loops inside must not bind to a region of the caller. */
#pragma omp parallel num_threads(r.l.threads)
    run_team(&r, r.threads + (size_t)omp_get_thread_num() * r.l.thread);
    return T3V_OK;
}

/* ---- backward: a head is one unit, its blocks in order, so that sums have a fixed order ---- */

typedef struct back_layout {
    const t3v_attn_impl *impl;
    int threads;
    bool again; /* the output of a term is computed again */
    size_t out, packed, work, list, backward, thread, total; /* bytes */
} back_layout;

static back_layout lay_out_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    back_layout l = { .impl = choose(a, NULL, 0), .threads = t3v_threads() };
    int64_t keys = most_keys(site, a->n_k), queries = most_queries(site, a->n_q);
    if (l.threads > a->heads) l.threads = a->heads;
    l.again = site->terms > 1 || !g->out;
    if (l.again) {
        l.out = align_up((size_t)a->n_q * (size_t)a->dim * sizeof(float));
        l.packed = align_up(l.impl->packed_bytes(keys, a->dim));
        l.work = align_up(l.impl->work_bytes(a->dim));
    }
    l.list = needs_list(site) ? align_up((size_t)keys * sizeof(int32_t)) : 0;
    l.backward = align_up(l.impl->backward_bytes(queries, keys, a->dim));
    l.thread = l.out + l.packed + l.work + l.list + l.backward;
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

static void backward_head(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g, const back_layout *l,
                          int head, char *mine)
{
    int64_t column = (int64_t)head * a->dim;
    char *packed = mine + l->out, *work = packed + l->packed, *list = work + l->work, *scratch = list + l->list;
    t3v_attn_grad b = {
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
        clear(b.dq, a->n_q, b.dq_stride, a->dim);
        clear(b.dk, a->n_k, b.dk_stride, a->dim);
        clear(b.dv, a->n_k, b.dv_stride, a->dim);
    }
    if (l->again) b.out = mine, b.out_type = T3V_F32, b.out_stride = a->dim;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        b.weight = t->weight;
        b.lse = a->lse + ((int64_t)i * a->heads + head) * a->n_q;
        for (int64_t block = 0; block < blocks_of(t); block++) {
            t3v_attn_job job = job_of(t, a, head, block, (int32_t *)(void *)list);
            if (l->again) {
                t3v_attn_sink sink = { .out = mine, .type = T3V_F32, .stride = a->dim, .weight = 1 };
                l->impl->pack(&job, packed, 0, strips_of(l->impl, job.keys.count));
                run_chunks(l->impl, &job, packed, work, &sink);
            }
            l->impl->backward(&job, &b, scratch);
        }
    }
}

t3v_status t3v_attend_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    T3V_TRY(check(site, a));
    if (g->dout_type != T3V_F32 && g->dout_type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "attention gradient of type %s: F32 and BF16 are possible", t3v_dtype_name(g->dout_type));
    if (!a->lse) return t3v_fail(T3V_E_ARG, "the gradient of attention needs the lse of the forward run");
    back_layout l = lay_out_backward(site, a, g);
    if (a->scratch_bytes < l.total)
        return t3v_fail(T3V_E_ARG, "the gradient of attention got %zu bytes of scratch, needs %zu", a->scratch_bytes, l.total);
    char *base = (char *)(((uintptr_t)a->scratch + ALIGN - 1) / ALIGN * ALIGN);
#pragma omp parallel for num_threads(l.threads) schedule(dynamic)
    for (int head = 0; head < a->heads; head++)
        backward_head(site, a, g, &l, head, base + (size_t)omp_get_thread_num() * l.thread);
    return T3V_OK;
}
