/* SPDX-License-Identifier: Apache-2.0 */
/* A text encoder's pairs in GGUF: t5encoder.* and tokenizer.ggml.*. */
#include "pipe/gguf_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/spiece_model.h"
#include "text/tokenizer.h"

static int64_t axis(const t3v_tensor_file *f, const char *name, int i)
{
    const t3v_tensor_entry *e = t3v_tensors_find(f, name);
    return e && i < e->ndim ? e->shape[i] : 0;
}

static void put_sizes(t3v_gguf_keys *k, const t3v_tensor_file *f, const t3v_family *y, int64_t inner)
{
    const float eps = 1e-6f;
    uint32_t head = (uint32_t)(inner / y->text_heads);
    t3v_gguf_u32(k, "t5encoder.context_length", T3V_TEXT_LEN);
    t3v_gguf_u32(k, "t5encoder.vocab_size", (uint32_t)y->vocab);
    t3v_gguf_u32(k, "t5encoder.embedding_length", (uint32_t)y->text_width);
    t3v_gguf_u32(k, "t5encoder.feed_forward_length", (uint32_t)axis(f, "blocks.0.ffn.fc1.weight", 0));
    t3v_gguf_u32(k, "t5encoder.block_count", (uint32_t)y->text_layers);
    t3v_gguf_u32(k, "t5encoder.attention.head_count", (uint32_t)y->text_heads);
    t3v_gguf_u32(k, "t5encoder.attention.key_length", head);
    t3v_gguf_u32(k, "t5encoder.attention.value_length", head);
    t3v_gguf_f32(k, "t5encoder.attention.layer_norm_epsilon", eps);
    t3v_gguf_f32(k, "t5encoder.attention.layer_norm_rms_epsilon", eps);
    t3v_gguf_u32(k, "t5encoder.attention.relative_buckets_count",
                 (uint32_t)axis(f, "blocks.0.pos_embedding.embedding.weight", 0));
}

/* Rows of the embedding without a piece: a name of their own, never matched. */
enum { PAD_NAME = 32 };

static void put_pieces(t3v_gguf_keys *k, const t3v_spiece_model *m, int64_t rows)
{
    const char **text = calloc((size_t)rows, sizeof *text);
    uint32_t *len = calloc((size_t)rows, sizeof *len);
    float *score = calloc((size_t)rows, sizeof *score);
    int32_t *type = calloc((size_t)rows, sizeof *type);
    char(*pad)[PAD_NAME] = calloc((size_t)(rows - m->pieces) + 1, sizeof *pad);
    if (!text || !len || !score || !type || !pad) k->failed = true;
    for (int64_t i = 0; i < rows && !k->failed; i++) {
        bool piece = i < m->pieces;
        if (!piece) snprintf(pad[i - m->pieces], PAD_NAME, "[PAD%lld]", (long long)i);
        text[i] = piece ? m->piece[i].text : pad[i - m->pieces];
        len[i] = piece ? m->piece[i].len : (uint32_t)strlen(text[i]);
        score[i] = piece ? m->piece[i].score : -10000;
        type[i] = piece ? (int32_t)m->piece[i].type : T3V_SPIECE_UNUSED; /* numbered as in sentencepiece */
    }
    if (!k->failed) {
        t3v_gguf_texts(k, "tokenizer.ggml.tokens", text, len, (uint64_t)rows);
        t3v_gguf_f32s(k, "tokenizer.ggml.scores", score, (uint64_t)rows);
        t3v_gguf_i32s(k, "tokenizer.ggml.token_type", type, (uint64_t)rows);
    }
    free(text);
    free(len);
    free(score);
    free(type);
    free(pad);
}

/* The table as the model file has it: the trie's bytes in a u32, the trie, the replacements. */
static void put_charsmap(t3v_gguf_keys *k, const t3v_charsmap *c)
{
    if (!c->units) return;
    size_t trie = 4 * c->n_units, all = 4 + trie + c->text_bytes;
    unsigned char *p = malloc(all);
    if (!p) {
        k->failed = true;
        return;
    }
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(trie >> 8 * i);
    memcpy(p + 4, c->units, trie);
    memcpy(p + 4 + trie, c->text, c->text_bytes);
    t3v_gguf_bytes(k, "tokenizer.ggml.precompiled_charsmap", p, all);
    free(p);
}

static t3v_status put_tokenizer(t3v_gguf_keys *k, int64_t rows, const void *spiece, size_t n)
{
    t3v_spiece_model m;
    T3V_TRY(t3v_spiece_model_parse(spiece, n, &m));
    t3v_status st = T3V_OK;
    if (m.pieces > rows) {
        st = t3v_fail(T3V_E_FORMAT, "the tokenizer has %d pieces, the text encoder only %lld rows", m.pieces,
                      (long long)rows);
    } else {
        t3v_gguf_text(k, "tokenizer.ggml.model", "t5");
        put_pieces(k, &m, rows);
        t3v_gguf_u32(k, "tokenizer.ggml.padding_token_id", T3V_SPIECE_PAD);
        t3v_gguf_u32(k, "tokenizer.ggml.eos_token_id", T3V_SPIECE_EOS);
        t3v_gguf_u32(k, "tokenizer.ggml.unknown_token_id", (uint32_t)m.unk);
        t3v_gguf_bool(k, "tokenizer.ggml.add_space_prefix", m.add_dummy_prefix);
        t3v_gguf_bool(k, "tokenizer.ggml.remove_extra_whitespaces", m.remove_extra_whitespaces);
        t3v_gguf_bool(k, "tokenizer.ggml.add_bos_token", false);
        t3v_gguf_bool(k, "tokenizer.ggml.add_eos_token", true);
        put_charsmap(k, &m.charsmap);
    }
    t3v_spiece_model_free(&m);
    return st;
}

t3v_status t3v_gguf_text_keys(t3v_gguf_keys *k, const t3v_tensor_file *f, const t3v_family *family,
                              const void *spiece, size_t n)
{
    int64_t inner = axis(f, "blocks.0.attn.q.weight", 0);
    if (family->text_heads < 1 || inner < 1 || inner % family->text_heads || family->vocab < 1 ||
        family->vocab > T3V_SPIECE_MAX_PIECES)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: a text encoder of %lld rows, attention of %lld in %lld heads, is not a UMT5",
                        f->path, (long long)family->vocab, (long long)inner, (long long)family->text_heads);
    put_sizes(k, f, family, inner);
    return spiece ? put_tokenizer(k, family->vocab, spiece, n) : T3V_OK;
}
