/* What moves data: tensors of a table in the parameters rounded to bf16 and packed one after another; a
 * transpose through shared memory; max pooling 3 x 3, stride 2, padding 1, with the place of each maximum,
 * and its gradient, which gathers. */
struct Tensor {
  const float *from;
  u32 n, at;
};
struct Tensors {
  Tensor t[4];
};
KERNEL(128) pack(const __grid_constant__ Tensors table, u16 *__restrict__ to, u32 count) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  for (u32 k = 0; k < count; k++)
    if (i < table.t[k].n) to[table.t[k].at + i] = to_bf16(table.t[k].from[i]);
}

KERNEL(256) transpose(const float *__restrict__ x, float *__restrict__ y, u32 rows, u32 cols) {
  __shared__ float tile[32][33];
  u32 c = blockIdx.x * 32 + threadIdx.x % 32, r = blockIdx.y * 32 + threadIdx.x / 32;
  for (u32 k = 0; k < 32; k += 8)
    if (r + k < rows && c < cols) tile[threadIdx.x / 32 + k][threadIdx.x % 32] = x[(u64)(r + k) * cols + c];
  __syncthreads();
  c = blockIdx.y * 32 + threadIdx.x % 32, r = blockIdx.x * 32 + threadIdx.x / 32;
  for (u32 k = 0; k < 32; k += 8)
    if (r + k < cols && c < rows) y[(u64)(r + k) * rows + c] = tile[threadIdx.x % 32][threadIdx.x / 32 + k];
}

KERNEL(128) pool(const float *__restrict__ x, float *__restrict__ y, u8 *__restrict__ place, int n, int h,
                 int w, int oh, int ow) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n * oh * ow) return;
  int px = i % ow, py = i / ow % oh, b = i / ow / oh, best = 0;
  float most = NONE;
  for (int k = 0; k < 9; k++) {
    int yy = py * 2 + k / 3 - 1, xx = px * 2 + k % 3 - 1;
    if (yy < 0 || yy >= h || xx < 0 || xx >= w) continue;
    float v = x[(b * h + yy) * w + xx];
    if (v > most) most = v, best = k;
  }
  y[i] = most;
  place[i] = (u8)best;
}

KERNEL(128) pool_backward(const float *__restrict__ dy, const u8 *__restrict__ place,
                          float *__restrict__ dx, int n, int h, int w, int oh, int ow) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n * h * w) return;
  int xx = i % w, yy = i / w % h, b = i / w / h;
  float sum = 0;
  for (int k = 0; k < 9; k++) {
    int py = yy + 1 - k / 3, px = xx + 1 - k % 3;
    if (py & 1 || px & 1 || py < 0 || px < 0 || py / 2 >= oh || px / 2 >= ow) continue;
    int o = (b * oh + py / 2) * ow + px / 2;
    if (place[o] == k) sum += dy[o];
  }
  dx[i] = sum;
}
