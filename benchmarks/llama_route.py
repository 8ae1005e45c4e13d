"""Runs llama.cpp's own HTTP server from xllamacpp: python llama_route.py MODEL PORT"""

import signal
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[2])
params.n_ctx, params.n_parallel = 3072, 2
params.verbosity = -1
listening = xllamacpp.Server(params)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
