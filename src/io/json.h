/* SPDX-License-Identifier: Apache-2.0 */
/* JSON through jansson, with errors that name the file, the key, the value and what was expected.
 *
 * Getters: `label` names the file in messages. A missing (or null) key is an error when `required`; else
 * the output keeps what it holds, so that the caller sets defaults first. */
#ifndef T3V_IO_JSON_H
#define T3V_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Any JSON of at most 4 million values, whose memory would else be fifty times that of a hostile text. Duplicate keys are
 * refused. `line`: of the text's first line in its file, from 1. E_FORMAT, E_TOO_BIG, E_NOMEM. json_decref the result. */
t3v_status t3v_json_text(json_t **out, const char *label, int64_t line, const void *text, size_t size);
/* json_dumps, but NULL where jansson overlooks that there was no memory (for keys, 2.14). */
char *t3v_json_dumps(const json_t *v, size_t flags);
/* For a program whose jansson is all ours: lets it take its memory through a function that counts refusals, of which
 * t3v_json_lost tells. Without this a text that is parsed while memory runs out may lose letters (jansson does not look). */
void t3v_json_watch(void);
int t3v_json_lost(void);
/* An object (anything else at the top is E_FORMAT). Duplicate keys are refused. json_decref the result. */
t3v_status t3v_json_parse(json_t **out, const char *label, const void *text, size_t size);
/* The same from a file of at most 16 MiB. */
t3v_status t3v_json_load(json_t **out, const char *path);

t3v_status t3v_json_int(const json_t *obj, const char *label, const char *key, bool required, int64_t lo,
                        int64_t hi, int64_t *out);
t3v_status t3v_json_real(const json_t *obj, const char *label, const char *key, bool required, double lo,
                         double hi, double *out);
t3v_status t3v_json_bool(const json_t *obj, const char *label, const char *key, bool required, bool *out);
/* *out points into `obj`; so below. */
t3v_status t3v_json_string(const json_t *obj, const char *label, const char *key, bool required,
                           const char **out);
t3v_status t3v_json_object(const json_t *obj, const char *label, const char *key, bool required,
                           json_t **out);
t3v_status t3v_json_array(const json_t *obj, const char *label, const char *key, bool required, json_t **out);
/* E_FORMAT when `obj` has a key that is not in `known` (which ends with NULL); names the nearest one that is. */
t3v_status t3v_json_only(const json_t *obj, const char *label, const char *const *known);

/* An array of at most `cap` integers, each in [lo, hi]; *n receives their number. */
t3v_status t3v_json_ints(const json_t *obj, const char *label, const char *key, bool required, int64_t lo,
                         int64_t hi, int64_t *out, int cap, int *n);

#endif
