/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a tokenizer can come from, told by their content. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "io/file.h"
#include "io/tensors.h"
#include "text/spiece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_gguf.h"
#include "text/tokenizer_json.h"

static t3v_status from_json(const char *path, const t3v_map *m, t3v_tokenizer **out)
{
    unsigned char *bytes;
    size_t n;
    T3V_TRY(t3v_tokenizer_json(path, (const char *)m->data, m->size, &bytes, &n));
    t3v_status st = t3v_tokenizer_open_memory(bytes, n, out);
    free(bytes);
    return st;
}

/* The tensor of a text encoder's file that holds the bytes of a spiece.model. */
static const t3v_tensor_entry *model_tensor(const t3v_tensor_file *f)
{
    static const char name[] = "spiece_model";
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *e = &f->tensors[i];
        size_t n = strlen(e->name), k = sizeof name - 1;
        bool named = n >= k && strcmp(e->name + n - k, name) == 0 && (n == k || e->name[n - k - 1] == '.');
        if (named && (e->dtype == T3V_U8 || e->dtype == T3V_I8)) return e;
    }
    return NULL;
}

t3v_status t3v_tokenizer_inside(const char *path, bool *inside)
{
    t3v_tensor_file *f;
    t3v_status st = t3v_tensors_open(&f, path);
    *inside = !st && (model_tensor(f) || t3v_tokenizer_gguf_has(f));
    t3v_tensors_close(f);
    return st == T3V_E_NOMEM ? st : T3V_OK;
}

static t3v_status from_weights(const char *path, t3v_tokenizer **out)
{
    t3v_tensor_file *f;
    unsigned char *made = NULL;
    size_t n;
    t3v_status st;
    T3V_TRY(t3v_tensors_open(&f, path));
    const t3v_tensor_entry *e = model_tensor(f);
    if (e) {
        st = t3v_tokenizer_open_memory(e->data, (size_t)e->nbytes, out);
    } else if (t3v_tokenizer_gguf_has(f)) {
        st = t3v_tokenizer_gguf(f, &made, &n);
        if (!st) st = t3v_tokenizer_open_memory(made, n, out);
    } else {
        st = t3v_fail(
            T3V_E_FORMAT,
            "%s: these weights have no tokenizer inside (a tensor spiece_model, or tokenizer.ggml.* in "
            "GGUF); give a spiece.model or tokenizer.json",
            path);
    }
    free(made);
    t3v_tensors_close(f);
    return st;
}

static bool is_index(const char *path)
{
    static const char tail[] = ".index.json";
    size_t n = strlen(path), k = sizeof tail - 1;
    return n >= k && strcmp(path + n - k, tail) == 0;
}

t3v_status t3v_tokenizer_open(const char *path, t3v_tokenizer **out)
{
    t3v_map m;
    *out = NULL;
    if (t3v_is_dir(path) || is_index(path)) return from_weights(path, out);
    T3V_TRY(t3v_map_open(&m, path));
    t3v_status st;
    const unsigned char *p = m.data;
    if ((m.size > 8 && p[8] == '{' && !p[5] && !p[6] && !p[7]) ||
        (m.size >= 4 && (memcmp(p, "PK\3\4", 4) == 0 || memcmp(p, "GGUF", 4) == 0))) {
        st = from_weights(path, out);
    } else if (m.size > T3V_SPIECE_MAX_BYTES) {
        st = t3v_fail(T3V_E_TOO_BIG, "%zu bytes; a tokenizer has at most %d: is it a spiece.model?", m.size,
                      T3V_SPIECE_MAX_BYTES);
    } else if (m.size && p[0] == '{') {
        st = from_json(path, &m, out);
    } else {
        st = t3v_tokenizer_open_memory(p, m.size, out);
    }
    if (st && !strstr(t3v_error_text(), path)) t3v_fail_in(st, "%s", path);
    t3v_map_close(&m);
    return st;
}
