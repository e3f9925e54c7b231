/* attention_grad: gradients of q, k, v from the output and its row statistics. A tile is one head
 * of keys: the blocks of all queries that read it in order, dk and dv summed in scratch. Per block,
 * with keys x queries arrays: P = exp(scale s - lse), Pd = P keep, dP = v do^T keep, dS = scale P
 * (dP - rowsum(do o)); dv += Pd do, dk += dS q, dq = dS^T k. Source: Dao 2023, FlashAttention-2,
 * algorithm 2. Of codes, Pd and dS are codes as well, and scales wait until results are written. An
 * lse stored in fewer bits than the sums is too coarse and is computed again from the scores. */
#include "codegen/cpu/attn.h"

#include <float.h>
#include <math.h>

enum { IN_DO, IN_O, IN_LSE, IN_Q, IN_K, IN_V };

typedef struct {
  Val k, q, dout;     /* of products with P and dS */
  Val ku, v, qu, dou; /* units of products that make scores, which may be the same */
  Val qt, doutt, p, ds, dk, dv, dq, shift, norm;
} Space;

static Space space(Attn *a) {
  int64_t by_key = a->keys * a->ds, by_lane = a->lanes * a->ds, turned = a->swidth * a->qs;
  const Val k = attn_scratch(a, by_key), q = attn_scratch(a, by_lane),
            dout = attn_scratch(a, by_lane);
  return (Space){.k = k,
                 .q = q,
                 .dout = dout,
                 .ku = a->pairs ? attn_scratch(a, a->keys * a->ss) : k,
                 .v = attn_scratch(a, a->keys * a->ss),
                 .qu = a->pairs ? attn_scratch(a, a->lanes * a->ss) : q,
                 .dou = a->pairs ? attn_scratch(a, a->lanes * a->ss) : dout,
                 .qt = attn_scratch(a, turned),
                 .doutt = attn_scratch(a, turned),
                 .p = attn_scratch(a, a->keys * a->qs),
                 .ds = attn_scratch(a, a->keys * a->qs),
                 .dk = attn_scratch(a, by_key),
                 .dv = attn_scratch(a, by_key),
                 .dq = attn_scratch(a, by_lane),
                 .shift = attn_scratch(a, a->lanes),
                 .norm = attn_scratch(a, a->lanes)};
}

/* What one block works on. */
typedef struct {
  Val q0, count, lanes, limit, even;
  Heads o, lse;
  Dropout drop;
  Val n, h;
} Block;

/* shift[query] = sum over d of do o; zero for padding. */
static void row_sums(Attn *a, const Space *w, const Block *b) {
  Gen *g = a->g;
  Loop r = ll_loop(g, ll_n(g, 0), b->lanes, 1);
  Val to = ll_gep(g, a->c.sum, w->shift, r.i), row = ll_mul(g, r.i, ll_n(g, a->ds));
  ll_store(g, ll_f(a->c.sum, 0), to, NULL);
  If some = ll_if(g, ll_icmp(g, LLVMIntSLT, r.i, b->count));
  ll_store(g, attn_dot(a, &b->o, ll_add(g, b->q0, r.i), ll_gep(g, a->c.sum, w->dout, row)), to,
           NULL);
  ll_endif(g, &some);
  ll_loop_end(g, &r);
}

/* norm[query] from memory; zero for padding. */
static void read_norms(Attn *a, const Space *w, const Block *b) {
  Gen *g = a->g;
  Loop r = ll_loop(g, ll_n(g, 0), b->lanes, 1);
  Val to = ll_gep(g, a->c.sum, w->norm, r.i);
  ll_store(g, ll_f(a->c.sum, 0), to, NULL);
  If some = ll_if(g, ll_icmp(g, LLVMIntSLT, r.i, b->count));
  Val at = ll_mul(g, ll_add(g, b->q0, r.i), ll_n(g, b->lse.row));
  Val v = ll_get(g, b->lse.dt, 1, ll_gep(g, ll_mem(g, b->lse.dt), b->lse.base, at), NULL);
  ll_store(g, micro_convert(g, &a->c, v), to, NULL);
  ll_endif(g, &some);
  ll_loop_end(g, &r);
}

static bool too_coarse(const Attn *a, const Block *b) {
  return b->lse.dt != a->c.acc;
}

/* norm of a vector of queries from their scores. */
static Val compute_norm(Attn *a, Val scores, Val queries, Val limit) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl);
  Val most, sum = ll_var(g, ll_f(t, 0));
  attn_normalizer(a, scores, queries, limit, &most);
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_gep(g, a->c.sum, scores, ll_mul(g, s.i, ll_n(g, a->qs)));
  Val x = attn_logits(a, ll_load(g, a->c.sum, a->c.vl, at, NULL));
  Val e = ll_exp(g, ll_fsub(g, x, most)), seen = attn_seen(a, queries, s.i);
  e = seen ? ll_sel(g, seen, e, ll_f(t, 0)) : e;
  ll_var_set(g, sum, ll_fadd(g, ll_var_get(g, sum), e));
  ll_loop_end(g, &s);
  return ll_fadd(g, most, ll_log(g, ll_var_get(g, sum)));
}

/* p: scores to Pd; ds: dP without dropout to dS, for one vector of queries. */
static void score_gradients(Attn *a, const Space *w, const Block *b, Val v) {
  Gen *g = a->g;
  Ty t = ll_vec(a->c.sum, a->c.vl), e = a->c.sum;
  Val queries = attn_query_lanes(a, b->q0, v), p0 = ll_gep(g, e, w->p, v);
  Val ds0 = ll_gep(g, e, w->ds, v), norm, own = attn_vector_limit(a, b->q0, v, b->limit);
  if (too_coarse(a, b))
    norm = compute_norm(a, p0, queries, own);
  else
    norm = ll_load(g, e, a->c.vl, ll_gep(g, e, w->norm, v), NULL);
  if (a->mask_in) /* a query that sees nothing */
    norm = ll_sel(g, ll_fcmp(g, LLVMRealOEQ, norm, ll_f(t, -INFINITY)), ll_f(t, 0), norm);
  Val shift = ll_load(g, e, a->c.vl, ll_gep(g, e, w->shift, v), NULL);
  if (a->codes) /* in units of the product of codes, as dP is; 0 stays 0 where the scale is tiny */
    shift =
        ll_fmul(g, shift,
                ll_splat(g, ll_fmin(g, ll_fdiv(g, ll_f(e, 1), a->sv), ll_f(e, FLT_MAX)), a->c.vl));
  Loop s = ll_loop(g, ll_n(g, 0), own, 1);
  Val at = ll_mul(g, s.i, ll_n(g, a->qs)), p_at = ll_gep(g, e, p0, at);
  Val ds_at = ll_gep(g, e, ds0, at), seen = attn_seen(a, queries, s.i);
  Val x = attn_logits(a, ll_load(g, e, a->c.vl, p_at, NULL));
  Val p = ll_exp(g, ll_fsub(g, x, norm)), dp = ll_load(g, e, a->c.vl, ds_at, NULL);
  p = seen ? ll_sel(g, seen, p, ll_f(t, 0)) : p;
  Val pd = attn_rounded(a, p, &b->drop, queries, s.i);
  if (a->dropout)
    dp = ll_fmul(g, dp, attn_keep(a, &b->drop, queries, s.i));
  Val ds =
      ll_fmul(g, ll_fmul(g, p, ll_f(t, a->codes ? a->ds_scale : a->scale)), ll_fsub(g, dp, shift));
  /* What a query does not see must not turn zero into NaN. */
  ds = seen ? ll_sel(g, seen, ds, ll_f(t, 0)) : ds;
  ds = a->codes ? ll_round(g, a->ds_format, ds) : ds;
  ll_store(g, pd, p_at, NULL);
  ll_store(g, ds, ds_at, NULL);
  ll_loop_end(g, &s);
  Loop z = ll_loop(g, own, attn_padded(a, b->limit), 1);
  Val row = ll_mul(g, z.i, ll_n(g, a->qs));
  ll_store(g, ll_f(t, 0), ll_gep(g, e, p0, row), NULL);
  ll_store(g, ll_f(t, 0), ll_gep(g, e, ds0, row), NULL);
  ll_loop_end(g, &z);
}

static void clear(Attn *a, Val to, int64_t elems) {
  Gen *g = a->g;
  Loop i = ll_loop(g, ll_n(g, 0), ll_n(g, elems), a->c.vl);
  ll_store(g, ll_f(ll_vec(a->c.sum, a->c.vl), 0), ll_gep(g, a->c.sum, to, i.i), NULL);
  ll_loop_end(g, &i);
}

/* What the product of codes of dS with codes of inverse scale `other` is multiplied by. */
static Val unit_of_ds(Attn *a, Val other) {
  Gen *g = a->g;
  if (!a->codes)
    return NULL;
  Val unit = ll_fmul(g, ll_fmul(g, a->sdo, a->sv), other);
  return ll_fmul(g, unit, ll_f(a->c.sum, a->scale / a->ds_scale));
}

static void grad_block(Attn *a, const Space *w, const Block *b, const Heads *q, const Heads *dout,
                       const Heads *dq) {
  Gen *g = a->g;
  attn_read(a, q, dq, b->q0, b->count, b->lanes, w->q);
  attn_read(a, dout, &b->o, b->q0, b->count, b->lanes, w->dout);
  if (a->pairs) {
    attn_read_units(a, q, NULL, b->q0, b->count, b->lanes, w->qu);
    attn_read_units(a, dout, NULL, b->q0, b->count, b->lanes, w->dou);
  }
  attn_transpose(a, w->qu, b->lanes, w->qt);
  attn_transpose(a, w->dou, b->lanes, w->doutt);
  row_sums(a, w, b);
  if (!too_coarse(a, b))
    read_norms(a, w, b);
  attn_scores(a, w->ku, w->qt, w->p, b->lanes, b->limit, b->q0);
  attn_mask(a, w->p, b->n, b->h, b->q0, b->count, b->limit);
  attn_scores(a, w->v, w->doutt, w->ds, b->lanes, b->limit, b->q0);
  Loop v = ll_loop(g, ll_n(g, 0), b->count, a->c.vl);
  score_gradients(a, w, b, v.i);
  ll_loop_end(g, &v);
  attn_by_key(a, w->p, w->dout, w->dv, b->count, b->limit, b->q0);
  attn_by_key(a, w->ds, w->q, w->dk, b->count, b->limit, b->q0);
  attn_by_query(a, w->ds, w->k, w->dq, b->count, b->even, b->q0);
  attn_write(a, dq, b->q0, b->count, w->dq, NULL, unit_of_ds(a, a->sk));
}

/* All blocks of the queries of one head. */
static void grad_head(Attn *a, const Space *w, Val n, Val h) {
  Gen *g = a->g;
  Heads q = attn_in(a, IN_Q, n, h), dout = attn_in(a, IN_DO, n, h), dq = attn_out(a, 0, n, h);
  Block b = {.o = attn_in(a, IN_O, n, h), .lse = attn_in(a, IN_LSE, n, h), .n = n, .h = h};
  b.drop = attn_dropout(a, ll_add(g, ll_mul(g, n, ll_n(g, a->H)), h));
  Loop q0 = ll_loop(g, ll_n(g, 0), ll_n(g, a->T), a->queries);
  b.q0 = q0.i;
  b.count = ll_umin(g, ll_n(g, a->queries), ll_sub(g, ll_n(g, a->T), q0.i));
  b.limit = attn_limit(a, q0.i, b.count);
  b.lanes = attn_lanes(a, b.count);
  b.even = attn_round_up(a, b.limit, 2);
  grad_block(a, w, &b, &q, &dout, &dq);
  ll_loop_end(g, &q0);
}

bool cpu_attention_grad(Gen *g, const Op *group) {
  Attn a;
  if (!attn_plan(&a, g, group, IN_Q))
    return false;
  if (group->nout < 3)
    return gen_fail(g, "attention_grad without three results");
  int64_t kv = a.H / a.share;
  g->ntiles = a.N * kv;
  Space w = space(&a);
  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val n = ll_udiv(g, tile.i, kv), group_of = ll_urem(g, tile.i, kv), zero = ll_n(g, 0);
  Val keys = ll_n(g, a.S), h0 = ll_mul(g, group_of, ll_n(g, a.share));
  Heads k = attn_in(&a, IN_K, n, h0), v = attn_in(&a, IN_V, n, h0);
  Heads dk = attn_out(&a, 1, n, group_of), dv = attn_out(&a, 2, n, group_of);
  attn_read(&a, &k, &dk, zero, keys, ll_n(g, a.keys), w.k);
  attn_read_units(&a, &v, &dv, zero, keys, ll_n(g, a.keys), w.v);
  if (a.pairs)
    attn_read_units(&a, &k, NULL, zero, keys, ll_n(g, a.keys), w.ku);
  if (attn_summed(&a)) {
    clear(&a, w.dk, a.keys * a.ds);
    clear(&a, w.dv, a.keys * a.ds);
  }
  Loop head = ll_loop(g, h0, ll_add(g, h0, ll_n(g, a.share)), 1);
  grad_head(&a, &w, n, head.i);
  ll_loop_end(g, &head);
  Val unit = a.codes ? ll_fmul(g, a.sdo, ll_f(a.c.sum, attn_p_unit(&a))) : NULL;
  attn_write(&a, &dk, zero, keys, w.dk, NULL, unit_of_ds(&a, a.sq));
  attn_write(&a, &dv, zero, keys, w.dv, NULL, unit);
  ll_loop_end(g, &tile);
  return !g->error[0];
}
