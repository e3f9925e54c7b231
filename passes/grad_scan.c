/* Gradients of loops: a reverse scan, and products over all time steps behind it.
 *
 * The body is differentiated op by op like any function, into the body of the reverse scan. That
 * carries the gradients of the states backwards and yields those of the stacked operands. Of the
 * forward values that it reads,
 * - states and stacked operands are in memory anyway;
 * - pointwise ops and views of what it has are computed again: a few instructions beside the
 * product of a step;
 * - the rest is a further stacked result of the forward scan (products, and the first pointwise op
 *   that takes one in: what is stored then is the sum, not its parts).
 *
 * Gradients of what does not vary (weights) need no loop. Where an op treats the samples of axis 0
 * one by one (column B of ops.def), the reverse scan yields the gradient of its result, and the
 * op's rule runs once over all steps, as samples of one large batch. So do sums of that gradient
 * (biases). Other uses of what does not vary are summed in a state of the reverse scan, in the
 * parameter's gradient dtype [N5]. */
#include <string.h>

#include "passes/grad.h"

/* Where an operand of the reverse scan comes from. */
typedef enum { FROM_ZERO, FROM_GRADIENT, FROM_SAVED, FROM_CAPTURED } From;
typedef struct {
  From from;
  const Op *of;   /* GRADIENT: yield whose result's; CAPTURED: arg */
  const Value *v; /* SAVED: of the body */
  const Type *type;
} LoopIn;

/* A use of a value that does not vary, whose gradient is made behind the loop. */
typedef struct Hoist {
  const Op *op;
  int dy; /* result of the reverse scan: gradient of op's result */
  struct Hoist *next;
} Hoist;

struct Loop {
  const Op *scan; /* of the old module */
  const Func *body;
  Str reverse;          /* name of the reverse body */
  bool *varies, *again; /* by value id; again: not saved, computed again */
  bool *used;           /* by result: something reads it */
  Grad g;               /* over the body's values, building the reverse body */
  LoopIn *in;
  int nin, cin;
  Value **out; /* what the reverse body yields, by result */
  int nout, cout;
  int *state;   /* by result index of the scan: result of the reverse scan that ends with d state */
  int *stacked; /* by operand index: result that stacks its gradient; -1 */
  int *sum;     /* by value id: result that sums its gradient; -1 */
  const Value **saved;
  int nsaved, csaved;
  Hoist *hoist, **last;
  bool forgets; /* a state that backward reads is overwritten; said so */
  struct Loop *next;
};

static void *grow(Grad *g, void *list, int n, int *cap, size_t size) {
  if (n < *cap)
    return list;
  int more = *cap ? 2 * *cap : 16;
  void *copy = arena_array(g->scratch, (size_t)more, size);
  if (arena_failed(g->scratch))
    return list;
  if (n)
    memcpy(copy, list, (size_t)n * size);
  *cap = more;
  return copy;
}

static int64_t length_of(const Loop *l) {
  return op_int(l->scan, "length", 1);
}

static const Type *with_axis(Grad *g, const Type *t, int64_t n) {
  int64_t dim[MAX_RANK] = {n};
  for (int i = 0; i < t->rank && i + 1 < MAX_RANK; i++)
    dim[1 + i] = t->dim[i];
  return type_get(builder_types(g->b), t->dt, t->rank < MAX_RANK ? t->rank + 1 : MAX_RANK, dim);
}

/* ---- the reverse body ------------------------------------------------------------------------ */

static Value *new_operand(Loop *l, LoopKind kind, LoopIn in) {
  Grad *g = &l->g;
  l->in = grow(g, l->in, l->nin, &l->cin, sizeof *l->in);
  if (arena_failed(g->scratch))
    return build_const(g->b, 0, in.type->dt);
  l->in[l->nin] = in;
  return build_arg(g->b, l->nin++, kind, in.type);
}

/* Result of the reverse scan that stacks v; the one that does so already, if there is one. */
static int stack_result(Loop *l, Value *v) {
  for (int i = 0; i < l->nout; i++)
    if (l->out[i] == v)
      return i;
  l->out = grow(&l->g, l->out, l->nout, &l->cout, sizeof *l->out);
  if (arena_failed(l->g.scratch))
    return 0;
  build_yield(l->g.b, l->nout, LOOP_STACKED, v, 0, 0);
  l->out[l->nout] = v;
  return l->nout++;
}

/* The same for the last state of operand `arg`. */
static int state_result(Loop *l, int arg, Value *next) {
  l->out = grow(&l->g, l->out, l->nout, &l->cout, sizeof *l->out);
  if (arena_failed(l->g.scratch))
    return 0;
  build_yield(l->g.b, l->nout, LOOP_CARRIED, next, arg, 2);
  l->out[l->nout] = NULL; /* not stacked */
  return l->nout++;
}

/* Which values are computed again. In order: what is saved when asked for is as good as an operand.
 */
static void choose(Loop *l) {
  const Func *f = l->body;
  bool *have = ARENA_ARRAY(l->g.scratch, bool, f->nvalue + 1);
  if (arena_failed(l->g.scratch))
    return;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    OpKind kind = op_info(op->code)->kind;
    bool all = true, plain = op->nout == 1 && (kind == OK_ELEM || kind == OK_VIEW);
    for (int k = 0; k < op->nin; k++)
      all &= have[op->in[k]->id] || !l->varies[op->in[k]->id];
    for (int k = 0; k < op->nout; k++) {
      l->again[op->out[k]->id] = plain && (all || kind == OK_VIEW);
      have[op->out[k]->id] = op->code == OP_arg || kind == OK_ELEM || (kind == OK_VIEW && all);
    }
  }
}

static const Op *yield_of(const Loop *l, const Value *v) {
  for (int i = 0; i < l->scan->nout; i++)
    if (loop_yield(l->body, i)->in[0] == v)
      return loop_yield(l->body, i);
  return NULL;
}

static bool keeps_all(const Loop *l, const Op *yield) {
  return loop_kind(yield) == LOOP_STACKED || op_int(yield, "slots", 0) == length_of(l) + 1;
}

/* Training reads all states: which slots a state has is the choice of who makes the module, and
 * layers that train give them all. */
static void forgets(Loop *l) {
  if (!l->forgets) {
    diag_error(l->g.diag, l->scan->loc, 196,
               "training through a loop that forgets its states is not supported yet");
    diag_hint(l->g.diag, "yield them with %lld slots", (long long)length_of(l) + 1);
  }
  l->forgets = true;
}

/* A view of which the same can be made of all steps at once. */
static bool stacks_as_view(const Op *op) {
  return (op->code == OP_reshape || op->code == OP_permute || op->code == OP_slice) &&
         op->out[0]->type->rank < MAX_RANK;
}

/* Makes sure that all of v is in memory behind the forward scan. */
static void save(Loop *l, const Value *v) {
  const Op *def = v->def;
  if (stacks_as_view(def)) {
    save(l, def->in[0]);
    return;
  }
  const Op *y = def->code == OP_arg && loop_kind(def) == LOOP_CARRIED
                    ? loop_carrier(l->body, op_int(def, "index", 0))
                    : yield_of(l, v);
  if (y && !keeps_all(l, y))
    forgets(l);
  if (y || def->code == OP_arg)
    return;
  for (int i = 0; i < l->nsaved; i++)
    if (l->saved[i] == v)
      return;
  l->saved = grow(&l->g, l->saved, l->nsaved, &l->csaved, sizeof *l->saved);
  if (!arena_failed(l->g.scratch))
    l->saved[l->nsaved++] = v;
}

/* Forward value v in the reverse body: an operand, or computed again. */
Value *loop_value(Grad *g, const Value *v) {
  Loop *l = g->inside;
  const Op *op = v->def;
  Value *made = NULL;
  if (builder_failed(g->b) || arena_failed(g->scratch))
    return build_const(g->b, 0, v->type->dt);
  if (op->code == OP_arg && !l->varies[v->id]) {
    made = new_operand(l, LOOP_CAPTURED, (LoopIn){FROM_CAPTURED, op, NULL, v->type});
  } else if (op->code == OP_arg || (l->varies[v->id] && !l->again[v->id])) {
    save(l, v);
    made = new_operand(l, LOOP_STACKED, (LoopIn){FROM_SAVED, NULL, v, v->type});
  } else {
    Value **in = ARENA_ARRAY(g->scratch, Value *, op->nin + 1);
    for (int i = 0; i < op->nin && !arena_failed(g->scratch); i++)
      in[i] = grad_value(g, op->in[i]);
    if (arena_failed(g->scratch))
      return build_const(g->b, 0, v->type->dt);
    Op *again = build_op(g->b, op->code, op->nin, in, op->nattr, op->attr);
    for (int i = 0; i < op->nout; i++)
      g->c.map[op->out[i]->id] = again->out[i];
    return g->c.map[v->id];
  }
  g->c.map[v->id] = made;
  return made;
}

/* ---- what needs no loop ---------------------------------------------------------------------- */

/* d op / d operand i is a number: the gradient is a sum of dy. */
static bool passes_on(const Grad *g, const Op *op, int i) {
  if (!op->scalar || op_info(op->code)->deriv)
    return false;
  const Scalar *s = scalar_diff(g->scratch, op->scalar, i);
  return s && s->stmt[s->result].prim == PR_CONST;
}

/* Can the gradients that op gives to operands that do not vary be made of all steps at once? */
static bool hoistable(const Loop *l, const Op *op) {
  bool batched = op_info(op->code)->batched && l->varies[op->in[0]->id];
  for (int i = 0; i < op->nin; i++) {
    bool fixed = !l->varies[op->in[i]->id];
    if (fixed && l->g.needs[op->in[i]->id] && !batched && !passes_on(&l->g, op, i))
      return false;
    if (!fixed && i > 0 && batched)
      return false;
  }
  return true;
}

/* Backward of one op; needs of operands that do not vary are met later when `op` can be hoisted. */
static void reverse_op(Loop *l, const Op *op) {
  Grad *g = &l->g;
  bool fixed = false, wanted = false;
  for (int i = 0; i < op->nin; i++)
    fixed |= !l->varies[op->in[i]->id] && g->needs[op->in[i]->id];
  if (op->nout != 1 || !fixed || !hoistable(l, op)) {
    grad_op(g, op);
    return;
  }
  build_at(g->b, op->loc, op->layer, str_c(builder_strings(g->b), "grad: of all steps at once"));
  Value *dy = grad_gather(g, op->out[0]);
  if (!dy)
    return;
  Hoist *h = ARENA_NEW(g->scratch, Hoist);
  bool *needs = ARENA_ARRAY(g->scratch, bool, op->nin + 1);
  if (arena_failed(g->scratch))
    return;
  *h = (Hoist){op, stack_result(l, dy), NULL};
  *l->last = h;
  l->last = &h->next;
  if (op_info(op->code)->batched)
    save(l, op->in[0]);
  for (int i = 0; i < op->nin; i++) {
    needs[i] = g->needs[op->in[i]->id];
    if (!l->varies[op->in[i]->id])
      g->needs[op->in[i]->id] = false;
    wanted |= g->needs[op->in[i]->id];
  }
  if (wanted) /* with dy as its result's whole gradient: it gathers the same again */
    grad_op(g, op);
  for (int i = 0; i < op->nin; i++)
    g->needs[op->in[i]->id] |= needs[i];
}

/* ---- differentiating a body ------------------------------------------------------------------ */

static void prepare(Loop *l, const Grad *outer) {
  const Func *f = l->body;
  Grad *g = &l->g;
  bool *state = ARENA_ARRAY(g->scratch, bool, l->scan->nin + 1); /* by operand: needs a gradient */
  if (arena_failed(g->scratch))
    return;
  for (bool more = true; more;) {
    more = false;
    for (int i = 0; i < f->nop; i++) {
      const Op *op = f->op[i];
      if (op->code != OP_arg) {
        grad_prepare(g, op, NULL);
        continue;
      }
      int64_t at = op_int(op, "index", 0);
      const Value *x = l->scan->in[at];
      bool captured = loop_kind(op) == LOOP_CAPTURED;
      const Leaf leaf = {outer->needs[x->id] || state[at], captured && outer->of_param[x->id],
                         outer->gdt[x->id]};
      grad_prepare(g, op, &leaf);
    }
    for (int i = 0; i < l->scan->nout; i++) {
      const Op *y = loop_yield(f, i);
      int64_t at = op_int(y, "arg", 0);
      if (loop_kind(y) == LOOP_CARRIED && g->needs[y->in[0]->id] && !state[at])
        state[at] = more = true;
    }
  }
}

/* The gradients that enter an iteration: of its results, and of the states it leaves. */
static void enter(Loop *l) {
  Grad *g = &l->g;
  for (int i = 0; i < l->scan->nout; i++) {
    const Op *y = loop_yield(l->body, i);
    const Type *ty = y->in[0]->type;
    l->state[i] = -1;
    if (!g->needs[y->in[0]->id])
      continue;
    if (loop_kind(y) == LOOP_CARRIED) {
      if (!keeps_all(l, y))
        forgets(l);
      l->state[i] = l->nin;
      grad_add(g, y->in[0], new_operand(l, LOOP_CARRIED, (LoopIn){FROM_ZERO, NULL, NULL, ty}));
    }
    if (l->used[i])
      grad_add(g, y->in[0], new_operand(l, LOOP_STACKED, (LoopIn){FROM_GRADIENT, y, NULL, ty}));
  }
}

/* What leaves it. l->state becomes the result's number. */
static void leave(Loop *l) {
  Grad *g = &l->g;
  const Func *f = l->body;
  for (int i = 0; i < l->scan->nout; i++) {
    if (l->state[i] < 0)
      continue;
    const Op *arg = loop_arg(f, op_int(loop_yield(f, i), "arg", 0));
    Value *d = grad_gather(g, arg->out[0]);
    l->state[i] = state_result(l, l->state[i], d ? d : build_filled(g->b, arg->out[0]->type, 0));
  }
  for (int i = 0; i < l->scan->nin; i++) {
    const Op *arg = loop_arg(f, i);
    Value *d = loop_kind(arg) == LOOP_STACKED ? grad_gather(g, arg->out[0]) : NULL;
    l->stacked[i] = d ? stack_result(l, d) : -1;
  }
  for (int i = 0; i < f->nvalue; i++)
    l->sum[i] = -1;
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nout; k++) {
      const Value *v = f->op[i]->out[k];
      Value *d = l->varies[v->id] ? NULL : grad_gather(g, v);
      if (!d)
        continue;
      int at = l->nin;
      Value *sum = new_operand(l, LOOP_CARRIED, (LoopIn){FROM_ZERO, NULL, NULL, d->type});
      l->sum[v->id] = state_result(l, at, build2(g->b, OP_add, sum, d));
    }
}

static void reverse_body(Loop *l) {
  Grad *g = &l->g;
  const Func *f = l->body;
  build_func(g->b, l->reverse);
  build_at(g->b, l->scan->loc, l->scan->layer, str_c(builder_strings(g->b), "grad of scan"));
  enter(l);
  for (int i = f->nop - 1; i >= 0 && !arena_failed(g->scratch) && !builder_failed(g->b); i--)
    if (f->op[i]->nout && f->op[i]->code != OP_arg && l->varies[f->op[i]->out[0]->id])
      reverse_op(l, f->op[i]);
  build_at(g->b, l->scan->loc, l->scan->layer, str_c(builder_strings(g->b), "grad of scan"));
  if (!arena_failed(g->scratch) && !builder_failed(g->b))
    leave(l);
}

static Loop *new_loop(Grad *g, const Op *scan, const Func *body) {
  Arena *a = g->scratch;
  Loop *l = ARENA_NEW(a, Loop);
  *l = (Loop){.scan = scan, .body = body, .last = NULL};
  l->last = &l->hoist;
  l->g =
      (Grad){.b = g->b, .c = {.b = g->b, .tensors = g->c.tensors}, .diag = g->diag, .scratch = a};
  l->g.inside = l;
  l->g.c.map = ARENA_ARRAY(a, Value *, body->nvalue + 1);
  l->varies = loop_varies(body, a);
  l->again = ARENA_ARRAY(a, bool, body->nvalue + 1);
  l->used = ARENA_ARRAY(a, bool, scan->nout + 1);
  l->state = ARENA_ARRAY(a, int, scan->nout + 1);
  l->stacked = ARENA_ARRAY(a, int, scan->nin + 1);
  l->sum = ARENA_ARRAY(a, int, body->nvalue + 1);
  l->reverse = str_fmt(builder_strings(g->b), "%s.grad", body->name);
  grad_arrays(&l->g, body);
  return l;
}

/* The body again, with its yields behind it and one for each saved value. */
static void copy_body(Grad *g, const Func *body, Copier *c) {
  copier_func(c, body, body->name);
  for (int i = 0; i < body->nop && !builder_failed(g->b); i++)
    if (body->op[i]->code != OP_yield)
      copier_op(c, body->op[i]);
}

static void copy_yields(Grad *g, const Func *body, Copier *c, const Loop *l) {
  int n = 0;
  build_func(g->b, body->name);
  for (int i = 0; i < body->nop && !builder_failed(g->b); i++)
    if (body->op[i]->code == OP_yield) {
      copier_op(c, body->op[i]);
      n++;
    }
  for (int i = 0; l && i < l->nsaved && !builder_failed(g->b); i++) {
    build_like(g->b, l->saved[i]->def);
    build_yield(g->b, n + i, LOOP_STACKED, copier_get(c, l->saved[i]), 0, 0);
  }
}

void loop_differentiate(Grad *g, const Func *train, const Func *body) {
  const Op *scan = NULL;
  for (int i = 0; i < train->nop && !scan; i++)
    if (train->op[i]->code == OP_scan && loop_body(train->op[i]) == body)
      scan = train->op[i];
  bool wanted = false;
  for (int i = 0; scan && i < scan->nin; i++)
    wanted |= g->needs[scan->in[i]->id];
  Copier c = {.b = g->b, .tensors = g->c.tensors};
  copy_body(g, body, &c);
  Loop *l = wanted ? new_loop(g, scan, body) : NULL;
  if (arena_failed(g->scratch) || builder_failed(g->b))
    return;
  if (l) {
    for (int i = 0; i < train->nop; i++)
      for (int k = 0; k < train->op[i]->nin; k++)
        if (train->op[i]->in[k]->def == scan)
          l->used[train->op[i]->in[k]->out] = true;
    prepare(l, g);
    choose(l);
    reverse_body(l);
    l->next = g->loops;
    g->loops = l;
  }
  if (!arena_failed(g->scratch))
    copy_yields(g, body, &c, l);
}

/* ---- behind the loop ------------------------------------------------------------------------- */

/* States [first, first + length) of a carried result. before: those that iterations begin with. */
static Value *states(Grad *g, const Loop *l, Value *history, bool before) {
  bool late = before == (op_int(l->scan, "reverse", 0) != 0);
  return build_slice(g->b, history, 0, late, late + length_of(l));
}

static Value *result(Grad *g, const Loop *l, int i) {
  return copier_get(&g->c, l->scan->out[0])->def->out[i];
}

/* op over the steps of x at once. */
static Value *stacked_view(Grad *g, const Op *op, Value *x) {
  int64_t dim[MAX_RANK] = {x->type->dim[0]};
  const Type *ty = op->out[0]->type;
  if (op->code == OP_slice)
    return build_slice(g->b, x, (int)op_int(op, "dim", 0) + 1, op_int(op, "start", 0),
                       op_int(op, "end", 0));
  if (op->code == OP_reshape) {
    for (int i = 0; i < ty->rank; i++)
      dim[1 + i] = ty->dim[i];
    return build_reshape(g->b, x, ty->rank + 1, dim);
  }
  const Attr *perm = op_attr(op, "perm");
  dim[0] = 0;
  for (int i = 0; i < ty->rank; i++)
    dim[1 + i] = perm->u.ints.v[i] + 1;
  return build_permute(g->b, x, dim);
}

/* What `save` took care of, of all steps. */
static Value *all_steps(Grad *g, const Loop *l, const Value *v) {
  const Op *def = v->def;
  if (stacks_as_view(def))
    return stacked_view(g, def, all_steps(g, l, def->in[0]));
  if (def->code == OP_arg && loop_kind(def) == LOOP_STACKED)
    return grad_value(g, l->scan->in[op_int(def, "index", 0)]);
  if (def->code == OP_arg) {
    const Op *y = loop_carrier(l->body, op_int(def, "index", 0));
    return states(g, l, result(g, l, (int)op_int(y, "index", 0)), true);
  }
  const Op *y = yield_of(l, v);
  if (y && loop_kind(y) == LOOP_CARRIED)
    return states(g, l, result(g, l, (int)op_int(y, "index", 0)), false);
  if (y)
    return result(g, l, (int)op_int(y, "index", 0));
  int k = 0;
  while (k < l->nsaved - 1 && l->saved[k] != v)
    k++;
  return result(g, l, l->scan->nout + k);
}

static Value *reverse_operand(Grad *g, const Loop *l, const LoopIn *in, Value *const *dy) {
  switch (in->from) {
  case FROM_ZERO:
    return build_filled(g->b, in->type, 0);
  case FROM_CAPTURED:
    return grad_value(g, l->scan->in[op_int(in->of, "index", 0)]);
  case FROM_SAVED:
    return all_steps(g, l, in->v);
  default: {
    Value *d = dy[op_int(in->of, "index", 0)];
    if (!d)
      return build_filled(g->b, with_axis(g, in->type, length_of(l)), 0);
    return loop_kind(in->of) == LOOP_CARRIED ? states(g, l, d, false) : d;
  }
  }
}

/* Last state, which result i of the reverse scan ends with. */
static Value *last_state(Grad *g, const Op *reverse, const Loop *l, int i) {
  const Type *ty = reverse->out[i]->type;
  int64_t at = loop_slot(reverse, ty->dim[0], length_of(l));
  return build_reshape(g->b, build_slice(g->b, reverse->out[i], 0, at, at + 1), ty->rank - 1,
                       ty->dim + 1);
}

/* [T, N, ...] as [T N, ...] */
static Value *as_batch(Grad *g, Value *x) {
  int64_t dim[MAX_RANK];
  const Type *t = x->type;
  if (t->rank < 2)
    return x;
  dim[0] = t->dim[0] * t->dim[1];
  for (int i = 2; i < t->rank; i++)
    dim[i - 1] = t->dim[i];
  return build_reshape(g->b, x, t->rank - 1, dim);
}

/* Gradients of what does not vary, of all steps. */
static void give_fixed(Grad *g, const Loop *l, const Op *reverse) {
  const Func *f = l->body;
  Grad h = l->g;
  h.inside = NULL;
  h.c.map = ARENA_ARRAY(g->scratch, Value *, f->nvalue + 1);
  grad_arrays(&h, f);
  if (arena_failed(g->scratch))
    return;
  for (int i = 0; i < f->nop && !builder_failed(g->b); i++) {
    const Op *op = f->op[i];
    for (int k = 0; k < op->nout; k++) {
      int id = op->out[k]->id;
      h.needs[id] = l->g.needs[id] && !l->varies[id];
      h.gdt[id] = l->g.gdt[id];
    }
    if (op->code == OP_arg && !l->varies[op->out[0]->id])
      h.c.map[op->out[0]->id] = grad_value(g, l->scan->in[op_int(op, "index", 0)]);
    else if (op->nout && !l->varies[op->out[0]->id])
      copier_op(&h.c, op);
  }
  for (const Hoist *p = l->hoist; p && !builder_failed(g->b); p = p->next) {
    bool batched = op_info(p->op->code)->batched;
    build_at(g->b, p->op->loc, p->op->layer,
             str_fmt(builder_strings(g->b), "grad of %s", op_info(p->op->code)->name));
    Value *dy = reverse->out[p->dy];
    if (batched) {
      dy = as_batch(g, dy);
      h.c.map[p->op->in[0]->id] = as_batch(g, all_steps(g, l, p->op->in[0]));
    }
    grad_rule(p->op->code)(&h, p->op, &dy);
  }
  for (int i = f->nop - 1; i >= 0 && !builder_failed(g->b); i--) {
    const Op *op = f->op[i];
    for (int k = 0; k < op->nout; k++)
      if (l->sum[op->out[k]->id] >= 0)
        grad_add(&h, op->out[k], last_state(g, reverse, l, l->sum[op->out[k]->id]));
    if (!op->nout || l->varies[op->out[0]->id])
      continue;
    if (op->code != OP_arg) {
      grad_op(&h, op);
      continue;
    }
    Value *d = grad_gather(&h, op->out[0]);
    if (d)
      grad_add(g, l->scan->in[op_int(op, "index", 0)], d);
  }
}

void grad_scan(Grad *g, const Op *op, Value *const *dy) {
  const Loop *l = g->loops;
  while (l && l->scan != op)
    l = l->next;
  Value **in = l ? ARENA_ARRAY(g->scratch, Value *, l->nin + 1) : NULL;
  if (!l || l->forgets || arena_failed(g->scratch)) {
    if (!l)
      diag_error(g->diag, op->loc, 597, "a loop whose body was not differentiated");
    return;
  }
  for (int i = 0; i < l->nin; i++)
    in[i] = reverse_operand(g, l, &l->in[i], dy);
  Op *reverse =
      build_scan(g->b, l->reverse, length_of(l), !op_int(op, "reverse", 0), l->nin, in, 0, NULL);
  if (builder_failed(g->b))
    return;
  for (int i = 0; i < op->nin; i++)
    if (l->stacked[i] >= 0)
      grad_give(g, op, i, reverse->out[l->stacked[i]]);
  for (int i = 0; i < op->nout; i++) {
    const Op *y = loop_yield(l->body, i);
    int arg = (int)op_int(y, "arg", 0);
    if (l->state[i] < 0 || !grad_wants(g, op, arg))
      continue;
    grad_give(g, op, arg, last_state(g, reverse, l, l->state[i]));
    int64_t first = loop_slot(op, length_of(l) + 1, 0);
    if (dy[i]) /* the initial state is the first of all states */
      grad_give(g, op, arg,
                build_reshape(g->b, build_slice(g->b, dy[i], 0, first, first + 1),
                              y->in[0]->type->rank, y->in[0]->type->dim));
  }
  give_fixed(g, l, reverse);
}
