/* libFuzzer target for JPEG and PNG: refused in words, or every pixel is there. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mprt_image image = {0};
  unsigned sum = 0;
  if (mprt_decode_image(data, size, &image)) {
    for (int64_t i = 0; i < 3 * image.height * image.width; i++)
      sum += image.pixels[i];
  } else if (!*image.message) {
    abort();
  }
  free(image.pixels);
  return sum == 0xffffffff;
}
