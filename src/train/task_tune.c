/* SPDX-License-Identifier: Apache-2.0 */
/* Tuning: samples from the data sets, and saving with the plan and grid that the weights are now for. */
#include "train/task_tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "pipe/cost.h"

static t3v_status make_plan(const t3v_task_tune *s, t3v_plan **plan, const char *text, t3v_grid grid)
{
    const t3v_dit_config *c = &s->model->config;
    return t3v_plan_make_for(plan, text, grid, (int)c->layers, c->dim, c->heads);
}

/* The plan of clips that are looked at, where they are not of the data's size. */
static t3v_status plan_look(const t3v_task_tune *s, t3v_tune_stage *g)
{
    const int64_t *size = s->preview_size;
    int64_t w = size[0] ? size[0] : g->data->width, h = size[1] ? size[1] : g->data->height;
    int64_t token = 2 * t3v_model_stride(s->model);
    t3v_grid grid = g->plan->grid;
    if (size[0] % token || size[1] % token)
        return t3v_fail(T3V_E_ARG, "samples of %lldx%lld: expected multiples of %lld", (long long)w,
                        (long long)h, (long long)token);
    if (size[0]) grid.h = h / token, grid.w = w / token;
    if (size[2]) grid.t = (size[2] - 1) / 4 + 1;
    if (memcmp(&grid, &g->plan->grid, sizeof grid) == 0) return T3V_OK;
    t3v_status st = make_plan(s, &g->look, g->plan_text, grid);
    return st ? t3v_fail_in(st, "samples of %lldx%lldx%lld", (long long)w, (long long)h,
                            (long long)(4 * grid.t - 3))
              : st;
}

static t3v_status open_stage(t3v_task_tune *s, t3v_tune_stage *g)
{
    const t3v_dit_config *c = &s->model->config;
    const t3v_dataset *d = g->data;
    const int64_t *shape = d->latent;
    if (shape[0] != c->in_dim || d->dim != c->text_dim)
        return t3v_fail(
            T3V_E_SHAPE,
            "%s has latents of %lld channels and contexts of %lld; the model takes %lld and %lld: make "
            "them with this model (t3v data latents)",
            d->path, (long long)shape[0], (long long)d->dim, (long long)c->in_dim, (long long)c->text_dim);
    if (shape[2] % 2 || shape[3] % 2)
        return t3v_fail(T3V_E_SHAPE,
                        "%s has latents of %lldx%lld: height and width must be even; take sizes that are "
                        "multiples of %lld",
                        d->path, (long long)shape[2], (long long)shape[3],
                        (long long)(2 * t3v_vae_stride(shape[0])));
    if (s->first_frame > 0 && shape[1] < 2)
        return t3v_fail(
            T3V_E_SHAPE,
            "%s has clips of one latent frame; first_frame gives that one, so clips need 5 frames or more",
            d->path);
    t3v_grid grid = {shape[1], shape[2] / 2, shape[3] / 2};
    T3V_TRY(make_plan(s, &g->plan, g->plan_text, grid));
    T3V_TRY(t3v_model_adopt(s->model, g->plan));
    if (s->preview) T3V_TRY(plan_look(s, g));
    g->flow.dit = &s->model->dit;
    g->flow.plan = g->plan;
    g->flow.steps = s->model->defaults.steps;
    if (s->teacher && (g->flow.teach > 0 || g->flow.teach_layers > 0)) {
        const t3v_dit_config *t = &s->teacher->config;
        if (t->in_dim != c->in_dim || t->text_dim != c->text_dim || t->out_dim != c->out_dim)
            return t3v_fail(T3V_E_SHAPE, "the teacher %s takes other latents or contexts than %s",
                            s->teacher->path, s->model->path);
        if (g->flow.teach_layers > 0 && (t->layers != c->layers || t->dim != c->dim))
            return t3v_fail(
                T3V_E_SHAPE,
                "teach_layers: the teacher %s has %lld layers of width %lld, the model %lld of %lld",
                s->teacher->path, (long long)t->layers, (long long)t->dim, (long long)c->layers,
                (long long)c->dim);
        T3V_TRY(make_plan(s, &g->full, "full", grid));
        g->flow.teacher = &s->teacher->dit;
        g->flow.teacher_plan = g->full;
    }
    t3v_flow_open(&g->flow);
    g->empty = malloc((size_t)(d->empty.rows * d->dim) * sizeof *g->empty);
    return g->empty ? t3v_dataset_read_empty(d, g->empty)
                    : t3v_fail(T3V_E_NOMEM, "no memory for the empty prompt");
}

t3v_status t3v_task_tune_open(t3v_task_tune *s)
{
    if (s->first_frame > 0 && t3v_dit_image_used(&s->model->config) != T3V_DIT_IMAGE_FRAME)
        return t3v_fail(
            T3V_E_ARG,
            "first_frame is %g, but %s does not go on from a first frame: models with 48 channels (TI2V "
            "of Wan2.2) do; leave it away",
            s->first_frame, s->model->path);
    for (int i = 0; i < s->stages; i++) {
        t3v_status st = open_stage(s, &s->stage[i]);
        if (st) return s->stages > 1 ? t3v_fail_in(st, "stage %d", i + 1) : st;
    }
    s->now = s->stage;
    if (!(s->data = calloc((size_t)s->stages, T3V_DATASET_TEXT + 2)))
        return t3v_fail(T3V_E_NOMEM, "no memory for %d stages", s->stages);
    for (int i = 0; i < s->stages; i++) {
        char text[T3V_DATASET_TEXT];
        t3v_dataset_describe(s->stage[i].data, text);
        sprintf(s->data + strlen(s->data), "%s%s", i ? "; " : "", text);
    }
    return t3v_trained_open(&s->trained, &s->model->dit, s->kind, &s->lora, s->model->compute);
}

void t3v_task_tune_close(t3v_task_tune *s)
{
    t3v_trained_close(&s->trained);
    free(s->data);
    for (int i = 0; i < s->stages; i++) {
        t3v_plan_free(s->stage[i].plan);
        t3v_plan_free(s->stage[i].full);
        t3v_plan_free(s->stage[i].look);
        free(s->stage[i].empty);
    }
}

t3v_status t3v_task_tune_cost(t3v_task_tune *s, const t3v_train_options *o, t3v_tune_cost *out, double *flop)
{
    const t3v_dit *dit = &s->model->dit;
    t3v_task task = t3v_task_tune_make(s);
    t3v_tensor_file *teacher = s->teacher ? s->teacher->file[0] : NULL;
    int64_t number = (int64_t)t3v_dtype_size(s->model->compute), all = t3v_params_numel(&dit->params);
    int64_t matrices = 0, mine = 0;
    bool lora = s->kind == T3V_TRAIN_LORA;
    *out = (t3v_tune_cost){.weights = all, .trained = t3v_params_numel(&s->trained.params)};
    T3V_TRY(t3v_train_bytes(&task, o, s->stages, &out->bytes));
    for (int64_t i = 0; i < dit->params.count; i++) {
        const t3v_param *p = &dit->params.item[i];
        int64_t n = t3v_numel(p->tensor);
        out->bytes += n * (p->matrix ? number : (int64_t)sizeof(float));
        matrices += p->matrix ? n : 0;
        mine += p->matrix && p->tensor->param ? n : 0;
    }
    if (lora) out->bytes += out->trained * number;
    for (int64_t i = 0; teacher && i < teacher->count; i++) out->bytes += teacher->tensors[i].nbytes;
    /* What is written, converted to its type; with a LoRA also the merged layers in F32. With the host in any case. */
    if (!s->model->device) {
        out->bytes += lora ? out->trained * 4 + (s->merge ? matrices * 4 + all * number : 0) : all * 2;
        out->bytes += T3V_PROGRAM_BYTES;
    }
    for (int i = 0; i < s->stages; i++) {
        const t3v_tune_stage *g = &s->stage[i];
        const t3v_dit_config *c = &s->model->config;
        int64_t tokens = g->plan->grid.t * g->plan->grid.h * g->plan->grid.w, steps = g->flow.steps;
        t3v_moment moment = {steps / 2, steps, 0.5, T3V_BRANCH_COND};
        double forward = t3v_dit_flop(c, g->plan, tokens, g->data->rows_max, &moment);
        /* back: the inputs' gradients, and those of the matrices that are trained */
        double passes = 2 + (double)g->flow.recompute + (double)mine / (double)matrices;
        double sample = passes * forward;
        if (g->full) sample += t3v_dit_flop(c, g->full, tokens, g->data->rows_max, &moment);
        flop[i] = sample * (double)o[i].batch;
    }
    return T3V_OK;
}

static t3v_status enter(void *self, int stage)
{
    t3v_task_tune *s = self;
    s->now = &s->stage[stage];
    return T3V_OK;
}

static t3v_status sample(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                         double *loss)
{
    (void)worker;
    t3v_task_tune *s = self;
    const t3v_tune_stage *g = s->now;
    const t3v_dataset *d = g->data;
    uint64_t stream = (uint64_t)step * 4096 + (uint64_t)index;
    t3v_rng rng = t3v_rng_make(s->seed + 1, stream);
    int64_t clip = t3v_rng_below(&rng, d->count);
    bool cond = t3v_rng_uniform(&rng) >= s->drop;
    int64_t rows = cond ? d->clip[clip].rows : d->empty.rows;
    t3v_tensor *x0 = t3v_new(ctx, T3V_BF16, 4, d->latent);
    /* What is counted is the longest prompt. */
    t3v_tensor *context = t3v_new(ctx, T3V_F32, T3V_SHAPE(ctx->arena->counting ? d->rows_max : rows, d->dim));
    if (ctx->status) return ctx->status;
    if (t3v_runs(ctx)) {
        float *text = t3v_host(ctx, context);
        T3V_TRY(t3v_dataset_read(d, clip, t3v_host(ctx, x0), cond ? text : NULL));
        if (!cond) memcpy(text, g->empty, (size_t)t3v_numel(context) * sizeof *g->empty);
    }
    t3v_give(ctx, x0);
    t3v_give(ctx, context);
    t3v_flow_noise noise = {t3v_rng_uniform(&rng), s->seed + 2, stream, cond, false};
    /* What is counted is the pass with two timesteps. */
    if (s->first_frame > 0) noise.first = ctx->arena->counting || t3v_rng_uniform(&rng) < s->first_frame;
    t3v_flow_told told;
    T3V_TRY(t3v_flow_sample(&g->flow, ctx, x0, context, &noise, scale, loss, &told));
    if (t3v_runs(ctx)) t3v_flow_levels_add(&s->levels, &told, *loss);
    return T3V_OK;
}

static t3v_status save(void *self, const char *dir, float *const *values)
{
    t3v_task_tune *s = self;
    const t3v_tune_stage *g = s->now;
    const t3v_dataset *d = g->data;
    char path[4096];
    T3V_TRY(t3v_trained_save(&s->trained, dir, values));
    if (s->merge) T3V_TRY(t3v_trained_merge(&s->trained, dir, values));
    snprintf(path, sizeof path, "%s/config.json", dir);
    T3V_TRY(t3v_dit_config_write(path, &s->model->config));
    t3v_defaults now = s->model->defaults;
    now.width = d->width;
    now.height = d->height;
    now.frames = d->frames;
    now.plan_grid[0] = g->plan->grid.t;
    now.plan_grid[1] = g->plan->grid.h;
    now.plan_grid[2] = g->plan->grid.w;
    if ((size_t)snprintf(now.plan, sizeof now.plan, "%s", g->plan_text) >= sizeof now.plan)
        return t3v_fail(T3V_E_ARG, "a plan of more than %zu characters does not fit in t3v.json",
                        sizeof now.plan - 1);
    snprintf(path, sizeof path, "%s/t3v.json", dir);
    return t3v_defaults_write(path, &now);
}

static t3v_status render(void *self, const char *dir, int64_t step, const t3v_progress *progress)
{
    const t3v_task_tune *s = self;
    const t3v_tune_stage *g = s->now;
    int64_t width = s->preview_size[0] ? s->preview_size[0] : g->data->width;
    int64_t height = s->preview_size[1] ? s->preview_size[1] : g->data->height;
    return t3v_preview_render(s->preview, g->look ? g->look : g->plan, width, height, dir, step, progress);
}

static void log_words(void *self, char *text, size_t n)
{
    t3v_flow_levels_tell(&((t3v_task_tune *)self)->levels, text, n);
}

t3v_task t3v_task_tune_make(t3v_task_tune *s)
{
    return (t3v_task){.self = s,
                      .part = {&s->trained.params},
                      .compute = s->model->compute,
                      .device = s->model->device,
                      .data = s->data,
                      .sample = sample,
                      .save = save,
                      .enter = enter,
                      .render = s->preview ? render : NULL,
                      .render_every = s->preview_every,
                      .log = log_words};
}
