/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt to token ids: cleaning, the SentencePiece unigram model of umT5, EOS, the cut at 512. */
#include "text/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "text/sentencepiece_shim.h"
#include "text/spiece_model.h"

struct t3v_tokenizer {
    t3v_spm *spm;
    int32_t vocab_size;
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
    if (!tok) return t3v_fail(T3V_E_NOMEM, "tokenizer: no memory");
    char err[160] = "";
    tok->vocab_size = pieces;
    tok->spm = t3v_spm_open(data, n, err, sizeof err);
    if (!tok->spm) {
        free(tok);
        return t3v_fail(T3V_E_FORMAT, "tokenizer: libsentencepiece refuses the model: %s", err);
    }
    *out = tok;
    return T3V_OK;
}

t3v_status t3v_tokenizer_open(const char *path, t3v_tokenizer **out)
{
    *out = NULL;
    t3v_status st = T3V_OK;
    char *data = NULL;
    size_t n = 0, cap = 1 << 20;
    FILE *f = fopen(path, "rb");
    if (!f) return t3v_fail(T3V_E_IO, "cannot open the tokenizer %s: %s", path, strerror(errno));
    for (;;) {
        char *more = realloc(data, cap);
        if (!more) {
            st = t3v_fail(T3V_E_NOMEM, "no memory for the tokenizer %s", path);
            goto end;
        }
        data = more;
        n += fread(data + n, 1, cap - n, f);
        if (n < cap) break;
        if (cap > T3V_SPIECE_MAX_BYTES) {
            st = t3v_fail(T3V_E_TOO_BIG, "the tokenizer %s has more than %d bytes: is it a spiece.model?",
                          path, T3V_SPIECE_MAX_BYTES);
            goto end;
        }
        cap *= 2;
    }
    if (ferror(f)) {
        st = t3v_fail(T3V_E_IO, "cannot read the tokenizer %s: %s", path, strerror(errno));
        goto end;
    }
    st = t3v_tokenizer_open_memory(data, n, out);
    if (st) t3v_fail_in(st, "%s", path);
end:
    free(data);
    fclose(f);
    return st;
}

void t3v_tokenizer_close(t3v_tokenizer *tok)
{
    if (!tok) return;
    t3v_spm_close(tok->spm);
    free(tok->cut);
    free(tok);
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
