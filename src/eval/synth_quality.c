/* SPDX-License-Identifier: Apache-2.0 */
/* VQA-S: sharpness and cleanness of edges, noise and grain of flat areas, steadiness in time. */
#include <math.h>
#include <stdlib.h>

#include "eval/synth_parts.h"

enum { BINS = 4096, REACH = 5 };

/* Median of values in [0, top] from a histogram. */
typedef struct histogram {
    int64_t count, bin[BINS];
} histogram;

static void histogram_add(histogram *h, double x, double top)
{
    double at = x / top * BINS;
    h->bin[at < BINS - 1 ? (int)at : BINS - 1]++;
    h->count++;
}

static double histogram_median(const histogram *h, double top)
{
    int64_t below = 0;
    for (int i = 0; i < BINS; i++) {
        if (h->bin[i] && 2 * (below + h->bin[i]) >= h->count)
            return (i + (0.5 * (double)h->count - (double)below) / (double)h->bin[i]) * top / BINS;
        below += h->bin[i];
    }
    return 0;
}

typedef struct edge_sums {
    double step, contrast, halo; /* over edge points: across +-1, across +-3, unevenness beside the edge */
    int64_t points;
} edge_sums;

/* Edge points along a line of n samples `stride` apart: steepest between their neighbours, with contrast. */
static void edges_of_line(const float *p, int64_t n, int64_t stride, edge_sums *e)
{
    for (int64_t i = REACH; i < n - REACH; i++) {
        const float *c = p + i * stride;
        double step = fabs((double)c[stride] - c[-stride]);
        if (step < 0.04) continue;
        if (step < fabs((double)c[2 * stride] - c[0]) || step <= fabs((double)c[0] - c[-2 * stride]))
            continue;
        double contrast = fabs((double)c[3 * stride] - c[-3 * stride]);
        if (contrast < 0.2) continue;
        e->step += fmin(step, contrast);
        e->contrast += contrast;
        e->halo += 0.5 * (fabs((double)c[2 * stride] - c[5 * stride]) +
                          fabs((double)c[-2 * stride] - c[-5 * stride]));
        e->points++;
    }
}

typedef struct still_stats {
    /* noise, grain: medians of what pixels differ from those 1, 3 away */
    double sharp, halo, noise, grain, points;
} still_stats;

/* Sizes above ~1000 pixels are sampled: every step-th line, which is plenty. */
static t3v_status measure_pictures(const synth_clip *c, still_stats *out)
{
    const double top = 0.25;
    histogram *h = calloc(2, sizeof *h);
    if (!h) return t3v_fail(T3V_E_NOMEM, "no memory: scoring needs %zu bytes", 2 * sizeof *h);
    edge_sums e = {0};
    int64_t step = 1 + (c->h < c->w ? c->h : c->w) / 512;
    for (int64_t f = 0; f < c->frames; f++) {
        for (int ch = 0; ch < 3; ch++) {
            const float *p = synth_plane(c, f, ch);
            for (int64_t y = 0; y < c->h; y += step) edges_of_line(p + y * c->w, c->w, 1, &e);
            for (int64_t x = 0; x < c->w; x += step) edges_of_line(p + x, c->h, c->w, &e);
        }
        const float *g = synth_plane(c, f, 1);
        for (int k = 0; k < 2; k++) {
            int64_t d = k ? 3 : 1, down = d * c->w;
            for (int64_t y = d; y < c->h - d; y += step)
                for (int64_t x = d; x < c->w - d; x++) {
                    const float *q = g + y * c->w + x;
                    histogram_add(&h[k], fabs(q[0] - 0.25 * ((double)q[-d] + q[d] + q[down] + q[-down])),
                                  top);
                }
        }
    }
    out->sharp = e.points ? e.step / e.contrast : 0;
    out->halo = e.points ? e.halo / e.contrast : 0;
    out->points = (double)e.points;
    out->noise = histogram_median(&h[0], top);
    out->grain = histogram_median(&h[1], top);
    free(h);
    return T3V_OK;
}

/* Median over pixels and times of the second difference in time: what moves smoothly has none, flicker has. */
static t3v_status measure_unrest(const synth_clip *c, double *out)
{
    histogram *h = calloc(1, sizeof *h);
    if (!h) return t3v_fail(T3V_E_NOMEM, "no memory: scoring needs %zu bytes", sizeof *h);
    for (int64_t f = 1; f + 1 < c->frames; f++)
        for (int ch = 0; ch < 3; ch++) {
            const float *a = synth_plane(c, f - 1, ch), *b = synth_plane(c, f, ch),
                        *d = synth_plane(c, f + 1, ch);
            for (int64_t i = 0; i < c->h * c->w; i++)
                histogram_add(h, fabs((double)a[i] - 2.0 * b[i] + d[i]), 1);
        }
    *out = histogram_median(h, 1);
    free(h);
    return T3V_OK;
}

t3v_status t3v_synth_quality(const synth_clip *clip, const synth_clip *ref, const synth_clip *picture,
                             const synth_clip *ref_picture, t3v_synth_score *out)
{
    still_stats a, r;
    double unrest, ref_unrest;
    T3V_TRY(measure_pictures(picture, &a));
    T3V_TRY(measure_pictures(ref_picture, &r));
    T3V_TRY(measure_unrest(clip, &unrest));
    T3V_TRY(measure_unrest(ref, &ref_unrest));
    /* 0.002: half a level of 8-bit video is no difference. */
    double noise = (a.noise + 0.002) / (r.noise + 0.002), shake = (unrest + 0.004) / (ref_unrest + 0.004);
    double grain = (a.grain + 0.0005) / (r.grain + 0.0005);
    double seen = synth_clamp(a.points / (0.2 * r.points + 1));
    out->clean = seen * synth_clamp(1 - log2(noise / 1.7) / 3);
    double trust = seen * synth_ramp(out->clean, 0, 0.5); /* noise passes for edges and grain */
    out->sharp = trust * synth_ramp(a.sharp, 0.25, 0.95 * r.sharp);
    out->edges = trust * synth_ramp(a.halo, r.halo + 0.40, r.halo + 0.08);
    out->grain = trust * synth_ramp(grain, 0.1, 0.6);
    out->steady = seen * synth_clamp(1 - log2(shake / 1.5) / 2.5);
    return T3V_OK;
}
