"""As much of tvm-ffi as is asked for its version and for a kernel."""

__version__ = "0.1.15"


def get_global_func(name: str, allow_missing: bool = False) -> object:
    assert name == "cutlass.ft_preprocess_weight"
    assert allow_missing
    return None
