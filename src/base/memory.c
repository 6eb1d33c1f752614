/* SPDX-License-Identifier: Apache-2.0 */
/* The memory that the program holds, and what a limit leaves. */
#include "base/memory.h"

#include <stdio.h>
#include <unistd.h>

t3v_status t3v_memory_rest(int64_t limit, size_t *rest)
{
    *rest = 0;
    if (!limit) return T3V_OK;
    FILE *f = fopen("/proc/self/statm", "r");
    long long pages = 0;
    if (f && fscanf(f, "%*d %lld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    int64_t held = (int64_t)pages * sysconf(_SC_PAGESIZE);
    if (held >= limit)
        return t3v_fail(T3V_E_NOMEM, "the model alone takes %lld MiB, --memory-limit is %lld MiB",
                        (long long)(held >> 20), (long long)(limit >> 20));
    *rest = (size_t)(limit - held);
    return T3V_OK;
}
