/* SPDX-License-Identifier: Apache-2.0 */
/* The image that a clip starts from: read from a file, and what the models make of it. */
#ifndef T3V_PIPE_IMAGE_H
#define T3V_PIPE_IMAGE_H

#include "pipe/model.h"
#include "vae/clip.h"

typedef struct t3v_image {
    float *rgb; /* [3, height, width] in [-1, 1] */
    int64_t height, width;
} t3v_image;

/* The first frame of any file that the video module reads. */
t3v_status t3v_image_read(t3v_image *out, const char *path);
void t3v_image_free(t3v_image *image); /* safe on a zeroed struct */

/* *width x *height becomes a size of at most that area in the image's shape, in multiples of `unit` pixels. */
void t3v_image_fit(const t3v_image *image, int64_t unit, int64_t *width, int64_t *height);

/* The latent [z, T, h, w] of a clip (its size in `clip`) that begins with the image, covering it and cut in the middle,
 * and goes on grey. The VAE of m is loaded. */
t3v_status t3v_image_encode(t3v_model *m, const t3v_image *image, const t3v_vae_clip *clip, float *latent);

/* What CLIP's vision tower of m's files makes of the image, on the CPU: *features of `shape` [rows, dim], to be freed; dim is
 * what the transformer takes, where the model's configuration tells it. The tower is loaded for this call. */
t3v_status t3v_image_look(const t3v_model *m, const t3v_image *image, float **features, int64_t shape[2]);
/* Bytes that takes. */
t3v_status t3v_image_look_bytes(const t3v_model *m, int64_t *bytes);

/* What models with channels for an image see of it before its latent: [T3V_DIT_MASK, T, h, w], 1 where the frame is given. */
void t3v_image_mask(const int64_t latent[4], float *mask);
/* Puts a latent frame [z, 1, h, w] in the place of the first one of x [z, T, h, w]. */
void t3v_image_put(const float *frame, const int64_t latent[4], float *x);

#endif
