/* SPDX-License-Identifier: Apache-2.0 */
/* One face for the writers of safetensors, PyTorch zip and GGUF, and the split into shards. */
#include "io/writer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "io/file.h"
#include "io/json.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "io/view.h"

enum { SHARDS_MAX = 999 };

typedef struct shard {
    char *path;
    int64_t first, count; /* tensors */
    t3v_safetensors_writer *file;
} shard;

struct t3v_writer {
    char *path;
    const t3v_tensor_entry *tensors;
    int64_t bytes; /* of all tensors */
    t3v_pth_writer *pth;
    t3v_gguf_writer *gguf;
    shard *shard;
    int shards; /* one: a plain file */
};

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

bool t3v_container_of(const char *path, t3v_container *out)
{
    if (ends_with(path, ".safetensors")) *out = T3V_FILE_SAFETENSORS;
    else if (ends_with(path, ".gguf")) *out = T3V_FILE_GGUF;
    else if (ends_with(path, ".pth") || ends_with(path, ".pt") || ends_with(path, ".bin"))
        *out = T3V_FILE_PTH;
    else return false;
    return true;
}

/* ---- shards ---------------------------------------------------------------------------------------- */

/* Fills each shard in turn; `make` lists them, else they are only counted (w->shards). */
static t3v_status split(t3v_writer *w, int64_t n, int64_t limit, bool make)
{
    int64_t used = 0;
    int k = 0;
    w->bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        t3v_tensor_entry e = w->tensors[i];
        if (!t3v_entry_sizes(&e) || !t3v_add(w->bytes, e.nbytes, &w->bytes))
            return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has an impossible shape", w->path, e.name);
        bool fresh = k == 0 || (limit > 0 && used > 0 && e.nbytes > limit - used);
        if (fresh) {
            if (k == SHARDS_MAX)
                return t3v_fail(T3V_E_ARG, "%s: shards of %lld bytes would be more than %d files", w->path,
                                (long long)limit, SHARDS_MAX);
            if (make) w->shard[k].first = i;
            k++;
            used = 0;
        }
        used += e.nbytes;
        if (make) w->shard[k - 1].count = i + 1 - w->shard[k - 1].first;
    }
    w->shards = k ? k : 1;
    return T3V_OK;
}

/* malloc'ed NAME-00001-of-00003.safetensors, or NAME.safetensors when it is alone. */
static char *shard_path(const char *path, int i, int n)
{
    size_t size = strlen(path) + 32;
    char *p = malloc(size);
    if (!p) return NULL;
    if (n == 1) {
        snprintf(p, size, "%s", path);
    } else {
        int stem = (int)(strlen(path) - strlen(".safetensors"));
        snprintf(p, size, "%.*s-%05d-of-%05d.safetensors", stem, path, i + 1, n);
    }
    return p;
}

static t3v_status begin_shards(t3v_writer *w, const t3v_writer_options *o, int64_t n)
{
    T3V_TRY(split(w, n, o->shard_bytes, false));
    if (w->shards > 1 && !ends_with(w->path, ".safetensors"))
        return t3v_fail(T3V_E_ARG, "%s: the name of a file in shards must end in .safetensors", w->path);
    w->shard = calloc((size_t)w->shards, sizeof *w->shard);
    if (!w->shard) return t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", w->path);
    T3V_TRY(split(w, n, o->shard_bytes, true));
    for (int i = 0; i < w->shards; i++) {
        shard *s = &w->shard[i];
        if (!(s->path = shard_path(w->path, i, w->shards)))
            return t3v_fail(T3V_E_NOMEM, "%s: no memory for a path", w->path);
        T3V_TRY(t3v_safetensors_begin(&s->file, s->path, w->tensors + s->first, s->count, o->meta,
                                      o->meta_count));
    }
    return T3V_OK;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static t3v_status write_index(const t3v_writer *w)
{
    json_t *root = json_object(), *meta = json_object(), *map = json_object();
    int bad = json_object_set_new(meta, "total_size", json_integer(w->bytes));
    bad |= json_object_set_new(root, "metadata", meta);
    bad |= json_object_set_new(root, "weight_map", map);
    for (int s = 0; s < w->shards; s++)
        for (int64_t i = 0; i < w->shard[s].count; i++)
            bad |= json_object_set_new(map, w->tensors[w->shard[s].first + i].name,
                                       json_string(file_name(w->shard[s].path)));
    char *text = !bad ? t3v_json_dumps(root, JSON_INDENT(2)) : NULL, *path = malloc(strlen(w->path) + 16);
    t3v_status st = text && path ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for the index", w->path);
    if (!st) {
        sprintf(path, "%s.index.json", w->path);
        st = t3v_write_text(path, text, strlen(text));
    }
    json_decref(root);
    free(text);
    free(path);
    return st;
}

/* ---- all formats ------------------------------------------------------------------------------------- */

t3v_status t3v_writer_begin(t3v_writer **out, const char *path, const t3v_writer_options *o,
                            const t3v_tensor_entry *tensors, int64_t n)
{
    static const t3v_gguf_keys none;
    t3v_writer *w = calloc(1, sizeof *w);
    t3v_status st = T3V_OK;
    *out = NULL;
    if (!w || !(w->path = strdup(path))) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", path);
    } else {
        w->tensors = tensors;
        switch (o->container) {
        case T3V_FILE_PTH: st = t3v_pth_begin(&w->pth, path, tensors, n); break;
        case T3V_FILE_GGUF: st = t3v_gguf_begin(&w->gguf, path, o->keys ? o->keys : &none, tensors, n); break;
        case T3V_FILE_SAFETENSORS: st = begin_shards(w, o, n); break;
        }
    }
    if (st) t3v_writer_abandon(w);
    else *out = w;
    return st;
}

t3v_status t3v_writer_append(t3v_writer *w, int64_t i, const void *data, size_t nbytes)
{
    if (w->pth) return t3v_pth_append(w->pth, data, nbytes);
    if (w->gguf) return t3v_gguf_append(w->gguf, data, nbytes);
    int s = 0;
    while (s < w->shards - 1 && i >= w->shard[s + 1].first) s++;
    return t3v_safetensors_append(w->shard[s].file, w->tensors[i].name, data, nbytes);
}

t3v_status t3v_writer_finish(t3v_writer *w)
{
    t3v_status st = T3V_OK;
    if (w->pth) st = t3v_pth_finish(w->pth);
    if (w->gguf) st = t3v_gguf_finish(w->gguf);
    w->pth = NULL;
    w->gguf = NULL;
    int named = 0; /* shards that have their final names */
    for (; named < w->shards && w->shard && !st; named++) {
        st = t3v_safetensors_finish(w->shard[named].file);
        w->shard[named].file = NULL;
        if (st) break;
    }
    if (!st && w->shards > 1) st = write_index(w);
    for (int i = 0; st && i < named; i++) remove(w->shard[i].path); /* all or nothing */
    t3v_writer_abandon(w);
    return st;
}

int t3v_writer_files(const t3v_writer *w) { return w->shard ? w->shards : 1; }

const char *t3v_writer_path(const t3v_writer *w, int i) { return w->shard ? w->shard[i].path : w->path; }

void t3v_writer_abandon(t3v_writer *w)
{
    if (!w) return;
    t3v_pth_abandon(w->pth);
    t3v_gguf_abandon(w->gguf);
    for (int i = 0; w->shard && i < w->shards; i++) {
        t3v_safetensors_abandon(w->shard[i].file);
        free(w->shard[i].path);
    }
    free(w->shard);
    free(w->path);
    free(w);
}
