/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt to token ids: cleaning, the SentencePiece unigram model of umT5, EOS, the cut at 512. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "text/sentencepiece_shim.h"
#include "text/spiece_model.h"

struct t3v_tokenizer {
    t3v_spm *spm;
    int32_t vocab_size;
    void *bytes; /* the model's, `size` of them */
    size_t size;
    char *cut;
};

t3v_status t3v_tokenizer_open_memory(const void *data, size_t n, t3v_tokenizer **out)
{
    *out = NULL;
    t3v_spiece_model model;
    T3V_TRY(t3v_spiece_model_parse(data, n, &model));
    int32_t pieces = model.pieces;
    t3v_spiece_model_free(&model);
    t3v_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok || !(tok->bytes = malloc(n))) {
        free(tok);
        return t3v_fail(T3V_E_NOMEM, "tokenizer: no memory");
    }
    char err[160] = "";
    memcpy(tok->bytes, data, n);
    tok->size = n;
    tok->vocab_size = pieces;
    tok->spm = t3v_spm_open(data, n, err, sizeof err);
    if (!tok->spm) {
        t3v_tokenizer_close(tok);
        return t3v_fail(T3V_E_FORMAT, "tokenizer: libsentencepiece refuses the model: %s", err);
    }
    *out = tok;
    return T3V_OK;
}

void t3v_tokenizer_close(t3v_tokenizer *tok)
{
    if (!tok) return;
    t3v_spm_close(tok->spm);
    free(tok->bytes);
    free(tok->cut);
    free(tok);
}

const void *t3v_tokenizer_bytes(const t3v_tokenizer *tok, size_t *n)
{
    *n = tok->size;
    return tok->bytes;
}

int32_t t3v_tokenizer_vocab_size(const t3v_tokenizer *tok) { return tok->vocab_size; }

/* The word of text[0..n) that the piece at `at` belongs to, for the caller to free. A piece that starts a
 * word may start at the space in front of it. */
static char *word_at(const char *text, size_t n, size_t at)
{
    while (at < n && text[at] == ' ') at++;
    size_t first = at, last = at;
    while (first > 0 && text[first - 1] != ' ') first--;
    while (last < n && text[last] != ' ') last++;
    char *word = malloc(last - first + 1);
    if (!word) return NULL;
    memcpy(word, text + first, last - first);
    word[last - first] = 0;
    return word;
}

t3v_status t3v_tokenizer_encode(t3v_tokenizer *tok, const char *utf8, t3v_clean_mode mode, int32_t *ids,
                                int max, int *n, const char **cut)
{
    if (cut) *cut = NULL;
    *n = 0;
    if (max < 1) return t3v_fail(T3V_E_ARG, "tokenizer: room for %d ids; at least 1 is needed", max);
    char *text;
    T3V_TRY(t3v_text_clean(utf8, mode, &text));
    t3v_status st = T3V_OK;
    char err[160] = "";
    size_t bytes = strlen(text), pieces, at;
    if (t3v_spm_encode(tok->spm, text, bytes, ids, (size_t)max - 1, &pieces, &at, err, sizeof err)) {
        st = t3v_fail(T3V_E_INTERNAL, "tokenizer: libsentencepiece failed: %s", err);
        goto end;
    }
    *n = pieces < (size_t)max ? (int)pieces : max - 1;
    ids[(*n)++] = T3V_SPIECE_EOS;
    if (pieces >= (size_t)max && cut) {
        free(tok->cut);
        tok->cut = word_at(text, bytes, at);
        if (!tok->cut) {
            st = t3v_fail(T3V_E_NOMEM, "tokenizer: no memory");
            goto end;
        }
        *cut = tok->cut;
    }
end:
    free(text);
    return st;
}
