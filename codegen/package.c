/* The image of a program (include/mpcc/abi.h, docs/abi.md): tables that refer to each other by
 * index and to memory by segment and offset, strings stored once, code at the end. */
#include "codegen/codegen.h"

#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"

typedef struct {
  const Module *m;
  const KernelTable *kernels;
  const Diag *files;
  Text strings, tensors, functions, commands, args, kernel_rows, codes, objects;
  /* Offsets of strings by content: open addressing over indices into `strings`. */
  uint32_t *slot;
  size_t nslot, nstring;
  const Op *scan; /* whose body is being written; NULL outside */
  bool failed;
  Status status;
} Package;

/* ---- strings --------------------------------------------------------------------------------- */

static uint64_t text_hash(const char *s, size_t len) {
  uint64_t out[2];
  MpccHash h;
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, s, len);
  mpcc_hash_finish(&h, out);
  return out[0];
}

static void string_slots(Package *p, size_t n) {
  uint32_t *fresh = calloc(n, sizeof *fresh);
  if (!fresh) {
    p->failed = true;
    return;
  }
  for (size_t i = 0; i < p->nslot; i++) {
    if (!p->slot[i])
      continue;
    const char *s = p->strings.data + p->slot[i];
    size_t at = text_hash(s, strlen(s)) & (n - 1);
    while (fresh[at])
      at = (at + 1) & (n - 1);
    fresh[at] = p->slot[i];
  }
  free(p->slot);
  p->slot = fresh;
  p->nslot = n;
}

/* Offset of s; "" and NULL are at 0. */
static uint32_t string(Package *p, const char *s) {
  if (!s || !*s || p->failed)
    return 0;
  if (p->nstring * 2 >= p->nslot)
    string_slots(p, p->nslot ? p->nslot * 2 : 256);
  if (p->failed)
    return 0;
  size_t len = strlen(s), at = text_hash(s, len) & (p->nslot - 1);
  for (; p->slot[at]; at = (at + 1) & (p->nslot - 1))
    if (!strcmp(p->strings.data + p->slot[at], s))
      return p->slot[at];
  size_t offset = p->strings.len;
  text_put(&p->strings, s, len + 1);
  if (p->strings.failed || offset > UINT32_MAX) {
    p->failed = true;
    return 0;
  }
  p->slot[at] = (uint32_t)offset;
  p->nstring++;
  return (uint32_t)offset;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static uint32_t segment_of(Role r) {
  static const uint32_t segment[] = {
#define ROLE(id, text, seg, doc) MPCC_SEG_##seg,
#include "mpcc/roles.def"
#undef ROLE
  };
  return segment[r];
}

static void attr_json(Text *t, const Attr *a) {
  text_json(t, a->key);
  text_puts(t, ":");
  switch (a->kind) {
  case AT_INT:
    text_printf(t, "%lld", (long long)a->u.i);
    break;
  case AT_FLOAT:
    if (a->u.f - a->u.f == 0) {
      text_double(t, a->u.f);
    } else {
      Text word = {0}; /* JSON has no infinities */
      text_double(&word, a->u.f);
      text_json(t, word.data ? word.data : "");
      t->failed |= word.failed;
      text_fini(&word);
    }
    break;
  case AT_BOOL:
    text_puts(t, a->u.i ? "true" : "false");
    break;
  case AT_STR:
    text_json(t, a->u.s);
    break;
  case AT_DTYPE:
    text_json(t, dtype_text((DType)a->u.i));
    break;
  case AT_INTS:
    for (int i = 0; i < a->u.ints.n; i++)
      text_printf(t, "%s%lld", i ? "," : "[", (long long)a->u.ints.v[i]);
    text_puts(t, a->u.ints.n ? "]" : "[]");
    break;
  case AT_TENSOR:
    text_json(t, a->u.tensor->name);
    break;
  }
}

static uint32_t attrs_string(Package *p, const Tensor *t) {
  Text json = {0};
  for (int i = 0; i < t->nattr; i++) {
    text_puts(&json, i ? "," : "{");
    attr_json(&json, &t->attr[i]);
  }
  text_puts(&json, t->nattr ? "}" : "{}");
  p->failed |= json.failed;
  uint32_t at = string(p, json.data);
  text_fini(&json);
  return at;
}

static void put_tensor(Package *p, const Tensor *t) {
  MpccTensor row = {.name = string(p, t->name),
                    .dtype = (uint32_t)t->type->dt,
                    .role = (uint32_t)t->role,
                    .segment = segment_of(t->role),
                    .rank = (uint32_t)t->type->rank,
                    .base = (uint32_t)(t->base ? t->base->index : t->index),
                    .offset = (uint64_t)t->offset,
                    .bytes = (uint64_t)type_bytes(t->type),
                    .attrs = attrs_string(p, t)};
  for (int d = 0; d < t->type->rank; d++)
    row.dim[d] = t->type->dim[d];
  text_put(&p->tensors, (const char *)&row, sizeof row);
}

/* ---- commands -------------------------------------------------------------------------------- */

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

static MpccArgRef place_of(Package *p, const Value *v);

/* Axis 0 of `whole`, cut in n parts: the one of this iteration. */
static MpccArgRef slice_of(const Op *scan, MpccArgRef whole, int64_t n) {
  whole.bytes /= (uint64_t)n;
  whole.stride = (int64_t)whole.bytes;
  if (op_int(scan, "reverse", 0)) {
    whole.offset += (n - 1) * whole.stride;
    whole.stride = -whole.stride;
  }
  return whole;
}

/* The slot of a carried result before this iteration, or behind it. */
static MpccArgRef state_of(Package *p, const Op *yield, bool behind) {
  const Op *scan = p->scan;
  const int64_t slots = op_int(yield, "slots", 2);
  MpccArgRef a = place_of(p, scan->out[op_int(yield, "index", 0)]);
  a.bytes /= (uint64_t)slots;
  a.stride = (int64_t)a.bytes;
  if (slots == op_int(scan, "length", 1) + 1) {
    a.offset += loop_slot(scan, slots, behind) * a.stride;
    a.stride *= op_int(scan, "reverse", 0) ? -1 : 1;
  } else {
    a.ring = (uint32_t)slots;
    a.phase = behind;
  }
  return a;
}

/* Where an arg, or what is yielded, lies in the values of the scan. */
static MpccArgRef loop_place(Package *p, const Op *op) {
  const Op *scan = p->scan;
  const int64_t at = op_int(op, "index", 0), length = op_int(scan, "length", 1);
  const bool is_arg = op->code == OP_arg;
  switch (loop_kind(op)) {
  case LOOP_CARRIED:
    return state_of(p, is_arg ? loop_carrier(op->func, at) : op, !is_arg);
  case LOOP_STACKED:
    return slice_of(scan, place_of(p, is_arg ? scan->in[at] : scan->out[at]), length);
  default:
    return place_of(p, scan->in[at]);
  }
}

static const Op *first_yield(const Value *v) {
  const Func *f = v->def->func;
  for (int i = v->def->index + 1; i < f->nop; i++)
    if (f->op[i]->code == OP_yield && f->op[i]->in[0] == v)
      return f->op[i];
  return NULL;
}

/* Where a value lies; those of a loop's body, in this iteration. */
static MpccArgRef place_of(Package *p, const Value *v) {
  MpccArgRef a = {.bytes = (uint64_t)type_bytes(v->type)};
  const bool inside = p->scan && v->def->func != p->scan->func;
  if (inside && v->def->code == OP_arg)
    return loop_place(p, v->def);
  if (inside && v->offset < 0 && first_yield(v))
    return loop_place(p, first_yield(v));
  const Tensor *t = v->def->code == OP_read ? tensor_of(v->def) : v->alias;
  if (t) {
    a.segment = segment_of(t->role);
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
  MpccArgRef a = place_of(p, v);
  int64_t skip = at->offset * (int64_t)dtype_bytes(v->type->dt);
  if (skip < 0 || (uint64_t)skip > a.bytes) {
    p->status = MPCC_ERR_INTERNAL;
    return a;
  }
  a.offset += skip;
  a.bytes -= (uint64_t)skip;
  return a;
}

static MpccArgRef tensor_place(const Tensor *t) {
  return (MpccArgRef){segment_of(t->role), (uint32_t)t->index + 1, t->offset,
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
  uint32_t at = string(p, t.data);
  text_fini(&t);
  return at;
}

static void put_command(Package *p, const Op *op, MpccCommand c, const char *label, int nresult,
                        const Type *const *types) {
  char dtypes[64];
  int n = 0;
  for (; n < nresult && n < (int)sizeof dtypes - 1; n++)
    dtypes[n] = (char)('a' + types[n]->dt);
  dtypes[n] = 0;
  if (n < nresult)
    p->status = MPCC_ERR_INTERNAL;
  c.nout = (uint32_t)n;
  c.layer = string(p, op->layer);
  c.source = source_string(p, op->loc);
  c.label = string(p, label);
  c.value_dtypes = string(p, dtypes);
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
  MpccArgRef to = place_of(p, op->out[0]);
  int64_t inner = 1, axis = op_int(op, "axis", 0);
  for (int d = (int)axis + 1; d < op->body->ndim; d++)
    inner *= op->body->dim[d];
  int64_t unit = inner * (int64_t)dtype_bytes(op->out[0]->type->dt);
  for (int d = 0; d < axis; d++)
    if (op->body->dim[d] != 1)
      return false;
  for (int i = 0; i < op->nin; i++) {
    MpccArgRef from = place_of(p, op->in[i]);
    if (from.segment != to.segment || from.stride || to.stride ||
        op->in[i]->def->code != OP_group || from.offset != to.offset + starts->u.ints.v[i] * unit)
      return false;
  }
  return true;
}

static void put_fill(Package *p, const Op *op, MpccArgRef at) {
  MpccCommand c = {.op = MPCC_CMD_FILL, .nargs = 1, .bytes = at.bytes};
  c.first_arg = put_arg(p, at);
  put_command(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
}

/* Zeroes what lies between the pieces of a move that is done; `starts` rise. */
static void put_gaps(Package *p, const Op *op) {
  const Attr *starts = op_attr(op, "starts"), *sizes = op_attr(op, "sizes");
  MpccArgRef whole = place_of(p, op->out[0]);
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
    put_command(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
  }
  put_gaps(p, op);
}

static void put_product(Package *p, const Op *op) {
  const Body *b = op->body;
  const char *with = op_str(op, "with", "");
  MpccCommand c = {.op = MPCC_CMD_PRODUCT,
                   .nargs = (uint32_t)(1 + op->nin + MPCC_PRODUCT_INTS),
                   .first_arg = (uint32_t)(p->args.len / sizeof(MpccArgRef))};
  const MpccProduct m = {.with = !strcmp(with, "bias")     ? MPCC_WITH_BIAS
                                 : !strcmp(with, "alpha")  ? MPCC_WITH_ALPHA
                                 : !strcmp(with, "scales") ? MPCC_WITH_SCALES
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
                         .d_dtype = op->out[0]->type->dt};
  int64_t ints[MPCC_PRODUCT_INTS];
  memcpy(ints, &m, sizeof ints);
  put_arg(p, accessed(p, op->out[0], &b->out[0]));
  for (int i = 0; i < op->nin; i++)
    put_arg(p, accessed(p, op->in[i], &b->in[i]));
  for (int i = 0; i < MPCC_PRODUCT_INTS; i++)
    put_arg(p, (MpccArgRef){.segment = MPCC_ARG_INT, .offset = ints[i]});
  put_command(p, op, c, op_str(op, "label", ""), 1, &op->out[0]->type);
}

static void put_group(Package *p, const Op *op) {
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
    put_fill(p, op, place_of(p, op->out[0]));
    return;
  }
  int k = kernel_index(p->kernels, op);
  if (k < 0) {
    p->failed |= k == -2;
    if (k == -1)
      p->status = MPCC_ERR_INTERNAL;
    return;
  }
  c.kernel = (uint32_t)k;
  c.nargs = (uint32_t)(op->nout + op->nin + op->body->nparam);
  c.first_arg = (uint32_t)(p->args.len / sizeof(MpccArgRef));
  for (int i = 0; i < op->nout; i++)
    put_arg(p, accessed(p, op->out[i], &op->body->out[i]));
  for (int i = 0; i < op->nin; i++)
    put_arg(p, accessed(p, op->in[i], &op->body->in[i]));
  for (int i = 0; i < op->body->nparam; i++)
    put_arg(p, (MpccArgRef){.segment = MPCC_ARG_INT, .offset = op->body->param[i]});
  put_command(p, op, c, label, op->nout, types);
}

static void put_copy(Package *p, const Op *op, MpccArgRef to, MpccArgRef from, const char *label,
                     const Type *type) {
  MpccCommand c = {.op = MPCC_CMD_COPY, .nargs = 2, .bytes = to.bytes};
  if (from.bytes != to.bytes)
    p->status = MPCC_ERR_INTERNAL;
  c.first_arg = put_arg(p, to);
  put_arg(p, from);
  put_command(p, op, c, label, 1, &type);
}

/* The states before the first iteration, what the iterations share, and the loop itself: what
 * varies and what is yielded but was not made in its place. */
static void put_scan(Package *p, const Op *scan) {
  const Func *body = loop_body(scan);
  Arena *a = arena_create();
  bool *varies = a && body ? loop_varies(body, a) : NULL;
  if (!a || !body || arena_failed(a)) {
    p->failed = true;
    arena_destroy(a);
    return;
  }
  p->scan = scan;
  for (int i = 0; i < scan->nout; i++) {
    const Op *y = loop_yield(body, i);
    if (loop_kind(y) != LOOP_CARRIED)
      continue;
    MpccArgRef to = state_of(p, y, false);
    to.stride = to.ring = 0;
    put_copy(p, scan, to, place_of(p, scan->in[op_int(y, "arg", 0)]), "state", y->in[0]->type);
  }
  for (int i = 0; i < body->nop; i++)
    if (body->op[i]->code == OP_group && !varies[body->op[i]->out[0]->id])
      put_group(p, body->op[i]);
  size_t at = p->commands.len;
  put_command(p, scan,
              (MpccCommand){.op = MPCC_CMD_REPEAT, .bytes = (uint64_t)op_int(scan, "length", 1)},
              "loop", 0, NULL);
  for (int i = 0; i < body->nop; i++)
    if (body->op[i]->code == OP_group && varies[body->op[i]->out[0]->id])
      put_group(p, body->op[i]);
  for (int i = 0; i < body->nop; i++) {
    const Op *y = body->op[i];
    if (y->code == OP_yield &&
        (y->in[0]->def->code == OP_arg || y->in[0]->offset >= 0 || first_yield(y->in[0]) != y))
      put_copy(p, y, loop_place(p, y), place_of(p, y->in[0]), "yield", y->in[0]->type);
  }
  MpccCommand c;
  if (!p->commands.failed) {
    memcpy(&c, p->commands.data + at, sizeof c);
    c.kernel = (uint32_t)((p->commands.len - at) / sizeof c - 1);
    memcpy(p->commands.data + at, &c, sizeof c);
  }
  p->scan = NULL;
  arena_destroy(a);
}

/* What could not be written in place is copied when the function ends. */
static void put_write(Package *p, const Op *op) {
  MpccArgRef from = place_of(p, op->in[0]), to = tensor_place(tensor_of(op));
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
  put_command(p, op, c, "write", 1, &type);
}

static void put_function(Package *p, const Func *f) {
  MpccFunction row = {.name = string(p, f->name),
                      .first_command = (uint32_t)(p->commands.len / sizeof(MpccCommand))};
  size_t first_arg = p->args.len;
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_group)
      put_group(p, f->op[i]);
    else if (f->op[i]->code == OP_scan)
      put_scan(p, f->op[i]);
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

/* ---- kernels and code ------------------------------------------------------------------------ */

static void put_kernels(Package *p) {
  for (int i = 0; i < p->kernels->n; i++) {
    const Kernel *k = &p->kernels->kernel[i];
    MpccKernel row = {.symbol = string(p, k->symbol),
                      .nargs = (uint32_t)(k->group->nout + k->group->nin + k->group->body->nparam),
                      .ntiles = (uint64_t)k->ntiles,
                      .scratch_bytes = (uint64_t)k->scratch_bytes,
                      .threads = (uint32_t)k->threads,
                      .columns = (uint32_t)k->columns,
                      .object = (uint32_t)k->object};
    text_put(&p->kernel_rows, (const char *)&row, sizeof row);
  }
}

static void pad(Text *t, size_t align) {
  static const char zero[MPCC_ALIGN];
  if (t->len % align)
    text_put(t, zero, align - t->len % align);
}

/* object.offset counts from the start of the code until the layout is known. */
static void put_codes(Package *p, const Code *codes, int ncode) {
  for (int i = 0; i < ncode; i++) {
    pad(&p->objects, MPCC_ALIGN);
    MpccCode row = {.target = string(p, codes[i].target),
                    .level = string(p, codes[i].level),
                    .needs = string(p, codes[i].needs),
                    .object = {p->objects.len, codes[i].object_bytes}};
    text_put(&p->objects, codes[i].object, codes[i].object_bytes);
    text_put(&p->codes, (const char *)&row, sizeof row);
  }
}

/* ---- the image ------------------------------------------------------------------------------- */

static MpccSpan append(Text *image, const Text *part, size_t element) {
  pad(image, MPCC_ALIGN);
  MpccSpan s = {image->len, part->len / element};
  if (part->len)
    text_put(image, part->data, part->len);
  return s;
}

static void assemble(Package *p, uint32_t meta, Text *image) {
  MpccImage h = {.magic = "", .version = MPCC_ABI_VERSION, .header_bytes = sizeof h, .meta = meta};
  memcpy(h.magic, MPCC_IMAGE_MAGIC, sizeof h.magic);
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    h.segment_bytes[i] = (uint64_t)p->m->segment_bytes[i];
  text_put(image, (const char *)&h, sizeof h);
  h.strings = append(image, &p->strings, 1);
  h.tensors = append(image, &p->tensors, sizeof(MpccTensor));
  h.functions = append(image, &p->functions, sizeof(MpccFunction));
  h.commands = append(image, &p->commands, sizeof(MpccCommand));
  h.args = append(image, &p->args, sizeof(MpccArgRef));
  h.kernels = append(image, &p->kernel_rows, sizeof(MpccKernel));
  size_t code_rows = image->len;
  pad(image, MPCC_ALIGN);
  code_rows = image->len;
  h.codes = append(image, &p->codes, sizeof(MpccCode));
  uint64_t objects = append(image, &p->objects, 1).offset;
  pad(image, MPCC_ALIGN);
  if (image->failed)
    return;
  for (size_t i = 0; i < h.codes.count; i++) {
    MpccCode row;
    memcpy(&row, image->data + code_rows + i * sizeof row, sizeof row);
    row.object.offset += objects;
    memcpy(image->data + code_rows + i * sizeof row, &row, sizeof row);
  }
  h.image_bytes = image->len;
  memcpy(image->data, &h, sizeof h);
  mpcc_image_hash(image->data, image->len, h.hash);
  memcpy(image->data, &h, sizeof h);
}

Status package_image(const Module *m, const KernelTable *kernels, const Code *codes, int ncode,
                     const char *meta, const Diag *files, void **image, size_t *bytes) {
  Package p = {.m = m, .kernels = kernels, .files = files};
  Text out = {0};
  *image = NULL;
  *bytes = 0;
  text_put(&p.strings, "", 1);
  for (int i = 0; i < m->ntensor; i++)
    put_tensor(&p, m->tensor[i]);
  for (int i = 0; i < m->nfunc; i++)
    if (!func_is_body(m->func[i])) /* those are part of the functions that loop */
      put_function(&p, m->func[i]);
  put_kernels(&p);
  put_codes(&p, codes, ncode);
  uint32_t meta_at = string(&p, meta ? meta : "{}");
  p.failed |= p.strings.failed || p.tensors.failed || p.functions.failed || p.commands.failed ||
              p.args.failed || p.kernel_rows.failed || p.codes.failed || p.objects.failed;
  if (!p.failed && p.status == MPCC_OK)
    assemble(&p, meta_at, &out);
  Status s = p.status;
  if (s == MPCC_OK && (p.failed || out.failed))
    s = MPCC_ERR_NOMEM;
  if (s == MPCC_OK) {
    *image = out.data;
    *bytes = out.len;
  } else {
    text_fini(&out);
  }
  text_fini(&p.strings);
  text_fini(&p.tensors);
  text_fini(&p.functions);
  text_fini(&p.commands);
  text_fini(&p.args);
  text_fini(&p.kernel_rows);
  text_fini(&p.codes);
  text_fini(&p.objects);
  free(p.slot);
  return s;
}
