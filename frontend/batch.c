/* How many samples a step takes: loader.batch_size and trainer.accumulate_grad_batches, which may be
 * `auto`, and data.global_batch_tokens, which they must multiply to. */
#include "frontend/frontend.h"

enum { MAX_ACCUMULATE = 65536 };

static bool is_auto(const Val *v) {
  return v && v->kind == VAL_STR && !strcmp(v->s, "auto");
}

/* Tokens of a sample: sequence_length of the training data, or the one dimension of the first input; 0
 * when samples are no sequences. */
static int64_t sample_tokens(const Spec *s) {
  int64_t n = val_get_int(s->root, "data.train.sequence_length", 0);
  const Node *in = s->model_ok && s->model.ninput ? s->model.input[0] : NULL;
  return n || !in || !in->shape || in->shape->n != 1 ? n : in->shape->item[0]->i;
}

static int64_t distance(int64_t a, int64_t b) {
  return a > b ? a - b : b - a;
}

/* Batch size nearest to `batch` that divides n; the larger of two as near. */
static int64_t nearest_divisor(int64_t n, int64_t batch) {
  int64_t best = 1;
  for (int64_t d = 1; d <= n / d; d++) {
    const int64_t both[2] = {d, n / d};
    for (int i = 0; i < 2 && n % d == 0; i++)
      if (distance(both[i], batch) < distance(best, batch) ||
          (distance(both[i], batch) == distance(best, batch) && both[i] > best))
        best = both[i];
  }
  return best;
}

static void no_multiple(const Spec *s, const Val *global, int64_t batch, int64_t length) {
  Diag *d = s->c.d;
  int64_t micro = batch * length, below = global->i / micro * micro;
  diag_error(d, global->loc, 340,
             "not a multiple of batch_size x sequence_length x devices = %lld x %lld x 1 = %lld",
             (long long)batch, (long long)length, (long long)micro);
  if (global->i % length)
    diag_hint(d, "nearest: %s%lld", below ? "" : "the smallest is ",
              (long long)(below ? below : micro));
  else if (below)
    diag_hint(d, "nearest: %lld, %lld; or batch_size: %lld", (long long)below,
              (long long)(below + micro),
              (long long)nearest_divisor(global->i / length, batch));
  else
    diag_hint(d, "the smallest is %lld; or batch_size: %lld", (long long)micro,
              (long long)nearest_divisor(global->i / length, batch));
}

bool spec_batch_auto(const Spec *s) {
  return is_auto(val_get(s->root, "data.loader.batch_size"));
}

/* Settles accumulation for a batch that is a number. */
static void settle(Spec *s, int64_t batch) {
  Diag *d = s->c.d;
  Val *trainer = val_get(s->root, "trainer"), *data = val_get(s->root, "data");
  Val *accumulate = val_get(trainer, "accumulate_grad_batches");
  const Val *global = val_get(data, "global_batch_tokens");
  if (!accumulate || accumulate->kind == VAL_NULL || !global)
    return;
  if (global->kind != VAL_INT) {
    if (is_auto(accumulate)) {
      diag_error(d, accumulate->loc, 340,
                 "accumulate_grad_batches: auto needs data.global_batch_tokens");
      diag_hint(d, "give the tokens of an optimizer step, or write a number");
    }
    return;
  }
  int64_t length = sample_tokens(s);
  if (!length) {
    diag_error(d, global->loc, 340, "global_batch_tokens needs samples that are sequences of tokens");
    diag_hint(d, "write trainer.accumulate_grad_batches as a number");
    return;
  }
  int64_t micro = batch * length;
  if (global->i % micro) {
    no_multiple(s, global, batch, length);
  } else if (!is_auto(accumulate) && accumulate->i != global->i / micro) {
    diag_error(d, global->loc, 340,
               "not batch_size x sequence_length x accumulate_grad_batches x devices = %lld x %lld x "
               "%lld x 1 = %lld",
               (long long)batch, (long long)length, (long long)accumulate->i,
               (long long)(micro * accumulate->i));
    diag_hint(d, "write %lld, or accumulate_grad_batches: auto",
              (long long)(micro * accumulate->i));
  } else if (global->i / micro > MAX_ACCUMULATE) {
    diag_error(d, global->loc, 340, "%lld micro-batches in a step, %d at most",
               (long long)(global->i / micro), MAX_ACCUMULATE);
  } else if (is_auto(accumulate)) {
    val_set(s->c.a, trainer, str_c(s->c.s, "accumulate_grad_batches"),
            val_int(s->c.a, global->i / micro, ORIGIN_IMPLIED, accumulate->loc));
  }
}

void batch_settle(Spec *s) {
  const Val *batch = val_get(s->root, "data.loader.batch_size");
  if (batch && batch->kind == VAL_INT)
    settle(s, batch->i);
}

int64_t spec_batch_limit(const Spec *s) {
  const Val *global = val_get(s->root, "data.global_batch_tokens");
  int64_t length = sample_tokens(s), accumulate = 1, limit = SPEC_MAX_AUTO_BATCH;
  if (!global || global->kind != VAL_INT || !length)
    return limit;
  accumulate = val_get_int(s->root, "trainer.accumulate_grad_batches", 1);
  int64_t samples = global->i / length / (accumulate > 0 ? accumulate : 1), power = 1;
  while (power < limit && samples % (2 * power) == 0 && samples)
    power *= 2;
  return power;
}

Loc spec_batch_loc(const Spec *s) {
  return val_get(s->root, "data.loader.batch_size")->loc;
}

Status spec_set_batch(Spec *s, int64_t batch) {
  int before = diag_errors(s->c.d);
  Val *loader = val_get(s->root, "data.loader");
  val_set(s->c.a, loader, str_c(s->c.s, "batch_size"),
          val_int(s->c.a, batch, ORIGIN_IMPLIED, spec_batch_loc(s)));
  settle(s, batch);
  return diag_errors(s->c.d) > before ? MPCC_ERR_INPUT : MPCC_OK;
}
