/* SPDX-License-Identifier: Apache-2.0 */
/* Expanding packed weights: portable C. */
#define UNPACK t3v__unpack_ref
#include "tensor/unpack_impl.h"
