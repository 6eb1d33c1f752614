/* SPDX-License-Identifier: Apache-2.0 */
/* Seconds of a clock that only goes forward. */
#ifndef T3V_BASE_CLOCK_H
#define T3V_BASE_CLOCK_H

#include <time.h>

static inline double t3v_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
