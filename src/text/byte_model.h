/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest tokenizer there is: one piece a byte. For models with random weights, which need some tokenizer. */
#ifndef T3V_TEXT_BYTE_MODEL_H
#define T3V_TEXT_BYTE_MODEL_H

#include <stddef.h>

enum { T3V_BYTE_MODEL_PIECES = 261, T3V_BYTE_MODEL_MAX = 8192 };

/* Writes a SentencePiece unigram model: <pad>, </s>, <s>, <unk>, <0x00>..<0xFF> with byte fallback, and the space mark.
 * Returns its bytes, at most T3V_BYTE_MODEL_MAX. */
size_t t3v_byte_model(unsigned char *out);

#endif
