/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer in a GGUF file's metadata (tokenizer.ggml.*), made into the SentencePiece model it came from. */
#ifndef T3V_TEXT_TOKENIZER_GGUF_H
#define T3V_TEXT_TOKENIZER_GGUF_H

#include "io/tensors.h"

/* Whether the file has one. */
bool t3v_tokenizer_gguf_has(const t3v_tensor_file *f);
/* *bytes are those of a model for t3v_tokenizer_open_memory, malloc'ed (caller frees). E_FORMAT names the key that is missing or
 * malformed, E_UNSUPPORTED a tokenizer of another kind than T5's. */
t3v_status t3v_tokenizer_gguf(const t3v_tensor_file *f, unsigned char **bytes, size_t *size);

#endif
