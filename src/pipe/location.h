/* SPDX-License-Identifier: Apache-2.0 */
/* Where the parts of a model lie, in every layout that models come in. */
#ifndef T3V_PIPE_LOCATION_H
#define T3V_PIPE_LOCATION_H

#include <stdbool.h>

#include "base/status.h"
#include "cuda/device.h"

/* What the user names; all but `model` may be NULL. */
typedef struct t3v_model_paths {
    const char *model; /* a directory, or a DiT's file; of two experts the one for high noise */
    const char *vae, *text_encoder, *tokenizer;
    const char *model_low, *clip;
    const t3v_device *device; /* where the weights go; NULL: they stay with the host */
    bool streamed;            /* there the DiT's blocks come one by one: dit/stream.h */
    bool fp8;                 /* there their matrices are multiplied as 8-bit floats: ops/fp8/fp8.h */
} t3v_model_paths;

typedef enum t3v_place {
    T3V_AT_DIT,
    T3V_AT_DIT_LOW, /* the expert for low noise */
    T3V_AT_TEXT,
    T3V_AT_TOKENIZER,
    T3V_AT_VAE,
    T3V_AT_CLIP,
    T3V_AT_COUNT
} t3v_place;

typedef struct t3v_location {
    const char *layout; /* "original", "diffusers" or "files" */
    bool experts;       /* two DiTs by the names of files or folders, whether or not both were found */
    /* By t3v_place: what t3v_tensors_open takes, or a tokenizer's file. NULL: not found; t3v_location_get says so. */
    char *path[T3V_AT_COUNT];
    char *several[T3V_AT_COUNT]; /* the files that could be it, where they are more than one; else NULL */
    char *config;                /* config.json of the DiT; NULL: there is none, its shapes tell */
    char *pipeline;              /* model_index.json of the Diffusers layout; NULL */
    char *scheduler;             /* scheduler_config.json of the Diffusers layout; NULL */
    char *defaults;              /* t3v.json; NULL */
    char *root;                  /* the directory that was looked in */
    char *broken; /* why a file there that was looked into could not be read; NULL: all could */
} t3v_location;

/* The same as t3v_location_find, but a model without a DiT is no error. */
t3v_status t3v_location_look(t3v_location *out, const t3v_model_paths *paths);
/* What a part is called below a model's directory, best first, ending with NULL; the option that names it elsewhere. */
const char *const *t3v_location_names(t3v_place place);
const char *t3v_location_option(t3v_place place);

/* Looks for the names that the layouts give the parts, then, for what is missing, into the files there (headers only; two
 * levels of directories, up to 256 files). E_ARG: a path that was given is not there; E_IO: `model` has no DiT; E_FORMAT: a directory holds
 * two layouts. Other parts that are missing are not an error yet. */
t3v_status t3v_location_find(t3v_location *out, const t3v_model_paths *paths);
void t3v_location_free(t3v_location *l); /* safe on a zeroed struct */

/* location_scan.c: what a directory's files hold, for the parts without a path; the other expert of a DiT whose name says
 * "high noise" or "low noise" (false: no memory). */
t3v_status t3v_location_scan(t3v_location *l);
bool t3v_location_pair(t3v_location *l);

/* The path of a part; E_IO says what was looked for and which option names it. */
t3v_status t3v_location_get(const t3v_location *l, t3v_place place, const char **out);

#endif
