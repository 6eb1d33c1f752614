/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest tokenizer there is: one piece a byte. */
#include "text/byte_model.h"

#include <stdio.h>
#include <string.h>

#include "text/spiece_build.h"

t3v_status t3v_byte_model(unsigned char **bytes, size_t *n)
{
    t3v_spiece_build b = {0};
    t3v_spiece_add(&b, "<pad>", 5, 0, T3V_SPIECE_CONTROL);
    t3v_spiece_add(&b, "</s>", 4, 0, T3V_SPIECE_CONTROL);
    t3v_spiece_add(&b, "<s>", 3, 0, T3V_SPIECE_CONTROL);
    t3v_spiece_add(&b, "<unk>", 5, 0, T3V_SPIECE_UNKNOWN);
    for (unsigned v = 0; v < 256; v++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", v);
        t3v_spiece_add(&b, text, strlen(text), 0, T3V_SPIECE_BYTE);
    }
    t3v_spiece_add(&b, "\xe2\x96\x81", 3, -1, T3V_SPIECE_NORMAL);
    const t3v_spiece_settings s = {.unk = 3,
                                   .byte_fallback = true,
                                   .add_dummy_prefix = true,
                                   .remove_extra_whitespaces = true};
    t3v_status st = t3v_spiece_finish(&b, &s);
    *bytes = b.bytes;
    *n = b.size;
    return st;
}
