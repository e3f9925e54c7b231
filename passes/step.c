/* step: from one differentiated forward pass to the functions a training program calls.
 *
 *   train_forward --+-- micro_first   overwrite accumulators     \  one optimizer step over
 *                   +-- micro_next    add to them                 > `accumulate` micro-batches
 *                   |   update_step   unscale, clip, optimizer   /
 *                   +-- train_step    first + update, nothing goes through the accumulators
 *                   +-- calibrate     FP8: scales from this batch, nothing else changes
 *   eval_forward ------ eval_step
 *   state ------------- refresh       every derived tensor
 *
 * Trained parameters of optimizer group k become views of flat.<k>, as do their gradients, moments
 * and low-precision copies, at the same element offsets: the optimizer is one kernel per group.
 * Every parameter starts at a multiple of 64 elements; what lies between is zero and stays zero
 * (segments start zeroed; a zero gradient and a zero parameter give a zero update).
 * Stage train to step. Rules N5 to N8, N11, N12. */
#include <stdio.h>
#include <string.h>

#include "passes/step.h"

double step_group_number(const Step *s, int group, const char *key, double otherwise) {
  char name[96];
  snprintf(name, sizeof name, "group.%d.%s", s->group[group].index, key);
  return module_number(s->in, name, otherwise);
}

void step_at(Step *s, const char *why) {
  StrTable *st = builder_strings(s->b);
  build_at(s->b, (Loc){0}, str_c(st, ""), str_c(st, why));
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* The gradient of each parameter, by its index; NULL: none. */
static const Tensor **find_grads(const Module *m, Arena *a) {
  const Tensor **grad = ARENA_ARRAY(a, const Tensor *, m->ntensor + 1);
  for (int i = m->ntensor - 1; i >= 0 && !arena_failed(a); i--) {
    const Tensor *t = m->tensor[i];
    const Attr *of = t->role == ROLE_GRAD ? attr_find(t->attr, t->nattr, "of") : NULL;
    if (of && of->kind == AT_TENSOR)
      grad[of->u.tensor->index] = t;
  }
  return grad;
}

static Group *group_at(Step *s, int index) {
  for (int k = 0; k < s->ngroup; k++)
    if (s->group[k].index == index)
      return &s->group[k];
  Group *g = &s->group[s->ngroup++];
  g->index = index;
  g->member = ARENA_ARRAY(s->scratch, Member, s->in->ntensor + 1);
  return g;
}

static int by_index(const Group *a, const Group *b) {
  return a->index - b->index;
}

/* Parameters with a gradient, by attr `group`; groups in order of their number. */
static void collect_groups(Step *s) {
  const Module *in = s->in;
  const Tensor **grads = find_grads(in, s->scratch);
  s->group = ARENA_ARRAY(s->scratch, Group, in->ntensor + 1);
  for (int i = 0; i < in->ntensor && !arena_failed(s->scratch); i++) {
    const Tensor *t = in->tensor[i];
    const Tensor *grad = t->role == ROLE_PARAM ? grads[i] : NULL;
    if (!grad)
      continue;
    Group *g = group_at(s, (int)tensor_int(t, "group", 0));
    if (arena_failed(s->scratch))
      return;
    int64_t n = type_elems(t->type), room = (n + FLAT_ALIGN - 1) / FLAT_ALIGN * FLAT_ALIGN;
    g->member[g->nmember++] = (Member){t, grad, NULL, NULL, g->elems, n, room};
    g->elems += room;
  }
  for (int i = 1; i < s->ngroup; i++)
    for (int j = i; j > 0 && by_index(&s->group[j - 1], &s->group[j]) > 0; j--) {
      Group g = s->group[j];
      s->group[j] = s->group[j - 1];
      s->group[j - 1] = g;
    }
}

/* ---- tensors --------------------------------------------------------------------------------- */

static Tensor *flat_tensor(Step *s, const Group *g, const char *what, DType dt, Role role) {
  const Type *ty = type_get(builder_types(s->b), dt, 1, &g->elems);
  Str name = str_fmt(builder_strings(s->b), what, g->index);
  Tensor *t = build_tensor(s->b, name, ty, role, (Loc){0});
  build_tensor_attr(s->b, t, attr_i(s->b, "flat", g->index));
  return t;
}

static void declare_views(Step *s, Group *g) {
  Builder *b = s->b;
  for (int i = 0; i < g->nmember; i++) {
    Member *m = &g->member[i];
    const Type *ty =
        type_get(builder_types(b), g->flat->type->dt, m->param->type->rank, m->param->type->dim);
    m->view = copy_tensor(b, m->param, m->param->name, ty, g->flat, m->at, NULL);
    s->tensors[m->param->index] = m->view;
    if (!s->micro)
      continue;
    m->grad_view =
        build_tensor_view(b, m->grad->name, type_with_dtype(builder_types(b), ty, s->accum),
                          ROLE_GRAD, g->grad, m->at, m->grad->loc);
    build_tensor_attr(b, m->grad_view, attr_t(b, "of", m->view));
    s->tensors[m->grad->index] = m->grad_view;
  }
}

static void declare_moments(Step *s, Group *g) {
  Builder *b = s->b;
  for (int k = 0; k < s->nmoment; k++) {
    const char *kind = s->moment[k]->name;
    DType dt = optim_moment_dtype(s, k);
    Str name = str_fmt(builder_strings(b), "flat.%d.%s", g->index, kind);
    g->moment[k] =
        build_tensor(b, name, type_get(builder_types(b), dt, 1, &g->elems), ROLE_MOMENT, (Loc){0});
    build_tensor_attr(b, g->moment[k], attr_i(b, "flat", g->index));
    build_tensor_attr(b, g->moment[k], attr_s(b, "kind", kind));
    if (s->moment[k]->square)
      build_tensor_attr(b, g->moment[k], attr_b(b, "square", true));
    for (int i = 0; i < g->nmember; i++) {
      const Member *m = &g->member[i];
      name = str_fmt(builder_strings(b), "optim.%s.%s", m->param->name, kind);
      Tensor *t = build_tensor_view(b, name, type_with_dtype(builder_types(b), m->view->type, dt),
                                    ROLE_MOMENT, g->moment[k], m->at, m->param->loc);
      build_tensor_attr(b, t, attr_t(b, "of", m->view));
      build_tensor_attr(b, t, attr_s(b, "kind", kind));
    }
  }
}

static Tensor *named_or_new(Step *s, const char *name, DType dt, Role role) {
  const Tensor *t = module_tensor(s->in, name);
  if (t)
    return s->tensors[t->index];
  return build_tensor(s->b, name, type_get(builder_types(s->b), dt, 0, NULL), role, (Loc){0});
}

/* sum.<metric> for every metric that train_forward writes. */
static void declare_sums(Step *s) {
  const Func *f = module_func(s->in, "train_forward");
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    const Tensor *t = op->code == OP_write ? op_attr(op, "tensor")->u.tensor : NULL;
    if (!t || t->role != ROLE_METRIC)
      continue;
    const char *dot = strchr(t->name, '.');
    Str name = str_fmt(builder_strings(s->b), "sum.%s", dot ? dot + 1 : t->name);
    const Type *ty = type_get(builder_types(s->b), t->type->dt, t->type->rank, t->type->dim);
    s->sum[t->index] = build_tensor(s->b, name, ty, ROLE_SUM, t->loc);
  }
}

static void declare_state(Step *s) {
  Builder *b = s->b;
  s->seen = named_or_new(s, "count.seen", MPCC_I64, ROLE_COUNTER);
  s->taken = named_or_new(s, "count.taken", MPCC_I64, ROLE_COUNTER);
  s->skipped = named_or_new(s, "count.skipped", MPCC_I64, ROLE_COUNTER);
  if (s->scaler) {
    s->scale = named_or_new(s, "scaler.scale", MPCC_F32, ROLE_SCALER);
    s->tracker = named_or_new(s, "scaler.growth_tracker", MPCC_I64, ROLE_SCALER);
  }
  outlier_declare(s);
  s->norm_metric = named_or_new(s, "metric.grad_norm", s->mode.math, ROLE_METRIC);
  s->scale_metric = named_or_new(s, "metric.scale", MPCC_F32, ROLE_METRIC);
  s->finite_metric = named_or_new(s, "metric.finite", MPCC_F32, ROLE_METRIC);
  int n;
  Str columns = optim_columns(s, &n);
  const int64_t dim[2] = {4096, n};
  s->table = build_tensor(b, "io.table", type_get(builder_types(b), MPCC_F64, 2, dim), ROLE_TABLE,
                          (Loc){0});
  build_tensor_attr(b, s->table, attr_s(b, "columns", columns));
}

static Status declare_tensors(Step *s) {
  const Module *in = s->in;
  Builder *b = s->b;
  s->tensors = ARENA_ARRAY(builder_arena(b), Tensor *, in->ntensor + 1);
  s->sum = ARENA_ARRAY(s->scratch, Tensor *, in->ntensor + 1);
  if (arena_failed(builder_arena(b)) || arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  for (int k = 0; k < s->ngroup; k++) {
    Group *g = &s->group[k];
    g->flat = flat_tensor(s, g, "flat.%d", s->mode.param, ROLE_PARAM);
    if (s->micro)
      g->grad = flat_tensor(s, g, "grad.flat.%d", s->accum, ROLE_GRAD);
    declare_views(s, g);
  }
  for (int i = 0; i < in->ntensor; i++) {
    const Tensor *t = in->tensor[i];
    if (s->tensors[i] || (!s->micro && (t->role == ROLE_GRAD || t->role == ROLE_SUM)))
      continue;
    const Type *ty = type_get(builder_types(b), t->type->dt, t->type->rank, t->type->dim);
    Tensor *base = t->base ? s->tensors[t->base->index] : NULL;
    s->tensors[i] = copy_tensor(b, t, t->name, ty, base, t->base_elem, s->tensors);
  }
  for (int k = 0; k < s->ngroup; k++)
    declare_moments(s, &s->group[k]);
  declare_state(s);
  if (s->micro)
    declare_sums(s);
  return MPCC_OK;
}

/* ---- FP8 state ------------------------------------------------------------------------------- */

/* New scale of one direction from this step's amax; NULL without FP8. */
static Value *roll(Step *s, const char *direction, Value *amax, bool keep_history) {
  Builder *b = s->b;
  StrTable *st = builder_strings(b);
  const Tensor *h = module_tensor(s->in, str_fmt(st, "fp8.%s.amax_history", direction));
  const Tensor *sc = module_tensor(s->in, str_fmt(st, "fp8.%s.scale", direction));
  if (!h || !sc || !amax)
    return NULL;
  step_at(s, "fp8: histories roll, scales follow");
  DType format = dtype_from_text(tensor_str(sc, "format", "e4m3"));
  Tensor *history = s->tensors[h->index], *scale = s->tensors[sc->index];
  Attr attr[3] = {attr_f(b, "fp8_max", dtype_info(format)->max_finite),
                  attr_f(b, "margin", module_number(s->in, "margin", 0)),
                  attr_s(b, "algo", module_str(s->in, "amax_compute_algo", "max"))};
  Value *in[3] = {build_read(b, history), amax, build_read(b, scale)};
  Op *op = build_op(b, OP_fp8_update, 3, in, 3, attr);
  if (!keep_history)
    build_write(b, history, op->out[0]);
  build_write(b, scale, op->out[1]);
  return op->out[1];
}

static Value *written(const Step *s, const Micro *m, const char *name) {
  const Tensor *t = module_tensor(s->in, name);
  return t ? m->written[t->index] : NULL;
}

static void roll_both(Step *s, const Micro *m, bool keep_history, NewState *now) {
  now->scale_forward = roll(s, "forward", written(s, m, "sum.fp8.forward.amax"), keep_history);
  now->scale_backward = roll(s, "backward", written(s, m, "sum.fp8.backward.amax"), keep_history);
}

/* ---- the update ------------------------------------------------------------------------------ */

/* grad[k]: flat gradients, scaled by S / capacity. m: sums of the step by old tensor index. */
static Status emit_update(Step *s, Value *const *grad, const Micro *m, bool rolls) {
  Builder *b = s->b;
  Value *loss = written(s, m, "metric.loss_sum"), *weight = written(s, m, "metric.weight_sum");
  if (!loss || !weight) {
    diag_error(s->diag, (Loc){0}, 594,
               "train_forward must write metric.loss_sum and metric.weight_sum");
    return MPCC_ERR_INTERNAL;
  }
  NewState now = {.flat = ARENA_ARRAY(s->scratch, Value *, s->ngroup + 1)};
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  Value *factor = lossscale_factor(s, weight);
  const Saturating codes = {
      {written(s, m, "sum.fp8.forward.amax"), written(s, m, "sum.fp8.backward.amax")}};
  Clip clip = clip_gradients(s, grad, factor, loss, &codes);
  clip.ok = outlier_accept(s, &clip, loss, weight);
  optim_update(s, &clip, grad, now.flat);
  lossscale_update(s, grad, &codes);
  if (rolls)
    roll_both(s, m, false, &now);
  derived_write(s, DERIVED_TRAINED, &now);
  step_at(s, "metrics");
  build_write(b, s->norm_metric, build_cast(b, clip.norm, s->norm_metric->type->dt));
  build_write(b, s->scale_metric, lossscale_scale(s));
  build_write(b, s->finite_metric, build_cast(b, clip.finite, MPCC_F32));
  for (int i = 0; i < s->in->ntensor; i++)
    if (s->in->tensor[i]->role == ROLE_METRIC && m->written[i])
      build_write(b, s->tensors[i], build_cast(b, m->written[i], s->tensors[i]->type->dt));
  return MPCC_OK;
}

/* The gradients of one group as one flat value, zero between the parameters. */
static Value *flatten(Step *s, const Group *g, const Micro *m) {
  Builder *b = s->b;
  Value **in = ARENA_ARRAY(s->scratch, Value *, g->nmember + 1);
  int64_t *starts = ARENA_ARRAY(s->scratch, int64_t, g->nmember + 1);
  if (arena_failed(s->scratch))
    return build_const(b, 0, s->mode.grad);
  step_at(s, "gradients of a group side by side");
  for (int i = 0; i < g->nmember; i++) {
    const Member *e = &g->member[i];
    in[i] = build_reshape(b, m->written[e->grad->index], 1, &e->elems);
    starts[i] = e->at;
  }
  Attr attr[3] = {attr_i(b, "dim", 0), attr_ints(b, "starts", g->nmember, starts),
                  attr_i(b, "size", g->elems)};
  return build_op(b, OP_cat, g->nmember, in, 3, attr)->out[0];
}

/* ---- functions ------------------------------------------------------------------------------- */

static bool writes(const Func *f, const Tensor *t) {
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_write && op_attr(f->op[i], "tensor")->u.tensor == t)
      return true;
  return false;
}

static void init_scalar(Step *s, const Func *init, Tensor *t, double v) {
  const Tensor *old = module_tensor(s->in, t->name);
  if (!old || !writes(init, old))
    build_write(s->b, t, build_const(s->b, v, t->type->dt));
}

static Status emit_init(Step *s) {
  Builder *b = s->b;
  const Func *f = module_func(s->in, "init");
  Copier c = {.b = b, .tensors = s->tensors};
  build_func(b, "init");
  c.map = ARENA_ARRAY(s->scratch, Value *, f->nvalue + 1);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  for (int i = 0; i < f->nop && !builder_failed(b); i++)
    copier_op(&c, f->op[i]);
  step_at(s, "state of the step");
  for (int k = 0; k < s->ngroup; k++)
    for (int j = 0; j < s->nmoment; j++) {
      Tensor *t = s->group[k].moment[j];
      build_write(b, t, build_filled(b, t->type, optim_moment_start(s, k, j)));
    }
  init_scalar(s, f, s->seen, 0);
  init_scalar(s, f, s->taken, 0);
  init_scalar(s, f, s->skipped, 0);
  if (s->scaler) {
    init_scalar(s, f, s->scale, module_number(s->in, "scaler_init_scale", 65536));
    init_scalar(s, f, s->tracker, 0);
  }
  for (int i = 0; i < s->in->ntensor; i++) {
    Tensor *t = s->tensors[i];
    if (t && t->role == ROLE_AMAX)
      build_write(b, t, build_filled(b, t->type, 0));
    if (!t || t->role != ROLE_SCALE)
      continue;
    build_write(b, t, build_filled(b, t->type, 1));
  }
  return MPCC_OK;
}

static Status emit_micro(Step *s, MicroKind kind, const char *name) {
  Micro m;
  build_func(s->b, name);
  Status st = micro_forward(s, kind, &m);
  if (st != MPCC_OK)
    return st;
  micro_store(s, kind, &m);
  if (s->mode.lightning) {
    NewState now = {0};
    roll_both(s, &m, false, &now);
    derived_write(s, DERIVED_SCALED, &now);
  }
  return MPCC_OK;
}

static Status emit_update_step(Step *s) {
  Micro m = {ARENA_ARRAY(s->scratch, Value *, s->in->ntensor + 1)};
  Value **grad = ARENA_ARRAY(s->scratch, Value *, s->ngroup + 1);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  build_func(s->b, "update_step");
  step_at(s, "sums of the micro-batches");
  for (int i = 0; i < s->in->ntensor; i++) {
    if (s->sum[i])
      m.written[i] = build_read(s->b, s->sum[i]);
    else if (s->in->tensor[i]->role == ROLE_SUM && !s->mode.lightning)
      m.written[i] = build_read(s->b, s->tensors[i]);
  }
  for (int k = 0; k < s->ngroup; k++)
    grad[k] = build_read(s->b, s->group[k].grad);
  return emit_update(s, grad, &m, !s->mode.lightning);
}

static Status emit_train_step(Step *s) {
  Micro m;
  Value **grad = ARENA_ARRAY(s->scratch, Value *, s->ngroup + 1);
  if (arena_failed(s->scratch))
    return MPCC_ERR_NOMEM;
  build_func(s->b, "train_step");
  Status st = micro_forward(s, MICRO_STEP, &m);
  if (st != MPCC_OK)
    return st;
  step_count_seen(s);
  for (int k = 0; k < s->ngroup; k++)
    grad[k] = flatten(s, &s->group[k], &m);
  for (int i = 0; i < s->in->ntensor; i++) { /* running statistics and the like */
    Role role = s->in->tensor[i]->role;
    if (m.written[i] && role != ROLE_METRIC && role != ROLE_GRAD && role != ROLE_SUM)
      build_write(s->b, s->tensors[i], m.written[i]);
  }
  return emit_update(s, grad, &m, true);
}

static Status emit_calibrate(Step *s) {
  Micro m;
  NewState now = {0};
  build_func(s->b, "calibrate");
  Status st = micro_forward(s, MICRO_CALIBRATE, &m);
  if (st != MPCC_OK)
    return st;
  roll_both(s, &m, true, &now);
  derived_write(s, DERIVED_SCALED, &now);
  return MPCC_OK;
}

/* Bodies of loops hold no state: all functions made of one share them. */
static Status copy_loops(Step *s) {
  Copier c = {.b = s->b, .tensors = s->tensors};
  for (int i = 0; i < s->in->nfunc; i++) {
    const Func *f = s->in->func[i];
    if (!func_is_body(f))
      continue;
    build_func(s->b, f->name);
    c.map = ARENA_ARRAY(s->scratch, Value *, f->nvalue + 1);
    for (int k = 0; k < f->nop && !arena_failed(s->scratch) && !builder_failed(s->b); k++)
      copier_op(&c, f->op[k]);
  }
  return arena_failed(s->scratch) ? MPCC_ERR_NOMEM : MPCC_OK;
}

static Status emit_functions(Step *s) {
  static const struct {
    const char *from, *to;
  } copies[] = {{"eval_forward", "eval_step"}, {"predict", "predict"}};
  Status st = copy_loops(s);
  if (st == MPCC_OK)
    st = emit_init(s);
  if (st != MPCC_OK)
    return st;
  build_func(s->b, "refresh");
  derived_write(s, DERIVED_ALL, NULL);
  if (s->micro)
    st = emit_micro(s, MICRO_FIRST, "micro_first");
  if (st == MPCC_OK && s->micro)
    st = emit_micro(s, MICRO_NEXT, "micro_next");
  if (st == MPCC_OK && s->micro)
    st = emit_update_step(s);
  if (st == MPCC_OK)
    st = emit_train_step(s);
  bool calibrates =
      !s->mode.lightning && strcmp(module_str(s->in, "first_step", "calibrate"), "reference") != 0;
  if (st == MPCC_OK && calibrates && module_tensor(s->in, "fp8.forward.scale"))
    st = emit_calibrate(s);
  for (int i = 0; i < 2 && st == MPCC_OK; i++) {
    const Func *f = module_func(s->in, copies[i].from);
    if (f)
      st = step_copy_func(s, f, copies[i].to);
  }
  return st;
}

/* Where training begins to differentiate; NULL: there is no loss. */
static const Op *loss_seed(const Module *m) {
  const Func *f = module_func(m, "train_forward");
  for (int i = 0; f && i < f->nop; i++)
    if (f->op[i]->code == OP_loss_seed)
      return f->op[i];
  return NULL;
}

Status pass_step(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  Step s = {.in = in, .b = out, .diag = d};
  Status st = mode_get(in, d, &s.mode);
  if (st != MPCC_OK)
    return st;
  s.scaler = module_number(in, "scaler", 0) != 0;
  s.accumulate = (int64_t)module_number(in, "accumulate", 1);
  s.rounding_packs = o->caps && o->caps->rounding_packs;
  s.turned_codes = o->caps && o->caps->library_fp8;
  s.micro = s.accumulate > 1 || !o->called_only;
  const Op *seed = loss_seed(in);
  if (!seed || !module_func(in, "init")) {
    diag_error(d, (Loc){0}, 594, "step needs functions init and train_forward with a loss");
    return MPCC_ERR_INTERNAL;
  }
  s.capacity = op_int(seed, "capacity", 1) * s.accumulate;
  bool wide = s.accumulate > 1 && !s.mode.lightning;
  s.accum = wide ? s.mode.math : s.mode.grad;
  s.scratch = arena_create();
  if (!s.scratch)
    return MPCC_ERR_NOMEM;
  for (int i = 0; i < in->nattr; i++)
    build_module_attr(out, in->attr[i]);
  collect_groups(&s);
  st = arena_failed(s.scratch) ? MPCC_ERR_NOMEM : optim_named(&s);
  if (st == MPCC_OK && !s.ngroup) {
    diag_error(d, seed->loc, 197, "no parameter is trained: the loss depends on none");
    st = MPCC_ERR_INPUT;
  }
  if (st == MPCC_OK)
    st = declare_tensors(&s);
  if (st == MPCC_OK) {
    derived_collect(&s);
    st = arena_failed(s.scratch) ? MPCC_ERR_NOMEM : emit_functions(&s);
  }
  arena_destroy(s.scratch);
  return st;
}
