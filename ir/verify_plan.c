/* Planned modules: storage of tensors, places of values. Memory of a value lives from the op that
 * defines it to its last use; a tensor's starting value lives to the last use of what was read from
 * it. Two memories that overlap in bytes must not overlap in life, except where a kernel works in
 * place: same dtype and identical access (docs/groups.md). */
#include "ir/verify.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"

static int role_segment(Role r) {
  static const int segments[] = {
#define ROLE(id, text, segment, doc) MPCC_SEG_##segment,
#include "mpcc/roles.def"
#undef ROLE
  };
  return segments[r];
}

static int by_place(const void *a, const void *b) {
  const Tensor *x = *(const Tensor *const *)a, *y = *(const Tensor *const *)b;
  int sx = role_segment(x->role), sy = role_segment(y->role);
  return sx != sy ? sx - sy : x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void check_offset(Verify *v, const Tensor *t) {
  int64_t bytes = type_bytes(t->type), all = v->m->segment_bytes[role_segment(t->role)];
  if (t->base) {
    int64_t want = t->base->offset + t->base_elem * (int64_t)dtype_bytes(t->type->dt);
    if (t->offset >= 0 && t->offset != want)
      verify_broken(v, "view '%s' is at offset %lld, its base says %lld", t->name,
                    (long long)t->offset, (long long)want);
    return;
  }
  if (t->offset < 0 || t->offset % MPCC_ALIGN)
    verify_broken(v, "tensor '%s' has offset %lld, not a multiple of %d", t->name,
                  (long long)t->offset, MPCC_ALIGN);
  else if (bytes > all || t->offset > all - bytes)
    verify_broken(v, "tensor '%s' ends outside its segment of %lld bytes", t->name, (long long)all);
}

void verify_segments(Verify *v) {
  const Module *m = v->m;
  const Tensor **bases = calloc((size_t)m->ntensor + 1, sizeof *bases);
  int n = 0, before = diag_errors(v->d);
  if (!bases) {
    verify_broken(v, "out of memory");
    return;
  }
  for (int i = 0; i < m->ntensor; i++) {
    check_offset(v, m->tensor[i]);
    if (!m->tensor[i]->base)
      bases[n++] = m->tensor[i];
  }
  qsort(bases, (size_t)n, sizeof *bases, by_place);
  for (int i = 1; i < n && diag_errors(v->d) == before; i++)
    if (role_segment(bases[i]->role) == role_segment(bases[i - 1]->role) &&
        bases[i]->offset < bases[i - 1]->offset + type_bytes(bases[i - 1]->type))
      verify_broken(v, "tensors '%s' and '%s' share bytes", bases[i - 1]->name, bases[i]->name);
  free(bases);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Bytes and life of one value. space: NULL the work arena, else the base tensor it lies in. */
typedef struct {
  const Value *value;
  const Op *by; /* the op that writes it: definition, or the `write` that copies it */
  const Tensor *space;
  int64_t lo, hi;
  int def, last; /* op indices; a value read from a tensor is there from the start: -1 */
} Memory;

static const Tensor *root(const Tensor *t) {
  return t->base ? t->base : t;
}

static bool in_tensor(Memory *m, const Tensor *t, int64_t elem) {
  int64_t size = (int64_t)dtype_bytes(t->type->dt), n = type_elems(t->type);
  int64_t mine = type_elems(m->value->type);
  m->space = root(t);
  m->lo = ((t->base ? t->base_elem : 0) + elem) * size;
  m->hi = m->lo + mine * size;
  return m->value->type->dt == t->type->dt && elem >= 0 && mine <= n && elem <= n - mine;
}

/* False when the value has no memory of its own (an unplaced constant). */
static bool find_memory(Verify *v, const Value *x, Memory *m) {
  const Op *def = x->def;
  *m = (Memory){.value = x, .by = def, .def = def->index, .last = def->index};
  int64_t bytes = type_bytes(x->type);
  v->op = def;
  if (x->alias) {
    if (x->offset >= 0)
      verify_broken(v, "%%%d is both in the work arena and in tensor '%s'", x->id, x->alias->name);
    if (!in_tensor(m, x->alias, x->alias_elem))
      verify_broken(v, "%%%d does not fit tensor '%s'", x->id, x->alias->name);
  } else if (x->offset >= 0) {
    m->lo = x->offset;
    m->hi = x->offset + bytes;
    /* a number may be one of many that lie side by side */
    const int64_t align = type_elems(x->type) == 1 ? bytes : MPCC_ALIGN;
    if (x->offset % align || bytes > v->f->work_bytes || x->offset > v->f->work_bytes - bytes)
      verify_broken(v, "%%%d is at work byte %lld, unaligned or outside its %lld bytes", x->id,
                    (long long)x->offset, (long long)v->f->work_bytes);
  } else if (def->code == OP_read) {
    in_tensor(m, op_attr(def, "tensor")->u.tensor, 0);
  } else if (def->code == OP_group || def->code == OP_scan) {
    if (!v->yielded[x->id])
      verify_broken(v, "%%%d has no place", x->id);
    return false;
  } else {
    return false;
  }
  if (def->code == OP_read && m->space)
    m->def = -1;
  if (v->varies && !v->varies[x->id]) { /* made before the loop, for all of it */
    m->def = 0;
    m->last = INT_MAX;
  }
  return true;
}

/* Group op `op` may write result x over operand y: every use of y by it has x's access, and is a
 * use element by element (all of `rows` but partial results, the epilogue of a product, what `gemm`
 * adds, the base of `scatter`). */
static bool in_place(const Op *op, const Memory *x, const Memory *y) {
  const char *kind = op_str(op, "kind", "");
  const Body *b = op->body;
  bool sum = !strcmp(kind, "gemm") && !strcmp(op_str(op, "with", ""), "sum");
  bool behind =
      !strcmp(kind, "product") || !strcmp(kind, "conv") || !strcmp(kind, "scatter") || sum;
  int first = !strcmp(kind, "rows") ? 0 : behind ? 2 : INT_MAX;
  if (op->code != OP_group || x->lo != y->lo || x->value->type->dt != y->value->type->dt)
    return false;
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_STORE && b->stmt[i].ref == x->value->out &&
        (b->stmt[i].level == LV_COL || b->stmt[i].level == LV_ALL) && x->hi - x->lo > 8)
      return false;
  for (int k = 0; k < op->nin; k++)
    if (op->in[k] == y->value && (k < first || !body_same_access(b, &b->in[k], &b->out[x->value->out])))
      return false;
  return true;
}

/* Operand y of a `move` lies already where the move puts it in result x; it may live on there. */
static bool moved_in_place(const Op *op, const Memory *x, const Memory *y) {
  if (op->code != OP_group || strcmp(op_str(op, "kind", ""), "move") || x->value->def != op ||
      x->value->type->dt != y->value->type->dt)
    return false;
  const Body *b = op->body;
  const Access *out = &b->out[0];
  const int64_t axis = op_int(op, "axis", 0), size = (int64_t)dtype_bytes(x->value->type->dt);
  const int64_t *starts = op_attr(op, "starts")->u.ints.v, *sizes = op_attr(op, "sizes")->u.ints.v;
  bool found = false;
  for (int k = 0; k < op->nin; k++) {
    if (op->in[k] != y->value)
      continue;
    const Access *in = &b->in[k];
    found = true;
    if (y->lo + in->offset * size != x->lo + (out->offset + starts[k] * out->stride[axis]) * size)
      return false;
    for (int d = 0; d < b->ndim; d++)
      if ((d == axis ? sizes[k] : b->dim[d]) > 1 && in->stride[d] != out->stride[d])
        return false;
  }
  return found;
}

static int by_start(const void *a, const void *b) {
  const Memory *x = a, *y = b;
  if (x->space != y->space) { /* the work arena first, then tensors as the module has them */
    int i = x->space ? x->space->index : -1, k = y->space ? y->space->index : -1;
    return i - k;
  }
  if (x->lo != y->lo)
    return x->lo < y->lo ? -1 : 1;
  return x->value->id - y->value->id;
}

static void check_pair(Verify *v, const Memory *x, const Memory *y) {
  if (x->space != y->space || x->hi <= y->lo || y->hi <= x->lo)
    return;
  const Memory *a = x->def <= y->def ? x : y, *b = a == x ? y : x; /* b is written later */
  if (b->def < 0 || b->def > a->last)
    return; /* two reads, or a is dead by then */
  if (b->def == a->last && b->def > a->def && in_place(b->by, b, a))
    return;
  if (b->def > a->def && moved_in_place(b->by, b, a))
    return;
  v->op = b->by;
  verify_broken(v, "%%%d is written over %%%d, which lives to op %d", b->value->id, a->value->id,
                a->last);
}

/* A write that is not in place copies its value when the function ends: as if one were defined
 * then. False when the value lies there already. */
static bool write_memory(const Func *f, const Op *op, const Memory *from, Memory *m) {
  const Tensor *t = op_attr(op, "tensor")->u.tensor;
  *m = (Memory){.value = op->in[0], .by = op, .def = f->nop, .last = INT_MAX};
  in_tensor(m, t, 0);
  return !(from && from->space == m->space && from->lo == m->lo);
}

/* Room for the body of a scan, while that runs. */
static bool frame_memory(Verify *v, const Op *scan, Memory *m) {
  const Func *body = loop_body(scan);
  int64_t at = op_int(scan, "frame", -1), bytes = body ? body->work_bytes : 0;
  *m = (Memory){.value = scan->out[0], .by = scan, .lo = at, .hi = at + bytes};
  m->def = m->last = scan->index;
  v->op = scan;
  if (at < 0 || at % MPCC_ALIGN || bytes > v->f->work_bytes || at > v->f->work_bytes - bytes)
    verify_broken(v, "its frame lies outside the %lld bytes of the function",
                  (long long)v->f->work_bytes);
  return bytes > 0;
}

static void verify_memories(Verify *v) {
  const Func *f = v->f;
  Memory *m = calloc((size_t)(f->nvalue + f->nop) + 1, sizeof *m);
  int *at = calloc((size_t)f->nvalue + 1, sizeof *at); /* 1 + index in m by value id */
  int n = 0, before = diag_errors(v->d);
  for (int i = 0; m && at && i < f->nop; i++) {
    const Op *op = f->op[i];
    if (op->code == OP_scan && frame_memory(v, op, &m[n]))
      n++;
    for (int k = 0; k < op->nin; k++)
      if (at[op->in[k]->id] && m[at[op->in[k]->id] - 1].last < i)
        m[at[op->in[k]->id] - 1].last = i;
    for (int k = 0; k < op->nout; k++)
      if (find_memory(v, op->out[k], &m[n]))
        at[op->out[k]->id] = ++n;
    int from = op->code == OP_write ? at[op->in[0]->id] : 0;
    if (op->code == OP_write) {
      const Tensor *t = op_attr(op, "tensor")->u.tensor;
      v->op = op;
      if (role_segment(t->role) == MPCC_SEG_WORK && root(t)->offset < f->work_bytes)
        verify_broken(v, "tensor '%s' lies in the %lld bytes that this function works in", t->name,
                      (long long)f->work_bytes);
      if (from) /* the tensor keeps it, or it is copied at the end */
        m[from - 1].last = INT_MAX;
      if (write_memory(f, op, from ? &m[from - 1] : NULL, &m[n]))
        n++;
    }
  }
  if (!m || !at)
    verify_broken(v, "out of memory");
  /* Sorted by where they start, a memory meets those behind it up to its end: few, where all pairs
   * of a deep model would be millions. */
  if (n)
    qsort(m, (size_t)n, sizeof *m, by_start);
  for (int i = 0; i < n && diag_errors(v->d) == before; i++)
    for (int k = i + 1; k < n && m[k].space == m[i].space && m[k].lo < m[i].hi; k++)
      check_pair(v, &m[i], &m[k]);
  v->op = NULL;
  free(m);
  free(at);
}

void verify_places(Verify *v) {
  const Func *f = v->f;
  Arena *a = arena_create();
  v->yielded = a ? ARENA_ARRAY(a, bool, f->nvalue + 1) : NULL;
  v->varies = a && func_is_body(f) ? loop_varies(f, a) : NULL;
  if (!a || arena_failed(a)) {
    v->short_memory = true;
  } else {
    for (int i = 0; i < f->nop; i++)
      if (f->op[i]->code == OP_yield)
        v->yielded[f->op[i]->in[0]->id] = true;
    verify_memories(v);
  }
  v->yielded = v->varies = NULL;
  arena_destroy(a);
}
