/* SPDX-License-Identifier: Apache-2.0 */
/* Weights rewritten a piece at a time: what each output tensor is made of, then the pieces. */
#include "pipe/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/file.h"
#include "io/lora.h"
#include "io/names.h"
#include "io/view.h"
#include "pipe/gguf_text.h"
#include "tensor/dtype.h"
#include "tensor/quantise.h"
#include "text/tokenizer.h"

enum { PIECE = 1 << 22 }; /* elements: whole blocks of every type */

/* An output tensor: a tensor of the input, or the scale of the one before it, or bytes made here. */
typedef struct item {
    int64_t source; /* in the input's tensors; -1: none */
    int64_t first;  /* its first element there */
    bool is_scale, scaled;
    float scale; /* of an 8-bit tensor: what its numbers are multiplied by */
    const void *bytes;
} item;

typedef struct work {
    const t3v_convert_job *job;
    const t3v_names *names; /* of the output; NULL: the original ones */
    t3v_tokenizer *tokenizer;
    const void *spiece; /* a text encoder's tokenizer, for inside the output; NULL: none */
    size_t spiece_bytes;
    t3v_convert_result *result;
    t3v_tensor_file *in;
    t3v_lora **lora;
    t3v_tensor_entry *out; /* [n] */
    item *item;            /* [n] */
    char **name;           /* [n], owned */
    int64_t n;
    t3v_gguf_keys keys;
    float *values; /* a piece, in F32 */
    void *packed;  /* and as it is written */
    int64_t piece; /* elements that both hold */
    int64_t done, total;
} work;

/* ---- the list of tensors ------------------------------------------------------------------------------ */

static t3v_status add(work *w, const char *name, t3v_dtype type, int ndim, const int64_t *shape, item it)
{
    t3v_tensor_entry *e = &w->out[w->n];
    *e = (t3v_tensor_entry){.name = w->name[w->n] = strdup(name), .dtype = type, .ndim = ndim};
    if (!e->name) return t3v_fail(T3V_E_NOMEM, "%s: no memory for a name", w->job->out);
    if (ndim) memcpy(e->shape, shape, (size_t)ndim * sizeof *shape);
    if (!t3v_entry_sizes(e))
        return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has a shape that %s cannot have", w->in->path, e->name,
                        t3v_dtype_name(type));
    w->item[w->n++] = it;
    w->result->count[type]++;
    w->result->bytes += e->nbytes;
    return T3V_OK;
}

/* The scale of an 8-bit matrix NAME.weight, by the name that ComfyUI gives it. */
static t3v_status add_scale(work *w, const char *weight)
{
    char name[T3V_NAME_CAP + 8];
    snprintf(name, sizeof name, "%.*sscale_weight", (int)(strlen(weight) - strlen("weight")), weight);
    return add(w, name, T3V_F32, 0, NULL, (item){.source = -1, .is_scale = true});
}

static bool is_weight(const char *name)
{
    size_t n = strlen(name);
    return n > 7 && strcmp(name + n - 7, ".weight") == 0;
}

static bool is_tokenizer(const t3v_tensor_entry *e)
{
    return (e->dtype == T3V_U8 || e->dtype == T3V_I8) && strcmp(e->name, "spiece_model") == 0;
}

/* The name that the output's layout has for a tensor. */
static t3v_status name_of(const work *w, const t3v_tensor_entry *e, char out[T3V_NAME_CAP])
{
    bool prefix = w->job->layout == T3V_LAYOUT_COMFYUI && w->result->family.kind == T3V_WEIGHTS_DIT;
    if (!w->names) {
        int n = snprintf(out, T3V_NAME_CAP, "%s%s", prefix ? "model.diffusion_model." : "", e->name);
        if (n < T3V_NAME_CAP) return T3V_OK;
    } else if (t3v_name_from_original(w->names, e->name, out)) {
        return T3V_OK;
    }
    return t3v_fail(T3V_E_ARG, "%s: tensor '%s' has no name in the layout '%s'; leave --format away",
                    w->in->path, e->name, w->names ? w->names->layout : "original");
}

/* Transformers' vision tower has queries, keys and values apart, no axes of 1 before the others, and nothing else. */
static t3v_status list_clip(work *w, int64_t i)
{
    t3v_tensor_entry e = w->in->tensors[i];
    char part[T3V_NAME_CAP], name[T3V_NAME_CAP];
    bool short_rows, joined = t3v_name_split(e.name, 0, part);
    t3v_dtype to = t3v_file_type_of(w->job->type, T3V_WEIGHTS_CLIP, w->job->container, &e, &short_rows);
    int parts = joined ? 3 : 1;
    for (; e.ndim > 1 && e.shape[0] == 1; e.ndim--)
        memmove(e.shape, e.shape + 1, (size_t)(e.ndim - 1) * sizeof *e.shape);
    if (joined && (e.ndim < 1 || e.shape[0] % parts))
        return t3v_fail(T3V_E_SHAPE, "%s: tensor '%s' is not queries, keys and values", e.file, e.name);
    if (joined) e.shape[0] /= parts;
    for (int k = 0; k < parts; k++) {
        if (joined) (void)t3v_name_split(e.name, k, part);
        if (!t3v_name_from_original(w->names, joined ? part : e.name, name)) return T3V_OK;
        T3V_TRY(add(w, name, e.scale ? T3V_BF16 : to, e.ndim, e.shape,
                    (item){.source = i, .first = e.numel / parts * k, .scale = 1}));
    }
    return T3V_OK;
}

static t3v_status list_tensors(work *w)
{
    static const unsigned char marker[2];
    const t3v_convert_job *job = w->job;
    const t3v_tensor_file *f = w->in;
    bool text = w->result->family.kind == T3V_WEIGHTS_TEXT, any_scale = false;
    size_t most = 3 * (size_t)f->count + 2;
    char name[T3V_NAME_CAP];
    w->out = calloc(most, sizeof *w->out);
    w->item = calloc(most, sizeof *w->item);
    w->name = calloc(most, sizeof *w->name);
    if (!w->out || !w->item || !w->name) return t3v_fail(T3V_E_NOMEM, "%s: no memory", f->path);
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *e = &f->tensors[i];
        bool short_rows;
        if (text && is_tokenizer(e)) continue; /* w->spiece is written instead */
        if (w->names && w->result->family.kind == T3V_WEIGHTS_CLIP) {
            T3V_TRY(list_clip(w, i));
            continue;
        }
        T3V_TRY(name_of(w, e, name));
        t3v_dtype to = t3v_file_type_of(job->type, w->result->family.kind, job->container, e, &short_rows);
        w->result->short_rows += short_rows;
        bool scaled = is_weight(name) && ((job->type && to == T3V_F8_E4M3) || (e->scale && to == e->dtype));
        T3V_TRY(add(w, name, to, e->ndim, e->shape,
                    (item){.source = i, .scaled = scaled, .scale = e->scale ? *e->scale : 1}));
        any_scale |= scaled;
        if (scaled) T3V_TRY(add_scale(w, name));
    }
    if (any_scale) /* tells ComfyUI that there are scales; two elements: products are not made in 8 bits */
        T3V_TRY(add(w, "scaled_fp8", T3V_F8_E4M3, 1, (int64_t[]){2}, (item){.source = -1, .bytes = marker}));
    if (job->container == T3V_FILE_SAFETENSORS && w->spiece)
        T3V_TRY(add(w, "spiece_model", T3V_U8, 1, (int64_t[]){(int64_t)w->spiece_bytes},
                    (item){.source = -1, .bytes = w->spiece}));
    if (!w->n) return t3v_fail(T3V_E_FORMAT, "%s: there are no tensors to write", f->path);
    w->result->tensors = w->n;
    return T3V_OK;
}

/* ---- pieces ------------------------------------------------------------------------------------------- */

static const void *at(const t3v_tensor_entry *e, int64_t first)
{
    return (const char *)e->data +
           (size_t)(first / t3v_dtype_block(e->dtype)) * t3v_dtype_block_bytes(e->dtype);
}

/* Lets the pages of elements [first, first + n) go. */
static void drop(const t3v_tensor_entry *e, int64_t first, int64_t n)
{
    int64_t bytes;
    if (e->mapped && t3v_dtype_bytes(e->dtype, n, &bytes)) t3v_map_drop(at(e, first), (size_t)bytes);
}

/* Whether the LoRA files change tensor i. */
static bool changed(const work *w, int64_t i)
{
    for (int64_t k = 0; k < w->job->loras; k++)
        for (int64_t j = 0; w->lora[k] && j < w->lora[k]->count; j++)
            if (w->lora[k]->items[j].weight == i) return true;
    return false;
}

static int64_t row_length(const t3v_tensor_entry *e)
{
    return e->ndim && e->numel ? e->numel / e->shape[0] : 1;
}

/* Elements [first, first + n) of input tensor i as F32 in w->values, with what the LoRA files add: whole rows then. */
static t3v_status load(work *w, int64_t i, int64_t first, int64_t n)
{
    const t3v_tensor_entry *e = &w->in->tensors[i];
    int64_t cols = row_length(e);
    const t3v_convert_source *made = w->job->source;
    if (made) made->values(made->user, i, first, n, w->values);
    else T3V_TRY(t3v_convert(w->values, T3V_F32, at(e, first), e->dtype, n));
    for (int64_t k = 0; k < n && e->scale; k++) w->values[k] *= *e->scale;
    for (int64_t k = 0; k < w->job->loras; k++)
        for (int64_t j = 0; w->lora[k] && j < w->lora[k]->count; j++)
            if (w->lora[k]->items[j].weight == i)
                T3V_TRY(t3v_lora_add(&w->lora[k]->items[j], w->job->lora[k].strength, first / cols, n / cols,
                                     cols, w->values));
    return T3V_OK;
}

/* The piece in w->values as `to` in w->packed. */
static t3v_status pack(work *w, const t3v_tensor_entry *e, t3v_dtype to, float scale, int64_t n)
{
    float limit = to == T3V_F16 ? 65504.0f : to == T3V_F32 || to == T3V_BF16 ? INFINITY : 3.4e38f;
    for (int64_t i = 0; i < n && limit < INFINITY; i++)
        if (!(fabsf(w->values[i]) <= limit))
            return t3v_fail(T3V_E_FORMAT,
                            "%s: tensor '%s' has the value %g, which %s cannot hold; try --dtype bf16",
                            e->file, e->name, (double)w->values[i], t3v_dtype_name(to));
    if (to == T3V_F8_E4M3) {
        uint8_t *q = w->packed;
        for (int64_t i = 0; i < n; i++) q[i] = t3v_f32_to_f8_e4m3(w->values[i] / scale);
        return T3V_OK;
    }
    if (t3v_quantises(to)) return t3v_quantise(w->packed, to, w->values, n);
    return t3v_convert(w->packed, to, w->values, T3V_F32, n);
}

static t3v_status report(work *w, int64_t bytes)
{
    w->done += bytes;
    return t3v_report(w->job->progress, w->job->phase ? w->job->phase : "convert", w->done / (1 << 20),
                      w->total / (1 << 20));
}

/* What maps the largest value of a tensor to the largest of E4M3. */
static t3v_status find_scale(work *w, int64_t i, int64_t piece, float *scale)
{
    const t3v_tensor_entry *e = &w->in->tensors[i];
    float most = 0;
    for (int64_t first = 0; first < e->numel; first += piece) {
        int64_t n = e->numel - first < piece ? e->numel - first : piece;
        T3V_TRY(load(w, i, first, n));
        for (int64_t k = 0; k < n; k++)
            if (fabsf(w->values[k]) > most) most = fabsf(w->values[k]);
        drop(e, first, n);
        T3V_TRY(report(w, 0));
    }
    *scale = most > 0 && isfinite(most) ? most / 448 : 1;
    return T3V_OK;
}

static t3v_status copy_bytes(work *w, t3v_writer *out, int64_t k, const t3v_tensor_entry *e)
{
    enum { STEP = 16 << 20 };
    const char *data = at(e, w->item[k].first);
    int64_t all = w->out[k].nbytes;
    for (int64_t first = 0; first < all; first += STEP) {
        int64_t n = all - first < STEP ? all - first : STEP;
        T3V_TRY(t3v_writer_append(out, k, data + first, (size_t)n));
        if (e->mapped) t3v_map_drop(data + first, (size_t)n);
        T3V_TRY(report(w, n));
    }
    return T3V_OK;
}

static t3v_status write_tensor(work *w, t3v_writer *out, int64_t k)
{
    item *it = &w->item[k];
    const t3v_tensor_entry *e = &w->in->tensors[it->source];
    t3v_dtype to = w->out[k].dtype;
    bool lora = changed(w, it->source);
    if (to == e->dtype && !lora && !w->job->source) return copy_bytes(w, out, k, e);
    int64_t cols = row_length(e), piece = lora ? (PIECE > cols ? PIECE / cols * cols : cols) : PIECE;
    if (piece > w->piece)
        return t3v_fail(T3V_E_TOO_BIG, "%s: a row of tensor '%s' has %lld elements, more than %lld", e->file,
                        e->name, (long long)cols, (long long)w->piece);
    if (it->scaled) T3V_TRY(find_scale(w, it->source, piece, &it->scale));
    int64_t end = it->first + w->out[k].numel;
    for (int64_t first = it->first; first < end; first += piece) {
        int64_t n = end - first < piece ? end - first : piece, bytes = 0, read = 0;
        T3V_TRY(load(w, it->source, first, n));
        T3V_TRY(pack(w, e, to, it->scale, n));
        if (!t3v_dtype_bytes(to, n, &bytes) || !t3v_dtype_bytes(e->dtype, n, &read))
            return t3v_fail(T3V_E_FORMAT, "%s: tensor '%s' is not whole blocks", e->file, e->name);
        T3V_TRY(t3v_writer_append(out, k, w->packed, (size_t)bytes));
        drop(e, first, n);
        T3V_TRY(report(w, read));
    }
    return T3V_OK;
}

static t3v_status write_all(work *w, t3v_writer *out)
{
    for (int64_t k = 0; k < w->n; k++) {
        const item *it = &w->item[k];
        if (it->source >= 0) T3V_TRY(write_tensor(w, out, k));
        else if (it->is_scale) T3V_TRY(t3v_writer_append(out, k, &w->item[k - 1].scale, sizeof(float)));
        else T3V_TRY(t3v_writer_append(out, k, it->bytes, (size_t)w->out[k].nbytes));
    }
    return T3V_OK;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

/* Key-value pairs that say how a GGUF file is stored are made anew. */
static bool kept_meta(const char *key)
{
    static const char *const made[] = {"general.architecture",
                                       "general.quantization_version",
                                       "general.file_type",
                                       "general.alignment",
                                       "tokenizer.",
                                       "t5encoder.",
                                       "t5.",
                                       "comfy.",
                                       "split."};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        if (strncmp(key, made[i], strlen(made[i])) == 0) return false;
    return true;
}

/* The pairs that go on, in `meta` [in->meta_count]; as keys of GGUF too. */
static int64_t keep_meta(work *w, t3v_meta *meta)
{
    int64_t n = 0;
    for (int64_t i = 0; i < w->in->meta_count; i++)
        if (kept_meta(w->in->meta[i].key)) meta[n++] = w->in->meta[i];
    const t3v_file_type *t = w->job->type ? w->job->type : t3v_file_type_told(w->out, w->n);
    t3v_gguf_text(&w->keys, "general.architecture",
                  w->result->family.kind == T3V_WEIGHTS_TEXT ? "t5encoder" : "wan");
    t3v_gguf_u32(&w->keys, "general.quantization_version", 2);
    t3v_gguf_u32(&w->keys, "general.file_type", t ? t->number : 0);
    for (int64_t i = 0; i < n; i++) t3v_gguf_text(&w->keys, meta[i].key, meta[i].value);
    return n;
}

/* The output must be neither there (without `force`) nor a file that is read. */
static t3v_status check_target(const work *w, const char *path)
{
    const t3v_convert_job *job = w->job;
    for (int64_t i = 0; i < w->in->count && !job->source; i++)
        if ((i == 0 || w->in->tensors[i].file != w->in->tensors[i - 1].file) &&
            t3v_same_file(path, w->in->tensors[i].file))
            return t3v_fail(T3V_E_ARG, "%s is the input; give another name with -o", path);
    for (int64_t k = 0; k < job->loras; k++)
        if (t3v_same_file(path, job->lora[k].path))
            return t3v_fail(T3V_E_ARG, "%s is a LoRA that is to be merged; give another name with -o", path);
    if (!job->force && t3v_is_file(path))
        return t3v_fail(T3V_E_IO, "%s is there already; --force replaces it", path);
    return T3V_OK;
}

static t3v_status check_job(const work *w)
{
    const t3v_convert_job *job = w->job;
    t3v_weights_kind kind = w->result->family.kind;
    bool blocks = job->type && t3v_dtype_block(job->type->base) > 1,
         f8 = job->type && job->type->base == T3V_F8_E4M3;
    const char *what = t3v_weights_kind_name(kind);
    if (blocks && job->container != T3V_FILE_GGUF)
        return t3v_fail(T3V_E_ARG, "--dtype %s is a type of GGUF; name the output *.gguf", job->type->name);
    if (f8 && job->container != T3V_FILE_SAFETENSORS)
        return t3v_fail(T3V_E_ARG, "--dtype f8_e4m3 is for safetensors; in GGUF take q8_0");
    if ((f8 || blocks) && kind != T3V_WEIGHTS_DIT && kind != T3V_WEIGHTS_TEXT)
        return t3v_fail(T3V_E_ARG,
                        "%s: --dtype %s is for transformers and text encoders, these weights are '%s'",
                        job->in, job->type->name, what);
    if (job->container == T3V_FILE_GGUF && kind != T3V_WEIGHTS_DIT && kind != T3V_WEIGHTS_TEXT)
        return t3v_fail(T3V_E_ARG,
                        "%s: GGUF is written of transformers and text encoders, these weights are '%s'",
                        job->in, what);
    if (job->loras && kind != T3V_WEIGHTS_DIT)
        return t3v_fail(T3V_E_ARG, "%s: --lora changes transformers, these weights are '%s'", job->in, what);
    return T3V_OK;
}

/* The first of the usual names beside the input that is there, malloc'ed; NULL: none. */
static t3v_status beside(const char *in, char **path)
{
    static const char *const near[] = {"google/umt5-xxl/spiece.model",
                                       "google/umt5-xxl/tokenizer.json",
                                       "tokenizer/spiece.model",
                                       "tokenizer/tokenizer.json",
                                       "../tokenizer/spiece.model",
                                       "../tokenizer/tokenizer.json",
                                       "spiece.model",
                                       "tokenizer.json"};
    const char *slash = strrchr(in, '/');
    char *dir = t3v_is_dir(in) ? strdup(in) : slash ? strndup(in, (size_t)(slash - in) + 1) : strdup(".");
    bool ok = dir != NULL;
    *path = NULL;
    for (size_t i = 0; i < sizeof near / sizeof *near && ok && !*path; i++) {
        ok = (*path = t3v_path_join(dir, near[i])) != NULL;
        if (!ok || t3v_is_file(*path)) continue;
        free(*path);
        *path = NULL;
    }
    free(dir);
    return ok ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for a path");
}

/* The tokenizer that goes into a text encoder's file: named, inside the input, or beside it. */
static t3v_status find_tokenizer(work *w)
{
    const t3v_convert_job *job = w->job;
    if (w->result->family.kind != T3V_WEIGHTS_TEXT) return T3V_OK;
    bool inside = false;
    if (!job->source) T3V_TRY(t3v_tokenizer_inside(job->in, &inside));
    bool needed = job->container == T3V_FILE_GGUF || job->layout == T3V_LAYOUT_COMFYUI;
    if (!needed && (!inside || job->tokenizer_beside)) return T3V_OK;
    if (job->container == T3V_FILE_PTH) {
        if (inside)
            t3v_warn(
                "%s gets no tokenizer inside, as %s has; name that with --tokenizer when the output is used",
                job->out, job->in);
        return T3V_OK;
    }
    char *near = NULL;
    if (!job->tokenizer && !inside) T3V_TRY(beside(job->in, &near));
    const char *from = job->tokenizer ? job->tokenizer : inside ? job->in : near;
    t3v_status st = T3V_OK;
    if (from) st = t3v_tokenizer_open(from, &w->tokenizer);
    else
        t3v_warn(
            "%s: no tokenizer (spiece.model, tokenizer.json) inside or beside it, so the output has none: "
            "name one with --tokenizer, here or when the output is used",
            job->in);
    free(near);
    if (!st && w->tokenizer) w->spiece = t3v_tokenizer_bytes(w->tokenizer, &w->spiece_bytes);
    return st;
}

static t3v_status open_loras(work *w)
{
    const t3v_convert_job *job = w->job;
    w->lora = calloc((size_t)job->loras + 1, sizeof *w->lora);
    if (!w->lora) return t3v_fail(T3V_E_NOMEM, "%s: no memory", job->in);
    for (int64_t k = 0; k < job->loras; k++) {
        const t3v_lora_use *use = &job->lora[k];
        if (use->expert && !job->expert)
            return t3v_fail(T3V_E_ARG, "%s is for one of two experts, %s is one transformer; name it alone",
                            use->path, job->in);
        if (use->expert && use->expert != job->expert) continue;
        T3V_TRY(t3v_lora_open(&w->lora[k], use->path, w->in->tensors, w->in->count, job->expert));
    }
    return T3V_OK;
}

/* Room for a piece: a row at least, where a LoRA is added. */
static t3v_status make_room(work *w)
{
    w->piece = PIECE;
    for (int64_t i = 0; i < w->in->count; i++) {
        int64_t cols = row_length(&w->in->tensors[i]);
        if (cols > w->piece && changed(w, i)) w->piece = cols;
        w->total += w->in->tensors[i].nbytes;
    }
    w->values = malloc((size_t)w->piece * sizeof *w->values);
    w->packed = malloc((size_t)w->piece * sizeof(double));
    return w->values && w->packed ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for a piece", w->job->in);
}

static t3v_status write_file(work *w)
{
    const t3v_convert_job *job = w->job;
    t3v_writer *out = NULL;
    t3v_meta *meta = calloc((size_t)w->in->meta_count + 1, sizeof *meta);
    t3v_status st = meta ? t3v_check_space(job->out, w->result->bytes)
                         : t3v_fail(T3V_E_NOMEM, "%s: no memory", job->in);
    int64_t meta_count = st ? 0 : keep_meta(w, meta);
    if (!st && job->container == T3V_FILE_GGUF && w->result->family.kind == T3V_WEIGHTS_TEXT)
        st = t3v_gguf_text_keys(&w->keys, w->in, &w->result->family, w->spiece, w->spiece_bytes);
    if (!st) {
        t3v_writer_options o = {.container = job->container,
                                .meta = meta,
                                .meta_count = meta_count,
                                .keys = &w->keys,
                                .shard_bytes = job->shard_bytes};
        st = t3v_writer_begin(&out, job->out, &o, w->out, w->n);
    }
    w->result->files = st ? 0 : t3v_writer_files(out);
    for (int i = 0; i < w->result->files && !st; i++) st = check_target(w, t3v_writer_path(out, i));
    if (!st) st = write_all(w, out);
    if (!st) st = t3v_writer_finish(out);
    else t3v_writer_abandon(out);
    free(meta);
    return st;
}

static t3v_status open_input(work *w)
{
    const t3v_convert_source *made = w->job->source;
    if (!made) {
        T3V_TRY(t3v_tensors_open(&w->in, w->job->in));
        T3V_TRY(t3v_names_apply(w->in, T3V_NAMES_ANY));
        return t3v_names_join(w->in);
    }
    T3V_TRY(t3v_view_new(&w->in, w->job->in));
    for (int64_t i = 0; i < made->count; i++) {
        t3v_tensor_entry e = made->tensors[i];
        e.dtype = T3V_F32;
        e.file = w->in->path;
        if (!t3v_entry_sizes(&e))
            return t3v_fail(T3V_E_ARG, "%s: '%s' has an impossible shape", w->in->path, e.name);
        T3V_TRY(t3v_view_add(w->in, &e));
    }
    return t3v_view_seal(w->in);
}

t3v_status t3v_convert_file(const t3v_convert_job *job, t3v_convert_result *result)
{
    work w = {.job = job, .result = result};
    t3v_status st;
    *result = (t3v_convert_result){0};
    T3V_TRY_GOTO(st, done, open_input(&w));
    t3v_family_detect(w.in, &result->family);
    w.names = t3v_layout_tensors(job->layout, job->container, &result->family);
    T3V_TRY_GOTO(st, done, check_job(&w));
    T3V_TRY_GOTO(st, done, find_tokenizer(&w));
    T3V_TRY_GOTO(st, done, open_loras(&w));
    T3V_TRY_GOTO(st, done, list_tensors(&w));
    T3V_TRY_GOTO(st, done, make_room(&w));
    T3V_TRY_GOTO(st, done, write_file(&w));
    if (result->short_rows)
        t3v_info("%lld matrices stay F16: their rows are not whole blocks of %s",
                 (long long)result->short_rows, job->type->name);
done:
    for (int64_t k = 0; w.lora && k < job->loras; k++) t3v_lora_close(w.lora[k]);
    for (int64_t i = 0; w.name && i < w.n; i++) free(w.name[i]);
    t3v_tokenizer_close(w.tokenizer);
    free(w.lora);
    free(w.out);
    free(w.item);
    free(w.name);
    free(w.values);
    free(w.packed);
    t3v_gguf_keys_free(&w.keys);
    t3v_tensors_close(w.in);
    return st;
}
