/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF files: shapes and metadata as written, folded and reshaped tensors, 8-bit scales, and every kind of damage refused
 * by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "gguf_make.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "io/view.h"
#include "pipe/convert.h"

static char dir[] = "/tmp/t3v-test-gguf-XXXXXX", path[64];

/* Opens what is in b, which is then empty. */
static t3v_status open_bytes(gguf_bytes *b, t3v_tensor_file **f)
{
    gguf_save(b, path);
    gguf_free(b);
    return t3v_tensors_open(f, path);
}

static void refused(gguf_bytes *b, t3v_status want, const char *text)
{
    t3v_tensor_file *f;
    t3v_status got = open_bytes(b, &f);
    if (got != want || !strstr(t3v_error_text(), text))
        fail_msg("status %d, wanted %d with '%s': %s", got, want, text, got ? t3v_error_text() : "");
}

static const int64_t square[] = {2, 3};

/* Alignment 32, one F32 tensor [2,3] "w" of 1..6 at offset 0. */
static void sound(gguf_bytes *b)
{
    gguf_head(b, 3, 1, 1);
    gguf_pair_text(b, "general.architecture", "wan");
    gguf_info(b, "w", 2, square, 0, 0);
    gguf_align(b, 32);
    for (int i = 1; i <= 6; i++) gguf_raw(b, &(float){(float)i}, 4);
}

static void reads_what_was_written(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_bytes b = {0};
        t3v_tensor_file *f;
        sound(&b);
        b.data[4] = (unsigned char)version;
        assert_int_equal(open_bytes(&b, &f), T3V_OK);
        assert_string_equal(f->format, "gguf");
        assert_int_equal(f->count, 1);
        assert_int_equal(f->tensors[0].ndim, 2);
        assert_int_equal(f->tensors[0].shape[0], 2);
        assert_int_equal(f->tensors[0].shape[1], 3);
        float x[6];
        assert_int_equal(t3v_tensor_copy(&f->tensors[0], x, T3V_F32), T3V_OK);
        for (int i = 0; i < 6; i++) assert_true(x[i] == (float)(i + 1));
        const char *s = NULL;
        size_t n;
        assert_int_equal(t3v_gguf_string(f, "general.architecture", true, &s, &n), T3V_OK);
        assert_true(n == 3 && memcmp(s, "wan", 3) == 0);
        assert_int_equal(f->meta_count, 1);
        assert_string_equal(f->meta[0].value, "wan");
        t3v_tensors_close(f);
    }
}

static void metadata_by_type(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    t3v_tensor_file *f;
    gguf_head(&b, 3, 0, 4);
    gguf_pair_u32(&b, "n", 7);
    gguf_pair_text(&b, "s", "text");
    gguf_text(&b, "list");
    gguf_number(&b, 9, 4), gguf_number(&b, 8, 4), gguf_number(&b, 2, 8);
    gguf_text(&b, "a"), gguf_text(&b, "");
    gguf_text(&b, "real");
    gguf_number(&b, 6, 4), gguf_raw(&b, &(float){0.5f}, 4);
    assert_int_equal(open_bytes(&b, &f), T3V_OK);
    int64_t v = 42;
    double r = 0;
    size_t n, at = 0;
    const char *s = NULL;
    const t3v_gguf_pair *p = NULL;
    assert_int_equal(t3v_gguf_int(f, "n", true, 0, 10, &v), T3V_OK);
    assert_int_equal(v, 7);
    assert_int_equal(t3v_gguf_int(f, "absent", false, 0, 10, &v), T3V_OK);
    assert_int_equal(v, 7);
    assert_int_equal(t3v_gguf_int(f, "absent", true, 0, 10, &v), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_int(f, "n", true, 0, 6, &v), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_int(f, "s", true, 0, 10, &v), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_int(f, "real", true, 0, 10, &v), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_real(f, "real", true, &r), T3V_OK);
    assert_true(r == 0.5);
    assert_int_equal(t3v_gguf_string(f, "n", true, &s, &n), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_array(f, "list", true, T3V_GGUF_I32, &p), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_array(f, "s", true, T3V_GGUF_STRING, &p), T3V_E_FORMAT);
    assert_int_equal(t3v_gguf_array(f, "list", true, T3V_GGUF_STRING, &p), T3V_OK);
    assert_int_equal(p->count, 2);
    s = t3v_gguf_string_at(p, &at, &n);
    assert_true(n == 1 && *s == 'a');
    t3v_gguf_string_at(p, &at, &n);
    assert_int_equal(n, 0);
    t3v_tensors_close(f);
}

/* An info and its data, for tensors that need more than one shape. */
static void two_tensors(gguf_bytes *b, const int64_t *weight, int ndim, int64_t bias)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= weight[i];
    gguf_info(b, "patch.weight", ndim, weight, 1, 0);
    gguf_info(b, "patch.bias", 1, &bias, 1, (uint64_t)(2 * n + 31) / 32 * 32);
    gguf_align(b, 32);
    for (int64_t i = 0; i < (n + 15) / 16 * 16 + bias; i++) gguf_number(b, 0x3c00, 2);
}

static void shape_is(const t3v_tensor_file *f, const char *name, int ndim, const int64_t *want)
{
    const t3v_tensor_entry *e = t3v_tensors_find(f, name);
    assert_non_null(e);
    assert_int_equal(e->ndim, ndim);
    assert_memory_equal(e->shape, want, (size_t)ndim * sizeof *want);
}

static void folded_and_reshaped(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    t3v_tensor_file *f;
    gguf_head(&b, 3, 2, 0); /* five axes folded to four */
    two_tensors(&b, (int64_t[]){4 * 6, 1, 2, 2}, 4, 4);
    assert_int_equal(open_bytes(&b, &f), T3V_OK);
    shape_is(f, "patch.weight", 5, (int64_t[]){4, 6, 1, 2, 2});
    t3v_tensors_close(f);
    gguf_head(&b, 3, 2, 0); /* all five */
    two_tensors(&b, (int64_t[]){4, 6, 1, 2, 2}, 5, 4);
    assert_int_equal(open_bytes(&b, &f), T3V_OK);
    shape_is(f, "patch.weight", 5, (int64_t[]){4, 6, 1, 2, 2});
    t3v_tensors_close(f);
    gguf_head(&b, 3, 2, 0); /* an ordinary convolution of images */
    two_tensors(&b, (int64_t[]){4, 6, 2, 2}, 4, 4);
    assert_int_equal(open_bytes(&b, &f), T3V_OK);
    shape_is(f, "patch.weight", 4, (int64_t[]){4, 6, 2, 2});
    t3v_tensors_close(f);
    for (int bad = 0; bad < 2; bad++) {
        gguf_head(&b, 3, 2, 1); /* a shape kept as metadata */
        gguf_text(&b, "comfy.gguf.orig_shape.patch.weight");
        gguf_number(&b, 9, 4), gguf_number(&b, 5, 4), gguf_number(&b, 5, 8);
        for (int i = 0; i < 5; i++) gguf_number(&b, (uint64_t[]){4, bad ? 7 : 6, 1, 2, 2}[i], 4);
        two_tensors(&b, (int64_t[]){2, 48}, 2, 4);
        if (bad) {
            refused(&b, T3V_E_FORMAT, "patch.weight");
            continue;
        }
        assert_int_equal(open_bytes(&b, &f), T3V_OK);
        shape_is(f, "patch.weight", 5, (int64_t[]){4, 6, 1, 2, 2});
        t3v_tensors_close(f);
    }
}

/* Rows that are no blocks in the shape that was brought back: GGUF cannot have them so, and gets another type. */
static void reshaped_rows_are_written(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    t3v_tensor_file *f;
    char out[80];
    gguf_head(&b, 3, 2, 1);
    gguf_text(&b, "comfy.gguf.orig_shape.blocks.0.self_attn.q.weight");
    gguf_number(&b, 9, 4), gguf_number(&b, 5, 4), gguf_number(&b, 2, 8);
    gguf_number(&b, 128, 4), gguf_number(&b, 16, 4);
    gguf_info(&b, "blocks.0.self_attn.q.weight", 2, (int64_t[]){64, 32}, 8, 0);
    gguf_info(&b, "patch_embedding.weight", 1, (int64_t[]){8}, 0, 64 * 34);
    gguf_align(&b, 32);
    for (int i = 0; i < 64; i++) {
        gguf_number(&b, 0x3c00, 2); /* the scale 1 */
        for (int k = 0; k < 32; k++) gguf_number(&b, (uint64_t)k, 1);
    }
    for (int i = 0; i < 8; i++) gguf_number(&b, 0, 4);
    gguf_save(&b, path);
    gguf_free(&b);
    snprintf(out, sizeof out, "%s/out.gguf", dir);
    const t3v_convert_job job = {.in = path, .out = out, .container = T3V_FILE_GGUF};
    t3v_convert_result result;
    if (t3v_convert_file(&job, &result) || t3v_tensors_open(&f, out)) fail_msg("%s", t3v_error_text());
    float x[128 * 16];
    assert_int_equal(t3v_tensors_read(f, "blocks.0.self_attn.q.weight", 2, (int64_t[]){128, 16}, x, T3V_F32),
                     T3V_OK);
    for (int i = 0; i < 128 * 16; i++) assert_true(x[i] == (float)(i % 32));
    t3v_tensors_close(f);
    unlink(out);
}

/* ---- damage ------------------------------------------------------------------------------------ */

static void truncated_anywhere(void **state)
{
    (void)state;
    gguf_bytes whole = {0};
    sound(&whole);
    for (size_t n = 4; n < whole.size; n++) {
        gguf_bytes b = {0};
        t3v_tensor_file *f;
        gguf_raw(&b, whole.data, n);
        assert_int_not_equal(open_bytes(&b, &f), T3V_OK);
    }
    gguf_free(&whole);
}

static void bad_headers(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    gguf_head(&b, 1, 0, 0);
    refused(&b, T3V_E_UNSUPPORTED, "version 1");
    gguf_head(&b, 3u << 24, 0, 0);
    refused(&b, T3V_E_UNSUPPORTED, "big-endian");
    gguf_head(&b, 3, UINT64_MAX, 0);
    refused(&b, T3V_E_FORMAT, "tensors");
    gguf_head(&b, 3, 0, UINT64_MAX / 2);
    refused(&b, T3V_E_FORMAT, "metadata pairs");
}

static void bad_metadata(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    gguf_head(&b, 3, 0, 1);
    gguf_number(&b, UINT64_MAX, 8), gguf_number(&b, 0, 16);
    refused(&b, T3V_E_FORMAT, "key");
    gguf_head(&b, 3, 0, 1);
    gguf_pair_text(&b, "", "no name");
    refused(&b, T3V_E_FORMAT, "key of 0 bytes");
    gguf_head(&b, 3, 0, 1);
    gguf_pair_u32(&b, "\xff\xfe", 1);
    refused(&b, T3V_E_FORMAT, "UTF-8");
    gguf_head(&b, 3, 0, 2);
    gguf_pair_u32(&b, "k", 1), gguf_pair_u32(&b, "k", 2);
    refused(&b, T3V_E_FORMAT, "'k' appears twice");
    gguf_head(&b, 3, 0, 1);
    gguf_text(&b, "k"), gguf_number(&b, 13, 4), gguf_number(&b, 0, 8);
    refused(&b, T3V_E_FORMAT, "type 13");
    gguf_head(&b, 3, 0, 1);
    gguf_text(&b, "k"), gguf_number(&b, 8, 4), gguf_number(&b, UINT64_MAX, 8);
    refused(&b, T3V_E_FORMAT, "k needs");
    gguf_head(&b, 3, 0, 1); /* 2^61 numbers of 8 bytes: the product overflows */
    gguf_text(&b, "k"), gguf_number(&b, 9, 4), gguf_number(&b, 10, 4), gguf_number(&b, 1ull << 61, 8);
    refused(&b, T3V_E_FORMAT, "elements");
    gguf_head(&b, 3, 0, 1);
    gguf_text(&b, "k"), gguf_number(&b, 9, 4), gguf_number(&b, 8, 4), gguf_number(&b, 1u << 30, 8);
    refused(&b, T3V_E_TOO_BIG, "strings");
    gguf_head(&b, 3, 0, 1); /* arrays in arrays */
    gguf_text(&b, "k"), gguf_number(&b, 9, 4), gguf_number(&b, 9, 4), gguf_number(&b, 1, 8);
    gguf_number(&b, 4, 4), gguf_number(&b, 0, 8);
    refused(&b, T3V_E_UNSUPPORTED, "array of arrays");
    for (int i = 0; i < 3; i++) {
        gguf_head(&b, 3, 0, 1);
        gguf_pair_u32(&b, "general.alignment", (uint32_t[]){0, 48, 0xffffffff}[i]);
        refused(&b, T3V_E_FORMAT, "general.alignment");
    }
    gguf_head(&b, 3, 0, 1);
    gguf_pair_text(&b, "general.alignment", "32");
    refused(&b, T3V_E_FORMAT, "an integer");
}

static void one_info(gguf_bytes *b, int ndim, const int64_t *shape, uint32_t type, uint64_t offset)
{
    gguf_head(b, 3, 1, 0);
    gguf_info(b, "w", ndim, shape, type, offset);
    gguf_align(b, 32);
    for (int i = 0; i < 64; i++) gguf_number(b, 0, 4);
}

static void bad_tensors(void **state)
{
    (void)state;
    gguf_bytes b = {0};
    one_info(&b, 2, square, 4, 0);
    refused(&b, T3V_E_DTYPE, "type 4");
    one_info(&b, 2, square, 23, 0);
    refused(&b, T3V_E_DTYPE, "IQ");
    one_info(&b, 2, square, 8, 0);
    refused(&b, T3V_E_FORMAT, "whole blocks of 32");
    one_info(&b, 2, (int64_t[]){1, 32}, 12, 0);
    refused(&b, T3V_E_FORMAT, "whole blocks of 256");
    one_info(&b, 2, (int64_t[]){INT64_MAX, 3}, 0, 0);
    refused(&b, T3V_E_TOO_BIG, "overflows");
    one_info(&b, 2, (int64_t[]){1ll << 59, 32}, 8, 0);
    refused(&b, T3V_E_TOO_BIG, "overflows");
    one_info(&b, 2, (int64_t[]){-1, 3}, 0, 0);
    refused(&b, T3V_E_FORMAT, "axis");
    one_info(&b, 2, square, 0, 8);
    refused(&b, T3V_E_FORMAT, "multiple of 32");
    one_info(&b, 2, square, 0, 256);
    refused(&b, T3V_E_FORMAT, "truncated");
    one_info(&b, 2, square, 0, UINT64_MAX - 31);
    refused(&b, T3V_E_FORMAT, "truncated");
    one_info(&b, 2, (int64_t[]){1 << 20, 1 << 20}, 0, 0);
    refused(&b, T3V_E_FORMAT, "truncated");
    gguf_head(&b, 3, 1, 0);
    gguf_text(&b, "w"), gguf_number(&b, 9, 4);
    for (int i = 0; i < 20; i++) gguf_number(&b, 1, 8);
    refused(&b, T3V_E_FORMAT, "9 axes");
    for (int twice = 0; twice < 2; twice++) {
        gguf_head(&b, 3, 2, 0);
        gguf_info(&b, "a", 2, square, 0, 0);
        gguf_info(&b, twice ? "a" : "b", 2, square, 0, twice ? 32 : 0);
        gguf_align(&b, 32);
        for (int i = 0; i < 16; i++) gguf_number(&b, 0, 4);
        refused(&b, T3V_E_FORMAT, twice ? "appears twice" : "overlap");
    }
}

/* 28 GB with only a header that claims much: refused at once and without memory. */
static void a_large_file_of_zeros(void **state)
{
    (void)state;
    struct timespec t0, t1;
    for (int strings = 0; strings < 2; strings++) {
        gguf_bytes b = {0};
        t3v_tensor_file *f;
        if (strings) {
            gguf_head(&b, 3, 1 << 16, 1);
            gguf_text(&b, "k"), gguf_number(&b, 9, 4), gguf_number(&b, 8, 4), gguf_number(&b, 1 << 22, 8);
        } else {
            gguf_head(&b, 3, 1 << 16, 1 << 16);
        }
        gguf_save(&b, path);
        gguf_free(&b);
        if (truncate(path, (off_t)28 << 30) != 0) skip();
        clock_gettime(CLOCK_MONOTONIC, &t0);
        assert_int_not_equal(t3v_tensors_open(&f, path), T3V_OK);
        clock_gettime(CLOCK_MONOTONIC, &t1);
        assert_true(t1.tv_sec - t0.tv_sec < 2);
        assert_int_equal(truncate(path, 0), 0);
    }
}

/* ---- split files --------------------------------------------------------------------------------- */

/* File `number` of `count` of a model with `tensors` tensors: the tensor "t<number>". */
static void split(int number, int count, uint32_t tensors)
{
    gguf_bytes b = {0};
    char name[80];
    gguf_head(&b, 3, 1, 3);
    gguf_pair_u32(&b, "split.no", (uint32_t)number - 1);
    gguf_pair_u32(&b, "split.count", (uint32_t)count);
    gguf_pair_u32(&b, "split.tensors.count", tensors);
    snprintf(name, sizeof name, "t%d", number);
    gguf_info(&b, name, 2, square, 0, 0);
    gguf_align(&b, 32);
    for (int i = 1; i <= 6; i++) gguf_raw(&b, &(float){(float)(10 * number + i)}, 4);
    snprintf(name, sizeof name, "%s/m-%05d-of-%05d.gguf", dir, number, count);
    gguf_save(&b, name);
    gguf_free(&b);
}

static void one_of_several_stands_for_all(void **state)
{
    (void)state;
    char name[80], other[80];
    t3v_tensor_file *f;
    unlink(path);
    for (int i = 1; i <= 3; i++) split(i, 3, 3);
    for (int i = 0; i <= 3; i++) { /* each of them, and their directory */
        snprintf(name, sizeof name, "%s/m-%05d-of-00003.gguf", dir, i);
        assert_int_equal(t3v_tensors_open(&f, i ? name : dir), T3V_OK);
        assert_int_equal(f->count, 3);
        for (int k = 0; k < 3; k++) {
            assert_int_equal(f->tensors[k].name[1], '1' + k);
            assert_true(((const float *)f->tensors[k].data)[0] == (float)(10 * k + 11));
        }
        t3v_tensors_close(f);
    }
    snprintf(other, sizeof other, "%s/alone.gguf", dir);
    assert_int_equal(rename(name, other), 0);
    assert_int_equal(t3v_tensors_open(&f, other), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "1 of the 3 tensors of a model in 3 files"));
    unlink(other);
    snprintf(other, sizeof other, "%s/m-00001-of-00003.gguf", dir);
    assert_int_equal(t3v_tensors_open(&f, other), T3V_E_IO);
    assert_non_null(strstr(t3v_error_text(), "m-00003-of-00003.gguf is missing: file 3 of the 3"));
    split(3, 3, 4); /* of another model */
    split(1, 3, 4);
    assert_int_equal(t3v_tensors_open(&f, other), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "3 of the 4 tensors"));
    for (int i = 1; i <= 3; i++) {
        snprintf(name, sizeof name, "%s/m-%05d-of-00003.gguf", dir, i);
        unlink(name);
    }
    static const struct {
        const char *path;
        int number, count;
    } names[] = {{"a-00001-of-00002.gguf", 1, 2},
                 {"d/a-00012-of-12345.safetensors", 12, 12345},
                 {"a-00003-of-00002.gguf", 0, 0},
                 {"a-00000-of-00002.gguf", 0, 0},
                 {"a-0001-of-0002.gguf", 0, 0},
                 {"a-000x1-of-00002.gguf", 0, 0},
                 {"a-00001-of-00002", 0, 0},
                 {"d-00001-of-00002.d/a", 0, 0},
                 {".gguf", 0, 0}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int number = 0, count = 0;
        assert_int_equal(t3v_shard_number(names[i].path, &number, &count), names[i].number > 0);
        if (!names[i].number) continue;
        assert_int_equal(number, names[i].number);
        assert_int_equal(count, names[i].count);
    }
}

/* ---- 8-bit scales ------------------------------------------------------------------------------ */

typedef struct part {
    const char *name;
    t3v_dtype type;
    int64_t n; /* 0: a scalar */
    const void *data;
} part;

static t3v_status open_parts(const part *p, int n, t3v_tensor_file **f)
{
    t3v_tensor_entry e[8] = {0};
    char name[80];
    for (int i = 0; i < n; i++) {
        e[i] =
            (t3v_tensor_entry){.name = p[i].name, .dtype = p[i].type, .ndim = p[i].n > 0, .data = p[i].data};
        e[i].shape[0] = p[i].n;
    }
    snprintf(name, sizeof name, "%s/scaled.safetensors", dir);
    assert_int_equal(t3v_safetensors_write(name, e, n, NULL, 0), T3V_OK);
    t3v_status st = t3v_tensors_open(f, name);
    unlink(name);
    return st;
}

static void scales_of_8_bit_weights(void **state)
{
    (void)state;
    static const uint8_t w[4] = {0x38, 0xb8, 0x40, 0x00}; /* 1, -1, 2, 0 */
    static const float quarter = 0.25f;
    static const char format[] = "{\"format\": \"float8_e4m3fn\", \"full_precision_matrix_mult\": false}",
                      other[] = "{\"format\": \"nvfp4\"}";
    t3v_tensor_file *f;
    const part old_style[] = {{"scaled_fp8", T3V_F8_E4M3, 2, w},
                              {"m.weight", T3V_F8_E4M3, 4, w},
                              {"m.scale_weight", T3V_F32, 0, &quarter},
                              {"m.scale_input", T3V_F32, 0, &quarter},
                              {"n.weight", T3V_F8_E4M3, 4, w}};
    const part new_style[] = {{"m.weight", T3V_F8_E4M3, 4, w},
                              {"m.weight_scale", T3V_F32, 1, &quarter},
                              {"m.comfy_quant", T3V_U8, sizeof format - 1, format},
                              {"n.weight", T3V_F8_E4M3, 4, w}};
    for (int k = 0; k < 2; k++) {
        assert_int_equal(k ? open_parts(new_style, 4, &f) : open_parts(old_style, 5, &f), T3V_OK);
        assert_int_equal(f->count, 2); /* scales and markers are not tensors of the model */
        const t3v_tensor_entry *m = t3v_tensors_find(f, "m.weight"), *n = t3v_tensors_find(f, "n.weight");
        assert_non_null(m->scale);
        assert_null(n->scale);
        float x[4];
        double wide[4];
        assert_int_equal(t3v_tensor_copy(m, x, T3V_F32), T3V_OK);
        assert_true(x[0] == 0.25f && x[1] == -0.25f && x[2] == 0.5f && x[3] == 0);
        assert_int_equal(t3v_tensor_copy(m, wide, T3V_F64), T3V_OK);
        assert_true(wide[2] == 0.5);
        assert_int_equal(t3v_tensor_copy(n, x, T3V_F32), T3V_OK);
        assert_true(x[2] == 2);
        t3v_tensors_close(f);
    }
    const part alone[] = {{"m.scale_weight", T3V_F32, 0, &quarter}};
    assert_int_equal(open_parts(alone, 1, &f), T3V_E_FORMAT);
    const part two[] = {{"m.weight", T3V_F8_E4M3, 4, w},
                        {"m.scale_weight", T3V_F32, 0, &quarter},
                        {"m.weight_scale", T3V_F32, 0, &quarter}};
    assert_int_equal(open_parts(two, 3, &f), T3V_E_FORMAT);
    const part wide[] = {{"m.weight", T3V_F32, 1, &quarter}, {"m.scale_weight", T3V_F32, 0, &quarter}};
    assert_int_equal(open_parts(wide, 2, &f), T3V_E_FORMAT);
    const part rows[] = {{"m.weight", T3V_F8_E4M3, 4, w}, {"m.weight_scale", T3V_F16, 4, "\0<\0<\0<\0<"}};
    assert_int_equal(open_parts(rows, 2, &f), T3V_E_UNSUPPORTED);
    const part four[] = {{"m.weight", T3V_U8, 4, w}, {"m.comfy_quant", T3V_U8, sizeof other - 1, other}};
    assert_int_equal(open_parts(four, 2, &f), T3V_E_UNSUPPORTED);
    assert_non_null(strstr(t3v_error_text(), "nvfp4"));
    const part damaged[] = {{"m.weight", T3V_U8, 4, w}, {"m.comfy_quant", T3V_U8, 3, other}};
    assert_int_equal(open_parts(damaged, 2, &f), T3V_E_FORMAT);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/test.gguf", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(metadata_by_type),
        cmocka_unit_test(folded_and_reshaped),
        cmocka_unit_test(reshaped_rows_are_written),
        cmocka_unit_test(truncated_anywhere),
        cmocka_unit_test(bad_headers),
        cmocka_unit_test(bad_metadata),
        cmocka_unit_test(bad_tensors),
        cmocka_unit_test(a_large_file_of_zeros),
        cmocka_unit_test(one_of_several_stands_for_all),
        cmocka_unit_test(scales_of_8_bit_weights),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
