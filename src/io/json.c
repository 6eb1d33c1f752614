/* SPDX-License-Identifier: Apache-2.0 */
/* JSON through jansson, with errors that name the file, the key, the value and what was expected. */
#include "io/json.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum { FILE_CAP = 16 << 20, VALUES_MAX = 4000000 };

static atomic_int lost;

static void *watched(size_t n)
{
    void *p = malloc(n);
    if (!p) atomic_fetch_add(&lost, 1);
    return p;
}

void t3v_json_watch(void) { json_set_alloc_funcs(watched, free); }
int t3v_json_lost(void) { return atomic_load(&lost); }

char *t3v_json_dumps(const json_t *v, size_t flags)
{
    int refused = t3v_json_lost();
    char *text = json_dumps(v, flags);
    if (t3v_json_lost() == refused) return text;
    free(text);
    return NULL;
}

/* Values begin at the start, at brackets, commas and colons outside of strings. */
static int64_t count_values(const char *s, size_t n)
{
    int64_t values = 1;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"') quoted = !quoted;
        else if (quoted && s[i] == '\\') i++;
        else if (!quoted && (s[i] == '[' || s[i] == '{' || s[i] == ',')) values++;
    }
    return values;
}

t3v_status t3v_json_text(json_t **out, const char *label, int64_t line, const void *text, size_t size)
{
    json_error_t error;
    *out = NULL;
    int64_t values = count_values(text, size);
    if (values > VALUES_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "%s: about %lld values in JSON, at most %d are read", label,
                        (long long)values, VALUES_MAX);
    int refused = t3v_json_lost();
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    refused = t3v_json_lost() - refused;
    if (*out && !refused) return T3V_OK;
    json_decref(*out);
    *out = NULL;
    if (refused || !error.text[0] || json_error_code(&error) == json_error_out_of_memory)
        return t3v_fail(T3V_E_NOMEM, "%s: no memory for its JSON, %zu bytes", label, size);
    return t3v_fail(T3V_E_FORMAT, "%s: line %lld, column %d: bad JSON: %s", label,
                    (long long)(line + error.line - 1), error.column, error.text);
}

t3v_status t3v_json_parse(json_t **out, const char *label, const void *text, size_t size)
{
    T3V_TRY(t3v_json_text(out, label, 1, text, size));
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return t3v_fail(T3V_E_FORMAT, "%s: the top of the JSON is not an object", label);
    }
    return T3V_OK;
}

t3v_status t3v_json_load(json_t **out, const char *path)
{
    *out = NULL;
    char *text;
    size_t size;
    T3V_TRY(t3v_read_text(path, FILE_CAP, &text, &size));
    t3v_status st = t3v_json_parse(out, path, text, size);
    free(text);
    return st;
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

/* The value of a key, NULL when absent and allowed to be. */
static t3v_status get(const json_t *obj, const char *label, const char *key, bool required, const json_t **v)
{
    *v = json_object_get(obj, key);
    if (*v && json_is_null(*v)) *v = NULL;
    if (!*v && required) return t3v_fail(T3V_E_FORMAT, "%s: key \"%s\" is missing", label, key);
    return T3V_OK;
}

static t3v_status wrong_type(const char *label, const char *key, const json_t *v, const char *expected)
{
    return t3v_fail(T3V_E_FORMAT, "%s: \"%s\" is %s, expected %s", label, key, type_name(v), expected);
}

static t3v_status in_range(const char *label, const char *key, int64_t v, int64_t lo, int64_t hi)
{
    if (v >= lo && v <= hi) return T3V_OK;
    return t3v_fail(T3V_E_FORMAT, "%s: \"%s\" is %lld, expected %lld to %lld", label, key, (long long)v,
                    (long long)lo, (long long)hi);
}

t3v_status t3v_json_int(const json_t *obj, const char *label, const char *key, bool required, int64_t lo,
                        int64_t hi, int64_t *out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_integer(v)) return wrong_type(label, key, v, "an integer");
    T3V_TRY(in_range(label, key, json_integer_value(v), lo, hi));
    *out = json_integer_value(v);
    return T3V_OK;
}

t3v_status t3v_json_real(const json_t *obj, const char *label, const char *key, bool required, double lo,
                         double hi, double *out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_number(v)) return wrong_type(label, key, v, "a number");
    double x = json_number_value(v);
    if (!(x >= lo && x <= hi))
        return t3v_fail(T3V_E_FORMAT, "%s: \"%s\" is %g, expected %g to %g", label, key, x, lo, hi);
    *out = x;
    return T3V_OK;
}

t3v_status t3v_json_bool(const json_t *obj, const char *label, const char *key, bool required, bool *out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_boolean(v)) return wrong_type(label, key, v, "true or false");
    *out = json_is_true(v);
    return T3V_OK;
}

t3v_status t3v_json_string(const json_t *obj, const char *label, const char *key, bool required,
                           const char **out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_string(v)) return wrong_type(label, key, v, "a string");
    *out = json_string_value(v);
    return T3V_OK;
}

t3v_status t3v_json_object(const json_t *obj, const char *label, const char *key, bool required, json_t **out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_object(v)) return wrong_type(label, key, v, "an object");
    *out = json_object_get(obj, key);
    return T3V_OK;
}

t3v_status t3v_json_array(const json_t *obj, const char *label, const char *key, bool required, json_t **out)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_array(v)) return wrong_type(label, key, v, "an array");
    *out = json_object_get(obj, key);
    return T3V_OK;
}

/* Characters to put in, leave out or change to make one of the other (Levenshtein). Of long texts the first ones. */
static int edits(const char *a, const char *b)
{
    enum { LONG = 48 };
    int row[LONG + 1], n = (int)strnlen(b, LONG);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; i < LONG && a[i]; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int change = corner + (a[i] != b[j]), least = row[j + 1] < row[j] ? row[j + 1] : row[j];
            corner = row[j + 1];
            row[j + 1] = least + 1 < change ? least + 1 : change;
        }
    }
    return row[n];
}

t3v_status t3v_json_only(const json_t *obj, const char *label, const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)obj, key, value)
    {
        const char *nearest = known[0];
        int least = edits(key, nearest);
        for (int i = 1; known[i] && least; i++) {
            int d = edits(key, known[i]);
            if (d < least) least = d, nearest = known[i];
        }
        if (strcmp(key, nearest) != 0)
            return t3v_fail(T3V_E_FORMAT, "%s: unknown key \"%s\"; the nearest known one is \"%s\"", label,
                            key, nearest);
    }
    return T3V_OK;
}

t3v_status t3v_json_ints(const json_t *obj, const char *label, const char *key, bool required, int64_t lo,
                         int64_t hi, int64_t *out, int cap, int *n)
{
    const json_t *v;
    T3V_TRY(get(obj, label, key, required, &v));
    if (!v) return T3V_OK;
    if (!json_is_array(v)) return wrong_type(label, key, v, "an array of integers");
    size_t count = json_array_size(v);
    if (count > (size_t)cap)
        return t3v_fail(T3V_E_FORMAT, "%s: \"%s\" has %zu elements, at most %d expected", label, key, count,
                        cap);
    for (size_t i = 0; i < count; i++) {
        const json_t *e = json_array_get(v, i);
        if (!json_is_integer(e))
            return t3v_fail(T3V_E_FORMAT, "%s: \"%s\"[%zu] is %s, expected an integer", label, key, i,
                            type_name(e));
        T3V_TRY(in_range(label, key, json_integer_value(e), lo, hi));
    }
    for (size_t i = 0; i < count; i++) out[i] = json_integer_value(json_array_get(v, i));
    *n = (int)count;
    return T3V_OK;
}
