/* Recurrent layers: RNN, LSTM, GRU, ConvLSTM. A layer is one scan per direction; the products of
 * its input with weight_ih need no loop and are made of all time steps at once, in front of it.
 *
 * Names, arguments, gate order, equations and initial values are torch.nn's; time is axis 1, behind
 * the batch, unless batch_first: false is said. States enter and leave as [N, layers * directions,
 * width], or as torch's [layers * directions, N, width] with batch_first: false. */
#include "frontend/layers.h"

#include <math.h>

/* ---- loops ---- */

static Value *loop_in(Lower *lo, const Node *n, int index, LoopKind kind, int rank,
                      const int64_t *dim) {
  Attr at[] = {attr_i(lo->b, "index", index), attr_s(lo->b, "kind", loop_kind_text(kind)),
               attr_ints(lo->b, "shape", rank, dim), attr_dt(lo->b, "dtype", MPCC_F32)};
  return lay_emit1(lo, n, OP_arg, 0, NULL, 4, at);
}

/* State i: operand i and result i of the scan. */
static void next_state(Lower *lo, const Node *n, int i, Value *v, int64_t slots) {
  Attr at[] = {attr_i(lo->b, "index", i), attr_s(lo->b, "kind", loop_kind_text(LOOP_CARRIED)),
               attr_i(lo->b, "arg", i), attr_i(lo->b, "slots", slots)};
  lay_emit(lo, n, OP_yield, 1, &v, 4, at);
}

static Op *loop(Lower *lo, const Node *n, const char *func, int64_t length, bool reverse, int nin,
                Value *const *in) {
  Attr at[] = {attr_s(lo->b, "func", func), attr_i(lo->b, "length", length),
               attr_b(lo->b, "reverse", reverse)};
  return lay_emit(lo, n, OP_scan, nin, in, 3, at);
}

/* Slots of a state: all of them when training goes back through them, or when they are the result.
 */
static int64_t slots_of(const Lower *lo, int64_t length, bool sequence) {
  return lo->learns || sequence ? length + 1 : 2;
}

/* States behind each step, in the order of time: [T, ...]. */
static Value *sequence_of(Lower *lo, const Op *scan, int i) {
  int64_t length = op_int(scan, "length", 1), first = op_int(scan, "reverse", 0) ? 0 : 1;
  return build_slice(lo->b, scan->out[i], 0, first, first + length);
}

static Value *last_of(Lower *lo, const Op *scan, int i) {
  const Type *ty = scan->out[i]->type;
  int64_t at = loop_slot(scan, ty->dim[0], op_int(scan, "length", 1));
  return build_reshape(lo->b, build_slice(lo->b, scan->out[i], 0, at, at + 1), ty->rank - 1,
                       ty->dim + 1);
}

static Value *zero(Lower *lo, int rank, const int64_t *dim) {
  Value *v = build_const(lo->b, 0, MPCC_F32);
  Attr shape = attr_ints(lo->b, "shape", rank, dim);
  return build_op(lo->b, OP_expand, 1, &v, 1, &shape)->out[0];
}

/* ---- arithmetic of cells ---- */

static Value *unary(Lower *lo, const Node *n, OpCode code, Value *x) {
  return lay_emit1(lo, n, code, 1, &x, 0, NULL);
}

static Value *binary(Lower *lo, const Node *n, OpCode code, Value *x, Value *y) {
  return lay_emit1(lo, n, code, 2, (Value *[]){x, y}, 0, NULL);
}

/* Gate k of width `hidden` along the last axis. */
static Value *gate(Lower *lo, Value *z, int k, int64_t hidden) {
  return build_slice(lo->b, z, z->type->rank - 1, k * hidden, (k + 1) * hidden);
}

/* fp8=false: transformer-engine modes quantize Linear layers alone, as the reference does [N8]. */
static Value *product(Lower *lo, const Node *n, Value *x, Value *w, Value *b) {
  Attr plain = attr_b(lo->b, "fp8", false);
  return lay_emit1(lo, n, OP_linear, b ? 3 : 2, (Value *[]){x, w, b}, 1, &plain);
}

/* Gates i, f, g, o side by side in z, and what peepholes add to i, f (of c) and o (of the new c).
 * c' = f c + i g, h' = o tanh(c'): Hochreiter and Schmidhuber 1997, with forget gates (Gers 2000).
 */
static Value *lstm_cell(Lower *lo, const Node *n, Value *z, Value *c, int64_t hidden,
                        Value *const peep[3], Value **next) {
  Value *x[4];
  for (int k = 0; k < 4; k++)
    x[k] = gate(lo, z, k, hidden);
  for (int k = 0; peep && k < 2; k++)
    x[k] = binary(lo, n, OP_add, x[k], binary(lo, n, OP_mul, c, peep[k]));
  Value *i = unary(lo, n, OP_sigmoid, x[0]), *f = unary(lo, n, OP_sigmoid, x[1]);
  Value *g = unary(lo, n, OP_tanh, x[2]);
  *next = binary(lo, n, OP_add, binary(lo, n, OP_mul, f, c), binary(lo, n, OP_mul, i, g));
  if (peep)
    x[3] = binary(lo, n, OP_add, x[3], binary(lo, n, OP_mul, *next, peep[2]));
  return binary(lo, n, OP_mul, unary(lo, n, OP_sigmoid, x[3]), unary(lo, n, OP_tanh, *next));
}

/* Gates r, z, n. n = tanh(x_n + r h_n), h' = (h - n) z + n: Cho et al. 2014, with the reset gate
 * behind the product as torch has it. */
static Value *gru_cell(Lower *lo, const Node *n, Value *x, Value *y, Value *h, int64_t hidden) {
  Value *r = unary(lo, n, OP_sigmoid,
                   binary(lo, n, OP_add, gate(lo, x, 0, hidden), gate(lo, y, 0, hidden)));
  Value *z = unary(lo, n, OP_sigmoid,
                   binary(lo, n, OP_add, gate(lo, x, 1, hidden), gate(lo, y, 1, hidden)));
  Value *reset = binary(lo, n, OP_mul, r, gate(lo, y, 2, hidden));
  Value *m = unary(lo, n, OP_tanh, binary(lo, n, OP_add, gate(lo, x, 2, hidden), reset));
  return binary(lo, n, OP_add, binary(lo, n, OP_mul, binary(lo, n, OP_sub, h, m), z), m);
}

/* ---- RNN, LSTM and GRU ---- */

/* A cell: gates, and whether it has a second state. */
typedef struct {
  int64_t gates;
  bool lstm;
  OpCode simple; /* of one gate: h' = simple(x + h), Elman 1990 */
} Cell;

typedef struct {
  Cell cell;
  bool bias, bidirectional;
  int64_t hidden, width, layers, batch, length; /* width: of h */
  Value *h0, *c0;                               /* given initial states, or NULL */
  Value *h_n[64], *c_n[64];
  int n;
} Recurrent;

enum { MOST_STATES = 64 };

/* [N, width]: state number r->n of those given, else zero. */
static Value *initial(Lower *lo, const Recurrent *r, Value *given, int64_t width) {
  const int64_t dim[2] = {r->batch, width};
  return given ? build_reshape(lo->b, build_slice(lo->b, given, 1, r->n, r->n + 1), 2, dim)
               : zero(lo, 2, dim);
}

typedef struct {
  Value *ih, *hh, *bih, *bhh, *hr;
} Weights;

static Weights weights_of(Lower *lo, const Node *n, const Recurrent *r, int64_t k, int64_t layer,
                          bool reverse) {
  static const char *const name[5] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"};
  const int64_t rows = r->cell.gates * r->hidden;
  const int64_t dim[5][2] = {{rows, k}, {rows, r->width}, {rows}, {rows}, {r->width, r->hidden}};
  Value *v[5] = {NULL};
  for (int i = 0; i < 5; i++) {
    bool vector = i == 2 || i == 3;
    if ((vector && !r->bias) || (i == 4 && r->width == r->hidden))
      continue;
    Str full = str_fmt(builder_strings(lo->b), "%s_l%lld%s", name[i], (long long)layer,
                       reverse ? "_reverse" : "");
    v[i] = lay_param(lo, n, full, vector ? 1 : 2, dim[i], init_bound(1 / sqrt((double)r->hidden)));
  }
  return (Weights){v[0], v[1], v[2], v[3], v[4]};
}

/* The body: operands h, (c,) the input's share of the gates, weight_hh (, bias_hh, weight_hr). */
static void cell_body(Lower *lo, const Node *n, const Recurrent *r, const Weights *w) {
  const int64_t rows = r->cell.gates * r->hidden;
  const int64_t h_dim[2] = {r->batch, r->width}, c_dim[2] = {r->batch, r->hidden};
  const int64_t x_dim[2] = {r->batch, rows}, w_dim[2] = {rows, r->width};
  const int64_t p_dim[2] = {r->width, r->hidden};
  int at = 0;
  Value *h = loop_in(lo, n, at++, LOOP_CARRIED, 2, h_dim);
  Value *c = r->cell.lstm ? loop_in(lo, n, at++, LOOP_CARRIED, 2, c_dim) : NULL;
  Value *x = loop_in(lo, n, at++, LOOP_STACKED, 2, x_dim);
  Value *hh = loop_in(lo, n, at++, LOOP_CAPTURED, 2, w_dim);
  Value *b = w->bhh ? loop_in(lo, n, at++, LOOP_CAPTURED, 1, &rows) : NULL;
  Value *y = product(lo, n, h, hh, b), *next = NULL;
  if (r->cell.lstm) {
    y = lstm_cell(lo, n, binary(lo, n, OP_add, x, y), c, r->hidden, NULL, &next);
    if (w->hr)
      y = product(lo, n, y, loop_in(lo, n, at, LOOP_CAPTURED, 2, p_dim), NULL);
  } else {
    y = r->cell.gates == 1 ? unary(lo, n, r->cell.simple, binary(lo, n, OP_add, x, y))
                           : gru_cell(lo, n, x, y, h, r->hidden);
  }
  next_state(lo, n, 0, y, slots_of(lo, r->length, true));
  if (r->cell.lstm)
    next_state(lo, n, 1, next, slots_of(lo, r->length, false));
}

static const int64_t swap_time[3] = {1, 0, 2};

/* One direction of one layer over x [N, T, K]: [N, T, width]. */
static Value *direction(Lower *lo, const Node *n, Recurrent *r, Value *x, int64_t layer,
                        bool reverse) {
  Builder *b = lo->b;
  Weights w = weights_of(lo, n, r, x->type->dim[2], layer, reverse);
  if (lo->failed || builder_failed(b))
    return NULL;
  const char *outer = build_current(b)->name;
  Str name = str_fmt(builder_strings(b), "%s.%s.l%lld%s", outer, n->name, (long long)layer,
                     reverse ? "_reverse" : "");
  Value *in[8];
  int nin = 0;
  in[nin++] = initial(lo, r, r->h0, r->width);
  if (r->cell.lstm)
    in[nin++] = initial(lo, r, r->c0, r->hidden);
  in[nin++] = build_permute(b, product(lo, n, x, w.ih, w.bih), swap_time);
  in[nin++] = w.hh;
  if (w.bhh)
    in[nin++] = w.bhh;
  if (w.hr)
    in[nin++] = w.hr;
  build_func_ahead(b, name);
  cell_body(lo, n, r, &w);
  build_func(b, outer);
  if (builder_failed(b))
    return NULL;
  const Op *scan = loop(lo, n, name, r->length, reverse, nin, in);
  if (builder_failed(b))
    return NULL;
  r->h_n[r->n] = last_of(lo, scan, 0);
  r->c_n[r->n] = r->cell.lstm ? last_of(lo, scan, 1) : NULL;
  r->n++;
  return build_permute(b, sequence_of(lo, scan, 0), swap_time);
}

/* States of all layers as [N, n, width]. */
static Value *states(Lower *lo, const Recurrent *r, Value *const *v) {
  Value *in[MOST_STATES];
  for (int i = 0; i < r->n; i++) {
    const int64_t dim[3] = {r->batch, 1, v[i]->type->dim[1]};
    in[i] = build_reshape(lo->b, v[i], 3, dim);
  }
  Attr dim = attr_i(lo->b, "dim", 1);
  return build_op(lo->b, OP_cat, r->n, in, 1, &dim)->out[0];
}

static Value *between_layers(Lower *lo, const Node *n, Value *x, int64_t layer) {
  double p = val_get_float(n->args, "dropout", 0);
  if (p <= 0 || !lo->train)
    return x;
  Str path = str_fmt(builder_strings(lo->b), "%s.dropout.l%lld", n->name, (long long)layer);
  Attr at[] = {attr_f(lo->b, "p", p), attr_i(lo->b, "stream", lower_stream(lo, path))};
  Value *in[3] = {x, lower_seed(lo), lower_step(lo)};
  build_at(lo->b, n->loc, n->name, NULL);
  return lay_emit1(lo, n, OP_dropout, 3, in, 2, at);
}

/* A given state is [N, layers * directions, width]; torch's order with batch_first: false. */
static bool state_fits(Lower *lo, const Node *n, const Recurrent *r, Value *const *in, int i,
                       int64_t width) {
  const int64_t dim[3] = {r->batch, r->layers * (1 + r->bidirectional), width};
  const Type *want = type_get(builder_types(lo->b), MPCC_F32, 3, dim);
  if (type_same_shape(in[i]->type, want))
    return true;
  lay_misfit(lo, n, n->loc, i, in, "takes a state %s, not %s", lay_shape(lo, want),
             lay_shape(lo, in[i]->type));
  return false;
}

static bool recurrent_args(Lower *lo, const Node *n, Value *const *in, Recurrent *r) {
  const Type *x = in[0]->type;
  r->hidden = lay_int(n, "hidden_size");
  r->width = r->cell.lstm && lay_int(n, "proj_size") ? lay_int(n, "proj_size") : r->hidden;
  r->layers = val_get_int(n->args, "num_layers", 1);
  r->bias = val_get_bool(n->args, "bias", true);
  r->bidirectional = val_get_bool(n->args, "bidirectional", false);
  r->batch = x->dim[0];
  r->length = x->dim[1];
  if (r->width > r->hidden || (r->width == r->hidden && r->cell.lstm && lay_int(n, "proj_size"))) {
    lay_error(lo, lay_loc(n, "proj_size"), 204,
              "'%s' has proj_size %lld, which must be below hidden_size %lld", n->name,
              (long long)r->width, (long long)r->hidden);
    return false;
  }
  if (r->layers * (1 + r->bidirectional) > MOST_STATES) {
    lay_error(lo, lay_loc(n, "num_layers"), 195,
              "'%s' has %lld layers: more than %d directions are not supported yet", n->name,
              (long long)r->layers, MOST_STATES);
    return false;
  }
  if (n->nin > 1)
    r->h0 = in[1];
  if (n->nin > 2)
    r->c0 = in[2];
  return lay_agrees(lo, n, "input_size", x->dim[2], in) &&
         (!r->h0 || state_fits(lo, n, r, in, 1, r->width)) &&
         (!r->c0 || state_fits(lo, n, r, in, 2, r->hidden));
}

static Value *recurrent(Lower *lo, const Node *n, Value *const *given, Cell cell) {
  Recurrent r = {.cell = cell};
  const char *output = val_get_str(n->args, "output", "sequence");
  Value *in[3];
  for (int i = 0; i < n->nin; i++)
    if (!(in[i] = lay_batch_first(lo, n, given, i)))
      return NULL;
  if (!recurrent_args(lo, n, in, &r))
    return NULL;
  Value *x = in[0];
  Attr last = attr_i(lo->b, "dim", 2);
  for (int64_t k = 0; k < r.layers; k++) {
    Value *side[2] = {direction(lo, n, &r, x, k, false), NULL};
    if (side[0] && r.bidirectional)
      side[1] = direction(lo, n, &r, x, k, true);
    if (!side[0] || (r.bidirectional && !side[1]))
      return NULL;
    x = r.bidirectional ? build_op(lo->b, OP_cat, 2, side, 1, &last)->out[0] : side[0];
    if (k + 1 < r.layers)
      x = between_layers(lo, n, x, k);
  }
  if (strcmp(output, "sequence") != 0)
    x = states(lo, &r, !strcmp(output, "h_n") ? r.h_n : r.c_n);
  return lay_batch_back(lo, n, x);
}

Value *layer_LSTM(Lower *lo, const Node *n, Value *const *in) {
  return recurrent(lo, n, in, (Cell){.gates = 4, .lstm = true});
}

Value *layer_GRU(Lower *lo, const Node *n, Value *const *in) {
  return recurrent(lo, n, in, (Cell){.gates = 3});
}

Value *layer_RNN(Lower *lo, const Node *n, Value *const *in) {
  bool relu = !strcmp(val_get_str(n->args, "nonlinearity", "tanh"), "relu");
  return recurrent(lo, n, in, (Cell){.gates = 1, .simple = relu ? OP_relu : OP_tanh});
}

/* ---- ConvLSTM ---- */

/* x [N, C, H, W] convolved so that its size stays, channels last; what an even window lacks goes
 * behind. */
static Value *convolved(Lower *lo, const Node *n, Value *x, Value *w, Value *b) {
  static const int64_t last[4] = {0, 2, 3, 1};
  int64_t begin[2], end[2];
  for (int i = 0; i < 2; i++) {
    int64_t all = w->type->dim[2 + i] - 1;
    begin[i] = all / 2;
    end[i] = all - all / 2;
  }
  Attr at[] = {attr_ints(lo->b, "padding", 2, begin), attr_ints(lo->b, "padding_end", 2, end)};
  Value *y = lay_emit1(lo, n, OP_conv, b ? 3 : 2, (Value *[]){x, w, b}, 2, at);
  return build_permute(lo->b, y, last);
}

typedef struct {
  int64_t batch, length, channels, height, width;
  Value *ih, *hh, *bias, *peep[3];
} ConvCell;

static const int64_t channels_first[4] = {0, 3, 1, 2};

/* Operands h, c, the input's share, weight_hh (, three peepholes); images channels last. */
static void conv_body(Lower *lo, const Node *n, const ConvCell *k) {
  const int64_t dim[4] = {k->batch, k->height, k->width, k->channels};
  const int64_t x_dim[4] = {k->batch, k->height, k->width, 4 * k->channels};
  Value *h = loop_in(lo, n, 0, LOOP_CARRIED, 4, dim), *c = loop_in(lo, n, 1, LOOP_CARRIED, 4, dim);
  Value *x = loop_in(lo, n, 2, LOOP_STACKED, 4, x_dim), *next;
  Value *w = loop_in(lo, n, 3, LOOP_CAPTURED, 4, k->hh->type->dim), *peep[3];
  for (int i = 0; i < 3 && k->peep[0]; i++)
    peep[i] = loop_in(lo, n, 4 + i, LOOP_CAPTURED, 3, dim + 1);
  Value *y = convolved(lo, n, build_permute(lo->b, h, channels_first), w, NULL);
  y = lstm_cell(lo, n, binary(lo, n, OP_add, x, y), c, k->channels, k->peep[0] ? peep : NULL,
                &next);
  next_state(lo, n, 0, y, slots_of(lo, k->length, true));
  next_state(lo, n, 1, next, slots_of(lo, k->length, false));
}

static bool conv_params(Lower *lo, const Node *n, int64_t in_channels, ConvCell *k) {
  const Val *size = val_get(n->args, "kernel_size");
  const int64_t o = 4 * k->channels, kh = size->item[0]->i, kw = size->item[1]->i;
  const int64_t ih[4] = {o, in_channels, kh, kw}, hh[4] = {o, k->channels, kh, kw};
  const int64_t place[3] = {k->channels, k->height, k->width}, back[3] = {1, 2, 0};
  static const char *const name[3] = {"weight_ci", "weight_cf", "weight_co"};
  Init init = init_bound(1 / sqrt((double)(k->channels * kh * kw)));
  k->ih = lay_param(lo, n, "weight_ih", 4, ih, init);
  k->hh = lay_param(lo, n, "weight_hh", 4, hh, init);
  if (val_get_bool(n->args, "bias", true))
    k->bias = lay_param(lo, n, "bias", 1, &o, init);
  for (int i = 0; i < 3 && val_get_bool(n->args, "peephole", false); i++) {
    Value *v = lay_param(lo, n, name[i], 3, place, init_constant(0));
    if (!lo->failed && !builder_failed(lo->b))
      k->peep[i] = build_permute(lo->b, v, back);
  }
  return !lo->failed && !builder_failed(lo->b);
}

/* Shi et al. 2015, equation 3: an LSTM whose products are convolutions that keep the size, with
 * peepholes when asked for. Gates i, f, g, o along the channels of the weights. */
Value *layer_ConvLSTM(Lower *lo, const Node *n, Value *const *in) {
  static const int64_t time_first[5] = {1, 0, 2, 3, 4}, out_perm[5] = {1, 0, 4, 2, 3};
  static const int64_t end_perm[4] = {0, 3, 1, 2};
  Builder *b = lo->b;
  const Type *x = in[0]->type;
  if (x->rank != 5)
    return lay_misfit(lo, n, n->loc, 0, in, "works on [N, T, C, H, W]");
  ConvCell k = {x->dim[0], x->dim[1], lay_int(n, "out_channels"), x->dim[3], x->dim[4], .ih = NULL};
  if (!lay_agrees(lo, n, "in_channels", x->dim[2], in) || !conv_params(lo, n, x->dim[2], &k))
    return NULL;
  const int64_t flat[4] = {k.batch * k.length, x->dim[2], k.height, k.width};
  const int64_t split[5] = {k.batch, k.length, k.height, k.width, 4 * k.channels};
  const int64_t state[4] = {k.batch, k.height, k.width, k.channels};
  Value *share = convolved(lo, n, build_reshape(b, in[0], 4, flat), k.ih, k.bias);
  share = build_permute(b, build_reshape(b, share, 5, split), time_first);
  Value *args[7] = {zero(lo, 4, state), zero(lo, 4, state), share,    k.hh,
                    k.peep[0],          k.peep[1],          k.peep[2]};
  const char *outer = build_current(b)->name;
  Str name = str_fmt(builder_strings(b), "%s.%s", outer, n->name);
  build_func_ahead(b, name);
  conv_body(lo, n, &k);
  build_func(b, outer);
  if (builder_failed(b))
    return NULL;
  const Op *scan = loop(lo, n, name, k.length, false, k.peep[0] ? 7 : 4, args);
  if (builder_failed(b))
    return NULL;
  if (strcmp(val_get_str(n->args, "output", "sequence"), "sequence") == 0)
    return build_permute(b, sequence_of(lo, scan, 0), out_perm);
  bool cell = !strcmp(val_get_str(n->args, "output", ""), "c_n");
  return build_permute(b, last_of(lo, scan, cell), end_perm);
}
