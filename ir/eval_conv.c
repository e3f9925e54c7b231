/* ref_<op> of convolutions: plain loops in double over the window that conv.c
 * describes. */
#include "ir/eval.h"

static const Type *in_type(const Call *c, int k) {
  return c->op->in[k]->type;
}

/* Row-major number of index i in extents dim. */
static int64_t flat(const int64_t *i, const int64_t *dim, int n) {
  int64_t at = 0;
  for (int d = 0; d < n; d++)
    at = at * dim[d] + i[d];
  return at;
}

static int64_t extent(const int64_t *dim, int n) {
  int64_t all = 1;
  for (int d = 0; d < n; d++)
    all *= dim[d];
  return all;
}

/* ---- conv: torch's order --------------------------------------------------------------------- */

static int64_t list_attr(const Op *op, const char *key, int i, int64_t otherwise) {
  const Attr *a = op_attr(op, key);
  return a && a->kind == AT_INTS && i < a->u.ints.n ? a->u.ints.v[i] : otherwise;
}

/* Every pair of an input place and a tap meets one place of the (strided, for transposed
 * convolutions the larger) other side: y += x w, whichever of the two sides is the input. */
Status ref_conv(const Call *c) {
  const Op *op = c->op;
  const Type *x = in_type(c, 0), *w = in_type(c, 1), *y = op->out[0]->type;
  int nd = x->rank - 2;
  bool transposed = op_int(op, "transposed", 0);
  int64_t groups = op_int(op, "groups", 1), n = x->dim[0], outs = y->dim[1], ins = x->dim[1];
  const Type *small = transposed ? x : y, *big = transposed ? y : x;
  int64_t places = extent(small->dim + 2, nd), taps = extent(w->dim + 2, nd);
  int64_t room = extent(big->dim + 2, nd), ypos = extent(y->dim + 2, nd);
  for (int64_t i = 0; i < n * outs; i++)
    for (int64_t p = 0; p < ypos; p++)
      c->out[0][i * ypos + p] = op->nin > 2 ? c->in[2][i % outs] : 0;
  for (int64_t p = 0; p < places; p++)
    for (int64_t k = 0; k < taps; k++) {
      int64_t at[CONV_AXES], sp = p, sk = k;
      bool inside = true;
      for (int d = nd - 1; d >= 0; d--) {
        at[d] = sp % small->dim[2 + d] * list_attr(op, "stride", d, 1) +
                sk % w->dim[2 + d] * list_attr(op, "dilation", d, 1) -
                list_attr(op, "padding", d, 0);
        inside &= at[d] >= 0 && at[d] < big->dim[2 + d];
        sp /= small->dim[2 + d];
        sk /= w->dim[2 + d];
      }
      if (!inside)
        continue;
      int64_t far = flat(at, big->dim + 2, nd);
      for (int64_t i = 0; i < n; i++)
        for (int64_t o = 0; o < outs; o++)
          for (int64_t ch = 0; ch < ins / groups; ch++) {
            int64_t g = o / (outs / groups), from = g * (ins / groups) + ch;
            int64_t tap = transposed ? from * w->dim[1] + o % w->dim[1] : o * w->dim[1] + ch;
            c->out[0][(i * outs + o) * ypos + (transposed ? far : p)] +=
                c->in[0][(i * ins + from) * (transposed ? places : room) + (transposed ? p : far)] *
                c->in[1][tap * taps + k];
          }
    }
  return MPCC_OK;
}

/* ---- channels last --------------------------------------------------------------------------- */

Status ref_conv_gather(const Call *c) {
  const Type *x = in_type(c, 0), *w = in_type(c, 1);
  ConvWindow g;
  if (!conv_window(c->op, &g))
    return MPCC_ERR_INTERNAL;
  int64_t ch = x->dim[g.nd + 1], outs = w->dim[0], taps = conv_taps(&g), pos = conv_positions(&g);
  int64_t room = extent(x->dim + 1, g.nd), at[CONV_AXES];
  int64_t own = w->dim[g.nd + 1]; /* channels of a filter: all, or its own alone */
  double *y = c->out[0];
  for (int64_t i = 0; i < x->dim[0] * pos; i++)
    for (int64_t o = 0; o < outs; o++) {
      double sum = c->op->nin > 2 ? c->in[2][o] : 0;
      for (int64_t k = 0; k < taps; k++) {
        if (!conv_reads(&g, x->dim + 1, i % pos, k, at))
          continue;
        const double *from = c->in[0] + (i / pos * room + flat(at, x->dim + 1, g.nd)) * ch;
        from += own == ch ? 0 : o;
        for (int64_t t = 0; t < own; t++)
          sum += from[t] * c->in[1][(o * taps + k) * own + t];
      }
      y[i * outs + o] = sum;
    }
  return MPCC_OK;
}

Status ref_conv_wgrad(const Call *c) {
  const Type *x = in_type(c, 0), *dy = in_type(c, 1);
  ConvWindow g;
  if (!conv_window(c->op, &g))
    return MPCC_ERR_INTERNAL;
  int64_t ch = x->dim[g.nd + 1], outs = dy->dim[g.nd + 1], taps = conv_taps(&g);
  int64_t pos = conv_positions(&g), room = extent(x->dim + 1, g.nd), at[CONV_AXES];
  bool depth = op_int(c->op, "groups", 1) != 1;
  int64_t own = depth ? 1 : ch;
  for (int64_t e = 0; e < outs * taps * own; e++)
    c->out[0][e] = 0;
  for (int64_t i = 0; i < x->dim[0] * pos; i++)
    for (int64_t k = 0; k < taps; k++) {
      if (!conv_reads(&g, x->dim + 1, i % pos, k, at))
        continue;
      const double *from = c->in[0] + (i / pos * room + flat(at, x->dim + 1, g.nd)) * ch;
      for (int64_t o = 0; o < outs; o++)
        for (int64_t t = 0; t < own; t++)
          c->out[0][(o * taps + k) * own + t] += c->in[1][i * outs + o] * from[depth ? o : t];
    }
  return MPCC_OK;
}
