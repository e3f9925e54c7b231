/* opcheck on a machine without the compiler: judges programs that `opcheck pack=DIR` wrote, on a
 * GPU.
 *
 *   gpu_opcheck DIR [--device cuda:0] [--json FILE] [--save FILE] [--beside FILE] [--seconds N]
 *               [--short-sums]
 *
 * --save writes the results down; --beside compares with those of another run, as that on the
 * interpreter of PTX: what it says of a GPU is then known. --seconds ends the run after so long;
 * --short-sums allows for tensor cores that keep 14 bits of sums of 8-bit codes. */
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "tests/opcheck/opcheck.h"

typedef struct {
  const char *folder, *device, *json, *save, *beside;
  double most_seconds;
  bool short_sums;
} Args;

static bool read_args(Args *a, int argc, char **argv) {
  const char *most = NULL;
  const struct {
    const char *name, **to;
  } options[] = {{"--device", &a->device},
                 {"--json", &a->json},
                 {"--save", &a->save},
                 {"--beside", &a->beside},
                 {"--seconds", &most}};
  *a = (Args){.device = "cuda", .most_seconds = 1e9};
  for (int i = 1; i < argc; i++) {
    size_t k = 0;
    while (k < sizeof options / sizeof *options && strcmp(argv[i], options[k].name))
      k++;
    if (k < sizeof options / sizeof *options) {
      if (++i == argc)
        return false;
      *options[k].to = argv[i];
    } else if (!strcmp(argv[i], "--short-sums")) {
      a->short_sums = true;
    } else if (*argv[i] == '-' || a->folder) {
      return false;
    } else {
      a->folder = argv[i];
    }
  }
  if (most)
    a->most_seconds = atof(most);
  return a->folder != NULL;
}

/* One file. false: the GPU cannot be used, so that the others need not be tried. */
static bool judge_file(const char *path, const Args *a, const Options *o, Score *score) {
  World w;
  Inst list[TOGETHER];
  Together *t = calloc(1, sizeof *t);
  if (!t || !world_create(&w)) {
    free(t);
    return false;
  }
  Status s = pack_read(&w, path, list, t);
  t->tally = &score->tally;
  if (s == MPCC_OK)
    s = batch_open(&t->strict, a->device, true);
  if (s == MPCC_OK && t->fused.image)
    s = batch_open(&t->fused, a->device, true);
  if (s == MPCC_OK)
    judge_together(&w, t, list, o, score);
  else
    printf("FAIL %s: status %d\n", path, s);
  score->failed += s != MPCC_OK ? t->n + !t->n : 0;
  together_fini(t);
  world_destroy(&w);
  free(t);
  return s != MPCC_ERR_TARGET;
}

int main(int argc, char **argv) {
  Args a;
  if (!read_args(&a, argc, argv)) {
    fprintf(stderr,
            "usage: gpu_opcheck DIR [--device cuda:N] [--json FILE] [--save FILE] [--beside FILE] "
            "[--seconds N] [--short-sums]\n");
    return 2;
  }
  Saved saved;
  if (!saved_open(&saved, a.save, a.beside))
    return 4;
  const Options o = {.level = a.device,
                     .seed = 1,
                     .data = -1,
                     .strict = true,
                     .fused = true,
                     .no_differences = true,
                     .short_sums = a.short_sums,
                     .saved = a.save || a.beside ? &saved : NULL};
  char pattern[600];
  glob_t files;
  snprintf(pattern, sizeof pattern, "%s/*.opcheck", a.folder);
  if (glob(pattern, 0, NULL, &files) || !files.gl_pathc) {
    fprintf(stderr, "gpu_opcheck: no %s\n", pattern);
    return 4;
  }
  watch_crashes();
  Score score = {0};
  const double start = seconds();
  size_t done = 0;
  while (done < files.gl_pathc && seconds() - start < a.most_seconds) {
    const bool go_on = judge_file(files.gl_pathv[done++], &a, &o, &score);
    fflush(stdout);
    if (!go_on)
      break;
  }
  if (done < files.gl_pathc)
    printf("%zu of %zu files were not run\n", files.gl_pathc - done, files.gl_pathc);
  globfree(&files);
  const int code = print_score(&score, o.saved, seconds() - start, a.json);
  return saved_close(&saved) ? code : 4;
}
