/* Metrics: what evaluation reports beside the loss. A new one is a TYPE row of schema.def's section
 * "metric" and a row of `kinds` here; the runtime's table of the words `value` makes a number of
 * the sums (runtime/metrics.c).
 *
 * Each metric is a tensor metric.NAME (attributes metric = word, count = the tensor that counts),
 * summed over batches by those who run the module. Accuracy is counted in training too. */
#include "frontend/frontend.h"

#include <math.h>
#include <stdio.h>

typedef struct {
  Lower *lo;
  const MetricTerm *term;
  Value *valid;
  Value *count; /* result of a build function beside its sum */
} Lowering;

typedef Value *BuildFn(Lowering *w);
struct MetricKind {
  const char *type, *name; /* name: when the spec gives none */
  bool classes;            /* reads logits and class numbers */
  bool training;
  const char *value;
  BuildFn *build;
};

static const MetricKind *kind_of(const char *type);

/* ---- reading ---- */

/* Operands of the first loss that reads the same kind of values. */
static const LossTerm *loss_like(const Spec *s, bool classes) {
  for (int i = 0; i < s->nloss; i++)
    if (loss_has_classes(&s->loss[i]) == classes && s->loss[i].in.n == 2)
      return &s->loss[i];
  return NULL;
}

/* Two classes, told apart by one logit. */
static bool is_binary(const MetricTerm *t) {
  return !strcmp(val_get_str(t->v, "task", ""), "binary");
}

static bool has_classes(const MetricTerm *t) {
  return t->kind->classes && !is_binary(t);
}

static bool read_term(Spec *s, const Yaml *y, MetricTerm *t, Val **out) {
  const Check *c = &s->c;
  Val *v = *out = check_variant(c, "metric", "type", y, "metric");
  if (!v)
    return false;
  t->v = v;
  t->kind = kind_of(val_get_str(v, "type", ""));
  if (!t->kind) /* memory is short */
    return false;
  t->name = val_get_str(v, "name", str_c(c->s, t->kind->name));
  val_set(c->a, v, str_c(c->s, "name"), val_str(c->a, t->name, ORIGIN_IMPLIED, v->loc));
  const LossTerm *like = loss_like(s, has_classes(t));
  bool given = y->kind == YAML_MAP && yaml_get(y, "inputs");
  if (given || !like || !strcmp(t->kind->type, "expr"))
    return sources_read(c, y, v, "loss inputs", &t->in) != NULL;
  t->in = like->in;
  val_set(c->a, v, str_c(c->s, "inputs"), val_get(like->v, "inputs"));
  return true;
}

static bool check_name(const Check *c, const Spec *s, int i) {
  const MetricTerm *t = &s->metric[i];
  bool taken = !strcmp(t->name, "loss") || strpbrk(t->name, " /\"\\,") || !*t->name;
  for (int k = 0; k < i; k++)
    taken |= s->metric[k].name == t->name;
  if (taken) {
    diag_error(c->d, t->v->loc, 220, "'%s' cannot name this metric, or names another", t->name);
    diag_hint(c->d, "give it a 'name' of its own");
  }
  return !taken;
}

void metrics_read(Spec *s, const Yaml *y) {
  const Check *c = &s->c;
  Val *all = val_new(c->a, VAL_LIST, y ? ORIGIN_FILE : ORIGIN_DEFAULT, y ? y->loc : (Loc){0});
  Yaml accuracy = {.kind = YAML_SCALAR, .text = str_c(c->s, "Accuracy")}, *item = &accuracy;
  Yaml otherwise = {.kind = YAML_LIST, .n = loss_like(s, true) != NULL, .u.item = &item};
  if (y && y->kind != YAML_LIST) {
    diag_error(c->d, y->loc, 201, "'metrics' takes a list, not %s", yaml_kind_text(y));
    return;
  }
  y = y ? y : &otherwise;
  s->metric = ARENA_ARRAY(c->a, MetricTerm, y->n + 1);
  for (int i = 0; i < y->n && !arena_failed(c->a); i++) {
    Val *v;
    if (read_term(s, y->u.item[i], &s->metric[s->nmetric], &v) && check_name(c, s, s->nmetric))
      s->nmetric++;
    if (v)
      val_add(c->a, all, v);
  }
  val_set(c->a, s->root, str_c(c->s, "metrics"), all);
}

void metrics_resolve(Spec *s) {
  for (int i = 0; i < s->nmetric; i++) {
    MetricTerm *t = &s->metric[i];
    if (!sources_resolve(&s->c, &s->model, &t->in, !strcmp(t->kind->type, "expr")))
      s->nmetric = 0;
  }
}

/* ---- of one logit ---- */

static bool binary_operands(Lowering *w, Value **in) {
  const Val *k = val_get(w->term->v, "top_k");
  if (k && k->i > 1) {
    diag_error(builder_diag(w->lo->b), k->loc, 202, "top_k has no meaning for two classes");
    w->lo->failed = true;
  }
  return !w->lo->failed && pointwise_operands(w->lo, &w->term->in, true, in);
}

/* Elements for which `text` holds, of logits a, which predict 1 above x, and targets b. */
static Value *binary_count(Lowering *w, Value *const *in, const char *text) {
  char body[256], left_out[48] = "";
  double threshold = val_get_float(w->term->v, "threshold", 0.5);
  if (val_get(w->term->v, "ignore_index")->kind == VAL_INT)
    snprintf(left_out, sizeof left_out, " && b != %lld",
             (long long)val_get_int(w->term->v, "ignore_index", 0));
  snprintf(body, sizeof body, "x = %.17g, (%s)%s ? 1 : 0", log(threshold / (1 - threshold)), text,
           left_out);
  return masked_sum(w->lo, loss_formula(w->lo, body, 2, in), w->valid);
}

static Value *binary_accuracy(Lowering *w) {
  Value *in[8];
  if (!binary_operands(w, in))
    return NULL;
  w->count = binary_count(w, in, "0 < 1");
  return binary_count(w, in, "a > x && b > 0.5 || !(a > x) && !(b > 0.5)");
}

/* [2, 2]: targets by row, predictions by column */
static Value *binary_confusion(Lowering *w) {
  static const char *const cell[] = {"!(a > x) && !(b > 0.5)", "a > x && !(b > 0.5)",
                                     "!(a > x) && b > 0.5", "a > x && b > 0.5"};
  Builder *b = w->lo->b;
  Value *in[8], *sum[4];
  const int64_t one = 1, dim[2] = {2, 2};
  if (!binary_operands(w, in))
    return NULL;
  for (int i = 0; i < 4; i++)
    sum[i] = build_reshape(b, binary_count(w, in, cell[i]), 1, &one);
  const Attr axis = attr_i(b, "dim", 0);
  return build_reshape(b, build_op(b, OP_cat, 4, sum, 1, &axis)->out[0], 2, dim);
}

/* ---- classifying ---- */

static int64_t ignored(const Lowering *w) {
  const LossTerm *like = loss_like(w->lo->spec, true);
  return val_get_int(w->term->v, "ignore_index",
                     like ? val_get_int(like->v, "ignore_index", -100) : -100);
}

/* Logits and target; false after a diagnostic. */
static bool class_operands(Lowering *w, Value **in) {
  in[0] = class_logits(w->lo, &w->term->in, w->term->kind->type);
  in[1] = in[0] ? class_target(w->lo, &w->term->in, in[0], ignored(w)) : NULL;
  in[2] = w->valid;
  return in[1] != NULL;
}

static Value *accuracy(Lowering *w) {
  Value *in[3];
  if (is_binary(w->term))
    return binary_accuracy(w);
  if (!class_operands(w, in))
    return NULL;
  Builder *b = w->lo->b;
  int64_t k = val_get_int(w->term->v, "top_k", 1),
          classes = in[0]->type->dim[in[0]->type->rank - 1];
  Attr at[4] = {attr_i(b, "ignore_index", ignored(w)), attr_i(b, "top_k", k)};
  if (k > classes) {
    diag_error(builder_diag(b), val_get(w->term->v, "top_k")->loc, 202,
               "top_k is %lld, there are %lld classes", (long long)k, (long long)classes);
    w->lo->failed = true;
    return NULL;
  }
  return build_op(b, OP_accuracy, 3, in, lower_place(w->lo, at, k > 1 ? 2 : 1), at)->out[0];
}

/* Minus the log-likelihood of the targets, and their number. */
static Value *log_likelihood(Lowering *w) {
  Value *in[4];
  if (!class_operands(w, in))
    return NULL;
  Builder *b = w->lo->b;
  in[3] = in[2];
  in[2] = build_const(b, 1, MPCC_F32);
  Attr at[3] = {attr_i(b, "ignore_index", ignored(w))};
  Op *op = build_op(b, OP_cross_entropy, 4, in, lower_place(w->lo, at, 1), at);
  w->count = op->out[1];
  return op->out[0];
}

/* [C, C]: targets by row, predictions by column */
static Value *confusion(Lowering *w) {
  Value *in[3];
  if (is_binary(w->term))
    return binary_confusion(w);
  if (!class_operands(w, in))
    return NULL;
  Builder *b = w->lo->b;
  int64_t classes = in[0]->type->dim[in[0]->type->rank - 1];
  const int64_t dim[2] = {type_elems(in[0]->type) / classes, classes};
  Attr at[3] = {attr_i(b, "ignore_index", ignored(w))};
  Op *hot = build_op(b, OP_class_hot, 3, in, lower_place(w->lo, at, 1), at);
  Value *pair[2] = {build_reshape(b, hot->out[0], 2, dim), build_reshape(b, hot->out[1], 2, dim)};
  Attr attr[3] = {attr_b(b, "ta", true), attr_b(b, "tb", false), attr_s(b, "policy", "F32")};
  return build_op(b, OP_matmul, 2, pair, 3, attr)->out[0];
}

/* ---- pointwise ---- */

static Value *point_sum(Lowering *w, Value *e) {
  Value *valid = build_cast(w->lo->b, w->valid, MPCC_F32);
  double per = (double)type_elems(e->type) / (double)w->lo->batch;
  w->count =
      loss_formula(w->lo, "a * b", 2, (Value *[]){valid, build_const(w->lo->b, per, MPCC_F32)});
  return masked_sum(w->lo, e, w->valid);
}

static Value *point_error(Lowering *w, OpCode code) {
  Value *in[8];
  if (!pointwise_operands(w->lo, &w->term->in, true, in))
    return NULL;
  return point_sum(w, pointwise(w->lo, code, in[0], in[1]));
}

static Value *squared(Lowering *w) {
  return point_error(w, OP_squared_error);
}

static Value *absolute(Lowering *w) {
  return point_error(w, OP_absolute_error);
}

static Value *expression(Lowering *w) {
  Value *in[8];
  if (!pointwise_operands(w->lo, &w->term->in, false, in))
    return NULL;
  Value *e = loss_expression(w->lo, w->term->v, &w->term->in, in);
  return e ? point_sum(w, e) : NULL;
}

static const MetricKind kinds[] = {
    {"Accuracy", "acc", true, true, "mean", accuracy},
    {"ConfusionMatrix", "confusion", true, false, "matrix", confusion},
    {"Precision", "precision", true, false, "precision", confusion},
    {"Recall", "recall", true, false, "recall", confusion},
    {"F1Score", "f1", true, false, "f1", confusion},
    {"Perplexity", "perplexity", true, false, "exp", log_likelihood},
    {"BitsPerByte", "bpb", true, false, "bits", log_likelihood},
    {"MeanSquaredError", "mse", false, false, "mean", squared},
    {"MeanAbsoluteError", "mae", false, false, "mean", absolute},
    {"expr", "expr", false, false, "mean", expression},
};

static const MetricKind *kind_of(const char *type) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kinds[i].type, type))
      return &kinds[i];
  return NULL;
}

/* ---- building ---- */

/* The same values, each named where it stands or taken from the loss. */
static bool same_sources(const Sources *a, const Sources *b) {
  bool same = a->n == b->n;
  for (int i = 0; i < a->n && same; i++)
    same = a->from[i].node ? a->from[i].node == b->from[i].node
                           : !b->from[i].node && a->from[i].name == b->from[i].name;
  return same;
}

/* What `weight_sum` counts already needs no count of its own; class weights weigh the loss alone. */
static bool counted_by_loss(const Lowering *w) {
  const Spec *s = w->lo->spec;
  const LossTerm *t = &s->loss[0];
  return s->nloss == 1 && has_classes(w->term) && loss_has_classes(t) &&
         same_sources(&t->in, &w->term->in) &&
         !strcmp(val_get_str(t->v, "reduction", "mean"), "mean") && !loss_has_weights(t) &&
         val_get_int(t->v, "ignore_index", -100) == ignored(w);
}

static Tensor *declare(Lower *lo, const MetricTerm *t, Str name, const Type *type) {
  Tensor *m = module_tensor(builder_module(lo->b), name);
  return m ? m
           : build_tensor(lo->b, name, type_with_dtype(builder_types(lo->b), type, MPCC_F32),
                          ROLE_METRIC, t->v->loc);
}

static void build_metric(Lowering *w) {
  Lower *lo = w->lo;
  Builder *b = lo->b;
  const MetricTerm *t = w->term;
  build_at(b, t->v->loc, str_c(builder_strings(b), "metrics"), NULL);
  Value *sum = t->kind->build(w);
  if (!sum || lo->failed || builder_failed(b))
    return;
  Str name = str_fmt(builder_strings(b), "metric.%s", t->name);
  Str count = str_c(builder_strings(b), "metric.weight_sum");
  Tensor *m = declare(lo, t, name, sum->type);
  if (sum->type->rank == 0 && !counted_by_loss(w)) {
    count = str_fmt(builder_strings(b), "metric.%s.count", t->name);
    if (!w->count) {
      Value *in[3];
      class_operands(w, in);
      w->count = count_targets(lo, in[1], w->valid, ignored(w));
    }
    build_write(b, declare(lo, t, count, sum->type), build_cast(b, w->count, MPCC_F32));
  }
  build_write(b, m, build_cast(b, sum, MPCC_F32));
  build_tensor_attr(b, m, attr_s(b, "metric", t->kind->value));
  build_tensor_attr(b, m, attr_s(b, "count", count));
  build_tensor_attr(b, m, attr_b(b, "training", t->kind->training));
  const char *average = val_get_str(t->v, "average", NULL);
  if (average)
    build_tensor_attr(b, m, attr_s(b, "average", is_binary(t) ? "binary" : average));
  if (val_get(t->v, "bytes_per_token"))
    build_tensor_attr(b, m, attr_f(b, "bytes", val_get_float(t->v, "bytes_per_token", 1)));
}

void metrics_build(Lower *lo, Tensor *valid) {
  const Spec *s = lo->spec;
  lower_enter(lo, "metrics");
  for (int i = 0; i < s->nmetric && !lo->failed && !builder_failed(lo->b); i++) {
    Lowering w = {.lo = lo, .term = &s->metric[i], .valid = build_read(lo->b, valid)};
    if (!lo->train || s->metric[i].kind->training)
      build_metric(&w);
  }
}
