/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights (ggml's quantised blocks, 8-bit floats, F16) expanded to the types that products take. */
#ifndef T3V_TENSOR_UNPACK_H
#define T3V_TENSOR_UNPACK_H

#include <stdint.h>

#include "t3v/dtype.h"

/* dst[i] = value i of n elements (whole blocks), F32 or rounded to BF16; any alignment of src. Values of blocks are
 * ggml's to the bit (each is one product and at most one difference in F32); those of 8-bit floats are multiplied by
 * `scale` in F32, which other types ignore. The same on every CPU. One thread. */
void t3v_unpack(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale, int64_t n);

#endif
