/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt cleaning, as it was done for the captions that the models were trained on. */
#ifndef T3V_TEXT_CLEAN_H
#define T3V_TEXT_CLEAN_H

#include "t3v/status.h"

typedef enum t3v_clean_mode {
    T3V_CLEAN_NONE,    /* the text as it is */
    T3V_CLEAN_FULL,    /* ftfy, html.unescape twice, whitespace: what Wan's own code does */
    T3V_CLEAN_NO_FTFY, /* without ftfy: what Diffusers does where ftfy is not installed */
} t3v_clean_mode;

enum { T3V_PROMPT_MAX = 65536 }; /* bytes of a prompt */

/* Cleans a prompt; *out is to be freed. Of ftfy 6's fixes all that matter to text that is not mojibake
 * are applied: references (unless the text has a '<'), C1 controls read as Windows-1252, ligatures,
 * width, quotes, line breaks, terminal escapes, control characters, NFC; mojibake is not repaired.
 * T3V_E_FORMAT with the byte offset if the text is not UTF-8; T3V_E_TOO_BIG past T3V_PROMPT_MAX or
 * with references nested more than 64 deep. */
t3v_status t3v_text_clean(const char *utf8, t3v_clean_mode mode, char **out);

#endif
