/* SPDX-License-Identifier: Apache-2.0 */
/* Captions in every form, frames that cover a size, and data sets: whole ones are read, damaged and foreign
 * ones refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "folder.h"
#include "io/captions.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "tensor/dtype.h"
#include "train/dataset.h"
#include "video/video.h"

/* ---- captions ----------------------------------------------------------------------------------------- */

static t3v_prompts parse(const char *text)
{
    t3v_prompts p;
    if (t3v_captions_parse(&p, "c", text, strlen(text))) fail_msg("%s", t3v_error_text());
    return p;
}

static void refused(const char *text, const char *why)
{
    t3v_prompts p;
    failed(t3v_captions_parse(&p, "c", text, strlen(text)), T3V_E_FORMAT, why);
    assert_int_equal(p.count, 0);
}

static void captions_csv(void **state)
{
    (void)state;
    t3v_prompts p = parse("\xEF\xBB\xBF"
                          "file,seconds,caption\r\nb.mp4,3,\"A cat, \"\"Tom\"\"\r\non a mat\"\r\n\r\n"
                          "./a.mp4,,  two words \r\nsub/c.mp4,\"\",\"x\"");
    assert_int_equal(p.count, 3);
    assert_string_equal(p.item[0].file, "a.mp4");
    assert_string_equal(p.item[0].text, "two words");
    assert_string_equal(p.item[1].text, "A cat, \"Tom\"\r\non a mat");
    assert_string_equal(p.item[2].file, "sub/c.mp4");
    assert_string_equal(t3v_captions_find(&p, "b.mp4"), p.item[1].text);
    assert_null(t3v_captions_find(&p, "B.mp4"));
    t3v_prompts_free(&p);
    p = parse("caption,file\nx,a\n");
    assert_string_equal(t3v_captions_find(&p, "a"), "x");
    t3v_prompts_free(&p);

    refused("", "no captions");
    refused("name,caption\na,b\n", "line 1: expected the names of columns");
    refused("file,file,caption\na,b,c\n", "line 1: a column's name comes twice");
    refused("file,caption\na,b,c\n", "line 2: 3 fields, the first row has 2");
    refused("file,caption\na,\"b\nb\"\n\nc\n", "line 5: 1 fields");
    refused("file,caption\na,\"b\n", "line 2: a quoted field does not end");
    refused("file,caption\na,\"b\"c\n", "line 2: text after the closing quote");
    refused("file,caption\na,b\"c\"\n", "line 2: a quote inside");
    refused("file,caption\na,b\rc\n", "line 2: a carriage return");
    refused("file,caption\na,  \n", "line 2: caption: expected a text");
    refused("file,caption\n,b\n", "line 2: file: expected");
    refused("file,caption\n/a,b\n", "line 2: file: expected");
    refused("file,caption\na/../../b,b\n", "line 2: file: expected");
    refused("file,caption\na,b\n./a,c\n", "a has two captions");
    refused("file,caption\na,\xff\n", "not UTF-8");
    static const char zero[] = "file,caption\na,b\0c\n";
    failed(t3v_captions_parse(&p, "c", zero, sizeof zero - 1), T3V_E_FORMAT, "a zero byte");
}

static void captions_json(void **state)
{
    (void)state;
    t3v_prompts p = parse("{\"file\":\"b\",\"caption\":\"two\"}\n \n"
                          "{\"data_file\":\"a\",\"prompt_en\":\" one\\n\",\"more\":[1]}\r\n");
    assert_int_equal(p.count, 2);
    assert_string_equal(p.item[0].text, "one");
    assert_string_equal(p.item[1].text, "two");
    t3v_prompts_free(&p);
    p = parse(
        "\n[{\"prompt_en\":\"one\",\"data_file\":\"z/a\"}, {\"prompt_en\":\"two\",\"data_file\":\"b\"}]");
    assert_int_equal(p.count, 2);
    assert_string_equal(t3v_captions_find(&p, "z/a"), "one");
    t3v_prompts_free(&p);

    refused("{\"file\":\"a\",\"caption\":\"b\"}\n{\"file\":\"a\"", "line 2, column");
    refused("{\"file\":\"a\",\"caption\":\"b\"}\n[]\n", "line 2: expected {");
    refused("{\"file\":\"a\"}\n", "line 1: caption");
    refused("{\"caption\":\"a\"}\n", "line 1: file");
    refused("{\"file\":3,\"caption\":\"a\"}\n", "line 1: file");
    refused("{\"file\":\"../a\",\"caption\":\"a\"}\n", "line 1: file");
    refused("[{\"prompt_en\":\"one\",\"data_file\":\"\"}]", "entry 0");
    refused("[{\"prompt_en\":\"one\",\"data_file\":\"a\"},{\"prompt_en\":\"two\",\"data_file\":\"./a\"}]",
            "a has two captions");
    refused("[1", "c: line 1");
}

static void captions_files(void **state)
{
    (void)state;
    t3v_prompts p;
    failed(t3v_captions_load(&p, in_dir("none.csv")), T3V_E_IO, "none.csv");
    assert_int_equal(t3v_write_text(in_dir("c.csv"), "file,caption\na,b\n", 17), T3V_OK);
    assert_int_equal(t3v_captions_load(&p, in_dir("c.csv")), T3V_OK);
    assert_int_equal(p.count, 1);
    t3v_prompts_free(&p);
}

/* ---- frames ------------------------------------------------------------------------------------------- */

enum { W = 48, H = 20 };
static float frame[3 * H * W], out[3 * 200 * 200];

static void cover(void **state)
{
    (void)state;
    /* Only cut: the middle, to the bit; beyond [-1, 1] is clamped. */
    for (int i = 0; i < 3 * H * W; i++) frame[i] = (float)(i % 997) / 400.0f - 1.2f;
    assert_int_equal(t3v_frame_cover(frame, 3, H, W, out, H, 16), T3V_OK);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < 16; x++) {
                float want = frame[(c * H + y) * W + 16 + x];
                want = want < -1 ? -1 : want > 1 ? 1 : want;
                assert_true(out[(c * H + y) * 16 + x] == want);
            }
    /* A slope keeps its places: x of the result is at (x + 1/2 + cut) / scale - 1/2 of the source. */
    static const int size[][2] = {{40, 30}, {10, 24}, {10, 10}, {30, 96}, {20, 20}};
    for (size_t k = 0; k < sizeof size / sizeof *size; k++) {
        int h = size[k][0], w = size[k][1];
        double scale = (double)h / H > (double)w / W ? (double)h / H : (double)w / W;
        int rw = (int)lround(W * scale), rh = (int)lround(H * scale);
        for (int i = 0; i < H * W; i++) {
            frame[i] = (float)(i % W) / W - 0.5f;
            frame[H * W + i] = (float)(i / W) / H - 0.5f;
        }
        assert_int_equal(t3v_frame_cover(frame, 3, H, W, out, h, w), T3V_OK);
        for (int y = 4; y < h - 4; y++)
            for (int x = 4; x < w - 4; x++) {
                double fx = ((x + (rw - w) / 2 + 0.5) * W / rw - 0.5) / W - 0.5,
                       fy = ((y + (rh - h) / 2 + 0.5) * H / rh - 0.5) / H - 0.5;
                assert_true(fabs(out[y * w + x] - fx) < 1e-3);
                assert_true(fabs(out[(h + y) * w + x] - fy) < 1e-3);
            }
    }
    /* A pattern too fine for the result becomes its mean, not a moire. */
    for (int i = 0; i < 3 * H * W; i++) frame[i] = (i % W + i / W) % 2 ? 1.0f : -1.0f;
    assert_int_equal(t3v_frame_cover(frame, 3, H, W, out, 6, 14), T3V_OK);
    for (int y = 1; y < 5; y++)
        for (int x = 1; x < 13; x++) assert_true(fabs(out[y * 14 + x]) < 0.1);
    failed(t3v_frame_cover(frame, 3, 2, W, out, 48, 48), T3V_E_ARG, "7/8");
    failed(t3v_frame_cover(frame, 3, 0, W, out, 48, 48), T3V_E_ARG, "cannot cover");
}

/* ---- data sets ---------------------------------------------------------------------------------------- */

static uint16_t latent[16 * 2 * 4 * 6];
static float context[7 * 5];

/* A file of the set; NULL model: no metadata. */
static void put_clip(const char *name, int64_t frames, int64_t rows, int64_t dim, const char *model,
                     t3v_dtype type)
{
    t3v_tensor_entry e[2] = {
        {.name = "context", .dtype = T3V_F32, .ndim = 2, .shape = {rows, dim}, .data = context},
        {.name = "latent", .dtype = type, .ndim = 4, .shape = {16, frames, 4, 6}, .data = latent}};
    t3v_meta meta[2] = {{"format", T3V_DATASET_FORMAT}, {"model", model}};
    if (t3v_safetensors_write(in_dir(name), e, frames ? 2 : 1, meta, model ? 2 : 0))
        fail_msg("%s", t3v_error_text());
}

static void put_index(const char *text)
{
    char all[2048];
    snprintf(all, sizeof all, "{\"format\":\"%s\",\"model\":\"abc\",%s}", T3V_DATASET_FORMAT, text);
    assert_int_equal(t3v_write_text(in_dir("index.json"), all, strlen(all)), T3V_OK);
}

#define SIZES "\"size\":[48,32],\"frames\":5,\"latent\":[16,2,4,6],\"dim\":5,"
#define CLIP(name) "{\"file\":\"clips/" name "\",\"source\":\"" name ".mp4\",\"caption\":\"of " name "\"}"

static void put_set(void)
{
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++) latent[i] = t3v_f32_to_bf16((float)i);
    for (int i = 0; i < 7 * 5; i++) context[i] = (float)i / 3;
    put_clip("clips/a", 2, 3, 5, "abc", T3V_BF16);
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++) latent[i] = t3v_f32_to_bf16(-(float)i);
    put_clip("clips/b", 2, 7, 5, "abc", T3V_BF16);
    put_clip("empty.safetensors", 0, 1, 5, "abc", T3V_BF16);
    put_index(SIZES "\"clips\":[" CLIP("a") "," CLIP("b") "]");
}

static void not_opened(t3v_status want, const char *text)
{
    t3v_dataset *d = (t3v_dataset *)&d;
    failed(t3v_dataset_open(&d, dir), want, text);
    assert_null(d);
}

static void set_is_read(void **state)
{
    (void)state;
    uint16_t z[16 * 2 * 4 * 6];
    float c[7 * 5];
    put_set();
    t3v_dataset *d;
    if (t3v_dataset_open(&d, dir)) fail_msg("%s", t3v_error_text());
    assert_int_equal(d->count, 2);
    assert_int_equal(d->dim, 5);
    assert_int_equal(d->rows_max, 7);
    assert_int_equal(d->width, 48);
    assert_int_equal(d->height, 32);
    assert_int_equal(d->frames, 5);
    assert_string_equal(d->clip[1].caption, "of b");
    assert_string_equal(d->clip[1].source, "b.mp4");
    assert_int_equal(d->clip[0].rows, 3);
    assert_int_equal(d->empty.rows, 1);
    assert_int_equal(t3v_dataset_read(d, 0, z, c), T3V_OK);
    for (size_t i = 0; i < sizeof z / sizeof *z; i++) assert_int_equal(z[i], t3v_f32_to_bf16((float)i));
    for (int i = 0; i < 3 * 5; i++) assert_true(c[i] == (float)i / 3);
    assert_int_equal(t3v_dataset_read(d, 1, z, NULL), T3V_OK);
    assert_int_equal(z[3], t3v_f32_to_bf16(-3.0f));
    assert_int_equal(t3v_dataset_read_empty(d, c), T3V_OK);
    failed(t3v_dataset_read(d, 2, z, c), T3V_E_ARG, "clip 2 of 2");
    failed(t3v_dataset_read(d, -1, z, c), T3V_E_ARG, "clip -1 of 2");
    /* Replaced while it is open. */
    put_clip("clips/b", 2, 4, 5, "abc", T3V_BF16);
    failed(t3v_dataset_read(d, 1, z, c), T3V_E_SHAPE, "4 rows, it had 7");
    latent[17] = 0x7f80;
    put_clip("clips/a", 2, 3, 5, "abc", T3V_BF16);
    failed(t3v_dataset_read(d, 0, z, c), T3V_E_FORMAT, "clips/a: latent has a number that is not finite");
    latent[17] = 0;
    context[4] = NAN;
    put_clip("clips/a", 2, 3, 5, "abc", T3V_BF16);
    failed(t3v_dataset_read(d, 0, z, c), T3V_E_FORMAT, "clips/a: context has a number that is not finite");
    t3v_dataset_close(d);
    t3v_dataset_close(NULL);
}

static void bad_clips(void **state)
{
    (void)state;
    put_set();
    put_clip("clips/b", 1, 3, 5, "abc", T3V_BF16);
    not_opened(T3V_E_SHAPE, "clips/b: latent is [16,1,4,6], all of the set must be [16,2,4,6]");
    put_clip("clips/b", 2, 3, 4, "abc", T3V_BF16);
    not_opened(T3V_E_SHAPE, "clips/b: context is [3,4]");
    put_clip("clips/b", 2, 3, 5, "abd", T3V_BF16);
    not_opened(T3V_E_FORMAT, "clips/b was made with the weights abd, the index says abc");
    put_clip("clips/b", 2, 3, 5, NULL, T3V_BF16);
    not_opened(T3V_E_FORMAT, "clips/b: its format is ''");
    put_clip("clips/b", 2, 3, 5, "abc", T3V_F16);
    not_opened(T3V_E_DTYPE, "clips/b: expected a latent of BF16");
    put_clip("clips/b", 0, 3, 5, "abc", T3V_BF16);
    not_opened(T3V_E_FORMAT, "latent");
    put_clip("clips/b", 2, 7, 5, "abc", T3V_BF16);
    struct stat sb;
    assert_int_equal(stat(in_dir("clips/b"), &sb), 0);
    for (off_t cut = 1; cut <= sb.st_size; cut += sb.st_size / 7) {
        assert_int_equal(truncate(in_dir("clips/b"), sb.st_size - cut), 0);
        t3v_dataset *d;
        assert_int_equal(t3v_dataset_open(&d, dir), T3V_E_FORMAT);
        assert_non_null(strstr(t3v_error_text(), "clips/b"));
    }
    assert_int_equal(t3v_write_text(in_dir("clips/b"), "not a tensor file", 17), T3V_OK);
    not_opened(T3V_E_FORMAT, "clips/b");
    unlink(in_dir("clips/b"));
    not_opened(T3V_E_IO, "clips/b");
    put_set();
    unlink(in_dir("empty.safetensors"));
    not_opened(T3V_E_IO, "empty.safetensors");
}

static void bad_index(void **state)
{
    (void)state;
    put_set();
    t3v_dataset *d;
    assert_int_equal(t3v_dataset_open(&d, dir), T3V_OK);
    t3v_dataset_close(d);
    put_index(SIZES "\"clips\":[]");
    not_opened(T3V_E_FORMAT, "clips: expected a list");
    put_index(SIZES "\"clips\":{\"a\":1}");
    not_opened(T3V_E_FORMAT, "clips: expected a list");
    put_index(SIZES "\"clips\":[3]");
    not_opened(T3V_E_FORMAT, "clip 0 is not an object");
    put_index(SIZES "\"clips\":[{\"file\":\"../a\",\"source\":\"\",\"caption\":\"\"}]");
    not_opened(T3V_E_FORMAT, "clip 0: file: expected a relative path");
    put_index(SIZES "\"clips\":[{\"file\":\"clips/a\",\"source\":\"\"}]");
    not_opened(T3V_E_FORMAT, "caption");
    put_index("\"size\":[48,40],\"frames\":5,\"latent\":[16,2,4,6],\"dim\":5,\"clips\":[" CLIP("a") "]");
    not_opened(T3V_E_FORMAT, "is not of 5 frames of 48x40");
    put_index("\"size\":[48],\"frames\":5,\"latent\":[16,2,4,6],\"dim\":5,\"clips\":[" CLIP("a") "]");
    not_opened(T3V_E_FORMAT, "expected a size of 2");
    put_index("\"size\":[48,32],\"frames\":5,\"latent\":[16,2,4,6],\"dim\":0,\"clips\":[" CLIP("a") "]");
    not_opened(T3V_E_FORMAT, "dim");
    assert_int_equal(t3v_write_text(in_dir("index.json"), "{\"format\":\"x\"}", 14), T3V_OK);
    not_opened(T3V_E_FORMAT, "format is 'x'");
    assert_int_equal(t3v_write_text(in_dir("index.json"), "{", 1), T3V_OK);
    not_opened(T3V_E_FORMAT, "bad JSON");
    unlink(in_dir("index.json"));
    not_opened(T3V_E_IO, "not finished");
}

static int set_up(void **state) { return make_dir(state) || mkdir(in_dir("clips"), 0777) ? -1 : 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(captions_csv), cmocka_unit_test(captions_json), cmocka_unit_test(captions_files),
        cmocka_unit_test(cover),        cmocka_unit_test(set_is_read),   cmocka_unit_test(bad_clips),
        cmocka_unit_test(bad_index),
    };
    return cmocka_run_group_tests(tests, set_up, remove_dir);
}
