"""Group commit: a request is answered by a flush that began after it had joined."""

from __future__ import annotations

from ggaoe.sched.commit import GroupCommit
from unit.sched.making import flush, write


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


def test_a_failed_flush_concerns_those_who_joined_while_it_ran() -> None:
    commit = GroupCommit()
    early, late = write(0), write(1)
    commit.join(early)
    assert commit.start()
    commit.join(late)
    assert commit.failed() == [early, late]
    assert not commit.start()
