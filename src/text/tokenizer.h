/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt to token ids: cleaning, the SentencePiece unigram model of umT5, EOS, the cut at 512. */
#ifndef T3V_TEXT_TOKENIZER_H
#define T3V_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "t3v/status.h"
#include "text/clean.h"

enum { T3V_TEXT_LEN = 512 }; /* the models' text length, EOS included */

typedef struct t3v_tokenizer t3v_tokenizer;

/* Opens the bytes of a spiece.model (a copy is kept). Every byte is checked before libsentencepiece sees it:
 * T3V_E_FORMAT, _UNSUPPORTED, _TOO_BIG or _NOMEM. */
t3v_status t3v_tokenizer_open_memory(const void *data, size_t n, t3v_tokenizer **out);
/* The same from a file, told by its content: a spiece.model, a tokenizer.json, or the weights of a text encoder with a
 * tokenizer inside (the bytes of a spiece.model as tensor `spiece_model`, or GGUF's tokenizer.ggml keys). E_IO too. */
t3v_status t3v_tokenizer_open(const char *path, t3v_tokenizer **out);
/* Whether a file of weights has one inside; what cannot be read has none. E_NOMEM. */
t3v_status t3v_tokenizer_inside(const char *path, bool *inside);
void t3v_tokenizer_close(t3v_tokenizer *tok); /* NULL is fine */

/* The bytes of the spiece.model, read or made; they live as long as the tokenizer. */
const void *t3v_tokenizer_bytes(const t3v_tokenizer *tok, size_t *n);

/* The number of pieces in the model: every id is below it. */
int32_t t3v_tokenizer_vocab_size(const t3v_tokenizer *tok);

/* Cleans the prompt and writes its ids to ids[0..*n), 1 <= *n <= max, with EOS (1) as the last; no padding.
 * An empty prompt gives EOS alone. More than max - 1 pieces are cut to max - 1 and EOS, as the official
 * code does; then *cut is the first word of the cleaned prompt that is not wholly there (else NULL). It
 * lives until the next call with this tokenizer; so one tokenizer serves one thread at a time.
 * `cut` may be NULL. Errors: those of t3v_text_clean; T3V_E_ARG if max < 1. */
t3v_status t3v_tokenizer_encode(t3v_tokenizer *tok, const char *utf8, t3v_clean_mode mode, int32_t *ids,
                                int max, int *n, const char **cut);

#endif
