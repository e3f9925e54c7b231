/* Private to runtime/: where samples come from. A data set reads whole samples by number; a loader
 * turns a data set, an order and transforms into batches on threads of its own. */
#ifndef MPCC_RUNTIME_DATA_H
#define MPCC_RUNTIME_DATA_H

#include "runtime/rt.h"

enum { MPRT__MAX_FIELDS = 8 };

/* One thing a sample has. */
typedef struct {
  const char *name; /* "image", "label"; lives as long as the data set */
  DType dtype;      /* as stored */
  int rank;
  int64_t dim[MPCC_MAX_RANK]; /* of one sample; images [C, H, W], sizes that differ are 0 */
  int64_t elems;              /* product of dim */
  bool columns;               /* made of columns of a table: fits any shape of as many elements */
} mprt__field;

/* What a thread that reads samples owns: room for one field of a sample, and why a read failed. */
typedef struct {
  int64_t epoch, seed; /* set by the caller: what random samples may depend on */
  void *scratch;       /* scratch_bytes of the data set, aligned for any type */
  int64_t size[2];     /* height and width of the image just read, where the field has them as 0 */
  mprt_image image; /* decoded, and the file it came from */
  uint8_t *file;
  size_t file_room;
  Status error;
  bool corrupt; /* the sample itself is damaged: it may be left out */
  char message[300];
} mprt__reader;

/* Opened once and read by many: several loaders, each on its own thread, may share one. */
typedef struct mprt__dataset mprt__dataset;
struct mprt__dataset {
  int64_t nsample;
  int nfield;
  mprt__field field[MPRT__MAX_FIELDS];
  size_t scratch_bytes; /* what read needs of reader->scratch; 0: nothing */
  bool costly;          /* reading is work for several threads */
  /* Bytes of field f of sample i (0 <= i < nsample): inside the data set, or in r->scratch until
   * the next call with r. Changes nothing but *r. NULL: r->error and r->message tell why. */
  const void *(*read)(const mprt__dataset *d, mprt__reader *r, int64_t i, int f);
  /* Where element `elem` of the field lies, in words for messages ("x.bin, byte 17"); may be NULL.
   */
  void (*where)(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f, int64_t elem,
                char *out, size_t size);
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
  /* Fields that the model's inputs name; formats with many read these alone. NULL: all. */
  const char *const *want;
  int nwant;
  bool skip_corrupt; /* data.loader.corrupt is skip */
  mprt_decode_fn *decode; /* of compressed images; NULL: the host has none */
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
/* Uniform integer in [0, n): a pure function of its arguments. */
uint64_t mprt__random_below(int64_t seed, int64_t stream, int64_t counter, uint64_t n);
/* Fisher-Yates shuffle of order[0..n), decided by seed and stream alone. */
void mprt__shuffle(int64_t *order, int64_t n, int64_t seed, int64_t stream);

/* ---- files.c ---- */

typedef struct {
  int n;
  char **path;
} mprt__paths;
/* Files that `key` of the split names: one, or all that match a pattern (* ? [ ]) in the order of
 * their bytes. errors: ERR_FILE (nothing matches), ERR_NOMEM; *out is empty then */
Status mprt__paths_of(const mprt__data_source *s, const char *key, mprt__paths *out);
Status mprt__paths_add(mprt__paths *p, const char *path, const mprt_callbacks *cb);
void mprt__paths_free(mprt__paths *p);

/* A regular file that any thread reads at offsets. */
typedef struct {
  int fd; /* -1: closed */
  char *path;
  uint64_t bytes;
} mprt__file;
Status mprt__file_open(const char *path, const mprt_callbacks *cb, mprt__file *out);
void mprt__file_close(mprt__file *f); /* closed already is fine */
/* 0, or an errno (EIO: the file has become shorter). */
int mprt__file_get(const mprt__file *f, uint64_t at, void *to, size_t bytes);
/* All bytes of a file, decompressed when it is gzip; malloc'ed. errors: ERR_FILE, ERR_DATA,
 * ERR_NOMEM */
Status mprt__file_whole(const char *path, const mprt_callbacks *cb, uint8_t **data, size_t *bytes);

/* ---- transforms.c ---- */

/* Values of an input tensor from a field of a sample, through the transforms of the spec. */
typedef struct mprt__transform mprt__transform;
/* What decides random transforms: results are a pure function of it. */
typedef struct {
  int64_t seed, epoch, sample;
} mprt__sample_key;
/* Room that a thread lends to transforms; all zero at first. */
enum { MPRT__WORK_BUFFERS = 3 }; /* two images in turn, and one plane half done */
typedef struct {
  void *buffer[MPRT__WORK_BUFFERS];
  size_t bytes[MPRT__WORK_BUFFERS];
} mprt__transform_work;
void mprt__transform_work_fini(mprt__transform_work *w);
/* list: array of transforms of the spec, or NULL: ToTensor; they apply to images: u8 fields of rank
 * 2 and 3, float fields of rank 3 that are inputs of the model, no targets of its loss; vectors: a
 * list of ToTensor and Normalize to float inputs of rank 0 and 1 as well, each number a channel.
 * seen: the field as it comes out; sizes that differ by sample are 0. errors: ERR_DATA, ERR_NOMEM,
 * *out = NULL then */
Status mprt__transform_create(const mprt_callbacks *cb, const json_t *list, const mprt__field *f,
                              DType to, bool target, bool vectors, mprt__transform **out,
                              mprt__field *seen);
bool mprt__is_image(const mprt__field *f, DType to, bool target); /* as above */
/* Whether the transform of that type knows places and sizes: not ToTensor and Normalize. */
bool mprt__transform_is_of_images(const char *type);
/* Whether the list applies to the field. */
bool mprt__transform_applies(const mprt__transform *t);
/* Shape that every sample must have where `seen` has sizes of 0. */
void mprt__transform_expect(mprt__transform *t, int rank, const int64_t *dim);
void mprt__transform_destroy(mprt__transform *t); /* NULL is fine */
DType mprt__transform_dtype(const mprt__transform *t);
/* from: field f as it was read with r. false: r->error and r->message tell why. */
bool mprt__transform_apply(const mprt__transform *t, mprt__transform_work *w, mprt__reader *r,
                           const mprt__field *f, const void *from, mprt__sample_key key, void *to);

/* ---- bind.c ---- */

/* An io tensor and the field that fills it. */
typedef struct {
  int64_t tensor;
  int field;
  int64_t elems, sample_bytes;
  mprt__transform *transform;
  bool integer, target;
  int64_t limit; /* integers must lie in [0, limit) or be `ignored`; 0: any */
  int64_t ignored;
} mprt__binding;
/* Binds every input of the program; b has room for MPRT__MAX_FIELDS. *n counts those to unbind,
 * also after a failure. errors: ERR_DATA (no such field, other shape), ERR_INPUT, ERR_NOMEM */
Status mprt__bind(mprt_program *p, const mprt__dataset *d, const char *split, int64_t batch,
                  mprt__binding *b, int *n);
void mprt__unbind(mprt__binding *b, int n);
/* Whether the model can take the values `to` that were made `from` the sample; else r tells why. */
bool mprt__binding_check(const mprt__binding *b, const mprt__dataset *d, const char *split,
                         const void *from, const void *to, int64_t sample, mprt__reader *r);

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
  int prefetch;          /* batches made ahead by each thread, >= 1 */
  int workers;           /* threads; 0: the spec's, or chosen */
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
