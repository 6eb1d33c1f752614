/* SPDX-License-Identifier: Apache-2.0 */
/* All launches of a pass's blocks as one graph of the device: where passes are short, launching takes longer than computing. The
 * first pass of a kind runs as ever, the second is recorded, the others replay it. What cannot be recorded says why. */
#ifndef T3V_DIT_GRAPH_H
#define T3V_DIT_GRAPH_H

#include "dit/dit.h"

enum { T3V_DIT_GRAPHS = 4 /* two branches, two plans */, T3V_DIT_GRAPH_WHY = 160 };

/* What the launches of a pass depend on; where two agree, so do these. */
typedef struct t3v_dit_graph_key {
    const void *dit, *plan, *arena, *x, *e0[2], *text, *log_weight, *image, *rope;
    int64_t mark, tokens, range, rows, edge;
    int compute;
} t3v_dit_graph_key;

typedef struct t3v_dit_graph {
    t3v_dit_graph_key key;
    bool seen;    /* a pass of this kind has run */
    bool refused; /* recording one did not work */
    void *graph;  /* of the device; NULL: not recorded */
} t3v_dit_graph;

/* Zero at first. A caller keeps it while the DiT, plans and prompts stay where they are. */
struct t3v_dit_graphs {
    const t3v_device *device;
    t3v_dit_graph of[T3V_DIT_GRAPHS];
    int next;
    int64_t replayed;            /* passes */
    char why[T3V_DIT_GRAPH_WHY]; /* the last reason against a graph; "": none */
};

/* The place of this pass: in g->of, or NULL where no graph is wanted (no device, many tokens) or none can be. */
t3v_dit_graph *t3v_dit_graph_find(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call,
                                  const t3v_tensor *x, const t3v_dit_by_time *e0, const t3v_rope *rope,
                                  int64_t range);
/* The pass as it was recorded. False: it was not. `g` may be NULL. */
bool t3v_dit_graph_replay(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g);
/* True: what is asked for from here on is recorded, not done, until t3v_dit_graph_end, which does it all. That gives false where
 * something could not be recorded: then nothing was done, the context is as before, and `g` is not tried again. */
bool t3v_dit_graph_begin(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g);
bool t3v_dit_graph_end(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g);

void t3v_dit_graphs_close(t3v_dit_graphs *g); /* zero again */

#endif
