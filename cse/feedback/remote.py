"""Endpoints for OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama. There is one request for each question.

Failed requests are retried with back-off and counted, and never taken for an answer. The key is sent to the endpoint
and nowhere else; it is removed from every message that could repeat it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cse.assets.hub import retry_after as read_retry_after
from cse.errors import UserError, require_package
from cse.feedback.answers import SCHEMAS
from cse.feedback.job import Chat, Unanswered
from cse.feedback.meter import Meter, Stop
from cse.feedback.prompts import FIELDS, Prompt
from cse.feedback.store import Reply, now
from cse.files import misfit

BYTES_PER_TOKEN = 2  # less than with any common tokenizer, so that a reservation is an upper estimate
RETRIES = 6  # retries of a request that fails
BACKOFF = 1.0  # seconds: the longest wait before the first retry, doubled for each further one
TRIES_UNREACHED = 2  # of a request, as long as no server has answered at all
TIMEOUT = 120.0  # timeout of a request in seconds
CONNECT_TIMEOUT = 10.0  # of the connection alone
LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more ends the job
_DEFAULT_KEY = "OPENAI_API_KEY"


class Endpoint:
    """Asks a model at an endpoint.

    Args:
        name: The model, as the endpoint knows it.
        base_url: Address of the endpoint. None: OPENAI_BASE_URL if it is set, else that of OpenAI.
        key_env: The environment variable with the key. None: OPENAI_API_KEY for the default endpoint, and no key for a
            `base_url`, so that the key of one provider is not sent to another.
        workers: Number of simultaneous requests.
        response_format: `json_schema`, `json_object`, or `text` for endpoints that support neither.
        extra: More parameters of the request; null removes a parameter.
    """

    prompted, prompts, chunk = True, frozenset(FIELDS), 1

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        key_env: str | None = None,
        workers: int = 8,
        response_format: str = "json_schema",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        openai = require_package("openai", extra="feedback", user="--model openai:")
        self._name, self._key = name, _key(base_url, key_env)
        self.workers, self._format, self._extra = workers, response_format, dict(extra or {})
        self._reached = False  # whether a server answered anything
        _require_address("--base-url", base_url)
        _require_address("OPENAI_BASE_URL", os.environ.get("OPENAI_BASE_URL"))
        timeout = openai.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0)
        url = urlsplit(str(self._client.base_url))
        port = f":{url.port}" if url.port else ""
        self.endpoint = f"{url.scheme}://{url.hostname}{port}{url.path}".rstrip("/")  # without a user name and password
        self.model = self.identity = name

    def parameters(self, prompt: Prompt) -> dict[str, object]:
        """The address and the parameters of a request, without the chat."""
        return {
            "endpoint": self.endpoint,
            "temperature": prompt.temperature,
            "max_tokens": prompt.max_tokens,
            "response_format": self._format,
            **self._extra,
        }

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """Ask each question; requests that fail are retried."""
        import tenacity

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Unanswered) and error.again),
            stop=tenacity.stop_any(
                lambda tried: tried.attempt_number > (RETRIES if self._reached else TRIES_UNREACHED - 1),
                tenacity.stop_when_event_set(meter.halted),
            ),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF, max=60),
            sleep=tenacity.sleep_using_event(meter.halted),
            reraise=True,
        )
        return [tries(self._once, chat, meter, fault) for chat in chats]

    def _once(self, chat: Chat, meter: Meter, fault: Callable[[str], None]) -> Reply:
        size = sum(len(m["content"].encode()) for m in chat.messages) // BYTES_PER_TOKEN + 16
        reserved = (size, chat.prompt.max_tokens)
        meter.admit(*reserved)
        used = (0, 0)
        try:
            reply = self._request(chat)
            used = (reply.input_tokens, reply.output_tokens)
            return reply
        except Unanswered as error:
            fault(error.kind)
            if error.retry_after is not None:
                if error.retry_after > LONGEST_WAIT:
                    raise Stop(f"the endpoint asks to wait {error.retry_after:,.0f} s ({error.detail})") from error
                meter.hold(error.retry_after)
            raise
        finally:
            meter.settle(reserved, used)

    def _request(self, chat: Chat) -> Reply:
        """Make one request; every failure becomes an Unanswered, a Stop or a UserError."""
        import openai

        messages: Any = chat.messages
        reached = True
        try:
            completion = self._client.chat.completions.create(
                model=self._name, messages=messages, extra_body=self._body(chat.prompt)
            )
            return _reply(completion, chat)
        except openai.APITimeoutError as error:
            reached = _connected(error)
            raise Unanswered("timeout", "no answer within the timeout") from error
        except openai.APIStatusError as error:
            return self._refused(error)
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            reached = _connected(error)
            raise Unanswered("connection", self._redact(f"{error} {error.__cause__ or ''}")) from error
        except (
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            RecursionError,
        ) as error:  # the body is not a completion
            raise Unanswered("broken_body", self._redact(str(error))) from error
        finally:
            self._reached = self._reached or reached

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"temperature": prompt.temperature, "max_tokens": prompt.max_tokens}
        if self._format == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif self._format == "json_schema":
            schema = SCHEMAS[prompt.name].model_json_schema()
            schema["properties"] = {name: schema["properties"][name] for name in schema["required"]}
            schema.pop("description", None)
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": prompt.name, "schema": schema}}
        return {key: value for key, value in (body | self._extra).items() if value is not None}

    def _refused(self, error: Any) -> Reply:
        """The reply or the exception for a status other than 200."""
        status, code = int(error.status_code), str(error.code or "")
        detail = self._redact(str(error))
        if code == "content_filter":
            return Reply("", "refusal", time=now())
        if code == "insufficient_quota":
            raise Stop(f"the quota of the account is used up: {detail}") from error
        if status in {401, 403, 404}:
            raise UserError(
                f"--model openai:{self._name}: {self.endpoint} answers {status}\n{detail}\n"
                "fix: check the model's name, --base-url and the key (OPENAI_API_KEY, or --key-env NAME)"
            ) from None  # the original error contains the request, and with it the key
        again = status >= 500 or status in {408, 409, 425, 429}
        hint = "" if again else " (if the endpoint does not support JSON schemas: --response-format text)"
        retry_after = read_retry_after(error.response.headers) if again else None
        raise Unanswered(f"http_{status}", detail + hint, again=again, retry_after=retry_after) from None

    def _redact(self, text: str) -> str:
        """The text on one line, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:300]


def _connected(error: BaseException) -> bool:
    """Tell whether a failure came after a connection was made."""
    return type(error.__cause__).__name__ not in {"ConnectError", "ConnectTimeout"}


def _require_address(option: str, url: str | None) -> None:
    """Raise unless the address of an endpoint, if one is given, has a scheme, a host, and a port that can be."""
    try:
        address = urlsplit(url or "http://default")
        good = address.scheme in {"http", "https"} and address.hostname and (address.port or 80) > 0
    except ValueError:  # of the port, or of brackets
        good = False
    if not good or not (url or "-").isprintable() or " " in (url or ""):
        shown = re.sub(r"//[^/]*@", "//***@", url or "")
        raise UserError(
            f"{option} is {shown!r}, which is not an address\n"
            "fix: write scheme, host and port: --base-url http://localhost:11434/v1"
        )


def _key(base_url: str | None, key_env: str | None) -> str | None:
    variable = key_env or (None if base_url else _DEFAULT_KEY)
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set or empty\n"
            f"fix: export {variable}=..., or name another variable: --key-env NAME, or an endpoint: --base-url URL"
        )
    return key


def _reply(completion: Any, chat: Chat) -> Reply:
    """The text of a completion, and the tokens that it used; an error of Python if the object is not a completion."""
    choice = completion.choices[0]
    text = choice.message.content or ""
    finish = "length" if choice.finish_reason == "length" else "stop"
    if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
        text, finish = choice.message.refusal or text, "refusal"
    if not isinstance(text, str):
        raise TypeError(f"the content is a {type(text).__name__}")
    text = text.encode("utf-8", "replace").decode()
    usage = completion.usage
    used = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else ()
    if used and not any(misfit(tokens, int) for tokens in used):
        return Reply(text, finish, *used, time=now())
    size = sum(len(m["content"]) for m in chat.messages)
    return Reply(text, finish, size // 4, len(text) // 4 + 1, estimated=True, time=now())
