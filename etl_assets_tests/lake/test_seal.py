"""A document of which one bit changed is told from what was written."""

import json

import pytest

from etl_assets.lake.seal import is_intact, sealed


@pytest.mark.parametrize("indent", [None, 1])
def test_no_bit_of_a_document_can_change_unseen(indent: int | None) -> None:
    told = {"batch": 7, "tables": {"t": ["ä", 1.5, None]}}
    document = sealed(json.dumps(told, indent=indent, ensure_ascii=False).encode())
    assert is_intact(document)
    found = json.loads(document)
    assert len(found.pop("seal")) == 64
    assert found == told
    for at in range(len(document)):
        for bit in range(8):
            flipped = bytearray(document)
            flipped[at] ^= 1 << bit
            if is_intact(bytes(flipped)):  # then it has no seal, and says so by a name that nobody knows
                try:
                    changed = json.loads(flipped)
                except ValueError:
                    continue
                assert "seal" not in changed
                assert {name: changed[name] for name in told} == told


def test_what_has_no_seal_is_taken_as_it_is() -> None:
    assert is_intact(b'{"batch": 7}')
