/* Private to scalar*.c: making bodies of scalar programs. */
#ifndef MPCC_IR_SCALAR_H
#define MPCC_IR_SCALAR_H

#include "ir/ir.h"

/* Longest body, and longest text that is parsed; derivatives may grow in between. */
enum { SCALAR_MAX = 2048, SCALAR_MAX_PARSED = 256, SCALAR_MAX_DEPTH = 100 };

/* A body in the making. An equal statement is made once. Sticky: after a failure statement 0 is
 * returned and maker_finish gives NULL. */
typedef struct {
  Arena *arena;
  Stmt *stmt;
  int n, cap, nargs;
  bool failed;
} Maker;

void maker_init(Maker *m, Arena *a, int nargs);
int maker_stmt(Maker *m, Stmt s);
int maker_const(Maker *m, double v);
int maker_arg(Maker *m, int ref);
int maker_op(Maker *m, Prim p, int x, int y, int z); /* what p does not take is ignored */
/* The statements that `result` needs, in canonical order (result last). */
Scalar *maker_finish(Maker *m, int result);

#endif
