/* SPDX-License-Identifier: Apache-2.0 */
/* The training loop: data-parallel over samples (one thread walks one sample at a time), AdamW or Muon, warm-up and cosine
 * decay, clipping, a moving average, skipped non-finite steps (ten in a row end the run), and checkpoints that resume to the same bytes. */
#ifndef T3V_TRAIN_TRAINER_H
#define T3V_TRAIN_TRAINER_H

#include "cuda/device.h"
#include "ops/ctx.h"
#include "t3v/log.h"

typedef struct t3v_train_options {
    int64_t steps, batch;
    double lr, lr_end; /* peak, and what the cosine ends at */
    int64_t warmup;    /* steps of linear warm-up */
    double beta1, beta2, eps, weight_decay;
    /* matrices of the blocks by Muon (train/muon.h) with `momentum`; the rest by AdamW */
    bool muon;
    double momentum;
    double clip;        /* of the global gradient norm; 0: none */
    double ema;         /* decay of the moving average; 0: none, the weights themselves are saved */
    int64_t save_every; /* steps between checkpoints */
    uint64_t seed;
    size_t arena_bytes; /* per worker; 0: what the machine, or the device, has */
} t3v_train_options;

/* What is trained. `sample` runs forward and backward of sample `index` of step `step`, its loss weighted by
 * 1 / batch, on the given worker's context; it draws its randomness from (seed, step, index) alone. */
typedef struct t3v_task {
    void *self;
    const t3v_params *part[4]; /* NULL-terminated lists of what is trained, in order */
    t3v_dtype compute;
    const t3v_device
        *device; /* that has the parameters' data, and then all that is trained with; NULL: the host */
    const char
        *data; /* what it learns from, in words: a resumed run must have the same; NULL: nothing to tell */
    t3v_status (*sample)(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                         double *loss);
    /* Writes the model with `values[i]` (F32) for the i-th trained parameter into directory `dir`. */
    t3v_status (*save)(void *self, const char *dir, float *const *values);
    /* A stage begins, or a resumed run is in one; may be NULL. */
    t3v_status (*enter)(void *self, int stage);
    /* Makes something to look at for `step` in directory `dir`, with the weights that `save` would get in the model's
     * tensors: every `render_every` steps and at the end of each stage. Its failures are warnings. May be NULL. */
    t3v_status (*render)(void *self, const char *dir, int64_t step, const t3v_progress *progress);
    int64_t render_every;
    /* Words of JSON for a log line, e.g. "\"kl\":0.2"; may be NULL. */
    void (*log)(void *self, char *text, size_t n);
} t3v_task;

/* Runs `stages` stages, one for each of `o`, which may differ in steps, batch, lr, lr_end and warmup; the rest is the
 * first's. The learning rate's course and the moving average start anew with a stage, moments go on. Runs to the end, or
 * `stop_after` more steps (0: no limit), or cancellation; a checkpoint is written at every stop and at the end of each
 * stage. dir: gets log.jsonl, state/, and what task->save writes. resume: continue from dir/state (E_ARG when
 * `settings`, the text of the configuration, or task->data differs from what is stored there). */
t3v_status t3v_train(const t3v_task *task, const t3v_train_options *o, int stages, const char *dir,
                     bool resume, int64_t stop_after, const char *settings, const t3v_progress *progress);

/* Bytes, of the device where there is one, that a run takes beside the model's own weights: optimizer state, gradients, and on each thread the largest sample
 * of a stage, laid out in a counting arena (task->sample must be able to). Parameters are marked as t3v_train marks them and
 * stay so. */
t3v_status t3v_train_bytes(const t3v_task *task, const t3v_train_options *o, int stages, int64_t *bytes);

/* The learning rate of step `step` (0-based) of a stage. */
double t3v_train_lr(const t3v_train_options *o, int64_t step);

#endif
