"""A UDP relay that loses some of what it carries."""

from __future__ import annotations

import random
import selectors
import socket
import threading


class LossyRelay(threading.Thread):
    """Carries datagrams to `port` on loopback and back, each client through a socket of its own.

    Provisional responses are never lost: nothing repeats them. share: of all others, 0 to 1.
    """

    def __init__(self, port: int, share: float, seed: int = 1) -> None:
        super().__init__(daemon=True)
        self._to = ("127.0.0.1", port)
        self._share = share
        self._random = random.Random(seed)
        self._front = self._open()
        self.port = int(self._front.getsockname()[1])
        self._behind: dict[tuple[str, int], socket.socket] = {}
        self._clients: dict[socket.socket, tuple[str, int]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._over = threading.Event()
        self.carried = 0
        self.lost = 0

    @staticmethod
    def _open() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        return made

    def run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.2):
                self._carry(key.fileobj)  # type: ignore[arg-type]

    def _carry(self, source: socket.socket) -> None:
        while True:
            try:
                data, sender = source.recvfrom(65535)
            except OSError:
                return
            if not data.startswith(b"SIP/2.0 1") and self._random.random() < self._share:
                self.lost += 1
                continue
            self.carried += 1
            try:
                if source is not self._front:
                    self._front.sendto(data, self._clients[source])
                    continue
                if sender not in self._behind:
                    made = self._behind[sender] = self._open()
                    self._clients[made] = sender
                    self._selector.register(made, selectors.EVENT_READ)
                self._behind[sender].sendto(data, self._to)
            except OSError:
                self.lost += 1

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._selector.close()
        for made in (self._front, *self._behind.values()):
            made.close()
