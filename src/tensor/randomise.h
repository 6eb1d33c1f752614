/* SPDX-License-Identifier: Apache-2.0 */
/* First values of a model's parameters. */
#ifndef T3V_TENSOR_RANDOMISE_H
#define T3V_TENSOR_RANDOMISE_H

#include "tensor/tensor.h"

/* Fills every parameter (which has memory) by its role, told from its name: gains 1, biases 0, matrices normal with
 * standard deviation 1/sqrt(inputs), the last layer of a residual branch or of the model smaller. The numbers depend on
 * seed and the parameter's index alone. */
void t3v_params_randomise(const t3v_params *p, uint64_t seed);

/* The same numbers for elements [first, first + n) of parameter `index` alone, which needs no memory: for models larger
 * than it. */
void t3v_param_random(const t3v_params *p, int64_t index, uint64_t seed, int64_t first, int64_t n,
                      float *out);

#endif
