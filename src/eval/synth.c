/* SPDX-License-Identifier: Apache-2.0 */
/* Procedural scenes: which attributes go together, where things start, how they move. */
#include "eval/synth.h"

#include <math.h>

#include "base/rng.h"

enum { SCENE_STREAM = 0x5ce4e, HELD_OUT_OF = 10 };

static const double pi = 3.14159265358979323846;

/* A fixed hash (not the seed's business): the split must be the same for every data set. */
bool t3v_scene_is_held_out(const t3v_scene_attrs *a)
{
    uint64_t key = (uint64_t)a->shape + 16 * (uint64_t)a->colour + 256 * (uint64_t)a->motion +
                   4096 * (uint64_t)a->backdrop;
    uint32_t w[4];
    t3v_philox(0x7433762073796e74ULL, 1, key, w);
    return w[0] % HELD_OUT_OF == 0;
}

static double between(t3v_rng *r, double lo, double hi) { return lo + (hi - lo) * t3v_rng_uniform(r); }

/* Are the dark marks of a texture told from the background? */
static bool marks_are_clear(t3v_colour colour, t3v_shade shade)
{
    double nearest = 1, rgb[3];
    const double *c = t3v_colour_rgb(colour);
    for (int i = 0; i <= 8; i++) {
        t3v_shade_rgb(shade, i / 8.0, rgb);
        double sum = 0;
        for (int k = 0; k < 3; k++)
            sum += (T3V_TEXTURE_DARK * c[k] - rgb[k]) * (T3V_TEXTURE_DARK * c[k] - rgb[k]);
        nearest = fmin(nearest, sqrt(sum));
    }
    return nearest > 0.2;
}

static t3v_scene_attrs draw_attrs(t3v_rng *r)
{
    t3v_scene_attrs a = {0};
    a.shape = (t3v_shape)t3v_rng_below(r, T3V_SHAPES);
    a.colour = (t3v_colour)t3v_rng_below(r, T3V_COLOURS);
    a.motion = (t3v_motion)t3v_rng_below(r, T3V_MOTIONS);
    a.backdrop = (t3v_backdrop)t3v_rng_below(r, T3V_BACKDROPS);
    a.shade = (t3v_shade)t3v_rng_below(r, T3V_SHADES);
    a.extent = (t3v_extent)t3v_rng_below(r, T3V_EXTENTS);
    double u = t3v_rng_uniform(r);
    a.texture = u < 0.7 ? T3V_SMOOTH : u < 0.87 ? T3V_STRIPED : T3V_DOTTED;
    if (!marks_are_clear(a.colour, a.shade)) a.texture = T3V_SMOOTH;
    if (t3v_rng_uniform(r) < 0.12) {
        a.camera = (t3v_camera)(1 + t3v_rng_below(r, T3V_CAMERAS - 1));
        a.motion = T3V_STILL;
        if (a.backdrop == T3V_PLAIN) a.backdrop = (t3v_backdrop)(1 + t3v_rng_below(r, T3V_BACKDROPS - 1));
    }
    if (a.motion == T3V_GROWING) a.extent = T3V_SMALL;
    if (a.motion == T3V_SHRINKING) a.extent = T3V_LARGE;
    bool passes = a.motion >= T3V_LEFT && a.motion <= T3V_DOWN;
    if (passes && t3v_rng_uniform(r) < 0.22) {
        a.second = true;
        a.shape2 = (t3v_shape)((a.shape + 1 + t3v_rng_below(r, T3V_SHAPES - 1)) % T3V_SHAPES);
        a.colour2 = (t3v_colour)((a.colour + 1 + t3v_rng_below(r, T3V_COLOURS - 1)) % T3V_COLOURS);
    }
    return a;
}

/* Start positions: for one second, everything stays inside a square frame. */
static void place(t3v_scene *s, t3v_rng *r)
{
    const t3v_scene_attrs *a = &s->attrs;
    t3v_scene_object *o = &s->object[0], *p = &s->object[1];
    o->radius = (a->extent == T3V_SMALL ? 0.165 : 0.265) * between(r, 0.95, 1.05);
    if (a->motion == T3V_GROWING) o->radius = T3V_SCENE_RADIUS_MIN;
    if (a->motion == T3V_SHRINKING) o->radius = T3V_SCENE_RADIUS_MAX;
    double widest = a->motion == T3V_GROWING ? T3V_SCENE_RADIUS_MAX : o->radius;
    double room = fmax(0.5 - 1.13 * widest - 0.02, 0);
    if (a->camera == T3V_ZOOM_IN) room = fmax(0.3 - 1.13 * widest, 0);
    double main_jitter = between(r, -1, 1), side_jitter = between(r, -1, 1);
    o->x = room * main_jitter;
    o->y = room * side_jitter;
    if (a->motion == T3V_CIRCLING) {
        double left = fmax(room - T3V_SCENE_ORBIT, 0);
        o->x = left * main_jitter;
        o->y = left * side_jitter;
    }
    double half = T3V_SCENE_SPEED / 2, along = 0.02 * main_jitter, across = 0.9 * room * side_jitter;
    if (a->camera == T3V_PAN_LEFT || a->camera == T3V_PAN_RIGHT) {
        o->x = (a->camera == T3V_PAN_LEFT ? -1 : 1) * T3V_SCENE_PAN / 2 + along;
        o->y = across;
    }
    p->radius = 0.155 * between(r, 0.97, 1.03);
    double apart = o->radius + p->radius - 0.08, flip = t3v_rng_below(r, 2) ? 1 : -1;
    if (a->second) across = -0.4 * apart * flip;
    switch (a->motion) {
    case T3V_LEFT: o->x = half + along, o->y = across; break;
    case T3V_RIGHT: o->x = -half + along, o->y = across; break;
    case T3V_UP: o->x = across, o->y = half + along; break;
    case T3V_DOWN: o->x = across, o->y = -half + along; break;
    default: break;
    }
    bool horizontal = a->motion == T3V_LEFT || a->motion == T3V_RIGHT;
    p->x = horizontal ? 0.05 * side_jitter : 0.6 * apart * flip;
    p->y = horizontal ? 0.6 * apart * flip : 0.05 * side_jitter;
    for (int i = 0; i < 2; i++) {
        s->object[i].angle = between(r, -0.14, 0.14);
        s->object[i].phase = between(r, 0, 2 * pi);
        s->object[i].grain = t3v_rng_u32(r);
    }
    s->offset[0] = between(r, 0, 1);
    s->offset[1] = between(r, 0, 1);
    s->light = between(r, 0.95, 1.03);
    s->grain = t3v_rng_u32(r);
}

t3v_scene t3v_scene_make(uint64_t seed, int64_t index, bool held_out)
{
    t3v_rng r = t3v_rng_make(seed, SCENE_STREAM + ((uint64_t)index << 1) + (held_out ? 1 : 0));
    t3v_scene s = {0};
    do s.attrs = draw_attrs(&r);
    while (t3v_scene_is_held_out(&s.attrs) != held_out);
    place(&s, &r);
    return s;
}

t3v_scene t3v_scene_of(const t3v_scene_attrs *a, uint64_t seed)
{
    t3v_rng r = t3v_rng_make(seed, SCENE_STREAM - 1);
    t3v_scene s = {.attrs = *a};
    place(&s, &r);
    return s;
}

static double ease(double seconds) { return 1 - exp(-seconds / T3V_SCENE_EASE); }

void t3v_scene_camera_at(const t3v_scene *s, double seconds, double *zoom, double *pan)
{
    *zoom = 1;
    *pan = 0;
    switch (s->attrs.camera) {
    case T3V_PAN_LEFT: *pan = -T3V_SCENE_PAN * seconds; break;
    case T3V_PAN_RIGHT: *pan = T3V_SCENE_PAN * seconds; break;
    case T3V_ZOOM_IN: *zoom = 1 + T3V_SCENE_ZOOM * ease(seconds); break;
    case T3V_ZOOM_OUT: *zoom = 1 / (1 + T3V_SCENE_ZOOM * ease(seconds)); break;
    default: break;
    }
}

/* Back in from the other side once the whole object is out. */
static double wrap(double x, double half)
{
    double span = 2 * half;
    return x - span * floor(x / span + 0.5);
}

t3v_scene_pose t3v_scene_where(const t3v_scene *s, int which, double seconds, double half_w, double half_h)
{
    const t3v_scene_object *o = &s->object[which];
    t3v_scene_pose p = {o->x, o->y, o->radius};
    double range = T3V_SCENE_RADIUS_MAX - T3V_SCENE_RADIUS_MIN, way = T3V_SCENE_SPEED * seconds;
    switch (which == 0 ? s->attrs.motion : T3V_STILL) {
    case T3V_LEFT: p.x -= way; break;
    case T3V_RIGHT: p.x += way; break;
    case T3V_UP: p.y -= way; break;
    case T3V_DOWN: p.y += way; break;
    case T3V_CIRCLING:
        p.x += T3V_SCENE_ORBIT * cos(o->phase + T3V_SCENE_TURN * seconds);
        p.y += T3V_SCENE_ORBIT * sin(o->phase + T3V_SCENE_TURN * seconds);
        break;
    case T3V_GROWING: p.radius += range * ease(seconds); break;
    case T3V_SHRINKING: p.radius -= range * ease(seconds); break;
    default: break;
    }
    double zoom, pan;
    t3v_scene_camera_at(s, seconds, &zoom, &pan);
    p.x = (p.x - pan) * zoom;
    p.y *= zoom;
    p.radius *= zoom;
    double reach = 1.2 * p.radius;
    p.x = wrap(p.x, half_w + reach);
    p.y = wrap(p.y, half_h + reach);
    return p;
}
