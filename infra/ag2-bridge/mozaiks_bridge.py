"""Sends what AG2 agents do, and every token they spend, to a Mozaiks server.

    from mozaiks_bridge import mozaiks

    async with mozaiks(chat_id="c1", app_id="acme", user_id="ann", workflow_name="report"):
        response = await a_run_group_chat(pattern=pattern, messages="Write a report.")
        await response.process()

Every agent event and every model call inside the block is posted to ``POST {url}/api/events``. The program's own
use of AG2 is not changed: the bridge listens beside it, never raises into it and never makes it wait for the network.
One exception is wanted: when the server says that the money is used up, the next model call raises ``MozaiksStop``.

How it works, from the inside out:

* A ``_Run`` is one run of agents. It numbers its envelopes without gaps, keeps the counters of every model client and
  makes exactly one terminal event.
* An ``_Outbox`` holds what the server has not acknowledged (in memory, and in a file when ``spool_path`` is given) and
  sends it from a thread of its own, in order, as often as it takes. Events carry an id, so a repeat does no harm.
* Hooks in AG2 find the run that a model call or an event belongs to. AG2 does its work in threads that inherit no
  context, but it carries its own IOStream to all of them, so the run travels on the IOStream.

One file, standard library only, Python 3.10 or newer, classic AG2 (``autogen`` 0.14) and AG2 1.x (``ag2``).
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import contextvars
import http.client
import inspect
import json
import logging
import math
import os
import random
import re
import socket
import ssl
import sys
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from types import FrameType, TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

__all__ = ["MozaiksStop", "mozaiks"]

log = logging.getLogger("mozaiks")

Answer = TypeVar("Answer")

#: The server takes up to 1,000 events and 1 MB in one request; smaller requests are answered sooner.
BATCH_EVENTS = 200
BATCH_BYTES = 700_000
#: An event beyond this many bytes of JSON has its long texts cut.
EVENT_BYTES = 200_000
#: The longest the server lets one question for an answer wait, in seconds.
LONG_POLL_SEC = 25
#: Streamed pieces of a reply are put together until they are this old (seconds) or long (characters).
STREAM_PIECE_SEC = 0.2
STREAM_PIECE_CHARS = 2_000


class MozaiksStop(Exception):
    """Raised by a model call that was not made, because the run is to end.

    ``scope`` says who asked for it: ``"wallet"`` or the budget that is used up, as the server named it, or
    ``"cancelled"`` when the ``mozaiks`` block was left while its run was still going.
    """

    def __init__(self, scope: str) -> None:
        super().__init__(
            "the run was cancelled" if scope == "cancelled" else f"the server stopped the run: {scope} is used up"
        )
        self.scope = scope


# ---------------------------------------------------------------------------------------------------------------------
# HTTP


class _Server:
    """One keep-alive connection to the Mozaiks server. Not for two threads at once, but ``abort`` may come from any."""

    def __init__(self, url: str, key: str | None, timeout_sec: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http(s)://host[:port], not {url!r}")
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_sec = timeout_sec
        self._headers = {"Accept": "application/json", "User-Agent": "mozaiks-bridge/1"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Mapping[str, str], bytes]:
        """Returns status, headers and body. Raises ``OSError`` or ``http.client.HTTPException`` when there is none."""
        is_reused = self._connection is not None
        try:
            return self._exchange(method, path, body)
        except (OSError, http.client.HTTPException):
            self.close()
            # The server may close an idle connection at any time. Everything asked here may be asked twice.
            if not is_reused:
                raise
        try:
            return self._exchange(method, path, body)
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection or self._connect()
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, self._prefix + path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_sec)
        else:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_sec, context=self._tls
            )
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Ends a request that another thread is waiting for: it gets an ``OSError``."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def _retry_after_sec(headers: Mapping[str, str]) -> float | None:
    """What the server asks to wait, in seconds; only the form of a number is known here."""
    try:
        return max(0.0, min(300.0, float(headers["retry-after"])))
    except (KeyError, ValueError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Spool file


class _SpoolFile:
    """Unacknowledged envelopes as JSON lines, so that they outlive a killed process.

    Lines are appended as events happen (what the operating system has survives the process, not a power cut). The file
    is emptied when everything is acknowledged and rewritten when most of it is; a line that is delivered twice does no
    harm, because the server knows each event's id.
    """

    _REWRITE_BYTES = 4_000_000

    def __init__(self, path: str) -> None:
        self.path = path
        self._bytes = 0
        self._is_closed = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: the second process is not noticed
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise RuntimeError(f"the spool {self.path} is in use by another process; give each its own") from error

    def read(self) -> list[bytes]:
        """What an earlier process left. A broken last line (killed while writing) is passed over."""
        lines = []
        with open(self.path, "rb") as file:
            for line in file:
                self._bytes += len(line)
                if _is_envelope(line):
                    lines.append(line.strip())
                else:
                    log.warning("%s: a line that is no envelope is passed over", self.path)
        if self._bytes and not _ends_with_newline(self.path):
            os.write(self._file, b"\n")
        return lines

    def append(self, line: bytes) -> None:
        if not self._is_closed:
            self._bytes += os.write(self._file, line + b"\n")

    def forget(self, remaining: Iterable[bytes], remaining_bytes: int) -> None:
        """Makes the file smaller when that is worth it. ``remaining`` is what is not acknowledged yet."""
        if self._is_closed or self._bytes == 0:
            return
        if remaining_bytes and self._bytes < max(self._REWRITE_BYTES, 2 * remaining_bytes):
            return
        if not remaining_bytes:
            os.ftruncate(self._file, 0)
            self._bytes = 0
            return
        content = b"".join(line + b"\n" for line in remaining)
        temporary = f"{self.path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock()
        self._bytes = len(content)

    def close(self) -> None:
        # The number of a closed file may be another file's tomorrow: nothing is written after this.
        self._is_closed = True
        os.close(self._file)


def _is_envelope(line: bytes) -> bool:
    try:
        envelope = json.loads(line)
    except ValueError:
        return False
    return isinstance(envelope, dict) and "event" in envelope


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


# ---------------------------------------------------------------------------------------------------------------------
# Outbox


class _Item:
    """One envelope on its way. ``counter`` is set on usage: the key of the cumulative counter that it reports."""

    __slots__ = ("counter", "in_flight", "is_droppable", "line", "owner")

    def __init__(self, line: bytes, owner: mozaiks | None, counter: tuple[Any, ...] | None, is_droppable: bool) -> None:
        self.line = line
        self.owner = owner
        self.counter = counter
        self.is_droppable = is_droppable
        self.in_flight = False


class _Outbox:
    """Sends envelopes to one server, in order, from one daemon thread that lives while there is something to do."""

    def __init__(
        self, *, url: str, key: str | None, spool_path: str | None, spool_limit: int, timeout_sec: float
    ) -> None:
        self._server = _Server(url, key, timeout_sec)
        self._limit = spool_limit
        self._items: OrderedDict[int, _Item] = OrderedDict()
        self._next_number = 0
        self._newest_usage: dict[tuple[Any, ...], int] = {}
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._users = 0
        self._hurried = 0
        self._dropped = 0
        self._file = _SpoolFile(spool_path) if spool_path else None
        self._failing_since: float | None = None
        self._last_warning = 0.0
        self.refused = 0
        if self._file is not None:
            for line in self._file.read():
                self._put(_Item(line, None, None, False))

    # -- filling ------------------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        with self._changed:
            self._users += 1
            if self._items:
                self._wake()

    def release(self) -> bool:
        """Returns whether nobody uses it any more and nothing is left to send."""
        with self._changed:
            self._users -= 1
            return self._users == 0 and not self._items

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, item: _Item) -> bool:
        """Takes an envelope, in order. Returns False when it was dropped because the spool is full."""
        with self._changed:
            if len(self._items) >= self._limit and not self._make_room(item):
                self._warn_of_drop()
                return False
            if self._file is not None:
                _guarded(self._file.append, item.line)
            self._put(item)
            if item.owner is not None:
                item.owner._pending += 1
            self._wake()
            return True

    def _put(self, item: _Item) -> None:
        number = self._next_number
        self._next_number += 1
        self._items[number] = item
        self._bytes += len(item.line)
        if item.counter is not None:
            self._newest_usage[item.counter] = number

    def _make_room(self, item: _Item) -> bool:
        """Usage and ends are never refused. Of one counter only the newest value matters, so an older one may go."""
        if item.is_droppable:
            return False
        if item.counter is not None:
            number = self._newest_usage.get(item.counter)
            if number is not None and not self._items[number].in_flight:
                self._remove(number)
        return True

    def _warn_of_drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1 or self._dropped % 1000 == 0:
            log.warning(
                "the spool is full (%d events): %d events that carry no usage were dropped", self._limit, self._dropped
            )

    def _remove(self, number: int) -> None:
        item = self._items.pop(number)
        self._bytes -= len(item.line)
        if item.counter is not None and self._newest_usage.get(item.counter) == number:
            del self._newest_usage[item.counter]
        if item.owner is not None:
            item.owner._pending -= 1

    # -- sending ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="mozaiks-outbox", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _send_all(self) -> None:
        """The thread: ends when it has had nothing to do for a while, and is started again with the next event."""
        failures, most = 0, BATCH_EVENTS
        while True:
            with self._changed:
                if not self._items and not self._changed.wait_for(lambda: bool(self._items), timeout=10):
                    self._thread = None
                    self._server.close()
                    return
                batch = self._take(most)
            try:
                wait_sec = self._post(batch)
            except Exception:  # a bug here must not end the deliveries of the whole process
                log.exception("sending failed unexpectedly")
                wait_sec = 5.0
            if wait_sec is None:
                failures, most = 0, BATCH_EVENTS
            elif wait_sec < 0:
                most = max(1, len(batch) // 2)
            else:
                failures += 1
                self._pause(max(wait_sec, self._backoff_sec(failures)))

    def _backoff_sec(self, failures: int) -> float:
        """0.25 s doubling up to 30 s (1 s while a block waits to be left), with jitter of half up and down."""
        most = 1.0 if self._hurried else 30.0
        return min(most, 0.25 * 2 ** min(failures - 1, 10)) * (0.5 + random.random())

    def _pause(self, seconds: float) -> None:
        deadline, hurried = time.monotonic() + seconds, self._hurried
        with self._changed:
            while (left := deadline - time.monotonic()) > 0 and (self._hurried <= hurried or seconds <= 1):
                self._changed.wait(left)

    def _take(self, most: int) -> list[tuple[int, _Item]]:
        batch, size = [], 0
        for number, item in self._items.items():
            if len(batch) == most or (batch and size + len(item.line) > BATCH_BYTES):
                break
            item.in_flight = True
            batch.append((number, item))
            size += len(item.line) + 1
        return batch

    def _post(self, batch: list[tuple[int, _Item]]) -> float | None:
        """Returns None when the batch is done with, seconds to wait before the next attempt, or -1: send fewer."""
        body = b"[" + b",".join(item.line for _, item in batch) + b"]"
        try:
            status, headers, content = self._server.request("POST", "/api/events", body)
        except (OSError, http.client.HTTPException) as error:
            return self._failed(batch, f"{type(error).__name__}: {error}", 0)
        if status == 200:
            results = _results_of(content, len(batch))
            if results is None:
                return self._failed(batch, "an answer that is none of a Mozaiks server", 1)
            self._acknowledge(batch, results)
            return None
        if status in (400, 413, 422):
            if len(batch) > 1:
                self._release(batch)
                return -1
            self._refuse(batch[0][1], f"status {status}", content[:500].decode("utf-8", "replace"))
            self._settle(batch)
            return None
        detail = f"status {status}: {content[:200].decode('utf-8', 'replace')}"
        # A wrong key or address is for a person to put right; until then nothing is lost.
        return self._failed(batch, detail, _retry_after_sec(headers) or (5 if status < 500 and status != 429 else 0))

    def _failed(self, batch: list[tuple[int, _Item]], why: str, wait_sec: float) -> float:
        self._release(batch)
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._last_warning > 60 or self._last_warning == 0:
            self._last_warning = now
            log.warning("events cannot be delivered, trying again (%d waiting): %s", len(self._items), why)
        return wait_sec

    def _release(self, batch: list[tuple[int, _Item]]) -> None:
        with self._changed:
            for _, item in batch:
                item.in_flight = False

    def _acknowledge(self, batch: list[tuple[int, _Item]], results: list[Any]) -> None:
        if self._failing_since is not None:
            log.info("events are delivered again, after %.1f s", time.monotonic() - self._failing_since)
            self._failing_since, self._last_warning = None, 0.0
        for (_, item), result in zip(batch, results, strict=True):
            if result.get("outcome") == "refused":
                self._refuse(item, str(result.get("code")), str(result.get("reason")))
            elif item.owner is not None:
                # The newest answer stands: after a top-up the server no longer says stop.
                item.owner._stop_scope = str(result.get("scope", "wallet")) if result.get("stop") is True else None
        self._settle(batch)

    def _refuse(self, item: _Item, code: str, reason: str) -> None:
        self.refused += 1
        log.error("the server refused an event (%s: %s), it is dropped: %s", code, reason, item.line[:300])

    def _settle(self, batch: list[tuple[int, _Item]]) -> None:
        with self._changed:
            for number, _ in batch:
                self._remove(number)
            if self._file is not None:
                _guarded(self._file.forget, (item.line for item in self._items.values()), self._bytes)
            self._changed.notify_all()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def flush(self, owner: mozaiks | None, timeout_sec: float) -> int:
        """Waits until the owner's (or all) events are acknowledged. Returns how many are not."""

        def left() -> int:
            return len(self._items) if owner is None else owner._pending

        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: left() == 0, timeout=timeout_sec)
                return left()
            finally:
                self._hurried -= 1


def _results_of(content: bytes, count: int) -> list[Any] | None:
    try:
        results = json.loads(content)["results"]
    except (ValueError, KeyError, TypeError):
        return None
    is_complete = isinstance(results, list) and len(results) == count
    return results if is_complete and all(isinstance(result, dict) for result in results) else None


_outboxes: dict[tuple[Any, ...], _Outbox] = {}
_outboxes_lock = threading.Lock()


def _acquire_outbox(key: tuple[Any, ...], make: Callable[[], _Outbox]) -> _Outbox:
    """Blocks that send to the same place share one connection, one thread and one spool."""
    with _outboxes_lock:
        outbox = _outboxes.get(key)
        if outbox is None:
            outbox = _outboxes[key] = make()
        outbox.acquire()
        return outbox


def _release_outbox(key: tuple[Any, ...]) -> None:
    with _outboxes_lock:
        outbox = _outboxes.get(key)
        if outbox is not None and outbox.release():
            del _outboxes[key]
            outbox.close()


@atexit.register
def _flush_at_exit() -> None:
    """Model calls that were under way when their block was left report late; by now their threads have ended."""
    for outbox in list(_outboxes.values()):
        left = outbox.flush(None, 5)
        if left:
            log.error("%d events were not delivered before the program ended", left)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


class _Counters:
    """What one model client used in one run, by model: cumulative, as AG2's own usage summaries are.

    AG2's counters go on when agents are used for another run, and the server counts by run; so the bridge adds up by
    itself what AG2 adds to its counters, call by call.
    """

    def __init__(self) -> None:
        self.actual: dict[str, dict[str, Any]] = {}
        self.total: dict[str, dict[str, Any]] = {}

    def add(self, side: dict[str, dict[str, Any]], usage: Mapping[str, Any]) -> None:
        sum_ = side.setdefault(str(usage["model"]), {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
        for field in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"):
            if field in usage:
                sum_[field] = sum_.get(field, 0) + usage[field]
        if usage.get("cost") is not None:
            sum_["cost"] = sum_.get("cost", 0.0) + usage["cost"]

    @staticmethod
    def side(usages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        costs = [usage["cost"] for usage in usages.values() if "cost" in usage]
        return {
            "usages": [{"model": model, **usage} for model, usage in usages.items()] or None,
            "total_cost": math.fsum(costs) if costs else None,
        }


class _Call:
    """One call of ``OpenAIWrapper.create`` under way."""

    def __init__(self, run: _Run, wrapper: Any, agent: str, model: str, client: str, epoch: int) -> None:
        self.run = run
        self.wrapper = wrapper
        self.agent = agent
        self.model = model
        self.client = client
        self.epoch = epoch
        self.started = time.monotonic()
        self.actual: list[dict[str, Any]] = []
        self.total: list[dict[str, Any]] = []
        self.streamed: list[str] = []


#: What a program prints or clears beside its agents' runs begins no run.
_ASIDES = ("print", "conversable_agent_usage_summary", "clear_")


class _Run:
    """One run: its envelopes in order, its counters, its one end. All methods may be called from any thread."""

    def __init__(self, block: mozaiks, dialect: str, *, is_base: bool) -> None:
        self.block = block
        self.dialect = dialect
        self.is_base = is_base
        self.run_id = str(uuid.uuid4())
        self.has_ended = False
        self.calls_under_way = 0
        self.stopped_by: str | None = None
        self.response: Any = None
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._seq = 0
        self._speaker: str | None = None
        self._termination_reason = ""
        self._counters: dict[tuple[str, int], _Counters] = {}
        self._finished_calls: dict[str, int] = {}
        self._has_text = False
        self._questions: list[tuple[str, bool]] = []
        self._stream: tuple[str | None, float, list[str]] | None = None
        self._failed_call: tuple[BaseException, str, float] | None = None
        self._cancelled = threading.Event()

    @property
    def has_begun(self) -> bool:
        return self._seq > 0

    # -- envelopes ----------------------------------------------------------------------------------------------------

    def emit(
        self,
        type_: str,
        content: Mapping[str, Any],
        *,
        agent: str | None,
        meter: Mapping[str, Any] | None = None,
        is_droppable: bool = True,
    ) -> None:
        """Puts one event on its way. Dropped ones leave a gap in ``seq``, so that a loss can be seen."""
        with self._lock:
            self._end_stream()
            self._put(type_, content, agent, meter, is_droppable)

    def _put(
        self,
        type_: str,
        content: Mapping[str, Any],
        agent: str | None,
        meter: Mapping[str, Any] | None,
        is_droppable: bool,
    ) -> None:
        self._seq += 1
        envelope = {
            "v": 1,
            "dialect": self.dialect,
            **self.block._identity,
            "run_id": self.run_id,
            "seq": self._seq,
            "ts": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "agent": agent[:256] if agent else None,
            "meter": meter,
            "event": {"type": type_, "content": {"uuid": str(uuid.uuid4()), **content}},
        }
        counter = None if meter is None else (self.run_id, meter["client"], meter["epoch"])
        self.block._outbox.add(_Item(_json_line(envelope), self.block, counter, is_droppable))

    def _add_to_stream(self, agent: str | None, piece: str) -> None:
        """A streamed reply arrives in hundreds of pieces; they are posted some at a time."""
        now = time.monotonic()
        if self._stream is None:
            self._stream = (agent, now, [])
        _, since, pieces = self._stream
        pieces.append(piece)
        if now - since > STREAM_PIECE_SEC or sum(map(len, pieces)) > STREAM_PIECE_CHARS:
            self._end_stream()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            agent, _, pieces = stream
            self._put("stream", {"content": "".join(pieces)}, agent, None, True)

    # -- agent events -------------------------------------------------------------------------------------------------

    def observe(self, event: Any, *, is_nested: bool) -> None:
        """Takes an event that AG2 is about to hand to the program. ``is_nested``: of a run inside this run."""
        type_ = event.type
        # The bridge meters at the call itself. A summary that the program prints repeats what was counted there.
        if type_ == "usage_summary" or self.has_ended:
            return
        if not self.has_begun and type_.startswith(_ASIDES):
            return
        if type_ == "stream":
            call = _call_under_way.get()
            with self._lock:
                if call is not None:
                    call.streamed.append(event.content.content)
                self._add_to_stream(self._speaker if call is None else call.agent, event.content.content)
            return
        if type_ == "error":
            self._observe_error(event.content.error, is_nested)
            return
        content = _content_of(event)
        agent = self._agent_of(type_, content)
        if type_ in ("text", "tool_call"):
            type_ = self._mark_reply(type_, content, _sender_of(event))
        if type_ == "termination":
            self._termination_reason = str(content.get("termination_reason") or "")
        if type_ == "run_completion":
            if is_nested:
                self.emit("nested_run_completion", content, agent=agent)
            else:
                self._complete(content)
            return
        if type_ == "input_request":
            self._questions.append((str(content["uuid"]), bool(content.get("password"))))
        self.emit(type_, content, agent=agent, is_droppable=type_ != "input_request")

    def observe_answer(self, answer: Any) -> None:
        """The program answered: the question in the ChatUI is closed. Passwords stay where they were typed."""
        if not self._questions or self.has_ended:
            return
        request_id, is_password = self._questions.pop(0)
        value = "" if is_password else str(answer)
        content = {"uuid": f"input-response:{request_id}", "request_id": request_id, "value": value}
        self.emit("input_response", content, agent="user", is_droppable=False)

    def _agent_of(self, type_: str, content: Mapping[str, Any]) -> str | None:
        if type_ == "group_chat_run_chat":
            self._speaker = _name_or_none(content.get("speaker"))
        for field in ("sender", "speaker", "source_agent", "agent"):
            if name := _name_or_none(content.get(field)):
                return name
        if type_ in ("execute_function", "executed_function", "execute_code_block"):
            return _name_or_none(content.get("recipient"))
        return self._speaker

    def _mark_reply(self, type_: str, content: dict[str, Any], sender: Any) -> str:
        """Says whether a model was asked for this reply: the server warns of replies that came without usage."""
        name = str(content.get("sender"))
        with self._lock:
            was_asked = self._finished_calls.pop(name, 0) > 0
        if name in ("speaker_selection_agent", "checking_agent"):
            return f"speaker_selection_{type_}"
        if type_ == "text" and not was_asked:
            # The opening message of a chat between two agents, and what a person wrote under a name of their own.
            if not self._has_text or _is_person(sender):
                content["role"] = "user"
            else:
                content["llm"] = False
        self._has_text = True
        return type_

    # -- model calls --------------------------------------------------------------------------------------------------

    def begin_call(self, wrapper: Any, config: Mapping[str, Any]) -> _Call:
        call = _Call(self, wrapper, _calling_agent(config, self), _model_of(wrapper, config), *_client_of(wrapper))
        with self._lock:
            self.calls_under_way += 1
        return call

    def end_call(self, call: _Call, failure: BaseException | None) -> None:
        latency_ms = round((time.monotonic() - call.started) * 1000)
        with self._lock:
            try:
                if failure is not None:
                    self._failed_call = (failure, call.model, latency_ms)
                self._count(call, latency_ms, failure)
            finally:
                self.calls_under_way -= 1
                self._idle.notify_all()

    def _count(self, call: _Call, latency_ms: int, failure: BaseException | None) -> None:
        counters = self._counters.setdefault((call.client, call.epoch), _Counters())
        for usage in call.actual:
            counters.add(counters.actual, usage)
        for usage in call.total:
            counters.add(counters.total, usage)
        if failure is not None and not call.total and not call.streamed:
            return  # nothing was said and nothing reported: there is nothing to account for
        self._finished_calls[call.agent] = self._finished_calls.get(call.agent, 0) + 1
        self.emit(
            "usage_summary",
            {"actual": counters.side(counters.actual), "total": counters.side(counters.total), "mode": "both"},
            agent=call.agent,
            meter={
                "agent": call.agent[:256],
                "client": call.client,
                "epoch": call.epoch,
                "reason": "llm_call",
                "latency_ms": latency_ms,
            },
            is_droppable=False,
        )
        if failure is not None and call.streamed:
            # The provider bills what it sent before the stream broke, and nobody was told how much. The cut reply
            # beside counters that did not move is what the server shows as unaccounted.
            self.emit(
                "text",
                {"content": "".join(call.streamed), "sender": call.agent, "recipient": None, "partial": True},
                agent=call.agent,
            )

    def settle(self) -> None:
        """Waits for the answers to what was posted so far, so that ``check`` knows of the last usage."""
        if self.block._settle_sec > 0 and not self.is_cancelled:
            self.block._outbox.flush(self.block, self.block._settle_sec)

    def check(self) -> None:
        """Raises ``MozaiksStop`` when no model call is to be made any more."""
        scope = "cancelled" if self.is_cancelled else self.block._stop_scope
        if scope is None:
            return
        if scope != "cancelled":
            self.stopped_by = scope
        raise MozaiksStop(scope)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """A call whose usage comes as an event: only that it is under way is of interest."""
        with self._lock:
            self.calls_under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self.calls_under_way -= 1
                self._idle.notify_all()

    # -- AG2 1.x ------------------------------------------------------------------------------------------------------

    def observe_v1(self, event: Any, agent: str) -> None:
        """Takes an event of AG2 1.x, as AG2 writes it, under its class's full name. A ``UsageEvent`` is one call's
        spending, not a cumulative counter, so none may be lost, and the sum over a sub-agent's calls is left out when
        the calls themselves were seen."""
        class_ = type(event)
        is_usage = class_.__name__ == "UsageEvent"
        if is_usage:
            parts = list(getattr(event, "parts", None) or [])
            is_sum_of_seen = bool(parts) and all("_mozaiks_seen" in vars(part) for part in parts)
            vars(event)["_mozaiks_seen"] = True
            if is_sum_of_seen:
                return
        # What is transient (pieces of a streamed reply) is said again by the event that is kept.
        if getattr(class_, "__transient__", False) or (self.has_ended and not is_usage):
            return
        type_ = f"{class_.__module__}.{class_.__qualname__}"[:128]
        self.emit(type_, event.to_dict(), agent=agent, is_droppable=not is_usage)

    def complete_v1(self) -> None:
        if not self.is_cancelled:
            self.end("success", "")

    def fail_v1(self, error: BaseException) -> None:
        if self.is_cancelled:
            return
        if isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
            self._observe_error(error, is_nested=True)
        self.fail(error)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait_until_idle(self, timeout_sec: float) -> bool:
        """Waits for the model calls under way; a thread that asks a provider cannot be stopped, only waited for."""
        with self._lock:
            return self._idle.wait_for(lambda: self.calls_under_way == 0, timeout=timeout_sec)

    # -- the end ------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """From now on the run's model calls raise instead of being made, and only the block's end ends the run."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def sleep(self, seconds: float) -> None:
        """Waits, or raises ``MozaiksStop`` as soon as the run is cancelled."""
        if self._cancelled.wait(seconds):
            raise MozaiksStop("cancelled")

    def _observe_error(self, error: BaseException, is_nested: bool) -> None:
        if self.is_cancelled:
            return
        # That someone wanted the run to end is no error; the run's end says it.
        if not (isinstance(error, MozaiksStop) and error.scope == "cancelled"):
            self.report_error(error)
        self.block._reported.append(weakref.ref(error) if _is_weakly_referable(error) else (lambda: error))
        if not is_nested:
            self.fail(error)

    def report_error(self, error: BaseException) -> None:
        self.emit("error", self._describe(error), agent=self._speaker, is_droppable=False)

    def _describe(self, error: BaseException) -> dict[str, Any]:
        name = type(error).__name__
        if isinstance(error, MozaiksStop) and error.scope != "cancelled":
            return {
                "error": str(error),
                "error_type": "insufficient_tokens",
                "details": {"scope": error.scope},
                "retryable": True,
            }
        content: dict[str, Any] = {"error": f"{name}: {error}"[:4000], "details": {"exception": name[:128]}}
        if self._failed_call is not None and self._failed_call[0] in _causes_of(error):
            _, model, latency_ms = self._failed_call
            content["llm_call"] = {"model": model, "latency_ms": latency_ms}
        return content

    def fail(self, error: BaseException) -> None:
        """Ends the run after an exception: as stopped when someone wanted it to end, else as failed."""
        if isinstance(error, MozaiksStop) or self.stopped_by is not None:
            self.end("stopped" if self.stopped_by is None else "out_of_funds", str(error))
        elif isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
            self.end("error", f"{type(error).__name__}: {error}")
        else:
            self.end("stopped", type(error).__name__)

    def end(self, result: Literal["success", "stopped", "error", "out_of_funds"], reason: str) -> None:
        """Makes the terminal event, once."""
        self._terminate({"summary": None, "last_speaker": self._speaker, "result": result, "reason": reason[:1000]})

    def _complete(self, content: dict[str, Any]) -> None:
        """AG2's own end, with what AG2 does not say."""
        if self.is_cancelled:
            return
        result = "success" if self.stopped_by is None else "out_of_funds"
        self._terminate({**content, "result": result, "reason": self._termination_reason[:1000]})

    def _terminate(self, content: Mapping[str, Any]) -> None:
        with self._lock:
            if self.has_ended:
                return
            self.emit("run_completion", content, agent=None, is_droppable=False)
            self.has_ended = True
            self._failed_call = None


# ---------------------------------------------------------------------------------------------------------------------
# Projections: AG2's events as JSON


def _content_of(event: Any) -> dict[str, Any]:
    """The event's content as JSON. Events that pydantic cannot dump (they hold agents, functions, exceptions) are
    written field by field, with names in the place of objects."""
    content = event.content
    if not event.type.endswith("_transition") and event.type not in ("run_completion", "input_request"):
        with contextlib.suppress(Exception):
            return dict(json.loads(content.model_dump_json(warnings=False)))
    # What was said in the run is in its text events already.
    fields = {name: value for name, value in vars(content).items() if name != "history" and not callable(value)}
    if event.type == "input_request":
        return {name: _plain(fields[name]) for name in ("uuid", "prompt", "password") if name in fields}
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any, depth: int = 0) -> Any:
    """Anything as JSON, without ever failing and without following an object graph to its end."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 8:
        return str(type(value).__name__)
    if isinstance(value, Mapping):
        return {str(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, uuid.UUID):
        return str(value)
    if _is_target(value):
        return {"type": type(value).__name__, "name": _target_name(value)}
    if isinstance(name := getattr(value, "name", None), str):
        return name
    with contextlib.suppress(Exception):
        return _plain(value.model_dump(mode="json", warnings=False), depth + 1)
    return str(value)[:2000]


def _is_target(value: Any) -> bool:
    return any(base.__name__ == "TransitionTarget" for base in type(value).__mro__)


def _target_name(target: Any) -> str | None:
    """The agent that a transition leads to; None for those that lead to no other agent (terminate, stay, …)."""
    for field in ("agent_name", "nominated_name"):
        name = getattr(target, field, None)
        if isinstance(name, str) and name:
            return name
    if type(target).__name__ in ("NestedChatTarget", "GroupChatTarget"):
        with contextlib.suppress(Exception):
            return str(target.display_name())
    return None


def _json_line(envelope: dict[str, Any]) -> bytes:
    """One line of JSON of a bounded size: an envelope that is too large has its longest texts cut."""
    line = _json(envelope)
    for longest in (64_000, 8_000, 500):
        if len(line) <= EVENT_BYTES:
            return line
        line = _json({**envelope, "event": _shortened(envelope["event"], longest)})
    if len(line) <= EVENT_BYTES:
        return line
    event = envelope["event"]
    content = {"uuid": event["content"]["uuid"], "left_out": "the event is too large"}
    return _json({**envelope, "event": {"type": event["type"], "content": content}})


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError):  # a NaN, or an object that a tool returned
        return json.dumps(_plain(value), separators=(",", ":")).encode("ascii")


def _shortened(value: Any, longest: int) -> Any:
    if isinstance(value, str) and len(value) > longest:
        return f"{value[:longest]} [… {len(value) - longest} characters are left out]"
    if isinstance(value, dict):
        return {key: _shortened(each, longest) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each, longest) for each in value]
    return value


def _name_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_person(agent: Any) -> bool:
    """Whether what this agent says, without asking a model, is said for a person."""
    if agent is None:
        return False
    is_proxy = any(base.__name__ == "UserProxyAgent" for base in type(agent).__mro__)
    return is_proxy or getattr(agent, "human_input_mode", "NEVER") == "ALWAYS"


def _causes_of(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _is_weakly_referable(value: Any) -> bool:
    try:
        weakref.ref(value)
    except TypeError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Where am I: the run that code belongs to

#: The run of the code that is executing: set by the ``mozaiks`` block, inherited by tasks, lost in plain threads.
_active_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("mozaiks_active_run", default=None)
_call_under_way: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("mozaiks_call", default=None)

_failures_said = 0


def _guarded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls it and never raises: what goes wrong in the bridge must not go wrong in the agents."""
    global _failures_said
    try:
        return function(*arguments, **options)
    except Exception:
        _failures_said += 1
        if _failures_said <= 20:
            log.exception("the bridge failed; the agents go on")
        return None


class _Channel:
    """What ties an IOStream to a run."""

    __slots__ = ("is_nested", "run", "send")

    def __init__(self, run: _Run, send: Callable[[Any], Any], is_nested: bool) -> None:
        self.run = run
        self.send = send
        self.is_nested = is_nested


class _ListeningStream:
    """Stands before the program's own IOStream (the console, a websocket): everything passes, and is seen."""

    def __init__(self, inner: Any, run: _Run) -> None:
        # A block inside a run of another block: the inner block's events are not the outer one's too.
        outer = getattr(inner, "_mozaiks_channel", None)
        self._mozaiks_inner = inner
        self._mozaiks_channel = _Channel(run, inner.send if outer is None else outer.send, False)

    def send(self, event: Any) -> Any:
        _guarded(self._mozaiks_channel.run.observe, event, is_nested=False)
        return self._mozaiks_channel.send(event)

    def print(self, *objects: Any, sep: str = " ", end: str = "\n", flush: bool = False) -> Any:
        return self._mozaiks_inner.print(*objects, sep=sep, end=end, flush=flush)

    @property
    def input(self) -> Any:
        run = self._mozaiks_channel.run
        if run.block._human_input == "program":
            return self._mozaiks_inner.input
        return lambda prompt="", *, password=False: _ask_person(run, prompt, password)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mozaiks_inner, name)


def _listen_to(stream: Any, run: _Run, is_nested: bool) -> None:
    """Makes one of AG2's own queue streams carry its run, to every thread that AG2 carries the stream to."""
    original_send = stream.send
    stream._mozaiks_channel = _Channel(run, original_send, is_nested)

    def send(event: Any) -> None:
        # Before AG2's queue: the program may act on an event the moment it is there.
        _guarded(run.observe, event, is_nested=is_nested)
        original_send(event)

    stream.send = send
    if run.block._human_input == "program":
        original_put = stream._output_stream.put

        def put(answer: Any, *arguments: Any, **options: Any) -> Any:
            _guarded(run.observe_answer, answer)
            return original_put(answer, *arguments, **options)

        stream._output_stream.put = put
    else:
        if inspect.iscoroutinefunction(type(stream).input):

            async def ask(prompt: str = "", *, password: bool = False) -> str:
                agent = _asking_agent()
                return await _in_thread(lambda: _ask_person(run, prompt, password, agent))

            stream.input = ask
        else:
            stream.input = lambda prompt="", *, password=False: _ask_person(run, prompt, password)


def _current_run() -> _Run | None:
    """AG2 carries its IOStream further than Python carries contexts, so the stream is asked first."""
    stream_class = _hooks.io_stream
    if stream_class is not None:
        channel = getattr(stream_class._default_io_stream.get(), "_mozaiks_channel", None)
        if channel is not None:
            return channel.run
    return _active_run.get()


async def _in_thread(work: Callable[[], Answer]) -> Answer:
    """Runs it in a thread of its own: asyncio's shared threads are the ones that AG2 asks models from."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Answer] = loop.create_future()

    def tell(answer: Answer | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(answer)  # type: ignore[arg-type]
        else:
            result.set_exception(error)

    def run() -> None:
        answer, error = None, None
        try:
            answer = work()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, answer, error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="mozaiks-wait", daemon=True).start()
    return await result


# ---------------------------------------------------------------------------------------------------------------------
# Human input


def _asking_agent() -> str | None:
    for frame in _frames(40):
        if frame.f_code.co_name in ("get_human_input", "a_get_human_input"):
            return _name_or_none(getattr(frame.f_locals.get("self"), "name", None))
    return None


def _ask_person(run: _Run, prompt: str, password: bool, agent: str | None = None) -> str:
    """Asks the person in the ChatUI, and blocks until they have answered (or the run is cancelled)."""
    request_id = str(uuid.uuid4())
    run.emit(
        "input_request",
        {"uuid": request_id, "prompt": str(prompt), "password": bool(password)},
        agent=agent or _asking_agent() or run._speaker,
        is_droppable=False,
    )
    return run.block._await_answer(run, request_id)


# ---------------------------------------------------------------------------------------------------------------------
# Hooks in classic AG2

#: Which client a wrapper is, and in which generation its counters are. Weak: wrappers live as long as AG2 wants.
_clients: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()
_clients_lock = threading.Lock()
_client_count = 0


def _client_of(wrapper: Any, *, cleared: bool = False) -> tuple[str, int]:
    global _client_count
    with _clients_lock:
        found = _clients.get(wrapper)
        if found is None:
            _client_count += 1
            found = (f"c{_client_count}", 1)
        elif cleared:
            found = (found[0], found[1] + 1)
        _clients[wrapper] = found
        return found


def _frames(most: int) -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(most):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _calling_agent(config: Mapping[str, Any], run: _Run) -> str:
    """In whose name a model is asked. AG2 says it for replies; selection, guardrails and summaries are told apart."""
    agent = getattr(config.get("agent"), "name", None)
    if agent in ("speaker_selection_agent", "checking_agent"):
        return "_speaker_selection"
    for frame in _frames(12):
        if frame.f_code.co_name == "_reflection_with_llm":
            return "_summary"
        owner = frame.f_locals.get("self")
        if agent is None and owner is not None:
            if any(base.__name__ == "Guardrail" for base in type(owner).__mro__):
                return f"_guardrail:{owner.name}"
            if any(base.__name__ == "Agent" or base.__name__ == "ConversableAgent" for base in type(owner).__mro__):
                agent = getattr(owner, "name", None)
    return _name_or_none(agent) or run._speaker or "unknown"


def _count_of(value: Any) -> int:
    """Raises ``ValueError`` for what is no number of tokens; such a call is then shown as unaccounted."""
    count = 0 if value is None else int(value)
    if count < 0 or (value is not None and count != value):
        raise ValueError(f"{value!r} is no number of tokens")
    return count


def _usage_of(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """AG2's usage of one call as integers; None when a custom client reports none."""
    if not usage or not usage.get("model") or "prompt_tokens" not in usage:
        return None
    prompt, completion = _count_of(usage["prompt_tokens"]), _count_of(usage.get("completion_tokens"))
    counted: dict[str, Any] = {
        "model": str(usage["model"])[:256],
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": _count_of(usage.get("total_tokens")) or prompt + completion,
    }
    cost = usage.get("cost")
    if isinstance(cost, (int, float)) and math.isfinite(cost):
        counted["cost"] = float(cost)
    return counted


def _add_details(call: _Call, response: Any) -> None:
    """Cached and reasoning tokens, which AG2 leaves out of its summaries: they are cheaper or dearer than others."""
    if len(call.actual) != 1:
        return
    usage = getattr(response, "usage", None)
    for name, container, field in (
        ("cached_tokens", "prompt_tokens_details", "cached_tokens"),
        ("reasoning_tokens", "completion_tokens_details", "reasoning_tokens"),
    ):
        value = getattr(getattr(usage, container, None), field, None)
        if isinstance(value, int) and value > 0:
            call.actual[0][name] = value


_open_blocks = 0
_stray_calls = 0


def _warn_of_stray_call() -> None:
    """A thread that the program starts inherits no context, so its model calls cannot be told to be a block's."""
    global _stray_calls
    _stray_calls += 1
    if _open_blocks > 0 and _stray_calls == 1:
        log.warning(
            "a model is asked outside of the mozaiks blocks that are open, so it is not accounted for; if that is a "
            "thread of a block, start it with contextvars.copy_context().run"
        )


class _Hooks:
    """The places in AG2 where the bridge listens. Put in once for the process, at the first block; without a block
    they do nothing."""

    def __init__(self) -> None:
        self.io_stream: Any = None
        self.version: str | None = None
        self._lock = threading.Lock()

    def install(self) -> bool:
        """Returns False when classic AG2 is not there. Raises ``RuntimeError`` for one that cannot be metered."""
        with self._lock:
            if self.version is not None:
                return True
            try:
                import autogen
                from autogen import ConversableAgent, OpenAIWrapper
                from autogen.io import run_response
                from autogen.io.base import IOStream
            except ImportError:
                return False
            if not all(hasattr(OpenAIWrapper, name) for name in ("create", "_update_usage", "clear_usage_summary")):
                raise RuntimeError(
                    f"autogen {autogen.__version__}: its OpenAIWrapper is not known to mozaiks_bridge (0.14 is), "
                    "so its usage cannot be counted"
                )
            self._meter(OpenAIWrapper)
            self._follow_streams(IOStream)
            for name in ("RunResponse", "AsyncRunResponse", "RunIterResponse", "AsyncRunIterResponse"):
                if hasattr(run_response, name):
                    self._follow_runs(getattr(run_response, name))
            self._follow_async_tools(ConversableAgent)
            self.io_stream = IOStream
            self.version = re.sub(r"[^\w.]", ".", str(autogen.__version__))
            return True

    @staticmethod
    def _meter(wrapper_class: Any) -> None:
        original_create = wrapper_class.create
        original_update = wrapper_class._update_usage
        original_clear = wrapper_class.clear_usage_summary

        def create(self: Any, **config: Any) -> Any:
            run = _guarded(_current_run)
            if run is None:
                _guarded(_warn_of_stray_call)
                return original_create(self, **config)
            _guarded(run.settle)
            run.check()  # the one place where the bridge raises into AG2
            call = _guarded(run.begin_call, self, config)
            if call is None:
                return original_create(self, **config)
            token = _call_under_way.set(call)
            failure: BaseException | None = None
            try:
                response = original_create(self, **config)
                _guarded(_add_details, call, response)
                return response
            except BaseException as error:
                failure = error
                raise
            finally:
                _call_under_way.reset(token)
                _guarded(run.end_call, call, failure)
                failure = None  # else the exception and this frame would keep each other alive

        def _update_usage(self: Any, actual_usage: Any, total_usage: Any) -> Any:
            call = _call_under_way.get()
            if call is not None and call.wrapper is self:
                for usage, list_ in ((actual_usage, call.actual), (total_usage, call.total)):
                    counted = _guarded(_usage_of, usage or {})
                    if counted is not None:
                        list_.append(counted)
            return original_update(self, actual_usage, total_usage)

        def clear_usage_summary(self: Any) -> Any:
            _guarded(_client_of, self, cleared=True)
            return original_clear(self)

        wrapper_class.create = create
        wrapper_class._update_usage = _update_usage
        wrapper_class.clear_usage_summary = clear_usage_summary

    @staticmethod
    def _follow_runs(response_class: Any) -> None:
        original = response_class.__init__

        def __init__(self: Any, *arguments: Any, **options: Any) -> None:
            original(self, *arguments, **options)
            _guarded(_begin_run, self)

        response_class.__init__ = __init__

    @staticmethod
    def _follow_streams(stream_class: Any) -> None:
        """A stream that the program sets inside a block (its own websocket, say) carries the run from then on."""
        original = stream_class.set_default

        def set_default(stream: Any) -> Any:
            return original(_guarded(_listening, stream) or stream)

        stream_class.set_default = staticmethod(set_default)

    @staticmethod
    def _follow_async_tools(agent_class: Any) -> None:
        """An async tool of a synchronous chat runs in a bare thread, without context and without IOStream."""
        original = getattr(agent_class, "_run_async_in_thread", None)
        if original is None:
            return

        def _run_async_in_thread(self: Any, coroutine: Any) -> Any:
            run = _guarded(_current_run)
            if run is None:
                return original(self, coroutine)

            async def within() -> Any:
                _active_run.set(run)
                return await coroutine

            return original(self, within())

        agent_class._run_async_in_thread = _run_async_in_thread


_hooks = _Hooks()


def _model_of(wrapper: Any, config: Mapping[str, Any]) -> str:
    configured = (config, *getattr(wrapper, "_config_list", ()))
    return next((str(each["model"])[:256] for each in configured if each.get("model")), "unknown")


def _listening(stream: Any) -> Any:
    run = None if stream is None or hasattr(stream, "_mozaiks_channel") else _current_run()
    return stream if run is None else _ListeningStream(stream, run)


def _begin_run(response: Any) -> None:
    """A response that the block's own code asks for is a run of its own; one inside a run belongs to that run."""
    around = _current_run()
    stream = response.iostream
    if around is None or hasattr(stream, "_mozaiks_channel"):
        return
    if not around.is_base:
        _listen_to(stream, around, is_nested=True)
        return
    run = around.block._new_run(around.dialect)
    run.response = response
    _listen_to(stream, run, is_nested=False)


def _sender_of(event: Any) -> Any:
    """The agent object behind a text: AG2's event has only its name."""
    name = getattr(event.content, "sender", None)
    for frame in _frames(8):
        sender = frame.f_locals.get("sender")
        if sender is not None and getattr(sender, "name", None) == name:
            return sender
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Hooks in AG2 1.x

#: The run of the turn that is going on, so that the turns of sub-agents belong to it.
_active_v1_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("mozaiks_active_v1_run", default=None)


class _V1Hooks:
    """AG2 1.x: every turn of an agent (``ask``, ``run``, a sub-agent's task) goes through one scope, which gets a
    subscriber and a middleware more. A turn that is not inside another one is a run."""

    def __init__(self) -> None:
        self.version: str | None = None
        self._middleware_class: Any = object
        self._lock = threading.Lock()

    def install(self) -> bool:
        """Returns False when AG2 1.x is not there. Raises ``RuntimeError`` for one that cannot be metered."""
        with self._lock:
            if self.version is not None:
                return True
            try:
                import ag2
                from ag2 import Agent
                from ag2.middleware import BaseMiddleware
            except ImportError:
                return False
            if not hasattr(Agent, "_drive_scope"):
                raise RuntimeError(f"ag2 {ag2.__version__} is not known to mozaiks_bridge (1.2 is)")
            self._follow_turns(Agent)
            self._middleware_class = _make_v1_middleware(BaseMiddleware)
            self.version = re.sub(r"[^\w.]", ".", str(ag2.__version__))
            return True

    def _follow_turns(self, agent_class: Any) -> None:
        original = agent_class._drive_scope

        @contextlib.asynccontextmanager
        async def _drive_scope(
            agent: Any, event: Any, *, context: Any, additional_middleware: Any = (), **options: Any
        ) -> Any:
            outer = _active_v1_run.get()
            run = outer or _guarded(_begin_v1_run)
            if run is None:
                async with original(
                    agent, event, context=context, additional_middleware=additional_middleware, **options
                ) as drive:
                    yield drive
                return

            async def observe(event: Any) -> None:
                _guarded(run.observe_v1, event, str(agent.name))

            def stop_in_time(event: Any, context: Any) -> Any:
                return self._middleware_class(event, context, run)

            middleware = (*additional_middleware, stop_in_time)
            with contextlib.ExitStack() as scope:
                _set_within(scope, _active_v1_run, run)
                failures: list[BaseException] = []
                if outer is None:
                    scope.enter_context(_v1_run_ending(run, failures))
                scope.enter_context(context.stream.sub_scope(observe))
                async with original(
                    agent, event, context=context, additional_middleware=middleware, **options
                ) as drive:
                    yield _noting_failure(drive, failures)

        agent_class._drive_scope = _drive_scope


_v1_hooks = _V1Hooks()


def _make_v1_middleware(base: Any) -> Any:
    class StopInTime(base):
        """Innermost around each model call: asks whether it may still be made."""

        def __init__(self, event: Any, context: Any, run: _Run) -> None:
            super().__init__(event, context)
            self._run = run

        async def on_llm_call(self, call_next: Any, events: Any, context: Any) -> Any:
            run = self._run
            if run.block._settle_sec > 0:
                await _in_thread(run.settle)
            run.check()
            with run.calling():
                return await call_next(events, context)

    return StopInTime


def _begin_v1_run() -> _Run | None:
    around = _active_run.get()
    return None if around is None else around.block._new_run(f"ag2/{_v1_hooks.version}")


def _noting_failure(drive: Callable[[], Any], failures: list[BaseException]) -> Callable[[], Any]:
    """A turn may be driven in a task of its own: its scope is then left in peace, and the failure surfaces later."""

    async def driven() -> Any:
        try:
            return await drive()
        except BaseException as error:
            failures.append(error)
            raise

    return driven


@contextlib.contextmanager
def _v1_run_ending(run: _Run, failures: list[BaseException]) -> Iterator[None]:
    """AG2 1.x has no event for the end of a run; this makes it, in the classic shape."""
    try:
        yield
    except BaseException as error:
        _guarded(run.fail_v1, error)
        raise
    if failures:
        _guarded(run.fail_v1, failures[-1])
    else:
        _guarded(run.complete_v1)


def _set_within(scope: contextlib.ExitStack, variable: contextvars.ContextVar[Any], value: Any) -> None:
    """Sets a context variable until the scope is left, also when that happens in another context."""
    before = variable.get()
    token = variable.set(value)

    def reset() -> None:
        try:
            variable.reset(token)
        except ValueError:
            variable.set(before)

    scope.callback(reset)


def _install_hooks() -> str:
    """Hooks into the AG2s that the program uses, and returns the dialect of the first. Without an import so far, into
    those that are installed; an AG2 that is installed and not used is not imported for nothing."""
    is_loaded = {name: name in sys.modules for name in ("autogen", "ag2")}
    wants_all = not any(is_loaded.values())
    has_classic = (wants_all or is_loaded["autogen"]) and _hooks.install()
    has_v1 = (is_loaded["ag2"] or (wants_all and not has_classic)) and _v1_hooks.install()
    if has_classic:
        return f"ag2-classic/{_hooks.version}"
    if has_v1:
        return f"ag2/{_v1_hooks.version}"
    raise RuntimeError("neither classic AG2 (autogen) nor AG2 1.x (ag2) is installed")


# ---------------------------------------------------------------------------------------------------------------------
# The block


class mozaiks:  # noqa: N801 - it is used as a statement
    """Everything that AG2 does inside the block is sent to the Mozaiks server. ``with`` or ``async with``.

    ``chat_id`` names the chat; ``app_id``, ``user_id`` and ``workflow_name`` may be left out when it exists.
    ``url`` and ``key`` default to ``MOZAIKS_URL`` and ``MOZAIKS_KEY``.
    ``human_input``: ``"program"`` (the program answers AG2 as ever) or ``"mozaiks"`` (the person in the ChatUI does).
    ``spool_path``: a file for what is not acknowledged yet, so that it outlives a killed process.
    ``spool_limit``: events that may wait; beyond it everything but usage is dropped, and that is logged.
    ``flush_timeout_sec``: how long leaving the block may wait for model calls under way, and again for the server.
    ``settle_sec``: how long a model call may wait until the usage before it is acknowledged, so that ``stop`` comes in
    time for the very next call; 0 does not wait.
    ``input_timeout_sec``: how long a person may take to answer; None waits as long as the server keeps the question.

    After the block ``undelivered`` is the number of events that the server has not acknowledged.
    """

    def __init__(
        self,
        *,
        chat_id: str,
        app_id: str | None = None,
        user_id: str | None = None,
        workflow_name: str | None = None,
        url: str | None = None,
        key: str | None = None,
        human_input: Literal["program", "mozaiks"] = "program",
        spool_path: str | os.PathLike[str] | None = None,
        spool_limit: int = 10_000,
        flush_timeout_sec: float = 10.0,
        settle_sec: float = 0.0,
        timeout_sec: float = 15.0,
        input_timeout_sec: float | None = None,
    ) -> None:
        if human_input not in ("program", "mozaiks"):
            raise ValueError("human_input must be 'program' or 'mozaiks'")
        identity = {"chat_id": chat_id, "app_id": app_id, "user_id": user_id, "workflow_name": workflow_name}
        self._identity = {name: value for name, value in identity.items() if value is not None}
        self._url = url or os.environ.get("MOZAIKS_URL") or "http://127.0.0.1:8000"
        self._key = key or os.environ.get("MOZAIKS_KEY") or None
        self._human_input = human_input
        self._spool_path = os.fspath(spool_path) if spool_path is not None else None
        self._spool_limit = spool_limit
        self._flush_timeout_sec = flush_timeout_sec
        self._settle_sec = settle_sec
        self._timeout_sec = timeout_sec
        self._input_timeout_sec = input_timeout_sec
        self._outbox: _Outbox
        self._base: _Run
        self._runs: list[_Run] = []
        self._runs_lock = threading.Lock()
        self._leave = contextlib.ExitStack()
        self._pending = 0
        self._stop_scope: str | None = None
        self._reported: list[Callable[[], BaseException | None]] = []
        self._questions: set[_Server] = set()
        self.undelivered = 0

    @property
    def run_ids(self) -> list[str]:
        """The runs that have begun so far."""
        return [run.run_id for run in self._runs if run.has_begun]

    # -- entering -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> mozaiks:
        if self._runs:
            raise RuntimeError("a mozaiks block is entered once; make a new one")
        global _open_blocks
        dialect = _install_hooks()
        _open_blocks += 1
        self._outbox = _acquire_outbox(self._outbox_key, self._make_outbox)
        self._base = self._new_run(dialect)
        self._base.is_base = True
        _set_within(self._leave, _active_run, self._base)
        if _hooks.io_stream is not None:
            inner = _hooks.io_stream.get_default()
            inner = getattr(inner, "_mozaiks_inner", inner)
            _set_within(self._leave, _hooks.io_stream._default_io_stream, _ListeningStream(inner, self._base))
        return self

    async def __aenter__(self) -> mozaiks:
        return self.__enter__()

    @property
    def _outbox_key(self) -> tuple[Any, ...]:
        return (self._url, self._key, self._spool_path, self._spool_limit)

    def _make_outbox(self) -> _Outbox:
        return _Outbox(
            url=self._url,
            key=self._key,
            spool_path=self._spool_path,
            spool_limit=self._spool_limit,
            timeout_sec=self._timeout_sec,
        )

    def _new_run(self, dialect: str) -> _Run:
        run = _Run(self, dialect, is_base=False)
        with self._runs_lock:
            self._runs.append(run)
        return run

    # -- leaving ------------------------------------------------------------------------------------------------------

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.close()
        self._cancel_unfinished(error)
        if _is_loop_running():
            # Waiting here would stop the event loop; `async with` waits without.
            threading.Thread(target=self._finish, args=(error,), name="mozaiks-finish").start()
        else:
            self._finish(error)

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.close()
        self._cancel_unfinished(error)
        done = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def finish() -> None:
            self._finish(error)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: done.done() or done.set_result(None))

        # No daemon: when the program is cancelled again and ends, what is left is still delivered.
        threading.Thread(target=finish, name="mozaiks-finish").start()
        await asyncio.shield(done)

    def _unfinished(self) -> list[_Run]:
        with self._runs_lock:
            return [run for run in self._runs if not run.has_ended]

    def _cancel_unfinished(self, error: BaseException | None) -> None:
        """AG2 cannot be cancelled: its thread or task goes on when the program looks away. So the next model call of
        a run that was left behind raises, and AG2 ends by itself."""
        for run in self._unfinished():
            if error is None and run.is_base:
                continue
            run.cancel()
            task = getattr(run.response, "_task_ref", None)
            if isinstance(task, asyncio.Task) and _is_loop_running():
                task.cancel()
        for question in list(self._questions):
            question.abort()

    def _finish(self, error: BaseException | None) -> None:
        global _open_blocks
        _open_blocks -= 1
        _guarded(self._end_runs, error)
        self.undelivered = _guarded(self._outbox.flush, self, self._flush_timeout_sec) or 0
        if self.undelivered:
            where = f"they stay in {self._spool_path}" if self._spool_path else "give spool_path to keep them"
            log.error("%d events of chat %s are not delivered; %s", self.undelivered, self._identity["chat_id"], where)
        # A model call that outlasts the block still reports its usage: then the outbox stays, to the program's end.
        if all(run.calls_under_way == 0 for run in self._runs):
            _release_outbox(self._outbox_key)

    def _end_runs(self, error: BaseException | None) -> None:
        deadline = time.monotonic() + self._flush_timeout_sec
        unfinished = self._unfinished()
        for run in unfinished:
            run.wait_until_idle(max(0.0, deadline - time.monotonic()))
        begun = [run for run in unfinished if run.has_begun]
        if error is None:
            for run in begun:
                if run.is_base:
                    run.end("success", run._termination_reason)
                else:
                    run.end("stopped", "the program left the run before its end")
            return
        is_failure = isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError)
        if is_failure and not begun and not self._was_reported(error):
            begun = [self._base]
        for run in begun:
            if is_failure and not self._was_reported(error):
                run.report_error(error)
            run.fail(error)

    def _was_reported(self, error: BaseException) -> bool:
        """Whether AG2 told of this exception itself, before it reached the program."""
        reported = [reference() for reference in self._reported]
        return any(cause is known for cause in _causes_of(error) for known in reported)

    # -- human input --------------------------------------------------------------------------------------------------

    def _await_answer(self, run: _Run, request_id: str) -> str:
        """Blocks until the person has answered. Raises ``TimeoutError``, or ``MozaiksStop`` when cancelled."""
        server = _Server(self._url, self._key, LONG_POLL_SEC + 10)
        chat = quote(self._identity["chat_id"], safe="")
        path = f"/api/sessions/{chat}/inputs/{quote(request_id, safe='')}?wait_sec={LONG_POLL_SEC}"
        deadline = None if self._input_timeout_sec is None else time.monotonic() + self._input_timeout_sec
        unknown = 0
        self._questions.add(server)
        try:
            while True:
                if run.is_cancelled:
                    raise MozaiksStop("cancelled")
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"nobody answered within {self._input_timeout_sec} s")
                status, answer = self._poll(server, path)
                if status == 200 and answer.get("status") == "answered":
                    return str(answer.get("user_input") or "")
                if status == 200 and answer.get("status") == "expired":
                    raise TimeoutError("nobody answered as long as the server kept the question")
                if status == 200:
                    continue
                # Not known: it may still be on its way, or this server does not keep questions of foreign runs.
                unknown += status == 404 and self._pending == 0
                if unknown > 10:
                    raise RuntimeError("the Mozaiks server does not know of the question; its answer cannot be had")
                run.sleep(0.5 if status == 404 else 2.0)
        finally:
            self._questions.discard(server)
            server.close()

    @staticmethod
    def _poll(server: _Server, path: str) -> tuple[int, dict[str, Any]]:
        """Returns the status and the answer; status 0 when there was none."""
        try:
            status, _, content = server.request("GET", path)
            answer = json.loads(content) if status == 200 else {}
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        return status, answer if isinstance(answer, dict) else {}


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# python mozaiks_bridge.py redeliver <spool>


def _redeliver(path: str, url: str, key: str | None, timeout_sec: float) -> int:
    """Posts what a spool file holds. Returns the number of events that could not be delivered."""
    outbox = _Outbox(url=url, key=key, spool_path=path, spool_limit=sys.maxsize, timeout_sec=15)
    waiting = len(outbox._items)
    print(f"{path}: {waiting} events to deliver to {url}")
    outbox.acquire()
    deadline = time.monotonic() + timeout_sec
    left = waiting
    while left and time.monotonic() < deadline:
        left = outbox.flush(None, min(2.0, max(0.1, deadline - time.monotonic())))
        refused = f", {outbox.refused} refused" if outbox.refused else ""
        print(f"{path}: {waiting - left} of {waiting} delivered{refused}")
    return left


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="mozaiks_bridge.py", description="The AG2 bridge of Mozaiks Runtime.")
    commands = parser.add_subparsers(required=True)
    redeliver = commands.add_parser("redeliver", help="deliver the events of a spool file that a process left behind")
    redeliver.add_argument("spool", nargs="+", help="spool files")
    redeliver.add_argument("--url", default=os.environ.get("MOZAIKS_URL", "http://127.0.0.1:8000"))
    redeliver.add_argument("--key", default=os.environ.get("MOZAIKS_KEY"), help="better given as MOZAIKS_KEY")
    redeliver.add_argument("--timeout-sec", type=float, default=60.0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    left = sum(_redeliver(path, options.url, options.key, options.timeout_sec) for path in options.spool)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
