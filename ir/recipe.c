#include "ir/recipe.h"

#include <string.h>

const ScalesInfo *scales_info(Scales s) {
  static const ScalesInfo rows[] = {
#define SCALES(id, word, dt, decoded, doc) {word, MPCC_##dt, MPCC_##decoded, doc},
#define RECIPE(name, format, xr, xc, wr, wc, scales, units, keys, doc)
#include "ir/recipes.def"
#undef SCALES
#undef RECIPE
  };
  return &rows[s];
}

Scales scales_from_word(const char *word) {
  int s = 0;
  while (s < SCALES_COUNT && strcmp(scales_info((Scales)s)->word, word))
    s++;
  return (Scales)s;
}

const RecipeInfo *recipe_at(int i) {
  static const RecipeInfo rows[] = {
#define SCALES(id, word, dt, decoded, doc)
#define RECIPE(name, format, xr, xc, wr, wc, scales, units, keys, doc)                             \
  {#name, format, {xr, xc}, {wr, wc}, SCALES_##scales, units, keys, doc},
#include "ir/recipes.def"
#undef SCALES
#undef RECIPE
  };
  return i >= 0 && i < (int)(sizeof rows / sizeof *rows) ? &rows[i] : NULL;
}

const RecipeInfo *recipe_named(const char *name) {
  for (int i = 0; recipe_at(i); i++)
    if (!strcmp(recipe_at(i)->name, name))
      return recipe_at(i);
  return NULL;
}

bool recipe_has_key(const RecipeInfo *r, const char *key) {
  size_t n = strlen(key);
  for (const char *p = r->keys; (p = strstr(p, key)); p += n)
    if ((p == r->keys || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
      return true;
  return false;
}
