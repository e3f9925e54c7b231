/* cuda_rows: a block of threads per panel.
 *
 * The block is P groups of G threads; each group takes one row at a time, its threads take every
 * G-th column. A row is gone through in passes, since a reduction over the columns must end before
 * its result is used. When a thread's columns are few (`unrolled`) their loop is unrolled and what
 * a later pass needs stays in registers; else it is computed again from memory. A thread takes up
 * to 8 neighbouring columns at a time (rows_memory.c). Elements are stored in the last pass, so a
 * result may be in place of an operand. Without row reductions wide rows are split over blocks
 * along y. All sums run in an order that depends on shapes alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/rows.h"

enum {
  BLOCK = 256,    /* threads of a block whose rows are narrow */
  GATHER = 1024,  /* the same where it sums columns of many rows and does nothing else */
  WIDEST = 1024,  /* threads of a row */
  KEPT = 16,      /* columns per thread, when values are kept in registers */
  KEPT_SUMS = 64, /* the same for column sums */
  SPLIT = 4,      /* columns per thread where rows are split over blocks */
};

static bool is_row_reduction(int p) {
  return p == PR_RSUM || p == PR_RMAX || p == PR_RMIN;
}

static bool is_panel_reduction(int p) {
  return p == PR_ASUM || p == PR_AMAX || p == PR_AMIN;
}

static const Stmt *stmt(const Rows *r, int i) {
  return &r->b->stmt[i];
}

static int level_of_arg(const Rows *r, const Stmt *s) {
  return stmt(r, s->arg[0])->level;
}

/* ---- decisions ------------------------------------------------------------------------------- */

static int power_of_two_from(int64_t n) {
  int p = 1;
  while (p < n)
    p *= 2;
  return p;
}

/* Whether rows may be shared out to several blocks: nothing is combined or stored per row or panel.
 */
static bool can_split(const Body *b) {
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (is_row_reduction(s->prim) || is_panel_reduction(s->prim))
      return false;
    if (s->prim == PR_STORE &&
        (b->stmt[s->arg[0]].level == LV_ROW || b->stmt[s->arg[0]].level == LV_ALL))
      return false;
  }
  return true;
}

static bool has_row_reduction(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (is_row_reduction(b->stmt[i].prim))
      return true;
  return false;
}

static bool has_column_sums(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_CSUM)
      return true;
  return false;
}

/* Sums of columns alone: what combines the partial sums of many panels. */
static bool only_gathers(const Body *b) {
  enum { FEW = 16 };
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    if (is_row_reduction(s->prim) || is_panel_reduction(s->prim) ||
        (s->prim == PR_STORE && b->stmt[s->arg[0]].level != LV_COL))
      return false;
  }
  return has_column_sums(b) && b->nstmt <= FEW;
}

static bool has_doubles(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].dt == MPCC_F64)
      return true;
  return false;
}

static bool has_random(const Body *b) {
  for (int i = 0; i < b->nstmt; i++)
    if (b->stmt[i].prim == PR_RAND)
      return true;
  return false;
}

/* Columns that a thread takes at a time at most. What several passes keep, sums of columns and
 * random numbers in the making are in registers for each of them: the first alone leaves room for
 * four, all of them for two. */
static int columns_at_once(const Body *b) {
  const bool passes = has_row_reduction(b);
  return passes && has_column_sums(b) && has_random(b) ? 2 : passes ? 4 : 8;
}

/* Threads of a row: a power of two, each with four columns or as many as it takes at a time.
 * Doubles are two registers: two columns, and half of the threads. */
static int threads_of_row(const Rows *r) {
  const bool twice = has_doubles(r->b);
  const int least = rows_held(r->b, r->op, twice || columns_at_once(r->b) < 4 ? 2 : 4);
  const int each = r->width > least ? r->width : least, most = twice ? WIDEST / 2 : WIDEST;
  const int64_t threads = power_of_two_from((r->cols + each - 1) / each);
  return threads > most ? most : (int)threads;
}

static bool lay_out(Rows *r) {
  const Body *b = r->b;
  r->rows = r->cols = 1;
  for (int d = 0; d < b->ndim; d++)
    *(d < r->nrow ? &r->rows : &r->cols) *= b->dim[d];
  if (r->rows >= INT32_MAX || r->cols >= INT32_MAX)
    return cuda_fail(r->g, "more than 2^31 rows or columns");
  r->panel = b->panel_rows > 0 && b->panel_rows < r->rows ? b->panel_rows : r->rows;
  r->width = rows_width(b, r->op, r->cols, columns_at_once(b));
  const bool sums = has_column_sums(b);
  const int split = r->width > SPLIT ? r->width : SPLIT;
  const int block = only_gathers(b) && r->panel >= GATHER / 8 ? GATHER : BLOCK;
  r->split = can_split(b) && r->cols > BLOCK * split;
  if (r->split) {
    r->group = BLOCK;
    r->per_thread = split;
    r->unrolled = true;
  } else {
    const int64_t lines = (r->cols + r->width - 1) / r->width;
    r->group = threads_of_row(r);
    r->per_thread = (int)((lines + r->group - 1) / r->group) * r->width;
    r->unrolled = r->per_thread <= (sums ? KEPT_SUMS : KEPT);
    if (sums && !r->unrolled)
      return cuda_unsupported(r->g, "column sums of %lld columns beside row reductions",
                              (long long)r->cols);
  }
  r->parallel = r->group < block ? block / r->group : 1;
  while (r->parallel > 1 && r->parallel / 2 >= r->panel && r->parallel * r->group > 32)
    r->parallel /= 2;
  r->g->threads = r->group * r->parallel;
  if (r->g->threads < 32) /* whole warps only: more groups than rows do no harm */
    r->g->threads = 32, r->parallel = 32 / r->group;
  r->g->blocks = (r->rows + r->panel - 1) / r->panel;
  r->g->blocks_y = r->split ? (r->cols + r->group * split - 1) / (r->group * split) : 1;
  rows_plan_tiles(r);
  r->g->resident = CUDA_RESIDENT / r->g->threads;
  return true;
}

/* In the loop over the columns of the last pass. */
static bool acts_on_elements(const Rows *r, const Stmt *s) {
  return s->prim == PR_CSUM ||
         ((s->prim == PR_STORE || is_panel_reduction(s->prim)) && level_of_arg(r, s) == LV_ELEM);
}

static void find_passes(Rows *r) {
  r->npass = 1;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    for (int k = 0; k < prim_args((Prim)s->prim); k++)
      if (r->ready[s->arg[k]] > r->ready[i])
        r->ready[i] = r->ready[s->arg[k]];
    if ((acts_on_elements(r, s) || is_row_reduction(s->prim)) && r->ready[i] + 1 > r->npass)
      r->npass = r->ready[i] + 1;
    if (is_row_reduction(s->prim))
      r->ready[i]++;
  }
}

/* Marks what elements pass `pass` computes for statement i; at the border to an earlier pass the
 * value is kept when the loop is unrolled. */
static void need(Rows *r, int i) {
  const Stmt *s = stmt(r, i);
  if (s->level != LV_ELEM || r->needed[i])
    return;
  if (r->unrolled && r->computed[i]) {
    r->kept[i] = true;
    return;
  }
  r->needed[i] = true;
  for (int k = 0; k < prim_args((Prim)s->prim); k++)
    need(r, s->arg[k]);
}

static bool acts_in(const Rows *r, int i, int pass) {
  const Stmt *s = stmt(r, i);
  if (is_row_reduction(s->prim))
    return r->ready[i] - 1 == pass;
  return pass == r->npass - 1 && acts_on_elements(r, s);
}

static void find_needed(Rows *r, int pass) {
  for (int i = 0; i < r->b->nstmt; i++)
    r->computed[i] = r->computed[i] || r->needed[i];
  memset(r->needed, 0, (size_t)r->b->nstmt * sizeof *r->needed);
  for (int i = 0; i < r->b->nstmt; i++)
    if (acts_in(r, i, pass))
      need(r, stmt(r, i)->arg[0]);
}

/* ---- text ------------------------------------------------------------------------------------ */

static const char *combiner(int p) {
  return p == PR_RMAX || p == PR_AMAX ? "Max" : p == PR_RMIN || p == PR_AMIN ? "Min" : "Sum";
}

static void put_identity(Text *t, const Stmt *s) {
  const char *word = combiner(s->prim);
  if (*word == 'S')
    text_puts(t, "0");
  else if (s->dt == MPCC_I64)
    text_puts(t, *word == 'M' && word[1] == 'a' ? "-0x7fffffffffffffffll" : "0x7fffffffffffffffll");
  else
    text_printf(t, "%s(%s)__int_as_float(0x7f800000)", word[1] == 'a' ? "-" : "",
                cuda_register(s->dt));
}

/* v<i> = Sum::of(v<i>, argument) */
static void put_combine(Rows *r, int i) {
  const Stmt *s = stmt(r, i);
  Text *t = &r->g->out;
  cuda_value(&r->text, i, t);
  text_printf(t, " = %s::of(", combiner(s->prim));
  cuda_value(&r->text, i, t);
  text_puts(t, ", ");
  cuda_value(&r->text, s->arg[0], t);
  text_puts(t, ");\n");
}

/* Statements without elements at one level and stage: constants, loads, arithmetic. */
static bool put_narrow(Rows *r, int level, int ready) {
  Text *t = &r->g->out;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    if (s->level != level || r->ready[i] != ready || s->prim == PR_STORE || s->prim == PR_CSUM ||
        is_row_reduction(s->prim) || is_panel_reduction(s->prim))
      continue;
    text_printf(t, "const %s v%d = ", cuda_register(s->dt), i);
    if (level == LV_ROW && s->prim == PR_LOAD)
      text_puts(t, "!on ? 0 : ");
    if (!cuda_expression(&r->text, i, t))
      return false;
    text_puts(t, ";\n");
  }
  return true;
}

/* The loop over this thread's columns, r->width neighbours at a time, the first of which is c0. */
static void put_columns(const Rows *r) {
  Text *t = &r->g->out;
  if (r->unrolled)
    text_printf(
        t,
        "if (on) {\n#pragma unroll\nfor (int q = 0; q < %d; q++) {\nconst u32 c0 = first_col + "
        "(lane + q * %du) * %d;\n",
        r->per_thread / r->width, r->group, r->width);
  else
    text_printf(t, "if (on) {\nfor (u32 c0 = lane * %d; c0 < %lldu; c0 += %du) {\n", r->width,
                (long long)r->cols, r->group * r->width);
  if (r->unrolled && (r->split || r->cols % (r->group * r->width)))
    text_printf(t, "if (c0 < %lldu) {\n", (long long)r->cols);
  else
    text_puts(t, "{\n");
}

/* What pass `pass` does with one element: column c, this thread's k-th. */
static bool put_element(Rows *r, int pass) {
  Text *t = &r->g->out;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    if (r->needed[i]) {
      if (!r->kept[i])
        text_printf(t, "const %s ", cuda_register(s->dt));
      cuda_value(&r->text, i, t);
      text_puts(t, " = ");
      if (s->prim == PR_LOAD && rows_is_wide(r, i))
        text_printf(t, "get_%s(w%d[j])", dtype_text(r->op->in[s->ref]->type->dt), i);
      else if (!cuda_expression(&r->text, i, t))
        return false;
      text_puts(t, ";\n");
    } else if (acts_in(r, i, pass) && s->prim != PR_STORE) {
      put_combine(r, i);
    }
  }
  /* stores behind all loads: a result may be in place of an operand */
  for (int i = 0; i < r->b->nstmt; i++)
    if (acts_in(r, i, pass) && stmt(r, i)->prim == PR_STORE)
      rows_put_store(r, i);
  return true;
}

static bool put_elements(Rows *r, int pass) {
  Text *t = &r->g->out;
  bool *const writes = r->writes;
  find_needed(r, pass);
  for (int i = 0; i < r->b->nstmt; i++)
    writes[i] = acts_in(r, i, pass) && stmt(r, i)->prim == PR_STORE;
  put_columns(r);
  rows_put_reads(r, r->needed);
  for (int i = 0; i < r->b->nstmt; i++)
    if (writes[i] && rows_is_wide(r, i))
      text_printf(t, "%s w%d[%d];\n", cuda_storage(r->op->out[stmt(r, i)->ref]->type->dt), i,
                  r->width);
  text_printf(t, "#pragma unroll\nfor (int j = 0; j < %d; j++) {\nconst u32 c = c0 + j;\n",
              r->width);
  if (r->unrolled)
    text_printf(t, "const int k = q * %d + j;\n", r->width);
  cuda_indices(r->b, r->nrow, r->b->ndim, "c", t);
  if (!put_element(r, pass))
    return false;
  text_puts(t, "}\n");
  rows_put_writes(r, writes);
  text_puts(t, "}\n}\n}\n");
  return true;
}

/* Which values pass borders keep is known when all passes have been gone through. */
static void find_kept(Rows *r) {
  for (int pass = 0; pass < r->npass; pass++)
    find_needed(r, pass);
  const size_t n = (size_t)r->b->nstmt;
  memset(r->computed, 0, n * sizeof *r->computed);
  memset(r->needed, 0, n * sizeof *r->needed);
  for (int i = 0; i < r->b->nstmt; i++)
    r->kept[i] = r->kept[i] || stmt(r, i)->prim == PR_CSUM;
}

static void put_accumulators(Rows *r) {
  Text *t = &r->g->out;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    if (s->prim == PR_CSUM)
      text_printf(t, "%s v%d[%d] = {};\n", cuda_register(s->dt), i, r->per_thread);
    if (is_panel_reduction(s->prim)) {
      text_printf(t, "%s v%d = ", cuda_register(s->dt), i);
      put_identity(t, s);
      text_puts(t, ";\n");
    }
  }
}

static void put_row_reductions(Rows *r, int pass, bool begin) {
  Text *t = &r->g->out;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    if (!is_row_reduction(s->prim) || !acts_in(r, i, pass))
      continue;
    if (begin) {
      text_printf(t, "%s v%d = ", cuda_register(s->dt), i);
      put_identity(t, s);
      text_puts(t, ";\n");
    } else {
      text_printf(t, "v%d = over_group<%s, %d>(v%d, room_%s);\n", i, combiner(s->prim), r->group, i,
                  cuda_register(s->dt));
    }
  }
}

/* What a row gives besides elements, by its group's first thread, when all threads have read. */
static void put_row_results(Rows *r) {
  Text *t = &r->g->out;
  bool any = false;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    const bool sums = is_panel_reduction(s->prim) && level_of_arg(r, s) == LV_ROW;
    const bool stores = s->prim == PR_STORE && level_of_arg(r, s) == LV_ROW;
    if (!sums && !stores)
      continue;
    if (!any)
      text_puts(t, r->group > 32 ? "__syncthreads();\nif (on && lane == 0) {\n"
                                 : "__syncwarp();\nif (on && lane == 0) {\n");
    any = true;
    if (sums)
      put_combine(r, i);
    else
      cuda_store(&r->text, i, 0, r->nrow, "", t);
  }
  if (any)
    text_puts(t, "}\n");
}

static bool put_rows(Rows *r) {
  Text *t = &r->g->out;
  if (only_gathers(r->b)) /* nothing is written, so that reads of several rows are under way */
    text_puts(t, "#pragma unroll 4\n");
  text_printf(t, "for (u32 turn = 0; turn < %lldu; turn++) {\n",
              (long long)((r->panel + r->parallel - 1) / r->parallel));
  text_printf(t, "const u32 in_panel = turn * %du + sub, row = first_row + in_panel;\n",
              r->parallel);
  text_printf(t, "const bool on = in_panel < %lldu && row < %lldu;\n", (long long)r->panel,
              (long long)r->rows);
  cuda_indices(r->b, 0, r->nrow, "row", t);
  for (int i = 0; i < r->b->nstmt; i++)
    if (r->kept[i] && stmt(r, i)->prim != PR_CSUM)
      text_printf(t, "%s v%d[%d];\n", cuda_register(stmt(r, i)->dt), i, r->per_thread);
  for (int pass = 0; pass < r->npass; pass++) {
    if (!put_narrow(r, LV_ROW, pass))
      return false;
    put_row_reductions(r, pass, true);
    if (!put_elements(r, pass))
      return false;
    put_row_reductions(r, pass, false);
  }
  if (!put_narrow(r, LV_ROW, r->npass))
    return false;
  put_row_results(r);
  rows_put_tiles(r);
  text_puts(t, "}\n");
  return true;
}

static bool stored_before(const Rows *r, int store) {
  for (int i = 0; i < store; i++)
    if (stmt(r, i)->prim == PR_STORE && stmt(r, i)->arg[0] == stmt(r, store)->arg[0])
      return true;
  return false;
}

/* Sums over the panel that elements went into: groups of threads are combined once. */
static void put_column_sum(Rows *r, int sum) {
  Text *t = &r->g->out;
  const char *type = cuda_register(stmt(r, sum)->dt);
  text_printf(t, "#pragma unroll\nfor (int k = 0; k < %d; k++) {\n", r->per_thread);
  text_printf(t, "__syncthreads();\nsums_%s[threadIdx.x] = v%d[k];\n__syncthreads();\n", type, sum);
  text_printf(t,
              "if (sub == 0)\nfor (int i = 1; i < %d; i++)\nv%d[k] += sums_%s[i * %d + lane];\n}\n",
              r->parallel, sum, type, r->group);
}

/* The first group of threads stores them, up to 16 bytes at a time. */
static void put_column_result(Rows *r, int store) {
  const Stmt *s = stmt(r, store);
  Text *t = &r->g->out;
  const DType dt = r->op->out[s->ref]->type->dt;
  const int line = rows_line(r, store);
  const char *k = line > 1 ? "begin" : "k";
  if (r->parallel > 1 && !stored_before(r, store))
    put_column_sum(r, s->arg[0]);
  text_printf(t, "#pragma unroll\nfor (int %s = 0; %s < %d; %s += %d) {\n", k, k, r->per_thread, k,
              line);
  text_printf(t, "const u32 c = first_col + (lane + %s / %d * %du) * %d + %s %% %d;\n", k, r->width,
              r->group, r->width, k, r->width);
  text_printf(t, "if (sub == 0 && c < %lldu) {\n", (long long)r->cols);
  cuda_indices(r->b, r->nrow, r->b->ndim, "c", t);
  char panel[64];
  snprintf(panel, sizeof panel, " + (s64)blockIdx.x * %lldll",
           r->nrow ? (long long)r->b->out[s->ref].stride[0] : 0LL);
  if (line == 1) {
    cuda_store(&r->text, store, r->nrow, r->b->ndim, panel, t);
    text_puts(t, "}\n}\n");
    return;
  }
  text_printf(t, "%s line[%d];\n#pragma unroll\nfor (int j = 0; j < %d; j++) {\n", cuda_storage(dt),
              line, line);
  text_printf(t, "const int k = begin + j;\nline[j] = put_%s(", dtype_text(dt));
  cuda_value(&r->text, cuda_stored(&r->text, store), t);
  text_printf(t, ");\n}\n%s *to = o%d + (", cuda_storage(dt), s->ref);
  cuda_offset(r->b, &r->b->out[s->ref], r->nrow, r->b->ndim, t);
  text_printf(t, "%s);\nput_line<%d>(line, to, multiple(to, %d));\n}\n}\n", panel, line,
              line * (int)dtype_bytes(dt));
}

static void put_panel_results(Rows *r) {
  Text *t = &r->g->out;
  bool synced = false;
  for (int i = 0; i < r->b->nstmt; i++) {
    const Stmt *s = stmt(r, i);
    if (is_panel_reduction(s->prim))
      text_printf(t, "v%d = over_group<%s, %d>(v%d, room_%s);\n", i, combiner(s->prim),
                  r->g->threads, i, cuda_register(s->dt));
    if (s->prim != PR_STORE)
      continue;
    if (level_of_arg(r, s) == LV_COL)
      put_column_result(r, i);
    if (level_of_arg(r, s) != LV_ALL)
      continue;
    if (!synced)
      text_puts(t, "__syncthreads();\n");
    synced = true;
    text_puts(t, "if (threadIdx.x == 0)\n");
    char panel[64];
    snprintf(panel, sizeof panel, " + (s64)blockIdx.x * %lldll",
             r->nrow ? (long long)r->b->out[s->ref].stride[0] : 0LL);
    cuda_store(&r->text, i, 0, 0, panel, t);
  }
}

/* Shared memory for each register type that is combined over a block. */
static void put_room(Rows *r) {
  static const int types[] = {MPCC_F32, MPCC_F64, MPCC_I64};
  for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
    bool groups = false, columns = false;
    for (int i = 0; i < r->b->nstmt; i++) {
      const Stmt *s = stmt(r, i);
      const bool of_type = s->dt == types[k];
      groups = groups || (of_type && (is_row_reduction(s->prim) || is_panel_reduction(s->prim)));
      columns = columns || (of_type && s->prim == PR_CSUM && r->parallel > 1);
    }
    const char *type = cuda_register(types[k]);
    if (groups)
      text_printf(&r->g->out, "__shared__ %s room_%s[32];\n", type, type);
    if (columns)
      text_printf(&r->g->out, "__shared__ %s sums_%s[%d];\n", type, type, r->g->threads);
  }
}

static bool put_kernel(Rows *r, const char *symbol) {
  Text *t = &r->g->out;
  find_kept(r);
  cuda_head(r->g, r->op, symbol);
  put_room(r);
  text_printf(t, "const u32 lane = threadIdx.x %% %du, sub = threadIdx.x / %du;\n", r->group,
              r->group);
  text_printf(t, "const u32 first_row = blockIdx.x * %lldu;\n", (long long)r->panel);
  text_printf(t, "const u32 first_col = %s%d%s;\n", r->split ? "blockIdx.y * " : "",
              r->split ? r->group * r->per_thread : 0, r->split ? "u" : "");
  rows_put_places(r);
  if (!put_narrow(r, LV_ALL, 0))
    return false;
  put_accumulators(r);
  if (!put_rows(r))
    return false;
  put_panel_results(r);
  text_puts(t, "}\n");
  return true;
}

bool cuda_rows(CudaGen *g, const Op *group, const char *symbol) {
  Body exchanged;
  Access access[2];
  Op copy = *group;
  if (rows_exchange(group, &exchanged, access)) {
    copy.body = &exchanged;
    group = &copy;
  }
  Rows r = {.g = g, .op = group, .b = group->body, .nrow = group->body->ndim - group->body->ncol};
  const size_t n = (size_t)group->body->nstmt + 1;
  r.ready = calloc(n, sizeof *r.ready);
  r.kept = calloc(4 * n, sizeof *r.kept);
  if (!r.ready || !r.kept) {
    free(r.ready);
    free(r.kept);
    return cuda_fail(g, "out of memory");
  }
  r.computed = r.kept + n;
  r.needed = r.kept + 2 * n;
  r.writes = r.kept + 3 * n;
  r.text = (CudaBody){g, group, r.kept};
  bool ok = lay_out(&r);
  if (ok) {
    find_passes(&r);
    ok = put_kernel(&r, symbol);
  }
  free(r.ready);
  free(r.kept);
  return ok && !g->error[0];
}
