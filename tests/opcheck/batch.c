/* Many small modules become one program: copied into one module under the names f0.x, f0.y ...,
 * then fused, planned, compiled and opened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "opcheck.h"
#include "passes/passes.h"

static Str prefixed(World *w, int k, const char *name) {
  return str_fmt(w->strings, "f%d.%s", k, name);
}

/* Tensors of m under new names. */
static Tensor **copy_tensors(World *w, Builder *b, int k, const Module *m) {
  Tensor **map = ARENA_ARRAY(w->arena, Tensor *, m->ntensor + 1);
  for (int i = 0; i < m->ntensor && !arena_failed(w->arena); i++) {
    const Tensor *t = m->tensor[i];
    map[i] = build_tensor(b, prefixed(w, k, t->name), t->type, t->role, t->loc);
  }
  return map;
}

/* A scan of the body's new name. */
static void copy_scan(World *w, Copier *c, int k, const Op *op) {
  Value **in = ARENA_ARRAY(w->arena, Value *, op->nin);
  for (int i = 0; i < op->nin && !arena_failed(w->arena); i++)
    in[i] = copier_get(c, op->in[i]);
  if (arena_failed(w->arena))
    return;
  Op *copy = build_scan(c->b, prefixed(w, k, op_str(op, "func", "")), op_int(op, "length", 1),
                        op_int(op, "reverse", 0), op->nin, in, 0, NULL);
  for (int i = 0; i < op->nout; i++)
    c->map[op->out[i]->id] = copy->out[i];
}

/* qgrad is the identity once gradients are made, and not legal any more. */
static void copy_func(World *w, Copier *c, int k, const Func *f, const char *name) {
  copier_func(c, f, name);
  for (int i = 0; i < f->nop && !builder_failed(c->b); i++) {
    const Op *op = f->op[i];
    if (op->code == OP_qgrad)
      c->map[op->out[0]->id] = copier_get(c, op->in[0]);
    else if (op->code == OP_scan)
      copy_scan(w, c, k, op);
    else
      copier_op(c, op);
  }
}

static void copy_unit(World *w, Builder *b, int k, const Module *m) {
  Copier c = {.b = b, .tensors = copy_tensors(w, b, k, m)};
  for (int i = 0; i < m->nfunc && !arena_failed(w->arena); i++)
    if (func_is_body(m->func[i]))
      copy_func(w, &c, k, m->func[i], prefixed(w, k, m->func[i]->name));
  if (!arena_failed(w->arena))
    copy_func(w, &c, k, module_func(m, "train_forward"), str_fmt(w->strings, "f%d", k));
}

static Status merge(World *w, const Unit *const *units, int n, Module **out) {
  *out = NULL;
  Builder *b = builder_create(w->strings, w->diag, STAGE_SAVED);
  if (!b)
    return MPCC_ERR_NOMEM;
  for (int k = 0; k < n; k++)
    copy_unit(w, b, k, units[k]->lowered);
  return builder_finish(b, out);
}

static Status next(World *w, PassFn *pass, Stage gives, const PassOpts *o, Module **m) {
  Builder *b = builder_create(w->strings, w->diag, gives);
  Module *out = NULL;
  Status s = b ? pass(*m, o, b, w->diag) : MPCC_ERR_NOMEM;
  if (s == MPCC_OK)
    s = builder_finish(b, &out);
  else if (b)
    builder_destroy(b);
  module_destroy(*m);
  *m = out;
  return s;
}

static double group_flops(const Op *op) {
  const char *kind = op_str(op, "kind", "");
  double n = 2;
  for (int d = 0; d < op->body->ndim; d++)
    n *= (double)op->body->dim[d];
  if (!strcmp(kind, "product") || !strcmp(kind, "conv"))
    return n * (double)op_int(op, "k", 1);
  if (!strncmp(kind, "attention", 9)) /* two products forward, five backward */
    return n * (double)op_int(op, "keys", 1) * (strlen(kind) > 9 ? 5 : 2);
  return 0;
}

static void facts(const Module *m, const KernelTable *t, Batch *out) {
  for (int f = 0; f < m->nfunc; f++) {
    int k = atoi(m->func[f]->name + 1);
    for (int i = 0; i < m->func[f]->nop; i++) {
      const Op *op = m->func[f]->op[i];
      if (op->code != OP_group || k >= BATCH_MOST)
        continue;
      out->flops[k] += group_flops(op);
      int at = kernel_index(t, op);
      for (const char *c = at >= 0 ? t->kernel[at].symbol : ""; *c; c++)
        out->kernels[k] = (out->kernels[k] ^ (unsigned char)*c) * 0x100000001b3u;
    }
  }
}

bool is_cuda_level(const char *level) {
  return !strncmp(level, "sm_", 3);
}

static const Target *target_of(const char *level) {
  return is_cuda_level(level) ? &target_cuda : &target_cpu;
}

static Status plan(World *w, const Unit *const *units, int n, const BatchOpts *bo, Module **m,
                   KernelTable *t, Batch *out) {
  TargetCaps caps;
  const Target *target = target_of(bo->level);
  *m = NULL;
  *out = (Batch){0};
  Status s = target->caps(bo->level, &caps);
  const PassOpts o = {.caps = &caps, .strict = bo->strict, .opt_level = 2};
  if (s == MPCC_OK)
    s = merge(w, units, n, m);
  if (s == MPCC_OK)
    s = next(w, pass_fuse, STAGE_KERNELS, &o, m);
  if (s == MPCC_OK)
    s = next(w, pass_plan, STAGE_PLANNED, &o, m);
  if (s == MPCC_OK)
    s = codegen_kernels(*m, w->arena, t);
  if (s == MPCC_OK)
    facts(*m, t, out);
  return s;
}

Status batch_plan(World *w, const Unit *const *units, int n, const BatchOpts *o, Batch *out) {
  Module *m;
  KernelTable t;
  Status s = plan(w, units, n, o, &m, &t, out);
  module_destroy(m);
  return s;
}

static Status emit(World *w, const BatchOpts *o, KernelTable *t, const char *form, void **bytes,
                   size_t *len) {
  const EmitOpts e = {target_of(o->level), o->level, form, 2, 2, o->cache};
  return codegen_emit(&e, t->kernel, t->n, w->diag, bytes, len);
}

Status batch_writes(World *w, const Unit *const *units, int n, const BatchOpts *o) {
  Module *m;
  KernelTable t;
  Batch facts_only;
  void *text = NULL;
  size_t bytes;
  Status s = plan(w, units, n, o, &m, &t, &facts_only);
  if (s == MPCC_OK && t.n)
    s = emit(w, o, &t, "cuda", &text, &bytes);
  free(text);
  module_destroy(m);
  return s;
}

Status batch_build(World *w, const Unit *const *units, int n, const BatchOpts *o, Batch *out) {
  Module *m;
  KernelTable t;
  void *object = NULL;
  size_t bytes = 0;
  const Target *target = target_of(o->level);
  Status s = plan(w, units, n, o, &m, &t, out);
  if (s == MPCC_OK)
    s = emit(w, o, &t, "object", &object, &bytes);
  if (s == MPCC_OK) {
    Code code = {target->name, o->level, target->level_needs(o->level), object, bytes};
    s = package_image(m, &t, &code, 1, "{}", w->diag, &out->image, &out->image_bytes);
  }
  if (s == MPCC_OK)
    s = batch_open(out, target->name, o->plan_mode);
  free(object);
  module_destroy(m);
  if (s != MPCC_OK)
    batch_fini(out);
  return s;
}
