/* Compressed images to planes of bytes: which codec, and room for the result. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/codec/codec.h"

uint8_t *mprt__image_room(mprt_image *image, int64_t height, int64_t width, size_t row) {
  if (height < 1 || width < 1 || height > MPRT__MAX_SIDE || width > MPRT__MAX_SIDE ||
      height * width > MPRT__MAX_PIXELS) {
    snprintf(image->message, sizeof image->message, "its size of %lldx%lld is not sensible",
             (long long)height, (long long)width);
    return NULL;
  }
  size_t planes = (size_t)(3 * height * width), need = planes + row;
  if (need > image->room) {
    free(image->pixels);
    image->pixels = malloc(need);
    image->room = image->pixels ? need : 0;
  }
  image->height = height;
  image->width = width;
  if (!image->pixels)
    snprintf(image->message, sizeof image->message, "out of memory");
  return image->pixels ? image->pixels + planes : NULL;
}

void mprt__image_row(mprt_image *image, int64_t y, const uint8_t *rgb) {
  int64_t plane = image->height * image->width;
  uint8_t *to = image->pixels + y * image->width;
  for (int64_t x = 0; x < image->width; x++)
    for (int64_t c = 0; c < 3; c++)
      to[c * plane + x] = rgb[3 * x + c];
}

bool mprt_decode_image(const uint8_t *data, size_t bytes, mprt_image *image) {
  image->message[0] = 0;
  if (bytes >= 3 && !memcmp(data, "\xff\xd8\xff", 3))
    return mprt__decode_jpeg(data, bytes, image);
  if (bytes >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8))
    return mprt__decode_png(data, bytes, image);
  snprintf(image->message, sizeof image->message, "neither JPEG nor PNG");
  return false;
}
