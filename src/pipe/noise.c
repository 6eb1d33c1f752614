/* SPDX-License-Identifier: Apache-2.0 */
/* The initial noise of a latent: Philox by position, or PyTorch's sequence. */
#include "pipe/noise.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

enum { MT_N = 624, MT_M = 397, CHUNK = 1 << 14 };

/* MT19937: Matsumoto and Nishimura, ACM TOMACS 8(1), 1998. */
typedef struct mt19937 {
    uint32_t word[MT_N];
    int next;
} mt19937;

static void mt_seed(mt19937 *m, uint32_t seed)
{
    m->word[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) {
        uint32_t last = m->word[i - 1];
        m->word[i] = 1812433253u * (last ^ last >> 30) + i;
    }
    m->next = MT_N;
}

static uint32_t mt_draw(mt19937 *m)
{
    if (m->next == MT_N) {
        for (int i = 0; i < MT_N; i++) {
            uint32_t y = (m->word[i] & 0x80000000u) | (m->word[(i + 1) % MT_N] & 0x7fffffffu);
            m->word[i] = m->word[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        m->next = 0;
    }
    uint32_t y = m->word[m->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static float uniform24(mt19937 *m) { return (float)(mt_draw(m) & 0xffffffu) * 0x1p-24f; }

static double uniform53(mt19937 *m)
{
    uint64_t high = mt_draw(m), low = mt_draw(m);
    return (double)((high << 32 | low) & ((1ull << 53) - 1)) * 0x1p-53;
}

/* Box-Muller in place on 16 uniforms: the j-th with the (j+8)-th, in float as PyTorch does it. */
static void normal_16(float *x)
{
    const float two_pi = 6.28318530717958647692f;
    for (int j = 0; j < 8; j++) {
        float log_u = (float)log((double)(1.0f - x[j])), radius = sqrtf(-2.0f * log_u),
              angle = two_pi * x[j + 8];
        x[j] = radius * (float)cos((double)angle);
        x[j + 8] = radius * (float)sin((double)angle);
    }
}

/* From 16 elements on: all uniforms first, then blocks of 16; a rest is covered by drawing the last 16 again.
 */
static void torch_blocks(float *out, int64_t n, mt19937 *m)
{
    for (int64_t i = 0; i < n; i++) out[i] = uniform24(m);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n / 16; b++) normal_16(out + b * 16);
    if (n % 16) {
        for (int64_t i = n - 16; i < n; i++) out[i] = uniform24(m);
        normal_16(out + n - 16);
    }
}

/* Below 16: pairs in double, the second of a pair kept for the next element. */
static void torch_few(float *out, int64_t n, mt19937 *m)
{
    const double two_pi = 6.28318530717958647692;
    for (int64_t i = 0; i < n; i += 2) {
        double u = uniform53(m), v = uniform53(m), radius = sqrt(-2.0 * log1p(-v));
        out[i] = (float)(radius * cos(two_pi * u));
        if (i + 1 < n) out[i + 1] = (float)(radius * sin(two_pi * u));
    }
}

t3v_status t3v_noise_parse(const char *name, t3v_noise_rng *rng)
{
    if (strcmp(name, "philox") == 0) *rng = T3V_NOISE_PHILOX;
    else if (strcmp(name, "torch") == 0) *rng = T3V_NOISE_TORCH;
    else return t3v_fail(T3V_E_ARG, "noise generator '%s': expected philox or torch", name);
    return T3V_OK;
}

void t3v_noise_fill(float *out, int64_t n, t3v_noise_rng rng, uint64_t seed)
{
    if (rng == T3V_NOISE_TORCH) {
        mt19937 m;
        mt_seed(&m, (uint32_t)seed);
        if (n >= 16) torch_blocks(out, n, &m);
        else torch_few(out, n, &m);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < (n + CHUNK - 1) / CHUNK; c++) {
        int64_t first = c * CHUNK;
        t3v_normal_fill(out + first, n - first < CHUNK ? n - first : CHUNK, seed, 0, first);
    }
}
