/* ldmatrix and mma.sync. Fragments, lane l, g = l / 4, t = l % 4 (PTX ISA 9.0, sec. 9.7.14.5); an
 * element is counted in its own type, p elements fill a 32-bit register:
 *   A (16 x K, row-major)   register q: row g + 8 (q % 2), columns p (t + 4 (q / 2)) ... + p - 1
 *   B (K x 8, column-major) register q: rows p (t + 4 q) ... + p - 1, column g
 *   C, D (16 x 8)           register q: row g + 8 (q / 2), column 2 t + q % 2
 * Products are exact in f32 but for TF32 and rounding of sums is f32's after each product; a device
 * adds in an order of its own. */
#include "ptx_handlers.h"
#include "ptx_math.h"

/* ---- ldmatrix: n matrices of 8 rows; lane 8 m + r has the address of row r of matrix m ------- */
static void ldmatrix(Warp *w, const Insn *in, int n, bool transposed) {
  uint16_t m[4][8][8];
  if (w->launch->counts_by_insn) { /* a matrix is 8 rows of 16 bytes, served together */
    uint64_t at[LANES];
    for (int i = 0; i < LANES; i++)
      at[i] = lane_address(w, in, i);
    stats_shared(w, in, at, n == 4 ? UINT32_MAX : (1u << 8 * n) - 1, 16);
  }
  for (int i = 0; i < 8 * n; i++)
    memcpy(m[i / 8][i % 8], shared_at(w, i, lane_address(w, in, i), 16, ACCESS_READ), 16);
  for (int k = 0; k < n; k++) {
    uint32_t *to = reg32(w, in, k);
    for (int l = 0; l < LANES; l++) {
      const int r = l / 4, c = l % 4 * 2;
      const uint16_t low = transposed ? m[k][c][r] : m[k][r][c],
                     high = transposed ? m[k][c + 1][r] : m[k][r][c + 1];
      to[l] = (uint32_t)high << 16 | low;
    }
  }
}
void op_ldmatrix_x1(Warp *w, const Insn *in) {
  ldmatrix(w, in, 1, false);
}
void op_ldmatrix_x2(Warp *w, const Insn *in) {
  ldmatrix(w, in, 2, false);
}
void op_ldmatrix_x4(Warp *w, const Insn *in) {
  ldmatrix(w, in, 4, false);
}
void op_ldmatrix_x1_trans(Warp *w, const Insn *in) {
  ldmatrix(w, in, 1, true);
}
void op_ldmatrix_x2_trans(Warp *w, const Insn *in) {
  ldmatrix(w, in, 2, true);
}
void op_ldmatrix_x4_trans(Warp *w, const Insn *in) {
  ldmatrix(w, in, 4, true);
}

/* ---- mma: elements of a register as f32 ---- */
static inline void open_bf16(uint32_t v, float *to) {
  to[0] = bits_float(v << 16);
  to[1] = bits_float(v & 0xFFFF0000u);
}
static inline void open_f16(uint32_t v, float *to) {
  to[0] = half_value(v & 0xFFFF);
  to[1] = half_value(v >> 16);
}
static inline void open_tf32(uint32_t v, float *to) {
  to[0] = bits_float(v & ~0x1FFFu); /* the low bits are not looked at */
}
static inline void open_e4m3(uint32_t v, float *to) {
  for (int k = 0; k < 4; k++)
    to[k] = num_e4m3_to_f32((uint8_t)(v >> (8 * k)));
}
static inline void open_e5m2(uint32_t v, float *to) {
  for (int k = 0; k < 4; k++)
    to[k] = half_value((v >> (8 * k) & 255) << 8);
}

/* d = a b + c; a: 16 rows of K, b: K rows of 8. Two rows at a time stay in registers. */
static inline void multiply(int K, float a[16][32], float b[32][8], float c[16][8]) {
  for (int r = 0; r < 16; r += 4) {
    float s0[8], s1[8], s2[8], s3[8];
    memcpy(s0, c[r], sizeof s0);
    memcpy(s1, c[r + 1], sizeof s1);
    memcpy(s2, c[r + 2], sizeof s2);
    memcpy(s3, c[r + 3], sizeof s3);
    for (int k = 0; k < K; k++)
      for (int j = 0; j < 8; j++) {
        s0[j] = __builtin_fmaf(a[r][k], b[k][j], s0[j]);
        s1[j] = __builtin_fmaf(a[r + 1][k], b[k][j], s1[j]);
        s2[j] = __builtin_fmaf(a[r + 2][k], b[k][j], s2[j]);
        s3[j] = __builtin_fmaf(a[r + 3][k], b[k][j], s3[j]);
      }
    memcpy(c[r], s0, sizeof s0);
    memcpy(c[r + 1], s1, sizeof s1);
    memcpy(c[r + 2], s2, sizeof s2);
    memcpy(c[r + 3], s3, sizeof s3);
  }
}

/* p: elements in a register; AQ, BQ: registers of A and B a lane. Lanes are walked as 8 groups of
 * 4, whose places the compiler then knows. */
#define GROUPS                                                                                     \
  for (int g = 0; g < 8; g++)                                                                      \
  _Pragma("GCC unroll 4") for (int t = 0; t < 4; t++)
#define MMA(name, p, AQ, BQ, open_a, open_b)                                                       \
  void name(Warp *w, const Insn *in) {                                                             \
    float a[16][32], b[32][8], c[16][8];                                                           \
    _Pragma("GCC unroll 4") for (int q = 0; q < AQ; q++) {                                         \
      const uint32_t *v = reg32(w, in, 4 + q);                                                     \
      GROUPS open_a(v[4 * g + t], &a[g + 8 * (q % 2)][p * (t + 4 * (q / 2))]);                     \
    }                                                                                              \
    _Pragma("GCC unroll 2") for (int q = 0; q < BQ; q++) {                                         \
      const uint32_t *v = reg32(w, in, 4 + AQ + q);                                                \
      GROUPS {                                                                                     \
        float e[4];                                                                                \
        open_b(v[4 * g + t], e);                                                                   \
        for (int k = 0; k < p; k++)                                                                \
          b[p * (t + 4 * q) + k][g] = e[k];                                                        \
      }                                                                                            \
    }                                                                                              \
    const float *from[4];                                                                          \
    float *to[4];                                                                                  \
    for (int q = 0; q < 4; q++) {                                                                  \
      from[q] = regf(w, in, 4 + AQ + BQ + q);                                                      \
      to[q] = regf(w, in, q);                                                                      \
    }                                                                                              \
    GROUPS {                                                                                       \
      c[g][2 * t] = from[0][4 * g + t];                                                            \
      c[g][2 * t + 1] = from[1][4 * g + t];                                                        \
      c[g + 8][2 * t] = from[2][4 * g + t];                                                        \
      c[g + 8][2 * t + 1] = from[3][4 * g + t];                                                    \
    }                                                                                              \
    multiply(p * 4 * BQ, a, b, c);                                                                 \
    GROUPS {                                                                                       \
      to[0][4 * g + t] = c[g][2 * t];                                                              \
      to[1][4 * g + t] = c[g][2 * t + 1];                                                          \
      to[2][4 * g + t] = c[g + 8][2 * t];                                                          \
      to[3][4 * g + t] = c[g + 8][2 * t + 1];                                                      \
    }                                                                                              \
  }
MMA(op_mma_bf16, 2, 4, 2, open_bf16, open_bf16)
MMA(op_mma_f16, 2, 4, 2, open_f16, open_f16)
MMA(op_mma_k8_bf16, 2, 2, 1, open_bf16, open_bf16)
MMA(op_mma_k8_f16, 2, 2, 1, open_f16, open_f16)
MMA(op_mma_k8_tf32, 1, 4, 2, open_tf32, open_tf32)
MMA(op_mma_k4_tf32, 1, 2, 1, open_tf32, open_tf32)
MMA(op_mma_e4m3, 4, 4, 2, open_e4m3, open_e4m3)
MMA(op_mma_e5m2, 4, 4, 2, open_e5m2, open_e5m2)
MMA(op_mma_e4m3_e5m2, 4, 4, 2, open_e4m3, open_e5m2)
MMA(op_mma_e5m2_e4m3, 4, 4, 2, open_e5m2, open_e4m3)

/* m8n8k4: A row g, column t; B row t, column g; C, D row g, columns 2 t and 2 t + 1. */
void op_mma_f64(Warp *w, const Insn *in) {
  double a[8][4], b[4][8], d[2][LANES];
  for (int l = 0; l < LANES; l++) {
    memcpy(&a[l / 4][l % 4], &reg64(w, in, 2)[l], 8);
    memcpy(&b[l % 4][l / 4], &reg64(w, in, 3)[l], 8);
  }
  for (int q = 0; q < 2; q++)
    for (int l = 0; l < LANES; l++) {
      double s;
      memcpy(&s, &reg64(w, in, 4 + q)[l], 8);
      for (int k = 0; k < 4; k++)
        s = __builtin_fma(a[l / 4][k], b[k][l % 4 * 2 + q], s);
      d[q][l] = s;
    }
  memcpy(reg64(w, in, 0), d[0], sizeof d[0]);
  memcpy(reg64(w, in, 1), d[1], sizeof d[1]);
}
