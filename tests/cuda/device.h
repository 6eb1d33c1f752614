/* SPDX-License-Identifier: Apache-2.0 */
/* A device whose kernels are those of the CUDA module, under the emulator. */
#ifndef T3V_TESTS_CUDA_DEVICE_H
#define T3V_TESTS_CUDA_DEVICE_H

#include "cuda/device.h"

#ifdef __cplusplus
extern "C"
#endif
    const t3v_device *
    t3v_emulated_device(void);

#endif
