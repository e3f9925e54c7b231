/* Initialisers: as the spec writes them, the numbers behind them (torch.nn.init), and the ops that
 * compute them in function `init`. */
#include "frontend/frontend.h"

#include <math.h>

Val *init_check(const Check *c, const Yaml *y, const char *what) {
  if (y->kind == YAML_LIST || y->kind == YAML_NULL) {
    diag_error(c->d, y->loc, 201, "%s takes an initialiser, not %s", what, yaml_kind_text(y));
    diag_hint(c->d, "like zeros or {normal: {std: 0.02}}");
    return NULL;
  }
  int before = diag_errors(c->d);
  /* `{normal: {std: 0.02}}`: the arguments of a type are the value of its key */
  if (y->kind == YAML_MAP && y->n == 1 && y->u.pair[0].value->kind == YAML_MAP &&
      strcmp(y->u.pair[0].key->text, "type") != 0) {
    Yaml *name = y->u.pair[0].key;
    const Yaml *args = y->u.pair[0].value;
    Yaml type_key = {.kind = YAML_SCALAR, .loc = name->loc, .text = str_c(c->s, "type")};
    Yaml map = {.kind = YAML_MAP, .loc = y->loc};
    map.u.pair = ARENA_ARRAY(c->a, YamlPair, args->n + 1);
    if (arena_failed(c->a))
      return NULL;
    map.u.pair[map.n++] = (YamlPair){&type_key, name};
    for (int i = 0; i < args->n; i++)
      map.u.pair[map.n++] = args->u.pair[i];
    y = &map;
    Val *v = check_variant(c, "init", "type", y, "initialiser");
    return diag_errors(c->d) > before ? NULL : v;
  }
  Val *v = check_variant(c, "init", "type", y, "initialiser");
  return diag_errors(c->d) > before ? NULL : v;
}

Init init_constant(double v) {
  return (Init){.kind = INIT_CONSTANT, .a = v};
}

Init init_bound(double bound) {
  return (Init){.kind = INIT_UNIFORM, .a = -bound, .b = bound};
}

Init init_complex(Init init) {
  init.complex = true;
  init.std /= sqrt(2);
  return init;
}

static Init init_normal(double mean, double std) {
  return (Init){.kind = INIT_NORMAL, .mean = mean, .std = std};
}

void init_fans(int rank, const int64_t *dim, double *fan_in, double *fan_out) {
  double window = 1;
  for (int i = 2; i < rank; i++)
    window *= (double)dim[i];
  *fan_in = rank > 1 ? (double)dim[1] * window : rank ? (double)dim[0] : 1;
  *fan_out = rank ? (double)dim[0] * window : 1;
}

/* torch.nn.init.calculate_gain for the nonlinearities the spec knows. */
static double gain_of(const Val *v) {
  Str name = val_get_str(v, "nonlinearity", "leaky_relu");
  double slope = val_get_float(v, "a", 0);
  if (!strcmp(name, "linear") || !strcmp(name, "sigmoid"))
    return 1;
  if (!strcmp(name, "tanh"))
    return 5.0 / 3;
  if (!strcmp(name, "selu"))
    return 0.75;
  return !strcmp(name, "relu") ? sqrt(2.0) : sqrt(2.0 / (1 + slope * slope));
}

Init init_from(const Val *v, int rank, const int64_t *dim) {
  Str type = val_get_str(v, "type", "zeros");
  double in, out;
  init_fans(rank, dim, &in, &out);
  if (!strcmp(type, "zeros") || !strcmp(type, "ones"))
    return init_constant(type[0] == 'o');
  if (!strcmp(type, "constant"))
    return init_constant(val_get_float(v, "val", 0));
  if (!strcmp(type, "uniform"))
    return (Init){
        .kind = INIT_UNIFORM, .a = val_get_float(v, "a", 0), .b = val_get_float(v, "b", 1)};
  if (!strcmp(type, "normal"))
    return init_normal(val_get_float(v, "mean", 0), val_get_float(v, "std", 1));
  if (!strcmp(type, "trunc_normal"))
    return (Init){.kind = INIT_TRUNC_NORMAL,
                  .mean = val_get_float(v, "mean", 0),
                  .std = val_get_float(v, "std", 1),
                  .a = val_get_float(v, "a", -2),
                  .b = val_get_float(v, "b", 2)};
  double gain = val_get_float(v, "gain", 1);
  if (!strcmp(type, "orthogonal"))
    return (Init){.kind = INIT_ORTHOGONAL, .a = gain, .std = 1};
  if (!strcmp(type, "xavier_uniform"))
    return init_bound(gain * sqrt(6 / (in + out)));
  if (!strcmp(type, "xavier_normal"))
    return init_normal(0, gain * sqrt(2 / (in + out)));
  double fan = !strcmp(val_get_str(v, "mode", "fan_in"), "fan_out") ? out : in;
  double std = gain_of(v) / sqrt(fan);
  return !strcmp(type, "kaiming_uniform") ? init_bound(sqrt(3.0) * std) : init_normal(0, std);
}

void init_describe(Builder *b, Tensor *t, const Init *init) {
  switch (init->kind) {
  case INIT_CONSTANT:
    build_tensor_attr(b, t,
                      attr_s(b, "init",
                             init->a == 0   ? "zeros"
                             : init->a == 1 ? "ones"
                                            : "constant"));
    if (init->a != 0 && init->a != 1)
      build_tensor_attr(b, t, attr_f(b, "value", init->a));
    return;
  case INIT_UNIFORM:
    build_tensor_attr(b, t, attr_s(b, "init", "uniform"));
    if (init->a == -init->b) {
      build_tensor_attr(b, t, attr_f(b, "bound", init->b));
      return;
    }
    build_tensor_attr(b, t, attr_f(b, "lower", init->a));
    build_tensor_attr(b, t, attr_f(b, "upper", init->b));
    return;
  case INIT_ORTHOGONAL:
    build_tensor_attr(b, t, attr_s(b, "init", "orthogonal"));
    build_tensor_attr(b, t, attr_f(b, "gain", init->a));
    return;
  case INIT_NORMAL:
  case INIT_TRUNC_NORMAL:
    build_tensor_attr(b, t,
                      attr_s(b, "init", init->kind == INIT_NORMAL ? "normal" : "trunc_normal"));
    build_tensor_attr(b, t, attr_f(b, "mean", init->mean));
    build_tensor_attr(b, t, attr_f(b, "std", init->std));
    if (init->kind == INIT_TRUNC_NORMAL) {
      build_tensor_attr(b, t, attr_f(b, "lower", init->a));
      build_tensor_attr(b, t, attr_f(b, "upper", init->b));
    }
    return;
  }
}

static Value *random_of(Builder *b, const Type *type, Value *seed, Value *step, int64_t stream) {
  Attr at[] = {attr_ints(b, "shape", type->rank, type->dim), attr_i(b, "stream", stream)};
  return build_op(b, OP_random, 2, (Value *[]){seed, step}, 2, at)->out[0];
}

/* Two uniforms to a normal (Box and Muller 1958). 1 - u is in (0, 1], so the logarithm is finite.
 */
static Value *normal_of(Builder *b, const Init *init, const Type *type, Value *seed, Value *step,
                        int64_t stream) {
  Value *u[2] = {random_of(b, type, seed, step, stream),
                 random_of(b, type, seed, step, stream + 1)};
  Str text = str_fmt(builder_strings(b),
                     "%.17g + %.17g * (sqrt(-2 * log(1 - a)) * cos(6.283185307179586 * b))",
                     init->mean, init->std);
  return build_expr(b, text, MPCC_F32, 2, u);
}

static double normal_cdf(double x) {
  return 0.5 * erfc(-x * 0.70710678118654752);
}

/* Inverse of the normal distribution between its values at the bounds, as torch.nn.init does. erf's
 * inverse: Giles 2012, "Approximating the erfinv function", single precision. u is moved to the
 * middle of its 2^-24 step, so that it is neither 0 nor 1. */
static Value *trunc_normal_of(Builder *b, const Init *init, const Type *type, Value *seed,
                              Value *step, int64_t stream) {
  StrTable *s = builder_strings(b);
  double lo = normal_cdf((init->a - init->mean) / init->std);
  double hi = normal_cdf((init->b - init->mean) / init->std);
  Value *u = random_of(b, type, seed, step, stream);
  Str place =
      str_fmt(s, "%.17g + %.17g * (a + 2.98023223876953125e-08)", 2 * lo - 1, 2 * (hi - lo));
  Value *x = build_expr(b, place, MPCC_F32, 1, &u);
  Value *w = build_expr(b, "-log((1 - a) * (1 + a))", MPCC_F32, 1, &x);
  Value *near = build_expr(b,
                           "1.50140941 + (a - 2.5) * (0.246640727 + (a - 2.5) * (-0.00417768164 + "
                           "(a - 2.5) * (-0.00125372503 + (a - 2.5) * (0.00021858087 + (a - 2.5) * "
                           "(-4.39150654e-06 + (a - 2.5) * (-3.5233877e-06 + (a - 2.5) * "
                           "(3.43273939e-07 + (a - 2.5) * 2.81022636e-08)))))))",
                           MPCC_F32, 1, &w);
  Value *root = build_expr(b, "sqrt(a) - 3", MPCC_F32, 1, &w);
  Value *far = build_expr(b,
                          "2.83297682 + a * (1.00167406 + a * (0.00943887047 + a * "
                          "(-0.0076224613 + a * (0.00573950773 + a * (-0.00367342844 + a * "
                          "(0.00134934322 + a * (0.000100950558 + a * -0.000200214257)))))))",
                          MPCC_F32, 1, &root);
  Value *in[4] = {x, w, near, far};
  Str scale = str_fmt(s, "min(max(%.17g + %.17g * (a * (b < 5 ? c : d)), %.17g), %.17g)",
                      init->mean, init->std * 1.4142135623730951, init->a, init->b);
  return build_expr(b, scale, MPCC_F32, 4, in);
}

static Value *product_of(Builder *b, Value *x, Value *y, bool turned) {
  Attr at[] = {attr_b(b, "ta", turned), attr_b(b, "tb", false)};
  return build_op(b, OP_matmul, 2, (Value *[]){x, y}, 2, at)->out[0];
}

/* x (f0 + f1 x'x + f2 (x'x)^2): every singular value s becomes s (f0 + f1 s^2 + f2 s^4), the
 * singular vectors stay. */
static Value *singular_step(Builder *b, Value *x, double f0, double f1, double f2) {
  StrTable *s = builder_strings(b);
  Value *g = product_of(b, x, x, true);
  Value *two[2] = {g, product_of(b, g, g, false)};
  Value *h = build_expr(b, str_fmt(s, "%.17g * a + %.17g * b", f1, f2), MPCC_F32, 2, two);
  Value *sum[2] = {x, product_of(b, x, h, false)};
  return build_expr(b, str_fmt(s, "%.17g * a + b", f0), MPCC_F32, 2, sum);
}

/* The orthogonal factor of a normal matrix is uniform among all matrices with orthonormal columns
 * (rows, where there are fewer), whether QR with a positive diagonal finds it, as torch.nn.init
 * does, or the polar decomposition, as here, which is products alone (Mezzadri 2007; Chikuse 2003,
 * theorem 2.2.1). Newton-Schulz steps of degree 5 bring all singular values to 1: the first factors
 * lift small ones by 3.44 a step and leave them between 0.68 and 1.13 (Jordan 2024), the others
 * converge cubically from there. The singular values of a normal m x n matrix lie within sqrt(m) -+
 * sqrt(n), but for t more with probability exp(-t^2 / 2) (Davidson and Szarek 2001); what rounding
 * leaves of a smaller one is about 1e-8. */
static Value *orthogonal_of(Builder *b, const Init *init, const Type *type, Value *seed,
                            Value *step, int64_t stream) {
  enum { BEYOND = 6, POLISH = 4 };
  static const int64_t turned[2] = {1, 0};
  int64_t rows = type->dim[0], cols = type_elems(type) / rows;
  const int64_t dim[2] = {rows, cols};
  const Type *matrix = type_get(builder_types(b), type->dt, 2, dim);
  double more = sqrt((double)(rows > cols ? rows : cols)),
         less = sqrt((double)(rows + cols) - more * more);
  double largest = more + less + BEYOND, smallest = fmax((more - less - BEYOND) / largest, 1e-8);
  Init normal = {.kind = INIT_NORMAL, .std = 1 / largest};
  Value *x = normal_of(b, &normal, matrix, seed, step, stream);
  if (rows < cols)
    x = build_permute(b, x, turned);
  for (int i = (int)ceil(log(0.7 / smallest) / log(3.4445)); i > 0; i--)
    x = singular_step(b, x, 3.4445, -4.7750, 2.0315);
  for (int i = 0; i < POLISH; i++)
    x = singular_step(b, x, 1.875, -1.25, 0.375);
  if (rows < cols)
    x = build_permute(b, x, turned);
  x = build_expr(b, str_fmt(builder_strings(b), "%.17g * a", init->a), MPCC_F32, 1, &x);
  return build_reshape(b, x, type->rank, type->dim);
}

static Value *value_of(Builder *b, const Init *init, const Type *type, Value *seed, Value *step,
                       int64_t stream) {
  if (init->kind == INIT_NORMAL)
    return normal_of(b, init, type, seed, step, stream);
  if (init->kind == INIT_ORTHOGONAL)
    return orthogonal_of(b, init, type, seed, step, stream);
  if (init->kind == INIT_TRUNC_NORMAL)
    return trunc_normal_of(b, init, type, seed, step, stream);
  if (init->kind == INIT_UNIFORM) {
    Value *u = random_of(b, type, seed, step, stream);
    Str text = str_fmt(builder_strings(b), "%.17g + %.17g * a", init->a, init->b - init->a);
    return build_expr(b, text, MPCC_F32, 1, &u);
  }
  return build_filled(b, type_with_dtype(builder_types(b), type, MPCC_F32), init->a);
}

Value *init_build(Builder *b, const Init *init, const Type *type, Value *seed, Value *step,
                  int64_t stream) {
  Value *v = value_of(b, init, type, seed, step, stream);
  if (init->complex && init->kind == INIT_CONSTANT && init->a != 0) {
    int64_t pair[MAX_RANK];
    for (int i = 0; i < type->rank; i++)
      pair[i] = i == type->rank - 1 ? 2 : 1;
    Attr at[] = {attr_ints(b, "shape", type->rank, pair), attr_i(b, "dim", type->rank - 1)};
    Value *in[2] = {build_op(b, OP_iota, 0, NULL, 2, at)->out[0], v};
    return build_expr(b, "a == 0 ? b : 0", MPCC_F32, 2, in);
  }
  if (!init->zero_row)
    return v;
  const int64_t rows[2] = {type->dim[0], 1};
  Attr at[] = {attr_ints(b, "shape", 2, rows), attr_i(b, "dim", 0)};
  Value *in[2] = {build_op(b, OP_iota, 0, NULL, 2, at)->out[0], v};
  Str text = str_fmt(builder_strings(b), "a == %lld ? 0 : b", (long long)(init->zero_row - 1));
  return build_expr(b, text, MPCC_F32, 2, in);
}
