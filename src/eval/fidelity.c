/* SPDX-License-Identifier: Apache-2.0 */
/* PSNR and SSIM of 8-bit planes. */
#include "eval/fidelity.h"

#include <math.h>

#include "eval/planes.h"

enum { CHUNKS = 64 }; /* the fixed split of a plane's sum, whatever the number of threads */

double t3v_plane_mse(const uint8_t *a, const uint8_t *b, int64_t h, int64_t w)
{
    int64_t part[CHUNKS];
#pragma omp parallel for schedule(static) if (h * w > T3V_PARALLEL_PIXELS)
    for (int k = 0; k < CHUNKS; k++) {
        int64_t sum = 0;
        for (int64_t y = k; y < h; y += CHUNKS)
            for (int64_t i = y * w; i < (y + 1) * w; i++) {
                int d = a[i] - b[i];
                sum += d * d;
            }
        part[k] = sum;
    }
    int64_t sum = 0;
    for (int k = 0; k < CHUNKS; k++) sum += part[k];
    return (double)sum / (double)(h * w);
}

double t3v_psnr(double mse) { return mse > 0 ? 10 * log10(255.0 * 255.0 / mse) : (double)INFINITY; }

static double window_ssim(const uint8_t *a, const uint8_t *b, int64_t row)
{
    const double c1 = 416, c2 = 235963; /* 64^2 C1 and 64 63 C2, rounded */
    int sa = 0, sb = 0, squares = 0, product = 0;
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            int p = a[y * row + x], q = b[y * row + x];
            sa += p;
            sb += q;
            squares += p * p + q * q;
            product += p * q;
        }
    double mean_product = (double)sa * sb, mean_squares = (double)sa * sa + (double)sb * sb;
    double variances = 64.0 * squares - mean_squares, covariance = 64.0 * product - mean_product;
    return (2 * mean_product + c1) * (2 * covariance + c2) / ((mean_squares + c1) * (variances + c2));
}

double t3v_plane_ssim(const uint8_t *a, const uint8_t *b, int64_t h, int64_t w)
{
    double part[CHUNKS];
    int64_t rows = h / 4 - 1, cols = w / 4 - 1;
#pragma omp parallel for schedule(static) if (h * w > T3V_PARALLEL_PIXELS)
    for (int k = 0; k < CHUNKS; k++) {
        part[k] = 0;
        for (int64_t y = k; y < rows; y += CHUNKS)
            for (int64_t x = 0; x < cols; x++)
                part[k] += window_ssim(a + 4 * y * w + 4 * x, b + 4 * y * w + 4 * x, w);
    }
    double sum = 0;
    for (int k = 0; k < CHUNKS; k++) sum += part[k];
    return sum / (double)(rows * cols);
}
