"""Group commit: a request is answered by a flush that began after it had joined."""

from __future__ import annotations

from errno import EIO, ENOSPC

from ggaoe.sched.commit import HOSTS_MAX, TOLD_S, GroupCommit
from unit.proto.host import MAC_A, MAC_B, MAC_C
from unit.sched.making import flush, write

NOW_NS = 1_000_000_000_000


def test_nothing_joined_means_no_flush() -> None:
    commit = GroupCommit()
    assert not commit.start()
    assert commit.done() == []


def test_all_that_joined_share_one_flush() -> None:
    commit = GroupCommit()
    requests = [write(0), write(1), flush()]
    for request in requests:
        commit.join(request)
    assert commit.start()
    assert commit.done() == requests
    assert not commit.start()


def test_only_one_flush_runs_and_late_ones_take_the_next() -> None:
    commit = GroupCommit()
    early, late, later = write(0), write(1), flush()
    commit.join(early)
    assert commit.start()
    commit.join(late)
    assert not commit.start()
    commit.join(later)
    assert commit.done() == [early]
    assert commit.start()
    assert commit.done() == [late, later]
    assert not commit.start()


def test_nobody_is_answered_before_a_flush_was_started() -> None:
    commit = GroupCommit()
    request = write(0)
    commit.join(request)
    assert commit.done() == []
    assert commit.start()
    assert commit.done() == [request]


def test_who_joined_while_a_flush_failed_takes_the_next() -> None:
    commit = GroupCommit()
    early, late = write(0), write(1)
    commit.join(early)
    assert commit.start()
    commit.join(late)
    assert commit.failed(EIO) == [early]
    assert commit.start()
    assert commit.done() == [late]
    assert not commit.start()


def flushed(commit: GroupCommit, error: int = 0) -> None:
    """One flush, from its beginning to its end."""
    commit.join(flush())
    assert commit.start()
    if error:
        commit.failed(error)
    else:
        commit.done()


def test_a_failed_flush_is_told_to_all_who_write() -> None:
    commit = GroupCommit()
    commit.answered(MAC_A)
    flushed(commit)
    commit.answered(MAC_B)
    flushed(commit, EIO)
    assert [commit.error_of(mac, NOW_NS) for mac in (MAC_A, MAC_B, MAC_C)] == [EIO, EIO, 0]


def test_a_failed_flush_without_anything_to_save_is_told_to_nobody_else() -> None:
    commit = GroupCommit()
    commit.answered(MAC_A)
    flushed(commit)
    flushed(commit, EIO)
    assert commit.error_of(MAC_A, NOW_NS) == 0


def test_what_is_answered_while_a_flush_runs_is_saved_by_the_next() -> None:
    commit = GroupCommit()
    commit.join(flush())
    assert commit.start()
    commit.answered(MAC_A)
    commit.done()
    flushed(commit, EIO)
    assert commit.error_of(MAC_A, NOW_NS) == EIO


def test_a_loss_is_told_until_a_host_must_have_heard() -> None:
    commit = GroupCommit()
    commit.answered(MAC_A)
    flushed(commit, EIO)
    commit.answered(MAC_A)
    flushed(commit)
    later_ns = NOW_NS + TOLD_S * 1_000_000_000
    assert commit.error_of(MAC_A, NOW_NS) == EIO
    assert commit.error_of(MAC_A, later_ns) == EIO
    assert commit.error_of(MAC_A, later_ns + 1) == 0
    flushed(commit, ENOSPC)
    assert commit.error_of(MAC_A, later_ns + 1) == 0
    commit.answered(MAC_A)
    flushed(commit, ENOSPC)
    assert commit.error_of(MAC_A, later_ns + 1) == ENOSPC


def test_whoever_is_forgotten_is_told_all_the_same() -> None:
    commit = GroupCommit()
    macs = [number.to_bytes(6, "big") for number in range(HOSTS_MAX + 1)]
    for mac in macs:
        commit.answered(mac)
    flushed(commit, EIO)
    unknown = MAC_A
    assert {commit.error_of(mac, NOW_NS) for mac in (*macs, unknown)} == {EIO}
    later_ns = NOW_NS + TOLD_S * 1_000_000_000 + 1
    assert commit.error_of(unknown, later_ns) == 0


def test_the_loss_of_one_that_is_forgotten_afterwards_is_told() -> None:
    commit = GroupCommit()
    commit.answered(MAC_A)
    flushed(commit, EIO)
    for number in range(HOSTS_MAX):
        commit.answered(number.to_bytes(6, "big"))
    flushed(commit)
    assert commit.error_of(MAC_A, NOW_NS) == EIO
