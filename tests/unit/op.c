/* The op tables: every row is complete and consistent. */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

static const char *const abc[] = {"a", "b", "c"};
static const char *const gyabc[] = {"g", "y", "a", "b", "c"};

START_TEST(names_are_unique_and_found) {
  for (int i = 0; i < OP_COUNT; i++) {
    ck_assert_int_eq(op_from_name(op_info((OpCode)i)->name), i);
    for (const char *c = op_info((OpCode)i)->name; *c; c++)
      ck_assert_msg((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '_', "%s",
                    op_info((OpCode)i)->name);
  }
  ck_assert_int_eq(op_from_name("nothing"), OP_COUNT);
  ck_assert_int_eq(op_from_name(""), OP_COUNT);
}
END_TEST

START_TEST(rows_are_sane) {
  for (int i = 0; i < OP_COUNT; i++) {
    const OpInfo *o = op_info((OpCode)i);
    ck_assert_msg(strlen(o->doc) >= 3, "%s has no doc", o->name);
    ck_assert_msg(o->nin >= -1 && o->nin <= 6 && o->nout >= -1 && o->nout <= 4, "%s", o->name);
    for (int k = 0; k < 2; k++)
      ck_assert_msg(o->policy[k] >= POL_LOW && o->policy[k] <= POL_STATE, "%s", o->name);
    ck_assert_msg(o->kind >= OK_NONE && o->kind <= OK_WINDOW, "%s", o->name);
    /* what is no kernel, nor a loop of kernels, has no gradient; what is never cast on one target
     * is so on all */
    ck_assert_msg(o->kind != OK_NONE || !o->has_grad || i == OP_scan, "%s", o->name);
    ck_assert_msg((o->policy[0] == POL_STATE) == (o->policy[1] == POL_STATE), "%s", o->name);
    ck_assert_msg(!o->body || (o->kind == OK_ELEM && o->nout == 1 && o->nin >= 1 && o->nin <= 3),
                  "%s", o->name);
    ck_assert_msg(!o->deriv || o->body, "%s", o->name);
  }
  ck_assert(op_is_scalar(OP_add) && !op_is_scalar(OP_linear) && !op_is_scalar(OP_expr));
}
END_TEST

START_TEST(bodies_parse) {
  Arena *a = arena_create();
  Diag *d = diag_create(a, str_table_create(a));
  for (int i = 0; i < OP_COUNT; i++) {
    const OpInfo *o = op_info((OpCode)i);
    Scalar *s;
    if (!o->body)
      continue;
    ck_assert_msg(!scalar_parse(a, d, (Loc){0}, o->body, abc, o->nin, &s), "%s", o->name);
    bool used[3] = {false};
    for (int k = 0; k < s->nstmt; k++)
      if (s->stmt[k].prim == PR_ARG)
        used[s->stmt[k].ref] = true;
    for (int k = 0; k < o->nin; k++)
      ck_assert_msg(used[k], "%s does not use %s", o->name, abc[k]);
    int parts = 0;
    for (const char *p = o->deriv; p && *p; parts++) {
      char text[256];
      const size_t n = strcspn(p, ";");
      ck_assert_uint_lt(n, sizeof text);
      memcpy(text, p, n);
      text[n] = 0;
      ck_assert_msg(!scalar_parse(a, d, (Loc){0}, text, gyabc, o->nin + 2, &s), "%s: %s", o->name,
                    text);
      p += n + (p[n] == ';');
    }
    ck_assert_msg(!o->deriv || parts == o->nin, "%s: one derivative per operand", o->name);
  }
  arena_destroy(a);
}
END_TEST

START_TEST(stages_and_roles_have_names) {
  ck_assert_str_eq(stage_name(STAGE_FORWARD), "forward");
  ck_assert_str_eq(stage_name(STAGE_PLANNED), "planned");
  ck_assert_str_eq(role_name(ROLE_PARAM), "param");
  for (int i = 0; i < STAGE_COUNT; i++)
    for (int k = 0; k < i; k++)
      ck_assert_str_ne(stage_name((Stage)i), stage_name((Stage)k));
  for (int i = 0; i < ROLE_COUNT; i++)
    for (int k = 0; k < i; k++)
      ck_assert_str_ne(role_name((Role)i), role_name((Role)k));
}
END_TEST

int main(void) {
  Suite *s = suite_create("op");
  TCase *t = tcase_create("op");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, names_are_unique_and_found);
  tcase_add_test(t, rows_are_sane);
  tcase_add_test(t, bodies_parse);
  tcase_add_test(t, stages_and_roles_have_names);
  suite_add_tcase(s, t);
  return check_run(s);
}
