/* SPDX-License-Identifier: Apache-2.0 */
/* PyTorch zip files: what torch.save writes is read, what we write torch.load reads, all else is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

#include "folder.h"
#include "io/file.h"
#include "io/pickle.h"
#include "io/pth.h"
#include "io/tensors.h"
#include "tensor/dtype.h"

/* Runs a Python script with torch; false (and a loud line) where there is none. */
static bool python(const char *script)
{
    static int have = -1;
    if (have < 0) have = system("/usr/bin/python3 -c 'import torch' 2>/dev/null") == 0;
    if (!have) {
        print_message("SKIPPED: /usr/bin/python3 has no torch\n");
        return false;
    }
    char command[256];
    FILE *f = fopen(in_dir("script.py"), "w");
    fprintf(f, "import torch, sys, os\nfrom collections import OrderedDict\nos.chdir('%s')\n%s", dir, script);
    fclose(f);
    snprintf(command, sizeof command, "/usr/bin/python3 %s", in_dir("script.py"));
    assert_int_equal(system(command), 0);
    return true;
}

/* ---- with torch ------------------------------------------------------------------------------ */

static t3v_tensor_entry entry(const char *name, t3v_dtype t, const void *data, int ndim, int64_t a, int64_t b)
{
    t3v_tensor_entry e = {.name = name, .dtype = t, .ndim = ndim, .data = data};
    e.shape[0] = a;
    e.shape[1] = b;
    return e;
}

static void torch_reads_what_we_write(void **state)
{
    (void)state;
    static float f[600];
    for (int i = 0; i < 600; i++) f[i] = (float)i / 7;
    const uint16_t bf[2] = {0x3fc0, 0xc000}, half[2] = {0x3c00, 0xc500};
    const int64_t big[2] = {1LL << 40, -1};
    const uint8_t flag[3] = {1, 0, 1};
    const t3v_tensor_entry in[] = {
        entry("blocks.0.w", T3V_F32, f, 2, 300, 2), entry("bf", T3V_BF16, bf, 1, 2, 0),
        entry("half", T3V_F16, half, 1, 2, 0),      entry("long", T3V_I64, big, 1, 2, 0),
        entry("flag", T3V_BOOL, flag, 1, 3, 0),     entry("scalar", T3V_F32, f + 7, 0, 0, 0),
        entry("empty", T3V_F32, f, 2, 0, 5),
    };
    assert_int_equal(t3v_pth_write(in_dir("ours.pth"), in, 7), T3V_OK);
    t3v_tensor_file *v;
    assert_int_equal(t3v_tensors_open(&v, in_dir("ours.pth")), T3V_OK);
    assert_int_equal(v->count, 7);
    assert_string_equal(v->format, "pth");
    for (int i = 0; i < 7; i++) {
        const t3v_tensor_entry *e = &v->tensors[i];
        assert_string_equal(e->name, in[i].name);
        assert_int_equal(e->dtype, in[i].dtype);
        assert_int_equal(e->ndim, in[i].ndim);
        for (int d = 0; d < e->ndim; d++) assert_int_equal(e->shape[d], in[i].shape[d]);
        assert_memory_equal(e->data, in[i].data, (size_t)e->nbytes);
        assert_true(e->mapped);
        assert_int_equal((uintptr_t)e->data % 64, 0);
    }
    t3v_tensors_close(v);
    python("d = torch.load('ours.pth')\n"
           "assert list(d) == ['blocks.0.w', 'bf', 'half', 'long', 'flag', 'scalar', 'empty'], list(d)\n"
           "assert torch.equal(d['blocks.0.w'], (torch.arange(600) / 7).reshape(300, 2))\n"
           "assert d['bf'].dtype == torch.bfloat16 and d['bf'].tolist() == [1.5, -2]\n"
           "assert d['half'].dtype == torch.float16 and d['half'].tolist() == [1, -5]\n"
           "assert d['long'].tolist() == [2**40, -1] and d['flag'].tolist() == [True, False, True]\n"
           "assert d['scalar'].shape == () and d['scalar'].item() == 1 and d['empty'].shape == (0, 5)\n");
    const t3v_tensor_entry twice[] = {in[0], in[0]}, fp8 = entry("w8", T3V_F8_E4M3, flag, 1, 3, 0);
    failed(t3v_pth_write(in_dir("x.pth"), twice, 2), T3V_E_ARG, "blocks.0.w");
    failed(t3v_pth_write(in_dir("x.pth"), &fp8, 1), T3V_E_DTYPE, "w8");
    assert_false(t3v_is_file(in_dir("x.pth")));
}

static void pieces_make_the_same_file(void **state)
{
    (void)state;
    static float f[600];
    for (int i = 0; i < 600; i++) f[i] = (float)i / 7;
    const t3v_tensor_entry in[] = {entry("none", T3V_F32, f, 1, 0, 0), entry("a", T3V_F32, f, 2, 300, 2),
                                   entry("b", T3V_F32, f + 9, 0, 0, 0), entry("last", T3V_BF16, f, 2, 3, 0)};
    t3v_pth_writer *w;
    t3v_map one, two;
    assert_int_equal(t3v_pth_write(in_dir("whole.pth"), in, 4), T3V_OK);
    assert_int_equal(t3v_pth_begin(&w, in_dir("pieces.pth"), in, 4), T3V_OK);
    failed(t3v_pth_append(w, f, 2401), T3V_E_ARG, "more than it has left");
    for (int i = 0; i < 24; i++) assert_int_equal(t3v_pth_append(w, f + 25 * i, 100), T3V_OK);
    failed(t3v_pth_append(w, f + 9, 8), T3V_E_ARG, "more than it has left");
    assert_int_equal(t3v_pth_append(w, f + 9, 4), T3V_OK);
    failed(t3v_pth_append(w, f, 1), T3V_E_ARG, "more than it has left");
    assert_int_equal(t3v_pth_finish(w), T3V_OK);
    assert_int_equal(t3v_map_open(&one, in_dir("whole.pth")), T3V_OK);
    assert_int_equal(t3v_map_open(&two, in_dir("pieces.pth")), T3V_OK);
    assert_int_equal(one.size, two.size);
    assert_memory_equal(one.data, two.data, one.size);
    t3v_map_close(&one);
    t3v_map_close(&two);
    assert_int_equal(t3v_pth_begin(&w, in_dir("short.pth"), in, 4), T3V_OK);
    assert_int_equal(t3v_pth_append(w, f, 100), T3V_OK);
    failed(t3v_pth_finish(w), T3V_E_ARG, "100 of its 2400 bytes");
    assert_false(t3v_is_file(in_dir("short.pth")));
}

static void we_read_what_torch_writes(void **state)
{
    (void)state;
    if (!python("w = torch.arange(24.).reshape(4, 6)\n"
                "d = OrderedDict(a=w, t=w.t(), part=w[1:3, 2:5], one=w[2], b=torch.tensor(3, "
                "dtype=torch.int16),\n"
                "                bf=torch.tensor([1., 2.]).bfloat16(), p=torch.nn.Parameter(torch.ones(2)))\n"
                "torch.save(d, 'plain.pth')\n"
                "torch.save({'epoch': 3, 'lr': 1e-4, 'none': None, 'model_state': d, 'list': [1, 2]}, "
                "'wrapped.pt')\n"
                "torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict(), "
                "'sd.pth')\n"
                "torch.save(d, 'p4.pth', pickle_protocol=4)\n"
                "torch.save({'w': torch.zeros(1).expand(1000)}, 'expand.pth')\n"
                "torch.save(torch.nn.Linear(3, 2), 'module.pth')\n"
                "torch.save(d, 'old.pth', _use_new_zipfile_serialization=False)\n"
                "torch.save(w, 'tensor.pth')\n"))
        skip();
    static const char *const files[] = {"plain.pth", "wrapped.pt", "p4.pth"};
    for (int k = 0; k < 3; k++) {
        t3v_tensor_file *v;
        t3v_status st = t3v_tensors_open(&v, in_dir(files[k]));
        if (st) print_message("%s\n", t3v_error_text());
        assert_int_equal(st, T3V_OK);
        assert_int_equal(v->count, 7);
        float x[24];
        assert_int_equal(t3v_tensors_read(v, "a", 2, (int64_t[]){4, 6}, x, T3V_F32), T3V_OK);
        for (int i = 0; i < 24; i++) assert_true(x[i] == (float)i);
        assert_true(t3v_tensors_find(v, "a")->mapped && t3v_tensors_find(v, "one")->mapped);
        assert_int_equal(t3v_tensors_read(v, "t", 2, (int64_t[]){6, 4}, x, T3V_F32), T3V_OK);
        for (int i = 0; i < 24; i++) assert_true(x[i] == (float)(i % 4 * 6 + i / 4));
        assert_false(t3v_tensors_find(v, "t")->mapped);
        assert_int_equal(t3v_tensors_read(v, "part", 2, (int64_t[]){2, 3}, x, T3V_F32), T3V_OK);
        for (int i = 0; i < 6; i++) assert_true(x[i] == (float)((1 + i / 3) * 6 + 2 + i % 3));
        assert_int_equal(t3v_tensors_read(v, "one", 1, (int64_t[]){6}, x, T3V_F32), T3V_OK);
        assert_true(x[0] == 12 && x[5] == 17);
        assert_int_equal(t3v_tensors_read(v, "b", 0, NULL, x, T3V_F32), T3V_OK);
        assert_true(x[0] == 3);
        assert_int_equal(t3v_tensors_read(v, "bf", 1, (int64_t[]){2}, x, T3V_F32), T3V_OK);
        assert_true(x[1] == 2);
        assert_int_equal(t3v_tensors_read(v, "p", 1, (int64_t[]){2}, x, T3V_F32), T3V_OK);
        t3v_tensors_close(v);
    }
    t3v_tensor_file *v;
    assert_int_equal(t3v_tensors_open(&v, in_dir("sd.pth")), T3V_OK);
    assert_int_equal(v->count, 4);
    t3v_tensors_close(v);
    failed(t3v_tensors_open(&v, in_dir("expand.pth")), T3V_E_FORMAT, "expanded");
    failed(t3v_tensors_open(&v, in_dir("module.pth")), T3V_E_UNSUPPORTED, "'torch.nn.modules.linear.Linear'");
    failed(t3v_tensors_open(&v, in_dir("old.pth")), T3V_E_UNSUPPORTED, "old.pth");
    failed(t3v_tensors_open(&v, in_dir("tensor.pth")), T3V_E_FORMAT, "a tensor");
}

/* ---- pickles by hand ------------------------------------------------------------------------- */

#define DICT "ccollections\nOrderedDict\n)R"
#define STR(s, n) "X" n "\0\0\0" s
#define STORAGE(type, numel) \
    "(" STR("storage", "\7") "ctorch\n" type "\n" STR("0", "\1") STR("cpu", "\3") numel "tQ"
#define TENSOR(storage, offset, size, stride) \
    "ctorch._utils\n_rebuild_tensor_v2\n(" storage offset size stride "\x89" DICT "tR"
#define W TENSOR(STORAGE("FloatStorage", "K\4"), "K\0", "K\2K\2\x86", "K\2K\1\x86")

static void pickles_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        t3v_status status;
        const char *text;
    } cases[] = {
#define C(bytes, status, text) {"\x80\2" bytes, sizeof("\x80\2" bytes) - 1, T3V_##status, text}
        C("}(" STR("w", "\1") W "u.", OK, ""),
        C("}" STR("w", "\1") W "s.", OK, ""),
        C("}(" STR("w", "\1") W STR("n", "\1") "K\1u.", OK, ""),
        C("}" STR("model", "\5") "}" STR("w", "\1") W "ss.", OK, ""),
        C("}" STR("w", "\1") W "s}b.", OK, ""),
        C("cos\nsystem\n(" STR("id", "\2") "tR.", E_UNSUPPORTED, "'os.system'"),
        C("cposix\nsystem\n(" STR("id", "\2") "tR.", E_UNSUPPORTED, "'posix.system'"),
        C("cbuiltins\neval\n.", E_UNSUPPORTED, "'builtins.eval'"),
        C("c__builtin__\ngetattr\n.", E_UNSUPPORTED, "'__builtin__.getattr'"),
        C("ctorch\nload\n.", E_UNSUPPORTED, "'torch.load'"),
        C("ctorch._utils\n_rebuild_tensor\n.", E_UNSUPPORTED, "'torch._utils._rebuild_tensor'"),
        C("ccollections\nOrderedDictX\n.", E_UNSUPPORTED, "'collections.OrderedDictX'"),
        C(STR("os", "\2") STR("system", "\6") "\x93.", E_UNSUPPORTED, "'os.system'"),
        C("(S'id'\nios\nsystem\n.", E_UNSUPPORTED, "opcode 0x53"),
        C("(ios\nsystem\n.", E_UNSUPPORTED, "opcode 0x69"),
        C("}\x81.", E_UNSUPPORTED, "opcode 0x81"),
        C("\x82\1.", E_UNSUPPORTED, "opcode 0x82"),
        C("}", E_FORMAT, "STOP"),
        C("}.", E_FORMAT, "no tensors"),
        C(".", E_FORMAT, "left over"),
        C("}}.", E_FORMAT, "left over"),
        C("].", E_FORMAT, "a list"),
        C("(.", E_FORMAT, "left over"),
        C("}(" STR("w", "\1") "u.", E_FORMAT, "not a dict"),
        C("]" STR("w", "\1") "K\1s.", E_FORMAT, "not a dict"),
        C("}K\1a.", E_FORMAT, "not a list"),
        C("u.", E_FORMAT, "without a mark"),
        C("t.", E_FORMAT, "without a mark"),
        C("K\1(R.", E_FORMAT, "REDUCE"),
        C("ctorch\nFloatStorage\n)R.", E_FORMAT, "storage type"),
        C("ccollections\nOrderedDict\nK\1\x85R.", E_FORMAT, "OrderedDict with arguments"),
        C("K\1Q.", E_FORMAT, "persistent id"),
        C("h\0.", E_FORMAT, "memo"),
        C("Nq\1.", E_FORMAT, "memo"),
        C("K\1}b.", E_FORMAT, "BUILD"),
        C("X\xff\xff\xff\xff"
          "abc.",
          E_FORMAT, "longer than"),
        C("X\x10\0\0\0"
          "abc.",
          E_FORMAT, "truncated"),
        C("X\3\0\0\0"
          "a\0c.",
          E_FORMAT, "zero byte"),
        C("\x95\xff\0\0\0\0\0\0\0.", E_FORMAT, "frame"),
        C("\x8a\x09"
          "123456789.",
          E_FORMAT, "64 bits"),
        C("\x80\6.", E_FORMAT, "protocol"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\3"), "K\0", "K\2K\2\x86", "K\2K\1\x86") "s.",
          E_FORMAT, "element 3 of storage 0, which has 3"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\4"), "K\1", "K\2K\2\x86", "K\2K\1\x86") "s.",
          E_FORMAT, "element 4"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\4"), "K\0", "K\2K\2\x86", "K\1\x85") "s.",
          E_FORMAT, "strides"),
        C("}" STR("w", "\1")
              TENSOR(STORAGE("FloatStorage", "K\4"), "J\xff\xff\xff\xff", "K\2K\2\x86", "K\2K\1\x86") "s.",
          E_FORMAT, "offset is negative"),
        C("}" STR("w", "\1")
              TENSOR(STORAGE("FloatStorage", "K\4"), "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85") "s.",
          E_FORMAT, "non-negative"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\4"), "K\0",
                                    "\x8a\10\0\0\0\0\1\0\0\0\x8a\10\0\0\0\0\1\0\0\0\x86", "K\0K\0\x86") "s.",
          E_FORMAT, "overflows"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\4"), "K\0", "K\4\x85",
                                    "\x8a\10\377\377\377\377\377\377\377\177\x85") "s.",
          E_FORMAT, "overflow"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\4"), "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t",
                                    "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t") "s.",
          E_FORMAT, "8 axes"),
        C("}" STR("w", "\1") TENSOR(STORAGE("FloatStorage", "K\1"), "K\0", "M\xe8\3\x85", "K\0\x85") "s.",
          E_FORMAT, "expanded"),
        C("}" STR("w", "\1") "ctorch._utils\n_rebuild_tensor_v2\n(K\1tRs.", E_FORMAT, "_rebuild_tensor_v2"),
        C("}" STR("w", "\1") TENSOR("(" STR("storage", "\7") "ctorch\nFloatStorage\n" STR("../0", "\4")
                                        STR("cpu", "\3") "K\4tQ",
                                    "K\0", "K\4\x85", "K\1\x85") "s.",
          E_FORMAT, "storage key"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t3v_pickle *p;
        /* A copy of the exact size, so that a sanitizer sees reads past the end. */
        unsigned char *copy = malloc(cases[i].n);
        memcpy(copy, cases[i].bytes, cases[i].n);
        t3v_status st = t3v_pickle_load(&p, "bad.pth", copy, cases[i].n);
        free(copy);
        if (cases[i].status) {
            failed(st, cases[i].status, cases[i].text);
            assert_non_null(strstr(t3v_error_text(), "bad.pth"));
            assert_null(p);
        } else {
            int64_t n;
            assert_int_equal(st, T3V_OK);
            const t3v_pickle_tensor *t = t3v_pickle_tensors(p, &n);
            assert_int_equal(n, 1);
            assert_string_equal(t->name, "w");
            assert_string_equal(t->key, "0");
            assert_true(t->contiguous);
            t3v_pickle_free(p);
        }
        /* Every prefix is refused without a crash. */
        for (size_t n = 0; n + 1 < cases[i].n; n++) {
            copy = malloc(n ? n : 1);
            memcpy(copy, cases[i].bytes, n);
            assert_int_not_equal(t3v_pickle_load(&p, "bad.pth", copy, n), T3V_OK);
            free(copy);
        }
    }
    char *deep = malloc(5000);
    memset(deep, '(', 5000);
    t3v_pickle *p;
    failed(t3v_pickle_load(&p, "bad.pth", (unsigned char *)deep, 5000), T3V_E_FORMAT, "nested too deeply");
    free(deep);
}

/* ---- archives by hand ------------------------------------------------------------------------ */

typedef struct zip {
    FILE *f;
    unsigned char central[4096];
    size_t n;
    int count;
    bool wide; /* ZIP64 forms everywhere */
} zip;

static void le(unsigned char **p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) *(*p)++ = (unsigned char)(i < 8 ? v >> 8 * i : 0);
}

/* `size` may exceed the `n` bytes of data: a hole follows. */
static void zip_add(zip *z, const char *name, const void *data, size_t n, uint64_t size, int method)
{
    uint64_t at = (uint64_t)ftello(z->f);
    uint32_t sum = (uint32_t)crc32(0, data, (uInt)n);
    unsigned char local[512], *p = local;
    size_t length = strlen(name);
    uint64_t shown = z->wide ? 0xffffffff : size;
    le(&p, 0x04034b50, 4), le(&p, 45, 2), le(&p, 0, 2), le(&p, (uint64_t)method, 2), le(&p, 0, 4),
        le(&p, sum, 4);
    le(&p, shown, 4), le(&p, shown, 4), le(&p, length, 2), le(&p, 0, 2);
    memcpy(p, name, length);
    assert_int_equal(fwrite(local, 1, (size_t)(p - local) + length, z->f), (size_t)(p - local) + length);
    assert_int_equal(fwrite(data, 1, n, z->f), n);
    assert_int_equal(fseeko(z->f, (off_t)(size - n), SEEK_CUR), 0);
    p = z->central + z->n;
    le(&p, 0x02014b50, 4), le(&p, 45, 2), le(&p, 45, 2), le(&p, 0, 2), le(&p, (uint64_t)method, 2),
        le(&p, 0, 4);
    le(&p, sum, 4), le(&p, shown, 4), le(&p, shown, 4), le(&p, length, 2), le(&p, z->wide ? 33 : 0, 2),
        le(&p, 0, 10);
    le(&p, z->wide ? 0xffffffff : at, 4);
    memcpy(p, name, length);
    p += length;
    if (z->wide)
        le(&p, 0x4246, 2), le(&p, 1, 2), le(&p, 0, 1), le(&p, 1, 2), le(&p, 24, 2), le(&p, size, 8),
            le(&p, size, 8), le(&p, at, 8);
    z->n = (size_t)(p - z->central);
    z->count++;
}

static void zip_end(zip *z)
{
    uint64_t at = (uint64_t)ftello(z->f);
    unsigned char end[128], *p = end;
    fwrite(z->central, 1, z->n, z->f);
    if (z->wide) {
        le(&p, 0x06064b50, 4), le(&p, 44, 8), le(&p, 45, 2), le(&p, 45, 2), le(&p, 0, 8);
        le(&p, (uint64_t)z->count, 8), le(&p, (uint64_t)z->count, 8), le(&p, z->n, 8), le(&p, at, 8);
        le(&p, 0x07064b50, 4), le(&p, 0, 4), le(&p, at + z->n, 8), le(&p, 1, 4);
    }
    le(&p, 0x06054b50, 4), le(&p, 0, 4);
    le(&p, z->wide ? 0xffff : (uint64_t)z->count, 2), le(&p, z->wide ? 0xffff : (uint64_t)z->count, 2);
    le(&p, z->wide ? 0xffffffff : z->n, 4), le(&p, z->wide ? 0xffffffff : at, 4), le(&p, 0, 2);
    fwrite(end, 1, (size_t)(p - end), z->f);
    assert_int_equal(fclose(z->f), 0);
}

#define PKL "\x80\2}" STR("w.q", "\3") W "s."
#define PKL_N (sizeof(PKL) - 1)

static void archives_are_refused_by_name(void **state)
{
    (void)state;
    const float data[4] = {1, 2, 3, 4};
    enum { GOOD, WIDE, NO_STORAGE, SHORT, NO_PKL, TWO_PKL, BIG_ENDIAN, PACKED, TWICE, CASES };
    static const struct {
        t3v_status status;
        const char *text;
    } want[CASES] = {{T3V_OK, ""},
                     {T3V_OK, ""},
                     {T3V_E_FORMAT, "'w.q' is in storage 'a/data/0', which is missing"},
                     {T3V_E_FORMAT, "'w.q': storage 'a/data/0' has 15 bytes"},
                     {T3V_E_FORMAT, "without data.pkl"},
                     {T3V_E_FORMAT, "'b/data.pkl'"},
                     {T3V_E_UNSUPPORTED, "'big'"},
                     {T3V_E_UNSUPPORTED, "'a/data/0' is compressed"},
                     {T3V_E_FORMAT, "'a/data/0' appears twice"}};
    for (int k = 0; k < CASES; k++) {
        zip z = {.f = fopen(in_dir("z.pth"), "wb"), .wide = k == WIDE};
        zip_add(&z, k == NO_PKL ? "a/other" : "a/data.pkl", PKL, PKL_N, PKL_N, 0);
        if (k == TWO_PKL) zip_add(&z, "b/data.pkl", PKL, PKL_N, PKL_N, 0);
        if (k == BIG_ENDIAN) zip_add(&z, "a/byteorder", "big", 3, 3, 0);
        size_t n = k == SHORT ? 15 : 16;
        zip_add(&z, k == NO_STORAGE ? "a/data/1" : "a/data/0", data, n, n, k == PACKED ? 8 : 0);
        if (k == TWICE) zip_add(&z, "a/data/0", data, n, n, 0);
        zip_end(&z);
        t3v_tensor_file *v;
        t3v_status st = t3v_tensors_open(&v, in_dir("z.pth"));
        if (want[k].status) {
            failed(st, want[k].status, want[k].text);
            continue;
        }
        assert_int_equal(st, T3V_OK);
        assert_memory_equal(t3v_tensors_find(v, "w.q")->data, data, 16);
        t3v_tensors_close(v);
    }
}

/* Any one damaged byte, and any truncation, of a valid archive gives a result or an error, never a crash. */
static void damage_never_crashes(void **state)
{
    (void)state;
    const float data[4] = {1, 2, 3, 4};
    for (int wide = 0; wide < 2; wide++) {
        zip z = {.f = fopen(in_dir("z.pth"), "wb"), .wide = wide};
        zip_add(&z, "a/data.pkl", PKL, PKL_N, PKL_N, 0);
        zip_add(&z, "a/data/0", data, 16, 16, 0);
        zip_end(&z);
        char *good;
        size_t n;
        assert_int_equal(t3v_read_text(in_dir("z.pth"), 1 << 16, &good, &n), T3V_OK);
        int opened = 0;
        for (size_t i = 0; i < n; i++) {
            for (int change = 0; change < 3; change++) {
                unsigned char *bad = malloc(n);
                memcpy(bad, good, n);
                bad[i] = (unsigned char)(change == 0 ? 0 : change == 1 ? 0xff : bad[i] ^ 1);
                FILE *f = fopen(in_dir("d.pth"), "wb");
                fwrite(bad, 1, change ? n : i, f);
                fclose(f);
                free(bad);
                t3v_tensor_file *v;
                if (t3v_tensors_open(&v, in_dir("d.pth")) == T3V_OK) {
                    for (int64_t t = 0; t < v->count; t++) {
                        float x[4];
                        if (v->tensors[t].numel <= 4) (void)t3v_tensor_copy(&v->tensors[t], x, T3V_F32);
                    }
                    t3v_tensors_close(v);
                    opened += change == 0;
                }
            }
        }
        assert_int_equal(opened, 0); /* every truncation is refused */
        free(good);
    }
}

/* A 12 GB archive, sparse: two tensors of 1.5 G elements. */
static void archives_beyond_4_gb(void **state)
{
    (void)state;
#define BIG(key)                                                            \
    TENSOR("(" STR("storage", "\7") "ctorch\nFloatStorage\n" STR(key, "\1") \
               STR("cpu", "\3") "J\0\0\0\x60tQ",                            \
           "K\0", "J\0\0\0\x60\x85", "K\1\x85")
    static const char pkl[] = "\x80\2}(" STR("one", "\3") BIG("0") STR("two", "\3") BIG("1") "u.";
    const float first = 5, second = 6;
    zip z = {.f = fopen(in_dir("big.pth"), "wb"), .wide = true};
    zip_add(&z, "a/data.pkl", pkl, sizeof pkl - 1, sizeof pkl - 1, 0);
    zip_add(&z, "a/data/0", &first, 4, (uint64_t)0x60000000 * 4, 0);
    zip_add(&z, "a/data/1", &second, 4, (uint64_t)0x60000000 * 4, 0);
    zip_end(&z);
    t3v_tensor_file *v;
    t3v_status st = t3v_tensors_open(&v, in_dir("big.pth"));
    if (st) print_message("%s\n", t3v_error_text());
    assert_int_equal(st, T3V_OK);
    const t3v_tensor_entry *two = t3v_tensors_find(v, "two");
    assert_int_equal(two->nbytes, (int64_t)0x60000000 * 4);
    assert_memory_equal(two->data, &second, 4);
    t3v_tensors_close(v);
    unlink(in_dir("big.pth"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_reads_what_we_write),    cmocka_unit_test(pieces_make_the_same_file),
        cmocka_unit_test(we_read_what_torch_writes),    cmocka_unit_test(pickles_are_refused_by_name),
        cmocka_unit_test(archives_are_refused_by_name), cmocka_unit_test(damage_never_crashes),
        cmocka_unit_test(archives_beyond_4_gb),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
