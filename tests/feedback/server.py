"""A local server that speaks chat completions, and misbehaves as it is told."""

import contextlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Answers a question about a text that has `s=0.37` in it with {"score": 0.37}.

    Args:
        plans: To a word, what happens to the questions that have it in them, one behavior after the other; then all is
            well. See `_Handler` for the behaviors.
        before: Called with the number of the request, from 1, before each answer.
        port: That of an earlier server, whose address it takes; 0: any.
    """

    def __init__(self, plans=None, before=lambda number: None, port=0):
        self.plans = {word: list(behaviors) for word, behaviors in (plans or {}).items()}
        self.before = before
        self.requests: list[dict] = []  # the bodies, in the order of arrival
        self.keys: set[str] = set()
        self.lock, self.over = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"owner": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def behavior(self, question: str) -> str:
        with self.lock:
            for word, behaviors in self.plans.items():
                if f"{word} id=" in question and behaviors:
                    return behaviors.pop(0)
        return "well"

    def asked(self) -> Counter:
        """How often each question was asked, by its `id=...`."""
        questions = [body["messages"][-1]["content"] for body in self.requests]
        return Counter(match[0] for q in questions if (match := re.search(r"id=\w+", q)))


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.owner
        with owner.lock:
            owner.requests.append(body)
            number = len(owner.requests)
        owner.keys.add(self.headers.get("Authorization", ""))
        owner.before(number)
        question = body["messages"][-1]["content"]
        kind, _, value = owner.behavior(question).partition(":")
        getattr(self, f"do_{kind}")(value, question)

    # -- Answers ---------------------------------------------------------------------------------------------------

    def do_well(self, _, question):
        self.say(self.right(question))

    def do_say(self, text, _):
        self.say(text)

    def do_prose(self, _, question):
        self.say(f"Sure! Both mention {{something}}.\n```json\n{self.right(question)}\n```\nHope this helps.")

    def do_twice(self, _, question):
        self.say(f"{self.right(question)}\n{self.right(question)}")

    def do_length(self, _, question):
        self.say(self.right(question)[:-4], finish="length")

    def do_filter(self, _, __):
        self.say("", finish="content_filter")

    def do_declined(self, _, __):
        self.say(None, refusal="I will not rate this.")

    def do_nousage(self, _, question):
        self.say(self.right(question), usage=None)

    def right(self, question) -> str:
        return json.dumps({"score": float(re.search(r"s=([\d.]*\d)", question)[1])})

    # -- Failures --------------------------------------------------------------------------------------------------

    def do_status(self, value, _):
        """`status:429`, or with a Retry-After `status:429:0.3`."""
        status, _, retry_after = value.partition(":")
        headers = {"Retry-After": retry_after} if retry_after else {}
        self.send(json.dumps({"error": {"message": f"status {status}"}}), int(status), headers)

    def do_quota(self, _, __):
        self.send(json.dumps({"error": {"message": "used up", "code": "insufficient_quota"}}), 429)

    def do_blocked(self, _, __):
        self.send(json.dumps({"error": {"message": "filtered", "code": "content_filter"}}), 400)

    def do_hang(self, _, __):
        """Nothing comes; the line stays open for as long as the server runs."""
        self.owner.over.wait()

    def do_last(self, value, question):
        """`last:20`: the answer comes after those to 19 other requests."""
        while len(self.owner.requests) < int(value) and not self.owner.over.wait(0.01):
            pass
        self.say(self.right(question))

    def do_cut(self, _, question):
        """Half of an answer, and the line is dead."""
        content = self.completion(self.right(question)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.close_connection = True

    def do_half(self, _, question):
        """Half of an answer, as if it were whole."""
        self.send(self.completion(self.right(question))[:60])

    def do_html(self, _, __):
        self.send("<html>busy</html>", content_type="text/html")

    def do_empty(self, _, __):
        self.send(json.dumps({"id": "x", "object": "chat.completion", "choices": []}))

    def do_error(self, _, __):
        """A 200 with an error inside."""
        self.send(json.dumps({"error": {"message": "upstream"}}))

    # -- The wire --------------------------------------------------------------------------------------------------

    def say(self, text, **parts):
        self.send(self.completion(text, **parts))

    def completion(self, text, *, finish="stop", refusal=None, usage=True) -> str:
        message = {"role": "assistant", "content": text, "refusal": refusal}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        if usage:
            body["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return json.dumps(body)

    def send(self, content: str, status=200, headers=None, content_type="application/json"):
        raw = content.encode()
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": len(raw), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(raw)

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client lost patience, or was killed
            super().handle()

    def log_message(self, *_):
        pass
