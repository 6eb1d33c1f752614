/* SPDX-License-Identifier: Apache-2.0 */
/* Contact sheet: four moments of each of several clips in one picture. */
#ifndef T3V_EVAL_SHEET_H
#define T3V_EVAL_SHEET_H

#include <stdint.h>

#define T3V_SHEET_MOMENTS 4
#define T3V_SHEET_GAP 2 /* pixels between tiles and around them */

/* Size of the sheet of `clips` clips of h x w, in rows of `per_row` clips. */
void t3v_sheet_size(int64_t clips, int64_t per_row, int64_t h, int64_t w, int64_t *sheet_h, int64_t *sheet_w);

/* Puts clip `index` (video [3,frames,h,w] in [-1,1]) in its place; the clip with index 0 clears the sheet
 * [3,sheet_h,sheet_w] first, so it comes first. */
void t3v_sheet_put(float *sheet, int64_t clips, int64_t per_row, int64_t index, const float *video,
                   int64_t frames, int64_t h, int64_t w);

#endif
