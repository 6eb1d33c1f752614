/* SPDX-License-Identifier: Apache-2.0 */
/* t3v train: trains a VAE, or a DiT with its text encoder, on procedural video. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "train_options.h"
#include "io/file.h"
#include "io/json.h"
#include "io/pth.h"
#include "pipe/model.h"
#include "tensor/randomise.h"
#include "train/task_dit.h"
#include "train/task_vae.h"

typedef struct args {
    const char *config, *out;
    bool resume;
    int64_t stop_after;
} args;

enum { OPT_CONFIG = 0x100, OPT_RESUME, OPT_STOP };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "F.json", 0, "What to train and how (see docs/training.md)", 0},
    {"output", 'o', "DIR", 0, "Gets the weights, log.jsonl and state/", 0},
    {"resume", OPT_RESUME, 0, 0, "Go on from DIR/state", 0},
    {"stop-after", OPT_STOP, "N", 0, "Stop after N more steps (a checkpoint is written)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_CONFIG: a->config = arg; return 0;
    case 'o': a->out = arg; return 0;
    case OPT_RESUME: a->resume = true; return 0;
    case OPT_STOP:
        if (!cli_int(arg, 1, INT64_MAX, &a->stop_after))
            argp_error(state, "--stop-after %s: expected a number above 0", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->config || !a->out) argp_error(state, "--config and -o are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {options,
                                 parse,
                                 NULL,
                                 "Trains on procedural video: \"task\": \"vae\" or \"dit\" in the "
                                 "configuration. Ctrl-C writes a checkpoint; "
                                 "--resume goes on to the same bytes.",
                                 0,
                                 0,
                                 0};

static const char *const vae_keys[] = {CLI_TRAIN_KEYS, "task", "init", "dim",     "crop", "frames",
                                       "kl",           "edge", "fold", "inflate", NULL};
static const char *const dit_keys[] = {CLI_TRAIN_KEYS, "task",   "init",  "cache",       "plan",
                                       "size",         "frames", "clips", "freeze_text", "shift",
                                       "recompute",    "drop",   "range", NULL};

/* ---- VAE ----------------------------------------------------------------------------------------- */

/* The VAE of the file `init`, or one of Wan2.1's kind with base width `dim` and random weights. */
static t3v_status fill_vae(t3v_vae *vae, const char *init, int64_t dim, uint64_t seed, t3v_arena *arena,
                           t3v_dtype compute)
{
    t3v_params_options o = {.matrix = compute};
    t3v_vae_config c = {.dim = dim, .decoder_dim = dim, .z = 16};
    t3v_tensor_file *f = NULL;
    t3v_status st = init ? t3v_tensors_open(&f, init) : T3V_OK;
    if (!st && init) st = t3v_vae_config_read(f, &c);
    if (!st) st = t3v_vae_open(vae, &c);
    if (!st) st = t3v_arena_open(arena, t3v_params_bytes(&vae->params, NULL, &o));
    if (!st && f) st = t3v_params_load(&vae->params, f, &o, arena, true, NULL);
    else if (!st && (st = t3v_params_alloc(&vae->params, &o, arena)) == T3V_OK)
        t3v_params_randomise(&vae->params, seed);
    t3v_tensors_close(f);
    return st;
}

/* Writes DIR's VAE again with the latent at Wan's scale. */
static t3v_status finish_vae(t3v_task_vae *task, const char *dir, const t3v_progress *progress)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, t3v_vae_file_name(task->vae->config.z));
    t3v_vae vae = {0};
    t3v_arena arena = {0}, out = {0};
    t3v_tensor_entry *e;
    t3v_status st = fill_vae(&vae, path, 0, 0, &arena, T3V_F32);
    t3v_task_vae fold = *task;
    fold.vae = &vae;
    fold.frames = 17;
    if (!st) st = t3v_task_vae_fold(&fold, 64, 128, progress);
    if (!st) st = t3v_arena_open(&out, (size_t)8 << 30);
    if (!st) st = t3v_params_entries(&vae.params, NULL, T3V_BF16, &out, &e);
    if (!st) st = t3v_pth_write(path, e, vae.params.count);
    t3v_arena_close(&arena);
    t3v_arena_close(&out);
    t3v_vae_close(&vae);
    return st;
}

static t3v_status train_vae(const json_t *j, const args *a, const cli_common *common,
                            const t3v_train_options *o, const char *settings, const t3v_progress *progress)
{
    const char *f = a->config, *init = NULL;
    int64_t dim = 16;
    bool fold = false, inflate = false;
    t3v_vae vae = {0};
    t3v_arena arena = {0};
    t3v_task_vae task = {.vae = &vae, .seed = o->seed, .crop = 64, .frames = 9, .kl = 1e-4, .edge = 1.0};
    T3V_TRY(t3v_json_string(j, f, "init", false, &init));
    T3V_TRY(t3v_json_int(j, f, "dim", false, 2, 4096, &dim));
    T3V_TRY(t3v_json_int(j, f, "crop", false, 16, 256, &task.crop));
    T3V_TRY(t3v_json_int(j, f, "frames", false, 1, 1024, &task.frames));
    T3V_TRY(t3v_json_real(j, f, "kl", false, 0, 1, &task.kl));
    T3V_TRY(t3v_json_real(j, f, "edge", false, 0, 100, &task.edge));
    T3V_TRY(t3v_json_bool(j, f, "fold", false, &fold));
    T3V_TRY(t3v_json_bool(j, f, "inflate", false, &inflate));
    t3v_dtype compute = common->bf16 ? T3V_BF16 : T3V_F32;
    t3v_status st = fill_vae(&vae, init, dim, o->seed, &arena, compute);
    if (!st && (task.crop % vae.stride || task.frames % 4 != 1))
        st = t3v_fail(T3V_E_ARG, "%s: crop %lld and frames %lld; expected a multiple of %lld and 4n+1", f,
                      (long long)task.crop, (long long)task.frames, (long long)vae.stride);
    if (!st && inflate) t3v_task_vae_inflate(&vae);
    t3v_task t = t3v_task_vae_make(&task, compute);
    if (!st) st = t3v_train(&t, o, 1, a->out, a->resume, a->stop_after, settings, progress);
    if (!st && fold) st = finish_vae(&task, a->out, progress);
    t3v_vae_close(&vae);
    t3v_arena_close(&arena);
    return st;
}

/* ---- DiT ----------------------------------------------------------------------------------------- */

static t3v_status train_dit(const json_t *j, const args *a, const cli_common *common, t3v_train_options *o,
                            const char *settings, const t3v_progress *progress)
{
    const char *f = a->config, *init = NULL, *cache = NULL, *plan = "full";
    t3v_task_dit task = {
        .seed = o->seed, .size = 128, .frames = 17, .clips = 4096, .flow = {.shift = 3}, .drop = 0.1};
    T3V_TRY(t3v_json_string(j, f, "init", true, &init));
    T3V_TRY(t3v_json_string(j, f, "cache", false, &cache));
    T3V_TRY(t3v_json_string(j, f, "plan", false, &plan));
    T3V_TRY(t3v_json_int(j, f, "size", false, 16, 4096, &task.size));
    T3V_TRY(t3v_json_int(j, f, "frames", false, 1, 1024, &task.frames));
    T3V_TRY(t3v_json_int(j, f, "clips", false, 1, 1 << 24, &task.clips));
    T3V_TRY(t3v_json_real(j, f, "shift", false, 0.01, 100, &task.flow.shift));
    T3V_TRY(t3v_json_real(j, f, "drop", false, 0, 1, &task.drop));
    T3V_TRY(t3v_json_bool(j, f, "recompute", false, &task.flow.recompute));
    T3V_TRY(t3v_json_bool(j, f, "freeze_text", false, &task.freeze_text));
    T3V_TRY(t3v_json_int(j, f, "range", false, 0, 1 << 30, &task.flow.range));
    t3v_model_paths paths = {.model = init};
    t3v_status st = t3v_model_open(&task.model, &paths, T3V_PART_ALL, common->bf16 ? T3V_BF16 : T3V_F32,
                                   true);
    if (!st) st = t3v_task_dit_open(&task, plan, cache, progress);
    if (!st) {
        t3v_task t = t3v_task_dit_make(&task);
        st = t3v_train(&t, o, 1, a->out, a->resume, a->stop_after, settings, progress);
    }
    t3v_task_dit_close(&task);
    t3v_model_close(task.model);
    return st;
}

static int run(int argc, char **argv)
{
    args a = {0};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    t3v_train_options o;
    json_t *j = NULL;
    const char *task = NULL;
    t3v_status st = t3v_json_load(&j, a.config);
    if (!st) st = t3v_json_string(j, a.config, "task", true, &task);
    if (!st && strcmp(task, "vae") == 0) st = t3v_json_only(j, a.config, vae_keys);
    if (!st && strcmp(task, "dit") == 0) st = t3v_json_only(j, a.config, dit_keys);
    if (!st) st = cli_train_options(j, a.config, true, &o);
    char *settings = !st ? t3v_json_dumps(j, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    if (!st && !settings) st = T3V_E_NOMEM;
    if (!st && strcmp(task, "vae") == 0) st = train_vae(j, &a, &common, &o, settings, &progress);
    else if (!st && strcmp(task, "dit") == 0) st = train_dit(j, &a, &common, &o, settings, &progress);
    else if (!st) rc = cli_usage("train", "%s: task is \"%s\", expected \"vae\" or \"dit\"", a.config, task);
    free(settings);
    json_decref(j);
    return st ? cli_fail(st) : rc > 0 ? rc : CLI_OK;
}

const cli_command cli_train = {"train", "train a VAE, or a DiT and its text encoder, on procedural video",
                               run};
