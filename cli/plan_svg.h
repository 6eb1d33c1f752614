/* SPDX-License-Identifier: Apache-2.0 */
/* A picture of a plan. */
#ifndef T3V_CLI_PLAN_SVG_H
#define T3V_CLI_PLAN_SVG_H

#include "attn/plan.h"

/* An SVG of what the token `query` (t, h, w) sees: a row for each kind of layer, with the query's frame and the
 * frames of the clip. `title` is any text. E_ARG: no such token; E_IO, E_NOMEM. */
t3v_status cli_plan_svg_text(const t3v_plan *plan, const char *title, const int64_t query[3], char **text,
                             size_t *size); /* malloc'ed */
/* The same into a file, whole or not at all. */
t3v_status cli_plan_svg(const char *path, const t3v_plan *plan, const char *title, const int64_t query[3]);

#endif
