"""A wire that is slow and loses frames: copies Ethernet frames between two interfaces.

Kernels without the queueing discipline ``netem`` cannot delay or lose packets; this can wherever
raw sockets are allowed, and TCP on both sides sees true delays and true losses.
"""

from __future__ import annotations

import argparse
import heapq
import selectors
import socket
import time
from random import Random

EVERY_PROTOCOL = 0x0003
OWN = socket.PACKET_OUTGOING
"""A frame that this host sent itself: raw sockets see those, too."""


def _open(interface: str) -> socket.socket:
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
    line.bind((interface, 0))
    line.setblocking(False)
    return line


def relay(first: str, second: str, delay_s: float, loss: float, rng: Random) -> None:
    """Copy frames both ways until killed: each waits `delay_s`, and `loss` of them are dropped."""
    lines = [_open(first), _open(second)]
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    with selectors.DefaultSelector() as ready:
        for i, line in enumerate(lines):
            ready.register(line, selectors.EVENT_READ, 1 - i)
        while True:
            rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in ready.select(rest):
                line = lines[1 - key.data]
                try:
                    frame, address = line.recvfrom(65536)
                except OSError:
                    continue  # the interface went down or nothing was left
                if address[2] != OWN and rng.random() >= loss:
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + delay_s, number, key.data, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, side, frame = heapq.heappop(waiting)
                try:
                    lines[side].send(frame)
                except OSError:
                    continue  # the interface is down or its queue is full: the frame is lost


def main() -> None:
    """Be the wire until killed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("first")
    options.add_argument("second")
    options.add_argument("--delay", type=float, default=0.0, help="seconds for each frame")
    options.add_argument("--loss", type=float, default=0.0, help="share of frames, 0 to 1")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    relay(chosen.first, chosen.second, chosen.delay, chosen.loss, Random(chosen.seed))


if __name__ == "__main__":
    main()
