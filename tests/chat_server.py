"""A local OpenAI-compatible endpoint for the tests; it writes concepts, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAMPLES = {
    "art": "charcoal crayon gouache etching mosaic fresco batik origami linocut pastel stencil"
    " collage graffiti tapestry pointillism cubism fauvism baroque rococo woodblock lithograph"
    " ceramic embroidery papercut neon pixel wireframe blueprint daguerreotype hologram",
    "characteristic": "zombie pirate knight astronaut werewolf mermaid robot clown vampire elf"
    " samurai viking cowboy ghost pharaoh wizard goblin dragon freckles turban monocle moustache"
    " tattoo bald scar crown helmet veil antlers armour",
    "facial": "smile frown wink yawn scream grin pout sneer blush squint",
}
SIGNS = {"an art style": "art", "a visible change": "characteristic", "the facial": "facial"}
"""Words of a request that tell its category."""
WAYS = ("drawn as {}", "{} all over", "plain {}", "a true {}", "{} and no more", "pure {}")
Reply = tuple[int, dict[str, str], str]
"""Status, headers, body."""


@dataclass
class ChatServer:
    """url: the /v1. answered: requests by hash of their messages that got a 200, with how often.

    misbehave: called with the number of the request (from 0) and its text; a Reply goes out
    instead of an answer. write: makes the answer's text.
    """

    url: str = ""
    key: str = ""
    misbehave: Callable[[int, str], Reply | None] = lambda number, text: None
    write: Callable[[str], str] = lambda text: answer_to(text)
    answered: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def chat_reply(text: str, **changes: Any) -> str:
    choice = {"index": 0, "finish_reason": "stop"} | changes
    choice["message"] = {"role": "assistant", "content": text, **changes.get("message", {})}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "fake",
            "choices": [choice],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    )


def answer_to(text: str) -> str:
    """What a well-behaved model answers; it depends on the request alone."""
    paraphrased = re.findall(r"^- (.+)$", text, re.MULTILINE)
    if paraphrased:
        count = int(re.findall(r"in (\d+) other ways", text)[0])
        items = [{"concept": c, "texts": [w.format(c) for w in WAYS[:count]]} for c in paraphrased]
        return json.dumps({"paraphrases": items})
    category = next(c for sign, c in SIGNS.items() if sign in text)
    count = int(re.findall(r"Write (\d+) different", text)[0])

    def rank(word: str) -> bytes:
        return hashlib.sha256(f"{word}{text}".encode()).digest()

    return json.dumps({"concepts": sorted(SAMPLES[category].split(), key=rank)[:count]})


@contextmanager
def chat_server(**options: Any) -> Iterator[ChatServer]:
    state = ChatServer(**options)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = "\n".join(m["content"] for m in body["messages"])
            with lock:
                number = len(state.bodies)
                state.bodies.append(body)
                state.times.append(time.monotonic())
            given = self.headers.get("authorization", "")
            if state.key and given != f"Bearer {state.key}":
                reply: Reply = (401, {}, json.dumps({"error": {"message": "bad key"}}))
            elif self.path != "/v1/chat/completions":
                reply = (404, {}, json.dumps({"error": {"message": "no such path"}}))
            else:
                bad = state.misbehave(number, text)
                reply = bad or (200, {}, chat_reply(state.write(text)))
            status, headers, sent = reply
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent.encode())))
                self.end_headers()
                self.wfile.write(sent.encode())
            except OSError:  # the client has gone
                return
            if status == 200:
                with lock:
                    state.answered[hashlib.sha256(text.encode()).hexdigest()] += 1

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
