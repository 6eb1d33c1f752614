/* SPDX-License-Identifier: Apache-2.0 */
/* Samplers: the schedule of noise levels and the step from one to the next, for flow-matching models.
 *
 * x_sigma = (1 - sigma) x0 + sigma noise; the model predicts v = noise - x0 at timestep t = 1000 sigma.
 *
 *     t3v_sampler *s = NULL;
 *     t3v_sampler_open(&s, "unipc", 50, 5.0);
 *     for (int i = 0; i < t3v_sampler_steps(s); i++) {
 *         model(v, x, t3v_sampler_timestep(s, i));
 *         t3v_sampler_step(s, i, x, v, n);
 *     }
 *     t3v_sampler_close(&s); */
#ifndef T3V_SCHED_SAMPLER_H
#define T3V_SCHED_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct t3v_sampler t3v_sampler;

/* name: "euler" (DiffSynth-Studio, T3-Video), "unipc" or "dpm++" (Wan-Video/Wan2.1, wan/utils).
 * 1 <= steps <= 10000, shift > 0. E_ARG also where two noise levels coincide in f32, or where the first
 * two whole timesteps do (the official unipc and dpm++ then start at the wrong step and fail). */
t3v_status t3v_sampler_open(t3v_sampler **s, const char *name, int steps, double shift);
void t3v_sampler_close(t3v_sampler **s);

/* The i-th known name, NULL after the last. */
const char *t3v_sampler_name(int i);

int t3v_sampler_steps(const t3v_sampler *s);
/* Noise level before step i, 0 <= i <= steps; that of i = steps is 0. An f32 value. */
double t3v_sampler_sigma(const t3v_sampler *s, int i);
/* What the model is told at step i, 0 <= i < steps: whole numbers, except "euler": f32(1000 sigma). */
double t3v_sampler_timestep(const t3v_sampler *s, int i);

/* x [n] at sigma(i) becomes x at sigma(i+1); v [n] is the model's velocity at x (after guidance).
 * Steps run in order; i = 0 starts anew. The history (t3v_sampler_state_size bytes) is allocated when a
 * run starts with another n than before. x and v do not overlap. Scalars f64, sums f64, storage f32;
 * results do not depend on the number of threads. E_ARG: i is not the next step, or n has changed. */
t3v_status t3v_sampler_step(t3v_sampler *s, int i, float *x, const float *v, int64_t n);

/* History of a run over n elements, for resuming to the same bytes (same kind of machine).
 * Save after step i-1 and load before step i, also into a newly opened sampler of the same name, steps
 * and shift. Size 0: n is out of range. */
size_t t3v_sampler_state_size(const t3v_sampler *s, int64_t n);
t3v_status t3v_sampler_state_save(const t3v_sampler *s, void *out, size_t size);
/* E_FORMAT where `in` is not a state of this schedule; the sampler is then unchanged. */
t3v_status t3v_sampler_state_load(t3v_sampler *s, const void *in, size_t size);
/* The step that t3v_sampler_step accepts next besides 0. */
int t3v_sampler_next(const t3v_sampler *s);

#endif
