/* Self-contained HTML pages with inline SVG charts: no script, no font, nothing is fetched. */
#ifndef MPCC_REPORT_CHART_H
#define MPCC_REPORT_CHART_H

#include <stddef.h>
#include <stdio.h>

/* Text with &, <, > and quotes escaped, for element content and attribute values. */
void chart_text(FILE *out, const char *text);

/* Everything up to the first section: title, style (light and dark), the heading. */
void chart_page_begin(FILE *out, const char *title);
void chart_page_end(FILE *out);

/* Points in order of x; a y that is not finite interrupts the line. Borrowed during the call. */
typedef struct {
  const char *name;
  const double *x, *y;
  size_t n;
} ChartSeries;

/* A figure with a line per series and a legend when there is more than one. Each series takes one
 * of eight colours by its place, the same in every chart of a page. Long series are thinned to the
 * extremes of each pixel column. */
void chart_lines(FILE *out, const char *title, const char *x_label, const ChartSeries *series,
                 int n);

/* A figure with a horizontal bar per name, labelled with its value and `unit`; a value that is not
 * finite has no bar. */
void chart_bars(FILE *out, const char *title, const char *unit, const char *const *name,
                const double *value, int n);

#endif
