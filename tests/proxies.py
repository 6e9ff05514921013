"""A proxy on loopback whose lines can be cut, for tests of what happens then."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 65_536
_AWAY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Proxy:
    """Passes TCP on to `port`. While it is `broken`, open connections are gone and whoever asks
    gets a 503, as from a balancer without anybody behind it. `heads` is what clients sent first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._broken = False
        self.heads: list[str] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break it."""
        self._broken = True
        for line in list(self._open):
            _close(line)

    def mend(self) -> None:
        """As it was."""
        self._broken = False

    def close(self) -> None:
        self.cut()
        _close(self._server)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            first = client.recv(_PIECE)
            self.heads.append(first.decode("latin-1"))
            if self._broken:
                client.sendall(_AWAY)
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                self._open |= {client, server}
                server.sendall(first)
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                while piece := client.recv(_PIECE):
                    self.heads.append(piece.decode("latin-1"))
                    server.sendall(piece)
                _close(server)
                back.join(5)
                self._open -= {client, server}


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy before `url`."""
    proxy = Proxy(int(url.rsplit(":", 1)[1]))
    try:
        yield proxy
    finally:
        proxy.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    _close(target)


def _close(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
