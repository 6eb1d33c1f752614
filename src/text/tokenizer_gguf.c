/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer in a GGUF file's metadata (tokenizer.ggml.*), made into the SentencePiece model it came from. */
#include "text/tokenizer_gguf.h"

#include <stdlib.h>
#include <string.h>

#include "io/gguf.h"
#include "text/spiece_build.h"

#define KEY(name) "tokenizer.ggml." name

bool t3v_tokenizer_gguf_has(const t3v_tensor_file *f) { return t3v_gguf_find(f, KEY("tokens")) != NULL; }

static t3v_status read_flag(const t3v_tensor_file *f, const char *key, bool *out)
{
    int64_t v = *out;
    T3V_TRY(t3v_gguf_int(f, key, false, 0, 1, &v));
    *out = v != 0;
    return T3V_OK;
}

/* An array with an entry for each of n pieces. */
static t3v_status read_array(const t3v_tensor_file *f, const char *key, t3v_gguf_type elements, int64_t n,
                             const t3v_gguf_pair **out)
{
    T3V_TRY(t3v_gguf_array(f, key, true, elements, out));
    if ((*out)->count == n) return T3V_OK;
    return t3v_fail(T3V_E_FORMAT, "%s: %s has %lld entries, there are %lld pieces", f->path, key,
                    (long long)(*out)->count, (long long)n);
}

static t3v_status read_settings(const t3v_tensor_file *f, int64_t pieces, t3v_spiece_settings *s)
{
    const char *model = NULL;
    const t3v_gguf_pair *map;
    size_t n = 0;
    int64_t unk = 2;
    T3V_TRY(t3v_gguf_string(f, KEY("model"), true, &model, &n));
    if (n != 2 || memcmp(model, "t5", 2) != 0)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: %s is \"%.*s\", expected \"t5\"", f->path, KEY("model"),
                        (int)(n < 40 ? n : 40), model);
    *s = (t3v_spiece_settings){.add_dummy_prefix = true, .remove_extra_whitespaces = true};
    T3V_TRY(t3v_gguf_int(f, KEY("unknown_token_id"), false, 0, pieces - 1, &unk));
    T3V_TRY(read_flag(f, KEY("add_space_prefix"), &s->add_dummy_prefix));
    T3V_TRY(read_flag(f, KEY("remove_extra_whitespaces"), &s->remove_extra_whitespaces));
    s->unk = (int32_t)unk;
    if (!(map = t3v_gguf_find(f, KEY("precompiled_charsmap")))) return T3V_OK;
    if (!map->array || (map->type != T3V_GGUF_U8 && map->type != T3V_GGUF_I8))
        return t3v_fail(T3V_E_FORMAT, "%s: %s is not an array of bytes", f->path,
                        KEY("precompiled_charsmap"));
    s->charsmap = map->data;
    s->charsmap_bytes = (size_t)map->count;
    return T3V_OK;
}

static t3v_status build(const t3v_tensor_file *f, t3v_spiece_build *b)
{
    const t3v_gguf_pair *tokens, *scores, *types;
    t3v_spiece_settings s;
    T3V_TRY(t3v_gguf_array(f, KEY("tokens"), true, T3V_GGUF_STRING, &tokens));
    if (tokens->count < 4 || tokens->count > T3V_SPIECE_MAX_PIECES)
        return t3v_fail(T3V_E_FORMAT, "%s: %lld pieces; expected 4 to %d", f->path, (long long)tokens->count,
                        T3V_SPIECE_MAX_PIECES);
    T3V_TRY(read_array(f, KEY("scores"), T3V_GGUF_F64, tokens->count, &scores));
    T3V_TRY(read_array(f, KEY("token_type"), T3V_GGUF_I32, tokens->count, &types));
    T3V_TRY(read_settings(f, tokens->count, &s));
    size_t at = 0;
    for (int64_t i = 0; i < tokens->count; i++) {
        size_t n;
        const char *text = t3v_gguf_string_at(tokens, &at, &n);
        int64_t type = t3v_gguf_int_at(types, i);
        if (type < T3V_SPIECE_NORMAL || type > T3V_SPIECE_BYTE)
            return t3v_fail(T3V_E_FORMAT, "%s: %s of piece %lld is %lld; known are 1 to 6", f->path,
                            KEY("token_type"), (long long)i, (long long)type);
        s.byte_fallback |= type == T3V_SPIECE_BYTE;
        t3v_spiece_add(b, text, n, (float)t3v_gguf_real_at(scores, i), (t3v_spiece_type)type);
    }
    return t3v_spiece_finish(b, &s);
}

t3v_status t3v_tokenizer_gguf(const t3v_tensor_file *f, unsigned char **bytes, size_t *size)
{
    t3v_spiece_build b = {0};
    t3v_status st = build(f, &b);
    if (st) {
        free(b.bytes);
        b = (t3v_spiece_build){0};
    }
    *bytes = b.bytes;
    *size = b.size;
    return st;
}
