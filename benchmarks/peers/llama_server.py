"""llama.cpp's own HTTP server, from xllamacpp, at its defaults but for the slots: python llama_server.py MODEL PORT"""

import signal
import sys

import xllamacpp

SLOTS = 8
"""Answers at once; the server has one slot by default."""

if __name__ == "__main__":
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[2])
    params.n_parallel = SLOTS
    params.verbosity = -1
    listening = xllamacpp.Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
