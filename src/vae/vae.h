/* SPDX-License-Identifier: Apache-2.0 */
/* The Wan2.1 video VAE: encoder and decoder, streaming in time with causal caches (wan/modules/vae.py). */
#ifndef T3V_VAE_VAE_H
#define T3V_VAE_VAE_H

#include "cuda/device.h"
#include "ops/conv_op.h"

enum { T3V_VAE_Z = 16, T3V_VAE_STRIDE_T = 4, T3V_VAE_STRIDE = 8, T3V_VAE_SLOTS = 64 };

/* Latent statistics of Wan2.1: what the DiT sees is (mu - mean) / std. */
extern const float t3v_vae_mean[T3V_VAE_Z], t3v_vae_std[T3V_VAE_Z];

typedef struct t3v_vae_res {
    t3v_tensor gamma1, gamma2;
    t3v_conv_weight conv1, conv2;
    t3v_weight shortcut; /* w.data NULL when the channels do not change */
} t3v_vae_res;

typedef struct t3v_vae_attn {
    t3v_tensor gamma;
    t3v_weight qkv, proj;
} t3v_vae_attn;

/* One entry of encoder.downsamples or decoder.upsamples. */
typedef enum t3v_vae_kind {
    T3V_VAE_RES,
    T3V_VAE_DOWN2,
    T3V_VAE_DOWN3,
    T3V_VAE_UP2,
    T3V_VAE_UP3
} t3v_vae_kind;
typedef struct t3v_vae_layer {
    t3v_vae_kind kind;
    t3v_vae_res res;
    t3v_conv_weight resample, time; /* the 2-D convolution; time_conv of DOWN3 and UP3 */
} t3v_vae_layer;

typedef struct t3v_vae_half {
    t3v_conv_weight conv_in, conv_out;
    t3v_vae_layer layer[16];
    int layers;
    t3v_vae_res middle0, middle2;
    t3v_vae_attn middle1;
    t3v_tensor gamma_out;
} t3v_vae_half;

typedef struct t3v_vae {
    int64_t dim;
    t3v_params params;
    t3v_vae_half encoder, decoder;
    t3v_weight quant, post_quant; /* conv1, conv2: 1x1x1 */
    const t3v_device *device;     /* that has the parameters' data; NULL: the host */
} t3v_vae;

/* Lists the parameters of a VAE of base width `dim` (96 in Wan2.1). */
t3v_status t3v_vae_open(t3v_vae *vae, int64_t dim);
void t3v_vae_close(t3v_vae *vae);
/* Packs the decoder's or encoder's convolutions for frames of height x width pixels, in ctx's arena. */
t3v_status t3v_vae_prepare(t3v_ctx *ctx, t3v_vae *vae, bool decoder, int64_t height, int64_t width);

/* What a clip's stream remembers between chunks: for every causal convolution its last two input frames. While
 * something is recorded they stay on the tape; else they are copied into `arena`. */
typedef struct t3v_vae_stream {
    t3v_arena *arena;
    struct {
        t3v_tensor *kept;
        void *memory;
        bool seen; /* a resampling slot that has passed its first chunk */
    } slot[T3V_VAE_SLOTS];
    int next;
} t3v_vae_stream;

/* One latent frame z [1, h, w, 16] (denormalised, channels last, F32) -> frames [1 or 4, 8h, 8w, 3] F32, not clamped;
 * 1 for the first chunk of a stream. Channels last. */
t3v_tensor *t3v_vae_decode_chunk(t3v_ctx *ctx, const t3v_vae *vae, t3v_vae_stream *s, t3v_tensor *z);
/* 1 frame (first chunk) or 4 frames [t, H, W, 3] of the compute type -> [1, H/8, W/8, 32]: mean and log-variance, F32,
 * not normalised. */
t3v_tensor *t3v_vae_encode_chunk(t3v_ctx *ctx, const t3v_vae *vae, t3v_vae_stream *s, t3v_tensor *x);

#endif
