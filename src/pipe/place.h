/* SPDX-License-Identifier: Apache-2.0 */
/* Weights onto a device. */
#ifndef T3V_PIPE_PLACE_H
#define T3V_PIPE_PLACE_H

#include "cuda/device.h"
#include "tensor/tensor.h"

/* Copies the data of the parameters to `device`, into an arena that is opened there, and points them at the copies; those
 * for which `stays` is true keep theirs, those for which `fp8` is become rows of 8-bit floats, which F8_E4M3 stays. Other packed
 * types become `compute`. E_NOMEM: the device's memory does not hold them. Either function may be NULL: none. */
t3v_status t3v_weights_place(const t3v_params *p, t3v_dtype compute, const t3v_device *device,
                             t3v_arena *arena, bool (*stays)(const t3v_param *p),
                             bool (*fp8)(const t3v_param *p));
/* The same of a tensor whose data were taken from `arena`, which is on the device; NULL: nothing to do. */
t3v_status t3v_weight_place(const t3v_device *device, const t3v_arena *arena, t3v_tensor *t);

#endif
