"""A port of this machine that a test's device answers at, and that can vanish with all its connections."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Loopback:
    """Takes connections at `port`, and tells `meet` of each; all that are `open` end with it."""

    def __init__(self, meet: Callable[[socket.socket], None]) -> None:
        self._meet = meet
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Vanish: all connections end, and no new ones are taken."""
        for one in (self._listener, *self.open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.open.append(peer)
                self._meet(peer)
