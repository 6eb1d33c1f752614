/* SPDX-License-Identifier: Apache-2.0 */
/* Expanding packed weights: AVX-512 F BW VL DQ. */
#define UNPACK t3v__unpack_avx512
#include "tensor/unpack_impl.h"
