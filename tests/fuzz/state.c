/* libFuzzer target for state.json of a checkpoint, in a folder that is complete otherwise: refused
 * with one error, or the program goes on from it and can be saved again. */
#include <sys/stat.h>

#include "mpcc/abi.h"
#include "tests/fuzz/input.h"
#define TEST_KERNELS "" /* none of its kernels are used */
#include "tests/runtime/image.h"

/* Two parameters in one flat tensor, their momentum, counters; nothing that needs code. */
static void *image_of(size_t *bytes) {
  TestImage t = {0};
  const int64_t n = 6, k = 5;
  uint32_t flat = ti_tensor(&t, "flat.0", MPCC_F32, ROLE_PARAM, MPCC_SEG_STATE, 1, &n, "");
  ti_view(&t, "w", flat, 0, 1, &k);
  ti_view(&t, "b", flat, (uint64_t)k, 0, NULL);
  uint32_t moment = ti_tensor(&t, "flat.0.momentum_buffer", MPCC_F32, ROLE_MOMENT, MPCC_SEG_STATE,
                              1, &n, "{\"kind\": \"momentum_buffer\"}");
  ti_view(&t, "optim.w.momentum_buffer", moment, 0, 1, &k);
  ti_view(&t, "optim.b.momentum_buffer", moment, (uint64_t)k, 0, NULL);
  ti_tensor(&t, "count.seen", MPCC_I64, ROLE_COUNTER, MPCC_SEG_STATE, 0, NULL, "");
  ti_tensor(&t, "count.taken", MPCC_I64, ROLE_COUNTER, MPCC_SEG_STATE, 0, NULL, "");
  ti_tensor(&t, "scaler.scale", MPCC_F32, ROLE_SCALER, MPCC_SEG_STATE, 0, NULL, "");
  char f[] = {'a' + MPCC_F32, 0};
  const char *const functions[] = {"init", "refresh"};
  for (int i = 0; i < 2; i++) {
    ti_function(&t, functions[i]);
    ti_command(&t, MPCC_CMD_FILL, 0, f, "zero", 1, ti_of(&t, moment))->bytes = (uint64_t)n * 4;
  }
  size_t archive_bytes;
  void *archive = ti_archive(NULL, NULL, 0, &archive_bytes);
  ti_code(&t, "x86-64", "sse2", archive, archive_bytes);
  void *whole = ti_finish(
      &t, "{\"name\": \"line\", \"spec\": {\"seed\": 3, \"optimizer\": {\"lr\": 0.1}}}", bytes);
  free(archive);
  return whole;
}

static char folder[64], checkpoint[96], path[128];
static mprt_program *program;
static void *image; /* the program's, as long as it is open */
static int errors;

static void put(const char *name, const void *data, size_t size) {
  snprintf(path, sizeof path, "%s/%s", checkpoint, name);
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(data, 1, size, f) != size || fclose(f))
    _exit(1);
}

static void clean(void) {
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "state.json",
                                      "DONE"};
  for (int i = 0; i < 4; i++) {
    snprintf(path, sizeof path, "%s/%s", checkpoint, files[i]);
    unlink(path);
  }
  rmdir(checkpoint);
  rmdir(folder);
  mprt_close(program);
  free(image);
}

static void begin(void) {
  static mprt_callbacks cb = {.log = input_count, .user = &errors};
  mprt_options o;
  mprt_options_default(&o);
  o.threads = 1;
  o.device = "cpu";
  size_t bytes;
  image = image_of(&bytes);
  const char *where = getenv("TMPDIR"); /* in memory it is many times faster */
  snprintf(folder, sizeof folder, "%s/mpcc-state-XXXXXX", where ? where : "/tmp");
  if (!mkdtemp(folder) || mprt_open(image, bytes, &o, &cb, &program) != MPCC_OK ||
      mprt_init(program) != MPCC_OK)
    abort();
  snprintf(checkpoint, sizeof checkpoint, "%s/one", folder);
  if (mprt_save_checkpoint(program, checkpoint) != MPCC_OK)
    abort();
  atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!program)
    begin();
  put("state.json", data, size);
  char *done;
  if (mprt__checkpoint_done(program, checkpoint, &done) != MPCC_OK)
    _exit(1);
  put("DONE", done, strlen(done));
  free(done);
  errors = 0;
  Status st = mprt_resume(program, checkpoint);
  if ((st == MPCC_OK) != !errors)
    abort();
  return 0;
}
