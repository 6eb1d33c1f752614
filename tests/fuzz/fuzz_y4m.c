/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a y4m stream and as a PNG: frames or an error. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "video/backend.h"
#include "video/png.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    if (data[0] & 1) {
        uint8_t *rgb;
        int64_t w, h;
        /* Pictures of up to 2^27 pixels are allowed; here the first byte of each side's number is held at 0.
         */
        if (size > 25 && (data[17] | data[18] | data[21] | data[22])) return 0;
        t3v_png_decode(data + 1, size - 1, "fuzz", &rgb, &w, &h);
        free(rgb);
        return 0;
    }
    void *state = NULL;
    t3v_video_info info = {0};
    FILE *f = fmemopen((void *)(uintptr_t)(data + 1), size - 1, "rb");
    if (!f || t3v_y4m_read_stream(&state, f, "fuzz", &info)) return 0;
    uint8_t *rgb = malloc((size_t)(info.width * info.height * 3));
    bool eof = false;
    while (rgb && !t3v_video_y4m.read(state, rgb, &eof) && !eof) {
    }
    free(rgb);
    t3v_video_y4m.read_close(state);
    return 0;
}
