/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding through libav: local files only, a short list of containers, colours by the stream's tags. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/mem.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#include "video/av_module.h"

/* No playlists, no raw text, nothing that opens other files. */
#define FORMATS                                                                                           \
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,ivf,obu,h264,hevc,m4v,flv,ogg,nut,asf,mxf,gif,apng," \
    "yuv4mpegpipe"

typedef struct decoder {
    char *path;
    AVFormatContext *demux;
    AVCodecContext *codec;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws;
    int stream, turn;  /* turn: quarter turns clockwise to show the picture upright */
    int width, height; /* of the first frame, as stored */
    /* What `sws` was made for. */
    int src_w, src_h, src_format, src_space, src_range;
    uint8_t *stored; /* [height] rows of `stride` bytes; padded, for swscale writes past the end of a row */
    int stride;
    int64_t frames, end;  /* end: of the last frame, in the stream's time base */
    bool draining, first; /* first: `frame` holds the frame decoded by open */
    bool warned;
} decoder;

void t3v_av_read_close(void *state)
{
    decoder *d = state;
    if (!d) return;
    sws_freeContext(d->sws);
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->codec);
    avformat_close_input(&d->demux);
    av_freep(&d->stored);
    free(d->path);
    free(d);
}

/* The largest picture wins, a default mark is worth 5 million pixels; cover images do not count. */
static int best_stream(const AVFormatContext *f)
{
    int best = -1;
    int64_t best_score = -1;
    for (unsigned i = 0; i < f->nb_streams; i++) {
        const AVStream *s = f->streams[i];
        const AVCodecParameters *p = s->codecpar;
        if (p->codec_type != AVMEDIA_TYPE_VIDEO || s->disposition & AV_DISPOSITION_ATTACHED_PIC) continue;
        if (!avcodec_find_decoder(p->codec_id)) continue;
        int64_t score = (int64_t)p->width * p->height +
                        (s->disposition & AV_DISPOSITION_DEFAULT ? 5000000 : 0);
        if (score > best_score) {
            best = (int)i;
            best_score = score;
        }
    }
    return best;
}

static t3v_status open_stream(decoder *d)
{
    AVDictionary *options = NULL;
    char url[4096];
    if (snprintf(url, sizeof url, "file:%s", d->path) >= (int)sizeof url)
        return t3v_av_fail(T3V_E_ARG, "the video's path is longer than %zu bytes", sizeof url);
    av_dict_set(&options, "format_whitelist", FORMATS, 0);
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    int rc = avformat_open_input(&d->demux, url, NULL, &options);
    av_dict_free(&options);
    if (rc < 0)
        return t3v_av_fail(
            t3v_av_code(rc, T3V_E_FORMAT),
            "cannot open '%s' as a video: %s (not a video file, or cut before its index was written?)",
            d->path, t3v_av_text(rc));
    rc = avformat_find_stream_info(d->demux, NULL);
    if (rc < 0)
        return t3v_av_fail(t3v_av_code(rc, T3V_E_FORMAT), "cannot read the streams of '%s': %s", d->path,
                           t3v_av_text(rc));
    d->stream = best_stream(d->demux);
    if (d->stream < 0)
        return t3v_av_fail(T3V_E_FORMAT,
                           "'%s' has no video stream that can be decoded (%u streams, format %s)", d->path,
                           d->demux->nb_streams, d->demux->iformat->name);
    for (unsigned i = 0; i < d->demux->nb_streams; i++)
        if ((int)i != d->stream) d->demux->streams[i]->discard = AVDISCARD_ALL;
    return T3V_OK;
}

static t3v_status open_decoder(decoder *d)
{
    const AVStream *s = d->demux->streams[d->stream];
    const AVCodec *codec = avcodec_find_decoder(s->codecpar->codec_id);
    if (!(d->codec = avcodec_alloc_context3(codec)))
        return t3v_av_fail(T3V_E_NOMEM, "no memory to decode '%s'", d->path);
    int rc = avcodec_parameters_to_context(d->codec, s->codecpar);
    d->codec->thread_count = t3v_av_core->threads();
    d->codec->max_pixels = T3V_VIDEO_MAX_PIXELS;
    d->codec->pkt_timebase = s->time_base;
    if (rc >= 0) rc = avcodec_open2(d->codec, codec, NULL);
    if (rc < 0)
        return t3v_av_fail(t3v_av_code(rc, T3V_E_FORMAT), "cannot decode '%s' (%s): %s", d->path, codec->name,
                           t3v_av_text(rc));
    return T3V_OK;
}

/* Some containers end without an error where the file was cut. Where the picture is all there is, the end of
 * its last frame must be the end that the header promises; beside sound, it may be shorter. */
static t3v_status check_end(decoder *d)
{
    const AVStream *s = d->demux->streams[d->stream];
    AVRational frame = av_inv_q(s->avg_frame_rate.num > 0 ? s->avg_frame_rate : s->r_frame_rate);
    if (d->end == AV_NOPTS_VALUE || frame.num <= 0 || frame.den <= 0 || d->demux->duration <= 0 ||
        d->demux->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE || d->demux->nb_streams > 1)
        return T3V_OK;
    int64_t start = d->demux->start_time == AV_NOPTS_VALUE ? 0 : d->demux->start_time;
    double want = (double)d->demux->duration / AV_TIME_BASE;
    double got = (double)d->end * av_q2d(s->time_base) - (double)start / AV_TIME_BASE;
    if (got > want - 1.5 * av_q2d(frame)) return T3V_OK;
    return t3v_av_fail(T3V_E_FORMAT, "'%s' is cut off after %lld frames: it ends at %.2f s of %.2f s",
                       d->path, (long long)d->frames, got, want);
}

/* The next decoded frame into d->frame. */
static t3v_status decode(decoder *d, bool *eof)
{
    *eof = false;
    for (;;) {
        int rc = avcodec_receive_frame(d->codec, d->frame);
        if (rc >= 0) {
            if ((d->frame->decode_error_flags || d->frame->flags & AV_FRAME_FLAG_CORRUPT) && !d->warned) {
                t3v_av_say(T3V_LOG_WARN, "video '%s': frame %lld is damaged, the decoder filled in", d->path,
                           (long long)d->frames);
                d->warned = true;
            }
            int64_t at = d->frame->best_effort_timestamp;
            if (at != AV_NOPTS_VALUE) d->end = at + d->frame->pkt_duration;
            return T3V_OK;
        }
        if (rc == AVERROR_EOF) {
            *eof = true;
            return d->frames ? check_end(d) : T3V_OK;
        }
        if (rc != AVERROR(EAGAIN))
            return t3v_av_fail(t3v_av_code(rc, T3V_E_FORMAT), "cannot decode '%s' after %lld frames: %s",
                               d->path, (long long)d->frames, t3v_av_text(rc));
        rc = av_read_frame(d->demux, d->packet);
        if (rc == AVERROR_EOF && d->demux->pb && d->demux->pb->error < 0) rc = d->demux->pb->error;
        if (rc == AVERROR_EOF && !d->draining) {
            d->draining = true;
            rc = avcodec_send_packet(d->codec, NULL);
        } else if (rc >= 0) {
            rc = d->packet->stream_index == d->stream ? avcodec_send_packet(d->codec, d->packet) : 0;
            av_packet_unref(d->packet);
        }
        if (rc < 0)
            return t3v_av_fail(t3v_av_code(rc, T3V_E_FORMAT),
                               "'%s' is damaged or cut off after %lld frames: %s", d->path,
                               (long long)d->frames, t3v_av_text(rc));
    }
}

/* Colour conversion for the frame at hand, made anew when its format changes; frames of another size are
 * scaled to the first one's. An untagged stream is BT.601 limited and chroma sits between the pixels, as
 * ffmpeg takes it; unlike its default conversion, this one interpolates chroma and rounds (measured: 1.1
 * levels less bias). */
static t3v_status prepare_scaler(decoder *d)
{
    const AVFrame *f = d->frame;
    if (d->sws && f->width == d->src_w && f->height == d->src_h && f->format == d->src_format &&
        (int)f->colorspace == d->src_space && (int)f->color_range == d->src_range)
        return T3V_OK;
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(f->format);
    if (!desc || !sws_isSupportedInput(f->format) || f->width < 1 || f->height < 1)
        return t3v_av_fail(T3V_E_UNSUPPORTED, "'%s' has pixel format %s, which cannot be converted to RGB",
                           d->path, desc ? desc->name : "unknown");
    if (d->sws && (f->width != d->src_w || f->height != d->src_h))
        t3v_av_say(T3V_LOG_WARN, "video '%s': frame %lld is %dx%d, scaled to %dx%d of the first", d->path,
                   (long long)d->frames, f->width, f->height, d->width, d->height);
    sws_freeContext(d->sws);
    if (!(d->sws = sws_alloc_context())) return t3v_av_fail(T3V_E_NOMEM, "no memory to convert colours");
    av_opt_set_int(d->sws, "srcw", f->width, 0);
    av_opt_set_int(d->sws, "srch", f->height, 0);
    av_opt_set_int(d->sws, "src_format", f->format, 0);
    av_opt_set_int(d->sws, "dstw", d->width, 0);
    av_opt_set_int(d->sws, "dsth", d->height, 0);
    av_opt_set_int(d->sws, "dst_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(d->sws, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_FULL_CHR_H_INT | SWS_BITEXACT,
                   0);
    /* The numbers of AVColorSpace that have a matrix are those of SWS_CS_*. */
    bool rgb = desc->flags & AV_PIX_FMT_FLAG_RGB;
    bool full = f->color_range == AVCOL_RANGE_JPEG || rgb || strncmp(desc->name, "yuvj", 4) == 0;
    const int *matrix = sws_getCoefficients(f->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT
                                                                                   : (int)f->colorspace);
    sws_setColorspaceDetails(d->sws, matrix, full, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16,
                             1 << 16);
    int rc = sws_init_context(d->sws, NULL, NULL);
    if (rc < 0)
        return t3v_av_fail(T3V_E_UNSUPPORTED, "cannot convert the colours of '%s': %s", d->path,
                           t3v_av_text(rc));
    d->src_w = f->width;
    d->src_h = f->height;
    d->src_format = f->format;
    d->src_space = (int)f->colorspace;
    d->src_range = (int)f->color_range;
    return T3V_OK;
}

/* Quarter turns from the container's display matrix. */
static int quarter_turns(const AVStream *s)
{
    size_t size = 0;
    const uint8_t *matrix = av_stream_get_side_data(s, AV_PKT_DATA_DISPLAYMATRIX, &size);
    if (!matrix || size < 9 * sizeof(int32_t)) return 0;
    double degrees = -av_display_rotation_get((const int32_t *)(const void *)matrix);
    return isnan(degrees) ? 0 : (int)((lrint(degrees / 90) % 4 + 4) % 4);
}

t3v_status t3v_av_read_open(void **state, const char *path, t3v_video_info *info)
{
    t3v_status st;
    bool eof;
    decoder *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(path)) || !(d->frame = av_frame_alloc()) ||
        !(d->packet = av_packet_alloc())) {
        st = t3v_av_fail(T3V_E_NOMEM, "no memory for a video reader");
        goto fail;
    }
    d->end = AV_NOPTS_VALUE;
    T3V_TRY_GOTO(st, fail, open_stream(d));
    T3V_TRY_GOTO(st, fail, open_decoder(d));
    T3V_TRY_GOTO(st, fail, decode(d, &eof));
    if (eof) {
        st = t3v_av_fail(T3V_E_FORMAT, "video '%s' has no frames", path);
        goto fail;
    }
    const AVStream *s = d->demux->streams[d->stream];
    d->first = true;
    d->width = d->frame->width;
    d->height = d->frame->height;
    if (d->width < 1 || d->height < 1 || d->width > T3V_VIDEO_MAX_SIDE || d->height > T3V_VIDEO_MAX_SIDE) {
        st = t3v_av_fail(T3V_E_TOO_BIG, "video '%s' is %dx%d; at most %d a side", path, d->width, d->height,
                         T3V_VIDEO_MAX_SIDE);
        goto fail;
    }
    d->turn = quarter_turns(s);
    d->stride = (d->width * 3 + 127) & ~63;
    if (!(d->stored = av_malloc((size_t)d->stride * ((size_t)d->height + 1)))) {
        st = t3v_av_fail(T3V_E_NOMEM, "no memory for a frame of '%s'", path);
        goto fail;
    }
    T3V_TRY_GOTO(st, fail, prepare_scaler(d));
    if (s->sample_aspect_ratio.num > 1 && s->sample_aspect_ratio.num != s->sample_aspect_ratio.den)
        t3v_av_say(T3V_LOG_WARN, "video '%s': pixels are not square (%d:%d), taken as they are", path,
                   s->sample_aspect_ratio.num, s->sample_aspect_ratio.den);
    info->width = d->turn % 2 ? d->height : d->width;
    info->height = d->turn % 2 ? d->width : d->height;
    info->frames = s->nb_frames > 0 ? s->nb_frames : -1;
    AVRational fps = s->avg_frame_rate.num > 0 && s->avg_frame_rate.den > 0 ? s->avg_frame_rate
                                                                            : s->r_frame_rate;
    info->fps_num = fps.num > 0 && fps.den > 0 ? fps.num : 0;
    info->fps_den = fps.num > 0 && fps.den > 0 ? fps.den : 1;
    snprintf(info->codec, sizeof info->codec, "%s", avcodec_get_name(s->codecpar->codec_id));
    *state = d;
    return T3V_OK;
fail:
    t3v_av_read_close(d);
    return st;
}

/* dst [.,.,3] = the h rows of src turned clockwise by `turn` quarters. */
static void turn_picture(const uint8_t *src, int64_t stride, int64_t w, int64_t h, int turn, uint8_t *dst)
{
    if (turn == 0) {
        for (int64_t y = 0; y < h; y++) memcpy(dst + y * w * 3, src + y * stride, (size_t)w * 3);
        return;
    }
    int64_t dw = turn % 2 ? h : w;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t tx = turn == 1 ? h - 1 - y : turn == 2 ? w - 1 - x : y;
            int64_t ty = turn == 1 ? x : turn == 2 ? h - 1 - y : w - 1 - x;
            memcpy(dst + (ty * dw + tx) * 3, src + y * stride + x * 3, 3);
        }
}

t3v_status t3v_av_read(void *state, uint8_t *rgb, bool *eof)
{
    decoder *d = state;
    *eof = false;
    if (!d->first) {
        av_frame_unref(d->frame);
        T3V_TRY(decode(d, eof));
        if (*eof) return T3V_OK;
    }
    d->first = false;
    T3V_TRY(prepare_scaler(d));
    uint8_t *target[4] = {d->stored};
    int stride[4] = {d->stride};
    int rc = sws_scale(d->sws, (const uint8_t *const *)d->frame->data, d->frame->linesize, 0,
                       d->frame->height, target, stride);
    if (rc < 0)
        return t3v_av_fail(T3V_E_INTERNAL, "converting frame %lld: %s", (long long)d->frames,
                           t3v_av_text(rc));
    turn_picture(d->stored, d->stride, d->width, d->height, d->turn, rgb);
    d->frames++;
    return T3V_OK;
}
