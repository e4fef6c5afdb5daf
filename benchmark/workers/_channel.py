"""The parent's end of the pipe to a worker, at which nothing that the worker does makes the parent wait."""

import pickle
import socket
import struct
from multiprocessing.context import SpawnContext
from multiprocessing.reduction import ForkingPickler
from typing import Any

_LENGTH = struct.Struct("!i")
"""What `multiprocessing.connection.Connection`, the worker's end, writes before each message, and reads."""

_MOST_BYTES = 2**27
_READ_BYTES = 2**18
_SEND_SECONDS = 10.0


class ChannelError(Exception):
    """The other end does not keep to the protocol; the text goes on after "because it"."""


class Channel:
    """Sends and takes whole objects; what arrives in parts is kept until the rest is there.

    Args:
        context: gives the pipe.

    Attributes:
        theirs: the other end, to be given to the process and closed here.
    """

    def __init__(self, context: SpawnContext) -> None:
        ours, self.theirs = context.Pipe()
        with ours:
            self._socket = socket.fromfd(ours.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        self._part = bytearray()

    def fileno(self) -> int:
        """Return what `multiprocessing.connection.wait` waits for."""
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Send an object; nothing happens when the other end is closed, which `receive` tells.

        Raises:
            ChannelError: it is not taken in time.
        """
        data = bytes(ForkingPickler.dumps(message))
        self._socket.settimeout(_SEND_SECONDS)
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except TimeoutError as error:
            raise ChannelError(f"did not take its task within {_SEND_SECONDS:g} s") from error
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Any:
        """Return the next object, None while there is no whole one.

        Raises:
            ChannelError: the other end is closed, or what it sent is no object.
        """
        self._socket.settimeout(0.0)
        try:
            # Never more than the present message, so that the next one is still seen by who waits for the pipe.
            while missing := self._n_missing():
                if not (part := self._socket.recv(min(missing, _READ_BYTES))):
                    raise ChannelError("closed the pipe to the run")
                self._part += part
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            raise ChannelError("closed the pipe to the run") from error
        data, self._part = self._part[_LENGTH.size :], bytearray()
        try:
            return pickle.loads(data)
        # Whatever bytes make of it.
        except Exception as error:
            raise ChannelError("sent what is no report") from error

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _n_missing(self) -> int:
        """Return how many bytes of the message are still to come, or of its length while that is unknown."""
        if len(self._part) < _LENGTH.size:
            return _LENGTH.size - len(self._part)
        length = int(_LENGTH.unpack_from(self._part)[0])
        if not 0 < length <= _MOST_BYTES:
            raise ChannelError("sent what is no report")
        return _LENGTH.size + length - len(self._part)
