/* Which self-test proves a row of the table of opcodes. Every row has one, and each of the tests
 * walks the table and fails at a spelling of its own that it has no case for: so no opcode is
 * accepted that no test has seen. */
#ifndef EMU_PROVERS_H
#define EMU_PROVERS_H

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "emu.h"

/* An assertion for inner loops: Check tells its runner of every ck_assert that holds. */
#define MUST(condition, ...)                                                                       \
  do {                                                                                             \
    if (!(condition))                                                                              \
      ck_abort_msg(__VA_ARGS__);                                                                   \
  } while (0)

typedef enum {
  PROVER_OPS,    /* ops.c: one result of a lane's own registers */
  PROVER_MEMORY, /* memory.c: loads, stores, atomics, cp.async, ldmatrix */
  PROVER_WARPS   /* warps.c: several lanes, several results, control */
} Prover;

static inline Prover prover(const OpRow *row) {
  if (row->space != SPACE_NONE || strncmp(row->names, "cp.async", 8) == 0)
    return PROVER_MEMORY;
  return row->kind == INSN_PLAIN && row->sig[0] && strchr("dD", row->sig[0]) && row->sig[1] &&
                 strspn(row->sig + 1, "sS") == strlen(row->sig) - 1
             ? PROVER_OPS
             : PROVER_WARPS;
}

/* Calls check(row, spelling, data) for every spelling of a prover's rows; returns their number. */
static inline size_t each_spelling(Prover who,
                                   void (*check)(const OpRow *row, const char *spelled, void *data),
                                   void *data) {
  size_t n, spellings = 0;
  const OpRow *rows = ptx_table(&n);
  for (size_t i = 0; i < n; i++) {
    if (prover(&rows[i]) != who)
      continue;
    char names[1024];
    snprintf(names, sizeof names, "%s", rows[i].names);
    for (char *s = names, *next; s; s = next, spellings++) {
      next = strchr(s, ' ');
      if (next)
        *next++ = 0;
      check(&rows[i], s, data);
    }
  }
  return spellings;
}

#endif
