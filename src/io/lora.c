/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files of the usual layouts, matched to a model's weights. */
#include "io/lora.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/names.h"
#include "io/view.h"
#include "tensor/dtype.h"

enum { NAME_CAP = 512 };

typedef enum role { R_A, R_B, R_ALPHA, R_DIFF, R_BIAS, R_UP_BIAS, R_NONE } role;
typedef enum layout { L_NATIVE, L_COMFY, L_KOHYA, L_DIFFUSERS, L_COUNT } layout;
static const char *const layout_names[] = {"native", "diffusion_model", "kohya", "diffusers"};

/* What a file holds for one weight. */
typedef struct slot {
    const t3v_tensor_entry *part[4]; /* by role R_A .. R_DIFF; a bias delta is the diff of the bias */
    int64_t scaled_by;               /* 1 + the weight whose pair has the scale of `diff` too; 0: none */
} slot;

typedef struct row {
    const char *name;
    int64_t weight;
} row;

typedef struct matcher {
    row *dotted, *underscored; /* sorted by name; the second has the names of Diffusers too */
    char *text;
    int64_t n, n_underscored;
    const t3v_names *diffusers;
} matcher;

/* ---- names ----------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const row *)a)->name, ((const row *)b)->name);
}

/* Adds a row for `name` with '_' for '.', its text at *at. */
static void add_underscored(matcher *m, const char *name, int64_t weight, char **at)
{
    m->underscored[m->n_underscored++] = (row){*at, weight};
    for (; *name; name++) *(*at)++ = *name == '.' ? '_' : *name;
    *(*at)++ = 0;
}

static t3v_status make_matcher(matcher *m, const t3v_tensor_entry *weights, int64_t n)
{
    char other[T3V_NAME_CAP];
    size_t bytes = 1;
    for (int64_t i = 0; i < n; i++) bytes += strlen(weights[i].name) + 1 + T3V_NAME_CAP;
    m->n = n;
    m->diffusers = t3v_names_of(T3V_NAMES_DIT, "diffusers");
    m->dotted = malloc((size_t)(n + 1) * sizeof *m->dotted);
    m->underscored = malloc((size_t)(2 * n + 1) * sizeof *m->underscored);
    m->text = malloc(bytes);
    if (!m->dotted || !m->underscored || !m->text)
        return t3v_fail(T3V_E_NOMEM, "no memory to match a LoRA with %lld weights", (long long)n);
    char *p = m->text;
    for (int64_t i = 0; i < n; i++) {
        m->dotted[i] = (row){weights[i].name, i};
        add_underscored(m, weights[i].name, i, &p);
        if (t3v_name_from_original(m->diffusers, weights[i].name, other)) add_underscored(m, other, i, &p);
    }
    qsort(m->dotted, (size_t)n, sizeof *m->dotted, by_name);
    qsort(m->underscored, (size_t)m->n_underscored, sizeof *m->underscored, by_name);
    return T3V_OK;
}

static int64_t lookup(const row *rows, int64_t n, const char *name)
{
    row key = {name, 0};
    const row *r = bsearch(&key, rows, (size_t)n, sizeof *rows, by_name);
    return r ? r->weight : -1;
}

/* Removes the role's suffix from `key`; an adapter's name after lora_A or lora_B is skipped. */
static role split_role(char *key)
{
    static const struct {
        const char *text;
        role role;
    } suffixes[] = {
        {".lora_A", R_A},    {".lora_B", R_B},  {".lora_down", R_A},          {".lora_up", R_B},
        {".lora.down", R_A}, {".lora.up", R_B}, {".lora_B.bias", R_UP_BIAS},  {".lora_up.bias", R_UP_BIAS},
        {".alpha", R_ALPHA}, {".diff", R_DIFF}, {".lora.up.bias", R_UP_BIAS}, {".diff_b", R_BIAS},
    };
    char *adapter = strstr(key, ".lora_A.");
    if (!adapter) adapter = strstr(key, ".lora_B.");
    if (adapter) {
        char *token = adapter + 8, *dot = strchr(token, '.');
        if (dot && !strchr(dot + 1, '.')) memmove(token, dot + 1, strlen(dot + 1) + 1);
        else if (!dot && strcmp(token, "weight") != 0 && strcmp(token, "bias") != 0) token[-1] = 0;
    }
    size_t n = strlen(key);
    if (n > 7 && strcmp(key + n - 7, ".weight") == 0) key[n -= 7] = 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t k = strlen(suffixes[i].text);
        if (n <= k || strcmp(key + n - k, suffixes[i].text) != 0) continue;
        key[n - k] = 0;
        return suffixes[i].role;
    }
    return R_NONE;
}

/* The weight that `key` (its role already split off) changes, or -1. *second: it is for Diffusers' second transformer. */
static int64_t match(const matcher *m, const char *key, role r, layout *l, bool *second)
{
    static const struct {
        const char *text;
        layout layout;
    } prefixes[] = {{"model.diffusion_model.", L_COMFY},
                    {"diffusion_model.", L_COMFY},
                    {"transformer.", L_DIFFUSERS},
                    {"transformer_2.", L_DIFFUSERS},
                    {"base_model.model.", L_NATIVE}};
    const char *tail = r == R_BIAS || r == R_UP_BIAS ? "bias" : "weight";
    char name[NAME_CAP + 16], original[T3V_NAME_CAP];
    *l = L_NATIVE;
    *second = strncmp(key, "transformer_2.", 14) == 0;
    if (strncmp(key, "lora_unet_", 10) == 0) {
        *l = L_KOHYA;
        snprintf(name, sizeof name, "%s_%s", key + 10, tail);
        return lookup(m->underscored, m->n_underscored, name);
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t k = strlen(prefixes[i].text);
        if (strncmp(key, prefixes[i].text, k) != 0) continue;
        key += k;
        *l = prefixes[i].layout;
        break;
    }
    for (int form = 0; form < 2; form++) {
        if (form == 1) {
            if (t3v_name_to_original(m->diffusers, key, original) != T3V_NAME_MAPPED) break;
            key = original;
            *l = L_DIFFUSERS;
        }
        snprintf(name, sizeof name, "%s.%s", key, tail);
        int64_t w = lookup(m->dotted, m->n, name);
        if (w < 0 && r == R_DIFF) w = lookup(m->dotted, m->n, key); /* modulation has no ".weight" */
        if (w >= 0) return w;
    }
    return -1;
}

/* ---- items ----------------------------------------------------------------------------------- */

static bool only_ones_after(const t3v_tensor_entry *t, int axis)
{
    for (int i = axis; i < t->ndim; i++)
        if (t->shape[i] != 1) return false;
    return true;
}

static t3v_status make_pair(t3v_lora_item *item, const t3v_tensor_entry *w, const slot *s)
{
    const t3v_tensor_entry *a = s->part[R_A], *b = s->part[R_B], *alpha = s->part[R_ALPHA];
    const t3v_tensor_entry *any = a ? a : b ? b : alpha;
    if (!a || !b)
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' has no counterpart: a LoRA needs both factors of '%s'",
                        any->file, any->name, w->name);
    t3v_tensor_entry full = *w;
    int64_t out = w->ndim ? w->shape[0] : 1, rank = a->ndim ? a->shape[0] : 0;
    int64_t in = t3v_entry_sizes(&full) && out > 0 ? full.numel / out : 0;
    bool fits = a->ndim >= 2 && b->ndim >= 2 && rank > 0 && b->shape[0] == out && b->shape[1] == rank &&
                only_ones_after(b, 2) && a->numel / rank == in;
    if (!fits) {
        char ta[200], tb[200], tw[200];
        return t3v_fail(
            T3V_E_SHAPE,
            "%s: factors %s ('%s') and %s ('%s') do not fit the weight '%s' %s: made for a model of "
            "another size?",
            a->file, t3v_shape_text(a->ndim, a->shape, ta, sizeof ta), a->name,
            t3v_shape_text(b->ndim, b->shape, tb, sizeof tb), b->name, w->name,
            t3v_shape_text(w->ndim, w->shape, tw, sizeof tw));
    }
    item->kind = T3V_LORA_PAIR;
    item->a = a;
    item->b = b;
    item->rank = rank;
    item->scale = 1;
    if (alpha) {
        float value = 0;
        if (alpha->numel != 1 || t3v_convert(&value, T3V_F32, alpha->data, alpha->dtype, 1) ||
            !isfinite(value))
            return t3v_fail(T3V_E_FORMAT, "%s: '%s' is not one finite number", alpha->file, alpha->name);
        item->scale = value / (float)rank;
    }
    return T3V_OK;
}

static t3v_status make_items(t3v_lora *l, const slot *slots, const t3v_tensor_entry *weights, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += (slots[i].part[R_A] || slots[i].part[R_B] || slots[i].part[R_ALPHA]) +
                 (slots[i].part[R_DIFF] != NULL);
    l->items = calloc((size_t)count + 1, sizeof *l->items);
    if (!l->items) return t3v_fail(T3V_E_NOMEM, "%s: no memory", l->file->path);
    for (int64_t i = 0; i < n; i++) {
        const slot *s = &slots[i];
        if (s->part[R_A] || s->part[R_B] || s->part[R_ALPHA]) {
            l->items[l->count].weight = i;
            T3V_TRY(make_pair(&l->items[l->count++], &weights[i], s));
        }
        if (s->part[R_DIFF]) {
            t3v_lora_item *item = &l->items[l->count++], pair = {.scale = 1};
            T3V_TRY(t3v_tensor_expect(s->part[R_DIFF], weights[i].ndim, weights[i].shape));
            if (s->scaled_by) T3V_TRY(make_pair(&pair, &weights[s->scaled_by - 1], &slots[s->scaled_by - 1]));
            *item = (t3v_lora_item){.weight = i,
                                    .kind = T3V_LORA_DIFF,
                                    .diff = s->part[R_DIFF],
                                    .scale = pair.scale};
        }
    }
    return T3V_OK;
}

/* Whether a file has keys of Diffusers' second transformer, the low expert. */
static bool has_second(const t3v_tensor_file *f)
{
    for (int64_t i = 0; i < f->count; i++)
        if (strncmp(f->tensors[i].name, "transformer_2.", 14) == 0) return true;
    return false;
}

static t3v_status sort_keys(t3v_lora *l, const matcher *m, slot *slots, t3v_lora_for expert)
{
    const t3v_tensor_file *f = l->file;
    const char *unknown = NULL;
    int64_t unknown_count = 0;
    unsigned layouts = 0;
    bool two = has_second(f);
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *t = &f->tensors[i];
        char key[NAME_CAP];
        role r = R_NONE;
        layout form = L_NATIVE;
        bool second = false;
        if (strlen(t->name) < sizeof key) {
            strcpy(key, t->name);
            r = split_role(key);
        }
        int64_t w = r == R_NONE ? -1 : match(m, key, r, &form, &second);
        if (w < 0) {
            if (!unknown) unknown = t->name;
            unknown_count++;
            continue;
        }
        layouts |= 1u << form;
        if (two && expert != T3V_LORA_FOR_ALL && second != (expert == T3V_LORA_FOR_LOW)) continue;
        if (t3v_dtype_block(t->dtype) > 1)
            return t3v_fail(T3V_E_DTYPE, "%s: '%s' is %s; a LoRA's numbers must be floats", f->path, t->name,
                            t3v_dtype_name(t->dtype));
        const t3v_tensor_entry **part = &slots[w].part[r == R_BIAS || r == R_UP_BIAS ? R_DIFF : r];
        if (*part)
            return t3v_fail(T3V_E_FORMAT, "%s: '%s' and '%s' are for the same weight", f->path, (*part)->name,
                            t->name);
        *part = t;
        if (r == R_UP_BIAS) slots[w].scaled_by = 1 + match(m, key, R_B, &form, &second);
    }
    if (unknown)
        return t3v_fail(
            T3V_E_FORMAT,
            "%s: %lld of %lld keys fit no weight of this model, the first is '%s'; is the LoRA made "
            "for another model?",
            f->path, (long long)unknown_count, (long long)f->count, unknown);
    l->layout = "mixed";
    for (int k = 0; k < L_COUNT; k++)
        if (layouts == 1u << k) l->layout = layout_names[k];
    return T3V_OK;
}

t3v_status t3v_lora_open(t3v_lora **out, const char *path, const t3v_tensor_entry *weights, int64_t n,
                         t3v_lora_for expert)
{
    *out = NULL;
    matcher m = {0};
    slot *slots = calloc((size_t)n + 1, sizeof *slots);
    t3v_lora *l = calloc(1, sizeof *l);
    t3v_status st = T3V_OK;
    if (!slots || !l) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory", path);
        goto done;
    }
    T3V_TRY_GOTO(st, done, t3v_tensors_open(&l->file, path));
    if (l->file->count == 0) {
        st = t3v_fail(T3V_E_FORMAT, "%s: holds no tensors", path);
        goto done;
    }
    T3V_TRY_GOTO(st, done, make_matcher(&m, weights, n));
    T3V_TRY_GOTO(st, done, sort_keys(l, &m, slots, expert));
    T3V_TRY_GOTO(st, done, make_items(l, slots, weights, n));
done:
    free(m.dotted);
    free(m.underscored);
    free(m.text);
    free(slots);
    if (st) t3v_lora_close(l);
    else *out = l;
    return st;
}

/* ---- adding to weights ------------------------------------------------------------------------- */

/* Elements [first, first + n) of an entry as F32, malloc'ed; NULL with *st set. */
static float *part_of(const t3v_tensor_entry *e, int64_t first, int64_t n, t3v_status *st)
{
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    *st = x ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for '%s'", e->file, e->name);
    if (!*st)
        *st = t3v_convert_scaled(x, T3V_F32, (const char *)e->data + (size_t)first * t3v_dtype_size(e->dtype),
                                 e->dtype, e->scale ? *e->scale : 1, n);
    if (!*st) return x;
    free(x);
    return NULL;
}

/* w[cols] += scale * sum over r of b[r] a[r, cols], in slices that stay in the first cache. */
static void add_row(float *w, const float *a, const float *b, int64_t rank, int64_t cols, float scale)
{
    enum { SLICE = 1024 };
    float sum[SLICE];
    for (int64_t at = 0; at < cols; at += SLICE) {
        int64_t n = cols - at < SLICE ? cols - at : SLICE;
        memset(sum, 0, sizeof sum);
        for (int64_t r = 0; r < rank; r++)
            for (int64_t j = 0; j < n; j++) sum[j] += b[r] * a[r * cols + at + j];
        for (int64_t j = 0; j < n; j++) w[at + j] += scale * sum[j];
    }
}

t3v_status t3v_lora_add(const t3v_lora_item *item, double strength, int64_t first, int64_t rows, int64_t cols,
                        float *w)
{
    float scale = (float)(strength * item->scale);
    t3v_status st;
    if (item->kind == T3V_LORA_DIFF) {
        float *d = part_of(item->diff, first * cols, rows * cols, &st);
        for (int64_t i = 0; d && i < rows * cols; i++) w[i] += scale * d[i];
        free(d);
        return st;
    }
    float *a = part_of(item->a, 0, item->rank * cols, &st);
    float *b = a ? part_of(item->b, first * item->rank, rows * item->rank, &st) : NULL;
    if (b) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            add_row(w + i * cols, a, b + i * item->rank, item->rank, cols, scale);
    }
    free(a);
    free(b);
    return st;
}

void t3v_lora_close(t3v_lora *l)
{
    if (!l) return;
    t3v_tensors_close(l->file);
    free(l->items);
    free(l);
}
