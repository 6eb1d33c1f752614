/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json, as Hugging Face's tokenizers write it, made into the SentencePiece model it came from. */
#ifndef T3V_TEXT_TOKENIZER_JSON_H
#define T3V_TEXT_TOKENIZER_JSON_H

#include <stddef.h>

#include "t3v/status.h"

/* Reads a tokenizer of kind Unigram; *bytes are those of a model for t3v_tokenizer_open_memory, malloc'ed (caller frees),
 * under which text gets the same ids. Of added tokens only those of the vocabulary matter: special ones never match in
 * text, the others whole. E_FORMAT names what is malformed, E_UNSUPPORTED the kind of normalizer or tokenizer that is not
 * known; nothing in `text` is trusted. */
t3v_status t3v_tokenizer_json(const char *label, const char *text, size_t n, unsigned char **bytes,
                              size_t *size);

#endif
