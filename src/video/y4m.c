/* SPDX-License-Identifier: Apache-2.0 */
/* YUV4MPEG2, 8 bit: writes 4:4:4 and 4:2:0, reads those, 4:2:2 and grey.
 *
 * The format names no matrix; it is BT.601 here in both directions, which is what ffmpeg assumes when it
 * meets an untagged stream. Limited range unless XCOLORRANGE=FULL. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "video/backend.h"

#define MAX_HEADER 1024
#define KR 0.299f
#define KB 0.114f
#define KG (1.0f - KR - KB)

typedef struct y4m {
    FILE *f;
    char *name;
    int64_t w, h, cw, ch; /* luma and chroma planes; cw 0: grey */
    float siting;         /* horizontal position of a 4:2:x chroma sample: 0 left, 0.5 between two pixels */
    bool full, standard;  /* standard: f is stdin or stdout */
    uint8_t *planes;      /* Y, U, V */
    int64_t bytes;
} y4m;

static void y4m_free(y4m *m)
{
    if (!m) return;
    if (m->f && !m->standard) fclose(m->f);
    free(m->name);
    free(m->planes);
    free(m);
}

static t3v_status y4m_buffers(y4m *m)
{
    m->bytes = m->w * m->h + 2 * m->cw * m->ch;
    m->planes = malloc((size_t)m->bytes);
    return m->planes ? T3V_OK
                     : t3v_fail(T3V_E_NOMEM, "no memory for a y4m frame of %lld bytes", (long long)m->bytes);
}

static uint8_t clip8(float v)
{
    v += 0.5f;
    return (uint8_t)(!(v > 0.0f) ? 0 : v >= 255.0f ? 255 : (int)v);
}

/* ---- writing ---- */

static t3v_status write_open(void **state, const char *temp, const char *path, const t3v_video_options *opt,
                             int *depth)
{
    t3v_status st;
    bool sub = opt->codec && strcmp(opt->codec, "420") == 0;
    if (opt->codec && !sub && strcmp(opt->codec, "444") != 0)
        return t3v_fail(T3V_E_ARG, "codec '%s' for y4m output '%s': expected 444 or 420", opt->codec, path);
    y4m *m = calloc(1, sizeof *m);
    if (!m || !(m->name = strdup(path))) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for a y4m writer");
        goto fail;
    }
    m->w = opt->width;
    m->h = opt->height;
    m->cw = sub ? (m->w + 1) / 2 : m->w;
    m->ch = sub ? (m->h + 1) / 2 : m->h;
    m->standard = strcmp(path, "-") == 0;
    m->f = m->standard ? stdout : fopen(temp, "wb");
    if (!m->f) {
        st = t3v_fail(T3V_E_IO, "cannot write '%s': %s", path, strerror(errno));
        goto fail;
    }
    T3V_TRY_GOTO(st, fail, y4m_buffers(m));
    if (fprintf(m->f, "YUV4MPEG2 W%lld H%lld F%d:%d Ip A1:1 C%s XCOLORRANGE=LIMITED\n", (long long)m->w,
                (long long)m->h, opt->fps_num, opt->fps_den, sub ? "420jpeg" : "444") < 0) {
        st = t3v_fail(T3V_E_IO, "cannot write '%s': %s", path, strerror(errno));
        goto fail;
    }
    *depth = 8;
    *state = m;
    return T3V_OK;
fail:
    y4m_free(m);
    return st;
}

static t3v_status write_frame(void *state, const void *pixels)
{
    y4m *m = state;
    const uint8_t *rgb = pixels;
    const float ys = 219.0f / 255.0f, cs = 224.0f / 255.0f;
    uint8_t *luma = m->planes, *cb = luma + m->w * m->h, *cr = cb + m->cw * m->ch;
    int64_t sx = m->cw == m->w ? 1 : 2, sy = m->ch == m->h ? 1 : 2;
#pragma omp parallel for schedule(static)
    for (int64_t y = 0; y < m->h; y++)
        for (int64_t x = 0; x < m->w; x++) {
            const uint8_t *p = rgb + (y * m->w + x) * 3;
            luma[y * m->w + x] = clip8(16.0f + ys * (KR * p[0] + KG * p[1] + KB * p[2]));
        }
#pragma omp parallel for schedule(static)
    for (int64_t y = 0; y < m->ch; y++)
        for (int64_t x = 0; x < m->cw; x++) {
            float sum[3] = {0}, n = 0;
            for (int64_t v = y * sy; v < y * sy + sy && v < m->h; v++)
                for (int64_t u = x * sx; u < x * sx + sx && u < m->w; u++, n++)
                    for (int c = 0; c < 3; c++) sum[c] += rgb[(v * m->w + u) * 3 + c];
            float r = sum[0] / n, g = sum[1] / n, b = sum[2] / n, l = KR * r + KG * g + KB * b;
            cb[y * m->cw + x] = clip8(128.0f + cs * (b - l) / (2.0f * (1.0f - KB)));
            cr[y * m->cw + x] = clip8(128.0f + cs * (r - l) / (2.0f * (1.0f - KR)));
        }
    if (fwrite("FRAME\n", 1, 6, m->f) != 6 ||
        fwrite(m->planes, 1, (size_t)m->bytes, m->f) != (size_t)m->bytes)
        return t3v_fail(T3V_E_IO, "cannot write '%s': %s", m->name, strerror(errno));
    return T3V_OK;
}

static t3v_status write_close(void *state, bool aborted)
{
    y4m *m = state;
    t3v_status st = T3V_OK;
    bool bad = fflush(m->f) != 0 || ferror(m->f);
    int why = errno;
    if (!m->standard && fclose(m->f)) {
        bad = true;
        why = errno;
    }
    m->f = NULL;
    if (bad && !aborted) st = t3v_fail(T3V_E_IO, "cannot write '%s': %s", m->name, strerror(why));
    y4m_free(m);
    return st;
}

/* ---- reading ---- */

/* One line of at most `cap`-1 bytes without its newline; false: end of file, or too long. */
static bool get_line(FILE *f, char *line, size_t cap)
{
    size_t n = 0;
    int c = EOF;
    while (n < cap - 1 && (c = getc(f)) != EOF && c != '\n') line[n++] = (char)c;
    line[n] = 0;
    return c == '\n';
}

/* A whole unsigned number in 1..max; *s goes past it. */
static bool number(const char **s, int64_t max, int64_t *out)
{
    int64_t v = 0;
    const char *p = *s;
    for (; *p >= '0' && *p <= '9'; p++) {
        v = v * 10 + (*p - '0');
        if (v > max) return false;
    }
    if (p == *s || v < 1) return false;
    *s = p;
    *out = v;
    return true;
}

static t3v_status set_chroma(y4m *m, const char *c)
{
    static const struct {
        const char *name;
        int sx, sy; /* 0: no chroma */
        float siting;
    } kinds[] = {{"420jpeg", 2, 2, 0.5f}, {"420", 2, 2, 0.5f}, {"420mpeg2", 2, 2, 0}, {"420paldv", 2, 2, 0},
                 {"422", 2, 1, 0},        {"444", 1, 1, 0},    {"mono", 0, 0, 0}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(c, kinds[i].name) != 0) continue;
        m->cw = kinds[i].sx ? (m->w + kinds[i].sx - 1) / kinds[i].sx : 0;
        m->ch = kinds[i].sy ? (m->h + kinds[i].sy - 1) / kinds[i].sy : 0;
        m->siting = kinds[i].siting;
        return T3V_OK;
    }
    return t3v_fail(T3V_E_UNSUPPORTED,
                    "y4m '%s' has chroma format '%.32s'; read are 8-bit 420*, 422, 444, mono", m->name, c);
}

static t3v_status parse_header(y4m *m, t3v_video_info *info)
{
    char line[MAX_HEADER], chroma[33] = "420";
    int64_t num = 0, den = 1, pixels;
    if (!get_line(m->f, line, sizeof line) || strncmp(line, "YUV4MPEG2", 9) != 0 ||
        (line[9] && line[9] != ' '))
        return t3v_fail(T3V_E_FORMAT, "'%s' does not start with a y4m header of less than %d bytes", m->name,
                        MAX_HEADER);
    char *save = NULL;
    for (char *t = strtok_r(line + 9, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
        const char *v = t + 1;
        bool ok = true;
        switch (t[0]) {
        case 'W': ok = number(&v, T3V_VIDEO_MAX_SIDE, &m->w) && !*v; break;
        case 'H': ok = number(&v, T3V_VIDEO_MAX_SIDE, &m->h) && !*v; break;
        case 'F':
            if (strcmp(v, "0:0") == 0) break; /* unknown */
            ok = number(&v, INT32_MAX, &num) && *v++ == ':' && number(&v, INT32_MAX, &den) && !*v;
            break;
        case 'C': snprintf(chroma, sizeof chroma, "%s", v); break;
        case 'X': m->full |= strcmp(v, "COLORRANGE=FULL") == 0; break;
        default: break;
        }
        if (!ok)
            return t3v_fail(T3V_E_FORMAT, "y4m '%s': header field '%.40s' is out of range (sides 1..%d)",
                            m->name, t, T3V_VIDEO_MAX_SIDE);
    }
    if (!m->w || !m->h || !t3v_mul(m->w, m->h, &pixels) || pixels > T3V_VIDEO_MAX_PIXELS)
        return t3v_fail(T3V_E_FORMAT, "y4m '%s': size %lldx%lld, expected 1x1 up to %lld pixels", m->name,
                        (long long)m->w, (long long)m->h, T3V_VIDEO_MAX_PIXELS);
    T3V_TRY(set_chroma(m, chroma));
    info->width = m->w;
    info->height = m->h;
    info->fps_num = (int)num;
    info->fps_den = (int)den;
    snprintf(info->codec, sizeof info->codec, "y4m");
    return T3V_OK;
}

t3v_status t3v_y4m_read_stream(void **state, FILE *f, const char *name, t3v_video_info *info)
{
    t3v_status st;
    y4m *m = calloc(1, sizeof *m);
    if (!m || !(m->name = strdup(name))) {
        if (f != stdin) fclose(f);
        free(m);
        return t3v_fail(T3V_E_NOMEM, "no memory for a y4m reader");
    }
    m->f = f;
    m->standard = f == stdin;
    T3V_TRY_GOTO(st, fail, parse_header(m, info));
    /* A header may claim any size: where the length is known, a frame must fit before memory is taken for it.
     */
    off_t at = ftello(f);
    if (at >= 0 && fseeko(f, 0, SEEK_END) == 0) {
        int64_t left = (int64_t)ftello(f) - at, frame = m->w * m->h + 2 * m->cw * m->ch + 6;
        if (left < frame) {
            st = t3v_fail(T3V_E_FORMAT,
                          "y4m '%s' has no whole frame: %lld bytes after the header, a frame has %lld", name,
                          (long long)left, (long long)frame);
            goto fail;
        }
        info->frames = left / frame;
        if (fseeko(f, at, SEEK_SET)) {
            st = t3v_fail(T3V_E_IO, "cannot seek in '%s': %s", name, strerror(errno));
            goto fail;
        }
    }
    T3V_TRY_GOTO(st, fail, y4m_buffers(m));
    *state = m;
    return T3V_OK;
fail:
    y4m_free(m);
    return st;
}

static t3v_status read_open(void **state, const char *path, t3v_video_info *info)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) return t3v_fail(T3V_E_IO, "cannot open video '%s': %s", path, strerror(errno));
    return t3v_y4m_read_stream(state, f, path, info);
}

/* Linear interpolation of a chroma plane at luma pixel (x, y). */
static float chroma_at(const y4m *m, const uint8_t *plane, int64_t x, int64_t y)
{
    float fx = (float)x, fy = (float)y;
    if (m->cw != m->w) fx = ((float)x - m->siting) / 2.0f;
    if (m->ch != m->h) fy = ((float)y - 0.5f) / 2.0f;
    int64_t x0 = (int64_t)floorf(fx), y0 = (int64_t)floorf(fy), x1 = x0 + 1, y1 = y0 + 1;
    fx -= (float)x0;
    fy -= (float)y0;
    if (x0 < 0) x0 = 0;
    if (y0 < 0) y0 = 0;
    if (x1 > m->cw - 1) x1 = m->cw - 1;
    if (y1 > m->ch - 1) y1 = m->ch - 1;
    float top = plane[y0 * m->cw + x0] * (1 - fx) + plane[y0 * m->cw + x1] * fx;
    float low = plane[y1 * m->cw + x0] * (1 - fx) + plane[y1 * m->cw + x1] * fx;
    return top * (1 - fy) + low * fy;
}

static t3v_status read_frame(void *state, uint8_t *rgb, bool *eof)
{
    y4m *m = state;
    char line[256];
    *eof = false;
    int c = getc(m->f);
    if (c == EOF && !ferror(m->f)) {
        *eof = true;
        return T3V_OK;
    }
    if (c == EOF) return t3v_fail(T3V_E_IO, "cannot read '%s': %s", m->name, strerror(errno));
    ungetc(c, m->f);
    if (!get_line(m->f, line, sizeof line) || strncmp(line, "FRAME", 5) != 0 || (line[5] && line[5] != ' '))
        return t3v_fail(T3V_E_FORMAT, "y4m '%s': expected FRAME, found '%.16s'", m->name, line);
    if (fread(m->planes, 1, (size_t)m->bytes, m->f) != (size_t)m->bytes)
        return t3v_fail(T3V_E_FORMAT, "y4m '%s' ends inside a frame", m->name);
    const uint8_t *luma = m->planes, *cb = luma + m->w * m->h, *cr = cb + m->cw * m->ch;
    float off = m->full ? 0.0f : 16.0f, ys = m->full ? 1.0f : 255.0f / 219.0f,
          cs = m->full ? 1.0f : 255.0f / 224.0f;
#pragma omp parallel for schedule(static)
    for (int64_t y = 0; y < m->h; y++)
        for (int64_t x = 0; x < m->w; x++) {
            float l = (luma[y * m->w + x] - off) * ys, u = 0, v = 0;
            if (m->cw) {
                u = (chroma_at(m, cb, x, y) - 128.0f) * cs * 2.0f * (1.0f - KB);
                v = (chroma_at(m, cr, x, y) - 128.0f) * cs * 2.0f * (1.0f - KR);
            }
            uint8_t *p = rgb + (y * m->w + x) * 3;
            p[0] = clip8(l + v);
            p[1] = clip8(l - (KB * u + KR * v) / KG);
            p[2] = clip8(l + u);
        }
    return T3V_OK;
}

static void read_close(void *state) { y4m_free(state); }

const t3v_video_backend t3v_video_y4m = {"y4m",     write_open, write_frame, write_close,
                                         read_open, read_frame, read_close};
