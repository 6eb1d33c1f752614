/* SPDX-License-Identifier: Apache-2.0 */
/* Tuning a trained DiT, or a part of it, under a plan, on a directory of cached latents. */
#ifndef T3V_TRAIN_TASK_TUNE_H
#define T3V_TRAIN_TASK_TUNE_H

#include "pipe/model.h"
#include "train/dataset.h"
#include "train/flow.h"
#include "train/trained.h"
#include "train/trainer.h"

typedef struct t3v_task_tune {
    t3v_model *model;        /* its DiT, writable */
    const t3v_dataset *data; /* latents and contexts made with the model's VAE and text encoder */
    const char *plan_text;
    t3v_trained_kind kind;
    t3v_trained_lora lora;
    bool merge;         /* a LoRA is also added to the weights and these are saved */
    uint64_t seed;      /* of clips, noise and noise levels */
    double drop;        /* share of samples with the empty prompt */
    t3v_flow flow;      /* shift, weighting, recompute, range, teach are the caller's; the rest is filled */
    t3v_model *teacher; /* its DiT, under plan full; NULL: none */
    t3v_plan *plan, *full; /* filled */
    t3v_trained trained;
    float *empty; /* context of the empty prompt */
    t3v_flow_levels levels;
} t3v_task_tune;

/* E_SHAPE: the data's latents or contexts are not the model's. */
t3v_status t3v_task_tune_open(t3v_task_tune *s);
void t3v_task_tune_close(t3v_task_tune *s);
t3v_task t3v_task_tune_make(t3v_task_tune *s);

#endif
