"""A self-hosted voice appliance: speech or text in, speech or text out."""

import os

# NumPy's matrix products are small here, and its threads spin while they wait for each other: on a busy machine a
# spectrogram took four times the computing time with two threads. See docs/measurements/runtime.md. NumPy reads this
# when it is first imported; the user's own value has precedence.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
