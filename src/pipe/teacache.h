/* SPDX-License-Identifier: Apache-2.0 */
/* What TeaCache needs to know of a model. */
#ifndef T3V_PIPE_TEACACHE_H
#define T3V_PIPE_TEACACHE_H

#include "pipe/model.h"
#include "sched/sampler.h"

/* The fitted polynomial of a model of this width: [5], highest power first. Wan2.1's 1.3B and 14B have one (the TeaCache
 * repository's for Wan2.1 with "ret steps"); others get x itself. */
const double *t3v_teacache_polynomial(int64_t dim);

/* change[i] = mean |e_i - e_{i-1}| / mean |e_{i-1}| for 0 < i < steps, where e_i is the modulation that the model's time
 * embedding makes of step i; change[0] = 0. It depends on the weights and the timesteps alone, so the table of steps is
 * known before the first. Reads the time embedding of the model's file, no other part. */
t3v_status t3v_teacache_change(const t3v_model *m, const t3v_sampler *sampler, double *change);

#endif
