/* SPDX-License-Identifier: Apache-2.0 */
/* The table of steps: which pass each row asks for, and the texts that say so. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "pipe/schedule.h"
#include "pipe/teacache.h"

enum { STEPS = 20 };

/* The passes of a branch as letters: - none, R run, K keep, u reuse. */
static void expect_passes(const t3v_schedule *s, int branch, const char *want)
{
    char got[STEPS + 1] = "";
    for (int i = 0; i < s->steps; i++) got[i] = "-RKu"[s->step[i].pass[branch]];
    assert_string_equal(got, want);
}

static t3v_schedule make(t3v_schedule_options *o, const char *cfg_steps, const char *reuse)
{
    t3v_sampler *sampler = NULL;
    t3v_schedule s;
    assert_int_equal(t3v_sampler_open(&sampler, "euler", STEPS, 5), T3V_OK);
    if (t3v_cfg_steps_parse(cfg_steps, STEPS, o->cfg_steps)) fail_msg("%s", t3v_error_text());
    if (t3v_reuse_parse(reuse, STEPS, &o->reuse)) fail_msg("%s", t3v_error_text());
    assert_int_equal(t3v_schedule_make(&s, sampler, o), T3V_OK);
    assert_int_equal(s.steps, STEPS);
    for (int i = 0; i < STEPS; i++) {
        assert_true(s.step[i].sigma == t3v_sampler_sigma(sampler, i) &&
                    s.step[i].timestep == t3v_sampler_timestep(sampler, i));
        assert_true((s.step[i].cfg == 1.0) == (s.step[i].pass[T3V_BRANCH_UNCOND] == T3V_PASS_NONE));
    }
    t3v_sampler_close(&sampler);
    return s;
}

static void expect(t3v_schedule_options o, const char *cfg_steps, const char *reuse, const char *cond,
                   const char *uncond)
{
    t3v_schedule s = make(&o, cfg_steps, reuse);
    expect_passes(&s, T3V_BRANCH_COND, cond);
    expect_passes(&s, T3V_BRANCH_UNCOND, uncond);
    int64_t runs = 0;
    for (const char *p = cond; *p; p++) runs += *p == 'R' || *p == 'K';
    for (const char *p = uncond; *p; p++) runs += *p == 'R' || *p == 'K';
    assert_int_equal(t3v_schedule_runs(&s), runs);
    assert_true(t3v_schedule_asks(&s, T3V_BRANCH_UNCOND) == (strspn(uncond, "-") < STEPS));
    for (int b = 0; b < T3V_BRANCHES; b++) {
        const char *row = b == T3V_BRANCH_COND ? cond : uncond;
        assert_true(t3v_schedule_keeps(&s, b) == (strchr(row, 'K') != NULL));
        for (int i = 0; i <= STEPS; i++)
            assert_true(t3v_schedule_holds(&s, b, i) == (row[i + (int)strspn(row + i, "-")] == 'u'));
    }
    t3v_schedule_free(&s);
}

#define ALL "RRRRRRRRRRRRRRRRRRRR"
#define NONE "--------------------"

static void plain_and_guided(void **state)
{
    (void)state;
    t3v_plan plan, dense;
    t3v_schedule_options o = {.plan = &plan, .dense = &dense, .dense_steps = 3, .cfg = 5};
    expect(o, "all", "off", ALL, ALL);
    expect(o, "2-4", "off", ALL, "--RRR---------------");
    expect(o, "19", "off", ALL, "-------------------R");
    t3v_schedule s = make(&o, "all", "off");
    for (int i = 0; i < STEPS; i++) assert_ptr_equal(s.step[i].plan, i < 3 ? &dense : &plan);
    t3v_schedule_free(&s);
    o.cfg = 1;
    expect(o, "all", "off", ALL, NONE);
    o.cfg = 0; /* the negative prompt's velocity alone, times 1 - 0 */
    expect(o, "all", "off", ALL, ALL);
}

/* Wan2.2 A14B with the official settings: 26 of 40 steps are the first expert's, at a guidance of its own. */
static void experts(void **state)
{
    (void)state;
    t3v_sampler *sampler = NULL;
    t3v_schedule s;
    static const struct {
        double shift, boundary;
        int high;
    } c[] = {{12, 0.875, 26}, {5, 0.9, 15}, {5, 0, 40}, {5, 1, 0}};
    for (int k = 0; k < 4; k++) {
        t3v_schedule_options o = {.cfg = 4, .cfg_low = 3, .boundary = c[k].boundary, .cfg_steps = {0, 39}};
        assert_int_equal(t3v_sampler_open(&sampler, "unipc", 40, c[k].shift), T3V_OK);
        assert_int_equal(t3v_schedule_make(&s, sampler, &o), T3V_OK);
        for (int i = 0; i < 40; i++) {
            bool high = i < c[k].high;
            assert_int_equal(s.step[i].expert, high ? T3V_EXPERT_HIGH : T3V_EXPERT_LOW);
            assert_true(s.step[i].cfg == (high ? 4 : 3));
            assert_true(t3v_schedule_switches(&s, i) == (i > 0 && i == c[k].high));
        }
        t3v_schedule_free(&s);
        t3v_sampler_close(&sampler);
    }
}

/* Nothing of one expert is reused by the other; guidance of one alone. */
static void experts_reuse(void **state)
{
    (void)state;
    t3v_schedule_options o = {.cfg = 5, .cfg_low = 1, .boundary = 0.9}; /* steps 0 to 7, t = 1000 to 902.8 */
    expect(o, "all", "steps:0,1", "RKuuuuuuKuuuuuuuuuuu", "RKuuuuuu------------");
}

static void lists(void **state)
{
    (void)state;
    t3v_schedule_options o = {.cfg = 1};
    expect(o, "all", "steps:0-4,7,10,13,16,19", "RRRRKuuKuuKuuKuuKuuR", NONE);
    expect(o, "all", "steps:0", "Kuuuuuuuuuuuuuuuuuuu", NONE);
    expect(o, "all", "steps:0-19", ALL, NONE);
    o.cfg = 5; /* a branch that has kept nothing yet runs; one that pauses goes on with what it kept */
    expect(o, "6-12", "steps:0-4,9,10", "RRRRKuuuuRKuuuuuuuuu", "------KuuRKuu-------");
}

/* Sums of changes against the threshold, counted by hand. */
static void teacache(void **state)
{
    (void)state;
    double change[STEPS], still[STEPS] = {0};
    for (int i = 0; i < STEPS; i++) change[i] = 0.06;
    t3v_schedule_options o = {.cfg = 5, .polynomial = t3v_teacache_polynomial(512), .change = change};
    expect(o, "all", "teacache", "RRRRKuuKuuKuuKuuKuuR", "RRRRKuuKuuKuuKuuKuuR"); /* 0.06, 0.12; 0.18 runs */
    expect(o, "all", "teacache:threshold=0.1", "RRRRKuKuKuKuKuKuKuKu", "RRRRKuKuKuKuKuKuKuKu");
    expect(o, "all", "teacache:threshold=0.06", ALL, ALL); /* a sum at the threshold runs */
    expect(o, "all", "teacache:threshold=0", ALL, ALL);
    expect(o, "all", "teacache:threshold=9,first=1", "Kuuuuuuuuuuuuuuuuuuu", "Kuuuuuuuuuuuuuuuuuuu");
    expect(o, "all", "teacache:threshold=9,first=8,last=3", "RRRRRRRKuuuuuuuuuRRR", "RRRRRRRKuuuuuuuuuRRR");
    expect(o, "all", "teacache:threshold=9,first=30", ALL, ALL);
    /* Each branch has its own sum; steps in which it is not asked add to it, too. */
    expect(o, "6-13", "teacache", "RRRRKuuKuuKuuKuuKuuR", "------KuuKuuKu------");
    o.change = still; /* nothing moves: only the first five run */
    expect(o, "all", "teacache", "RRRRKuuuuuuuuuuuuuuu", "RRRRKuuuuuuuuuuuuuuu");
    expect(o, "all", "teacache:threshold=0", ALL, ALL);
    change[7] = INFINITY;
    o.change = change;
    expect(o, "all", "teacache:threshold=9", "RRRRKuuKuuuuuuuuuuuu", "RRRRKuuKuuuuuuuuuuuu");
    o.polynomial = t3v_teacache_polynomial(1536); /* of which the highest power is negative */
    expect(o, "all", "teacache:threshold=9", "RRRRKuuKuuuuuuuuuuuu", "RRRRKuuKuuuuuuuuuuuu");
}

/* At a change of 0.05 the polynomials are 0.1418984 (1.3B) and 0.2189490 (14B), by hand. */
static void polynomials(void **state)
{
    (void)state;
    double change[STEPS];
    for (int i = 0; i < STEPS; i++) change[i] = 0.05;
    t3v_schedule_options o = {.cfg = 1, .change = change, .polynomial = t3v_teacache_polynomial(1536)};
    expect(o, "all", "teacache:threshold=0.14189", ALL, NONE);
    expect(o, "all", "teacache:threshold=0.14191", "RRRRKuKuKuKuKuKuKuKu", NONE);
    o.polynomial = t3v_teacache_polynomial(5120);
    expect(o, "all", "teacache:threshold=0.21894", ALL, NONE);
    expect(o, "all", "teacache:threshold=0.21896", "RRRRKuKuKuKuKuKuKuKu", NONE);
}

static void refused(const char *text, const char *words)
{
    t3v_reuse r;
    assert_int_equal(t3v_reuse_parse(text, STEPS, &r), T3V_E_ARG);
    if (!strstr(t3v_error_text(), words) || !strstr(t3v_error_text(), text))
        fail_msg("'%s' gives: %s", text, t3v_error_text());
}

static void bad_texts(void **state)
{
    (void)state;
    static const char *const guidance[] = {
        "",   "x", "-", "3-", "-3", "5-3", "1-2-3", "1,2", "+1", "0x3", "20", "0-20", "99999999999999999999",
        " 1", "1 "};
    for (size_t i = 0; i < sizeof guidance / sizeof *guidance; i++) {
        int64_t range[2];
        assert_int_equal(t3v_cfg_steps_parse(guidance[i], STEPS, range), T3V_E_ARG);
        if (!strstr(t3v_error_text(), guidance[i])) fail_msg("'%s' gives: %s", guidance[i], t3v_error_text());
    }
    refused("", "expected off");
    refused("on", "expected off");
    refused("teacache:", "expected off");
    refused("teacachethreshold=1", "expected off");
    refused("steps:", "expected steps:LIST");
    refused("steps:0,", "expected steps:LIST");
    refused("steps:,0", "expected steps:LIST");
    refused("steps:0-2-3", "expected steps:LIST");
    refused("steps:0,5-3", "expected steps:LIST");
    refused("steps:0;3", "expected steps:LIST");
    refused("steps:0,20", "there is no step 20");
    refused("steps:0-99999999", "there is no step 99999999");
    refused("steps:1-3", "step 0 must run");
    refused("teacache:treshold=1", "unknown setting at \"treshold=1\"");
    refused("teacache:threshold=", "expected a threshold from 0");
    refused("teacache:threshold=-1", "expected a threshold from 0");
    refused("teacache:threshold=nan", "expected a threshold from 0");
    refused("teacache:threshold=1e999", "expected a threshold from 0");
    refused("teacache:threshold=1x", "expected a threshold from 0");
    refused("teacache:threshold=1,", "expected a threshold from 0");
    refused("teacache:first=0", "first from 1");
    refused("teacache:first=", "first from 1");
    refused("teacache:last=-1", "last from 0");
    refused("teacache:first=5last=2", "with commas between");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_and_guided), cmocka_unit_test(lists),     cmocka_unit_test(teacache),
        cmocka_unit_test(polynomials),      cmocka_unit_test(bad_texts), cmocka_unit_test(experts),
        cmocka_unit_test(experts_reuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
