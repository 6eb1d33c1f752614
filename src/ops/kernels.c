/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's table of kernels, and its moves of bytes. */
#include "ops/kernels.h"

#include <string.h>

void t3v_move(void *to, const void *from, size_t n) { memmove(to, from, n); }

void t3v_clear(void *to, size_t n) { memset(to, 0, n); }

void t3v_move_rows(void *to, int64_t to_step, const void *from, int64_t from_step, int64_t bytes,
                   int64_t rows)
{
#pragma omp parallel for schedule(static) if (rows * bytes > 1 << 18)
    for (int64_t i = 0; i < rows; i++)
        memcpy((char *)to + i * to_step, (const char *)from + i * from_step, (size_t)bytes);
}

const t3v_kernels t3v_kernels_cpu = {
#define ROW(name) .name = t3v_##name,
    T3V_KERNEL_MAP(ROW)
#undef ROW
};
