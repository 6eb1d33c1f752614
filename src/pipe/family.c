/* SPDX-License-Identifier: Apache-2.0 */
/* Recognising weights by names and shapes, as files do not say what they are. */
#include "pipe/family.h"

#include <stdlib.h>
#include <string.h>

#include "vae/vae.h"

const char *t3v_weights_kind_name(t3v_weights_kind kind)
{
    static const char *const names[] = {"unknown", "dit", "vae", "text", "lora", "clip"};
    return names[kind];
}

static int64_t axis(const t3v_tensor_file *f, const char *name, int i)
{
    const t3v_tensor_entry *e = t3v_tensors_find(f, name);
    return e && i < e->ndim ? e->shape[i] : 0;
}

/* One more than the largest i of names PREFIXi.*; indexes past 9999 are not of a model. */
static int64_t count(const t3v_tensor_file *f, const char *prefix)
{
    int64_t most = 0;
    size_t n = strlen(prefix);
    for (int64_t i = 0; i < f->count; i++) {
        const char *s = f->tensors[i].name;
        if (strncmp(s, prefix, n) != 0 || s[n] < '0' || s[n] > '9') continue;
        long v = strtol(s + n, NULL, 10);
        if (v < 10000 && v + 1 > most) most = v + 1;
    }
    return most;
}

static void detect_dit(const t3v_tensor_file *f, t3v_family *o)
{
    o->kind = T3V_WEIGHTS_DIT;
    o->dim = axis(f, "patch_embedding.bias", 0);
    o->in_dim = axis(f, "patch_embedding.weight", 1);
    o->text_dim = axis(f, "text_embedding.0.weight", 1);
    o->ffn_dim = axis(f, "blocks.0.ffn.0.bias", 0);
    o->out_dim = axis(f, "head.head.bias", 0) / 4;
    o->layers = count(f, "blocks.");
    bool large = o->dim == 5120 && o->layers == 40, small = o->dim == 1536 && o->layers == 30;
    if (t3v_tensors_find(f, "vace_patch_embedding.weight")) {
        o->name = large ? "wan2.1-vace-14b" : small ? "wan2.1-vace-1.3b" : "wan-vace";
        o->reason = "VACE (video editing) models are not run";
    } else if (t3v_tensors_find(f, "img_emb.emb_pos")) {
        o->name = large ? "wan2.1-flf2v-14b" : "wan-flf2v";
        o->reason = "first-and-last-frame models are not run";
    } else if (t3v_tensors_find(f, "blocks.0.cross_attn.k_img.weight")) {
        o->name = large ? "wan2.1-i2v-14b" : "wan-i2v";
    } else if (o->in_dim == 36) {
        o->name = large ? "wan2.2-i2v-a14b" : "wan-i2v";
    } else if (o->in_dim == 48 && o->out_dim == 48) {
        o->name = o->dim == 3072 && o->layers == 30 ? "wan2.2-ti2v-5b" : "wan-ti2v";
    } else {
        /* The experts of wan2.2-t2v-a14b have the shapes of the 14B. */
        o->name = large ? "wan2.1-t2v-14b" : small ? "wan2.1-t2v-1.3b" : "wan-t2v";
    }
}

void t3v_family_detect(const t3v_tensor_file *f, t3v_family *o)
{
    *o = (t3v_family){.kind = T3V_WEIGHTS_UNKNOWN};
    if (t3v_tensors_find(f, "patch_embedding.weight") && t3v_tensors_find(f, "blocks.0.self_attn.q.weight")) {
        detect_dit(f, o);
    } else if (t3v_tensors_find(f, "encoder.conv1.weight") && t3v_tensors_find(f, "decoder.conv1.weight")) {
        o->kind = T3V_WEIGHTS_VAE;
        o->vae_width = axis(f, "encoder.conv1.weight", 0);
        o->vae_z = axis(f, "conv2.weight", 0);
        int64_t decoder = axis(f, "decoder.head.0.gamma", 0);
        if (decoder != o->vae_width) o->vae_decoder_width = decoder;
        o->name = o->vae_z == 48 && o->vae_width == 160  ? "wan2.2-vae"
                  : o->vae_z == 16 && o->vae_width == 96 ? "wan2.1-vae"
                                                         : "wan-vae";
        if (!t3v_vae_stride(o->vae_z)) o->reason = "the latent has neither 16 nor 48 channels";
    } else if (t3v_tensors_find(f, "visual.patch_embedding.weight") &&
               t3v_tensors_find(f, "visual.pre_norm.weight")) {
        o->kind = T3V_WEIGHTS_CLIP;
        o->clip_width = axis(f, "visual.patch_embedding.weight", 0);
        o->clip_layers = count(f, "visual.transformer.");
        o->name = o->clip_width == 1280 && o->clip_layers == 32 ? "clip-vit-h-14" : "clip-vit";
    } else if (t3v_tensors_find(f, "token_embedding.weight") &&
               t3v_tensors_find(f, "blocks.0.attn.q.weight")) {
        o->kind = T3V_WEIGHTS_TEXT;
        o->vocab = axis(f, "token_embedding.weight", 0);
        o->text_width = axis(f, "token_embedding.weight", 1);
        o->text_heads = axis(f, "blocks.0.pos_embedding.embedding.weight", 1);
        o->text_layers = count(f, "blocks.");
        o->name = o->text_width == 4096 && o->text_layers == 24 ? "umt5-xxl" : "umt5";
    } else {
        for (int64_t i = 0; i < f->count; i++)
            if (strstr(f->tensors[i].name, "lora_") || strstr(f->tensors[i].name, ".lora."))
                o->kind = T3V_WEIGHTS_LORA;
    }
}
