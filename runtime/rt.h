/* Private to runtime/: types and prototypes of the whole folder, grouped by file. Cross-file
 * symbols are mprt__*, since they land in users' binaries.
 *
 *   load.c checks the image and fills mprt_program   elf.c maps its machine code
 *   context.c opens, closes, logs                     cpu/device.c memory and cpu features
 *   step.c runs functions on the pool of cpu/threads.c
 *   state.c names, init, weights -> safetensors.c     checkpoint.c, resume.c -> file.c json.c */
#ifndef MPCC_RUNTIME_RT_H
#define MPCC_RUNTIME_RT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpcc/abi.h"
#include "mpcc/base.h"
#include "mpcc/runtime.h"

typedef enum {
#define ROLE(id, text, segment, doc) ROLE_##id,
#include "mpcc/roles.def"
#undef ROLE
  ROLE_COUNT
} mprt__role;

/* ---- cpu/device.c: memory and cpu features ---- */

/* Zeroed memory, 64-byte aligned; big blocks are aligned to and advised for huge pages. */
typedef struct {
  uint8_t *data; /* NULL when bytes = 0 */
  size_t bytes;
  void *map; /* what to unmap */
  size_t map_bytes;
} mprt__memory;

/* guarded: unmapped pages before and after, the end of the block as near to the second as alignment
 * lets it. errors: ERR_NOMEM */
Status mprt__memory_create(size_t bytes, bool guarded, mprt__memory *out);
void mprt__memory_destroy(mprt__memory *m);

/* Whether this machine and its operating system run instructions of `feature` ("avx512_bf16",
 * "avx512bf16" and "sse4.1", "sse4_1" are equal spellings). known: false for a word not in the
 * table. */
bool mprt__cpu_has(const char *feature, size_t len, bool *known);

/* ---- cpu/threads.c: the pool ---- */

typedef struct mprt__pool mprt__pool;

/* Threads this process may use: the affinity mask, cut by the quotas of its cgroup and all above
 * it; at least 1. */
int mprt__cpu_count(void);
/* CPUs' worth of time that a quota allows, rounded up; 0: no limit. v2: text of cpu.max; v1 (period
 * not NULL): texts of cpu.cfs_quota_us and cpu.cfs_period_us. */
int mprt__quota_cpus(const char *quota, const char *period);
/* threads >= 1, the calling thread included: it is worker 0 of every run. scratch_bytes: per
 * worker, 64-byte aligned. errors: ERR_NOMEM, *out = NULL. */
Status mprt__pool_create(int threads, size_t scratch_bytes, mprt__pool **out);
size_t mprt__scratch_stride(size_t scratch_bytes); /* bytes each worker takes for it */
void mprt__pool_destroy(mprt__pool *pool);         /* NULL is fine; no run may be in progress */
int mprt__pool_threads(const mprt__pool *pool);
/* Calls fn so that every tile of [0, ntiles) is processed once, and returns when all are. Each
 * worker begins with its own contiguous share, then helps the others. ntiles < 2^32. One run at a
 * time. Never allocates. */
void mprt__pool_run(mprt__pool *pool, MpccKernelFn fn, const MpccArg *args, int64_t ntiles);
/* One tile on the calling thread, and the scratch it then uses: plan mode. */
void mprt__pool_run_tile(mprt__pool *pool, MpccKernelFn fn, const MpccArg *args, int64_t tile);
void *mprt__pool_scratch(const mprt__pool *pool);

/* ---- elf.c: machine code ---- */

typedef struct {
  void *map; /* text (read, execute), then constants (read), then data (read, write) */
  size_t map_bytes;
  struct mprt__symbol *symbol; /* defined global functions, sorted by name */
  size_t nsymbol;
} mprt__code;

/* Maps the objects (see MpccCode.object) of one code. Writable or executable, never both at a time.
 * where: names the code in messages. errors: ERR_INPUT with a message, ERR_NOMEM; *out empty then*/
Status mprt__code_map(const void *object, size_t bytes, const char *where, const mprt_callbacks *cb,
                      mprt__code *out);
void mprt__code_unmap(mprt__code *c);
MpccKernelFn mprt__code_symbol(const mprt__code *c, const char *name); /* NULL: absent */

typedef struct mprt__cuda mprt__cuda; /* cuda/device.h */

typedef struct mprt__feed mprt__feed; /* feed.c */

/* ---- context.c: the program ---- */

/* Where the training loop is in its data, and what it remembers between runs: filled by fit.c,
 * saved in state.json under "cursor" and given back by mprt_resume. */
typedef struct {
  int64_t epoch;  /* from 0 */
  int64_t sample; /* samples of this epoch already consumed */
  int64_t best_step;
  double best_value; /* NaN: none yet */
  bool due;          /* stopped behind a step: its evaluation and checkpoint are still to come */
} mprt__cursor;

/* What ReduceLROnPlateau or early stopping remembers; saved in state.json. */
typedef struct {
  bool seen; /* best is a value */
  double best;
  int64_t bad; /* checks in a row without improvement */
  int64_t cooldown, reductions;
} mprt__patience;

/* A checkpoint of this run; value: of checkpoint.monitor there, NaN when it was not measured. */
typedef struct {
  int64_t step;
  double value;
} mprt__kept;

/* A metric tensor and its sums over batches. */
typedef struct {
  int64_t tensor, counter; /* counter: tensor of what was summed, or -1 */
  int64_t n, elems;        /* n: first dimension */
  bool training;           /* training steps write it too */
  double *sum, count;
} mprt__metric;
typedef struct {
  int n;
  mprt__metric *item;
  mprt_metric *value;
} mprt__metrics;

struct mprt_program {
  /* The image, in place. Counts are those of the spans. */
  const uint8_t *image;
  size_t image_bytes;
  const MpccImage *head;
  const char *strings;
  const MpccTensor *tensor;
  const MpccFunction *function;
  const MpccCommand *command;
  const MpccArgRef *argref;
  const MpccKernel *kernel;
  const MpccCode *code;
  uint32_t ntensor, nfunction, ncommand, nargref, nkernel, ncode;
  const MpccCode *chosen; /* the code that was mapped */

  mprt_callbacks cb;
  mprt_options options; /* strings are copies owned by the program */

  json_t *meta;      /* whole meta object */
  json_t *spec;      /* its "spec" (resolved), borrowed; an empty object when absent */
  json_t **attrs;    /* per tensor: object, owned */
  uint32_t *by_name; /* tensor indices sorted by name */
  bool *flat;        /* per tensor: storage that others are views of; not a tensor users know */

  mprt__memory segment[MPCC_SEG_COUNT]; /* with a GPU: the host's mirror */
  mprt__cuda *cuda;                     /* the GPU it runs on; NULL: the host */
  char gpu_lacks[256]; /* why a GPU that is here is not used; empty: used, or none */
  mprt__code mapped;
  MpccKernelFn *fn; /* per kernel */
  MpccArg *arg;     /* per argref, addresses resolved */
  mprt__pool *pool;
  struct mprt__plan *plan; /* plan mode only (planmode.c) */

  struct mprt__source *sources; /* open data sets (data/dataset.c) */

  int64_t seed;     /* of all random streams */
  bool initialized; /* the state holds values: init ran */
  mprt__cursor cursor;
  mprt__patience plateau, stopping;
  int stop; /* the strongest word of cb.stop in this call: it may say it once */
  struct {
    int n;
    mprt__kept *item;
  } kept;                   /* checkpoints of the run folder */
  bool ema_in;              /* the moving average is where the parameters belong ... */
  uint8_t *ema_saved;       /* ... and the 16-bit ones are here, */
  size_t ema_bytes, ema_at; /* so many bytes, so many of them given back */
  mprt__metrics metrics;    /* opened by the first who measures */
  char *run_dir;            /* owned; folder of the run that a bare --resume found, or NULL */
  json_t *fit_state;        /* owned object or NULL: further facts fit.c wants in state.json */
  struct mprt__feed *feed;  /* where mprt_feed is; NULL: nowhere */
};

void mprt__log(const mprt_callbacks *cb, mprt_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Logs an error and returns s: `return mprt__fail(cb, MPCC_ERR_DATA, "...", ...)`. */
Status mprt__fail(const mprt_callbacks *cb, Status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* ERR_NOMEM with the words "out of memory: WHAT". */
Status mprt__nomem(const mprt_callbacks *cb, const char *what);

/* ---- load.c: the image ---- */

/* Checks every offset, count and reference of the image and fills the views, names, attributes,
 * meta and spec of p; nothing outside the image is read. cb is set. errors: ERR_INPUT, ERR_NOMEM */
Status mprt__load(mprt_program *p, const void *image, size_t bytes);
/* Chooses the code that runs here (level: only that one; NULL: the first), maps it and finds every
 * kernel. quiet: no words when there is none. errors: ERR_TARGET, ERR_INPUT, ERR_NOMEM */
Status mprt__load_code(mprt_program *p, const char *level, bool quiet);
void mprt__unload(mprt_program *p); /* frees what the two made */
/* Whether some code of the image is for options.device. */
bool mprt__for_device(const mprt_program *p);
static inline const char *mprt__string(const mprt_program *p, uint32_t offset) {
  return p->strings + offset;
}

/* ---- feed.c ---- */
void mprt__feed_close(mprt_program *p);

/* ---- step.c: running functions ---- */

/* NULL: the image has none of that name. */
const MpccFunction *mprt__function(const mprt_program *p, const char *name);
/* Called after each command; false stops. Outputs of command c are at p->arg[c->first_arg +
 * c->first_out + k], p->argref[...].bytes long, of dtype strings[c->value_dtypes][k] - 'a'. */
typedef bool (*mprt__observer)(void *user, mprt_program *p, const MpccCommand *c);
/* Runs the commands of f in order. observe may be NULL. Allocates nothing.
 * errors: ERR_INTERNAL when plan mode sees a kernel touch what is not its own. */
Status mprt__run(mprt_program *p, const MpccFunction *f, mprt__observer observe, void *user);
/* The same; what each command takes on its device is added to `seconds`, per command of the image,
 * what the observer takes is not. */
Status mprt__run_timed(mprt_program *p, const MpccFunction *f, mprt__observer observe, void *user,
                       double *seconds);
/* Hears of every command in order: when it began, in seconds from the first one's beginning, and
 * what it took, by the clock of a device of its own. */
typedef struct {
  void (*took)(void *user, const mprt_program *p, const MpccCommand *c, double begin,
               double seconds);
  void *user;
} mprt__clock;

/* ---- planmode.c: runs that notice wrong plans and wrong kernels ---- */

Status mprt__plan_create(mprt_program *p); /* fills p->plan */
void mprt__plan_destroy(mprt_program *p);
/* Around the commands of f: before the first; command c in place of a plain launch, in iteration t
 * of its loop (0 outside); and when command n is over. */
void mprt__plan_begin(mprt_program *p, const MpccFunction *f);
void mprt__plan_iteration(mprt_program *p, uint64_t t);
Status mprt__plan_launch(mprt_program *p, const MpccCommand *c);
void mprt__plan_bury(mprt_program *p, const MpccFunction *f, uint32_t n);

/* ---- state.c: tensors by name ---- */

/* Index of a tensor, or -1. */
int64_t mprt__tensor_index(const mprt_program *p, const char *name);
/* First tensor of a role that is no flat storage, or -1. */
int64_t mprt__tensor_of_role(const mprt_program *p, mprt__role role);
const char *mprt__role_text(uint32_t role);
/* Its values on the host, to read and write until the next run; what fails on a device shows there.
 */
void *mprt__tensor_data(const mprt_program *p, int64_t i);
/* Bytes [offset, offset + bytes) of it, all of which the caller writes. */
void *mprt__tensor_part(const mprt_program *p, int64_t i, uint64_t offset, uint64_t bytes);
/* The same, to read alone. */
const void *mprt__tensor_look(const mprt_program *p, int64_t i);
/* What a device failed with since the program was opened, told when it happened: values read since
 * are worth nothing. */
Status mprt__device_status(const mprt_program *p);
/* Zeroes the state. */
Status mprt__clear_state(mprt_program *p);
static inline int64_t mprt__tensor_elems(const MpccTensor *t) {
  int64_t n = 1;
  for (uint32_t d = 0; d < t->rank; d++)
    n *= t->dim[d];
  return n;
}
/* Attribute of a tensor: NULL when absent. */
const char *mprt__attr_string(const mprt_program *p, int64_t i, const char *key);
int64_t mprt__attr_int(const mprt_program *p, int64_t i, const char *key, int64_t otherwise);
/* Scalar tensor of any number format by name, as the nearest value; otherwise when there is none */
double mprt__get_scalar(const mprt_program *p, const char *name, double otherwise);
int64_t mprt__get_int(const mprt_program *p, const char *name, int64_t otherwise);
/* false: there is no such tensor, or it is not scalar. */
bool mprt__set_scalar(mprt_program *p, const char *name, double value);
bool mprt__set_int(mprt_program *p, const char *name, int64_t value);
/* Copies n elements between formats: floats round to nearest even (fp8 saturates), equal formats
 * are copied bit by bit. Only float to float, or equal formats. Regions may not overlap. */
void mprt__convert(const void *from, DType from_dtype, void *to, DType to_dtype, int64_t n);
/* Runs `refresh` when the image has it. */
Status mprt__refresh(mprt_program *p);
/* p->seed, and the seed tensor. */
void mprt__set_seed(mprt_program *p, int64_t seed);
/* Zeroes the state and runs `init`; mprt_init without `refresh`. */
Status mprt__init_state(mprt_program *p);
/* init_from.c: what the spec's model.init_from says, over an initialised state; mprt_init calls it,
 * a resumed run or one with weights of its own does not. errors: ERR_DATA, ERR_FILE, ERR_NOMEM */
Status mprt__init_from(mprt_program *p);
/* Dotted name against a pattern: `*` within one part, `**` any text, `?` one character. */
bool mprt__name_matches(const char *pattern, const char *name);
/* ema.c: the moving average starts at the parameters; parameters and average change places
 * (p->ema_in tells which is in) when the spec's ema.use_for has the word, and `refresh` runs.
 * Nothing without. */
Status mprt__ema_begin(mprt_program *p);
Status mprt__ema_swap(mprt_program *p, const char *use);
/* Saved in checkpoints: storage of views is not. */
static inline bool mprt__is_saved(const mprt_program *p, uint32_t i) {
  return !p->flat[i] && p->tensor[i].segment == MPCC_SEG_STATE;
}
/* Part of model.safetensors: a parameter or a running statistic, under the spec's name. */
bool mprt__is_model_tensor(const mprt_program *p, uint32_t i);

/* ---- safetensors.c ---- */

typedef struct {
  char *name;
  DType dtype;
  int rank;
  int64_t dim[MPCC_MAX_RANK];
  uint64_t begin, bytes; /* place in the file */
} mprt__st_tensor;

typedef struct {
  char *path;
  int fd;
  uint64_t file_bytes;
  size_t ntensor;
  mprt__st_tensor *tensor; /* sorted by name */
} mprt__st_file;

/* Opens a file and checks its whole header: JSON, dtypes, shapes, ranges inside the file that do
 * not overlap and leave no hole. Tensors of a dtype mpcc lacks are refused by name. errors:
 * ERR_FILE, ERR_DATA with path and place, ERR_NOMEM; *out is closed then. */
Status mprt__st_open(const char *path, const mprt_callbacks *cb, mprt__st_file *out);
void mprt__st_close(mprt__st_file *f);
const mprt__st_tensor *mprt__st_find(const mprt__st_file *f, const char *name); /* NULL: absent */
/* Reads all of t, converting to `dtype`. errors: ERR_FILE, ERR_DATA */
Status mprt__st_read(const mprt__st_file *f, const mprt__st_tensor *t, DType dtype, void *to,
                     const mprt_callbacks *cb);

typedef struct {
  const char *name; /* borrowed, like dim and data */
  DType dtype;      /* in memory */
  DType file_dtype; /* in the file */
  int rank;
  const int64_t *dim;
  const void *data;
} mprt__st_item;
/* Writes a file: tensors by falling element size, then name; data starts at a multiple of 64. The
 * same items in any order give the same bytes. Synced to disk. metadata: object of strings or NULL.
 * On failure the file is removed. errors: ERR_FILE, ERR_NOMEM */
Status mprt__st_write(const char *path, const mprt__st_item *items, size_t n,
                      const json_t *metadata, const mprt_callbacks *cb);

/* Tensor i as an item; floats are written as `dtype` (MPCC_DTYPE_COUNT: as they are). */
mprt__st_item mprt__item(const mprt_program *p, uint32_t i, DType dtype);
/* Whether tensor t of f has the shape of tensor i and a dtype that converts; else ERR_DATA in
 * words. */
Status mprt__check_shape(const mprt_program *p, uint32_t i, const mprt__st_file *f,
                         const mprt__st_tensor *t);
/* All model tensors; parameters as dtype, buffers as they are. */
Status mprt__write_model(const mprt_program *p, const char *path, DType dtype);
/* "3, 224, 224" */
void mprt__shape_text(int rank, const int64_t *dim, char *buf, size_t cap);

/* ---- checkpoint.c ---- */

/* Makes PARENT(dir)/link ("last", "best") a link to dir by its last component, in one step. */
Status mprt__checkpoint_link(const char *dir, const char *link, const mprt_callbacks *cb);
bool mprt__checkpoint_complete(const char *dir); /* has DONE */
int64_t mprt__checkpoint_step(const char *name); /* N of step-N; -1: another name */
/* Newest complete checkpoint step-N in `folder` (a run's checkpoints/), by N; malloc'ed path or
 * NULL. */
char *mprt__checkpoint_newest(const char *folder);

/* Content of DONE for the state.json in dir, malloc'ed. */
Status mprt__checkpoint_done(const mprt_program *p, const char *dir, char **out);
/* {"bytes": n, "hash": "..."} of a file of the folder; NULL after an error in *s. */
json_t *mprt__checkpoint_file(const mprt_program *p, const char *dir, const char *name, Status *s);
#define MPRT__MASTER "master." /* names a master in optimizer.safetensors */
enum { MPRT__STATE_SCHEMA = 1 };

/* ---- resume.c ---- */

/* What a spec changed against `before`, a line each; `what` is said first. */
void mprt__tell_changes(const mprt_program *p, const json_t *before, const char *what);

/* ---- file.c ---- */

/* Buffered writer to a new file; sticky: the first error is kept, later calls do nothing. */
typedef struct {
  int fd;
  int error; /* errno of the first failure */
  size_t used;
  uint8_t *buffer;
} mprt__writer;
void mprt__writer_open(mprt__writer *w, const char *path);
void mprt__writer_put(mprt__writer *w, const void *data, size_t bytes);
/* Flushes, syncs and closes; returns 0 or the errno of the first failure. */
int mprt__writer_close(mprt__writer *w);
/* Whole file written, synced. */
Status mprt__file_write(const char *path, const void *data, size_t bytes, const mprt_callbacks *cb);
/* Whole file, zero-terminated, malloc'ed. limit: refuse larger files. */
Status mprt__file_read(const char *path, size_t limit, char **data, size_t *bytes,
                       const mprt_callbacks *cb);
Status mprt__file_hash(const char *path, uint64_t hash[2], uint64_t *bytes,
                       const mprt_callbacks *cb);
Status mprt__dir_sync(const char *path, const mprt_callbacks *cb);
Status mprt__dir_make(const char *path, const mprt_callbacks *cb); /* and its parents */
/* Removes a folder and the files in it, without following links; true when nothing is left. */
bool mprt__dir_remove(const char *path);
/* printf into new memory; NULL when memory is short. */
char *mprt__format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- json.c ---- */

/* Value of a JSON text without duplicate keys; NULL with *error filled. */
json_t *mprt__json_parse(const char *text, size_t bytes, json_error_t *error);
/* Text of a value (flags of json_dumps), malloc'ed; NULL when memory is short. */
char *mprt__json_text(const json_t *value, size_t flags);
/* Value at a dotted path ("trainer.max_epochs") below obj; NULL when any part is absent. Keys that
 * contain dots cannot be reached this way. */
json_t *mprt__json_get(const json_t *obj, const char *path);
/* The same with a type; `otherwise` when absent or of another type. Numbers: int and real convert*/
int64_t mprt__json_int(const json_t *obj, const char *path, int64_t otherwise);
double mprt__json_double(const json_t *obj, const char *path, double otherwise);
bool mprt__json_bool(const json_t *obj, const char *path, bool otherwise);
const char *mprt__json_string(const json_t *obj, const char *path, const char *otherwise);
/* Calls fn for each value that differs, with its dotted path, in the order of sorted keys; a or b
 * is NULL where there is none. Lists of objects are compared by their `name`, or index. */
typedef void mprt__difference(void *user, const char *path, const json_t *a, const json_t *b);
void mprt__json_differences(const json_t *a, const json_t *b, mprt__difference *fn, void *user);

#endif
