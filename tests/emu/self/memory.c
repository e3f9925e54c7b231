/* Every opcode that touches memory, in every spelling of the table: loads and stores of each type,
 * vector and register width in each space, atomics with edge values, asynchronous copies of each
 * size, ldmatrix; each with neighbouring, scattered and equal addresses, in full warps and in part.
 * PTX is written around the opcode and compared with C that reads the opcode's name; a spelling
 * that has no case here fails. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

#include "mpcc/num.h"
#include "provers.h"
#include "tests/check_run.h"

enum { THREADS = 64, OUT = 32 /* bytes of a thread's results */, ROOM = 4096 };

/* ---- what the kernels work on ---- */

typedef struct {
  Memory m;
  uint64_t in, out, index;
  uint8_t *host_in, *host_out;
  int32_t *host_index;
} Bench;

static uint8_t *device(Bench *b, uint64_t *address) {
  *address = memory_alloc(&b->m, ROOM);
  Alloc *a = memory_find(&b->m, *address, ROOM);
  memory_host_wrote(a, 0, ROOM);
  return a->host;
}
static void bench_init(Bench *b) {
  memset(b, 0, sizeof *b);
  b->host_in = device(b, &b->in);
  b->host_out = device(b, &b->out);
  b->host_index = (int32_t *)(void *)device(b, &b->index);
}

typedef struct {
  char at[8192];
  size_t n;
} Text;

static void add(Text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(Text *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  t->n += (size_t)vsnprintf(t->at + t->n, sizeof t->at - t->n, format, args);
  va_end(args);
  MUST(t->n < sizeof t->at, "no room");
}

/* %r1: thread, %r2: its index (below 0: it has none, and %p1), %a1: in, %a2: its 32 bytes of out,
 * %a7: all of out, %r0: its address in shared memory when the index counts units of `unit` bytes.
 */
static void begin(Text *t, uint32_t unit) {
  t->n = 0;
  add(t, ".version 9.0\n.target sm_90\n.address_size 64\n"
         ".const .align 16 .b8 fixed[1024] = {0");
  for (int i = 1; i < 1024; i++)
    add(t, ",%d", (i * 89 + (i >> 3)) & 255);
  add(t,
      "};\n.visible .entry k(.param .u64 in, .param .u64 out, .param .u64 index, .param .align 16 "
      ".b8 table[256])\n{\n.reg .pred %%p<5>; .reg .b32 %%r<9>; .reg .b64 %%a<12>; "
      ".reg .b32 %%x<9>; .reg .b64 %%y<9>;\n.shared .align 16 .b8 s[1024];\n"
      "ld.param.u64 %%a1, [in]; ld.param.u64 %%a2, [out]; ld.param.u64 %%a3, [index];\n"
      "mov.u32 %%r1, %%tid.x; mov.u64 %%a7, %%a2;\n"
      "mul.wide.u32 %%a4, %%r1, 4; add.s64 %%a3, %%a3, %%a4; ld.global.u32 %%r2, [%%a3];\n"
      "mul.wide.u32 %%a4, %%r1, %d; add.s64 %%a2, %%a2, %%a4;\n"
      "mul.lo.u32 %%r0, %%r2, %u; add.u32 %%r0, %%r0, s; setp.lt.s32 %%p1, %%r2, 0;\n"
      "mul.wide.s32 %%a5, %%r2, %u;\n",
      OUT, unit, unit);
  for (int i = 0; i < 4; i++)
    add(t, "mov.u32 %%x%d, 0x5A5A5A5A; mov.u64 %%y%d, 0x5A5A5A5A5A5A5A5A;\n", i, i);
}

static void run(Bench *b, const Text *t, uint64_t seed) {
  char why[512];
  Module *module = ptx_load(t->at, &b->m, why);
  MUST(module != NULL, "%s\n%s", why, t->at);
  struct {
    uint64_t in, out, index, unused;
    uint8_t table[256];
  } params = {b->in, b->out, b->index, 0, {0}};
  memcpy(params.table, b->host_in, sizeof params.table);
  const LaunchConfig c = {{1, 1, 1}, {THREADS, 1, 1}, 0, (const uint8_t *)&params, seed};
  Report r;
  MUST(launch_run(ptx_kernel(module, "k"), &b->m, &c, &r, NULL), "%s%s", r.text, t->at + 4000);
  ptx_unload(module);
}

/* Orders of addresses: neighbours, one for all, scattered, scattered with lanes that have none. */
enum { ORDERS = 4 };
static void order(Bench *b, int how, bool may_share, int most) {
  for (int t = 0; t < THREADS; t++)
    b->host_index[t] = how == 0 ? t : how == 1 && may_share ? 5 : (t * 29 + 3) % 64;
  for (int t = 0; t < THREADS; t++)
    if (b->host_index[t] >= most || (how == 3 && t % 5 == 2))
      b->host_index[t] = -1;
}

static bool starts(const char *s, const char *with) {
  return strncmp(s, with, strlen(with)) == 0;
}
static const char *type_of(const char *spelled) {
  return strrchr(spelled, '.') + 1;
}
static uint32_t type_bytes(const char *spelled) {
  return (uint32_t)atoi(type_of(spelled) + 1) / 8;
}

/* ---- loads ---- */

typedef struct {
  Bench *b;
  uint32_t done;
} Run;

/* `ld.x.v2.u32`, `{%x0, %x1}`: a spelling as a vector of n. */
static void vector(Text *t, const char *spelled, uint32_t n, char reg, uint32_t first,
                   const char *address, bool store) {
  const int stem = (int)(strrchr(spelled, '.') - spelled);
  char data[80] = "", name[96];
  size_t at = 0;
  for (uint32_t i = 0; i < n; i++)
    at += (size_t)snprintf(data + at, sizeof data - at, "%s%%%c%u", i ? ", " : "", reg, first + i);
  if (n > 1)
    snprintf(name, sizeof name, "%.*s.v%u%s", stem, spelled, n, spelled + stem);
  else
    snprintf(name, sizeof name, "%s", spelled);
  const char *open = n > 1 ? "{" : "", *close = n > 1 ? "}" : "";
  if (store)
    add(t, "%s [%s], %s%s%s;\n", name, address, open, data, close);
  else
    add(t, "%s %s%s%s, [%s];\n", name, open, data, close, address);
}

static void fill_shared(Text *t, uint32_t unit) {
  static const char *const types[] = {"u8", "u16", "u32", "u64"};
  const uint32_t bytes = unit > 8 ? unit / 2 : unit, n = unit / bytes;
  const int type = bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3;
  char load[32], store[32];
  snprintf(load, sizeof load, "ld.global.%s", types[type]);
  snprintf(store, sizeof store, "st.shared.%s", types[type]);
  add(t, "mul.wide.u32 %%a4, %%r1, %u; add.s64 %%a4, %%a1, %%a4; mad.lo.u32 %%r3, %%r1, %u, s;\n",
      unit, unit);
  vector(t, load, n, bytes == 8 ? 'y' : 'x', 4, "%a4", false);
  vector(t, store, n, bytes == 8 ? 'y' : 'x', 4, "%r3", true);
  add(t, "bar.sync 0;\n");
}

typedef enum { BASE_GLOBAL, BASE_CONST, BASE_SHARED, BASE_PARAM } Base;

static uint64_t extended(const uint8_t *p, const char *type, bool to64) {
  const int bits = atoi(type + 1);
  uint64_t v = 0;
  memcpy(&v, p, (size_t)bits / 8);
  if (type[0] == 's' && bits < 64)
    v = (uint64_t)((int64_t)(v << (64 - bits)) >> (64 - bits));
  return to64 ? v : v & UINT32_MAX;
}

static void check_load(Run *r, const char *spelled, Base base, bool generic, uint32_t n,
                       bool to64) {
  const char *type = type_of(spelled);
  const uint32_t bytes = type_bytes(spelled), unit = bytes * n;
  Bench *b = r->b;
  Text t;
  for (int how = 0; how < ORDERS; how++) {
    const bool by_guard = how == 2; /* else a branch around the load */
    begin(&t, unit);
    if (base == BASE_SHARED)
      fill_shared(&t, unit);
    add(&t, base == BASE_CONST    ? "mov.u64 %%a6, fixed; add.s64 %%a6, %%a6, %%a5;\n"
            : base == BASE_PARAM  ? "mov.u64 %%a6, table; add.s64 %%a6, %%a6, %%a5;\n"
            : base == BASE_SHARED ? "cvt.u64.u32 %%a6, %%r0;\n"
                                  : "add.s64 %%a6, %%a1, %%a5;\n");
    if (generic && base == BASE_SHARED)
      add(&t, "cvta.shared.u64 %%a6, %%a6;\n");
    add(&t, "sub.s64 %%a6, %%a6, %u;\n%s", unit, by_guard ? "@!%p1 " : "@%p1 bra SKIP;\n");
    char address[16];
    snprintf(address, sizeof address, "%%a6+%u", unit);
    vector(&t, spelled, n, to64 ? 'y' : 'x', 0,
           base == BASE_SHARED && !generic && how == 0 ? "%r0" : address, false);
    add(&t, "SKIP:\n");
    for (uint32_t i = 0; i < n; i++)
      add(&t, to64 ? "st.global.u64 [%%a2+%u], %%y%u;\n" : "st.global.u32 [%%a2+%u], %%x%u;\n",
          8 * i, i);
    add(&t, "ret;\n}\n");
    order(b, how, true, base == BASE_PARAM ? (int)(256 / unit) : THREADS);
    run(b, &t, 0);
    for (int k = 0; k < THREADS; k++)
      for (uint32_t i = 0; i < n; i++) {
        uint64_t got = 0, want = to64 ? 0x5A5A5A5A5A5A5A5A : 0x5A5A5A5A;
        memcpy(&got, b->host_out + OUT * k + 8 * i, to64 ? 8 : 4);
        const int32_t at = b->host_index[k];
        if (at >= 0) {
          const uint32_t first = (uint32_t)at * unit + i * bytes;
          uint8_t fixed[8];
          for (uint32_t q = 0; q < 8; q++)
            fixed[q] = (uint8_t)((first + q) * 89 + ((first + q) >> 3));
          if (first == 0)
            fixed[0] = 0;
          want = extended(base == BASE_CONST ? fixed : b->host_in + first, type, to64);
        }
        MUST(got == want, "%s v%u to %d bits, order %d, thread %d: %llx, want %llx", spelled, n,
             to64 ? 64 : 32, how, k, (unsigned long long)got, (unsigned long long)want);
      }
  }
  r->done++;
}

static void load(Run *r, const char *spelled) {
  const uint32_t bytes = type_bytes(spelled);
  const bool shared = strstr(spelled, ".shared") != NULL, global = strstr(spelled, ".global"),
             constant = strstr(spelled, ".const"), param = strstr(spelled, ".param"),
             generic = !shared && !global && !constant && !param;
  for (uint32_t n = 1; n <= 4 && n * bytes <= 16; n *= 2)
    for (int to64 = bytes == 8; to64 < 2; to64++) {
      check_load(r, spelled,
                 constant ? BASE_CONST
                 : param  ? BASE_PARAM
                 : shared ? BASE_SHARED
                          : BASE_GLOBAL,
                 generic, n, to64);
      if (generic)
        check_load(r, spelled, BASE_SHARED, true, n, to64);
    }
}

/* ---- stores ---- */

static void check_store(Run *r, const char *spelled, Base base, bool generic, uint32_t n,
                        bool from64) {
  const uint32_t bytes = type_bytes(spelled), unit = bytes * n;
  Bench *b = r->b;
  Text t;
  for (int how = 0; how < ORDERS; how++) {
    begin(&t, unit);
    add(&t, "mul.wide.u32 %%a4, %%r1, 32; add.s64 %%a4, %%a1, %%a4;\n");
    for (uint32_t i = 0; i < n; i++)
      add(&t, from64 ? "ld.global.u64 %%y%u, [%%a4+%u];\n" : "ld.global.u32 %%x%u, [%%a4+%u];\n", i,
          8 * i);
    if (base == BASE_SHARED) {
      fill_shared(&t, unit);
      add(&t, generic ? "cvt.u64.u32 %%a6, %%r0; cvta.shared.u64 %%a6, %%a6;\n"
                      : "cvt.u64.u32 %%a6, %%r0;\n");
    } else {
      add(&t, "add.s64 %%a6, %%a7, %%a5;\n");
    }
    add(&t, "add.s64 %%a6, %%a6, 64;\n%s", how == 2 ? "@!%p1 " : "@%p1 bra SKIP;\n");
    vector(&t, spelled, n, from64 ? 'y' : 'x', 0,
           base == BASE_SHARED && !generic && how == 0 ? "%r0" : "%a6-64", true);
    add(&t, "SKIP:\n");
    if (base == BASE_SHARED) { /* what is there now, a thread's own unit */
      add(&t, "bar.sync 0;\n");
      const uint32_t each = unit > 8 ? unit / 2 : unit;
      char get[32], put[32];
      snprintf(get, sizeof get, "ld.shared.u%u", 8 * each);
      snprintf(put, sizeof put, "st.global.u%u", 8 * each);
      add(&t, "mul.wide.u32 %%a4, %%r1, %u; add.s64 %%a4, %%a7, %%a4;\n", unit);
      vector(&t, get, unit / each, each == 8 ? 'y' : 'x', 4, "%r3", false);
      vector(&t, put, unit / each, each == 8 ? 'y' : 'x', 4, "%a4", true);
    }
    add(&t, "ret;\n}\n");
    order(b, how, false, THREADS);
    memset(b->host_out, 0x11, ROOM);
    uint8_t want[ROOM];
    memcpy(want, b->host_out, ROOM);
    if (base == BASE_SHARED)
      memcpy(want, b->host_in, THREADS * unit);
    for (int k = 0; k < THREADS; k++)
      for (uint32_t i = 0; i < n && b->host_index[k] >= 0; i++)
        memcpy(want + (uint32_t)b->host_index[k] * unit + i * bytes, b->host_in + 32 * k + 8 * i,
               bytes);
    run(b, &t, 0);
    for (uint32_t i = 0; i < ROOM; i++)
      MUST(b->host_out[i] == want[i], "%s v%u from %d bits, order %d: byte %u is %x, not %x",
           spelled, n, from64 ? 64 : 32, how, i, b->host_out[i], want[i]);
  }
  r->done++;
}

static void store(Run *r, const char *spelled) {
  const uint32_t bytes = type_bytes(spelled);
  const bool shared = strstr(spelled, ".shared") != NULL, global = strstr(spelled, ".global");
  for (uint32_t n = 1; n <= 4 && n * bytes <= 16; n *= 2)
    for (int from64 = bytes == 8; from64 < 2; from64++) {
      check_store(r, spelled, shared ? BASE_SHARED : BASE_GLOBAL, false, n, from64);
      if (!shared && !global)
        check_store(r, spelled, BASE_SHARED, true, n, from64);
    }
}

/* ---- atomics ---- */

static uint64_t combined(const char *op, const char *type, uint64_t a, uint64_t b, uint64_t c,
                         bool global) {
  const bool f32 = strcmp(type, "f32") == 0, is_signed = type[0] == 's';
  const uint64_t mask = type_bytes(type - 1) == 8 ? UINT64_MAX : UINT32_MAX;
  const int64_t x = is_signed ? (int32_t)a : 0, y = is_signed ? (int32_t)b : 0;
  if (type[0] == 'f') {
    if (!f32)
      return num_f64_bits(num_f64_from_bits(a) + num_f64_from_bits(b));
    float p = num_f32_from_bits((uint32_t)a), q = num_f32_from_bits((uint32_t)b);
    if (global) /* subnormal inputs and results are zero there: PTX ISA, atom */
      p = fabsf(p) < 0x1p-126f ? copysignf(0, p) : p,
      q = fabsf(q) < 0x1p-126f ? copysignf(0, q) : q;
    float s = p + q;
    if (global && fabsf(s) < 0x1p-126f)
      s = copysignf(0, s);
    return num_f32_bits(s);
  }
  a &= mask, b &= mask;
  return (strcmp(op, "add") == 0    ? a + b
          : strcmp(op, "min") == 0  ? ((is_signed ? x < y : a < b) ? a : b)
          : strcmp(op, "max") == 0  ? ((is_signed ? x > y : a > b) ? a : b)
          : strcmp(op, "and") == 0  ? a & b
          : strcmp(op, "or") == 0   ? a | b
          : strcmp(op, "xor") == 0  ? a ^ b
          : strcmp(op, "exch") == 0 ? b
          : strcmp(op, "inc") == 0  ? (a >= b ? 0 : a + 1)
          : strcmp(op, "cas") == 0  ? (a == b ? c : a)
                                    : UINT64_C(0xBAD0BAD0BAD0BAD0)) &
         mask;
}

static bool same_number(const char *type, uint64_t want, uint64_t got) {
  if (strcmp(type, "f32") == 0 && isnan(num_f32_from_bits((uint32_t)want)))
    return isnan(num_f32_from_bits((uint32_t)got));
  if (strcmp(type, "f64") == 0 && isnan(num_f64_from_bits(want)))
    return isnan(num_f64_from_bits(got));
  return want == got;
}

/* Values that a type has trouble with. */
static uint64_t edge(const char *type, uint32_t i) {
  static const uint32_t words[] = {0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 77};
  static const float floats[] = {0.0f,      -0.0f,        1.5f,     -1.5f,     3e38f,
                                 1e-40f,    -1e-40f,      INFINITY, -INFINITY, NAN,
                                 0x1p-126f, -0x1.8p-126f, 1e30f,    -3e38f};
  static const double doubles[] = {0.0,     -0.0,     1.5,       -1.5, 1e308,    5e-324,
                                   -1e-310, INFINITY, -INFINITY, NAN,  0x1p-1022};
  if (strcmp(type, "f32") == 0)
    return num_f32_bits(floats[i % (sizeof floats / sizeof *floats)]);
  if (strcmp(type, "f64") == 0)
    return num_f64_bits(doubles[i % (sizeof doubles / sizeof *doubles)]);
  const uint64_t w = words[i % 8];
  return type_bytes(type - 1) == 8 ? w << 32 | words[i / 3 % 8] : w;
}

/* Operands lie in `in`: a thread's b at 32 k, its c at 32 k + 8; what is there before at 2048 + 8
 * k. */
static void atomic_ptx(Text *t, const char *spelled, bool shared, bool generic, bool old,
                       uint32_t bytes) {
  const char w = bytes == 8 ? 'y' : 'x';
  const bool cas = strstr(spelled, ".cas.") != NULL;
  begin(t, bytes);
  add(t,
      "mul.wide.u32 %%a4, %%r1, 32; add.s64 %%a4, %%a1, %%a4;\n"
      "ld.global.u%u %%%c1, [%%a4]; ld.global.u%u %%%c2, [%%a4+8];\n",
      8 * bytes, w, 8 * bytes, w);
  if (shared) {
    add(t,
        "mul.wide.u32 %%a4, %%r1, 8; add.s64 %%a4, %%a1, %%a4; mad.lo.u32 %%r3, %%r1, %u, s;\n"
        "ld.global.u%u %%%c4, [%%a4+2048]; st.shared.u%u [%%r3], %%%c4; bar.sync 0;\n",
        bytes, 8 * bytes, w, 8 * bytes, w);
    add(t, generic ? "cvt.u64.u32 %%a6, %%r0; cvta.shared.u64 %%a6, %%a6;\n"
                   : "cvt.u64.u32 %%a6, %%r0;\n");
  } else {
    add(t, "mul.wide.s32 %%a5, %%r2, 8; add.s64 %%a6, %%a1, %%a5; add.s64 %%a6, %%a6, 2048;\n");
  }
  add(t, "@%%p1 bra SKIP;\n");
  if (old)
    add(t, "%s %%%c0, [%%a6], %%%c1%s;\n", spelled, w, w, !cas ? "" : w == 'y' ? ", %y2" : ", %x2");
  else
    add(t, "%s [%%a6], %%%c1;\n", spelled, w);
  add(t, "SKIP:\nst.global.u%u [%%a2], %%%c0;\n", 8 * bytes, w);
  if (shared)
    add(t, "bar.sync 0; ld.shared.u%u %%%c4, [%%r3]; st.global.u%u [%%a2+8], %%%c4;\n", 8 * bytes,
        w, 8 * bytes, w);
  add(t, "ret;\n}\n");
}

static void check_atomic(Run *r, const char *spelled, bool shared, bool generic) {
  char name[64], *part[8];
  snprintf(name, sizeof name, "%s", spelled);
  int parts = 0;
  for (char *s = strtok(name, "."); s && parts < 8; s = strtok(NULL, "."))
    part[parts++] = s;
  const char *type = part[parts - 1], *op = part[parts - 2];
  const bool old = strcmp(part[0], "atom") == 0;
  const uint32_t bytes = type_bytes(spelled);
  Bench *b = r->b;
  Text t;
  atomic_ptx(&t, spelled, shared, generic, old, bytes);
  const char *dotted = type_of(spelled); /* a dot lies before it, as type_bytes wants */
  for (int how = 0; how < 8; how++) {
    order(b, how % 4, true, THREADS);
    uint64_t now[THREADS], want[THREADS];
    memset(b->host_in, 0, ROOM);
    for (uint32_t k = 0; k < THREADS; k++) {
      const uint64_t v[] = {edge(dotted, k * 5 + (uint32_t)how), edge(dotted, k * 3 + 1)};
      now[k] = edge(dotted, how % 4 == 1 ? 2 : k + (uint32_t)how);
      if (strcmp(op, "cas") == 0 && k % 2) /* half of them meet what they expect */
        memcpy(b->host_in + 32 * k, &now[b->host_index[k] < 0 ? 0 : b->host_index[k]], bytes);
      else
        memcpy(b->host_in + 32 * k, &v[0], bytes);
      memcpy(b->host_in + 32 * k + 8, &v[1], bytes);
    }
    for (uint32_t k = 0; k < THREADS; k++) {
      memcpy(b->host_in + 2048 + 8 * k, &now[k], bytes);
      if (strcmp(op, "cas") == 0 && k % 2 && b->host_index[k] >= 0)
        memcpy(b->host_in + 32 * k, &now[b->host_index[k]], bytes);
    }
    for (int k = 0; k < THREADS; k++) { /* warps in order, lanes in order */
      uint64_t x = 0, y = 0, *at = &now[b->host_index[k] < 0 ? 0 : b->host_index[k]];
      memcpy(&x, b->host_in + 32 * k, bytes);
      memcpy(&y, b->host_in + 32 * k + 8, bytes);
      want[k] = bytes == 8 ? 0x5A5A5A5A5A5A5A5A : 0x5A5A5A5A;
      if (b->host_index[k] < 0)
        continue;
      if (old)
        want[k] = *at;
      *at = combined(op, dotted, *at, x, y, !shared);
    }
    run(b, &t, 0);
    for (int k = 0; k < THREADS; k++) {
      uint64_t got = 0, there = 0;
      memcpy(&got, b->host_out + OUT * k, bytes);
      memcpy(&there, shared ? b->host_out + OUT * k + 8 : b->host_in + 2048 + 8 * k, bytes);
      MUST(same_number(type, want[k], got), "%s, order %d, thread %d: old %llx, want %llx", spelled,
           how, k, (unsigned long long)got, (unsigned long long)want[k]);
      MUST(same_number(type, now[k], there), "%s, order %d: word %d is %llx, want %llx", spelled,
           how, k, (unsigned long long)there, (unsigned long long)now[k]);
    }
  }
  r->done++;
}

static void atomic(Run *r, const char *spelled) {
  const bool shared = strstr(spelled, ".shared.") != NULL, global = strstr(spelled, ".global.");
  check_atomic(r, spelled, shared, false);
  if (!shared && !global)
    check_atomic(r, spelled, true, true);
}

/* ---- asynchronous copies ---- */

/* One copy a thread: `read` bytes of `bytes`, the rest zero; read < 0: not said. */
static void check_copy(Run *r, const char *spelled, uint32_t bytes, int read) {
  Bench *b = r->b;
  Text t;
  static const char *const waits[] = {"cp.async.commit_group;\ncp.async.wait_group 0;\n",
                                      "cp.async.wait_all;\n"};
  for (int how = 0; how < ORDERS; how++) {
    begin(&t, bytes);
    const char *type = bytes == 16 ? "v2.u64" : bytes == 8 ? "u64" : "u32";
    const char *regs = bytes == 16 ? "{%y4, %y5}" : bytes == 8 ? "%y4" : "%x4";
    add(&t,
        "mov.u64 %%y4, 0; mov.u64 %%y5, 0; mov.u32 %%x4, 0;\n"
        "mad.lo.u32 %%r3, %%r1, %u, s; mad.lo.u32 %%r5, %%r1, 0, %d;\n"
        "st.shared.%s [%%r3], %s; bar.sync 0;\n"
        "add.s64 %%a6, %%a1, %%a5; @%%p1 bra SKIP;\n",
        bytes, read < 0 ? 0 : read, type, regs);
    add(&t, "%s [%%r3], [%%a6], %u%s;\n", spelled, bytes, read < 0 ? "" : ", %r5");
    add(&t, "SKIP:\n%s", waits[how % 2]);
    add(&t, "ld.shared.%s %s, [%%r3]; st.global.%s [%%a2], %s; ret;\n}\n", type, regs, type, regs);
    order(b, how, true, THREADS);
    run(b, &t, 0);
    for (int k = 0; k < THREADS; k++) {
      uint8_t want[16] = {0};
      if (b->host_index[k] >= 0)
        memcpy(want, b->host_in + (uint32_t)b->host_index[k] * bytes,
               read < 0 ? bytes : (uint32_t)read);
      MUST(memcmp(want, b->host_out + OUT * k, bytes) == 0,
           "%s of %u bytes, %d read, order %d, thread %d", spelled, bytes, read, how, k);
    }
  }
  r->done++;
}

static void async_copy(Run *r, const char *spelled) {
  static const uint32_t sizes[] = {4, 8, 16};
  for (int i = strstr(spelled, ".cg.") ? 2 : 0; i < 3; i++) {
    const int bytes = (int)sizes[i];
    for (int read = -1; read <= bytes; read += read < 1 ? 1 : 3)
      check_copy(r, spelled, sizes[i], read);
    check_copy(r, spelled, sizes[i], bytes);
  }
}

/* Three groups of one copy each, waited for one after another. */
static void async_groups(Run *r, const char *spelled) {
  const bool all = strstr(spelled, ".wait_all") != NULL;
  Bench *b = r->b;
  Text t;
  begin(&t, 12);
  add(&t, "mul.wide.u32 %%a6, %%r1, 12; add.s64 %%a6, %%a1, %%a6; mad.lo.u32 %%r3, %%r1, 12, s;\n");
  for (int i = 0; i < 3; i++)
    add(&t, "cp.async.ca.shared.global [%%r3+%d], [%%a6+%d], 4;\n%s", 4 * i, 4 * i,
        all ? "" : "cp.async.commit_group;\n");
  for (int i = 0; i < 3; i++) {
    if (all && i == 0)
      add(&t, "cp.async.wait_all;\n");
    else if (!all)
      add(&t, "cp.async.wait_group %d;\n", 2 - i);
    add(&t, "ld.shared.u32 %%x%d, [%%r3+%d]; st.global.u32 [%%a2+%d], %%x%d;\n", i, 4 * i, 4 * i,
        i);
  }
  add(&t, "ret;\n}\n");
  run(b, &t, 0);
  for (int k = 0; k < THREADS; k++)
    MUST(memcmp(b->host_in + 12 * k, b->host_out + OUT * k, 12) == 0, "%s, thread %d", spelled, k);
  r->done++;
}

/* ---- ldmatrix ---- */

static void ldmatrix(Run *r, const char *spelled) {
  const int n = strstr(spelled, ".x4") ? 4 : strstr(spelled, ".x2") ? 2 : 1;
  const bool transposed = strstr(spelled, ".trans") != NULL;
  Bench *b = r->b;
  Text t;
  for (int how = 0; how < 3; how++) {
    begin(&t, 16);
    fill_shared(&t, 16);
    add(&t, "%s {", spelled);
    for (int i = 0; i < n; i++)
      add(&t, "%s%%x%d", i ? ", " : "", i);
    add(&t, "}, [%%r0];\n");
    for (int i = 0; i < n; i++)
      add(&t, "st.global.u32 [%%a2+%d], %%x%d;\n", 8 * i, i);
    add(&t, "ret;\n}\n");
    order(b, how, true, THREADS);
    for (int k = 0; k < THREADS; k++) /* addresses of lanes that give no row are not looked at */
      if (k % 32 >= 8 * n)
        b->host_index[k] = 1000000;
    run(b, &t, 0);
    for (int k = 0; k < THREADS; k++)
      for (int i = 0; i < n; i++) {
        const int lane = k % 32;
        uint16_t want[2], got[2];
        for (int h = 0; h < 2; h++) { /* PTX ISA, ldmatrix: lane l has row l / 4, 2 of 8 columns */
          const int line = lane / 4, column = lane % 4 * 2 + h, row = transposed ? column : line,
                    element = transposed ? line : column;
          const int32_t at = b->host_index[k - lane + 8 * i + row];
          memcpy(&want[h], b->host_in + 16 * at + 2 * element, 2);
        }
        memcpy(got, b->host_out + OUT * k + 8 * i, 4);
        MUST(memcmp(want, got, 4) == 0, "%s, order %d, thread %d, register %d", spelled, how, k, i);
      }
  }
  r->done++;
}

/* ---- all of them ---- */

static void check_spelling(const OpRow *row, const char *spelled, void *data) {
  Run *r = data;
  (void)row;
  for (uint32_t i = 0; i < ROOM; i++)
    r->b->host_in[i] = (uint8_t)(i * 151 + (i >> 5) * 7 + 3);
  const uint32_t before = r->done;
  if (starts(spelled, "ld."))
    load(r, spelled);
  else if (starts(spelled, "st."))
    store(r, spelled);
  else if (starts(spelled, "atom.") || starts(spelled, "red."))
    atomic(r, spelled);
  else if (starts(spelled, "cp.async.commit") || starts(spelled, "cp.async.wait"))
    async_groups(r, spelled);
  else if (starts(spelled, "cp.async."))
    async_copy(r, spelled);
  else if (starts(spelled, "ldmatrix."))
    ldmatrix(r, spelled);
  ck_assert_msg(r->done > before, "%s: this test has no case for the opcode", spelled);
}

START_TEST(every_spelling) {
  Bench b;
  bench_init(&b);
  Run r = {&b, 0};
  const size_t spellings = each_spelling(PROVER_MEMORY, check_spelling, &r);
  printf("emu/memory: %zu opcodes, %u shapes of them\n", spellings, r.done);
  ck_assert_uint_gt(spellings, 180);
  memory_fini(&b.m);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("memory");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, every_spelling);
  Suite *s = suite_create("emu/memory");
  suite_add_tcase(s, t);
  return check_run(s);
}
