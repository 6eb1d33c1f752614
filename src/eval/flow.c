/* SPDX-License-Identifier: Apache-2.0 */
/* Block matching over a pyramid. */
#include "eval/flow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { BLOCK = T3V_FLOW_BLOCK, WINDOW = 16, RIM = (WINDOW - BLOCK) / 2, PAD = 16, LEVELS = 10 };
enum { COARSE_REACH = 8, COARSE_SIDE = 32, STEPS = 4, LEAVING = WINDOW * WINDOW / 4 };

/* A picture with its border repeated PAD pixels outwards. */
typedef struct layer {
    int64_t h, w, row;
    uint8_t *data, *origin; /* origin: pixel (0, 0) */
} layer;

typedef struct vector {
    int x, y;
} vector;

static int64_t clamp(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }
static int64_t blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

t3v_status t3v_flow_make(t3v_flow *f, int64_t h, int64_t w)
{
    *f = (t3v_flow){.h = h, .w = w, .rows = blocks(h), .cols = blocks(w)};
    f->d = calloc((size_t)(f->rows * f->cols), 2 * sizeof *f->d);
    return f->d ? T3V_OK
                : t3v_fail(T3V_E_NOMEM, "no memory for the motion of %lldx%lld", (long long)w, (long long)h);
}

void t3v_flow_free(t3v_flow *f)
{
    free(f->d);
    *f = (t3v_flow){0};
}

static t3v_status layer_make(layer *l, int64_t h, int64_t w)
{
    *l = (layer){.h = h, .w = w, .row = w + 2 * PAD};
    int64_t bytes;
    if (!t3v_mul(l->row, h + 2 * PAD, &bytes) || !(l->data = malloc((size_t)bytes)))
        return t3v_fail(T3V_E_NOMEM, "no memory to match frames of %lldx%lld", (long long)w, (long long)h);
    l->origin = l->data + PAD * l->row + PAD;
    return T3V_OK;
}

static void repeat_border(layer *l)
{
    for (int64_t y = 0; y < l->h; y++) {
        uint8_t *row = l->origin + y * l->row;
        memset(row - PAD, row[0], PAD);
        memset(row + l->w, row[l->w - 1], PAD);
    }
    for (int64_t y = 1; y <= PAD; y++) {
        memcpy(l->data + (PAD - y) * l->row, l->data + PAD * l->row, (size_t)l->row);
        memcpy(l->data + (PAD + l->h - 1 + y) * l->row, l->data + (PAD + l->h - 1) * l->row, (size_t)l->row);
    }
}

/* dst = src halved: means of 2x2, an odd edge repeated. */
static void halve(const layer *src, layer *dst)
{
#pragma omp parallel for schedule(static) if (dst->h * dst->w > T3V_PARALLEL_PIXELS)
    for (int64_t y = 0; y < dst->h; y++) {
        const uint8_t *a = src->origin + 2 * y * src->row, *b = a + src->row;
        for (int64_t x = 0; x < dst->w; x++)
            dst->origin[y * dst->row + x] =
                (uint8_t)((a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + 2) / 4);
    }
    repeat_border(dst);
}

static t3v_status pyramid(layer *l, int levels, const uint8_t *y, int64_t h, int64_t w)
{
    T3V_TRY(layer_make(&l[0], h, w));
    for (int64_t r = 0; r < h; r++) memcpy(l[0].origin + r * l[0].row, y + r * w, (size_t)w);
    repeat_border(&l[0]);
    for (int i = 1; i < levels; i++) {
        T3V_TRY(layer_make(&l[i], (l[i - 1].h + 1) / 2, (l[i - 1].w + 1) / 2));
        halve(&l[i - 1], &l[i]);
    }
    return T3V_OK;
}

/* Vectors of a block are kept where its window stays within the padded picture. */
static vector inside(const layer *l, int64_t by, int64_t bx, vector d)
{
    int64_t x = bx * BLOCK - RIM, y = by * BLOCK - RIM;
    return (vector){(int)(clamp(x + d.x, -PAD, l->w + PAD - WINDOW) - x),
                    (int)(clamp(y + d.y, -PAD, l->h + PAD - WINDOW) - y)};
}

static const uint8_t *window_at(const layer *l, int64_t by, int64_t bx, vector d)
{
    return l->origin + (by * BLOCK - RIM + d.y) * l->row + bx * BLOCK - RIM + d.x;
}

static int absolute(const layer *now, const layer *then, int64_t by, int64_t bx, vector d)
{
    const uint8_t *a = window_at(now, by, bx, (vector){0, 0}), *b = window_at(then, by, bx, d);
    int sum = 0;
    for (int y = 0; y < WINDOW; y++, a += now->row, b += then->row)
        for (int x = 0; x < WINDOW; x++) sum += abs(a[x] - b[x]);
    return sum;
}

typedef struct search {
    const layer *now, *then;
    int64_t by, bx;
    vector above, best; /* above: what the coarser level says */
    int cost;
} search;

static bool consider(search *s, vector d)
{
    d = inside(s->then, s->by, s->bx, d);
    int cost = LEAVING * (abs(d.x - s->above.x) + abs(d.y - s->above.y));
    if (cost >= s->cost) return false;
    cost += absolute(s->now, s->then, s->by, s->bx, d);
    if (cost >= s->cost) return false;
    s->cost = cost;
    s->best = d;
    return true;
}

static void downhill(search *s)
{
    for (int step = 0; step < STEPS; step++) {
        vector from = s->best;
        bool moved = false;
        for (int k = 0; k < 9; k++)
            if (k != 4 && consider(s, (vector){from.x + k % 3 - 1, from.y + k / 3 - 1})) moved = true;
        if (!moved) return;
    }
}

/* The vectors of one level; coarse [ceil(rows/2), ceil(cols/2) or more] of `coarse_cols` columns, or NULL. */
static void match(const layer *now, const layer *then, const vector *coarse, int64_t coarse_rows,
                  int64_t coarse_cols, vector *out)
{
    int64_t rows = blocks(now->h), cols = blocks(now->w);
#pragma omp parallel for schedule(static) if (now->h * now->w > T3V_PARALLEL_PIXELS)
    for (int64_t by = 0; by < rows; by++)
        for (int64_t bx = 0; bx < cols; bx++) {
            search s = {.now = now, .then = then, .by = by, .bx = bx, .cost = INT32_MAX};
            if (!coarse) {
                consider(&s, s.above);
                for (int y = -COARSE_REACH; y <= COARSE_REACH; y++)
                    for (int x = -COARSE_REACH; x <= COARSE_REACH; x++) consider(&s, (vector){x, y});
            } else {
                static const int near[5][2] = {{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}};
                for (int k = 0; k < 5; k++) {
                    int64_t cy = clamp(by / 2 + near[k][0], 0, coarse_rows - 1),
                            cx = clamp(bx / 2 + near[k][1], 0, coarse_cols - 1);
                    vector d = coarse[cy * coarse_cols + cx];
                    d = (vector){2 * d.x, 2 * d.y};
                    if (k == 0) s.above = d;
                    consider(&s, d);
                }
                consider(&s, (vector){0, 0});
                downhill(&s);
            }
            out[by * cols + bx] = s.best;
        }
}

/* Weights of four samples at -1, 0, 1, 2 for the place `t` in [0, 1): Catmull-Rom. */
static void cubic_weights(float t, float w[4])
{
    w[0] = ((-0.5f * t + 1) * t - 0.5f) * t;
    w[1] = (1.5f * t - 2.5f) * t * t + 1;
    w[2] = ((-1.5f * t + 2) * t + 0.5f) * t;
    w[3] = (0.5f * t - 0.5f) * t * t;
}

/* A vector cut into whole pixels and the weights of its fraction. */
typedef struct fetch {
    int64_t x, y;
    float wx[4], wy[4];
} fetch;

static fetch fetch_make(const float d[2])
{
    float fx = floorf(d[0]), fy = floorf(d[1]);
    fetch f = {.x = (int64_t)fx, .y = (int64_t)fy};
    cubic_weights(d[0] - fx, f.wx);
    cubic_weights(d[1] - fy, f.wy);
    return f;
}

/* p [h,w] at (x, y) moved by f; past the edges the border is repeated. */
static float fetch_at(const uint8_t *p, int64_t h, int64_t w, int64_t row, int64_t y, int64_t x,
                      const fetch *f)
{
    float sum = 0;
    for (int j = 0; j < 4; j++) {
        if (f->wy[j] == 0) continue;
        const uint8_t *line = p + clamp(y + f->y + j - 1, 0, h - 1) * row;
        float part = 0;
        for (int i = 0; i < 4; i++) part += f->wx[i] * line[clamp(x + f->x + i - 1, 0, w - 1)];
        sum += f->wy[j] * part;
    }
    return sum;
}

static double squared(const layer *now, const layer *then, int64_t by, int64_t bx, vector d)
{
    d = inside(then, by, bx, d);
    const uint8_t *a = window_at(now, by, bx, (vector){0, 0}), *b = window_at(then, by, bx, d);
    int sum = 0;
    for (int y = 0; y < WINDOW; y++, a += now->row, b += then->row)
        for (int x = 0; x < WINDOW; x++) sum += (a[x] - b[x]) * (a[x] - b[x]);
    return sum;
}

static double vertex(double left, double middle, double right)
{
    double bend = left - 2 * middle + right;
    return bend > 0 ? fmin(fmax(0.5 * (left - right) / bend, -0.5), 0.5) : 0;
}

/* Squared difference of the block itself, moved by d. */
static double block_squares(const layer *now, const layer *then, int64_t by, int64_t bx, const float d[2])
{
    fetch f = fetch_make(d);
    double sum = 0;
    for (int64_t y = by * BLOCK; y < now->h && y < (by + 1) * BLOCK; y++)
        for (int64_t x = bx * BLOCK; x < now->w && x < (bx + 1) * BLOCK; x++) {
            float e = fetch_at(then->origin, then->h, then->w, then->row, y, x, &f) -
                      now->origin[y * now->row + x];
            sum += (double)e * e;
        }
    return sum;
}

static void add_fractions(t3v_flow *f, const layer *now, const layer *then, const vector *whole)
{
#pragma omp parallel for schedule(static) if (now->h * now->w > T3V_PARALLEL_PIXELS)
    for (int64_t by = 0; by < f->rows; by++)
        for (int64_t bx = 0; bx < f->cols; bx++) {
            vector v = whole[by * f->cols + bx];
            float *d = f->d + 2 * (by * f->cols + bx), finer[2];
            d[0] = (float)v.x;
            d[1] = (float)v.y;
            double middle = squared(now, then, by, bx, v);
            finer[0] = d[0] + (float)vertex(squared(now, then, by, bx, (vector){v.x - 1, v.y}), middle,
                                            squared(now, then, by, bx, (vector){v.x + 1, v.y}));
            finer[1] = d[1] + (float)vertex(squared(now, then, by, bx, (vector){v.x, v.y - 1}), middle,
                                            squared(now, then, by, bx, (vector){v.x, v.y + 1}));
            if (block_squares(now, then, by, bx, finer) < block_squares(now, then, by, bx, d))
                memcpy(d, finer, sizeof finer);
        }
}

t3v_status t3v_flow_find(t3v_flow *f, const uint8_t *now, const uint8_t *then)
{
    layer a[LEVELS] = {0}, b[LEVELS] = {0};
    vector *d[LEVELS] = {0};
    int levels = 1;
    for (int64_t side = f->h < f->w ? f->h : f->w; side >= 2 * COARSE_SIDE && levels < LEVELS; side /= 2)
        levels++;
    t3v_status st = pyramid(a, levels, now, f->h, f->w);
    if (!st) st = pyramid(b, levels, then, f->h, f->w);
    for (int i = levels - 1; i >= 0 && !st; i--) {
        d[i] = malloc((size_t)(blocks(a[i].h) * blocks(a[i].w)) * sizeof **d);
        if (!d[i]) st = t3v_fail(T3V_E_NOMEM, "no memory for motion vectors");
        else if (i == levels - 1) match(&a[i], &b[i], NULL, 0, 0, d[i]);
        else match(&a[i], &b[i], d[i + 1], blocks(a[i + 1].h), blocks(a[i + 1].w), d[i]);
    }
    if (!st) add_fractions(f, &a[0], &b[0], d[0]);
    for (int i = 0; i < levels; i++) {
        free(a[i].data);
        free(b[i].data);
        free(d[i]);
    }
    return st;
}

/* ---- warping ---- */

enum { CHUNKS = 64 };

static bool returns(const t3v_flow *forth, const float b[2], int64_t y, int64_t x)
{
    float tx = (float)x + b[0], ty = (float)y + b[1];
    if (!(tx >= 0 && ty >= 0 && tx <= (float)(forth->w - 1) && ty <= (float)(forth->h - 1))) return false;
    int64_t block = ((int64_t)(ty + 0.5f) / BLOCK) * forth->cols + (int64_t)(tx + 0.5f) / BLOCK;
    const float *f = forth->d + 2 * block;
    float sx = b[0] + f[0], sy = b[1] + f[1];
    return sx * sx + sy * sy <= 0.01f * (b[0] * b[0] + b[1] * b[1] + f[0] * f[0] + f[1] * f[1]) + 0.5f;
}

static void warp_block(t3v_warp *s, const t3v_planes *now, const t3v_planes *then, const t3v_flow *back,
                       const t3v_flow *forth, int64_t by, int64_t bx)
{
    const float *b = back->d + 2 * (by * back->cols + bx);
    fetch f = fetch_make(b);
    for (int64_t y = by * BLOCK; y < now->h && y < (by + 1) * BLOCK; y++)
        for (int64_t x = bx * BLOCK; x < now->w && x < (bx + 1) * BLOCK; x++) {
            if (!returns(forth, b, y, x)) continue;
            for (int c = T3V_R; c <= T3V_B; c++) {
                float v = fetch_at(then->plane[c], then->h, then->w, then->w, y, x, &f);
                double e = fminf(fmaxf(v, 0), 255) - now->plane[c][y * now->w + x];
                s->squares += e * e;
            }
            s->count++;
        }
}

void t3v_warp_add(t3v_warp *s, const t3v_planes *now, const t3v_planes *then, const t3v_flow *back,
                  const t3v_flow *forth)
{
    t3v_warp part[CHUNKS] = {0};
#pragma omp parallel for schedule(static) if (now->h * now->w > T3V_PARALLEL_PIXELS)
    for (int k = 0; k < CHUNKS; k++)
        for (int64_t by = k; by < back->rows; by += CHUNKS)
            for (int64_t bx = 0; bx < back->cols; bx++) warp_block(&part[k], now, then, back, forth, by, bx);
    for (int k = 0; k < CHUNKS; k++) {
        s->squares += part[k].squares;
        s->count += part[k].count;
    }
    s->pixels += now->h * now->w;
}

double t3v_warp_error(const t3v_warp *s)
{
    return s->count ? sqrt(s->squares / (3 * (double)s->count)) : (double)NAN;
}

double t3v_warp_coverage(const t3v_warp *s)
{
    return s->pixels ? (double)s->count / (double)s->pixels : (double)NAN;
}
