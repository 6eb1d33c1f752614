/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a sampler: open, step in order, save, load, close; and the table of kinds. */
#include "sched/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "sched/kind.h"

static const t3v_sampler_kind *const kinds[] = {&t3v_sampler_euler, &t3v_sampler_unipc, &t3v_sampler_dpmpp};
enum { KINDS = sizeof kinds / sizeof kinds[0], MAX_STEPS = 10000 };

struct t3v_sampler {
    const t3v_sampler_kind *kind;
    int steps, next;
    double shift;
    int64_t n; /* elements of the run under way, 0 before the first */
    float *h[T3V_SAMPLER_PLANES];
    double *sigma, *time; /* [steps + 1], [steps] */
};

/* What a saved state begins with; the planes follow. */
typedef struct state_head {
    char magic[8], name[8];
    int64_t steps, next, n, planes;
    double shift;
} state_head;

const char *t3v_sampler_name(int i) { return i >= 0 && i < KINDS ? kinds[i]->name : NULL; }

static t3v_status check_grid(const t3v_sampler *s)
{
    for (int i = 0; i < s->steps; i++)
        if (!(s->sigma[i] > s->sigma[i + 1]))
            return t3v_fail(T3V_E_ARG,
                            "%s with %d steps and shift %g: noise levels %d and %d coincide (%.9g); "
                            "use fewer steps or a shift nearer to 1",
                            s->kind->name, s->steps, s->shift, i, i + 1, s->sigma[i]);
    if (s->kind->whole && s->steps > 1 && s->time[0] == s->time[1])
        return t3v_fail(T3V_E_ARG,
                        "%s with %d steps and shift %g: the first two timesteps are both %g; use fewer "
                        "steps, a smaller shift, or the euler sampler",
                        s->kind->name, s->steps, s->shift, s->time[0]);
    return T3V_OK;
}

t3v_status t3v_sampler_open(t3v_sampler **out, const char *name, int steps, double shift)
{
    *out = NULL;
    const t3v_sampler_kind *kind = NULL;
    for (int i = 0; i < KINDS; i++)
        if (!strcmp(name, kinds[i]->name)) kind = kinds[i];
    if (!kind) return t3v_fail(T3V_E_ARG, "sampler \"%s\" is unknown; known are euler, unipc, dpm++", name);
    if (steps < 1 || steps > MAX_STEPS)
        return t3v_fail(T3V_E_ARG, "steps is %d, expected 1 to %d", steps, MAX_STEPS);
    if (!(shift > 0) || !isfinite(shift))
        return t3v_fail(T3V_E_ARG, "shift is %g, expected a number above 0", shift);

    t3v_status st = T3V_E_NOMEM;
    t3v_sampler *s = calloc(1, sizeof *s);
    if (!s) return t3v_fail(st, "no memory for a sampler");
    *s = (t3v_sampler){.kind = kind, .steps = steps, .shift = shift};
    s->sigma = calloc((size_t)steps + 1, sizeof *s->sigma);
    s->time = calloc((size_t)steps, sizeof *s->time);
    if (!s->sigma || !s->time) {
        t3v_fail(st, "no memory for a schedule of %d steps", steps);
        goto fail;
    }
    kind->grid(s->sigma, s->time, steps, shift);
    T3V_TRY_GOTO(st, fail, check_grid(s));
    *out = s;
    return T3V_OK;
fail:
    t3v_sampler_close(&s);
    return st;
}

void t3v_sampler_close(t3v_sampler **s)
{
    if (!*s) return;
    for (int k = 0; k < T3V_SAMPLER_PLANES; k++) free((*s)->h[k]);
    free((*s)->sigma);
    free((*s)->time);
    free(*s);
    *s = NULL;
}

int t3v_sampler_steps(const t3v_sampler *s) { return s->steps; }
int t3v_sampler_next(const t3v_sampler *s) { return s->next; }

double t3v_sampler_sigma(const t3v_sampler *s, int i)
{
    T3V_ASSERT(i >= 0 && i <= s->steps);
    return s->sigma[i];
}

double t3v_sampler_timestep(const t3v_sampler *s, int i)
{
    T3V_ASSERT(i >= 0 && i < s->steps);
    return s->time[i];
}

/* History for n elements; what was there stays where n is unchanged. */
static t3v_status take_history(t3v_sampler *s, int64_t n)
{
    if (!t3v_sampler_state_size(s, n)) return t3v_fail(T3V_E_ARG, "a latent of %lld elements", (long long)n);
    if (s->n == n) return T3V_OK;
    float *h[T3V_SAMPLER_PLANES] = {0};
    for (int k = 0; k < s->kind->planes; k++)
        if (!(h[k] = malloc((size_t)n * sizeof(float)))) {
            for (int j = 0; j < k; j++) free(h[j]);
            return t3v_fail(T3V_E_NOMEM, "no memory for the history of %s over %lld elements", s->kind->name,
                            (long long)n);
        }
    for (int k = 0; k < T3V_SAMPLER_PLANES; k++) free(s->h[k]);
    memcpy(s->h, h, sizeof h);
    s->n = n;
    return T3V_OK;
}

t3v_status t3v_sampler_step(t3v_sampler *s, int i, float *x, const float *v, int64_t n)
{
    if (i < 0 || i >= s->steps || (i != 0 && i != s->next))
        return t3v_fail(T3V_E_ARG, "%s: step %d of %d, expected %d, or 0 to start anew", s->kind->name, i,
                        s->steps, s->next);
    if (i != 0 && n != s->n)
        return t3v_fail(T3V_E_ARG, "%s: step %d has %lld elements, step %d had %lld", s->kind->name, i,
                        (long long)n, i - 1, (long long)s->n);
    T3V_TRY(take_history(s, n));
    s->kind->step(s, i, x, v, s->h, n);
    s->next = i + 1;
    return T3V_OK;
}

size_t t3v_sampler_state_size(const t3v_sampler *s, int64_t n)
{
    int64_t bytes;
    if (n < 1 || !t3v_mul3(n, s->kind->planes, sizeof(float), &bytes) ||
        !t3v_add(bytes, sizeof(state_head), &bytes))
        return 0;
    return (size_t)bytes;
}

t3v_status t3v_sampler_state_save(const t3v_sampler *s, void *out, size_t size)
{
    if (!s->n || size != t3v_sampler_state_size(s, s->n))
        return t3v_fail(T3V_E_ARG, "%s: %zu bytes for the state of a run over %lld elements", s->kind->name,
                        size, (long long)s->n);
    state_head head = {.magic = "t3vsmpl",
                       .steps = s->steps,
                       .next = s->next,
                       .n = s->n,
                       .planes = s->kind->planes,
                       .shift = s->shift};
    memcpy(head.name, s->kind->name, strlen(s->kind->name));
    memcpy(out, &head, sizeof head);
    unsigned char *to = (unsigned char *)out + sizeof head;
    for (int k = 0; k < s->kind->planes; k++, to += (size_t)s->n * sizeof(float))
        memcpy(to, s->h[k], (size_t)s->n * sizeof(float));
    return T3V_OK;
}

t3v_status t3v_sampler_state_load(t3v_sampler *s, const void *in, size_t size)
{
    state_head head;
    char name[8] = {0};
    if (size < sizeof head) return t3v_fail(T3V_E_FORMAT, "a sampler state of %zu bytes is too short", size);
    memcpy(&head, in, sizeof head);
    memcpy(name, s->kind->name, strlen(s->kind->name));
    if (memcmp(head.magic, "t3vsmpl", 8) || memcmp(head.name, name, 8) || head.steps != s->steps ||
        head.shift != s->shift || head.planes != s->kind->planes)
        return t3v_fail(T3V_E_FORMAT, "the sampler state is not one of %s with %d steps and shift %g",
                        s->kind->name, s->steps, s->shift);
    if (head.next < 1 || head.next > s->steps || size != t3v_sampler_state_size(s, head.n))
        return t3v_fail(T3V_E_FORMAT,
                        "the sampler state is damaged: step %lld of %d, %lld elements in %zu bytes",
                        (long long)head.next, s->steps, (long long)head.n, size);
    T3V_TRY(take_history(s, head.n));
    const unsigned char *from = (const unsigned char *)in + sizeof head;
    for (int k = 0; k < s->kind->planes; k++, from += (size_t)s->n * sizeof(float))
        memcpy(s->h[k], from, (size_t)s->n * sizeof(float));
    s->next = (int)head.next;
    return T3V_OK;
}
