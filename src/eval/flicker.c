/* SPDX-License-Identifier: Apache-2.0 */
/* Second differences in time. */
#include "eval/flicker.h"

#include <stdlib.h>

#include "eval/planes.h"

enum { CHUNKS = 64 };

static double mean_bend(const uint8_t *const y[3], const uint8_t *const ref[3], int64_t n)
{
    int64_t part[CHUNKS], total = 0;
#pragma omp parallel for schedule(static) if (n > T3V_PARALLEL_PIXELS)
    for (int k = 0; k < CHUNKS; k++) {
        int64_t sum = 0, end = n * (k + 1) / CHUNKS;
        for (int64_t i = n * k / CHUNKS; i < end; i++) {
            int bend = y[0][i] - 2 * y[1][i] + y[2][i];
            if (ref) bend -= ref[0][i] - 2 * ref[1][i] + ref[2][i];
            sum += abs(bend);
        }
        part[k] = sum;
    }
    for (int k = 0; k < CHUNKS; k++) total += part[k];
    return (double)total / (double)n;
}

double t3v_flicker(const uint8_t *const y[3], int64_t n) { return mean_bend(y, NULL, n); }

double t3v_flicker_error(const uint8_t *const test[3], const uint8_t *const ref[3], int64_t n)
{
    return mean_bend(test, ref, n);
}
