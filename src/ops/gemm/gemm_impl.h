/* SPDX-License-Identifier: Apache-2.0 */
/* Inside gemm: products in other ways than oneDNN's. Arguments are already checked by t3v_gemm; m, n, k >= 1. */
#ifndef T3V_OPS_GEMM_IMPL_H
#define T3V_OPS_GEMM_IMPL_H

#include "ops/gemm/gemm.h"

/* b_type is packed. */
t3v_status t3v__gemm_packed(const t3v_gemm_args *g);
/* In f32 with AVX2 and FMA; b_type is not packed. */
t3v_status t3v__gemm_avx2(const t3v_gemm_args *g);

#endif
