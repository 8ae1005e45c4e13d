"""A minimal chat server with OpenAI's API, whose answer is always the same."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler


class MinimalChatServer(BaseHTTPRequestHandler):
    """A minimal OpenAI server; rejects requests of more than 20,000 bytes as too long for the context."""

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "tiny"}]}), "application/json")

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.rfile.read(length)
        if length > 20_000:
            error = {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 1000}
            self._send(400, json.dumps({"error": error}), "application/json")
            return
        events = [{"choices": [{"delta": {"content": word}}]} for word in ("The", " sea", " is", " wide.")]
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 4}})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self._send(200, body, "text/event-stream")

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def _send(self, status: int, body: str, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())
