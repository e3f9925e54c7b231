/* The host as a device: memory for segments, and what its processor can do. */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/rt.h"

enum { HUGE_PAGE = 2 << 20 };

/* ---- memory ---- */

Status mprt__memory_create(size_t bytes, bool guarded, mprt__memory *out) {
  memset(out, 0, sizeof *out);
  if (bytes == 0)
    return MPCC_OK;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t align = bytes >= HUGE_PAGE && !guarded ? HUGE_PAGE : page;
  if (bytes > SIZE_MAX / 2 - 2 * align)
    return MPCC_ERR_NOMEM;
  size_t body = (bytes + page - 1) & ~(page - 1);
  size_t total = body + (guarded ? 2 * page : align - page);
  uint8_t *map =
      mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED)
    return MPCC_ERR_NOMEM;
  out->map = map;
  out->map_bytes = total;
  out->bytes = bytes;
  if (guarded) {
    if (mprotect(map, page, PROT_NONE) || mprotect(map + page + body, page, PROT_NONE)) {
      mprt__memory_destroy(out);
      return MPCC_ERR_NOMEM;
    }
    out->data = map + page + ((body - bytes) & ~(size_t)(MPCC_ALIGN - 1));
    return MPCC_OK;
  }
  out->data = map + (-(uintptr_t)map & (align - 1));
  if (align == HUGE_PAGE)
    (void)madvise(out->data, body, MADV_HUGEPAGE); /* advice: fine when the kernel has none */
  return MPCC_OK;
}

void mprt__memory_destroy(mprt__memory *m) {
  if (m->map)
    munmap(m->map, m->map_bytes);
  memset(m, 0, sizeof *m);
}

/* A number alone in a file; UINT64_MAX when there is none ("max"). */
static uint64_t read_limit(const char *path) {
  unsigned long long v;
  FILE *f = fopen(path, "re");
  if (!f)
    return UINT64_MAX;
  if (fscanf(f, "%llu", &v) != 1)
    v = UINT64_MAX;
  fclose(f);
  return v;
}

uint64_t mprt_memory_limit(void) {
  static const char *const files[] = {"/sys/fs/cgroup/memory.max",
                                      "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  uint64_t best = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    uint64_t v = read_limit(files[i]);
    if (v < best)
      best = v;
  }
  return best;
}

/* ---- processor features ---- */

/* What the operating system must save on a task switch for a register set to be usable (bits of
 * XCR0). Intel SDM vol. 1, sec. 13.3. */
enum {
  OS_ANY = 0,
  OS_AVX = 0x6,     /* XMM, YMM */
  OS_AVX512 = 0xe6, /* and opmask, ZMM */
  OS_AMX = 0x60000  /* tile configuration and data */
};

typedef enum { EAX, EBX, ECX, EDX } Register;

/* CPUID bits: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E (leaf 0x80000001). */
static const struct {
  const char *name; /* without '_' and '.' */
  uint32_t leaf, subleaf;
  Register reg;
  int bit;
  uint32_t os;
} features[] = {
    {"sse2", 1, 0, EDX, 26, OS_ANY},
    {"sse3", 1, 0, ECX, 0, OS_ANY},
    {"ssse3", 1, 0, ECX, 9, OS_ANY},
    {"sse41", 1, 0, ECX, 19, OS_ANY},
    {"sse42", 1, 0, ECX, 20, OS_ANY},
    {"cx16", 1, 0, ECX, 13, OS_ANY},
    {"movbe", 1, 0, ECX, 22, OS_ANY},
    {"popcnt", 1, 0, ECX, 23, OS_ANY},
    {"avx", 1, 0, ECX, 28, OS_AVX},
    {"fma", 1, 0, ECX, 12, OS_AVX},
    {"f16c", 1, 0, ECX, 29, OS_AVX},
    {"bmi", 7, 0, EBX, 3, OS_ANY},
    {"bmi1", 7, 0, EBX, 3, OS_ANY},
    {"avx2", 7, 0, EBX, 5, OS_AVX},
    {"bmi2", 7, 0, EBX, 8, OS_ANY},
    {"avx512f", 7, 0, EBX, 16, OS_AVX512},
    {"avx512dq", 7, 0, EBX, 17, OS_AVX512},
    {"avx512ifma", 7, 0, EBX, 21, OS_AVX512},
    {"avx512cd", 7, 0, EBX, 28, OS_AVX512},
    {"avx512bw", 7, 0, EBX, 30, OS_AVX512},
    {"avx512vl", 7, 0, EBX, 31, OS_AVX512},
    {"avx512vbmi", 7, 0, ECX, 1, OS_AVX512},
    {"avx512vbmi2", 7, 0, ECX, 6, OS_AVX512},
    {"gfni", 7, 0, ECX, 8, OS_ANY},
    {"avx512vnni", 7, 0, ECX, 11, OS_AVX512},
    {"avx512bitalg", 7, 0, ECX, 12, OS_AVX512},
    {"avx512vpopcntdq", 7, 0, ECX, 14, OS_AVX512},
    {"avx512fp16", 7, 0, EDX, 23, OS_AVX512},
    {"amxbf16", 7, 0, EDX, 22, OS_AMX},
    {"amxtile", 7, 0, EDX, 24, OS_AMX},
    {"amxint8", 7, 0, EDX, 25, OS_AMX},
    {"avxvnni", 7, 1, EAX, 4, OS_AVX},
    {"avx512bf16", 7, 1, EAX, 5, OS_AVX512},
    {"amxfp16", 7, 1, EAX, 21, OS_AMX},
    {"lzcnt", 0x80000001, 0, ECX, 5, OS_ANY},
};

/* XCR0; 0 when the operating system has not enabled XSAVE (OSXSAVE, leaf 1 ECX bit 27). */
static uint64_t os_state(void) {
  uint32_t a, b, c, d, lo, hi;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27))
    return 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

static bool same_name(const char *plain, const char *word, size_t len) {
  for (size_t i = 0; i < len; i++) {
    if (word[i] == '_' || word[i] == '.' || word[i] == '-')
      continue;
    if (*plain == 0 || *plain++ != word[i])
      return false;
  }
  return *plain == 0;
}

bool mprt__cpu_has(const char *feature, size_t len, bool *known) {
  for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
    if (!same_name(features[i].name, feature, len))
      continue;
    *known = true;
    uint32_t r[4] = {0};
    /* Refuses leaves above the highest. Leaf 7 gives its highest subleaf in EAX of subleaf 0. */
    if (features[i].subleaf > 0 &&
        (!__get_cpuid_count(features[i].leaf, 0, &r[0], &r[1], &r[2], &r[3]) ||
         r[0] < features[i].subleaf))
      return false;
    if (!__get_cpuid_count(features[i].leaf, features[i].subleaf, &r[0], &r[1], &r[2], &r[3]))
      return false;
    return (r[features[i].reg] >> features[i].bit & 1) &&
           (os_state() & features[i].os) == features[i].os;
  }
  *known = false;
  return false;
}
