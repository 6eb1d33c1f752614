/* SPDX-License-Identifier: Apache-2.0 */
/* Which plan a model runs on which grid: what was asked for, against what its weights were tuned with. */
#ifndef T3V_PIPE_PLAN_CHOICE_H
#define T3V_PIPE_PLAN_CHOICE_H

#include "attn/plan.h"
#include "pipe/model.h"

/* The plan text to use: `asked`, or the model's own when that is NULL, or when it names just a pattern ("t3") whose
 * settings for this grid are stored with the weights. */
const char *t3v_plan_text(const t3v_defaults *d, const char *asked, t3v_grid grid);

/* Rounds the grid up to what the plan prefers, or to the one that the weights were tuned on where it is less than a
 * token away. E_ARG: a bad plan. */
t3v_status t3v_plan_grid(const t3v_defaults *d, const t3v_dit_config *c, const char *asked, t3v_grid *grid);

/* Warns when the plan needs weights that were tuned for it and these are not known to be. */
void t3v_plan_check_tuned(const t3v_defaults *d, const char *text, const t3v_plan *plan);

#endif
