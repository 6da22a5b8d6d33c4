"""Messages over a socket: four bytes of length, then msgpack."""

import socket
import struct
import threading
from typing import Any

import msgspec

_LENGTH = struct.Struct("!I")
_ENCODER = msgspec.msgpack.Encoder()


def packed(message: Any) -> bytes:
    """A message with its length in front."""
    content = _ENCODER.encode(message)
    return _LENGTH.pack(len(content)) + content


class Reader:
    """Takes bytes as they come and gives whole messages of one union of types."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._waiting = bytearray()

    def feed(self, content: bytes) -> list[Any]:
        """The messages that are complete now."""
        self._waiting += content
        messages = []
        start = 0
        while len(self._waiting) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._waiting, start)
            end = start + _LENGTH.size + length
            if len(self._waiting) < end:
                break
            messages.append(self._decoder.decode(self._waiting[start + _LENGTH.size : end]))
            start = end
        del self._waiting[:start]
        return messages


class Channel:
    """The supervisor's end: any thread sends, one thread receives."""

    def __init__(self, connection: socket.socket, kind: Any) -> None:
        self._connection = connection
        self._reader = Reader(kind)
        self._sending = threading.Lock()
        self._received: list[Any] = []

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError if the other end is gone."""
        content = packed(message)
        with self._sending:
            self._connection.sendall(content)

    def receive(self) -> Any:
        """The next message, waiting for it; None when the other end has closed."""
        while not self._received:
            content = self._connection.recv(1 << 20)
            if not content:
                return None
            self._received = self._reader.feed(content)
        return self._received.pop(0)
