/* SPDX-License-Identifier: Apache-2.0 */
/* Prompt lists in JSON. */
#include "io/prompts.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"

enum { FILE_MAX = 64 << 20 };

static t3v_status read_item(t3v_prompt *to, const json_t *from, const char *path, size_t index)
{
    const char *text = json_string_value(json_object_get(from, "prompt_en"));
    const json_t *name = json_object_get(from, "data_file");
    const char *file = name ? json_string_value(name) : "";
    if (!text || !*text)
        return t3v_fail(T3V_E_FORMAT, "%s: entry %zu: prompt_en: expected a text", path, index);
    if (!file || !t3v_path_is_inside(file))
        return t3v_fail(T3V_E_FORMAT, "%s: entry %zu: data_file: expected a relative path without ..", path,
                        index);
    to->text = strdup(text);
    to->file = strdup(file);
    return to->text && to->file ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: out of memory", path);
}

t3v_status t3v_prompts_parse(t3v_prompts *p, const char *label, const void *text, size_t size)
{
    *p = (t3v_prompts){0};
    t3v_status st = T3V_OK;
    json_t *list;
    T3V_TRY(t3v_json_text(&list, label, 1, text, size));
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > T3V_PROMPTS_MAX) {
        st = t3v_fail(T3V_E_FORMAT, "%s: expected a list of at most %d {prompt_en, data_file}", label,
                      T3V_PROMPTS_MAX);
        goto done;
    }
    p->item = calloc(n ? n : 1, sizeof *p->item);
    if (!p->item) {
        st = t3v_fail(T3V_E_NOMEM, "%s: out of memory", label);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        p->count = (int64_t)i + 1;
        T3V_TRY_GOTO(st, done, read_item(&p->item[i], json_array_get(list, i), label, i));
    }
done:
    json_decref(list);
    if (st) t3v_prompts_free(p);
    return st;
}

t3v_status t3v_prompts_load(t3v_prompts *p, const char *path)
{
    char *text;
    size_t size;
    *p = (t3v_prompts){0};
    T3V_TRY(t3v_read_text(path, FILE_MAX, &text, &size));
    t3v_status st = t3v_prompts_parse(p, path, text, size);
    free(text);
    return st;
}

void t3v_prompts_free(t3v_prompts *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        free(p->item[i].text);
        free(p->item[i].file);
    }
    free(p->item);
    *p = (t3v_prompts){0};
}

t3v_status t3v_prompts_save(const t3v_prompts *p, const char *path)
{
    t3v_status st = T3V_E_NOMEM;
    char *text = NULL;
    int lost = t3v_json_lost();
    json_t *list = json_array();
    for (int64_t i = 0; list && i < p->count; i++) {
        json_t *o = json_pack("{s:s, s:s}", "prompt_en", p->item[i].text, "data_file", p->item[i].file);
        if (!o || json_array_append_new(list, o)) {
            st = t3v_json_lost() != lost
                     ? t3v_fail(T3V_E_NOMEM, "%s: out of memory", path)
                     : t3v_fail(T3V_E_FORMAT, "%s: entry %lld is not valid UTF-8", path, (long long)i);
            goto done;
        }
    }
    text = list ? t3v_json_dumps(list, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    st = text ? t3v_write_text(path, text, strlen(text)) : t3v_fail(T3V_E_NOMEM, "%s: out of memory", path);
done:
    free(text);
    json_decref(list);
    return st;
}
