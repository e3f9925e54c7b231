/* Runs the table of passes.def in order: verify after each, dump, time, check the text form.
 *
 *   module --pass--> Builder --finish, verify--> module --pass--> ...
 *
 * Several passes need and give the same stage, so the stage alone does not say where to go on. The
 * module attribute `pass` names the last pass a module went through; a dump is thus complete and
 * can be fed back. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "passes/passes.h"

static const PassInfo table[] = {
#define PASS(name, needs, gives, doc) {#name, STAGE_##needs, STAGE_##gives, pass_##name, doc},
#include "passes/passes.def"
#undef PASS
};
enum { PASS_COUNT = sizeof table / sizeof *table };

const PassInfo *pass_table(int *n) {
  *n = PASS_COUNT;
  return table;
}

static int pass_index(const char *name) {
  for (int i = 0; i < PASS_COUNT; i++)
    if (!strcmp(table[i].name, name))
      return i;
  return -1;
}

/* First pass to run on m: after its attribute `pass`, else the first that needs m's stage. */
static int first_pass(const Module *m) {
  const char *done = module_str(m, "pass", NULL);
  int at = done ? pass_index(done) : -1;
  if (at >= 0)
    return at + 1;
  for (int i = 0; i < PASS_COUNT; i++)
    if (table[i].needs == m->stage)
      return i;
  return PASS_COUNT;
}

static bool selected(const char *list, const char *name) {
  return list && (!strcmp(list, "all") || !strcmp(list, name));
}

static void dump(const PassRun *r, const char *when, const char *pass, const Module *m,
                 const Diag *d) {
  Text title = {0}, text = {0};
  text_printf(&title, "%s %s", when, pass);
  module_print(m, d, &text);
  if (!title.failed && !text.failed)
    r->dump(r->user, title.data, text.data ? text.data : "");
  text_fini(&title);
  text_fini(&text);
}

/* Prints m, parses the text and prints that: both texts must be equal. */
static Status check_text(const Module *m, const char *pass, Diag *d) {
  Text one = {0}, two = {0};
  module_print(m, d, &one);
  Status st = one.failed ? MPCC_ERR_NOMEM : MPCC_OK;
  Module *back = NULL;
  if (st == MPCC_OK) {
    Text name = {0};
    text_printf(&name, "<after %s>", pass);
    uint32_t file = diag_file(d, name.data ? name.data : "<check>", one.data, one.len);
    text_fini(&name);
    st = module_parse(m->strings, d, file, one.data, one.len, &back);
  }
  if (st == MPCC_OK) {
    module_print(back, d, &two);
    if (two.failed) {
      st = MPCC_ERR_NOMEM;
    } else if (one.len != two.len || memcmp(one.data, two.data, one.len)) {
      size_t line = 1, i = 0;
      for (; i < one.len && i < two.len && one.data[i] == two.data[i]; i++)
        line += one.data[i] == '\n';
      diag_error(d, (Loc){0}, 592, "text form after pass %s does not parse back: line %zu differs",
                 pass, line);
      st = MPCC_ERR_INTERNAL;
    }
  }
  module_destroy(back);
  text_fini(&one);
  text_fini(&two);
  return st;
}

static Status run_one(const PassInfo *p, const Module *m, const PassOpts *o, Diag *d,
                      Module **next) {
  *next = NULL;
  if (m->stage != p->needs) {
    diag_error(d, (Loc){0}, 591, "pass %s needs a module of stage %s, this one is at %s", p->name,
               stage_name(p->needs), stage_name(m->stage));
    return MPCC_ERR_INTERNAL;
  }
  Builder *b = builder_create(m->strings, d, p->gives);
  if (!b)
    return MPCC_ERR_NOMEM;
  int before = diag_errors(d);
  Status st = p->run(m, o, b, d);
  /* A pass that reports a user's error may still answer OK: it went on to find more of them. */
  if (st == MPCC_OK && diag_errors(d) > before)
    st = MPCC_ERR_INPUT;
  if (st == MPCC_ERR_INTERNAL && diag_errors(d) == before)
    diag_error(d, (Loc){0}, 595, "pass %s cannot go on: a defect of mpcc, not of the model",
               p->name);
  if (st != MPCC_OK) {
    builder_destroy(b);
    return st;
  }
  build_module_attr(b, attr_s(b, "pass", p->name));
  return builder_finish(b, next);
}

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int count_ops(const Module *m) {
  int n = 0;
  for (int i = 0; i < m->nfunc; i++)
    n += m->func[i]->nop;
  return n;
}

Status passes_run(Module *in, const PassOpts *o, const PassRun *r, Diag *d, Module **out,
                  const char **failed) {
  static const PassRun nothing = {0};
  if (!r)
    r = &nothing;
  Module *m = in;
  Status st = MPCC_OK;
  Text times = {0};
  *failed = NULL;
  if (r->stop_after && pass_index(r->stop_after) < 0) {
    diag_error(d, (Loc){0}, 590, "no pass is named '%s'", r->stop_after);
    *out = in;
    return MPCC_ERR_USAGE;
  }
  int end = r->stop_after ? pass_index(r->stop_after) + 1 : PASS_COUNT;
  for (int i = first_pass(m); i < end; i++) {
    const PassInfo *p = &table[i];
    if (selected(r->print_before, p->name))
      dump(r, "before", p->name, m, d);
    double start = now_us();
    Module *next = NULL;
    st = run_one(p, m, o, d, &next);
    double spent = now_us() - start;
    if (st == MPCC_OK && r->check)
      st = check_text(next, p->name, d);
    if (st != MPCC_OK) {
      module_destroy(next);
      *failed = p->name;
      break;
    }
    if (r->time)
      text_printf(&times, "%-10s %10.0f us  %6d ops\n", p->name, spent, count_ops(next));
    module_destroy(m);
    m = next;
    if (selected(r->print_after, p->name))
      dump(r, "after", p->name, m, d);
  }
  if (r->time && !times.failed)
    r->dump(r->user, "times", times.data ? times.data : "");
  text_fini(&times);
  *out = m;
  return st;
}
