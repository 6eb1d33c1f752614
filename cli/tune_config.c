/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of t3v tune: what the file says of the whole run, of its stages, and of what is rendered. */
#include "tune_config.h"

#include <stdio.h>
#include <string.h>

#include "io/json.h"
#include "pipe/schedule.h"
#include "train_options.h"

/* Keys of a stage; in the file itself they are the stages' defaults. */
#define STAGE_KEYS "data", "plan", "shift", "weighting", "teach", "teach_layers", "recompute", "range"

static const char *const keys[] = {CLI_TRAIN_KEYS, STAGE_KEYS, "model", "train", "teacher",
                                   "targets",      "rank",     "alpha", "drop",  "first_frame",
                                   "stages",       "samples",  NULL};
static const char *const stage_keys[] = {CLI_STAGE_KEYS, STAGE_KEYS, NULL};
static const char *const sample_keys[] = {"prompts", "every", "steps", "cfg", "seed", "size", "frames", NULL};

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

/* Number i of the configuration, which holds what the keys' absence means. */
static t3v_status read_stage(const json_t *j, const char *f, tune_config *c, int i)
{
    static const char *const names[] = {"none", "diffsynth"};
    t3v_tune_stage *s = &c->stage[i];
    int weighting = (int)s->flow.weighting;
    const char *name = names[weighting];
    T3V_TRY(t3v_json_string(j, f, "data", false, &c->data[i]));
    T3V_TRY(t3v_json_string(j, f, "plan", false, &s->plan_text));
    T3V_TRY(t3v_json_real(j, f, "shift", false, 0.01, 100, &s->flow.shift));
    T3V_TRY(t3v_json_string(j, f, "weighting", false, &name));
    T3V_TRY(choice(f, "weighting", name, names, 2, &weighting));
    s->flow.weighting = (t3v_weighting)weighting;
    T3V_TRY(t3v_json_real(j, f, "teach", false, 0, 1, &s->flow.teach));
    T3V_TRY(t3v_json_real(j, f, "teach_layers", false, 0, 1e6, &s->flow.teach_layers));
    T3V_TRY(t3v_json_bool(j, f, "recompute", false, &s->flow.recompute));
    return t3v_json_int(j, f, "range", false, 0, 1 << 30, &s->flow.range);
}

static t3v_status read_stages(const json_t *j, const char *f, tune_config *c)
{
    json_t *list = NULL;
    T3V_TRY(t3v_json_array(j, f, "stages", false, &list));
    bool steps = json_object_get(j, "steps") != NULL;
    if (!list) {
        c->stages = 1;
        return steps ? T3V_OK : t3v_fail(T3V_E_FORMAT, "%s: key \"steps\" is missing", f);
    }
    size_t n = json_array_size(list);
    if (n < 1 || n > TUNE_STAGES)
        return t3v_fail(T3V_E_FORMAT, "%s: %zu stages, expected 1 to %d", f, n, TUNE_STAGES);
    if (steps) return t3v_fail(T3V_E_FORMAT, "%s: with \"stages\", \"steps\" belongs to each of them", f);
    c->stages = (int)n;
    for (int i = c->stages - 1; i >= 0; i--) { /* the first comes last: the others start from its defaults */
        char label[4096];
        const json_t *s = json_array_get(list, (size_t)i);
        snprintf(label, sizeof label, "%s: stage %d", f, i + 1);
        if (!json_is_object(s)) return t3v_fail(T3V_E_FORMAT, "%s is not an object", label);
        T3V_TRY(t3v_json_only(s, label, stage_keys));
        c->stage[i] = c->stage[0];
        c->optimizer[i] = c->optimizer[0];
        c->data[i] = c->data[0];
        T3V_TRY(cli_train_stage(s, label, true, &c->optimizer[i]));
        T3V_TRY(read_stage(s, label, c, i));
    }
    return T3V_OK;
}

static t3v_status read_samples(const json_t *j, const char *f, tune_config *c, t3v_task_tune *t)
{
    json_t *s = NULL, *prompts = NULL;
    t3v_preview *p = &c->preview;
    char label[4096];
    T3V_TRY(t3v_json_object(j, f, "samples", false, &s));
    if (!s) return T3V_OK;
    snprintf(label, sizeof label, "%s: samples", f);
    *p = (t3v_preview){.cfg = -1};
    int64_t seed = 0, size[2] = {0, 0};
    int sides = 2;
    t->preview_every = c->optimizer[0].save_every;
    T3V_TRY(t3v_json_only(s, label, sample_keys));
    T3V_TRY(t3v_json_array(s, label, "prompts", true, &prompts));
    T3V_TRY(t3v_json_int(s, label, "every", false, 1, INT64_MAX, &t->preview_every));
    T3V_TRY(t3v_json_int(s, label, "steps", false, 1, T3V_STEPS_MAX, &p->steps));
    T3V_TRY(t3v_json_real(s, label, "cfg", false, 0, 100, &p->cfg));
    T3V_TRY(t3v_json_int(s, label, "seed", false, 0, INT64_MAX, &seed));
    T3V_TRY(t3v_json_ints(s, label, "size", false, 16, 1 << 14, size, 2, &sides));
    T3V_TRY(t3v_json_int(s, label, "frames", false, 1, 1 << 16, &t->preview_size[2]));
    p->seed = (uint64_t)seed;
    if (sides != 2 || size[0] % 16 || size[1] % 16)
        return t3v_fail(T3V_E_FORMAT, "%s: \"size\" is [width, height], multiples of 16", label);
    memcpy(t->preview_size, size, sizeof size);
    if (t->preview_size[2] && t->preview_size[2] % 4 != 1)
        return t3v_fail(T3V_E_FORMAT, "%s: %lld frames, expected 4n+1 (1, 5, 9, ...)", label,
                        (long long)t->preview_size[2]);
    size_t n = json_array_size(prompts);
    if (n < 1 || n > T3V_PREVIEW_PROMPTS)
        return t3v_fail(T3V_E_FORMAT, "%s: %zu prompts, expected 1 to %d", label, n, T3V_PREVIEW_PROMPTS);
    for (size_t i = 0; i < n; i++)
        if (!(p->prompt[i] = json_string_value(json_array_get(prompts, i))))
            return t3v_fail(T3V_E_FORMAT, "%s: prompt %zu is not a string", label, i + 1);
    p->prompts = (int)n;
    return T3V_OK;
}

t3v_status tune_config_read(const json_t *j, const char *f, tune_config *c, t3v_task_tune *t)
{
    static const char *const kinds[] = {"full", "self", "own", "lora"};
    const char *train = "full";
    bool merge = t->merge, teaches = false;
    int kind = 0;
    *c = (tune_config){.stages = 1};
    *t = (t3v_task_tune){.merge = merge, .drop = 0.1, .lora = {.rank = 32}};
    c->stage[0] = (t3v_tune_stage){.plan_text = "full", .flow = {.shift = 5}};
    T3V_TRY(t3v_json_only(j, f, keys));
    T3V_TRY(cli_train_options(j, f, false, &c->optimizer[0]));
    T3V_TRY(read_stage(j, f, c, 0));
    T3V_TRY(read_stages(j, f, c));
    T3V_TRY(t3v_json_string(j, f, "model", true, &c->model));
    T3V_TRY(t3v_json_string(j, f, "train", false, &train));
    T3V_TRY(t3v_json_string(j, f, "teacher", false, &c->teacher));
    T3V_TRY(t3v_json_string(j, f, "targets", false, &t->lora.targets));
    T3V_TRY(t3v_json_int(j, f, "rank", false, 1, 1 << 16, &t->lora.rank));
    T3V_TRY(t3v_json_real(j, f, "alpha", false, 1e-6, 1e6, &t->lora.alpha));
    T3V_TRY(t3v_json_real(j, f, "drop", false, 0, 1, &t->drop));
    T3V_TRY(t3v_json_real(j, f, "first_frame", false, 0, 1, &t->first_frame));
    T3V_TRY(choice(f, "train", train, kinds, 4, &kind));
    T3V_TRY(read_samples(j, f, c, t));
    t->kind = (t3v_trained_kind)kind;
    t->seed = t->lora.seed = c->optimizer[0].seed;
    t->stage = c->stage;
    t->stages = c->stages;
    for (int i = 0; i < c->stages; i++)
        teaches |= c->stage[i].flow.teach > 0 || c->stage[i].flow.teach_layers > 0;
    if (teaches && !c->teacher) c->teacher = c->model;
    if (c->teacher && !teaches)
        return t3v_fail(T3V_E_ARG,
                        "%s: a teacher needs its share of the target, \"teach\", or \"teach_layers\" above 0",
                        f);
    if (t->merge && t->kind != T3V_TRAIN_LORA)
        return t3v_fail(T3V_E_ARG, "--merge goes with \"train\": \"lora\"; %s has \"%s\"", f, train);
    return T3V_OK;
}
