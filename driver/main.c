/* The mpcc command. */
#include <malloc.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver/args.h"
#include "driver/compare.h"
#include "driver/convert.h"
#include "driver/exit.h"
#include "driver/inspect.h"
#include "driver/link.h"
#include "driver/run.h"
#include "driver/sensitivity.h"
#include "driver/verify.h"
#include "mpcc/mpcc.h"

typedef struct {
  const Args *args;
  const char *input;
  bool again; /* the spec is compiled once more: its warnings were said */
} Context;

static void on_message(void *user, const mpcc_message *m) {
  const Context *c = user;
  if (c->again && m->severity != MPCC_ERROR)
    return;
  fputs(c->args->json ? m->json : m->text, stderr);
  fputc('\n', stderr);
}

static void on_dump(void *user, const char *title, const char *text) {
  const Context *c = user;
  if (strcmp(title, "reproducer")) {
    fprintf(stderr, "; ---- %s ----\n%s", title, text);
    return;
  }
  char path[4096];
  snprintf(path, sizeof path, "%s.repro.mpir", c->input);
  if (write_file(path, text, strlen(text), 0) == 0)
    fprintf(stderr, "mpcc: note: the module before the failing pass is in %s\n", path);
}

static int read_input(const char *path, char **text, size_t *len) {
  FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
  size_t cap = 1 << 16, n = 0;
  char *p = f ? malloc(cap) : NULL;
  while (p && !feof(f) && !ferror(f)) {
    n += fread(p + n, 1, cap - 1 - n, f);
    if (n == cap - 1) {
      char *q = realloc(p, cap *= 2);
      if (!q)
        free(p);
      p = q;
    }
  }
  if (!p || ferror(f)) {
    fprintf(stderr, "mpcc: error: cannot read '%s': %s\n", path, strerror(errno));
    free(p);
    if (f && f != stdin)
      fclose(f);
    return 4;
  }
  if (f != stdin)
    fclose(f);
  p[n] = 0;
  *text = p;
  *len = n;
  return 0;
}

/* Output name: the spec's file name without folder and extension. */
static void default_output(const char *prefix, const char *input, const char *suffix, char *out,
                           size_t size) {
  const char *slash = strrchr(input, '/'), *base = slash ? slash + 1 : input;
  const char *dot = strrchr(base, '.');
  int n = dot && dot != base ? (int)(dot - base) : (int)strlen(base);
  snprintf(out, size, "%s%.*s%s", prefix, n, base, suffix);
}

typedef struct {
  const char *emit;
  mpcc_output kind;
  const char *suffix, *prefix; /* of the output's name where none is given; NULL: no prefix */
} Kind;

static const Kind kinds[] = {
    {"exe", MPCC_OUT_IMAGE, ""},          {"image", MPCC_OUT_IMAGE, ".mpcimg"},
    {"obj", MPCC_OUT_IMAGE, ".o"},        {"asm", MPCC_OUT_ASM, ".s"},
    {"llvm-ir", MPCC_OUT_LLVM_IR, ".ll"}, {"cuda", MPCC_OUT_CUDA, ".cu"},
    {"ptx", MPCC_OUT_PTX, ".ptx"},        {"cubin", MPCC_OUT_CUBIN, ".cubin"},
    {"ir", MPCC_OUT_IR, ".mpir"},         {"plan", MPCC_OUT_PLAN, ".plan"},
    {"dot", MPCC_OUT_DOT, ".dot"},        {"svg", MPCC_OUT_SVG, ".svg"},
    {"lib", MPCC_OUT_IMAGE, ".a", "lib"}, {"c-header", MPCC_OUT_C_HEADER, ".h"}};

static const Kind *kind_named(const char *emit) {
  const Kind *k = kinds;
  while (strcmp(k->emit, emit))
    k++;
  return k;
}

static int write_kind(const Args *a, const Kind *kind, const char *path, const void *out,
                      size_t bytes) {
  if (!strcmp(kind->emit, "obj"))
    return link_object(path, out, bytes, a->verbose);
  if (!strcmp(kind->emit, "lib"))
    return link_library(path, out, bytes, a->verbose);
  if (strcmp(kind->emit, "exe"))
    return write_file(path, out, bytes, 0);
  if (a->link)
    return link_with_cc(path, out, bytes, a->verbose);
  return write_program(path, out, bytes);
}

static int write_result(const Args *a, const char *input, const Kind *kind, const void *out,
                        size_t bytes) {
  char name[4096];
  const char *path = a->output;
  if (!path) {
    default_output(kind->prefix ? kind->prefix : "", input, kind->suffix, name, sizeof name);
    path = name;
  }
  if (!strcmp(path, input)) {
    fprintf(stderr, "mpcc: error: output '%s' is the input; use -o\n", path);
    return 2;
  }
  return write_kind(a, kind, path, out, bytes);
}

/* OUTPUT.mpir, .ll, .s, .o: what the program was made of, for the first level. The session is one
 * without messages: all were delivered when the program was made. */
static int save_temps(const Args *a, const char *input, const char *text, size_t len) {
  static const char *const kept[] = {"ir", "llvm-ir", "asm", "obj"};
  char base[4096], path[4200];
  mpcc_callbacks silent = {0};
  mpcc_session *s = mpcc_session_create(&a->options, &silent);
  int code = s ? 0 : 11;
  default_output("", a->output ? a->output : input, "", base, sizeof base);
  if (a->output && strcmp(a->output, "-"))
    snprintf(base, sizeof base, "%s", a->output);
  for (size_t i = 0; i < sizeof kept / sizeof *kept && !code; i++) {
    const Kind *kind = kind_named(kept[i]);
    void *out = NULL;
    size_t bytes = 0;
    code = exit_code(mpcc_compile(s, input, text, len, kind->kind, &out, &bytes));
    snprintf(path, sizeof path, "%s%s", base, kind->suffix);
    if (!code)
      code = write_kind(a, kind, path, out, bytes);
    free(out);
  }
  mpcc_session_destroy(s);
  return code;
}

/* `mpcc graph`: SVG unless the output is named .dot or .gv. */
static const char *picture(const Args *a) {
  const char *dot = a->output ? strrchr(a->output, '.') : NULL;
  return dot && (!strcmp(dot, ".dot") || !strcmp(dot, ".gv")) ? "dot" : "svg";
}

static int compile_one(const Args *a, mpcc_session *s, const char *emit, const char *input,
                       const char *text, size_t len) {
  const Kind *kind = kind_named(emit);
  void *out = NULL;
  size_t bytes = 0;
  mpcc_output what = a->command == CMD_CHECK ? MPCC_OUT_CHECK : kind->kind;
  mpcc_status st = mpcc_compile(s, input, text, len, what, &out, &bytes);
  int code = exit_code(st);
  if (st == MPCC_OK && a->command == CMD_EXPLAIN)
    code = write_file(a->output ? a->output : "-", out, bytes, 0);
  else if (st == MPCC_OK && (a->command == CMD_COMPILE || a->command == CMD_GRAPH))
    code = write_result(a, input, kind, out, bytes);
  if (st == MPCC_OK && !code && a->save_temps && a->command == CMD_COMPILE)
    code = save_temps(a, input, text, len);
  free(out);
  return code;
}

static int resolve(const Args *a, mpcc_session *s, const char *input, const char *text,
                   size_t len) {
  void *out = NULL;
  size_t bytes = 0;
  int code = exit_code(mpcc_resolve(s, input, text, len, &out, &bytes));
  if (!code)
    code = write_file(a->output ? a->output : "-", out, bytes, 0);
  free(out);
  return code;
}

static int explain_diff(const Args *a, mpcc_session *s, const char *input, const char *text,
                        size_t len) {
  void *out = NULL;
  size_t bytes = 0;
  int code =
      exit_code(mpcc_explain_diff(s, input, text, len, a->diff[0], a->diff[1], &out, &bytes));
  if (!code)
    code = write_file(a->output ? a->output : "-", out, bytes, 0);
  free(out);
  return code;
}

static int one_input(Args *a, const char *input) {
  if (a->command == CMD_INSPECT)
    return inspect_file(input);
  char *text;
  size_t len;
  int code = read_input(input, &text, &len);
  if (code)
    return code;
  Context context = {a, input, false};
  mpcc_callbacks cb = {on_message, on_dump, &context};
  mpcc_session *s = mpcc_session_create(&a->options, &cb);
  if (!s)
    code = 11;
  else if (a->command == CMD_COMPARE)
    code = compare_spec(a, &cb, input, text, len);
  else if (a->command == CMD_SENSITIVITY)
    code = sensitivity_spec(a, &cb, input, text, len);
  else if (a->command == CMD_RUN)
    code = run_spec(a, s, input, text, len);
  else if (a->command == CMD_RESOLVE)
    code = resolve(a, s, input, text, len);
  else if (a->diff[0])
    code = explain_diff(a, s, input, text, len);
  else if (a->command == CMD_VERIFY)
    code = verify_spec(s, a->options.ntarget ? a->options.target[0] : "cpu", input, text, len);
  else if (a->command == CMD_EXPLAIN || a->command == CMD_GRAPH)
    code = compile_one(a, s, a->command == CMD_EXPLAIN ? "plan" : picture(a), input, text, len);
  else
    for (int i = 0; i < a->nemit && !code; i++) {
      context.again = i > 0;
      code = compile_one(a, s, a->emit[i], input, text, len);
    }
  mpcc_session_destroy(s);
  free(text);
  return code;
}

static int schema(const Args *a) {
  if (a->ninput) {
    fputs("mpcc: error: schema takes no input\nmpcc: see mpcc --help\n", stderr);
    return 2;
  }
  char *text = mpcc_help("schema");
  int code = text ? write_file(a->output ? a->output : "-", text, strlen(text), 0) : 11;
  free(text);
  return code;
}

static int wrong_inputs(const Args *a) {
  const char *first = a->ninput ? a->input[0] : NULL;
  if (first && a->command == CMD_COMPILE && !strpbrk(first, "./"))
    fprintf(stderr, "mpcc: error: unknown command '%s'\n", first);
  else
    fprintf(stderr, "mpcc: error: %s\n", first ? "one spec at a time" : "no input file");
  fprintf(stderr, "mpcc: see mpcc --help\n");
  return 2;
}

int main(int argc, char **argv) {
  /* Passes drop one module and make the next of the same size: what is freed is kept, not given
   * back to the system page by page. */
  mallopt(M_MMAP_THRESHOLD, 1 << 28);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  Args a;
  int code = args_parse(&a, argc, argv);
  if (!code && a.help)
    code = args_help(a.help, stdout);
  else if (!code && a.version)
    printf("mpcc %s\n", mpcc_version());
  else if (!code && a.licenses)
    fputs(mpcc_license_begin, stdout);
  else if (!code && a.command == CMD_SCHEMA)
    code = schema(&a);
  else if (!code && (!a.ninput || (a.ninput > 1 && a.command != CMD_CHECK && a.command != CMD_CONVERT)))
    code = wrong_inputs(&a);
  else if (!code && a.command == CMD_CONVERT)
    code = convert_files(&a);
  else if (!code) {
    const char *no_color = getenv("NO_COLOR");
    a.options.colour = a.color >= 0 ? a.color : isatty(2) && !(no_color && *no_color);
    a.options.host_level_only =
        a.command == CMD_RUN || a.command == CMD_VERIFY || a.command == CMD_COMPARE;
    if (!a.options.memory_bytes)
      a.options.memory_bytes = mprt_memory_limit();
    for (int i = 0; i < a.ninput; i++) {
      int one = one_input(&a, a.input[i]);
      code = one > code ? one : code;
    }
  }
  args_free(&a);
  if (fflush(stdout) && !code) {
    fprintf(stderr, "mpcc: error: cannot write standard output: %s\n", strerror(errno));
    code = 4;
  }
  return code;
}
