/* SPDX-License-Identifier: Apache-2.0 */
/* Captions of files: CSV, JSON lines, or a prompt list. */
#ifndef T3V_IO_CAPTIONS_H
#define T3V_IO_CAPTIONS_H

#include "io/prompts.h"

/* The first character tells the form: '[' a prompt list (io/prompts.h), each with a data_file; '{' JSON
 * lines, objects with `file` and `caption` (or data_file and prompt_en); else CSV (RFC 4180; LF or CR LF)
 * whose first row names the columns, of which `file` and `caption` are read. Blank lines are passed over,
 * white space around a caption is dropped. The result is sorted by file (bytes), each of them once. E_FORMAT
 * names the line, or the entry of a list. */
t3v_status t3v_captions_parse(t3v_prompts *p, const char *label, const void *text, size_t size);
/* The same from a file of at most 64 MiB. */
t3v_status t3v_captions_load(t3v_prompts *p, const char *path);

/* The caption of a file; NULL when there is none. */
const char *t3v_captions_find(const t3v_prompts *p, const char *file);

#endif
