/* package: every table of an image is read back with bounds checks, and its commands do what the
 * planned module says: arguments in the order of docs/groups.md, copies where a write could not be
 * in place, fills, nothing for pieces that are in place already. */
#include "codegen/codegen.h"
#include "mpcc/hash.h"
#include "pass_check.h"
#include "tests/check_run.h"

static const char *const text =
    "mpir 1 stage=saved\n"
    "tensor @flat : f32[512] role=param {group=0, init=\"uniform\", bound=0.5}\n"
    "tensor @w1 : f32[16,16] role=param base=@flat at=0 {shape=[16, 16]}\n"
    "tensor @w2 : f32[16,16] role=param base=@flat at=256\n"
    "tensor @x : f32[8,32] role=input {field=\"image\"}\n"
    "tensor @zero : f32[100] role=moment {of=@flat}\n"
    "tensor @a : f32[8,16] role=output\n"
    "tensor @b : f32[8,16] role=output\n"
    "tensor @seed : i64[] role=seed\n"
    "tensor @step : i64[] role=counter\n"
    "func @f {\n"
    "  %0:f32[8,32] = read {tensor=@x}\n"
    "  %1:f32[16,16] = read {tensor=@w1}\n"
    "  %2:f32[16,16] = read {tensor=@w2}\n"
    "  %3:f32[8,16] = slice %0 {dim=1, end=16, start=0}\n"
    "  %4:f32[8,16] = slice %0 {dim=1, end=32, start=16}\n"
    "  %5:i64[] = read {tensor=@seed}\n"
    "  %6:i64[] = read {tensor=@step}\n"
    "  %7:f32[8,16] = linear %3, %1 layer=\"first\"\n"
    "  %8:f32[8,16] = dropout %7, %5, %6 {p=0.5, stream=3} layer=\"first\"\n"
    "  %9:f32[8,16] = linear %4, %2 layer=\"second\"\n"
    "  %10:f32[8,16] = dropout %9, %5, %6 {p=0.5, stream=9} layer=\"second\"\n"
    "  %11:f32[8,16] = add %8, %10\n"
    "  %12:f32[] = const {dtype=f32, value=0.0}\n"
    "  %13:f32[100] = expand %12 {shape=[100]}\n"
    "  %14:f32[256] = reshape %1 {shape=[256]}\n"
    "  %15:f32[256] = reshape %2 {shape=[256]}\n"
    "  %16:f32[256] = neg %14\n"
    "  %17:f32[256] = relu %15\n"
    "  %18:f32[512] = cat %16, %17 {dim=0}\n"
    "  write %18 {tensor=@flat}\n"
    "  write %11 {tensor=@a}\n"
    "  write %11 {tensor=@b}\n"
    "  write %13 {tensor=@zero}\n"
    "}\n";

typedef struct {
  World w;
  Module *m;
  KernelTable kernels;
  void *image;
  size_t bytes;
  const MpccImage *h;
} Packed;

static const char object_bytes[] = "an object";

static Packed pack(const char *source) {
  Packed p = {.w = world_create()};
  PassOpts o = {&test_caps, false, false, 2};
  Module *saved = world_parse(&p.w, source);
  Module *k = world_pass(&p.w, pass_fuse, STAGE_KERNELS, saved, o);
  p.m = world_pass(&p.w, pass_plan, STAGE_PLANNED, k, o);
  module_destroy(saved);
  module_destroy(k);
  ck_assert_int_eq(codegen_kernels(p.m, p.w.arena, &p.kernels), MPCC_OK);
  for (int i = 0; i < p.kernels.n; i++)
    p.kernels.kernel[i].ntiles = 3 + i;
  Code codes[2] = {{"cpu", "x86-64-v4", "avx512f", object_bytes, sizeof object_bytes},
                   {"cpu", "x86-64-v3", "avx2 fma", object_bytes, 4}};
  ck_assert_int_eq(
      package_image(p.m, &p.kernels, codes, 2, "{\"name\":\"t\"}", p.w.diag, &p.image, &p.bytes),
      MPCC_OK);
  p.h = p.image;
  return p;
}

static void unpack(Packed *p) {
  free(p->image);
  module_destroy(p->m);
  world_destroy(&p->w);
}

static const void *table(const Packed *p, MpccSpan s, size_t size) {
  ck_assert_uint_le(s.offset, p->bytes);
  ck_assert_uint_le(s.count, (p->bytes - s.offset) / size);
  ck_assert_uint_eq(s.offset % 8, 0);
  return (const char *)p->image + s.offset;
}

static const char *string(const Packed *p, uint32_t at) {
  const char *s = table(p, p->h->strings, 1);
  ck_assert_uint_lt(at, p->h->strings.count);
  ck_assert_ptr_nonnull(memchr(s + at, 0, p->h->strings.count - at));
  return s + at;
}

START_TEST(header_and_strings) {
  Packed p = pack(text);
  ck_assert_int_eq(memcmp(p.h->magic, MPCC_IMAGE_MAGIC, 8), 0);
  ck_assert_uint_eq(p.h->version, MPCC_ABI_VERSION);
  ck_assert_uint_eq(p.h->header_bytes, sizeof *p.h);
  ck_assert_uint_eq(p.h->image_bytes, p.bytes);
  uint64_t hash[2];
  mpcc_image_hash(p.image, p.bytes, hash);
  ck_assert(hash[0] == p.h->hash[0] && hash[1] == p.h->hash[1]);
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    ck_assert_uint_eq(p.h->segment_bytes[i], (uint64_t)p.m->segment_bytes[i]);
  ck_assert_str_eq(string(&p, p.h->meta), "{\"name\":\"t\"}");
  ck_assert_str_eq(string(&p, 0), "");
  /* No string is stored twice. */
  const char *s = table(&p, p.h->strings, 1);
  for (size_t i = 1; i < p.h->strings.count; i += strlen(s + i) + 1)
    for (size_t k = 1; k < i; k += strlen(s + k) + 1)
      ck_assert_str_ne(s + i, s + k);
  unpack(&p);
}
END_TEST

START_TEST(tensors) {
  Packed p = pack(text);
  const MpccTensor *t = table(&p, p.h->tensors, sizeof *t);
  ck_assert_uint_eq(p.h->tensors.count, (uint64_t)p.m->ntensor);
  for (int i = 0; i < p.m->ntensor; i++) {
    const Tensor *want = p.m->tensor[i];
    ck_assert_str_eq(string(&p, t[i].name), want->name);
    ck_assert_int_eq(t[i].dtype, want->type->dt);
    ck_assert_int_eq(t[i].role, want->role);
    ck_assert_uint_eq(t[i].bytes, (uint64_t)type_bytes(want->type));
    ck_assert_uint_lt(t[i].base, p.h->tensors.count);
    ck_assert_uint_le(t[i].offset + t[i].bytes, p.h->segment_bytes[t[i].segment]);
    ck_assert_int_eq(memcmp(t[i].dim, want->type->dim, (size_t)want->type->rank * sizeof *t[i].dim),
                     0);
  }
  ck_assert_uint_eq(t[2].base, 0);
  ck_assert_uint_eq(t[2].offset, t[0].offset + 1024);
  ck_assert_str_eq(string(&p, t[0].attrs), "{\"bound\":0.5,\"group\":0,\"init\":\"uniform\"}");
  ck_assert_str_eq(string(&p, t[1].attrs), "{\"shape\":[16,16]}");
  ck_assert_str_eq(string(&p, t[4].attrs), "{\"of\":\"flat\"}");
  ck_assert_str_eq(string(&p, t[5].attrs), "{}");
  unpack(&p);
}
END_TEST

START_TEST(commands) {
  Packed p = pack(text);
  const MpccFunction *f = table(&p, p.h->functions, sizeof *f);
  const MpccCommand *c = table(&p, p.h->commands, sizeof *c);
  const MpccArgRef *a = table(&p, p.h->args, sizeof *a);
  const MpccKernel *k = table(&p, p.h->kernels, sizeof *k);
  ck_assert_uint_eq(p.h->functions.count, 1);
  ck_assert_str_eq(string(&p, f->name), "f");
  ck_assert_uint_eq(f->ncommands, p.h->commands.count);
  int launches = 0, copies = 0, fills = 0, products = 0;
  uint32_t kernel[2] = {0};
  int64_t stream[2] = {0}, operand[2] = {0};
  for (uint32_t i = 0; i < f->ncommands; i++) {
    ck_assert_uint_le(c[i].first_arg + c[i].nargs, p.h->args.count);
    ck_assert_uint_le(c[i].first_out + c[i].nout, c[i].nargs);
    ck_assert_uint_eq(strlen(string(&p, c[i].value_dtypes)), c[i].nout);
    string(&p, c[i].layer), string(&p, c[i].source), string(&p, c[i].label);
    for (uint32_t n = c[i].first_arg; n < c[i].first_arg + c[i].nargs; n++) {
      if (a[n].segment == MPCC_ARG_INT)
        continue;
      ck_assert_uint_lt(a[n].segment, MPCC_SEG_COUNT);
      ck_assert(f->uses >> a[n].segment & 1);
      ck_assert_int_ge(a[n].offset, 0);
      ck_assert_uint_le((uint64_t)a[n].offset + a[n].bytes, p.h->segment_bytes[a[n].segment]);
    }
    launches += c[i].op == MPCC_CMD_LAUNCH;
    copies += c[i].op == MPCC_CMD_COPY;
    fills += c[i].op == MPCC_CMD_FILL;
    if (c[i].op != MPCC_CMD_LAUNCH)
      continue;
    ck_assert_uint_lt(c[i].kernel, p.h->kernels.count);
    ck_assert_uint_eq(c[i].nargs, k[c[i].kernel].nargs);
    ck_assert_uint_eq(k[c[i].kernel].ntiles, 3 + c[i].kernel);
    if (!strncmp(string(&p, k[c[i].kernel].symbol), "product_", 8) && products < 2) {
      const MpccArgRef *last = &a[c[i].first_arg + c[i].nargs - 1];
      ck_assert_uint_eq(last->segment, MPCC_ARG_INT);
      ck_assert_str_eq(string(&p, c[i].layer), products ? "first" : "second");
      kernel[products] = c[i].kernel;
      operand[products] = a[c[i].first_arg + 1].offset; /* one result, then A */
      stream[products++] = last->offset;
    }
  }
  ck_assert_int_eq(products, 2);
  ck_assert(stream[0] == 9 && stream[1] == 3);
  /* The halves of x are one tensor seen from two places. */
  ck_assert_int_eq(operand[0] - operand[1], 64);
  ck_assert_uint_ne(kernel[0], kernel[1]); /* one takes the addition */
  ck_assert_int_eq(copies, 2); /* %11 from @a to @b; @flat, whose parts are read until the end */
  ck_assert_int_eq(fills, 1);
  ck_assert_int_eq(launches, 6); /* packs, products, neg and relu: their pieces are in place */
  unpack(&p);
}
END_TEST

START_TEST(equal_layers_share_kernels) {
  /* Without the addition both products are the same kernel with other places and streams. */
  Packed p = pack("mpir 1 stage=saved\n"
                  "tensor @w : f32[2,16,16] role=param\n"
                  "tensor @x : f32[8,16] role=input\n"
                  "tensor @a : f32[8,16] role=output\n"
                  "tensor @seed : i64[] role=seed\n"
                  "tensor @step : i64[] role=counter\n"
                  "func @f {\n"
                  "  %0:f32[8,16] = read {tensor=@x}\n"
                  "  %1:f32[2,16,16] = read {tensor=@w}\n"
                  "  %2:i64[] = read {tensor=@seed}\n"
                  "  %3:i64[] = read {tensor=@step}\n"
                  "  %4:f32[1,16,16] = slice %1 {dim=0, end=1, start=0}\n"
                  "  %5:f32[1,16,16] = slice %1 {dim=0, end=2, start=1}\n"
                  "  %6:f32[16,16] = reshape %4 {shape=[16, 16]}\n"
                  "  %7:f32[16,16] = reshape %5 {shape=[16, 16]}\n"
                  "  %8:f32[8,16] = linear %0, %6\n"
                  "  %9:f32[8,16] = dropout %8, %2, %3 {p=0.5, stream=1}\n"
                  "  %10:f32[8,16] = linear %9, %7\n"
                  "  %11:f32[8,16] = dropout %10, %2, %3 {p=0.5, stream=2}\n"
                  "  write %11 {tensor=@a}\n"
                  "}\n");
  ck_assert_int_eq(p.kernels.n, 2); /* pack, product */
  const MpccCommand *c = table(&p, p.h->commands, sizeof *c);
  const MpccArgRef *a = table(&p, p.h->args, sizeof *a);
  ck_assert_uint_eq(p.h->commands.count, 4);
  ck_assert_uint_eq(c[0].kernel, c[2].kernel);
  ck_assert_int_eq(a[c[2].first_arg + 1].offset - a[c[0].first_arg + 1].offset, 1024);
  for (int i = 0; i < p.m->func[0]->nop; i++) {
    const Op *op = p.m->func[0]->op[i];
    if (op->code == OP_group)
      ck_assert_int_ge(kernel_index(&p.kernels, op), 0);
  }
  unpack(&p);
}
END_TEST

START_TEST(codes) {
  Packed p = pack(text);
  const MpccCode *c = table(&p, p.h->codes, sizeof *c);
  ck_assert_uint_eq(p.h->codes.count, 2);
  ck_assert_str_eq(string(&p, c[0].level), "x86-64-v4");
  ck_assert_str_eq(string(&p, c[1].needs), "avx2 fma");
  for (int i = 0; i < 2; i++) {
    const void *o = table(&p, c[i].object, 1);
    ck_assert_uint_eq(c[i].object.offset % MPCC_ALIGN, 0);
    ck_assert_uint_eq(c[i].object.count, i ? 4 : sizeof object_bytes);
    ck_assert_int_eq(memcmp(o, object_bytes, c[i].object.count), 0);
  }
  unpack(&p);
}
END_TEST

START_TEST(the_same_module_gives_the_same_bytes) {
  Packed p = pack(text), q = pack(text);
  ck_assert_uint_eq(p.bytes, q.bytes);
  ck_assert_int_eq(memcmp(p.image, q.image, p.bytes), 0);
  unpack(&p);
  unpack(&q);
}
END_TEST

int main(void) {
  Suite *s = suite_create("package");
  TCase *t = tcase_create("package");
  tcase_add_test(t, header_and_strings);
  tcase_add_test(t, tensors);
  tcase_add_test(t, commands);
  tcase_add_test(t, equal_layers_share_kernels);
  tcase_add_test(t, codes);
  tcase_add_test(t, the_same_module_gives_the_same_bytes);
  suite_add_tcase(s, t);
  return check_run(s);
}
