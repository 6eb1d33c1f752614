/* SPDX-License-Identifier: Apache-2.0 */
/* The page of a comparison: one file that a browser opens from the disk, without a network. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compare.h"
#include "io/file.h"
#include "markup.h"

/* compare_page.css and compare_page.js, made strings by the build. */
extern const char cli_compare_page_css[], cli_compare_page_js[];

typedef struct page {
    FILE *f;
    const compare *c;
    bool whole; /* the clips are inside */
} page;

static int colour(int variant) { return variant % COMPARE_COLOURS; }

static bool shown(const compare *c, compare_key key)
{
    for (int i = 0; i < c->variants; i++)
        if (!isnan(c->variant[i].value[key])) return true;
    return false;
}

static void name_of(const page *p, int variant)
{
    fprintf(p->f, "<i class=\"dot c%d\"></i>", colour(variant));
    cli_markup(p->f, p->c->variant[variant].name);
}

/* ---- head and cards ---------------------------------------------------------------------------------------- */

static void head(const page *p)
{
    const t3v_result *r = &p->c->variant[0].expected;
    const compare *c = p->c;
    fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
          "'unsafe-inline'; "
          "script-src 'unsafe-inline'; img-src data:; media-src data: file: 'self'\">\n<title>",
          p->f);
    for (int i = 0; i < c->variants; i++) {
        if (i) fputs(" / ", p->f);
        cli_markup(p->f, c->variant[i].name);
    }
    fprintf(p->f,
            "</title>\n<style>\n%s</style>\n</head>\n<body>\n<header>\n<h1>%d variants, the same seeds</h1>\n"
            "<p class=\"soft\">%lldx%lld, %lld frames, %lld prompt%s, %lld steps, seed %llu, %s, t3v %s</p>\n"
            "</header>\n",
            cli_compare_page_css, c->variants, (long long)r->width, (long long)r->height,
            (long long)r->frames, (long long)c->prompts.count, c->prompts.count == 1 ? "" : "s",
            (long long)r->steps, (unsigned long long)c->job.seed, t3v_dtype_name(c->job.compute),
            T3V_VERSION);
}

static void card(const page *p, int i)
{
    const compare *c = p->c;
    const compare_variant *v = &c->variant[i], *first = &c->variant[0];
    double faster = first->value[COMPARE_SECONDS_A_STEP] / v->value[COMPARE_SECONDS_A_STEP];
    double share = v->value[COMPARE_ATTENTION_SHARE];
    char text[32];
    fprintf(p->f, "<article class=\"card c%d\">\n<h3>", colour(i));
    name_of(p, i);
    fputs("</h3>\n", p->f);
    if (!i) fputs("<p class=\"big\">reference</p>\n", p->f);
    else if (isfinite(faster))
        fprintf(p->f, "<p class=\"big\">%.2f&times;</p>\n<p>as fast a step</p>\n", faster);
    if (isfinite(share)) fprintf(p->f, "<p>%.1f&thinsp;%% of full attention&rsquo;s work</p>\n", 100 * share);
    if (isfinite(v->value[COMPARE_VTC_S]))
        fprintf(p->f, "<p>VTC-S %s, ", compare_value(c, i, COMPARE_VTC_S, text));
    if (isfinite(v->value[COMPARE_VQA_S]))
        fprintf(p->f, "VQA-S %s</p>\n", compare_value(c, i, COMPARE_VQA_S, text));
    fputs("<p><code>", p->f);
    cli_markup(p->f, v->plan_text);
    fputs("</code></p>\n", p->f);
    t3v_products products = v->act ? v->products : c->job.products;
    if (products) fprintf(p->f, "<p><small>act %s</small></p>\n", t3v_products_name(products));
    for (int64_t k = 0; k < v->loras; k++) {
        fputs("<p><small>LoRA ", p->f);
        cli_markup(p->f, v->lora[k].path);
        fprintf(p->f, ", strength %g</small></p>\n", v->lora[k].strength);
    }
    fputs("<p><small>", p->f);
    cli_markup(p->f, v->model);
    fputs("</small></p>\n</article>\n", p->f);
}

/* ---- videos ------------------------------------------------------------------------------------------------ */

static t3v_status video(const page *p, int variant, int64_t i)
{
    const compare *c = p->c;
    const compare_variant *v = &c->variant[variant];
    const compare_clip *k = &v->clip[i];
    const t3v_result *r = &v->expected;
    fprintf(p->f,
            "<figure>\n<video controls muted playsinline preload=\"auto\" width=\"%lld\" height=\"%lld\" "
            "aria-label=\"",
            (long long)r->width, (long long)r->height);
    cli_markup(p->f, v->name);
    fputs(": ", p->f);
    cli_markup(p->f, c->prompts.item[i].text);
    fprintf(p->f, "\" %ssrc=\"",
            i ? "data-" : ""); /* clips of later prompts are loaded when they are asked for */
    if (p->whole) T3V_TRY(cli_data_uri_file(p->f, "video/mp4", k->path));
    else fprintf(p->f, "%s/%05lld.mp4", v->folder, (long long)i);
    fputs("\"></video>\n<figcaption><b>", p->f);
    name_of(p, variant);
    fputs("</b>", p->f);
    if (isfinite(k->vtc)) fprintf(p->f, "<br>VTC-S %.2f, VQA-S %.0f", k->vtc, k->vqa);
    if (variant && isfinite(k->scores.psnr_yuv)) fprintf(p->f, "<br>PSNR %.1f dB", k->scores.psnr_yuv);
    if (variant && isinf(k->scores.psnr_yuv)) fputs("<br>equal to the first", p->f);
    fputs("<span class=\"fault\">this clip cannot be played</span></figcaption>\n</figure>\n", p->f);
    return T3V_OK;
}

static t3v_status videos(const page *p)
{
    const compare *c = p->c;
    fprintf(p->f,
            "<section aria-labelledby=\"h-videos\">\n<h2 id=\"h-videos\">Side by side</h2>\n"
            "<div class=\"control\">\n<button id=\"play\" type=\"button\">Play</button>\n"
            "<button id=\"back\" type=\"button\" aria-label=\"One frame back\">&lsaquo;</button>\n"
            "<button id=\"next\" type=\"button\" aria-label=\"One frame on\">&rsaquo;</button>\n"
            "<input id=\"at\" type=\"range\" min=\"0\" max=\"1000\" value=\"0\" step=\"any\" "
            "data-frames=\"%lld\" "
            "aria-label=\"Time\">\n"
            "<select id=\"speed\" aria-label=\"Speed\">\n<option value=\"0.25\">&frac14;&times;</option>\n"
            "<option value=\"0.5\">&frac12;&times;</option>\n<option value=\"1\" selected>1&times;</option>\n"
            "<option value=\"2\">2&times;</option>\n</select>\n<select id=\"pick\" aria-label=\"Prompt\">\n",
            (long long)c->variant[0].expected.frames);
    for (int64_t i = 0; i < c->prompts.count; i++) {
        fprintf(p->f, "<option>%lld. ", (long long)i + 1);
        cli_markup(p->f, c->prompts.item[i].text);
        fputs("</option>\n", p->f);
    }
    fputs("</select>\n</div>\n", p->f);
    for (int64_t i = 0; i < c->prompts.count; i++) {
        fprintf(p->f, "<div class=\"clips\"%s>\n<h3>", i ? " hidden" : "");
        cli_markup(p->f, c->prompts.item[i].text);
        fputs("</h3>\n<div class=\"row\">\n", p->f);
        for (int v = 0; v < c->variants; v++) T3V_TRY(video(p, v, i));
        fputs("</div>\n</div>\n", p->f);
    }
    fputs("</section>\n", p->f);
    return T3V_OK;
}

/* ---- charts ------------------------------------------------------------------------------------------------ */

enum { CHART_W = 300, CHART_LABEL = 96, CHART_BAR = 140, CHART_ROW = 24, CHART_NAME = 14 };

/* The first `points` code points of a name. */
static void short_name(FILE *f, const char *name, int points)
{
    char text[4 * CHART_NAME + 8];
    size_t n = 0;
    for (; name[n] && points > 0; points--)
        for (n++; ((unsigned char)name[n] & 0xc0) == 0x80;) n++;
    snprintf(text, sizeof text, "%.*s%s", (int)n, name, name[n] ? "\xe2\x80\xa6" : "");
    cli_markup(f, text);
}

static void chart(const page *p, compare_key key)
{
    const compare *c = p->c;
    const compare_column *k = &compare_columns[key];
    double most = 0, scale;
    const char *unit = compare_unit(c, key, &scale);
    char text[32];
    for (int i = 0; i < c->variants; i++) {
        double x = c->variant[i].value[key];
        if (isfinite(x) && x > most) most = x;
    }
    fprintf(p->f, "<figure class=\"chart\">\n<figcaption><b>%s</b>%s%s, %s is better<br>%s</figcaption>\n",
            k->title, *unit ? " in " : "", unit, k->better < 0 ? "less" : "more", k->help);
    fprintf(p->f, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s", CHART_W, CHART_ROW * c->variants,
            k->title);
    for (int i = 0; i < c->variants; i++) {
        fputs(i ? "; " : ": ", p->f);
        cli_markup(p->f, c->variant[i].name);
        fprintf(p->f, " %s", compare_value(c, i, key, text));
    }
    fputs("\">\n", p->f);
    for (int i = 0; i < c->variants; i++) {
        double x = c->variant[i].value[key];
        double wide = isinf(x) ? CHART_BAR : isfinite(x) && most > 0 && x > 0 ? CHART_BAR * x / most : 0;
        int y = CHART_ROW * i;
        fprintf(p->f, "<text x=\"0\" y=\"%d\">", y + 16);
        short_name(p->f, c->variant[i].name, CHART_NAME);
        fprintf(p->f,
                "</text><rect class=\"bar c%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" rx=\"2\"/>"
                "<text x=\"%.1f\" y=\"%d\">%s</text>\n",
                colour(i), CHART_LABEL, y + 4, wide, CHART_LABEL + wide + 6, y + 16,
                k->against && !i ? "reference" : compare_value(c, i, key, text));
    }
    fputs("</svg>\n</figure>\n", p->f);
}

static void charts(const page *p)
{
    fputs("<section aria-labelledby=\"h-charts\">\n<h2 id=\"h-charts\">Charts</h2>\n<div class=\"charts\">\n",
          p->f);
    for (int k = 0; k < COMPARE_KEYS; k++)
        if (compare_columns[k].chart && shown(p->c, (compare_key)k)) chart(p, (compare_key)k);
    fputs("</div>\n</section>\n", p->f);
}

/* ---- the table --------------------------------------------------------------------------------------------- */

/* Is this the best of its column, and others less good, as far as digits are shown? */
static bool best(const compare *c, int variant, compare_key key)
{
    const compare_column *k = &compare_columns[key];
    double x = c->variant[variant].value[key];
    char own[32], other[32];
    const char *text = compare_value(c, variant, key, own);
    bool any = false;
    if (!k->better || isnan(x)) return false;
    for (int i = 0; i < c->variants; i++) {
        double y = c->variant[i].value[key];
        if (isnan(y) || strcmp(text, compare_value(c, i, key, other)) == 0) continue;
        if (k->better > 0 ? y > x : y < x) return false;
        any = true;
    }
    return any;
}

static void cell(const page *p, int variant, compare_key key)
{
    const compare *c = p->c;
    const compare_variant *v = &c->variant[variant];
    char text[32];
    if (compare_columns[key].against && !variant) {
        fputs("<td class=\"soft\">reference</td>", p->f);
        return;
    }
    if (isnan(v->value[key])) {
        fputs("<td class=\"soft\" title=\"not measured\">&ndash;</td>", p->f);
        return;
    }
    fprintf(p->f, "<td%s>%s", best(c, variant, key) ? " class=\"best\"" : "",
            compare_value(c, variant, key, text));
    if (c->prompts.count > 1 && key == COMPARE_VTC_S)
        fprintf(p->f, " <small>&plusmn;%.3f</small>", v->vtc_sd);
    if (c->prompts.count > 1 && key == COMPARE_VQA_S)
        fprintf(p->f, " <small>&plusmn;%.1f</small>", v->vqa_sd);
    fputs("</td>", p->f);
}

static void table(const page *p)
{
    const compare *c = p->c;
    fputs(
        "<section aria-labelledby=\"h-table\">\n<h2 id=\"h-table\">Numbers</h2>\n<div class=\"scroll\" "
        "tabindex=\"0\" "
        "role=\"region\" aria-labelledby=\"h-table\">\n<table id=\"table\">\n<thead>\n<tr><th rowspan=\"2\" "
        "scope=\"col\">Variant</th>",
        p->f);
    for (int k = 0; k < COMPARE_KEYS;) {
        const char *group = compare_columns[k].group;
        int n = 0;
        for (; k < COMPARE_KEYS && strcmp(compare_columns[k].group, group) == 0; k++)
            n += shown(c, (compare_key)k);
        if (n) fprintf(p->f, "<th class=\"group\" scope=\"colgroup\" colspan=\"%d\">%s</th>", n, group);
    }
    fputs("</tr>\n<tr>", p->f);
    for (int k = 0; k < COMPARE_KEYS; k++) {
        const compare_column *col = &compare_columns[k];
        double scale;
        if (shown(c, (compare_key)k))
            fprintf(p->f, "<th scope=\"col\" title=\"%s\">%s<small>%s</small></th>", col->help, col->title,
                    compare_unit(c, (compare_key)k, &scale));
    }
    fputs("</tr>\n</thead>\n<tbody>\n", p->f);
    for (int i = 0; i < c->variants; i++) {
        fputs("<tr><th scope=\"row\">", p->f);
        name_of(p, i);
        fputs("</th>", p->f);
        for (int k = 0; k < COMPARE_KEYS; k++)
            if (shown(c, (compare_key)k)) cell(p, i, (compare_key)k);
        fputs("</tr>\n", p->f);
    }
    fputs("</tbody>\n</table>\n</div>\n</section>\n", p->f);
}

/* ---- patterns and notes ------------------------------------------------------------------------------------ */

static void patterns(const page *p)
{
    const compare *c = p->c;
    fputs("<section aria-labelledby=\"h-plans\">\n<h2 id=\"h-plans\">What a token sees</h2>\n", p->f);
    for (int i = 0; i < c->variants; i++) {
        const compare_variant *v = &c->variant[i];
        int same = 0;
        while (strcmp(c->variant[same].picture, v->picture) != 0) same++;
        if (same < i) continue;
        fputs("<figure class=\"pattern\">\n<figcaption><b>", p->f);
        for (int k = i; k < c->variants; k++) {
            if (strcmp(c->variant[k].picture, v->picture) != 0) continue;
            if (k > i) fputs(" &nbsp; ", p->f);
            name_of(p, k);
        }
        fputs("</b></figcaption>\n<div><img alt=\"Which tokens the one in the middle sees, in each kind of "
              "layer, "
              "under the plan ",
              p->f);
        cli_markup(p->f, v->plan_text);
        fputs("\" src=\"", p->f);
        cli_data_uri(p->f, "image/svg+xml", v->picture, strlen(v->picture));
        fputs("\"></div>\n</figure>\n", p->f);
    }
    fputs("</section>\n", p->f);
}

static void notes(const page *p)
{
    const compare *c = p->c;
    fputs("<footer>\n<p>Scores are of the clips as they are here, 8-bit H.264. ", p->f);
    if (shown(c, COMPARE_SEAM)) {
        fputs("Seams are looked for between blocks of ", p->f);
        bool any = false;
        for (int i = 0; i < c->variants; i++) {
            const compare_variant *v = &c->variant[i];
            if (!v->tile[0]) continue;
            fprintf(p->f, "%s%lldx%lld pixels (", any ? ", " : "", (long long)v->tile[1],
                    (long long)v->tile[0]);
            cli_markup(p->f, v->name);
            fputs(")", p->f);
            any = true;
        }
        fputs(". ", p->f);
    }
    if (isfinite(c->frechet_halves))
        fprintf(p->f, "Between two halves of the first variant&rsquo;s clips the Frechet distance is %.2f",
                c->frechet_halves);
    if (isfinite(c->frechet_renders_halves))
        fprintf(p->f, ", between two halves of the renders %.2f", c->frechet_renders_halves);
    if (isfinite(c->frechet_halves)) fputs(". ", p->f);
    if (c->prompts.count < COMPARE_SET) fprintf(p->f, "Frechet distances need %d prompts. ", COMPARE_SET);
    if (!p->whole) fputs("The clips are files beside this page, in the folder clips. ", p->f);
    fputs("The same numbers are in compare.json.</p>\n</footer>\n", p->f);
}

/* Do the clips fit into the page? */
static t3v_status clip_bytes(const compare *c, int64_t *bytes)
{
    *bytes = 0;
    for (int v = 0; v < c->variants; v++)
        for (int64_t i = 0; i < c->prompts.count; i++) {
            struct stat s;
            const char *path = c->variant[v].clip[i].path;
            if (stat(path, &s)) return t3v_fail(T3V_E_IO, "cannot read %s: %s", path, strerror(errno));
            *bytes += s.st_size;
        }
    return T3V_OK;
}

static t3v_status body(const page *p)
{
    head(p);
    fputs("<main>\n<section class=\"cards\" aria-label=\"Variants\">\n", p->f);
    for (int i = 0; i < p->c->variants; i++) card(p, i);
    fputs("</section>\n", p->f);
    T3V_TRY(videos(p));
    charts(p);
    table(p);
    patterns(p);
    fputs("</main>\n", p->f);
    notes(p);
    fprintf(p->f, "<script>\n%s</script>\n</body>\n</html>\n", cli_compare_page_js);
    return T3V_OK;
}

t3v_status compare_page(const compare *c, const char *path)
{
    t3v_out *out = NULL;
    int64_t bytes;
    T3V_TRY(clip_bytes(c, &bytes));
    T3V_TRY(t3v_out_open(&out, path));
    page p = {.f = fopen(t3v_out_temp(out), "w"), .c = c, .whole = bytes <= c->inline_limit};
    t3v_status st = p.f ? body(&p) : t3v_fail(T3V_E_IO, "cannot write %s: %s", path, strerror(errno));
    bool lost = p.f && ferror(p.f);
    if (p.f && (fclose(p.f) || lost) && !st)
        st = t3v_fail(T3V_E_IO, "cannot write %s: %s", path, strerror(errno));
    if (!st) return t3v_out_commit(out);
    t3v_out_abort(out);
    return st;
}
