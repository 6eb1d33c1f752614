/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based random numbers (Philox4x32-10): the same numbers for every decomposition of the work. */
#ifndef T3V_BASE_RNG_H
#define T3V_BASE_RNG_H

#include <stdint.h>

/* The four 32-bit words of block `counter` of stream (seed, stream). Salmon et al., SC 2011. */
void t3v_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

/* out[i] = standard normal number first+i of (seed, stream), i < n: element j takes word j%4 of block
 * j/4, Box-Muller in double on pairs (words 0,1) and (2,3). Pure; out may be any part of a tensor. */
void t3v_normal_fill(float *out, int64_t n, uint64_t seed, uint64_t stream, int64_t first);

/* A small sequential generator for everything that is not a tensor. */
typedef struct t3v_rng {
    uint64_t seed, stream, counter;
    uint32_t word[4];
    int left;
} t3v_rng;
t3v_rng t3v_rng_make(uint64_t seed, uint64_t stream);
uint32_t t3v_rng_u32(t3v_rng *r);
double t3v_rng_uniform(t3v_rng *r);           /* [0, 1), 53 bits */
int64_t t3v_rng_below(t3v_rng *r, int64_t n); /* 0 .. n-1, n >= 1, unbiased */
double t3v_rng_normal(t3v_rng *r);

#endif
