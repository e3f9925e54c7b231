/* Private to build.c and shape.c. */
#ifndef MPCC_IR_BUILD_H
#define MPCC_IR_BUILD_H

#include "ir/ir.h"

/* Most results of an op whose types a shape rule gives. */
enum { MAX_RULE_OUT = 32 };

/* Parsed body of an elementwise row or of an expr with attr `body`, NULL after an error. Each text
 * is parsed once per module. */
const Scalar *builder_scalar(Builder *b, OpCode code, int nin, int nattr, const Attr *attr);
Str builder_layer(const Builder *b); /* what build_at said */
/* "a", "b", ... "z": names of the operands in bodies. */
extern const char *const operand_names[26];

#endif
