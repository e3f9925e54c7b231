/* chunk: a loss in parts of the batch gives the numbers of the whole; what keeps logits whole. */
#include "pass_check.h"
#include "tests/check_run.h"

/* 6 samples of 2 places, 5 features, 7 classes: 336 bytes of logits in f32, 168 in 16 bits. */
#define HEAD                                                                                       \
  "mpir 1 stage=step\n"                                                                            \
  "tensor @h : f32[6,2,5] role=input\ntensor @t : i64[6,2] role=input\n"                           \
  "tensor @w : f32[7,5] role=param\ntensor @b : f32[7] role=param\n"                               \
  "tensor @k : f32[7] role=input\n"                                                                \
  "tensor @seed : f32[] role=input\ntensor @valid : i64[] role=valid\n"                            \
  "tensor @loss : f32[] role=metric\ntensor @weight : f32[] role=metric\n"                         \
  "tensor @acc : f32[] role=metric\ntensor @dh : f32[6,2,5] role=output\n"                         \
  "tensor @dw : f32[7,5] role=output\ntensor @db : f32[7] role=output\n"                           \
  "tensor @y : f32[6,2,7] role=output\n"                                                           \
  "func @f {\n"                                                                                    \
  "  %0:f32[6,2,5] = read {tensor=@h}\n  %1:i64[6,2] = read {tensor=@t}\n"                         \
  "  %2:f32[7,5] = read {tensor=@w}\n  %3:f32[7] = read {tensor=@b}\n"                             \
  "  %4:f32[] = read {tensor=@seed}\n  %5:i64[] = read {tensor=@valid}\n"                          \
  "  %6:f32[7] = read {tensor=@k}\n"
#define LOSS "  %8:f32[], %9:f32[], %10:f32[6,2,7] = cross_entropy %7, %1, %4, %5"
#define TRAIN                                                                                      \
  "  %11:f32[] = loss %8, %4\n"                                                                    \
  "  %12:f32[12,7] = reshape %10 {shape=[12, 7]}\n"                                                \
  "  %13:f32[12,5] = matmul %12, %2 {out=f32, ta=false, tb=false}\n"                               \
  "  %14:f32[6,2,5] = reshape %13 {shape=[6, 2, 5]}\n"                                             \
  "  %15:f32[12,5] = reshape %0 {shape=[12, 5]}\n"                                                 \
  "  %16:f32[7,5] = matmul %12, %15 {out=f32, ta=true, tb=false}\n"                                \
  "  write %11 {tensor=@loss}\n  write %9 {tensor=@weight}\n"                                      \
  "  write %14 {tensor=@dh}\n  write %16 {tensor=@dw}\n"

static const struct {
  const char *name;
  int64_t bytes; /* of logits that stay whole */
  int linears;   /* parts */
  const char *text;
} cases[] = {
    {"in_three_parts", 112, 3, HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n" TRAIN "}\n"},
    {"in_whole_samples", 1, 6, HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n" TRAIN "}\n"},
    {"not_what_fits", 336, 1, HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n" TRAIN "}\n"},
    {"with_bias_weights_smoothing_and_metric", 168, 2,
     HEAD "  %7:f32[6,2,7] = linear %0, %2, %3\n" LOSS
          ", %6 {ignore_index=3, label_smoothing=0.1}\n" TRAIN "  %17:f32[7] = sum %12 {dims=[0]}\n"
          "  %18:f32[] = accuracy %7, %1, %5 {ignore_index=3}\n"
          "  write %17 {tensor=@db}\n  write %18 {tensor=@acc}\n}\n"},
    {"in_16_bits", 84, 2,
     HEAD "  %7:bf16[6,2,5] = cast %0 {to=bf16}\n"
          "  %8:bf16[7,5] = cast %2 {to=bf16}\n"
          "  %9:bf16[6,2,7] = linear %7, %8\n"
          "  %10:f32[6,2,7] = cast %9 {to=f32}\n"
          "  %11:f32[], %12:f32[], %13:f32[6,2,7] = cross_entropy %10, %1, %4, %5\n"
          "  %14:f32[] = loss %11, %4\n"
          "  %15:bf16[6,2,7] = cast %13 {to=bf16}\n"
          "  %16:bf16[12,7] = reshape %15 {shape=[12, 7]}\n"
          "  %17:bf16[12,5] = matmul %16, %8 {out=bf16, ta=false, tb=false}\n"
          "  %18:bf16[12,5] = reshape %7 {shape=[12, 5]}\n"
          "  %19:bf16[7,5] = matmul %16, %18 {out=bf16, ta=true, tb=false}\n"
          "  %20:f32[12,5] = cast %17 {to=f32}\n"
          "  %21:f32[6,2,5] = reshape %20 {shape=[6, 2, 5]}\n"
          "  %22:f32[7,5] = cast %19 {to=f32}\n"
          "  write %14 {tensor=@loss}\n  write %21 {tensor=@dh}\n  write %22 {tensor=@dw}\n}\n"},
    {"an_evaluation", 112, 3,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS
          "\n  write %8 {tensor=@loss}\n  write %9 {tensor=@weight}\n}\n"},
    {"a_wider_copy_that_is_returned", 84, 2,
     HEAD "  %7:bf16[6,2,5] = cast %0 {to=bf16}\n"
          "  %8:bf16[7,5] = cast %2 {to=bf16}\n"
          "  %9:bf16[6,2,7] = linear %7, %8\n"
          "  %10:f32[6,2,7] = cast %9 {to=f32}\n"
          "  write %10 {tensor=@y}\n}\n"},
    {"not_what_is_returned_itself", 112, 1,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS
          "\n  write %8 {tensor=@loss}\n  write %7 {tensor=@y}\n}\n"},
    {"not_what_something_else_reads", 112, 1,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n" TRAIN
          "  %17:f32[6,2,7] = relu %7\n  write %17 {tensor=@y}\n}\n"},
    {"not_what_a_sum_scales", 112, 1,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n"
          "  %11:f32[], %12:f32[], %13:f32[6,2,7] = cross_entropy %7, %1, %8, %5\n"
          "  write %8 {tensor=@loss}\n  write %12 {tensor=@weight}\n"
          "  write %11 {tensor=@acc}\n}\n"},
    {"not_what_reads_what_a_sum_scales", 112, 1,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n" LOSS "\n"
          "  %11:f32[7,5] = mul %2, %8\n"
          "  %12:f32[12,7] = reshape %10 {shape=[12, 7]}\n"
          "  %13:f32[12,5] = matmul %12, %11 {out=f32, ta=false, tb=false}\n"
          "  %14:f32[6,2,5] = reshape %13 {shape=[6, 2, 5]}\n"
          "  write %8 {tensor=@loss}\n  write %14 {tensor=@dh}\n}\n"},
    {"not_a_layer_without_a_loss", 112, 1,
     HEAD "  %7:f32[6,2,7] = linear %0, %2\n"
          "  %8:f32[12,7] = reshape %7 {shape=[12, 7]}\n"
          "  %9:f32[12,5] = matmul %8, %2 {out=f32, ta=false, tb=false}\n"
          "  %10:f32[6,2,5] = reshape %9 {shape=[6, 2, 5]}\n"
          "  write %10 {tensor=@dh}\n}\n"},
};

START_TEST(parts) {
  World w = world_create();
  Module *m = world_parse(&w, cases[_i].text);
  PassOpts o = {.caps = &test_caps, .opt_level = 2, .logits_bytes = cases[_i].bytes};
  Module *c = world_pass(&w, pass_chunk, STAGE_STEP, m, o);
  int linears = 0;
  int64_t most = 0;
  for (int i = 0; i < c->func[0]->nop; i++) {
    const Op *op = c->func[0]->op[i];
    linears += op->code == OP_linear;
    if (op->code == OP_linear && type_bytes(op->out[0]->type) > most)
      most = type_bytes(op->out[0]->type);
  }
  ck_assert_msg(linears == cases[_i].linears, "%s: %d", cases[_i].name, linears);
  ck_assert_msg(linears == 1 || linears == 6 || most <= cases[_i].bytes, "%s: %lld bytes",
                cases[_i].name, (long long)most);
  check_equal(m, c, strstr(cases[_i].text, "bf16") ? 0x1p-7 : 1e-6);
  Module *s = world_pass(&w, pass_save, STAGE_SAVED, c, o);
  Module *k = world_pass(&w, pass_fuse, STAGE_KERNELS, s, o);
  Module *p = world_pass(&w, pass_plan, STAGE_PLANNED, k, o);
  check_equal(m, k, strstr(cases[_i].text, "bf16") ? 0x1p-7 : 2e-6);
  module_destroy(m);
  module_destroy(c);
  module_destroy(s);
  module_destroy(k);
  module_destroy(p);
  world_destroy(&w);
}
END_TEST

int main(void) {
  Suite *s = suite_create("chunk");
  TCase *t = tcase_create("chunk");
  tcase_add_loop_test(t, parts, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  return check_run(s);
}
