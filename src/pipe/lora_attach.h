/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files on a DiT's layers: applied on the fly, or merged into the weights. */
#ifndef T3V_PIPE_LORA_ATTACH_H
#define T3V_PIPE_LORA_ATTACH_H

#include "dit/dit.h"
#include "pipe/schedule.h"
#include "t3v/t3v.h"

typedef struct t3v_loras {
    bool attached;
    t3v_arena arena; /* factors, and weights that were changed */
    t3v_lora_pair *pair;
    struct t3v_lora_before *before; /* of each changed parameter */
    int64_t changed;
} t3v_loras;

typedef struct t3v_loras_how {
    t3v_lora_for expert; /* which of two experts the DiT is; FOR_ALL: the model has one */
    bool merge;          /* pairs are added to the weights, but where those are packed or streamed */
    t3v_dtype compute;   /* the type of what belongs to packed weights */
} t3v_loras_how;

/* The DiT's part in a run: `low` is that expert's model, NULL where there is one transformer. */
static inline t3v_lora_for t3v_lora_for_expert(t3v_expert e, const void *low)
{
    return !low ? T3V_LORA_FOR_ALL : e == T3V_EXPERT_LOW ? T3V_LORA_FOR_LOW : T3V_LORA_FOR_HIGH;
}

/* Files for the other expert are left out. Low-rank pairs become updates of their layers in the layers' types; full
 * differences (".diff", ".diff_b"), and with how->merge pairs too, are added in F32 to copies of the parameters. On a DiT
 * without data memory is only counted. E_FORMAT names a key that fits no layer. */
t3v_status t3v_loras_attach(t3v_loras *l, const t3v_lora_use *use, int64_t n, const t3v_loras_how *how,
                            t3v_dit *dit);
/* The layers are as they were before; memory is given back. Safe when nothing is attached. */
void t3v_loras_detach(t3v_loras *l, t3v_dit *dit);

#endif
