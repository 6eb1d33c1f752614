/* SPDX-License-Identifier: Apache-2.0 */
/* Costs of a plan, layer by layer. */
#include "plan_figures.h"

#include <stdlib.h>

#include "base/checked.h"

t3v_status cli_plan_measure(const t3v_plan *p, int64_t dim, int64_t heads, const t3v_moment *moment,
                            cli_plan_figures *f)
{
    f->macs = calloc((size_t)p->layers, sizeof *f->macs);
    f->keys = calloc((size_t)p->layers, sizeof *f->keys);
    if (!f->macs || !f->keys)
        return t3v_fail(T3V_E_NOMEM, "no memory for the figures of %d layers", p->layers);
    bool fits = t3v_mul3(p->tokens, p->tokens, 2 * dim, &f->full) && t3v_mul(f->full, p->layers, &f->full);
    for (int i = 0; i < p->layers && fits; i++) {
        const t3v_site *s = &p->layer[i].site[T3V_SITE_SELF];
        int64_t pairs;
        fits = t3v_site_cost(s, p->tokens, p->tokens, (int)heads, (int)(dim / heads), moment, &pairs,
                             &f->macs[i]) &&
               t3v_add(f->sum, f->macs[i], &f->sum);
        f->keys[i] = (double)pairs / (double)heads / (double)p->tokens;
        f->selects = f->selects || t3v_site_selects(s);
        if (p->layer[i].source) f->source = p->layer[i].source;
    }
    if (!fits)
        return t3v_fail(T3V_E_TOO_BIG, "%lld tokens: the multiply-adds do not fit in 63 bits",
                        (long long)p->tokens);
    return t3v_plan_reach(p, &f->reach);
}

void cli_plan_figures_free(cli_plan_figures *f)
{
    free(f->macs);
    free(f->keys);
    *f = (cli_plan_figures){0};
}
