/* logging.sample: what a language model writes, by its own predict function, one token a run. The
 * same bits at any thread count, and on a resumed run: numbers are drawn from the seed, the step and
 * the place alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/philox.h"
#include "runtime/fit.h"

typedef struct {
  int64_t input, output, length, vocabulary;
  int64_t *token; /* prompt, then what was written */
  int64_t n, prompt;
  float *logits, *order;
  double temperature;
  int64_t top_k;
} Sampler;

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

/* A number in [0, 1). */
static double uniform(const mprt_program *p, int64_t step, int64_t place) {
  const uint32_t counter[4] = {(uint32_t)place, (uint32_t)step, (uint32_t)(step >> 32), 0x73616d70};
  const uint32_t key[2] = {(uint32_t)p->seed, (uint32_t)((uint64_t)p->seed >> 32)};
  uint32_t r[4];
  philox4x32(counter, key, r);
  return (double)r[0] * 0x1p-32;
}

/* The next token by the logits; not a number counts as impossible. */
static int64_t choose(Sampler *s, double u) {
  int64_t best = 0, n = s->vocabulary;
  for (int64_t i = 0; i < n; i++) {
    if (isnan(s->logits[i]))
      s->logits[i] = -INFINITY;
    best = s->logits[i] > s->logits[best] ? i : best;
  }
  if (s->temperature <= 0)
    return best;
  float least = -INFINITY;
  if (s->top_k > 0 && s->top_k < n) {
    memcpy(s->order, s->logits, (size_t)n * sizeof *s->order);
    qsort(s->order, (size_t)n, sizeof *s->order, by_size);
    least = s->order[s->top_k - 1];
  }
  double sum = 0, top = s->logits[best];
  for (int pass = 0; pass < 2; pass++) {
    double at = 0;
    for (int64_t i = 0; i < n; i++) {
      if (s->logits[i] < least)
        continue;
      at += exp((s->logits[i] - top) / s->temperature);
      if (pass && at > u * sum)
        return i;
    }
    sum = at;
  }
  return best;
}

static void put_token(mprt_program *p, const Sampler *s, int64_t place, int64_t token) {
  const MpccTensor *t = &p->tensor[s->input];
  void *data = mprt__tensor_data(p, s->input);
  if (t->dtype == MPCC_I64)
    ((int64_t *)data)[place] = token;
  else
    ((int32_t *)data)[place] = (int32_t)token;
}

/* One more token behind the last `length` ones. */
static Status extend(mprt_program *p, Sampler *s, const MpccFunction *predict, int64_t step) {
  const MpccTensor *out = &p->tensor[s->output];
  int64_t from = s->n > s->length ? s->n - s->length : 0, count = s->n - from;
  for (int64_t i = 0; i < s->length; i++)
    put_token(p, s, i, i < count ? s->token[from + i] : 0);
  Status st = mprt__run(p, predict, NULL, NULL);
  const uint8_t *all = mprt__tensor_look(p, s->output);
  if (st == MPCC_OK)
    st = mprt__device_status(p);
  if (st != MPCC_OK)
    return st;
  size_t row = (size_t)s->vocabulary * dtype_bytes((DType)out->dtype);
  mprt__convert(all + (size_t)(count - 1) * row, (DType)out->dtype, s->logits, MPCC_F32,
                s->vocabulary);
  s->token[s->n] = choose(s, uniform(p, step, s->n));
  s->n++;
  return MPCC_OK;
}

/* Input and output of a language model: tokens [batch, T], logits [batch, T, vocabulary]. */
static bool find_model(const mprt_program *p, Sampler *s) {
  json_t *inputs = mprt__json_get(p->spec, "model.inputs");
  const char *name = json_object_iter_key(json_object_iter(inputs));
  char *full = mprt__format("io.%s", name ? name : "");
  s->input = full ? mprt__tensor_index(p, full) : -1;
  s->output = mprt__tensor_of_role(p, ROLE_OUTPUT);
  free(full);
  if (s->input < 0 || s->output < 0)
    return false;
  const MpccTensor *in = &p->tensor[s->input], *out = &p->tensor[s->output];
  s->length = in->rank == 2 ? in->dim[1] : 0;
  s->vocabulary = out->rank == 3 ? out->dim[2] : 0;
  return s->length && s->vocabulary && out->dim[1] == s->length &&
         (in->dtype == MPCC_I32 || in->dtype == MPCC_I64);
}

static bool read_prompt(const json_t *config, Sampler *s, int64_t more) {
  const json_t *tokens = json_object_get(config, "tokens");
  const char *text = mprt__json_string(config, "prompt", "\n");
  int64_t n = json_is_array(tokens) ? (int64_t)json_array_size(tokens) : (int64_t)strlen(text);
  s->token = calloc((size_t)(n + more) + 2, sizeof *s->token);
  if (!s->token)
    return false;
  for (int64_t i = 0; i < n; i++) {
    int64_t v = json_is_array(tokens) ? json_integer_value(json_array_get(tokens, (size_t)i))
                                      : (unsigned char)text[i];
    if (v < s->vocabulary)
      s->token[s->n++] = v;
  }
  if (!s->n)
    s->n = 1; /* token 0: something has to stand before */
  s->prompt = s->n;
  return true;
}

/* Bytes as they are, but for what a terminal would obey; token numbers of other data. */
static char *result(const Sampler *s, bool bytes) {
  char *text = calloc((size_t)s->n, 24), *at = text;
  for (int64_t i = 0; text && i < s->n; i++) {
    int64_t v = s->token[i];
    bool shown = v == '\n' || v == '\t' || (v >= ' ' && v < 256 && v != 127);
    if (bytes)
      *at++ = shown ? (char)v : '?';
    else
      at += sprintf(at, "%s%lld", i ? " " : "", (long long)v);
  }
  return text;
}

bool mprt__sample_due(const mprt_program *p, int64_t step) {
  int64_t every = mprt__json_int(p->spec, "logging.sample.every_n_steps", 0);
  return every > 0 && step % every == 0;
}

Status mprt__sample(mprt_program *p, int64_t step, char **text) {
  const json_t *config = mprt__json_get(p->spec, "logging.sample");
  const MpccFunction *predict = mprt__function(p, "predict");
  Sampler s = {.temperature = mprt__json_double(config, "temperature", 1),
               .top_k = mprt__json_int(config, "top_k", 0)};
  int64_t more = mprt__json_int(config, "max_new_tokens", 64);
  *text = NULL;
  if (!predict || !find_model(p, &s))
    return mprt__fail(&p->cb, MPCC_ERR_INPUT,
                      "logging.sample needs tokens [T] as the input and logits [T, vocabulary]");
  s.logits = calloc((size_t)s.vocabulary, sizeof *s.logits);
  s.order = calloc((size_t)s.vocabulary, sizeof *s.order);
  Status st = s.logits && s.order && read_prompt(config, &s, more) ? MPCC_OK
                                                                    : mprt__nomem(&p->cb, "sample");
  if (st == MPCC_OK)
    mprt__set_int(p, "io.valid", 1);
  for (int64_t i = 0; st == MPCC_OK && i < more; i++)
    st = extend(p, &s, predict, step);
  if (st == MPCC_OK) {
    const char *format = mprt__json_string(p->spec, "data.train.format", "");
    *text = result(&s, !strcmp(format, "text"));
    if (!*text)
      st = mprt__nomem(&p->cb, "sample");
  }
  free(s.token);
  free(s.logits);
  free(s.order);
  return st;
}
