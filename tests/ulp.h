/* How far a float is from what it should be. */
#ifndef TESTS_ULP_H
#define TESTS_ULP_H

#include <math.h>

/* Unit in the last place of the f32 format at v. */
static inline double ulp_f32(double v) {
  double a = fabs(v);
  if (a < 0x1p-126)
    return 0x1p-149;
  int e;
  frexp(a, &e);
  return ldexp(1, e - 24);
}

/* In units of the last place; infinite where one of them is NaN or infinite alone. */
static inline double error_f32(float got, double want) {
  if (isnan(want))
    return isnan(got) ? 0 : INFINITY;
  if ((float)want == got)
    return fabs(want) < INFINITY && isfinite(got) ? fabs(got - want) / ulp_f32(want) : 0;
  if (!isfinite(got) || !isfinite((float)want))
    return INFINITY;
  return fabs((double)got - want) / ulp_f32(want);
}

#endif
