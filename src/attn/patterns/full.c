/* SPDX-License-Identifier: Apache-2.0 */
/* full - every token meets every token. */
#include "attn/pattern.h"

static bool allows(const void *options, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    (void)options, (void)geom, (void)term, (void)q, (void)k;
    return true;
}

static t3v_status build(const void *options, const t3v_geom *geom, t3v_builder *b)
{
    (void)options;
    t3v_build_term(b, 1);
    t3v_build_block(b, geom->tokens);
    t3v_build_keys(b, 0, geom->tokens);
    return T3V_OK;
}

const t3v_pattern t3v_pattern_full = {
    .name = "full",
    .summary = "every token meets every token",
    .build = build,
    .same_layers = true,
    .allows = allows,
};
