/* SPDX-License-Identifier: Apache-2.0 */
/* PyTorch zip files: PREFIX/data.pkl describes the tensors, PREFIX/data/KEY holds the bytes of storage KEY. */
#include "io/pth.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "io/pickle.h"
#include "io/view.h"
#include "io/zip.h"

/* ---- reading --------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static uint32_t crc(const void *data, size_t n) { return (uint32_t)crc32_z(crc32_z(0, NULL, 0), data, n); }

/* Row-major copy of a strided tensor; the pickle checked that all of it lies in the storage. */
static void gather(unsigned char *dst, const unsigned char *src, const t3v_pickle_tensor *t, size_t size)
{
    int64_t at[T3V_FILE_DIMS] = {0}, from = t->offset;
    for (int64_t i = 0; i < t->entry.numel; i++) {
        memcpy(dst + (size_t)i * size, src + (size_t)from * size, size);
        for (int d = t->entry.ndim - 1; d >= 0; d--) {
            from += t->stride[d];
            if (++at[d] < t->entry.shape[d]) break;
            from -= t->stride[d] * t->entry.shape[d];
            at[d] = 0;
        }
    }
}

/* `copied` counts the bytes of gathered tensors: views of few storages must not grow into memory without end. */
static t3v_status add_tensor(t3v_tensor_file *f, const char *label, const t3v_zip *z, const char *prefix,
                             const t3v_pickle_tensor *t, size_t len, int64_t *copied)
{
    char key[512];
    snprintf(key, sizeof key, "%sdata/%s", prefix, t->key);
    const t3v_zip_entry *e = t3v_zip_find(z, key);
    if (!e)
        return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' is in storage '%s', which is missing", label, t->name,
                        key);
    size_t size = t3v_dtype_size(t->entry.dtype);
    if ((uint64_t)t->storage_numel > e->size / size)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: tensor '%s': storage '%s' has %" PRIu64 " bytes, %" PRId64 " elements of %s do "
                        "not fit",
                        label, t->name, key, e->size, t->storage_numel, t3v_dtype_name(t->entry.dtype));
    t3v_tensor_entry out = t->entry;
    out.file = label;
    out.mapped = t->contiguous;
    if (!(out.name = t3v_view_string(f, t->name))) return t3v_fail(T3V_E_NOMEM, "%s: no memory", label);
    if (t->contiguous) {
        out.data = e->data + (size_t)t->offset * size;
        return t3v_view_add(f, &out);
    }
    if (!t3v_add(*copied, out.nbytes, copied) || (uint64_t)*copied > len)
        return t3v_fail(T3V_E_TOO_BIG,
                        "%s: tensor '%s': the transposed views in this file are larger than the file", label,
                        t->name);
    unsigned char *copy = t3v_view_alloc(f, (size_t)out.nbytes);
    if (!copy)
        return t3v_fail(T3V_E_NOMEM, "%s: no memory for %" PRId64 " bytes of tensor '%s'", label, out.nbytes,
                        t->name);
    gather(copy, e->data, t, size);
    out.data = copy;
    return t3v_view_add(f, &out);
}

t3v_status t3v_pth_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len)
{
    t3v_zip z;
    T3V_TRY(t3v_zip_open(&z, label, buf, len));
    t3v_pickle *p = NULL;
    t3v_status st = T3V_OK;
    const t3v_zip_entry *pkl = NULL;
    char prefix[256] = "", name[280];
    for (int64_t i = 0; i < z.count; i++) {
        const t3v_zip_entry *e = &z.entries[i];
        if (strcmp(e->name, "data.pkl") != 0 && !ends_with(e->name, "/data.pkl")) continue;
        if (pkl) {
            st = t3v_fail(T3V_E_FORMAT, "%s: both '%s' and '%s' describe tensors", label, pkl->name, e->name);
            goto done;
        }
        pkl = e;
    }
    if (!pkl) {
        st = t3v_fail(T3V_E_FORMAT, "%s: a zip archive without data.pkl: not a file of torch.save", label);
        goto done;
    }
    size_t n = strlen(pkl->name) - strlen("data.pkl");
    if (n >= sizeof prefix) {
        st = t3v_fail(T3V_E_FORMAT, "%s: the archive's folder name has %zu bytes", label, n);
        goto done;
    }
    memcpy(prefix, pkl->name, n);
    prefix[n] = 0;
    snprintf(name, sizeof name, "%sbyteorder", prefix);
    const t3v_zip_entry *order = t3v_zip_find(&z, name);
    if (order && (order->size != 6 || memcmp(order->data, "little", 6) != 0)) {
        st = t3v_fail(T3V_E_UNSUPPORTED, "%s: the byte order is '%.*s', expected 'little'", label,
                      order->size < 16 ? (int)order->size : 16, (const char *)order->data);
        goto done;
    }
    if (crc(pkl->data, (size_t)pkl->size) != pkl->crc) {
        st = t3v_fail(T3V_E_FORMAT, "%s: the checksum of %s is wrong: the file is damaged", label, pkl->name);
        goto done;
    }
    T3V_TRY_GOTO(st, done, t3v_pickle_load(&p, label, pkl->data, (size_t)pkl->size));
    int64_t count, copied = 0;
    const t3v_pickle_tensor *t = t3v_pickle_tensors(p, &count);
    for (int64_t i = 0; i < count; i++)
        T3V_TRY_GOTO(st, done, add_tensor(f, label, &z, prefix, &t[i], len, &copied));
done:
    t3v_pickle_free(p);
    t3v_zip_close(&z);
    return st;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Bytes that grow; after a failed allocation `failed` stays set. */
typedef struct bytes {
    unsigned char *p;
    size_t n, capacity;
    bool failed;
} bytes;

static void add(bytes *b, const void *data, size_t n)
{
    if (b->capacity - b->n < n) {
        size_t capacity = 2 * b->capacity + n + 256;
        unsigned char *p = realloc(b->p, capacity);
        if (!p) {
            b->failed = true;
            return;
        }
        b->p = p;
        b->capacity = capacity;
    }
    memcpy(b->p + b->n, data, n);
    b->n += n;
}

static void add_int(bytes *b, uint64_t v, int size)
{
    unsigned char p[8];
    for (int i = 0; i < size; i++) p[i] = (unsigned char)(v >> 8 * i);
    add(b, p, (size_t)size);
}

static void add_text(bytes *b, const char *s) { add(b, s, strlen(s)); }

static void pickle_string(bytes *b, const char *s)
{
    add_text(b, "X");
    add_int(b, strlen(s), 4);
    add_text(b, s);
}

static void pickle_int(bytes *b, int64_t v)
{
    if (v < 256) {
        add_text(b, "K");
        add_int(b, (uint64_t)v, 1);
    } else if (v < INT32_MAX) {
        add_text(b, "J");
        add_int(b, (uint64_t)v, 4);
    } else {
        add(b, "\x8a\x08", 2);
        add_int(b, (uint64_t)v, 8);
    }
}

static void pickle_ints(bytes *b, const int64_t *v, int n)
{
    add_text(b, "(");
    for (int i = 0; i < n; i++) pickle_int(b, v[i]);
    add_text(b, "t");
}

static const char *storage_name(t3v_dtype t)
{
    switch (t) {
    case T3V_F32: return "FloatStorage";
    case T3V_F16: return "HalfStorage";
    case T3V_BF16: return "BFloat16Storage";
    case T3V_F64: return "DoubleStorage";
    case T3V_I32: return "IntStorage";
    case T3V_I64: return "LongStorage";
    case T3V_I16: return "ShortStorage";
    case T3V_I8: return "CharStorage";
    case T3V_U8: return "ByteStorage";
    case T3V_BOOL: return "BoolStorage";
    default: return NULL;
    }
}

/* OrderedDict of name -> _rebuild_tensor_v2(storage i, 0, size, stride, False, OrderedDict()), protocol 2. */
static t3v_status make_pickle(bytes *b, const char *path, const t3v_tensor_entry *tensors, int64_t n)
{
    static const char new_dict[] = "ccollections\nOrderedDict\n)R";
    add(b, "\x80\x02", 2);
    add_text(b, new_dict);
    add_text(b, "(");
    for (int64_t i = 0; i < n; i++) {
        t3v_tensor_entry e = tensors[i];
        const char *storage = storage_name(e.dtype);
        if (!storage)
            return t3v_fail(T3V_E_DTYPE,
                            "%s: tensor '%s' is %s, which .pth files cannot hold; write safetensors", path,
                            e.name, t3v_dtype_name(e.dtype));
        if (e.ndim < 0 || e.ndim > T3V_FILE_DIMS || !t3v_entry_sizes(&e) || strlen(e.name) > 0xffff)
            return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has an impossible shape or name", path, e.name);
        int64_t stride[T3V_FILE_DIMS], dense = 1;
        for (int d = e.ndim - 1; d >= 0; d--) {
            stride[d] = dense;
            dense *= e.shape[d] ? e.shape[d] : 1;
        }
        char text[64];
        pickle_string(b, e.name);
        add_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle_string(b, "storage");
        snprintf(text, sizeof text, "ctorch\n%s\n", storage);
        add_text(b, text);
        snprintf(text, sizeof text, "%" PRId64, i);
        pickle_string(b, text);
        pickle_string(b, "cpu");
        pickle_int(b, e.numel);
        add_text(b, "tQ");
        pickle_int(b, 0);
        pickle_ints(b, e.shape, e.ndim);
        pickle_ints(b, stride, e.ndim);
        add(b, "\x89", 1);
        add_text(b, new_dict);
        add_text(b, "tR");
    }
    add_text(b, "u.");
    return b->failed ? t3v_fail(T3V_E_NOMEM, "%s: no memory for data.pkl", path) : T3V_OK;
}

enum { VERSION_PLAIN = 20, VERSION_ZIP64 = 45, DATE_1980 = 0x21, CRC_AT = 14 };

/* The header before n stored bytes; their checksum is written into it later (at its start + CRC_AT). */
static t3v_status put_header(t3v_out *o, const char *name, uint64_t n)
{
    uint64_t offset = (uint64_t)t3v_out_tell(o);
    bool wide = n >= 0xffffffff;
    uint32_t length = (uint32_t)strlen(name), size = wide ? 0xffffffff : (uint32_t)n;
    bytes h = {0};
    uint32_t extra = wide ? 20 : 0;
    /* data on a multiple of 64 */
    uint32_t pad = 4 + (uint32_t)(64 - (offset + 30 + length + extra + 4) % 64) % 64;
    add_int(&h, 0x04034b50, 4);
    add_int(&h, wide ? VERSION_ZIP64 : VERSION_PLAIN, 2);
    add_int(&h, 0, 6); /* flags, method (stored), time */
    add_int(&h, DATE_1980, 2);
    add_int(&h, 0, 4);
    add_int(&h, size, 4);
    add_int(&h, size, 4);
    add_int(&h, length, 2);
    add_int(&h, extra + pad, 2);
    add_text(&h, name);
    if (wide) {
        add_int(&h, 1 | 16 << 16, 4);
        add_int(&h, n, 8);
        add_int(&h, n, 8);
    }
    add_int(&h, 0x4246 | (pad - 4) << 16, 4);
    for (uint32_t i = 4; i < pad; i++) add_text(&h, "Z");
    t3v_status st = h.failed ? t3v_fail(T3V_E_NOMEM, "no memory for a zip header")
                             : t3v_out_write(o, h.p, h.n);
    free(h.p);
    return st;
}

/* The checksum into the header at `offset`, and the entry's record into the central directory. */
static t3v_status close_entry(t3v_out *o, bytes *central, const char *name, uint64_t offset, uint64_t n,
                              uint32_t sum)
{
    unsigned char p[4];
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(sum >> 8 * i);
    T3V_TRY(t3v_out_write_at(o, (int64_t)offset + CRC_AT, p, 4));
    bool wide = n >= 0xffffffff, far = offset >= 0xffffffff;
    uint32_t size = wide ? 0xffffffff : (uint32_t)n, wider = (wide ? 16u : 0u) + (far ? 8u : 0u);
    add_int(central, 0x02014b50, 4);
    add_int(central, VERSION_ZIP64, 2);
    add_int(central, wider ? VERSION_ZIP64 : VERSION_PLAIN, 2);
    add_int(central, 0, 6);
    add_int(central, DATE_1980, 2);
    add_int(central, sum, 4);
    add_int(central, size, 4);
    add_int(central, size, 4);
    add_int(central, strlen(name), 2);
    add_int(central, wider ? wider + 4 : 0, 2);
    add_int(central, 0, 8); /* comment, disk, attributes */
    add_int(central, 0, 2);
    add_int(central, far ? 0xffffffff : offset, 4);
    add_text(central, name);
    if (wider) {
        add_int(central, 1 | wider << 16, 4);
        if (wide) {
            add_int(central, n, 8);
            add_int(central, n, 8);
        }
        if (far) add_int(central, offset, 8);
    }
    return T3V_OK;
}

static t3v_status put_entry(t3v_out *o, bytes *central, const char *name, const void *data, size_t n)
{
    uint64_t offset = (uint64_t)t3v_out_tell(o);
    T3V_TRY(put_header(o, name, n));
    T3V_TRY(t3v_out_write(o, data, n));
    return close_entry(o, central, name, offset, n, crc(data, n));
}

static t3v_status put_end(t3v_out *o, const bytes *central, uint64_t count)
{
    uint64_t offset = (uint64_t)t3v_out_tell(o), end = offset + central->n;
    bool wide = count >= 0xffff || offset >= 0xffffffff || central->n >= 0xffffffff;
    bytes b = {0};
    if (wide) {
        add_int(&b, 0x06064b50, 4);
        add_int(&b, 44, 8);
        add_int(&b, 45 | 45 << 16, 4);
        add_int(&b, 0, 8);
        add_int(&b, count, 8);
        add_int(&b, count, 8);
        add_int(&b, central->n, 8);
        add_int(&b, offset, 8);
        add_int(&b, 0x07064b50, 4);
        add_int(&b, 0, 4);
        add_int(&b, end, 8);
        add_int(&b, 1, 4);
    }
    add_int(&b, 0x06054b50, 4);
    add_int(&b, 0, 4);
    for (int i = 0; i < 2; i++) add_int(&b, wide ? 0xffff : count, 2);
    add_int(&b, wide ? 0xffffffff : central->n, 4);
    add_int(&b, wide ? 0xffffffff : offset, 4);
    add_int(&b, 0, 2);
    t3v_status st = b.failed || central->failed ? t3v_fail(T3V_E_NOMEM, "no memory for the zip directory")
                                                : T3V_OK;
    if (!st) st = t3v_out_write(o, central->p, central->n);
    if (!st) st = t3v_out_write(o, b.p, b.n);
    free(b.p);
    return st;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static t3v_status check_names(const char *path, const t3v_tensor_entry *tensors, int64_t n)
{
    const char **names = malloc((size_t)(n + 1) * sizeof *names);
    if (!names) return t3v_fail(T3V_E_NOMEM, "%s: no memory for %" PRId64 " names", path, n);
    for (int64_t i = 0; i < n; i++) names[i] = tensors[i].name;
    qsort(names, (size_t)n, sizeof *names, by_string);
    t3v_status st = T3V_OK;
    for (int64_t i = 1; !st && i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            st = t3v_fail(T3V_E_ARG, "%s: two tensors are named '%s'", path, names[i]);
    free(names);
    return st;
}

struct t3v_pth_writer {
    t3v_out *out;
    bytes central;
    int64_t *nbytes; /* [n] */
    int64_t n, current;
    /* ---- of the current tensor ---- */
    uint64_t offset;
    int64_t done;
    uint32_t sum;
};

static void data_name(char *name, size_t size, int64_t i)
{
    snprintf(name, size, "archive/data/%" PRId64, i);
}

static t3v_status open_current(t3v_pth_writer *w)
{
    char name[64];
    data_name(name, sizeof name, w->current);
    w->offset = (uint64_t)t3v_out_tell(w->out);
    w->done = 0;
    w->sum = crc(NULL, 0);
    return put_header(w->out, name, (uint64_t)w->nbytes[w->current]);
}

/* Closes complete tensors (also empty ones) and opens the next that is not. */
static t3v_status advance(t3v_pth_writer *w)
{
    char name[64];
    while (w->current < w->n && w->done == w->nbytes[w->current]) {
        data_name(name, sizeof name, w->current);
        T3V_TRY(close_entry(w->out, &w->central, name, w->offset, (uint64_t)w->done, w->sum));
        if (++w->current < w->n) T3V_TRY(open_current(w));
    }
    return T3V_OK;
}

t3v_status t3v_pth_begin(t3v_pth_writer **out, const char *path, const t3v_tensor_entry *tensors, int64_t n)
{
    *out = NULL;
    bytes pickle = {0};
    t3v_status st;
    T3V_TRY(check_names(path, tensors, n));
    t3v_pth_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->nbytes = calloc((size_t)n + 1, sizeof *w->nbytes))) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", path);
        goto done;
    }
    w->n = n;
    T3V_TRY_GOTO(st, done, make_pickle(&pickle, path, tensors, n));
    for (int64_t i = 0; i < n; i++) {
        t3v_tensor_entry e = tensors[i];
        (void)t3v_entry_sizes(&e); /* checked by make_pickle */
        w->nbytes[i] = e.nbytes;
    }
    T3V_TRY_GOTO(st, done, t3v_out_open(&w->out, path));
    T3V_TRY_GOTO(st, done, put_entry(w->out, &w->central, "archive/data.pkl", pickle.p, pickle.n));
    T3V_TRY_GOTO(st, done, put_entry(w->out, &w->central, "archive/byteorder", "little", 6));
    if (n > 0) T3V_TRY_GOTO(st, done, open_current(w));
    st = advance(w);
done:
    free(pickle.p);
    if (st) t3v_pth_abandon(w);
    else *out = w;
    return st;
}

t3v_status t3v_pth_append(t3v_pth_writer *w, const void *data, size_t nbytes)
{
    if (w->current == w->n || nbytes > (uint64_t)(w->nbytes[w->current] - w->done))
        return t3v_fail(T3V_E_ARG,
                        "%zu bytes for tensor %" PRId64 " of %" PRId64 " are more than it has left", nbytes,
                        w->current, w->n);
    T3V_TRY(t3v_out_write(w->out, data, nbytes));
    w->sum = (uint32_t)crc32_z(w->sum, data, nbytes);
    w->done += (int64_t)nbytes;
    return advance(w);
}

t3v_status t3v_pth_finish(t3v_pth_writer *w)
{
    t3v_status st = w->current == w->n ? T3V_OK
                                       : t3v_fail(T3V_E_ARG,
                                                  "tensor %" PRId64 " of %" PRId64 " got %" PRId64
                                                  " of its %" PRId64 " bytes",
                                                  w->current, w->n, w->done, w->nbytes[w->current]);
    if (!st) st = put_entry(w->out, &w->central, "archive/version", "3\n", 2);
    if (!st) st = put_end(w->out, &w->central, (uint64_t)w->n + 3);
    if (!st) {
        t3v_out *out = w->out;
        w->out = NULL;
        st = t3v_out_commit(out);
    }
    t3v_pth_abandon(w);
    return st;
}

void t3v_pth_abandon(t3v_pth_writer *w)
{
    if (!w) return;
    t3v_out_abort(w->out);
    free(w->central.p);
    free(w->nbytes);
    free(w);
}

t3v_status t3v_pth_write(const char *path, const t3v_tensor_entry *tensors, int64_t n)
{
    t3v_pth_writer *w;
    T3V_TRY(t3v_pth_begin(&w, path, tensors, n));
    t3v_status st = T3V_OK;
    for (int64_t i = 0; !st && i < n; i++) {
        t3v_tensor_entry e = tensors[i];
        (void)t3v_entry_sizes(&e);
        if (e.nbytes > 0) st = t3v_pth_append(w, e.data, (size_t)e.nbytes);
    }
    if (!st) return t3v_pth_finish(w);
    t3v_pth_abandon(w);
    return st;
}
