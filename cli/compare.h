/* SPDX-License-Identifier: Apache-2.0 */
/* t3v compare: variants of one job, what they took, what came out. */
#ifndef T3V_CLI_COMPARE_H
#define T3V_CLI_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "eval/judge.h"
#include "io/prompts.h"
#include "t3v/t3v.h"

enum {
    COMPARE_VARIANTS = 32,
    COMPARE_LORAS = 8,
    COMPARE_NAME = 200,  /* bytes of a variant's name at most */
    COMPARE_SET = 8,     /* clips from which on distances between sets are measured */
    COMPARE_COLOURS = 8, /* of variants on the page, in a circle */
};

/* What the table has of a variant, described in compare_columns. */
typedef enum compare_key {
    COMPARE_SECONDS_A_STEP,
    COMPARE_SECONDS,
    COMPARE_MACS,
    COMPARE_ATTENTION_SHARE,
    COMPARE_DENSITY,
    COMPARE_PEAK_BYTES,
    COMPARE_VTC_S,
    COMPARE_VQA_S,
    COMPARE_PSNR,
    COMPARE_SSIM,
    COMPARE_FLICKER_ERROR,
    COMPARE_FLICKER,
    COMPARE_WARP_ERROR,
    COMPARE_SEAM,
    COMPARE_FRECHET,
    COMPARE_FRECHET_RENDERS,
    COMPARE_KEYS
} compare_key;

typedef struct compare_column {
    const char *key, *group, *title, *unit, *help; /* key: in compare.json */
    double scale;                                  /* from the unit of compare.json to that shown */
    int digits;                                    /* behind the point; < 0: so many that count */
    int better;                                    /* 1: more, -1: less, 0: near the first variant's */
    bool against; /* compares with the first variant, which itself has none */
    bool chart;
} compare_column;

extern const compare_column compare_columns[COMPARE_KEYS];

/* One clip of one variant. NaN: not measured. */
typedef struct compare_clip {
    char *path;                     /* of the file */
    double seconds_a_step, seconds; /* a denoising step; denoising and decoding */
    double density;  /* share of all pairs of queries and keys that met, where the plan chooses by content */
    double vtc, vqa; /* of procedural scenes */
    t3v_video_scores scores; /* against the first variant's clip */
} compare_clip;

typedef struct compare_variant {
    char *text;                            /* of --variant, cut into the strings below */
    const char *name, *plan, *model, *act; /* act NULL: as --act says */
    t3v_products products;                 /* what act says */
    char lora_path[COMPARE_LORAS][4096];
    t3v_lora_use lora[COMPARE_LORAS];
    int64_t loras;

    char *folder, *dir, *record; /* clips/NAME below the output directory; with it; the record of its runs */
    t3v_result expected;         /* of a dry run */
    compare_clip *clip;          /* [prompts] */
    double seconds_text;
    int64_t peak_bytes; /* 0: unknown */

    char plan_text[1024]; /* as it ran */
    char *picture;        /* SVG of that */
    int64_t tile[2];      /* pixels (height, width) of its smallest blocks; 0: it has none */
    int64_t attention_macs, attention_macs_full; /* of one pass */

    double value[COMPARE_KEYS];
    double vtc_sd, vqa_sd;
    t3v_video_scores scores; /* means over the clips */
} compare_variant;

typedef struct compare {
    const char *out;
    t3v_job job; /* what the variants share */
    t3v_prompts prompts;
    bool *scene; /* [prompts] the prompt is the caption of a procedural scene */
    compare_variant variant[COMPARE_VARIANTS];
    int variants;
    int64_t tile[2];      /* --tile; 0: the variant's own */
    int64_t inline_limit; /* bytes of clips that the page may hold itself */
    double fps;           /* of the first clip */
    double frechet_halves,
        frechet_renders_halves; /* between halves of the first variant's clips, of the renders */
} compare;

/* Reads "name=NAME,plan=PLAN,lora=FILE[:S],model=DIR,act=int8" (a plan may have commas) into the next variant. E_ARG has the
 * column. */
t3v_status compare_variant_add(compare *c, const char *text);
/* Once all are there and c->job.model is known: at least two, names that differ, places for their clips. */
t3v_status compare_variants_check(compare *c);

/* Makes the clips that are not there yet, each variant in a process of its own, after all of them have been checked by dry
 * runs. Returns CLI_OK or the exit status (the failure has been told). */
int compare_run(compare *c);

/* Scores all clips and fills in plans, pictures and the table. */
t3v_status compare_score(compare *c);

/* DIR/compare.json's text (malloc'ed). */
t3v_status compare_json(const compare *c, char **text);
/* DIR/index.html. */
t3v_status compare_page(const compare *c, const char *path);

/* What a column is in, and from there to what is shown: multiply-adds by the thousand as suits the largest. */
const char *compare_unit(const compare *c, compare_key key, double *scale);
/* What is shown for a value of a column: "1.234", "equal", "-"; into text[32]. */
const char *compare_value(const compare *c, int variant, compare_key key, char text[32]);

void compare_free(compare *c);

#endif
