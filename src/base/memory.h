/* SPDX-License-Identifier: Apache-2.0 */
/* The memory that the program holds, and what a limit leaves. */
#ifndef T3V_BASE_MEMORY_H
#define T3V_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* *rest = `limit` less the resident bytes of the program (weights, libraries); limit 0: none, *rest = 0.
 * E_NOMEM when nothing is left. */
t3v_status t3v_memory_rest(int64_t limit, size_t *rest);

#endif
