/* SPDX-License-Identifier: Apache-2.0 */
/* VTC-S: finds background, objects, shapes and motions in the pixels by classical means. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/synth_parts.h"

enum { BACKGROUND = T3V_COLOURS, TEMPLATE_FRAMES = 9 };

/* A pixel, or a palette entry, in a linear luma-chroma space in which chroma counts more than light. */
typedef struct tint {
    float v[3];
} tint;

static tint tint_of(double r, double g, double b)
{
    double y = 0.30 * r + 0.59 * g + 0.11 * b;
    return (tint){{(float)(0.7 * y), (float)(0.9 * (r - y)), (float)(0.9 * (b - y))}};
}

/* A colour is seen anywhere between a darker and a lighter tone of it. */
typedef struct tones {
    tint from, along; /* along = to - from */
    float inv;        /* 1 / |along|^2 */
} tones;

static tones tones_of(tint a, tint b)
{
    tones t = {.from = a};
    float sq = 0;
    for (int i = 0; i < 3; i++) t.along.v[i] = b.v[i] - a.v[i], sq += t.along.v[i] * t.along.v[i];
    t.inv = 1 / sq;
    return t;
}

static float tone_at(const tones *t, const tint *p)
{
    float dot = 0;
    for (int i = 0; i < 3; i++) dot += (p->v[i] - t->from.v[i]) * t->along.v[i];
    return dot * t->inv;
}

static float tone_distance(const tones *t, const tint *p)
{
    float at = fminf(fmaxf(tone_at(t, p), 0), 1), sum = 0;
    for (int i = 0; i < 3; i++) {
        float d = p->v[i] - t->from.v[i] - at * t->along.v[i];
        sum += d * d;
    }
    return sqrtf(sum);
}

typedef struct palette {
    tones object[T3V_COLOURS], shade[T3V_SHADES];
} palette;

static palette palette_make(void)
{
    palette p;
    for (int c = 0; c < T3V_COLOURS; c++) {
        const double *k = t3v_colour_rgb((t3v_colour)c);
        const double lo = T3V_TEXTURE_DARK * 0.95, hi = 1.03;
        p.object[c] = tones_of(tint_of(lo * k[0], lo * k[1], lo * k[2]),
                               tint_of(hi * k[0], hi * k[1], hi * k[2]));
    }
    for (int c = 0; c < T3V_SHADES; c++) {
        double a[3], b[3];
        t3v_shade_rgb((t3v_shade)c, 0, a);
        t3v_shade_rgb((t3v_shade)c, 1, b);
        p.shade[c] = tones_of(tint_of(a[0], a[1], a[2]), tint_of(b[0], b[1], b[2]));
    }
    return p;
}

static tint pixel(const synth_clip *c, int64_t frame, int64_t i)
{
    int64_t n = c->h * c->w;
    const float *p = c->rgb + frame * 3 * n + i;
    return tint_of(p[0], p[n], p[2 * n]);
}

typedef struct blob {
    int64_t area;
    double x, y; /* units, from the frame's centre */
    bool cut;    /* touches the border of the frame */
} blob;

typedef struct sight {
    const synth_clip *clip;
    const t3v_scene_attrs *said;
    palette palette;
    t3v_shade shade; /* of the background, as seen */
    double shade_share[T3V_SHADES];
    uint8_t *label; /* [frames,h,w]: a t3v_colour, or BACKGROUND */
    float *tone;    /* [frames,h,w]: of the background; NAN at objects and close to them */
    uint8_t *mask;  /* [frames,h,w]: the main object */
    int64_t *queue; /* [h*w] */
    blob *blob;     /* [frames]: the main object */
    int64_t count[T3V_COLOURS];
    t3v_colour main; /* colour taken for the main object */
} sight;

static void see_shade(sight *s)
{
    const synth_clip *c = s->clip;
    int64_t ring = (int64_t)fmax(1, 0.06 * c->unit), votes[T3V_SHADES] = {0}, all = 0;
    for (int64_t f = 0; f < c->frames; f++)
        for (int64_t y = 0; y < c->h; y++)
            for (int64_t x = 0; x < c->w; x++) {
                if (y >= ring && y < c->h - ring && x >= ring && x < c->w - ring) continue;
                tint p = pixel(c, f, y * c->w + x);
                float best = 0.10f, foreign = 1e9f;
                int shade = -1;
                for (int k = 0; k < T3V_SHADES; k++) {
                    float d = tone_distance(&s->palette.shade[k], &p);
                    if (d < best) best = d, shade = k;
                }
                for (int k = 0; k < T3V_COLOURS; k++)
                    foreign = fminf(foreign, tone_distance(&s->palette.object[k], &p));
                if (shade < 0 && foreign < 0.10f) continue; /* an object at the border */
                if (shade >= 0) votes[shade]++;
                all++;
            }
    for (int k = 0; k < T3V_SHADES; k++) {
        s->shade_share[k] = all ? (double)votes[k] / (double)all : 0;
        if (votes[k] > votes[s->shade]) s->shade = (t3v_shade)k;
    }
}

static void see_labels(sight *s)
{
    const synth_clip *c = s->clip;
    const tones *back = &s->palette.shade[s->shade];
    int64_t n = c->h * c->w;
    for (int64_t f = 0; f < c->frames; f++)
        for (int64_t i = 0; i < n; i++) {
            tint p = pixel(c, f, i);
            float away = tone_distance(back, &p), best = fminf(away, 0.16f);
            uint8_t label = BACKGROUND;
            if (away > 0.07f)
                for (int k = 0; k < T3V_COLOURS; k++) {
                    float d = tone_distance(&s->palette.object[k], &p);
                    if (d < best) best = d, label = (uint8_t)k;
                }
            s->label[f * n + i] = label;
            s->tone[f * n + i] = away < 0.12f ? tone_at(back, &p) : NAN;
            if (label != BACKGROUND) s->count[label]++;
        }
    /* Pixels beside an object are mixtures. */
    for (int64_t f = 0; f < c->frames; f++)
        for (int64_t y = 0; y < c->h; y++)
            for (int64_t x = 0; x < c->w; x++) {
                if (s->label[f * n + y * c->w + x] == BACKGROUND) continue;
                for (int64_t v = y > 1 ? y - 2 : 0; v <= y + 2 && v < c->h; v++)
                    for (int64_t u = x > 1 ? x - 2 : 0; u <= x + 2 && u < c->w; u++)
                        s->tone[f * n + v * c->w + u] = NAN;
            }
}

/* The largest 4-connected part of `colour` in a frame, marked with 1 in mask. */
static blob largest_part(const sight *s, int64_t f, t3v_colour colour, uint8_t *mask)
{
    const synth_clip *c = s->clip;
    int64_t n = c->h * c->w, w = c->w, best_start = -1, best = 0;
    const uint8_t *label = s->label + f * n;
    memset(mask, 0, (size_t)n);
    /* First pass finds the largest (marks with 2), second keeps it (marks with 1). */
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = pass ? best_start : 0; i >= 0 && i < n; i++) {
            if (label[i] != colour || mask[i]) continue;
            int64_t head = 0, tail = 0;
            s->queue[tail++] = i;
            mask[i] = pass ? 1 : 2;
            while (head < tail) {
                int64_t q = s->queue[head++], x = q % w;
                const int64_t next[4] = {x > 0 ? q - 1 : -1, x + 1 < w ? q + 1 : -1, q - w,
                                         q + w < n ? q + w : -1};
                for (int k = 0; k < 4; k++) {
                    int64_t m = next[k];
                    if (m < 0 || label[m] != colour || mask[m]) continue;
                    mask[m] = pass ? 1 : 2;
                    s->queue[tail++] = m;
                }
            }
            if (!pass && tail > best) best = tail, best_start = i;
            if (pass) break;
        }
        if (!pass) memset(mask, 0, (size_t)n);
    }
    blob b = {0};
    for (int64_t i = 0; i < n; i++) {
        if (!mask[i]) continue;
        int64_t x = i % w, y = i / w;
        b.area++;
        b.x += (double)x;
        b.y += (double)y;
        b.cut = b.cut || x == 0 || y == 0 || x == w - 1 || y == c->h - 1;
    }
    if (b.area) {
        b.x = (b.x / (double)b.area + 0.5 - 0.5 * (double)w) / c->unit;
        b.y = (b.y / (double)b.area + 0.5 - 0.5 * (double)c->h) / c->unit;
    }
    return b;
}

static bool is_seen(const sight *s, const blob *b)
{
    return (double)b->area > 0.004 * s->clip->unit * s->clip->unit;
}
static bool is_whole(const sight *s, const blob *b) { return is_seen(s, b) && !b->cut; }

/* Area of the shape of radius 1. */
static double shape_area(t3v_shape shape)
{
    enum { N = 160 };
    int inside = 0;
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++)
            inside += t3v_shape_distance(shape, (x + 0.5) * 2.6 / N - 1.3, (y + 0.5) * 2.6 / N - 1.3) < 0;
    return inside * 2.6 * 2.6 / (N * N);
}

/* Intersection over union of a mask and the template of the same area in the same place, best of some angles. */
static double template_match(const sight *s, const uint8_t *mask, const blob *b, t3v_shape shape,
                             double unit_area)
{
    const synth_clip *c = s->clip;
    double r = sqrt((double)b->area / unit_area), best = 0;
    double cx = b->x * c->unit + 0.5 * (double)c->w - 0.5, cy = b->y * c->unit + 0.5 * (double)c->h - 0.5;
    int64_t reach = (int64_t)(1.6 * r) + 2, step = r > 24 ? 2 : 1;
    for (int turn = -2; turn <= 2; turn++) {
        double sn = sin(0.07 * turn), cs = cos(0.07 * turn);
        int64_t both = 0, either = 0;
        for (int64_t y = (int64_t)cy - reach; y <= (int64_t)cy + reach; y += step)
            for (int64_t x = (int64_t)cx - reach; x <= (int64_t)cx + reach; x += step) {
                bool m = x >= 0 && y >= 0 && x < c->w && y < c->h && mask[y * c->w + x];
                double u = ((double)x - cx) / r, v = ((double)y - cy) / r;
                bool t = t3v_shape_distance(shape, u * cs + v * sn, v * cs - u * sn) < 0;
                both += m && t;
                either += m || t;
            }
        if (either) best = fmax(best, (double)both / (double)either);
    }
    return best;
}

static double shape_score(const double *match, t3v_shape said)
{
    double other = 0;
    for (int k = 0; k < T3V_SHAPES; k++)
        if (k != (int)said) other = fmax(other, match[k]);
    return synth_ramp(match[said], 0.5, 0.78) * synth_ramp(match[said] - other, -0.06, 0.04);
}

static double judge_shape(const sight *s, const double *areas)
{
    const synth_clip *c = s->clip;
    double sum[T3V_SHAPES] = {0};
    int64_t used = 0, whole = 0;
    for (int64_t f = 0; f < c->frames; f++) whole += is_whole(s, &s->blob[f]);
    int64_t usable = 0;
    for (int64_t f = 0; f < c->frames; f++)
        usable += whole ? is_whole(s, &s->blob[f]) : is_seen(s, &s->blob[f]);
    int64_t step = 1 + (usable - 1) / TEMPLATE_FRAMES, nth = 0;
    for (int64_t f = 0; f < c->frames; f++) {
        if (!(whole ? is_whole(s, &s->blob[f]) : is_seen(s, &s->blob[f])) || nth++ % step) continue;
        for (int k = 0; k < T3V_SHAPES; k++)
            sum[k] += template_match(s, s->mask + f * c->h * c->w, &s->blob[f], (t3v_shape)k, areas[k]);
        used++;
    }
    if (!used) return 0;
    for (int k = 0; k < T3V_SHAPES; k++) sum[k] /= (double)used;
    return shape_score(sum, s->said->shape);
}

/* What the object's track says, over the frames in which all of it is seen (any of it, if those are few). */
typedef struct track {
    double vx, vy, speed; /* units per second; speed: mean of |velocity| */
    double moving;        /* share of steps at more than 0.4 times the expected speed */
    double turn;          /* radians per second, clockwise positive */
    /* log of the radius over that of the first frames, seconds since: middle, end */
    double growth[2], span[2];
    double radius; /* of the first frames */
    double seen;   /* share of frames */
} track;

static track follow(const sight *s, double area, double want)
{
    const synth_clip *c = s->clip;
    track t = {0};
    int64_t whole = 0, steps = 0, turns = 0, usable = 0, nth = 0, lag = c->frames > 8 ? 2 : 1;
    for (int64_t f = 0; f < c->frames; f++) {
        t.seen += is_seen(s, &s->blob[f]);
        whole += is_whole(s, &s->blob[f]);
    }
    bool strict = whole >= 5;
    usable = strict ? whole : (int64_t)t.seen;
    t.seen /= (double)c->frames;
    double px = 0, py = 0, r[3] = {0}, at[3] = {0};
    for (int64_t f = 0; f < c->frames; f++) {
        const blob *b = &s->blob[f];
        if (!(strict ? is_whole(s, b) : is_seen(s, b))) continue;
        /* Three consecutive ones at the start, in the middle and at the end. */
        int part = nth < 3 ? 0 : nth >= usable - 3 ? 2 : llabs(nth - usable / 2) <= 1 ? 1 : -1;
        nth++;
        if (part >= 0) {
            r[part] += sqrt((double)b->area / area) / c->unit / 3;
            at[part] += (double)f / c->fps / 3;
        }
        if (f < lag) continue;
        const blob *a = &s->blob[f - lag];
        if (!(strict ? is_whole(s, a) : is_seen(s, a))) continue;
        double dt = (double)lag / c->fps, vx = (b->x - a->x) / dt, vy = (b->y - a->y) / dt, v = hypot(vx, vy);
        if (v * dt > 0.4) continue; /* in again from the other side */
        t.vx += vx;
        t.vy += vy;
        t.speed += v;
        t.moving += v > 0.4 * want;
        if (steps++ && v > 0.1 && hypot(px, py) > 0.1) {
            t.turn += atan2(px * vy - py * vx, px * vx + py * vy) * c->fps;
            turns++;
        }
        px = vx;
        py = vy;
    }
    if (steps) {
        t.vx /= (double)steps;
        t.vy /= (double)steps;
        t.speed /= (double)steps;
        t.moving /= (double)steps;
    }
    if (turns) t.turn /= (double)turns;
    t.radius = r[0];
    if (usable < 9 && usable >= 3) { /* the middle overlaps the ends: without it */
        r[1] = r[2] = usable < 6 ? r[0] : r[2];
        at[1] = at[2];
    }
    for (int k = 0; usable >= 3 && k < 2; k++) {
        t.growth[k] = log(r[k + 1] / r[0]);
        t.span[k] = at[k + 1] - at[0];
    }
    return t;
}

/* Log ratio of radii that a growing, shrinking or zoomed object shows over `seconds` from the start. */
static double expected_growth(const t3v_scene_attrs *said, double seconds)
{
    double e = 1 - exp(-seconds / T3V_SCENE_EASE), range = T3V_SCENE_RADIUS_MAX - T3V_SCENE_RADIUS_MIN;
    if (said->motion == T3V_GROWING) return log(1 + range * e / T3V_SCENE_RADIUS_MIN);
    if (said->motion == T3V_SHRINKING) return log(1 - range * e / T3V_SCENE_RADIUS_MAX);
    return (said->camera == T3V_ZOOM_OUT ? -1 : 1) * log(1 + T3V_SCENE_ZOOM * e);
}

static double judge_motion(const sight *s, double area, track *out)
{
    const t3v_scene_attrs *said = s->said;
    double dx = 0, dy = 0, want = T3V_SCENE_SPEED;
    switch (said->motion) {
    case T3V_LEFT: dx = -1; break;
    case T3V_RIGHT: dx = 1; break;
    case T3V_UP: dy = -1; break;
    case T3V_DOWN: dy = 1; break;
    case T3V_CIRCLING: want = T3V_SCENE_ORBIT * T3V_SCENE_TURN; break;
    default: break;
    }
    if (said->camera == T3V_PAN_LEFT || said->camera == T3V_PAN_RIGHT) {
        dx = said->camera == T3V_PAN_LEFT ? 1 : -1;
        want = T3V_SCENE_PAN;
    }
    bool zoom = said->camera == T3V_ZOOM_IN || said->camera == T3V_ZOOM_OUT;
    bool grows = said->motion == T3V_GROWING || said->motion == T3V_SHRINKING || zoom;
    track t = *out = follow(s, area, want);
    double presence = synth_ramp(t.seen, 0.2, 0.6), net = hypot(t.vx, t.vy);
    if (t.span[1] <= 0) return 0;
    if (grows) {
        double drift = zoom ? 1 : synth_ramp(net, 0.3, 0.1), least = 1;
        for (int k = 0; k < 2; k++) least = fmin(least, t.growth[k] / expected_growth(said, t.span[k]));
        return presence * drift * synth_ramp(least, 0.1, 0.65);
    }
    double constant = synth_ramp(fabs(t.growth[1]), 0.6, 0.3), moving = synth_ramp(t.moving, 0.2, 0.85);
    if (said->motion == T3V_CIRCLING)
        return presence * constant * moving * synth_ramp(t.speed, 0.12, 0.35) *
               synth_ramp(t.turn, 0.15 * T3V_SCENE_TURN, 0.6 * T3V_SCENE_TURN);
    if (dx != 0 || dy != 0) {
        double along = t.vx * dx + t.vy * dy, straight = along / fmax(t.speed, 1e-6);
        return presence * constant * moving * synth_ramp(along, 0.05, 0.6 * want) *
               synth_ramp(straight, 0.5, 0.85);
    }
    return presence * constant * synth_ramp(fmax(net, 0.6 * t.speed), 0.25, 0.08);
}

static double judge_extent(const track *t, const t3v_scene_attrs *said)
{
    if (t->radius <= 0) return 0;
    if (said->motion == T3V_GROWING || said->motion == T3V_SHRINKING) return 1; /* unsaid */
    return said->extent == T3V_SMALL ? synth_ramp(t->radius, 0.25, 0.205)
                                     : synth_ramp(t->radius, 0.18, 0.225);
}

/* Dark marks in the object: how many, and whether rows of it agree (stripes) or not (dots). */
static double judge_texture(const sight *s)
{
    const synth_clip *c = s->clip;
    int64_t n = c->h * c->w, best = -1;
    for (int64_t f = 0; f < c->frames; f++)
        if (is_seen(s, &s->blob[f]) && (best < 0 || s->blob[f].area > s->blob[best].area)) best = f;
    if (best < 0) return 0;
    const uint8_t *mask = s->mask + best * n;
    double sum = 0, sq = 0, rows = 0, dark = 0, count = 0;
    for (int64_t y = 2; y < c->h - 2; y++) {
        double row = 0, k = 0;
        for (int64_t x = 2; x < c->w - 2; x++) {
            int64_t i = y * c->w + x, d = 2 * c->w;
            if (!mask[i] || !mask[i - 2] || !mask[i + 2] || !mask[i - d] || !mask[i + d]) continue;
            tint p = pixel(c, best, i);
            double t = tone_at(&s->palette.object[s->main], &p);
            row += t;
            sq += t * t;
            dark += t < 0.5;
            k++;
        }
        if (k > 0) rows += row * row / k;
        sum += row;
        count += k;
    }
    if (count < 20) return 0;
    double mean = sum / count, var = sq / count - mean * mean,
           across = (rows / count - mean * mean) / fmax(var, 1e-6);
    dark /= count;
    switch (s->said->texture) {
    case T3V_STRIPED: return synth_ramp(dark, 0.10, 0.25) * synth_ramp(across, 0.25, 0.45);
    case T3V_DOTTED: return synth_ramp(dark, 0.04, 0.12) * synth_ramp(across, 0.55, 0.40);
    default: return synth_ramp(dark, 0.20, 0.08);
    }
}

/* A second object stands still: what of it is seen at any time makes up its mask. */
static double judge_second(const sight *s, const double *areas, uint8_t *mask, uint8_t *part)
{
    const synth_clip *c = s->clip;
    int64_t n = c->h * c->w, seen = 0;
    memset(mask, 0, (size_t)n);
    for (int64_t f = 0; f < c->frames; f++) {
        blob b = largest_part(s, f, s->said->colour2, part);
        if (!is_seen(s, &b)) continue;
        seen++;
        for (int64_t i = 0; i < n; i++) mask[i] = (uint8_t)(mask[i] + (part[i] && mask[i] < 255));
    }
    if (seen * 2 < c->frames) return 0;
    blob b = {0};
    for (int64_t i = 0; i < n; i++) {
        mask[i] = mask[i] * 6 >= (seen < 255 ? seen : 255);
        if (!mask[i]) continue;
        b.area++;
        b.x += (double)(i % c->w);
        b.y += (double)(i / c->w);
    }
    if (!is_seen(s, &b)) return 0;
    b.x = (b.x / (double)b.area + 0.5 - 0.5 * (double)c->w) / c->unit;
    b.y = (b.y / (double)b.area + 0.5 - 0.5 * (double)c->h) / c->unit;
    double match[T3V_SHAPES];
    for (int k = 0; k < T3V_SHAPES; k++) match[k] = template_match(s, mask, &b, (t3v_shape)k, areas[k]);
    return 0.5 + 0.5 * shape_score(match, s->said->shape2);
}

/* ---- the background --------------------------------------------------------------------------- */

/* Shares of the tone's variance in one frame that a vertical ramp, diagonal stripes and checks explain. */
typedef struct pattern_fit {
    double ramp, stripes, checks, smoothness;
} pattern_fit;

/* 2 |sum t e^{i(fx x + fy y)}|^2 / (n sum t^2), t without its mean; for (fx, fy) and (fx, -fy). */
static void wave_share(const sight *s, const float *tone, double mean, double energy, double count, double fx,
                       double fy, double share[2])
{
    const synth_clip *c = s->clip;
    double re[2] = {0}, im[2] = {0};
    for (int64_t y = 0; y < c->h; y++) {
        double a = 0, b = 0;
        const float *row = tone + y * c->w;
        double step_re = cos(fx / c->unit), step_im = sin(fx / c->unit), er = 1, ei = 0;
        for (int64_t x = 0; x < c->w; x++) {
            if (!isnan(row[x])) {
                a += (row[x] - mean) * er;
                b += (row[x] - mean) * ei;
            }
            double t = er * step_re - ei * step_im;
            ei = er * step_im + ei * step_re;
            er = t;
        }
        double cy = cos(fy * (double)y / c->unit), sy = sin(fy * (double)y / c->unit);
        re[0] += a * cy - b * sy;
        im[0] += a * sy + b * cy;
        re[1] += a * cy + b * sy;
        im[1] += b * cy - a * sy;
    }
    for (int k = 0; k < 2; k++) share[k] = 2 * (re[k] * re[k] + im[k] * im[k]) / (count * fmax(energy, 1e-9));
}

static pattern_fit fit_patterns(const sight *s, int64_t f)
{
    const synth_clip *c = s->clip;
    const float *tone = s->tone + f * c->h * c->w;
    const double tau = 6.28318530717958647692;
    double n = 0, sum = 0, sq = 0, sy = 0, syy = 0, sty = 0, near = 0, pairs = 0;
    for (int64_t y = 0; y < c->h; y++)
        for (int64_t x = 0; x < c->w; x++) {
            double t = tone[y * c->w + x];
            if (isnan(t)) continue;
            n++, sum += t, sq += t * t, sy += (double)y, syy += (double)(y * y), sty += t * (double)y;
            if (x + 2 < c->w && !isnan(tone[y * c->w + x + 2])) {
                double d = t - (double)tone[y * c->w + x + 2];
                near += d * d;
                pairs++;
            }
        }
    pattern_fit fit = {0};
    if (n < 0.05 * (double)(c->h * c->w)) return fit;
    double mean = sum / n, energy = sq - sum * mean, my = sy / n;
    double slope = (sty - sum * my) / fmax(syy - sy * my, 1e-9);
    fit.ramp = slope < 0 ? slope * slope * (syy - sy * my) / fmax(energy, 1e-9) : 0;
    fit.smoothness = pairs > 0 ? 1 - 0.5 * (near / pairs) / fmax(energy / n, 1e-9) : 0;
    static const double zooms[] = {0.56, 0.62, 0.68, 0.75, 0.83, 0.91, 1, 1.1, 1.21, 1.33, 1.46, 1.6, 1.76};
    for (size_t k = 0; k < sizeof zooms / sizeof zooms[0]; k++) {
        double share[2], d = tau * 0.70710678118654752440 / (T3V_SCENE_STRIPE * zooms[k]);
        wave_share(s, tone, mean, energy, n, d, d, share);
        fit.stripes = fmax(fit.stripes, share[0] - share[1]);
        d = tau / (2 * T3V_SCENE_CHECK * zooms[k]);
        wave_share(s, tone, mean, energy, n, d, d, share);
        fit.checks = fmax(fit.checks, 2 * fmin(share[0], share[1]));
    }
    return fit;
}

static double judge_backdrop(const sight *s)
{
    const synth_clip *c = s->clip;
    pattern_fit m = {0};
    for (int k = 0; k < 3; k++) {
        pattern_fit fit = fit_patterns(s, k * (c->frames - 1) / 2);
        m.ramp += fit.ramp / 3;
        m.stripes += fit.stripes / 3;
        m.checks += fit.checks / 3;
        m.smoothness += fit.smoothness / 3;
    }
    double regular = fmax(synth_ramp(m.stripes, 0.25, 0.45), synth_ramp(m.checks, 0.2, 0.4));
    double ramp = (1 - regular) * synth_ramp(m.ramp, 0.50, 0.70);
    switch (s->said->backdrop) {
    case T3V_PLAIN: return ramp;
    case T3V_STRIPES: return synth_ramp(m.stripes, 0.25, 0.45);
    case T3V_CHECKER: return synth_ramp(m.checks, 0.2, 0.4);
    default: return (1 - ramp) * (1 - regular) * synth_ramp(m.smoothness, 0.4, 0.7);
    }
}

/* Mean squared difference of the background between frames a quarter of a second apart under a camera motion. */
static double camera_error(const sight *s, t3v_camera camera)
{
    const synth_clip *c = s->clip;
    const t3v_scene probe = {.attrs.camera = camera};
    int64_t lag = (int64_t)fmax(1, floor(0.25 * c->fps + 0.5)), n = c->h * c->w;
    if (lag > c->frames - 1) lag = c->frames - 1;
    double sum = 0, count = 0;
    for (int64_t f = 0; f + lag < c->frames; f += lag) {
        double z0, p0, z1, p1;
        t3v_scene_camera_at(&probe, (double)f / c->fps, &z0, &p0);
        t3v_scene_camera_at(&probe, (double)(f + lag) / c->fps, &z1, &p1);
        const float *from = s->tone + f * n, *to = s->tone + (f + lag) * n;
        for (int64_t y = 0; y < c->h; y += 2)
            for (int64_t x = 0; x < c->w; x += 2) {
                if (isnan(to[y * c->w + x])) continue;
                double u = ((double)x + 0.5 - 0.5 * (double)c->w) / c->unit,
                       v = ((double)y + 0.5 - 0.5 * (double)c->h) / c->unit;
                u = (u / z1 + p1 - p0) * z0 * c->unit + 0.5 * (double)c->w - 0.5;
                v = v / z1 * z0 * c->unit + 0.5 * (double)c->h - 0.5;
                int64_t iu = (int64_t)floor(u), iv = (int64_t)floor(v);
                if (iu < 0 || iv < 0 || iu + 1 >= c->w || iv + 1 >= c->h) continue;
                const float *q = from + iv * c->w + iu;
                double a = u - (double)iu, b = v - (double)iv;
                double t = (1 - b) * ((1 - a) * q[0] + a * q[1]) + b * ((1 - a) * q[c->w] + a * q[c->w + 1]);
                if (isnan(t)) continue;
                sum += (t - to[y * c->w + x]) * (t - to[y * c->w + x]);
                count++;
            }
    }
    return count > 0.02 * (double)n ? sum / count : NAN;
}

static double judge_camera(const sight *s)
{
    double said = 0, best = 1e9;
    for (int k = 0; k < T3V_CAMERAS; k++) {
        double e = camera_error(s, (t3v_camera)k);
        best = fmin(best, e); /* skips NaN: nothing to compare */
        if (k == (int)s->said->camera) said = e;
    }
    if (isnan(said)) return 0;
    const double indifferent = 0.004; /* tone^2: grain and compression */
    return synth_ramp(best, 0.25, 0.08) * synth_ramp((best + indifferent) / (said + indifferent), 0.35, 0.8);
}

/* The colour of the main object: the one said if there is enough of it, else what there is most of. */
static double judge_colour(sight *s)
{
    const t3v_scene_attrs *a = s->said;
    int64_t all = 0, top = -1;
    for (int k = 0; k < T3V_COLOURS; k++) {
        if (a->second && k == (int)a->colour2) continue;
        all += s->count[k];
        if (top < 0 || s->count[k] > s->count[top]) top = k;
    }
    double share = all ? (double)s->count[a->colour] / (double)all : 0;
    s->main = share > 0.3 ? a->colour : (t3v_colour)top;
    double frames = (double)(s->clip->frames * s->clip->h * s->clip->w);
    return synth_ramp((double)all / frames, 0.002, 0.01) * synth_ramp(share, 0.3, 0.85);
}

t3v_status t3v_synth_agreement(const synth_clip *clip, const t3v_scene_attrs *said, t3v_synth_score *out)
{
    size_t n = (size_t)(clip->h * clip->w), all = n * (size_t)clip->frames;
    sight s = {.clip = clip, .said = said, .palette = palette_make()};
    uint8_t *spare = malloc(2 * n);
    s.label = malloc(all);
    s.tone = malloc(all * sizeof *s.tone);
    s.mask = malloc(all);
    s.queue = malloc(n * sizeof *s.queue);
    s.blob = malloc((size_t)clip->frames * sizeof *s.blob);
    t3v_status st = T3V_OK;
    if (!spare || !s.label || !s.tone || !s.mask || !s.queue || !s.blob) {
        st = t3v_fail(T3V_E_NOMEM, "no memory: scoring needs %zu bytes", all * 6);
        goto done;
    }
    double areas[T3V_SHAPES];
    for (int k = 0; k < T3V_SHAPES; k++) areas[k] = shape_area((t3v_shape)k);
    see_shade(&s);
    see_labels(&s);
    out->colour = judge_colour(&s);
    for (int64_t f = 0; f < clip->frames; f++)
        s.blob[f] = largest_part(&s, f, s.main, s.mask + (size_t)f * n);
    track t;
    out->motion = judge_motion(&s, areas[said->shape], &t);
    out->shape = judge_shape(&s, areas) * synth_ramp(t.seen, 0.2, 0.6);
    out->extent = judge_extent(&t, said);
    out->texture = judge_texture(&s);
    out->shade = synth_ramp(s.shade_share[said->shade], 0.3, 0.75);
    out->backdrop = judge_backdrop(&s);
    out->camera = judge_camera(&s);
    if (said->second) out->second = judge_second(&s, areas, spare, spare + n);
done:
    free(spare);
    free(s.label);
    free(s.tone);
    free(s.mask);
    free(s.queue);
    free(s.blob);
    return st;
}
