/* SPDX-License-Identifier: Apache-2.0 */
/* Making a plan: from rules to the sites of every layer; sizes and costs. */
#include <stdlib.h>
#include <string.h>

#include "attn/grammar.h"
#include "attn/pattern.h"
#include "attn/plan.h"
#include "base/checked.h"

static const t3v_term full_term = { .weight = 1 };
static const t3v_site full_site = { 1, &full_term };

const t3v_site *t3v_site_full(void) { return &full_site; }

const t3v_pattern *t3v_pattern_find(const char *name, size_t length)
{
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        if (strlen((*p)->name) == length && memcmp((*p)->name, name, length) == 0) return *p;
    return NULL;
}

int64_t t3v_term_keys(const t3v_term *term, int64_t b, int64_t n_k)
{
    if (!term->slots) return n_k;
    int64_t n = 0;
    for (int64_t r = term->range_first[b]; r < term->range_first[b + 1]; r++) n += term->ranges[r].last - term->ranges[r].first;
    return n;
}

int64_t t3v_term_pairs(const t3v_term *term, int64_t n_q, int64_t n_k)
{
    if (!term->slots) return n_q * n_k;
    int64_t pairs = 0;
    for (int64_t b = 0; b < term->blocks; b++)
        pairs += (term->block_first[b + 1] - (int64_t)term->block_first[b]) * t3v_term_keys(term, b, n_k);
    return pairs;
}

int64_t t3v_term_macs(const t3v_term *term, int64_t n_q, int64_t n_k, int dim)
{
    return 2 * dim * t3v_term_pairs(term, n_q, n_k);
}

void t3v_site_free(t3v_site *site)
{
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        free((void *)t->order), free((void *)t->block_first), free((void *)t->range_first), free((void *)t->ranges);
    }
    free((void *)site->term);
    *site = (t3v_site){ 0 };
}

void t3v_plan_free(t3v_plan *plan)
{
    if (!plan) return;
    for (int i = 0; i < plan->layers; i++) t3v_site_free(&plan->layer[i].site[T3V_SITE_SELF]);
    free(plan->layer);
    free(plan);
}

static t3v_status make_site(const t3v_pattern *pattern, const void *options, const t3v_geom *geom, t3v_site *out)
{
    t3v_builder *b;
    T3V_TRY(t3v_builder_make(&b, geom->tokens));
    t3v_status st = pattern->build(options, geom, b);
    if (!st) st = t3v_builder_finish(b, out);
    t3v_builder_free(b);
    return st ? t3v_fail_in(st, "pattern %s, layer %d", pattern->name, geom->layer) : T3V_OK;
}

t3v_status t3v_plan_make(t3v_plan **out, const char *text, t3v_grid grid, int layers)
{
    *out = NULL;
    int64_t tokens;
    if (grid.t < 1 || grid.h < 1 || grid.w < 1 || layers < 1)
        return t3v_fail(T3V_E_ARG, "a plan for a grid of %lld x %lld x %lld tokens and %d layers: each must be at least 1",
                        (long long)grid.t, (long long)grid.h, (long long)grid.w, layers);
    if (!t3v_mul3(grid.t, grid.h, grid.w, &tokens) || tokens > INT32_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "a grid of %lld x %lld x %lld tokens has more than 2^31-1 tokens", (long long)grid.t,
                        (long long)grid.h, (long long)grid.w);

    t3v_rules rules;
    T3V_TRY(t3v_rules_parse(&rules, text, layers));
    t3v_status st = T3V_OK;
    t3v_plan *plan = calloc(1, sizeof *plan);
    if (!plan || !(plan->layer = calloc((size_t)layers, sizeof *plan->layer))) {
        free(plan);
        t3v_rules_free(&rules);
        return t3v_fail(T3V_E_NOMEM, "no memory for a plan of %d layers", layers);
    }
    *plan = (t3v_plan){ grid, tokens, layers, plan->layer };
    for (int i = 0; i < layers; i++) {
        t3v_layer_plan *l = &plan->layer[i];
        t3v_geom geom = { grid, tokens, i, layers };
        const t3v_rule *rule = t3v_rules_match(&rules, false, i);
        l->pattern = rule ? rule->pattern : &t3v_pattern_full;
        l->site[T3V_SITE_CROSS_TEXT] = l->site[T3V_SITE_CROSS_IMAGE] = full_site;
        T3V_TRY_GOTO(st, done, make_site(l->pattern, rule ? rule->options : NULL, &geom, &l->site[T3V_SITE_SELF]));
    }
    *out = plan;
    plan = NULL;
done:
    t3v_plan_free(plan);
    t3v_rules_free(&rules);
    return st;
}
