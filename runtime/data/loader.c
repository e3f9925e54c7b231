/* Batches made ahead by threads: a ring of slots, each a whole batch in the formats of the io
 * tensors. A thread claims the next batch, and with it the numbers of its samples, under the lock,
 * and fills it outside: what a batch holds depends on seed, epoch and place alone, and so does
 * which error comes first. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/data/data.h"

enum { MAX_WORKERS = 64, MAX_COMPLAINTS = 5 };

typedef struct {
  uint8_t *data[MPRT__MAX_FIELDS];
  int64_t *index;               /* samples of the batch */
  int64_t count, first_epoch;   /* how many; the epoch they belong to */
  int64_t valid, epoch, sample; /* position behind the batch */
  int64_t skipped;              /* corrupt ones left out */
  bool ready, ends_epoch;
  Status error;
  char message[300]; /* of the error, or of the first sample left out */
} Slot;

typedef struct {
  mprt__loader *loader;
  mprt__reader reader;
  mprt__transform_work work;
  pthread_t thread;
  bool started;
} Worker;

struct mprt__loader {
  mprt_program *program;
  mprt__loader_options o;
  int nbinding, nslot, nworker;
  mprt__binding binding[MPRT__MAX_FIELDS];
  bool skip; /* corrupt samples are left out */
  Slot *slot;
  Worker worker[MAX_WORKERS];
  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* under lock */
  int64_t *order;
  int64_t epoch, at, end;      /* of the next claim; samples of an epoch */
  int64_t claimed, taken;      /* batches; slot = number % nslot */
  bool stop, ended;            /* ended: no batch behind those claimed */
  int64_t skipped, complaints; /* of the consumer */
};

double mprt__seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t mprt__batches(int64_t nsample, int64_t batch, bool drop_last) {
  return drop_last ? nsample / batch : (nsample + batch - 1) / batch;
}

/* ---- the threads ----------------------------------------------------------------------------- */

static void set_order(mprt__loader *l, int64_t epoch) {
  int64_t n = l->o.data->nsample;
  for (int64_t i = 0; i < n; i++)
    l->order[i] = i;
  if (l->o.shuffle)
    mprt__shuffle(l->order, n, l->o.seed, epoch);
}

/* All fields of one sample into place `to` of the batch; false: w->reader tells why not. */
static bool fill_sample(Worker *w, Slot *s, int64_t sample, int64_t to) {
  mprt__loader *l = w->loader;
  const mprt__dataset *d = l->o.data;
  mprt__reader *r = &w->reader;
  mprt__sample_key key = {.seed = l->o.seed, .epoch = s->first_epoch, .sample = sample};
  r->epoch = s->first_epoch;
  r->seed = l->o.seed;
  r->corrupt = false;
  for (int k = 0; k < l->nbinding; k++) {
    const mprt__binding *b = &l->binding[k];
    uint8_t *data = s->data[k] + to * b->sample_bytes;
    const void *from = d->read(d, r, sample, b->field);
    if (!from ||
        !mprt__transform_apply(b->transform, &w->work, r, &d->field[b->field], from, key, data) ||
        !mprt__binding_check(b, d, l->o.split, from, data, sample, r))
      return false;
  }
  return true;
}

static void fill_slot(Worker *w, Slot *s) {
  mprt__loader *l = w->loader;
  s->valid = s->skipped = 0;
  s->error = MPCC_OK;
  for (int64_t i = 0; i < s->count; i++) {
    if (fill_sample(w, s, s->index[i], s->valid)) {
      s->valid++;
      continue;
    }
    if (!s->skipped++)
      snprintf(s->message, sizeof s->message, "%s", w->reader.message);
    if (w->reader.corrupt && l->skip)
      continue;
    s->error = w->reader.error;
    snprintf(s->message, sizeof s->message, "%s", w->reader.message);
    return;
  }
  if (!s->valid) {
    s->error = MPCC_ERR_DATA;
    return;
  }
  for (int k = 0; k < l->nbinding; k++) { /* padded samples are zero [N13] */
    int64_t bytes = l->binding[k].sample_bytes;
    memset(s->data[k] + s->valid * bytes, 0, (size_t)((l->o.batch - s->valid) * bytes));
  }
}

/* The next batch to make, when there is room for it; NULL: there is none. */
static Slot *claim(mprt__loader *l) {
  Slot *s = NULL;
  pthread_mutex_lock(&l->lock);
  while (!l->stop && !l->ended && l->claimed - l->taken == l->nslot)
    pthread_cond_wait(&l->changed, &l->lock);
  if (!l->stop && !l->ended) {
    s = &l->slot[l->claimed++ % l->nslot];
    s->ready = false;
    s->count = l->end - l->at < l->o.batch ? l->end - l->at : l->o.batch;
    s->first_epoch = s->epoch = l->epoch;
    memcpy(s->index, l->order + l->at, (size_t)s->count * sizeof *s->index);
    s->sample = l->at += s->count;
    s->ends_epoch = l->at >= l->end;
    if (s->ends_epoch && l->o.endless) {
      l->at = 0;
      set_order(l, ++l->epoch);
    } else if (s->ends_epoch) {
      l->ended = true;
    }
  }
  pthread_mutex_unlock(&l->lock);
  return s;
}

static void *worker_thread(void *arg) {
  Worker *w = arg;
  mprt__loader *l = w->loader;
  Slot *s;
  while ((s = claim(l))) {
    fill_slot(w, s);
    pthread_mutex_lock(&l->lock);
    s->ready = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
  }
  return NULL;
}

/* ---- making and taking ----------------------------------------------------------------------- */

/* Threads: as many as the spec says; by default one, and one per processor for samples that are
 * costly to read. */
static int worker_count(const mprt__loader *l) {
  const json_t *spec = l->program->spec;
  int64_t n = l->o.workers ? l->o.workers : mprt__json_int(spec, "data.loader.num_workers", 0);
  if (n < 1)
    n = l->o.data->costly ? mprt__cpu_count() : 1;
  return n < MAX_WORKERS ? (int)n : MAX_WORKERS;
}

static Status allocate_slots(mprt__loader *l) {
  l->nslot = (l->o.prefetch > 0 ? l->o.prefetch : 1) * l->nworker;
  l->slot = calloc((size_t)l->nslot, sizeof *l->slot);
  l->order = malloc((size_t)l->o.data->nsample * sizeof *l->order);
  bool ok = l->slot && l->order;
  for (int s = 0; ok && s < l->nslot; s++) {
    l->slot[s].index = malloc((size_t)l->o.batch * sizeof *l->slot[s].index);
    ok = l->slot[s].index != NULL;
    for (int k = 0; k < l->nbinding; k++) {
      l->slot[s].data[k] = malloc((size_t)(l->binding[k].sample_bytes * l->o.batch));
      ok = ok && l->slot[s].data[k];
    }
  }
  return ok ? MPCC_OK : mprt__nomem(&l->program->cb, "batches");
}

/* Where the first claim is. */
static void begin_claims(mprt__loader *l) {
  int64_t n = l->o.data->nsample;
  l->end = l->o.drop_last ? n / l->o.batch * l->o.batch : n;
  if (l->o.limit > 0 && l->o.limit * l->o.batch < l->end)
    l->end = l->o.limit * l->o.batch;
  bool over = l->o.sample >= l->end;
  l->epoch = l->o.epoch + over;
  l->at = over ? 0 : l->o.sample;
  set_order(l, l->epoch);
}

static Status start_workers(mprt__loader *l) {
  Status st = MPCC_OK;
  for (int i = 0; st == MPCC_OK && i < l->nworker; i++) {
    Worker *w = &l->worker[i];
    w->loader = l;
    st = mprt__reader_init(&w->reader, l->o.data, &l->program->cb);
    if (st == MPCC_OK && pthread_create(&w->thread, NULL, worker_thread, w))
      st = mprt__fail(&l->program->cb, MPCC_ERR_RUN, "cannot start a data thread");
    w->started = st == MPCC_OK;
  }
  return st;
}

Status mprt__loader_create(mprt_program *p, const mprt__loader_options *o, mprt__loader **out) {
  *out = NULL;
  mprt__loader *l = calloc(1, sizeof *l);
  if (!l)
    return mprt__nomem(&p->cb, "loader");
  l->program = p;
  l->o = *o;
  l->skip = !strcmp(mprt__json_string(p->spec, "data.loader.corrupt", "error"), "skip");
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->changed, NULL);
  Status st = MPCC_OK;
  if (o->drop_last && o->data->nsample < o->batch)
    st = mprt__fail(&p->cb, MPCC_ERR_DATA,
                    "data.%s has %lld samples, fewer than one batch of %lld (drop_last)", o->split,
                    (long long)o->data->nsample, (long long)o->batch);
  if (st == MPCC_OK)
    st = mprt__bind(p, o->data, o->split, o->batch, l->binding, &l->nbinding);
  l->nworker = worker_count(l);
  if (st == MPCC_OK)
    st = allocate_slots(l);
  if (st == MPCC_OK) {
    begin_claims(l);
    st = start_workers(l);
  }
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
  pthread_mutex_lock(&l->lock);
  l->stop = true;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
  for (int i = 0; i < l->nworker; i++) {
    if (l->worker[i].started)
      pthread_join(l->worker[i].thread, NULL);
    mprt__reader_fini(&l->worker[i].reader);
    mprt__transform_work_fini(&l->worker[i].work);
  }
  for (int s = 0; l->slot && s < l->nslot; s++) {
    free(l->slot[s].index);
    for (int k = 0; k < l->nbinding; k++)
      free(l->slot[s].data[k]);
  }
  mprt__unbind(l->binding, l->nbinding);
  free(l->slot);
  free(l->order);
  pthread_cond_destroy(&l->changed);
  pthread_mutex_destroy(&l->lock);
  free(l);
}

/* Tells of samples left out: the first few one by one, then once an epoch how many there were. */
static void report_skipped(mprt__loader *l, const Slot *s) {
  const mprt_callbacks *cb = &l->program->cb;
  if (s->skipped && l->complaints < MAX_COMPLAINTS) {
    mprt__log(cb, MPRT_LOG_WARNING, "data.%s: %lld corrupt in a batch, left out: %s", l->o.split,
              (long long)s->skipped, s->message);
    l->complaints++;
  }
  l->skipped += s->skipped;
  if (!s->ends_epoch)
    return;
  if (l->skipped)
    mprt__log(cb, MPRT_LOG_WARNING, "data.%s: %lld corrupt samples left out in epoch %lld",
              l->o.split, (long long)l->skipped, (long long)s->first_epoch);
  l->skipped = 0;
}

Status mprt__loader_next(mprt__loader *l, int64_t *valid, int64_t *epoch, int64_t *sample,
                         double *waited) {
  mprt_program *p = l->program;
  double before = mprt__seconds();
  pthread_mutex_lock(&l->lock);
  Slot *s = &l->slot[l->taken % l->nslot];
  while (l->taken == l->claimed ? !l->ended : !s->ready)
    pthread_cond_wait(&l->changed, &l->lock);
  if (l->taken == l->claimed)
    s = NULL;
  pthread_mutex_unlock(&l->lock);
  *waited = mprt__seconds() - before;
  *valid = 0;
  if (!s)
    return MPCC_OK;
  if (s->error != MPCC_OK)
    return mprt__fail(&p->cb, s->error, "%s", s->message);
  for (int k = 0; k < l->nbinding; k++)
    memcpy(mprt__tensor_data(p, l->binding[k].tensor), s->data[k],
           (size_t)(l->binding[k].sample_bytes * l->o.batch));
  *valid = s->valid;
  *epoch = s->epoch;
  *sample = s->sample;
  report_skipped(l, s);
  mprt__set_int(p, "io.valid", s->valid);
  pthread_mutex_lock(&l->lock);
  l->taken++;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
  return MPCC_OK;
}
