/* SPDX-License-Identifier: Apache-2.0 */
/* What a file in src/attn/patterns/ defines, and the calls with which it describes itself.
 *
 * A pattern computes no attention: build() states which queries meet which keys, allows() says the same
 * slowly and obviously, and the tests hold one against the other. patterns/NAME.c defines
 * `const t3v_pattern t3v_pattern_NAME`; the registry is generated from the file names. */
#ifndef T3V_ATTN_PATTERN_H
#define T3V_ATTN_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/plan.h"

/* One integer option of a pattern; a table of them ends with a NULL name. */
typedef struct t3v_option {
    const char *name, *help;
    size_t offset; /* of an int64_t in the options struct */
    int64_t initial, min, max;
} t3v_option;

/* What is known when a plan is made. */
typedef struct t3v_geom {
    t3v_grid grid;
    int64_t tokens;
    int layer, layers;
} t3v_geom;

typedef struct t3v_builder t3v_builder;

struct t3v_pattern {
    const char *name, *summary;
    const t3v_option *options; /* may be NULL */
    size_t options_size;       /* bytes of the options struct, 0 without options; at most 256 */
    t3v_status (*build)(const void *options, const t3v_geom *geom, t3v_builder *b);
    /* Does query token q meet key token k in the term number `term` of build()? */
    bool (*allows)(const void *options, const t3v_geom *geom, int term, int64_t q, int64_t k);
};

extern const t3v_pattern *const t3v_patterns[]; /* ends with NULL */

/* NULL when there is none of that name (`length` bytes). */
const t3v_pattern *t3v_pattern_find(const char *name, size_t length);

/* ---- describing a term: term, then for each block of queries in slot order: block, keys... ---- */

/* Begins a term and returns its order [tokens], filled with the identity, to be permuted in place. NULL
 * when out of memory (finish reports it). Valid until the next call of t3v_build_term. */
int32_t *t3v_build_term(t3v_builder *b, float weight);
/* The next `queries` slots form a block; keys follow. */
void t3v_build_block(t3v_builder *b, int64_t queries);
/* The current block meets key slots [first, last). Ascending; touching ranges are joined; empty ones dropped. */
void t3v_build_keys(t3v_builder *b, int64_t first, int64_t last);

/* ---- used by the core and by tests ---- */

t3v_status t3v_builder_make(t3v_builder **out, int64_t tokens);
/* Checks the terms, brings partitions into canonical form, merges equal terms (their weights add) and
 * hands them over. E_ARG names the term and block of a broken description. */
t3v_status t3v_builder_finish(t3v_builder *b, t3v_site *out);
void t3v_builder_free(t3v_builder *b);

/* Reads "key=value,key=value" (`length` bytes) into `dst`, which first gets the initial values. On
 * failure E_ARG with the column `column` + offset; `name` is the pattern's, for the message. */
t3v_status t3v_options_parse(const t3v_option *options, void *dst, const char *name, const char *text,
                             size_t length, int column);

#endif
