/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs of passes: which passes have one, and when it is recorded. */
#include "dit/graph.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

/* Above, a launch (some microseconds) is nothing beside its kernel, and a pass is long enough to want cancelling. */
enum { TOKENS = 32768 };

/* Whether a site does the same in every step. */
static bool is_still(const t3v_site *site)
{
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].select) return false;
    for (int i = 0; i < site->rules; i++) {
        const t3v_when *w = &site->rule[i];
        if (w->step_modulus > 1 || w->step_first || w->step_last != INT32_MAX) return false;
    }
    return !site->epilogue;
}

static const char *refusal(const t3v_dit *dit, const t3v_dit_call *call)
{
    if (dit->stream) return "the blocks are streamed";
    if (call->watch || call->attention) return "self-attention is watched";
    for (int64_t i = 0; i < dit->config.layers; i++)
        for (int s = 0; s < T3V_SITES; s++)
            if (!is_still(&call->plan->layer[i].site[s]))
                return "attention depends on the step or on content";
    return NULL;
}

t3v_dit_graph *t3v_dit_graph_find(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call,
                                  const t3v_tensor *x, const t3v_dit_by_time *e0, const t3v_rope *rope,
                                  int64_t range)
{
    t3v_dit_graphs *g = call->graphs;
    const t3v_device *device = t3v_arena_device(ctx->arena);
    if (!g || !device || !t3v_runs(ctx) || ctx->tape || call->reuse || x->shape[0] > TOKENS) return NULL;
    const char *why = refusal(dit, call);
    if (why) {
        snprintf(g->why, sizeof g->why, "%s", why);
        return NULL;
    }
    t3v_dit_graph_key key;
    memset(&key, 0, sizeof key); /* compared by bytes */
    key.dit = dit, key.plan = call->plan, key.arena = ctx->arena->base, key.x = x->data;
    for (int i = 0; i < 2; i++) key.e0[i] = e0->of[i] ? e0->of[i]->data : NULL;
    key.text = call->prompt->k[0]->data, key.log_weight = call->prompt->log_weight;
    key.image = call->image ? call->image->k[0]->data : NULL, key.rope = rope->cos[0];
    key.mark = (int64_t)t3v_arena_mark(ctx->arena), key.tokens = x->shape[0], key.range = range;
    key.rows = call->prompt->rows, key.edge = e0->edge, key.compute = (int)ctx->compute;
    for (int i = 0; i < T3V_DIT_GRAPHS; i++)
        if (memcmp(&g->of[i].key, &key, sizeof key) == 0) return &g->of[i];
    t3v_dit_graph *fresh = &g->of[g->next++ % T3V_DIT_GRAPHS];
    if (fresh->graph) device->graph_free(fresh->graph);
    *fresh = (t3v_dit_graph){0};
    fresh->key = key;
    g->device = device;
    return fresh;
}

bool t3v_dit_graph_replay(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g)
{
    if (!g || !g->graph) return false;
    t3v_status st = t3v_report(call->progress, "blocks", 0, 1);
    if (!st) st = call->graphs->device->graph_run(g->graph);
    t3v_ctx_keep(ctx, st);
    call->graphs->replayed++;
    return true;
}

bool t3v_dit_graph_begin(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g)
{
    bool first = g && !g->seen;
    if (g) g->seen = true;
    return g && !first && !g->refused && !ctx->status && call->graphs->device->graph_begin();
}

bool t3v_dit_graph_end(t3v_ctx *ctx, const t3v_dit_call *call, t3v_dit_graph *g)
{
    t3v_dit_graphs *all = call->graphs;
    g->graph = all->device->graph_end(all->why, sizeof all->why);
    if (!g->graph || ctx->status) {
        if (g->graph) all->device->graph_free(g->graph);
        g->graph = NULL;
        g->refused = true;
        if (ctx->status == T3V_E_CANCEL) return true;
        t3v_debug("no graph of a pass: %s", all->why);
        ctx->status = T3V_OK;
        return false;
    }
    t3v_ctx_keep(ctx, all->device->graph_run(g->graph));
    return true;
}

void t3v_dit_graphs_close(t3v_dit_graphs *g)
{
    for (int i = 0; i < T3V_DIT_GRAPHS; i++)
        if (g->of[i].graph) g->device->graph_free(g->of[i].graph);
    *g = (t3v_dit_graphs){0};
}
