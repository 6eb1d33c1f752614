/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files on a DiT's layers, applied on the fly. */
#ifndef T3V_PIPE_LORA_ATTACH_H
#define T3V_PIPE_LORA_ATTACH_H

#include "dit/dit.h"
#include "t3v/t3v.h"

typedef struct t3v_loras {
    bool attached;
    t3v_arena arena; /* the factors, in their layers' types */
    t3v_lora_pair *pair;
} t3v_loras;

/* Low-rank pairs become updates of their layers; full differences (".diff", ".diff_b") are added to the parameters,
 * which get memory of their own. On a DiT without data memory is only counted. E_FORMAT names a key that fits no layer. */
t3v_status t3v_loras_attach(t3v_loras *l, const t3v_lora_use *use, int64_t n, t3v_dit *dit);
/* The layers forget the updates (added differences stay); memory is given back. Safe when nothing is attached. */
void t3v_loras_detach(t3v_loras *l, t3v_dit *dit);

#endif
