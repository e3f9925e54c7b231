/* The code loader: real objects run, protections hold, damaged and foreign objects are refused. */
#include <elf.h>

#include "tests/check_run.h"
#include "tests/runtime/image.h"

static TestLog words;
static const mprt_callbacks callbacks = {.log = test_log, .user = &words};
static uint8_t *object;
static size_t object_bytes;

static void setup(void) {
  object = ti_read(TEST_KERNELS, &object_bytes);
  test_log_clear(&words);
}

/* Names of symbols lie in the archive, so a mapped one lives as long as the test. */
static void *kept[8];
static int nkept;

static Status map_object(const void *data, size_t bytes, mprt__code *code) {
  size_t total;
  const void *list[1] = {data};
  void *archive = ti_archive(list, &bytes, 1, &total);
  test_log_clear(&words);
  Status s = mprt__code_map(archive, total, "test", &callbacks, code);
  if (s == MPCC_OK) {
    ck_assert_uint_ge(code->nsymbol, 1);
    kept[nkept++] = archive;
  } else {
    ck_assert_ptr_null(code->map);
    free(archive);
  }
  return s;
}

static void teardown(void) {
  free(object);
  while (nkept > 0)
    free(kept[--nkept]);
}

START_TEST(kernels_run) {
  mprt__code code;
  ck_assert_msg(map_object(object, object_bytes, &code) == MPCC_OK, "%s", words.text);
  ck_assert_ptr_null((void *)(uintptr_t)mprt__code_symbol(&code, "k_nothing"));
  ck_assert_ptr_null((void *)(uintptr_t)mprt__code_symbol(&code, "mix"));
  MpccKernelFn fn = mprt__code_symbol(&code, "k_init");
  ck_assert(fn != NULL);
  /* Reads constants through PC-relative and absolute relocations. */
  float w[64];
  int64_t seed = 1;
  MpccArg args[3] = {{.p = w}, {.p = &seed}, {.i = 64}};
  fn(args, 0, 1, NULL);
  bool negative = false, half = false;
  for (int i = 0; i < 64; i++) {
    ck_assert(w[i] >= -0.5f && w[i] <= 0.75f && w[i] != 0);
    negative |= w[i] == -0.25f;
    half |= w[i] == 0.5f;
  }
  ck_assert(negative && half);
  mprt__code_unmap(&code);
  ck_assert_ptr_null((void *)(uintptr_t)mprt__code_symbol(&code, "k_init"));
}
END_TEST

/* Access letters of the mapping that holds `address` ("r-xp"). */
static void access_of(const void *address, char letters[5]) {
  FILE *f = fopen("/proc/self/maps", "r");
  char line[512];
  letters[0] = 0;
  while (fgets(line, sizeof line, f)) {
    unsigned long begin, end;
    char access[5];
    if (sscanf(line, "%lx-%lx %4s", &begin, &end, access) == 3 && (uintptr_t)address >= begin &&
        (uintptr_t)address < end)
      memcpy(letters, access, 5);
  }
  fclose(f);
}

START_TEST(writable_or_executable_never_both) {
  mprt__code code;
  char text[5], data[5];
  ck_assert_int_eq(map_object(object, object_bytes, &code), MPCC_OK);
  access_of(code.map, text);
  ck_assert_str_eq(text, "r-xp");
  access_of((uint8_t *)code.map + code.map_bytes - 1, data);
  ck_assert_str_eq(data, "rw-p");
  bool constants = false;
  for (size_t at = 0; at < code.map_bytes; at += 4096) {
    access_of((uint8_t *)code.map + at, text);
    ck_assert_str_ne(text, "rwxp");
    constants |= !strcmp(text, "r--p");
  }
  ck_assert(constants);
  mprt__code_unmap(&code);
}
END_TEST

START_TEST(damage_never_reads_outside) {
  uint8_t *copy = malloc(object_bytes);
  int mapped = 0, refused = 0;
  for (size_t i = 0; i < object_bytes; i++)
    for (int m = 0; m < 2; m++) {
      mprt__code code;
      memcpy(copy, object, object_bytes);
      copy[i] ^= m ? 0xff : 0x04;
      size_t total;
      const void *list[1] = {copy};
      void *archive = ti_archive(list, &object_bytes, 1, &total);
      Status s = mprt__code_map(archive, total, "test", NULL, &code);
      ck_assert(s == MPCC_OK || s == MPCC_ERR_INPUT);
      mapped += s == MPCC_OK;
      refused += s != MPCC_OK;
      mprt__code_unmap(&code);
      free(archive);
    }
  ck_assert_int_gt(mapped, 0);
  ck_assert_int_gt(refused, 100);
  for (size_t n = 0; n < object_bytes; n++) {
    mprt__code code;
    uint8_t *cut = malloc(n + 64);
    memset(cut, 0, n + 64);
    memcpy(cut, object, n);
    ck_assert_int_eq(map_object(cut, n, &code), MPCC_ERR_INPUT); /* section headers are last */
    free(cut);
  }
  free(copy);
}
END_TEST

START_TEST(damaged_archives) {
  mprt__code code;
  size_t total;
  const void *list[2] = {object, object};
  size_t bytes[2] = {object_bytes, object_bytes};
  uint8_t *archive = ti_archive(list, bytes, 2, &total);
  ck_assert_int_eq(mprt__code_map(archive, total, "test", &callbacks, &code), MPCC_ERR_INPUT);
  ck_assert_ptr_nonnull(strstr(words.text, "defines 'k_combine' twice"));
  MpccArchive *head = (MpccArchive *)archive;
  for (size_t n = 0; n < total; n += 7)
    ck_assert_int_eq(mprt__code_map(archive, n, "test", &callbacks, &code), MPCC_ERR_INPUT);
  head->count = UINT64_MAX / 8;
  ck_assert_int_eq(mprt__code_map(archive, total, "test", &callbacks, &code), MPCC_ERR_INPUT);
  head->count = 1;
  ck_assert_int_eq(mprt__code_map(archive, total, "test", &callbacks, &code), MPCC_OK);
  mprt__code_unmap(&code);
  head->count = 0;
  ck_assert_int_eq(mprt__code_map(archive, total, "test", &callbacks, &code), MPCC_OK);
  mprt__code_unmap(&code);
  head->magic[0] = 'm';
  ck_assert_int_eq(mprt__code_map(archive, total, "test", &callbacks, &code), MPCC_ERR_INPUT);
  free(archive);
}
END_TEST

static Elf64_Shdr *section(uint8_t *o, uint32_t type) {
  Elf64_Ehdr *h = (Elf64_Ehdr *)o;
  Elf64_Shdr *s = (Elf64_Shdr *)(o + h->e_shoff);
  for (int i = 0; i < h->e_shnum; i++)
    if (s[i].sh_type == type && s[i].sh_size > 0)
      return &s[i];
  ck_abort_msg("no section of type %u", type);
  return NULL;
}

START_TEST(relocations_that_cannot_be) {
  mprt__code code;
  uint8_t *copy = malloc(object_bytes);
  memcpy(copy, object, object_bytes);
  Elf64_Rela *r = (Elf64_Rela *)(copy + section(copy, SHT_RELA)->sh_offset);
  Elf64_Rela before = *r;
  r->r_info = ELF64_R_INFO(ELF64_R_SYM(before.r_info), R_X86_64_GOTPCREL);
  ck_assert_int_eq(map_object(copy, object_bytes, &code), MPCC_ERR_INPUT);
  ck_assert_ptr_nonnull(strstr(words.text, "relocation type 9 is not supported"));
  *r = before;
  r->r_addend = INT64_C(1) << 40;
  ck_assert_int_eq(map_object(copy, object_bytes, &code), MPCC_ERR_INPUT);
  ck_assert_ptr_nonnull(strstr(words.text, "does not reach"));
  *r = before;
  r->r_offset = 1 << 30;
  ck_assert_int_eq(map_object(copy, object_bytes, &code), MPCC_ERR_INPUT);
  *r = before;
  Elf64_Sym *symbol = (Elf64_Sym *)(copy + section(copy, SHT_SYMTAB)->sh_offset);
  symbol[ELF64_R_SYM(before.r_info)].st_shndx = SHN_UNDEF;
  ck_assert_int_eq(map_object(copy, object_bytes, &code), MPCC_ERR_INPUT);
  ck_assert_ptr_nonnull(strstr(words.text, "is needed but not defined in it"));
  memcpy(copy, object, object_bytes);
  section(copy, SHT_PROGBITS)->sh_flags |= SHF_WRITE | SHF_EXECINSTR | SHF_ALLOC;
  ck_assert_int_eq(map_object(copy, object_bytes, &code), MPCC_ERR_INPUT);
  ck_assert_ptr_nonnull(strstr(words.text, "writable and executable"));
  free(copy);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("elf");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, kernels_run);
  tcase_add_test(t, writable_or_executable_never_both);
  tcase_add_test(t, damage_never_reads_outside);
  tcase_add_test(t, damaged_archives);
  tcase_add_test(t, relocations_that_cannot_be);
  Suite *s = suite_create("elf");
  suite_add_tcase(s, t);
  return check_run(s);
}
