/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors in and out of the probe commands. */
#ifndef T3V_CLI_PROBE_H
#define T3V_CLI_PROBE_H

#include "io/tensors.h"
#include "ops/ctx.h"

/* Addresses, not memory: a probe takes what it touches. */
#define CLI_PROBE_ARENA ((size_t)1 << 38)

/* Tensor `name` of the file as F32 in ctx's arena, with `ndim` axes (a leading axis of 1 is dropped) of the wanted
 * sizes; -1 takes any from 1. E_DTYPE unless it holds floats. */
t3v_status cli_probe_read(t3v_ctx *ctx, const char *path, const char *name, int ndim, const int64_t *want,
                          t3v_tensor **out);

/* The entry that writes t under `name`. */
t3v_tensor_entry cli_probe_entry(const char *name, t3v_dtype dtype, int ndim, const int64_t *shape,
                                 const void *data);

#endif
