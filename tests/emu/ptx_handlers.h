/* Handlers that are functions of their own (SPECIAL rows of ptx_ops.def), and access to registers.
 */
#ifndef EMU_PTX_HANDLERS_H
#define EMU_PTX_HANDLERS_H

#include "emu.h"

#define LANE1(...)
#define LANE2(...)
#define LANE2B(...)
#define LANE3(...)
#define LANE4(...)
#define COMPARE(...)
#define SPECIAL(handler, ...) void handler(Warp *w, const Insn *in);
#include "ptx_ops.def"
#undef LANE1
#undef LANE2
#undef LANE2B
#undef LANE3
#undef LANE4
#undef COMPARE
#undef SPECIAL

/* 32 lanes of operand k. */
static inline uint32_t *reg32(const Warp *w, const Insn *in, int k) {
  return (uint32_t *)(void *)(w->regs + in->slot[k]);
}
static inline float *regf(const Warp *w, const Insn *in, int k) {
  return (float *)(void *)(w->regs + in->slot[k]);
}
static inline uint64_t *reg64(const Warp *w, const Insn *in, int k) {
  return (uint64_t *)(void *)(w->regs + in->slot[k]);
}
/* Address of lane i's memory operand. */
static inline uint64_t lane_address(const Warp *w, const Insn *in, int i) {
  const uint8_t *r = w->regs + in->address;
  return (in->wide_address ? ((const uint64_t *)(const void *)r)[i]
                           : ((const uint32_t *)(const void *)r)[i]) +
         (uint64_t)(int64_t)in->offset;
}

/* Runs the statement for every active lane i, in order. */
#define EACH_LANE(i)                                                                               \
  for (uint32_t left_ = w->mask, i = 0; left_ && (i = (uint32_t)__builtin_ctz(left_), 1);          \
       left_ &= left_ - 1)

#endif
