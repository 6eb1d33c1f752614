/* SPDX-License-Identifier: Apache-2.0 */
/* Frechet distance, square roots of matrices by Jacobi's eigenvalues. */
#include "eval/frechet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIM_MAX = 1024, SWEEPS = 60 };

static void rotate(double *m, int64_t n, double *v, int64_t p, int64_t q)
{
    double off = m[p * n + q];
    if (off == 0) return;
    double theta = (m[q * n + q] - m[p * n + p]) / (2 * off);
    double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    for (int64_t k = 0; k < n; k++) {
        double a = m[k * n + p], b = m[k * n + q];
        m[k * n + p] = c * a - s * b;
        m[k * n + q] = s * a + c * b;
    }
    for (int64_t k = 0; k < n; k++) {
        double a = m[p * n + k], b = m[q * n + k];
        m[p * n + k] = c * a - s * b;
        m[q * n + k] = s * a + c * b;
        a = v[k * n + p];
        b = v[k * n + q];
        v[k * n + p] = c * a - s * b;
        v[k * n + q] = s * a + c * b;
    }
}

void t3v_eigen_symmetric(double *m, int64_t n, double *value, double *v)
{
    for (int64_t i = 0; i < n * n; i++) v[i] = i / n == i % n;
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double off = 0, all = 0;
        for (int64_t i = 0; i < n * n; i++) {
            all += m[i] * m[i];
            if (i / n != i % n) off += m[i] * m[i];
        }
        if (!(off > 1e-30 * all)) break;
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++) rotate(m, n, v, p, q);
    }
    for (int64_t i = 0; i < n; i++) value[i] = m[i * n + i];
}

static void moments(const double *x, int64_t count, int64_t dim, double keep, double *mean, double *cov)
{
    memset(mean, 0, (size_t)dim * sizeof *mean);
    memset(cov, 0, (size_t)(dim * dim) * sizeof *cov);
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; i < dim; i++) mean[i] += x[k * dim + i] / (double)count;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) {
            double sum = 0;
            for (int64_t k = 0; k < count; k++)
                sum += (x[k * dim + i] - mean[i]) * (x[k * dim + j] - mean[j]);
            cov[i * dim + j] = sum / (double)(count - 1) * (i == j ? 1 : keep);
        }
}

static void product(const double *a, const double *b, int64_t n, double *out)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            out[i * n + j] = sum;
        }
}

t3v_status t3v_frechet(const double *a, int64_t na, const double *b, int64_t nb, int64_t dim, double *out)
{
    if (na < 2 || nb < 2 || dim < 1 || dim > DIM_MAX)
        return t3v_fail(T3V_E_ARG,
                        "Frechet distance of %lld and %lld vectors of %lld numbers: expected at least 2 each",
                        (long long)na, (long long)nb, (long long)dim);
    int64_t n = dim, nn = n * n;
    double *work = malloc((size_t)(6 * nn + 3 * n) * sizeof *work);
    if (!work)
        return t3v_fail(T3V_E_NOMEM, "no memory for matrices of %lldx%lld", (long long)n, (long long)n);
    double *ca = work, *cb = ca + nn, *v = cb + nn, *root = v + nn, *t = root + nn, *m = t + nn;
    double *ma = m + nn, *mb = ma + n, *value = mb + n;
    double few = (double)(na < nb ? na : nb), keep = few / (few + (double)dim), sum = 0;
    moments(a, na, n, keep, ma, ca);
    moments(b, nb, n, keep, mb, cb);
    for (int64_t i = 0; i < n; i++) sum += (ma[i] - mb[i]) * (ma[i] - mb[i]) + ca[i * n + i] + cb[i * n + i];
    t3v_eigen_symmetric(ca, n, value, v);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double x = 0;
            for (int64_t k = 0; k < n; k++) x += v[i * n + k] * sqrt(fmax(value[k], 0)) * v[j * n + k];
            root[i * n + j] = x;
        }
    product(root, cb, n, t);
    product(t, root, n, m);
    t3v_eigen_symmetric(m, n, value, v);
    for (int64_t i = 0; i < n; i++) sum -= 2 * sqrt(fmax(value[i], 0));
    *out = fmax(sum, 0);
    free(work);
    return T3V_OK;
}
