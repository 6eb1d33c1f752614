/* SPDX-License-Identifier: Apache-2.0 */
/* The text of plans, and the sites that a builder makes: what is taken, what is refused, and where an error points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/pattern.h"
#include "attn/plan.h"

static void full_plan(void **state)
{
    (void)state;
    t3v_plan *plan;
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){3, 5, 7}, 4), T3V_OK);
    assert_int_equal(plan->tokens, 105);
    for (int i = 0; i < 4; i++) {
        const t3v_site *s = &plan->layer[i].site[T3V_SITE_SELF];
        assert_int_equal(s->terms, 1);
        assert_null(s->term[0].order);
        assert_int_equal(t3v_term_pairs(&s->term[0], 105, 105), 105 * 105);
        assert_int_equal(t3v_term_macs(&s->term[0], 105, 105, 64), 2LL * 64 * 105 * 105);
        const t3v_site *x = &plan->layer[i].site[T3V_SITE_CROSS_TEXT];
        assert_int_equal(x->terms, 1);
        assert_int_equal(t3v_term_macs(&x->term[0], 105, 9, 64), 2LL * 64 * 105 * 9);
    }
    t3v_plan_free(plan);
}

static void expect_error(const char *text, const char *part)
{
    t3v_plan *plan;
    assert_int_equal(t3v_plan_make(&plan, text, (t3v_grid){2, 2, 2}, 4), T3V_E_ARG);
    assert_null(plan);
    if (!strstr(t3v_error_text(), part))
        fail_msg("'%s' gave '%s', expected '%s' in it", text, t3v_error_text(), part);
}

static void grammar_accepts(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "full",
        " full ",
        "layers 0-1 -> full; else -> full",
        "self layers 1 mod 3->full;full",
        "cross -> full; self -> full",
        "layers 3 -> full",
        "layers 1 heads 0-1 steps 0 mod 5000 -> full; steps 0-99999 -> full; full",
        "heads 3->full;steps 2->full",
        "steps 0-9 -> full; steps 0 mod 5000 -> full",
        "heads 0 -> full; heads 0-1 -> full; heads 0-2 -> full"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        t3v_plan *plan;
        if (t3v_plan_make(&plan, texts[i], (t3v_grid){2, 2, 2}, 4))
            fail_msg("'%s': %s", texts[i], t3v_error_text());
        t3v_plan_free(plan);
    }
    char path[] = "/tmp/t3v_plan_XXXXXX", text[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("# a comment\nlayers 0 -> full # first\n\nelse -> full\n", f);
    fclose(f);
    snprintf(text, sizeof text, "@%s", path);
    t3v_plan *plan;
    assert_int_equal(t3v_plan_make(&plan, text, (t3v_grid){2, 2, 2}, 4), T3V_OK);
    t3v_plan_free(plan);
    f = fopen(path, "w");
    fputs("full\nfull", f);
    fclose(f);
    expect_error(text, "line 2, column 1: this rule can never match");
    remove(path);
}

static void grammar_points_at_errors(void **state)
{
    (void)state;
    expect_error("", "column 1: expected a rule");
    expect_error("full;", "column 6: expected a rule");
    expect_error("fool", "column 1: unknown pattern 'fool'; known: full");
    expect_error("full full", "column 6: expected ';'");
    expect_error("full:x=1", "column 6: full has no option 'x'");
    expect_error("full:", "column 6: expected key=value");
    expect_error("layers 9 -> full", "column 8: the model has layers 0 to 3");
    expect_error("layers 2-1 -> full", "column 8: the last layer is before");
    expect_error("layers 3 mod 3 -> full", "column 8: 'a mod n' needs a < n");
    expect_error("layers 1 mod 0 -> full", "column 14: expected a number of at least 1");
    expect_error("tails 0-1 -> full", "column 1: expected 'self'");
    expect_error("steps 1 heads 0 -> full", "column 9: expected 'self'");
    expect_error("heads -> full", "column 7: expected a head number");
    expect_error("heads 2-1 -> full", "column 7: the last head is before");
    expect_error("heads 0 mod 2 -> full", "column 9: expected");
    expect_error("steps 3 mod 3 -> full", "column 7: 'a mod n' needs a < n");
    expect_error("cross steps 1 -> full", "cross-attention has no rules for heads or steps");
    expect_error("heads 0-3 -> full; heads 1-2 steps 4 -> full", "column 20: this rule can never match");
    expect_error("steps 0-9 -> full; steps 3-5 -> full", "column 20: this rule can never match");
    expect_error("steps 0 mod 2 -> full; steps 1 mod 2 -> full; full",
                 "column 47: this rule can never match");
    expect_error("steps 0 mod 2 -> full; steps 2 mod 6 -> full", "column 24: this rule can never match");
    expect_error("layers 0-2 -> full; layers 3 heads 1 -> full; layers 3 -> full; heads 5 -> full",
                 "column 65: this rule can never match");
    expect_error("full; layers 1 -> full", "column 7: this rule can never match");
    expect_error("else -> full; full", "column 15: a rule after 'else'");
    t3v_plan *plan;
    assert_int_equal(t3v_plan_make(&plan, "@/nonexistent/plan", (t3v_grid){1, 1, 1}, 1), T3V_E_IO);
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){1 << 16, 1 << 15, 1}, 1), T3V_E_TOO_BIG);
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){1, 0, 1}, 1), T3V_E_ARG);
}

static void options_are_checked(void **state)
{
    (void)state;
    struct {
        int64_t a, b;
    } o;
    static const t3v_option table[] = {
        {.name = "a", .help = "first", .initial = 3, .min = 1, .max = 9},
        {.name = "b", .help = "second", .offset = 8, .initial = -1, .min = -5, .max = 5},
        {0},
    };
    assert_int_equal(t3v_options_parse(table, &o, "x", "", 0, 1), T3V_OK);
    assert_true(o.a == 3 && o.b == -1);
    assert_int_equal(t3v_options_parse(table, &o, "x", "b=-4,a=9", 8, 1), T3V_OK);
    assert_true(o.a == 9 && o.b == -4);
    static const char *const bad[] = {"a",    "a=",   "=1",  "a=10", "a=0",
                                      "a= 1", "a=1x", "c=1", "a=1,", "a=99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(t3v_options_parse(table, &o, "x", bad[i], strlen(bad[i]), 7), T3V_E_ARG);
    assert_int_equal(t3v_options_parse(table, &o, "x", "a=1,c=2", 7, 7), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "column 11"));
}

/* The same partition listed in two ways is one term; another one stays. */
static void equal_terms_are_one(void **state)
{
    (void)state;
    t3v_builder *b;
    t3v_site s;
    assert_int_equal(t3v_builder_make(&b, 12, 1 << 30), T3V_OK);
    for (int t = 0; t < 3; t++) {
        int32_t *order = t3v_build_term(b, t == 1 ? 0.5f : 0.25f);
        for (int i = 0; i < 12; i++) order[i] = t == 0 ? i : t == 1 ? i / 6 + i % 6 * 2 : 11 - i;
        for (int i = 0; i < 2; i++) {
            t3v_build_block(b, 6);
            t3v_build_keys(b, 6 * i, 6 * i + 2);
            t3v_build_keys(b, 6 * i + 2, 6 * i + 6);
        }
    }
    assert_int_equal(t3v_builder_finish(b, &s), T3V_OK);
    assert_int_equal(s.terms, 2);
    assert_true(s.term[0].weight == 0.5f && s.term[1].weight == 0.5f);
    assert_null(s.term[0].order);
    assert_int_equal(s.term[1].order[0], 0);
    assert_int_equal(s.term[1].order[6], 1);
    assert_int_equal(s.term[1].range_first[2], 2);
    t3v_site_free(&s);
    t3v_builder_free(b);
}

static void builder_refuses(void **state)
{
    (void)state;
    for (int bad = 0; bad < 7; bad++) {
        t3v_builder *b;
        t3v_site s;
        assert_int_equal(t3v_builder_make(&b, 8, 1 << 30), T3V_OK);
        int32_t *order = t3v_build_term(b, bad == 0 ? 0.5f : 1);
        if (bad == 1) order[3] = 4;
        if (bad == 2) order[0] = 8;
        t3v_build_block(b, bad == 3 ? 7 : 8);
        if (bad != 4) t3v_build_keys(b, 2, bad == 5 ? 9 : 8);
        if (bad == 6) t3v_build_keys(b, 7, 8);
        assert_int_equal(t3v_builder_finish(b, &s), T3V_E_ARG);
        t3v_builder_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_plan),
        cmocka_unit_test(grammar_accepts),
        cmocka_unit_test(grammar_points_at_errors),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(equal_terms_are_one),
        cmocka_unit_test(builder_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
