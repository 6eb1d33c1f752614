/* SPDX-License-Identifier: Apache-2.0 */
/* What a job starts from: the settings of each model family, and t3v.json, which overrides them. */
#include "pipe/defaults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "pipe/schedule.h"

/* Wan2.1, wan/configs/shared_config.py (Apache-2.0): see NOTICE. */
const char t3v_negative_prompt[] = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，"
                                   "整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
                                   "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态"
                                   "畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
                                   "三条腿，背景人很多，倒着走";

/* wan/configs of Wan2.1 and Wan2.2. */
void t3v_defaults_of(const t3v_dit_config *c, bool experts, t3v_defaults *d)
{
    t3v_dit_image_use image = t3v_dit_image_used(c);
    *d = (t3v_defaults){.width = 832,
                        .height = 480,
                        .frames = 81,
                        .steps = 50,
                        .fps = 16,
                        .shift = 5,
                        .cfg = 5,
                        .cfg_low = -1,
                        .sampler = "unipc",
                        .plan = "full",
                        .cfg_steps = "all",
                        .reuse = "off"};
    if (c->dim >= 5120) d->width = 1280, d->height = 720;
    if (image == T3V_DIT_IMAGE_FRAME) d->width = 1280, d->height = 704, d->frames = 121, d->fps = 24;
    if (image == T3V_DIT_IMAGE_CHANNELS) d->steps = 40;
    if (image == T3V_DIT_IMAGE_CHANNELS && !experts) d->shift_small = 3;
    if (experts) {
        bool i2v = image == T3V_DIT_IMAGE_CHANNELS;
        d->steps = 40;
        d->shift = i2v ? 5 : 12;
        d->boundary = i2v ? 0.9 : 0.875;
        d->cfg = i2v ? 3.5 : 4;
        d->cfg_low = i2v ? 3.5 : 3;
    }
    /* the image-to-video model of Wan2.1 also asks for a camera that does not shake */
    snprintf(d->negative, sizeof d->negative, "%s%s",
             image == T3V_DIT_IMAGE_CHANNELS && !experts ? "镜头晃动，" : "", t3v_negative_prompt);
}

t3v_status t3v_defaults_pipeline(const char *index, const char *scheduler, t3v_defaults *d)
{
    json_t *j = NULL;
    double shift = 0, none = 0;
    if (index) {
        T3V_TRY(t3v_json_load(&j, index));
        t3v_status st = t3v_json_real(j, index, "boundary_ratio", false, 0, 1,
                                      d->boundary > 0 ? &d->boundary : &none);
        json_decref(j);
        T3V_TRY(st);
    }
    if (!scheduler) return T3V_OK;
    T3V_TRY(t3v_json_load(&j, scheduler));
    t3v_status st = t3v_json_real(j, scheduler, "flow_shift", false, 0.01, 100, &shift);
    json_decref(j);
    if (shift > 0) {
        d->shift = shift;
        d->shift_small = 0;
    }
    return st;
}

static t3v_status copy_string(const json_t *j, const char *path, const char *key, char *dst, size_t n)
{
    const char *s = NULL;
    T3V_TRY(t3v_json_string(j, path, key, false, &s));
    if (!s) return T3V_OK;
    if (strlen(s) >= n) return t3v_fail(T3V_E_FORMAT, "%s: %s is longer than %zu bytes", path, key, n - 1);
    strcpy(dst, s);
    return T3V_OK;
}

t3v_status t3v_defaults_read(const char *path, t3v_defaults *d)
{
    if (!t3v_is_file(path)) return T3V_OK;
    json_t *j = NULL;
    T3V_TRY(t3v_json_load(&j, path));
    int grid = 0;
    if (json_object_get(j, "shift")) d->shift_small = 0;
    if (json_object_get(j, "cfg")) d->cfg_low = -1;
    t3v_status st = t3v_json_int(j, path, "width", false, 16, 1 << 16, &d->width);
    if (!st) st = t3v_json_int(j, path, "height", false, 16, 1 << 16, &d->height);
    if (!st) st = t3v_json_int(j, path, "frames", false, 1, 1 << 16, &d->frames);
    if (!st) st = t3v_json_int(j, path, "steps", false, 1, T3V_STEPS_MAX, &d->steps);
    if (!st) st = t3v_json_real(j, path, "fps", false, 1, 240, &d->fps);
    if (!st) st = t3v_json_real(j, path, "shift", false, 0.01, 100, &d->shift);
    if (!st) st = t3v_json_real(j, path, "cfg", false, 0, 100, &d->cfg);
    if (!st) st = t3v_json_real(j, path, "cfg_low", false, 0, 100, &d->cfg_low);
    if (!st) st = t3v_json_real(j, path, "boundary", false, 0, 1, &d->boundary);
    if (!st) st = copy_string(j, path, "sampler", d->sampler, sizeof d->sampler);
    if (!st) st = copy_string(j, path, "negative", d->negative, sizeof d->negative);
    if (!st) st = copy_string(j, path, "plan", d->plan, sizeof d->plan);
    if (!st) st = t3v_json_ints(j, path, "plan_grid", false, 1, 1 << 20, d->plan_grid, 3, &grid);
    if (!st) st = t3v_json_int(j, path, "dense_steps", false, 0, T3V_STEPS_MAX, &d->dense_steps);
    if (!st) st = copy_string(j, path, "cfg_steps", d->cfg_steps, sizeof d->cfg_steps);
    if (!st) st = copy_string(j, path, "reuse", d->reuse, sizeof d->reuse);
    if (!st && grid != 0 && grid != 3)
        st = t3v_fail(T3V_E_FORMAT, "%s: plan_grid has %d numbers, expected T, H, W", path, grid);
    json_decref(j);
    return st;
}

t3v_status t3v_defaults_write(const char *path, const t3v_defaults *d)
{
    json_t *j = json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:s, s:s}", "width", (json_int_t)d->width,
                          "height", (json_int_t)d->height, "frames", (json_int_t)d->frames, "steps",
                          (json_int_t)d->steps, "fps", d->fps, "shift", d->shift, "cfg", d->cfg, "sampler",
                          d->sampler, "negative", d->negative, "plan", d->plan);
    int bad = j == NULL;
    if (d->boundary > 0) bad |= json_object_set_new(j, "boundary", json_real(d->boundary));
    if (d->boundary > 0 && d->cfg_low >= 0) bad |= json_object_set_new(j, "cfg_low", json_real(d->cfg_low));
    if (d->plan_grid[0])
        bad |= json_object_set_new(j, "plan_grid",
                                   json_pack("[I, I, I]", (json_int_t)d->plan_grid[0],
                                             (json_int_t)d->plan_grid[1], (json_int_t)d->plan_grid[2]));
    if (d->dense_steps)
        bad |= json_object_set_new(j, "dense_steps", json_integer((json_int_t)d->dense_steps));
    if (d->cfg_steps[0] && strcmp(d->cfg_steps, "all") != 0)
        bad |= json_object_set_new(j, "cfg_steps", json_string(d->cfg_steps));
    if (d->reuse[0] && strcmp(d->reuse, "off") != 0)
        bad |= json_object_set_new(j, "reuse", json_string(d->reuse));
    char *text = !bad ? t3v_json_dumps(j, JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!text) return t3v_fail(T3V_E_NOMEM, "no memory to write %s", path);
    t3v_status st = t3v_write_text(path, text, strlen(text));
    free(text);
    return st;
}
