/* Objects of the CPU target: archive, disk cache, text forms, levels, errors. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check_run.h"
#include "tests/kernel_run.h"

/* runtime/rt.h, which cannot stand beside ir/ir.h: both expand the role table. */
bool mprt__cpu_has(const char *feature, size_t len, bool *known);

enum { N = 100 };

typedef struct {
  Group *group[3];
  Kernel kernel[3];
} Kernels;

/* Kernel k multiplies by k + 2. */
static void kernels_new(Kernels *ks) {
  static const char *const names[] = {"rows_a", "rows_b", "rows_c"};
  for (int k = 0; k < 3; k++) {
    Group *t = group_new("rows", 2, (int64_t[]){4, N / 4}, 1);
    t->body.panel_rows = 1;
    Access a = {.stride = {N / 4, 1}};
    group_in(t, MPCC_F32, N, a);
    group_out(t, MPCC_F32, N, a);
    int x = group_stmt(t, PR_LOAD, MPCC_F32, 0, 0, -1, -1, -1, -1);
    int c = group_stmt(t, PR_CONST, MPCC_F32, -1, k + 2, -1, -1, -1, -1);
    int y = group_stmt(t, PR_MUL, MPCC_F32, -1, 0, x, c, -1, -1);
    group_stmt(t, PR_STORE, MPCC_F32, 0, 0, y, -1, -1, -1);
    ks->group[k] = t;
    ks->kernel[k] = (Kernel){.group = &t->op, .symbol = names[k]};
  }
}

static void kernels_free(Kernels *ks) {
  for (int k = 0; k < 3; k++)
    group_free(ks->group[k]);
}

typedef struct {
  Arena *arena;
  Diag *diag;
} Words;

static Words words_new(void) {
  Words w = {.arena = arena_create()};
  w.diag = diag_create(w.arena, str_table_create(w.arena));
  return w;
}

static char folder[] = "/tmp/mpcc-cache-XXXXXX";

static int entries(char *newest, size_t len) {
  DIR *d = opendir(folder);
  int n = 0;
  for (struct dirent *e; d && (e = readdir(d));)
    if (strstr(e->d_name, ".krn")) {
      n++;
      snprintf(newest, len, "%s/%s", folder, e->d_name);
    }
  if (d)
    closedir(d);
  return n;
}

static void clean(void) {
  DIR *d = opendir(folder);
  char path[600];
  for (struct dirent *e; d && (e = readdir(d));)
    if (e->d_name[0] != '.') {
      snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
      unlink(path);
    }
  if (d)
    closedir(d);
  rmdir(folder);
}

static Status emit(Kernels *ks, const char *cache, const char *form, int jobs, void **bytes,
                   size_t *len) {
  Words w = words_new();
  const EmitOpts o = {&target_cpu, "x86-64-v3", form, 2, jobs, cache};
  Status s = codegen_emit(&o, ks->kernel, 3, w.diag, bytes, len);
  ck_assert_int_eq(diag_errors(w.diag), s != MPCC_OK);
  arena_destroy(w.arena);
  return s;
}

/* Takes an archive apart and runs its kernels. */
static void run_all(const Kernels *ks, const char *bytes, size_t len) {
  MpccArchive head;
  ck_assert(len > sizeof head);
  memcpy(&head, bytes, sizeof head);
  ck_assert(!memcmp(head.magic, MPCC_ARCHIVE_MAGIC, sizeof head.magic) && head.count == 3);
  for (int k = 0; k < 3; k++) {
    MpccArchiveEntry e;
    memcpy(&e, bytes + sizeof head + (size_t)k * sizeof e, sizeof e);
    ck_assert(e.offset % 64 == 0 && e.offset + e.bytes <= len);
    Run r = {0};
    run_load(&r, bytes + e.offset, ks->kernel[k].symbol);
    float in[N], out[N] = {0};
    for (int i = 0; i < N; i++)
      in[i] = (float)i;
    ck_assert_int_eq(ks->kernel[k].ntiles, 4);
    MpccArg args[] = {{.p = out}, {.p = in}};
    r.fn(args, 0, 4, NULL);
    for (int i = 0; i < N; i++)
      ck_assert(out[i] == (float)(k + 2) * in[i]);
    run_free(&r);
  }
}

START_TEST(archive_runs) {
  Kernels ks;
  kernels_new(&ks);
  void *one = NULL, *two = NULL;
  size_t len1, len2;
  ck_assert_int_eq(emit(&ks, NULL, "object", 1, &one, &len1), MPCC_OK);
  run_all(&ks, one, len1);
  ck_assert_int_eq(emit(&ks, NULL, "object", 3, &two, &len2), MPCC_OK);
  ck_assert(len1 == len2 && !memcmp(one, two, len1)); /* threads change nothing */
  free(one);
  free(two);
  kernels_free(&ks);
}
END_TEST

START_TEST(cache_hits_and_damage) {
  Kernels ks;
  kernels_new(&ks);
  void *cold = NULL, *warm = NULL;
  size_t len1, len2;
  char path[600];
  ck_assert_ptr_nonnull(mkdtemp(folder));
  ck_assert_int_eq(emit(&ks, folder, "object", 2, &cold, &len1), MPCC_OK);
  ck_assert_int_eq(entries(path, sizeof path), 3);
  for (int k = 0; k < 3; k++)
    ks.kernel[k].ntiles = ks.kernel[k].scratch_bytes = -1;
  ck_assert_int_eq(emit(&ks, folder, "object", 2, &warm, &len2), MPCC_OK);
  ck_assert(len1 == len2 && !memcmp(cold, warm, len1));
  run_all(&ks, warm, len2);
  free(warm);
  /* each byte of an entry matters: a changed one is compiled again, never used */
  struct stat st;
  ck_assert(!stat(path, &st));
  for (off_t at = 0; at < st.st_size; at += 97) {
    FILE *f = fopen(path, "r+");
    ck_assert_ptr_nonnull(f);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 0x55, f);
    fclose(f);
    ck_assert_int_eq(emit(&ks, folder, "object", 1, &warm, &len2), MPCC_OK);
    ck_assert(len1 == len2 && !memcmp(cold, warm, len1));
    free(warm);
  }
  ck_assert(!truncate(path, st.st_size / 2));
  ck_assert_int_eq(emit(&ks, folder, "object", 1, &warm, &len2), MPCC_OK);
  ck_assert(len1 == len2 && !memcmp(cold, warm, len1));
  free(warm);
  free(cold);
  clean();
  kernels_free(&ks);
}
END_TEST

/* An entry under the right key is what emit returns: nothing is compiled then. */
START_TEST(cache_is_used) {
  Kernels ks;
  kernels_new(&ks);
  ck_assert_ptr_nonnull(mkdtemp(folder));
  const char mark[] = "not from a compiler";
  for (int k = 0; k < 3; k++) {
    Text key = {0};
    cache_key(&ks.kernel[k], 1, &target_cpu, "x86-64-v3", 2, &key);
    ks.kernel[k].ntiles = 41;
    ks.kernel[k].scratch_bytes = 64;
    cache_put(folder, &key, &ks.kernel[k], 1, mark, sizeof mark);
    ks.kernel[k].ntiles = 0;
    text_fini(&key);
  }
  void *bytes = NULL;
  size_t len;
  ck_assert_int_eq(emit(&ks, folder, "object", 2, &bytes, &len), MPCC_OK);
  MpccArchiveEntry e[3];
  memcpy(e, (char *)bytes + sizeof(MpccArchive), sizeof e);
  for (int k = 0; k < 3; k++) {
    ck_assert_uint_eq(e[k].bytes, sizeof mark);
    ck_assert(!memcmp((char *)bytes + e[k].offset, mark, sizeof mark));
    ck_assert_int_eq(ks.kernel[k].ntiles, 41);
  }
  free(bytes);
  clean();
  kernels_free(&ks);
}
END_TEST

/* The key tells apart what changes code, and ignores what does not. */
START_TEST(keys) {
  Kernels ks;
  kernels_new(&ks);
  const char *v3 = "x86-64-v3", *v4 = "x86-64-v4";
  Text a = {0}, b = {0};
#define KEY_DIFFERS(change, level, opt, differs)                                                   \
  do {                                                                                             \
    a.len = b.len = 0;                                                                             \
    cache_key(&ks.kernel[0], 1, &target_cpu, v3, 2, &a);                                                    \
    change;                                                                                        \
    cache_key(&ks.kernel[0], 1, &target_cpu, level, opt, &b);                                                    \
    ck_assert_int_eq(a.len != b.len || memcmp(a.data, b.data, a.len), differs);                    \
  } while (0)
  Group *t = ks.group[0];
  KEY_DIFFERS((void)0, v3, 2, 0);
  KEY_DIFFERS((void)0, v4, 2, 1);
  KEY_DIFFERS((void)0, v3, 3, 1);
  KEY_DIFFERS(t->body.stmt[1].imm = 2.5, v3, 2, 1);
  KEY_DIFFERS(t->body.panel_rows = 2, v3, 2, 1);
  KEY_DIFFERS(t->body.in[0].stride[0]++, v3, 2, 1);
  KEY_DIFFERS(t->body.out[0].offset++, v3, 2, 1);
  KEY_DIFFERS(t->op.attr[t->op.nattr++] = ((Attr){.key = "label", .kind = AT_STR, .u.s = "x"}), v3,
              2, 0);
  KEY_DIFFERS(t->op.attr[t->op.nattr++] = ((Attr){.key = "scale", .kind = AT_FLOAT, .u.f = 2}), v3,
              2, 1);
#undef KEY_DIFFERS
  text_fini(&a);
  text_fini(&b);
  kernels_free(&ks);
}
END_TEST

static bool own_key(const char *level, const Kernel *k, int n, Text *out) {
  text_printf(out, "%s %d %s", level, n, k->symbol);
  return n == 1;
}

/* A target may say itself what decides its code; what it does not know is not cached. */
START_TEST(keys_of_target) {
  Kernels ks;
  kernels_new(&ks);
  Target t = target_cpu;
  t.key = own_key;
  Text known = {0}, unknown = {0};
  cache_key(&ks.kernel[0], 1, &t, "a", 2, &known);
  ck_assert(!known.failed && strstr(known.data, "a 1 ") && strstr(known.data, MPCC_VERSION));
  cache_key(&ks.kernel[0], 2, &t, "a", 2, &unknown);
  ck_assert(unknown.failed);
  text_fini(&known);
  text_fini(&unknown);
  kernels_free(&ks);
}
END_TEST

/* A cache that cannot be written, or is no folder, changes nothing. */
START_TEST(cache_unwritable) {
  Kernels ks;
  kernels_new(&ks);
  void *bytes = NULL;
  size_t len;
  ck_assert_int_eq(emit(&ks, "/proc/nowhere/cache", "object", 1, &bytes, &len), MPCC_OK);
  run_all(&ks, bytes, len);
  free(bytes);
  ck_assert_int_eq(emit(&ks, "/dev/null", "object", 1, &bytes, &len), MPCC_OK);
  run_all(&ks, bytes, len);
  free(bytes);
  kernels_free(&ks);
}
END_TEST

START_TEST(text_forms) {
  Kernels ks;
  kernels_new(&ks);
  void *bytes = NULL;
  size_t len;
  ck_assert_int_eq(emit(&ks, NULL, "asm", 2, &bytes, &len), MPCC_OK);
  ck_assert(strstr(bytes, "rows_a:") && strstr(bytes, "rows_c:"));
  free(bytes);
  ck_assert_int_eq(emit(&ks, NULL, "llvm-ir", 2, &bytes, &len), MPCC_OK);
  ck_assert(strstr(bytes, "define void @rows_b("));
  free(bytes);
  kernels_free(&ks);
}
END_TEST

START_TEST(errors_are_words) {
  Kernels ks;
  kernels_new(&ks);
  Words w = words_new();
  void *bytes = &ks;
  size_t len = 1;
  EmitOpts o = {&target_cpu, "x86-64-v9", "object", 2, 2, NULL};
  ck_assert_int_eq(codegen_emit(&o, ks.kernel, 3, w.diag, &bytes, &len), MPCC_ERR_TARGET);
  ck_assert(!bytes && !len && diag_errors(w.diag) == 1);
  ks.group[1]->op.attr[0].u.s = "weather";
  o.level = "x86-64-v3";
  ck_assert_int_eq(codegen_emit(&o, ks.kernel, 3, w.diag, &bytes, &len), MPCC_ERR_INTERNAL);
  const DiagMessage *m = diag_first(w.diag)->next;
  ck_assert(strstr(m->text, "weather") && strstr(m->text, "rows_b"));
  arena_destroy(w.arena);
  kernels_free(&ks);
}
END_TEST

START_TEST(levels_and_caps) {
  TargetCaps caps;
  for (int l = 0; l < target_cpu.nlevel; l++) {
    const char *name = target_cpu.level[l];
    ck_assert_int_eq(target_cpu.caps(name, &caps), MPCC_OK);
    ck_assert_str_eq(caps.level, name);
    ck_assert(caps.panel_cols_f32 % (caps.vector_bytes / 4) == 0);
    /* the loader knows every word of needs */
    char words[300], *save = NULL;
    snprintf(words, sizeof words, "%s", target_cpu.level_needs(name));
    for (char *f = strtok_r(words, " ", &save); f; f = strtok_r(NULL, " ", &save)) {
      bool known = false;
      mprt__cpu_has(f, strlen(f), &known);
      ck_assert_msg(known, "%s", f);
    }
  }
  ck_assert_int_eq(target_cpu.caps("x86-64-v9", &caps), MPCC_ERR_TARGET);
  /* The loader runs host_level and all below it; levels above may run but be slower. */
  const char *host = target_cpu.host_level();
  bool below_host = host != NULL;
  for (int l = 0; l < target_cpu.nlevel; l++) {
    bool runs = true, known;
    char words[300], *save = NULL;
    snprintf(words, sizeof words, "%s", target_cpu.level_needs(target_cpu.level[l]));
    for (char *f = strtok_r(words, " ", &save); f; f = strtok_r(NULL, " ", &save))
      runs = runs && mprt__cpu_has(f, strlen(f), &known);
    ck_assert(runs || !below_host);
    if (host && !strcmp(host, target_cpu.level[l]))
      below_host = false;
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("cpu_object");
  TCase *c = tcase_create("object");
  tcase_set_timeout(c, 120);
  tcase_add_test(c, levels_and_caps);
  tcase_add_test(c, keys);
  tcase_add_test(c, keys_of_target);
  tcase_add_test(c, text_forms);
  tcase_add_test(c, errors_are_words);
  if (target_cpu.host_level()) {
    tcase_add_test(c, archive_runs);
    tcase_add_test(c, cache_hits_and_damage);
    tcase_add_test(c, cache_is_used);
    tcase_add_test(c, cache_unwritable);
  }
  suite_add_tcase(s, c);
  return check_run(s);
}
