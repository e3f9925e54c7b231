/* save: what is computed again, what is stored, and that results stay what they were. */
#include "pass_check.h"
#include "tests/check_run.h"

#define HEAD                                                                                       \
  "mpir 1 stage=step\n"                                                                            \
  "tensor @x : f32[8,16] role=input\ntensor @t : i64[8] role=input\n"                              \
  "tensor @w : f32[16,16] role=param\ntensor @b : f32[16] role=param\n"                            \
  "tensor @seed : f32[] role=input\n"                                                              \
  "tensor @valid : i64[] role=valid\ntensor @loss : f32[] role=metric\n"                           \
  "tensor @dx : f32[8,16] role=output\ntensor @dw : f32[16,16] role=output\n"                      \
  "func @f {\n"                                                                                    \
  "  %0:f32[8,16] = read {tensor=@x}\n"                                                            \
  "  %1:f32[16,16] = read {tensor=@w}\n"                                                           \
  "  %2:f32[16] = read {tensor=@b}\n"                                                              \
  "  %3:i64[8] = read {tensor=@t}\n"                                                               \
  "  %4:i64[] = read {tensor=@valid}\n"                                                            \
  "  %5:f32[] = read {tensor=@seed}\n"                                                             \
  "  %6:f32[8,16] = linear %0, %1, %2\n"

#define BRANCH                                                                                     \
  HEAD "  %7:bf16[8,16] = cast %0 {to=bf16}\n"                                                     \
       "  %8:bf16[16,16] = cast %1 {to=bf16}\n"                                                    \
       "  %9:bf16[8,16] = linear %7, %8\n"                                                         \
       "  %10:f32[8,16] = cast %9 {to=f32}\n"                                                      \
       "  %11:f32[8,16] = add %6, %10\n"                                                           \
       "  %12:f32[8,16], %13:f32[8], %14:f32[8] = layer_norm %11, %2 {axes=1, eps=1e-05}\n"        \
       "  %15:f32[], %16:f32[], %17:f32[8,16] = cross_entropy %12, %3, %5, %4\n"                   \
       "  %18:f32[8,16], %19:f32[16], %20:f32[16] = layer_norm_grad %17, %11, %13, %14, %2 "       \
       "{axes=1, eps=1e-05}\n"

static const struct {
  const char *name;
  int again;
  const char *text;
  bool library; /* makes products */
} cases[] = {
    {"a_mask_of_a_stored_value_is_computed_again", 1,
     HEAD "  %7:f32[8,16] = expr %6 {body=\"a > 0 ? 1 : 0\", dtype=f32}\n"
          "  %8:f32[8,16] = mul %6, %7\n"
          "  %9:f32[], %10:f32[], %11:f32[8,16] = cross_entropy %8, %3, %5, %4\n"
          "  %12:f32[8,16] = mul %11, %7\n"
          "  %13:f32[8,16] = mul %12, %6\n"
          "  write %9 {tensor=@loss}\n  write %13 {tensor=@dx}\n}\n"},
    {"not_when_its_operand_would_have_to_live_for_it", 0,
     HEAD "  %7:f32[8,16] = expr %6 {body=\"a > 0 ? 1 : 0\", dtype=f32}\n"
          "  %8:f32[8,16] = mul %6, %7\n"
          "  %9:f32[], %10:f32[], %11:f32[8,16] = cross_entropy %8, %3, %5, %4\n"
          "  %12:f32[8,16] = mul %11, %7\n"
          "  write %9 {tensor=@loss}\n  write %12 {tensor=@dx}\n}\n"},
    {"not_what_is_expensive", 0,
     HEAD "  %7:f32[8,16] = gelu %0\n"
          "  %8:f32[8,16] = mul %6, %7\n"
          "  %9:f32[], %10:f32[], %11:f32[8,16] = cross_entropy %8, %3, %5, %4\n"
          "  %12:f32[8,16] = mul %11, %7\n"
          "  write %9 {tensor=@loss}\n  write %12 {tensor=@dx}\n}\n"},
    {"what_a_product_reads_by_a_kernel_of_its_own", 1,
     HEAD "  %7:f32[8,16] = gelu %0\n"
          "  %8:f32[8,16] = mul %6, %7\n"
          "  %9:f32[], %10:f32[], %11:f32[8,16] = cross_entropy %8, %3, %5, %4\n"
          "  %12:f32[16,16] = matmul %11, %7 {ta=true, tb=false}\n"
          "  write %9 {tensor=@loss}\n  write %12 {tensor=@dw}\n}\n"},
    {"not_what_read_an_operand_before_it_was_rounded", 0,
     HEAD "  %7:bf16[8,16] = cast %6 {to=bf16}\n"
          "  %8:bf16[8,16] = gelu %7\n"
          "  %9:f32[8,16] = cast %8 {to=f32}\n"
          "  %10:f32[], %11:f32[], %12:f32[8,16] = cross_entropy %9, %3, %5, %4\n"
          "  %13:bf16[8,16] = cast %12 {to=bf16}\n"
          "  %14:f32[16,16] = matmul %13, %8 {out=f32, ta=true, tb=false}\n"
          "  %15:f32[8,16] = cast %7 {to=f32}\n"
          "  %16:f32[8,16] = mul %12, %15\n"
          "  write %10 {tensor=@loss}\n  write %14 {tensor=@dw}\n  write %16 {tensor=@dx}\n}\n"},
    {"one_copy_serves_all_of_backward_and_copies_come_of_copies", 2,
     HEAD "  %7:f32[8,16] = relu %0\n"
          "  %8:f32[8,16] = neg %7\n"
          "  %9:f32[8,16] = mul %6, %8\n"
          "  %10:f32[], %11:f32[], %12:f32[8,16] = cross_entropy %9, %3, %5, %4\n"
          "  %13:f32[8,16] = mul %12, %7\n"
          "  %14:f32[8,16] = mul %13, %8\n"
          "  %15:f32[8,16] = add %14, %7\n"
          "  write %10 {tensor=@loss}\n  write %15 {tensor=@dx}\n}\n"},
    {"but_not_of_many", 4,
     HEAD "  %7:f32[8,16] = relu %0\n"
          "  %8:f32[8,16] = neg %7\n"
          "  %9:f32[8,16] = relu %8\n"
          "  %10:f32[8,16] = neg %9\n"
          "  %11:f32[8,16] = relu %10\n"
          "  %12:f32[8,16] = mul %6, %11\n"
          "  %13:f32[], %14:f32[], %15:f32[8,16] = cross_entropy %12, %3, %5, %4\n"
          "  %16:f32[8,16] = mul %15, %7\n"
          "  %17:f32[8,16] = mul %16, %8\n"
          "  %18:f32[8,16] = mul %17, %9\n"
          "  %19:f32[8,16] = mul %18, %10\n"
          "  %20:f32[8,16] = mul %19, %11\n"
          "  write %13 {tensor=@loss}\n  write %20 {tensor=@dx}\n}\n"},
    {"a_norm_before_a_product_with_its_cast", 2,
     HEAD "  %7:f32[8,16], %8:f32[8], %9:f32[8] = layer_norm %6, %2 {axes=1, eps=1e-05}\n"
          "  %10:bf16[8,16] = cast %7 {to=bf16}\n"
          "  %11:f32[8,16] = cast %10 {to=f32}\n"
          "  %12:f32[], %13:f32[], %14:f32[8,16] = cross_entropy %11, %3, %5, %4\n"
          "  %15:bf16[8,16] = cast %14 {to=bf16}\n"
          "  %16:f32[16,16] = matmul %15, %10 {out=f32, ta=true, tb=false}\n"
          "  %17:f32[8,16], %18:f32[16], %19:f32[16] = layer_norm_grad %14, %6, %8, %9, %2 "
          "{axes=1, eps=1e-05}\n"
          "  write %12 {tensor=@loss}\n  write %16 {tensor=@dw}\n  write %17 {tensor=@dx}\n}\n"},
    {"the_branch_lives_in_place_of_the_sum", 2,
     BRANCH "  %21:f32[8,16] = mul %18, %6\n"
            "  write %15 {tensor=@loss}\n  write %21 {tensor=@dx}\n}\n",
     true},
    {"not_where_a_kernel_adds_it_before_it_is_rounded", 0,
     BRANCH "  %21:f32[8,16] = mul %18, %6\n"
            "  write %15 {tensor=@loss}\n  write %21 {tensor=@dx}\n}\n"},
    {"not_where_the_rest_would_have_to_live_too", 0,
     BRANCH "  write %15 {tensor=@loss}\n  write %18 {tensor=@dx}\n}\n", true},
    {"not_a_norm_whose_statistics_backward_lacks", 0,
     HEAD "  %7:f32[8,16], %8:f32[8] = rms_norm %6, %2 {axes=1, eps=1e-05}\n"
          "  %9:f32[], %10:f32[], %11:f32[8,16] = cross_entropy %7, %3, %5, %4\n"
          "  %12:f32[16,16] = matmul %11, %7 {ta=true, tb=false}\n"
          "  %13:f32[8,16] = mul %11, %6\n"
          "  write %9 {tensor=@loss}\n  write %12 {tensor=@dw}\n  write %13 {tensor=@dx}\n}\n"},
    {"a_norm_of_a_sum_that_is_rounded_first", 1,
     HEAD "  %7:bf16[8,16] = cast %6 {to=bf16}\n"
          "  %8:bf16[8,16] = add %7, %7\n"
          "  %9:bf16[8,16], %10:f32[8], %11:f32[8] = layer_norm %8 {axes=1, eps=1e-05}\n"
          "  %12:f32[8,16] = cast %9 {to=f32}\n"
          "  %13:f32[], %14:f32[], %15:f32[8,16] = cross_entropy %12, %3, %5, %4\n"
          "  %16:bf16[8,16] = cast %15 {to=bf16}\n"
          "  %17:f32[16,16] = matmul %16, %9 {out=f32, ta=true, tb=false}\n"
          "  %18:bf16[8,16] = layer_norm_grad %16, %8, %10, %11 {axes=1, eps=1e-05}\n"
          "  %19:f32[8,16] = cast %18 {to=f32}\n"
          "  write %13 {tensor=@loss}\n  write %17 {tensor=@dw}\n  write %19 {tensor=@dx}\n}\n"},
    {"not_a_norm_of_what_it_read_before_it_was_rounded", 0,
     HEAD "  %7:bf16[8,16] = cast %6 {to=bf16}\n"
          "  %8:f32[8,16] = cast %7 {to=f32}\n"
          "  %9:f32[8,16], %10:f32[8], %11:f32[8] = layer_norm %8, %2 {axes=1, eps=1e-05}\n"
          "  %12:f32[], %13:f32[], %14:f32[8,16] = cross_entropy %9, %3, %5, %4\n"
          "  %15:f32[16,16] = matmul %14, %9 {ta=true, tb=false}\n"
          "  %16:f32[8,16], %17:f32[16], %18:f32[16] = layer_norm_grad %14, %8, %10, %11, %2 "
          "{axes=1, eps=1e-05}\n"
          "  write %12 {tensor=@loss}\n  write %15 {tensor=@dw}\n  write %16 {tensor=@dx}\n}\n"},
};

START_TEST(decides) {
  World w = world_create();
  Module *m = world_parse(&w, cases[_i].text);
  TargetCaps caps = test_caps;
  caps.library_products = cases[_i].library;
  PassOpts o = {.caps = &caps};
  Module *s = world_pass(&w, pass_save, STAGE_SAVED, m, o);
  int again = 0, loss = 0;
  for (int i = 0; i < s->func[0]->nop; i++) {
    const Op *op = s->func[0]->op[i];
    if (op->code == OP_cross_entropy)
      loss = i;
    if (op_int(op, "recompute", 0)) {
      again++;
      ck_assert_msg(loss > 0, "computed again before backward");
    }
  }
  ck_assert_msg(again == cases[_i].again, "%s: %d computed again", cases[_i].name, again);
  check_equal(m, s, 0);
  PassOpts f = {&test_caps, true, false, 2};
  Module *k = world_pass(&w, pass_fuse, STAGE_KERNELS, s, f);
  check_equal(m, k, 2e-6);
  /* Fusing does not bring it back: the product stores what its op and cross_entropy need. */
  for (int i = 0; i < k->func[0]->nop; i++)
    if (!strcmp(op_str(k->func[0]->op[i], "kind", ""), "product") && cases[_i].again)
      ck_assert_int_le(k->func[0]->op[i]->nout, 2);
  module_destroy(m);
  module_destroy(s);
  module_destroy(k);
  world_destroy(&w);
}
END_TEST

int main(void) {
  Suite *s = suite_create("save");
  TCase *t = tcase_create("save");
  tcase_add_loop_test(t, decides, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  return check_run(s);
}
