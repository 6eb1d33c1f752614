/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model in the other forms that tokenizers are found in, as Hugging Face's converter lays them out. */
#ifndef T3V_TESTS_TOKENIZER_FORMS_H
#define T3V_TESTS_TOKENIZER_FORMS_H

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "text/spiece_model.h"

static inline char *base64_of(const unsigned char *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((n + 2) / 3 * 4 + 1), *at = text;
    for (size_t i = 0; text && i < n; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++) bits = bits << 8 | (i + k < n ? data[i + k] : 0);
        for (size_t k = 0; k < 4; k++) *at++ = i + k > n ? '=' : digits[bits >> (18 - 6 * k) & 63];
    }
    if (text) *at = 0;
    return text;
}

/* tokenizer.json's root; NULL without memory. */
static inline json_t *tokenizer_json_of(const t3v_spiece_model *m)
{
    json_t *vocab = json_array(), *added = json_array(), *normalizers = json_array();
    for (int32_t i = 0; i < m->pieces; i++) {
        const t3v_spiece *p = &m->piece[i];
        json_array_append_new(vocab, json_pack("[s#, f]", p->text, (int)p->len, (double)p->score));
        if (p->type == T3V_SPIECE_CONTROL || p->type == T3V_SPIECE_UNKNOWN)
            json_array_append_new(added, json_pack("{s:i, s:s#, s:b, s:b, s:b, s:b, s:b}", "id", i, "content",
                                                   p->text, (int)p->len, "single_word", 0, "lstrip", 0,
                                                   "rstrip", 0, "normalized", 0, "special", 1));
    }
    /* a sentinel behind the model's pieces, which the vocabulary does not have */
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", m->pieces, "content",
                                           "<extra_id_0>", "single_word", 0, "lstrip", 0, "rstrip", 0,
                                           "normalized", 0, "special", 1));
    if (m->charsmap.units) { /* the table lies in one piece: its size, the trie, the texts */
        size_t n = 4 + 4 * m->charsmap.n_units + m->charsmap.text_bytes;
        char *text = base64_of(m->charsmap.units - 4, n);
        json_array_append_new(normalizers,
                              json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", text));
        free(text);
    }
    json_array_append_new(normalizers,
                          json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", 0, "strip_right", 1));
    json_array_append_new(normalizers, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "Regex",
                                                 " {2,}", "content", "\xe2\x96\x81"));
    return json_pack(
        "{s:s, s:n, s:n, s:o, s:{s:s, s:o}, s:{s:s, s:s, s:s, s:b}, s:n, s:{s:s, s:s, s:s, s:b}, "
        "s:{s:s, s:i, s:o, s:b}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer", "type", "Sequence",
        "normalizers", normalizers, "pre_tokenizer", "type", "Metaspace", "replacement", "\xe2\x96\x81",
        "prepend_scheme", "always", "split", 1, "post_processor", "decoder", "type", "Metaspace",
        "replacement", "\xe2\x96\x81", "prepend_scheme", "always", "split", 1, "model", "type", "Unigram",
        "unk_id", m->unk, "vocab", vocab, "byte_fallback", m->byte_fallback);
}

#endif
