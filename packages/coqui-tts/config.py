"""Coqui's version. Run by jetson-containers, which puts `package` into this module."""

package["build_args"] = {"COQUI_VERSION": "0.28.0"}
