/* Text form: what the builder makes prints and parses back to the same bytes; every damaged text is
 * refused in words; running out of memory anywhere is survived. */
#include <dirent.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} Session;

static Session session(void) {
  Session s = {.arena = arena_create()};
  s.strings = str_table_create(s.arena);
  s.diag = diag_create(s.arena, s.strings);
  return s;
}

static Module *parse(Session *s, const char *text, size_t len) {
  Module *m = NULL;
  Status status =
      module_parse(s->strings, s->diag, diag_file(s->diag, "t.mpir", text, len), text, len, &m);
  ck_assert((status == MPCC_OK) == (m != NULL));
  return m;
}

/* Prints m, parses that in a new session, prints again: same bytes. Gives the text. */
static Text round_trip(const Module *m, const Diag *files) {
  Text once = {0}, twice = {0}, said = {0};
  module_print(m, files, &once);
  Session s = session();
  Module *again = parse(&s, once.data, once.len);
  for (const DiagMessage *d = diag_first(s.diag); d; d = d->next)
    diag_render(s.diag, d, false, &said);
  ck_assert_msg(again != NULL, "%s\nin\n%s", said.data ? said.data : "", once.data);
  module_print(again, s.diag, &twice);
  ck_assert_str_eq(once.data, twice.data);
  ck_assert_int_eq(again->ntensor, m->ntensor);
  ck_assert_int_eq(again->nfunc, m->nfunc);
  module_destroy(again);
  arena_destroy(s.arena);
  text_fini(&twice);
  text_fini(&said);
  return once;
}

static Module *finish(Session *s, Builder *b) {
  Module *m;
  Text said = {0};
  Status status = builder_finish(b, &m);
  for (const DiagMessage *d = diag_first(s->diag); d; d = d->next)
    diag_render(s->diag, d, false, &said);
  ck_assert_msg(status == MPCC_OK, "%s", said.data ? said.data : "failed");
  text_fini(&said);
  return m;
}

START_TEST(attributes_of_all_kinds) {
  static const double floats[] = {0.0,           -0.0,      1.0,      -3.0, 0.1,
                                  1e300,         5e-324,    DBL_MAX,  1e15, 123456789,
                                  0x1.fffffep-3, -INFINITY, INFINITY, NAN};
  static const int64_t ints[] = {0, -1, INT64_MAX, INT64_MIN, 9007199254740993};
  Session s = session();
  Builder *b = builder_create(s.strings, s.diag, STAGE_FORWARD);
  char key[32];
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    snprintf(key, sizeof key, "f%zu", i);
    build_module_attr(b, attr_f(b, key, floats[i]));
  }
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
    snprintf(key, sizeof key, "i%zu", i);
    build_module_attr(b, attr_i(b, key, ints[i]));
  }
  build_module_attr(b, attr_ints(b, "list", 5, ints));
  build_module_attr(b, attr_ints(b, "empty", 0, NULL));
  build_module_attr(b, attr_s(b, "text", "a \"b\" \\ \n\t\x01 \xc3\xa9 {}[]%@"));
  build_module_attr(b, attr_s(b, "", ""));
  build_module_attr(b, attr_b(b, "1st", true));
  build_module_attr(b, attr_b(b, "true", false));
  for (int d = 0; d < MPCC_DTYPE_COUNT; d++) {
    snprintf(key, sizeof key, "dtype.%d", d);
    build_module_attr(b, attr_dt(b, key, (DType)d));
  }
  Module *m = finish(&s, b);
  Text t = round_trip(m, s.diag);
  ck_assert(strstr(t.data, "attr f2=1.0\n") != NULL);
  ck_assert(strstr(t.data, "attr f1=-0.0\n") != NULL);
  ck_assert(strstr(t.data, "attr f4=0.1\n") != NULL);
  Session again = session();
  Module *r = parse(&again, t.data, t.len);
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    snprintf(key, sizeof key, "f%zu", i);
    double got = module_float(r, key, 7);
    ck_assert(isnan(floats[i]) ? isnan(got) : !memcmp(&got, &floats[i], sizeof got));
  }
  ck_assert_str_eq(module_str(r, "text", "?"), module_str(m, "text", "!"));
  ck_assert(module_int(r, "i3", 0) == INT64_MIN);
  module_destroy(r);
  arena_destroy(again.arena);
  text_fini(&t);
  module_destroy(m);
  arena_destroy(s.arena);
}
END_TEST

START_TEST(names_and_places) {
  Session s = session();
  const char *source = "model:\n  layers\n";
  uint32_t unused = diag_file(s.diag, "unused.yaml", source, strlen(source));
  uint32_t file = diag_file(s.diag, "specs/a b.yaml", source, strlen(source));
  ck_assert_uint_ne(unused, file);
  Builder *b = builder_create(s.strings, s.diag, STAGE_FORWARD);
  const Type *ty = type_get(builder_types(b), MPCC_BF16, 2, (int64_t[]){2, 3});
  static const char *const names[] = {"work",        "",    "0.weight", "a b", "quote\"",
                                      "caf\xc3\xa9", "x+1", "-",        "1e5", "nan"};
  Tensor *t = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    Tensor *u = build_tensor(b, names[i], ty, ROLE_PARAM, (Loc){file, 1, 2, 5});
    if (t)
      build_tensor_attr(b, u, attr_t(b, "of", t));
    t = u;
  }
  build_tensor_view(b, "view", type_get(builder_types(b), MPCC_BF16, 0, NULL), ROLE_PARAM, t, 5,
                    (Loc){0});
  build_func(b, "a function");
  build_at(b, (Loc){file, 2, 3, 0}, str_c(s.strings, "enc\"oder.0"), str_c(s.strings, "why\nnot"));
  Value *x = build_read(b, t);
  build_write(b, t, build_expr(b, "a * 0.1 + b", MPCC_BF16, 2, (Value *[]){x, x}));
  Module *m = finish(&s, b);
  Text out = round_trip(m, s.diag);
  ck_assert(strstr(out.data, "file 1 \"specs/a b.yaml\"\n") != NULL);
  ck_assert(strstr(out.data, "unused.yaml") == NULL);
  ck_assert(strstr(out.data, "tensor @\"work\" : ") != NULL);
  ck_assert(strstr(out.data, " layer=\"enc\\\"oder.0\" !1:2:3 why=") != NULL);
  text_fini(&out);
  out = round_trip(m, NULL); /* without files there are no locations */
  ck_assert(strchr(out.data, '!') == NULL);
  text_fini(&out);
  module_destroy(m);
  arena_destroy(s.arena);
}
END_TEST

/* Text of a rows group holding `line` between statements of every register type. */
static char *group_with(const char *line, char text[1024]) {
  snprintf(text, 1024,
           "mpir 1 stage=kernels\n"
           "tensor @x : f32[4,3] role=input\n"
           "func @f {\n"
           "  %%0:f32[4,3] = read {tensor=@x}\n"
           "  %%1:f32[4,3], %%2:f32[2,3], %%3:f32[2] = group %%0 {kind=\"rows\"} [\n"
           "    dim 4 3 cols 1 panel 2\n"
           "    in 0: 0 + 3 1\n"
           "    out 0: 0 + 3 1\n"
           "    out 1: 0 + 3 1\n"
           "    out 2: 0 + 1 0\n"
           "    param 5\n"
           "    s0:f32 elem = load 0\n"
           "    s1:i64 all = param 0\n"
           "    s2:b1 elem = lt s0, s0\n"
           "    %s\n"
           "    store 0 s0\n"
           "    s5:f32 col = csum s0\n"
           "    store 1 s5\n"
           "    s7:f32 all = amin s0\n"
           "    store 2 s7\n"
           "  ]\n"
           "}\n",
           line);
  return text;
}

/* A line for each primitive that a rows group takes. */
START_TEST(every_primitive) {
  for (int p = 0; p < PR_COUNT; p++) {
    char line[100], text[1024];
    const char *name = prim_name((Prim)p);
    bool truth = p >= PR_LT && p <= PR_NE;
    if (p == PR_ARG || p == PR_ACC || p == PR_STORE || (p >= PR_CSUM && p <= PR_AMIN))
      continue; /* not here, or in the frame */
    ck_assert_int_eq(prim_from_name(name), p);
    if (p == PR_CONST)
      snprintf(line, sizeof line, "s3:f64 all = const 1e-05");
    else if (p == PR_LOAD)
      snprintf(line, sizeof line, "s3:f32 elem = load 0");
    else if (p == PR_INDEX || p == PR_PARAM)
      snprintf(line, sizeof line, "s3:i64 row = %s 0", name);
    else if (p == PR_SELECT)
      snprintf(line, sizeof line, "s3:f32 elem = select s2, s0, s0");
    else if (p == PR_AND || p == PR_OR)
      snprintf(line, sizeof line, "s3:b1 elem = %s s2, s2", name);
    else if (p == PR_NOT)
      snprintf(line, sizeof line, "s3:b1 elem = not s2");
    else if (p == PR_ISFINITE)
      snprintf(line, sizeof line, "s3:b1 elem = isfinite s0");
    else if (p == PR_ROUND)
      snprintf(line, sizeof line, "s3:f32 elem = round e4m3 s0");
    else if (p == PR_CVT)
      snprintf(line, sizeof line, "s3:f64 elem = cvt s2");
    else if (p == PR_RAND)
      snprintf(line, sizeof line, "s3:f32 all = rand s1, s1, s1, s1");
    else if (p >= PR_RSUM && p <= PR_RMIN)
      snprintf(line, sizeof line, "s3:f32 row = %s s0", name);
    else if (prim_args((Prim)p) == 2)
      snprintf(line, sizeof line, "s3:%s elem = %s s0, s0", truth ? "b1" : "f32", name);
    else
      snprintf(line, sizeof line, "s3:f32 elem = %s s0", name);
    Session s = session();
    group_with(line, text);
    Module *m = parse(&s, text, strlen(text));
    ck_assert_msg(m != NULL, "%s: %s", line, diag_first(s.diag) ? diag_first(s.diag)->text : "");
    Text out = round_trip(m, s.diag);
    ck_assert_str_eq(out.data, text);
    text_fini(&out);
    module_destroy(m);
    arena_destroy(s.arena);
  }
}
END_TEST

typedef void CaseFn(const char *text, size_t len);

/* Calls fn with each golden case of the parser. */
static void each_case(CaseFn *fn) {
  const char *folder = SOURCE_DIR "/tests/golden/parse";
  DIR *dir = opendir(folder);
  ck_assert(dir != NULL);
  int n = 0;
  for (struct dirent *e; (e = readdir(dir));) {
    char path[1024], text[8192];
    if (!strstr(e->d_name, ".want"))
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    FILE *f = fopen(path, "rb");
    ck_assert(f != NULL);
    size_t len = fread(text, 1, sizeof text, f);
    fclose(f);
    ck_assert(len < sizeof text);
    fn(text, len);
    n++;
  }
  closedir(dir);
  ck_assert_int_gt(n, 2);
}

static void cut_everywhere(const char *text, size_t len) {
  for (size_t n = 0; n < len; n++) {
    Session s = session();
    Module *m = parse(&s, text, n);
    if (!m)
      ck_assert_msg(diag_errors(s.diag) > 0, "no word on %zu bytes", n);
    module_destroy(m);
    arena_destroy(s.arena);
  }
}

/* Every prefix is refused with a diagnostic, or is a module (cut between functions). */
START_TEST(truncated_texts) {
  each_case(cut_everywhere);
}
END_TEST

static void damage_everywhere(const char *text, size_t len) {
  static const char junk[] = "\"{}[]%@!9-s#\0\xff\n";
  char *copy = malloc(len);
  for (size_t n = 0; n < len; n++) {
    memcpy(copy, text, len);
    copy[n] = junk[n % (sizeof junk - 1)];
    Session s = session();
    Module *m = parse(&s, copy, len);
    if (!m)
      ck_assert(diag_errors(s.diag) > 0);
    module_destroy(m);
    arena_destroy(s.arena);
  }
  free(copy);
}

START_TEST(damaged_texts) {
  each_case(damage_everywhere);
}
END_TEST

static void starve(const char *text, size_t len) {
  bool done = false;
  for (long n = 1; !done; n++) {
    Session s = session();
    uint32_t file = diag_file(s.diag, "t.mpir", text, len);
    Module *m = NULL;
    arena_fail_after(n);
    Status status = module_parse(s.strings, s.diag, file, text, len, &m);
    if (status == MPCC_OK) {
      Text out = {0};
      module_print(m, s.diag, &out);
      done = !out.failed && out.len == len;
      text_fini(&out);
    }
    arena_fail_after(0);
    module_destroy(m);
    arena_destroy(s.arena);
    ck_assert_int_lt(n, 100000);
  }
}

/* Allocation n fails, for n = 1, 2, ... until everything succeeds. */
START_TEST(out_of_memory) {
  each_case(starve);
}
END_TEST

int main(void) {
  Suite *s = suite_create("print");
  TCase *t = tcase_create("text");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, attributes_of_all_kinds);
  tcase_add_test(t, names_and_places);
  tcase_add_test(t, every_primitive);
  tcase_add_test(t, truncated_texts);
  tcase_add_test(t, damaged_texts);
  tcase_add_test(t, out_of_memory);
  suite_add_tcase(s, t);
  return check_run(s);
}
