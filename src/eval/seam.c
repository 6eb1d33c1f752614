/* SPDX-License-Identifier: Apache-2.0 */
/* Jumps across the borders of tiles against those beside them. */
#include "eval/seam.h"

#include <math.h>

enum { RUN = 8, NEAR = 2, FAR = 5, MARGIN = FAR + 2 };

/* Mean squared jump across the line between `at - 1` and `at`, which has n pixels. */
static double energy(const uint8_t *y, int64_t at, int64_t across, int64_t along, int64_t n)
{
    double sum = 0;
    int64_t runs = n / RUN;
    for (int64_t r = 0; r < runs; r++) {
        int twice = 0;
        for (int64_t i = r * RUN; i < (r + 1) * RUN; i++) {
            const uint8_t *c = y + at * across + i * along, *b = c - across;
            twice += 3 * (*c - *b) - (c[across] - b[-across]);
        }
        double jump = twice / (2.0 * RUN);
        sum += jump * jump;
    }
    return runs ? sum / (double)runs : 0;
}

static void add_axis(t3v_seam *s, const uint8_t *y, int64_t size, int64_t tile, int64_t across, int64_t along,
                     int64_t n)
{
    if (tile < 1) return;
    for (int64_t at = tile; at <= size - MARGIN; at += tile) {
        if (at < MARGIN) continue;
        double beside = 0;
        for (int64_t d = NEAR; d <= FAR; d++)
            beside += energy(y, at - d, across, along, n) + energy(y, at + d, across, along, n);
        s->border += energy(y, at, across, along, n) + 0.01;
        s->beside += beside / (2 * (FAR - NEAR + 1)) + 0.01;
    }
}

void t3v_seam_add(t3v_seam *s, const uint8_t *y, int64_t h, int64_t w, int64_t tile_h, int64_t tile_w)
{
    add_axis(s, y, w, tile_w, 1, w, h);
    add_axis(s, y, h, tile_h, w, 1, w);
}

double t3v_seam_ratio(const t3v_seam *s) { return s->beside > 0 ? s->border / s->beside : (double)NAN; }
