/* SPDX-License-Identifier: Apache-2.0 */
/* Generalised Hilbert curves (github.com/jakubcerveny/gilbert and its 3-D form): a box is cut into two to five smaller ones,
 * each with its own axes, until one is a line. */
#include "attn/gilbert.h"

#include <stdbool.h>
#include <stdlib.h>

typedef struct vec {
    int64_t v[3];
} vec;

static vec add(vec a, vec b) { return (vec){{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2]}}; }
static vec minus(vec a) { return (vec){{-a.v[0], -a.v[1], -a.v[2]}}; }
static vec sub(vec a, vec b) { return add(a, minus(b)); }

/* Vectors lie along one axis. */
static int64_t length(vec a) { return llabs(a.v[0] + a.v[1] + a.v[2]); }

static vec unit(vec a)
{
    vec u;
    for (int i = 0; i < 3; i++) u.v[i] = (a.v[i] > 0) - (a.v[i] < 0);
    return u;
}

/* Half of it, rounded down, then to an even number where the whole is longer than 2. */
static vec half(vec a)
{
    vec h;
    for (int i = 0; i < 3; i++) h.v[i] = (a.v[i] - (a.v[i] & 1)) / 2;
    return length(h) % 2 && length(a) > 2 ? add(h, unit(a)) : h;
}

/* A box: its first corner and its signed edges. */
typedef struct box {
    vec o, a, b, c;
} box;

static int64_t volume(const box *x) { return length(x->a) * length(x->b) * length(x->c); }

/* The smaller boxes in the order of the curve; 0: the box is a line. */
static int cut(const box *x, box out[5])
{
    int64_t w = length(x->a), h = length(x->b), d = length(x->c);
    if ((w == 1) + (h == 1) + (d == 1) >= 2) return 0;
    vec o = x->o, a = x->a, b = x->b, c = x->c, a2 = half(a), b2 = half(b), c2 = half(c);
    vec ua = unit(a), ub = unit(b), uc = unit(c), a3 = sub(a, a2), end = sub(a, ua);
    if (2 * w > 3 * h && 2 * w > 3 * d) {
        out[0] = (box){o, a2, b, c};
        out[1] = (box){add(o, a2), a3, b, c};
        return 2;
    }
    if (3 * h > 4 * d) {
        out[0] = (box){o, b2, c, a2};
        out[1] = (box){add(o, b2), a, sub(b, b2), c};
        out[2] = (box){add(o, add(end, sub(b2, ub))), minus(b2), c, minus(a3)};
        return 3;
    }
    if (3 * d > 4 * h) {
        out[0] = (box){o, c2, a2, b};
        out[1] = (box){add(o, c2), a, b, sub(c, c2)};
        out[2] = (box){add(o, add(end, sub(c2, uc))), minus(c2), minus(a3), b};
        return 3;
    }
    vec far = sub(c, uc);
    out[0] = (box){o, b2, c2, a2};
    out[1] = (box){add(o, b2), c, a2, sub(b, b2)};
    out[2] = (box){add(o, add(sub(b2, ub), far)), a, minus(b2), minus(sub(c, c2))};
    out[3] = (box){add(o, add(end, add(b2, far))), minus(c), minus(a3), sub(b, b2)};
    out[4] = (box){add(o, add(end, sub(b2, ub))), minus(b2), c2, minus(a3)};
    return 5;
}

/* The edge of a line that is longer than 1, or any where none is. */
static vec line(const box *x) { return length(x->a) > 1 ? x->a : length(x->b) > 1 ? x->b : x->c; }

static box whole(int64_t w, int64_t h, int64_t d)
{
    vec x = {{w, 0, 0}}, y = {{0, h, 0}}, z = {{0, 0, d}};
    if (w >= h && w >= d) return (box){.a = x, .b = y, .c = z};
    if (h >= w && h >= d) return (box){.a = y, .b = x, .c = z};
    return (box){.a = z, .b = x, .c = y};
}

static void walk(const box *x, int64_t w, int64_t h, int32_t **to)
{
    box part[5];
    if (!volume(x)) return;
    int n = cut(x, part);
    for (int i = 0; i < n; i++) walk(&part[i], w, h, to);
    if (n) return;
    vec step = unit(line(x)), p = x->o;
    for (int64_t i = length(line(x)); i > 0; i--, p = add(p, step))
        *(*to)++ = (int32_t)((p.v[2] * h + p.v[1]) * w + p.v[0]);
}

void t3v_gilbert(int64_t w, int64_t h, int64_t d, int32_t *order)
{
    box x = whole(w, h, d);
    walk(&x, w, h, &order);
}

void t3v_gilbert_point(int64_t w, int64_t h, int64_t d, int64_t index, int64_t xyz[3])
{
    box at = whole(w, h, d), part[5];
    while (cut(&at, part)) {
        int i = 0;
        for (; index >= volume(&part[i]); i++) index -= volume(&part[i]);
        at = part[i];
    }
    vec step = unit(line(&at));
    for (int i = 0; i < 3; i++) xyz[i] = at.o.v[i] + step.v[i] * index;
}

static bool inside(const box *x, vec p)
{
    for (int i = 0; i < 3; i++) {
        int64_t edge = x->a.v[i] + x->b.v[i] + x->c.v[i], at = p.v[i] - x->o.v[i];
        if (edge > 0 ? at < 0 || at >= edge : at > 0 || at <= edge) return false;
    }
    return true;
}

int64_t t3v_gilbert_index(int64_t w, int64_t h, int64_t d, int64_t x, int64_t y, int64_t z)
{
    box at = whole(w, h, d), part[5];
    vec p = {{x, y, z}};
    int64_t index = 0;
    for (int n; (n = cut(&at, part));) {
        int i = 0;
        for (; i + 1 < n && !inside(&part[i], p); i++) index += volume(&part[i]);
        at = part[i];
    }
    return index + length(sub(p, at.o));
}
