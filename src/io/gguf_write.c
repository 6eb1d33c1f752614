/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF: magic, version, counts, key-value pairs, tensor infos, then the tensors' bytes, each aligned to 32. */
#include "io/gguf_write.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/view.h"

/* Numbers of the format; all of it is little-endian, as the machines that this program runs on. */
enum { VERSION = 3, ALIGN = 32, DIMS = 5, NAME_MAX_BYTES = 127 };
enum { V_U8 = 0, V_U32 = 4, V_I32 = 5, V_F32 = 6, V_BOOL = 7, V_STRING = 8, V_ARRAY = 9 };

static const int type_ids[T3V_DTYPE_COUNT] = {
    /* 1 + the number; 0: none */
    [T3V_F32] = 1,  [T3V_F16] = 2,   [T3V_Q4_0] = 3,  [T3V_Q4_1] = 4,  [T3V_Q5_0] = 7,  [T3V_Q5_1] = 8,
    [T3V_Q8_0] = 9, [T3V_Q2_K] = 11, [T3V_Q3_K] = 12, [T3V_Q4_K] = 13, [T3V_Q5_K] = 14, [T3V_Q6_K] = 15,
    [T3V_I8] = 25,  [T3V_I16] = 26,  [T3V_I32] = 27,  [T3V_I64] = 28,  [T3V_F64] = 29,  [T3V_BF16] = 31,
};

bool t3v_gguf_holds(t3v_dtype type) { return type_ids[type] != 0; }

/* ---- key-value pairs ----------------------------------------------------------------------------- */

static void put(t3v_gguf_keys *k, const void *data, size_t n)
{
    if (k->failed) return;
    if (n > k->capacity - k->size) {
        size_t capacity = k->capacity ? k->capacity : 4096;
        while (capacity - k->size < n && capacity <= SIZE_MAX / 4) capacity *= 2;
        unsigned char *p = capacity - k->size < n ? NULL : realloc(k->data, capacity);
        if (!p) {
            k->failed = true;
            return;
        }
        k->data = p;
        k->capacity = capacity;
    }
    if (n) memcpy(k->data + k->size, data, n);
    k->size += n;
}

static void put_u32(t3v_gguf_keys *k, uint32_t v) { put(k, &v, 4); }
static void put_u64(t3v_gguf_keys *k, uint64_t v) { put(k, &v, 8); }

static void put_string(t3v_gguf_keys *k, const char *s, size_t n)
{
    put_u64(k, n);
    put(k, s, n);
}

static void put_key(t3v_gguf_keys *k, const char *key, uint32_t type)
{
    put_string(k, key, strlen(key));
    put_u32(k, type);
    k->count++;
}

static void put_array(t3v_gguf_keys *k, const char *key, uint32_t type, uint64_t n)
{
    put_key(k, key, V_ARRAY);
    put_u32(k, type);
    put_u64(k, n);
}

void t3v_gguf_u32(t3v_gguf_keys *k, const char *key, uint32_t v)
{
    put_key(k, key, V_U32);
    put_u32(k, v);
}

void t3v_gguf_f32(t3v_gguf_keys *k, const char *key, float v)
{
    put_key(k, key, V_F32);
    put(k, &v, 4);
}

void t3v_gguf_bool(t3v_gguf_keys *k, const char *key, bool v)
{
    put_key(k, key, V_BOOL);
    put(k, &(unsigned char){v}, 1);
}

void t3v_gguf_text(t3v_gguf_keys *k, const char *key, const char *v)
{
    put_key(k, key, V_STRING);
    put_string(k, v, strlen(v));
}

void t3v_gguf_texts(t3v_gguf_keys *k, const char *key, const char *const *text, const uint32_t *len,
                    uint64_t n)
{
    put_array(k, key, V_STRING, n);
    for (uint64_t i = 0; i < n; i++) put_string(k, text[i], len[i]);
}

void t3v_gguf_f32s(t3v_gguf_keys *k, const char *key, const float *v, uint64_t n)
{
    put_array(k, key, V_F32, n);
    put(k, v, n * sizeof *v);
}

void t3v_gguf_i32s(t3v_gguf_keys *k, const char *key, const int32_t *v, uint64_t n)
{
    put_array(k, key, V_I32, n);
    put(k, v, n * sizeof *v);
}

void t3v_gguf_bytes(t3v_gguf_keys *k, const char *key, const void *v, uint64_t n)
{
    put_array(k, key, V_U8, n);
    put(k, v, n);
}

void t3v_gguf_keys_free(t3v_gguf_keys *k)
{
    free(k->data);
    *k = (t3v_gguf_keys){0};
}

/* ---- the file -------------------------------------------------------------------------------------- */

struct t3v_gguf_writer {
    t3v_out *out;
    char *path;
    int64_t n, at; /* tensors; the one that is being filled */
    int64_t done;  /* its bytes so far */
    int64_t *nbytes;
};

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* No name twice; `sorted` is scratch. */
static t3v_status check_names(const char *path, const t3v_tensor_entry *tensors, int64_t n,
                              const char **sorted)
{
    for (int64_t i = 0; i < n; i++) sorted[i] = tensors[i].name;
    qsort(sorted, (size_t)n, sizeof *sorted, by_name);
    for (int64_t i = 0; i < n; i++) {
        if (strlen(sorted[i]) > NAME_MAX_BYTES)
            return t3v_fail(T3V_E_ARG, "%s: the tensor name '%.40s...' is longer than GGUF's %d bytes", path,
                            sorted[i], NAME_MAX_BYTES);
        if (i && strcmp(sorted[i - 1], sorted[i]) == 0)
            return t3v_fail(T3V_E_ARG, "%s: two tensors are named '%s'", path, sorted[i]);
    }
    return T3V_OK;
}

/* Appends the tensor infos and fills w->nbytes. */
static t3v_status put_infos(t3v_gguf_writer *w, t3v_gguf_keys *head, const t3v_tensor_entry *tensors)
{
    int64_t offset = 0;
    for (int64_t i = 0; i < w->n; i++) {
        t3v_tensor_entry e = tensors[i];
        if (!t3v_gguf_holds(e.dtype))
            return t3v_fail(T3V_E_DTYPE, "%s: GGUF has no type for %s (tensor '%s')", w->path,
                            t3v_dtype_name(e.dtype), e.name);
        int64_t row = e.ndim > 0 ? e.shape[e.ndim - 1] : 1;
        if (e.ndim < 0 || e.ndim > DIMS || row % t3v_dtype_block(e.dtype) || !t3v_entry_sizes(&e) ||
            e.nbytes > INT64_MAX - ALIGN - offset)
            return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has a shape that GGUF cannot hold", w->path, e.name);
        put_string(head, e.name, strlen(e.name));
        put_u32(head, e.ndim ? (uint32_t)e.ndim : 1); /* a scalar is a row of one */
        if (!e.ndim) put_u64(head, 1);
        for (int d = e.ndim - 1; d >= 0; d--) put_u64(head, (uint64_t)e.shape[d]);
        put_u32(head, (uint32_t)(type_ids[e.dtype] - 1));
        put_u64(head, (uint64_t)offset);
        w->nbytes[i] = e.nbytes;
        offset += (e.nbytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    return T3V_OK;
}

/* Zeros up to a multiple of ALIGN. */
static t3v_status pad(t3v_gguf_writer *w)
{
    static const unsigned char zeros[ALIGN];
    return t3v_out_write(w->out, zeros, (size_t)(-t3v_out_tell(w->out) & (ALIGN - 1)));
}

/* Pads what is complete, and passes over tensors without bytes. */
static t3v_status advance(t3v_gguf_writer *w)
{
    while (w->at < w->n && w->done == w->nbytes[w->at]) {
        T3V_TRY(pad(w));
        w->at++;
        w->done = 0;
    }
    return T3V_OK;
}

t3v_status t3v_gguf_begin(t3v_gguf_writer **out, const char *path, const t3v_gguf_keys *keys,
                          const t3v_tensor_entry *tensors, int64_t n)
{
    *out = NULL;
    t3v_status st;
    t3v_gguf_keys head = {0};
    const char **sorted = calloc((size_t)n + 1, sizeof *sorted);
    t3v_gguf_writer *w = calloc(1, sizeof *w);
    if (!w || !sorted || !(w->path = strdup(path)) ||
        !(w->nbytes = calloc((size_t)n + 1, sizeof *w->nbytes))) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", path);
        goto done;
    }
    w->n = n;
    T3V_TRY_GOTO(st, done, check_names(path, tensors, n, sorted));
    put(&head, "GGUF", 4);
    put_u32(&head, VERSION);
    put_u64(&head, (uint64_t)n);
    put_u64(&head, keys->count);
    put(&head, keys->data, keys->size);
    T3V_TRY_GOTO(st, done, put_infos(w, &head, tensors));
    if (head.failed || keys->failed) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for the header", path);
        goto done;
    }
    T3V_TRY_GOTO(st, done, t3v_out_open(&w->out, path));
    T3V_TRY_GOTO(st, done, t3v_out_write(w->out, head.data, head.size));
    T3V_TRY_GOTO(st, done, pad(w));
    T3V_TRY_GOTO(st, done, advance(w));
done:
    free(sorted);
    t3v_gguf_keys_free(&head);
    if (st) t3v_gguf_abandon(w);
    else *out = w;
    return st;
}

t3v_status t3v_gguf_append(t3v_gguf_writer *w, const void *data, size_t nbytes)
{
    int64_t left = w->at < w->n ? w->nbytes[w->at] - w->done : 0;
    if (nbytes > (uint64_t)left)
        return t3v_fail(T3V_E_ARG, "%s: %zu bytes for a tensor that has %" PRId64 " left", w->path, nbytes,
                        left);
    T3V_TRY(t3v_out_write(w->out, data, nbytes));
    w->done += (int64_t)nbytes;
    return advance(w);
}

t3v_status t3v_gguf_finish(t3v_gguf_writer *w)
{
    t3v_status st = T3V_OK;
    if (w->at < w->n) {
        st = t3v_fail(T3V_E_ARG, "%s: %" PRId64 " of %" PRId64 " tensors are complete", w->path, w->at, w->n);
    } else {
        t3v_out *out = w->out;
        w->out = NULL;
        st = t3v_out_commit(out);
    }
    t3v_gguf_abandon(w);
    return st;
}

void t3v_gguf_abandon(t3v_gguf_writer *w)
{
    if (!w) return;
    t3v_out_abort(w->out);
    free(w->nbytes);
    free(w->path);
    free(w);
}
