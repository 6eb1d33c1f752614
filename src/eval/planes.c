/* SPDX-License-Identifier: Apache-2.0 */
/* RGB to the planes that scores are taken of. */
#include "eval/planes.h"

#include <stdlib.h>

#include "base/checked.h"

t3v_status t3v_planes_make(t3v_planes *p, int64_t h, int64_t w)
{
    int64_t bytes;
    *p = (t3v_planes){.h = h, .w = w};
    if (h < 1 || w < 1 || !t3v_mul3(h, w, T3V_PLANES, &bytes))
        return t3v_fail(T3V_E_TOO_BIG, "a frame of %lldx%lld cannot be scored", (long long)w, (long long)h);
    if (!(p->plane[0] = malloc((size_t)bytes)))
        return t3v_fail(T3V_E_NOMEM, "no memory for a frame of %lldx%lld", (long long)w, (long long)h);
    for (int i = 1; i < T3V_PLANES; i++) p->plane[i] = p->plane[i - 1] + h * w;
    return T3V_OK;
}

void t3v_planes_free(t3v_planes *p)
{
    free(p->plane[0]);
    *p = (t3v_planes){0};
}

static uint8_t round8(float v)
{
    v += 0.5f;
    return (uint8_t)(!(v > 0.0f) ? 0 : v >= 255.0f ? 255 : (int)v);
}

void t3v_planes_fill(t3v_planes *p, const uint8_t *rgb, int bt709)
{
    const float kr = bt709 ? 0.2126f : 0.299f, kb = bt709 ? 0.0722f : 0.114f, kg = 1.0f - kr - kb;
    const float ys = 219.0f / 255.0f, cs = 224.0f / 255.0f;
#pragma omp parallel for schedule(static) if (p->h * p->w > T3V_PARALLEL_PIXELS)
    for (int64_t y = 0; y < p->h; y++)
        for (int64_t i = y * p->w; i < (y + 1) * p->w; i++) {
            float r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2], l = kr * r + kg * g + kb * b;
            p->plane[T3V_R][i] = rgb[3 * i];
            p->plane[T3V_G][i] = rgb[3 * i + 1];
            p->plane[T3V_B][i] = rgb[3 * i + 2];
            p->plane[T3V_Y][i] = round8(16.0f + ys * l);
            p->plane[T3V_CB][i] = round8(128.0f + cs * (b - l) / (2.0f * (1.0f - kb)));
            p->plane[T3V_CR][i] = round8(128.0f + cs * (r - l) / (2.0f * (1.0f - kr)));
        }
}
