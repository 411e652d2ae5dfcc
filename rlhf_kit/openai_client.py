"""The one client of servers that speak OpenAI's protocol: where the key comes from, what is tried again, what is said.

`engines.sampling_server` asks /completions with it, `evaluation.endpoint_judge` /chat/completions. A key stands in an
environment variable, is read anew for each request, and stands in no message. Neither does what a URL may hide: one with a user
name, a password, a query or a fragment is refused, and what stood there is not shown.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from rlhf_kit.errors import KitError

KEY = "RLHF_KIT_API_KEY"  # the sampling servers' key; a judge names a variable of its own
# A server that keeps failing is given up after about half a minute: 1 + 2 + 4 + 8 + 16 seconds between six tries.
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 6, 1.0, 60.0
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 10.0, 900.0
MAY_PASS = (408, 409, 425, 429)  # and whatever is 500 or more
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Silent(Exception):
    """A server that does not answer, or only with what may pass, time after time; str() says what it did."""


class Refused(KitError):
    """A server's answer that another try would not change; `status` is HTTP's, `said` the server's words, one short line."""

    def __init__(self, message: str, status: int, said: str):
        super().__init__(message)
        self.status, self.said = status, said


def base_url(url: str) -> str:
    """`http://host:8000` -> `http://host:8000/v1`; an address whose path names a version stays as it is.

    KitError for what is no address of a server, without what may hold a password or a key.
    """
    if "@" in url:  # not echoed at all: wherever it stands, a password may be before it
        raise KitError(
            "a server's URL must hold no user name or password; an API key goes into an environment variable "
            f"({KEY} for sampling, the one named by api_key_env for a judge)"
        )
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    if plain != url:
        raise KitError(
            f"the server's URL {plain} comes with a query or a fragment (not shown), which must go; an API key goes into an "
            "environment variable"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # a port that is no number or above 65535, a bracket left open
        raise KitError(f"the server {url!r} is not a URL such as http://host:8000 ({error})") from None
    odd = port == 0 or not url.isprintable() or " " in url
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise KitError(f"the server {url!r} is not a URL such as http://host:8000")
    path = parts.path.rstrip("/")
    versioned = re.search(r"/v\d", path)
    return f"{parts.scheme}://{parts.netloc}{path if versioned else path + '/v1'}"


def named_servers(given: str | Sequence[str]) -> tuple[str, ...]:
    """The base URLs in a text (split at commas and spaces) or a list, each once. KitError as for `base_url`."""
    text = given if isinstance(given, str) else " ".join(given)
    return tuple(dict.fromkeys(base_url(url) for url in text.replace(",", " ").split()))


class Client:
    """One server. Calls are safe from several threads; `close` ends those that wait.

    key_env: the environment variable that holds the key, None to send none. what: how messages call the server ("the
    judge at"). tries, pause: attempts a request, and seconds before the second one, then twice as long each time, or longer
    where Retry-After says so, at most LONGEST_PAUSE. A server on this machine is asked past any proxy of the environment.
    """

    def __init__(
        self, url: str, *, key_env: str | None, what: str = "the server", tries: int | None = None,
        pause: float | None = None, seconds: float | None = None, connections: int = 100,
    ):  # fmt: skip
        import httpx

        self.url, self.key_env, self.what = base_url(url), key_env, what
        self.tries, self.pause = tries or TRIES, FIRST_PAUSE if pause is None else pause
        self.gone = threading.Event()
        self._http = httpx.Client(
            timeout=httpx.Timeout(seconds or SECONDS_TO_ANSWER, connect=min(SECONDS_TO_CONNECT, seconds or SECONDS_TO_ANSWER)),
            limits=httpx.Limits(max_connections=connections),
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,
            follow_redirects=False,  # a redirect would carry what is asked, and perhaps the key, to another place
        )

    def models(self) -> list[dict]:
        """The models it serves, as `/models` tells, asked once. Silent when it does not answer, KitError when it refuses."""
        found = self._once("GET", "models", None, lambda reply: [one for one in reply["data"] if isinstance(one, dict)])
        if isinstance(found, _Passing):
            raise Silent(f"it {found.why}")
        return found

    def post(self, route: str, body: dict, read: Callable[[dict], Any], stop: threading.Event | None = None) -> Any:
        """`read(reply)` of POST `route`. What `read` cannot take (KeyError and the like) is tried again too.

        stop: ends the waiting between tries. Silent when all tries failed, or the client was closed or stopped; Refused for
        an answer that another try would not change; KitError for a key that it does not take.
        """
        why, pause, wanted = "", self.pause, 0.0
        for attempt in range(self.tries):
            # Many askers must not come back at once, and none before the time that the server named.
            wait = max(pause * random.uniform(0.75, 1.25), wanted * random.uniform(1.0, 1.25))
            if attempt and (self.gone if stop is None else stop).wait(wait):
                break
            if self.gone.is_set():
                break
            found = self._once("POST", route, body, read)
            if not isinstance(found, _Passing):
                return found
            why = f"{found.why}, {attempt + 1} times in a row"
            pause, wanted = min(LONGEST_PAUSE, self.pause * 2**attempt), min(LONGEST_PAUSE, found.wanted)
        raise Silent(why or "was given up")

    def close(self) -> None:
        self.gone.set()
        self._http.close()

    def _once(self, method: str, route: str, body: dict | None, read: Callable[[dict], Any]) -> Any:
        """One request: what `read` makes of its answer, or `_Passing`."""
        import httpx

        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            reply = self._http.request(method, f"{self.url}/{route}", json=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:  # the last: a key that is no ASCII
            return _Passing(f"could not be reached ({type(error).__name__})")
        except RuntimeError:  # the client was closed while we waited
            return _Passing("was given up")
        status = reply.status_code
        if status == 200:
            try:
                return read(reply.json())
            except KitError:
                raise
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                return _Passing(f"sent something that is no answer to /{route} ({type(error).__name__})")
        said = _short(_message(reply), key)
        if status in MAY_PASS or status >= 500:
            return _Passing(f"answered {status} ({said})", _retry_after(reply.headers.get("retry-after")))
        hint = f"; it wants an API key: {self._about_key(key)}" if status in (401, 403) else ""
        raise Refused(f"{self.what} {self.url} answered {status} ({said}){hint}", status, said)

    def _about_key(self, key: str) -> str:
        if not self.key_env:
            return "name the environment variable that holds it in api_key_env"
        return f"{self.key_env} {'is set, but not to a key that it takes' if key else 'is not set'}"


class _Passing:
    """What may pass: why, and the seconds that the server asks to be left alone for."""

    def __init__(self, why: str, wanted: float = 0.0):
        self.why, self.wanted = why, wanted


def _retry_after(header: str | None) -> float:
    """Seconds from a Retry-After header: a number, or a date (RFC 9110 section 10.2.3). 0 where there is none."""
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _message(reply) -> str:
    """The message of an error's body, the body itself where it is none that we know."""
    try:
        value = reply.json()
    except ValueError:
        return reply.text
    error = value.get("error", value) if isinstance(value, dict) else value
    found = error.get("message") if isinstance(error, dict) else error
    return found if isinstance(found, str) and found else reply.text


def _short(text: str, key: str) -> str:
    """A server's words as one short line without the key."""
    text = text.replace(key, "***") if key else text
    return " ".join(text.split())[:300] or "no words"
