/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of attention: a site of random terms. After cmocka.h. */
#ifndef T3V_TESTS_RANDOM_SITE_H
#define T3V_TESTS_RANDOM_SITE_H

#include "attn/pattern.h"
#include "base/rng.h"

/* Random windows: each term a random permutation cut in random blocks; a block meets itself or random ranges. */
static inline void random_site(t3v_site *site, t3v_rng *r, int64_t n, int terms)
{
    t3v_builder *b;
    assert_int_equal(t3v_builder_make(&b, n, 1 << 30), T3V_OK);
    for (int t = 0; t < terms; t++) {
        int32_t *order = t3v_build_term(b, 1.0f / (float)terms);
        bool own = t3v_rng_below(r, 2);
        if (t3v_rng_below(r, 4))
            for (int64_t i = n - 1; i > 0; i--) {
                int64_t j = t3v_rng_below(r, i + 1);
                int32_t x = order[i];
                order[i] = order[j], order[j] = x;
            }
        for (int64_t at = 0; at < n;) {
            int64_t rows = 1 + t3v_rng_below(r, n - at < 200 ? n - at : 200);
            t3v_build_block(b, rows);
            if (own) {
                t3v_build_keys(b, at, at + rows);
            } else {
                int64_t k = t3v_rng_below(r, n);
                do {
                    int64_t end = k + 1 + t3v_rng_below(r, n - k);
                    t3v_build_keys(b, k, end);
                    k = end + t3v_rng_below(r, 20);
                } while (k < n && t3v_rng_below(r, 3));
            }
            at += rows;
        }
    }
    assert_int_equal(t3v_builder_finish(b, site), T3V_OK);
    t3v_builder_free(b);
}

#endif
