/* SPDX-License-Identifier: Apache-2.0 */
/* Making the bytes of a SentencePiece unigram model (protobuf: sentencepiece_model.proto). */
#ifndef T3V_TEXT_SPIECE_BUILD_H
#define T3V_TEXT_SPIECE_BUILD_H

#include "text/spiece_model.h"

/* Zeroed at first. */
typedef struct t3v_spiece_build {
    unsigned char *bytes; /* malloc'ed; the caller's after _finish */
    size_t size, room;
    bool failed; /* no memory, or more than T3V_SPIECE_MAX_BYTES */
} t3v_spiece_build;

/* How text is prepared; a charsmap of no bytes leaves characters as they are. */
typedef struct t3v_spiece_settings {
    int32_t unk;
    bool byte_fallback, add_dummy_prefix, remove_extra_whitespaces;
    const void *charsmap;
    size_t charsmap_bytes;
} t3v_spiece_settings;

/* The next piece, text[0..n). T5's sentinels (<extra_id_N>) become CONTROL whatever they are called, as no prompt has them. */
void t3v_spiece_add(t3v_spiece_build *b, const char *text, size_t n, float score, t3v_spiece_type type);
/* The rest. E_NOMEM or E_TOO_BIG: then the bytes are freed. Nothing else is checked: t3v_spiece_model_parse does that. */
t3v_status t3v_spiece_finish(t3v_spiece_build *b, const t3v_spiece_settings *s);

#endif
