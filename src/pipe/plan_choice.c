/* SPDX-License-Identifier: Apache-2.0 */
/* Plans asked for, and plans stored with the weights. */
#include "pipe/plan_choice.h"

#include <string.h>

#include "base/log.h"

static bool same_grid(const t3v_defaults *d, t3v_grid g)
{
    return d->plan_grid[0] == g.t && d->plan_grid[1] == g.h && d->plan_grid[2] == g.w;
}

/* Does `asked` leave the settings to the weights, and do these have some? */
static bool stored(const t3v_defaults *d, const char *asked)
{
    if (!asked || strcmp(asked, d->plan) == 0) return true;
    size_t n = strlen(asked);
    return !strpbrk(asked, ":;-@ ") && strncmp(d->plan, asked, n) == 0 && d->plan[n] == ':' &&
           !strchr(d->plan, ';');
}

const char *t3v_plan_text(const t3v_defaults *d, const char *asked, t3v_grid grid)
{
    if (!asked || (stored(d, asked) && same_grid(d, grid))) return d->plan;
    return asked;
}

t3v_status t3v_plan_grid(const t3v_defaults *d, const t3v_dit_config *c, const char *asked, t3v_grid *grid)
{
    int64_t dh = d->plan_grid[1] - grid->h, dw = d->plan_grid[2] - grid->w;
    if (stored(d, asked) && d->plan_grid[0] == grid->t && dh >= 0 && dh <= 1 && dw >= 0 && dw <= 1) {
        grid->h += dh, grid->w += dw;
        return T3V_OK;
    }
    return t3v_plan_fit(asked ? asked : d->plan, (int)c->layers, c->dim, grid);
}

void t3v_plan_check_tuned(const t3v_defaults *d, const char *text, const t3v_plan *plan)
{
    if (!t3v_plan_needs_tuning(plan)) return;
    bool known = strcmp(text, d->plan) == 0;
    if (known && (!d->plan_grid[0] || same_grid(d, plan->grid))) return;
    if (known)
        t3v_warn("the weights were tuned for plan %s on %lldx%lldx%lld tokens, this is %lldx%lldx%lld: "
                 "expect noise until they are "
                 "tuned for it",
                 text, (long long)d->plan_grid[0], (long long)d->plan_grid[1], (long long)d->plan_grid[2],
                 (long long)plan->grid.t, (long long)plan->grid.h, (long long)plan->grid.w);
    else
        t3v_warn("the weights are not known to be tuned for plan %s: the result will be noise until they are",
                 text);
}
