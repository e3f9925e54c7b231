/* Charts: what is drawn of a series, and that text cannot break out of the page. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/chart.h"
#include "tests/check_run.h"

/* The page with one line chart of `s`; malloc'ed. */
static char *draw(const ChartSeries *s, int n) {
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  ck_assert_ptr_nonnull(f);
  chart_lines(f, "loss <b>", "step", s, n);
  fclose(f);
  return text;
}

static int count(const char *text, const char *word) {
  int n = 0;
  for (const char *p = text; (p = strstr(p, word)); p++)
    n++;
  return n;
}

/* Moves and lines of the first series' path. */
static void strokes(const char *svg, int *moves, int *lines) {
  const char *p = strstr(svg, "class=\"line s0\" d=\"");
  ck_assert_ptr_nonnull(p);
  *moves = *lines = 0;
  for (p += strlen("class=\"line s0\" d=\""); *p != '"'; p++) {
    *moves += *p == 'M';
    *lines += *p == 'L';
  }
}

START_TEST(gap_where_not_finite) {
  double x[] = {0, 100, 200, 300, 400}, y[] = {1, 2, NAN, 4, 5};
  char *svg = draw(&(ChartSeries){"a", x, y, 5}, 1);
  int moves, lines;
  strokes(svg, &moves, &lines);
  ck_assert_int_eq(moves, 2);
  ck_assert_int_eq(lines, 2);
  ck_assert_ptr_null(strstr(svg, "legend"));
  ck_assert_ptr_null(strstr(svg, "nan"));
  ck_assert_int_eq(count(svg, "loss &lt;b&gt;"), 2);
  free(svg);
}
END_TEST

/* A peak of one step in ten thousand is still there, and the path stays short. */
START_TEST(thinning_keeps_extremes) {
  enum { N = 100000 };
  double *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
  for (int i = 0; i < N; i++) {
    x[i] = i;
    y[i] = i == 54321 ? 100 : 0;
  }
  char *svg = draw(&(ChartSeries){"a", x, y, N}, 1);
  int moves, lines;
  strokes(svg, &moves, &lines);
  ck_assert_int_eq(moves, 1);
  ck_assert_int_lt(lines, 4 * 720);
  ck_assert_ptr_nonnull(strstr(svg, " 12.0L")); /* the top of the chart is reached */
  free(svg);
  free(x);
  free(y);
}
END_TEST

START_TEST(nothing_and_constants) {
  double x[] = {1, 2}, none[] = {NAN, INFINITY}, same[] = {0, 0};
  ChartSeries s[] = {{"none", x, none, 2}, {"same", x, same, 2}};
  char *svg = draw(s, 1);
  ck_assert_ptr_null(strstr(svg, "nan"));
  ck_assert_ptr_null(strstr(svg, "inf"));
  free(svg);
  svg = draw(s, 2);
  ck_assert_ptr_null(strstr(svg, "nan"));
  ck_assert_ptr_nonnull(strstr(svg, "legend"));
  free(svg);
}
END_TEST

START_TEST(bars) {
  const char *name[] = {"32-true", "16-true"};
  double value[] = {2.5, NAN};
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  chart_bars(f, "time", "ms", name, value, 2);
  fclose(f);
  ck_assert_ptr_nonnull(strstr(text, ">2.5 ms<"));
  ck_assert_ptr_nonnull(strstr(text, "&ndash;"));
  ck_assert_ptr_nonnull(strstr(text, "width=\"0.0\""));
  free(text);
}
END_TEST

int main(void) {
  Suite *s = suite_create("chart");
  TCase *t = tcase_create("all");
  suite_add_tcase(s, t);
  tcase_add_test(t, gap_where_not_finite);
  tcase_add_test(t, thinning_keeps_extremes);
  tcase_add_test(t, nothing_and_constants);
  tcase_add_test(t, bars);
  return check_run(s);
}
