/* SPDX-License-Identifier: Apache-2.0 */
/* Video files: round trips, what ffprobe and ffmpeg say about them, damaged input, failing output. */
#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/status.h"
#include "base/threads.h"
#include "folder.h"
#include "video/backend.h"
#include "video/png.h"
#include "video/video.h"

/* x265 3.5 keeps 3.5 kB after it is closed. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:x265_malloc\n"; }

enum { W = 192, H = 128, FRAMES = 12 };

/* A smooth moving picture with all hues, in [-1,1]. */
static void make_frame(float *rgb, int w, int h, int t)
{
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                rgb[(c * h + y) * w + x] = 0.8f * sinf(0.03f * (float)x + 0.05f * (float)y * (float)(c - 1) +
                                                       0.2f * (float)t + 2.0f * (float)c);
}

static double psnr_u8(const uint8_t *a, const uint8_t *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : 99;
}

static t3v_status write_clip(const char *path, const t3v_video_options *opt, int frames)
{
    t3v_video_writer *w;
    T3V_TRY(t3v_video_writer_open(&w, path, opt));
    float *rgb = malloc((size_t)(opt->width * opt->height * 3) * sizeof *rgb);
    for (int t = 0; t < frames; t++) {
        make_frame(rgb, (int)opt->width, (int)opt->height, t);
        if (t3v_video_writer_frame(w, rgb, 0, 0)) break;
    }
    free(rgb);
    return t3v_video_writer_close(&w);
}

/* Reads a clip written by write_clip; the worst PSNR over its frames, and the largest difference. */
static double read_back(const char *path, int w, int h, int frames, int *worst_level)
{
    t3v_video_reader *r;
    bool eof = false;
    size_t n = (size_t)w * (size_t)h * 3;
    float *rgb = malloc(n * sizeof *rgb);
    uint8_t *want = malloc(n), *got = malloc(n);
    double worst = 99;
    *worst_level = 0;
    if (t3v_video_reader_open(&r, path)) fail_msg("%s", t3v_error_text());
    const t3v_video_info *info = t3v_video_reader_info(r);
    assert_int_equal(info->width, w);
    assert_int_equal(info->height, h);
    int t = 0;
    for (;; t++) {
        if (t3v_video_reader_next_u8(r, got, &eof)) fail_msg("%s", t3v_error_text());
        if (eof) break;
        make_frame(rgb, w, h, t);
        for (size_t i = 0; i < n; i++) {
            size_t c = i % 3, pixel = i / 3;
            want[i] = t3v_pixel_u8(rgb[c * n / 3 + pixel]);
            int d = abs(want[i] - got[i]);
            if (d > *worst_level) *worst_level = d;
        }
        double p = psnr_u8(want, got, (int64_t)n);
        if (p < worst) worst = p;
    }
    assert_int_equal(t, frames);
    t3v_video_reader_close(&r);
    free(rgb);
    free(want);
    free(got);
    return worst;
}

/* The output of a shell command. */
static char *output_of(const char *command)
{
    static char text[8192];
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(text, 1, sizeof text - 1, p);
    text[n] = 0;
    pclose(p);
    return text;
}

static void *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s is missing", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *p = malloc(*size + 1);
    assert_int_equal(fread(p, 1, *size, f), *size);
    fclose(f);
    return p;
}

static void spill(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static bool same_files(const char *a, const char *b)
{
    size_t na, nb;
    void *pa = slurp(a, &na), *pb = slurp(b, &nb);
    bool same = na == nb && memcmp(pa, pb, na) == 0;
    free(pa);
    free(pb);
    return same;
}

static int files_in_dir(const char *pattern)
{
    char command[512];
    snprintf(command, sizeof command, "ls -A %s | grep -c -- '%s'", dir, pattern);
    return atoi(output_of(command));
}

static bool have_av(void)
{
    if (t3v_video_av()) return true;
    print_message("SKIPPED: %s\n", t3v_error_text());
    return false;
}

static const t3v_video_tag tags[] = {{"prompt", "a heron; 100% \"ice\" = \xc3\xa9t\xc3\xa9"},
                                     {"seed", "42"},
                                     {"plan", "t3"}};

static t3v_video_options options(const char *codec)
{
    return (t3v_video_options){
        .width = W, .height = H, .fps_num = 16, .fps_den = 1, .codec = codec, .tags = tags, .tag_count = 3};
}

/* ---- built in ---- */

static void y4m_round_trip(void **state)
{
    (void)state;
    static const char *const kinds[] = {"444", "420"};
    for (int k = 0; k < 2; k++) {
        t3v_video_options o = options(kinds[k]);
        o.width = W - 1 + k; /* odd for 4:4:4 */
        int level;
        assert_int_equal(write_clip(in_dir("a.y4m"), &o, 5), T3V_OK);
        double p = read_back(in_dir("a.y4m"), (int)o.width, H, 5, &level);
        /* Limited range has 219 levels for 255: half a level of Y and of C, mapped back. */
        if (k == 0) assert_true(level <= 2);
        assert_true(p > (k ? 38 : 48));
        /* What came from 4:4:4 goes back exactly. */
        if (k == 0) {
            t3v_video_reader *r;
            t3v_video_writer *w;
            bool eof;
            float *rgb = malloc((size_t)(o.width * H * 3) * sizeof *rgb);
            assert_int_equal(t3v_video_reader_open(&r, in_dir("a.y4m")), T3V_OK);
            assert_int_equal(t3v_video_writer_open(&w, in_dir("b.y4m"), &o), T3V_OK);
            while (!t3v_video_reader_next(r, rgb, &eof) && !eof)
                assert_int_equal(t3v_video_writer_frame(w, rgb, 0, 0), T3V_OK);
            assert_int_equal(t3v_video_writer_close(&w), T3V_OK);
            t3v_video_reader_close(&r);
            free(rgb);
            assert_true(same_files(in_dir("a.y4m"), in_dir("b.y4m")));
        }
    }
}

static void y4m_hostile(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "YUV4MPEG2\nFRAME\n",
        "YUV4MPEG2 W16\nFRAME\n",
        "YUV4MPEG2 W-4 H4\n",
        "YUV4MPEG2 W99999999999999999999 H4\n",
        "YUV4MPEG2 W16384 H16384 C444\nFRAME\nx",
        "YUV4MPEG2 W4 H4 F1:0\n",
        "YUV4MPEG2 W4 H4 C420p10\n",
        "YUV4MPEG2 W4 H4 C444\n",
        "YUV4MPEG2 W2 H2 Cmono\nFRAMX\n1234567",
        "YUV4MPEG2x W2 H2\n",
        "YUV4MPEG2",
        "YUV4MPEG2 W2 H2 Cmono\nFRAME\n123",
    };
    t3v_video_reader *r;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        spill(in_dir("bad.y4m"), bad[i], strlen(bad[i]));
        t3v_status st = t3v_video_reader_open(&r, in_dir("bad.y4m"));
        assert_true(st == T3V_E_FORMAT || st == T3V_E_UNSUPPORTED);
        assert_null(r);
        assert_true(strlen(t3v_error_text()) > 10);
    }
    /* A second frame that is cut. */
    const char cut[] = "YUV4MPEG2 W2 H2 Cmono F0:0 XCOLORRANGE=FULL\nFRAME Ix\n\x01\x02\x03\x04"
                       "FRAME\n\x01";
    uint8_t rgb[12];
    bool eof;
    spill(in_dir("bad.y4m"), cut, sizeof cut - 1);
    assert_int_equal(t3v_video_reader_open(&r, in_dir("bad.y4m")), T3V_OK);
    assert_int_equal(t3v_video_reader_next_u8(r, rgb, &eof), T3V_OK);
    assert_int_equal(rgb[0], 1);
    assert_int_equal(rgb[11], 4);
    assert_int_equal(t3v_video_reader_next_u8(r, rgb, &eof), T3V_E_FORMAT);
    t3v_video_reader_close(&r);
}

static void png_round_trip(void **state)
{
    (void)state;
    int level;
    t3v_video_options o = options(NULL);
    o.width = 63;
    o.height = 41;
    assert_int_equal(write_clip(in_dir("one.png"), &o, 1), T3V_OK);
    read_back(in_dir("one.png"), 63, 41, 1, &level);
    assert_int_equal(level, 0);
    assert_int_equal(write_clip(in_dir("two.png"), &o, 2), T3V_E_IO);
    assert_int_equal(access(in_dir("two.png"), F_OK), -1);

    assert_int_equal(write_clip(in_dir("f_%05d.png"), &o, 3), T3V_OK);
    assert_int_equal(access(in_dir("f_00001.png"), F_OK), 0);
    assert_int_equal(access(in_dir("f_00004.png"), F_OK), -1);
    read_back(in_dir("f_%05d.png"), 63, 41, 3, &level);
    assert_int_equal(level, 0);
    assert_true(!t3v_video_is_pattern("a%s.png") && !t3v_video_is_pattern("a%d%n.png") &&
                t3v_video_is_pattern("%d.png"));

    /* Every prefix and many single-byte changes are refused or read, never worse. */
    size_t size;
    uint8_t *data = slurp(in_dir("one.png"), &size), *rgb;
    int64_t w, h, refused = 0;
    for (size_t n = 1; n < size; n += size / 50) {
        assert_int_equal(t3v_png_decode(data, n, "cut", &rgb, &w, &h), T3V_E_FORMAT);
        assert_null(rgb);
    }
    for (size_t n = 0; n < size; n += 7) {
        data[n] ^= 0x55;
        if (t3v_png_decode(data, size, "changed", &rgb, &w, &h)) refused++;
        free(rgb);
        data[n] ^= 0x55;
    }
    assert_true(refused > (int64_t)size / 14);

    /* libpng would take the 2 GB that a chunk of text says it has. */
    memcpy(data + 33, "\x74\0\0\x0biTXt", 8);
    assert_int_equal(t3v_png_decode(data, size, "long", &rgb, &w, &h), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "a chunk of 1946157067 bytes at 33"));
    /* The same in the last bytes of the file, where no whole chunk fits. */
    memcpy(data + 33, "\x74\0\0\x0btEXt", 8);
    assert_int_equal(t3v_png_decode(data, 43, "long", &rgb, &w, &h), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "ends at 43 without an IEND chunk"));
    free(data);

    /* A header of 100000 x 100000 (with its right CRC) is refused before memory is taken. */
    static const uint8_t big[] = {0x89, 'P', 'N', 'G', 13,  10,   26,   10,   0,    0, 0,    13,
                                  'I',  'H', 'D', 'R', 0,   1,    0x86, 0xa0, 0,    1, 0x86, 0xa0,
                                  8,    2,   0,   0,   0,   0x27, 0x30, 0x9c, 0x9f, 0, 0,    0,
                                  0,    'I', 'D', 'A', 'T', 0x35, 0xaf, 0x06, 0x1e, 0, 0,    0,
                                  0,    'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82};
    assert_int_equal(t3v_png_decode(big, sizeof big, "big", &rgb, &w, &h), T3V_E_TOO_BIG);
}

static void cropped_planes(void **state)
{
    (void)state;
    /* One frame of [3,F=2,H=6,W=8], cropped to 5x3. */
    float video[3 * 2 * 6 * 8];
    for (int i = 0; i < 3 * 2 * 6 * 8; i++) video[i] = (float)(i % 256) / 127.5f - 1;
    t3v_video_options o = {.width = 5, .height = 3, .fps_num = 24};
    t3v_video_writer *w;
    assert_int_equal(t3v_video_writer_open(&w, in_dir("crop.png"), &o), T3V_OK);
    assert_int_equal(t3v_video_writer_frame(w, video + 6 * 8, 2 * 6 * 8, 8), T3V_OK);
    assert_int_equal(t3v_video_writer_close(&w), T3V_OK);
    uint8_t *rgb;
    int64_t width, height;
    assert_int_equal(t3v_png_read(in_dir("crop.png"), &rgb, &width, &height), T3V_OK);
    assert_true(width == 5 && height == 3);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 5; x++)
            for (int c = 0; c < 3; c++)
                assert_int_equal(rgb[(y * 5 + x) * 3 + c], (c * 96 + 48 + y * 8 + x) % 256);
    free(rgb);
}

static void pixels(void **state)
{
    (void)state;
    for (int v = 0; v < 256; v++) assert_int_equal(t3v_pixel_u8((float)v / 127.5f - 1.0f), v);
    assert_int_equal(t3v_pixel_u8(-1e30f), 0);
    assert_int_equal(t3v_pixel_u8(INFINITY), 255);
    assert_int_equal(t3v_pixel_u8(NAN), 0);
}

static void resize(void **state)
{
    (void)state;
    enum { A = 37, B = 29 };
    static float src[2 * A * B], dst[2 * 200 * 200];
    for (int c = 0; c < 2; c++)
        for (int y = 0; y < A; y++)
            for (int x = 0; x < B; x++)
                src[(c * A + y) * B + x] = c ? 0.25f : 0.01f * (float)x - 0.02f * (float)y;
    static const int sizes[][2] = {{A, B}, {18, 14}, {5, 3}, {1, 1}, {74, 58}, {100, 7}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int h = sizes[s][0], w = sizes[s][1];
        assert_int_equal(t3v_frame_resize(src, 2, A, B, dst, h, w), T3V_OK);
        for (int i = 0; i < h * w; i++) assert_true(fabsf(dst[h * w + i] - 0.25f) < 1e-6f);
        /* A ramp stays a ramp away from the edges. */
        float y = ((float)(h / 2) + 0.5f) * A / (float)h - 0.5f,
              x = ((float)(w / 2) + 0.5f) * B / (float)w - 0.5f;
        if (h > 10)
            assert_true(fabsf(dst[h / 2 * w + w / 2] - (0.01f * x - 0.02f * y)) < (w > 10 ? 1e-5f : 5e-3f));
    }
    assert_int_equal(t3v_frame_resize(src, 2, A, B, dst, A, B), T3V_OK);
    for (int i = 0; i < 2 * A * B; i++) assert_true(fabsf(dst[i] - src[i]) < 1e-6f);
}

static void wrong_use(void **state)
{
    (void)state;
    t3v_video_writer *w;
    t3v_video_options o = options(NULL);
    assert_int_equal(t3v_video_writer_open(&w, in_dir("none/a.y4m"), &o), T3V_E_IO);
    assert_non_null(strstr(t3v_error_text(), "none/a.y4m"));
    assert_int_equal(t3v_video_writer_open(&w, dir, &o), have_av() ? T3V_E_IO : T3V_E_UNSUPPORTED);
    o.width = 0;
    assert_int_equal(t3v_video_writer_open(&w, in_dir("a.y4m"), &o), T3V_E_ARG);
    o = options("h264");
    assert_int_equal(t3v_video_writer_open(&w, in_dir("a.png"), &o), T3V_E_ARG);
    assert_int_equal(t3v_video_writer_open(&w, in_dir("a.y4m"), &o), T3V_E_ARG);
    /* No frame: no file. An abort leaves nothing. */
    o = options(NULL);
    assert_int_equal(write_clip(in_dir("never.y4m"), &o, 0), T3V_E_ARG);
    assert_int_equal(t3v_video_writer_open(&w, in_dir("never.y4m"), &o), T3V_OK);
    assert_int_equal(files_in_dir("never"), 1);
    t3v_video_writer_abort(&w);
    assert_int_equal(files_in_dir("never"), 0);
    t3v_video_reader *r;
    assert_int_equal(t3v_video_reader_open(&r, in_dir("absent.mp4")), T3V_E_IO);
    assert_int_equal(t3v_video_reader_open(&r, dir), T3V_E_IO);
    spill(in_dir("empty.mp4"), "", 0);
    assert_int_equal(t3v_video_reader_open(&r, in_dir("empty.mp4")), T3V_E_FORMAT);
}

/* /dev/full takes nothing: the failure must come out, at the latest when closing. */
static void full_disk(void **state)
{
    (void)state;
    static const char *const names[] = {"full.y4m", "full.png", "full.mp4", "full.mkv"};
    if (access("/dev/full", W_OK)) {
        print_message("SKIPPED: no /dev/full here\n");
        return;
    }
    for (int i = 0; i < 4; i++) {
        t3v_video_options o = options(NULL);
        if (i >= 2 && !have_av()) break;
        assert_int_equal(symlink("/dev/full", in_dir(names[i])), 0);
        assert_int_equal(write_clip(in_dir(names[i]), &o, i == 1 ? 1 : FRAMES), T3V_E_IO);
        assert_non_null(strstr(t3v_error_text(), names[i]));
        unlink(in_dir(names[i]));
    }
    assert_int_equal(files_in_dir("full"), 0);
}

/* ---- the libav module ---- */

typedef struct expectation {
    const char *file, *codec;
    double psnr;       /* at least, dB; 99: exact */
    const char *probe; /* codec, profile, pix_fmt and colour fields as ffprobe prints them */
} expectation;

static const expectation expected[] = {
    {"a.mp4", NULL, 38, "h264|High|yuv420p|tv|bt709|bt709|bt709"},
    {"b.mp4", "hevc", 38, "hevc|Main 10|yuv420p10le|tv|bt709|bt709|bt709"},
    {"c.mov", NULL, 42, "prores|HQ|yuv422p10le|tv|bt709|bt709|bt709"},
    {"d.mkv", NULL, 99, "ffv1|unknown|bgr0|pc|gbr|iec61966-2-1|bt709"},
    {"e.webm", NULL, 35, "av1|Main|yuv420p10le|tv|bt709|bt709|bt709"},
    {"f.mkv", "h264", 38, "h264|High|yuv420p|tv|bt709|bt709|bt709"},
    {"g.mp4", "av1", 35, "av1|Main|yuv420p10le|tv|bt709|bt709|bt709"},
};

static void codecs_round_trip(void **state)
{
    (void)state;
    if (!have_av()) return;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const expectation *e = &expected[i];
        const char *path = in_dir(e->file);
        t3v_video_options o = options(e->codec);
        char command[768];
        int level;
        if (write_clip(path, &o, FRAMES)) fail_msg("%s: %s", e->file, t3v_error_text());
        double p = read_back(path, W, H, FRAMES, &level);
        print_message("%-7s psnr %.2f dB, worst level %d\n", e->file, p, level);
        assert_true(p >= e->psnr);
        snprintf(command, sizeof command,
                 "ffprobe -v error -count_frames -show_entries "
                 "stream=codec_name,profile,pix_fmt,color_range,color_space,"
                 "color_transfer,color_primaries,r_frame_rate,nb_read_frames,codec_tag_string:format_tags "
                 "-of default=nw=1 %s",
                 path);
        char *text = output_of(command);
        if (!text[0]) {
            print_message("SKIPPED: no ffprobe\n");
            continue;
        }
        char probe[160];
        snprintf(probe, sizeof probe, "%s", e->probe);
        static const char *const keys[] = {"codec_name",  "profile",        "pix_fmt",        "color_range",
                                           "color_space", "color_transfer", "color_primaries"};
        char *save, *value = strtok_r(probe, "|", &save);
        for (int k = 0; k < 7; k++, value = strtok_r(NULL, "|", &save)) {
            char line[96];
            snprintf(line, sizeof line, "%s=%s\n", keys[k], value);
            if (!strstr(text, line)) fail_msg("%s: expected %s in\n%s", e->file, line, text);
        }
        if (!strstr(text, "r_frame_rate=16/1\n") || !strstr(text, "nb_read_frames=12\n"))
            fail_msg("%s: rate or frames wrong in\n%s", e->file, text);
        bool mkv = strstr(e->file, ".mkv") || strstr(e->file, ".webm");
        if (!strstr(text, mkv ? "TAG:SEED=42" : "TAG:seed=42") || !strstr(text, "\xc3\xa9t\xc3\xa9"))
            fail_msg("%s: metadata missing in\n%s", e->file, text);
        if (e->codec && strcmp(e->codec, "hevc") == 0) assert_non_null(strstr(text, "codec_tag_string=hvc1"));
    }
    /* moov before mdat. */
    size_t size;
    char *mp4 = slurp(in_dir("a.mp4"), &size);
    size_t moov = 0, mdat = 0;
    for (size_t i = 0; i + 4 < size; i++) {
        if (!moov && memcmp(mp4 + i, "moov", 4) == 0) moov = i;
        if (!mdat && memcmp(mp4 + i, "mdat", 4) == 0) mdat = i;
    }
    assert_true(moov > 0 && moov < mdat);
    free(mp4);
}

static void same_bytes(void **state)
{
    (void)state;
    if (!have_av()) return;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const char *ext = strrchr(expected[i].file, '.');
        char a[64], b[64];
        t3v_video_options o = options(expected[i].codec);
        snprintf(a, sizeof a, "same1%s", ext);
        snprintf(b, sizeof b, "same2%s", ext);
        /* Fresh memory is filled with other bytes in the second run: it must not matter. */
        t3v_threads_set(1);
        mallopt(M_PERTURB, 0);
        assert_int_equal(write_clip(in_dir(a), &o, FRAMES), T3V_OK);
        t3v_threads_set(2);
        mallopt(M_PERTURB, 77);
        assert_int_equal(write_clip(in_dir(b), &o, FRAMES), T3V_OK);
        if (!same_files(in_dir(a), in_dir(b))) fail_msg("%s differs between two runs", expected[i].file);
    }
    mallopt(M_PERTURB, 0);
}

static void wrong_use_of_libav(void **state)
{
    (void)state;
    if (!have_av()) return;
    t3v_video_writer *w;
    t3v_video_options o = options(NULL);
    assert_int_equal(t3v_video_writer_open(&w, in_dir("a.xyz"), &o), T3V_E_ARG);
    o.codec = "prores";
    assert_int_equal(t3v_video_writer_open(&w, in_dir("x.mp4"), &o), T3V_E_ARG);
    o = options(NULL);
    o.width = W + 1;
    assert_int_equal(t3v_video_writer_open(&w, in_dir("x.mp4"), &o), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "even"));
    assert_int_equal(t3v_video_writer_open(&w, in_dir("x.mkv"), &o), T3V_OK);
    t3v_video_writer_abort(&w);
    assert_int_equal(files_in_dir("^x"), 0);
    /* The smallest sizes that the program allows. */
    o.width = o.height = 16;
    assert_int_equal(write_clip(in_dir("small.mp4"), &o, 5), T3V_OK);
}

/* Cut, overwritten and foreign files give an error or the frames before the damage, never a crash. */
static void damaged(void **state)
{
    (void)state;
    if (!have_av()) return;
    static const char *const names[] = {"a.mp4", "e.webm", "d.mkv"};
    t3v_video_reader *r;
    bool eof = false;
    uint8_t *rgb = malloc(W * H * 3);
    for (int i = 0; i < 3; i++) {
        size_t size;
        t3v_video_options o = options(NULL);
        char bad[32];
        snprintf(bad, sizeof bad, "cut%s", strrchr(names[i], '.'));
        assert_int_equal(write_clip(in_dir(names[i]), &o, FRAMES), T3V_OK);
        uint8_t *data = slurp(in_dir(names[i]), &size);
        for (int part = 0; part < 8; part++) {
            spill(in_dir(bad), data, size * (size_t)part / 8 + 16);
            int frames = 0;
            t3v_status st = t3v_video_reader_open(&r, in_dir(bad));
            while (!st && !(st = t3v_video_reader_next_u8(r, rgb, &eof)) && !eof) frames++;
            print_message("%s %d/8: %s, %d frames\n", bad, part, st ? t3v_error_text() : "ok", frames);
            assert_true(frames < FRAMES);
            if (part == 0) assert_true(st == T3V_E_FORMAT || st == T3V_E_IO);
            else assert_true(st != T3V_OK);
            t3v_video_reader_close(&r);
        }
        free(data);
    }
    const char text[] = "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n";
    spill(in_dir("list.m3u8"), text, sizeof text - 1);
    assert_int_equal(t3v_video_reader_open(&r, in_dir("list.m3u8")), T3V_E_FORMAT);
    spill(in_dir("text.mp4"), "a heron lands on a frozen lake\n", 31);
    assert_int_equal(t3v_video_reader_open(&r, in_dir("text.mp4")), T3V_E_FORMAT);
    free(rgb);
}

static void rotated(void **state)
{
    (void)state;
    if (!have_av()) return;
    t3v_video_options o = options(NULL);
    char command[768];
    assert_int_equal(write_clip(in_dir("a.mp4"), &o, FRAMES), T3V_OK);
    snprintf(command, sizeof command,
             "cd %s && ffmpeg -v error -y -i a.mp4 -c copy -metadata:s:v rotate=90 rot.mp4 && "
             "ffmpeg -v error -y -i rot.mp4 -frames:v 1 -f rawvideo -pix_fmt rgb24 rot.rgb; echo done",
             dir);
    output_of(command);
    if (access(in_dir("rot.rgb"), R_OK)) {
        print_message("SKIPPED: no ffmpeg\n");
        return;
    }
    t3v_video_reader *r;
    bool eof;
    size_t size;
    uint8_t *want = slurp(in_dir("rot.rgb"), &size), *got = malloc(W * H * 3);
    assert_int_equal(size, W * H * 3);
    assert_int_equal(t3v_video_reader_open(&r, in_dir("rot.mp4")), T3V_OK);
    assert_int_equal(t3v_video_reader_info(r)->width, H);
    assert_int_equal(t3v_video_reader_info(r)->height, W);
    assert_int_equal(t3v_video_reader_next_u8(r, got, &eof), T3V_OK);
    assert_true(psnr_u8(want, got, W * H * 3) > 40);
    t3v_video_reader_close(&r);
    free(want);
    free(got);
}

/* The sample clips against ffmpeg's own conversion. */
static void sample_clips(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int w, h, frames, stream;
    } clips[] = {{"bbb_180p_300f.webm", 320, 180, 300, 0},
                 {"nasa_cleanroom_270p_390f.mp4", 480, 270, 390, 3},
                 {"bbb_720p_132f.mp4", 1280, 720, 132, 0},
                 {"bbb_1080p_120f.mp4", 1920, 1080, 120, 0}};
    if (!have_av()) return;
    const char *data = getenv("T3V_DATA");
    if (!data) data = "../shared/data";
    for (int job = 0; job < 8; job++) {
        int i = job / 2, pass = job % 2;
        char path[512], command[1280];
        snprintf(path, sizeof path, "%s/%s", data, clips[i].name);
        if (access(path, R_OK)) {
            print_message("SKIPPED: no %s (set T3V_DATA)\n", path);
            continue;
        }
        int limit = clips[i].h > 300 ? 16 : clips[i].frames, every = limit / 4;
        size_t n = (size_t)clips[i].w * (size_t)clips[i].h * 3;
        /* ffmpeg's default conversion is 1.1 levels darker than the formula (it takes the nearest chroma and
         * truncates): within 2 levels of it, and the same as its accurate one. */
        bool accurate = pass == 1;
        snprintf(
            command, sizeof command,
            "ffmpeg -v error -y -i '%s' -map 0:%d -vf \"select='not(mod(n,%d))'%s\" -vsync 0 -frames:v %d "
            "-f rawvideo -pix_fmt rgb24 %s/ref.rgb; echo",
            path, clips[i].stream, every,
            accurate ? ",scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact" : "",
            (limit - 1) / every + 1, dir);
        output_of(command);
        FILE *f = fopen(in_dir("ref.rgb"), "rb");
        if (!f) {
            print_message("SKIPPED: no ffmpeg\n");
            return;
        }
        uint8_t *want = malloc(n), *got = malloc(n);
        t3v_video_reader *r;
        bool eof = false;
        if (t3v_video_reader_open(&r, path)) fail_msg("%s", t3v_error_text());
        assert_int_equal(t3v_video_reader_info(r)->width, clips[i].w);
        assert_int_equal(t3v_video_reader_info(r)->height, clips[i].h);
        int t = 0;
        double worst = 0;
        for (; t < limit; t++) {
            if (t3v_video_reader_next_u8(r, got, &eof)) fail_msg("%s", t3v_error_text());
            if (eof) break;
            if (t % every) continue;
            double sum = 0;
            assert_int_equal(fread(want, 1, n, f), n);
            for (size_t k = 0; k < n; k++) sum += abs(want[k] - got[k]);
            if (sum / (double)n > worst) worst = sum / (double)n;
        }
        assert_int_equal(t, limit);
        if (limit == clips[i].frames) {
            assert_int_equal(t3v_video_reader_next_u8(r, got, &eof), T3V_OK);
            assert_true(eof);
        }
        print_message("%s: mean difference from ffmpeg (%s) %.3f levels\n", clips[i].name,
                      accurate ? "accurate" : "default", worst);
        assert_true(worst < (accurate ? 0.01 : 2));
        t3v_video_reader_close(&r);
        fclose(f);
        free(want);
        free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixels),
        cmocka_unit_test(y4m_round_trip),
        cmocka_unit_test(y4m_hostile),
        cmocka_unit_test(png_round_trip),
        cmocka_unit_test(cropped_planes),
        cmocka_unit_test(resize),
        cmocka_unit_test(wrong_use),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(codecs_round_trip),
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(wrong_use_of_libav),
        cmocka_unit_test(damaged),
        cmocka_unit_test(rotated),
        cmocka_unit_test(sample_clips),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
