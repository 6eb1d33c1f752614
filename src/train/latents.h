/* SPDX-License-Identifier: Apache-2.0 */
/* From a folder of videos with captions to a data set of latents and text contexts (train/dataset.h). */
#ifndef T3V_TRAIN_LATENTS_H
#define T3V_TRAIN_LATENTS_H

#include <stdbool.h>

#include "pipe/model.h"
#include "t3v/log.h"

enum { T3V_LATENTS_CROPS = 1000, T3V_LATENTS_FRAMES = 100001, T3V_LATENTS_EVERY = 1000 };

typedef struct t3v_latents_job {
    t3v_model_paths paths; /* the text encoder and the VAE of this model */
    const char *videos;    /* folder */
    /* File (io/captions.h); NULL: videos/captions.json where that is, else NAME.txt beside each NAME.mp4 */
    const char *captions;
    const char *out;
    int64_t width, height, frames; /* multiples of 16, 4n + 1; 0: the model's own */
    int64_t every;                 /* take every n-th frame, 1 to T3V_LATENTS_EVERY */
    double fps;                    /* > 0: take this many frames a second instead */
    int64_t crops;                 /* clips a video */
    bool random; /* each clip starts anywhere in its share of the video; else at the first frame of it */
    uint64_t seed;
    t3v_dtype compute;
    int64_t tile_h, tile_w; /* of the VAE, as in t3v_vae_clip */
    int64_t memory_limit;   /* of the whole program; 0: none */
    const t3v_progress *progress;
} t3v_latents_job;

typedef struct t3v_latents_result {
    int64_t clips;                          /* in the index: made + kept */
    int64_t made, kept;                     /* kept: they were there */
    int64_t skipped;                        /* videos that could not be used */
    int64_t without_caption, without_video; /* videos, captions */
} t3v_latents_result;

/* A clip is `frames` frames of a video: with `every`, first + i every; with `fps`, first + the nearest to i
 * video_fps / fps. A video with room + 1 possible first frames gives clip k of n the share [k (room + 1) / n,
 * (k + 1) (room + 1) / n) of them; empty shares give no clip. Random: drawn from (seed, the file's name, k).
 * Frames are resized to cover the size and cut in the middle. Files that are there are kept when they are of
 * the same video (name, bytes) and caption, and refused (E_ARG) when of other settings. A video that cannot
 * be read or is too short is skipped, with a warning at the end. The index is written last. Fails with
 * E_FORMAT when there is no clip at all, but writes the index. */
t3v_status t3v_latents_make(const t3v_latents_job *job, t3v_latents_result *result);

#endif
