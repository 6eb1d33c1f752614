/* SPDX-License-Identifier: Apache-2.0 */
/* HTML character references. */
#include "text/html.h"

#include <string.h>

typedef struct entity {
    const char *name; /* without '&', with ';' where the reference has one */
    const char *utf8;
} entity;

#include "text/entities.inc"

enum { NAME_MAX_CP = 32 }; /* code points of a name, without '&' and ';' */

uint32_t t3v_windows_1252(uint32_t c1)
{
    static const uint16_t to[32] = {
        0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
        0x2039, 0x0152, 0x008d, 0x017d, 0x008f, 0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
        0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178,
    };
    return to[c1 - 0x80];
}

/* The text of a name of n code points, or NULL. Names are ASCII. */
static const char *find(const entity *table, size_t count, const uint32_t *name, size_t n)
{
    char key[NAME_MAX_CP + 2];
    if (n >= sizeof key) return NULL;
    for (size_t i = 0; i < n; i++) {
        if (name[i] >= 0x80) return NULL;
        key[i] = (char)name[i];
    }
    key[n] = 0;
    size_t lo = 0, hi = count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int order = strcmp(key, table[mid].name);
        if (order == 0) return table[mid].utf8;
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static int digit(uint32_t cp, uint32_t base)
{
    if (cp >= '0' && cp <= '9') return (int)(cp - '0');
    if (base == 16 && (cp | 0x20) >= 'a' && (cp | 0x20) <= 'f' && cp < 0x80)
        return (int)((cp | 0x20) - 'a' + 10);
    return -1;
}

/* in[0] == '&', in[1] == '#'. Returns the length of the reference without its ';', or 0 if it is none. */
static size_t number(const uint32_t *in, size_t n, uint32_t *value)
{
    uint32_t base = n > 2 && (in[2] == 'x' || in[2] == 'X') ? 16 : 10;
    size_t first = base == 16 ? 3 : 2, at = first;
    uint32_t v = 0;
    for (int d; at < n && (d = digit(in[at], base)) >= 0; at++) {
        if (v <= 0x10ffff) v = v * base + (uint32_t)d;
    }
    *value = v;
    return at > first ? at : 0;
}

/* Appends what HTML makes of a numeric reference. */
static void push_number(t3v_cps *out, uint32_t v)
{
    if (v == 0 || (v >= 0xd800 && v <= 0xdfff) || v > 0x10ffff) v = 0xfffd;
    else if (v >= 0x80 && v <= 0x9f) v = t3v_windows_1252(v);
    else if ((v < 0x20 && v != '\t' && v != '\n' && v != '\f' && v != '\r') || v == 0x7f ||
             (v >= 0xfdd0 && v <= 0xfdef) || (v & 0xfffe) == 0xfffe)
        return;
    t3v_cps_push(out, v);
}

static bool in_name(uint32_t cp)
{
    return cp != '\t' && cp != '\n' && cp != '\f' && cp != ' ' && cp != '<' && cp != '&' && cp != '#' &&
           cp != ';';
}

void t3v_html_unescape(const uint32_t *in, size_t n, t3v_cps *out)
{
    for (size_t i = 0; i < n;) {
        if (in[i] != '&' || i + 1 == n) {
            t3v_cps_push(out, in[i++]);
            continue;
        }
        if (in[i + 1] == '#') {
            uint32_t value;
            size_t len = number(in + i, n - i, &value);
            if (len == 0) {
                t3v_cps_push(out, in[i++]);
                continue;
            }
            push_number(out, value);
            i += len;
            if (i < n && in[i] == ';') i++;
            continue;
        }
        const uint32_t *name = in + i + 1;
        size_t len = 0, left = n - i - 1;
        while (len < left && len < NAME_MAX_CP && in_name(name[len])) len++;
        if (len == 0) {
            t3v_cps_push(out, in[i++]);
            continue;
        }
        size_t whole = len + (len < left && name[len] == ';');
        const char *text = find(entities, COUNT(entities), name, whole);
        size_t used = whole;
        for (size_t part = whole - 1; !text && part >= 2; part--) {
            text = find(entities, COUNT(entities), name, part);
            used = part;
        }
        if (text) {
            t3v_cps_push_utf8(out, text, strlen(text));
        } else {
            t3v_cps_push(out, '&');
            used = 0;
        }
        for (size_t k = used; k < whole; k++) t3v_cps_push(out, name[k]);
        i += 1 + whole;
    }
}

static bool alnum(uint32_t cp)
{
    return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z');
}

void t3v_html_unescape_strict(const uint32_t *in, size_t n, t3v_cps *out)
{
    for (size_t i = 0; i < n;) {
        size_t hash = i + 1 < n && in[i + 1] == '#', len = 0;
        const uint32_t *name = in + i + 1 + hash;
        size_t left = i + 1 + hash < n ? n - i - 1 - hash : 0;
        if (in[i] == '&')
            while (len < left && len <= 24 && alnum(name[len])) len++;
        if (in[i] != '&' || len < 1 || len > 24 || len == left || name[len] != ';') {
            t3v_cps_push(out, in[i++]);
            continue;
        }
        size_t whole = 1 + hash + len + 1;
        if (hash) {
            /* A number must use up all characters, and must not be that of ';' itself. */
            uint32_t value;
            bool taken = number(in + i, n - i, &value) == whole - 1 && value != ';';
            if (taken) push_number(out, value);
            for (size_t k = 0; !taken && k < whole; k++) t3v_cps_push(out, in[i + k]);
        } else {
            const char *text = find(entities, COUNT(entities), name, len + 1);
            if (!text) text = find(entities_upper, COUNT(entities_upper), name, len + 1);
            if (text) t3v_cps_push_utf8(out, text, strlen(text));
            for (size_t k = 0; !text && k < whole; k++) t3v_cps_push(out, in[i + k]);
        }
        i += whole;
    }
}
