/* SPDX-License-Identifier: Apache-2.0 */
/* What a file of weights is, told from the names and shapes of its tensors. */
#ifndef T3V_PIPE_FAMILY_H
#define T3V_PIPE_FAMILY_H

#include "io/tensors.h"

typedef enum t3v_weights_kind {
    T3V_WEIGHTS_UNKNOWN,
    T3V_WEIGHTS_DIT,
    T3V_WEIGHTS_VAE,
    T3V_WEIGHTS_TEXT,
    T3V_WEIGHTS_LORA,
    T3V_WEIGHTS_CLIP
} t3v_weights_kind;

typedef struct t3v_family {
    t3v_weights_kind kind;
    const char *name;   /* "wan2.1-t2v-1.3b", ...; "wan-t2v" of another size; NULL when not told */
    const char *reason; /* why this build does not run it; NULL: it does */
    /* ---- a DiT; 0 where the weights do not tell ---- */
    int64_t dim, ffn_dim, layers, in_dim, out_dim, text_dim;
    /* ---- a VAE: base widths, latent channels. A text encoder: vocabulary, width, layers, heads ---- */
    int64_t vae_width, vae_decoder_width, vae_z, vocab, text_width, text_layers, text_heads;
    /* ---- CLIP's vision tower ---- */
    int64_t clip_width, clip_layers;
} t3v_family;

/* Never fails: what is not recognised is T3V_WEIGHTS_UNKNOWN. Names are the original ones (io/names.h). */
void t3v_family_detect(const t3v_tensor_file *f, t3v_family *out);
const char *t3v_weights_kind_name(t3v_weights_kind kind);

#endif
