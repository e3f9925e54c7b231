/* Layers and initialisers: shapes they accept, tensors they train, numbers they start from. */
#include <math.h>

#include "spec_check.h"

static Session s;

static void setup(void) {
  s = session_open();
}

static void teardown(void) {
  session_close(&s);
}

/* Module of a model with one input of this shape ("i[5]": integers) and these layers; NULL after an
 * error. */
static Module *lower(const char *shape, const char *layers) {
  Text t = {0};
  bool integers = *shape == 'i';
  shape += integers;
  text_printf(&t,
              "mpcc: 1\nmodel:\n  inputs: {image: {shape: %s%s}}\n  layers: %s\n"
              "loss: CrossEntropyLoss\n"
              "data:\n  train: {format: npz, path: x.npz}\n"
              "  loader: {batch_size: 2}\noptimizer: {type: SGD, lr: 0.1}\n"
              "trainer: {max_epochs: 1}\n",
              shape, integers ? ", dtype: int64" : "", layers);
  Spec *spec = spec_text(&s, t.data);
  Module *m = NULL;
  if (spec) {
    Status st = spec_lower(spec, s.strings, s.diag, &m);
    ck_assert((st == MPCC_OK) == (m != NULL));
  }
  text_fini(&t);
  return m;
}

/* {shape, layers, parameters, or -code of the error} */
static const struct {
  const char *shape, *layers;
  int64_t want;
} models[] = {
    {"[4]", "[{Linear: 3}]", 15},
    {"[4]", "[{Linear: 3, bias: false}]", 12},
    {"[4]", "[{Linear: 3, in_features: 4}]", 15},
    {"[4]", "[{Linear: 3, in_features: 5}]", -311},
    {"[2, 4]", "[{Linear: 5}, {mean: 1}, {Linear: 3}]", 25 + 18},
    {"[4]", "[{Conv2d: 3, kernel_size: 1}, Flatten, {Linear: 3}]", -311},
    {"[2, 6, 5]",
     "[{Conv2d: 4, kernel_size: [3, 2], stride: [2, 1], groups: 2}, Flatten, {Linear: 3}]",
     4 * 1 * 6 + 4 + 3 * (4 * 2 * 4) + 3},
    {"[2, 6, 5]",
     "[{Conv2d: 4, kernel_size: 3, padding: 1, dilation: 2, bias: false}, Flatten, {Linear: 3}]",
     4 * 2 * 9 + 3 * (4 * 4 * 3) + 3},
    {"[2, 6, 5]", "[{Conv2d: 3, kernel_size: 3, groups: 2}, Flatten, {Linear: 3}]", -311},
    {"[2, 6, 5]", "[{Conv2d: 4, kernel_size: 3, in_channels: 3}, Flatten, {Linear: 3}]", -311},
    {"[2, 6, 5]", "[{Conv2d: 4, kernel_size: 4, dilation: 2}, Flatten, {Linear: 3}]", -311},
    {"[2, 6, 5]",
     "[{Conv2d: 4, kernel_size: 3, padding: 1, padding_mode: reflect}, Flatten, {Linear: 3}]",
     4 * 18 + 4 + 3 * 121},
    {"[2, 6, 5]", "[{Conv2d: 4, kernel_size: 3, padding: 5, padding_mode: reflect}]", -311},
    {"[3, 5, 4]", "[{pad: [1, 2], mode: reflect}]", -201},
    {"[3, 5, 4]", "[{pad: [1, 4, 0, 0], mode: reflect}]", -311},
    {"[3, 5, 4]", "[{pad: [1, 1, 0, 0], mode: circular, value: 2.0}]", -201},
    {"[3, 5, 4]", "[{interpolate: , size: [2, 9], mode: nearest-exact, align_corners: true}]",
     -201},
    {"[3, 5]", "[{interpolate: , size: 9, mode: bicubic}]", -201},
    {"[3, 5]", "[{matmul: , inputs: [image, image]}]", -311},
    {"[5, 5]", "[{matmul: , inputs: [image, image]}, {mean: 1}, {Linear: 3}]", 18},
    {"[5, 5]", "[{matmul: , inputs: [image]}]", -310},
    {"[2, 9]", "[{Conv1d: 4, kernel_size: 3, stride: 2, padding: 1}, Flatten, {Linear: 3}]",
     4 * 6 + 4 + 3 * 21},
    {"[2, 9]", "[{Conv1d: 4, kernel_size: 4, padding: same}, Flatten, {Linear: 3}]",
     4 * 8 + 4 + 3 * 37},
    {"[2, 9]", "[{Conv1d: 4, kernel_size: 4, padding: same, stride: 2}, Flatten, {Linear: 3}]",
     -201},
    {"[2, 9]", "[{Conv1d: 4, kernel_size: 4, padding: valid}, Flatten, {Linear: 3}]",
     4 * 8 + 4 + 3 * 25},
    {"[2, 9, 9]", "[{Conv1d: 4, kernel_size: 4}]", -311},
    {"[2, 4, 6, 5]",
     "[{Conv3d: 4, kernel_size: [1, 2, 3], groups: 2, bias: false}, Flatten, {Linear: 3}]",
     4 * 6 + 3 * (4 * 4 * 5 * 3 + 1)},
    {"[2, 4, 5]",
     "[{ConvTranspose2d: 6, kernel_size: 3, stride: 2, padding: 1, output_padding: 1}, Flatten, "
     "{Linear: 3}]",
     2 * 6 * 9 + 6 + 3 * (6 * 8 * 10 + 1)},
    {"[2, 4, 5]", "[{ConvTranspose2d: 6, kernel_size: 3, output_padding: 1}]", -201},
    {"[2, 4, 4, 4]", "[{ConvTranspose3d: 2, kernel_size: 2, stride: 2}, Flatten, {Linear: 3}]",
     4 * 8 + 2 + 3 * (2 * 512 + 1)},
    {"[3, 7, 7]", "[{MaxPool2d: 2}, Flatten, {Linear: 3}]", 3 * 28},
    {"[3, 7, 7]", "[{MaxPool2d: 2, ceil_mode: true}, Flatten, {Linear: 3}]", 3 * 49},
    {"[3, 7, 7]", "[{MaxPool2d: 3, stride: 2, padding: 1}, Flatten, {Linear: 3}]", 3 * 49},
    {"[3, 7, 7]", "[{MaxPool2d: 3, padding: 2}]", -201},
    {"[3, 7, 7]", "[{MaxPool2d: 8}]", -311},
    {"[3, 6, 7, 7]", "[{MaxPool3d: 2}, Flatten, {Linear: 3}]", 3 * 82},
    {"[3, 7, 7]", "[{AvgPool2d: 2, stride: 3}, Flatten, {Linear: 3}]", 3 * 13},
    {"[3, 7, 7]", "[{AdaptiveAvgPool2d: [2, 3]}, Flatten, {Linear: 3}]", 3 * 19},
    {"[3, 5, 4]", "[{Upsample: , scale_factor: 1.5}, Flatten, {Linear: 3}]", 3 * (3 * 7 * 6 + 1)},
    {"[3, 5, 4]", "[{interpolate: , size: [2, 9], mode: bilinear}, Flatten, {Linear: 3}]",
     3 * (3 * 18 + 1)},
    {"[3, 5, 4]", "[{interpolate: , size: [2, 9], mode: linear}]", -201},
    {"[3, 5, 4]", "[{interpolate: , mode: bilinear}]", -201},
    {"[3, 5, 4]", "[{pad: [1, 2, -1, 0], value: 2.0}, Flatten, {Linear: 3}]", 3 * (3 * 4 * 7 + 1)},
    {"[3, 5, 4]", "[{pad: [1, 2, 3]}]", -201},
    {"[4]", "[LayerNorm, {Linear: 3}]", 8 + 15},
    {"[4]", "[{LayerNorm: 4, bias: false}, {Linear: 3}]", 4 + 15},
    {"[4]", "[{LayerNorm: , elementwise_affine: false}, {Linear: 3}]", 15},
    {"[4]", "[{LayerNorm: 5}, {Linear: 3}]", -311},
    {"[2, 4]", "[{LayerNorm: [2, 4]}, Flatten, {Linear: 3}]", 16 + 27},
    {"[4]", "[{LayerNorm: [2, 4]}, {Linear: 3}]", -311},
    {"[4, 3, 2]", "[{GroupNorm: 2}, Flatten, {Linear: 3}]", 8 + 75},
    {"[4, 3, 2]", "[{GroupNorm: 2, affine: false}, Flatten, {Linear: 3}]", 75},
    {"[4, 3, 2]", "[{GroupNorm: 3}, Flatten, {Linear: 3}]", -311},
    {"[4, 3, 2]", "[{GroupNorm: 2, num_channels: 5}, Flatten, {Linear: 3}]", -311},
    {"[4]", "[{GroupNorm: 4}, {Linear: 3}]", -311},
    {"[4, 3, 2]", "[{InstanceNorm2d: 4}, Flatten, {Linear: 3}]", 75},
    {"[4, 3, 2]", "[{InstanceNorm2d: 4, affine: true}, Flatten, {Linear: 3}]", 8 + 75},
    {"[4, 1, 1]", "[{InstanceNorm2d: 4}, Flatten, {Linear: 3}]", -311},
    {"[4, 3]", "[{InstanceNorm2d: 4}, Flatten, {Linear: 3}]", -311},
    {"[4, 6]", "[{InstanceNorm1d: 4, affine: true}, Flatten, {Linear: 3}]", 8 + 75},
    {"[4, 3, 2]", "[{InstanceNorm1d: 4}, Flatten, {Linear: 3}]", -311},
    {"[5, 8]", "[{MultiheadAttention: 8, num_heads: 2}, {mean: 1}, {Linear: 3}]", 24 * 9 + 72 + 27},
    {"[5, 8]", "[{MultiheadAttention: , num_heads: 2, bias: false}, {mean: 1}, {Linear: 3}]",
     24 * 8 + 64 + 27},
    {"[5, 8]", "[{MultiheadAttention: 9, num_heads: 3}, {mean: 1}, {Linear: 3}]", -311},
    {"[5, 8]", "[{MultiheadAttention: 8, num_heads: 3}, {mean: 1}, {Linear: 3}]", -311},
    {"[8]", "[{MultiheadAttention: 8, num_heads: 2}, {Linear: 3}]", -311},
    {"[5, 8]",
     "[{MultiheadAttention: 8, num_heads: 2, batch_first: false}, {mean: 1}, {Linear: 3}]", -311},
    {"[5, 8]",
     "[{type: transpose, dim0: 0, dim1: 1},"
     " {MultiheadAttention: 8, num_heads: 2, batch_first: false}, {LSTM: 4, batch_first: false},"
     " {type: select, dim: 0, index: -1}, {Linear: 3}]",
     3 * 8 * 8 + 3 * 8 + 8 * 8 + 8 + 4 * 4 * (8 + 4 + 2) + 15},
    {"[5, 8]", "[{permute: [2, 0, 1]}, {permute: [1, 2, 0]}, {mean: 1}, {Linear: 3}]", 27},
    {"[5, 8]", "[{type: transpose, dim0: 0, dim1: 1}, {Linear: 3}]", -311},
    {"[5, 8]", "[{Linear: 3}, {type: transpose, dim0: 0, dim1: 1}]", -311},
    {"[5, 8]",
     "[{type: transpose, dim0: 0, dim1: 1}, {GRU: 4, batch_first: true}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 8]",
     "[{type: transpose, dim0: 0, dim1: 1}, {type: select, dim: 1, index: 0}, {Linear: 3}]", -311},
    {"[5, 8]",
     "[{LSTM: 4, num_layers: 3, init: {weight_hh_l2: orthogonal}}, {mean: 1}, {Linear: 3}]",
     4 * 4 * (8 + 4 + 2) + 2 * 4 * 4 * (4 + 4 + 2) + 15},
    {"[5, 8]", "[{LSTM: 4, init: {weight_hh_l1: orthogonal}}, {mean: 1}, {Linear: 3}]", -102},
    {"[5, 8]", "[{LSTM: 4, init: {weight_hh_l0_reverse: ones}}, {mean: 1}, {Linear: 3}]", -102},
    {"[4]", "[{Linear: 3, bias: false, init: {bias: ones}}]", -102},
    {"[5, 6]", "[{scaled_dot_product_attention: 2, packed: qkv}, {mean: 1}, {Linear: 3}]", 9},
    {"[5, 8]", "[{scaled_dot_product_attention: 2, packed: qkv}, {mean: 1}, {Linear: 3}]", -311},
    {"[5, 6]", "[{scaled_dot_product_attention: 2}, {mean: 1}, {Linear: 3}]", -310},
    {"[5, 6]",
     "[{scaled_dot_product_attention: 4, inputs: [image, image, image]}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 6]",
     "[{scaled_dot_product_attention: 3, inputs: {query: image, key: image, value: image}}, {mean: "
     "1}, {Linear: 3}]",
     21},
    {"[5, 6]",
     "[{scaled_dot_product_attention: 3, inputs: {query: image, key: image, valu: image}}, {mean: "
     "1}, {Linear: 3}]",
     -310},
    {"[5, 8]",
     "[{name: k, Linear: 4, bias: false}, {scaled_dot_product_attention: 4, num_kv_heads: 2, "
     "inputs: {query: image, key: k, value: k}}, {mean: 1}, {Linear: 3}]",
     32 + 27},
    {"[5, 8]",
     "[{scaled_dot_product_attention: 4, num_kv_heads: 3, inputs: {query: image, key: image, "
     "value: "
     "image}}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 8]",
     "[{scaled_dot_product_attention: 4, num_kv_heads: 2, inputs: {query: image, key: image, "
     "value: "
     "image}}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 16]",
     "[{scaled_dot_product_attention: 4, num_kv_heads: 2, packed: qkv}, {mean: 1}, "
     "{Linear: 3}]",
     27},
    {"[5, 8]",
     "[{name: m, Parameter: [5, 5], freeze: true}, {scaled_dot_product_attention: 4, inputs: "
     "{query: "
     "image, key: image, value: image, attn_mask: m}}, {mean: 1}, {Linear: 3}]",
     25 + 27},
    {"[5, 8]",
     "[{name: m, Parameter: [5, 4]}, {scaled_dot_product_attention: 4, inputs: {query: "
     "image, key: image, value: image, attn_mask: m}}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 8]",
     "[{name: i, arange: 5}, {name: j, reshape: [5, 1], inputs: i}, {name: m, expr: \"cvt(a <= b)\", "
     "inputs: {a: i, b: j}}, {scaled_dot_product_attention: 4, inputs: {query: image, key: image, "
     "value: image, attn_mask: m}}, {mean: 1}, {Linear: 3}]",
     27},
    {"[5, 8]",
     "[{name: i, arange: 5}, {name: j, reshape: [5, 1], inputs: i}, {name: m, expr: \"a <= b ? 0 : -10000\", "
     "inputs: {a: i, b: j}}, {scaled_dot_product_attention: 4, inputs: {query: image, key: image, "
     "value: image, attn_mask: m}}, {mean: 1}, {Linear: 3}]",
     -201},
    {"[5, 8]",
     "[{name: i, arange: 5}, {name: j, reshape: [5, 1], inputs: i}, {name: m, expr: \"a <= b ? 0 : -10000\", "
     "inputs: {a: i, b: j}}, {name: f, to: float32}, {scaled_dot_product_attention: 4, inputs: {query: image, key: image, "
     "value: image, attn_mask: f}}, {mean: 1}, {Linear: 3}]",
     27},
    {"[5, 8]",
     "[{name: i, arange: 5}, {name: j, reshape: [5, 1], inputs: i}, {name: m, expr: \"a <= b ? 0 : -inf\", "
     "inputs: {a: i, b: j}}, {scaled_dot_product_attention: 4, inputs: {query: image, key: image, "
     "value: image, attn_mask: m}}, {mean: 1}, {Linear: 3}]",
     27},
    {"[5, 8]",
     "[{name: k, Linear: 6}, {MultiheadAttention: 8, num_heads: 2, kdim: 6, inputs: {query: image, "
     "key: k, value: k}}, {mean: 1}, {Linear: 3}]",
     54 + 64 + 48 + 48 + 24 + 72 + 27},
    {"[5, 8]",
     "[{name: k, Linear: 6}, {MultiheadAttention: 8, num_heads: 2, kdim: 7, inputs: {query: image, "
     "key: k, value: k}}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 8]",
     "[{name: k, type: GELU}, {MultiheadAttention: 8, num_heads: 2, inputs: {query: image, "
     "key: k}}, {mean: 1}, {Linear: 3}]",
     216 + 72 + 27},
    {"[5, 8]",
     "[{name: m, mean: 2}, {MultiheadAttention: 8, num_heads: 2, inputs: {query: image, "
     "key_padding_mask: m}}, {mean: 1}, {Linear: 3}]",
     216 + 72 + 27},
    {"[5, 8]",
     "[{name: m, mean: 1}, {MultiheadAttention: 8, num_heads: 2, inputs: {query: image, "
     "key_padding_mask: m}}, {mean: 1}, {Linear: 3}]",
     -311},
    {"[5, 8]",
     "[{RotaryEmbedding: 2}, {RotaryEmbedding: 4, interleaved: true}, {mean: 1}, {Linear: "
     "3}]",
     27},
    {"[5, 8]", "[{RotaryEmbedding: 8}, {mean: 1}, {Linear: 3}]", -311},
    {"[8]", "[{RotaryEmbedding: 2}, {Linear: 3}]", -311},
    {"[2, 4]",
     "[RMSNorm, {RMSNorm: [2, 4]}, {RMSNorm: , elementwise_affine: false}, Flatten, "
     "{Linear: 3}]",
     4 + 8 + 27},
    {"[2, 4]", "[{RMSNorm: 5}, Flatten, {Linear: 3}]", -311},
    {"[4]", "[GELU, {GELU: tanh}, ReLU, Dropout, {Dropout: 0}, Identity, {Linear: 3}]", 15},
    {"[4]", "[{GELU: exact}, {Linear: 3}]", -204},
    {"[2, 3, 4]", "[{Flatten: 2}, {mean: -2}, {Linear: 3}]", 39},
    {"[2, 3, 4]", "[{Flatten: 0}, {Linear: 3}]", -311},
    {"[2, 3, 4]", "[{Flatten: 3, end_dim: 2}, {Linear: 3}]", -311},
    {"[2, 3, 4]", "[{Flatten: 4}, {Linear: 3}]", -311},
    {"[2, 3]",
     "[{type: transpose, dim0: 1, dim1: 2}, {type: select, dim: -1, index: -1}, {Linear: 3}]", 12},
    {"[2, 3]", "[{type: transpose, dim0: 0, dim1: 1}]", -311},
    {"[2, 3]", "[{type: transpose, dim0: 1, dim1: 3}]", -311},
    {"[2, 3]", "[{type: select, dim: 0, index: 0}]", -311},
    {"[2, 3]", "[{type: select, dim: 1, index: 2}]", -311},
    {"[2, 3]", "[{type: select, dim: 1, index: -3}]", -311},
    {"[2, 3]", "[{mean: 0}]", -311},
    {"[2, 3]", "[{mean: [1, 2], keepdim: true}, Flatten, {Linear: 3}]", 6},
    {"[2, 3]", "[{type: cat, inputs: [image, image], dim: 1}, Flatten, {Linear: 3}]", 39},
    {"[2, 3]", "[{type: cat, inputs: [image, image], dim: 0}]", -311},
    {"[2, 3]", "[{type: cat, inputs: [image], dim: 1}]", -310},
    {"[6]", "[{Dropout2d: 0.5}, {Linear: 3}]", -311},
    {"[2, 6]",
     "[{StochasticDepth: 0.5}, {StochasticDepth: 0.5, mode: batch}, Flatten, {Linear: 3}]", 39},
    {"[6]", "[ReLU6, Hardtanh, Hardsigmoid, Softsign, SELU, LogSigmoid, GLU, detach, {Linear: 3}]",
     12},
    {"[6]", "[{type: Hardtanh, min_val: 1, max_val: 1}]", -201},
    {"[2, 3]", "[{GLU: 2}]", -311},
    {"[2, 4]", "[{GLU: 0}]", -311},
    {"[2, 4]", "[{max: -1}, {Linear: 3}]", 9},
    {"[2, 4]", "[{max: 0}]", -311},
    {"[8, 2, 3]", "[{PixelShuffle: 2}, {Conv2d: 1, kernel_size: [4, 6]}, Flatten]", 2 * 24 + 1},
    {"[6, 2, 3]", "[{PixelShuffle: 2}]", -311},
    {"[6, 2, 3]", "[{PixelShuffle: 4294967296}]", -311},
    {"[8, 6]", "[{PixelShuffle: 2}]", -311},
    {"[1, 4, 6]", "[{PixelUnshuffle: 2}, {Conv2d: 1, kernel_size: [2, 3]}, Flatten]", 24 + 1},
    {"[1, 4, 5]", "[{PixelUnshuffle: 2}]", -311},
    {"[5, 2]", "[{RNN: 3, bidirectional: true}, {mean: 1}, {Linear: 3}]", 2 * (6 + 9 + 6) + 21},
    {"[5, 2]", "[{RNN: 3, nonlinearity: sigmoid}]", -204},
    {"[5, 2]", "[{RNN: 3, output: c_n}]", -204},
    {"[2, 4]", "[{roll: 1, dims: 0}]", -311},
    {"[2, 4]", "[{roll: [1, 2], dims: 1}]", -201},
    {"[2, 5, 4]", "[{AdaptiveMaxPool2d: [2, 2]}, Flatten, {Linear: 3}]", 27},
    {"[2, 600]", "[{AdaptiveMaxPool1d: 257}]", -190},
    {"[2, 8]", "[{AdaptiveMaxPool1d: 2}, {MaxPool1d: 2}, Flatten, {Linear: 3}]", 9},
    /* what has no batch takes any shape, until the batch meets it */
    {"[6]",
     "[{name: p, Parameter: [2, 3]}, {reshape: [3, 2]}, {permute: [1, 0]}, {Flatten: 0}, "
     "{unsqueeze: "
     "0}, {name: q, sum: 0}, {type: mul, inputs: [image, q]}, {Linear: 3}]",
     6 + 21},
    {"[6]", "[{arange: 6}, {name: q, reshape: [-1, 3]}, {type: mul, inputs: [image, q]}]", -311},
    {"[6]", "[{reshape: [3, -1]}]", -311},
    {"[6]", "[{Embedding: 4, embedding_dim: 2}]", -311},
    {"[6]", "[{to: int64}, {Embedding: 4, embedding_dim: 2}, {mean: 1}, {Linear: 3}]", 8 + 9},
    /* a layer twice; what it is tied to must be of its type and shape */
    {"[6]", "[{name: a, Linear: 6}, {Linear: 6, tie: a}, {Linear: 3}]", 42 + 21},
    {"[6]", "[{name: a, Linear: 5}, {Linear: 6, tie: a}]", -311},
    {"[6]", "[{name: a, Linear: 6}, {type: LayerNorm, tie: a}]", -103},
    {"[6]", "[{Linear: 6, tie: b}]", -221},
    {"[6]", "[{name: a, BatchNorm1d: 6}, {BatchNorm1d: 6, tie: a}, {Linear: 3}]", -190},
    {"[6]",
     "[{name: a, BatchNorm1d: 6, training: false}, {BatchNorm1d: 6, tie: a, training: false}, "
     "{Linear: 3}]",
     12 + 21},
    {"[2, 3]", "[Flatten, {type: cat, inputs: [image, \"0\"], dim: 1}]", -311},
    {"[4]",
     "[{type: add, inputs: [image, image, image]}, {type: mul, inputs: [\"0\", image]}, {Linear: "
     "3}]",
     15},
    {"[4]", "[add]", -310},
    {"[4]", "[{name: p, Parameter: [1, 4]}, {type: add, inputs: [image, p]}, {Linear: 3}]", 19},
    {"[2, 4]",
     "[{name: p, Parameter: [2, 1]}, {type: add, inputs: [image, p]}, {mean: 1}, {Linear: 3}]",
     2 + 15},
    {"[4]", "[{name: p, Parameter: [5]}, {type: add, inputs: [image, p]}, {Linear: 3}]", -311},
    {"[4]",
     "[{name: p, Parameter: [1, 2], expand_batch: true}, {type: cat, inputs: [image, p], dim: 1}, "
     "{Linear: 3}]",
     2 + 21},
    {"[4]",
     "[{name: p, Parameter: [2, 2], expand_batch: true}, {type: cat, inputs: [image, p], dim: 1}, "
     "{Linear: 3}]",
     -311},
    {"[4]", "[SiLU, Tanh, Sigmoid, Hardswish, Mish, exp, log, sqrt, abs, {Linear: 3}]", 15},
    {"[4]", "[LeakyReLU, {LeakyReLU: 0.2}, ELU, {ELU: 2}, Softplus, {pow: 2}, {Linear: 3}]", 15},
    {"[4]", "[PReLU, {Linear: 3}]", 16},
    {"[4]", "[{PReLU: 4}, {Linear: 3}]", 19},
    {"[2, 3, 4]", "[{PReLU: 2}, Flatten, {Linear: 3}]", 77},
    {"[2, 3, 4]", "[{PReLU: 3}, Flatten, {Linear: 3}]", -311},
    {"[2, 3]", "[{Softmax: 1}, {softmax: -1}, {log_softmax: 2}, Flatten, {Linear: 3}]", 21},
    {"[2, 3]", "[{Softmax: 0}, Flatten, {Linear: 3}]", -311},
    {"[2, 3]", "[{Softmax: 3}, Flatten, {Linear: 3}]", -311},
    {"[4]", "[{add: 1.5}, {sub: 1}, {mul: 2}, {div: 3}, {Linear: 3}]", 15},
    {"[4]", "[{type: sub, inputs: [image, image]}, {Linear: 3}]", 15},
    {"[4]", "[{add: 1, inputs: [image, image]}, {Linear: 3}]", -310},
    {"[4]", "[div]", -310},
    {"[4]", "[{type: div, inputs: [image, image, image]}]", -310},
    {"[2, 6]",
     "[{name: h, chunk: 2, dim: -1}, {type: mul, inputs: [h.0, h.1]}, Flatten, {Linear: 3}]", 21},
    {"[2, 7]", "[{chunk: 3, dim: 2, index: 2}, Flatten, {Linear: 3}]", 9},
    {"[2, 7]", "[{chunk: 3, dim: 2, index: 3}, Flatten, {Linear: 3}]", -311},
    {"[2, 7]", "[{name: h, split: [3, 4], dim: 2}, {Flatten: , inputs: h.1}, {Linear: 3}]", 27},
    {"[2, 7]", "[{name: h, split: 3, dim: 2}, {Flatten: , inputs: h.2}, {Linear: 3}]", 9},
    {"[2, 7]", "[{name: h, split: [3, 3], dim: 2}, {Flatten: , inputs: h.1}, {Linear: 3}]", -311},
    {"[2, 7]", "[{name: h, split: 3, dim: 2}, {Flatten: , inputs: h.3}, {Linear: 3}]", -311},
    {"[2, 7]", "[{name: h, split: 3, dim: 0}, {Flatten: , inputs: h.0}, {Linear: 3}]", -311},
    {"[2, 7]", "[{name: h, split: 3, dim: 2}, Flatten, {Linear: 3}]", -221},
    {"[2, 7]", "[{name: h, split: 3, dim: 2}, {Flatten: , inputs: h}, {Linear: 3}]", -221},
    {"[2, 7]", "[{name: h, split: 3, dim: 2}, {Flatten: , inputs: h.x}, {Linear: 3}]", -221},
    {"[2, 6]", "[Flatten, {Linear: 3}, {chunk: 1, dim: 1}]", -221},
    {"[2, 6]", "[{reshape: [-1, 3, 4]}, {view: [2, 2, -1]}, {view: [-1, 12]}, {Linear: 3}]", 39},
    {"[2, 6]", "[{view: [-1, 5, -1]}, Flatten, {Linear: 3}]", -311},
    {"[2, 6]", "[{view: [-1, 13]}, {Linear: 3}]", -311},
    {"[2, 6]", "[{view: [4, 6]}, {Linear: 3}]", -311},
    {"[2, 6]", "[{view: [-1, -1, -1]}, {Linear: 3}]", -311},
    {"[2, 6]", "[{view: [-1, 0, 4]}, {Linear: 3}]", -311},
    {"[2, 3, 4]", "[{permute: [0, 3, 1, 2]}, {mean: [1]}, Flatten, {Linear: 3}]", 21},
    {"[2, 3, 4]", "[{permute: [0, -1, 1, 2]}, {sum: [1, 2]}, {Linear: 3}]", 12},
    {"[2, 3, 4]", "[{permute: [1, 0, 2, 3]}, Flatten, {Linear: 3}]", -311},
    {"[2, 3, 4]", "[{permute: [0, 1, 2, 2]}, Flatten, {Linear: 3}]", -311},
    {"[2, 3, 4]", "[{permute: [0, 1, 2]}, Flatten, {Linear: 3}]", -311},
    {"[2, 3]", "[{sum: [1, -2]}, {Linear: 3}]", -311},
    {"[1, 3]", "[{squeeze: 1}, {squeeze: 1}, {unsqueeze: -1}, Flatten, {Linear: 3}]", 12},
    {"[1, 3]", "[{squeeze: 0}, Flatten, {Linear: 3}]", -311},
    {"[1, 3]", "[{unsqueeze: 0}, Flatten, {Linear: 3}]", -311},
    {"[1, 3]", "[{unsqueeze: 4}, Flatten, {Linear: 3}]", -311},
    {"[4]", "[{to: float16}, {to: float32}, {Linear: 3}]", 15},
    {"[4]", "[{to: int8}, {Linear: 3}]", -204},
    {"[4]", "[randn_like, {name: p, arange_like: 1}, {type: add, inputs: [image, p]}, {Linear: 3}]",
     15},
    {"[4]", "[randn_like, {Linear: 3, in_feature: 4}]", -102},
    {"[4]", "[{arange_like: 0}, {Linear: 3}]", -311},
    {"i[5]", "[{Embedding: 7, embedding_dim: 4}, {mean: 1}, {Linear: 3}]", 28 + 15},
    {"i[5]", "[{Embedding: 7, embedding_dim: 4, padding_idx: -1}, {mean: 1}, {Linear: 3}]", 43},
    {"i[5]", "[{Embedding: 7, embedding_dim: 4, padding_idx: 7}, {mean: 1}, {Linear: 3}]", -311},
    {"[5]", "[{Embedding: 7, embedding_dim: 4}, {mean: 1}, {Linear: 3}]", -311},
    {"i[5]",
     "[{arange_like: 1}, {Embedding: 5, embedding_dim: 4}, {type: add, inputs: [\"1\", t]}]", -221},
    {"i[5]", "[{arange_like: 1}, {Embedding: 4, embedding_dim: 4}, {mean: 1}, {Linear: 3}]", -311},
    {"i[5]",
     "[{name: t, Embedding: 7, embedding_dim: 4}, {mean: 1}, {Linear: 7, bias: false, tie_weight: "
     "t, pad_to_multiple_of: 16}]",
     28},
    {"i[5]", "[{name: t, Embedding: 7, embedding_dim: 4}, {mean: 1}, {Linear: 6, tie_weight: t}]",
     -311},
    {"i[5]", "[{name: t, Embedding: 7, embedding_dim: 4}, {mean: 1, tie_weight: t}, {Linear: 3}]",
     -103},
    {"[4]", "[{Linear: 3, tie_weight: image}]", -103},
    {"[4]", "[{name: a, Linear: 4}, {Linear: 3, tie_weight: b}]", -221},
    {"[4]", "[{name: a, Linear: 4, freeze: true}, {Linear: 3}]", 20 + 15},
    {"[4]", "[{expr: a * a}, {Linear: 3}]", 15},
    {"[4]", "[{expr: x + 1, inputs: {x: image}}, {Linear: 3}]", 15},
    {"[4]", "[{expr: y + 1, inputs: {x: image}}, {Linear: 3}]", -1},
    {"[4]", "[{Linear: 3, init: {weights: zeros}}]", -102},
    {"[4]", "[ReLU, {Linear: 3, init: zeros}]", -201},
    {"[4]", "[{ReLU: , init: zeros}, {Linear: 3}]", -102},
    {"[4]", "[{Linear: 3, init: {weight: zero}}]", -191},
    {"[4]", "[{Linear: 3, init: {weight: {normal: {sdt: 1}}}}]", -102},
    {"[4]", "[{Linear: 3, init: {weight: orthogonal}}]", 15},
    {"[4]", "[{Linear: 3, init: {bias: orthogonal}}]", -201},
    {"[4, 4]", "[{Linear: 3}]", 15}, /* classes of each of 4 places */
    /* complex parameters are kept as pairs */
    {"[4]", "[fft, {Linear: 3, dtype: complex}, abs]", 2 * 15},
    {"[4]", "[fft, {Linear: 3, dtype: complex, bias: false}, real]", 2 * 12},
    {"[4]",
     "[{name: w, Parameter: [4], dtype: complex}, {mul: , inputs: [image, w]}, abs, {Linear: 3}]",
     8 + 15},
    {"[4]",
     "[fft, {name: a, Linear: 4, dtype: complex}, {Linear: 4, dtype: complex, tie_weight: a}, abs]",
     2 * (20 + 4)},
    {"[4]", "[{name: w, Linear: 4}, fft, {Linear: 4, dtype: complex, tie_weight: w}, abs]", -311},
    {"[4]", "[{fft: 0}, abs]", -311},
    {"[4]", "[{fft: 2}, abs]", -311},
    {"[4]", "[{fft: -1, norm: both}, abs]", -204},
    {"[4]", "[{fft: -1, n: 0}, abs]", -202},
    {"i[4]", "[{fft: -1}, abs]", -312},
    {"[4]", "[{fft: -1}]", -312}, /* a complex output */
    {"[4]", "[{fft: -1}, ReLU]", -312},
    {"[4]", "[{fft: -1}, LayerNorm]", -312},
    {"[4]", "[{fft: -1}, {softmax: 1}]", -312},
    {"[4]", "[{fft: -1}, {pow: 2}]", -312},
    {"[4]", "[{fft: -1}, {to: float32}]", -312},
    {"[4]", "[{fft: -1}, {expr: a * a}]", -312},
    {"[4]", "[{fft: -1}, {Linear: 3}]", -312},
    {"[4]", "[{Linear: 3, dtype: complex}, abs]", -312},
    {"[4]", "[imag]", -312},
    {"[4]", "[real, conj, {Linear: 3}]", 15},
    {"[4]", "[view_as_real]", -312},
    {"[4]", "[{unsqueeze: 2}, view_as_complex, abs]", -311},
    {"[4, 2]", "[view_as_complex, view_as_complex, abs]", -312},
    {"[4]", "[{name: f, fft: -1}, {complex: , inputs: [image, f]}, abs]", -312},
    {"[4]", "[{Parameter: [4], dtype: complex, init: {trunc_normal: {std: 1}}}, abs]", -312},
    {"[4]", "[fft, {Linear: 4, dtype: complex, init: {weight: orthogonal}}, abs]", -312},
};

START_TEST(models_have_these_parameters) {
  Module *m = lower(models[_i].shape, models[_i].layers);
  int64_t n = 0;
  for (int i = 0; m && i < m->ntensor; i++)
    if (m->tensor[i]->role == ROLE_PARAM)
      n += type_elems(m->tensor[i]->type);
  if (models[_i].want >= 0) {
    if (!m)
      dump(&s);
    ck_assert_msg(m && n == models[_i].want, "%s: %lld", models[_i].layers, (long long)n);
  } else {
    ck_assert_msg(!m, "%s", models[_i].layers);
    if (models[_i].want < -1)
      ck_assert_msg(message(&s, (int)-models[_i].want) != NULL, "%s: MPC%04d", models[_i].layers,
                    diag_first(s.diag)->code);
    ck_assert_int_eq(diag_errors(s.diag), 1);
  }
  module_destroy(m);
}
END_TEST

/* ---- initial values ---- */

typedef struct {
  double mean, std, min, max;
} Stats;

static Stats stats_of(Eval *e, const Module *m, const char *name) {
  const Tensor *t = module_tensor(m, name);
  ck_assert_msg(t != NULL, "%s", name);
  const double *v = eval_tensor(e, t);
  int64_t n = type_elems(t->type);
  Stats r = {.min = INFINITY, .max = -INFINITY};
  for (int64_t i = 0; i < n; i++) {
    r.mean += v[i] / (double)n;
    r.min = fmin(r.min, v[i]);
    r.max = fmax(r.max, v[i]);
  }
  for (int64_t i = 0; i < n; i++)
    r.std += (v[i] - r.mean) * (v[i] - r.mean) / (double)n;
  r.std = sqrt(r.std);
  return r;
}

/* Expected standard deviation and bounds; bound 0: none. About 10 000 draws each, so the standard
 * deviation is right to 1 % (3 sigma: 2.2 %). */
static void expect(Eval *e, const Module *m, const char *name, double mean, double std,
                   double bound) {
  Stats r = stats_of(e, m, name);
  ck_assert_msg(fabs(r.mean - mean) < 0.05 * std + 1e-12, "%s: mean %g", name, r.mean);
  ck_assert_msg(fabs(r.std - std) <= 0.03 * std, "%s: std %g, not %g", name, r.std, std);
  if (bound > 0) {
    ck_assert_msg(r.max <= bound + mean && r.min >= mean - bound, "%s: [%g, %g]", name, r.min,
                  r.max);
    ck_assert_msg(r.max > mean + 0.98 * bound && r.min < mean - 0.98 * bound, "%s: [%g, %g]", name,
                  r.min, r.max);
  }
}

static Eval *run_init(Module *m, int64_t seed) {
  Eval *e = NULL;
  ck_assert_int_eq(eval_create(m, false, &e), MPCC_OK);
  eval_tensor(e, module_tensor(m, "io.seed"))[0] = (double)seed;
  ck_assert_int_eq(eval_run(e, module_func(m, "init")), MPCC_OK);
  return e;
}

START_TEST(defaults_are_pytorchs) {
  Module *m = lower("[100, 96]", "[{name: fc, Linear: 96}, {name: mha, type: MultiheadAttention, "
                                 "num_heads: 4}, {name: ln, type: LayerNorm}, {mean: 1}, "
                                 "{name: head, Linear: 96}, {name: c, Linear: 3}]");
  Eval *e = run_init(m, 7);
  double bound = 1 / sqrt(96.0), third = sqrt(3.0);
  expect(e, m, "fc.weight", 0, bound / third, bound);
  expect(e, m, "mha.in_proj_weight", 0, sqrt(6 / (4 * 96.0)) / third, sqrt(6 / (4 * 96.0)));
  expect(e, m, "mha.out_proj.weight", 0, bound / third, bound);
  ck_assert_double_eq(stats_of(e, m, "mha.in_proj_bias").max, 0);
  ck_assert_double_eq(stats_of(e, m, "mha.out_proj.bias").min, 0);
  ck_assert_double_eq(stats_of(e, m, "ln.weight").min, 1);
  ck_assert_double_eq(stats_of(e, m, "ln.bias").max, 0);
  Stats bias = stats_of(e, m, "fc.bias");
  ck_assert(bias.max <= bound && bias.max > 0.8 * bound && bias.min < -0.8 * bound);
  /* equal shapes get different numbers, and the seed matters */
  const double *a = eval_tensor(e, module_tensor(m, "fc.weight"));
  const double *b = eval_tensor(e, module_tensor(m, "head.weight"));
  ck_assert(a[0] != b[0] && a[1] != b[1]);
  Eval *other = run_init(m, 8), *same = run_init(m, 7);
  ck_assert(eval_tensor(other, module_tensor(m, "fc.weight"))[0] != a[0]);
  ck_assert(eval_tensor(same, module_tensor(m, "fc.weight"))[0] == a[0]);
  eval_destroy(e);
  eval_destroy(other);
  eval_destroy(same);
  module_destroy(m);
}
END_TEST

START_TEST(given_initialisers) {
  Module *m = lower(
      "[100]",
      "[{name: n, Linear: 100, init: {weight: {normal: {mean: 1, std: 0.02}}, bias: {constant: "
      "0.5}}},"
      " {name: t, Linear: 100, init: {weight: {trunc_normal: {std: 1, a: -1, b: 1}}, bias: ones}},"
      " {name: w, Linear: 100, init: {weight: {trunc_normal: {std: 0.02}}}},"
      " {name: u, Linear: 100, init: {weight: {uniform: {a: 2, b: 4}}}},"
      " {name: xu, Linear: 300, init: {weight: {xavier_uniform: {gain: 2}}}},"
      " {name: xn, Linear: 100, init: {weight: xavier_normal}},"
      " {name: ku, Linear: 100, init: {weight: {kaiming_uniform: {a: 2}}}},"
      " {name: kn, Linear: 200, init: {weight: {kaiming_normal: {mode: fan_out, nonlinearity: "
      "relu}}}},"
      " {name: z, Linear: 3, init: {weight: zeros}}]");
  Eval *e = run_init(m, 3);
  double third = sqrt(3.0);
  expect(e, m, "n.weight", 1, 0.02, 0);
  ck_assert_double_eq(stats_of(e, m, "n.bias").min, 0.5);
  /* variance of a standard normal within [-1, 1]: 1 - 2 phi(1) / (2 Phi(1) - 1) = 0.29112 */
  expect(e, m, "t.weight", 0, sqrt(0.2911251), 1);
  ck_assert_double_eq(stats_of(e, m, "t.bias").max, 1);
  expect(e, m, "w.weight", 0, 0.02, 0);
  expect(e, m, "u.weight", 3, 1 / third, 1);
  expect(e, m, "xu.weight", 0, 2 * sqrt(2.0 / 400), 2 * sqrt(6.0 / 400));
  expect(e, m, "xn.weight", 0, sqrt(2.0 / 400), 0);
  expect(e, m, "ku.weight", 0, sqrt(2.0 / 5 / 100), sqrt(3 * 2.0 / 5 / 100));
  expect(e, m, "kn.weight", 0, sqrt(2.0 / 200), 0);
  ck_assert_double_eq(stats_of(e, m, "z.weight").max, 0);
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

/* Rows of a wide matrix, columns of a tall one, at right angles and as long as gain says. */
static void expect_orthogonal(Eval *e, const Module *m, const char *name, double gain) {
  const Tensor *t = module_tensor(m, name);
  ck_assert_msg(t != NULL, "%s", name);
  const double *w = eval_tensor(e, t);
  int64_t rows = t->type->dim[0], cols = type_elems(t->type) / rows;
  bool wide = rows < cols;
  int64_t n = wide ? rows : cols, k = wide ? cols : rows;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j <= i; j++) {
      double sum = 0;
      for (int64_t l = 0; l < k; l++)
        sum += wide ? w[i * k + l] * w[j * k + l] : w[l * n + i] * w[l * n + j];
      ck_assert_msg(fabs(sum - (i == j) * gain * gain) < 2e-6 * gain * gain,
                    "%s: %lld.%lld is %.9g", name, (long long)i, (long long)j, sum);
    }
}

START_TEST(orthogonal_matrices) {
  Module *m =
      lower("[40]", "[{name: square, Linear: 40, init: {weight: orthogonal}},"
                    " {name: wide, Linear: 7, init: {weight: {orthogonal: {gain: 1.5}}}},"
                    " {name: tall, Linear: 90, init: {weight: orthogonal}},"
                    " {name: v, view: [-1, 10, 3, 3]},"
                    " {name: conv, Conv2d: 12, kernel_size: 3, init: {weight: orthogonal}},"
                    " Flatten, {name: one, Linear: 1, init: {weight: {orthogonal: {gain: -2}}}},"
                    " {name: out, Linear: 3, init: {weight: orthogonal}}]");
  ck_assert(m != NULL);
  Eval *e = run_init(m, 3);
  expect_orthogonal(e, m, "square.weight", 1);
  expect_orthogonal(e, m, "wide.weight", 1.5);
  expect_orthogonal(e, m, "tall.weight", 1);
  expect_orthogonal(e, m, "conv.weight", 1);
  expect_orthogonal(e, m, "one.weight", -2);
  expect_orthogonal(e, m, "out.weight", 1);
  expect(e, m, "square.weight", 0, 1 / sqrt(40.0), 0); /* no direction is preferred */
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

/* Each part of a complex tensor: torch fills view_as_real, of a normal with half the variance. */
START_TEST(complex_parameters_start_as_pytorchs) {
  Module *m = lower("[100]",
                    "[fft, {name: u, Linear: 100, dtype: complex},"
                    " {name: n, Linear: 100, dtype: complex, init: {weight: {normal: {mean: 1, "
                    "std: 0.02}}, bias: {constant: 0.5}}},"
                    " {name: x, Linear: 200, dtype: complex, init: {weight: xavier_normal}}, abs]");
  Eval *e = run_init(m, 7);
  expect(e, m, "u.weight", 0, 0.1 / sqrt(3.0), 0.1);
  expect(e, m, "n.weight", 1, 0.02 / sqrt(2.0), 0);
  expect(e, m, "x.weight", 0, sqrt(1.0 / 300), 0);
  const double *b = eval_tensor(e, module_tensor(m, "n.bias"));
  for (int i = 0; i < 100; i++)
    ck_assert(b[2 * i] == 0.5 && b[2 * i + 1] == 0);
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

START_TEST(tables_start_as_pytorchs) {
  Module *m = lower("i[5]", "[{name: e, Embedding: 200, embedding_dim: 50, padding_idx: 3}, {mean: "
                            "1}, {Linear: 3}]");
  Eval *e = run_init(m, 7);
  expect(e, m, "e.weight", 0, 1, 0);
  const double *w = eval_tensor(e, module_tensor(m, "e.weight"));
  for (int i = 0; i < 50; i++)
    ck_assert(w[3 * 50 + i] == 0 && w[2 * 50 + i] != 0);
  ck_assert_int_eq(tensor_int(module_tensor(m, "io.image"), "classes", 0), 200);
  eval_destroy(e);
  module_destroy(m);
}
END_TEST

START_TEST(fans_count_the_window) {
  const int64_t dim[4] = {6, 5, 3, 2};
  double in, out;
  init_fans(4, dim, &in, &out);
  ck_assert_double_eq(in, 30);
  ck_assert_double_eq(out, 36);
  init_fans(2, dim, &in, &out);
  ck_assert_double_eq(in, 5);
  ck_assert_double_eq(out, 6);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("layers");
  TCase *c = tcase_create("all");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 120);
  tcase_add_loop_test(c, models_have_these_parameters, 0, sizeof models / sizeof *models);
  tcase_add_test(c, defaults_are_pytorchs);
  tcase_add_test(c, given_initialisers);
  tcase_add_test(c, orthogonal_matrices);
  tcase_add_test(c, complex_parameters_start_as_pytorchs);
  tcase_add_test(c, tables_start_as_pytorchs);
  tcase_add_test(c, fans_count_the_window);
  suite_add_tcase(suite, c);
  return check_run(suite);
}
