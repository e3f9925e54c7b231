/* attention: softmax(scale q k^T) v per head, a block of queries at a time (attn.c says how). A
 * tile is one block of one head. Source of keeping only row statistics for the gradient: Dao 2023,
 * FlashAttention-2. */
#include "codegen/cpu/attn.h"

typedef struct {
  Val k, v, q, qt, scores, o, inverse; /* scratch */
} Space;

static Space space(Attn *a) {
  return (Space){attn_scratch(a, a->keys * a->ds),  attn_scratch(a, a->keys * a->ds),
                 attn_scratch(a, a->lanes * a->ds), attn_scratch(a, a->width * a->qs),
                 attn_scratch(a, a->keys * a->qs),  attn_scratch(a, a->queries * a->ds),
                 attn_scratch(a, a->lanes)};
}

/* scores become exp(scale s - most), times dropout; their sum before dropout is returned. Without
 * rounding they stay unnormalised: the output row is divided instead. */
static Val exponentials(Attn *a, Val scores, Val queries, Val limit, Val most,
                        const Dropout *drop) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl);
  Val sum = ll_var(g, ll_f(t, 0));
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_gep(g, a->c.sum, scores, ll_mul(g, s.i, ll_n(g, a->qs)));
  Val x = ll_fmul(g, ll_load(g, a->c.sum, a->c.vl, at, NULL), ll_f(t, a->scale));
  Val e = ll_exp(g, ll_fsub(g, x, most)), seen = attn_seen(a, queries, s.i);
  e = seen ? ll_sel(g, seen, e, ll_f(t, 0)) : e;
  ll_var_set(g, sum, ll_fadd(g, ll_var_get(g, sum), e));
  if (a->dropout && a->round == DT_COUNT)
    e = ll_fmul(g, e, attn_keep(a, drop, queries, s.i));
  ll_store(g, e, at, NULL);
  ll_loop_end(g, &s);
  return ll_var_get(g, sum);
}

/* P normalised and rounded, for strict numerics. */
static void round_scores(Attn *a, Val scores, Val queries, Val limit, Val inverse,
                         const Dropout *drop) {
  Gen *g = a->g;
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_gep(g, a->c.sum, scores, ll_mul(g, s.i, ll_n(g, a->qs)));
  Val p = ll_fmul(g, ll_load(g, a->c.sum, a->c.vl, at, NULL), inverse);
  if (a->dropout)
    p = ll_fmul(g, p, attn_keep(a, drop, queries, s.i));
  ll_store(g, ll_round(g, a->round, p), at, NULL);
  ll_loop_end(g, &s);
}

static void store_lse(Attn *a, const Heads *lse, Val q0, Val lane, Val count, Val v) {
  Gen *g = a->g;
  If some = ll_if(g, ll_icmp(g, LLVMIntSLT, lane, count));
  Val valid = ll_umin(g, ll_sub(g, count, lane), ll_n(g, a->c.vl));
  Val first = ll_mul(g, ll_add(g, q0, lane), ll_n(g, lse->row));
  Val at = ll_gep(g, ll_mem(g, lse->dt), lse->base, first);
  if (lse->row == 1)
    ll_put(g, lse->dt, v, at, valid);
  else
    ll_store_strided(g, ll_encode(g, lse->dt, v), at, ll_n(g, lse->row), valid);
  ll_endif(g, &some);
}

/* Scores to probabilities for all vectors of queries of the block. */
static void softmax(Attn *a, const Space *w, const Heads *lse, Val q0, Val count, Val limit,
                    const Dropout *drop) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl);
  Loop v = ll_loop(g, ll_n(g, 0), ll_n(g, a->lanes), a->c.vl);
  Val scores = ll_gep(g, a->c.sum, w->scores, v.i), queries = attn_query_lanes(a, q0, v.i), most;
  attn_normalizer(a, scores, queries, limit, &most);
  Val sum = exponentials(a, scores, queries, limit, most, drop);
  Val inverse = ll_fdiv(g, ll_f(t, 1), sum);
  store_lse(a, lse, q0, v.i, count, ll_fadd(g, most, ll_log(g, sum)));
  ll_store(g, inverse, ll_gep(g, a->c.sum, w->inverse, v.i), NULL);
  if (a->round != DT_COUNT)
    round_scores(a, scores, queries, limit, inverse, drop);
  /* The product below takes keys in pairs. */
  Val past = ll_gep(g, a->c.sum, scores, ll_mul(g, limit, ll_n(g, a->qs)));
  If odd = ll_if(g, ll_trunc(g, limit, g->i1));
  ll_store(g, ll_f(t, 0), past, NULL);
  ll_endif(g, &odd);
  ll_loop_end(g, &v);
}

bool cpu_attention(Gen *g, const Op *group) {
  Attn a;
  if (!attn_plan(&a, g, group, 0))
    return false;
  if (group->nout < 2)
    return gen_fail(g, "attention without lse");
  g->ntiles = a.N * a.H * a.blocks;
  Space w = space(&a);
  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val nh = ll_udiv(g, tile.i, a.blocks), n = ll_udiv(g, nh, a.H), h = ll_urem(g, nh, a.H);
  Val q0 = ll_mul(g, ll_urem(g, tile.i, a.blocks), ll_n(g, a.queries));
  Val count = ll_umin(g, ll_n(g, a.queries), ll_sub(g, ll_n(g, a.T), q0));
  Val limit = attn_limit(&a, q0, count);
  Val even = ll_and(g, ll_add(g, limit, ll_n(g, 1)), ll_n(g, ~(int64_t)1));
  Heads q = attn_in(&a, 0, n, h), k = attn_in(&a, 1, n, h), v = attn_in(&a, 2, n, h);
  Heads o = attn_out(&a, 0, n, h), lse = attn_out(&a, 1, n, h);
  Dropout drop = attn_dropout(&a, nh);
  Val zero = ll_n(g, 0);
  attn_read(&a, &q, q0, count, a.lanes, w.q);
  attn_transpose(&a, w.q, w.qt);
  attn_read(&a, &k, zero, ll_n(g, a.S), a.keys, w.k);
  attn_read(&a, &v, zero, ll_n(g, a.S), a.keys, w.v);
  attn_scores(&a, w.k, w.qt, w.scores, limit);
  softmax(&a, &w, &lse, q0, count, limit, &drop);
  attn_by_query(&a, w.scores, w.v, w.o, count, even);
  attn_write(&a, &o, q0, count, w.o, a.round == DT_COUNT ? w.inverse : NULL);
  ll_loop_end(g, &tile);
  return !g->error[0];
}
