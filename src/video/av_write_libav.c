/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding through libav: the same frames give the same bytes on any number of cores. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/cpu.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

#include "video/av_module.h"

/* Encoders may split work by the number of threads and x264's choices depend on it: it is fixed, not
 * detected. */
#define ENCODER_THREADS 4

typedef struct codec_row {
    const char *name;
    const char *encoders[2]; /* first that this libavcodec has */
    enum AVPixelFormat format;
    int depth;           /* of the RGB it is made from */
    int quality;         /* default CRF; 0: the codec has none */
    const char *options; /* of the encoder, "k=v:k=v"; |: separates from those of the second encoder */
} codec_row;

static const codec_row codecs[] = {
    {"h264", {"libx264"}, AV_PIX_FMT_YUV420P, 8, 18, "preset=medium profile=high"},
    {"hevc",
     {"libx265"},
     AV_PIX_FMT_YUV420P10,
     16,
     20,
     "preset=medium profile=main10 x265-params=log-level=none:info=0:frame-threads=2"},
    {"av1",
     {"libsvtav1", "libaom-av1"},
     AV_PIX_FMT_YUV420P10,
     16,
     28,
     "preset=8 svtav1-params=lp=4|cpu-used=6 row-mt=1"},
    {"prores", {"prores_ks"}, AV_PIX_FMT_YUV422P10, 16, 0, "profile=hq vendor=apl0"},
    {"ffv1", {"ffv1"}, AV_PIX_FMT_0RGB32, 8, 0, "level=3 slices=16 slicecrc=1 g=1"},
};

typedef struct container_row {
    const char *ext, *muxer;
    const char *codecs[6]; /* that go into it; the first is the default */
} container_row;

static const container_row containers[] = {
    {".mp4", "mp4", {"h264", "hevc", "av1"}},
    {".m4v", "mp4", {"h264", "hevc", "av1"}},
    {".mov", "mov", {"prores", "h264", "hevc"}},
    {".mkv", "matroska", {"ffv1", "h264", "hevc", "av1", "prores"}},
    {".webm", "webm", {"av1"}},
};

typedef struct encoder {
    char *path;
    AVFormatContext *mux;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws;
    enum AVPixelFormat source;
    int64_t frames;
    bool header;
} encoder;

static void encoder_free(encoder *e)
{
    if (!e) return;
    sws_freeContext(e->sws);
    av_frame_free(&e->frame);
    av_packet_free(&e->packet);
    avcodec_free_context(&e->codec);
    if (e->mux) {
        if (e->mux->pb) avio_closep(&e->mux->pb);
        avformat_free_context(e->mux);
    }
    free(e->path);
    free(e);
}

static t3v_status choose(const char *path, const t3v_video_options *opt, const container_row **box,
                         const codec_row **codec)
{
    const char *ext = strrchr(path, '.'), *wanted = opt->codec;
    char list[96] = "";
    *box = NULL;
    *codec = NULL;
    for (size_t i = 0; i < sizeof containers / sizeof containers[0] && ext; i++)
        if (strcasecmp(ext, containers[i].ext) == 0) *box = &containers[i];
    if (!*box)
        return t3v_av_fail(T3V_E_ARG,
                           "'%s': the extension says the format; known are .mp4 .m4v .mov .mkv .webm .y4m "
                           ".png and '-' (y4m on stdout)",
                           path);
    if (!wanted) wanted = (*box)->codecs[0];
    if (strcmp(wanted, "h265") == 0) wanted = "hevc";
    bool fits = false;
    for (int i = 0; i < 6 && (*box)->codecs[i]; i++) {
        fits |= strcmp(wanted, (*box)->codecs[i]) == 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), " %s", (*box)->codecs[i]);
    }
    for (size_t i = 0; i < sizeof codecs / sizeof codecs[0] && fits; i++)
        if (strcmp(wanted, codecs[i].name) == 0) *codec = &codecs[i];
    if (!*codec)
        return t3v_av_fail(T3V_E_ARG, "codec '%s' does not go into %s; expected one of:%s", wanted,
                           (*box)->ext, list);
    return T3V_OK;
}

/* Sizes that the chroma subsampling cannot hold are refused, never padded: the file has exactly what was
 * asked. */
static t3v_status check_size(const codec_row *row, const t3v_video_options *opt)
{
    bool bad_w = opt->width % 2 && row->format != AV_PIX_FMT_0RGB32;
    bool bad_h = opt->height % 2 && row->format != AV_PIX_FMT_0RGB32 && row->format != AV_PIX_FMT_YUV422P10;
    if (bad_w || bad_h)
        return t3v_av_fail(
            T3V_E_ARG, "%s cannot hold %lldx%lld: %s must be even (ffv1 in .mkv, y4m and PNG take any size)",
            row->name, (long long)opt->width, (long long)opt->height, bad_w ? "the width" : "the height");
    return T3V_OK;
}

static t3v_status open_codec(encoder *e, const codec_row *row, const t3v_video_options *opt)
{
    const AVCodec *codec = NULL;
    int which = 0;
    for (; which < 2 && row->encoders[which] && !codec; which++)
        codec = avcodec_find_encoder_by_name(row->encoders[which]);
    if (!codec)
        return t3v_av_fail(T3V_E_UNSUPPORTED,
                           "this libavcodec has no encoder %s for %s; choose another codec", row->encoders[0],
                           row->name);
    AVCodecContext *c = e->codec = avcodec_alloc_context3(codec);
    if (!c) return t3v_av_fail(T3V_E_NOMEM, "no memory for the encoder of '%s'", e->path);
    bool rgb = row->format == AV_PIX_FMT_0RGB32;
    c->width = (int)opt->width;
    c->height = (int)opt->height;
    c->time_base = (AVRational){opt->fps_den, opt->fps_num};
    c->framerate = (AVRational){opt->fps_num, opt->fps_den};
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->pix_fmt = row->format;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = rgb ? AVCOL_TRC_IEC61966_2_1 : AVCOL_TRC_BT709;
    c->colorspace = rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    c->color_range = rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    /* Between the pixels: where swscale puts chroma, and where every reader built on it looks for it. */
    bool halved = row->format == AV_PIX_FMT_YUV420P || row->format == AV_PIX_FMT_YUV420P10;
    c->chroma_sample_location = halved ? AVCHROMA_LOC_CENTER : AVCHROMA_LOC_UNSPECIFIED;
    c->thread_count = ENCODER_THREADS;
    if (strcmp(row->name, "hevc") == 0 && strcmp(e->mux->oformat->name, "matroska") != 0)
        c->codec_tag = MKTAG('h', 'v', 'c', '1'); /* what players of Apple's want */
    if (e->mux->oformat->flags & AVFMT_GLOBALHEADER) c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (strcmp(codec->name, "prores_ks") == 0) c->bits_per_raw_sample = 10;

    const char *start = row->options, *bar = strchr(start, '|');
    if (which == 2 && bar) start = bar + 1;
    char text[160];
    snprintf(text, sizeof text, "%s", start);
    if (which == 1 && bar) text[bar - start] = 0;
    AVDictionary *options = NULL;
    int rc = av_dict_parse_string(&options, text, "=", " ", 0);
    /* x264 164 with AVX-512 lets memory it never wrote reach the macroblock tree when B frames are
     * references, so that a second run may give other bytes. Its AVX2 code does not. */
    if (strcmp(codec->name, "libx264") == 0 && av_get_cpu_flags() & AV_CPU_FLAG_AVX512)
        av_dict_set(&options, "x264-params", "asm=AVX2", 0);
    if (row->quality) av_dict_set_int(&options, "crf", opt->quality > 0 ? opt->quality : row->quality, 0);
    if (rc >= 0) rc = avcodec_open2(c, codec, &options);
    av_dict_free(&options);
    if (rc < 0)
        return t3v_av_fail(t3v_av_code(rc, T3V_E_ARG), "encoder %s refuses %dx%d at quality %d for '%s': %s",
                           codec->name, c->width, c->height, opt->quality > 0 ? opt->quality : row->quality,
                           e->path, t3v_av_text(rc));
    return T3V_OK;
}

/* RGB full range -> the codec's format. swscale's own choice would be BT.601, with rounding that
 * depends on the CPU. */
static t3v_status open_scaler(encoder *e, const codec_row *row, int width, int height)
{
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709);
    e->source = row->depth == 16 ? AV_PIX_FMT_RGB48 : AV_PIX_FMT_RGB24;
    e->sws = sws_alloc_context();
    if (!e->sws) return t3v_av_fail(T3V_E_NOMEM, "no memory to convert colours");
    av_opt_set_int(e->sws, "srcw", width, 0);
    av_opt_set_int(e->sws, "srch", height, 0);
    av_opt_set_int(e->sws, "src_format", e->source, 0);
    av_opt_set_int(e->sws, "dstw", width, 0);
    av_opt_set_int(e->sws, "dsth", height, 0);
    av_opt_set_int(e->sws, "dst_format", row->format, 0);
    av_opt_set_int(e->sws, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_FULL_CHR_H_INT | SWS_BITEXACT,
                   0);
    int full = row->format == AV_PIX_FMT_0RGB32;
    sws_setColorspaceDetails(e->sws, bt709, 1, bt709, full, 0, 1 << 16, 1 << 16);
    int rc = sws_init_context(e->sws, NULL, NULL);
    return rc < 0 ? t3v_av_fail(T3V_E_UNSUPPORTED, "cannot convert colours for %s: %s", row->name,
                                t3v_av_text(rc))
                  : T3V_OK;
}

static t3v_status open_muxer(encoder *e, const container_row *box, const char *temp,
                             const t3v_video_options *opt)
{
    int rc = avformat_alloc_output_context2(&e->mux, NULL, box->muxer, temp);
    if (rc < 0 || !(e->stream = avformat_new_stream(e->mux, NULL)))
        return t3v_av_fail(T3V_E_UNSUPPORTED, "this libavformat cannot write %s", box->ext);
    /* Matroska draws random identifiers unless told to be exact; mp4 told so drops its metadata, and is exact
     * anyway. */
    if (strcmp(box->muxer, "mp4") != 0 && strcmp(box->muxer, "mov") != 0)
        e->mux->flags |= AVFMT_FLAG_BITEXACT;
    for (int i = 0; i < opt->tag_count; i++)
        if (av_dict_set(&e->mux->metadata, opt->tags[i].key, opt->tags[i].value, 0) < 0)
            return t3v_av_fail(T3V_E_NOMEM, "no memory for the metadata of '%s'", e->path);
    return T3V_OK;
}

static t3v_status write_header(encoder *e, const char *temp)
{
    int rc = avcodec_parameters_from_context(e->stream->codecpar, e->codec);
    if (rc < 0) return t3v_av_fail(T3V_E_NOMEM, "no memory for '%s'", e->path);
    e->stream->time_base = e->codec->time_base;
    e->stream->avg_frame_rate = e->stream->r_frame_rate = e->codec->framerate;
    e->stream->sample_aspect_ratio = e->codec->sample_aspect_ratio;
    if ((rc = avio_open(&e->mux->pb, temp, AVIO_FLAG_WRITE)) < 0)
        return t3v_av_fail(T3V_E_IO, "cannot write '%s': %s", e->path, t3v_av_text(rc));
    AVDictionary *options = NULL;
    bool mov = strcmp(e->mux->oformat->name, "mp4") == 0 || strcmp(e->mux->oformat->name, "mov") == 0;
    if (mov) av_dict_set(&options, "movflags", "+faststart+use_metadata_tags+write_colr", 0);
    rc = avformat_write_header(e->mux, &options);
    av_dict_free(&options);
    if (rc < 0)
        return t3v_av_fail(t3v_av_code(rc, T3V_E_IO), "cannot write '%s': %s", e->path, t3v_av_text(rc));
    e->header = true;
    return T3V_OK;
}

t3v_status t3v_av_write_open(void **state, const char *temp, const char *path, const t3v_video_options *opt,
                             int *depth)
{
    const container_row *box;
    const codec_row *row;
    t3v_status st;
    char url[4096];
    T3V_TRY(choose(path, opt, &box, &row));
    T3V_TRY(check_size(row, opt));
    if (snprintf(url, sizeof url, "file:%s", temp) >= (int)sizeof url)
        return t3v_av_fail(T3V_E_ARG, "the output path is longer than %zu bytes", sizeof url);
    encoder *e = calloc(1, sizeof *e);
    if (!e || !(e->path = strdup(path)) || !(e->frame = av_frame_alloc()) ||
        !(e->packet = av_packet_alloc())) {
        st = t3v_av_fail(T3V_E_NOMEM, "no memory for a video writer");
        goto fail;
    }
    T3V_TRY_GOTO(st, fail, open_muxer(e, box, url, opt));
    T3V_TRY_GOTO(st, fail, open_codec(e, row, opt));
    T3V_TRY_GOTO(st, fail, open_scaler(e, row, e->codec->width, e->codec->height));
    T3V_TRY_GOTO(st, fail, write_header(e, url));
    *depth = row->depth;
    *state = e;
    return T3V_OK;
fail:
    encoder_free(e);
    return st;
}

/* Sends a frame (NULL: the end) and writes the packets that come out. */
static t3v_status encode(encoder *e, const AVFrame *frame)
{
    int rc = avcodec_send_frame(e->codec, frame);
    while (rc >= 0 && (rc = avcodec_receive_packet(e->codec, e->packet)) >= 0) {
        if (!e->packet->duration) e->packet->duration = 1; /* else the last frame has no length */
        av_packet_rescale_ts(e->packet, e->codec->time_base, e->stream->time_base);
        e->packet->stream_index = e->stream->index;
        rc = av_interleaved_write_frame(e->mux, e->packet);
        if (rc >= 0) rc = e->mux->pb->error;
        if (rc < 0)
            return t3v_av_fail(t3v_av_code(rc, T3V_E_IO), "cannot write '%s': %s", e->path, t3v_av_text(rc));
    }
    if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF) return T3V_OK;
    return t3v_av_fail(t3v_av_code(rc, T3V_E_INTERNAL), "encoding frame %lld of '%s': %s",
                       (long long)e->frames, e->path, t3v_av_text(rc));
}

t3v_status t3v_av_write(void *state, const void *rgb)
{
    encoder *e = state;
    AVCodecContext *c = e->codec;
    /* A fresh buffer each time: the encoder may still hold the last one. */
    av_frame_unref(e->frame);
    e->frame->format = c->pix_fmt;
    e->frame->width = c->width;
    e->frame->height = c->height;
    e->frame->color_range = c->color_range;
    e->frame->colorspace = c->colorspace;
    e->frame->color_primaries = c->color_primaries;
    e->frame->color_trc = c->color_trc;
    e->frame->chroma_location = c->chroma_sample_location;
    e->frame->sample_aspect_ratio = c->sample_aspect_ratio;
    if (av_frame_get_buffer(e->frame, 0) < 0)
        return t3v_av_fail(T3V_E_NOMEM, "no memory for a frame of '%s'", e->path);
    const uint8_t *source[4] = {rgb};
    int stride[4] = {c->width * (e->source == AV_PIX_FMT_RGB48 ? 6 : 3)};
    int rc = sws_scale(e->sws, source, stride, 0, c->height, e->frame->data, e->frame->linesize);
    if (rc < 0)
        return t3v_av_fail(T3V_E_INTERNAL, "converting a frame of '%s': %s", e->path, t3v_av_text(rc));
    e->frame->pts = e->frames;
    T3V_TRY(encode(e, e->frame));
    e->frames++;
    return T3V_OK;
}

t3v_status t3v_av_write_close(void *state, bool aborted)
{
    encoder *e = state;
    t3v_status st = T3V_OK;
    if (!aborted) {
        st = encode(e, NULL);
        int rc = st ? 0 : av_write_trailer(e->mux);
        int error = e->mux->pb->error, closed = avio_closep(&e->mux->pb);
        if (rc >= 0) rc = error < 0 ? error : closed;
        if (!st && rc < 0)
            st = t3v_av_fail(t3v_av_code(rc, T3V_E_IO), "cannot write '%s': %s", e->path, t3v_av_text(rc));
    }
    encoder_free(e);
    return st;
}
