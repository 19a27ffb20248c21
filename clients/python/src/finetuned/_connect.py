"""Where the daemon is and how to prove who calls: the rules of the command line client."""

import dataclasses
import os
import pathlib
from typing import Any

import grpc
import grpc.aio

from . import _effects
from ._errors import InvalidArgument

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


@dataclasses.dataclass
class Address:
    """Everything connect() was told, with defaults filled in."""

    target: str
    token: str
    credentials: grpc.ChannelCredentials | None  # None: Unix socket, or TCP without TLS

    def connection(self, asynchronous: bool) -> _effects.Connection:
        grpc_or_aio: Any = grpc.aio if asynchronous else grpc
        options = list(_OPTIONS)
        if self.target.startswith("unix:"):
            options.append(("grpc.default_authority", "localhost"))
        if self.credentials is None:
            channel = grpc_or_aio.insecure_channel(self.target, options)
        else:
            channel = grpc_or_aio.secure_channel(self.target, self.credentials, options)
        return _effects.Connection(channel, self.target, self.token)


def default_socket() -> str:
    """/run for root's daemon, the user's own under $XDG_RUNTIME_DIR, else ~/.local/state."""
    if os.geteuid() == 0:
        return "/run/finetuned/finetuned.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return f"{runtime}/finetuned/finetuned.sock"
    return f"{os.environ.get('HOME', '/tmp')}/.local/state/finetuned/finetuned.sock"


def find(
    server: str | None, token: str | None, token_file: str | None, ca: str | None, cert: str | None, key: str | None
) -> Address:
    """InvalidArgument where a file cannot be read or options do not go together."""
    target = server or os.environ.get("FINETUNED_SERVER") or f"unix://{default_socket()}"
    if target.startswith("/"):
        target = f"unix://{target}"
    if token and token_file:
        raise InvalidArgument("give token or token_file, not both")
    if (cert is None) != (key is None):
        raise InvalidArgument("cert and key belong together")
    if cert is not None and ca is None:
        raise InvalidArgument("a client certificate needs ca, the authority of the daemon's certificate")
    if token_file is not None:
        token = _read(token_file, "the token file").decode().rstrip("\r\n")
    credentials = None
    if ca is not None and not target.startswith("unix:"):
        credentials = grpc.ssl_channel_credentials(
            _read(ca, "the CA file"),
            _read(key, "the client key") if key else None,
            _read(cert, "the client certificate") if cert else None,
        )
    return Address(target, token or "", credentials)


def _read(path: str, what: str) -> bytes:
    try:
        return pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read {what} {path}: {error.strerror}") from None
