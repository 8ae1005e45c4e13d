"""Pipecat's services for OpenAI: STT, LLM, TTS and Realtime, in pipelines."""

from __future__ import annotations

import asyncio
from typing import Any

from features import CALL, FAKE, FOX, QUESTION, REAL, expect, expect_fox, expect_speech, feature, main, pcm_of
from loguru import logger
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMRunFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.services.openai.responses.llm import OpenAIResponsesLLMService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

logger.remove()
called: list[str] = []
RATE = 24_000


class Sink(FrameProcessor):
    """Collects what a pipeline gives, until there is enough of it."""

    def __init__(self, enough: Any) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.done = asyncio.Event()
        self._enough = enough

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.frames.append(frame)
        if self._enough(self.frames):
            self.done.set()
        await self.push_frame(frame, direction)

    def text(self, kind: type) -> str:
        return " ".join(frame.text for frame in self.frames if isinstance(frame, kind))

    @property
    def audio(self) -> bytes:
        return b"".join(frame.audio for frame in self.frames if isinstance(frame, TTSAudioRawFrame))


async def through(processors: list[Any], sent: list[Frame], enough: Any, pace: float = 0) -> Sink:
    """Runs a pipeline, sends frames, audio at the pace of a microphone, and waits for enough of the result."""
    sink, errors = Sink(enough), []
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    worker = PipelineWorker(Pipeline([*processors, sink]), params=params, enable_rtvi=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @worker.event_handler("on_pipeline_error")
    async def _failed(_worker: Any, frame: ErrorFrame) -> None:
        errors.append(frame.error)
        sink.done.set()

    async def send() -> None:
        await asyncio.sleep(1)
        for frame in sent:
            await worker.queue_frame(frame)
            await asyncio.sleep(pace if isinstance(frame, InputAudioRawFrame) else 0.01)

    sending, running = asyncio.create_task(send()), asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(sink.done.wait(), 60)
    finally:
        sending.cancel()
        await worker.queue_frame(EndFrame())
        await asyncio.wait([running], timeout=5)
        await worker.cancel()
    if errors:
        raise RuntimeError(errors[0])
    return sink


def speech(path: Any, silence: float = 2.5) -> list[Frame]:
    """A recording as a microphone gives it, with what a detector on this machine says of it."""
    data, step = pcm_of(path, RATE), RATE // 20 * 2
    parts = [data[first : first + step] for first in range(0, len(data), step)]
    sound: list[Frame] = [InputAudioRawFrame(part, RATE, 1) for part in parts]
    quiet: list[Frame] = [InputAudioRawFrame(bytes(step), RATE, 1) for _ in range(int(silence * 20))]
    return [VADUserStartedSpeakingFrame(), UserStartedSpeakingFrame(), *sound,
            VADUserStoppedSpeakingFrame(), UserStoppedSpeakingFrame(), *quiet]  # fmt: skip


def has(kind: type) -> Any:
    return lambda frames: isinstance(frames[-1], kind)


def address(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v1/realtime"


@feature("STT")
async def _stt() -> None:
    service = OpenAISTTService(api_key="none", base_url=f"{REAL}/v1")
    sink = await through([service], speech(FOX), has(TranscriptionFrame))
    expect_fox(sink.text(TranscriptionFrame))


@feature("STT, keywords")
async def _keywords() -> None:
    settings = OpenAISTTService.Settings(model="gpt-transcribe", keywords=["fox", "dog"], prompt="A sentence.")
    service = OpenAISTTService(api_key="none", base_url=f"{REAL}/v1", settings=settings)
    expect_fox((await through([service], speech(FOX), has(TranscriptionFrame))).text(TranscriptionFrame))


@feature("LLM, chat completions and tools")
async def _llm() -> None:
    await _with_tools(OpenAILLMService(api_key="none", base_url=f"{FAKE}/v1"))


@feature("LLM, responses over WebSocket and tools")
async def _responses() -> None:
    service = OpenAIResponsesLLMService(
        api_key="none", base_url=f"{FAKE}/v1", ws_url=f"{FAKE.replace('http', 'ws', 1)}/v1/responses"
    )
    await _with_tools(service)


async def _with_tools(service: Any) -> None:
    called.clear()

    async def weather(given: Any) -> None:
        called.append(given.arguments["city"])
        await given.result_callback("sunny")

    service.register_function("weather", weather)
    schema = FunctionSchema("weather", "The weather of a city.", {"city": {"type": "string"}}, ["city"])
    context = LLMContext([{"role": "user", "content": CALL}], tools=ToolsSchema([schema]))
    pair = LLMContextAggregatorPair(context)
    sink = await through(
        [pair.user(), service, pair.assistant()], [LLMRunFrame()],
        lambda frames: any("sunny" in str(message) and message["role"] == "assistant"
                           for message in context.get_messages() if isinstance(message, dict)),
    )  # fmt: skip
    expect(called == ["Rome"], (called, sink.text(LLMTextFrame)))


@feature("TTS")
async def _tts() -> None:
    service = OpenAITTSService(api_key="none", base_url=f"{REAL}/v1")
    said = [TTSSpeakFrame("The quick brown fox jumps over the lazy dog.")]
    sink = await through([service], said, lambda frames: type(frames[-1]).__name__ == "TTSStoppedFrame")
    expect_speech(sink.audio, RATE, 1.5, 6)


@feature("TTS, instructions")
async def _instructions() -> None:
    settings = OpenAITTSService.Settings(voice="alloy", instructions="Speak calmly.", speed=1.2)
    service = OpenAITTSService(api_key="none", base_url=f"{REAL}/v1", settings=settings)
    said = [TTSSpeakFrame("Good morning to you.")]
    sink = await through([service], said, lambda frames: type(frames[-1]).__name__ == "TTSStoppedFrame")
    expect_speech(sink.audio, RATE, 0.5, 4)


@feature("voice pipeline")
async def _pipeline() -> None:
    context = LLMContext([{"role": "system", "content": "Be brief."}])
    pair = LLMContextAggregatorPair(context)
    processors = [
        OpenAISTTService(api_key="none", base_url=f"{REAL}/v1"),
        pair.user(),
        OpenAILLMService(api_key="none", base_url=f"{REAL}/v1", settings=OpenAILLMService.Settings(temperature=0)),
        OpenAITTSService(api_key="none", base_url=f"{REAL}/v1"),
    ]
    sink = await through(processors, speech(QUESTION, 12), has(TTSAudioRawFrame), 0.045)
    expect(sink.audio, "no audio")


@feature("Realtime, voice")
async def _realtime() -> None:
    service = OpenAIRealtimeLLMService(
        api_key="none", base_url=address(REAL),
        settings=OpenAIRealtimeLLMService.Settings(session_properties=events.SessionProperties(
            instructions="Be brief.",
            audio=events.AudioConfiguration(input=events.AudioInput(
                transcription=events.InputAudioTranscription(), turn_detection=events.SemanticTurnDetection(),
            )),
        )),
    )  # fmt: skip
    pair = LLMContextAggregatorPair(LLMContext([]))
    processors = [pair.user(), service, pair.assistant()]
    sent: list[Frame] = [LLMRunFrame(), *[f for f in speech(QUESTION, 5) if isinstance(f, InputAudioRawFrame)]]
    sink = await through(processors, sent, _answered, 0.045)
    expect(sink.audio, "no audio")


def _answered(frames: list[Frame]) -> bool:
    """Whether speech came after the user's: the run before it may have given some too."""
    ends = [at for at, frame in enumerate(frames) if isinstance(frame, UserStoppedSpeakingFrame)]
    return bool(ends) and any(isinstance(frame, TTSAudioRawFrame) for frame in frames[ends[0] :])


@feature("Realtime, text")
async def _realtime_text() -> None:
    service = OpenAIRealtimeLLMService(
        api_key="none", base_url=address(FAKE),
        settings=OpenAIRealtimeLLMService.Settings(
            session_properties=events.SessionProperties(output_modalities=["text"])
        ),
    )  # fmt: skip
    context = LLMContext([{"role": "user", "content": "Hello box"}])
    pair = LLMContextAggregatorPair(context)
    sink = await through(
        [pair.user(), service], [LLMRunFrame()], lambda frames: type(frames[-1]).__name__ == "LLMFullResponseEndFrame"
    )
    expect("Hello" in sink.text(LLMTextFrame), [type(frame).__name__ for frame in sink.frames])


@feature("Realtime STT")
async def _realtime_stt() -> None:
    service = OpenAIRealtimeSTTService(api_key="none", base_url=address(REAL))
    sink = await through([service], speech(FOX), has(TranscriptionFrame), 0.045)
    expect_fox(sink.text(TranscriptionFrame))


@feature("Realtime STT, the server's turn detection")
async def _realtime_stt_vad() -> None:
    settings = OpenAIRealtimeSTTService.Settings(model="gpt-transcribe")
    service = OpenAIRealtimeSTTService(
        api_key="none", base_url=address(REAL), settings=settings, turn_detection={"type": "server_vad"}
    )
    sent = [frame for frame in speech(FOX) if isinstance(frame, InputAudioRawFrame)]
    expect_fox((await through([service], sent, has(TranscriptionFrame), 0.045)).text(TranscriptionFrame))


main()
