"""Another program's Whisper on a file, as a command of the peers' own Python.

    python file_programs.py batched|sequential|whisper.cpp MODEL FILE BEAM

The first two are faster-whisper, whose MODEL is a folder; that of whisper.cpp is a file. Prints the words with their
times as JSON.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Word = dict[str, object]
BATCH = 8
"""Parts at once, the default of faster-whisper's batched pipeline."""
CORES = len(os.sched_getaffinity(0))


def faster_whisper(model: str, file: str, beam: int, batch: int) -> Iterator[Word]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    loaded = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=CORES)
    asked = {"language": "en", "beam_size": beam, "word_timestamps": True}
    if batch:
        found, _ = BatchedInferencePipeline(loaded).transcribe(file, batch_size=batch, **asked)
    else:
        found, _ = loaded.transcribe(file, vad_filter=True, **asked)
    for segment in found:
        for word in segment.words or ():
            yield {"word": word.word, "start": word.start, "end": word.end}


def whisper_cpp(model: str, file: str, beam: int) -> Iterator[Word]:
    """One word a segment, with the times of its tokens; whisper.cpp has no others without a second model."""
    from pywhispercpp.model import Model

    strategy = {"params_sampling_strategy": 1} if beam > 1 else {}
    loaded = Model(model, redirect_whispercpp_logs_to=None, n_threads=CORES, **strategy)
    options = {"beam_search": {"beam_size": beam, "patience": -1.0}} if beam > 1 else {}
    asked = {"language": "en", "print_progress": False, "token_timestamps": True, "max_len": 1, "split_on_word": True}
    for segment in loaded.transcribe(file, **asked, **options):
        yield {"word": segment.text, "start": segment.t0 / 100, "end": segment.t1 / 100}


PROGRAMS: dict[str, Callable[[str, str, int], Iterator[Word]]] = {
    "batched": lambda model, file, beam: faster_whisper(model, file, beam, BATCH),
    "sequential": lambda model, file, beam: faster_whisper(model, file, beam, 0),
    "whisper.cpp": whisper_cpp,
}

if __name__ == "__main__":
    program, model, file, beam = sys.argv[1:]
    json.dump(list(PROGRAMS[program](model, str(Path(file)), int(beam))), sys.stdout)
