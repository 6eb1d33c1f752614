/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and products of sizes that come from files or users. */
#ifndef T3V_BASE_CHECKED_H
#define T3V_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool t3v_mul(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool t3v_add(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool t3v_mul3(int64_t a, int64_t b, int64_t c, int64_t *out)
{
    return t3v_mul(a, b, out) && t3v_mul(*out, c, out);
}

#endif
