/* opcheck --bench: the time of one instance. */
#include <stdlib.h>

#include "mpcc/num.h"
#include "opcheck.h"

enum { RUNS = 21 };

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Median over runs of as many calls as take a millisecond. */
static double time_function(mprt_program *p) {
  double run[RUNS];
  int calls = 1;
  for (;;) {
    double start = seconds();
    for (int i = 0; i < calls; i++)
      mprt_run(p, "f0");
    if (seconds() - start > 1e-3 || calls > 1 << 20)
      break;
    calls *= 2;
  }
  for (int r = 0; r < RUNS; r++) {
    double start = seconds();
    for (int i = 0; i < calls; i++)
      mprt_run(p, "f0");
    run[r] = (seconds() - start) / calls;
  }
  qsort(run, RUNS, sizeof *run, by_value);
  return run[RUNS / 2];
}

void bench(const Inst *i, const Options *o) {
  World w;
  Unit u = {0};
  Batch b = {0};
  const Unit *ref = &u;
  const BatchOpts how = {.level = o->level, .strict = o->strict && !o->fused};
  if (!world_create(&w))
    return;
  Status s = unit_build(&w, i, &u);
  if (s == MPCC_OK)
    s = batch_build(&w, &ref, 1, &how, &b);
  double bytes = 0;
  for (int k = 0; s == MPCC_OK && k < u.whole->ntensor; k++) {
    const Tensor *t = u.whole->tensor[k];
    char name[NAME_MAX_BYTES];
    mprt_tensor m;
    bytes += (double)type_bytes(t->type);
    snprintf(name, sizeof name, "f0.%s", t->name);
    double *x = calloc((size_t)type_elems(t->type), sizeof *x);
    if (!x || is_result(t) || !mprt_find(b.program, name, &m)) {
      free(x);
      continue;
    }
    data_fill(i, t, DATA_RANDOM, o->seed, x);
    for (int64_t e = 0; e < type_elems(t->type); e++)
      num_store((char *)m.data + (size_t)e * dtype_bytes(m.dtype), m.dtype, x[e]);
    free(x);
  }
  char name[NAME_MAX_BYTES];
  inst_name(i, name);
  if (s == MPCC_OK) {
    double t = time_function(b.program);
    printf("%-28s %-5s %-28s %-15s %10.2f us", name, dtype_text(i->dt), i->shape, o->level,
           t * 1e6);
    if (b.flops[0] > 0)
      printf(" %8.2f GFLOP/s\n", b.flops[0] / t * 1e-9);
    else
      printf(" %8.2f GB/s\n", bytes / t * 1e-9);
  } else {
    world_show(&w);
  }
  batch_fini(&b);
  unit_fini(&u);
  world_destroy(&w);
}
