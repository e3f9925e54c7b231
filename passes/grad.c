/* grad: appends the backward computation to train_forward, in the dtypes its forward ran in.
 *
 * Reverse mode: ops are visited last to first; when an op is reached all uses of its results have
 * added their part of the gradient. It begins at the ops that the table calls roots: `loss`, and
 * the losses that make their gradient together with their value (cross_entropy). Values that depend
 * on no trained parameter get no gradient.
 *
 * Dtypes. A gradient has its value's dtype, except along cast, view and quantize chains that start
 * at a parameter: there every use produces it in the parameter's own gradient dtype, so products
 * write FP32 weight gradients without rounding first and uses are summed in FP32 [N4, N5].
 * Slices that tile a value give its gradient as one cat, not as a sum of padded pieces.
 * Stage laid to train. Writes grad.<parameter> (role grad, attr of) and, with FP8, the largest
 * magnitudes of quantized gradients to sum.fp8.backward.amax [N8]. Rules per op: grad_ops.c,
 * grad_product.c, grad_expr.c, grad_scan.c. */
#include "passes/grad.h"

static bool trained(const Tensor *t) {
  return t->role == ROLE_PARAM && dtype_is_float(t->type->dt) && tensor_int(t, "group", 0) >= 0;
}

static bool quantizes(const Op *op) {
  return op->code == OP_quantize || op->code == OP_block_quantize;
}

/* Its gradient is that of its first operand, element by element. */
static bool straight(const Op *op) {
  return op->code == OP_cast || op->code == OP_unslice || quantizes(op) ||
         op_info(op->code)->kind == OK_VIEW;
}

void grad_arrays(Grad *g, const Func *f) {
  Arena *a = g->scratch;
  g->needs = ARENA_ARRAY(a, bool, f->nvalue + 1);
  g->of_param = ARENA_ARRAY(a, bool, f->nvalue + 1);
  g->zeros = ARENA_ARRAY(a, bool, f->nvalue + 1);
  g->gdt = ARENA_ARRAY(a, DType, f->nvalue + 1);
  g->part = ARENA_ARRAY(a, Part *, f->nvalue + 1);
  g->codes = arena_array(a, (size_t)f->nvalue + 1, sizeof *g->codes);
}

void grad_prepare(Grad *g, const Op *op, const Leaf *leaf) {
  bool needs = leaf && leaf->needs;
  for (int k = 0; k < op->nin; k++)
    needs |= g->needs[op->in[k]->id];
  for (int k = 0; k < op->nout; k++) {
    const Value *v = op->out[k];
    g->needs[v->id] = needs && dtype_is_float(v->type->dt);
    g->gdt[v->id] = v->type->dt;
    g->of_param[v->id] = leaf && leaf->param;
  }
  if (op->nout && leaf && leaf->param) {
    g->gdt[op->out[0]->id] = leaf->gdt;
  } else if (op->nout && straight(op) && op->nin) {
    const Value *x = op->in[0], *y = op->out[0];
    g->of_param[y->id] = g->of_param[x->id];
    if (g->of_param[x->id] || op->code != OP_cast)
      g->gdt[y->id] = g->gdt[x->id];
  }
}

/* Which values need gradients, and in which dtype. */
static void prepare(Grad *g, const Func *f, const Mode *m) {
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    const Tensor *t = op->code == OP_read ? op_attr(op, "tensor")->u.tensor : NULL;
    const Leaf leaf = {t && trained(t), t && t->role == ROLE_PARAM, m->grad};
    grad_prepare(g, op, t ? &leaf : NULL);
  }
}

Value *grad_value(Grad *g, const Value *v) {
  Value *w = copier_get(&g->c, v);
  return w || !g->inside ? w : loop_value(g, v);
}

bool grad_wants(const Grad *g, const Op *op, int i) {
  return g->needs[op->in[i]->id];
}

DType grad_dtype(const Grad *g, const Op *op, int i) {
  return g->gdt[op->in[i]->id];
}

static void add_part(Grad *g, const Value *v, Value *dv, int dim, int64_t start, int64_t end) {
  if (!g->needs[v->id])
    return;
  dv = build_cast(g->b, dv, g->gdt[v->id]);
  if (dim < 0)
    dv = build_sum_to(g->b, dv, v->type);
  Part *p = ARENA_NEW(g->scratch, Part);
  if (arena_failed(g->scratch))
    return;
  *p = (Part){dv, dim, start, end, g->part[v->id]};
  g->part[v->id] = p;
}

void grad_give_part(Grad *g, const Op *op, int i, Value *dv, int dim, int64_t start, int64_t end) {
  add_part(g, op->in[i], dv, dim, start, end);
}

void grad_add(Grad *g, const Value *v, Value *dv) {
  add_part(g, v, dv, -1, 0, 0);
}

void grad_give(Grad *g, const Op *op, int i, Value *dv) {
  grad_give_part(g, op, i, dv, -1, 0, 0);
}

/* Parts along one axis in order of their start, if together they cover [0, size) exactly once. */
static Part **tiling(Grad *g, const Value *v, Part *list, int *n) {
  int dim = -1;
  *n = 0;
  for (Part *p = list; p; p = p->next) {
    if (p->dim < 0)
      continue;
    if (dim >= 0 && p->dim != dim)
      return NULL;
    dim = p->dim;
    ++*n;
  }
  if (*n < 2)
    return NULL;
  Part **order = ARENA_ARRAY(g->scratch, Part *, *n);
  if (arena_failed(g->scratch))
    return NULL;
  int64_t at = 0;
  for (int i = 0; i < *n; i++) {
    for (Part *p = list; p; p = p->next)
      if (p->dim >= 0 && p->start == at)
        order[i] = p;
    if (!order[i])
      return NULL;
    at = order[i]->end;
  }
  return at == v->type->dim[dim] ? order : NULL;
}

static Value *padded(Grad *g, const Value *v, const Part *p) {
  if (p->dim < 0)
    return p->g;
  Attr attr[3] = {attr_i(g->b, "dim", p->dim), attr_i(g->b, "start", p->start),
                  attr_i(g->b, "size", v->type->dim[p->dim])};
  return build_op(g->b, OP_unslice, 1, (Value *[]){p->g}, 3, attr)->out[0];
}

/* sum + x; rows that are added at ids are added to the sum itself. */
static Value *plus(Grad *g, Value *sum, Value *x) {
  const Op *op = x->def;
  if (op->code != OP_embedding_grad || op->nin > 2 || sum->type != x->type)
    return build2(g->b, OP_add, sum, x);
  Value *in[3] = {op->in[0], op->in[1], sum};
  return build_op(g->b, OP_embedding_grad, 3, in, op->nattr, op->attr)->out[0];
}

Value *grad_gather(Grad *g, const Value *v) {
  Part *list = g->part[v->id];
  Value *sum = NULL;
  int n;
  Part **tile = tiling(g, v, list, &n);
  if (tile) {
    Value **in = ARENA_ARRAY(g->scratch, Value *, n);
    if (arena_failed(g->scratch))
      return NULL;
    for (int i = 0; i < n; i++)
      in[i] = tile[i]->g;
    Attr dim = attr_i(g->b, "dim", tile[0]->dim);
    sum = build_op(g->b, OP_cat, n, in, 1, &dim)->out[0];
  }
  for (Part *p = list; p; p = p->next) {
    if (tile && p->dim >= 0)
      continue;
    Value *x = padded(g, v, p);
    bool rows = sum && sum->def->code == OP_embedding_grad && x->def->code != OP_embedding_grad;
    sum = !sum ? x : rows ? plus(g, x, sum) : plus(g, sum, x);
  }
  return sum;
}

void grad_op(Grad *g, const Op *op) {
  enum { MAX_OUT = 32 };
  Value *dy[MAX_OUT] = {0};
  bool any = op_info(op->code)->is_root, wanted = false, zeros = false;
  build_at(g->b, op->loc, op->layer,
           str_fmt(builder_strings(g->b), "grad of %s", op_info(op->code)->name));
  for (int k = 0; k < op->nin; k++)
    wanted |= grad_wants(g, op, k);
  if (!wanted)
    return;
  for (int k = 0; k < op->nout && k < MAX_OUT; k++) {
    dy[k] = grad_gather(g, op->out[k]);
    any |= dy[k] || g->codes[op->out[k]->id][0].codes;
    zeros |= g->zeros[op->out[k]->id];
  }
  for (int k = 0; k < op->nin && !any && zeros; k++)
    g->zeros[op->in[k]->id] |= grad_wants(g, op, k) && grad_passes(g, op, k);
  if (!any)
    return;
  GradFn *rule = grad_rule(op->code);
  if (rule)
    rule(g, op, dy);
  else
    diag_error(g->diag, op->loc, 196, "training through '%s' is not supported yet",
               op_info(op->code)->name);
}

/* Writes the gradient of every trained parameter that has one; warns of those without. Weight decay
 * and moments go on for one of zeros, as in torch, and know nothing of a parameter without. */
static void write_grads(Grad *g, const Module *in, const Func *f, const Mode *m) {
  Builder *b = g->b;
  /* Reads of each tensor in program order, as op number + 1; 0 ends a chain. */
  int *first = ARENA_ARRAY(g->scratch, int, in->ntensor + 1);
  int *next = ARENA_ARRAY(g->scratch, int, f->nop + 1);
  if (arena_failed(g->scratch))
    return;
  for (int k = f->nop - 1; k >= 0; k--)
    if (f->op[k]->code == OP_read) {
      int *head = &first[op_attr(f->op[k], "tensor")->u.tensor->index];
      next[k] = *head;
      *head = k + 1;
    }
  for (int i = 0; i < in->ntensor; i++) {
    const Tensor *t = in->tensor[i];
    if (!trained(t))
      continue;
    Value *sum = NULL;
    bool zeros = false;
    build_at(b, t->loc, str_c(builder_strings(b), ""), NULL);
    for (int k = first[i]; k; k = next[k - 1]) {
      const Op *op = f->op[k - 1];
      Value *x = grad_gather(g, op->out[0]);
      if (x)
        sum = sum ? plus(g, sum, x) : x;
      zeros |= g->zeros[op->out[0]->id];
    }
    if (!sum && zeros)
      sum = build_filled(b, type_with_dtype(builder_types(b), t->type, m->grad), 0);
    if (!sum && diag_errors(g->diag))
      continue; /* it may be the errors' fault */
    if (!sum) {
      diag_warning(g->diag, t->loc, "unused-parameter",
                   "'%s' gets no gradient: the loss does not depend on it; it is not trained",
                   t->name);
      continue;
    }
    Str name = str_fmt(builder_strings(b), "grad.%s", t->name);
    Tensor *grad = build_tensor(b, name, type_with_dtype(builder_types(b), t->type, m->grad),
                                ROLE_GRAD, t->loc);
    build_tensor_attr(b, grad, attr_t(b, "of", g->c.tensors[i]));
    build_write(b, grad, sum);
  }
}

static void write_amax(Grad *g, const Module *in) {
  const Tensor *t = module_tensor(in, "sum.fp8.backward.amax");
  if (!t)
    return;
  Builder *b = g->b;
  const int64_t one = 1;
  build_at(b, (Loc){0}, str_c(builder_strings(b), ""),
           str_c(builder_strings(b), "fp8: record backward amax"));
  for (int i = 0; i < g->nslot; i++) {
    Value *v = g->amax[i] ? g->amax[i] : build_const(b, 0, MPCC_F32);
    g->amax[i] = build_reshape(b, v, 1, &one);
  }
  Attr dim = attr_i(b, "dim", 0);
  Value *all = build_op(b, OP_cat, g->nslot, g->amax, 1, &dim)->out[0];
  build_write(b, g->c.tensors[t->index], all);
}

/* f has been prepared and copied. */
static Status differentiate(Grad *g, const Module *in, const Func *f, const Mode *m) {
  Arena *a = g->scratch;
  int before = diag_errors(g->diag);
  const Tensor *slots = module_tensor(in, "sum.fp8.backward.amax");
  g->nslot = slots ? (int)slots->type->dim[0] : 0;
  g->amax = ARENA_ARRAY(a, Value *, g->nslot + 1);
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  for (int i = f->nop - 1; i >= 0 && !arena_failed(a) && !builder_failed(g->b); i--)
    grad_op(g, f->op[i]);
  if (!arena_failed(a) && !builder_failed(g->b) && diag_errors(g->diag) == before) {
    write_grads(g, in, f, m);
    write_amax(g, in);
  }
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  return diag_errors(g->diag) > before ? MPCC_ERR_INPUT : MPCC_OK;
}

Status pass_grad(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)o;
  Mode m;
  Status st = mode_get(in, d, &m);
  if (st != MPCC_OK)
    return st;
  Grad g = {.b = out, .diag = d, .scratch = arena_create()};
  if (!g.scratch)
    return MPCC_ERR_NOMEM;
  copier_init(&g.c, out, in);
  const Func *train = module_func(in, "train_forward");
  if (train)
    grad_arrays(&g, train);
  if (arena_failed(g.scratch))
    st = MPCC_ERR_NOMEM;
  else if (train)
    prepare(&g, train, &m);
  for (int i = 0; i < in->nfunc && st == MPCC_OK; i++) {
    const Func *f = in->func[i];
    if (train && func_is_body(f)) {
      loop_differentiate(&g, train, f);
      st = arena_failed(g.scratch) ? MPCC_ERR_NOMEM : MPCC_OK;
      continue;
    }
    copier_func(&g.c, f, f->name);
    for (int k = 0; k < f->nop && !builder_failed(out); k++)
      copier_op(&g.c, f->op[k]);
    if (f == train && !builder_failed(out))
      st = differentiate(&g, in, f, &m);
  }
  arena_destroy(g.scratch);
  return st;
}
