/* o = softmax(scale q k^T, causal) v; q, k, v, o [heads][t][64] bf16. Four warps have 16 queries each,
 * keys come in tiles of 64; the softmax is computed along the way. */
FN void tile_in(u32 to, const u16 *from, u32 first, u32 t) {
  for (u32 i = threadIdx.x; i < 64 * 8; i += 128) {
    u32 r = i / 8, chunk = i % 8;
    bool in = first + r < t;
    copy16(to + swizzled(r, chunk), in ? from + (u64)(first + r) * 64 + chunk * 8 : from, in);
  }
}
KERNEL(128) attention(const u16 *__restrict__ q, const u16 *__restrict__ k,
                      const u16 *__restrict__ v, u16 *__restrict__ o, u32 t, float scale) {
  extern __shared__ __align__(128) u8 memory[];
  u32 at_q = shared_address(memory), at_k = at_q + 8192, at_v = at_k + 8192;
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, q0 = blockIdx.x * 64;
  u64 head = (u64)blockIdx.y * t * 64;
  float sum[8][4] = {}, top[2] = {NONE, NONE}, all[2] = {0, 0}, by = scale * 1.44269504f;
  u32 fq[4][4];
  tile_in(at_q, q + head, q0, t);
  for (u32 tile = 0; tile <= blockIdx.x; tile++) {
    tile_in(at_k, k + head, tile * 64, t);
    tile_in(at_v, v + head, tile * 64, t);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    if (tile == 0)
#pragma unroll
      for (u32 s = 0; s < 4; s++) matrix4(fq[s], at_q + swizzled(warp * 16 + lane % 16, 2 * s + lane / 16));
    float p[8][4] = {};
#pragma unroll
    for (u32 s = 0; s < 4; s++)
#pragma unroll
      for (u32 j = 0; j < 4; j++) {
        u32 f[4];
        matrix4(f, at_k + swizzled(j * 16 + lane % 8 + lane / 16 * 8, 2 * s + lane / 8 % 2));
        multiply_bf16(p[2 * j], fq[s], f[0], f[1]);
        multiply_bf16(p[2 * j + 1], fq[s], f[2], f[3]);
      }
    float now[2] = {top[0], top[1]};
#pragma unroll
    for (u32 j = 0; j < 8; j++)
#pragma unroll
      for (u32 e = 0; e < 4; e++) {
        u32 key = tile * 64 + j * 8 + lane % 4 * 2 + e % 2, query = q0 + warp * 16 + lane / 4 + e / 2 * 8;
        p[j][e] = key < t && key <= query ? p[j][e] * by : NONE;
        now[e / 2] = fmaxf(now[e / 2], p[j][e]);
      }
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      now[h] = fmaxf(now[h], __shfl_xor_sync(~0u, now[h], 1));
      now[h] = fmaxf(now[h], __shfl_xor_sync(~0u, now[h], 2));
      float old = exp2f(top[h] - now[h]);
      top[h] = now[h];
      all[h] *= old;
#pragma unroll
      for (u32 j = 0; j < 8; j++) {
        sum[j][2 * h] *= old;
        sum[j][2 * h + 1] *= old;
      }
    }
#pragma unroll
    for (u32 j = 0; j < 8; j++)
#pragma unroll
      for (u32 e = 0; e < 4; e++) all[e / 2] += p[j][e] = exp2f(p[j][e] - top[e / 2]);
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
      u32 fp[4] = {to_bf16x2(p[2 * s][0], p[2 * s][1]), to_bf16x2(p[2 * s][2], p[2 * s][3]),
                   to_bf16x2(p[2 * s + 1][0], p[2 * s + 1][1]), to_bf16x2(p[2 * s + 1][2], p[2 * s + 1][3])};
#pragma unroll
      for (u32 j = 0; j < 4; j++) {
        u32 f[4];
        matrix4_transposed(f, at_v + swizzled(s * 16 + lane % 16, 2 * j + lane / 16));
        multiply_bf16(sum[2 * j], fp, f[0], f[1]);
        multiply_bf16(sum[2 * j + 1], fp, f[2], f[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (u32 h = 0; h < 2; h++) {
    all[h] += __shfl_xor_sync(~0u, all[h], 1);
    all[h] += __shfl_xor_sync(~0u, all[h], 2);
    u32 query = q0 + warp * 16 + lane / 4 + h * 8;
    if (query >= t) continue;
#pragma unroll
    for (u32 j = 0; j < 8; j++)
      *(u32 *)(o + head + (u64)query * 64 + j * 8 + lane % 4 * 2) =
          to_bf16x2(sum[j][2 * h] / all[h], sum[j][2 * h + 1] / all[h]);
  }
}
