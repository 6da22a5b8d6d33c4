"""Histories from the ledger, kept until the ledger has newer ones."""

from collections import OrderedDict

from serving.gateway.history import History

MOST = 32 << 20  # bytes of columns

Key = tuple[str, int, str, str]  # name and version, data set, symbol


class Kept:
    """The histories that were asked for last. Old ones are never served after `drop`."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._histories: OrderedDict[Key, History] = OrderedDict()
        self._drops: dict[str, int] = {}  # of each data set

    def drops(self, data: str) -> int:
        """How often a data set was dropped: `put` wants the number from before the look-up."""
        return self._drops.get(data, 0)

    def get(self, key: Key) -> History | None:
        history = self._histories.get(key)
        if history is not None:
            self._histories.move_to_end(key)
        return history

    def put(self, key: Key, history: History, drops: int) -> None:
        """Keep a history, unless its data set changed while it was looked up."""
        if drops != self.drops(key[2]) or key in self._histories:
            return
        self._histories[key] = history
        self._size += _bytes(history)
        while self._size > self._most:
            _, oldest = self._histories.popitem(last=False)
            self._size -= _bytes(oldest)

    def drop(self, data: str) -> None:
        """Forget all histories of a data set."""
        self._drops[data] = self.drops(data) + 1
        for key in list(self._histories):
            if key[2] == data:
                self._size -= _bytes(self._histories.pop(key))

    def drop_all(self) -> None:
        """Forget everything: nobody knows what has changed."""
        for data in {key[2] for key in self._histories}:
            self.drop(data)


def _bytes(history: History) -> int:
    return sum(map(len, history.series.columns.values()))
