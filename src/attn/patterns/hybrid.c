/* SPDX-License-Identifier: Apache-2.0 */
/* hybrid - one softmax over every R-th key, joined by linear attention over the rest (Attention Surgery, arXiv 2509.24899).
 *
 * With T_S the keys j with j mod R = 0 and T_L the others, the output of query i is
 *   (sum over T_S of exp(s_ij - c_i) v_j + phi_q(q_i) . sum over T_L of phi_k(k_j)^T v_j)
 *     / (the same without v_j),
 * phi learned, a network for each head; c_i is the largest s_ij of the row over T_S (shift=row, the formula as
 * printed), or 0 (shift=none, where a perfect phi gives the softmax back). Weights tuned for one are wrong for the other. */
#include "attn/pattern.h"

enum { SHIFT_ROW, SHIFT_NONE };

typedef struct options {
    int64_t rate, depth, degree, last, shift;
} options;

static const char *const lasts[] = {"softplus", "relu", "none", "elu", NULL}; /* as t3v_phi_last */
static const char *const shifts[] = {"row", "none", NULL};

static const t3v_option table[] = {
    {.name = "rate",
     .help = "R: every R-th key stays in the softmax; 1: all (full attention), 0: none (linear attention)",
     .offset = offsetof(options, rate),
     .initial = 4,
     .min = 0,
     .max = 1024},
    {.name = "depth",
     .help = "dense layers of the feature maps",
     .offset = offsetof(options, depth),
     .initial = 2,
     .min = 0,
     .max = T3V_PHI_LAYERS_MAX},
    {.name = "degree",
     .help = "parts of the features, part p raised to the power p",
     .offset = offsetof(options, degree),
     .initial = 2,
     .min = 1,
     .max = T3V_PHI_DEGREE_MAX},
    {.name = "last",
     .help = "last non-linearity: softplus, relu, none, or elu (1 + elu)",
     .offset = offsetof(options, last),
     .kind = T3V_OPTION_WORD,
     .words = lasts},
    {.name = "shift",
     .help = "what the softmax's exponents are measured from: row (their maximum) or none",
     .offset = offsetof(options, shift),
     .kind = T3V_OPTION_WORD,
     .words = shifts},
    {0},
};

static bool in_softmax(int64_t rate, int64_t k) { return rate > 0 && k % rate == 0; }

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    int64_t n = geom->tokens, anchors = o->rate ? (n + o->rate - 1) / o->rate : 0;
    for (int linear = 0; linear < 2; linear++) {
        int64_t first = linear ? anchors : 0, last = linear ? n : anchors, slot = 0;
        if (first == last) continue;
        int32_t *order = t3v_build_term(b, 1);
        if (!order) break;
        for (int part = 0; part < 2; part++)
            for (int64_t k = 0; k < n; k++)
                if (in_softmax(o->rate, k) == !part) order[slot++] = (int32_t)k;
        t3v_build_name(b, linear ? "linear" : "softmax");
        if (linear) t3v_build_linear(b, (t3v_phi){(int)o->depth, (int)o->degree, (t3v_phi_last)o->last});
        t3v_build_block(b, n);
        t3v_build_keys(b, first, last);
    }
    if (anchors < n) t3v_build_joint(b, o->shift == SHIFT_ROW);
    return T3V_OK;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    (void)geom, (void)q;
    const options *o = opt;
    return in_softmax(o->rate, k) == (term == 0 && o->rate > 0);
}

const t3v_pattern t3v_pattern_hybrid = {
    .name = "hybrid",
    .summary = "a softmax over every R-th key and learned linear attention over the others, in one sum",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .needs_tuning = true,
    .examples = (const char *const[]){"rate=1", "rate=0,last=elu", "rate=3,shift=none",
                                      "rate=8,depth=3,degree=1", NULL},
};
