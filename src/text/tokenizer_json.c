/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json, as Hugging Face's tokenizers write it, made into the SentencePiece model it came from. */
#include "text/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "io/json.h"
#include "text/spiece_build.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

typedef struct reader {
    const char *label;
    t3v_spiece_settings settings;
    unsigned char *charsmap; /* malloc'ed */
    const json_t *vocab;
    unsigned char *type; /* [pieces], t3v_spiece_type */
} reader;

/* ---- text before pieces ---------------------------------------------------------------------------- */

/* Base64 as RFC 4648 has it: whole groups of four, '=' at the end only. */
static bool decode_base64(const char *text, unsigned char *out, size_t *n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = strlen(text), pad = 0;
    *n = 0;
    if (length % 4) return false;
    while (pad < 2 && pad < length && text[length - 1 - pad] == '=') pad++;
    uint32_t bits = 0;
    for (size_t i = 0; i < length; i++) {
        const char *d = i < length - pad ? strchr(digits, text[i]) : digits;
        if (!d) return false;
        bits = bits << 6 | (uint32_t)(d - digits);
        for (size_t k = 0; i % 4 == 3 && k < 3u - (i == length - 1 ? pad : 0); k++)
            out[(*n)++] = (unsigned char)(bits >> (16 - 8 * k));
    }
    return true;
}

static t3v_status read_charsmap(reader *r, const json_t *o)
{
    const char *text;
    T3V_TRY(t3v_json_string(o, r->label, "precompiled_charsmap", true, &text));
    if (r->charsmap) return t3v_fail(T3V_E_UNSUPPORTED, "%s: the normalizer has two charsmaps", r->label);
    if (!(r->charsmap = malloc(strlen(text) + 1)))
        return t3v_fail(T3V_E_NOMEM, "%s: no memory for its charsmap", r->label);
    if (!decode_base64(text, r->charsmap, &r->settings.charsmap_bytes))
        return t3v_fail(T3V_E_FORMAT, "%s: precompiled_charsmap is not base64", r->label);
    r->settings.charsmap = r->charsmap;
    return T3V_OK;
}

static t3v_status no_such(const reader *r, const char *what, const char *type)
{
    return t3v_fail(T3V_E_UNSUPPORTED,
                    "%s: a %s of type %s is not what umT5 has; use spiece.model of the same directory",
                    r->label, what, type);
}

/* Spaces at the end are cut, or runs of them are one: both are parts of what SentencePiece calls extra whitespace. */
static t3v_status read_normalizer(reader *r, const json_t *o, int depth)
{
    const char *type, *text = NULL;
    json_t *list, *each, *pattern;
    size_t i;
    if (!o || json_is_null(o)) return T3V_OK;
    T3V_TRY(t3v_json_string(o, r->label, "type", true, &type));
    if (strcmp(type, "Precompiled") == 0) return read_charsmap(r, o);
    if (strcmp(type, "Sequence") == 0 && depth == 0) {
        T3V_TRY(t3v_json_array(o, r->label, "normalizers", true, &list));
        json_array_foreach(list, i, each) T3V_TRY(read_normalizer(r, each, 1));
        return T3V_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        r->settings.remove_extra_whitespaces = true;
        return T3V_OK;
    }
    if (strcmp(type, "Replace") == 0) {
        T3V_TRY(t3v_json_object(o, r->label, "pattern", true, &pattern));
        T3V_TRY(t3v_json_string(pattern, r->label, "Regex", false, &text));
        if (text && strcmp(text, " {2,}") == 0) {
            r->settings.remove_extra_whitespaces = true;
            return T3V_OK;
        }
    }
    return no_such(r, "normalizer", type);
}

static t3v_status read_words(reader *r, const json_t *o, int depth)
{
    const char *type, *mark = space_mark, *scheme = NULL;
    json_t *list, *each;
    size_t i;
    if (!o || json_is_null(o)) return t3v_fail(T3V_E_FORMAT, "%s: it has no pre_tokenizer", r->label);
    T3V_TRY(t3v_json_string(o, r->label, "type", true, &type));
    if (strcmp(type, "Sequence") == 0 && depth == 0) {
        T3V_TRY(t3v_json_array(o, r->label, "pretokenizers", true, &list));
        json_array_foreach(list, i, each) T3V_TRY(read_words(r, each, 1));
        return T3V_OK;
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        r->settings.remove_extra_whitespaces = true;
        return T3V_OK;
    }
    if (strcmp(type, "Metaspace") != 0) return no_such(r, "pre_tokenizer", type);
    T3V_TRY(t3v_json_string(o, r->label, "replacement", false, &mark));
    if (strcmp(mark, space_mark) != 0)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: spaces become '%s', expected U+2581", r->label, mark);
    r->settings.add_dummy_prefix = true;
    T3V_TRY(t3v_json_bool(o, r->label, "add_prefix_space", false, &r->settings.add_dummy_prefix));
    T3V_TRY(t3v_json_string(o, r->label, "prepend_scheme", false, &scheme));
    if (scheme) r->settings.add_dummy_prefix = strcmp(scheme, "never") != 0;
    return T3V_OK;
}

/* ---- pieces ---------------------------------------------------------------------------------------- */

static bool is_byte(const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && memchr(hex, text[3], 16) &&
           memchr(hex, text[4], 16) && text[5] == '>';
}

/* Entry i of the vocabulary: [piece, score]. */
static t3v_status piece_at(const reader *r, size_t i, const char **text, double *score)
{
    const json_t *entry = json_array_get(r->vocab, i), *number = json_array_get(entry, 1);
    *text = json_string_value(json_array_get(entry, 0));
    *score = json_number_value(number);
    if (*text && json_is_number(number) && json_array_size(entry) == 2) return T3V_OK;
    return t3v_fail(T3V_E_FORMAT, "%s: entry %zu of model.vocab is not [piece, score]", r->label, i);
}

/* Added tokens with an id of the vocabulary say what their piece is. */
static t3v_status read_added(reader *r, const json_t *root)
{
    json_t *list = NULL, *each;
    size_t i;
    T3V_TRY(t3v_json_array(root, r->label, "added_tokens", false, &list));
    json_array_foreach(list, i, each)
    {
        int64_t id = 0;
        const char *content, *text;
        bool special = false;
        double score;
        T3V_TRY(t3v_json_int(each, r->label, "id", true, 0, INT32_MAX, &id));
        T3V_TRY(t3v_json_string(each, r->label, "content", true, &content));
        T3V_TRY(t3v_json_bool(each, r->label, "special", false, &special));
        if ((size_t)id >= json_array_size(r->vocab)) continue;
        T3V_TRY(piece_at(r, (size_t)id, &text, &score));
        if (strcmp(text, content) != 0)
            return t3v_fail(T3V_E_FORMAT, "%s: added token '%s' has the id %lld of piece '%s'", r->label,
                            content, (long long)id, text);
        r->type[id] = special ? T3V_SPIECE_CONTROL : T3V_SPIECE_USER_DEFINED;
    }
    return T3V_OK;
}

static t3v_status read_model(reader *r, const json_t *root)
{
    const char *type = "Unigram";
    json_t *model, *vocab;
    int64_t unk = 0;
    T3V_TRY(t3v_json_object(root, r->label, "model", true, &model));
    T3V_TRY(t3v_json_string(model, r->label, "type", false, &type));
    if (strcmp(type, "Unigram") != 0) return no_such(r, "model", type);
    T3V_TRY(t3v_json_array(model, r->label, "vocab", true, &vocab));
    T3V_TRY(t3v_json_bool(model, r->label, "byte_fallback", false, &r->settings.byte_fallback));
    size_t pieces = json_array_size(vocab);
    if (pieces < 4 || pieces > T3V_SPIECE_MAX_PIECES)
        return t3v_fail(T3V_E_FORMAT, "%s: %zu pieces; expected 4 to %d", r->label, pieces,
                        T3V_SPIECE_MAX_PIECES);
    T3V_TRY(t3v_json_int(model, r->label, "unk_id", true, 0, (int64_t)pieces - 1, &unk));
    r->vocab = vocab;
    r->settings.unk = (int32_t)unk;
    if (!(r->type = malloc(pieces))) return t3v_fail(T3V_E_NOMEM, "%s: no memory", r->label);
    memset(r->type, T3V_SPIECE_NORMAL, pieces);
    r->type[T3V_SPIECE_PAD] = r->type[T3V_SPIECE_EOS] = T3V_SPIECE_CONTROL;
    T3V_TRY(read_added(r, root));
    r->type[unk] = T3V_SPIECE_UNKNOWN;
    return T3V_OK;
}

static t3v_status build(const reader *r, t3v_spiece_build *b)
{
    for (size_t i = 0; i < json_array_size(r->vocab); i++) {
        const char *text;
        double score;
        T3V_TRY(piece_at(r, i, &text, &score));
        t3v_spiece_type type = (t3v_spiece_type)r->type[i];
        if (type == T3V_SPIECE_NORMAL && r->settings.byte_fallback && is_byte(text)) type = T3V_SPIECE_BYTE;
        t3v_spiece_add(b, text, strlen(text), (float)score, type);
    }
    return t3v_spiece_finish(b, &r->settings);
}

/* A parsed document takes memory for each value, whatever its size in the text: what no vocabulary needs is refused first. */
static t3v_status check_values(const char *label, const char *text, size_t n)
{
    enum { VALUES = 4 * T3V_SPIECE_MAX_PIECES };
    int64_t values = 0;
    for (size_t i = 0; i < n; i++) values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    if (n <= T3V_SPIECE_MAX_BYTES && values <= VALUES) return T3V_OK;
    return t3v_fail(T3V_E_TOO_BIG, "%s: %zu bytes, %lld values; a tokenizer has at most %d and %d", label, n,
                    (long long)values, T3V_SPIECE_MAX_BYTES, VALUES);
}

t3v_status t3v_tokenizer_json(const char *label, const char *text, size_t n, unsigned char **bytes,
                              size_t *size)
{
    reader r = {.label = label};
    t3v_spiece_build b = {0};
    json_t *root = NULL;
    t3v_status st;
    *bytes = NULL;
    *size = 0;
    T3V_TRY_GOTO(st, done, check_values(label, text, n));
    T3V_TRY_GOTO(st, done, t3v_json_parse(&root, label, text, n));
    T3V_TRY_GOTO(st, done, read_normalizer(&r, json_object_get(root, "normalizer"), 0));
    T3V_TRY_GOTO(st, done, read_words(&r, json_object_get(root, "pre_tokenizer"), 0));
    T3V_TRY_GOTO(st, done, read_model(&r, root));
    T3V_TRY_GOTO(st, done, build(&r, &b));
    *bytes = b.bytes;
    *size = b.size;
    b.bytes = NULL;
done:
    free(b.bytes);
    free(r.charsmap);
    free(r.type);
    json_decref(root);
    return st;
}
