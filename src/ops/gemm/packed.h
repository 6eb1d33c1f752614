/* SPDX-License-Identifier: Apache-2.0 */
/* Inside gemm: products whose B is packed. */
#ifndef T3V_OPS_GEMM_PACKED_H
#define T3V_OPS_GEMM_PACKED_H

#include "ops/gemm/gemm.h"

/* Arguments already checked by t3v_gemm; b_type is packed, m, n, k >= 1. */
t3v_status t3v__gemm_packed(const t3v_gemm_args *g);

#endif
