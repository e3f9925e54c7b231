/* Private to ir/verify*.c. */
#ifndef MPCC_VERIFY_H
#define MPCC_VERIFY_H

#include "ir/ir.h"

typedef struct KindSlot KindSlot;

typedef struct {
  const Module *m;
  Diag *d;
  const Func *f; /* NULL while tensors are checked */
  const Op *op;  /* NULL between ops */
  bool *yielded, *varies; /* by value id, while places are checked; varies: in a body */
  bool short_memory;
  KindSlot *kinds; /* what verify.c knows of shared attributes */
} Verify;

/* One broken rule, placed at the current op. */
void verify_broken(Verify *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Body of the current op, a group: docs/groups.md. */
void verify_group(Verify *v);
/* Offsets of the tensors of a planned module. */
void verify_segments(Verify *v);
/* Places of the values of the current function of a planned module. */
void verify_places(Verify *v);

#endif
