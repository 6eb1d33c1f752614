/* SPDX-License-Identifier: Apache-2.0 */
/* Contact sheet of clips. */
#include "eval/sheet.h"

#include <string.h>

enum { MOMENTS = T3V_SHEET_MOMENTS, GAP = T3V_SHEET_GAP };

void t3v_sheet_size(int64_t clips, int64_t per_row, int64_t h, int64_t w, int64_t *sheet_h, int64_t *sheet_w)
{
    int64_t rows = (clips + per_row - 1) / per_row, columns = (clips < per_row ? clips : per_row) * MOMENTS;
    *sheet_h = rows * (h + GAP) + GAP;
    *sheet_w = columns * (w + GAP) + GAP;
}

void t3v_sheet_put(float *sheet, int64_t clips, int64_t per_row, int64_t index, const float *video,
                   int64_t frames, int64_t h, int64_t w)
{
    int64_t sh, sw;
    t3v_sheet_size(clips, per_row, h, w, &sh, &sw);
    if (index == 0)
        for (int64_t i = 0; i < 3 * sh * sw; i++) sheet[i] = 1;
    int64_t top = GAP + index / per_row * (h + GAP), left = GAP + index % per_row * MOMENTS * (w + GAP);
    for (int64_t k = 0; k < MOMENTS; k++) {
        int64_t frame = k * (frames - 1) / (MOMENTS - 1);
        for (int64_t c = 0; c < 3; c++)
            for (int64_t y = 0; y < h; y++)
                memcpy(sheet + (c * sh + top + y) * sw + left + k * (w + GAP),
                       video + ((c * frames + frame) * h + y) * w, (size_t)w * sizeof *video);
    }
}
