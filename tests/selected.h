/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of content-based plans: a plan's self-attention, its tokens, and what its blocks always meet. Include after
 * cmocka. */
#ifndef T3V_TESTS_SELECTED_H
#define T3V_TESTS_SELECTED_H

#include <stdbool.h>
#include <stdint.h>

#include "attn/plan.h"

static inline void *must(void *p)
{
    assert_non_null(p);
    return p;
}

static inline t3v_plan *make(const char *text, t3v_grid grid, int64_t heads)
{
    t3v_plan *plan;
    if (t3v_plan_make_for(&plan, text, grid, 1, 1536, heads)) fail_msg("'%s': %s", text, t3v_error_text());
    return plan;
}

static inline const t3v_site *self_of(const t3v_plan *p) { return &p->layer[0].site[T3V_SITE_SELF]; }
static inline int32_t token(const t3v_term *t, int64_t slot)
{
    return t->order ? t->order[slot] : (int32_t)slot;
}

static inline bool always(const t3v_term *t, int64_t q, int64_t k)
{
    for (int64_t r = t->range_first[q]; r < t->range_first[q + 1]; r++)
        if (t->ranges[r].first <= t->block_first[k] && t->block_first[k + 1] <= t->ranges[r].last)
            return true;
    return false;
}

#endif
