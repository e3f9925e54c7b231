/* Shape rules: shape_<rule> gives the result types of the ops whose row names it. Misfits are the
 * user's errors and are told in the spec's words; wrong attributes can only come from IR text or a
 * defect in a pass, and are told in the op's. */
#include "ir/build.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { CODE_SHAPE = 311, CODE_DTYPE = 312, CODE_ATTR = 313 };

typedef struct {
  Builder *b;
  TypeTable *types;
  Diag *d;
  Loc loc;
  OpCode code;
  int nin, nattr;
  Value *const *in;
  const Attr *attr;
  int *nout;
  const Type **out;
} Infer;

/* ---- messages -------------------------------------------------------------------------------- */

/* 'encoder.0.mlp' or, for ops without a layer, the op's name. */
static Str subject(const Infer *x) {
  Str layer = builder_layer(x->b);
  return *layer ? str_fmt(builder_strings(x->b), "'%s'", layer) : op_info(x->code)->name;
}

static Str shape_text(const Infer *x, const Type *ty) {
  Text t = {0};
  text_puts(&t, "[");
  for (int i = 0; i < ty->rank; i++)
    text_printf(&t, "%s%lld", i ? ", " : "", (long long)ty->dim[i]);
  text_puts(&t, "]");
  Str s = str_c(builder_strings(x->b), t.failed ? "[...]" : t.data);
  text_fini(&t);
  return s;
}

static Str origin(const Infer *x, const Op *def) {
  const Attr *tensor = op_attr(def, "tensor");
  if (def->code == OP_read && tensor && tensor->kind == AT_TENSOR)
    return str_fmt(builder_strings(x->b), "'%s'", tensor->u.tensor->name);
  if (def->layer && *def->layer)
    return str_fmt(builder_strings(x->b), "'%s' (%s)", def->layer, op_info(def->code)->name);
  return op_info(def->code)->name;
}

/* Says where operand i comes from, under the newest message. */
static void note_operand(Infer *x, int i, const char *what) {
  const Op *def = x->in[i]->def;
  diag_note(x->d, def->loc, "%s comes from %s with shape %s", what, origin(x, def),
            shape_text(x, x->in[i]->type));
}

__attribute__((format(printf, 3, 4))) static bool fail(Infer *x, int code, const char *fmt, ...) {
  if (builder_failed(x->b)) /* short of memory: what was compared may be no misfit */
    return false;
  va_list ap;
  va_start(ap, fmt);
  Str text = str_vfmt(builder_strings(x->b), fmt, ap);
  va_end(ap);
  diag_error(x->d, x->loc, code, "%s%s",
             code == CODE_SHAPE   ? "shapes do not fit: "
             : code == CODE_DTYPE ? "dtypes do not fit: "
                                  : "",
             text);
  return false;
}

/* ---- operands and attributes ----------------------------------------------------------------- */

static const Type *operand(const Infer *x, int i) {
  return x->in[i]->type;
}

static void result(Infer *x, const Type *ty) {
  x->out[(*x->nout)++] = ty;
}

static void result_as(Infer *x, DType dt, int rank, const int64_t *dim) {
  result(x, type_get(x->types, dt, rank, dim));
}

static void result_scalar(Infer *x, DType dt) {
  result_as(x, dt, 0, NULL);
}

static bool want_operands(Infer *x, int least, int most) {
  if (x->nin >= least && x->nin <= most)
    return true;
  if (least == most)
    return fail(x, CODE_SHAPE, "%s takes %d operand%s, got %d", subject(x), least,
                least == 1 ? "" : "s", x->nin);
  return fail(x, CODE_SHAPE, "%s takes %d to %d operands, got %d", subject(x), least, most, x->nin);
}

static bool want_rank(Infer *x, int i, int rank) {
  if (operand(x, i)->rank == rank)
    return true;
  return fail(x, CODE_SHAPE, "operand %d of %s has shape %s, expected %d dimension%s", i + 1,
              subject(x), shape_text(x, operand(x, i)), rank, rank == 1 ? "" : "s");
}

static bool want_float(Infer *x, int i) {
  if (dtype_is_float(operand(x, i)->dt))
    return true;
  return fail(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected a float", i + 1, subject(x),
              dtype_text(operand(x, i)->dt));
}

static bool want_dtype(Infer *x, int i, DType dt) {
  if (operand(x, i)->dt == dt)
    return true;
  return fail(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected %s", i + 1, subject(x),
              dtype_text(operand(x, i)->dt), dtype_text(dt));
}

static bool want_codes(Infer *x, int i) {
  if (dtype_is_code(operand(x, i)->dt))
    return true;
  return fail(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected e4m3, e5m2 or e2m1", i + 1,
              subject(x), dtype_text(operand(x, i)->dt));
}

/* Operand i is a scalar of type dt. */
static bool want_scalar(Infer *x, int i, DType dt) {
  return want_rank(x, i, 0) && want_dtype(x, i, dt);
}

static bool want_integer(Infer *x, int i) {
  if (dtype_info(operand(x, i)->dt)->cls == 'I')
    return true;
  return fail(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected an integer", i + 1,
              subject(x), dtype_text(operand(x, i)->dt));
}

static bool want_same_shape(Infer *x, int i, const Type *ty) {
  if (type_same_shape(operand(x, i), ty))
    return true;
  fail(x, CODE_SHAPE, "operand %d of %s has shape %s, expected %s", i + 1, subject(x),
       shape_text(x, operand(x, i)), shape_text(x, ty));
  note_operand(x, i, "it");
  return false;
}

static const Attr *find(const Infer *x, const char *key, AttrKind kind) {
  const Attr *at = attr_find(x->attr, x->nattr, key);
  return at && at->kind == kind ? at : NULL;
}

static const Attr *want_attr(Infer *x, const char *key, AttrKind kind) {
  static const char *const kinds[] = {"an integer", "a number", "true or false", "a text",
                                      "a dtype",    "a list",   "a tensor"};
  const Attr *at = find(x, key, kind);
  if (!at)
    fail(x, CODE_ATTR, "%s needs attribute '%s', %s", op_info(x->code)->name, key, kinds[kind]);
  return at;
}

static int64_t int_attr(const Infer *x, const char *key, int64_t otherwise) {
  const Attr *at = find(x, key, AT_INT);
  return at ? at->u.i : otherwise;
}

static bool flag(const Infer *x, const char *key) {
  const Attr *at = attr_find(x->attr, x->nattr, key);
  return at && (at->kind == AT_BOOL || at->kind == AT_INT) && at->u.i;
}

/* Attribute `key` (a dtype) when present, else `otherwise`. */
static DType dtype_attr(const Infer *x, const char *key, DType otherwise) {
  const Attr *at = find(x, key, AT_DTYPE);
  return at ? (DType)at->u.i : otherwise;
}

static bool want_axis(Infer *x, int64_t axis, int rank) {
  if (axis >= 0 && axis < rank)
    return true;
  return fail(x, CODE_SHAPE, "%s works on axis %lld, its input has %d", subject(x), (long long)axis,
              rank);
}

/* ---- dtypes ---------------------------------------------------------------------------------- */

/* 0 truth, 1 integer, 2 float */
static int category(DType d) {
  const char cls = dtype_info(d)->cls;
  return cls == 'F' ? 2 : cls == 'I';
}

/* Narrowest format of one category that takes both: f16 with bf16 is f32. */
static DType promote_pair(DType a, DType b) {
  if (a == b)
    return a;
  if (category(a) != category(b))
    return category(a) > category(b) ? a : b;
  if (dtype_info(a)->bits == dtype_info(b)->bits)
    return DT_F32;
  return dtype_info(a)->bits > dtype_info(b)->bits ? a : b;
}

/* torch.result_type: scalars (rank 0) count only when they are of a higher category than all other
 * operands. DT_COUNT for no operands. */
static DType promote(const Infer *x) {
  DType full = DT_COUNT, scalar = DT_COUNT;
  for (int i = 0; i < x->nin; i++) {
    const Type *ty = operand(x, i);
    DType *into = ty->rank ? &full : &scalar;
    *into = *into == DT_COUNT ? ty->dt : promote_pair(*into, ty->dt);
  }
  if (full == DT_COUNT || (scalar != DT_COUNT && category(scalar) > category(full)))
    return scalar;
  return full;
}

/* ---- pointwise ------------------------------------------------------------------------------- */

/* Broadcasts all operands; wrong ones are named. */
static bool broadcast(Infer *x, int *rank, int64_t dim[MAX_RANK]) {
  Type all = {0};
  for (int i = 0; i < x->nin; i++) {
    if (type_broadcast(&all, operand(x, i), rank, dim)) {
      all.rank = *rank;
      memcpy(all.dim, dim, sizeof all.dim);
      continue;
    }
    fail(x, CODE_SHAPE, "%s takes %s and %s", subject(x), shape_text(x, operand(x, 0)),
         shape_text(x, operand(x, i)));
    diag_hint(x->d, "dimensions, counted from the last, must be equal or 1");
    note_operand(x, 0, "the first");
    note_operand(x, i, i == 1 ? "the second" : "the other");
    return false;
  }
  *rank = all.rank;
  memcpy(dim, all.dim, sizeof all.dim);
  return true;
}

/* True when the body makes numbers that integers cannot hold. */
static bool leaves_integers(const Scalar *s) {
  for (int i = 0; i < s->nstmt; i++) {
    const Prim p = (Prim)s->stmt[i].prim;
    if (p == PR_DIV || (p >= PR_SQRT && p <= PR_SIN && p != PR_FLOOR) ||
        (p == PR_CONST && s->stmt[i].imm != floor(s->stmt[i].imm)))
      return true;
  }
  return false;
}

static bool shape_expr(Infer *x) {
  int rank;
  int64_t dim[MAX_RANK] = {0};
  const Scalar *body = builder_scalar(x->b, x->code, x->nin, x->nattr, x->attr);
  if (!body || !broadcast(x, &rank, dim))
    return false;
  DType dt = dtype_attr(x, "dtype", promote(x));
  if (dt == DT_COUNT)
    return fail(x, CODE_ATTR, "%s without operands needs attribute 'dtype'",
                op_info(x->code)->name);
  if (!find(x, "dtype", AT_DTYPE)) {
    if (dtype_is_fp8(dt))
      return fail(x, CODE_DTYPE, "%s computes in %s, which only holds codes of products",
                  subject(x), dtype_text(dt));
    if (!dtype_is_float(dt) && leaves_integers(body))
      dt = DT_F32;
  }
  result_as(x, dt, rank, dim);
  return true;
}

/* Rows of scalar.def. */
static bool shape_elem(Infer *x) {
  const int nin = op_info(x->code)->nin;
  return want_operands(x, nin, nin) && shape_expr(x);
}

static bool shape_same(Infer *x) {
  result(x, operand(x, 0));
  return true;
}

static bool shape_cast(Infer *x) {
  const Attr *to = want_attr(x, "to", AT_DTYPE);
  if (!to)
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), (DType)to->u.i));
  return true;
}

/* ---- structure ------------------------------------------------------------------------------- */

static bool shape_read(Infer *x) {
  const Attr *t = want_attr(x, "tensor", AT_TENSOR);
  if (!t)
    return false;
  result(x, t->u.tensor->type);
  return true;
}

static bool shape_write(Infer *x) {
  const Attr *t = want_attr(x, "tensor", AT_TENSOR);
  if (!t)
    return false;
  const Type *to = t->u.tensor->type, *ty = operand(x, 0);
  if (to->dt == ty->dt && type_same_shape(to, ty))
    return true;
  fail(x, type_same_shape(to, ty) ? CODE_DTYPE : CODE_SHAPE, "'%s' holds %s%s, written with %s%s",
       t->u.tensor->name, dtype_text(to->dt), shape_text(x, to), dtype_text(ty->dt),
       shape_text(x, ty));
  note_operand(x, 0, "the value");
  return false;
}

static bool shape_const(Infer *x) {
  const Attr *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!dt || !want_attr(x, "value", AT_FLOAT))
    return false;
  result_scalar(x, (DType)dt->u.i);
  return true;
}

static bool shape_arg(Infer *x) {
  const Attr *shape = want_attr(x, "shape", AT_INTS), *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!shape || !dt || !want_attr(x, "index", AT_INT) || !want_attr(x, "kind", AT_STR))
    return false;
  if (shape->u.ints.n > MAX_RANK)
    return fail(x, CODE_SHAPE, "an argument of a loop has more than %d dimensions", MAX_RANK);
  result_as(x, (DType)dt->u.i, shape->u.ints.n, shape->u.ints.v);
  return true;
}

static bool shape_yield(Infer *x) {
  return want_attr(x, "index", AT_INT) && want_attr(x, "kind", AT_STR);
}

/* ty with an axis of n in front; NULL after a message. */
static const Type *stacked(Infer *x, const Type *ty, int64_t n) {
  int64_t dim[MAX_RANK] = {n};
  if (ty->rank == MAX_RANK) {
    fail(x, CODE_SHAPE, "%s stacks values of %d dimensions", subject(x), MAX_RANK);
    return NULL;
  }
  memcpy(dim + 1, ty->dim, (size_t)ty->rank * sizeof *dim);
  return type_get(x->types, ty->dt, ty->rank + 1, dim);
}

/* Operand i is what arg i of the body takes. Kernels see elements, whatever their shape. */
static bool scan_operand(Infer *x, const Func *body, int i, int64_t length) {
  const Op *arg = loop_arg(body, i);
  if (!arg || loop_kind(arg) == LOOP_KINDS)
    return fail(x, CODE_ATTR, "'%s' has no argument %d", body->name, i);
  const Type *is = operand(x, i), *want = arg->out[0]->type;
  if (loop_kind(arg) == LOOP_STACKED)
    want = stacked(x, want, length);
  if (!want || !want_dtype(x, i, want->dt))
    return false;
  if (body->module->stage >= STAGE_KERNELS)
    return type_elems(is) == type_elems(want) || want_same_shape(x, i, want);
  return want_same_shape(x, i, want);
}

static bool scan_result(Infer *x, const Func *body, const Op *y, int64_t length) {
  const Type *ty = y->in[0]->type;
  int64_t slots = op_int(y, "slots", 0);
  if (loop_kind(y) == LOOP_CARRIED) {
    const Op *arg = loop_arg(body, op_int(y, "arg", -1));
    if (!arg || loop_kind(arg) != LOOP_CARRIED || arg->out[0]->type->dt != ty->dt ||
        type_elems(arg->out[0]->type) != type_elems(ty) || (slots != 2 && slots != length + 1))
      return fail(x, CODE_ATTR, "'%s' does not carry a state on", body->name);
  }
  const Type *r = stacked(x, ty, loop_kind(y) == LOOP_CARRIED ? slots : length);
  if (r)
    result(x, r);
  return r != NULL;
}

static bool shape_scan(Infer *x) {
  const Attr *name = want_attr(x, "func", AT_STR), *length = want_attr(x, "length", AT_INT);
  if (!name || !length || !want_operands(x, 1, 1 << 16))
    return false;
  const Func *body = module_func(x->in[0]->def->func->module, name->u.s);
  if (!body || length->u.i < 1)
    return fail(x, CODE_ATTR, "%s needs a body and a length", op_info(x->code)->name);
  for (int i = 0; i < x->nin; i++)
    if (!scan_operand(x, body, i, length->u.i))
      return false;
  if (loop_arg(body, x->nin))
    return fail(x, CODE_ATTR, "'%s' has more arguments than its loop gives", body->name);
  for (int i = 0; loop_yield(body, i); i++)
    if (i == MAX_RULE_OUT || !scan_result(x, body, loop_yield(body, i), length->u.i))
      return i < MAX_RULE_OUT ? false
                              : fail(x, CODE_ATTR, "'%s' has more than %d results", body->name, i);
  return true;
}

static bool shape_group(Infer *x) {
  return fail(x, CODE_ATTR, "a group's result types are given, not inferred");
}

/* ---- products -------------------------------------------------------------------------------- */

/* Result [..., N] of x[..., K] (operand 0) with w[N, K] (operand 1). */
static bool linear_result(Infer *x, DType dt) {
  const Type *in = operand(x, 0), *w = operand(x, 1);
  if (!want_rank(x, 1, 2))
    return false;
  if (in->rank < 1)
    return fail(x, CODE_SHAPE, "%s takes rows of %lld, its input is a scalar", subject(x),
                (long long)w->dim[1]);
  if (in->dim[in->rank - 1] != w->dim[1]) {
    fail(x, CODE_SHAPE, "%s has in_features %lld, its input has %lld", subject(x),
         (long long)w->dim[1], (long long)in->dim[in->rank - 1]);
    note_operand(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[in->rank - 1] = w->dim[0];
  result_as(x, dt, in->rank, dim);
  return true;
}

/* Operand i is a bias for n outputs. */
static bool want_bias(Infer *x, int i, int64_t n) {
  if (!want_rank(x, i, 1) || !want_float(x, i))
    return false;
  if (operand(x, i)->dim[0] == n)
    return true;
  return fail(x, CODE_SHAPE, "%s has %lld outputs, its bias has %lld", subject(x), (long long)n,
              (long long)operand(x, i)->dim[0]);
}

static DType promote_operands(const Infer *x, int i, int k) {
  return promote_pair(operand(x, i)->dt, operand(x, k)->dt);
}

static bool shape_linear(Infer *x) {
  return want_operands(x, 2, 3) && want_float(x, 0) && want_float(x, 1) &&
         linear_result(x, dtype_attr(x, "out", promote_operands(x, 0, 1))) &&
         (x->nin < 3 || want_bias(x, 2, operand(x, 1)->dim[0]));
}

/* Blocks of `block` rows and columns that tile ty as a matrix (cut: the last ones may be cut off,
 * as codes of a padded matrix are); their number into dim. 0, 0: the whole. */
static bool blocks_of(Infer *x, const Type *ty, const int64_t *block, bool cut, int64_t dim[2]) {
  int64_t cols = ty->rank ? ty->dim[ty->rank - 1] : 1;
  const int64_t size[2] = {type_elems(ty) / cols, cols};
  dim[0] = dim[1] = 1;
  if (!block[0] && !block[1])
    return true;
  for (int i = 0; i < 2; i++) {
    if (block[i] < 1 || (size[i] % block[i] && !cut))
      return fail(x, CODE_SHAPE, "%s: blocks of %lld x %lld do not tile %s", subject(x),
                  (long long)block[0], (long long)block[1], shape_text(x, ty));
    dim[i] = (size[i] + block[i] - 1) / block[i];
  }
  return true;
}

/* Operands first ... first + 5: codes of two factors, their scales, and block scales by `key`. */
static bool want_blocks(Infer *x, int first, const char *key) {
  const Attr *at = find(x, key, AT_INTS);
  if (!at || at->u.ints.n != 4 || !find(x, "decoded", AT_DTYPE))
    return fail(x, CODE_ATTR, "%s needs four ints '%s' and dtype 'decoded'", subject(x), key);
  for (int i = 0; i < 2; i++) {
    int64_t dim[2];
    const Type *s = operand(x, first + 4 + i);
    if (!want_codes(x, first + i) || !want_scalar(x, first + 2 + i, DT_F32) ||
        !blocks_of(x, operand(x, first + i), at->u.ints.v + 2 * i, true, dim) ||
        !want_rank(x, first + 4 + i, 2) || !want_float(x, first + 4 + i))
      return false;
    if (s->dim[0] != dim[0] || s->dim[1] != dim[1])
      return fail(x, CODE_SHAPE, "%s has block scales %s, expected [%lld, %lld]", subject(x),
                  shape_text(x, s), (long long)dim[0], (long long)dim[1]);
  }
  return true;
}

/* Codes and scales of a quantized product of 4, 6 or, where it is differentiated, 12 operands. */
static bool want_quantized(Infer *x, int most) {
  if (x->nin != 4 && x->nin != 6 && (x->nin != 12 || most < 12))
    return fail(x, CODE_SHAPE, "%s takes 4 or 6%s operands, got %d", subject(x),
                most < 12 ? "" : " or 12", x->nin);
  return want_codes(x, 0) && want_codes(x, 1) && want_scalar(x, 2, DT_F32) &&
         want_scalar(x, 3, DT_F32) && (x->nin < 6 || want_blocks(x, 0, "block")) &&
         (x->nin < 12 || (want_blocks(x, 6, "turned") && want_same_shape(x, 6, operand(x, 0)) &&
                          want_same_shape(x, 7, operand(x, 1))));
}

static bool shape_qlinear(Infer *x) {
  const Attr *out = want_attr(x, "out", AT_DTYPE);
  return out && want_quantized(x, 12) && linear_result(x, (DType)out->u.i);
}

/* op(a)[M, K] op(b)[K, N]; ta, tb: stored transposed. */
static bool matmul_result(Infer *x, DType dt) {
  if (!want_rank(x, 0, 2) || !want_rank(x, 1, 2))
    return false;
  const bool ta = flag(x, "ta"), tb = flag(x, "tb");
  const int64_t *a = operand(x, 0)->dim, *b = operand(x, 1)->dim;
  if (a[!ta] != b[tb]) {
    fail(x, CODE_SHAPE, "%s multiplies %s%s by %s%s: inner dimensions %lld and %lld", subject(x),
         shape_text(x, operand(x, 0)), ta ? " transposed" : "", shape_text(x, operand(x, 1)),
         tb ? " transposed" : "", (long long)a[!ta], (long long)b[tb]);
    note_operand(x, 0, "the first");
    note_operand(x, 1, "the second");
    return false;
  }
  result_as(x, dt, 2, (const int64_t[]){a[ta], b[!tb]});
  return true;
}

static bool shape_matmul(Infer *x) {
  return want_float(x, 0) && want_float(x, 1) &&
         matmul_result(x, dtype_attr(x, "out", promote_operands(x, 0, 1)));
}

static bool shape_bmm(Infer *x) {
  const Type *a = operand(x, 0), *b = operand(x, 1);
  int64_t dim[MAX_RANK];
  if (!want_float(x, 0) || !want_float(x, 1))
    return false;
  const int r = a->rank;
  bool fits = r >= 3 && r < MAX_RANK && b->rank == r && a->dim[r - 1] == b->dim[r - 2];
  for (int i = 0; fits && i < r; i++) {
    dim[i] = i == r - 1 ? b->dim[i] : a->dim[i];
    fits = i >= r - 2 || a->dim[i] == b->dim[i];
  }
  if (!fits)
    return fail(x, CODE_SHAPE, "%s has factors %s and %s", subject(x), shape_text(x, a),
                shape_text(x, b));
  result_as(x, dtype_attr(x, "out", promote_operands(x, 0, 1)), r, dim);
  return true;
}

static bool shape_qmatmul(Infer *x) {
  const Attr *out = want_attr(x, "out", AT_DTYPE);
  return out && want_quantized(x, 6) && matmul_result(x, (DType)out->u.i);
}

/* Element i of a list attribute with n elements, or `otherwise`. */
static int64_t list_attr(const Infer *x, const char *key, int i, int n, int64_t otherwise) {
  const Attr *at = find(x, key, AT_INTS);
  return at && at->u.ints.n == n ? at->u.ints.v[i] : otherwise;
}

/* Length of axis i of a convolution's result; -1 after a diagnostic. */
static int64_t conv_length(Infer *x, int i, bool transposed) {
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const int nd = in->rank - 2;
  const int64_t stride = list_attr(x, "stride", i, nd, 1),
                padding = list_attr(x, "padding", i, nd, 0),
                end = list_attr(x, "padding_end", i, nd, padding),
                dilation = list_attr(x, "dilation", i, nd, 1),
                extra = list_attr(x, "output_padding", i, nd, 0);
  if (stride < 1 || dilation < 1 || padding < 0 || end < 0 || extra < 0) {
    fail(x, CODE_ATTR, "%s needs stride and dilation from 1 and padding from 0",
         op_info(x->code)->name);
    return -1;
  }
  const int64_t window = dilation * (w->dim[2 + i] - 1) + 1;
  const int64_t room = in->dim[2 + i] + padding + end;
  const int64_t all = (in->dim[2 + i] - 1) * stride + window + extra - padding - end;
  if (transposed ? all < 1 : window > room) {
    if (transposed)
      fail(x, CODE_SHAPE, "%s has a padding of %lld, which leaves nothing", subject(x),
           (long long)padding);
    else
      fail(x, CODE_SHAPE, "%s has a window of %lld, its padded input has %lld", subject(x),
           (long long)window, (long long)room);
    note_operand(x, 0, "the input");
    return -1;
  }
  return transposed ? all : (room - window) / stride + 1;
}

static bool shape_conv(Infer *x) {
  if (!want_operands(x, 2, 3) || !want_float(x, 0) || !want_float(x, 1))
    return false;
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const bool transposed = flag(x, "transposed");
  const int64_t groups = int_attr(x, "groups", 1);
  if (in->rank < 3 || in->rank > 2 + CONV_AXES)
    return fail(x, CODE_SHAPE, "%s has %d dimensions, 3 to 5 are possible", subject(x), in->rank);
  if (!want_rank(x, 1, in->rank))
    return false;
  const int64_t channels = transposed ? w->dim[0] : w->dim[1] * groups;
  if (groups < 1 || w->dim[0] % groups || in->dim[1] != channels) {
    fail(x, CODE_SHAPE, "%s has in_channels %lld, its input has %lld", subject(x),
         (long long)channels, (long long)in->dim[1]);
    note_operand(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK] = {in->dim[0], transposed ? w->dim[1] * groups : w->dim[0]};
  for (int i = 0; i < in->rank - 2; i++)
    if ((dim[2 + i] = conv_length(x, i, transposed)) < 0)
      return false;
  result_as(x, dtype_attr(x, "out", promote_operands(x, 0, 1)), in->rank, dim);
  return x->nin < 3 || want_bias(x, 2, dim[1]);
}

/* The window of a channels-last convolution, whose operands have its rank; *nd its axes. */
static bool gather_window(Infer *x, ConvWindow *w) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const int rank = operand(x, 0)->rank;
  if (!want_float(x, 0) || !want_float(x, 1) || !want_rank(x, 1, rank))
    return false;
  if (!conv_window(&op, w) || w->nd != rank - 2)
    return fail(x, CODE_ATTR, "%s has no window of %d axes", subject(x), rank - 2);
  return true;
}

/* Channels each by itself (`groups`): as many groups, every window inside x. */
static bool depth_fits(const Infer *x, const ConvWindow *g, bool *depth) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const Type *in = operand(x, 0);
  const int64_t groups = op_int(&op, "groups", 1);
  *depth = groups != 1;
  bool fits = groups == 1 || groups == in->dim[in->rank - 1];
  for (int i = 0; *depth && i < g->nd; i++) {
    int64_t span = (g->kernel[i] - 1) * g->dilation[i];
    int64_t low = (span < 0 ? span : 0) - g->padding[i];
    int64_t high = (g->size[i] - 1) * g->stride[i] + (span > 0 ? span : 0) - g->padding[i];
    fits &= g->up[i] == 1 && low >= 0 && high < in->dim[1 + i];
  }
  return fits;
}

static bool shape_conv_gather(Infer *x) {
  ConvWindow g;
  bool depth;
  if (!want_operands(x, 2, 3) || !gather_window(x, &g))
    return false;
  const Type *in = operand(x, 0), *w = operand(x, 1);
  const int last = in->rank - 1;
  bool fits = depth_fits(x, &g, &depth);
  fits &= depth ? w->dim[last] == 1 && w->dim[0] == in->dim[last] : w->dim[last] == in->dim[last];
  for (int i = 0; i < g.nd; i++)
    fits &= w->dim[1 + i] == g.kernel[i];
  if (!fits)
    return fail(x, CODE_SHAPE, "%s has weights %s for an input %s", subject(x), shape_text(x, w),
                shape_text(x, in));
  int64_t dim[MAX_RANK] = {in->dim[0]};
  for (int i = 0; i < g.nd; i++)
    dim[1 + i] = g.size[i];
  dim[last] = w->dim[0];
  result_as(x, dtype_attr(x, "out", promote_operands(x, 0, 1)), in->rank, dim);
  return x->nin < 3 || want_bias(x, 2, w->dim[0]);
}

static bool shape_conv_wgrad(Infer *x) {
  ConvWindow g;
  bool depth;
  if (!gather_window(x, &g))
    return false;
  const Type *in = operand(x, 0), *dy = operand(x, 1);
  const int last = in->rank - 1;
  bool fits = depth_fits(x, &g, &depth) && in->dim[0] == dy->dim[0];
  for (int i = 0; i < g.nd; i++)
    fits &= dy->dim[1 + i] == g.size[i];
  fits &= !depth || dy->dim[last] == in->dim[last];
  if (!fits)
    return fail(x, CODE_SHAPE, "%s has a gradient %s for an input %s", subject(x),
                shape_text(x, dy), shape_text(x, in));
  int64_t dim[MAX_RANK] = {dy->dim[last]};
  for (int i = 0; i < g.nd; i++)
    dim[1 + i] = g.kernel[i];
  dim[last] = depth ? 1 : in->dim[last];
  result_as(x, dtype_attr(x, "out", promote_operands(x, 0, 1)), in->rank, dim);
  return true;
}

/* Operand 0 is [N, C, axes...] with the extents of attribute `from`; dim becomes that of `to`. */
static bool window_dims(Infer *x, const char *from, const char *to, int64_t dim[MAX_RANK]) {
  const Op op = {.code = x->code, .nattr = x->nattr, .attr = (Attr *)x->attr};
  const Type *in = operand(x, 0);
  const int nd = window_axes(&op);
  if (!nd)
    return fail(x, CODE_ATTR, "%s has no window", op_info(x->code)->name);
  if (!want_float(x, 0) || !want_rank(x, 0, 2 + nd))
    return false;
  memcpy(dim, in->dim, sizeof in->dim);
  for (int i = 0; i < nd; i++) {
    if (in->dim[2 + i] != list_attr(x, from, i, nd, 0))
      return fail(x, CODE_SHAPE, "%s has a window over %lld, its input has %lld", subject(x),
                  (long long)list_attr(x, from, i, nd, 0), (long long)in->dim[2 + i]);
    dim[2 + i] = list_attr(x, to, i, nd, 0);
  }
  return true;
}

static DType tap_dtype(const Infer *x, int nd) {
  int64_t taps = 1;
  for (int i = 0; i < nd; i++)
    taps *= list_attr(x, "kernel", i, nd, 1);
  return taps <= 256 ? DT_U8 : DT_I32;
}

static bool shape_max_pool(Infer *x) {
  int64_t dim[MAX_RANK];
  if (!window_dims(x, "extents", "positions", dim))
    return false;
  const int rank = operand(x, 0)->rank;
  result_as(x, operand(x, 0)->dt, rank, dim);
  result_as(x, tap_dtype(x, rank - 2), rank, dim);
  return true;
}

static bool shape_max_pool_grad(Infer *x) {
  int64_t dim[MAX_RANK];
  const Type *dy = operand(x, 0);
  if (!window_dims(x, "positions", "extents", dim) || !want_same_shape(x, 1, dy) ||
      !want_dtype(x, 1, tap_dtype(x, dy->rank - 2)))
    return false;
  result_as(x, dy->dt, dy->rank, dim);
  return true;
}

static bool shape_resample(Infer *x) {
  int64_t dim[MAX_RANK];
  const bool turned = flag(x, "turned");
  if (!window_dims(x, turned ? "positions" : "extents", turned ? "extents" : "positions", dim))
    return false;
  result_as(x, operand(x, 0)->dt, operand(x, 0)->rank, dim);
  return true;
}

/* q, k, v from operand `first` on, then seed and step when there is dropout. */
static bool check_attention(Infer *x, int first) {
  const Attr *p = attr_find(x->attr, x->nattr, "dropout_p");
  const bool dropout = p && p->kind == AT_FLOAT && p->u.f > 0;
  const bool mask = flag(x, "mask");
  const int nin = first + 3 + mask + (dropout ? 2 : 0);
  if (!want_operands(x, nin, nin))
    return false;
  for (int i = first; i < first + 3; i++)
    if (!want_rank(x, i, 3) || !want_float(x, i))
      return false;
  const Type *q = operand(x, first), *k = operand(x, first + 1);
  const int64_t heads = int_attr(x, "heads", 1), kv = int_attr(x, "kv_heads", heads);
  if (heads < 1 || kv < 1 || heads % kv || q->dim[2] % heads)
    return fail(x, CODE_SHAPE, "%s has width %lld, which %lld heads do not divide", subject(x),
                (long long)q->dim[2], (long long)heads);
  if (k->dim[0] != q->dim[0] || k->dim[2] != q->dim[2] / heads * kv) {
    fail(x, CODE_SHAPE, "%s has query %s and key %s", subject(x), shape_text(x, q),
         shape_text(x, k));
    diag_hint(x->d, "batch and width of a head must be equal in query, key and value");
    note_operand(x, first, "the query");
    note_operand(x, first + 1, "the key");
    return false;
  }
  const int64_t scores[4] = {q->dim[0], heads, q->dim[1], k->dim[1]};
  if (mask && (!want_rank(x, first + 3, 4) || !want_float(x, first + 3)))
    return false;
  for (int d = 0; mask && d < 4; d++)
    if (operand(x, first + 3)->dim[d] != 1 && operand(x, first + 3)->dim[d] != scores[d])
      return fail(x, CODE_SHAPE, "%s has scores %s and mask %s", subject(x),
                  shape_text(x, type_get(x->types, q->dt, 4, scores)),
                  shape_text(x, operand(x, first + 3)));
  return want_same_shape(x, first + 2, k) &&
         (!dropout || (want_scalar(x, nin - 2, DT_I64) && want_scalar(x, nin - 1, DT_I64)));
}

/* f32, or f64 beside f64: the dtype of statistics and losses. */
static DType wide(DType d) {
  return d == DT_F64 ? DT_F64 : DT_F32;
}

static bool shape_attention(Infer *x) {
  if (!check_attention(x, 0))
    return false;
  const Type *q = operand(x, 0);
  const int64_t lse[] = {q->dim[0], int_attr(x, "heads", 1), q->dim[1]};
  result(x, q);
  result_as(x, wide(q->dt), 3, lse);
  return true;
}

static bool shape_attention_grad(Infer *x) {
  if (!want_operands(x, 6, 9) || !check_attention(x, 3))
    return false;
  const Type *q = operand(x, 3);
  const int64_t lse[] = {q->dim[0], int_attr(x, "heads", 1), q->dim[1]};
  if (!want_same_shape(x, 0, q) || !want_same_shape(x, 1, q) ||
      !want_same_shape(x, 2, type_get(x->types, wide(q->dt), 3, lse)))
    return false;
  for (int i = 3; i < 6; i++)
    result(x, operand(x, i));
  return true;
}

/* ---- normalisation, reductions, losses ------------------------------------------------------- */

/* Operand i has the shape of the last `axes` dimensions of ty. */
static bool want_trailing(Infer *x, int i, const Type *ty, int axes) {
  return want_same_shape(x, i, type_get(x->types, ty->dt, axes, ty->dim + ty->rank - axes));
}

static bool want_axes(Infer *x, const Type *ty, int *axes) {
  const int64_t n = int_attr(x, "axes", 1);
  *axes = (int)n;
  if (n >= 1 && n <= ty->rank)
    return true;
  return fail(x, CODE_SHAPE, "%s works on the last %lld dimensions, its input has shape %s",
              subject(x), (long long)n, shape_text(x, ty));
}

static bool shape_layer_norm(Infer *x) {
  int axes;
  if (!want_operands(x, 1, 3) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 0);
  if (!want_axes(x, in, &axes))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_float(x, i) || !want_trailing(x, i, in, axes))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  return true;
}

static bool shape_layer_norm_grad(Infer *x) {
  int axes;
  if (!want_operands(x, 4, 5))
    return false;
  const Type *in = operand(x, 1);
  if (!want_axes(x, in, &axes) || !want_same_shape(x, 0, in))
    return false;
  const Type *rows = type_get(x->types, wide(in->dt), in->rank - axes, in->dim);
  if (!want_same_shape(x, 2, rows) || !want_same_shape(x, 3, rows))
    return false;
  result(x, in);
  if (x->nin == 5) {
    if (!want_trailing(x, 4, in, axes))
      return false;
    result(x, operand(x, 4));
    result(x, operand(x, 4));
  }
  return true;
}

/* Operand i is one value per channel of x. */
static bool want_channels(Infer *x, int i, const Type *ty) {
  const int64_t c = ty->dim[1];
  return want_float(x, i) && want_same_shape(x, i, type_get(x->types, DT_F32, 1, &c));
}

static bool want_images(Infer *x, int i) {
  if (!want_float(x, i))
    return false;
  if (operand(x, i)->rank < 2)
    return fail(x, CODE_SHAPE, "%s works on [N, C, ...]", subject(x));
  return true;
}

static bool shape_batch_norm(Infer *x) {
  if (!want_operands(x, 2, 4) || !want_images(x, 0) || !want_scalar(x, 1, DT_I64))
    return false;
  const Type *in = operand(x, 0);
  for (int i = 2; i < x->nin; i++)
    if (!want_channels(x, i, in))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), 1, in->dim + 1);
  result_as(x, wide(in->dt), 1, in->dim + 1);
  return true;
}

static bool shape_batch_norm_grad(Infer *x) {
  if (!want_operands(x, 5, 6) || !want_images(x, 1) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 1);
  if (!want_same_shape(x, 0, in) || !want_channels(x, 2, in) || !want_channels(x, 3, in) ||
      !want_scalar(x, 4, DT_I64) || (x->nin > 5 && !want_channels(x, 5, in)))
    return false;
  result(x, type_with_dtype(x->types, in, operand(x, 0)->dt));
  for (int i = 0; i < 2 && x->nin > 5; i++)
    result(x, operand(x, 5));
  return true;
}

static bool shape_batch_affine(Infer *x) {
  if (!want_operands(x, 3, 5) || !want_images(x, 0))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_channels(x, i, operand(x, 0)))
      return false;
  result(x, operand(x, 0));
  return true;
}

/* [N, groups] of an image in `groups` groups of channels */
static bool want_groups(Infer *x, const Type *in, int64_t dim[2]) {
  dim[0] = in->dim[0];
  dim[1] = int_attr(x, "groups", 1);
  if (dim[1] >= 1 && in->dim[1] % dim[1] == 0)
    return true;
  return fail(x, CODE_SHAPE, "%s has %lld channels, which are not %lld groups", subject(x),
              (long long)in->dim[1], (long long)dim[1]);
}

static bool shape_group_norm(Infer *x) {
  int64_t stat[2];
  if (!want_operands(x, 1, 3) || !want_images(x, 0) || !want_groups(x, operand(x, 0), stat))
    return false;
  const Type *in = operand(x, 0);
  for (int i = 1; i < x->nin; i++)
    if (!want_channels(x, i, in))
      return false;
  result(x, in);
  result_as(x, wide(in->dt), 2, stat);
  result_as(x, wide(in->dt), 2, stat);
  return true;
}

static bool shape_group_norm_grad(Infer *x) {
  int64_t stat[2];
  if (!want_operands(x, 4, 5) || !want_images(x, 1) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 1);
  if (!want_same_shape(x, 0, in) || !want_groups(x, in, stat))
    return false;
  const Type *ty = type_get(x->types, wide(in->dt), 2, stat);
  if (!want_same_shape(x, 2, ty) || !want_same_shape(x, 3, ty) ||
      (x->nin > 4 && !want_channels(x, 4, in)))
    return false;
  result(x, type_with_dtype(x->types, in, operand(x, 0)->dt));
  for (int i = 0; i < 2 && x->nin > 4; i++)
    result(x, operand(x, 4));
  return true;
}

static bool shape_running_stats(Infer *x) {
  for (int i = 0; i < 4; i++)
    if (!want_float(x, i) || !want_same_shape(x, i, operand(x, 0)))
      return false;
  if (!want_scalar(x, 4, DT_I64) || !want_scalar(x, 5, DT_I64))
    return false;
  result(x, operand(x, 2));
  result(x, operand(x, 3));
  result_scalar(x, DT_I64);
  return true;
}

static bool shape_rms_norm(Infer *x) {
  int axes;
  if (!want_operands(x, 1, 2) || !want_float(x, 0))
    return false;
  const Type *in = operand(x, 0);
  if (!want_axes(x, in, &axes) ||
      (x->nin > 1 && (!want_float(x, 1) || !want_trailing(x, 1, in, axes))))
    return false;
  result(x, in);
  result_as(x, wide(in->dt), in->rank - axes, in->dim);
  return true;
}

static bool shape_rms_norm_grad(Infer *x) {
  int axes;
  if (!want_operands(x, 3, 4))
    return false;
  const Type *in = operand(x, 1);
  if (!want_axes(x, in, &axes) || !want_same_shape(x, 0, in) ||
      !want_same_shape(x, 2, type_get(x->types, wide(in->dt), in->rank - axes, in->dim)))
    return false;
  result(x, in);
  if (x->nin == 4) {
    if (!want_trailing(x, 3, in, axes))
      return false;
    result(x, operand(x, 3));
  }
  return true;
}

static bool shape_rotary(Infer *x) {
  const Type *in = operand(x, 0);
  const int64_t heads = int_attr(x, "heads", 1);
  if (!want_float(x, 0) || !want_rank(x, 0, 3))
    return false;
  if (heads < 1 || in->dim[2] % (2 * heads))
    return fail(x, CODE_SHAPE, "%s has width %lld, which is not %lld heads of an even width",
                subject(x), (long long)in->dim[2], (long long)heads);
  const int64_t dim[2] = {in->dim[1], in->dim[2] / heads / 2};
  result(x, in);
  return want_float(x, 1) && want_float(x, 2) &&
         want_same_shape(x, 1, type_get(x->types, in->dt, 2, dim)) &&
         want_same_shape(x, 2, type_get(x->types, in->dt, 2, dim));
}

static bool shape_reduce(Infer *x) {
  const Attr *dims = want_attr(x, "dims", AT_INTS);
  if (!dims)
    return false;
  const Type *in = operand(x, 0);
  bool reduced[MAX_RANK] = {false};
  for (int i = 0; i < dims->u.ints.n; i++) {
    const int64_t d = dims->u.ints.v[i];
    if (!want_axis(x, d, in->rank))
      return false;
    if (reduced[d])
      return fail(x, CODE_ATTR, "%s names axis %lld twice", op_info(x->code)->name, (long long)d);
    reduced[d] = true;
  }
  int rank = 0;
  int64_t dim[MAX_RANK];
  for (int d = 0; d < in->rank; d++)
    if (!reduced[d])
      dim[rank++] = in->dim[d];
    else if (flag(x, "keepdim"))
      dim[rank++] = 1;
  result_as(x, dtype_attr(x, "dtype", in->dt), rank, dim);
  return true;
}

static bool shape_softmax(Infer *x) {
  const Type *in = operand(x, 0);
  result(x, in);
  return want_float(x, 0) && want_axis(x, in->rank - 1, in->rank);
}

static bool shape_reduce_all(Infer *x) {
  result_scalar(x, DT_F32);
  return want_float(x, 0);
}

/* logits[..., V] and target[...] as operands 0 and 1. */
static bool check_logits(Infer *x) {
  const Type *logits = operand(x, 0), *target = operand(x, 1);
  if (!want_float(x, 0) || !want_integer(x, 1))
    return false;
  if (logits->rank == target->rank + 1 &&
      !memcmp(logits->dim, target->dim, (size_t)target->rank * sizeof target->dim[0]))
    return true;
  fail(x, CODE_SHAPE, "%s has logits %s and target %s", subject(x), shape_text(x, logits),
       shape_text(x, target));
  diag_hint(x->d, "the target has one class number for each row of logits");
  note_operand(x, 0, "logits");
  note_operand(x, 1, "target");
  return false;
}

static bool shape_cross_entropy(Infer *x) {
  const Type *logits = operand(x, 0);
  if (!want_operands(x, 4, 5) || !check_logits(x) || !want_rank(x, 2, 0) || !want_float(x, 2) ||
      !want_scalar(x, 3, DT_I64))
    return false;
  if (x->nin > 4 && (!want_float(x, 4) || !want_trailing(x, 4, logits, 1)))
    return false;
  result_scalar(x, wide(logits->dt));
  result_scalar(x, wide(logits->dt));
  result(x, logits);
  return true;
}

static bool shape_loss_seed(Infer *x) {
  const Attr *dt = want_attr(x, "dtype", AT_DTYPE);
  if (!dt || !want_attr(x, "capacity", AT_INT))
    return false;
  result_scalar(x, (DType)dt->u.i);
  return true;
}

static bool shape_loss(Infer *x) {
  result(x, operand(x, 0));
  return want_rank(x, 0, 0) && want_float(x, 0) && want_rank(x, 1, 0) && want_float(x, 1);
}

static bool shape_row_mask(Infer *x) {
  result(x, operand(x, 0));
  if (!want_float(x, 0) || !want_scalar(x, 1, DT_I64))
    return false;
  return operand(x, 0)->rank > 0 || fail(x, CODE_SHAPE, "%s has no rows to mask", subject(x));
}

static bool shape_class_hot(Infer *x) {
  if (!check_logits(x) || !want_scalar(x, 2, DT_I64))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), DT_F32));
  result(x, type_with_dtype(x->types, operand(x, 0), DT_F32));
  return true;
}

static bool shape_accuracy(Infer *x) {
  result_scalar(x, DT_F32);
  return check_logits(x) && want_scalar(x, 2, DT_I64);
}

/* ---- precision ------------------------------------------------------------------------------- */

/* Attribute `to`, a format of codes. */
static bool want_code_attr(Infer *x, DType *to) {
  const Attr *at = want_attr(x, "to", AT_DTYPE);
  if (!at)
    return false;
  *to = (DType)at->u.i;
  return dtype_is_code(*to) || fail(x, CODE_ATTR, "%s quantizes to e4m3, e5m2 or e2m1, not %s",
                                    op_info(x->code)->name, dtype_text(*to));
}

static bool shape_quantize(Infer *x) {
  DType to;
  if (!want_operands(x, 2, 3) || !want_code_attr(x, &to) || !want_float(x, 0) ||
      !want_scalar(x, 1, DT_F32) ||
      (x->nin > 2 && (!want_scalar(x, 2, DT_I64) || operand(x, 0)->rank == 0)))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), to));
  result_scalar(x, DT_F32);
  result_scalar(x, DT_F32);
  return true;
}

/* Attributes `block` and `scales` of what finds its scales itself. */
static const int64_t *want_scales(Infer *x, Scales *scales) {
  const Attr *block = want_attr(x, "block", AT_INTS), *scale = want_attr(x, "scales", AT_STR);
  if (!block || !scale)
    return NULL;
  *scales = scales_from_word(scale->u.s);
  if (block->u.ints.n == 2 && *scales < SCALES_COUNT)
    return block->u.ints.v;
  fail(x, CODE_ATTR, "%s has no scales '%s' or no two ints 'block'", op_info(x->code)->name,
       scale->u.s);
  return NULL;
}

static bool shape_block_quantize(Infer *x) {
  DType to;
  Scales scales;
  int64_t dim[2];
  int valid = find(x, "rows", AT_INT) != NULL, random = find(x, "stream", AT_INT) != NULL;
  if (!want_operands(x, 1 + valid + 2 * random, 1 + valid + 2 * random) ||
      !want_code_attr(x, &to) || !want_float(x, 0))
    return false;
  for (int i = 1; i < x->nin; i++)
    if (!want_scalar(x, i, DT_I64))
      return false;
  if (random && to != DT_E2M1)
    return fail(x, CODE_ATTR, "%s rounds at random to e2m1 only", subject(x));
  const int64_t *block = want_scales(x, &scales);
  if (!block || !blocks_of(x, operand(x, 0), block, false, dim))
    return false;
  result(x, type_with_dtype(x->types, operand(x, 0), to));
  result_scalar(x, DT_F32);
  result_as(x, scales_info(scales)->dt, 2, dim);
  return true;
}

static bool shape_qgrad(Infer *x) {
  DType to;
  Scales scales;
  result(x, operand(x, 0));
  if (!want_operands(x, 1, 3) || !want_code_attr(x, &to) || !want_float(x, 0))
    return false;
  if (x->nin == 2)
    return want_scalar(x, 1, DT_F32);
  return want_scales(x, &scales) &&
         (x->nin < 3 || (want_scalar(x, 1, DT_I64) && want_scalar(x, 2, DT_I64) &&
                         want_attr(x, "stream", AT_INT)));
}

static bool shape_fp8_update(Infer *x) {
  for (int i = 0; i < 3; i++)
    if (!want_rank(x, i, i == 0 ? 2 : 1) || !want_dtype(x, i, DT_F32))
      return false;
  const Type *slots = type_get(x->types, DT_F32, 1, operand(x, 0)->dim);
  if (!want_same_shape(x, 1, slots) || !want_same_shape(x, 2, slots))
    return false;
  result(x, operand(x, 0));
  result(x, slots);
  return true;
}

/* ---- random numbers, shapes ------------------------------------------------------------------ */

/* Attribute `shape` as a list of positive lengths. */
static const Attr *want_shape(Infer *x) {
  const Attr *at = want_attr(x, "shape", AT_INTS);
  if (!at)
    return NULL;
  bool fits = at->u.ints.n <= MAX_RANK;
  int64_t elems = 1;
  for (int i = 0; fits && i < at->u.ints.n; i++)
    fits = at->u.ints.v[i] > 0 && !__builtin_mul_overflow(elems, at->u.ints.v[i], &elems) &&
           elems < INT64_MAX / 16;
  if (fits)
    return at;
  fail(x, CODE_SHAPE, "%s makes more than %d dimensions, an empty or a too large tensor",
       subject(x), MAX_RANK);
  return NULL;
}

static bool shape_random(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape || !want_scalar(x, 0, DT_I64) || !want_scalar(x, 1, DT_I64))
    return false;
  result_as(x, DT_F32, shape->u.ints.n, shape->u.ints.v);
  return true;
}

static bool shape_iota(Infer *x) {
  const Attr *shape = want_shape(x), *axis = want_attr(x, "dim", AT_INT);
  if (!shape || !axis || !want_axis(x, axis->u.i, shape->u.ints.n))
    return false;
  result_as(x, DT_I64, shape->u.ints.n, shape->u.ints.v);
  return true;
}

static bool shape_reshape(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape)
    return false;
  const Type *ty = type_get(x->types, operand(x, 0)->dt, shape->u.ints.n, shape->u.ints.v);
  if (type_elems(ty) != type_elems(operand(x, 0))) {
    fail(x, CODE_SHAPE, "%s makes %s of %s, which has %lld elements and not %lld", subject(x),
         shape_text(x, ty), shape_text(x, operand(x, 0)), (long long)type_elems(operand(x, 0)),
         (long long)type_elems(ty));
    note_operand(x, 0, "the input");
    return false;
  }
  result(x, ty);
  return true;
}

static bool shape_permute(Infer *x) {
  const Attr *perm = want_attr(x, "perm", AT_INTS);
  if (!perm)
    return false;
  const Type *in = operand(x, 0);
  bool seen[MAX_RANK] = {false};
  int64_t dim[MAX_RANK];
  bool fits = perm->u.ints.n == in->rank;
  for (int i = 0; fits && i < in->rank; i++) {
    const int64_t p = perm->u.ints.v[i];
    fits = p >= 0 && p < in->rank && !seen[p];
    if (fits) {
      seen[p] = true;
      dim[i] = in->dim[p];
    }
  }
  if (!fits)
    return fail(x, CODE_SHAPE, "%s permutes axes its input %s does not have, or not each once",
                subject(x), shape_text(x, in));
  result_as(x, in->dt, in->rank, dim);
  return true;
}

static bool shape_expand(Infer *x) {
  const Attr *shape = want_shape(x);
  if (!shape)
    return false;
  const Type *in = operand(x, 0);
  const Type *ty = type_get(x->types, in->dt, shape->u.ints.n, shape->u.ints.v);
  int rank;
  int64_t dim[MAX_RANK];
  if (type_broadcast(in, ty, &rank, dim) &&
      type_same_shape(ty, type_get(x->types, in->dt, rank, dim))) {
    result(x, ty);
    return true;
  }
  fail(x, CODE_SHAPE, "%s expands %s to %s", subject(x), shape_text(x, in), shape_text(x, ty));
  diag_hint(x->d, "only dimensions of length 1 expand");
  note_operand(x, 0, "the input");
  return false;
}

static bool shape_slice(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT), *start = want_attr(x, "start", AT_INT),
             *end = want_attr(x, "end", AT_INT);
  const Type *in = operand(x, 0);
  if (!axis || !start || !end || !want_axis(x, axis->u.i, in->rank))
    return false;
  if (start->u.i < 0 || start->u.i >= end->u.i || end->u.i > in->dim[axis->u.i]) {
    fail(x, CODE_SHAPE, "%s takes [%lld, %lld) of axis %lld, its input has shape %s", subject(x),
         (long long)start->u.i, (long long)end->u.i, (long long)axis->u.i, shape_text(x, in));
    note_operand(x, 0, "the input");
    return false;
  }
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[axis->u.i] = end->u.i - start->u.i;
  result_as(x, in->dt, in->rank, dim);
  return true;
}

static bool shape_unslice(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT), *start = want_attr(x, "start", AT_INT),
             *size = want_attr(x, "size", AT_INT);
  const Type *in = operand(x, 0);
  if (!axis || !start || !size || !want_axis(x, axis->u.i, in->rank))
    return false;
  if (start->u.i < 0 || start->u.i > size->u.i || size->u.i - start->u.i < in->dim[axis->u.i])
    return fail(x, CODE_SHAPE, "%s puts %s at %lld of axis %lld of length %lld", subject(x),
                shape_text(x, in), (long long)start->u.i, (long long)axis->u.i,
                (long long)size->u.i);
  int64_t dim[MAX_RANK];
  memcpy(dim, in->dim, sizeof dim);
  dim[axis->u.i] = size->u.i;
  result_as(x, in->dt, in->rank, dim);
  return true;
}

/* Operands of a cat with given places neither overlap nor stick out; *size is the axis. */
static bool cat_starts(Infer *x, const Attr *starts, int64_t axis, int64_t *size) {
  const Attr *all = want_attr(x, "size", AT_INT);
  int64_t at = 0;
  bool fits = all && starts->u.ints.n == x->nin;
  for (int i = 0; fits && i < x->nin; i++) {
    fits = starts->u.ints.v[i] >= at && starts->u.ints.v[i] <= all->u.i;
    at = starts->u.ints.v[i] + operand(x, i)->dim[axis];
  }
  if (!fits || at > all->u.i)
    return fail(x, CODE_ATTR, "%s has starts that do not fit its operands", op_info(x->code)->name);
  *size = all->u.i;
  return true;
}

static bool shape_cat(Infer *x) {
  const Attr *axis = want_attr(x, "dim", AT_INT);
  if (!axis || !want_operands(x, 1, 1 << 16) || !want_axis(x, axis->u.i, operand(x, 0)->rank))
    return false;
  Type all = *operand(x, 0);
  const int64_t d = axis->u.i;
  for (int i = 1; i < x->nin; i++) {
    Type other = *operand(x, i);
    const int64_t length = other.dim[d];
    if (other.rank == all.rank)
      other.dim[d] = all.dim[d];
    if (!type_same_shape(&all, &other)) {
      fail(x, CODE_SHAPE, "%s joins %s and %s along axis %lld", subject(x),
           shape_text(x, operand(x, 0)), shape_text(x, operand(x, i)), (long long)d);
      diag_hint(x->d, "all other dimensions must be equal");
      note_operand(x, 0, "the first");
      note_operand(x, i, "the other");
      return false;
    }
    if (__builtin_add_overflow(all.dim[d], length, &all.dim[d]))
      return fail(x, CODE_SHAPE, "%s makes a too large tensor", subject(x));
  }
  const Attr *starts = find(x, "starts", AT_INTS);
  if (starts && !cat_starts(x, starts, d, &all.dim[d]))
    return false;
  result_as(x, promote(x), all.rank, all.dim);
  return true;
}

static bool shape_embedding(Infer *x) {
  const Type *ids = operand(x, 0), *table = operand(x, 1);
  if (!want_integer(x, 0) || !want_rank(x, 1, 2))
    return false;
  if (ids->rank == MAX_RANK)
    return fail(x, CODE_SHAPE, "%s makes more than %d dimensions", subject(x), MAX_RANK);
  int64_t dim[MAX_RANK];
  memcpy(dim, ids->dim, sizeof dim);
  dim[ids->rank] = table->dim[1];
  result_as(x, table->dt, ids->rank + 1, dim);
  return true;
}

static bool shape_embedding_grad(Infer *x) {
  const Attr *rows = want_attr(x, "rows", AT_INT), *out = want_attr(x, "out", AT_DTYPE);
  if (!rows || !out || !want_operands(x, 2, 3) || !want_integer(x, 0) || !want_float(x, 1))
    return false;
  const Type *ids = operand(x, 0), *dy = operand(x, 1);
  if (dy->rank != ids->rank + 1 || memcmp(dy->dim, ids->dim, (size_t)ids->rank * sizeof *dy->dim))
    return fail(x, CODE_SHAPE, "%s has ids %s and gradient %s", subject(x), shape_text(x, ids),
                shape_text(x, dy));
  const int64_t dim[2] = {rows->u.i, dy->dim[ids->rank]};
  result_as(x, (DType)out->u.i, 2, dim);
  return x->nin < 3 || (want_dtype(x, 2, (DType)out->u.i) && want_same_shape(x, 2, x->out[0]));
}

/* ---- the table ------------------------------------------------------------------------------- */

typedef bool ShapeRule(Infer *x);

static ShapeRule *const rules[] = {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) shape_##shape,
#include "ir/ops.def"
#undef OP
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc) shape_elem,
#include "ir/scalar.def"
#undef SCALAR
};
_Static_assert(sizeof rules / sizeof rules[0] == OP_COUNT, "one rule per op");

Status shape_infer(Builder *b, OpCode code, int nin, Value *const *in, int nattr, const Attr *attr,
                   Loc loc, int *nout, const Type **types) {
  Infer x = {.b = b,
             .types = builder_types(b),
             .d = builder_diag(b),
             .loc = loc,
             .code = code,
             .nin = nin,
             .nattr = nattr,
             .in = in,
             .attr = attr,
             .nout = nout,
             .out = types};
  *nout = 0;
  const int want = op_info(code)->nin;
  const bool fits = (want < 0 || want_operands(&x, want, want)) && rules[code](&x);
  if (builder_failed(b))
    return MPCC_ERR_NOMEM;
  return fits ? MPCC_OK : MPCC_ERR_INPUT;
}
