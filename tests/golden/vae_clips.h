/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of whole clips through the VAEs share: clips in memory, distances, calls. Included after cmocka.h. */
#ifndef T3V_TESTS_VAE_CLIPS_H
#define T3V_TESTS_VAE_CLIPS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vae/clip.h"

/* [3, frames, h, w] in memory, as the callbacks' other end. */
typedef struct clip {
    float *rgb;
    int64_t frames, plane, next;
} clip;

static t3v_status put(void *user, int64_t index, const float *rgb)
{
    clip *c = user;
    assert_int_equal(index, c->next++);
    for (int64_t k = 0; k < 3; k++)
        memcpy(c->rgb + (k * c->frames + index) * c->plane, rgb + k * c->plane,
               (size_t)c->plane * sizeof *rgb);
    return T3V_OK;
}

static t3v_status get(void *user, int64_t index, float *rgb)
{
    clip *c = user;
    assert_int_equal(index, c->next++);
    for (int64_t k = 0; k < 3; k++)
        memcpy(rgb + k * c->plane, c->rgb + (k * c->frames + index) * c->plane,
               (size_t)c->plane * sizeof *rgb);
    return T3V_OK;
}

static void must(t3v_status st)
{
    if (st) fail_msg("%s", t3v_error_text());
}

static double relative(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), m += (double)b[i] * b[i];
    return sqrt(d / (m + 1e-30));
}

static float *read_all(const t3v_tensor_file *f, const char *name, int64_t shape[4])
{
    const t3v_tensor_entry *e;
    must(t3v_tensors_get(f, name, &e));
    memcpy(shape, e->shape + e->ndim - 4, 4 * sizeof *shape);
    float *p = malloc((size_t)e->numel * sizeof *p);
    must(t3v_tensor_copy(e, p, T3V_F32));
    return p;
}

static float *decode_clip(t3v_vae *vae, const t3v_vae_clip *how, const float *latent)
{
    clip c = {.frames = how->frames, .plane = how->height * how->width};
    c.rgb = malloc((size_t)(3 * c.frames * c.plane) * sizeof *c.rgb);
    must(t3v_vae_decode(vae, how, latent, put, &c));
    assert_int_equal(c.next, how->frames);
    return c.rgb;
}

static float *encode_clip(t3v_vae *vae, const t3v_vae_clip *how, float *rgb)
{
    clip c = {.rgb = rgb, .frames = how->frames, .plane = how->height * how->width};
    int64_t cells = c.plane / (vae->stride * vae->stride);
    float *latent = malloc((size_t)(vae->config.z * ((how->frames + 3) / 4) * cells) * sizeof *latent);
    must(t3v_vae_encode(vae, how, get, &c, latent));
    assert_int_equal(c.next, how->frames);
    return latent;
}

#endif
