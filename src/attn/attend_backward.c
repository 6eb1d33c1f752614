/* SPDX-License-Identifier: Apache-2.0 */
/* The gradients of a site: a head is one unit, its blocks in order, so that sums have a fixed order. */
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

/* What a joint site keeps by row: the term's share and that times dout.y; largest score, what it passes on, where it is. */
enum { ROW_WEIGHT, ROW_DELTA, ROW_SLOPE, ROW_TOP, ROW_KEY, ROW_OWNER, ROW_WHICH, BACK_ROWS };

typedef struct back_layout {
    const t3v_attn_impl *impl;
    int threads;
    bool again;   /* the output of a term is computed again */
    int64_t keys; /* most rows of a source */
    /* bytes */
    size_t out, packed, work, list, means, source, pooled, backward, rows, dout, shared, thread, total;
} back_layout;

static back_layout lay_out_backward(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    back_layout l = {.impl = t3v_attn_choose(a, NULL, 0), .threads = t3v_threads()};
    int64_t keys = t3v_attn_most_keys(site, a->n_k, false), queries = t3v_attn_most_queries(site, a->n_q);
    bool joint = site->combine == T3V_COMBINE_JOINT;
    size_t row = (size_t)a->n_q * sizeof(float);
    if (l.threads > a->heads) l.threads = a->heads;
    l.again = !joint && ((site->terms > 1 && !site->epilogue) || !g->out);
    if (l.again) {
        l.out = t3v_attn_align((size_t)a->dim * row);
        l.packed = t3v_attn_align(l.impl->packed_bytes(keys, a->dim));
        l.work = t3v_attn_align(l.impl->work_bytes(a->dim));
    }
    if (joint) {
        const t3v_term *linear = t3v_attn_linear_term(site);
        l.rows = t3v_attn_align(BACK_ROWS * row);
        l.dout = t3v_attn_align((size_t)a->dim * row);
        if (linear) l.work = t3v_attn_align(t3v_linear_work(&linear->phi, a->dim));
        if (linear) l.shared = t3v_attn_align(t3v_linear_shared(&linear->phi, a->dim));
    }
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        size_t pooled = t->pool > 1 ? t3v_attn_align(2 * (size_t)t3v_source_rows(t, a) * (size_t)a->dim *
                                                     sizeof(float))
                                    : 0;
        if (pooled > l.pooled) l.pooled = pooled;
        if (t3v_attn_means_bytes(t, a->dim) > l.means) l.means = t3v_attn_means_bytes(t, a->dim);
    }
    l.source = t3v_attn_source_bytes(site, a);
    l.list = t3v_attn_list_bytes(site, a);
    l.backward = t3v_attn_align(l.impl->backward_bytes(queries, keys, a->dim));
    l.thread = l.out + l.packed + l.work + l.list + l.means + l.source + l.pooled + l.backward + l.rows +
               l.dout + l.shared;
    l.total = l.thread * (size_t)l.threads + T3V_ATTN_ALIGN;
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
    if (t->select)
        t3v_select_summary(t, t3v_attn_at_head(a->k, a->type, k->head, a->dim), a->type, a->k_stride, a->dim,
                           0, t->blocks, k->means);
}

/* The blocks of a softmax term, with k->b as it is; what the largest score of a row passes on. */
static void backward_term(const back *k, int index, const float *slope)
{
    const t3v_term *t = &k->site->term[index];
    const t3v_attend_args *a = k->a;
    const int32_t *key = (const int32_t *)(const void *)k->row[ROW_KEY],
                  *owner = (const int32_t *)(const void *)k->row[ROW_OWNER];
    int64_t made = t3v_source_rows(t, a);
    t3v_attn_grad b = k->b;
    prepare_keys(k, t);
    if (t->pool > 1) {
        b.dk = k->pooled, b.dv = k->pooled + made * a->dim;
        b.dk_stride = b.dv_stride = a->dim;
        memset(k->pooled, 0, 2 * (size_t)(made * a->dim) * sizeof *k->pooled);
    }
    for (int64_t block = 0; block < t3v_attn_blocks(t); block++) {
        t3v_attn_job job = t3v_attn_job_of(k->site, t, a, k->head, block, k->list, k->source, k->means);
        if (k->l->again) {
            t3v_attn_sink sink = {.out = k->out, .type = T3V_F32, .stride = a->dim, .weight = 1};
            k->l->impl->pack(&job, k->packed, 0, t3v_attn_strips(k->l->impl, job.keys.count));
            t3v_attn_run_chunks(k->l->impl, &job, k->packed, k->work, &sink);
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
        for (int64_t block = 0; block < t3v_attn_blocks(t); block++) {
            t3v_attn_job job = t3v_attn_job_of(k->site, t, a, k->head, block, k->list, k->source, k->means);
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
    bool top = t3v_attn_needs_top(site);
    t3v_head_terms x = {.site = site, .n_q = a->n_q, .dim = a->dim, .top = top ? k->row[ROW_TOP] : NULL};
    for (int i = 0; i < site->terms; i++) x.lse[i] = a->lse + ((int64_t)i * a->heads + k->head) * a->n_q;
    if (top && !find_top_again(k)) return false;
    t3v_attn_grad b = k->b;
    double share[T3V_TERMS_MAX];
    for (int pass = 0; pass < 2;
         pass++) /* the linear term first: it gives the slopes of the largest scores */
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
            for (int map = 0; map < 2; map++)
                net[map] = t3v_phi_of(&t->phi, map, k->head, a->dim, a->params, k->g->dparams);
            t3v_linear_grad grad = {
                b.dout, b.dout_type, b.dout_stride, k->row[ROW_WEIGHT], k->row[ROW_DELTA], k->row[ROW_SLOPE],
                b.dq,   b.dk,        b.dv,          b.dq_stride,        b.dk_stride,       b.dv_stride};
            for (int64_t block = 0; block < t->blocks; block++) {
                t3v_attn_job job = t3v_attn_job_of(k->site, t, a, k->head, block, k->list, k->source,
                                                   k->means);
                if (!t3v_linear_backward(&job, net, &grad, k->shared, k->work)) return false;
            }
        }
    return true;
}

static bool backward_head(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g,
                          const back_layout *l, int head, char *mine)
{
    int64_t column = (int64_t)head * a->dim;
    back k = {.site = site, .a = a, .g = g, .l = l, .head = head, .out = mine};
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
        .out = g->out ? t3v_attn_at_head(g->out, a->out_type, head, a->dim) : NULL,
        .out_type = a->out_type,
        .out_stride = a->out_stride,
        .dout = t3v_attn_at_head(g->dout, g->dout_type, head, a->dim),
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
    T3V_TRY(t3v_attn_check(site, a));
    if (g->dout_type != T3V_F32 && g->dout_type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "attention gradient of type %s: F32 and BF16 are possible",
                        t3v_dtype_name(g->dout_type));
    if (!a->lse) return t3v_fail(T3V_E_ARG, "the gradient of attention needs the lse of the forward run");
    if (site->combine == T3V_COMBINE_JOINT && !g->out)
        return t3v_fail(T3V_E_ARG, "the gradient of joint attention needs its output");
    if (site->epilogue && a->state)
        return t3v_fail(T3V_E_UNSUPPORTED, "attention that keeps a state from step to step has no gradient");
    back_layout l = lay_out_backward(site, a, g);
    if (a->scratch_bytes < l.total)
        return t3v_fail(T3V_E_ARG, "the gradient of attention got %zu bytes of scratch, needs %zu",
                        a->scratch_bytes, l.total);
    char *base = (char *)(((uintptr_t)a->scratch + T3V_ATTN_ALIGN - 1) / T3V_ATTN_ALIGN * T3V_ATTN_ALIGN);
    int failed = 0;
#pragma omp parallel for num_threads(l.threads) schedule(dynamic)
    for (int head = 0; head < a->heads; head++)
        if (!backward_head(site, a, g, &l, head, base + (size_t)omp_get_thread_num() * l.thread)) {
#pragma omp atomic write
            failed = 1;
        }
    return failed ? t3v_fail(T3V_E_NOMEM, "no memory for the products of linear attention") : T3V_OK;
}
