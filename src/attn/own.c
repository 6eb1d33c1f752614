/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters and state of a plan's sites. */
#include "attn/own.h"

#include "base/rng.h"

void t3v_site_param_fill(const t3v_site_param *info, int layer, int index, float *out)
{
    enum { SEED = 0x733376 };
    int64_t n = 1;
    for (int i = 0; i < info->ndim; i++) n *= info->shape[i];
    if (info->spread > 0)
        t3v_normal_fill(out, n, SEED, (uint64_t)layer * T3V_SITE_PARAMS_MAX + (uint64_t)index, 0);
    for (int64_t i = 0; i < n; i++) out[i] = info->spread > 0 ? (float)(info->spread * (double)out[i]) : 0;
}

size_t t3v_plan_state(const t3v_plan *plan, int layer, int64_t heads, int64_t dim, int number)
{
    size_t n = 0;
    for (int i = 0; i < layer; i++)
        n += (t3v_site_state(&plan->layer[i].site[T3V_SITE_SELF], plan->tokens, heads, dim, number) + 7) / 8 *
             8;
    return n;
}
