/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 decoding and encoding, and a growing array of code points. */
#ifndef T3V_TEXT_UTF8_H
#define T3V_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point of s[0..n). Returns its length in bytes, or 0 if the bytes are no well-formed
 * UTF-8 (overlong forms, surrogates and values past U+10FFFF are refused). */
int t3v_utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Writes a code point of at most U+10FFFF to out[0..4); returns its length in bytes. */
int t3v_utf8_encode(uint32_t cp, char *out);

/* The offset of the first byte that is not part of well-formed UTF-8; n if there is none. */
size_t t3v_utf8_check(const char *s, size_t n);

/* An array of code points. Appending sets `failed` when memory runs out, and then does nothing more, so
 * that one look at the end is enough. Zero-initialise; free `at`. */
typedef struct t3v_cps {
    uint32_t *at;
    size_t n, cap;
    bool failed;
} t3v_cps;

void t3v_cps_push(t3v_cps *s, uint32_t cp);

/* Appends well-formed UTF-8 of n bytes. */
void t3v_cps_push_utf8(t3v_cps *s, const char *utf8, size_t n);

/* The array as a NUL-terminated string to be freed; NULL when memory runs out or s->failed. */
char *t3v_cps_utf8(const t3v_cps *s, size_t *n);

#endif
