"""The Hugging Face hub: is it there, is a thing already in its cache, and its clients' many errors in one sentence each.

Models and data sets ask here before they ask the hub: without a network the hub's client tries for 23 seconds, and
what it raises at the end names a file nobody has heard of. Neither transformers nor datasets is imported here.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rlhf_kit.errors import KitError

Kind = Literal["model", "data set"]
_YES = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT (a mirror), or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the environment forbids looking at the hub (HF_HUB_OFFLINE and its older names)."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _YES for name in names)


def reachable(seconds: float = 4.0) -> bool:
    """Whether a connection to the hub, or to the proxy in front of it, can be opened; at most `seconds` are spent."""
    if offline():
        return False
    url = urllib.parse.urlsplit(endpoint())
    host = url.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        port = url.port or {"http": 80, "https": 443}.get(url.scheme, 1080)
    except ValueError:
        return False
    opened = []

    def connect() -> None:
        try:
            socket.create_connection((url.hostname or "", port), timeout=seconds).close()
            opened.append(True)
        except (OSError, UnicodeError):
            pass

    # In a thread: a name server that does not answer holds getaddrinfo for half a minute, without a time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(opened)


def cached(name: str, kind: Kind = "data set") -> bool:
    """Whether something of this id lies in the cache here: then the clients work without a network, too."""
    home = os.path.expanduser(os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))  # fmt: skip
    hub = os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    prefix = "models" if kind == "model" else "datasets"
    found = any(Path(hub, f"{prefix}--{name.replace('/', '--')}").glob("snapshots/*/*"))
    if kind == "data set" and not found:
        prepared = os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")
        # `datasets` writes preference_700K as preference_700_k there
        plain = [re.sub(r"[^a-z0-9/]", "", text.lower()) for text in (name, *(
            folder.name.replace("___", "/") for folder in Path(os.path.expanduser(prepared)).glob("*___*")))]  # fmt: skip
        found = plain[0] in plain[1:]
    return found


def require(name: str, kind: Kind = "data set") -> None:
    """KitError at once where neither the cache nor the hub can give `name`; call it before the hub's clients."""
    if cached(name, kind) or reachable():
        return
    raise KitError(_unreachable(name, kind))


def explain(error: BaseException, name: str, kind: Kind = "data set") -> KitError:
    """The sentence for whatever a client of the hub raised while it was asked for `name`: why, and what to do.

    Raise it `from error`. The causes are looked through, too: transformers and datasets wrap the hub's own errors.
    """
    if isinstance(error, KitError):
        return error
    chain = list(_chain(error))
    kinds = {cls.__name__ for one in chain for cls in type(one).__mro__}
    said = " ".join(" ".join(str(one) for one in chain).split())
    statuses = {getattr(getattr(one, "response", None), "status_code", None) for one in chain}
    page = f"{endpoint()}/{'' if kind == 'model' else 'datasets/'}{name}"
    own = " ".join(str(error).split())[:300] or type(error).__name__
    if any(getattr(one, "errno", None) == errno.ENOSPC for one in chain):
        return KitError(f"the {kind} {name}: no space is left on the disk; free some, or set HF_HOME to a larger disk")
    if "GatedRepoError" in kinds or "gated" in said.lower():
        return KitError(
            f"the {kind} {name} is gated: ask for access and accept its licence at {page}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if 429 in statuses:
        return KitError(f"the {kind} {name}: the hub asks for fewer requests (status 429); wait, or set HF_TOKEN")
    if statuses & {500, 502, 503, 504}:
        return KitError(f"the {kind} {name}: the hub itself fails at the moment; try again later, or give a local path")
    if "RevisionNotFoundError" in kinds:
        return KitError(f"the {kind} {name} has no such revision on the hub ({own}); look at {page}")
    if "RepositoryNotFoundError" in kinds or "DatasetNotFoundError" in kinds:
        return KitError(
            f"there is no {kind} {name} on the hub, or it is private: check the spelling at {page}, log in with "
            "`hf auth login` if it is yours, or give the path of a local copy"
        )
    if statuses & {401, 403}:
        return KitError(
            f"the {kind} {name}: the hub refuses access; log in with `hf auth login` or set HF_TOKEN, and see {page}"
        )
    if "HFValidationError" in kinds:
        return KitError(f"{name} is no hub id: {own}; an id looks like owner/name")
    if "OfflineModeIsEnabled" in kinds or "LocalEntryNotFoundError" in kinds or kinds & _NETWORK:
        return KitError(_unreachable(name, kind))
    if "trust_remote_code" in said or "dataset scripts" in said.lower():
        return KitError(
            f"the {kind} {name} would run code of its authors on this machine, which is not allowed here; give a "
            "local copy of its files (safetensors, Parquet or JSON lines)"
        )
    return KitError(f"the {kind} {name} cannot be opened: {own}; see {page}, or give the path of a local copy")


_NETWORK = {
    "ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "TimeoutException", "TransportError",
    "TimeoutError", "gaierror", "ProxyError", "SSLError", "RemoteProtocolError",
}  # fmt: skip


def _unreachable(name: str, kind: Kind) -> str:
    local = "" if cached(name, kind) else f"the {kind} {name} is not on this machine, and "
    rest = "give the path of a local copy"
    if offline():
        return f"{local or f'the {kind} {name}: '}HF_HUB_OFFLINE forbids asking the hub for it; unset it, or {rest}"
    what = f"the hub ({endpoint()}) cannot be reached"
    return f"{local or f'the {kind} {name}: '}{what}; check the network or the proxy, or {rest}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
