/* Private to lib/: one compilation and small file helpers. */
#ifndef MPCC_LIB_H
#define MPCC_LIB_H

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "ir/ir.h"
#include "mpcc/abi.h"
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
  bool check_only; /* nothing is planned */
  mpcc_options own; /* with `precision` replaced (compilation_begin_mode) */
} Compilation;

/* ---- api.c ---- */
/* false: memory. Options and callbacks are borrowed. */
bool compilation_begin(Compilation *c, const mpcc_options *o, const mpcc_callbacks *cb);
void compilation_fini(Compilation *c); /* without delivering messages */
Status compilation_spec(Compilation *c, const char *path, const char *text, size_t len);
/* Runs passes on c->module; on failure delivers a reproducer as dump "reproducer". */
Status compilation_passes(Compilation *c, const TargetCaps *caps, const char *stop_after);
/* A compilation with the session's options but another precision; after OK, compilation_end. */
Status compilation_begin_mode(Compilation *c, mpcc_session *s, const char *precision);
/* Front half: text to a module, of stage forward for a spec, of any stage for IR text. */
Status compilation_front(Compilation *c, const char *path, const char *text, size_t len);
/* What passes may know of the target and level asked for first. */
Status compilation_caps(Compilation *c, TargetCaps *caps);
/* Fuse, plan and collect kernels for the first level asked for. */
Status compilation_plan(Compilation *c, KernelTable *kernels);
/* Delivers messages and frees everything; st, or what warnings make of it. */
Status compilation_end(Compilation *c, mpcc_session *s, Status st);

/* ---- batch.c ---- */
/* Gives c->spec, whose batch_size is `auto`, the largest power of two whose plan fits the memory, and
 * says which. errors: ERR_TARGET, ERR_NOMEM (not even 1), ERR_INPUT (global_batch_tokens) */
Status batch_choose(Compilation *c, const char *path, const char *text, size_t len);

/* ---- explain.c ---- */
/* The plan in words. First half: runs the passes up to `save` for a target (NULL: for none) and tells
 * ops, dtypes, casts and why, and what is recomputed; *train, unless NULL, gets the module as it was
 * before `step`, the first pass that asks what the target can. Second half, of a planned module:
 * kernels, FLOPs, bytes, memory. */
Status explain_to_saved(Compilation *c, const TargetCaps *caps, Text *train, Text *out);
Status explain_planned(Compilation *c, const KernelTable *kernels, Text *out);

/* Format the op's arithmetic is done in. */
DType explain_compute_dtype(const Op *op);

/* ---- graph.c ---- */
/* The forward pass as Graphviz text or SVG. errors: ERR_INPUT (IR text of a late stage), ERR_NOMEM */
Status graph_emit(Compilation *c, bool as_svg, Text *out);

/* ---- header.c ---- */
/* C header of a planned module. */
Status header_emit(Compilation *c, Text *out);

/* ---- memory.c ---- */
typedef struct {
  const char *what;
  int64_t bytes;
  char formula[160];
} MemoryRow;
typedef struct {
  MemoryRow row[8];
  int n;
} MemoryUse;
/* Of a module of stage saved. */
Status memory_use(Compilation *c, MemoryUse *u);
void memory_explain(const MemoryUse *u, Text *out);

/* The same two halves for comparing: lines of the forward pass without places, memory, kernels. */
Status explain_facts(Compilation *c, Text *forward, MemoryUse *use, KernelTable *kernels);

/* ---- cost.c ---- */
typedef struct {
  const char *name;
  int64_t flops, bytes;
  double compute, memory, cycles; /* cycles: per kernel the larger of the two, summed */
} LayerCost;
int64_t cost_flops(const Op *group); /* of products; 0 for other kinds */
int64_t cost_bytes(const Op *group); /* operands and results */
/* A kernel of a function, and how many times it runs: those of a loop's body stand where the loop
 * does, `length` times, once where they depend on nothing that varies. Lives in a. */
typedef struct {
  const Op *op; /* a group */
  int64_t times;
} CostGroup;
Status cost_groups(const Func *f, Arena *a, CostGroup **out, int *n);
int cost_product_rate(const Module *m, DType compute); /* FLOPs a cycle */
/* Layers of a function of a planned module, in order of first appearance; in arena a. */
LayerCost *cost_layers(const Module *m, const char *func, Arena *a, int *n);
const char *cost_bound(const LayerCost *l); /* "compute" or "memory" */
bool cost_known(const Module *m); /* there is a model of its target: the cpu */
void cost_model(const Module *m, Text *out);
void cost_explain(const Module *m, Text *out);

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
/* The same for malloc'ed data with a zero byte behind it, which is the blob's or freed then. */
Status blob_take(Blob *b, void *data, size_t len);
/* The text as malloc'ed bytes, zero terminated beside their number; t is empty then. errors: ERR_NOMEM */
Status lib_take_text(Text *t, void **out, size_t *bytes);
/* Whole file, malloc'ed and zero terminated. errors: ERR_FILE, ERR_NOMEM */
Status lib_read_file(const char *path, char **text, size_t *len);
/* Object cache folder: asked for, else $XDG_CACHE_HOME/mpcc, else ~/.cache/mpcc; NULL: none. */
const char *lib_cache_dir(const char *asked, char *buffer, size_t size);

#endif
