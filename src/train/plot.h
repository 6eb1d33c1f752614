/* SPDX-License-Identifier: Apache-2.0 */
/* A picture of a run's log. */
#ifndef T3V_TRAIN_PLOT_H
#define T3V_TRAIN_PLOT_H

#include "base/status.h"

/* Draws `dir`/log.jsonl as `dir`/loss.svg: the loss of each step and its running mean, stages, samples a second. Lines
 * that are no log lines are left out; a log without any gives no picture. */
t3v_status t3v_train_plot(const char *dir);

#endif
