/* What save computes again for backward is what forward made, to the bit, in the code of the CPU
 * target: a program writes a value before its loss and once more behind it, where it is a copy. */
#include "codegen/codegen.h"
#include "codegen/cpu/gen.h"
#include "mpcc/runtime.h"
#include "pass_check.h"
#include "tests/check_run.h"

#define HEAD                                                                                       \
  "mpir 1 stage=step\n"                                                                            \
  "tensor @x : f32[37,67] role=input\ntensor @w : f32[67] role=input\n"                            \
  "tensor @b : f32[67] role=input\ntensor @t : i64[37] role=input\n"                               \
  "tensor @seed : f32[] role=input\ntensor @valid : i64[] role=valid\n"                            \
  "tensor @loss : f32[] role=metric\ntensor @dx : f32[37,67] role=output\n"
#define READ                                                                                       \
  "func @f {\n"                                                                                    \
  "  %0:f32[37,67] = read {tensor=@x}\n  %1:f32[67] = read {tensor=@w}\n"                          \
  "  %2:f32[67] = read {tensor=@b}\n  %3:i64[37] = read {tensor=@t}\n"                             \
  "  %4:i64[] = read {tensor=@valid}\n  %5:f32[] = read {tensor=@seed}\n"
#define LOSS                                                                                       \
  "  %20:f32[], %21:f32[], %22:f32[37,67] = cross_entropy %0, %3, %5, %4\n"                        \
  "  write %20 {tensor=@loss}\n"

static const struct {
  const char *name, *text;
} cases[] = {
    {"layer_norm",
     HEAD "tensor @first : f32[37,67] role=output\ntensor @again : f32[37,67] role=output\n" READ
          "  %6:f32[37,67], %7:f32[37], %8:f32[37] = layer_norm %0 {axes=1, eps=1e-05}\n"
          "  write %6 {tensor=@first}\n" LOSS
          "  %23:f32[37,67] = layer_norm_grad %22, %0, %7, %8 {axes=1, eps=1e-05}\n"
          "  write %23 {tensor=@dx}\n  write %6 {tensor=@again}\n}\n"},
    {"layer_norm_with_weights",
     HEAD "tensor @first : f32[37,67] role=output\ntensor @again : f32[37,67] role=output\n" READ
          "  %6:f32[37,67], %7:f32[37], %8:f32[37] = layer_norm %0, %1, %2 {axes=1, eps=1e-05}\n"
          "  write %6 {tensor=@first}\n" LOSS
          "  %23:f32[37,67], %24:f32[67], %25:f32[67] = layer_norm_grad %22, %0, %7, %8, %1 "
          "{axes=1, eps=1e-05}\n"
          "  write %23 {tensor=@dx}\n  write %6 {tensor=@again}\n}\n"},
    {"layer_norm_with_weights_and_cast",
     HEAD "tensor @first : bf16[37,67] role=output\ntensor @again : bf16[37,67] role=output\n" READ
          "  %6:f32[37,67], %7:f32[37], %8:f32[37] = layer_norm %0, %1, %2 {axes=1, eps=1e-05}\n"
          "  %9:bf16[37,67] = cast %6 {to=bf16}\n"
          "  write %9 {tensor=@first}\n" LOSS
          "  %23:f32[37,67], %24:f32[67], %25:f32[67] = layer_norm_grad %22, %0, %7, %8, %1 "
          "{axes=1, eps=1e-05}\n"
          "  write %23 {tensor=@dx}\n  write %9 {tensor=@again}\n}\n"},
    {"rms_norm_with_weights_and_cast",
     HEAD "tensor @first : f16[37,67] role=output\ntensor @again : f16[37,67] role=output\n" READ
          "  %6:f32[37,67], %7:f32[37] = rms_norm %0, %1 {axes=1, eps=1e-05}\n"
          "  %9:f16[37,67] = cast %6 {to=f16}\n"
          "  write %9 {tensor=@first}\n" LOSS
          "  %23:f32[37,67], %24:f32[67] = rms_norm_grad %22, %0, %7, %1 {axes=1, eps=1e-05}\n"
          "  write %23 {tensor=@dx}\n  write %9 {tensor=@again}\n}\n"},
    {"layer_norm_of_a_sum_in_16_bits",
     HEAD "tensor @first : bf16[37,67] role=output\ntensor @again : bf16[37,67] role=output\n" READ
          "  %6:bf16[37,67] = cast %0 {to=bf16}\n"
          "  %7:bf16[37,67] = mul %6, %6\n"
          "  %8:bf16[37,67] = add %6, %7\n"
          "  %9:bf16[37,67], %10:f32[37], %11:f32[37] = layer_norm %8 {axes=1, eps=1e-05}\n"
          "  write %9 {tensor=@first}\n" LOSS "  %23:bf16[37,67] = cast %22 {to=bf16}\n"
          "  %24:bf16[37,67] = layer_norm_grad %23, %8, %10, %11 {axes=1, eps=1e-05}\n"
          "  %25:f32[37,67] = cast %24 {to=f32}\n"
          "  write %25 {tensor=@dx}\n  write %9 {tensor=@again}\n}\n"},
    {"gelu",
     HEAD "tensor @first : f32[37,67] role=output\ntensor @again : f32[37,67] role=output\n" READ
          "  %6:f32[37,67] = gelu %0\n"
          "  write %6 {tensor=@first}\n" LOSS
          "  write %22 {tensor=@dx}\n  write %6 {tensor=@again}\n}\n"},
};

/* The module's function as a program of this machine's code. */
static mprt_program *open_program(World *w, const Module *m, void **image) {
  const char *level = cpu_host_level();
  TargetCaps caps;
  ck_assert_int_eq(target_cpu.caps(level, &caps), MPCC_OK);
  const PassOpts o = {.caps = &caps, .opt_level = 2};
  Module *saved = world_pass(w, pass_save, STAGE_SAVED, m, o);
  int copies = 0;
  for (int i = 0; i < saved->func[0]->nop; i++)
    copies += op_int(saved->func[0]->op[i], "recompute", 0) != 0;
  ck_assert_msg(copies > 0, "nothing is computed again");
  Module *kernels = world_pass(w, pass_fuse, STAGE_KERNELS, saved, o);
  Module *planned = world_pass(w, pass_plan, STAGE_PLANNED, kernels, o);
  KernelTable t;
  void *object;
  size_t bytes;
  ck_assert_int_eq(codegen_kernels(planned, w->arena, &t), MPCC_OK);
  const EmitOpts e = {&target_cpu, level, "object", 2, 2, NULL};
  ck_assert_int_eq(codegen_emit(&e, t.kernel, t.n, w->diag, &object, &bytes), MPCC_OK);
  const Code code = {"cpu", level, target_cpu.level_needs(level), object, bytes};
  size_t image_bytes;
  ck_assert_int_eq(package_image(planned, &t, &code, 1, "{}", w->diag, image, &image_bytes),
                   MPCC_OK);
  mprt_options options;
  mprt_options_default(&options);
  options.threads = 1;
  mprt_program *p = NULL;
  ck_assert_int_eq(mprt_open(*image, image_bytes, &options, NULL, &p), MPCC_OK);
  free(object);
  module_destroy(saved);
  module_destroy(kernels);
  module_destroy(planned);
  return p;
}

/* n numbers around `centre`, all different, in no order. */
static void fill(mprt_program *p, const char *name, int n, double centre, double spread) {
  mprt_tensor t;
  ck_assert(mprt_find(p, name, &t));
  for (int i = 0; i < n; i++) /* multiples of the golden ratio fill [0, 1) evenly */
    ((float *)t.data)[i] = (float)(centre + spread * (fmod((i + 1) * 0.6180339887498949, 1) - 0.5));
}

START_TEST(copies_have_the_same_bits) {
  World w = world_create();
  Module *m = world_parse(&w, cases[_i].text);
  void *image = NULL;
  mprt_program *p = open_program(&w, m, &image);
  fill(p, "x", 37 * 67, 0.3, 6);
  fill(p, "w", 67, 1, 2);
  fill(p, "b", 67, 0, 1);
  mprt_tensor valid, first, again;
  ck_assert(mprt_find(p, "valid", &valid) && mprt_find(p, "first", &first) &&
            mprt_find(p, "again", &again));
  *(int64_t *)valid.data = 37;
  ck_assert_int_eq(mprt_run(p, "f"), MPCC_OK);
  const size_t bytes = 37 * 67 * dtype_bytes(first.dtype);
  const char *x = first.data;
  ck_assert(first.data != again.data);
  ck_assert_msg(memcmp(x, x + dtype_bytes(first.dtype), bytes / 2), "%s: nothing was made",
                cases[_i].name);
  ck_assert_msg(!memcmp(x, again.data, bytes), "%s: other bits", cases[_i].name);
  mprt_close(p);
  free(image);
  module_destroy(m);
  world_destroy(&w);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cpu_copies");
  TCase *t = tcase_create("cpu_copies");
  tcase_set_timeout(t, 60);
  tcase_add_loop_test(t, copies_have_the_same_bits, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  return check_run(s);
}
