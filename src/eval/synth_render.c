/* SPDX-License-Identifier: Apache-2.0 */
/* Renderer of procedural scenes: distance fields for edges, lattice noise with octaves down to the pixel. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "eval/synth.h"

enum { SPAN = 256 }; /* pixels of a row worked on at a time */

static const double colours[T3V_COLOURS][3] = {
    [T3V_RED] = {0.88, 0.10, 0.10},    [T3V_ORANGE] = {0.98, 0.52, 0.06}, [T3V_YELLOW] = {0.96, 0.90, 0.15},
    [T3V_GREEN] = {0.12, 0.74, 0.18},  [T3V_CYAN] = {0.15, 0.88, 0.92},   [T3V_BLUE] = {0.14, 0.34, 0.96},
    [T3V_PURPLE] = {0.64, 0.16, 0.86}, [T3V_WHITE] = {0.96, 0.96, 0.96},
};
static const double shades[T3V_SHADES][3] = {
    [T3V_GRAY] = {0.44, 0.44, 0.44},  [T3V_BLACK] = {0.11, 0.11, 0.11}, [T3V_NAVY] = {0.07, 0.10, 0.32},
    [T3V_BROWN] = {0.38, 0.23, 0.12}, [T3V_TEAL] = {0.05, 0.35, 0.34},  [T3V_PINK] = {0.80, 0.48, 0.58},
};

const double *t3v_colour_rgb(t3v_colour c) { return colours[c]; }

void t3v_shade_rgb(t3v_shade c, double tone, double *rgb)
{
    for (int i = 0; i < 3; i++) rgb[i] = shades[c][i] * (0.72 + 0.5 * tone) + 0.06 * tone - 0.02;
}

static double box(double x, double y, double a, double b) { return fmax(fabs(x) - a, fabs(y) - b); }

double t3v_shape_distance(t3v_shape shape, double x, double y)
{
    const double s36 = 0.58778525229247312917, c36 = 0.80901699437494742410, valley = 0.47;
    switch (shape) {
    case T3V_CIRCLE: return sqrt(x * x + y * y) - 1;
    case T3V_SQUARE: return box(x, y, 0.82, 0.82);
    case T3V_TRIANGLE: return fmax(y, 0.86602540378443864676 * fabs(x) - 0.5 * y) - 0.57;
    case T3V_RING: return fabs(sqrt(x * x + y * y) - 0.76) - 0.24;
    case T3V_CROSS: return fmin(box(x, y, 0.98, 0.32), box(x, y, 0.32, 0.98));
    case T3V_STAR: {
        /* Fold into the wedge between the upper tip and the valley 36 degrees from it. */
        double px = fabs(x), py = -y;
        for (int i = 0; i < 2; i++) {
            double over = fmax(px * c36 - py * s36, 0);
            px = fabs(px - 2 * over * c36);
            py += 2 * over * s36;
        }
        const double tip = 1.12, ex = valley * s36, ey = valley * c36 - tip;
        double len = sqrt(ex * ex + ey * ey);
        return (px * -ey + (py - tip) * ex) / len;
    }
    default: return 1;
    }
}

static uint32_t mix(uint32_t h)
{
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

static float lattice(int64_t x, uint32_t row)
{
    return (float)(int32_t)mix(((uint32_t)x * 0x9e3779b1u) ^ row) * (1.0f / 2147483648.0f);
}

static float smooth(float t) { return t * t * (3 - 2 * t); }

/* Adds noise along a row: the lattice of `freq` cells per unit and its octaves (each `gain` times weaker) until
 * a cell is two pixels wide. u = u0 + k*du, v constant. */
static void noise_row(float *out, int64_t n, double u0, double du, double v, uint32_t seed, double freq,
                      float amp, float gain)
{
    for (uint32_t octave = 0; freq * du < 0.5; octave++, freq *= 2, amp *= gain) {
        float weight = amp * smooth(fminf((float)(0.5 - freq * du) * 4, 1));
        double x0 = u0 * freq, dx = du * freq, inv = 1 / dx, y = v * freq, fy = floor(y);
        float sy = smooth((float)(y - fy));
        uint32_t key = mix(seed + octave * 0x632be5abu);
        uint32_t top = mix(key ^ (uint32_t)(int64_t)fy), low = mix(key ^ (uint32_t)((int64_t)fy + 1));
        int64_t ix = (int64_t)floor(x0);
        float a = lattice(ix, top), b = lattice(ix, low), left = weight * (a + (b - a) * sy);
        for (int64_t k = 0; k < n; ix++) {
            a = lattice(ix + 1, top);
            b = lattice(ix + 1, low);
            float right = weight * (a + (b - a) * sy), rise = right - left;
            int64_t end = (int64_t)ceil(((double)ix + 1 - x0) * inv);
            if (end > n) end = n;
            double t0 = x0 - (double)ix;
            for (; k < end; k++) {
                float t = (float)(t0 + (double)k * dx);
                out[k] += left + rise * smooth(t);
            }
            left = right;
        }
    }
}

static double coverage(double distance, double pixel) { return fmin(fmax(0.5 - distance / pixel, 0), 1); }

/* Square wave of the given period, filtered by the pixel: -1 .. 1. */
static double square_wave(double u, double period, double pixel)
{
    double t = u / period, d = 0.25 - fabs(t - floor(t) - 0.5); /* > 0 in the middle half */
    return 2 * coverage(-d * period, pixel) - 1;
}

typedef struct view {
    double left, top, unit; /* screen coordinates of the first pixel's centre; units per pixel */
    double zoom, pan;
} view;

static void backdrop_row(const t3v_scene *s, const view *v, int64_t x0, int64_t row, int64_t n,
                         float rgb[3][SPAN])
{
    const double root = 0.70710678118654752440;
    double du = v->unit / v->zoom, sy = v->top + (double)row * v->unit;
    double u0 = (v->left + (double)x0 * v->unit) / v->zoom + v->pan + s->offset[0],
           w = sy / v->zoom + s->offset[1];
    float tone[SPAN] = {0}, grain[SPAN] = {0};
    switch (s->attrs.backdrop) {
    case T3V_PLAIN: {
        float flat = (float)fmin(fmax(0.5 - 0.9 * sy, 0), 1);
        for (int64_t k = 0; k < n; k++) tone[k] = flat;
        break;
    }
    case T3V_STRIPES:
        for (int64_t k = 0; k < n; k++) {
            double u = (u0 + (double)k * du + w) * root;
            tone[k] = (float)(0.5 + 0.5 * square_wave(u, T3V_SCENE_STRIPE, du));
        }
        break;
    case T3V_CHECKER: {
        double wave = square_wave(w, 2 * T3V_SCENE_CHECK, du);
        for (int64_t k = 0; k < n; k++)
            tone[k] = (float)(0.5 + 0.5 * wave * square_wave(u0 + (double)k * du, 2 * T3V_SCENE_CHECK, du));
        break;
    }
    default:
        noise_row(tone, n, u0, du, w, s->grain, 4.5, 1.0f, 0.5f);
        for (int64_t k = 0; k < n; k++) tone[k] = fminf(fmaxf(0.5f + 0.75f * tone[k], -0.1f), 1.1f);
        break;
    }
    noise_row(grain, n, u0, du, w, s->grain ^ 0xb5297a4du, 6, 0.030f, 0.8f);
    double lo[3], hi[3];
    t3v_shade_rgb(s->attrs.shade, 0, lo);
    t3v_shade_rgb(s->attrs.shade, 1, hi);
    for (int c = 0; c < 3; c++) {
        float a = (float)(lo[c] * s->light), b = (float)((hi[c] - lo[c]) * s->light);
        for (int64_t k = 0; k < n; k++) rgb[c][k] = a + b * tone[k] + grain[k];
    }
}

typedef struct sprite {
    t3v_scene_pose at;
    t3v_shape shape;
    t3v_texture texture;
    const double *colour;
    double sin, cos;
    uint32_t grain;
} sprite;

/* Share of the texture's marks at (x, y) in units of the radius. */
static double marks(t3v_texture texture, double x, double y, double pixel)
{
    if (texture == T3V_STRIPED) return 0.5 - 0.5 * square_wave(y, 0.6, pixel);
    double cx = x / 0.56, cy = y / 0.56;
    cx = (cx - floor(cx + 0.5)) * 0.56;
    cy = (cy - floor(cy + 0.5)) * 0.56;
    return coverage(sqrt(cx * cx + cy * cy) - 0.17, pixel);
}

static void sprite_row(const sprite *o, const view *v, double light, int64_t x0, int64_t row, int64_t n,
                       float rgb[3][SPAN])
{
    double dy = v->top + (double)row * v->unit - o->at.y, reach = 1.2 * o->at.radius + v->unit;
    if (fabs(dy) > reach) return;
    double start = v->left + (double)x0 * v->unit - o->at.x;
    int64_t from = (int64_t)fmin(fmax(floor((-reach - start) / v->unit), 0), (double)n);
    int64_t to = (int64_t)fmin(fmax(ceil((reach - start) / v->unit), 0), (double)n);
    if (from >= to) return;
    double scale = 1 / o->at.radius, pixel = v->unit * scale, y = dy * scale;
    float grain[SPAN] = {0};
    noise_row(grain, to - from, (start + (double)from * v->unit) * scale, pixel, y, o->grain, 1.2, 0.030f,
              0.8f);
    for (int64_t k = from; k < to; k++) {
        double x = (start + (double)k * v->unit) * scale;
        double lx = x * o->cos + y * o->sin, ly = y * o->cos - x * o->sin;
        double alpha = coverage(t3v_shape_distance(o->shape, lx, ly), pixel);
        if (alpha <= 0) continue;
        double ink = light;
        if (o->texture != T3V_SMOOTH) ink *= 1 - (1 - T3V_TEXTURE_DARK) * marks(o->texture, lx, ly, pixel);
        for (int c = 0; c < 3; c++) {
            float value = (float)(o->colour[c] * ink) + grain[k - from];
            rgb[c][k] += (float)alpha * (value - rgb[c][k]);
        }
    }
}

void t3v_scene_render(const t3v_scene *s, int64_t width, int64_t height, int64_t frame, double fps,
                      float *rgb)
{
    double seconds = (double)frame / fps, unit = 1 / (double)(width < height ? width : height);
    view v = {.left = (0.5 - 0.5 * (double)width) * unit,
              .top = (0.5 - 0.5 * (double)height) * unit,
              .unit = unit};
    t3v_scene_camera_at(s, seconds, &v.zoom, &v.pan);
    sprite order[2]; /* back to front */
    int count = 0;
    for (int which = s->attrs.second ? 1 : 0; which >= 0; which--) {
        const t3v_scene_object *o = &s->object[which];
        order[count++] = (sprite){
            .at = t3v_scene_where(s, which, seconds, 0.5 * (double)width * unit, 0.5 * (double)height * unit),
            .shape = which ? s->attrs.shape2 : s->attrs.shape,
            .texture = which ? T3V_SMOOTH : s->attrs.texture,
            .colour = colours[which ? s->attrs.colour2 : s->attrs.colour],
            .sin = sin(o->angle),
            .cos = cos(o->angle),
            .grain = o->grain,
        };
    }
#pragma omp parallel for schedule(static) if (!omp_in_parallel() && width * height > 65536)
    for (int64_t row = 0; row < height; row++) {
        for (int64_t x0 = 0; x0 < width; x0 += SPAN) {
            int64_t n = width - x0 < SPAN ? width - x0 : SPAN;
            float part[3][SPAN];
            backdrop_row(s, &v, x0, row, n, part);
            for (int i = 0; i < count; i++) sprite_row(&order[i], &v, s->light, x0, row, n, part);
            for (int c = 0; c < 3; c++) {
                float *to = rgb + ((int64_t)c * height + row) * width + x0;
                for (int64_t k = 0; k < n; k++) to[k] = fminf(fmaxf(2 * part[c][k] - 1, -1), 1);
            }
        }
    }
}
