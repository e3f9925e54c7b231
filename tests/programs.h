/* Check programs of one folder in one executable: linked once, each run by its name. The list is
 * made by CMake, PROGRAM(name) for every file, whose main is compiled as program_<name>. */
#ifndef TESTS_PROGRAMS_H
#define TESTS_PROGRAMS_H

#define PROGRAM(name) int program_##name(void);
#include PROGRAMS
#undef PROGRAM

#endif
