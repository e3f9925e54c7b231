/* The op tables and opcheck's cases: every row that computes has a doc and a case, every row with a
 * gradient has its gradient checked, and every case can be run. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

typedef struct {
  const char *op, *variant, *dtypes, *shapes, *operands, *program, *judge, *terms, *checks;
} Row;

static const Row cases[] = {
#define CASE(op, variant, dtypes, shapes, operands, program, judge, terms, checks)                 \
  {#op, variant, dtypes, shapes, operands, program, #judge, terms, checks},
#include "tests/opcheck/cases.def"
#undef CASE
};
enum { NCASE = sizeof cases / sizeof *cases };

/* "op(" as a word of its own */
static bool calls(const char *program, const char *op) {
  size_t n = strlen(op);
  for (const char *p = program; (p = strstr(p, op)); p += n)
    if (p[n] == '(' && (p == program || (!isalnum((unsigned char)p[-1]) && p[-1] != '_')))
      return true;
  return false;
}

static bool is_checked(const char *op, const char *directions) {
  for (int i = 0; i < NCASE; i++)
    if (strpbrk(cases[i].checks, directions) && calls(cases[i].program, op))
      return true;
  return false;
}

START_TEST(every_op_has_a_doc_and_a_case) {
  for (int i = 0; i < OP_COUNT; i++) {
    const OpInfo *o = op_info((OpCode)i);
    ck_assert_msg(o->doc && strlen(o->doc) > 2, "%s has no doc", o->name);
    if (o->kind != OK_NONE)
      ck_assert_msg(is_checked(o->name, "FG"), "%s has no case in tests/opcheck/cases.def",
                    o->name);
  }
}
END_TEST

START_TEST(every_gradient_has_a_case) {
  for (int i = 0; i < OP_COUNT; i++) {
    const OpInfo *o = op_info((OpCode)i);
    if (o->has_grad)
      ck_assert_msg(is_checked(o->name, "G"),
                    "the gradient of %s has no case in tests/opcheck/cases.def", o->name);
  }
}
END_TEST

START_TEST(cases_call_their_op) {
  for (int i = 0; i < NCASE; i++) {
    const Row *c = &cases[i];
    ck_assert_msg(op_from_name(c->op) != OP_COUNT, "case of unknown op %s", c->op);
    ck_assert_msg(calls(c->program, c->op), "%s.%s does not call it", c->op, c->variant);
    ck_assert_msg(*c->checks && strspn(c->checks, "FG") == strlen(c->checks), "%s.%s", c->op,
                  c->variant);
    if (strchr(c->checks, 'G'))
      ck_assert_msg(op_info(op_from_name(c->op))->has_grad, "%s has no gradient", c->op);
    for (int k = 0; k < i; k++)
      ck_assert_msg(strcmp(c->op, cases[k].op) || strcmp(c->variant, cases[k].variant),
                    "two cases %s.%s", c->op, c->variant);
  }
}
END_TEST

/* A capital letter that stands alone, outside strings and `text` being one of a case's texts. */
static bool letter_of(const char *text, const char *p) {
  return *p >= 'A' && *p <= 'Z' && (p == text || !isalnum((unsigned char)p[-1])) &&
         !isalnum((unsigned char)p[1]);
}

static void check_letters(const Row *c, const char *text, const char *shape, size_t len) {
  bool quoted = false;
  for (const char *p = text; *p; p++) {
    quoted ^= *p == '"';
    if (quoted || !letter_of(text, p))
      continue;
    bool given = false;
    for (size_t i = 0; i + 1 < len; i++)
      given |= shape[i] == *p && shape[i + 1] == '=';
    ck_assert_msg(given, "%s.%s: shape %.*s has no %c", c->op, c->variant, (int)len, shape, *p);
  }
}

START_TEST(shapes_and_dtypes_are_complete) {
  for (int i = 0; i < NCASE; i++) {
    const Row *c = &cases[i];
    char word[16];
    for (const char *d = c->dtypes; *d; d += strspn(d, " ")) {
      size_t n = strcspn(d, " ");
      ck_assert_uint_lt(n, sizeof word);
      memcpy(word, d, n);
      word[n] = 0;
      ck_assert_msg(dtype_from_text(word) != MPCC_DTYPE_COUNT, "%s.%s: dtype %s", c->op, c->variant,
                    word);
      d += n;
    }
    for (const char *s = c->shapes; *s; s += strspn(s, " ")) {
      size_t n = strcspn(s, " ");
      check_letters(c, c->operands, s, n);
      check_letters(c, c->program, s, n);
      for (const char *t = c->terms; *t; t++)
        if (*t >= 'A' && *t <= 'Z')
          ck_assert_msg(memchr(s, *t, n) != NULL, "%s.%s: terms %s", c->op, c->variant, c->terms);
      s += n;
    }
  }
}
END_TEST

int main(void) {
  TCase *t = tcase_create("optable");
  tcase_add_test(t, every_op_has_a_doc_and_a_case);
  tcase_add_test(t, every_gradient_has_a_case);
  tcase_add_test(t, cases_call_their_op);
  tcase_add_test(t, shapes_and_dtypes_are_complete);
  Suite *s = suite_create("optable");
  suite_add_tcase(s, t);
  return check_run(s);
}
