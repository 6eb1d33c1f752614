/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting a picture into overlapping tiles, blending them, and keeping a clip that tiles fill one after another. */
#ifndef T3V_VAE_TILES_H
#define T3V_VAE_TILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* One axis of n cells cut into `count` tiles of `size` cells; neighbours overlap by at most size / 4, and only
 * neighbours do. */
typedef struct t3v_tiles {
    int64_t n, size, count;
} t3v_tiles;

/* The fewest tiles of at most `limit` cells (>= 8, or >= n). */
t3v_tiles t3v_tiles_make(int64_t n, int64_t limit);
/* First cell of tile i. */
int64_t t3v_tiles_start(const t3v_tiles *t, int64_t i);
/* w[size * scale]: tile i's share of each of its points, `scale` points a cell: linear ramps over the overlaps. The
 * shares of a point sum to 1. */
void t3v_tiles_weights(const t3v_tiles *t, int64_t i, int64_t scale, float *w);

/* A clip of planar frames [frames, 3, h, w] to which weighted tiles are added: F32 in memory, or 16-bit fixed point in
 * an unlinked file in $TMPDIR (default /var/tmp), where up to four roundings cost at most 2/32000, 1/60 of an 8-bit
 * level. */
typedef struct t3v_store {
    int64_t frames, h, w;
    float *ram;
    int fd;
    int16_t *row; /* file: one frame */
} t3v_store;

size_t t3v_store_bytes(int64_t frames, int64_t h, int64_t w, bool file); /* of memory */
/* All zero. E_IO names the directory and the size when the file has no room. */
t3v_status t3v_store_open(t3v_store *s, int64_t frames, int64_t h, int64_t w, bool file);
void t3v_store_close(t3v_store *s);

/* Adds wy[y] * wx[x] * rgb[c, y, x] at (y0, x0) of a frame; rgb [3, th, tw] in [-1, 1]. */
t3v_status t3v_store_add(t3v_store *s, int64_t frame, int64_t y0, int64_t x0, int64_t th, int64_t tw,
                         const float *wy, const float *wx, const float *rgb);
/* Sets a whole frame; in a file, values beyond [-1, 1] are clamped. */
t3v_status t3v_store_put(t3v_store *s, int64_t frame, const float *rgb);
/* A part of a frame into rgb [3, th, tw]. */
t3v_status t3v_store_get(t3v_store *s, int64_t frame, int64_t y0, int64_t x0, int64_t th, int64_t tw,
                         float *rgb);

#endif
