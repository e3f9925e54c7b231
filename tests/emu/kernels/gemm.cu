/* c [m][n] f32 = a [m][k] bf16 times the transpose of b [n][k] bf16; 64 x 64 x 64 tiles, two stages.
 * k is a multiple of 8. */
KERNEL(128) gemm(const u16 *__restrict__ a, const u16 *__restrict__ b, float *__restrict__ c, u32 m,
                 u32 n, u32 k) {
  extern __shared__ __align__(128) u8 memory[];
  u32 at_a = shared_address(memory), at_b = at_a + 2 * 8192;
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, m0 = blockIdx.x * 64, n0 = blockIdx.y * 64;
  u32 tiles = (k + 63) / 64;
  float sum[8][4] = {};
  for (u32 t = 0; t <= tiles; t++) {
    if (t < tiles) {
      for (u32 i = threadIdx.x; i < 64 * 8; i += 128) {
        u32 r = i / 8, chunk = i % 8, kk = t * 64 + chunk * 8, stage = t % 2 * 8192;
        bool in_a = m0 + r < m && kk < k, in_b = n0 + r < n && kk < k;
        copy16(at_a + stage + swizzled(r, chunk), in_a ? a + (u64)(m0 + r) * k + kk : a, in_a);
        copy16(at_b + stage + swizzled(r, chunk), in_b ? b + (u64)(n0 + r) * k + kk : b, in_b);
      }
      copy_commit();
    }
    if (t == 0) continue;
    if (t < tiles) copy_wait<1>(); else copy_wait<0>();
    __syncthreads();
    u32 stage = (t - 1) % 2 * 8192;
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
      u32 fa[4], fb[4];
      matrix4(fa, at_a + stage + swizzled(warp * 16 + lane % 16, 2 * s + lane / 16));
#pragma unroll
      for (u32 j = 0; j < 4; j++) {
        matrix4(fb, at_b + stage + swizzled(j * 16 + lane % 8 + lane / 16 * 8, 2 * s + lane / 8 % 2));
        multiply_bf16(sum[2 * j], fa, fb[0], fb[1]);
        multiply_bf16(sum[2 * j + 1], fa, fb[2], fb[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (u32 j = 0; j < 8; j++)
#pragma unroll
    for (u32 q = 0; q < 4; q++) {
      u32 r = m0 + warp * 16 + lane / 4 + q / 2 * 8, cc = n0 + j * 8 + lane % 4 * 2 + q % 2;
      if (r < m && cc < n) c[(u64)r * n + cc] = sum[j][q];
    }
}
