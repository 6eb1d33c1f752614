/* SPDX-License-Identifier: Apache-2.0 */
/* The table of steps. */
#include "pipe/schedule.h"

#include <stdlib.h>

t3v_status t3v_schedule_make(t3v_schedule *out, const t3v_sampler *sampler, const t3v_plan *plan, double cfg)
{
    int n = t3v_sampler_steps(sampler);
    *out = (t3v_schedule){.step = calloc((size_t)n, sizeof *out->step), .steps = n};
    if (!out->step) return t3v_fail(T3V_E_NOMEM, "no memory for %d steps", n);
    for (int i = 0; i < n; i++)
        out->step[i] = (t3v_step){t3v_sampler_sigma(sampler, i), t3v_sampler_timestep(sampler, i), cfg, plan};
    return T3V_OK;
}

void t3v_schedule_free(t3v_schedule *s)
{
    free(s->step);
    *s = (t3v_schedule){0};
}

int64_t t3v_schedule_passes(const t3v_schedule *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->steps; i++) n += s->step[i].cfg == 1.0 ? 1 : 2;
    return n;
}
