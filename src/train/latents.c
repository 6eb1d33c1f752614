/* SPDX-License-Identifier: Apache-2.0 */
/* Making a data set of latents and text contexts: what to make, frames, one clip, the index. */
#include "train/latents.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/rng.h"
#include "io/captions.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "pipe/cost.h"
#include "pipe/fingerprint.h"
#include "tensor/dtype.h"
#include "text/utf8.h"
#include "train/dataset.h"
#include "vae/clip.h"
#include "video/video.h"

enum { COMMON = 3, SETTINGS = 8, KNOWN = 4, VALUE = 160, NAME_MOST = 220 };

typedef struct names {
    char **item;
    int64_t count, capacity;
} names;

enum { HAVE_NOT, HAVE_KEPT, HAVE_MADE, HAVE_NO_ROOM };

typedef struct video {
    char *name, *caption;
    char *reason; /* why it was skipped; NULL: it was not */
    int64_t bytes;
    unsigned char *have; /* [crops]: HAVE_... */
} video;

typedef struct maker {
    const t3v_latents_job *job;
    t3v_model *model;
    t3v_vae_clip clip;
    int64_t tile_h, tile_w, shape[4], numel, dim;
    char value[SETTINGS][VALUE];
    t3v_meta setting[SETTINGS]; /* the first COMMON are the empty prompt's too */
    video *video;
    int64_t videos, capacity;
    names no_caption, no_video;
    t3v_arena text;
    float *latent;
    uint16_t *packed;
    t3v_progress inner;
    int64_t done, todo, unit; /* clips; steps of one */
    bool bad_video;           /* the failure is the video's or its caption's, not ours */
} maker;

static t3v_status no_memory(void) { return t3v_fail(T3V_E_NOMEM, "out of memory"); }

/* ---- what there is ------------------------------------------------------------------------------------ */

static t3v_status add_name(names *n, const char *name)
{
    if (n->count == n->capacity) {
        int64_t more = n->capacity ? 2 * n->capacity : 64;
        char **grown = realloc(n->item, (size_t)more * sizeof *grown);
        if (!grown) return no_memory();
        n->item = grown;
        n->capacity = more;
    }
    if (!(n->item[n->count] = strdup(name))) return no_memory();
    n->count++;
    return T3V_OK;
}

static void free_names(names *n)
{
    for (int64_t i = 0; i < n->count; i++) free(n->item[i]);
    free(n->item);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool has_extension(const char *name, const char *ext)
{
    const char *dot = strrchr(name, '.');
    return dot && dot > name && strcasecmp(dot + 1, ext) == 0;
}

static bool is_video(const char *name)
{
    static const char *const known[] = {"mp4", "m4v", "mov", "mkv", "webm", "avi", "y4m"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (has_extension(name, known[i])) return true;
    return false;
}

/* Videos and texts of the folder itself, sorted. */
static t3v_status scan(const char *path, names *videos, names *texts)
{
    DIR *dir = opendir(path);
    if (!dir) return t3v_fail(T3V_E_IO, "%s: cannot read the folder: %s", path, strerror(errno));
    t3v_status st = T3V_OK;
    for (struct dirent *e; !st && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        if (is_video(e->d_name)) st = add_name(videos, e->d_name);
        else if (has_extension(e->d_name, "txt")) st = add_name(texts, e->d_name);
    }
    closedir(dir);
    if (videos->count) qsort(videos->item, (size_t)videos->count, sizeof *videos->item, by_name);
    if (texts->count) qsort(texts->item, (size_t)texts->count, sizeof *texts->item, by_name);
    return st;
}

static t3v_status add_video(maker *m, const char *name, const char *caption, video **out)
{
    if (m->videos == m->capacity) {
        int64_t more = m->capacity ? 2 * m->capacity : 64;
        video *grown = realloc(m->video, (size_t)more * sizeof *grown);
        if (!grown) return no_memory();
        m->video = grown;
        m->capacity = more;
    }
    video *v = &m->video[m->videos++];
    *v = (video){.name = strdup(name), .caption = strdup(caption)};
    v->have = calloc((size_t)m->job->crops, sizeof *v->have);
    if (!v->name || !v->caption || !v->have) return no_memory();
    if (t3v_utf8_check(name, strlen(name)) < strlen(name) && !(v->reason = strdup("its name is not UTF-8")))
        return no_memory();
    if (out) *out = v;
    return T3V_OK;
}

/* Text of a caption file without white space at its ends; a bad one is the video's failure. */
static t3v_status read_caption(const char *path, char **out)
{
    size_t n;
    T3V_TRY(t3v_read_text(path, T3V_PROMPT_MAX, out, &n));
    char *text = *out, *end = text + strlen(text);
    if (strlen(text) < n || t3v_utf8_check(text, n) < n)
        return t3v_fail(T3V_E_FORMAT, "%s is not a text in UTF-8", path);
    while (end > text && strchr(" \t\r\n", end[-1])) *--end = 0;
    size_t blank = strspn(text, " \t\r\n");
    memmove(text, text + blank, strlen(text + blank) + 1);
    return *text ? T3V_OK : t3v_fail(T3V_E_FORMAT, "%s is empty, expected a caption", path);
}

static t3v_status add_with_text(maker *m, const char *name, const char *text_name)
{
    char *caption = NULL, *path = t3v_path_join(m->job->videos, text_name);
    video *v;
    t3v_status st = path ? read_caption(path, &caption) : no_memory(), added;
    free(path);
    if (st == T3V_E_NOMEM) {
        free(caption);
        return st;
    }
    added = add_video(m, name, st ? "" : caption, &v);
    free(caption);
    if (!added && st && !v->reason && !(v->reason = strdup(t3v_error_text()))) return no_memory();
    return added;
}

static t3v_status pair_texts(maker *m, const names *videos, const names *texts)
{
    char *used = calloc((size_t)texts->count + 1, 1);
    t3v_status st = used ? T3V_OK : no_memory();
    for (int64_t i = 0; i < videos->count && !st; i++) {
        const char *name = videos->item[i];
        size_t stem = (size_t)(strrchr(name, '.') - name);
        char text[512];
        snprintf(text, sizeof text, "%.*s.txt", (int)stem, name);
        const char *key = text;
        char **at = texts->count ? bsearch(&key, texts->item, (size_t)texts->count, sizeof key, by_name)
                                 : NULL;
        if (at) used[at - texts->item] = 1;
        st = at ? add_with_text(m, name, text) : add_name(&m->no_caption, name);
    }
    for (int64_t i = 0; i < texts->count && !st; i++)
        if (!used[i]) st = add_name(&m->no_video, texts->item[i]);
    free(used);
    return st;
}

static t3v_status pair_list(maker *m, const names *videos, const char *file)
{
    t3v_prompts captions;
    T3V_TRY(t3v_captions_load(&captions, file));
    t3v_status st = T3V_OK;
    for (int64_t i = 0; i < captions.count && !st; i++) {
        const t3v_prompt *c = &captions.item[i];
        char *path = t3v_path_join(m->job->videos, c->file);
        if (!path) st = no_memory();
        else st = t3v_is_file(path) ? add_video(m, c->file, c->text, NULL) : add_name(&m->no_video, c->file);
        free(path);
    }
    for (int64_t i = 0; i < videos->count && !st; i++)
        if (!t3v_captions_find(&captions, videos->item[i])) st = add_name(&m->no_caption, videos->item[i]);
    t3v_prompts_free(&captions);
    return st;
}

static t3v_status find_videos(maker *m)
{
    names videos = {0}, texts = {0};
    char *own = t3v_path_join(m->job->videos, "captions.json");
    t3v_status st = own ? scan(m->job->videos, &videos, &texts) : no_memory();
    const char *list = m->job->captions ? m->job->captions : own && t3v_is_file(own) ? own : NULL;
    if (!st) st = list ? pair_list(m, &videos, list) : pair_texts(m, &videos, &texts);
    free_names(&videos);
    free_names(&texts);
    free(own);
    return st;
}

/* ---- what is made already ----------------------------------------------------------------------------- */

/* Name of clip k's file in the data set: the video's, with / % @ written as %2F %25 %40. */
static char *clip_file(const char *source, int64_t k)
{
    size_t n = strlen(source);
    char *name = malloc(3 * n + 64), *p = name;
    if (!name) return NULL;
    p += sprintf(p, "clips/");
    for (; *source; source++)
        if (strchr("/%@", *source)) p += sprintf(p, "%%%02X", (unsigned)*source);
        else *p++ = *source;
    if (k) p += sprintf(p, "@%lld", (long long)k);
    sprintf(p, ".safetensors");
    return name;
}

static char *clip_path(const maker *m, const video *v, int64_t k)
{
    char *name = clip_file(v->name, k), *path = name ? t3v_path_join(m->job->out, name) : NULL;
    free(name);
    return path;
}

/* The file's settings against the first n of this run. */
static t3v_status same_settings(const maker *m, const t3v_tensor_file *f, int n)
{
    for (int i = 0; i < n; i++) {
        const char *have = t3v_dataset_meta(f, m->setting[i].key);
        if (have && strcmp(have, m->setting[i].value) == 0) continue;
        return t3v_fail(
            T3V_E_ARG,
            "%s was made with %s '%s', this run has '%s': repeat that, or choose another directory", f->path,
            m->setting[i].key, have ? have : "(none)", m->setting[i].value);
    }
    return T3V_OK;
}

/* The facts of a clip that this run knows before making it; texts in `number`. */
static void known_facts(const video *v, int64_t k, char number[2][32], t3v_meta fact[KNOWN])
{
    snprintf(number[0], 32, "%lld", (long long)v->bytes);
    snprintf(number[1], 32, "%lld", (long long)k);
    fact[0] = (t3v_meta){"source", v->name};
    fact[1] = (t3v_meta){"caption", v->caption};
    fact[2] = (t3v_meta){"source_bytes", number[0]};
    fact[3] = (t3v_meta){"crop", number[1]};
}

/* Is the clip there? v NULL: the empty prompt. E_ARG: it was made with other settings. */
static t3v_status look(const maker *m, const video *v, int64_t k, const char *path, bool *there)
{
    t3v_tensor_file *f = NULL;
    *there = false;
    if (!t3v_is_file(path)) return T3V_OK;
    if (t3v_tensors_open(&f, path)) {
        t3v_warn("%s is not a whole file, it is made again", path);
        return T3V_OK;
    }
    t3v_status st = same_settings(m, f, v ? SETTINGS : COMMON);
    const t3v_tensor_entry *z = t3v_tensors_find(f, "latent"), *context = t3v_tensors_find(f, "context");
    *there = context && (!v || (z && z->ndim == 4 && memcmp(z->shape, m->shape, sizeof m->shape) == 0));
    if (v && !st) {
        t3v_meta fact[KNOWN];
        char number[2][32];
        known_facts(v, k, number, fact);
        for (int i = 0; i < KNOWN; i++) {
            const char *have = t3v_dataset_meta(f, fact[i].key);
            if (!have || strcmp(have, fact[i].value) != 0) *there = false;
        }
    }
    t3v_tensors_close(f);
    return st;
}

static t3v_status look_at_all(maker *m)
{
    for (int64_t i = 0; i < m->videos; i++) {
        video *v = &m->video[i];
        struct stat sb;
        char *path = t3v_path_join(m->job->videos, v->name);
        if (!path) return no_memory();
        v->bytes = stat(path, &sb) == 0 ? (int64_t)sb.st_size : 0;
        free(path);
        for (int64_t k = 0; k < m->job->crops && !v->reason; k++) {
            bool there;
            if (!(path = clip_path(m, v, k))) return no_memory();
            if (strlen(strrchr(path, '/')) > NAME_MOST && !(v->reason = strdup("its name is too long"))) {
                free(path);
                return no_memory();
            }
            t3v_status st = look(m, v, k, path, &there);
            free(path);
            T3V_TRY(st);
            if (v->reason) break;
            if (there) v->have[k] = HAVE_KEPT;
            else m->todo++;
        }
    }
    return T3V_OK;
}

/* ---- frames ------------------------------------------------------------------------------------------- */

/* Steps of all clips so far. */
static bool report_all(void *user, const char *phase, int64_t done, int64_t total)
{
    maker *m = user;
    const t3v_progress *p = m->job->progress;
    (void)phase;
    if (total) m->unit = total;
    if (total && done == total) return true; /* go_on reports the end of a clip */
    return !p || !p->fn || p->fn(p->user, "latents", m->done * m->unit + done, m->todo * m->unit);
}

static t3v_status go_on(maker *m) { return t3v_report(&m->inner, "latents", 0, 0); }

/* The frames of one clip, as the VAE asks for them. */
typedef struct feed {
    maker *m;
    const char *path;
    t3v_video_reader *reader;
    float *frame;
    int64_t h, w; /* of the video */
    double step;  /* frames of the video a frame of the clip */
    int64_t at, first;
} feed;

/* Distance of frame i from the clip's first, in frames of the video. */
static int64_t offset(const feed *f, int64_t i) { return (int64_t)floor((double)i * f->step + 0.5); }

/* Is it the video that cannot be used? Only then the others go on without it. */
static bool blames_video(t3v_status st) { return st && st != T3V_E_CANCEL && st != T3V_E_NOMEM; }

static t3v_status open_feed(feed *f)
{
    const t3v_latents_job *job = f->m->job;
    T3V_TRY(t3v_video_reader_open(&f->reader, f->path));
    const t3v_video_info *info = t3v_video_reader_info(f->reader);
    f->h = info->height, f->w = info->width;
    f->at = 0;
    f->step = (double)job->every;
    if (job->fps > 0) {
        double fps = info->fps_num > 0 ? (double)info->fps_num / (info->fps_den ? info->fps_den : 1) : 0;
        if (fps * 1.001 < job->fps)
            return t3v_fail(T3V_E_FORMAT, "%s: %.4g frames a second, --fps asks for %.4g", f->path, fps,
                            job->fps);
        f->step = fps / job->fps > 1 ? fps / job->fps : 1;
    }
    free(f->frame); /* the file may be another one by now */
    f->frame = malloc((size_t)(f->h * f->w) * 3 * sizeof *f->frame);
    return f->frame ? T3V_OK : no_memory();
}

static t3v_status too_short(const feed *f)
{
    int64_t span = offset(f, f->m->clip.frames - 1) + 1;
    return t3v_fail(T3V_E_FORMAT, "%s: %lld frames, a clip takes %lld", f->path, (long long)f->at,
                    (long long)(f->first + span));
}

static t3v_status skip_frame(feed *f, bool *eof)
{
    if (f->at % 16 == 15) T3V_TRY(go_on(f->m));
    T3V_TRY(t3v_video_reader_next_u8(f->reader, (uint8_t *)f->frame, eof));
    if (!*eof) f->at++;
    return T3V_OK;
}

static t3v_status next_frame(void *user, int64_t index, float *rgb)
{
    feed *f = user;
    const t3v_vae_clip *c = &f->m->clip;
    bool eof = false;
    t3v_status st = T3V_OK;
    while (!st && !eof && f->at < f->first + offset(f, index)) st = skip_frame(f, &eof);
    if (!st && !eof) st = t3v_video_reader_next(f->reader, f->frame, &eof);
    if (!st && eof) st = too_short(f);
    if (!st) f->at++;
    if (!st) st = t3v_frame_cover(f->frame, 3, f->h, f->w, rgb, c->height, c->width);
    f->m->bad_video = blames_video(st);
    return st;
}

/* Number of possible first frames of a clip in the whole video. */
static t3v_status count_starts(feed *f, int64_t *starts)
{
    bool eof = false;
    T3V_TRY(open_feed(f));
    while (!eof) T3V_TRY(skip_frame(f, &eof));
    t3v_video_reader_close(&f->reader);
    *starts = f->at - offset(f, f->m->clip.frames - 1);
    return *starts < 1 ? too_short(f) : T3V_OK;
}

static uint64_t stream_of(const char *name, int64_t k)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (h ^ (uint64_t)k) * 0x100000001b3u;
}

/* ---- one clip ----------------------------------------------------------------------------------------- */

static t3v_status encode_text(maker *m, const char *source, const char *caption, t3v_tensor **rows)
{
    int32_t ids[T3V_TEXT_LEN];
    int n = 0;
    int64_t len = m->model->config.text_len;
    const char *cut = NULL;
    t3v_ctx ctx = {.arena = &m->text, .compute = m->job->compute};
    t3v_arena_back(&m->text, 0);
    t3v_status st = t3v_tokenizer_encode(m->model->tokenizer, caption, T3V_CLEAN_FULL, ids,
                                         len < T3V_TEXT_LEN ? (int)len : T3V_TEXT_LEN, &n, &cut);
    m->bad_video = st == T3V_E_FORMAT || st == T3V_E_TOO_BIG;
    T3V_TRY(st);
    if (cut) t3v_warn("the caption of %s is too long; it is cut before \"%.40s\"", source, cut);
    t3v_tensor *t = *rows = t3v_umt5_encode(&ctx, &m->model->text, ids, n);
    if (t) t->data = t3v_take(&ctx, t); /* for files alone */
    return ctx.status;
}

static t3v_tensor_entry context_entry(const t3v_tensor *rows)
{
    return (t3v_tensor_entry){.name = "context",
                              .dtype = T3V_F32,
                              .ndim = 2,
                              .shape = {rows->shape[0], rows->shape[1]},
                              .data = rows->data};
}

static t3v_status write_clip(const maker *m, const feed *f, const video *v, int64_t k, const t3v_tensor *rows)
{
    char number[2][32], first[32], step[32], size[64], tile[64];
    t3v_meta meta[SETTINGS + KNOWN + 4];
    memcpy(meta, m->setting, sizeof m->setting);
    known_facts(v, k, number, meta + SETTINGS);
    snprintf(first, sizeof first, "%lld", (long long)f->first);
    snprintf(step, sizeof step, "%.9g", f->step);
    snprintf(size, sizeof size, "%lldx%lld", (long long)f->w, (long long)f->h);
    snprintf(tile, sizeof tile, "%lldx%lld", (long long)m->tile_h, (long long)m->tile_w);
    meta[SETTINGS + KNOWN] = (t3v_meta){"first_frame", first};
    meta[SETTINGS + KNOWN + 1] = (t3v_meta){"frame_step", step};
    meta[SETTINGS + KNOWN + 2] = (t3v_meta){"source_size", size};
    meta[SETTINGS + KNOWN + 3] = (t3v_meta){"vae_tile", tile};
    t3v_tensor_entry e[2] = {{.name = "latent", .dtype = T3V_BF16, .ndim = 4, .data = m->packed},
                             context_entry(rows)};
    memcpy(e[0].shape, m->shape, sizeof m->shape);
    char *path = clip_path(m, v, k);
    t3v_status st = path ? t3v_safetensors_write(path, e, 2, meta, SETTINGS + KNOWN + 4) : no_memory();
    free(path);
    return st;
}

static t3v_status make_clip(maker *m, feed *f, const video *v, int64_t k, const t3v_tensor *rows)
{
    t3v_status st = open_feed(f);
    m->bad_video = blames_video(st);
    if (!st) st = t3v_vae_encode(&m->model->vae, &m->clip, next_frame, f, m->latent);
    t3v_video_reader_close(&f->reader);
    T3V_TRY(st);
    for (int64_t i = 0; i < m->numel; i++) m->packed[i] = t3v_f32_to_bf16(m->latent[i]);
    return write_clip(m, f, v, k, rows);
}

static t3v_status make_clips(maker *m, feed *f, video *v, const t3v_tensor *rows)
{
    const t3v_latents_job *job = m->job;
    int64_t starts = 1;
    if (job->random || job->crops > 1) {
        t3v_status st = count_starts(f, &starts);
        m->bad_video = blames_video(st);
        T3V_TRY(st);
    }
    for (int64_t k = 0; k < job->crops; k++) {
        if (v->have[k]) continue;
        /* As if starts * k / crops could not overflow: a video has far fewer frames. */
        int64_t from = starts * k / job->crops, to = starts * (k + 1) / job->crops;
        f->first = from;
        if (from == to) {
            v->have[k] = HAVE_NO_ROOM;
            m->done++;
            continue;
        }
        if (job->random) {
            t3v_rng rng = t3v_rng_make(job->seed, stream_of(v->name, k));
            f->first += t3v_rng_below(&rng, to - from);
        }
        T3V_TRY(make_clip(m, f, v, k, rows));
        v->have[k] = HAVE_MADE;
        m->done++;
    }
    return T3V_OK;
}

static t3v_status make_video(maker *m, video *v)
{
    int64_t missing = 0, done = m->done;
    t3v_tensor *rows = NULL;
    for (int64_t k = 0; k < m->job->crops; k++) missing += v->have[k] == HAVE_NOT;
    if (v->reason || !missing) return T3V_OK;
    T3V_TRY(go_on(m));
    feed f = {.m = m};
    char *path = t3v_path_join(m->job->videos, v->name);
    if (!path) return no_memory();
    f.path = path;
    m->bad_video = false;
    t3v_status st = encode_text(m, v->name, v->caption, &rows);
    if (!st) st = make_clips(m, &f, v, rows);
    t3v_video_reader_close(&f.reader);
    free(f.frame);
    free(path);
    if (st && m->bad_video) {
        v->reason = strdup(t3v_error_text());
        st = v->reason ? T3V_OK : no_memory();
        m->done = done + missing;
    }
    return st;
}

static t3v_status make_empty(maker *m)
{
    bool there = false;
    t3v_tensor *rows;
    char *path = t3v_path_join(m->job->out, "empty.safetensors");
    t3v_status st = path ? look(m, NULL, 0, path, &there) : no_memory();
    if (!st && !there && !(st = encode_text(m, "(none)", "", &rows))) {
        t3v_tensor_entry e = context_entry(rows);
        st = t3v_safetensors_write(path, &e, 1, m->setting, COMMON);
    }
    free(path);
    return st;
}

/* ---- the index ---------------------------------------------------------------------------------------- */

/* JSON takes UTF-8 alone: other bytes become question marks. */
static json_t *text_of(const char *s)
{
    char *copy = strdup(s);
    size_t n = strlen(s), bad;
    while (copy && (bad = t3v_utf8_check(copy, n)) < n) copy[bad] = '?';
    json_t *text = copy ? json_string(copy) : NULL;
    free(copy);
    return text;
}

/* NULL when memory runs out; so above. */
static json_t *list_of(const names *n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n->count; i++)
        if (json_array_append_new(list, text_of(n->item[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* Not 0 when memory runs out. */
static int index_video(const maker *m, const video *v, json_t *clips, json_t *skipped, t3v_latents_result *r)
{
    if (v->reason) {
        r->skipped++;
        return json_array_append_new(skipped, json_pack("{s:o, s:o}", "source", text_of(v->name), "reason",
                                                        text_of(v->reason)));
    }
    int bad = 0;
    for (int64_t k = 0; k < m->job->crops; k++) {
        if (v->have[k] == HAVE_NO_ROOM) continue;
        r->made += v->have[k] == HAVE_MADE;
        r->kept += v->have[k] == HAVE_KEPT;
        char *file = clip_file(v->name, k);
        bad |= !file || json_array_append_new(clips, json_pack("{s:s, s:s, s:s}", "file", file, "source",
                                                               v->name, "caption", v->caption));
        free(file);
    }
    return bad;
}

static t3v_status write_index(const maker *m, t3v_latents_result *r)
{
    json_t *clips = json_array(), *skipped = json_array(), *root = NULL;
    int bad = 0;
    for (int64_t i = 0; i < m->videos; i++) bad |= index_video(m, &m->video[i], clips, skipped, r);
    r->clips = r->made + r->kept;
    r->without_caption = m->no_caption.count;
    r->without_video = m->no_video.count;
    root = json_pack("{s:s, s:s, s:s, s:[I,I], s:I, s:[I,I,I,I], s:I}", "format", T3V_DATASET_FORMAT, "model",
                     m->setting[1].value, "precision", m->setting[2].value, "size", (json_int_t)m->clip.width,
                     (json_int_t)m->clip.height, "frames", (json_int_t)m->clip.frames, "latent",
                     (json_int_t)m->shape[0], (json_int_t)m->shape[1], (json_int_t)m->shape[2],
                     (json_int_t)m->shape[3], "dim", (json_int_t)m->dim);
    for (int i = COMMON + 2; i < SETTINGS; i++)
        bad |= json_object_set_new(root, m->setting[i].key, json_string(m->setting[i].value));
    bad |= json_object_set_new(root, "clips", clips);
    bad |= json_object_set_new(root, "skipped", skipped);
    bad |= json_object_set_new(root, "without_caption", list_of(&m->no_caption));
    bad |= json_object_set_new(root, "without_video", list_of(&m->no_video));
    char *text = !bad ? t3v_json_dumps(root, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    char *path = t3v_path_join(m->job->out, "index.json");
    t3v_status st = text && path ? t3v_write_text(path, text, strlen(text)) : no_memory();
    free(path);
    free(text);
    json_decref(root);
    return st;
}

static void tell(const maker *m)
{
    for (int64_t i = 0; i < m->videos; i++)
        if (m->video[i].reason) t3v_warn("skipped %s: %s", m->video[i].name, m->video[i].reason);
    for (int64_t i = 0; i < m->no_caption.count; i++) t3v_warn("no caption for %s", m->no_caption.item[i]);
    for (int64_t i = 0; i < m->no_video.count; i++) t3v_warn("no video for %s", m->no_video.item[i]);
}

/* ---- the run ------------------------------------------------------------------------------------------ */

static t3v_status check(const t3v_latents_job *job)
{
    if (job->width < 0 || job->height < 0 || job->width % 16 || job->height % 16 ||
        job->width > T3V_VIDEO_MAX_SIDE || job->height > T3V_VIDEO_MAX_SIDE)
        return t3v_fail(T3V_E_ARG, "clips of %lldx%lld: expected multiples of 16, at most %d",
                        (long long)job->width, (long long)job->height, T3V_VIDEO_MAX_SIDE);
    if (job->frames < 0 || job->frames > T3V_LATENTS_FRAMES || (job->frames && job->frames % 4 != 1))
        return t3v_fail(T3V_E_ARG, "clips of %lld frames: expected 4n+1, the nearest is %lld",
                        (long long)job->frames,
                        (long long)(job->frames < 3 ? 1 : (job->frames + 1) / 4 * 4 + 1));
    if (job->every < 1 || job->every > T3V_LATENTS_EVERY || !(job->fps >= 0 && job->fps <= 1000) ||
        job->crops < 1 || job->crops > T3V_LATENTS_CROPS)
        return t3v_fail(T3V_E_ARG, "every %lld, fps %g, crops %lld: out of range", (long long)job->every,
                        job->fps, (long long)job->crops);
    if (!t3v_is_dir(job->videos)) return t3v_fail(T3V_E_IO, "%s: no such folder of videos", job->videos);
    return T3V_OK;
}

static t3v_status make_dir(const char *path)
{
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && t3v_is_dir(path))) return T3V_OK;
    return t3v_fail(T3V_E_IO, "%s: cannot make the directory: %s", path, strerror(errno));
}

static t3v_status set_settings(maker *m)
{
    static const char *const key[SETTINGS] = {"format", "model",    "precision", "size",
                                              "frames", "sampling", "start",     "crops"};
    const t3v_latents_job *job = m->job;
    char model[T3V_FINGERPRINT];
    T3V_TRY(t3v_fingerprint(m->model, T3V_PART_TEXT | T3V_PART_VAE, model));
    snprintf(m->value[0], VALUE, "%s", T3V_DATASET_FORMAT);
    snprintf(m->value[1], VALUE, "%s", model);
    snprintf(m->value[2], VALUE, "%s", job->compute == T3V_BF16 ? "bf16" : "f32");
    snprintf(m->value[3], VALUE, "%lldx%lld", (long long)m->clip.width, (long long)m->clip.height);
    snprintf(m->value[4], VALUE, "%lld", (long long)m->clip.frames);
    if (job->fps > 0) snprintf(m->value[5], VALUE, "fps %.9g", job->fps);
    else snprintf(m->value[5], VALUE, "every %lld", (long long)job->every);
    if (job->random) snprintf(m->value[6], VALUE, "random, seed %llu", (unsigned long long)job->seed);
    else snprintf(m->value[6], VALUE, "first");
    snprintf(m->value[7], VALUE, "%lld", (long long)job->crops);
    for (int i = 0; i < SETTINGS; i++) m->setting[i] = (t3v_meta){key[i], m->value[i]};
    return T3V_OK;
}

/* The model, sizes, memory. */
static t3v_status prepare(maker *m)
{
    const t3v_latents_job *job = m->job;
    size_t bytes;
    T3V_TRY(t3v_model_open(&m->model, &job->paths, T3V_PART_TEXT | T3V_PART_VAE, job->compute, false));
    const t3v_defaults *d = &m->model->defaults;
    m->clip = (t3v_vae_clip){.frames = job->frames ? job->frames : d->frames,
                             .height = job->height ? job->height : d->height,
                             .width = job->width ? job->width : d->width,
                             .tile_h = job->tile_h,
                             .tile_w = job->tile_w,
                             .compute = job->compute,
                             .progress = &m->inner};
    int64_t token = 2 * m->model->vae.stride;
    if (m->clip.width % token || m->clip.height % token)
        return t3v_fail(T3V_E_ARG, "clips of %lldx%lld: this model takes multiples of %lld",
                        (long long)m->clip.width, (long long)m->clip.height, (long long)token);
    int64_t text = t3v_params_numel(&m->model->text.params) * (int64_t)t3v_dtype_size(job->compute), held;
    T3V_TRY(t3v_vae_room(m->model, job->memory_limit, text, &held, &m->clip.memory_limit));
    T3V_TRY(t3v_vae_encode_bytes(&m->model->vae, &m->clip, &bytes, &m->tile_h, &m->tile_w));
    const t3v_vae *vae = &m->model->vae;
    m->shape[0] = vae->config.z;
    m->shape[1] = (m->clip.frames - 1) / T3V_VAE_STRIDE_T + 1;
    m->shape[2] = m->clip.height / vae->stride;
    m->shape[3] = m->clip.width / vae->stride;
    m->numel = m->shape[0] * m->shape[1] * m->shape[2] * m->shape[3];
    m->dim = m->model->text.config.dim;
    m->unit = m->shape[1];
    m->latent = malloc((size_t)m->numel * sizeof *m->latent);
    m->packed = malloc((size_t)m->numel * sizeof *m->packed);
    if (!m->latent || !m->packed) return t3v_fail(T3V_E_NOMEM, "no memory for a latent");
    T3V_TRY(t3v_arena_open_in(&m->text, (size_t)16 << 30, t3v_device_space(m->model->device)));
    return set_settings(m);
}

static t3v_status make_all(maker *m, t3v_latents_result *r)
{
    const t3v_latents_job *job = m->job;
    T3V_TRY(check(job));
    T3V_TRY(find_videos(m));
    T3V_TRY(prepare(m));
    T3V_TRY(make_dir(job->out));
    char *clips = t3v_path_join(job->out, "clips");
    t3v_status st = clips ? make_dir(clips) : no_memory();
    free(clips);
    T3V_TRY(st);
    T3V_TRY(look_at_all(m));
    T3V_TRY(make_empty(m));
    for (int64_t i = 0; i < m->videos; i++) T3V_TRY(make_video(m, &m->video[i]));
    if (m->todo) T3V_TRY(go_on(m));
    tell(m);
    T3V_TRY(write_index(m, r));
    if (!r->clips)
        return t3v_fail(
            T3V_E_FORMAT,
            "%s: no clip could be made: %lld videos skipped, %lld without a caption, %lld captions "
            "without a video",
            job->videos, (long long)r->skipped, (long long)r->without_caption, (long long)r->without_video);
    return T3V_OK;
}

t3v_status t3v_latents_make(const t3v_latents_job *job, t3v_latents_result *result)
{
    maker m = {.job = job};
    m.inner = (t3v_progress){report_all, &m};
    *result = (t3v_latents_result){0};
    t3v_status st = make_all(&m, result);
    for (int64_t i = 0; i < m.videos; i++) {
        free(m.video[i].name);
        free(m.video[i].caption);
        free(m.video[i].reason);
        free(m.video[i].have);
    }
    free(m.video);
    free_names(&m.no_caption);
    free_names(&m.no_video);
    free(m.latent);
    free(m.packed);
    t3v_arena_close(&m.text);
    t3v_model_close(m.model);
    return st;
}
