/* SPDX-License-Identifier: Apache-2.0 */
/* Training the DiT, with its text encoder or without, on cached latents of procedural video. */
#ifndef T3V_TRAIN_TASK_DIT_H
#define T3V_TRAIN_TASK_DIT_H

#include "attn/plan.h"
#include "pipe/model.h"
#include "train/flow.h"
#include "train/trainer.h"

enum { T3V_TASK_WORKERS = 64 };

typedef struct t3v_task_dit {
    t3v_model *model; /* all parts, writable; the VAE is only needed to make latents */
    uint64_t seed;
    int64_t size, frames; /* of the clips */
    int64_t clips;        /* distinct scenes cached as latents */
    t3v_flow flow;        /* shift, recompute and range are the caller's, the rest is filled */
    double drop;          /* share of samples with the empty prompt, for CFG */
    bool freeze_text;     /* train the DiT alone */
    t3v_plan *plan;
    uint16_t *latents;   /* BF16 [clips, 16, T, h, w] */
    int64_t latent_size; /* elements of one */
    t3v_tokenizer *tokenizer[T3V_TASK_WORKERS];
    t3v_flow_levels levels;
} t3v_task_dit;

/* Renders and encodes the clips (but those that `cache` holds already, a file this writes, of the same scenes at the same size;
 * NULL: no file), makes the plan from its text, opens tokenizers. */
t3v_status t3v_task_dit_open(t3v_task_dit *self, const char *plan, const char *cache,
                             const t3v_progress *progress);
void t3v_task_dit_close(t3v_task_dit *self);
t3v_task t3v_task_dit_make(t3v_task_dit *self);

#endif
