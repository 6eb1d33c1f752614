/* SPDX-License-Identifier: Apache-2.0 */
/* Between the core and the CUDA module (libt3v-cuda.so), which is opened at run time; and the choice of a device.
 *
 * A device is memory and kernels. Arenas opened in its space (t3v_device_space) hold values there, and ops on such an
 * arena call its kernels instead of the CPU's: the same contracts, pointers of the device. Nothing else knows of it. All
 * work of a device is done in the order in which it was asked for, and by one thread of the host. */
#ifndef T3V_CUDA_DEVICE_H
#define T3V_CUDA_DEVICE_H

#include <stddef.h>

#include "base/arena.h"
#include "t3v/log.h"

/* Grows whenever a table of this header or one that it points to changes. */
#define T3V_CUDA_ABI 6

struct t3v_fp8_args;

typedef struct t3v_device {
    t3v_space space;                        /* the first member: an arena's space is its device */
    char name[128];                         /* of the card, for people */
    const struct t3v_kernels *kernels;      /* ops/kernels.h */
    const struct t3v_seg_kernels *segments; /* attn/segments.h */
    void *stream;                           /* that these are launched in */
    /* Copies between host memory and the device's, in order with its kernels; the host's memory is free to use
     * afterwards. E_INTERNAL: something asked for earlier has failed. */
    t3v_status (*push)(void *to, const void *host, size_t bytes);
    t3v_status (*pull)(void *host, const void *from, size_t bytes);
    /* Waits until all work is done. E_INTERNAL says what failed. */
    t3v_status (*finish)(void);
    /* Bytes free now, and of the card. */
    void (*memory)(size_t *free_now, size_t *all);
    /* What this process took at most. */
    size_t (*peak)(void);
    /* Seconds on the device between the first and the second call of a pair; the first returns 0. */
    double (*time)(void);
    /* Multiply-adds per second of a large product of bf16 (or f32), and bytes per second of a large copy, measured now:
     * what a bench is a percentage of. 0: failed. */
    double (*peak_macs)(bool bf16);
    double (*peak_bytes)(void);
    /* Host memory that copies to the device start from at full speed and beside kernels; NULL: there is none. */
    void *(*pin)(size_t bytes);
    void (*unpin)(void *p);
    /* Copies beside the kernels, in T3V_LANES lanes. A lane's copy begins when all is over that was asked for before its
     * last mark; kernels that are asked for after a wait begin when the lane's copies are over. `pinned` must stay as it is
     * until lane_done, which the host waits in. E_INTERNAL: something asked for earlier has failed. */
    void (*lane_mark)(int lane);
    t3v_status (*lane_push)(int lane, void *to, const void *pinned, size_t bytes);
    void (*lane_wait)(int lane);
    t3v_status (*lane_done)(int lane);
    /* From begin (false: not now) to end, kernels and copies on the device are recorded, not run. End gives what was
     * recorded, to be run as a whole with the same addresses, or NULL, with the reason in why[n]: something asked for the host, or for
     * more memory, which then did nothing either. Free waits for runs of it. */
    bool (*graph_begin)(void);
    void *(*graph_end)(char *why, size_t n);
    t3v_status (*graph_run)(void *graph);
    void (*graph_free)(void *graph);
    t3v_status (*fp8)(const struct t3v_fp8_args *g); /* ops/fp8/fp8.h; NULL: the card has no such products */
} t3v_device;

enum { T3V_LANES = 2 };

typedef enum t3v_device_choice { T3V_DEVICE_CPU, T3V_DEVICE_CUDA, T3V_DEVICE_AUTO } t3v_device_choice;

/* "cpu", "cuda", "auto"; NULL: cpu. E_ARG: another. */
t3v_status t3v_device_parse(const char *text, t3v_device_choice *out);
/* *out: NULL for the CPU. AUTO falls back on it with a notice that says why. E_UNSUPPORTED: CUDA was asked for and there
 * is no module, no card, or one that does not do. Opened once per process. */
t3v_status t3v_device_open(t3v_device_choice choice, const t3v_device **out);

/* E_UNSUPPORTED, in words for who gave --act fp8: the CPU (NULL), or a card without products of 8-bit floats. */
t3v_status t3v_device_check_fp8(const t3v_device *d);

static inline const t3v_space *t3v_device_space(const t3v_device *d) { return d ? &d->space : NULL; }
static inline const t3v_device *t3v_arena_device(const t3v_arena *a)
{
    return (const t3v_device *)(const void *)a->space;
}

/* ---- the module's side ---------------------------------------------------------------------------------- */

/* What the module may call. It links nothing of ours. */
typedef struct t3v_cuda_host {
    int abi;
    t3v_status (*fail)(t3v_status code, const char *message); /* records the message, returns code */
    void (*log)(t3v_log_level level, const char *line);
} t3v_cuda_host;

/* The module's one exported function: the device, or NULL with the reason in why[n] (another ABI, no driver, no card). */
typedef const t3v_device *t3v_cuda_entry(const t3v_cuda_host *host, char *why, size_t n);
#define T3V_CUDA_ENTRY_NAME "t3v_cuda_open"

#endif
