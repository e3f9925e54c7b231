/* Kernels of a planned module: groups with equal content share one; targets by name. */
#include "codegen/codegen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"

const Target *target_by_name(const char *name) {
#ifdef MPCC_LLVM
  if (!strcmp(name, target_cpu.name))
    return &target_cpu;
#endif
  return !strcmp(name, target_cuda.name) ? &target_cuda : NULL;
}

/* ---- content --------------------------------------------------------------------------------- */

static void add_int(MpccHash *h, int64_t v) {
  mpcc_hash_add(h, &v, sizeof v);
}

static void add_text(MpccHash *h, const char *s) {
  size_t n = strlen(s);
  add_int(h, (int64_t)n);
  mpcc_hash_add(h, s, n);
}

static void add_attr(MpccHash *h, const Attr *a) {
  add_text(h, a->key);
  add_int(h, a->kind);
  switch (a->kind) {
  case AT_INT:
  case AT_BOOL:
  case AT_DTYPE:
    add_int(h, a->u.i);
    break;
  case AT_FLOAT:
    mpcc_hash_add(h, &a->u.f, sizeof a->u.f);
    break;
  case AT_STR:
    add_text(h, a->u.s);
    break;
  case AT_INTS:
    add_int(h, a->u.ints.n);
    mpcc_hash_add(h, a->u.ints.v, (size_t)a->u.ints.n * sizeof *a->u.ints.v);
    break;
  case AT_TENSOR:
    add_text(h, a->u.tensor->name);
    break;
  }
}

/* Without the offset: it is part of the address that is passed. */
static void add_operand(MpccHash *h, const Body *b, const Access *a, const Value *v) {
  add_int(h, v->type->dt);
  mpcc_hash_add(h, a->stride, (size_t)b->ndim * sizeof *a->stride);
}

/* All that a kernel's code depends on; not the values of parameters, what readers are told, or places. Numbers
 * as they are in memory: there are thousands of groups, and few kernels. */
static void add_content(MpccHash *h, const Op *op) {
  const Body *b = op->body;
  const int64_t sizes[] = {b->ndim, b->ncol, b->panel_rows, b->nparam, op->nin, op->nout, b->nstmt};
  mpcc_hash_add(h, sizes, sizeof sizes);
  mpcc_hash_add(h, b->dim, (size_t)b->ndim * sizeof *b->dim);
  for (int i = 0; i < op->nattr; i++)
    if (!attr_is_told(&op->attr[i]))
      add_attr(h, &op->attr[i]);
  for (int i = 0; i < op->nin; i++)
    add_operand(h, b, &b->in[i], op->in[i]);
  for (int i = 0; i < op->nout; i++)
    add_operand(h, b, &b->out[i], op->out[i]);
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    const int64_t words[] = {s->prim,   s->level,  s->dt,     s->rd, s->arg[0],
                             s->arg[1], s->arg[2], s->arg[3], s->ref};
    mpcc_hash_add(h, words, sizeof words);
    mpcc_hash_add(h, &s->imm, sizeof s->imm);
  }
}

static uint64_t content_hash(const Op *op) {
  MpccHash h;
  uint64_t hash[2];
  mpcc_hash_init(&h);
  add_content(&h, op);
  mpcc_hash_finish(&h, hash);
  return hash[0];
}

static int find_kernel(const KernelTable *t, uint64_t hash) {
  for (int i = 0; i < t->n; i++)
    if (t->kernel[i].hash == hash)
      return i;
  return -1;
}

int kernel_index(const KernelTable *t, const Op *group) {
  const Module *m = group->func ? group->func->module : NULL;
  for (int f = 0; t->of && m == t->module && f < m->nfunc; f++)
    if (m->func[f] == group->func)
      return t->of[f][group->index];
  return find_kernel(t, content_hash(group));
}

/* The group as its kernel sees it: offsets are in the addresses, so they are zero here. */
static const Op *without_offsets(const Op *op, Arena *a) {
  Op *copy = ARENA_NEW(a, Op);
  Body *b = ARENA_NEW(a, Body);
  *copy = *op;
  *b = *op->body;
  copy->body = b;
  b->in = ARENA_ARRAY(a, Access, b->nin + 1);
  b->out = ARENA_ARRAY(a, Access, b->nout + 1);
  if (arena_failed(a))
    return op;
  for (int i = 0; i < b->nin; i++) {
    b->in[i] = op->body->in[i];
    b->in[i].offset = 0;
  }
  for (int i = 0; i < b->nout; i++) {
    b->out[i] = op->body->out[i];
    b->out[i].offset = 0;
  }
  return copy;
}

/* Strides of an access over the dimensions from `axis` on are those of packed memory, when the axis
 * has `size` elements. */
static bool is_packed(const Body *b, const Access *a, int axis, int64_t size) {
  int64_t stride = 1;
  for (int d = b->ndim - 1; d >= axis; d--) {
    int64_t n = d == axis ? size : b->dim[d];
    if (n != 1 && a->stride[d] != stride)
      return false;
    stride *= n;
  }
  return true;
}

bool codegen_is_product(const Op *op) {
  return op->code == OP_group && !strcmp(op_str(op, "kind", ""), "gemm");
}

bool codegen_is_copies(const Op *op) {
  enum { MANY = 16 };
  const Body *b = op->body;
  if (op->code != OP_group || strcmp(op_str(op, "kind", ""), "move") || op->nin <= MANY)
    return false;
  const Attr *sizes = op_attr(op, "sizes");
  int axis = (int)op_int(op, "axis", 0);
  for (int d = 0; d < axis; d++)
    if (b->dim[d] != 1)
      return false;
  if (!is_packed(b, &b->out[0], axis, b->dim[axis]))
    return false;
  for (int i = 0; i < op->nin; i++)
    if (op->in[i]->type->dt != op->out[0]->type->dt ||
        !is_packed(b, &b->in[i], axis, sizes->u.ints.v[i]))
      return false;
  return true;
}

static int by_start(const void *x, const void *y) {
  const MovePart *a = x, *b = y;
  return a->start < b->start ? -1 : a->start > b->start;
}

int codegen_move_parts(const Op *group, MovePart *part) {
  const Attr *starts = op_attr(group, "starts"), *sizes = op_attr(group, "sizes");
  const int64_t length = group->body->dim[op_int(group, "axis", 0)];
  int n = group->nin, count = n;
  int64_t at = 0;
  if (!starts || !sizes || starts->u.ints.n < n || sizes->u.ints.n < n)
    return -1;
  for (int k = 0; k < n; k++)
    part[k] = (MovePart){k, starts->u.ints.v[k], sizes->u.ints.v[k]};
  if (!op_int(group, "zero", 0))
    return n;
  qsort(part, (size_t)n, sizeof *part, by_start);
  for (int k = 0; k < n; k++) {
    if (part[k].start > at)
      part[count++] = (MovePart){-1, at, part[k].start - at};
    if (part[k].start + part[k].size > at)
      at = part[k].start + part[k].size;
  }
  if (at < length)
    part[count++] = (MovePart){-1, at, length - at};
  return count;
}

enum { SYMBOL_BYTES = 48 }; /* "<kind>_<16 hex digits>" */

Status codegen_kernels(const Module *m, Arena *a, KernelTable *out) {
  int groups = 0;
  *out = (KernelTable){0};
  for (int f = 0; f < m->nfunc; f++)
    for (int i = 0; i < m->func[f]->nop; i++)
      groups += m->func[f]->op[i]->code == OP_group;
  out->kernel = ARENA_ARRAY(a, Kernel, groups + 1);
  out->module = m;
  out->of = ARENA_ARRAY(a, int *, m->nfunc + 1);
  for (int f = 0; f < m->nfunc && !arena_failed(a); f++)
    out->of[f] = ARENA_ARRAY(a, int, m->func[f]->nop + 1);
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  for (int f = 0; f < m->nfunc; f++)
    for (int i = 0; i < m->func[f]->nop; i++) {
      const Op *op = m->func[f]->op[i];
      int *of = &out->of[f][i];
      *of = -1;
      if (op->code != OP_group || codegen_is_copies(op) || codegen_is_product(op))
        continue;
      uint64_t hash = content_hash(op);
      *of = find_kernel(out, hash);
      if (*of >= 0)
        continue;
      *of = out->n;
      char *name = arena_alloc(a, SYMBOL_BYTES);
      if (arena_failed(a))
        return MPCC_ERR_NOMEM;
      snprintf(name, SYMBOL_BYTES, "%.24s_%016llx", op_str(op, "kind", "group"),
               (unsigned long long)hash);
      out->kernel[out->n++] =
          (Kernel){.group = without_offsets(op, a), .symbol = name, .hash = hash};
      if (arena_failed(a))
        return MPCC_ERR_NOMEM;
    }
  return MPCC_OK;
}
