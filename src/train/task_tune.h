/* SPDX-License-Identifier: Apache-2.0 */
/* Tuning a trained DiT, or a part of it, on directories of cached latents: in stages, each with its data and plan. */
#ifndef T3V_TRAIN_TASK_TUNE_H
#define T3V_TRAIN_TASK_TUNE_H

#include "pipe/model.h"
#include "train/dataset.h"
#include "train/flow.h"
#include "train/preview.h"
#include "train/trained.h"
#include "train/trainer.h"

typedef struct t3v_tune_stage {
    const t3v_dataset *data; /* latents and contexts made with the model's VAE and text encoder */
    const char *plan_text;
    /* shift, weighting, recompute, range, teach, teach_layers are the caller's; the rest is filled */
    t3v_flow flow;
    /* Filled: plans of training, of the teacher, of what is rendered where its size is not the data's. */
    t3v_plan *plan, *full, *look;
    float *empty; /* context of the empty prompt */
} t3v_tune_stage;

typedef struct t3v_task_tune {
    t3v_model *model; /* its DiT, writable */
    t3v_tune_stage *stage;
    int stages;
    t3v_trained_kind kind;
    t3v_trained_lora lora;
    bool merge;           /* a LoRA is also added to the weights and these are saved */
    uint64_t seed;        /* of clips, noise and noise levels */
    double drop;          /* share of samples with the empty prompt */
    double first_frame;   /* share of samples whose first latent frame is given, of models that take it so */
    t3v_model *teacher;   /* its DiT, under plan full; NULL: none */
    t3v_preview *preview; /* opened; NULL: nothing is rendered */
    int64_t preview_every;
    int64_t preview_size[3]; /* width, height, multiples of 16, frames; 0: the data's */
    const t3v_tune_stage *now;
    t3v_trained trained;
    t3v_flow_levels levels;
    char *data; /* all stages' data in words */
} t3v_task_tune;

/* E_SHAPE: a stage's latents or contexts are not the model's; of several stages the message says which. */
t3v_status t3v_task_tune_open(t3v_task_tune *s);
void t3v_task_tune_close(t3v_task_tune *s);
t3v_task t3v_task_tune_make(t3v_task_tune *s);

typedef struct t3v_tune_cost {
    int64_t weights, trained; /* numbers */
    int64_t bytes;            /* at the most, resident or of the device; without what rendered samples need */
} t3v_tune_cost;
/* What a run with these options (one for each stage) will take, found by laying its samples out without data. flop[i]: of
 * an optimizer step of stage i, a multiply-add counts two; the way back is taken for one forward pass, and for as much of
 * another as there are matrices that are trained. */
t3v_status t3v_task_tune_cost(t3v_task_tune *s, const t3v_train_options *o, t3v_tune_cost *out, double *flop);

#endif
