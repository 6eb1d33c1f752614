/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as config.json, t3v.json and the configuration of t3v tune: refused, or every value is in its range. */
#define _GNU_SOURCE
#include <string.h>

#include "fuzz_file.h"
#include "io/json.h"
#include "pipe/dit_config.h"
#include "pipe/model.h"
#include "pipe/schedule.h"
#include "train_options.h"
#include "tune_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds) abort();
}

static void model(const char *path)
{
    t3v_dit_config c;
    if (t3v_dit_config_read(path, &c)) return;
    check(c.dim >= 1 && c.heads >= 1 && c.layers >= 1 && c.layers <= 1024 && c.in_dim >= 1);
    t3v_dit dit;
    if (!c.text_dim) c.text_dim = 64;
    if (t3v_dit_open(&dit, &c) == T3V_OK) {
        check(dit.params.count > c.layers && c.dim % c.heads == 0);
        t3v_dit_close(&dit);
    }
}

static void defaults(const char *path)
{
    t3v_defaults d = {.steps = 50, .plan = "full", .cfg_steps = "all", .reuse = "off"};
    if (t3v_defaults_read(path, &d)) return;
    check(d.steps >= 1 && d.steps <= T3V_STEPS_MAX && d.cfg >= 0 && d.plan_grid[0] >= 0);
    int64_t range[2];
    t3v_reuse reuse;
    if (t3v_cfg_steps_parse(d.cfg_steps, d.steps, range) == T3V_OK)
        check(range[0] >= 0 && range[1] < d.steps);
    (void)t3v_reuse_parse(d.reuse, d.steps, &reuse);
    t3v_plan *plan = NULL;
    if (!strchr(d.plan, '@') && t3v_plan_make_for(&plan, d.plan, (t3v_grid){3, 4, 5}, 6, 1536, 12) == T3V_OK)
        t3v_plan_free(plan);
}

static void tune(const char *path)
{
    static tune_config c;
    t3v_task_tune task = {0};
    t3v_train_options options;
    json_t *j = NULL;
    if (t3v_json_load(&j, path)) return;
    if (tune_config_read(j, path, &c, &task) == T3V_OK) {
        check(c.model && c.stages >= 1 && c.stages <= TUNE_STAGES &&
              c.preview.prompts <= T3V_PREVIEW_PROMPTS);
        for (int i = 0; i < c.stages; i++) check(c.optimizer[i].steps >= 1 && c.optimizer[i].batch >= 1);
    }
    if (cli_train_options(j, path, true, &options) == T3V_OK) check(options.lr > 0 && options.steps >= 1);
    json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    fuzz_file f = fuzz_file_make(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0: model(f.path); break;
    case 1: defaults(f.path); break;
    default: tune(f.path);
    }
    fuzz_file_end(&f);
    return 0;
}
