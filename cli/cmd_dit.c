/* SPDX-License-Identifier: Apache-2.0 */
/* t3v dit: one pass of the transformer on tensors from files, with gradients on request. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "ops/kernels.h"
#include "pipe/lora_attach.h"
#include "pipe/model.h"
#include "pipe/plan_choice.h"
#include "probe.h"

enum { LORAS_MAX = 16 };

typedef struct args {
    t3v_model_paths paths;
    const char *plan, *latent, *context, *condition, *clip, *target, *grad, *out;
    double timestep;
    bool first_given, merge, resume;
    t3v_products act;
    int64_t range, step, steps, loras;
    t3v_lora_use lora[LORAS_MAX];
    char lora_path[LORAS_MAX][4096];
} args;

enum {
    OPT_MODEL = 0x100,
    OPT_PLAN,
    OPT_LATENT,
    OPT_CONTEXT,
    OPT_CONDITION,
    OPT_CLIP,
    OPT_FIRST,
    OPT_TIMESTEP,
    OPT_TARGET,
    OPT_GRAD,
    OPT_RANGE,
    OPT_STEP,
    OPT_LORA,
    OPT_LORA_MERGE,
    OPT_ACT,
    OPT_WEIGHTS,
    OPT_RESUME
};

static const struct argp_option options[] = {
    {"model", OPT_MODEL, "DIR", 0, "Model directory", 1},
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan (default: the model's)", 1},
    {"lora", OPT_LORA, "F[:S]", 0, "LoRA file with strength S (default 1); may be repeated; not with --grad",
     1},
    {"lora-merge", OPT_LORA_MERGE, 0, 0, "Add LoRA files to copies of the weights instead of on the fly", 1},
    {"act", OPT_ACT, "float|int8|fp8", 0,
     "int8: layers that all tokens go through in 8-bit integers, on the CPU; fp8: layers of the blocks in "
     "8-bit "
     "floats, on a GPU of compute capability 8.9 or later; not with --grad (default: float)",
     1},
    {"latent", OPT_LATENT, "F", 0, "safetensors file with `latent` [C,T,H,W]", 1},
    {"image-latent", OPT_CONDITION, "F", 0,
     "Image-to-video models: safetensors file with `y` [4+C,T,H,W], the mask and the image's latent", 1},
    {"clip", OPT_CLIP, "F", 0,
     "Image-to-video models of Wan2.1: safetensors file with `clip` [257,1280], the image's features", 1},
    {"first-given", OPT_FIRST, 0, 0, "The first latent frame is given: its tokens have timestep 0 (TI2V)", 1},
    {"context", OPT_CONTEXT, "F", 0,
     "safetensors file with `context` [L,dim]; zero rows follow up to text_len", 1},
    {"timestep", OPT_TIMESTEP, "T", 0, "0 to 1000", 1},
    {"step", OPT_STEP, "I/N", 0,
     "Step I of a generation of N, from 0, for plans that depend on it (default: 0/1)", 1},
    {"output", 'o', "F", 0, "safetensors file: `velocity` [C,T,H,W]", 1},
    {"target", OPT_TARGET, "F", 0, "safetensors file with `target`, the velocity wanted", 1},
    {"grad", OPT_GRAD, "G", 0,
     "safetensors file: `loss` (mean squared error against the target), `grad.<weight>`, "
     "`grad_latent` (of what the model sees: with an --image-latent its channels too), `grad_context`",
     1},
    {"weights", OPT_WEIGHTS, "resident|streamed", 0,
     "On a GPU: the blocks are there, or come one by one as they run (default: resident)", 1},
    {"resume", OPT_RESUME, 0, 0,
     "Go on from F.t3v-state, which a pass on the CPU leaves on Ctrl-C and every ten minutes", 1},
    {"range", OPT_RANGE, "N", 0, "Tokens walked at a time (default: chosen)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_MODEL: a->paths.model = arg; return 0;
    case OPT_PLAN: a->plan = arg; return 0;
    case OPT_LATENT: a->latent = arg; return 0;
    case OPT_CONTEXT: a->context = arg; return 0;
    case OPT_CONDITION: a->condition = arg; return 0;
    case OPT_CLIP: a->clip = arg; return 0;
    case OPT_FIRST: a->first_given = true; return 0;
    case OPT_TARGET: a->target = arg; return 0;
    case OPT_GRAD: a->grad = arg; return 0;
    case 'o': a->out = arg; return 0;
    case OPT_TIMESTEP:
        if (!cli_float(arg, 0, 1000, &a->timestep))
            argp_error(state, "--timestep %s: expected 0 to 1000", arg);
        return 0;
    case OPT_RANGE:
        if (!cli_int(arg, 1, INT32_MAX, &a->range))
            argp_error(state, "--range %s: expected a number above 0", arg);
        return 0;
    case OPT_RESUME: a->resume = true; return 0;
    case OPT_WEIGHTS: {
        const char *how;
        if (!cli_weights(arg, &how) || !how)
            argp_error(state, "--weights %s: expected resident or streamed", arg);
        a->paths.streamed = how && strcmp(how, "streamed") == 0;
        return 0;
    }
    case OPT_LORA_MERGE: a->merge = true; return 0;
    case OPT_ACT:
        if (!cli_act(arg, &a->act)) argp_error(state, "--act %s: expected " CLI_ACTS, arg);
        return 0;
    case OPT_LORA:
        if (a->loras == LORAS_MAX) argp_error(state, "more than %d --lora", LORAS_MAX);
        if (!cli_lora(arg, a->lora_path[a->loras], &a->lora[a->loras]))
            argp_error(state, "--lora: the path is too long");
        a->loras++;
        return 0;
    case OPT_STEP:
        if (!cli_fraction(arg, 10000, &a->step, &a->steps))
            argp_error(state, "--step %s: expected I/N with 0 <= I < N", arg);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->paths.model || !a->latent || !a->context || a->timestep < 0 || !a->out)
            argp_error(state, "--model, --latent, --context, --timestep and -o are needed");
        if (!a->target != !a->grad) argp_error(state, "--target and --grad go together");
        if (a->grad && a->resume) argp_error(state, "--grad keeps no state: leave out --resume");
        if (a->grad && a->act)
            argp_error(state, "--act %s has no gradients: leave out --grad", t3v_products_name(a->act));
        if (a->grad && a->paths.streamed) argp_error(state, "--grad needs --weights resident");
        if (a->grad && a->loras) argp_error(state, "--grad is of the model's own weights: not with --lora");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* A zeroed gradient buffer for every parameter. */
static t3v_status track(t3v_ctx *ctx, t3v_params *p, float ***out)
{
    float **grad = t3v_temp(ctx, p->count, sizeof *grad);
    for (int64_t i = 0; i < p->count && !ctx->status; i++) {
        t3v_tensor *t = p->item[i].tensor;
        t->needs_grad = true;
        t->param = (int32_t)i + 1;
        grad[i] = t3v_data(ctx, t3v_numel(t), sizeof(float));
        if (grad[i]) t3v_k(ctx)->clear(grad[i], (size_t)t3v_numel(t) * sizeof(float));
    }
    *out = grad;
    return ctx->status;
}

/* The gradient of t, for the host. */
static const float *taken(t3v_ctx *ctx, const t3v_tensor *t, float *grad)
{
    t3v_tensor g = *t;
    g.data = grad, g.type = T3V_F32;
    return t3v_take(ctx, &g);
}

static t3v_status write_grads(t3v_ctx *ctx, const char *path, const t3v_params *p, float *const *grad,
                              const float *loss, const t3v_tensor *latent, const t3v_tensor *context)
{
    char(*name)[T3V_NAME_MAX + 8] = calloc((size_t)p->count, sizeof *name);
    t3v_tensor_entry *e = calloc((size_t)p->count + 3, sizeof *e);
    t3v_status st = name && e ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to write %s", path);
    for (int64_t i = 0; i < p->count && !st; i++) {
        const t3v_tensor *t = p->item[i].tensor;
        snprintf(name[i], sizeof *name, "grad.%s", p->item[i].name);
        e[i + 3] = cli_probe_entry(name[i], T3V_F32, t->ndim, t->shape, taken(ctx, t, grad[i]));
    }
    if (!st) {
        e[0] = cli_probe_entry("loss", T3V_F32, 0, NULL, loss);
        e[1] = cli_probe_entry("grad_latent", T3V_F32, latent->ndim, latent->shape,
                               taken(ctx, latent, latent->grad));
        e[2] = cli_probe_entry("grad_context", T3V_F32, context->ndim, context->shape,
                               taken(ctx, context, context->grad));
        st = ctx->status ? ctx->status : t3v_safetensors_write(path, e, p->count + 3, NULL, 0);
    }
    free(name);
    free(e);
    return st;
}

/* What the model sees: the latent, and after its channels those of the image's. */
static t3v_status read_latent(const args *a, t3v_ctx *ctx, const t3v_dit_config *k, t3v_tensor **out)
{
    t3v_tensor *x, *y;
    if (!a->condition)
        return cli_probe_read(ctx, a->latent, "latent", 4, (int64_t[]){k->in_dim, -1, -1, -1}, out);
    if (k->in_dim == k->out_dim)
        return t3v_fail(T3V_E_ARG, "--image-latent: the model has no channels for it");
    T3V_TRY(cli_probe_read(ctx, a->latent, "latent", 4, (int64_t[]){k->out_dim, -1, -1, -1}, &x));
    const int64_t *s = x->shape;
    T3V_TRY(
        cli_probe_read(ctx, a->condition, "y", 4, (int64_t[]){k->in_dim - k->out_dim, s[1], s[2], s[3]}, &y));
    *out = t3v_new(ctx, T3V_F32, T3V_SHAPE(k->in_dim, s[1], s[2], s[3]));
    t3v_put(ctx, *out, 0, x);
    t3v_put(ctx, *out, k->out_dim, y);
    return ctx->status;
}

/* A pass that was stopped, in OUTPUT.t3v-state: its residual stream, the block it goes on with, what it was of. */
typedef struct halfway {
    char *path, *key;
    int64_t layer;
} halfway;

static t3v_status read_stream(void *user, t3v_tensor *stream)
{
    const halfway *h = user;
    t3v_tensor_file *f = NULL;
    t3v_status st = t3v_tensors_open(&f, h->path);
    if (!st) st = t3v_tensors_read(f, "stream", 2, stream->shape, stream->data, T3V_F32);
    t3v_tensors_close(f);
    return st;
}

static void keep_stream(void *user, int64_t layer, const t3v_tensor *stream, t3v_status why)
{
    const halfway *h = user;
    if (layer == 0) return;
    char at[32], text[1024];
    snprintf(text, sizeof text, "%s", t3v_error_text());
    snprintf(at, sizeof at, "%lld", (long long)layer);
    t3v_tensor_entry e = cli_probe_entry("stream", T3V_F32, 2, stream->shape, stream->data);
    if (t3v_safetensors_write(h->path, &e, 1, (t3v_meta[]){{"job", h->key}, {"layer", at}}, 2))
        t3v_warn("the pass could not be saved: %s", t3v_error_text());
    if (why) (void)t3v_fail(why, "%s", text);
}

static t3v_status open_halfway(halfway *h, const args *a, const char *plan, t3v_dtype compute, int64_t layers)
{
    int n = asprintf(&h->key, "%s|%s|%s|%s|%s|%s|%.17g %d|%lld/%lld|%s %s%s", a->paths.model, plan, a->latent,
                     a->context, a->condition ? a->condition : "", a->clip ? a->clip : "", a->timestep,
                     a->first_given, (long long)a->step, (long long)a->steps, t3v_dtype_name(compute),
                     t3v_products_name(a->act), a->merge ? " merged" : "");
    if (n < 0) h->key = NULL;
    for (int64_t i = 0; i < a->loras && h->key; i++) {
        char *longer = NULL;
        n = asprintf(&longer, "%s|%s:%.17g", h->key, a->lora[i].path, a->lora[i].strength);
        free(h->key);
        h->key = n < 0 ? NULL : longer;
    }
    if (asprintf(&h->path, "%s.t3v-state", a->out) < 0) h->path = NULL;
    if (!h->path || !h->key) return t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!a->resume || !t3v_is_file(h->path)) return T3V_OK;
    t3v_tensor_file *f;
    const char *key = "", *at = "";
    T3V_TRY(t3v_tensors_open(&f, h->path));
    for (int64_t i = 0; i < f->meta_count; i++) {
        if (strcmp(f->meta[i].key, "job") == 0) key = f->meta[i].value;
        if (strcmp(f->meta[i].key, "layer") == 0) at = f->meta[i].value;
    }
    t3v_status st = T3V_OK;
    if (strcmp(key, h->key) != 0)
        st = t3v_fail(T3V_E_ARG, "%s belongs to a pass with other settings; repeat those, or delete the file",
                      h->path);
    else if (!cli_int(at, 1, layers - 1, &h->layer))
        st = t3v_fail(T3V_E_FORMAT, "%s: block \"%s\" of %lld", h->path, at, (long long)layers);
    t3v_tensors_close(f);
    if (!st) t3v_info("resuming before block %lld of %lld", (long long)h->layer + 1, (long long)layers);
    return st;
}

static t3v_status forward(args *a, const cli_common *common, const t3v_progress *progress, float *loss,
                          t3v_attend_met *met, int64_t *blocks)
{
    t3v_model *m = NULL;
    t3v_plan *plan = NULL;
    t3v_arena arena = {0};
    t3v_tape tape = {0};
    t3v_loras loras = {0};
    halfway h = {0};
    t3v_dtype compute = common->bf16 ? T3V_BF16 : T3V_F32;
    t3v_loras_how how = {.merge = a->merge, .compute = compute};
    t3v_ctx ctx = {.arena = &arena, .compute = compute, .int8 = a->act == T3V_PRODUCTS_INT8};
    t3v_tensor *x, *c, *target = NULL, *v;
    float **grad = NULL;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_device_open(common->device, &a->paths.device));
    a->paths.fp8 = a->act == T3V_PRODUCTS_FP8;
    T3V_TRY_GOTO(st, done, t3v_arena_open_in(&arena, CLI_PROBE_ARENA, t3v_device_space(a->paths.device)));
    T3V_TRY_GOTO(st, done, t3v_model_open(&m, &a->paths, T3V_PART_DIT, compute, false));
    T3V_TRY_GOTO(st, done, t3v_loras_attach(&loras, a->lora, a->loras, &how, &m->dit));
    const t3v_dit_config *k = &m->config;
    T3V_TRY_GOTO(st, done, read_latent(a, &ctx, k, &x));
    T3V_TRY_GOTO(st, done, cli_probe_read(&ctx, a->context, "context", 2, (int64_t[]){-1, k->text_dim}, &c));
    if (x->shape[2] % 2 || x->shape[3] % 2) {
        char text[96];
        st = t3v_fail(T3V_E_SHAPE, "%s: latent is %s, height and width must be even", a->latent,
                      t3v_tensor_shape_text(x, text, sizeof text));
        goto done;
    }
    t3v_grid grid = {x->shape[1], x->shape[2] / 2, x->shape[3] / 2};
    const char *plan_text = t3v_plan_text(&m->defaults, a->plan, grid);
    T3V_TRY_GOTO(st, done, t3v_plan_make_for(&plan, plan_text, grid, (int)k->layers, k->dim, k->heads));
    T3V_TRY_GOTO(st, done, open_halfway(&h, a, plan_text, compute, k->layers));
    *blocks = k->layers - h.layer;
    T3V_TRY_GOTO(st, done, t3v_model_adopt(m, plan));
    if (a->grad) {
        T3V_TRY_GOTO(st, done,
                     cli_probe_read(&ctx, a->target, "target", 4,
                                    (int64_t[]){k->out_dim, x->shape[1], x->shape[2], x->shape[3]}, &target));
        T3V_TRY_GOTO(st, done, track(&ctx, &m->dit.params, &grad));
        x->needs_grad = c->needs_grad = true;
        ctx.tape = &tape;
        ctx.param_grad = grad;
    }
    t3v_dit_prompt prompt;
    t3v_dit_image image;
    T3V_TRY_GOTO(st, done, t3v_dit_prompt_make(&ctx, &m->dit, c, &prompt));
    if (a->clip) {
        t3v_tensor *clip;
        T3V_TRY_GOTO(st, done, cli_probe_read(&ctx, a->clip, "clip", 2, (int64_t[]){-1, -1}, &clip));
        T3V_TRY_GOTO(st, done, t3v_dit_image_make(&ctx, &m->dit, clip, &image));
    }
    const t3v_dit_halfway stop = {h.layer, 600, read_stream, keep_stream, &h};
    t3v_dit_call call = {.plan = plan,
                         .prompt = &prompt,
                         .image = a->clip ? &image : NULL,
                         .first_given = a->first_given,
                         .timestep = a->timestep,
                         .range = a->range,
                         .progress = progress,
                         .halfway = a->paths.device ? NULL : &stop,
                         .met = met,
                         .moment = {a->step, a->steps, a->timestep / 1000, T3V_BRANCH_COND}};
    if (!(v = t3v_dit_forward(&ctx, &m->dit, x, &call))) {
        st = ctx.status;
        goto done;
    }
    if (a->grad) {
        t3v_tensor *dv = t3v_new_like(&ctx, v, T3V_F32);
        if (!dv) {
            st = ctx.status;
            goto done;
        }
        *loss = (float)t3v_k(&ctx)->rows_mse(dv->data, 1.0f, v->data, target->data, t3v_numel(v));
        T3V_TRY_GOTO(st, done, t3v_backward(&ctx, v, dv->data));
        T3V_TRY_GOTO(st, done, write_grads(&ctx, a->grad, &m->dit.params, grad, loss, x, c));
    }
    t3v_tensor_entry e = cli_probe_entry("velocity", T3V_F32, v->ndim, v->shape, t3v_take(&ctx, v));
    st = ctx.status ? ctx.status : t3v_safetensors_write(a->out, &e, 1, NULL, 0);
    if (!st) unlink(h.path);
done:
    free(h.path);
    free(h.key);
    t3v_plan_free(plan);
    if (m) t3v_loras_detach(&loras, &m->dit);
    t3v_model_close(m);
    t3v_arena_close(&arena);
    return st;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .doc = "Runs the transformer once; with --target and --grad, backwards too."};
    static args a = {.timestep = -1, .steps = 1};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    float loss = 0;
    t3v_attend_met met = {0};
    int64_t blocks = 0;
    double start = t3v_now();
    t3v_status st = forward(&a, &common, &progress, &loss, &met, &blocks);
    if (st) return cli_fail(st);
    double seconds = t3v_now() - start;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double density = met.all > 0 ? met.met / met.all : 0, counted = met.all > 0 ? met.counted / met.all : 0;
    if (common.json) {
        printf("{\"act\":\"%s\",\"blocks\":%lld,\"seconds\":%.6g,\"peak_rss_bytes\":%lld",
               t3v_products_name(a.act), (long long)blocks, seconds, (long long)use.ru_maxrss * 1024);
        if (a.grad) printf(",\"loss\":%.9g", (double)loss);
        if (density > 0) printf(",\"density\":%.6g,\"density_counted\":%.6g", density, counted);
        printf("}\n");
    } else {
        printf("%s\n", a.out);
        if (density > 0)
            printf("density  %.4f of all pairs of queries and keys, the plan counts %.4f at least\n", density,
                   counted);
    }
    return CLI_OK;
}

const cli_command cli_dit = {"dit", "one pass of the transformer on tensors from files, with gradients", run};
