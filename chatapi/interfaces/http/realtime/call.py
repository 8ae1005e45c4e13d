"""One call over WebRTC: a peer connection with a live session, whose events are in a data channel."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import anyio
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError
from aiortc.mediastreams import MediaStreamTrack
from anyio.abc import TaskStatus

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder
from chatapi.errors import BadInput, ChatapiError, InternalError, SettingsError, TooSlow, collapse_exception_group
from chatapi.interfaces.http.realtime.call_audio import CallInput, CallOutput
from chatapi.interfaces.http.realtime.connection import RealtimeConnection
from chatapi.interfaces.http.realtime.event_channel import RealtimeClosed, send_last_error
from chatapi.interfaces.http.realtime.session_config import SessionConfig
from chatapi.interfaces.http.realtime.session_options import options
from chatapi.runtime.drain import ERROR_SECONDS
from chatapi.services.live import SessionOrigin

log = logging.getLogger(__name__)

CONNECT_SECONDS = 20
"""Time in which the client must connect, in seconds."""
MOST_SECONDS = 3600
"""Longest call, in seconds: OpenAI's longest session."""
KEY_CHECK_SECONDS = 1.0
"""Interval between checks that the client's key is still valid, in seconds."""
CLOSE_SECONDS = 5
"""Longest time that closing a call may take, in seconds."""
MOST_UNSENT_BYTES = 4 << 20
"""Bytes that may wait in the data channel; then the next event waits."""
MOST_EARLY_EVENTS = 500
"""Most events that wait for the client's data channel; a client without one gets the audio alone."""
MOST_RECEIVED = 1000
"""Most events of a client that wait to be handled; one more ends the call."""
MOST_RECEIVED_CHARS = 16 << 20
"""Most characters of these events, as many as one WebSocket message may have; one more ends the call."""


@dataclass(frozen=True)
class CallRequest:
    """What a client wants to call."""

    offer: str
    config: SessionConfig
    holder: KeyHolder
    conversation: str | None
    """Id of the stored conversation that the call continues; None: a new one."""
    traceparent: str


class DataChannelEvents:
    """Carries events over the data channel that the client opens."""

    def __init__(self, send_seconds: float) -> None:
        """`send_seconds`: the longest time that a client may take to receive an event."""
        self._send_seconds = send_seconds
        self._channel: RTCDataChannel | None = None
        self._has_room = anyio.Event()
        self._early: deque[str] = deque(maxlen=MOST_EARLY_EVENTS)
        self._closed = False
        self._waiting_chars = 0
        """Characters of the events that wait to be handled."""
        self._incoming, self._received = anyio.create_memory_object_stream[str | bytes](MOST_RECEIVED)

    async def __aenter__(self) -> DataChannelEvents:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._incoming.close()
        self._received.close()

    def opened(self, channel: RTCDataChannel) -> None:
        """Takes the first channel of the client, whose events begin with those that waited for it."""
        if self._channel is not None:
            return
        self._channel = channel
        channel.on("message", self._message)
        channel.on("close", self.close)
        channel.bufferedAmountLowThreshold = MOST_UNSENT_BYTES // 2
        channel.on("bufferedamountlow", self._drained)
        while self._early:
            channel.send(self._early.popleft())

    @property
    def closed(self) -> bool:
        """Whether no further event comes."""
        return self._closed

    def close(self) -> None:
        """Ends the connection of this channel, after the events that came before."""
        self._closed = True
        self._incoming.close()

    async def receive(self) -> str | None:
        try:
            message = await self._received.receive()
        except anyio.EndOfStream:
            raise RealtimeClosed from None
        self._waiting_chars -= len(message)
        return message if isinstance(message, str) else None

    async def send(self, text: str) -> None:
        channel = self._channel
        if channel is None:
            self._early.append(text)
            return
        try:
            with anyio.fail_after(self._send_seconds):
                while channel.bufferedAmount > MOST_UNSENT_BYTES:
                    self._has_room = anyio.Event()
                    await self._has_room.wait()
            channel.send(text)
        except (TimeoutError, InvalidStateError):
            raise RealtimeClosed from None

    async def finish(self) -> None:
        """Waits until the client has what was sent, and closes its channel."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        channel.bufferedAmountLowThreshold = 0
        while channel.bufferedAmount:
            self._has_room = anyio.Event()
            await self._has_room.wait()
        closed = anyio.Event()
        channel.on("close", closed.set)
        channel.close()
        await closed.wait()

    def _drained(self) -> None:
        self._has_room.set()

    def _message(self, message: str | bytes) -> None:
        try:
            if self._waiting_chars + len(message) > MOST_RECEIVED_CHARS:
                self.close()
            self._incoming.send_nowait(message)
            self._waiting_chars += len(message)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self.close()


class Call:
    """One call, from the client's offer until one side hangs up."""

    def __init__(self, appliance: Appliance, request: CallRequest) -> None:
        self._appliance = appliance
        self._request = request
        self._events = DataChannelEvents(appliance.settings.server.send_seconds)
        self._input: CallInput | None = None
        self._connected = anyio.Event()
        self._ended = anyio.Event()
        self._answered = False
        """Whether the offer was answered."""
        self._notices, self._to_notify = anyio.create_memory_object_stream[tuple[str, str]](100)
        self._output = CallOutput(self._notify)

    def hang_up(self) -> None:
        """Ends the call."""
        self._ended.set()

    async def run(self, *, task_status: TaskStatus[str]) -> None:
        """Holds the call; `task_status` gets the answer to the offer, a session description.

        Raises Busy (too_many_sessions), NotFound (unknown_conversation), BadInput (invalid_sdp) and NotReady
        (shutting_down) before the answer; the client gets later errors as an event.
        """
        drain = self._appliance.drain
        with drain.counted():
            async with self._events, self._notices, self._to_notify:
                # Only host candidates: the box and its clients are on one network, and there is no STUN server.
                peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
                try:
                    with drain.lasting():
                        await self._serve(peer, task_status)
                except Exception as raised:
                    if not self._answered:
                        raise
                    await self._report(collapse_exception_group(raised))
                finally:
                    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                        self._output.stop()
                        await _close(peer)

    async def _serve(self, peer: RTCPeerConnection, task_status: TaskStatus[str]) -> None:
        config, request = self._request.config, self._request
        origin = SessionOrigin("realtime", request.traceparent)
        opened = self._appliance.live.session(options(config, self._appliance), request.conversation, origin)
        async with opened as (session, events):
            answer, self._answered = await self._answer(peer), True
            task_status.started(answer)
            if await self._is_connected():
                await self._hold(
                    RealtimeConnection(self._events, self._appliance, session, events, config, self._output)
                )

    async def _report(self, error: BaseException) -> None:
        """Tells the client why the call ends, unless the client ended it."""
        if isinstance(error, RealtimeClosed):
            return
        if not isinstance(error, ChatapiError):
            log.exception("unexpected error", exc_info=error)
            error = InternalError("internal error; the log has the details")
        self._appliance.metrics.errors.labels(error.code).inc()
        with anyio.move_on_after(ERROR_SECONDS), suppress(RealtimeClosed):
            await send_last_error(self._events, error)
            await self._events.finish()

    async def _answer(self, peer: RTCPeerConnection) -> str:
        peer.on("track", self._track)
        peer.on("datachannel", self._events.opened)
        peer.on("connectionstatechange", lambda: self._state(peer.connectionState))
        try:
            await peer.setRemoteDescription(RTCSessionDescription(self._request.offer, "offer"))
            peer.addTrack(self._output)
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as error:
            # aiortc has no error of its own for an offer that it cannot read or that contradicts itself: it raises
            # whatever its parser meets, such as AssertionError, KeyError and ValueError.
            log.info("offer rejected: %s: %s", type(error).__name__, error)
            message = "the offer cannot be used: it is damaged, or contradicts itself"
            raise BadInput(message, code="invalid_sdp") from None
        return str(peer.localDescription.sdp)

    async def _is_connected(self) -> bool:
        """Waits for the client to connect, and returns whether it has."""
        with anyio.move_on_after(CONNECT_SECONDS):
            await self._connected.wait()
        if self._connected.is_set() and not self._ended.is_set():
            return True
        log.info("call not connected")
        return False

    async def _hold(self, connection: RealtimeConnection) -> None:
        with anyio.move_on_after(MOST_SECONDS) as whole:
            async with anyio.create_task_group() as group:
                group.start_soon(self._converse, connection)
                group.start_soon(self._receive_audio, connection)
                group.start_soon(self._send_notices, connection)
                group.start_soon(self._check_key)
                await self._ended.wait()
                group.cancel_scope.cancel()
        if whole.cancelled_caught:
            message = f"the call has lasted {MOST_SECONDS / 60:g} minutes, which is the longest; call again"
            raise TooSlow(message, code="session_expired")

    async def _converse(self, connection: RealtimeConnection) -> None:
        await connection.run(None)
        self.hang_up()

    async def _receive_audio(self, connection: RealtimeConnection) -> None:
        """Processes the client's microphone. A call without one continues: its client can still send text."""
        while self._input is not None and (samples := await self._input.next()) is not None:
            await connection.feed(samples)

    async def _send_notices(self, connection: RealtimeConnection) -> None:
        async for kind, response_id in self._to_notify:
            await connection.send_event(kind, response_id=response_id)

    async def _check_key(self) -> None:
        while True:
            await anyio.sleep(KEY_CHECK_SECONDS)
            try:
                valid = self._appliance.keyring.is_valid(self._request.holder)
            except SettingsError:
                valid = False
            if not valid:
                self.hang_up()

    def _notify(self, kind: str, response_id: str) -> None:
        try:
            self._notices.send_nowait((kind, response_id))
        except anyio.WouldBlock:
            log.warning("events of the playback are lost, because the client receives none")

    def _track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._input is None:
            self._input = CallInput(track)

    def _state(self, state: str) -> None:
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._connected.set()
            self.hang_up()


async def _close(peer: RTCPeerConnection) -> None:
    """Closes a peer connection, also one whose negotiation has failed half-way."""
    try:
        await peer.close()
    except Exception as error:
        # aiortc stops at the first part that the negotiation did not reach; its sockets would stay open.
        log.info("call not closed cleanly: %s: %s", type(error).__name__, error)
        senders = [transceiver.sender for transceiver in peer.getTransceivers()]
        for dtls in {
            each.transport for each in (*senders, peer.sctp) if each is not None and each.transport is not None
        }:
            await dtls.transport.stop()
