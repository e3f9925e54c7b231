/* Instructions that treat each lane alone: a function per LANE and COMPARE row of ptx_ops.def, and
 * the table of all rows. Every function has a loop for 32 active lanes and one that keeps the
 * others as they are; both become vectors. */
#include "ptx_handlers.h"
#include "ptx_math.h"

/* Lane containers: values under 32 bits live in 32-bit lanes and are narrowed on every read. */
typedef uint32_t Cu8, Cs8, Cu16, Cs16, Cu32, Cs32;
typedef uint64_t Cu64, Cs64;
typedef float Cf32;
typedef double Cf64;
typedef uint8_t Tu8;
typedef int8_t Ts8;
typedef uint16_t Tu16;
typedef int16_t Ts16;
typedef uint32_t Tu32;
typedef int32_t Ts32;
typedef uint64_t Tu64;
typedef int64_t Ts64;
typedef float Tf32;
typedef double Tf64;

/* No lane depends on another, even where a register is both read and written. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* What a result of a type is kept as. */
#define RESULT_u8(v) (v)
#define RESULT_s8(v) (v)
#define RESULT_u16(v) (v)
#define RESULT_s16(v) (v)
#define RESULT_u32(v) (v)
#define RESULT_s32(v) (v)
#define RESULT_u64(v) (v)
#define RESULT_s64(v) (v)
#define RESULT_f32(v) one_nan(v)
#define RESULT_f64(v) (v)

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define ROW_NAME JOIN(op_row_, __LINE__)

#define IN(T, name, k) const C##T *name##_ = (const C##T *)(const void *)(w->regs + in->slot[k])
#define OUT(T) C##T *d_ = (C##T *)(void *)(w->regs + in->slot[0])
#define ALL_LANES(D, value, ...)                                                                   \
  if (w->mask == UINT32_MAX) {                                                                     \
    INDEPENDENT for (int i = 0; i < LANES; i++) {                                                  \
      __VA_ARGS__;                                                                                 \
      d_[i] = (C##D)RESULT_##D((T##D)(value));                                                     \
    }                                                                                              \
  } else {                                                                                         \
    const int32_t *on = w->lanes;                                                                  \
    INDEPENDENT for (int i = 0; i < LANES; i++) {                                                  \
      __VA_ARGS__;                                                                                 \
      const C##D v_ = (C##D)RESULT_##D((T##D)(value));                                             \
      d_[i] = on[i] ? v_ : d_[i];                                                                  \
    }                                                                                              \
  }

#define LANE1(D, S, names, value)                                                                  \
  static void ROW_NAME(Warp *w, const Insn *in) {                                                  \
    OUT(D);                                                                                        \
    IN(S, a, 1);                                                                                   \
    ALL_LANES(D, value, const T##S a = (T##S)a_[i])                                                \
  }
#define LANE2(D, S, names, value) LANE2B(D, S, S, names, value)
#define LANE2B(D, S, B, names, value)                                                              \
  static void ROW_NAME(Warp *w, const Insn *in) {                                                  \
    OUT(D);                                                                                        \
    IN(S, a, 1);                                                                                   \
    IN(B, b, 2);                                                                                   \
    ALL_LANES(D, value, const T##S a = (T##S)a_[i]; const T##B b = (T##B)b_[i])                    \
  }
#define LANE3(D, S, C, names, value)                                                               \
  static void ROW_NAME(Warp *w, const Insn *in) {                                                  \
    OUT(D);                                                                                        \
    IN(S, a, 1);                                                                                   \
    IN(S, b, 2);                                                                                   \
    IN(C, c, 3);                                                                                   \
    ALL_LANES(D, value, const T##S a = (T##S)a_[i]; const T##S b = (T##S)b_[i];                    \
              const T##C c = (T##C)c_[i])                                                          \
  }
#define LANE4(D, S, C, E, names, value)                                                            \
  static void ROW_NAME(Warp *w, const Insn *in) {                                                  \
    OUT(D);                                                                                        \
    IN(S, a, 1);                                                                                   \
    IN(S, b, 2);                                                                                   \
    IN(C, c, 3);                                                                                   \
    IN(E, e, 4);                                                                                   \
    ALL_LANES(D, value, const T##S a = (T##S)a_[i]; const T##S b = (T##S)b_[i];                    \
              const T##C c = (T##C)c_[i]; const T##E e = (T##E)e_[i])                              \
  }
#define COMPARE(S, names, value)                                                                   \
  static void ROW_NAME(Warp *w, const Insn *in) {                                                  \
    OUT(u32);                                                                                      \
    IN(S, a, 1);                                                                                   \
    IN(S, b, 2);                                                                                   \
    ALL_LANES(u32, (value) ? UINT32_MAX : 0, const T##S a = (T##S)a_[i];                           \
              const T##S b = (T##S)b_[i])                                                          \
  }
#define SPECIAL(...)
#include "ptx_ops.def"
#undef LANE1
#undef LANE2
#undef LANE2B
#undef LANE3
#undef LANE4
#undef COMPARE
#undef SPECIAL

#define DST(T) (sizeof(C##T) == 8 ? 'D' : 'd')
#define SRC(T) (sizeof(C##T) == 8 ? 'S' : 's')
#define ROW(names, ...) {names, ROW_NAME, INSN_PLAIN, {__VA_ARGS__}, 0, SPACE_NONE},
#define LANE1(D, S, names, value) ROW(names, DST(D), SRC(S))
#define LANE2(D, S, names, value) ROW(names, DST(D), SRC(S), SRC(S))
#define LANE2B(D, S, B, names, value) ROW(names, DST(D), SRC(S), SRC(B))
#define LANE3(D, S, C, names, value) ROW(names, DST(D), SRC(S), SRC(S), SRC(C))
#define LANE4(D, S, C, E, names, value) ROW(names, DST(D), SRC(S), SRC(S), SRC(C), SRC(E))
#define COMPARE(S, names, value) ROW(names, 'd', SRC(S), SRC(S))
#define SPECIAL(handler, kind, sig, bytes, space, names) {names, handler, kind, sig, bytes, space},
static const OpRow rows[] = {
#include "ptx_ops.def"
};

const OpRow *ptx_table(size_t *n) {
  *n = sizeof rows / sizeof *rows;
  return rows;
}

/* Branches and exits: launch.c does them. */
void op_none(Warp *w, const Insn *in) {
  (void)w;
  (void)in;
}

/* ---- mov between one register and several: operand 0 or the last is the whole ---------------- */
static uint64_t part(const Warp *w, const Insn *in, int k, int lane, uint32_t bytes) {
  const uint64_t mask = bytes == 4 ? UINT32_MAX : (1u << (8 * bytes)) - 1;
  return reg32(w, in, k)[lane] & mask;
}

static void pack(Warp *w, const Insn *in, int parts, uint32_t bytes) {
  EACH_LANE(i) {
    uint64_t v = 0;
    for (int k = 0; k < parts; k++)
      v |= part(w, in, 1 + k, (int)i, bytes) << (8 * bytes * (uint32_t)k);
    if ((uint32_t)parts * bytes == 8)
      reg64(w, in, 0)[i] = v;
    else
      reg32(w, in, 0)[i] = (uint32_t)v;
  }
}
void op_pack4_b8(Warp *w, const Insn *in) {
  pack(w, in, 4, 1);
}
void op_pack4_b16(Warp *w, const Insn *in) {
  pack(w, in, 4, 2);
}

static void unpack(Warp *w, const Insn *in, int parts, uint32_t bytes) {
  EACH_LANE(i) {
    const uint64_t v =
        (uint32_t)parts * bytes == 8 ? reg64(w, in, parts)[i] : reg32(w, in, parts)[i];
    const uint64_t mask = bytes == 4 ? UINT32_MAX : (1u << (8 * bytes)) - 1;
    for (int k = 0; k < parts; k++)
      reg32(w, in, k)[i] = (uint32_t)(v >> (8 * bytes * (uint32_t)k) & mask);
  }
}
void op_unpack_b32(Warp *w, const Insn *in) {
  unpack(w, in, 2, 2);
}
void op_unpack_b64(Warp *w, const Insn *in) {
  unpack(w, in, 2, 4);
}
void op_unpack4_b32(Warp *w, const Insn *in) {
  unpack(w, in, 4, 1);
}
void op_unpack4_b64(Warp *w, const Insn *in) {
  unpack(w, in, 4, 2);
}
