/* Samples of a step: accumulation from global_batch_tokens, and what does not come out. */
#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

/* A language model of sequences of 8 tokens. */
static Spec *spec(const char *batch, const char *accumulate, const char *global) {
  char text[1024];
  snprintf(text, sizeof text,
           "mpcc: 1\nname: t\nmodel:\n  inputs: {tokens: {shape: [8], dtype: int32}}\n"
           "  layers: [{Embedding: 16, embedding_dim: 4, inputs: [tokens]}, {Linear: 16}]\n"
           "loss: {type: CrossEntropyLoss, inputs: {input: logits, target: next_tokens}}\n"
           "data:\n  train: {format: text, path: x, sequence_length: 8}\n"
           "  loader: {batch_size: %s}\n%s%s%s"
           "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_steps: 1, accumulate_grad_batches: %s}\n",
           batch, global ? "  global_batch_tokens: " : "", global ? global : "",
           global ? "\n" : "", accumulate);
  return spec_text(&s, text);
}

static const Val *at(const Spec *sp, const char *path) {
  return val_get(sp->root, path);
}

START_TEST(auto_divides) {
  Spec *sp = spec("4", "auto", "192");
  ck_assert_ptr_nonnull(sp);
  ck_assert_int_eq(at(sp, "trainer.accumulate_grad_batches")->i, 6);
  ck_assert_ptr_nonnull(spec("4", "6", "192"));
  ck_assert_int_eq(at(spec("4", "6", NULL), "trainer.accumulate_grad_batches")->i, 6);
}
END_TEST

/* The example of the language's reference: 12 x 1024 against 524288, here with 8 for 1024. */
START_TEST(not_a_multiple) {
  ck_assert_ptr_null(spec("12", "auto", "4096"));
  const DiagMessage *m = message(&s, 340);
  ck_assert_ptr_nonnull(m);
  ck_assert_str_eq(m->text,
                   "not a multiple of batch_size x sequence_length x devices = 12 x 8 x 1 = 96");
  ck_assert_str_eq(m->hint, "nearest: 4032, 4128; or batch_size: 16");
  ck_assert_int_eq((int)m->loc.line, 10);
}
END_TEST

START_TEST(other_mistakes) {
  static const struct {
    const char *batch, *accumulate, *global, *text, *hint;
  } row[] = {
      {"12", "auto", "100", "12 x 8 x 1 = 96", "nearest: 96"},
      {"12", "auto", "64", "12 x 8 x 1 = 96", "the smallest is 96; or batch_size: 8"},
      {"4", "5", "192", "= 4 x 8 x 5 x 1 = 160", "write 160, or accumulate_grad_batches: auto"},
      {"1", "auto", "8000000", "1000000 micro-batches in a step, 65536 at most", NULL},
      {"4", "auto", NULL, "auto needs data.global_batch_tokens", "write a number"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    session_close(&s);
    s = session_open();
    ck_assert_ptr_null(spec(row[i].batch, row[i].accumulate, row[i].global));
    const DiagMessage *m = message(&s, 340);
    ck_assert_ptr_nonnull(m);
    ck_assert_msg(strstr(m->text, row[i].text) != NULL, "%s", m->text);
    if (row[i].hint)
      ck_assert_msg(m->hint && strstr(m->hint, row[i].hint), "%s", m->hint ? m->hint : "no hint");
    ck_assert_ptr_null(m->next);
  }
}
END_TEST

START_TEST(images_have_no_tokens) {
  char text[] = SPEC_HEAD "  layers: [Flatten, {Linear: 3}]\nloss: CrossEntropyLoss\n"
                          "data:\n  train: {format: synthetic, shape: [1, 4, 4], classes: 3}\n"
                          "  loader: {batch_size: 2}\n  global_batch_tokens: 64\n"
                          "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\n";
  ck_assert_ptr_null(spec_text(&s, text));
  ck_assert_str_eq(message(&s, 340)->text,
                   "global_batch_tokens needs samples that are sequences of tokens");
}
END_TEST

START_TEST(batch_auto_is_set_later) {
  Spec *sp = spec("auto", "auto", "192"); /* 24 samples */
  ck_assert_ptr_nonnull(sp);
  ck_assert(spec_batch_auto(sp));
  ck_assert_int_eq(spec_batch_limit(sp), 8);
  ck_assert_int_eq(spec_set_batch(sp, 8), MPCC_OK);
  ck_assert(!spec_batch_auto(sp));
  ck_assert_int_eq(at(sp, "data.loader.batch_size")->i, 8);
  ck_assert_int_eq(at(sp, "trainer.accumulate_grad_batches")->i, 3);
  ck_assert_int_eq(spec_batch_limit(spec("auto", "1", NULL)), SPEC_MAX_AUTO_BATCH);
  ck_assert_int_eq(spec_batch_limit(spec("auto", "2", "192")), 4); /* 12 samples a micro-batch */
  sp = spec("auto", "auto", "192");
  ck_assert_int_eq(spec_set_batch(sp, 16), MPCC_ERR_INPUT);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("batch");
  TCase *c = tcase_create("batch");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_test(c, auto_divides);
  tcase_add_test(c, not_a_multiple);
  tcase_add_test(c, other_mistakes);
  tcase_add_test(c, images_have_no_tokens);
  tcase_add_test(c, batch_auto_is_set_later);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
