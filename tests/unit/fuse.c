/* fuse: the module before and after give equal results, in fused and in strict numerics, and the
 * number of groups is what fusing promises. */
#include "frontend/frontend.h"
#include "pass_check.h"
#include "tests/check_run.h"

typedef struct {
  const char *name;
  int rows, products; /* groups expected: kind rows; kind product */
  const char *text;
} Case;

#define TENSORS(list) "mpir 1 stage=saved\n" list

static const Case cases[] = {
    {"pointwise_chain_is_one_group", 1, 0,
     TENSORS(
         "tensor @x : f32[8,16] role=input\ntensor @y : f32[8,16] role=output\n") "func @f {\n"
                                                                                  "  %0:f32[8,16] "
                                                                                  "= read "
                                                                                  "{tensor=@x}\n"
                                                                                  "  %1:f32[8,16] "
                                                                                  "= gelu %0\n"
                                                                                  "  %2:f32[8,16] "
                                                                                  "= add %1, %0\n"
                                                                                  "  %3:f32[8,16] "
                                                                                  "= relu %2\n"
                                                                                  "  write %3 "
                                                                                  "{tensor=@y}\n}"
                                                                                  "\n"},
    {"linear_takes_bias_gelu_and_residual", 0, 1,
     TENSORS("tensor @x : f32[2,3,16] role=input\ntensor @w : f32[16,16] role=param\n"
             "tensor @b : f32[16] role=param\ntensor @y : f32[2,3,16] role=output\n"
             "tensor @p : f32[2,3,16] role=output\n") "func @f {\n"
                                                      "  %0:f32[2,3,16] = read {tensor=@x}\n"
                                                      "  %1:f32[16,16] = read {tensor=@w}\n"
                                                      "  %2:f32[16] = read {tensor=@b}\n"
                                                      "  %3:f32[2,3,16] = linear %0, %1, %2\n"
                                                      "  %4:f32[2,3,16] = gelu %3\n"
                                                      "  %5:f32[2,3,16] = add %4, %0\n"
                                                      "  write %3 {tensor=@p}\n"
                                                      "  write %5 {tensor=@y}\n}\n"},
    {"wgrad_reads_transposed_views", 0, 1,
     TENSORS("tensor @x : bf16[5,7] role=input\ntensor @dy : bf16[5,6] role=input\n"
             "tensor @dw : f32[6,7] role=grad\n") "func @f {\n"
                                                  "  %0:bf16[5,7] = read {tensor=@x}\n"
                                                  "  %1:bf16[5,6] = read {tensor=@dy}\n"
                                                  "  %2:f32[6,7] = matmul %1, %0 {out=f32, "
                                                  "ta=true, tb=false}\n"
                                                  "  write %2 {tensor=@dw}\n}\n"},
    {"layer_norm_takes_its_producer_and_the_cast", 1, 0,
     TENSORS(
         "tensor @x : f32[6,32] role=input\ntensor @r : f32[6,32] role=input\n"
         "tensor @w : f32[32] role=param\ntensor @b : f32[32] role=param\n"
         "tensor @y : bf16[6,32] role=output\ntensor @s : f32[6,32] role=output\n"
         "tensor @m : f32[6] role=output\ntensor @d : f32[6] role=output\n") "func @f {\n"
                                                                             "  %0:f32[6,32] = "
                                                                             "read {tensor=@x}\n"
                                                                             "  %1:f32[6,32] = "
                                                                             "read {tensor=@r}\n"
                                                                             "  %2:f32[32] = read "
                                                                             "{tensor=@w}\n"
                                                                             "  %3:f32[32] = read "
                                                                             "{tensor=@b}\n"
                                                                             "  %4:f32[6,32] = add "
                                                                             "%0, %1\n"
                                                                             "  %5:f32[6,32], "
                                                                             "%6:f32[6], %7:f32[6] "
                                                                             "= layer_norm %4, %2, "
                                                                             "%3 {axes=1, "
                                                                             "eps=1e-05}\n"
                                                                             "  %8:bf16[6,32] = "
                                                                             "cast %5 {to=bf16}\n"
                                                                             "  write %8 "
                                                                             "{tensor=@y}\n  write "
                                                                             "%4 {tensor=@s}\n"
                                                                             "  write %6 "
                                                                             "{tensor=@m}\n  write "
                                                                             "%7 {tensor=@d}\n}\n"},
    {"layer_norm_grad_small_is_one_group", 1, 0,
     TENSORS(
         "tensor @dy : f32[6,32] role=input\ntensor @x : f32[6,32] role=input\n"
         "tensor @m : f32[6] role=input\ntensor @d : f32[6] role=input\n"
         "tensor @w : f32[32] role=param\ntensor @dx : f32[6,32] role=output\n"
         "tensor @dw : f32[32] role=grad\ntensor @db : f32[32] role=grad\n") "func @f {\n"
                                                                             "  %0:f32[6,32] = "
                                                                             "read {tensor=@dy}\n"
                                                                             "  %1:f32[6,32] = "
                                                                             "read {tensor=@x}\n"
                                                                             "  %2:f32[6] = read "
                                                                             "{tensor=@m}\n"
                                                                             "  %3:f32[6] = read "
                                                                             "{tensor=@d}\n"
                                                                             "  %4:f32[32] = read "
                                                                             "{tensor=@w}\n"
                                                                             "  %5:f32[6,32], "
                                                                             "%6:f32[32], "
                                                                             "%7:f32[32] = "
                                                                             "layer_norm_grad %0, "
                                                                             "%1, %2, %3, %4 "
                                                                             "{axes=1}\n"
                                                                             "  %8:f32[6,32] = add "
                                                                             "%5, %0\n"
                                                                             "  write %8 "
                                                                             "{tensor=@dx}\n  "
                                                                             "write %6 "
                                                                             "{tensor=@dw}\n  "
                                                                             "write %7 "
                                                                             "{tensor=@db}\n}\n"},
    {"layer_norm_grad_large_combines_partials_in_one_more", 2, 0,
     TENSORS(
         "tensor @dy : f32[300,96] role=input\ntensor @x : f32[300,96] role=input\n"
         "tensor @m : f32[300] role=input\ntensor @d : f32[300] role=input\n"
         "tensor @w : f32[96] role=param\ntensor @dx : f32[300,96] role=output\n"
         "tensor @dw : f32[96] role=grad\ntensor @db : f32[96] role=grad\n") "func @f {\n"
                                                                             "  %0:f32[300,96] = "
                                                                             "read {tensor=@dy}\n"
                                                                             "  %1:f32[300,96] = "
                                                                             "read {tensor=@x}\n"
                                                                             "  %2:f32[300] = read "
                                                                             "{tensor=@m}\n"
                                                                             "  %3:f32[300] = read "
                                                                             "{tensor=@d}\n"
                                                                             "  %4:f32[96] = read "
                                                                             "{tensor=@w}\n"
                                                                             "  %5:f32[300,96], "
                                                                             "%6:f32[96], "
                                                                             "%7:f32[96] = "
                                                                             "layer_norm_grad %0, "
                                                                             "%1, %2, %3, %4 "
                                                                             "{axes=1}\n"
                                                                             "  write %5 "
                                                                             "{tensor=@dx}\n  "
                                                                             "write %6 "
                                                                             "{tensor=@dw}\n  "
                                                                             "write %7 "
                                                                             "{tensor=@db}\n}\n"},
    {"cross_entropy_is_rows_and_one_combine", 2, 0,
     TENSORS("tensor @x : bf16[70,13] role=input\ntensor @t : i64[70] role=input\n"
             "tensor @seed : f32[] role=input\ntensor @valid : i64[] role=valid\n"
             "tensor @loss : f32[] role=metric\ntensor @weight : f32[] role=metric\n"
             "tensor @dx : bf16[70,13] role=output\n") "func @f {\n"
                                                       "  %0:bf16[70,13] = read {tensor=@x}\n"
                                                       "  %1:i64[70] = read {tensor=@t}\n"
                                                       "  %2:f32[] = read {tensor=@seed}\n"
                                                       "  %3:i64[] = read {tensor=@valid}\n"
                                                       "  %4:f32[70,13] = cast %0 {to=f32}\n"
                                                       "  %5:f32[], %6:f32[], %7:f32[70,13] = "
                                                       "cross_entropy %4, %1, %2, %3"
                                                       " {ignore_index=2, label_smoothing=0.1}\n"
                                                       "  %8:bf16[70,13] = cast %7 {to=bf16}\n"
                                                       "  write %5 {tensor=@loss}\n  write %6 "
                                                       "{tensor=@weight}\n  write %8 "
                                                       "{tensor=@dx}\n}\n"},
    {"accuracy", 2, 0,
     TENSORS(
         "tensor @x : f32[40,13] role=input\ntensor @t : i64[40] role=input\n"
         "tensor @valid : i64[] role=valid\ntensor @c : f32[] role=metric\n") "func @f {\n"
                                                                              "  %0:f32[40,13] = "
                                                                              "read {tensor=@x}\n"
                                                                              "  %1:i64[40] = read "
                                                                              "{tensor=@t}\n"
                                                                              "  %2:i64[] = read "
                                                                              "{tensor=@valid}\n"
                                                                              "  %3:f32[] = "
                                                                              "accuracy %0, %1, "
                                                                              "%2\n"
                                                                              "  write %3 "
                                                                              "{tensor=@c}\n}\n"},
    {"sums_over_every_side", 4, 0,
     TENSORS(
         "tensor @x : f32[4,6,10] role=input\ntensor @a : f32[4,6] role=output\n"
         "tensor @b : f32[10] role=output\ntensor @c : f32[4,10] role=output\n"
         "tensor @d : f32[6] role=output\n") "func @f {\n"
                                             "  %0:f32[4,6,10] = read {tensor=@x}\n"
                                             "  %1:f32[4,6] = sum %0 {dims=[2], keepdim=false}\n"
                                             "  %2:f32[10] = sum %0 {dims=[0, 1], keepdim=false}\n"
                                             "  %3:f32[4,10] = mean %0 {dims=[1], keepdim=false}\n"
                                             "  %4:f32[6] = sum %0 {dims=[0, 2], keepdim=false}\n"
                                             "  write %1 {tensor=@a}\n  write %2 {tensor=@b}\n  "
                                             "write %3 {tensor=@c}\n"
                                             "  write %4 {tensor=@d}\n}\n"},
    {"mean_of_everything_then_scalars", 2, 0,
     TENSORS(
         "tensor @x : f32[33,70] role=input\ntensor @y : f32[] role=metric\n") "func @f {\n"
                                                                               "  %0:f32[33,70] = "
                                                                               "read {tensor=@x}\n"
                                                                               "  %1:f32[33,70] = "
                                                                               "mul %0, %0\n"
                                                                               "  %2:f32[] = sum "
                                                                               "%1 {dims=[0, 1], "
                                                                               "keepdim=false}\n"
                                                                               "  %3:f32[] = sqrt "
                                                                               "%2\n"
                                                                               "  %4:f32[] = const "
                                                                               "{dtype=f32, "
                                                                               "value=2.0}\n"
                                                                               "  %5:f32[] = mul "
                                                                               "%3, %4\n"
                                                                               "  write %5 "
                                                                               "{tensor=@y}\n}\n"},
    {"quantized_product", 5, 1,
     TENSORS(
         "tensor @x : f32[16,32] role=input\ntensor @w : f32[16,32] role=param\n"
         "tensor @s : f32[] role=scale\ntensor @y : bf16[16,16] role=output\n"
         "tensor @ax : f32[] role=amax\ntensor @aw : f32[] role=amax\n") "func @f {\n"
                                                                         "  %0:f32[16,32] = read "
                                                                         "{tensor=@x}\n"
                                                                         "  %1:f32[16,32] = read "
                                                                         "{tensor=@w}\n"
                                                                         "  %2:f32[] = read "
                                                                         "{tensor=@s}\n"
                                                                         "  %3:e4m3[16,32], "
                                                                         "%4:f32[], %5:f32[] = "
                                                                         "quantize %0, %2 "
                                                                         "{to=e4m3}\n"
                                                                         "  %6:e4m3[16,32], "
                                                                         "%7:f32[], %8:f32[] = "
                                                                         "quantize %1, %2 "
                                                                         "{to=e4m3}\n"
                                                                         "  %9:bf16[16,16] = "
                                                                         "qlinear %3, %6, %4, %7 "
                                                                         "{out=bf16}\n"
                                                                         "  write %9 {tensor=@y}\n "
                                                                         " write %5 {tensor=@ax}\n "
                                                                         " write %8 "
                                                                         "{tensor=@aw}\n}\n"},
    {"fp8_update", 2, 0,
     TENSORS(
         "tensor @h : f32[3,5] role=amax\ntensor @a : f32[3] role=sum\n"
         "tensor @s : f32[3] role=scale\n") "func @f {\n"
                                            "  %0:f32[3,5] = read {tensor=@h}\n"
                                            "  %1:f32[3] = read {tensor=@a}\n"
                                            "  %2:f32[3] = read {tensor=@s}\n"
                                            "  %3:f32[3] = abs %1\n"
                                            "  %4:f32[3,5] = abs %0\n"
                                            "  %5:f32[3,5], %6:f32[3] = fp8_update %4, %3, %2 "
                                            "{algo=\"max\", fp8_max=448.0, margin=0}\n"
                                            "  write %5 {tensor=@h}\n  write %6 {tensor=@s}\n}\n"},
    {"dropout_masks_do_not_depend_on_fusing", 1, 0,
     TENSORS(
         "tensor @x : f32[3,4,8] role=input\ntensor @seed : i64[] role=seed\n"
         "tensor @step : i64[] role=counter\ntensor @y : f32[4,3,8] role=output\n") "func @f {\n"
                                                                                    "  "
                                                                                    "%0:f32[3,4,8] "
                                                                                    "= read "
                                                                                    "{tensor=@x}\n"
                                                                                    "  %1:i64[] = "
                                                                                    "read "
                                                                                    "{tensor=@seed}"
                                                                                    "\n"
                                                                                    "  %2:i64[] = "
                                                                                    "read "
                                                                                    "{tensor=@step}"
                                                                                    "\n"
                                                                                    "  "
                                                                                    "%3:f32[3,4,8] "
                                                                                    "= dropout %0, "
                                                                                    "%1, %2 "
                                                                                    "{p=0.25, "
                                                                                    "stream=7}\n"
                                                                                    "  "
                                                                                    "%4:f32[4,3,8] "
                                                                                    "= permute %3 "
                                                                                    "{perm=[1, 0, "
                                                                                    "2]}\n"
                                                                                    "  "
                                                                                    "%5:f32[4,3,8] "
                                                                                    "= relu %4\n"
                                                                                    "  write %5 "
                                                                                    "{tensor=@y}\n}"
                                                                                    "\n"},
    {"attention_reads_slices_of_one_projection", 0, 1,
     TENSORS("tensor @x : f32[2,5,8] role=input\ntensor @w : f32[24,8] role=param\n"
             "tensor @y : f32[2,5,8] role=output\n") "func @f {\n"
                                                     "  %0:f32[2,5,8] = read {tensor=@x}\n"
                                                     "  %1:f32[24,8] = read {tensor=@w}\n"
                                                     "  %2:f32[2,5,24] = linear %0, %1\n"
                                                     "  %3:f32[2,5,8] = slice %2 {dim=2, end=8, "
                                                     "start=0}\n"
                                                     "  %4:f32[2,5,8] = slice %2 {dim=2, end=16, "
                                                     "start=8}\n"
                                                     "  %5:f32[2,5,8] = slice %2 {dim=2, end=24, "
                                                     "start=16}\n"
                                                     "  %6:f32[2,5,8], %7:f32[2,2,5] = attention "
                                                     "%3, %4, %5 {causal=true, heads=2}\n"
                                                     "  write %6 {tensor=@y}\n}\n"},
    {"moves_and_embedding", 0, 0,
     TENSORS(
         "tensor @ids : i64[3,2] role=input\ntensor @t : f32[9,4] role=param\n"
         "tensor @y : f32[3,5,4] role=output\ntensor @z : f32[3,4,4] role=output\n") "func @f {\n"
                                                                                     "  "
                                                                                     "%0:i64[3,2] "
                                                                                     "= read "
                                                                                     "{tensor=@ids}"
                                                                                     "\n"
                                                                                     "  "
                                                                                     "%1:f32[9,4] "
                                                                                     "= read "
                                                                                     "{tensor=@t}\n"
                                                                                     "  "
                                                                                     "%2:f32[3,2,4]"
                                                                                     " = embedding "
                                                                                     "%0, %1\n"
                                                                                     "  "
                                                                                     "%3:f32[3,1,4]"
                                                                                     " = slice %2 "
                                                                                     "{dim=1, "
                                                                                     "end=2, "
                                                                                     "start=1}\n"
                                                                                     "  "
                                                                                     "%4:f32[3,5,4]"
                                                                                     " = cat %2, "
                                                                                     "%3, %2 "
                                                                                     "{dim=1}\n"
                                                                                     "  "
                                                                                     "%5:f32[3,4,4]"
                                                                                     " = unslice "
                                                                                     "%2 {dim=1, "
                                                                                     "size=4, "
                                                                                     "start=1}\n"
                                                                                     "  write %4 "
                                                                                     "{tensor=@y}"
                                                                                     "\n  write %5 "
                                                                                     "{tensor=@z}"
                                                                                     "\n}\n"},
    {"scalar_state_and_constants", 1, 0,
     TENSORS(
         "tensor @n : i64[] role=counter\ntensor @c : f32[4] role=output\n") "func @f {\n"
                                                                             "  %0:i64[] = read "
                                                                             "{tensor=@n}\n"
                                                                             "  %1:i64[] = expr %0 "
                                                                             "{body=\"a + 1\", "
                                                                             "dtype=i64}\n"
                                                                             "  write %1 "
                                                                             "{tensor=@n}\n}\n"},
    {"constants_are_filled", 1, 0,
     TENSORS("tensor @c : f32[4] role=output\n") "func @f {\n"
                                                 "  %0:f32[] = const {dtype=f32, value=1.5}\n"
                                                 "  %1:f32[4] = expand %0 {shape=[4]}\n"
                                                 "  write %1 {tensor=@c}\n}\n"},
};

static void run_case(const Case *c, bool strict) {
  World w = world_create();
  Module *m = world_parse(&w, c->text);
  PassOpts o = {&test_caps, strict, false, 2};
  Module *k = world_pass(&w, pass_fuse, STAGE_KERNELS, m, o);
  if (getenv("SHOW"))
    world_print(&w, k);
  check_equal(m, k, 2e-6);
  ck_assert_msg(count_groups(k, "rows") == c->rows, "%s: %d rows groups", c->name,
                count_groups(k, "rows"));
  ck_assert_msg(count_groups(k, "product") == c->products, "%s: %d products", c->name,
                count_groups(k, "product"));
  /* The text form holds everything. */
  Text t = {0};
  module_print(k, w.diag, &t);
  ck_assert_ptr_nonnull(t.data);
  module_destroy(world_parse(&w, t.data));
  text_fini(&t);
  module_destroy(m);
  module_destroy(k);
  world_destroy(&w);
}

START_TEST(fused) {
  run_case(&cases[_i], false);
}
END_TEST

START_TEST(strict) {
  run_case(&cases[_i], true);
}
END_TEST

/* Groups of one function of tests/train/vit.yaml with `depth` blocks. */
static int vit_groups(const char *function, const char *depth) {
  static char text[1 << 16];
  World w = world_create();
  FILE *f = fopen(SOURCE_DIR "/tests/train/vit.yaml", "rb");
  ck_assert_ptr_nonnull(f);
  size_t len = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[len] = 0;
  const char *set[1] = {depth};
  SpecSource src = {.path = "vit.yaml",
                    .text = text,
                    .len = len,
                    .precision = "bf16-mixed",
                    .set = set,
                    .nset = 1};
  Spec *spec;
  Module *m, *out;
  const char *failed;
  diag_file(w.diag, "vit.yaml", text, len);
  ck_assert_int_eq(spec_parse(w.arena, w.strings, w.diag, &src, &spec), MPCC_OK);
  ck_assert_int_eq(spec_lower(spec, w.strings, w.diag, &m), MPCC_OK);
  PassOpts o = {&test_caps, false, false, 2};
  PassRun r = {0};
  if (passes_run(m, &o, &r, w.diag, &out, &failed) != MPCC_OK) {
    world_show(&w);
    ck_abort_msg("pass %s failed", failed);
  }
  const Func *g = module_func(out, function);
  int n = 0;
  for (int i = 0; i < g->nop; i++)
    n += g->op[i]->code == OP_group;
  module_destroy(out);
  world_destroy(&w);
  return n;
}

/* A block forward: two norms, four products with their packs, attention. A step adds per product
 * two packs and two products, a column sum with its combination, and what attention needs. */
START_TEST(a_transformer_block_is_few_groups) {
  int forward = vit_groups("predict", "params.depth=3") - vit_groups("predict", "params.depth=2");
  int step =
      vit_groups("train_step", "params.depth=3") - vit_groups("train_step", "params.depth=2");
  ck_assert_int_eq(forward, 11);
  ck_assert_int_le(step, 42);
}
END_TEST

int main(void) {
  Suite *s = suite_create("fuse");
  TCase *t = tcase_create("cases");
  int n = sizeof cases / sizeof *cases;
  tcase_add_loop_test(t, fused, 0, n);
  tcase_add_loop_test(t, strict, 0, n);
  tcase_add_test(t, a_transformer_block_is_few_groups);
  suite_add_tcase(s, t);
  return check_run(s);
}
