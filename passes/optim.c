/* The optimizers, over one flat tensor per parameter group: one row of optimizers.def each.
 *
 * A row's update is a list of statements `name = expression`, carried out in order. Names are
 *   numbers    hyperparameters and what is computed from them alone: f64, while compiling
 *   scalars    lr and bias corrections of this step, `taken`, and what is computed from them: f64
 *   tensors    p (parameter), g (gradient, unscaled and clipped), the states: FP32, FP64 in
 * 64-true, whatever the storage [N12]; numbers and scalars are rounded once where they meet them
 * `[name] statement` is left out where the number `name` is 0, and keeps what was where the scalar is.
 * Whatever p and the states are at the end is written, unless the step is not applied [N11]. Learning
 * rates, bias corrections and a momentum that a schedule moves come from the step table, row taken
 * mod 4096. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "passes/step.h"

enum { TABLE_ROWS = 4096, MAX_NAMES = 48 };

static const OptimizerRow optimizers[] = {
#define OPTIMIZER(name, hyper, columns, update, ...) {#name, hyper, columns, {__VA_ARGS__}, update},
#include "passes/optimizers.def"
#undef OPTIMIZER
};

/* The moving average of the parameters, beside any optimizer's own states: FP32 or wider, whatever
 * the storage of parameters; starts at them (the runtime copies them, runtime/ema.c). */
static const OptimizerState ema = {"ema"};

/* What rounding took from the parameters, in their format: p + compensation is what is trained. */
static const OptimizerState compensation = {"compensation"};

/* `update_rounding` counts where a parameter in 16 bits is all there is [N12]. */
static bool rounds_by(const Step *s, const char *how) {
  return dtype_is_half(s->mode.param) &&
         !strcmp(module_str(s->in, "update_rounding", "nearest"), how);
}

/* ---- rows ---- */

static bool any_group(const Step *s, const char *key) {
  for (int k = 0; k < s->ngroup; k++)
    if (step_group_number(s, k, key, 0) != 0)
      return true;
  return false;
}

/* The hyperparameter that a schedule of the momentum moves, as in torch; NULL: none. */
static const char *cycled(const Step *s) {
  if (module_number(s->in, "cycle_momentum", 0) == 0)
    return NULL;
  return strstr(s->optimizer->hyper, "beta1=") ? "beta1" : "momentum";
}

static bool is_kept(const Step *s, const OptimizerState *state) {
  const char *moved = cycled(s);
  return !state->when || any_group(s, state->when) || (moved && !strcmp(moved, state->when));
}

Status optim_named(Step *s) {
  const char *name = module_str(s->in, "optimizer", "SGD");
  for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++) {
    const OptimizerRow *row = &optimizers[i];
    if (strcmp(row->name, name))
      continue;
    s->optimizer = row;
    const char *moved = cycled(s);
    s->columns = str_fmt(builder_strings(s->b), moved ? "%s %s" : "%s", row->columns, moved);
    for (int k = 0; k < MAX_MOMENTS && row->state[k].name; k++)
      if (is_kept(s, &row->state[k]))
        s->moment[s->nmoment++] = &row->state[k];
    if (rounds_by(s, "kahan"))
      s->moment[s->nmoment++] = &compensation;
    if (module_number(s->in, "ema_decay", 0) > 0)
      s->moment[s->nmoment++] = &ema;
    return MPCC_OK;
  }
  diag_error(s->diag, (Loc){0}, 195, "optimizer %s is not supported yet", name);
  return MPCC_ERR_INPUT;
}

/* State has the parameters' dtype, or its region's; sums of squares are FP32 in 16-true, where
 * squares of gradients below 0.005 would round to zero [N12]. */
DType optim_moment_dtype(const Step *s, int moment) {
  if (s->moment[moment] == &ema)
    return s->mode.optim;
  if (s->moment[moment] == &compensation)
    return s->mode.param;
  if (s->mode.moment == MPCC_F16 && s->moment[moment]->square && !s->mode.lightning)
    return MPCC_F32;
  return s->mode.moment;
}

double optim_moment_start(const Step *s, int group, int moment) {
  const char *key = s->moment[moment]->start;
  return key ? step_group_number(s, group, key, 0) : 0;
}

/* Calls f for each word of a list; the word ends at a space. */
static const char *next_word(const char *list, size_t *len) {
  list += strspn(list, " ");
  *len = strcspn(list, " ");
  return *len ? list : NULL;
}

Str optim_columns(Step *s, int *n) {
  Text t = {0};
  *n = 0;
  for (int k = 0; k < s->ngroup; k++) { /* groups without trained parameters have no columns */
    size_t len;
    for (const char *w = s->columns; (w = next_word(w, &len)); w += len, ++*n)
      text_printf(&t, "%s%.*s.%d", *n ? " " : "", (int)len, w, s->group[k].index);
  }
  Str r = str_intern(builder_strings(s->b), t.data ? t.data : "", t.len);
  text_fini(&t);
  return r;
}

/* ---- names ---- */

typedef enum { NUMBER, SCALAR, TENSOR } Kind;
typedef struct {
  Str name;
  Kind kind;
  double number;
  Value *value;
} Name;

typedef struct {
  Step *s;
  int n;
  Name name[MAX_NAMES];
} Env;

static Name *find(Env *e, const char *name, size_t len) {
  for (int i = 0; i < e->n; i++)
    if (strlen(e->name[i].name) == len && !memcmp(e->name[i].name, name, len))
      return &e->name[i];
  return NULL;
}

static void set(Env *e, const char *name, size_t len, Name v) {
  Name *old = find(e, name, len);
  if (!old && e->n == MAX_NAMES)
    return; /* rows are ours: optim_update asserts that p came out */
  v.name = str_intern(builder_strings(e->s->b), name, len);
  *(old ? old : &e->name[e->n++]) = v;
}

static void set_value(Env *e, const char *name, Kind kind, Value *v) {
  set(e, name, strlen(name), (Name){.kind = kind, .value = v});
}

/* Hyperparameters of group k, "name=default" separated by spaces. */
static void set_numbers(Env *e, int k) {
  size_t len;
  for (const char *w = e->s->optimizer->hyper; (w = next_word(w, &len)); w += len) {
    size_t name = strcspn(w, "=");
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)name, w);
    double v = step_group_number(e->s, k, key, strtod(w + name + 1, NULL));
    set(e, key, name, (Name){.kind = NUMBER, .number = v});
  }
}

/* ---- statements ---- */

static bool starts_word(const char *c) {
  return isalpha((unsigned char)*c) || *c == '_';
}

static size_t word(const char *c) {
  size_t n = 0;
  while (isalnum((unsigned char)c[n]) || c[n] == '_')
    n++;
  return n;
}

/* An expression with its names replaced: numbers by their digits, values by operand letters. */
typedef struct {
  Text text;
  int n;
  Name *use[8];
  Kind kind;
} Expr;

static void put_name(Env *e, Expr *x, const char *c, size_t len) {
  Name *v = find(e, c, len);
  if (c[len] == '(' || !v) { /* a function; an unknown name is diagnosed by the parser */
    text_printf(&x->text, "%.*s", (int)len, c);
    return;
  }
  if (v->kind == NUMBER) {
    text_printf(&x->text, v->number < 0 ? "(%.17g)" : "%.17g", v->number);
    return;
  }
  int i = 0;
  while (i < x->n && x->use[i] != v)
    i++;
  if (i == x->n && x->n < 8)
    x->use[x->n++] = v;
  text_printf(&x->text, "%c", 'a' + i);
  x->kind = v->kind > x->kind ? v->kind : x->kind;
}

static Expr rewrite(Env *e, const char *c, const char *end) {
  Expr x = {.kind = NUMBER};
  while (c < end) {
    size_t len = word(c);
    if (len && starts_word(c))
      put_name(e, &x, c, len);
    else
      text_printf(&x.text, "%.*s", (int)(len ? len : 1), c);
    c += len ? len : 1;
  }
  return x;
}

static double evaluate(Step *s, const char *text) {
  Scalar *body;
  if (scalar_parse(s->scratch, s->diag, (Loc){0}, text, NULL, 0, &body) != MPCC_OK)
    return 0;
  return scalar_eval(body, NULL, false);
}

static void assign(Env *e, const char *name, size_t len, const char *text, const char *end) {
  Step *s = e->s;
  text += strspn(text, " ");
  Name *alias = starts_word(text) && text + word(text) == end ? find(e, text, word(text)) : NULL;
  if (alias) {
    set(e, name, len, *alias);
    return;
  }
  Expr x = rewrite(e, text, end);
  Name result = {.kind = x.kind};
  DType dt = x.kind == TENSOR ? s->mode.optim : MPCC_F64;
  Value *in[8];
  for (int i = 0; i < x.n; i++)
    in[i] = build_cast(s->b, x.use[i]->value, dt);
  if (x.text.data && x.kind == NUMBER)
    result.number = evaluate(s, x.text.data);
  else if (x.text.data)
    result.value = build_expr(s->b, x.text.data, dt, x.n, in);
  text_fini(&x.text);
  set(e, name, len, result);
}

/* `name`, which was `old`, stays that where the scalar `guard` is 0. */
static void keep_unless(Env *e, const Name *guard, const char *name, size_t len, const Name *old) {
  Name *now = find(e, name, len);
  DType dt = old->kind == TENSOR || now->kind == TENSOR ? e->s->mode.optim : MPCC_F64;
  Value *in[3];
  const Name *from[3] = {now, old, guard};
  for (int i = 0; i < 3; i++)
    in[i] = build_cast(e->s->b, from[i]->value, dt);
  now->value = build_expr(e->s->b, "c != 0 ? a : b", dt, 3, in);
}

static void run(Env *e, const char *c) {
  while (*c) {
    c += strspn(c, " ;");
    const char *end = c + strcspn(c, ";");
    bool wanted = true;
    const Name *guard = NULL;
    if (*c == '[') {
      size_t len = strcspn(c, "]") - 1;
      guard = find(e, c + 1, len);
      wanted = guard && (guard->kind != NUMBER || guard->number != 0);
      c += len + 2;
      c += strspn(c, " ");
    }
    size_t len = word(c);
    if (wanted && len) {
      const Name *was = find(e, c, len), old = was ? *was : (Name){0};
      assign(e, c, len, strchr(c, '=') + 1, end);
      if (was && guard && guard->kind != NUMBER)
        keep_unless(e, guard, c, len, &old);
    }
    c = end;
  }
}

/* ---- the update ---- */

/* This step's row of the table, f64[columns] */
static Value *table_row(Step *s) {
  Builder *b = s->b;
  step_at(s, "optimizer: row of the step table");
  Value *taken = build_cast(b, build_read(b, s->taken), MPCC_F64);
  Str text = str_fmt(builder_strings(b), "a - %d * floor(a / %d)", TABLE_ROWS, TABLE_ROWS);
  Value *in[2] = {build_cast(b, build_expr(b, text, MPCC_F64, 1, &taken), MPCC_I64),
                  build_read(b, s->table)};
  return build_op(b, OP_embedding, 2, in, 0, NULL)->out[0];
}

/* new when the step is applied, else old; stored as dt */
static Value *choose(Step *s, const Clip *c, Value *new_value, Value *old, DType dt) {
  Value *in[3] = {new_value, build_cast(s->b, old, s->mode.optim),
                  build_cast(s->b, c->ok, s->mode.optim)};
  return build_cast(s->b, build_expr(s->b, "c != 0 ? a : b", s->mode.optim, 3, in), dt);
}

static void set_columns(Env *e, int k, Value *row) {
  size_t len;
  int n = 0, at = 0;
  for (const char *w = e->s->columns; (w = next_word(w, &len)); w += len)
    n++;
  for (const char *w = e->s->columns; (w = next_word(w, &len)); w += len, at++) {
    Value *v = build_slice(e->s->b, row, 0, n * k + at, n * k + at + 1);
    set(e, w, len, (Name){.kind = SCALAR, .value = build_reshape(e->s->b, v, 0, NULL)});
  }
}

/* States of the optimizer's row; others stand behind them. */
static int own_states(const Step *s) {
  int n = s->nmoment;
  while (n > 0 && (s->moment[n - 1] == &ema || s->moment[n - 1] == &compensation))
    n--;
  return n;
}

/* Group k: the new parameters, in math dtype; states are written. */
static Value *update_group(Step *s, const Clip *c, int k, Value *p, Value *g, Value *row) {
  Builder *b = s->b;
  Env e = {.s = s};
  Value *old[MAX_MOMENTS], *wide[MAX_MOMENTS];
  const char *update = s->optimizer->update;
  step_at(s, str_fmt(builder_strings(b), "optimizer: %s", s->optimizer->name));
  set_numbers(&e, k);
  set_columns(&e, k, row);
  if (strstr(update, "taken"))
    set_value(&e, "taken", SCALAR, build_cast(b, build_read(b, s->taken), MPCC_F64));
  set_value(&e, "p", TENSOR, build_cast(b, p, s->mode.optim));
  set_value(&e, "g", TENSOR, g);
  for (int i = 0; i < own_states(s); i++) {
    old[i] = build_read(b, s->group[k].moment[i]);
    wide[i] = build_cast(b, old[i], s->mode.optim);
    set_value(&e, s->moment[i]->name, TENSOR, wide[i]);
  }
  if (step_group_number(s, k, "maximize", 0) != 0)
    run(&e, "g = -g");
  run(&e, update);
  for (int i = 0; i < own_states(s); i++) {
    Tensor *t = s->group[k].moment[i];
    Value *v = find(&e, s->moment[i]->name, strlen(s->moment[i]->name))->value;
    if (v != wide[i]) /* a group may do without a state that another one has */
      build_write(b, t, choose(s, c, v, old[i], t->type->dt));
  }
  return find(&e, "p", 1)->value;
}

/* ema = decay ema + (1 - decay) p in every n-th step that is taken; p as it is stored */
static void update_average(Step *s, const Clip *c, int k, Value *p) {
  Builder *b = s->b;
  StrTable *st = builder_strings(b);
  int at = s->nmoment - 1;
  double decay = module_number(s->in, "ema_decay", 0);
  long long every = (long long)module_number(s->in, "ema_every_n_steps", 1);
  step_at(s, "ema: moving average of the parameters");
  Tensor *t = s->group[k].moment[at];
  Value *old = build_read(b, t);
  Value *in[3] = {old, build_cast(b, p, s->mode.optim), NULL};
  Str text = str_fmt(st, "%.17g * a + %.17g * b", decay, 1 - decay);
  if (every > 1) {
    Value *taken = build_cast(b, build_read(b, s->taken), MPCC_F64);
    Str due = str_fmt(st, "a + 1 - %lld * floor((a + 1) / %lld) == 0 ? 1 : 0", every, every);
    in[2] = build_cast(b, build_expr(b, due, MPCC_F64, 1, &taken), s->mode.optim);
    text = str_fmt(st, "c != 0 ? %s : a", text);
  }
  Value *next = build_expr(b, text, s->mode.optim, every > 1 ? 3 : 2, in);
  build_write(b, t, choose(s, c, next, old, t->type->dt));
}

/* ---- rounding of parameters in 16 bits -------------------------------------------------------- */

/* next as one of its two neighbours in 16 bits, the nearer one more often, so that what is expected is
 * next. Random numbers of (seed, steps taken, group, element): any thread gives the same. */
static Value *round_stochastic(Step *s, int k, Value *next) {
  /* streams of layers have 31 bits */
  const int64_t stream = (INT64_C(1) << 31) + s->group[k].index;
  Builder *b = s->b;
  const Tensor *seed = module_tensor(s->in, "io.seed");
  step_at(s, "update_rounding: stochastic");
  Value *in[2] = {seed ? build_read(b, s->tensors[seed->index]) : build_const(b, 0, MPCC_I64),
                  build_read(b, s->taken)};
  Attr attr[2] = {attr_ints(b, "shape", 1, next->type->dim), attr_i(b, "stream", stream)};
  Value *args[2] = {build_cast(b, next, MPCC_F32), build_op(b, OP_random, 2, in, 2, attr)->out[0]};
  const char *body = s->mode.param == MPCC_BF16 ? "sr_bf16(a, b)" : "sr_f16(a, b)";
  return build_cast(b, build_expr(b, body, MPCC_F32, 2, args), s->mode.optim);
}

/* Kahan's sum: the update starts from the parameter and what earlier roundings took from it, and keeps
 * what this one takes (Kahan 1965). */
static Value *compensated(Step *s, Value *p, Tensor *rest) {
  step_at(s, "update_rounding: kahan");
  Value *in[2] = {build_cast(s->b, p, s->mode.optim),
                  build_cast(s->b, build_read(s->b, rest), s->mode.optim)};
  return build_expr(s->b, "a + b", s->mode.optim, 2, in);
}

static void keep_rest(Step *s, const Clip *c, Value *next, Tensor *rest) {
  Builder *b = s->b;
  DType narrow = rest->type->dt;
  step_at(s, "update_rounding: kahan");
  /* in the body: between ops fused kernels may leave a rounding out [N10] */
  Str text = str_fmt(builder_strings(b), "a - %s(a)", dtype_text(narrow));
  Value *lost = build_expr(b, text, s->mode.optim, 1, &next);
  build_write(b, rest, choose(s, c, lost, build_read(b, rest), narrow));
}

void optim_update(Step *s, const Clip *c, Value *const *grad, Value **flat) {
  Builder *b = s->b;
  Value *row = table_row(s);
  for (int k = 0; k < s->ngroup; k++) {
    Group *gr = &s->group[k];
    step_at(s, "optimizer: unscaled and clipped gradient");
    Value *p = build_read(b, gr->flat), *g = clip_apply(s, c, grad[k]);
    Tensor *rest = rounds_by(s, "kahan") ? gr->moment[own_states(s)] : NULL;
    Value *next = update_group(s, c, k, rest ? compensated(s, p, rest) : p, g, row);
    if (rounds_by(s, "stochastic"))
      next = round_stochastic(s, k, next);
    if (rest)
      keep_rest(s, c, next, rest);
    flat[k] = choose(s, c, next, p, gr->flat->type->dt);
    build_write(b, gr->flat, flat[k]);
    if (s->nmoment && s->moment[s->nmoment - 1] == &ema)
      update_average(s, c, k, flat[k]);
  }
  step_at(s, "counters");
  Value *in[2] = {build_cast(b, build_read(b, s->taken), MPCC_F64), build_cast(b, c->ok, MPCC_F64)};
  build_write(b, s->taken, build_cast(b, build_expr(b, "a + b", MPCC_F64, 2, in), MPCC_I64));
  in[0] = build_cast(b, build_read(b, s->skipped), MPCC_F64);
  build_write(b, s->skipped, build_cast(b, build_expr(b, "a + 1 - b", MPCC_F64, 2, in), MPCC_I64));
}
