/* SPDX-License-Identifier: Apache-2.0 */
/* T3V: from a prompt to a video.
 *
 *     t3v_output clip = {.prompt = "a heron lands on a frozen lake", .path = "heron.mp4"};
 *     t3v_job job = T3V_JOB_INIT;
 *     job.model = "Wan2.1-T2V-1.3B";
 *     job.output = &clip;
 *     job.outputs = 1;
 *     if (t3v_generate(&job, NULL)) fprintf(stderr, "%s\n", t3v_error_text());
 */
#ifndef T3V_T3V_H
#define T3V_T3V_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "t3v/dtype.h"
#include "t3v/log.h"
#include "t3v/status.h"
#include "t3v/version.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A decoded frame on its way to a sink. */
typedef struct t3v_frame {
    int64_t index, count;  /* which frame of how many, in order */
    int64_t width, height; /* pixels */
    double fps;
    /* [3, height, width] in [-1, 1]; planes and rows lie `plane` and `row` floats apart */
    const float *rgb;
    int64_t plane, row;
} t3v_frame;

typedef struct t3v_frame_sink {
    /* anything but T3V_OK ends the run with that status */
    t3v_status (*fn)(void *user, const t3v_frame *frame);
    void *user;
} t3v_frame_sink;

/* One clip to make. */
typedef struct t3v_output {
    const char *prompt; /* UTF-8 */
    const char *path;   /* the extension chooses the container */
    /* with fn set, gets the frames instead of a file; nothing is written and nothing resumed */
    t3v_frame_sink sink;
    uint64_t seed_offset; /* added to the job's seed */
} t3v_output;

/* Which transformer a LoRA is for: of Wan2.2 A14B's two experts the one for high noise or the one for low. */
typedef enum t3v_lora_for { T3V_LORA_FOR_ALL, T3V_LORA_FOR_HIGH, T3V_LORA_FOR_LOW } t3v_lora_for;

typedef struct t3v_lora_use {
    const char *path;
    double strength;
    t3v_lora_for expert;
} t3v_lora_use;

struct t3v_result;

/* What products of the transformer's layers are made in. */
typedef enum t3v_products {
    T3V_PRODUCTS_FLOAT, /* the job's type */
    T3V_PRODUCTS_INT8,  /* 8-bit integers, on the CPU: layers that all tokens go through */
    T3V_PRODUCTS_FP8,   /* 8-bit floats, on a GPU that has them: layers of the blocks */
} t3v_products;

const char *t3v_products_name(t3v_products p); /* "float", "int8", "fp8"; NULL: none of them */

/* What to generate. Zero (or NULL, or a negative number where zero means something) takes the default of the model:
 * t3v.json beside the weights, else the model family's. */
typedef struct t3v_job {
    const char *model; /* directory in the original Wan2.1 layout */
    /* files, when they are not in that directory; model_low: the expert for low noise of a model with two */
    const char *vae, *text_encoder, *tokenizer, *model_low, *clip;
    const char
        *image; /* a picture, or a video whose first frame counts: where the clip starts from; NULL: none */
    const t3v_output *output;
    int64_t outputs;
    const char *negative;
    const char *plan;      /* attention plan, e.g. "full" */
    int64_t width, height; /* pixels, even, at least 16 */
    int64_t frames;        /* 4n + 1 */
    double fps;
    int64_t steps;
    const char *sampler; /* euler, unipc, dpm++ */
    double shift;
    double cfg;            /* < 0: default; 1: no guidance, one pass a step */
    double cfg_low;        /* of the expert for low noise; < 0: cfg if that is given, else the default */
    const char *cfg_steps; /* guidance in these steps alone: "A-B", from 0; "all" */
    int64_t dense_steps;   /* the first steps that use plan "full" instead of `plan`; < 0: default */
    /* Which steps reuse what the blocks added before: "off", "steps:LIST" (those that run),
     * "teacache[:threshold=F,first=N,last=N]". */
    const char *reuse;
    uint64_t seed;
    const char *rng;   /* "philox" (default) or "torch" */
    const char *noise; /* file with the tensor `noise`, instead of a seed */
    const t3v_lora_use *lora;
    int64_t loras;
    bool merge_loras;        /* into copies of the weights, instead of on the fly */
    const char *save_latent; /* file for the final latent; NULL: not saved */
    bool resume;             /* go on from an interrupted run's state, if there is one */
    /* Seconds between saves of that state after steps; < 0: 10; 0: after every step. Within a pass on the CPU it is saved
     * every ten minutes, or this time if that is longer, and when the run is stopped. */
    double save_every;
    bool dry_run; /* compute nothing; report memory, work and time */
    const char *codec;
    int64_t tile_h, tile_w; /* VAE tile in pixels; 0: automatic; < 0: no tiles */
    int64_t memory_limit;   /* bytes; 0: what the machine has free */
    t3v_dtype compute;      /* T3V_BF16 or T3V_F32 */
    t3v_products products;
    const char *device; /* "cpu" (default), "cuda", or "auto": CUDA where it can be used */
    /* On a GPU: "resident", or "streamed": the transformer's blocks stay with the host and come one by one, as they are
     * needed. NULL: streamed where they do not fit. */
    const char *weights;
    t3v_progress progress;
    /* Called after each output that was made, with what making it took (peak_bytes: so far); anything but T3V_OK ends the
     * run. NULL: not called. */
    t3v_status (*made)(void *user, int64_t index, const struct t3v_result *result);
    void *made_user;
} t3v_job;

#define T3V_JOB_INIT                                                                             \
    {                                                                                            \
        .cfg = -1.0, .cfg_low = -1.0, .dense_steps = -1, .save_every = -1.0, .compute = T3V_BF16 \
    }

/* What was done (the last clip's), or would be done. */
typedef struct t3v_result {
    int64_t width, height, frames; /* of the video */
    int64_t grid[3];               /* tokens T, H, W */
    int64_t steps;
    int64_t steps_low; /* of these by the expert for low noise; 0: there is one transformer */
    bool both_experts; /* both stay in memory, as there is room and more than one clip to make */
    /* through the transformer's blocks, of one clip: to be made, or made by this run */
    int64_t passes;
    int64_t peak_bytes;        /* estimated by --dry-run, measured (VmHWM) otherwise */
    int64_t peak_device_bytes; /* of a GPU's memory, measured; 0: on the CPU */
    double flop;               /* of those passes */
    /* Where attention chooses its keys by content: the share of all pairs of queries and keys that met, averaged over such
     * layers, their heads and the passes of this run, and the least share that the plan counts. 0: nothing was chosen. */
    double density, density_counted;
    /* Measured; with --dry-run estimated for one clip from `flop` and a short measurement of the machine, without the
     * text encoder's. All 0: a CPU for which there is no estimate. */
    double seconds_text, seconds_denoise, seconds_decode;
} t3v_result;

/* Signal handlers that may run on the calling thread need SA_ONSTACK and sigaltstack: oneDNN's f32 products (seen with AVX2)
 * point the stack pointer into the heap, where a handler's frame overwrites what lies below.
 * Makes every output, in order; each part of the model is loaded once. A path that exists already is skipped when
 * `resume` is set. `result` may be NULL.
 * E_ARG: the request does not fit the model (the message says the nearest valid value); E_NOMEM: more memory than the
 * limit (the message says how much, and what to change); E_CANCEL: progress asked to stop, resume is possible. */
t3v_status t3v_generate(const t3v_job *job, t3v_result *result);

#ifdef __cplusplus
}
#endif
#endif
