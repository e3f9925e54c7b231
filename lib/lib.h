/* Private to lib/: one compilation and small file helpers. */
#ifndef MPCC_LIB_H
#define MPCC_LIB_H

#include "codegen/codegen.h"
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
  Text plan;      /* explain's first half */
} Compilation;

/* ---- api.c ---- */
/* Runs passes on c->module; on failure delivers a reproducer as dump "reproducer". */
Status compilation_passes(Compilation *c, const TargetCaps *caps, const char *stop_after);

/* ---- explain.c ---- */
/* The plan in words. First half: runs the passes up to `save` and tells ops, dtypes, casts and why,
 * and what is recomputed. Second half, of a planned module: kernels, FLOPs, bytes, memory. */
Status explain_to_saved(Compilation *c, Text *out);
Status explain_planned(Compilation *c, const KernelTable *kernels, Text *out);

/* ---- verify.c ---- */
/* Each distinct kernel of the planned module beside the interpreter; ERR_RUN when one deviates. */
Status verify_kernels(Compilation *c, const KernelTable *kernels, const mpcc_executor *x);

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
