/* SPDX-License-Identifier: Apache-2.0 */
/* What a run from a job to videos holds, and how it is kept in a file to be gone on with. */
#ifndef T3V_PIPE_RUN_H
#define T3V_PIPE_RUN_H

#include "dit/graph.h"
#include "pipe/image.h"
#include "pipe/lora_attach.h"
#include "pipe/model.h"
#include "pipe/schedule.h"
#include "t3v/t3v.h"

/* What the text encoder made of a prompt: rows [n, dim] F32. */
typedef struct t3v_run_context {
    const char *prompt;
    int64_t rows, dim;
    float *data; /* owned by the first context of this prompt */
    bool shared;
} t3v_run_context;

/* Everything a run holds. Zeroed, every field may be released. */
typedef struct t3v_run {
    const t3v_job *job;
    const t3v_device *device; /* NULL: the CPU */
    t3v_job want;             /* the job with its defaults filled in */
    t3v_model *model, *low;   /* low: holds the expert for low noise; NULL: there is one transformer */
    t3v_model_paths paths;
    t3v_image image; /* that the clip starts from; empty: none */
    float *first;    /* its latent frame, where that is put into the latent; else NULL */
    int64_t clip_rows;
    float *clip;            /* its features [clip_rows, clip_dim], where the model looks at them; else NULL */
    t3v_plan *plan, *dense; /* dense: of the first steps, when the job has such */
    t3v_sampler *sampler;
    t3v_schedule schedule;
    t3v_loras loras[T3V_EXPERTS];
    int64_t latent[4];         /* 16, T, h, w */
    int64_t n;                 /* elements of a latent */
    t3v_arena memory;          /* of the forward passes */
    t3v_run_context *contexts; /* of the outputs' prompts, then the negative's: [outputs + 1] */
    float *x; /* the latent, and after its channels those of the image, which stay as they are */
    float *v[T3V_BRANCHES];
    /* [tokens, dim] in the forward passes' memory; NULL: the schedule keeps none */
    void *residual[T3V_BRANCHES];
    t3v_dit_graphs graphs;    /* of short passes on a device */
    void *kept[T3V_BRANCHES]; /* what attention keeps from step to step, `kept_bytes`; NULL: nothing */
    size_t kept_bytes;
    t3v_attend_met met;        /* of the current output, where the plan chooses keys by content */
    int done_step, saved_step; /* of the current output: steps in x, steps in the state file (-1: no file) */
    size_t vae_room;           /* bytes the VAE's decoder may take */
    t3v_result result;
} t3v_run;

/* A step that was left within a pass: the branches before `branch` have their velocities, the blocks before `layer` of its
 * pass have run. */
typedef struct t3v_run_pass {
    int branch;
    int64_t layer;            /* both 0: no pass was left */
    const t3v_tensor *stream; /* the residual stream before that block, to be saved */
} t3v_run_pass;

/* Whether the schedule asks for the negative prompt. */
bool t3v_run_guided(const t3v_run *r);
uint64_t t3v_run_seed(const t3v_run *r, int64_t index);
t3v_model *t3v_run_model(const t3v_run *r, t3v_expert e);
/* t3v_model_check of the transformers that are loaded. */
t3v_status t3v_run_check(const t3v_run *r);
/* What the blocks add to the residual stream of a branch, [tokens, dim], as it lies in files; no data when none is kept. */
t3v_tensor_entry t3v_run_residual(const t3v_run *r, int branch);

/* OUTPUT.t3v-state: the latent after done_step steps, the sampler's history, what later steps reuse; with a `pass` the
 * residual stream within the next step too. Does nothing for a sink, or where the file has that step already and `pass` is
 * NULL. */
t3v_status t3v_run_save(t3v_run *r, int64_t index, const t3v_run_pass *pass);
/* Sets x and the rest from that file where it is: *found, and the pass that it was left in. E_ARG when it is of another
 * job. */
t3v_status t3v_run_load(t3v_run *r, int64_t index, bool *found, t3v_run_pass *pass);
/* Fills the residual stream [tokens, dim] F32 of the pass that the file was left in. */
t3v_status t3v_run_load_stream(const t3v_run *r, int64_t index, t3v_tensor *stream);
/* Keeps what is done when a run ends early; returns `why`, whose text stays the last message. */
t3v_status t3v_run_keep(t3v_run *r, int64_t index, const t3v_run_pass *pass, t3v_status why);
void t3v_run_drop(const t3v_run *r, int64_t index);

#endif
