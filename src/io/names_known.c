/* SPDX-License-Identifier: Apache-2.0 */
/* The name maps: Diffusers, Transformers and GGUF against the original releases. Sources: convert_wan_to_diffusers.py of
 * Diffusers, modeling_umt5.py and modeling_clip.py of Transformers, tensor_mapping.py of gguf-py. */
#include "io/names.h"

/* clang-format off */
#define SAME(theirs, ours) {theirs, ours, NULL, false}
#define INTO(theirs, ours, inner) {theirs, ours, inner, false}
#define COPY(theirs, ours) {theirs, ours, NULL, true}
#define UNUSED(theirs) {theirs, NULL, NULL, false}
#define END {NULL, NULL, NULL, false}
/* clang-format on */

/* ---- DiT ------------------------------------------------------------------------------------------- */

static const t3v_names_rule block_diffusers[] = {
    SAME("attn1.to_q", "self_attn.q"),
    SAME("attn1.to_k", "self_attn.k"),
    SAME("attn1.to_v", "self_attn.v"),
    SAME("attn1.to_out.0", "self_attn.o"),
    SAME("attn1.norm_q", "self_attn.norm_q"),
    SAME("attn1.norm_k", "self_attn.norm_k"),
    SAME("attn2.to_q", "cross_attn.q"),
    SAME("attn2.to_k", "cross_attn.k"),
    SAME("attn2.to_v", "cross_attn.v"),
    SAME("attn2.to_out.0", "cross_attn.o"),
    SAME("attn2.norm_q", "cross_attn.norm_q"),
    SAME("attn2.norm_k", "cross_attn.norm_k"),
    SAME("attn2.add_k_proj", "cross_attn.k_img"),
    SAME("attn2.add_v_proj", "cross_attn.v_img"),
    SAME("attn2.norm_added_k", "cross_attn.norm_k_img"),
    UNUSED("attn2.norm_added_q"), /* of a class that other models share */
    SAME("norm2", "norm3"),       /* Diffusers numbers norms in the order they run in */
    SAME("ffn.net.0.proj", "ffn.0"),
    SAME("ffn.net.2", "ffn.2"),
    SAME("scale_shift_table", "modulation"),
    SAME("proj_in", "before_proj"),
    SAME("proj_out", "after_proj"),
    END,
};

static const t3v_names_rule dit_diffusers[] = {
    INTO("blocks.#", "blocks.#", block_diffusers),
    INTO("vace_blocks.#", "vace_blocks.#", block_diffusers),
    SAME("patch_embedding", "patch_embedding"),
    SAME("vace_patch_embedding", "vace_patch_embedding"),
    SAME("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    SAME("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    SAME("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    SAME("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    SAME("condition_embedder.time_proj", "time_projection.1"),
    SAME("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    SAME("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    SAME("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    SAME("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    SAME("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    SAME("scale_shift_table", "head.modulation"),
    SAME("proj_out", "head.head"),
    END,
};

/* ---- text encoder ---------------------------------------------------------------------------------- */

static const t3v_names_rule text_transformers[] = {
    SAME("shared", "token_embedding"),
    COPY("encoder.embed_tokens", "token_embedding"),
    SAME("encoder.block.#.layer.0.layer_norm", "blocks.#.norm1"),
    SAME("encoder.block.#.layer.0.SelfAttention.relative_attention_bias", "blocks.#.pos_embedding.embedding"),
    SAME("encoder.block.#.layer.0.SelfAttention", "blocks.#.attn"),
    SAME("encoder.block.#.layer.1.layer_norm", "blocks.#.norm2"),
    SAME("encoder.block.#.layer.1.DenseReluDense.wi_0", "blocks.#.ffn.gate.0"),
    SAME("encoder.block.#.layer.1.DenseReluDense.wi_1", "blocks.#.ffn.fc1"),
    SAME("encoder.block.#.layer.1.DenseReluDense.wo", "blocks.#.ffn.fc2"),
    SAME("encoder.final_layer_norm", "norm"),
    SAME("spiece_model", "spiece_model"), /* a tokenizer */
    UNUSED("decoder"),
    UNUSED("lm_head"),
    END,
};

static const t3v_names_rule text_gguf[] = {
    SAME("token_embd", "token_embedding"),
    SAME("enc.blk.#.attn_norm", "blocks.#.norm1"),
    SAME("enc.blk.#.attn_q", "blocks.#.attn.q"),
    SAME("enc.blk.#.attn_k", "blocks.#.attn.k"),
    SAME("enc.blk.#.attn_v", "blocks.#.attn.v"),
    SAME("enc.blk.#.attn_o", "blocks.#.attn.o"),
    SAME("enc.blk.#.attn_rel_b", "blocks.#.pos_embedding.embedding"),
    SAME("enc.blk.#.ffn_norm", "blocks.#.norm2"),
    SAME("enc.blk.#.ffn_gate", "blocks.#.ffn.gate.0"),
    SAME("enc.blk.#.ffn_up", "blocks.#.ffn.fc1"),
    SAME("enc.blk.#.ffn_down", "blocks.#.ffn.fc2"),
    SAME("enc.output_norm", "norm"),
    UNUSED("dec"),
    UNUSED("output"),
    END,
};

/* ---- VAE ------------------------------------------------------------------------------------------- */

static const t3v_names_rule residual[] = {
    SAME("norm1", "residual.0"), SAME("conv1", "residual.2"),       SAME("norm2", "residual.3"),
    SAME("conv2", "residual.6"), SAME("conv_shortcut", "shortcut"), END,
};

static const t3v_names_rule resample[] = {
    SAME("resample", "resample"),
    SAME("time_conv", "time_conv"),
    END,
};

/* The layers of 2.1 are numbered through: three residual blocks and, but for the last stage, what enlarges frames. */
static const t3v_names_rule vae21_diffusers[] = {
    SAME("encoder.conv_in", "encoder.conv1"),
    INTO("encoder.down_blocks.#", "encoder.downsamples.#", residual),
    INTO("encoder.down_blocks.#", "encoder.downsamples.#", resample),
    INTO("encoder.mid_block.resnets.0", "encoder.middle.0", residual),
    SAME("encoder.mid_block.attentions.0", "encoder.middle.1"),
    INTO("encoder.mid_block.resnets.1", "encoder.middle.2", residual),
    SAME("encoder.norm_out", "encoder.head.0"),
    SAME("encoder.conv_out", "encoder.head.2"),
    SAME("quant_conv", "conv1"),
    SAME("post_quant_conv", "conv2"),
    SAME("decoder.conv_in", "decoder.conv1"),
    INTO("decoder.mid_block.resnets.0", "decoder.middle.0", residual),
    SAME("decoder.mid_block.attentions.0", "decoder.middle.1"),
    INTO("decoder.mid_block.resnets.1", "decoder.middle.2", residual),
    INTO("decoder.up_blocks.0.resnets.0", "decoder.upsamples.0", residual),
    INTO("decoder.up_blocks.0.resnets.1", "decoder.upsamples.1", residual),
    INTO("decoder.up_blocks.0.resnets.2", "decoder.upsamples.2", residual),
    INTO("decoder.up_blocks.0.upsamplers.0", "decoder.upsamples.3", resample),
    INTO("decoder.up_blocks.1.resnets.0", "decoder.upsamples.4", residual),
    INTO("decoder.up_blocks.1.resnets.1", "decoder.upsamples.5", residual),
    INTO("decoder.up_blocks.1.resnets.2", "decoder.upsamples.6", residual),
    INTO("decoder.up_blocks.1.upsamplers.0", "decoder.upsamples.7", resample),
    INTO("decoder.up_blocks.2.resnets.0", "decoder.upsamples.8", residual),
    INTO("decoder.up_blocks.2.resnets.1", "decoder.upsamples.9", residual),
    INTO("decoder.up_blocks.2.resnets.2", "decoder.upsamples.10", residual),
    INTO("decoder.up_blocks.2.upsamplers.0", "decoder.upsamples.11", resample),
    INTO("decoder.up_blocks.3.resnets.0", "decoder.upsamples.12", residual),
    INTO("decoder.up_blocks.3.resnets.1", "decoder.upsamples.13", residual),
    INTO("decoder.up_blocks.3.resnets.2", "decoder.upsamples.14", residual),
    SAME("decoder.norm_out", "decoder.head.0"),
    SAME("decoder.conv_out", "decoder.head.2"),
    END,
};

static const t3v_names_rule vae22_diffusers[] = {
    SAME("encoder.conv_in", "encoder.conv1"),
    INTO("encoder.down_blocks.#.resnets.#", "encoder.downsamples.#.downsamples.#", residual),
    INTO("encoder.down_blocks.#.downsampler", "encoder.downsamples.#.downsamples.2", resample),
    INTO("encoder.mid_block.resnets.0", "encoder.middle.0", residual),
    SAME("encoder.mid_block.attentions.0", "encoder.middle.1"),
    INTO("encoder.mid_block.resnets.1", "encoder.middle.2", residual),
    SAME("encoder.norm_out", "encoder.head.0"),
    SAME("encoder.conv_out", "encoder.head.2"),
    SAME("quant_conv", "conv1"),
    SAME("post_quant_conv", "conv2"),
    SAME("decoder.conv_in", "decoder.conv1"),
    INTO("decoder.mid_block.resnets.0", "decoder.middle.0", residual),
    SAME("decoder.mid_block.attentions.0", "decoder.middle.1"),
    INTO("decoder.mid_block.resnets.1", "decoder.middle.2", residual),
    INTO("decoder.up_blocks.#.resnets.#", "decoder.upsamples.#.upsamples.#", residual),
    INTO("decoder.up_blocks.#.upsampler", "decoder.upsamples.#.upsamples.3", resample),
    SAME("decoder.norm_out", "decoder.head.0"),
    SAME("decoder.conv_out", "decoder.head.2"),
    END,
};

/* ---- CLIP's vision tower --------------------------------------------------------------------------- */

static const t3v_names_rule clip_layer[] = {
    SAME("layer_norm1", "norm1"),
    SAME("self_attn.q_proj", "attn.to_qkv.q"), /* joined when they have these names */
    SAME("self_attn.k_proj", "attn.to_qkv.k"),
    SAME("self_attn.v_proj", "attn.to_qkv.v"),
    SAME("self_attn.out_proj", "attn.proj"),
    SAME("layer_norm2", "norm2"),
    SAME("mlp.fc1", "mlp.0"),
    SAME("mlp.fc2", "mlp.2"),
    END,
};

static const t3v_names_rule clip_transformers[] = {
    INTO("vision_model.encoder.layers.#", "visual.transformer.#", clip_layer),
    SAME("vision_model.embeddings.patch_embedding", "visual.patch_embedding"),
    SAME("vision_model.embeddings.class_embedding", "visual.cls_embedding"),
    SAME("vision_model.embeddings.position_embedding.weight", "visual.pos_embedding"),
    SAME("vision_model.pre_layrnorm", "visual.pre_norm"),
    SAME("vision_model.post_layernorm", "visual.post_norm"),
    UNUSED("vision_model.embeddings.position_ids"),
    UNUSED("visual_projection"),
    UNUSED("text_model"),
    UNUSED("text_projection"),
    UNUSED("logit_scale"),
    END,
};

/* ---- all ------------------------------------------------------------------------------------------- */

const t3v_names t3v_names_known[] = {
    {"original", T3V_NAMES_DIT, {"head.modulation", "text_embedding.0.weight"}, NULL},
    {"diffusers",
     T3V_NAMES_DIT,
     {"condition_embedder.time_proj.weight", "condition_embedder.text_embedder.linear_1.weight"},
     dit_diffusers},
    {"original", T3V_NAMES_TEXT, {"token_embedding.weight", "blocks.0.attn.q.weight"}, NULL},
    {"transformers",
     T3V_NAMES_TEXT,
     {"shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"},
     text_transformers},
    {"gguf", T3V_NAMES_TEXT, {"token_embd.weight", "enc.blk.0.attn_q.weight"}, text_gguf},
    {"original", T3V_NAMES_VAE, {"encoder.conv1.weight", "decoder.conv1.weight"}, NULL},
    {"diffusers",
     T3V_NAMES_VAE,
     {"encoder.down_blocks.0.norm1.gamma", "decoder.up_blocks.0.upsamplers.0.resample.1.weight"},
     vae21_diffusers},
    {"diffusers 2.2",
     T3V_NAMES_VAE,
     {"encoder.down_blocks.0.resnets.0.norm1.gamma", "decoder.up_blocks.0.upsampler.resample.1.weight"},
     vae22_diffusers},
    {"original", T3V_NAMES_CLIP, {"visual.patch_embedding.weight", "visual.pre_norm.weight"}, NULL},
    {"transformers",
     T3V_NAMES_CLIP,
     {"vision_model.embeddings.patch_embedding.weight", "vision_model.pre_layrnorm.weight"},
     clip_transformers},
    {NULL, T3V_NAMES_PARTS, {NULL, NULL}, NULL},
};
