/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors: u64 LE header length N, N bytes of JSON, then the tensors' bytes without holes. */
#include "io/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/view.h"

#define HEADER_CAP 100000000u /* the reference implementation's limit */

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct span {
    int64_t begin, end;
    int64_t tensor;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Sorted by begin, the tensors must tile [0, size). */
static t3v_status check_tiling(const t3v_tensor_file *f, const char *label, span *spans, int64_t n,
                               int64_t size)
{
    qsort(spans, (size_t)n, sizeof *spans, by_begin);
    int64_t at = 0;
    const char *previous = NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *name = f->tensors[spans[i].tensor].name;
        if (spans[i].begin < at)
            return t3v_fail(T3V_E_FORMAT, "%s: tensors '%s' and '%s' overlap at offset %" PRId64, label,
                            previous, name, spans[i].begin);
        if (spans[i].begin > at)
            return t3v_fail(T3V_E_FORMAT,
                            "%s: %" PRId64 " bytes before tensor '%s' (offset %" PRId64
                            ") belong to no tensor",
                            label, spans[i].begin - at, name, spans[i].begin);
        at = spans[i].end;
        previous = name;
    }
    if (at != size)
        return t3v_fail(T3V_E_FORMAT, "%s: %" PRId64 " bytes at the end belong to no tensor", label,
                        size - at);
    return T3V_OK;
}

static t3v_status parse_entry(const char *label, const char *name, json_t *value, const unsigned char *data,
                              int64_t size, t3v_tensor_entry *e, span *s)
{
    char where[512];
    snprintf(where, sizeof where, "%s: tensor '%s'", label, name);
    if (!json_is_object(value)) return t3v_fail(T3V_E_FORMAT, "%s: its header entry is not an object", where);
    const char *dtype;
    T3V_TRY(t3v_json_string(value, where, "dtype", true, &dtype));
    int t = 0;
    while (t < T3V_DTYPE_COUNT && strcmp(t3v_dtype_name((t3v_dtype)t), dtype) != 0) t++;
    if (t == T3V_DTYPE_COUNT || t3v_dtype_block((t3v_dtype)t) > 1)
        return t3v_fail(T3V_E_DTYPE,
                        "%s has dtype '%s', expected F32, BF16, F16, F8_E4M3 or another known one", where,
                        dtype);
    e->dtype = (t3v_dtype)t;
    T3V_TRY(t3v_json_ints(value, where, "shape", true, 0, INT64_MAX, e->shape, T3V_FILE_DIMS, &e->ndim));
    int64_t offset[2];
    int offsets = 0;
    T3V_TRY(t3v_json_ints(value, where, "data_offsets", true, 0, INT64_MAX, offset, 2, &offsets));
    if (offsets != 2)
        return t3v_fail(T3V_E_FORMAT, "%s: data_offsets has %d numbers, expected 2", where, offsets);
    char shape[200];
    t3v_shape_text(e->ndim, e->shape, shape, sizeof shape);
    if (!t3v_entry_sizes(e))
        return t3v_fail(T3V_E_TOO_BIG, "%s: the size of shape %s overflows", where, shape);
    if (offset[0] > offset[1])
        return t3v_fail(T3V_E_FORMAT, "%s: data_offsets [%" PRId64 ",%" PRId64 "] run backwards", where,
                        offset[0], offset[1]);
    if (offset[1] > size)
        return t3v_fail(T3V_E_FORMAT,
                        "%s ends at byte %" PRId64 " of the data, which has %" PRId64
                        " bytes: the file is truncated or damaged",
                        where, offset[1], size);
    if (offset[1] - offset[0] != e->nbytes)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: data_offsets give %" PRId64 " bytes, shape %s of %s needs %" PRId64, where,
                        offset[1] - offset[0], shape, dtype, e->nbytes);
    e->data = data + offset[0];
    e->mapped = true;
    e->file = label;
    s->begin = offset[0];
    s->end = offset[1];
    return T3V_OK;
}

t3v_status t3v_safetensors_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len)
{
    if (len < 8)
        return t3v_fail(T3V_E_FORMAT, "%s: %zu bytes are too few for a safetensors file", label, len);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | buf[i];
    if (n > HEADER_CAP)
        return t3v_fail(T3V_E_TOO_BIG,
                        "%s: the header length is %" PRIu64 ", the limit is %u: not a safetensors file?",
                        label, n, HEADER_CAP);
    if (n > len - 8)
        return t3v_fail(T3V_E_FORMAT, "%s: the header needs %" PRIu64 " bytes, the file has %zu: truncated?",
                        label, n, len - 8);
    if (n < 2 || buf[8] != '{')
        return t3v_fail(T3V_E_FORMAT, "%s: the header does not start with '{': not a safetensors file",
                        label);
    const unsigned char *data = buf + 8 + n;
    int64_t size = (int64_t)(len - 8 - (size_t)n), first = f->count;
    bool keep_meta = f->meta_count == 0;
    json_t *root = NULL, *value;
    span *spans = NULL;
    const char *name;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_json_parse(&root, label, buf + 8, (size_t)n));
    if (!(spans = malloc((json_object_size(root) + 1) * sizeof *spans))) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for %zu tensors", label, json_object_size(root));
        goto done;
    }
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            const char *key;
            json_t *text;
            if (!json_is_object(value)) {
                st = t3v_fail(T3V_E_FORMAT, "%s: __metadata__ is not an object", label);
                goto done;
            }
            json_object_foreach(value, key, text)
            {
                if (!json_is_string(text)) {
                    st = t3v_fail(T3V_E_FORMAT, "%s: __metadata__ '%s' is not a string", label, key);
                    goto done;
                }
                if (keep_meta) T3V_TRY_GOTO(st, done, t3v_view_meta(f, key, json_string_value(text)));
            }
            continue;
        }
        t3v_tensor_entry e = {0};
        span *s = &spans[f->count - first];
        T3V_TRY_GOTO(st, done, parse_entry(label, name, value, data, size, &e, s));
        s->tensor = f->count;
        if (!(e.name = t3v_view_string(f, name))) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the names of tensors", label);
            goto done;
        }
        T3V_TRY_GOTO(st, done, t3v_view_add(f, &e));
    }
    st = check_tiling(f, label, spans, f->count - first, size);
done:
    free(spans);
    json_decref(root);
    return st;
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct slot {
    const t3v_tensor_entry *source; /* only while the header is made */
    char *name;
    int64_t begin, nbytes, done;
} slot;

struct t3v_safetensors_writer {
    t3v_out *out;
    char *path;
    int64_t data; /* file offset of the first tensor */
    int64_t n;
    slot *slots;  /* in file order */
    slot **named; /* by name */
};

/* Larger elements first, so that every tensor is aligned to its element size; then by name. */
static int by_alignment(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    size_t i = t3v_dtype_block_bytes(x->source->dtype), j = t3v_dtype_block_bytes(y->source->dtype);
    if (i != j) return i > j ? -1 : 1;
    return strcmp(x->source->name, y->source->name);
}

static int by_slot_name(const void *a, const void *b)
{
    return strcmp((*(slot *const *)a)->name, (*(slot *const *)b)->name);
}

/* NULL when memory runs out. */
static json_t *header_entry(const t3v_tensor_entry *e, int64_t begin, int64_t end)
{
    json_t *shape = json_array();
    bool whole = shape != NULL;
    for (int i = 0; i < e->ndim; i++)
        whole = whole && !json_array_append_new(shape, json_integer(e->shape[i]));
    json_t *o = json_pack("{s:s, s:o?, s:[I,I]}", "dtype", t3v_dtype_name(e->dtype), "shape", shape,
                          "data_offsets", (json_int_t)begin, (json_int_t)end);
    if (o && whole) return o;
    json_decref(o);
    return NULL;
}

/* Why jansson did not take a text. */
static t3v_status not_taken(const t3v_safetensors_writer *w, int lost, const char *what, const char *text)
{
    if (t3v_json_lost() != lost) return t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
    return t3v_fail(T3V_E_ARG, "%s: %s '%s' is not valid UTF-8", w->path, what, text);
}

/* Fills w->slots and returns the JSON text (free it) without padding. */
static t3v_status make_header(t3v_safetensors_writer *w, const t3v_tensor_entry *tensors,
                              const t3v_meta *meta, int64_t meta_count, char **text)
{
    t3v_status st = T3V_OK;
    int lost = t3v_json_lost();
    json_t *root = json_object(), *entry = NULL;
    if (!root) return t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
    if (meta_count > 0) {
        json_t *pairs = json_object();
        if (json_object_set_new(root, "__metadata__", pairs) != 0) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
            goto done;
        }
        for (int64_t i = 0; i < meta_count; i++)
            if (json_object_set_new(pairs, meta[i].key, json_string(meta[i].value)) != 0) {
                st = not_taken(w, lost, "metadata", meta[i].key);
                goto done;
            }
    }
    for (int64_t i = 0; i < w->n; i++) w->slots[i].source = &tensors[i];
    qsort(w->slots, (size_t)w->n, sizeof *w->slots, by_alignment);
    int64_t at = 0;
    for (int64_t i = 0; i < w->n; i++) {
        slot *s = &w->slots[i];
        t3v_tensor_entry e = *s->source;
        if (t3v_dtype_block(e.dtype) > 1) {
            st = t3v_fail(T3V_E_DTYPE,
                          "%s: tensor '%s' is %s, which safetensors files cannot hold; write GGUF", w->path,
                          e.name, t3v_dtype_name(e.dtype));
            goto done;
        }
        if (e.ndim < 0 || e.ndim > T3V_FILE_DIMS || !t3v_entry_sizes(&e) ||
            e.nbytes > INT64_MAX - 8 - HEADER_CAP - at) {
            st = t3v_fail(T3V_E_ARG, "%s: tensor '%s' has an impossible shape", w->path, e.name);
            goto done;
        }
        if (json_object_get(root, e.name)) {
            st = t3v_fail(T3V_E_ARG, "%s: two tensors are named '%s'", w->path, e.name);
            goto done;
        }
        if (!(entry = header_entry(&e, at, at + e.nbytes))) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
            goto done;
        }
        if (json_object_set_new(root, e.name, entry) != 0) {
            st = not_taken(w, lost, "tensor name", e.name);
            goto done;
        }
        s->begin = at;
        s->nbytes = e.nbytes;
        size_t name = strlen(e.name) + 1;
        if (!(s->name = malloc(name))) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
            goto done;
        }
        memcpy(s->name, e.name, name);
        at += e.nbytes;
    }
    *text = t3v_json_dumps(root, JSON_COMPACT);
    if (!*text) st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", w->path);
done:
    json_decref(root);
    return st;
}

t3v_status t3v_safetensors_begin(t3v_safetensors_writer **out, const char *path,
                                 const t3v_tensor_entry *tensors, int64_t n, const t3v_meta *meta,
                                 int64_t meta_count)
{
    *out = NULL;
    char *text = NULL;
    t3v_status st;
    t3v_safetensors_writer *w = calloc(1, sizeof *w);
    size_t bytes = strlen(path) + 1;
    if (!w || !(w->path = malloc(bytes)) || !(w->slots = calloc((size_t)n + 1, sizeof *w->slots)) ||
        !(w->named = calloc((size_t)n + 1, sizeof *w->named))) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", path);
        goto done;
    }
    memcpy(w->path, path, bytes);
    w->n = n;
    T3V_TRY_GOTO(st, done, make_header(w, tensors, meta, meta_count, &text));
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    if (padded > HEADER_CAP) {
        st = t3v_fail(T3V_E_TOO_BIG, "%s: the header would have %zu bytes, the limit is %u", path, padded,
                      HEADER_CAP);
        goto done;
    }
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    T3V_TRY_GOTO(st, done, t3v_out_open(&w->out, path));
    T3V_TRY_GOTO(st, done, t3v_out_write(w->out, prefix, 8));
    T3V_TRY_GOTO(st, done, t3v_out_write(w->out, text, length));
    T3V_TRY_GOTO(st, done, t3v_out_write(w->out, "       ", padded - length));
    w->data = t3v_out_tell(w->out);
    for (int64_t i = 0; i < n; i++) {
        w->slots[i].source = NULL;
        w->named[i] = &w->slots[i];
    }
    qsort(w->named, (size_t)n, sizeof *w->named, by_slot_name);
done:
    free(text);
    if (st) t3v_safetensors_abandon(w);
    else *out = w;
    return st;
}

static slot *find_slot(const t3v_safetensors_writer *w, const char *name)
{
    for (int64_t lo = 0, hi = w->n; lo < hi;) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(w->named[mid]->name, name);
        if (c == 0) return w->named[mid];
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

t3v_status t3v_safetensors_append(t3v_safetensors_writer *w, const char *name, const void *data,
                                  size_t nbytes)
{
    slot *s = find_slot(w, name);
    if (!s) return t3v_fail(T3V_E_ARG, "%s: tensor '%s' was not announced", w->path, name);
    if (nbytes > (uint64_t)(s->nbytes - s->done))
        return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has %" PRId64 " bytes, got more", w->path, name,
                        s->nbytes);
    T3V_TRY(t3v_out_write_at(w->out, w->data + s->begin + s->done, data, nbytes));
    s->done += (int64_t)nbytes;
    return T3V_OK;
}

t3v_status t3v_safetensors_finish(t3v_safetensors_writer *w)
{
    for (int64_t i = 0; i < w->n; i++) {
        const slot *s = &w->slots[i];
        if (s->done == s->nbytes) continue;
        t3v_status st = t3v_fail(T3V_E_ARG, "%s: tensor '%s' got %" PRId64 " of its %" PRId64 " bytes",
                                 w->path, s->name, s->done, s->nbytes);
        t3v_safetensors_abandon(w);
        return st;
    }
    t3v_out *out = w->out;
    w->out = NULL;
    t3v_status st = t3v_out_commit(out);
    t3v_safetensors_abandon(w);
    return st;
}

void t3v_safetensors_abandon(t3v_safetensors_writer *w)
{
    if (!w) return;
    t3v_out_abort(w->out);
    if (w->slots)
        for (int64_t i = 0; i < w->n; i++) free(w->slots[i].name);
    free(w->slots);
    free(w->named);
    free(w->path);
    free(w);
}

t3v_status t3v_safetensors_write(const char *path, const t3v_tensor_entry *tensors, int64_t n,
                                 const t3v_meta *meta, int64_t meta_count)
{
    t3v_safetensors_writer *w;
    T3V_TRY(t3v_safetensors_begin(&w, path, tensors, n, meta, meta_count));
    for (int64_t i = 0; i < n; i++) {
        t3v_tensor_entry e = tensors[i];
        (void)t3v_entry_sizes(&e); /* checked by begin */
        t3v_status st = t3v_safetensors_append(w, e.name, e.data, (size_t)e.nbytes);
        if (st) {
            t3v_safetensors_abandon(w);
            return st;
        }
    }
    return t3v_safetensors_finish(w);
}
