/* Layers of complex numbers. A complex value is a pair of real ones from here on: the IR has no
 * complex dtype, every pass and kernel sees real ops. The real part is the layer's value, the
 * imaginary part stands beside it (Lower.imag). Backward of the pair is torch's convention: the
 * gradient of a real loss by a + bi is dL/da + i dL/db, the conjugate Wirtinger derivative times 2.
 * Rows EACH of layers.def compute the parts one after the other; PAIR functions are those here, or
 * call lay_join. complex128 in 64-true, else complex64; precision_complex says what a mode allows.
 */
#include "frontend/layers.h"

#include <math.h>
#include <string.h>

bool lay_is_complex(const Node *n) {
  return !strcmp(val_get_str(n->args, "dtype", "float"), "complex");
}

bool lay_complex(Lower *lo, const Node *n, bool stored) {
  Str mode = NULL;
  if (!precision_complex(&lo->spec->c, val_get(lo->spec->root, "precision"), n, stored, &mode)) {
    lo->failed = true;
    return false;
  }
  lo->complex_mode = mode;
  return true;
}

Pair lay_pair(const Lower *lo, const Node *n, Value *const *in, int i) {
  return (Pair){in[i], n->in[i]->type ? lo->imag[n->in[i]->index] : NULL};
}

Value *lay_give(Lower *lo, const Node *n, Pair p) {
  lo->part = NULL;
  lo->imag[n->index] = p.re && !lo->failed ? p.im : NULL;
  return p.re;
}

void lay_part(Lower *lo, bool imag) {
  lo->part = str_c(builder_strings(lo->b), imag ? "im" : "re");
}

static Value *expand(Lower *lo, Value *v, const Type *to) {
  Attr shape = attr_ints(lo->b, "shape", to->rank, to->dim);
  return type_same_shape(v->type, to) ? v : build_op(lo->b, OP_expand, 1, &v, 1, &shape)->out[0];
}

Value *lay_zeros(Lower *lo, const Type *like) {
  return expand(lo, build_const(lo->b, 0, MPCC_F32), like);
}

static Value *formula(Lower *lo, const Node *n, const char *text, int nin, Value *const *in) {
  Attr body = attr_s(lo->b, "body", text);
  return lay_emit1(lo, n, OP_expr, nin, in, 1, &body);
}

static Value *op2(Lower *lo, const Node *n, OpCode code, Value *a, Value *b) {
  return lay_emit1(lo, n, code, 2, (Value *[]){a, b}, 0, NULL);
}

static Value *negated(Lower *lo, const Node *n, Value *v) {
  return lay_emit1(lo, n, OP_neg, 1, &v, 0, NULL);
}

/* ---- pointwise ---- */

/* Sum, difference: a real operand has no imaginary part to add. */
static Value *sum_im(Lower *lo, const Node *n, OpCode code, Pair a, Pair b, const Type *to) {
  if (a.im && b.im)
    return op2(lo, n, code, a.im, b.im);
  Value *im = a.im ? a.im : code == OP_sub ? negated(lo, n, b.im) : b.im;
  return expand(lo, im, to);
}

/* Product, quotient of two complex numbers, as one expression a part. */
static Pair both(Lower *lo, const Node *n, OpCode code, Pair a, Pair b) {
  Value *in[4] = {a.re, a.im, b.re, b.im};
  bool mul = code == OP_mul;
  Pair p;
  lay_part(lo, false);
  p.re = formula(lo, n, mul ? "a * c - b * d" : "(a * c + b * d) / (c * c + d * d)", 4, in);
  lay_part(lo, true);
  p.im = formula(lo, n, mul ? "a * d + b * c" : "(b * c - a * d) / (c * c + d * d)", 4, in);
  return p;
}

Pair lay_join(Lower *lo, const Node *n, OpCode code, Pair a, Pair b) {
  if (!a.im && !b.im)
    return (Pair){op2(lo, n, code, a.re, b.re), NULL};
  bool sum = code == OP_add || code == OP_sub;
  if (a.im && b.im && !sum)
    return both(lo, n, code, a, b);
  Pair p;
  if (!sum && !a.im && code == OP_div) /* real by complex */
    return both(lo, n, code, (Pair){a.re, lay_zeros(lo, a.re->type)}, b);
  lay_part(lo, false);
  p.re = op2(lo, n, code, a.re, b.re);
  lay_part(lo, true);
  p.im = sum    ? sum_im(lo, n, code, a, b, p.re->type)
         : a.im ? op2(lo, n, code, a.im, b.re)
                : op2(lo, n, code, a.re, b.im);
  return p;
}

Value *layer_conj(Lower *lo, const Node *n, Value *const *in) {
  Pair x = lay_pair(lo, n, in, 0);
  if (x.im) {
    lay_part(lo, true);
    x.im = negated(lo, n, x.im);
  }
  return lay_give(lo, n, x);
}

Value *layer_abs(Lower *lo, const Node *n, Value *const *in) {
  Pair x = lay_pair(lo, n, in, 0);
  return x.im ? op2(lo, n, OP_hypot, x.re, x.im) : lay_emit1(lo, n, OP_abs, 1, in, 0, NULL);
}

/* ---- parts ---- */

static Value *want_complex(Lower *lo, const Node *n, const char *instead) {
  lay_error(lo, n->loc, 312, "dtypes do not fit: '%s' (%s) takes complex numbers, '%s' is real",
            n->name, n->type->key, n->in[0]->name);
  diag_hint(builder_diag(lo->b), "%s", instead);
  return NULL;
}

/* torch.real of a real tensor is that tensor; torch.imag of one is an error. */
Value *layer_real(Lower *lo, const Node *n, Value *const *in) {
  (void)lo;
  (void)n;
  return in[0];
}

Value *layer_imag(Lower *lo, const Node *n, Value *const *in) {
  Pair x = lay_pair(lo, n, in, 0);
  return x.im ? x.im : want_complex(lo, n, "the imaginary part of real numbers is 0 everywhere");
}

static bool want_floats(Lower *lo, const Node *n, Value *const *in) {
  for (int i = 0; i < n->nin; i++)
    if (!dtype_is_float(in[i]->type->dt)) {
      lay_error(lo, n->loc, 312, "dtypes do not fit: '%s' (%s) takes real numbers, '%s' is %s",
                n->name, n->type->key, n->in[i]->name, dtype_text(in[i]->type->dt));
      return false;
    }
  return true;
}

Value *layer_complex(Lower *lo, const Node *n, Value *const *in) {
  int rank;
  int64_t dim[MAX_RANK];
  for (int i = 0; i < 2; i++)
    if (lay_pair(lo, n, in, i).im)
      return lay_error(lo, n->loc, 312,
                       "dtypes do not fit: '%s' (complex) takes real numbers, '%s' is complex",
                       n->name, n->in[i]->name);
  if (!want_floats(lo, n, in) || !lay_complex(lo, n, false))
    return NULL;
  if (!type_broadcast(in[0]->type, in[1]->type, &rank, dim))
    return lay_misfit(lo, n, n->loc, 1, in, "meets %s and %s", lay_shape(lo, in[0]->type),
                      lay_shape(lo, in[1]->type));
  const Type *to = type_get(builder_types(lo->b), MPCC_F32, rank, dim);
  return lay_give(lo, n, (Pair){expand(lo, in[0], to), expand(lo, in[1], to)});
}

/* Index `at` of the last axis, which vanishes. The ops carry the layer's precision, so that of a
 * parameter they see what is stored. */
static Value *last_index(Lower *lo, const Node *n, Value *v, int64_t at) {
  const Type *ty = v->type;
  Attr cut[] = {attr_i(lo->b, "dim", ty->rank - 1), attr_i(lo->b, "start", at),
                attr_i(lo->b, "end", at + 1)};
  v = lay_emit1(lo, n, OP_slice, 1, &v, 3, cut);
  Attr shape = attr_ints(lo->b, "shape", ty->rank - 1, ty->dim);
  return lay_emit1(lo, n, OP_reshape, 1, &v, 1, &shape);
}

Value *layer_view_as_complex(Lower *lo, const Node *n, Value *const *in) {
  const Type *ty = in[0]->type;
  if (lay_pair(lo, n, in, 0).im)
    return lay_error(lo, n->loc, 312, "dtypes do not fit: '%s' is complex already", n->in[0]->name);
  if (ty->rank < 2 || ty->dim[ty->rank - 1] != 2)
    return lay_misfit(lo, n, n->loc, 0, in, "takes both parts along the last axis, [..., 2]");
  if (!want_floats(lo, n, in) || !lay_complex(lo, n, false))
    return NULL;
  return lay_give(lo, n, (Pair){last_index(lo, n, in[0], 0), last_index(lo, n, in[0], 1)});
}

Value *layer_view_as_real(Lower *lo, const Node *n, Value *const *in) {
  Pair x = lay_pair(lo, n, in, 0);
  int rank = x.re->type->rank;
  int64_t dim[MAX_RANK + 1];
  if (!x.im)
    return want_complex(lo, n, "remove the layer: nothing is to be seen as real");
  if (rank == MAX_RANK)
    return lay_misfit(lo, n, n->loc, 0, in, "makes more than %d dimensions", MAX_RANK);
  memcpy(dim, x.re->type->dim, (size_t)rank * sizeof *dim);
  dim[rank] = 1;
  Value *part[2] = {build_reshape(lo->b, x.re, rank + 1, dim),
                    build_reshape(lo->b, x.im, rank + 1, dim)};
  Attr axis = attr_i(lo->b, "dim", rank);
  return lay_emit1(lo, n, OP_cat, 2, part, 1, &axis);
}

/* ---- parameters and products ---- */

Pair lay_param_pair(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                    Init otherwise) {
  otherwise.complex = true;
  Value *v = lay_param(lo, n, tensor, rank, dim, otherwise);
  if (!v || lo->failed || builder_failed(lo->b))
    return (Pair){v, v};
  return (Pair){last_index(lo, n, v, 0), last_index(lo, n, v, 1)};
}

/* a b^T of complex a and b, four real products. Of those whose result nothing reads none is left.
 */
static Pair product(Lower *lo, const Node *n, Pair a, Pair b, Pair bias) {
  Pair p;
  lay_part(lo, false);
  p.re = lay_emit1(lo, n, OP_linear, bias.re ? 3 : 2, (Value *[]){a.re, b.re, bias.re}, 0, NULL);
  p.re = op2(lo, n, OP_sub, p.re, op2(lo, n, OP_linear, a.im, b.im));
  lay_part(lo, true);
  p.im = lay_emit1(lo, n, OP_linear, bias.im ? 3 : 2, (Value *[]){a.re, b.im, bias.im}, 0, NULL);
  p.im = op2(lo, n, OP_add, p.im, op2(lo, n, OP_linear, a.im, b.re));
  return p;
}

Value *lay_linear_complex(Lower *lo, const Node *n, Pair x, int64_t width, bool bias, Init init) {
  int64_t dim[2] = {width, x.re->type->dim[x.re->type->rank - 1]};
  if (!x.im)
    return want_complex(lo, n, "make them complex first, or leave out `dtype: complex`");
  if (!lay_complex(lo, n, true))
    return NULL;
  Pair w = lay_param_pair(lo, n, "weight", 2, dim, init), c = {NULL, NULL};
  if (lo->failed)
    return NULL;
  if (bias)
    c = lay_param_pair(lo, n, "bias", 1, &width, init);
  return lo->failed ? NULL : lay_give(lo, n, product(lo, n, x, w, c));
}

Value *lay_matmul_complex(Lower *lo, const Node *n, Pair a, Pair b, LayerFn *real) {
  Pair p = {NULL, NULL};
  lay_part(lo, false);
  p.re = real(lo, n, (Value *[]){a.re, b.re});
  if (!p.re || lo->failed)
    return NULL;
  if (a.im && b.im)
    p.re = op2(lo, n, OP_sub, p.re, real(lo, n, (Value *[]){a.im, b.im}));
  lay_part(lo, true);
  Value *first = b.im ? real(lo, n, (Value *[]){a.re, b.im}) : NULL;
  Value *second = a.im ? real(lo, n, (Value *[]){a.im, b.re}) : NULL;
  p.im = first && second ? op2(lo, n, OP_add, first, second) : first ? first : second;
  return lay_give(lo, n, p);
}

/* ---- discrete Fourier transforms ---- */

/* Longer axes are warned about: two factors of 32 MiB in FP64, and as many terms a row. */
enum { FFT_LONG = 2048 };

/* cos (part 0) or sign * sin (part 1) of 2 pi j k / n, times scale: [n, length] in FP64, which the
 * mode rounds once. j k is exact and reduced to half a turn before it meets pi; zeros of the
 * function are exact, and with them what cancels (imaginary parts at half the sampling rate). */
static Value *turns(Lower *lo, const Node *n, int64_t size, int64_t length, int part,
                    double scale) {
  Builder *b = lo->b;
  const int64_t rows[2] = {size, 1}, columns[2] = {1, length};
  Attr j[] = {attr_ints(b, "shape", 2, rows), attr_i(b, "dim", 0)};
  Attr k[] = {attr_ints(b, "shape", 2, columns), attr_i(b, "dim", 1)};
  Value *at[2] = {build_op(b, OP_iota, 0, NULL, 2, j)->out[0],
                  build_op(b, OP_iota, 0, NULL, 2, k)->out[0]};
  double s = (double)size;
  Attr attr[] = {
      attr_s(
          b, "body",
          str_fmt(builder_strings(b),
                  "t0 = a * b, t1 = t0 - floor(t0 / %.17g) * %.17g, t2 = t1 > %.17g ? t1 - %.17g "
                  ": t1, %s == %.17g ? 0 : %.17g * %s(t2 * %.17g)",
                  s, s, s / 2, s, part ? "2 * t2" : "4 * abs(t2)", s, scale, part ? "sin" : "cos",
                  2 * M_PI / s)),
      attr_dt(b, "dtype", MPCC_F64)};
  Value *table = lay_emit1(lo, n, OP_expr, 2, at, 2, attr);
  Attr to[] = {attr_dt(b, "to", MPCC_F32), attr_b(b, "table", true)};
  return lay_emit1(lo, n, OP_cast, 1, &table, 2, to);
}

/* x[..., length] times the factor cos + i sin: two real products of a real x, four of a complex
 * one. */
static Pair transform(Lower *lo, const Node *n, Pair x, int64_t size, double sign, double scale) {
  Attr exact =
      attr_s(lo->b, "float32", "highest"); /* float32_matmul is about products of the model */
  int64_t length = x.re->type->dim[x.re->type->rank - 1];
  Value *c = turns(lo, n, size, length, 0, scale), *s = turns(lo, n, size, length, 1, sign * scale);
  Pair p;
  lay_part(lo, false);
  p.re = lay_emit1(lo, n, OP_linear, 2, (Value *[]){x.re, c}, 1, &exact);
  if (x.im)
    p.re =
        op2(lo, n, OP_sub, p.re, lay_emit1(lo, n, OP_linear, 2, (Value *[]){x.im, s}, 1, &exact));
  lay_part(lo, true);
  p.im = lay_emit1(lo, n, OP_linear, 2, (Value *[]){x.re, s}, 1, &exact);
  if (x.im)
    p.im =
        op2(lo, n, OP_add, p.im, lay_emit1(lo, n, OP_linear, 2, (Value *[]){x.im, c}, 1, &exact));
  return p;
}

/* torch.fft: forward with e^(-2 pi i j k / n). "backward" scales the inverse by 1 / n, "forward"
 * the other, "ortho" both by its root. */
static double scale_of(const Node *n, int64_t size, bool inverse) {
  Str norm = val_get_str(n->args, "norm", "backward");
  if (!strcmp(norm, "ortho"))
    return 1 / sqrt((double)size);
  return !strcmp(norm, "forward") == !inverse ? 1 / (double)size : 1;
}

static Value *fourier(Lower *lo, const Node *n, Value *const *in, bool inverse) {
  Pair x = lay_pair(lo, n, in, 0);
  int axis = lay_axis(lo, n, "dim", val_get_int(n->args, "dim", -1), in);
  if (axis < 0)
    return NULL;
  if (axis == 0)
    return lay_misfit(lo, n, lay_loc(n, "dim"), 0, in, "cannot work along axis 0, the batch");
  if (!want_floats(lo, n, in) || !lay_complex(lo, n, false))
    return NULL;
  int64_t length = in[0]->type->dim[axis], size = val_get_int(n->args, "n", length);
  if (size > FFT_LONG && lo->train) { /* once, not in every function */
    diag_warning(builder_diag(lo->b), n->loc, "fft-length",
                 "'%s' multiplies by a matrix of %lld x %lld", n->name, (long long)size,
                 (long long)(size < length ? size : length));
    diag_hint(builder_diag(lo->b), "the cost of %s grows with the square of the length",
              n->type->key);
  }
  x.re = lay_axis_last(lo->b, x.re, axis);
  x.im = x.im ? lay_axis_last(lo->b, x.im, axis) : NULL;
  if (size < length) {
    int last = x.re->type->rank - 1;
    x.re = build_slice(lo->b, x.re, last, 0, size);
    x.im = x.im ? build_slice(lo->b, x.im, last, 0, size) : NULL;
  }
  Pair y = transform(lo, n, x, size, inverse ? 1 : -1, scale_of(n, size, inverse));
  return lay_give(lo, n,
                  (Pair){lay_axis_last(lo->b, y.re, axis), lay_axis_last(lo->b, y.im, axis)});
}

Value *layer_fft(Lower *lo, const Node *n, Value *const *in) {
  return fourier(lo, n, in, false);
}

Value *layer_ifft(Lower *lo, const Node *n, Value *const *in) {
  return fourier(lo, n, in, true);
}
