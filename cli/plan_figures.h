/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan costs and reaches, in numbers. */
#ifndef T3V_CLI_PLAN_FIGURES_H
#define T3V_CLI_PLAN_FIGURES_H

#include "attn/plan.h"

/* Multiply-adds are of QK^T and AV of one pass, all heads. */
typedef struct cli_plan_figures {
    int64_t full, sum, *macs; /* full attention; this plan; macs: [layers] of it */
    double *keys;             /* [layers] keys that a query meets on average, over the terms */
    int reach;
    const char *source; /* of the block counts; NULL: there are none */
    bool selects;       /* some keys are chosen by content */
} cli_plan_figures;

/* For a model of width `dim` with `heads` heads, at a moment (NULL: nowhere in particular). f: zeroed. E_TOO_BIG, E_NOMEM;
 * free f in any case. */
t3v_status cli_plan_measure(const t3v_plan *p, int64_t dim, int64_t heads, const t3v_moment *moment,
                            cli_plan_figures *f);
void cli_plan_figures_free(cli_plan_figures *f); /* safe on a zeroed struct */

#endif
