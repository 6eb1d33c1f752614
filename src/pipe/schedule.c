/* SPDX-License-Identifier: Apache-2.0 */
/* The table of steps. */
#include "pipe/schedule.h"

#include <math.h>
#include <stdlib.h>

#include "attn/own.h"

static double polynomial(const double *c, double x)
{
    double y = 0;
    for (int i = 0; i < 5; i++) y = y * x + c[i];
    return y;
}

/* Does the step, which has something to reuse, reuse it? sum: of the changes since the branch last ran. */
static bool reuses(const t3v_schedule_options *o, int64_t i, int64_t steps, double sum)
{
    const t3v_reuse *r = &o->reuse;
    switch (r->how) {
    case T3V_REUSE_LIST: return !r->run[i];
    case T3V_REUSE_TEACACHE:
        return i >= r->first && i < steps - r->last && r->threshold > 0 && isfinite(sum) &&
               sum < r->threshold;
    default: return false;
    }
}

t3v_expert t3v_expert_of(double timestep, double boundary)
{
    return timestep >= 1000 * boundary ? T3V_EXPERT_HIGH : T3V_EXPERT_LOW;
}

/* The passes of a branch, of which those asked for are marked RUN. */
static void mark_branch(t3v_schedule *s, int branch, const t3v_schedule_options *o)
{
    t3v_step *kept = NULL; /* the last that ran */
    double sum = 0;
    for (int i = 0; i < s->steps; i++) {
        t3v_pass *p = &s->step[i].pass[branch];
        if (t3v_schedule_switches(s, i)) kept = NULL;
        if (i > 0 && o->reuse.how == T3V_REUSE_TEACACHE) sum += polynomial(o->polynomial, o->change[i]);
        if (*p == T3V_PASS_NONE) continue;
        if (kept && reuses(o, i, s->steps, sum)) {
            *p = T3V_PASS_REUSE;
            kept->pass[branch] = T3V_PASS_KEEP;
        } else {
            kept = &s->step[i];
            sum = 0;
        }
    }
}

t3v_status t3v_schedule_make(t3v_schedule *out, const t3v_sampler *sampler, const t3v_schedule_options *o)
{
    int n = t3v_sampler_steps(sampler);
    *out = (t3v_schedule){.step = calloc((size_t)n, sizeof *out->step), .steps = n};
    if (!out->step) return t3v_fail(T3V_E_NOMEM, "no memory for %d steps", n);
    for (int i = 0; i < n; i++) {
        double t = t3v_sampler_timestep(sampler, i);
        t3v_expert expert = t3v_expert_of(t, o->boundary);
        double cfg = expert == T3V_EXPERT_LOW ? o->cfg_low : o->cfg;
        bool guided = cfg != 1.0 && i >= o->cfg_steps[0] && i <= o->cfg_steps[1];
        out->step[i] = (t3v_step){.sigma = t3v_sampler_sigma(sampler, i),
                                  .timestep = t,
                                  .expert = expert,
                                  .cfg = guided ? cfg : 1.0,
                                  .plan = i < o->dense_steps ? o->dense : o->plan,
                                  .pass = {T3V_PASS_RUN, guided ? T3V_PASS_RUN : T3V_PASS_NONE}};
    }
    for (int b = 0; b < T3V_BRANCHES; b++) mark_branch(out, b, o);
    return T3V_OK;
}

void t3v_schedule_free(t3v_schedule *s)
{
    free(s->step);
    *s = (t3v_schedule){0};
}

bool t3v_schedule_switches(const t3v_schedule *s, int step)
{
    return step > 0 && s->step[step].expert != s->step[step - 1].expert;
}

size_t t3v_schedule_state(const t3v_schedule *s, int64_t heads, int64_t head_dim, int number)
{
    size_t most = 0;
    for (int i = 0; i < s->steps; i++) {
        const t3v_plan *p = s->step[i].plan;
        size_t n = i && p == s->step[i - 1].plan ? 0 : t3v_plan_state(p, p->layers, heads, head_dim, number);
        if (n > most) most = n;
    }
    return most;
}

int64_t t3v_schedule_runs(const t3v_schedule *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->steps; i++)
        for (int b = 0; b < T3V_BRANCHES; b++)
            n += s->step[i].pass[b] == T3V_PASS_RUN || s->step[i].pass[b] == T3V_PASS_KEEP;
    return n;
}

bool t3v_schedule_asks(const t3v_schedule *s, int branch)
{
    for (int i = 0; i < s->steps; i++)
        if (s->step[i].pass[branch] != T3V_PASS_NONE) return true;
    return false;
}

bool t3v_schedule_keeps(const t3v_schedule *s, int branch)
{
    for (int i = 0; i < s->steps; i++)
        if (s->step[i].pass[branch] == T3V_PASS_KEEP) return true;
    return false;
}

bool t3v_schedule_holds(const t3v_schedule *s, int branch, int step)
{
    for (int i = step; i < s->steps; i++)
        if (s->step[i].pass[branch] != T3V_PASS_NONE) return s->step[i].pass[branch] == T3V_PASS_REUSE;
    return false;
}
