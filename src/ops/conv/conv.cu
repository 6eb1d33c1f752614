/* SPDX-License-Identifier: Apache-2.0 */
/* 3-D convolution on a GPU: on tensor cores as a product whose rows are gathered, else one number by one. Contracts:
 * ops/conv/conv.h; packed weights are [cout, kt, kh, kw, cin] of the shape's type. */
#include "cuda/module.h"
#include "ops/gemm/tile.cuh"

namespace
{
struct extent {
    int64_t t, h, w;
};

extent out_of(const t3v_conv_shape &s)
{
    return {(s.t + s.pt0 + s.pt1 - s.kt) / s.st + 1, (s.h + s.ph0 + s.ph1 - s.kh) / s.sh + 1,
            (s.w + s.pw0 + s.pw1 - s.kw) / s.sw + 1};
}

/* Row m of the product: what output position m meets, tap by tap, all channels of a tap. */
struct met_rows {
    const uint16_t *x;
    t3v_conv_shape s;
    extent out;
    int64_t m;
    struct cursor {
        const uint16_t *x;
        const t3v_conv_shape *s;
        int t, h, w;    /* of the first tap in x */
        int a, b, c, i; /* tap, channel */
        bool in;
        __device__ void step()
        {
            i += TILE_K;
            while (i >= s->cin) {
                i -= (int)s->cin;
                if (++c < s->kw) continue;
                c = 0;
                if (++b < s->kh) continue;
                b = 0, a++;
            }
        }
        __device__ const void *get() const
        {
            int64_t f = t + a, y = h + b, z = w + c;
            if (!in || f < 0 || f >= s->t || y < 0 || y >= s->h || z < 0 || z >= s->w) return nullptr;
            return x + ((f * s->h + y) * s->w + z) * s->cin + i;
        }
    };
    __device__ cursor at(int64_t row, int chunk) const
    {
        int64_t f = row / (out.h * out.w), y = row / out.w % out.h, z = row % out.w;
        cursor c = {x,
                    &s,
                    (int)(f * s.st - s.pt0),
                    (int)(y * s.sh - s.ph0),
                    (int)(z * s.sw - s.pw0),
                    0,
                    0,
                    0,
                    8 * chunk - TILE_K,
                    row < m};
        c.step(); /* a chunk may be of a later tap */
        return c;
    }
};

struct plain_args {
    t3v_conv_shape s;
    extent out;
    rows_in x, w, dy;
    rows_out y;
    const float *bias;
};

/* A thread for an output number. */
__global__ void __launch_bounds__(ROWS_THREADS) forward(const plain_args a)
{
    const t3v_conv_shape &s = a.s;
    const int64_t i = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x, o = i % s.cout, p = i / s.cout;
    const int64_t f = p / (a.out.h * a.out.w), y = p / a.out.w % a.out.h, z = p % a.out.w;
    if (f >= a.out.t) return;
    float sum = a.bias ? a.bias[o] : 0;
    for (int64_t ka = 0; ka < s.kt; ka++)
        for (int64_t kb = 0; kb < s.kh; kb++)
            for (int64_t kc = 0; kc < s.kw; kc++) {
                int64_t t = f * s.st - s.pt0 + ka, h = y * s.sh - s.ph0 + kb, w = z * s.sw - s.pw0 + kc;
                if (t < 0 || t >= s.t || h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                int64_t at = ((t * s.h + h) * s.w + w) * s.cin,
                        tap = (((o * s.kt + ka) * s.kh + kb) * s.kw + kc) * s.cin;
                for (int64_t c = 0; c < s.cin; c++) sum += rows_get(a.x, at + c) * rows_get(a.w, tap + c);
            }
    rows_put(a.y, i, sum);
}

/* A thread for a number of dx. */
__global__ void __launch_bounds__(ROWS_THREADS) backward_data(const plain_args a)
{
    const t3v_conv_shape &s = a.s;
    const int64_t i = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x, c = i % s.cin, p = i / s.cin;
    const int64_t t = p / (s.h * s.w), h = p / s.w % s.h, w = p % s.w;
    if (t >= s.t) return;
    float sum = 0;
    for (int64_t ka = 0; ka < s.kt; ka++)
        for (int64_t kb = 0; kb < s.kh; kb++)
            for (int64_t kc = 0; kc < s.kw; kc++) {
                int64_t f = t + s.pt0 - ka, y = h + s.ph0 - kb, z = w + s.pw0 - kc;
                if (f < 0 || y < 0 || z < 0 || f % s.st || y % s.sh || z % s.sw) continue;
                f /= s.st, y /= s.sh, z /= s.sw;
                if (f >= a.out.t || y >= a.out.h || z >= a.out.w) continue;
                int64_t at = ((f * a.out.h + y) * a.out.w + z) * s.cout, taps = s.kt * s.kh * s.kw,
                        tap = (ka * s.kh + kb) * s.kw + kc;
                for (int64_t o = 0; o < s.cout; o++)
                    sum += rows_get(a.dy, at + o) * rows_get(a.w, (o * taps + tap) * s.cin + c);
            }
    rows_put(a.y, i, sum);
}

/* A thread for a weight [cout, cin, kt, kh, kw]. */
__global__ void __launch_bounds__(ROWS_THREADS) backward_weights(const plain_args a)
{
    const t3v_conv_shape &s = a.s;
    const int64_t i = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x, kc = i % s.kw, kb = i / s.kw % s.kh,
                  ka = i / (s.kw * s.kh) % s.kt, c = i / (s.kw * s.kh * s.kt) % s.cin,
                  o = i / (s.kw * s.kh * s.kt * s.cin);
    if (o >= s.cout) return;
    double sum = 0;
    for (int64_t f = 0; f < a.out.t; f++)
        for (int64_t y = 0; y < a.out.h; y++) {
            int64_t t = f * s.st - s.pt0 + ka, h = y * s.sh - s.ph0 + kb;
            if (t < 0 || t >= s.t || h < 0 || h >= s.h) continue;
            float part = 0;
            for (int64_t z = 0; z < a.out.w; z++) {
                int64_t w = z * s.sw - s.pw0 + kc;
                if (w < 0 || w >= s.w) continue;
                part += rows_get(a.dy, ((f * a.out.h + y) * a.out.w + z) * s.cout + o) *
                        rows_get(a.x, ((t * s.h + h) * s.w + w) * s.cin + c);
            }
            sum += part;
        }
    rows_put(a.y, i, (float)sum);
}

/* w [cout, cin, taps] -> [cout, taps, cin]. */
__global__ void __launch_bounds__(ROWS_THREADS)
    pack(rows_out to, rows_in w, int64_t n, int64_t cin, int64_t taps)
{
    const int64_t i = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x, c = i % cin, tap = i / cin % taps,
                  o = i / (cin * taps);
    if (i < n) rows_put(to, i, rows_get(w, (o * cin + c) * taps + tap));
}

int64_t count(const t3v_conv_shape *s) { return s->cout * s->cin * s->kt * s->kh * s->kw; }

t3v_status run_forward(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                       rows_out y)
{
    const extent out = out_of(*s);
    const int64_t m = out.t * out.h * out.w, k = s->kt * s->kh * s->kw * s->cin;
    if (s->type == T3V_BF16 && s->cin % 8 == 0 && rows_aligned(x) && rows_aligned(packed))
        return t3v_cuda_status(tile_run(met_rows{(const uint16_t *)x, *s, out, m}, packed, k, k,
                                        tile_out{y.data, y.type, m, s->cout, s->cout, bias, y.accumulate,
                                                 false, nullptr},
                                        t3v_cuda_stream),
                               "a convolution");
    plain_args a = {*s, out, {x, s->type}, {packed, s->type}, {x, s->type}, y, bias};
    return t3v_cuda_status(t3v_launch(forward, dim3(rows_blocks(m * s->cout, ROWS_THREADS)),
                                      dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                           "a convolution");
}
} // namespace

extern "C" t3v_status t3v_cuda_conv_packed_size(const t3v_conv_shape *s, t3v_conv_dir dir, size_t *bytes)
{
    (void)dir;
    *bytes = (size_t)count(s) * (s->type == T3V_BF16 ? 2 : 4);
    return T3V_OK;
}

extern "C" t3v_status t3v_cuda_conv_pack(const t3v_conv_shape *s, t3v_conv_dir dir, const void *w,
                                         t3v_dtype w_type, void *packed)
{
    (void)dir;
    return t3v_cuda_status(t3v_launch(pack, dim3(rows_blocks(count(s), ROWS_THREADS)), dim3(ROWS_THREADS), 0,
                                      t3v_cuda_stream, rows_out{packed, s->type, false}, rows_in{w, w_type},
                                      count(s), s->cin, s->kt * s->kh * s->kw),
                           "packing weights");
}

extern "C" t3v_status t3v_cuda_conv_forward(const t3v_conv_shape *s, const void *x, const void *packed,
                                            const float *bias, void *y, t3v_dtype y_type)
{
    return run_forward(s, x, packed, bias, rows_out{y, y_type, false});
}

extern "C" t3v_status t3v_cuda_conv_forward_add(const t3v_conv_shape *s, const void *x, const void *packed,
                                                const float *bias, float *y)
{
    return run_forward(s, x, packed, bias, rows_out{y, T3V_F32, true});
}

extern "C" t3v_status t3v_cuda_conv_backward_data(const t3v_conv_shape *s, const void *dy, const void *packed,
                                                  void *dx, t3v_dtype dx_type)
{
    plain_args a = {*s,     out_of(*s), {dy, s->type}, {packed, s->type}, {dy, s->type}, {dx, dx_type, false},
                    nullptr};
    return t3v_cuda_status(t3v_launch(backward_data,
                                      dim3(rows_blocks(s->t * s->h * s->w * s->cin, ROWS_THREADS)),
                                      dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                           "the gradient of a convolution");
}

extern "C" t3v_status t3v_cuda_conv_backward_weights(const t3v_conv_shape *s, const void *x, const void *dy,
                                                     float *dw, float *dbias)
{
    plain_args a = {*s, out_of(*s), {x, s->type}, {x, s->type}, {dy, s->type}, {dw, T3V_F32, true}, nullptr};
    if (dw) {
        t3v_status st = t3v_cuda_status(t3v_launch(backward_weights,
                                                   dim3(rows_blocks(count(s), ROWS_THREADS)),
                                                   dim3(ROWS_THREADS), 0, t3v_cuda_stream, a),
                                        "the gradient of a convolution's weights");
        if (st) return st;
    }
    if (!dbias) return T3V_OK;
    return t3v_cuda_rows_sum(dbias, dy, s->type, a.out.t * a.out.h * a.out.w, s->cout);
}
