/* SPDX-License-Identifier: Apache-2.0 */
/* Muon (Jordan et al. 2024): steps of matrices whose singular values are all about one. */
#ifndef T3V_TRAIN_MUON_H
#define T3V_TRAIN_MUON_H

#include "base/arena.h"
#include "base/status.h"
#include "tensor/tensor.h"

/* Whether Muon is meant for this parameter: a matrix inside a block, at least 64 by 64. */
bool t3v_muon_takes(const t3v_param *p);

/* Takes the gradient into the momentum, m = beta m + (1 - beta) scale g, and writes to `out` the step that follows from
 * u = beta m + (1 - beta) scale g: U V' where u = U S V', by five Newton-Schulz steps (singular values end in 0.7..1.2),
 * times 0.2 sqrt(max(rows, cols)), so that an element is as large as one of AdamW's and the learning rate is the same
 * (Liu et al. 2025, arXiv 2502.16982). All [rows, cols] F32; products in BF16. Scratch is given back.
 * The same bytes with any number of threads. E_NOMEM: the arena is full. All of it lies where `scratch` has its data: with
 * the host, or on its device. */
t3v_status t3v_muon_step(float *m, const float *g, double scale, double beta, int64_t rows, int64_t cols,
                         float *out, t3v_arena *scratch);

#endif
