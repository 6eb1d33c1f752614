/* SPDX-License-Identifier: Apache-2.0 */
/* A run's state in a file: what must agree, saving after a step or within a pass, going on. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "pipe/run.h"

static const char *const residual_name[T3V_BRANCHES] = {"residual", "residual_negative"};
static const char *const kept_name[T3V_BRANCHES] = {"attention", "attention_negative"};
static const char *const velocity_name[T3V_BRANCHES] = {"velocity", "velocity_negative"};

bool t3v_run_guided(const t3v_run *r)
{
    return r->schedule.step && t3v_schedule_asks(&r->schedule, T3V_BRANCH_UNCOND);
}

uint64_t t3v_run_seed(const t3v_run *r, int64_t index)
{
    return r->want.seed + r->want.output[index].seed_offset;
}

t3v_model *t3v_run_model(const t3v_run *r, t3v_expert e) { return e == T3V_EXPERT_LOW ? r->low : r->model; }

t3v_status t3v_run_check(const t3v_run *r)
{
    for (int e = 0; e < T3V_EXPERTS; e++) {
        const t3v_model *m = t3v_run_model(r, e);
        if (m && m->parts & T3V_PART_DIT) T3V_TRY(t3v_model_check(m, T3V_PART_DIT));
    }
    return T3V_OK;
}

/* What must agree for a saved state to be continued; malloc'd, NULL when memory runs out. */
static char *state_key(const t3v_run *r, int64_t index)
{
    const t3v_job *w = &r->want;
    char *key = NULL;
    if (asprintf(&key,
                 "%s|%s|%s|%s|%lldx%lldx%lld|%s %lld %.17g %.17g %s %lld %s|%llu %s %s|%s|%s %.17g %.17g|%s",
                 w->model, w->output[index].prompt, t3v_run_guided(r) ? w->negative : "", w->plan,
                 (long long)w->width, (long long)w->height, (long long)w->frames, w->sampler,
                 (long long)w->steps, w->shift, w->cfg, w->cfg_steps, (long long)w->dense_steps, w->reuse,
                 (unsigned long long)t3v_run_seed(r, index), w->rng, w->noise ? w->noise : "",
                 t3v_dtype_name(w->compute), r->low ? r->low->path : "", r->model->defaults.boundary,
                 w->cfg_low, w->image ? w->image : "") < 0)
        return NULL;
    for (int64_t i = 0; i < w->loras; i++) {
        char *longer = NULL;
        if (asprintf(&longer, "%s|%d:%s:%.17g", key, (int)w->lora[i].expert, w->lora[i].path,
                     w->lora[i].strength) < 0)
            longer = NULL;
        free(key);
        if (!(key = longer)) return NULL;
    }
    bool merged = w->loras && w->merge_loras;
    if (!merged && !w->products) return key;
    char *all = NULL;
    if (asprintf(&all, "%s%s%s%s", key, merged ? "|merged" : "", w->products ? "|" : "",
                 w->products ? t3v_products_name(w->products) : "") < 0)
        all = NULL;
    free(key);
    return all;
}

static char *state_path(const t3v_run *r, int64_t index)
{
    char *path = NULL;
    return asprintf(&path, "%s.t3v-state", r->want.output[index].path) < 0 ? NULL : path;
}

/* Where the host reads (`take`) or fills n bytes of the forward passes' memory; give_bytes hands them over. */
static void *at_host(const t3v_run *r, void *data, size_t n, bool take, t3v_status *st)
{
    const t3v_arena *a = &r->memory;
    if (!data || !r->device) return data;
    void *host = a->base + ((unsigned char *)data - a->twin);
    if (take && !*st) *st = r->device->pull(host, data, n);
    return host;
}

static t3v_status give_bytes(const t3v_run *r, void *data, size_t n)
{
    t3v_status st = T3V_OK;
    return r->device ? r->device->push(data, at_host(r, data, n, false, &st), n) : st;
}

static t3v_tensor_entry entry(const char *name, t3v_dtype type, int ndim, const int64_t *shape, void *data)
{
    t3v_tensor_entry e = {.name = (char *)name, .dtype = type, .ndim = ndim, .numel = 1, .data = data};
    for (int i = 0; i < ndim; i++) {
        e.shape[i] = shape[i];
        e.numel *= shape[i];
    }
    e.nbytes = e.numel * (int64_t)t3v_dtype_size(type);
    return e;
}

static t3v_tensor_entry bytes_entry(const char *name, size_t n, void *data)
{
    return entry(name, T3V_U8, 1, (int64_t[]){(int64_t)n}, data);
}

t3v_tensor_entry t3v_run_residual(const t3v_run *r, int branch)
{
    const int64_t *g = r->result.grid, shape[2] = {g[0] * g[1] * g[2], r->model->config.dim};
    return entry(residual_name[branch], r->want.compute, 2, shape, r->residual[branch]);
}

/* Whether what a branch's blocks added is used again after `step` steps and the passes of the next before `pass`. */
static bool holds(const t3v_run *r, int branch, int step, const t3v_run_pass *pass)
{
    return t3v_schedule_holds(&r->schedule, branch, step + (pass && branch < pass->branch));
}

static bool has_velocity(const t3v_run *r, int branch, int step, const t3v_run_pass *pass)
{
    return pass && branch < pass->branch && r->schedule.step[step].pass[branch] != T3V_PASS_NONE;
}

t3v_status t3v_run_save(t3v_run *r, int64_t index, const t3v_run_pass *pass)
{
    if (r->want.output[index].sink.fn || (!pass && r->saved_step == r->done_step)) return T3V_OK;
    T3V_TRY(t3v_run_check(r));
    char step[32], within[64], *path = state_path(r, index), *key = state_key(r, index);
    size_t size = t3v_sampler_state_size(r->sampler, r->n);
    void *history = malloc(size ? size : 1);
    t3v_status st = path && history && key ? T3V_OK
                                           : t3v_fail(T3V_E_NOMEM, "no memory to save the run's state");
    if (!st && r->done_step) st = t3v_sampler_state_save(r->sampler, history, size);
    if (!st) {
        t3v_tensor_entry e[3 + 3 * T3V_BRANCHES] = {entry("latent", T3V_F32, 4, r->latent, r->x)};
        int64_t n = 1;
        if (r->done_step) e[n++] = bytes_entry("sampler", size, history);
        for (int b = 0; b < T3V_BRANCHES; b++) {
            if (holds(r, b, r->done_step, pass)) {
                e[n] = t3v_run_residual(r, b);
                e[n].data = at_host(r, r->residual[b], (size_t)e[n].nbytes, true, &st);
                n++;
            }
            if (r->kept[b])
                e[n++] = bytes_entry(kept_name[b], r->kept_bytes,
                                     at_host(r, r->kept[b], r->kept_bytes, true, &st));
            if (has_velocity(r, b, r->done_step, pass))
                e[n++] = entry(velocity_name[b], T3V_F32, 4, r->latent, r->v[b]);
        }
        if (pass && pass->layer)
            e[n++] = entry("stream", T3V_F32, 2, pass->stream->shape, pass->stream->data);
        snprintf(step, sizeof step, "%d", r->done_step);
        snprintf(within, sizeof within, "%d %lld", pass ? pass->branch : 0,
                 pass ? (long long)pass->layer : 0);
        const t3v_meta meta[] = {{"step", step}, {"job", key}, {"pass", within}};
        if (!st) st = t3v_safetensors_write(path, e, n, meta, pass ? 3 : 2);
    }
    if (!st) r->saved_step = r->done_step;
    free(history);
    free(key);
    free(path);
    return st;
}

/* Of a state's metadata: the steps that are done, the pass that was left, "" where a line is missing. */
static t3v_status read_where(const t3v_run *r, const t3v_tensor_file *f, const char *key, int *done,
                             t3v_run_pass *pass)
{
    const char *job = "", *step = "", *within = "0 0";
    for (int64_t i = 0; i < f->meta_count; i++) {
        if (strcmp(f->meta[i].key, "job") == 0) job = f->meta[i].value;
        if (strcmp(f->meta[i].key, "step") == 0) step = f->meta[i].value;
        if (strcmp(f->meta[i].key, "pass") == 0) within = f->meta[i].value;
    }
    if (strcmp(job, key) != 0)
        return t3v_fail(T3V_E_ARG,
                        "%s belongs to a run with other settings; repeat those, or delete the file", f->path);
    long at = -1, branch = -1;
    long long layer = -1;
    if (sscanf(step, "%ld", &at) != 1 || at < 0 || at > r->schedule.steps)
        return t3v_fail(T3V_E_FORMAT, "%s: step \"%s\" of %d", f->path, step, r->schedule.steps);
    if (sscanf(within, "%ld %lld", &branch, &layer) != 2 || layer < 0 || layer >= r->model->config.layers ||
        branch < 0 || branch >= T3V_BRANCHES || (at == 0 && !layer && !branch) ||
        ((layer || branch) &&
         (at == r->schedule.steps || r->schedule.step[at].pass[branch] == T3V_PASS_NONE)))
        return t3v_fail(T3V_E_FORMAT, "%s: step \"%s\", branch and block \"%s\": no such place in the run",
                        f->path, step, within);
    *done = (int)at;
    *pass = (t3v_run_pass){.branch = (int)branch, .layer = layer};
    return T3V_OK;
}

static t3v_status read_bytes(const t3v_tensor_file *f, const char *name, size_t n, const void **out)
{
    const t3v_tensor_entry *e;
    T3V_TRY(t3v_tensors_get(f, name, &e));
    if (e->dtype != T3V_U8 || e->nbytes != (int64_t)n)
        return t3v_fail(T3V_E_FORMAT, "%s: %s has %lld bytes, expected %zu", f->path, name,
                        (long long)e->nbytes, n);
    *out = e->data;
    return T3V_OK;
}

static t3v_status read_branch(t3v_run *r, const t3v_tensor_file *f, int b, int done, const t3v_run_pass *pass)
{
    t3v_status st = T3V_OK;
    if (holds(r, b, done, pass)) {
        t3v_tensor_entry e = t3v_run_residual(r, b);
        void *to = at_host(r, r->residual[b], (size_t)e.nbytes, false, &st);
        T3V_TRY(t3v_tensors_read(f, e.name, e.ndim, e.shape, to, e.dtype));
        T3V_TRY(give_bytes(r, r->residual[b], (size_t)e.nbytes));
    }
    if (r->kept[b]) {
        const void *kept = NULL;
        T3V_TRY(read_bytes(f, kept_name[b], r->kept_bytes, &kept));
        memcpy(at_host(r, r->kept[b], r->kept_bytes, false, &st), kept, r->kept_bytes);
        T3V_TRY(give_bytes(r, r->kept[b], r->kept_bytes));
    }
    if (!has_velocity(r, b, done, pass)) return T3V_OK;
    return t3v_tensors_read(f, velocity_name[b], 4, r->latent, r->v[b], T3V_F32);
}

static t3v_status read_state(t3v_run *r, const t3v_tensor_file *f, const char *key, t3v_run_pass *pass)
{
    int done = 0;
    const t3v_tensor_entry *e;
    T3V_TRY(read_where(r, f, key, &done, pass));
    T3V_TRY(t3v_tensors_read(f, "latent", 4, r->latent, r->x, T3V_F32));
    if (done) {
        T3V_TRY(t3v_tensors_get(f, "sampler", &e));
        T3V_TRY(t3v_sampler_state_load(r->sampler, e->data, (size_t)e->nbytes));
    }
    for (int b = 0; b < T3V_BRANCHES; b++) T3V_TRY(read_branch(r, f, b, done, pass));
    r->done_step = r->saved_step = done;
    if (pass->layer || pass->branch)
        t3v_info("resuming at step %d of %d, before block %lld of %lld", done + 1, r->schedule.steps,
                 (long long)pass->layer + 1, (long long)r->model->config.layers);
    else t3v_info("resuming at step %d of %d", done + 1, r->schedule.steps);
    return T3V_OK;
}

t3v_status t3v_run_load(t3v_run *r, int64_t index, bool *found, t3v_run_pass *pass)
{
    *found = false;
    *pass = (t3v_run_pass){0};
    if (!r->want.resume || r->want.output[index].sink.fn) return T3V_OK;
    char *path = state_path(r, index), *key = state_key(r, index);
    t3v_tensor_file *f = NULL;
    t3v_status st = path && key ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to look for a saved state");
    if (!st && t3v_is_file(path) && (st = t3v_tensors_open(&f, path)) == T3V_OK) {
        st = read_state(r, f, key, pass);
        *found = !st;
        t3v_tensors_close(f);
    }
    free(key);
    free(path);
    return st;
}

t3v_status t3v_run_load_stream(const t3v_run *r, int64_t index, t3v_tensor *stream)
{
    char *path = state_path(r, index);
    t3v_tensor_file *f = NULL;
    t3v_status st = path ? t3v_tensors_open(&f, path)
                         : t3v_fail(T3V_E_NOMEM, "no memory to look for a saved state");
    if (!st) st = t3v_tensors_read(f, "stream", 2, stream->shape, stream->data, T3V_F32);
    t3v_tensors_close(f);
    free(path);
    return st;
}

t3v_status t3v_run_keep(t3v_run *r, int64_t index, const t3v_run_pass *pass, t3v_status why)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", t3v_error_text());
    if ((r->done_step > 0 || pass) && t3v_run_save(r, index, pass))
        t3v_warn("the run's state could not be saved: %s", t3v_error_text());
    return why ? t3v_fail(why, "%s", text) : T3V_OK;
}

void t3v_run_drop(const t3v_run *r, int64_t index)
{
    if (r->want.output[index].sink.fn) return;
    char *path = state_path(r, index);
    if (path) unlink(path);
    free(path);
}
