/* Small forward modules, made the way the frontend makes them, and what pass tests do with them:
 * run passes one by one, feed io tensors, compare. Included by the tests of passes. */
#ifndef TESTS_PASSMODELS_H
#define TESTS_PASSMODELS_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "passes/passes.h"

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} Session;

static inline Session session_open(void) {
  Session s = {arena_create(), NULL, NULL};
  s.strings = str_table_create(s.arena);
  s.diag = diag_create(s.arena, s.strings);
  return s;
}

static inline void session_close(Session *s) {
  arena_destroy(s->arena);
}

static inline void show_diagnostics(const Diag *d) {
  for (const DiagMessage *m = diag_first(d); m; m = m->next) {
    Text t = {0};
    diag_render(d, m, false, &t);
    fprintf(stderr, "%s\n", t.data ? t.data : "");
    text_fini(&t);
  }
}

typedef struct {
  const char *key, *text; /* text NULL: a number */
  double number;
} Setting;

typedef struct {
  Session *s;
  Builder *b;
  TypeTable *tt;
  Value *seed, *step;
  int stream, group_of_bias;
} Net;

static inline Net net_begin(Session *s, const Setting *set, int n) {
  Net net = {.s = s, .b = builder_create(s->strings, s->diag, STAGE_FORWARD)};
  net.tt = builder_types(net.b);
  for (int i = 0; i < n; i++)
    build_module_attr(net.b, set[i].text ? attr_s(net.b, set[i].key, set[i].text)
                             : fabs(set[i].number) < 1e15 && set[i].number == rint(set[i].number)
                                 ? attr_i(net.b, set[i].key, (int64_t)set[i].number)
                                 : attr_f(net.b, set[i].key, set[i].number));
  return net;
}

static inline const Type *type_of(Net *n, DType dt, int rank, ...) {
  int64_t dim[MAX_RANK];
  va_list ap;
  va_start(ap, rank);
  for (int i = 0; i < rank; i++)
    dim[i] = va_arg(ap, int);
  va_end(ap);
  return type_get(n->tt, dt, rank, dim);
}

static inline Tensor *tensor_of_net(Net *n, const char *name, const Type *t, Role role) {
  return build_tensor(n->b, name, t, role, (Loc){0});
}

static inline Tensor *param(Net *n, const char *name, const Type *t) {
  Tensor *p = tensor_of_net(n, name, t, ROLE_PARAM);
  build_tensor_attr(n->b, p, attr_i(n->b, "group", t->rank == 1 ? n->group_of_bias : 0));
  return p;
}

static inline Value *op_with(Net *n, OpCode code, Value *x, Value *y, Value *z, int nattr,
                             const Attr *attr) {
  Value *in[3] = {x, y, z};
  return build_op(n->b, code, z ? 3 : y ? 2 : 1, in, nattr, attr)->out[0];
}

static inline void layer(Net *n, const char *name) {
  build_at(n->b, (Loc){0}, str_c(n->s->strings, name), NULL);
}

static inline Value *linear(Net *n, Value *x, Tensor *w, Tensor *b) {
  return op_with(n, OP_linear, x, build_read(n->b, w), b ? build_read(n->b, b) : NULL, 0, NULL);
}

static inline Value *norm(Net *n, Value *x, Tensor *w, Tensor *b) {
  Attr attr[2] = {attr_i(n->b, "axes", 1), attr_f(n->b, "eps", 1e-5)};
  return op_with(n, OP_layer_norm, x, build_read(n->b, w), build_read(n->b, b), 2, attr);
}

typedef struct {
  Tensor *image, *label, *valid, *seed, *loss, *weight, *correct, *logits;
} Io;

static inline Io io_tensors(Net *n, const Type *image, int batch, int classes) {
  Io io;
  const Type *i0 = type_of(n, MPCC_I64, 0), *f0 = type_of(n, MPCC_F32, 0);
  io.image = tensor_of_net(n, "io.image", image, ROLE_INPUT);
  io.label = tensor_of_net(n, "io.label", type_of(n, MPCC_I64, 1, batch), ROLE_INPUT);
  io.valid = tensor_of_net(n, "io.valid", i0, ROLE_VALID);
  io.seed = tensor_of_net(n, "io.seed", i0, ROLE_SEED);
  io.loss = tensor_of_net(n, "metric.loss_sum", f0, ROLE_METRIC);
  io.weight = tensor_of_net(n, "metric.weight_sum", f0, ROLE_METRIC);
  io.correct = tensor_of_net(n, "metric.correct", f0, ROLE_METRIC);
  io.logits =
      tensor_of_net(n, "output.logits", type_of(n, MPCC_F32, 2, batch, classes), ROLE_OUTPUT);
  tensor_of_net(n, "count.seen", i0, ROLE_COUNTER);
  tensor_of_net(n, "count.taken", i0, ROLE_COUNTER);
  tensor_of_net(n, "count.skipped", i0, ROLE_COUNTER);
  return io;
}

/* The model's body for one function; writes nothing. */
typedef Value *Forward(Net *n, void *tensors, Value *x, bool train);

static inline void loss_and_metrics(Net *n, const Io *io, Value *logits, bool train) {
  Builder *b = n->b;
  layer(n, "loss");
  Value *label = build_read(b, io->label), *valid = build_read(b, io->valid);
  Attr whole[2] = {attr_dt(b, "dtype", MPCC_F32), attr_i(b, "capacity", logits->type->dim[0])};
  Value *seed = build_op(b, OP_loss_seed, 0, NULL, 2, whole)->out[0];
  Value *in[4] = {logits, label, seed, valid};
  Attr attr[2] = {attr_f(b, "label_smoothing", 0), attr_i(b, "ignore_index", -100)};
  Op *ce = build_op(b, OP_cross_entropy, 4, in, 2, attr);
  build_write(b, io->loss, ce->out[0]);
  build_write(b, io->weight, ce->out[1]);
  if (train)
    return;
  Value *hit[3] = {logits, label, valid};
  build_write(b, io->correct, build_op(b, OP_accuracy, 3, hit, 1, attr + 1)->out[0]);
}

/* Functions of the forward stage; init gives every parameter uniform numbers in [-bound, bound]. */
static inline Module *net_finish(Net *n, const Io *io, Forward *f, void *tensors, Tensor **params,
                                 int nparam, double bound) {
  Builder *b = n->b;
  build_func(b, "init");
  layer(n, "");
  Value *seed = build_read(b, io->seed), *before = build_const(b, -1, MPCC_I64);
  for (int i = 0; i < nparam; i++) {
    const Type *t = params[i]->type;
    Attr attr[2] = {attr_ints(b, "shape", t->rank, t->dim), attr_i(b, "stream", 100 + i)};
    Value *in[2] = {seed, before};
    Value *u = build_op(b, OP_random, 2, in, 2, attr)->out[0];
    Str text = str_fmt(n->s->strings, "(2 * a - 1) * %.17g", bound);
    build_write(b, params[i], build_expr(b, text, MPCC_F32, 1, &u));
  }
  static const char *const names[3] = {"train_forward", "eval_forward", "predict"};
  for (int k = 0; k < 3; k++) {
    build_func(b, names[k]);
    layer(n, "");
    n->stream = 0;
    n->seed = build_read(b, io->seed);
    n->step = NULL;
    Value *logits = f(n, tensors, build_read(b, io->image), k == 0);
    if (k < 2)
      loss_and_metrics(n, io, logits, k == 0);
    else
      build_write(b, io->logits, logits);
  }
  Module *m = NULL;
  Status st = builder_finish(b, &m);
  if (st != MPCC_OK)
    show_diagnostics(n->s->diag);
  ck_assert_int_eq(st, MPCC_OK);
  return m;
}

/* ---- models ---------------------------------------------------------------------------------- */

/* One linear layer, fc. */
static inline Value *one_linear(Net *n, void *tensors, Value *x, bool train) {
  Tensor **t = tensors;
  (void)train;
  layer(n, "fc");
  return linear(n, x, t[0], t[1]);
}

static inline Module *one_layer(Session *s, const Setting *set, int nset, int rows, int in,
                                int out) {
  Net n = net_begin(s, set, nset);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, rows, in), rows, out);
  Tensor *t[2] = {param(&n, "fc.weight", type_of(&n, MPCC_F32, 2, out, in)),
                  param(&n, "fc.bias", type_of(&n, MPCC_F32, 1, out))};
  return net_finish(&n, &io, one_linear, t, t, 2, 0.4);
}

typedef struct {
  Tensor *w0, *b0, *w1, *b1;
} Mlp;

static inline Value *mlp_forward(Net *n, void *tensors, Value *x, bool train) {
  Mlp *t = tensors;
  (void)train;
  layer(n, "fc0");
  x = build1(n->b, OP_gelu, linear(n, x, t->w0, t->b0));
  layer(n, "fc1");
  return linear(n, x, t->w1, t->b1);
}

/* in -> hidden -> GELU -> classes */
static inline Module *mlp(Session *s, const Setting *set, int nset, int batch, int in, int hidden,
                          int classes) {
  Net n = net_begin(s, set, nset);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 2, batch, in), batch, classes);
  Mlp t = {param(&n, "fc0.weight", type_of(&n, MPCC_F32, 2, hidden, in)),
           param(&n, "fc0.bias", type_of(&n, MPCC_F32, 1, hidden)),
           param(&n, "fc1.weight", type_of(&n, MPCC_F32, 2, classes, hidden)),
           param(&n, "fc1.bias", type_of(&n, MPCC_F32, 1, classes))};
  Tensor *all[] = {t.w0, t.b0, t.w1, t.b1};
  return net_finish(&n, &io, mlp_forward, &t, all, 4, 0.4);
}

enum { VIT_BATCH = 2, VIT_PATCH = 2, VIT_SIDE = 4, VIT_WIDTH = 8, VIT_HEADS = 2, VIT_CLASSES = 3 };

typedef struct {
  Tensor *conv_w, *conv_b, *token, *pos, *ln1_w, *ln1_b, *qkv_w, *qkv_b, *out_w, *out_b, *ln2_w,
      *ln2_b, *fc1_w, *fc1_b, *fc2_w, *fc2_b, *head_w, *head_b;
} Vit;
enum { VIT_PARAMS = sizeof(Vit) / sizeof(Tensor *) };

static inline Value *vit_dropout(Net *n, Value *x, bool train) {
  if (!train)
    return x;
  if (!n->step) {
    n->step = build_const(n->b, 5, MPCC_I64);
  }
  Attr attr[2] = {attr_f(n->b, "p", 0.25), attr_i(n->b, "stream", n->stream++)};
  return op_with(n, OP_dropout, x, n->seed, n->step, 2, attr);
}

/* Patch embedding, class token, one pre-norm block with packed qkv, mean of tokens, head. */
static inline Value *vit_forward(Net *n, void *tensors, Value *x, bool train) {
  Vit *t = tensors;
  Builder *b = n->b;
  const int B = VIT_BATCH, C = VIT_WIDTH, P = VIT_SIDE / VIT_PATCH, T = P * P;
  layer(n, "conv_proj");
  const int64_t stride[2] = {VIT_PATCH, VIT_PATCH}, zero[2] = {0, 0}, one[2] = {1, 1};
  Attr conv[4] = {attr_ints(b, "stride", 2, stride), attr_ints(b, "padding", 2, zero),
                  attr_ints(b, "dilation", 2, one), attr_i(b, "groups", 1)};
  x = op_with(n, OP_conv, x, build_read(b, t->conv_w), build_read(b, t->conv_b), 4, conv);
  x = build_reshape(b, x, 3, (const int64_t[]){B, C, T});
  x = build_permute(b, x, (const int64_t[]){0, 2, 1});
  layer(n, "class_token");
  Attr shape = attr_ints(b, "shape", 3, (const int64_t[]){B, 1, C});
  Value *cls = op_with(n, OP_expand, build_read(b, t->token), NULL, NULL, 1, &shape);
  Attr dim = attr_i(b, "dim", 1);
  x = op_with(n, OP_cat, cls, x, NULL, 1, &dim);
  x = vit_dropout(n, build2(b, OP_add, x, build_read(b, t->pos)), train);
  layer(n, "attention");
  Value *h = linear(n, norm(n, x, t->ln1_w, t->ln1_b), t->qkv_w, t->qkv_b);
  Value *qkv[5];
  for (int i = 0; i < 3; i++)
    qkv[i] = build_slice(b, h, 2, i * C, (i + 1) * C);
  Attr att[4] = {attr_i(b, "heads", VIT_HEADS), attr_b(b, "causal", false), attr_f(b, "scale", 0.5),
                 attr_f(b, "dropout_p", 0)};
  h = build_op(b, OP_attention, 3, qkv, 4, att)->out[0];
  layer(n, "out_proj");
  x = build2(b, OP_add, x, linear(n, h, t->out_w, t->out_b));
  layer(n, "mlp.0");
  h = build1(b, OP_gelu, linear(n, norm(n, x, t->ln2_w, t->ln2_b), t->fc1_w, t->fc1_b));
  layer(n, "mlp.3");
  x = build2(b, OP_add, x, linear(n, h, t->fc2_w, t->fc2_b));
  layer(n, "head");
  Attr mean[2] = {attr_ints(b, "dims", 1, (const int64_t[]){1}), attr_b(b, "keepdim", false)};
  x = op_with(n, OP_mean, x, NULL, NULL, 2, mean);
  return linear(n, x, t->head_w, t->head_b);
}

static inline Module *vit(Session *s, const Setting *set, int nset) {
  Net n = net_begin(s, set, nset);
  const int B = VIT_BATCH, C = VIT_WIDTH, S = VIT_SIDE, P = VIT_PATCH, H = 12, K = VIT_CLASSES;
  const int T = (S / P) * (S / P);
  Io io = io_tensors(&n, type_of(&n, MPCC_F32, 4, B, 1, S, S), B, K);
  Vit t = {param(&n, "conv_proj.weight", type_of(&n, MPCC_F32, 4, C, 1, P, P)),
           param(&n, "conv_proj.bias", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "class_token", type_of(&n, MPCC_F32, 3, 1, 1, C)),
           param(&n, "pos_embedding", type_of(&n, MPCC_F32, 3, 1, T + 1, C)),
           param(&n, "ln_1.weight", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "ln_1.bias", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "in_proj_weight", type_of(&n, MPCC_F32, 2, 3 * C, C)),
           param(&n, "in_proj_bias", type_of(&n, MPCC_F32, 1, 3 * C)),
           param(&n, "out_proj.weight", type_of(&n, MPCC_F32, 2, C, C)),
           param(&n, "out_proj.bias", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "ln_2.weight", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "ln_2.bias", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "mlp.0.weight", type_of(&n, MPCC_F32, 2, H, C)),
           param(&n, "mlp.0.bias", type_of(&n, MPCC_F32, 1, H)),
           param(&n, "mlp.3.weight", type_of(&n, MPCC_F32, 2, C, H)),
           param(&n, "mlp.3.bias", type_of(&n, MPCC_F32, 1, C)),
           param(&n, "head.weight", type_of(&n, MPCC_F32, 2, K, C)),
           param(&n, "head.bias", type_of(&n, MPCC_F32, 1, K))};
  return net_finish(&n, &io, vit_forward, &t, (Tensor **)&t, VIT_PARAMS, 0.7);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static inline Status try_pass(Session *s, const Module *m, PassFn *f, Stage gives, Module **out) {
  PassOpts o = {0};
  Builder *b = builder_create(s->strings, s->diag, gives);
  *out = NULL;
  Status st = f(m, &o, b, s->diag);
  if (st != MPCC_OK) {
    builder_destroy(b);
    return st;
  }
  return builder_finish(b, out);
}

/* Replaces *m by the pass's result. */
static inline void apply(Session *s, Module **m, PassFn *f, Stage gives) {
  Module *next;
  Status st = try_pass(s, *m, f, gives, &next);
  if (st != MPCC_OK)
    show_diagnostics(s->diag);
  ck_assert_int_eq(st, MPCC_OK);
  module_destroy(*m);
  *m = next;
}

static inline void apply_until(Session *s, Module **m, Stage last) {
  apply(s, m, pass_canon, STAGE_FORWARD);
  apply(s, m, pass_autocast, STAGE_FORWARD);
  apply(s, m, pass_fp8, STAGE_FORWARD);
  apply(s, m, pass_castopt, STAGE_TYPED);
  if (last >= STAGE_LAID)
    apply(s, m, pass_layout, STAGE_LAID);
  if (last >= STAGE_TRAIN)
    apply(s, m, pass_grad, STAGE_TRAIN);
  if (last >= STAGE_STEP)
    apply(s, m, pass_step, STAGE_STEP);
}

/* A module of stage train, given as text, through step. */
static inline Module *step_module(Session *s, const Text *t) {
  Module *m = NULL;
  uint32_t file = diag_file(s->diag, "one.mpir", t->data, t->len);
  Status st = module_parse(s->strings, s->diag, file, t->data, t->len, &m);
  if (st != MPCC_OK)
    show_diagnostics(s->diag);
  ck_assert_int_eq(st, MPCC_OK);
  apply(s, &m, pass_step, STAGE_STEP);
  return m;
}

/* ---- running --------------------------------------------------------------------------------- */

static inline double *data_of(Eval *e, const Module *m, const char *name) {
  Tensor *t = module_tensor(m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  return eval_tensor(e, t);
}

static inline void run(Eval *e, const Module *m, const char *name) {
  Func *f = module_func(m, name);
  ck_assert_msg(f != NULL, "no function %s", name);
  ck_assert_int_eq(eval_run(e, f), MPCC_OK);
}

/* Repeatable numbers in [-1, 1). */
static inline double noise(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)(*state >> 11) / (double)(1LL << 52) - 1.0;
}

/* A batch of images and labels; rows of data start at sample `first`. */
static inline void feed(Eval *e, const Module *m, int first, int classes) {
  Tensor *image = module_tensor(m, "io.image");
  double *x = eval_tensor(e, image), *y = data_of(e, m, "io.label");
  int64_t batch = image->type->dim[0], per = type_elems(image->type) / batch;
  for (int64_t i = 0; i < batch; i++) {
    uint64_t state = 977 * (uint64_t)(first + i) + 13;
    for (int64_t k = 0; k < per; k++)
      x[i * per + k] = (double)(float)noise(&state);
    y[i] = (double)((first + i) * 7 % classes);
  }
  *data_of(e, m, "io.valid") = (double)batch;
  *data_of(e, m, "io.seed") = 42;
}

static inline const Op *find_op(const Func *f, OpCode code, int nth) {
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == code && nth-- == 0)
      return f->op[i];
  return NULL;
}

static inline int count_op(const Func *f, OpCode code) {
  int n = 0;
  for (int i = 0; i < f->nop; i++)
    n += f->op[i]->code == code;
  return n;
}

static inline void fill_table(Eval *e, const Module *m, double lr, double beta1, double beta2) {
  Tensor *t = module_tensor(m, "io.table");
  double *row = eval_tensor(e, t);
  int64_t columns = t->type->dim[1];
  bool adam = strstr(tensor_str(t, "columns", ""), "bc1") != NULL;
  for (int64_t i = 0; i < t->type->dim[0]; i++)
    for (int64_t k = 0; k < columns; k++) {
      double *v = &row[i * columns + k];
      if (!adam || k % 3 == 0)
        *v = lr;
      else if (k % 3 == 1)
        *v = 1 - pow(beta1, (double)(i + 1));
      else
        *v = sqrt(1 - pow(beta2, (double)(i + 1)));
    }
}

#endif
