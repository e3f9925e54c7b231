/* Parses the command line of mpcc by one table of options. */
#include "driver/args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runner/program.h"

typedef enum {
  O_OUTPUT, O_EMIT, O_OPT, O_NUMERICS, O_TARGET, O_GPU_ARCH, O_GPU_PRODUCTS, O_MARCH, O_PRECISION, O_DEFINE, O_SET, O_WARN,
  O_MAX_ERRORS, O_DIAG_FORMAT, O_COLOR, O_INCLUDE, O_JOBS, O_CACHE_DIR, O_NO_CACHE, O_MEMORY, O_TIME_PASSES,
  O_PRINT_BEFORE, O_PRINT_AFTER, O_STOP_AFTER, O_CHECK_PASSES, O_NO_REUSE, O_INSTRUMENT, O_VERBOSE,
  O_LINK, O_SAVE_TEMPS, O_DIFF, O_PRECISIONS, O_HTML, O_FORMATS, O_BOUND, O_JSON, O_TOKENIZER, O_DTYPE, O_HEADER, O_SEPARATOR, O_HELP,
  O_VERSION, O_LICENSES, O_COUNT
} OptionId;

enum { MAX_LEVEL_WORDS = 64 };
#define FOR(c) (1u << CMD_##c)

/* How a value is written: none; --name=V or --name V; -xV or -x V; -name=V (clang's way). */
typedef enum { V_NONE, V_VALUE, V_OPTIONAL } ValueKind;

static const struct {
  const char *name;  /* long, without dashes */
  const char *brief; /* one-dash spelling with the value glued or apart; NULL: none */
  ValueKind kind;
  const char *arg, *doc;
  unsigned only; /* bits of the commands it is for; 0: all that compile */
} table[O_COUNT] = {
    [O_OUTPUT] = {"output", "o", V_VALUE, "FILE", "output; - is standard output",
                  FOR(COMPILE) | FOR(EXPLAIN) | FOR(RESOLVE) | FOR(GRAPH) | FOR(SCHEMA) |
                      FOR(COMPARE) | FOR(SENSITIVITY)},
    [O_EMIT] = {"emit", NULL, V_VALUE, "KIND",
                "exe (default), lib, c-header, obj, asm, llvm-ir, cuda, ptx, cubin, ir, plan, dot, svg, image",
                FOR(COMPILE)},
    [O_OPT] = {"optimize", "O", V_VALUE, "0..3", "effort of the code generator, default 2"},
    [O_NUMERICS] = {"numerics", NULL, V_VALUE, "fused|strict",
                    "strict rounds at every op boundary, as op-by-op execution does"},
    [O_TARGET] = {"target", NULL, V_VALUE, "cpu,cuda", "what the program can run on, default cpu"},
    [O_GPU_ARCH] = {"gpu-arch", NULL, V_VALUE, "sm_90,...",
                    "GPU generations in the program; default: sm_80, sm_89, sm_90"},
    [O_GPU_PRODUCTS] = {"gpu-products", NULL, V_VALUE, "library|own",
                        "matrix products by cuBLASLt (default) or by kernels of mpcc's own"},
    [O_MARCH] = {"march", "march=", V_VALUE, "LEVEL,...",
                 "cpu levels in the program: native, x86-64-v3, ...; default: host's and baseline"},
    [O_PRECISION] = {"precision", NULL, V_VALUE, "MODE", "overrides precision.mode of the spec"},
    [O_DEFINE] = {"define", "D", V_VALUE, "NAME=VALUE", "a params: entry"},
    [O_SET] = {"set", NULL, V_VALUE, "PATH=VALUE", "any key of the spec"},
    [O_WARN] = {"warn", "W", V_VALUE, "NAME", "-WNAME, -Wno-NAME, -Werror"},
    [O_MAX_ERRORS] = {"max-errors", "fmax-errors=", V_VALUE, "N", "stop after N errors, default 20"},
    [O_DIAG_FORMAT] = {"diagnostics-format", NULL, V_VALUE, "text|json", "form of messages"},
    [O_COLOR] = {"color", NULL, V_VALUE, "auto|always|never", "colour in messages"},
    [O_INCLUDE] = {"include-dir", "I", V_VALUE, "DIR", "where `extends:` is looked up"},
    [O_JOBS] = {"jobs", "j", V_VALUE, "N", "compile threads, default all"},
    [O_CACHE_DIR] = {"cache-dir", NULL, V_VALUE, "DIR", "kernel cache, default ~/.cache/mpcc"},
    [O_NO_CACHE] = {"no-cache", NULL, V_NONE, NULL, "compile every kernel anew"},
    [O_MEMORY] = {"memory", NULL, V_VALUE, "SIZE",
                  "memory that batch_size: auto plans for, like 16G; default this machine's"},
    [O_TIME_PASSES] = {"time-passes", NULL, V_NONE, NULL, "how long each pass took"},
    [O_PRINT_BEFORE] = {"print-ir-before", NULL, V_VALUE, "PASS", "IR before a pass, or all"},
    [O_PRINT_AFTER] = {"print-ir-after", NULL, V_VALUE, "PASS", "IR after a pass, or all"},
    [O_STOP_AFTER] = {"stop-after", NULL, V_VALUE, "PASS", "last pass to run (with --emit=ir)", FOR(COMPILE)},
    [O_CHECK_PASSES] = {"check-passes", NULL, V_NONE, NULL,
                        "print, parse back and compare the IR after each pass"},
    [O_NO_REUSE] = {"no-reuse", NULL, V_NONE, NULL, "give every buffer its own memory, for tests"},
    [O_INSTRUMENT] = {"instrument", NULL, V_VALUE, "nan,range,time",
                      "what the program watches while it trains, unless its own --instrument says"},
    [O_VERBOSE] = {"verbose", "v", V_NONE, NULL, "show the commands that are run (with --link=cc)"},
    [O_LINK] = {"link", NULL, V_VALUE, "cc", "link the program with cc instead of the built-in runner", FOR(COMPILE)},
    [O_SAVE_TEMPS] = {"save-temps", NULL, V_NONE, NULL,
                      "keep the planned IR, LLVM IR, assembly and object beside the program", FOR(COMPILE)},
    [O_DIFF] = {"diff", NULL, V_VALUE, "A,B", "explain: what changes between two modes", FOR(EXPLAIN)},
    [O_PRECISIONS] = {"precisions", NULL, V_VALUE, "A,B,...", "modes to train in (compare)", FOR(COMPARE)},
    [O_FORMATS] = {"formats", NULL, V_VALUE, "e4m3,bf16,...", "formats to try (sensitivity)", FOR(SENSITIVITY)},
    [O_BOUND] = {"bound", NULL, V_VALUE, "X",
                 "largest relative error of the gradient, default 0.05 (sensitivity)", FOR(SENSITIVITY)},
    [O_JSON] = {"json", NULL, V_NONE, NULL, "the result as one JSON object (compare, sensitivity)",
                FOR(COMPARE) | FOR(SENSITIVITY)},
    [O_HTML] = {"html", NULL, V_VALUE, "FILE", "also write a page with charts (compare)", FOR(COMPARE)},
    [O_TOKENIZER] = {"tokenizer", NULL, V_VALUE, "FILE", "tokenizer.json (convert); else bytes are tokens", FOR(CONVERT)},
    [O_DTYPE] = {"dtype", NULL, V_VALUE, "DTYPE", "of convert's result: uint16, uint32; float32, bfloat16 ...", FOR(CONVERT)},
    [O_HEADER] = {"header", NULL, V_VALUE, "llmc|none", "of token files (convert)", FOR(CONVERT)},
    [O_SEPARATOR] = {"separator", NULL, V_VALUE, "TOKEN", "put before each text (convert)", FOR(CONVERT)},
    [O_HELP] = {"help", "h", V_OPTIONAL, "[=TOPIC]",
                "this text; topics: spec layers precisions warnings targets passes man MPC0102"},
    [O_VERSION] = {"version", NULL, V_NONE, NULL, "version"},
    [O_LICENSES] = {"licenses", NULL, V_NONE, NULL, "licence of mpcc and of what it carries"},
};

static const struct {
  const char *name, *usage, *doc;
  Command command;
} commands[] = {
    {"run", "run SPEC.yaml [program options]", "compile in memory and train", CMD_RUN},
    {"check", "check SPEC.yaml...", "parse, type- and shape-check only", CMD_CHECK},
    {"resolve", "resolve SPEC.yaml", "the effective spec, each value with its origin", CMD_RESOLVE},
    {"explain", "explain SPEC.yaml [--diff=A,B]", "ops, dtypes, casts and why, kernels, memory",
     CMD_EXPLAIN},
    {"verify", "verify SPEC.yaml", "each kernel of this model beside its reference", CMD_VERIFY},
    {"compare", "compare SPEC.yaml --precisions=A,B", "train in several modes: time, memory, results",
     CMD_COMPARE},
    {"sensitivity", "sensitivity SPEC.yaml", "what each layer loses in narrower formats; overrides",
     CMD_SENSITIVITY},
    {"convert", "convert IN... OUT", "tokenize and pack texts, change formats", CMD_CONVERT},
    {"schema", "schema", "JSON Schema of the spec, for editors", CMD_SCHEMA},
    {"graph", "graph SPEC.yaml -o FILE.svg", "picture of the model, coloured by dtype; .dot for Graphviz",
     CMD_GRAPH},
    {"inspect", "inspect FILE", "what is in a checkpoint, run, weights, array, token or program file", CMD_INSPECT},
};

static int usage(const char *fmt, const char *what) {
  fputs("mpcc: error: ", stderr);
  fprintf(stderr, fmt, what);
  fputs("\nmpcc: see mpcc --help\n", stderr);
  return 2;
}

static bool one_of(const char *value, const char *words) {
  size_t n = strlen(value);
  for (const char *p = words; n && (p = strstr(p, value)); p += n)
    if ((p == words || p[-1] == '|') && (p[n] == 0 || p[n] == '|'))
      return true;
  return false;
}

static int number(const char *value, int lo, int hi, int *out) {
  char *end;
  long v = strtol(value, &end, 10);
  if (end == value || *end || v < lo || v > hi)
    return usage("not a number in range: '%s'", value);
  *out = (int)v;
  return 0;
}

/* "4096", "512M", "16G" (powers of 1024). */
static int size(const char *value, uint64_t *out) {
  static const char units[] = "KMGT";
  char *end;
  errno = 0;
  double v = strtod(value, &end);
  const char *unit = *end ? strchr(units, *end) : NULL;
  if (end == value || *value == '-' || errno || (*end && (!unit || end[1])) || !(v > 0) || v > 1e15)
    return usage("not a size: '%s'", value);
  for (long i = unit ? unit - units + 1 : 0; i > 0; i--)
    v *= 1024;
  *out = (uint64_t)v;
  return 0;
}

/* words: "a|b|c" */
static int choice(const char *value, const char *words) {
  if (one_of(value, words))
    return 0;
  fprintf(stderr, "mpcc: error: unknown word '%s'; it is one of ", value);
  for (const char *p = words; *p; p++)
    *p == '|' ? fputs(", ", stderr) : fputc(*p, stderr);
  fputs("\nmpcc: see mpcc --help\n", stderr);
  return 2;
}

/* "a,b" appended to a list; the text is cut in place (argv is ours). */
static void split(const char **list, int *n, const char *value) {
  for (char *p = (char *)value; p && *n < MAX_LEVEL_WORDS;) {
    char *comma = strchr(p, ',');
    if (comma)
      *comma++ = 0;
    list[(*n)++] = p;
    p = comma;
  }
}

static int targets(const mpcc_options *o) {
  for (int i = 0; i < o->ntarget; i++) {
    int code = choice(o->target[i], "cpu|cuda");
    if (code)
      return code;
  }
  return 0;
}

/* "A,B": two words; the text is cut in place (argv is ours). */
static int take_diff(Args *a, const char *v) {
  char *comma = strchr(v, ',');
  if (!comma || comma == v || !comma[1] || strchr(comma + 1, ','))
    return usage("--diff takes two modes, as in bf16-mixed,transformer-engine; not '%s'", v);
  *comma = 0;
  a->diff[0] = v;
  a->diff[1] = comma + 1;
  return 0;
}

static int take_bound(Args *a, const char *v) {
  char *end;
  a->bound = strtod(v, &end);
  return end == v || *end || !(a->bound > 0) ? usage("not a positive number: '%s'", v) : 0;
}

static int take(Args *a, int id, const char *v) {
  mpcc_options *o = &a->options;
  switch (id) {
  case O_OUTPUT: a->output = v; return 0;
  case O_EMIT:
    a->emit = v;
    return choice(v, "exe|lib|c-header|obj|asm|llvm-ir|cuda|ptx|cubin|ir|plan|dot|svg|image");
  case O_OPT: o->opt_set = true; return number(v, 0, 3, &o->opt_level);
  case O_NUMERICS: o->strict = !strcmp(v, "strict"); return choice(v, "fused|strict");
  case O_TARGET: o->ntarget = 0; split(a->list[4], &o->ntarget, v); return targets(o);
  case O_GPU_ARCH: split(a->list[5], &o->narch, v); return 0;
  case O_GPU_PRODUCTS: o->own_products = !strcmp(v, "own"); return choice(v, "library|own");
  case O_MARCH: split(a->list[3], &o->nlevel, v); return 0;
  case O_PRECISION: o->precision = v; return 0;
  case O_DEFINE: a->list[0][o->ndefine++] = v; return 0;
  case O_SET: a->list[1][o->nset++] = v; return 0;
  case O_INCLUDE: a->list[2][o->ninclude++] = v; return 0;
  case O_WARN: ((const char **)o->warning)[o->nwarning++] = v; return 0;
  case O_MAX_ERRORS: o->max_errors_set = true; return number(v, 0, 1000000, &o->max_errors);
  case O_DIAG_FORMAT: a->json = !strcmp(v, "json"); return choice(v, "text|json");
  case O_COLOR:
    a->color = !strcmp(v, "always") ? 1 : !strcmp(v, "never") ? 0 : -1;
    return choice(v, "auto|always|never");
  case O_JOBS: return number(v, 1, 1024, &o->jobs);
  case O_CACHE_DIR: o->cache_dir = v; return 0;
  case O_NO_CACHE: o->no_cache = true; return 0;
  case O_MEMORY: return size(v, &o->memory_bytes);
  case O_TIME_PASSES: o->time_passes = true; return 0;
  case O_PRINT_BEFORE: o->print_before = v; return 0;
  case O_PRINT_AFTER: o->print_after = v; return 0;
  case O_STOP_AFTER: o->stop_after = v; return 0;
  case O_CHECK_PASSES: o->check_passes = true; return 0;
  case O_NO_REUSE: o->no_reuse = true; return 0;
  case O_INSTRUMENT: o->instrument = v; return 0;
  case O_VERBOSE: a->verbose = true; return 0;
  case O_LINK: a->link = v; return choice(v, "cc");
  case O_SAVE_TEMPS: a->save_temps = true; return 0;
  case O_DIFF: return take_diff(a, v);
  case O_PRECISIONS: a->precisions = v; return 0;
  case O_FORMATS: a->formats = v; return 0;
  case O_BOUND: return take_bound(a, v);
  case O_JSON: a->json_result = true; return 0;
  case O_HTML: a->html = v; return 0;
  case O_TOKENIZER: a->tokenizer = v; return 0;
  case O_DTYPE: a->dtype = v; return 0;
  case O_HEADER: a->header = v; return choice(v, "llmc|none");
  case O_SEPARATOR: a->separator = v; return 0;
  case O_HELP: a->help = v ? v : ""; return 0;
  case O_VERSION: a->version = true; return 0;
  case O_LICENSES: a->licenses = true; return 0;
  }
  return 0;
}

/* Option that `word` spells, with the value glued to it if any; -1: none. */
static int find(const char *word, const char **value) {
  *value = NULL;
  if (!strncmp(word, "--", 2)) {
    size_t len = strcspn(word + 2, "=");
    for (int i = 0; i < O_COUNT; i++)
      if (strlen(table[i].name) == len && !strncmp(table[i].name, word + 2, len)) {
        if (word[2 + len] == '=')
          *value = word + 3 + len;
        return i;
      }
    return -1;
  }
  int best = -1;
  size_t best_len = 0;
  for (int i = 0; i < O_COUNT; i++) { /* the longest one-dash spelling wins: -march= before -m */
    const char *b = table[i].brief;
    size_t n = b ? strlen(b) : 0;
    if (n > best_len && !strncmp(b, word + 1, n) && (table[i].kind != V_NONE || !word[1 + n])) {
      best = i;
      best_len = n;
    }
  }
  if (best >= 0 && word[1 + best_len])
    *value = word + 1 + best_len;
  return best;
}

static int allocate(Args *a, int argc) {
  size_t n = (size_t)argc + 1;
  bool ok = true;
  for (int i = 0; i < ARGS_NLIST; i++) {
    a->list[i] = calloc(n + MAX_LEVEL_WORDS, sizeof **a->list);
    ok = ok && a->list[i];
  }
  a->input = calloc(n, sizeof *a->input);
  a->rest = calloc(n, sizeof *a->rest);
  a->options.warning = calloc(n, sizeof *a->options.warning);
  if (!ok || !a->input || !a->rest || !a->options.warning)
    return 11;
  a->options.define = a->list[0];
  a->options.set = a->list[1];
  a->options.include = a->list[2];
  a->options.level = a->list[3];
  a->options.target = a->list[4];
  a->options.arch = a->list[5];
  return 0;
}

void args_free(Args *a) {
  for (int i = 0; i < ARGS_NLIST; i++)
    free(a->list[i]);
  free(a->input);
  free(a->rest);
  free((void *)a->options.warning);
}

static bool trains(const Args *a) {
  return a->command == CMD_RUN || a->command == CMD_COMPARE;
}

/* `mpcc run`: words that mpcc does not know behind the spec belong to the program. */
static bool for_program(const Args *a, const char *word, int option) {
  return trains(a) && a->ninput &&
         (option < 0 || !strcmp(word, "--help") || !strcmp(word, "--version"));
}

/* `mpcc run --device cuda:0` compiles for what it runs on. */
static void target_of_device(Args *a) {
  for (int i = 1; i < a->nrest && trains(a) && !a->options.ntarget; i++) {
    const char *word = a->rest[i], *value = NULL;
    if (!strncmp(word, "--device=", 9))
      value = word + 9;
    else if (!strcmp(word, "--device") && i + 1 < a->nrest)
      value = a->rest[i + 1];
    if (value && !strncmp(value, "cuda", 4))
      a->list[4][a->options.ntarget++] = "cuda";
  }
}

static int not_for(const Args *a, int id) {
  char text[300], where[150] = "";
  const char *command = "compiling";
  bool compiling = table[id].only & FOR(COMPILE);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    size_t n = strlen(where);
    if (commands[i].command == a->command)
      command = commands[i].name;
    if (table[id].only >> commands[i].command & 1)
      snprintf(where + n, sizeof where - n, "%s%s", n ? ", " : "mpcc ", commands[i].name);
  }
  snprintf(text, sizeof text, "--%s does not go with %s; it belongs to %s%s%s", table[id].name, command,
           compiling ? "compiling" : "", compiling && *where ? ", " : "", where);
  return usage("%s", text);
}

int args_parse(Args *a, int argc, char **argv) {
  memset(a, 0, sizeof *a);
  a->color = -1;
  a->emit = "exe";
  int bad = allocate(a, argc), at = 1;
  if (bad)
    return bad;
  a->nrest = 1; /* rest[0] is the program's name */
  for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
    if (!strcmp(argv[1], commands[i].name)) {
      a->command = commands[i].command;
      at = 2;
    }
  for (int i = at; i < argc; i++) {
    const char *word = argv[i], *value;
    if (word[0] != '-' || !word[1]) {
      if (trains(a) && a->ninput)
        a->rest[a->nrest++] = argv[i];
      else
        a->input[a->ninput++] = word;
      continue;
    }
    int id = find(word, &value);
    if (for_program(a, word, id)) {
      a->rest[a->nrest++] = argv[i];
      continue;
    }
    if (id < 0)
      return usage("unknown option '%s'", word);
    if (table[id].kind == V_NONE && value)
      return usage("option '--%s' takes no value", table[id].name);
    if (table[id].kind == V_VALUE && !value) {
      if (i + 1 == argc)
        return usage("option '%s' needs a value", word);
      value = argv[++i];
    }
    if (table[id].only && !(table[id].only >> a->command & 1))
      return not_for(a, id);
    a->stop_after |= id == O_STOP_AFTER;
    bad = take(a, id, value);
    if (bad)
      return bad;
  }
  if (a->stop_after && strcmp(a->emit, "ir"))
    return usage("--stop-after gives %s: say --emit=ir", "IR");
  if (a->link && strcmp(a->emit, "exe"))
    return usage("--link goes with programs, not with --emit=%s", a->emit);
  if (a->save_temps && strcmp(a->emit, "exe"))
    return usage("--save-temps goes with programs, not with --emit=%s", a->emit);
  target_of_device(a);
  if (!(a->bound > 0))
    a->bound = 0.05;
  return 0;
}

/* ---- help ------------------------------------------------------------------------------------ */

enum { SPELLING_BYTES = 64 };

/* "-oFILE, --output=FILE" */
static void spelling(int i, char left[SPELLING_BYTES]) {
  const char *b = table[i].brief, *arg = table[i].arg ? table[i].arg : "";
  if (table[i].kind == V_NONE)
    snprintf(left, SPELLING_BYTES, "%s%s%s--%s", b ? "-" : "", b ? b : "", b ? ", " : "",
             table[i].name);
  else
    snprintf(left, SPELLING_BYTES, "%s%s%s%s--%s%s%s", b ? "-" : "", b ? b : "",
             b && table[i].kind == V_VALUE ? arg : "", b ? ", " : "", table[i].name,
             table[i].kind == V_OPTIONAL ? "" : "=", arg);
}

static void help_options(FILE *out) {
  for (int i = 0; i < O_COUNT; i++) {
    char left[SPELLING_BYTES];
    spelling(i, left);
    if (strlen(left) > 28)
      fprintf(out, "  %s\n  %-28s %s\n", left, "", table[i].doc);
    else
      fprintf(out, "  %-28s %s\n", left, table[i].doc);
  }
}

/* Text of a man page: minus signs stay ASCII, no line begins a request. */
static void man_text(FILE *out, const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!i && (text[i] == '.' || text[i] == '\''))
      fputs("\\&", out);
    if (text[i] == '-')
      fputs("\\-", out);
    else if (text[i] == '\\')
      fputs("\\e", out);
    else
      putc(text[i], out);
  }
  putc('\n', out);
}

static void man_item(FILE *out, const char *left, size_t n, const char *doc, size_t ndoc) {
  fputs(".TP\n.B ", out);
  man_text(out, left, n);
  man_text(out, doc, ndoc);
}

/* Lines "  --name ARG    doc" as program_options_help gives them. */
static void man_program_options(FILE *out, const char *lines) {
  for (const char *p = lines; *p;) {
    size_t len = strcspn(p, "\n"), n;
    const char *left = p + strspn(p, " "), *doc = strstr(left, "  ");
    if (!doc || doc > p + len)
      doc = strchr(left, ' ');
    n = (size_t)(doc - left);
    doc += strspn(doc, " ");
    man_item(out, left, n, doc, (size_t)(p + len - doc));
    p += len + (p[len] == '\n');
  }
}

static const char *const exit_codes[][2] = {
    {"0", "success"},
    {"1", "errors in the spec, or a failure while running"},
    {"2", "wrong usage"},
    {"3", "known, but impossible on this target"},
    {"4", "a file that cannot be read or written, or bad data"},
    {"5", "internal error; a report file is named"},
    {"10", "program: training diverged; diverged/ has the report"},
    {"11", "out of memory"},
    {"75", "program: stopped by SIGTERM or SIGUSR1, checkpoint written"},
    {"130", "interrupted; a program has written a checkpoint"},
};

static const char *const environment[][2] = {
    {"NO_COLOR", "no colour in messages, whatever it holds; --color says otherwise"},
    {"XDG_CACHE_HOME", "the kernel cache is mpcc/ in it; default ~/.cache"},
    {"TMPDIR", "where --link=cc puts its objects; default /tmp"},
    {"MPCC_NVRTC, CUDA_HOME", "where the compiler of CUDA text is looked for"},
};

static const char *const files[][2] = {
    {"runs/NAME/STAMP/",
     "what a run writes, unless --out or checkpoint.dirpath names another folder"},
    {"checkpoints/step-N/",
     "in it: model.safetensors, optimizer.safetensors, state.json, DONE; best and "
     "last are links"},
    {"metrics.jsonl, metrics.csv", "in it: a row for each logged step and evaluation"},
    {"spec.resolved.yaml, plan.txt, run.json",
     "in it: the effective spec, ops and memory, the start"},
    {"earlier-N/", "in it: checkpoints that a run begun anew found there"},
    {"diverged/", "in it: state, batch and report of a run that ended with 10"},
    {"~/.cache/mpcc/", "compiled kernels by content; may be deleted at any time"},
};

static const char *const examples[][2] = {
    {"mpcc check vit.yaml", "is the spec right?"},
    {"mpcc run vit.yaml --precision bf16-mixed --max-epochs 1", "compile in memory and train"},
    {"mpcc vit.yaml -o vit && ./vit --data DIR", "build a program that trains without mpcc"},
    {"./vit --resume --out runs/vit", "go on where that run was stopped, to the same bits"},
    {"mpcc explain vit.yaml --diff=32-true,bf16-mixed", "what a precision changes"},
};

static void man_section(FILE *out, const char *title, const char *const (*item)[2], size_t n) {
  fprintf(out, ".SH %s\n", title);
  for (size_t i = 0; i < n; i++)
    man_item(out, item[i][0], strlen(item[i][0]), item[i][1], strlen(item[i][1]));
}

#define MAN_SECTION(out, title, items)                                                             \
  man_section(out, title, items, sizeof(items) / sizeof *(items))

static int man_page(FILE *out) {
  fprintf(out, ".TH MPCC 1 \"\" \"mpcc %s\" \"User Commands\"\n.SH NAME\n", mpcc_version());
  fputs("mpcc \\- compile a YAML spec into a program that trains a model\n.SH SYNOPSIS\n", out);
  fputs(".B mpcc\n[options] SPEC.yaml\n", out);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    fputs(".br\n.B mpcc ", out);
    man_text(out, commands[i].usage, strlen(commands[i].usage));
  }
  fputs(".SH COMMANDS\n", out);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    man_item(out, commands[i].name, strlen(commands[i].name), commands[i].doc,
             strlen(commands[i].doc));
  fputs(".SH OPTIONS\n", out);
  for (int i = 0; i < O_COUNT; i++) {
    char left[SPELLING_BYTES];
    spelling(i, left);
    man_item(out, left, strlen(left), table[i].doc, strlen(table[i].doc));
  }
  fputs(".SH OPTIONS OF PROGRAMS\nAlso of\n.B mpcc run\nbehind the spec.\n", out);
  char *program = program_options_help();
  if (!program)
    return 11;
  man_program_options(out, program);
  free(program);
  MAN_SECTION(out, "EXIT STATUS", exit_codes);
  MAN_SECTION(out, "ENVIRONMENT", environment);
  MAN_SECTION(out, "FILES", files);
  MAN_SECTION(out, "EXAMPLES", examples);
  fputs(".SH SEE ALSO\n.B mpcc \\-\\-help=spec\nprints the reference of the spec language.\n", out);
  return 0;
}

int args_help(const char *topic, FILE *out) {
  if (!strcmp(topic, "man"))
    return man_page(out);
  if (*topic) {
    char *text = mpcc_help(topic);
    if (!text)
      return usage("no help on '%s'", topic);
    fputs(text, out);
    free(text);
    return 0;
  }
  fputs("usage: mpcc [options] SPEC.yaml      build a training program, named after the spec\n", out);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf(out, "       mpcc %-31s %s\n", commands[i].usage, commands[i].doc);
  fputs("\noptions:\n", out);
  help_options(out);
  char *program = program_options_help();
  fprintf(out, "\noptions of programs, and of `mpcc run` behind the spec:\n%s", program ? program : "");
  free(program);
  return 0;
}
