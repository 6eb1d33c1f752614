/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the parts of a model by what the files of a directory hold, where no layout's names say it. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/names.h"
#include "pipe/location.h"
#include "text/tokenizer.h"

enum { FILES_MAX = 256, FEW = 4 };

typedef struct list {
    char *path[FILES_MAX];
    int count;
    bool failed;  /* no memory */
    char *broken; /* why the first file that could not be opened could not; NULL: all could */
} list;

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Of shards the first stands for all, or their index where they have one. */
static bool is_weights(const char *path)
{
    static const char *const tails[] = {".safetensors", ".safetensors.index.json", ".gguf", ".pth", ".pt",
                                        ".bin"};
    int number, count;
    size_t i = 0, n = sizeof tails / sizeof *tails;
    while (i < n && !ends_with(path, tails[i])) i++;
    if (i == n || !t3v_is_file(path)) return false;
    if (!t3v_shard_number(path, &number, &count)) return true;
    char *index = malloc(strlen(path) + 16);
    size_t stem = strlen(path) - strlen(tails[i]) - strlen("-00001-of-00001");
    if (index) sprintf(index, "%.*s%s.index.json", (int)stem, path, tails[i]);
    bool first = number == 1 && !(index && t3v_is_file(index));
    free(index);
    return first;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Files of weights in `dir` and, `deep` levels, below it; up to FILES_MAX. */
static void gather(list *l, const char *dir, int deep)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && !l->failed && l->count < FILES_MAX && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *path = t3v_path_join(dir, e->d_name);
        if (!path) l->failed = true;
        else if (is_weights(path)) l->path[l->count++] = path;
        else {
            if (deep && t3v_is_dir(path)) gather(l, path, deep - 1);
            free(path);
        }
    }
    if (d) closedir(d);
}

/* Which parts file i holds, as a set of bits by t3v_names_part; a broken file none. false: no memory to look. */
static bool parts_of(list *l, int i, unsigned *parts)
{
    t3v_tensor_file *f;
    *parts = 0;
    t3v_status st = t3v_tensors_open(&f, l->path[i]);
    if (st && !l->broken) l->broken = strdup(t3v_error_text());
    if (st) return st != T3V_E_NOMEM && l->broken;
    for (int p = 0; p < T3V_NAMES_PARTS; p++)
        if (t3v_names_told(f, (t3v_names_part)p)) *parts |= 1u << p;
    t3v_tensors_close(f);
    return true;
}

/* Where "high" or "low" of "high noise" stands in the last two names of a path; NULL: nowhere. */
static const char *noise_word(const char *path, const char *word)
{
    size_t n = strlen(word), slashes = 0;
    const char *from = path + strlen(path);
    while (from > path && (slashes += from[-1] == '/') < 2) from--;
    for (; *from; from++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)from[i]) == word[i]) i++;
        if (i < n) continue;
        const char *rest = from + n + (from[n] == '_' || from[n] == '-' || from[n] == ' ');
        static const char noise[] = "noise";
        for (i = 0; noise[i] && tolower((unsigned char)rest[i]) == noise[i];) i++;
        if (!noise[i]) return from;
    }
    return NULL;
}

/* `path` with "high" of "high noise" replaced by "low", in the same letters, or the other way round; malloc'ed. */
static char *other_expert(const char *path, bool low)
{
    static const char *const form[3][2] = {{"high", "low"}, {"High", "Low"}, {"HIGH", "LOW"}};
    size_t n = strlen(path), used = 0;
    const char *word = low ? "low" : "high", *last = noise_word(path, word);
    char *out = malloc(2 * n + 1);
    if (!out || !last) {
        free(out);
        return NULL;
    }
    for (const char *p = path; *p;) {
        int k = 2;
        while (k >= 0 && (p < last || strncmp(p, form[k][low], strlen(form[k][low])) != 0)) k--;
        if (k >= 0) used += (size_t)sprintf(out + used, "%s", form[k][!low]);
        else out[used++] = *p;
        p += k >= 0 ? strlen(form[k][low]) : 1;
    }
    out[used] = 0;
    return out;
}

bool t3v_location_pair(t3v_location *l)
{
    char *dit = l->path[T3V_AT_DIT];
    bool high = noise_word(dit, "high") != NULL, low = !high && noise_word(dit, "low") != NULL;
    if (l->path[T3V_AT_DIT_LOW] || (!high && !low)) return true;
    l->experts = true;
    char *other = other_expert(dit, low);
    if (!other) return false;
    if (!t3v_is_file(other)) {
        free(other);
        return true;
    }
    l->path[T3V_AT_DIT] = high ? dit : other;
    l->path[T3V_AT_DIT_LOW] = high ? other : dit;
    return true;
}

/* The one file of several; two transformers may be the experts of one model. */
static bool choose(t3v_location *l, t3v_place place, const list *files, const unsigned *parts, unsigned part)
{
    int of[FILES_MAX], n = 0;
    char names[512] = "";
    size_t used = 0, root = strlen(l->root);
    for (int i = 0; i < files->count; i++)
        if (parts[i] & part) of[n++] = i;
    if (n == 2 && place == T3V_AT_DIT) {
        const char *a = files->path[of[0]], *b = files->path[of[1]];
        bool first = noise_word(a, "high") && noise_word(b, "low");
        if (first || (noise_word(b, "high") && noise_word(a, "low"))) {
            l->experts = true;
            free(l->path[T3V_AT_DIT_LOW]); /* one whose other is not beside it */
            l->path[T3V_AT_DIT] = strdup(first ? a : b);
            l->path[T3V_AT_DIT_LOW] = strdup(first ? b : a);
            return l->path[T3V_AT_DIT] && l->path[T3V_AT_DIT_LOW];
        }
    }
    if (n == 1) return (l->path[place] = strdup(files->path[of[0]])) != NULL;
    for (int i = 0; i < n && i < FEW && used < sizeof names; i++) {
        const char *name = files->path[of[i]];
        if (strncmp(name, l->root, root) == 0 && name[root] == '/') name += root + 1;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", name);
    }
    if (n) l->several[place] = strdup(names);
    return !n || l->several[place];
}

t3v_status t3v_location_scan(t3v_location *l)
{
    static const struct {
        t3v_place place;
        t3v_names_part part;
    } wanted[] = {{T3V_AT_DIT, T3V_NAMES_DIT},
                  {T3V_AT_TEXT, T3V_NAMES_TEXT},
                  {T3V_AT_VAE, T3V_NAMES_VAE},
                  {T3V_AT_CLIP, T3V_NAMES_CLIP}};
    list *files = calloc(1, sizeof *files);
    unsigned parts[FILES_MAX];
    if (!files) return t3v_fail(T3V_E_NOMEM, "no memory to look into %s", l->root);
    gather(files, l->root, 2);
    qsort(files->path, (size_t)files->count, sizeof *files->path, by_text);
    bool ok = !files->failed;
    for (int i = 0; i < files->count && ok; i++) ok = parts_of(files, i, &parts[i]);
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted && ok; w++)
        if (!l->path[wanted[w].place]) ok = choose(l, wanted[w].place, files, parts, 1u << wanted[w].part);
    for (int i = 0; i < files->count; i++) free(files->path[i]);
    l->broken = files->broken;
    free(files);
    bool inside = false;
    if (ok && !l->path[T3V_AT_TOKENIZER] && l->path[T3V_AT_TEXT])
        ok = t3v_tokenizer_inside(l->path[T3V_AT_TEXT], &inside) == T3V_OK;
    if (ok && inside) ok = (l->path[T3V_AT_TOKENIZER] = strdup(l->path[T3V_AT_TEXT])) != NULL;
    return ok ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to look into %s", l->root);
}
