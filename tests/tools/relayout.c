/* SPDX-License-Identifier: Apache-2.0 */
/* relayout dit|text|vae LAYOUT IN OUT [PREFIX [SPIECE_MODEL]]: a checkpoint of the original layout under another's names,
 * each with PREFIX in front, with a tokenizer as tensor spiece_model, as a safetensors file, or GGUF if OUT ends so. OUT of the
 * form NAME-00001-of-0000N.gguf: split into that many files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/gguf_write.h"
#include "io/names.h"
#include "io/safetensors.h"

static void stop(const char *what)
{
    fprintf(stderr, "relayout: %s: %s\n", what, t3v_error_text());
    exit(1);
}

static void write_gguf(const char *path, const t3v_tensor_entry *e, int64_t n, t3v_gguf_keys keys)
{
    t3v_gguf_writer *w;
    if (t3v_gguf_begin(&w, path, &keys, e, n)) stop(path);
    for (int64_t i = 0; i < n; i++)
        if (t3v_gguf_append(w, e[i].data, (size_t)e[i].nbytes)) stop(path);
    if (t3v_gguf_finish(w)) stop(path);
    t3v_gguf_keys_free(&keys);
}

/* As many tensors in each file, with what gguf-split says of them. */
static void write_ggufs(const char *path, const t3v_tensor_entry *e, int64_t n)
{
    int number, files;
    char *name = strdup(path);
    if (!name) stop("no memory");
    if (!t3v_shard_number(path, &number, &files)) files = 1;
    for (int i = 0; i < files; i++) {
        t3v_gguf_keys keys = {0};
        int64_t first = n * i / files, end = n * (i + 1) / files;
        if (files > 1) {
            t3v_gguf_u32(&keys, "split.no", (uint32_t)i);
            t3v_gguf_u32(&keys, "split.count", (uint32_t)files);
            t3v_gguf_u32(&keys, "split.tensors.count", (uint32_t)n);
            char *at = strrchr(name, '.') - strlen("00001-of-00001");
            sprintf(at, "%05d-of-%05d.gguf", i + 1, files);
        }
        write_gguf(name, e + first, end - first, keys);
    }
    free(name);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: relayout dit|text|vae LAYOUT IN OUT [PREFIX [SPIECE_MODEL]]\n");
        return 2;
    }
    t3v_names_part part = strcmp(argv[1], "dit") == 0    ? T3V_NAMES_DIT
                          : strcmp(argv[1], "text") == 0 ? T3V_NAMES_TEXT
                                                         : T3V_NAMES_VAE;
    const t3v_names *to = t3v_names_of(part, argv[2]);
    const char *prefix = argc > 5 ? argv[5] : "";
    t3v_tensor_file *f = NULL;
    t3v_map spiece = {0};
    if (!to || t3v_tensors_open(&f, argv[3]) || t3v_names_apply(f, part) || t3v_names_join(f)) stop(argv[3]);
    t3v_tensor_entry *e = calloc((size_t)f->count + 1, sizeof *e);
    char(*name)[2 * T3V_NAME_CAP] = calloc((size_t)f->count + 1, sizeof *name);
    if (!e || !name) stop("no memory");
    int64_t n = f->count;
    for (int64_t i = 0; i < n; i++) {
        char theirs[T3V_NAME_CAP];
        e[i] = f->tensors[i];
        if (to->rules && !t3v_name_from_original(to, e[i].name, theirs)) stop(e[i].name);
        snprintf(name[i], sizeof name[i], "%s%s", prefix, to->rules ? theirs : e[i].name);
        e[i].name = name[i];
    }
    if (argc > 6) {
        if (t3v_map_open(&spiece, argv[6])) stop(argv[6]);
        e[n++] = (t3v_tensor_entry){.name = "spiece_model",
                                    .dtype = T3V_U8,
                                    .ndim = 1,
                                    .shape = {(int64_t)spiece.size},
                                    .data = spiece.data};
    }
    const char *ending = strrchr(argv[4], '.');
    if (ending && strcmp(ending, ".gguf") == 0) write_ggufs(argv[4], e, n);
    else if (t3v_safetensors_write(argv[4], e, n, NULL, 0)) stop(argv[4]);
    t3v_map_close(&spiece);
    t3v_tensors_close(f);
    free(e);
    free(name);
    return 0;
}
