/* SPDX-License-Identifier: Apache-2.0 */
/* Captions of procedural scenes: a small grammar that says only what is true, and its reader. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "eval/synth.h"

enum { FORMS = 4 };

/* The first form of a row is the canonical one. Every word a form uses to carry a meaning belongs to one
 * attribute only, or is told apart by the noun that follows it. */
static const char *const shape_words[T3V_SHAPES][FORMS] = {
    [T3V_CIRCLE] = {"circle", "disc"},
    [T3V_SQUARE] = {"square"},
    [T3V_TRIANGLE] = {"triangle"},
    [T3V_STAR] = {"star"},
    [T3V_RING] = {"ring"},
    [T3V_CROSS] = {"cross"},
};
static const char *const colour_words[T3V_COLOURS][FORMS] = {
    [T3V_RED] = {"red"},   [T3V_ORANGE] = {"orange"}, [T3V_YELLOW] = {"yellow"}, [T3V_GREEN] = {"green"},
    [T3V_CYAN] = {"cyan"}, [T3V_BLUE] = {"blue"},     [T3V_PURPLE] = {"purple"}, [T3V_WHITE] = {"white"},
};
static const char *const shade_words[T3V_SHADES][FORMS] = {
    [T3V_GRAY] = {"gray"},   [T3V_BLACK] = {"black"}, [T3V_NAVY] = {"navy"},
    [T3V_BROWN] = {"brown"}, [T3V_TEAL] = {"teal"},   [T3V_PINK] = {"pink"},
};
static const char *const texture_words[T3V_TEXTURES][FORMS] = {
    [T3V_SMOOTH] = {""},
    [T3V_STRIPED] = {"striped"},
    [T3V_DOTTED] = {"dotted", "spotted"},
};
static const char *const extent_words[T3V_EXTENTS][FORMS] = {
    [T3V_SMALL] = {"small", "little"},
    [T3V_LARGE] = {"large", "big"},
};
static const char *const backdrop_words[T3V_BACKDROPS][FORMS] = {
    [T3V_PLAIN] = {"plain"},
    [T3V_STRIPES] = {"striped"},
    [T3V_CHECKER] = {"checkered", "checked"},
    [T3V_CLOUDS] = {"cloudy", "clouded"},
};
static const char *const motion_words[T3V_MOTIONS][FORMS] = {
    [T3V_STILL] = {"stays still", "does not move", "rests", "remains motionless"},
    [T3V_LEFT] = {"moves left", "moves to the left", "slides left", "travels to the left"},
    [T3V_RIGHT] = {"moves right", "moves to the right", "slides right", "travels to the right"},
    [T3V_UP] = {"moves up", "rises", "moves upwards", "slides up"},
    [T3V_DOWN] = {"moves down", "sinks", "moves downwards", "slides down"},
    [T3V_CIRCLING] = {"moves in a loop", "goes around in a loop", "orbits", "orbits clockwise"},
    [T3V_GROWING] = {"grows", "grows larger", "expands", "gets bigger"},
    [T3V_SHRINKING] = {"shrinks", "shrinks smaller", "contracts", "gets smaller"},
};
static const char *const camera_words[T3V_CAMERAS][FORMS] = {
    [T3V_FIXED] = {""},
    [T3V_PAN_LEFT] = {"the camera pans left", "the camera pans to the left"},
    [T3V_PAN_RIGHT] = {"the camera pans right", "the camera pans to the right"},
    [T3V_ZOOM_IN] = {"the camera zooms in", "the view zooms in"},
    [T3V_ZOOM_OUT] = {"the camera zooms out", "the view zooms out"},
};

static const char *pick(const char *const *row, t3v_rng *r)
{
    int64_t n = 1;
    while (n < FORMS && row[n]) n++;
    return row[r ? t3v_rng_below(r, n) : 0];
}

static void object_phrase(char *out, size_t n, const char *article, const char *extent, const char *colour,
                          const char *texture, const char *shape)
{
    const char *part[] = {article, extent, colour, texture, shape};
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        if (!part[i][0]) continue;
        int len = snprintf(out + used, n - used, "%s%s", used ? " " : "", part[i]);
        if (len < 0 || (size_t)len >= n - used) return;
        used += (size_t)len;
    }
}

static const char *article_for(const char *next) { return strchr("aeiou", next[0]) ? "an" : "a"; }

int t3v_attrs_caption(const t3v_scene_attrs *a, uint64_t paraphrase, char *out, size_t n)
{
    t3v_rng rng = t3v_rng_make(paraphrase, 0xca9), *r = paraphrase ? &rng : NULL;
    int64_t form = r ? t3v_rng_below(r, 5) : 0;
    bool sized = a->motion != T3V_GROWING && a->motion != T3V_SHRINKING;
    const char *extent = sized ? pick(extent_words[a->extent], r) : "";
    const char *colour = pick(colour_words[a->colour], r), *colour2 = pick(colour_words[a->colour2], r);
    const char *texture = pick(texture_words[a->texture], r), *motion = pick(motion_words[a->motion], r);
    const char *kind = pick(backdrop_words[a->backdrop], r), *shade = pick(shade_words[a->shade], r);
    const char *over = r && t3v_rng_below(r, 2) ? "over" : "on";
    bool shade_first = r && t3v_rng_below(r, 2);

    char object[96], second[96] = "", back[96], camera[64] = "";
    object_phrase(object, sizeof object, article_for(sized ? extent : colour), extent, colour, texture,
                  pick(shape_words[a->shape], r));
    if (a->second)
        snprintf(second, sizeof second, " %s %s %s %s", r && t3v_rng_below(r, 2) ? "past" : "in front of",
                 article_for(colour2), colour2, pick(shape_words[a->shape2], r));
    snprintf(back, sizeof back, "%s %s %s", shade_first ? shade : kind, shade_first ? kind : shade,
             r && t3v_rng_below(r, 4) == 0 ? "backdrop" : "background");
    if (a->camera != T3V_FIXED) {
        bool clause = r && t3v_rng_below(r, 2);
        snprintf(camera, sizeof camera, "%s%s", clause ? " while " : ", ", pick(camera_words[a->camera], r));
    }

    int len = 0;
    switch (form) {
    case 1: len = snprintf(out, n, "%s a %s, %s %s%s%s.", over, back, object, motion, second, camera); break;
    case 2:
        len = snprintf(out, n, "a video of %s that %s%s %s a %s%s.", object, motion, second, over, back,
                       camera);
        break;
    case 3:
        len = snprintf(out, n, "%s %s%s%s. the background is %s and %s.", object, motion, second, camera,
                       kind, shade);
        break;
    case 4: len = snprintf(out, n, "%s %s a %s %s%s%s.", object, over, back, motion, second, camera); break;
    default: len = snprintf(out, n, "%s %s%s %s a %s%s.", object, motion, second, over, back, camera); break;
    }
    if (n) {
        out[0] = (char)toupper((unsigned char)out[0]);
        for (char *p = out; *p && p[1] && p[2]; p++)
            if (p[0] == '.' && p[1] == ' ') p[2] = (char)toupper((unsigned char)p[2]);
    }
    return len;
}

int t3v_scene_caption(const t3v_scene *s, uint64_t paraphrase, char *out, size_t n)
{
    return t3v_attrs_caption(&s->attrs, paraphrase, out, n);
}

static int find(const char *const table[][FORMS], int rows, const char *word)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < FORMS && table[i][j]; j++)
            if (table[i][j][0] && strcmp(table[i][j], word) == 0) return i;
    return -1;
}

/* Words that alone settle a motion; left, right, up and down also follow a verb. */
static int motion_of(const char *word)
{
    static const struct {
        const char *word;
        t3v_motion motion;
    } table[] = {
        {"still", T3V_STILL},
        {"not", T3V_STILL},
        {"rests", T3V_STILL},
        {"motionless", T3V_STILL},
        {"left", T3V_LEFT},
        {"right", T3V_RIGHT},
        {"up", T3V_UP},
        {"rises", T3V_UP},
        {"upwards", T3V_UP},
        {"down", T3V_DOWN},
        {"sinks", T3V_DOWN},
        {"downwards", T3V_DOWN},
        {"loop", T3V_CIRCLING},
        {"orbits", T3V_CIRCLING},
        {"grows", T3V_GROWING},
        {"expands", T3V_GROWING},
        {"bigger", T3V_GROWING},
        {"shrinks", T3V_SHRINKING},
        {"contracts", T3V_SHRINKING},
        {"smaller", T3V_SHRINKING},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].word, word) == 0) return (int)table[i].motion;
    return -1;
}

typedef struct reading {
    int extent, colour, texture; /* adjectives waiting for their noun */
    int objects, shape[2], colours[2], extent1, texture1;
    int motion, backdrop, shade, camera;
    bool after_background; /* "the background is ...": adjectives follow the noun */
    const char *view;      /* "pans" or "zooms" before its direction */
} reading;

static bool read_word(reading *r, const char *w)
{
    int k;
    if (r->view) {
        bool zoom = strcmp(r->view, "zooms") == 0;
        if (strcmp(w, zoom ? "in" : "left") == 0) r->camera = zoom ? T3V_ZOOM_IN : T3V_PAN_LEFT;
        if (strcmp(w, zoom ? "out" : "right") == 0) r->camera = zoom ? T3V_ZOOM_OUT : T3V_PAN_RIGHT;
        if (r->camera != T3V_FIXED) r->view = NULL;
        return true;
    }
    if (strcmp(w, "pans") == 0 || strcmp(w, "zooms") == 0) {
        r->view = strcmp(w, "pans") == 0 ? "pans" : "zooms";
    } else if ((k = find(shape_words, T3V_SHAPES, w)) >= 0) {
        if (r->objects >= 2) return false;
        r->shape[r->objects] = k;
        r->colours[r->objects] = r->colour;
        if (r->objects == 0) r->extent1 = r->extent, r->texture1 = r->texture;
        r->objects++;
        r->extent = r->colour = r->texture = -1;
    } else if (strcmp(w, "background") == 0 || strcmp(w, "backdrop") == 0) {
        if (r->texture == T3V_STRIPED) r->backdrop = T3V_STRIPES;
        r->texture = -1;
        r->after_background = r->shade < 0;
    } else if ((k = find(extent_words, T3V_EXTENTS, w)) >= 0) {
        r->extent = k;
    } else if ((k = find(colour_words, T3V_COLOURS, w)) >= 0) {
        r->colour = k;
    } else if ((k = find(shade_words, T3V_SHADES, w)) >= 0) {
        r->shade = k;
    } else if ((k = find(texture_words, T3V_TEXTURES, w)) >= 0) {
        if (r->after_background && k == T3V_STRIPED) r->backdrop = T3V_STRIPES;
        else r->texture = k;
    } else if ((k = find(backdrop_words, T3V_BACKDROPS, w)) >= 0) {
        r->backdrop = k;
    } else if ((k = motion_of(w)) >= 0 && r->motion < 0) {
        r->motion = k;
    }
    return true;
}

bool t3v_scene_parse(const char *caption, t3v_scene_attrs *out)
{
    reading r = {.extent = -1,
                 .colour = -1,
                 .texture = -1,
                 .motion = -1,
                 .backdrop = -1,
                 .shade = -1,
                 .shape = {-1, -1},
                 .colours = {-1, -1},
                 .extent1 = -1,
                 .texture1 = -1,
                 .camera = T3V_FIXED};
    for (const char *p = caption; *p;) {
        if (!isalpha((unsigned char)*p)) {
            p++;
            continue;
        }
        char word[24];
        size_t len = 0;
        for (; isalpha((unsigned char)*p); p++)
            if (len + 1 < sizeof word) word[len++] = (char)tolower((unsigned char)*p);
        word[len] = 0;
        if (!read_word(&r, word)) return false;
    }
    if (r.objects < 1 || r.colours[0] < 0 || r.motion < 0 || r.backdrop < 0 || r.shade < 0) return false;
    if (r.objects == 2 && r.colours[1] < 0) return false;
    t3v_scene_attrs a = {
        .shape = (t3v_shape)r.shape[0],
        .colour = (t3v_colour)r.colours[0],
        .texture = r.texture1 < 0 ? T3V_SMOOTH : (t3v_texture)r.texture1,
        .extent = r.extent1 < 0 ? T3V_SMALL : (t3v_extent)r.extent1,
        .motion = (t3v_motion)r.motion,
        .backdrop = (t3v_backdrop)r.backdrop,
        .shade = (t3v_shade)r.shade,
        .camera = (t3v_camera)r.camera,
        .second = r.objects == 2,
    };
    if (a.motion == T3V_SHRINKING) a.extent = T3V_LARGE;
    if (a.motion == T3V_GROWING) a.extent = T3V_SMALL;
    if (a.second) {
        a.shape2 = (t3v_shape)r.shape[1];
        a.colour2 = (t3v_colour)r.colours[1];
    }
    *out = a;
    return true;
}
