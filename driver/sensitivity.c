/* `mpcc sensitivity`: what each layer's products lose in narrower formats. */
#include "driver/sensitivity.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver/exit.h"
#include "driver/link.h"
#include "mpcc/num.h"
#include "mpcc/runtime.h"

enum { E4M3, HYBRID, FP16, BF16, MAX_FORMATS, BATCHES = 2, MAX_BACKOFF = 8 };

/* Formats from narrow to wide, with the modes that bring them. */
static const struct {
  const char *name, *mode, *set; /* set: a further key, or NULL */
} formats[MAX_FORMATS] = {
    [E4M3] = {"e4m3", "transformer-engine", "precision.recipe.fp8_format=E4M3"},
    [HYBRID] = {"hybrid", "transformer-engine", "precision.recipe.fp8_format=HYBRID"},
    [FP16] = {"fp16", "16-mixed", NULL},
    [BF16] = {"bf16", "bf16-mixed", NULL},
};

/* One layer in one format: distances from 32-true, relative; NAN: not measured. */
typedef struct {
  double gradient, loss;
  bool fallback; /* the layer cannot run in the format: what it fell back to was measured */
} Loss;

typedef struct {
  const char *name;
  bool no_fp8; /* none of its products is one that FP8 recipes quantize */
  Loss in[MAX_FORMATS];
  int choice; /* index of a format; MAX_FORMATS: 32-true */
} Region;

typedef struct {
  const Args *a;
  const char *input, *text;
  size_t len;
  mpcc_callbacks cb;
  char *names, *dir; /* storage of the regions' names; folder of the spec */
  Region *region;
  int n;
  bool asked[MAX_FORMATS];
  size_t elems;      /* of all gradients */
  float *want, *got; /* BATCHES * elems: in 32-true, and of the trial */
  double want_loss[BATCHES], got_loss[BATCHES];
  bool fallback; /* a message of the trial's compilation said so */
} Search;

/* ---- running one trial ----------------------------------------------------------------------- */

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level == MPRT_LOG_ERROR)
    fprintf(stderr, "mpcc: error: %s\n", text);
}

/* Errors are passed on; that a layer falls back is noted instead of repeated for each trial. */
static void on_message(void *user, const mpcc_message *m) {
  Search *s = user;
  if (strstr(m->text, "-Wfp8-fallback"))
    s->fallback = true;
  if (m->severity == MPCC_ERROR)
    s->cb.message(s->cb.user, m);
}

/* Copies all gradients, divided by the loss scale, behind each other to `to`; their number. */
static size_t gradients(mprt_program *p, double scale, float *to) {
  size_t n = 0;
  mprt_tensor t;
  for (int i = 0; i < mprt_tensor_count(p); i++) {
    if (!mprt_tensor_at(p, i, &t) || strcmp(t.role, "grad"))
      continue;
    size_t elems = t.bytes / dtype_bytes(t.dtype);
    for (size_t k = 0; to && k < elems; k++)
      to[n + k] = (float)(num_load((char *)t.data + k * dtype_bytes(t.dtype), t.dtype) / scale);
    n += elems;
  }
  return n;
}

static bool all_finite(const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!isfinite(x[i]))
      return false;
  return true;
}

static double scalar(mprt_program *p, const char *name) {
  mprt_tensor t;
  return mprt_find(p, name, &t) ? num_load(t.data, t.dtype) : NAN;
}

/* One step on the batch in the io tensors, from the first weights. */
static mpcc_status step(mprt_program *p, size_t elems, float *gradient, double *loss) {
  double scale = 1;
  mprt_tensor t;
  mpcc_status st = mprt_init(p);
  bool scaled = mprt_find(p, "scaler.scale", &t);
  if (st == MPCC_OK && mprt_has_function(p, "calibrate"))
    st = mprt_run(p, "calibrate");
  for (int tries = 0; st == MPCC_OK && tries <= MAX_BACKOFF; tries++) {
    if (scaled)
      scale = num_load(t.data, t.dtype);
    st = mprt_run(p, "micro_first");
    gradients(p, scale, gradient);
    if (!scaled || all_finite(gradient, elems))
      break;
    num_store(t.data, t.dtype, scale / 4); /* as GradScaler would, in bigger steps */
  }
  if (st == MPCC_OK)
    st = mprt_run(p, "update_step");
  *loss = scalar(p, "metric.loss_sum") / scalar(p, "metric.weight_sum");
  return st;
}

static mpcc_status measure(Search *s, const void *image, size_t bytes, float *gradient,
                           double *loss) {
  mprt_options o;
  mprt_options_default(&o);
  o.data_dir = s->dir;
  o.decode = mprt_decode_image;
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p = NULL;
  mpcc_status st = mprt_open(image, bytes, &o, &cb, &p);
  for (int b = 0; st == MPCC_OK && b < BATCHES; b++) {
    st = mprt_feed(p, "train", NULL);
    if (st == MPCC_OK)
      st = step(p, s->elems, gradient + (size_t)b * s->elems, &loss[b]);
  }
  mprt_close(p);
  return st;
}

/* Compiles with the options of the command line and `mode`, `set` (or NULL) and `overrides`. */
static int compile(Search *s, const char *mode, const char *set, const char *overrides,
                   void **image, size_t *bytes) {
  mpcc_options o = s->a->options;
  const char **list = calloc((size_t)o.nset + 2, sizeof *list);
  if (!list)
    return exit_code(MPCC_ERR_NOMEM);
  for (int i = 0; i < o.nset; i++)
    list[i] = o.set[i];
  if (set)
    list[o.nset++] = set;
  list[o.nset++] = overrides;
  o.set = list;
  o.precision = mode;
  o.nwarning = 0; /* that a layer falls back must be heard here */
  o.host_level_only = o.all_functions = true;
  mpcc_callbacks cb = {on_message, NULL, s};
  s->fallback = false;
  mpcc_session *session = mpcc_session_create(&o, &cb);
  int code = session ? exit_code(mpcc_compile(session, s->input, s->text, s->len, MPCC_OUT_IMAGE,
                                              image, bytes))
                     : exit_code(MPCC_ERR_NOMEM);
  mpcc_session_destroy(session);
  free(list);
  return code;
}

static double distance(const Search *s) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < BATCHES * s->elems; i++) {
    double d = (double)s->got[i] - (double)s->want[i];
    error += d * d;
    norm += (double)s->want[i] * (double)s->want[i];
  }
  return sqrt(error / norm);
}

static int trial(Search *s, const char *mode, const char *set, const char *overrides, Loss *out) {
  void *image = NULL;
  size_t bytes = 0;
  int code = compile(s, mode, set, overrides, &image, &bytes);
  if (!code)
    code = exit_code(measure(s, image, bytes, s->got, s->got_loss));
  free(image);
  *out = (Loss){distance(s), 0, s->fallback};
  for (int b = 0; b < BATCHES; b++)
    out->loss = fmax(out->loss, fabs(s->got_loss[b] / s->want_loss[b] - 1));
  return code;
}

/* The step in 32-true, and room for gradients. */
static int reference(Search *s) {
  void *image = NULL;
  size_t bytes = 0;
  mprt_program *p = NULL;
  mprt_options o;
  mprt_options_default(&o);
  mprt_callbacks cb = {.log = on_log};
  int code = compile(s, "32-true", NULL, "precision.overrides=[]", &image, &bytes);
  if (!code)
    code = exit_code(mprt_open(image, bytes, &o, &cb, &p));
  if (!code)
    s->elems = gradients(p, 1, NULL);
  mprt_close(p);
  s->want = malloc((BATCHES * s->elems + 1) * sizeof *s->want);
  s->got = malloc((BATCHES * s->elems + 1) * sizeof *s->got);
  if (!code && (!s->want || !s->got))
    code = exit_code(MPCC_ERR_NOMEM);
  if (!code)
    code = exit_code(measure(s, image, bytes, s->want, s->want_loss));
  free(image);
  return code;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static double error_of(const Region *r) {
  return r->choice < MAX_FORMATS ? r->in[r->choice].gradient : 0;
}

/* The next wider format: bf16 when it was asked for and loses less, else 32-true. float16 is no
 * step on the way: among formats with a wider range it would go without loss scaling. */
static int wider(const Search *s, const Region *r) {
  bool helps = r->choice < BF16 && s->asked[BF16] && s->asked[r->choice] && r->choice != FP16 &&
               r->in[BF16].gradient < error_of(r);
  return helps ? BF16 : MAX_FORMATS;
}

/* Widens the region that loses most; false: all are in 32-true. */
static bool widen(Search *s) {
  Region *worst = &s->region[0];
  for (int i = 0; i < s->n; i++)
    if (!(error_of(&s->region[i]) <= error_of(worst)))
      worst = &s->region[i];
  if (worst->choice == MAX_FORMATS)
    return false;
  worst->choice = wider(s, worst);
  return true;
}

/* Every region in its narrowest format; then the worst one wider, until errors that add up as
 * independent ones do stay below the bound. */
static void choose(Search *s) {
  for (int i = 0; i < s->n; i++) {
    s->region[i].choice = -1;
    while (!s->asked[++s->region[i].choice])
      ;
  }
  double sum;
  do {
    sum = 0;
    for (int i = 0; i < s->n; i++)
      sum += error_of(&s->region[i]) * error_of(&s->region[i]);
  } while (!(sqrt(sum) <= s->a->bound) && widen(s));
}

/* "overrides=[...]" of the choice in the mode of format `base`; base MAX_FORMATS: nothing is low.
 */
static void put_overrides(const Search *s, int base, FILE *out) {
  fputs("precision.overrides=[", out);
  bool any = false;
  for (int i = 0; i < s->n; i++) {
    const Region *r = &s->region[i];
    if (r->choice == base)
      continue;
    fprintf(out, "%s{match: ['%s'], precision: %s}", any ? ", " : "", r->name,
            r->choice < MAX_FORMATS ? formats[r->choice].mode : "32-true");
    any = true;
  }
  fputs("]", out);
}

/* The narrowest format chosen: its mode is that of the block. */
static int base_of(const Search *s) {
  int base = MAX_FORMATS;
  for (int i = 0; i < s->n; i++)
    base = s->region[i].choice < base ? s->region[i].choice : base;
  return base;
}

/* Runs the whole block. */
static int confirm(Search *s, int base, Loss *out) {
  char *overrides = NULL;
  size_t size;
  FILE *f = open_memstream(&overrides, &size);
  if (!f)
    return exit_code(MPCC_ERR_NOMEM);
  put_overrides(s, base, f);
  int code = fclose(f) ? exit_code(MPCC_ERR_NOMEM)
                       : trial(s, base < MAX_FORMATS ? formats[base].mode : "32-true",
                               base < MAX_FORMATS ? formats[base].set : NULL, overrides, out);
  free(overrides);
  return code;
}

/* ---- output ---------------------------------------------------------------------------------- */

/* What a region loses in the narrowest format asked for that it can run in. */
static double sensitivity(const Search *s, const Region *r) {
  for (int f = 0; f < MAX_FORMATS; f++)
    if (s->asked[f] && !r->in[f].fallback)
      return r->in[f].gradient;
  return 0;
}

static int more_sensitive(const void *a, const void *b, void *search) {
  double x = sensitivity(search, a), y = sensitivity(search, b);
  return (x < y) - (x > y);
}

static void put_table(const Search *s, FILE *out) {
  int width = 6;
  for (int i = 0; i < s->n; i++)
    width = (int)fmax(width, (double)strlen(s->region[i].name));
  fprintf(out,
          "relative error of one step with this layer alone in the format, beside 32-true\n"
          "%-*s",
          width, "layer");
  for (int f = 0; f < MAX_FORMATS; f++)
    if (s->asked[f])
      fprintf(out, "  %8s gradient      loss", formats[f].name);
  for (int i = 0; i < s->n; i++) {
    fprintf(out, "\n%-*s", width, s->region[i].name);
    for (int f = 0; f < MAX_FORMATS; f++)
      if (s->asked[f] && s->region[i].in[f].fallback)
        fprintf(out, "  %27s", "falls back");
      else if (s->asked[f])
        fprintf(out, "  %17.2e  %8.1e", s->region[i].in[f].gradient, s->region[i].in[f].loss);
  }
  putc('\n', out);
}

static void put_block(const Search *s, int base, const Loss *whole, FILE *out) {
  fprintf(
      out,
      "\n# gradient error of the whole block: %.2e measured, bound %.2e\nprecision:\n  mode: %s\n",
      whole->gradient, s->a->bound, base < MAX_FORMATS ? formats[base].mode : "32-true");
  if (base < MAX_FORMATS && formats[base].set)
    fprintf(out, "  recipe: {fp8_format: %s}\n", strchr(formats[base].set, '=') + 1);
  bool any = false;
  for (int i = 0; i < s->n; i++) {
    const Region *r = &s->region[i];
    if (r->choice == base)
      continue;
    fprintf(out, "%s    - {match: [\"%s\"], precision: %s, reason: gradient error %.1e in %s}\n",
            any ? "" : "  overrides:\n", r->name,
            r->choice < MAX_FORMATS ? formats[r->choice].mode : "32-true", r->in[base].gradient,
            r->in[base].fallback ? "bf16" : formats[base].name);
    any = true;
  }
}

static void put_json(const Search *s, const Loss *whole, FILE *out) {
  json_t *o = json_object(), *list = json_array();
  for (int i = 0; i < s->n; i++) {
    const Region *r = &s->region[i];
    json_t *row = json_object();
    json_object_set_new(row, "layer", json_string(r->name));
    json_object_set_new(row, "choice",
                        json_string(r->choice < MAX_FORMATS ? formats[r->choice].name : "fp32"));
    for (int f = 0; f < MAX_FORMATS; f++)
      if (s->asked[f])
        json_object_set_new(row, formats[f].name,
                            json_pack("{s:f,s:f,s:b}", "gradient_error", r->in[f].gradient,
                                      "loss_error", r->in[f].loss, "falls_back",
                                      r->in[f].fallback));
    json_array_append_new(list, row);
  }
  json_object_set_new(o, "layers", list);
  json_object_set_new(o, "bound", json_real(s->a->bound));
  json_object_set_new(o, "gradient_error", json_real(whole->gradient));
  json_object_set_new(o, "loss_error", json_real(whole->loss));
  char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
  if (text)
    fprintf(out, "%s\n", text);
  free(text);
  json_decref(o);
}

static int report(Search *s, int base, const Loss *whole) {
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  if (!f)
    return exit_code(MPCC_ERR_NOMEM);
  qsort_r(s->region, (size_t)s->n, sizeof *s->region, more_sensitive, s);
  if (s->a->json_result) {
    put_json(s, whole, f);
  } else {
    put_table(s, f);
    put_block(s, base, whole, f);
  }
  int code = fclose(f) ? exit_code(MPCC_ERR_NOMEM)
                       : write_file(s->a->output ? s->a->output : "-", text, size, 0);
  free(text);
  return code;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int take_formats(Search *s) {
  const char *list = s->a->formats ? s->a->formats : "e4m3,bf16,fp16";
  while (*list) {
    size_t n = strcspn(list, ","), f = 0;
    while (f < MAX_FORMATS && (strlen(formats[f].name) != n || strncmp(formats[f].name, list, n)))
      f++;
    if (f == MAX_FORMATS) {
      fprintf(stderr, "mpcc: error: --formats takes e4m3, hybrid, fp16 and bf16, not '%.*s'\n",
              (int)n, list);
      return 2;
    }
    s->asked[f] = true;
    list += n + (list[n] == ',');
  }
  return 0;
}

static int take_regions(Search *s) {
  mpcc_session *session = mpcc_session_create(&s->a->options, &s->cb);
  int code = session ? exit_code(mpcc_product_layers(session, s->input, s->text, s->len, &s->names))
                     : exit_code(MPCC_ERR_NOMEM);
  mpcc_session_destroy(session);
  if (code)
    return code;
  size_t lines = 0;
  for (const char *p = s->names; *p; p++)
    lines += *p == '\n';
  if (!lines) {
    fprintf(stderr, "mpcc: error: %s has no layer with products\n", s->input);
    return 1;
  }
  s->region = calloc(lines, sizeof *s->region);
  if (!s->region)
    return exit_code(MPCC_ERR_NOMEM);
  for (char *save = NULL, *p = strtok_r(s->names, "\n", &save); p;
       p = strtok_r(NULL, "\n", &save)) {
    char *tab = strchr(p, '\t');
    if (tab)
      *tab = 0;
    s->region[s->n++] = (Region){.name = p, .no_fp8 = tab != NULL};
  }
  return 0;
}

static int measure_region(Search *s, Region *r) {
  int code = 0;
  for (int f = 0; f < MAX_FORMATS && !code; f++) {
    if (!s->asked[f])
      continue;
    char *overrides = NULL;
    size_t size;
    FILE *out = open_memstream(&overrides, &size);
    if (!out)
      return exit_code(MPCC_ERR_NOMEM);
    fprintf(out,
            "precision.overrides=[{match: ['**'], precision: 32-true}, "
            "{match: ['%s'], precision: %s}]",
            r->name, formats[f].mode);
    code = fclose(out) ? exit_code(MPCC_ERR_NOMEM)
                       : trial(s, formats[f].mode, formats[f].set, overrides, &r->in[f]);
    r->in[f].fallback |= r->no_fp8 && f <= HYBRID;
    free(overrides);
  }
  return code;
}

int sensitivity_spec(const Args *a, const mpcc_callbacks *cb, const char *input, const char *text,
                     size_t len) {
  Search s = {.a = a, .input = input, .text = text, .len = len, .cb = *cb};
  const char *slash = strrchr(input, '/');
  s.dir = slash ? strndup(input, (size_t)(slash - input)) : NULL;
  Loss whole = {0};
  int code = take_formats(&s);
  if (!code)
    code = take_regions(&s);
  if (!code)
    code = reference(&s);
  for (int i = 0; i < s.n && !code; i++)
    code = measure_region(&s, &s.region[i]);
  int base = MAX_FORMATS;
  if (!code)
    choose(&s);
  do { /* what is printed keeps the bound by measurement, not by estimate */
    base = base_of(&s);
    code = code ? code : confirm(&s, base, &whole);
  } while (!code && !(whole.gradient <= a->bound) && widen(&s));
  if (!code)
    code = report(&s, base, &whole);
  free(s.names);
  free(s.dir);
  free(s.region);
  free(s.want);
  free(s.got);
  return code;
}
