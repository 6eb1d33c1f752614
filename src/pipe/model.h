/* SPDX-License-Identifier: Apache-2.0 */
/* A model: its parts, opened as needed, wherever they lie. */
#ifndef T3V_PIPE_MODEL_H
#define T3V_PIPE_MODEL_H

#include "dit/dit.h"
#include "io/params.h"
#include "pipe/defaults.h"
#include "pipe/dit_config.h"
#include "pipe/location.h"
#include "text/tokenizer.h"
#include "text/umt5.h"
#include "vae/vae.h"

typedef enum t3v_parts { T3V_PART_DIT = 1, T3V_PART_TEXT = 2, T3V_PART_VAE = 4, T3V_PART_ALL = 7 } t3v_parts;

typedef struct t3v_model {
    char *path; /* as given */
    t3v_location where;
    unsigned parts; /* those that are loaded */
    t3v_dtype compute;
    t3v_dit_config config; /* known even when the DiT is not loaded */
    t3v_defaults defaults;
    t3v_dit dit;
    t3v_umt5 text;
    t3v_tokenizer *tokenizer;
    t3v_vae vae;
    t3v_tensor_file *file[3]; /* dit, text, vae: mapped while their part is loaded */
    t3v_arena arena[3];
    const t3v_device *device; /* NULL: the host */
    bool streamed;            /* a DiT that is loaded keeps its blocks with the host: dit/stream.h */
    bool fp8;                 /* there it has them as 8-bit floats: t3v_dit.fp8 */
    t3v_arena placed[3];      /* weights on the device */
    t3v_arena own;            /* parameters that plans have of their own */
} t3v_model;

/* Reads the configuration and loads `parts`. writable: every parameter gets memory of its own (training). */
t3v_status t3v_model_open(t3v_model **out, const t3v_model_paths *paths, unsigned parts, t3v_dtype compute,
                          bool writable);
/* A model whose transformer is the expert for low noise of `m`, of the same shape; it has no other parts. */
t3v_status t3v_model_open_low(t3v_model **out, const t3v_model *m);
/* Loads parts that are missing, or gives the memory of parts back. */
t3v_status t3v_model_load(t3v_model *m, unsigned parts, bool writable);
/* Opens the text encoder without its weights' memory, for counting; t3v_model_unload ends it. */
t3v_status t3v_model_measure_text(t3v_model *m);
/* Opens the weights of a part as a file of their own, under the original names; caller closes. */
t3v_status t3v_model_weights(const t3v_model *m, t3v_place place, t3v_tensor_file **out);
/* Gives the loaded DiT the parameters that the plan has of its own: from the weights' file, or at random, with a warning. */
t3v_status t3v_model_adopt(t3v_model *m, const t3v_plan *plan);
void t3v_model_unload(t3v_model *m, unsigned parts);
/* E_IO when a file of one of the parts that are loaded was written to since: bf16 weights are read from it until the end. */
t3v_status t3v_model_check(const t3v_model *m, unsigned parts);
/* Pixels of a latent cell's side, of the VAE that the DiT's latents are for; a token is two cells wide. */
int64_t t3v_model_stride(const t3v_model *m);
void t3v_model_close(t3v_model *m); /* NULL is fine */

/* A text encoder's sizes, from its tensors. */
t3v_status t3v_umt5_config_read(const t3v_tensor_file *f, t3v_umt5_config *out);

#endif
