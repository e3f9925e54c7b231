/* Parses the command line of mpcc by the tables of options.h. */
#include "driver/args.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "driver/options.h"
#include "runner/program.h"

enum { MAX_LEVEL_WORDS = 64 };

int args_usage(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fputs("mpcc: error: ", stderr);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
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

static int number(int id, const char *value, int lo, int hi, int *out) {
  char *end;
  long v = strtol(value, &end, 10);
  if (end == value || *end || v < lo || v > hi)
    return args_usage("--%s takes a whole number from %d to %d, not '%s'", option_table[id].name,
                      lo, hi, value);
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
    return args_usage("--memory takes a size as 512M or 16G, not '%s'", value);
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
    return args_usage("--diff takes two modes, as in bf16-mixed,transformer-engine; not '%s'", v);
  *comma = 0;
  a->diff[0] = v;
  a->diff[1] = comma + 1;
  return 0;
}

static int take_bound(Args *a, const char *v) {
  char *end;
  a->bound = strtod(v, &end);
  return end == v || *end || !(a->bound > 0) ? args_usage("--bound takes a number > 0, not '%s'", v)
                                             : 0;
}

static int take(Args *a, int id, const char *v) {
  const Option *row = &option_table[id];
  mpcc_options *o = &a->options;
  if (v && strchr(row->arg, '|') && choice(v, row->arg))
    return 2;
  if (row->to && row->kind == V_NONE)
    *(bool *)((char *)a + row->to) = true;
  else if (row->to)
    *(const char **)((char *)a + row->to) = v;
  switch (id) {
  case O_EMIT:
    a->emit[a->nemit++] = v;
    return choice(v, "exe|lib|c-header|obj|asm|llvm-ir|cuda|ptx|cubin|ir|plan|dot|svg|image");
  case O_LINK:
    return choice(v, "cc");
  case O_OPT:
    o->opt_set = true;
    return number(id, v, 0, 3, &o->opt_level);
  case O_NUMERICS:
    o->strict = !strcmp(v, "strict");
    return 0;
  case O_TARGET:
    o->ntarget = 0;
    split(a->list[4], &o->ntarget, v);
    return targets(o);
  case O_GPU_ARCH:
    split(a->list[5], &o->narch, v);
    return 0;
  case O_GPU_PRODUCTS:
    o->own_products = !strcmp(v, "own");
    return 0;
  case O_MARCH:
    split(a->list[3], &o->nlevel, v);
    return 0;
  case O_DEFINE:
    a->list[0][o->ndefine++] = v;
    return 0;
  case O_SET:
    a->list[1][o->nset++] = v;
    return 0;
  case O_INCLUDE:
    a->list[2][o->ninclude++] = v;
    return 0;
  case O_WARN:
    ((const char **)o->warning)[o->nwarning++] = v;
    return 0;
  case O_MAX_ERRORS:
    o->max_errors_set = true;
    return number(id, v, 0, 1000000, &o->max_errors);
  case O_DIAG_FORMAT:
    a->json = !strcmp(v, "json");
    return 0;
  case O_COLOR:
    a->color = !strcmp(v, "always") ? 1 : !strcmp(v, "never") ? 0 : -1;
    return 0;
  case O_JOBS:
    return number(id, v, 1, 1024, &o->jobs);
  case O_MEMORY:
    return size(v, &o->memory_bytes);
  case O_DIFF:
    return take_diff(a, v);
  case O_BOUND:
    return take_bound(a, v);
  case O_HELP:
    a->help = v ? v : "";
    return 0;
  default:
    return 0;
  }
}

/* Option that `word` spells, with the value glued to it if any; -1: none. */
static int find(const char *word, const char **value) {
  *value = NULL;
  if (!strncmp(word, "--", 2)) {
    size_t len = strcspn(word + 2, "=");
    for (int i = 0; i < O_COUNT; i++)
      if (strlen(option_table[i].name) == len && !strncmp(option_table[i].name, word + 2, len)) {
        if (word[2 + len] == '=')
          *value = word + 3 + len;
        return i;
      }
    return -1;
  }
  int best = -1;
  size_t best_len = 0;
  for (int i = 0; i < O_COUNT; i++) { /* the longest one-dash spelling wins: -march= before -m */
    const char *b = option_table[i].brief;
    size_t n = b ? strlen(b) : 0;
    if (n > best_len && !strncmp(b, word + 1, n) &&
        (option_table[i].kind != V_NONE || !word[1 + n])) {
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
  a->emit = a->list[6];
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
  char where[150] = "";
  const char *command = "compiling";
  bool compiling = option_table[id].only & FOR_COMMAND(COMPILE);
  for (const CommandInfo *c = command_table; c->name; c++) {
    size_t n = strlen(where);
    if (c->command == a->command)
      command = c->name;
    if (option_table[id].only >> c->command & 1)
      snprintf(where + n, sizeof where - n, "%s%s", n ? ", " : "mpcc ", c->name);
  }
  return args_usage("--%s does not go with %s; it belongs to %s%s%s", option_table[id].name,
                    command, compiling ? "compiling" : "", compiling && *where ? ", " : "", where);
}

static int check_emit(Args *a) {
  if (!a->nemit)
    a->emit[a->nemit++] = "exe";
  if (a->nemit > 1 && a->output)
    return args_usage("-o names one output, --emit asks for %d", a->nemit);
  for (int i = 0; i < a->nemit; i++) {
    if (a->options.stop_after && strcmp(a->emit[i], "ir"))
      return args_usage("--stop-after gives IR: say --emit=ir");
    if (a->link && strcmp(a->emit[i], "exe"))
      return args_usage("--link goes with programs, not with --emit=%s", a->emit[i]);
    if (a->save_temps && strcmp(a->emit[i], "exe"))
      return args_usage("--save-temps goes with programs, not with --emit=%s", a->emit[i]);
  }
  return 0;
}

/* Commands that choose modes themselves would leave another one without effect. */
static int check_modes(const Args *a) {
  if (!a->options.precision)
    return 0;
  if (a->command == CMD_COMPARE)
    return args_usage("mpcc compare takes --precisions=A,B, not --precision");
  if (a->command == CMD_SENSITIVITY)
    return args_usage("mpcc sensitivity tries every mode: --precision says nothing");
  if (a->diff[0])
    return args_usage("--diff=A,B has the modes: --precision says nothing beside it");
  return 0;
}

int args_parse(Args *a, int argc, char **argv) {
  memset(a, 0, sizeof *a);
  a->color = -1;
  int bad = allocate(a, argc), at = 1;
  if (bad)
    return bad;
  a->nrest = 1; /* rest[0] is the program's name */
  for (const CommandInfo *c = command_table; argc > 1 && c->name; c++)
    if (!strcmp(argv[1], c->name)) {
      a->command = c->command;
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
      return args_usage("unknown option '%s'", word);
    if (option_table[id].kind == V_NONE && value)
      return args_usage("option '--%s' takes no value", option_table[id].name);
    if (option_table[id].kind == V_VALUE && !value) {
      if (i + 1 == argc)
        return args_usage("option '%s' needs a value", word);
      value = argv[++i];
    }
    if (option_table[id].only && !(option_table[id].only >> a->command & 1))
      return not_for(a, id);
    bad = take(a, id, value);
    if (bad)
      return bad;
  }
  bad = check_emit(a);
  if (!bad)
    bad = check_modes(a);
  if (bad)
    return bad;
  target_of_device(a);
  if (!(a->bound > 0))
    a->bound = 0.05;
  return 0;
}
