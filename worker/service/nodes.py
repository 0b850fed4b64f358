"""The nodes that a worker knows, each with its secret: it talks to no other.

A hand-out only chooses among them. Whoever can write to Redis can put any address into a hand-out,
and a worker that believed it would send the secret there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from dicom_node.base.errors import ConfigurationError
from worker.service.node import NodeClient
from worker.settings import KnownNode, Worker

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHOWN = 80
"""Characters of a foreign URL that a log line shows."""


class Nodes:
    """Clients of every known node.

    Parameters
    ----------
    worker : Worker
        ``[worker]``: ``nodes`` and, beside them, ``announce``.
    secret : str
        Secret of the nodes that have none of their own.
    connect : callable
        Makes the client of a node.

    Raises
    ------
    ConfigurationError
        No node is known, a URL is none, or a node has no secret.
    """

    def __init__(
        self, worker: Worker, secret: str, connect: Callable[..., NodeClient] = NodeClient
    ) -> None:
        self._clients: dict[str, NodeClient] = {}
        for entry in check_nodes(worker, secret):
            key = _address_key(entry.url)
            if key not in self._clients:
                own = _read_secret(entry.secret_file) if entry.secret_file else secret
                ca = entry.ca or worker.ca
                self._clients[key] = connect(entry.url, own, ca=ca)

    def find(self, url: str) -> NodeClient | None:
        """Return the client of the node at `url`, None where that is not a known node."""
        try:
            return self._clients.get(_address_key(url))
        except ValueError:
            return None

    def all(self) -> list[NodeClient]:
        """Return the clients of all known nodes."""
        return list(self._clients.values())

    def close(self) -> None:
        """Close the connections to the nodes."""
        for client in self._clients.values():
            client.close()


def check_nodes(worker: Worker, secret: str) -> list[KnownNode]:
    """Return the known nodes.

    Raises
    ------
    ConfigurationError
        See `Nodes`.
    """
    entries = [
        KnownNode(url=entry) if isinstance(entry, str) else entry
        for entry in (*worker.nodes, *worker.announce)
    ]
    if not entries:
        raise ConfigurationError(
            "worker.nodes: no node is known; name the web.url of each, such as "
            'nodes = ["http://node:8080"] (serve --with-worker passes its own)'
        )
    check_addresses(entries)
    if lacking := [entry for entry in entries if not (entry.secret_file or secret)]:
        raise ConfigurationError(
            f"worker.secret_file: no secret for {shown_url(lacking[0].url)}; name the file "
            "(or set CHEXFRACT_WORKER_WORKER__SECRET)"
        )
    return entries


def check_addresses(entries: Iterable[KnownNode | str]) -> None:
    """Raise `ConfigurationError` for the first that is not the URL of a node."""
    for entry in entries:
        url = entry if isinstance(entry, str) else entry.url
        try:
            _address_key(url)
        except ValueError as exc:
            raise ConfigurationError(f"worker.nodes: {shown_url(url)}: {exc}") from exc


def shown_url(url: str) -> str:
    """Return a URL for a log line: short, plain, without user and password."""
    plain = re.sub(r"[^!-~]", "?", url[: 2 * _SHOWN])
    scheme, mark, rest = plain.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"[:_SHOWN]


def _address_key(url: str) -> str:
    """Return what two spellings of one address share.

    Raises
    ------
    ValueError
        It is not the URL of a node.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an http:// or https:// URL; write http://node:8080")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a node's URL has neither user nor query")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}"


def check_secret(text: str, where: str) -> str:
    """Return a secret without the blanks around it.

    Raises
    ------
    ConfigurationError
        A header cannot carry it; what refuses it later would show it.
    """
    secret = text.strip()
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigurationError(f"{where}: a secret is one line of ASCII characters")
    return secret


def _read_secret(path: Path) -> str:
    where = f"worker.nodes: secret_file {path}"
    try:
        secret = check_secret(path.read_text(encoding="utf-8", errors="replace"), where)
    except OSError as exc:
        raise ConfigurationError(f"{where}: {exc.strerror}") from exc
    if not secret:
        raise ConfigurationError(f"worker.nodes: secret_file {path} is empty")
    return secret
