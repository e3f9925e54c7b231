/* Programs of a batch out of a file that pack.c wrote. */
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"
#include "tests/opcheck/opcheck.h"

enum { NAMES, STRICT, FUSED, PARTS };

/* A copy of part i, on a multiple of 64, with a zero behind it; *bytes 0 and NULL when it is empty.
 */
static void *part_copy(const char *archive, size_t len, int i, size_t *bytes) {
  const MpccArchive *a = (const MpccArchive *)archive;
  const MpccArchiveEntry *e = (const MpccArchiveEntry *)(a + 1) + i;
  *bytes = 0;
  if (len < sizeof *a + PARTS * sizeof *e ||
      memcmp(a->magic, MPCC_ARCHIVE_MAGIC, sizeof a->magic) || a->count != PARTS ||
      e->offset > len || e->bytes > len - e->offset || !e->bytes)
    return NULL;
  char *copy = aligned_alloc(64, (size_t)(e->bytes + 64) / 64 * 64);
  if (!copy)
    return NULL;
  memcpy(copy, archive + e->offset, (size_t)e->bytes);
  copy[e->bytes] = 0;
  *bytes = (size_t)e->bytes;
  return copy;
}

static char *read_file(const char *path, size_t *len) {
  FILE *f = fopen(path, "rb");
  if (!f)
    return NULL;
  fseek(f, 0, SEEK_END);
  const long n = ftell(f);
  rewind(f);
  char *data = n > 0 ? malloc((size_t)n) : NULL;
  *len = data ? fread(data, 1, (size_t)n, f) : 0;
  fclose(f);
  return data;
}

/* The instance of the table with exactly this name. */
static bool find_inst(const char *name, const char *dtype, const char *shape, Inst *out) {
  char dotted[NAME_MAX_BYTES], full[NAME_MAX_BYTES];
  snprintf(dotted, sizeof dotted, "%s", name);
  Inst *list = NULL;
  const int n = inst_list(dotted, dtype, shape, ALL_OF_THEM, &list);
  bool found = false;
  for (int k = 0; k < n && !found; k++) {
    inst_name(&list[k], full);
    if (!strcmp(full, name)) {
      *out = list[k];
      found = true;
    }
  }
  free(list);
  return found;
}

static Status read_units(World *w, char *names, Inst *list, Together *out) {
  for (char *save = NULL, *line = strtok_r(names, "\n", &save); line;
       line = strtok_r(NULL, "\n", &save)) {
    char *field[4] = {line};
    for (int k = 1; k < 4; k++) {
      char *tab = field[k - 1] ? strchr(field[k - 1], '\t') : NULL;
      field[k] = tab ? tab + 1 : NULL;
      if (tab)
        *tab = 0;
    }
    if (!field[3] || out->n == TOGETHER ||
        !find_inst(field[0], field[1], field[2], &list[out->n])) {
      fprintf(stderr, "opcheck: '%s' is not in the table of cases: the pack is of another build\n",
              line);
      return MPCC_ERR_INPUT;
    }
    out->fused_at[out->n] = atoi(field[3]);
    Status s = unit_build(w, &list[out->n], &out->unit[out->n]);
    if (s != MPCC_OK)
      return s;
    out->n++;
  }
  return MPCC_OK;
}

Status pack_read(World *w, const char *path, Inst *list, Together *out) {
  size_t len = 0, bytes;
  *out = (Together){.n = 0};
  char *archive = read_file(path, &len);
  if (!archive)
    return MPCC_ERR_FILE;
  char *names = part_copy(archive, len, NAMES, &bytes);
  out->strict.image = part_copy(archive, len, STRICT, &out->strict.image_bytes);
  out->fused.image = part_copy(archive, len, FUSED, &out->fused.image_bytes);
  free(archive);
  Status s = names && out->strict.image ? read_units(w, names, list, out) : MPCC_ERR_INPUT;
  free(names);
  return s;
}
