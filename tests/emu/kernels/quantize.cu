/* e4m3 codes of x [rows][cols] bf16 times *scale, the same transposed, and max |x|; 32 x 32 tiles. */
KERNEL(256) quantize(const u16 *__restrict__ x, u8 *__restrict__ q, u8 *__restrict__ qt,
                     const float *__restrict__ scale, u32 *__restrict__ amax, u32 rows, u32 cols) {
  __shared__ u8 tile[32][36];
  __shared__ float s[32];
  float by = *scale, top = 0;
  u32 tx = threadIdx.x % 32, ty = threadIdx.x / 32, r0 = blockIdx.y * 32, c0 = blockIdx.x * 32;
  for (u32 k = ty; k < 32; k += 8) {
    u32 r = r0 + k, c = c0 + tx;
    bool in = r < rows && c < cols;
    float v = in ? from_bf16(x[(u64)r * cols + c]) : 0.0f;
    top = fmaxf(top, fabsf(v));
    u8 code = (u8)to_e4m3x2(v * by, 0.0f);
    if (in) q[(u64)r * cols + c] = code;
    tile[k][tx] = code;
  }
  __syncthreads();
  for (u32 k = ty; k < 32; k += 8) {
    u32 c = c0 + k, r = r0 + tx;
    if (c < cols && r < rows) qt[(u64)c * rows + r] = tile[tx][k];
  }
  top = block_reduce<true>(top, s);
  if (threadIdx.x == 0) atomicMax(amax, __float_as_uint(top));
}
