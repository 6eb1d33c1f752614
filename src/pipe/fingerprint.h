/* SPDX-License-Identifier: Apache-2.0 */
/* A short name of the weights that made something, to tell whether it may be used with others. */
#ifndef T3V_PIPE_FINGERPRINT_H
#define T3V_PIPE_FINGERPRINT_H

#include "pipe/model.h"

enum { T3V_FINGERPRINT = 17 }; /* 16 hexadecimal digits and the NUL */

/* FNV-1a (64 bits) of the names, types and shapes of the loaded parts' tensors as stored, up to 12 KiB of
 * each one's bytes (start, middle, end), and with the text encoder of the tokenizer's bytes. Not against
 * forgery. */
t3v_status t3v_fingerprint(const t3v_model *m, unsigned parts, char out[T3V_FINGERPRINT]);

#endif
