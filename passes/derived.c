/* Values that depend on parameters and FP8 scales alone: 16-bit copies and quantized weights. They
 * are computed when state changes (`refresh`, end of update_step and train_step) and kept in
 * segment `derived`; forward functions read them, so micro-batches and evaluation share one copy.
 * So are constant factors of products (tables of Fourier transforms), by `refresh` alone.
 *
 * Hoisted are narrowing casts and quantizations; views and widening casts of them cost nothing to
 * repeat and stay. Casts to 16 bits that products of matrices alone read, as the factor they pack,
 * stay as well where the target rounds while it packs (attribute `packed`): their copies would cost
 * a half of the parameters' memory. Equal values of different functions are one tensor: they are
 * found by a key that spells out the computation. Casts of whole trained parameters to one dtype per
 * group lie in a flat tensor with the element offsets of the parameters, written by one kernel. [N6]
 * Codes of weights that gradients multiply are kept transposed too where a target's library wants
 * that (library_fp8 of its caps): the kernel that quantizes writes both. */
#include <string.h>

#include "passes/step.h"

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

static void key_attr(Text *t, const Attr *a) {
  text_printf(t, "%s=", a->key);
  switch (a->kind) {
  case AT_FLOAT:
    text_double(t, a->u.f);
    break;
  case AT_STR:
    text_json(t, a->u.s);
    break;
  case AT_INTS:
    for (int i = 0; i < a->u.ints.n; i++)
      text_printf(t, "%lld,", (long long)a->u.ints.v[i]);
    break;
  case AT_TENSOR:
    text_puts(t, a->u.tensor->name);
    break;
  default:
    text_printf(t, "%lld", (long long)a->u.i);
  }
  text_puts(t, ";");
}

static void key_put(Text *t, const Value *v) {
  const Op *op = v->def;
  text_printf(t, "%s(", op_info(op->code)->name);
  for (int i = 0; i < op->nattr; i++)
    key_attr(t, &op->attr[i]);
  for (int i = 0; i < op->nin; i++)
    key_put(t, op->in[i]);
  text_printf(t, ").%d", v->out);
}

static Str key_of(Step *s, const Value *v, bool turned) {
  Text t = {0};
  if (turned)
    text_puts(&t, "turned ");
  key_put(&t, v);
  Str key = str_intern(builder_strings(s->b), t.data ? t.data : "", t.len);
  text_fini(&t);
  return key;
}

static bool is_view(const Op *op) {
  return op_info(op->code)->kind == OK_VIEW && op->code != OP_qgrad;
}

static bool quantizes(const Op *op) {
  return op->code == OP_quantize || op->code == OP_block_quantize;
}

/* Made of an expression over indices: sines and cosines. Indices alone cost less than memory. */
static bool is_table(const Value *v) {
  const Op *op = v->def;
  if (op->code == OP_cast && op->in[0]->def)
    op = op->in[0]->def;
  return op->code == OP_expr && v->type->rank == 2;
}

/* Marks constants that products alone read, and what nothing else than those is made of. */
static void find_tables(const Func *f, bool *state, bool *other) {
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    bool is = op->code == OP_iota || ((op->code == OP_expr || op->code == OP_cast) && op->nin > 0);
    for (int k = 0; k < op->nin; k++)
      is &= state[op->in[k]->id];
    for (int k = 0; k < op->nout; k++)
      state[op->out[k]->id] = is;
  }
  for (int i = f->nop - 1; i >= 0; i--) {
    const Op *op = f->op[i];
    const Value *y = op->nout ? op->out[0] : NULL;
    for (int k = 0; k < op->nin; k++) {
      const Value *v = op->in[k];
      bool product = op_info(op->code)->kind == OK_PRODUCT && is_table(v);
      bool part = y && state[y->id] && !other[y->id];
      other[v->id] |= !product && !part;
    }
  }
  for (int i = 0; i < f->nvalue; i++)
    state[i] &= !other[i];
}

bool *derived_state_only(Step *s, const Func *f) {
  bool *state = ARENA_ARRAY(s->scratch, bool, f->nvalue + 1);
  bool *other = ARENA_ARRAY(s->scratch, bool, f->nvalue + 1);
  if (arena_failed(s->scratch))
    return state;
  find_tables(f, state, other);
  for (int i = 0; i < f->nop; i++) {
    const Op *op = f->op[i];
    bool is = op->nout > 0;
    if (op->code == OP_read)
      is = tensor_of(op)->role == ROLE_PARAM || tensor_of(op)->role == ROLE_SCALE;
    else
      is &= op->nin > 0 &&
            (is_view(op) || op->code == OP_cast || op->code == OP_unslice || quantizes(op));
    for (int k = 0; k < op->nin; k++)
      is &= state[op->in[k]->id];
    for (int k = 0; k < op->nout; k++)
      state[op->out[k]->id] |= is;
  }
  return state;
}

/* A value worth keeping; the other state-only ops are repeated where they are used. */
static bool kept(const Value *v) {
  const Op *op = v->def;
  return quantizes(op) || op->code == OP_expr ||
         (op->code == OP_cast &&
          dtype_info(v->type->dt)->bits < dtype_info(op->in[0]->type->dt)->bits);
}

static const Member *member_of(const Step *s, const Tensor *param, int *group) {
  for (int k = 0; k < s->ngroup; k++)
    for (int i = 0; i < s->group[k].nmember; i++)
      if (s->group[k].member[i].param == param) {
        *group = k;
        return &s->group[k].member[i];
      }
  return NULL;
}

static void facts(const Step *s, const Value *v, Derived *d) {
  const Op *op = v->def;
  int group;
  if (op->code == OP_read) {
    d->of_scale |= tensor_of(op)->role == ROLE_SCALE;
    d->trained |= member_of(s, tensor_of(op), &group) != NULL;
  }
  for (int i = 0; i < op->nin; i++)
    facts(s, op->in[i], d);
}

/* The read of a parameter that op is made of, padded or not; NULL for others. */
static const Op *origin(const Op *op) {
  const Value *v = op->in[0];
  while (v->def->code == OP_unslice || (is_view(v->def) && v->def->nin == 1))
    v = v->def->in[0];
  return param_read(v);
}

/* "weight.<param>", with what was done to it when it is no plain copy. */
static Str name_of(Step *s, const Value *v, bool plain, bool turned) {
  StrTable *st = builder_strings(s->b);
  const Op *op = v->def, *read = origin(op);
  const char *param = read ? tensor_of(read)->name : op->layer ? op->layer : "value";
  if (plain)
    return str_fmt(st, "weight.%s", param);
  static const char *const part[2][4] = {{"", ".scale_inv", ".amax", ""},
                                         {"", ".scale_inv", ".block_scale_inv", ".amax"}};
  DType dt = quantizes(op) ? op->out[0]->type->dt : v->type->dt;
  Str base = str_fmt(st, "%s.%s.%s%s%s", read ? "weight" : "table", param, dtype_text(dt),
                     quantizes(op) && v->out < 4 ? part[op->code == OP_block_quantize][v->out] : "",
                     turned ? ".turned" : "");
  Str name = base;
  for (int n = 2;; n++) {
    bool taken = false;
    for (int i = 0; i < s->nderived; i++)
      taken |= s->derived[i].tensor && s->derived[i].tensor->name == name;
    if (!taken)
      return name;
    name = str_fmt(st, "%s.%d", base, n);
  }
}

/* A cast of a whole trained parameter to the dtype of its group's copy; NULL for others. */
static const Member *group_copy(const Step *s, const Value *v, int *group) {
  const Op *op = v->def, *read = op->in[0]->def;
  DType dt = s->mode.masters ? s->mode.weight : s->mode.low;
  if (op->code != OP_cast || read->code != OP_read || v->type->dt != dt)
    return NULL;
  return member_of(s, tensor_of(read), group);
}

/* Groups of which at least half is read as a low copy get a flat one; FP8 reads hardly any. */
static void declare_copies(Step *s) {
  Builder *b = s->b;
  int64_t *read = ARENA_ARRAY(s->scratch, int64_t, s->ngroup + 1);
  if (arena_failed(s->scratch))
    return;
  int k;
  for (int i = 0; i < s->nderived; i++) {
    const Member *m = group_copy(s, s->derived[i].v, &k);
    if (m)
      read[k] += m->room;
  }
  for (k = 0; k < s->ngroup; k++) {
    Group *g = &s->group[k];
    if (read[k] == 0 || 2 * read[k] < g->elems)
      continue;
    DType dt = s->mode.masters ? s->mode.weight : s->mode.low;
    Str name = str_fmt(builder_strings(b), "weight.flat.%d", g->index);
    g->weight = build_tensor(b, name, type_with_dtype(builder_types(b), g->flat->type, dt),
                             ROLE_WEIGHT, (Loc){0});
    build_tensor_attr(b, g->weight, attr_t(b, "of", g->flat));
  }
}

static void declare(Step *s, Derived *d) {
  Builder *b = s->b;
  const Value *v = d->v;
  const Op *op = v->def, *read = origin(op);
  const int64_t swapped[2] = {v->type->dim[v->type->rank > 1], v->type->dim[0]};
  const Type *ty =
      type_get(builder_types(b), v->type->dt, v->type->rank, d->turned ? swapped : v->type->dim);
  int k = 0;
  const Member *m = group_copy(s, v, &k);
  Str name = name_of(s, v, m != NULL, d->turned);
  d->by_group = m && s->group[k].weight;
  if (d->by_group)
    d->tensor =
        build_tensor_view(b, name, ty, ROLE_WEIGHT, s->group[k].weight, m->at, m->param->loc);
  else
    d->tensor = build_tensor(b, name, ty, ROLE_WEIGHT, op->loc);
  if (read)
    build_tensor_attr(b, d->tensor, attr_t(b, "of", s->tensors[tensor_of(read)->index]));
}

static Derived *find(Step *s, Str key) {
  for (int i = 0; i < s->nderived; i++)
    if (s->derived[i].key == key)
      return &s->derived[i];
  return NULL;
}

/* Operand k of op is the factor that products pack. Convolutions gather it from far apart, which
 * costs more from wide elements than a copy does: steps of ResNet-18 took a sixth longer. */
static bool packs(const Op *op, int k) {
  return k == 1 && op_info(op->code)->kind == OK_PRODUCT && op->code != OP_conv &&
         op->code != OP_conv_gather;
}

/* A cast of a whole parameter, which a pack may read instead. */
static bool may_be_packed(const Step *s, const Value *v) {
  const Op *op = v->def;
  return s->rounding_packs && op->code == OP_cast && dtype_is_half(v->type->dt) &&
         op->in[0]->type->dt == MPCC_F32 && op->in[0]->def->code == OP_read;
}

static void note_one(Step *s, const Value *v, bool packed, bool turned) {
  Str key = key_of(s, v, turned);
  Derived *d = find(s, key);
  if (!d && !builder_failed(s->b)) {
    d = &s->derived[s->nderived++];
    *d = (Derived){.key = key, .v = v, .turned = turned, .packed = may_be_packed(s, v)};
    facts(s, v, d);
  }
  if (d)
    d->packed &= packed;
}

/* v is read; packed: by a product that packs it. */
static void note(Step *s, const Value *v, bool packed) {
  const Op *op = v->def;
  if (op->code == OP_read)
    return;
  if (kept(v)) {
    note_one(s, v, packed, false);
    return;
  }
  for (int i = 0; i < op->nin; i++)
    note(s, op->in[i], packed && is_view(op));
}

/* Codes [K, N] with one scale, of which a library wants [N, K]. */
bool derived_is_turned(const Step *s, const Op *op, const bool *state) {
  const Value *v = op->code == OP_qmatmul && op->nin == 4 ? op->in[1] : NULL;
  return v && s->turned_codes && state[v->id] && v->def->code == OP_quantize && !v->out &&
         v->type->rank == 2 && !op_int(op, "tb", 0);
}

/* Leaves out what packs read from the parameters themselves. */
static void drop_packed(Step *s) {
  int n = 0;
  for (int i = 0; i < s->nderived; i++)
    if (!s->derived[i].packed)
      s->derived[n++] = s->derived[i];
  s->nderived = n;
}

void derived_collect(Step *s) {
  int most = 0;
  for (int i = 0; i < s->in->nfunc; i++)
    most += 2 * s->in->func[i]->nvalue;
  s->derived = ARENA_ARRAY(s->scratch, Derived, most + 1);
  for (int i = 0; i < s->in->nfunc && !arena_failed(s->scratch); i++) {
    const Func *f = s->in->func[i];
    if (!strcmp(f->name, "init"))
      continue;
    bool *state = derived_state_only(s, f), *live = func_live(f, s->scratch);
    if (arena_failed(s->scratch))
      return;
    for (int k = 0; k < f->nop; k++) {
      const Op *op = f->op[k];
      bool skip = !live[k] || (op->nout && state[op->out[0]->id]);
      for (int j = 0; !skip && j < op->nin; j++)
        if (state[op->in[j]->id] && j == 1 && derived_is_turned(s, op, state))
          note_one(s, op->in[j], false, true);
        else if (state[op->in[j]->id])
          note(s, op->in[j], packs(op, j));
    }
  }
  drop_packed(s);
  declare_copies(s);
  for (int i = 0; i < s->nderived && !builder_failed(s->b); i++)
    declare(s, &s->derived[i]);
}

/* Rebuilds v's op over the given operands in the current function. */
static Value *again(Step *s, const Value *v, Value *const *in) {
  const Op *op = v->def;
  build_at(s->b, op->loc, op->layer, op->why);
  return build_op(s->b, op->code, op->nin, in, op->nattr, op->attr)->out[v->out];
}

/* A cast that has no copy, for packs. */
static Value *again_packed(Step *s, const Value *v, Value *x) {
  const Op *op = v->def;
  Attr attr[8];
  int n = 0;
  for (; n < op->nattr && n < 7; n++)
    attr[n] = op->attr[n];
  attr[n++] = attr_b(s->b, "packed", true);
  build_at(s->b, op->loc, op->layer, op->why);
  return build_op(s->b, op->code, 1, &x, n, attr)->out[0];
}

Value *derived_use(Step *s, const Value *v) {
  const Op *op = v->def;
  if (op->code == OP_read) {
    build_like(s->b, op);
    return build_read(s->b, s->tensors[tensor_of(op)->index]);
  }
  Derived *d = kept(v) ? find(s, key_of(s, v, false)) : NULL;
  if (d) {
    build_like(s->b, op);
    return build_read(s->b, d->tensor);
  }
  Value *in[2] = {0};
  for (int i = 0; i < op->nin && i < 2; i++)
    in[i] = derived_use(s, op->in[i]);
  return kept(v) && may_be_packed(s, v) ? again_packed(s, v, in[0]) : again(s, v, in);
}

Value *derived_use_turned(Step *s, const Value *v) {
  const Derived *d = find(s, key_of(s, v, true));
  build_like(s->b, v->def);
  return d ? build_read(s->b, d->tensor) : NULL;
}

/* Value of a parameter or scale now. */
static Value *state_now(Step *s, const Op *read, const NewState *now) {
  const Tensor *t = tensor_of(read);
  int k;
  const Member *m = member_of(s, t, &k);
  build_like(s->b, read);
  if (m && now && now->flat) {
    Value *flat = build_slice(s->b, now->flat[k], 0, m->at, m->at + m->elems);
    return build_reshape(s->b, flat, t->type->rank, t->type->dim);
  }
  if (t->role == ROLE_SCALE && now) {
    bool forward = !strcmp(t->name, "fp8.forward.scale");
    Value *v = forward ? now->scale_forward : now->scale_backward;
    if (v)
      return v;
  }
  return build_read(s->b, s->tensors[t->index]);
}

static Value *compute(Step *s, const Value *v, const NewState *now) {
  const Op *op = v->def;
  if (op->code == OP_read)
    return state_now(s, op, now);
  Value *in[2] = {0};
  for (int i = 0; i < op->nin && i < 2; i++)
    in[i] = compute(s, op->in[i], now);
  return again(s, v, in);
}

void derived_write(Step *s, DerivedSet set, const NewState *now) {
  Builder *b = s->b;
  for (int k = 0; k < s->ngroup && set != DERIVED_SCALED; k++) {
    Group *g = &s->group[k];
    if (!g->weight)
      continue;
    step_at(s, "low-precision copy of parameters");
    Value *flat = now && now->flat ? now->flat[k] : build_read(b, g->flat);
    build_write(b, g->weight, build_cast(b, flat, g->weight->type->dt));
  }
  for (int i = 0; i < s->nderived; i++) {
    const Derived *d = &s->derived[i];
    bool in_set = set == DERIVED_ALL || d->of_scale || (set == DERIVED_TRAINED && d->trained);
    if (d->by_group || !in_set)
      continue;
    static const int64_t swap[2] = {1, 0};
    Value *v = compute(s, d->v, now);
    build_write(b, d->tensor, d->turned ? build_permute(b, v, swap) : v);
  }
}
