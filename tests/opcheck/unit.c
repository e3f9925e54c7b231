/* An instance becomes a module of one function: reads of its operands, the program of the case,
 * writes of the results. With gradients, the first result is weighted and becomes the logits of one
 * cross entropy, whose loss pass_grad starts from: every element of the result then has a gradient
 * of its own. conv goes through `layout` and nothing else before fuse. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opcheck.h"
#include "passes/passes.h"

/* ---- world ----------------------------------------------------------------------------------- */

bool world_create(World *w) {
  w->arena = arena_create();
  if (!w->arena)
    return false;
  w->strings = str_table_create(w->arena);
  w->diag = diag_create(w->arena, w->strings);
  diag_option_ignore(w->diag, "unused-parameter", true); /* grad_check asks for a zero gradient */
  return !arena_failed(w->arena);
}

void world_destroy(World *w) {
  arena_destroy(w->arena);
}

void world_show(const World *w) {
  for (const DiagMessage *m = diag_first(w->diag); m; m = m->next) {
    Text t = {0};
    diag_render(w->diag, m, false, &t);
    fprintf(stderr, "%s\n", t.data ? t.data : "");
    text_fini(&t);
  }
}

/* ---- text of the table ----------------------------------------------------------------------- */

/* A capital letter that stands alone, outside strings, becomes its number; $ and ~ dtypes. */
static void substitute(const Inst *i, const char *text, Text *out) {
  bool quoted = false;
  for (const char *p = text; *p; p++) {
    bool alone = (p == text || !isalnum((unsigned char)p[-1])) && !isalnum((unsigned char)p[1]);
    quoted ^= *p == '"';
    if (!quoted && *p >= 'A' && *p <= 'Z' && alone)
      text_printf(out, "%lld", (long long)i->letter[*p - 'A']);
    else if (*p == '$')
      text_puts(out, dtype_text(i->dt));
    else if (*p == '~')
      text_puts(out, i->dt == MPCC_F64 ? "f64" : "f32");
    else
      text_put(out, p, 1);
  }
}

/* ---- building -------------------------------------------------------------------------------- */

enum { MOST_NAMES = 24, MOST_ARGS = 12 };
typedef struct {
  char name[16];
  Value *const *out;
  int n;
} Name;

typedef struct {
  World *w;
  const Inst *inst;
  Builder *b;
  Name name[MOST_NAMES];
  int nname;
  Module *attrs[MOST_NAMES]; /* hold the attributes of ops until the module is finished */
  int nattrs;
  bool failed;
} Make;

static void fail(Make *k, const char *what, const char *text) {
  if (!k->failed)
    fprintf(stderr, "%s: %s in \"%s\"\n", k->inst->c->op, what, text);
  k->failed = true;
}

static void bind(Make *k, const char *name, size_t len, Value *const *out, int n) {
  if (k->nname == MOST_NAMES || len >= sizeof k->name[0].name) {
    fail(k, "too many or too long names", name);
    return;
  }
  Name *e = &k->name[k->nname++];
  memcpy(e->name, name, len);
  e->name[len] = 0;
  e->out = out;
  e->n = n;
}

/* "x" or "x.2" */
static Value *lookup(Make *k, const char *text, size_t len) {
  const char *dot = memchr(text, '.', len);
  size_t n = dot ? (size_t)(dot - text) : len;
  int which = dot ? atoi(dot + 1) : 0;
  for (int i = 0; i < k->nname; i++)
    if (strlen(k->name[i].name) == n && !memcmp(k->name[i].name, text, n) && which < k->name[i].n)
      return k->name[i].out[which];
  fail(k, "unknown operand", text);
  return NULL;
}

/* Attributes in the syntax of the IR text, which lends its reader: a module with one tensor that
 * has them. */
static const Attr *read_attrs(Make *k, const char *text, size_t len, int *n) {
  Text t = {0};
  Module *m = NULL;
  text_printf(&t, "mpir 1 stage=forward\ntensor @t : f32[] role=input %.*s\n", (int)len, text);
  uint32_t file = t.failed ? 0 : diag_file(k->w->diag, k->inst->c->op, t.data, t.len);
  *n = 0;
  if (!t.failed && k->nattrs < MOST_NAMES &&
      module_parse(k->w->strings, k->w->diag, file, t.data, t.len, &m) == MPCC_OK) {
    k->attrs[k->nattrs++] = m;
    *n = m->tensor[0]->nattr;
  } else {
    fail(k, "wrong attributes", text);
  }
  text_fini(&t);
  return m ? m->tensor[0]->attr : NULL;
}

static const char *skip(const char *p) {
  return p + strspn(p, " ;");
}

/* One statement: [name =] op(operand, ...) [{attributes}]; gives its op. */
static const Op *statement(Make *k, const char **text) {
  const char *p = skip(*text), *name = p;
  size_t word = strcspn(p, " =(;"), name_len = 0;
  const char *after = p + word + strspn(p + word, " ");
  if (*after == '=') {
    name_len = word;
    p = skip(after + 1);
    word = strcspn(p, " =(;");
  }
  char op_name[40];
  snprintf(op_name, sizeof op_name, "%.*s", (int)word, p);
  OpCode code = op_from_name(op_name);
  p += word;
  if (code == OP_COUNT || *p != '(') {
    fail(k, "no op", *text);
    return NULL;
  }
  Value *in[MOST_ARGS];
  int nin = 0;
  for (p++; *p && *p != ')' && nin < MOST_ARGS && !k->failed; p += *p == ',') {
    p += strspn(p, " ");
    size_t n = strcspn(p, ",)");
    in[nin++] = lookup(k, p, n);
    p += n;
  }
  p = skip(p + (*p == ')'));
  const Attr *attr = NULL;
  int nattr = 0;
  if (*p == '{') {
    size_t n = strcspn(p, "}") + 1;
    attr = read_attrs(k, p, n, &nattr);
    p += n;
  }
  *text = skip(p);
  if (k->failed)
    return NULL;
  const Op *op = build_op(k->b, code, nin, in, nattr, attr);
  if (name_len)
    bind(k, name, name_len, op->out, op->nout);
  return op;
}

static bool is_trained(const Inst *i, DType dt, const char *fill) {
  return i->grad && dtype_is_float(dt) && (!*fill || !strcmp(fill, "pos"));
}

/* name:dtype[dims]=fill:limit; the fill goes to attributes of the tensor. */
static void operand(Make *k, const char *word) {
  char name[16] = "", dt[16] = "", fill[24] = "";
  int64_t dim[MAX_RANK], limit = 0;
  int rank = 0;
  const char *p = strchr(word, '[');
  if (!p || sscanf(word, "%15[a-z0-9]:%15[a-z0-9]", name, dt) != 2) {
    fail(k, "wrong operand", word);
    return;
  }
  for (p++; *p && *p != ']' && rank < MAX_RANK; p += *p == ',') {
    char *end;
    dim[rank++] = strtol(p, &end, 10);
    p = end;
  }
  if (p[0] && p[1] == '=')
    sscanf(p + 2, "%23[a-z]", fill);
  const char *colon = p[0] ? strchr(p, ':') : NULL;
  if (colon)
    limit = strtol(colon + 1, NULL, 10);
  DType type = dtype_from_text(dt);
  if (type == MPCC_DTYPE_COUNT) {
    fail(k, "unknown dtype", word);
    return;
  }
  const Type *ty = type_get(builder_types(k->b), type, rank, dim);
  Role role = is_trained(k->inst, type, fill) ? ROLE_PARAM : ROLE_INPUT;
  Tensor *t = build_tensor(k->b, name, ty, role, (Loc){0});
  build_tensor_attr(k->b, t, attr_s(k->b, "fill", fill));
  build_tensor_attr(k->b, t, attr_i(k->b, "limit", limit));
  Value **v = ARENA_NEW(builder_arena(k->b), Value *);
  *v = build_read(k->b, t);
  bind(k, name, strlen(name), v, 1);
}

static void operands(Make *k) {
  Text t = {0};
  substitute(k->inst, k->inst->c->operands, &t);
  for (char *save = NULL, *w = t.failed || !t.len ? NULL : strtok_r(t.data, " ", &save);
       w && !k->failed; w = strtok_r(NULL, " ", &save))
    operand(k, w);
  text_fini(&t);
}

/* Statements up to a bar: the function `body` of a scan, which sees its own names alone. */
static const char *body(Make *k, const char *p) {
  Name outer[MOST_NAMES];
  const int n = k->nname;
  memcpy(outer, k->name, sizeof outer);
  k->nname = 0;
  build_func_ahead(k->b, "body");
  while (*p && *p != '|' && !k->failed)
    statement(k, &p);
  build_func(k->b, "train_forward");
  memcpy(k->name, outer, sizeof outer);
  k->nname = n;
  return skip(p + (*p == '|'));
}

static Value *program(Make *k, const Op **last) {
  Text t = {0};
  substitute(k->inst, k->inst->c->program, &t);
  const char *p = t.failed ? "" : t.data;
  *last = NULL;
  if (strchr(p, '|'))
    p = body(k, p);
  while (*p && !k->failed)
    *last = statement(k, &p);
  text_fini(&t);
  if (!*last || k->failed) {
    k->failed = true;
    return NULL;
  }
  return (*last)->out[0];
}

static void write_results(Make *k, const Op *last) {
  for (int i = 0; i < last->nout; i++) {
    char name[16];
    snprintf(name, sizeof name, "out.%d", i);
    build_write(k->b, build_tensor(k->b, name, last->out[i]->type, ROLE_OUTPUT, (Loc){0}),
                last->out[i]);
  }
}

/* Power of two near the number of logits. */
static double unit_seed(int64_t logits) {
  double seed = 1;
  while (seed < (double)logits)
    seed *= 2;
  return seed;
}

static void filled_tensor(Make *k, Tensor *t, const char *fill, int64_t limit) {
  build_tensor_attr(k->b, t, attr_s(k->b, "fill", fill));
  build_tensor_attr(k->b, t, attr_i(k->b, "limit", limit));
}

/* loss = cross entropy of one row of logits y * weight + offset, 0: with a second class a result of
 * one element has a gradient too, with offsets small results give probabilities that differ. Wholly
 * smoothed, it is log sum exp - mean, so no element's gradient dwarfs the others; the seed, near
 * the number of logits, makes gradients about 1, far from f16's subnormals. */
static void write_loss(Make *k, Value *y) {
  Builder *b = k->b;
  const int64_t one = 1, n = type_elems(y->type), row[2] = {1, n}, padded = n + 1;
  TypeTable *tt = builder_types(b);
  Tensor *weight = build_tensor(b, "weight", y->type, ROLE_INPUT, (Loc){0});
  Tensor *target = build_tensor(b, "target", type_get(tt, MPCC_I64, 1, &one), ROLE_INPUT, (Loc){0});
  Tensor *valid = build_tensor(b, "valid", type_get(tt, MPCC_I64, 0, NULL), ROLE_VALID, (Loc){0});
  filled_tensor(k, weight, "weight", inst_terms(k->inst));
  Tensor *offset = build_tensor(b, "offset", y->type, ROLE_INPUT, (Loc){0});
  filled_tensor(k, offset, "offset", 0);
  filled_tensor(k, target, "class", padded);
  filled_tensor(k, valid, "valid", 1);
  Value *z = build2(b, OP_mul, y, build_read(b, weight));
  z = build_reshape(b, build2(b, OP_add, z, build_read(b, offset)), 2, row);
  const Attr pad[] = {attr_i(b, "dim", 1), attr_i(b, "start", 0), attr_i(b, "size", padded)};
  z = build_op(b, OP_unslice, 1, &z, 3, pad)->out[0];
  double seed = unit_seed(padded);
  Value *in[] = {z, build_read(b, target), build_const(b, seed, MPCC_F32), build_read(b, valid)};
  const Attr smooth = attr_f(b, "label_smoothing", 1);
  const Op *loss = build_op(b, OP_cross_entropy, 4, in, 1, &smooth);
  Tensor *t = build_tensor(b, "metric.loss", loss->out[0]->type, ROLE_METRIC, (Loc){0});
  build_tensor_attr(b, t, attr_f(b, "seed", seed));
  build_write(b, t, loss->out[0]);
}

static const char *mode_text(DType dt) {
  return dt == MPCC_F64    ? "64-true"
         : dt == MPCC_F16  ? "16-true"
         : dt == MPCC_BF16 ? "bf16-true"
                           : "32-true";
}

static Status make(World *w, const Inst *i, Stage stage, Module **out) {
  *out = NULL;
  Make k = {.w = w, .inst = i, .b = builder_create(w->strings, w->diag, stage)};
  if (!k.b)
    return MPCC_ERR_NOMEM;
  build_module_attr(k.b, attr_s(k.b, "mode", mode_text(i->dt)));
  build_func(k.b, "train_forward");
  build_at(k.b, (Loc){0}, str_c(w->strings, i->c->op), NULL);
  const Op *last;
  operands(&k);
  Value *y = k.failed ? NULL : program(&k, &last);
  if (y && i->grad)
    write_loss(&k, y);
  else if (y)
    write_results(&k, last);
  Status s = MPCC_ERR_INTERNAL;
  if (y)
    s = builder_finish(k.b, out);
  else
    builder_destroy(k.b);
  for (int m = 0; m < k.nattrs; m++)
    module_destroy(k.attrs[m]);
  return s;
}

/* ---- passes ---------------------------------------------------------------------------------- */

static Status run_pass(World *w, PassFn *pass, Stage gives, const Module *in, Module **out) {
  *out = NULL;
  const PassOpts o = {0};
  Builder *b = builder_create(w->strings, w->diag, gives);
  if (!b)
    return MPCC_ERR_NOMEM;
  Status s = pass(in, &o, b, w->diag);
  if (s == MPCC_OK)
    return builder_finish(b, out);
  builder_destroy(b);
  return s;
}

/* The stage where all ops of the program are legal: those that grad makes come last. */
static Stage first_stage(const Inst *i) {
  for (const char *p = i->c->program; (p = strstr(p, "grad(")); p++)
    if (p == i->c->program || p[-1] != 'q') /* qgrad is made before grad runs */
      return STAGE_TRAIN;
  return STAGE_TYPED;
}

bool is_result(const Tensor *t) {
  return t->role == ROLE_OUTPUT || t->role == ROLE_METRIC || t->role == ROLE_GRAD;
}

Status unit_build(World *w, const Inst *i, Unit *out) {
  *out = (Unit){0};
  Module *first, *laid = NULL;
  Status s = make(w, i, first_stage(i), &first);
  if (s != MPCC_OK)
    return s;
  if (first->stage == STAGE_TYPED)
    s = run_pass(w, pass_layout, STAGE_LAID, first, &laid);
  if (s == MPCC_OK && i->grad) {
    s = run_pass(w, pass_grad, STAGE_TRAIN, laid, &out->whole);
    module_destroy(laid);
    module_destroy(first);
    out->lowered = out->whole;
  } else {
    out->whole = first;
    out->lowered = laid ? laid : first;
  }
  if (s == MPCC_OK)
    out->func = module_func(out->whole, "train_forward");
  else
    unit_fini(out);
  return s;
}

void unit_fini(Unit *u) {
  if (u->lowered != u->whole)
    module_destroy(u->lowered);
  module_destroy(u->whole);
  *u = (Unit){0};
}
