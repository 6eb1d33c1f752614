/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: one OpenMP pool, shared with oneDNN. */
#ifndef T3V_BASE_THREADS_H
#define T3V_BASE_THREADS_H

#include <stdint.h>

/* Number of threads a parallel loop started here would get: 1 inside another parallel region. */
int t3v_threads(void);
/* Sets the pool's size (<= 0: all cores of this process) before the first parallel region. */
void t3v_threads_set(int n);

/* How to split work so that results never depend on the number of threads:
 *   #pragma omp parallel for schedule(static)   over work units whose outputs are disjoint, and
 *   reductions over a fixed number of units, summed in order afterwards (no `reduction` clause). */

#endif
