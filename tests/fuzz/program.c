/* libFuzzer target for program images, behind a right header and hash: refused with one error, or
 * opened; nothing of them runs. */
#include "mpcc/abi.h"
#include "mpcc/hash.h"
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int errors = 0;
  mprt_callbacks cb = {.log = input_count, .user = &errors};
  mprt_options o;
  mprt_options_default(&o);
  o.threads = 1;
  o.device = "cpu";
  size_t room = (size + MPCC_ALIGN) & ~(size_t)(MPCC_ALIGN - 1);
  MpccImage *h = aligned_alloc(MPCC_ALIGN, room);
  if (!h)
    return 0;
  memcpy(h, data, size);
  if (size >= sizeof *h) { /* what else a changed byte would break */
    memcpy(h->magic, MPCC_IMAGE_MAGIC, sizeof h->magic);
    h->version = MPCC_ABI_VERSION;
    h->header_bytes = sizeof *h;
    h->image_bytes = size;
    for (int i = 0; i < MPCC_SEG_COUNT; i++)
      h->segment_bytes[i] &= 0xffffff;
    mpcc_image_hash(h, size, h->hash);
  }
  mprt_program *p = NULL;
  Status st = mprt_open(h, size, &o, &cb, &p);
  if ((st == MPCC_OK) != (p != NULL) || (st == MPCC_OK) != !errors)
    abort();
  mprt_close(p);
  free(h);
  return 0;
}
