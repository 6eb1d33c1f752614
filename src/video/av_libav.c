/* SPDX-License-Identifier: Apache-2.0 */
/* The libav module's entry: its table, its log. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

#include "video/av_module.h"

const t3v_av_host *t3v_av_core;

static t3v_av_module table = {
    .abi = T3V_AV_ABI,
    .backend = {"libav", t3v_av_write_open, t3v_av_write, t3v_av_write_close, t3v_av_read_open, t3v_av_read,
                t3v_av_read_close},
};

t3v_status t3v_av_fail(t3v_status code, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return t3v_av_core->fail(code, text);
}

void t3v_av_say(t3v_log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t3v_av_core->log(level, text);
}

const char *t3v_av_text(int code)
{
    static _Thread_local char text[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(code, text, sizeof text);
    return text;
}

t3v_status t3v_av_code(int code, t3v_status other)
{
    if (code == AVERROR(ENOMEM)) return T3V_E_NOMEM;
    if (code == AVERROR(EIO) || code == AVERROR(ENOSPC) || code == AVERROR(ENOENT) ||
        code == AVERROR(EACCES) || code == AVERROR(EPERM) || code == AVERROR(EROFS))
        return T3V_E_IO;
    return other;
}

/* What libav and the encoders chatter about is for debugging, but its errors explain ours. */
static void on_log(void *avcl, int level, const char *fmt, va_list ap)
{
    char line[1024];
    if (level > AV_LOG_INFO) return;
    vsnprintf(line, sizeof line, fmt, ap);
    size_t n = strlen(line);
    while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
    if (!n) return;
    const AVClass *class = avcl ? *(const AVClass *const *)avcl : NULL;
    t3v_av_say(level <= AV_LOG_ERROR ? T3V_LOG_WARN : T3V_LOG_DEBUG, "%s: %s",
               class ? class->item_name(avcl) : "libav", line);
}

__attribute__((visibility("default"))) const t3v_av_module *t3v_av_open(const t3v_av_host *host);

const t3v_av_module *t3v_av_open(const t3v_av_host *host)
{
    if (host->abi != T3V_AV_ABI) return NULL;
    t3v_av_core = host;
    av_log_set_callback(on_log);
    setenv("SVT_LOG", "1", 0); /* SVT-AV1 writes to stderr by itself; 1: errors only */
    unsigned f = avformat_version(), c = avcodec_version(), s = swscale_version();
    snprintf(table.versions, sizeof table.versions, "avformat %u.%u, avcodec %u.%u, swscale %u.%u", f >> 16,
             f >> 8 & 255, c >> 16, c >> 8 & 255, s >> 16, s >> 8 & 255);
    return &table;
}
