/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a prompt: cleaning gives an error or UTF-8 with no space at its ends and no two in a row. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/clean.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = malloc(n + 1);
    if (!text) return 0;
    if (n) memcpy(text, data, n);
    text[n] = 0;
    for (int mode = T3V_CLEAN_NONE; mode <= T3V_CLEAN_NO_FTFY; mode++) {
        char *out;
        if (t3v_text_clean(text, (t3v_clean_mode)mode, &out)) {
            if (out) abort();
            continue;
        }
        size_t len = strlen(out);
        if (t3v_utf8_check(out, len) < len) abort();
        if (mode == T3V_CLEAN_NONE && strcmp(out, text) != 0) abort();
        if (mode != T3V_CLEAN_NONE && len && (out[0] == ' ' || out[len - 1] == ' ' || strstr(out, "  ")))
            abort();
        free(out);
    }
    free(text);
    return 0;
}
