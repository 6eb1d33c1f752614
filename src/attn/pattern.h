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

/* A text option's value, in the plan text: it lives as long as the plan is being made. */
typedef struct t3v_option_text {
    const char *at;
    int32_t length, column; /* length 0: not given; the column of its first character, for messages */
} t3v_option_text;

typedef enum t3v_option_kind {
    T3V_OPTION_NUMBER, /* an int64_t in [min, max] */
    T3V_OPTION_WORD,   /* an int64_t, the index of one of `words` */
    T3V_OPTION_REAL,   /* a double in [real_min, real_max] */
    /* a t3v_option_text, not empty when given, which build() reads; `initial` is not used */
    T3V_OPTION_TEXT,
} t3v_option_kind;

/* One option of a pattern; a table of them ends with a NULL name. */
typedef struct t3v_option {
    const char *name, *help;
    size_t offset; /* in the options struct, of what `kind` says */
    int64_t initial, min, max;
    t3v_option_kind kind;
    const char *const *words;        /* end with NULL */
    double real, real_min, real_max; /* initial (below the least: none, build() decides), least, largest */
} t3v_option;

/* What is known when a plan is made. */
typedef struct t3v_geom {
    t3v_grid grid;
    int64_t tokens;
    int layer, layers;
    int64_t dim, heads; /* the model's width and heads; 0: unknown */
} t3v_geom;

typedef struct t3v_builder t3v_builder;

struct t3v_pattern {
    const char *name, *summary;
    const t3v_option *options; /* may be NULL */
    size_t options_size;       /* bytes of the options struct, 0 without options; at most 256 */
    t3v_status (*build)(const void *options, const t3v_geom *geom, t3v_builder *b);
    /* Does query token q meet key token k in the term number `term` of build()? Where that selects: always? */
    bool (*allows)(const void *options, const t3v_geom *geom, int term, int64_t q, int64_t k);
    /* Weights do well only with the plan they were tuned for, on its grid. */
    bool needs_tuning;
    /* build() does not look at the layer, so that it is called once for all layers of a rule. */
    bool same_layers;
    /* Rounds the grid up to one a token away that the pattern prefers; may be NULL. */
    void (*fit)(const void *options, int64_t dim, t3v_grid *grid);
    /* Option texts that do something different from each other, NULL at the end; may be NULL. Shown to people, and what
     * the tests of all patterns try beside the initial values: each must suit some grid of at most 500 tokens. */
    const char *const *examples;
};

extern const t3v_pattern *const t3v_patterns[]; /* ends with NULL */

/* NULL when there is none of that name (`length` bytes). */
const t3v_pattern *t3v_pattern_find(const char *name, size_t length);

/* ---- describing a term: term, then for each block of queries in slot order: block, keys... ---- */

/* Begins a term, a softmax over tokens, and returns its order [tokens], filled with the identity, to be permuted in
 * place. NULL when out of memory (finish reports it). Valid until the next call of t3v_build_term. */
int32_t *t3v_build_term(t3v_builder *b, float weight);
/* The next `queries` slots form a block; keys follow. */
void t3v_build_block(t3v_builder *b, int64_t queries);
/* The current block meets key slots [first, last). Ascending; touching ranges are joined; empty ones dropped. */
void t3v_build_keys(t3v_builder *b, int64_t first, int64_t last);

/* The present term is linear. E_ARG (at finish) unless the site is joint and this its only linear term. */
void t3v_build_linear(t3v_builder *b, t3v_phi phi);
/* The present term's keys are means of `slots` slots in a row; before its first keys. */
void t3v_build_pool(t3v_builder *b, int slots);
/* Log-weights of the present term's keys, by token or pooled key, zeros to be filled in; NULL as t3v_build_term. After
 * t3v_build_pool. */
float *t3v_build_log_weights(t3v_builder *b);

/* In which part of a generation's steps the present term is computed, in (0, 1]; an estimate for costs. */
void t3v_build_share(t3v_builder *b, float share);

/* So far: one term, a softmax over tokens that nothing selects. For patterns that build on another. */
bool t3v_build_is_one_softmax(const t3v_builder *b);

/* One softmax over all terms; weights are not used. */
void t3v_build_joint(t3v_builder *b, bool row_max);
/* The terms, all softmaxes, are combined by `epilogue`, which gets a copy of `size` bytes of options; weights are not
 * used. */
void t3v_build_epilogue(t3v_builder *b, const t3v_epilogue *epilogue, const void *options, size_t size);
/* The lists of another head begin: as many blocks, of the same sizes, follow once more. All heads share the lists of a term
 * in which this is not called, else there must be lists for all of the model's heads. */
void t3v_build_next_head(t3v_builder *b);
/* The present term chooses its keys; the ranges are what it meets in any case: whole blocks, for some blocks none. */
void t3v_build_select(t3v_builder *b, const t3v_select *select);

/* What the present term is called in pictures; static storage. */
void t3v_build_name(t3v_builder *b, const char *name);
/* Into how many blocks the layer cuts each axis, and where these counts come from (a word for people; static
 * storage). Not said: 1, 1, 1. */
void t3v_build_counts(t3v_builder *b, int64_t t, int64_t h, int64_t w, const char *source);
/* E_ARG that points at `offset` bytes into a text option. */
t3v_status t3v_option_wrong(const t3v_option_text *text, int64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Reads a text option of rows "TxHxW/TxHxW/..." (axes 3) or "T/T/..." (axes 1): `n` gets row number `row` modulo the
 * number of rows. All rows are read, so that an error in any is told: each number must lie in [min, most[axis]]. `what` is
 * counted, a plural for messages. E_ARG with the column. */
t3v_status t3v_option_counts(const t3v_option_text *text, const char *what, int axes, int64_t min,
                             const int64_t *most, int64_t row, int64_t *n);

/* ---- used by the core and by tests ---- */

/* The tables of all terms may take `room` bytes in all: one more is E_TOO_BIG at finish. */
t3v_status t3v_builder_make(t3v_builder **out, int64_t tokens, int64_t room);
/* Checks the terms, brings partitions into canonical form, merges equal terms (their weights add) and
 * hands them over. E_ARG names the term and block of a broken description. */
t3v_status t3v_builder_finish(t3v_builder *b, t3v_site *out);
/* After finish: what t3v_build_counts said; *source may be NULL. */
void t3v_builder_counts(const t3v_builder *b, int64_t counts[3], const char **source);
void t3v_builder_free(t3v_builder *b);

/* Reads "key=value,key=value" (`length` bytes) into `dst`, which first gets the initial values. On
 * failure E_ARG with the column `column` + offset; `name` is the pattern's, for the message. */
t3v_status t3v_options_parse(const t3v_option *options, void *dst, const char *name, const char *text,
                             size_t length, int column);

#endif
