/* Builder: the only writer of modules. Infers types (shape.c), folds trivial ops and numbers
 * values: an op equal to an earlier one of the same function is that op. */
#include "ir/build.h"

#include <assert.h>
#include <string.h>

typedef struct {
  Op *op; /* NULL: free */
  uint64_t hash;
} Numbered;

typedef struct FuncState {
  Func *func;
  int op_cap;
  int nslot, nnumbered; /* hash table of numbered ops: power of two, at most half full */
  Numbered *slot;
  struct FuncState *next;
} FuncState;

typedef struct ParsedBody {
  Str text;
  int nargs;
  const Scalar *scalar;
  struct ParsedBody *next;
} ParsedBody;

struct Builder {
  Arena *scratch; /* the builder itself and its tables; dropped by finish */
  Module *m;
  Diag *diag;
  Status status; /* first failure */
  bool exact;
  FuncState *funcs, *current;
  int func_cap, tensor_cap, attr_cap;
  Op *dummy; /* what build_op returns after a failure */
  ParsedBody *bodies;
  Loc loc;
  Str layer, why;
};

enum { DUMMY_OUT = MAX_RULE_OUT };

const char *const operand_names[26] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                       "j", "k", "l", "m", "n", "o", "p", "q", "r",
                                       "s", "t", "u", "v", "w", "x", "y", "z"};

/* An op with n results of type f32[] that is in no function. */
static Op *make_dummy(Builder *b, int n) {
  Arena *a = b->m->arena;
  Op *op = ARENA_NEW(a, Op);
  Value *values = ARENA_ARRAY(a, Value, n);
  op->out = ARENA_ARRAY(a, Value *, n);
  op->nout = n;
  op->layer = "";
  op->code = OP_const;
  const Type *type = type_get(b->m->types, MPCC_F32, 0, NULL);
  for (int i = 0; i < n; i++) {
    values[i] = (Value){.def = op, .out = i, .type = type, .offset = -1};
    op->out[i] = &values[i];
  }
  return op;
}

Builder *builder_create(StrTable *strings, Diag *diag, Stage stage) {
  Arena *scratch = arena_create(), *arena = arena_create();
  if (!scratch || !arena) {
    arena_destroy(scratch);
    arena_destroy(arena);
    return NULL;
  }
  Builder *b = ARENA_NEW(scratch, Builder);
  Module *m = ARENA_NEW(arena, Module);
  b->scratch = scratch;
  b->m = m;
  b->diag = diag;
  b->layer = "";
  m->arena = arena;
  m->strings = strings;
  m->types = type_table_create(arena);
  m->stage = stage;
  b->dummy = make_dummy(b, DUMMY_OUT);
  if (arena_failed(scratch) || arena_failed(arena)) {
    builder_destroy(b);
    return NULL;
  }
  return b;
}

void builder_destroy(Builder *b) {
  if (!b)
    return;
  module_destroy(b->m);
  arena_destroy(b->scratch);
}

bool builder_failed(const Builder *b) {
  return b->status != MPCC_OK || arena_failed(b->m->arena) || arena_failed(b->scratch) ||
         str_table_failed(b->m->strings);
}

Status builder_finish(Builder *b, Module **out) {
  *out = NULL;
  Status status = b->status;
  if (status == MPCC_OK && builder_failed(b))
    status = MPCC_ERR_NOMEM;
  if (status == MPCC_OK)
    status = module_verify(b->m, b->diag);
  if (status != MPCC_OK) {
    builder_destroy(b);
    return status;
  }
  *out = b->m;
  arena_destroy(b->scratch);
  return MPCC_OK;
}

/* Short memory is told from other failures here: what it makes fail reports its own status. */
static void set_failed(Builder *b, Status status) {
  if (b->status == MPCC_OK)
    b->status = builder_failed(b) ? MPCC_ERR_NOMEM : status;
}

Diag *builder_diag(Builder *b) {
  return b->diag;
}

StrTable *builder_strings(Builder *b) {
  return b->m->strings;
}

TypeTable *builder_types(Builder *b) {
  return b->m->types;
}

Arena *builder_arena(Builder *b) {
  return b->m->arena;
}

Module *builder_module(Builder *b) {
  return b->m;
}

Str builder_layer(const Builder *b) {
  return b->layer;
}

void builder_exact(Builder *b) {
  b->exact = true;
}

/* `list` with room for one more pointer-sized or larger element: grown by doubling. */
static void *grown(Arena *a, void *list, int n, int *cap, size_t size) {
  if (n < *cap)
    return list;
  int more = *cap ? *cap * 2 : 8;
  void *copy = arena_array(a, (size_t)more, size);
  if (arena_failed(a))
    return NULL;
  if (n)
    memcpy(copy, list, (size_t)n * size);
  *cap = more;
  return copy;
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* Deep copy into the module; tensors are looked up in `tensors` (by index) unless that is NULL.
 * Texts are the session's already. */
static Attr copy_attr(Builder *b, const Attr *from, Tensor *const *tensors) {
  Attr at = *from;
  if (at.kind == AT_INTS) {
    int64_t *v = ARENA_ARRAY(b->m->arena, int64_t, from->u.ints.n);
    if (from->u.ints.n && !arena_failed(b->m->arena))
      memcpy(v, from->u.ints.v, (size_t)from->u.ints.n * sizeof *v);
    at.u.ints.v = v;
  } else if (at.kind == AT_TENSOR && tensors) {
    at.u.tensor = tensors[from->u.tensor->index];
  }
  return at;
}

/* Inserts or replaces in a list with room for one more, sorted by key. */
static void put_sorted(Attr *list, int *n, Attr at) {
  int i = *n;
  for (; i > 0; i--) {
    int order = strcmp(list[i - 1].key, at.key);
    if (order == 0) {
      list[i - 1] = at;
      return;
    }
    if (order < 0)
      break;
  }
  memmove(&list[i + 1], &list[i], (size_t)(*n - i) * sizeof *list);
  list[i] = at;
  ++*n;
}

static bool same_attr(const Attr *x, const Attr *y) {
  if (x->key != y->key || x->kind != y->kind)
    return false;
  switch (x->kind) {
  case AT_FLOAT:
    return !memcmp(&x->u.f, &y->u.f, sizeof x->u.f);
  case AT_STR:
    return x->u.s == y->u.s;
  case AT_TENSOR:
    return x->u.tensor == y->u.tensor;
  case AT_INTS:
    return x->u.ints.n == y->u.ints.n &&
           (!x->u.ints.n ||
            !memcmp(x->u.ints.v, y->u.ints.v, (size_t)x->u.ints.n * sizeof *x->u.ints.v));
  default:
    return x->u.i == y->u.i;
  }
}

Attr attr_i(Builder *b, const char *key, int64_t v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_INT, .u.i = v};
}

Attr attr_f(Builder *b, const char *key, double v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_FLOAT, .u.f = v};
}

Attr attr_b(Builder *b, const char *key, bool v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_BOOL, .u.i = v};
}

Attr attr_s(Builder *b, const char *key, const char *v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_STR, .u.s = str_c(b->m->strings, v)};
}

Attr attr_dt(Builder *b, const char *key, DType v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_DTYPE, .u.i = v};
}

Attr attr_ints(Builder *b, const char *key, int n, const int64_t *v) {
  const Attr borrowed = {.key = str_c(b->m->strings, key), .kind = AT_INTS, .u.ints = {n, v}};
  return copy_attr(b, &borrowed, NULL);
}

Attr attr_t(Builder *b, const char *key, Tensor *v) {
  return (Attr){.key = str_c(b->m->strings, key), .kind = AT_TENSOR, .u.tensor = v};
}

void build_module_attr(Builder *b, Attr attr) {
  Module *m = b->m;
  attr = copy_attr(b, &attr, NULL);
  for (int i = 0; i < m->nattr; i++)
    if (m->attr[i].key == attr.key) {
      m->attr[i] = attr;
      return;
    }
  Attr *list = grown(m->arena, m->attr, m->nattr, &b->attr_cap, sizeof *list);
  if (!list)
    return;
  m->attr = list;
  m->attr[m->nattr++] = attr;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* Elements of a value: 4 TiB in FP32, more than a machine has. All that is computed from sizes, of
 * tiles and of bytes, stays far from its ends. */
#define MAX_ELEMS (INT64_C(1) << 40)

/* A type with at least one element and not too many, ranks being in range. */
static bool type_fits(const Type *ty) {
  int64_t elems = 1;
  for (int i = 0; i < ty->rank; i++)
    if (ty->dim[i] < 1 || __builtin_mul_overflow(elems, ty->dim[i], &elems) || elems > MAX_ELEMS)
      return false;
  return true;
}

static Tensor *add_tensor(Builder *b, Str name, const Type *type, Role role, Tensor *base,
                          int64_t base_elem, Loc loc) {
  Module *m = b->m;
  Tensor *t = ARENA_NEW(m->arena, Tensor);
  *t = (Tensor){.name = name,
                .type = type_get(m->types, type->dt, type->rank, type->dim),
                .role = role,
                .base = base,
                .base_elem = base_elem,
                .offset = -1,
                .loc = loc,
                .index = m->ntensor};
  while (t->base && t->base->base) { /* views of views are views of the base */
    t->base_elem += t->base->base_elem;
    t->base = t->base->base;
  }
  if (!builder_failed(b) && !type_fits(type)) {
    diag_error(b->diag, loc, 311, "tensor '%s' is empty or too large", name);
    set_failed(b, MPCC_ERR_INPUT);
  }
  Tensor **list = grown(m->arena, m->tensor, m->ntensor, &b->tensor_cap, sizeof *list);
  if (!list)
    return t;
  m->tensor = list;
  m->tensor[m->ntensor++] = t;
  return t;
}

Tensor *build_tensor_view(Builder *b, const char *name, const Type *type, Role role, Tensor *base,
                          int64_t base_elem, Loc loc) {
  return add_tensor(b, str_c(b->m->strings, name), type, role, base, base_elem, loc);
}

Tensor *build_tensor(Builder *b, const char *name, const Type *type, Role role, Loc loc) {
  return build_tensor_view(b, name, type, role, NULL, 0, loc);
}

void build_tensor_attr(Builder *b, Tensor *t, Attr attr) {
  /* The list holds the smallest power of two, from 8 on, that is not below nattr; none when empty.
   */
  int cap = t->nattr ? 8 : 0;
  while (cap < t->nattr)
    cap *= 2;
  Attr *list = grown(b->m->arena, t->attr, t->nattr, &cap, sizeof *list);
  if (!list || builder_failed(b))
    return;
  t->attr = list;
  put_sorted(t->attr, &t->nattr, copy_attr(b, &attr, NULL));
}

/* ---- functions ------------------------------------------------------------------------------- */

void build_func(Builder *b, const char *name) {
  Module *m = b->m;
  if (builder_failed(b) && b->current)
    return;
  for (FuncState *s = b->funcs; s; s = s->next)
    if (!strcmp(s->func->name, name)) {
      b->current = s;
      return;
    }
  FuncState *s = ARENA_NEW(b->scratch, FuncState);
  s->func = ARENA_NEW(m->arena, Func);
  s->func->name = str_c(m->strings, name);
  s->func->module = m;
  b->current = s;
  Func **list = grown(m->arena, m->func, m->nfunc, &b->func_cap, sizeof *list);
  if (!list || builder_failed(b))
    return;
  s->next = b->funcs;
  b->funcs = s;
  m->func = list;
  m->func[m->nfunc++] = s->func;
}

void build_func_ahead(Builder *b, const char *name) {
  Module *m = b->m;
  const Func *now = b->current ? b->current->func : NULL;
  int before = m->nfunc, at = 0;
  build_func(b, name);
  while (at < before && m->func[at] != now)
    at++;
  for (int i = before; m->nfunc > before && i > at; i--) {
    Func *f = m->func[i];
    m->func[i] = m->func[i - 1];
    m->func[i - 1] = f;
  }
}

Func *build_current(Builder *b) {
  assert(b->current);
  return b->current->func;
}

void build_at(Builder *b, Loc loc, Str layer, Str why) {
  b->loc = loc;
  b->layer = layer ? layer : "";
  b->why = why;
}

void build_like(Builder *b, const Op *op) {
  build_at(b, op->loc, op->layer, NULL);
}

/* ---- value numbering ------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * UINT64_C(0x9E3779B97F4A7C15);
  return h ^ h >> 29;
}

/* Of what same_op compares. No addresses: the table looks the same in every run. */
static uint64_t hash_op(const Op *op) {
  uint64_t h = (uint64_t)op->code;
  for (int i = 0; i < op->nin; i++)
    h = mix(h, (uint64_t)op->in[i]->id);
  for (int i = 0; i < op->nattr; i++) {
    const Attr *at = &op->attr[i];
    h = mix(h, str_hash(at->key));
    if (at->kind == AT_STR)
      h = mix(h, str_hash(at->u.s));
    else if (at->kind == AT_TENSOR)
      h = mix(h, (uint64_t)at->u.tensor->index);
    else if (at->kind == AT_INTS)
      for (int k = 0; k < at->u.ints.n; k++)
        h = mix(h, (uint64_t)at->u.ints.v[k]);
    else
      h = mix(h, (uint64_t)at->u.i); /* floats by their bits */
  }
  return h;
}

static bool same_op(const Op *x, const Op *y) {
  if (x->code != y->code || x->nin != y->nin || x->nattr != y->nattr)
    return false;
  for (int i = 0; i < x->nin; i++)
    if (x->in[i] != y->in[i])
      return false;
  for (int i = 0; i < x->nattr; i++)
    if (!same_attr(&x->attr[i], &y->attr[i]))
      return false;
  return true;
}

static Numbered *free_slot(Numbered *slot, int nslot, uint64_t hash) {
  while (slot[hash & (uint64_t)(nslot - 1)].op)
    hash++;
  return &slot[hash & (uint64_t)(nslot - 1)];
}

/* The earlier op that equals op; NULL: there is none. */
static Op *find_numbered(const FuncState *s, const Op *op, uint64_t hash) {
  for (uint64_t at = hash; s->nslot; at++) {
    const Numbered *n = &s->slot[at & (uint64_t)(s->nslot - 1)];
    if (!n->op || (n->hash == hash && same_op(n->op, op)))
      return n->op;
  }
  return NULL;
}

static void add_numbered(Builder *b, Op *op, uint64_t hash) {
  FuncState *s = b->current;
  if ((s->nnumbered + 1) * 2 > s->nslot) {
    int nslot = s->nslot ? s->nslot * 2 : 64;
    Numbered *slot = ARENA_ARRAY(b->scratch, Numbered, nslot);
    if (arena_failed(b->scratch))
      return;
    for (int i = 0; i < s->nslot; i++)
      if (s->slot[i].op)
        *free_slot(slot, nslot, s->slot[i].hash) = s->slot[i];
    s->slot = slot;
    s->nslot = nslot;
  }
  *free_slot(s->slot, s->nslot, hash) = (Numbered){op, hash};
  s->nnumbered++;
}

static bool is_numbered(const Op *op) {
  return op->code != OP_write && op->code != OP_group &&
         !attr_find(op->attr, op->nattr, "recompute");
}

/* ---- ops ------------------------------------------------------------------------------------- */

const Scalar *builder_scalar(Builder *b, OpCode code, int nin, int nattr, const Attr *attr) {
  if (builder_failed(b)) /* the text may be lost */
    return NULL;
  const Attr *at = attr_find(attr, nattr, "body");
  const char *text = op_info(code)->body;
  if (!text && at && at->kind == AT_STR)
    text = at->u.s;
  if (!text || nin > (int)(sizeof operand_names / sizeof operand_names[0])) {
    diag_error(b->diag, b->loc, 218, "%s needs a body and at most 26 operands",
               op_info(code)->name);
    return NULL;
  }
  Str key = str_c(b->m->strings, text);
  for (const ParsedBody *p = b->bodies; p; p = p->next)
    if (p->text == key && p->nargs == nin)
      return p->scalar;
  Scalar *scalar;
  if (scalar_parse(b->m->arena, b->diag, b->loc, text, operand_names, nin, &scalar) != MPCC_OK)
    return NULL;
  ParsedBody *p = ARENA_NEW(b->scratch, ParsedBody);
  if (arena_failed(b->scratch))
    return scalar;
  *p = (ParsedBody){key, nin, scalar, b->bodies};
  b->bodies = p;
  return scalar;
}

static Body *copy_body(Arena *a, const Body *from) {
  Body *to = ARENA_NEW(a, Body);
  Access *in = ARENA_ARRAY(a, Access, from->nin), *out = ARENA_ARRAY(a, Access, from->nout);
  int64_t *param = ARENA_ARRAY(a, int64_t, from->nparam);
  Stmt *stmt = ARENA_ARRAY(a, Stmt, from->nstmt);
  if (arena_failed(a))
    return to;
  *to = *from;
  if (from->nin)
    memcpy(in, from->in, (size_t)from->nin * sizeof *in);
  if (from->nout)
    memcpy(out, from->out, (size_t)from->nout * sizeof *out);
  if (from->nparam)
    memcpy(param, from->param, (size_t)from->nparam * sizeof *param);
  if (from->nstmt)
    memcpy(stmt, from->stmt, (size_t)from->nstmt * sizeof *stmt);
  to->in = in;
  to->out = out;
  to->param = param;
  to->stmt = stmt;
  return to;
}

/* An op that is not yet in the function: operands and sorted attributes copied. */
static Op *draft_op(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr,
                    Tensor *const *tensors) {
  Arena *a = b->m->arena;
  Op *op = ARENA_NEW(a, Op);
  *op = (Op){.code = code, .loc = b->loc, .layer = b->layer, .why = b->why};
  op->in = ARENA_ARRAY(a, Value *, nin);
  op->attr = ARENA_ARRAY(a, Attr, nattr + 1);
  op->func = b->current->func;
  if (arena_failed(a))
    return op;
  op->nin = nin;
  for (int i = 0; i < nin; i++) {
    assert(in[i]);
    op->in[i] = in[i];
  }
  for (int i = 0; i < nattr; i++)
    put_sorted(op->attr, &op->nattr, copy_attr(b, &attr[i], tensors));
  return op;
}

/* Gives the drafted op its results, whose types are the module's, and appends it. */
static Op *append_op(Builder *b, Op *op, int nout, const Type *const *types) {
  Arena *a = b->m->arena;
  Func *f = b->current->func;
  Value *values = ARENA_ARRAY(a, Value, nout);
  op->out = ARENA_ARRAY(a, Value *, nout);
  Op **list = grown(a, f->op, f->nop, &b->current->op_cap, sizeof *list);
  if (!list || builder_failed(b))
    return nout <= DUMMY_OUT ? b->dummy : make_dummy(b, nout);
  op->nout = nout;
  for (int i = 0; i < nout; i++) {
    values[i] = (Value){
        .def = op,
        .out = i,
        .type = types[i],
        .id = f->nvalue++,
        .offset = -1,
    };
    op->out[i] = &values[i];
  }
  op->index = f->nop;
  f->op = list;
  f->op[f->nop++] = op;
  return op;
}

/* Notes the failure; the op has at least nout results. */
static Op *fail_op(Builder *b, int nout, Status status) {
  set_failed(b, status);
  return nout <= DUMMY_OUT ? b->dummy : make_dummy(b, nout);
}

static bool results_fit(Builder *b, OpCode code, int nout, const Type *const *types) {
  for (int i = 0; i < nout; i++)
    if (!type_fits(types[i])) {
      diag_error(b->diag, b->loc, 311, "result %d of %s is empty or too large", i + 1,
                 op_info(code)->name);
      return false;
    }
  return true;
}

Op *build_op_typed(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr,
                   int nout, const Type *const *types, const Body *body) {
  if (builder_failed(b))
    return fail_op(b, nout, MPCC_ERR_NOMEM);
  Op *op = draft_op(b, code, nin, in, nattr, attr, NULL);
  if (builder_failed(b))
    return fail_op(b, nout, MPCC_ERR_NOMEM);
  if (!results_fit(b, code, nout, types))
    return fail_op(b, nout, MPCC_ERR_INPUT);
  if (body)
    op->body = copy_body(b->m->arena, body);
  if (code == OP_expr || op_is_scalar(code)) {
    op->scalar = builder_scalar(b, code, op->nin, op->nattr, op->attr);
    if (!op->scalar)
      return fail_op(b, nout, MPCC_ERR_INPUT);
  }
  op = append_op(b, op, nout, types);
  for (int i = 0; i < op->nout; i++) /* they may be another module's */
    op->out[i]->type =
        type_get(b->m->types, op->out[i]->type->dt, op->out[i]->type->rank, op->out[i]->type->dim);
  return op;
}

/* Value that the drafted op, whose result has type `type`, merely repeats; NULL if none. May
 * replace the op's operand by an earlier value. */
static Value *fold(const Op *op, const Type *type) {
  switch (op->code) {
  case OP_reshape:
    if (op->in[0]->def->code == OP_reshape)
      op->in[0] = op->in[0]->def->in[0];
    break;
  case OP_permute: {
    const Attr *perm = op_attr(op, "perm");
    for (int i = 0; i < perm->u.ints.n; i++)
      if (perm->u.ints.v[i] != i)
        return NULL;
    break;
  }
  case OP_cast:
    if (op_int(op, "by_hand", 0)) /* its operand may still get another format */
      return NULL;
    break;
  case OP_expand:
  case OP_slice:
  case OP_unslice:
    break;
  case OP_cat:
    if (op->nin != 1)
      return NULL;
    break;
  default:
    return NULL;
  }
  return op->in[0]->type == type ? op->in[0] : NULL;
}

/* `op` as a record outside the function whose only result is v. */
static Op *alias_op(Builder *b, Op *op, Value *v) {
  op->out = ARENA_ARRAY(b->m->arena, Value *, 1);
  op->nout = 1;
  op->out[0] = v;
  return op;
}

static Op *build_inferred(Builder *b, OpCode code, int nin, Value *const *in, int nattr,
                          const Attr *attr, Tensor *const *tensors) {
  if (builder_failed(b))
    return fail_op(b, 0, MPCC_ERR_NOMEM);
  Op *op = draft_op(b, code, nin, in, nattr, attr, tensors);
  if (builder_failed(b))
    return fail_op(b, 0, MPCC_ERR_NOMEM);
  const Type *types[MAX_RULE_OUT];
  int nout;
  Status status = shape_infer(b, code, op->nin, op->in, op->nattr, op->attr, b->loc, &nout, types);
  if (status != MPCC_OK)
    return fail_op(b, 0, status);
  if (!results_fit(b, code, nout, types))
    return fail_op(b, 0, MPCC_ERR_INPUT);
  Value *same = !b->exact && nout == 1 ? fold(op, types[0]) : NULL;
  if (same)
    return alias_op(b, op, same);
  const bool numbered = !b->exact && is_numbered(op);
  const uint64_t hash = numbered ? hash_op(op) : 0;
  Op *earlier = numbered ? find_numbered(b->current, op, hash) : NULL;
  if (earlier)
    return earlier;
  if (code == OP_expr || op_is_scalar(code))
    op->scalar = builder_scalar(b, code, op->nin, op->nattr, op->attr);
  op = append_op(b, op, nout, types);
  if (numbered && !builder_failed(b))
    add_numbered(b, op, hash);
  return op;
}

Op *build_op(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr) {
  return build_inferred(b, code, nin, in, nattr, attr, NULL);
}

Value *build_expr(Builder *b, const char *text, DType dt, int nin, Value *const *in) {
  return build_expr_attr(b, text, dt, nin, in, NULL);
}

Value *build_expr_attr(Builder *b, const char *text, DType dt, int nin, Value *const *in,
                       const Attr *attr) {
  if (builder_failed(b))
    return b->dummy->out[0];
  /* The canonical text, so that equal expressions are equal attributes. */
  const Attr given = attr_s(b, "body", text);
  const Scalar *s = builder_scalar(b, OP_expr, nin, 1, &given);
  if (!s)
    return fail_op(b, 1, MPCC_ERR_INPUT)->out[0];
  Text canonical = {0};
  scalar_print(s, operand_names, &canonical);
  if (canonical.failed) {
    text_fini(&canonical);
    return fail_op(b, 1, MPCC_ERR_NOMEM)->out[0];
  }
  Attr at[3] = {attr_s(b, "body", canonical.data), attr_dt(b, "dtype", dt)};
  text_fini(&canonical);
  if (attr)
    at[2] = *attr;
  return build_op(b, OP_expr, nin, in, attr ? 3 : 2, at)->out[0];
}

/* ---- copying --------------------------------------------------------------------------------- */

Tensor **build_copy_tensors(Builder *b, const Module *from) {
  Tensor **map = ARENA_ARRAY(b->scratch, Tensor *, from->ntensor);
  if (arena_failed(b->scratch))
    return map;
  /* A view may come before its base: all first, then the references. */
  for (int i = 0; i < from->ntensor; i++) {
    const Tensor *t = from->tensor[i];
    map[i] = add_tensor(b, t->name, t->type, t->role, NULL, 0, t->loc);
  }
  for (int i = 0; i < from->ntensor; i++) {
    const Tensor *t = from->tensor[i];
    map[i]->base = t->base ? map[t->base->index] : NULL;
    map[i]->base_elem = t->base_elem;
    map[i]->offset = t->offset;
    for (int k = 0; k < t->nattr; k++) {
      Attr at = t->attr[k];
      if (at.kind == AT_TENSOR)
        at.u.tensor = map[at.u.tensor->index];
      build_tensor_attr(b, map[i], at);
    }
  }
  return map;
}

void copier_init(Copier *c, Builder *b, const Module *from) {
  *c = (Copier){.b = b, .tensors = build_copy_tensors(b, from)};
  for (int i = 0; i < from->nattr && !builder_failed(b); i++)
    build_module_attr(b, from->attr[i]);
}

void copier_func(Copier *c, const Func *f, const char *name) {
  build_func(c->b, name);
  c->map = ARENA_ARRAY(c->b->scratch, Value *, f->nvalue);
}

Op *copier_op(Copier *c, const Op *op) {
  Builder *b = c->b;
  Op *copy;
  if (builder_failed(b)) {
    copy = fail_op(b, op->nout, MPCC_ERR_NOMEM);
  } else {
    Value **in = ARENA_ARRAY(b->scratch, Value *, op->nin);
    for (int i = 0; i < op->nin && !arena_failed(b->scratch); i++)
      in[i] = copier_get(c, op->in[i]);
    build_at(b, op->loc, op->layer, op->why);
    if (op->body) {
      const Type **types = ARENA_ARRAY(b->scratch, const Type *, op->nout);
      for (int i = 0; i < op->nout && !arena_failed(b->scratch); i++)
        types[i] = op->out[i]->type;
      copy =
          build_op_typed(b, op->code, op->nin, in, op->nattr, op->attr, op->nout, types, op->body);
    } else {
      copy = build_inferred(b, op->code, op->nin, in, op->nattr, op->attr, c->tensors);
    }
  }
  for (int i = 0; i < op->nout; i++)
    c->map[op->out[i]->id] = copy->out[i];
  return copy;
}
