/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by definition: double precision, one query at a time. Never optimised. */
#include <math.h>
#include <stddef.h>

#include "attn/kernel.h"
#include "tensor/dtype.h"

static double load(const void *base, t3v_dtype type, int64_t i)
{
    return type == T3V_F32 ? (double)((const float *)base)[i]
                           : (double)t3v_bf16_to_f32(((const t3v_bf16 *)base)[i]);
}

static void load_row(double *dst, const void *base, t3v_dtype type, int64_t at, int dim)
{
    for (int d = 0; d < dim; d++) dst[d] = load(base, type, at + d);
}

static double score(const t3v_attn_job *job, const double *q, int64_t key)
{
    double s = 0;
    for (int d = 0; d < job->dim; d++) s += q[d] * load(job->k, job->type, key * job->k_stride + d);
    s *= (double)job->scale;
    return job->key_log_weight ? s + (double)job->key_log_weight[key] : s;
}

/* The largest score of a query; NaN when one of them is NaN. */
static double largest(const t3v_attn_job *job, const double *q)
{
    double max = -INFINITY;
    for (int64_t j = 0; j < job->keys.count; j++) {
        double s = score(job, q, t3v_row(&job->keys, j));
        if (isnan(s)) return s;
        if (s > max) max = s;
    }
    return max;
}

void t3v_attn_ref_queries(const t3v_attn_job *job, const void *packed, int64_t first, int64_t count,
                          void *work, const t3v_attn_sink *sink)
{
    (void)packed, (void)work;
    double q[T3V_HEAD_DIM_MAX], o[T3V_HEAD_DIM_MAX];
    for (int64_t i = first; i < first + count; i++) {
        int64_t token = t3v_row(&job->queries, i);
        load_row(q, job->q, job->type, token * job->q_stride, job->dim);
        double max = largest(job, q), sum = 0;
        for (int d = 0; d < job->dim; d++) o[d] = isfinite(max) ? 0 : NAN;
        if (isfinite(max)) {
            for (int64_t j = 0; j < job->keys.count; j++) {
                int64_t key = t3v_row(&job->keys, j);
                double p = exp(score(job, q, key) - max);
                sum += p;
                for (int d = 0; d < job->dim; d++)
                    o[d] += p * load(job->v, job->type, key * job->v_stride + d);
            }
            for (int d = 0; d < job->dim; d++) o[d] /= sum;
        }
        if (sink->lse) sink->lse[token] = isfinite(max) ? (float)(max + log(sum)) : (float)max;
        for (int d = 0; d < job->dim; d++) {
            float y = (float)(o[d] * (double)sink->weight);
            int64_t at = token * sink->stride + d;
            if (sink->sum) y += sink->sum[token * job->dim + d];
            if (sink->type == T3V_BF16) ((t3v_bf16 *)sink->out)[at] = t3v_f32_to_bf16(y);
            else ((float *)sink->out)[at] = y;
        }
    }
}

static double dot_dout(const t3v_attn_job *job, const t3v_attn_grad *g, int64_t query, int64_t key)
{
    double s = 0;
    for (int d = 0; d < job->dim; d++)
        s += load(g->dout, g->dout_type, query * g->dout_stride + d) *
             load(job->v, job->type, key * job->v_stride + d);
    return s * (double)g->weight;
}

/* With P the softmax, dP = dO V^T and D = rowsum(O * dO), which for a site of this term alone is rowsum(P * dP):
 * dV = P^T dO, dS = P * (dP - D), dQ = scale dS K, dK = scale dS^T Q. The log-sum-exp is computed here. */
void t3v_attn_ref_backward(const t3v_attn_job *job, const t3v_attn_grad *g, void *work)
{
    double *lse = work, *mean = lse + job->queries.count;
    double q[T3V_HEAD_DIM_MAX], acc[T3V_HEAD_DIM_MAX], acc2[T3V_HEAD_DIM_MAX];
    for (int64_t i = 0; i < job->queries.count; i++) {
        int64_t query = t3v_row(&job->queries, i);
        load_row(q, job->q, job->type, query * job->q_stride, job->dim);
        double max = largest(job, q), sum = 0;
        mean[i] = 0;
        for (int64_t j = 0; j < job->keys.count; j++) {
            int64_t key = t3v_row(&job->keys, j);
            double p = exp(score(job, q, key) - max);
            sum += p;
        }
        lse[i] = max + log(sum);
        for (int d = 0; d < job->dim; d++)
            mean[i] += load(g->out, g->out_type, query * g->out_stride + d) *
                       load(g->dout, g->dout_type, query * g->dout_stride + d) * (double)g->weight;
        for (int d = 0; d < job->dim; d++) acc[d] = 0;
        for (int64_t j = 0; j < job->keys.count; j++) {
            int64_t key = t3v_row(&job->keys, j);
            double ds = exp(score(job, q, key) - lse[i]) * (dot_dout(job, g, query, key) - mean[i]) *
                        (double)job->scale;
            for (int d = 0; d < job->dim; d++)
                acc[d] += ds * load(job->k, job->type, key * job->k_stride + d);
        }
        for (int d = 0; d < job->dim; d++) g->dq[query * g->dq_stride + d] += (float)acc[d];
    }
    for (int64_t j = 0; j < job->keys.count; j++) {
        int64_t key = t3v_row(&job->keys, j);
        for (int d = 0; d < job->dim; d++) acc[d] = acc2[d] = 0;
        for (int64_t i = 0; i < job->queries.count; i++) {
            int64_t query = t3v_row(&job->queries, i);
            load_row(q, job->q, job->type, query * job->q_stride, job->dim);
            double p = exp(score(job, q, key) - lse[i]);
            double ds = p * (dot_dout(job, g, query, key) - mean[i]) * (double)job->scale;
            for (int d = 0; d < job->dim; d++) {
                acc[d] += ds * q[d];
                acc2[d] += p * load(g->dout, g->dout_type, query * g->dout_stride + d) * (double)g->weight;
            }
        }
        for (int d = 0; d < job->dim; d++) {
            g->dk[key * g->dk_stride + d] += (float)acc[d];
            g->dv[key * g->dv_stride + d] += (float)acc2[d];
        }
    }
}

static const char *declines(int dim, t3v_dtype type)
{
    (void)dim, (void)type;
    return NULL;
}

static size_t packed_bytes(int64_t n_k, int dim)
{
    (void)n_k, (void)dim;
    return 0;
}

static size_t work_bytes(int dim)
{
    (void)dim;
    return 0;
}

size_t t3v_attn_ref_backward_bytes(int64_t n_q, int64_t n_k, int dim)
{
    (void)n_k, (void)dim;
    return (size_t)n_q * 2 * sizeof(double);
}

static void pack(const t3v_attn_job *job, void *packed, int64_t first, int64_t last)
{
    (void)job, (void)packed, (void)first, (void)last;
}

const t3v_attn_impl t3v_attn_ref = {
    .name = "ref",
    .isa = T3V_ISA_REF,
    .declines = declines,
    .q_block = 64,
    .q_step = 1,
    .strip = 1 << 30,
    .packed_bytes = packed_bytes,
    .work_bytes = work_bytes,
    .pack = pack,
    .queries = t3v_attn_ref_queries,
    .backward_bytes = t3v_attn_ref_backward_bytes,
    .backward = t3v_attn_ref_backward,
};
