/* SPDX-License-Identifier: Apache-2.0 */
/* Captions of files: CSV, JSON lines, or a prompt list. */
#include "io/captions.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"

enum { FILE_MAX = 64 << 20 };

/* Captions as they are found. */
typedef struct found {
    t3v_prompts list;
    int64_t capacity;
    const char *label;
} found;

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* A copy without white space at both ends; NULL when memory runs out. */
static char *trimmed(const char *s)
{
    while (is_space(*s)) s++;
    size_t n = strlen(s);
    while (n && is_space(s[n - 1])) n--;
    return strndup(s, n);
}

static const char *without_dot(const char *file)
{
    while (file[0] == '.' && file[1] == '/')
        for (file += 2; *file == '/';) file++;
    return file;
}

static t3v_status add(found *f, int64_t line, const char *file, const char *caption)
{
    t3v_prompts *p = &f->list;
    if (!file || !*without_dot(file) || !t3v_path_is_inside(file))
        return t3v_fail(T3V_E_FORMAT, "%s: line %lld: file: expected a relative path without ..", f->label,
                        (long long)line);
    if (p->count == T3V_PROMPTS_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "%s: line %lld: more than %d captions", f->label, (long long)line,
                        T3V_PROMPTS_MAX);
    if (p->count == f->capacity) {
        int64_t n = f->capacity ? 2 * f->capacity : 64;
        t3v_prompt *grown = realloc(p->item, (size_t)n * sizeof *grown);
        if (!grown) return t3v_fail(T3V_E_NOMEM, "%s: out of memory", f->label);
        p->item = grown;
        f->capacity = n;
    }
    t3v_prompt *item = &p->item[p->count++];
    *item = (t3v_prompt){caption ? trimmed(caption) : NULL, strdup(without_dot(file))};
    if (!item->file || (caption && !item->text)) return t3v_fail(T3V_E_NOMEM, "%s: out of memory", f->label);
    if (!item->text || !*item->text)
        return t3v_fail(T3V_E_FORMAT, "%s: line %lld: caption: expected a text", f->label, (long long)line);
    return T3V_OK;
}

/* ---- CSV ---------------------------------------------------------------------------------------------- */

enum { COLUMN_FILE, COLUMN_CAPTION, COLUMNS };
static const char *const column_name[COLUMNS] = {"file", "caption"};

typedef struct csv {
    const char *at, *end, *label;
    int64_t line;           /* of the row that is read */
    int64_t next;           /* of the one after it */
    char *row;              /* the row's fields, each with its NUL: never more bytes than the text plus one */
    int64_t fields, header; /* in this row, in the first one */
    int64_t column[COLUMNS];
    const char *value[COLUMNS];
} csv;

static t3v_status csv_fail(const csv *c, const char *what)
{
    return t3v_fail(T3V_E_FORMAT, "%s: line %lld: %s", c->label, (long long)c->line, what);
}

/* The text of one field to *to, which moves past its NUL. */
static t3v_status read_field(csv *c, char **to)
{
    if (c->at < c->end && *c->at == '"') {
        for (c->at++;; c->at++) {
            if (c->at == c->end) return csv_fail(c, "a quoted field does not end");
            if (*c->at == '"') {
                if (++c->at == c->end || *c->at != '"') break;
            }
            if (*c->at == '\n') c->next++;
            *(*to)++ = *c->at;
        }
    } else {
        for (; c->at < c->end && *c->at != ',' && *c->at != '\n'; c->at++) {
            if (*c->at == '"') return csv_fail(c, "a quote inside a field that is not quoted");
            if (*c->at == '\r') break;
            *(*to)++ = *c->at;
        }
    }
    *(*to)++ = 0;
    if (c->at < c->end && *c->at == '\r') {
        c->at++;
        if (c->at < c->end && *c->at != '\n') return csv_fail(c, "a carriage return without a line feed");
    }
    if (c->at < c->end && *c->at != ',' && *c->at != '\n')
        return csv_fail(c, "text after the closing quote of a field");
    return T3V_OK;
}

/* One row; the first says which columns are which. */
static t3v_status read_row(csv *c, bool first)
{
    char *to = c->row;
    c->fields = 0;
    c->line = c->next;
    for (bool more = true; more; c->fields++) {
        const char *field = to;
        T3V_TRY(read_field(c, &to));
        for (int k = 0; k < COLUMNS; k++) {
            if (first && strcmp(field, column_name[k]) == 0) {
                if (c->column[k] >= 0) return csv_fail(c, "a column's name comes twice");
                c->column[k] = c->fields;
            }
            if (c->column[k] == c->fields) c->value[k] = field;
        }
        more = c->at < c->end && *c->at == ',';
        if (c->at < c->end) c->at++; /* the comma, or the end of the row */
    }
    c->next++;
    return T3V_OK;
}

static t3v_status read_csv(found *f, const char *text, size_t size)
{
    csv c = {.at = text, .end = text + size, .label = f->label, .next = 1, .column = {-1, -1}};
    if (memchr(text, 0, size)) return t3v_fail(T3V_E_FORMAT, "%s: a zero byte: is it a text?", f->label);
    int lost = t3v_json_lost();
    json_t *utf8 = json_stringn(text, size);
    if (!utf8 && t3v_json_lost() != lost) return t3v_fail(T3V_E_NOMEM, "%s: out of memory", f->label);
    if (!utf8) return t3v_fail(T3V_E_FORMAT, "%s: not UTF-8", f->label);
    json_decref(utf8);
    t3v_status st = T3V_OK;
    if (!(c.row = malloc(size + 1))) return t3v_fail(T3V_E_NOMEM, "%s: out of memory", f->label);
    T3V_TRY_GOTO(st, done, read_row(&c, true));
    c.header = c.fields;
    if (c.column[COLUMN_FILE] < 0 || c.column[COLUMN_CAPTION] < 0) {
        st = csv_fail(&c, "expected the names of columns, among them `file` and `caption`");
        goto done;
    }
    while (c.at < c.end) {
        const char *start = c.at;
        T3V_TRY_GOTO(st, done, read_row(&c, false));
        if (c.fields == 1 && (*start == '\n' || *start == '\r')) continue;
        if (c.fields != c.header) {
            st = t3v_fail(T3V_E_FORMAT, "%s: line %lld: %lld fields, the first row has %lld", f->label,
                          (long long)c.line, (long long)c.fields, (long long)c.header);
            goto done;
        }
        T3V_TRY_GOTO(st, done, add(f, c.line, c.value[COLUMN_FILE], c.value[COLUMN_CAPTION]));
    }
done:
    free(c.row);
    return st;
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

static const char *either(const json_t *o, const char *a, const char *b)
{
    const char *text = json_string_value(json_object_get(o, a));
    return text ? text : json_string_value(json_object_get(o, b));
}

static t3v_status read_lines(found *f, const char *text, size_t size)
{
    const char *end = text + size;
    for (int64_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        const char *at = text;
        while (at < stop && is_space(*at)) at++;
        text = stop + (stop < end);
        if (at == stop) continue;
        json_t *o;
        T3V_TRY(t3v_json_text(&o, f->label, line, at, (size_t)(stop - at)));
        t3v_status st = T3V_OK;
        if (!json_is_object(o))
            st = t3v_fail(T3V_E_FORMAT, "%s: line %lld: expected {\"file\", \"caption\"}", f->label,
                          (long long)line);
        else st = add(f, line, either(o, "file", "data_file"), either(o, "caption", "prompt_en"));
        json_decref(o);
        T3V_TRY(st);
    }
    return T3V_OK;
}

static t3v_status read_list(found *f, const char *text, size_t size)
{
    t3v_prompts list;
    T3V_TRY(t3v_prompts_parse(&list, f->label, text, size));
    t3v_status st = T3V_OK;
    for (int64_t i = 0; i < list.count && !st; i++) {
        st = add(f, 0, list.item[i].file, list.item[i].text);
        if (st == T3V_E_FORMAT)
            st = t3v_fail(st, "%s: entry %lld: expected a prompt_en and the data_file that it describes",
                          f->label, (long long)i);
    }
    t3v_prompts_free(&list);
    return st;
}

/* ---- all ---------------------------------------------------------------------------------------------- */

static int by_file(const void *a, const void *b)
{
    return strcmp(((const t3v_prompt *)a)->file, ((const t3v_prompt *)b)->file);
}

t3v_status t3v_captions_parse(t3v_prompts *p, const char *label, const void *data, size_t size)
{
    const char *text = data;
    found f = {.label = label};
    *p = (t3v_prompts){0};
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3, size -= 3;
    size_t at = 0;
    while (at < size && is_space(text[at])) at++;
    t3v_status st;
    if (at == size) st = t3v_fail(T3V_E_FORMAT, "%s: no captions in it", label);
    else if (text[at] == '[') st = read_list(&f, text, size);
    else if (text[at] == '{') st = read_lines(&f, text, size);
    else st = read_csv(&f, text, size);
    if (!st && f.list.count > 1) qsort(f.list.item, (size_t)f.list.count, sizeof *f.list.item, by_file);
    for (int64_t i = 1; i < f.list.count && !st; i++)
        if (by_file(&f.list.item[i - 1], &f.list.item[i]) == 0)
            st = t3v_fail(T3V_E_FORMAT, "%s: %s has two captions, expected one", label, f.list.item[i].file);
    if (st) t3v_prompts_free(&f.list);
    else *p = f.list;
    return st;
}

t3v_status t3v_captions_load(t3v_prompts *p, const char *path)
{
    char *text;
    size_t size;
    *p = (t3v_prompts){0};
    T3V_TRY(t3v_read_text(path, FILE_MAX, &text, &size));
    t3v_status st = t3v_captions_parse(p, path, text, size);
    free(text);
    return st;
}

const char *t3v_captions_find(const t3v_prompts *p, const char *file)
{
    const t3v_prompt key = {.file = (char *)(uintptr_t)file};
    const t3v_prompt *at = p->count ? bsearch(&key, p->item, (size_t)p->count, sizeof key, by_file) : NULL;
    return at ? at->text : NULL;
}
