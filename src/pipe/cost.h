/* SPDX-License-Identifier: Apache-2.0 */
/* What a job will take, found by running its layout without its data. */
#ifndef T3V_PIPE_COST_H
#define T3V_PIPE_COST_H

#include "pipe/model.h"
#include "pipe/schedule.h"
#include "t3v/t3v.h"

/* Code, libraries, oneDNN's kernels and scratch, measured with two threads. */
enum { T3V_PROGRAM_BYTES = 32 << 20 };

/* Fills result->peak_bytes, ->passes, ->flop, ->steps_low and ->both_experts, of a dry run the seconds of the phases, which
 * takes some 50 ms, and *vae_room: the bytes that the VAE may take. low: holds the second transformer, or NULL. E_NOMEM when
 * the peak passes the job's memory limit, or what the machine has available if it sets none. */
t3v_status t3v_cost_check(t3v_model *m, t3v_model *low, const t3v_job *job, const t3v_schedule *s,
                          const int64_t latent[4], t3v_result *result, size_t *vae_room);

/* What a memory limit of the whole program (0: none) leaves for t3v_vae_decode or _encode: *room bytes (0: no limit).
 * *held is what stays beside them: the loaded VAE's weights, the program, and `others`. E_NOMEM when that is all. */
t3v_status t3v_vae_room(const t3v_model *m, int64_t limit, int64_t others, int64_t *held, size_t *room);
/* Bytes of the parameters, converted or mapped (mapped pages are resident once used). */
int64_t t3v_weight_bytes(const t3v_params *p, const t3v_tensor_file *f, t3v_dtype compute);
/* Bytes of the encoder for a file of this name; 0 for formats that need none. */
int64_t t3v_encoder_bytes(const char *path, int64_t frames, int64_t height, int64_t width);

/* Floating-point operations of one forward pass (a multiply-add counts two) at a moment. text_rows: rows of the
 * context. */
double t3v_dit_flop(const t3v_dit_config *c, const t3v_plan *plan, int64_t tokens, int64_t text_rows,
                    const t3v_moment *moment);

#endif
