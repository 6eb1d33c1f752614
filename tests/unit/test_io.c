/* SPDX-License-Identifier: Apache-2.0 */
/* Files, JSON and safetensors: round trips, and every kind of bad input refused by name. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "folder.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/view.h"
#include "tensor/dtype.h"

static void write_raw(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The last error has the status `want` and its message contains `text`. */
static int files_in_dir(void)
{
    char command[128];
    snprintf(command, sizeof command, "ls -A %s | wc -l", dir);
    FILE *p = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

/* ---- files ----------------------------------------------------------------------------------- */

static void outputs_appear_whole_or_not_at_all(void **state)
{
    (void)state;
    int before = files_in_dir();
    t3v_out *o;
    assert_int_equal(t3v_out_open(&o, in_dir("out.bin")), T3V_OK);
    unsigned char *block = malloc(200000);
    for (int i = 0; i < 200000; i++) block[i] = (unsigned char)(i * 7);
    assert_int_equal(t3v_out_write(o, block, 10), T3V_OK);
    assert_int_equal(t3v_out_write(o, block + 10, 70000), T3V_OK);
    assert_int_equal(t3v_out_write(o, block + 70010, 1000), T3V_OK);
    assert_int_equal(t3v_out_write_at(o, 71010, block + 71010, 128990), T3V_OK);
    assert_int_equal(t3v_out_tell(o), 71010);
    assert_false(t3v_is_file(in_dir("out.bin")));
    assert_int_equal(t3v_out_commit(o), T3V_OK);
    t3v_map m;
    assert_int_equal(t3v_map_open(&m, in_dir("out.bin")), T3V_OK);
    assert_int_equal(m.size, 200000);
    assert_memory_equal(m.data, block, 200000);
    t3v_map_drop(m.data, m.size);
    assert_memory_equal(m.data, block, 200000);
    t3v_map_close(&m);
    assert_int_equal(t3v_out_open(&o, in_dir("out.bin")), T3V_OK);
    assert_int_equal(t3v_out_write(o, "x", 1), T3V_OK);
    t3v_out_abort(o);
    struct stat st;
    assert_int_equal(stat(in_dir("out.bin"), &st), 0);
    assert_int_equal(st.st_size, 200000);
    assert_int_equal(files_in_dir(), before + 1); /* no temporary file is left */
    free(block);
    unlink(in_dir("out.bin"));

    failed(t3v_out_open(&o, in_dir("none/out.bin")), T3V_E_IO, "none/out.bin");
    failed(t3v_out_open(&o, "/dev/null"), T3V_E_ARG, "/dev/null");
    failed(t3v_out_open(&o, dir), T3V_E_ARG, "directory");
    failed(t3v_map_open(&m, in_dir("absent")), T3V_E_IO, "absent");
    failed(t3v_map_open(&m, dir), T3V_E_IO, "directory");
    char *text;
    write_raw("text", "hello", 5);
    failed(t3v_read_text(in_dir("text"), 4, &text, NULL), T3V_E_TOO_BIG, "text");
    assert_int_equal(t3v_read_text(in_dir("text"), 5, &text, NULL), T3V_OK);
    assert_string_equal(text, "hello");
    free(text);
}

static void a_file_that_is_written_to_is_noticed(void **state)
{
    (void)state;
    const float two[2] = {1, 2}, other[2] = {3, 4};
    const t3v_tensor_entry e = {.name = "w", .dtype = T3V_F32, .ndim = 1, .shape = {2}, .data = two};
    t3v_tensor_entry new = e;
    new.data = other;
    t3v_tensor_file *f;
    assert_int_equal(t3v_safetensors_write(in_dir("w"), &e, 1, NULL, 0), T3V_OK);
    assert_int_equal(t3v_tensors_open(&f, in_dir("w")), T3V_OK);
    assert_int_equal(t3v_tensors_check(f), T3V_OK);
    /* Another file of that name leaves the open one as it was. */
    assert_int_equal(t3v_safetensors_write(in_dir("w"), &new, 1, NULL, 0), T3V_OK);
    assert_int_equal(t3v_tensors_check(f), T3V_OK);
    assert_memory_equal(f->tensors[0].data, two, sizeof two);
    t3v_tensors_close(f);

    assert_int_equal(t3v_tensors_open(&f, in_dir("w")), T3V_OK);
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, in_dir("w"), old, 0), 0); /* as after a write, at once */
    failed(t3v_tensors_check(f), T3V_E_IO, "was changed while it was read");
    t3v_tensors_close(f);

    assert_int_equal(t3v_tensors_open(&f, in_dir("w")), T3V_OK);
    assert_int_equal(truncate(in_dir("w"), 100), 0);
    assert_int_equal(utimensat(AT_FDCWD, in_dir("w"), old, 0), 0); /* its time tells nothing, its size does */
    failed(t3v_tensors_check(f), T3V_E_IO, "was changed while it was read");
    t3v_tensors_close(f);
    unlink(in_dir("w"));
    assert_int_equal(mkfifo(in_dir("pipe"), 0600), 0);
    failed(t3v_tensors_open(&f, in_dir("pipe")), T3V_E_IO,
           "not a regular file"); /* and does not wait for a writer */
    unlink(in_dir("pipe"));
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_names_what_is_wrong(void **state)
{
    (void)state;
    json_t *o;
    failed(t3v_json_parse(&o, "c.json", "{\"a\":1,\"a\":2}", 13), T3V_E_FORMAT, "duplicate");
    failed(t3v_json_parse(&o, "c.json", "[1]", 3), T3V_E_FORMAT, "c.json");
    failed(t3v_json_parse(&o, "c.json", "{\"a\":", 5), T3V_E_FORMAT, "line 1");
    char *deep = malloc(200006);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', 200000);
    failed(t3v_json_parse(&o, "c.json", deep, 200005), T3V_E_FORMAT, "depth");
    free(deep);
    /* Ten million values would take a gigabyte; commas inside of a string are none. */
    const size_t many = 10000000;
    char *commas = malloc(many + 16);
    memset(commas, ',', many);
    memcpy(commas, "{\"a\":[0", 7);
    failed(t3v_json_parse(&o, "c.json", commas, many), T3V_E_TOO_BIG, "values");
    memcpy(commas, "{\"\\\"a\":\"", 8);
    memcpy(commas + many, "\"}", 2);
    assert_int_equal(t3v_json_parse(&o, "c.json", commas, many + 2), T3V_OK);
    assert_int_equal(strlen(json_string_value(json_object_get(o, "\"a"))), many - 8);
    json_decref(o);
    free(commas);
    const char *text =
        "{\"dim\":64,\"eps\":1e-6,\"name\":\"x\",\"patch\":[1,2,2],\"no\":null,\"yes\":true,\"o\":{}}";
    assert_int_equal(t3v_json_parse(&o, "c.json", text, strlen(text)), T3V_OK);
    int64_t v = 7, list[3];
    double r;
    bool yes = false;
    int n = 0;
    const char *s;
    assert_int_equal(t3v_json_int(o, "c.json", "dim", true, 1, 100, &v), T3V_OK);
    assert_int_equal(v, 64);
    assert_int_equal(t3v_json_int(o, "c.json", "no", false, 1, 100, &v), T3V_OK);
    assert_int_equal(v, 64);
    failed(t3v_json_int(o, "c.json", "no", true, 1, 100, &v), T3V_E_FORMAT, "\"no\" is missing");
    failed(t3v_json_int(o, "c.json", "dim", true, 1, 10, &v), T3V_E_FORMAT,
           "\"dim\" is 64, expected 1 to 10");
    failed(t3v_json_int(o, "c.json", "eps", true, 1, 10, &v), T3V_E_FORMAT, "\"eps\"");
    assert_int_equal(t3v_json_real(o, "c.json", "eps", true, 0, 1, &r), T3V_OK);
    failed(t3v_json_real(o, "c.json", "dim", true, 0, 1, &r), T3V_E_FORMAT, "64");
    assert_int_equal(t3v_json_bool(o, "c.json", "yes", true, &yes), T3V_OK);
    assert_true(yes);
    failed(t3v_json_bool(o, "c.json", "dim", true, &yes), T3V_E_FORMAT, "\"dim\"");
    assert_int_equal(t3v_json_string(o, "c.json", "name", true, &s), T3V_OK);
    failed(t3v_json_string(o, "c.json", "patch", true, &s), T3V_E_FORMAT, "\"patch\" is an array");
    assert_int_equal(t3v_json_ints(o, "c.json", "patch", true, 1, 2, list, 3, &n), T3V_OK);
    assert_int_equal(n, 3);
    failed(t3v_json_ints(o, "c.json", "patch", true, 1, 1, list, 3, &n), T3V_E_FORMAT, "\"patch\" is 2");
    failed(t3v_json_ints(o, "c.json", "patch", true, 1, 2, list, 2, &n), T3V_E_FORMAT, "3 elements");
    json_t *inner;
    assert_int_equal(t3v_json_object(o, "c.json", "o", true, &inner), T3V_OK);
    failed(t3v_json_object(o, "c.json", "dim", true, &inner), T3V_E_FORMAT, "\"dim\"");
    json_decref(o);
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static t3v_tensor_entry entry(const char *name, t3v_dtype t, const void *data, int ndim, int64_t a, int64_t b)
{
    t3v_tensor_entry e = {.name = name, .dtype = t, .ndim = ndim, .data = data};
    e.shape[0] = a;
    e.shape[1] = b;
    return e;
}

static void safetensors_round_trip(void **state)
{
    (void)state;
    const float f[6] = {1, -2, 3.5f, 0, 1e-8f, 65504};
    const uint16_t h[3] = {0x3f80, 0x4000, 0xc040}; /* bf16 1, 2, -3 */
    const uint8_t bytes[5] = {1, 2, 3, 4, 5};
    const t3v_tensor_entry in[] = {
        entry("z.bytes", T3V_U8, bytes, 1, 5, 0), entry("b.half", T3V_BF16, h, 1, 3, 0),
        entry("a.float", T3V_F32, f, 2, 2, 3),    entry("scalar", T3V_F32, f + 2, 0, 0, 0),
        entry("empty", T3V_F32, f, 2, 0, 4),
    };
    const t3v_meta meta[] = {{"format", "pt"}, {"quote", "\"\n\xc3\xa9"}};
    const char *path = in_dir("a.safetensors");
    assert_int_equal(t3v_safetensors_write(path, in, 5, meta, 2), T3V_OK);
    t3v_tensor_file *v;
    assert_int_equal(t3v_tensors_open(&v, path), T3V_OK);
    assert_int_equal(v->count, 5);
    assert_string_equal(v->format, "safetensors");
    assert_int_equal(v->meta_count, 2);
    assert_string_equal(v->meta[1].value, meta[1].value);
    const char *order[] = {"a.float", "empty", "scalar", "b.half", "z.bytes"};
    for (int i = 0; i < 5; i++) assert_string_equal(v->tensors[i].name, order[i]);
    for (int i = 0; i < 5; i++) {
        const t3v_tensor_entry *e = t3v_tensors_find(v, in[i].name);
        assert_non_null(e);
        assert_int_equal(e->dtype, in[i].dtype);
        assert_int_equal(e->ndim, in[i].ndim);
        assert_memory_equal(e->data, in[i].data, (size_t)e->nbytes);
        assert_int_equal((uintptr_t)e->data % t3v_dtype_size(e->dtype), 0);
    }
    float out[6];
    t3v_bf16 half[6];
    assert_int_equal(t3v_tensors_read(v, "a.float", 2, (int64_t[]){2, 3}, out, T3V_F32), T3V_OK);
    assert_memory_equal(out, f, sizeof f);
    assert_int_equal(t3v_tensors_read(v, "a.float", 3, (int64_t[]){1, 2, -1}, half, T3V_BF16), T3V_OK);
    for (int i = 0; i < 6; i++) assert_int_equal(half[i], t3v_f32_to_bf16(f[i]));
    assert_int_equal(t3v_tensors_read(v, "b.half", 1, (int64_t[]){3}, out, T3V_F32), T3V_OK);
    assert_true(out[0] == 1 && out[1] == 2 && out[2] == -3);
    failed(t3v_tensors_read(v, "a.float", 2, (int64_t[]){3, 2}, out, T3V_F32), T3V_E_SHAPE,
           "'a.float' is [2,3], expected [3,2]");
    /* Axes of 1 may be anywhere, but not where a size is open: which one it is would be a guess. */
    t3v_tensor_entry e = {.name = "e", .file = "f", .ndim = 3, .shape = {7, 1, 32}};
    assert_int_equal(t3v_tensor_expect(&e, 2, (int64_t[]){7, 32}), T3V_OK);
    assert_int_equal(t3v_tensor_expect(&e, 4, (int64_t[]){7, 32, 1, 1}), T3V_OK);
    failed(t3v_tensor_expect(&e, 2, (int64_t[]){-1, 32}), T3V_E_SHAPE, "[7,1,32]");
    failed(t3v_tensor_expect(&e, 2, (int64_t[]){32, 7}), T3V_E_SHAPE, "[7,1,32]");
    failed(t3v_tensors_read(v, "a.float", 2, (int64_t[]){1, 6}, out, T3V_F32), T3V_E_SHAPE, "a.float");
    failed(t3v_tensors_read(v, "a.flaot", 2, (int64_t[]){2, 3}, out, T3V_F32), T3V_E_FORMAT,
           "'a.flaot' is missing; did you mean 'a.float'");
    failed(t3v_tensors_read(v, "float", 1, (int64_t[]){1}, out, T3V_F32), T3V_E_FORMAT,
           "did you mean 'a.float'");
    failed(t3v_tensors_read(v, "a.float", 2, (int64_t[]){2, 3}, out, T3V_I32), T3V_E_DTYPE, "a.float");
    t3v_tensors_close(v);

    const t3v_tensor_entry twice[] = {in[0], in[0]};
    failed(t3v_safetensors_write(in_dir("b.safetensors"), twice, 2, NULL, 0), T3V_E_ARG, "z.bytes");
    assert_false(t3v_is_file(in_dir("b.safetensors")));

    t3v_safetensors_writer *w;
    assert_int_equal(t3v_safetensors_begin(&w, in_dir("s.safetensors"), in, 5, NULL, 0), T3V_OK);
    assert_int_equal(t3v_safetensors_append(w, "z.bytes", bytes, 5), T3V_OK);
    assert_int_equal(t3v_safetensors_append(w, "a.float", f, 8), T3V_OK);
    assert_int_equal(t3v_safetensors_append(w, "scalar", f + 2, 4), T3V_OK);
    assert_int_equal(t3v_safetensors_append(w, "a.float", f + 2, 16), T3V_OK);
    failed(t3v_safetensors_append(w, "a.float", f, 1), T3V_E_ARG, "a.float");
    failed(t3v_safetensors_append(w, "other", f, 1), T3V_E_ARG, "other");
    failed(t3v_safetensors_finish(w), T3V_E_ARG, "b.half");
    assert_false(t3v_is_file(in_dir("s.safetensors")));
    assert_int_equal(t3v_safetensors_begin(&w, in_dir("s.safetensors"), in + 2, 1, NULL, 0), T3V_OK);
    assert_int_equal(t3v_safetensors_append(w, "a.float", f, 24), T3V_OK);
    assert_int_equal(t3v_safetensors_finish(w), T3V_OK);
    assert_int_equal(t3v_tensors_open(&v, in_dir("s.safetensors")), T3V_OK);
    assert_memory_equal(v->tensors[0].data, f, sizeof f);
    assert_non_null(t3v_tensors_find(v, "a.float"));
    t3v_tensors_close(v);
}

/* Header text plus `data` zero bytes, opened from memory. */
static t3v_status parse_header(const char *header, size_t data)
{
    size_t n = strlen(header);
    unsigned char *buf = calloc(1, 8 + n + data);
    for (int i = 0; i < 8; i++) buf[i] = (unsigned char)((uint64_t)n >> 8 * i);
    memcpy(buf + 8, header, n);
    t3v_tensor_file *f;
    assert_int_equal(t3v_view_new(&f, "bad.st"), T3V_OK);
    t3v_status st = t3v_safetensors_parse(f, "bad.st", buf, 8 + n + data);
    if (!st) st = t3v_view_seal(f);
    t3v_tensors_close(f);
    free(buf);
    return st;
}

static void bad_safetensors_are_refused_by_name(void **state)
{
    (void)state;
#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    static const struct {
        const char *header;
        size_t data;
        t3v_status status;
        const char *text;
    } cases[] = {
        {"{" T("ok", "F32", "[2]", "[0,8]") "}", 8, T3V_OK, ""},
        {"{}   ", 0, T3V_OK, ""},
        {"{" T("w.q", "F32", "[2]", "[0,8]") "}", 7, T3V_E_FORMAT, "'w.q' ends at byte 8"},
        {"{" T("w.q", "F32", "[2]", "[0,8]") "}", 12, T3V_E_FORMAT, "4 bytes at the end"},
        {"{" T("w.q", "F32", "[3]", "[0,8]") "}", 8, T3V_E_FORMAT, "'w.q': data_offsets give 8 bytes"},
        {"{" T("w.q", "F32", "[2]", "[8,0]") "}", 8, T3V_E_FORMAT, "'w.q': data_offsets [8,0]"},
        {"{" T("w.q", "F32", "[2]", "[-8,0]") "}", 8, T3V_E_FORMAT, "'w.q'"},
        {"{" T("w.q", "F32", "[-2]", "[0,8]") "}", 8, T3V_E_FORMAT, "\"shape\" is -2"},
        {"{" T("w.q", "F32", "[2]", "[0]") "}", 8, T3V_E_FORMAT, "w.q"},
        {"{" T("w.q", "F32", "[2]", "[0,8,9]") "}", 8, T3V_E_FORMAT, "w.q"},
        {"{" T("w.q", "F32", "[1.5]", "[0,8]") "}", 8, T3V_E_FORMAT, "w.q"},
        {"{" T("w.q", "F33", "[2]", "[0,8]") "}", 8, T3V_E_DTYPE, "'w.q' has dtype 'F33'"},
        {"{" T("w.q", "F32", "[4294967296,4294967296]", "[0,8]") "}", 8, T3V_E_TOO_BIG, "w.q"},
        {"{" T("w.q", "F32", "[0,4294967296,4294967296]", "[0,0]") "}", 0, T3V_E_TOO_BIG, "w.q"},
        {"{" T("w.q", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8, T3V_E_FORMAT, "w.q"},
        {"{" T("w.q", "F32", "[99999999999999999999]", "[0,8]") "}", 8, T3V_E_FORMAT, "bad.st"},
        {"{" T("w.q", "F32", "[2]", "[0,8]") "," T("w.k", "F32", "[2]", "[4,12]") "}", 12, T3V_E_FORMAT,
         "'w.q' and 'w.k' overlap"},
        {"{" T("w.q", "F32", "[2]", "[0,8]") "," T("w.k", "F32", "[2]", "[12,20]") "}", 20, T3V_E_FORMAT,
         "4 bytes before tensor 'w.k'"},
        {"{" T("w.q", "F32", "[2]", "[0,8]") "," T("w.q", "F32", "[2]", "[8,16]") "}", 16, T3V_E_FORMAT,
         "w.q"},
        {"{\"w.q\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, T3V_E_FORMAT, "w.q"},
        {"{\"w.q\":3}", 8, T3V_E_FORMAT, "w.q"},
        {"{\"__metadata__\":{\"k.1\":3}}", 0, T3V_E_FORMAT, "k.1"},
        {"{\"__metadata__\":3}", 0, T3V_E_FORMAT, "__metadata__"},
        {" {}", 0, T3V_E_FORMAT, "'{'"},
        {"{", 0, T3V_E_FORMAT, "bad.st"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t3v_status st = parse_header(cases[i].header, cases[i].data);
        if (cases[i].status) failed(st, cases[i].status, cases[i].text);
        else assert_int_equal(st, T3V_OK);
    }
    t3v_tensor_file *f;
    unsigned char huge[16] = {1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}'}; /* 100,000,001 */
    write_raw("huge.safetensors", huge, sizeof huge);
    failed(t3v_tensors_open(&f, in_dir("huge.safetensors")), T3V_E_TOO_BIG, "100000001");
    huge[0] = 9, huge[1] = huge[2] = huge[3] = 0;
    write_raw("short.safetensors", huge, sizeof huge);
    failed(t3v_tensors_open(&f, in_dir("short.safetensors")), T3V_E_FORMAT, "short.safetensors");
    write_raw("tiny.safetensors", huge, 5);
    failed(t3v_tensors_open(&f, in_dir("tiny.safetensors")), T3V_E_FORMAT, "tiny.safetensors");
    write_raw("none.safetensors", huge, 0);
    failed(t3v_tensors_open(&f, in_dir("none.safetensors")), T3V_E_FORMAT, "empty");
    write_raw("a.gguf", "GGUF\3\0\0\0\0\0\0\0", 12);
    failed(t3v_tensors_open(&f, in_dir("a.gguf")), T3V_E_FORMAT, "the header needs");
    write_raw("text.bin", "hello", 5);
    failed(t3v_tensors_open(&f, in_dir("text.bin")), T3V_E_FORMAT, "text.bin");
}

static void shards_are_one_view(void **state)
{
    (void)state;
    mkdir(in_dir("m"), 0777);
    const float x[4] = {1, 2, 3, 4};
    const t3v_tensor_entry a = entry("model.a", T3V_F32, x, 1, 4, 0),
                           b = entry("model.b", T3V_F32, x, 1, 2, 0);
    const char *one = "m/w-00001-of-00002.safetensors", *two = "m/w-00002-of-00002.safetensors";
    assert_int_equal(t3v_safetensors_write(in_dir(one), &a, 1, NULL, 0), T3V_OK);
    assert_int_equal(t3v_safetensors_write(in_dir(two), &b, 1, NULL, 0), T3V_OK);
    t3v_tensor_file *f;
    assert_int_equal(t3v_tensors_open(&f, in_dir("m")), T3V_OK);
    assert_int_equal(f->count, 2);
    assert_non_null(t3v_tensors_find(f, "model.b"));
    t3v_tensors_close(f);
#define INDEX(text) write_raw("m/w.safetensors.index.json", text, sizeof text - 1)
    INDEX("{\"weight_map\":{\"model.a\":\"w-00001-of-00002.safetensors\",\"model.b\":\"w-00002-of-00002."
          "safetensors\"}}");
    assert_int_equal(t3v_tensors_open(&f, in_dir("m/w.safetensors.index.json")), T3V_OK);
    assert_int_equal(f->count, 2);
    assert_string_equal(f->format, "safetensors shards");
    assert_memory_equal(t3v_tensors_find(f, "model.b")->data, x, 8);
    t3v_tensors_close(f);
    assert_int_equal(t3v_tensors_open(&f, in_dir("m")), T3V_OK);
    t3v_tensors_close(f);
    INDEX("{\"weight_map\":{\"model.a\":\"../a.safetensors\"}}");
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_FORMAT, "../a.safetensors");
    INDEX("{\"weight_map\":{\"model.a\":\"/etc/passwd\"}}");
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_FORMAT, "model.a");
    INDEX("{\"weight_map\":{\"model.a\":\"w-00003-of-00002.safetensors\"}}");
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_IO, "w-00003");
    INDEX("{\"weight_map\":{\"model.a\":\"w-00001-of-00002.safetensors\",\"model.c\":\"w-00002-of-00002."
          "safetensors\"}}");
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_FORMAT, "model.c");
    INDEX("{\"weight_map\":{\"model.b\":\"w-00001-of-00002.safetensors\",\"model.a\":\"w-00002-of-00002."
          "safetensors\"}}");
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_FORMAT, "model.b");
    unlink(in_dir("m/w.safetensors.index.json"));
    assert_int_equal(t3v_safetensors_write(in_dir(two), &a, 1, NULL, 0), T3V_OK);
    failed(t3v_tensors_open(&f, in_dir("m")), T3V_E_FORMAT, "model.a");
    mkdir(in_dir("e"), 0777);
    failed(t3v_tensors_open(&f, in_dir("e")), T3V_E_IO, "no weights");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The header of a 14B model in bf16 before 28 GB of holes: opening reads the header only. */
static void a_28_gb_file_opens_at_once(void **state)
{
    (void)state;
    enum { N = 1095 };
    const char *path = in_dir("big.safetensors");
    char *text = NULL;
    size_t size = 0;
    FILE *made = open_memstream(&text, &size);
    fputc('{', made);
    for (int64_t i = 0; i < N; i++)
        fprintf(made,
                "%s\"blocks.%d.w%d\":{\"dtype\":\"BF16\",\"shape\":[2560,5000],\"data_offsets\":[%lld,%lld]}",
                i ? "," : "", (int)i / 27, (int)i % 27, (long long)(i * 25600000),
                (long long)((i + 1) * 25600000));
    fputc('}', made);
    fclose(made);
    FILE *f = fopen(path, "wb");
    uint64_t n = size;
    assert_int_equal(fwrite(&n, 8, 1, f), 1);
    assert_int_equal(fwrite(text, 1, size, f), size);
    fclose(f);
    free(text);
    assert_int_equal(truncate(path, (off_t)(8 + size) + (off_t)N * 25600000), 0);
    double start = now();
    t3v_tensor_file *v;
    assert_int_equal(t3v_tensors_open(&v, path), T3V_OK);
    double seconds = now() - start;
    assert_int_equal(v->count, N);
    assert_true(seconds < 1);
    long pages = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(statm, "%ld %ld", &pages, &resident), 2);
    fclose(statm);
    print_message("28 GB file: opened in %.1f ms, %ld MB resident\n", 1e3 * seconds, resident * 4 / 1024);
    t3v_tensors_close(v);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_appear_whole_or_not_at_all),
        cmocka_unit_test(a_file_that_is_written_to_is_noticed),
        cmocka_unit_test(json_names_what_is_wrong),
        cmocka_unit_test(safetensors_round_trip),
        cmocka_unit_test(bad_safetensors_are_refused_by_name),
        cmocka_unit_test(shards_are_one_view),
        cmocka_unit_test(a_28_gb_file_opens_at_once),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
