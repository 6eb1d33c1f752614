/* SPDX-License-Identifier: Apache-2.0 */
/* The vision tower of CLIP (ViT), of which Wan2.1's image-to-video models see the last rows but one block (wan/modules/clip.py:
 * XLM-RoBERTa CLIP, ViT-H/14). */
#ifndef T3V_CLIP_VISION_H
#define T3V_CLIP_VISION_H

#include "io/tensors.h"
#include "ops/ops.h"

typedef struct t3v_clip_config {
    int64_t dim, heads, mlp;
    int64_t layers; /* that are run: one less than the tower has */
    int64_t patch;  /* pixels of a patch's side */
    int64_t side;   /* patches along a side of the picture: 16 of 14 pixels in ViT-H */
} t3v_clip_config;

/* Of CLIP's training pictures in [0, 1]. */
extern const double t3v_clip_mean[3], t3v_clip_deviation[3];

typedef struct t3v_clip_block {
    t3v_tensor norm1_w, norm1_b, norm2_w, norm2_b;
    t3v_weight qkv, proj, up, down;
} t3v_clip_block;

typedef struct t3v_clip {
    t3v_clip_config config;
    t3v_params params;
    t3v_weight patch;    /* [dim, 3, patch, patch], no bias */
    t3v_tensor cls, pos; /* [1, 1, dim]; [1, 1 + side^2, dim] */
    t3v_tensor norm_w, norm_b;
    t3v_clip_block *block; /* [layers] */
} t3v_clip;

/* The configuration that a file's shapes tell. Heads are 80 wide as in ViT-H, in towers that this does not divide 16. E_FORMAT,
 * E_SHAPE: it is not a tower. */
t3v_status t3v_clip_config_read(const t3v_tensor_file *f, t3v_clip_config *out);
/* Lists the parameters. The last block, the norm after it and the head are in files, and not among them. */
t3v_status t3v_clip_open(t3v_clip *clip, const t3v_clip_config *config);
void t3v_clip_close(t3v_clip *clip);

/* Rows of the features: 1 + side^2. */
int64_t t3v_clip_rows(const t3v_clip_config *c);
/* What the tower makes of a picture [3, height, width] in [-1, 1], stretched to its square: [rows, dim] F32. */
t3v_tensor *t3v_clip_features(t3v_ctx *ctx, const t3v_clip *clip, const float *rgb, int64_t height,
                              int64_t width);

#endif
