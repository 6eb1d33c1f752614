/* SPDX-License-Identifier: Apache-2.0 */
/* Wan's video VAEs, 2.1 and 2.2: encoder and decoder, streaming in time with causal caches (wan/modules/vae.py of Wan2.1,
 * vae2_2.py of Wan2.2). */
#ifndef T3V_VAE_VAE_H
#define T3V_VAE_VAE_H

#include "cuda/device.h"
#include "io/tensors.h"
#include "ops/conv_op.h"

enum { T3V_VAE_STRIDE_T = 4, T3V_VAE_Z_MAX = 48, T3V_VAE_SLOTS = 64 };

/* What a VAE's weights tell. z: latent channels, 16 (2.1) or 48 (2.2), which also says which of the two it is. */
typedef struct t3v_vae_config {
    int64_t dim, decoder_dim; /* base widths: 96, 96 in Wan2.1; 160, 256 in Wan2.2 */
    int64_t z;
} t3v_vae_config;

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

/* Layers [first, end) between two widths. Wan2.2 adds the stage's input to its output, by means of neighbours or copies. */
typedef struct t3v_vae_stage {
    int first, end;
    bool shortcut;
    t3v_block_geom geom; /* of the shortcut */
} t3v_vae_stage;

typedef struct t3v_vae_half {
    t3v_conv_weight conv_in, conv_out;
    t3v_vae_layer layer[16];
    int layers;
    t3v_vae_stage stage[4];
    t3v_vae_res middle0, middle2;
    t3v_vae_attn middle1;
    t3v_tensor gamma_out;
} t3v_vae_half;

typedef struct t3v_vae {
    t3v_vae_config config;
    int64_t stride, patch; /* pixels of a latent cell's side: 8 or 16; of what the convolutions see: 1 or 2 */
    const float *mean, *std; /* [z]: what the DiT sees is (mu - mean) / std */
    t3v_params params;
    t3v_vae_half encoder, decoder;
    t3v_weight quant, post_quant; /* conv1, conv2: 1x1x1 */
    const t3v_device *device;     /* that has the parameters' data; NULL: the host */
} t3v_vae;

/* The configuration that a file's shapes tell; E_FORMAT, E_SHAPE when it is not a VAE's. */
t3v_status t3v_vae_config_read(const t3v_tensor_file *f, t3v_vae_config *out);
/* Pixels of a latent cell's side for z channels; 0: no VAE of Wan has so many. */
int64_t t3v_vae_stride(int64_t z);
/* Its name in a model directory. */
const char *t3v_vae_file_name(int64_t z);
/* Lists the parameters. */
t3v_status t3v_vae_open(t3v_vae *vae, const t3v_vae_config *config);
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

/* One latent frame [1, h, w, z] (denormalised, channels last, F32) -> frames [1 or 4, h stride, w stride, 3] F32, not
 * clamped; 1 for the first chunk of a stream. Channels last. */
t3v_tensor *t3v_vae_decode_chunk(t3v_ctx *ctx, const t3v_vae *vae, t3v_vae_stream *s, t3v_tensor *z);
/* 1 frame (first chunk) or 4 frames [t, H, W, 3], F32 or of the compute type -> [1, H / stride, W / stride, 2 z]: mean and
 * log-variance, F32, not normalised. */
t3v_tensor *t3v_vae_encode_chunk(t3v_ctx *ctx, const t3v_vae *vae, t3v_vae_stream *s, t3v_tensor *x);

#endif
