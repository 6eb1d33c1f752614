/* SPDX-License-Identifier: Apache-2.0 */
/* One tokenizer in every form that it comes in gives one set of ids, those of libsentencepiece (text/strings.json); broken
 * forms are refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/file.h"
#include "io/gguf_write.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"
#include "tokenizer_forms.h"

#define DATA "tests/golden/text/"

static t3v_map model;
static t3v_spiece_model pieces;
static char path[64];

static int load(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/t3v-tokenizer-%d", (int)getpid());
    return t3v_map_open(&model, DATA "tiny.model") || t3v_spiece_model_parse(model.data, model.size, &pieces);
}

static int unload(void **state)
{
    (void)state;
    t3v_spiece_model_free(&pieces);
    t3v_map_close(&model);
    return unlink(path);
}

static void write_json(const json_t *root)
{
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (t3v_write_text(path, text, strlen(text))) fail_msg("%s", t3v_error_text());
    free(text);
}

/* The tokenizer at `path` gives every text the ids that it should have. */
static void expect_ids(void)
{
    t3v_tokenizer *tok;
    if (t3v_tokenizer_open(path, &tok)) fail_msg("%s", t3v_error_text());
    assert_int_equal(t3v_tokenizer_vocab_size(tok), pieces.pieces);
    json_t *j, *row;
    if (t3v_json_load(&j, DATA "strings.json")) fail_msg("%s", t3v_error_text());
    json_t *rows = json_object_get(j, "full");
    size_t i, k;
    assert_true(json_array_size(rows) > 2000);
    json_array_foreach(rows, i, row)
    {
        int32_t ids[T3V_TEXT_LEN];
        int n;
        const char *text = json_string_value(json_array_get(row, 1));
        json_t *want = json_array_get(row, 2), *id;
        if (t3v_tokenizer_encode(tok, text, T3V_CLEAN_NONE, ids, T3V_TEXT_LEN, &n, NULL))
            fail_msg("%s", t3v_error_text());
        if ((size_t)n != json_array_size(want)) fail_msg("%s: %d ids", text, n);
        json_array_foreach(want, k, id) if (ids[k] != json_integer_value(id))
            fail_msg("%s: id %zu is %d", text, k, (int)ids[k]);
    }
    json_decref(j);
    t3v_tokenizer_close(tok);
}

static void from_json(void **state)
{
    (void)state;
    json_t *root = tokenizer_json_of(&pieces);
    write_json(root);
    expect_ids();
    /* As older releases wrote it. */
    json_t *words = json_pack("{s:s, s:[{s:s}, {s:s, s:s, s:b}]}", "type", "Sequence", "pretokenizers",
                              "type", "WhitespaceSplit", "type", "Metaspace", "replacement", "\xe2\x96\x81",
                              "add_prefix_space", 1);
    json_object_set_new(root, "pre_tokenizer", words);
    write_json(root);
    expect_ids();
    json_decref(root);
}

static void from_weights(void **state)
{
    (void)state;
    static const float weight[4];
    t3v_tensor_entry e[] = {
        {.name = "shared.weight", .dtype = T3V_F32, .ndim = 2, .shape = {2, 2}, .data = weight},
        {.name = "spiece_model",
         .dtype = T3V_U8,
         .ndim = 1,
         .shape = {(int64_t)model.size},
         .data = model.data}};
    t3v_tokenizer *tok;
    for (int i = 0; i < 2; i++) {
        e[1].name = i ? "text_encoders.spiece_model" : "spiece_model";
        if (t3v_safetensors_write(path, e, 2, NULL, 0)) fail_msg("%s", t3v_error_text());
        expect_ids();
    }
    e[1].name = "my_spiece_model"; /* another name, none, another type */
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            e[1] = (t3v_tensor_entry){
                .name = "spiece_model", .dtype = T3V_F32, .ndim = 1, .shape = {4}, .data = weight};
        if (t3v_safetensors_write(path, e, i == 1 ? 1 : 2, NULL, 0)) fail_msg("%s", t3v_error_text());
        assert_int_equal(t3v_tokenizer_open(path, &tok), T3V_E_FORMAT);
        assert_null(tok);
        assert_non_null(strstr(t3v_error_text(), "no tokenizer inside"));
    }
}

/* The tokenizer's keys as programs write them; `without` one of them, with its last value only. */
static void write_gguf(const char *without, bool sentinels)
{
    int32_t n = pieces.pieces + (sentinels ? 2 : 0);
    const char **text = calloc((size_t)n, sizeof *text);
    uint32_t *length = calloc((size_t)n, sizeof *length);
    float *score = calloc((size_t)n, sizeof *score);
    int32_t *type = calloc((size_t)n, sizeof *type);
    for (int32_t i = 0; i < pieces.pieces; i++) {
        text[i] = pieces.piece[i].text;
        length[i] = pieces.piece[i].len;
        score[i] = pieces.piece[i].score;
        type[i] = pieces.piece[i].type;
    }
    for (int32_t i = pieces.pieces; i < n; i++) { /* after the model's own: a sentinel, a filler */
        text[i] = i == pieces.pieces ? "<extra_id_7>" : "[PAD99]";
        length[i] = (uint32_t)strlen(text[i]);
        score[i] = i == pieces.pieces ? -1000 : -10000;
        type[i] = i == pieces.pieces ? T3V_SPIECE_USER_DEFINED : T3V_SPIECE_UNUSED;
    }
    t3v_gguf_keys k = {0};
    static const float weight[32];
#define HAS(name) (strcmp(without, name) != 0)
    uint64_t fewer = (uint64_t)n - 1;
    if (HAS("model")) t3v_gguf_text(&k, "tokenizer.ggml.model", "t5");
    else t3v_gguf_text(&k, "tokenizer.ggml.model", "gpt2");
    if (HAS("tokens")) t3v_gguf_texts(&k, "tokenizer.ggml.tokens", text, length, (uint64_t)n);
    t3v_gguf_f32s(&k, "tokenizer.ggml.scores", score, HAS("scores") ? (uint64_t)n : fewer);
    if (!HAS("token_type")) type[5] = 7;
    t3v_gguf_i32s(&k, "tokenizer.ggml.token_type", type, (uint64_t)n);
    t3v_gguf_u32(&k, "tokenizer.ggml.unknown_token_id",
                 HAS("unknown_token_id") ? (uint32_t)pieces.unk : (uint32_t)n);
    t3v_gguf_bool(&k, "tokenizer.ggml.add_space_prefix", true);
    t3v_gguf_bool(&k, "tokenizer.ggml.remove_extra_whitespaces", true);
    if (HAS("precompiled_charsmap"))
        t3v_gguf_bytes(&k, "tokenizer.ggml.precompiled_charsmap", pieces.charsmap.units - 4,
                       4 + 4 * pieces.charsmap.n_units + pieces.charsmap.text_bytes);
    else t3v_gguf_u32(&k, "tokenizer.ggml.precompiled_charsmap", 1);
    const t3v_tensor_entry e = {
        .name = "token_embd.weight", .dtype = T3V_F32, .ndim = 1, .shape = {32}, .data = weight};
    t3v_gguf_writer *w;
    if (t3v_gguf_begin(&w, path, &k, &e, 1) || t3v_gguf_append(w, weight, sizeof weight) ||
        t3v_gguf_finish(w))
        fail_msg("%s", t3v_error_text());
    t3v_gguf_keys_free(&k);
    free(text);
    free(length);
    free(score);
    free(type);
}

static void from_gguf(void **state)
{
    (void)state;
    write_gguf("", false);
    expect_ids();
    write_gguf("", true);
    t3v_tokenizer *tok;
    if (t3v_tokenizer_open(path, &tok)) fail_msg("%s", t3v_error_text());
    assert_int_equal(t3v_tokenizer_vocab_size(tok), pieces.pieces + 2);
    int32_t ids[64];
    int n;
    if (t3v_tokenizer_encode(tok, "<extra_id_7> [PAD99]", T3V_CLEAN_NONE, ids, 64, &n, NULL))
        fail_msg("%s", t3v_error_text());
    for (int i = 0; i < n; i++) assert_true(ids[i] < pieces.pieces);
    t3v_tokenizer_close(tok);
    static const struct {
        const char *key, *word;
        t3v_status want;
    } bad[] = {{"model", "model", T3V_E_UNSUPPORTED},
               {"tokens", "no tokenizer inside", T3V_E_FORMAT},
               {"scores", "scores", T3V_E_FORMAT},
               {"token_type", "token_type", T3V_E_FORMAT},
               {"unknown_token_id", "unknown_token_id", T3V_E_FORMAT},
               {"precompiled_charsmap", "precompiled_charsmap", T3V_E_FORMAT}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_gguf(bad[i].key, false);
        assert_int_equal(t3v_tokenizer_open(path, &tok), bad[i].want);
        assert_null(tok);
        if (!strstr(t3v_error_text(), bad[i].word)) fail_msg("'%s': no %s", t3v_error_text(), bad[i].word);
    }
}

/* Settings of the text before pieces are those of the file. */
static void settings(void **state)
{
    (void)state;
    json_t *root = tokenizer_json_of(&pieces);
    json_t *words = json_object_get(root, "pre_tokenizer"), *m = json_object_get(root, "model");
    static const struct {
        const char *scheme;
        bool normalizer, bytes;
    } form[] = {{"always", true, true},
                {"never", true, true},
                {"always", false, true},
                {"first", true, false}};
    json_t *normalizer = json_incref(json_object_get(root, "normalizer"));
    for (size_t i = 0; i < sizeof form / sizeof *form; i++) {
        json_object_set_new(words, "prepend_scheme", json_string(form[i].scheme));
        json_object_set(root, "normalizer", form[i].normalizer ? normalizer : json_null());
        json_object_set_new(m, "byte_fallback", json_boolean(form[i].bytes));
        char *text = json_dumps(root, 0);
        unsigned char *bytes;
        size_t n;
        t3v_spiece_model made;
        if (t3v_tokenizer_json("t", text, strlen(text), &bytes, &n) ||
            t3v_spiece_model_parse(bytes, n, &made))
            fail_msg("%s", t3v_error_text());
        assert_int_equal(made.add_dummy_prefix, strcmp(form[i].scheme, "never") != 0);
        assert_int_equal(made.remove_extra_whitespaces, form[i].normalizer);
        assert_int_equal(made.charsmap.units != NULL, form[i].normalizer);
        assert_int_equal(made.byte_fallback, form[i].bytes);
        assert_int_equal(made.unk, pieces.unk);
        assert_int_equal(made.piece[2].type, T3V_SPIECE_CONTROL);
        if (form[i].normalizer) { /* the table as it was */
            size_t units = 4 * pieces.charsmap.n_units;
            assert_int_equal(made.charsmap.text_bytes, pieces.charsmap.text_bytes);
            assert_memory_equal(made.charsmap.units, pieces.charsmap.units, units);
            assert_memory_equal(made.charsmap.text, pieces.charsmap.text, pieces.charsmap.text_bytes);
        }
        t3v_spiece_model_free(&made);
        free(bytes);
        free(text);
    }
    json_decref(normalizer);
    json_decref(root);
}

static void refused(const char *text, t3v_status want, const char *word)
{
    unsigned char *bytes;
    size_t n;
    t3v_status st = t3v_tokenizer_json("t.json", text, strlen(text), &bytes, &n);
    assert_null(bytes);
    assert_int_equal(st, want);
    if (!strstr(t3v_error_text(), word)) fail_msg("'%s' does not have '%s'", t3v_error_text(), word);
}

static void broken(void **state)
{
    (void)state;
#define WORDS "\"pre_tokenizer\":{\"type\":\"Metaspace\"}"
#define VOCAB "\"vocab\":[[\"<pad>\",0],[\"</s>\",0],[\"<unk>\",0],[\"a\",-1]]"
#define MODEL "\"model\":{\"type\":\"Unigram\",\"unk_id\":2," VOCAB "}"
    unsigned char *bytes;
    size_t n;
    static const char good[] = "{" WORDS "," MODEL "}";
    if (t3v_tokenizer_json("t.json", good, sizeof good - 1, &bytes, &n)) fail_msg("%s", t3v_error_text());
    free(bytes);
    refused("{", T3V_E_FORMAT, "t.json");
    size_t many = (size_t)9 << 20;
    char *brackets = malloc(many + 1);
    memset(brackets, '[', many);
    brackets[many] = 0;
    refused(brackets, T3V_E_TOO_BIG, "values");
    free(brackets);
    refused("{}", T3V_E_FORMAT, "pre_tokenizer");
    refused("{" WORDS "}", T3V_E_FORMAT, "model");
    refused("{" WORDS ",\"model\":{\"type\":\"BPE\"}}", T3V_E_UNSUPPORTED, "BPE");
    refused("{" WORDS ",\"model\":{\"unk_id\":4," VOCAB "}}", T3V_E_FORMAT, "unk_id");
    refused("{" WORDS ",\"model\":{\"unk_id\":null," VOCAB "}}", T3V_E_FORMAT, "unk_id");
    refused("{" WORDS ",\"model\":{\"unk_id\":0,\"vocab\":[]}}", T3V_E_FORMAT, "0 pieces");
    refused("{" WORDS ",\"model\":{\"unk_id\":0,\"vocab\":[[\"a\",0],[\"b\",0],[\"c\"],[\"d\",0]]}}",
            T3V_E_FORMAT, "entry 2");
    refused("{" WORDS ",\"model\":{\"unk_id\":0,\"vocab\":[[\"a\",0],[\"b\",0],[1,0],[\"d\",0]]}}",
            T3V_E_FORMAT, "entry 2");
    refused("{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," MODEL "}", T3V_E_UNSUPPORTED, "ByteLevel");
    refused("{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}," MODEL "}", T3V_E_UNSUPPORTED,
            "U+2581");
    refused("{" WORDS ",\"normalizer\":{\"type\":\"Lowercase\"}," MODEL "}", T3V_E_UNSUPPORTED, "Lowercase");
    refused("{" WORDS ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}," MODEL "}",
            T3V_E_UNSUPPORTED, "Replace");
    refused("{" WORDS ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"ab=c\"}," MODEL
            "}",
            T3V_E_FORMAT, "base64");
    refused("{" WORDS ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"abc\"}," MODEL
            "}",
            T3V_E_FORMAT, "base64");
    refused("{" WORDS ",\"added_tokens\":[{\"id\":3,\"content\":\"b\"}]," MODEL "}", T3V_E_FORMAT,
            "piece 'a'");
    refused("{" WORDS ",\"added_tokens\":[{\"id\":-1,\"content\":\"b\"}]," MODEL "}", T3V_E_FORMAT, "id");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_json), cmocka_unit_test(from_weights), cmocka_unit_test(from_gguf),
        cmocka_unit_test(settings),  cmocka_unit_test(broken),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
