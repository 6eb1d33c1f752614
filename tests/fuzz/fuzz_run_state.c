/* SPDX-License-Identifier: Apache-2.0 */
/* What a stopped run of generate left beside its output, read by one that goes on: any bytes, or a state whose words and
 * tensors the fuzzer chooses. Refused, or it is a place of the run, from which the sampler goes on or says why not. */
#define _GNU_SOURCE
#include "fuzz_file.h"
#include "fuzz_parts.h"
#include "io/safetensors.h"
#include "pipe/run.h"
#include "tensor/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 4, LAYERS = 2, DIM = 4, N = 4, KEPT = 5, METAS = 8, TENSORS = 10 };

typedef struct made {
    t3v_run run;
    t3v_model model;
    t3v_output output;
    char path[240], state[256], key[1024];
    float x[N], v[T3V_BRANCHES][N], residual[T3V_BRANCHES][DIM];
    unsigned char kept[T3V_BRANCHES][KEPT];
} made;

/* A run of a model of two blocks: guidance in some steps, two that reuse, attention that keeps something. */
static made *make(void)
{
    static made m;
    if (m.run.job) return &m;
    t3v_plan *plan;
    if (t3v_plan_make(&plan, "full", (t3v_grid){1, 1, 1}, LAYERS)) abort();
    const t3v_schedule_options o = {.plan = plan,
                                    .cfg = 5,
                                    .cfg_steps = {0, 2},
                                    .reuse = {.how = T3V_REUSE_LIST, .run = {true, false, true, false}}};
    snprintf(m.path, sizeof m.path, "%s/clip.mp4", fuzz_dir());
    snprintf(m.state, sizeof m.state, "%s.t3v-state", m.path);
    m.output = (t3v_output){.prompt = "a", .path = m.path};
    m.model.config.layers = LAYERS;
    m.model.config.dim = DIM;
    t3v_run *r = &m.run;
    r->job = &r->want;
    r->want = (t3v_job){.model = "m",
                        .output = &m.output,
                        .outputs = 1,
                        .negative = "",
                        .plan = "full",
                        .sampler = "unipc",
                        .cfg_steps = "0-2",
                        .reuse = "steps:0,2",
                        .rng = "philox",
                        .compute = T3V_F32,
                        .resume = true};
    r->model = &m.model;
    r->plan = plan;
    if (t3v_sampler_open(&r->sampler, "unipc", STEPS, 3) || t3v_schedule_make(&r->schedule, r->sampler, &o))
        abort();
    for (int i = 0; i < 4; i++) r->latent[i] = i < 2 ? 1 : 2;
    for (int i = 0; i < 3; i++) r->result.grid[i] = 1;
    r->n = N;
    r->x = m.x;
    r->kept_bytes = KEPT;
    for (int b = 0; b < T3V_BRANCHES; b++)
        r->v[b] = m.v[b], r->residual[b] = m.residual[b], r->kept[b] = m.kept[b];

    /* A state of its own tells the words that must agree. */
    t3v_tensor_file *f;
    if (t3v_sampler_step(r->sampler, 0, m.x, m.v[0], N)) abort();
    r->done_step = 1;
    r->saved_step = -1;
    if (t3v_run_save(r, 0, NULL) || t3v_tensors_open(&f, m.state)) abort();
    for (int64_t i = 0; i < f->meta_count; i++)
        if (!strcmp(f->meta[i].key, "job")) snprintf(m.key, sizeof m.key, "%s", f->meta[i].value);
    t3v_tensors_close(f);
    return &m;
}

/* "KEY VALUE" in lines as metadata ("has BITS": the tensors, of all), and the tensors' bytes behind an empty line. */
static void put_state(const made *m, const uint8_t *data, size_t size)
{
    static const struct {
        const char *name;
        int64_t shape[4];
        int ndim;
        t3v_dtype type;
    } kind[TENSORS - 1] = {{"latent", {1, 1, 2, 2}, 4, T3V_F32},
                           {"residual", {1, DIM}, 2, T3V_F32},
                           {"residual_negative", {1, DIM}, 2, T3V_F32},
                           {"attention", {KEPT}, 1, T3V_U8},
                           {"attention_negative", {KEPT}, 1, T3V_U8},
                           {"velocity", {1, 1, 2, 2}, 4, T3V_F32},
                           {"velocity_negative", {1, 1, 2, 2}, 4, T3V_F32},
                           {"stream", {1, DIM}, 2, T3V_F32},
                           {"sampler", {0}, 1, T3V_U8}};
    static unsigned char bytes[4096];
    const size_t history = t3v_sampler_state_size(m->run.sampler, N);
    t3v_tensor_entry e[TENSORS];
    t3v_meta meta[METAS] = {{"job", m->key}};
    int metas = 1, tensors = 0;
    long has = (1 << (TENSORS - 1)) - 1;
    char *text = malloc(size + 1), *rest = NULL;
    if (!text || history > sizeof bytes) abort();
    memcpy(text, data, size);
    text[size] = 0;
    for (char *line = strtok_r(text, "\n", &rest); line && metas < METAS;
         line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (!space) break;
        *space = 0;
        if (!strcmp(line, "has")) has = strtol(space + 1, NULL, 0);
        else if (!strcmp(line, "job")) meta[0].value = space + 1;
        else meta[metas++] = (t3v_meta){line, space + 1};
    }
    /* The sampler's own state after one step, changed by what is left of the data. */
    if (t3v_sampler_state_save(m->run.sampler, bytes, history)) abort();
    for (const char *p = rest; p && *p && (size_t)(p - rest) < history; p++)
        bytes[p - rest] ^= (unsigned char)(*p - '0');
    for (int k = 0; k < TENSORS - 1; k++) {
        if (!(has >> k & 1)) continue;
        t3v_tensor_entry *t = &e[tensors++];
        *t = (t3v_tensor_entry){
            .name = kind[k].name, .dtype = kind[k].type, .ndim = kind[k].ndim, .numel = 1, .data = bytes};
        memcpy(t->shape, kind[k].shape, sizeof kind[k].shape);
        if (!t->shape[0]) t->shape[0] = (int64_t)history - (has >> TENSORS & 1);
        for (int i = 0; i < t->ndim; i++) t->numel *= t->shape[i];
        t->nbytes = t->numel * (int64_t)t3v_dtype_size(t->dtype);
    }
    (void)t3v_safetensors_write(m->state, e, tensors, meta, metas); /* names twice, or not UTF-8: none */
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const known[] = {"state", "made", NULL};
    made *m = make();
    t3v_run *r = &m->run;
    fuzz_part part[2];
    t3v_run_pass pass;
    bool found;
    if (size > 1 << 14) return 0;
    if (t3v_sampler_step(r->sampler, 0, m->x, m->v[0], N)) abort(); /* the same history each time */
    remove(m->state);
    for (int i = 0, n = fuzz_parts(data, size, known, part, 2); i < n; i++) {
        if (*part[i].name == 's') fuzz_put("clip.mp4.t3v-state", part[i].data, part[i].size);
        else put_state(m, part[i].data, part[i].size);
    }
    r->done_step = 0;
    r->saved_step = -1;
    if (t3v_run_load(r, 0, &found, &pass) || !found) return 0;
    if (r->done_step < 0 || r->done_step > STEPS || pass.layer < 0 || pass.layer >= LAYERS ||
        pass.branch < 0 || pass.branch >= T3V_BRANCHES || (!r->done_step && !pass.layer && !pass.branch))
        abort();
    float row[DIM];
    t3v_tensor stream = {.type = T3V_F32, .ndim = 2, .shape = {1, DIM}, .data = row};
    if (pass.layer) (void)t3v_run_load_stream(r, 0, &stream);
    for (int i = r->done_step; i < STEPS; i++)
        if (t3v_sampler_step(r->sampler, i, m->x, m->v[0], N)) break;
    return 0;
}
