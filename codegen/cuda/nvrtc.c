/* NVRTC through dlopen, with declarations of our own: a machine without the toolkit builds mpcc and
 * compiles for the CPU. */
#include "codegen/cuda/nvrtc.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Program *NvrtcProgram;
typedef int NvrtcResult; /* 0 is success */

/* Functions of nvrtc.h (CUDA 13), one row each. */
#define FUNCTIONS(F)                                                                               \
  F(nvrtcVersion, (int *major, int *minor))                                                        \
  F(nvrtcCreateProgram, (NvrtcProgram *, const char *text, const char *name, int headers,          \
                         const char *const *header, const char *const *header_name))               \
  F(nvrtcCompileProgram, (NvrtcProgram, int options, const char *const *option))                   \
  F(nvrtcDestroyProgram, (NvrtcProgram *))                                                         \
  F(nvrtcGetPTXSize, (NvrtcProgram, size_t *))                                                     \
  F(nvrtcGetPTX, (NvrtcProgram, char *))                                                           \
  F(nvrtcGetCUBINSize, (NvrtcProgram, size_t *))                                                   \
  F(nvrtcGetCUBIN, (NvrtcProgram, char *))                                                         \
  F(nvrtcGetProgramLogSize, (NvrtcProgram, size_t *))                                              \
  F(nvrtcGetProgramLog, (NvrtcProgram, char *))

struct Nvrtc {
#define F(name, args) NvrtcResult(*name) args;
  FUNCTIONS(F)
#undef F
  char version[24];
};

enum { OLDEST = 12 };

static Nvrtc library;
static char why_not[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *try_folder(const char *folder) {
  static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", names[i]);
    void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (h)
      return h;
  }
  return NULL;
}

static void *find_library(void) {
  const char *own = getenv("MPCC_NVRTC"), *home = getenv("CUDA_HOME");
  if (own && *own)
    return dlopen(own, RTLD_NOW | RTLD_LOCAL);
  void *h = try_folder("");
  char folder[400];
  if (!h && home && *home) {
    snprintf(folder, sizeof folder, "%s/lib64", home);
    h = try_folder(folder);
  }
  return h ? h : try_folder("/usr/local/cuda/lib64");
}

static void open_library(void) {
  int major = 0, minor = 0;
  void *h = find_library();
  if (!h) {
    const char *words = dlerror();
    snprintf(why_not, sizeof why_not, "NVRTC was not found (%s)", words ? words : "libnvrtc.so");
    return;
  }
#define F(name, args)                                                                              \
  *(void **)&library.name = dlsym(h, #name);                                                       \
  if (!library.name) {                                                                             \
    snprintf(why_not, sizeof why_not, "NVRTC has no function " #name);                             \
    return;                                                                                        \
  }
  FUNCTIONS(F)
#undef F
  if (library.nvrtcVersion(&major, &minor) || major < OLDEST) {
    snprintf(why_not, sizeof why_not, "NVRTC %d.%d is too old, %d.0 is needed", major, minor,
             OLDEST);
    return;
  }
  snprintf(library.version, sizeof library.version, "%d.%d", major, minor);
}

const Nvrtc *nvrtc_open(char *error) {
  pthread_once(&once, open_library);
  if (library.version[0])
    return &library;
  snprintf(error, 256, "%s", why_not);
  return NULL;
}

const char *nvrtc_version(const Nvrtc *n) {
  return n->version;
}

/* size and bytes by one pair of functions; NULL on failure. */
static char *get(NvrtcProgram p, NvrtcResult (*size)(NvrtcProgram, size_t *),
                 NvrtcResult (*read)(NvrtcProgram, char *), size_t *bytes) {
  size_t n = 0;
  if (size(p, &n))
    return NULL;
  char *data = malloc(n + 1);
  if (data && read(p, data)) {
    free(data);
    return NULL;
  }
  if (data)
    data[n] = 0;
  *bytes = n;
  return data;
}

/* 177: helpers that a program does not use */
static const char *const always[] = {"-minimal", "-diag-suppress=177", "-Xptxas", "-v"};
enum { ALWAYS = sizeof always / sizeof *always };

static const char *contraction(bool exact) {
  return exact ? "--fmad=false" : "--fmad=true";
}

void nvrtc_options(bool exact, char options[200]) {
  int at = snprintf(options, 200, "%s", contraction(exact));
  for (int i = 0; i < ALWAYS; i++)
    at += snprintf(options + at, 200 - (size_t)at, " %s", always[i]);
}

bool nvrtc_compile(const Nvrtc *n, const char *text, const char *arch, bool exact, char **ptx,
                   void **cubin, size_t *cubin_bytes, char **log) {
  char arch_option[40];
  snprintf(arch_option, sizeof arch_option, "-arch=%s", arch);
  const char *options[ALWAYS + 2] = {arch_option, contraction(exact)};
  for (int i = 0; i < ALWAYS; i++)
    options[2 + i] = always[i];
  const int count = ALWAYS + 2;
  NvrtcProgram p = NULL;
  size_t bytes;
  *log = NULL;
  if (n->nvrtcCreateProgram(&p, text, "kernels.cu", 0, NULL, NULL))
    return false;
  bool ok = !n->nvrtcCompileProgram(p, count, options);
  *log = get(p, n->nvrtcGetProgramLogSize, n->nvrtcGetProgramLog, &bytes);
  if (ptx) {
    *ptx = ok ? get(p, n->nvrtcGetPTXSize, n->nvrtcGetPTX, &bytes) : NULL;
    ok = ok && *ptx;
  }
  if (cubin) {
    *cubin = ok ? get(p, n->nvrtcGetCUBINSize, n->nvrtcGetCUBIN, cubin_bytes) : NULL;
    ok = ok && *cubin;
  }
  n->nvrtcDestroyProgram(&p);
  return ok;
}

/* The log of -Xptxas -v, for each kernel:
 *   ptxas info    : Compiling entry function 'NAME' for 'sm_90'
 *   ptxas info    : Function properties for NAME
 *   ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
 *   ptxas info    : Used 12 registers, used 1 barriers, 396 bytes cmem[0] */
bool nvrtc_figures(const char *log, const char *symbol, int *registers, int *spill_bytes) {
  char head[160];
  int frame = 0, stores = 0;
  snprintf(head, sizeof head, "entry function '%s'", symbol);
  const char *at = log ? strstr(log, head) : NULL;
  const char *used = at ? strstr(at, "Used ") : NULL;
  const char *memory = at ? strstr(at, "bytes stack frame") : NULL;
  if (!used || !memory || sscanf(used, "Used %d registers", registers) != 1)
    return false;
  while (memory > at && (memory[-1] == ' ' || (memory[-1] >= '0' && memory[-1] <= '9')))
    memory--;
  if (sscanf(memory, "%d bytes stack frame, %d bytes spill stores", &frame, &stores) != 2)
    return false;
  *spill_bytes = frame > stores ? frame : stores;
  return true;
}
