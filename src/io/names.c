/* SPDX-License-Identifier: Apache-2.0 */
/* Applying name maps to a file's tensors: which one it is, prefixes, both directions. The maps are in names_known.c. */
#include "io/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "io/view.h"

/* ---- one name -------------------------------------------------------------------------------------- */

enum { NUMBERS = 4 };

typedef struct numbers {
    const char *at[NUMBERS];
    size_t length[NUMBERS];
    int count;
} numbers;

/* The rest of `name` behind `pattern`, which begins with a dot or is empty; NULL: another name. */
static const char *behind(const char *pattern, const char *name, numbers *n)
{
    n->count = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*pattern != *name++) return NULL;
            continue;
        }
        size_t digits = strspn(name, "0123456789");
        if (digits == 0 || digits > 5 || (*name == '0' && digits > 1) || n->count == NUMBERS) return NULL;
        n->at[n->count] = name;
        n->length[n->count++] = digits;
        name += digits;
    }
    return *name == 0 || *name == '.' ? name : NULL;
}

static bool append(char **at, const char *end, const char *text, size_t n)
{
    if ((size_t)(end - *at) <= n) return false;
    memcpy(*at, text, n);
    (*at)[n] = 0;
    *at += n;
    return true;
}

static bool expand(const char *pattern, const numbers *n, char **at, const char *end)
{
    for (int k = 0; *pattern; pattern++) {
        bool number = *pattern == '#' && k < n->count;
        if (!append(at, end, number ? n->at[k] : pattern, number ? n->length[k] : 1)) return false;
        k += number;
    }
    return true;
}

/* Writes the other side's name to *at. */
static t3v_name_fate map(const t3v_names_rule *rule, bool back, const char *name, char **at, const char *end)
{
    char *start = *at;
    for (; rule->theirs; rule++) {
        const char *from = back ? rule->ours : rule->theirs, *to = back ? rule->theirs : rule->ours;
        numbers n;
        const char *rest = from ? behind(from, name, &n) : NULL;
        if (!rest) continue;
        if (!to) return T3V_NAME_LEFT_OUT;
        *at = start;
        if (!expand(to, &n, at, end)) return T3V_NAME_UNKNOWN;
        if (!rule->inner && !append(at, end, rest, strlen(rest))) return T3V_NAME_UNKNOWN;
        if (!rule->inner) return rule->copy ? T3V_NAME_COPY : T3V_NAME_MAPPED;
        if (*rest != '.' || !append(at, end, ".", 1)) continue;
        t3v_name_fate fate = map(rule->inner, back, rest + 1, at, end);
        if (fate != T3V_NAME_UNKNOWN) return fate;
    }
    return T3V_NAME_UNKNOWN;
}

t3v_name_fate t3v_name_to_original(const t3v_names *n, const char *theirs, char out[T3V_NAME_CAP])
{
    return n->rules ? map(n->rules, false, theirs, &out, out + T3V_NAME_CAP) : T3V_NAME_UNKNOWN;
}

bool t3v_name_from_original(const t3v_names *n, const char *ours, char out[T3V_NAME_CAP])
{
    return n->rules && map(n->rules, true, ours, &out, out + T3V_NAME_CAP) == T3V_NAME_MAPPED;
}

const t3v_names *t3v_names_of(t3v_names_part part, const char *layout)
{
    for (const t3v_names *n = t3v_names_known; n->layout; n++)
        if (n->part == part && strcmp(n->layout, layout) == 0) return n;
    return NULL;
}

/* ---- which layout ---------------------------------------------------------------------------------- */

/* What programs put before the names of one part, or of several parts in one file. */
static const char *const prefixes[] = {"",
                                       "model.diffusion_model.",
                                       "diffusion_model.",
                                       "text_encoders.umt5xxl.transformer.",
                                       "text_encoders.t5xxl.transformer.",
                                       "umt5xxl.transformer.",
                                       "t5xxl.transformer.",
                                       "first_stage_model.",
                                       "clip_vision.",
                                       "image_encoder.",
                                       "text_encoder.",
                                       "transformer.",
                                       "vae.",
                                       "model.",
                                       "net.",
                                       "module."};
/* Of other parts in the same file. */
static const char *const others[] = {"model.diffusion_model.",
                                     "text_encoders.",
                                     "first_stage_model.",
                                     "clip_vision.",
                                     "cond_stage_model.",
                                     "conditioner.",
                                     "vae."};

static bool begins(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

static bool has(const t3v_tensor_file *f, const char *prefix, const char *name)
{
    char full[T3V_NAME_CAP], *at = full;
    return append(&at, full + sizeof full, prefix, strlen(prefix)) &&
           append(&at, full + sizeof full, name, strlen(name)) && t3v_tensors_find(f, full);
}

/* The name by which the file's tensors behind `prefix` are known to be of this layout; NULL: they are not. */
static const char *told_by(const t3v_tensor_file *f, const char *prefix, const t3v_names *n)
{
    for (int i = 0; i < 2 && n->probe[i]; i++)
        if (has(f, prefix, n->probe[i])) return n->probe[i];
    return NULL;
}

/* ---- a file ---------------------------------------------------------------------------------------- */

typedef struct renaming {
    t3v_tensor_file *f;
    const t3v_names *names;
    const char *prefix;
} renaming;

static t3v_status mixed(const t3v_tensor_file *f, const t3v_names *a, const char *one, const t3v_names *b,
                        const char *other)
{
    return t3v_fail(
        T3V_E_FORMAT,
        "%s mixes two layouts: '%s' is a name of the %s one, '%s' of the %s one; are files of two "
        "downloads in one place?",
        f->path, one, a->layout, other, b->layout);
}

/* Fails when `name`, which the file's layout does not know, is known to another of the part's layouts. */
static t3v_status check_mixed(const renaming *r, const char *name)
{
    char other[T3V_NAME_CAP];
    const t3v_names *original = t3v_names_of(r->names->part, "original");
    if (r->names->rules && t3v_name_from_original(r->names, name, other))
        return mixed(r->f, r->names, other, original, name);
    for (const t3v_names *n = t3v_names_known; n->layout && !r->names->rules; n++)
        if (n->part == r->names->part && t3v_name_to_original(n, name, other) == T3V_NAME_MAPPED &&
            strcmp(name, other) != 0)
            return mixed(r->f, r->names, other, n, name);
    return T3V_OK;
}

static t3v_status rename_one(void *user, const char **name)
{
    const renaming *r = user;
    char ours[T3V_NAME_CAP], usual[T3V_NAME_CAP];
    if (begins(*name, r->prefix)) {
        *name += strlen(r->prefix);
    } else {
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (begins(*name, others[i])) {
                *name = NULL;
                return T3V_OK;
            }
    }
    switch (t3v_name_to_original(r->names, *name, ours)) {
    case T3V_NAME_UNKNOWN: return check_mixed(r, *name);
    case T3V_NAME_LEFT_OUT: *name = NULL; return T3V_OK;
    case T3V_NAME_COPY:
        if (!t3v_name_from_original(r->names, ours, usual) || !has(r->f, r->prefix, usual)) break;
        *name = NULL;
        return T3V_OK;
    case T3V_NAME_MAPPED: break;
    }
    if (strcmp(*name, ours) == 0) return T3V_OK;
    *name = t3v_view_string(r->f, ours);
    return *name ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for names", r->f->path);
}

/* The layout that the file's names behind `prefix` tell for a part; *out NULL when they tell none. */
static t3v_status tell(const t3v_tensor_file *f, const char *prefix, int part, const t3v_names **out)
{
    const char *by = NULL;
    *out = NULL;
    for (const t3v_names *n = t3v_names_known; n->layout; n++) {
        const char *probe = n->part == (t3v_names_part)part ? told_by(f, prefix, n) : NULL;
        if (!probe) continue;
        if (*out) return mixed(f, *out, by, n, probe);
        *out = n;
        by = probe;
    }
    return T3V_OK;
}

const t3v_names *t3v_names_told(const t3v_tensor_file *f, t3v_names_part part)
{
    for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
        for (const t3v_names *n = t3v_names_known; n->layout; n++)
            if (n->part == part && told_by(f, prefixes[p], n)) return n;
    return NULL;
}

/* ---- CLIP: queries, keys and values in one matrix --------------------------------------------------- */

#define JOINED_MAX ((int64_t)4 << 30) /* bytes of all: more than those of any tower */

bool t3v_name_split(const char *ours, int k, char out[T3V_NAME_CAP])
{
    static const char joined[] = ".attn.to_qkv.";
    const char *at = strstr(ours, joined);
    if (!at || strncmp(ours, "visual.", 7) != 0 || strlen(ours) + 2 >= T3V_NAME_CAP) return false;
    size_t n = (size_t)(at - ours) + sizeof joined - 1;
    memcpy(out, ours, n);
    out[n] = "qkv"[k];
    out[n + 1] = '.';
    strcpy(out + n + 2, ours + n);
    return true;
}

/* Where ".to_qkv.q.", or another letter, begins in a name; NULL: nowhere. */
static const char *split_at(const char *name, char letter)
{
    const char part[] = {'.', 't', 'o', '_', 'q', 'k', 'v', '.', letter, '.', 0};
    const char *at = strstr(name, part);
    return at ? at + 7 : NULL;
}

/* Queries `q` become the rows of all three. *left: bytes that may still be taken. */
static t3v_status join(t3v_tensor_file *f, t3v_tensor_entry *q, int64_t *left)
{
    char name[T3V_NAME_CAP];
    size_t at = (size_t)(split_at(q->name, 'q') - q->name);
    int64_t bytes;
    if (strlen(q->name) >= sizeof name || q->ndim < 1 || q->numel < 1 || t3v_dtype_block(q->dtype) != 1 ||
        q->scale || !t3v_mul(q->nbytes, 3, &bytes))
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: '%s' cannot be joined with its keys and values", f->path,
                        q->stored);
    if (bytes > *left)
        return t3v_fail(T3V_E_TOO_BIG,
                        "%s: attention of more than %lld bytes is not that of an image encoder", f->path,
                        (long long)JOINED_MAX);
    *left -= bytes;
    unsigned char *data = t3v_view_alloc(f, (size_t)bytes);
    if (!data) return t3v_fail(T3V_E_NOMEM, "%s: no memory to join '%s'", f->path, q->stored);
    strcpy(name, q->name);
    for (int k = 0; k < 3; k++) {
        const t3v_tensor_entry *e;
        name[at + 1] = "qkv"[k];
        T3V_TRY(t3v_tensors_get(f, name, &e));
        if (e->dtype != q->dtype || e->scale)
            return t3v_fail(T3V_E_DTYPE, "%s: '%s' is %s, '%s' is %s", f->path, e->stored,
                            t3v_dtype_name(e->dtype), q->stored, t3v_dtype_name(q->dtype));
        T3V_TRY(t3v_tensor_expect(e, q->ndim, q->shape));
        memcpy(data + (size_t)q->nbytes * (size_t)k, e->data, (size_t)q->nbytes);
    }
    q->data = data;
    q->mapped = false;
    q->shape[0] *= 3;
    q->numel *= 3;
    q->nbytes = bytes;
    return T3V_OK;
}

static t3v_status name_joined(void *user, const char **name)
{
    t3v_tensor_file *f = user;
    const char *at = split_at(*name, 'q');
    if (split_at(*name, 'k') || split_at(*name, 'v')) *name = NULL;
    if (!at) return T3V_OK;
    char *copy = t3v_view_alloc(f, strlen(*name) + 1);
    if (!copy) return t3v_fail(T3V_E_NOMEM, "%s: no memory for names", f->path);
    size_t n = (size_t)(at - *name);
    memcpy(copy, *name, n);
    strcpy(copy + n, at + 2);
    *name = copy;
    return T3V_OK;
}

/* The original tower has them joined, its positions are [1, rows, width], its class [1, 1, width]. */
t3v_status t3v_names_join(t3v_tensor_file *f)
{
    int64_t left = JOINED_MAX;
    if (!f->names || f->names->part != T3V_NAMES_CLIP || !f->names->rules) return T3V_OK;
    for (int64_t i = 0; i < f->count; i++) {
        t3v_tensor_entry *e = &f->tensors[i];
        if (split_at(e->name, 'q')) T3V_TRY(join(f, e, &left));
        bool positions = strcmp(e->name, "visual.pos_embedding") == 0;
        if (!positions && strcmp(e->name, "visual.cls_embedding") != 0) continue;
        for (; e->ndim > 0 && e->ndim < 3; e->ndim++) {
            memmove(e->shape + 1, e->shape, (size_t)e->ndim * sizeof *e->shape);
            e->shape[0] = 1;
        }
    }
    return t3v_view_rename(f, name_joined, f);
}

t3v_status t3v_names_apply(t3v_tensor_file *f, t3v_names_part part)
{
    f->names = NULL;
    for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
        for (int k = 0; k < T3V_NAMES_PARTS; k++) {
            renaming r = {.f = f, .prefix = prefixes[p]};
            if (part != T3V_NAMES_ANY && part != (t3v_names_part)k) continue;
            T3V_TRY(tell(f, prefixes[p], k, &r.names));
            if (!r.names) continue;
            f->names = r.names;
            t3v_status st = t3v_view_rename(f, rename_one, &r);
            return st && *r.prefix ? t3v_fail_in(st, "%s, read without the prefix '%s'", f->path, r.prefix)
                                   : st;
        }
    return T3V_OK;
}
