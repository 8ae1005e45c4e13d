"""`chatapi` whose recordings are cut to short parts, so that few seconds of audio have many. Arguments: its own."""

from __future__ import annotations

import sys

from chatapi import cli
from chatapi.services.transcription import parts

PART_SECONDS = 8.0

if __name__ == "__main__":
    parts.PART_SECONDS, parts.SEARCH_SECONDS = PART_SECONDS, 6.0
    sys.exit(cli.main(sys.argv[1:]))
