/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a directory of cached latents and text contexts. */
#include "train/dataset.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "text/tokenizer.h"
#include "vae/vae.h"

enum { INDEX_MAX = 1 << 30, SIDE_MAX = 1 << 20, DIM_MAX = 1 << 16 };

const char *t3v_dataset_meta(const t3v_tensor_file *f, const char *key)
{
    for (int64_t i = 0; i < f->meta_count; i++)
        if (strcmp(f->meta[i].key, key) == 0) return f->meta[i].value;
    return NULL;
}

/* Opens one of the set's files and checks all that can be checked without its numbers. */
static t3v_status open_clip(const t3v_dataset *d, const t3v_dataset_clip *c, bool latent,
                            t3v_tensor_file **out, int64_t *rows)
{
    t3v_tensor_file *f = NULL;
    const t3v_tensor_entry *z = NULL, *context = NULL;
    t3v_status st = t3v_tensors_open(&f, c->file);
    const char *model = st ? NULL : t3v_dataset_meta(f, "model"),
               *format = st ? NULL : t3v_dataset_meta(f, "format");
    char have[256], want[256];
    if (!st && (!format || strcmp(format, T3V_DATASET_FORMAT) != 0))
        st = t3v_fail(T3V_E_FORMAT, "%s: its format is '%s', expected '%s': not a file of `t3v data latents`",
                      c->file, format ? format : "", T3V_DATASET_FORMAT);
    if (!st && (!model || strcmp(model, d->model) != 0))
        st = t3v_fail(T3V_E_FORMAT, "%s was made with the weights %s, the index says %s", c->file,
                      model ? model : "(none)", d->model);
    if (!st && latent) st = t3v_tensors_get(f, "latent", &z);
    if (!st) st = t3v_tensors_get(f, "context", &context);
    if (!st && z && (z->ndim != 4 || memcmp(z->shape, d->latent, sizeof d->latent) != 0))
        st = t3v_fail(T3V_E_SHAPE, "%s: latent is %s, all of the set must be %s", c->file,
                      t3v_shape_text(z->ndim, z->shape, have, sizeof have),
                      t3v_shape_text(4, d->latent, want, sizeof want));
    if (!st && (context->ndim != 2 || context->shape[0] < 1 || context->shape[0] > T3V_TEXT_LEN ||
                context->shape[1] != d->dim))
        st = t3v_fail(T3V_E_SHAPE, "%s: context is %s, expected [1 to %d,%lld]", c->file,
                      t3v_shape_text(context->ndim, context->shape, have, sizeof have), T3V_TEXT_LEN,
                      (long long)d->dim);
    if (!st && ((z && z->dtype != T3V_BF16) || context->dtype != T3V_F32))
        st = t3v_fail(T3V_E_DTYPE, "%s: expected a latent of BF16 and a context of F32", c->file);
    if (!st) *rows = context->shape[0];
    if (st) t3v_tensors_close(f);
    else *out = f;
    return st;
}

static t3v_status check_clip(t3v_dataset *d, t3v_dataset_clip *c, bool latent)
{
    t3v_tensor_file *f;
    T3V_TRY(open_clip(d, c, latent, &f, &c->rows));
    t3v_tensors_close(f);
    if (c->rows > d->rows_max) d->rows_max = c->rows;
    return T3V_OK;
}

static t3v_status copy_text(const json_t *o, const char *label, const char *key, char **out)
{
    const char *text;
    T3V_TRY(t3v_json_string(o, label, key, true, &text));
    return (*out = strdup(text)) ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: out of memory", label);
}

static t3v_status read_entry(t3v_dataset *d, const char *label, const json_t *o, int64_t i)
{
    t3v_dataset_clip *c = &d->clip[i];
    const char *file;
    if (!json_is_object(o))
        return t3v_fail(T3V_E_FORMAT, "%s: clip %lld is not an object", label, (long long)i);
    T3V_TRY(t3v_json_string(o, label, "file", true, &file));
    if (!*file || !t3v_path_is_inside(file))
        return t3v_fail(T3V_E_FORMAT, "%s: clip %lld: file: expected a relative path without ..", label,
                        (long long)i);
    if (!(c->file = t3v_path_join(d->path, file))) return t3v_fail(T3V_E_NOMEM, "%s: out of memory", label);
    T3V_TRY(copy_text(o, label, "source", &c->source));
    T3V_TRY(copy_text(o, label, "caption", &c->caption));
    return check_clip(d, c, true);
}

static t3v_status read_sizes(t3v_dataset *d, const char *label, const json_t *o)
{
    const char *format;
    int64_t size[2];
    int n = 0, axes = 0;
    T3V_TRY(t3v_json_string(o, label, "format", true, &format));
    if (strcmp(format, T3V_DATASET_FORMAT) != 0)
        return t3v_fail(T3V_E_FORMAT, "%s: format is '%s', expected '%s'", label, format, T3V_DATASET_FORMAT);
    T3V_TRY(copy_text(o, label, "model", &d->model));
    T3V_TRY(t3v_json_ints(o, label, "size", true, 8, SIDE_MAX, size, 2, &n));
    T3V_TRY(t3v_json_int(o, label, "frames", true, 1, SIDE_MAX, &d->frames));
    T3V_TRY(t3v_json_ints(o, label, "latent", true, 1, SIDE_MAX, d->latent, 4, &axes));
    T3V_TRY(t3v_json_int(o, label, "dim", true, 1, DIM_MAX, &d->dim));
    if (n != 2 || axes != 4)
        return t3v_fail(T3V_E_FORMAT, "%s: expected a size of 2 and a latent of 4 numbers", label);
    d->width = size[0], d->height = size[1];
    int64_t stride = t3v_vae_stride(d->latent[0]);
    if (d->frames % 4 != 1 || !stride || d->latent[1] != (d->frames - 1) / 4 + 1 ||
        d->latent[2] * stride != d->height || d->latent[3] * stride != d->width)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: a latent of %lldx%lldx%lldx%lld is not of %lld frames of %lldx%lld", label,
                        (long long)d->latent[0], (long long)d->latent[1], (long long)d->latent[2],
                        (long long)d->latent[3], (long long)d->frames, (long long)d->width,
                        (long long)d->height);
    return T3V_OK;
}

static t3v_status read_index(t3v_dataset *d, const char *label)
{
    char *text = NULL;
    size_t size;
    json_t *root = NULL;
    t3v_status st = t3v_read_text(label, INDEX_MAX, &text, &size);
    if (st)
        return t3v_fail(st, "%s: no data set, or one that is not finished (run `t3v data latents` again): %s",
                        d->path, t3v_error_text());
    st = t3v_json_parse(&root, label, text, size);
    free(text);
    T3V_TRY(st);
    T3V_TRY_GOTO(st, done, read_sizes(d, label, root));
    const json_t *clips = json_object_get(root, "clips");
    size_t n = json_array_size(clips);
    if (n < 1 || n > T3V_DATASET_CLIPS) {
        st = t3v_fail(T3V_E_FORMAT, "%s: clips: expected a list of 1 to %d", label, T3V_DATASET_CLIPS);
        goto done;
    }
    d->empty.file = t3v_path_join(d->path, "empty.safetensors");
    d->clip = calloc(n, sizeof *d->clip);
    if (!d->clip || !d->empty.file) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for %zu clips", label, n);
        goto done;
    }
    T3V_TRY_GOTO(st, done, check_clip(d, &d->empty, false));
    for (size_t i = 0; i < n; i++) {
        d->count = (int64_t)i + 1;
        T3V_TRY_GOTO(st, done, read_entry(d, label, json_array_get(clips, i), (int64_t)i));
    }
done:
    json_decref(root);
    return st;
}

t3v_status t3v_dataset_open(t3v_dataset **out, const char *dir)
{
    *out = NULL;
    t3v_dataset *d = calloc(1, sizeof *d);
    char *index = t3v_path_join(dir, "index.json");
    t3v_status st = d && index && (d->path = strdup(dir)) ? T3V_OK : t3v_fail(T3V_E_NOMEM, "out of memory");
    if (!st) st = read_index(d, index);
    free(index);
    if (st) t3v_dataset_close(d);
    else *out = d;
    return st;
}

static void free_clip(t3v_dataset_clip *c)
{
    free(c->file);
    free(c->source);
    free(c->caption);
}

void t3v_dataset_close(t3v_dataset *d)
{
    if (!d) return;
    for (int64_t i = 0; i < d->count; i++) free_clip(&d->clip[i]);
    free_clip(&d->empty);
    free(d->clip);
    free(d->path);
    free(d->model);
    free(d);
}

static t3v_status read_clip(const t3v_dataset *d, const t3v_dataset_clip *c, uint16_t *latent, float *context)
{
    t3v_tensor_file *f;
    int64_t rows, n = d->latent[0] * d->latent[1] * d->latent[2] * d->latent[3];
    T3V_TRY(open_clip(d, c, c != &d->empty, &f, &rows));
    const int64_t shape[2] = {c->rows, d->dim};
    t3v_status st = T3V_OK;
    if (rows != c->rows) /* it was replaced while the set is open */
        st = t3v_fail(T3V_E_SHAPE, "%s: context has %lld rows, it had %lld", c->file, (long long)rows,
                      (long long)c->rows);
    if (!st && latent) st = t3v_tensors_read(f, "latent", 4, d->latent, latent, T3V_BF16);
    if (!st && context) st = t3v_tensors_read(f, "context", 2, shape, context, T3V_F32);
    for (int64_t i = 0; !st && latent && i < n; i++)
        if ((latent[i] & 0x7f80) == 0x7f80)
            st = t3v_fail(T3V_E_FORMAT, "%s: latent has a number that is not finite", c->file);
    for (int64_t i = 0; !st && context && i < rows * d->dim; i++)
        if (!(context[i] - context[i] == 0))
            st = t3v_fail(T3V_E_FORMAT, "%s: context has a number that is not finite", c->file);
    t3v_tensors_close(f);
    return st;
}

t3v_status t3v_dataset_read(const t3v_dataset *d, int64_t i, uint16_t *latent, float *context)
{
    if (i < 0 || i >= d->count)
        return t3v_fail(T3V_E_ARG, "%s: clip %lld of %lld", d->path, (long long)i, (long long)d->count);
    return read_clip(d, &d->clip[i], latent, context);
}

t3v_status t3v_dataset_read_empty(const t3v_dataset *d, float *context)
{
    return read_clip(d, &d->empty, NULL, context);
}

static void mix(uint64_t *h, const char *text)
{
    do *h = (*h ^ (unsigned char)*text) * 0x100000001b3u;
    while (*text++);
}

void t3v_dataset_describe(const t3v_dataset *d, char text[T3V_DATASET_TEXT])
{
    uint64_t h = 0xcbf29ce484222325u;
    mix(&h, d->model);
    for (int64_t i = 0; i < d->count; i++) {
        mix(&h, d->clip[i].source);
        mix(&h, d->clip[i].caption);
    }
    snprintf(text, T3V_DATASET_TEXT, "%lld clips of %lldx%lldx%lld, %016llx", (long long)d->count,
             (long long)d->width, (long long)d->height, (long long)d->frames, (unsigned long long)h);
}
