/* SPDX-License-Identifier: Apache-2.0 */
/* The versions of t3v_unpack: one text (unpack_impl.h), vectorised by the compiler for each instruction set. */
#ifndef T3V_TENSOR_UNPACK_VERSIONS_H
#define T3V_TENSOR_UNPACK_VERSIONS_H

#include <stdint.h>

#include "t3v/dtype.h"

typedef void t3v_unpack_fn(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale, int64_t n);

t3v_unpack_fn t3v__unpack_ref, t3v__unpack_avx2, t3v__unpack_avx512;

#endif
