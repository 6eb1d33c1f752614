/* SPDX-License-Identifier: Apache-2.0 */
/* The plan: for every layer and attention site, which queries meet which keys, as data.
 *
 * A site is a list of terms, softmax or linear, and says how they become one output: as a weighted mean, as one
 * softmax over all of them, or by the method's epilogue. A term lists the tokens in an order in which those that
 * meet are contiguous (slots), cuts the slots into blocks of queries, and gives each block the key slots it meets
 * as ranges. Kernels, gradients, costs and tests read this and nothing else. */
#ifndef T3V_ATTN_PLAN_H
#define T3V_ATTN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct t3v_grid {
    int64_t t, h, w; /* tokens along time, height, width; token = (t*H + h)*W + w */
} t3v_grid;

/* Slots [first, last). */
typedef struct t3v_range {
    int32_t first, last;
} t3v_range;

typedef struct t3v_pattern t3v_pattern;

/* The guidance branch of a pass; state kept across steps is kept for each. */
enum { T3V_BRANCH_COND, T3V_BRANCH_UNCOND, T3V_BRANCHES };

/* Where in a generation a pass is. All zero: nowhere in particular, taken as step 0 of 1. */
typedef struct t3v_moment {
    int64_t step, steps; /* 0 <= step < steps */
    double sigma;        /* noise level: 1 pure noise, 0 none */
    int branch;          /* T3V_BRANCH_COND: with the prompt; T3V_BRANCH_UNCOND: with the negative one */
} t3v_moment;

typedef enum t3v_term_kind {
    T3V_TERM_SOFTMAX, /* weights exp(scale q.k + log-weight) */
    /* weights phi_q(q).phi_k(k): the keys of a block enter one state, its queries read that */
    T3V_TERM_LINEAR,
} t3v_term_kind;

/* The last non-linearity of a feature map. */
typedef enum t3v_phi_last {
    T3V_PHI_SOFTPLUS,
    T3V_PHI_RELU,
    T3V_PHI_NONE,
    T3V_PHI_ELU /* 1 + elu(x) */
} t3v_phi_last;

/* Feature maps phi_q and phi_k of a linear term: a network for each head on rows of q or k as the site gets them
 * (after norm and rotation), `layers` dense layers with SiLU between them, every one degree * dim wide; the result,
 * through `last`, is cut into `degree` parts, part p raised to the power p (from 1). layers 0: the row itself in every
 * part. Attention Surgery, arXiv 2509.24899. */
typedef struct t3v_phi {
    int layers, degree;
    t3v_phi_last last;
} t3v_phi;
enum { T3V_PHI_LAYERS_MAX = 4, T3V_PHI_DEGREE_MAX = 8 };

typedef enum t3v_summary { T3V_SUMMARY_MEAN, T3V_SUMMARY_SAMPLE } t3v_summary;
typedef enum t3v_score { T3V_SCORE_DOT, T3V_SCORE_SOFTMAX } t3v_score;

/* How a head chooses, for each block of queries, the blocks of keys (the term's own blocks) that it meets. Each block is
 * summed up by one vector: the mean of its rows, or of `sample` rows at equal distances. A pair's score is scale q.k, or
 * the softmax of that over all key blocks. Blocks are taken from the highest score down (NaN last, equal ones in
 * ascending order): the k highest, k = keep * blocks rounded as said, and, when p > 0, as many as it takes until the
 * scores of those taken exceed p; at least `min`, at most `max` of them. Those always met come on top. */
typedef struct t3v_select {
    t3v_summary summary;
    int sample;
    t3v_score score; /* SOFTMAX when p > 0 */
    /* keep = 1 - drop. Of step i of n, drop[0] up to and including step drop_until * n, then drop[1]; times
     * min(1, ramp * i / (n - 1)) when ramp > 0; all blocks are kept where drop <= dense_drop, and in the steps below
     * dense_first * n. Outside of a schedule (fewer than two steps): drop[0], no ramp, no dense steps. */
    double drop[2], drop_until, ramp, dense_drop, dense_first;
    bool round_up;
    double p;
    int64_t min, max; /* blocks; max 0: no limit */
    /* For experiments: chooses instead of the above. Writes the blocks that `row` meets to list[0 .. blocks) and returns
     * how many; scores as above. What breaks the contract (t3v_select_check) is not followed. Called by several threads. */
    int64_t (*choose)(const void *user, const float *score, int64_t row, int64_t blocks, int32_t *list);
    const void *user;
} t3v_select;

/* Every query slot lies in exactly one block; the ranges of a block are disjoint, ascending and not empty. */
typedef struct t3v_term {
    /* tokens of the grid; 0: all queries meet all keys, sizes known at run time */
    int64_t slots;
    const int32_t *order; /* [slots] slot -> token, a bijection; NULL: identity */
    int64_t blocks;
    const int32_t *block_first; /* [blocks + 1] first query slot of each block */
    /* [blocks + 1] a block's ranges are ranges[range_first[b] .. range_first[b+1]) */
    const int64_t *range_first;
    const t3v_range *ranges;
    float weight;     /* in the mean; the weights of a rule's terms sum to 1 */
    const char *name; /* for pictures; may be NULL */
    t3v_term_kind kind;
    int pool; /* > 1: keys are means of that many slots in a row (the last may have fewer), ranges count
                                 * them, and ln(slots) is added to their logits; 0, 1: keys are tokens */
    const float *log_weight; /* nats added to the logits, by token or pooled key; NULL: none */
    t3v_phi phi;             /* of a linear term */
    float share;             /* part of a generation's steps in which it is computed, for costs; 0: all */
    /* 0: all heads share the lists; else head h's blocks start at range_first[h * blocks] */
    int heads;
    /* NULL: the ranges are all; else what is always met (whole blocks, or nothing) */
    const t3v_select *select;
    int rule; /* of the site, which says when the term is active */
} t3v_term;

/* For which heads and steps a rule holds: first <= x <= last, and for steps with modulus > 0: x % modulus == first. */
typedef struct t3v_when {
    int head_first, head_last, step_first, step_last, step_modulus;
    const t3v_pattern *pattern;
} t3v_when;

typedef enum t3v_combine {
    T3V_COMBINE_MEAN, /* sum of weight * output */
    /* sum of numerators / sum of denominators: one softmax over all terms, linear ones included */
    T3V_COMBINE_JOINT,
    T3V_COMBINE_EPILOGUE, /* the method's own function of the terms' outputs and log-sum-exps */
} t3v_combine;

enum { T3V_TERMS_MAX = 8 }; /* of a joint site or one with an epilogue */

struct t3v_epilogue;

typedef struct t3v_site {
    int terms;
    const t3v_term *term; /* [terms], no two of a rule equal where they are averaged */
    t3v_combine combine;
    /* joint: linear terms weigh exp(c), c the row's largest softmax score, instead of 1 */
    bool row_max;
    const struct t3v_epilogue *epilogue;
    const void *options; /* of the epilogue; owned by the site */
    size_t options_size;
    int rules; /* 0: all terms are active always */
    /* [rules]: of these the first that holds; the last one always does. Their terms are averaged */
    const t3v_when *rule;
} t3v_site;

/* What an epilogue does with a row, in words that a device knows; of a record rho comes first, then the rest R. */
typedef enum t3v_form {
    T3V_FORM_GIVE, /* y = O[whole] */
    T3V_FORM_KEEP, /* the same; rho = min(1, exp(L[part] - L[whole])) and R = O[whole] - rho O[part] are kept */
    T3V_FORM_USE, /* y = min(1, rho + add) O[part] + R */
} t3v_form;
typedef struct t3v_epilogue_form {
    t3v_form what;
    int part, whole; /* terms */
    float add;
} t3v_epilogue_form;

/* How a method makes an output of its terms' (attn/pattern.h has the call that sets it). All parts are pure but for
 * the state: what a layer keeps from step to step, of each CFG branch: counters, and a record for every head and query. */
enum { T3V_STATE_COUNTERS = 8 };
typedef struct t3v_epilogue {
    /* Bytes of a record for rows of `dim` numbers in a run whose outputs have 4 or 2 bytes a number; a multiple of 4. */
    size_t (*record)(const void *options, int dim, int number);
    /* What this call does, decided once for all rows; counters are zero at first and kept with the state. */
    int (*phase)(const void *options, const t3v_moment *m, int64_t counter[T3V_STATE_COUNTERS]);
    /* the phase of calls without a state; uses one term, whose output it gives */
    int without_state;
    bool (*uses)(int phase, int term); /* is this term computed? */
    /* y [dim] of the terms' outputs [dim] and log-sum-exps (NULL and 0 where not computed). record: NULL without a
     * state. Called for rows in any order and on several threads. */
    void (*row)(const void *options, int phase, const int64_t counter[T3V_STATE_COUNTERS],
                const float *const *out, const float *lse, int dim, int number, void *record, float *y);
    /* The same of all rows as a form; NULL: there is none, and rows are the CPU's. */
    t3v_epilogue_form (*form)(const void *options, int phase, const int64_t counter[T3V_STATE_COUNTERS]);
} t3v_epilogue;

typedef enum t3v_site_kind {
    T3V_SITE_SELF,
    T3V_SITE_CROSS_TEXT,
    T3V_SITE_CROSS_IMAGE,
    T3V_SITES
} t3v_site_kind;

typedef struct t3v_layer_plan {
    const t3v_pattern *pattern; /* of the self site; of its first rule where there are several */
    t3v_site site[T3V_SITES];   /* equal self sites of several layers are one in memory */
    /* into which the self site cuts time, height, width; 1, 1, 1 where it does not */
    int64_t blocks[3];
    const char *source; /* where these counts come from; may be NULL */
} t3v_layer_plan;

typedef struct t3v_plan {
    t3v_grid grid;
    int64_t tokens; /* t*h*w, below 2^31 */
    int layers;
    t3v_layer_plan *layer; /* [layers] */
} t3v_plan;

/* Makes the plan that `text` describes for a model of `layers` layers on `grid`:
 *   plan := rule (';' rule)* | '@'file ; rule := [selector '->'] NAME [':' key '=' value (',' key '=' value)*]
 *   selector := ['self'|'cross'] ['layers' (a | a-b | a 'mod' n)] ['heads' (a | a-b)] ['steps' (a | a-b | a 'mod' n)] | 'else'
 * A rule without 'cross' is about the self site; cross sites are full unless a rule says otherwise. The
 * first match wins, an unmatched layer, head or step is full, a rule that can never match is an error. In files, '#'
 * comments and newlines (= ';').
 * E_ARG: bad text (the message has the column) or sizes; E_TOO_BIG: 2^31 tokens or more, tables of more than 4 GiB, a
 * text of 65,536 bytes or more; E_IO; E_NOMEM. */
t3v_status t3v_plan_make(t3v_plan **out, const char *text, t3v_grid grid, int layers);
/* The same for a model of width `dim`, by which a pattern may choose among published settings, with `heads` heads;
 * 0: unknown. */
t3v_status t3v_plan_make_for(t3v_plan **out, const char *text, t3v_grid grid, int layers, int64_t dim,
                             int64_t heads);
void t3v_plan_free(t3v_plan *plan); /* NULL is fine */

/* Rounds a grid up to what the plan's patterns prefer (T3 at 2160x3840: its published table is for 2176x3840). */
t3v_status t3v_plan_fit(const char *text, int layers, int64_t dim, t3v_grid *grid);

/* Does a layer use a pattern whose weights must have been tuned for it? */
bool t3v_plan_needs_tuning(const t3v_plan *plan);

/* A trainable tensor of a site, F32, in the checkpoint as "blocks.<layer>.self_attn.<name>". */
typedef struct t3v_site_param {
    char name[32];
    int ndim;
    int64_t shape[3];
    double spread; /* first values: normal with this standard deviation; 0: zero */
} t3v_site_param;
enum { T3V_SITE_PARAMS_MAX = 4 * T3V_PHI_LAYERS_MAX };

/* The tensors of a site for `heads` heads of `dim`, in the order in which calls take them; returns how many. For each
 * of phi_q, phi_k and each layer l: phi_q.<l>.weight [heads, out, in], phi_q.<l>.bias [heads, out]. */
int t3v_site_params(const t3v_site *site, int64_t heads, int64_t dim,
                    t3v_site_param out[T3V_SITE_PARAMS_MAX]);
/* Is this a checkpoint name of such a tensor? */
bool t3v_site_param_named(const char *name);

/* Bytes that a site keeps from step to step for one CFG branch; number: bytes of one of the run's numbers (4 or 2).
 * 0: nothing. All bytes are zero at first. */
size_t t3v_site_state(const t3v_site *site, int64_t n_q, int64_t heads, int64_t dim, int number);

/* The same queries meet the same keys with the same weight, in the same order. */
bool t3v_term_equal(const t3v_term *a, const t3v_term *b);

/* The least k such that, starting at every layer (the first follows the last), k layers in a row carry what a
 * token holds to every other, for every token: exact up to T3V_REACH_EXACT tokens, else for 64 tokens with the
 * corners of the grid among them. -1: never. E_NOMEM. */
enum { T3V_REACH_EXACT = 4096 };
t3v_status t3v_plan_reach(const t3v_plan *plan, int *reach);

/* The rule of a site that holds for a head at a moment; 0 where the site has none. */
int t3v_site_rule(const t3v_site *site, int head, const t3v_moment *moment);
bool t3v_term_active(const t3v_site *site, int term, int head, const t3v_moment *moment);

/* The (query, key) pairs of one head of a term, in int64 (fewer than 2^62); with lists per head of all heads together,
 * divided by their number and rounded up. Of a selected term the least, as if it kept no more than k. n_q and n_k are
 * used by terms whose sizes come at run time. */
int64_t t3v_term_pairs(const t3v_term *term, int64_t n_q, int64_t n_k);
/* Multiply-adds of one head of dimension `dim`: QK^T plus AV, 2 * dim * pairs; of a linear term the feature maps, the state
 * and its reading. */
int64_t t3v_term_macs(const t3v_term *term, int64_t n_q, int64_t n_k, int dim);
/* The pairs and multiply-adds of all heads at a moment; NULL: nowhere in particular, where what runs in some steps only
 * counts for its share of them, rounded up. false: they do not fit in an int64. */
bool t3v_site_cost(const t3v_site *site, int64_t n_q, int64_t n_k, int heads, int dim,
                   const t3v_moment *moment, int64_t *pairs, int64_t *macs);
/* Does the site choose by content, so that these are lower bounds? */
bool t3v_site_selects(const t3v_site *site);

/* Keys that block `b` meets, of a selected term those that it always meets; pooled keys count once. With lists per head: of
 * head 0. */
int64_t t3v_term_keys(const t3v_term *term, int64_t b, int64_t n_k);

/* Slots behind key range r: the range itself, or what its pooled keys are means of. */
t3v_range t3v_term_slots(const t3v_term *term, t3v_range r);

/* The entry of range_first that belongs to head `head`. */
static inline const int64_t *t3v_term_lists(const t3v_term *term, int head)
{
    return term->range_first + (term->heads ? head * term->blocks : 0);
}

/* A site with the one term "all queries meet all keys", sizes known at run time. Static storage. */
const t3v_site *t3v_site_full(void);

void t3v_site_free(t3v_site *site); /* what t3v_builder_finish made */

#endif
