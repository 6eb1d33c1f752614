/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a generation as data: one row a step. */
#ifndef T3V_PIPE_SCHEDULE_H
#define T3V_PIPE_SCHEDULE_H

#include "attn/plan.h"
#include "sched/sampler.h"

typedef struct t3v_step {
    double sigma, timestep;
    double cfg;           /* v = v_neg + cfg (v_pos - v_neg); 1: the prompt's pass alone */
    const t3v_plan *plan; /* what attention does in this step */
} t3v_step;

typedef struct t3v_schedule {
    t3v_step *step; /* [steps] */
    int steps;
} t3v_schedule;

/* The sampler's steps, all with one plan and one guidance scale. */
t3v_status t3v_schedule_make(t3v_schedule *out, const t3v_sampler *sampler, const t3v_plan *plan, double cfg);
void t3v_schedule_free(t3v_schedule *s);
/* Forward passes in all. */
int64_t t3v_schedule_passes(const t3v_schedule *s);

#endif
