/* Fingerprint of a program image and of checkpoint files: detects damage, resists no attacker.
 *
 * Four 64-bit lanes take one little-endian word each in turn; a step xors the word in, multiplies by
 * an odd constant and rotates. Each of these is a bijection of the lane, so a change within one word
 * always changes the lane it went into. The tail is padded with zeros and the length is mixed in. */
#ifndef MPCC_HASH_H
#define MPCC_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mpcc/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint64_t lane[4];
  uint64_t bytes;   /* taken so far */
  uint8_t tail[32]; /* the bytes % 32 that wait for a full block */
} MpccHash;

static inline uint64_t mpcc_hash_rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

static inline void mpcc_hash_block(MpccHash *h, const uint8_t *p) {
  for (int i = 0; i < 4; i++) {
    uint64_t w;
    memcpy(&w, p + 8 * i, 8);
    h->lane[i] = mpcc_hash_rotate((h->lane[i] ^ w) * UINT64_C(0x9e3779b97f4a7c15), 29);
  }
}

static inline void mpcc_hash_init(MpccHash *h) {
  for (int i = 0; i < 4; i++)
    h->lane[i] = UINT64_C(0xd1b54a32d192ed03) * (uint64_t)(i + 1);
  h->bytes = 0;
  memset(h->tail, 0, sizeof h->tail);
}

static inline void mpcc_hash_add(MpccHash *h, const void *data, size_t bytes) {
  const uint8_t *p = (const uint8_t *)data;
  size_t have = (size_t)(h->bytes % 32);
  h->bytes += bytes;
  if (have > 0) {
    size_t n = bytes < 32 - have ? bytes : 32 - have;
    if (n > 0)
      memcpy(h->tail + have, p, n);
    p += n;
    bytes -= n;
    if (have + n < 32)
      return;
    mpcc_hash_block(h, h->tail);
  }
  for (; bytes >= 32; p += 32, bytes -= 32)
    mpcc_hash_block(h, p);
  if (bytes > 0)
    memcpy(h->tail, p, bytes);
}

static inline void mpcc_hash_finish(MpccHash *h, uint64_t out[2]) {
  size_t have = (size_t)(h->bytes % 32);
  if (have > 0) {
    memset(h->tail + have, 0, 32 - have);
    mpcc_hash_block(h, h->tail);
  }
  uint64_t a = h->bytes, b = ~h->bytes;
  for (int i = 0; i < 4; i++) {
    a = mpcc_hash_rotate((a ^ h->lane[i]) * UINT64_C(0xbf58476d1ce4e5b9), 31);
    b = mpcc_hash_rotate((b + h->lane[3 - i]) * UINT64_C(0x94d049bb133111eb), 27);
  }
  out[0] = (a ^ a >> 32) * UINT64_C(0x9e3779b97f4a7c15);
  out[1] = (b ^ b >> 29) * UINT64_C(0x9e3779b97f4a7c15);
}

/* MpccImage.hash: of all `bytes` of an image, its hash field taken as zero. */
static inline void mpcc_image_hash(const void *image, size_t bytes, uint64_t out[2]) {
  MpccHash h;
  MpccImage head;
  memcpy(&head, image, sizeof head);
  head.hash[0] = head.hash[1] = 0;
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, &head, sizeof head);
  mpcc_hash_add(&h, (const uint8_t *)image + sizeof head, bytes - sizeof head);
  mpcc_hash_finish(&h, out);
}

#ifdef __cplusplus
}
#endif
#endif
