/* The reference interpreter against values worked out by hand and against identities: finite
 * differences for the grad ops, ops against the groups they become. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "mpcc/num.h"
#include "tests/check_run.h"

/* A module from text with an interpreter over it. */
typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
  Module *m;
  Eval *e;
} Bench;

static Bench bench(const char *text, bool exact) {
  Bench b = {.arena = arena_create()};
  b.strings = str_table_create(b.arena);
  b.diag = diag_create(b.arena, b.strings);
  uint32_t file = diag_file(b.diag, "test.mpir", text, strlen(text));
  module_parse(b.strings, b.diag, file, text, strlen(text), &b.m);
  Text said = {0};
  for (const DiagMessage *m = diag_first(b.diag); m; m = m->next)
    diag_render(b.diag, m, false, &said);
  ck_assert_msg(b.m != NULL, "%s", said.data ? said.data : "no module");
  text_fini(&said);
  ck_assert_int_eq(eval_create(b.m, exact, &b.e), MPCC_OK);
  return b;
}

static void bench_end(Bench *b) {
  eval_destroy(b->e);
  module_destroy(b->m);
  arena_destroy(b->arena);
}

static double *tensor(Bench *b, const char *name) {
  const Tensor *t = module_tensor(b->m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  return eval_tensor(b->e, t);
}

static void set(Bench *b, const char *name, int n, const double *v) {
  memcpy(tensor(b, name), v, (size_t)n * sizeof *v);
}
#define SET(b, name, ...)                                                                          \
  set(b, name, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), (double[]){__VA_ARGS__})

/* Repeatable numbers in [-1, 1). */
static void fill(Bench *b, const char *name, int64_t stream) {
  const Tensor *t = module_tensor(b->m, name);
  ck_assert_msg(t != NULL, "no tensor %s", name);
  double *v = eval_tensor(b->e, t);
  for (int64_t i = 0; i < type_elems(t->type); i++)
    v[i] = num_round(2 * (double)scalar_rand(11, 0, i, stream) - 1, t->type->dt);
}

static void run(Bench *b, const char *func) {
  ck_assert_int_eq(eval_run(b->e, module_func(b->m, func)), MPCC_OK);
}

static void expect(Bench *b, const char *name, int n, const double *want, double tolerance) {
  const double *got = tensor(b, name);
  for (int i = 0; i < n; i++)
    ck_assert_msg(got[i] == want[i] || fabs(got[i] - want[i]) <= tolerance ||
                      (isnan(got[i]) && isnan(want[i])),
                  "%s[%d] is %.17g, want %.17g", name, i, got[i], want[i]);
}
#define EXPECT(b, name, ...)                                                                       \
  expect(b, name, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)),                         \
         (double[]){__VA_ARGS__}, 0)

static void same(Bench *b, const char *x, const char *y, double tolerance) {
  expect(b, x, (int)type_elems(module_tensor(b->m, x)->type), tensor(b, y), tolerance);
}

/* d scalar tensor `of` / d tensor `wrt` by central differences equals what `grad` held. */
static void check_slope(Bench *b, const char *func, const char *of, const char *wrt,
                        const char *grad, double tolerance) {
  int64_t n = type_elems(module_tensor(b->m, wrt)->type);
  run(b, func);
  double *slope = malloc((size_t)n * sizeof *slope), *x = tensor(b, wrt);
  memcpy(slope, tensor(b, grad), (size_t)n * sizeof *slope);
  for (int64_t i = 0; i < n; i++) {
    const double h = 1e-5, keep = x[i];
    x[i] = keep + h;
    run(b, func);
    double up = *tensor(b, of);
    x[i] = keep - h;
    run(b, func);
    double down = *tensor(b, of);
    x[i] = keep;
    ck_assert_msg(fabs((up - down) / (2 * h) - slope[i]) <= tolerance,
                  "d %s / d %s[%d]: %.9g by differences, %.9g from %s", of, wrt, (int)i,
                  (up - down) / (2 * h), slope[i], grad);
  }
  free(slope);
}

START_TEST(reads_see_the_start) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @flat : f32[4] role=param\n"
                  "tensor @x : f32[2] role=param base=@flat at=0\n"
                  "tensor @y : f32[2] role=param base=@flat at=2\n"
                  "func @swap {\n"
                  "  %0:f32[2] = read {tensor=@x}\n"
                  "  write %0 {tensor=@y}\n"
                  "  %1:f32[2] = read {tensor=@y}\n"
                  "  write %1 {tensor=@x}\n"
                  "}\n",
                  false);
  SET(&b, "flat", 1, 2, 3, 4);
  run(&b, "swap");
  EXPECT(&b, "flat", 3, 4, 1, 2);
  bench_end(&b);
}
END_TEST

START_TEST(views_and_moves) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[2,3] role=input\n"
                  "tensor @t : f32[3,2] role=output\n"
                  "tensor @r : f32[6] role=output\n"
                  "tensor @s : f32[2,1] role=output\n"
                  "tensor @u : f32[2,3] role=output\n"
                  "tensor @c : f32[2,4] role=output\n"
                  "tensor @e : f32[2,3] role=output\n"
                  "func @f {\n"
                  "  %0:f32[2,3] = read {tensor=@x}\n"
                  "  %1:f32[3,2] = permute %0 {perm=[1, 0]}\n"
                  "  %2:f32[6] = reshape %0 {shape=[6]}\n"
                  "  %3:f32[2,1] = slice %0 {dim=1, end=2, start=1}\n"
                  "  %4:f32[2,3] = unslice %3 {dim=1, size=3, start=2}\n"
                  "  %5:f32[2,4] = cat %0, %3 {dim=1}\n"
                  "  %6:f32[2,3] = expand %3 {shape=[2, 3]}\n"
                  "  write %1 {tensor=@t}\n"
                  "  write %2 {tensor=@r}\n"
                  "  write %3 {tensor=@s}\n"
                  "  write %4 {tensor=@u}\n"
                  "  write %5 {tensor=@c}\n"
                  "  write %6 {tensor=@e}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2, 3, 4, 5, 6);
  run(&b, "f");
  EXPECT(&b, "t", 1, 4, 2, 5, 3, 6);
  EXPECT(&b, "r", 1, 2, 3, 4, 5, 6);
  EXPECT(&b, "s", 2, 5);
  EXPECT(&b, "u", 0, 0, 2, 0, 0, 5);
  EXPECT(&b, "c", 1, 2, 3, 2, 4, 5, 6, 5);
  EXPECT(&b, "e", 2, 2, 2, 5, 5, 5);
  bench_end(&b);
}
END_TEST

/* Every op rounds its results to storage: 1 + 2^-9 is lost in bf16 and kept in f32. */
START_TEST(results_are_rounded) {
  const char *text = "mpir 1 stage=forward\n"
                     "tensor @x : f32[2] role=input\n"
                     "tensor @lo : bf16[2] role=output\n"
                     "tensor @hi : f32[2] role=output\n"
                     "tensor @n : i64[2] role=output\n"
                     "func @f {\n"
                     "  %0:f32[2] = read {tensor=@x}\n"
                     "  %1:bf16[2] = cast %0 {to=bf16}\n"
                     "  %2:bf16[2] = add %1, %1\n"
                     "  %3:f32[2] = mul %0, %0\n"
                     "  %4:i64[2] = cast %0 {to=i64}\n"
                     "  write %2 {tensor=@lo}\n"
                     "  write %3 {tensor=@hi}\n"
                     "  write %4 {tensor=@n}\n"
                     "}\n";
  Bench b = bench(text, false);
  SET(&b, "x", 1 + 0x1p-9, -2.75);
  run(&b, "f");
  EXPECT(&b, "lo", 2, -5.5);
  EXPECT(&b, "hi", (double)(float)((1 + 0x1p-9) * (1 + 0x1p-9)), 7.5625);
  EXPECT(&b, "n", 1, -2);
  bench_end(&b);
  b = bench(text, true);
  SET(&b, "x", 1 + 0x1p-9, -2.75);
  run(&b, "f");
  EXPECT(&b, "lo", 2 + 0x1p-8, -5.5);
  bench_end(&b);
}
END_TEST

START_TEST(pointwise_broadcasts) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[2,1] role=input\n"
                  "tensor @y : f32[3] role=input\n"
                  "tensor @z : f32[2,3] role=output\n"
                  "func @f {\n"
                  "  %0:f32[2,1] = read {tensor=@x}\n"
                  "  %1:f32[3] = read {tensor=@y}\n"
                  "  %2:f32[2,3] = expr %0, %1 {body=\"a < b ? a * 10 : b\"}\n"
                  "  write %2 {tensor=@z}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2);
  SET(&b, "y", 1, 2, 3);
  run(&b, "f");
  EXPECT(&b, "z", 1, 10, 10, 1, 2, 20);
  bench_end(&b);
}
END_TEST

START_TEST(products_by_hand) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[2,3] role=input\n"
                  "tensor @w : f32[2,3] role=param\n"
                  "tensor @b : f32[2] role=param\n"
                  "tensor @y : f32[2,2] role=output\n"
                  "tensor @g : f32[3,3] role=output\n"
                  "tensor @q : f32[2,2] role=output\n"
                  "func @f {\n"
                  "  %0:f32[2,3] = read {tensor=@x}\n"
                  "  %1:f32[2,3] = read {tensor=@w}\n"
                  "  %2:f32[2] = read {tensor=@b}\n"
                  "  %3:f32[2,2] = linear %0, %1, %2\n"
                  "  %4:f32[3,3] = matmul %0, %1 {ta=true}\n"
                  "  %5:f32[2,2] = matmul %0, %1 {tb=true}\n"
                  "  write %3 {tensor=@y}\n"
                  "  write %4 {tensor=@g}\n"
                  "  write %5 {tensor=@q}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2, 3, 4, 5, 6);
  SET(&b, "w", 1, 0, -1, 2, 1, 0);
  SET(&b, "b", 10, 20);
  run(&b, "f");
  EXPECT(&b, "y", 8, 24, 8, 33);
  EXPECT(&b, "g", 9, 4, -1, 12, 5, -2, 15, 6, -3);
  EXPECT(&b, "q", -2, 4, -2, 13);
  bench_end(&b);
}
END_TEST

/* 3x3 image 1..9, 2x2 filter of ones; then stride 2 with padding 1; then two groups of channels. */
START_TEST(convolution_by_hand) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[1,1,3,3] role=input\n"
                  "tensor @w : f32[1,1,2,2] role=param\n"
                  "tensor @b : f32[1] role=param\n"
                  "tensor @y : f32[1,1,2,2] role=output\n"
                  "tensor @z : f32[1,1,2,2] role=output\n"
                  "tensor @d : f32[1,1,1,1] role=output\n"
                  "tensor @x2 : f32[1,2,1,2] role=input\n"
                  "tensor @w2 : f32[2,1,1,1] role=param\n"
                  "tensor @y2 : f32[1,2,1,2] role=output\n"
                  "func @f {\n"
                  "  %0:f32[1,1,3,3] = read {tensor=@x}\n"
                  "  %1:f32[1,1,2,2] = read {tensor=@w}\n"
                  "  %2:f32[1] = read {tensor=@b}\n"
                  "  %3:f32[1,1,2,2] = conv %0, %1, %2\n"
                  "  %4:f32[1,1,2,2] = conv %0, %1 {padding=[1, 1], stride=[2, 2]}\n"
                  "  %5:f32[1,1,1,1] = conv %0, %1 {dilation=[2, 2]}\n"
                  "  %6:f32[1,2,1,2] = read {tensor=@x2}\n"
                  "  %7:f32[2,1,1,1] = read {tensor=@w2}\n"
                  "  %8:f32[1,2,1,2] = conv %6, %7 {groups=2}\n"
                  "  write %3 {tensor=@y}\n"
                  "  write %4 {tensor=@z}\n"
                  "  write %5 {tensor=@d}\n"
                  "  write %8 {tensor=@y2}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2, 3, 4, 5, 6, 7, 8, 9);
  SET(&b, "w", 1, 1, 1, 1);
  SET(&b, "b", 0.5);
  SET(&b, "x2", 1, 2, 3, 4);
  SET(&b, "w2", 10, 100);
  run(&b, "f");
  EXPECT(&b, "y", 12.5, 16.5, 24.5, 28.5);
  EXPECT(&b, "z", 1, 5, 11, 28);
  EXPECT(&b, "d", 20);
  EXPECT(&b, "y2", 10, 20, 300, 400);
  bench_end(&b);
}
END_TEST

START_TEST(reductions) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[2,3] role=input\n"
                  "tensor @s0 : f32[3] role=output\n"
                  "tensor @s1 : f32[2,1] role=output\n"
                  "tensor @m : f32[] role=output\n"
                  "tensor @a : f32[] role=output\n"
                  "func @f {\n"
                  "  %0:f32[2,3] = read {tensor=@x}\n"
                  "  %1:f32[3] = sum %0 {dims=[0], keepdim=false}\n"
                  "  %2:f32[2,1] = sum %0 {dims=[1], keepdim=true}\n"
                  "  %3:f32[] = mean %0 {dims=[0, 1], keepdim=false}\n"
                  "  %4:f32[] = amax %0\n"
                  "  write %1 {tensor=@s0}\n"
                  "  write %2 {tensor=@s1}\n"
                  "  write %3 {tensor=@m}\n"
                  "  write %4 {tensor=@a}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2, 3, 4, 5, -9);
  run(&b, "f");
  EXPECT(&b, "s0", 5, 7, -6);
  EXPECT(&b, "s1", 6, 0);
  EXPECT(&b, "m", 1);
  EXPECT(&b, "a", 9);
  SET(&b, "x", 1, NAN, 3, 4, 5, -9);
  run(&b, "f");
  EXPECT(&b, "a", NAN);
  bench_end(&b);
}
END_TEST

START_TEST(layer_norm_slopes) {
  Bench b =
      bench("mpir 1 stage=train\n"
            "tensor @x : f32[3,2,4] role=input\n"
            "tensor @w : f32[2,4] role=param\n"
            "tensor @b : f32[2,4] role=param\n"
            "tensor @dy : f32[3,2,4] role=input\n"
            "tensor @loss : f32[] role=metric\n"
            "tensor @dx : f32[3,2,4] role=output\n"
            "tensor @dw : f32[2,4] role=output\n"
            "tensor @db : f32[2,4] role=output\n"
            "func @f {\n"
            "  %0:f32[3,2,4] = read {tensor=@x}\n"
            "  %1:f32[2,4] = read {tensor=@w}\n"
            "  %2:f32[2,4] = read {tensor=@b}\n"
            "  %3:f32[3,2,4] = read {tensor=@dy}\n"
            "  %4:f32[3,2,4], %5:f32[3], %6:f32[3] = layer_norm %0, %1, %2 {axes=2, eps=0.1}\n"
            "  %7:f32[3,2,4] = mul %4, %3\n"
            "  %8:f32[] = sum %7 {dims=[0, 1, 2], keepdim=false}\n"
            "  %9:f32[3,2,4], %10:f32[2,4], %11:f32[2,4] = layer_norm_grad %3, %0, %5, %6, %1 "
            "{axes=2}\n"
            "  write %8 {tensor=@loss}\n"
            "  write %9 {tensor=@dx}\n"
            "  write %10 {tensor=@dw}\n"
            "  write %11 {tensor=@db}\n"
            "}\n",
            true);
  fill(&b, "x", 1);
  fill(&b, "w", 2);
  fill(&b, "b", 3);
  fill(&b, "dy", 4);
  check_slope(&b, "f", "loss", "x", "dx", 1e-8);
  check_slope(&b, "f", "loss", "w", "dw", 1e-8);
  check_slope(&b, "f", "loss", "b", "db", 1e-8);
  bench_end(&b);
}
END_TEST

/* Row 1 2 3: mean 2, biased variance 2/3; eps inside the root. */
START_TEST(layer_norm_by_hand) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f32[1,3] role=input\n"
                  "tensor @y : f32[1,3] role=output\n"
                  "func @f {\n"
                  "  %0:f32[1,3] = read {tensor=@x}\n"
                  "  %1:f32[1,3], %2:f32[1], %3:f32[1] = layer_norm %0 {axes=1, eps=0.25}\n"
                  "  write %1 {tensor=@y}\n"
                  "}\n",
                  true);
  SET(&b, "x", 1, 2, 3);
  run(&b, "f");
  double y = 1 / sqrt(2.0 / 3 + 0.25);
  expect(&b, "y", 3, (double[]){-y, 0, y}, 1e-15);
  bench_end(&b);
}
END_TEST

/* exp of log 1, log 2, log 5 is 1 : 2 : 5, whatever is added. */
START_TEST(softmax_by_hand) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @x : f64[2,3] role=input\n"
                  "tensor @y : f64[2,3] role=output\n"
                  "tensor @z : f64[2,3] role=output\n"
                  "tensor @i : i64[2,3] role=output\n"
                  "func @f {\n"
                  "  %0:f64[2,3] = read {tensor=@x}\n"
                  "  %1:f64[2,3] = softmax %0\n"
                  "  %2:f64[2,3] = log_softmax %0\n"
                  "  %3:i64[2,3] = iota {dim=1, shape=[2, 3]}\n"
                  "  write %1 {tensor=@y}\n"
                  "  write %2 {tensor=@z}\n"
                  "  write %3 {tensor=@i}\n"
                  "}\n",
                  true);
  SET(&b, "x", log(1), log(2), log(5), 1000 + log(5), 1000 + log(2), 1000);
  run(&b, "f");
  expect(&b, "y", 6, (double[]){0.125, 0.25, 0.625, 0.625, 0.25, 0.125}, 1e-12);
  expect(&b, "z", 3, (double[]){log(0.125), log(0.25), log(0.625)}, 1e-12);
  EXPECT(&b, "i", 0, 1, 2, 0, 1, 2);
  bench_end(&b);
}
END_TEST

static const char attention_text[] =
    "mpir 1 stage=train\n"
    "tensor @q : f32[2,3,4] role=input\n"
    "tensor @k : f32[2,%d,4] role=input\n"
    "tensor @v : f32[2,%d,4] role=input\n"
    "tensor @do : f32[2,3,4] role=input\n"
    "tensor @seed : i64[] role=seed\n"
    "tensor @step : i64[] role=counter\n"
    "tensor @o : f32[2,3,4] role=output\n"
    "tensor @loss : f32[] role=metric\n"
    "tensor @dq : f32[2,3,4] role=output\n"
    "tensor @dk : f32[2,%d,4] role=output\n"
    "tensor @dv : f32[2,%d,4] role=output\n"
    "func @f {\n"
    "  %%0:f32[2,3,4] = read {tensor=@q}\n"
    "  %%1:f32[2,%d,4] = read {tensor=@k}\n"
    "  %%2:f32[2,%d,4] = read {tensor=@v}\n"
    "  %%3:f32[2,3,4] = read {tensor=@do}\n"
    "  %%4:i64[] = read {tensor=@seed}\n"
    "  %%5:i64[] = read {tensor=@step}\n"
    "  %%6:f32[2,3,4], %%7:f32[2,2,3] = attention %%0, %%1, %%2%s {%s}\n"
    "  %%8:f32[2,3,4], %%9:f32[2,%d,4], %%10:f32[2,%d,4] = attention_grad %%3, %%6, %%7, %%0, %%1, "
    "%%2%s {%s}\n"
    "  %%11:f32[2,3,4] = mul %%6, %%3\n"
    "  %%12:f32[] = sum %%11 {dims=[0, 1, 2], keepdim=false}\n"
    "  write %%6 {tensor=@o}\n"
    "  write %%8 {tensor=@dq}\n"
    "  write %%9 {tensor=@dk}\n"
    "  write %%10 {tensor=@dv}\n"
    "  write %%12 {tensor=@loss}\n"
    "}\n";

static void attention_slopes(int keys, bool dropout, const char *attrs) {
  char text[4096];
  const char *more = dropout ? ", %4, %5" : "";
  snprintf(text, sizeof text, attention_text, keys, keys, keys, keys, keys, keys, more, attrs, keys,
           keys, more, attrs);
  Bench b = bench(text, true);
  fill(&b, "q", 1);
  fill(&b, "k", 2);
  fill(&b, "v", 3);
  fill(&b, "do", 4);
  SET(&b, "seed", 5);
  SET(&b, "step", 6);
  check_slope(&b, "f", "loss", "q", "dq", 1e-8);
  check_slope(&b, "f", "loss", "k", "dk", 1e-8);
  check_slope(&b, "f", "loss", "v", "dv", 1e-8);
  bench_end(&b);
}

START_TEST(attention_slopes_agree) {
  attention_slopes(5, false, "causal=false, heads=2");
  attention_slopes(3, false, "causal=true, heads=2, scale=0.3");
  attention_slopes(3, true, "causal=true, dropout_p=0.4, heads=2, stream=3");
}
END_TEST

/* One head of width 1, q = k = 0: P is uniform over what is seen. */
START_TEST(causal_sees_the_past) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @z : f32[1,3,1] role=input\n"
                  "tensor @v : f32[1,3,1] role=input\n"
                  "tensor @o : f32[1,3,1] role=output\n"
                  "tensor @lse : f32[1,1,3] role=output\n"
                  "func @f {\n"
                  "  %0:f32[1,3,1] = read {tensor=@z}\n"
                  "  %1:f32[1,3,1] = read {tensor=@v}\n"
                  "  %2:f32[1,3,1], %3:f32[1,1,3] = attention %0, %0, %1 {causal=true, heads=1}\n"
                  "  write %2 {tensor=@o}\n"
                  "  write %3 {tensor=@lse}\n"
                  "}\n",
                  true);
  SET(&b, "v", 3, 5, 10);
  run(&b, "f");
  expect(&b, "o", 3, (double[]){3, 4, 6}, 1e-14);
  expect(&b, "lse", 3, (double[]){0, log(2), log(3)}, 1e-14);
  bench_end(&b);
}
END_TEST

static const char loss_text[] =
    "mpir 1 stage=forward\n"
    "tensor @x : f32[3,2,4] role=input\n"
    "tensor @t : i64[3,2] role=input\n"
    "tensor @seed : f32[] role=input\n"
    "tensor @valid : i64[] role=valid\n"
    "tensor @loss : f32[] role=metric\n"
    "tensor @scaled : f32[] role=metric\n"
    "tensor @weight : f32[] role=metric\n"
    "tensor @right : f32[] role=metric\n"
    "tensor @dx : f32[3,2,4] role=output\n"
    "func @f {\n"
    "  %0:f32[3,2,4] = read {tensor=@x}\n"
    "  %1:i64[3,2] = read {tensor=@t}\n"
    "  %2:f32[] = read {tensor=@seed}\n"
    "  %3:i64[] = read {tensor=@valid}\n"
    "  %4:f32[], %5:f32[], %6:f32[3,2,4] = cross_entropy %0, %1, %2, %3 {ignore_index=-1, "
    "label_smoothing=0.1}\n"
    "  %7:f32[] = mul %4, %2\n"
    "  %8:f32[] = accuracy %0, %1, %3 {ignore_index=-1}\n"
    "  write %4 {tensor=@loss}\n"
    "  write %5 {tensor=@weight}\n"
    "  write %6 {tensor=@dx}\n"
    "  write %7 {tensor=@scaled}\n"
    "  write %8 {tensor=@right}\n"
    "}\n";

START_TEST(cross_entropy_slopes) {
  Bench b = bench(loss_text, true);
  fill(&b, "x", 1);
  SET(&b, "t", 0, 3, -1, 2, 1, 1);
  SET(&b, "seed", 0.5);
  SET(&b, "valid", 2);
  check_slope(&b, "f", "scaled", "x", "dx", 1e-8);
  EXPECT(&b, "weight", 3); /* two samples of two rows, one ignored */
  const double *dx = tensor(&b, "dx");
  for (int i = 0; i < 24; i++) /* ignored row 2, padded rows 4 and 5 */
    ck_assert((dx[i] == 0) == (i / 4 == 2 || i / 4 >= 4));
  bench_end(&b);
}
END_TEST

/* Uniform logits: every class has probability 1/4, so the loss is log 4 whatever the smoothing. */
START_TEST(cross_entropy_by_hand) {
  Bench b = bench(loss_text, true);
  SET(&b, "seed", 2);
  SET(&b, "valid", 3);
  SET(&b, "t", 0, 0, 0, 0, 1, 2);
  run(&b, "f");
  expect(&b, "loss", 1, (double[]){6 * log(4)}, 1e-12);
  EXPECT(&b, "right", 4); /* ties go to class 0 */
  expect(&b, "dx", 4, (double[]){2 * (0.25 - 0.925), 0.45, 0.45, 0.45}, 1e-12);
  SET(&b, "x", 9, 0, 0, 0);
  run(&b, "f");
  double lse = log(exp(9) + 3), want = 0.9 * (lse - 9) + 0.025 * (4 * lse - 9) + 5 * log(4);
  expect(&b, "loss", 1, &want, 1e-12);
  bench_end(&b);
}
END_TEST

START_TEST(target_outside_is_an_error) {
  Bench b = bench(loss_text, true);
  SET(&b, "valid", 3);
  SET(&b, "t", 0, 4);
  ck_assert_int_eq(eval_run(b.e, module_func(b.m, "f")), MPCC_ERR_DATA);
  bench_end(&b);
}
END_TEST

START_TEST(quantize_saturates) {
  Bench b = bench("mpir 1 stage=typed\n"
                  "tensor @x : f32[6] role=input\n"
                  "tensor @scale : f32[] role=scale\n"
                  "tensor @q : e4m3[6] role=output\n"
                  "tensor @inv : f32[] role=output\n"
                  "tensor @amax : f32[] role=output\n"
                  "func @f {\n"
                  "  %0:f32[6] = read {tensor=@x}\n"
                  "  %1:f32[] = read {tensor=@scale}\n"
                  "  %2:e4m3[6], %3:f32[], %4:f32[] = quantize %0, %1 {to=e4m3}\n"
                  "  write %2 {tensor=@q}\n"
                  "  write %3 {tensor=@inv}\n"
                  "  write %4 {tensor=@amax}\n"
                  "}\n",
                  false);
  SET(&b, "scale", 3);
  SET(&b, "x", 0.1, -1e6, 6, 0x1p-12, 17.0 / 3, -0.0);
  run(&b, "f");
  EXPECT(&b, "q", 0.3125, -448, 18, 0, 16, -0.0);
  EXPECT(&b, "inv", (double)(1.0f / 3));
  EXPECT(&b, "amax", 1e6);
  SET(&b, "x", NAN, INFINITY);
  run(&b, "f");
  EXPECT(&b, "q", NAN, 448);
  EXPECT(&b, "amax", NAN);
  bench_end(&b);
}
END_TEST

/* 8-bit products: codes times both scale_inv. */
START_TEST(quantized_products) {
  Bench b = bench("mpir 1 stage=typed\n"
                  "tensor @x : e4m3[1,2] role=input\n"
                  "tensor @w : e4m3[2,2] role=weight\n"
                  "tensor @sx : f32[] role=input\n"
                  "tensor @sw : f32[] role=input\n"
                  "tensor @y : bf16[1,2] role=output\n"
                  "tensor @z : f32[1,2] role=output\n"
                  "func @f {\n"
                  "  %0:e4m3[1,2] = read {tensor=@x}\n"
                  "  %1:e4m3[2,2] = read {tensor=@w}\n"
                  "  %2:f32[] = read {tensor=@sx}\n"
                  "  %3:f32[] = read {tensor=@sw}\n"
                  "  %4:bf16[1,2] = qlinear %0, %1, %2, %3 {out=bf16}\n"
                  "  %5:f32[1,2] = qmatmul %0, %1, %2, %3 {out=f32}\n"
                  "  write %4 {tensor=@y}\n"
                  "  write %5 {tensor=@z}\n"
                  "}\n",
                  false);
  SET(&b, "x", 2, 3);
  SET(&b, "w", 1, 4, -2, 0.5);
  SET(&b, "sx", 0.5);
  SET(&b, "sw", 0.25);
  run(&b, "f");
  EXPECT(&b, "y", 14 * 0.125, -2.5 * 0.125);
  EXPECT(&b, "z", -4 * 0.125, 9.5 * 0.125);
  bench_end(&b);
}
END_TEST

static const char scale_text[] =
    "mpir 1 stage=step\n"
    "tensor @h : f32[1,%d] role=amax\n"
    "tensor @a : f32[1] role=input\n"
    "tensor @s : f32[1] role=scale\n"
    "func @f {\n"
    "  %%0:f32[1,%d] = read {tensor=@h}\n"
    "  %%1:f32[1] = read {tensor=@a}\n"
    "  %%2:f32[1] = read {tensor=@s}\n"
    "  %%3:f32[1,%d], %%4:f32[1] = fp8_update %%0, %%1, %%2 {algo=\"%s\", fp8_max=448.0, "
    "margin=%d}\n"
    "  write %%3 {tensor=@h}\n"
    "  write %%4 {tensor=@s}\n"
    "}\n";

static Bench scale_bench(int length, const char *algo, int margin) {
  char text[1024];
  snprintf(text, sizeof text, scale_text, length, length, length, algo, margin);
  Bench b = bench(text, false);
  SET(&b, "s", 1);
  return b;
}

/* The law's worked example (delayed scaling, e4m3, length 4): scales used in steps 2 to 7. */
START_TEST(delayed_scaling_follows_the_law) {
  static const double amax[] = {2, 8, 1, 0.5, 0.25, 0.25}, want[] = {224, 56, 56, 56, 56, 448};
  for (int margin = 0; margin < 2; margin++) {
    Bench b = scale_bench(4, "max", margin);
    for (int i = 0; i < 6; i++) {
      SET(&b, "a", amax[i]);
      run(&b, "f");
      EXPECT(&b, "s", want[i] / (1 + margin));
    }
    bench_end(&b);
  }
}
END_TEST

START_TEST(delayed_scaling_odd_amaxes) {
  Bench b = scale_bench(4, "max", 0);
  SET(&b, "a", 2);
  run(&b, "f");
  EXPECT(&b, "h", 0, 0, 0, 2);
  SET(&b, "a", 0); /* no roll, scale kept */
  run(&b, "f");
  EXPECT(&b, "h", 0, 0, 0, 2);
  EXPECT(&b, "s", 224);
  SET(&b, "a", NAN); /* rolls in, ignored by max */
  run(&b, "f");
  EXPECT(&b, "h", 0, 0, 2, NAN);
  EXPECT(&b, "s", 224);
  SET(&b, "a", INFINITY); /* keeps the scale */
  run(&b, "f");
  EXPECT(&b, "s", 224);
  bench_end(&b);
  b = scale_bench(1, "most_recent", 0);
  SET(&b, "a", 4);
  run(&b, "f");
  EXPECT(&b, "h", 0);
  EXPECT(&b, "s", 112);
  SET(&b, "a", 0x1p-140); /* an infinite scale is replaced */
  run(&b, "f");
  EXPECT(&b, "s", 0x1.fffffep127);
  bench_end(&b);
}
END_TEST

START_TEST(random_streams) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @seed : i64[] role=seed\n"
                  "tensor @step : i64[] role=counter\n"
                  "tensor @x : f32[1000] role=input\n"
                  "tensor @r : f32[1000] role=output\n"
                  "tensor @d : f32[1000] role=output\n"
                  "func @f {\n"
                  "  %0:i64[] = read {tensor=@seed}\n"
                  "  %1:i64[] = read {tensor=@step}\n"
                  "  %2:f32[1000] = read {tensor=@x}\n"
                  "  %3:f32[1000] = random %0, %1 {shape=[1000], stream=9}\n"
                  "  %4:f32[1000] = dropout %2, %0, %1 {p=0.25, stream=9}\n"
                  "  write %3 {tensor=@r}\n"
                  "  write %4 {tensor=@d}\n"
                  "}\n",
                  false);
  SET(&b, "seed", 42);
  SET(&b, "step", 7);
  for (int i = 0; i < 1000; i++)
    tensor(&b, "x")[i] = 3;
  run(&b, "f");
  int kept = 0;
  for (int i = 0; i < 1000; i++) {
    double r = tensor(&b, "r")[i];
    ck_assert(r >= 0 && r < 1 && r == (double)scalar_rand(42, 7, i, 9));
    ck_assert(tensor(&b, "d")[i] == (r >= 0.25 ? 4 : 0));
    kept += r >= 0.25;
  }
  ck_assert(kept > 690 && kept < 810); /* 750 +- 4 standard deviations */
  bench_end(&b);
}
END_TEST

START_TEST(embedding_rows) {
  Bench b = bench("mpir 1 stage=forward\n"
                  "tensor @ids : i64[2,2] role=input\n"
                  "tensor @w : f32[3,2] role=param\n"
                  "tensor @y : f32[2,2,2] role=output\n"
                  "func @f {\n"
                  "  %0:i64[2,2] = read {tensor=@ids}\n"
                  "  %1:f32[3,2] = read {tensor=@w}\n"
                  "  %2:f32[2,2,2] = embedding %0, %1\n"
                  "  write %2 {tensor=@y}\n"
                  "}\n",
                  false);
  SET(&b, "ids", 2, 0, 1, 2);
  SET(&b, "w", 1, 2, 3, 4, 5, 6);
  run(&b, "f");
  EXPECT(&b, "y", 5, 6, 1, 2, 3, 4, 5, 6);
  SET(&b, "ids", 3);
  ck_assert_int_eq(eval_run(b.e, module_func(b.m, "f")), MPCC_ERR_DATA);
  bench_end(&b);
}
END_TEST

/* ---- groups ---------------------------------------------------------------------------------- */

/* Rows 5 x 3 in panels of 2: row sums, column sums per panel, sums and maxima per panel. */
START_TEST(rows_levels) {
  Bench b = bench("mpir 1 stage=kernels\n"
                  "tensor @x : f32[5,3] role=input\n"
                  "tensor @y : bf16[5,3] role=output\n"
                  "tensor @r : f32[5] role=output\n"
                  "tensor @c : f32[3,3] role=output\n"
                  "tensor @a : f32[3] role=output\n"
                  "tensor @m : f32[3] role=output\n"
                  "func @f {\n"
                  "  %0:f32[5,3] = read {tensor=@x}\n"
                  "  %1:bf16[5,3], %2:f32[5], %3:f32[3,3], %4:f32[3], %5:f32[3] = group %0 "
                  "{kind=\"rows\"} [\n"
                  "    dim 5 3 cols 1 panel 2\n"
                  "    in 0: 0 + 3 1\n"
                  "    out 0: 0 + 3 1\n"
                  "    out 1: 0 + 1 0\n"
                  "    out 2: 0 + 3 1\n"
                  "    out 3: 0 + 1 0\n"
                  "    out 4: 0 + 1 0\n"
                  "    param 100\n"
                  "    s0:f32 elem = load 0\n"
                  "    s1:f32 row = rsum s0\n"
                  "    s2:i64 all = param 0\n"
                  "    s3:f32 all = cvt s2\n"
                  "    s4:f32 row = add s1, s3\n"
                  "    s5:f32 elem = sub s0, s4\n"
                  "    store 0 s5\n"
                  "    store 1 s4\n"
                  "    s8:f32 col = csum s0\n"
                  "    store 2 s8\n"
                  "    s10:f32 all = asum s1\n"
                  "    store 3 s10\n"
                  "    s12:f32 all = amax s0\n"
                  "    store 4 s12\n"
                  "  ]\n"
                  "  write %1 {tensor=@y}\n"
                  "  write %2 {tensor=@r}\n"
                  "  write %3 {tensor=@c}\n"
                  "  write %4 {tensor=@a}\n"
                  "  write %5 {tensor=@m}\n"
                  "}\n",
                  false);
  SET(&b, "x", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, -1, -2, -3);
  run(&b, "f");
  EXPECT(&b, "r", 106, 115, 124, 133, 94);
  EXPECT(&b, "y", -105, -104, -103, -111, -110, -109, -117, -116, -115, -123, -122, -121, -95, -96,
         -97);
  EXPECT(&b, "c", 5, 7, 9, 17, 19, 21, -1, -2, -3);
  EXPECT(&b, "a", 21, 57, -6);
  EXPECT(&b, "m", 6, 12, -1);
  bench_end(&b);
}
END_TEST

/* linear as pack and product, for sizes that fill no panel, against the op. */
START_TEST(product_equals_linear) {
  Bench op = bench("mpir 1 stage=forward\n"
                   "tensor @x : bf16[3,5] role=input\n"
                   "tensor @w : bf16[7,5] role=param\n"
                   "tensor @b : bf16[7] role=param\n"
                   "tensor @y : bf16[3,7] role=output\n"
                   "func @f {\n"
                   "  %0:bf16[3,5] = read {tensor=@x}\n"
                   "  %1:bf16[7,5] = read {tensor=@w}\n"
                   "  %2:bf16[7] = read {tensor=@b}\n"
                   "  %3:bf16[3,7] = linear %0, %1, %2\n"
                   "  write %3 {tensor=@y}\n"
                   "}\n",
                   false);
  Bench group = bench("mpir 1 stage=kernels\n"
                      "tensor @x : bf16[3,5] role=input\n"
                      "tensor @w : bf16[7,5] role=param\n"
                      "tensor @b : bf16[7] role=param\n"
                      "tensor @y : bf16[3,7] role=output\n"
                      "func @f {\n"
                      "  %0:bf16[3,5] = read {tensor=@x}\n"
                      "  %1:bf16[7,5] = read {tensor=@w}\n"
                      "  %2:bf16[7] = read {tensor=@b}\n"
                      "  %3:bf16[2,3,4,2] = group %1 {compute=bf16, kind=\"pack\"} [\n"
                      "    dim 7 5 cols 1 panel 0\n"
                      "    in 0: 0 + 5 1\n"
                      "    out 0: 0 + 0 0\n"
                      "  ]\n"
                      "  %4:bf16[3,7] = group %0, %3, %2 {compute=bf16, k=5, kind=\"product\"} [\n"
                      "    dim 3 7 cols 1 panel 0\n"
                      "    in 0: 0 + 5 1\n"
                      "    in 1: 0 + 0 0\n"
                      "    in 2: 0 + 0 1\n"
                      "    out 0: 0 + 7 1\n"
                      "    s0:f32 elem = acc\n"
                      "    s1:f32 elem = load 2\n"
                      "    s2:f32 elem = add s0, s1\n"
                      "    store 0 s2\n"
                      "  ]\n"
                      "  write %4 {tensor=@y}\n"
                      "}\n",
                      false);
  const char *const names[] = {"x", "w", "b"};
  for (int i = 0; i < 3; i++) {
    fill(&op, names[i], i);
    fill(&group, names[i], i);
  }
  run(&op, "f");
  run(&group, "f");
  expect(&group, "y", 21, tensor(&op, "y"), 0);
  bench_end(&op);
  bench_end(&group);
}
END_TEST

/* The attention group reads heads out of one [N, T, 3 H D] operand through its accesses. */
START_TEST(attention_group_equals_op) {
  Bench op = bench("mpir 1 stage=forward\n"
                   "tensor @x : f32[2,3,12] role=input\n"
                   "tensor @o : f32[2,3,4] role=output\n"
                   "tensor @lse : f32[2,2,3] role=output\n"
                   "tensor @seed : i64[] role=seed\n"
                   "func @f {\n"
                   "  %0:f32[2,3,12] = read {tensor=@x}\n"
                   "  %1:f32[2,3,4] = slice %0 {dim=2, end=4, start=0}\n"
                   "  %2:f32[2,3,4] = slice %0 {dim=2, end=8, start=4}\n"
                   "  %3:f32[2,3,4] = slice %0 {dim=2, end=12, start=8}\n"
                   "  %4:i64[] = read {tensor=@seed}\n"
                   "  %5:f32[2,3,4], %6:f32[2,2,3] = attention %1, %2, %3, %4, %4 {causal=true, "
                   "dropout_p=0.5, heads=2, stream=8}\n"
                   "  write %5 {tensor=@o}\n"
                   "  write %6 {tensor=@lse}\n"
                   "}\n",
                   false);
  Bench group =
      bench("mpir 1 stage=kernels\n"
            "tensor @x : f32[2,3,12] role=input\n"
            "tensor @o : f32[2,3,4] role=output\n"
            "tensor @lse : f32[2,2,3] role=output\n"
            "tensor @seed : i64[] role=seed\n"
            "func @f {\n"
            "  %0:f32[2,3,12] = read {tensor=@x}\n"
            "  %1:i64[] = read {tensor=@seed}\n"
            "  %2:f32[2,3,4], %3:f32[2,2,3] = group %0, %0, %0, %1, %1 {causal=true, "
            "dropout_p=0.5, keys=3, kind=\"attention\", round=f32, scale=0.7071067811865475} [\n"
            "    dim 2 2 3 2 cols 1 panel 0\n"
            "    in 0: 0 + 36 2 12 1\n"
            "    in 1: 4 + 36 2 12 1\n"
            "    in 2: 8 + 36 2 12 1\n"
            "    in 3: 0 + 0 0 0 0\n"
            "    in 4: 0 + 0 0 0 0\n"
            "    out 0: 0 + 12 2 4 1\n"
            "    out 1: 0 + 6 3 1 0\n"
            "    param 8\n"
            "  ]\n"
            "  write %2 {tensor=@o}\n"
            "  write %3 {tensor=@lse}\n"
            "}\n",
            false);
  fill(&op, "x", 1);
  fill(&group, "x", 1);
  SET(&op, "seed", 3);
  SET(&group, "seed", 3);
  run(&op, "f");
  run(&group, "f");
  expect(&group, "o", 24, tensor(&op, "o"), 0);
  expect(&group, "lse", 12, tensor(&op, "lse"), 0);
  bench_end(&op);
  bench_end(&group);
}
END_TEST

START_TEST(index_and_move_groups) {
  Bench b =
      bench("mpir 1 stage=kernels\n"
            "tensor @ids : i64[3] role=input\n"
            "tensor @w : f32[4,2] role=param\n"
            "tensor @y : f32[3,2] role=output\n"
            "tensor @z : f32[3,5] role=output\n"
            "func @f {\n"
            "  %0:i64[3] = read {tensor=@ids}\n"
            "  %1:f32[4,2] = read {tensor=@w}\n"
            "  %2:f32[3,2] = group %0, %1 {kind=\"index\", row_stride=2} [\n"
            "    dim 3 2 cols 1 panel 1\n"
            "    in 0: 0 + 1 0\n"
            "    in 1: 0 + 0 1\n"
            "    out 0: 0 + 2 1\n"
            "  ]\n"
            "  %3:f32[3,5] = group %2, %2 {axis=1, kind=\"move\", sizes=[2, 1], starts=[0, 3], "
            "zero=true} [\n"
            "    dim 3 5 cols 1 panel 1\n"
            "    in 0: 0 + 2 1\n"
            "    in 1: 1 + 2 1\n"
            "    out 0: 0 + 5 1\n"
            "  ]\n"
            "  write %2 {tensor=@y}\n"
            "  write %3 {tensor=@z}\n"
            "}\n",
            false);
  SET(&b, "ids", 3, 0, 2);
  SET(&b, "w", 1, 2, 3, 4, 5, 6, 7, 8);
  run(&b, "f");
  EXPECT(&b, "y", 7, 8, 1, 2, 5, 6);
  EXPECT(&b, "z", 7, 8, 0, 8, 0, 1, 2, 0, 2, 0, 5, 6, 0, 6, 0);
  bench_end(&b);
}
END_TEST

/* Every elementwise row of the table evaluates to what its body says. */
START_TEST(scalar_rows_run) {
  static const double x[] = {-1.5, 0.75}, y[] = {0.5, -2};
  for (int i = 0; i < OP_COUNT; i++) {
    const OpInfo *info = op_info((OpCode)i);
    char text[1600];
    if (!info->body)
      continue;
    snprintf(text, sizeof text,
             "mpir 1 stage=forward\n"
             "tensor @x : f64[2] role=input\n"
             "tensor @y : f64[2] role=input\n"
             "tensor @z : f64[2] role=output\n"
             "tensor @u : f64[2] role=output\n"
             "func @f {\n"
             "  %%0:f64[2] = read {tensor=@x}\n"
             "  %%1:f64[2] = read {tensor=@y}\n"
             "  %%2:f64[2] = %s %%0%s\n"
             "  %%3:f64[2] = expr %%0, %%1, %%0 {body=\"%s\"}\n"
             "  write %%2 {tensor=@z}\n"
             "  write %%3 {tensor=@u}\n"
             "}\n",
             info->name, info->nin > 2 ? ", %1, %0" : info->nin > 1 ? ", %1" : "", info->body);
    Bench b = bench(text, false);
    set(&b, "x", 2, x);
    set(&b, "y", 2, y);
    run(&b, "f");
    same(&b, "z", "u", 0);
    bench_end(&b);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("eval");
  TCase *ops = tcase_create("ops"), *groups = tcase_create("groups");
  tcase_add_test(ops, reads_see_the_start);
  tcase_add_test(ops, views_and_moves);
  tcase_add_test(ops, results_are_rounded);
  tcase_add_test(ops, pointwise_broadcasts);
  tcase_add_test(ops, scalar_rows_run);
  tcase_add_test(ops, products_by_hand);
  tcase_add_test(ops, convolution_by_hand);
  tcase_add_test(ops, reductions);
  tcase_add_test(ops, layer_norm_slopes);
  tcase_add_test(ops, layer_norm_by_hand);
  tcase_add_test(ops, softmax_by_hand);
  tcase_add_test(ops, attention_slopes_agree);
  tcase_add_test(ops, causal_sees_the_past);
  tcase_add_test(ops, cross_entropy_slopes);
  tcase_add_test(ops, cross_entropy_by_hand);
  tcase_add_test(ops, target_outside_is_an_error);
  tcase_add_test(ops, quantize_saturates);
  tcase_add_test(ops, quantized_products);
  tcase_add_test(ops, delayed_scaling_follows_the_law);
  tcase_add_test(ops, delayed_scaling_odd_amaxes);
  tcase_add_test(ops, random_streams);
  tcase_add_test(ops, embedding_rows);
  tcase_add_test(groups, rows_levels);
  tcase_add_test(groups, product_equals_linear);
  tcase_add_test(groups, attention_group_equals_op);
  tcase_add_test(groups, index_and_move_groups);
  suite_add_tcase(s, ops);
  suite_add_tcase(s, groups);
  return check_run(s);
}
