/* SPDX-License-Identifier: Apache-2.0 */
/* Procedural video: scenes made from a small vocabulary, rendered at any size, described by true captions.
 *
 * Geometry is in units of the shorter side of the frame, origin in its centre, x right, y down; time is in
 * seconds. A wider frame shows more of the same scene. Colours are sRGB values in [0,1]. */
#ifndef T3V_EVAL_SYNTH_H
#define T3V_EVAL_SYNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum t3v_shape {
    T3V_CIRCLE,
    T3V_SQUARE,
    T3V_TRIANGLE,
    T3V_STAR,
    T3V_RING,
    T3V_CROSS,
    T3V_SHAPES
} t3v_shape;
typedef enum t3v_colour {
    T3V_RED,
    T3V_ORANGE,
    T3V_YELLOW,
    T3V_GREEN,
    T3V_CYAN,
    T3V_BLUE,
    T3V_PURPLE,
    T3V_WHITE,
    T3V_COLOURS
} t3v_colour;
typedef enum t3v_texture { T3V_SMOOTH, T3V_STRIPED, T3V_DOTTED, T3V_TEXTURES } t3v_texture;
typedef enum t3v_extent { T3V_SMALL, T3V_LARGE, T3V_EXTENTS } t3v_extent;
typedef enum t3v_motion {
    T3V_STILL,
    T3V_LEFT,
    T3V_RIGHT,
    T3V_UP,
    T3V_DOWN,
    T3V_CIRCLING,
    T3V_GROWING,
    T3V_SHRINKING,
    T3V_MOTIONS
} t3v_motion;
typedef enum t3v_backdrop { T3V_PLAIN, T3V_STRIPES, T3V_CHECKER, T3V_CLOUDS, T3V_BACKDROPS } t3v_backdrop;
/* The colours of backgrounds are none of the colours of objects. */
typedef enum t3v_shade { T3V_GRAY, T3V_BLACK, T3V_NAVY, T3V_BROWN, T3V_TEAL, T3V_PINK, T3V_SHADES } t3v_shade;
typedef enum t3v_camera {
    T3V_FIXED,
    T3V_PAN_LEFT,
    T3V_PAN_RIGHT,
    T3V_ZOOM_IN,
    T3V_ZOOM_OUT,
    T3V_CAMERAS
} t3v_camera;

/* What a caption says. `extent` is unsaid for growing (small) and shrinking (large) objects. A second
 * object is smooth, still and behind the main one, which passes it. A moving camera looks at a still object
 * before a patterned background. */
typedef struct t3v_scene_attrs {
    t3v_shape shape;
    t3v_colour colour;
    t3v_texture texture;
    t3v_extent extent;
    t3v_motion motion;
    t3v_backdrop backdrop;
    t3v_shade shade;
    t3v_camera camera;
    bool second;
    t3v_shape shape2;   /* differs from shape */
    t3v_colour colour2; /* differs from colour */
} t3v_scene_attrs;

typedef struct t3v_scene_object {
    double x, y;   /* centre: where a linear motion starts, what a circling one goes around */
    double radius; /* at time 0 */
    double angle;  /* radians, constant */
    double phase;  /* of the circling motion, radians */
    uint32_t grain;
} t3v_scene_object;

typedef struct t3v_scene {
    t3v_scene_attrs attrs;
    t3v_scene_object object[2]; /* main, second */
    double offset[2];           /* of the background pattern */
    double light;               /* factor on all colours, near 1 */
    uint32_t grain;
} t3v_scene;

/* The constants of motion (per second), also what the scores expect to see. */
#define T3V_SCENE_SPEED 0.42 /* left, right, up, down: then in again from the other side */
#define T3V_SCENE_PAN 0.35   /* of the camera */
#define T3V_SCENE_ORBIT 0.14 /* radius of circling */
#define T3V_SCENE_TURN 4.0   /* radians per second, clockwise */
#define T3V_SCENE_EASE 0.7   /* time constant of growing, shrinking and zooming, which slow down */
#define T3V_SCENE_RADIUS_MIN 0.11
#define T3V_SCENE_RADIUS_MAX 0.35
#define T3V_SCENE_ZOOM 0.8
#define T3V_SCENE_STRIPE 0.30 /* period of the diagonal stripes */
#define T3V_SCENE_CHECK 0.20  /* side of one check */

/* Scene `index` of `seed`. About a tenth of the combinations (shape, colour, motion, backdrop) is kept for
 * held_out and never occurs otherwise. */
t3v_scene t3v_scene_make(uint64_t seed, int64_t index, bool held_out);
/* A scene with the given attributes; places and grain come from the seed. */
t3v_scene t3v_scene_of(const t3v_scene_attrs *a, uint64_t seed);
bool t3v_scene_is_held_out(const t3v_scene_attrs *a);

/* Frame `frame` at `fps` into rgb [3,height,width] f32 in [-1,1]. Pure: the bytes do not depend on the number
 * of threads. Edges are anti-aliased by the pixel's footprint; textures have octaves down to its size. */
void t3v_scene_render(const t3v_scene *s, int64_t width, int64_t height, int64_t frame, double fps,
                      float *rgb);

/* Where object `which` is at `seconds` in a frame of half extents (half_w, half_h) units. */
typedef struct t3v_scene_pose {
    double x, y, radius;
} t3v_scene_pose;
t3v_scene_pose t3v_scene_where(const t3v_scene *s, int which, double seconds, double half_w, double half_h);
/* Camera at `seconds`: world = screen / zoom + (pan, 0). */
void t3v_scene_camera_at(const t3v_scene *s, double seconds, double *zoom, double *pan);

/* Signed distance (units of the radius, y down, negative inside; exact sign) to the shape of radius 1. */
double t3v_shape_distance(t3v_shape shape, double x, double y);
const double *t3v_colour_rgb(t3v_colour c); /* [3] */
void t3v_shade_rgb(t3v_shade c, double tone,
                   double *rgb); /* tone 0..1: the darker to the lighter of its two tones */
#define T3V_TEXTURE_DARK 0.5     /* factor on an object's colour in the marks of its texture */

/* Writes a caption, returns its length (as snprintf). Paraphrase 0 is the canonical one. */
int t3v_scene_caption(const t3v_scene *s, uint64_t paraphrase, char *out, size_t n);
int t3v_attrs_caption(const t3v_scene_attrs *a, uint64_t paraphrase, char *out, size_t n);
/* Reads a caption of the grammar back; false when it does not name shape, colour, motion and background. */
bool t3v_scene_parse(const char *caption, t3v_scene_attrs *out);

#endif
