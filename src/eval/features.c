/* SPDX-License-Identifier: Apache-2.0 */
/* Features of a clip, gathered frame by frame. */
#include "eval/features.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/planes.h"

enum { SCALES = T3V_FEATURE_SCALES, CHUNKS = 64, TIMES = 3 };
enum { TURN = 0, SQUARE = 4, LAPLACE, CHANGE, BEND, SUMS }; /* TURN: four orientations */

typedef struct scale {
    int64_t h, w;
    float *y[TIMES];  /* now, one and two frames before */
    double sum[SUMS]; /* of the means over pixels */
} scale;

struct t3v_features {
    t3v_planes planes;
    scale scale[SCALES];
    int64_t frames;
    double colour[3], colour2[3];             /* sums of means, of means of squares */
    double change, change2, least, mean_move; /* of frame to frame */
    double mean;                              /* brightness of the frame before */
};

void t3v_features_free(t3v_features **f)
{
    if (!*f) return;
    t3v_planes_free(&(*f)->planes);
    for (int s = 0; s < SCALES; s++)
        for (int t = 0; t < TIMES; t++) free((*f)->scale[s].y[t]);
    free(*f);
    *f = NULL;
}

t3v_status t3v_features_begin(t3v_features **out, int64_t h, int64_t w)
{
    *out = NULL;
    if (h < T3V_FEATURES_MIN_SIDE || w < T3V_FEATURES_MIN_SIDE)
        return t3v_fail(T3V_E_ARG, "features of clips of %lldx%lld: expected at least %d pixels a side",
                        (long long)w, (long long)h, T3V_FEATURES_MIN_SIDE);
    t3v_features *f = calloc(1, sizeof *f);
    if (!f) return t3v_fail(T3V_E_NOMEM, "no memory for features");
    t3v_status st = t3v_planes_make(&f->planes, h, w);
    for (int s = 0; s < SCALES && !st; s++, h /= 2, w /= 2) {
        f->scale[s].h = h;
        f->scale[s].w = w;
        for (int t = 0; t < TIMES && !st; t++)
            if (!(f->scale[s].y[t] = malloc((size_t)(h * w) * sizeof(float))))
                st = t3v_fail(T3V_E_NOMEM, "no memory for features of %lldx%lld", (long long)w, (long long)h);
    }
    if (st) t3v_features_free(&f);
    *out = f;
    return st;
}

static void add_row(const scale *s, int64_t y, int64_t frames, double sum[SUMS])
{
    const float r = 0.70710678f;
    const float *now = s->y[0] + y * s->w, *before = s->y[1] + y * s->w, *two = s->y[2] + y * s->w;
    for (int64_t x = 1; x + 1 < s->w; x++) {
        float gx = 0.5f * (now[x + 1] - now[x - 1]), gy = 0.5f * (now[x + s->w] - now[x - s->w]);
        float square = gx * gx + gy * gy, m = sqrtf(square);
        float along[4] = {gx, r * (gx + gy), gy, r * (gx - gy)};
        if (square > 0)
            for (int k = 0; k < 4; k++) {
                float c2 = along[k] * along[k] / square;
                sum[TURN + k] += m * c2 * c2;
            }
        sum[SQUARE] += square;
        sum[LAPLACE] += fabsf(now[x] - 0.25f * (now[x - 1] + now[x + 1] + now[x - s->w] + now[x + s->w]));
        if (frames > 0) sum[CHANGE] += fabsf(now[x] - before[x]);
        if (frames > 1) sum[BEND] += fabsf(now[x] - 2 * before[x] + two[x]);
    }
}

/* Means over the inner pixels into mean, which are also added to the scale's sums. */
static void add_scale(scale *s, int64_t frames, double mean[SUMS])
{
    double part[CHUNKS][SUMS] = {0}, pixels = (double)(s->h - 2) * (double)(s->w - 2);
#pragma omp parallel for schedule(static) if (pixels > T3V_PARALLEL_PIXELS)
    for (int k = 0; k < CHUNKS; k++)
        for (int64_t y = 1 + k; y + 1 < s->h; y += CHUNKS) add_row(s, y, frames, part[k]);
    for (int i = 0; i < SUMS; i++) {
        mean[i] = 0;
        for (int k = 0; k < CHUNKS; k++) mean[i] += part[k][i] / pixels;
        s->sum[i] += mean[i];
    }
}

static void halve(const scale *from, scale *to)
{
#pragma omp parallel for schedule(static) if (to->h * to->w > T3V_PARALLEL_PIXELS)
    for (int64_t y = 0; y < to->h; y++)
        for (int64_t x = 0; x < to->w; x++) {
            const float *a = from->y[0] + 2 * y * from->w + 2 * x, *b = a + from->w;
            to->y[0][y * to->w + x] = 0.25f * (a[0] + a[1] + b[0] + b[1]);
        }
}

void t3v_features_frame(t3v_features *f, const uint8_t *rgb)
{
    int64_t n = f->planes.h * f->planes.w;
    t3v_planes_fill(&f->planes, rgb, 0);
    double brightness = 0;
    for (int c = 0; c < 3; c++) {
        int64_t sum = 0, squares = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t v = f->planes.plane[T3V_Y + c][i];
            sum += v;
            squares += v * v;
        }
        double mean = (double)sum / (255.0 * (double)n);
        f->colour[c] += mean;
        f->colour2[c] += (double)squares / (255.0 * 255.0 * (double)n);
        if (c == 0) brightness = mean;
    }
    for (int s = 0; s < SCALES; s++) {
        scale *at = &f->scale[s];
        float *oldest = at->y[TIMES - 1];
        memmove(at->y + 1, at->y, (TIMES - 1) * sizeof *at->y);
        at->y[0] = oldest;
        if (s) halve(&f->scale[s - 1], at);
        else
            for (int64_t i = 0; i < n; i++) at->y[0][i] = (float)f->planes.plane[T3V_Y][i] / 255.0f;
        double mean[SUMS];
        add_scale(at, f->frames, mean);
        if (s || !f->frames) continue;
        f->change += mean[CHANGE];
        f->change2 += mean[CHANGE] * mean[CHANGE];
        f->least = f->frames == 1 ? mean[CHANGE] : fmin(f->least, mean[CHANGE]);
        f->mean_move += fabs(brightness - f->mean);
    }
    f->mean = brightness;
    f->frames++;
}

static double level(double x) { return log(fmax(x, 0) + 0.001); }
static double deviation(double mean, double squares) { return sqrt(fmax(squares - mean * mean, 0)); }

t3v_status t3v_features_end(const t3v_features *f, double out[T3V_FEATURES])
{
    if (f->frames < T3V_FEATURES_MIN_FRAMES)
        return t3v_fail(T3V_E_ARG, "features of a clip of %lld frames: expected at least %d",
                        (long long)f->frames, T3V_FEATURES_MIN_FRAMES);
    double frames = (double)f->frames, *o = out;
    for (int s = 0; s < SCALES; s++) {
        const double *sum = f->scale[s].sum;
        for (int k = 0; k < 4; k++) *o++ = level(sum[TURN + k] / frames);
        *o++ = level(sqrt(sum[SQUARE] / frames));
        *o++ = level(sum[LAPLACE] / frames);
        *o++ = level(sum[CHANGE] / (frames - 1));
        *o++ = level(sum[BEND] / (frames - 2));
    }
    for (int c = 0; c < 3; c++) {
        *o++ = 16 * f->colour[c] / frames;
        *o++ = 16 * deviation(f->colour[c] / frames, f->colour2[c] / frames);
    }
    *o++ = level(f->least);
    *o++ = level(deviation(f->change / (frames - 1), f->change2 / (frames - 1)));
    *o++ = level(f->mean_move / (frames - 1));
    T3V_ASSERT(o == out + T3V_FEATURES);
    return T3V_OK;
}
