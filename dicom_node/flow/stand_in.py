"""A Redis written in Python (fakeredis) as a process of its own, for where none is installed.

Run by `flow.broker.Embedded` as ``python -m dicom_node.flow.stand_in PORT``, the password on
standard input. fakeredis checks a password and asks for none, so the first command is checked here.
"""

from __future__ import annotations

import hmac
import re
import sys
from typing import Any

FIRST_COMMAND_LIMIT = 4096
"""Bytes in which a client has to give its password."""


def first_command(content: bytes) -> list[bytes] | None:
    """Return the words of the first command in `content` (RESP), or None when it is cut short.

    Raises
    ------
    ValueError
        This is not a command.
    """
    head = re.match(rb"\*(\d{1,3})\r\n", content)
    if not head:
        if b"\r\n" in content or not content.startswith(b"*"[: len(content)]):
            raise ValueError("no command")
        return None
    words, at = [], head.end()
    for _ in range(int(head[1])):
        size = re.compile(rb"\$(\d{1,6})\r\n").match(content, at)
        if not size or len(content) < size.end() + int(size[1]) + 2:
            return None
        words.append(content[size.end() : size.end() + int(size[1])])
        at = size.end() + int(size[1]) + 2
    return words


def knows(words: list[bytes], password: bytes) -> bool:
    """Return whether a command gives the password: ``AUTH`` or ``HELLO n AUTH user password``."""
    name = words[0].upper() if words else b""
    if name == b"HELLO":
        given = words[4] if len(words) > 4 and words[2].upper() == b"AUTH" else b""
    else:
        given = words[-1] if name == b"AUTH" else b""
    return hmac.compare_digest(given, password)


def serve(port: int, password: bytes) -> None:
    """Serve on the loopback until the process is ended."""
    from fakeredis import TcpFakeServer
    from fakeredis._clients._tcp_server import TCPFakeRequestHandler

    class Guarded(TCPFakeRequestHandler):
        def handle(self) -> None:
            content = self._first_command()
            if content:
                self.current_client.get_socket().sendall(content)
                super().handle()

        def _first_command(self) -> bytes:
            """Return what a client sent that knows the password; else answer and return nothing."""
            connection: Any = self.connection
            connection.settimeout(10)
            content, words = b"", None
            try:
                while words is None and len(content) < FIRST_COMMAND_LIMIT:
                    more = connection.recv(FIRST_COMMAND_LIMIT)
                    if not more:
                        return b""
                    content += more
                    words = first_command(content)
                if words is not None and knows(words, password):
                    connection.setblocking(False)
                    return content
                connection.sendall(b"-NOAUTH Authentication required.\r\n")
            except (OSError, ValueError):
                pass
            return b""

    server: Any = TcpFakeServer(("127.0.0.1", port))
    server.RequestHandlerClass = Guarded
    server.daemon_threads = True
    server.fake_server.config[b"requirepass"] = password
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.stdin.buffer.read())
