/* SPDX-License-Identifier: Apache-2.0 */
/* The distance between two sets of feature vectors, each taken for a normal distribution. */
#ifndef T3V_EVAL_FRECHET_H
#define T3V_EVAL_FRECHET_H

#include <stdint.h>

#include "base/status.h"

/* |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of a [na,dim] and b [nb,dim] (Dowson and Landau, 1982), with means m
 * and covariances A, B (over n - 1) whose off-diagonal elements are shrunk by n / (n + dim), n the smaller of na and
 * nb: so few vectors that the covariances would be singular still give a sane number, and both sets are treated alike.
 * Never negative. E_ARG: fewer than two vectors, dim outside 1..1024; E_NOMEM. */
t3v_status t3v_frechet(const double *a, int64_t na, const double *b, int64_t nb, int64_t dim, double *out);

/* Eigenvalues of the symmetric m [n,n] into value [n], unordered, its eigenvectors into the columns of v [n,n]; m is
 * destroyed. Cyclic Jacobi rotations until what is off the diagonal is below 1e-15 of the whole. */
void t3v_eigen_symmetric(double *m, int64_t n, double *value, double *v);

#endif
