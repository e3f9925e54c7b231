/* The table of cases and its instances. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opcheck.h"

static const Case table[] = {
#define CASE(op, variant, dtypes, shapes, operands, program, judge, terms, checks)                 \
  {#op, variant, dtypes, shapes, operands, program, judge, terms, checks},
#include "cases.def"
#undef CASE
};

const Case *case_table(int *n) {
  *n = (int)(sizeof table / sizeof *table);
  return table;
}

void inst_name(const Inst *i, char out[NAME_MAX_BYTES]) {
  snprintf(out, NAME_MAX_BYTES, "%s%s%s%s", i->c->op, *i->c->variant ? "." : "", i->c->variant,
           i->grad ? "/grad" : "");
}

int64_t inst_terms(const Inst *i) {
  int64_t n = 1;
  for (const char *p = i->c->terms; *p; p++)
    n *= *p >= 'A' && *p <= 'Z' ? i->letter[*p - 'A'] : *p - '0';
  return n;
}

/* Next word of a list separated by spaces; false at the end. */
static bool next_word(const char **list, char *word, size_t cap) {
  *list += strspn(*list, " ");
  size_t n = strcspn(*list, " ");
  if (!n)
    return false;
  snprintf(word, cap, "%.*s", (int)n, *list);
  *list += n;
  return true;
}

static void read_shape(Inst *i) {
  for (const char *p = i->shape; *p; p++)
    if (*p >= 'A' && *p <= 'Z' && p[1] == '=')
      i->letter[*p - 'A'] = strtol(p + 2, NULL, 10);
}

static bool wanted(const char *filter, const char *is) {
  return !filter || !*filter || !strcmp(filter, is);
}

/* Gradients are many kernels: unless a dtype or shape is asked for, other shapes than the first run
 * in f32 only. */
static bool left_out(const Inst *i, const char *dtype, const char *shape) {
  return i->grad && !i->first && i->dt != MPCC_F32 && !dtype && !shape;
}

/* "gelu" names all of gelu's instances, "gelu.smooth" one case, "gelu.smooth/grad" its gradient. */
static bool name_wanted(const char *filter, const Inst *i) {
  char name[NAME_MAX_BYTES];
  inst_name(i, name);
  if (wanted(filter, name) || !strcmp(filter, i->c->op))
    return true;
  char *slash = strchr(name, '/');
  if (slash)
    *slash = 0;
  return !strcmp(filter, name);
}

typedef struct {
  Inst *inst;
  int n, cap;
} List;

static bool add(List *l, const Inst *i) {
  if (l->n == l->cap) {
    int cap = l->cap ? 2 * l->cap : 256;
    Inst *more = realloc(l->inst, (size_t)cap * sizeof *more);
    if (!more)
      return false;
    l->inst = more;
    l->cap = cap;
  }
  l->inst[l->n++] = *i;
  return true;
}

static bool add_case(List *l, const Case *c, bool grad, const char *name, const char *dtype,
                     const char *shape, Few few) {
  Inst i = {.c = c, .grad = grad};
  char dt[16];
  if (!name_wanted(name, &i))
    return true;
  for (const char *d = c->dtypes; next_word(&d, dt, sizeof dt);) {
    i.dt = dtype_from_text(dt);
    if (!wanted(dtype, dt))
      continue;
    i.first = true;
    for (const char *s = c->shapes; next_word(&s, i.shape, sizeof i.shape); i.first = false) {
      if (!wanted(shape, i.shape) || left_out(&i, dtype, shape))
        continue;
      memset(i.letter, 0, sizeof i.letter);
      read_shape(&i);
      if (!add(l, &i))
        return false;
      if (few == ONE_EACH)
        return true;
      if (few == ONE_OF_A_DTYPE)
        break;
    }
  }
  return true;
}

int inst_list(const char *name, const char *dtype, const char *shape, Few few, Inst **out) {
  List l = {0};
  for (size_t k = 0; k < sizeof table / sizeof *table; k++)
    for (int grad = 0; grad < 2; grad++)
      if (strchr(table[k].checks, grad ? 'G' : 'F') &&
          !add_case(&l, &table[k], grad, name, dtype, shape, few)) {
        free(l.inst);
        return -1;
      }
  *out = l.inst;
  return l.n;
}
