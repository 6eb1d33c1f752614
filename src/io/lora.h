/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files of the usual layouts, matched to a model's weights. */
#ifndef T3V_IO_LORA_H
#define T3V_IO_LORA_H

#include <stdint.h>

#include "io/tensors.h"
#include "t3v/t3v.h"

typedef enum t3v_lora_kind {
    T3V_LORA_PAIR, /* delta = strength * scale * B A */
    T3V_LORA_DIFF, /* delta = strength * scale * diff, of the weight's own shape (also biases, norms, modulation) */
} t3v_lora_kind;

typedef struct t3v_lora_item {
    int64_t weight; /* index into the caller's weights */
    t3v_lora_kind kind;
    const t3v_tensor_entry *a, *b; /* pair: [rank, in], [out, rank], trailing axes of 1 allowed; else NULL */
    const t3v_tensor_entry *diff;  /* diff; else NULL */
    int64_t rank;                  /* pair */
    float scale; /* alpha / rank; 1 where the file has no alpha, and for a diff that belongs to no pair */
} t3v_lora_item;

typedef struct t3v_lora {
    t3v_tensor_file *file;
    const char *layout; /* "native", "diffusion_model", "kohya", "diffusers" or "mixed" */
    t3v_lora_item *items;
    int64_t count;
} t3v_lora;

/* Opens a LoRA for a model whose tensors (original names and shapes; data is not read) are `weights`. Key layouts:
 * PEFT/DiffSynth native, `diffusion_model.`, kohya `lora_unet_`, Diffusers `transformer.`. Where a file has keys of both
 * experts (`transformer.` the high one, `transformer_2.` the low), `expert` says which are meant; for FOR_ALL they are
 * one too many. A key that fits none of the weights is E_FORMAT (named and counted), a factor of the wrong size E_SHAPE. */
t3v_status t3v_lora_open(t3v_lora **out, const char *path, const t3v_tensor_entry *weights, int64_t n,
                         t3v_lora_for expert);
/* Adds strength times what the item changes to rows [first, first + rows) of its weight, w[rows, cols] F32: cols is the
 * product of the weight's axes after the first. The sums' order is fixed. E_NOMEM. */
t3v_status t3v_lora_add(const t3v_lora_item *item, double strength, int64_t first, int64_t rows, int64_t cols,
                        float *w);
void t3v_lora_close(t3v_lora *l); /* NULL is fine */

#endif
