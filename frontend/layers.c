/* The table of layer kinds and what layer functions share. Shapes in messages are written with N
 * for the batch. */
#include "frontend/layers.h"

#include <string.h>

int64_t lay_int(const Node *n, const char *key) {
  return val_get_int(n->args, key, 0);
}

Loc lay_loc(const Node *n, const char *key) {
  const Val *v = val_get(n->args, key);
  return v && v->loc.file ? v->loc : n->loc;
}

Str lay_shape(Lower *lo, const Type *ty) {
  Text t = {0};
  text_puts(&t, "[");
  for (int i = 0; i < ty->rank; i++) {
    text_puts(&t, i ? ", " : "");
    if (i == 0 && ty->dim[0] == lo->batch)
      text_puts(&t, "N");
    else
      text_printf(&t, "%lld", (long long)ty->dim[i]);
  }
  text_puts(&t, "]");
  Str s = str_c(builder_strings(lo->b), t.data ? t.data : "");
  text_fini(&t);
  return s;
}

Value *lay_misfit(Lower *lo, const Node *n, Loc loc, int i, Value *const *in, const char *fmt,
                  ...) {
  Diag *d = builder_diag(lo->b);
  Text t = {0};
  va_list ap;
  va_start(ap, fmt);
  text_vprintf(&t, fmt, ap);
  va_end(ap);
  diag_error(d, loc, 311, "shapes do not fit: '%s' %s", n->name, t.data ? t.data : "");
  text_fini(&t);
  if (i < n->nin)
    diag_note(d, n->in[i]->loc, "the input comes from '%s' with shape %s", n->in[i]->name,
              lay_shape(lo, in[i]->type));
  lo->failed = true;
  return NULL;
}

Value *lay_error(Lower *lo, Loc loc, int code, const char *fmt, ...) {
  Text t = {0};
  va_list ap;
  va_start(ap, fmt);
  text_vprintf(&t, fmt, ap);
  va_end(ap);
  diag_error(builder_diag(lo->b), loc, code, "%s", t.data ? t.data : "");
  text_fini(&t);
  lo->failed = true;
  return NULL;
}

Op *lay_emit(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
             const Attr *attr) {
  enum { MAX_ATTRS = 16 };
  Attr all[MAX_ATTRS];
  int given = nattr;
  for (int i = 0; i < nattr; i++)
    all[i] = attr[i];
  if (lo->complex_mode) {
    all[nattr++] = attr_s(lo->b, "precision", lo->complex_mode);
    all[nattr++] = attr_s(lo->b, "region", "complex numbers keep their format");
  } else if (n->region.mode) {
    all[nattr++] = attr_s(lo->b, "precision", n->region.mode);
    all[nattr++] = attr_s(lo->b, "region", n->region.rule);
  }
  if (lo->part)
    all[nattr++] = attr_s(lo->b, "complex", lo->part);
  OpKind kind = op_info(code)->kind;
  if ((kind == OK_PRODUCT || kind == OK_ATTENTION) && !attr_find(attr, given, "float32")) {
    Str level = val_get_str(n->args, code == OP_conv ? "float32_conv" : "float32_matmul", NULL);
    if (level)
      all[nattr++] = attr_s(lo->b, "float32", level);
    *(code == OP_conv ? &lo->convolves : &lo->multiplies) = true;
  }
  return build_op(lo->b, code, nin, in, nattr, all);
}

Value *lay_emit1(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
                 const Attr *attr) {
  return lay_emit(lo, n, code, nin, in, nattr, attr)->out[0];
}

int lay_axis(Lower *lo, const Node *n, const char *key, int64_t axis, Value *const *in) {
  int rank = in[0]->type->rank;
  int64_t at = axis < 0 ? axis + rank : axis;
  if (at >= 0 && at < rank)
    return (int)at;
  lay_misfit(lo, n, lay_loc(n, key), 0, in, "has %s %lld, its input has %d dimensions", key,
             (long long)axis, rank);
  return -1;
}

bool lay_agrees(Lower *lo, const Node *n, const char *key, int64_t size, Value *const *in) {
  const Val *v = val_get(n->args, key);
  if (!v || v->kind != VAL_INT || v->i == size)
    return true;
  lay_misfit(lo, n, v->loc, 0, in, "has %s %lld, its input has %lld", key, (long long)v->i,
             (long long)size);
  return false;
}

int lay_batch_axis(const Lower *lo, const Node *n, int i) {
  return n->in[i]->type ? lo->batch_axis[n->in[i]->index] : 0;
}

void lay_set_batch_axis(Lower *lo, const Node *n, int axis) {
  lo->batch_axis[n->index] = axis;
}

bool lay_is_batch(const Lower *lo, const Node *n, int axis) {
  return axis == 0 && lo->batch_axis[n->index] == 0;
}

/* Whether the result has no axis of samples: a Parameter or a count, and what is made of them. */
static bool batchless(const Lower *lo, const Node *n) {
  for (int i = 0; i < n->nin; i++)
    if (lay_batch_axis(lo, n, i) >= 0)
      return false;
  return n->nin > 0 || !val_get_bool(n->args, "expand_batch", false);
}

Value *lay_batch_back(Lower *lo, const Node *n, Value *y) {
  static const int64_t swapped[3] = {1, 0, 2};
  if (!y || val_get_bool(n->args, "batch_first", true))
    return y;
  lay_set_batch_axis(lo, n, 1);
  return build_permute(lo->b, y, swapped);
}

Value *lay_batch_first(Lower *lo, const Node *n, Value *const *in, int i) {
  static const int64_t swapped[3] = {1, 0, 2};
  bool first = val_get_bool(n->args, "batch_first", true);
  int axis = lay_batch_axis(lo, n, i);
  if (in[i]->type->rank != 3)
    return lay_misfit(lo, n, n->loc, i, in, "works on %s", first ? "[N, T, C]" : "[T, N, C]");
  if (axis >= 0 && axis != !first) {
    lay_misfit(lo, n, lay_loc(n, "batch_first"), i, in,
               "works on %s, its input has the batch at axis %d",
               first ? "[N, T, C]" : "[T, N, C] with batch_first: false", axis);
    diag_hint(builder_diag(lo->b), axis ? "say batch_first: false, or transpose it back"
                                        : "remove batch_first; layers here pass [N, T, C]");
    return NULL;
  }
  return first ? in[i] : build_permute(lo->b, in[i], swapped);
}

Value *lay_param(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                 Init otherwise) {
  int64_t all[MAX_RANK + 1] = {0}; /* with the axis of both parts */
  int naxes = rank + otherwise.complex;
  memcpy(all, dim, (size_t)rank * sizeof *dim);
  all[rank] = 2;
  const Node *owner = n->twin ? n->twin : n->tie && !strcmp(tensor, "weight") ? n->tie : NULL;
  if (owner) {
    Value *v = lower_param(lo, owner, tensor, naxes, all, otherwise);
    const Type *want = type_get(builder_types(lo->b), v->type->dt, naxes, all);
    if (!type_same_shape(v->type, want) && !builder_failed(lo->b))
      lay_misfit(lo, n, n->loc, n->nin, NULL, "has %s %s, that of '%s' is %s",
                 *tensor ? tensor : "shape", lay_shape(lo, want), owner->name,
                 lay_shape(lo, v->type));
    return v;
  }
  const Val *given = NULL; /* tensor names may hold dots: no val_get */
  for (int i = 0; n->init && i < n->init->n; i++)
    if (!strcmp(n->init->key[i], tensor))
      given = n->init->item[i];
  if (given && rank < 2 && !strcmp(val_get_str(given, "type", ""), "orthogonal")) {
    lay_error(lo, given->loc.file ? given->loc : n->loc, 201,
              "orthogonal works on tensors of two or more dimensions, '%s' of '%s' has %d", tensor,
              n->name, rank);
    given = NULL;
  }
  Init init = given ? init_from(given, rank, dim) : otherwise;
  if (given && otherwise.complex &&
      (init.kind == INIT_TRUNC_NORMAL || init.kind == INIT_ORTHOGONAL))
    return lay_error(lo, given->loc, 312,
                     "dtypes do not fit: %s makes real numbers, '%s' is complex",
                     val_get_str(given, "type", ""), n->name);
  return lower_param(lo, n, tensor, naxes, all, otherwise.complex ? init_complex(init) : init);
}

/* ---- the table ---- */

static const struct {
  const char *type;
  LayerFn *build;
  OpCode op; /* where build is NULL: an elementwise op of one operand */
  int least, most;
  const char *tensors;
  bool parts, turned;
  int space; /* axes behind [N, C]; 0: any */
} kinds[] = {
#define LAYER(type, least, most, tensors)                                                          \
  {#type, layer_##type, OP_COUNT, least, most, tensors, .parts = false},
#define TURNED(type, least, most, tensors)                                                         \
  {#type, layer_##type, OP_COUNT, least, most, tensors, .turned = true},
#define SPACED(family, axes, tensors)                                                              \
  {#family #axes "d", layer_##family, OP_COUNT, 1, 1, tensors, .space = axes},
#define PARTS(type, least, most) {#type, layer_##type, OP_COUNT, least, most, "", .parts = true},
#define POINTWISE(type, op) {#type, NULL, OP_##op, 1, 1, "", .parts = false},
#include "frontend/layers.def"
};

/* What a layer does with complex operands. */
typedef enum { COMPLEX_REFUSED, COMPLEX_EACH, COMPLEX_PAIR } Parts;
static const struct {
  const char *type;
  Parts parts;
} complex_kinds[] = {
#define EACH(type) {#type, COMPLEX_EACH},
#define PAIR(type) {#type, COMPLEX_PAIR},
#include "frontend/layers.def"
};

static Parts parts_of(const char *type) {
  for (size_t i = 0; i < sizeof complex_kinds / sizeof *complex_kinds; i++)
    if (!strcmp(complex_kinds[i].type, type))
      return complex_kinds[i].parts;
  return COMPLEX_REFUSED;
}

static int kind_of(const char *type) {
  for (int i = 0; i < (int)(sizeof kinds / sizeof *kinds); i++)
    if (!strcmp(kinds[i].type, type))
      return i;
  return -1;
}

const char *layer_tensors(const char *type) {
  int k = kind_of(type);
  return k < 0 ? NULL : kinds[k].tensors;
}

int lay_space(const Node *n) {
  return kinds[kind_of(n->type->key)].space;
}

bool layer_takes_inputs(const char *type) {
  int k = kind_of(type);
  return k < 0 || kinds[k].most > 0;
}

bool layer_has_parts(const char *type) {
  int k = kind_of(type);
  return k >= 0 && kinds[k].parts;
}

/* Each initialiser has its tensor, whatever the layer's arguments are. */
static void check_init(Lower *lo, const Node *n) {
  for (int i = 0; n->init && i < n->init->n && !lo->failed && !builder_failed(lo->b); i++) {
    Str tensor = n->init->key[i];
    Str name = *tensor ? str_fmt(builder_strings(lo->b), "%s.%s", n->name, tensor) : n->name;
    bool tied = n->twin || (n->tie && !strcmp(tensor, "weight"));
    if (!tied && keymap_get(&lo->param_of, key_of(name), -1) < 0)
      lay_error(lo, n->init->item[i]->loc, 102, "layer '%s' (%s) has no tensor '%s' to initialise",
                n->name, n->type->key, tensor);
  }
}

/* A layer's own float32_matmul or float32_conv must be about something that it computes. */
static void check_float32(Lower *lo, const Node *n) {
  static const char *const keys[] = {"float32_matmul", "float32_conv"};
  const bool has[] = {lo->multiplies, lo->convolves};
  for (int i = 0; i < 2 && lo->train && !lo->failed; i++) {
    const Val *v = val_get(n->args, keys[i]);
    if (!v || v->kind == VAL_NULL || has[i])
      continue;
    lay_error(lo, v->loc, 441, "'%s' has no effect on '%s' (%s), which has no such %s", keys[i],
              n->name, n->type->key, i ? "convolution" : "product");
    diag_hint(builder_diag(lo->b), has[!i] ? "write %s" : "remove it", keys[!i]);
  }
}

/* A layer over complex operands, of which i is the first. */
static Value *build_complex(Lower *lo, const Node *n, Value *const *in, int i, LayerFn *build) {
  Parts parts = parts_of(n->type->key);
  if (parts == COMPLEX_REFUSED) {
    lay_error(lo, n->loc, 312, "dtypes do not fit: '%s' (%s) takes real numbers, '%s' is complex",
              n->name, n->type->key, n->in[i]->name);
    diag_hint(builder_diag(lo->b), "take real, imag, abs or view_as_real of it");
    return NULL;
  }
  if (!lay_complex(lo, n, false))
    return NULL;
  if (parts == COMPLEX_PAIR)
    return build(lo, n, in);
  Value *part[64];
  for (int k = 0; k < n->nin; k++) {
    Value *im = lay_pair(lo, n, in, k).im;
    part[k] = im ? im : lay_zeros(lo, in[k]->type);
  }
  lay_part(lo, false);
  Pair p = {build(lo, n, in), NULL};
  lay_part(lo, true);
  p.im = p.re && !lo->failed ? build(lo, n, part) : NULL;
  return lay_give(lo, n, p);
}

Value *layer_build(Lower *lo, const Node *n) {
  Diag *d = builder_diag(lo->b);
  int k = kind_of(n->type->key);
  if (k < 0)
    return lay_error(lo, n->loc, 190, "layer type '%s' is not supported yet", n->type->key);
  if (n->nin < kinds[k].least || n->nin > kinds[k].most) {
    diag_error(d, n->loc, 310, "'%s' (%s) takes %s%d input%s, not %d", n->name, n->type->key,
               kinds[k].least == kinds[k].most ? "" : "at least ", kinds[k].least,
               kinds[k].least == 1 ? "" : "s", n->nin);
    if (kinds[k].least > 1)
      diag_hint(d, "name them: inputs: [a, b]");
    lo->failed = true;
    return NULL;
  }
  Value *in[64];
  for (int i = 0; i < n->nin; i++) {
    in[i] = n->in[i]->type ? lo->value[n->in[i]->index] : lo->input[-1 - n->in[i]->index];
    if (!in[i])
      return NULL;
  }
  for (int i = 0; i < n->nin && !kinds[k].turned; i++)
    if (lay_batch_axis(lo, n, i) > 0) {
      lay_misfit(lo, n, n->loc, i, in, "works on [N, ...], its input has the batch at axis %d",
                 lay_batch_axis(lo, n, i));
      diag_hint(d, "transpose it back: {type: transpose, dim0: 0, dim1: %d}",
                lay_batch_axis(lo, n, i));
      return NULL;
    }
  build_at(lo->b, n->loc, n->name, NULL);
  lo->part = lo->complex_mode = NULL;
  lo->multiplies = lo->convolves = false;
  lo->batch_axis[n->index] = batchless(lo, n) ? -1 : 0;
  lo->train = lo->learns && val_get_bool(n->args, "training", true);
  int first = 0;
  while (first < n->nin && !lay_pair(lo, n, in, first).im)
    first++;
  Value *v = first < n->nin   ? build_complex(lo, n, in, first, kinds[k].build)
             : kinds[k].build ? kinds[k].build(lo, n, in)
                              : lay_emit1(lo, n, kinds[k].op, 1, in, 0, NULL);
  lo->part = lo->complex_mode = NULL;
  lo->train = lo->learns;
  check_init(lo, n);
  check_float32(lo, n);
  return v;
}
