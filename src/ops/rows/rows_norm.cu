/* SPDX-License-Identifier: Apache-2.0 */
/* Norms, softmax and sums over rows on a GPU: a block of threads for a row. Contracts: ops/rows/rows.h. */
#include <math.h>

#include "cuda/module.h"
#include "cuda/rows.cuh"

namespace
{
enum { PART_ROWS = 512 }; /* summed by one thread of a column sum */

/* ---- rotary embedding ---- */

__device__ __forceinline__ void angle(const t3v_rope &rope, int64_t token, int64_t column, float *c, float *s)
{
    int64_t hw = rope.grid[1] * rope.grid[2];
    int64_t pos[3] = {token / hw, token / rope.grid[2] % rope.grid[1], token % rope.grid[2]};
    int64_t k = column % rope.hd / 2;
    int a = k < rope.pairs[0] ? 0 : k < rope.pairs[0] + rope.pairs[1] ? 1 : 2;
    if (a > 0) k -= rope.pairs[0];
    if (a > 1) k -= rope.pairs[1];
    int64_t at = pos[a] * 2 * rope.pairs[a] + 2 * k;
    *c = rope.cos[a][at];
    *s = rope.sin[a][at + 1];
}

/* ---- layer norm ---- */

struct layer_args {
    rows_in x, dy;
    rows_out y; /* or dx */
    const float *scale, *shift;
    float base, eps; /* s = base + scale */
    int64_t d;
    float *stats; /* [n][2]: mean, 1 / deviation; NULL: not wanted */
};

template <int W>
__device__ void moments(const rows_in &x, int64_t row, int64_t d, float eps, float *mean, float *rstd)
{
    float v[W], sum = 0, square = 0;
    for (int64_t j = W * threadIdx.x; j < d; j += W * ROWS_THREADS) {
        rows_load<W>(x, row + j, v);
        for (int e = 0; e < W; e++) sum += v[e];
    }
    *mean = rows_sum(sum) / (float)d;
    for (int64_t j = W * threadIdx.x; j < d; j += W * ROWS_THREADS) {
        rows_load<W>(x, row + j, v);
        for (int e = 0; e < W; e++) square += (v[e] - *mean) * (v[e] - *mean);
    }
    *rstd = 1 / sqrtf(rows_sum(square) / (float)d + eps);
}

template <int W> __global__ void __launch_bounds__(ROWS_THREADS) layernorm(const layer_args a)
{
    const int64_t row = blockIdx.x * a.d;
    float mean, rstd, v[W], s[W], t[W];
    moments<W>(a.x, row, a.d, a.eps, &mean, &rstd);
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        rows_load<W>(a.x, row + j, v);
        rows_load_or<W>(a.scale, j, a.scale ? 0 : 1 - a.base, s);
        rows_load_or<W>(a.shift, j, 0, t);
        for (int e = 0; e < W; e++) v[e] = (v[e] - mean) * rstd * (a.base + s[e]) + t[e];
        rows_store<W>(a.y, row + j, v);
    }
}

template <int W> __global__ void __launch_bounds__(ROWS_THREADS) layernorm_dx(const layer_args a)
{
    const int64_t row = blockIdx.x * a.d;
    float mean, rstd, v[W], g[W], s[W], sum = 0, with_x = 0;
    moments<W>(a.x, row, a.d, a.eps, &mean, &rstd);
    if (a.stats && threadIdx.x == 0) a.stats[2 * blockIdx.x] = mean, a.stats[2 * blockIdx.x + 1] = rstd;
    if (!a.y.data) return;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        rows_load<W>(a.x, row + j, v);
        rows_load<W>(a.dy, row + j, g);
        rows_load_or<W>(a.scale, j, a.scale ? 0 : 1 - a.base, s);
        for (int e = 0; e < W; e++) {
            float w = g[e] * (a.base + s[e]);
            sum += w;
            with_x += w * (v[e] - mean) * rstd;
        }
    }
    sum = rows_sum(sum) / (float)a.d;
    with_x = rows_sum(with_x) / (float)a.d;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        rows_load<W>(a.x, row + j, v);
        rows_load<W>(a.dy, row + j, g);
        rows_load_or<W>(a.scale, j, a.scale ? 0 : 1 - a.base, s);
        for (int e = 0; e < W; e++)
            v[e] = rstd * (g[e] * (a.base + s[e]) - sum - (v[e] - mean) * rstd * with_x);
        rows_store<W>(a.y, row + j, v);
    }
}

/* ---- RMS norm with rotary embedding ---- */

struct qk_args {
    rows_in x, dy;
    rows_out y; /* or dx */
    int64_t ldx, ldy, lddy, d, first;
    const float *g;
    float eps;
    bool rotate;
    t3v_rope rope;
    float *scales; /* [n]: 1 / root mean square; NULL: not wanted */
};

template <int W> __device__ float rms_scale(const rows_in &x, int64_t row, int64_t d, float eps)
{
    float v[W], sum = 0;
    for (int64_t j = W * threadIdx.x; j < d; j += W * ROWS_THREADS) {
        rows_load<W>(x, row + j, v);
        for (int e = 0; e < W; e++) sum += v[e] * v[e];
    }
    return 1 / sqrtf(rows_sum(sum) / (float)d + eps);
}

/* W = 2 takes elements in pairs, for rows that are not aligned. */
template <int W> struct width {
    enum { load = W == 8 ? 8 : 1 };
};

template <int W> __device__ __forceinline__ void load_pairs(const rows_in &x, int64_t i, float v[W])
{
    if (W == 8) rows_load<W>(x, i, v);
    else
        for (int e = 0; e < W; e++) v[e] = rows_get(x, i + e);
}

template <int W> __device__ __forceinline__ void store_pairs(const rows_out &y, int64_t i, float v[W])
{
    if (W == 8) rows_store<W>(y, i, v);
    else
        for (int e = 0; e < W; e++) rows_put(y, i + e, v[e]);
}

/* d is even when it rotates, and W then 8 or 2. */
template <int W> __global__ void __launch_bounds__(ROWS_THREADS) qk_norm_rope(const qk_args a)
{
    const int64_t row = blockIdx.x * a.ldx, out = blockIdx.x * a.ldy, token = a.first + blockIdx.x;
    float v[W], k = a.g ? rms_scale<width<W>::load>(a.x, row, a.d, a.eps) : 1;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        load_pairs<W>(a.x, row + j, v);
        for (int e = 0; e < W; e++) v[e] *= k * (a.g ? a.g[j + e] : 1);
        for (int e = 0; e + 1 < W && a.rotate; e += 2) {
            float c, s, u = v[e], w = v[e + 1];
            angle(a.rope, token, j + e, &c, &s);
            v[e] = u * c - w * s;
            v[e + 1] = u * s + w * c;
        }
        store_pairs<W>(a.y, out + j, v);
    }
}

/* The gradient before the rotation. */
template <int W> __device__ void unrotate(const qk_args &a, int64_t token, int64_t j, float w[W])
{
    for (int e = 0; e + 1 < W && a.rotate; e += 2) {
        float c, s, u = w[e], v = w[e + 1];
        angle(a.rope, token, j + e, &c, &s);
        w[e] = u * c + v * s;
        w[e + 1] = v * c - u * s;
    }
}

template <int W> __global__ void __launch_bounds__(ROWS_THREADS) qk_dx(const qk_args a)
{
    const int64_t row = blockIdx.x * a.ldx, in = blockIdx.x * a.lddy, out = blockIdx.x * a.ldy,
                  token = a.first + blockIdx.x;
    float v[W], w[W], sum = 0, k = a.g ? rms_scale<width<W>::load>(a.x, row, a.d, a.eps) : 1;
    if (a.scales && threadIdx.x == 0) a.scales[blockIdx.x] = k;
    if (!a.y.data) return;
    for (int64_t j = W * threadIdx.x; j < a.d && a.g; j += W * ROWS_THREADS) {
        load_pairs<W>(a.x, row + j, v);
        load_pairs<W>(a.dy, in + j, w);
        unrotate<W>(a, token, j, w);
        for (int e = 0; e < W; e++) sum += w[e] * a.g[j + e] * v[e];
    }
    const float m = a.g ? rows_sum(sum) * k * k / (float)a.d : 0;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        load_pairs<W>(a.dy, in + j, w);
        unrotate<W>(a, token, j, w);
        if (a.g) {
            load_pairs<W>(a.x, row + j, v);
            for (int e = 0; e < W; e++) w[e] = k * (w[e] * a.g[j + e] - v[e] * m);
        }
        store_pairs<W>(a.y, out + j, w);
    }
}

/* ---- the VAE's norm ---- */

struct vae_args {
    rows_in x, dy;
    rows_out y;
    const float *gamma;
    bool silu;
    int64_t n, d;
    float *norms; /* [n]: 1 / norm, negative where it is below the floor; NULL */
};

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }
__device__ __forceinline__ float silu_slope(float x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

/* A warp for a row: rows are short here. */
__device__ __forceinline__ float warp_sum(float v)
{
    for (int o = 16; o; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

template <int W> __global__ void __launch_bounds__(ROWS_THREADS) vae_norm(const vae_args a)
{
    const int64_t r = (int64_t)blockIdx.x * ROWS_WARPS + threadIdx.x / 32, row = r * a.d;
    const int lane = (int)threadIdx.x % 32;
    if (r >= a.n) return; /* the whole warp */
    float v[W], g[W], sum = 0;
    for (int64_t j = W * lane; j < a.d; j += W * 32) {
        rows_load<W>(a.x, row + j, v);
        for (int e = 0; e < W; e++) sum += v[e] * v[e];
    }
    const float norm = sqrtf(warp_sum(sum)), k = sqrtf((float)a.d) / (norm < 1e-12f ? 1e-12f : norm);
    for (int64_t j = W * lane; j < a.d; j += W * 32) {
        rows_load<W>(a.x, row + j, v);
        rows_load<W>(rows_in{a.gamma, T3V_F32}, j, g);
        for (int e = 0; e < W; e++) {
            v[e] *= k * g[e];
            if (a.silu) v[e] *= sigmoid(v[e]);
        }
        rows_store<W>(a.y, row + j, v);
    }
}

__global__ void __launch_bounds__(ROWS_THREADS) vae_norm_dx(const vae_args a)
{
    const int64_t r = (int64_t)blockIdx.x * ROWS_WARPS + threadIdx.x / 32, row = r * a.d;
    const int lane = (int)threadIdx.x % 32;
    if (r >= a.n) return;
    float sum = 0, with_x = 0;
    for (int64_t j = lane; j < a.d; j += 32) sum += rows_get(a.x, row + j) * rows_get(a.x, row + j);
    const float norm = sqrtf(warp_sum(sum)), root = sqrtf((float)a.d);
    const bool held = norm < 1e-12f;
    const float inv = 1 / (held ? 1e-12f : norm);
    if (a.norms && lane == 0) a.norms[r] = inv;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) with_x = held ? 0 : warp_sum(with_x);
        for (int64_t j = lane; j < a.d; j += 32) {
            float h = rows_get(a.x, row + j) * inv, w = rows_get(a.dy, row + j) * root * a.gamma[j];
            if (a.silu) w *= silu_slope(h * root * a.gamma[j]);
            if (pass == 0) with_x += w * h;
            else if (a.y.data) rows_put(a.y, row + j, (w - h * with_x) * inv);
        }
    }
}

/* ---- softmax ---- */

struct softmax_args {
    rows_in x, dy;
    rows_out y;
    float scale;
    const float *bias;
    int64_t bias_rows, d;
};

__global__ void __launch_bounds__(ROWS_THREADS) softmax(const softmax_args a)
{
    const int64_t row = blockIdx.x * a.d;
    const float *bias = a.bias ? a.bias + blockIdx.x % a.bias_rows * a.d : nullptr;
    float most = -INFINITY, sum = 0;
    for (int64_t j = threadIdx.x; j < a.d; j += ROWS_THREADS) {
        float s = rows_get(a.x, row + j) * a.scale + (bias ? bias[j] : 0);
        most = s > most || s != s ? s : most;
    }
    most = rows_most(most);
    for (int64_t j = threadIdx.x; j < a.d; j += ROWS_THREADS)
        sum += expf(rows_get(a.x, row + j) * a.scale + (bias ? bias[j] : 0) - most);
    sum = rows_sum(sum);
    for (int64_t j = threadIdx.x; j < a.d; j += ROWS_THREADS)
        rows_put(a.y, row + j, expf(rows_get(a.x, row + j) * a.scale + (bias ? bias[j] : 0) - most) / sum);
}

/* x: what softmax gave. */
__global__ void __launch_bounds__(ROWS_THREADS) softmax_dx(const softmax_args a)
{
    const int64_t row = blockIdx.x * a.d;
    float sum = 0;
    for (int64_t j = threadIdx.x; j < a.d; j += ROWS_THREADS)
        sum += rows_get(a.x, row + j) * rows_get(a.dy, row + j);
    sum = rows_sum(sum);
    for (int64_t j = threadIdx.x; j < a.d; j += ROWS_THREADS)
        rows_put(a.y, row + j, a.scale * rows_get(a.x, row + j) * (rows_get(a.dy, row + j) - sum));
}

/* ---- sums over rows ---- */

/* part[b][j] = the sum over PART_ROWS rows of f(row, j). */
template <class F>
__global__ void __launch_bounds__(ROWS_THREADS) column_parts(const F f, int64_t n, int64_t d, float *part)
{
    const int64_t j = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x,
                  first = (int64_t)blockIdx.y * PART_ROWS,
                  last = first + PART_ROWS < n ? first + PART_ROWS : n;
    if (j >= d) return;
    float sum = 0;
    for (int64_t r = first; r < last; r++) sum += f(r, j);
    part[(int64_t)blockIdx.y * d + j] = sum;
}

__global__ void __launch_bounds__(ROWS_THREADS)
    column_totals(const float *part, int64_t parts, int64_t d, float *to)
{
    const int64_t j = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x;
    if (j >= d) return;
    float sum = 0;
    for (int64_t p = 0; p < parts; p++) sum += part[p * d + j];
    to[j] += sum;
}

/* to[j] += sum over rows. `part`: column_floats(n, d). */
int64_t column_floats(int64_t n, int64_t d) { return (n + PART_ROWS - 1) / PART_ROWS * d; }

template <class F> int column_sums(const F &f, int64_t n, int64_t d, float *part, float *to)
{
    const unsigned across = rows_blocks(d, ROWS_THREADS), parts = rows_blocks(n, PART_ROWS);
    int e = t3v_launch(column_parts<F>, dim3(across, parts), dim3(ROWS_THREADS), 0, t3v_cuda_stream, f, n, d,
                       part);
    return e ? e
             : t3v_launch(column_totals, dim3(across), dim3(ROWS_THREADS), 0, t3v_cuda_stream,
                          (const float *)part, (int64_t)parts, d, to);
}

struct plain_column {
    rows_in dy;
    int64_t d;
    __device__ float operator()(int64_t r, int64_t j) const { return rows_get(dy, r * d + j); }
};

struct scale_column {
    rows_in dy, x;
    const float *stats;
    int64_t d;
    __device__ float operator()(int64_t r, int64_t j) const
    {
        return rows_get(dy, r * d + j) * (rows_get(x, r * d + j) - stats[2 * r]) * stats[2 * r + 1];
    }
};

struct qk_column {
    qk_args a;
    __device__ float operator()(int64_t r, int64_t j) const
    {
        int64_t even = a.rotate ? j & ~(int64_t)1 : j;
        float w[2] = {rows_get(a.dy, r * a.lddy + even), 0};
        if (a.rotate) {
            w[1] = rows_get(a.dy, r * a.lddy + even + 1);
            unrotate<2>(a, a.first + r, even, w);
        }
        return w[j - even] * rows_get(a.x, r * a.ldx + j) * a.scales[r];
    }
};

struct vae_column {
    vae_args a;
    __device__ float operator()(int64_t r, int64_t j) const
    {
        float h = rows_get(a.x, r * a.d + j) * a.norms[r] * sqrtf((float)a.d);
        return rows_get(a.dy, r * a.d + j) * (a.silu ? silu_slope(h * a.gamma[j]) : 1) * h;
    }
};

struct gate_column {
    const float *dout;
    rows_in y;
    int64_t d;
    __device__ float operator()(int64_t r, int64_t j) const
    {
        return dout[r * d + j] * rows_get(y, r * d + j);
    }
};

int rows_run(void (*wide)(const layer_args), void (*narrow)(const layer_args), const layer_args &a, int64_t n)
{
    bool ok = a.d % 8 == 0 && rows_aligned(a.x.data) && rows_aligned(a.y.data) && rows_aligned(a.scale) &&
              rows_aligned(a.shift) && rows_aligned(a.dy.data);
    return t3v_launch(ok ? wide : narrow, dim3((unsigned)n), dim3(ROWS_THREADS), 0, t3v_cuda_stream, a);
}

/* Eight at a time, in pairs, or one by one. */
typedef void qk_kernel(const qk_args);
int qk_run(qk_kernel *wide, qk_kernel *pairs, qk_kernel *narrow, const qk_args &a, int64_t n)
{
    bool ok = a.d % 8 == 0 && a.ldx % 8 == 0 && a.ldy % 8 == 0 && a.lddy % 8 == 0 && rows_aligned(a.x.data) &&
              rows_aligned(a.y.data) && rows_aligned(a.dy.data);
    return t3v_launch(ok         ? wide
                      : a.rotate ? pairs
                                 : narrow,
                      dim3((unsigned)n), dim3(ROWS_THREADS), 0, t3v_cuda_stream, a);
}
} // namespace

extern "C" void t3v_cuda_rows_layernorm(void *y, t3v_dtype yt, const float *x, const float *scale,
                                        const float *shift, bool one_plus, float eps, int64_t n, int64_t d)
{
    layer_args a = {{x, T3V_F32}, {x, T3V_F32}, {y, yt, false}, scale, shift, one_plus ? 1.0f : 0.0f, eps, d,
                    nullptr};
    if (n > 0 && d > 0) t3v_cuda_keep(rows_run(layernorm<8>, layernorm<1>, a, n), "layer norm");
}

extern "C" t3v_status t3v_cuda_rows_layernorm_bwd(float *dx, bool accumulate, float *dscale, float *dshift,
                                                  const void *dy, t3v_dtype dyt, const float *x,
                                                  const float *scale, bool one_plus, float eps, int64_t n,
                                                  int64_t d)
{
    if (n <= 0 || d <= 0) return T3V_OK;
    float *stats = (float *)t3v_cuda_work((size_t)(2 * n + column_floats(n, d)) * sizeof *stats),
          *part = stats + 2 * n;
    if (!stats) return T3V_E_NOMEM;
    /* The column sums read dy before dx, which may be dy, is written. */
    layer_args a = {{x, T3V_F32}, {dy, dyt}, {nullptr, T3V_F32, accumulate},
                    scale,        nullptr,   one_plus ? 1.0f : 0.0f,
                    eps,          d,         stats};
    int e = 0;
    if (dscale) {
        e = rows_run(layernorm_dx<8>, layernorm_dx<1>, a, n);
        if (!e) e = column_sums(scale_column{a.dy, a.x, stats, d}, n, d, part, dscale);
    }
    if (!e && dshift) e = column_sums(plain_column{a.dy, d}, n, d, part, dshift);
    a.y.data = dx, a.stats = nullptr;
    if (!e && dx) e = rows_run(layernorm_dx<8>, layernorm_dx<1>, a, n);
    return t3v_cuda_status(e, "the gradient of a layer norm");
}

extern "C" void t3v_cuda_rows_qk_norm_rope(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt,
                                           int64_t ldx, const float *g, float eps, const t3v_rope *rope,
                                           int64_t first, int64_t n, int64_t d)
{
    qk_args a = {{x, xt}, {x, xt}, {y, yt, false},  ldx, ldy,    ldx, d, first,
                 g,       eps,     rope != nullptr, {},  nullptr};
    if (rope) a.rope = *rope;
    if (n > 0 && d > 0)
        t3v_cuda_keep(qk_run(qk_norm_rope<8>, qk_norm_rope<2>, qk_norm_rope<1>, a, n), "RMS norm");
}

extern "C" t3v_status t3v_cuda_rows_qk_norm_rope_bwd(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate,
                                                     float *dg, const void *dy, t3v_dtype dyt, int64_t lddy,
                                                     const void *x, t3v_dtype xt, int64_t ldx, const float *g,
                                                     float eps, const t3v_rope *rope, int64_t first,
                                                     int64_t n, int64_t d)
{
    if (n <= 0 || d <= 0) return T3V_OK;
    qk_args a = {
        {x, xt}, {dy, dyt}, {nullptr, dxt, accumulate}, ldx, lddx, lddy, d, first, g, eps, rope != nullptr,
        {},      nullptr};
    if (rope) a.rope = *rope;
    int e = 0;
    if (g && dg) {
        a.scales = (float *)t3v_cuda_work((size_t)(n + column_floats(n, d)) * sizeof(float));
        if (!a.scales) return T3V_E_NOMEM;
        e = qk_run(qk_dx<8>, qk_dx<2>, qk_dx<1>, a, n);
        if (!e) e = column_sums(qk_column{a}, n, d, a.scales + n, dg);
        a.scales = nullptr;
    }
    a.y.data = dx;
    if (!e && dx) e = qk_run(qk_dx<8>, qk_dx<2>, qk_dx<1>, a, n);
    return t3v_cuda_status(e, "the gradient of an RMS norm");
}

extern "C" void t3v_cuda_rows_rmsnorm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *g,
                                      float eps, int64_t n, int64_t d)
{
    t3v_cuda_rows_qk_norm_rope(y, yt, d, x, xt, d, g, eps, nullptr, 0, n, d);
}

extern "C" t3v_status t3v_cuda_rows_rmsnorm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dg,
                                                const void *dy, t3v_dtype dyt, const void *x, t3v_dtype xt,
                                                const float *g, float eps, int64_t n, int64_t d)
{
    return t3v_cuda_rows_qk_norm_rope_bwd(dx, dxt, d, accumulate, dg, dy, dyt, d, x, xt, d, g, eps, nullptr,
                                          0, n, d);
}

extern "C" void t3v_cuda_rows_vae_norm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma,
                                       bool silu, int64_t n, int64_t d)
{
    vae_args a = {{x, xt}, {x, xt}, {y, yt, false}, gamma, silu, n, d, nullptr};
    bool wide = d % 8 == 0 && rows_aligned(x) && rows_aligned(y) && rows_aligned(gamma);
    if (n > 0 && d > 0)
        t3v_cuda_keep(t3v_launch(wide ? vae_norm<8> : vae_norm<1>, dim3(rows_blocks(n, ROWS_WARPS)),
                                 dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                      "the VAE's norm");
}

extern "C" t3v_status t3v_cuda_rows_vae_norm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma,
                                                 const void *dy, t3v_dtype dyt, const void *x, t3v_dtype xt,
                                                 const float *gamma, bool silu, int64_t n, int64_t d)
{
    if (n <= 0 || d <= 0) return T3V_OK;
    vae_args a = {{x, xt}, {dy, dyt}, {nullptr, dxt, accumulate}, gamma, silu, n, d, nullptr};
    const dim3 blocks(rows_blocks(n, ROWS_WARPS)), threads(ROWS_THREADS);
    int e = 0;
    if (dgamma) {
        a.norms = (float *)t3v_cuda_work((size_t)(n + column_floats(n, d)) * sizeof(float));
        if (!a.norms) return T3V_E_NOMEM;
        e = t3v_launch(vae_norm_dx, blocks, threads, 0, t3v_cuda_stream, a);
        if (!e) e = column_sums(vae_column{a}, n, d, a.norms + n, dgamma);
        a.norms = nullptr;
    }
    a.y.data = dx;
    if (!e && dx) e = t3v_launch(vae_norm_dx, blocks, threads, 0, t3v_cuda_stream, a);
    return t3v_cuda_status(e, "the gradient of the VAE's norm");
}

extern "C" void t3v_cuda_rows_softmax(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale,
                                      const float *bias, int64_t bias_rows, int64_t n, int64_t d)
{
    softmax_args a = {{x, xt}, {x, xt}, {y, yt, false}, scale, bias, bias_rows, d};
    if (n > 0 && d > 0)
        t3v_cuda_keep(t3v_launch(softmax, dim3((unsigned)n), dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                      "softmax");
}

extern "C" void t3v_cuda_rows_softmax_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy,
                                          t3v_dtype dyt, const void *y, t3v_dtype yt, float scale, int64_t n,
                                          int64_t d)
{
    softmax_args a = {{y, yt}, {dy, dyt}, {dx, dxt, accumulate}, scale, nullptr, 1, d};
    if (n > 0 && d > 0)
        t3v_cuda_keep(t3v_launch(softmax_dx, dim3((unsigned)n), dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                      "the gradient of softmax");
}

extern "C" t3v_status t3v_cuda_rows_sum(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d)
{
    if (n <= 0 || d <= 0) return T3V_OK;
    float *part = (float *)t3v_cuda_work((size_t)column_floats(n, d) * sizeof *part);
    return part ? t3v_cuda_status(column_sums(plain_column{{dy, dyt}, d}, n, d, part, db), "a sum of rows")
                : T3V_E_NOMEM;
}

namespace
{
struct gate_args {
    float *out;
    rows_out dy;
    const float *x, *gate;
    rows_in y;
    int64_t d;
};

template <int W> __global__ void __launch_bounds__(ROWS_THREADS) gate_residual(const gate_args a)
{
    const int64_t row = blockIdx.x * a.d;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        float v[W], y[W], g[W];
        rows_load<W>(rows_in{a.x, T3V_F32}, row + j, v);
        rows_load<W>(a.y, row + j, y);
        rows_load_or<W>(a.gate, j, 1, g);
        for (int e = 0; e < W; e++) v[e] += g[e] * y[e];
        rows_store<W>(rows_out{a.out, T3V_F32, false}, row + j, v);
    }
}

/* x: the gradient of the result; out: NULL, or what it is added to. */
template <int W> __global__ void __launch_bounds__(ROWS_THREADS) gate_residual_dx(const gate_args a)
{
    const int64_t row = blockIdx.x * a.d;
    for (int64_t j = W * threadIdx.x; j < a.d; j += W * ROWS_THREADS) {
        float v[W], g[W];
        rows_load<W>(rows_in{a.x, T3V_F32}, row + j, v);
        rows_load_or<W>(a.gate, j, 1, g);
        for (int e = 0; e < W; e++) g[e] *= v[e];
        if (a.dy.data) rows_store<W>(a.dy, row + j, g);
        if (a.out) rows_store<W>(rows_out{a.out, T3V_F32, true}, row + j, v);
    }
}
} // namespace

extern "C" void t3v_cuda_rows_gate_residual(float *out, const float *x, const float *gate, const void *y,
                                            t3v_dtype yt, int64_t n, int64_t d)
{
    gate_args a = {out, {nullptr, T3V_F32, false}, x, gate, {y, yt}, d};
    bool wide = d % 8 == 0 && rows_aligned(out) && rows_aligned(x) && rows_aligned(gate) && rows_aligned(y);
    if (n > 0 && d > 0)
        t3v_cuda_keep(t3v_launch(wide ? gate_residual<8> : gate_residual<1>, dim3((unsigned)n),
                                 dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                      "a gated sum");
}

extern "C" t3v_status t3v_cuda_rows_gate_residual_bwd(float *dx, void *dy, t3v_dtype dyt, bool accumulate,
                                                      float *dgate, const float *dout, const float *gate,
                                                      const void *y, t3v_dtype yt, int64_t n, int64_t d)
{
    if (n <= 0 || d <= 0) return T3V_OK;
    gate_args a = {dx, {dy, dyt, accumulate}, dout, gate, {y, yt}, d};
    int e = 0;
    if (dgate) {
        float *part = (float *)t3v_cuda_work((size_t)column_floats(n, d) * sizeof *part);
        if (!part) return T3V_E_NOMEM;
        e = column_sums(gate_column{dout, a.y, d}, n, d, part, dgate);
    }
    bool wide = d % 8 == 0 && rows_aligned(dx) && rows_aligned(dy) && rows_aligned(dout) &&
                rows_aligned(gate);
    if (!e && (dx || dy))
        e = t3v_launch(wide ? gate_residual_dx<8> : gate_residual_dx<1>, dim3((unsigned)n),
                       dim3(ROWS_THREADS), 0, t3v_cuda_stream, a);
    return t3v_cuda_status(e, "the gradient of a gated sum");
}
