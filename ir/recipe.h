/* Recipes: where the scales of quantized products come from (recipes.def). */
#ifndef MPCC_RECIPE_H
#define MPCC_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "mpcc/base.h"

typedef enum {
#define SCALES(id, word, dt, decoded, doc) SCALES_##id,
#define RECIPE(name, format, xr, xc, wr, wc, scales, units, keys, doc)
#include "ir/recipes.def"
#undef SCALES
#undef RECIPE
  SCALES_COUNT
} Scales;

typedef struct {
  const char *word; /* attribute `scales` of block_quantize */
  DType dt;         /* block scales are stored in it */
  DType decoded;    /* operands of products are decoded to it */
  const char *doc;
} ScalesInfo;
const ScalesInfo *scales_info(Scales s);
Scales scales_from_word(const char *word); /* SCALES_COUNT when unknown */

typedef struct {
  const char *name;
  const char *format;          /* HYBRID, E4M3 or E2M1 */
  int64_t input[2], weight[2]; /* rows and columns of blocks; 0, 0: the whole tensor */
  Scales scales;
  int units;        /* GPUs from this compute capability on have units for its products */
  const char *keys; /* separated by spaces */
  const char *doc;
} RecipeInfo;
const RecipeInfo *recipe_named(const char *name); /* NULL when unknown */
const RecipeInfo *recipe_at(int i);               /* NULL behind the last */
bool recipe_has_key(const RecipeInfo *r, const char *key);

#endif
