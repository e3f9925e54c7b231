/* Command line, signals and exit codes of a training program. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/base.h"
#include "mpcc/runtime.h"
#include "report/report.h"
#include "runner/program.h"

/* ---- options --------------------------------------------------------------------------------- */

typedef enum {
  PO_DATA, PO_MAX_STEPS, PO_MAX_EPOCHS, PO_RESUME, PO_RESET, PO_OUT, PO_DEVICE, PO_THREADS, PO_SEED,
  PO_LOG_EVERY, PO_VALIDATE, PO_WEIGHTS, PO_PREDICT, PO_SPLIT, PO_EXPORT, PO_EXPORT_DTYPE,
  PO_PROFILE, PO_INSTRUMENT, PO_PRINT_SPEC, PO_PRINT_PLAN, PO_DRY_RUN, PO_QUIET, PO_LEVEL, PO_PLAN_MODE, PO_HELP, PO_VERSION,
  PO_LICENSES, PO_COUNT
} OptionId;

typedef enum { ARG_NONE, ARG_TEXT, ARG_NUMBER, ARG_OPTIONAL } ArgKind;

static const struct {
  const char *name, *arg;
  ArgKind kind;
  const char *doc;
  int least; /* ARG_NUMBER */
} options[PO_COUNT] = {
    [PO_DATA] = {"data", "DIR|SPLIT=DIR", ARG_TEXT, "where data is; also SPLIT.KEY=FILE"},
    [PO_MAX_STEPS] = {"max-steps", "N", ARG_NUMBER,
                      "stop after N steps; schedules stay the spec's"},
    [PO_MAX_EPOCHS] = {"max-epochs", "N", ARG_NUMBER,
                       "stop after N epochs; schedules stay the spec's"},
    [PO_RESUME] = {"resume", "[=DIR]", ARG_OPTIONAL,
                   "go on from a checkpoint, by default the newest"},
    [PO_RESET] = {"reset", "NAME", ARG_TEXT,
                  "with --resume: this layer or tensor (* in patterns) or `optimizer` starts anew"},
    [PO_OUT] = {"out", "DIR", ARG_TEXT, "run folder"},
    [PO_DEVICE] = {"device", "auto|cpu|cuda:N", ARG_TEXT, "where to run"},
    [PO_THREADS] = {"threads", "N", ARG_NUMBER, "threads; results do not depend on it"},
    [PO_SEED] = {"seed", "N", ARG_NUMBER, "seed instead of the spec's"},
    [PO_LOG_EVERY] = {"log-every", "N", ARG_NUMBER, "log every N steps", .least = 1},
    [PO_VALIDATE] = {"validate", NULL, ARG_NONE,
                     "evaluate the weights on val and test, train nothing"},
    [PO_WEIGHTS] = {"weights", "FILE", ARG_TEXT, "start from these weights (safetensors)"},
    [PO_PREDICT] = {"predict", "FILE", ARG_TEXT, "write predictions to FILE (.npy), train nothing"},
    [PO_SPLIT] = {"split", "NAME", ARG_TEXT, "what --predict reads: train, val or test (default)"},
    [PO_EXPORT] = {"export", "FILE", ARG_TEXT, "write the weights to FILE (safetensors)"},
    [PO_EXPORT_DTYPE] = {"weights-dtype", "DTYPE", ARG_TEXT,
                         "weights of --export, --predict, --validate: f32, bf16, f16, f64"},
    [PO_PROFILE] = {"profile", "STEPS", ARG_NUMBER, "time the kernels of so many steps, then leave",
                    .least = 1},
    [PO_INSTRUMENT] = {"instrument", "nan,range,time", ARG_TEXT,
                       "watch training: non-finite values, what formats would hold, kernel times"},
    [PO_PRINT_SPEC] = {"print-spec", NULL, ARG_NONE, "print the spec this program was built from"},
    [PO_PRINT_PLAN] = {"print-plan", NULL, ARG_NONE, "print ops, dtypes, kernels and memory"},
    [PO_DRY_RUN] = {"dry-run", NULL, ARG_NONE, "load, allocate, initialise; train nothing"},
    [PO_QUIET] = {"quiet", NULL, ARG_NONE, "warnings, errors and results only"},
    [PO_LEVEL] = {"level", "LEVEL", ARG_TEXT, "run the code of this level, for tests"},
    [PO_PLAN_MODE] = {"plan-mode", NULL, ARG_NONE, "guard every buffer, for tests; same bits"},
    [PO_HELP] = {"help", NULL, ARG_NONE, "this text"},
    [PO_VERSION] = {"version", NULL, ARG_NONE, "version"},
    [PO_LICENSES] = {"licenses", NULL, ARG_NONE, "licence of this program and its libraries"},
};

typedef struct {
  bool given[PO_COUNT];
  const char *text[PO_COUNT];
  long long number[PO_COUNT];
  const char **data; /* SPLIT=PATH forms */
  const char **reset;
  int ndata, nreset;
  const char *data_dir;
} Args;

char *program_options_help(void) {
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  if (!f)
    return NULL;
  for (int i = 0; i < PO_COUNT; i++) {
    char left[64];
    bool optional = options[i].kind == ARG_OPTIONAL;
    snprintf(left, sizeof left, "--%s%s%s", options[i].name, options[i].arg && !optional ? " " : "",
             options[i].arg ? options[i].arg : "");
    fprintf(f, "  %-24s %s\n", left, options[i].doc);
  }
  fclose(f);
  return text;
}

__attribute__((format(printf, 2, 3))) static int usage(const Program *p, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "%s: error: ", p->name);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fprintf(stderr, "\n%s: see --help\n", p->name);
  return 2;
}

/* 0, or the exit code after a message. */
static int take_value(const Program *p, Args *a, int id, const char *value) {
  if (options[id].kind == ARG_NUMBER) {
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    const long long most = id == PO_THREADS ? INT_MAX : LLONG_MAX;
    if (errno || end == value || *end || v < options[id].least || v > most)
      return usage(p, "--%s takes a whole number >= %d, not '%s'", options[id].name,
                   options[id].least, value);
    a->number[id] = v;
  }
  if (id == PO_DATA) {
    if (strchr(value, '='))
      a->data[a->ndata++] = value;
    else
      a->data_dir = value;
  }
  if (id == PO_RESET)
    a->reset[a->nreset++] = value;
  a->text[id] = value;
  return 0;
}

/* What a compiled program cannot change any more, by what people may type. */
static bool is_built_in(const char *name, size_t len) {
  static const char *const words[] = {"precision", "set", "define", "numerics", "target", "march",
                                      "batch-size", "batch_size", "gpu-arch"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strlen(words[i]) == len && !strncmp(words[i], name, len))
      return true;
  return false;
}

static int parse_args(const Program *p, Args *a, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *word = argv[i];
    if (!strcmp(word, "-h"))
      word = "--help";
    if (strncmp(word, "--", 2))
      return usage(p,
                   i > 1 && !strcmp(argv[i - 1], "--resume")
                       ? "unexpected argument '%s'; a checkpoint to go on from is --resume=DIR"
                       : "unexpected argument '%s'",
                   word);
    size_t len = strcspn(word + 2, "=");
    int id = 0;
    while (id < PO_COUNT &&
           (strlen(options[id].name) != len || strncmp(options[id].name, word + 2, len)))
      id++;
    if (id == PO_COUNT && is_built_in(word + 2, len))
      return usage(p, "'%s' is built into this program; compile another one with mpcc", word);
    if (id == PO_COUNT)
      return usage(p, "unknown option '%s'", word);
    a->given[id] = true;
    const char *value = word[2 + len] == '=' ? word + 3 + len : NULL;
    if (options[id].kind == ARG_NONE) {
      if (value)
        return usage(p, "option '--%s' takes no value", options[id].name);
      continue;
    }
    if (!value && options[id].kind != ARG_OPTIONAL) {
      if (i + 1 == argc)
        return usage(p, "option '--%s' needs a value", options[id].name);
      value = argv[++i];
    }
    int bad = take_value(p, a, id, value ? value : "");
    if (bad)
      return bad;
  }
  return 0;
}

/* ---- signals --------------------------------------------------------------------------------- */

/* Written by handlers, polled by the runtime between steps. */
static volatile sig_atomic_t stop_request;

static void on_interrupt(int sig) {
  (void)sig;
  if (stop_request == 1)
    _exit(130); /* the second Ctrl-C stops at once */
  stop_request = 1;
}

static void on_terminate(int sig) {
  (void)sig;
  stop_request = 2;
}

static int poll_stop(void *user) {
  (void)user;
  return stop_request;
}

static void install_handlers(void) {
  struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
  sigaction(SIGINT, &a, NULL);
  a.sa_handler = on_terminate;
  sigaction(SIGTERM, &a, NULL);
  sigaction(SIGUSR1, &a, NULL);
  a.sa_handler = SIG_IGN; /* training goes on when whoever reads the output is gone */
  sigaction(SIGPIPE, &a, NULL);
}

/* ---- what a program can do ------------------------------------------------------------------- */

static int exit_code(mpcc_status st) {
  static const int codes[] = {
#define ROW(e, text, d, prog) [MPCC_##e] = prog,
      MPCC_STATUS_ROWS(ROW)
#undef ROW
  };
  return codes[st];
}

static FILE *output(const Program *p) {
  return p->out ? p->out : stdout;
}

enum { MATRIX_SHOWN = 32 }; /* classes; larger ones are in metrics.jsonl alone */

/* Counts by target (row) and prediction (column). */
static void put_matrix(FILE *out, const mprt_metric *m) {
  double largest = 0;
  for (int i = 0; i < m->classes * m->classes; i++)
    largest = fmax(largest, m->matrix[i]);
  int width = snprintf(NULL, 0, "%.0f", largest);
  fprintf(out, "%s, a row for each target, a column for each prediction:\n", m->name);
  for (int i = 0; i < m->classes; i++)
    for (int k = 0; k < m->classes; k++)
      fprintf(out, "%*.0f%c", width + 1, m->matrix[i * m->classes + k],
              k + 1 < m->classes ? ' ' : '\n');
}

/* Numbers of a split, shown; also into the files of `keep`, unless that is NULL. */
static mpcc_status evaluate(const Program *p, mprt_program *rt, const char *split, Report *keep) {
  FILE *out = output(p);
  double loss = 0;
  int n = mprt_metric_count(rt);
  mprt_metric *metric = calloc((size_t)n + 1, sizeof *metric);
  mpcc_status st = metric ? mprt_evaluate(rt, split, &loss, metric) : MPCC_ERR_NOMEM;
  if (st == MPCC_OK) {
    fprintf(out, "%s: loss %.4f", split, loss);
    for (int i = 0; i < n; i++)
      if (!isnan(metric[i].value))
        fprintf(out, "  %s %.4f", metric[i].name, metric[i].value);
    fputc('\n', out);
    for (int i = 0; i < n; i++)
      if (metric[i].matrix && metric[i].classes <= MATRIX_SHOWN)
        put_matrix(out, &metric[i]);
  }
  if (st == MPCC_OK && keep)
    report_test(keep, loss, n, metric);
  if (st == MPCC_OK && p->watch)
    p->watch(p->watch_user, &(mprt_event){.kind = MPRT_EVENT_EVAL, .split = split, .loss = loss,
                                          .nmetric = n, .metric = metric});
  free(metric);
  return st;
}

static mpcc_status evaluate_all(const Program *p, mprt_program *rt) {
  static const char *const splits[] = {"val", "test"};
  mpcc_status st = MPCC_OK;
  for (int i = 0; i < 2 && st == MPCC_OK; i++)
    if (mprt_evaluates(rt, splits[i]))
      st = evaluate(p, rt, splits[i], NULL);
  return st;
}

/* Of --weights-dtype, by either name, "bf16" or "bfloat16"; MPCC_DTYPE_COUNT: no format of weights. */
static DType weights_dtype(const Args *a) {
  DType d = dtype_from_text(a->text[PO_EXPORT_DTYPE]);
  d = d == MPCC_DTYPE_COUNT ? dtype_from_torch(a->text[PO_EXPORT_DTYPE]) : d;
  return d != MPCC_DTYPE_COUNT && dtype_is_float(d) ? d : MPCC_DTYPE_COUNT;
}

static mpcc_status export_weights(mprt_program *rt, const Args *a) {
  return mprt_save_weights(rt, a->text[PO_EXPORT],
                           a->given[PO_EXPORT_DTYPE] ? weights_dtype(a) : MPCC_F32);
}

static mpcc_status profile(mprt_program *rt, long long steps, FILE *out) {
  char *text = NULL;
  mpcc_status st = mprt_profile(rt, steps, &text);
  if (st == MPCC_OK)
    fputs(text, out);
  free(text);
  return st;
}

/* Loaded program with its first weights: does what the options ask. */
static mpcc_status act(const Program *p, mprt_program *rt, const Args *a, Report *report) {
  mpcc_status st = MPCC_OK;
  bool stay = a->given[PO_VALIDATE] || a->given[PO_PREDICT] || a->given[PO_EXPORT] ||
              a->given[PO_DRY_RUN] || a->given[PO_PROFILE];
  if (a->given[PO_RESUME])
    st = mprt_resume(rt, a->text[PO_RESUME]);
  else if (a->given[PO_WEIGHTS])
    st = mprt_load_weights(rt, a->text[PO_WEIGHTS], true);
  else
    st = mprt_init(rt);
  if (st == MPCC_OK && a->given[PO_EXPORT_DTYPE] && (a->given[PO_PREDICT] || a->given[PO_VALIDATE]))
    st = mprt_round_weights(rt, weights_dtype(a));
  if (st == MPCC_OK && a->given[PO_VALIDATE])
    st = evaluate_all(p, rt);
  if (st == MPCC_OK && a->given[PO_PREDICT])
    st = mprt_predict(rt, a->given[PO_SPLIT] ? a->text[PO_SPLIT] : "test", a->text[PO_PREDICT]);
  if (st == MPCC_OK && a->given[PO_EXPORT])
    st = export_weights(rt, a);
  if (st == MPCC_OK && a->given[PO_PROFILE])
    st = profile(rt, a->number[PO_PROFILE], output(p));
  const bool tests = !stay && mprt_evaluates(rt, "test");
  if (st == MPCC_OK && tests)
    st = mprt_check_data(rt, "test");
  if (st == MPCC_OK && !stay)
    st = mprt_fit(rt);
  if (st == MPCC_OK && tests)
    st = evaluate(p, rt, "test", report);
  return st;
}

/* auto, cpu, cuda, cuda:N */
static bool is_device(const char *s) {
  const size_t digits = !strncmp(s, "cuda:", 5) ? strspn(s + 5, "0123456789") : 0;
  return !strcmp(s, "auto") || !strcmp(s, "cpu") || !strcmp(s, "cuda") ||
         (digits && !s[5 + digits]);
}

/* Options that do not go together, and words that are none of theirs: the exit code; 0: there are
 * none. */
static int check_args(const Program *p, const Args *a) {
  if (a->given[PO_RESUME] && a->given[PO_WEIGHTS])
    return usage(p, "--resume and --weights=%s both give the weights", a->text[PO_WEIGHTS]);
  if (a->given[PO_SPLIT] && !a->given[PO_PREDICT])
    return usage(p, "--split=%s goes with --predict", a->text[PO_SPLIT]);
  if (a->given[PO_EXPORT_DTYPE] && !a->given[PO_EXPORT] && !a->given[PO_PREDICT] &&
      !a->given[PO_VALIDATE])
    return usage(p, "--weights-dtype=%s goes with --export, --predict or --validate",
                 a->text[PO_EXPORT_DTYPE]);
  if (a->given[PO_RESET] && !a->given[PO_RESUME])
    return usage(p, "--reset=%s goes with --resume", a->text[PO_RESET]);
  if (a->given[PO_DEVICE] && !is_device(a->text[PO_DEVICE]))
    return usage(p, "unknown device '%s': auto, cpu or cuda:N", a->text[PO_DEVICE]);
  if (a->given[PO_EXPORT_DTYPE] && weights_dtype(a) == MPCC_DTYPE_COUNT)
    return usage(p, "unknown dtype '%s': f32, bf16, f16 or f64", a->text[PO_EXPORT_DTYPE]);
  return 0;
}

/* Options that print and leave: the exit code; -1: none was given. */
static int answer(const Program *p, const Args *a) {
  if (a->given[PO_HELP]) {
    char *help = program_options_help();
    printf("usage: %s [options]\n\n%s", p->name, help ? help : "");
    free(help);
    return 0;
  }
  if (a->given[PO_VERSION]) {
    printf("%s\n", p->version);
    return 0;
  }
  if (a->given[PO_LICENSES]) {
    fputs(p->license, stdout);
    return 0;
  }
  return -1;
}

static void set_options(mprt_options *o, const Program *p, const Args *a) {
  mprt_options_default(o);
  o->data_dir = a->data_dir ? a->data_dir : p->data_dir;
  o->data = a->data;
  o->ndata = a->ndata;
  o->reset = a->reset;
  o->nreset = a->nreset;
  o->out_dir = a->text[PO_OUT];
  o->resume = a->given[PO_RESUME] ? a->text[PO_RESUME] : NULL;
  o->weights = a->text[PO_WEIGHTS];
  if (a->given[PO_MAX_STEPS])
    o->max_steps = a->number[PO_MAX_STEPS];
  if (a->given[PO_MAX_EPOCHS])
    o->max_epochs = a->number[PO_MAX_EPOCHS];
  if (a->given[PO_SEED])
    o->seed = a->number[PO_SEED];
  if (a->given[PO_LOG_EVERY])
    o->log_every = a->number[PO_LOG_EVERY];
  o->threads = (int)a->number[PO_THREADS];
  o->level = a->text[PO_LEVEL];
  o->device = a->text[PO_DEVICE];
  o->instrument = a->text[PO_INSTRUMENT];
  o->decode = p->decode;
  o->plan_mode = a->given[PO_PLAN_MODE];
}

/* What the callbacks are given. */
typedef struct {
  const Program *program;
  Report *report;
} Sink;

static void on_log(void *user, mprt_log_level level, const char *text) {
  const Sink *s = user;
  report_log(s->report, level, text);
}

static void on_event(void *user, const mprt_event *e) {
  const Sink *s = user;
  report_event(s->report, e);
  if (s->program->watch)
    s->program->watch(s->program->watch_user, e);
}

static int run(const Program *p, const Args *a) {
  ReportOptions ro = {.program = p->name, .out = output(p), .quiet = a->given[PO_QUIET],
                      .jsonl = true, .csv = true};
  Report *report = report_create(&ro);
  if (!report)
    return exit_code(MPCC_ERR_NOMEM);
  Sink sink = {p, report};
  mprt_callbacks cb = {on_log, on_event, poll_stop, &sink};
  mprt_options o;
  set_options(&o, p, a);
  mprt_program *rt = NULL;
  mpcc_status st = mprt_open(p->image, p->image_bytes, &o, &cb, &rt);
  if (st == MPCC_OK)
    report_follow_spec(report, rt);
  if (st == MPCC_OK && a->given[PO_PRINT_SPEC])
    puts(mprt_spec_text(rt));
  else if (st == MPCC_OK && a->given[PO_PRINT_PLAN])
    fputs(mprt_plan_text(rt), stdout);
  else if (st == MPCC_OK)
    st = act(p, rt, a, report);
  mprt_close(rt);
  report_destroy(report);
  return exit_code(st);
}

int program_main(const Program *p, int argc, char **argv) {
  Args a = {0};
  a.data = calloc((size_t)argc + 1, sizeof *a.data);
  a.reset = calloc((size_t)argc + 1, sizeof *a.reset);
  int code = a.data && a.reset ? parse_args(p, &a, argc, argv) : exit_code(MPCC_ERR_NOMEM);
  if (!code)
    code = answer(p, &a);
  if (code == -1)
    code = check_args(p, &a) ? 2 : -1;
  if (code == -1) {
    install_handlers();
    code = run(p, &a);
  }
  free(a.data);
  free(a.reset);
  bool lost = fflush(stdout) != 0;
  if (lost || ferror(stdout))
    fprintf(stderr, "%s: error: cannot write standard output%s%s\n", p->name, lost ? ": " : "",
            lost ? strerror(errno) : "");
  return (lost || ferror(stdout)) && !code ? 4 : code;
}
