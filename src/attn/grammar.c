/* SPDX-License-Identifier: Apache-2.0 */
/* The plan grammar: rules, selectors, options; errors point at the column. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/grammar.h"

enum { TEXT_MAX = 1 << 16, RULES_MAX = 256, STEP_MAX = 1 << 30 };
#define TRIES_MAX 20000000 /* comparisons of rules, a tenth of a second */

typedef struct cursor {
    const char *text, *at, *end;
    const char *where; /* "plan" or the file's name */
    bool lines;        /* report line and column */
} cursor;

static void place(const cursor *c, const char *at, int *line, int *column)
{
    *line = 1, *column = 1;
    for (const char *p = c->text; p < at; p++) {
        if (c->lines && *p == '\n') ++*line, *column = 1;
        else ++*column;
    }
}

/* E_ARG with the place of `at`; `fmt` may hold one %.*s for (length, word). */
static t3v_status wrong(const cursor *c, const char *at, const char *message)
{
    int line, column;
    place(c, at, &line, &column);
    if (c->lines) return t3v_fail(T3V_E_ARG, "%s, line %d, column %d: %s", c->where, line, column, message);
    return t3v_fail(T3V_E_ARG, "plan, column %d: %s", column, message);
}

static bool separator(char ch, bool lines) { return ch == ';' || (lines && ch == '\n'); }

/* Skips blanks and, in files, comments. */
static void blanks(cursor *c)
{
    while (c->at < c->end) {
        if (c->lines && *c->at == '#')
            while (c->at < c->end && *c->at != '\n') c->at++;
        else if (*c->at == ' ' || *c->at == '\t' || *c->at == '\r') c->at++;
        else break;
    }
}

static size_t word(const cursor *c)
{
    const char *p = c->at;
    while (p < c->end && (isalnum((unsigned char)*p) || *p == '_' || (p > c->at && *p == '.'))) p++;
    return (size_t)(p - c->at);
}

static bool take_word(cursor *c, const char *w)
{
    size_t n = word(c);
    if (n != strlen(w) || memcmp(c->at, w, n) != 0) return false;
    c->at += n;
    blanks(c);
    return true;
}

/* A decimal number of at most 9 digits. */
static bool number(cursor *c, int *out)
{
    const char *p = c->at;
    int v = 0;
    while (p < c->end && isdigit((unsigned char)*p) && p - c->at < 9) v = v * 10 + (*p++ - '0');
    if (p == c->at || (p < c->end && isalnum((unsigned char)*p))) return false;
    c->at = p;
    blanks(c);
    *out = v;
    return true;
}

static t3v_status unknown_pattern(const cursor *c, size_t n)
{
    char message[400];
    int at = snprintf(message, sizeof message, "unknown pattern '%.*s'; known:", (int)(n < 40 ? n : 40),
                      c->at);
    for (const t3v_pattern *const *p = t3v_patterns; *p && at < (int)sizeof message - 1; p++)
        at += snprintf(message + at, sizeof message - (size_t)at, "%s %s", p == t3v_patterns ? "" : ",",
                       (*p)->name);
    return wrong(c, c->at, message);
}

t3v_status t3v_option_wrong(const t3v_option_text *text, int64_t offset, const char *fmt, ...)
{
    char message[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    return t3v_fail(T3V_E_ARG, "plan, column %lld: %s", (long long)text->column + (long long)offset, message);
}

/* Reads one row at *at. */
static t3v_status read_counts(const t3v_option_text *text, int64_t *at, const char *what, int axes,
                              int64_t min, const int64_t *most, int64_t *n)
{
    static const char *const names[] = {"time", "height", "width"};
    for (int i = 0; i < axes; i++) {
        if (i && (*at == text->length || text->at[*at] != 'x'))
            return t3v_option_wrong(text, *at,
                                    "expected TxHxW, a count for time, height and width, as in 1x17x30");
        int64_t start = *at += i > 0, v = 0;
        bool minus = *at < text->length && text->at[*at] == '-';
        *at += minus;
        int64_t digits = *at;
        while (*at < text->length && text->at[*at] >= '0' && text->at[*at] <= '9' && *at - digits < 9)
            v = 10 * v + (text->at[(*at)++] - '0');
        if (*at == digits)
            return t3v_option_wrong(text, start, "expected a count of %s along %s", what, names[i]);
        if (minus || v < min || v > most[i])
            return t3v_option_wrong(text, start,
                                    "%s%lld %s along %s, expected %lld to %lld, the tokens of this grid",
                                    minus ? "-" : "", (long long)v, what, names[i], (long long)min,
                                    (long long)most[i]);
        n[i] = v;
    }
    return T3V_OK;
}

t3v_status t3v_option_counts(const t3v_option_text *text, const char *what, int axes, int64_t min,
                             const int64_t *most, int64_t row, int64_t *n)
{
    int64_t rows = 0, wanted = -1, read[3];
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int64_t r = 0;; r++) {
            T3V_TRY(read_counts(text, &at, what, axes, min, most, read));
            if (r == wanted) memcpy(n, read, (size_t)axes * sizeof *n);
            rows = r + 1;
            if (at == text->length) break;
            if (text->at[at] != '/')
                return t3v_option_wrong(text, at, "expected '/' and the next layer's %s, or the end",
                                        axes == 3 ? "TxHxW" : "count");
            at++;
        }
        wanted = row % rows;
    }
    return T3V_OK;
}

static void initial_values(const t3v_option *options, void *dst)
{
    for (const t3v_option *o = options; o && o->name; o++) {
        char *to = (char *)dst + o->offset;
        if (o->kind == T3V_OPTION_TEXT) memset(to, 0, sizeof(t3v_option_text));
        else if (o->kind == T3V_OPTION_REAL) memcpy(to, &o->real, sizeof o->real);
        else memcpy(to, &o->initial, sizeof o->initial);
    }
}

/* Joins names with ", ". */
static void join(char *out, size_t size, int *at, const char *name)
{
    if (*at < (int)size - 1) *at += snprintf(out + *at, size - (size_t)*at, "%s%s", *at ? ", " : "", name);
}

/* The value of one option; `column` is the key's. */
static t3v_status option_value(const t3v_option *o, void *dst, const char *value, size_t n, int column)
{
    int shown = (int)(n < 40 ? n : 40);
    if (o->kind == T3V_OPTION_TEXT) {
        t3v_option_text text = {value, (int32_t)n, column + (int32_t)strlen(o->name) + 1};
        if (!n) return t3v_fail(T3V_E_ARG, "plan, column %d: %s is empty", column, o->name);
        memcpy(dst, &text, sizeof text);
        return T3V_OK;
    }
    if (o->kind == T3V_OPTION_WORD) {
        char known[200] = "";
        int at = 0;
        for (int64_t i = 0; o->words[i]; i++) {
            if (strlen(o->words[i]) == n && memcmp(o->words[i], value, n) == 0) {
                memcpy(dst, &i, sizeof i);
                return T3V_OK;
            }
            join(known, sizeof known, &at, o->words[i]);
        }
        return t3v_fail(T3V_E_ARG, "plan, column %d: %s is '%.*s', expected one of: %s", column, o->name,
                        shown, value, known);
    }
    char digits[24], *rest;
    long long v = 0;
    bool ok = n > 0 && n < sizeof digits;
    if (ok) memcpy(digits, value, n), digits[n] = 0;
    ok = ok && !isspace((unsigned char)digits[0]);
    if (o->kind == T3V_OPTION_REAL) {
        double x = ok ? strtod(digits, &rest) : 0;
        if (!ok || *rest || !(x >= o->real_min && x <= o->real_max))
            return t3v_fail(T3V_E_ARG, "plan, column %d: %s is '%.*s', expected a number from %g to %g",
                            column, o->name, shown, value, o->real_min, o->real_max);
        memcpy(dst, &x, sizeof x);
        return T3V_OK;
    }
    if (ok) {
        errno = 0;
        v = strtoll(digits, &rest, 10);
        ok = !errno && !*rest && v >= o->min && v <= o->max;
    }
    if (!ok)
        return t3v_fail(T3V_E_ARG, "plan, column %d: %s is '%.*s', expected a number from %lld to %lld",
                        column, o->name, shown, value, (long long)o->min, (long long)o->max);
    int64_t found = v;
    memcpy(dst, &found, sizeof found);
    return T3V_OK;
}

t3v_status t3v_options_parse(const t3v_option *options, void *dst, const char *name, const char *text,
                             size_t length, int column)
{
    initial_values(options, dst);
    const char *end = text + length;
    for (const char *p = text; p < end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        const char *eq = memchr(p, '=', (size_t)(stop - p));
        int here = column + (int)(p - text);
        if (!eq || eq == p)
            return t3v_fail(T3V_E_ARG, "plan, column %d: expected key=value, got '%.*s'", here,
                            (int)(stop - p < 40 ? stop - p : 40), p);
        const t3v_option *o = options;
        while (o && o->name &&
               !(strlen(o->name) == (size_t)(eq - p) && memcmp(o->name, p, (size_t)(eq - p)) == 0))
            o++;
        if (!o || !o->name) {
            char known[200] = "none";
            int at = 0;
            for (const t3v_option *k = options; k && k->name; k++) join(known, sizeof known, &at, k->name);
            return t3v_fail(T3V_E_ARG, "plan, column %d: %s has no option '%.*s'; its options: %s", here,
                            name, (int)(eq - p < 40 ? eq - p : 40), p, known);
        }
        T3V_TRY(option_value(o, (char *)dst + o->offset, eq + 1, (size_t)(stop - eq - 1), here));
        p = comma ? comma + 1 : end;
        if (comma && p == end)
            return t3v_fail(T3V_E_ARG, "plan, column %d: expected key=value after ','",
                            column + (int)(p - text));
    }
    return T3V_OK;
}

/* (a | a-b | a 'mod' n) after `what`; with modulus NULL without the last form. *modulus is 0 for the others. */
static t3v_status set_of(cursor *c, const char *arrow, const char *what, int *first, int *last, int *modulus)
{
    const char *start = c->at;
    char message[96];
    if (!number(c, first)) {
        snprintf(message, sizeof message, "expected a %s number after '%ss'", what, what);
        return wrong(c, c->at, message);
    }
    *last = *first;
    if (modulus && take_word(c, "mod")) {
        const char *at = c->at;
        if (!number(c, modulus) || *modulus < 1)
            return wrong(c, at, "expected a number of at least 1 after 'mod'");
        if (*first >= *modulus) return wrong(c, start, "'a mod n' needs a < n");
    } else if (c->at < arrow && *c->at == '-') {
        c->at++;
        blanks(c);
        snprintf(message, sizeof message, "expected the last %s after '-'", what);
        if (!number(c, last)) return wrong(c, c->at, message);
        snprintf(message, sizeof message, "the last %s is before the first", what);
        if (*last < *first) return wrong(c, start, message);
    }
    return T3V_OK;
}

/* Selector and arrow, when the rule has them. */
static t3v_status selector(cursor *c, t3v_rule *r, int layers, int64_t heads, bool *last)
{
    const char *arrow = NULL;
    for (const char *p = c->at; p + 1 < c->end && !separator(*p, c->lines) && *p != '#'; p++)
        if (p[0] == '-' && p[1] == '>') {
            arrow = p;
            break;
        }
    if (!arrow) return T3V_OK;
    char message[96];
    if (take_word(c, "else")) {
        *last = true;
    } else {
        if (take_word(c, "cross")) r->cross = true;
        else take_word(c, "self");
        if (take_word(c, "layers")) {
            const char *start = c->at;
            T3V_TRY(set_of(c, arrow, "layer", &r->first, &r->last, &r->modulus));
            snprintf(message, sizeof message, "the model has layers 0 to %d", layers - 1);
            if (r->first >= layers || (!r->modulus && r->last >= layers)) return wrong(c, start, message);
        }
        if (take_word(c, "heads")) {
            const char *start = c->at;
            T3V_TRY(set_of(c, arrow, "head", &r->when.head_first, &r->when.head_last, NULL));
            snprintf(message, sizeof message, "the model has heads 0 to %lld", (long long)heads - 1);
            if (heads && r->when.head_last >= heads) return wrong(c, start, message);
        }
        if (take_word(c, "steps"))
            T3V_TRY(set_of(c, arrow, "step", &r->when.step_first, &r->when.step_last, &r->when.step_modulus));
    }
    if (c->at != arrow)
        return wrong(c, c->at,
                     "expected 'self', 'cross', 'layers', 'heads', 'steps' (in this order), 'else' or '->'");
    if (r->cross && !t3v_rule_always(r))
        return wrong(c, c->at, "cross-attention has no rules for heads or steps");
    c->at += 2;
    blanks(c);
    return T3V_OK;
}

static bool in_set(int64_t x, int64_t first, int64_t last, int64_t modulus)
{
    return modulus ? x % modulus == first : x >= first && x <= last;
}

static bool about(const t3v_rule *r, const t3v_rule *own, int layer)
{
    return r->cross == own->cross && in_set(layer, r->first, r->last, r->modulus);
}

/* Does a rule before `own` hold for this layer, head and step? */
static bool taken(t3v_rules *rules, const t3v_rule *own, int layer, int64_t head, int64_t step)
{
    rules->tries += own - rules->rule + 1;
    for (const t3v_rule *r = rules->rule; r < own; r++)
        if (about(r, own, layer) && head >= r->when.head_first && head <= r->when.head_last &&
            in_set(step, r->when.step_first, r->when.step_last, r->when.step_modulus))
            return true;
    return false;
}

/* A free head or step lies at the start of the own range or behind the end of another, or within a cycle of the
 * moduli from there, of which the first thousand steps are tried. */
static bool reached_by_step(t3v_rules *rules, const t3v_rule *own, int layer, int64_t head)
{
    const t3v_when *w = &own->when;
    int64_t cycle = 1, stride = w->step_modulus ? w->step_modulus : 1;
    for (const t3v_rule *r = rules->rule; r < own; r++)
        if (r->when.step_modulus && cycle < 1000) cycle *= r->when.step_modulus;
    if (cycle > 1000) cycle = 1000;
    for (const t3v_rule *r = rules->rule; r <= own; r++) {
        int64_t from = r == own ? w->step_first : r->when.step_last + (int64_t)1;
        from += (w->step_first - from % stride + stride) % stride;
        for (int64_t i = 0, s = from; i < cycle && s <= STEP_MAX; i++, s += stride) {
            if (!in_set(s, w->step_first, w->step_last, w->step_modulus)) continue;
            if (!taken(rules, own, layer, head, s) || rules->tries > TRIES_MAX) return true;
        }
    }
    return false;
}

/* Is the last rule for something the first one? Where that takes too long to find out it is taken to be: a rule that never
 * matches is a mistake that does no harm, hours over a hostile plan do. */
static bool reached(t3v_rules *rules, int layers, int64_t heads)
{
    const t3v_rule *own = &rules->rule[rules->count - 1];
    for (int layer = 0; layer < layers; layer++) {
        if (!about(own, own, layer)) continue;
        for (const t3v_rule *r = rules->rule; r <= own; r++) {
            int64_t head = r == own ? own->when.head_first : r->when.head_last + (int64_t)1;
            if (head < own->when.head_first || head > own->when.head_last ||
                head >= (heads ? heads : INT32_MAX))
                continue;
            if (reached_by_step(rules, own, layer, head)) return true;
        }
    }
    return false;
}

static t3v_status parse_rule(cursor *c, t3v_rules *rules, int layers, int64_t heads, bool *last)
{
    if (rules->count == RULES_MAX) return wrong(c, c->at, "a plan has at most 256 rules");
    t3v_rule *grown = realloc(rules->rule, (size_t)(rules->count + 1) * sizeof *grown);
    if (!grown) return t3v_fail(T3V_E_NOMEM, "no memory for the rules of a plan");
    rules->rule = grown;
    t3v_rule *r = &grown[rules->count];
    memset(r, 0, sizeof *r);
    r->last = layers - 1;
    r->when.head_last = r->when.step_last = INT32_MAX;
    const char *start = c->at;
    if (*last) return wrong(c, start, "a rule after 'else' can never match");
    T3V_TRY(selector(c, r, layers, heads, last));
    int line;
    size_t n = word(c);
    place(c, c->at, &line, &r->column);
    if (!n) return wrong(c, c->at, "expected a pattern's name");
    r->pattern = t3v_pattern_find(c->at, n);
    if (!r->pattern) return unknown_pattern(c, n);
    if (r->cross && r->pattern != &t3v_pattern_full)
        return wrong(c, c->at, "cross-attention can only be full");
    c->at += n;
    T3V_ASSERT(r->pattern->options_size <= T3V_OPTIONS_MAX);
    const char *from = c->at, *to = c->at;
    if (c->at < c->end && *c->at == ':') {
        from = to = ++c->at;
        while (to < c->end && !separator(*to, c->lines) && *to != '#' && !isspace((unsigned char)*to)) to++;
        if (from == to) return wrong(c, from, "expected key=value after ':'");
        c->at = to;
    }
    int column;
    place(c, from, &line, &column);
    r->line = c->lines ? line : 0;
    t3v_status st = t3v_options_parse(r->pattern->options, r->store.bytes, r->pattern->name, from,
                                      (size_t)(to - from), column);
    if (st) return c->lines ? t3v_fail_in(st, "%s, line %d", c->where, line) : st;
    blanks(c);
    if (c->at < c->end && !separator(*c->at, c->lines)) return wrong(c, c->at, "expected ';' or the end");

    rules->count++;
    if (!reached(rules, layers, heads))
        return wrong(c, start, "this rule can never match: earlier ones take all that it is about");
    return T3V_OK;
}

bool t3v_rule_always(const t3v_rule *r)
{
    const t3v_when *w = &r->when;
    return !w->head_first && w->head_last == INT32_MAX &&
           (w->step_modulus == 1 || (!w->step_first && w->step_last == INT32_MAX));
}

const t3v_rule *t3v_rules_next(const t3v_rules *rules, const t3v_rule *last, bool cross, int layer)
{
    for (const t3v_rule *r = last ? last + 1 : rules->rule; r < rules->rule + rules->count; r++)
        if (r->cross == cross && in_set(layer, r->first, r->last, r->modulus)) return r;
    return NULL;
}

void t3v_rules_free(t3v_rules *rules)
{
    free(rules->rule);
    free(rules->file);
    *rules = (t3v_rules){0};
}

static t3v_status read_file(const char *path, char **out, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) return t3v_fail(T3V_E_IO, "cannot open the plan file %s: %s", path, strerror(errno));
    char *text = malloc(TEXT_MAX);
    *size = text ? fread(text, 1, TEXT_MAX, f) : 0;
    bool bad = ferror(f), big = text && *size == TEXT_MAX;
    fclose(f);
    if (text && !bad && !big) {
        *out = text;
        return T3V_OK;
    }
    free(text);
    if (!text) return t3v_fail(T3V_E_NOMEM, "no memory for the plan file %s", path);
    if (bad) return t3v_fail(T3V_E_IO, "cannot read the plan file %s", path);
    return t3v_fail(T3V_E_TOO_BIG, "the plan file %s has more than %d bytes", path, TEXT_MAX - 1);
}

t3v_status t3v_rules_parse(t3v_rules *out, const char *text, int layers, int64_t heads)
{
    *out = (t3v_rules){0};
    cursor c = {text, text, text + strlen(text), "plan", false};
    while (*c.at == ' ') c.at++;
    if (*c.at == '@') {
        const char *path = c.at + 1;
        size_t size = 0;
        T3V_TRY(read_file(path, &out->file, &size));
        c = (cursor){out->file, out->file, out->file + size, path, true};
    }
    t3v_status st = T3V_OK;
    bool last = false;
    if (c.end - c.text >= TEXT_MAX) {
        st = t3v_fail(T3V_E_TOO_BIG, "a plan of %zu bytes; at most %d are read", (size_t)(c.end - c.text),
                      TEXT_MAX - 1);
        t3v_rules_free(out);
        return st;
    }
    for (;;) {
        blanks(&c);
        if (c.lines)
            while (c.at < c.end && separator(*c.at, true)) c.at++, blanks(&c);
        if (c.at == c.end) {
            if (!out->count || !c.lines) st = wrong(&c, c.at, "expected a rule");
            break;
        }
        if ((st = parse_rule(&c, out, layers, heads, &last))) break;
        if (c.at == c.end) break;
        c.at++; /* the separator */
    }
    /* The array moved while it grew: point into it only now. */
    for (int i = 0; i < out->count; i++)
        out->rule[i].options = out->rule[i].pattern->options ? out->rule[i].store.bytes : NULL;
    if (st) t3v_rules_free(out);
    return st;
}
