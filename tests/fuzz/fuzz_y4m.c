/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a y4m stream: frames or an error. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "video/backend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    void *state = NULL;
    t3v_video_info info = {0};
    FILE *f = fmemopen((void *)(uintptr_t)data, size, "rb");
    if (!f || t3v_y4m_read_stream(&state, f, "fuzz", &info)) return 0;
    uint8_t *rgb = malloc((size_t)(info.width * info.height * 3));
    bool eof = false;
    while (rgb && !t3v_video_y4m.read(state, rgb, &eof) && !eof) {
    }
    free(rgb);
    t3v_video_y4m.read_close(state);
    return 0;
}
