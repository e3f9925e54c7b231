/* One AdamW step of n f32 parameters from bf16 gradients, with a bf16 copy; nothing is changed when
 * *found_inf is set. state: step, learning rate, 1 / loss scale, in device memory. */
KERNEL(256) adamw(float *__restrict__ w, u16 *__restrict__ copy, const u16 *__restrict__ grad,
                  float *__restrict__ m, float *__restrict__ v, const float *__restrict__ state,
                  const float *__restrict__ found_inf, float beta1, float beta2, float eps,
                  float decay, u32 n) {
  if (*found_inf != 0.0f) return;
  float step = state[0], lr = state[1], unscale = state[2];
  float c1 = 1.0f - powf(beta1, step), c2 = 1.0f - powf(beta2, step);
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    float g = from_bf16(grad[i]) * unscale, p = w[i] * (1.0f - lr * decay);
    float mi = m[i] = beta1 * m[i] + (1.0f - beta1) * g;
    float vi = v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
    w[i] = p -= lr * (mi / c1) / (sqrtf(vi / c2) + eps);
    copy[i] = to_bf16(p);
  }
}
