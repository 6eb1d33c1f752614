/* SPDX-License-Identifier: Apache-2.0 */
/* compare_tensors A NAME B NAME LIMIT: relative L2 distance of two tensors in files; exit 1 above the limit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/tensors.h"

static double *load(const char *path, const char *name, int64_t *n)
{
    t3v_tensor_file *f = NULL;
    const t3v_tensor_entry *e;
    double *data = NULL;
    if (t3v_tensors_open(&f, path) || t3v_tensors_get(f, name, &e) ||
        !(data = malloc((size_t)e->numel * sizeof *data + 1)) || t3v_tensor_copy(e, data, T3V_F64)) {
        fprintf(stderr, "%s: %s\n", path, t3v_error_text());
        exit(1);
    }
    *n = e->numel;
    t3v_tensors_close(f);
    return data;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: compare_tensors A NAME B NAME LIMIT\n");
        return 2;
    }
    int64_t n, m;
    double *a = load(argv[1], argv[2], &n), *b = load(argv[3], argv[4], &m), d = 0, s = 0,
           limit = atof(argv[5]);
    if (n != m) {
        fprintf(stderr, "%s has %lld elements, %s has %lld\n", argv[2], (long long)n, argv[4], (long long)m);
        return 1;
    }
    for (int64_t i = 0; i < n; i++) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        s += b[i] * b[i];
    }
    d = sqrt(d / (s > 0 ? s : 1));
    printf("%-28s %.3g (limit %g)\n", argv[4], d, limit);
    free(a);
    free(b);
    return d <= limit ? 0 : 1;
}
