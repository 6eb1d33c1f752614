/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts as they are written: original, Diffusers, ComfyUI's single files. */
#include "pipe/layout.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "pipe/model.h"

const char *const t3v_layout_names[T3V_LAYOUTS] = {"original", "diffusers", "comfyui"};

bool t3v_layout_named(const char *name, t3v_layout *out)
{
    for (int l = 0; l < T3V_LAYOUTS; l++) {
        if (strcmp(name, t3v_layout_names[l]) != 0) continue;
        *out = (t3v_layout)l;
        return true;
    }
    return false;
}

const t3v_names *t3v_layout_tensors(t3v_layout l, t3v_container container, const t3v_family *y)
{
    bool diffusers = l == T3V_LAYOUT_DIFFUSERS;
    switch (y->kind) {
    case T3V_WEIGHTS_DIT: return diffusers ? t3v_names_of(T3V_NAMES_DIT, "diffusers") : NULL;
    case T3V_WEIGHTS_VAE:
        return diffusers ? t3v_names_of(T3V_NAMES_VAE, y->vae_z == 48 ? "diffusers 2.2" : "diffusers") : NULL;
    case T3V_WEIGHTS_TEXT:
        if (container == T3V_FILE_GGUF) return t3v_names_of(T3V_NAMES_TEXT, "gguf");
        return l == T3V_LAYOUT_ORIGINAL ? NULL : t3v_names_of(T3V_NAMES_TEXT, "transformers");
    case T3V_WEIGHTS_CLIP:
        return l == T3V_LAYOUT_ORIGINAL ? NULL : t3v_names_of(T3V_NAMES_CLIP, "transformers");
    default: return NULL;
    }
}

const char *t3v_layout_path(t3v_layout l, t3v_place place, bool experts, int64_t vae_z)
{
    static const char *const path[T3V_LAYOUTS][T3V_AT_COUNT] = {
        [T3V_LAYOUT_ORIGINAL] = {[T3V_AT_DIT] = "diffusion_pytorch_model.safetensors",
                                 [T3V_AT_DIT_LOW] = "low_noise_model/diffusion_pytorch_model.safetensors",
                                 [T3V_AT_TEXT] = "models_t5_umt5-xxl-enc-bf16.pth",
                                 [T3V_AT_TOKENIZER] = "google/umt5-xxl/spiece.model",
                                 [T3V_AT_VAE] = "Wan2.1_VAE.pth",
                                 [T3V_AT_CLIP] = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"},
        [T3V_LAYOUT_DIFFUSERS] = {[T3V_AT_DIT] = "transformer/diffusion_pytorch_model.safetensors",
                                  [T3V_AT_DIT_LOW] = "transformer_2/diffusion_pytorch_model.safetensors",
                                  [T3V_AT_TEXT] = "text_encoder/model.safetensors",
                                  [T3V_AT_TOKENIZER] = "tokenizer/spiece.model",
                                  [T3V_AT_VAE] = "vae/diffusion_pytorch_model.safetensors",
                                  [T3V_AT_CLIP] = "image_encoder/model.safetensors"},
        [T3V_LAYOUT_COMFYUI] = {[T3V_AT_DIT] = "diffusion_models/wan.safetensors",
                                [T3V_AT_DIT_LOW] = "diffusion_models/wan_low_noise.safetensors",
                                [T3V_AT_TEXT] = "text_encoders/umt5_xxl.safetensors",
                                [T3V_AT_VAE] = "vae/wan_2.1_vae.safetensors",
                                [T3V_AT_CLIP] = "clip_vision/clip_vision_h.safetensors"},
    };
    if (place == T3V_AT_DIT && experts && l == T3V_LAYOUT_ORIGINAL)
        return "high_noise_model/diffusion_pytorch_model.safetensors";
    if (place == T3V_AT_DIT && experts && l == T3V_LAYOUT_COMFYUI)
        return "diffusion_models/wan_high_noise.safetensors";
    if (place == T3V_AT_VAE && vae_z == 48 && l == T3V_LAYOUT_ORIGINAL) return "Wan2.2_VAE.pth";
    if (place == T3V_AT_VAE && vae_z == 48 && l == T3V_LAYOUT_COMFYUI) return "vae/wan2.2_vae.safetensors";
    return path[l][place];
}

/* ---- the small files --------------------------------------------------------------------------------- */

/* Writes `o` (NULL: no memory) to dir/name; the object is given back. */
static t3v_status write_json(const char *dir, const char *name, json_t *o)
{
    char *path = t3v_path_join(dir, name), *text = o ? t3v_json_dumps(o, JSON_INDENT(2)) : NULL;
    t3v_status st = path && text ? t3v_make_parents(path)
                                 : t3v_fail(T3V_E_NOMEM, "no memory to write %s", name);
    if (!st) st = t3v_write_text(path, text, strlen(text));
    json_decref(o);
    free(path);
    free(text);
    return st;
}

static json_t *number(int64_t v) { return v ? json_integer(v) : json_null(); }

static json_t *dit_json(const t3v_dit_config *c)
{
    return json_pack(
        "{s:s, s:[i,i,i], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:f, s:o, s:o, s:i, s:n}",
        "_class_name", "WanTransformer3DModel", "patch_size", 1, 2, 2, "num_attention_heads",
        (json_int_t)c->heads, "attention_head_dim", (json_int_t)(c->dim / c->heads), "in_channels",
        (json_int_t)c->in_dim, "out_channels", (json_int_t)c->out_dim, "text_dim", (json_int_t)c->text_dim,
        "freq_dim", (json_int_t)c->freq_dim, "ffn_dim", (json_int_t)c->ffn_dim, "num_layers",
        (json_int_t)c->layers, "cross_attn_norm", 1, "qk_norm", "rms_norm_across_heads", "eps", c->eps,
        "image_dim", number(c->clip_dim), "added_kv_proj_dim", number(c->clip_dim ? c->dim : 0),
        "rope_max_seq_len", 1024, "pos_embed_seq_len");
}

static json_t *text_json(const t3v_umt5_config *c)
{
    return json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:f, s:s, s:b, s:i, s:i, s:b}",
                     "architectures", "UMT5EncoderModel", "model_type", "umt5", "d_model", (json_int_t)c->dim,
                     "d_kv", (json_int_t)(c->dim_attn / c->heads), "d_ff", (json_int_t)c->dim_ffn,
                     "num_layers", (json_int_t)c->layers, "num_heads", (json_int_t)c->heads, "vocab_size",
                     (json_int_t)c->vocab, "relative_attention_num_buckets", (json_int_t)c->buckets,
                     "relative_attention_max_distance", 128, "layer_norm_epsilon", 1e-6, "feed_forward_proj",
                     "gated-gelu", "is_gated_act", 1, "pad_token_id", 0, "eos_token_id", 1,
                     "tie_word_embeddings", 0);
}

static json_t *numbers(const float *v, int64_t n)
{
    json_t *a = json_array();
    int bad = a == NULL;
    for (int64_t i = 0; i < n && !bad; i++) bad = json_array_append_new(a, json_real((double)v[i]));
    if (!bad) return a;
    json_decref(a);
    return NULL;
}

static json_t *vae_json(const t3v_vae *v)
{
    bool two = v->config.z == 48; /* the VAE of Wan2.2 */
    int64_t pixel = 3 * v->patch * v->patch;
    return json_pack(
        "{s:s, s:I, s:o, s:I, s:[i,i,i,i], s:i, s:[], s:[b,b,b], s:f, s:o, s:o, s:b, s:I, s:I, s:o, "
        "s:i, s:I}",
        "_class_name", "AutoencoderKLWan", "base_dim", (json_int_t)v->config.dim, "decoder_base_dim",
        number(two ? v->config.decoder_dim : 0), "z_dim", (json_int_t)v->config.z, "dim_mult", 1, 2, 4, 4,
        "num_res_blocks", 2, "attn_scales", "temperal_downsample", 0, 1, 1, "dropout", 0.0, "latents_mean",
        numbers(v->mean, v->config.z), "latents_std", numbers(v->std, v->config.z), "is_residual", two,
        "in_channels", (json_int_t)pixel, "out_channels", (json_int_t)pixel, "patch_size",
        number(two ? v->patch : 0), "scale_factor_temporal", 4, "scale_factor_spatial",
        (json_int_t)v->stride);
}

static json_t *clip_json(const t3v_clip_config *c)
{
    return json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:s, s:f}", "architectures",
                     "CLIPVisionModel", "model_type", "clip_vision_model", "hidden_size", (json_int_t)c->dim,
                     "intermediate_size", (json_int_t)c->mlp, "num_hidden_layers", (json_int_t)c->layers,
                     "num_attention_heads", (json_int_t)c->heads, "image_size",
                     (json_int_t)(c->patch * c->side), "patch_size", (json_int_t)c->patch, "num_channels", 3,
                     "hidden_act", "gelu", "layer_norm_eps", 1e-5);
}

/* How a picture becomes the tower's input; resample 3 is bicubic. */
static json_t *picture_json(const t3v_clip_config *c)
{
    int64_t side = c->patch * c->side;
    return json_pack("{s:s, s:b, s:{s:I}, s:i, s:b, s:{s:I,s:I}, s:b, s:f, s:b, s:[f,f,f], s:[f,f,f], s:b}",
                     "image_processor_type", "CLIPImageProcessor", "do_resize", 1, "size", "shortest_edge",
                     (json_int_t)side, "resample", 3, "do_center_crop", 1, "crop_size", "height",
                     (json_int_t)side, "width", (json_int_t)side, "do_rescale", 1, "rescale_factor",
                     1.0 / 255, "do_normalize", 1, "image_mean", t3v_clip_mean[0], t3v_clip_mean[1],
                     t3v_clip_mean[2], "image_std", t3v_clip_deviation[0], t3v_clip_deviation[1],
                     t3v_clip_deviation[2], "do_convert_rgb", 1);
}

static json_t *pipeline_json(const t3v_layout_model *m)
{
    t3v_dit_image_use image = t3v_dit_image_used(m->dit);
    json_t *o = json_pack("{s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s]}", "_class_name",
                          image == T3V_DIT_IMAGE_CHANNELS ? "WanImageToVideoPipeline" : "WanPipeline",
                          "scheduler", "diffusers", "UniPCMultistepScheduler", "text_encoder", "transformers",
                          "UMT5EncoderModel", "tokenizer", "transformers", "T5TokenizerFast", "transformer",
                          "diffusers", "WanTransformer3DModel", "vae", "diffusers", "AutoencoderKLWan");
    int bad = o == NULL;
    if (m->dit->clip_dim) {
        bad |= json_object_set_new(o, "image_encoder", json_pack("[s,s]", "transformers", "CLIPVisionModel"));
        bad |= json_object_set_new(o, "image_processor",
                                   json_pack("[s,s]", "transformers", "CLIPImageProcessor"));
    }
    if (m->experts) {
        bad |= json_object_set_new(o, "transformer_2",
                                   json_pack("[s,s]", "diffusers", "WanTransformer3DModel"));
        bad |= json_object_set_new(o, "boundary_ratio", json_real(m->defaults->boundary));
    }
    if (image == T3V_DIT_IMAGE_FRAME) bad |= json_object_set_new(o, "expand_timesteps", json_true());
    if (!bad) return o;
    json_decref(o);
    return NULL;
}

static json_t *scheduler_json(const t3v_defaults *d)
{
    return json_pack("{s:s, s:s, s:b, s:f, s:i, s:i, s:s}", "_class_name", "UniPCMultistepScheduler",
                     "prediction_type", "flow_prediction", "use_flow_sigmas", 1, "flow_shift", d->shift,
                     "num_train_timesteps", 1000, "solver_order", 2, "solver_type", "bh2");
}

static t3v_status write_original(const char *dir, const t3v_layout_model *m)
{
    static const char *const two[] = {"high_noise_model/config.json", "low_noise_model/config.json"};
    static const char *const one[] = {"config.json"};
    for (int i = 0; m->dit && i < (m->experts ? 2 : 1); i++) {
        char *path = t3v_path_join(dir, m->experts ? two[i] : one[i]);
        t3v_status st = path ? t3v_make_parents(path) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
        if (!st) st = t3v_dit_config_write(path, m->dit);
        free(path);
        T3V_TRY(st);
    }
    return T3V_OK;
}

static t3v_status write_diffusers(const char *dir, const t3v_layout_model *m)
{
    if (m->text) T3V_TRY(write_json(dir, "text_encoder/config.json", text_json(m->text)));
    if (m->vae) T3V_TRY(write_json(dir, "vae/config.json", vae_json(m->vae)));
    if (m->clip) {
        T3V_TRY(write_json(dir, "image_encoder/config.json", clip_json(m->clip)));
        T3V_TRY(write_json(dir, "image_processor/preprocessor_config.json", picture_json(m->clip)));
    }
    if (!m->dit) return T3V_OK;
    T3V_TRY(write_json(dir, "transformer/config.json", dit_json(m->dit)));
    if (m->experts) T3V_TRY(write_json(dir, "transformer_2/config.json", dit_json(m->dit)));
    T3V_TRY(write_json(dir, "scheduler/scheduler_config.json", scheduler_json(m->defaults)));
    return write_json(dir, "model_index.json", pipeline_json(m));
}

t3v_status t3v_layout_write(t3v_layout l, const char *dir, const t3v_layout_model *m)
{
    if (l == T3V_LAYOUT_ORIGINAL) T3V_TRY(write_original(dir, m));
    if (l == T3V_LAYOUT_DIFFUSERS) T3V_TRY(write_diffusers(dir, m));
    if (!m->own_defaults) return T3V_OK;
    char *path = t3v_path_join(dir, "t3v.json");
    t3v_status st = path ? t3v_make_parents(path) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!st) st = t3v_defaults_write(path, m->defaults);
    free(path);
    return st;
}
