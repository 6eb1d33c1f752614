/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks' matrices stay with the host and come to the device as the blocks run, two blocks at a time: for cards that do not
 * hold a model. While block i computes, the host expands i + 1 into pinned memory and sends it. */
#ifndef T3V_DIT_STREAM_H
#define T3V_DIT_STREAM_H

#include "dit/dit.h"

/* Whether the parameter is one that is streamed. */
bool t3v_dit_streams(const t3v_param *p);
/* Bytes of the device's memory, and of pinned host memory, that streaming takes instead of all such matrices. */
size_t t3v_dit_stream_bytes(const t3v_dit *dit, t3v_dtype compute);
/* Such matrices have their data with the host; from here on they are where their block's turn puts them, of type `compute` or,
 * with dit->fp8, 8-bit floats. The data must outlive the DiT. E_NOMEM: the device or the host has no room. */
t3v_status t3v_dit_stream_open(t3v_dit *dit, t3v_dtype compute);
void t3v_dit_stream_close(t3v_dit *dit); /* t3v_dit_close calls it */

/* What is launched afterwards may use block i, and no longer i - 1. Without streaming nothing happens. */
void t3v_dit_stream_here(t3v_ctx *ctx, const t3v_dit *dit, int64_t i);
/* After all work of block i was launched: sends the one that is next, or the first after the last. */
void t3v_dit_stream_next(t3v_ctx *ctx, const t3v_dit *dit, int64_t i);

#endif
