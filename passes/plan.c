/* plan: where every byte lies.
 *
 * Tensors get their place in their segment (views inside their base). A value that a function
 * writes lives in its tensor from the start when nothing reads the old contents later; the pieces
 * of a concatenation along memory are made in place; a pointwise result takes over an operand that
 * dies. What is left shares the work segment: largest first, each in the smallest gap among those
 * that live at the same time (greedy by size, as in Pisarchyk and Lee 2020). A concatenation's
 * bytes are taken piece by piece, each when its piece is made: before, others lie there
 * (activations where their gradients will be). Stage kernels to planned. With no_reuse every value
 * has its own bytes and nothing is in place.
 *
 * The body of a loop is planned once, as a frame that each of its scans gives room. What it yields
 * is made in the scan's result; what does not vary is made once, before the loop, and keeps its
 * bytes. */
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"
#include "passes/passes.h"

enum { FOREVER = INT32_MAX };

/* Bytes that one value or several in turn occupy. */
typedef struct Block Block;
struct Block {
  int first, last; /* op indices */
  int64_t bytes, offset;
  Block *part; /* of a concatenation: what takes its bytes, in their order; offsets from its own */
  int npart;
};

typedef struct {
  Block *block;
  Value *parent; /* lies inside this one, at part bytes; no block of its own then */
  int64_t part;
  Tensor *alias; /* new tensor */
  int64_t alias_elem;
  int first, last; /* first: when the first of its pieces is made */
  bool has_pieces;
} Place;

/* Operand k of op i is (part of) a tensor as it was when the function started. */
typedef struct {
  int op, k;
} Use;

typedef struct {
  const Func *f;
  Arena *a;
  Place *place; /* by value id */
  Use *use; /* of all reads: those of tensors in base i are use[first_use[i] .. first_use[i + 1]) */
  int *first_use;
  bool no_reuse;
  int nblock;
  Block **block;
  Block **frame;          /* by op: room for the body of a scan */
  const Module *made;     /* the module being built: bodies are planned before their scans */
  bool *yielded, *varies; /* by value id, in a body; varies NULL elsewhere */
} Plan;

static int64_t round_up(int64_t n) {
  return (n + MPCC_ALIGN - 1) / MPCC_ALIGN * MPCC_ALIGN;
}

static bool is_group(const Value *v) {
  return v->def->code == OP_group;
}

static bool makes_values(const Op *op) {
  return op->code == OP_group || op->code == OP_scan;
}

static const char *kind_of(const Op *op) {
  return op_str(op, "kind", "");
}

/* ---- tensors --------------------------------------------------------------------------------- */

static int segment_of(Role r) {
  static const int segment[] = {
#define ROLE(id, text, seg, doc) MPCC_SEG_##seg,
#include "mpcc/roles.def"
#undef ROLE
  };
  return segment[r];
}

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

/* Most bytes of a function, of all or of those that write a tensor in the work segment. */
static int64_t most_work(const Module *m, bool writers) {
  int64_t most = 0;
  for (int i = 0; i < m->nfunc; i++) {
    const Func *f = m->func[i];
    bool counts = !writers;
    for (int k = 0; k < f->nop && !counts; k++)
      counts = f->op[k]->code == OP_write && segment_of(tensor_of(f->op[k])->role) == MPCC_SEG_WORK;
    if (counts && f->work_bytes > most)
      most = f->work_bytes;
  }
  return most;
}

/* Segment by segment in the order of the table; those in the work segment lie behind the bytes of
 * the functions that write them and share the rest with all others. */
static void place_tensors(Module *m) {
  const int64_t all_work = most_work(m, false);
  memset(m->segment_bytes, 0, sizeof m->segment_bytes);
  m->segment_bytes[MPCC_SEG_WORK] = most_work(m, true);
  for (int i = 0; i < m->ntensor; i++) {
    Tensor *t = m->tensor[i];
    if (t->base)
      continue;
    int64_t *end = &m->segment_bytes[segment_of(t->role)];
    t->offset = *end;
    *end += round_up(type_bytes(t->type));
  }
  if (m->segment_bytes[MPCC_SEG_WORK] < all_work)
    m->segment_bytes[MPCC_SEG_WORK] = all_work;
  for (int i = 0; i < m->ntensor; i++) {
    Tensor *t = m->tensor[i];
    if (t->base)
      t->offset = t->base->offset + t->base_elem * (int64_t)dtype_bytes(t->type->dt);
  }
}

static bool overlap(const Tensor *a, const Tensor *b) {
  const Tensor *base_a = a->base ? a->base : a, *base_b = b->base ? b->base : b;
  int64_t from_a = a->base ? a->base_elem : 0, from_b = b->base ? b->base_elem : 0;
  return base_a == base_b && from_a < from_b + type_elems(b->type) &&
         from_b < from_a + type_elems(a->type);
}

/* ---- in place -------------------------------------------------------------------------------- */

/* Result o of op may overwrite operand value x while op runs: each element is read, by the
 * iteration that writes it, before it is written. */
static bool in_place(const Op *op, int o, const Value *x) {
  const Body *b = op->body;
  const char *kind = kind_of(op);
  if (op->code != OP_group)
    return false;
  bool sum = !strcmp(kind, "gemm") && !strcmp(op_str(op, "with", ""), "sum");
  bool product = !strcmp(kind, "product") || !strcmp(kind, "conv") || sum;
  if (!strcmp(kind, "scatter"))
    return op->nin > 2 && op->in[2] == x && op->in[1] != x;
  if ((!product && strcmp(kind, "rows")) || x->type->dt != op->out[o]->type->dt ||
      type_elems(x->type) != type_elems(op->out[o]->type))
    return false;
  for (int i = 0; i < op->nin; i++)
    if (op->in[i] == x && ((product && i < 2) || !body_same_access(b, &b->in[i], &b->out[o])))
      return false;
  /* One element per panel or row is written before others of it are read. */
  for (int s = 0; s < b->nstmt; s++)
    if (b->stmt[s].prim == PR_STORE && b->stmt[s].ref == o && b->stmt[s].level != LV_ELEM &&
        !(b->stmt[s].level == LV_ROW && type_elems(x->type) == 1))
      return false;
  return true;
}

static int base_index(const Tensor *t) {
  return t->base ? t->base->index : t->index;
}

/* Sorts the uses of reads by base tensor, in program order. */
static void collect_uses(Plan *p, int ntensor) {
  const Func *f = p->f;
  int n = 0;
  int *at = p->first_use = ARENA_ARRAY(p->a, int, ntensor + 2);
  if (arena_failed(p->a))
    return;
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nin; k++)
      if (f->op[i]->in[k]->def->code == OP_read) {
        at[base_index(tensor_of(f->op[i]->in[k]->def)) + 2]++;
        n++;
      }
  p->use = ARENA_ARRAY(p->a, Use, n + 1);
  if (arena_failed(p->a))
    return;
  for (int i = 1; i < ntensor + 2; i++)
    at[i] += at[i - 1];
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nin; k++)
      if (f->op[i]->in[k]->def->code == OP_read)
        p->use[at[base_index(tensor_of(f->op[i]->in[k]->def)) + 1]++] = (Use){i, k};
}

/* May tensor t be overwritten when value v is made (its first piece at op `first`)? */
static bool may_overwrite(const Plan *p, const Value *v, int first, const Tensor *t) {
  int base = base_index(t);
  for (int u = p->first_use[base]; u < p->first_use[base + 1]; u++) {
    int i = p->use[u].op;
    const Op *op = p->f->op[i];
    const Value *x = op->in[p->use[u].k];
    if (i < first || !overlap(tensor_of(x->def), t))
      continue;
    if (op->code == OP_write && tensor_of(op) == tensor_of(x->def))
      continue; /* keeps what it has */
    if (i != v->def->index || first != i || tensor_of(x->def) != t || !in_place(op, v->out, x))
      return false;
  }
  return true;
}

/* A number is written by itself, wherever it lies; of many, those that others made stay apart and
 * are copied. */
static bool numbers_alone(const Op *op) {
  enum { MANY = 16 };
  bool all = op->nin > MANY && op->body->ndim == 1;
  const Attr *sizes = op_attr(op, "sizes");
  for (int i = 0; all && i < op->nin; i++)
    all = sizes->u.ints.v[i] == 1;
  return all;
}

/* Bytes of the result that operand i of a concatenation along memory begins at. */
static int64_t piece_start(const Op *op, int i, int64_t inner) {
  const Attr *starts = op_attr(op, "starts");
  return starts->u.ints.v[i] * inner * (int64_t)dtype_bytes(op->out[0]->type->dt);
}

/* Operand i may be made where the result has it. inner: elements of one step along the axis. */
static bool may_be_piece(const Plan *p, const Op *op, int i, int64_t inner, bool numbers) {
  const Body *b = op->body;
  const Value *whole = op->out[0], *x = op->in[i];
  const Place *q = &p->place[x->id];
  const int64_t axis = op_int(op, "axis", 0), size = op_attr(op, "sizes")->u.ints.v[i];
  if (!is_group(x) || x->type->dt != whole->type->dt || q->parent || q->has_pieces || q->alias ||
      p->yielded[x->id] || (p->varies && p->varies[x->id] != p->varies[whole->id]) ||
      type_elems(x->type) != size * inner || b->in[i].offset ||
      (!numbers && piece_start(op, i, inner) % MPCC_ALIGN))
    return false;
  int64_t stride = 1;
  for (int d = b->ndim - 1; d >= 0; d--) {
    int64_t n = d == axis ? size : b->dim[d];
    if (n > 1 && b->in[i].stride[d] != stride)
      return false;
    stride *= n;
  }
  for (int k = 0; k < op->nin; k++) /* it cannot lie in two places */
    if (k != i && op->in[k] == x)
      return false;
  return true;
}

/* v lies in `whole`, at part bytes. */
static void set_piece(Plan *p, const Value *v, const Value *whole, int64_t part) {
  Place *q = &p->place[v->id], *w = &p->place[whole->id];
  q->parent = (Value *)whole;
  q->part = part;
  w->first = q->first < w->first ? q->first : w->first;
  w->last = q->last > w->last ? q->last : w->last;
}

/* What piece x adds to, when x is a scatter that may be in place of it; NULL: there is none. */
static const Value *base_of_piece(const Plan *p, const Value *x) {
  const Op *op = x->def;
  if (strcmp(kind_of(op), "scatter") || op->nin < 3)
    return NULL;
  const Value *base = op->in[2];
  const Place *q = &p->place[base->id];
  bool may = is_group(base) && !q->parent && !q->has_pieces && !q->alias && !p->yielded[base->id] &&
             q->last == op->index && base->type->dt == x->type->dt && in_place(op, 0, base) &&
             !(p->varies && p->varies[base->id] != p->varies[x->id]);
  return may ? base : NULL;
}

/* Operands of a concatenation along memory become parts of its result. */
static void place_pieces(Plan *p, const Op *op) {
  const Body *b = op->body;
  const Value *whole = op->out[0];
  int64_t axis = op_int(op, "axis", 0), inner = 1;
  const bool numbers = numbers_alone(op);
  bool *piece = ARENA_ARRAY(p->a, bool, op->nin + 1), any = false;
  /* pieces lie in blocks, not in pieces of others */
  if (arena_failed(p->a) || p->yielded[whole->id] || p->place[whole->id].parent)
    return;
  for (int d = 0; d < b->ndim; d++)
    if (d < axis && b->dim[d] != 1)
      return;
    else if (d > axis)
      inner *= b->dim[d];
  for (int i = 0; i < op->nin; i++) {
    piece[i] = may_be_piece(p, op, i, inner, numbers);
    if (!piece[i] && !numbers)
      return;
    any |= piece[i];
  }
  for (int i = 0; i < op->nin; i++) {
    if (!piece[i])
      continue;
    set_piece(p, op->in[i], whole, piece_start(op, i, inner));
    const Value *base = base_of_piece(p, op->in[i]);
    if (base)
      set_piece(p, base, whole, piece_start(op, i, inner));
  }
  p->place[whole->id].has_pieces = any;
}

/* What a scatter adds to lies where its result does: tables are large, and few rows change. */
static void place_base(Plan *p, const Op *op, const Tensor *t, Tensor *alias) {
  const Value *x = op->in[2];
  Place *q = &p->place[x->id];
  if (is_group(x) && !q->alias && !q->parent && !q->has_pieces && q->last == op->index &&
      in_place(op, 0, x) && may_overwrite(p, x, q->first, t))
    q->alias = alias;
}

/* Values that end in a tensor and may live there. */
static void place_writes(Plan *p, Tensor *const *tensors) {
  const Func *f = p->f;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    if (op->code != OP_write)
      continue;
    const Value *v = op->in[0];
    const Tensor *t = tensor_of(op);
    if (!makes_values(v->def))
      continue;
    Place *q = &p->place[v->id];
    if (is_group(v) && !p->no_reuse && !q->alias && !q->parent && v->type->dt == t->type->dt &&
        may_overwrite(p, v, q->first, t)) {
      q->alias = tensors[t->index];
      if (!strcmp(kind_of(v->def), "scatter") && v->def->nin > 2)
        place_base(p, v->def, t, q->alias);
      continue;
    }
    /* Copied when the function ends, out of wherever it lies. */
    q->last = FOREVER;
    if (q->parent)
      p->place[q->parent->id].last = FOREVER;
  }
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Block of a dying operand that result o can take over; a result that nothing reads may have taken
 * it before. */
static Block *inherited(const Plan *p, const Op *op, int o) {
  for (int i = 0; i < op->nin && !p->no_reuse; i++) {
    const Value *x = op->in[i];
    const Place *q = &p->place[x->id];
    bool taken = false;
    for (int k = 0; k < o; k++)
      taken |= q->block && p->place[op->out[k]->id].block == q->block;
    if (taken)
      continue;
    if (!makes_values(x->def) || !q->block || q->has_pieces || q->last != op->index ||
        q->block->last != op->index || !in_place(op, o, x))
      continue;
    return q->block;
  }
  return NULL;
}

static Block *new_block(Plan *p, int first, int last, int64_t bytes) {
  Block *b = ARENA_NEW(p->a, Block);
  *b = (Block){.first = p->no_reuse ? 0 : first,
               .last = p->no_reuse ? FOREVER : last,
               .bytes = round_up(bytes)};
  p->block[p->nblock++] = b;
  return b;
}

static int by_offset(const void *a, const void *b) {
  const Block *x = a, *y = b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The parts of b, which is v with pieces in it: each piece from when it (or what it is added to) is
 * made, what lies between them from when v is. None when pieces are closer than blocks may lie. */
static void split_block(Plan *p, Block *b, const Value *v) {
  const Op *op = v->def;
  Block *part = ARENA_ARRAY(p->a, Block, 2 * op->nin + 1);
  int n = 0;
  if (arena_failed(p->a))
    return;
  for (int i = 0; i < op->nin; i++) {
    const Place *q = &p->place[op->in[i]->id];
    if (q->parent != v)
      continue;
    const Op *made = op->in[i]->def;
    const Place *base = made->nin > 2 ? &p->place[made->in[2]->id] : q;
    bool with_base = base->parent == v && base->part == q->part && base->first < q->first;
    if (q->part % MPCC_ALIGN)
      return;
    part[n++] = (Block){.first = with_base ? base->first : q->first,
                        .last = b->last,
                        .bytes = round_up(type_bytes(op->in[i]->type)),
                        .offset = q->part};
  }
  qsort(part, (size_t)n, sizeof *part, by_offset);
  int64_t end = 0;
  for (int i = 0, pieces = n; i <= pieces; i++) {
    int64_t next = i < pieces ? part[i].offset : b->bytes;
    if (next > end)
      part[n++] = (Block){.first = op->index, .last = b->last, .bytes = next - end, .offset = end};
    if (i < pieces)
      end = next + part[i].bytes;
  }
  qsort(part, (size_t)n, sizeof *part, by_offset);
  b->part = part;
  b->npart = n;
}

static void make_blocks(Plan *p) {
  const Func *f = p->f;
  for (int i = 0; i < f->nop; i++) {
    if (f->op[i]->code == OP_scan) {
      const Func *body = module_func(p->made, op_str(f->op[i], "func", ""));
      p->frame[i] = new_block(p, i, i, body ? body->work_bytes : 0);
    }
    for (int o = 0; makes_values(f->op[i]) && o < f->op[i]->nout; o++) {
      const Value *v = f->op[i]->out[o];
      Place *q = &p->place[v->id];
      if (q->alias || q->parent || p->yielded[v->id])
        continue;
      if (p->varies && !p->varies[v->id]) {
        q->block = new_block(p, 0, FOREVER, type_bytes(v->type));
        continue;
      }
      q->block = q->has_pieces ? NULL : inherited(p, f->op[i], o);
      if (q->block) {
        q->block->last = p->no_reuse ? FOREVER : q->last;
        continue;
      }
      q->block = new_block(p, q->first, q->last, type_bytes(v->type));
      if (q->has_pieces)
        split_block(p, q->block, v);
    }
  }
}

static int by_size(const void *a, const void *b) {
  const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
  if (x->bytes != y->bytes)
    return x->bytes < y->bytes ? 1 : -1;
  return x->first != y->first ? (x->first < y->first ? -1 : 1) : 0;
}

/* Stable order: equal blocks keep the order in which they were made. */
static void sort_blocks(Block **x, int n, Block **space) {
  if (n < 2)
    return;
  int h = n / 2, i = 0, j = h, k = 0;
  sort_blocks(x, h, space);
  sort_blocks(x + h, n - h, space);
  while (i < h || j < n)
    space[k++] = j == n || (i < h && by_size(&x[i], &x[j]) <= 0) ? x[i++] : x[j++];
  memcpy(x, space, (size_t)n * sizeof *x);
}

/* What placing the next blocks asks of those that have their place, side by side: all are looked at
 * each time. */
typedef struct {
  int first, last;
  int64_t offset, end;
} Placed;

/* Smallest gap between placed blocks that live when b does, lowest among equals. */
static void place_block(Block *b, const Placed *placed, int n) {
  int64_t best = -1, best_gap = 0, end = 0;
  for (int i = 0; i < n; i++) { /* placed: by offset */
    if (placed[i].first > b->last || placed[i].last < b->first)
      continue;
    int64_t gap = placed[i].offset - end;
    if (gap >= b->bytes && (best < 0 || gap < best_gap)) {
      best = end;
      best_gap = gap;
    }
    if (placed[i].end > end)
      end = placed[i].end;
  }
  b->offset = best < 0 ? end : best;
}

/* Adds b to the n placed ones, which are in the order of their offsets, behind its equals. */
static void add_placed(Placed *placed, int *n, const Block *b) {
  int lo = 0, hi = *n;
  while (lo < hi) {
    int mid = lo + (hi - lo) / 2;
    if (placed[mid].offset > b->offset)
      hi = mid;
    else
      lo = mid + 1;
  }
  memmove(placed + lo + 1, placed + lo, (size_t)(*n - lo) * sizeof *placed);
  placed[lo] = (Placed){b->first, b->last, b->offset, b->offset + b->bytes};
  ++*n;
}

static int64_t place_blocks(Plan *p) {
  int most = 1, n = 0;
  for (int i = 0; i < p->nblock; i++)
    most += 1 + p->block[i]->npart;
  Block **order = ARENA_ARRAY(p->a, Block *, p->nblock + 1);
  Block **space = ARENA_ARRAY(p->a, Block *, p->nblock + 1);
  Placed *placed = ARENA_ARRAY(p->a, Placed, most);
  int64_t peak = 0;
  if (arena_failed(p->a))
    return 0;
  memcpy(order, p->block, (size_t)p->nblock * sizeof *order);
  sort_blocks(order, p->nblock, space);
  for (int i = 0; i < p->nblock; i++) {
    Block *b = order[i];
    place_block(b, placed, n);
    if (!b->npart)
      add_placed(placed, &n, b);
    for (int k = 0; k < b->npart; k++) {
      b->part[k].offset += b->offset;
      add_placed(placed, &n, &b->part[k]);
    }
    if (b->offset + b->bytes > peak)
      peak = b->offset + b->bytes;
  }
  return peak;
}

/* ---- functions ------------------------------------------------------------------------------- */

static void lifetimes(Plan *p) {
  const Func *f = p->f;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    for (int o = 0; o < op->nout; o++) {
      p->place[op->out[o]->id].first = i;
      p->place[op->out[o]->id].last = i;
    }
    for (int k = 0; k < op->nin; k++)
      if (op->code != OP_write)
        p->place[op->in[k]->id].last = i;
  }
}

static void set_frame(Op *scan, int64_t offset) {
  for (int i = 0; i < scan->nattr; i++)
    if (!strcmp(scan->attr[i].key, "frame"))
      scan->attr[i].u.i = offset;
}

static void apply(const Plan *p, const Copier *c) {
  for (int i = 0; i < p->f->nop; i++) {
    if (p->frame[i])
      set_frame(copier_get(c, p->f->op[i]->out[0])->def, p->frame[i]->offset);
    for (int o = 0; makes_values(p->f->op[i]) && o < p->f->op[i]->nout; o++) {
      const Value *v = p->f->op[i]->out[o];
      const Place *q = &p->place[v->id];
      const Place *root = q->parent ? &p->place[q->parent->id] : q;
      Value *w = copier_get(c, v);
      w->offset = -1;
      if (root->alias) {
        w->alias = root->alias;
        w->alias_elem = q->part / (int64_t)dtype_bytes(v->type->dt);
      } else if (root->block) {
        w->offset = root->block->offset + q->part;
      }
    }
  }
}

/* What a body yields, and what its iterations share. */
static void look_at_body(Plan *p) {
  const Func *f = p->f;
  p->yielded = ARENA_ARRAY(p->a, bool, f->nvalue + 1);
  p->frame = ARENA_ARRAY(p->a, Block *, f->nop + 1);
  if (arena_failed(p->a) || !func_is_body(f))
    return;
  p->varies = loop_varies(f, p->a);
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_yield)
      p->yielded[f->op[i]->in[0]->id] = true;
}

static Status plan_func(Copier *c, const Func *f, int ntensor, const PassOpts *o) {
  Plan p = {.f = f, .a = arena_create(), .no_reuse = o->no_reuse, .made = builder_module(c->b)};
  if (!p.a)
    return MPCC_ERR_NOMEM;
  copier_func(c, f, f->name);
  for (int i = 0; i < f->nop; i++)
    copier_op(c, f->op[i]);
  p.place = ARENA_ARRAY(p.a, Place, f->nvalue + 1);
  p.block = ARENA_ARRAY(p.a, Block *, f->nvalue + f->nop + 1);
  look_at_body(&p);
  collect_uses(&p, ntensor);
  Status s = MPCC_OK;
  if (!arena_failed(p.a) && !builder_failed(c->b)) {
    lifetimes(&p);
    for (int i = f->nop - 1; i >= 0 && !p.no_reuse; i--)
      if (f->op[i]->code == OP_group && !strcmp(kind_of(f->op[i]), "move"))
        place_pieces(&p, f->op[i]);
    place_writes(&p, c->tensors);
    make_blocks(&p);
    build_current(c->b)->work_bytes = place_blocks(&p);
    if (!arena_failed(p.a))
      apply(&p, c);
  }
  if (arena_failed(p.a))
    s = MPCC_ERR_NOMEM;
  arena_destroy(p.a);
  return s;
}

Status pass_plan(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)d;
  Copier c;
  copier_init(&c, out, in);
  if (builder_failed(out))
    return MPCC_ERR_NOMEM;
  for (int i = 0; i < in->nfunc; i++) {
    Status s = plan_func(&c, in->func[i], in->ntensor, o);
    if (s != MPCC_OK)
      return s;
  }
  Module *m = builder_module(out);
  place_tensors(m);
  build_module_attr(out, attr_i(out, "peak_bytes", m->segment_bytes[MPCC_SEG_WORK]));
  return MPCC_OK;
}
