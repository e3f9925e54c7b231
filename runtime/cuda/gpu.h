/* What the files of runtime/cuda share: the device as it is held. */
#ifndef MPCC_RUNTIME_CUDA_GPU_H
#define MPCC_RUNTIME_CUDA_GPU_H

#include "runtime/cuda/device.h"
#include "runtime/cuda/syms.h"

enum { INPUT_SLOTS = 2 };

/* One of the places a batch can be in, so that the next one comes while this one is read. */
typedef struct {
  CUdeviceptr inputs; /* where the window of inputs (below) begins; slot 0: in the io segment */
  uint8_t *pinned;    /* what is on its way to the device: the window, then small tensors */
  CUevent arrived;    /* on `copies`: the window is there */
  CUevent done;       /* on `stream`: what reads the slot has run, and nothing pinned is needed */
  bool used;          /* done was recorded */
  uint64_t small;     /* bytes behind the window that may still be on their way */
} InputSlot;

/* Bytes of a tensor that the mirror has and the device lacks; empty: none. */
typedef struct {
  uint64_t begin, end;
} Dirty;

struct mprt__cuda {
  mprt__cuda_api api;
  CUdevice device;
  int capability; /* 90: 9.0 */
  CUcontext context;
  CUstream stream, copies; /* commands; inputs on their way */
  CUdeviceptr segment[MPCC_SEG_COUNT];
  CUmodule *module; /* per object of the archive */
  uint64_t nmodule;
  CUfunction *function; /* per kernel */

  Dirty *dirty; /* per tensor */
  bool *fresh;  /* per tensor: the mirror has what the device has */
  bool any_dirty;
  uint64_t window, window_bytes; /* of io: from the first input to the end of the last */
  InputSlot slot[INPUT_SLOTS];
  int current; /* slot of the newest batch */

  CUgraphExec *graph; /* per function and slot; NULL: not captured yet */
  bool *warm;         /* per function: has run, so everything of it is loaded */

  struct mprt__products *products; /* gemm_lt.c; NULL: the program has none */

  const char *last; /* label of the newest launch: an error may be noticed late */
  Status failure;   /* the first; a context that failed stays so */
};

/* ---- device.c -------------------------------------------------------------------------------- */

/* Tells the first failure, keeps it and returns its status; later ones are consequences. */
Status mprt__cuda_failed(const mprt_program *p, mprt__cuda *g, CUresult r, const char *doing);
#define CUDA_TRY(call, doing)                                                                      \
  do {                                                                                             \
    const CUresult r_ = (call);                                                                    \
    if (r_ != CUDA_SUCCESS)                                                                        \
      return mprt__cuda_failed(p, g, r_, doing);                                                   \
  } while (0)

/* ---- modules.c ------------------------------------------------------------------------------- */

/* Loads the objects of p->chosen and finds every kernel. errors: ERR_INPUT, ERR_RUN, ERR_NOMEM */
Status mprt__cuda_modules(const mprt_program *p, mprt__cuda *g);
void mprt__cuda_unload(mprt__cuda *g);

/* ---- mirror.c -------------------------------------------------------------------------------- */

/* Second place for inputs, pinned memory, events. errors: ERR_RUN, ERR_NOMEM */
Status mprt__cuda_open_mirror(const mprt_program *p, mprt__cuda *g);
void mprt__cuda_close_mirror(mprt__cuda *g);
/* Puts what the host wrote on its way to the device, in front of what `stream` gets next; a new
 * batch takes the other slot. The mirror may be written again when it returns. */
Status mprt__cuda_push(const mprt_program *p, mprt__cuda *g);
/* After the commands of a run: the slot is read until here. */
Status mprt__cuda_pushed(const mprt_program *p, mprt__cuda *g);
/* Address of an argument in iteration t of its loop (0 outside of loops), or the integer it is; an
 * input is in the current slot. */
uint64_t mprt__cuda_address(const mprt_program *p, const mprt__cuda *g, const MpccArgRef *a,
                            uint64_t t);

/* ---- gemm_lt.c ------------------------------------------------------------------------------- */

typedef struct mprt__products mprt__products;
/* Whether the program multiplies matrices by the vendor's library. */
bool mprt__cuda_has_products(const mprt_program *p);
/* Loads the library and plans every product. errors: ERR_TARGET (no library), ERR_RUN, ERR_NOMEM */
Status mprt__cuda_open_products(const mprt_program *p, mprt__cuda *g);
void mprt__cuda_close_products(mprt__cuda *g);
/* Puts a product on the stream, as iteration t of its loop has it. */
Status mprt__cuda_product(const mprt_program *p, mprt__cuda *g, const MpccCommand *c, uint64_t t);
/* One like m that the program has, on other operands: D, A, B, those of `with`, each aligned to 256
 * bytes. errors: ERR_INPUT when it has none, ERR_RUN */
Status mprt__cuda_multiply(const mprt_program *p, mprt__cuda *g, const MpccProduct *m,
                           const CUdeviceptr *operand);

/* ---- clock.c --------------------------------------------------------------------------------- */

typedef struct mprt__cuda_clock mprt__cuda_clock;
/* `told` hears of every command, in order, when its times are read. *out is to be closed in every
 * case. errors: ERR_RUN, ERR_NOMEM */
Status mprt__cuda_clock_open(const mprt_program *p, mprt__cuda *g, const mprt__clock *told,
                             mprt__cuda_clock **out);
void mprt__cuda_clock_close(mprt__cuda *g, mprt__cuda_clock *c); /* NULL is fine */
/* Around a command, on the stream. */
Status mprt__cuda_clock_begin(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c);
Status mprt__cuda_clock_end(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c,
                            const MpccCommand *of);
/* Waits for the commands and tells what they took. */
Status mprt__cuda_clock_read(const mprt_program *p, mprt__cuda *g, mprt__cuda_clock *c);

/* ---- graph.c --------------------------------------------------------------------------------- */

/* Room for graphs. errors: ERR_NOMEM */
Status mprt__cuda_open_graphs(const mprt_program *p, mprt__cuda *g);
/* What was captured is captured again when it next runs. */
void mprt__cuda_forget_graphs(const mprt_program *p, mprt__cuda *g);
void mprt__cuda_close_graphs(const mprt_program *p, mprt__cuda *g);

#endif
