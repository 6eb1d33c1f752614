/* SPDX-License-Identifier: Apache-2.0 */
/* t3v data latents: a folder of videos with captions to latents and text contexts. */
#include <stdio.h>

#include "data.h"

t3v_status cli_data_latents(const cli_data_args *in, const cli_common *common)
{
    t3v_latents_job job = in->latents;
    t3v_latents_result r;
    t3v_progress progress = cli_progress();
    job.out = in->dir;
    job.width = in->width, job.height = in->height, job.frames = in->frames;
    job.fps = in->fps;
    job.seed = (uint64_t)in->seed;
    job.compute = common->bf16 ? T3V_BF16 : T3V_F32;
    job.progress = &progress;
    T3V_TRY(t3v_device_open(common->device, &job.paths.device));
    T3V_TRY(t3v_latents_make(&job, &r));
    if (common->json)
        printf("{\"clips\":%lld,\"made\":%lld,\"kept\":%lld,\"skipped\":%lld,\"without_caption\":%lld,"
               "\"without_video\":%lld}\n",
               (long long)r.clips, (long long)r.made, (long long)r.kept, (long long)r.skipped,
               (long long)r.without_caption, (long long)r.without_video);
    else printf("%s\n", job.out);
    return T3V_OK;
}
