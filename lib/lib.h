/* Private to lib/: one compilation and small file helpers. */
#ifndef MPCC_LIB_H
#define MPCC_LIB_H

#include "frontend/frontend.h"
#include "ir/ir.h"
#include "mpcc/mpcc.h"

enum { LIB_MAX_LEVELS = 8 };

/* State of one mpcc_compile call; the session owns options and callbacks. */
typedef struct {
  const mpcc_options *o;
  const mpcc_callbacks *cb;
  Arena *arena;
  StrTable *strings;
  Diag *diag;
  Spec *spec;     /* NULL when the input was IR text */
  Module *module; /* newest */
} Compilation;

/* ---- api.c ---- */
/* Runs passes on c->module; on failure delivers a reproducer as dump "reproducer". */
Status compilation_passes(Compilation *c, const TargetCaps *caps, const char *stop_after);

/* ---- explain.c ---- */
/* The plan in words: ops, dtypes, casts and why, kernels, memory. */
Status explain(Compilation *c, Text *out);

/* ---- files.c ---- */
typedef struct {
  char *data;
  size_t len;
} Blob;
/* Appends at the next multiple of 64 bytes, zero terminated beside the length. */
Status blob_append(Blob *b, const void *data, size_t len);
/* Whole file, malloc'ed and zero terminated. errors: ERR_FILE, ERR_NOMEM */
Status lib_read_file(const char *path, char **text, size_t *len);
/* Object cache folder: asked for, else $XDG_CACHE_HOME/mpcc, else ~/.cache/mpcc; NULL: none. */
const char *lib_cache_dir(const char *asked, char *buffer, size_t size);

#endif
