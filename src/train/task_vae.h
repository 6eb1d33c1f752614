/* SPDX-License-Identifier: Apache-2.0 */
/* Training the VAE on procedural video. */
#ifndef T3V_TRAIN_TASK_VAE_H
#define T3V_TRAIN_TASK_VAE_H

#include "train/trainer.h"
#include "vae/vae.h"

typedef struct t3v_task_vae {
    t3v_vae *vae;
    uint64_t seed;
    int64_t crop, frames; /* pixels (a multiple of the VAE's stride) and frames (4n + 1) of a sample */
    double kl;            /* weight of the mean KL divergence of a latent element */
    double edge;          /* weight of the loss on differences of neighbours in x, y, t */
    double sums[3];       /* of the last step, for the log: pixel error, edge error, KL */
} t3v_task_vae;

/* Gives a t3v_task over `self`. The loss of a sample is mean |d| + edge * mean |grad d| + kl * mean KL, with |.| the
 * Charbonnier distance sqrt(d^2 + 1e-6), d = decode(mu + sigma * eps) - video, frames of [-1, 1]. */
t3v_task t3v_task_vae_make(t3v_task_vae *self, t3v_dtype compute);

/* From a VAE trained on single frames to one for clips (the weights that only a second frame reaches are still random
 * then): convolutions ignore earlier frames, the encoder keeps every second frame, the decoder doubles frames. Clips
 * then start from what single frames have taught. */
void t3v_task_vae_inflate(t3v_vae *vae);

/* After training: rewrites the 1x1x1 convolutions at the latent's two sides so that mu has the mean and standard
 * deviation that Wan's constants expect, measured on `clips` scenes. The VAE computes the same function. */
t3v_status t3v_task_vae_fold(t3v_task_vae *self, int64_t clips, int64_t size, const t3v_progress *progress);

#endif
