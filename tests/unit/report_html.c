/* report.html: every curve is there, what is not finite breaks a line, nothing comes from outside. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report/report.h"
#include "tests/check_run.h"

static char dir[] = "/tmp/mpcc-html-XXXXXX";

static void put(const char *name, const char *text) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  ck_assert(f != NULL);
  fputs(text, f);
  fclose(f);
}

static char *page(void) {
  static char text[1 << 18];
  char path[300];
  snprintf(path, sizeof path, "%s/report.html", dir);
  FILE *f = fopen(path, "r");
  ck_assert(f != NULL);
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  return text;
}

static int count(const char *text, const char *part) {
  int n = 0;
  for (const char *p = text; (p = strstr(p, part)); p++)
    n++;
  return n;
}

START_TEST(curves) {
  static const char *const files[] = {"metrics.jsonl", "run.json", "spec.resolved.yaml", "report.html"};
  char error[400], path[300];
  strcpy(dir + sizeof dir - 7, "XXXXXX");
  ck_assert(mkdtemp(dir) != NULL);
  ck_assert(!report_html_write(dir, error, sizeof error)); /* nothing to draw */
  put("run.json", "{\"name\": \"a<b>&\\\"c\", \"seed\": 7}");
  put("spec.resolved.yaml", "x: <script>alert(1)</script>\n");
  put("metrics.jsonl",
      "{\"step\":1,\"epoch\":0,\"loss\":2,\"acc\":0.1,\"lr\":0.1,\"grad_norm\":1}\n"
      "{\"step\":2,\"epoch\":0,\"loss\":NaN,\"acc\":0.2,\"lr\":0.1,\"grad_norm\":Infinity}\n"
      "{\"step\":2,\"epoch\":0,\"split\":\"val\",\"loss\":1.5,\"confusion\":[[1,2],[3,4]]}\n"
      "{\"step\":3,\"epoch\":0,\"loss\":1,\"acc\":0.3,\"lr\":0.1,\"grad_norm\":2}\n"
      "{\"step\":4,\"epoch\":0,\"lo"); /* being written when the run was killed */
  ck_assert_msg(report_html_write(dir, error, sizeof error), "%s", error);
  const char *t = page();
  ck_assert_int_eq(count(t, "<svg"), 4); /* loss, lr, grad_norm, acc */
  ck_assert_int_eq(count(t, "<path class=\"line"), 5);
  ck_assert(strstr(t, "<figcaption>loss: train 1, val 1.5</figcaption>") != NULL);
  static const char head[] = "<path class=\"line s0\" d=\"";
  const char *loss = strstr(t, head);
  ck_assert(loss != NULL);
  char line[200];
  loss += strlen(head);
  snprintf(line, sizeof line, "%.*s", (int)strcspn(loss, "\""), loss);
  ck_assert_int_eq(count(line, "M"), 2); /* broken at the NaN */
  ck_assert(!strstr(t, "nan") && !strstr(t, "inf") && !strstr(t, "<script"));
  ck_assert(strstr(t, "a&lt;b&gt;&amp;&quot;c") && strstr(t, "&lt;script&gt;"));
  ck_assert(!strstr(t, "http") && !strstr(t, "url(") && !strstr(t, "src="));
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i]);
    unlink(path);
  }
  rmdir(dir);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("report_html");
  TCase *t = tcase_create("report_html");
  tcase_add_test(t, curves);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
