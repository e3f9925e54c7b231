/* Private to codegen/cpu: what the ways to read the image of a convolution share. */
#ifndef MPCC_CPU_CONV_H
#define MPCC_CPU_CONV_H

#include "codegen/cpu/product.h"

/* The part of the image that a tile reads, its edges included, as lines one below the other: those
 * of a sample, then those of the next. Axis 0 numbers lines, axis 1 pixels. */
typedef struct {
  bool copied;                 /* it lies in scratch, with zeros around it; else in place */
  bool pairs;                  /* there beside each pixel that of the next position */
  int64_t unit;                /* elements of a unit: those of the product's, or one */
  int64_t origin[2];           /* the lowest place that is read */
  int64_t span[2];             /* places from the first to the last tap of a window */
  int64_t lines, wide;         /* of a sample; pixels of a line */
  int64_t sample, line, pixel; /* units between these */
  int64_t tap;                 /* units from a window's lowest place to its first tap */
} ConvImage;

enum { CONV_PHASES = 16 }; /* computed one by one, at most */

typedef struct {
  Product p; /* first: the emitter of products hands it back */
  ConvGroup c;
  bool merged;     /* taps of the last axis lie side by side in the input */
  int64_t run;     /* elements of a run */
  bool whole_runs; /* k blocks begin and end with runs, and nothing is spread */
  /* A phase: c is its own window, position q of axis i is place rest[i] + q up[i] of the whole,
   * tap j tap first[i] + j step[i]. */
  const ConvWindow *whole;
  int64_t rest[CONV_AXES], first[CONV_AXES], step[CONV_AXES];
  int64_t tiles, scratch_bytes; /* of a phase */
  int nbeside; /* phases without taps, written beside this one: rows of the whole between them */
  int64_t beside[CONV_PHASES];
  ConvImage image;
} Conv;

/* A position of the output: the place of tap 0 along each axis, times up, and the first element of
 * its sample. */
typedef struct {
  Val first[CONV_AXES];
  Val sample;
} Spot;

/* conv.c */
Spot conv_spot(Conv *v, Val row);
Val conv_element(Conv *v, Val base, Val at); /* of compute dtype */
int conv_lanes(const Conv *v);               /* compute dtype elements in a vector */
/* A vector of elements from `from` (storage dtype) to `to` (compute dtype), both `at` on; from
 * NULL: zeros. */
void conv_copy_vector(Conv *v, Val to, Val from, Val at, Val count);

/* conv_image.c: false, with nothing changed, when the image cannot be read this way. They set the
 * k blocks and p.image; M, K, units are set, and for phases the window and b_at's fields. */
bool conv_plan_image(Conv *v);
bool conv_plan_columns(Conv *v); /* weight gradients */
ProductBring conv_bring_image;
bool conv_plan_windows(Conv *v); /* odd channels: rows are put together from the image */
ProductBring conv_bring_windows;

/* conv_panel.c: weight gradients whose panels of rows are copied one by one; as above. */
bool conv_plan_panels(Conv *v);
ProductBring conv_bring_places;

#endif
