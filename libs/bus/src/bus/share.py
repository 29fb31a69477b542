"""How the processes of one consumer share its partitions. Knows no broker.

A partition has one active consumer; the others stand by, in the order in which they came. So the
process that came first would have all of them: it leaves those beyond its share to the next.
"""


class Share:
    """Which of `count` partitions this process works, and how many it should.

    Each process consumes the work queue itself as well, and all of them at the same time: that
    tells how many there are. Of a partition the broker tells the active consumer alone.
    """

    def __init__(self, work: str, count: int) -> None:
        self._work = work
        self._count = count
        self._mine: set[str] = set()
        self._processes = 1

    def works(self, queue: str) -> None:
        """An event came: if this is a partition, this process is its active one."""
        if queue != self._work:
            self._mine.add(queue)

    def left(self, queue: str) -> None:
        """The queue has lost this process as a consumer."""
        self._mine.discard(queue)

    def too_many(self, queue: str, consumers: int) -> bool:
        """Whether to leave this queue, which has so many consumers, to another process."""
        if queue == self._work:
            self._processes = max(1, consumers)
        fair = -(-self._count // self._processes)
        return queue in self._mine and len(self._mine) > fair
