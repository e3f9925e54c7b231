/* The optimizers, over one flat tensor per parameter group. Arithmetic is FP32 (FP64 in 64-true)
 * whatever the storage [N12]; nothing is written when the step is not finite [N11]. Learning rate
 * and bias corrections come from the step table in f64, row taken mod 4096.
 * Sources: AdamW: Loshchilov and Hutter 2019, algorithm 2, in the order of torch.optim.AdamW;
 * SGD: torch.optim.SGD (PyTorch 2), momentum buffer initialised with the first gradient. */
#include <string.h>

#include "passes/step.h"

enum { TABLE_ROWS = 4096 };

static const Optimizer optimizers[] = {
    {"AdamW", 2, {"exp_avg", "exp_avg_sq"}},
    {"SGD", 1, {"momentum_buffer"}},
};

static bool is_adam(const Step *s) {
  return s->optimizer.nmoment == 2;
}

static bool is_sgd(const Step *s) {
  return !is_adam(s);
}

Status optim_named(Step *s) {
  const char *name = module_str(s->in, "optimizer", "SGD");
  for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++)
    if (!strcmp(optimizers[i].name, name)) {
      s->optimizer = optimizers[i];
      bool momentum = false;
      for (int k = 0; k < s->ngroup; k++)
        momentum |= step_group_number(s, k, "momentum", 0) != 0;
      if (is_sgd(s) && !momentum)
        s->optimizer.nmoment = 0;
      return MPCC_OK;
    }
  diag_error(s->diag, (Loc){0}, 195, "optimizer %s is not supported yet", name);
  return MPCC_ERR_INPUT;
}

/* State has the parameters' dtype; only Adam's second moment is FP32 in 16-true, where squares of
 * gradients below 0.005 would round to zero [N12]. */
DType optim_moment_dtype(const Step *s, int moment) {
  if (s->mode.param == DT_F16 && moment == 1 && !s->mode.lightning)
    return DT_F32;
  return s->mode.param;
}

Str optim_columns(Step *s, int *n) {
  Text t = {0};
  *n = 0;
  for (int k = 0; k < s->ngroup; k++) {
    int g = s->group[k].index; /* groups without trained parameters have no columns */
    text_printf(&t, is_adam(s) ? "%slr.%d bc1.%d bc2.%d" : "%slr.%d", k ? " " : "", g, g, g);
    *n += is_adam(s) ? 3 : 1;
  }
  Str r = str_intern(builder_strings(s->b), t.data ? t.data : "", t.len);
  text_fini(&t);
  return r;
}

/* This step's row of the table, f64[columns] */
static Value *table_row(Step *s) {
  Builder *b = s->b;
  step_at(s, "optimizer: row of the step table");
  Value *taken = build_cast(b, build_read(b, s->taken), DT_F64);
  Str text = str_fmt(builder_strings(b), "a - %d * floor(a / %d)", TABLE_ROWS, TABLE_ROWS);
  Value *in[2] = {build_cast(b, build_expr(b, text, DT_F64, 1, &taken), DT_I64),
                  build_read(b, s->table)};
  return build_op(b, OP_embedding, 2, in, 0, NULL)->out[0];
}

static Value *column(Step *s, Value *row, int i) {
  return build_reshape(s->b, build_slice(s->b, row, 0, i, i + 1), 0, NULL);
}

/* new when the step is applied, else old; stored as dt */
static Value *choose(Step *s, const Clip *c, Value *new_value, Value *old, DType dt) {
  Value *in[3] = {new_value, build_cast(s->b, old, s->mode.math), c->ok};
  return build_cast(s->b, build_expr(s->b, "c != 0 ? a : b", s->mode.math, 3, in), dt);
}

/* m += (g - m)(1 - beta1); v = v beta2 + (1 - beta2) g g;
 * p = p (1 - lr wd) - lr / bc1 * m / (sqrt(v) / bc2 + eps) */
static Value *adamw(Step *s, const Clip *c, int k, Value *p, Value *g, Value *row) {
  Builder *b = s->b;
  DType math = s->mode.math;
  StrTable *st = builder_strings(b);
  double beta1 = step_group_number(s, k, "beta1", 0.9);
  double beta2 = step_group_number(s, k, "beta2", 0.999);
  double eps = step_group_number(s, k, "eps", 1e-8);
  double decay = step_group_number(s, k, "weight_decay", 0.01);
  Group *gr = &s->group[k];
  Value *m0 = build_read(b, gr->moment[0]), *v0 = build_read(b, gr->moment[1]);
  Value *lr = column(s, row, 3 * k), *lr_bc1[2] = {lr, column(s, row, 3 * k + 1)};
  step_at(s, "optimizer: AdamW");
  Value *keep = build_expr(b, str_fmt(st, "1 - a * %.17g", decay), DT_F64, 1, &lr);
  Value *step = build_expr(b, "a / b", DT_F64, 2, lr_bc1);
  Value *m_in[2] = {build_cast(b, m0, math), g}, *v_in[2] = {build_cast(b, v0, math), g};
  /* torch's lerp takes the end that is nearer */
  Str lerp = 1 - beta1 < 0.5 ? str_fmt(st, "a + %.17g * (b - a)", 1 - beta1)
                             : str_fmt(st, "b - (b - a) * %.17g", beta1);
  Value *m = build_expr(b, lerp, math, 2, m_in);
  Value *v =
      build_expr(b, str_fmt(st, "a * %.17g + %.17g * b * b", beta2, 1 - beta2), math, 2, v_in);
  Value *in[6] = {build_cast(b, p, math),
                  m,
                  v,
                  build_cast(b, keep, math),
                  build_cast(b, step, math),
                  build_cast(b, column(s, row, 3 * k + 2), math)};
  Value *next =
      build_expr(b, str_fmt(st, "a * d - e * b / (sqrt(c) / f + %.17g)", eps), math, 6, in);
  build_write(b, gr->moment[0], choose(s, c, m, m0, gr->moment[0]->type->dt));
  build_write(b, gr->moment[1], choose(s, c, v, v0, gr->moment[1]->type->dt));
  return next;
}

/* g += wd p; buf = momentum buf + (1 - dampening) g; d = nesterov ? g + momentum buf : buf;
 * p -= lr d */
static Value *sgd(Step *s, const Clip *c, int k, Value *p, Value *g, Value *row) {
  Builder *b = s->b;
  DType math = s->mode.math;
  StrTable *st = builder_strings(b);
  double momentum = step_group_number(s, k, "momentum", 0);
  double dampening = step_group_number(s, k, "dampening", 0);
  double decay = step_group_number(s, k, "weight_decay", 0);
  Group *gr = &s->group[k];
  Value *lr = build_cast(b, column(s, row, k), math);
  step_at(s, "optimizer: SGD");
  p = build_cast(b, p, math);
  if (decay != 0)
    g = build_expr(b, str_fmt(st, "a + %.17g * b", decay), math, 2, (Value *[]){g, p});
  Value *d = g;
  if (s->optimizer.nmoment && momentum != 0) {
    Value *buf0 = build_read(b, gr->moment[0]);
    Value *in[3] = {build_cast(b, buf0, math), g, NULL};
    int nin = 2;
    Str text = str_fmt(st, "%.17g * a + %.17g * b", momentum, 1 - dampening);
    if (dampening != 0) { /* the first gradient enters whole */
      in[nin++] = build_cast(b, build_cast(b, build_read(b, s->taken), DT_F64), math);
      text = str_fmt(st, "c == 0 ? b : %.17g * a + %.17g * b", momentum, 1 - dampening);
    }
    Value *buf = build_expr(b, text, math, nin, in);
    build_write(b, gr->moment[0], choose(s, c, buf, buf0, gr->moment[0]->type->dt));
    d = buf;
    if (step_group_number(s, k, "nesterov", 0) != 0)
      d = build_expr(b, str_fmt(st, "a + %.17g * b", momentum), math, 2, (Value *[]){g, buf});
  }
  return build_expr(b, "a - b * c", math, 3, (Value *[]){p, lr, d});
}

void optim_update(Step *s, const Clip *c, Value *const *grad, Value **flat) {
  Builder *b = s->b;
  Value *row = table_row(s);
  for (int k = 0; k < s->ngroup; k++) {
    Group *gr = &s->group[k];
    step_at(s, "optimizer: unscaled and clipped gradient");
    Value *p = build_read(b, gr->flat), *g = clip_apply(s, c, grad[k]);
    Value *next = is_adam(s) ? adamw(s, c, k, p, g, row) : sgd(s, c, k, p, g, row);
    flat[k] = choose(s, c, next, p, gr->flat->type->dt);
    build_write(b, gr->flat, flat[k]);
  }
  step_at(s, "counters");
  Value *in[2] = {build_cast(b, build_read(b, s->taken), DT_F64), build_cast(b, c->ok, DT_F64)};
  build_write(b, s->taken, build_cast(b, build_expr(b, "a + b", DT_F64, 2, in), DT_I64));
  in[0] = build_cast(b, build_read(b, s->skipped), DT_F64);
  build_write(b, s->skipped, build_cast(b, build_expr(b, "a + 1 - b", DT_F64, 2, in), DT_I64));
}
