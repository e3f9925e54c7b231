/* Invariants of a module at its stage (docs/ir.md). A broken one is an error of ours (a pass or a
 * hand-written .mpir file), so every message names function, op and rule, and the status is
 * ERR_INTERNAL. Here: structure, shapes, attributes, stage rules; verify_group.c: group bodies;
 * verify_plan.c: offsets and lifetimes. */
#include "ir/verify.h"

#include "ir/build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { E_VERIFY = 701 };

void verify_broken(Verify *v, const char *fmt, ...) {
  char text[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  const Op *op = v->op;
  if (op)
    diag_error(v->d, op->loc, E_VERIFY, "@%s, op %d, %s%s%s: %s", v->f->name, op->index,
               op_info(op->code)->name, op->layer && *op->layer ? " of " : "",
               op->layer ? op->layer : "", text);
  else if (v->f)
    diag_error(v->d, (Loc){0}, E_VERIFY, "@%s: %s", v->f->name, text);
  else
    diag_error(v->d, (Loc){0}, E_VERIFY, "%s", text);
}

/* ---- tensors and attributes ------------------------------------------------------------------ */

static bool own_tensor(const Module *m, const Tensor *t) {
  return t && t->index >= 0 && t->index < m->ntensor && m->tensor[t->index] == t;
}

static void check_view(Verify *v, const Tensor *t) {
  const Tensor *base = t->base;
  int64_t n = type_elems(t->type), all;
  if (!own_tensor(v->m, base)) {
    verify_broken(v, "base of tensor '%s' is not in the module", t->name);
    return;
  }
  all = type_elems(base->type);
  if (base->base)
    verify_broken(v, "tensor '%s' is a view of a view", t->name);
  if (base->type->dt != t->type->dt)
    verify_broken(v, "tensor '%s' is %s, its base '%s' is %s", t->name, dtype_text(t->type->dt),
                  base->name, dtype_text(base->type->dt));
  if (t->base_elem < 0 || n > all || t->base_elem > all - n)
    verify_broken(v, "tensor '%s' at element %lld lies outside its base '%s'", t->name,
                  (long long)t->base_elem, base->name);
}

static void check_attrs(Verify *v, const char *of, const Attr *attr, int n) {
  for (int i = 0; i < n; i++) {
    if (attr[i].kind == AT_TENSOR && !own_tensor(v->m, attr[i].u.tensor))
      verify_broken(v, "%sattribute '%s' is a tensor of another module", of, attr[i].key);
    if (attr[i].kind == AT_DTYPE && (uint64_t)attr[i].u.i >= MPCC_DTYPE_COUNT)
      verify_broken(v, "%sattribute '%s' is no dtype", of, attr[i].key);
    for (int k = 0; k < i; k++)
      if (attr[k].key == attr[i].key)
        verify_broken(v, "%sattribute '%s' is given twice", of, attr[i].key);
  }
}

static void check_tensor(Verify *v, const Tensor *t, int i) {
  if (t->index != i)
    verify_broken(v, "tensor '%s' has index %d at position %d", t->name, t->index, i);
  if (t->base)
    check_view(v, t);
  check_attrs(v, "tensor ", t->attr, t->nattr);
}

static void check_names(Verify *v) {
  const Module *m = v->m;
  size_t cap = 64;
  while (cap < (size_t)m->ntensor * 2)
    cap *= 2;
  Str *seen = calloc(cap, sizeof *seen);
  if (!seen) {
    verify_broken(v, "out of memory");
    return;
  }
  for (int i = 0; i < m->ntensor; i++) {
    const Str name = m->tensor[i]->name;
    size_t at = str_hash(name) & (cap - 1);
    while (seen[at] && seen[at] != name)
      at = (at + 1) & (cap - 1);
    if (seen[at])
      verify_broken(v, "two tensors are named '%s'", name);
    seen[at] = name;
  }
  free(seen);
}

/* ---- structure of a function ----------------------------------------------------------------- */

static bool check_operands(Verify *v) {
  const Op *op = v->op;
  bool ok = true;
  for (int i = 0; i < op->nin; i++) {
    const Value *x = op->in[i];
    const Op *def = x ? x->def : NULL;
    if (!def || def->func != v->f || def->index < 0 || def->index >= op->index ||
        v->f->op[def->index] != def || x->out < 0 || x->out >= def->nout || def->out[x->out] != x) {
      verify_broken(v, "operand %d is not a value defined before it", i);
      ok = false;
    }
  }
  return ok;
}

static bool check_results(Verify *v, int *next_id) {
  const Op *op = v->op;
  bool ok = true;
  for (int i = 0; i < op->nout; i++) {
    const Value *x = op->out[i];
    if (!x || x->def != op || x->out != i || !x->type) {
      verify_broken(v, "result %d is not tied to its op", i);
      ok = false;
    } else if (x->id != (*next_id)++) {
      verify_broken(v, "result %d has id %d out of order", i, x->id);
      ok = false;
    }
  }
  return ok;
}

/* ---- ops ------------------------------------------------------------------------------------- */

/* Kind of value of the attributes that ops share; a key that is not here is the op's own affair. */
static const struct {
  const char *key;
  AttrKind kind;
} attr_kinds[] = {
    {"dims", AT_INTS},      {"shape", AT_INTS},    {"perm", AT_INTS},     {"dim", AT_INT},
    {"start", AT_INT},      {"end", AT_INT},       {"size", AT_INT},      {"axes", AT_INT},
    {"heads", AT_INT},      {"stream", AT_INT},    {"groups", AT_INT},    {"ignore_index", AT_INT},
    {"keepdim", AT_BOOL},   {"causal", AT_BOOL},   {"ta", AT_BOOL},       {"tb", AT_BOOL},
    {"to", AT_DTYPE},       {"dtype", AT_DTYPE},   {"out", AT_DTYPE},     {"compute", AT_DTYPE},
    {"eps", AT_FLOAT},      {"p", AT_FLOAT},       {"scale", AT_FLOAT},   {"dropout_p", AT_FLOAT},
    {"positions", AT_INTS}, {"kernel", AT_INTS},   {"extents", AT_INTS},  {"up", AT_INTS},
    {"block", AT_INTS},     {"scales", AT_STR},    {"decoded", AT_DTYPE}, {"body", AT_STR},
    {"kind", AT_STR},       {"tensor", AT_TENSOR}, {"func", AT_STR},      {"length", AT_INT},
    {"index", AT_INT},      {"arg", AT_INT},       {"slots", AT_INT},
};
enum { NKINDS = sizeof attr_kinds / sizeof *attr_kinds, NSLOTS = 128 };
_Static_assert(NKINDS * 2 < NSLOTS, "kind_slot ends at an empty one");

/* attr_kinds by interned key. */
struct KindSlot {
  Str key; /* NULL: empty */
  AttrKind kind;
};

static KindSlot *kind_slot(KindSlot *slots, Str key) {
  size_t at = str_hash(key) % NSLOTS;
  while (slots[at].key && slots[at].key != key)
    at = (at + 1) % NSLOTS;
  return &slots[at];
}

static bool kind_fits(AttrKind want, AttrKind is) {
  return is == want || (want == AT_FLOAT && is == AT_INT) || (want == AT_BOOL && is == AT_INT);
}

static bool check_attr_kinds(Verify *v) {
  const Op *op = v->op;
  int before = diag_errors(v->d);
  check_attrs(v, "", op->attr, op->nattr);
  for (int i = 0; i < op->nattr; i++) {
    const KindSlot *k = kind_slot(v->kinds, op->attr[i].key);
    if (k->key && !kind_fits(k->kind, op->attr[i].kind))
      verify_broken(v, "attribute '%s' has the wrong kind of value", op->attr[i].key);
  }
  return diag_errors(v->d) == before;
}

static bool same_type(const Type *a, const Type *b) {
  return a->dt == b->dt && type_same_shape(a, b);
}

/* Result types are what the op's shape rule says. */
static void check_shape(Verify *v, Builder *shapes) {
  const Op *op = v->op;
  const Type *types[MAX_RULE_OUT];
  int nout = 0;
  if (op->nout > MAX_RULE_OUT) {
    verify_broken(v, "%d results", op->nout);
    return;
  }
  const Status status =
      shape_infer(shapes, op->code, op->nin, op->in, op->nattr, op->attr, op->loc, &nout, types);
  if (status == MPCC_ERR_NOMEM)
    return; /* module_verify asks `shapes` */
  if (status != MPCC_OK) {
    verify_broken(v, "operands do not fit its shape rule");
    return;
  }
  if (nout != op->nout) {
    verify_broken(v, "%d results, its shape rule gives %d", op->nout, nout);
    return;
  }
  for (int i = 0; i < nout; i++)
    if (!same_type(op->out[i]->type, types[i])) {
      Text a = {0}, b = {0};
      type_print(op->out[i]->type, &a);
      type_print(types[i], &b);
      verify_broken(v, "result %d is %s, its shape rule gives %s", i, a.data ? a.data : "",
                    b.data ? b.data : "");
      text_fini(&a);
      text_fini(&b);
    }
}

/* read and write name a tensor of exactly the value's type. */
static void check_state(Verify *v) {
  const Op *op = v->op;
  const Attr *a = op_attr(op, "tensor");
  const Value *x = op->code == OP_read ? op->nout ? op->out[0] : NULL : op->nin ? op->in[0] : NULL;
  if (!a || a->kind != AT_TENSOR || !own_tensor(v->m, a->u.tensor)) {
    verify_broken(v, "attribute tensor is missing");
    return;
  }
  if (x && !same_type(x->type, a->u.tensor->type))
    verify_broken(v, "value and tensor '%s' have different types", a->u.tensor->name);
}

/* ---- stages ---------------------------------------------------------------------------------- */

/* Ops that exist in some stages only; the others follow from kinds and names below. */
static const struct {
  OpCode op;
  Stage first, last;
} stage_ops[] = {
    {OP_group, STAGE_KERNELS, STAGE_PLANNED},   {OP_conv, STAGE_FORWARD, STAGE_TYPED},
    {OP_conv_gather, STAGE_TYPED, STAGE_SAVED}, {OP_conv_wgrad, STAGE_TRAIN, STAGE_SAVED},
    {OP_qgrad, STAGE_FORWARD, STAGE_TRAIN},     {OP_loss_seed, STAGE_FORWARD, STAGE_TRAIN},
};

static void check_stage(Verify *v) {
  const Op *op = v->op;
  const OpInfo *info = op_info(op->code);
  Stage s = v->m->stage;
  const char *tail = s < STAGE_TRAIN ? strrchr(info->name, '_') : NULL;
  bool ok = s < STAGE_KERNELS || info->kind == OK_NONE;
  for (size_t i = 0; i < sizeof stage_ops / sizeof *stage_ops; i++)
    ok &= stage_ops[i].op != op->code || (s >= stage_ops[i].first && s <= stage_ops[i].last);
  /* <op>_grad exists for the ops that grad_<op> turns into one op. */
  ok &= !tail || strcmp(tail, "_grad");
  if (!ok)
    verify_broken(v, "not legal in stage %s", stage_name(s));
  /* From `typed` on a product reads operands of one dtype: no kernel mixes them. */
  if (s >= STAGE_TYPED && info->policy[0] == POL_LOW && info->kind != OK_NONE && op->nin > 1 &&
      op->in[0]->type->dt != op->in[1]->type->dt)
    verify_broken(v, "operands are %s and %s in stage %s", dtype_text(op->in[0]->type->dt),
                  dtype_text(op->in[1]->type->dt), stage_name(s));
}

static void check_op(Verify *v, Builder *shapes) {
  const Op *op = v->op;
  const OpInfo *info = op_info(op->code);
  check_stage(v);
  if ((info->nin >= 0 && op->nin != info->nin) || (info->nout >= 0 && op->nout != info->nout)) {
    verify_broken(v, "%d operands and %d results", op->nin, op->nout);
    return;
  }
  if (!check_attr_kinds(v))
    return;
  if (op->code == OP_read || op->code == OP_write)
    check_state(v);
  if ((op->body != NULL) != (op->code == OP_group)) {
    verify_broken(v, "a group and nothing else has a body");
    return;
  }
  if (op->code == OP_group)
    verify_group(v);
  else if (op->code == OP_expr || op_is_scalar(op->code)) {
    if (!op->scalar || op->scalar->nargs != op->nin)
      verify_broken(v, "its expression does not have %d arguments", op->nin);
  }
  if (op->code != OP_group)
    check_shape(v, shapes);
}

/* A body has no state, and no loop of its own; its args and yields are numbered from 0, each once.
 * A scan's body stands before it. */
static void check_loops(Verify *v) {
  const Func *f = v->f;
  const bool body = func_is_body(f);
  int narg = 0, nyield = 0;
  for (int i = 0; i < f->nop; i++) {
    const Op *op = v->op = f->op[i];
    if (op->code == OP_arg)
      narg++;
    if (op->code == OP_yield)
      nyield++;
    if (body ? op->code == OP_read || op->code == OP_write || op->code == OP_scan
             : op->code == OP_arg)
      verify_broken(v, "not legal %s the body of a loop", body ? "in" : "outside");
    if ((op->code == OP_arg && loop_arg(f, op_int(op, "index", -1)) != op) ||
        (op->code == OP_yield && loop_yield(f, op_int(op, "index", -1)) != op))
      verify_broken(v, "its index is taken");
    if (op->code == OP_scan) {
      int at = 0;
      while (at < v->m->nfunc && v->m->func[at] != f && v->m->func[at] != loop_body(op))
        at++;
      if (at == v->m->nfunc || v->m->func[at] == f)
        verify_broken(v, "its body does not stand before it");
    }
  }
  v->op = NULL;
  for (int i = 0; i < narg || i < nyield; i++)
    if ((i < narg && !loop_arg(f, i)) || (i < nyield && !loop_yield(f, i)))
      verify_broken(v, "args or yields are not numbered from 0");
}

static void check_func(Verify *v, Builder *shapes) {
  const Func *f = v->f;
  int next_id = 0, before = diag_errors(v->d);
  for (int i = 0; i < f->nop; i++) {
    v->op = f->op[i];
    if (v->op->index != i || v->op->func != f) {
      verify_broken(v, "index %d at position %d", v->op->index, i);
      break;
    }
    if (!check_results(v, &next_id) || !check_operands(v))
      break;
    check_op(v, shapes);
  }
  v->op = NULL;
  if (diag_errors(v->d) != before)
    return;
  check_loops(v);
  if (diag_errors(v->d) != before)
    return;
  if (next_id != f->nvalue)
    verify_broken(v, "%d values, nvalue says %d", next_id, f->nvalue);
  else if (v->m->stage == STAGE_PLANNED)
    verify_places(v);
}

Status module_verify(const Module *m, Diag *d) {
  KindSlot kinds[NSLOTS] = {0};
  for (int i = 0; i < NKINDS; i++) {
    Str key = str_c(m->strings, attr_kinds[i].key);
    if (str_table_failed(m->strings))
      return MPCC_ERR_NOMEM;
    *kind_slot(kinds, key) = (KindSlot){key, attr_kinds[i].kind};
  }
  Verify v = {.m = m, .d = d, .kinds = kinds};
  int before = diag_errors(d);
  /* Shape rules intern their types through a builder: this one makes nothing. */
  Builder *shapes = builder_create(m->strings, d, m->stage);
  if (!shapes)
    return MPCC_ERR_NOMEM;
  for (int i = 0; i < m->ntensor; i++)
    check_tensor(&v, m->tensor[i], i);
  if (diag_errors(d) == before)
    check_names(&v);
  if (m->stage == STAGE_PLANNED && diag_errors(d) == before)
    verify_segments(&v);
  for (int i = 0; i < m->nfunc && diag_errors(d) == before; i++) {
    v.f = m->func[i];
    if (module_func(m, v.f->name) != v.f)
      verify_broken(&v, "two functions have this name");
    check_func(&v, shapes);
  }
  const bool short_memory = builder_failed(shapes) || v.short_memory;
  builder_destroy(shapes);
  if (diag_errors(d) != before)
    return MPCC_ERR_INTERNAL;
  return short_memory ? MPCC_ERR_NOMEM : MPCC_OK;
}
