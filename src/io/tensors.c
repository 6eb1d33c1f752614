/* SPDX-License-Identifier: Apache-2.0 */
/* Opening checkpoints of any format as one view; checking and copying tensors. */
#include "io/tensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/gguf.h"
#include "io/json.h"
#include "io/view.h"
#include "tensor/dtype.h"

/* ---- formats --------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static t3v_status add_file(t3v_tensor_file *f, const char *path);

enum { SHARDS_MAX = 4096 };

/* A plain file name: shards live beside their index. */
static bool plain_name(const char *s) { return *s && *s != '.' && !strchr(s, '/') && !strchr(s, '\\'); }

static t3v_status add_index(t3v_tensor_file *f, const char *path, const char *text, size_t size)
{
    json_t *root = NULL, *map = NULL, *seen = json_object();
    char *dir = NULL, *shard = NULL;
    const char *slash = strrchr(path, '/'), *tensor;
    json_t *value;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_json_parse(&root, path, text, size));
    T3V_TRY_GOTO(st, done, t3v_json_object(root, path, "weight_map", true, &map));
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    if (!(dir = malloc(n + 1)) || !seen) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
        goto done;
    }
    memcpy(dir, path, n);
    dir[n] = 0;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !plain_name(name)) {
            st = t3v_fail(T3V_E_FORMAT,
                          "%s: the shard of tensor '%s' is %s%s%s, expected a file name beside the index",
                          path, tensor, name ? "'" : "not a string", name ? name : "", name ? "'" : "");
            goto done;
        }
        if (json_object_get(seen, name)) continue;
        if (json_object_size(seen) == SHARDS_MAX) {
            st = t3v_fail(T3V_E_TOO_BIG, "%s: more than %d shards", path, SHARDS_MAX);
            goto done;
        }
        if (json_object_set_new(seen, name, json_true()) != 0) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
            goto done;
        }
        if (!(shard = t3v_path_join(dir, name))) {
            st = t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
            goto done;
        }
        const char *label = t3v_view_string(f, shard);
        t3v_map m;
        st = label ? t3v_view_map(f, label, &m) : t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
        if (!st) st = t3v_safetensors_parse(f, label, m.data, m.size);
        if (st) {
            t3v_fail_in(st, "%s", path);
            goto done;
        }
        free(shard);
        shard = NULL;
    }
    T3V_TRY_GOTO(st, done, t3v_view_seal(f));
    json_object_foreach(map, tensor, value)
    {
        const t3v_tensor_entry *e = t3v_tensors_find(f, tensor);
        const char *name = json_string_value(value);
        if (e && ends_with(e->file, name)) continue;
        st = t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' should be in '%s', it is %s%s", path, tensor, name,
                      e ? "in " : "in none of the shards", e ? e->file : "");
        goto done;
    }
    f->format = "safetensors shards";
done:
    free(shard);
    free(dir);
    json_decref(seen);
    json_decref(root);
    return st;
}

/* Where "-00001-of-00003." begins in a path; NULL: nowhere. */
static const char *shard_tail(const char *path)
{
    static const char form[] = "-00000-of-00000.";
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    size_t n = sizeof form - 1;
    if (!dot || (size_t)(dot - name) < n) return NULL;
    const char *at = dot + 1 - n;
    for (size_t i = 0; i < n; i++)
        if (form[i] == '0' ? at[i] < '0' || at[i] > '9' : at[i] != form[i]) return NULL;
    return at;
}

bool t3v_shard_number(const char *path, int *number, int *count)
{
    const char *at = shard_tail(path);
    if (!at) return false;
    *number = atoi(at + 1);
    *count = atoi(at + 10);
    return *number >= 1 && *number <= *count;
}

/* What a split GGUF file says of the whole: a file that has another name, or one of another model, is noticed. */
static t3v_status check_split(const t3v_tensor_file *f)
{
    int64_t files = 1, tensors = f->count;
    T3V_TRY(t3v_gguf_int(f, "split.count", false, 0, SHARDS_MAX, &files));
    T3V_TRY(t3v_gguf_int(f, "split.tensors.count", false, 0, INT64_MAX, &tensors));
    if (files < 2 || tensors == f->count) return T3V_OK;
    return t3v_fail(
        T3V_E_FORMAT,
        "%s has %lld of the %lld tensors of a model in %lld files: they are opened together when they "
        "are called NAME-00001-of-%05lld.gguf and so on, in one directory",
        f->path, (long long)f->count, (long long)tensors, (long long)files, (long long)files);
}

static t3v_status add_content(t3v_tensor_file *f, const char *path);

/* All files of a model of which `path` names one. */
static t3v_status add_shards(t3v_tensor_file *f, const char *path, int count)
{
    t3v_status st = T3V_OK;
    size_t at = (size_t)(shard_tail(path) - path) + 1;
    char *name = strdup(path), number[16];
    if (!name) return t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
    if (count > SHARDS_MAX) st = t3v_fail(T3V_E_TOO_BIG, "%s: more than %d shards", path, SHARDS_MAX);
    for (int i = 1; i <= count && !st; i++) {
        snprintf(number, sizeof number, "%05d", i);
        memcpy(name + at, number, 5);
        if (t3v_is_file(name)) st = add_content(f, name);
        else st = t3v_fail(T3V_E_IO, "%s is missing: file %d of the %d that hold the model", name, i, count);
    }
    free(name);
    return st;
}

static t3v_status add_dir(t3v_tensor_file *f, const char *path)
{
    enum { FILE_CAP = 4096 };
    char **names = NULL, *index = NULL;
    int count = 0, indexes = 0, shards = 0, number, of = 0;
    int whole = -1; /* number of the name that the original layout has: a LoRA may lie beside it */
    t3v_status st = T3V_OK;
    DIR *d = opendir(path);
    if (!d) return t3v_fail(T3V_E_IO, "%s: cannot list: %s", path, strerror(errno));
    if (!(names = calloc(FILE_CAP, sizeof *names))) st = t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
    for (struct dirent *e; !st && (e = readdir(d));) {
        bool is_index = ends_with(e->d_name, ".safetensors.index.json");
        if (e->d_name[0] == '.' ||
            (!is_index && !ends_with(e->d_name, ".safetensors") && !ends_with(e->d_name, ".gguf")))
            continue;
        char *full = t3v_path_join(path, e->d_name);
        if (!full || count == FILE_CAP) {
            st = full ? t3v_fail(T3V_E_TOO_BIG, "%s: more than %d weight files", path, FILE_CAP)
                      : t3v_fail(T3V_E_NOMEM, "%s: no memory to list it", path);
            free(full);
        } else if (is_index) {
            free(index);
            index = full;
            indexes++;
        } else {
            shards += t3v_shard_number(e->d_name, &number, &of);
            if (strcmp(e->d_name, "diffusion_pytorch_model.safetensors") == 0) whole = count;
            names[count++] = full;
        }
    }
    closedir(d);
    if (st) goto done;
    if (indexes == 1) {
        st = add_file(f, index);
    } else if (indexes == 0 && whole >= 0) {
        st = add_file(f, names[whole]);
    } else if (indexes == 0 && (count == 1 || (shards == count && count > 1 && count <= of))) {
        st = add_file(f, names[0]);
    } else {
        st = t3v_fail(T3V_E_IO, "%s: %s (%d .safetensors, %d index files); name the file", path,
                      count + indexes ? "cannot tell which weights to open" : "no weights here", count,
                      indexes);
    }
done:
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
    free(index);
    return st;
}

static t3v_status add_content(t3v_tensor_file *f, const char *path)
{
    const char *label = t3v_view_string(f, path);
    if (!label) return t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
    t3v_map m;
    T3V_TRY(t3v_view_map(f, label, &m));
    if (m.size == 0) return t3v_fail(T3V_E_FORMAT, "%s: the file is empty", label);
    const unsigned char *p = m.data;
    if (m.size >= 4 && memcmp(p, "PK\3\4", 4) == 0) {
        f->format = "pth";
        return t3v_pth_parse(f, label, p, m.size);
    }
    bool header = m.size > 8 && p[8] == '{' && !p[4] && !p[5] && !p[6] && !p[7];
    if (header || ends_with(label, ".safetensors")) {
        f->format = "safetensors";
        return t3v_safetensors_parse(f, label, p, m.size);
    }
    if (p[0] == '{' && ends_with(label, ".json")) return add_index(f, label, (const char *)p, m.size);
    if (m.size >= 4 && memcmp(p, "GGUF", 4) == 0) {
        f->format = "gguf";
        return t3v_gguf_parse(f, label, p, m.size);
    }
    if (m.size >= 2 && p[0] == 0x80 && p[1] <= 5)
        return t3v_fail(
            T3V_E_UNSUPPORTED,
            "%s: a pickle of PyTorch before 1.6 or of another program; save it again with torch.save", label);
    return t3v_fail(T3V_E_FORMAT, "%s: neither safetensors, an index of shards, a PyTorch zip file nor GGUF",
                    label);
}

static t3v_status add_file(t3v_tensor_file *f, const char *path)
{
    int number, count;
    if (t3v_is_dir(path)) return add_dir(f, path);
    return t3v_shard_number(path, &number, &count) && count > 1 ? add_shards(f, path, count)
                                                                : add_content(f, path);
}

t3v_status t3v_tensors_open_many(t3v_tensor_file **out, const char *const *paths, int n)
{
    *out = NULL;
    if (n < 1) return t3v_fail(T3V_E_ARG, "no checkpoint file given");
    t3v_tensor_file *f;
    T3V_TRY(t3v_view_new(&f, paths[0]));
    t3v_status st = T3V_OK;
    for (int i = 0; !st && i < n; i++) st = add_file(f, paths[i]);
    if (!st) st = t3v_view_seal(f);
    if (!st && f->pairs) st = check_split(f);
    if (!st && f->pairs) st = t3v_gguf_unfold(f);
    if (!st) st = t3v_view_scales(f);
    if (st) t3v_tensors_close(f);
    else *out = f;
    return st;
}

t3v_status t3v_tensors_open(t3v_tensor_file **out, const char *path)
{
    return t3v_tensors_open_many(out, &path, 1);
}

/* ---- using tensors --------------------------------------------------------------------------- */

const char *t3v_shape_text(int ndim, const int64_t *shape, char *text, size_t n)
{
    size_t used = 0;
    for (int i = 0; i < ndim && used < n; i++)
        used += (size_t)(shape[i] < 0
                             ? snprintf(text + used, n - used, "%s*", i ? "," : "[")
                             : snprintf(text + used, n - used, "%s%lld", i ? "," : "[", (long long)shape[i]));
    if (used < n) snprintf(text + used, n - used, ndim ? "]" : "[]");
    return text;
}

/* Leading axes of 1 are skipped on the longer side. */
static bool fits(const t3v_tensor_entry *t, int ndim, const int64_t *shape)
{
    int a = 0, b = 0;
    while (t->ndim - a > ndim && t->shape[a] == 1) a++;
    while (ndim - b > t->ndim && shape[b] == 1) b++;
    bool same = t->ndim - a == ndim - b;
    for (int i = 0; same && i < ndim - b; i++) same = shape[b + i] < 0 || shape[b + i] == t->shape[a + i];
    return same;
}

/* The same axes, but for those of 1 wherever they are; an open size could be any of them, so none may be open. */
static bool fits_without_ones(const t3v_tensor_entry *t, int ndim, const int64_t *shape)
{
    int a = 0, b = 0;
    for (;;) {
        while (a < t->ndim && t->shape[a] == 1) a++;
        while (b < ndim && shape[b] == 1) b++;
        if (a == t->ndim || b == ndim) return a == t->ndim && b == ndim;
        if (shape[b++] != t->shape[a++]) return false;
    }
}

t3v_status t3v_tensor_expect(const t3v_tensor_entry *t, int ndim, const int64_t *shape)
{
    if (fits(t, ndim, shape) || fits_without_ones(t, ndim, shape)) return T3V_OK;
    char got[200], want[200];
    return t3v_fail(T3V_E_SHAPE,
                    "%s: tensor '%s' is %s, expected %s; the file may be of another model or size than the "
                    "configuration says",
                    t->file, t->stored ? t->stored : t->name,
                    t3v_shape_text(t->ndim, t->shape, got, sizeof got),
                    t3v_shape_text(ndim, shape, want, sizeof want));
}

t3v_status t3v_tensor_copy(const t3v_tensor_entry *t, void *dst, t3v_dtype dtype)
{
    enum { STEP = 1 << 20 }; /* elements: whole blocks of every type */
    if (t3v_convert(dst, dtype, t->data, t->dtype, 0))
        return t3v_fail(T3V_E_DTYPE, "%s: tensor '%s' is %s, which does not convert to %s", t->file, t->name,
                        t3v_dtype_name(t->dtype), t3v_dtype_name(dtype));
    size_t from = STEP / (size_t)t3v_dtype_block(t->dtype) * t3v_dtype_block_bytes(t->dtype),
           to = STEP / (size_t)t3v_dtype_block(dtype) * t3v_dtype_block_bytes(dtype);
    int64_t steps = (t->numel + STEP - 1) / STEP;
#pragma omp parallel for schedule(static) if (steps > 1)
    for (int64_t s = 0; s < steps; s++) {
        int64_t first = s * STEP, n = t->numel - first < STEP ? t->numel - first : STEP;
        (void)t3v_convert_scaled((unsigned char *)dst + (size_t)s * to, dtype,
                                 (const unsigned char *)t->data + (size_t)s * from, t->dtype,
                                 t->scale ? *t->scale : 1, n);
        /* Of each step, so that a tensor of gigabytes is never in memory twice. */
        if (t->mapped)
            t3v_map_drop((const unsigned char *)t->data + (size_t)s * from, (size_t)n * from / STEP);
    }
    return T3V_OK;
}

t3v_status t3v_tensors_read(const t3v_tensor_file *f, const char *name, int ndim, const int64_t *shape,
                            void *dst, t3v_dtype dtype)
{
    const t3v_tensor_entry *t;
    T3V_TRY(t3v_tensors_get(f, name, &t));
    T3V_TRY(t3v_tensor_expect(t, ndim, shape));
    return t3v_tensor_copy(t, dst, dtype);
}
