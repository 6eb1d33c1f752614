/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary tables and the kernels that only move elements: nearest upsampling, patches to rows and back. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/threads.h"
#include "ops/rows/rows.h"

static bool worth(int64_t elements) { return elements > 65536 && t3v_threads() > 1; }

static void split_pairs(int64_t hd, int64_t pairs[3])
{
    pairs[1] = pairs[2] = hd / 6;
    pairs[0] = hd / 2 - 2 * (hd / 6);
}

t3v_status t3v_rope_tables_size(int64_t *floats, int64_t T, int64_t H, int64_t W, int64_t hd)
{
    const int64_t grid[3] = {T, H, W};
    int64_t pairs[3], n, tokens;
    if (hd < 2 || hd % 2 || hd > T3V_ROPE_MAX_HD)
        return t3v_fail(T3V_E_ARG, "head dim %lld: rotary tables need an even number from 2 to %d",
                        (long long)hd, T3V_ROPE_MAX_HD);
    if (T < 1 || H < 1 || W < 1)
        return t3v_fail(T3V_E_ARG, "grid %lldx%lldx%lld has no token", (long long)T, (long long)H,
                        (long long)W);
    split_pairs(hd, pairs);
    *floats = 0;
    bool ok = t3v_mul3(T, H, W, &tokens);
    for (int a = 0; a < 3 && ok; a++) ok = t3v_mul(grid[a], 4 * pairs[a], &n) && t3v_add(*floats, n, floats);
    if (!ok)
        return t3v_fail(T3V_E_TOO_BIG, "rotary tables of grid %lldx%lldx%lld", (long long)T, (long long)H,
                        (long long)W);
    return T3V_OK;
}

void t3v_rope_tables_make(t3v_rope *out, float *mem, int64_t T, int64_t H, int64_t W, int64_t hd,
                          double theta)
{
    *out = (t3v_rope){.grid = {T, H, W}, .hd = hd};
    split_pairs(hd, out->pairs);
    for (int a = 0; a < 3; a++) {
        int64_t p = out->pairs[a], size = out->grid[a] * 2 * p;
        float *c = mem, *s = mem + size;
        mem += 2 * size;
        for (int64_t i = 0; i < out->grid[a]; i++)
            for (int64_t k = 0; k < p; k++) {
                double angle = (double)i * pow(theta, -(double)k / (double)p);
                int64_t e = i * 2 * p + 2 * k;
                c[e] = c[e + 1] = (float)cos(angle);
                s[e + 1] = (float)sin(angle);
                s[e] = -s[e + 1];
            }
        out->cos[a] = c;
        out->sin[a] = s;
    }
}

void t3v_rows_upsample2x(void *y, const void *x, t3v_dtype t, int64_t T, int64_t H, int64_t W, int64_t C)
{
    size_t bytes = (size_t)C * t3v_dtype_size(t), row = 2 * (size_t)W * bytes;
#pragma omp parallel for schedule(static) if (worth(4 * T * H * W * C))
    for (int64_t r = 0; r < T * H; r++) {
        const char *from = (const char *)x + (size_t)(r * W) * bytes;
        char *to = (char *)y + 2 * (size_t)r * row;
        for (int64_t w = 0; w < 2 * W; w++)
            memcpy(to + (size_t)w * bytes, from + (size_t)(w / 2) * bytes, bytes);
        memcpy(to + row, to, row);
    }
}

static float get(const void *p, t3v_dtype t, int64_t i)
{
    return t == T3V_BF16 ? t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]) : ((const float *)p)[i];
}

static void put(void *p, t3v_dtype t, int64_t i, float v, bool accumulate)
{
    if (accumulate) v += get(p, t, i);
    if (t == T3V_BF16) ((t3v_bf16 *)p)[i] = t3v_f32_to_bf16(v);
    else ((float *)p)[i] = v;
}

/* Both directions visit the same pairs (element of a row, cell of the latent). */
static void patches(void *rows_out, const void *rows_in, t3v_dtype rt, void *latent_out,
                    const void *latent_in, t3v_dtype lt, t3v_patch_order order, bool accumulate, int64_t C,
                    int64_t T, int64_t H, int64_t W, int64_t n0, int64_t n1)
{
    int64_t w2 = W / 2, per_frame = H / 2 * w2;
    T3V_ASSERT(H % 2 == 0 && W % 2 == 0 && n0 >= 0 && n0 <= n1 && n1 <= T * per_frame);
#pragma omp parallel for schedule(static) if (worth((n1 - n0) * 4 * C))
    for (int64_t n = n0; n < n1; n++) {
        int64_t f = n / per_frame, i = n % per_frame / w2, j = n % w2, row = (n - n0) * 4 * C;
        for (int64_t c = 0; c < C; c++)
            for (int64_t q = 0; q < 4; q++) {
                int64_t cell = ((c * T + f) * H + 2 * i + q / 2) * W + 2 * j + q % 2;
                int64_t e = row + (order == T3V_PATCH_IN ? c * 4 + q : q * C + c);
                if (rows_out) put(rows_out, rt, e, get(latent_in, lt, cell), accumulate);
                else put(latent_out, lt, cell, get(rows_in, rt, e), accumulate);
            }
    }
}

void t3v_rows_patchify(void *rows, t3v_dtype rt, const void *latent, t3v_dtype lt, t3v_patch_order order,
                       bool accumulate, int64_t C, int64_t T, int64_t H, int64_t W, int64_t n0, int64_t n1)
{
    patches(rows, NULL, rt, NULL, latent, lt, order, accumulate, C, T, H, W, n0, n1);
}

void t3v_rows_unpatchify(void *latent, t3v_dtype lt, const void *rows, t3v_dtype rt, t3v_patch_order order,
                         bool accumulate, int64_t C, int64_t T, int64_t H, int64_t W, int64_t n0, int64_t n1)
{
    patches(NULL, rows, rt, latent, NULL, lt, order, accumulate, C, T, H, W, n0, n1);
}

/* The normal distribution at x: y = x Phi(x), y' = Phi(x) + x phi(x). */
static double normal_cdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
static double normal_pdf(double x) { return 0.39894228040143268 * exp(-0.5 * x * x); }

void t3v_rows_gelu_erf(float *y, const float *x, int64_t n)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * normal_cdf((double)x[i]));
}

void t3v_rows_gelu_erf_bwd(float *dx, const float *dy, const float *x, int64_t n)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        dx[i] += (float)(dy[i] * (normal_cdf((double)x[i]) + (double)x[i] * normal_pdf((double)x[i])));
}

/* Channel, in its cell's group of m, of position (frame, y, x) of a block. */
static int64_t group_of(const t3v_blocks *b, int64_t frame, int64_t y, int64_t x)
{
    int64_t r = b->columns ? (frame * b->fs + x) * b->fs + y : (frame * b->fs + y) * b->fs + x;
    return r * b->m / (b->ft * b->fs * b->fs);
}

void t3v_rows_blocks_gather(float *coarse, const float *fine, const t3v_blocks *b, int64_t first, int64_t n,
                            float scale)
{
    int64_t fs = b->fs, row = b->w * fs, plane = b->h * fs * row, cells = b->t * b->h * b->w;
    int64_t skip = b->ft * b->t - b->frames;
#pragma omp parallel for schedule(static) if (cells * b->c > 4096)
    for (int64_t i = 0; i < cells; i++) {
        int64_t t = i / (b->h * b->w), y0 = i / b->w % b->h * fs, x0 = i % b->w * fs;
        for (int64_t p = 0; p < b->ft * fs * fs; p++) {
            int64_t a = p / (fs * fs), y = p / fs % fs, x = p % fs, f = t * b->ft + a - skip - first;
            if (f < 0 || f >= n) continue;
            const float *from = fine + (f * plane + (y0 + y) * row + x0 + x) * b->c;
            float *to = coarse + i * b->c * b->m + group_of(b, a, y, x);
            for (int64_t k = 0; k < b->c; k++) to[k * b->m] += scale * from[k];
        }
    }
}

void t3v_rows_blocks_spread(float *fine, const float *coarse, const t3v_blocks *b, float scale)
{
    int64_t fs = b->fs, row = b->w * fs, height = b->h * fs, n = b->frames * height * row;
    int64_t skip = b->ft * b->t - b->frames;
#pragma omp parallel for schedule(static) if (n * b->c > 4096)
    for (int64_t i = 0; i < n; i++) {
        int64_t f = i / (height * row) + skip, y = i / row % height, x = i % row;
        const float *from = coarse + ((f / b->ft * b->h + y / fs) * b->w + x / fs) * b->c * b->m +
                            group_of(b, f % b->ft, y % fs, x % fs);
        for (int64_t k = 0; k < b->c; k++) fine[i * b->c + k] += scale * from[k * b->m];
    }
}
