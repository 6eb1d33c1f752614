/* SPDX-License-Identifier: Apache-2.0 */
/* Weights rewritten in another type, container or naming, a piece of a tensor at a time; LoRA merged on the way. */
#ifndef T3V_PIPE_CONVERT_H
#define T3V_PIPE_CONVERT_H

#include "pipe/file_type.h"
#include "t3v/log.h"
#include "t3v/t3v.h"

typedef struct t3v_convert_job {
    const char *in, *out;
    const t3v_file_type *type; /* NULL: every tensor keeps its own, as far as the container has it */
    t3v_container container;
    int64_t shard_bytes; /* of safetensors; 0: one file */
    const t3v_lora_use *lora;
    int64_t loras;
    bool force; /* replace what is there */
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

#endif
