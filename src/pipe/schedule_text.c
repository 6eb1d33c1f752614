/* SPDX-License-Identifier: Apache-2.0 */
/* The texts of the schedule's options. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipe/schedule.h"

/* A whole number of at most 9 digits; moves *s past it. */
static bool take_number(const char **s, int64_t *out)
{
    const char *p = *s;
    *out = 0;
    for (; *p >= '0' && *p <= '9' && p - *s < 9; p++) *out = 10 * *out + (*p - '0');
    bool ok = p > *s;
    *s = p;
    return ok;
}

/* "A" or "A-B" with A <= B. */
static bool take_range(const char **s, int64_t range[2])
{
    if (!take_number(s, &range[0])) return false;
    range[1] = range[0];
    if (**s != '-') return true;
    ++*s;
    return take_number(s, &range[1]) && range[0] <= range[1];
}

t3v_status t3v_cfg_steps_parse(const char *text, int64_t steps, int64_t range[2])
{
    range[0] = 0;
    range[1] = steps - 1;
    if (strcmp(text, "all") == 0) return T3V_OK;
    const char *s = text;
    if (!take_range(&s, range) || *s)
        return t3v_fail(T3V_E_ARG,
                        "cfg-steps %s: expected all, a step, or A-B with A <= B; steps count from 0", text);
    if (range[1] >= steps)
        return t3v_fail(T3V_E_ARG, "cfg-steps %s: the run has %lld steps, the last is %lld", text,
                        (long long)steps, (long long)steps - 1);
    return T3V_OK;
}

static t3v_status parse_list(const char *text, const char *s, int64_t steps, t3v_reuse *out)
{
    out->how = T3V_REUSE_LIST;
    for (;; s++) {
        int64_t range[2];
        if (!take_range(&s, range) || (*s && *s != ','))
            return t3v_fail(
                T3V_E_ARG,
                "reuse %s: expected steps:LIST, the steps that run the blocks, e.g. steps:0-4,7,10", text);
        if (range[1] >= steps)
            return t3v_fail(T3V_E_ARG,
                            "reuse %s: there is no step %lld, the run has %lld and the last is %lld", text,
                            (long long)range[1], (long long)steps, (long long)steps - 1);
        for (int64_t i = range[0]; i <= range[1]; i++) out->run[i] = true;
        if (!*s) break;
    }
    if (!out->run[0])
        return t3v_fail(T3V_E_ARG, "reuse %s: step 0 must run, there is nothing yet to reuse", text);
    return T3V_OK;
}

static t3v_status parse_teacache(const char *text, const char *s, t3v_reuse *out)
{
    out->how = T3V_REUSE_TEACACHE;
    out->threshold = 0.15;
    out->first = 5;
    while (*s) {
        char *end;
        bool ok = true;
        if (strncmp(s, "threshold=", 10) == 0) {
            errno = 0;
            out->threshold = strtod(s + 10, &end);
            ok = end > s + 10 && !errno && isfinite(out->threshold) && out->threshold >= 0;
            s = end;
        } else if (strncmp(s, "first=", 6) == 0) {
            s += 6;
            ok = take_number(&s, &out->first) && out->first >= 1;
        } else if (strncmp(s, "last=", 5) == 0) {
            s += 5;
            ok = take_number(&s, &out->last);
        } else {
            return t3v_fail(
                T3V_E_ARG,
                "reuse %s: unknown setting at \"%s\"; teacache has threshold=F, first=N and last=N", text, s);
        }
        if (!ok || (*s && (*s != ',' || !s[1])))
            return t3v_fail(
                T3V_E_ARG,
                "reuse %s: expected a threshold from 0, first from 1 and last from 0, with commas between",
                text);
        if (*s) s++;
    }
    return T3V_OK;
}

t3v_status t3v_reuse_parse(const char *text, int64_t steps, t3v_reuse *out)
{
    *out = (t3v_reuse){.how = T3V_REUSE_OFF};
    if (strcmp(text, "off") == 0) return T3V_OK;
    if (strncmp(text, "steps:", 6) == 0) return parse_list(text, text + 6, steps, out);
    if (strcmp(text, "teacache") == 0) return parse_teacache(text, "", out);
    if (strncmp(text, "teacache:", 9) == 0 && text[9]) return parse_teacache(text, text + 9, out);
    return t3v_fail(T3V_E_ARG, "reuse %s: expected off, steps:LIST or teacache[:threshold=F,first=N,last=N]",
                    text);
}
