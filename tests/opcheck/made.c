/* Programs of a batch of instances, compiled here: strict, and fused where that gives other
 * kernels; for a GPU the CPU target's beside them. */
#include <stdlib.h>

#include "opcheck.h"

/* Which instances have other kernels in fused numerics, and those compiled. */
static Status build_fused(World *w, Together *t, const Unit *const *ref, const BatchOpts *o) {
  const Unit *differ[TOGETHER];
  BatchOpts fused = *o;
  Batch planned;
  int m = 0;
  fused.strict = false;
  Status s = batch_plan(w, ref, t->n, &fused, &planned);
  for (int k = 0; k < t->n && s == MPCC_OK; k++) {
    bool other = planned.kernels[k] != t->strict.kernels[k];
    t->fused_at[k] = other ? m : -1;
    if (other)
      differ[m++] = ref[k];
  }
  return s == MPCC_OK && m ? batch_build(w, differ, m, &fused, &t->fused) : s;
}

static Status build_beside(World *w, Together *t, const Unit *const *ref, int n) {
  const BatchOpts o = {.level = "x86-64-v3", .strict = true};
  return batch_build(w, ref, n, &o, &t->beside);
}

static Status build_all(World *w, Together *t, const Inst *list, int n, const Options *o) {
  const Unit *ref[TOGETHER];
  const BatchOpts b = {.level = o->level, .strict = true, .plan_mode = true, .cache = o->cache};
  Status s = MPCC_OK;
  for (int k = 0; k < n && s == MPCC_OK; k++) {
    s = unit_build(w, &list[k], &t->unit[k]);
    ref[k] = &t->unit[k];
    t->fused_at[k] = -1;
  }
  t->n = n;
  if (s == MPCC_OK)
    s = batch_build(w, ref, n, &b, &t->strict);
  if (s == MPCC_OK && o->fused)
    s = build_fused(w, t, ref, &b);
  return s == MPCC_OK && is_cuda_level(o->level) && !o->pack ? build_beside(w, t, ref, n) : s;
}

/* Whether the target does not write the kernels of u; else what failed is its compiler, as where
 * there is none. */
static bool is_lacking(World *w, const Unit *u, const Options *o) {
  Status s = MPCC_OK;
  for (int strict = 0; strict < 2 && s == MPCC_OK; strict++) {
    const BatchOpts b = {.level = o->level, .strict = strict};
    s = batch_writes(w, &u, 1, &b);
  }
  return s == MPCC_ERR_TARGET;
}

static void one_that_fails(World *w, const Inst *i, const Unit *u, const Options *o, Status s,
                           Score *score) {
  if (s == MPCC_ERR_TARGET && is_cuda_level(o->level) && is_lacking(w, u, o)) {
    score->lacking++;
    return;
  }
  printf("FAIL %s: does not compile: status %d\n", i->c->op, s);
  print_rerun(i, o, o->fused ? "" : "strict", -1);
  fflush(stdout);
  world_show(w);
  score->failed++;
}

void run_batch(const Inst *list, int n, const Options *o, Score *score) {
  World w;
  Together *t = calloc(1, sizeof *t);
  if (!t || !world_create(&w)) {
    free(t);
    score->failed += n;
    return;
  }
  t->tally = &score->tally;
  Status s = build_all(&w, t, list, n, o);
  if (s == MPCC_OK && o->pack)
    s = pack_write(o->pack, score->packs++, t, list);
  if (s == MPCC_OK)
    judge_together(&w, t, list, o, score);
  else if (n == 1)
    one_that_fails(&w, list, &t->unit[0], o, s, score);
  together_fini(t);
  world_destroy(&w);
  free(t);
  if (s != MPCC_OK && n > 1) { /* find the one that does not compile */
    run_batch(list, n / 2, o, score);
    run_batch(list + n / 2, n - n / 2, o, score);
  }
}
