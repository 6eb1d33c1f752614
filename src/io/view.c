/* SPDX-License-Identifier: Apache-2.0 */
/* The storage behind a t3v_tensor_file: entries, strings, maps, the index by name. */
#include "io/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "io/names.h"

enum { CHUNK = 1 << 16, META_CAP = 1 << 16 };

typedef struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(64) unsigned char bytes[];
} chunk;

struct t3v_view_store {
    chunk *chunks;
    struct mapped {
        t3v_map map;
        const char *path;
    } * maps;
    int map_count;
    int64_t capacity, meta_capacity;
    t3v_meta *meta;
    t3v_tensor_entry **index; /* sorted by name */
    bool sealed;
};

void *t3v_view_alloc(t3v_tensor_file *f, size_t n)
{
    if (n > SIZE_MAX / 2) return NULL;
    n = (n + 63) / 64 * 64;
    chunk *c = f->store->chunks;
    if (!c || c->size - c->used < n) {
        size_t size = n > CHUNK / 4 ? n : CHUNK;
        chunk *fresh = aligned_alloc(64, (sizeof *fresh + size + 63) / 64 * 64);
        if (!fresh) return NULL;
        fresh->used = 0;
        fresh->size = size;
        if (c && size == n) { /* a large block of its own: keep filling the current chunk */
            fresh->next = c->next;
            c->next = fresh;
        } else {
            fresh->next = c;
            f->store->chunks = fresh;
        }
        c = fresh;
    }
    void *p = c->bytes + c->used;
    c->used += n;
    return p;
}

const char *t3v_view_string(t3v_tensor_file *f, const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = t3v_view_alloc(f, n);
    if (p) memcpy(p, s, n);
    return p;
}

t3v_status t3v_view_new(t3v_tensor_file **out, const char *path)
{
    t3v_tensor_file *f = calloc(1, sizeof *f);
    *out = f;
    if (f && !(f->store = calloc(1, sizeof *f->store))) {
        free(f);
        *out = f = NULL;
    }
    if (f && (f->path = t3v_view_string(f, path))) return T3V_OK;
    t3v_tensors_close(f);
    *out = NULL;
    return t3v_fail(T3V_E_NOMEM, "%s: no memory to open it", path);
}

void t3v_tensors_close(t3v_tensor_file *f)
{
    if (!f) return;
    for (int i = 0; i < f->store->map_count; i++) t3v_map_close(&f->store->maps[i].map);
    for (chunk *c = f->store->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(f->store->maps);
    free(f->store->meta);
    free(f->store->index);
    free(f->store);
    free(f->tensors);
    free(f);
}

t3v_status t3v_view_map(t3v_tensor_file *f, const char *path, t3v_map *map)
{
    T3V_TRY(t3v_map_open(map, path));
    struct mapped *maps = realloc(f->store->maps, (size_t)(f->store->map_count + 1) * sizeof *maps);
    if (!maps) {
        t3v_map_close(map);
        return t3v_fail(T3V_E_NOMEM, "%s: no memory to open it", path);
    }
    f->store->maps = maps;
    maps[f->store->map_count++] = (struct mapped){*map, path};
    return T3V_OK;
}

t3v_status t3v_tensors_check(const t3v_tensor_file *f)
{
    for (int i = 0; f && i < f->store->map_count; i++)
        T3V_TRY(t3v_map_check(&f->store->maps[i].map, f->store->maps[i].path));
    return T3V_OK;
}

bool t3v_entry_sizes(t3v_tensor_entry *e)
{
    e->numel = 1;
    bool ok = true;
    for (int i = 0; i < e->ndim; i++) ok = ok && e->shape[i] >= 0;
    /* A zero anywhere makes the product zero, but the others must still multiply without overflow. */
    int64_t full = 1;
    for (int i = 0; ok && i < e->ndim; i++) {
        if (e->shape[i] == 0) e->numel = 0;
        else ok = t3v_mul(full, e->shape[i], &full);
    }
    if (e->numel) e->numel = full;
    return ok && t3v_dtype_bytes(e->dtype, e->numel, &e->nbytes);
}

t3v_status t3v_view_add(t3v_tensor_file *f, const t3v_tensor_entry *e)
{
    if (f->count == T3V_FILE_TENSORS)
        return t3v_fail(T3V_E_TOO_BIG, "%s: more than %d tensors", f->path, T3V_FILE_TENSORS);
    if (f->count == f->store->capacity) {
        int64_t capacity = f->store->capacity ? 2 * f->store->capacity : 256;
        t3v_tensor_entry *tensors = realloc(f->tensors, (size_t)capacity * sizeof *tensors);
        if (!tensors)
            return t3v_fail(T3V_E_NOMEM, "%s: no memory for %lld tensors", f->path, (long long)capacity);
        f->tensors = tensors;
        f->store->capacity = capacity;
    }
    f->tensors[f->count++] = *e;
    return T3V_OK;
}

t3v_status t3v_view_meta(t3v_tensor_file *f, const char *key, const char *value)
{
    struct t3v_view_store *s = f->store;
    if (f->meta_count == META_CAP)
        return t3v_fail(T3V_E_TOO_BIG, "%s: more than %d metadata pairs", f->path, META_CAP);
    if (f->meta_count == s->meta_capacity) {
        int64_t capacity = s->meta_capacity ? 2 * s->meta_capacity : 16;
        t3v_meta *meta = realloc(s->meta, (size_t)capacity * sizeof *meta);
        if (!meta) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its metadata", f->path);
        s->meta = meta;
        f->meta = meta;
        s->meta_capacity = capacity;
    }
    t3v_meta m = {t3v_view_string(f, key), t3v_view_string(f, value)};
    if (!m.key || !m.value) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its metadata", f->path);
    s->meta[f->meta_count++] = m;
    return T3V_OK;
}

/* ---- index ----------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const t3v_tensor_entry *const *x = a, *const *y = b;
    int c = strcmp((*x)->name, (*y)->name);
    return c ? c : (*x > *y) - (*x < *y);
}

/* Sorts the index; E_FORMAT when two names are equal. */
static t3v_status sort_index(t3v_tensor_file *f)
{
    qsort(f->store->index, (size_t)f->count, sizeof *f->store->index, by_name);
    for (int64_t i = 1; i < f->count; i++) {
        const t3v_tensor_entry *a = f->store->index[i - 1], *b = f->store->index[i];
        if (strcmp(a->name, b->name) != 0) continue;
        if (a->stored || b->stored)
            return t3v_fail(T3V_E_FORMAT, "%s: tensors '%s' and '%s' are both '%s'", a->file,
                            a->stored ? a->stored : a->name, b->stored ? b->stored : b->name, a->name);
        if (strcmp(a->file, b->file) == 0)
            return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' appears twice", a->file, a->name);
        return t3v_fail(T3V_E_FORMAT, "tensor '%s' is in %s and again in %s", a->name, a->file, b->file);
    }
    return T3V_OK;
}

t3v_status t3v_view_seal(t3v_tensor_file *f)
{
    free(f->store->index);
    f->store->index = malloc((size_t)(f->count + 1) * sizeof *f->store->index);
    if (!f->store->index) return t3v_fail(T3V_E_NOMEM, "%s: no memory for the index of tensors", f->path);
    for (int64_t i = 0; i < f->count; i++) f->store->index[i] = &f->tensors[i];
    f->store->sealed = true;
    return sort_index(f);
}

const t3v_tensor_entry *t3v_tensors_find(const t3v_tensor_file *f, const char *name)
{
    int64_t lo = 0, hi = f->count;
    T3V_ASSERT(f->store->sealed);
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(f->store->index[mid]->name, name);
        if (c == 0) return f->store->index[mid];
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

t3v_status t3v_view_rename(t3v_tensor_file *f, t3v_status (*rename)(void *user, const char **name),
                           void *user)
{
    int64_t kept = 0;
    t3v_status st = T3V_OK;
    const char **name = malloc((size_t)(f->count + 1) * sizeof *name);
    if (!name) return t3v_fail(T3V_E_NOMEM, "%s: no memory for names", f->path);
    for (int64_t i = 0; i < f->count && !st; i++) { /* all first: `rename` may look names up */
        name[i] = f->tensors[i].name;
        st = rename(user, &name[i]);
    }
    for (int64_t i = 0; i < f->count && !st; i++) {
        t3v_tensor_entry e = f->tensors[i];
        if (!name[i]) continue;
        if (name[i] != e.name && !e.stored) e.stored = e.name;
        e.name = name[i];
        f->tensors[kept++] = e;
    }
    free(name);
    if (st) return st;
    f->count = kept;
    return t3v_view_seal(f);
}

/* ---- nearest name ---------------------------------------------------------------------------- */

enum { NAME_CAP = 128, SEARCH_CAP = 20000 };

static int distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n >= NAME_CAP || m >= NAME_CAP) return NAME_CAP;
    int row[NAME_CAP];
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int insert = row[j - 1] + 1, erase = row[j] + 1;
            row[j] = change < insert ? change : insert;
            if (erase < row[j]) row[j] = erase;
        }
    }
    return row[m];
}

t3v_status t3v_tensors_get(const t3v_tensor_file *f, const char *name, const t3v_tensor_entry **out)
{
    if ((*out = t3v_tensors_find(f, name))) return T3V_OK;
    char theirs[T3V_NAME_CAP], also[T3V_NAME_CAP + 64] = "";
    if (f->names && t3v_name_from_original(f->names, name, theirs))
        snprintf(also, sizeof also, " ('%s' in the %s layout)", theirs, f->names->layout);
    const t3v_tensor_entry *near = NULL;
    int best = (int)strlen(name) / 3 + 1;
    size_t n = strlen(name);
    for (int64_t i = 0; i < f->count && i < SEARCH_CAP; i++) {
        size_t m = strlen(f->tensors[i].name);
        int d = m > n && strcmp(f->tensors[i].name + (m - n), name) == 0 ? 0
                                                                         : distance(name, f->tensors[i].name);
        if (d >= best) continue;
        best = d;
        near = &f->tensors[i];
    }
    if (near)
        return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s'%s is missing; did you mean '%s'?", f->path, name, also,
                        near->stored ? near->stored : near->name);
    return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s'%s is missing among %lld tensors%s%s%s", f->path, name,
                    also, (long long)f->count, f->count ? " (the first is '" : "",
                    f->count ? f->tensors[0].name : "", f->count ? "')" : "");
}
