"""The constants of OrcaHello's InferenceSystem, both generations; code elsewhere has none of its own.

Facts of github.com/orcasound/aifororcas-livesystem ce562aa (the old generation) and github.com/orcasound/orcahello
(V1, in production since 2026): src/model/audio_frontend.py and types.py cc9be0e, src/LiveInferenceOrchestrator.py
010b4c7, src/orcasound_hls 70930b8 and 8220d33. The weights have a licence of their own (OrcaHello RAIL) and are not
part of chatapi.
"""

from __future__ import annotations

from dataclasses import dataclass

# The front end, which both generations share.
RATE = 20_000
"""Sample rate of what is analysed, in Hz."""
FFT, HOP = 2560, 256
"""Samples of a Fourier window, and between two of them."""
MELS = 256
MEL_RATE = 16_000
"""Sample rate for which the mel filters are computed, in Hz. The audio has 20,000 Hz; the networks were trained with
this mistake, so it is part of the front end."""
MEL_BOTTOM_HZ, MEL_TOP_HZ = 0.0, 10_000.0
POWER_FLOOR = 1e-10
TOP_DB = 100.0
"""Range below the loudest value of a window, in dB."""
INPUT_SECONDS = 4.0
FRAMES = int(INPUT_SECONDS * RATE / HOP)
"""Frames of a network's input: 312; a shorter window is padded with PADDING."""
PADDING = 0.0
"""Also a value in dB: a padded frame is loud, not silent. The networks were trained with it."""


@dataclass(frozen=True)
class FrontEnd:
    """How a clip is cut into windows before the spectrogram."""

    window: float
    """Seconds of a window."""
    hop: float
    """Seconds from one window to the next."""
    normalized: bool
    """Whether the clip's peak becomes 1 first."""
    whole: bool
    """Whether the clip is resampled as a whole and rounded to 16 bits before it is cut; otherwise each window is
    resampled by itself."""


OLD, V1 = "orcahello", "orcahello-v1"
"""Names of the two generations, also in the metadata of networks."""
FRONT_ENDS = {OLD: FrontEnd(2.0, 1.0, normalized=False, whole=False), V1: FrontEnd(3.0, 2.0, True, whole=True)}

# The decisions about a clip.
OLD_LOCAL_THRESHOLD, OLD_GLOBAL_COUNT = 0.5, 3
"""A value above the first is positive; a clip with so many of them is."""
AUDIO_SET_THRESHOLD, AUDIO_SET_HOP = 0.7, 2.45
V1_LOCAL_THRESHOLD, V1_GLOBAL_THRESHOLD, V1_TOP = 0.5, 0.6, 2
MEAN_TOP_K, MEAN_THRESHOLDED = "mean_top_k", "mean_thresholded"
"""V1's strategies of `global_prediction.aggregation_strategy`."""
V1_BATCH = 8

# The streams.
STREAM_BASE = "https://s3-us-west-2.amazonaws.com/audio-orcasound-net"
"""The bucket of the newest orchestrators; earlier ones read streaming-orcasound-net."""
AUDIO_OFFSET = 2.0
"""Seconds from a folder's epoch to its first sample."""
CLIP_SECONDS = 60.0
LIVE_DELAY = 10.0
"""Seconds that a live clip ends in the past, at least."""
TIME_ZONE = "US/Pacific"
"""Of times in configurations and file names."""
TIME_FORMAT, NAME_FORMAT = "%Y-%m-%d %H:%M", "%Y_%m_%d_%H_%M_%S_%Z"
CONFIG_FILE = "/config/config.yml"

# The records.
AUDIO_CONTAINER, IMAGE_CONTAINER = "audiowavs", "spectrogramspng"
RECORD_CONTAINER = "metadata"
PICTURE_WIDTH, PICTURE_HEIGHT = 1280, 480


@dataclass(frozen=True)
class Location:
    """Where a hydrophone is."""

    id: str
    name: str
    longitude: float | None = None
    latitude: float | None = None


LOCATIONS = {
    each.id: each
    for each in (
        Location("rpi_andrews_bay", "Andrews Bay", -123.1666492, 48.5500299),
        Location("rpi_bush_point", "Bush Point", -122.6040035, 48.0336664),
        Location("rpi_mast_center", "Mast Center", -122.32512, 47.34922),
        Location("rpi_north_sjc", "North San Juan Channel", -123.058779, 48.591294),
        Location("rpi_orcasound_lab", "Orcasound Lab", -123.1735774, 48.5583362),
        Location("rpi_point_robinson", "Point Robinson", -122.37267, 47.388383),
        Location("rpi_port_townsend", "Port Townsend", -122.760614, 48.135743),
        Location("rpi_sunset_bay", "Sunset Bay", -122.33393605795372, 47.86497296593844),
    )
}
"""The hydrophones that the orchestrators know."""
