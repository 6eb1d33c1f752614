/* SPDX-License-Identifier: Apache-2.0 */
/* A pickle of tensors, interpreted without running anything: the opcodes and names that torch.save writes for a
 * state dict, and no others. */
#ifndef T3V_IO_PICKLE_H
#define T3V_IO_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "io/tensors.h"

/* A tensor of the state dict, as a strided view of a storage. All sizes are checked against the storage's own
 * element count; that the storage exists with this many elements is for the caller to check. */
typedef struct t3v_pickle_tensor {
    const char *name;
    const char *key;               /* of the storage: decimal digits */
    int64_t storage_numel, offset; /* elements */
    t3v_tensor_entry entry;        /* dtype, ndim, shape, numel, nbytes */
    int64_t stride[T3V_FILE_DIMS]; /* elements, >= 0 */
    bool contiguous;
} t3v_pickle_tensor;

typedef struct t3v_pickle t3v_pickle;

/* The top of the pickle must be a dict of tensors, or a dict that holds one under "model_state", "state_dict", "model"
 * or "module". Entries that are not tensors are left out. E_FORMAT, E_TOO_BIG; E_UNSUPPORTED names a global that is
 * not in the list of allowed ones. */
t3v_status t3v_pickle_load(t3v_pickle **out, const char *label, const unsigned char *buf, size_t len);
const t3v_pickle_tensor *t3v_pickle_tensors(const t3v_pickle *p, int64_t *n);
void t3v_pickle_free(t3v_pickle *p);

#endif
