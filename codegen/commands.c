/* A function as commands of the image: where values lie, launches, fills, copies, products. What is
 * not written in place is copied when the function ends. */
#include <string.h>

#include "codegen/package.h"

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

MpccArgRef commands_place(Package *p, const Value *v) {
  MpccArgRef a = {.bytes = (uint64_t)type_bytes(v->type)};
  const bool inside = p->scan && v->def->func != p->scan->func;
  if (inside && loop_holds(p, v, &a))
    return a;
  const Tensor *t = v->def->code == OP_read ? tensor_of(v->def) : v->alias;
  if (t) {
    a.segment = package_segment(t->role);
    a.tensor_plus_1 = (uint32_t)t->index + 1;
    a.offset = t->offset;
    if (v->def->code != OP_read)
      a.offset += v->alias_elem * (int64_t)dtype_bytes(v->type->dt);
    return a;
  }
  a.segment = MPCC_SEG_WORK;
  a.offset = v->offset + (inside ? op_int(p->scan, "frame", 0) : 0);
  if (v->offset < 0)
    p->status = MPCC_ERR_INTERNAL; /* not planned */
  return a;
}

/* The same with the offset of an access, which kernels do not add. */
static MpccArgRef accessed(Package *p, const Value *v, const Access *at) {
  MpccArgRef a = commands_place(p, v);
  int64_t skip = at->offset * (int64_t)dtype_bytes(v->type->dt);
  if (skip < 0 || (uint64_t)skip > a.bytes) {
    p->status = MPCC_ERR_INTERNAL;
    return a;
  }
  a.offset += skip;
  a.bytes -= (uint64_t)skip;
  return a;
}

/* Operand i of a rows kernel: to the end of the last element that it reads. */
static MpccArgRef row_operand(Package *p, const Op *op, int i) {
  MpccArgRef a = accessed(p, op->in[i], &op->body->in[i]);
  int64_t last = 0;
  for (int d = 0; d < op->body->ndim; d++) {
    const int64_t stride = op->body->in[i].stride[d];
    if (stride < 0)
      return a;
    last += (op->body->dim[d] - 1) * stride;
  }
  const uint64_t bytes = (uint64_t)(last + 1) * dtype_bytes(op->in[i]->type->dt);
  a.bytes = bytes < a.bytes ? bytes : a.bytes;
  return a;
}

static MpccArgRef tensor_place(const Tensor *t) {
  return (MpccArgRef){package_segment(t->role), (uint32_t)t->index + 1, t->offset,
                      (uint64_t)type_bytes(t->type)};
}

static uint32_t put_arg(Package *p, MpccArgRef a) {
  uint32_t at = (uint32_t)(p->args.len / sizeof a);
  text_put(&p->args, (const char *)&a, sizeof a);
  return at;
}

static uint32_t source_string(Package *p, Loc loc) {
  if (!loc.file || !p->files)
    return 0;
  Text t = {0};
  const char *name = diag_file_name(p->files, loc.file);
  text_printf(&t, "%s:%u:%u", name ? name : "", loc.line, loc.col);
  p->failed |= t.failed;
  uint32_t at = package_string(p, t.data);
  text_fini(&t);
  return at;
}

void commands_put(Package *p, const Op *op, MpccCommand c, const char *label, int nresult,
                  const Type *const *types) {
  char dtypes[64];
  int n = 0;
  for (; n < nresult && n < (int)sizeof dtypes - 1; n++)
    dtypes[n] = (char)('a' + types[n]->dt);
  dtypes[n] = 0;
  if (n < nresult)
    p->status = MPCC_ERR_INTERNAL;
  c.nout = (uint32_t)n;
  c.layer = package_string(p, op->layer);
  c.source = source_string(p, op->loc);
  c.label = package_string(p, label);
  c.others = package_string(p, op_str(op, "others", ""));
  if (!strcmp(op_str(op, "kind", ""), "pack") && op_attr(op, "round"))
    c.rounds_to = (uint32_t)op_int(op, "round", 0) + 1;
  c.value_dtypes = package_string(p, dtypes);
  text_put(&p->commands, (const char *)&c, sizeof c);
}

/* A group whose only work is to store zero over its whole result. */
static bool is_fill(const Op *op) {
  const Body *b = op->body;
  return op->nin == 0 && op->nout == 1 && b->nstmt == 2 && b->stmt[0].prim == PR_CONST &&
         b->stmt[1].prim == PR_STORE && b->stmt[0].imm == 0 && !(1 / b->stmt[0].imm < 0);
}

/* A move whose operands already lie where it would put them. */
static bool is_done(Package *p, const Op *op) {
  if (strcmp(op_str(op, "kind", ""), "move"))
    return false;
  const Attr *starts = op_attr(op, "starts");
  MpccArgRef to = commands_place(p, op->out[0]);
  int64_t inner = 1, axis = op_int(op, "axis", 0);
  for (int d = (int)axis + 1; d < op->body->ndim; d++)
    inner *= op->body->dim[d];
  int64_t unit = inner * (int64_t)dtype_bytes(op->out[0]->type->dt);
  for (int d = 0; d < axis; d++)
    if (op->body->dim[d] != 1)
      return false;
  for (int i = 0; i < op->nin; i++) {
    MpccArgRef from = commands_place(p, op->in[i]);
    if (from.segment != to.segment || from.stride || to.stride ||
        op->in[i]->def->code != OP_group || from.offset != to.offset + starts->u.ints.v[i] * unit)
      return false;
  }
  return true;
}

static void put_fill(Package *p, const Op *op, MpccArgRef at) {
  MpccCommand c = {.op = MPCC_CMD_FILL, .nargs = 1, .bytes = at.bytes};
  c.first_arg = put_arg(p, at);
  commands_put(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
}

/* Zeroes what lies between the pieces of a move that is done; `starts` rise. */
static void put_gaps(Package *p, const Op *op) {
  const Attr *starts = op_attr(op, "starts"), *sizes = op_attr(op, "sizes");
  MpccArgRef whole = commands_place(p, op->out[0]);
  int64_t axis = op_int(op, "axis", 0), end = 0, size = op->body->dim[axis];
  int64_t unit = size > 0 ? (int64_t)whole.bytes / size : 0;
  for (int i = 0; i <= op->nin && op_int(op, "zero", 0); i++) {
    int64_t start = i < op->nin ? starts->u.ints.v[i] : size;
    if (start > end) {
      MpccArgRef gap = whole;
      gap.offset += end * unit;
      gap.bytes = (uint64_t)((start - end) * unit);
      put_fill(p, op, gap);
    }
    end = start + (i < op->nin ? sizes->u.ints.v[i] : 0);
  }
}

/* One copy a piece, but for those that lie in place already. */
static void put_copies(Package *p, const Op *op) {
  const Attr *starts = op_attr(op, "starts"), *sizes = op_attr(op, "sizes");
  MpccArgRef whole = accessed(p, op->out[0], &op->body->out[0]);
  int64_t unit = (int64_t)dtype_bytes(op->out[0]->type->dt);
  for (int d = (int)op_int(op, "axis", 0) + 1; d < op->body->ndim; d++)
    unit *= op->body->dim[d];
  for (int i = 0; i < op->nin; i++) {
    MpccArgRef from = accessed(p, op->in[i], &op->body->in[i]), to = whole;
    to.offset += starts->u.ints.v[i] * unit;
    to.bytes = (uint64_t)(sizes->u.ints.v[i] * unit);
    if (!to.bytes || (from.segment == to.segment && from.offset == to.offset))
      continue;
    if (from.bytes < to.bytes) {
      p->status = MPCC_ERR_INTERNAL;
      return;
    }
    from.bytes = to.bytes;
    MpccCommand c = {.op = MPCC_CMD_COPY, .nargs = 2, .bytes = to.bytes};
    c.first_arg = put_arg(p, to);
    put_arg(p, from);
    commands_put(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
  }
  put_gaps(p, op);
}

MpccProduct codegen_product(const Op *op) {
  const Body *b = op->body;
  const char *with = op_str(op, "with", "");
  return (MpccProduct){.with = !strcmp(with, "bias")          ? MPCC_WITH_BIAS
                               : !strcmp(with, "alpha")       ? MPCC_WITH_ALPHA
                               : !strcmp(with, "scales")      ? MPCC_WITH_SCALES
                               : !strcmp(with, "scales_bias") ? MPCC_WITH_SCALES_BIAS
                               : !strcmp(with, "sum")         ? MPCC_WITH_SUM
                                                              : MPCC_WITH_NONE,
                       .rows = b->dim[0],
                       .cols = b->dim[1],
                       .k = op_int(op, "k", 0),
                       .a_row = b->in[0].stride[0],
                       .a_k = b->in[0].stride[1],
                       .b_k = b->in[1].stride[0],
                       .b_col = b->in[1].stride[1],
                       .a_dtype = op->in[0]->type->dt,
                       .b_dtype = op->in[1]->type->dt,
                       .d_dtype = op->out[0]->type->dt,
                       .tf32 = op_int(op, "tf32", 0)};
}

static void put_product(Package *p, const Op *op) {
  const Body *b = op->body;
  MpccCommand c = {.op = MPCC_CMD_PRODUCT,
                   .nargs = (uint32_t)(1 + op->nin + MPCC_PRODUCT_INTS),
                   .first_arg = (uint32_t)(p->args.len / sizeof(MpccArgRef))};
  const MpccProduct m = codegen_product(op);
  int64_t ints[MPCC_PRODUCT_INTS];
  memcpy(ints, &m, sizeof ints);
  put_arg(p, accessed(p, op->out[0], &b->out[0]));
  for (int i = 0; i < op->nin; i++)
    put_arg(p, accessed(p, op->in[i], &b->in[i]));
  for (int i = 0; i < MPCC_PRODUCT_INTS; i++)
    put_arg(p, (MpccArgRef){.segment = MPCC_ARG_INT, .offset = ints[i]});
  commands_put(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
}

void commands_group(Package *p, const Op *op) {
  const Type *types[64];
  const char *label = op_str(op, "label", "");
  if (op->nout > 63) {
    p->status = MPCC_ERR_INTERNAL;
    return;
  }
  for (int i = 0; i < op->nout; i++)
    types[i] = op->out[i]->type;
  if (is_done(p, op)) {
    put_gaps(p, op);
    return;
  }
  if (codegen_is_copies(op)) {
    put_copies(p, op);
    return;
  }
  if (codegen_is_product(op)) {
    put_product(p, op);
    return;
  }
  MpccCommand c = {.op = MPCC_CMD_LAUNCH};
  if (is_fill(op)) {
    put_fill(p, op, commands_place(p, op->out[0]));
    return;
  }
  int k = kernel_index(p->kernels, op);
  if (k < 0) {
    p->status = MPCC_ERR_INTERNAL;
    return;
  }
  c.kernel = (uint32_t)k;
  c.nargs = (uint32_t)(op->nout + op->nin + op->body->nparam);
  c.first_arg = (uint32_t)(p->args.len / sizeof(MpccArgRef));
  for (int i = 0; i < op->nout; i++)
    put_arg(p, accessed(p, op->out[i], &op->body->out[i]));
  const bool rows = !strcmp(op_str(op, "kind", ""), "rows");
  for (int i = 0; i < op->nin; i++)
    put_arg(p, rows ? row_operand(p, op, i) : accessed(p, op->in[i], &op->body->in[i]));
  for (int i = 0; i < op->body->nparam; i++)
    put_arg(p, (MpccArgRef){.segment = MPCC_ARG_INT, .offset = op->body->param[i]});
  commands_put(p, op, c, label, op->nout, types);
}

void commands_copy(Package *p, const Op *op, MpccArgRef to, MpccArgRef from, const char *label,
                   const Type *type) {
  MpccCommand c = {.op = MPCC_CMD_COPY, .nargs = 2, .bytes = to.bytes};
  if (from.bytes != to.bytes)
    p->status = MPCC_ERR_INTERNAL;
  c.first_arg = put_arg(p, to);
  put_arg(p, from);
  commands_put(p, op, c, label, 1, &type);
}

/* What could not be written in place is copied when the function ends. */
static void put_write(Package *p, const Op *op) {
  MpccArgRef from = commands_place(p, op->in[0]), to = tensor_place(tensor_of(op));
  if (from.segment == to.segment && from.offset == to.offset)
    return;
  if (op->in[0]->type->dt != tensor_of(op)->type->dt || from.bytes != to.bytes) {
    p->status = MPCC_ERR_INTERNAL;
    return;
  }
  MpccCommand c = {.op = MPCC_CMD_COPY, .nargs = 2, .bytes = to.bytes};
  c.first_arg = put_arg(p, to);
  put_arg(p, from);
  const Type *type = tensor_of(op)->type;
  commands_put(p, op, c, "write", 1, &type);
}

void commands_function(Package *p, const Func *f) {
  MpccFunction row = {.name = package_string(p, f->name),
                      .first_command = (uint32_t)(p->commands.len / sizeof(MpccCommand))};
  size_t first_arg = p->args.len;
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_group)
      commands_group(p, f->op[i]);
    else if (f->op[i]->code == OP_scan)
      commands_scan(p, f->op[i]);
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_write)
      put_write(p, f->op[i]);
  row.ncommands = (uint32_t)(p->commands.len / sizeof(MpccCommand)) - row.first_command;
  for (size_t at = first_arg; at < p->args.len; at += sizeof(MpccArgRef)) {
    MpccArgRef a;
    memcpy(&a, p->args.data + at, sizeof a);
    if (a.segment < MPCC_SEG_COUNT)
      row.uses |= 1u << a.segment;
  }
  text_put(&p->functions, (const char *)&row, sizeof row);
}
