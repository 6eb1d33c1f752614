/* SPDX-License-Identifier: Apache-2.0 */
/* rettention - a static pattern whose softmax is scaled to what it was of the full one, some steps ago, with the rest of
 * the full output added (Re-ttention, arXiv 2505.22918).
 *
 * Of a row, O_f is the output of full attention and O_s that of the static pattern, with log-sum-exps L_f and L_s.
 * A cache step computes both, keeps rho = exp(L_s - L_f), the part of the softmax's mass that the pattern sees, and
 * R = O_f - rho O_s, what the other keys give, and outputs O_f. The steps after it output (rho + k lambda) O_s + R,
 * k = 0, 1, ... counted from the cache step, the factor at most 1. The first steps of a generation are full attention. */
#include <math.h>
#include <string.h>

#include "attn/pattern.h"
#include "tensor/dtype.h"

enum { KEPT, FULL }; /* terms */
enum { PHASE_FULL, PHASE_CACHE, PHASE_REUSE };
enum { CACHED, SINCE }; /* counters: 1 + the last cache step; steps since the one after it */

typedef struct options {
    t3v_option_text of;
    int64_t window, period, warm;
    double lambda;
} options;

static const t3v_option table[] = {
    {.name = "of",
     .help =
         "the static pattern, NAME or NAME:key=value+key=value; it must be one softmax (not given: a window)",
     .offset = offsetof(options, of),
     .kind = T3V_OPTION_TEXT},
    {.name = "window",
     .help = "without `of`: a token meets those at most this far in raster order, in all frames (-1: 1/64 of "
             "a frame)",
     .offset = offsetof(options, window),
     .initial = -1,
     .min = -1,
     .max = INT32_MAX},
    {.name = "period",
     .help = "steps from one cache step to the next",
     .offset = offsetof(options, period),
     .initial = 5,
     .min = 1,
     .max = 1000},
    {.name = "lambda",
     .help = "added to rho after each step without the full attention",
     .offset = offsetof(options, lambda),
     .kind = T3V_OPTION_REAL,
     .real = 0.04,
     .real_min = -1,
     .real_max = 1},
    {.name = "warm",
     .help = "percent of the steps, the first ones, that are full attention",
     .offset = offsetof(options, warm),
     .initial = 30,
     .min = 0,
     .max = 100},
    {0},
};

/* ---- the epilogue ----------------------------------------------------------------------------------- */

typedef struct settings {
    int64_t period, warm;
    double lambda;
} settings;

/* rho, then R in the run's numbers. */
static size_t record(const void *opt, int dim, int number)
{
    (void)opt;
    return sizeof(float) + ((size_t)dim * (size_t)number + 3) / 4 * 4;
}

/* Repeating a step repeats what it did: a run that was stopped in the middle of one goes on to the same numbers. */
static int phase(const void *opt, const t3v_moment *m, int64_t counter[T3V_STATE_COUNTERS])
{
    const settings *s = opt;
    if (100 * m->step < s->warm * (m->steps > 0 ? m->steps : 1)) return PHASE_FULL;
    int64_t cached = counter[CACHED]; /* one more than the step; a state from a file may hold anything */
    int64_t since = cached > 0 && cached <= m->step ? m->step - (cached - 1) : 0;
    if (since <= 0 || since >= s->period) {
        counter[CACHED] = m->step + 1;
        return PHASE_CACHE;
    }
    counter[SINCE] = since - 1;
    return PHASE_REUSE;
}

static bool uses(int phase_now, int term)
{
    return phase_now == PHASE_CACHE || term == (phase_now == PHASE_FULL ? FULL : KEPT);
}

static void row(const void *opt, int phase_now, const int64_t counter[T3V_STATE_COUNTERS],
                const float *const *out, const float *lse, int dim, int number, void *kept, float *y)
{
    const settings *s = opt;
    float *rho = kept;
    void *rest = (char *)kept + (kept ? sizeof *rho : 0);
    if (phase_now != PHASE_REUSE) {
        memcpy(y, out[FULL], (size_t)dim * sizeof *y);
        if (phase_now == PHASE_FULL) return;
        *rho = expf(lse[KEPT] - lse[FULL]);
        if (*rho > 1) *rho = 1;
        for (int d = 0; d < dim; d++) {
            float r = out[FULL][d] - *rho * out[KEPT][d];
            if (number == 4) ((float *)rest)[d] = r;
            else ((t3v_bf16 *)rest)[d] = t3v_f32_to_bf16(r);
        }
        return;
    }
    double now = (double)*rho + s->lambda * (double)counter[SINCE];
    float factor = (float)(now > 1 ? 1 : now);
    for (int d = 0; d < dim; d++) {
        float r = number == 4 ? ((const float *)rest)[d] : t3v_bf16_to_f32(((const t3v_bf16 *)rest)[d]);
        y[d] = factor * out[KEPT][d] + r;
    }
}

static t3v_epilogue_form form(const void *opt, int phase_now, const int64_t counter[T3V_STATE_COUNTERS])
{
    const settings *s = opt;
    t3v_epilogue_form f = {T3V_FORM_GIVE, KEPT, FULL, (float)(s->lambda * (double)counter[SINCE])};
    if (phase_now == PHASE_CACHE) f.what = T3V_FORM_KEEP;
    if (phase_now == PHASE_REUSE) f.what = T3V_FORM_USE;
    return f;
}

static const t3v_epilogue epilogue = {
    .record = record, .phase = phase, .without_state = PHASE_FULL, .uses = uses, .row = row, .form = form};

/* ---- the static pattern ----------------------------------------------------------------------------- */

enum { TEXT_MAX = 200, OPTIONS_MAX = 256 };

typedef struct inner {
    const t3v_pattern *pattern;
    char text[TEXT_MAX + 1]; /* its options, which `options` may point into */
    union {
        int64_t align;
        unsigned char bytes[OPTIONS_MAX];
    } options;
} inner;

static t3v_status read_of(const t3v_option_text *of, inner *in)
{
    const char *colon = memchr(of->at, ':', (size_t)of->length);
    size_t name = colon ? (size_t)(colon - of->at) : (size_t)of->length,
           rest = colon ? (size_t)of->length - name - 1 : 0;
    in->pattern = t3v_pattern_find(of->at, name);
    if (!in->pattern)
        return t3v_option_wrong(of, 0, "rettention: unknown pattern '%.*s'", (int)(name < 40 ? name : 40),
                                of->at);
    if (rest > TEXT_MAX)
        return t3v_option_wrong(of, 0, "the options of rettention's pattern have more than %d bytes",
                                TEXT_MAX);
    if (rest) memcpy(in->text, colon + 1, rest);
    for (size_t i = 0; i < rest; i++)
        if (in->text[i] == '+') in->text[i] = ',';
    return t3v_options_parse(in->pattern->options, in->options.bytes, in->pattern->name, in->text, rest,
                             of->column + (int)name + 1);
}

static int64_t window_of(const options *o, const t3v_geom *geom)
{
    return o->window < 0 ? geom->grid.h * geom->grid.w / 64 : o->window;
}

/* A token of a frame is a block of one query in every frame: the window is then one range of slots. */
static void build_window(t3v_builder *b, const t3v_geom *geom, int64_t window)
{
    int64_t T = geom->grid.t, plane = geom->grid.h * geom->grid.w;
    int32_t *order = t3v_build_term(b, 1);
    for (int64_t s = 0; order && s < geom->tokens; s++) order[s] = (int32_t)(s % T * plane + s / T);
    for (int64_t i = 0; order && i < plane; i++) {
        t3v_build_block(b, T);
        t3v_build_keys(b, (i > window ? i - window : 0) * T,
                       (i < plane - window ? i + window + 1 : plane) * T);
    }
}

static t3v_status build(const void *opt, const t3v_geom *geom, t3v_builder *b)
{
    const options *o = opt;
    settings s = {o->period, o->warm, o->lambda};
    if (o->of.length) {
        inner in = {0};
        T3V_TRY(read_of(&o->of, &in));
        T3V_TRY(in.pattern->build(in.options.bytes, geom, b));
        if (!t3v_build_is_one_softmax(b))
            return t3v_option_wrong(
                &o->of, 0, "rettention needs a static pattern of one softmax; %s is not one in layer %d",
                in.pattern->name, geom->layer);
    } else {
        build_window(b, geom, window_of(o, geom));
    }
    float warm = (float)o->warm / 100;
    t3v_build_name(b, "kept");
    t3v_build_share(b, warm < 1 ? 1 - warm : 1e-9f);
    t3v_build_term(b, 1);
    t3v_build_name(b, "full");
    t3v_build_share(b, warm + (1 - warm) / (float)o->period);
    t3v_build_block(b, geom->tokens);
    t3v_build_keys(b, 0, geom->tokens);
    t3v_build_epilogue(b, &epilogue, &s, sizeof s);
    return T3V_OK;
}

static bool allows(const void *opt, const t3v_geom *geom, int term, int64_t q, int64_t k)
{
    const options *o = opt;
    if (term == FULL) return true;
    if (o->of.length) {
        inner in = {0};
        return !read_of(&o->of, &in) && in.pattern->allows(in.options.bytes, geom, 0, q, k);
    }
    int64_t plane = geom->grid.h * geom->grid.w, distance = q % plane - k % plane,
            window = window_of(o, geom);
    return distance <= window && -distance <= window;
}

const t3v_pattern t3v_pattern_rettention = {
    .name = "rettention",
    .summary =
        "a static pattern, corrected by the softmax mass and the rest that full attention had some steps ago",
    .options = table,
    .options_size = sizeof(options),
    .build = build,
    .allows = allows,
    .examples = (const char *const[]){"window=2,period=3", "of=tile,warm=20,lambda=0",
                                      "of=t3:blocks=1x2x2+branch=close", NULL},
};
