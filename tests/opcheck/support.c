/* docs/support.md: what opcheck judges, op by dtype. The table of cases is the list of what is
 * supported: an op in a dtype that has no case is not promised. */
#include <stdio.h>
#include <string.h>

#include "codegen/codegen.h"
#include "opcheck.h"

static const DType columns[] = {DT_F64, DT_F32, DT_BF16, DT_F16, DT_E4M3, DT_E5M2};
enum { COLUMNS = sizeof columns / sizeof *columns };

static bool has_word(const char *list, const char *word) {
  size_t n = strlen(word);
  for (const char *p = list; (p = strstr(p, word)); p += n)
    if ((p == list || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
      return true;
  return false;
}

/* What is judged of op in dt; false: nothing. */
static bool judged(const char *op, DType dt, bool *forward, bool *grad) {
  int n;
  const Case *c = case_table(&n);
  *forward = *grad = false;
  for (int i = 0; i < n; i++)
    if (!strcmp(c[i].op, op) && has_word(c[i].dtypes, dtype_text(dt))) {
      *forward |= strchr(c[i].checks, 'F') != NULL;
      *grad |= strchr(c[i].checks, 'G') != NULL;
    }
  return *forward || *grad;
}

static void print_op(OpCode code) {
  const OpInfo *info = op_info(code);
  char cells[COLUMNS * 16] = "";
  bool any = false;
  for (int k = 0; k < COLUMNS; k++) {
    bool forward, grad;
    any |= judged(info->name, columns[k], &forward, &grad);
    size_t at = strlen(cells);
    snprintf(cells + at, sizeof cells - at, " %s |",
             forward && grad ? "yes, gradient"
             : forward       ? "yes"
             : grad          ? "gradient"
                             : "");
  }
  if (!any)
    return;
  printf("| `%s` |%s ", info->name, cells);
  for (const char *p = info->doc; *p; p++)
    printf(*p == '|' ? "\\|" : "%c", *p);
  printf(" |\n");
}

void print_support(void) {
  printf("# What runs where\n\n"
         "Written by `opcheck --support`: every op with the dtypes in which its kernels on the CPU "
         "target are judged\nby the reference interpreter, forward and in its gradient, strict and "
         "fused, at every level that the\nmachine runs. Integer operands (ids, targets, seeds) are "
         "i64. Casts connect all dtypes.\n\n| target | levels |\n| --- | --- |\n| cpu |");
  for (int i = 0; i < target_cpu.nlevel; i++)
    printf("%s `%s`", i ? "," : "", target_cpu.level[i]);
  printf(" |\n\nFP8 (`e4m3`, `e5m2`) is a storage format: products decode it exactly and sum in "
         "FP32.\n\n| op |");
  for (int k = 0; k < COLUMNS; k++)
    printf(" %s |", dtype_text(columns[k]));
  printf(" what it does |\n| --- |");
  for (int k = 0; k < COLUMNS; k++)
    printf(" --- |");
  printf(" --- |\n");
  for (OpCode code = 0; code < OP_COUNT; code++)
    print_op(code);
}
