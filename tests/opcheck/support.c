/* docs/support.md: what opcheck judges, op by dtype. The table of cases is the list of what is
 * supported: an op in a dtype that has no case is not promised. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "opcheck.h"

static const DType columns[] = {MPCC_F64, MPCC_F32, MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2};
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

/* ---- the CUDA target ------------------------------------------------------------------------- */

/* Whether it writes the kernels of n instances, strict and fused; the test opcheck/cuda runs what
 * it writes. */
static bool cuda_writes(const Inst *list, int n) {
  World w;
  Unit unit[TOGETHER] = {0};
  const Unit *ref[TOGETHER];
  if (!world_create(&w))
    return false;
  Status s = MPCC_OK;
  for (int k = 0; k < n && s == MPCC_OK; k++) {
    s = unit_build(&w, &list[k], &unit[k]);
    ref[k] = &unit[k];
  }
  for (int strict = 0; strict < 2 && s == MPCC_OK; strict++) {
    const BatchOpts o = {.level = "sm_90", .strict = strict};
    s = batch_writes(&w, ref, n, &o);
  }
  for (int k = 0; k < n; k++)
    unit_fini(&unit[k]);
  world_destroy(&w);
  return s == MPCC_OK;
}

/* lacks[k]: the target does not have list[k]. */
static void find_lacking(const Inst *list, int n, bool *lacks) {
  if (n == 0 || (n <= TOGETHER && cuda_writes(list, n)))
    return;
  if (n == 1) {
    *lacks = true;
    return;
  }
  find_lacking(list, n / 2, lacks);
  find_lacking(list + n / 2, n - n / 2, lacks + n / 2);
}

/* "yes", "no", or which cases are not there. */
static void cuda_cell(const char *op, Text *out) {
  Inst *list = NULL;
  const int all = inst_list(op, NULL, NULL, ALL_OF_THEM, &list);
  int n = 0, lacking = 0;
  for (int i = 0; i < all; i++)
    if (list[i].first)
      list[n++] = list[i];
  bool *lacks = calloc((size_t)n + 1, sizeof *lacks);
  if (lacks)
    find_lacking(list, n, lacks);
  Text names = {0};
  char last[NAME_MAX_BYTES] = "";
  for (int i = 0; lacks && i < n; i++) {
    char name[NAME_MAX_BYTES];
    inst_name(&list[i], name);
    if (lacks[i] && strcmp(name, last))
      text_printf(&names, "%s`%s`", *last ? ", " : "", name);
    if (lacks[i])
      snprintf(last, sizeof last, "%s", name);
    lacking += lacks[i];
  }
  if (lacks && (!lacking || lacking == n))
    text_puts(out, lacking ? "no" : "yes");
  else
    text_printf(out, "all but %s", names.data ? names.data : "?");
  text_fini(&names);
  free(lacks);
  free(list);
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
  Text cuda = {0};
  cuda_cell(info->name, &cuda);
  printf("| `%s` |%s %s | ", info->name, cells, cuda.data ? cuda.data : "?");
  text_fini(&cuda);
  for (const char *p = info->doc; *p; p++)
    printf(*p == '|' ? "\\|" : "%c", *p);
  printf(" |\n");
}

void print_support(void) {
  printf("# What runs where\n\n"
         "Written by `opcheck --support`: every op with the dtypes in which its kernels on the CPU "
         "target are judged\nby the reference interpreter, forward and in its gradient, strict and "
         "fused, at every level that the\nmachine runs. Integer operands (ids, targets, seeds) are "
         "i64. Casts connect all dtypes. The column `cuda`\nsays what of it the CUDA target has, "
         "judged alike on the interpreter of PTX (tests/emu) and beside the CPU target.\n\n"
         "| target | levels |\n| --- | --- |\n| cpu |");
  for (int i = 0; i < target_cpu.nlevel; i++)
    printf("%s `%s`", i ? "," : "", target_cpu.level[i]);
  printf(" |\n| cuda |");
  for (int i = 0; i < target_cuda.nlevel; i++)
    printf("%s `%s`", i ? "," : "", target_cuda.level[i]);
  printf(" |\n\nFP8 (`e4m3`, `e5m2`) is a storage format: products decode it exactly and sum in "
         "FP32.\n\n| op |");
  for (int k = 0; k < COLUMNS; k++)
    printf(" %s |", dtype_text(columns[k]));
  printf(" cuda | what it does |\n| --- |");
  for (int k = 0; k < COLUMNS; k++)
    printf(" --- |");
  printf(" --- | --- |\n");
  for (OpCode code = 0; code < OP_COUNT; code++)
    print_op(code);
}
