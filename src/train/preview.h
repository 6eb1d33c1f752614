/* SPDX-License-Identifier: Apache-2.0 */
/* Clips made while a model is trained, to see what its weights can do so far. */
#ifndef T3V_TRAIN_PREVIEW_H
#define T3V_TRAIN_PREVIEW_H

#include "pipe/model.h"
#include "t3v/log.h"

enum { T3V_PREVIEW_PROMPTS = 16 };

typedef struct t3v_preview {
    t3v_model *model; /* its VAE and text encoder are loaded for as long as they are needed */
    const char *prompt[T3V_PREVIEW_PROMPTS];
    int prompts;
    int64_t steps; /* of the model's default sampler; 0: the model's default */
    double cfg;    /* < 0: the model's default */
    uint64_t seed; /* of each clip's noise: t3v generate --seed gives the same clip with the same weights */
    /* Filled by t3v_preview_open: contexts of the prompts, then of the negative prompt. */
    float *context[T3V_PREVIEW_PROMPTS + 1];
    int64_t rows[T3V_PREVIEW_PROMPTS + 1];
} t3v_preview;

/* Encodes the prompts; the text encoder's memory is given back. */
t3v_status t3v_preview_open(t3v_preview *p);
void t3v_preview_close(t3v_preview *p); /* safe on a zeroed struct */

/* Makes `dir`/samples/step_NNNNNN_K.mp4 for each prompt K (a .png strip of up to 8 frames for a single frame, or where
 * videos cannot be written), with the loaded DiT under `plan`, cropped to width x height. */
t3v_status t3v_preview_render(const t3v_preview *p, const t3v_plan *plan, int64_t width, int64_t height,
                              const char *dir, int64_t step, const t3v_progress *progress);

#endif
