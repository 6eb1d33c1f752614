/* SPDX-License-Identifier: Apache-2.0 */
/* Running the variants: checks first, then clips, with a record beside them of what they took. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "cli.h"
#include "compare.h"
#include "io/file.h"
#include "io/json.h"
#include "score.h"
#include "video/video.h"

/* ---- what the clips were made with --------------------------------------------------------------------- */

static uint64_t mark_bytes(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *b = data;
    for (size_t i = 0; i < n; i++) hash = (hash ^ b[i]) * 1099511628211u; /* FNV-1a */
    return hash;
}

/* The size of a file and sixteen pages of it: tells tuned weights from others without reading them whole. */
static t3v_status mark_file(uint64_t *hash, const char *path)
{
    enum { PAGES = 16, PAGE = 4096 };
    t3v_map m;
    T3V_TRY(t3v_map_open(&m, path));
    uint64_t size = m.size;
    *hash = mark_bytes(*hash, &size, sizeof size);
    for (size_t i = 0; i < PAGES && m.size; i++) {
        size_t at = m.size > PAGE ? (m.size - PAGE) / (PAGES - 1) * i : 0;
        *hash = mark_bytes(*hash, m.data + at, m.size - at < PAGE ? m.size - at : PAGE);
        if (!at && i) break;
    }
    t3v_map_close(&m);
    return T3V_OK;
}

static int is_weight(const struct dirent *d)
{
    static const char *const suffix[] = {".safetensors", ".pth", ".json"};
    size_t n = strlen(d->d_name);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        size_t m = strlen(suffix[i]);
        if (d->d_name[0] != '.' && n > m && strcmp(d->d_name + n - m, suffix[i]) == 0) return 1;
    }
    return 0;
}

/* 16 digits for the weights of a variant. */
static t3v_status mark_weights(const compare_variant *v, char out[17])
{
    struct dirent **entry = NULL;
    uint64_t hash = 14695981039346656037u;
    t3v_status st = T3V_OK;
    int n = scandir(v->model, &entry, is_weight, alphasort);
    for (int i = 0; i < n; i++) {
        char *path = st ? NULL : t3v_path_join(v->model, entry[i]->d_name);
        if (!st && !path) st = t3v_fail(T3V_E_NOMEM, "out of memory");
        if (!st && t3v_is_file(path)) {
            hash = mark_bytes(hash, entry[i]->d_name, strlen(entry[i]->d_name));
            st = mark_file(&hash, path);
        }
        free(path);
        free(entry[i]);
    }
    free(entry);
    for (int64_t i = 0; i < v->loras && !st; i++) st = mark_file(&hash, v->lora[i].path);
    snprintf(out, 17, "%016" PRIx64, hash);
    return st;
}

static t3v_status settings_of(const compare *c, const compare_variant *v, json_t **out)
{
    const t3v_job *j = &c->job;
    const t3v_result *r = &v->expected;
    char weights[17];
    T3V_TRY(mark_weights(v, weights));
    json_t *loras = json_array();
    for (int64_t i = 0; i < v->loras; i++)
        json_array_append_new(loras, json_pack("{s:s, s:f}", "file", v->lora[i].path, "strength",
                                               v->lora[i].strength));
    *out = json_pack("{s:s, s:s, s:s?, s:o, s:[I,I], s:I, s:I, s:I, s:s?, s:s}", "model", v->model, "weights",
                     weights, "plan", v->plan, "lora", loras, "size", (json_int_t)r->width,
                     (json_int_t)r->height, "frames", (json_int_t)r->frames, "steps", (json_int_t)r->steps,
                     "seed", (json_int_t)j->seed, "sampler", j->sampler, "precision",
                     t3v_dtype_name(j->compute));
    if (!*out) return t3v_fail(T3V_E_ARG, "variant \"%s\": its paths are not UTF-8", v->name);
    t3v_products products = v->act ? v->products : j->products;
    if (products) json_object_set_new(*out, "act", json_string(t3v_products_name(products)));
    json_object_set_new(*out, "shift", j->shift > 0 ? json_real(j->shift) : json_null());
    json_object_set_new(*out, "cfg", j->cfg >= 0 ? json_real(j->cfg) : json_null());
    json_object_set_new(*out, "fps", j->fps > 0 ? json_real(j->fps) : json_null());
    return T3V_OK;
}

/* ---- the record ------------------------------------------------------------------------------------------ */

/* clips of a record: [n] of null or {seconds_denoise, seconds_decode, passes}, with density where keys were chosen. */
typedef struct run_record {
    compare_variant *v;
    json_t *root;
} run_record;

static t3v_status record_save(const run_record *r)
{
    char *text = t3v_json_dumps(r->root, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    if (!text) return t3v_fail(T3V_E_NOMEM, "no memory for %s", r->v->record);
    t3v_status st = t3v_write_text(r->v->record, text, strlen(text));
    free(text);
    return st;
}

static t3v_status other_run(const compare_variant *v, const char *key, const json_t *then, const json_t *now)
{
    char *a = t3v_json_dumps(then, JSON_ENCODE_ANY | JSON_COMPACT),
         *b = t3v_json_dumps(now, JSON_ENCODE_ANY | JSON_COMPACT);
    t3v_status st =
        t3v_fail(T3V_E_ARG,
                 "%s holds clips made with another %s (%.200s, now %.200s): repeat that, give another "
                 "-o, or delete the folder",
                 v->dir, key, a ? a : "none", b ? b : "none");
    free(a);
    free(b);
    return st;
}

/* The record as it is on disk, held against what is asked now; or a new one. */
static t3v_status record_open(const compare *c, run_record *r)
{
    compare_variant *v = r->v;
    json_t *settings = NULL, *prompts = json_array(), *clips = NULL, *old = NULL;
    const char *key;
    json_t *value;
    t3v_status st = settings_of(c, v, &settings);
    for (int64_t i = 0; i < c->prompts.count; i++)
        json_array_append_new(prompts, json_string(c->prompts.item[i].text));
    if (!st && t3v_is_file(v->record)) st = t3v_json_load(&r->root, v->record);
    if (!st && r->root) {
        json_t *then = json_object_get(r->root, "settings"), *said = json_object_get(r->root, "prompts");
        json_object_foreach(settings, key, value) if (!st && !json_equal(json_object_get(then, key), value))
            st = other_run(v, key, json_object_get(then, key), value);
        for (size_t i = 0; i < json_array_size(said) && i < json_array_size(prompts) && !st; i++)
            if (!json_equal(json_array_get(said, i), json_array_get(prompts, i)))
                st = other_run(v, "prompt", json_array_get(said, i), json_array_get(prompts, i));
        old = json_object_get(r->root, "clips");
        if (!st && (!json_is_array(old) || !json_is_array(said)))
            st = t3v_fail(T3V_E_FORMAT, "%s is not a record of clips: delete the folder", v->record);
    } else if (!st) {
        r->root = json_object();
        for (int64_t i = 0; i < c->prompts.count && !st; i++)
            if (t3v_is_file(v->clip[i].path))
                st = t3v_fail(T3V_E_ARG,
                              "%s is there, but not %s, which says what it was made with: delete the "
                              "folder, or give another -o",
                              v->clip[i].path, v->record);
    }
    if (!st) {
        clips = json_array();
        size_t n = (size_t)c->prompts.count > json_array_size(old) ? (size_t)c->prompts.count
                                                                   : json_array_size(old);
        for (size_t i = 0; i < n; i++) {
            json_t *one = json_array_get(old, i);
            if (one) json_array_append(clips, one);
            else json_array_append_new(clips, json_null());
        }
        if (json_array_size(json_object_get(r->root, "prompts")) < json_array_size(prompts))
            json_object_set(r->root, "prompts", prompts);
        json_object_set(r->root, "settings", settings);
        json_object_set(r->root, "clips", clips);
    }
    json_decref(clips);
    json_decref(prompts);
    json_decref(settings);
    return st;
}

static double real_of(const json_t *o, const char *key)
{
    const json_t *x = json_object_get(o, key);
    return json_is_number(x) ? json_number_value(x) : (double)NAN;
}

/* Times of a clip whose run was resumed are those of the passes it made, taken for all. */
static void record_read(const compare *c, const run_record *r)
{
    compare_variant *v = r->v;
    const t3v_result *e = &v->expected;
    double text = real_of(r->root, "seconds_text"), peak = real_of(r->root, "peak_bytes");
    v->seconds_text = text > 0 ? text : 0;
    v->peak_bytes = peak > 0 && peak < 0x1p62 ? (int64_t)peak : 0;
    for (int64_t i = 0; i < c->prompts.count; i++) {
        const json_t *one = json_array_get(json_object_get(r->root, "clips"), (size_t)i);
        double passes = real_of(one, "passes"), denoise = real_of(one, "seconds_denoise");
        double whole = passes > 0 ? denoise / passes * (double)e->passes : (double)NAN;
        v->clip[i].seconds_a_step = whole / (double)e->steps;
        v->clip[i].seconds = whole + real_of(one, "seconds_decode");
        /* Of a resumed run: the share in some steps, which says nothing of the whole. */
        v->clip[i].density = passes >= (double)e->passes ? real_of(one, "density") : (double)NAN;
    }
}

/* ---- a process for each run ------------------------------------------------------------------------------ */

static void become_child(pid_t parent)
{
    setpgid(
        0,
        0); /* Ctrl-C reaches the parent, which passes it on once: a second one would end the run unsaved */
    signal(SIGTTOU, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) raise(SIGTERM);
}

/* Runs fn in a process of its own, whose peak memory is its own, and hands over the `size` bytes it puts into out.
 * The library's threads must not have started in this one. */
static int in_child(const char *name, t3v_status (*fn)(void *user, void *out), void *user, void *out,
                    size_t size)
{
    int ends[2], status = 0;
    pid_t parent = getpid();
    fflush(NULL);
    if (pipe(ends)) return cli_fail(t3v_fail(T3V_E_IO, "cannot start a process: %s", strerror(errno)));
    pid_t child = fork();
    if (child < 0) {
        close(ends[0]);
        close(ends[1]);
        return cli_fail(t3v_fail(T3V_E_IO, "cannot start a process: %s", strerror(errno)));
    }
    if (child == 0) {
        become_child(parent);
        close(ends[0]);
        t3v_status st = fn(user, out);
        if (!st && size && write(ends[1], out, size) != (ssize_t)size)
            st = t3v_fail(T3V_E_IO, "the other process is gone");
        int rc = st ? cli_fail(st) : CLI_OK;
        fflush(NULL);
        _exit(rc);
    }
    close(ends[1]);
    size_t got = 0;
    bool told = false;
    while (got < size) {
        ssize_t n = read(ends[0], (char *)out + got, size - got);
        if (n == 0) break;
        if (n > 0) got += (size_t)n;
        else if (errno != EINTR) break;
        if (n < 0 && cli_interrupted() && !told) told = kill(child, SIGTERM) == 0;
    }
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        if (cli_interrupted() && !told) told = kill(child, SIGTERM) == 0;
    if (WIFSIGNALED(status))
        return cli_fail(
            t3v_fail(T3V_E_INTERNAL,
                     "variant \"%s\": its process was ended by signal %d (%s); the same command goes "
                     "on from there",
                     name, WTERMSIG(status), strsignal(WTERMSIG(status))));
    int rc = WEXITSTATUS(status);
    return rc ? rc : got < size ? cli_fail(t3v_fail(T3V_E_INTERNAL, "a process ended early")) : CLI_OK;
}

/* ---- the runs ---------------------------------------------------------------------------------------------- */

typedef struct task {
    compare *c;
    compare_variant *v;
    t3v_output *output; /* [prompts] */
    run_record record;
} task;

static t3v_job job_of(const task *t)
{
    t3v_job j = t->c->job;
    j.model = t->v->model;
    j.plan = t->v->plan;
    j.lora = t->v->lora;
    j.loras = t->v->loras;
    if (t->v->act) j.products = t->v->products;
    j.output = t->output;
    j.outputs = t->c->prompts.count;
    return j;
}

static t3v_status check(void *user, void *out)
{
    task *t = user;
    t3v_job j = job_of(t);
    j.dry_run = true;
    t3v_status st = t3v_generate(&j, out);
    return st ? t3v_fail_in(st, "variant \"%s\"", t->v->name) : T3V_OK;
}

static t3v_status made(void *user, int64_t index, const t3v_result *r)
{
    run_record *record = user;
    json_t *root = record->root;
    double peak = real_of(root, "peak_bytes");
    json_t *one = json_pack("{s:f, s:f, s:I}", "seconds_denoise", r->seconds_denoise, "seconds_decode",
                            r->seconds_decode, "passes", (json_int_t)r->passes);
    if (r->density > 0) json_object_set_new(one, "density", json_real(r->density));
    json_array_set_new(json_object_get(root, "clips"), (size_t)index, one);
    json_object_set_new(root, "seconds_text", json_real(r->seconds_text));
    if (!(peak >= (double)r->peak_bytes))
        json_object_set_new(root, "peak_bytes", json_integer((json_int_t)r->peak_bytes));
    return record_save(record);
}

static t3v_status run_variant(void *user, void *out)
{
    (void)out;
    task *t = user;
    t3v_job j = job_of(t);
    j.resume = true;
    j.made = made;
    j.made_user = &t->record;
    t3v_status st = t3v_generate(&j, NULL);
    return st ? t3v_fail_in(st, "variant \"%s\"", t->v->name) : T3V_OK;
}

/* Whether the video module can write what the page shows: known in a moment, not after hours. */
static t3v_status check_writer(const compare *c)
{
    char *path = NULL;
    t3v_video_writer *w = NULL;
    t3v_video_options o = {.width = 32, .height = 32, .fps_num = 16, .fps_den = 1, .codec = c->job.codec};
    if (asprintf(&path, "%s/clips/trial.mp4", c->out) < 0) return t3v_fail(T3V_E_NOMEM, "out of memory");
    t3v_status st = t3v_video_writer_open(&w, path, &o);
    t3v_video_writer_abort(&w);
    free(path);
    return st ? t3v_fail_in(st, "the clips of a comparison are h264 in mp4, for browsers") : T3V_OK;
}

static t3v_status make_dir(const char *path)
{
    if (mkdir(path, 0777) && errno != EEXIST)
        return t3v_fail(T3V_E_IO, "cannot make %s: %s", path, strerror(errno));
    return T3V_OK;
}

static t3v_status make_dirs(const compare *c)
{
    char *clips = t3v_path_join(c->out, "clips");
    if (!clips) return t3v_fail(T3V_E_NOMEM, "out of memory");
    t3v_status st = make_dir(c->out);
    if (!st) st = make_dir(clips);
    for (int i = 0; i < c->variants && !st; i++) st = make_dir(c->variant[i].dir);
    free(clips);
    return st;
}

static t3v_status make_paths(const compare *c, compare_variant *v)
{
    v->clip = calloc((size_t)c->prompts.count, sizeof *v->clip);
    if (!v->clip) return t3v_fail(T3V_E_NOMEM, "no memory for %lld clips", (long long)c->prompts.count);
    for (int64_t i = 0; i < c->prompts.count; i++)
        if (asprintf(&v->clip[i].path, "%s/%05lld.mp4", v->dir, (long long)i) < 0) {
            v->clip[i].path = NULL;
            return t3v_fail(T3V_E_NOMEM, "no memory for a path");
        }
    return T3V_OK;
}

static t3v_status one_size(const compare *c)
{
    const compare_variant *a = &c->variant[0];
    if (c->tile[0] >= a->expected.height && c->tile[1] >= a->expected.width)
        return t3v_fail(T3V_E_ARG, "--tile %lldx%lld: no border lies inside frames of %lldx%lld (HxW)",
                        (long long)c->tile[0], (long long)c->tile[1], (long long)a->expected.height,
                        (long long)a->expected.width);
    for (int i = 1; i < c->variants; i++) {
        const compare_variant *b = &c->variant[i];
        const t3v_result *x = &a->expected, *y = &b->expected;
        if (x->width != y->width || x->height != y->height || x->frames != y->frames)
            return t3v_fail(
                T3V_E_ARG,
                "variant \"%s\" makes %lldx%lld, %lld frames, variant \"%s\" %lldx%lld, %lld frames: "
                "give --size and --frames",
                a->name, (long long)x->width, (long long)x->height, (long long)x->frames, b->name,
                (long long)y->width, (long long)y->height, (long long)y->frames);
    }
    return T3V_OK;
}

static int run_one(task *t, int number)
{
    const compare *c = t->c;
    compare_variant *v = t->v;
    int64_t missing = 0;
    int rc = CLI_OK;
    t->record = (run_record){.v = v};
    t3v_status st = record_open(c, &t->record);
    if (!st) st = record_save(&t->record);
    for (int64_t i = 0; i < c->prompts.count; i++) missing += !t3v_is_file(v->clip[i].path);
    if (st) rc = cli_fail(st);
    else if (missing) {
        t3v_info("variant %d of %d, %s: %lld of %lld clips to make", number, c->variants, v->name,
                 (long long)missing, (long long)c->prompts.count);
        rc = in_child(v->name, run_variant, t, NULL, 0);
        json_decref(t->record.root); /* the child has written its own */
        t->record.root = NULL;
        if (!rc && (st = t3v_json_load(&t->record.root, v->record))) rc = cli_fail(st);
    }
    if (!rc) record_read(c, &t->record);
    json_decref(t->record.root);
    t->record.root = NULL;
    return rc;
}

int compare_run(compare *c)
{
    int rc = CLI_OK;
    t3v_status st = T3V_OK;
    t3v_output *output = calloc((size_t)c->prompts.count, sizeof *output);
    if (!output)
        return cli_fail(t3v_fail(T3V_E_NOMEM, "no memory for %lld clips", (long long)c->prompts.count));
    task t = {.c = c, .output = output};
    for (int i = 0; i < c->variants && !rc && !st; i++) {
        t.v = &c->variant[i];
        if ((st = make_paths(c, t.v))) break;
        for (int64_t k = 0; k < c->prompts.count; k++)
            output[k] = (t3v_output){.prompt = c->prompts.item[k].text,
                                     .path = t.v->clip[k].path,
                                     .seed_offset = (uint64_t)k};
        rc = in_child(t.v->name, check, &t, &t.v->expected, sizeof t.v->expected);
    }
    if (!rc && !st) st = one_size(c);
    if (!rc && !st) st = make_dirs(c);
    if (!rc && !st) st = check_writer(c);
    if (st) rc = cli_fail(st);
    for (int i = 0; i < c->variants && !rc; i++) {
        t.v = &c->variant[i];
        for (int64_t k = 0; k < c->prompts.count; k++) output[k].path = t.v->clip[k].path;
        rc = run_one(&t, i + 1);
    }
    free(output);
    return rc;
}
