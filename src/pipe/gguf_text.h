/* SPDX-License-Identifier: Apache-2.0 */
/* The key-value pairs of a text encoder in GGUF: its sizes, and the tokenizer. */
#ifndef T3V_PIPE_GGUF_TEXT_H
#define T3V_PIPE_GGUF_TEXT_H

#include "io/gguf_write.h"
#include "pipe/family.h"

/* Appends those of a UMT5 encoder whose tensors are `f` (original names), as readers of t5encoder files know them. spiece
 * [n]: a sentencepiece model, whose pieces are filled up to the rows of the embedding; NULL: without a tokenizer. E_FORMAT:
 * no such encoder, not a model, more pieces than rows. */
t3v_status t3v_gguf_text_keys(t3v_gguf_keys *k, const t3v_tensor_file *f, const t3v_family *family,
                              const void *spiece, size_t n);

#endif
