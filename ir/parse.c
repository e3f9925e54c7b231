/* Reads the text form of docs/ir.md back into a module. Recursive descent over a token stream
 * without recursion: nothing in the language nests. Every input is safe: numbers are range-checked,
 * names looked up, arrays grown with checks, and the finished module goes through the verifier. The
 * first error ends the parse; its place is in the IR text.
 *
 * Codes: 0601 syntax, 0602 unknown word, 0603 undefined name, 0604 number out of range, 0605
 * defined twice, 0606 not a legal module. */
#include "ir/lex.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"

/* Where a planned result lives. */
typedef struct {
  int64_t offset, alias_elem;
  Tensor *alias;
} Place;

/* ---- types, attributes, places --------------------------------------------------------------- */

static DType dtype_word(Parser *p) {
  Loc loc = p->tok.loc;
  Str s = lex_take(p, T_IDENT, "dtype");
  DType dt = dtype_from_text(s);
  if (dt == MPCC_DTYPE_COUNT) {
    lex_fail(p, loc, E_WORD, "unknown dtype '%s'", s);
    return MPCC_F32;
  }
  return dt;
}

static const Type *type(Parser *p) {
  int64_t dim[MAX_RANK], elems = 1;
  int rank = 0;
  Loc loc = p->tok.loc;
  DType dt = dtype_word(p);
  lex_expect(p, '[');
  while (!p->failed && !lex_is(p, ']')) {
    if (rank)
      lex_expect(p, ',');
    if (rank == MAX_RANK) {
      lex_fail(p, loc, E_RANGE, "more than %d dimensions", MAX_RANK);
      break;
    }
    dim[rank] = lex_integer(p, 1, INT64_MAX);
    if (!p->failed && (__builtin_mul_overflow(elems, dim[rank], &elems) || elems > INT64_MAX / 64))
      lex_fail(p, loc, E_RANGE, "too many elements");
    rank++;
  }
  lex_expect(p, ']');
  if (p->failed)
    rank = 0;
  return type_get(builder_types(p->b), dt, rank, dim);
}

static Tensor *tensor_named(Parser *p) {
  Loc loc = p->tok.loc;
  Str name = lex_take(p, T_NAME, "tensor name");
  if (p->failed)
    return NULL;
  Tensor *t = module_tensor(builder_module(p->b), name);
  if (!t)
    lex_fail(p, loc, E_NAME, "no tensor is named '%s'", name);
  return t;
}

static void add_forward(Parser *p, Forward f) {
  Forward *at = lex_list_add(p, &p->forward, sizeof *at);
  if (at)
    *at = f;
}

static Attr attr_list(Parser *p, const char *key) {
  p->ints.n = 0;
  lex_next(p);
  while (!p->failed && !lex_is(p, ']')) {
    if (p->ints.n)
      lex_expect(p, ',');
    int64_t v = lex_integer(p, INT64_MIN, INT64_MAX);
    int64_t *at = lex_list_add(p, &p->ints, sizeof *at);
    if (at)
      *at = v;
  }
  lex_expect(p, ']');
  return attr_ints(p->b, key, p->failed ? 0 : p->ints.n, p->ints.data);
}

static Attr attr_word(Parser *p, const char *key) {
  Loc loc = p->tok.loc;
  Str s = p->tok.text;
  lex_next(p);
  if (!strcmp(s, "true") || !strcmp(s, "false"))
    return attr_b(p->b, key, *s == 't');
  if (!strcmp(s, "nan") || !strcmp(s, "inf"))
    return attr_f(p->b, key, *s == 'n' ? NAN : INFINITY);
  DType dt = dtype_from_text(s);
  if (dt == MPCC_DTYPE_COUNT) {
    lex_fail(p, loc, E_WORD, "attribute value '%s' is no word of the IR", s);
    dt = MPCC_F32;
  }
  return attr_dt(p->b, key, dt);
}

static Attr attr(Parser *p) {
  Str key = lex_take(p, p->tok.kind == T_STRING ? T_STRING : T_IDENT, "attribute");
  lex_expect(p, '=');
  Token t = p->tok;
  switch (t.kind) {
  case T_INT:
    lex_next(p);
    return attr_i(p->b, key, t.i);
  case T_FLOAT:
    lex_next(p);
    return attr_f(p->b, key, t.f);
  case T_STRING:
    lex_next(p);
    return attr_s(p->b, key, t.text);
  case T_IDENT:
    return attr_word(p, key);
  case T_NAME:
    if (!p->in_tensor)
      return attr_t(p->b, key, tensor_named(p));
    lex_next(p);
    add_forward(p, (Forward){NULL, key, t.text, t.loc});
    return attr_t(p->b, key, NULL);
  default:
    if (lex_is(p, '['))
      return attr_list(p, key);
    lex_fail(p, t.loc, E_SYNTAX, "attribute value expected");
    return attr_i(p->b, key, 0);
  }
}

/* Optional {key=value, ...} into p->attrs. */
static void attrs(Parser *p) {
  p->attrs.n = 0;
  if (!lex_accept(p, '{'))
    return;
  while (!p->failed && !lex_is(p, '}')) {
    if (p->attrs.n)
      lex_expect(p, ',');
    Loc loc = p->tok.loc;
    Attr a = attr(p);
    if (p->failed)
      return;
    if (attr_find(p->attrs.data, p->attrs.n, a.key))
      lex_fail(p, loc, E_TWICE, "attribute '%s' is given twice", a.key);
    Attr *at = lex_list_add(p, &p->attrs, sizeof *at);
    if (at)
      *at = a;
  }
  lex_expect(p, '}');
}

/* Optional !file:line:col[+len]. */
static Loc location(Parser *p) {
  Loc loc = {0};
  if (!lex_accept(p, '!'))
    return loc;
  int64_t file = lex_integer(p, 1, p->nfiles);
  lex_expect(p, ':');
  loc.line = (uint32_t)lex_integer(p, 0, UINT32_MAX);
  lex_expect(p, ':');
  loc.col = (uint32_t)lex_integer(p, 0, UINT32_MAX);
  if (lex_accept(p, '+'))
    loc.len = (uint32_t)lex_integer(p, 1, UINT32_MAX);
  if (!p->failed)
    loc.file = p->files[file];
  return loc;
}

/* ---- values ---------------------------------------------------------------------------------- */

static Binding *slot(Parser *p, int64_t id) {
  uint64_t h = (uint64_t)id * 0x9E3779B97F4A7C15u >> 20;
  for (;; h++) {
    Binding *s = &p->bind[h & (uint64_t)(p->bind_cap - 1)];
    if (!s->value || s->id == id)
      return s;
  }
}

static void bind(Parser *p, Loc loc, int64_t id, Value *v) {
  if (2 * (p->nbind + 1) > p->bind_cap) {
    Binding *old = p->bind;
    int ncap = p->bind_cap ? 2 * p->bind_cap : 64, n = p->bind_cap;
    Binding *fresh = ARENA_ARRAY(p->scratch, Binding, ncap);
    if (arena_failed(p->scratch)) {
      lex_fail(p, loc, E_RANGE, "out of memory");
      return;
    }
    p->bind = fresh;
    p->bind_cap = ncap;
    for (int i = 0; i < n; i++)
      if (old[i].value)
        *slot(p, old[i].id) = old[i];
  }
  Binding *s = slot(p, id);
  if (s->value) {
    lex_fail(p, loc, E_TWICE, "%%%lld is defined twice", (long long)id);
    return;
  }
  *s = (Binding){id, v};
  p->nbind++;
}

static Value *value(Parser *p) {
  Loc loc = p->tok.loc;
  int64_t id = p->tok.i;
  if (p->tok.kind != T_VALUE) {
    lex_fail(p, loc, E_SYNTAX, "value expected");
    return NULL;
  }
  lex_next(p);
  Value *v = p->bind_cap ? slot(p, id)->value : NULL;
  if (!v)
    lex_fail(p, loc, E_NAME, "%%%lld is not defined before this op", (long long)id);
  return v;
}

/* Optional @work+bytes or @tensor+elements behind a result's type. */
static Place place(Parser *p) {
  Place at = {-1, 0, NULL};
  if (p->tok.kind != T_NAME)
    return at;
  if (!p->tok.quoted && !strcmp(p->tok.text, "work")) {
    lex_next(p);
    lex_expect(p, '+');
    at.offset = lex_integer(p, 0, INT64_MAX);
    return at;
  }
  at.alias = tensor_named(p);
  lex_expect(p, '+');
  at.alias_elem = lex_integer(p, 0, INT64_MAX);
  return at;
}

/* ---- group bodies ---------------------------------------------------------------------------- */

static Access access(Parser *p, int64_t number, int ndim) {
  Access a = {0};
  if (lex_integer(p, 0, INT32_MAX) != number)
    lex_fail(p, p->tok.loc, E_SYNTAX, "accesses are numbered in order, %lld expected",
             (long long)number);
  lex_expect(p, ':');
  a.offset = lex_integer(p, INT64_MIN, INT64_MAX);
  lex_expect(p, '+');
  for (int d = 0; d < ndim; d++)
    a.stride[d] = lex_integer(p, INT64_MIN, INT64_MAX);
  return a;
}

static void body_head(Parser *p, Body *b) {
  lex_expect_word(p, "dim");
  while (!p->failed && p->tok.kind == T_INT) {
    if (b->ndim == MAX_DIMS) {
      lex_fail(p, p->tok.loc, E_RANGE, "more than %d dimensions", MAX_DIMS);
      return;
    }
    b->dim[b->ndim++] = lex_integer(p, 1, INT64_MAX);
  }
  lex_expect_word(p, "cols");
  b->ncol = (int)lex_integer(p, 0, b->ndim);
  lex_expect_word(p, "panel");
  b->panel_rows = lex_integer(p, 0, INT64_MAX);
}

/* "s12" -> 12, which must be less than n. */
static int32_t stmt_number(Parser *p, int n) {
  Loc loc = p->tok.loc;
  Str s = lex_take(p, T_IDENT, "statement");
  int64_t v = *s == 's' && s[1] ? 0 : -1;
  for (const char *c = s + 1; v >= 0 && *c; c++)
    v = isdigit((unsigned char)*c) && v < INT32_MAX ? v * 10 + (*c - '0') : -1;
  if (v < 0 || v >= n) {
    lex_fail(p, loc, E_NAME, "'%s' is not a statement before this one", s);
    return 0;
  }
  return (int32_t)v;
}

static void stmt_args(Parser *p, Stmt *s, int number) {
  for (int k = 0; k < prim_args((Prim)s->prim); k++) {
    if (k)
      lex_expect(p, ',');
    s->arg[k] = stmt_number(p, number);
  }
}

/* A store has the level and register type of what it stores. */
static void stmt_store(Parser *p, const Stmt *before, int number, Stmt *s) {
  s->prim = PR_STORE;
  s->ref = (int32_t)lex_integer(p, 0, INT32_MAX);
  s->arg[0] = stmt_number(p, number);
  if (!p->failed) {
    s->level = before[s->arg[0]].level;
    s->dt = before[s->arg[0]].dt;
  }
}

static double immediate(Parser *p) {
  Token t = p->tok;
  if (lex_accept_word(p, "inf"))
    return INFINITY;
  if (lex_accept_word(p, "nan"))
    return NAN;
  if (t.kind != T_FLOAT && t.kind != T_INT)
    lex_fail(p, t.loc, E_SYNTAX, "number expected");
  lex_next(p);
  return t.kind == T_INT ? (double)t.i : t.f;
}

static void stmt_named(Parser *p, int number, Stmt *s) {
  static const char *const levels[] = {"all", "row", "col", "elem"};
  Loc loc = p->tok.loc;
  if (stmt_number(p, INT32_MAX) != number)
    lex_fail(p, loc, E_SYNTAX, "statements are numbered in order, s%d expected", number);
  lex_expect(p, ':');
  s->dt = (uint8_t)dtype_word(p);
  loc = p->tok.loc;
  Str level = lex_take(p, T_IDENT, "level");
  int l = 0;
  while (l < 4 && strcmp(levels[l], level))
    l++;
  if (l == 4)
    lex_fail(p, loc, E_WORD, "unknown level '%s'", level);
  s->level = (uint8_t)l;
  lex_expect(p, '=');
  loc = p->tok.loc;
  Str word = lex_take(p, T_IDENT, "primitive");
  Prim prim = prim_from_name(word);
  if (prim == PR_COUNT || prim == PR_STORE) {
    lex_fail(p, loc, E_WORD, "unknown primitive '%s'", word);
    return;
  }
  s->prim = (uint8_t)prim;
  if (prim == PR_CONST)
    s->imm = immediate(p);
  else if (prim == PR_LOAD || prim == PR_INDEX || prim == PR_PARAM || prim == PR_ARG)
    s->ref = (int32_t)lex_integer(p, 0, INT32_MAX);
  else if (prim == PR_ROUND)
    s->rd = (uint8_t)dtype_word(p);
  stmt_args(p, s, number);
}

static void body_stmts(Parser *p, Body *b) {
  List stmts = {0};
  while (!p->failed && !lex_is(p, ']')) {
    Stmt s = {.arg = {-1, -1, -1, -1}};
    if (lex_accept_word(p, "store"))
      stmt_store(p, stmts.data, stmts.n, &s);
    else
      stmt_named(p, stmts.n, &s);
    Stmt *at = lex_list_add(p, &stmts, sizeof *at);
    if (at)
      *at = s;
  }
  b->nstmt = p->failed ? 0 : stmts.n;
  b->stmt = stmts.data;
}

static void copy_list(Parser *p, List *l, size_t size, int *n, void *data) {
  void *copy = arena_array(builder_arena(p->b), (size_t)l->n, size);
  if (arena_failed(builder_arena(p->b))) {
    lex_fail(p, p->tok.loc, E_RANGE, "out of memory");
    return;
  }
  if (l->n)
    memcpy(copy, l->data, (size_t)l->n * size);
  *n = l->n;
  memcpy(data, &copy, sizeof copy);
}

static Body *body(Parser *p) {
  Body *b = ARENA_NEW(builder_arena(p->b), Body);
  List in = {0}, out = {0}, param = {0};
  body_head(p, b);
  for (int word = 0; word < 2; word++) {
    List *l = word ? &out : &in;
    while (lex_accept_word(p, word ? "out" : "in")) {
      Access a = access(p, l->n, b->ndim);
      Access *at = lex_list_add(p, l, sizeof *at);
      if (at)
        *at = a;
    }
  }
  if (lex_accept_word(p, "param"))
    while (!p->failed && p->tok.kind == T_INT) {
      int64_t v = lex_integer(p, INT64_MIN, INT64_MAX), *at = lex_list_add(p, &param, sizeof *at);
      if (at)
        *at = v;
    }
  body_stmts(p, b);
  lex_expect(p, ']');
  if (p->failed)
    return b;
  List stmts = {b->stmt, b->nstmt, b->nstmt};
  copy_list(p, &in, sizeof(Access), &b->nin, &b->in);
  copy_list(p, &out, sizeof(Access), &b->nout, &b->out);
  copy_list(p, &param, sizeof(int64_t), &b->nparam, &b->param);
  copy_list(p, &stmts, sizeof(Stmt), &b->nstmt, &b->stmt);
  return b;
}

/* ---- ops, functions, the module -------------------------------------------------------------- */

/* %1:f32[2]@work+0, ... = ; fills types, places and p->ints with the ids. */
static void results(Parser *p) {
  p->types.n = p->places.n = p->ints.n = 0;
  if (p->tok.kind != T_VALUE)
    return;
  do {
    int64_t id = p->tok.i;
    if (p->tok.kind != T_VALUE)
      lex_fail(p, p->tok.loc, E_SYNTAX, "value expected");
    lex_next(p);
    lex_expect(p, ':');
    const Type *ty = type(p);
    Place at = place(p);
    int64_t *pid = lex_list_add(p, &p->ints, sizeof *pid);
    const Type **pty = lex_list_add(p, &p->types, sizeof *pty);
    Place *pat = lex_list_add(p, &p->places, sizeof *pat);
    if (!pid || !pty || !pat)
      return;
    *pid = id;
    *pty = ty;
    *pat = at;
  } while (lex_accept(p, ','));
  lex_expect(p, '=');
}

static void operands(Parser *p) {
  p->values.n = 0;
  if (p->tok.kind != T_VALUE)
    return;
  do {
    Value *v = value(p), **at = lex_list_add(p, &p->values, sizeof *at);
    if (at)
      *at = v;
  } while (lex_accept(p, ','));
}

static void op(Parser *p) {
  Loc start = p->tok.loc;
  results(p);
  List ids = p->ints;
  p->ints = (List){0}; /* attribute lists must not overwrite the ids */
  Loc at = p->tok.loc;
  Str name = lex_take(p, T_IDENT, "op");
  OpCode code = op_from_name(name);
  if (code == OP_COUNT)
    lex_fail(p, at, E_WORD, "unknown op '%s'", name);
  operands(p);
  attrs(p);
  Str layer = str_c(p->strings, ""), why = NULL;
  if (lex_accept_word(p, "layer")) {
    lex_expect(p, '=');
    layer = lex_take(p, T_STRING, "layer name");
  }
  Loc loc = location(p);
  if (lex_accept_word(p, "why")) {
    lex_expect(p, '=');
    why = lex_take(p, T_STRING, "reason");
  }
  Body *bd = lex_accept(p, '[') ? body(p) : NULL;
  if (!p->failed && bd && code != OP_group)
    lex_fail(p, at, E_SYNTAX, "only a group has a body");
  if (!p->failed && !bd && code == OP_group)
    lex_fail(p, at, E_SYNTAX, "a group needs a body");
  if (p->failed)
    return;
  build_at(p->b, loc, layer, why);
  Op *o = build_op_typed(p->b, code, p->values.n, p->values.data, p->attrs.n, p->attrs.data,
                         p->types.n, p->types.data, bd);
  if (builder_failed(p->b)) {
    lex_fail(p, start, E_MODULE, "op '%s' is not legal", name);
    return;
  }
  for (int i = 0; i < p->types.n; i++) {
    Place pl = ((Place *)p->places.data)[i];
    o->out[i]->offset = pl.offset;
    o->out[i]->alias = pl.alias;
    o->out[i]->alias_elem = pl.alias_elem;
    bind(p, start, ((int64_t *)ids.data)[i], o->out[i]);
  }
}

static void func(Parser *p) {
  Loc loc = p->tok.loc;
  Str name = lex_take(p, T_NAME, "function name");
  int64_t work = 0;
  if (p->failed)
    return;
  if (module_func(builder_module(p->b), name)) {
    lex_fail(p, loc, E_TWICE, "function '%s' is defined twice", name);
    return;
  }
  if (lex_accept_word(p, "work")) {
    lex_expect(p, '=');
    work = lex_integer(p, 0, INT64_MAX);
  }
  build_func(p->b, name);
  lex_expect(p, '{');
  p->nbind = 0;
  p->bind_cap = 0;
  p->bind = NULL;
  while (!p->failed && !lex_is(p, '}'))
    op(p);
  lex_expect(p, '}');
  if (!p->failed)
    build_current(p->b)->work_bytes = work;
}

static Role role(Parser *p) {
  Loc loc = p->tok.loc;
  Str s = lex_take(p, T_IDENT, "role");
  for (int r = 0; r < ROLE_COUNT; r++)
    if (!strcmp(s, role_name((Role)r)))
      return (Role)r;
  lex_fail(p, loc, E_WORD, "unknown role '%s'", s);
  return ROLE_PARAM;
}

static void tensor(Parser *p) {
  Loc at = p->tok.loc;
  Str name = lex_take(p, T_NAME, "tensor name");
  if (!p->failed && module_tensor(builder_module(p->b), name))
    lex_fail(p, at, E_TWICE, "tensor '%s' is defined twice", name);
  lex_expect(p, ':');
  const Type *ty = type(p);
  lex_expect_word(p, "role");
  lex_expect(p, '=');
  Role r = role(p);
  int64_t base_elem = 0, offset = -1;
  int first = p->forward.n;
  if (lex_accept_word(p, "base")) {
    lex_expect(p, '=');
    Loc base_at = p->tok.loc;
    Str base = lex_take(p, T_NAME, "tensor name");
    add_forward(p, (Forward){NULL, NULL, base, base_at});
    lex_expect_word(p, "at");
    lex_expect(p, '=');
    base_elem = lex_integer(p, 0, INT64_MAX);
  }
  if (lex_accept_word(p, "offset")) {
    lex_expect(p, '=');
    offset = lex_integer(p, 0, INT64_MAX);
  }
  p->in_tensor = true;
  attrs(p);
  p->in_tensor = false;
  Loc loc = location(p);
  if (p->failed)
    return;
  Tensor *t = build_tensor(p->b, name, ty, r, loc);
  if (builder_failed(p->b)) {
    lex_fail(p, at, E_MODULE, "tensor '%s' is not legal", name);
    return;
  }
  t->base_elem = base_elem;
  t->offset = offset;
  for (int i = 0; i < p->attrs.n; i++)
    build_tensor_attr(p->b, t, ((Attr *)p->attrs.data)[i]);
  for (int i = first; i < p->forward.n; i++)
    ((Forward *)p->forward.data)[i].from = t;
}

/* Views may stand before their bases, and attributes before the tensors they name. */
static void resolve_forward(Parser *p) {
  for (int i = 0; i < p->forward.n && !p->failed; i++) {
    const Forward *f = &((Forward *)p->forward.data)[i];
    Tensor *t = module_tensor(builder_module(p->b), f->name);
    if (!t) {
      lex_fail(p, f->loc, E_NAME, "no tensor is named '%s'", f->name);
    } else if (!f->key) {
      f->from->base = t;
    } else {
      for (int k = 0; k < f->from->nattr; k++)
        if (f->from->attr[k].key == f->key)
          f->from->attr[k].u.tensor = t;
    }
  }
}

static void file(Parser *p) {
  Loc loc = p->tok.loc;
  int64_t number = lex_integer(p, 1, MAX_FILES);
  if (!p->failed && number != p->nfiles + 1)
    lex_fail(p, loc, E_SYNTAX, "files are numbered in order, %d expected", p->nfiles + 1);
  Str name = lex_take(p, T_STRING, "file name");
  if (p->failed)
    return;
  p->files[++p->nfiles] = diag_file(p->d, name, "", 0);
}

static void segments(Parser *p) {
  static const char *const names[] = {"state", "derived", "accum", "work", "io"};
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    lex_expect_word(p, names[i]);
    lex_expect(p, '=');
    int64_t bytes = lex_integer(p, 0, INT64_MAX);
    if (!p->failed)
      builder_module(p->b)->segment_bytes[i] = bytes;
  }
}

static Stage header(Parser *p) {
  lex_expect_word(p, "mpir");
  Loc loc = p->tok.loc;
  int64_t version = lex_integer(p, 0, INT64_MAX);
  if (!p->failed && version != 1)
    lex_fail(p, loc, E_RANGE, "version %lld of the IR text is not known, only 1",
             (long long)version);
  lex_expect_word(p, "stage");
  lex_expect(p, '=');
  loc = p->tok.loc;
  Str s = p->failed ? "" : p->tok.text;
  if (!p->failed && p->tok.kind != T_IDENT)
    lex_fail(p, loc, E_SYNTAX, "stage expected");
  for (int i = 0; i < STAGE_COUNT && !p->failed; i++)
    if (!strcmp(s, stage_name((Stage)i)))
      return (Stage)i;
  lex_fail(p, loc, E_WORD, "unknown stage '%s'", s);
  return STAGE_FORWARD;
}

static void module_items(Parser *p) {
  while (!p->failed && p->tok.kind != T_END) {
    if (lex_accept_word(p, "attr")) {
      Loc loc = p->tok.loc;
      Attr a = attr(p);
      const Module *m = builder_module(p->b);
      if (!p->failed && attr_find(m->attr, m->nattr, a.key))
        lex_fail(p, loc, E_TWICE, "attribute '%s' is given twice", a.key);
      if (!p->failed)
        build_module_attr(p->b, a);
    } else if (lex_accept_word(p, "file")) {
      file(p);
    } else if (lex_accept_word(p, "segments")) {
      segments(p);
    } else if (lex_accept_word(p, "tensor")) {
      tensor(p);
    } else if (lex_accept_word(p, "func")) {
      func(p);
    } else {
      lex_fail(p, p->tok.loc, E_SYNTAX, "attr, file, segments, tensor or func expected");
    }
  }
}

Status module_parse(StrTable *strings, Diag *diag, uint32_t file_index, const char *text,
                    size_t len, Module **out) {
  *out = NULL;
  Parser *p = calloc(1, sizeof *p);
  Arena *scratch = arena_create();
  if (!p || !scratch) {
    free(p);
    arena_destroy(scratch);
    return MPCC_ERR_NOMEM;
  }
  p->scratch = scratch;
  p->strings = strings;
  p->d = diag;
  p->file = file_index;
  p->at = text;
  p->end = text + len;
  p->line = p->col = 1;
  lex_next(p);
  Stage stage = header(p);
  Status status = MPCC_ERR_INPUT;
  if (!p->failed) {
    lex_next(p); /* the stage word */
    p->b = builder_create(strings, diag, stage);
    if (p->b)
      builder_exact(p->b);
    else
      lex_fail(p, p->tok.loc, E_RANGE, "out of memory");
    module_items(p);
    resolve_forward(p);
    if (p->failed)
      builder_destroy(p->b);
    else
      status = builder_finish(p->b, out);
    if (status == MPCC_ERR_INTERNAL)
      status = MPCC_ERR_INPUT; /* the text is at fault, not we */
  }
  arena_destroy(scratch);
  free(p);
  return status;
}
