/* SPDX-License-Identifier: Apache-2.0 */
/* t3v eval attention: how close a plan's attention comes to full attention, layer by layer, on a model's own queries,
 * keys and values. */
#include "eval_attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "attn/deviation.h"
#include "base/log.h"
#include "base/rng.h"
#include "cli.h"
#include "io/json.h"
#include "pipe/model.h"
#include "pipe/plan_choice.h"
#include "probe.h"
#include "tensor/dtype.h"
#include "train/dataset.h"

enum { OPT_MODEL = 1, OPT_PLAN, OPT_DATA, OPT_CLIPS, OPT_LEVELS, OPT_QUERIES, OPT_SEED };
enum { LEVELS_MAX = 16 };

static const struct argp_option options[] = {
    {"model", OPT_MODEL, "DIR", 0, "Model directory", 1},
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan to judge", 1},
    {"data", OPT_DATA, "DIR", 0, "Latents and contexts, from t3v data latents", 1},
    {"clips", OPT_CLIPS, "N", 0, "The first N of them (default 4)", 1},
    {"timesteps", OPT_LEVELS, "T,...", 0, "Noise levels, 0 to 1000 (default 200,500,800)", 1},
    {"queries", OPT_QUERIES, "N", 0, "Queries of each head that are compared (default 64)", 1},
    {"seed", OPT_SEED, "N", 0, "Of the noise and of the queries (default 0)", 1},
    {0},
};

typedef struct input {
    const char *plan, *data;
    t3v_model_paths paths;
    int64_t clips, queries, seed;
    int levels;
    double level[LEVELS_MAX];
    t3v_dtype compute;
} input;

static bool parse_levels(input *in, const char *text)
{
    char part[32];
    for (in->levels = 0; in->levels < LEVELS_MAX; text++) {
        size_t n = strcspn(text, ",");
        if (n >= sizeof part) return false;
        memcpy(part, text, n);
        part[n] = 0;
        if (!cli_float(part, 0, 1000, &in->level[in->levels++])) return false;
        text += n;
        if (!*text) return true;
    }
    return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    switch (key) {
    case OPT_MODEL: in->paths.model = arg; return 0;
    case OPT_PLAN: in->plan = arg; return 0;
    case OPT_DATA: in->data = arg; return 0;
    case OPT_CLIPS:
        if (!cli_int(arg, 1, T3V_DATASET_CLIPS, &in->clips))
            argp_error(state, "--clips %s: expected a number above 0", arg);
        return 0;
    case OPT_QUERIES:
        if (!cli_int(arg, 1, INT32_MAX, &in->queries))
            argp_error(state, "--queries %s: expected a number above 0", arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &in->seed))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        return 0;
    case OPT_LEVELS:
        if (!parse_levels(in, arg))
            argp_error(state, "--timesteps %s: expected up to %d numbers from 0 to 1000, with commas", arg,
                       LEVELS_MAX);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!in->paths.model || !in->plan || !in->data)
            argp_error(state, "--model, --plan and --data are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

typedef struct judging {
    const input *in;
    t3v_ctx *ctx;
    t3v_model *model;
    t3v_plan *plan, *full;
    t3v_deviation *layer; /* [layers] */
    t3v_deviation velocity;
    uint64_t pass;
    double timestep;
} judging;

/* The plan's own parameters as the host has them, which it filled. */
static const float *param_of(const t3v_model *m, const t3v_tensor *t)
{
    const t3v_arena *own = &m->own;
    return own->twin ? (const void *)(own->base + ((const unsigned char *)t->data - own->twin)) : t->data;
}

/* Deviations are the host's to find, on whichever device the pass runs. */
static t3v_status watch(void *user, int64_t layer, const t3v_qkv *x)
{
    judging *j = user;
    const t3v_dit *dit = &j->model->dit;
    const t3v_site *site = &j->plan->layer[layer].site[T3V_SITE_SELF];
    const t3v_dit_config *c = &dit->config;
    const float *params[T3V_SITE_PARAMS_MAX] = {0};
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    int n = t3v_site_params(site, c->heads, c->dim / c->heads, info);
    for (int i = 0; i < n; i++) params[i] = param_of(j->model, &dit->own[layer * T3V_SITE_PARAMS_MAX + i]);
    t3v_attend_args a = {.n_q = x->q->shape[0],
                         .n_k = x->q->shape[0],
                         .heads = (int)c->heads,
                         .dim = (int)(c->dim / c->heads),
                         .q = t3v_take(j->ctx, x->q),
                         .k = t3v_take(j->ctx, x->k),
                         .v = t3v_take(j->ctx, x->v),
                         .type = x->q->type,
                         .q_stride = c->dim,
                         .k_stride = c->dim,
                         .v_stride = c->dim,
                         .params = n ? params : NULL,
                         .moment = {.sigma = j->timestep / 1000}};
    if (j->ctx->status) return j->ctx->status;
    return t3v_attn_deviation(site, &a, j->in->queries,
                              (uint64_t)j->in->seed + j->pass * (uint64_t)c->layers + (uint64_t)layer,
                              &j->layer[layer]);
}

/* Velocities of one noisy clip under full attention, watched, and under the plan. */
static t3v_status judge_pass(judging *j, t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *context)
{
    t3v_dit_prompt prompt;
    T3V_TRY(t3v_dit_prompt_make(ctx, &j->model->dit, context, &prompt));
    t3v_dit_watch watching = {watch, j};
    t3v_dit_call call = {.plan = j->full,
                         .prompt = &prompt,
                         .timestep = j->timestep,
                         .moment = {.sigma = j->timestep / 1000},
                         .watch = &watching};
    t3v_tensor *want = t3v_dit_forward(ctx, &j->model->dit, x, &call);
    call.plan = j->plan, call.watch = NULL;
    t3v_tensor *got = t3v_dit_forward(ctx, &j->model->dit, x, &call);
    const float *whole = t3v_take(ctx, want), *part = t3v_take(ctx, got);
    if (ctx->status) return ctx->status;
    for (int64_t i = 0; i < t3v_numel(want); i++) {
        double w = whole[i], e = part[i] - w;
        j->velocity.error += e * e, j->velocity.norm += w * w;
    }
    return T3V_OK;
}

/* x = (1 - sigma) x0 + sigma noise at each level. */
static t3v_status judge_clip(judging *j, t3v_ctx *ctx, const t3v_dataset *d, int64_t clip)
{
    const int64_t n = d->latent[0] * d->latent[1] * d->latent[2] * d->latent[3];
    t3v_tensor *x = t3v_new(ctx, T3V_F32, T3V_SHAPE(d->latent[0], d->latent[1], d->latent[2], d->latent[3])),
               *context = t3v_new(ctx, T3V_F32, T3V_SHAPE(d->clip[clip].rows, d->dim));
    uint16_t *x0 = t3v_temp(ctx, n, sizeof *x0);
    float *noise = t3v_temp(ctx, n, sizeof *noise);
    if (ctx->status) return ctx->status;
    T3V_TRY(t3v_dataset_read(d, clip, x0, t3v_host(ctx, context)));
    t3v_give(ctx, context);
    t3v_normal_fill(noise, n, (uint64_t)j->in->seed, (uint64_t)clip, 0);
    for (int i = 0; i < j->in->levels; i++) {
        size_t mark = t3v_arena_mark(ctx->arena);
        j->timestep = j->in->level[i];
        float sigma = (float)(j->timestep / 1000);
        for (int64_t k = 0; k < n; k++)
            ((float *)t3v_host(ctx, x))[k] = (1 - sigma) * t3v_bf16_to_f32(x0[k]) + sigma * noise[k];
        t3v_give(ctx, x);
        T3V_TRY(judge_pass(j, ctx, x, context));
        j->pass++;
        t3v_arena_back(ctx->arena, mark);
    }
    return T3V_OK;
}

static double relative(const t3v_deviation *f) { return f->norm > 0 ? sqrt(f->error / f->norm) : 0; }

static void print(const judging *j, bool json)
{
    const int layers = j->plan->layers;
    json_t *list = json_array();
    if (!json) printf("layer  kept %%  recall %%  error %%\n");
    for (int i = 0; i < layers; i++) {
        const t3v_deviation *f = &j->layer[i];
        double kept = f->kept / (double)f->rows, recall = f->recall / (double)f->rows;
        if (!json) printf("%5d  %6.2f  %8.2f  %7.2f\n", i, 100 * kept, 100 * recall, 100 * relative(f));
        else
            json_array_append_new(list, json_pack("{s:i, s:f, s:f, s:f}", "layer", i, "kept", kept, "recall",
                                                  recall, "error", relative(f)));
    }
    if (!json) {
        printf("velocity: %.2f %% of full attention's\n", 100 * relative(&j->velocity));
        json_decref(list);
        return;
    }
    json_t *o = json_pack("{s:o, s:f, s:I, s:i}", "layers", list, "velocity_error", relative(&j->velocity),
                          "clips", (json_int_t)j->in->clips, "levels", j->in->levels);
    char *text = t3v_json_dumps(o, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    if (text) puts(text);
    free(text);
    json_decref(o);
}

static t3v_status judge(input *in, bool json)
{
    t3v_dataset *d = NULL;
    t3v_arena arena = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = in->compute};
    judging j = {.in = in, .ctx = &ctx};
    t3v_progress progress = cli_progress();
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_arena_open_in(&arena, CLI_PROBE_ARENA, t3v_device_space(in->paths.device)));
    T3V_TRY_GOTO(st, done, t3v_dataset_open(&d, in->data));
    T3V_TRY_GOTO(st, done, t3v_model_open(&j.model, &in->paths, T3V_PART_DIT, in->compute, false));
    const t3v_dit_config *c = &j.model->config;
    if (c->in_dim != d->latent[0] || c->text_dim != d->dim || d->latent[2] % 2 || d->latent[3] % 2) {
        st =
            t3v_fail(T3V_E_SHAPE,
                     "%s: latents of %lld channels and contexts of width %lld, the model takes %lld and %lld "
                     "(and even sizes): make them with this model",
                     in->data, (long long)d->latent[0], (long long)d->dim, (long long)c->in_dim,
                     (long long)c->text_dim);
        goto done;
    }
    if (in->clips > d->count) in->clips = d->count;
    t3v_grid grid = {d->latent[1], d->latent[2] / 2, d->latent[3] / 2};
    T3V_TRY_GOTO(st, done, t3v_plan_make(&j.full, "full", grid, (int)c->layers));
    T3V_TRY_GOTO(st, done,
                 t3v_plan_make_for(&j.plan, t3v_plan_text(&j.model->defaults, in->plan, grid), grid,
                                   (int)c->layers, c->dim, c->heads));
    T3V_TRY_GOTO(st, done, t3v_model_adopt(j.model, j.plan));
    if (!(j.layer = calloc((size_t)c->layers, sizeof *j.layer))) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for %lld layers", (long long)c->layers);
        goto done;
    }
    for (int64_t i = 0; i < in->clips; i++) {
        size_t mark = t3v_arena_mark(&arena);
        T3V_TRY_GOTO(st, done, t3v_report(&progress, "clips", i, in->clips));
        T3V_TRY_GOTO(st, done, judge_clip(&j, &ctx, d, i));
        t3v_arena_back(&arena, mark);
    }
    T3V_TRY_GOTO(st, done, t3v_report(&progress, "clips", in->clips, in->clips));
    print(&j, json);
done:
    free(j.layer);
    t3v_plan_free(j.plan);
    t3v_plan_free(j.full);
    t3v_model_close(j.model);
    t3v_dataset_close(d);
    t3v_arena_close(&arena);
    return st;
}

int cli_eval_attention(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .doc = "Runs a model under full attention on noisy clips and compares, in every layer, what the plan "
               "would give "
               "for the same queries, keys and values: the relative error of the output, the share of full "
               "attention's "
               "weights that lies on keys that the plan meets (recall), and the share of the keys (kept); "
               "then the error "
               "of the whole pass under the plan.\v"
               "Example:\n"
               "  t3v data latents --model M --videos clips --size 256x256 --frames 17 -o latents\n"
               "  t3v eval attention --model M --plan t3 --data latents",
    };
    input in = {.clips = 4, .queries = 64, .levels = 3, .level = {200, 500, 800}};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &in);
    if (rc >= 0) return rc;
    in.compute = common.bf16 ? T3V_BF16 : T3V_F32;
    t3v_status st = t3v_device_open(common.device, &in.paths.device);
    if (!st) st = judge(&in, common.json);
    return st ? cli_fail(st) : CLI_OK;
}
