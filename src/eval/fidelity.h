/* SPDX-License-Identifier: Apache-2.0 */
/* PSNR and SSIM of 8-bit planes, as ffmpeg's filters psnr and ssim define them. */
#ifndef T3V_EVAL_FIDELITY_H
#define T3V_EVAL_FIDELITY_H

#include <stdint.h>

enum { T3V_SSIM_MIN_SIDE = 8 };

/* Mean squared difference of [h,w], in squared levels. */
double t3v_plane_mse(const uint8_t *a, const uint8_t *b, int64_t h, int64_t w);

/* 10 log10(255^2 / mse) of a mean over frames; infinite for 0. */
double t3v_psnr(double mse);

/* Mean SSIM of [h,w] (sides from 8): windows of 8x8, 4 apart, uniform weights, variances and covariance over 63; C2 =
 * (0.03 255)^2, C1 = (0.01 255)^2 / 64: that 64th is ffmpeg's. Rows and columns past the last whole 4 are left out.
 * Definition: Wang et al., 2004; windows and constants: ffmpeg's vf_ssim. */
double t3v_plane_ssim(const uint8_t *a, const uint8_t *b, int64_t h, int64_t w);

#endif
