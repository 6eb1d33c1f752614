/* SPDX-License-Identifier: Apache-2.0 */
/* What of a DiT is trained: all of it, its self-attention, what the plan has of its own, or low-rank updates. */
#ifndef T3V_TRAIN_TRAINED_H
#define T3V_TRAIN_TRAINED_H

#include "dit/dit.h"

typedef enum t3v_trained_kind {
    T3V_TRAIN_ALL,
    T3V_TRAIN_SELF,
    T3V_TRAIN_OWN,
    T3V_TRAIN_LORA
} t3v_trained_kind;

/* Low-rank updates W + alpha / rank B A (Hu et al., arXiv 2106.09685). */
typedef struct t3v_trained_lora {
    int64_t rank;
    double alpha;        /* 0: the rank */
    const char *targets; /* ends of layer names with commas between, "q,k,v,o,ffn.0,ffn.2"; NULL: these */
    uint64_t seed;       /* of A; B starts at zero */
} t3v_trained_lora;

typedef struct t3v_trained {
    t3v_dit *dit;
    t3v_trained_kind kind;
    t3v_params params; /* for the trainer */
    t3v_lora_pair *pair;
    double scale; /* alpha / rank */
    t3v_arena arena;
} t3v_trained;

/* Lists the parameters; with T3V_TRAIN_LORA the layers get their updates. `compute`: the type
 * of the model's products. E_ARG: nothing to train (which names the
 * targets that fit no layer, or a plan without parameters), a rank that is too large for a layer. */
t3v_status t3v_trained_open(t3v_trained *t, t3v_dit *dit, t3v_trained_kind kind, const t3v_trained_lora *lora,
                            t3v_dtype compute);
void t3v_trained_close(t3v_trained *t); /* the layers forget the updates; safe on a zeroed struct */

/* Writes `dir`/diffusion_pytorch_model.safetensors, the whole DiT with `values` (F32, by trained parameter) in place of
 * its own, in BF16; or `dir`/lora.safetensors: keys diffusion_model.LAYER.lora_A.weight and lora_B.weight in F32, alpha
 * multiplied into B, so that every reader's default scale of 1 is right. */
t3v_status t3v_trained_save(const t3v_trained *t, const char *dir, float *const *values);
/* After low-rank training: `dir`/diffusion_pytorch_model.safetensors, the DiT with W + alpha / rank B A, in the type that
 * its layers had in training. */
t3v_status t3v_trained_merge(const t3v_trained *t, const char *dir, float *const *values);

#endif
