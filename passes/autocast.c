/* autocast: gives every value the dtype that the mode asks for, by casts in front of ops.
 *
 * The decision for an op needs only its policy column, its operands' dtypes and the mode, so one
 * sweep in order decides and rewrites. Four kinds of mode (docs/numerics.md, table of modes):
 *   *-true    parameters, inputs and every op in one dtype; losses read it and compute FP32
 *   *-mixed   parameters stay f32; the policy columns of ops.def and scalar.def decide per op
 *   *-true with masters, transformer-engine*: the forward sees each parameter rounded to the
 *             weights' dtype; what fp8 does not take later runs by the policy columns
 * An op's attribute `precision` names another mode for this op alone; it reads the f32 parameter.
 * With "off" it stands outside autocast: nothing is cast, formats promote as torch's do.
 * A cast with `table` is of numbers the frontend made in FP64: to the mode's own dtype.
 * A cast with `by_hand` is the spec's own (layer `to`): it stays in every mode, and in *-true modes
 * pointwise ops and norms keep what it made until the next product.
 * Stage forward to forward. Rules N4, N6; policies: PyTorch's autocast lists (policies.def). */
#include <string.h>

#include "passes/passes.h"

typedef struct {
  const Module *in;
  Copier c;
  Mode mode;
  Value **raw; /* by old value id: a parameter as stored; NULL for others */
  bool *hand;  /* by old value id: its format comes from a cast by hand */
} Cast;

/* Widest of two float formats in torch's promotion: f16 with bf16 is f32. */
static DType promote(DType a, DType b) {
  if (a == b)
    return a;
  if (a == MPCC_F64 || b == MPCC_F64)
    return MPCC_F64;
  if (a == MPCC_F32 || b == MPCC_F32 || (dtype_is_half(a) && dtype_is_half(b)))
    return MPCC_F32;
  return dtype_info(a)->bits > dtype_info(b)->bits ? a : b;
}

/* Widest dtype of n float values; scalars count only when there is nothing else. */
static DType widest(Value *const *in, int n) {
  DType dt = MPCC_DTYPE_COUNT;
  for (int pass = 0; pass < 2 && dt == MPCC_DTYPE_COUNT; pass++)
    for (int i = 0; i < n; i++)
      if (dtype_is_float(in[i]->type->dt) && (pass || in[i]->type->rank > 0))
        dt = dt == MPCC_DTYPE_COUNT ? in[i]->type->dt : promote(dt, in[i]->type->dt);
  return dt;
}

/* x + f(x): both of one shape, neither a parameter. Position embeddings are not residuals. */
static bool is_residual(const Op *op) {
  const Type *a = op->in[0]->type, *b = op->in[op->nin - 1]->type;
  return op->code == OP_add && a->rank > 1 && type_same_shape(a, b) && !param_read(op->in[0]) &&
         !param_read(op->in[1]);
}

typedef struct {
  DType dt;         /* every float operand is cast to it; MPCC_DTYPE_COUNT: none is */
  const char *rule; /* policy word for `why` */
} Choice;

/* An op's attribute policy="F32" overrides its column in every mode: parts of a loss. "SAME" does
 * so in mixed ones: instance normalisation, an op of its own in no autocast list. */
static bool is_pinned(const Op *op) {
  return !strcmp(op_str(op, "policy", ""), "F32");
}

static Choice choose_pinned(const Mode *m, const Op *op, Value *const *in) {
  bool wide = widest(in, op->nin) == MPCC_F64 || m->low == MPCC_F64;
  return (Choice){wide ? MPCC_F64 : MPCC_F32, "F32: a loss"};
}

static Choice choose_mixed(const Mode *m, const Op *op, Value *const *in) {
  if (!strcmp(op_str(op, "policy", ""), "SAME"))
    return (Choice){MPCC_DTYPE_COUNT, NULL};
  switch (mode_policy(m, op)) {
  case POL_LOW:
    return (Choice){m->low, "LOW"};
  case POL_F32:
    return (Choice){widest(in, op->nin) == MPCC_F64 ? MPCC_F64 : MPCC_F32, "F32"};
  case POL_F32OUT:
    /* widening is exact, so casting the operand equals reading it low and returning FP32 */
    return (Choice){widest(in, op->nin) == MPCC_F64 ? MPCC_F64 : MPCC_F32, "F32OUT"};
  case POL_WIDEST: {
    DType dt = widest(in, op->nin);
    if (m->residual_low && is_residual(op) &&
        (in[0]->type->dt == m->low || in[1]->type->dt == m->low))
      return (Choice){m->low, "residual: low"};
    return (Choice){dt, "WIDEST"};
  }
  default:
    return (Choice){MPCC_DTYPE_COUNT, NULL};
  }
}

/* In *-true modes every op runs in the mode's dtype; the loss reads logits and computes FP32,
 * unless a region says how. */
static Choice choose_true(const Cast *s, const Mode *m, const Op *op, Value *const *in) {
  const OpInfo *info = op_info(op->code);
  Policy policy = mode_policy(m, op);
  /* FP32 by both columns: a loss or metric */
  bool loss = info->policy[0] == POL_F32 && info->policy[1] == POL_F32;
  bool region = op_attr(op, "precision") != NULL, hand = false;
  if (policy == POL_STATE || (loss && !region))
    return (Choice){MPCC_DTYPE_COUNT, NULL};
  for (int i = 0; i < op->nin; i++)
    hand |= s->hand[op->in[i]->id];
  if (hand && !region && policy != POL_LOW)
    return (Choice){widest(in, op->nin), "promotes: a `to` is before it"};
  return (Choice){m->low, "TRUE"};
}

/* Outside autocast ops run in the formats they get, with torch's promotion. */
static Choice choose_off(const Mode *m, const Op *op, Value *const *in) {
  if (mode_policy(m, op) == POL_WIDEST)
    return (Choice){widest(in, op->nin), "WIDEST, autocast is off"};
  return (Choice){MPCC_DTYPE_COUNT, NULL};
}

/* Products outside autocast take one format, as torch's do. */
static Status check_off(const Op *op, Value *const *in, DType weight, Diag *d) {
  const Value *first = NULL;
  for (int i = 0; i < op->nin; i++) {
    DType dt = in[i]->type->dt;
    if (!dtype_is_float(dt) || (first && first->type->dt == dt))
      continue;
    if (first) {
      diag_error(d, op->loc, 433, "'%s' is outside autocast and gets %s and %s",
                 op->layer ? op->layer : "", dtype_text(first->type->dt), dtype_text(dt));
      diag_hint(d, "convert by hand, {to: %s} in front of it, or name a mode instead of off",
                dtype_torch(weight));
      return MPCC_ERR_INPUT;
    }
    first = in[i];
  }
  return MPCC_OK;
}

static Value *cast_operand(Cast *s, const Mode *m, const Op *op, Value *v, Choice ch) {
  if (ch.dt == MPCC_DTYPE_COUNT || !dtype_is_float(v->type->dt) || v->type->dt == ch.dt)
    return v;
  if (op_info(op->code)->is_root && !v->type->rank && dtype_is_half(ch.dt))
    return v; /* the gradient that backward begins with: S / capacity would underflow */
  Builder *b = s->c.b;
  const char *region = op_str(op, "region", NULL);
  Str why = str_fmt(builder_strings(b), "autocast: %s is %s [%s %s%s%s]", op_info(op->code)->name,
                    ch.rule, m->mixed ? "policy" : "mode", m->mixed ? m->policy_name : m->name,
                    region ? ", " : "", region ? region : "");
  build_at(b, op->loc, op->layer, why);
  return build_cast(b, v, ch.dt);
}

/* Parameters and float inputs, cast to what the mode shows its ops. */
static void cast_read(Cast *s, const Op *op) {
  Builder *b = s->c.b;
  Value *v = rebuild_op(&s->c, op, NULL)->out[0];
  const Tensor *t = op_attr(op, "tensor")->u.tensor;
  DType dt = v->type->dt;
  if (!dtype_is_float(dt))
    return;
  if (t->role == ROLE_PARAM) {
    s->raw[op->out[0]->id] = v;
    dt = s->mode.weight;
  } else if (t->role == ROLE_INPUT) {
    dt = s->mode.input;
    DType from = tensor_int(t, "transformed", 0) ? mode_region(s->in, "region_transforms", MPCC_F32)
                                                 : MPCC_F32;
    if (dtype_is_half(from)) { /* values lose bits there, whatever reads them */
      build_at(b, op->loc, op->layer,
               str_fmt(builder_strings(b), "autocast: transforms give %s [regions.transforms %s]",
                       dtype_text(from), module_str(s->in, "region_transforms", "")));
      v = s->c.map[op->out[0]->id] = build_cast(b, v, from);
    }
  }
  if (dt == v->type->dt)
    return;
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "autocast: %s are %s [mode %s]",
                   t->role == ROLE_PARAM ? "weights" : "inputs", dtype_text(dt), s->mode.name));
  s->c.map[op->out[0]->id] = build_cast(b, v, dt);
}

static void cast_write(Cast *s, const Op *op) {
  Builder *b = s->c.b;
  Tensor *t = s->c.tensors[op_attr(op, "tensor")->u.tensor->index];
  Value *v = mapped(&s->c, op, 0);
  build_at(b, op->loc, op->layer,
           str_fmt(builder_strings(b), "autocast: %s is %s", t->name, dtype_text(t->type->dt)));
  v = build_cast(b, v, t->type->dt);
  rebuild_op(&s->c, op, &v);
}

/* Constants of the mode's own dtype, so that no op is widened or narrowed by a number. */
static bool cast_const(Cast *s, const Op *op, DType dt) {
  bool leaf = op->code == OP_const || op->code == OP_loss_seed;
  if (!leaf || dt == MPCC_DTYPE_COUNT || !dtype_is_float(op->out[0]->type->dt))
    return false;
  build_like(s->c.b, op);
  if (op->code == OP_loss_seed) {
    Attr attr[2] = {attr_dt(s->c.b, "dtype", dt),
                    attr_i(s->c.b, "capacity", op_int(op, "capacity", 1))};
    s->c.map[op->out[0]->id] = build_op(s->c.b, OP_loss_seed, 0, NULL, 2, attr)->out[0];
    return true;
  }
  s->c.map[op->out[0]->id] = build_const(s->c.b, op_float(op, "value", 0.0), dt);
  return true;
}

/* Real numbers made of integers (angles of positions) are like constants: in 64-true of 64 bits. */
static bool cast_expr(Cast *s, const Mode *m, const Op *op, Value *const *in) {
  if (op->code != OP_expr || m->mixed || m->off || m->low != MPCC_F64 || is_pinned(op) ||
      widest(in, op->nin) != MPCC_DTYPE_COUNT || op->out[0]->type->dt != MPCC_F32)
    return false;
  build_like(s->c.b, op);
  s->c.map[op->out[0]->id] = build_expr(s->c.b, op_str(op, "body", ""), MPCC_F64, op->nin, in);
  return true;
}

/* A loop runs in the mode's low dtype throughout, as its operands are cast to it. */
static void cast_arg(Cast *s, const Mode *m, const Op *op) {
  const Type *ty = op->out[0]->type;
  if (dtype_is_float(ty->dt))
    ty = type_with_dtype(builder_types(s->c.b), ty, m->low);
  build_like(s->c.b, op);
  s->c.map[op->out[0]->id] = build_arg(s->c.b, op_int(op, "index", 0), loop_kind(op), ty);
}

/* What the frontend has in FP64, a table or an input, as such in the format that the mode shows
 * ops. */
static void cast_table(Cast *s, const Mode *m, const Op *op) {
  build_at(s->c.b, op->loc, op->layer,
           str_fmt(builder_strings(s->c.b), "autocast: FP64 numbers as %s [mode %s]",
                   dtype_text(m->input), m->name));
  s->c.map[op->out[0]->id] = build_cast(s->c.b, mapped(&s->c, op, 0), m->input);
}

/* A `to` of the spec: of what its operand has become by now. */
static void cast_by_hand(Cast *s, const Op *op) {
  Builder *b = s->c.b;
  build_at(b, op->loc, op->layer, str_c(builder_strings(b), "layer `to`"));
  s->c.map[op->out[0]->id] = build_cast(b, mapped(&s->c, op, 0), op->out[0]->type->dt);
  s->hand[op->out[0]->id] = true;
}

/* FP32 products on operands of fewer bits, as TF32 units have them: what is multiplied is rounded,
 * and so is the gradient that meets it; the bias, sums and results stay FP32 [N3].
 * `float32_matmul`, `float32_conv` of the spec, or the layer's own word. */
static const char *float32_level(const Cast *s, const Op *op, Value *const *in) {
  OpKind kind = op_info(op->code)->kind;
  if ((kind != OK_PRODUCT && kind != OK_ATTENTION) || is_pinned(op) ||
      in[0]->type->dt != MPCC_F32 || in[1]->type->dt != MPCC_F32)
    return NULL;
  const char *key = op->code == OP_conv ? "float32_conv" : "float32_matmul";
  const char *level = op_str(op, "float32", module_str(s->in, key, "highest"));
  return strcmp(level, "highest") ? level : NULL;
}

/* y + b: over the last axis, of convolutions over axis 1 */
static Value *add_bias(Builder *b, const Op *op, Value *y, Value *bias) {
  if (op->code == OP_conv) {
    int64_t dim[MAX_RANK] = {bias->type->dim[0]};
    for (int i = 1; i < y->type->rank - 1; i++)
      dim[i] = 1;
    bias = build_reshape(b, bias, y->type->rank - 1, dim);
  }
  return build2(b, OP_add, y, bias);
}

static void round_product(Cast *s, const Mode *m, const Op *op, Value **in, const char *level) {
  Builder *b = s->c.b;
  /* PyTorch's "medium" is TF32 on CUDA, bf16 on CPUs */
  bool bf16 = !strcmp(level, "medium") && m->policy == 1;
  OpCode round = bf16 ? OP_round_bf16 : OP_round_tf32, back = bf16 ? OP_grad_bf16 : OP_grad_tf32;
  bool attention = op_info(op->code)->kind == OK_ATTENTION;
  Str why = str_fmt(builder_strings(b), "%s: %s, operands are %s [N3]",
                    op->code == OP_conv ? "float32_conv" : "float32_matmul", level,
                    bf16 ? "bf16" : "TF32");
  build_at(b, op->loc, op->layer, why);
  for (int i = 0; i < (attention ? 3 : 2); i++)
    in[i] = build1(b, round, in[i]);
  build_like(b, op);
  Value *bias = !attention && op->nin == 3 ? in[2] : NULL;
  Op *made = build_op(b, op->code, bias ? 2 : op->nin, in, op->nattr, op->attr);
  for (int i = 1; i < op->nout; i++)
    s->c.map[op->out[i]->id] = made->out[i];
  build_at(b, op->loc, op->layer, why);
  Value *y = build1(b, back, made->out[0]);
  build_like(b, op);
  s->c.map[op->out[0]->id] = bias ? add_bias(b, op, y, bias) : y;
}

static Status cast_op(Cast *s, const Op *op, Diag *d) {
  if (op->code == OP_read || op->code == OP_write) {
    if (op->code == OP_read)
      cast_read(s, op);
    else
      cast_write(s, op);
    return MPCC_OK;
  }
  Mode m;
  const char *region = op_str(op, "precision", NULL);
  if (!mode_of_op(s->in, &s->mode, op, &m)) {
    diag_error(d, op->loc, 593, "unknown precision '%s'", region);
    return MPCC_ERR_INPUT;
  }
  if (op->code == OP_arg) {
    cast_arg(s, &m, op);
    return MPCC_OK;
  }
  if (cast_const(s, op, !m.mixed && m.low == MPCC_F64 ? MPCC_F64 : MPCC_DTYPE_COUNT))
    return MPCC_OK;
  if (op->code == OP_cast && op_int(op, "by_hand", 0)) {
    cast_by_hand(s, op);
    return MPCC_OK;
  }
  if (op->code == OP_cast && op_int(op, "table", 0)) {
    cast_table(s, &m, op);
    return MPCC_OK;
  }
  Value *in[64], **use = in;
  if (op->nin > 64)
    use = ARENA_ARRAY(builder_arena(s->c.b), Value *, op->nin);
  if (builder_failed(s->c.b) || arena_failed(builder_arena(s->c.b)))
    return MPCC_OK; /* builder_finish reports it */
  for (int i = 0; i < op->nin; i++) {
    Value *raw = s->raw[op->in[i]->id];
    use[i] = region && !m.off && raw ? raw : mapped(&s->c, op, i);
  }
  if (cast_expr(s, &m, op, use))
    return MPCC_OK;
  bool product = op_info(op->code)->policy[0] == POL_LOW;
  if (m.off && product && check_off(op, use, s->mode.weight, d) != MPCC_OK)
    return MPCC_ERR_INPUT;
  Choice ch = is_pinned(op) ? choose_pinned(&m, op, use)
              : m.off       ? choose_off(&m, op, use)
              : m.mixed     ? choose_mixed(&m, op, use)
                            : choose_true(s, &m, op, use);
  for (int i = 0; i < op->nin; i++) {
    for (int k = 0; k < op->nout && !product; k++)
      s->hand[op->out[k]->id] |= s->hand[op->in[i]->id];
    use[i] = cast_operand(s, &m, op, use[i], ch);
  }
  const char *level = op->nin > 1 ? float32_level(s, op, use) : NULL;
  if (level)
    round_product(s, &m, op, use, level);
  else
    rebuild_op(&s->c, op, use);
  return MPCC_OK;
}

static void cast_tensors(Cast *s) {
  const Module *in = s->in;
  Builder *b = s->c.b;
  for (int i = 0; i < in->nattr; i++)
    build_module_attr(b, in->attr[i]);
  s->c.tensors = ARENA_ARRAY(builder_arena(b), Tensor *, in->ntensor + 1);
  if (arena_failed(builder_arena(b)))
    return;
  for (int i = 0; i < in->ntensor; i++) {
    const Tensor *t = in->tensor[i];
    const Type *ty = t->type;
    /* losses and predictions of 64-true keep its 64 bits */
    bool wide = (t->role == ROLE_METRIC && s->mode.math == MPCC_F64) ||
                (t->role == ROLE_OUTPUT && !s->mode.mixed && s->mode.low == MPCC_F64);
    /* Running statistics are buffers of the module: *-true modes convert them with the weights. */
    bool model = t->role == ROLE_PARAM || (t->role == ROLE_BUFFER && !s->mode.mixed);
    if ((model || wide) && dtype_is_float(ty->dt))
      ty = type_with_dtype(builder_types(b), ty, wide ? MPCC_F64 : s->mode.param);
    else
      ty = type_get(builder_types(b), ty->dt, ty->rank, ty->dim);
    Tensor *base = t->base ? s->c.tensors[t->base->index] : NULL;
    s->c.tensors[i] = copy_tensor(b, t, t->name, ty, base, t->base_elem, s->c.tensors);
  }
}

Status pass_autocast(const Module *in, const PassOpts *o, Builder *out, Diag *d) {
  (void)o;
  Cast s = {.in = in, .c = {.b = out}};
  Status st = mode_get(in, d, &s.mode);
  if (st != MPCC_OK)
    return st;
  cast_tensors(&s);
  for (int i = 0; i < in->nfunc; i++) {
    const Func *f = in->func[i];
    copier_func(&s.c, f, f->name);
    s.raw = ARENA_ARRAY(builder_arena(out), Value *, f->nvalue + 1);
    s.hand = ARENA_ARRAY(builder_arena(out), bool, f->nvalue + 1);
    if (arena_failed(builder_arena(out)))
      return MPCC_ERR_NOMEM;
    /* init computes in f32 and rounds once, when it writes; random numbers do not depend on mode */
    bool init = !strcmp(f->name, "init");
    for (int k = 0; k < f->nop && !builder_failed(out); k++) {
      const Op *op = f->op[k];
      if (init && op->code != OP_write) {
        copier_op(&s.c, op);
        continue;
      }
      st = cast_op(&s, op, d);
      if (st != MPCC_OK)
        return st;
    }
  }
  return MPCC_OK;
}
