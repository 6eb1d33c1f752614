/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest tokenizer there is: one piece a byte. For models with random weights, which need some tokenizer. */
#ifndef T3V_TEXT_BYTE_MODEL_H
#define T3V_TEXT_BYTE_MODEL_H

#include <stddef.h>

#include "t3v/status.h"

/* Makes a SentencePiece unigram model: <pad>, </s>, <s>, <unk>, <0x00>..<0xFF> with byte fallback, and the space mark.
 * Its bytes are malloc'ed (caller frees). E_NOMEM. */
t3v_status t3v_byte_model(unsigned char **bytes, size_t *n);

#endif
