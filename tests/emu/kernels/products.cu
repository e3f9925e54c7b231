/* One warp: products of small matrices in the other types of mma, from registers. a [16][k], b [k][8]
 * row-major as f32; c [4][16][8]: tf32 (k = 8), f16 (k = 16), e4m3 and e5m2 (k = 32). */
FN u32 half2(float low, float high) {
  u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
}
FN u32 tf32(float x) { u32 r; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)); return r; }
FN u32 e4m3x4(const float *x, u32 stride) {
  return to_e4m3x2(x[0], x[stride]) | (u32)to_e4m3x2(x[2 * stride], x[3 * stride]) << 16;
}
FN u32 e5m2x4(const float *x, u32 stride) {
  u16 low, high;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(low) : "f"(x[stride]), "f"(x[0]));
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(high) : "f"(x[3 * stride]), "f"(x[2 * stride]));
  return low | (u32)high << 16;
}
#define PRODUCT(shape, c, a, b)                                                                    \
  asm("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"           \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
FN void product_out(float *c, const float (&d)[4]) {
  u32 g = threadIdx.x / 4, t = threadIdx.x % 4;
  for (int q = 0; q < 4; q++) c[(g + q / 2 * 8) * 8 + 2 * t + q % 2] = d[q];
}
KERNEL(32) products(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c) {
  u32 g = threadIdx.x / 4, t = threadIdx.x % 4;
  u32 fa[4], fb[2];
  {
    float d[4] = {};
    for (int q = 0; q < 4; q++) fa[q] = tf32(a[(g + q % 2 * 8) * 32 + t + q / 2 * 4]);
    for (int q = 0; q < 2; q++) fb[q] = tf32(b[(t + q * 4) * 8 + g]);
    PRODUCT("m16n8k8.row.col.f32.tf32.tf32.f32", d, fa, fb);
    product_out(c, d);
  }
  {
    float d[4] = {};
    for (int q = 0; q < 4; q++) {
      const float *p = a + (g + q % 2 * 8) * 32 + 2 * t + q / 2 * 8;
      fa[q] = half2(p[0], p[1]);
    }
    for (int q = 0; q < 2; q++) fb[q] = half2(b[(2 * t + q * 8) * 8 + g], b[(2 * t + q * 8 + 1) * 8 + g]);
    PRODUCT("m16n8k16.row.col.f32.f16.f16.f32", d, fa, fb);
    product_out(c + 128, d);
  }
  {
    float d[4] = {};
    for (int q = 0; q < 4; q++) fa[q] = e4m3x4(a + (g + q % 2 * 8) * 32 + 4 * t + q / 2 * 16, 1);
    for (int q = 0; q < 2; q++) fb[q] = e4m3x4(b + (4 * t + q * 16) * 8 + g, 8);
    PRODUCT("m16n8k32.row.col.f32.e4m3.e4m3.f32", d, fa, fb);
    product_out(c + 256, d);
  }
  {
    float d[4] = {};
    for (int q = 0; q < 4; q++) fa[q] = e5m2x4(a + (g + q % 2 * 8) * 32 + 4 * t + q / 2 * 16, 1);
    for (int q = 0; q < 2; q++) fb[q] = e5m2x4(b + (4 * t + q * 16) * 8 + g, 8);
    PRODUCT("m16n8k32.row.col.f32.e5m2.e5m2.f32", d, fa, fb);
    product_out(c + 384, d);
  }
}
