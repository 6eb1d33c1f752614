/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model file (protobuf ModelProto), read and checked without trusting a byte of it. */
#ifndef T3V_TEXT_SPIECE_MODEL_H
#define T3V_TEXT_SPIECE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "t3v/status.h"

enum {
    T3V_SPIECE_MAX_BYTES = 64 << 20, /* of a model file */
    T3V_SPIECE_MAX_PIECES = 1 << 20,
    T3V_SPIECE_MAX_PIECE = 512, /* bytes of a piece */
    T3V_SPIECE_PAD = 0,
    T3V_SPIECE_EOS = 1,
};

typedef enum t3v_spiece_type {
    T3V_SPIECE_NORMAL = 1,
    T3V_SPIECE_UNKNOWN = 2,
    T3V_SPIECE_CONTROL = 3,
    T3V_SPIECE_USER_DEFINED = 4,
    T3V_SPIECE_UNUSED = 5,
    T3V_SPIECE_BYTE = 6,
} t3v_spiece_type;

typedef struct t3v_spiece {
    const char *text; /* into the file's bytes; not NUL-terminated */
    uint32_t len;     /* bytes, at least 1 */
    float score;
    t3v_spiece_type type;
} t3v_spiece;

/* The rewriting table of a normalizer: a double-array trie (Darts) and the replacements. */
typedef struct t3v_charsmap {
    const uint8_t *units; /* n_units little-endian u32; NULL: no table */
    size_t n_units;
    const char *text; /* NUL-terminated replacements; a trie's value is an offset into them */
    size_t text_bytes;
} t3v_charsmap;

typedef struct t3v_spiece_model {
    t3v_spiece *piece; /* [pieces], index = id */
    int32_t *sorted;   /* [pieces], ids in byte order of the pieces */
    int32_t pieces;
    int32_t unk;             /* id of the one piece of type UNKNOWN */
    int32_t byte_piece[256]; /* ids of <0x00>..<0xFF>; -1 without byte fallback */
    bool byte_fallback;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    t3v_charsmap charsmap;
} t3v_spiece_model;

/* Parses and checks data[0..n), which must outlive the model: wire format, sizes, finite scores, types,
 * distinct non-empty UTF-8 pieces, unigram model type, <pad> = 0, </s> = 1, one unknown piece, all 256
 * byte pieces where byte fallback is on, every step the charsmap's trie can take. What passes is safe to
 * hand to libsentencepiece. Fills *m (free with _free) or fails with T3V_E_FORMAT, _TOO_BIG,
 * _UNSUPPORTED or _NOMEM. */
t3v_status t3v_spiece_model_parse(const void *data, size_t n, t3v_spiece_model *m);
void t3v_spiece_model_free(t3v_spiece_model *m);

/* The id of a piece, or -1. */
int32_t t3v_spiece_model_find(const t3v_spiece_model *m, const char *text, size_t len);

#endif
