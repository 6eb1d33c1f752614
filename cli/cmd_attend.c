/* SPDX-License-Identifier: Apache-2.0 */
/* t3v attend: one attention site of a plan on q, k, v from a file, for comparison with other implementations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/attend.h"
#include "attn/device_run.h"
#include "attn/own.h"
#include "attn/plan.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/status.h"
#include "cli.h"
#include "io/safetensors.h"
#include "io/tensors.h"
#include "probe.h"
#include "tensor/dtype.h"

enum { OPT_PLAN = 1, OPT_GRID, OPT_LAYER, OPT_STEP, OPT_GRAD };

static const struct argp_option options[] = {
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan", 1},
    {"grid", OPT_GRID, "T,H,W", 0, "Tokens along time, height, width", 1},
    {"layer", OPT_LAYER, "I", 0, "Layer of the plan (default: 0)", 1},
    {"step", OPT_STEP, "I/N", 0, "Step I of a generation of N, from 0 (default: 0/1)", 1},
    {"grad", OPT_GRAD, "FILE", 0,
     "Read dout from FILE, write dq, dk, dv (and those of the plan's own tensors) too", 1},
    {"input", 'i', "FILE", 0, "safetensors with q, k, v [N,heads,dim], and the plan's own tensors", 1},
    {"output", 'o', "FILE", 0, "safetensors: out [N,heads,dim], lse [terms,heads,N]", 1},
    {0},
};

typedef struct input {
    const char *plan, *in, *out, *grad;
    int64_t t, h, w, layer, step, steps;
} input;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    switch (key) {
    case OPT_PLAN: in->plan = arg; return 0;
    case OPT_GRID: {
        char rest;
        long long t, h, w;
        if (sscanf(arg, "%lld,%lld,%lld%c", &t, &h, &w, &rest) != 3 || t < 1 || h < 1 || w < 1)
            argp_error(state, "--grid %s: expected T,H,W", arg);
        else in->t = t, in->h = h, in->w = w;
        return 0;
    }
    case OPT_LAYER:
        if (!cli_int(arg, 0, 9999, &in->layer)) argp_error(state, "--layer %s: expected 0 to 9999", arg);
        return 0;
    case OPT_STEP:
        if (!cli_fraction(arg, 10000, &in->step, &in->steps))
            argp_error(state, "--step %s: expected I/N with 0 <= I < N", arg);
        return 0;
    case OPT_GRAD: in->grad = arg; return 0;
    case 'i': in->in = arg; return 0;
    case 'o': in->out = arg; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!in->plan || !in->t || !in->in || !in->out)
            argp_error(state, "--plan, --grid, -i and -o are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* The last three sizes of a tensor whose earlier ones are 1. */
static t3v_status shape_of(const t3v_tensor_entry *e, int64_t tokens, int64_t shape[3])
{
    char text[256];
    bool ok = e->ndim >= 3;
    for (int i = 0; ok && i < e->ndim - 3; i++) ok = e->shape[i] == 1;
    if (ok) memcpy(shape, e->shape + e->ndim - 3, 3 * sizeof *shape);
    if (!ok || shape[0] != tokens || shape[1] < 1 || shape[1] > 4096 || shape[2] < 1 ||
        shape[2] > T3V_HEAD_DIM_MAX)
        return t3v_fail(T3V_E_SHAPE, "%s in %s is %s, expected [%lld,heads,dim] with dim up to %d", e->name,
                        e->file, t3v_shape_text(e->ndim, e->shape, text, sizeof text), (long long)tokens,
                        T3V_HEAD_DIM_MAX);
    return T3V_OK;
}

static void *buffer(int64_t count, size_t size)
{
    void *p = malloc((size_t)count * size);
    if (!p) (void)t3v_fail(T3V_E_NOMEM, "no memory for %lld values", (long long)count);
    return p;
}

typedef struct memory {
    void *q, *k, *v, *dout, *scratch;
    float *out, *lse, *dq, *dk, *dv;
    int params; /* that the plan has of its own */
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    float *param[T3V_SITE_PARAMS_MAX], *dparam[T3V_SITE_PARAMS_MAX];
    uint64_t *chosen;
} memory;

static int64_t numel(const t3v_site_param *p)
{
    int64_t n = 1;
    for (int i = 0; i < p->ndim; i++) n *= p->shape[i];
    return n;
}

/* From the input file, or, with a warning, first values. */
static t3v_status read_params(memory *m, const t3v_site *site, const input *in, const t3v_tensor_file *f,
                              int64_t heads, int64_t dim)
{
    int missing = 0;
    m->params = t3v_site_params(site, heads, dim, m->info);
    for (int i = 0; i < m->params; i++) {
        t3v_site_param *p = &m->info[i];
        int64_t n = numel(p);
        if (!(m->param[i] = buffer(n, sizeof(float))) ||
            (in->grad && !(m->dparam[i] = buffer(n, sizeof(float)))))
            return T3V_E_NOMEM;
        if (in->grad) memset(m->dparam[i], 0, (size_t)n * sizeof(float));
        if (t3v_tensors_find(f, p->name))
            T3V_TRY(t3v_tensors_read(f, p->name, p->ndim, p->shape, m->param[i], T3V_F32));
        else t3v_site_param_fill(p, (int)in->layer, i, m->param[i]), missing++;
    }
    if (missing)
        t3v_warn("%s has %d of the plan's %d tensors (such as %s): the others are random", in->in,
                 m->params - missing, m->params, m->info[0].name);
    return T3V_OK;
}

static t3v_tensor_entry entry(const char *name, int ndim, const int64_t *shape, const float *data)
{
    t3v_tensor_entry e = {.name = (char *)name, .dtype = T3V_F32, .ndim = ndim, .numel = 1, .data = data};
    for (int i = 0; i < ndim; i++) e.numel *= e.shape[i] = shape[i];
    e.nbytes = e.numel * 4;
    return e;
}

/* How much of full attention a plan that chooses by content came to. */
static void print_density(const t3v_site *site, const t3v_attend_args *a, bool json)
{
    double pairs = (double)t3v_attend_pairs(site, a),
           density = pairs / ((double)a->heads * (double)a->n_q * (double)a->n_k);
    if (json) printf("{\"pairs\":%.0f,\"density\":%.6g}\n", pairs, density);
    else printf("density  %.4f of all pairs of queries and keys\n", density);
}

/* ---- on a device: copies of the same arrays, computed with there, and the results back ---- */

typedef struct elsewhere {
    const t3v_device *device;
    t3v_arena arena;
    t3v_status st;
} elsewhere;

/* A place of `bytes` there, with what `from` has unless it is NULL; NULL after a failure. */
static void *place(elsewhere *e, const void *from, size_t bytes)
{
    if (e->st) return NULL;
    void *there = t3v_arena_twin(&e->arena, t3v_arena_take(&e->arena, bytes, 1));
    if (!there)
        e->st = t3v_fail(T3V_E_NOMEM, "%s has no %zu MiB for attention beside the %zu MiB it was given",
                         e->device->name, bytes >> 20, e->arena.used >> 20);
    else if (from) e->st = e->device->push(there, from, bytes);
    return there;
}

static void fetch(elsewhere *e, void *to, const void *from, size_t bytes)
{
    if (to && !e->st) e->st = e->device->pull(to, from, bytes);
}

static t3v_status attend_elsewhere(const t3v_device *device, const t3v_site *site, memory *m,
                                   const t3v_attend_args *here, const t3v_attend_grad *grad)
{
    elsewhere e = {.device = device};
    t3v_attend_args a = *here;
    t3v_attend_grad g = grad ? *grad : (t3v_attend_grad){0};
    float *param[T3V_SITE_PARAMS_MAX] = {NULL}, *dparam[T3V_SITE_PARAMS_MAX] = {NULL};
    size_t n = (size_t)a.n_q * (size_t)a.q_stride, rows = n * t3v_dtype_size(a.type),
           floats = n * sizeof(float),
           lse = (size_t)site->terms * (size_t)a.heads * (size_t)a.n_q * sizeof(float),
           chosen = a.chosen ? t3v_attend_chosen_words(site, a.heads) * sizeof *a.chosen : 0;
    T3V_TRY(t3v_arena_open_in(&e.arena, CLI_PROBE_ARENA, &device->space));
    a.q = place(&e, here->q, rows), a.k = place(&e, here->k, rows), a.v = place(&e, here->v, rows);
    a.out = place(&e, NULL, floats), a.lse = place(&e, NULL, lse);
    if (a.chosen) a.chosen = place(&e, here->chosen, chosen);
    for (int i = 0; i < m->params; i++) {
        size_t bytes = (size_t)numel(&m->info[i]) * sizeof(float);
        param[i] = place(&e, m->param[i], bytes);
        if (grad) dparam[i] = place(&e, m->dparam[i], bytes);
    }
    a.params = (const float *const *)param;
    if (grad) {
        g.out = a.out, g.dout = place(&e, grad->dout, rows);
        g.dq = place(&e, NULL, floats), g.dk = place(&e, NULL, floats), g.dv = place(&e, NULL, floats);
        g.dparams = dparam;
    }
    a.scratch_bytes = t3v_device_run_scratch(site, &a, NULL);
    size_t need = grad ? t3v_device_run_scratch(site, &a, &g) : 0;
    if (need > a.scratch_bytes) a.scratch_bytes = need;
    a.scratch = place(&e, NULL, a.scratch_bytes + 1);
    if (!e.st) e.st = t3v_device_run(&e.arena, site, &a, NULL);
    if (!e.st && grad) e.st = t3v_device_run(&e.arena, site, &a, &g);
    fetch(&e, here->out, a.out, floats);
    fetch(&e, here->lse, a.lse, lse);
    fetch(&e, here->chosen, a.chosen, chosen);
    if (grad) {
        fetch(&e, grad->dq, g.dq, floats), fetch(&e, grad->dk, g.dk, floats);
        fetch(&e, grad->dv, g.dv, floats);
        for (int i = 0; i < m->params; i++)
            fetch(&e, m->dparam[i], dparam[i], (size_t)numel(&m->info[i]) * sizeof(float));
    }
    t3v_arena_close(&e.arena);
    return e.st;
}

static t3v_status attend(const input *in, const t3v_device *device, t3v_dtype type, bool json)
{
    static const char *const names[] = {"q", "k", "v", "dout"};
    t3v_status st;
    t3v_plan *plan = NULL;
    t3v_tensor_file *file = NULL, *grad_file = NULL;
    memory m = {0};
    T3V_TRY_GOTO(st, done,
                 t3v_plan_make(&plan, in->plan, (t3v_grid){in->t, in->h, in->w}, (int)in->layer + 1));
    T3V_TRY_GOTO(st, done, t3v_tensors_open(&file, in->in));
    if (in->grad) T3V_TRY_GOTO(st, done, t3v_tensors_open(&grad_file, in->grad));

    const t3v_site *site = &plan->layer[in->layer].site[T3V_SITE_SELF];
    const t3v_tensor_entry *e;
    int64_t shape[3], n = plan->tokens, count, rows;
    T3V_TRY_GOTO(st, done, t3v_tensors_get(file, "q", &e));
    T3V_TRY_GOTO(st, done, shape_of(e, n, shape));
    int64_t width = shape[1] * shape[2];
    if (!t3v_mul(n, width * 4, &count) || !t3v_mul3(site->terms, shape[1], n * 4, &rows)) {
        st = t3v_fail(T3V_E_TOO_BIG, "attention over %lld tokens of %lld values", (long long)n,
                      (long long)width);
        goto done;
    }
    count /= 4, rows /= 4;
    void **inputs[] = {&m.q, &m.k, &m.v, &m.dout};
    for (int i = 0; i < (in->grad ? 4 : 3); i++) {
        if (!(*inputs[i] = buffer(count, t3v_dtype_size(type)))) {
            st = T3V_E_NOMEM;
            goto done;
        }
        T3V_TRY_GOTO(st, done,
                     t3v_tensors_read(i == 3 ? grad_file : file, names[i], 3, shape, *inputs[i], type));
    }
    if (!(m.out = buffer(count, sizeof(float))) || !(m.lse = buffer(rows, sizeof(float))) ||
        (in->grad && (!(m.dq = buffer(count, sizeof(float))) || !(m.dk = buffer(count, sizeof(float))) ||
                      !(m.dv = buffer(count, sizeof(float)))))) {
        st = T3V_E_NOMEM;
        goto done;
    }
    T3V_TRY_GOTO(st, done, read_params(&m, site, in, file, shape[1], shape[2]));
    t3v_attend_args a = {.n_q = n,
                         .n_k = n,
                         .heads = (int)shape[1],
                         .dim = (int)shape[2],
                         .q = m.q,
                         .k = m.k,
                         .v = m.v,
                         .type = type,
                         .q_stride = width,
                         .k_stride = width,
                         .v_stride = width,
                         .out = m.out,
                         .out_type = T3V_F32,
                         .out_stride = width,
                         .lse = m.lse,
                         .params = (const float *const *)m.param,
                         .moment = {.step = in->step,
                                    .steps = in->steps,
                                    .sigma = 1 - (double)in->step / (double)in->steps}};
    t3v_attend_grad g = {.out = m.out,
                         .dout = m.dout,
                         .dout_type = type,
                         .dout_stride = width,
                         .dq = m.dq,
                         .dk = m.dk,
                         .dv = m.dv,
                         .dq_stride = width,
                         .dk_stride = width,
                         .dv_stride = width,
                         .dparams = m.dparam};
    if (t3v_site_selects(site)) {
        int64_t words = (int64_t)t3v_attend_chosen_words(site, a.heads);
        if (!(a.chosen = m.chosen = buffer(words, sizeof *m.chosen))) {
            st = T3V_E_NOMEM;
            goto done;
        }
        memset(m.chosen, 0, (size_t)words * sizeof *m.chosen);
    }
    if (device) {
        T3V_TRY_GOTO(st, done, attend_elsewhere(device, site, &m, &a, in->grad ? &g : NULL));
    } else {
        size_t need = in->grad ? t3v_attend_backward_scratch(site, &a, &g) : 0;
        a.scratch_bytes = t3v_attend_scratch(site, &a);
        if (need > a.scratch_bytes) a.scratch_bytes = need;
        if (!(a.scratch = m.scratch = buffer((int64_t)a.scratch_bytes, 1))) {
            st = T3V_E_NOMEM;
            goto done;
        }
        T3V_TRY_GOTO(st, done, t3v_attend_run(site, &a));
        if (in->grad) T3V_TRY_GOTO(st, done, t3v_attend_backward(site, &a, &g));
    }

    char name[T3V_SITE_PARAMS_MAX][sizeof m.info[0].name + 4];
    t3v_tensor_entry out[5 + T3V_SITE_PARAMS_MAX] = {
        entry("out", 3, shape, m.out), entry("lse", 3, (int64_t[]){site->terms, shape[1], n}, m.lse),
        entry("dq", 3, shape, m.dq),   entry("dk", 3, shape, m.dk),
        entry("dv", 3, shape, m.dv),
    };
    for (int i = 0; i < m.params; i++) {
        snprintf(name[i], sizeof name[i], "d%.31s", m.info[i].name);
        out[5 + i] = entry(name[i], m.info[i].ndim, m.info[i].shape, m.dparam[i]);
    }
    st = t3v_safetensors_write(in->out, out, in->grad ? 5 + m.params : 2, NULL, 0);
    if (!st && a.chosen) print_density(site, &a, json);
done:
    free(m.q), free(m.k), free(m.v), free(m.dout), free(m.scratch), free(m.chosen);
    free(m.out), free(m.lse), free(m.dq), free(m.dk), free(m.dv);
    for (int i = 0; i < m.params; i++) free(m.param[i]), free(m.dparam[i]);
    t3v_tensors_close(file);
    t3v_tensors_close(grad_file);
    t3v_plan_free(plan);
    return st;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .doc = "Runs the self-attention of one layer of a plan: scale 1/sqrt(dim), no norm, no rotation."};
    input in = {.steps = 1};
    cli_common common;
    int status = cli_parse(&own, argc, argv, &common, &in);
    if (status >= 0) return status;
    const t3v_device *device;
    t3v_status st = t3v_device_open(common.device, &device);
    if (!st) st = attend(&in, device, common.bf16 ? T3V_BF16 : T3V_F32, common.json);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_attend = {"attend", "one attention site of a plan on q, k, v from a file", run};
