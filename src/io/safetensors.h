/* SPDX-License-Identifier: Apache-2.0 */
/* Writing safetensors (reading: io/tensors.h). Files appear whole or not at all. */
#ifndef T3V_IO_SAFETENSORS_H
#define T3V_IO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "io/tensors.h"

/* Writes n tensors (name, dtype, ndim, shape, data) and metadata pairs. E_ARG on duplicate names or bad shapes. */
t3v_status t3v_safetensors_write(const char *path, const t3v_tensor_entry *tensors, int64_t n,
                                 const t3v_meta *meta, int64_t meta_count);

/* For files larger than memory: all names, types and shapes first (data is not read), then the bytes. */
typedef struct t3v_safetensors_writer t3v_safetensors_writer;
t3v_status t3v_safetensors_begin(t3v_safetensors_writer **out, const char *path,
                                 const t3v_tensor_entry *tensors, int64_t n, const t3v_meta *meta,
                                 int64_t meta_count);
/* The next `nbytes` bytes of a tensor: tensors in any order, each from its start to its end. */
t3v_status t3v_safetensors_append(t3v_safetensors_writer *w, const char *name, const void *data,
                                  size_t nbytes);
/* E_ARG unless every tensor is complete. Frees w whatever happens. */
t3v_status t3v_safetensors_finish(t3v_safetensors_writer *w);
void t3v_safetensors_abandon(t3v_safetensors_writer *w); /* removes what was written; NULL is fine */

#endif
