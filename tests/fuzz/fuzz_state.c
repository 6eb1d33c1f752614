/* SPDX-License-Identifier: Apache-2.0 */
/* What a training left, read by one that goes on: its saved state (any bytes, or one whose words and tensors the fuzzer
 * chooses) and its log. Refused, or it ends at a step of the run and the log is one of steps up to it. */
#define _GNU_SOURCE
#include <math.h>

#include "fuzz_file.h"
#include "fuzz_parts.h"
#include "io/safetensors.h"
#include "train/plot.h"
#include "train/trainer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N = 3, STEPS = 4 };
static float weights[N] = {1, 2, 3};

static t3v_status sample(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                         double *loss)
{
    (void)self, (void)worker, (void)index, (void)scale;
    if (step < 0 || step >= STEPS) abort();
    for (int i = 0; i < N; i++) ctx->param_grad[0][i] += weights[i];
    *loss = 1;
    return T3V_OK;
}

static t3v_status save(void *self, const char *dir, float *const *values)
{
    (void)self, (void)dir, (void)values;
    return T3V_OK;
}

/* "KEY VALUE" in lines as metadata, and tensors of the bytes behind an empty line. */
static void put_state(const char *path, const uint8_t *data, size_t size)
{
    enum { METAS = 8 };
    static const char *const name[] = {"master", "m", "v"};
    char *text = malloc(size + 1), *rest = NULL;
    float value[3][N + 1] = {{0}};
    t3v_meta meta[METAS];
    int metas = 0;
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = 0;
    for (char *line = strtok_r(text, "\n", &rest); line && metas < METAS;
         line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (!space) break;
        *space = 0;
        meta[metas++] = (t3v_meta){line, space + 1};
    }
    if (rest) memcpy(value, rest, strlen(rest) < sizeof value ? strlen(rest) : sizeof value);
    t3v_tensor_entry e[3];
    for (int i = 0; i < 3; i++)
        e[i] = (t3v_tensor_entry){.name = name[i],
                                  .dtype = T3V_F32,
                                  .ndim = 1,
                                  .shape = {N + (size > 0 && data[size - 1] == '+')},
                                  .data = value[i]};
    (void)t3v_safetensors_write(path, e, 3, meta,
                                metas); /* names twice, or not UTF-8: the one before stays */
    free(text);
}

static void check_log(const char *path)
{
    char *text;
    size_t n;
    if (t3v_read_text(path, 1 << 20, &text, &n)) abort();
    for (char *line = text, *end; line < text + n; line = end + 1) {
        long long step;
        end = memchr(line, '\n', (size_t)(text + n - line));
        if (!end || sscanf(line, "{\"step\":%lld", &step) != 1 || step > STEPS) abort();
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const known[] = {"state", "made", "log", NULL};
    static t3v_tensor tensor = {.type = T3V_F32, .ndim = 1, .shape = {N}, .data = weights};
    static t3v_param item = {.name = "w", .tensor = &tensor};
    static const t3v_params params = {.item = &item, .count = 1};
    const t3v_task task = {.part = {&params}, .compute = T3V_F32, .sample = sample, .save = save};
    const t3v_train_options o = {.steps = STEPS,
                                 .batch = 1,
                                 .lr = 0.1,
                                 .beta1 = 0.9,
                                 .beta2 = 0.99,
                                 .eps = 1e-8,
                                 .save_every = 1,
                                 .arena_bytes = 1 << 16};
    char path[256], log[256];
    fuzz_part part[3];
    if (size > 1 << 15) return 0;
    snprintf(path, sizeof path, "%s/state/train.safetensors", fuzz_dir());
    snprintf(log, sizeof log, "%s/log.jsonl", fuzz_dir());
    remove(path);
    remove(log);
    if (t3v_make_parents(path)) abort();
    for (int i = 0, n = fuzz_parts(data, size, known, part, 3); i < n; i++) {
        if (*part[i].name == 's') fuzz_put("state/train.safetensors", part[i].data, part[i].size);
        if (*part[i].name == 'm') put_state(path, part[i].data, part[i].size);
        if (*part[i].name == 'l') fuzz_put("log.jsonl", part[i].data, part[i].size);
    }
    if (t3v_is_file(log)) (void)t3v_train_plot(fuzz_dir());
    if (!t3v_train(&task, &o, 1, fuzz_dir(), true, 1, "{\"a\": 1}", NULL)) check_log(log);
    return 0;
}
