/* Private to runtime/data/: data sets whose fields are arrays (arrays.c). A format creates one,
 * adds blocks (files or memory), fields, and pieces of fields in the newest block, and finishes. */
#ifndef MPCC_RUNTIME_DATA_ARRAYS_H
#define MPCC_RUNTIME_DATA_ARRAYS_H

#include "runtime/data/data.h"

/* How elements are stored; integers other than u8 are widened to i64 on reading. */
typedef enum {
  MPRT__STORE_U8,
  MPRT__STORE_I8,
  MPRT__STORE_U16,
  MPRT__STORE_I16,
  MPRT__STORE_U32,
  MPRT__STORE_I32,
  MPRT__STORE_I64,
  MPRT__STORE_F16,
  MPRT__STORE_F32,
  MPRT__STORE_F64
} mprt__store;
int mprt__store_bytes(mprt__store s);

/* Bytes that pieces lie in: memory (owned), or a file when memory is NULL. */
typedef struct {
  uint8_t *memory;
  mprt__file file;
} mprt__block;

/* Samples from `first` on, `stride` bytes apart from `offset` in the block on. */
typedef struct {
  int block;
  int64_t first;
  uint64_t offset, stride;
} mprt__piece;

typedef struct {
  char *name;
  mprt__store store;
  bool swapped; /* big-endian */
  bool planes;  /* stored [H, W, C], read as [C, H, W]: u8 only */
  int npiece;
  mprt__piece *piece;
  int64_t count; /* samples */
} mprt__column;

typedef struct {
  mprt__dataset base;
  int nblock;
  mprt__block *block;
  mprt__column column[MPRT__MAX_FIELDS];
} mprt__arrays;

Status mprt__arrays_create(const mprt_callbacks *cb, mprt__arrays **out);
/* Adds a block; owns memory and file, also on failure. */
Status mprt__arrays_block(mprt__arrays *a, uint8_t *memory, mprt__file file,
                          const mprt_callbacks *cb);
/* Index of a new field, -1: no room or memory. Sizes of dim are >= 1 and their product was checked.
 */
int mprt__arrays_field(mprt__arrays *a, const char *name, mprt__store store, int rank,
                       const int64_t *dim);
int mprt__arrays_find(const mprt__arrays *a, const char *name); /* -1: absent */
/* Adds `count` samples of field f in the newest block; that they lie inside it was checked. */
Status mprt__arrays_piece(mprt__arrays *a, int f, uint64_t offset, uint64_t stride, int64_t count,
                          const mprt_callbacks *cb);
/* The data set, when st is OK and all fields have as many samples, at least 1; else a is destroyed.
 */
Status mprt__arrays_finish(mprt__arrays *a, const mprt__data_source *s, Status st,
                           mprt__dataset **out);
/* Every file of the config's "path" through `add`, then finish; st: of what came before. */
typedef Status mprt__add_file(mprt__arrays *a, const mprt__data_source *s, const char *path);
Status mprt__arrays_files(mprt__arrays *a, const mprt__data_source *s, Status st,
                          mprt__add_file *add, mprt__dataset **out);
/* The same from the start, for formats whose files name their fields. */
Status mprt__arrays_open(const mprt__data_source *s, mprt__add_file *add, mprt__dataset **out);

#endif
