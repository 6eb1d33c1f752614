/* SPDX-License-Identifier: Apache-2.0 */
/* A site on a device, forward: as attn/attend.c, with launches over all heads that do the same instead of threads. */
#include "attn/device_job.h"

#include <math.h>
#include <stdio.h>

#include "attn/select.h"
#include "attn/source.h"

size_t t3v_device_parts_most = (size_t)1 << 30;
int t3v_device_hopper_few = 64;

const char *t3v_seg_forward_declines(const t3v_seg_forward *f)
{
    const t3v_seg_inputs *in = &f->in;
    size_t pair = 2 * t3v_dtype_size(f->out_type);
    if (in->type != T3V_BF16) return "not bf16";
    if (in->dim % 8 || in->dim > 256) return "the head dimension is not a multiple of 8 up to 256";
    if (in->q_stride % 8 || in->k_stride % 8 || in->v_stride % 8 ||
        ((uintptr_t)in->q | (uintptr_t)in->k | (uintptr_t)in->v) % 16)
        return "rows of q, k or v do not begin at multiples of 16 bytes";
    if (f->out_stride % 2 || (uintptr_t)f->out % pair)
        return "rows of the output do not begin at pairs of numbers";
    return NULL;
}

const char *t3v_seg_hopper_declines(const t3v_seg_forward *f)
{
    const char *why = t3v_seg_forward_declines(f);
    if (why) return why;
    if (f->in.dim > 128) return "the head dimension is above 128";
    if ((f->lists.item ? f->lists.most : f->lists.rows) <= t3v_device_hopper_few)
        return "few rows of an item";
    return NULL;
}

const char *t3v_seg_backward_declines(const t3v_seg_inputs *in)
{
    t3v_seg_forward f = {.in = *in, .out_type = T3V_F32};
    return in->dim > 128 ? "the head dimension is above 128" : t3v_seg_forward_declines(&f);
}

const char *t3v_device_attend_declines(const t3v_site *site, const t3v_attend_args *a)
{
    if (site->epilogue && a->state && !site->epilogue->form)
        return "what the method keeps from step to step is kept by a function of the CPU";
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (t->kind == T3V_TERM_LINEAR && t->heads) return "a linear term with lists of each head";
        if (t->select && t->select->choose) return "a selection by a function of the CPU";
        if (t->select && t->blocks > T3V_SEG_PICK_MOST) return "a selection among more than 8192 blocks";
    }
    return NULL;
}

/* ---- memory ---- */

typedef struct layout {
    int group;       /* heads that are run together */
    bool own, parts; /* terms have rows of their own; they or their sum have rows */
    size_t part, lse, top, linear, source, means, bits, total; /* offsets */
} layout;

size_t t3v_device_take(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += t3v_attn_align(bytes);
    return here;
}

/* Pooled keys, values and log-weights of a term, or only the latter. */
static size_t source_bytes(const t3v_term *t, const t3v_attend_args *a)
{
    size_t rows = (size_t)t3v_source_rows(t, a),
           row = (size_t)a->heads * (size_t)a->dim * t3v_dtype_size(a->type);
    return t3v_attn_align(rows * sizeof(float)) + (t->pool > 1 ? 2 * t3v_attn_align(rows * row) : 0);
}

size_t t3v_device_source_bytes(const t3v_site *site, const t3v_attend_args *a)
{
    size_t most = 0;
    for (int i = 0; i < site->terms; i++)
        if (source_bytes(&site->term[i], a) > most) most = source_bytes(&site->term[i], a);
    return most;
}

size_t t3v_device_means_bytes(const t3v_site *site, const t3v_attend_args *a)
{
    int64_t blocks = 0;
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].select && site->term[i].blocks > blocks) blocks = site->term[i].blocks;
    return 2 * (size_t)a->heads * (size_t)blocks * (size_t)a->dim * sizeof(float);
}

static layout lay_out(const t3v_site *site, const t3v_attend_args *a)
{
    layout l = {.group = a->heads};
    l.own = site->combine == T3V_COMBINE_JOINT || (site->epilogue && a->state);
    size_t head = (size_t)a->n_q * (size_t)a->dim * sizeof(float) * (size_t)(l.own ? site->terms : 1),
           rows = (size_t)site->terms * (size_t)a->heads * (size_t)a->n_q * sizeof(float);
    l.parts = l.own || (site->terms > 1 && !site->epilogue);
    if (l.parts && head * (size_t)a->heads > t3v_device_parts_most)
        l.group = head > t3v_device_parts_most ? 1 : (int)(t3v_device_parts_most / head);
    l.part = t3v_device_take(&l.total, l.parts ? head * (size_t)l.group : 0);
    l.lse = t3v_device_take(&l.total, l.own && !a->lse ? rows : 0);
    l.top = t3v_device_take(&l.total, t3v_attn_needs_top(site) ? rows : 0);
    l.linear = t3v_device_take(&l.total, t3v_device_linear_bytes(site, a, l.group, false));
    l.source = t3v_device_take(&l.total, t3v_device_source_bytes(site, a));
    l.means = t3v_device_take(&l.total, t3v_device_means_bytes(site, a));
    l.bits = t3v_device_take(&l.total,
                             a->chosen ? 0 : t3v_attend_chosen_words(site, a->heads) * sizeof(uint64_t));
    l.total += T3V_ATTN_ALIGN;
    return l;
}

size_t t3v_device_attend_scratch(const t3v_site *site, const t3v_attend_args *a)
{
    return lay_out(site, a).total;
}

/* ---- running ---- */

typedef struct run {
    t3v_device_job job;
    const t3v_site *site;
    const t3v_attend_args *a;
    layout l;
    char *scratch;
    int phase; /* of the epilogue */
} run;

t3v_status t3v_device_launched(int error, const char *what)
{
    return error ? t3v_fail(T3V_E_UNSUPPORTED, "attention on the device: %s failed with CUDA error %d", what,
                            error)
                 : T3V_OK;
}

static float *lse_of(const run *r, int index)
{
    const t3v_attend_args *a = r->a;
    float *all = a->lse ? a->lse : r->l.own ? (float *)(void *)(r->scratch + r->l.lse) : NULL;
    return all ? all + (int64_t)index * a->heads * a->n_q : NULL;
}

/* The largest scores of a softmax term, where a linear one needs them. */
static float *top_of(const run *r, int index)
{
    if (!t3v_attn_needs_top(r->site) || r->site->term[index].kind == T3V_TERM_LINEAR) return NULL;
    return (float *)(void *)(r->scratch + r->l.top) + (int64_t)index * r->a->heads * r->a->n_q;
}

static const void *at(const t3v_device_site *s, size_t offset)
{
    return offset == SIZE_MAX ? NULL : (const char *)s->at + offset;
}

t3v_status t3v_device_prepare(const t3v_device_job *job, int index, int head, int heads, t3v_seg_forward *f)
{
    const t3v_attend_args *a = job->a;
    const t3v_site *site = job->s->site;
    const t3v_term *t = &site->term[index];
    const t3v_device_term *d = &job->s->term[index];
    int64_t rows = t3v_source_rows(t, a), width = (int64_t)a->heads * a->dim;
    f->in = (t3v_seg_inputs){.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .type = a->type,
                             .n_q = a->n_q,
                             .q_stride = a->q_stride,
                             .k_stride = a->k_stride,
                             .v_stride = a->v_stride,
                             .dim = a->dim,
                             .head_first = head,
                             .heads = heads,
                             .log_weight = t->log_weight ? at(job->s, d->log_weight) : a->key_log_weight,
                             .scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)a->dim)};
    f->lists = t3v_device_lists_at(job->s, &d->by_query, a->n_q, a->n_k);
    if (rows) {
        float *weight = (float *)(void *)job->source;
        char *k = (char *)weight + t3v_attn_align((size_t)rows * sizeof *weight),
             *v = k + t3v_attn_align((size_t)(rows * width) * t3v_dtype_size(a->type));
        size_t first = (size_t)head * (size_t)a->dim * t3v_dtype_size(a->type);
        t3v_seg_pool p = {.k = (const char *)a->k + first,
                          .v = (const char *)a->v + first,
                          .type = a->type,
                          .n_k = a->n_k,
                          .k_stride = a->k_stride,
                          .v_stride = a->v_stride,
                          .width = (int64_t)heads * a->dim,
                          .order = f->lists.row_order,
                          .pool = t->pool > 1 ? t->pool : 1,
                          .log_weight = at(job->s, d->log_weight),
                          .key_log_weight = a->key_log_weight,
                          .pooled_k = k + first,
                          .pooled_v = v + first,
                          .pooled_stride = width,
                          .weight = weight};
        T3V_TRY(t3v_device_launched(job->kernels->pool(&p, job->stream), "pooling keys"));
        f->in.log_weight = weight;
        if (t->pool > 1) f->in.k = k, f->in.v = v, f->in.k_stride = f->in.v_stride = width;
    }
    if (t->select) {
        int64_t most = t->select->max && t->select->max < t->blocks ? t->select->max : t->blocks,
                keep = t3v_select_keep(t->select, t->blocks, &a->moment);
        t3v_seg_pick p = {.in = f->in,
                          .order = f->lists.row_order,
                          .block_first = f->lists.block_first,
                          .blocks = t->blocks,
                          .words = f->lists.words,
                          .sample = t->select->summary == T3V_SUMMARY_SAMPLE ? t->select->sample : 0,
                          .softmax = t->select->score == T3V_SCORE_SOFTMAX,
                          .keep = keep,
                          .most = keep == t->blocks ? keep : most,
                          .p = t->select->p,
                          .always = at(job->s, d->always),
                          .always_per_head = t->heads ? t->blocks : 0,
                          .means = (float *)(void *)job->means,
                          .bits = (uint64_t *)t3v_attend_chosen(site, a->heads, job->bits, index, 0, 0),
                          .turned = job->turned};
        T3V_TRY(t3v_device_launched(job->kernels->pick(&p, job->stream), "choosing key blocks"));
        f->lists.bits = p.bits, f->lists.begin = NULL, f->lists.ranges = NULL;
    }
    return T3V_OK;
}

t3v_status t3v_device_run_forward(const t3v_device_job *job, const t3v_seg_forward *f)
{
    const t3v_seg_kernels *k = job->kernels;
    if (k->forward_hopper && !t3v_seg_hopper_declines(f))
        return t3v_device_launched(k->forward_hopper(f, job->stream), "the wgmma kernel");
    if (!t3v_seg_forward_declines(f))
        return t3v_device_launched(k->forward(f, job->stream), "the tensor-core kernel");
    return t3v_device_launched(k->forward_plain(f, job->stream), "the plain kernel");
}

int t3v_device_stateless(const t3v_site *site) { return site->epilogue ? site->epilogue->without_state : 0; }

bool t3v_device_active(const t3v_site *site, int phase, int term, int head, const t3v_moment *moment)
{
    if (site->epilogue && !site->epilogue->uses(phase, term)) return false;
    return t3v_term_active(site, term, head, moment);
}

t3v_seg_shares t3v_device_shares(const t3v_site *site)
{
    const t3v_term *linear = t3v_attn_linear_term(site);
    return (t3v_seg_shares){.terms = site->terms, .linear = linear ? (int)(linear - site->term) : -1};
}

/* Terms of a mean that are active for a head: the first, the last, and whether `index` is. */
typedef struct place {
    bool active, first, last;
} place;

static place place_of(const run *r, int index, int head)
{
    place p = {t3v_device_active(r->site, r->phase, index, head, &r->a->moment), true, true};
    for (int i = 0; i < r->site->terms; i++) {
        if (i == index || !t3v_device_active(r->site, r->phase, i, head, &r->a->moment)) continue;
        if (i < index) p.first = false;
        else p.last = false;
    }
    return p;
}

/* A term of heads [head, head + heads), for which it has the same place. */
static t3v_status run_heads(const run *r, int index, t3v_seg_forward *f, int group, int head, int heads,
                            place p)
{
    const t3v_attend_args *a = r->a;
    float *lse = lse_of(r, index), *part = (float *)(void *)(r->scratch + r->l.part);
    int64_t row = (int64_t)r->l.group * a->dim;
    if (!p.active) {
        if (!lse) return T3V_OK;
        return t3v_device_launched(r->job.kernels->fill(lse + head * a->n_q, heads, a->n_q, a->n_q, -INFINITY,
                                                        r->job.stream),
                                   "filling");
    }
    if (r->site->term[index].kind == T3V_TERM_LINEAR)
        return t3v_device_linear(&r->job, index, head, heads, r->scratch + r->l.linear,
                                 part + index * a->n_q * row, row, group, lse);
    f->in.head_first = head, f->in.heads = heads;
    f->lse = lse;
    f->top = top_of(r, index);
    f->sum = NULL;
    if (r->l.own || !p.last) {
        f->out = part + (r->l.own ? index * a->n_q * row : 0);
        f->out_type = T3V_F32, f->out_stride = row, f->out_first = group;
    } else {
        f->out = a->out, f->out_type = a->out_type, f->out_stride = a->out_stride, f->out_first = 0;
    }
    f->weight = r->l.own || r->site->epilogue ? 1 : r->site->term[index].weight;
    if (!r->l.own && !p.first) f->sum = part, f->sum_stride = row, f->sum_first = group;
    return t3v_device_run_forward(&r->job, f);
}

static const float *part_of(const run *r, int index)
{
    return (float *)(void *)(r->scratch + r->l.part) + (int64_t)index * r->a->n_q * r->l.group * r->a->dim;
}

static t3v_status combine(const run *r, int group, int heads)
{
    const t3v_attend_args *a = r->a;
    int64_t row = (int64_t)r->l.group * a->dim;
    t3v_seg_joint j = {.by = t3v_device_shares(r->site),
                       .dim = a->dim,
                       .head_first = group,
                       .heads = heads,
                       .n_q = a->n_q,
                       .part_stride = row,
                       .out = a->out,
                       .out_type = a->out_type,
                       .out_stride = a->out_stride};
    for (int i = 0; i < j.by.terms; i++) {
        j.part[i] = part_of(r, i);
        j.by.lse[i] = lse_of(r, i);
        j.by.top[i] = top_of(r, i);
    }
    return t3v_device_launched(r->job.kernels->joint(&j, r->job.stream), "joining terms");
}

static t3v_status finish(const run *r, const int64_t *counter, int group, int heads)
{
    const t3v_attend_args *a = r->a;
    const t3v_epilogue *e = r->site->epilogue;
    t3v_epilogue_form form = e->form(r->site->options, r->phase, counter);
    t3v_seg_keep k = {.form = form,
                      .dim = a->dim,
                      .head_first = group,
                      .heads = heads,
                      .number = (int)t3v_dtype_size(a->out_type),
                      .n_q = a->n_q,
                      .part = part_of(r, form.part),
                      .whole = part_of(r, form.whole),
                      .part_stride = (int64_t)r->l.group * a->dim,
                      .part_lse = lse_of(r, form.part),
                      .whole_lse = lse_of(r, form.whole),
                      .record = (char *)a->state + T3V_STATE_COUNTERS * sizeof *counter,
                      .out = a->out,
                      .out_type = a->out_type,
                      .out_stride = a->out_stride};
    k.record_bytes = (int64_t)e->record(r->site->options, a->dim, k.number);
    return t3v_device_launched(r->job.kernels->keep(&k, r->job.stream), "the method's epilogue");
}

/* What the epilogue does now, with its counters, which are kept beside the records. */
static t3v_status enter(run *r, int64_t counter[T3V_STATE_COUNTERS])
{
    const t3v_device *d = r->job.device;
    const t3v_attend_args *a = r->a;
    size_t bytes = T3V_STATE_COUNTERS * sizeof *counter;
    r->phase = t3v_device_stateless(r->site);
    if (!r->site->epilogue || !a->state) return T3V_OK;
    T3V_TRY(d->pull(counter, a->state, bytes));
    r->phase = r->site->epilogue->phase(r->site->options, &a->moment, counter);
    return d->push(a->state, counter, bytes);
}

t3v_status t3v_device_attend(const t3v_device_site *s, const t3v_attend_args *a, const t3v_device *device)
{
    const t3v_site *site = s->site;
    T3V_TRY(t3v_attn_check(site, a));
    const char *why = t3v_device_attend_declines(site, a);
    if (why) return t3v_fail(T3V_E_UNSUPPORTED, "attention on the device: %s", why);
    int64_t counter[T3V_STATE_COUNTERS] = {0};
    run r = {.job = {.s = s, .a = a, .device = device, .kernels = device->segments, .stream = device->stream},
             .site = site,
             .a = a,
             .l = lay_out(site, a)};
    if (a->scratch_bytes < r.l.total)
        return t3v_fail(T3V_E_ARG, "attention on the device got %zu bytes of scratch, needs %zu",
                        a->scratch_bytes, r.l.total);
    r.scratch = (char *)(((uintptr_t)a->scratch + T3V_ATTN_ALIGN - 1) / T3V_ATTN_ALIGN * T3V_ATTN_ALIGN);
    r.job.source = r.scratch + r.l.source;
    r.job.means = r.scratch + r.l.means;
    r.job.bits = a->chosen ? a->chosen : (uint64_t *)(void *)(r.scratch + r.l.bits);
    T3V_TRY(enter(&r, counter));
    for (int group = 0; group < a->heads; group += r.l.group) {
        int end = group + r.l.group < a->heads ? group + r.l.group : a->heads;
        for (int i = 0; i < site->terms; i++) {
            t3v_seg_forward f = {0};
            bool ready = false;
            for (int h = group, next; h < end; h = next) {
                place p = place_of(&r, i, h);
                for (next = h + 1; next < end; next++) {
                    place q = place_of(&r, i, next);
                    if (q.active != p.active || q.first != p.first || q.last != p.last) break;
                }
                if (p.active && !ready && site->term[i].kind != T3V_TERM_LINEAR)
                    T3V_TRY(t3v_device_prepare(&r.job, i, group, end - group, &f));
                ready = ready || p.active;
                T3V_TRY(run_heads(&r, i, &f, group, h, next - h, p));
            }
        }
        if (site->combine == T3V_COMBINE_JOINT) T3V_TRY(combine(&r, group, end - group));
        else if (r.l.own) T3V_TRY(finish(&r, counter, group, end - group));
    }
    return T3V_OK;
}

const char *t3v_device_attend_impl(const t3v_site *site, const t3v_attend_args *a, char *why, size_t why_size)
{
    t3v_seg_forward f = {.in = {.q = a->q,
                                .k = a->k,
                                .v = a->v,
                                .type = a->type,
                                .q_stride = a->q_stride,
                                .k_stride = a->k_stride,
                                .v_stride = a->v_stride,
                                .dim = a->dim},
                         .out = a->out,
                         .out_type = a->out_type,
                         .out_stride = a->out_stride};
    const char *reason = t3v_seg_forward_declines(&f);
    (void)site;
    if (why && why_size) snprintf(why, why_size, "%s%s", reason ? "tensor: " : "", reason ? reason : "");
    return reason ? "plain" : "tensor";
}
