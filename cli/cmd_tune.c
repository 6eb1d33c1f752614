/* SPDX-License-Identifier: Apache-2.0 */
/* t3v tune: trains a model that is trained already, or a part of it, under an attention plan, on cached latents. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "io/json.h"
#include "pipe/fingerprint.h"
#include "train/task_tune.h"
#include "train_options.h"

typedef struct args {
    const char *config, *data, *out;
    bool resume, merge;
    int64_t stop_after;
} args;

enum { OPT_CONFIG = 0x100, OPT_DATA, OPT_RESUME, OPT_STOP, OPT_MERGE };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "F.json", 0, "What to tune and how (see docs/training.md)", 0},
    {"data", OPT_DATA, "DIR", 0, "Latents and contexts, from t3v data latents", 0},
    {"output", 'o', "DIR", 0, "Gets the weights or lora.safetensors, t3v.json, log.jsonl and state/", 0},
    {"resume", OPT_RESUME, 0, 0, "Go on from DIR/state", 0},
    {"stop-after", OPT_STOP, "N", 0, "Stop after N more steps (a checkpoint is written)", 0},
    {"merge", OPT_MERGE, 0, 0, "Save the weights with the LoRA in them, too", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_CONFIG: a->config = arg; return 0;
    case OPT_DATA: a->data = arg; return 0;
    case 'o': a->out = arg; return 0;
    case OPT_RESUME: a->resume = true; return 0;
    case OPT_MERGE: a->merge = true; return 0;
    case OPT_STOP:
        if (!cli_int(arg, 1, INT64_MAX, &a->stop_after))
            argp_error(state, "--stop-after %s: expected a number above 0", arg);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->config || !a->data || !a->out) argp_error(state, "--config, --data and -o are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Tunes a trained model under another attention plan: all of it, its self-attention, a LoRA, or what the "
    "plan has "
    "of its own; on latents that t3v data latents made. Ctrl-C writes a checkpoint; --resume goes on to the "
    "same bytes.\v"
    "Example:\n"
    "  t3v data latents --model M --videos clips --size 832x480 --frames 81 -o latents\n"
    "  echo "
    "'{\"model\":\"M\",\"plan\":\"t3\",\"train\":\"lora\",\"rank\":64,\"steps\":500,\"batch\":8,\"lr\":1e-4}'"
    " > tune.json\n"
    "  t3v tune --config tune.json --data latents -o tuned\n"
    "  t3v generate --model M --lora tuned/lora.safetensors --plan t3 --prompt \"...\" -o clip.mp4",
    0,
    0,
    0};

/* The number of `text` among `name`, an error that lists them. */
static t3v_status choice(const char *path, const char *key, const char *text, const char *const *name, int n,
                         int *out)
{
    char all[128] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(text, name[i]) == 0) {
            *out = i;
            return T3V_OK;
        }
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s\"%s\"", i ? ", " : "", name[i]);
    }
    return t3v_fail(T3V_E_ARG, "%s: %s is \"%s\", expected one of %s", path, key, text, all);
}

typedef struct config {
    const char *model, *teacher, *train, *weighting;
    t3v_train_options optimizer;
} config;

static const char *const keys[] = {CLI_TRAIN_KEYS, "model", "plan",      "train", "weighting",
                                   "teacher",      "teach", "targets",   "rank",  "alpha",
                                   "shift",        "drop",  "recompute", "range", NULL};

static t3v_status read_config(const json_t *j, const char *f, config *c, t3v_task_tune *t)
{
    static const char *const kinds[] = {"full", "self", "own", "lora"}, *const weightings[] = {"none",
                                                                                               "diffsynth"};
    int kind, weighting;
    *c = (config){.train = "full", .weighting = "none"};
    t->plan_text = "full";
    t->drop = 0.1;
    t->flow = (t3v_flow){.shift = 5};
    t->lora.rank = 32;
    T3V_TRY(t3v_json_only(j, f, keys));
    T3V_TRY(cli_train_options(j, f, &c->optimizer));
    T3V_TRY(t3v_json_string(j, f, "model", true, &c->model));
    T3V_TRY(t3v_json_string(j, f, "plan", false, &t->plan_text));
    T3V_TRY(t3v_json_string(j, f, "train", false, &c->train));
    T3V_TRY(t3v_json_string(j, f, "weighting", false, &c->weighting));
    T3V_TRY(t3v_json_string(j, f, "teacher", false, &c->teacher));
    T3V_TRY(t3v_json_real(j, f, "teach", false, 0, 1, &t->flow.teach));
    T3V_TRY(t3v_json_string(j, f, "targets", false, &t->lora.targets));
    T3V_TRY(t3v_json_int(j, f, "rank", false, 1, 1 << 16, &t->lora.rank));
    T3V_TRY(t3v_json_real(j, f, "alpha", false, 1e-6, 1e6, &t->lora.alpha));
    T3V_TRY(t3v_json_real(j, f, "shift", false, 0.01, 100, &t->flow.shift));
    T3V_TRY(t3v_json_real(j, f, "drop", false, 0, 1, &t->drop));
    T3V_TRY(t3v_json_bool(j, f, "recompute", false, &t->flow.recompute));
    T3V_TRY(t3v_json_int(j, f, "range", false, 0, 1 << 30, &t->flow.range));
    T3V_TRY(choice(f, "train", c->train, kinds, 4, &kind));
    T3V_TRY(choice(f, "weighting", c->weighting, weightings, 2, &weighting));
    t->kind = (t3v_trained_kind)kind;
    t->flow.weighting = (t3v_weighting)weighting;
    t->seed = t->lora.seed = c->optimizer.seed;
    if (t->flow.teach > 0 && !c->teacher) c->teacher = c->model;
    if (c->teacher && !(t->flow.teach > 0))
        return t3v_fail(T3V_E_ARG, "%s: a teacher needs its share of the target, \"teach\", above 0", f);
    if (t->merge && t->kind != T3V_TRAIN_LORA)
        return t3v_fail(T3V_E_ARG, "--merge goes with \"train\": \"lora\"; %s has \"%s\"", f, c->train);
    return T3V_OK;
}

/* The latents and contexts must be those of this model's VAE and text encoder. */
static t3v_status check_origin(const t3v_dataset *data, const t3v_model_paths *paths, t3v_dtype compute)
{
    char mine[17] = "";
    unsigned parts = T3V_PART_TEXT | T3V_PART_VAE;
    t3v_model *m = NULL;
    t3v_status st = t3v_model_open(&m, paths, parts, compute, false);
    if (!st) st = t3v_fingerprint(m, paths, parts, mine);
    if (!st && strcmp(mine, data->model) != 0)
        st = t3v_fail(
            T3V_E_ARG,
            "%s was made with another VAE or text encoder than %s has: make it again (t3v data latents)",
            data->path, paths->model);
    t3v_model_close(m);
    return st;
}

static t3v_status tune(const args *a, const json_t *j, const char *settings, t3v_dtype compute,
                       const t3v_progress *progress)
{
    config c;
    t3v_dataset *data = NULL;
    t3v_task_tune task = {.merge = a->merge};
    t3v_status st;
    T3V_TRY(read_config(j, a->config, &c, &task));
    t3v_model_paths paths = {.model = c.model}, teacher = {.model = c.teacher};
    T3V_TRY_GOTO(st, done, t3v_dataset_open(&data, a->data));
    task.data = data;
    T3V_TRY_GOTO(st, done, check_origin(data, &paths, compute));
    T3V_TRY_GOTO(st, done, t3v_model_open(&task.model, &paths, T3V_PART_DIT, compute, true));
    if (c.teacher)
        T3V_TRY_GOTO(st, done, t3v_model_open(&task.teacher, &teacher, T3V_PART_DIT, compute, false));
    T3V_TRY_GOTO(st, done, t3v_task_tune_open(&task));
    t3v_task t = t3v_task_tune_make(&task);
    T3V_TRY_GOTO(st, done, t3v_train(&t, &c.optimizer, a->out, a->resume, a->stop_after, settings, progress));
done:
    t3v_task_tune_close(&task);
    t3v_model_close(task.model);
    t3v_model_close(task.teacher);
    t3v_dataset_close(data);
    return st;
}

static int run(int argc, char **argv)
{
    args a = {0};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    json_t *j = NULL;
    t3v_status st = t3v_json_load(&j, a.config);
    char *settings = !st ? json_dumps(j, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    if (!st && !settings) st = t3v_fail(T3V_E_NOMEM, "no memory for the configuration");
    if (!st) st = tune(&a, j, settings, common.bf16 ? T3V_BF16 : T3V_F32, &progress);
    free(settings);
    json_decref(j);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_tune = {"tune", "tune a trained model, or a LoRA of it, under an attention plan", run};
