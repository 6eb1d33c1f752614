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

#endif
