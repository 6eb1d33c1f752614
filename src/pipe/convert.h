/* SPDX-License-Identifier: Apache-2.0 */
/* Weights rewritten in another type, container or naming, a piece of a tensor at a time; LoRA merged on the way. */
#ifndef T3V_PIPE_CONVERT_H
#define T3V_PIPE_CONVERT_H

#include "pipe/file_type.h"
#include "pipe/layout.h"
#include "t3v/log.h"
#include "t3v/t3v.h"

/* Weights that are made instead of read. */
typedef struct t3v_convert_source {
    const t3v_tensor_entry *tensors; /* name (original), ndim, shape */
    int64_t count;
    /* Elements [first, first + n) of tensor i. */
    void (*values)(void *user, int64_t i, int64_t first, int64_t n, float *out);
    void *user;
} t3v_convert_source;

typedef struct t3v_convert_job {
    const char *in, *out;
    const t3v_convert_source *source; /* NULL: `in` is read; else `in` is what they are called in messages */
    const char *phase;                /* for `progress`; NULL: "convert" */
    const t3v_file_type *type;        /* NULL: every tensor keeps its own, as far as the container has it */
    t3v_container container;
    t3v_layout layout;   /* whose names the tensors get */
    int64_t shard_bytes; /* of safetensors; 0: one file */
    /* What t3v_tokenizer_open takes, for a text encoder in GGUF or for ComfyUI; NULL: looked for inside and beside the
     * input. A safetensors file gets the one that is inside the input, too. */
    const char *tokenizer;
    bool tokenizer_beside; /* it lies beside the output: only GGUF gets it inside */
    const t3v_lora_use *lora;
    int64_t loras;
    t3v_lora_for expert; /* which of two experts the input is; FOR_ALL: it is the only transformer */
    bool force;          /* replace what is there */
    const t3v_progress *progress;
} t3v_convert_job;

typedef struct t3v_convert_result {
    t3v_family family;
    int64_t tensors, bytes; /* written */
    int64_t count[T3V_DTYPE_COUNT];
    int64_t short_rows; /* matrices that became F16, as their rows are not whole blocks */
    int files;
} t3v_convert_result;

/* Reads job->in (any checkpoint that t3v_tensors_open takes) and writes job->out. Memory: some 50 MB, whatever the size.
 * The output appears whole or not at all. E_ARG: the output would be the input, or a type that the container has not;
 * E_IO: it is there already, no room; E_FORMAT: a value that the type cannot hold, a LoRA that does not fit; E_CANCEL. */
t3v_status t3v_convert_file(const t3v_convert_job *job, t3v_convert_result *result);

/* The same of all parts of the model in job->in: job->out becomes a directory in the layout, with its small files. The
 * container is the layout's; job->type is for transformers and text encoders, for other parts and .pth files only if it is a
 * plain type.
 * results[place].files is 0 for parts that are not there. */
t3v_status t3v_convert_model(const t3v_convert_job *job, t3v_convert_result results[T3V_AT_COUNT]);

#endif
