/* What operands hold. Every element depends on seed, instance, operand and position alone, so an
 * instance that is run by itself sees what it saw among the others. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"
#include "mpcc/num.h"
#include "opcheck.h"

const char *const data_names[DATA_COUNT] = {"random", "zeros", "nans", "special"};

/* Infinities in sums make NaN in some orders and not in others only where terms of both signs meet;
 * SPECIAL is for what treats each element alone. */
bool data_fits(const Inst *i, DataKind k) {
  if (i->grad || i->c->judge == CHAIN)
    return k == DATA_RANDOM;
  return k != DATA_SPECIAL || i->c->judge == EXACT || i->c->judge == BODY;
}

static uint64_t mix(uint64_t x) { /* Steele, Lea and Flood 2014: SplitMix64's finalizer */
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

static double unit(uint64_t r) {
  return (double)(r >> 11) * 0x1p-53;
}

static uint64_t start(const Inst *i, const Tensor *t, DataKind k, uint64_t seed) {
  char text[2 * NAME_MAX_BYTES], name[NAME_MAX_BYTES];
  inst_name(i, name);
  snprintf(text, sizeof text, "%s %s %s %s %d", name, dtype_text(i->dt), i->shape, t->name, k);
  MpccHash h;
  uint64_t hash[2];
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, text, strlen(text));
  mpcc_hash_finish(&h, hash);
  return mix(hash[0] ^ mix(seed));
}

/* Numbers at the edges of the format, both signs. */
static double special(uint64_t r, DType dt) {
  const DTypeInfo *f = dtype_info(dt);
  const double edge[] = {0,
                         1,
                         0.5,
                         2,
                         88,
                         104,
                         3.7,
                         INFINITY,
                         NAN,
                         f->max_finite,
                         f->min_normal,
                         f->min_normal * f->eps,
                         f->min_normal * 0.75,
                         f->eps,
                         f->max_finite / 4,
                         1e-3};
  double v = edge[r % 16];
  return r >> 8 & 1 ? -v : v;
}

/* Many exponents; one in four next to the middle between two bf16, f16 or fp8 numbers, nearer than
 * f32 can tell: a conversion that rounds twice goes wrong there. */
static double wide(uint64_t r) {
  double v = (r & 1 ? -1 : 1) * ldexp(1 + unit(r), (int)(r >> 8 & 31) - 16);
  if (r >> 16 & 3)
    return v;
  static const int bits[] = {8, 11, 4, 3};
  int e;
  double m = frexp(v, &e), scale = ldexp(1, bits[r >> 20 & 3]);
  return ldexp((floor(m * scale) + 0.5) / scale * (1 + ((int)(r >> 24 & 2) - 1) * 0x1p-40), e);
}

static double history(uint64_t r) {
  return r % 5 == 0 ? 0 : r % 17 == 0 ? INFINITY : r % 13 == 0 ? NAN : 3 * unit(mix(r));
}

static double filled(const char *fill, int64_t limit, uint64_t r, DType dt) {
  double u = unit(r);
  if (!strcmp(fill, "pos"))
    return 0.5 + 1.5 * u;
  if (!strcmp(fill, "wide"))
    return wide(r);
  if (!strcmp(fill, "few"))
    return floor(7 * u) - 3;
  if (!strcmp(fill, "gaps"))
    return r % 29 == 0 ? NAN : floor(7 * u) - 3;
  if (!strcmp(fill, "seed"))
    return floor(1e6 * u);
  if (!strcmp(fill, "class") || !strcmp(fill, "target"))
    return *fill == 't' && r % 7 == 0 ? -100 : floor((double)limit * unit(mix(r)));
  if (!strcmp(fill, "valid"))
    return 1 + floor((double)limit * u);
  if (!strcmp(fill, "scale"))
    return ldexp(1, (int)(r & 7));
  if (!strcmp(fill, "weight")) /* logits of about 1 from sums of `limit` terms */
    return (4 * u - 2) / (8 * sqrt((double)limit));
  if (!strcmp(fill, "offset"))
    return (r & 1 ? -1 : 1) * (0.5 + u / 2);
  if (!strcmp(fill, "history"))
    return history(r);
  if (!strcmp(fill, "codes")) {
    double v = num_decode_as((uint32_t)(r >> 8 & 0xff), num_format(dt));
    return isfinite(v) ? v : 1;
  }
  return 4 * u - 2;
}

void data_fill(const Inst *i, const Tensor *t, DataKind k, uint64_t seed, double *x) {
  DType dt = t->type->dt;
  int64_t n = type_elems(t->type), limit = tensor_int(t, "limit", 0);
  const char *fill = tensor_str(t, "fill", "");
  uint64_t r = start(i, t, k, seed);
  bool free_operand = dtype_is_float(dt) && (!*fill || !strcmp(fill, "wide"));
  for (int64_t e = 0; e < n; e++) {
    uint64_t bits = mix(r + (uint64_t)e);
    x[e] = filled(fill, limit, bits, dt);
    if (free_operand && k == DATA_ZEROS)
      x[e] = 0;
    if (free_operand && k == DATA_SPECIAL)
      x[e] = special(bits, dt);
    x[e] = num_round(x[e], dt);
  }
  if (free_operand && k == DATA_NANS)
    x[r % (uint64_t)n] = NAN;
}
