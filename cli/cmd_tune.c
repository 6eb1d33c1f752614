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
#include "tune_config.h"

typedef struct args {
    const char *config, *data, *out;
    bool resume, merge, dry_run, json;
    int64_t stop_after;
} args;

enum { OPT_CONFIG = 0x100, OPT_DATA, OPT_RESUME, OPT_STOP, OPT_MERGE, OPT_DRY };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "F.json", 0, "What to tune and how (see docs/training.md)", 0},
    {"data", OPT_DATA, "DIR", 0, "Latents and contexts, from t3v data latents (where F.json does not say)",
     0},
    {"output", 'o', "DIR", 0, "Gets the weights or lora.safetensors, t3v.json, log.jsonl and state/", 0},
    {"resume", OPT_RESUME, 0, 0, "Go on from DIR/state", 0},
    {"stop-after", OPT_STOP, "N", 0, "Stop after N more steps (a checkpoint is written)", 0},
    {"dry-run", OPT_DRY, 0, 0, "Say what it would take (memory, work a step), train nothing", 0},
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
    case OPT_DRY: a->dry_run = true; return 0;
    case OPT_MERGE: a->merge = true; return 0;
    case OPT_STOP:
        if (!cli_int(arg, 1, INT64_MAX, &a->stop_after))
            argp_error(state, "--stop-after %s: expected a number above 0", arg);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->config || (!a->out && !a->dry_run)) argp_error(state, "--config and -o are needed");
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
    "of its own; on latents that t3v data latents made, in one stage or several. Ctrl-C writes a checkpoint; "
    "--resume goes on to the same bytes.\v"
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

static t3v_status in_stage(t3v_status st, int stages, int i)
{
    return st && stages > 1 ? t3v_fail_in(st, "stage %d", i + 1) : st;
}

/* Each stage's data. Latents and contexts must be those of this model's VAE and text encoder. */
static t3v_status open_data(const tune_config *c, const char *option, const t3v_model_paths *paths,
                            t3v_dtype compute, t3v_dataset **data)
{
    char mine[17] = "";
    unsigned parts = T3V_PART_TEXT | T3V_PART_VAE;
    t3v_model *m = NULL;
    t3v_status st = T3V_OK;
    bool used = false;
    for (int i = 0; i < c->stages && !st; i++) {
        used |= !c->data[i];
        if (c->data[i] || option) st = t3v_dataset_open(&data[i], c->data[i] ? c->data[i] : option);
        else st = t3v_fail(T3V_E_ARG, "no data: give --data, or \"data\" in the configuration");
        st = in_stage(st, c->stages, i);
    }
    if (!st && option && !used)
        st = t3v_fail(T3V_E_ARG, "--data %s: the configuration names the data of every stage", option);
    if (!st) st = t3v_model_open(&m, paths, parts, compute, false);
    if (!st) st = t3v_fingerprint(m, parts, mine);
    for (int i = 0; i < c->stages && !st; i++)
        if (strcmp(mine, data[i]->model) != 0)
            st = in_stage(
                t3v_fail(T3V_E_ARG,
                         "%s was made with another VAE or text encoder than %s has: make it again (t3v "
                         "data latents)",
                         data[i]->path, paths->model),
                c->stages, i);
    t3v_model_close(m);
    return st;
}

static t3v_status tell_cost(t3v_task_tune *task, const tune_config *c, bool as_json)
{
    const t3v_device *device = task->model->device;
    t3v_tune_cost cost;
    double flop[TUNE_STAGES];
    T3V_TRY(t3v_task_tune_cost(task, c->optimizer, &cost, flop));
    if (!as_json) {
        printf("weights       %.4g M, of which %.4g M are trained\npeak memory   %.2f GiB%s%s\n",
               (double)cost.weights / 1e6, (double)cost.trained / 1e6, (double)cost.bytes / 0x1p30,
               device ? " of " : "", device ? device->name : "");
        for (int i = 0; i < c->stages; i++)
            printf("stage %-3d     %lld steps of %lld clips, %.4g TFLOP a step\n", i + 1,
                   (long long)c->optimizer[i].steps, (long long)c->optimizer[i].batch, flop[i] / 1e12);
        return T3V_OK;
    }
    json_t *stages = json_array();
    for (int i = 0; i < c->stages; i++)
        json_array_append_new(stages,
                              json_pack("{s:I, s:I, s:f}", "steps", (json_int_t)c->optimizer[i].steps,
                                        "batch", (json_int_t)c->optimizer[i].batch, "flop_a_step", flop[i]));
    json_t *j = json_pack("{s:I, s:I, s:I, s:o}", "weights", (json_int_t)cost.weights, "trained",
                          (json_int_t)cost.trained, "peak_bytes", (json_int_t)cost.bytes, "stages", stages);
    if (!j) return t3v_fail(T3V_E_NOMEM, "no memory for the result");
    json_dumpf(j, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(j);
    return T3V_OK;
}

static t3v_status tune(const args *a, const json_t *j, tune_config *c, const char *settings,
                       const cli_common *common, const t3v_progress *progress)
{
    t3v_dtype compute = common->bf16 ? T3V_BF16 : T3V_F32;
    t3v_dataset *data[TUNE_STAGES] = {0};
    t3v_task_tune task = {.merge = a->merge};
    t3v_status st;
    T3V_TRY(tune_config_read(j, a->config, c, &task));
    t3v_model_paths host = {.model = c->model}, paths = host, teacher = {.model = c->teacher};
    T3V_TRY_GOTO(st, done, t3v_device_open(common->device, &paths.device));
    teacher.device = paths.device;
    T3V_TRY_GOTO(st, done, open_data(c, a->data, &host, compute, data));
    for (int i = 0; i < c->stages; i++) c->stage[i].data = data[i];
    T3V_TRY_GOTO(st, done, t3v_model_open(&task.model, &paths, 0, compute, true));
    if (c->preview.prompts && !a->dry_run) {
        task.preview = &c->preview;
        c->preview.model = task.model;
        T3V_TRY_GOTO(st, done, t3v_preview_open(&c->preview));
    }
    T3V_TRY_GOTO(st, done, t3v_model_load(task.model, T3V_PART_DIT, task.kind != T3V_TRAIN_LORA));
    if (c->teacher)
        T3V_TRY_GOTO(st, done, t3v_model_open(&task.teacher, &teacher, T3V_PART_DIT, compute, false));
    T3V_TRY_GOTO(st, done, t3v_task_tune_open(&task));
    if (a->dry_run) {
        st = tell_cost(&task, c, a->json);
        goto done;
    }
    t3v_task t = t3v_task_tune_make(&task);
    T3V_TRY_GOTO(st, done,
                 t3v_train(&t, c->optimizer, c->stages, a->out, a->resume, a->stop_after, settings,
                           progress));
done:
    t3v_task_tune_close(&task);
    t3v_preview_close(&c->preview);
    t3v_model_close(task.model);
    t3v_model_close(task.teacher);
    for (int i = 0; i < TUNE_STAGES; i++) t3v_dataset_close(data[i]);
    return st;
}

static int run(int argc, char **argv)
{
    args a = {0};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    a.json = common.json;
    t3v_progress progress = cli_progress();
    json_t *j = NULL;
    tune_config *c = calloc(1, sizeof *c);
    t3v_status st = c ? t3v_json_load(&j, a.config)
                      : t3v_fail(T3V_E_NOMEM, "no memory for the configuration");
    json_t *kept = !st ? json_copy(j) : NULL; /* what is looked at is no setting of the run */
    if (kept) json_object_del(kept, "samples");
    char *settings = kept ? t3v_json_dumps(kept, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    if (!st && !settings) st = t3v_fail(T3V_E_NOMEM, "no memory for the configuration");
    if (!st) st = tune(&a, j, c, settings, &common, &progress);
    free(settings);
    free(c);
    json_decref(kept);
    json_decref(j);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_tune = {"tune", "tune a trained model, or a LoRA of it, under an attention plan", run};
