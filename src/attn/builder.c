/* SPDX-License-Identifier: Apache-2.0 */
/* The builder: collects the terms of a site, checks them, and finds those that are equal. */
#include <stdlib.h>
#include <string.h>

#include "attn/pattern.h"

typedef struct draft {
    int32_t *order;
    int32_t *block_first; /* [blocks + 1] once finished */
    int64_t *range_first;
    t3v_range *ranges;
    int64_t blocks, block_room, list_room, n_ranges, range_room;
    float weight;
    const char *name;
    t3v_term_kind kind;
    int pool;
    float *log_weight;
    t3v_phi phi;
    float share;
    int heads;    /* whose lists are complete; 0: there is one list for all */
    int64_t next; /* block of the present head */
    t3v_select *select;
} draft;

struct t3v_builder {
    int64_t tokens, slots_used;
    int64_t room_left; /* bytes that tables may still take */
    draft *term;
    int terms, room;
    int64_t counts[3];
    const char *source;
    t3v_combine combine;
    bool row_max;
    const t3v_epilogue *epilogue;
    void *options; /* of the epilogue */
    size_t options_size;
    t3v_status status; /* first failure */
};

static void draft_free(draft *d)
{
    free(d->order), free(d->block_first), free(d->range_first), free(d->ranges), free(d->log_weight),
        free(d->select);
    memset(d, 0, sizeof *d);
}

t3v_status t3v_builder_make(t3v_builder **out, int64_t tokens, int64_t room)
{
    *out = NULL;
    if (tokens < 1 || tokens > INT32_MAX)
        return t3v_fail(T3V_E_TOO_BIG, "attention over %lld tokens: 1 to 2^31-1 are possible",
                        (long long)tokens);
    t3v_builder *b = calloc(1, sizeof *b);
    if (!b) return t3v_fail(T3V_E_NOMEM, "no memory for an attention plan");
    b->tokens = tokens;
    b->room_left = room;
    b->counts[0] = b->counts[1] = b->counts[2] = 1;
    *out = b;
    return T3V_OK;
}

void t3v_build_name(t3v_builder *b, const char *name)
{
    if (!b->status && b->terms) b->term[b->terms - 1].name = name;
}

void t3v_build_counts(t3v_builder *b, int64_t t, int64_t h, int64_t w, const char *source)
{
    b->counts[0] = t, b->counts[1] = h, b->counts[2] = w;
    b->source = source;
}

void t3v_builder_counts(const t3v_builder *b, int64_t counts[3], const char **source)
{
    memcpy(counts, b->counts, sizeof b->counts);
    *source = b->source;
}

void t3v_builder_free(t3v_builder *b)
{
    if (!b) return;
    for (int i = 0; i < b->terms; i++) draft_free(&b->term[i]);
    free(b->term);
    free(b->options);
    free(b);
}

static void fail(t3v_builder *b, t3v_status st, const char *what)
{
    if (b->status) return;
    b->status = t3v_fail(st, "attention term %d, block %lld: %s", b->terms - 1,
                         b->terms ? (long long)b->term[b->terms - 1].blocks - 1 : -1LL, what);
}

/* Takes `bytes` from what the plan's tables may have. */
static bool afford(t3v_builder *b, int64_t bytes)
{
    if (bytes <= b->room_left) {
        b->room_left -= bytes;
        return true;
    }
    fail(b, T3V_E_TOO_BIG,
         "the tables of the plan take more than 4 GiB; take a smaller grid, fewer blocks or fewer layers "
         "that differ");
    return false;
}

/* Room for one more of `size` bytes. */
static bool grow(t3v_builder *b, void *array, int64_t count, int64_t *room, size_t size)
{
    if (count < *room) return true;
    int64_t n = *room ? *room * 2 : 16;
    if (!afford(b, (n - *room) * (int64_t)size)) return false;
    void *p = realloc(*(void **)array, (size_t)n * size);
    if (!p) return false;
    *(void **)array = p;
    *room = n;
    return true;
}

int32_t *t3v_build_term(t3v_builder *b, float weight)
{
    if (b->status) return NULL;
    if (b->terms && b->slots_used != b->tokens) {
        fail(b, T3V_E_ARG, "the blocks do not cover all query slots");
        return NULL;
    }
    int64_t room = b->room;
    if (!grow(b, &b->term, b->terms, &room, sizeof *b->term)) {
        fail(b, T3V_E_NOMEM, "no memory");
        return NULL;
    }
    b->room = (int)room;
    draft *d = &b->term[b->terms];
    memset(d, 0, sizeof *d);
    bool fits = afford(b, b->tokens * (int64_t)sizeof *d->order);
    d->order = fits ? malloc((size_t)b->tokens * sizeof *d->order) : NULL;
    b->terms++;
    b->slots_used = 0;
    if (!d->order) {
        fail(b, T3V_E_NOMEM, "no memory for the order");
        return NULL;
    }
    for (int64_t i = 0; i < b->tokens; i++) d->order[i] = (int32_t)i;
    d->weight = weight;
    return d->order;
}

/* Lists so far, of the present head's too. */
static int64_t lists_of(const draft *d) { return d->heads * d->blocks + d->next; }

void t3v_build_block(t3v_builder *b, int64_t queries)
{
    if (b->status) return;
    if (!b->terms) {
        fail(b, T3V_E_ARG, "a block before the first term");
        return;
    }
    draft *d = &b->term[b->terms - 1];
    if (queries < 1 || queries > b->tokens - b->slots_used) {
        fail(b, T3V_E_ARG, "the next block has no query slots left to take, or takes none");
        return;
    }
    if (d->heads && queries != d->block_first[d->next + 1] - d->block_first[d->next]) {
        fail(b, T3V_E_ARG, "the blocks of all heads must be the same");
        return;
    }
    int64_t lists = lists_of(d);
    if ((!d->heads && !grow(b, &d->block_first, d->blocks + 1, &d->block_room, sizeof *d->block_first)) ||
        !grow(b, &d->range_first, lists + 1, &d->list_room, sizeof *d->range_first)) {
        fail(b, T3V_E_NOMEM, "no memory");
        return;
    }
    d->range_first[lists] = d->range_first[lists + 1] = d->n_ranges;
    if (!d->heads) d->block_first[d->blocks++] = (int32_t)b->slots_used;
    d->next++;
    b->slots_used += queries;
    if (!d->heads) d->block_first[d->blocks] = (int32_t)b->slots_used;
}

void t3v_build_next_head(t3v_builder *b)
{
    if (b->status) return;
    draft *d = b->terms ? &b->term[b->terms - 1] : NULL;
    if (!d || b->slots_used != b->tokens) {
        fail(b, T3V_E_ARG, "the blocks do not cover all query slots");
        return;
    }
    d->heads++;
    d->next = 0;
    b->slots_used = 0;
}

void t3v_build_select(t3v_builder *b, const t3v_select *select)
{
    if (b->status) return;
    draft *d = b->terms ? &b->term[b->terms - 1] : NULL;
    if (!d || d->select) {
        fail(b, T3V_E_ARG, "a selection before the first term, or a second one");
        return;
    }
    if (!(d->select = malloc(sizeof *select))) fail(b, T3V_E_NOMEM, "no memory");
    else *d->select = *select;
}

static int64_t keys_of(const t3v_builder *b, const draft *d)
{
    return d->pool > 1 ? (b->tokens - 1) / d->pool + 1 : b->tokens;
}

void t3v_build_keys(t3v_builder *b, int64_t first, int64_t last)
{
    if (b->status || first == last) return;
    draft *d = b->terms ? &b->term[b->terms - 1] : NULL;
    if (!d || !d->next) {
        fail(b, T3V_E_ARG, "keys before the first block");
        return;
    }
    int64_t own = d->next ? d->n_ranges - d->range_first[lists_of(d) - 1] : 0;
    int64_t from = own ? d->ranges[d->n_ranges - 1].last : 0;
    if (first < from || last < first || last > keys_of(b, d)) {
        fail(b, T3V_E_ARG, "key ranges must ascend, not overlap and end inside the grid");
        return;
    }
    if (own && first == from) {
        d->ranges[d->n_ranges - 1].last = (int32_t)last;
        return;
    }
    if (!grow(b, &d->ranges, d->n_ranges, &d->range_room, sizeof *d->ranges)) {
        fail(b, T3V_E_NOMEM, "no memory");
        return;
    }
    d->ranges[d->n_ranges++] = (t3v_range){(int32_t)first, (int32_t)last};
    d->range_first[lists_of(d)] = d->n_ranges;
}

static t3v_status check_select(int index, const draft *d)
{
    const t3v_select *s = d->select;
    bool rates = s->drop[0] >= 0 && s->drop[0] <= 1 && s->drop[1] >= 0 && s->drop[1] <= 1;
    if (!rates || !(s->p >= 0 && s->p <= 1) || (s->p > 0 && s->score != T3V_SCORE_SOFTMAX) || s->min < 1 ||
        (s->max && s->max < s->min) || (s->summary == T3V_SUMMARY_SAMPLE && s->sample < 1) || !(s->ramp >= 0))
        return t3v_fail(T3V_E_ARG,
                        "attention term %d: its selection drops %g and %g (0 to 1), p is %g (0 to 1, needs "
                        "softmax scores), "
                        "min %lld (from 1), max %lld (0 or at least min), sample %d (from 1)",
                        index, s->drop[0], s->drop[1], s->p, (long long)s->min, (long long)s->max, s->sample);
    if (d->pool > 1 || d->kind != T3V_TERM_SOFTMAX)
        return t3v_fail(T3V_E_ARG, "attention term %d: a linear term, or one with pooled keys, cannot select",
                        index);
    int64_t block = 0;
    for (int64_t i = 0; i < lists_of(d); i++)
        for (int64_t r = d->range_first[i]; r < d->range_first[i + 1]; r++)
            for (int side = 0; side < 2; side++) {
                int32_t slot = side ? d->ranges[r].last : d->ranges[r].first;
                if (r == d->range_first[i] && !side) block = 0;
                while (d->block_first[block] < slot) block++;
                if (d->block_first[block] != slot)
                    return t3v_fail(T3V_E_ARG,
                                    "attention term %d, block %lld: what a selected term always meets must "
                                    "be whole blocks, "
                                    "slot %d is inside one",
                                    index, (long long)(i % d->blocks), slot);
            }
    return T3V_OK;
}

/* The present term, still without keys; NULL after a failure. */
static draft *fresh(t3v_builder *b, const char *what)
{
    if (b->status) return NULL;
    draft *d = b->terms ? &b->term[b->terms - 1] : NULL;
    if (d && !d->n_ranges) return d;
    fail(b, T3V_E_ARG, what);
    return NULL;
}

void t3v_build_linear(t3v_builder *b, t3v_phi phi)
{
    draft *d = fresh(b, "the kind of a term is said before its keys");
    if (d) d->kind = T3V_TERM_LINEAR, d->phi = phi;
}

void t3v_build_pool(t3v_builder *b, int slots)
{
    draft *d = fresh(b, "pooling is said before a term's keys");
    if (!d) return;
    if (slots < 1 || d->log_weight) fail(b, T3V_E_ARG, "pooling of less than 1 slot, or after log-weights");
    d->pool = slots;
}

float *t3v_build_log_weights(t3v_builder *b)
{
    draft *d = fresh(b, "log-weights are said before a term's keys");
    if (!d) return NULL;
    if (!d->log_weight && afford(b, keys_of(b, d) * (int64_t)sizeof *d->log_weight))
        d->log_weight = calloc((size_t)keys_of(b, d), sizeof *d->log_weight);
    if (!d->log_weight) fail(b, T3V_E_NOMEM, "no memory for log-weights");
    return d->log_weight;
}

bool t3v_build_is_one_softmax(const t3v_builder *b)
{
    return b->terms == 1 && b->term[0].kind == T3V_TERM_SOFTMAX && b->term[0].pool <= 1 &&
           !b->term[0].select && b->combine == T3V_COMBINE_MEAN;
}

void t3v_build_share(t3v_builder *b, float share)
{
    if (!b->status && b->terms) b->term[b->terms - 1].share = share;
}

void t3v_build_joint(t3v_builder *b, bool row_max)
{
    b->combine = T3V_COMBINE_JOINT;
    b->row_max = row_max;
}

void t3v_build_epilogue(t3v_builder *b, const t3v_epilogue *epilogue, const void *options, size_t size)
{
    b->combine = T3V_COMBINE_EPILOGUE;
    b->epilogue = epilogue;
    free(b->options);
    b->options_size = size;
    b->options = malloc(size ? size : 1);
    if (!b->options) fail(b, T3V_E_NOMEM, "no memory for options");
    else memcpy(b->options, options, size);
}

/* What the kinds of terms and their combination ask of each other. */
static t3v_status check_kinds(const t3v_builder *b)
{
    int linear = 0;
    for (int i = 0; i < b->terms; i++) {
        const draft *d = &b->term[i];
        if (d->kind != T3V_TERM_LINEAR) continue;
        linear++;
        if (d->pool > 1 || d->log_weight)
            return t3v_fail(T3V_E_ARG,
                            "attention term %d is linear: pooled keys and log-weights are for softmaxes", i);
        if (d->phi.layers < 0 || d->phi.layers > T3V_PHI_LAYERS_MAX || d->phi.degree < 1 ||
            d->phi.degree > T3V_PHI_DEGREE_MAX)
            return t3v_fail(T3V_E_ARG,
                            "attention term %d: a feature map of %d layers and degree %d; 0 to %d and 1 to "
                            "%d are possible",
                            i, d->phi.layers, d->phi.degree, T3V_PHI_LAYERS_MAX, T3V_PHI_DEGREE_MAX);
    }
    if (linear && b->combine != T3V_COMBINE_JOINT)
        return t3v_fail(T3V_E_ARG, "a linear attention term needs the joint combination");
    if (b->combine != T3V_COMBINE_MEAN && b->terms > T3V_TERMS_MAX)
        return t3v_fail(T3V_E_ARG, "%d attention terms in one combination: %d are possible", b->terms,
                        T3V_TERMS_MAX);
    if (linear > 1)
        return t3v_fail(T3V_E_ARG, "%d linear attention terms at one site: one is possible", linear);
    return T3V_OK;
}

static t3v_status check(const t3v_builder *b, int index, const draft *d, uint8_t *seen)
{
    memset(seen, 0, (size_t)b->tokens);
    for (int64_t i = 0; i < b->tokens; i++) {
        int32_t token = d->order[i];
        if (token < 0 || token >= b->tokens || seen[token])
            return t3v_fail(
                T3V_E_ARG,
                "attention term %d: slot %lld holds token %d, which is out of range or taken twice", index,
                (long long)i, token);
        seen[token] = 1;
    }
    if (!d->blocks || d->block_first[d->blocks] != b->tokens)
        return t3v_fail(T3V_E_ARG, "attention term %d: the blocks do not cover all %lld query slots", index,
                        (long long)b->tokens);
    if (d->next != d->blocks)
        return t3v_fail(T3V_E_ARG, "attention term %d: the blocks of head %d do not cover all query slots",
                        index, d->heads);
    for (int64_t i = 0; i < lists_of(d) && !d->select; i++)
        if (d->range_first[i] == d->range_first[i + 1])
            return t3v_fail(T3V_E_ARG, "attention term %d, block %lld meets no keys", index,
                            (long long)(i % d->blocks));
    return d->select ? check_select(index, d) : T3V_OK;
}

static int by_token(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

typedef struct piece {
    int32_t token, first, count;
} piece;

static int by_first_token(const void *a, const void *b)
{
    return by_token(&((const piece *)a)->token, &((const piece *)b)->token);
}

/* A partition (each block meets exactly itself) is the same softmax however its slots are listed: sort
 * the tokens within a block and the blocks by first token. */
static t3v_status canonical(const t3v_builder *b, draft *d)
{
    if (d->pool > 1 || d->select || d->heads) return T3V_OK;
    if (d->select || d->heads) return T3V_OK;
    for (int64_t i = 0; i < d->blocks; i++) {
        const t3v_range *r = &d->ranges[d->range_first[i]];
        if (d->range_first[i + 1] - d->range_first[i] != 1 || r->first != d->block_first[i] ||
            r->last != d->block_first[i + 1])
            return T3V_OK;
    }
    bool sorted = true;
    for (int64_t i = 0; i < d->blocks && sorted; i++) {
        const int32_t *o = d->order, first = d->block_first[i], last = d->block_first[i + 1];
        sorted = !i || o[d->block_first[i - 1]] < o[first];
        for (int32_t s = first + 1; s < last && sorted; s++) sorted = o[s - 1] < o[s];
    }
    if (sorted) return T3V_OK;
    piece *p = malloc((size_t)d->blocks * sizeof *p);
    int32_t *order = malloc((size_t)b->tokens * sizeof *order);
    if (!p || !order) {
        free(p), free(order);
        return t3v_fail(T3V_E_NOMEM, "no memory to compare attention terms");
    }
    for (int64_t i = 0; i < d->blocks; i++) {
        int32_t first = d->block_first[i], n = d->block_first[i + 1] - first;
        qsort(d->order + first, (size_t)n, sizeof *order, by_token);
        p[i] = (piece){d->order[first], first, n};
    }
    qsort(p, (size_t)d->blocks, sizeof *p, by_first_token);
    int32_t at = 0;
    for (int64_t i = 0; i < d->blocks; i++) {
        memcpy(order + at, d->order + p[i].first, (size_t)p[i].count * sizeof *order);
        d->block_first[i] = at;
        d->ranges[i] = (t3v_range){at, at + p[i].count};
        at += p[i].count;
    }
    free(d->order);
    d->order = order;
    free(p);
    return T3V_OK;
}

static t3v_term term_of(const t3v_builder *b, const draft *d)
{
    return (t3v_term){b->tokens,      d->order,
                      d->blocks,      d->block_first,
                      d->range_first, d->ranges,
                      d->weight,      d->name,
                      d->kind,        d->pool,
                      d->log_weight,  d->phi,
                      d->share,       d->heads ? d->heads + 1 : 0,
                      d->select,      0};
}

static bool equal(const t3v_builder *b, const draft *x, const draft *y)
{
    t3v_term s = term_of(b, x), t = term_of(b, y);
    s.weight = t.weight = 1;
    return t3v_term_equal(&s, &t);
}

t3v_status t3v_builder_finish(t3v_builder *b, t3v_site *out)
{
    *out = (t3v_site){0};
    if (b->status) return b->status;
    if (!b->terms) return t3v_fail(T3V_E_ARG, "the attention pattern describes no term");
    t3v_status st = T3V_OK;
    double weights = 0;
    t3v_term *terms = calloc((size_t)b->terms, sizeof *terms);
    uint8_t *seen = malloc((size_t)b->tokens);
    if (!terms || !seen) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for an attention plan");
        goto done;
    }
    for (int i = 0; i < b->terms; i++) {
        T3V_TRY_GOTO(st, done, check(b, i, &b->term[i], seen));
        T3V_TRY_GOTO(st, done, canonical(b, &b->term[i]));
        weights += (double)b->term[i].weight;
        if (!(b->term[i].weight > 0)) {
            st = t3v_fail(T3V_E_ARG, "attention term %d has weight %g, expected more than 0", i,
                          (double)b->term[i].weight);
            goto done;
        }
    }
    T3V_TRY_GOTO(st, done, check_kinds(b));
    if (b->combine == T3V_COMBINE_MEAN && (weights < 1 - 1e-6 || weights > 1 + 1e-6)) {
        st = t3v_fail(T3V_E_ARG, "the weights of %d attention terms sum to %g, expected 1", b->terms,
                      weights);
        goto done;
    }
    int n = 0;
    for (int i = 0; i < b->terms; i++) {
        draft *d = &b->term[i];
        int same = b->combine == T3V_COMBINE_MEAN ? 0 : i; /* elsewhere a term's number has a meaning */
        while (same < i && !(b->term[same].order && equal(b, &b->term[same], d))) same++;
        if (same < i) { /* terms before i were kept in order, so count the kept ones up to `same` */
            int kept = 0;
            for (int j = 0; j < same; j++) kept += b->term[j].order != NULL;
            terms[kept].weight += d->weight;
            draft_free(d);
            continue;
        }
        terms[n++].weight = d->weight;
    }
    n = 0;
    for (int i = 0; i < b->terms; i++) {
        draft *d = &b->term[i];
        if (!d->order) continue;
        bool identity = true;
        for (int64_t s = 0; s < b->tokens && identity; s++) identity = d->order[s] == s;
        if (identity) free(d->order), d->order = NULL;
        float weight = terms[n].weight;
        terms[n] = term_of(b, d);
        terms[n].weight = weight;
        memset(d, 0, sizeof *d);
        n++;
    }
    *out = (t3v_site){n, terms, b->combine, b->row_max, b->epilogue, b->options, b->options_size, 0, NULL};
    b->options = NULL;
    terms = NULL;
done:
    free(terms);
    free(seen);
    return st;
}
