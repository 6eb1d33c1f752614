/* SPDX-License-Identifier: Apache-2.0 */
/* The VAEs' parameter lists and their chunk-wise forward pass. */
#include "vae/vae.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/kernels.h"

/* Data of wan/modules/vae.py of Wan2.1 and vae2_2.py of Wan2.2 (Apache-2.0): see NOTICE. */
static const float mean21[16] = {-0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,
                                 -0.1517f, 1.5508f,  0.4134f,  -0.0715f, 0.5517f,  -0.3632f,
                                 -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
static const float std21[16] = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
                                3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f};
static const float mean22[48] = {-0.2289f, -0.0052f, -0.1323f, -0.2339f, -0.2799f, 0.0174f,  0.1838f,
                                 0.1557f,  -0.1382f, 0.0542f,  0.2813f,  0.0891f,  0.1570f,  -0.0098f,
                                 0.0375f,  -0.1825f, -0.2246f, -0.1207f, -0.0698f, 0.5109f,  0.2665f,
                                 -0.2108f, -0.2158f, 0.2502f,  -0.2055f, -0.0322f, 0.1109f,  0.1567f,
                                 -0.0729f, 0.0899f,  -0.2799f, -0.1230f, -0.0313f, -0.1649f, 0.0117f,
                                 0.0723f,  -0.2839f, -0.2083f, -0.0520f, 0.3748f,  0.0152f,  0.1957f,
                                 0.1433f,  -0.2944f, 0.3573f,  -0.0548f, -0.1681f, -0.0667f};
static const float std22[48] = {0.4765f, 1.0364f, 0.4514f, 1.1677f, 0.5313f, 0.4990f, 0.4818f, 0.5013f,
                                0.8158f, 1.0344f, 0.5894f, 1.0901f, 0.6885f, 0.6165f, 0.8454f, 0.4978f,
                                0.5759f, 0.3523f, 0.7135f, 0.6804f, 0.5833f, 1.4146f, 0.8986f, 0.5659f,
                                0.7069f, 0.5338f, 0.4889f, 0.4917f, 0.4069f, 0.4999f, 0.6866f, 0.4093f,
                                0.5709f, 0.6065f, 0.6415f, 0.4944f, 0.5726f, 1.2042f, 0.5458f, 1.6887f,
                                0.3971f, 1.0600f, 0.3943f, 0.5537f, 0.5444f, 0.4089f, 0.7468f, 0.7744f};

/* ---- parameters ----------------------------------------------------------------------------------- */

static t3v_status add_conv(t3v_params *p, t3v_conv_weight *c, int64_t out, int64_t in, int64_t kt, int64_t k,
                           const char *name)
{
    T3V_TRY(kt ? t3v_params_add(p, &c->w, true, T3V_SHAPE(out, in, kt, k, k), "%s.weight", name)
               : t3v_params_add(p, &c->w, true, T3V_SHAPE(out, in, k, k), "%s.weight", name));
    return t3v_params_add(p, &c->bias, false, T3V_SHAPE(out), "%s.bias", name);
}

static t3v_status add_pointwise(t3v_params *p, t3v_weight *w, int64_t out, int64_t in, bool flat,
                                const char *name)
{
    T3V_TRY(flat ? t3v_params_add(p, &w->w, true, T3V_SHAPE(out, in, 1, 1), "%s.weight", name)
                 : t3v_params_add(p, &w->w, true, T3V_SHAPE(out, in, 1, 1, 1), "%s.weight", name));
    return t3v_params_add(p, &w->bias, false, T3V_SHAPE(out), "%s.bias", name);
}

static t3v_status add_res(t3v_params *p, t3v_vae_res *r, int64_t in, int64_t out, const char *prefix)
{
    char name[T3V_NAME_MAX + 16];
    T3V_TRY(t3v_params_add(p, &r->gamma1, false, T3V_SHAPE(in, 1, 1, 1), "%s.residual.0.gamma", prefix));
    snprintf(name, sizeof name, "%s.residual.2", prefix);
    T3V_TRY(add_conv(p, &r->conv1, out, in, 3, 3, name));
    T3V_TRY(t3v_params_add(p, &r->gamma2, false, T3V_SHAPE(out, 1, 1, 1), "%s.residual.3.gamma", prefix));
    snprintf(name, sizeof name, "%s.residual.6", prefix);
    T3V_TRY(add_conv(p, &r->conv2, out, out, 3, 3, name));
    if (in == out) return T3V_OK;
    snprintf(name, sizeof name, "%s.shortcut", prefix);
    return add_pointwise(p, &r->shortcut, out, in, false, name);
}

static t3v_status add_middle(t3v_params *p, t3v_vae_half *h, int64_t c, const char *half)
{
    char name[T3V_NAME_MAX];
    snprintf(name, sizeof name, "%s.middle.0", half);
    T3V_TRY(add_res(p, &h->middle0, c, c, name));
    T3V_TRY(t3v_params_add(p, &h->middle1.gamma, false, T3V_SHAPE(c, 1, 1), "%s.middle.1.norm.gamma", half));
    snprintf(name, sizeof name, "%s.middle.1.to_qkv", half);
    T3V_TRY(add_pointwise(p, &h->middle1.qkv, 3 * c, c, true, name));
    snprintf(name, sizeof name, "%s.middle.1.proj", half);
    T3V_TRY(add_pointwise(p, &h->middle1.proj, c, c, true, name));
    snprintf(name, sizeof name, "%s.middle.2", half);
    return add_res(p, &h->middle2, c, c, name);
}

static t3v_status add_resample(t3v_params *p, t3v_vae_layer *l, t3v_vae_kind kind, int64_t in, int64_t out,
                               const char *prefix)
{
    char name[T3V_NAME_MAX];
    l->kind = kind;
    snprintf(name, sizeof name, "%s.resample.1", prefix);
    T3V_TRY(add_conv(p, &l->resample, out, in, 0, 3, name));
    if (kind != T3V_VAE_DOWN3 && kind != T3V_VAE_UP3) return T3V_OK;
    int64_t time_out = kind == T3V_VAE_UP3 ? 2 * in : in;
    T3V_TRY(
        t3v_params_add(p, &l->time.w, true, T3V_SHAPE(time_out, in, 3, 1, 1), "%s.time_conv.weight", prefix));
    return t3v_params_add(p, &l->time.bias, false, T3V_SHAPE(time_out), "%s.time_conv.bias", prefix);
}

static t3v_status add_head(t3v_params *p, t3v_vae_half *h, int64_t in, int64_t out, const char *half)
{
    char name[T3V_NAME_MAX];
    T3V_TRY(t3v_params_add(p, &h->gamma_out, false, T3V_SHAPE(in, 1, 1, 1), "%s.head.0.gamma", half));
    snprintf(name, sizeof name, "%s.head.2", half);
    return add_conv(p, &h->conv_out, out, in, 3, 3, name);
}

static const int64_t mult[4] = {1, 2, 4, 4};

enum { LAYER_NAME = 64 };

/* The next layer's, in a list such as encoder.downsamples: Wan2.2 numbers the layers of each stage. */
static void layer_name(char name[LAYER_NAME], const t3v_vae *v, const t3v_vae_half *h, const char *list,
                       int stage)
{
    if (v->patch == 1) snprintf(name, LAYER_NAME, "%s.%d", list, h->layers);
    else
        snprintf(name, LAYER_NAME, "%s.%d.%s.%d", list, stage, strchr(list, '.') + 1,
                 h->layers - h->stage[stage].first);
}

/* The next `blocks` residual blocks of a stage, from c channels to `width`. */
static t3v_status add_blocks(t3v_vae *v, t3v_vae_half *h, const char *list, int stage, int blocks, int64_t c,
                             int64_t width)
{
    char name[LAYER_NAME];
    h->stage[stage] = (t3v_vae_stage){.first = h->layers, .geom = {1, 1, false}};
    for (int j = 0; j < blocks; j++, c = width) {
        layer_name(name, v, h, list, stage);
        T3V_TRY(add_res(&v->params, &h->layer[h->layers++].res, c, width, name));
    }
    h->stage[stage].end = h->layers;
    return T3V_OK;
}

/* A stage's last layer. */
static t3v_status end_stage(t3v_vae *v, t3v_vae_half *h, const char *list, int stage, t3v_vae_kind kind,
                            int64_t in, int64_t out)
{
    char name[LAYER_NAME];
    t3v_vae_stage *s = &h->stage[stage];
    layer_name(name, v, h, list, stage);
    T3V_TRY(add_resample(&v->params, &h->layer[h->layers++], kind, in, out, name));
    s->end = h->layers;
    s->geom = (t3v_block_geom){kind == T3V_VAE_DOWN3 || kind == T3V_VAE_UP3 ? 2 : 1, 2, false};
    return T3V_OK;
}

static t3v_status list_params(t3v_vae *v)
{
    t3v_params *p = &v->params;
    t3v_vae_half *e = &v->encoder, *d = &v->decoder;
    int64_t dim = v->config.dim, z = v->config.z, pixels = 3 * v->patch * v->patch, c = dim;
    bool shortcuts = v->patch > 1;
    T3V_TRY(add_conv(p, &e->conv_in, dim, pixels, 3, 3, "encoder.conv1"));
    for (int i = 0; i < 4; i++) {
        T3V_TRY(add_blocks(v, e, "encoder.downsamples", i, 2, c, dim * mult[i]));
        c = dim * mult[i];
        if (i < 3)
            T3V_TRY(end_stage(v, e, "encoder.downsamples", i, i == 0 ? T3V_VAE_DOWN2 : T3V_VAE_DOWN3, c, c));
        e->stage[i].shortcut = shortcuts;
    }
    T3V_TRY(add_middle(p, e, c, "encoder"));
    T3V_TRY(add_head(p, e, c, 2 * z, "encoder"));
    T3V_TRY(add_pointwise(p, &v->quant, 2 * z, 2 * z, false, "conv1"));
    T3V_TRY(add_pointwise(p, &v->post_quant, z, z, false, "conv2"));
    dim = v->config.decoder_dim;
    c = 4 * dim;
    T3V_TRY(add_conv(p, &d->conv_in, c, z, 3, 3, "decoder.conv1"));
    T3V_TRY(add_middle(p, d, c, "decoder"));
    for (int i = 0; i < 4; i++) {
        int64_t width = dim * mult[3 - i];
        T3V_TRY(add_blocks(v, d, "decoder.upsamples", i, 3, c, width));
        c = width;
        if (i == 3) break;
        if (!shortcuts)
            c /= 2; /* Wan2.1's upsampling halves the channels, so its stages may begin narrower */
        T3V_TRY(end_stage(v, d, "decoder.upsamples", i, i == 2 ? T3V_VAE_UP2 : T3V_VAE_UP3, width, c));
        d->stage[i].shortcut = shortcuts;
    }
    return add_head(p, d, c, pixels, "decoder");
}

t3v_status t3v_vae_config_read(const t3v_tensor_file *f, t3v_vae_config *c)
{
    static const struct {
        const char *name;
        int ndim, axis;
    } at[3] = {{"encoder.conv1.weight", 5, 0}, {"decoder.head.0.gamma", 4, 0}, {"conv2.weight", 5, 0}};
    int64_t *value[3] = {&c->dim, &c->decoder_dim, &c->z};
    for (int i = 0; i < 3; i++) {
        const t3v_tensor_entry *e;
        T3V_TRY(t3v_tensors_get(f, at[i].name, &e));
        if (e->ndim != at[i].ndim)
            return t3v_fail(T3V_E_SHAPE, "%s: %s has %d axes, expected %d", f->path, at[i].name, e->ndim,
                            at[i].ndim);
        *value[i] = e->shape[at[i].axis];
    }
    return T3V_OK;
}

int64_t t3v_vae_stride(int64_t z) { return z == 16 ? 8 : z == 48 ? 16 : 0; }

const char *t3v_vae_file_name(int64_t z) { return z == 48 ? "Wan2.2_VAE.pth" : "Wan2.1_VAE.pth"; }

t3v_status t3v_vae_open(t3v_vae *v, const t3v_vae_config *c)
{
    *v = (t3v_vae){.config = *c, .stride = t3v_vae_stride(c->z), .patch = c->z == 48 ? 2 : 1};
    const int64_t dim[2] = {c->dim, c->decoder_dim};
    if (!v->stride)
        return t3v_fail(T3V_E_UNSUPPORTED, "VAE: %lld latent channels, expected 16 (Wan2.1) or 48 (Wan2.2)",
                        (long long)c->z);
    for (int i = 0; i < 2; i++)
        if (dim[i] < 2 || dim[i] > 4096 || dim[i] % 2)
            return t3v_fail(T3V_E_ARG, "VAE: base width %lld, expected an even number from 2 to 4096",
                            (long long)dim[i]);
    v->mean = v->patch > 1 ? mean22 : mean21;
    v->std = v->patch > 1 ? std22 : std21;
    t3v_status st = list_params(v);
    if (st) t3v_vae_close(v);
    return st;
}

void t3v_vae_close(t3v_vae *v)
{
    t3v_params_free(&v->params);
    *v = (t3v_vae){0};
}

static t3v_status prepare_res(t3v_ctx *ctx, t3v_vae_res *r, int64_t h, int64_t w)
{
    T3V_TRY(t3v_conv_prepare(ctx, &r->conv1, 1, h, w));
    return t3v_conv_prepare(ctx, &r->conv2, 1, h, w);
}

t3v_status t3v_vae_prepare(t3v_ctx *ctx, t3v_vae *v, bool decoder, int64_t height, int64_t width)
{
    t3v_vae_half *h = decoder ? &v->decoder : &v->encoder;
    int64_t scale = decoder ? v->stride : v->patch, y = height / scale, x = width / scale;
    T3V_TRY(t3v_conv_prepare(ctx, &h->conv_in, 1, y, x));
    for (int i = 0; i < h->layers; i++) {
        t3v_vae_layer *l = &h->layer[i];
        if (l->kind == T3V_VAE_RES) {
            T3V_TRY(prepare_res(ctx, &l->res, y, x));
            continue;
        }
        bool up = l->kind == T3V_VAE_UP2 || l->kind == T3V_VAE_UP3;
        if (l->time.w.ndim && up) T3V_TRY(t3v_conv_prepare(ctx, &l->time, 1, y, x));
        y = up ? 2 * y : y / 2;
        x = up ? 2 * x : x / 2;
        if (up) T3V_TRY(t3v_conv_prepare(ctx, &l->resample, 1, y, x));
    }
    T3V_TRY(t3v_conv_prepare(ctx, &h->conv_out, 1, y, x));
    T3V_TRY(prepare_res(ctx, &h->middle0, height / v->stride, width / v->stride));
    return prepare_res(ctx, &h->middle2, height / v->stride, width / v->stride);
}

/* ---- layers --------------------------------------------------------------------------------------- */

static const t3v_conv_geom spatial = {1, 1, 0, 1, 1};

/* The last `n` frames of `in` become the slot's memory. */
static void keep(t3v_ctx *ctx, t3v_vae_stream *s, int slot, t3v_tensor *in, int64_t n)
{
    if (ctx->status || !in) return;
    t3v_tensor *last = t3v_view(ctx, in, in->shape[0] - n, n);
    if (ctx->tape) {
        s->slot[slot].kept = last;
        return;
    }
    int64_t frame = t3v_numel(in) / in->shape[0];
    size_t size = t3v_dtype_size(in->type);
    if (!s->slot[slot].memory) { /* room for a handle and two frames, once */
        char *m = t3v_arena_take(s->arena, sizeof(t3v_tensor) + 64 + (size_t)(2 * frame) * size, 1);
        if (!m) {
            t3v_ctx_fail(ctx,
                         t3v_fail(T3V_E_NOMEM,
                                  "no memory for the VAE's frame caches; use --vae-tile or a smaller size"));
            return;
        }
        s->slot[slot].memory = m;
    }
    t3v_tensor *kept = s->slot[slot].memory;
    void *data = t3v_arena_twin(s->arena, (char *)kept + (sizeof(t3v_tensor) + 63) / 64 * 64);
    if (t3v_runs(ctx)) t3v_k(ctx)->move(data, last->data, (size_t)(n * frame) * size);
    *kept = *last;
    kept->base = NULL;
    kept->base_offset = 0;
    kept->data = data;
    s->slot[slot].kept = kept;
}

/* A causal convolution of f(x) (see t3v_cat_norm) into y, or added to it: frames of earlier chunks, or zeros, come in
 * front. y NULL: a new value of type `out`, recorded. */
static t3v_tensor *causal_into(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_conv_weight *w, t3v_tensor *x,
                               const t3v_tensor *gamma, t3v_dtype out, t3v_tensor *y, bool add)
{
    int slot = s->next++;
    T3V_ASSERT(slot < T3V_VAE_SLOTS);
    t3v_tensor *kept = s->slot[slot].kept;
    int64_t have = kept ? kept->shape[0] : 0;
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_tensor *in = t3v_cat_norm(ctx, kept, x, gamma, gamma != NULL);
    int64_t pad = w->w.shape[w->w.ndim - 1] / 2;
    t3v_conv_geom g = {1, 1, 2 - have, pad, pad};
    if (y) t3v_conv_into(ctx, w, in, &g, y, add);
    else y = t3v_conv(ctx, w, in, &g, out);
    if (in) keep(ctx, s, slot, in, in->shape[0] < 2 ? in->shape[0] : 2);
    if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : y;
}

static t3v_tensor *causal(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_conv_weight *w, t3v_tensor *x,
                          const t3v_tensor *gamma, t3v_dtype out)
{
    if (ctx->tape) return causal_into(ctx, s, w, x, gamma, out, NULL, false);
    if (ctx->status || !x) return NULL;
    t3v_tensor *y = t3v_new(ctx, out, T3V_SHAPE(x->shape[0], x->shape[1], x->shape[2], w->w.shape[0]));
    return causal_into(ctx, s, w, x, gamma, out, y, false);
}

/* Overwrites x when nothing is recorded and the channels stay. */
static t3v_tensor *res_block(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_res *r, t3v_tensor *x)
{
    t3v_tensor *sum = r->shortcut.w.ndim ? t3v_linear(ctx, &r->shortcut, x, T3V_F32) : x;
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_tensor *h = causal(ctx, s, &r->conv1, x, &r->gamma1, T3V_F32);
    if (ctx->tape) {
        h = causal(ctx, s, &r->conv2, h, &r->gamma2, T3V_F32);
        return t3v_gate_residual(ctx, sum, h, NULL);
    }
    causal_into(ctx, s, &r->conv2, h, &r->gamma2, T3V_F32, sum, true);
    t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : sum;
}

/* Single-head attention over the positions of each frame. */
static t3v_tensor *attn_block(t3v_ctx *ctx, const t3v_vae_attn *a, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    int64_t t = x->shape[0], n = x->shape[1] * x->shape[2], c = x->shape[3];
    size_t start = t3v_arena_mark(ctx->arena);
    t3v_tensor *out = t3v_new_like(ctx, x, T3V_F32), *u = t3v_cat_norm(ctx, NULL, x, &a->gamma, false);
    t3v_weight part[3];
    for (int i = 0; i < 3; i++) {
        t3v_tensor *w = t3v_view(ctx, (t3v_tensor *)&a->qkv.w, i * c, c),
                   *b = t3v_view(ctx, (t3v_tensor *)&a->qkv.bias, i * c, c);
        if (ctx->status) return NULL;
        part[i] = (t3v_weight){.w = *w, .bias = *b};
    }
    t3v_weight *kept = t3v_temp(ctx, 3, sizeof *kept); /* the tape refers to them */
    if (!kept) return NULL;
    memcpy(kept, part, sizeof part);
    for (int64_t i = 0; i < t && !ctx->status; i++) {
        size_t mark = t3v_arena_mark(ctx->arena);
        t3v_tensor *frame = t3v_reshape(ctx, t3v_view(ctx, u, i, 1), T3V_SHAPE(n, c));
        t3v_tensor *q = t3v_linear(ctx, &kept[0], frame, ctx->compute),
                   *k = t3v_linear(ctx, &kept[1], frame, ctx->compute);
        t3v_tensor *v = t3v_linear(ctx, &kept[2], frame, ctx->compute);
        t3v_tensor *o = t3v_sdpa(ctx, q, k, v, 1, 1.0 / sqrt((double)c), NULL);
        o = t3v_linear(ctx, &a->proj, o, T3V_F32);
        if (o) o = t3v_reshape(ctx, o, T3V_SHAPE(1, x->shape[1], x->shape[2], c));
        t3v_put(ctx, out, i, o);
        if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    }
    if (ctx->tape) return t3v_gate_residual(ctx, x, out, NULL);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_axpy(x->data, 1.0f, out->data, t3v_numel(x));
    t3v_arena_back(ctx->arena, start);
    return ctx->status ? NULL : x;
}

static t3v_tensor *middle(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_half *h, t3v_tensor *x)
{
    x = res_block(ctx, s, &h->middle0, x);
    x = attn_block(ctx, &h->middle1, x);
    return res_block(ctx, s, &h->middle2, x);
}

static t3v_tensor *upsample(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_layer *l, t3v_tensor *x)
{
    if (l->kind ==
        T3V_VAE_UP3) { /* the first latent frame stays one frame, and leaves no trace in the cache */
        int slot = s->next;
        if (s->slot[slot].seen)
            x = t3v_interleave_frames(ctx, causal(ctx, s, &l->time, x, NULL, ctx->compute));
        else s->next++;
        s->slot[slot].seen = true;
    }
    return t3v_conv(ctx, &l->resample, t3v_upsample2x(ctx, t3v_cast(ctx, x, ctx->compute)), &spatial,
                    T3V_F32);
}

static t3v_tensor *downsample(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_layer *l, t3v_tensor *x)
{
    static const t3v_conv_geom half = {1, 2, 0, 0, 1}, time = {2, 1, 0, 0, 0};
    x = t3v_conv(ctx, &l->resample, t3v_cast(ctx, x, ctx->compute), &half, T3V_F32);
    if (l->kind != T3V_VAE_DOWN3 || !x) return x;
    int slot = s->next++;
    t3v_tensor *in = t3v_cat_norm(ctx, s->slot[slot].kept, x, NULL, false);
    if (s->slot[slot].kept) x = t3v_conv(ctx, &l->time, in, &time, T3V_F32);
    keep(ctx, s, slot, in, 1);
    return x;
}

/* y in the place of all that was made since `mark`, unless it is recorded. */
static t3v_tensor *sink(t3v_ctx *ctx, size_t mark, t3v_tensor *y)
{
    if (ctx->tape || ctx->status || !y) return y;
    return t3v_sink(ctx, mark, y);
}

/* Entries [first, last) of the list; x and what it came from are above `mark` and gone afterwards, or below. */
static t3v_tensor *run_layers(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_half *h, int first, int last,
                              size_t mark, t3v_tensor *x)
{
    for (int i = first; i < last && !ctx->status; i++) {
        const t3v_vae_layer *l = &h->layer[i];
        t3v_tensor *in = x;
        if (l->kind == T3V_VAE_RES) x = res_block(ctx, s, &l->res, x);
        else if (l->kind == T3V_VAE_UP2 || l->kind == T3V_VAE_UP3) x = upsample(ctx, s, l, x);
        else x = downsample(ctx, s, l, x);
        if (x != in) x = sink(ctx, mark, x);
    }
    return x;
}

/* x + its stage's shortcut, recorded. Channels of the output: those of y. */
static t3v_tensor *add_shortcut(t3v_ctx *ctx, const t3v_vae_stage *g, bool up, t3v_tensor *in, t3v_tensor *y)
{
    if (ctx->status || !y) return NULL;
    t3v_tensor *side = up ? t3v_block_spread(ctx, in, &g->geom, t3v_cols(y), y->shape[0])
                          : t3v_block_mean(ctx, in, &g->geom, t3v_cols(y));
    return t3v_gate_residual(ctx, y, side, NULL);
}

/* A stage as run_layers runs its layers; what the shortcut needs of x is kept below them. */
static t3v_tensor *run_stage(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_half *h, const t3v_vae_stage *g,
                             size_t mark, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    if (!g->shortcut) return run_layers(ctx, s, h, g->first, g->end, mark, x);
    t3v_vae_kind last = h->layer[g->end - 1].kind;
    bool up = last == T3V_VAE_UP2 || last == T3V_VAE_UP3, widens = h->layer[g->first].res.shortcut.w.ndim > 0;
    t3v_tensor *in = x, *side = NULL, *y;
    if (ctx->tape) return add_shortcut(ctx, g, up, x, run_layers(ctx, s, h, g->first, g->end, mark, x));
    if (!up) { /* the means are made first, as layers that keep the width overwrite their input */
        int64_t width = h->layer[g->end - 1].kind == T3V_VAE_RES ? h->layer[g->end - 1].res.conv2.w.shape[0]
                                                                 : h->layer[g->end - 1].resample.w.shape[0];
        side = t3v_block_mean(ctx, x, &g->geom, width);
    }
    size_t inner = t3v_arena_mark(ctx->arena);
    if (up && !widens && (x = t3v_new_like(ctx, in, T3V_F32)) && t3v_runs(ctx))
        t3v_k(ctx)->move(x->data, in->data, (size_t)t3v_numel(in) * sizeof(float));
    y = run_layers(ctx, s, h, g->first, g->end, inner, x);
    if (up) t3v_block_spread_add(ctx, in, &g->geom, y);
    else if (y && t3v_runs(ctx)) t3v_k(ctx)->rows_axpy(y->data, 1.0f, side->data, t3v_numel(y));
    return y == in ? y : sink(ctx, mark, y);
}

static t3v_tensor *run_stages(t3v_ctx *ctx, t3v_vae_stream *s, const t3v_vae_half *h, int first, int last,
                              size_t mark, t3v_tensor *x)
{
    for (int i = first; i < last; i++) x = run_stage(ctx, s, h, &h->stage[i], mark, x);
    return x;
}

/* The pixels of a patch are channels of what the convolutions see. */
static const t3v_block_geom patch = {1, 2, true};

t3v_tensor *t3v_vae_decode_chunk(t3v_ctx *ctx, const t3v_vae *v, t3v_vae_stream *s, t3v_tensor *z)
{
    const t3v_vae_half *d = &v->decoder;
    if (ctx->status || !z) return NULL;
    s->next = 0;
    int64_t frames = s->slot[0].kept ? 4 : 1, height = v->stride * z->shape[1],
            width = v->stride * z->shape[2];
    t3v_tensor *out = t3v_new(ctx, T3V_F32, T3V_SHAPE(frames, height, width, 3));
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_tensor *x = t3v_linear(ctx, &v->post_quant, z, T3V_F32);
    x = causal(ctx, s, &d->conv_in, x, NULL, T3V_F32);
    x = middle(ctx, s, d, x);

    /* After the last doubling in time, which ends the second stage, every layer is causal with a cache, so frames can go
     * through the rest, where they are largest, one by one. */
    x = run_stages(ctx, s, d, 0, 2, mark, x);
    int64_t step = ctx->tape ? frames : 1;
    int slot = s->next;
    for (int64_t f = 0; f < frames && !ctx->status; f += step) {
        size_t inner = t3v_arena_mark(ctx->arena);
        s->next = slot;
        t3v_tensor *frame = t3v_view(ctx, x, f, step);
        t3v_tensor *y = run_stages(ctx, s, d, 2, 4, t3v_arena_mark(ctx->arena), frame);
        y = causal(ctx, s, &d->conv_out, y, &d->gamma_out, T3V_F32);
        if (v->patch > 1) y = t3v_block_spread(ctx, y, &patch, 3, step);
        t3v_put(ctx, out, f, y);
        if (!ctx->tape) t3v_arena_back(ctx->arena, inner);
    }
    if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : out;
}

/* Pixels to the input of the second stage. */
static t3v_tensor *encode_front(t3v_ctx *ctx, const t3v_vae *v, t3v_vae_stream *s, size_t mark, t3v_tensor *x)
{
    const t3v_vae_half *e = &v->encoder;
    if (v->patch > 1) x = t3v_block_mean(ctx, t3v_cast(ctx, x, T3V_F32), &patch, 12);
    x = causal(ctx, s, &e->conv_in, x, NULL, T3V_F32);
    return run_stage(ctx, s, e, &e->stage[0], mark, x);
}

/* Frames [t, H, W, 3] through the first two stages, one by one up to the first halving in time. */
static t3v_tensor *encode_frames(t3v_ctx *ctx, const t3v_vae *v, t3v_vae_stream *s, t3v_tensor *x)
{
    const t3v_vae_half *e = &v->encoder;
    const t3v_vae_stage *g = &e->stage[1];
    int64_t frames = x->shape[0], down = 2 * v->patch, c = 2 * v->config.dim;
    int64_t height = x->shape[1] / down, width = x->shape[2] / down;
    size_t mark = t3v_arena_mark(ctx->arena);
    if (ctx->tape) return run_stage(ctx, s, e, g, mark, encode_front(ctx, v, s, mark, x));
    t3v_tensor *side = NULL, *half;
    if (g->shortcut) {
        side = t3v_new(ctx, T3V_F32, T3V_SHAPE((frames + 1) / 2, height / 2, width / 2, c));
        if (t3v_runs(ctx)) t3v_k(ctx)->clear(side->data, (size_t)t3v_numel(side) * sizeof(float));
    }
    size_t after = t3v_arena_mark(ctx->arena);
    half = t3v_new(ctx, T3V_F32, T3V_SHAPE(frames, height, width, c));
    for (int64_t f = 0; f < frames && !ctx->status; f++) {
        size_t inner = t3v_arena_mark(ctx->arena);
        s->next = 0;
        t3v_tensor *y = encode_front(ctx, v, s, inner, t3v_view(ctx, x, f, 1));
        if (side) t3v_block_mean_add(ctx, y, f, frames, &g->geom, side);
        t3v_put(ctx, half, f, run_layers(ctx, s, e, g->first, g->end - 1, inner, y));
        t3v_arena_back(ctx->arena, inner);
    }
    x = run_layers(ctx, s, e, g->end - 1, g->end, after, half);
    if (side && x && t3v_runs(ctx)) t3v_k(ctx)->rows_axpy(x->data, 1.0f, side->data, t3v_numel(x));
    return sink(ctx, mark, x);
}

t3v_tensor *t3v_vae_encode_chunk(t3v_ctx *ctx, const t3v_vae *v, t3v_vae_stream *s, t3v_tensor *x)
{
    const t3v_vae_half *e = &v->encoder;
    if (ctx->status || !x) return NULL;
    s->next = 0;
    t3v_tensor *out = t3v_new(ctx, T3V_F32,
                              T3V_SHAPE(1, x->shape[1] / v->stride, x->shape[2] / v->stride,
                                        2 * v->config.z));
    size_t mark = t3v_arena_mark(ctx->arena);
    x = encode_frames(ctx, v, s, x);
    x = run_stages(ctx, s, e, 2, 4, mark, x);
    x = middle(ctx, s, e, x);
    x = causal(ctx, s, &e->conv_out, x, &e->gamma_out, T3V_F32);
    t3v_put(ctx, out, 0, t3v_linear(ctx, &v->quant, x, T3V_F32));
    if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : out;
}
