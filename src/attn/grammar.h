/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of a plan text, parsed. */
#ifndef T3V_ATTN_GRAMMAR_H
#define T3V_ATTN_GRAMMAR_H

#include "attn/pattern.h"

enum { T3V_OPTIONS_MAX = 256 };

typedef struct t3v_rule {
    bool cross;      /* about the cross sites, else the self site */
    int first, last; /* layers [first, last] ... */
    int modulus;     /* ... or, when > 0, layers with index % modulus == first */
    t3v_when when;   /* heads and steps */
    const t3v_pattern *pattern;
    int line, column; /* line 0: not from a file */
    union {
        int64_t align;
        unsigned char bytes[T3V_OPTIONS_MAX];
    } store;
    const void *options; /* into store; NULL without options */
} t3v_rule;

typedef struct t3v_rules {
    t3v_rule *rule;
    int count;
    char *file;    /* the text of a plan file, which options point into */
    int64_t tries; /* comparisons so far in search of rules that never match */
} t3v_rules;

/* Parses as t3v_plan_make says, for a model of `heads` heads (0: unknown); '@' files are read here. On failure *out is
 * empty. */
t3v_status t3v_rules_parse(t3v_rules *out, const char *text, int layers, int64_t heads);
/* The rule after `last` (NULL: the first) about that site of `layer`, for whatever heads and steps; NULL: none. */
const t3v_rule *t3v_rules_next(const t3v_rules *rules, const t3v_rule *last, bool cross, int layer);
bool t3v_rule_always(const t3v_rule *rule); /* for all heads and steps? */
void t3v_rules_free(t3v_rules *rules);

extern const t3v_pattern t3v_pattern_full; /* what unmatched layers get */

#endif
