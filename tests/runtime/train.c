/* The runtime trains alone: a hand-written linear regression converges, with the same bits at any
 * number of threads, in plan mode and across a stop, and a step allocates nothing. */
#include <stdatomic.h>

#include "tests/check_run.h"
#include "tests/runtime/image.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
static _Atomic long allocations;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n) {
  allocations++;
  return __libc_malloc(n);
}
void *calloc(size_t n, size_t m) {
  allocations++;
  return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n) {
  allocations++;
  return __libc_realloc(p, n);
}
#endif

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

static mprt_program *open_program(int threads, bool plan_mode) {
  mprt_options o;
  mprt_program *p;
  mprt_options_default(&o);
  o.threads = threads;
  o.plan_mode = plan_mode;
  mpcc_status s = mprt_open(image, image_bytes, &o, &callbacks, &p);
  ck_assert_msg(s == MPCC_OK, "%s", words.text);
  lr_bind(p);
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  return p;
}

static float loss_of(mprt_program *p) {
  return (float)mprt__get_scalar(p, "metric.loss_sum", -1);
}

START_TEST(converges) {
  mprt_program *p = open_program(2, false);
  ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
  float first = loss_of(p);
  for (int i = 0; i < 300; i++)
    ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
  ck_assert_float_gt(first, 1.0f);
  ck_assert_float_lt(loss_of(p), 1e-9f);
  ck_assert_int_eq(mprt__get_int(p, "count.taken", 0), 301);
  mprt_tensor w, b;
  ck_assert(mprt_find(p, "w", &w) && mprt_find(p, "b", &b));
  for (int i = 0; i < LR_K; i++)
    ck_assert_float_eq_tol(((float *)w.data)[i], (float)(i + 1), 1e-4f);
  ck_assert_float_eq_tol(*(float *)b.data, -0.5f, 1e-4f);
  mprt_close(p);
}
END_TEST

/* State after 40 steps. */
static uint8_t *state_after(int threads, bool plan_mode, size_t *bytes) {
  mprt_program *p = open_program(threads, plan_mode);
  for (int i = 0; i < 40; i++)
    ck_assert_msg(mprt_run(p, "train_step") == MPCC_OK, "%s", words.text);
  *bytes = p->segment[MPCC_SEG_STATE].bytes;
  uint8_t *copy = malloc(*bytes);
  memcpy(copy, p->segment[MPCC_SEG_STATE].data, *bytes);
  mprt_close(p);
  return copy;
}

START_TEST(same_bits_at_any_thread_count_and_in_plan_mode) {
  size_t n, m;
  uint8_t *one = state_after(1, false, &n);
  for (int threads = 2; threads <= 7; threads++) {
    uint8_t *other = state_after(threads, false, &m);
    ck_assert_mem_eq(one, other, n);
    free(other);
  }
  uint8_t *plan = state_after(3, true, &m);
  ck_assert_mem_eq(one, plan, n);
  free(plan);
  free(one);
}
END_TEST

START_TEST(a_step_allocates_nothing) {
#ifdef COUNTS_ALLOCATIONS
  mprt_program *p = open_program(4, false);
  mprt_run(p, "train_step");
  ck_assert_int_gt(allocations, 0);
  long before = allocations;
  for (int i = 0; i < 20; i++)
    mprt_run(p, "train_step");
  long after = allocations; /* before Check allocates */
  ck_assert_int_eq(after, before);
  mprt_close(p);
#endif
}
END_TEST

START_TEST(segments_are_the_plan_to_the_byte) {
  mprt_program *p = open_program(1, false);
  const MpccImage *h = image;
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    ck_assert_int_eq(mprt_segment_bytes(p, i), (int64_t)h->segment_bytes[i]);
    ck_assert_uint_eq((uintptr_t)p->segment[i].data % MPCC_ALIGN, 0);
  }
  ck_assert_int_eq(mprt_segment_bytes(p, -1), 0);
  ck_assert_int_eq(mprt_segment_bytes(p, MPCC_SEG_COUNT), 0);
  mprt_close(p);
}
END_TEST

START_TEST(tensors_are_found_by_name) {
  mprt_program *p = open_program(1, false);
  mprt_tensor t;
  ck_assert(mprt_find(p, "io.x", &t));
  ck_assert_int_eq(t.rank, 2);
  ck_assert_int_eq(t.dim[0], LR_N);
  ck_assert_int_eq(t.dim[1], LR_K);
  ck_assert_str_eq(t.role, "input");
  ck_assert_str_eq(t.attrs, "{\"field\": \"x\"}");
  ck_assert_uint_eq(t.bytes, LR_N * LR_K * 4);
  ck_assert(mprt_find(p, "b", &t));
  ck_assert_str_eq(t.attrs, "{}");
  ck_assert(!mprt_find(p, "nothing", &t));
  ck_assert(!mprt_tensor_at(p, mprt_tensor_count(p), &t));
  ck_assert(!mprt_tensor_at(p, -1, &t));
  for (int i = 0; i < mprt_tensor_count(p); i++) {
    mprt_tensor u;
    ck_assert(mprt_tensor_at(p, i, &t) && mprt_find(p, t.name, &u));
    ck_assert_ptr_eq(t.data, u.data);
  }
  mprt_close(p);
}
END_TEST

START_TEST(seed_changes_first_values) {
  mprt_options o;
  mprt_program *p;
  float first[2][LR_K];
  for (int i = 0; i < 2; i++) {
    mprt_tensor w;
    mprt_options_default(&o);
    o.seed = 10 + i;
    ck_assert_int_eq(mprt_open(image, image_bytes, &o, &callbacks, &p), MPCC_OK);
    ck_assert_int_eq(mprt_init(p), MPCC_OK);
    ck_assert(mprt_find(p, "w", &w));
    memcpy(first[i], w.data, sizeof first[i]);
    ck_assert_int_eq(mprt__get_int(p, "io.seed", 0), 10 + i);
    mprt_close(p);
  }
  ck_assert_mem_ne(first[0], first[1], sizeof first[0]);
  ck_assert_int_eq(mprt_open(image, image_bytes, NULL, NULL, &p), MPCC_OK);
  ck_assert_int_eq(p->seed, 3); /* the spec's */
  mprt_close(p);
}
END_TEST

START_TEST(single_kernel_and_unknown_names) {
  mprt_program *p = open_program(1, false);
  int64_t value = 0;
  MpccArg args[2] = {{.p = &value}, {.i = 42}};
  const uint64_t sizes[2] = {sizeof value, 0};
  ck_assert_int_eq(mprt_run_kernel(p, "k_set", args, sizes, 2, 1), MPCC_OK);
  ck_assert_int_eq(value, 42);
  ck_assert_int_eq(mprt_run_kernel(p, "k_nothing", args, sizes, 2, 1), MPCC_ERR_INPUT);
  ck_assert_int_eq(mprt_run(p, "dance"), MPCC_ERR_USAGE);
  ck_assert_ptr_nonnull(strstr(words.text, "no function 'dance'"));
  mprt_close(p);
}
END_TEST

static bool stop_after_two(void *user, mprt_program *p, const MpccCommand *c) {
  (void)p;
  (void)c;
  return ++*(int *)user < 2;
}

START_TEST(observer_sees_each_command_and_stops) {
  mprt_program *p = open_program(1, false);
  int seen = 0;
  ck_assert_int_eq(mprt__run(p, mprt__function(p, "train_step"), stop_after_two, &seen), MPCC_OK);
  ck_assert_int_eq(seen, 2);
  ck_assert_int_eq(mprt__get_int(p, "count.taken", -1), 0); /* the update did not run */
  mprt_close(p);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("train");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, converges);
  tcase_add_test(t, same_bits_at_any_thread_count_and_in_plan_mode);
  tcase_add_test(t, a_step_allocates_nothing);
  tcase_add_test(t, segments_are_the_plan_to_the_byte);
  tcase_add_test(t, tensors_are_found_by_name);
  tcase_add_test(t, seed_changes_first_values);
  tcase_add_test(t, single_kernel_and_unknown_names);
  tcase_add_test(t, observer_sees_each_command_and_stops);
  Suite *s = suite_create("runtime/train");
  suite_add_tcase(s, t);
  return check_run(s);
}
