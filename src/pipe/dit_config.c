/* SPDX-License-Identifier: Apache-2.0 */
/* A DiT's shape: config.json of the original releases and of Diffusers, or what the weights tell. */
#include "pipe/dit_config.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "io/file.h"
#include "io/json.h"
#include "pipe/family.h"

static const t3v_dit_config usual = {
    .freq_dim = 256, .text_len = 512, .in_dim = 16, .out_dim = 16, .eps = 1e-6};

typedef struct field {
    const char *key;
    int64_t *value, max;
    bool required;
} field;

static t3v_status read_fields(const json_t *j, const char *path, const field *f, int n)
{
    for (int i = 0; i < n; i++)
        T3V_TRY(t3v_json_int(j, path, f[i].key, f[i].required, 1, f[i].max, f[i].value));
    return T3V_OK;
}

/* What the published models have and this code assumes; absent keys are fine. */
static t3v_status check_patch(const json_t *j, const char *path)
{
    int64_t patch[3] = {1, 2, 2};
    int n = 3;
    T3V_TRY(t3v_json_ints(j, path, "patch_size", false, 1, 16, patch, 3, &n));
    if (n == 3 && patch[0] == 1 && patch[1] == 2 && patch[2] == 2) return T3V_OK;
    return t3v_fail(T3V_E_UNSUPPORTED, "%s: patch_size is not [1, 2, 2]", path);
}

static t3v_status check_norms(const json_t *j, const char *path)
{
    const json_t *qk = json_object_get(j, "qk_norm"), *cross = json_object_get(j, "cross_attn_norm");
    const char *kind = json_string_value(qk);
    if (kind ? strcmp(kind, "rms_norm_across_heads") != 0 : qk && !json_is_true(qk))
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "%s: qk_norm is neither true nor \"rms_norm_across_heads\": not a Wan model", path);
    if (cross && !json_is_true(cross))
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: cross_attn_norm is not true: not a Wan model", path);
    return T3V_OK;
}

static t3v_status read_original(const json_t *j, const char *path, t3v_dit_config *c)
{
    const char *type = "t2v";
    const field f[] = {{"dim", &c->dim, 1 << 16, true},
                       {"ffn_dim", &c->ffn_dim, 1 << 18, true},
                       {"num_heads", &c->heads, 1024, true},
                       {"num_layers", &c->layers, 1024, true},
                       {"freq_dim", &c->freq_dim, 1 << 14, false},
                       {"in_dim", &c->in_dim, 1024, false},
                       {"out_dim", &c->out_dim, 1024, false},
                       {"text_len", &c->text_len, 1 << 14, false},
                       {"text_dim", &c->text_dim, 1 << 16, false}};
    T3V_TRY(read_fields(j, path, f, sizeof f / sizeof *f));
    T3V_TRY(t3v_json_string(j, path, "model_type", false, &type));
    if (strcmp(type, "t2v") == 0 || strcmp(type, "i2v") == 0 || strcmp(type, "ti2v") == 0) return T3V_OK;
    return t3v_fail(T3V_E_UNSUPPORTED, "%s: model_type is \"%s\"; this build runs t2v, i2v and ti2v", path,
                    type);
}

static t3v_status read_diffusers(const json_t *j, const char *path, t3v_dit_config *c)
{
    const char *class = "WanTransformer3DModel";
    int64_t head = 128, two_images = 0;
    const field f[] = {
        {"num_attention_heads", &c->heads, 1024, true}, {"attention_head_dim", &head, 1024, false},
        {"ffn_dim", &c->ffn_dim, 1 << 18, true},        {"num_layers", &c->layers, 1024, true},
        {"freq_dim", &c->freq_dim, 1 << 14, false},     {"in_channels", &c->in_dim, 1024, false},
        {"out_channels", &c->out_dim, 1024, false},     {"text_dim", &c->text_dim, 1 << 16, false},
        {"image_dim", &c->clip_dim, 1 << 16, false},    {"pos_embed_seq_len", &two_images, 1 << 16, false}};
    T3V_TRY(read_fields(j, path, f, sizeof f / sizeof *f));
    T3V_TRY(t3v_json_string(j, path, "_class_name", false, &class));
    if (strcmp(class, "WanTransformer3DModel") != 0)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: _class_name is \"%s\"; this build runs WanTransformer3DModel",
                        path, class);
    if (two_images)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: pos_embed_seq_len %lld: %s", path, (long long)two_images,
                        "first-and-last-frame models are not run");
    c->dim = c->heads * head;
    return T3V_OK;
}

t3v_status t3v_dit_config_read(const char *path, t3v_dit_config *c)
{
    json_t *j = NULL;
    T3V_TRY(t3v_json_load(&j, path));
    *c = usual;
    t3v_status st = json_object_get(j, "num_attention_heads") ? read_diffusers(j, path, c)
                                                              : read_original(j, path, c);
    if (!st) st = t3v_json_real(j, path, "eps", false, 0, 1, &c->eps);
    if (!st) st = check_patch(j, path);
    if (!st) st = check_norms(j, path);
    json_decref(j);
    return st;
}

/* Size of axis `axis` of a tensor that tells a hyper-parameter. */
static t3v_status axis_of(const t3v_tensor_file *f, const char *name, int ndim, int axis, int64_t *out)
{
    const t3v_tensor_entry *e;
    T3V_TRY(t3v_tensors_get(f, name, &e));
    if (e->ndim != ndim)
        return t3v_fail(T3V_E_SHAPE, "%s: %s has %d axes, expected %d", f->path, name, e->ndim, ndim);
    *out = e->shape[axis];
    return T3V_OK;
}

t3v_status t3v_dit_config_complete(t3v_dit_config *c, const t3v_tensor_file *f)
{
    c->clip_dim = 0;
    T3V_TRY(axis_of(f, "text_embedding.0.weight", 2, 1, &c->text_dim));
    if (!t3v_tensors_find(f, "img_emb.proj.0.weight")) return T3V_OK;
    return axis_of(f, "img_emb.proj.0.weight", 1, 0, &c->clip_dim);
}

t3v_status t3v_dit_config_tell(t3v_dit_config *c, const t3v_tensor_file *f)
{
    enum { HEAD = 128 };
    t3v_family y;
    t3v_family_detect(f, &y);
    if (y.kind != T3V_WEIGHTS_DIT)
        return t3v_fail(T3V_E_FORMAT, "%s: these are not the weights of a Wan transformer%s%s", f->path,
                        y.name ? ", but of " : "", y.name ? y.name : "");
    if (y.reason) return t3v_fail(T3V_E_UNSUPPORTED, "%s: %s", f->path, y.reason);
    *c = usual;
    c->dim = y.dim;
    c->ffn_dim = y.ffn_dim;
    c->layers = y.layers;
    c->in_dim = y.in_dim;
    c->out_dim = y.out_dim;
    c->heads = y.dim / HEAD;
    if (y.dim <= 0 || y.dim % HEAD)
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "%s: width %lld is not heads of %d, so their number cannot be told; put config.json "
                        "beside the weights",
                        f->path, (long long)y.dim, HEAD);
    if (y.dim != 1536 && y.dim != 3072 && y.dim != 5120)
        t3v_warn("%s: there is no config.json and no published model has width %lld: heads of %d are a guess",
                 f->path, (long long)y.dim, HEAD);
    T3V_TRY(axis_of(f, "time_embedding.0.weight", 2, 1, &c->freq_dim));
    return t3v_dit_config_complete(c, f);
}

t3v_status t3v_dit_config_write(const char *path, const t3v_dit_config *c)
{
    static const char *const type[] = {"t2v", "i2v", "ti2v"};
    char text[1024];
    int n =
        snprintf(text, sizeof text,
                 "{\n  \"_class_name\": \"WanModel\",\n  \"model_type\": \"%s\",\n  \"dim\": %lld,\n  "
                 "\"ffn_dim\": %lld,\n"
                 "  \"freq_dim\": %lld,\n  \"in_dim\": %lld,\n  \"out_dim\": %lld,\n  \"num_heads\": %lld,\n"
                 "  \"num_layers\": %lld,\n  \"text_len\": %lld,\n  \"eps\": %g\n}\n",
                 type[t3v_dit_image_used(c)], (long long)c->dim, (long long)c->ffn_dim,
                 (long long)c->freq_dim, (long long)c->in_dim, (long long)c->out_dim, (long long)c->heads,
                 (long long)c->layers, (long long)c->text_len, c->eps);
    return t3v_write_text(path, text, (size_t)n);
}
