/* SPDX-License-Identifier: Apache-2.0 */
/* Text and files inside HTML and SVG. */
#ifndef T3V_CLI_MARKUP_H
#define T3V_CLI_MARKUP_H

#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

/* Any text, so that it is text: < > & and both quotes as entities (it may stand in an attribute), control characters as
 * spaces. */
void cli_markup(FILE *f, const char *text);

/* data:TYPE;base64,... of n bytes, or of a file (E_IO). */
void cli_data_uri(FILE *f, const char *type, const void *data, size_t n);
t3v_status cli_data_uri_file(FILE *f, const char *type, const char *path);

#endif
