/* Golden cases: golden_runner FOLDER [CASE...] runs tests/golden/FOLDER and exits 1 when a result
 * differs from the file beside its input.
 *
 *   FOLDER     input         what runs
 *   parse      CASE.mpir     module_parse, module_print
 *   frontend   CASE.yaml     spec_parse, spec_lower, module_print
 *   cuda       CASE.mpir     fuse, cuda_kernel of each group: kernels without device helpers
 *   <pass>     CASE.mpir     that pass alone, module_print
 *
 * CASE.want holds the printed module, or the kernels, or CASE.err every diagnostic as text when it
 * fails; CASE.warn the diagnostics of a case that succeeds, which has none without it. Words in the
 * first line of the input (a comment) are options: `strict`, `no_reuse`, `no_fp8`, `library_fp8`,
 * `bf16_dot`, `precision=MODE`, `set=PATH=VALUE`. GOLDEN_UPDATE=1 in the environment writes the
 * expected files instead. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/gen.h"
#include "frontend/frontend.h"
#include "ir/ir.h"
#include "passes/passes.h"
#include "tests/plain_caps.h"

typedef struct {
  const char *folder;
  char name[256];  /* of the case, without extension */
  const char *ext; /* "mpir", "yaml" */
  char *text;
  size_t len;
  char options[256];
} Case;

static bool read_file(const char *path, char **text, size_t *len) {
  *text = NULL;
  *len = 0;
  FILE *f = fopen(path, "rb");
  if (!f)
    return false;
  size_t cap = 4096;
  char *data = malloc(cap);
  size_t got;
  while (data && (got = fread(data + *len, 1, cap - *len - 1, f)) > 0) {
    *len += got;
    if (*len + 1 == cap) {
      char *more = realloc(data, cap *= 2);
      if (!more)
        free(data);
      data = more;
    }
  }
  fclose(f);
  if (data)
    data[*len] = 0;
  *text = data;
  return data != NULL;
}

static bool write_file(const char *path, const Text *t) {
  FILE *f = fopen(path, "wb");
  if (!f)
    return false;
  bool ok = !t->len || fwrite(t->data, 1, t->len, f) == t->len;
  return fclose(f) == 0 && ok;
}

static bool option(const Case *c, const char *word) {
  size_t n = strlen(word);
  for (const char *p = c->options; (p = strstr(p, word)); p += n)
    if ((p == c->options || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
      return true;
  return false;
}

/* Value of option `word=...`, copied to out; false when absent. */
static bool option_value(const Case *c, const char *word, char out[128]) {
  const char *p = strstr(c->options, word);
  size_t n = strlen(word);
  if (!p || p[n] != '=')
    return false;
  snprintf(out, 128, "%.*s", (int)strcspn(p + n + 1, " "), p + n + 1);
  return true;
}

/* ---- what runs ------------------------------------------------------------------------------- */

static Status parse_case(const Case *c, StrTable *s, Diag *d, Module **out) {
  char file[300];
  snprintf(file, sizeof file, "%s.%s", c->name, c->ext);
  uint32_t index = diag_file(d, file, c->text, c->len);
  return module_parse(s, d, index, c->text, c->len, out);
}

static Status pass_case(const Case *c, const char *name, const TargetCaps *target, StrTable *s,
                        Diag *d, Module **out) {
  int n;
  const PassInfo *pass = pass_table(&n);
  while (n > 0 && strcmp(pass->name, name))
    pass++, n--;
  if (!n) {
    diag_error(d, (Loc){0}, 690, "no pass is named '%s'", name);
    return MPCC_ERR_USAGE;
  }
  Module *in = NULL;
  Status status = parse_case(c, s, d, &in);
  if (status)
    return status;
  if (in->stage != pass->needs)
    diag_error(d, (Loc){0}, 690, "pass '%s' needs stage %s, this is %s", pass->name,
               stage_name(pass->needs), stage_name(in->stage));
  TargetCaps caps = *target;
  caps.bf16_dot |= option(c, "bf16_dot");
  caps.library_fp8 |= option(c, "library_fp8");
  caps.rounding_packs |= option(c, "rounding_packs");
  caps.turned_apart |= option(c, "turned_apart");
  PassOpts o = {.caps = &caps,
                .strict = option(c, "strict"),
                .opt_level = 2,
                .no_reuse = option(c, "no_reuse"),
                .no_fp8 = option(c, "no_fp8") ? "target cpu" : NULL};
  Builder *b = builder_create(s, d, pass->gives);
  status = pass->run(in, &o, b, d);
  if (status)
    builder_destroy(b);
  else
    status = builder_finish(b, out);
  module_destroy(in);
  return status;
}

static Status read_beside(void *user, const char *path, char **text, size_t *len) {
  const Case *c = user;
  char full[1024];
  snprintf(full, sizeof full, "%s/%s/%s", GOLDEN_DIR, c->folder, path);
  return read_file(full, text, len) ? MPCC_OK : MPCC_ERR_FILE;
}

static Status frontend_case(Case *c, Arena *a, StrTable *s, Diag *d, Module **out) {
  char path[300], precision[128], set[128];
  const char *sets[] = {set};
  snprintf(path, sizeof path, "%s.%s", c->name, c->ext);
  SpecSource src = {.path = path, .text = c->text, .len = c->len, .read = read_beside, .user = c};
  if (option_value(c, "precision", precision))
    src.precision = precision;
  if (option_value(c, "set", set)) {
    src.set = sets;
    src.nset = 1;
  }
  Spec *spec = NULL;
  Status status = spec_parse(a, s, d, &src, &spec);
  return status ? status : spec_lower(spec, s, d, out);
}

/* The text of each kernel behind the device helpers, which are the same for all. */
static Status cuda_case(const Case *c, StrTable *s, Diag *d, Text *out) {
  Module *m = NULL;
  TargetCaps caps;
  Status status = target_cuda.caps("sm_90", &caps);
  caps.library_products = caps.library_fp8 = false; /* products as kernels */
  if (!status)
    status = pass_case(c, "fuse", &caps, s, d, &m);
  for (int f = 0; !status && f < m->nfunc; f++)
    for (int i = 0; !status && i < m->func[f]->nop; i++) {
      const Op *op = m->func[f]->op[i];
      CudaGen g;
      if (op->code != OP_group)
        continue;
      char symbol[32];
      snprintf(symbol, sizeof symbol, "kernel_%d", i);
      cuda_begin(&g);
      if (cuda_kernel(&g, op, symbol))
        text_printf(out, "/* %lld x %lld blocks of %d threads */\n%s", (long long)g.blocks,
                    (long long)g.blocks_y, g.threads, g.out.data + g.helpers);
      else
        diag_error(d, op->loc, 900, "%s", g.error);
      status = g.error[0] ? MPCC_ERR_INTERNAL : MPCC_OK;
      text_fini(&g.out);
    }
  module_destroy(m);
  return status;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static bool same_as_file(const Case *c, const char *ext, const Text *got) {
  char path[1024], actual[1024], command[2200];
  snprintf(path, sizeof path, "%s/%s/%s.%s", GOLDEN_DIR, c->folder, c->name, ext);
  if (getenv("GOLDEN_UPDATE"))
    return write_file(path, got);
  char *want;
  size_t len;
  if (!read_file(path, &want, &len)) {
    printf("%s/%s: %s is missing; the result:\n%s\n", c->folder, c->name, path,
           got->data ? got->data : "");
    return false;
  }
  bool same = len == got->len && (!len || !memcmp(want, got->data, len));
  free(want);
  if (same)
    return true;
  printf("%s/%s: differs from .%s\n", c->folder, c->name, ext);
  fflush(stdout);
  snprintf(actual, sizeof actual, "%s/%s-%s.%s", ACTUAL_DIR, c->folder, c->name, ext);
  snprintf(command, sizeof command, "diff -u '%s' '%s'", path, actual);
  if (!write_file(actual, got) || system(command) < 0)
    printf("%s\n", got->data ? got->data : "");
  return false;
}

static bool case_file_exists(const Case *c, const char *ext) {
  char path[1024], *text;
  size_t len;
  snprintf(path, sizeof path, "%s/%s/%s.%s", GOLDEN_DIR, c->folder, c->name, ext);
  bool yes = read_file(path, &text, &len);
  free(text);
  return yes;
}

/* The text of every result reads back to the same bytes. */
static bool reads_back(const Case *c, const Text *text) {
  Arena *a = arena_create();
  StrTable *s = str_table_create(a);
  Diag *d = diag_create(a, s);
  Module *m = NULL;
  Text again = {0};
  uint32_t file = diag_file(d, "printed", text->data, text->len);
  Status status = module_parse(s, d, file, text->data, text->len, &m);
  if (m)
    module_print(m, d, &again);
  bool ok =
      status == MPCC_OK && again.len == text->len && !memcmp(again.data, text->data, text->len);
  if (!ok)
    printf("%s/%s: the text does not read back: %s\n", c->folder, c->name,
           diag_first(d) ? diag_first(d)->text : "other bytes");
  text_fini(&again);
  module_destroy(m);
  arena_destroy(a);
  return ok;
}

/* A case that is expected to fail must fail, and the other way round. */
static bool check(const Case *c, bool done, const Module *m, const Text *text, const Diag *d) {
  Text said = {0};
  for (const DiagMessage *msg = diag_first(d); msg; msg = msg->next) {
    diag_render(d, msg, false, &said);
    text_puts(&said, said.len && said.data[said.len - 1] != '\n' ? "\n" : "");
  }
  bool ok;
  if (done) {
    ok = same_as_file(c, "want", text);
    ok &= !m || reads_back(c, text);
    if (said.len || case_file_exists(c, "warn"))
      ok &= same_as_file(c, "warn", &said);
  } else {
    ok = same_as_file(c, "err", &said);
  }
  if (!getenv("GOLDEN_UPDATE") && case_file_exists(c, done ? "err" : "want")) {
    printf("%s/%s: %s\n%s", c->folder, c->name, done ? "should fail" : "fails",
           said.data ? said.data : "");
    ok = false;
  }
  text_fini(&said);
  return ok;
}

static bool run_case(Case *c) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s/%s.%s", GOLDEN_DIR, c->folder, c->name, c->ext);
  if (!read_file(path, &c->text, &c->len)) {
    printf("%s: %s\n", path, strerror(errno));
    return false;
  }
  c->options[0] = 0;
  if (c->text[0] == '#')
    snprintf(c->options, sizeof c->options, "%.*s", (int)strcspn(c->text, "\n"), c->text);
  Arena *a = arena_create();
  StrTable *s = str_table_create(a);
  Diag *d = diag_create(a, s);
  Module *m = NULL;
  Text text = {0};
  Status status;
  if (!strcmp(c->folder, "frontend"))
    status = frontend_case(c, a, s, d, &m);
  else if (!strcmp(c->folder, "parse"))
    status = parse_case(c, s, d, &m);
  else if (!strcmp(c->folder, "cuda"))
    status = cuda_case(c, s, d, &text);
  else
    status = pass_case(c, c->folder, &plain_caps, s, d, &m);
  if (m)
    module_print(m, d, &text);
  bool ok = check(c, status == MPCC_OK && !diag_errors(d), m, &text, d);
  text_fini(&text);
  module_destroy(m);
  arena_destroy(a);
  free(c->text);
  return ok;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of the folder's cases, sorted; the caller frees. -1 when the folder cannot be read. */
static int list_cases(const char *folder, const char *ext, char ***out) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", GOLDEN_DIR, folder);
  DIR *dir = opendir(path);
  int n = 0, cap = 0;
  *out = NULL;
  if (!dir)
    return -1;
  for (struct dirent *e; (e = readdir(dir));) {
    char *dot = strrchr(e->d_name, '.');
    if (!dot || dot == e->d_name || strcmp(dot + 1, ext))
      continue;
    if (n == cap)
      *out = realloc(*out, sizeof **out * (size_t)(cap = cap ? 2 * cap : 32));
    (*out)[n++] = strndup(e->d_name, (size_t)(dot - e->d_name));
  }
  closedir(dir);
  if (n)
    qsort(*out, (size_t)n, sizeof **out, by_name);
  return n;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: golden_runner FOLDER [CASE...]\n");
    return 2;
  }
  Case c = {.folder = argv[1], .ext = strcmp(argv[1], "frontend") ? "mpir" : "yaml"};
  char **names;
  int n = list_cases(c.folder, c.ext, &names), failed = 0, ran = 0;
  if (n < 0) {
    printf("%s/%s: %s\n", GOLDEN_DIR, c.folder, strerror(errno));
    return 1;
  }
  for (int i = 0; i < n; i++) {
    bool chosen = argc == 2;
    for (int k = 2; k < argc; k++)
      chosen |= !strcmp(argv[k], names[i]);
    snprintf(c.name, sizeof c.name, "%s", names[i]);
    if (chosen) {
      ran++;
      failed += !run_case(&c);
    }
    free(names[i]);
  }
  free(names);
  printf("%s: %d cases, %d failed\n", c.folder, ran, failed);
  return failed || !ran;
}
