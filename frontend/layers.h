/* Private to layers*.c: what the functions of layer kinds share. */
#ifndef MPCC_FRONTEND_LAYERS_H
#define MPCC_FRONTEND_LAYERS_H

#include "frontend/frontend.h"

/* Result of a layer over its operands, whose number has been checked; NULL after a diagnostic. */
typedef Value *LayerFn(Lower *lo, const Node *n, Value *const *in);
#define LAYER(type, least, most, tensors) LayerFn layer_##type;
#define TURNED(type, least, most, tensors) LayerFn layer_##type;
#define SPACED(family, axes, tensors) LayerFn layer_##family;
#define PARTS(type, least, most) LayerFn layer_##type;
#include "frontend/layers.def"

/* ---- layers.c ---- */

int64_t lay_int(const Node *n, const char *key); /* a checked argument, 0 when null */
int lay_space(const Node *n);                    /* axes behind [N, C] of a layer that is SPACED */
Loc lay_loc(const Node *n, const char *key);     /* of the argument, else of the layer */
Str lay_shape(Lower *lo, const Type *ty);        /* "[N, 1024]" */
/* A misfit of shapes at loc, "shapes do not fit: 'layer' ...", with a note where operand i comes
 * from; marks the lowering as failed and returns NULL. */
Value *lay_misfit(Lower *lo, const Node *n, Loc loc, int i, Value *const *in, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* Any other error of the layer; returns NULL. */
Value *lay_error(Lower *lo, Loc loc, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* An op of layer n, in the precision that the spec sets for it; at most 11 attributes. */
Op *lay_emit(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
             const Attr *attr);
/* Its first result. */
Value *lay_emit1(Lower *lo, const Node *n, OpCode code, int nin, Value *const *in, int nattr,
                 const Attr *attr);
/* Axis of argument `key` made non-negative, within the rank of operand 0; -1 after a diagnostic. */
int lay_axis(Lower *lo, const Node *n, const char *key, int64_t axis, Value *const *in);
/* An optional size argument must agree with what was inferred. */
bool lay_agrees(Lower *lo, const Node *n, const char *key, int64_t size, Value *const *in);
/* Axis of operand i, or of the result, that counts samples: 0, but for layers TURNED in layers.def;
 * -1 where nothing of the batch flows into it. */
int lay_batch_axis(const Lower *lo, const Node *n, int i);
void lay_set_batch_axis(Lower *lo, const Node *n, int axis);
/* Whether `axis` of operand 0 counts samples, of a layer that keeps them at axis 0. */
bool lay_is_batch(const Lower *lo, const Node *n, int axis);
/* Axes 0 and 1 exchanged where the layer says batch_first: false: operand i [T, N, C] as [N, T, C],
 * NULL after a diagnostic; and a result back. */
Value *lay_batch_first(Lower *lo, const Node *n, Value *const *in, int i);
Value *lay_batch_back(Lower *lo, const Node *n, Value *y);
/* Parameter NAME.tensor with PyTorch's default, unless the layer's `init` names the tensor. With
 * otherwise.complex it has a last axis of 2 behind these dimensions. */
Value *lay_param(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                 Init otherwise);

/* ---- layers_conv.c ---- */

/* Whether operand 0 is [N, C, S...] as a SPACED layer wants it; false after a diagnostic. */
bool lay_spaced(Lower *lo, const Node *n, Value *const *in);

/* ---- layers_pointwise.c ---- */

/* Exchanges axis `at` with the last; the same again puts them back. */
Value *lay_axis_last(Builder *b, Value *x, int at);

/* ---- layers_complex.c ---- */

/* Real and imaginary part; im NULL: a real value. */
typedef struct {
  Value *re, *im;
} Pair;
/* Operand i of layer n. */
Pair lay_pair(const Lower *lo, const Node *n, Value *const *in, int i);
/* The pair becomes the layer's result; returns its real part. */
Value *lay_give(Lower *lo, const Node *n, Pair p);
/* Whether its argument `dtype` says so. */
bool lay_is_complex(const Node *n);
/* What layer n computes from now on is complex; stored: so are its parameters. False after a
 * diagnostic: the mode has no complex numbers. */
bool lay_complex(Lower *lo, const Node *n, bool stored);
/* Ops built from now on are part of an imaginary part, or of a real one. */
void lay_part(Lower *lo, bool imag);
Value *lay_zeros(Lower *lo, const Type *like);
/* Elementwise sum, difference, product or quotient of shapes that broadcast. */
Pair lay_join(Lower *lo, const Node *n, OpCode code, Pair a, Pair b);
/* lay_param of a complex tensor, which is stored with a last axis of 2 (view_as_real). */
Pair lay_param_pair(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                    Init otherwise);
/* x W^T + b with complex tensors `weight` and `bias`. */
Value *lay_linear_complex(Lower *lo, const Node *n, Pair x, int64_t width, bool bias, Init init);
/* The product that `real` makes of real operands. */
Value *lay_matmul_complex(Lower *lo, const Node *n, Pair a, Pair b, LayerFn *real);

/* ---- layers_product.c ---- */

/* x[..., K] W[width, K]^T + b[width] with the tensors' names; bias NULL: none. */
Value *lay_project(Lower *lo, const Node *n, Value *x, int64_t width, const char *weight,
                   const char *bias, Init weight_init, Init bias_init);
/* kaiming_uniform(a = sqrt(5)), PyTorch's default of products, is U(+-1 / sqrt(fan_in)); so is the
 * default of their biases. */
Init lay_fan_bound(double fan_in);

#endif
