/* SPDX-License-Identifier: Apache-2.0 */
/* Motion between two frames by block matching, and how well a frame warped along it meets the next one. */
#ifndef T3V_EVAL_FLOW_H
#define T3V_EVAL_FLOW_H

#include <stdint.h>

#include "base/status.h"
#include "eval/planes.h"

enum { T3V_FLOW_BLOCK = 8 };

/* One vector (x, y) for each block of 8x8 pixels: now(p) looks like then(p + d). */
typedef struct t3v_flow {
    int64_t h, w, rows, cols;
    float *d; /* [rows,cols,2] */
} t3v_flow;

t3v_status t3v_flow_make(t3v_flow *f, int64_t h, int64_t w); /* E_NOMEM */
void t3v_flow_free(t3v_flow *f);                             /* safe on a zeroed struct */

/* Coarse to fine over halved pictures, down to 32 to 63 pixels on the shorter side: there, all vectors up to 8; then the
 * vectors of the block above and its neighbours, doubled, and downhill steps of one pixel; at full size a parabola
 * through the squared differences gives fractions. Blocks are compared with 4 pixels around them (16x16), absolute
 * differences, and a quarter of a level for each pixel that the vector leaves the one above it. E_NOMEM. */
t3v_status t3v_flow_find(t3v_flow *f, const uint8_t *now, const uint8_t *then);

/* Sums over pairs of frames; start from zero. */
typedef struct t3v_warp {
    double squares;        /* of differences in R, G, B */
    int64_t count, pixels; /* pixels that counted, all pixels */
} t3v_warp;

/* Adds the pair: `then` is fetched along `back` (now to then; cubic interpolation) and compared with `now` where the
 * vector stays in the picture and the way forth leads back: |b + f|^2 <= 0.01 (|b|^2 + |f|^2) + 0.5 for b = back at the
 * pixel and f = forth where it leads (Sundaram et al., ECCV 2010). What was hidden does not count. */
void t3v_warp_add(t3v_warp *s, const t3v_planes *now, const t3v_planes *then, const t3v_flow *back,
                  const t3v_flow *forth);

double t3v_warp_error(const t3v_warp *s);    /* root mean square, levels; NaN when no pixel counted */
double t3v_warp_coverage(const t3v_warp *s); /* part of the pixels that counted; NaN without pixels */

#endif
