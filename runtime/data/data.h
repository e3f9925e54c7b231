/* Private to runtime/: where samples come from. A data set reads whole samples by number; a loader
 * turns a data set, an order and transforms into batches on a thread of its own. */
#ifndef MPCC_RUNTIME_DATA_H
#define MPCC_RUNTIME_DATA_H

#include "runtime/rt.h"

enum { MPRT__MAX_FIELDS = 8 };

/* One thing a sample has. */
typedef struct {
  char name[32]; /* "image", "label" */
  DType dtype;   /* as stored */
  int rank;
  int64_t dim[MPCC_MAX_RANK]; /* of one sample; images [C, H, W] */
  int64_t elems;
} mprt__field;

/* What a thread that reads samples owns: room for one field of a sample, and why a read failed. */
typedef struct {
  void *scratch; /* scratch_bytes of the data set, aligned for any type */
  Status error;
  char message[300];
} mprt__reader;

/* Opened once and read by many: several loaders, each on its own thread, may share one. */
typedef struct mprt__dataset mprt__dataset;
struct mprt__dataset {
  int64_t nsample;
  int nfield;
  mprt__field field[MPRT__MAX_FIELDS];
  size_t scratch_bytes; /* what read needs of reader->scratch; 0: nothing */
  /* Bytes of field f of sample i (0 <= i < nsample): inside the data set, or in r->scratch until
   * the next call with r. Changes nothing but *r. NULL: r->error and r->message tell why. */
  const void *(*read)(const mprt__dataset *d, mprt__reader *r, int64_t i, int f);
  void (*destroy)(mprt__dataset *d);
};

/* What a format needs to open a split: the split's JSON object (data.train ...), and where paths
 * are relative to. */
typedef struct {
  const char *split;
  const json_t *config;
  const char *dir; /* "" or a folder without trailing slash */
  int64_t seed;
  const mprt_callbacks *cb;
} mprt__data_source;

/* Formats, by the word in `format:`; one row each in formats.def. */
typedef Status mprt__format_open(const mprt__data_source *s, mprt__dataset **out);
#define FORMAT(name, open, doc) mprt__format_open open;
#include "runtime/data/formats.def"
#undef FORMAT

/* ---- dataset.c ---- */

/* Opens a split of the spec: `--data SPLIT=FOLDER` and `SPLIT.KEY=FILE` first, then the format;
 * {from, fraction, seed} takes a part of another split, which then lacks it. Splits that read the
 * same files share what is open of them. Close before the program. errors: ERR_DATA, ERR_FILE,
 * ERR_NOMEM, ERR_USAGE (--data names what is not there), with a message. */
Status mprt__data_open(mprt_program *p, const char *split, mprt__dataset **out);
static inline void mprt__data_close(mprt__dataset *d) {
  if (d)
    d->destroy(d);
}
/* A reader for d; *r is all zero after a failure. errors: ERR_NOMEM */
Status mprt__reader_init(mprt__reader *r, const mprt__dataset *d, const mprt_callbacks *cb);
void mprt__reader_fini(mprt__reader *r);
/* DIR/PATH, or PATH when it is absolute or dir is ""; malloc'ed. */
char *mprt__data_path(const mprt__data_source *s, const char *key);
/* Uniform integer in [0, n) from Philox: a pure function of its arguments. */
uint64_t mprt__random_below(int64_t seed, int64_t stream, int64_t counter, uint64_t n);
/* Fisher-Yates shuffle of order[0..n), decided by seed and stream alone. */
void mprt__shuffle(int64_t *order, int64_t n, int64_t seed, int64_t stream);

/* ---- transforms.c ---- */

/* Bytes to values of an input tensor. ToTensor and Normalize depend on one byte and its channel
 * alone, so u8 images go through a table [channels][256] of target elements. */
typedef struct {
  DType from, to;
  int64_t elems, channels;
  uint8_t *table; /* NULL: plain conversion */
} mprt__transform;
/* list: array of transforms of the spec, or NULL. errors: ERR_DATA, ERR_NOMEM */
Status mprt__transform_init(mprt__transform *t, const json_t *list, const mprt__field *f, DType to,
                            const mprt_callbacks *cb);
void mprt__transform_fini(mprt__transform *t);
void mprt__transform_apply(const mprt__transform *t, const void *from, void *to);

/* ---- loader.c ---- */

/* Batches of one split for the io tensors of the program. */
typedef struct mprt__loader mprt__loader;
typedef struct {
  mprt__dataset *data; /* borrowed */
  const char *split;   /* "train" uses transforms.train, others transforms.eval */
  bool shuffle, drop_last;
  int64_t batch, seed;
  int64_t epoch, sample; /* where to begin: a resumed run goes on in the middle */
  int64_t limit;         /* batches of an epoch to use; 0: all */
  bool endless;          /* after an epoch the next begins; else the loader ends */
  int prefetch;          /* batches made ahead, >= 1 */
} mprt__loader_options;
/* Fields of the program's input tensors must exist in the data with fitting shapes; integer targets
 * are checked against `classes` (0: unknown). errors: ERR_DATA, ERR_NOMEM */
Status mprt__loader_create(mprt_program *p, const mprt__loader_options *o, mprt__loader **out);
void mprt__loader_destroy(mprt__loader *l);
/* Copies the next batch into the io tensors and io.valid. *valid: real samples, 0 at the end.
 * *epoch and *sample: position behind this batch. waited: seconds spent waiting for it. */
Status mprt__loader_next(mprt__loader *l, int64_t *valid, int64_t *epoch, int64_t *sample,
                         double *waited);
/* Batches of a whole epoch. */
int64_t mprt__batches(int64_t nsample, int64_t batch, bool drop_last);

double mprt__seconds(void); /* monotonic */

#endif
