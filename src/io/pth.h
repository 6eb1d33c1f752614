/* SPDX-License-Identifier: Apache-2.0 */
/* Writing PyTorch zip files (reading: io/tensors.h). */
#ifndef T3V_IO_PTH_H
#define T3V_IO_PTH_H

#include <stdint.h>

#include "io/tensors.h"

/* A state dict that torch.load reads: n tensors (name, dtype, ndim, shape, data) in the given order. Appears whole or
 * not at all. E_DTYPE for types without a legacy storage class (fp8, unsigned above 8 bits), E_ARG on bad shapes or
 * names that appear twice. */
t3v_status t3v_pth_write(const char *path, const t3v_tensor_entry *tensors, int64_t n);

/* For files larger than memory: all names, types and shapes first (data is not read), then the bytes of all tensors in
 * the announced order, in pieces of any size. */
typedef struct t3v_pth_writer t3v_pth_writer;
t3v_status t3v_pth_begin(t3v_pth_writer **out, const char *path, const t3v_tensor_entry *tensors, int64_t n);
/* Bytes of the first tensor that is not complete; E_ARG when they are more than it has left. */
t3v_status t3v_pth_append(t3v_pth_writer *w, const void *data, size_t nbytes);
/* E_ARG unless every tensor is complete. Frees w whatever happens. */
t3v_status t3v_pth_finish(t3v_pth_writer *w);
void t3v_pth_abandon(t3v_pth_writer *w); /* removes what was written; NULL is fine */

#endif
