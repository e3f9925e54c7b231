/* Lowering of quantization that finds its scales itself: codes, scales and rounding as
 * ir/eval_block.c has them, in the same order; docs/numerics.md, recipes. One kernel where blocks
 * are smaller than the tensor: the largest magnitude of a block is a row reduction over [blocks
 * down, blocks across, rows of a block, columns of a block]. Every multiplication and division is
 * rounded by itself (PR_ROUND), so that no kernel contracts it. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "passes/fuse.h"

static int mul(Fuse *F, Node *n, int a, int b) {
  return node_round(F, n, node_op2(F, n, PR_MUL, a, b), MPCC_F32);
}

static int divide(Fuse *F, Node *n, int a, int b) {
  return node_round(F, n, node_op2(F, n, PR_DIV, a, b), MPCC_F32);
}

static int number(Fuse *F, Node *n, double v) {
  return node_const(F, n, MPCC_F32, v);
}

/* v when it is finite (it is not negative), else the number `largest`. */
static int at_most(Fuse *F, Node *n, int v, double largest) {
  int most = number(F, n, FLT_MAX), instead = number(F, n, largest);
  return node_select(F, n, node_op2(F, n, PR_LE, v, most), v, instead);
}

/* Scale of a block whose largest magnitude is a; *inverse is what is stored. most: the scale where
 * top / a overflows. */
static int scale_of(Fuse *F, Node *n, Scales s, int a, double top, double most, int tensor,
                    int *inverse) {
  int one = number(F, n, 1), zero = number(F, n, 0);
  if (s == SCALES_E8M0) {
    *inverse = node_round(F, n, mul(F, n, a, number(F, n, (double)(float)(1 / top))), MPCC_E8M0);
    return divide(F, n, one, *inverse);
  }
  if (s == SCALES_E4M3) {
    int scaled = mul(F, n, a, divide(F, n, tensor, number(F, n, top)));
    *inverse = node_round(F, n, scaled, MPCC_E4M3);
    return at_most(F, n, divide(F, n, one, mul(F, n, *inverse, divide(F, n, one, tensor))),
                   FLT_MAX);
  }
  int good = node_op2(F, n, PR_AND, node_op1(F, n, PR_ISFINITE, a), node_op2(F, n, PR_LT, zero, a));
  int mult = node_select(F, n, good, at_most(F, n, divide(F, n, number(F, n, top), a), most), one);
  if (s == SCALES_POWER_OF_2) {
    int up = node_round(F, n, mult, MPCC_E8M0);
    int half = node_op2(F, n, PR_MUL, up, number(F, n, 0.5));
    mult = node_select(F, n, node_op2(F, n, PR_LE, up, mult), up, half);
  }
  *inverse = divide(F, n, one, mult);
  return mult;
}

/* x in f32, or zero in padded samples; row: strides that number the rows of x as a matrix. */
static int load_valid(Fuse *F, Node *n, const Op *op, const View *x, const Access *row) {
  int v = node_load_as(F, n, x, MPCC_F32);
  if (!op_attr(op, "rows"))
    return v;
  int valid = node_load_as(F, n, operand(F, 1), MPCC_I64);
  int rows = node_const(F, n, MPCC_I64, (double)op_int(op, "rows", 1));
  int real = node_op2(F, n, PR_LT, node_lin(F, n, row), node_op2(F, n, PR_MUL, valid, rows));
  return node_select(F, n, real, v, number(F, n, 0));
}

/* What all blocks share: x as [down, across, rows, columns], and the rows' numbers. */
typedef struct {
  const Op *op;
  View *x;
  int64_t dim[4];
  Access row;
} Blocks;

static Blocks blocks_of(Fuse *F, const Op *op) {
  static const int64_t order[4] = {0, 2, 1, 3};
  const Type *ty = op->in[0]->type, *blocks = op->out[2]->type;
  int64_t cols = ty->rank ? ty->dim[ty->rank - 1] : 1, rows = type_elems(ty) / cols;
  int64_t down = blocks->dim[0], across = blocks->dim[1];
  Blocks b = {.op = op, .dim = {down, across, rows / down, cols / across}};
  b.row.stride[0] = rows / down;
  b.row.stride[2] = 1;
  const int64_t tiled[4] = {down, rows / down, across, cols / across};
  View *x;
  if (!view_reshaped(F, operand(F, 0), 4, tiled, &x))
    view_reshaped(F, view_materialize(F, operand(F, 0)), 4, tiled, &x);
  b.x = view_permuted(F, x, order);
  return b;
}

/* Largest magnitude of the whole tensor. */
static View *tensor_amax(Fuse *F, const Blocks *b) {
  Node *n = node_rows(F, 4, b->dim);
  int a = node_op1(F, n, PR_ABS, load_valid(F, n, b->op, b->x, &b->row));
  return node_total(F, n, PR_AMAX, a, MPCC_F32, 1);
}

/* 448 top / amax: the largest block scale times the largest code. */
static View *tensor_scale(Fuse *F, const View *amax, double top, View **inverse) {
  Node *n = node_rows(F, 0, (int64_t[1]){0});
  int a = node_load_as(F, n, amax, MPCC_F32);
  int none = node_op2(F, n, PR_OR, node_op2(F, n, PR_EQ, a, number(F, n, 0)),
                      node_op2(F, n, PR_EQ, a, number(F, n, INFINITY)));
  int s = at_most(F, n, divide(F, n, number(F, n, 448 * top), a), FLT_MAX);
  s = node_select(F, n, none, number(F, n, 1), s);
  *inverse = view_whole(F, node_store(F, n, divide(F, n, number(F, n, 1), s), MPCC_F32, ~0u));
  return view_whole(F, node_store(F, n, s, MPCC_F32, ~0u));
}

/* e2m1 rounded away from zero with the probability of what is cut off. */
static int at_random(Fuse *F, Node *n, const Op *op, int v, const Access *element) {
  int a = node_op1(F, n, PR_ABS, v), six = number(F, n, 6);
  a = node_select(F, n, node_op2(F, n, PR_LE, a, six), a, six);
  int fine = node_op2(F, n, PR_LT, a, number(F, n, 2));
  int coarse = node_op2(F, n, PR_LT, number(F, n, 4), a); /* at 4 both units have the same steps */
  int wide = node_select(F, n, coarse, number(F, n, 2), number(F, n, 1));
  int unit = node_select(F, n, fine, number(F, n, 0.5), wide);
  int inverse = node_select(F, n, coarse, number(F, n, 0.5), number(F, n, 1));
  inverse = node_select(F, n, fine, number(F, n, 2), inverse); /* a product is exact, and quick */
  int steps = node_op2(F, n, PR_MUL, a, inverse), low = node_op1(F, n, PR_FLOOR, steps);
  int u = node_rand(F, n, operand(F, op->nin - 2), operand(F, op->nin - 1), node_lin(F, n, element),
                    op_int(op, "stream", 0));
  int up = node_op2(F, n, PR_LT, u, node_op2(F, n, PR_SUB, steps, low));
  int more = node_op2(F, n, PR_ADD, low, number(F, n, 1));
  int q = node_op2(F, n, PR_MUL, node_select(F, n, up, more, low), unit);
  int negative = node_op2(F, n, PR_LT, v, number(F, n, 0));
  return node_select(F, n, negative, node_op1(F, n, PR_NEG, q), q);
}

static void set_codes(Fuse *F, Node *n, const Blocks *b, int codes) {
  const Type *ty = b->op->in[0]->type;
  int64_t cols = b->dim[1] * b->dim[3];
  Access at = {.stride = {b->dim[2] * cols, b->dim[3], cols, 1}};
  if (op_attr(b->op, "stream"))
    codes = at_random(F, n, b->op, codes, &at);
  const Type *to = type_with_dtype(builder_types(F->b), ty, b->op->out[0]->type->dt);
  set_result_buf(F, 0, node_store_at(F, n, codes, to, &at));
}

/* One scale: two passes over x. */
static void quantize_whole(Fuse *F, const Blocks *b, Scales s, double top) {
  View *amax = tensor_amax(F, b);
  Node *n = node_rows(F, 0, (int64_t[1]){0});
  int inverse, scale = scale_of(F, n, s, node_load(F, n, amax), top, FLT_MAX, -1, &inverse);
  View *mult = view_whole(F, node_store(F, n, scale, MPCC_F32, ~0u));
  View *inv = view_whole(F, node_store(F, n, inverse, MPCC_F32, ~0u)), *one;
  Node *q = node_rows(F, 4, b->dim);
  int x = load_valid(F, q, b->op, b->x, &b->row);
  set_codes(F, q, b, mul(F, q, x, node_load(F, q, mult)));
  set_result(F, 1, inv);
  view_reshaped(F, inv, 2, (int64_t[2]){1, 1}, &one);
  set_result(F, 2, one);
  set_result(F, 3, amax);
}

void group_block_quantize(Fuse *F, const Op *op) {
  Scales s = scales_from_word(op_str(op, "scales", "float32"));
  const int64_t *block = op_attr(op, "block")->u.ints.v;
  double top = dtype_info(op->out[0]->type->dt)->max_finite;
  Blocks b = blocks_of(F, op);
  if (!block[0] && !block[1]) {
    quantize_whole(F, &b, s, top);
    return;
  }
  View *tensor = NULL, *inverse, *amax = NULL;
  if (s == SCALES_E4M3) {
    amax = tensor_amax(F, &b);
    tensor = tensor_scale(F, amax, top, &inverse);
  } else {
    inverse = ARENA_NEW(F->a, View);
    inverse->dt = MPCC_F32;
    inverse->imm = 1;
  }
  Node *n = node_rigid(F, 4, b.dim, 2);
  int x = load_valid(F, n, op, b.x, &b.row), inv;
  int a = node_op1(F, n, PR_RMAX, node_op1(F, n, PR_ABS, x));
  double most = dtype_info(op->in[0]->type->dt == MPCC_BF16 ? MPCC_BF16 : MPCC_F32)->max_finite;
  int mult = scale_of(F, n, s, a, top, most, tensor ? node_load(F, n, tensor) : -1, &inv);
  set_codes(F, n, &b, mul(F, n, x, mult));
  set_result(F, 1, inverse);
  set_result_buf(F, 2, node_store(F, n, inv, scales_info(s)->dt, 3));
  set_result(F, 3, amax ? amax : node_total(F, n, PR_AMAX, a, MPCC_F32, 1));
}
