/* SPDX-License-Identifier: Apache-2.0 */
/* The version of T3V. */
#ifndef T3V_VERSION_H
#define T3V_VERSION_H
#define T3V_VERSION "0.1.0"
#endif
