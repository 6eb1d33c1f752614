/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench vae: decoding a clip with a VAE of Wan's widths and random weights. */
#include <stdio.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "bench.h"
#include "dit/configs.h"
#include "io/params.h"
#include "pipe/place.h"
#include "tensor/randomise.h"
#include "vae/clip.h"

typedef struct call {
    t3v_vae vae;
    t3v_vae_clip clip;
    float *latent;
} call;

static t3v_status drop(void *user, int64_t index, const float *rgb)
{
    (void)user, (void)index, (void)rgb;
    return T3V_OK;
}

static t3v_status decode(void *user)
{
    call *c = user;
    return t3v_vae_decode(&c->vae, &c->clip, c->latent, drop, NULL);
}

static int run(const bench_args *args)
{
    static const t3v_vae_config wan21 = {96, 96, 16}, wan22 = {160, 256, 48};
    bench_args own = *args;
    if (!own.repeat) own.repeat = 1; /* seconds each */
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    call c = {.clip = {.width = args->width ? args->width : 208,
                       .height = args->height ? args->height : 368,
                       .frames = args->frames ? args->frames : 17,
                       .compute = type}};
    t3v_params_options o = {.matrix = type};
    t3v_arena arena = {0}, placed = {0};
    size_t bytes;
    int64_t th = 0, tw = 0;
    double flop = 0;
    int status = CLI_FAILED;
    t3v_dit_config dit = {.out_dim = 16};
    t3v_status st = args->config ? t3v_dit_config_named(args->config, &dit) : T3V_OK;
    if (!st) st = t3v_vae_open(&c.vae, dit.out_dim == wan22.z ? &wan22 : &wan21);
    if (!st) st = t3v_arena_open(&arena, t3v_params_bytes(&c.vae.params, NULL, &o));
    if (!st) st = t3v_params_alloc(&c.vae.params, &o, &arena);
    if (!st) t3v_params_randomise(&c.vae.params, 1);
    if (!st && args->device) {
        size_t room, all;
        args->device->memory(&room, &all);
        c.clip.memory_limit = room / 8 * 7; /* in tiles where the card does not hold a frame's work */
        c.vae.device = args->device;
        st = t3v_weights_place(&c.vae.params, type, args->device, &placed, NULL, NULL);
    }
    if (!st) st = t3v_vae_decode_bytes(&c.vae, &c.clip, &bytes, &th, &tw);
    if (!st) st = t3v_vae_decode_flop(&c.vae, &c.clip, &flop);
    if (!st) {
        int64_t n = c.vae.config.z * ((c.clip.frames - 1) / 4 + 1) * (c.clip.height / c.vae.stride) *
                    (c.clip.width / c.vae.stride);
        c.latent = malloc((size_t)n * sizeof *c.latent);
        if (!c.latent) st = t3v_fail(T3V_E_NOMEM, "no memory for a latent");
        else t3v_normal_fill(c.latent, n, 1, 0, 0);
    }
    char what[64], extra[96];
    snprintf(what, sizeof what, "vae %s decode %lldx%lldx%lld", c.vae.patch > 1 ? "2.2" : "2.1",
             (long long)c.clip.width, (long long)c.clip.height, (long long)c.clip.frames);
    if (!st)
        snprintf(extra, sizeof extra, ",\"estimated_bytes\":%zu,\"tile\":[%lld,%lld]", bytes, (long long)tw,
                 (long long)th);
    bench_result r = {
        .what = what, .flop = flop, .type = type, .isa = t3v_isa_name(t3v_cpu()), .extra = extra};
    status = st ? cli_fail(st) : bench_measure(&own, &r, decode, &c);
    free(c.latent);
    t3v_vae_close(&c.vae);
    t3v_arena_close(&placed);
    t3v_arena_close(&arena);
    return status;
}

const bench_row bench_vae = {"vae", "decoding a clip with a VAE of Wan's widths", run};
