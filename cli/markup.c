/* SPDX-License-Identifier: Apache-2.0 */
/* Escapes and base64 (RFC 4648, 4). */
#include "markup.h"

#include <stdint.h>

#include "io/file.h"

void cli_markup(FILE *f, const char *text)
{
    for (const char *s = text; *s; s++) {
        switch (*s) {
        case '&': fputs("&amp;", f); break;
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '"': fputs("&quot;", f); break;
        case '\'': fputs("&#39;", f); break;
        default: fputc((unsigned char)*s < ' ' || *s == 0x7f ? ' ' : *s, f);
        }
    }
}

void cli_data_uri(FILE *f, const char *type, const void *data, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *b = data;
    fprintf(f, "data:%s;base64,", type);
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)b[i] << 16;
        if (i + 1 < n) v |= (uint32_t)b[i + 1] << 8;
        if (i + 2 < n) v |= b[i + 2];
        fputc(digit[v >> 18], f);
        fputc(digit[v >> 12 & 63], f);
        fputc(i + 1 < n ? digit[v >> 6 & 63] : '=', f);
        fputc(i + 2 < n ? digit[v & 63] : '=', f);
    }
}

t3v_status cli_data_uri_file(FILE *f, const char *type, const char *path)
{
    t3v_map m;
    T3V_TRY(t3v_map_open(&m, path));
    cli_data_uri(f, type, m.data, m.size);
    t3v_map_close(&m);
    return T3V_OK;
}
