/* Runs the Check programs named on the command line, all without names; the exit status tells
 * whether one failed, 2 that a name is of none. */
#include "tests/programs.h"

#include <stdio.h>
#include <string.h>

static const struct {
  const char *name;
  int (*run)(void);
} programs[] = {
#define PROGRAM(name) {#name, program_##name},
#include PROGRAMS
#undef PROGRAM
};

enum { COUNT = sizeof programs / sizeof *programs };

static int run(const char *name) {
  for (int i = 0; i < COUNT; i++)
    if (!strcmp(programs[i].name, name))
      return programs[i].run();
  fprintf(stderr, "there is no program '%s'\n", name);
  return 2;
}

int main(int argc, char **argv) {
  int status = 0;
  for (int i = 1; i < argc; i++) {
    const int s = run(argv[i]);
    status = s > status ? s : status;
  }
  for (int i = 0; i < COUNT && argc < 2; i++)
    status |= programs[i].run();
  return status;
}
