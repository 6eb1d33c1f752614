/* SPDX-License-Identifier: Apache-2.0 */
/* The training loop and its checkpoints. */
#define _GNU_SOURCE
#include "train/trainer.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/threads.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "ops/kernels.h"
#include "train/muon.h"
#include "train/plot.h"

enum { WORKERS_MAX = 64, BAD_MOST = 10 };

typedef struct worker {
    t3v_arena arena;    /* values of one sample */
    float *grads;       /* [total] */
    float **param_grad; /* [count] into grads */
    double loss;
    t3v_status status;
    char error[512];
} worker;

typedef struct run {
    const t3v_task *task;
    const t3v_kernels *k;             /* of the memory that everything below lies in */
    const t3v_train_options *o, *now; /* of the run, and of the current stage */
    int stages, stage;
    int64_t begin, end;      /* steps before and after the current stage */
    int64_t steps;           /* of all stages */
    const t3v_param **param; /* [count] */
    int64_t *offset;         /* [count + 1] elements before each parameter */
    int64_t count, total, step, skipped;
    int64_t bad;                 /* steps in a row, up to the last one, that were skipped */
    int64_t saved;               /* step of the checkpoint that is there; -1: none */
    t3v_arena state;             /* huge pages: every step passes over all of it */
    float *master, *m, *v, *ema; /* [total] */
    int workers, workers_most;   /* of the current stage, of all */
    worker worker[WORKERS_MAX];
    const char *dir, *settings;
    FILE *log;
} run;

double t3v_train_lr(const t3v_train_options *o, int64_t step)
{
    if (step < o->warmup) return o->lr * (double)(step + 1) / (double)o->warmup;
    double span = (double)(o->steps - o->warmup), at = (double)(step - o->warmup) / (span > 1 ? span : 1);
    if (at > 1) at = 1;
    return o->lr_end + (o->lr - o->lr_end) * 0.5 * (1 + cos(3.14159265358979323846 * at));
}

/* ---- memory --------------------------------------------------------------------------------------- */

/* Of the machine's memory, or the device's: a sample that needs more is an error, not a killed process. */
static size_t machine_bytes(const t3v_device *d)
{
    size_t free_now, all;
    if (d) {
        d->memory(&free_now, &all);
        return all;
    }
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)4 << 30;
}

/* n numbers of the state, zero. */
static float *take_floats(run *r, int64_t n)
{
    float *p = t3v_arena_twin(&r->state, t3v_arena_take(&r->state, (size_t)n, sizeof *p));
    if (p && r->task->device) r->k->clear(p, (size_t)n * sizeof *p); /* fresh pages of the host are zero */
    return p;
}

/* Where the host reads and fills numbers of the state: p itself, or a copy's place, which take_state and give_state bring
 * up to date. */
static float *at_host(const run *r, float *p)
{
    const t3v_arena *a = &r->state;
    return a->twin ? (float *)(void *)(a->base + ((unsigned char *)p - a->twin)) : p;
}

static t3v_status take_state(const run *r, float *p)
{
    const t3v_device *d = r->task->device;
    return d ? d->pull(at_host(r, p), p, (size_t)r->total * sizeof *p) : T3V_OK;
}

static t3v_status give_state(const run *r, float *p)
{
    const t3v_device *d = r->task->device;
    return d ? d->push(p, at_host(r, p), (size_t)r->total * sizeof *p) : T3V_OK;
}

static t3v_status open_worker(const run *r, worker *k)
{
    size_t bytes = r->o->arena_bytes ? r->o->arena_bytes : machine_bytes(r->task->device);
    return t3v_arena_open_in(&k->arena, bytes, t3v_device_space(r->task->device));
}

static t3v_status collect(run *r)
{
    for (int k = 0; k < 4 && r->task->part[k]; k++) r->count += r->task->part[k]->count;
    r->param = calloc((size_t)r->count, sizeof *r->param);
    r->offset = calloc((size_t)r->count + 1, sizeof *r->offset);
    if (!r->param || !r->offset)
        return t3v_fail(T3V_E_NOMEM, "no memory for %lld parameters", (long long)r->count);
    int64_t i = 0;
    for (int k = 0; k < 4 && r->task->part[k]; k++)
        for (int64_t j = 0; j < r->task->part[k]->count; j++, i++) {
            r->param[i] = &r->task->part[k]->item[j];
            r->offset[i + 1] = r->offset[i] + t3v_numel(r->param[i]->tensor);
        }
    r->total = r->offset[r->count];
    float **buffers[] = {&r->master, &r->m, &r->v, r->o->ema > 0 ? &r->ema : NULL};
    T3V_TRY(t3v_arena_open_in(&r->state,
                              (size_t)(4 + r->workers_most) * ((size_t)r->total * sizeof(float) + 4096),
                              t3v_device_space(r->task->device)));
    for (int k = 0; k < 4; k++)
        if (buffers[k] && !(*buffers[k] = take_floats(r, r->total)))
            return t3v_fail(T3V_E_NOMEM, "no memory for the optimizer state of %lld weights",
                            (long long)r->total);
    for (int w = 0; w < r->workers_most; w++) {
        worker *k = &r->worker[w];
        T3V_TRY(open_worker(r, k));
        k->grads = take_floats(r, r->total);
        k->param_grad = calloc((size_t)r->count, sizeof *k->param_grad);
        if (!k->grads || !k->param_grad)
            return t3v_fail(T3V_E_NOMEM, "no memory for the gradients of worker %d", w);
        for (i = 0; i < r->count; i++) k->param_grad[i] = k->grads + r->offset[i];
    }
    for (i = 0; i < r->count; i++) {
        t3v_tensor *t = r->param[i]->tensor;
        t->needs_grad = true;
        t->param = (int32_t)i + 1;
        r->k->rows_convert(r->master + r->offset[i], T3V_F32, t->data, t->type, t3v_numel(t));
    }
    if (r->ema) r->k->move(r->ema, r->master, (size_t)r->total * sizeof(float));
    return T3V_OK;
}

static void release(run *r)
{
    for (int64_t i = 0; i < r->count && r->param; i++)
        if (r->param[i]) {
            r->param[i]->tensor->needs_grad = false;
            r->param[i]->tensor->param = 0;
        }
    for (int w = 0; w < r->workers_most; w++) {
        t3v_arena_close(&r->worker[w].arena);
        free(r->worker[w].param_grad);
    }
    free(r->param);
    free(r->offset);
    t3v_arena_close(&r->state);
    if (r->log) fclose(r->log);
}

/* Gives the forward pass these values. */
static void publish(run *r, const float *values)
{
    for (int64_t i = 0; i < r->count; i++) {
        t3v_tensor *t = r->param[i]->tensor;
        r->k->rows_convert(t->data, t->type, values + r->offset[i], T3V_F32, t3v_numel(t));
    }
}

/* ---- checkpoints ---------------------------------------------------------------------------------- */

static t3v_status make_dir(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return T3V_OK;
    return t3v_fail(T3V_E_IO, "cannot make the directory %s: %s", path, strerror(errno));
}

static void state_path(const run *r, char *path, size_t n)
{
    snprintf(path, n, "%s/state/train.safetensors", r->dir);
}

static t3v_status save_state(run *r)
{
    char path[4096], step[32], skipped[32], stage[32];
    snprintf(path, sizeof path, "%s/state", r->dir);
    T3V_TRY(make_dir(path));
    state_path(r, path, sizeof path);
    snprintf(step, sizeof step, "%lld", (long long)r->step);
    snprintf(skipped, sizeof skipped, "%lld", (long long)r->skipped);
    snprintf(stage, sizeof stage, "%d", r->stage + 1);
    int metas = 3;
    t3v_meta meta[5] = {{"step", step}, {"skipped", skipped}, {"settings", r->settings}};
    if (r->stages > 1) meta[metas++] = (t3v_meta){"stage", stage};
    if (r->task->data) meta[metas++] = (t3v_meta){"data", r->task->data};
    t3v_tensor_entry e[4] = {{.name = "master"}, {.name = "m"}, {.name = "v"}, {.name = "ema"}};
    float *part[4] = {r->master, r->m, r->v, r->ema};
    int n = r->ema ? 4 : 3;
    for (int i = 0; i < n; i++) {
        T3V_TRY(take_state(r, part[i]));
        e[i].data = at_host(r, part[i]);
        e[i].dtype = T3V_F32;
        e[i].ndim = 1;
        e[i].shape[0] = e[i].numel = r->total;
        e[i].nbytes = r->total * 4;
    }
    return t3v_safetensors_write(path, e, n, meta, metas);
}

static const char *meta_of(const t3v_tensor_file *f, const char *key)
{
    for (int64_t i = 0; i < f->meta_count; i++)
        if (strcmp(f->meta[i].key, key) == 0) return f->meta[i].value;
    return "";
}

/* Says which key of two configurations differs. */
static t3v_status other_settings(const run *r, const char *path, const char *there)
{
    json_t *old = NULL, *new = NULL, *value;
    const char *key, *which = NULL;
    if (!t3v_json_parse(&old, path, there, strlen(there)) &&
        !t3v_json_parse(&new, path, r->settings, strlen(r->settings))) {
        json_object_foreach(new, key, value) if (!which && !json_equal(value, json_object_get(old, key)))
            which = key;
        json_object_foreach(old, key, value) if (!which && !json_object_get(new, key)) which = key;
    }
    t3v_status st =
        t3v_fail(T3V_E_ARG,
                 "%s was made with other settings (\"%s\" differs); resume with the same configuration or "
                 "use another -o",
                 path, which ? which : "configuration");
    json_decref(old);
    json_decref(new);
    return st;
}

/* A number of steps that a saved state says. */
static t3v_status count_of(const t3v_tensor_file *f, const char *path, const char *key, int64_t most,
                           int64_t *out)
{
    const char *text = meta_of(f, key);
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (!errno && *text && !*end && *out >= 0 && *out <= most) return T3V_OK;
    *out = 0;
    return t3v_fail(T3V_E_FORMAT, "%s: %s is \"%s\", expected 0 to %lld", path, key, text, (long long)most);
}

static t3v_status load_state(run *r)
{
    char path[4096];
    state_path(r, path, sizeof path);
    t3v_tensor_file *f = NULL;
    T3V_TRY(t3v_tensors_open(&f, path));
    t3v_status st = T3V_OK;
    if (strcmp(meta_of(f, "settings"), r->settings) != 0)
        st = other_settings(r, path, meta_of(f, "settings"));
    const char *data = meta_of(f, "data");
    if (!st && *data && r->task->data && strcmp(data, r->task->data) != 0)
        st = t3v_fail(T3V_E_ARG,
                      "%s learnt from other data (%s); this is %s. Resume with the same, or use another -o",
                      path, data, r->task->data);
    struct {
        const char *name;
        float *data;
    } part[] = {{"master", r->master}, {"m", r->m}, {"v", r->v}, {"ema", r->ema}};
    for (int i = 0; i < 4 && !st; i++) {
        if (!part[i].data) continue;
        st = t3v_tensors_read(f, part[i].name, 1, (int64_t[]){r->total}, at_host(r, part[i].data), T3V_F32);
        if (!st) st = give_state(r, part[i].data);
    }
    if (!st) st = count_of(f, path, "step", r->steps, &r->step);
    if (!st) st = count_of(f, path, "skipped", r->step, &r->skipped);
    r->saved = r->step;
    t3v_tensors_close(f);
    if (!st) publish(r, r->master);
    return st;
}

static t3v_status save(run *r)
{
    T3V_TRY(save_state(r));
    float **values = calloc((size_t)r->count, sizeof *values);
    if (!values) return t3v_fail(T3V_E_NOMEM, "no memory to save");
    float *all = at_host(r, r->ema ? r->ema : r->master); /* where save_state has just taken it */
    for (int64_t i = 0; i < r->count; i++) values[i] = all + r->offset[i];
    t3v_status st = r->task->save(r->task->self, r->dir, values);
    free(values);
    if (!st) r->saved = r->step;
    return st ? st : t3v_train_plot(r->dir);
}

/* The log keeps the lines up to the step that a resume starts from. */
static t3v_status open_log(run *r, bool resume)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/log.jsonl", r->dir);
    static const char head[] = "{\"step\":";
    char *text = NULL;
    size_t size = 0, kept = 0, n = sizeof head - 1;
    if (resume && t3v_is_file(path)) T3V_TRY(t3v_read_text(path, (size_t)1 << 30, &text, &size));
    while (kept < size) {
        const char *line = text + kept, *end = memchr(line, '\n', size - kept);
        char *after = NULL;
        if (!end || strncmp(line, head, n) != 0 || strtoll(line + n, &after, 10) > r->step ||
            after == line + n)
            break;
        kept += (size_t)(end - line) + 1;
    }
    t3v_status st = t3v_write_text(path, text ? text : "", kept); /* a full disk leaves the old one */
    free(text);
    if (st) return st;
    r->log = fopen(path, "a");
    return r->log ? T3V_OK : t3v_fail(T3V_E_IO, "cannot write %s: %s", path, strerror(errno));
}

/* ---- one step ------------------------------------------------------------------------------------- */

static t3v_status gradients(run *r, double *loss)
{
    const t3v_task *task = r->task;
#pragma omp parallel num_threads(r->workers)
    {
        int me = omp_get_thread_num();
        worker *k = &r->worker[me];
        r->k->clear(k->grads, (size_t)r->total * sizeof(float));
        k->loss = 0;
        k->status = T3V_OK;
        for (int64_t i = me; i < r->now->batch && !k->status; i += r->workers) {
            t3v_tape tape = {0};
            t3v_ctx ctx = {.arena = &k->arena,
                           .tape = &tape,
                           .compute = task->compute,
                           .param_grad = k->param_grad};
            double one = 0;
            t3v_arena_back(&k->arena, 0);
            k->status = task->sample(task->self, &ctx, me, r->step, i, 1.0 / (double)r->now->batch, &one);
            k->loss += one / (double)r->now->batch;
            if (k->status) snprintf(k->error, sizeof k->error, "%s", t3v_error_text());
        }
    }
    *loss = 0;
    for (int w = 0; w < r->workers; w++) {
        if (r->worker[w].status) return t3v_fail(r->worker[w].status, "%s", r->worker[w].error);
        *loss += r->worker[w].loss;
    }
    for (int w = 1; w < r->workers; w++)
        r->k->rows_add(r->worker[0].grads, r->worker[0].grads, r->worker[w].grads, r->total);
    return T3V_OK;
}

/* Parameter i by Muon, on one thread; the worker's gradients and arena are free by now. */
static t3v_status update_muon(run *r, int64_t i, worker *k, const t3v_adamw *a)
{
    const t3v_train_options *o = r->o;
    t3v_tensor *t = r->param[i]->tensor;
    int64_t at = r->offset[i], n = t3v_numel(t);
    size_t mark = t3v_arena_mark(&k->arena);
    float *step = t3v_arena_twin(&k->arena, t3v_arena_take(&k->arena, (size_t)n, sizeof *step));
    if (!step) return t3v_fail(T3V_E_NOMEM, "no memory for a step of %s", r->param[i]->name);
    t3v_status st = t3v_muon_step(r->m + at, r->worker[0].grads + at, a->grad_scale, o->momentum, t->shape[0],
                                  t->shape[1], step, &k->arena);
    if (!st) {
        r->k->rows_lincomb(r->master + at, T3V_F32, 1 - a->lr * a->weight_decay, r->master + at, T3V_F32,
                           -a->lr, step, T3V_F32, n);
        if (r->ema)
            r->k->rows_lincomb(r->ema + at, T3V_F32, a->ema_decay, r->ema + at, T3V_F32, 1 - a->ema_decay,
                               r->master + at, T3V_F32, n);
        r->k->rows_convert(t->data, t->type, r->master + at, T3V_F32, n);
    }
    t3v_arena_back(&k->arena, mark);
    return st;
}

static t3v_status update(run *r, double norm)
{
    const t3v_train_options *o = r->o;
    /* the average starts with the last values, not the first: a decay that grows with the steps done of the stage */
    int64_t at_stage = r->step - r->begin;
    double ema = (1.0 + (double)at_stage) / (10.0 + (double)at_stage);
    t3v_adamw all = {.lr = (float)t3v_train_lr(r->now, at_stage),
                     .beta1 = (float)o->beta1,
                     .beta2 = (float)o->beta2,
                     .eps = (float)o->eps,
                     .weight_decay = (float)o->weight_decay,
                     .grad_scale = (float)(o->clip > 0 && norm > o->clip ? o->clip / norm : 1.0),
                     .ema_decay = (float)(ema < o->ema ? ema : o->ema),
                     .step = r->step + 1};
    for (int64_t i = 0; i < r->count; i++) {
        if (o->muon && t3v_muon_takes(r->param[i])) continue;
        t3v_tensor *t = r->param[i]->tensor;
        int64_t at = r->offset[i], n = t3v_numel(t);
        t3v_adamw a = all;
        if (!r->param[i]->matrix) a.weight_decay = 0;
        bool half = t->type == T3V_BF16;
        r->k->rows_adamw(r->master + at, r->m + at, r->v + at, half ? t->data : NULL,
                         r->ema ? r->ema + at : NULL, r->worker[0].grads + at, &a, n);
        if (!half) r->k->move(t->data, r->master + at, (size_t)n * sizeof(float));
    }
    if (!o->muon) return T3V_OK;
#pragma omp parallel num_threads(r->workers)
    {
        worker *k = &r->worker[omp_get_thread_num()];
        k->status = T3V_OK;
        t3v_arena_back(&k->arena, 0);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < r->count; i++)
            if (t3v_muon_takes(r->param[i]) && !k->status && (k->status = update_muon(r, i, k, &all)))
                snprintf(k->error, sizeof k->error, "%s", t3v_error_text());
    }
    for (int w = 0; w < r->workers; w++)
        if (r->worker[w].status) return t3v_fail(r->worker[w].status, "%s", r->worker[w].error);
    return T3V_OK;
}

static t3v_status log_step(run *r, double loss, double norm, double seconds)
{
    char extra[512] = "", stage[32] = "", card[48] = "";
    const t3v_device *d = r->task->device;
    if (r->task->log) r->task->log(r->task->self, extra, sizeof extra);
    if (r->stages > 1) snprintf(stage, sizeof stage, "\"stage\":%d,", r->stage + 1);
    if (d) snprintf(card, sizeof card, ",\"peak_device_bytes\":%zu", d->peak());
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    fprintf(r->log,
            "{\"step\":%lld,%s\"loss\":%.6g,\"lr\":%.4g,\"grad_norm\":%.5g,\"skipped\":%lld,\"samples\":%lld,"
            "\"seconds\":%.4g,\"peak_rss_bytes\":%lld%s%s%s}\n",
            (long long)r->step, stage, isfinite(loss) ? loss : -1.0,
            t3v_train_lr(r->now, r->step - 1 - r->begin), isfinite(norm) ? norm : -1.0, (long long)r->skipped,
            (long long)r->now->batch, seconds, (long long)u.ru_maxrss * 1024, card, *extra ? "," : "", extra);
    if (fflush(r->log) == 0) return T3V_OK;
    return t3v_fail(T3V_E_IO, "cannot write %s/log.jsonl: %s", r->dir, strerror(errno));
}

/* A few bad steps are noise; more in a row will not end by themselves. */
static t3v_status check_finite(const run *r)
{
    char kept[64] = "there is no checkpoint yet";
    if (r->bad < BAD_MOST) return T3V_OK;
    if (r->saved >= 0) snprintf(kept, sizeof kept, "the checkpoint of step %lld stays", (long long)r->saved);
    return t3v_fail(
        T3V_E_INTERNAL,
        "step %lld: loss or gradient is not finite for the %dth time in a row; %s. Try a lower lr, more "
        "warmup or --precision f32, and see with t3v inspect whether the weights are whole",
        (long long)r->step, BAD_MOST, kept);
}

static t3v_status check_options(const t3v_train_options *o, int64_t save_every)
{
    if (o->steps < 1 || o->batch < 1 || save_every < 1)
        return t3v_fail(T3V_E_ARG, "training: steps, batch and save_every must be at least 1");
    if (!(o->lr > 0) || !(o->lr_end >= 0))
        return t3v_fail(T3V_E_ARG, "training: lr is %g, expected a number above 0", o->lr);
    if (!(o->ema >= 0 && o->ema < 1))
        return t3v_fail(T3V_E_ARG, "training: ema is %g, expected 0 to below 1", o->ema);
    return T3V_OK;
}

/* ---- stages ----------------------------------------------------------------------------------------- */

/* A device works for one thread of the host, on one sample after the other. */
static int workers_for(const run *r, const t3v_train_options *o)
{
    if (r->task->device) return 1;
    int n = t3v_threads() < o->batch ? t3v_threads() : (int)o->batch;
    return n < WORKERS_MAX ? n : WORKERS_MAX;
}

static t3v_status check_stages(run *r)
{
    for (int i = 0; i < r->stages; i++) {
        t3v_status st = check_options(&r->o[i], r->o->save_every);
        if (st) return r->stages > 1 ? t3v_fail_in(st, "stage %d", i + 1) : st;
        if (!t3v_add(r->steps, r->o[i].steps, &r->steps))
            return t3v_fail(T3V_E_TOO_BIG, "training: the steps of all stages are more than 2^63");
        int n = workers_for(r, &r->o[i]);
        if (n > r->workers_most) r->workers_most = n;
    }
    return T3V_OK;
}

/* The stage that step r->step is in; after the last step, the last. */
static t3v_status enter(run *r)
{
    r->begin = 0;
    r->stage = 0;
    while (r->stage + 1 < r->stages && r->step >= r->begin + r->o[r->stage].steps)
        r->begin += r->o[r->stage++].steps;
    r->now = &r->o[r->stage];
    r->end = r->begin + r->now->steps;
    r->workers = workers_for(r, r->now);
    t3v_status st = r->task->enter ? r->task->enter(r->task->self, r->stage) : T3V_OK;
    return st && r->stages > 1 ? t3v_fail_in(st, "stage %d", r->stage + 1) : st;
}

/* Shows what the weights that would be saved now can do. They are put in the place of those in training and taken out
 * again, so nothing of the run changes. What cannot be rendered is no reason to stop. */
static t3v_status render(run *r, const t3v_progress *progress)
{
    const t3v_task *t = r->task;
    if (!t->render || (r->step != r->end && r->step % t->render_every != 0)) return T3V_OK;
    for (int w = 0; w < r->workers_most; w++) { /* its memory is not needed meanwhile */
        t3v_arena_close(&r->worker[w].arena);
        T3V_TRY(open_worker(r, &r->worker[w]));
    }
    if (r->ema) publish(r, r->ema);
    t3v_status st = t->render(t->self, r->dir, r->step, progress);
    if (r->ema) publish(r, r->master);
    if (st && st != T3V_E_CANCEL) {
        t3v_warn("the samples of step %lld could not be made: %s", (long long)r->step, t3v_error_text());
        st = T3V_OK;
    }
    return st;
}

/* Steps until `end` of the run or of the stage; *stop: the run was cancelled. */
static t3v_status run_steps(run *r, int64_t end, const t3v_progress *progress, t3v_status *stop)
{
    if (end > r->end) end = r->end;
    while (r->step < end) {
        double start = t3v_now(), loss;
        if ((*stop = t3v_report(progress, "train", r->step, r->steps))) return T3V_OK;
        T3V_TRY(gradients(r, &loss));
        double norm = sqrt(r->k->rows_sumsq(r->worker[0].grads, T3V_F32, r->total));
        if (r->task->device) T3V_TRY(r->task->device->finish()); /* a number may be what a failure left */
        bool good = isfinite(norm) && isfinite(loss);
        if (good) T3V_TRY(update(r, norm));
        r->bad = good ? 0 : r->bad + 1;
        r->skipped += !good;
        r->step++;
        T3V_TRY(log_step(r, loss, norm, t3v_now() - start));
        T3V_TRY(check_finite(r));
        if ((*stop = render(r, progress))) return T3V_OK;
        if (r->step % r->o->save_every == 0 && r->step < end) T3V_TRY(save(r));
    }
    return T3V_OK;
}

/* Gradients of one sample of the current stage, without its data. */
static t3v_status count_sample(const run *r, int64_t count, int64_t *bytes)
{
    t3v_arena arena;
    T3V_TRY(t3v_arena_count_in(&arena, t3v_device_space(r->task->device)));
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .tape = &tape, .compute = r->task->compute};
    /* Gradients of parameters lie in the state: here they only need to have addresses. */
    float **grad = t3v_temp(&ctx, count, sizeof *grad), *some = t3v_temp(&ctx, 1, sizeof *some);
    for (int64_t i = 0; i < count && !ctx.status; i++) grad[i] = some;
    ctx.param_grad = grad;
    double loss = 0;
    t3v_status st = ctx.status ? ctx.status : r->task->sample(r->task->self, &ctx, 0, r->begin, 0, 1, &loss);
    *bytes = (int64_t)arena.peak;
    t3v_arena_close(&arena);
    return st;
}

t3v_status t3v_train_bytes(const t3v_task *task, const t3v_train_options *o, int stages, int64_t *bytes)
{
    run r = {.task = task, .o = o, .stages = stages};
    int64_t total = 0, count = 0, most = 0;
    T3V_TRY(check_stages(&r));
    for (int k = 0; k < 4 && task->part[k]; k++)
        for (int64_t i = 0; i < task->part[k]->count; i++) {
            t3v_tensor *t = task->part[k]->item[i].tensor;
            t->needs_grad = true;
            t->param = (int32_t)++count;
            total += t3v_numel(t);
        }
    for (int i = 0; i < stages; i++) {
        int64_t one;
        T3V_TRY(enter(&r));
        T3V_TRY(count_sample(&r, count, &one));
        if (one * r.workers > most) most = one * r.workers;
        r.step = r.end;
    }
    *bytes = ((o->ema > 0 ? 4 : 3) + r.workers_most) * total * (int64_t)sizeof(float) + most;
    return T3V_OK;
}

t3v_status t3v_train(const t3v_task *task, const t3v_train_options *o, int stages, const char *dir,
                     bool resume, int64_t stop_after, const char *settings, const t3v_progress *progress)
{
    run *r = calloc(1, sizeof *r);
    if (!r) return t3v_fail(T3V_E_NOMEM, "no memory for the trainer");
    *r = (run){.task = task, .o = o, .stages = stages, .dir = dir, .settings = settings, .saved = -1};
    r->k = task->device ? task->device->kernels : &t3v_kernels_cpu;
    t3v_status st = check_stages(r), stop = T3V_OK;
    if (!st) st = make_dir(dir);
    if (!st) st = collect(r);
    if (!st && resume) st = load_state(r);
    if (!st) st = open_log(r, resume);
    if (!st) publish(r, r->master);
    int64_t end = stop_after > 0 && r->step + stop_after < r->steps ? r->step + stop_after : r->steps;
    if (!st) st = enter(r);
    while (!st && !(st = run_steps(r, end, progress, &stop)) && !stop && r->step < end)
        if (!(st = save(r))) st = enter(r); /* the end of a stage */
    if (!st && (st = save(r)) == T3V_OK && !stop) st = t3v_report(progress, "train", r->step, r->steps);
    if (!st && stop) st = t3v_fail(stop, "stopped at step %lld; continue with --resume", (long long)r->step);
    release(r);
    free(r);
    return st;
}
