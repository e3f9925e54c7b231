/* PNG through libpng: palettes and grey become colours, 16 bits become their upper 8, transparency
 * is dropped, as Pillow's convert("RGB") does. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "runtime/codec/codec.h"

typedef struct {
  const uint8_t *data;
  size_t left;
  mprt_image *image;
  uint8_t *all; /* of interlaced images: all rows */
} Source;

static void on_error(png_structp p, png_const_charp text) {
  Source *s = png_get_error_ptr(p);
  snprintf(s->image->message, sizeof s->image->message, "%s", text);
  longjmp(png_jmpbuf(p), 1);
}

static void on_warning(png_structp p, png_const_charp text) {
  (void)p, (void)text;
}

static void on_read(png_structp p, png_bytep to, png_size_t n) {
  Source *s = png_get_io_ptr(p);
  if (n > s->left)
    png_error(p, "the file ends early");
  memcpy(to, s->data, n);
  s->data += n;
  s->left -= n;
}

static void to_rgb8(png_structp p) {
  png_set_expand(p);
  png_set_strip_16(p);
  png_set_strip_alpha(p);
  png_set_gray_to_rgb(p);
}

/* Rows one by one; interlaced images pass several times over all of them. */
static void read_rows(png_structp p, png_infop info, Source *s) {
  int passes = png_set_interlace_handling(p);
  png_read_update_info(p, info);
  int64_t h = png_get_image_height(p, info), w = png_get_image_width(p, info);
  size_t bytes = png_get_rowbytes(p, info);
  if (bytes != 3 * (size_t)w)
    png_error(p, "its pixels cannot be made RGB");
  uint8_t *row = mprt__image_room(s->image, h, w, bytes);
  if (!row)
    longjmp(png_jmpbuf(p), 1);
  if (passes > 1 && !(s->all = calloc((size_t)h, bytes)))
    png_error(p, "out of memory");
  for (int pass = 0; pass < passes; pass++)
    for (int64_t y = 0; y < h; y++) {
      uint8_t *to = s->all ? s->all + (size_t)y * bytes : row;
      png_read_row(p, to, NULL);
      if (pass == passes - 1)
        mprt__image_row(s->image, y, to);
    }
  png_read_end(p, NULL);
}

bool mprt__decode_png(const uint8_t *data, size_t bytes, mprt_image *image) {
  Source *s = calloc(1, sizeof *s); /* behind a pointer: longjmp leaves what it points to alone */
  if (!s) {
    snprintf(image->message, sizeof image->message, "out of memory");
    return false;
  }
  *s = (Source){data, bytes, image, NULL};
  png_structp p = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
  png_infop info = p ? png_create_info_struct(p) : NULL;
  if (!info) {
    snprintf(image->message, sizeof image->message, "out of memory");
  } else if (!setjmp(png_jmpbuf(p))) {
    png_set_user_limits(p, MPRT__MAX_SIDE, MPRT__MAX_SIDE);
    png_set_read_fn(p, s, on_read);
    png_read_info(p, info);
    to_rgb8(p);
    read_rows(p, info, s);
    png_destroy_read_struct(&p, &info, NULL);
    free(s->all);
    free(s);
    return true;
  }
  png_destroy_read_struct(&p, &info, NULL);
  free(s->all);
  free(s);
  return false;
}
