/* SPDX-License-Identifier: Apache-2.0 */
/* Reading GGUF: counts, metadata pairs, tensor infos, then the tensors' bytes, each at a multiple of the alignment. */
#include "io/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/checked.h"
#include "io/view.h"

/* Far above any model's; a hostile file shall not cost more than a moment. */
enum { PAIRS_CAP = 1 << 16, STRINGS_CAP = 1 << 22, NAME_CAP = 1 << 16, META_TEXT = 1 << 16 };

static const struct {
    const char *name;
    size_t size;
} kinds[T3V_GGUF_TYPES] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},     {"u32", 4},
                           {"i32", 4}, {"f32", 4}, {"bool", 1}, {"strings", 0}, {"array", 0},
                           {"u64", 8}, {"i64", 8}, {"f64", 8}};

/* ggml's numbers of the types that we know. */
static const struct {
    uint32_t number;
    t3v_dtype type;
} types[] = {{0, T3V_F32},  {1, T3V_F16},   {2, T3V_Q4_0},  {3, T3V_Q4_1},  {6, T3V_Q5_0},  {7, T3V_Q5_1},
             {8, T3V_Q8_0}, {10, T3V_Q2_K}, {11, T3V_Q3_K}, {12, T3V_Q4_K}, {13, T3V_Q5_K}, {14, T3V_Q6_K},
             {24, T3V_I8},  {25, T3V_I16},  {26, T3V_I32},  {27, T3V_I64},  {28, T3V_F64},  {30, T3V_BF16}};

/* ---- reading ------------------------------------------------------------------------------------ */

static bool is_real(t3v_gguf_type t) { return t == T3V_GGUF_F32 || t == T3V_GGUF_F64; }
static bool is_number(t3v_gguf_type t) { return kinds[t].size > 0; }

static t3v_status wrong(const char *path, const t3v_gguf_pair *p, const char *want)
{
    return t3v_fail(T3V_E_FORMAT, "%s: '%s' is %s%s, expected %s", path, p->key,
                    p->array ? "an array of " : "", kinds[p->type].name, want);
}

static t3v_status int_of(const char *path, const t3v_gguf_pair *p, int64_t min, int64_t max, int64_t *out)
{
    if (p->array || !is_number(p->type) || is_real(p->type)) return wrong(path, p, "an integer");
    int64_t v = t3v_gguf_int_at(p, 0);
    if (v < min || v > max)
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' is %" PRId64 ", expected %" PRId64 " to %" PRId64, path,
                        p->key, v, min, max);
    *out = v;
    return T3V_OK;
}

typedef struct cursor {
    const char *label;
    const unsigned char *base, *at;
    size_t left;
    int64_t strings;      /* elements of string arrays seen */
    t3v_gguf_pair *pairs; /* of this file, by key */
    int64_t pair_count;
} cursor;

static uint64_t little(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

static t3v_status take(cursor *c, size_t n, const char *what, const unsigned char **out)
{
    *out = c->at;
    if (n > c->left)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: %s needs %zu bytes at offset %zu, the file has %zu left: truncated?", c->label,
                        what, n, (size_t)(c->at - c->base), c->left);
    c->at += n;
    c->left -= n;
    return T3V_OK;
}

static t3v_status take_u32(cursor *c, const char *what, uint32_t *out)
{
    const unsigned char *p;
    T3V_TRY(take(c, 4, what, &p));
    *out = (uint32_t)little(p, 4);
    return T3V_OK;
}

static t3v_status take_u64(cursor *c, const char *what, uint64_t *out)
{
    const unsigned char *p;
    T3V_TRY(take(c, 8, what, &p));
    *out = little(p, 8);
    return T3V_OK;
}

static bool is_text(const unsigned char *s, size_t n)
{
    while (n > 0) {
        utf8proc_int32_t code;
        utf8proc_ssize_t k = utf8proc_iterate(s, (utf8proc_ssize_t)n, &code);
        if (k <= 0 || code == 0) return false;
        s += k;
        n -= (size_t)k;
    }
    return true;
}

/* A key or a tensor's name, copied into the view. */
static t3v_status take_name(t3v_tensor_file *f, cursor *c, const char *what, const char **out)
{
    uint64_t n;
    const unsigned char *p;
    T3V_TRY(take_u64(c, what, &n));
    if (n == 0 || n > NAME_CAP)
        return t3v_fail(T3V_E_FORMAT, "%s: %s of %" PRIu64 " bytes at offset %zu, expected 1 to %d", c->label,
                        what, n, (size_t)(c->at - c->base), NAME_CAP);
    T3V_TRY(take(c, (size_t)n, what, &p));
    if (!is_text(p, (size_t)n))
        return t3v_fail(T3V_E_FORMAT, "%s: %s at offset %zu is not UTF-8 text", c->label, what,
                        (size_t)(p - c->base));
    char *copy = t3v_view_alloc(f, (size_t)n + 1);
    if (!copy) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its names", c->label);
    memcpy(copy, p, (size_t)n);
    copy[n] = 0;
    *out = copy;
    return T3V_OK;
}

static t3v_status skip_strings(cursor *c, const char *key, uint64_t count)
{
    if (count > (uint64_t)(STRINGS_CAP - c->strings))
        return t3v_fail(T3V_E_TOO_BIG, "%s: '%s' brings the strings in arrays to more than %d", c->label, key,
                        STRINGS_CAP);
    c->strings += (int64_t)count;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t n;
        const unsigned char *p;
        T3V_TRY(take_u64(c, key, &n));
        if (n > SIZE_MAX) n = SIZE_MAX;
        T3V_TRY(take(c, (size_t)n, key, &p));
    }
    return T3V_OK;
}

/* What inspect shows: scalars as text, of arrays and long strings the size. */
static t3v_status add_meta(t3v_tensor_file *f, const t3v_gguf_pair *p)
{
    char text[64], *copy = NULL;
    size_t n = 0, at = 0;
    const char *s = p->type == T3V_GGUF_STRING && !p->array ? t3v_gguf_string_at(p, &at, &n) : NULL;
    if (p->array) snprintf(text, sizeof text, "%" PRId64 " %s", p->count, kinds[p->type].name);
    else if (p->type == T3V_GGUF_BOOL)
        snprintf(text, sizeof text, "%s", t3v_gguf_int_at(p, 0) ? "true" : "false");
    else if (p->type == T3V_GGUF_F32 || p->type == T3V_GGUF_F64)
        snprintf(text, sizeof text, "%.9g", t3v_gguf_real_at(p, 0));
    else if (p->type == T3V_GGUF_U64) snprintf(text, sizeof text, "%" PRIu64, little(p->data, 8));
    else if (!s) snprintf(text, sizeof text, "%" PRId64, t3v_gguf_int_at(p, 0));
    else if (n > META_TEXT || !is_text((const unsigned char *)s, n))
        snprintf(text, sizeof text, "%zu bytes", n);
    else {
        if (!(copy = malloc(n + 1))) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its metadata", f->path);
        memcpy(copy, s, n);
        copy[n] = 0;
    }
    t3v_status st = t3v_view_meta(f, p->key, copy ? copy : text);
    free(copy);
    return st;
}

static t3v_status take_pair(t3v_tensor_file *f, cursor *c, t3v_gguf_pair *p)
{
    uint32_t type;
    uint64_t count = 1, bytes;
    T3V_TRY(take_name(f, c, "a metadata key", &p->key));
    T3V_TRY(take_u32(c, p->key, &type));
    p->array = type == T3V_GGUF_ARRAY;
    if (p->array) {
        T3V_TRY(take_u32(c, p->key, &type));
        T3V_TRY(take_u64(c, p->key, &count));
        if (type == T3V_GGUF_ARRAY)
            return t3v_fail(T3V_E_UNSUPPORTED, "%s: '%s' is an array of arrays, which no model of ours has",
                            c->label, p->key);
    }
    if (type >= T3V_GGUF_TYPES)
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' has type %" PRIu32 ", expected 0 to %d", c->label, p->key,
                        type, T3V_GGUF_TYPES - 1);
    p->type = (t3v_gguf_type)type;
    p->data = c->at;
    if (p->type == T3V_GGUF_STRING) T3V_TRY(skip_strings(c, p->key, count));
    else if (__builtin_mul_overflow(count, kinds[type].size, &bytes) || bytes > SIZE_MAX)
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' has %" PRIu64 " elements", c->label, p->key, count);
    else T3V_TRY(take(c, (size_t)bytes, p->key, &p->data));
    p->count = (int64_t)count; /* each takes a byte or more of the file */
    return T3V_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const t3v_gguf_pair *)a)->key, ((const t3v_gguf_pair *)b)->key);
}

static t3v_status take_pairs(t3v_tensor_file *f, cursor *c, uint64_t n)
{
    bool keep = !f->pairs, keep_meta = f->meta_count == 0;
    if (n > PAIRS_CAP || n > c->left / 14) /* a key of one byte, a type, a value */
        return t3v_fail(T3V_E_FORMAT, "%s: %" PRIu64 " metadata pairs in %zu bytes; at most %d are read",
                        c->label, n, c->left, PAIRS_CAP);
    t3v_gguf_pair *pairs = c->pairs = t3v_view_alloc(f, ((size_t)n + 1) * sizeof *pairs);
    if (!pairs) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its metadata", c->label);
    for (uint64_t i = 0; i < n; i++) {
        T3V_TRY(take_pair(f, c, &pairs[i]));
        if (keep_meta) T3V_TRY(add_meta(f, &pairs[i]));
    }
    qsort(pairs, (size_t)n, sizeof *pairs, by_key);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(pairs[i - 1].key, pairs[i].key) == 0)
            return t3v_fail(T3V_E_FORMAT, "%s: metadata '%s' appears twice", c->label, pairs[i].key);
    c->pair_count = (int64_t)n;
    if (!keep) return T3V_OK;
    f->pairs = pairs;
    f->pair_count = (int64_t)n;
    return T3V_OK;
}

static t3v_status ggml_type(const cursor *c, uint32_t number, t3v_tensor_entry *e)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].number == number) {
            e->dtype = types[i].type;
            return T3V_OK;
        }
    return t3v_fail(
        T3V_E_DTYPE,
        "%s: tensor '%s' has ggml's type %" PRIu32 ", expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
        "Q5_1 or Q2_K to Q6_K; IQ and other types are not read: take another quantisation of the model",
        c->label, e->name, number);
}

static const t3v_gguf_pair *find_in(const t3v_gguf_pair *pairs, int64_t n, const char *key)
{
    t3v_gguf_pair want = {.key = key};
    return n ? bsearch(&want, pairs, (size_t)n, sizeof want, by_key) : NULL;
}

/* City96's tools keep the shape of a tensor that they had to bring into another for its rows to be whole blocks. */
static t3v_status original_shape(const cursor *c, t3v_tensor_entry *e)
{
    static const char prefix[] = "comfy.gguf.orig_shape.";
    const t3v_gguf_pair *p;
    char *key = malloc(sizeof prefix + strlen(e->name));
    if (!key) return t3v_fail(T3V_E_NOMEM, "%s: no memory for a name", c->label);
    strcpy(key, prefix);
    strcat(key, e->name);
    p = find_in(c->pairs, c->pair_count, key);
    free(key);
    if (!p) return T3V_OK;
    int64_t numel = 1;
    bool ok = p->array && is_number(p->type) && !is_real(p->type) && p->count <= T3V_FILE_DIMS;
    t3v_tensor_entry t = *e;
    t.ndim = ok ? (int)p->count : 0;
    for (int i = 0; ok && i < t.ndim; i++) {
        t.shape[i] = t3v_gguf_int_at(p, i);
        ok = t.shape[i] > 0 && t3v_mul(numel, t.shape[i], &numel);
    }
    if (!ok || numel != e->numel)
        return t3v_fail(T3V_E_FORMAT, "%s: %s of tensor '%s' is not a shape of its %" PRId64 " elements",
                        c->label, prefix, e->name, e->numel);
    *e = t;
    return T3V_OK;
}

/* Name, axes, type and offset (left in *offset). */
static t3v_status take_tensor(t3v_tensor_file *f, cursor *c, uint64_t alignment, t3v_tensor_entry *e,
                              uint64_t *offset)
{
    uint32_t ndim, type;
    T3V_TRY(take_name(f, c, "a tensor's name", &e->name));
    T3V_TRY(take_u32(c, e->name, &ndim));
    if (ndim > T3V_FILE_DIMS)
        return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' has %" PRIu32 " axes, expected at most %d", c->label,
                        e->name, ndim, T3V_FILE_DIMS);
    e->ndim = (int)ndim;
    for (int i = e->ndim - 1; i >= 0; i--) { /* the file names the last axis first */
        uint64_t size;
        T3V_TRY(take_u64(c, e->name, &size));
        if (size > INT64_MAX)
            return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' has an axis of %" PRIu64, c->label, e->name, size);
        e->shape[i] = (int64_t)size;
    }
    T3V_TRY(take_u32(c, e->name, &type));
    T3V_TRY(ggml_type(c, type, e));
    T3V_TRY(take_u64(c, e->name, offset));
    char shape[200];
    t3v_shape_text(e->ndim, e->shape, shape, sizeof shape);
    int64_t row = e->ndim ? e->shape[e->ndim - 1] : 1;
    if (row % t3v_dtype_block(e->dtype) != 0)
        return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' %s: rows of %s are whole blocks of %" PRId64, c->label,
                        e->name, shape, t3v_dtype_name(e->dtype), t3v_dtype_block(e->dtype));
    if (!t3v_entry_sizes(e))
        return t3v_fail(T3V_E_TOO_BIG, "%s: tensor '%s': the size of shape %s overflows", c->label, e->name,
                        shape);
    if (*offset % alignment != 0)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: tensor '%s' is at offset %" PRIu64 ", expected a multiple of %" PRIu64, c->label,
                        e->name, *offset, alignment);
    e->mapped = true;
    e->file = c->label;
    return original_shape(c, e);
}

typedef struct span {
    uint64_t begin, end;
    const char *name;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Every tensor inside the data, none over another. */
static t3v_status place(t3v_tensor_file *f, const cursor *c, int64_t first, span *spans, uint64_t n,
                        size_t header)
{
    size_t size = c->left + (size_t)(c->at - c->base), room = size > header ? size - header : 0;
    for (uint64_t i = 0; i < n; i++) {
        t3v_tensor_entry *e = &f->tensors[first + (int64_t)i];
        span *s = &spans[i];
        if (s->begin > room || (uint64_t)e->nbytes > room - s->begin)
            return t3v_fail(T3V_E_FORMAT,
                            "%s: tensor '%s' needs %" PRId64 " bytes at offset %" PRIu64
                            " of the data, which has %zu: "
                            "the file is truncated or damaged",
                            c->label, e->name, e->nbytes, s->begin, room);
        s->end = s->begin + (uint64_t)e->nbytes;
        s->name = e->name;
        e->data = c->base + (e->nbytes ? header + s->begin : 0);
    }
    qsort(spans, (size_t)n, sizeof *spans, by_begin);
    for (uint64_t i = 1; i < n; i++)
        if (spans[i].begin < spans[i - 1].end)
            return t3v_fail(T3V_E_FORMAT, "%s: tensors '%s' and '%s' overlap at offset %" PRIu64, c->label,
                            spans[i - 1].name, spans[i].name, spans[i].begin);
    return T3V_OK;
}

t3v_status t3v_gguf_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len)
{
    cursor c = {.label = label, .base = buf, .at = buf, .left = len};
    uint32_t magic, version;
    uint64_t tensors, pairs;
    T3V_TRY(take_u32(&c, "the header", &magic));
    T3V_TRY(take_u32(&c, "the header", &version));
    if (magic != 0x46554747) return t3v_fail(T3V_E_FORMAT, "%s: does not start with 'GGUF'", label);
    if (version != 2 && version != 3)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: GGUF version %" PRIu32 "%s, expected 2 or 3", label, version,
                        version == 2u << 24 || version == 3u << 24 ? " (a big-endian file)" : "");
    T3V_TRY(take_u64(&c, "the header", &tensors));
    T3V_TRY(take_u64(&c, "the header", &pairs));
    if (tensors > T3V_FILE_TENSORS || tensors > c.left / 25) /* a name of one byte, axes, type, offset */
        return t3v_fail(T3V_E_FORMAT, "%s: %" PRIu64 " tensors in %zu bytes; at most %d are read", label,
                        tensors, c.left, T3V_FILE_TENSORS);
    T3V_TRY(take_pairs(f, &c, pairs));
    int64_t alignment = 32, first = f->count;
    const t3v_gguf_pair *p = find_in(c.pairs, c.pair_count, "general.alignment");
    if (p) T3V_TRY(int_of(label, p, 1, 1 << 30, &alignment));
    if (alignment & (alignment - 1))
        return t3v_fail(T3V_E_FORMAT, "%s: general.alignment is %" PRId64 ", expected a power of two", label,
                        alignment);
    span *spans = calloc((size_t)tensors + 1, sizeof *spans);
    t3v_status st = spans ? T3V_OK
                          : t3v_fail(T3V_E_NOMEM, "%s: no memory for %" PRIu64 " tensors", label, tensors);
    for (uint64_t i = 0; i < tensors && !st; i++) {
        t3v_tensor_entry e = {0};
        T3V_TRY_GOTO(st, done, take_tensor(f, &c, (uint64_t)alignment, &e, &spans[i].begin));
        T3V_TRY_GOTO(st, done, t3v_view_add(f, &e));
    }
    if (!st) {
        size_t header = (size_t)(c.at - buf), step = (size_t)alignment;
        st = place(f, &c, first, spans, tensors, (header + step - 1) / step * step);
    }
done:
    free(spans);
    return st;
}

t3v_status t3v_gguf_unfold(t3v_tensor_file *f)
{
    static const char tail[] = ".weight";
    for (int64_t i = 0; i < f->count; i++) {
        t3v_tensor_entry *e = &f->tensors[i];
        size_t n = strlen(e->name), m = sizeof tail - 1;
        if (e->ndim != 4 || n < m || strcmp(e->name + n - m, tail) != 0) continue;
        char *name = malloc(n);
        if (!name) return t3v_fail(T3V_E_NOMEM, "%s: no memory for a name", f->path);
        snprintf(name, n, "%.*s.bias", (int)(n - m), e->name);
        const t3v_tensor_entry *bias = t3v_tensors_find(f, name);
        free(name);
        int64_t out = bias && bias->ndim == 1 ? bias->numel : 0;
        if (out <= 0 || e->shape[0] == out || e->shape[0] % out != 0) continue;
        memmove(e->shape + 2, e->shape + 1, 3 * sizeof *e->shape);
        e->shape[1] = e->shape[0] / out;
        e->shape[0] = out;
        e->ndim = 5;
    }
    return T3V_OK;
}

/* ---- metadata ----------------------------------------------------------------------------------- */

const t3v_gguf_pair *t3v_gguf_find(const t3v_tensor_file *f, const char *key)
{
    return find_in(f->pairs, f->pair_count, key);
}

/* *p = the pair; NULL when it is absent and may be. */
static t3v_status get(const t3v_tensor_file *f, const char *key, bool required, const t3v_gguf_pair **p)
{
    *p = t3v_gguf_find(f, key);
    return *p || !required ? T3V_OK : t3v_fail(T3V_E_FORMAT, "%s: the metadata has no '%s'", f->path, key);
}

t3v_status t3v_gguf_int(const t3v_tensor_file *f, const char *key, bool required, int64_t min, int64_t max,
                        int64_t *out)
{
    const t3v_gguf_pair *p;
    T3V_TRY(get(f, key, required, &p));
    if (!p) return T3V_OK;
    return int_of(f->path, p, min, max, out);
}

t3v_status t3v_gguf_real(const t3v_tensor_file *f, const char *key, bool required, double *out)
{
    const t3v_gguf_pair *p;
    T3V_TRY(get(f, key, required, &p));
    if (!p) return T3V_OK;
    if (p->array || !is_number(p->type)) return wrong(f->path, p, "a number");
    *out = t3v_gguf_real_at(p, 0);
    return T3V_OK;
}

t3v_status t3v_gguf_string(const t3v_tensor_file *f, const char *key, bool required, const char **out,
                           size_t *n)
{
    const t3v_gguf_pair *p;
    size_t at = 0;
    T3V_TRY(get(f, key, required, &p));
    if (!p) return T3V_OK;
    if (p->array || p->type != T3V_GGUF_STRING) return wrong(f->path, p, "a string");
    *out = t3v_gguf_string_at(p, &at, n);
    return T3V_OK;
}

t3v_status t3v_gguf_array(const t3v_tensor_file *f, const char *key, bool required, t3v_gguf_type elements,
                          const t3v_gguf_pair **out)
{
    const t3v_gguf_pair *p;
    bool text = elements == T3V_GGUF_STRING, real = is_real(elements);
    T3V_TRY(get(f, key, required, &p));
    if (!p) return T3V_OK;
    if (!p->array || (text ? p->type != T3V_GGUF_STRING : !is_number(p->type) || (!real && is_real(p->type))))
        return wrong(f->path, p,
                     text   ? "an array of strings"
                     : real ? "an array of numbers"
                            : "an array of integers");
    *out = p;
    return T3V_OK;
}

int64_t t3v_gguf_int_at(const t3v_gguf_pair *p, int64_t i)
{
    size_t size = kinds[p->type].size;
    uint64_t v = little(p->data + (size_t)i * size, size);
    switch (p->type) {
    case T3V_GGUF_I8: return (int8_t)v;
    case T3V_GGUF_I16: return (int16_t)v;
    case T3V_GGUF_I32: return (int32_t)v;
    case T3V_GGUF_BOOL: return v != 0;
    case T3V_GGUF_U64: return v > INT64_MAX ? INT64_MAX : (int64_t)v;
    default: return (int64_t)v;
    }
}

double t3v_gguf_real_at(const t3v_gguf_pair *p, int64_t i)
{
    float f;
    double d;
    if (p->type == T3V_GGUF_F32) {
        memcpy(&f, p->data + 4 * (size_t)i, 4);
        return (double)f;
    }
    if (p->type != T3V_GGUF_F64) return (double)t3v_gguf_int_at(p, i);
    memcpy(&d, p->data + 8 * (size_t)i, 8);
    return d;
}

const char *t3v_gguf_string_at(const t3v_gguf_pair *p, size_t *at, size_t *n)
{
    const char *s = (const char *)p->data + *at + 8;
    *n = (size_t)little(p->data + *at, 8);
    *at += 8 + *n;
    return s;
}
