/* A target that no machine decides: what passes are told where a test has no target of its own. */
#ifndef TESTS_PLAIN_CAPS_H
#define TESTS_PLAIN_CAPS_H

#include "ir/target.h"

static const TargetCaps plain_caps = {.name = "cpu",
                                      .level = "x86-64-v3",
                                      .vector_bytes = 32,
                                      .panel_cols_f64 = 8,
                                      .panel_cols_f32 = 16,
                                      .panel_cols_bf16 = 16,
                                      .k_pair_bf16 = 2,
                                      .panel_bytes_rows = 32768};

#endif
