/* SPDX-License-Identifier: Apache-2.0 */
/* Philox4x32-10 and the numbers made from it. */
#include "base/rng.h"

#include <math.h>

void t3v_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Two normals from two words; u in (0, 1] so that the logarithm is finite. */
static void box_muller(uint32_t a, uint32_t b, double z[2])
{
    double u = ((double)a + 1.0) * 0x1p-32, v = ((double)b + 0.5) * 0x1p-32;
    double r = sqrt(-2.0 * log(u)), angle = 6.283185307179586476925286766559 * v;
    z[0] = r * cos(angle);
    z[1] = r * sin(angle);
}

void t3v_normal_fill(float *out, int64_t n, uint64_t seed, uint64_t stream, int64_t first)
{
    for (int64_t i = 0; i < n;) {
        int64_t j = first + i;
        uint32_t w[4];
        double z[4];
        t3v_philox(seed, stream, (uint64_t)(j / 4), w);
        box_muller(w[0], w[1], z);
        box_muller(w[2], w[3], z + 2);
        for (int64_t k = j % 4; k < 4 && i < n; k++) out[i++] = (float)z[k];
    }
}

t3v_rng t3v_rng_make(uint64_t seed, uint64_t stream) { return (t3v_rng){.seed = seed, .stream = stream}; }

uint32_t t3v_rng_u32(t3v_rng *r)
{
    if (r->left == 0) {
        t3v_philox(r->seed, r->stream, r->counter++, r->word);
        r->left = 4;
    }
    return r->word[4 - r->left--];
}

double t3v_rng_uniform(t3v_rng *r)
{
    uint64_t hi = t3v_rng_u32(r), lo = t3v_rng_u32(r);
    return (double)((hi << 32 | lo) >> 11) * 0x1p-53;
}

int64_t t3v_rng_below(t3v_rng *r, int64_t n)
{
    uint64_t range = (uint64_t)n, limit = UINT64_MAX - UINT64_MAX % range;
    for (;;) {
        uint64_t hi = t3v_rng_u32(r), lo = t3v_rng_u32(r), x = hi << 32 | lo;
        if (x < limit) return (int64_t)(x % range);
    }
}

double t3v_rng_normal(t3v_rng *r)
{
    uint32_t a = t3v_rng_u32(r), b = t3v_rng_u32(r);
    double z[2];
    box_muller(a, b, z);
    return z[0];
}
