/* A small open-addressing map from 64-bit keys to numbers, in an arena. */
#include "frontend/frontend.h"

/* Slot of key, or the empty one where it belongs. Values are kept plus 1: 0 marks an empty slot. */
static size_t slot_of(const KeyMap *m, uint64_t key) {
  size_t at = (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & (m->cap - 1);
  while (m->value[at] && m->key[at] != key)
    at = (at + 1) & (m->cap - 1);
  return at;
}

int64_t keymap_get(const KeyMap *m, uint64_t key, int64_t otherwise) {
  if (!m->cap)
    return otherwise;
  size_t at = slot_of(m, key);
  return m->value[at] ? m->value[at] - 1 : otherwise;
}

/* Doubles the table, which stays at most half full. false when memory is short. */
static bool widen(Arena *a, KeyMap *m) {
  KeyMap wide = {.cap = m->cap ? 2 * m->cap : 64, .n = m->n};
  wide.key = ARENA_ARRAY(a, uint64_t, wide.cap);
  wide.value = ARENA_ARRAY(a, int64_t, wide.cap);
  if (arena_failed(a))
    return false;
  for (size_t i = 0; i < m->cap; i++)
    if (m->value[i]) {
      size_t at = slot_of(&wide, m->key[i]);
      wide.key[at] = m->key[i];
      wide.value[at] = m->value[i];
    }
  *m = wide;
  return true;
}

void keymap_set(Arena *a, KeyMap *m, uint64_t key, int64_t value) {
  if (2 * (m->n + 1) > m->cap && !widen(a, m))
    return;
  size_t at = slot_of(m, key);
  m->n += !m->value[at];
  m->key[at] = key;
  m->value[at] = value + 1;
}
