/* Lowering of normalisation by channels (batch, group): sums over the rows of [N, S..., C], or over
 * those of each sample, then one pointwise pass.
 * What depends on the channel alone is computed in nodes of its own, whose results the passes over
 * the image load. */
#include "passes/fuse.h"

typedef struct {
  int rank;
  int64_t dim[MAX_DIMS]; /* [N, S..., C] */
  int64_t places;        /* S */
  DType reg;
} Image;

static Image image_of(Fuse *F, const Type *ty, DType reg) {
  (void)F;
  Image m = {.rank = ty->rank, .places = 1, .reg = reg};
  m.dim[0] = ty->dim[0];
  for (int i = 2; i < ty->rank; i++) {
    m.dim[i - 1] = ty->dim[i];
    m.places *= ty->dim[i];
  }
  m.dim[ty->rank - 1] = ty->dim[1];
  return m;
}

/* [N, C, S...] seen as [N, S..., C]; copied where channels are far apart and places are not. */
static View *image(Fuse *F, View *x) {
  View *v = view_channels_last(F, x);
  int last = v->rank - 1;
  return v->buf && v->dim[last] > 1 && v->at.stride[last] != 1 ? view_copied(F, v, v->dt) : v;
}

/* Result 0, made as [N, S..., C]. */
static void give_image(Fuse *F, const Image *m, Node *n, int stmt, int result) {
  int64_t back[MAX_RANK];
  back[0] = 0;
  back[1] = m->rank - 1;
  for (int i = 2; i < m->rank; i++)
    back[i] = i - 1;
  Buf *b = node_store(F, n, stmt, F->op->out[result]->type->dt, ~0u);
  set_result(F, result, view_permuted(F, view_whole(F, b), back));
}

static int is_valid(Fuse *F, Node *n, const View *valid) {
  return node_op2(F, n, PR_LT, node_index(F, n, 0), node_load(F, n, valid));
}

static int where_valid(Fuse *F, Node *n, const View *valid, int stmt) {
  return node_select(F, n, is_valid(F, n, valid), stmt, node_const(F, n, node_reg(n, stmt), 0));
}

/* A node over the channels alone. */
static Node *per_channel(Fuse *F, const Image *m) {
  return node_rigid(F, 1, &m->dim[m->rank - 1], 1);
}

/* Number of values behind a channel's sums. */
static int count(Fuse *F, Node *n, const View *valid, const Image *m) {
  int k = node_cvt(F, n, node_load(F, n, valid), m->reg);
  return node_op2(F, n, PR_MUL, k, node_const(F, n, m->reg, (double)m->places));
}

static View *sum_rows(Fuse *F, const Image *m, Node *n, int stmt) {
  const Type *ty = type_get(builder_types(F->b), m->reg, 1, &m->dim[m->rank - 1]);
  return view_whole(F, node_column_sum(F, n, stmt, ty));
}

/* sum / n per channel */
static View *mean_of(Fuse *F, const Image *m, const View *sum, const View *valid) {
  Node *n = per_channel(F, m);
  int v = node_op2(F, n, PR_DIV, node_load(F, n, sum), count(F, n, valid, m));
  return view_whole(F, node_store(F, n, v, m->reg, ~0u));
}

static int rstd_of(Fuse *F, Node *n, const View *var, const Image *m) {
  int eps = node_const(F, n, m->reg, op_float(F->op, "eps", 1e-5));
  int std = node_op1(F, n, PR_SQRT, node_op2(F, n, PR_ADD, node_load_as(F, n, var, m->reg), eps));
  return node_op2(F, n, PR_DIV, node_const(F, n, m->reg, 1), std);
}

/* w / sqrt(var + eps) per channel; w NULL: 1 */
static View *scale_of(Fuse *F, const Image *m, const View *var, const View *w) {
  Node *n = per_channel(F, m);
  int s = rstd_of(F, n, var, m);
  if (w)
    s = node_op2(F, n, PR_MUL, s, node_load_as(F, n, w, m->reg));
  return view_whole(F, node_store(F, n, s, m->reg, ~0u));
}

/* (x - mean) scale + b */
static void apply(Fuse *F, const Image *m, const View *x, const View *mean, const View *scale,
                  const View *b) {
  Node *n = node_rows(F, m->rank, m->dim);
  int d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, m->reg), node_load_as(F, n, mean, m->reg));
  int y = node_op2(F, n, PR_MUL, d, node_load(F, n, scale));
  if (b)
    y = node_op2(F, n, PR_ADD, y, node_load_as(F, n, b, m->reg));
  give_image(F, m, n, y, 0);
}

void group_batch_norm(Fuse *F, const Op *op) {
  DType reg = reg_join(op->in[0]->type->dt, op->out[1]->type->dt);
  Image m = image_of(F, op->in[0]->type, reg);
  View *x = image(F, operand(F, 0)), *valid = operand(F, 1);
  Node *n = node_rigid(F, m.rank, m.dim, 1);
  View *mean = sum_rows(F, &m, n, where_valid(F, n, valid, node_load_as(F, n, x, reg)));
  mean = mean_of(F, &m, mean, valid);
  n = node_rigid(F, m.rank, m.dim, 1);
  int d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load(F, n, mean));
  View *var = sum_rows(F, &m, n, where_valid(F, n, valid, node_op2(F, n, PR_MUL, d, d)));
  var = mean_of(F, &m, var, valid);
  View *scale = scale_of(F, &m, var, op->nin > 2 ? operand(F, 2) : NULL);
  apply(F, &m, x, mean, scale, op->nin > 3 ? operand(F, 3) : NULL);
  set_result(F, 1, mean);
  set_result(F, 2, var);
}

void group_batch_affine(Fuse *F, const Op *op) {
  DType reg = reg_join(op->in[0]->type->dt, MPCC_F32);
  Image m = image_of(F, op->in[0]->type, reg);
  View *scale = scale_of(F, &m, operand(F, 2), op->nin > 3 ? operand(F, 3) : NULL);
  apply(F, &m, image(F, operand(F, 0)), operand(F, 1), scale, op->nin > 4 ? operand(F, 4) : NULL);
}

/* dx = w rstd (dy - sum / n - (x - mean) rstd^2 dot / n), with dot = sum of dy (x - mean) */
void group_batch_norm_grad(Fuse *F, const Op *op) {
  DType reg = reg_join(op->in[1]->type->dt, op->in[2]->type->dt);
  Image m = image_of(F, op->in[1]->type, reg);
  View *dy = image(F, operand(F, 0)), *x = image(F, operand(F, 1)), *mean = operand(F, 2);
  View *valid = operand(F, 4);
  Node *n = node_rigid(F, m.rank, m.dim, 1);
  int g = node_load_as(F, n, dy, reg);
  int d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load_as(F, n, mean, reg));
  int gd = where_valid(F, n, valid, node_op2(F, n, PR_MUL, g, d));
  g = where_valid(F, n, valid, g);
  View *sum = sum_rows(F, &m, n, g), *dot = sum_rows(F, &m, n, gd);

  Node *k = per_channel(F, &m);
  int rstd = rstd_of(F, k, operand(F, 3), &m), all = count(F, k, valid, &m);
  int s = node_load(F, k, sum), t = node_op2(F, k, PR_MUL, node_load(F, k, dot), rstd);
  View *shift = view_whole(F, node_store(F, k, node_op2(F, k, PR_DIV, s, all), reg, ~0u));
  int slope = node_op2(F, k, PR_DIV, node_op2(F, k, PR_MUL, t, rstd), all);
  View *tilt = view_whole(F, node_store(F, k, slope, reg, ~0u));
  int w = op->nin > 5 ? node_op2(F, k, PR_MUL, rstd, node_load_as(F, k, operand(F, 5), reg)) : rstd;
  View *scale = view_whole(F, node_store(F, k, w, reg, ~0u));
  if (op->nin > 5) {
    set_result_buf(F, 1, node_store(F, k, t, op->out[1]->type->dt, ~0u));
    set_result_buf(F, 2, node_store(F, k, s, op->out[2]->type->dt, ~0u));
  }

  n = node_rows(F, m.rank, m.dim);
  d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load_as(F, n, mean, reg));
  g = node_op2(F, n, PR_SUB, node_load_as(F, n, dy, reg), node_load(F, n, shift));
  g = node_op2(F, n, PR_SUB, g, node_op2(F, n, PR_MUL, d, node_load(F, n, tilt)));
  g = node_op2(F, n, PR_MUL, g, node_load(F, n, scale));
  give_image(F, &m, n, where_valid(F, n, valid, g), 0);
}

void group_running_stats(Fuse *F, const Op *op) {
  double momentum = op_float(op, "momentum", 0.1);
  const Type *ty = op->in[0]->type;
  DType reg = reg_join(ty->dt, MPCC_F32);
  Node *n = node_rigid(F, 1, ty->dim, 1);
  int batches =
      node_op2(F, n, PR_ADD, node_load(F, n, operand(F, 5)), node_const(F, n, MPCC_I64, 1));
  int one = node_const(F, n, reg, 1);
  int part = op_int(op, "cumulative", 0) ? node_op2(F, n, PR_DIV, one, node_cvt(F, n, batches, reg))
                                         : node_const(F, n, reg, momentum);
  int all = node_op2(F, n, PR_MUL, node_cvt(F, n, node_load(F, n, operand(F, 4)), reg),
                     node_const(F, n, reg, (double)op_int(op, "places", 1)));
  int less = node_op2(F, n, PR_MAX, node_op2(F, n, PR_SUB, all, one), one);
  for (int i = 0; i < 2; i++) {
    int now = node_load_as(F, n, operand(F, i), reg);
    int old = node_load_as(F, n, operand(F, 2 + i), reg);
    if (i)
      now = node_op2(F, n, PR_DIV, node_op2(F, n, PR_MUL, now, all), less);
    int step = node_op2(F, n, PR_MUL, part, node_op2(F, n, PR_SUB, now, old));
    set_result_buf(F, i,
                   node_store(F, n, node_op2(F, n, PR_ADD, old, step), op->out[i]->type->dt, ~0u));
  }
  n = node_rows(F, 0, NULL);
  batches = node_op2(F, n, PR_ADD, node_load(F, n, operand(F, 5)), node_const(F, n, MPCC_I64, 1));
  set_result_buf(F, 2, node_store(F, n, batches, MPCC_I64, ~0u));
}

/* ---- group normalisation: statistics of the groups of each sample ---- */

/* Sums of stmt over the places of each sample: [N, C]. A panel is a sample. */
static View *sum_places(Fuse *F, const Image *m, Node *n, int stmt) {
  int64_t c = m->dim[m->rank - 1], dim[2] = {m->dim[0], c};
  const Type *ty = type_get(builder_types(F->b), m->reg, 2, dim);
  return view_whole(F, node_panel_sums(F, n, stmt, ty, m->places));
}

typedef struct {
  Image m;
  int64_t channels[3]; /* [N, G, C / G] */
  double count;        /* elements of a group */
} Groups;

static Groups groups_of(Fuse *F, const Op *op, const Type *ty, DType reg) {
  Groups g = {.m = image_of(F, ty, reg)};
  g.channels[0] = ty->dim[0];
  g.channels[1] = op_int(op, "groups", 1);
  g.channels[2] = ty->dim[1] / g.channels[1];
  g.count = (double)(g.m.places * g.channels[2]);
  return g;
}

/* v, whose elements are as many as dim's, in that shape. */
static View *shaped(Fuse *F, const View *v, int ndim, const int64_t *dim) {
  View *w;
  if (!view_reshaped(F, v, ndim, dim, &w))
    view_reshaped(F, view_materialize(F, v), ndim, dim, &w);
  return w;
}

static Node *group_node(Fuse *F, const Groups *g) {
  return node_rigid(F, 3, g->channels, 1);
}

/* Load of what has one value per sample and channel, per group, per channel. */
static int load_places(Fuse *F, Node *n, const Groups *g, const View *v) {
  return node_load_as(F, n, shaped(F, v, 3, g->channels), g->m.reg);
}

static int load_group(Fuse *F, Node *n, const Groups *g, const View *v) {
  return node_load_as(F, n, shaped(F, v, 3, (int64_t[]){g->channels[0], g->channels[1], 1}),
                      g->m.reg);
}

static int load_channel(Fuse *F, Node *n, const Groups *g, const View *v) {
  return node_load_as(F, n, shaped(F, v, 3, (int64_t[]){1, g->channels[1], g->channels[2]}),
                      g->m.reg);
}

/* Value per sample and channel, as the passes over the image load it. */
static View *give_places(Fuse *F, Node *n, const Groups *g, int stmt) {
  int64_t dim[MAX_DIMS];
  for (int i = 0; i < g->m.rank; i++)
    dim[i] = i == 0 || i == g->m.rank - 1 ? g->m.dim[i] : 1;
  return shaped(F, view_whole(F, node_store(F, n, stmt, g->m.reg, ~0u)), g->m.rank, dim);
}

/* Mean over a group of what is summed over places already: [N, G]. */
static int mean_of_group(Fuse *F, Node *n, const Groups *g, int stmt) {
  return node_op2(F, n, PR_DIV, node_op1(F, n, PR_RSUM, stmt),
                  node_const(F, n, g->m.reg, g->count));
}

static View *group_stat(Fuse *F, const Groups *g, const View *sum) {
  Node *n = group_node(F, g);
  int mean = mean_of_group(F, n, g, load_places(F, n, g, sum));
  return view_whole(F, node_store(F, n, mean, g->m.reg, 3u));
}

static int group_rstd(Fuse *F, Node *n, const Groups *g, const View *var) {
  DType reg = g->m.reg;
  int eps = node_const(F, n, reg, op_float(F->op, "eps", 1e-5));
  int std = node_op1(F, n, PR_SQRT, node_op2(F, n, PR_ADD, load_group(F, n, g, var), eps));
  return node_op2(F, n, PR_DIV, node_const(F, n, reg, 1), std);
}

/* A group's value for each of its channels. */
static View *per_place(Fuse *F, const Groups *g, const View *stat) {
  Node *n = node_rows(F, 3, g->channels);
  return give_places(F, n, g, load_group(F, n, g, stat));
}

void group_group_norm(Fuse *F, const Op *op) {
  DType reg = reg_join(op->in[0]->type->dt, op->out[1]->type->dt);
  Groups g = groups_of(F, op, op->in[0]->type, reg);
  const Image *m = &g.m;
  View *x = image(F, operand(F, 0));
  Node *n = node_rigid(F, m->rank, m->dim, 1);
  View *mean = group_stat(F, &g, sum_places(F, m, n, node_load_as(F, n, x, reg)));
  View *centre = per_place(F, &g, mean);
  n = node_rigid(F, m->rank, m->dim, 1);
  int d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load(F, n, centre));
  View *var = group_stat(F, &g, sum_places(F, m, n, node_op2(F, n, PR_MUL, d, d)));
  n = node_rows(F, 3, g.channels);
  int s = group_rstd(F, n, &g, var);
  if (op->nin > 1)
    s = node_op2(F, n, PR_MUL, s, load_channel(F, n, &g, operand(F, 1)));
  apply(F, m, x, centre, give_places(F, n, &g, s), op->nin > 2 ? operand(F, 2) : NULL);
  set_result(F, 1, mean);
  set_result(F, 2, var);
}

/* dx = w rstd dy - shift - (x - mean) tilt, with shift = rstd mean(w dy) and tilt = rstd^3
 * mean(w dy (x - mean)) */
void group_group_norm_grad(Fuse *F, const Op *op) {
  DType reg = reg_join(op->in[1]->type->dt, op->in[2]->type->dt);
  Groups g = groups_of(F, op, op->in[1]->type, reg);
  const Image *m = &g.m;
  View *dy = image(F, operand(F, 0)), *x = image(F, operand(F, 1));
  View *centre = per_place(F, &g, operand(F, 2));
  Node *n = node_rigid(F, m->rank, m->dim, 1);
  int e = node_load_as(F, n, dy, reg);
  int d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load(F, n, centre));
  int ed = node_op2(F, n, PR_MUL, e, d);
  View *sum = sum_places(F, m, n, e), *dot = sum_places(F, m, n, ed);

  View *w = op->nin > 4 ? operand(F, 4) : NULL;
  Node *k = group_node(F, &g);
  int rstd = group_rstd(F, k, &g, operand(F, 3));
  int s = load_places(F, k, &g, sum);
  int t = node_op2(F, k, PR_MUL, load_places(F, k, &g, dot), rstd);
  if (w) {
    s = node_op2(F, k, PR_MUL, s, load_channel(F, k, &g, w));
    t = node_op2(F, k, PR_MUL, t, load_channel(F, k, &g, w));
  }
  int shift = node_op2(F, k, PR_MUL, mean_of_group(F, k, &g, s), rstd);
  int tilt = node_op2(F, k, PR_MUL, node_op2(F, k, PR_MUL, mean_of_group(F, k, &g, t), rstd), rstd);
  View *group_shift = view_whole(F, node_store(F, k, shift, reg, 3u));
  View *group_tilt = view_whole(F, node_store(F, k, tilt, reg, 3u));
  if (w) {
    const Type *ty =
        type_get(builder_types(F->b), reg, 2, (int64_t[]){g.channels[1], g.channels[2]});
    Node *c = node_rigid(F, 3, g.channels, 2);
    int by =
        node_op2(F, c, PR_MUL, load_places(F, c, &g, dot), group_rstd(F, c, &g, operand(F, 3)));
    for (int i = 0; i < 2; i++) {
      Buf *b = node_column_sum(F, c, i ? load_places(F, c, &g, sum) : by,
                               type_with_dtype(builder_types(F->b), ty, op->out[1 + i]->type->dt));
      set_result(F, 1 + i, shaped(F, view_whole(F, b), 1, op->out[1 + i]->type->dim));
    }
  }

  Node *q = node_rows(F, 3, g.channels);
  int scale = group_rstd(F, q, &g, operand(F, 3));
  if (w)
    scale = node_op2(F, q, PR_MUL, scale, load_channel(F, q, &g, w));
  View *place_scale = give_places(F, q, &g, scale);
  n = node_rows(F, m->rank, m->dim);
  d = node_op2(F, n, PR_SUB, node_load_as(F, n, x, reg), node_load(F, n, centre));
  e = node_op2(F, n, PR_MUL, node_load_as(F, n, dy, reg), node_load(F, n, place_scale));
  e = node_op2(F, n, PR_SUB, e, node_load(F, n, per_place(F, &g, group_shift)));
  d = node_op2(F, n, PR_MUL, d, node_load(F, n, per_place(F, &g, group_tilt)));
  give_image(F, m, n, node_op2(F, n, PR_SUB, e, d), 0);
}
