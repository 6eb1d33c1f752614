/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clips through the VAE: frames stream in time, tiles keep memory within a limit. */
#ifndef T3V_VAE_CLIP_H
#define T3V_VAE_CLIP_H

#include "t3v/log.h"
#include "vae/vae.h"

typedef struct t3v_vae_clip {
    int64_t frames, height, width; /* pixels: 4n + 1; multiples of the VAE's stride */
    int64_t tile_h, tile_w;        /* pixels of a tile; 0: chosen so that memory_limit holds; < 0: one tile */
    size_t memory_limit;           /* bytes for everything the call takes; 0: no limit */
    t3v_dtype compute;
    const t3v_progress *progress; /* may be NULL; phase "decode" or "encode", in chunks of all tiles */
} t3v_vae_clip;

/* Bytes the call would take, with the tile it would choose in *tile_h, *tile_w (may be NULL). E_NOMEM when no tile fits. */
t3v_status t3v_vae_decode_bytes(const t3v_vae *vae, const t3v_vae_clip *clip, size_t *bytes, int64_t *tile_h,
                                int64_t *tile_w);
t3v_status t3v_vae_encode_bytes(const t3v_vae *vae, const t3v_vae_clip *clip, size_t *bytes, int64_t *tile_h,
                                int64_t *tile_w);

/* Floating-point operations of t3v_vae_decode with these tiles, as the decoder is defined (a multiply-add counts two; an
 * implementation may need fewer). */
t3v_status t3v_vae_decode_flop(const t3v_vae *vae, const t3v_vae_clip *clip, double *flop);

/* Receives frame `index` (in order), planar [3, height, width] F32 in [-1, 1]; gives frame `index`. */
typedef t3v_status (*t3v_frame_out)(void *user, int64_t index, const float *rgb);
typedef t3v_status (*t3v_frame_in)(void *user, int64_t index, float *rgb);

/* latent [z, T, h, w] F32, normalised (what the DiT makes). */
t3v_status t3v_vae_decode(t3v_vae *vae, const t3v_vae_clip *clip, const float *latent, t3v_frame_out out,
                          void *user);
t3v_status t3v_vae_encode(t3v_vae *vae, const t3v_vae_clip *clip, t3v_frame_in in, void *user, float *latent);

#endif
