/* SPDX-License-Identifier: Apache-2.0 */
/* Cleaning and ids against fixtures of the official rules and against the tokenizer restated; hostile models.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/status.h"
#include "text/clean.h"
#include "text/tokenizer.h"
#include "unigram_restated.h"

#define DATA "tests/golden/text/"

static char *model_bytes; /* tiny.model */
static size_t model_size;
static json_t *fixtures;

static int load(void **state)
{
    (void)state;
    FILE *f = fopen(DATA "tiny.model", "rb");
    if (!f) return -1;
    model_bytes = malloc(1 << 20);
    model_size = fread(model_bytes, 1, 1 << 20, f);
    fclose(f);
    json_error_t e;
    fixtures = json_load_file(DATA "strings.json", 0, &e);
    return fixtures && model_size ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(fixtures);
    free(model_bytes);
    return 0;
}

static void assert_cleans(const json_t *row, t3v_clean_mode mode)
{
    const char *text = json_string_value(json_array_get(row, 0)),
               *want = json_string_value(json_array_get(row, 1));
    char *got;
    assert_int_equal(t3v_text_clean(text, mode, &got), T3V_OK);
    if (strcmp(got, want) != 0) print_error("text \"%s\"\n", text);
    assert_string_equal(got, want);
    free(got);
}

static void cleaning_is_the_official_one(void **state)
{
    (void)state;
    size_t i;
    json_t *row, *full = json_object_get(fixtures, "full"), *plain = json_object_get(fixtures, "no_ftfy");
    assert_true(json_array_size(full) >= 2000 && json_array_size(plain) >= 400);
    json_array_foreach(full, i, row) assert_cleans(row, T3V_CLEAN_FULL);
    json_array_foreach(plain, i, row) assert_cleans(row, T3V_CLEAN_NO_FTFY);
}

static void ids_are_sentencepieces_and_the_restated_ones(void **state)
{
    (void)state;
    t3v_tokenizer *tok;
    t3v_spiece_model m;
    assert_int_equal(t3v_tokenizer_open(DATA "tiny.model", &tok), T3V_OK);
    assert_int_equal(t3v_spiece_model_parse(model_bytes, model_size, &m), T3V_OK);
    assert_int_equal(t3v_tokenizer_vocab_size(tok), m.pieces);
    size_t i, k;
    json_t *row, *id;
    size_t fallbacks = 0;
    json_array_foreach(json_object_get(fixtures, "full"), i, row)
    {
        const char *text = json_string_value(json_array_get(row, 0)), *cut;
        const char *cleaned = json_string_value(json_array_get(row, 1));
        json_t *want = json_array_get(row, 2);
        int32_t ids[T3V_TEXT_LEN];
        int n;
        assert_int_equal(t3v_tokenizer_encode(tok, text, T3V_CLEAN_FULL, ids, T3V_TEXT_LEN, &n, &cut),
                         T3V_OK);
        size_t count;
        int32_t *restated = restated_encode(&m, cleaned, strlen(cleaned), &count);
        if ((size_t)n != json_array_size(want) || (size_t)n != count + 1) print_error("text \"%s\"\n", text);
        assert_int_equal(n, json_array_size(want));
        assert_int_equal(n, count + 1);
        assert_null(cut);
        json_array_foreach(want, k, id)
        {
            if (ids[k] != json_integer_value(id) || (k < count && restated[k] != ids[k]))
                print_error("id %zu of \"%s\"\n", k, text);
            assert_int_equal(ids[k], json_integer_value(id));
            assert_int_equal(ids[k], k < count ? restated[k] : T3V_SPIECE_EOS);
            fallbacks += m.piece[ids[k]].type == T3V_SPIECE_BYTE;
        }
        free(restated);
    }
    assert_true(fallbacks > 500); /* the fixtures exercise byte fallback */
    t3v_spiece_model_free(&m);
    t3v_tokenizer_close(tok);
}

static void an_empty_prompt_is_eos(void **state)
{
    (void)state;
    t3v_tokenizer *tok;
    assert_int_equal(t3v_tokenizer_open_memory(model_bytes, model_size, &tok), T3V_OK);
    static const char *const empty[] = {"", "   ", "\n&nbsp;\t", "\xe2\x80\x8b"};
    for (size_t i = 0; i < 4; i++) {
        int32_t ids[4];
        int n;
        const char *cut;
        assert_int_equal(t3v_tokenizer_encode(tok, empty[i], T3V_CLEAN_FULL, ids, 4, &n, &cut), T3V_OK);
        assert_int_equal(n, 1);
        assert_int_equal(ids[0], 1);
        assert_null(cut);
        assert_int_equal(t3v_tokenizer_encode(tok, empty[i], T3V_CLEAN_FULL, ids, 0, &n, &cut), T3V_E_ARG);
    }
    t3v_tokenizer_close(tok);
}

/* For every room: the first ids of the whole, EOS, and the first word whose pieces do not all fit. */
static void the_cut_names_the_first_word_lost(void **state)
{
    (void)state;
    static const char *const words[] = {"The",
                                        "camera",
                                        "follows",
                                        "\xf0\x9f\x8e\xac\xf0\x9f\x8e\xac",
                                        "harbour",
                                        "\303\274ber",
                                        "\xe9\x9b\xa8\xe4\xb8\xad",
                                        "zzqx",
                                        "light"};
    enum { WORDS = sizeof words / sizeof *words };
    t3v_tokenizer *tok;
    t3v_spiece_model m;
    assert_int_equal(t3v_tokenizer_open_memory(model_bytes, model_size, &tok), T3V_OK);
    assert_int_equal(t3v_spiece_model_parse(model_bytes, model_size, &m), T3V_OK);
    char *text = calloc(1, 1 << 15);
    size_t ends[2000], all, count = 0; /* pieces up to and including each word */
    for (; count < 400; count++) {
        if (count) strcat(text, " ");
        strcat(text, words[count * 7 % WORDS]);
        free(restated_encode(&m, text, strlen(text), &ends[count]));
    }
    int32_t *whole = restated_encode(&m, text, strlen(text), &all);
    assert_true(all > 600);
    for (int max = 1; max <= (int)all + 3; max += max < 80 ? 1 : 37) {
        int32_t ids[5000];
        int n;
        const char *cut;
        assert_int_equal(t3v_tokenizer_encode(tok, text, T3V_CLEAN_FULL, ids, max, &n, &cut), T3V_OK);
        if ((size_t)max > all) {
            assert_int_equal(n, all + 1);
            assert_null(cut);
        } else {
            size_t w = 0;
            while (ends[w] <= (size_t)max - 1) w++;
            assert_int_equal(n, max);
            assert_non_null(cut);
            assert_string_equal(cut, words[w * 7 % WORDS]);
        }
        assert_memory_equal(ids, whole, (size_t)(n - 1) * sizeof *ids);
        assert_int_equal(ids[n - 1], 1);
    }
    free(whole);
    free(text);
    t3v_spiece_model_free(&m);
    t3v_tokenizer_close(tok);
}

static void text_that_is_not_utf8_is_named_by_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *offset;
    } bad[] = {
        {"\xff", "offset 0"},
        {"ab\x80", "offset 2"},
        {"\xc3\xa9\xc3", "offset 2"},
        {"x\xc0\xaf", "offset 1"},
        {"caf\xe9 noir", "offset 3"},
        {"\xed\xa0\x80", "offset 0"},
        {"a\xf4\x90\x80\x80", "offset 1"},
        {"abc\xe2\x82", "offset 3"},
        {"\xf0\x80\x80\xaf", "offset 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *out;
        assert_int_equal(t3v_text_clean(bad[i].text, T3V_CLEAN_FULL, &out), T3V_E_FORMAT);
        assert_null(out);
        assert_non_null(strstr(t3v_error_text(), bad[i].offset));
    }
    char *out, *big = malloc(T3V_PROMPT_MAX + 2);
    memset(big, 'a', T3V_PROMPT_MAX + 1);
    big[T3V_PROMPT_MAX + 1] = 0;
    assert_int_equal(t3v_text_clean(big, T3V_CLEAN_NONE, &out), T3V_E_TOO_BIG);
    big[T3V_PROMPT_MAX] = 0;
    assert_int_equal(t3v_text_clean(big, T3V_CLEAN_NONE, &out), T3V_OK);
    free(out);
    strcpy(big, "&");
    for (int i = 0; i < 60; i++) strcat(big, "amp;");
    assert_int_equal(t3v_text_clean(big, T3V_CLEAN_FULL, &out), T3V_OK);
    assert_string_equal(out, "&");
    free(out);
    for (int i = 0; i < 60; i++) strcat(big, "amp;");
    assert_int_equal(t3v_text_clean(big, T3V_CLEAN_FULL, &out), T3V_E_TOO_BIG);
    assert_non_null(strstr(t3v_error_text(), "nested"));
    free(big);
}

/* Whatever the bytes: an error, or a tokenizer that works. */
static bool survives(const void *data, size_t n)
{
    t3v_tokenizer *tok;
    int32_t ids[64];
    int count;
    t3v_status st = t3v_tokenizer_open_memory(data, n, &tok);
    if (st) {
        assert_null(tok);
        assert_true(strlen(t3v_error_text()) > 10);
        return false;
    }
    t3v_tokenizer_encode(tok, "a red kite \xf0\x9f\x8e\xac \xef\xbc\xa1\xe2\x91\xa0", T3V_CLEAN_NONE, ids, 64,
                         &count, NULL);
    t3v_tokenizer_close(tok);
    return true;
}

static void broken_model_files_are_refused(void **state)
{
    (void)state;
    char *copy = malloc(model_size);
    memcpy(copy, model_bytes, model_size);
    assert_true(survives(copy, model_size));
    int refused = 0, tried = 0;
    for (size_t n = 0; n < model_size; n += 1 + model_size / 61, tried++)
        refused += !survives(model_bytes, n);
    assert_int_equal(refused, tried);
    /* Bit flips, every place in turn; most of the file is pieces and the charsmap. */
    refused = tried = 0;
    for (size_t i = 0; i < 120; i++, tried++) {
        size_t at = i * (model_size / 120) + i % 7;
        copy[at] = (char)(copy[at] ^ 1 << i % 8);
        refused += !survives(copy, model_size);
        copy[at] = model_bytes[at];
    }
    assert_true(refused > tried / 20);
    free(copy);
    t3v_tokenizer *tok;
    assert_int_equal(t3v_tokenizer_open(DATA "absent.model", &tok), T3V_E_IO);
    assert_int_equal(t3v_tokenizer_open("tests", &tok), T3V_E_IO);
}

/* ---- models written by hand, each with one thing wrong --------------------------------------------- */

typedef struct bytes {
    unsigned char at[16384];
    size_t n;
} bytes;

static void put(bytes *b, const void *data, size_t n) { memcpy(b->at + b->n, data, n), b->n += n; }

static void put_varint(bytes *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) b->at[b->n++] = (unsigned char)(v | 0x80);
    b->at[b->n++] = (unsigned char)v;
}

static void put_bytes(bytes *b, unsigned number, const void *data, size_t n)
{
    put_varint(b, number << 3 | 2);
    put_varint(b, n);
    put(b, data, n);
}

static void put_piece(bytes *b, const char *text, float score, unsigned type)
{
    bytes p = {.n = 0};
    put_bytes(&p, 1, text, strlen(text));
    put_varint(&p, 2 << 3 | 5);
    put(&p, &score, 4);
    put_varint(&p, 3 << 3);
    put_varint(&p, type);
    put_bytes(b, 1, p.at, p.n);
}

static void put_usual(bytes *b)
{
    put_piece(b, "<pad>", 0, 3);
    put_piece(b, "</s>", 0, 3);
    put_piece(b, "<s>", 0, 3);
    put_piece(b, "<unk>", 0, 2);
    put_piece(b, "\xe2\x96\x81", -2, 1);
    put_piece(b, "a", -3, 1);
}

/* A charsmap of 512 units whose trie says: 'A' leads to base `to`, which holds the replacement `value`. */
static void put_charsmap(bytes *b, uint32_t to, uint32_t value, const char *text, size_t text_n,
                         uint32_t trie)
{
    uint32_t units[512];
    bytes map = {.n = 0}, spec = {.n = 0};
    for (int i = 0; i < 512; i++) units[i] = 0x80000000u;
    units[0] = 256u << 10; /* base 256 */
    units[256 ^ 'A'] = 'A' | 1u << 8 | (256u ^ 'A' ^ to) << 10;
    if (to < 512) units[to] = 0x80000000u | value;
    put(&map, &trie, 4);
    put(&map, units, sizeof units);
    put(&map, text, text_n);
    put_bytes(&spec, 2, map.at, map.n);
    put_bytes(b, 3, spec.at, spec.n);
}

static void assert_refused(const bytes *b, t3v_status status, const char *why)
{
    t3v_tokenizer *tok;
    if (t3v_tokenizer_open_memory(b->at, b->n, &tok) != status || !strstr(t3v_error_text(), why))
        fail_msg("expected \"%s\", got \"%s\"", why, t3v_error_text());
}

static void each_rule_of_a_model_is_checked(void **state)
{
    (void)state;
    static bytes b;
    t3v_tokenizer *tok;
    int32_t ids[8];
    int n;
#define MODEL(...) b.n = 0, put_usual(&b), __VA_ARGS__
    MODEL((void)0);
    assert_int_equal(t3v_tokenizer_open_memory(b.at, b.n, &tok), T3V_OK);
    assert_int_equal(t3v_tokenizer_encode(tok, "a xy", T3V_CLEAN_FULL, ids, 8, &n, NULL), T3V_OK);
    assert_int_equal(n, 5); /* ▁ a ▁ <unk> EOS */
    assert_int_equal(ids[3], 3);
    t3v_tokenizer_close(tok);
    MODEL(put_charsmap(&b, 1, 2, "z\0a\0", 4, 2048));
    assert_int_equal(t3v_tokenizer_open_memory(b.at, b.n, &tok), T3V_OK);
    assert_int_equal(t3v_tokenizer_encode(tok, "A", T3V_CLEAN_FULL, ids, 8, &n, NULL), T3V_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[1], 5);
    t3v_tokenizer_close(tok);

    b.n = 0;
    assert_refused(&b, T3V_E_FORMAT, "0 pieces");
    MODEL(put_piece(&b, "", -1, 1));
    assert_refused(&b, T3V_E_FORMAT, "piece 6 is empty");
    MODEL(put_piece(&b, "\xff", -1, 1));
    assert_refused(&b, T3V_E_FORMAT, "not text in UTF-8");
    MODEL(put_piece(&b, "a", -1, 1));
    assert_refused(&b, T3V_E_FORMAT, "are the same");
    MODEL(put_piece(&b, "b", -1, 7));
    assert_refused(&b, T3V_E_FORMAT, "has type 7");
    MODEL(put_piece(&b, "b", 0.0f / 0.0f, 1));
    assert_refused(&b, T3V_E_FORMAT, "has score");
    MODEL(put_piece(&b, "<x>", 0, 2));
    assert_refused(&b, T3V_E_FORMAT, "both unknown");
    MODEL(put_piece(&b, "<0x41>", 0, 6));
    assert_refused(&b, T3V_E_FORMAT, "cannot be a byte piece");
    MODEL(put_bytes(&b, 2, "\x98\x02\x01", 3)); /* byte_fallback */
    assert_refused(&b, T3V_E_FORMAT, "0 of 256");
    MODEL(put_bytes(&b, 2, "\x18\x02", 2)); /* model_type BPE */
    assert_refused(&b, T3V_E_UNSUPPORTED, "only unigram");
    MODEL(put_varint(&b, 1 << 3 | 0), put_varint(&b, 5));
    assert_refused(&b, T3V_E_FORMAT, "wire type");
    MODEL(put_varint(&b, 9 << 3 | 3));
    assert_refused(&b, T3V_E_FORMAT, "malformed");
    b.n = 0, put_piece(&b, "<unk>", 0, 2), put_piece(&b, "<s>", 0, 3), put_piece(&b, "</s>", 0, 3),
    put_piece(&b, "a", 0, 1);
    assert_refused(&b, T3V_E_UNSUPPORTED, "not a umT5 tokenizer");
    MODEL(put_charsmap(&b, 1, 4, "z\0a\0", 4, 2048)); /* no such replacement */
    assert_refused(&b, T3V_E_FORMAT, "trie is broken");
    MODEL(put_charsmap(&b, 512, 0, "z\0a\0", 4, 2048)); /* leads outside */
    assert_refused(&b, T3V_E_FORMAT, "trie is broken");
    MODEL(put_charsmap(&b, 256, 0, "z\0a\0", 4, 2048)); /* leads back to itself */
    assert_refused(&b, T3V_E_FORMAT, "trie is broken");
    MODEL(put_charsmap(&b, 1, 0, "z\0a", 3, 2048));
    assert_refused(&b, T3V_E_FORMAT, "NUL-terminated");
    MODEL(put_charsmap(&b, 1, 0, "\xff\0", 2, 2048));
    assert_refused(&b, T3V_E_FORMAT, "NUL-terminated");
    MODEL(put_charsmap(&b, 1, 1, "\xc3\xa9\0", 3, 2048)); /* inside a character */
    assert_refused(&b, T3V_E_FORMAT, "trie is broken");
    MODEL(put_charsmap(&b, 1, 0, "a\0", 2, 4096));
    assert_refused(&b, T3V_E_FORMAT, "charsmap's trie has");
    MODEL(put_charsmap(&b, 1, 0, "a\0", 2, 2047));
    assert_refused(&b, T3V_E_FORMAT, "charsmap's trie has");
#undef MODEL
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cleaning_is_the_official_one),
        cmocka_unit_test(ids_are_sentencepieces_and_the_restated_ones),
        cmocka_unit_test(an_empty_prompt_is_eos),
        cmocka_unit_test(the_cut_names_the_first_word_lost),
        cmocka_unit_test(text_that_is_not_utf8_is_named_by_offset),
        cmocka_unit_test(broken_model_files_are_refused),
        cmocka_unit_test(each_rule_of_a_model_is_checked),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
