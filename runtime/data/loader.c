/* Batches made ahead on one thread: a ring of slots, each a whole batch in the formats of the io
 * tensors. The order of samples depends on seed and epoch alone. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/data/data.h"

typedef struct {
  int64_t tensor; /* io tensor */
  int field;      /* of the data set */
  int64_t sample_bytes;
  mprt__transform transform;
  int64_t classes; /* integer targets must be in [0, classes) or ignored; 0: unknown */
  int64_t ignored;
} Binding;

typedef struct {
  uint8_t *data[MPRT__MAX_FIELDS];
  int64_t valid, epoch, sample; /* position behind the batch */
} Slot;

struct mprt__loader {
  mprt_program *program;
  mprt__loader_options o;
  int nbinding, nslot;
  Binding binding[MPRT__MAX_FIELDS];
  Slot *slot;
  int64_t *order;
  mprt__reader reader; /* the thread's */
  pthread_t thread;
  bool started;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* under lock */
  int64_t made, taken; /* batches; slot = number % nslot */
  bool stop, ended;
  Status error;
  char message[300];
};

double mprt__seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t mprt__batches(int64_t nsample, int64_t batch, bool drop_last) {
  return drop_last ? nsample / batch : (nsample + batch - 1) / batch;
}

/* ---- the thread
 * --------------------------------------------------------------------------------------- */

static void set_order(mprt__loader *l, int64_t epoch) {
  int64_t n = l->o.data->nsample;
  for (int64_t i = 0; i < n; i++)
    l->order[i] = i;
  if (l->o.shuffle)
    mprt__shuffle(l->order, n, l->o.seed, epoch);
}

/* false after recording an error. */
static bool check_target(mprt__loader *l, const Binding *b, const uint8_t *value, int64_t sample) {
  int64_t v;
  memcpy(&v, value, sizeof v);
  if (!b->classes || v == b->ignored || (v >= 0 && v < b->classes))
    return true;
  l->error = MPCC_ERR_DATA;
  snprintf(l->message, sizeof l->message,
           "data.%s: label %lld of sample %lld is outside the %lld classes of the model",
           l->o.split, (long long)v, (long long)sample, (long long)b->classes);
  return false;
}

static bool fill_slot(mprt__loader *l, Slot *s, int64_t first, int64_t count) {
  for (int k = 0; k < l->nbinding; k++) {
    const Binding *b = &l->binding[k];
    for (int64_t i = 0; i < count; i++) {
      int64_t sample = l->order[first + i];
      uint8_t *to = s->data[k] + i * b->sample_bytes;
      const void *from = l->o.data->read(l->o.data, &l->reader, sample, b->field);
      if (!from) {
        l->error = l->reader.error;
        snprintf(l->message, sizeof l->message, "%s", l->reader.message);
        return false;
      }
      mprt__transform_apply(&b->transform, from, to);
      if (b->transform.to == DT_I64 && !check_target(l, b, to, sample))
        return false;
    }
    /* padded samples are zero [N13] */
    memset(s->data[k] + count * b->sample_bytes, 0,
           (size_t)((l->o.batch - count) * b->sample_bytes));
  }
  s->valid = count;
  return true;
}

/* Waits for a free slot; NULL: the loader is being destroyed. */
static Slot *free_slot(mprt__loader *l) {
  pthread_mutex_lock(&l->lock);
  while (!l->stop && l->made - l->taken == l->nslot)
    pthread_cond_wait(&l->changed, &l->lock);
  Slot *s = l->stop ? NULL : &l->slot[l->made % l->nslot];
  pthread_mutex_unlock(&l->lock);
  return s;
}

static void publish(mprt__loader *l, bool made, bool ended) {
  pthread_mutex_lock(&l->lock);
  l->made += made;
  l->ended |= ended;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
}

static void *loader_thread(void *arg) {
  mprt__loader *l = arg;
  int64_t n = l->o.data->nsample, epoch = l->o.epoch, at = l->o.sample;
  int64_t end = l->o.drop_last ? n / l->o.batch * l->o.batch : n;
  if (l->o.limit > 0 && l->o.limit * l->o.batch < end)
    end = l->o.limit * l->o.batch;
  if (at >= end) {
    epoch++;
    at = 0;
  }
  set_order(l, epoch);
  for (;;) {
    Slot *s = free_slot(l);
    if (!s)
      return NULL;
    int64_t count = end - at < l->o.batch ? end - at : l->o.batch;
    if (!fill_slot(l, s, at, count)) {
      publish(l, false, true);
      return NULL;
    }
    at += count;
    bool over = at >= end;
    s->epoch = epoch;
    s->sample = at;
    publish(l, true, over && !l->o.endless);
    if (over && !l->o.endless)
      return NULL;
    if (over) {
      at = 0;
      set_order(l, ++epoch);
    }
  }
}

/* ---- binding io tensors to fields
 * ---------------------------------------------------------------------- */

static int find_field(const mprt__dataset *d, const char *name) {
  for (int i = 0; i < d->nfield; i++)
    if (!strcmp(d->field[i].name, name))
      return i;
  return -1;
}

static void shape_text(char *out, size_t size, int rank, const int64_t *dim) {
  size_t k = (size_t)snprintf(out, size, "[");
  for (int i = 0; i < rank && k < size; i++)
    k += (size_t)snprintf(out + k, size - k, i ? ", %lld" : "%lld", (long long)dim[i]);
  if (k < size)
    snprintf(out + k, size - k, "]");
}

/* Sizes of 1 in front do not count: a format that knows no channels has one. */
static bool same_shape(int ra, const int64_t *a, int rb, const int64_t *b) {
  for (; ra > rb && a[0] == 1; ra--)
    a++;
  for (; rb > ra && b[0] == 1; rb--)
    b++;
  return ra == rb && !memcmp(a, b, (size_t)ra * sizeof *a);
}

static Status bind_tensor(mprt__loader *l, int64_t i) {
  mprt_program *p = l->program;
  const MpccTensor *t = &p->tensor[i];
  const char *name = mprt__string(p, t->name), *field = mprt__attr_string(p, i, "field");
  if (!field)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "input %s names no data field", name);
  int f = find_field(l->o.data, field);
  if (f < 0)
    return mprt__fail(&p->cb, MPCC_ERR_DATA, "data.%s has no field '%s', which input %s needs",
                      l->o.split, field, name);
  if (l->nbinding == MPRT__MAX_FIELDS || !t->rank || t->dim[0] != l->o.batch)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "input %s has no batch of %lld samples", name,
                      (long long)l->o.batch);
  const mprt__field *source = &l->o.data->field[f];
  int64_t elems = source->elems;
  if (!same_shape((int)t->rank - 1, t->dim + 1, source->rank, source->dim)) {
    char have[120], want[120];
    shape_text(have, sizeof have, source->rank, source->dim);
    shape_text(want, sizeof want, (int)t->rank - 1, t->dim + 1);
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "data.%s: '%s' has shape %s, the model was built for %s", l->o.split, field,
                      have, want);
  }
  Binding *b = &l->binding[l->nbinding];
  b->tensor = i;
  b->field = f;
  b->sample_bytes = elems * (int64_t)dtype_bytes((DType)t->dtype);
  b->classes = mprt__json_int(p->attrs[i], "classes", 0);
  b->ignored = mprt__json_int(p->attrs[i], "ignore_index", -100);
  const char *key = strcmp(l->o.split, "train") ? "data.transforms.eval" : "data.transforms.train";
  Status st = mprt__transform_init(&b->transform, mprt__json_get(p->spec, key), source,
                                   (DType)t->dtype, &p->cb);
  if (st == MPCC_OK)
    l->nbinding++;
  return st;
}

static Status allocate_slots(mprt__loader *l) {
  l->nslot = l->o.prefetch > 0 ? l->o.prefetch : 1;
  l->slot = calloc((size_t)l->nslot, sizeof *l->slot);
  l->order = malloc((size_t)l->o.data->nsample * sizeof *l->order);
  bool ok = l->slot && l->order;
  for (int s = 0; ok && s < l->nslot; s++)
    for (int k = 0; k < l->nbinding; k++) {
      l->slot[s].data[k] = malloc((size_t)(l->binding[k].sample_bytes * l->o.batch));
      ok = ok && l->slot[s].data[k];
    }
  return ok ? MPCC_OK : mprt__nomem(&l->program->cb, "batches");
}

Status mprt__loader_create(mprt_program *p, const mprt__loader_options *o, mprt__loader **out) {
  *out = NULL;
  mprt__loader *l = calloc(1, sizeof *l);
  if (!l)
    return mprt__nomem(&p->cb, "loader");
  l->program = p;
  l->o = *o;
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->changed, NULL);
  Status st = MPCC_OK;
  if (o->drop_last && o->data->nsample < o->batch)
    st = mprt__fail(&p->cb, MPCC_ERR_DATA,
                    "data.%s has %lld samples, fewer than one batch of %lld (drop_last)", o->split,
                    (long long)o->data->nsample, (long long)o->batch);
  for (uint32_t i = 0; st == MPCC_OK && i < p->ntensor; i++)
    if (p->tensor[i].role == ROLE_INPUT)
      st = bind_tensor(l, i);
  if (st == MPCC_OK)
    st = allocate_slots(l);
  if (st == MPCC_OK)
    st = mprt__reader_init(&l->reader, o->data, &p->cb);
  if (st == MPCC_OK && pthread_create(&l->thread, NULL, loader_thread, l))
    st = mprt__fail(&p->cb, MPCC_ERR_RUN, "cannot start the data thread");
  l->started = st == MPCC_OK;
  if (st != MPCC_OK) {
    mprt__loader_destroy(l);
    return st;
  }
  *out = l;
  return MPCC_OK;
}

void mprt__loader_destroy(mprt__loader *l) {
  if (!l)
    return;
  if (l->started) {
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
  }
  for (int s = 0; l->slot && s < l->nslot; s++)
    for (int k = 0; k < l->nbinding; k++)
      free(l->slot[s].data[k]);
  for (int k = 0; k < l->nbinding; k++)
    mprt__transform_fini(&l->binding[k].transform);
  mprt__reader_fini(&l->reader);
  free(l->slot);
  free(l->order);
  pthread_cond_destroy(&l->changed);
  pthread_mutex_destroy(&l->lock);
  free(l);
}

Status mprt__loader_next(mprt__loader *l, int64_t *valid, int64_t *epoch, int64_t *sample,
                         double *waited) {
  mprt_program *p = l->program;
  double before = mprt__seconds();
  pthread_mutex_lock(&l->lock);
  while (l->taken == l->made && !l->ended)
    pthread_cond_wait(&l->changed, &l->lock);
  Slot *s = l->taken < l->made ? &l->slot[l->taken % l->nslot] : NULL;
  Status st = s ? MPCC_OK : l->error;
  pthread_mutex_unlock(&l->lock);
  *waited = mprt__seconds() - before;
  *valid = 0;
  if (!s)
    return st == MPCC_OK ? st : mprt__fail(&p->cb, st, "%s", l->message);
  for (int k = 0; k < l->nbinding; k++)
    memcpy(mprt__tensor_data(p, l->binding[k].tensor), s->data[k],
           (size_t)(l->binding[k].sample_bytes * l->o.batch));
  *valid = s->valid;
  *epoch = s->epoch;
  *sample = s->sample;
  mprt__set_int(p, "io.valid", s->valid);
  pthread_mutex_lock(&l->lock);
  l->taken++;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
  return MPCC_OK;
}
