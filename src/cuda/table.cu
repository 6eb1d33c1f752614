/* SPDX-License-Identifier: Apache-2.0 */
/* The module's table of kernels. */
#include "cuda/module.h"

const t3v_kernels t3v_cuda_kernels = {
#define ROW(name) t3v_cuda_##name,
    T3V_KERNEL_MAP(ROW)
#undef ROW
};
