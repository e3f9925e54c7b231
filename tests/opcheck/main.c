/* opcheck [NAME] [DTYPE] [SHAPE] [data=KIND] [seed=N] [strict|fused] [level=LEVEL] [--list]
 * [--quick]
 * [--bench] [--support]: runs all instances that fit, prints a line that reruns each one that fails. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "level.h"
#include "mpcc/num.h"
#include "opcheck.h"

enum { TOGETHER = 32, RUNS = 21 };

/* What a crash is blamed on. */
static char running[3 * NAME_MAX_BYTES];

static void on_crash(int signal_number) {
  static const char text[] = "\nFAIL crashed in:  opcheck ";
  ssize_t n = write(STDOUT_FILENO, text, sizeof text - 1);
  n += write(STDOUT_FILENO, running, strlen(running));
  n += write(STDOUT_FILENO, "\n", 1);
  (void)n;
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

static void note_running(const Inst *i, const Options *o) {
  char name[NAME_MAX_BYTES];
  inst_name(i, name);
  snprintf(running, sizeof running, "%s %s %s level=%s seed=%llu", name, dtype_text(i->dt),
           i->shape, o->level, (unsigned long long)o->seed);
}

/* ---- a batch -----------------------------------------------------------------------------------
 */

typedef struct {
  World w;
  Unit unit[TOGETHER];
  const Unit *ref[TOGETHER], *differ[TOGETHER];
  int fused_at[TOGETHER]; /* function of the fused program; -1: its kernels are the strict ones */
  Batch strict, fused;
} Together;

/* Which instances have other kernels in fused numerics, and those compiled. */
static Status build_fused(Together *t, int n, const char *level) {
  Batch planned;
  int m = 0;
  Status s = batch_plan(&t->w, t->ref, n, level, false, &planned);
  for (int k = 0; k < n && s == MPCC_OK; k++) {
    bool other = planned.kernels[k] != t->strict.kernels[k];
    t->fused_at[k] = other ? m : -1;
    if (other)
      t->differ[m++] = t->ref[k];
  }
  return s == MPCC_OK && m ? batch_build(&t->w, t->differ, m, level, false, true, &t->fused) : s;
}

static Status build_all(Together *t, const Inst *list, int n, const Options *o) {
  Status s = MPCC_OK;
  for (int k = 0; k < n && s == MPCC_OK; k++) {
    s = unit_build(&t->w, &list[k], &t->unit[k]);
    t->ref[k] = &t->unit[k];
    t->fused_at[k] = -1;
  }
  if (s == MPCC_OK)
    s = batch_build(&t->w, t->ref, n, o->level, true, true, &t->strict);
  return s == MPCC_OK && o->fused ? build_fused(t, n, o->level) : s;
}

typedef struct {
  int passed, failed;
  long compared;
} Score;

static void run_batch(const Inst *list, int n, const Options *o, Score *score) {
  Together *t = calloc(1, sizeof *t);
  if (!t || !world_create(&t->w)) {
    free(t);
    score->failed += n;
    return;
  }
  Status s = build_all(t, list, n, o);
  for (int k = 0; k < n && s == MPCC_OK; k++) {
    note_running(&list[k], o);
    const Batch *fused = t->fused_at[k] >= 0 ? &t->fused : NULL;
    int compared = judge_unit(&list[k], &t->unit[k], k, &t->strict, t->fused_at[k], fused, o);
    if (compared >= 0 && list[k].grad && list[k].dt == DT_F64 && !grad_check(&t->w, &list[k], o))
      compared = -1;
    score->passed += compared >= 0;
    score->failed += compared < 0;
    score->compared += compared > 0 ? compared : 0;
  }
  if (s != MPCC_OK && n == 1) {
    printf("FAIL %s: does not compile: status %d\n", list[0].c->op, s);
    print_rerun(&list[0], o, o->fused ? "" : "strict", -1);
    fflush(stdout);
    world_show(&t->w);
    score->failed++;
  }
  batch_fini(&t->fused);
  batch_fini(&t->strict);
  for (int k = 0; k < n; k++)
    unit_fini(&t->unit[k]);
  world_destroy(&t->w);
  free(t);
  if (s != MPCC_OK && n > 1) { /* find the one that does not compile */
    run_batch(list, n / 2, o, score);
    run_batch(list + n / 2, n - n / 2, o, score);
  }
}

/* ---- --bench --------------------------------------------------------------------------------- */

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

static void bench(const Inst *i, const Options *o) {
  World w;
  Unit u = {0};
  Batch b = {0};
  const Unit *ref = &u;
  if (!world_create(&w))
    return;
  Status s = unit_build(&w, i, &u);
  if (s == MPCC_OK)
    s = batch_build(&w, &ref, 1, o->level, o->strict && !o->fused, false, &b);
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

/* ---- command line ---------------------------------------------------------------------------- */

typedef struct {
  const char *name, *dtype, *shape, *level;
  bool list, quick, bench, support;
  Options o;
} Args;

static bool read_arg(Args *a, const char *s) {
  if (!strcmp(s, "--support")) {
    a->support = true;
  } else if (!strcmp(s, "--list") || !strcmp(s, "--quick") || !strcmp(s, "--bench")) {
    a->list |= s[2] == 'l';
    a->quick |= s[2] == 'q';
    a->bench |= s[2] == 'b';
  } else if (!strncmp(s, "seed=", 5)) {
    a->o.seed = strtoull(s + 5, NULL, 10);
  } else if (!strncmp(s, "level=", 6)) {
    a->level = s + 6;
  } else if (!strcmp(s, "strict")) {
    a->o.fused = false;
  } else if (!strcmp(s, "fused")) {
    a->o.strict = false;
  } else if (!strncmp(s, "data=", 5)) {
    for (int d = 0; d < DATA_COUNT; d++)
      if (!strcmp(s + 5, data_names[d]))
        a->o.data = d;
    return a->o.data >= 0;
  } else if (s[0] >= 'A' && s[0] <= 'Z' && s[1] == '=') {
    a->shape = s;
  } else if (a->name && dtype_from_text(s) != DT_COUNT) {
    a->dtype = s;
  } else if (*s == '-' || a->name) {
    return false;
  } else {
    a->name = s;
  }
  return true;
}

static void print_list(const Inst *list, int n) {
  for (int i = 0; i < n; i++) {
    char name[NAME_MAX_BYTES];
    inst_name(&list[i], name);
    printf("%s %s %s\n", name, dtype_text(list[i].dt), list[i].shape);
  }
}

enum { MOST_LEVELS = 8 };

/* Levels to run: the one asked for, or this machine's with all instances, then the baseline and
 * what is above this machine's choice. */
static int choose_levels(const Args *a, const char *level[MOST_LEVELS]) {
  const char *host = a->level ? a->level : target_cpu.host_level();
  int n = 0;
  if (!host)
    return 0;
  level[n++] = host;
  bool above = false;
  for (int i = 0; i < target_cpu.nlevel && !a->level && n < MOST_LEVELS; i++) {
    const char *l = target_cpu.level[i];
    if (strcmp(l, host) && (i == 0 || above) && level_runs(target_cpu.level_needs(l)))
      level[n++] = l;
    above |= !strcmp(l, host);
  }
  return n;
}

/* Keeps forward instances of the first shape of each case, unless only gradients were asked for;
 * narrow: only dtypes below 32 bits, for which levels above differ. */
static int only_first(Inst *list, int n, bool narrow) {
  int m = 0;
  bool only_grads = true;
  for (int i = 0; i < n; i++)
    only_grads &= list[i].grad;
  for (int i = 0; i < n; i++)
    if (list[i].first && (!list[i].grad || only_grads) &&
        (!narrow || dtype_info(list[i].dt)->bits < 32))
      list[m++] = list[i];
  return m;
}

int main(int argc, char **argv) {
  Args a = {.o = {.seed = 1, .data = -1, .strict = true, .fused = true}};
  for (int i = 1; i < argc; i++)
    if (!read_arg(&a, argv[i])) {
      fprintf(stderr,
              "opcheck: '%s' is not understood\nopcheck [NAME [DTYPE]] [SHAPE] [data=KIND] "
              "[seed=N] [strict|fused] [level=LEVEL] [--list] [--quick] [--bench] [--support]\n",
              argv[i]);
      return 2;
    }
  if (a.support) {
    print_support();
    return 0;
  }
  Inst *list;
  int n = inst_list(a.name, a.dtype, a.shape, a.quick, &list);
  if (n <= 0) {
    fprintf(stderr, "opcheck: no case fits\n");
    return 2;
  }
  if (a.list) {
    print_list(list, n);
    free(list);
    return 0;
  }
  signal(SIGSEGV, on_crash);
  signal(SIGILL, on_crash);
  signal(SIGFPE, on_crash);
  signal(SIGABRT, on_crash);
  const char *level[MOST_LEVELS];
  int nlevel = choose_levels(&a, level);
  Score score = {0};
  double start = seconds();
  for (int l = 0; l < nlevel; l++) { /* each with no more instances than the one before */
    a.o.level = level[l];
    if (l)
      n = only_first(list, n, l > 1);
    for (int i = 0; i < n; i += TOGETHER) {
      int m = n - i < TOGETHER ? n - i : TOGETHER;
      for (int k = 0; a.bench && k < m; k++)
        bench(&list[i + k], &a.o);
      if (!a.bench)
        run_batch(&list[i], m, &a.o, &score);
      fflush(stdout);
    }
  }
  free(list);
  if (a.bench)
    return 0;
  printf("opcheck: %d instances passed, %d failed, %ld results compared, %.1f s\n", score.passed,
         score.failed, score.compared, seconds() - start);
  return score.failed || !nlevel ? 1 : 0;
}
