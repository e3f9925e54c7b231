/* Losses: what training makes small. `loss:` is one loss, or a list whose sum weighted by `factor`
 * is trained on. A new loss is a TYPE row of schema.def's section "loss" and a row of `kinds` here.
 *
 * The module holds metric.loss_sum and metric.weight_sum, summed over micro-batches and batches by
 * those who run it; the loss is their quotient:
 *
 *   reduction   one loss                            several
 *   mean        sum of its terms / number of them   (mean * valid) / valid
 *   batchmean   sum of its terms / valid            the same
 *   sum         sum / 1                             (sum * valid) / valid
 *
 * with `valid` real samples in the batch. So one mean loss is the mean over all real targets
 * whatever the batches; several are the mean over samples of each batch's loss. Padded samples are
 * masked [N13]; everything is FP32, FP64 in 64-true. Gradients start at op loss_seed (docs/ir.md).
 * Formulas: torch.nn, PyTorch 2. */
#include <math.h>
#include "frontend/frontend.h"

#include <stdio.h>

typedef struct Lowering Lowering;
typedef Value *PointFn(Lowering *w, const LossTerm *t, Value *const *in);

struct LossKind {
  const char *type;
  OpCode op;     /* takes logits and class numbers, makes its own gradient; OP_COUNT: pointwise */
  PointFn *body; /* value of each element of the operands */
};

struct Lowering {
  Lower *lo;
  Value *valid; /* i64[] */
};

/* ---- reading ---- */

static const LossKind *kind_of(const char *type);

static Source source(const Val *name, Loc otherwise) {
  return (Source){.name = name->s, .loc = name->loc.file ? name->loc : otherwise};
}

/* `inputs:` of a loss or metric: {input, target}, or the operands of an expression. */
Val *sources_read(const Check *c, const Yaml *y, Val *v, const char *section, Sources *out) {
  const Yaml *inputs = y->kind == YAML_MAP ? yaml_get(y, "inputs") : NULL;
  bool expr = !strcmp(val_get_str(v, "type", ""), "expr");
  Val *map = NULL;
  if (!expr) {
    map = check_section(c, section, NULL, inputs, inputs ? inputs->loc : y->loc, "'inputs'");
  } else if (!inputs || inputs->kind != YAML_MAP || !inputs->n || inputs->n > 8) {
    diag_error(c->d, inputs ? inputs->loc : y->loc, 201,
               "'inputs' of an expression takes a map of 1 to 8 names");
  } else {
    map = val_new(c->a, VAL_MAP, ORIGIN_FILE, inputs->loc);
    for (int i = 0; i < inputs->n; i++) {
      Str s = check_str(c, inputs->u.pair[i].value, "an input");
      if (s)
        val_set(c->a, map, inputs->u.pair[i].key->text,
                val_str(c->a, s, ORIGIN_FILE, inputs->u.pair[i].value->loc));
    }
  }
  if (!map)
    return NULL;
  val_set(c->a, v, str_c(c->s, "inputs"), map);
  out->from = ARENA_ARRAY(c->a, Source, map->n + 1);
  if (arena_failed(c->a))
    return NULL;
  out->key = map->key;
  for (int i = 0; i < map->n; i++)
    if (map->item[i] && map->item[i]->kind == VAL_STR)
      out->from[out->n++] = source(map->item[i], y->loc);
  return out->n == map->n ? map : NULL;
}

static void unknown_source(const Check *c, const Model *m, const Source *s) {
  diag_error(c->d, s->loc, 221, "no output or layer is named '%s'", s->name);
  if (!model_suggest(c, m, s->name) && m->noutput == 1)
    diag_hint(c->d, "the model's output is '%s': inputs: {input: %s}", m->output_name[0],
              m->output_name[0]);
}

/* Layers, outputs and model inputs come first; another name is a data field's, but for the operand
 * that is trained. */
bool sources_resolve(const Check *c, Model *m, Sources *s, bool expr) {
  bool ok = true, any = false;
  for (int i = 0; i < s->n; i++) {
    Source *from = &s->from[i];
    from->node = model_find(m, from->name);
    any |= from->node != NULL;
    if (from->node)
      from->node->used = true;
    if (from->node || expr || i > 0)
      continue;
    unknown_source(c, m, from);
    ok = false;
  }
  if (ok && !any) {
    unknown_source(c, m, &s->from[0]);
    ok = false;
  }
  return ok;
}

static bool read_term(Spec *s, const Yaml *y, LossTerm *t, Val **out) {
  const Check *c = &s->c;
  Val *v = *out = check_variant(c, "loss", "type", y, "loss");
  if (!v || !sources_read(c, y, v, "loss inputs", &t->in))
    return false;
  t->v = v;
  t->kind = kind_of(val_get_str(v, "type", ""));
  return t->kind != NULL;
}

void losses_read(Spec *s, const Yaml *y) {
  const Check *c = &s->c;
  bool list = y->kind == YAML_LIST;
  int n = list ? y->n : 1;
  if (list && !n) {
    diag_error(c->d, y->loc, 201, "'loss' takes a loss or a list of losses, not an empty one");
    return;
  }
  Val *all = val_new(c->a, VAL_LIST, ORIGIN_FILE, y->loc);
  s->loss = ARENA_ARRAY(c->a, LossTerm, n);
  bool ok = !arena_failed(c->a);
  for (int i = 0; i < n && !arena_failed(c->a); i++) {
    Val *v;
    ok &= read_term(s, list ? y->u.item[i] : y, &s->loss[i], &v);
    if (v)
      val_add(c->a, all, v);
  }
  if (!arena_failed(c->a) && all->n == n)
    val_set(c->a, s->root, str_c(c->s, "loss"), list ? all : all->item[0]);
  s->nloss = ok ? n : 0;
}

void losses_resolve(Spec *s) {
  for (int i = 0; i < s->nloss; i++) {
    LossTerm *t = &s->loss[i];
    if (!sources_resolve(&s->c, &s->model, &t->in, !strcmp(t->kind->type, "expr")))
      s->nloss = 0;
  }
}

/* ---- pieces ---- */

/* Attributes of an op of a loss or metric: its region's precision, else FP32 in every mode (FP64 in
 * 64-true). */
static int place_attrs(Lower *lo, Attr *attr, int n) {
  if (!lo->region) {
    attr[n++] = attr_s(lo->b, "policy", "F32");
    return n;
  }
  attr[n++] = attr_s(lo->b, "precision", lo->region);
  attr[n++] = attr_s(lo->b, "region", lo->region_rule);
  return n;
}

int lower_place(Lower *lo, Attr *attr, int n) {
  return lo->region ? place_attrs(lo, attr, n) : n;
}

/* Sums over a batch, what they count and numbers made of them are FP32 or wider in every region. */
static Value *pinned(Lower *lo, OpCode code, int nin, Value *const *in, int nattr,
                     const Attr *attr) {
  Attr all[8];
  for (int i = 0; i < nattr; i++)
    all[i] = attr[i];
  all[nattr++] = attr_s(lo->b, "policy", "F32");
  return build_op(lo->b, code, nin, in, nattr, all)->out[0];
}

/* An op on each element. */
static Value *placed(Lower *lo, OpCode code, int nin, Value *const *in, int nattr,
                     const Attr *attr) {
  Attr all[8];
  for (int i = 0; i < nattr; i++)
    all[i] = attr[i];
  return build_op(lo->b, code, nin, in, place_attrs(lo, all, nattr), all)->out[0];
}

Value *loss_formula(Lower *lo, const char *text, int nin, Value *const *in) {
  Attr body = attr_s(lo->b, "body", text);
  return pinned(lo, OP_expr, nin, in, 1, &body);
}

static Value *number(Lower *lo, double v) {
  return build_const(lo->b, v, MPCC_F32);
}

/* x times k; x itself when k is 1 */
static Value *times(Lower *lo, Value *x, double k) {
  return k == 1 ? x : loss_formula(lo, "a * b", 2, (Value *[]){x, number(lo, k)});
}

Value *masked_sum(Lower *lo, Value *x, Value *valid) {
  int64_t dims[MAX_RANK];
  for (int i = 0; i < x->type->rank; i++)
    dims[i] = i;
  Attr attr[2] = {attr_ints(lo->b, "dims", x->type->rank, dims), attr_b(lo->b, "keepdim", false)};
  x = pinned(lo, OP_row_mask, 2, (Value *[]){x, valid}, 0, NULL);
  return pinned(lo, OP_sum, 1, &x, 2, attr);
}

Value *pointwise(Lower *lo, OpCode code, Value *a, Value *b) {
  return placed(lo, code, 2, (Value *[]){a, b}, 0, NULL);
}

/* Numbers of a list as a vector. A kernel takes so many operands: longer ones are joined in turn.
 */
static Value *vector(Lower *lo, const Val *list) {
  enum { TOGETHER = 16 };
  const int64_t one = 1;
  Value **in = ARENA_ARRAY(builder_arena(lo->b), Value *, list->n + 1);
  Attr dim = attr_i(lo->b, "dim", 0);
  int n = list->n;
  if (arena_failed(builder_arena(lo->b)))
    return number(lo, 1);
  for (int i = 0; i < n; i++)
    in[i] = build_reshape(lo->b, number(lo, list->item[i]->f), 1, &one);
  while (n > 1) {
    int k = 0;
    for (int i = 0; i < n; i += TOGETHER) {
      int together = n - i < TOGETHER ? n - i : TOGETHER;
      in[k++] = together > 1 ? pinned(lo, OP_cat, together, in + i, 1, &dim) : in[i];
    }
    n = k;
  }
  return in[0];
}

static void misfit(Lower *lo, Loc loc, const char *text) {
  diag_error(builder_diag(lo->b), loc, 311, "shapes do not fit: %s", text);
  lo->failed = true;
}

static Value *valid_float(const Lowering *w) {
  return build_cast(w->lo->b, w->valid, MPCC_F32);
}

/* ---- pointwise losses ---- */

static Value *squared(Lowering *w, const LossTerm *t, Value *const *in) {
  (void)t;
  return placed(w->lo, OP_squared_error, 2, in, 0, NULL);
}

static Value *absolute(Lowering *w, const LossTerm *t, Value *const *in) {
  (void)t;
  return placed(w->lo, OP_absolute_error, 2, in, 0, NULL);
}

/* beta 0 is L1Loss, as in torch */
static Value *smooth_l1(Lowering *w, const LossTerm *t, Value *const *in) {
  double beta = val_get_float(t->v, "beta", 1);
  if (beta == 0)
    return absolute(w, t, in);
  return placed(w->lo, OP_smooth_l1, 3, (Value *[]){in[0], in[1], number(w->lo, beta)}, 0, NULL);
}

static Value *huber(Lowering *w, const LossTerm *t, Value *const *in) {
  Value *delta = number(w->lo, val_get_float(t->v, "delta", 1));
  return placed(w->lo, OP_huber, 3, (Value *[]){in[0], in[1], delta}, 0, NULL);
}

static Value *kl_div(Lowering *w, const LossTerm *t, Value *const *in) {
  bool logs = val_get_bool(t->v, "log_target", false);
  return placed(w->lo, logs ? OP_kl_div_log : OP_kl_div, 2, in, 0, NULL);
}

/* A per-class list has one number, or as many as the last axis is long. */
static Value *class_list(Lowering *w, const LossTerm *t, const char *key, const Type *x) {
  const Val *list = val_get(t->v, key);
  if (!list || list->kind != VAL_LIST)
    return NULL;
  if (list->n != 1 && list->n != x->dim[x->rank - 1]) {
    diag_error(builder_diag(w->lo->b), list->loc, 311,
               "shapes do not fit: '%s' has %d numbers, the last axis of '%s' is %lld long", key,
               list->n, t->in.from[0].name, (long long)x->dim[x->rank - 1]);
    w->lo->failed = true;
    return NULL;
  }
  return list->n == 1 ? number(w->lo, list->item[0]->f) : vector(w->lo, list);
}

/* Class weights of the loss, one for each of the classes of x; NULL when it has none. */
static Value *class_weights(Lower *lo, const LossTerm *t, const Value *x) {
  const Val *list = val_get(t->v, "weight");
  int64_t classes = x->type->dim[x->type->rank - 1];
  if (!list || list->kind != VAL_LIST)
    return NULL;
  if (list->n == classes)
    return vector(lo, list);
  diag_error(builder_diag(lo->b), list->loc, 311,
             "shapes do not fit: 'weight' has %d numbers, '%s' has %lld classes", list->n,
             t->in.from[0].name, (long long)classes);
  lo->failed = true;
  return NULL;
}

/* Most that one target can weigh, as a whole number. */
static int64_t heaviest(const LossTerm *t) {
  const Val *list = val_get(t->v, "weight");
  double most = 0;
  for (int i = 0; list && list->kind == VAL_LIST && i < list->n; i++)
    most = fmax(most, list->item[i]->f);
  return list && list->kind == VAL_LIST ? (int64_t)fmax(1, ceil(most)) : 1;
}

static Value *bce(Lowering *w, const LossTerm *t, Value *const *in) {
  Value *pos = class_list(w, t, "pos_weight", in[0]->type);
  Value *scale = class_list(w, t, "weight", in[0]->type);
  Value *args[3] = {in[0], in[1], pos ? pos : number(w->lo, 1)};
  Value *loss = placed(w->lo, OP_bce_with_logits, 3, args, 0, NULL);
  return scale ? loss_formula(w->lo, "a * b", 2, (Value *[]){loss, scale}) : loss;
}

Value *loss_expression(Lower *lo, const Val *v, const Sources *s, Value *const *in) {
  static const char *const letters[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
  const Val *text = val_get(v, "expr");
  Scalar *body = NULL;
  if (scalar_parse(builder_arena(lo->b), builder_diag(lo->b), text->loc, text->s, s->key, s->n,
                   &body) != MPCC_OK) {
    lo->failed = true;
    return NULL;
  }
  Text out = {0};
  scalar_print(body, letters, &out);
  Str canonical = text_take(builder_arena(lo->b), builder_strings(lo->b), &out);
  Attr attr = attr_s(lo->b, "body", canonical);
  Value *e = placed(lo, OP_expr, s->n, in, 1, &attr);
  if (!builder_failed(lo->b) && (!e->type->rank || e->type->dim[0] != lo->batch)) {
    misfit(lo, text->loc, "an expression of a loss or metric gives a value for each sample");
    return NULL;
  }
  return e;
}

static Value *expression(Lowering *w, const LossTerm *t, Value *const *in) {
  return loss_expression(w->lo, t->v, &t->in, in);
}

static const LossKind kinds[] = {
    {"CrossEntropyLoss", OP_cross_entropy, NULL},
    {"NLLLoss", OP_nll_loss, NULL},
    {"MSELoss", OP_COUNT, squared},
    {"L1Loss", OP_COUNT, absolute},
    {"SmoothL1Loss", OP_COUNT, smooth_l1},
    {"HuberLoss", OP_COUNT, huber},
    {"KLDivLoss", OP_COUNT, kl_div},
    {"BCEWithLogitsLoss", OP_COUNT, bce},
    {"expr", OP_COUNT, expression},
};

static const LossKind *kind_of(const char *type) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kinds[i].type, type))
      return &kinds[i];
  return NULL;
}

bool loss_has_classes(const LossTerm *t) {
  return t->kind->op != OP_COUNT;
}

bool loss_has_weights(const LossTerm *t) {
  const Val *list = val_get(t->v, "weight");
  return loss_has_classes(t) && list && list->kind == VAL_LIST;
}

/* ---- operands ---- */

/* Logits with the classes last: [N, V] and [N, T, V] as they are, torch's [N, V, H, W] permuted. */
Value *class_logits(Lower *lo, const Sources *s, const char *what) {
  Value *x = lower_value(lo, s->from[0].node, s->from[0].loc);
  const Type *ty = x->type;
  if (ty->rank < 2) {
    diag_error(builder_diag(lo->b), s->from[0].loc, 311,
               "shapes do not fit: %s works on [N, classes], '%s' has %d dimensions", what,
               s->from[0].name, ty->rank);
    lo->failed = true;
    return NULL;
  }
  if (ty->rank < 4)
    return x;
  int64_t perm[MAX_RANK] = {0};
  for (int i = 1; i < ty->rank; i++)
    perm[i] = i + 1 < ty->rank ? i + 1 : 1;
  return build_permute(lo->b, x, perm);
}

/* Class numbers for logits x: a data field, or an integer value of the model. */
Value *class_target(Lower *lo, const Sources *s, const Value *x, int64_t ignore) {
  const Source *from = &s->from[1];
  const Type *ty = x->type;
  if (!from->node)
    return lower_field(lo, from, type_get(builder_types(lo->b), MPCC_I64, ty->rank - 1, ty->dim),
                       ty->dim[ty->rank - 1], ignore);
  Value *t = lower_value(lo, from->node, from->loc);
  if (dtype_is_float(t->type->dt)) {
    diag_error(builder_diag(lo->b), from->loc, 312,
               "dtypes do not fit: the target '%s' has no class numbers, it is %s", from->name,
               dtype_text(t->type->dt));
    lo->failed = true;
    return NULL;
  }
  return t;
}

/* Operands of a pointwise loss or metric; a data field takes the shape of the first model value. */
bool pointwise_operands(Lower *lo, const Sources *s, bool same_shape, Value **in) {
  const Value *like = NULL;
  int first = 0;
  for (int i = 0; i < s->n; i++) {
    in[i] = s->from[i].node ? lower_value(lo, s->from[i].node, s->from[i].loc) : NULL;
    if (in[i] && !like) {
      like = in[i];
      first = i;
    }
  }
  for (int i = 0; i < s->n && like && !lo->failed; i++) {
    if (!in[i])
      in[i] = lower_field(
          lo, &s->from[i],
          type_get(builder_types(lo->b), MPCC_F32, like->type->rank, like->type->dim), 0, 0);
    if (lo->failed || !same_shape || type_same_shape(in[i]->type, like->type))
      continue;
    diag_error(builder_diag(lo->b), s->from[i].loc, 311,
               "shapes do not fit: '%s' and '%s' are compared element by element",
               s->from[first].name, s->from[i].name);
    lo->failed = true;
  }
  return like && !lo->failed;
}

/* ---- terms ---- */

typedef enum { MEAN, SUM, BATCHMEAN } Reduction;

static Reduction reduction_of(const LossTerm *t) {
  const char *word = val_get_str(t->v, "reduction", "mean");
  return !strcmp(word, "sum") ? SUM : !strcmp(word, "batchmean") ? BATCHMEAN : MEAN;
}

Value *count_targets(Lower *lo, Value *target, Value *valid, int64_t ignore) {
  char text[64];
  snprintf(text, sizeof text, "a == %lld ? 0 : 1", (long long)ignore);
  Value *x = build_cast(lo->b, target, MPCC_F32);
  return masked_sum(lo, loss_formula(lo, text, 1, &x), valid);
}

/* What count_targets counts, each by the weight of its class w [V]. */
static Value *weigh_targets(Lower *lo, Value *target, Value *w, Value *valid, int64_t ignore) {
  Builder *b = lo->b;
  int64_t dim[MAX_RANK], classes = w->type->dim[0];
  int rank = target->type->rank;
  memcpy(dim, target->type->dim, (size_t)rank * sizeof *dim);
  dim[rank] = 1;
  Attr count[2] = {attr_ints(b, "shape", 1, &classes), attr_i(b, "dim", 0)};
  Value *in[3] = {build_reshape(b, build_cast(b, target, MPCC_F32), rank + 1, dim),
                  build_cast(b, build_op(b, OP_iota, 0, NULL, 2, count)->out[0], MPCC_F32), w};
  char text[80];
  snprintf(text, sizeof text, "a == b && a != %lld ? c : 0", (long long)ignore);
  return masked_sum(lo, loss_formula(lo, text, 3, in), valid);
}

/* The loss over class numbers times k (times `scale`, NULL: 1); *count: its targets. alone: the
 * only term, which is divided by the count afterwards. */
static Value *class_term(Lowering *w, const LossTerm *t, Value *x, Value *seed, bool alone,
                         Value **count) {
  Lower *lo = w->lo;
  int64_t ignore = val_get_int(t->v, "ignore_index", -100);
  Value *target = class_target(lo, &t->in, x, ignore);
  if (!target)
    return NULL;
  double k = val_get_float(t->v, "factor", 1);
  Value *scale = NULL, *weights = class_weights(lo, t, x);
  if (lo->failed)
    return NULL;
  if (!alone && reduction_of(t) == MEAN)
    scale = loss_formula(
        lo, "a / b", 2,
        (Value *[]){valid_float(w), weights ? weigh_targets(lo, target, weights, w->valid, ignore)
                                            : count_targets(lo, target, w->valid, ignore)});
  else if (!alone)
    scale = valid_float(w);
  seed = times(lo, seed, k);
  if (scale)
    seed = loss_formula(lo, "a * b", 2, (Value *[]){seed, scale});
  Value *in[5] = {x, target, seed, w->valid, weights};
  Attr at[4] = {attr_i(lo->b, "ignore_index", ignore),
                attr_f(lo->b, "label_smoothing", val_get_float(t->v, "label_smoothing", 0))};
  int nattr = lower_place(lo, at, t->kind->op == OP_cross_entropy ? 2 : 1);
  Op *op = build_op(lo->b, t->kind->op, weights ? 5 : 4, in, nattr, at);
  *count = op->out[1];
  Value *sum = times(lo, op->out[0], k);
  return scale ? loss_formula(lo, "a * b", 2, (Value *[]){sum, scale}) : sum;
}

/* Sum over the real elements as the reduction wants it, times the factor. */
static Value *point_term(Lowering *w, const LossTerm *t, bool alone) {
  Lower *lo = w->lo;
  Value *in[8];
  bool expr = !strcmp(t->kind->type, "expr");
  if (!pointwise_operands(lo, &t->in, !expr, in))
    return NULL;
  Value *e = t->kind->body(w, t, in);
  if (!e || lo->failed || builder_failed(lo->b))
    return NULL;
  double per = (double)type_elems(e->type) / (double)lo->batch;
  Reduction r = reduction_of(t);
  Value *sum = masked_sum(lo, e, w->valid);
  sum = times(lo, sum, val_get_float(t->v, "factor", 1) / (r == MEAN ? per : 1));
  if (r == SUM && !alone)
    sum = loss_formula(lo, "a * b", 2, (Value *[]){sum, valid_float(w)});
  return sum;
}

static Value *add(Lower *lo, Value *a, Value *b) {
  return a ? loss_formula(lo, "a + b", 2, (Value *[]){a, b}) : b;
}

void lower_enter(Lower *lo, const char *place) {
  Str path = str_fmt(builder_strings(lo->b), "precision.regions.%s", place);
  lo->region = val_get_str(lo->spec->root, path, NULL);
  lo->region_rule = str_fmt(builder_strings(lo->b), "regions.%s", place);
}

static Value *seed_of(Lower *lo, int64_t capacity) {
  Attr attr[4] = {attr_i(lo->b, "capacity", capacity), attr_dt(lo->b, "dtype", MPCC_F32)};
  return build_op(lo->b, OP_loss_seed, 0, NULL, lower_place(lo, attr, 2), attr)->out[0];
}

/* A sum that a `to` has made of 64 bits is logged in them. */
static void write_sum(Builder *b, Tensor *t, Value *sum) {
  if (sum->type->dt == MPCC_F64)
    t->type = sum->type;
  build_write(b, t, build_cast(b, sum, t->type->dt));
}

void losses_build(Lower *lo, Tensor *valid, Tensor *loss_sum, Tensor *weight_sum) {
  const Spec *s = lo->spec;
  Builder *b = lo->b;
  bool alone = s->nloss == 1;
  lower_enter(lo, "loss");
  const LossTerm *only = &s->loss[0];
  build_at(b, only->v->loc, str_c(builder_strings(b), "loss"), NULL);
  Lowering w = {.lo = lo, .valid = build_read(b, valid)};
  Value *total = NULL, *points = NULL, *count = NULL, *seed = NULL;
  for (int i = 0; i < s->nloss; i++) {
    const LossTerm *t = &s->loss[i];
    build_at(b, t->v->loc, str_c(builder_strings(b), "loss"), NULL);
    Value *x = loss_has_classes(t) ? class_logits(lo, &t->in, t->kind->type) : NULL;
    if (lo->failed)
      return;
    if (!seed) { /* the largest weight_sum */
      bool targets = alone && x && reduction_of(t) == MEAN;
      int64_t n =
          targets ? type_elems(x->type) / x->type->dim[x->type->rank - 1] * heaviest(t) : lo->batch;
      seed = seed_of(lo, alone && reduction_of(t) == SUM ? 1 : n);
    }
    Value *v = x ? class_term(&w, t, x, seed, alone, &count) : point_term(&w, t, alone);
    if (!v || lo->failed)
      return;
    total = x ? add(lo, total, v) : total;
    points = x ? points : add(lo, points, v);
  }
  build_at(b, only->v->loc, str_c(builder_strings(b), "loss"), NULL);
  if (points) /* a `to` may have made them wider than the seed */
    total = add(lo, total, build2(b, OP_loss, points, build_cast(b, seed, points->type->dt)));
  write_sum(b, loss_sum, total);
  bool sum = alone && reduction_of(only) == SUM;
  write_sum(b, weight_sum, sum ? number(lo, 1) : alone && count ? count : valid_float(&w));
}
