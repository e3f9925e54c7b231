/* Judging a batch, and what a run prints at its end. */
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "opcheck.h"

double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

void watch_crashes(void) {
  signal(SIGSEGV, on_crash);
  signal(SIGILL, on_crash);
  signal(SIGFPE, on_crash);
  signal(SIGABRT, on_crash);
}

static void note_running(const Inst *i, const Options *o) {
  char name[NAME_MAX_BYTES];
  inst_name(i, name);
  snprintf(running, sizeof running, "%s %s %s level=%s seed=%llu", name, dtype_text(i->dt),
           i->shape, o->level, (unsigned long long)o->seed);
}

void judge_together(World *w, const Together *t, const Inst *list, const Options *o, Score *score) {
  for (int k = 0; k < t->n; k++) {
    note_running(&list[k], o);
    int compared = judge_unit(&list[k], t, k, o);
    const bool differences = list[k].grad && list[k].dt == MPCC_F64 && !o->no_differences;
    if (compared >= 0 && differences && !grad_check(w, &list[k], o))
      compared = -1;
    score->passed += compared >= 0;
    score->failed += compared < 0;
    score->compared += compared > 0 ? compared : 0;
  }
}

void together_fini(Together *t) {
  batch_fini(&t->beside);
  batch_fini(&t->fused);
  batch_fini(&t->strict);
  for (int k = 0; k < TOGETHER; k++)
    unit_fini(&t->unit[k]);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void print_tally(const char *of, const Tally *t) {
  printf("%s: %ld of %ld codes of 16 and 8 bits differ; wider results by at most %.2g of their "
         "largest%s%s\n",
         of, t->unequal, t->elements, t->worst, *t->where ? ": " : "", t->where);
}

static void json_tally(FILE *f, const char *of, const Tally *t) {
  fprintf(f, ", \"%s\": {\"codes\": %ld, \"unequal\": %ld, \"worst\": %.3g}", of, t->elements,
          t->unequal, t->worst);
}

/* Equal codes for equal inputs, but for one in a thousand. Where terms cancel, sums in FP32 have
 * the code of their order: the gradient of a query that sees one key is what the rounding of o
 * leaves of a difference of equal sums. How often that is so is what the CPU's codes tell, beside
 * those of the interpreter, whose sums are FP64: a target may be so far from the CPU as the CPU is
 * from the interpreter, when it is as near to the interpreter, but for one in a thousand. Where
 * terms do not cancel the CPU has the interpreter's codes, and this is the same as the first. */
static bool codes_agree(const Tally *t) {
  const double few = 1e-3 * (double)t->elements;
  return (double)t->unequal <= few ||
         (t->unequal <= t->other_off && (double)t->off <= (double)t->other_off + few);
}

int print_score(const Score *s, const Saved *saved, double run_seconds, const char *json) {
  const bool far = !codes_agree(&s->tally);
  if (s->tally.elements)
    print_tally("beside the CPU target", &s->tally);
  if (s->tally.other_off)
    printf("not the interpreter's: %ld of these codes, %ld of the CPU target's\n", s->tally.off,
           s->tally.other_off);
  if (saved && saved->from) {
    print_tally("beside the saved results", &saved->tally);
    if (saved->missing)
      printf("%ld results are not among the saved ones\n", saved->missing);
  }
  if (far)
    printf("FAIL more than one code in a thousand differs from the CPU target's\n");
  printf("opcheck: %d instances passed, %d failed, %ld results compared, %.1f s\n", s->passed,
         s->failed, s->compared, run_seconds);
  if (s->lacking)
    printf("%d instances need what the target does not have yet (docs/support.md)\n", s->lacking);
  FILE *f = json ? fopen(json, "w") : NULL;
  if (f) {
    fprintf(
        f, "{\"passed\": %d, \"failed\": %d, \"lacking\": %d, \"compared\": %ld, \"seconds\": %.1f",
        s->passed, s->failed, s->lacking, s->compared, run_seconds);
    if (s->tally.elements)
      json_tally(f, "beside_cpu", &s->tally);
    if (saved && saved->from)
      json_tally(f, "beside_saved", &saved->tally);
    fprintf(f, "}\n");
    fclose(f);
  }
  return s->failed || far || (json && !f) ? 1 : 0;
}
