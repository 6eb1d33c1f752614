/* SPDX-License-Identifier: Apache-2.0 */
/* The variants of a comparison as the user names them. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "base/status.h"
#include "compare.h"
#include "text/utf8.h"

static const char *const keys[] = {"name", "plan", "lora", "model", "act"};
enum { KEY_NAME, KEY_PLAN, KEY_LORA, KEY_MODEL, KEY_ACT, KEYS };

/* The key with its '=' at s, or KEYS. */
static int key_at(const char *s)
{
    for (int k = 0; k < KEYS; k++) {
        size_t n = strlen(keys[k]);
        if (strncmp(s, keys[k], n) == 0 && s[n] == '=') return k;
    }
    return KEYS;
}

/* The end of the value at s: before a comma that a key follows, as plans have commas of their own. */
static char *value_end(char *s)
{
    while (*s && !(*s == ',' && key_at(s + 1) != KEYS)) s++;
    return s;
}

static t3v_status set(compare_variant *v, int key, const char *value, const char *text, long long column)
{
    const char **once[KEYS] = {
        [KEY_NAME] = &v->name, [KEY_PLAN] = &v->plan, [KEY_MODEL] = &v->model, [KEY_ACT] = &v->act};
    if (!*value)
        return t3v_fail(T3V_E_ARG, "--variant \"%s\", column %lld: %s is empty", text, column, keys[key]);
    if (key != KEY_LORA) {
        if (*once[key])
            return t3v_fail(T3V_E_ARG, "--variant \"%s\", column %lld: a second %s", text, column, keys[key]);
        *once[key] = value;
        if (key == KEY_ACT && !cli_act(value, &v->products))
            return t3v_fail(T3V_E_ARG, "--variant \"%s\", column %lld: act=%s, expected " CLI_ACTS, text,
                            column, value);
        return T3V_OK;
    }
    if (v->loras == COMPARE_LORAS)
        return t3v_fail(T3V_E_ARG, "--variant \"%s\", column %lld: more than %d LoRAs", text, column,
                        COMPARE_LORAS);
    if (!cli_lora(value, v->lora_path[v->loras], &v->lora[v->loras]))
        return t3v_fail(T3V_E_ARG, "--variant, column %lld: the path of the LoRA is too long", column);
    v->loras++;
    return T3V_OK;
}

t3v_status compare_variant_add(compare *c, const char *text)
{
    if (c->variants == COMPARE_VARIANTS)
        return t3v_fail(T3V_E_ARG, "more than %d variants", COMPARE_VARIANTS);
    compare_variant *v = &c->variant[c->variants++];
    size_t n = strlen(text), bad = t3v_utf8_check(text, n);
    if (bad < n) return t3v_fail(T3V_E_ARG, "--variant: byte %zu is not UTF-8", bad);
    for (const char *s = text; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return t3v_fail(T3V_E_ARG, "--variant, column %lld: a control character",
                            (long long)(s - text) + 1);
    if (!(v->text = strdup(text))) return t3v_fail(T3V_E_NOMEM, "out of memory");
    for (char *at = v->text;;) {
        int key = key_at(at);
        if (key == KEYS)
            return t3v_fail(T3V_E_ARG,
                            "--variant \"%s\", column %lld: expected name=, plan=, lora=, model= or act=",
                            text, (long long)(at - v->text) + 1);
        char *value = at + strlen(keys[key]) + 1, *end = value_end(value);
        bool last = !*end;
        *end = 0;
        T3V_TRY(set(v, key, value, text, (long long)(at - v->text) + 1));
        if (last) break;
        at = end + 1;
    }
    if (!v->name) v->name = v->plan;
    if (!v->name)
        return t3v_fail(T3V_E_ARG, "--variant \"%s\": it needs a name (name=) or a plan (plan=)", text);
    if (strlen(v->name) > COMPARE_NAME)
        return t3v_fail(T3V_E_ARG, "a variant's name has %zu bytes, at most %d", strlen(v->name),
                        COMPARE_NAME);
    return T3V_OK;
}

/* A folder's name for any name: itself where that is harmless, else with a hash of it, so that names stay apart. */
static char *folder_name(const char *name)
{
    char safe[41];
    uint32_t hash = 2166136261u; /* FNV-1a */
    size_t n = 0;
    bool same = true;
    for (const char *s = name; *s; s++) {
        hash = (hash ^ (unsigned char)*s) * 16777619u;
        bool plain = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+", *s) ||
                     (n && strchr(".-", *s));
        if (n < sizeof safe - 1) safe[n++] = plain ? *s : '_';
        else plain = false;
        same = same && plain;
    }
    safe[n] = 0;
    char *out = NULL;
    int rc = same ? asprintf(&out, "clips/%s", safe) : asprintf(&out, "clips/%s-%08x", safe, hash);
    return rc < 0 ? NULL : out;
}

t3v_status compare_variants_check(compare *c)
{
    if (c->variants < 2)
        return t3v_fail(T3V_E_ARG,
                        "%d variant%s: expected at least two --variant, the first is the reference",
                        c->variants, c->variants == 1 ? "" : "s");
    for (int i = 0; i < c->variants; i++) {
        compare_variant *v = &c->variant[i];
        if (!v->model) v->model = c->job.model;
        if (!v->model)
            return t3v_fail(T3V_E_ARG, "variant \"%s\" has no model: give --model, or model= in each variant",
                            v->name);
        for (int j = 0; j < i; j++)
            if (strcmp(v->name, c->variant[j].name) == 0)
                return t3v_fail(T3V_E_ARG, "two variants are named \"%s\": give each a name= of its own",
                                v->name);
        v->folder = folder_name(v->name);
        if (!v->folder || asprintf(&v->dir, "%s/%s", c->out, v->folder) < 0 ||
            asprintf(&v->record, "%s/run.json", v->dir) < 0)
            return t3v_fail(T3V_E_NOMEM, "out of memory");
        for (int j = 0; j < i; j++)
            if (strcmp(v->folder, c->variant[j].folder) == 0)
                return t3v_fail(T3V_E_ARG, "variants \"%s\" and \"%s\" would share a folder: rename one",
                                c->variant[j].name, v->name);
    }
    return T3V_OK;
}

void compare_free(compare *c)
{
    for (int i = 0; i < c->variants; i++) {
        compare_variant *v = &c->variant[i];
        for (int64_t k = 0; v->clip && k < c->prompts.count; k++) free(v->clip[k].path);
        free(v->clip);
        free(v->picture);
        free(v->record);
        free(v->dir);
        free(v->folder);
        free(v->text);
    }
    free(c->scene);
    t3v_prompts_free(&c->prompts);
}
