/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a generation as data: one row a step. */
#ifndef T3V_PIPE_SCHEDULE_H
#define T3V_PIPE_SCHEDULE_H

#include "attn/plan.h"
#include "sched/sampler.h"

enum { T3V_STEPS_MAX = 1000 };

/* What a guidance branch does in a step. */
typedef enum t3v_pass {
    T3V_PASS_NONE,  /* it is not asked */
    T3V_PASS_RUN,   /* the blocks run */
    T3V_PASS_KEEP,  /* the blocks run, and what they added to the residual stream is kept for later steps */
    T3V_PASS_REUSE, /* what was kept is added instead */
} t3v_pass;

/* Which transformer makes a step: Wan2.2 A14B has one for high noise and one for low. */
typedef enum t3v_expert {
    T3V_EXPERT_HIGH /* also of models that have one */,
    T3V_EXPERT_LOW,
    T3V_EXPERTS
} t3v_expert;

/* That of a timestep: the first from 1000 * boundary on. */
t3v_expert t3v_expert_of(double timestep, double boundary);

typedef struct t3v_step {
    double sigma, timestep;
    double cfg;           /* v = v_neg + cfg (v_pos - v_neg); 1 where the negative branch is not asked */
    const t3v_plan *plan; /* what attention does in this step */
    t3v_expert expert;
    t3v_pass pass[T3V_BRANCHES];
} t3v_step;

typedef struct t3v_schedule {
    t3v_step *step; /* [steps] */
    int steps;
} t3v_schedule;

/* Which steps take over what the blocks added before. TeaCache (arXiv 2411.19108, and its code for Wan2.1 with
 * "ret steps"): a step reuses while the sum of polynomial(change) since the branch last ran is below the threshold. */
typedef struct t3v_reuse {
    enum { T3V_REUSE_OFF, T3V_REUSE_LIST, T3V_REUSE_TEACACHE } how;
    bool run[T3V_STEPS_MAX]; /* LIST: the steps that run the blocks */
    double threshold;        /* TEACACHE; 0: never reuse */
    int64_t first, last;     /* TEACACHE: this many steps at the ends always run */
} t3v_reuse;

typedef struct t3v_schedule_options {
    const t3v_plan *plan;
    const t3v_plan *dense; /* the plan of the first dense_steps steps */
    int64_t dense_steps;
    double cfg;           /* 1: no guidance */
    double boundary;      /* of t3v_expert_of; 0: there is one transformer */
    double cfg_low;       /* guidance of the second expert */
    int64_t cfg_steps[2]; /* guidance in steps [first, last] */
    t3v_reuse reuse;
    const double *polynomial; /* TEACACHE: [5], highest power first */
    /* TEACACHE: [steps] relative change of the time embedding from the step before; [0] is not read */
    const double *change;
} t3v_schedule_options;

t3v_status t3v_schedule_make(t3v_schedule *out, const t3v_sampler *sampler, const t3v_schedule_options *o);
void t3v_schedule_free(t3v_schedule *s);
/* Bytes that the plans' attention keeps from step to step for one guidance branch of a model. Plans that keep something
 * are the same one in all steps that have such a plan. */
size_t t3v_schedule_state(const t3v_schedule *s, int64_t heads, int64_t head_dim, int number);
/* Passes through the blocks, in all. */
int64_t t3v_schedule_runs(const t3v_schedule *s);
/* Is the branch asked in some step? Does it keep what its blocks added? */
bool t3v_schedule_asks(const t3v_schedule *s, int branch);
bool t3v_schedule_keeps(const t3v_schedule *s, int branch);
/* Do other weights than the step before's make the step? What passes left for each other ends there. */
bool t3v_schedule_switches(const t3v_schedule *s, int step);
/* Before step `step`: will what the branch has kept be used again? */
bool t3v_schedule_holds(const t3v_schedule *s, int branch, int step);

/* Texts of options, for a run of `steps` steps, which count from 0. E_ARG names the value.
 *   "all", "A", "A-B" */
t3v_status t3v_cfg_steps_parse(const char *text, int64_t steps, int64_t range[2]);
/* "off", "steps:LIST" (the steps that run: numbers and A-B, with commas), "teacache[:threshold=F,first=N,last=N]" */
t3v_status t3v_reuse_parse(const char *text, int64_t steps, t3v_reuse *out);

#endif
