/* --help and the man page, out of the tables of options. */
#include <stdlib.h>
#include <string.h>

#include "driver/options.h"
#include "runner/program.h"

enum { SPELLING_BYTES = 64 };

/* "-oFILE, --output=FILE" */
static void spelling(int i, char left[SPELLING_BYTES]) {
  const char *b = option_table[i].brief, *arg = option_table[i].arg ? option_table[i].arg : "";
  if (option_table[i].kind == V_NONE)
    snprintf(left, SPELLING_BYTES, "%s%s%s--%s", b ? "-" : "", b ? b : "", b ? ", " : "",
             option_table[i].name);
  else
    snprintf(left, SPELLING_BYTES, "%s%s%s%s--%s%s%s", b ? "-" : "", b ? b : "",
             b && option_table[i].kind == V_VALUE ? arg : "", b ? ", " : "", option_table[i].name,
             option_table[i].kind == V_OPTIONAL ? "" : "=", arg);
}

static void help_options(FILE *out) {
  for (int i = 0; i < O_COUNT; i++) {
    char left[SPELLING_BYTES];
    spelling(i, left);
    if (strlen(left) > 28)
      fprintf(out, "  %s\n  %-28s %s\n", left, "", option_table[i].doc);
    else
      fprintf(out, "  %-28s %s\n", left, option_table[i].doc);
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
    {"NO_COLOR", "no colour in messages, unless it is empty; --color says otherwise"},
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
  for (const CommandInfo *c = command_table; c->name; c++) {
    fputs(".br\n.B mpcc ", out);
    man_text(out, c->usage, strlen(c->usage));
  }
  fputs(".SH COMMANDS\n", out);
  for (const CommandInfo *c = command_table; c->name; c++)
    man_item(out, c->name, strlen(c->name), c->doc, strlen(c->doc));
  fputs(".SH OPTIONS\n", out);
  for (int i = 0; i < O_COUNT; i++) {
    char left[SPELLING_BYTES];
    spelling(i, left);
    man_item(out, left, strlen(left), option_table[i].doc, strlen(option_table[i].doc));
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
      return args_usage("no help on '%s'", topic);
    fputs(text, out);
    free(text);
    return 0;
  }
  fputs("usage: mpcc [options] SPEC.yaml      build a training program, named after the spec\n",
        out);
  for (const CommandInfo *c = command_table; c->name; c++)
    fprintf(out, "       mpcc %-31s %s\n", c->usage, c->doc);
  fputs("\noptions:\n", out);
  help_options(out);
  char *program = program_options_help();
  fprintf(out, "\noptions of programs, and of `mpcc run` behind the spec:\n%s",
          program ? program : "");
  free(program);
  return 0;
}
