/* fuse: every op belongs to a group, and a group is one kernel.
 *
 * Each function is lowered op by op to nodes (group*.c; views are strides, views.c), nodes are
 * joined (merge.c), and what is left is emitted in program order (emit.c). Products take the
 * pointwise work that follows them; rows take their producers and the readers of the same values.
 * Stage saved to kernels. Rules N1, N2, N10: joined ops pass register values on, which skips
 * roundings and adds none; strict numerics rounds at each op's boundary as the ops alone do. */
#include <string.h>

#include "passes/fuse.h"

static View *const_view(Fuse *F, const Op *op) {
  View *v = ARENA_NEW(F->a, View);
  v->dt = op->out[0]->type->dt;
  v->imm = op_float(op, "value", 0);
  v->rank = op->out[0]->type->rank;
  return v;
}

static void lower_read(Fuse *F, const Op *op) {
  Buf *b = buf_create(F, op->out[0]->type);
  Tensor *t = op_attr(op, "tensor")->u.tensor;
  build_like(F->b, op);
  b->value = build_read(F->b, F->tensors[t->index]);
  F->view[op->out[0]->id] = view_whole(F, b);
}

static void lower_arg(Fuse *F, const Op *op) {
  Buf *b = buf_create(F, op->out[0]->type);
  build_like(F->b, op);
  b->value = build_op(F->b, OP_arg, 0, NULL, op->nattr, op->attr)->out[0];
  F->view[op->out[0]->id] = view_whole(F, b);
}

/* A loop takes whole values, as they lie in memory, and gives such. */
static void lower_scan(Fuse *F, const Op *op) {
  Node *n = node_create(F, NODE_SCAN, 0, NULL);
  for (int i = 0; i < op->nin; i++) {
    View *v = operand(F, i);
    if (v->dt != op->in[i]->type->dt || !view_contiguous(v))
      v = view_copied(F, v, op->in[i]->type->dt);
    n->in = fuse_grow(F, n->in, n->nin, &n->cin, sizeof *n->in);
    if (fuse_failed(F))
      return;
    n->in[n->nin++] = (NodeIn){v->buf, {0}};
  }
  for (int i = 0; i < op->nattr; i++)
    node_attr(F, n, op->attr[i]);
  for (int i = 0; i < op->nout; i++)
    set_result_buf(F, i, node_store_at(F, n, 0, op->out[i]->type, &(Access){0}));
}

static const Tensor *base_of(const Tensor *t) {
  return t->base ? t->base : t;
}

/* Does the function write what shares memory with the tensor that v reads, other than by `write`?
 */
static bool source_changes(const Fuse *F, const Value *v, const Op *write) {
  while (op_info(v->def->code)->kind == OK_VIEW)
    v = v->def->in[0];
  if (v->def->code != OP_read)
    return false;
  const Tensor *from = op_attr(v->def, "tensor")->u.tensor;
  for (int i = 0; i < F->f->nop; i++) {
    const Op *op = F->f->op[i];
    if (op->code == OP_write && base_of(op_attr(op, "tensor")->u.tensor) == base_of(from) &&
        !(op == write && op_attr(op, "tensor")->u.tensor == from))
      return true;
  }
  return false;
}

/* What write stores must be a whole value of the tensor's type that a group or a read made. */
static Buf *written_value(Fuse *F, const Op *op) {
  View *v = view_of(F, op->in[0]);
  const Type *ty = op->in[0]->type;
  F->op = op;
  if (!view_contiguous(v) || v->dt != ty->dt)
    v = view_copied(F, v, ty->dt);
  bool changes = !v->buf->def && source_changes(F, op->in[0], op);
  if (v->buf->type != ty || changes) {
    if (v->buf->written || !v->buf->def) {
      /* The same elements under two shapes, or of a tensor that gets new ones: a copy. */
      Node *n = node_rows(F, v->rank, v->dim);
      n->label = "copy";
      v = view_whole(F, node_store(F, n, node_load(F, n, v), v->dt, ~0u));
    }
    v->buf->type = ty;
  }
  v->buf->written = true;
  return v->buf;
}

static void emit_writes(Fuse *F, Buf **written) {
  for (int i = 0; i < F->f->nop; i++) {
    const Op *op = F->f->op[i];
    if (!op_is_sink(op->code))
      continue;
    build_like(F->b, op);
    if (!written[i]->value)
      fuse_error(F, op, "its value was not made");
    else if (op->code == OP_write)
      build_write(F->b, F->tensors[op_attr(op, "tensor")->u.tensor->index], written[i]->value);
    else
      build_op(F->b, op->code, 1, &written[i]->value, op->nattr, op->attr);
  }
}

static void fuse_func(Fuse *F, const Func *f) {
  F->f = f;
  F->nnode = F->nbuf = F->npack = F->ncopy = 0;
  F->loss = f->nop;
  for (int i = 0; i < f->nop; i++)
    if (op_info(f->op[i]->code)->is_root)
      F->loss = i;
  F->view = ARENA_ARRAY(F->a, View *, f->nvalue + 1);
  Buf **written = ARENA_ARRAY(F->a, Buf *, f->nop + 1);
  bool *live = func_live(f, F->a);
  if (arena_failed(F->a)) {
    F->status = MPCC_ERR_NOMEM;
    return;
  }
  build_func(F->b, f->name);
  for (int i = 0; i < f->nop && !fuse_failed(F); i++) {
    const Op *op = f->op[i];
    F->op = op;
    if (!live[i])
      continue;
    if (op->code == OP_read)
      lower_read(F, op);
    else if (op->code == OP_const)
      F->view[op->out[0]->id] = const_view(F, op);
    else if (op->code == OP_arg)
      lower_arg(F, op);
    else if (op->code == OP_scan)
      lower_scan(F, op);
    else if (op_is_sink(op->code))
      written[i] = written_value(F, op);
    else
      group_op(F, op);
  }
  if (F->status != MPCC_OK)
    return;
  merge_all(F);
  Node **order = ARENA_ARRAY(F->a, Node *, F->nnode + 1);
  if (arena_failed(F->a) || F->status != MPCC_OK) {
    F->status = F->status ? F->status : MPCC_ERR_NOMEM;
    return;
  }
  int n = graph_schedule(F, order);
  for (int i = 0; i < n && F->status == MPCC_OK; i++)
    emit_node(F, order[i]);
  if (F->status == MPCC_OK)
    emit_writes(F, written);
}

static void caps_attrs(Builder *b, const TargetCaps *c) {
  build_module_attr(b, attr_s(b, "target.name", c->name));
  build_module_attr(b, attr_s(b, "target.level", c->level));
  build_module_attr(b, attr_i(b, "target.vector_bytes", c->vector_bytes));
  build_module_attr(b, attr_b(b, "target.bf16_dot", c->bf16_dot));
  build_module_attr(b, attr_i(b, "target.panel_cols_f64", c->panel_cols_f64));
  build_module_attr(b, attr_i(b, "target.panel_cols_f32", c->panel_cols_f32));
  build_module_attr(b, attr_i(b, "target.panel_cols_bf16", c->panel_cols_bf16));
  build_module_attr(b, attr_i(b, "target.k_pair_bf16", c->k_pair_bf16));
  if (c->library_products)
    build_module_attr(b, attr_b(b, "target.library_products", true));
  if (c->library_fp8)
    build_module_attr(b, attr_b(b, "target.library_fp8", true));
  build_module_attr(b, attr_i(b, "target.panel_bytes_rows", c->panel_bytes_rows));
  if (c->tf32)
    build_module_attr(b, attr_b(b, "target.tf32", true));
  if (c->partials)
    build_module_attr(b, attr_i(b, "target.partials", c->partials));
  if (c->turned_rows)
    build_module_attr(b, attr_i(b, "target.turned_rows", c->turned_rows));
}

Status pass_fuse(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  if (!o->caps) {
    diag_error(d, (Loc){0}, 602, "fuse: no target is given");
    return MPCC_ERR_TARGET;
  }
  Copier c;
  copier_init(&c, out, in);
  caps_attrs(out, o->caps);
  Fuse F = {.m = in, .o = o, .b = out, .d = d, .tensors = c.tensors};
  for (int i = 0; i < in->nfunc && F.status == MPCC_OK && !builder_failed(out); i++) {
    /* One scratch arena per function: merging is generous with it. */
    F = (Fuse){.m = in, .o = o, .b = out, .d = d, .tensors = c.tensors, .a = arena_create()};
    if (!F.a)
      return MPCC_ERR_NOMEM;
    fuse_func(&F, in->func[i]);
    fuse_failed(&F);
    arena_destroy(F.a);
  }
  return F.status;
}
