/* opcheck [NAME] [DTYPE] [SHAPE] [data=KIND] [seed=N] [strict|fused] [level=LEVEL] [--list]
 * [--quick|--dtypes] [--bench] [--support]: runs all instances that fit, prints a line that reruns
 * each one that fails. --quick: one instance of a case, --dtypes: one of each of its dtypes. A
 * level of the CUDA target runs them on a GPU (tools/emu-run: on the stand-in for one), beside the
 * CPU target; cache=DIR keeps what NVRTC compiled, pack=DIR writes programs for a machine without a
 * compiler, save=FILE writes the results down, --short-sums allows for tensor cores that keep 14
 * bits of sums of 8-bit codes. */
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "level.h"
#include "opcheck.h"

/* ---- command line ---------------------------------------------------------------------------- */

typedef struct {
  const char *name, *dtype, *shape, *level, *save;
  bool list, bench, support;
  Few few;
  Options o;
} Args;

static bool read_arg(Args *a, const char *s) {
  if (!strcmp(s, "--support")) {
    a->support = true;
  } else if (!strcmp(s, "--list") || !strcmp(s, "--bench")) {
    a->list |= s[2] == 'l';
    a->bench |= s[2] == 'b';
  } else if (!strcmp(s, "--quick") || !strcmp(s, "--dtypes")) {
    a->few = s[2] == 'q' ? ONE_EACH : ONE_OF_A_DTYPE;
  } else if (!strcmp(s, "--short-sums")) {
    a->o.short_sums = true;
  } else if (!strncmp(s, "seed=", 5)) {
    a->o.seed = strtoull(s + 5, NULL, 10);
  } else if (!strncmp(s, "level=", 6)) {
    a->level = s + 6;
  } else if (!strncmp(s, "cache=", 6)) {
    a->o.cache = s + 6;
  } else if (!strncmp(s, "pack=", 5)) {
    a->o.pack = s + 5;
    a->o.no_differences = true;
  } else if (!strncmp(s, "save=", 5)) {
    a->save = s + 5;
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
  } else if (a->name && dtype_from_text(s) != MPCC_DTYPE_COUNT) {
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
              "[seed=N] [strict|fused] [level=LEVEL] [cache=DIR] [pack=DIR] [save=FILE] [--list] "
              "[--quick|--dtypes] [--short-sums] [--bench] [--support]\n",
              argv[i]);
      return 2;
    }
  if (a.support) {
    print_support();
    return 0;
  }
  Inst *list;
  int n = inst_list(a.name, a.dtype, a.shape, a.few, &list);
  if (n <= 0) {
    fprintf(stderr, "opcheck: no case fits\n");
    return 2;
  }
  if (a.list) {
    print_list(list, n);
    free(list);
    return 0;
  }
  Saved saved;
  if (!saved_open(&saved, a.save, NULL))
    return 2;
  a.o.saved = a.save ? &saved : NULL;
  watch_crashes();
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
  if (!saved_close(&saved) || !nlevel)
    return 1;
  return print_score(&score, NULL, seconds() - start, NULL);
}
