/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels over elements on a GPU, sums of all elements, and layouts. Contracts: ops/rows/rows.h. */
#include <math.h>

#include "cuda/module.h"
#include "cuda/rows.cuh"

namespace
{
/* ---- element by element: f.run<W>(i) does elements i .. i + W - 1 ---- */

template <class F> __global__ void __launch_bounds__(ROWS_THREADS) each(const F f, int64_t n, bool wide)
{
    const int64_t i = 8 * ((int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x);
    if (wide && i + 8 <= n) f.template run<8>(i);
    else
        for (int64_t k = i; k < i + 8 && k < n; k++) f.template run<1>(k);
}

template <class F> int each_run(const F &f, int64_t n, bool wide)
{
    if (n <= 0) return 0;
    return t3v_launch(each<F>, dim3(rows_blocks(n, 8 * ROWS_THREADS)), dim3(ROWS_THREADS), 0, t3v_cuda_stream,
                      f, n, wide);
}

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

enum { GELU_ERF = T3V_ROWS_EXP + 1 };

__device__ float act1(int f, float x)
{
    const float root = 0.79788456080286535588f;
    switch (f) {
    case T3V_ROWS_GELU_TANH: return x * sigmoid(2 * root * (x + 0.044715f * x * x * x));
    case T3V_ROWS_SILU: return x * sigmoid(x);
    case T3V_ROWS_SIGMOID: return sigmoid(x);
    case T3V_ROWS_TANH: return tanhf(x);
    case GELU_ERF: return (float)(x * 0.5 * erfc(-(double)x * 0.70710678118654752));
    default: return expf(x);
    }
}

__device__ float slope1(int f, float x)
{
    const float root = 0.79788456080286535588f;
    float s;
    switch (f) {
    case T3V_ROWS_GELU_TANH:
        s = sigmoid(2 * root * (x + 0.044715f * x * x * x));
        return s + x * s * (1 - s) * 2 * root * (1 + 3 * 0.044715f * x * x);
    case T3V_ROWS_SILU: s = sigmoid(x); return s * (1 + x * (1 - s));
    case T3V_ROWS_SIGMOID: s = sigmoid(x); return s * (1 - s);
    case T3V_ROWS_TANH: s = tanhf(x); return 1 - s * s;
    case GELU_ERF:
        return (float)(0.5 * erfc(-(double)x * 0.70710678118654752) +
                       x * 0.39894228040143268 * exp(-0.5 * (double)x * (double)x));
    default: return expf(x);
    }
}

struct activate {
    int f;
    rows_in x;
    rows_out y;
    template <int W> __device__ void run(int64_t i) const
    {
        float v[W];
        rows_load<W>(x, i, v);
        for (int e = 0; e < W; e++) v[e] = act1(f, v[e]);
        rows_store<W>(y, i, v);
    }
};

struct activate_dx {
    int f;
    rows_in x, dy;
    rows_out dx;
    template <int W> __device__ void run(int64_t i) const
    {
        float v[W], g[W];
        rows_load<W>(x, i, v);
        rows_load<W>(dy, i, g);
        for (int e = 0; e < W; e++) v[e] = g[e] * slope1(f, v[e]);
        rows_store<W>(dx, i, v);
    }
};

struct geglu {
    rows_in a, b;
    rows_out y;
    template <int W> __device__ void run(int64_t i) const
    {
        float u[W], v[W];
        rows_load<W>(a, i, u);
        rows_load<W>(b, i, v);
        for (int e = 0; e < W; e++) v[e] *= act1(T3V_ROWS_GELU_TANH, u[e]);
        rows_store<W>(y, i, v);
    }
};

struct geglu_dx {
    rows_in a, b, dy;
    rows_out da, db;
    template <int W> __device__ void run(int64_t i) const
    {
        float u[W], v[W], g[W], s[W];
        rows_load<W>(a, i, u);
        rows_load<W>(b, i, v);
        rows_load<W>(dy, i, g);
        for (int e = 0; e < W; e++) s[e] = g[e] * v[e] * slope1(T3V_ROWS_GELU_TANH, u[e]);
        if (da.data) rows_store<W>(da, i, s);
        for (int e = 0; e < W; e++) s[e] = g[e] * act1(T3V_ROWS_GELU_TANH, u[e]);
        if (db.data) rows_store<W>(db, i, s);
    }
};

struct lincomb {
    rows_in a, b;
    float alpha, beta;
    rows_out y;
    template <int W> __device__ void run(int64_t i) const
    {
        float u[W], v[W];
        rows_load<W>(a, i, u);
        for (int e = 0; e < W; e++) u[e] *= alpha;
        if (b.data) {
            rows_load<W>(b, i, v);
            for (int e = 0; e < W; e++) u[e] += beta * v[e];
        }
        rows_store<W>(y, i, u);
    }
};

struct adamw {
    float *p, *m, *v;
    uint16_t *p16;
    float *ema;
    const float *g;
    t3v_adamw o;
    float step_size, inv_bc2;
    template <int W> __device__ void run(int64_t i) const
    {
        float x[W], a[W], b[W], d[W];
        rows_load<W>(rows_in{p, T3V_F32}, i, x);
        rows_load<W>(rows_in{m, T3V_F32}, i, a);
        rows_load<W>(rows_in{v, T3V_F32}, i, b);
        rows_load<W>(rows_in{g, T3V_F32}, i, d);
        for (int e = 0; e < W; e++) {
            float q = o.grad_scale * d[e];
            a[e] = o.beta1 * a[e] + (1 - o.beta1) * q;
            b[e] = o.beta2 * b[e] + (1 - o.beta2) * q * q;
            x[e] = x[e] * (1 - o.lr * o.weight_decay) - step_size * a[e] / (sqrtf(b[e]) * inv_bc2 + o.eps);
        }
        rows_store<W>(rows_out{p, T3V_F32, false}, i, x);
        rows_store<W>(rows_out{m, T3V_F32, false}, i, a);
        rows_store<W>(rows_out{v, T3V_F32, false}, i, b);
        if (p16) rows_store<W>(rows_out{p16, T3V_BF16, false}, i, x);
        if (!ema) return;
        rows_load<W>(rows_in{ema, T3V_F32}, i, d);
        for (int e = 0; e < W; e++) d[e] = o.ema_decay * d[e] + (1 - o.ema_decay) * x[e];
        rows_store<W>(rows_out{ema, T3V_F32, false}, i, d);
    }
};

/* ---- sums of all elements, in double over a fixed tree ---- */

enum { LEAVES = 512 };

__device__ __forceinline__ double block_sum(double v)
{
    T3V_SHARED(double, part, ROWS_WARPS);
    for (int o = 16; o; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < ROWS_WARPS; w++) v += part[w];
    return v;
}

template <class F> __global__ void __launch_bounds__(ROWS_THREADS) leaves(const F f, int64_t n, double *leaf)
{
    const int64_t size = (n + LEAVES - 1) / LEAVES, first = blockIdx.x * size,
                  last = first + size < n ? first + size : n;
    double sum = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += ROWS_THREADS) sum += f(i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) leaf[blockIdx.x] = sum;
}

template <class F> double total(const F &f, int64_t n, const char *what)
{
    double leaf[LEAVES], sum = 0;
    double *there = (double *)t3v_cuda_work(sizeof leaf);
    if (n <= 0 || !there) return 0;
    t3v_cuda_keep(t3v_launch(leaves<F>, dim3(LEAVES), dim3(ROWS_THREADS), 0, t3v_cuda_stream, f, n, there),
                  what);
    t3v_cuda_read(leaf, there, sizeof leaf);
    for (int i = 0; i < LEAVES; i++) sum += leaf[i];
    return sum;
}

struct square {
    rows_in x;
    __device__ double operator()(int64_t i) const
    {
        double v = rows_get(x, i);
        return v * v;
    }
};

struct not_finite {
    rows_in x;
    __device__ double operator()(int64_t i) const
    {
        return (t3v_float_bits(rows_get(x, i)) & 0x7f800000u) == 0x7f800000u;
    }
};

struct distance {
    const float *v, *target;
    float *dv, slope;
    __device__ double operator()(int64_t i) const
    {
        float d = v[i] - target[i];
        if (dv) dv[i] = slope * d;
        return (double)d * d;
    }
};

/* ---- layouts ---- */

enum { SIDE = 32 };

/* A tile of SIDE x SIDE. */
__global__ void __launch_bounds__(256) transpose(rows_out y, rows_in x, int64_t n, int64_t d)
{
    T3V_SHARED(float, tile, SIDE *(SIDE + 1));
    const int64_t across = (d + SIDE - 1) / SIDE, i0 = blockIdx.x / across * SIDE,
                  j0 = blockIdx.x % across * SIDE;
    const int a = (int)threadIdx.x % SIDE, b = (int)threadIdx.x / SIDE;
    for (int r = b; r < SIDE; r += 256 / SIDE)
        if (i0 + r < n && j0 + a < d) tile[r * (SIDE + 1) + a] = rows_get(x, (i0 + r) * d + j0 + a);
    __syncthreads();
    for (int r = b; r < SIDE; r += 256 / SIDE)
        if (j0 + r < d && i0 + a < n) rows_put(y, (j0 + r) * n + i0 + a, tile[a * (SIDE + 1) + r]);
}

/* Element i of y [T, 2H, 2W, C]; C a multiple of 8 for eight at a time. */
struct upsample {
    rows_in x;
    rows_out y;
    int64_t height, width, channels;
    template <int W> __device__ void run(int64_t i) const
    {
        float v[W];
        int64_t c = i % channels, p = i / channels, column = p % (2 * width),
                row = p / (2 * width) % (2 * height), t = p / (4 * width * height);
        rows_load<W>(x, ((t * height + row / 2) * width + column / 2) * channels + c, v);
        rows_store<W>(y, i, v);
    }
};

struct upsample_dx {
    rows_in dy;
    rows_out dx;
    int64_t width, channels;
    template <int W> __device__ void run(int64_t i) const
    {
        float v[W], sum[W] = {0};
        int64_t c = i % channels, p = i / channels, column = p % width, row = p / width; /* of all frames */
        for (int k = 0; k < 4; k++) {
            rows_load<W>(dy, ((2 * row + k / 2) * 2 * width + 2 * column + k % 2) * channels + c, v);
            for (int e = 0; e < W; e++) sum[e] += v[e];
        }
        rows_store<W>(dx, i, sum);
    }
};

/* Element i of the rows of tokens from n0 on, and its cell of the latent. */
struct patch {
    rows_in from;
    rows_out to;
    t3v_patch_order order;
    bool back; /* rows to cells */
    int64_t C, T, H, W2, n0;
    template <int W> __device__ void run(int64_t i) const
    {
        int64_t e = i % (4 * C), token = n0 + i / (4 * C), columns = W2 / 2, rows = H / 2;
        int64_t c = order == T3V_PATCH_IN ? e / 4 : e % C, k = order == T3V_PATCH_IN ? e % 4 : e / C;
        int64_t column = token % columns * 2 + k % 2, row = token / columns % rows * 2 + k / 2,
                f = token / (columns * rows);
        int64_t cell = ((c * T + f) * H + row) * W2 + column;
        float v[1] = {rows_get(from, back ? i : cell)};
        rows_put(to, back ? cell : i, v[0]);
    }
};

/* One number of the fine clip from its cell's group. */
struct blocks_fine {
    float *fine;
    const float *coarse;
    t3v_blocks b;
    float scale;
    template <int W> __device__ void run(int64_t e) const
    {
        int64_t k = e % b.c, i = e / b.c, row = b.w * b.fs, height = b.h * b.fs;
        int64_t f = i / (height * row) + b.ft * b.t - b.frames, y = i / row % height, x = i % row;
        int64_t a = f % b.ft, u = b.columns ? x % b.fs : y % b.fs, v = b.columns ? y % b.fs : x % b.fs;
        int64_t cell = (f / b.ft * b.h + y / b.fs) * b.w + x / b.fs;
        int64_t group = ((a * b.fs + u) * b.fs + v) * b.m / (b.ft * b.fs * b.fs);
        fine[e] += scale * coarse[(cell * b.c + k) * b.m + group];
    }
};

/* One channel of a coarse cell from those that go with it. */
struct blocks_coarse {
    float *coarse;
    const float *fine;
    t3v_blocks b;
    int64_t first, n;
    float scale;
    template <int W> __device__ void run(int64_t e) const
    {
        int64_t group = e % b.m, k = e / b.m % b.c, i = e / (b.m * b.c);
        int64_t t = i / (b.h * b.w), y0 = i / b.w % b.h * b.fs, x0 = i % b.w * b.fs;
        int64_t size = b.ft * b.fs * b.fs, row = b.w * b.fs;
        float sum = coarse[e];
        for (int64_t r = 0; r < size; r++) {
            int64_t u = r / b.fs % b.fs, v = r % b.fs, y = b.columns ? v : u, x = b.columns ? u : v;
            int64_t f = t * b.ft + r / (b.fs * b.fs) - (b.ft * b.t - b.frames) - first;
            if (r * b.m / size != group || f < 0 || f >= n) continue;
            sum += scale * fine[((f * b.h * b.fs + y0 + y) * row + x0 + x) * b.c + k];
        }
        coarse[e] = sum;
    }
};
} // namespace

extern "C" void t3v_cuda_rows_act(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt,
                                  int64_t n)
{
    t3v_cuda_keep(each_run(activate{f, {x, xt}, {y, yt, false}}, n, rows_aligned(x) && rows_aligned(y)),
                  "an activation");
}

extern "C" void t3v_cuda_rows_act_bwd(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy,
                                      t3v_dtype dyt, const void *x, t3v_dtype xt, int64_t n)
{
    t3v_cuda_keep(each_run(activate_dx{f, {x, xt}, {dy, dyt}, {dx, dxt, accumulate}}, n,
                           rows_aligned(x) && rows_aligned(dx) && rows_aligned(dy)),
                  "the gradient of an activation");
}

extern "C" void t3v_cuda_rows_gelu_erf(float *y, const float *x, int64_t n)
{
    t3v_cuda_keep(each_run(activate{GELU_ERF, {x, T3V_F32}, {y, T3V_F32, false}}, n,
                           rows_aligned(x) && rows_aligned(y)),
                  "an activation");
}

extern "C" void t3v_cuda_rows_gelu_erf_bwd(float *dx, const float *dy, const float *x, int64_t n)
{
    t3v_cuda_keep(each_run(activate_dx{GELU_ERF, {x, T3V_F32}, {dy, T3V_F32}, {dx, T3V_F32, true}}, n,
                           rows_aligned(x) && rows_aligned(dx) && rows_aligned(dy)),
                  "the gradient of an activation");
}

extern "C" void t3v_cuda_rows_geglu(void *y, t3v_dtype yt, const void *a, t3v_dtype at, const void *b,
                                    t3v_dtype bt, int64_t n)
{
    t3v_cuda_keep(each_run(geglu{{a, at}, {b, bt}, {y, yt, false}}, n,
                           rows_aligned(a) && rows_aligned(b) && rows_aligned(y)),
                  "a gated activation");
}

extern "C" void t3v_cuda_rows_geglu_bwd(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate,
                                        const void *dy, t3v_dtype dyt, const void *a, t3v_dtype at,
                                        const void *b, t3v_dtype bt, int64_t n)
{
    t3v_cuda_keep(
        each_run(geglu_dx{{a, at}, {b, bt}, {dy, dyt}, {da, dat, accumulate}, {db, dbt, accumulate}}, n,
                 rows_aligned(a) && rows_aligned(b) && rows_aligned(dy) && rows_aligned(da) &&
                     rows_aligned(db)),
        "the gradient of a gated activation");
}

extern "C" void t3v_cuda_rows_lincomb(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype at,
                                      float beta, const void *b, t3v_dtype bt, int64_t n)
{
    t3v_cuda_keep(each_run(lincomb{{a, at}, {b, bt}, alpha, beta, {y, yt, false}}, n,
                           rows_aligned(a) && rows_aligned(b) && rows_aligned(y)),
                  "a sum");
}

extern "C" void t3v_cuda_rows_add(float *y, const float *a, const float *b, int64_t n)
{
    t3v_cuda_rows_lincomb(y, T3V_F32, 1, a, T3V_F32, 1, b, T3V_F32, n);
}

extern "C" void t3v_cuda_rows_axpy(float *y, float alpha, const float *x, int64_t n)
{
    t3v_cuda_rows_lincomb(y, T3V_F32, 1, y, T3V_F32, alpha, x, T3V_F32, n);
}

extern "C" void t3v_cuda_rows_convert(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
    t3v_cuda_rows_lincomb(y, yt, 1, x, xt, 0, nullptr, T3V_F32, n);
}

extern "C" double t3v_cuda_rows_sumsq(const void *x, t3v_dtype xt, int64_t n)
{
    return total(square{{x, xt}}, n, "a sum of squares");
}

extern "C" bool t3v_cuda_rows_all_finite(const void *x, t3v_dtype xt, int64_t n)
{
    return total(not_finite{{x, xt}}, n, "a search for NaN") == 0;
}

extern "C" double t3v_cuda_rows_mse(float *dv, float weight, const float *v, const float *target, int64_t n)
{
    return n <= 0 ? 0
                  : total(distance{v, target, dv, (float)(2.0 * weight / (double)n)}, n, "a mean square") /
                        (double)n;
}

extern "C" void t3v_cuda_rows_adamw(float *p, float *m, float *v, t3v_bf16 *p16, float *ema, const float *g,
                                    const t3v_adamw *o, int64_t n)
{
    adamw a = {p,
               m,
               v,
               p16,
               ema,
               g,
               *o,
               (float)(o->lr / (1 - pow(o->beta1, (double)o->step))),
               (float)(1 / sqrt(1 - pow(o->beta2, (double)o->step)))};
    t3v_cuda_keep(each_run(a, n,
                           rows_aligned(p) && rows_aligned(m) && rows_aligned(v) && rows_aligned(p16) &&
                               rows_aligned(ema) && rows_aligned(g)),
                  "AdamW");
}

extern "C" void t3v_cuda_rows_transpose(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n,
                                        int64_t d)
{
    if (n <= 0 || d <= 0) return;
    unsigned tiles = rows_blocks(n, SIDE) * rows_blocks(d, SIDE);
    t3v_cuda_keep(t3v_launch(transpose, dim3(tiles), dim3(256), 0, t3v_cuda_stream, rows_out{y, yt, false},
                             rows_in{x, xt}, n, d),
                  "a transpose");
}

extern "C" void t3v_cuda_rows_upsample2x(void *y, const void *x, t3v_dtype t, int64_t T, int64_t H, int64_t W,
                                         int64_t C)
{
    t3v_cuda_keep(each_run(upsample{{x, t}, {y, t, false}, H, W, C}, 4 * T * H * W * C,
                           C % 8 == 0 && rows_aligned(x) && rows_aligned(y)),
                  "an upsampling");
}

extern "C" void t3v_cuda_rows_upsample2x_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy,
                                             t3v_dtype dyt, int64_t T, int64_t H, int64_t W, int64_t C)
{
    t3v_cuda_keep(each_run(upsample_dx{{dy, dyt}, {dx, dxt, accumulate}, W, C}, T * H * W * C,
                           C % 8 == 0 && rows_aligned(dx) && rows_aligned(dy)),
                  "the gradient of an upsampling");
}

extern "C" void t3v_cuda_rows_patchify(void *rows, t3v_dtype rt, const void *latent, t3v_dtype lt,
                                       t3v_patch_order order, bool accumulate, int64_t C, int64_t T,
                                       int64_t H, int64_t W, int64_t n0, int64_t n1)
{
    t3v_cuda_keep(each_run(patch{{latent, lt}, {rows, rt, accumulate}, order, false, C, T, H, W, n0},
                           4 * C * (n1 - n0), false),
                  "a cut into patches");
}

extern "C" void t3v_cuda_rows_unpatchify(void *latent, t3v_dtype lt, const void *rows, t3v_dtype rt,
                                         t3v_patch_order order, bool accumulate, int64_t C, int64_t T,
                                         int64_t H, int64_t W, int64_t n0, int64_t n1)
{
    t3v_cuda_keep(each_run(patch{{rows, rt}, {latent, lt, accumulate}, order, true, C, T, H, W, n0},
                           4 * C * (n1 - n0), false),
                  "a join of patches");
}

extern "C" void t3v_cuda_rows_blocks_gather(float *coarse, const float *fine, const t3v_blocks *b,
                                            int64_t first, int64_t n, float scale)
{
    t3v_cuda_keep(each_run(blocks_coarse{coarse, fine, *b, first, n, scale}, b->t * b->h * b->w * b->c * b->m,
                           false),
                  "sums of blocks");
}

extern "C" void t3v_cuda_rows_blocks_spread(float *fine, const float *coarse, const t3v_blocks *b,
                                            float scale)
{
    t3v_cuda_keep(each_run(blocks_fine{fine, coarse, *b, scale},
                           b->frames * b->h * b->fs * b->w * b->fs * b->c, false),
                  "copies of blocks");
}
