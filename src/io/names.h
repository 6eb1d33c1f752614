/* SPDX-License-Identifier: Apache-2.0 */
/* The names that other layouts give the tensors of a model's parts, and the original ones, which the model code knows. */
#ifndef T3V_IO_NAMES_H
#define T3V_IO_NAMES_H

#include "io/tensors.h"

typedef enum t3v_names_part {
    T3V_NAMES_DIT,
    T3V_NAMES_TEXT,
    T3V_NAMES_VAE,
    T3V_NAMES_CLIP,
    T3V_NAMES_PARTS,
    T3V_NAMES_ANY = T3V_NAMES_PARTS /* the first of them that a file holds */
} t3v_names_part;

/* A name that begins with `theirs` becomes one that begins with `ours`; both end where the name ends or has a dot. '#' is
 * a whole number, the same on both sides. What follows is kept, or goes through `inner`, which must then have a rule for it.
 * The first rule that fits is taken. ours NULL: tensors that the model has no use for; they are left out. */
typedef struct t3v_names_rule {
    const char *theirs, *ours;
    const struct t3v_names_rule *inner; /* ends with theirs NULL */
    bool copy;                          /* another name of what an earlier rule names */
} t3v_names_rule;

typedef struct t3v_names {
    const char *layout; /* "diffusers", "diffusers 2.2", "transformers", "gguf", "original" */
    t3v_names_part part;
    const char *probe[2];        /* names by which it is told from the others; the second may be NULL */
    const t3v_names_rule *rules; /* NULL: the original names */
} t3v_names;

/* Every part's layouts, the original one of a part first; ends with layout NULL. */
extern const t3v_names t3v_names_known[];
const t3v_names *t3v_names_of(t3v_names_part part, const char *layout); /* NULL: not known */

enum { T3V_NAME_CAP = 256 };

typedef enum t3v_name_fate {
    T3V_NAME_UNKNOWN,
    T3V_NAME_MAPPED,
    T3V_NAME_COPY, /* mapped too; left out of a file that has the tensor under its usual name */
    T3V_NAME_LEFT_OUT
} t3v_name_fate;

/* The original name of a tensor, or of a module (a tensor's name without its last part), and the other way round.
 * MAPPED and COPY fill `out`. */
t3v_name_fate t3v_name_to_original(const t3v_names *n, const char *theirs, char out[T3V_NAME_CAP]);
bool t3v_name_from_original(const t3v_names *n, const char *ours, char out[T3V_NAME_CAP]);

/* CLIP's original names join queries, keys and values: the name of the k-th (0, 1, 2) of them alone, as the layouts that have
 * them apart map it. false: the tensor is not joined. */
bool t3v_name_split(const char *ours, int k, char out[T3V_NAME_CAP]);

/* The layout that the file's names tell for a part, with any known prefix; NULL: it does not hold that part. */
const t3v_names *t3v_names_told(const t3v_tensor_file *f, t3v_names_part part);

/* Gives the tensors of a file that holds this part their original names: a prefix that all have ("model.diffusion_model.",
 * "vae.", ...) is taken off, with the tensors of other parts that lie behind other prefixes, then the layout's names are
 * replaced. f->names tells the part and its layout; NULL when no name does, then nothing is changed. E_FORMAT: two tensors get
 * one name, or names of two layouts are mixed; the view is of no use then. */
t3v_status t3v_names_apply(t3v_tensor_file *f, t3v_names_part part);
/* The rest of it for who reads the numbers: an image encoder's queries, keys and values, which the original has in one matrix,
 * are copied into one. Other parts stay as they are. E_FORMAT, E_SHAPE, E_DTYPE, E_TOO_BIG. */
t3v_status t3v_names_join(t3v_tensor_file *f);

#endif
