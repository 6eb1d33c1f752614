/* SPDX-License-Identifier: Apache-2.0 */
/* Running a site of a plan on a device: which kernels, in which order, on which heads and scratch. */
#ifndef T3V_ATTN_DEVICE_ATTEND_H
#define T3V_ATTN_DEVICE_ATTEND_H

#include "attn/attend.h"
#include "attn/device_site.h"
#include "cuda/device.h"

/* A reason why a device cannot run the site, so that its rows must go to the CPU; NULL: it can. */
const char *t3v_device_attend_declines(const t3v_site *site, const t3v_attend_args *a);

/* Device memory that a run needs. Pointers in `a` are not read, but which of them are NULL counts. */
size_t t3v_device_attend_scratch(const t3v_site *site, const t3v_attend_args *a);

/* As t3v_attend_run; every pointer in `a`, and s->at, is to memory of the device. Launches and does not wait, but for the
 * counters of what a method keeps from step to step.
 * E_UNSUPPORTED: a CUDA error, with its number. */
t3v_status t3v_device_attend(const t3v_device_site *s, const t3v_attend_args *a, const t3v_device *device);

/* As t3v_attend_backward, of gradients in the device's memory; the site was made with `backward`. */
size_t t3v_device_backward_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g);
t3v_status t3v_device_backward(const t3v_device_site *s, const t3v_attend_args *a, const t3v_attend_grad *g,
                               const t3v_device *device);

/* The kernel that would run, "tensor" (with wgmma or not) or "plain"; with `why` (may be NULL) what the other one says. */
const char *t3v_device_attend_impl(const t3v_site *site, const t3v_attend_args *a, char *why,
                                   size_t why_size);

#endif
