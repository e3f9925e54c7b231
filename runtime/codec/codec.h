/* Private to runtime/codec/: libmpcc_codec, which hosts link that read compressed images. It is no
 * part of libmpcc_rt: programs that read none do not carry it. */
#ifndef MPCC_RUNTIME_CODEC_CODEC_H
#define MPCC_RUNTIME_CODEC_CODEC_H

#include "mpcc/runtime.h"

enum { MPRT__MAX_SIDE = 1 << 15, MPRT__MAX_PIXELS = 1 << 28 };

/* Makes room for 3 planes of the image's size and one row of `row` bytes behind them; the row, or
 * NULL with image->message. */
uint8_t *mprt__image_room(mprt_image *image, int64_t height, int64_t width, size_t row);
/* A row of w pixels, r g b each, into the planes. */
void mprt__image_row(mprt_image *image, int64_t y, const uint8_t *rgb);

bool mprt__decode_jpeg(const uint8_t *data, size_t bytes, mprt_image *image);
bool mprt__decode_png(const uint8_t *data, size_t bytes, mprt_image *image);

#endif
