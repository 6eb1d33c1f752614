/* SPDX-License-Identifier: Apache-2.0 */
/* log.jsonl as an SVG by hand: two panels over the steps, at most some hundred points a curve. */
#include "train/plot.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum {
    POINTS = 400,
    WIDTH = 860,
    LEFT = 64,
    RIGHT = 844,
    LOSS_TOP = 34,
    LOSS_BOTTOM = 264,
    RATE_TOP = 292,
    RATE_BOTTOM = 362
};

typedef struct row {
    long long step;
    int stage;
    double loss, rate; /* NAN: not known */
} row;

/* Text that grows; after a failure nothing is added. */
typedef struct page {
    char *text;
    size_t used, size;
    bool full;
} page;

static void __attribute__((format(printf, 2, 3))) put(page *p, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (p->full || n < 0 || (size_t)n >= sizeof line) return;
    if (p->used + (size_t)n + 1 > p->size) {
        size_t more = 2 * p->size + 4096;
        char *grown = realloc(p->text, more);
        if (!grown) {
            p->full = true;
            return;
        }
        p->text = grown;
        p->size = more;
    }
    memcpy(p->text + p->used, line, (size_t)n + 1);
    p->used += (size_t)n;
}

/* The number behind "key": of a line, NAN where there is none. */
static double number(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    char *end;
    if (!at) return NAN;
    double x = strtod(at + strlen(key), &end);
    return end > at + strlen(key) ? x : NAN;
}

/* The lines of a log, which is cut into them. *n: how many are steps. */
static row *read_rows(char *text, int64_t *n)
{
    int64_t lines = 0;
    for (const char *c = text; *c; c++) lines += *c == '\n';
    row *r = calloc((size_t)lines + 1, sizeof *r);
    *n = 0;
    for (char *line = text, *next; r && (next = strchr(line, '\n')); line = next + 1) {
        *next = 0;
        double stage = number(line, "\"stage\":"), seconds = number(line, "\"seconds\":");
        row *out = &r[*n];
        if (sscanf(line, "{\"step\":%lld,", &out->step) != 1) continue;
        out->stage = stage >= 1 && stage < 1e6 ? (int)stage : 1;
        out->loss = number(line, "\"loss\":");
        if (!(out->loss > 0)) out->loss = NAN; /* -1 stands for a loss that was not finite */
        out->rate = seconds > 0 ? number(line, "\"samples\":") / seconds : NAN;
        ++*n;
    }
    return r;
}

typedef struct axis {
    double low, high, top, bottom; /* values, and where they lie */
} axis;

static double y_of(const axis *a, double v)
{
    return a->bottom - (a->bottom - a->top) * (v - a->low) / (a->high - a->low);
}

static double x_of(const row *r, int64_t n, int64_t i)
{
    double first = (double)r[0].step, span = (double)r[n - 1].step - first;
    return span > 0 ? LEFT + (RIGHT - LEFT) * ((double)r[i].step - first) / span : (LEFT + RIGHT) / 2.0;
}

/* Means of `v` over n / POINTS steps each, as a line. */
static void curve(page *p, const row *r, const double *v, int64_t n, const axis *a, const char *colour,
                  double width)
{
    int64_t every = (n + POINTS - 1) / POINTS;
    put(p, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" points=\"", colour, width);
    for (int64_t i = 0; i < n; i += every) {
        double sum = 0, known = 0;
        for (int64_t k = i; k < i + every && k < n; k++)
            if (!isnan(v[k])) sum += v[k], known++;
        if (known > 0) put(p, "%.1f,%.1f ", x_of(r, n, i), y_of(a, sum / known));
    }
    put(p, "\"/>\n");
}

static void rule(page *p, const axis *a, double v, double shown)
{
    put(p,
        "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
        "text-anchor=\"end\">%.3g</text>\n",
        LEFT, y_of(a, v), RIGHT, LEFT - 6, y_of(a, v) + 4, shown);
}

static void draw(page *p, const row *r, int64_t n, double *raw, double *smooth, double *rate)
{
    int64_t window = n / 20 < 5 ? 5 : n / 20 > 100 ? 100 : n / 20;
    axis loss = {INFINITY, -INFINITY, LOSS_TOP, LOSS_BOTTOM}, speed = {0, 0, RATE_TOP, RATE_BOTTOM};
    for (int64_t i = 0; i < n; i++) {
        double sum = 0, known = 0;
        raw[i] = log10(r[i].loss);
        rate[i] = r[i].rate;
        for (int64_t k = i - window + 1 > 0 ? i - window + 1 : 0; k <= i; k++)
            if (!isnan(r[k].loss) && r[k].stage == r[i].stage) sum += r[k].loss, known++;
        smooth[i] = known > 0 ? log10(sum / known) : NAN;
        if (raw[i] < loss.low) loss.low = raw[i];
        if (raw[i] > loss.high) loss.high = raw[i];
        if (rate[i] > speed.high) speed.high = rate[i];
    }
    if (!(loss.low <= loss.high)) loss.low = -1, loss.high = 0;
    loss.low -= 0.02;
    loss.high += 0.02;
    if (!(speed.high > 0)) speed.high = 1;
    put(p,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d 396\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"%d\" height=\"396\" fill=\"white\"/>\n",
        WIDTH, WIDTH);
    for (int k = 0; k <= 4; k++) {
        double v = loss.low + (loss.high - loss.low) * k / 4;
        rule(p, &loss, v, pow(10, v));
    }
    rule(p, &speed, 0, 0);
    rule(p, &speed, speed.high, speed.high);
    for (int64_t i = 1; i < n; i++)
        if (r[i].stage != r[i - 1].stage)
            put(p,
                "<path d=\"M%.1f %dV%d\" stroke=\"#999\" stroke-dasharray=\"4 3\"/><text x=\"%.1f\" "
                "y=\"%d\">stage "
                "%d</text>\n",
                x_of(r, n, i), LOSS_TOP, RATE_BOTTOM, x_of(r, n, i) + 4, LOSS_TOP + 12, r[i].stage);
    curve(p, r, raw, n, &loss, "#b9d3ea", 1);
    curve(p, r, smooth, n, &loss, "#1f6fb4", 1.8);
    curve(p, r, rate, n, &speed, "#2e8b57", 1.2);
    put(p,
        "<text x=\"%d\" y=\"20\" font-size=\"14\">loss: each step, and the mean of the last %lld; below: "
        "samples a "
        "second</text>\n",
        LEFT, (long long)window);
    put(p,
        "<text x=\"%d\" y=\"380\">step %lld</text><text x=\"%d\" y=\"380\" "
        "text-anchor=\"end\">%lld</text>\n</svg>\n",
        LEFT, r[0].step, RIGHT, r[n - 1].step);
}

t3v_status t3v_train_plot(const char *dir)
{
    char path[4096], *text = NULL;
    size_t size;
    int64_t n = 0;
    page p = {0};
    snprintf(path, sizeof path, "%s/log.jsonl", dir);
    T3V_TRY(t3v_read_text(path, (size_t)1 << 30, &text, &size));
    row *r = read_rows(text, &n);
    double *values = r ? calloc((size_t)(3 * n) + 1, sizeof *values) : NULL;
    t3v_status st = values ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to draw %s", path);
    if (!st && n) draw(&p, r, n, values, values + n, values + 2 * n);
    if (p.full) st = t3v_fail(T3V_E_NOMEM, "no memory to draw %s", path);
    snprintf(path, sizeof path, "%s/loss.svg", dir);
    if (!st && n) st = t3v_write_text(path, p.text, p.used);
    free(p.text);
    free(values);
    free(r);
    free(text);
    return st;
}
