/* Images that are wrong are refused in words; no bytes whatever make the loader read outside. */
#include "tests/check_run.h"
#include "tests/runtime/image.h"

static void *kernels, *image;
static size_t kernels_bytes, image_bytes;
static TestLog words;
static const mprt_callbacks callbacks = {.log = test_log, .user = &words};

static void setup(void) {
  kernels = ti_kernels(&kernels_bytes);
  LrOptions o = {.k = LR_K, .kernels = kernels, .kernels_bytes = kernels_bytes};
  image = lr_image(&o, &image_bytes);
  test_log_clear(&words);
}

static void teardown(void) {
  free(kernels);
  free(image);
}

static mpcc_status open_bytes(const void *data, size_t bytes, const char *level) {
  mprt_options o;
  mprt_program *p;
  mprt_options_default(&o);
  o.threads = 1;
  o.level = level;
  test_log_clear(&words);
  mpcc_status s = mprt_open(data, bytes, &o, &callbacks, &p);
  ck_assert_int_eq(s == MPCC_OK, p != NULL);
  if (s != MPCC_OK)
    ck_assert_int_ge(words.errors, 1);
  mprt_close(p);
  return s;
}

/* A copy that ends where its memory ends, so that sanitizers see one byte too far. */
static uint8_t *exact_copy(size_t bytes) {
  void *copy;
  ck_assert_int_eq(posix_memalign(&copy, MPCC_ALIGN, bytes ? bytes : 1), 0);
  memcpy(copy, image, bytes);
  return copy;
}

START_TEST(every_flipped_byte_is_refused) {
  uint8_t *copy = exact_copy(image_bytes);
  for (size_t i = 0; i < image_bytes; i++) {
    uint8_t before = copy[i];
    copy[i] ^= (uint8_t)(1u << i % 8);
    ck_assert_msg(open_bytes(copy, image_bytes, NULL) == MPCC_ERR_INPUT, "byte %zu", i);
    copy[i] = before;
  }
  ck_assert_int_eq(open_bytes(copy, image_bytes, NULL), MPCC_OK);
  free(copy);
}
END_TEST

START_TEST(every_truncation_is_refused) {
  for (size_t n = 0; n < image_bytes; n++) {
    uint8_t *copy = exact_copy(n);
    ck_assert_msg(open_bytes(copy, n, NULL) == MPCC_ERR_INPUT, "%zu bytes", n);
    free(copy);
  }
}
END_TEST

/* With a right hash: whatever the bytes say, opening ends well or with an error. */
START_TEST(wrong_contents_with_right_hash) {
  static const uint8_t masks[] = {0x01, 0x80, 0xff};
  uint8_t *copy = exact_copy(image_bytes);
  int accepted = 0, refused = 0;
  for (size_t i = 0; i < image_bytes; i++) {
    size_t in_hash = i - offsetof(MpccImage, hash), in_size = i - offsetof(MpccImage, image_bytes);
    if (in_hash < 16 || in_size < 8)
      continue;
    for (size_t m = 0; m < sizeof masks; m++) {
      uint8_t before = copy[i];
      copy[i] ^= masks[m];
      ti_rehash(copy);
      mpcc_status s = open_bytes(copy, image_bytes, NULL);
      ck_assert_msg(s == MPCC_OK || s == MPCC_ERR_INPUT || s == MPCC_ERR_TARGET ||
                        s == MPCC_ERR_NOMEM,
                    "byte %zu: status %d", i, s);
      accepted += s == MPCC_OK;
      refused += s != MPCC_OK;
      copy[i] = before;
    }
  }
  ck_assert_int_gt(accepted, 0); /* padding, names, machine code */
  ck_assert_int_gt(refused, 1000);
  free(copy);
}
END_TEST

/* Makes c a repeat of the n commands behind it. */
static void as_loop(MpccCommand *c, uint32_t n) {
  *c = (MpccCommand){.op = MPCC_CMD_REPEAT, .kernel = n, .bytes = 2, .source = c->source};
}

/* One wrong fact each, and the words it must give. */
#define REFUSED(statement, want)                                                                   \
  do {                                                                                             \
    uint8_t *copy = exact_copy(image_bytes);                                                       \
    MpccImage *h = (MpccImage *)copy;                                                              \
    MpccTensor *tensor = (MpccTensor *)(copy + h->tensors.offset);                                 \
    MpccCommand *command = (MpccCommand *)(copy + h->commands.offset);                             \
    MpccArgRef *arg = (MpccArgRef *)(copy + h->args.offset);                                       \
    MpccFunction *function = (MpccFunction *)(copy + h->functions.offset);                         \
    MpccKernel *kernel = (MpccKernel *)(copy + h->kernels.offset);                                 \
    (void)tensor, (void)command, (void)arg, (void)function, (void)kernel;                          \
    statement;                                                                                     \
    ti_rehash(copy);                                                                               \
    ck_assert_int_eq(open_bytes(copy, image_bytes, NULL), MPCC_ERR_INPUT);                         \
    ck_assert_msg(strstr(words.text, want) != NULL, "%s", words.text);                             \
    free(copy);                                                                                    \
  } while (0)

START_TEST(wrong_facts_are_named) {
  REFUSED(h->version = 9, "version 9, this runtime reads version 8");
  REFUSED(h->tensors.count = 1u << 30, "tensors are not inside the image");
  REFUSED(h->meta = 0, "facts");
  REFUSED(tensor[0].dtype = MPCC_DTYPE_COUNT, "tensor 'flat.0' has an unknown dtype");
  REFUSED(tensor[0].rank = 9, "tensor 'flat.0': its shape");
  REFUSED(tensor[0].dim[0] = INT64_MAX, "tensor 'flat.0': its shape");
  REFUSED(tensor[0].dim[0] = -6, "tensor 'flat.0': its shape");
  REFUSED(tensor[0].offset = 1 << 20, "tensor 'flat.0' is not inside segment state");
  REFUSED(tensor[1].base = 1000, "tensor 'w' is a view of no tensor");
  REFUSED(tensor[1].offset += 64, "tensor 'w'");
  REFUSED(tensor[1].name = tensor[0].name, "two tensors have the name 'flat.0'");
  REFUSED(function[0].ncommands = 1000, "function 'init' has commands that do not exist");
  REFUSED(function[1].name = function[0].name, "two functions have the name 'init'");
  REFUSED(arg[0].bytes = 1 << 20, "argument 0 is not inside its segment");
  REFUSED(arg[0].offset = -64, "argument 0 is not inside its segment");
  REFUSED(arg[0].tensor_plus_1 = 1000, "argument 0 belongs to no tensor");
  REFUSED(command[0].nargs = 2, "command 0 (init, test.yaml:1:1) does not fit its arguments");
  REFUSED(command[0].kernel = 1000, "does not fit its arguments");
  REFUSED(command[0].op = 7, "does not fit its arguments");
  REFUSED(command[0].nout = 3, "does not fit its arguments");
  REFUSED(command[0].others = UINT32_MAX, "names no place");
  REFUSED(command[0].rounds_to = MPCC_DTYPE_COUNT + 1, "rounds to no format");
  REFUSED(command[0].value_dtypes = 0, "does not fit its arguments");
  REFUSED(command[2].bytes = 1 << 20, "does not fit its arguments");
  REFUSED(as_loop(&command[0], 1000), "a loop of function 'init' does not fit");
  REFUSED((as_loop(&command[0], 1), arg[command[1].first_arg].stride = 1 << 20),
          "a loop of function 'init' does not fit");
  REFUSED((as_loop(&command[0], 1), as_loop(&command[1], 0)),
          "a loop of function 'init' does not fit");
  REFUSED(kernel[0].ntiles = UINT64_MAX, "too many tiles");
  REFUSED(kernel[0].symbol = tensor[0].name, "has no kernel 'flat.0'");
}
END_TEST

START_TEST(memory_beyond_the_machine) {
  uint8_t *copy = exact_copy(image_bytes);
  MpccImage *h = (MpccImage *)copy;
  h->segment_bytes[MPCC_SEG_WORK] = UINT64_C(1) << 50;
  ti_rehash(copy);
  ck_assert_int_eq(open_bytes(copy, image_bytes, NULL), MPCC_ERR_NOMEM);
  ck_assert_ptr_nonnull(strstr(words.text, "this machine gives at most"));
  free(copy);
}
END_TEST

START_TEST(missing_feature_is_named) {
  LrOptions o = {
      .k = LR_K, .kernels = kernels, .kernels_bytes = kernels_bytes, .needs = "sse2 warp9"};
  size_t bytes;
  void *other = lr_image(&o, &bytes);
  ck_assert_int_eq(open_bytes(other, bytes, NULL), MPCC_ERR_TARGET);
  ck_assert_ptr_nonnull(strstr(words.text, "x86-64 needs 'warp9'"));
  /* Several images: the first that runs. */
  size_t at = ti_round(bytes);
  uint8_t *both = aligned_alloc(MPCC_ALIGN, ti_round(at + image_bytes));
  memset(both, 0, at);
  memcpy(both, other, bytes);
  memcpy(both + at, image, image_bytes);
  ck_assert_int_eq(open_bytes(both, at + image_bytes, NULL), MPCC_OK);
  ck_assert_int_eq(words.errors, 0);
  both[at + 200] ^= 1;
  ck_assert_int_eq(open_bytes(both, at + image_bytes, NULL), MPCC_ERR_INPUT);
  free(both);
  free(other);
}
END_TEST

START_TEST(levels) {
  TestImage t = {0};
  size_t bytes;
  ti_function(&t, "go");
  ti_code(&t, "best", "warp9", kernels, kernels_bytes);
  ti_code(&t, "good", "sse2 sse3", kernels, kernels_bytes);
  ti_code(&t, "base", "", kernels, kernels_bytes);
  void *other = ti_finish(&t, "{}", &bytes);
  mprt_options o;
  mprt_program *p;
  mprt_options_default(&o);
  ck_assert_int_eq(mprt_open(other, bytes, &o, &callbacks, &p), MPCC_OK);
  ck_assert_str_eq(mprt__string(p, p->chosen->level), "good");
  mprt_close(p);
  o.level = "base";
  ck_assert_int_eq(mprt_open(other, bytes, &o, &callbacks, &p), MPCC_OK);
  ck_assert_str_eq(mprt__string(p, p->chosen->level), "base");
  mprt_close(p);
  ck_assert_int_eq(open_bytes(other, bytes, "best"), MPCC_ERR_TARGET);
  ck_assert_ptr_nonnull(strstr(words.text, "best needs 'warp9'"));
  ck_assert_int_eq(open_bytes(other, bytes, "other"), MPCC_ERR_TARGET);
  ck_assert_ptr_nonnull(strstr(words.text, "no code for other"));
  free(other);
}
END_TEST

START_TEST(features) {
  bool known;
  ck_assert(mprt__cpu_has("sse2", 4, &known) && known);
  ck_assert(!mprt__cpu_has("warp9", 5, &known) && !known);
  ck_assert(!mprt__cpu_has("sse", 3, &known) && !known);
  static const char *const pairs[][2] = {
      {"sse4.1", "sse4_1"}, {"avx512_bf16", "avx512bf16"}, {"avx512-fp16", "avx512fp16"}};
  for (size_t i = 0; i < 3; i++) {
    bool a = mprt__cpu_has(pairs[i][0], strlen(pairs[i][0]), &known);
    ck_assert(known);
    ck_assert_int_eq(a, mprt__cpu_has(pairs[i][1], strlen(pairs[i][1]), &known));
    ck_assert(known);
  }
#define SAME(word)                                                                                 \
  ck_assert_int_eq(mprt__cpu_has(word, strlen(word), &known), !!__builtin_cpu_supports(word))
  SAME("avx");
  SAME("avx2");
  SAME("fma");
  SAME("bmi2");
  SAME("popcnt");
  SAME("avx512f");
  SAME("avx512bw");
  SAME("avx512vl");
  SAME("avx512vnni");
}
END_TEST

int main(void) {
  TCase *t = tcase_create("image");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, every_flipped_byte_is_refused);
  tcase_add_test(t, every_truncation_is_refused);
  tcase_add_test(t, wrong_contents_with_right_hash);
  tcase_add_test(t, wrong_facts_are_named);
  tcase_add_test(t, memory_beyond_the_machine);
  tcase_add_test(t, missing_feature_is_named);
  tcase_add_test(t, levels);
  tcase_add_test(t, features);
  Suite *s = suite_create("runtime/image");
  suite_add_tcase(s, t);
  return check_run(s);
}
