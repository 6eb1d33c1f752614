/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a site of a plan forward: cuts the work into units, packs, and combines the terms. */
#include "attn/attend.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "attn/combine.h"
#include "attn/job.h"
#include "attn/linear.h"
#include "attn/select.h"
#include "attn/source.h"
#include "base/threads.h"
#include "tensor/dtype.h"

/* How the scratch is divided. `shared`: the threads work on one block's queries together, with one packed copy of
 * its keys; else each takes whole blocks of its own. `team`: lists that the threads use together all the same. `once`: some
 * term's keys are packed once a head, and each thread has a list of its own. Sizes in bytes. */
typedef struct layout {
    const t3v_attn_impl *impl;
    int threads;
    bool shared, team, once;
    int64_t keys;
    size_t packed, work, list, strips, thread, sum, lse, top, source, linear, means, common, total;
} layout;

/* Where the key summaries of a term begin; with term = site->terms the bytes of all. */
static size_t means_before(const t3v_site *site, int64_t term, int heads, int dim)
{
    size_t n = 0;
    for (int64_t i = 0; i < term; i++) n += (size_t)heads * t3v_attn_means_bytes(&site->term[i], dim);
    return n;
}

static layout lay_out(const t3v_site *site, const t3v_attend_args *a)
{
    layout l = {.impl = t3v_attn_choose(a, NULL, 0),
                .threads = t3v_threads(),
                .keys = t3v_attn_most_keys(site, a->n_k, false)};
    const t3v_term *linear = t3v_attn_linear_term(site);
    size_t row = (size_t)a->n_q * sizeof(float);
    l.source = t3v_attn_source_bytes(site, a);
    int64_t units = INT64_MAX;
    for (int i = 0; i < site->terms; i++) {
        int64_t u = t3v_attn_blocks(&site->term[i]) * (site->terms == 1 && !l.source ? a->heads : 1);
        if (u < units) units = u;
    }
    for (int i = 0; i < site->terms; i++) l.once = l.once || t3v_attn_packs_once(l.impl, &site->term[i]);
    l.shared = l.once || (l.threads > 1 && (units < 4 * l.threads || l.keys > 8192));
    l.packed = t3v_attn_align(l.impl->packed_bytes(l.keys, a->dim));
    l.work = t3v_attn_align(l.impl->work_bytes(a->dim));
    l.list = t3v_attn_list_bytes(site, a);
    if (l.once) l.strips = t3v_attn_align((size_t)(a->n_k / l.impl->strip + 1) * sizeof(int32_t));
    if (site->combine != T3V_COMBINE_MEAN) {
        l.sum = t3v_attn_align((size_t)site->terms * (size_t)a->dim * row);
        if (!a->lse) l.lse = t3v_attn_align((size_t)site->terms * row);
    } else if (site->terms > 1) {
        l.sum = t3v_attn_align((size_t)a->dim * row);
    }
    if (linear) {
        size_t work = t3v_attn_align(t3v_linear_work(&linear->phi, a->dim));
        if (work > l.work) l.work = work;
        l.linear = t3v_attn_align(t3v_linear_shared(&linear->phi, a->dim));
        l.team = true;
        if (t3v_attn_needs_top(site)) l.top = t3v_attn_align(row);
    }
    l.means = means_before(site, site->terms, a->heads, a->dim);
    l.thread = l.work + (l.shared ? 0 : l.packed + l.list) + (l.once ? l.list + l.strips : 0);
    l.common = (l.shared ? l.packed : 0) + (l.shared || l.team ? l.list : 0);
    l.total = l.sum + l.lse + l.top + l.source + l.linear + l.means + l.common +
              l.thread * (size_t)l.threads + T3V_ATTN_ALIGN;
    return l;
}

size_t t3v_attend_scratch(const t3v_site *site, const t3v_attend_args *a) { return lay_out(site, a).total; }

typedef struct run {
    const t3v_site *site;
    const t3v_attend_args *a;
    layout l;
    char *sum, *lse, *top, *source, *linear, *means, *common, *threads; /* parts of the scratch */
    int phase;                                                          /* of the epilogue */
    int failed;                                                         /* a product found no memory */
    /* the one term to run, for all heads; -1: several */
    int only;
    t3v_attn_job job; /* that the team works on */
} run;

static void fails(run *r)
{
#pragma omp atomic write
    r->failed = 1;
}

static bool uses(const t3v_site *site, int phase, int term)
{
    return !site->epilogue || site->epilogue->uses(phase, term);
}

static float *lse_of(const run *r, int index, int head)
{
    const t3v_attend_args *a = r->a;
    if (a->lse) return a->lse + ((int64_t)index * a->heads + head) * a->n_q;
    return r->l.lse ? (float *)(void *)r->lse + index * a->n_q : NULL;
}

/* Which of several terms that are added up a term is. */
typedef struct place {
    bool first, last;
} place;

/* The sink of term `index`: its own rows, or for terms that are added up their sum, the last time the output. */
static t3v_attn_sink sink_of(const run *r, int index, int head, place at)
{
    const t3v_attend_args *a = r->a;
    t3v_attn_sink s = {.weight = r->site->term[index].weight, .lse = lse_of(r, index, head)};
    if (r->site->combine != T3V_COMBINE_MEAN) {
        s.out = (float *)(void *)r->sum + index * a->n_q * a->dim, s.type = T3V_F32, s.stride = a->dim,
        s.weight = 1;
        return s;
    }
    if (!at.first) s.sum = (const float *)(const void *)r->sum;
    if (at.last)
        s.out = (void *)t3v_attn_at_head(a->out, a->out_type, head, a->dim), s.type = a->out_type,
        s.stride = a->out_stride;
    else s.out = r->sum, s.type = T3V_F32, s.stride = a->dim;
    return s;
}

static float *means_of(const run *r, const t3v_term *t, int head)
{
    size_t at = means_before(r->site, t - r->site->term, r->a->heads, r->a->dim);
    return (float *)(void *)(r->means + at + (size_t)head * t3v_attn_means_bytes(t, r->a->dim));
}

/* Block `b` for all threads of the team, which use one list. */
static t3v_attn_job team_job(run *r, const t3v_term *t, int head, int64_t b)
{
#pragma omp single /* its barrier comes before any use, that of the last loop after all */
    r->job = t3v_attn_job_of(r->site, t, r->a, head, b, r->common + (r->l.shared ? r->l.packed : 0),
                             r->source, means_of(r, t, head));
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
    for (int map = 0; map < 2; map++)
        net[map] = t3v_phi_of(&t->phi, map, head, r->a->dim, r->a->params, NULL);
    for (int64_t b = 0; b < t->blocks; b++) {
        t3v_attn_job job = team_job(r, t, head, b);
        if (!t3v_linear_forward(&job, net, r->linear, mine, sink_of(r, index, head, (place){true, true}).out,
                                lse_of(r, index, head)))
            fails(r);
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
                t3v_select_summary(t, t3v_attn_at_head(a->k, a->type, h, a->dim), a->type, a->k_stride,
                                   a->dim, b, b + 1, means_of(r, t, h) + b * a->dim);
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
        for (int64_t b = 0; b < t3v_attn_blocks(t); b++) {
            t3v_attn_job job = team_job(r, t, head, b);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < job.queries.count; i += T3V_LINEAR_ROWS) {
                int64_t left = job.queries.count - i;
                if (!t3v_row_max(&job, i, left < T3V_LINEAR_ROWS ? left : T3V_LINEAR_ROWS, mine, top, NULL))
                    fails(r);
            }
        }
    }
}

/* The same of a term whose keys are packed once: the threads take blocks, each with a list of strips. */
static void run_term_once(run *r, int index, int head, int heads, place at, char *mine)
{
    const t3v_term *t = &r->site->term[index];
    const layout *l = &r->l;
    char *list = mine + l->work;
    int32_t *strip = (int32_t *)(void *)(list + l->list);
    for (int h = head; h < head + heads; h++) {
        t3v_attn_sink sink = sink_of(r, index, h, at);
        t3v_attn_job all = t3v_attn_all_keys(r->site, t, r->a, h);
        int64_t strips = t3v_attn_strips(l->impl, all.packed.count);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < strips; s++) l->impl->pack(&all, r->common, s, s + 1);
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < t->blocks; b++) {
            t3v_attn_job job = t3v_attn_job_of(r->site, t, r->a, h, b, list, r->source, means_of(r, t, h));
            t3v_attn_use_strips(l->impl, t, (const uint64_t *)(const void *)list, &all.packed, strip, &job);
            t3v_attn_run_chunks(l->impl, &job, r->common, mine, &sink);
        }
    }
}

/* Heads [head, head + heads) of one softmax term; called by all threads of the team. */
static void run_term(run *r, int index, int head, int heads, place at, char *mine)
{
    const t3v_term *t = &r->site->term[index];
    const layout *l = &r->l;
    int64_t units = heads * t3v_attn_blocks(t);
    if (t3v_attn_packs_once(l->impl, t)) {
        run_term_once(r, index, head, heads, at, mine);
        return;
    }
    make_source(r, t, head);
    if (!l->shared) {
        char *packed = mine + l->work;
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int h = head + (int)(u / t3v_attn_blocks(t));
            t3v_attn_job job = t3v_attn_job_of(r->site, t, r->a, h, u % t3v_attn_blocks(t),
                                               packed + l->packed, r->source, means_of(r, t, h));
            t3v_attn_sink sink = sink_of(r, index, h, at);
            l->impl->pack(&job, packed, 0, t3v_attn_strips(l->impl, job.keys.count));
            t3v_attn_run_chunks(l->impl, &job, packed, mine, &sink);
        }
        return;
    }
    for (int64_t u = 0; u < units; u++) {
        int h = head + (int)(u / t3v_attn_blocks(t));
        t3v_attn_sink sink = sink_of(r, index, h, at);
        t3v_attn_job job = team_job(r, t, h, u % t3v_attn_blocks(t));
        int64_t strips = t3v_attn_strips(l->impl, job.keys.count);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < strips; s++) l->impl->pack(&job, r->common, s, s + 1);
        int64_t rows = t3v_attn_chunk_rows(l->impl, job.queries.count);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < job.queries.count; i += rows) {
            int64_t left = job.queries.count - i;
            l->impl->queries(&job, r->common, i, left < rows ? left : rows, mine, &sink);
        }
    }
}

static t3v_head_terms terms_of(const run *r, int head)
{
    const t3v_attend_args *a = r->a;
    t3v_head_terms x = {.site = r->site,
                        .n_q = a->n_q,
                        .dim = a->dim,
                        .number = (int)t3v_dtype_size(a->out_type),
                        .top = r->l.top ? (const float *)(const void *)r->top : NULL,
                        .phase = r->phase};
    for (int i = 0; i < r->site->terms; i++) {
        if (!uses(r->site, r->phase, i)) continue;
        x.out[i] = (const float *)(const void *)r->sum + i * a->n_q * a->dim;
        x.lse[i] = lse_of(r, i, head);
    }
    if (!r->site->epilogue || !a->state) return x;
    x.counter = a->state;
    x.record_bytes = r->site->epilogue->record(r->site->options, a->dim, x.number);
    x.record = (char *)a->state + T3V_STATE_COUNTERS * sizeof *x.counter +
               (size_t)head * (size_t)a->n_q * x.record_bytes;
    return x;
}

/* A head's output from the terms' own rows. */
static void combine_head(const run *r, int head)
{
    const t3v_attend_args *a = r->a;
    void *out = (void *)t3v_attn_at_head(a->out, a->out_type, head, a->dim);
    t3v_head_terms x = terms_of(r, head);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->n_q; i++) {
        float y[T3V_HEAD_DIM_MAX];
        t3v_combine_row(&x, i, y);
        for (int d = 0; d < a->dim; d++)
            if (a->out_type == T3V_F32) ((float *)out)[i * a->out_stride + d] = y[d];
            else ((t3v_bf16 *)out)[i * a->out_stride + d] = t3v_f32_to_bf16(y[d]);
    }
}

static bool is_active(const run *r, int index, int head)
{
    return t3v_term_active(r->site, index, head, &r->a->moment) && uses(r->site, r->phase, index);
}

static void run_team(run *r, char *mine)
{
    const t3v_site *site = r->site;
    bool all_heads = r->only >= 0 && !r->l.source;
    summarise(r);
    if (all_heads) run_term(r, r->only, 0, r->a->heads, (place){true, true}, mine);
    for (int h = 0; h < r->a->heads; h++) {
        int first = -1, last = -1;
        for (int i = 0; i < site->terms; i++) {
            if (!is_active(r, i, h)) continue;
            if (first < 0) first = i;
            last = i;
        }
        for (int i = 0; i < site->terms; i++) {
            if (site->term[i].kind == T3V_TERM_LINEAR) run_linear(r, i, h, mine);
            else if (!is_active(r, i, h)) run_nothing(r, i, h);
            else if (!all_heads) run_term(r, i, h, 1, (place){i == first, i == last}, mine);
        }
        if (r->l.top) find_top(r, h, mine);
        if (site->combine != T3V_COMBINE_MEAN) combine_head(r, h);
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
    T3V_TRY(t3v_attn_check(site, a));
    run r = {.site = site, .a = a, .l = lay_out(site, a), .only = only_term(site, a)};
    if (a->scratch_bytes < r.l.total)
        return t3v_fail(T3V_E_ARG, "attention got %zu bytes of scratch, needs %zu", a->scratch_bytes,
                        r.l.total);
    r.sum = (char *)(((uintptr_t)a->scratch + T3V_ATTN_ALIGN - 1) / T3V_ATTN_ALIGN * T3V_ATTN_ALIGN);
    r.lse = r.sum + r.l.sum;
    r.top = r.lse + r.l.lse;
    r.source = r.top + r.l.top;
    r.linear = r.source + r.l.source;
    r.means = r.linear + r.l.linear;
    r.common = r.means + r.l.means;
    r.threads = r.common + r.l.common;
    if (site->epilogue)
        r.phase = a->state ? site->epilogue->phase(site->options, &a->moment, a->state)
                           : site->epilogue->without_state;
        /* A region of its own even for one thread: the loops inside must not bind to a region of the caller. */
#pragma omp parallel num_threads(r.l.threads)
    run_team(&r, r.threads + (size_t)omp_get_thread_num() * r.l.thread);
    return r.failed ? t3v_fail(T3V_E_NOMEM, "no memory for the products of linear attention") : T3V_OK;
}
