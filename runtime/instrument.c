/* --instrument: nan tells the first value that is not finite in each step, range measures what each
 * result needs of a number format, time takes the time of each kernel. All watch the results of
 * commands as they are stored, so every program can be watched as it is. */
#include "runtime/instrument.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"
#include "runtime/ranges.h"

enum { MOST_TOLD = 10 }; /* steps with a value not finite that are told one by one */

struct mprt__instrument {
  bool nan;
  mprt__ranges *ranges; /* NULL: not asked for */
  mprt__profile *profile;
  int64_t step, told_step; /* now; the one told last */
  int64_t told, steps;
};

/* Words of "nan,range,time". */
static Status take_words(mprt_program *p, mprt__instrument *i, const char *words) {
  for (const char *w = words; *w;) {
    size_t n = strcspn(w, ",");
    if (n == 3 && !strncmp(w, "nan", n))
      i->nan = true;
    else if (n == 5 && !strncmp(w, "range", n))
      i->ranges = i->ranges ? i->ranges : mprt__ranges_create(p);
    else if (n == 4 && !strncmp(w, "time", n))
      i->profile = i->profile ? i->profile : mprt__profile_create(p);
    else
      return mprt__fail(&p->cb, MPCC_ERR_USAGE,
                        "--instrument takes nan, range and time, not '%.*s'", (int)n, w);
    bool lacks = (n == 5 && !i->ranges) || (n == 4 && !i->profile);
    if (lacks)
      return mprt__nomem(&p->cb, "instrument");
    w += n + (w[n] == ',');
  }
  return MPCC_OK;
}

Status mprt__instrument_create(mprt_program *p, mprt__instrument **out) {
  const char *words = p->options.instrument;
  if (!words)
    words = mprt__json_string(p->meta, "instrument", "");
  if (!*words && mprt__json_bool(p->spec, "trainer.detect_anomaly", false))
    words = "nan";
  *out = NULL;
  if (!*words)
    return MPCC_OK;
  mprt__instrument *i = calloc(1, sizeof *i);
  if (!i)
    return mprt__nomem(&p->cb, "instrument");
  i->told_step = -1;
  Status st = take_words(p, i, words);
  if (st == MPCC_OK)
    *out = i;
  else
    mprt__instrument_destroy(i);
  return st;
}

void mprt__instrument_destroy(mprt__instrument *i) {
  if (!i)
    return;
  mprt__ranges_destroy(i->ranges);
  mprt__profile_destroy(i->profile);
  free(i);
}

/* Logs where the first value of this step that is not finite came from. */
static void look_for_nan(mprt__instrument *i, mprt_program *p, const MpccCommand *c) {
  mprt__scan s = {0};
  if (!mprt__results_finite(p, c))
    mprt__scan_outputs(&s, p, c);
  if (!s.found)
    return;
  i->told_step = i->step;
  if (++i->told > MOST_TOLD)
    return;
  char *text = NULL;
  size_t size;
  FILE *f = open_memstream(&text, &size);
  if (!f)
    return;
  mprt__scan_describe(p, &s, f);
  if (!fclose(f))
    mprt__log(&p->cb, MPRT_LOG_WARNING, "step %lld is not finite\n%.*s%s", (long long)i->step,
              (int)size - 1, text, i->told == MOST_TOLD ? "\n  (later steps are not told)" : "");
  free(text);
}

static bool observe(void *user, mprt_program *p, const MpccCommand *c) {
  mprt__instrument *i = user;
  if (i->nan && i->told_step != i->step)
    look_for_nan(i, p, c);
  if (i->ranges)
    mprt__ranges_measure(i->ranges, p, c);
  return true;
}

Status mprt__instrument_run(mprt__instrument *i, mprt_program *p, const MpccFunction *f,
                            int64_t step) {
  if (!i)
    return mprt__run(p, f, NULL, NULL);
  i->steps += i->step != step || !i->steps;
  i->step = step;
  const bool looks = i->nan || i->ranges; /* on a GPU that is a copy of every result */
  return mprt__run_timed(p, f, looks ? observe : NULL, i,
                         i->profile ? mprt__profile_seconds(i->profile) : NULL);
}

Status mprt__instrument_report(mprt__instrument *i, mprt_program *p, const char *out_dir) {
  Status st = MPCC_OK;
  if (i && i->ranges)
    st = mprt__ranges_report(i->ranges, p, out_dir);
  if (st == MPCC_OK && i && i->profile && i->steps)
    st = mprt__profile_write(i->profile, p, i->steps, out_dir);
  return st;
}
