/* SPDX-License-Identifier: Apache-2.0 */
/* Making a plan: from rules to the sites of every layer; sizes and costs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/device_run.h"
#include "attn/grammar.h"
#include "attn/pattern.h"
#include "attn/plan.h"
#include "attn/select.h"
#include "base/checked.h"

static const t3v_term full_term = {.weight = 1};
static const t3v_site full_site = {.terms = 1, .term = &full_term};

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
    for (int64_t r = term->range_first[b]; r < term->range_first[b + 1]; r++)
        n += term->ranges[r].last - term->ranges[r].first;
    return n;
}

t3v_range t3v_term_slots(const t3v_term *term, t3v_range r)
{
    if (term->pool <= 1) return r;
    int64_t last = (int64_t)r.last * term->pool;
    return (t3v_range){(int32_t)(r.first * term->pool), (int32_t)(last < term->slots ? last : term->slots)};
}

static bool holds(const t3v_when *w, int head, int64_t step)
{
    if (head < w->head_first || head > w->head_last) return false;
    return w->step_modulus ? step % w->step_modulus == w->step_first
                           : step >= w->step_first && step <= w->step_last;
}

int t3v_site_rule(const t3v_site *site, int head, const t3v_moment *moment)
{
    int i = 0;
    while (i + 1 < site->rules && !holds(&site->rule[i], head, moment ? moment->step : 0)) i++;
    return i;
}

bool t3v_term_active(const t3v_site *site, int term, int head, const t3v_moment *moment)
{
    return site->rules < 2 || site->term[term].rule == t3v_site_rule(site, head, moment);
}

bool t3v_site_selects(const t3v_site *site)
{
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].select) return true;
    return false;
}

/* The fewest keys that `count` blocks hold: the smallest blocks, size by size. */
static int64_t fewest_keys(const t3v_term *t, int64_t count)
{
    int64_t keys = 0, size = 0;
    while (count > 0) {
        int64_t next = INT64_MAX, have = 0;
        for (int64_t b = 0; b < t->blocks; b++) {
            int64_t n = t->block_first[b + 1] - t->block_first[b];
            if (n <= size || n > next) continue;
            have = n < next ? 1 : have + 1;
            next = n;
        }
        if (have > count) have = count;
        keys += have * next;
        count -= have;
        size = next;
    }
    return keys;
}

static int64_t head_pairs(const t3v_term *t, int head, int64_t n_q, int64_t n_k, const t3v_moment *moment)
{
    if (!t->slots) return n_q * n_k;
    const int64_t *lists = t3v_term_lists(t, head);
    int64_t pairs = 0, least = t->select ? fewest_keys(t, t3v_select_keep(t->select, t->blocks, moment)) : 0;
    for (int64_t b = 0; b < t->blocks; b++) {
        int64_t keys = 0;
        for (int64_t r = lists[b]; r < lists[b + 1]; r++) keys += t->ranges[r].last - t->ranges[r].first;
        pairs += (t->block_first[b + 1] - (int64_t)t->block_first[b]) * (keys > least ? keys : least);
    }
    return pairs;
}

int64_t t3v_term_pairs(const t3v_term *term, int64_t n_q, int64_t n_k)
{
    if (!term->heads) return head_pairs(term, 0, n_q, n_k, NULL);
    int64_t whole = 0, rest = 0;
    for (int h = 0; h < term->heads; h++) {
        int64_t pairs = head_pairs(term, h, n_q, n_k, NULL);
        whole += pairs / term->heads, rest += pairs % term->heads;
    }
    return whole + (rest + term->heads - 1) / term->heads;
}

int64_t t3v_term_macs(const t3v_term *term, int64_t n_q, int64_t n_k, int dim)
{
    if (term->kind == T3V_TERM_SOFTMAX) return 2 * dim * t3v_term_pairs(term, n_q, n_k);
    int64_t features = (int64_t)term->phi.degree * dim, map = 0, rows = n_q;
    for (int l = 0; l < term->phi.layers; l++) map += (l ? features : dim) * features;
    for (int64_t b = 0; b < term->blocks; b++) rows += t3v_term_keys(term, b, n_k);
    return rows * (map + features * dim);
}

/* Adds `times` heads like `head` of a term. */
static bool add_cost(const t3v_term *t, int head, int64_t times, int64_t n_q, int64_t n_k, int dim,
                     const t3v_moment *moment, int64_t *pairs, int64_t *macs)
{
    int64_t own = head_pairs(t, head, n_q, n_k, moment), work = 0;
    if (t->kind == T3V_TERM_LINEAR) work = t3v_term_macs(t, n_q, n_k, dim);
    else if (!t3v_mul(2 * dim, own, &work)) return false;
    if (!moment && t->share > 0)
        own = (int64_t)ceil((double)t->share * (double)own),
        work = (int64_t)ceil((double)t->share * (double)work);
    return t3v_mul(own, times, &own) && t3v_mul(work, times, &work) && t3v_add(*pairs, own, pairs) &&
           t3v_add(*macs, work, macs);
}

bool t3v_site_cost(const t3v_site *site, int64_t n_q, int64_t n_k, int heads, int dim,
                   const t3v_moment *moment, int64_t *pairs, int64_t *macs)
{
    *pairs = *macs = 0;
    bool fits = true;
    for (int i = 0; i < site->terms && fits; i++) {
        const t3v_term *t = &site->term[i];
        int64_t active = 0;
        for (int h = 0; h < heads && fits; h++) {
            if (!t3v_term_active(site, i, h, moment)) continue;
            active++;
            if (t->heads && h < t->heads) fits = add_cost(t, h, 1, n_q, n_k, dim, moment, pairs, macs);
        }
        if (!t->heads && active) fits = fits && add_cost(t, 0, active, n_q, n_k, dim, moment, pairs, macs);
    }
    return fits;
}

int t3v_site_params(const t3v_site *site, int64_t heads, int64_t dim, t3v_site_param out[T3V_SITE_PARAMS_MAX])
{
    int n = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        if (t->kind != T3V_TERM_LINEAR) continue;
        int64_t features = t->phi.degree * dim;
        for (int map = 0; map < 2; map++)
            for (int l = 0; l < t->phi.layers; l++) {
                int64_t in = l ? features : dim;
                t3v_site_param w = {.ndim = 3,
                                    .shape = {heads, features, in},
                                    .spread = 1 / sqrt((double)in)};
                t3v_site_param b = {.ndim = 2, .shape = {heads, features}};
                snprintf(w.name, sizeof w.name, "phi_%c.%d.weight", "qk"[map], l);
                snprintf(b.name, sizeof b.name, "phi_%c.%d.bias", "qk"[map], l);
                out[n++] = w, out[n++] = b;
            }
    }
    return n;
}

bool t3v_site_param_named(const char *name)
{
    return strstr(name, ".self_attn.phi_q.") || strstr(name, ".self_attn.phi_k.");
}

size_t t3v_site_state(const t3v_site *site, int64_t n_q, int64_t heads, int64_t dim, int number)
{
    if (!site->epilogue) return 0;
    size_t record = site->epilogue->record(site->options, (int)dim, number);
    return record ? T3V_STATE_COUNTERS * sizeof(int64_t) + (size_t)n_q * (size_t)heads * record : 0;
}

void t3v_site_free(t3v_site *site)
{
    t3v_device_run_forget(site);
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        free((void *)t->order), free((void *)t->block_first), free((void *)t->range_first),
            free((void *)t->ranges);
        free((void *)t->log_weight), free((void *)t->select);
    }
    free((void *)site->term);
    free((void *)site->options);
    free((void *)site->rule);
    *site = (t3v_site){0};
}

void t3v_plan_free(t3v_plan *plan)
{
    if (!plan) return;
    for (int i = 0; i < plan->layers; i++) {
        t3v_site *s = &plan->layer[i].site[T3V_SITE_SELF];
        bool shared = false;
        for (int j = i + 1; j < plan->layers && !shared; j++)
            shared = plan->layer[j].site[T3V_SITE_SELF].term == s->term;
        if (!shared) t3v_site_free(s);
    }
    free(plan->layer);
    free(plan);
}

static bool same_select(const t3v_select *a, const t3v_select *b)
{
    if (!a || !b) return a == b;
    return a->summary == b->summary && a->sample == b->sample && a->score == b->score &&
           a->drop[0] == b->drop[0] && a->drop[1] == b->drop[1] && a->drop_until == b->drop_until &&
           a->ramp == b->ramp && a->dense_drop == b->dense_drop && a->dense_first == b->dense_first &&
           a->round_up == b->round_up && a->p == b->p && a->min == b->min && a->max == b->max &&
           a->choose == b->choose && a->user == b->user;
}

bool t3v_term_equal(const t3v_term *a, const t3v_term *b)
{
    if (a->slots != b->slots || a->weight != b->weight || a->kind != b->kind || a->rule != b->rule ||
        a->heads != b->heads)
        return false;
    if (a->kind == T3V_TERM_LINEAR && memcmp(&a->phi, &b->phi, sizeof a->phi) != 0) return false;
    if (!a->slots) return true;
    if ((a->pool > 1 ? a->pool : 1) != (b->pool > 1 ? b->pool : 1) || !a->log_weight != !b->log_weight)
        return false;
    int64_t keys = a->pool > 1 ? (a->slots - 1) / a->pool + 1 : a->slots,
            lists = (a->heads ? a->heads : 1) * a->blocks;
    if (a->log_weight && memcmp(a->log_weight, b->log_weight, (size_t)keys * sizeof *a->log_weight) != 0)
        return false;
    if (a->blocks != b->blocks || a->range_first[lists] != b->range_first[lists] || !a->order != !b->order)
        return false;
    return same_select(a->select, b->select) &&
           memcmp(a->block_first, b->block_first, (size_t)(a->blocks + 1) * sizeof *a->block_first) == 0 &&
           memcmp(a->range_first, b->range_first, (size_t)(lists + 1) * sizeof *a->range_first) == 0 &&
           memcmp(a->ranges, b->ranges, (size_t)a->range_first[lists] * sizeof *a->ranges) == 0 &&
           (!a->order || memcmp(a->order, b->order, (size_t)a->slots * sizeof *a->order) == 0);
}

static bool same_site(const t3v_site *a, const t3v_site *b)
{
    bool same = a->terms == b->terms && a->rules == b->rules && a->combine == b->combine &&
                a->row_max == b->row_max && a->epilogue == b->epilogue &&
                a->options_size == b->options_size &&
                (!a->options || memcmp(a->options, b->options, a->options_size) == 0);
    for (int i = 0; i < a->rules && same; i++) {
        const t3v_when *x = &a->rule[i], *y = &b->rule[i];
        same = x->head_first == y->head_first && x->head_last == y->head_last &&
               x->step_first == y->step_first && x->step_last == y->step_last &&
               x->step_modulus == y->step_modulus && x->pattern == y->pattern;
    }
    for (int i = 0; i < a->terms && same; i++) same = t3v_term_equal(&a->term[i], &b->term[i]);
    return same;
}

bool t3v_plan_needs_tuning(const t3v_plan *plan)
{
    for (int i = 0; i < plan->layers; i++) {
        const t3v_site *s = &plan->layer[i].site[T3V_SITE_SELF];
        if (plan->layer[i].pattern->needs_tuning) return true;
        for (int r = 0; r < s->rules; r++)
            if (s->rule[r].pattern->needs_tuning) return true;
    }
    return false;
}

t3v_status t3v_plan_fit(const char *text, int layers, int64_t dim, t3v_grid *grid)
{
    t3v_rules rules;
    T3V_TRY(t3v_rules_parse(&rules, text, layers, 0));
    for (int i = 0; i < rules.count; i++)
        if (!rules.rule[i].cross && rules.rule[i].pattern->fit)
            rules.rule[i].pattern->fit(rules.rule[i].options, dim, grid);
    t3v_rules_free(&rules);
    return T3V_OK;
}

/* What all tables of a plan may take. The published plan of T3 at 2176x3840x81 takes 30 MB; a hostile one, or a grid with
 * a digit too many, would take all memory there is. */
#define TABLES_MAX ((int64_t)4 << 30)

/* Bytes of a site's tables. */
static int64_t table_bytes(const t3v_site *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->terms; i++) {
        const t3v_term *t = &s->term[i];
        if (!t->slots) continue;
        int64_t lists = (t->heads ? t->heads : 1) * t->blocks;
        n += (t->order ? t->slots * (int64_t)sizeof *t->order : 0) +
             (t->blocks + 1) * (int64_t)sizeof *t->block_first +
             (lists + 1) * (int64_t)sizeof *t->range_first +
             t->range_first[lists] * (int64_t)sizeof *t->ranges +
             (t->log_weight ? t->slots * (int64_t)sizeof *t->log_weight : 0);
    }
    return n;
}

/* Builds the terms of one rule and adds them to the site. rule NULL: full. room: bytes that tables may still take. */
static t3v_status add_rule(t3v_layer_plan *l, t3v_site *s, const t3v_rule *rule, const t3v_geom *geom,
                           int64_t *room)
{
    const t3v_pattern *pattern = rule ? rule->pattern : &t3v_pattern_full;
    t3v_builder *b;
    t3v_site own = {0};
    T3V_TRY(t3v_builder_make(&b, geom->tokens, *room));
    t3v_status st = pattern->build(rule ? rule->options : NULL, geom, b);
    if (!st) st = t3v_builder_finish(b, &own);
    if (!st) *room -= table_bytes(&own);
    if (!l->pattern) {
        l->pattern = pattern;
        t3v_builder_counts(b, l->blocks, &l->source);
    }
    t3v_builder_free(b);
    bool alone = !s->terms && (!rule || t3v_rule_always(rule));
    if (!st && !alone && (own.combine != T3V_COMBINE_MEAN || (s->terms && s->combine != T3V_COMBINE_MEAN)))
        st = t3v_fail(T3V_E_ARG, "it does not average its terms; such a method cannot share a layer with "
                                 "others, by heads or steps");
    if (st) t3v_site_free(&own);
    if (st && rule && rule->line)
        return t3v_fail_in(st, "pattern %s, layer %d, line %d", pattern->name, geom->layer, rule->line);
    if (st) return t3v_fail_in(st, "pattern %s, layer %d", pattern->name, geom->layer);
    if (alone) {
        *s = own;
        return T3V_OK;
    }
    t3v_term *terms = realloc((void *)s->term, (size_t)(s->terms + own.terms) * sizeof *terms);
    t3v_when *rules = terms ? realloc((void *)s->rule, (size_t)(s->rules + 1) * sizeof *rules) : NULL;
    if (terms) s->term = terms;
    if (!rules) {
        t3v_site_free(&own);
        return t3v_fail(T3V_E_NOMEM, "no memory for an attention plan");
    }
    s->rule = rules;
    for (int i = 0; i < own.terms; i++) {
        terms[s->terms + i] = own.term[i];
        terms[s->terms + i].rule = s->rules;
    }
    rules[s->rules] = rule ? rule->when : (t3v_when){0, INT32_MAX, 0, INT32_MAX, 0, pattern};
    rules[s->rules].pattern = pattern;
    s->terms += own.terms;
    s->rules++;
    free((void *)own.term);
    return T3V_OK;
}

/* Do the same rules make the self sites of two layers, by patterns that do not look at the layer? */
static bool same_rules(const t3v_rules *rules, int a, int b)
{
    const t3v_rule *r = NULL, *other = NULL;
    do {
        r = t3v_rules_next(rules, r, false, a);
        other = t3v_rules_next(rules, other, false, b);
        if (r != other || (r && !r->pattern->same_layers)) return false;
    } while (r && !t3v_rule_always(r));
    return true;
}

/* The self site of one layer: its rules up to the first that holds always. Shared with an earlier layer that has an
 * equal one. */
static t3v_status make_layer(t3v_plan *plan, const t3v_rules *rules, const t3v_geom *geom, int64_t *room)
{
    t3v_layer_plan *l = &plan->layer[geom->layer];
    t3v_site *s = &l->site[T3V_SITE_SELF];
    l->site[T3V_SITE_CROSS_TEXT] = l->site[T3V_SITE_CROSS_IMAGE] = full_site;
    for (int i = 0; i < geom->layer; i++)
        if (same_rules(rules, i, geom->layer)) {
            *l = plan->layer[i];
            return T3V_OK;
        }
    bool always = false;
    for (const t3v_rule *r = NULL; (r = t3v_rules_next(rules, r, false, geom->layer)) && !always;) {
        T3V_TRY(add_rule(l, s, r, geom, room));
        always = t3v_rule_always(r);
    }
    if (!always) T3V_TRY(add_rule(l, s, NULL, geom, room));
    for (int i = 0; i < geom->layer; i++) {
        const t3v_site *other = &plan->layer[i].site[T3V_SITE_SELF];
        if (!same_site(s, other)) continue;
        *room += table_bytes(s);
        t3v_site_free(s);
        *s = *other;
        break;
    }
    return T3V_OK;
}

t3v_status t3v_plan_make(t3v_plan **out, const char *text, t3v_grid grid, int layers)
{
    return t3v_plan_make_for(out, text, grid, layers, 0, 0);
}

t3v_status t3v_plan_make_for(t3v_plan **out, const char *text, t3v_grid grid, int layers, int64_t dim,
                             int64_t heads)
{
    *out = NULL;
    int64_t tokens;
    if (grid.t < 1 || grid.h < 1 || grid.w < 1 || layers < 1)
        return t3v_fail(
            T3V_E_ARG,
            "a plan for a grid of %lld x %lld x %lld tokens and %d layers: each must be at least 1",
            (long long)grid.t, (long long)grid.h, (long long)grid.w, layers);
    if (!t3v_mul3(grid.t, grid.h, grid.w, &tokens) || tokens > INT32_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "a grid of %lld x %lld x %lld tokens has more than 2^31-1 tokens",
                        (long long)grid.t, (long long)grid.h, (long long)grid.w);

    t3v_rules rules;
    T3V_TRY(t3v_rules_parse(&rules, text, layers, heads));
    t3v_status st = T3V_OK;
    t3v_plan *plan = calloc(1, sizeof *plan);
    if (!plan || !(plan->layer = calloc((size_t)layers, sizeof *plan->layer))) {
        free(plan);
        t3v_rules_free(&rules);
        return t3v_fail(T3V_E_NOMEM, "no memory for a plan of %d layers", layers);
    }
    *plan = (t3v_plan){grid, tokens, layers, plan->layer};
    int64_t room = TABLES_MAX;
    for (int i = 0; i < layers; i++) {
        t3v_geom geom = {grid, tokens, i, layers, dim, heads};
        T3V_TRY_GOTO(st, done, make_layer(plan, &rules, &geom, &room));
    }
    *out = plan;
    plan = NULL;
done:
    t3v_plan_free(plan);
    t3v_rules_free(&rules);
    return st;
}
