/* The verifier names each broken rule: good modules are damaged in one place, by hand or in the
 * text, and the message must speak of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "tests/check_run.h"

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
  Module *m;
} Session;

static Session parse(const char *text) {
  Session s = {.arena = arena_create()};
  s.strings = str_table_create(s.arena);
  s.diag = diag_create(s.arena, s.strings);
  uint32_t file = diag_file(s.diag, "t.mpir", text, strlen(text));
  module_parse(s.strings, s.diag, file, text, strlen(text), &s.m);
  return s;
}

static void end(Session *s) {
  module_destroy(s->m);
  arena_destroy(s->arena);
}

static bool says(const Diag *d, const char *words) {
  for (const DiagMessage *m = diag_first(d); m; m = m->next)
    if (strstr(m->text, words))
      return true;
  return false;
}

static const char plain[] = "mpir 1 stage=forward\n"
                            "tensor @flat : f32[8] role=param\n"
                            "tensor @w : f32[2,3] role=param base=@flat at=2\n"
                            "tensor @x : f32[4,3] role=input\n"
                            "tensor @y : f32[4,2] role=output\n"
                            "func @f {\n"
                            "  %0:f32[4,3] = read {tensor=@x}\n"
                            "  %1:f32[2,3] = read {tensor=@w}\n"
                            "  %2:f32[4,2] = linear %0, %1\n"
                            "  %3:f32[4,2] = relu %2\n"
                            "  write %3 {tensor=@y}\n"
                            "}\n";

static void view_outside(Module *m) {
  m->tensor[1]->base_elem = 3;
}
static void view_overflow(Module *m) {
  m->tensor[1]->base_elem = INT64_MAX;
}
static void view_dtype(Module *m) {
  m->tensor[1]->type = type_with_dtype(m->types, m->tensor[1]->type, MPCC_BF16);
}
static void view_of_view(Module *m) {
  m->tensor[2]->base = m->tensor[1];
}
static void tensor_index(Module *m) {
  m->tensor[2]->index = 0;
}
static void two_names(Module *m) {
  m->tensor[3]->name = m->tensor[2]->name;
}
static void later_operand(Module *m) {
  m->func[0]->op[2]->in[0] = m->func[0]->op[3]->out[0];
}
static void own_operand(Module *m) {
  m->func[0]->op[2]->in[0] = m->func[0]->op[2]->out[0];
}
static void no_operand(Module *m) {
  m->func[0]->op[2]->in[0] = NULL;
}
static void id_order(Module *m) {
  m->func[0]->op[2]->out[0]->id = 7;
}
static void value_count(Module *m) {
  m->func[0]->nvalue = 9;
}
static void op_index(Module *m) {
  m->func[0]->op[2]->index = 1;
}
static void result_type(Module *m) {
  m->func[0]->op[3]->out[0]->type = m->func[0]->op[0]->out[0]->type;
}
static void result_dtype(Module *m) {
  Value *v = m->func[0]->op[3]->out[0];
  v->type = type_with_dtype(m->types, v->type, MPCC_F16);
}
static void read_type(Module *m) {
  Value *v = m->func[0]->op[0]->out[0];
  v->type = type_with_dtype(m->types, v->type, MPCC_F16);
}
static void attr_foreign(Module *m) {
  static Tensor foreign;
  m->func[0]->op[0]->attr[0].u.tensor = &foreign;
}
static void attr_kind(Module *m) {
  m->func[0]->op[0]->attr[0].kind = AT_INT;
}
static void attr_dtype(Module *m) {
  m->tensor[3]->attr = m->func[0]->op[0]->attr;
  m->tensor[3]->nattr = 1;
  m->tensor[3]->attr[0].kind = AT_DTYPE;
  m->tensor[3]->attr[0].u.i = 77;
}
static void no_body(Module *m) {
  m->func[0]->op[3]->scalar = NULL;
}
static void body_elsewhere(Module *m) {
  static Body body;
  m->func[0]->op[3]->body = &body;
}
static void operand_count(Module *m) {
  m->func[0]->op[3]->nin = 0;
}
static void too_late(Module *m) {
  m->stage = STAGE_KERNELS;
}
static void mixed_product(Module *m) {
  m->stage = STAGE_TYPED;
  m->tensor[2]->type = type_with_dtype(m->types, m->tensor[2]->type, MPCC_BF16);
  m->func[0]->op[0]->out[0]->type = m->tensor[2]->type;
}

static const struct {
  void (*damage)(Module *m);
  const char *words;
} damages[] = {
    {view_outside, "lies outside its base"},
    {view_overflow, "lies outside its base"},
    {view_dtype, "is bf16, its base 'flat' is f32"},
    {view_of_view, "view of a view"},
    {tensor_index, "has index 0 at position 2"},
    {two_names, "two tensors are named 'x'"},
    {later_operand, "operand 0 is not a value defined before it"},
    {own_operand, "operand 0 is not a value defined before it"},
    {no_operand, "operand 0 is not a value defined before it"},
    {id_order, "id 7 out of order"},
    {value_count, "nvalue says 9"},
    {op_index, "index 1 at position 2"},
    {result_type, "result 0 is f32[4,3], its shape rule gives f32[4,2]"},
    {result_dtype, "result 0 is f16[4,2], its shape rule gives f32[4,2]"},
    {read_type, "different types"},
    {attr_foreign, "tensor of another module"},
    {attr_kind, "wrong kind of value"},
    {attr_dtype, "is no dtype"},
    {no_body, "does not have 1 arguments"},
    {body_elsewhere, "a group and nothing else has a body"},
    {operand_count, "0 operands"},
    {too_late, "not legal in stage kernels"},
    {mixed_product, "operands are bf16 and f32 in stage typed"},
};

START_TEST(damaged_modules) {
  Session s = parse(plain);
  ck_assert(s.m != NULL);
  ck_assert_int_eq(module_verify(s.m, s.diag), MPCC_OK);
  damages[_i].damage(s.m);
  ck_assert_int_eq(module_verify(s.m, s.diag), MPCC_ERR_INTERNAL);
  ck_assert_msg(says(s.diag, damages[_i].words), "'%s' instead of '%s'", diag_first(s.diag)->text,
                damages[_i].words);
  end(&s);
}
END_TEST

/* ---- stages and groups, in text -------------------------------------------------------------- */

#define HEAD(stage) "mpir 1 stage=" stage "\n"
#define KERNEL(attrs, results, body)                                                               \
  HEAD("kernels")                                                                                  \
  "tensor @x : f32[4,6] role=input\n"                                                              \
  "tensor @i : i64[4] role=input\n"                                                                \
  "func @f {\n"                                                                                    \
  "  %0:f32[4,6] = read {tensor=@x}\n"                                                             \
  "  %1:i64[4] = read {tensor=@i}\n"                                                               \
  "  " results " = group %0, %1 {" attrs "} [\n" body "  ]\n"                                      \
  "}\n"
#define ROWS(stmts)                                                                                \
  KERNEL("kind=\"rows\"", "%2:f32[4,6]",                                                           \
         "dim 4 6 cols 1 panel 2\n"                                                                \
         "in 0: 0 + 6 1\n"                                                                         \
         "in 1: 0 + 1 0\n"                                                                         \
         "out 0: 0 + 6 1\n" stmts)

static const struct {
  const char *text, *words; /* words NULL: legal */
} texts[] = {
    {ROWS("s0:f32 elem = load 0 store 0 s0"), NULL},
    {ROWS("s0:f32 elem = load 0"), "result 0 is never stored"},
    {ROWS("s0:f64 elem = load 0 store 0 s0"), "wrong register type"},
    {ROWS("s0:f32 row = load 0 store 0 s0"), "load varies over columns"},
    {ROWS("s0:f32 col = load 0 store 0 s0"), "load varies over rows"},
    {ROWS("s0:i64 all = load 1 store 0 s0"), "load varies over rows"},
    {ROWS("s0:f32 elem = load 2 store 0 s0"), "operand that is not there"},
    {ROWS("s0:f32 elem = load 0 store 1 s0"), "result that is not there"},
    {ROWS("s0:i64 row = load 1 store 0 s0"), "store converts between register types"},
    {ROWS("s0:i64 row = index 1 store 0 s0"), "index varies more than its level"},
    {ROWS("s0:i64 all = param 0 store 0 s0"), "parameter that is not there"},
    {ROWS("s0:f32 elem = acc store 0 s0"), "acc outside a product"},
    {ROWS("s0:f32 elem = load 0 s1:i64 row = load 1 s2:f32 elem = add s0, s1 store 0 s2"),
     "different register types"},
    {ROWS("s0:f32 elem = load 0 s1:b1 elem = lt s0, s0 s2:b1 elem = add s1, s1 store 0 s0"),
     "no such arithmetic"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = and s0, s0 store 0 s0"), "logic on no truth values"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = select s0, s0, s0 store 0 s0"), "select mixes"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = lt s0, s0 store 0 s0"), "comparison mixes"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = round i64 s0 store 0 s0"), "round mixes"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = rand s0, s0, s0, s0 store 0 s0"), "no integers"},
    {ROWS("s0:f32 elem = load 0 s1:f32 elem = rsum s0 store 0 s0"), "wrong level"},
    {ROWS("s0:i64 row = load 1 s1:i64 row = rsum s0 store 0 s0"), "does not vary enough"},
    {ROWS("s0:f32 elem = load 0 s1:f32 col = csum s0 s2:f32 elem = add s0, s1 store 0 s2"),
     "used before it is stored"},
    {ROWS("s0:f32 elem = load 0 s1:f32 col = csum s0 store 0 s1"), NULL},
    {KERNEL("kind=\"rows\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 0\nin 0: 0 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "panel of 0 rows"},
    {KERNEL("kind=\"rows\"", "%2:f32[4,6]", "dim 4 6 cols 1 panel 1\nin 0: 0 + 6 1\n"),
     "body has 1 operands and 0 results"},
    {KERNEL("kind=\"rows\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 2\nin 0: 1 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"
            "s0:f32 elem = load 0 store 0 s0"),
     "operand 0 reaches elements 1 to 24 of 24"},
    {KERNEL("kind=\"rows\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 2\nin 0: 0 + 6 -1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"
            "s0:f32 elem = load 0 store 0 s0"),
     "operand 0 reaches elements -5 to 18"},
    {KERNEL("kind=\"rows\"", "%2:f32[2]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 1 0\n"
            "s0:f32 elem = load 0 s1:f32 all = asum s0 store 0 s1"),
     "result 0 reaches elements 0 to 3 of 2"},
    {KERNEL("kind=\"weave\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "unknown kind 'weave'"},
    {KERNEL("k=6, kind=\"product\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "operand 1 is not packed"},
    {KERNEL("kind=\"index\", row_stride=6", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 1 0\nin 1: 0 + 0 1\nout 0: 0 + 6 1\n"),
     "operand 1 reaches elements 0 to 5 of 4"},
    {KERNEL("k=6, kind=\"conv\"", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 1 0\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "two factors, one column dimension and a window"},
    {KERNEL("batch=1, channels=6, k=6, kind=\"conv\", positions=[5], strides=[6, 6], x=[4]",
            "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 1 0\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "rows and k are not those of the window"},
    {KERNEL("batch=1, channels=6, k=6, kind=\"conv\", positions=[4], strides=[6, 6], x=[5]",
            "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 1 0\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "operand 0 reaches elements 0 to 29 of 24"},
    {KERNEL("axis=0, kind=\"move\", sizes=[3, 2], starts=[0, 3]", "%2:f32[4,6]",
            "dim 4 6 cols 1 panel 1\nin 0: 0 + 6 1\nin 1: 0 + 0 0\nout 0: 0 + 6 1\n"),
     "operand 1 lies outside the axis"},
    {KERNEL("keys=4, kind=\"attention\"", "%2:f32[4,6]",
            "dim 1 1 4 6 cols 1 panel 1\nin 0: 0 + 0 0 6 1\nin 1: 0 + 0 0 0 0\n"
            "out 0: 0 + 0 0 6 1\n"),
     "attention are incomplete"},
    {HEAD("laid") "tensor @x : f32[1,1,2,2] role=input\nfunc @f {\n"
                  "%0:f32[1,1,2,2] = read {tensor=@x}\n%1:f32[1,1,1,1] = conv %0, %0\n}\n",
     "not legal in stage laid"},
    {HEAD("step") "tensor @x : f32[2] role=input\ntensor @s : f32[] role=scale\nfunc @f {\n"
                  "%0:f32[2] = read {tensor=@x}\n%1:f32[] = read {tensor=@s}\n"
                  "%2:f32[2] = qgrad %0, %1 {to=e5m2}\n}\n",
     "not legal in stage step"},
    {HEAD("typed") "tensor @x : f32[2,2] role=input\ntensor @r : f32[2] role=input\nfunc @f {\n"
                   "%0:f32[2,2] = read {tensor=@x}\n%1:f32[2] = read {tensor=@r}\n"
                   "%2:f32[2,2] = layer_norm_grad %0, %0, %1, %1 {axes=1}\n}\n",
     "not legal in stage typed"},
    {HEAD("forward") "func @f {\n%0:f32[2] = read {eps=1.0}\n}\n", "attribute tensor is missing"},
    {HEAD("forward") "func @f {\n%0:f32[] = const {dtype=1, value=1.0}\n}\n",
     "'dtype' has the wrong kind of value"},
};

START_TEST(texts_with_one_fault) {
  Session s = parse(texts[_i].text);
  if (texts[_i].words)
    ck_assert_msg(!s.m && says(s.diag, texts[_i].words), "'%s' instead of '%s'",
                  diag_first(s.diag) ? diag_first(s.diag)->text : "accepted", texts[_i].words);
  else
    ck_assert_msg(s.m != NULL, "%s", diag_first(s.diag)->text);
  end(&s);
}
END_TEST

/* ---- plans ----------------------------------------------------------------------------------- */

static const char planned[] = "mpir 1 stage=planned\n"
                              "segments state=128 derived=0 accum=0 work=192 io=64\n"
                              "tensor @p : f32[16] role=param offset=0\n"
                              "tensor @v : f32[4] role=param base=@p at=4\n"
                              "tensor @q : f32[16] role=param offset=64\n"
                              "tensor @x : f32[16] role=input offset=0\n"
                              "func @f work=192 {\n"
                              "  %0:f32[16]@p+0 = read {tensor=@p}\n"
                              "  %1:f32[16]@x+0 = read {tensor=@x}\n"
                              "  %2:f32[16]@work+0 = group %0, %1 {kind=\"rows\"} [\n"
                              "    dim 16 cols 1 panel 1\n"
                              "    in 0: 0 + 1\n"
                              "    in 1: 0 + 1\n"
                              "    out 0: 0 + 1\n"
                              "    s0:f32 elem = load 0\n"
                              "    s1:f32 elem = load 1\n"
                              "    s2:f32 elem = add s0, s1\n"
                              "    store 0 s2\n"
                              "  ]\n"
                              "  %3:f32[16]@work+64 = group %2 {kind=\"rows\"} [\n"
                              "    dim 16 cols 1 panel 1\n"
                              "    in 0: 15 + -1\n"
                              "    out 0: 0 + 1\n"
                              "    s0:f32 elem = load 0\n"
                              "    store 0 s0\n"
                              "  ]\n"
                              "  %4:f32[16]@p+0 = group %0, %3 {kind=\"rows\"} [\n"
                              "    dim 16 cols 1 panel 1\n"
                              "    in 0: 0 + 1\n"
                              "    in 1: 0 + 1\n"
                              "    out 0: 0 + 1\n"
                              "    s0:f32 elem = load 0\n"
                              "    s1:f32 elem = load 1\n"
                              "    s2:f32 elem = mul s0, s1\n"
                              "    store 0 s2\n"
                              "  ]\n"
                              "  write %4 {tensor=@p}\n"
                              "}\n";

static Value *result_of(Module *m, int op) {
  return m->func[0]->op[op]->out[0];
}
static void unaligned(Module *m) {
  result_of(m, 2)->offset = 4;
}
static void past_work(Module *m) {
  result_of(m, 3)->offset = 192;
}
static void no_place(Module *m) {
  result_of(m, 3)->offset = -1;
}
static void two_places(Module *m) {
  result_of(m, 4)->offset = 128;
}
static void past_tensor(Module *m) {
  result_of(m, 4)->alias_elem = 1;
}
static void reversed_in_place(Module *m) {
  result_of(m, 3)->offset = 0;
}
static void write_over_read(Module *m) {
  result_of(m, 2)->offset = -1;
  result_of(m, 2)->alias = m->tensor[0];
}
static void tensors_share(Module *m) {
  m->tensor[2]->offset = 0;
}
static void tensor_past_segment(Module *m) {
  m->tensor[2]->offset = 128;
}
static void tensor_unplanned(Module *m) {
  m->tensor[3]->offset = -1;
}
static void view_misplaced(Module *m) {
  m->tensor[1]->offset = 0;
}
static void small_work(Module *m) {
  m->func[0]->work_bytes = 100;
}
/* Legal: the first group writes over its second operand's tensor, which nobody reads later. */
static void input_in_place(Module *m) {
  result_of(m, 2)->offset = -1;
  result_of(m, 2)->alias = m->tensor[3];
}
/* The written value leaves its tensor: it is copied at the end, over nothing that is read. */
static void copied_at_end(Module *m) {
  result_of(m, 4)->alias = NULL;
  result_of(m, 4)->offset = 128;
}
/* Legal: dead bytes are used again. */
static void reuse(Module *m) {
  result_of(m, 4)->offset = 0;
  result_of(m, 4)->alias = NULL;
}

static const struct {
  void (*damage)(Module *m);
  const char *words; /* NULL: legal */
} plans[] = {
    {unaligned, "unaligned or outside"},
    {past_work, "unaligned or outside"},
    {small_work, "unaligned or outside"},
    {no_place, "%3 has no place"},
    {two_places, "both in the work arena and in tensor 'p'"},
    {past_tensor, "does not fit tensor 'p'"},
    {reversed_in_place, "%3 is written over %2"},
    {write_over_read, "%2 is written over %0, which lives to op 4"},
    {tensors_share, "share bytes"},
    {tensor_past_segment, "ends outside its segment"},
    {tensor_unplanned, "has offset -1"},
    {view_misplaced, "its base says 16"},
    {input_in_place, NULL},
    {reuse, NULL},
    {copied_at_end, NULL},
};

START_TEST(plans_with_one_fault) {
  Session s = parse(planned);
  ck_assert_msg(s.m != NULL, "%s", diag_first(s.diag) ? diag_first(s.diag)->text : "");
  plans[_i].damage(s.m);
  Status status = module_verify(s.m, s.diag);
  if (plans[_i].words)
    ck_assert_msg(status == MPCC_ERR_INTERNAL && says(s.diag, plans[_i].words),
                  "'%s' instead of '%s'",
                  diag_first(s.diag) ? diag_first(s.diag)->text : "accepted", plans[_i].words);
  else
    ck_assert_msg(status == MPCC_OK, "%s", diag_first(s.diag) ? diag_first(s.diag)->text : "");
  end(&s);
}
END_TEST

/* Two halves made where the concatenation wants them; the second is read again afterwards. */
static const char joined[] = "mpir 1 stage=planned\n"
                             "segments state=0 derived=0 accum=0 work=384 io=64\n"
                             "tensor @x : f32[16] role=input offset=0\n"
                             "tensor @y : f32[32] role=output offset=256\n"
                             "func @f work=256 {\n"
                             "  %0:f32[16] = read {tensor=@x}\n"
                             "  %1:f32[16]@work+0 = group %0 {kind=\"rows\"} [\n"
                             "    dim 16 cols 1 panel 1\n"
                             "    in 0: 0 + 1\n"
                             "    out 0: 0 + 1\n"
                             "    s0:f32 elem = load 0\n"
                             "    store 0 s0\n"
                             "  ]\n"
                             "  %2:f32[16]@work+64 = group %0 {kind=\"rows\"} [\n"
                             "    dim 16 cols 1 panel 1\n"
                             "    in 0: 0 + 1\n"
                             "    out 0: 0 + 1\n"
                             "    s0:f32 elem = load 0\n"
                             "    store 0 s0\n"
                             "  ]\n"
                             "  %3:f32[32]@work+0 = group %1, %2 {axis=0, kind=\"move\", "
                             "sizes=[16, 16], starts=[0, 16]} [\n"
                             "    dim 32 cols 1 panel 1\n"
                             "    in 0: 0 + 1\n"
                             "    in 1: 0 + 1\n"
                             "    out 0: 0 + 1\n"
                             "  ]\n"
                             "  %4:f32[32]@work+128 = group %3, %2 {kind=\"rows\"} [\n"
                             "    dim 32 cols 1 panel 1\n"
                             "    in 0: 0 + 1\n"
                             "    in 1: 0 + 0\n"
                             "    out 0: 0 + 1\n"
                             "    s0:f32 elem = load 0\n"
                             "    s1:f32 all = load 1\n"
                             "    s2:f32 elem = add s0, s1\n"
                             "    store 0 s2\n"
                             "  ]\n"
                             "  write %4 {tensor=@y}\n"
                             "}\n";

START_TEST(pieces_of_a_concatenation) {
  Session s = parse(joined);
  ck_assert_msg(s.m != NULL, "%s", diag_first(s.diag) ? diag_first(s.diag)->text : "");
  /* Halves in each other's place would be overwritten by the move. */
  result_of(s.m, 1)->offset = 64;
  result_of(s.m, 2)->offset = 0;
  ck_assert_int_eq(module_verify(s.m, s.diag), MPCC_ERR_INTERNAL);
  ck_assert(says(s.diag, "%3 is written over"));
  end(&s);
}
END_TEST

/* Outputs share the work segment with all functions but those that write them. */
START_TEST(outputs_behind_work) {
  Session s = parse(joined);
  ck_assert(s.m != NULL);
  module_tensor(s.m, "y")->offset = 192;
  ck_assert_int_eq(module_verify(s.m, s.diag), MPCC_ERR_INTERNAL);
  ck_assert(says(s.diag, "'y' lies in the 256 bytes"));
  end(&s);
}
END_TEST

/* A swap of two tensors cannot be planned as two copies at the end. */
START_TEST(swap_by_copies) {
  Session s = parse("mpir 1 stage=planned\n"
                    "segments state=128 derived=0 accum=0 work=0 io=0\n"
                    "tensor @x : f32[16] role=param offset=0\n"
                    "tensor @y : f32[16] role=param offset=64\n"
                    "func @f work=0 {\n"
                    "  %0:f32[16] = read {tensor=@x}\n"
                    "  %1:f32[16] = read {tensor=@y}\n"
                    "  write %0 {tensor=@y}\n"
                    "  write %1 {tensor=@x}\n"
                    "}\n");
  ck_assert(!s.m && says(s.diag, "is written over"));
  end(&s);
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

int main(void) {
  Suite *s = suite_create("verify");
  TCase *t = tcase_create("rules");
  tcase_add_loop_test(t, damaged_modules, 0, COUNT(damages));
  tcase_add_loop_test(t, texts_with_one_fault, 0, COUNT(texts));
  tcase_add_loop_test(t, plans_with_one_fault, 0, COUNT(plans));
  tcase_add_test(t, pieces_of_a_concatenation);
  tcase_add_test(t, outputs_behind_work);
  tcase_add_test(t, swap_by_copies);
  suite_add_tcase(s, t);
  return check_run(s);
}
