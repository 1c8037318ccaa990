"""What the frontends refuse by element type, although its owner allows it: the table of docs/ops.md.

tests/frontend/test_torch_differential.py and test_numpy_differential.py call every function of the frontends on every
element type, and compare what was refused with this table. torch's ops go by their overloads, `.default` left out.
"""

from __future__ import annotations

REFUSED: dict[str, dict[str, str]] = {
    "torch": {
        "float32": (
            "_embedding_bag _embedding_bag_forward_only _grouped_mm _native_batch_norm_legit_no_training "
            "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d native_layer_norm"
        ),
        "float64": (
            "_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only _log_softmax "
            "_native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax "
            "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec "
            "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
            "adaptive_max_pool3d addmm avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bmm conv1d "
            "conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_transpose1d conv_transpose2d.input "
            "conv_transpose3d.input convolution dot einsum group_norm histc instance_norm layer_norm linear "
            "log_softmax.int matmul max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices "
            "max_pool3d max_pool3d_with_indices mm mv native_layer_norm prelu rms_norm "
            "scaled_dot_product_attention softmax.int upsample_bilinear2d.vec upsample_linear1d.vec "
            "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_trilinear3d.vec"
        ),
        "float16": (
            "_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only _grouped_mm "
            "_log_softmax _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax "
            "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec "
            "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
            "adaptive_max_pool3d addmm avg_pool1d avg_pool2d baddbmm batch_norm bilinear bmm conv1d "
            "conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_transpose1d conv_transpose2d.input "
            "conv_transpose3d.input convolution dot einsum group_norm histc instance_norm layer_norm linear "
            "log_softmax.int matmul max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices "
            "max_pool3d max_pool3d_with_indices mm mv native_layer_norm prelu rms_norm "
            "scaled_dot_product_attention softmax.int upsample_bilinear2d.vec upsample_linear1d.vec "
            "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_trilinear3d.vec"
        ),
        "int8": (
            "addmm baddbmm bilinear bmm conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding "
            "convolution dot einsum hardtanh linear matmul max_pool1d_with_indices max_pool2d "
            "max_pool2d_with_indices max_pool3d max_pool3d_with_indices mm mv threshold"
        ),
        "int16": (
            "addmm baddbmm bilinear bmm conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding "
            "convolution dot einsum hardtanh linear matmul max_pool1d_with_indices max_pool2d "
            "max_pool2d_with_indices max_pool3d max_pool3d_with_indices mm mv threshold"
        ),
        "int32": (
            "addmm baddbmm bilinear bmm conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding "
            "convolution dot einsum hardtanh linear matmul max_pool1d_with_indices max_pool2d "
            "max_pool2d_with_indices max_pool3d max_pool3d_with_indices mm mv threshold"
        ),
        "int64": (
            "addmm avg_pool1d avg_pool2d avg_pool3d baddbmm bilinear bmm conv1d conv1d.padding conv2d "
            "conv2d.padding conv3d conv3d.padding conv_transpose1d conv_transpose2d.input conv_transpose3d.input "
            "convolution dot einsum hardtanh linear matmul max_pool1d_with_indices max_pool2d "
            "max_pool2d_with_indices max_pool3d max_pool3d_with_indices mm mv threshold"
        ),
        "uint8": (
            "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec addmm "
            "baddbmm bilinear bmm conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding convolution "
            "dot einsum linear matmul max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d "
            "max_pool3d_with_indices mm mv pow.Scalar threshold upsample_bilinear2d.vec upsample_nearest1d.vec "
            "upsample_nearest2d.vec upsample_nearest3d.vec"
        ),
        "bool": (
            "__lshift__.Scalar __lshift__.Tensor __rshift__.Scalar __rshift__.Tensor constant_pad_nd logsumexp "
            "masked_fill.Scalar sign square"
        ),
    },
    "numpy": {
        "float64": "dot einsum inner matmul tensordot",
        "float16": "dot einsum inner matmul tensordot",
        "int8": "dot einsum inner matmul reciprocal tensordot",
        "int16": "dot einsum inner matmul reciprocal tensordot",
        "int32": "dot einsum inner matmul reciprocal tensordot",
        "int64": "dot einsum inner matmul reciprocal tensordot",
        "uint8": "cumsum dot einsum inner matmul prod reciprocal sum tensordot",
        "bool": (
            "absolute diff dot einsum floor_divide fmod inner left_shift matmul power reciprocal remainder "
            "right_shift square tensordot"
        ),
    },
}
"""Frontend -> element type -> names, with a space between."""
