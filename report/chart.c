/* Charts as inline SVG. Coordinates are CSS pixels; colours are classes of the page's style. */
#include "report/chart.h"

#include <math.h>
#include <stdbool.h>

enum {
  WIDTH = 720,
  HEIGHT = 300,
  LEFT = 64,
  RIGHT = 16,
  TOP = 12,
  BOTTOM = 40,
  NCOLOUR = 8,
  BAR_HEIGHT = 22,
  BAR_STEP = 30,
  BAR_LEFT = 190,
  BAR_RIGHT = 110
};

/* Okabe and Ito's palette, distinguishable with colour-deficient sight (jfly.uni-koeln.de/color).
 */
static const char *const colours[NCOLOUR] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                             "#e69f00", "#56b4e9", "#8a8a8a", "#b8a900"};

void chart_text(FILE *out, const char *text) {
  for (; *text; text++)
    switch (*text) {
    case '&':
      fputs("&amp;", out);
      break;
    case '<':
      fputs("&lt;", out);
      break;
    case '>':
      fputs("&gt;", out);
      break;
    case '"':
      fputs("&quot;", out);
      break;
    default:
      putc(*text, out);
    }
}

void chart_page_begin(FILE *out, const char *title) {
  fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width\">\n<title>",
        out);
  chart_text(out, title);
  fputs("</title>\n<style>\n"
        ":root{color-scheme:light dark;--ink:#222;--faint:#ccc;--page:#fff}\n"
        "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--faint:#444;--page:#16181b}}\n"
        "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);"
        "max-width:760px;margin:2em auto;padding:0 1em}\n"
        "h1{font-size:1.4em}h2{font-size:1.1em}figure{margin:1.5em 0}\n"
        "figcaption{font-weight:600;margin-bottom:.3em}\n"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
        "td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid var(--faint)}\n"
        "td:first-child,th:first-child{text-align:left;padding-left:0}\n"
        "svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}\n"
        ".grid{stroke:var(--faint);stroke-width:1}.line{fill:none;stroke-width:1.6}\n"
        ".legend{display:flex;flex-wrap:wrap;gap:.2em 1.2em;font-size:.9em}\n"
        ".legend i{display:inline-block;width:1.2em;height:.3em;vertical-align:middle;"
        "margin-right:.4em}\n",
        out);
  for (int i = 0; i < NCOLOUR; i++)
    fprintf(out, ".s%d{stroke:%s}.f%d{fill:%s;background:%s}\n", i, colours[i], i, colours[i],
            colours[i]);
  fputs("</style></head><body>\n<h1>", out);
  chart_text(out, title);
  fputs("</h1>\n", out);
}

void chart_page_end(FILE *out) {
  fputs("</body></html>\n", out);
}

/* ---- scales ---------------------------------------------------------------------------------- */

typedef struct {
  double lo, hi;   /* of the data, widened to ticks */
  double step;     /* between ticks */
  double from, to; /* pixels of lo and hi */
} Scale;

static double place(const Scale *s, double v) {
  return s->from + (v - s->lo) / (s->hi - s->lo) * (s->to - s->from);
}

/* Ticks at 1, 2 or 5 times a power of ten, four to nine of them. */
static Scale scale_of(double lo, double hi, double from, double to) {
  if (!(hi > lo)) {
    double pad = lo != 0 ? fabs(lo) / 2 : 1;
    lo -= pad;
    hi += pad;
  }
  double raw = (hi - lo) / 6, ten = pow(10, floor(log10(raw))), m = raw / ten;
  double step = (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10) * ten;
  return (Scale){floor(lo / step) * step, ceil(hi / step) * step, step, from, to};
}

static int tick_count(const Scale *s) {
  return (int)lround((s->hi - s->lo) / s->step);
}

/* A tick's number: what rounding left of a sum that should be zero is zero. */
static double tick(const Scale *s, int i) {
  double v = s->lo + i * s->step;
  return fabs(v) < s->step * 1e-9 ? 0 : v;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void extent(const ChartSeries *series, int n, double *x, double *y) {
  x[0] = y[0] = INFINITY;
  x[1] = y[1] = -INFINITY;
  for (int i = 0; i < n; i++)
    for (size_t k = 0; k < series[i].n; k++) {
      if (!isfinite(series[i].y[k]))
        continue;
      x[0] = fmin(x[0], series[i].x[k]);
      x[1] = fmax(x[1], series[i].x[k]);
      y[0] = fmin(y[0], series[i].y[k]);
      y[1] = fmax(y[1], series[i].y[k]);
    }
  if (x[0] > x[1])
    x[0] = y[0] = 0, x[1] = y[1] = 1;
}

static void axes(FILE *out, const Scale *x, const Scale *y, const char *x_label) {
  for (int i = 0; i <= tick_count(y); i++) {
    double at = place(y, tick(y, i));
    fprintf(out,
            "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%.5g</text>\n",
            LEFT, at, WIDTH - RIGHT, LEFT - 8, at + 4, tick(y, i));
  }
  for (int i = 0; i <= tick_count(x); i++)
    fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n",
            place(x, tick(x, i)), HEIGHT - BOTTOM + 18, tick(x, i));
  fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2,
          HEIGHT - 4);
  chart_text(out, x_label);
  fputs("</text>\n", out);
}

/* One path; of the points in one pixel column only first, lowest, highest and last are drawn. */
static void path(FILE *out, const ChartSeries *s, int colour, const Scale *x, const Scale *y) {
  fprintf(out, "<path class=\"line s%d\" d=\"", colour % NCOLOUR);
  bool down = false;
  for (size_t i = 0; i < s->n;) {
    if (!isfinite(s->y[i])) {
      down = false;
      i++;
      continue;
    }
    size_t low = i, high = i, end = i + 1;
    long column = lround(place(x, s->x[i]));
    for (; end < s->n && isfinite(s->y[end]) && lround(place(x, s->x[end])) == column; end++) {
      low = s->y[end] < s->y[low] ? end : low;
      high = s->y[end] > s->y[high] ? end : high;
    }
    size_t point[4] = {i, low < high ? low : high, low < high ? high : low, end - 1};
    for (int k = 0; k < 4; k++)
      if (!k || point[k] != point[k - 1]) {
        fprintf(out, "%c%.1f %.1f", down ? 'L' : 'M', place(x, s->x[point[k]]),
                place(y, s->y[point[k]]));
        down = true;
      }
    i = end;
  }
  fputs("\"/>\n", out);
}

static void figure_begin(FILE *out, const char *title, int width, int height) {
  fputs("<figure><figcaption>", out);
  chart_text(out, title);
  fprintf(out, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", width,
          height);
  chart_text(out, title);
  fputs("\">\n", out);
}

void chart_lines(FILE *out, const char *title, const char *x_label, const ChartSeries *series,
                 int n) {
  double xs[2], ys[2];
  extent(series, n, xs, ys);
  Scale x = scale_of(xs[0], xs[1], LEFT, WIDTH - RIGHT);
  Scale y = scale_of(ys[0], ys[1], HEIGHT - BOTTOM, TOP);
  figure_begin(out, title, WIDTH, HEIGHT);
  axes(out, &x, &y, x_label);
  for (int i = 0; i < n; i++)
    path(out, &series[i], i, &x, &y);
  fputs("</svg>\n", out);
  if (n > 1) {
    fputs("<div class=\"legend\">", out);
    for (int i = 0; i < n; i++) {
      fprintf(out, "<span><i class=\"f%d\"></i>", i % NCOLOUR);
      chart_text(out, series[i].name);
      fputs("</span>", out);
    }
    fputs("</div>\n", out);
  }
  fputs("</figure>\n", out);
}

/* ---- bars ------------------------------------------------------------------------------------ */

void chart_bars(FILE *out, const char *title, const char *unit, const char *const *name,
                const double *value, int n) {
  double most = 0;
  for (int i = 0; i < n; i++)
    most = isfinite(value[i]) ? fmax(most, value[i]) : most;
  figure_begin(out, title, WIDTH, n * BAR_STEP + 4);
  for (int i = 0; i < n; i++) {
    int top = i * BAR_STEP + 2;
    bool shown = isfinite(value[i]) && most > 0;
    double width = shown ? fmax(0, value[i]) / most * (WIDTH - BAR_LEFT - BAR_RIGHT) : 0;
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", BAR_LEFT - 10, top + 15);
    chart_text(out, name[i]);
    fprintf(out, "</text><rect class=\"f%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>",
            i % NCOLOUR, BAR_LEFT, top, width, BAR_HEIGHT);
    fprintf(out, "<text x=\"%.1f\" y=\"%d\">", BAR_LEFT + width + 8, top + 15);
    if (isfinite(value[i]))
      fprintf(out, "%.4g %s", value[i], unit);
    else
      fputs("&ndash;", out);
    fputs("</text>\n", out);
  }
  fputs("</svg></figure>\n", out);
}
