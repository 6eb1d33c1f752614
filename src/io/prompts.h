/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt lists: a JSON array of {"prompt_en": text, "data_file": relative path or ""}, as 4K-VBench has them. */
#ifndef T3V_IO_PROMPTS_H
#define T3V_IO_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { T3V_PROMPTS_MAX = 1000000 };

typedef struct t3v_prompt {
    char *text; /* never empty */
    char *file; /* relative, without ".."; may be empty */
} t3v_prompt;

typedef struct t3v_prompts {
    t3v_prompt *item;
    int64_t count;
} t3v_prompts;

/* From memory; `label` names it in messages. At most 1,000,000 prompts. E_FORMAT names the entry. */
t3v_status t3v_prompts_parse(t3v_prompts *p, const char *label, const void *text, size_t size);
/* The same from a file of at most 64 MiB. */
t3v_status t3v_prompts_load(t3v_prompts *p, const char *path);
void t3v_prompts_free(t3v_prompts *p); /* safe on a zeroed struct */

/* Writes such a list, whole or not at all. */
t3v_status t3v_prompts_save(const t3v_prompts *p, const char *path);

#endif
