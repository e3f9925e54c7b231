/* Shape rules: shape_<rule> gives the result types of the ops whose row names it. Here: what rules
 * say and ask, and the table. Misfits are the user's errors and are told in the spec's words; wrong
 * attributes can only come from IR text or a defect in a pass, and are told in the op's. */
#include "ir/shape.h"

#include <stdarg.h>
#include <string.h>

/* ---- messages -------------------------------------------------------------------------------- */

/* 'encoder.0.mlp' or, for ops without a layer, the op's name. */
Str infer_subject(const Infer *x) {
  Str layer = builder_layer(x->b);
  return *layer ? str_fmt(builder_strings(x->b), "'%s'", layer) : op_info(x->code)->name;
}

Str infer_shape(const Infer *x, const Type *ty) {
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
void misfit_note(Infer *x, int i, const char *what) {
  const Op *def = x->in[i]->def;
  diag_note(x->d, def->loc, "%s comes from %s with shape %s", what, origin(x, def),
            infer_shape(x, x->in[i]->type));
}

bool misfit(Infer *x, int code, const char *fmt, ...) {
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

bool want_operands(Infer *x, int least, int most) {
  if (x->nin >= least && x->nin <= most)
    return true;
  if (least == most)
    return misfit(x, CODE_SHAPE, "%s takes %d operand%s, got %d", infer_subject(x), least,
                  least == 1 ? "" : "s", x->nin);
  return misfit(x, CODE_SHAPE, "%s takes %d to %d operands, got %d", infer_subject(x), least, most,
                x->nin);
}

bool want_rank(Infer *x, int i, int rank) {
  if (operand(x, i)->rank == rank)
    return true;
  return misfit(x, CODE_SHAPE, "operand %d of %s has shape %s, expected %d dimension%s", i + 1,
                infer_subject(x), infer_shape(x, operand(x, i)), rank, rank == 1 ? "" : "s");
}

bool want_float(Infer *x, int i) {
  if (dtype_is_float(operand(x, i)->dt))
    return true;
  return misfit(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected a float", i + 1,
                infer_subject(x), dtype_text(operand(x, i)->dt));
}

bool want_dtype(Infer *x, int i, DType dt) {
  if (operand(x, i)->dt == dt)
    return true;
  return misfit(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected %s", i + 1,
                infer_subject(x), dtype_text(operand(x, i)->dt), dtype_text(dt));
}

bool want_codes(Infer *x, int i) {
  if (dtype_is_code(operand(x, i)->dt))
    return true;
  return misfit(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected e4m3, e5m2 or e2m1", i + 1,
                infer_subject(x), dtype_text(operand(x, i)->dt));
}

/* Operand i is a scalar of type dt. */
bool want_scalar(Infer *x, int i, DType dt) {
  return want_rank(x, i, 0) && want_dtype(x, i, dt);
}

bool want_integer(Infer *x, int i) {
  if (dtype_info(operand(x, i)->dt)->cls == 'I')
    return true;
  return misfit(x, CODE_DTYPE, "operand %d of %s has dtype %s, expected an integer", i + 1,
                infer_subject(x), dtype_text(operand(x, i)->dt));
}

bool want_same_shape(Infer *x, int i, const Type *ty) {
  if (type_same_shape(operand(x, i), ty))
    return true;
  misfit(x, CODE_SHAPE, "operand %d of %s has shape %s, expected %s", i + 1, infer_subject(x),
         infer_shape(x, operand(x, i)), infer_shape(x, ty));
  misfit_note(x, i, "it");
  return false;
}

const Attr *infer_attr(const Infer *x, const char *key, AttrKind kind) {
  const Attr *at = attr_find(x->attr, x->nattr, key);
  return at && at->kind == kind ? at : NULL;
}

const Attr *want_attr(Infer *x, const char *key, AttrKind kind) {
  static const char *const kinds[] = {"an integer", "a number", "true or false", "a text",
                                      "a dtype",    "a list",   "a tensor"};
  const Attr *at = infer_attr(x, key, kind);
  if (!at)
    misfit(x, CODE_ATTR, "%s needs attribute '%s', %s", op_info(x->code)->name, key, kinds[kind]);
  return at;
}

int64_t infer_int(const Infer *x, const char *key, int64_t otherwise) {
  const Attr *at = infer_attr(x, key, AT_INT);
  return at ? at->u.i : otherwise;
}

int64_t infer_list(const Infer *x, const char *key, int i, int n, int64_t otherwise) {
  const Attr *at = infer_attr(x, key, AT_INTS);
  return at && at->u.ints.n == n ? at->u.ints.v[i] : otherwise;
}

bool infer_flag(const Infer *x, const char *key) {
  const Attr *at = attr_find(x->attr, x->nattr, key);
  return at && (at->kind == AT_BOOL || at->kind == AT_INT) && at->u.i;
}

/* Attribute `key` (a dtype) when present, else `otherwise`. */
DType infer_dtype(const Infer *x, const char *key, DType otherwise) {
  const Attr *at = infer_attr(x, key, AT_DTYPE);
  return at ? (DType)at->u.i : otherwise;
}

bool want_axis(Infer *x, int64_t axis, int rank) {
  if (axis >= 0 && axis < rank)
    return true;
  return misfit(x, CODE_SHAPE, "%s works on axis %lld, its input has %d", infer_subject(x),
                (long long)axis, rank);
}

/* Operand i is a bias for n outputs. */
bool want_bias(Infer *x, int i, int64_t n) {
  if (!want_rank(x, i, 1) || !want_float(x, i))
    return false;
  if (operand(x, i)->dim[0] == n)
    return true;
  return misfit(x, CODE_SHAPE, "%s has %lld outputs, its bias has %lld", infer_subject(x),
                (long long)n, (long long)operand(x, i)->dim[0]);
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
    return MPCC_F32;
  return dtype_info(a)->bits > dtype_info(b)->bits ? a : b;
}

/* torch.result_type: scalars (rank 0) count only when they are of a higher category than all other
 * operands. MPCC_DTYPE_COUNT for no operands. */
DType infer_promote(const Infer *x) {
  DType full = MPCC_DTYPE_COUNT, scalar = MPCC_DTYPE_COUNT;
  for (int i = 0; i < x->nin; i++) {
    const Type *ty = operand(x, i);
    DType *into = ty->rank ? &full : &scalar;
    *into = *into == MPCC_DTYPE_COUNT ? ty->dt : promote_pair(*into, ty->dt);
  }
  if (full == MPCC_DTYPE_COUNT || (scalar != MPCC_DTYPE_COUNT && category(scalar) > category(full)))
    return scalar;
  return full;
}

DType infer_promoted(const Infer *x, int i, int k) {
  return promote_pair(operand(x, i)->dt, operand(x, k)->dt);
}

/* ---- the table ------------------------------------------------------------------------------- */

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
