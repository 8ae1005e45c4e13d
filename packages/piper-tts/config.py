"""Piper's version, and the ONNX Runtime for this board's JetPack.

Run by jetson-containers (jetson_containers/packages.py, config_package), which puts `package` into this module.
"""

from jetson_containers import L4T_VERSION, package_depends

# 1.24 and later need Python 3.11, JetPack 6 has 3.10; the CUDA 13 of JetPack 7 needs at least 1.24.
package_depends(package, "onnxruntime:1.23.2" if L4T_VERSION.major < 39 else "onnxruntime:1.25.1")
package["build_args"] = {"PIPER_VERSION": "1.8.0"}
