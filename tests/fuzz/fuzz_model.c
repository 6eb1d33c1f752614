/* SPDX-License-Identifier: Apache-2.0 */
/* A directory of a model, of files that a fuzzer names and fills (weights in lines, else any bytes): its parts are found or
 * not, and each is refused or has sizes in range. */
#define _GNU_SOURCE
#include "clip/vision.h"
#include "fuzz_file.h"
#include "fuzz_lines.h"
#include "fuzz_parts.h"
#include "io/names.h"
#include "pipe/image.h"
#include "pipe/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const dirs[] = {"transformer",     "transformer_2", "text_encoder",    "vae",
                                   "image_encoder",   "tokenizer",     "scheduler",       "high_noise_model",
                                   "low_noise_model", "google",        "google/umt5-xxl", NULL};
static const char *const names[] = {"model_index.json",
                                    "scheduler/scheduler_config.json",
                                    "transformer/config.json",
                                    "transformer/a.safetensors",
                                    "transformer_2/a.safetensors",
                                    "text_encoder/a.safetensors",
                                    "vae/a.safetensors",
                                    "image_encoder/a.safetensors",
                                    "tokenizer/tokenizer.json",
                                    "google/umt5-xxl/spiece.model",
                                    "high_noise_model/a.safetensors",
                                    "high_noise_model/config.json",
                                    "low_noise_model/a.safetensors",
                                    "config.json",
                                    "t3v.json",
                                    "diffusion_pytorch_model.safetensors",
                                    "wan_high_noise.safetensors",
                                    "wan_low_noise.safetensors",
                                    "all.safetensors",
                                    "all.gguf",
                                    NULL};

static void check(int holds)
{
    if (!holds) abort();
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/m/%s", fuzz_dir(), name);
    return path;
}

static void clear(void)
{
    int last = 0;
    for (int i = 0; names[i]; i++) remove(path_of(names[i]));
    while (dirs[last]) last++;
    while (last-- > 0) remove(path_of(dirs[last]));
}

static void fill(const fuzz_part *part, int n)
{
    check(!t3v_make_dir(path_of("")));
    for (int i = 0; i < n; i++) {
        char name[64];
        size_t size = part[i].size;
        const char *tail = strrchr(part[i].name, '.');
        bool lines = strcmp(tail, ".safetensors") == 0 && (size < 9 || part[i].data[8] != '{');
        uint8_t *made = lines ? fuzz_lines(part[i].data, size, &size) : NULL;
        check(!t3v_make_parents(path_of(part[i].name)));
        snprintf(name, sizeof name, "m/%s", part[i].name);
        fuzz_put(name, made ? made : part[i].data, size);
        free(made);
    }
}

static void check_text(const t3v_model *m)
{
    t3v_tensor_file *f;
    t3v_umt5_config c;
    t3v_umt5 text;
    if (t3v_model_weights(m, T3V_AT_TEXT, &f)) return;
    if (!t3v_umt5_config_read(f, &c) && !t3v_umt5_open(&text, &c)) {
        check(c.heads >= 1 && c.dim_attn % c.heads == 0 && c.buckets <= 256);
        check(t3v_params_numel(&text.params) > 0);
        t3v_umt5_close(&text);
    }
    t3v_tensors_close(f);
}

static void check_vae(const t3v_model *m)
{
    t3v_tensor_file *f;
    t3v_vae_config c;
    t3v_vae vae;
    if (t3v_model_weights(m, T3V_AT_VAE, &f)) return;
    if (!t3v_vae_config_read(f, &c) && !t3v_vae_open(&vae, &c)) {
        check(vae.stride == 8 || vae.stride == 16);
        check(t3v_params_numel(&vae.params) > 0);
        t3v_vae_close(&vae);
    }
    t3v_tensors_close(f);
}

static void check_clip(const t3v_model *m)
{
    t3v_tensor_file *f;
    t3v_clip_config c;
    t3v_clip clip;
    if (t3v_model_weights(m, T3V_AT_CLIP, &f)) return;
    if (!t3v_clip_config_read(f, &c) && !t3v_clip_open(&clip, &c)) {
        check(c.dim % c.heads == 0 && t3v_clip_rows(&c) >= 2);
        check(t3v_params_numel(&clip.params) > 0);
        t3v_clip_close(&clip);
    }
    t3v_tensors_close(f);
}

/* What the files' names tell, without their numbers. */
static void look(const t3v_model_paths *paths)
{
    t3v_location l;
    if (t3v_location_look(&l, paths)) return;
    for (int p = 0; p < T3V_AT_COUNT; p++) {
        const char *path;
        t3v_status st = t3v_location_get(&l, (t3v_place)p, &path);
        check(st ? !l.path[p] : t3v_is_file(path) || t3v_is_dir(path));
        check(!l.path[p] || !l.several[p]);
    }
    t3v_location_free(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { PARTS = 12 };
    fuzz_part part[PARTS];
    if (size > 1 << 15) return 0;
    clear();
    fill(part, fuzz_parts(data, size, names, part, PARTS));
    char dir[256];
    snprintf(dir, sizeof dir, "%s", path_of(""));
    t3v_model_paths paths = {.model = dir};
    t3v_model *m;
    look(&paths);
    if (!t3v_model_open(&m, &paths, 0, T3V_F32, false)) {
        const t3v_defaults *d = &m->defaults;
        check(m->config.dim >= 1 && m->config.heads >= 1 && m->config.layers >= 1);
        check(d->shift > 0 && d->steps >= 1 && d->boundary >= 0 && d->boundary <= 1);
        check_text(m);
        check_vae(m);
        check_clip(m);
        if (!t3v_model_load(m, T3V_PART_DIT, false)) check(m->dit.params.count > m->config.layers);
        if (!t3v_model_measure_text(m)) check(m->tokenizer != NULL);
        t3v_model_close(m);
    }
    return 0;
}
