/* The op tables, expanded from ops.def and scalar.def. */
#include "ir/ir.h"

#include <string.h>

enum { GRAD_Z, GRAD_G, GRAD_R, GRAD_B };

static const OpInfo ops[] = {
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc)                                     \
  {#name,                                                                                          \
   nin,                                                                                            \
   nout,                                                                                           \
   {POL_##cuda, POL_##cpu},                                                                        \
   GRAD_##grad == GRAD_G || GRAD_##grad == GRAD_B,                                                 \
   GRAD_##grad == GRAD_R,                                                                          \
   GRAD_##grad == GRAD_B,                                                                          \
   OK_##kind,                                                                                      \
   NULL,                                                                                           \
   NULL,                                                                                           \
   doc},
#include "ir/ops.def"
#undef OP
/* Every elementwise row has a gradient: its text, or the symbolic derivative. */
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc)                                             \
  {#name, nin, 1, {POL_##cuda, POL_##cpu}, true, false, false, OK_ELEM, text, deriv, doc},
#include "ir/scalar.def"
#undef SCALAR
};

_Static_assert(sizeof ops / sizeof ops[0] == OP_COUNT, "one row per op");

const OpInfo *op_info(OpCode op) {
  return &ops[op];
}

OpCode op_from_name(const char *name) {
  for (int i = 0; i < OP_COUNT; i++)
    if (!strcmp(name, ops[i].name))
      return (OpCode)i;
  return OP_COUNT;
}

const char *stage_name(Stage s) {
  static const char *const names[] = {
#define STAGE(id, text) text,
#include "ir/stages.def"
#undef STAGE
  };
  return names[s];
}

const char *role_name(Role r) {
  static const char *const names[] = {
#define ROLE(id, text, segment, doc) text,
#include "ir/roles.def"
#undef ROLE
  };
  return names[r];
}
