/* SPDX-License-Identifier: Apache-2.0 */
/* The OpenMP pool's size. */
#define _GNU_SOURCE
#include "base/threads.h"

#include <omp.h>
#include <sched.h>

int t3v_threads(void) { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

void t3v_threads_set(int n)
{
    if (n <= 0) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
    }
    omp_set_num_threads(n);
}
