/* SPDX-License-Identifier: Apache-2.0 */
/* HTML character references. */
#ifndef T3V_TEXT_HTML_H
#define T3V_TEXT_HTML_H

#include "text/utf8.h"

/* Appends `in` to *out with every character reference replaced, by the rules of the HTML standard's
 * tokenizer as Python's html.unescape applies them: names without ';' and longest-prefix matches
 * included, code points that HTML calls invalid dropped or replaced. One pass, nothing is decoded twice. */
void t3v_html_unescape(const uint32_t *in, size_t n, t3v_cps *out);

/* The careful variety that ftfy uses: only references that end in ';' and are wholly understood, plus
 * upper-case spellings such as &NTILDE; */
void t3v_html_unescape_strict(const uint32_t *in, size_t n, t3v_cps *out);

/* What Windows-1252 makes of the C1 control U+0080..U+009F: itself where that is undefined. */
uint32_t t3v_windows_1252(uint32_t c1);

#endif
