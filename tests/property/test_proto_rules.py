"""Rules against their definition: whoever is named first decides."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ggaoe.proto.rules import Rule, Rules

macs = st.sampled_from([bytes([2, 0, 0, 0, 0, last]) for last in range(6)])
written = st.lists(st.builds(Rule, st.text(max_size=3), st.booleans(), st.frozensets(macs)))


@settings(derandomize=True, max_examples=1000)
@given(written, st.booleans(), macs)
def test_the_first_that_names_a_host_decides(entries: list[Rule], others: bool, mac: bytes) -> None:
    rules = Rules(tuple(entries), others)
    naming = [rule.permits for rule in entries if mac in rule.macs]
    assert rules.permits(mac) == (naming[0] if naming else others)
    assert (mac in rules.exceptions) == (rules.permits(mac) != others)
    deciding = rules.deciding(mac)
    assert (deciding is None) == (not naming)
    assert (rules.reason(mac) is None) == (others and not entries)
