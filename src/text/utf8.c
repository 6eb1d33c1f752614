/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 decoding and encoding, and a growing array of code points. */
#include "text/utf8.h"

#include <stdlib.h>

int t3v_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (n == 0) return 0;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    int len = u[0] < 0xc2 ? 0 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : u[0] < 0xf5 ? 4 : 0;
    if (len == 0 || (size_t)len > n) return 0;
    uint32_t v = u[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
        v = v << 6 | (u[i] & 0x3fu);
    }
    if (v < least[len] || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) return 0;
    *cp = v;
    return len;
}

int t3v_utf8_encode(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00 >> len & 0xf0) | cp);
    return len;
}

size_t t3v_utf8_check(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int len = t3v_utf8_decode(s + i, n - i, &cp);
        if (len == 0) return i;
        i += (size_t)len;
    }
    return n;
}

void t3v_cps_push(t3v_cps *s, uint32_t cp)
{
    if (s->failed) return;
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        uint32_t *at = cap > SIZE_MAX / sizeof *at ? NULL : realloc(s->at, cap * sizeof *at);
        if (!at) {
            s->failed = true;
            return;
        }
        s->at = at;
        s->cap = cap;
    }
    s->at[s->n++] = cp;
}

void t3v_cps_push_utf8(t3v_cps *s, const char *utf8, size_t n)
{
    uint32_t cp;
    for (int len; (len = t3v_utf8_decode(utf8, n, &cp)) > 0; utf8 += len, n -= (size_t)len)
        t3v_cps_push(s, cp);
}

char *t3v_cps_utf8(const t3v_cps *s, size_t *n)
{
    char *out = s->failed || s->n > (SIZE_MAX - 1) / 4 ? NULL : malloc(s->n * 4 + 1);
    if (!out) return NULL;
    size_t at = 0;
    for (size_t i = 0; i < s->n; i++) at += (size_t)t3v_utf8_encode(s->at[i], out + at);
    out[at] = 0;
    if (n) *n = at;
    return out;
}
