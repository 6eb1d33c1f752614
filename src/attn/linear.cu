/* SPDX-License-Identifier: Apache-2.0 */
/* Linear terms on a GPU: what stands between their dense products, as attn/linear.c has it. */
#include "attn/segments.cuh"

namespace
{
enum { THREADS = 128, WARPS = THREADS / 32 };

__device__ __forceinline__ float load(const void *base, t3v_dtype type, int64_t at)
{
    return type == T3V_F32 ? ((const float *)base)[at] : t3v_bf16_float(((const uint16_t *)base)[at]);
}

/* Number x of the rows of head y. */
__global__ void __launch_bounds__(THREADS) gather(const t3v_seg_rows r)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = e / r.width;
    const int d = (int)(e % r.width), head = r.head_first + (int)blockIdx.y;
    if (i >= r.count) return;
    const int64_t token = seg_row(r.order, r.first + i);
    float factor = r.factor ? r.factor[head * r.n + token] : 1, v = 0;
    if (d < r.dim) v = load(r.x, r.type, token * r.stride + (int64_t)(head - r.x_first) * r.dim + d);
    else if (d == r.dim) v = r.delta ? -r.delta[head * r.n + token] : 1;
    r.rows[blockIdx.y * r.count * r.width + e] = factor * v;
}

__global__ void __launch_bounds__(THREADS) scatter(const t3v_seg_rows r)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = e / r.width;
    const int d = (int)(e % r.width), head = r.head_first + (int)blockIdx.y;
    if (i >= r.count) return;
    const int64_t token = seg_row(r.order, r.first + i);
    float v = r.rows[blockIdx.y * r.count * r.width + e];
    if (d < r.dim) {
        float *x = (float *)r.x + token * r.stride + (int64_t)(head - r.x_first) * r.dim + d;
        *x = r.add ? *x + v : v;
    } else if (d == r.dim && r.one) {
        r.one[head * r.n + token] = v;
    }
}

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

__device__ __forceinline__ float last_value(t3v_phi_last last, float u)
{
    if (last == T3V_PHI_SOFTPLUS) return u > 20 ? u : log1pf(expf(u));
    if (last == T3V_PHI_RELU) return (u > 0 ? u : 0) + 1e-6f;
    if (last == T3V_PHI_ELU) return u > 0 ? 1 + u : expf(u);
    return u;
}

__device__ __forceinline__ float last_slope(t3v_phi_last last, float u)
{
    if (last == T3V_PHI_SOFTPLUS) return sigmoid(u);
    if (last == T3V_PHI_RELU) return u > 0 ? 1 : 0;
    if (last == T3V_PHI_ELU) return u > 0 ? 1 : expf(u);
    return 1;
}

__global__ void __launch_bounds__(THREADS) phi_values(const t3v_seg_phi p)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = e / p.features;
    const int j = (int)(e % p.features);
    if (i >= p.count) return;
    const int64_t at = blockIdx.y * p.count * p.features + e;
    float u = p.x ? p.x[(blockIdx.y * p.count + i) * p.dim + j % p.dim] : p.u[at];
    if (p.bias) u += p.bias[(int64_t)blockIdx.y * p.features + j];
    p.u[at] = u;
    if (p.hidden) {
        p.f[at] = u * sigmoid(u);
        return;
    }
    float psi = last_value(p.last, u), x = psi;
    for (int k = 0; k < j / p.dim; k++) x *= psi;
    p.f[at] = x;
}

__global__ void __launch_bounds__(THREADS) phi_slopes(const t3v_seg_phi p)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (e >= p.count * p.features) return;
    const int64_t at = blockIdx.y * p.count * p.features + e;
    const int part = (int)(e % p.features) / p.dim;
    float u = p.u[at], x;
    if (p.hidden) {
        float s = sigmoid(u);
        x = s * (1 + u * (1 - s));
    } else {
        float psi = last_value(p.last, u);
        x = (float)(part + 1) * last_slope(p.last, u);
        for (int k = 0; k < part; k++) x *= psi;
    }
    p.f[at] *= x;
}

__global__ void __launch_bounds__(THREADS) phi_sums(const t3v_seg_phi p, float *x)
{
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y * p.count + e / p.dim;
    if (e >= p.count * p.dim) return;
    float sum = 0;
    for (int j = (int)(e % p.dim); j < p.features; j += p.dim) sum += p.f[row * p.features + j];
    x[blockIdx.y * p.count * p.dim + e] = sum;
}

/* A warp for a row. */
__global__ void __launch_bounds__(THREADS) row_dots(const t3v_seg_dots d)
{
    const t3v_seg_rows &r = d.rows;
    const int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= r.count) return;
    const int64_t at = (blockIdx.y * r.count + i) * r.width;
    float sum = 0;
    for (int j = (int)threadIdx.x % 32; j < r.width; j += 32) sum = fmaf(d.a[at + j], d.b[at + j], sum);
#pragma unroll
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    if (threadIdx.x % 32 == 0)
        d.to[(r.head_first + (int)blockIdx.y) * r.n + seg_row(r.order, r.first + i)] = sum;
}

/* ---- what the largest score passes on ---- */

/* Does the row, head * n_q + query, have its largest score in this term? */
__device__ __forceinline__ bool owns(const t3v_seg_peak_back &p, int64_t at)
{
    float mine = p.by.top[p.index][at];
    if (p.key[at] < 0) return false;
    for (int t = 0; t < p.by.terms; t++)
        if (t != p.by.linear && (t < p.index ? p.by.top[t][at] >= mine : p.by.top[t][at] > mine))
            return false;
    return true;
}

/* A warp for a query. */
__global__ void __launch_bounds__(THREADS) peak_queries(const t3v_seg_peak_back p)
{
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int head = p.in.head_first + (int)blockIdx.y;
    const int64_t at = head * p.in.n_q + row, column = (int64_t)head * p.in.dim;
    if (row >= p.in.n_q || !owns(p, at)) return;
    float s = p.slope[at] * p.in.scale;
    for (int d = (int)threadIdx.x % 32; d < p.in.dim; d += 32)
        p.dq[row * p.dq_stride + column + d] += s * load(p.in.k, p.in.type,
                                                         p.key[at] * p.in.k_stride + column + d);
}

/* A warp for a key, which looks for its queries, 32 at a time. */
__global__ void __launch_bounds__(THREADS) peak_keys(const t3v_seg_peak_back p)
{
    enum { PARTS = 256 / 32 };
    const int64_t key = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int head = p.in.head_first + (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    const int64_t column = (int64_t)head * p.in.dim;
    if (key >= p.keys) return;
    float sum[PARTS];
    bool any = false;
#pragma unroll
    for (int i = 0; i < PARTS; i++) sum[i] = 0;
    for (int64_t first = 0; first < p.in.n_q; first += 32) {
        const int64_t row = first + lane, at = head * p.in.n_q + row;
        unsigned found = __ballot_sync(0xffffffffu, row < p.in.n_q && p.key[at] == key && owns(p, at));
        any = any || found;
        for (; found; found &= found - 1) {
            const int64_t mine = first + __ffs((int)found) - 1;
            float s = p.slope[head * p.in.n_q + mine] * p.in.scale;
#pragma unroll
            for (int i = 0; i < PARTS; i++)
                if (32 * i + lane < p.in.dim)
                    sum[i] += s * load(p.in.q, p.in.type, mine * p.in.q_stride + column + 32 * i + lane);
        }
    }
    if (!any) return;
#pragma unroll
    for (int i = 0; i < PARTS; i++)
        if (32 * i + lane < p.in.dim) p.dk[key * p.dk_stride + column + 32 * i + lane] += sum[i];
}

dim3 blocks(int64_t numbers, int64_t each, int heads)
{
    return dim3((unsigned)((numbers + each - 1) / each), (unsigned)heads);
}
} // namespace

extern "C" int t3v_seg_gather(const t3v_seg_rows *r, void *stream)
{
    return t3v_launch(gather, blocks(r->count * r->width, THREADS, r->heads), dim3(THREADS), (size_t)0,
                      stream, *r);
}

extern "C" int t3v_seg_scatter(const t3v_seg_rows *r, void *stream)
{
    return t3v_launch(scatter, blocks(r->count * r->width, THREADS, r->heads), dim3(THREADS), (size_t)0,
                      stream, *r);
}

extern "C" int t3v_seg_phi_values(const t3v_seg_phi *p, void *stream)
{
    return t3v_launch(phi_values, blocks(p->count * p->features, THREADS, p->heads), dim3(THREADS), (size_t)0,
                      stream, *p);
}

extern "C" int t3v_seg_phi_slopes(const t3v_seg_phi *p, void *stream)
{
    return t3v_launch(phi_slopes, blocks(p->count * p->features, THREADS, p->heads), dim3(THREADS), (size_t)0,
                      stream, *p);
}

extern "C" int t3v_seg_phi_sums(const t3v_seg_phi *p, float *x, void *stream)
{
    return t3v_launch(phi_sums, blocks(p->count * p->dim, THREADS, p->heads), dim3(THREADS), (size_t)0,
                      stream, *p, x);
}

extern "C" int t3v_seg_row_dots(const t3v_seg_dots *d, void *stream)
{
    return t3v_launch(row_dots, blocks(d->rows.count, WARPS, d->rows.heads), dim3(THREADS), (size_t)0, stream,
                      *d);
}

extern "C" int t3v_seg_peak_gradients(const t3v_seg_peak_back *p, void *stream)
{
    int e = t3v_launch(peak_queries, blocks(p->in.n_q, WARPS, p->in.heads), dim3(THREADS), (size_t)0, stream,
                       *p);
    return e ? e
             : t3v_launch(peak_keys, blocks(p->keys, WARPS, p->in.heads), dim3(THREADS), (size_t)0, stream,
                          *p);
}
