/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the parts of a model by the names that each layout gives them. */
#include "pipe/location.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/tensors.h"

enum { NAMES = 6 };

/* What each part is called below the model's directory, best first; a directory stands for the weights in it. */
static const struct {
    const char *what, *option;
    const char *name[NAMES + 1]; /* ends with NULL */
} known[T3V_AT_COUNT] = {
    [T3V_AT_DIT] = {"transformer", "--model", {"transformer", "high_noise_model"}},
    [T3V_AT_DIT_LOW] = {"expert for low noise", "--model-low", {"transformer_2", "low_noise_model"}},
    [T3V_AT_TEXT] = {"text encoder", "--text-encoder", {"models_t5_umt5-xxl-enc-bf16.pth", "text_encoder"}},
    [T3V_AT_TOKENIZER] = {"tokenizer",
                          "--tokenizer",
                          {"google/umt5-xxl/spiece.model", "google/umt5-xxl/tokenizer.json",
                           "tokenizer/spiece.model", "tokenizer/tokenizer.json", "spiece.model",
                           "tokenizer.json"}},
    [T3V_AT_VAE] = {"VAE", "--vae", {"Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "vae"}},
    [T3V_AT_CLIP] = {"image encoder",
                     "--clip",
                     {"models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image_encoder"}},
};

static bool is_there(const char *path) { return t3v_is_file(path) || t3v_is_dir(path); }

/* *out is dir/name if that is there, else NULL; false without memory. */
static bool look(const char *dir, const char *name, char **out)
{
    char *path = t3v_path_join(dir, name);
    if (!path) return false;
    *out = is_there(path) ? path : NULL;
    if (!*out) free(path);
    return true;
}

static bool copy(const char *text, char **out) { return (*out = strdup(text)) != NULL; }

static t3v_status no_memory(void) { return t3v_fail(T3V_E_NOMEM, "no memory for a path"); }

/* The first of the part's names that is there. Directories of a VAE or encoder are looked into file by file, but in the
 * Diffusers layout, where they hold one. */
static t3v_status find_named(t3v_location *l, t3v_place p)
{
    bool dirs = p <= T3V_AT_DIT_LOW || strcmp(l->layout, "diffusers") == 0;
    for (int i = 0; i < NAMES && known[p].name[i] && !l->path[p]; i++) {
        if (!look(l->root, known[p].name[i], &l->path[p])) return no_memory();
        if (!l->path[p] || dirs || !t3v_is_dir(l->path[p])) continue;
        free(l->path[p]);
        l->path[p] = NULL;
    }
    return T3V_OK;
}

/* Whether a directory says which weights are its own; if these are broken, that is for their reader to tell. */
static t3v_status holds_weights(const char *dir, bool *yes)
{
    t3v_tensor_file *f;
    t3v_status st = t3v_tensors_open(&f, dir);
    t3v_tensors_close(f);
    *yes = st != T3V_E_IO;
    return st == T3V_E_NOMEM ? st : T3V_OK;
}

/* A DiT's directory: the model's own in the original layout, one below it in the others. */
static t3v_status find_in_directory(t3v_location *l)
{
    char *own = NULL, *component = NULL, *high = NULL, *low = NULL;
    t3v_status st = T3V_OK;
    bool ok = look(l->root, "config.json", &own) && look(l->root, "transformer", &component) &&
              look(l->root, "high_noise_model", &high) && look(l->root, "low_noise_model", &low) &&
              look(l->root, "model_index.json", &l->pipeline) &&
              look(l->root, "scheduler/scheduler_config.json", &l->scheduler);
    if (!ok) {
        st = no_memory();
    } else if ((component || l->pipeline) && (own || high || low)) {
        st = t3v_fail(T3V_E_FORMAT,
                      "%s holds two layouts: %s of the Diffusers layout and %s of the original one; give a "
                      "directory with one of them",
                      l->root, component ? "transformer/" : "model_index.json",
                      own    ? "config.json"
                      : high ? "high_noise_model/"
                             : "low_noise_model/");
    } else if (component || l->pipeline) {
        l->layout = "diffusers";
        st = find_named(l, T3V_AT_DIT);
        if (!st) st = find_named(l, T3V_AT_DIT_LOW);
        l->experts = l->path[T3V_AT_DIT_LOW] != NULL;
    } else if (high || low) {
        l->experts = true;
        st = find_named(l, T3V_AT_DIT);
        if (!st) st = find_named(l, T3V_AT_DIT_LOW);
    } else if (own) {
        bool here;
        st = holds_weights(l->root, &here);
        if (!st && here && !copy(l->root, &l->path[T3V_AT_DIT])) st = no_memory();
    } else {
        l->layout = "files";
    }
    if (!st && l->path[T3V_AT_DIT] && !look(l->path[T3V_AT_DIT], "config.json", &l->config)) st = no_memory();
    free(own);
    free(component);
    free(high);
    free(low);
    return st;
}

/* What lies beside a DiT's file: its configuration, the other expert. */
static t3v_status find_beside(t3v_location *l)
{
    const char *dit = l->path[T3V_AT_DIT], *slash = strrchr(dit, '/');
    char *dir = slash ? strndup(dit, slash > dit ? (size_t)(slash - dit) : 1) : strdup(".");
    bool ok = dir && look(dir, "config.json", &l->config) && t3v_location_pair(l);
    free(dir);
    return ok ? T3V_OK : no_memory();
}

/* A DiT's file: the other parts may lie beside it, or beside its directory if that is one for DiTs alone. */
static t3v_status find_file(t3v_location *l, const char *model)
{
    static const char *const alone[] = {"diffusion_models", "unet", "HighNoise", "LowNoise"};
    const char *slash = strrchr(model, '/');
    l->layout = "files";
    l->root = slash ? strndup(model, slash > model ? (size_t)(slash - model) : 1) : strdup(".");
    if (!l->root || !copy(model, &l->path[T3V_AT_DIT])) return no_memory();
    T3V_TRY(find_beside(l));
    char *dir = strrchr(l->root, '/');
    for (size_t i = 0; dir && dir != l->root && i < sizeof alone / sizeof *alone; i++)
        if (strcmp(dir + 1, alone[i]) == 0) *dir = 0;
    return T3V_OK;
}

/* In a directory that was given. */
static t3v_status find_tokenizer(const char *dir, char **out)
{
    if (!look(dir, "spiece.model", out) || (!*out && !look(dir, "tokenizer.json", out))) return no_memory();
    return *out
               ? T3V_OK
               : t3v_fail(T3V_E_ARG, "--tokenizer %s: neither spiece.model nor tokenizer.json is there", dir);
}

static t3v_status find_parts(t3v_location *l, const t3v_model_paths *paths)
{
    const char *const given[T3V_AT_COUNT] = {[T3V_AT_DIT_LOW] = paths->model_low,
                                             [T3V_AT_TEXT] = paths->text_encoder,
                                             [T3V_AT_TOKENIZER] = paths->tokenizer,
                                             [T3V_AT_VAE] = paths->vae,
                                             [T3V_AT_CLIP] = paths->clip};
    for (int p = T3V_AT_DIT_LOW; p < T3V_AT_COUNT; p++) {
        if (given[p] && p == T3V_AT_TOKENIZER && t3v_is_dir(given[p])) {
            T3V_TRY(find_tokenizer(given[p], &l->path[p]));
        } else if (given[p]) {
            if (!is_there(given[p]))
                return t3v_fail(T3V_E_ARG, "%s %s: there is no such file", known[p].option, given[p]);
            free(l->path[p]);
            if (!copy(given[p], &l->path[p])) return no_memory();
        } else if (p != T3V_AT_DIT_LOW) {
            T3V_TRY(find_named(l, (t3v_place)p));
        }
    }
    bool known_dit = l->path[T3V_AT_DIT] != NULL;
    if (!known_dit || !l->path[T3V_AT_TEXT] || !l->path[T3V_AT_VAE] || !l->path[T3V_AT_TOKENIZER])
        T3V_TRY(t3v_location_scan(l));
    if (!known_dit && l->path[T3V_AT_DIT]) {
        T3V_TRY(find_beside(l));
        if (!l->config && !look(l->root, "config.json", &l->config)) return no_memory();
    }
    if (l->path[T3V_AT_DIT_LOW]) l->experts = true;
    return look(l->root, "t3v.json", &l->defaults) ? T3V_OK : no_memory();
}

const char *const *t3v_location_names(t3v_place place) { return known[place].name; }
const char *t3v_location_option(t3v_place place) { return known[place].option; }

t3v_status t3v_location_look(t3v_location *l, const t3v_model_paths *paths)
{
    *l = (t3v_location){.layout = "original"};
    t3v_status st = T3V_OK;
    if (t3v_is_dir(paths->model)) {
        st = copy(paths->model, &l->root) ? find_in_directory(l) : no_memory();
    } else if (t3v_is_file(paths->model)) {
        st = find_file(l, paths->model);
    } else {
        st = t3v_fail(T3V_E_ARG, "--model %s: nothing there; expected a model directory or a DiT file",
                      paths->model);
    }
    if (!st) st = find_parts(l, paths);
    if (st) t3v_location_free(l);
    return st;
}

t3v_status t3v_location_find(t3v_location *l, const t3v_model_paths *paths)
{
    const char *dit;
    T3V_TRY(t3v_location_look(l, paths));
    t3v_status st = t3v_location_get(l, T3V_AT_DIT, &dit);
    if (st) t3v_location_free(l);
    return st;
}

void t3v_location_free(t3v_location *l)
{
    for (int p = 0; p < T3V_AT_COUNT; p++) {
        free(l->path[p]);
        free(l->several[p]);
    }
    free(l->config);
    free(l->pipeline);
    free(l->scheduler);
    free(l->defaults);
    free(l->root);
    free(l->broken);
    *l = (t3v_location){0};
}

t3v_status t3v_location_get(const t3v_location *l, t3v_place p, const char **out)
{
    if ((*out = l->path[p])) return T3V_OK;
    if (l->several[p])
        return t3v_fail(T3V_E_IO, "%s: more than one file could be the %s (%s); %s names the one", l->root,
                        known[p].what, l->several[p], known[p].option);
    char names[256] = "";
    size_t n = 0;
    for (int i = 0; i < NAMES && known[p].name[i] && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", known[p].name[i]);
    return t3v_fail(
        T3V_E_IO,
        "%s: the %s is missing; looked for %s, and into the files of weights there; %s names it when it is "
        "elsewhere%s%s",
        l->root, known[p].what, names, known[p].option, l->broken ? "; not read: " : "",
        l->broken ? l->broken : "");
}
