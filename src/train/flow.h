/* SPDX-License-Identifier: Apache-2.0 */
/* The flow-matching loss of one sample: noise level, target, weighting, and what a teacher says. */
#ifndef T3V_TRAIN_FLOW_H
#define T3V_TRAIN_FLOW_H

#include "dit/dit.h"

typedef enum t3v_weighting {
    T3V_WEIGHT_NONE,
    /* DiffSynth's: exp(-2 ((t - 500) / 1000)^2) minus its least value, of mean 1 over its 1,000 timesteps */
    T3V_WEIGHT_DIFFSYNTH,
} t3v_weighting;

typedef struct t3v_flow {
    const t3v_dit *dit;
    const t3v_plan *plan;
    double shift; /* of the noise levels: sigma = shift u / (1 + (shift - 1) u), u uniform */
    t3v_weighting weighting;
    int64_t steps; /* of the usual schedule: tells the plan which of its steps a noise level belongs to */
    /* Keep only the blocks' inputs and run blocks again on the way back: less memory, 4/3 the time. */
    bool recompute;
    int64_t range; /* tokens walked at a time; 0: chosen */
    /* A model whose velocity under `teacher_plan` is `teach` of the target, and whose self-attention that of the trained
     * one is drawn to: + teach_layers mean over layers and elements of (o - teacher's o)^2, o before the output projection,
     * each model's on its own way through the blocks from the same x. NULL: none. */
    const t3v_dit *teacher;
    const t3v_plan *teacher_plan;
    double teach; /* 0 .. 1 */
    double teach_layers;
    /* Filled by t3v_flow_open. */
    double weight_least, weight_mean;
} t3v_flow;

/* One sample's noise: its level and the stream (seed, stream) of normal numbers. */
typedef struct t3v_flow_noise {
    double u; /* 0 .. 1 */
    uint64_t seed, stream;
    bool cond; /* has a caption */
    bool
        first; /* the first latent frame is given, without noise and at timestep 0; the loss is of the others */
} t3v_flow_noise;

/* Normalises the weighting. */
void t3v_flow_open(t3v_flow *f);
/* The weight of timestep t (0 .. 1000). */
double t3v_flow_weight(const t3v_flow *f, double t);

/* What is told about a sample beside its loss. */
typedef struct t3v_flow_told {
    double sigma;
    double attention; /* distance of self-attention from the teacher's, without its weight */
} t3v_flow_told;

/* *loss = w mean((v - target)^2) at x = (1 - sigma) x0 + sigma eps with target eps - x0, or the mixture with the teacher's
 * velocity, plus what self-attention adds, and the gradient of scale * loss. x0 [C, T, h, w] BF16 and context [L, text_dim] F32 are on ctx. */
t3v_status t3v_flow_sample(const t3v_flow *f, t3v_ctx *ctx, const t3v_tensor *x0, t3v_tensor *context,
                           const t3v_flow_noise *noise, double scale, double *loss, t3v_flow_told *told);

/* Mean loss in each quarter of sigma, and mean distance of self-attention from a teacher's, over the samples since it was last told. Safe from several threads. */
typedef struct t3v_flow_levels {
    double sum[4];
    int64_t count[4];
    double attention;
} t3v_flow_levels;
void t3v_flow_levels_add(t3v_flow_levels *l, const t3v_flow_told *told, double loss);
/* `"by_sigma":[a,b,c,d]` for a log line, with a teacher of attention also `"attention":e`; starts anew. */
void t3v_flow_levels_tell(t3v_flow_levels *l, char *text, size_t n);

#endif
