/* libmpcc: a spec becomes a program image, which mpcc/runtime.h trains. Nothing is printed; diagnostics
 * go to a callback. docs/embedding.md shows a host. */
#ifndef MPCC_H
#define MPCC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpcc/abi.h"
#include "mpcc/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpcc_session mpcc_session;

typedef enum { MPCC_NOTE, MPCC_WARNING, MPCC_ERROR } mpcc_severity;

/* One rendered message. text: house style, several lines, no trailing newline; json: one line. */
typedef struct {
  mpcc_severity severity;
  const char *text, *json;
} mpcc_message;

typedef struct {
  void (*message)(void *user, const mpcc_message *m);
  /* Dumps asked for by print_before, print_after, time_passes. */
  void (*dump)(void *user, const char *title, const char *text);
  void *user;
} mpcc_callbacks;

/* Zero-initialise, then set what is wanted; strings are borrowed during the call. */
typedef struct {
  const char *precision;            /* --precision */
  const char *const *define, *const *set, *const *include;
  int ndefine, nset, ninclude;
  const char *const *warning;       /* "NAME", "no-NAME", "error" */
  int nwarning;
  int max_errors;                   /* 0: no limit; 20 when max_errors_set is false */
  bool max_errors_set;
  bool colour;
  bool strict;                      /* --numerics=strict */
  const char *const *target;        /* --target: "cpu", "cuda"; none: cpu */
  int ntarget;
  const char *const *level;         /* -march; NULL: baseline and the host's */
  int nlevel;
  const char *const *arch;          /* --gpu-arch: "sm_90"; NULL: all that are known */
  int narch;
  bool own_products;                /* --gpu-products=own: no vendor library */
  int opt_level;                    /* -O: 0 to 3; 2 when opt_set is false */
  bool opt_set;
  int jobs;                         /* 0: number of cpus */
  const char *cache_dir;            /* NULL: $XDG_CACHE_HOME/mpcc or ~/.cache/mpcc */
  bool no_cache;
  const char *print_before, *print_after, *stop_after;
  bool time_passes, check_passes, no_reuse;
  uint64_t memory_bytes;            /* that batch_size: auto plans for; 0: this machine's */
  const char *instrument;           /* --instrument: written into images; NULL: nothing */
  bool host_level_only;             /* mpcc run */
  bool all_functions;               /* micro-batches also where no training loop calls them */
  const char *precision_from;       /* for messages, the option that has it among others:
                                       "--precisions=A,B"; NULL: --precision */
} mpcc_options;

/* A session copies the options and keeps the callbacks; it serves one thread at a time, several sessions
 * may work at once. NULL: out of memory. Freed by mpcc_session_destroy, which takes NULL. */
mpcc_session *mpcc_session_create(const mpcc_options *o, const mpcc_callbacks *cb);
void mpcc_session_destroy(mpcc_session *s);

/* Kinds of output of mpcc_compile. */
typedef enum {
  MPCC_OUT_IMAGE,    /* program image (abi.h) */
  MPCC_OUT_IR,       /* text of the module after the last pass run */
  MPCC_OUT_OBJECT, MPCC_OUT_ASM, MPCC_OUT_LLVM_IR, /* kernels of the first level; object: MpccArchive; text: of cpu */
  MPCC_OUT_CUDA, MPCC_OUT_PTX, MPCC_OUT_CUBIN,     /* the same on target cuda */
  MPCC_OUT_PLAN,     /* explain text */
  MPCC_OUT_DOT, MPCC_OUT_SVG, /* the forward pass as a picture, coloured by dtype */
  MPCC_OUT_C_HEADER, /* for a host that links the image and libmpcc_rt */
  MPCC_OUT_CHECK     /* nothing: parse, type and shape check only */
} mpcc_output;

/* Functions below compile the `len` bytes of `text`; `path` names it in messages, is the base of files
 * it includes, and says what it is: IR when it ends in .mpir, else a spec. What they return is
 * malloc'ed, zero-terminated beside its length, and the caller's; NULL on failure.
 * errors  ERR_INPUT (the text is wrong), ERR_USAGE (an option is), ERR_TARGET (impossible on this
 *         target), ERR_FILE (an included file, the cache), ERR_NOMEM, ERR_INTERNAL; the words went to
 *         the message callback */

/* *out is NULL for MPCC_OUT_CHECK. */
mpcc_status mpcc_compile(mpcc_session *s, const char *path, const char *text, size_t len,
                         mpcc_output kind, void **out, size_t *bytes);
/* What changes between two precision modes of a spec, in words and figures. */
mpcc_status mpcc_explain_diff(mpcc_session *s, const char *path, const char *text, size_t len,
                              const char *mode_a, const char *mode_b, void **out, size_t *bytes);
/* YAML of the effective spec with the origin of each value. */
mpcc_status mpcc_resolve(mpcc_session *s, const char *path, const char *text, size_t len,
                         void **out, size_t *bytes);
/* Names of the layers with products (what autocast runs in low precision), each followed by a
 * newline, in order of the forward pass; before it a tab and "no FP8" where the recipes leave all of
 * them alone. */
mpcc_status mpcc_product_layers(mpcc_session *s, const char *path, const char *text, size_t len,
                                char **out);
/* One kernel beside its reference. */
typedef struct {
  const char *kind, *label, *layer, *place, *symbol;
  double error, bound; /* worst |got - want| / bound unit: passes when error <= bound */
  bool ok;
} mpcc_verdict;

/* What mpcc_verify needs of a host that can run machine code: the driver has the runtime for it. */
typedef struct {
  /* Runs kernel `symbol` of the image over all its tiles on the caller's buffers. bytes: of each of n
   * arguments, 0: an integer; the first nout are results. symbol "": a product by the vendor's
   * library, arguments as its command has them (abi.h). */
  mpcc_status (*run)(void *user, const char *symbol, const MpccArg *args, const uint64_t *bytes,
                     int n, int nout);
  void (*verdict)(void *user, const mpcc_verdict *v);
  void *user;
} mpcc_executor;
/* Compiles `text` as mpcc_compile does and runs each distinct kernel on random operands beside the
 * reference interpreter. errors: those of mpcc_compile; ERR_RUN when a kernel deviates. */
mpcc_status mpcc_verify(mpcc_session *s, const char *path, const char *text, size_t len,
                        const mpcc_executor *x);
/* Help on warnings, targets, layers, precisions, passes, a message code ("MPC0102"), the language
 * ("spec": Markdown, "schema": JSON Schema); malloc'ed, NULL when there is none. */
char *mpcc_help(const char *topic);
/* "0.1.0"; static. */
const char *mpcc_version(void);

#ifdef __cplusplus
}
#endif
#endif
