/* Options and subcommands of mpcc: tables that parsing, --help and the man page are made from. */
#ifndef MPCC_DRIVER_OPTIONS_H
#define MPCC_DRIVER_OPTIONS_H

#include <stddef.h>

#include "driver/args.h"

typedef enum {
  O_OUTPUT, O_EMIT, O_OPT, O_NUMERICS, O_TARGET, O_GPU_ARCH, O_GPU_PRODUCTS, O_MARCH, O_PRECISION, O_DEFINE, O_SET, O_WARN,
  O_MAX_ERRORS, O_DIAG_FORMAT, O_COLOR, O_INCLUDE, O_JOBS, O_CACHE_DIR, O_NO_CACHE, O_MEMORY, O_TIME_PASSES,
  O_PRINT_BEFORE, O_PRINT_AFTER, O_STOP_AFTER, O_CHECK_PASSES, O_NO_REUSE, O_INSTRUMENT, O_VERBOSE,
  O_LINK, O_SAVE_TEMPS, O_DIFF, O_PRECISIONS, O_HTML, O_FORMATS, O_BOUND, O_JSON, O_TOKENIZER, O_DTYPE, O_HEADER, O_SEPARATOR, O_HELP,
  O_VERSION, O_LICENSES, O_COUNT
} OptionId;

/* How a value is written: none; --name=V or --name V; -xV or -x V; -name=V (clang's way). */
typedef enum { V_NONE, V_VALUE, V_OPTIONAL } ValueKind;

typedef struct {
  const char *name;  /* long, without dashes */
  const char *brief; /* one-dash spelling with the value glued or apart; NULL: none */
  ValueKind kind;
  const char *arg, *doc; /* arg: an argument's name, or the words it may be: "a|b" */
  unsigned only; /* bits of the commands it is for; 0: all that compile */
  size_t to;     /* offset in Args of the text or flag it sets; 0: a case of `take` in args.c */
} Option;

#define FOR_COMMAND(c) (1u << CMD_##c)

typedef struct {
  const char *name, *usage, *doc;
  Command command;
} CommandInfo;

extern const Option option_table[O_COUNT];
extern const CommandInfo command_table[]; /* up to a row without a name */

/* A message of wrong usage on stderr; exit code 2. */
__attribute__((format(printf, 1, 2))) int args_usage(const char *fmt, ...);

#endif
