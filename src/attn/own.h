/* SPDX-License-Identifier: Apache-2.0 */
/* What sites have of their own beside q, k and v: first values of their parameters, and where a plan's state lies. */
#ifndef T3V_ATTN_OWN_H
#define T3V_ATTN_OWN_H

#include "attn/plan.h"

/* The first values of a parameter, number `index` of `layer`: the same in every run. */
void t3v_site_param_fill(const t3v_site_param *info, int layer, int index, float *out);

/* Where the state of self site `layer` begins in that of a plan; with layer = plan->layers the bytes of all. */
size_t t3v_plan_state(const t3v_plan *plan, int layer, int64_t heads, int64_t dim, int number);

#endif
