/* JPEG through libjpeg-turbo, with its defaults, which are Pillow's: slow integer DCT, smooth
 * upsampling of colours. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#include "runtime/codec/codec.h"

typedef struct {
  struct jpeg_error_mgr base;
  jmp_buf leave;
  mprt_image *image;
} Errors;

static void on_error(j_common_ptr c) {
  Errors *e = (Errors *)c->err;
  char text[JMSG_LENGTH_MAX];
  e->base.format_message(c, text);
  snprintf(e->image->message, sizeof e->image->message, "%.*s", (int)sizeof e->image->message - 1,
           text);
  longjmp(e->leave, 1);
}

/* The library goes on after damaged data and fills up with grey; such an image is refused. Other
 * warnings tell of harmless oddities. */
static void on_message(j_common_ptr c, int level) {
  int code = c->err->msg_code;
  if (level < 0 && (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE ||
                    code == JWRN_JPEG_EOF || code == JWRN_MUST_RESYNC))
    on_error(c);
}

static void no_output(j_common_ptr c) {
  (void)c;
}

/* Huffman codes take at least one bit of every block of 8x8 pixels, 512 pixels a byte. Arithmetic
 * codes can take less, and a hundred bytes could ask for minutes of work. */
static bool is_bomb(const struct jpeg_decompress_struct *c, size_t bytes) {
  uint64_t pixels = (uint64_t)c->image_height * c->image_width;
  return pixels > (1u << 22) && pixels / 1024 > bytes;
}

/* n pixels of four colours, which files hold inverted, to three in place. source: Pillow's conversion of
 * CMYK to RGB: K - round((255 - C) K / 255) of the inverted ones. */
static void cmyk_to_rgb(uint8_t *row, JDIMENSION n) {
  for (JDIMENSION i = 0; i < n; i++) {
    const int key = row[4 * i + 3];
    for (int k = 0; k < 3; k++) {
      const int product = (255 - row[4 * i + k]) * key + 128;
      row[3 * i + k] = (uint8_t)(key - (((product >> 8) + product) >> 8));
    }
  }
}

static void read_rows(struct jpeg_decompress_struct *c, mprt_image *image, uint8_t *row) {
  while (c->output_scanline < c->output_height) {
    int64_t y = c->output_scanline;
    JSAMPROW rows[1] = {row};
    jpeg_read_scanlines(c, rows, 1);
    if (c->out_color_space == JCS_CMYK)
      cmyk_to_rgb(row, c->output_width);
    mprt__image_row(image, y, row);
  }
}

bool mprt__decode_jpeg(const uint8_t *data, size_t bytes, mprt_image *image) {
  struct jpeg_decompress_struct c;
  Errors e = {.image = image};
  memset(&c, 0, sizeof c);
  c.err = jpeg_std_error(&e.base);
  e.base.error_exit = on_error;
  e.base.emit_message = on_message;
  e.base.output_message = no_output;
  if (setjmp(e.leave)) {
    jpeg_destroy_decompress(&c);
    return false;
  }
  jpeg_create_decompress(&c);
  c.mem->max_memory_to_use = 1l << 30; /* progressive files hold all coefficients */
  jpeg_mem_src(&c, data, bytes);
  jpeg_read_header(&c, TRUE);
  if (is_bomb(&c, bytes)) {
    snprintf(image->message, sizeof image->message, "claims %ux%u pixels in %zu bytes",
             c.image_height, c.image_width, bytes);
    jpeg_destroy_decompress(&c);
    return false;
  }
  const bool four = c.jpeg_color_space == JCS_CMYK || c.jpeg_color_space == JCS_YCCK;
  c.out_color_space = four ? JCS_CMYK : JCS_RGB;
  uint8_t *row =
      mprt__image_room(image, c.image_height, c.image_width, (four ? 4 : 3) * c.image_width);
  if (row) {
    jpeg_start_decompress(&c);
    read_rows(&c, image, row);
    jpeg_finish_decompress(&c);
  }
  jpeg_destroy_decompress(&c);
  return row != NULL;
}
