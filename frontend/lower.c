/* The effective spec to a module of stage forward: functions train_forward, eval_forward, predict
 * and init over one set of tensors (docs/ir.md). Layers are in layers*.c. */
#include "frontend/frontend.h"

#include <stdio.h>

/* ---- random numbers ---- */

Value *lower_seed(Lower *lo) {
  if (!lo->seed)
    lo->seed = build_read(lo->b, lo->seed_tensor);
  return lo->seed;
}

Value *lower_step(Lower *lo) {
  if (!lo->step)
    lo->step = build_read(lo->b, lo->seen_tensor);
  return lo->step;
}

/* FNV-1a of the path in 31 bits, even (init needs two numbers of a path), moved on while taken: the
 * same spec gives the same numbers. */
int64_t lower_stream(Lower *lo, const char *path) {
  Arena *a = builder_arena(lo->b);
  Str name = str_c(builder_strings(lo->b), path);
  int64_t stream = keymap_get(&lo->stream_of, key_of(name), -1);
  if (stream >= 0)
    return stream;
  uint32_t hash = 2166136261u;
  for (const char *p = path; *p; p++)
    hash = (hash ^ (unsigned char)*p) * 16777619u;
  stream = hash & 0x7ffffffe;
  while (keymap_get(&lo->stream_taken, (uint64_t)stream, 0))
    stream = (stream + 2) & 0x7ffffffe;
  keymap_set(a, &lo->stream_taken, (uint64_t)stream, 1);
  keymap_set(a, &lo->stream_of, key_of(name), stream);
  return stream;
}

/* ---- parameters ---- */

/* Group of a parameter: 1 + the first entry of param_groups that matches, else 0. Every match is
 * counted, so that entries without any can be reported. */
static int group_of(Lower *lo, const char *name, int rank) {
  const Val *groups = val_get(lo->spec->root, "optimizer.param_groups");
  for (int i = 0; groups && i < groups->n; i++) {
    const Val *match = val_get(groups->item[i], "match");
    bool hit = val_get_int(groups->item[i], "match_ndim", -1) == rank;
    for (int k = 0; match && match->kind == VAL_LIST && k < match->n && !hit; k++) {
      Str *pattern;
      const Check *c = &lo->spec->c;
      int n = glob_expand(c->a, c->s, match->item[k]->s, &pattern);
      for (int p = 0; p < n && !hit; p++)
        hit = glob_match(pattern[p], name);
    }
    if (hit) {
      lo->group_use[i]++;
      return i + 1;
    }
  }
  return 0;
}

static LoweredParam *declare(Lower *lo, const Node *n, Str name, const Type *type, Init init) {
  Builder *b = lo->b;
  if (lo->nparam == lo->param_cap) {
    int cap = lo->param_cap ? 2 * lo->param_cap : 32;
    LoweredParam *v = ARENA_ARRAY(builder_arena(b), LoweredParam, cap);
    if (arena_failed(builder_arena(b)))
      return NULL;
    if (lo->nparam)
      memcpy(v, lo->param, (size_t)lo->nparam * sizeof *v);
    lo->param = v;
    lo->param_cap = cap;
  }
  keymap_set(builder_arena(b), &lo->param_of, key_of(name), lo->nparam);
  LoweredParam *p = &lo->param[lo->nparam++];
  p->owner = n;
  p->init = init;
  p->tensor = build_tensor(b, name, type, ROLE_PARAM, n->loc);
  int group = group_of(lo, name, type->rank - init.complex);
  bool frozen = val_get_bool(n->args, "freeze", false);
  build_tensor_attr(b, p->tensor, attr_i(b, "group", frozen ? -1 : group));
  if (init.complex)
    build_tensor_attr(b, p->tensor, attr_b(b, "complex", true));
  init_describe(b, p->tensor, &init);
  return p;
}

/* Whether init_from passes the tensor over. */
static bool skipped(Lower *lo, Str name) {
  const Val *skip = val_get(lo->spec->model.init_from, "skip");
  for (int i = 0; skip && skip->kind == VAL_LIST && i < skip->n; i++) {
    Str *all;
    int n = glob_expand(builder_arena(lo->b), builder_strings(lo->b), skip->item[i]->s, &all);
    for (int k = 0; k < n; k++)
      if (glob_match(all[k], name))
        return true;
  }
  return false;
}

Value *lower_param(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                   Init init) {
  Str name = *tensor ? str_fmt(builder_strings(lo->b), "%s.%s", n->name, tensor) : n->name;
  const Type *type = type_get(builder_types(lo->b), MPCC_F32, rank, dim);
  int64_t at = keymap_get(&lo->param_of, key_of(name), -1);
  if (lo->spec->model.empty_init && at < 0 && !skipped(lo, name))
    init = (Init){.kind = INIT_CONSTANT, .complex = init.complex};
  LoweredParam *p = at >= 0 ? &lo->param[at] : declare(lo, n, name, type, init);
  if (!p)
    return build_const(lo->b, 0, MPCC_F32); /* memory is short: builder_finish says so */
  if (p->owner != n && !lo->failed) {
    diag_error(builder_diag(lo->b), n->loc, 220, "two layers have a tensor named '%s'", name);
    diag_note(builder_diag(lo->b), p->owner->loc, "the other one");
    lo->failed = true;
  }
  if (!p->read)
    p->read = build_read(lo->b, p->tensor);
  return p->read;
}

Tensor *lower_buffer(Lower *lo, const Node *n, const char *tensor, DType dt, int rank,
                     const int64_t *dim, double init) {
  Builder *b = lo->b;
  Str name = str_fmt(builder_strings(b), "%s.%s", n->twin ? n->twin->name : n->name, tensor);
  for (int i = 0; i < lo->nbuffer; i++)
    if (lo->buffer[i].tensor->name == name)
      return lo->buffer[i].tensor;
  if (lo->nbuffer == lo->buffer_cap) {
    int cap = lo->buffer_cap ? 2 * lo->buffer_cap : 32;
    LoweredBuffer *v = ARENA_ARRAY(builder_arena(b), LoweredBuffer, cap);
    if (arena_failed(builder_arena(b)))
      return NULL;
    if (lo->nbuffer)
      memcpy(v, lo->buffer, (size_t)lo->nbuffer * sizeof *v);
    lo->buffer = v;
    lo->buffer_cap = cap;
  }
  Tensor *t = build_tensor(b, name, type_get(builder_types(b), dt, rank, dim), ROLE_BUFFER, n->loc);
  lo->buffer[lo->nbuffer++] = (LoweredBuffer){t, n, init};
  return t;
}

/* ---- functions ---- */

typedef struct {
  Tensor *valid, *loss_sum, *weight_sum;
  Tensor **input, **output;
  Tensor *counter[3];
} Tensors;

static void begin(Lower *lo, const Tensors *t, const char *name, bool train) {
  const Model *m = &lo->spec->model;
  build_func(lo->b, name);
  lo->train = lo->learns = train;
  lo->seed = lo->step = NULL;
  for (int i = 0; i < lo->nparam; i++)
    lo->param[i].read = NULL;
  for (LoweredField *f = lo->field; f; f = f->next)
    f->read = NULL;
  for (int i = 0; i < m->nnode; i++) {
    lo->value[i] = lo->imag[i] = NULL;
    lo->batch_axis[i] = 0;
  }
  for (int i = 0; i < m->ninput; i++) {
    build_at(lo->b, m->input[i]->loc, m->input[i]->name, NULL);
    lo->input[i] = build_read(lo->b, t->input[i]);
    if (t->input[i]->type->dt == MPCC_F64) { /* all that follows is f32 until autocast */
      Attr to[] = {attr_dt(lo->b, "to", MPCC_F32), attr_b(lo->b, "table", true)};
      lo->input[i] = build_op(lo->b, OP_cast, 1, &lo->input[i], 2, to)->out[0];
    }
  }
}

/* What leaves the model has its samples in front. */
static void check_front(Lower *lo, const Node *n, Loc loc) {
  if (lo->failed || builder_failed(lo->b) || !n || !n->type || lo->batch_axis[n->index] <= 0)
    return;
  Diag *d = builder_diag(lo->b);
  diag_error(d, loc, 311, "shapes do not fit: '%s' has the batch at axis %d", n->name,
             lo->batch_axis[n->index]);
  diag_hint(d, "transpose it back: {type: transpose, dim0: 0, dim1: %d}", lo->batch_axis[n->index]);
  lo->failed = true;
}

/* All layers that something needs; stops at the first misfit, whose successors would only echo it.
 */
static void forward(Lower *lo) {
  const Model *m = &lo->spec->model;
  for (int i = 0; i < m->nnode && !lo->failed && !builder_failed(lo->b); i++)
    if (m->node[i]->used)
      lo->value[i] = layer_build(lo, m->node[i]);
  for (int i = 0; i < m->noutput; i++)
    check_front(lo, m->output[i], m->output[i]->loc);
  for (int i = 0; i < lo->spec->nloss; i++)
    for (int k = 0; k < lo->spec->loss[i].in.n; k++)
      check_front(lo, lo->spec->loss[i].in.from[k].node, lo->spec->loss[i].in.from[k].loc);
  for (int i = 0; i < lo->spec->nmetric; i++)
    for (int k = 0; k < lo->spec->metric[i].in.n; k++)
      check_front(lo, lo->spec->metric[i].in.from[k].node, lo->spec->metric[i].in.from[k].loc);
}

Value *lower_value(Lower *lo, const Node *n, Loc loc) {
  if (n->type && lo->imag[n->index] && !lo->failed) {
    diag_error(builder_diag(lo->b), loc, 312,
               "dtypes do not fit: '%s' is complex, here real numbers are read", n->name);
    diag_hint(builder_diag(lo->b), "take real, imag, abs or view_as_real of it");
    lo->failed = true;
  }
  return n->type ? lo->value[n->index] : lo->input[-1 - n->index];
}

static void build_predict(Lower *lo, Tensors *t) {
  const Model *m = &lo->spec->model;
  Builder *b = lo->b;
  begin(lo, t, "predict", false);
  forward(lo);
  for (int i = 0; i < m->noutput && !lo->failed && !builder_failed(b); i++) {
    Value *v = lower_value(lo, m->output[i], m->output[i]->loc);
    build_at(b, m->output[i]->loc, m->output[i]->name, NULL);
    Str name = str_fmt(builder_strings(b), "output.%s", m->output_name[i]);
    t->output[i] = build_tensor(b, name, type_with_dtype(builder_types(b), v->type, MPCC_F32),
                                ROLE_OUTPUT, m->output[i]->loc);
    build_write(b, t->output[i], build_cast(b, v, MPCC_F32));
  }
}

/* Random numbers of `init` have step -1, which no training step has. */
static void build_init(Lower *lo, const Tensors *t) {
  Builder *b = lo->b;
  build_func(b, "init");
  lo->seed = NULL;
  build_at(b, (Loc){0}, str_c(builder_strings(b), ""), NULL);
  Value *step = build_const(b, -1, MPCC_I64);
  for (int i = 0; i < lo->nparam; i++) {
    LoweredParam *p = &lo->param[i];
    build_at(b, p->tensor->loc, p->tensor->name, NULL);
    bool random = p->init.kind != INIT_CONSTANT;
    int64_t stream = random ? lower_stream(lo, p->tensor->name) : 0;
    Value *seed = random ? lower_seed(lo) : NULL;
    build_write(b, p->tensor, init_build(b, &p->init, p->tensor->type, seed, step, stream));
  }
  for (int i = 0; i < lo->nbuffer; i++) {
    const LoweredBuffer *p = &lo->buffer[i];
    const Type *ty = p->tensor->type;
    build_at(b, p->tensor->loc, p->tensor->name, NULL);
    Value *v = build_const(b, p->init, ty->dt);
    Attr shape = attr_ints(b, "shape", ty->rank, ty->dim);
    if (ty->rank)
      v = build_op(b, OP_expand, 1, &v, 1, &shape)->out[0];
    build_write(b, p->tensor, v);
  }
  build_at(b, (Loc){0}, str_c(builder_strings(b), ""), NULL);
  for (int i = 0; i < 3; i++)
    build_write(b, t->counter[i], build_const(b, 0, MPCC_I64));
}

/* ---- tensors and attributes ---- */

static const Type *scalar_type(Lower *lo, DType dt) {
  return type_get(builder_types(lo->b), dt, 0, NULL);
}

/* Data field bound to a model input or target; several columns are joined by newlines. */
static Str field_of(const Spec *s, Str name) {
  const Val *fields = val_get(s->root, "data.fields"), *v = NULL;
  for (int i = 0; fields && fields->kind == VAL_MAP && i < fields->n; i++)
    if (fields->key[i] == name)
      v = fields->item[i];
  if (!v)
    return name;
  if (v->kind != VAL_LIST)
    return v->s;
  Text t = {0};
  for (int i = 0; i < v->n; i++)
    text_printf(&t, "%s%s", i ? "\n" : "", v->item[i]->s);
  return text_take(s->c.a, s->c.s, &t);
}

/* Whether the format of the training samples has the field; formats whose files name their fields
 * are asked when the files are open. */
static bool check_field(Lower *lo, Loc loc, Str name, Str field) {
  Str format = val_get_str(lo->spec->root, "data.train.format", "");
  const SchemaRow *row = schema_find(NULL, "data source", format);
  size_t len = strlen(field);
  if (!row || !*row->range)
    return true;
  for (const char *p = row->range; (p = strstr(p, field)); p += len ? len : 1)
    if (len && (p == row->range || p[-1] == ' ') && (!p[len] || p[len] == ' '))
      return true;
  diag_error(builder_diag(lo->b), loc, 344, "data has no field '%s' for '%s'", field, name);
  diag_hint(builder_diag(lo->b),
            "samples of format %s have: %s; bind one with data: {fields: {%s: %.*s}}", format,
            row->range, name, (int)strcspn(row->range, " "), row->range);
  lo->failed = true;
  return false;
}

/* Labels of image formats are one class number a sample: a loss that asks for more is told here,
 * where the place in the spec is known, not when the files are open. */
static bool check_label(Lower *lo, const Source *from, Str field, const Type *type) {
  const SchemaRow *row =
      schema_find(NULL, "data source", val_get_str(lo->spec->root, "data.train.format", ""));
  bool label = !strcmp(field, "label") || !strcmp(field, "coarse_label");
  if (!row || !*row->range || !label || type->rank == 1)
    return true;
  Text shape = {0};
  for (int i = 1; i < type->rank; i++)
    text_printf(&shape, ", %lld", (long long)type->dim[i]);
  diag_error(builder_diag(lo->b), from->loc, 311,
             "shapes do not fit: '%s' is [N], one class a sample; the loss or metric compares it "
             "with [N%s]",
             from->name, text_take(builder_arena(lo->b), builder_strings(lo->b), &shape));
  diag_hint(builder_diag(lo->b), "is a Flatten or a pooling missing before the last layer?");
  lo->failed = true;
  return false;
}

Value *lower_field(Lower *lo, const Source *from, const Type *type, int64_t classes,
                   int64_t ignore) {
  Builder *b = lo->b;
  LoweredField *f = lo->field;
  while (f && f->name != from->name)
    f = f->next;
  if (!f) {
    Str field = field_of(lo->spec, from->name);
    f = ARENA_NEW(builder_arena(b), LoweredField);
    if (!f || !check_field(lo, from->loc, from->name, field) || !check_label(lo, from, field, type))
      return build_const(b, 0, type->dt);
    *f = (LoweredField){.name = from->name, .next = lo->field};
    lo->field = f;
    f->tensor = build_tensor(b, str_fmt(builder_strings(b), "io.%s", from->name), type, ROLE_INPUT,
                             from->loc);
    build_tensor_attr(b, f->tensor, attr_s(b, "field", field));
    if (dtype_is_float(type->dt))
      build_tensor_attr(b, f->tensor, attr_i(b, "target", 1)); /* transforms leave its values */
    if (classes) {
      build_tensor_attr(b, f->tensor, attr_i(b, "classes", classes));
      build_tensor_attr(b, f->tensor, attr_i(b, "ignore_index", ignore));
    }
  } else if (f->tensor->type->dt != type->dt || !type_same_shape(f->tensor->type, type)) {
    diag_error(builder_diag(lo->b), from->loc, 311,
               "shapes do not fit: data field '%s' is used with two shapes or formats", from->name);
    diag_note(builder_diag(lo->b), f->tensor->loc, "the other use");
    lo->failed = true;
    return build_const(b, 0, type->dt);
  }
  if (!f->read)
    f->read = build_read(b, f->tensor);
  return f->read;
}

static void declare_inputs(Lower *lo, Tensors *t) {
  const Spec *s = lo->spec;
  const Model *m = &s->model;
  Builder *b = lo->b;
  t->input = ARENA_ARRAY(builder_arena(b), Tensor *, m->ninput + 1);
  if (arena_failed(builder_arena(b)))
    return;
  for (int i = 0; i < m->ninput; i++) {
    const Node *n = m->input[i];
    int64_t dim[MAX_RANK] = {lo->batch};
    for (int k = 0; k < n->shape->n; k++)
      dim[1 + k] = n->shape->item[k]->i;
    Str field = field_of(s, n->name);
    check_field(lo, n->loc, n->name, field);
    Str region = val_get_str(s->root, "precision.regions.transforms", NULL);
    DType wide = region && !strcmp(region, "64-true") ? MPCC_F64 : MPCC_F32;
    DType dt = strcmp(val_get_str(n->args, "dtype", "float32"), "float32") ? MPCC_I64 : wide;
    t->input[i] =
        build_tensor(b, str_fmt(builder_strings(b), "io.%s", n->name),
                     type_get(builder_types(b), dt, 1 + n->shape->n, dim), ROLE_INPUT, n->loc);
    build_tensor_attr(b, t->input[i], attr_s(b, "field", field));
    if (region && dtype_is_float(dt))
      build_tensor_attr(b, t->input[i], attr_i(b, "transformed", 1));
  }
}

static void declare_io(Lower *lo, Tensors *t) {
  const Spec *s = lo->spec;
  Builder *b = lo->b;
  declare_inputs(lo, t);
  t->output = ARENA_ARRAY(builder_arena(b), Tensor *, s->model.noutput + 1);
  if (arena_failed(builder_arena(b)))
    return;
  Loc loc = val_get(s->root, "loss")->loc;
  t->valid = build_tensor(b, "io.valid", scalar_type(lo, MPCC_I64), ROLE_VALID, (Loc){0});
  lo->valid_tensor = t->valid;
  lo->seed_tensor = build_tensor(b, "io.seed", scalar_type(lo, MPCC_I64), ROLE_SEED, (Loc){0});
  t->loss_sum = build_tensor(b, "metric.loss_sum", scalar_type(lo, MPCC_F32), ROLE_METRIC, loc);
  t->weight_sum = build_tensor(b, "metric.weight_sum", scalar_type(lo, MPCC_F32), ROLE_METRIC, loc);
  const char *const counters[3] = {"count.seen", "count.taken", "count.skipped"};
  for (int i = 0; i < 3; i++)
    t->counter[i] = build_tensor(b, counters[i], scalar_type(lo, MPCC_I64), ROLE_COUNTER, (Loc){0});
  lo->seen_tensor = t->counter[0];
}

/* recompute.<i> = "full h.0": how the layers under h.0 are kept for backward. */
static void region_attrs(Builder *b, const Model *m) {
  char key[48];
  int i = 0;
  for (const Region *r = m->region; r; r = r->next) {
    snprintf(key, sizeof key, "recompute.%d", i++);
    Str value = str_fmt(builder_strings(b), "%s %s", r->mode, r->prefix);
    build_module_attr(b, attr_s(b, key, value));
  }
}

/* IR's name of a spec's dtype word; f32 where none is said. */
static const char *ir_dtype(const char *word) {
  DType d = dtype_from_torch(word);
  return dtype_text(d == MPCC_DTYPE_COUNT ? MPCC_F32 : d);
}

/* Fields that the recipe has, under their own names. */
static void recipe_attrs(Builder *b, const Val *v) {
  const RecipeInfo *r = v ? recipe_named(val_get_str(v, "name", "DelayedScaling")) : NULL;
  if (!r)
    return;
  build_module_attr(b, attr_s(b, "recipe", r->name));
  if (strcmp(r->format, "E2M1"))
    build_module_attr(b, attr_s(b, "fp8_format", val_get_str(v, "fp8_format", r->format)));
  for (int i = 0; i < v->n; i++) {
    const Val *x = v->item[i];
    if (!recipe_has_key(r, v->key[i]) || !strcmp(v->key[i], "fp8_format"))
      continue;
    if (x->kind == VAL_STR)
      build_module_attr(b, attr_s(b, v->key[i], x->s));
    else if (x->kind == VAL_INT)
      build_module_attr(b, attr_i(b, v->key[i], x->i));
    else if (x->kind == VAL_BOOL && strcmp(v->key[i], "reduce_amax"))
      build_module_attr(b, attr_i(b, v->key[i], x->i));
  }
}

static void precision_attrs(Builder *b, const Val *p) {
  static const char *const same[] = {"mode",     "policy",         "compat",
                                     "residual", "master_weights", "float32_matmul",
                                     "float32_conv", "update_rounding"};
  static const char *const scaler[] = {"init_scale", "growth_factor", "backoff_factor",
                                       "min_scale"};
  char key[64], path[64];
  for (size_t i = 0; i < sizeof same / sizeof *same; i++)
    if (val_get_str(p, same[i], NULL))
      build_module_attr(b, attr_s(b, same[i], val_get_str(p, same[i], NULL)));
  static const char *const regions[] = {"optimizer", "transforms"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "regions.%s", regions[i]);
    snprintf(key, sizeof key, "region_%s", regions[i]);
    if (val_get_str(p, path, NULL))
      build_module_attr(b, attr_s(b, key, val_get_str(p, path, NULL)));
  }
  if (val_get_str(p, "weights_dtype", NULL))
    build_module_attr(b,
                      attr_s(b, "weights_dtype", ir_dtype(val_get_str(p, "weights_dtype", ""))));
  if (val_get_str(p, "fallback_compute_dtype", NULL))
    build_module_attr(
        b, attr_s(b, "fallback_dtype", ir_dtype(val_get_str(p, "fallback_compute_dtype", ""))));
  recipe_attrs(b, val_get(p, "recipe"));
  build_module_attr(b, attr_i(b, "scaler", precision_scales(p)));
  if (!precision_scales(p))
    return;
  for (size_t i = 0; i < sizeof scaler / sizeof *scaler; i++) {
    snprintf(path, sizeof path, "grad_scaler.%s", scaler[i]);
    snprintf(key, sizeof key, "scaler_%s", scaler[i]);
    build_module_attr(b, attr_f(b, key, val_get_float(p, path, 1)));
  }
  if (val_get_bool(p, "grad_scaler.static", false))
    build_module_attr(b, attr_i(b, "scaler_static", 1));
  build_module_attr(
      b, attr_i(b, "scaler_growth_interval", val_get_int(p, "grad_scaler.growth_interval", 2000)));
}

/* Hyperparameters of group k from a map that has them all. */
static void group_attrs(Builder *b, int k, const Val *v) {
  char key[64];
  for (int i = 0; i < v->n; i++) {
    const Val *x = v->item[i];
    snprintf(key, sizeof key, "group.%d.%s", k, v->key[i]);
    if (x->kind == VAL_FLOAT)
      build_module_attr(b, attr_f(b, key, x->f));
    else if (x->kind == VAL_BOOL)
      build_module_attr(b, attr_b(b, key, x->i != 0));
    else if (x->kind == VAL_LIST && !strcmp(v->key[i], "betas"))
      for (int n = 0; n < 2; n++) {
        snprintf(key, sizeof key, "group.%d.beta%d", k, n + 1);
        build_module_attr(b, attr_f(b, key, x->item[n]->f));
      }
  }
}

static void module_attrs(Lower *lo) {
  Builder *b = lo->b;
  const Val *root = lo->spec->root, *optimizer = val_get(root, "optimizer");
  build_module_attr(b, attr_s(b, "name", spec_name(lo->spec)));
  build_module_attr(b, attr_s(b, "mpcc", MPCC_VERSION));
  precision_attrs(b, val_get(root, "precision"));
  region_attrs(b, &lo->spec->model);
  if (lo->spec->idle)
    build_module_attr(b, attr_s(b, "idle", lo->spec->idle));
  build_module_attr(b, attr_i(b, "batch", lo->batch));
  build_module_attr(
      b, attr_i(b, "accumulate", val_get_int(root, "trainer.accumulate_grad_batches", 1)));
  double clip = val_get_float(root, "trainer.gradient_clip_val", 0);
  Str algorithm = val_get_str(root, "trainer.gradient_clip_algorithm", "norm");
  build_module_attr(b, attr_s(b, "clip_algorithm", clip > 0 ? algorithm : "none"));
  build_module_attr(b, attr_f(b, "clip_val", clip));
  static const char *const limits[] = {"loss_zscore", "grad_norm_zscore"};
  for (int i = 0; i < 2; i++) {
    double z =
        val_get_float(root, str_fmt(lo->spec->c.s, "trainer.skip_outliers.%s", limits[i]), 0);
    if (z > 0)
      build_module_attr(b, attr_f(b, str_fmt(lo->spec->c.s, "skip_%s", limits[i]), z));
  }
  build_module_attr(b, attr_s(b, "optimizer", val_get_str(optimizer, "type", "SGD")));
  double decay = val_get_float(root, "ema.decay", 0);
  if (decay > 0) {
    build_module_attr(b, attr_f(b, "ema_decay", decay));
    build_module_attr(b, attr_i(b, "ema_every_n_steps", val_get_int(root, "ema.every_n_steps", 1)));
  }
  if (lo->spec->cycles_momentum)
    build_module_attr(b, attr_i(b, "cycle_momentum", 1));
  group_attrs(b, 0, optimizer);
  const Val *groups = val_get(optimizer, "param_groups");
  for (int i = 0; i < groups->n; i++)
    group_attrs(b, i + 1, groups->item[i]);
}

/* ---- facts the spec claims ---- */

/* Nearest parameter names of an unmatched pattern, as its hint. */
static void nearest_params(Lower *lo, const char *pattern) {
  Builder *b = lo->b;
  const char **known = ARENA_ARRAY(builder_arena(b), const char *, lo->nparam + 1);
  if (arena_failed(builder_arena(b)))
    return;
  for (int i = 0; i < lo->nparam; i++)
    known[i] = lo->param[i].tensor->name;
  const char *near = diag_suggest(pattern, known, (size_t)lo->nparam);
  if (near)
    diag_hint(builder_diag(b), "nearest name: '%s'", near);
  else
    diag_hint(builder_diag(b),
              "patterns match full parameter names: * within a part, ** any parts");
}

static bool any_param(const Lower *lo, const char *pattern) {
  for (int i = 0; i < lo->nparam; i++)
    if (glob_match(pattern, lo->param[i].tensor->name))
      return true;
  return false;
}

static void check_groups(Lower *lo) {
  const Val *groups = val_get(lo->spec->root, "optimizer.param_groups");
  Diag *d = builder_diag(lo->b);
  for (int i = 0; groups && i < groups->n; i++) {
    const Val *g = groups->item[i], *match = val_get(g, "match");
    int before = diag_errors(d);
    for (int k = 0; match && match->kind == VAL_LIST && k < match->n; k++) {
      Str *pattern;
      const Check *c = &lo->spec->c;
      int n = glob_expand(c->a, c->s, match->item[k]->s, &pattern);
      if (!n)
        diag_error(d, match->item[k]->loc, 420, "pattern '%s' is not well formed",
                   match->item[k]->s);
      for (int p = 0; p < n; p++)
        if (!any_param(lo, pattern[p])) {
          diag_error(d, match->item[k]->loc, 422, "parameter group matches no parameter: '%s'",
                     pattern[p]);
          nearest_params(lo, pattern[p]);
        }
    }
    if (diag_errors(d) == before && !lo->group_use[i]) {
      diag_error(d, g->loc, 422, "parameter group has no parameter");
      diag_hint(d, "all that match belong to earlier groups; the first match wins");
    }
    lo->failed |= diag_errors(d) > before;
  }
}

static void check_expect(Lower *lo) {
  const Val *want = lo->spec->model.expect ? val_get(lo->spec->model.expect, "parameters") : NULL;
  int64_t n = 0;
  for (int i = 0; i < lo->nparam; i++)
    if (tensor_int(lo->param[i].tensor, "group", 0) >= 0)
      n += tensor_numel(lo->param[i].tensor);
  if (!want || want->kind != VAL_INT || want->i == n || lo->spec->defines)
    return;
  diag_error(builder_diag(lo->b), want->loc, 312, "the model has %lld parameters, not %lld",
             (long long)n, (long long)want->i);
  lo->failed = true;
}

static void build_all(Lower *lo) {
  Tensors t = {0};
  module_attrs(lo);
  declare_io(lo, &t);
  if (lo->failed || builder_failed(lo->b) || arena_failed(builder_arena(lo->b)))
    return;
  for (int train = 1; train >= 0; train--) {
    begin(lo, &t, train ? "train_forward" : "eval_forward", train);
    forward(lo);
    if (lo->failed || builder_failed(lo->b))
      return;
    losses_build(lo, t.valid, t.loss_sum, t.weight_sum);
    if (!lo->failed)
      metrics_build(lo, t.valid);
  }
  check_groups(lo);
  check_expect(lo);
  build_predict(lo, &t);
  build_init(lo, &t);
}

/* Lowering state over a new builder; false when memory is short. */
static bool begin_lower(Lower *lo, const Spec *s, StrTable *strings, Diag *d) {
  const Val *groups = val_get(s->root, "optimizer.param_groups");
  *lo = (Lower){.spec = s, .b = builder_create(strings, d, STAGE_FORWARD)};
  if (!lo->b)
    return false;
  Arena *a = builder_arena(lo->b);
  lo->batch = val_get_int(s->root, "data.loader.batch_size", 1);
  lo->input = ARENA_ARRAY(a, Value *, s->model.ninput + 1);
  lo->value = ARENA_ARRAY(a, Value *, s->model.nnode + 1);
  lo->batch_axis = ARENA_ARRAY(a, int, s->model.nnode + 1);
  lo->imag = ARENA_ARRAY(a, Value *, s->model.nnode + 1);
  lo->group_use = ARENA_ARRAY(a, int, (groups ? groups->n : 0) + 1);
  return !arena_failed(a);
}

void lower_shapes(const Spec *s, StrTable *strings, Diag *d) {
  Lower lo;
  Tensors t = {0};
  if (begin_lower(&lo, s, strings, d)) {
    declare_inputs(&lo, &t);
    if (!arena_failed(builder_arena(lo.b))) {
      lo.seed_tensor =
          build_tensor(lo.b, "io.seed", scalar_type(&lo, MPCC_I64), ROLE_SEED, (Loc){0});
      lo.seen_tensor =
          build_tensor(lo.b, "count.seen", scalar_type(&lo, MPCC_I64), ROLE_COUNTER, (Loc){0});
      begin(&lo, &t, "shapes", false);
      lo.failed = false; /* a wrong field is no misfit */
      forward(&lo);
    }
  }
  if (lo.b)
    builder_destroy(lo.b);
}

Status spec_lower(const Spec *s, StrTable *strings, Diag *d, Module **out) {
  *out = NULL;
  Lower lo;
  if (begin_lower(&lo, s, strings, d))
    build_all(&lo);
  if (!lo.b)
    return MPCC_ERR_NOMEM;
  source_notes(d, &s->parents);
  if (lo.failed) {
    builder_destroy(lo.b);
    return MPCC_ERR_INPUT;
  }
  return builder_finish(lo.b, out);
}
