#!/usr/bin/env python3
"""Fails where Piper is not there, cannot make phonemes of a text, or ONNX Runtime does not compute on the GPU."""

import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from piper.phonemize_espeak import EspeakPhonemizer

PROVIDER = "CUDAExecutionProvider"


def squares() -> bytes:
    """A network that multiplies a matrix by itself."""
    shape = [64, 64]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    # An older form of file than the newest `onnx` writes, which the runtime may not read yet.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def main() -> None:
    phonemes = EspeakPhonemizer().phonemize("en-us", "The capital of France is Paris.")
    print("phonemes:", "".join(phonemes[0]))
    if "pˈæɹɪs" not in "".join(phonemes[0]):
        sys.exit(f"espeak-ng made {phonemes} of a plain sentence")
    session = onnxruntime.InferenceSession(squares(), providers=[PROVIDER])
    # Where a provider cannot be loaded, the session is made without it and only says so in its log.
    if PROVIDER not in session.get_providers():
        sys.exit(f"ONNX Runtime {onnxruntime.__version__} computes with {session.get_providers()}, not on the GPU")
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    # The GPU may round to ten bits (TF32).
    if not np.allclose(session.run(["y"], {"x": x})[0], x @ x, atol=0.1):
        sys.exit("ONNX Runtime computes wrongly on this GPU")
    print(f"ONNX Runtime {onnxruntime.__version__} computes on the GPU")


if __name__ == "__main__":
    main()
