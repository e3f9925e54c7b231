/* Views: reshape, permute, expand, slice become strides over the value they look at, where strides
 * can say it; else the elements are copied. */
#include <string.h>

#include "passes/fuse.h"

View *view_of(Fuse *F, const Value *v) {
  View *w = F->view[v->id];
  if (!w) {
    fuse_error(F, v->def, "value %%%d is used before it is lowered", v->id);
    w = ARENA_NEW(F->a, View);
    w->dt = v->type->dt;
  }
  return w;
}

View *operand(Fuse *F, int i) {
  return view_of(F, F->op->in[i]);
}

static View *view_new(Fuse *F, DType dt, int rank, const int64_t *dim) {
  View *v = ARENA_NEW(F->a, View);
  v->dt = dt;
  v->rank = rank;
  for (int i = 0; i < rank; i++)
    v->dim[i] = dim[i];
  return v;
}

static void row_major(View *v) {
  int64_t stride = 1;
  for (int i = v->rank - 1; i >= 0; i--) {
    v->at.stride[i] = stride;
    stride *= v->dim[i];
  }
}

View *view_whole(Fuse *F, Buf *b) {
  View *v = view_new(F, b->type->dt, b->type->rank, b->type->dim);
  v->buf = b;
  row_major(v);
  return v;
}

int64_t view_elems(const View *v) {
  int64_t n = 1;
  for (int i = 0; i < v->rank; i++)
    n *= v->dim[i];
  return n;
}

bool view_contiguous(const View *v) {
  int64_t stride = 1;
  if (!v->buf || v->at.offset)
    return false;
  for (int i = v->rank - 1; i >= 0; i--) {
    if (v->dim[i] != 1 && v->at.stride[i] != stride)
      return false;
    stride *= v->dim[i];
  }
  return stride == type_elems(v->buf->type);
}

View *view_broadcast(Fuse *F, const View *v, int ndim, const int64_t *dim) {
  View *w = view_new(F, v->dt, ndim, dim);
  w->buf = v->buf;
  w->imm = v->imm;
  w->at.offset = v->at.offset;
  for (int i = 0; i < v->rank; i++) {
    int j = i + ndim - v->rank;
    if (j < 0 || (v->dim[i] != 1 && v->dim[i] != dim[j])) {
      if (v->dim[i] != 1)
        fuse_error(F, F->op, "operand of extent %lld does not fit the iteration space",
                   (long long)v->dim[i]);
      continue;
    }
    w->at.stride[j] = v->dim[i] == 1 ? 0 : v->at.stride[i];
  }
  return w;
}

bool view_reshaped(Fuse *F, const View *v, int ndim, const int64_t *dim, View **out) {
  View *w = view_new(F, v->dt, ndim, dim);
  w->buf = v->buf;
  w->imm = v->imm;
  w->at.offset = v->at.offset;
  *out = w;
  if (!v->buf)
    return true;
  if (!view_elems(v)) {
    row_major(w);
    return true;
  }
  /* From the innermost dimension out: runs of dimensions that one stride walks, against the new
   * extents that must tile each run. */
  int j = ndim - 1, i = v->rank - 1;
  while (i >= 0) {
    int64_t run = v->dim[i], base = v->at.stride[i];
    if (run == 1) {
      i--;
      continue;
    }
    i--;
    while (i >= 0 && (v->dim[i] == 1 || v->at.stride[i] == base * run)) {
      run *= v->dim[i];
      i--;
    }
    int64_t done = 1;
    while (done < run) {
      while (j >= 0 && dim[j] == 1)
        j--;
      if (j < 0 || run % (done * dim[j]))
        return false;
      w->at.stride[j] = base * done;
      done *= dim[j--];
    }
  }
  return true;
}

View *view_copied(Fuse *F, const View *v, DType dt) {
  for (int i = 0; i < F->ncopy; i++) {
    const CopyEntry *e = &F->copy[i];
    if (e->from.buf == v->buf && e->to->dt == dt && e->from.rank == v->rank && v->buf &&
        e->from.at.offset == v->at.offset &&
        !memcmp(e->from.dim, v->dim, (size_t)v->rank * sizeof *v->dim) &&
        !memcmp(e->from.at.stride, v->at.stride, (size_t)v->rank * sizeof *v->at.stride))
      return e->to;
  }
  Node *n = node_rows(F, v->rank, v->dim);
  n->label = dt == v->dt ? "copy" : "cast";
  n->nop -= dt == v->dt; /* what it is merged with gives the kernel its name and place */
  View *to = view_whole(F, node_store(F, n, node_load(F, n, v), dt, ~0u));
  F->copy = fuse_grow(F, F->copy, F->ncopy, &F->ccopy, sizeof *F->copy);
  if (F->status == MPCC_OK)
    F->copy[F->ncopy++] = (CopyEntry){*v, to};
  return to;
}

View *view_materialize(Fuse *F, const View *v) {
  if (!view_contiguous(v))
    return view_copied(F, v, v->dt);
  View *same = ARENA_NEW(F->a, View);
  *same = *v;
  return same;
}

View *view_permuted(Fuse *F, const View *v, const int64_t *perm) {
  View *w = view_new(F, v->dt, v->rank, v->dim);
  w->buf = v->buf;
  w->imm = v->imm;
  w->at.offset = v->at.offset;
  for (int i = 0; i < v->rank; i++) {
    w->dim[i] = v->dim[perm[i]];
    w->at.stride[i] = v->at.stride[perm[i]];
  }
  return w;
}

View *view_channels_last(Fuse *F, const View *v) {
  int64_t perm[MAX_RANK] = {0};
  for (int i = 1; i + 1 < v->rank; i++)
    perm[i] = i + 1;
  perm[v->rank - 1] = 1;
  return view_permuted(F, v, perm);
}

void set_result(Fuse *F, int i, View *v) {
  const Value *value = F->op->out[i];
  View *w = v;
  /* A result may have been made in another shape of as many elements. */
  if (v->rank != value->type->rank ||
      memcmp(v->dim, value->type->dim, (size_t)v->rank * sizeof *v->dim))
    if (!view_reshaped(F, v, value->type->rank, value->type->dim, &w))
      fuse_error(F, F->op, "result %d cannot be seen in its shape", i);
  F->view[value->id] = w;
  if (w->buf && w->buf->def && op_int(F->op, "as_stored", 0))
    w->buf->exact = true;
}

void set_result_buf(Fuse *F, int i, Buf *b) {
  set_result(F, i, view_whole(F, b));
}

static void view_reshape(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  View *w, *x = operand(F, 0);
  if (!view_reshaped(F, x, ty->rank, ty->dim, &w))
    view_reshaped(F, view_materialize(F, x), ty->rank, ty->dim, &w);
  F->view[op->out[0]->id] = w;
}

static void view_permute(Fuse *F, const Op *op) {
  const Attr *perm = op_attr(op, "perm");
  F->view[op->out[0]->id] = view_permuted(F, operand(F, 0), perm->u.ints.v);
}

static void view_expand(Fuse *F, const Op *op) {
  const Type *ty = op->out[0]->type;
  F->view[op->out[0]->id] = view_broadcast(F, operand(F, 0), ty->rank, ty->dim);
}

static void view_slice(Fuse *F, const Op *op) {
  View *x = operand(F, 0), *w = ARENA_NEW(F->a, View);
  int64_t dim = op_int(op, "dim", 0), start = op_int(op, "start", 0);
  *w = *x;
  if (dim < 0)
    dim += x->rank;
  w->dim[dim] = op->out[0]->type->dim[dim];
  w->at.offset += start * x->at.stride[dim];
  F->view[op->out[0]->id] = w;
}

static void view_qgrad(Fuse *F, const Op *op) {
  F->view[op->out[0]->id] = operand(F, 0);
}

static void view_loss(Fuse *F, const Op *op) {
  F->view[op->out[0]->id] = operand(F, 0);
}

typedef void ViewFn(Fuse *F, const Op *op);
#define LOWER_NONE(name) NULL
#define LOWER_PRODUCT(name) NULL
#define LOWER_ATTENTION(name) NULL
#define LOWER_ROWS(name) NULL
#define LOWER_ELEM(name) NULL
#define LOWER_VIEW(name) view_##name
#define LOWER_MOVE(name) NULL
#define LOWER_INDEX(name) NULL
#define LOWER_PACK(name) NULL
#define LOWER_WINDOW(name) NULL
static ViewFn *const view_fn[OP_COUNT] = {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) [OP_##name] = LOWER_##kind(name),
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc)
#include "ir/ops.def"
#undef OP
#undef SCALAR
};

void view_op(Fuse *F, const Op *op) {
  view_fn[op->code](F, op);
}
