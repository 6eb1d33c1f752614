/* SPDX-License-Identifier: Apache-2.0 */
/* What is done by rows around the segment kernels: pooled keys, terms that are joined; and the list of all kernels. */
#include <stdlib.h>
#include <string.h>

#include "attn/segments.cuh"

namespace
{
enum { THREADS = 128 };

__device__ __forceinline__ float load(const void *base, t3v_dtype type, int64_t at)
{
    return type == T3V_F32 ? ((const float *)base)[at] : t3v_bf16_float(((const uint16_t *)base)[at]);
}

__device__ __forceinline__ void store(void *base, t3v_dtype type, int64_t at, float x)
{
    if (type == T3V_F32) ((float *)base)[at] = x;
    else ((uint16_t *)base)[at] = t3v_float_bf16(x);
}

/* Row x, columns of y. */
__global__ void __launch_bounds__(THREADS) pool(const t3v_seg_pool p)
{
    const int64_t row = blockIdx.x, first = row * p.pool,
                  end = first + p.pool < p.n_k ? first + p.pool : p.n_k,
                  column = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (column == 0) {
        double sum = 0;
        for (int64_t s = first; s < end; s++)
            sum += p.key_log_weight ? exp((double)p.key_log_weight[seg_row(p.order, s)]) : 1;
        float own = p.pool > 1 ? (float)log(sum) : p.key_log_weight[row];
        p.weight[row] = own + (p.log_weight ? p.log_weight[row] : 0);
    }
    if (p.pool <= 1 || column >= p.width) return;
    float k = 0, v = 0, n = (float)(end - first);
    for (int64_t s = first; s < end; s++) {
        int64_t token = seg_row(p.order, s);
        k += load(p.k, p.type, token * p.k_stride + column);
        v += load(p.v, p.type, token * p.v_stride + column);
    }
    store(p.pooled_k, p.type, row * p.pooled_stride + column, k / n);
    store(p.pooled_v, p.type, row * p.pooled_stride + column, v / n);
}

/* By what each term's row counts, as t3v_joint_shares has it; `at`: head * n_q + row. */
__device__ __forceinline__ void find_shares(float share[T3V_TERMS_MAX], const t3v_seg_shares &by, int64_t at)
{
    float most = -INFINITY, top = -INFINITY, weight = 0, sum = 0; /* weight: the linear term's exponent */
    bool by_top = false;
#pragma unroll
    for (int t = 0; t < T3V_TERMS_MAX; t++) {
        share[t] = t < by.terms ? by.lse[t][at] : -INFINITY;
        if (t >= by.terms || t == by.linear) continue;
        if (!(share[t] <= most)) most = share[t];
        if (by.top[t]) by_top = true, top = fmaxf(top, by.top[t][at]);
    }
    if (by.linear >= 0) {
        if (by_top) weight = most = top;
        else if (most < 0) most = 0;
    }
#pragma unroll
    for (int t = 0; t < T3V_TERMS_MAX; t++)
        if (t < by.terms) {
            float own = share[t];
            share[t] = expf((t == by.linear ? weight : own) - most);
            sum += t == by.linear ? share[t] * own : share[t];
        }
    if (by.linear >= 0 && fabsf(sum) < 1e-30f) sum = sum < 0 ? -1e-30f : 1e-30f;
#pragma unroll
    for (int t = 0; t < T3V_TERMS_MAX; t++) share[t] /= sum;
}

/* A warp for a row of head y. */
__global__ void __launch_bounds__(THREADS) joint(const t3v_seg_joint j)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int head = j.head_first + (int)blockIdx.y;
    if (row >= j.n_q) return;
    float share[T3V_TERMS_MAX];
    find_shares(share, j.by, head * j.n_q + row);
    for (int d = (int)threadIdx.x % 32; d < j.dim; d += 32) {
        float y = 0;
#pragma unroll
        for (int t = 0; t < T3V_TERMS_MAX; t++)
            if (t < j.by.terms) y += share[t] * j.part[t][row * j.part_stride + (int)blockIdx.y * j.dim + d];
        store(j.out, j.out_type, row * j.out_stride + head * j.dim + d, y);
    }
}

/* A warp for a row of head y. */
__global__ void __launch_bounds__(THREADS) keep(const t3v_seg_keep k)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32,
                  at = (k.head_first + (int)blockIdx.y) * k.n_q + row;
    if (row >= k.n_q) return;
    const int64_t from = row * k.part_stride + (int)blockIdx.y * k.dim,
                  to = row * k.out_stride + (int64_t)(k.head_first + (int)blockIdx.y) * k.dim;
    char *record = k.record + at * k.record_bytes;
    void *rest = record + sizeof(float);
    const t3v_dtype type = k.number == 4 ? T3V_F32 : T3V_BF16;
    const int lane = (int)threadIdx.x % 32;
    float rho = 1;
    if (k.form.what == T3V_FORM_USE) rho = fminf(*(const float *)record + k.form.add, 1);
    if (k.form.what == T3V_FORM_KEEP) {
        rho = fminf(expf(k.part_lse[at] - k.whole_lse[at]), 1);
        if (lane == 0) *(float *)record = rho;
    }
    for (int d = lane; d < k.dim; d += 32) {
        float y = k.form.what == T3V_FORM_USE ? rho * k.part[from + d] + load(rest, type, d)
                                              : k.whole[from + d];
        if (k.form.what == T3V_FORM_KEEP) store(rest, type, d, y - rho * k.part[from + d]);
        store(k.out, k.out_type, to + d, y);
    }
}

/* A warp for a query of head y. */
__global__ void __launch_bounds__(THREADS) stats(const t3v_seg_stats s)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int head = s.head_first + (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    if (row >= s.n_q) return;
    float delta = 0;
    for (int d = lane; d < s.dim; d += 32) {
        float x = load(s.dout, s.dout_type, row * s.dout_stride + head * s.dim + d);
        if (s.rounded) {
            uint16_t r = t3v_float_bf16(x);
            s.rounded[row * s.rounded_stride + head * s.dim + d] = r;
            x = t3v_bf16_float(r);
        }
        delta = fmaf(x, load(s.out, s.out_type, row * s.out_stride + head * s.dim + d), delta);
    }
#pragma unroll
    for (int bits = 16; bits; bits /= 2) delta += __shfl_xor_sync(0xffffffffu, delta, bits);
    if (lane) return;
    const int64_t at = head * s.n_q + row;
    float factor = s.weight;
    if (s.by.terms) {
        float share[T3V_TERMS_MAX];
        find_shares(share, s.by, at);
#pragma unroll
        for (int t = 0; t < T3V_TERMS_MAX; t++)
            if (t == s.index) factor = share[t];
    }
    s.delta[at] = delta;
    s.factor[at] = factor;
}

/* Slot x, columns of y; each token has one slot. */
__global__ void __launch_bounds__(THREADS) unpool(const t3v_seg_unpool u)
{
    const int64_t slot = blockIdx.x, row = slot / u.pool, first = row * u.pool, left = u.n_k - first,
                  column = (int64_t)blockIdx.y * THREADS + threadIdx.x, token = seg_row(u.order, slot);
    if (column >= u.width) return;
    float share = 1 / (float)(left < u.pool ? left : u.pool);
    u.dk[token * u.dk_stride + column] += u.pooled_dk[row * u.width + column] * share;
    u.dv[token * u.dv_stride + column] += u.pooled_dv[row * u.width + column] * share;
}

__global__ void __launch_bounds__(THREADS) fill(float *x, int64_t width, int64_t stride, float value)
{
    for (int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x; i < width;
         i += (int64_t)gridDim.y * THREADS)
        x[blockIdx.x * stride + i] = value;
}

int run_pool(const t3v_seg_pool *p, void *stream)
{
    int64_t rows = (p->n_k + p->pool - 1) / p->pool,
            parts = p->pool > 1 ? (p->width + THREADS - 1) / THREADS : 1;
    return t3v_launch(pool, dim3((unsigned)rows, (unsigned)parts), dim3(THREADS), (size_t)0, stream, *p);
}

int run_joint(const t3v_seg_joint *j, void *stream)
{
    return t3v_launch(joint, dim3((unsigned)((j->n_q + 3) / 4), (unsigned)j->heads), dim3(THREADS), (size_t)0,
                      stream, *j);
}

int run_keep(const t3v_seg_keep *k, void *stream)
{
    return t3v_launch(keep, dim3((unsigned)((k->n_q + 3) / 4), (unsigned)k->heads), dim3(THREADS), (size_t)0,
                      stream, *k);
}

int run_stats(const t3v_seg_stats *s, void *stream)
{
    return t3v_launch(stats, dim3((unsigned)((s->n_q + 3) / 4), (unsigned)s->heads), dim3(THREADS), (size_t)0,
                      stream, *s);
}

int run_unpool(const t3v_seg_unpool *u, void *stream)
{
    return t3v_launch(unpool, dim3((unsigned)u->n_k, (unsigned)((u->width + THREADS - 1) / THREADS)),
                      dim3(THREADS), (size_t)0, stream, *u);
}

int run_fill(float *x, int64_t rows, int64_t width, int64_t stride, float value, void *stream)
{
    int64_t parts = (width + THREADS - 1) / THREADS;
    return t3v_launch(fill, dim3((unsigned)rows, (unsigned)(parts < 1024 ? parts : 1024)), dim3(THREADS),
                      (size_t)0, stream, x, width, stride, value);
}
} // namespace

extern "C" {
int t3v_seg_forward_hopper(const t3v_seg_forward *f, void *stream);
int t3v_seg_forward_tensor(const t3v_seg_forward *f, void *stream);
int t3v_seg_forward_plain(const t3v_seg_forward *f, void *stream);
int t3v_seg_pick_blocks(const t3v_seg_pick *p, void *stream);
int t3v_seg_backward_queries(const t3v_seg_backward *b, void *stream);
int t3v_seg_backward_keys(const t3v_seg_backward *b, void *stream);
int t3v_seg_backward_queries_plain(const t3v_seg_backward *b, void *stream);
int t3v_seg_backward_keys_plain(const t3v_seg_backward *b, void *stream);
int t3v_seg_gather(const t3v_seg_rows *r, void *stream);
int t3v_seg_scatter(const t3v_seg_rows *r, void *stream);
int t3v_seg_phi_values(const t3v_seg_phi *p, void *stream);
int t3v_seg_phi_slopes(const t3v_seg_phi *p, void *stream);
int t3v_seg_phi_sums(const t3v_seg_phi *p, float *x, void *stream);
int t3v_seg_row_dots(const t3v_seg_dots *d, void *stream);
int t3v_seg_peak_plain(const t3v_seg_peak *p, void *stream);
int t3v_seg_peak_gradients(const t3v_seg_peak_back *p, void *stream);
const t3v_seg_kernels t3v_seg_device = {t3v_seg_forward_hopper,
                                        t3v_seg_forward_tensor,
                                        t3v_seg_forward_plain,
                                        run_pool,
                                        t3v_seg_pick_blocks,
                                        run_joint,
                                        run_stats,
                                        t3v_seg_backward_queries,
                                        t3v_seg_backward_keys,
                                        t3v_seg_backward_queries_plain,
                                        t3v_seg_backward_keys_plain,
                                        run_unpool,
                                        run_fill,
                                        run_keep,
                                        t3v_seg_gather,
                                        t3v_seg_scatter,
                                        t3v_seg_phi_values,
                                        t3v_seg_phi_slopes,
                                        t3v_seg_phi_sums,
                                        t3v_seg_row_dots,
                                        t3v_seg_peak_plain,
                                        t3v_seg_peak_gradients};

t3v_seg_kernels t3v_seg_device_for(int major, int minor)
{
    const char *as = getenv("T3V_CARD");
    t3v_seg_kernels all = t3v_seg_device;
    if (major != 9 || minor || (as && !strcmp(as, "sm_80"))) all.forward_hopper = nullptr;
    return all;
}
}
