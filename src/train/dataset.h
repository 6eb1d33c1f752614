/* SPDX-License-Identifier: Apache-2.0 */
/* Cached latents and text contexts on disk: what `t3v data latents` writes and training reads.
 *
 * DIR/index.json           {"format", "model", "precision", "size": [W,H], "frames", "latent": [16,T,h,w],
 *                           "dim", "clips": [{"file", "source", "caption"}], and what was left out}
 * DIR/clips/NAME           `latent` [16,T,h,w] BF16, `context` [L,dim] F32; metadata: of what, and how
 * DIR/empty.safetensors    `context` [L,dim] F32 of the empty prompt, for samples without a caption */
#ifndef T3V_TRAIN_DATASET_H
#define T3V_TRAIN_DATASET_H

#include <stdint.h>

#include "base/status.h"
#include "io/tensors.h"

#define T3V_DATASET_FORMAT "t3v-latents-1"
enum { T3V_DATASET_CLIPS = 10000000 };

typedef struct t3v_dataset_clip {
    char *file; /* path of the clip's file */
    char *source, *caption;
    int64_t rows; /* of its context */
} t3v_dataset_clip;

typedef struct t3v_dataset {
    char *path, *model; /* model: t3v_fingerprint of the text encoder and the VAE */
    int64_t width, height, frames;
    int64_t latent[4]; /* 16, T, h, w: the same for all clips */
    int64_t dim;       /* of the contexts */
    int64_t rows_max;  /* of all contexts, the empty prompt's too */
    t3v_dataset_clip empty;
    t3v_dataset_clip *clip; /* [count], in the order of the index, count >= 1 */
    int64_t count;
} t3v_dataset;

/* Reads the index and the headers of all files: E_SHAPE names a file whose tensors have other sizes, E_FORMAT
 * one that is damaged, missing a part or made with other weights, E_IO one that is not there. */
t3v_status t3v_dataset_open(t3v_dataset **out, const char *dir);
void t3v_dataset_close(t3v_dataset *d); /* NULL is fine */

/* Clip i: latent [16,T,h,w] BF16, context [clip[i].rows, dim] F32; either may be NULL. Checks the file again;
 * E_FORMAT when a number is not finite. Any thread. */
t3v_status t3v_dataset_read(const t3v_dataset *d, int64_t i, uint16_t *latent, float *context);
/* The empty prompt's context [empty.rows, dim]. */
t3v_status t3v_dataset_read_empty(const t3v_dataset *d, float *context);

/* One line that tells this data from other: clips, size, and a number made of the videos' names and captions, in order, and
 * of the model that encoded them. */
enum { T3V_DATASET_TEXT = 128 };
void t3v_dataset_describe(const t3v_dataset *d, char text[T3V_DATASET_TEXT]);

/* The value of a key of a file's metadata; NULL when there is none. */
const char *t3v_dataset_meta(const t3v_tensor_file *f, const char *key);

#endif
