/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of a site on values of a device: its kernels where they can, else the CPU's on copies. */
#ifndef T3V_ATTN_DEVICE_RUN_H
#define T3V_ATTN_DEVICE_RUN_H

#include "attn/attend.h"
#include "cuda/device.h"

/* As t3v_attend_scratch and, with g, t3v_attend_backward_scratch. */
size_t t3v_device_run_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g);
/* As t3v_attend_run and, with g, t3v_attend_backward. Every pointer of a and g is of the device; those to values and the
 * scratch were taken from `arena`, parameters need not be. A site's work lists are made at its first use and kept until
 * t3v_device_run_forget. */
t3v_status t3v_device_run(const t3v_arena *arena, const t3v_site *site, const t3v_attend_args *a,
                          const t3v_attend_grad *g);
/* What devices made of a site is freed, because it goes away. */
void t3v_device_run_forget(const t3v_site *site);

#endif
