/* SPDX-License-Identifier: Apache-2.0 */
/* Expanding packed weights: the best version that this CPU runs. */
#include "tensor/unpack.h"

#include "base/cpu.h"
#include "tensor/unpack_versions.h"

void t3v_unpack(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale, int64_t n)
{
    t3v_isa isa = t3v_cpu();
    if (isa >= T3V_ISA_AVX512) t3v__unpack_avx512(dst, to, src, from, scale, n);
    else if (isa >= T3V_ISA_AVX2) t3v__unpack_avx2(dst, to, src, from, scale, n);
    else t3v__unpack_ref(dst, to, src, from, scale, n);
}
