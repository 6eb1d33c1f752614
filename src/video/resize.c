/* SPDX-License-Identifier: Apache-2.0 */
/* Resizing of float planes. */
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "video/video.h"

/* Keys' cubic with a = -1/2. */
static double cubic(double x)
{
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
    return 0;
}

/* Weights of one axis: output i takes taps inputs from first[i]. */
typedef struct axis {
    int64_t taps;
    int64_t *first;
    float *weight; /* [out, taps] */
} axis;

static void axis_free(axis *a)
{
    free(a->first);
    free(a->weight);
}

static t3v_status axis_make(axis *a, int64_t in, int64_t out)
{
    double scale = (double)in / (double)out, stretch = scale > 1 ? scale : 1;
    a->taps = (int64_t)ceil(2 * stretch) * 2 + 1;
    if (a->taps > in) a->taps = in;
    a->first = malloc((size_t)out * sizeof *a->first);
    a->weight = malloc((size_t)(out * a->taps) * sizeof *a->weight);
    if (!a->first || !a->weight)
        return t3v_fail(T3V_E_NOMEM, "no memory to resize %lld to %lld", (long long)in, (long long)out);
    for (int64_t i = 0; i < out; i++) {
        double centre = ((double)i + 0.5) * scale, sum = 0;
        int64_t first = (int64_t)floor(centre - 2 * stretch);
        if (first > in - a->taps) first = in - a->taps;
        if (first < 0) first = 0;
        float *w = a->weight + i * a->taps;
        for (int64_t k = 0; k < a->taps; k++) sum += cubic(((double)(first + k) + 0.5 - centre) / stretch);
        for (int64_t k = 0; k < a->taps; k++)
            w[k] = (float)(cubic(((double)(first + k) + 0.5 - centre) / stretch) / sum);
        a->first[i] = first;
    }
    return T3V_OK;
}

t3v_status t3v_frame_resize(const float *src, int64_t c, int64_t H, int64_t W, float *dst, int64_t h,
                            int64_t w)
{
    axis ax = {0}, ay = {0};
    float *mid = NULL;
    t3v_status st;
    int64_t n;
    if (c < 1 || H < 1 || W < 1 || h < 1 || w < 1 || !t3v_mul3(c, H, w, &n) || n > INT64_MAX / 4)
        return t3v_fail(T3V_E_ARG, "cannot resize %lldx%lld to %lldx%lld", (long long)W, (long long)H,
                        (long long)w, (long long)h);
    T3V_TRY_GOTO(st, done, axis_make(&ax, W, w));
    T3V_TRY_GOTO(st, done, axis_make(&ay, H, h));
    if (!(mid = malloc((size_t)n * sizeof *mid))) {
        st = t3v_fail(T3V_E_NOMEM, "no memory to resize to %lldx%lld", (long long)w, (long long)h);
        goto done;
    }
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < c * H; r++)
        for (int64_t x = 0; x < w; x++) {
            const float *s = src + r * W + ax.first[x], *k = ax.weight + x * ax.taps;
            float sum = 0;
            for (int64_t t = 0; t < ax.taps; t++) sum += s[t] * k[t];
            mid[r * w + x] = sum;
        }
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < c * h; r++) {
        int64_t plane = r / h, y = r % h;
        const float *s = mid + (plane * H + ay.first[y]) * w, *k = ay.weight + y * ay.taps;
        float *d = dst + r * w;
        for (int64_t x = 0; x < w; x++) d[x] = 0;
        for (int64_t t = 0; t < ay.taps; t++)
            for (int64_t x = 0; x < w; x++) d[x] += s[t * w + x] * k[t];
    }
done:
    axis_free(&ax);
    axis_free(&ay);
    free(mid);
    return st;
}

t3v_status t3v_frame_cover(const float *src, int64_t c, int64_t H, int64_t W, float *dst, int64_t h,
                           int64_t w)
{
    const int64_t side = T3V_VIDEO_MAX_SIDE;
    if (c < 1 || H < 1 || W < 1 || h < 1 || w < 1 || c > 64 || H > side || W > side || h > side || w > side)
        return t3v_fail(T3V_E_ARG, "cannot cover %lldx%lld with %lldx%lld", (long long)w, (long long)h,
                        (long long)W, (long long)H);
    int64_t rh = h, rw = w; /* the size that covers: one side fits, the other is rounded to the nearest */
    if (W * h >= H * w) rw = (2 * W * h + H) / (2 * H);
    else rh = (2 * H * w + W) / (2 * W);
    if (rw > 8 * w || rh > 8 * h)
        return t3v_fail(T3V_E_ARG, "%lldx%lld cannot cover %lldx%lld: more than 7/8 of it would be cut off",
                        (long long)W, (long long)H, (long long)w, (long long)h);
    float *whole = NULL;
    if (rh != H || rw != W) {
        if (!(whole = malloc((size_t)(c * rh * rw) * sizeof *whole)))
            return t3v_fail(T3V_E_NOMEM, "no memory for a frame of %lldx%lld", (long long)rw, (long long)rh);
        t3v_status st = t3v_frame_resize(src, c, H, W, whole, rh, rw);
        if (st) {
            free(whole);
            return st;
        }
        src = whole;
    }
    for (int64_t p = 0; p < c; p++)
        for (int64_t y = 0; y < h; y++) {
            const float *s = src + (p * rh + (rh - h) / 2 + y) * rw + (rw - w) / 2;
            for (int64_t x = 0; x < w; x++) *dst++ = s[x] < -1.0f ? -1.0f : s[x] > 1.0f ? 1.0f : s[x];
        }
    free(whole);
    return T3V_OK;
}
