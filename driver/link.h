/* Writing results: atomically, and as executables. */
#ifndef MPCC_DRIVER_LINK_H
#define MPCC_DRIVER_LINK_H

#include <stddef.h>

/* The runner and licence text inside mpcc (driver/runner_blob.S). */
extern const char mpcc_runner_begin[], mpcc_runner_end[], mpcc_license_begin[];
extern const char mpcc_images_runner_begin[], mpcc_images_runner_end[]; /* with the image codecs */

/* Writes bytes to path ("-": standard output) under a temporary name, then renames, so that a good
 * file is never replaced by a broken one. 0, or 4 after a message. */
int write_file(const char *path, const void *data, size_t bytes, int executable);
/* Whether write_file could write there, asked before what takes long; NULL and "-" are fine. 0, or an
 * exit code after a message on stderr. */
int check_writable(const char *path);
/* Executable: the runner that the spec's data needs, images, licence, trailer. */
int write_program(const char *path, const void *image, size_t bytes);
/* library.c. FILE.so: a shared library of the image and libmpcc_rt; else a static one. By cc (and ar). */
int link_library(const char *path, const void *image, size_t bytes, int verbose);
/* library.c. The image alone as an ELF object, for hosts that link libmpcc_rt themselves. By cc. */
int link_object(const char *path, const void *image, size_t bytes, int verbose);
/* A program linked by cc from the installed or built libmpcc_rt; 0 or an exit code. */
int link_with_cc(const char *path, const void *image, size_t bytes, int verbose);

/* A new folder in $TMPDIR, else in /tmp; 0, or -1 with errno. */
int temporary_folder(char *out, size_t size);
/* path as it stands between the quotes of an assembler's string; 0, or -1 when it does not fit. */
int quote_path(char *out, size_t size, const char *path);
/* Whether the program reads compressed images: some split of its spec says format: image-folder. */
int program_reads_images(const void *image);
/* Where libmpcc_rt.a is: beside this executable (a build) or in ../lib (an installation); -1: unknown. */
int library_folder(char *out, size_t size);
/* Runs argv[0], shown before when verbose; 0, or 1 when it fails. */
int run_command(char *const argv[], int verbose);

#endif
