/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt cleaning, as it was done for the captions that the models were trained on. */
#include "text/clean.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/status.h"
#include "text/html.h"
#include "text/utf8.h"

static void swap(t3v_cps *a, t3v_cps *b)
{
    t3v_cps t = *a;
    *a = *b;
    *b = t;
}

static bool same(const t3v_cps *a, const t3v_cps *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->at, b->at, a->n * sizeof *a->at) == 0);
}

/* Unicode's White_Space property. */
static bool is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0d) || cp == ' ' || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

/* What Python's str.strip() removes: the separators U+001C..U+001F too. */
static bool is_strippable(uint32_t cp) { return is_space(cp) || (cp >= 0x1c && cp <= 0x1f); }

/* The characters that a ligature or digraph of Latin letters stands for; NULL for others. */
static const char *ligature(uint32_t cp)
{
    switch (cp) {
    case 0x0132: return "IJ";
    case 0x0133: return "ij";
    case 0x0149: return "'n"; /* via U+02BC, an apostrophe */
    case 0x01c4: return "D\xc5\xbd";
    case 0x01c5: return "D\xc5\xbe";
    case 0x01c6: return "d\xc5\xbe";
    case 0x01c7: return "LJ";
    case 0x01c8: return "Lj";
    case 0x01c9: return "lj";
    case 0x01ca: return "NJ";
    case 0x01cb: return "Nj";
    case 0x01cc: return "nj";
    case 0x01f1: return "DZ";
    case 0x01f2: return "Dz";
    case 0x01f3: return "dz";
    case 0xfb00: return "ff";
    case 0xfb01: return "fi";
    case 0xfb02: return "fl";
    case 0xfb03: return "ffi";
    case 0xfb04: return "ffl";
    case 0xfb05: return "\xc5\xbft";
    case 0xfb06: return "st";
    default: return NULL;
    }
}

/* C1 controls, ligatures, half and full width, quotes, line breaks: one code point at a time. */
static void fix_characters(const t3v_cps *in, t3v_cps *out)
{
    for (size_t i = 0; i < in->n; i++) {
        uint32_t cp = in->at[i];
        if (cp >= 0x80 && cp <= 0x9f) cp = t3v_windows_1252(cp);
        const char *letters = ligature(cp);
        if (letters) {
            t3v_cps_push_utf8(out, letters, strlen(letters));
        } else if (cp == 0x3000) {
            t3v_cps_push(out, ' ');
        } else if (cp > 0xff00 && cp < 0xfff0) {
            utf8proc_int32_t wide[4];
            utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, wide, 4,
                                                         UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE, &(int){0});
            for (utf8proc_ssize_t k = 0; k < n && k < 4; k++) t3v_cps_push(out, (uint32_t)wide[k]);
        } else if (cp == 0x02bc || (cp >= 0x2018 && cp <= 0x201b)) {
            t3v_cps_push(out, '\'');
        } else if (cp >= 0x201c && cp <= 0x201f) {
            t3v_cps_push(out, '"');
        } else if (cp == '\r') {
            if (i + 1 == in->n || in->at[i + 1] != '\n') t3v_cps_push(out, '\n');
        } else if (cp == 0x2028 || cp == 0x2029) {
            t3v_cps_push(out, '\n');
        } else {
            t3v_cps_push(out, cp);
        }
    }
}

static bool is_decimal_digit(uint32_t cp)
{
    return (cp >= '0' && cp <= '9') ||
           (cp >= 0x80 && utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND);
}

/* Length of the terminal escape (ESC [ digits and semicolons, a letter) at in[0..n); 0 if there is none. */
static size_t terminal_escape(const uint32_t *in, size_t n)
{
    if (n < 3 || in[0] != 0x1b || in[1] != '[') return 0;
    size_t i = 2;
    while (i < n && (in[i] == ';' || is_decimal_digit(in[i]))) i++;
    return i < n && (in[i] | 0x20) >= 'a' && (in[i] | 0x20) <= 'z' && in[i] < 0x80 ? i + 1 : 0;
}

static bool is_control(uint32_t cp)
{
    return cp <= 0x08 || cp == 0x0b || (cp >= 0x0e && cp <= 0x1f) || cp == 0x7f ||
           (cp >= 0x206a && cp <= 0x206f) || cp == 0xfeff || (cp >= 0xfff9 && cp <= 0xfffc);
}

static void drop_controls(const t3v_cps *in, t3v_cps *out)
{
    for (size_t i = 0; i < in->n;) {
        size_t escape = terminal_escape(in->at + i, in->n - i);
        if (escape == 0 && !is_control(in->at[i])) t3v_cps_push(out, in->at[i]);
        i += escape ? escape : 1;
    }
}

static void normalise(const t3v_cps *in, t3v_cps *out)
{
    size_t i = 0;
    while (i < in->n && in->at[i] < 0x300) i++;
    if (i == in->n) { /* nothing below the first combining mark changes */
        for (i = 0; i < in->n; i++) t3v_cps_push(out, in->at[i]);
        return;
    }
    size_t n;
    char *utf8 = t3v_cps_utf8(in, &n);
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t len = utf8 ? utf8proc_map((const utf8proc_uint8_t *)utf8, (utf8proc_ssize_t)n, &nfc,
                                               UTF8PROC_STABLE | UTF8PROC_COMPOSE)
                                : -1;
    if (len < 0) out->failed = true; /* the text is valid, so only memory can be short */
    else t3v_cps_push_utf8(out, (const char *)nfc, (size_t)len);
    free(nfc);
    free(utf8);
}

enum { MAX_PASSES = 64 }; /* each undoes one level of &amp;amp;...: bounds the work on hostile text */

/* Applies ftfy's fixes to one line until nothing changes. */
static t3v_status fix_line(t3v_cps *line, bool references, t3v_cps *a, t3v_cps *b)
{
    for (int pass = 0; pass < MAX_PASSES; pass++) {
        a->n = 0;
        if (references) {
            t3v_html_unescape_strict(line->at, line->n, a);
        } else {
            for (size_t i = 0; i < line->n; i++) t3v_cps_push(a, line->at[i]);
        }
        b->n = 0;
        fix_characters(a, b);
        a->n = 0;
        drop_controls(b, a);
        b->n = 0;
        normalise(a, b);
        if (line->failed || a->failed || b->failed)
            return t3v_fail(T3V_E_NOMEM, "no memory to clean a prompt");
        bool done = same(line, b);
        swap(line, b);
        if (done) return T3V_OK;
    }
    return t3v_fail(T3V_E_TOO_BIG, "the prompt has references (&amp;amp;...) nested more than %d deep",
                    MAX_PASSES);
}

/* A text with a '<' is taken for markup, whose references are not ftfy's business: from that line on. */
static t3v_status fix_text(const t3v_cps *in, t3v_cps *out)
{
    t3v_cps line = {0}, a = {0}, b = {0};
    bool references = true;
    t3v_status st = T3V_OK;
    for (size_t i = 0; i < in->n && !st;) {
        line.n = 0;
        do {
            if (in->at[i] == '<') references = false;
            t3v_cps_push(&line, in->at[i]);
        } while (in->at[i++] != '\n' && i < in->n);
        st = fix_line(&line, references, &a, &b);
        for (size_t k = 0; k < line.n; k++) t3v_cps_push(out, line.at[k]);
    }
    free(line.at);
    free(a.at);
    free(b.at);
    return st;
}

/* Every run of whitespace becomes one space; none at the ends. */
static void collapse(const t3v_cps *in, t3v_cps *out)
{
    size_t first = 0, last = in->n;
    while (first < last && is_strippable(in->at[first])) first++;
    while (last > first && is_strippable(in->at[last - 1])) last--;
    for (size_t i = first; i < last; i++) {
        if (!is_space(in->at[i])) t3v_cps_push(out, in->at[i]);
        else if (!is_space(in->at[i - 1])) t3v_cps_push(out, ' ');
    }
}

t3v_status t3v_text_clean(const char *utf8, t3v_clean_mode mode, char **out)
{
    *out = NULL;
    size_t n = strlen(utf8), bad = t3v_utf8_check(utf8, n);
    if (n > T3V_PROMPT_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "the prompt has %zu bytes; at most %d are accepted", n,
                        T3V_PROMPT_MAX);
    if (bad < n)
        return t3v_fail(T3V_E_FORMAT,
                        "the prompt is not UTF-8: byte 0x%02x at offset %zu; convert it (iconv -t UTF-8)",
                        (unsigned char)utf8[bad], bad);
    t3v_status st = T3V_OK;
    t3v_cps a = {0}, b = {0};
    t3v_cps_push_utf8(&a, utf8, n);
    if (mode == T3V_CLEAN_FULL) {
        T3V_TRY_GOTO(st, end, fix_text(&a, &b));
        swap(&a, &b);
    }
    for (int pass = 0; pass < 2 && mode != T3V_CLEAN_NONE; pass++) {
        b.n = 0;
        t3v_html_unescape(a.at, a.n, &b);
        swap(&a, &b);
    }
    if (mode != T3V_CLEAN_NONE) {
        b.n = 0;
        collapse(&a, &b);
        swap(&a, &b);
    }
    if (!b.failed) *out = t3v_cps_utf8(&a, NULL);
    if (!*out) st = t3v_fail(T3V_E_NOMEM, "no memory to clean a prompt of %zu bytes", n);
end:
    free(a.at);
    free(b.at);
    return st;
}
