/* plan: results do not change, and no value is overwritten while it is needed. The check walks the
 * planned function with a map of which value owns which bytes, independently of how plan decides.
 */
#include "codegen/codegen.h"
#include "mpcc/abi.h"
#include "pass_check.h"
#include "tests/check_run.h"

typedef struct {
  int space;        /* -1: work; else index of the base tensor */
  int64_t from, to; /* bytes */
} Range;

static const Tensor *tensor_of(const Op *op) {
  return op_attr(op, "tensor")->u.tensor;
}

static Range tensor_range(const Tensor *t, int64_t elem, int64_t bytes) {
  const Tensor *base = t->base ? t->base : t;
  int64_t size = (int64_t)dtype_bytes(t->type->dt);
  int64_t from = ((t->base ? t->base_elem : 0) + elem) * size;
  return (Range){base->index, from, from + bytes};
}

static Range range_of(const Value *v) {
  int64_t bytes = type_bytes(v->type);
  if (v->def->code == OP_read)
    return tensor_range(tensor_of(v->def), 0, bytes);
  if (v->alias)
    return tensor_range(v->alias, v->alias_elem, bytes);
  return (Range){-1, v->offset, v->offset + bytes};
}

static bool meet(Range a, Range b) {
  return a.space == b.space && a.from < b.to && b.from < a.to;
}

static int last_use(const Func *f, const Value *v) {
  int last = v->def->index;
  for (int i = 0; i < f->nop; i++)
    for (int k = 0; k < f->op[i]->nin; k++)
      if (f->op[i]->in[k] == v) {
        bool home = f->op[i]->code == OP_write && v->def->code != OP_read &&
                    meet(range_of(v), tensor_range(tensor_of(f->op[i]), 0, 1));
        bool same = v->def->code == OP_read && f->op[i]->code == OP_write &&
                    tensor_of(f->op[i]) == tensor_of(v->def);
        last = f->op[i]->code == OP_write ? (home || same ? f->nop : f->nop) : i;
      }
  return last;
}

/* Value w is made at op i: nothing else that is needed later may lie there. An operand of that op
 * may, when this is its last use (identical accesses are plan's business; the interpreter of
 * kernels finds other cases). Pieces of a concatenation lie inside it on purpose. */
static void check_store(const Func *f, const Value *w, int i) {
  for (int k = 0; k < f->nop; k++)
    for (int o = 0; o < f->op[k]->nout; o++) {
      const Value *v = f->op[k]->out[o];
      if (v == w || f->op[k]->index > i || !meet(range_of(v), range_of(w)))
        continue;
      bool piece = false;
      const Op *op = f->op[i];
      if (!strcmp(op_str(op, "kind", ""), "move"))
        for (int a = 0; a < op->nin; a++)
          piece |= op->in[a] == v;
      int last = last_use(f, v);
      if (v->def->code == OP_read && last == f->nop)
        last = -1; /* written back to itself or copied: judged below */
      ck_assert_msg(piece || last <= i, "@%s: %%%d made at op %d destroys %%%d, needed at %d",
                    f->name, w->id, i, v->id, last);
      if (last == i && !piece) {
        bool operand = v->def->index == i; /* results of one op never meet */
        ck_assert(!operand);
      }
    }
}

static void check_plan(const Module *m) {
  for (int i = 0; i < m->nfunc; i++) {
    const Func *f = m->func[i];
    for (int k = 0; k < f->nop; k++)
      for (int o = 0; f->op[k]->code == OP_group && o < f->op[k]->nout; o++) {
        const Value *v = f->op[k]->out[o];
        Range r = range_of(v);
        if (r.space < 0) {
          ck_assert_int_ge(r.from, 0);
          ck_assert_int_le(r.to, f->work_bytes);
          ck_assert_int_le(f->work_bytes, m->segment_bytes[MPCC_SEG_WORK]);
        }
        check_store(f, v, k);
      }
  }
  for (int i = 0; i < m->ntensor; i++) {
    const Tensor *t = m->tensor[i];
    ck_assert_int_ge(t->offset, 0);
    if (!t->base)
      ck_assert_int_eq(t->offset % MPCC_ALIGN, 0);
    for (int k = 0; k < i && !t->base; k++) {
      const Tensor *u = m->tensor[k];
      bool apart = u->base || t->offset >= u->offset + type_bytes(u->type) ||
                   u->offset >= t->offset + type_bytes(t->type);
      bool same_segment = strcmp(role_name(t->role), role_name(u->role)) == 0;
      ck_assert(apart || !same_segment);
    }
  }
}

static Module *planned(World *w, const char *text, bool no_reuse, Module **saved) {
  PassOpts o = {&test_caps, false, no_reuse, 2};
  *saved = world_parse(w, text);
  Module *k = world_pass(w, pass_fuse, STAGE_KERNELS, *saved, o);
  Module *p = world_pass(w, pass_plan, STAGE_PLANNED, k, o);
  module_destroy(k);
  if (getenv("SHOW"))
    world_print(w, p);
  return p;
}

/* A small perceptron's forward, backward and update by hand. */
static const char *const step_text =
    "mpir 1 stage=saved\n"
    "tensor @flat : f32[512] role=param\n"
    "tensor @w1 : f32[16,16] role=param base=@flat at=0\n"
    "tensor @w2 : f32[16,16] role=param base=@flat at=256\n"
    "tensor @x : f32[8,16] role=input\n"
    "tensor @m : f32[512] role=moment\n"
    "tensor @y : f32[8,16] role=output\n"
    "tensor @n : f32[] role=metric\n"
    "func @f {\n"
    "  %0:f32[8,16] = read {tensor=@x}\n"
    "  %1:f32[16,16] = read {tensor=@w1}\n"
    "  %2:f32[16,16] = read {tensor=@w2}\n"
    "  %3:f32[512] = read {tensor=@flat}\n"
    "  %4:f32[512] = read {tensor=@m}\n"
    "  %5:f32[8,16] = linear %0, %1\n"
    "  %6:f32[8,16] = relu %5\n"
    "  %7:f32[8,16] = linear %6, %2\n"
    "  %8:f32[16,16] = matmul %7, %6 {ta=true, tb=false}\n"
    "  %9:f32[8,16] = matmul %7, %2 {ta=false, tb=false}\n"
    "  %10:f32[8,16] = expr %9, %5 {body=\"b > 0 ? a : 0\", dtype=f32}\n"
    "  %11:f32[16,16] = matmul %10, %0 {ta=true, tb=false}\n"
    "  %12:f32[256] = reshape %11 {shape=[256]}\n"
    "  %13:f32[256] = reshape %8 {shape=[256]}\n"
    "  %14:f32[512] = cat %12, %13 {dim=0}\n"
    "  %15:f32[512] = mul %14, %14\n"
    "  %16:f32[] = sum %15 {dims=[0], keepdim=false}\n"
    "  %17:f32[512] = expr %4, %14, %16 {body=\"0.9 * a + b / (1 + c)\", dtype=f32}\n"
    "  %18:f32[512] = expr %3, %17 {body=\"a - 0.01 * b\", dtype=f32}\n"
    "  write %18 {tensor=@flat}\n"
    "  write %17 {tensor=@m}\n"
    "  write %7 {tensor=@y}\n"
    "  write %16 {tensor=@n}\n"
    "}\n";

START_TEST(a_step_keeps_its_results) {
  World w = world_create();
  Module *saved, *p = planned(&w, step_text, _i == 1, &saved);
  check_equal(saved, p, 2e-6);
  check_plan(p);
  module_destroy(saved);
  module_destroy(p);
  world_destroy(&w);
}
END_TEST

static const Value *written(const Func *f, const char *tensor) {
  for (int i = 0; i < f->nop; i++)
    if (f->op[i]->code == OP_write && !strcmp(tensor_of(f->op[i])->name, tensor))
      return f->op[i]->in[0];
  ck_abort_msg("nothing is written to %s", tensor);
}

START_TEST(state_is_updated_in_place) {
  World w = world_create();
  Module *saved, *p = planned(&w, step_text, false, &saved);
  const Func *f = p->func[0];
  const char *const names[] = {"flat", "m", "y", "n"};
  for (int i = 0; i < 4; i++)
    ck_assert_ptr_eq(written(f, names[i])->alias, module_tensor(p, names[i]));
  /* Gradients are made where the concatenation wants them. */
  for (int i = 0; i < f->nop; i++)
    if (!strcmp(op_str(f->op[i], "kind", ""), "move")) {
      int64_t at = f->op[i]->out[0]->offset;
      ck_assert_int_eq(f->op[i]->in[0]->offset, at);
      ck_assert_int_eq(f->op[i]->in[1]->offset, at + 1024);
    }
  module_destroy(saved);
  module_destroy(p);
  world_destroy(&w);
}
END_TEST

START_TEST(old_contents_that_are_read_later_stay) {
  World w = world_create();
  Module *saved, *p = planned(&w,
                              "mpir 1 stage=saved\n"
                              "tensor @a : f32[64] role=param\ntensor @b : f32[64] role=param\n"
                              "func @f {\n"
                              "  %0:f32[64] = read {tensor=@a}\n"
                              "  %1:f32[64] = read {tensor=@b}\n"
                              "  write %0 {tensor=@b}\n  write %1 {tensor=@a}\n}\n"
                              "func @g {\n"
                              "  %0:f32[64] = read {tensor=@a}\n"
                              "  %1:f32[64] = slice %0 {dim=0, end=64, start=0}\n"
                              "  %2:f32[32] = slice %0 {dim=0, end=64, start=32}\n"
                              "  %3:f32[32] = slice %0 {dim=0, end=32, start=0}\n"
                              "  %4:f32[64] = cat %2, %3 {dim=0}\n"
                              "  %5:f32[64] = gelu %4\n"
                              "  write %5 {tensor=@a}\n}\n",
                              false, &saved);
  check_equal(saved, p, 2e-6);
  check_plan(p);
  module_destroy(saved);
  module_destroy(p);
  world_destroy(&w);
}
END_TEST

START_TEST(reuse_saves_bytes) {
  World w = world_create();
  Module *saved, *other, *p = planned(&w, step_text, false, &saved);
  Module *q = planned(&w, step_text, true, &other);
  ck_assert_int_lt(p->segment_bytes[MPCC_SEG_WORK], q->segment_bytes[MPCC_SEG_WORK]);
  ck_assert_int_eq(module_int(p, "peak_bytes", -1), p->segment_bytes[MPCC_SEG_WORK]);
  for (int i = 0; i < p->ntensor; i++) /* outputs lie behind what functions work in */
    if (p->tensor[i]->role != ROLE_OUTPUT)
      ck_assert_int_eq(p->tensor[i]->offset, q->tensor[i]->offset);
  module_destroy(saved);
  module_destroy(other);
  module_destroy(p);
  module_destroy(q);
  world_destroy(&w);
}
END_TEST

/* A table with two readers, and what precedes it: backward goes from its product to its rows. */
static const char *const tied_text =
    "mpir 1 stage=saved\n"
    "tensor @flat : f32[4096] role=param\n"
    "tensor @table : f32[32,64] role=param base=@flat at=0\n"
    "tensor @w : f32[32,64] role=param base=@flat at=2048\n"
    "tensor @ids : i64[16] role=input\n"
    "func @f {\n"
    "  %0:i64[16] = read {tensor=@ids}\n"
    "  %1:f32[32,64] = read {tensor=@table}\n"
    "  %2:f32[32,64] = read {tensor=@w}\n"
    "  %3:f32[4096] = read {tensor=@flat}\n"
    "  %4:f32[16,64] = embedding %0, %1\n"
    "  %5:f32[16,32] = linear %4, %2\n"
    "  %6:f32[16,64] = matmul %5, %2 {ta=false, tb=false}\n"
    "  %7:f32[16,32] = linear %6, %1\n"
    "  %8:f32[32,64] = matmul %7, %6 {ta=true, tb=false}\n"
    "  %9:f32[16,64] = matmul %7, %1 {ta=false, tb=false}\n"
    "  %10:f32[32,64] = matmul %5, %9 {ta=true, tb=false}\n"
    "  %11:f32[32,64] = embedding_grad %0, %9, %8 {out=f32, padding_idx=-1, rows=32}\n"
    "  %12:f32[2048] = reshape %11 {shape=[2048]}\n"
    "  %13:f32[2048] = reshape %10 {shape=[2048]}\n"
    "  %14:f32[4096] = cat %12, %13 {dim=0}\n"
    "  %15:f32[4096] = expr %3, %14 {body=\"a - 0.01 * b\", dtype=f32}\n"
    "  write %15 {tensor=@flat}\n"
    "}\n";

/* The gradient of the table is one tensor, begun by its product; activations lie where w's gradient
 * comes later, and there is room for little else. */
START_TEST(gradients_take_their_place_when_they_are_made) {
  World w = world_create();
  Module *saved, *p = planned(&w, tied_text, false, &saved);
  check_equal(saved, p, 2e-6);
  check_plan(p);
  const Func *f = p->func[0];
  int scatters = 0;
  int64_t at = -1;
  for (int i = 0; i < f->nop; i++)
    if (!strcmp(op_str(f->op[i], "kind", ""), "scatter")) {
      scatters++;
      at = f->op[i]->out[0]->offset;
      ck_assert_int_eq(f->op[i]->in[2]->offset, at);
    }
  ck_assert_int_eq(scatters, 1);
  int shared = 0; /* made before w's gradient, in its bytes */
  for (int i = 0; i < f->nop; i++)
    for (int o = 0; f->op[i]->code == OP_group && o < f->op[i]->nout; o++) {
      const Value *v = f->op[i]->out[o];
      bool gradients = type_elems(v->type) >= 2048;
      shared += !gradients && !v->alias && v->offset >= at + 8192 && v->offset < at + 16384;
    }
  ck_assert_int_gt(shared, 0);
  /* w's gradient is made of what is 16 x 32 and of a packed 16 x 64, with another one alive */
  ck_assert_int_le(f->work_bytes, 4 * (4096 + 16 * 32 + 2 * 16 * 64));
  module_destroy(saved);
  module_destroy(p);
  world_destroy(&w);
}
END_TEST

/* Fuse, plan and package with the n-th allocation failing. */
static Status run_short(World *w, const Module *saved, long n) {
  static PassFn *const pass[] = {pass_save, pass_fuse, pass_plan};
  static const Stage gives[] = {STAGE_SAVED, STAGE_KERNELS, STAGE_PLANNED};
  PassOpts o = {&test_caps, false, false, 2};
  const Module *in = saved;
  Module *made[3] = {NULL};
  Status s = MPCC_OK;
  arena_fail_after(n);
  for (int i = 0; i < 3 && s == MPCC_OK; i++) {
    Builder *b = builder_create(w->strings, w->diag, gives[i]);
    if (!b) {
      s = MPCC_ERR_NOMEM;
      break;
    }
    s = pass[i](in, &o, b, w->diag);
    if (s == MPCC_OK)
      s = builder_finish(b, &made[i]);
    else
      builder_destroy(b);
    in = made[i];
  }
  Arena *a = s == MPCC_OK ? arena_create() : NULL;
  KernelTable kernels = {0};
  void *image = NULL;
  size_t bytes;
  if (s == MPCC_OK && !a)
    s = MPCC_ERR_NOMEM;
  if (s == MPCC_OK)
    s = codegen_kernels(in, a, &kernels);
  if (s == MPCC_OK)
    s = package_image(in, &kernels, NULL, 0, "{}", w->diag, &image, &bytes);
  arena_fail_after(0);
  free(image);
  arena_destroy(a);
  for (int i = 0; i < 3; i++)
    module_destroy(made[i]);
  return s;
}

START_TEST(short_memory_is_said) {
  Status s = MPCC_ERR_NOMEM;
  long n = 1;
  for (; s != MPCC_OK && n < 20000; n += n < 300 ? 1 : 3) {
    World w = world_create();
    Module *saved = world_parse(&w, step_text);
    s = run_short(&w, saved, n);
    ck_assert_msg(s == MPCC_OK || s == MPCC_ERR_NOMEM, "allocation %ld: status %d", n, s);
    module_destroy(saved);
    world_destroy(&w);
  }
  ck_assert_int_eq(s, MPCC_OK);
  ck_assert_int_gt(n, 20);
}
END_TEST

int main(void) {
  Suite *s = suite_create("plan");
  TCase *t = tcase_create("plan");
  tcase_add_loop_test(t, a_step_keeps_its_results, 0, 2);
  tcase_add_test(t, state_is_updated_in_place);
  tcase_add_test(t, old_contents_that_are_read_later_stay);
  tcase_add_test(t, reuse_saves_bytes);
  tcase_add_test(t, gradients_take_their_place_when_they_are_made);
  tcase_add_test(t, short_memory_is_said);
  tcase_set_timeout(t, 120);
  suite_add_tcase(s, t);
  return check_run(s);
}
