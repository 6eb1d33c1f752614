/* SPDX-License-Identifier: Apache-2.0 */
/* Seam energy: do pictures jump where tiles meet, more than they do beside? */
#ifndef T3V_EVAL_SEAM_H
#define T3V_EVAL_SEAM_H

#include <stdint.h>

/* Sums over frames; start from zero. */
typedef struct t3v_seam {
    double border, beside; /* energy at the borders; mean energy of the lines 2 to 5 pixels from them */
} t3v_seam;

/* Adds one frame y [h,w] cut into tiles of tile_h x tile_w from its top left corner. The jump between the pixels b and
 * c of a line a b c d across a border is (c - b) - ((b - a) + (d - c)) / 2: what slopes beside it do not explain. It is
 * averaged over 8 pixels along the border, as a seam keeps its sign there and texture does not, and squared. Borders
 * nearer than 7 pixels to the edge of the picture are left out. */
void t3v_seam_add(t3v_seam *s, const uint8_t *y, int64_t h, int64_t w, int64_t tile_h, int64_t tile_w);

/* Border over beside: 1 = no seam. Each has 0.01 squared levels added, so that flat pictures give 1. NaN if no border
 * lies inside the pictures. */
double t3v_seam_ratio(const t3v_seam *s);

#endif
