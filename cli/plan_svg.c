/* SPDX-License-Identifier: Apache-2.0 */
/* What one token sees, kind of layer by kind of layer, over the frame and over time. */
#define _GNU_SOURCE
#include "plan_svg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "markup.h"

enum { ROWS_MAX = 12, THUMBS_MAX = 21, COLUMNS = 7, TERMS_MAX = 8 };
enum {
    LABEL = 20,
    PANEL = 210,
    PANEL_W = 300,
    PANEL_H = 190,
    CLIP = 540,
    CLIP_W = 64,
    GAP = 6,
    WIDTH = 1050,
    TOP = 84
};

static const char *const colors[TERMS_MAX] = {"#2b6cb0", "#dd6b20", "#2f855a", "#b83280",
                                              "#975a16", "#2c7a7b", "#9b2c2c", "#4a5568"};

typedef struct picture {
    FILE *f;
    const t3v_plan *plan;
    const int64_t *query;
    uint8_t *seen;           /* [tokens], bit i: term i of the present row */
    char *shape[THUMBS_MAX]; /* of the frames shown in the present row */
    int64_t frame[THUMBS_MAX];
    int frames;
    double scale, thumb; /* pixels a token, in the panel and in the clip's frames */
} picture;

/* Marks the keys of the query in `seen`; returns their number. */
static int64_t mark(const t3v_term *t, int64_t query, uint8_t *seen, int bit)
{
    int64_t slot = query, b = 0, n = 0;
    if (t->order)
        for (slot = 0; t->order[slot] != query;) slot++;
    while (t->block_first[b + 1] <= slot) b++;
    for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++) {
        t3v_range slots = t3v_term_slots(t, t->ranges[r]);
        for (int32_t s = slots.first; s < slots.last; s++, n++)
            seen[t->order ? t->order[s] : s] |= (uint8_t)(1 << bit);
    }
    return n;
}

static bool same_line(const uint8_t *a, const uint8_t *b, int64_t w, int bit)
{
    for (int64_t x = 0; x < w; x++)
        if ((a[x] ^ b[x]) >> bit & 1) return false;
    return true;
}

/* Rectangles of one term in one frame, in tokens: runs along a line, equal lines joined. */
static void rectangles(FILE *f, const uint8_t *frame, int64_t H, int64_t W, int bit)
{
    for (int64_t y = 0, next; y < H; y = next) {
        for (next = y + 1; next < H && same_line(frame + y * W, frame + next * W, W, bit);) next++;
        for (int64_t x = 0, end; x < W; x = end) {
            bool on = frame[y * W + x] >> bit & 1;
            for (end = x + 1; end < W && (frame[y * W + end] >> bit & 1) == on;) end++;
            if (on)
                fprintf(f, "M%lld %lldh%lldv%lldh-%lldz", (long long)x, (long long)y, (long long)(end - x),
                        (long long)(next - y), (long long)(end - x));
        }
    }
}

static t3v_status frame_shape(picture *p, const t3v_site *site, int index)
{
    int64_t H = p->plan->grid.h, W = p->plan->grid.w;
    const uint8_t *frame = p->seen + p->frame[index] * H * W;
    size_t size;
    FILE *f = open_memstream(&p->shape[index], &size);
    if (!f) return t3v_fail(T3V_E_NOMEM, "no memory for a picture");
    for (int t = 0; t < site->terms && t < TERMS_MAX; t++) {
        bool any = false;
        for (int64_t i = 0; i < H * W && !any; i++) any = frame[i] >> t & 1;
        if (!any) continue;
        fprintf(f, "<path fill=\"%s\" stroke=\"%s\" d=\"", colors[t], colors[t]);
        rectangles(f, frame, H, W, t);
        fputs("\"/>", f);
    }
    return fclose(f) ? t3v_fail(T3V_E_NOMEM, "no memory for a picture") : T3V_OK;
}

/* Frame number `index` of a row, its corner at (x, y); shapes that repeat are referred to. */
static void draw_frame(picture *p, int row, int index, double x, double y, double scale, bool mark_query)
{
    const t3v_grid g = p->plan->grid;
    int same = 0;
    while (strcmp(p->shape[same], p->shape[index]) != 0) same++;
    fprintf(p->f,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#f7fafc\" stroke=\"%s\"/>\n",
            x, y, (double)g.w * scale, (double)g.h * scale, mark_query ? "#1a202c" : "#cbd5e0");
    if (*p->shape[same])
        fprintf(p->f,
                "<use href=\"#r%df%d\" transform=\"translate(%.1f %.1f) scale(%.4f)\" fill-opacity=\".7\" "
                "stroke-width=\"%.3f\"/>\n",
                row, same, x, y, scale, (scale == p->scale ? 1.2 : 0.5) / scale);
    if (mark_query)
        fprintf(p->f,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"#fff\" stroke=\"#e53e3e\" "
                "stroke-width=\"2\"/>\n",
                x + ((double)p->query[2] + 0.5) * scale, y + ((double)p->query[1] + 0.5) * scale,
                scale == p->scale ? 4.0 : 2.5);
}

static void layers_with(picture *p, int first)
{
    const t3v_plan *plan = p->plan;
    int shown = 0, all = 0;
    fputs("layers ", p->f);
    for (int i = first; i < plan->layers; i++) {
        if (plan->layer[i].site[T3V_SITE_SELF].term != plan->layer[first].site[T3V_SITE_SELF].term) continue;
        if (all++ < 4) fprintf(p->f, "%s%d", shown++ ? ", " : "", i);
    }
    if (all > shown) fputs(", ...", p->f);
}

static t3v_status draw_row(picture *p, int row, int layer, double y)
{
    const t3v_plan *plan = p->plan;
    const t3v_layer_plan *l = &plan->layer[layer];
    const t3v_site *site = &l->site[T3V_SITE_SELF];
    int64_t query = (p->query[0] * plan->grid.h + p->query[1]) * plan->grid.w + p->query[2], keys[TERMS_MAX],
            together = 0;
    memset(p->seen, 0, (size_t)plan->tokens);
    for (int t = 0; t < site->terms && t < TERMS_MAX; t++) keys[t] = mark(&site->term[t], query, p->seen, t);
    for (int64_t i = 0; i < plan->tokens; i++) together += p->seen[i] != 0;

    fprintf(p->f, "<text x=\"%d\" y=\"%.1f\" font-weight=\"bold\">", LABEL, y + 14);
    layers_with(p, layer);
    fprintf(p->f, "</text>\n<text x=\"%d\" y=\"%.1f\">%lld x %lld x %lld blocks</text>\n", LABEL, y + 34,
            (long long)l->blocks[0], (long long)l->blocks[1], (long long)l->blocks[2]);
    fprintf(p->f, "<text x=\"%d\" y=\"%.1f\">sees %lld, %.2f %%</text>\n", LABEL, y + 54, (long long)together,
            100 * (double)together / (double)plan->tokens);
    for (int t = 0; t < site->terms && t < TERMS_MAX; t++) {
        fprintf(p->f,
                "<rect x=\"%d\" y=\"%.1f\" width=\"11\" height=\"11\" fill=\"%s\" fill-opacity=\".7\"/>",
                LABEL, y + 66 + 20 * t, colors[t]);
        fprintf(p->f, "<text x=\"%d\" y=\"%.1f\">%s: %lld keys</text>\n", LABEL + 18, y + 76 + 20 * t,
                site->term[t].name ? site->term[t].name : "all", (long long)keys[t]);
    }

    t3v_status st = T3V_OK;
    int own = 0;
    for (int i = 0; i < p->frames && !st; i++) {
        st = frame_shape(p, site, i);
        if (p->frame[i] == p->query[0]) own = i;
    }
    if (!st) {
        fputs("<defs>", p->f);
        for (int i = 0; i < p->frames; i++) {
            int same = 0;
            while (strcmp(p->shape[same], p->shape[i]) != 0) same++;
            if (same == i) fprintf(p->f, "<g id=\"r%df%d\">%s</g>", row, i, p->shape[i]);
        }
        fputs("</defs>\n", p->f);
        draw_frame(p, row, own, PANEL, y, p->scale, true);
        double high = (double)plan->grid.h * p->thumb;
        for (int i = 0; i < p->frames; i++) {
            double fx = CLIP + i % COLUMNS * (CLIP_W + GAP), fy = y + i / COLUMNS * (high + GAP);
            draw_frame(p, row, i, fx, fy, p->thumb, i == own);
        }
    }
    for (int i = 0; i < p->frames; i++) {
        free(p->shape[i]);
        p->shape[i] = NULL;
    }
    return st;
}

static double smaller(double a, double b) { return a < b ? a : b; }

static t3v_status draw(picture *p, const char *title)
{
    const t3v_plan *plan = p->plan;
    const t3v_grid g = plan->grid;
    p->frames = g.t < THUMBS_MAX ? (int)g.t : THUMBS_MAX;
    bool own = false;
    for (int i = 0; i < p->frames; i++) {
        p->frame[i] = p->frames > 1 ? i * (g.t - 1) / (p->frames - 1) : 0;
        own = own || p->frame[i] == p->query[0];
    }
    for (int i = p->frames - 1; i >= 0 && !own;
         i--) /* many frames: the nearest shown gives way to the query's */
        if (p->frame[i] < p->query[0]) p->frame[i] = p->query[0], own = true;

    int first[ROWS_MAX], rows = 0;
    for (int i = 0; i < plan->layers && rows < ROWS_MAX; i++) {
        bool seen = false;
        for (int r = 0; r < rows; r++)
            seen = seen ||
                   plan->layer[first[r]].site[T3V_SITE_SELF].term == plan->layer[i].site[T3V_SITE_SELF].term;
        if (!seen) first[rows++] = i;
    }
    int lines = (p->frames + COLUMNS - 1) / COLUMNS;
    p->scale = smaller((double)PANEL_W / (double)g.w, (double)PANEL_H / (double)g.h);
    p->thumb = smaller((double)CLIP_W / (double)g.w, (double)PANEL_H / (double)lines / (double)g.h);
    double high = (double)g.h * p->scale, clip = lines * ((double)g.h * p->thumb + GAP);
    double row_high = (clip > high ? clip : high) + 28;
    if (row_high < 130) row_high = 130;

    fprintf(p->f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d %.0f\" "
            "font-family=\"sans-serif\" font-size=\"13\" fill=\"#1a202c\">\n<rect width=\"100%%\" "
            "height=\"100%%\" fill=\"#fff\"/>\n",
            WIDTH, TOP + rows * row_high, WIDTH, TOP + rows * row_high);
    fprintf(p->f, "<text x=\"%d\" y=\"28\" font-size=\"17\" font-weight=\"bold\">", LABEL);
    cli_markup(p->f, title);
    fprintf(p->f,
            "</text>\n<text x=\"%d\" y=\"50\">%lld x %lld x %lld tokens (time, height, width); what the "
            "token at %lld, %lld, %lld "
            "(red) sees</text>\n",
            LABEL, (long long)g.t, (long long)g.h, (long long)g.w, (long long)p->query[0],
            (long long)p->query[1], (long long)p->query[2]);
    fprintf(p->f,
            "<text x=\"%d\" y=\"72\" fill=\"#4a5568\">its frame</text><text x=\"%d\" y=\"72\" "
            "fill=\"#4a5568\">%s</text>\n",
            PANEL, CLIP, p->frames < g.t ? "frames of the clip, evenly picked" : "all frames of the clip");
    for (int r = 0; r < rows; r++) T3V_TRY(draw_row(p, r, first[r], TOP + r * row_high));
    fputs("</svg>\n", p->f);
    return T3V_OK;
}

t3v_status cli_plan_svg_text(const t3v_plan *plan, const char *title, const int64_t query[3], char **text,
                             size_t *size)
{
    *text = NULL;
    if (query[0] >= plan->grid.t || query[1] >= plan->grid.h || query[2] >= plan->grid.w)
        return t3v_fail(T3V_E_ARG, "token %lld,%lld,%lld is outside the grid of %lld,%lld,%lld",
                        (long long)query[0], (long long)query[1], (long long)query[2],
                        (long long)plan->grid.t, (long long)plan->grid.h, (long long)plan->grid.w);
    picture p = {.f = open_memstream(text, size),
                 .plan = plan,
                 .query = query,
                 .seen = malloc((size_t)plan->tokens)};
    t3v_status st = p.f && p.seen ? draw(&p, title) : t3v_fail(T3V_E_NOMEM, "no memory for a picture");
    if (p.f && fclose(p.f) && !st) st = t3v_fail(T3V_E_NOMEM, "no memory for a picture");
    free(p.seen);
    if (!st) return T3V_OK;
    free(*text);
    *text = NULL;
    return st;
}

t3v_status cli_plan_svg(const char *path, const t3v_plan *plan, const char *title, const int64_t query[3])
{
    char *text;
    size_t size;
    T3V_TRY(cli_plan_svg_text(plan, title, query, &text, &size));
    t3v_status st = t3v_write_text(path, text, size);
    free(text);
    return st;
}
