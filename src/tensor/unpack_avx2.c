/* SPDX-License-Identifier: Apache-2.0 */
/* Expanding packed weights: AVX2 and F16C. */
#define UNPACK t3v__unpack_avx2
#include "tensor/unpack_impl.h"
