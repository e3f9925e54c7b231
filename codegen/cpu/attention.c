/* attention: softmax(scale q k^T) v per head, a block of queries at a time (attn.c says how). A
 * tile is one block of one head. Source of keeping only row statistics for the gradient: Dao 2023,
 * FlashAttention-2. */
#include "codegen/cpu/attn.h"

typedef struct {
  Val k, q, qt; /* in scratch: units of the product that makes scores, */
  Val v, scores, o, inverse;
} Space;

static Space space(Attn *a) {
  return (Space){attn_scratch(a, a->keys * a->ss),   attn_scratch(a, a->lanes * a->ss),
                 attn_scratch(a, a->swidth * a->qs), attn_scratch(a, a->keys * a->ds),
                 attn_scratch(a, a->keys * a->qs),   attn_scratch(a, a->queries * a->ds),
                 attn_scratch(a, a->lanes)};
}

/* P is rounded, or becomes codes, before it is multiplied: it has to be normalised then. */
static bool rounds(const Attn *a) {
  return a->round != MPCC_DTYPE_COUNT || a->codes;
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
  Val x = attn_logits(a, ll_load(g, a->c.sum, a->c.vl, at, NULL));
  Val e = ll_exp(g, ll_fsub(g, x, most)), seen = attn_seen(a, queries, s.i);
  e = seen ? ll_sel(g, seen, e, ll_f(t, 0)) : e;
  ll_var_set(g, sum, ll_fadd(g, ll_var_get(g, sum), e));
  if (a->dropout && !rounds(a))
    e = ll_fmul(g, e, attn_keep(a, drop, queries, s.i));
  ll_store(g, e, at, NULL);
  ll_loop_end(g, &s);
  return ll_var_get(g, sum);
}

/* P normalised and rounded, for strict numerics and for codes. */
static void round_scores(Attn *a, Val scores, Val queries, Val limit, Val inverse,
                         const Dropout *drop) {
  Gen *g = a->g;
  Loop s = ll_loop(g, ll_n(g, 0), limit, 1);
  Val at = ll_gep(g, a->c.sum, scores, ll_mul(g, s.i, ll_n(g, a->qs)));
  Val p = ll_fmul(g, ll_load(g, a->c.sum, a->c.vl, at, NULL), inverse);
  ll_store(g, attn_rounded(a, p, drop, queries, s.i), at, NULL);
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
  Loop v = ll_loop(g, ll_n(g, 0), count, a->c.vl);
  Val scores = ll_gep(g, a->c.sum, w->scores, v.i), queries = attn_query_lanes(a, q0, v.i), most;
  Val own = attn_vector_limit(a, q0, v.i, limit);
  attn_normalizer(a, scores, queries, own, &most);
  Val sum = exponentials(a, scores, queries, own, most, drop);
  Val inverse = ll_fdiv(g, ll_f(t, 1), sum);
  if (a->mask_in)
    inverse = ll_sel(g, ll_fcmp(g, LLVMRealOEQ, sum, ll_f(t, 0)), ll_f(t, 0), inverse);
  store_lse(a, lse, q0, v.i, count, ll_fadd(g, most, ll_log(g, sum)));
  ll_store(g, inverse, ll_gep(g, a->c.sum, w->inverse, v.i), NULL);
  if (rounds(a))
    round_scores(a, scores, queries, own, inverse, drop);
  /* The product below takes keys in pairs. */
  Loop z = ll_loop(g, own, attn_round_up(a, limit, 2), 1);
  ll_store(g, ll_f(t, 0), ll_gep(g, a->c.sum, scores, ll_mul(g, z.i, ll_n(g, a->qs))), NULL);
  ll_loop_end(g, &z);
  ll_loop_end(g, &v);
}

/* Operands of one head. */
typedef struct {
  Heads q, k, v, o, lse;
  Dropout drop;
  Val n, h;
} Head;

static void attend(Attn *a, const Space *w, const Head *x, Val block) {
  Gen *g = a->g;
  Val q0 = ll_mul(g, block, ll_n(g, a->queries));
  Val count = ll_umin(g, ll_n(g, a->queries), ll_sub(g, ll_n(g, a->T), q0));
  Val limit = attn_limit(a, q0, count), even = attn_round_up(a, limit, 2);
  Val lanes = attn_lanes(a, count);
  attn_read_units(a, &x->q, &x->o, q0, count, lanes, w->q);
  attn_transpose(a, w->q, lanes, w->qt);
  attn_scores(a, w->k, w->qt, w->scores, lanes, limit, q0);
  attn_mask(a, w->scores, x->n, x->h, q0, count, limit);
  softmax(a, w, &x->lse, q0, count, limit, &x->drop);
  attn_by_query(a, w->scores, w->v, w->o, count, even, q0);
  Val unit = a->codes ? ll_fmul(g, a->sv, ll_f(a->c.sum, attn_p_unit(a))) : NULL;
  attn_write(a, &x->o, q0, count, w->o, rounds(a) ? NULL : w->inverse, unit);
}

/* Heads enough for any number of threads: a tile is a whole head, and reads its keys once. */
enum { MANY_HEADS = 64 };

bool cpu_attention(Gen *g, const Op *group) {
  Attn a;
  if (!attn_plan(&a, g, group, 0))
    return false;
  if (group->nout < 2)
    return gen_fail(g, "attention without lse");
  int64_t parts = a.N * a.H >= MANY_HEADS ? 1 : a.blocks;
  g->ntiles = a.N * a.H * parts;
  Space w = space(&a);
  Loop tile = ll_loop(g, g->first, g->end, 1);
  Val nh = ll_udiv(g, tile.i, parts), n = ll_udiv(g, nh, a.H), h = ll_urem(g, nh, a.H);
  Head x = {attn_in(&a, 0, n, h),
            attn_in(&a, 1, n, h),
            attn_in(&a, 2, n, h),
            attn_out(&a, 0, n, h),
            attn_out(&a, 1, n, h),
            attn_dropout(&a, nh),
            n,
            h};
  Val zero = ll_n(g, 0), block0 = zero, block1 = ll_n(g, a.blocks), seen = ll_n(g, a.S);
  if (parts > 1) {
    block0 = ll_urem(g, tile.i, parts);
    block1 = ll_add(g, block0, ll_n(g, 1));
    seen = attn_limit(&a, ll_mul(g, block0, ll_n(g, a.queries)), ll_n(g, a.queries));
  }
  Val even = attn_round_up(&a, seen, 2);
  attn_read_units(&a, &x.k, NULL, zero, seen, even, w.k);
  attn_read(&a, &x.v, NULL, zero, seen, even, w.v);
  Loop block = ll_loop(g, block0, block1, 1);
  attend(&a, &w, &x, block.i);
  ll_loop_end(g, &block);
  ll_loop_end(g, &tile);
  return !g->error[0];
}
