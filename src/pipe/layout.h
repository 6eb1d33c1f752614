/* SPDX-License-Identifier: Apache-2.0 */
/* The layouts that weights and model directories are written in: names of tensors and files, and the small JSON files. */
#ifndef T3V_PIPE_LAYOUT_H
#define T3V_PIPE_LAYOUT_H

#include "clip/vision.h"
#include "io/names.h"
#include "io/writer.h"
#include "pipe/defaults.h"
#include "pipe/family.h"
#include "pipe/location.h"
#include "text/umt5.h"
#include "vae/vae.h"

typedef enum t3v_layout {
    T3V_LAYOUT_ORIGINAL,
    T3V_LAYOUT_DIFFUSERS, /* a text encoder's and CLIP's names are those of Transformers */
    T3V_LAYOUT_COMFYUI,   /* single files; a text encoder with its tokenizer inside */
    T3V_LAYOUTS
} t3v_layout;

extern const char *const t3v_layout_names[T3V_LAYOUTS]; /* "original", ... */
bool t3v_layout_named(const char *name, t3v_layout *out);

/* The names of weights of this kind; NULL: the original ones. */
const t3v_names *t3v_layout_tensors(t3v_layout l, t3v_container container, const t3v_family *y);

/* Where a part lies below a model's directory, by its container. vae_z: latent channels, which the VAE's name tells. */
const char *t3v_layout_path(t3v_layout l, t3v_place place, bool experts, int64_t vae_z);

/* What the small files of a directory say. */
typedef struct t3v_layout_model {
    const t3v_dit_config *dit; /* NULL: no transformer */
    bool experts;
    const t3v_umt5_config *text; /* NULL: none */
    const t3v_vae *vae;          /* NULL: none */
    const t3v_clip_config *clip; /* of the blocks that its file has; NULL: none */
    const t3v_defaults *defaults;
    bool own_defaults; /* t3v.json is written too */
} t3v_layout_model;

/* Writes config.json, in the Diffusers layout also those of the other parts, model_index.json and the scheduler's; t3v.json
 * where asked for. Directories are made. */
t3v_status t3v_layout_write(t3v_layout l, const char *dir, const t3v_layout_model *m);

#endif
