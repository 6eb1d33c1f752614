/* SPDX-License-Identifier: Apache-2.0 */
/* Between the core and the libav module (libt3v-av.so), which is opened at run time. */
#ifndef T3V_VIDEO_AV_H
#define T3V_VIDEO_AV_H

#include "t3v/log.h"
#include "video/backend.h"

#define T3V_AV_ABI 1

/* What the module may call. It links nothing of ours. */
typedef struct t3v_av_host {
    int abi;
    t3v_status (*fail)(t3v_status code, const char *message); /* records the message, returns code */
    void (*log)(t3v_log_level level, const char *line);
    int (*threads)(void);
} t3v_av_host;

typedef struct t3v_av_module {
    int abi;
    char versions[96]; /* of the libav libraries in use */
    t3v_video_backend backend;
} t3v_av_module;

/* The module's one exported function. NULL when it was built for another ABI. */
typedef const t3v_av_module *t3v_av_entry(const t3v_av_host *host);
#define T3V_AV_ENTRY_NAME "t3v_av_open"

#endif
