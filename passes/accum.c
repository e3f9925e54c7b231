/* One micro-batch. train_forward is copied with the loss's gradient put in for loss_seed and its
 * writes caught: they go to accumulators (micro_first overwrites, micro_next adds; FP8 amaxes take
 * the larger) or, in train_step, straight into the update. Sums between micro-batches are FP32 or
 * wider. [N5, N8] */
#include <string.h>

#include "passes/step.h"

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

/* Ops that feed a write which this kind of micro-batch wants. */
static bool *wanted(Step *s, const Func *f, MicroKind kind) {
  bool *live = ARENA_ARRAY(s->scratch, bool, f->nop + 1);
  if (arena_failed(s->scratch))
    return live;
  for (int i = f->nop - 1; i >= 0; i--) {
    const Op *op = f->op[i];
    live[i] |= op->code == OP_write && (kind != MICRO_CALIBRATE || tensor_of(op)->role == ROLE_SUM);
    for (int k = 0; live[i] && k < op->nin; k++)
      live[op->in[k]->def->index] = true;
  }
  return live;
}

typedef struct {
  Step *s;
  Copier c;
  bool *state;
  Micro *micro; /* NULL: writes are copied */
} Copy;

static Value *operand(Copy *c, const Value *v) {
  if (!c->c.map[v->id] && c->state[v->id])
    c->c.map[v->id] = derived_use(c->s, v);
  return c->c.map[v->id];
}

/* A product whose second factor is kept transposed. */
static void copy_turned(Copy *c, const Op *op) {
  Builder *b = c->s->b;
  Value *in[4] = {operand(c, op->in[0]), derived_use_turned(c->s, op->in[1]), operand(c, op->in[2]),
                  operand(c, op->in[3])};
  const Attr attr[3] = {attr_b(b, "ta", op_int(op, "ta", 0)), attr_b(b, "tb", true),
                        attr_dt(b, "out", op->out[0]->type->dt)};
  build_like(b, op);
  c->c.map[op->out[0]->id] =
      in[1] ? build_op(b, OP_qmatmul, 4, in, 3, attr)->out[0] : operand(c, op->in[0]);
}

static void copy_body_op(Copy *c, const Op *op) {
  Step *s = c->s;
  Value **in = ARENA_ARRAY(s->scratch, Value *, op->nin + 1);
  if (arena_failed(s->scratch))
    return;
  if (derived_is_turned(s, op, c->state)) {
    copy_turned(c, op);
    return;
  }
  for (int i = 0; i < op->nin; i++)
    in[i] = operand(c, op->in[i]);
  if (op->code == OP_write && c->micro) {
    const Tensor *t = tensor_of(op);
    c->micro->written[t->index] = in[0];
  } else if (op->code == OP_loss_seed) {
    DType dt = op->out[0]->type->dt;
    Value *seed = c->micro ? lossscale_seed(s) : build_const(s->b, 1, dt);
    c->c.map[op->out[0]->id] = build_cast(s->b, seed, dt); /* regions.loss may want FP64 */
  } else if (op->code == OP_qgrad) {
    c->c.map[op->out[0]->id] = in[0]; /* its gradient is in the module by now */
  } else {
    rebuild_op(&c->c, op, in);
  }
}

static Status copy_body(Step *s, const Func *f, const bool *live, Micro *micro) {
  Copy c = {.s = s, .c = {.b = s->b, .tensors = s->tensors}, .micro = micro};
  c.c.map = ARENA_ARRAY(s->scratch, Value *, f->nvalue + 1);
  c.state = derived_state_only(s, f);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  for (int i = 0; i < f->nop && !arena_failed(s->scratch) && !builder_failed(s->b); i++) {
    const Op *op = f->op[i];
    if (live[i] && !(op->nout && c.state[op->out[0]->id]))
      copy_body_op(&c, op);
  }
  return arena_failed(s->scratch) || builder_failed(s->b) ? MPCC_ERR_NOMEM : MPCC_OK;
}

Status micro_forward(Step *s, MicroKind kind, Micro *m) {
  const Func *f = module_func(s->in, "train_forward");
  m->written = ARENA_ARRAY(s->scratch, Value *, s->in->ntensor + 1);
  bool *live = wanted(s, f, kind);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  return copy_body(s, f, live, m);
}

Status step_copy_func(Step *s, const Func *f, const char *name) {
  build_func(s->b, name);
  bool *live = func_live(f, s->scratch);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  return copy_body(s, f, live, NULL);
}

/* Accumulator of an old tensor. */
static Tensor *accumulator(Step *s, const Tensor *t) {
  return s->sum[t->index] ? s->sum[t->index] : s->tensors[t->index];
}

void micro_store(Step *s, MicroKind kind, const Micro *m) {
  Builder *b = s->b;
  for (int i = 0; i < s->in->ntensor; i++) {
    const Tensor *t = s->in->tensor[i];
    Value *v = m->written[i];
    if (!v)
      continue;
    Tensor *acc = accumulator(s, t);
    step_at(s, kind == MICRO_FIRST ? "accumulate: first micro-batch" : "accumulate");
    v = build_cast(b, v, acc->type->dt);
    bool sums = t->role == ROLE_METRIC || t->role == ROLE_GRAD || t->role == ROLE_SUM;
    if (kind == MICRO_NEXT && sums)
      v = build2(b, t->role == ROLE_SUM ? OP_maximum : OP_add, build_read(b, acc), v);
    build_write(b, acc, v);
  }
  step_count_seen(s);
}

void step_count_seen(Step *s) {
  Builder *b = s->b;
  step_at(s, "counters");
  Value *seen = build_cast(b, build_read(b, s->seen), MPCC_F64);
  build_write(b, s->seen, build_cast(b, build_expr(b, "a + 1", MPCC_F64, 1, &seen), MPCC_I64));
}
