"""Makes `commands_judged.tsv`: what three other recognizers make of the commands of the clear voices.

    python tests/corpus/judge_commands.py MODELS

MODELS: the folder of installed models, with whisper-base-ct2 and whisper-base. Both decode with half a second of
silence before the clip and none of chatapi's rules: CTranslate2 with five beams, whisper.cpp greedily. pocketsphinx 5
chooses among the commands and some 80 other words. Lines already there are kept.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import _pywhispercpp as whisper
import ctranslate2
import numpy as np
from make import HERE
from pocketsphinx import Decoder

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.bench import corpus
from chatapi.engines.asr.ctranslate2 import _tokens

SILENCE = RATE // 2
FRAMES = 512
"""Frames of the encoders."""
OTHERS = """
one three four five six eight zero ten go up down left right start begin open close hot cold what who when
where house water music light door window table story top shop step night fight yesterday monday hurry happy
hell low yellow slow fellow text nest best taxi paws boss cause know now row held health self heaven eleven
continent loud lower flower pray clay plate way ready repair delay relay whether feather fine mine line good
bye
"""

Recognizer = Callable[[Samples], str]


def by_ctranslate2(folder: Path) -> Recognizer:
    ids, token_bytes = _tokens(folder / "vocabulary.txt")
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8_float32", intra_threads=1)
    filters = mel_filters(80)
    prompt = [ids[f"<|{each}|>"] for each in ("startoftranscript", "en", "transcribe", "notimestamps")]

    def recognize(samples: Samples) -> str:
        window = np.zeros(FRAMES * 320, np.float32)
        window[SILENCE : SILENCE + len(samples)] = samples
        features = np.ascontiguousarray(log_mel(window, filters)[None])
        encoded = model.encode(ctranslate2.StorageView.from_array(features))
        [found] = model.generate(encoded, [prompt], beam_size=5, max_length=40)
        text = b"".join(token_bytes[each] for each in found.sequences_ids[0] if each < len(token_bytes))
        return text.decode("utf-8", "replace").strip()

    return recognize


def by_whisper_cpp(model: Path) -> Recognizer:
    context = whisper.whisper_init_from_file_with_params(str(model), whisper.whisper_context_default_params())

    def recognize(samples: Samples) -> str:
        window = np.zeros(len(samples) + 3 * SILENCE, np.float32)
        window[SILENCE : SILENCE + len(samples)] = samples
        parameters = whisper.whisper_full_default_params(whisper.WHISPER_SAMPLING_GREEDY)
        parameters.n_threads, parameters.language, parameters.audio_ctx = 1, "en", FRAMES
        parameters.max_tokens, parameters.no_context, parameters.single_segment = 40, True, True
        parameters.print_progress = parameters.print_realtime = parameters.print_timestamps = False
        parameters.temperature_inc, parameters.logprob_thold, parameters.no_speech_thold = 0.0, -99.0, 2.0
        whisper.whisper_full(context, parameters, window, len(window))
        count = whisper.whisper_full_n_segments(context)
        parts = [whisper.whisper_full_get_segment_text(context, number) for number in range(count)]
        return " ".join(part.decode("utf-8", "replace").strip() for part in parts)

    return recognize


def by_pocketsphinx(texts: set[str]) -> Recognizer:
    grammar = HERE / "commands.gram"
    words = " | ".join(sorted({text.strip(".").lower() for text in texts} | set(OTHERS.split())))
    grammar.write_text(f"#JSGF V1.0;\ngrammar commands;\npublic <command> = {words} ;\n", encoding="utf-8")
    decoder = Decoder(samprate=RATE, jsgf=str(grammar), logfn="/dev/null")
    grammar.unlink()

    def recognize(samples: Samples) -> str:
        faint = np.random.default_rng(0).normal(0, 3e-4, len(samples) + 2 * SILENCE).astype(np.float32)
        faint[SILENCE : SILENCE + len(samples)] += samples
        decoder.start_utt()
        decoder.process_raw(Audio(faint, RATE).pcm16(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return str(found.hypstr) if found else ""

    return recognize


def main() -> None:
    models, table = Path(sys.argv[1]), HERE / corpus.JUDGED
    with (HERE / corpus.COMMANDS).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["set"] == "clear"]
    judged = {}
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            judged = {row["file"]: list(row.values()) for row in csv.DictReader(file, delimiter="\t")}
    recognizers = [
        by_ctranslate2(models / "whisper-base-ct2"),
        by_whisper_cpp(models / "whisper-base" / "ggml-base.bin"),
        by_pocketsphinx({row["text"] for row in rows}),
    ]
    with table.open("w", encoding="utf-8", newline="") as file:
        output = csv.writer(file, delimiter="\t", lineterminator="\n")
        output.writerow(corpus.JUDGED_COLUMNS)
        for row in rows:
            samples = decode(HERE / row["file"]).samples
            output.writerow(judged.get(row["file"]) or [row["file"], *(each(samples) for each in recognizers)])


if __name__ == "__main__":
    main()
