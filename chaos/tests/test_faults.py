"""The plan of a run follows from its seed, and covers every fault before one comes again."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.faults import ROLES, deck, plan
from chaos.stores import Disk

DECK = deck(["cron", "web", "worker"], ["mongod", "redis"], ["postgres"], disks=True)


def test_a_seed_repeats_its_plan() -> None:
    assert plan(7, 600, DECK) == plan(7, 600, DECK)
    assert plan(7, 600, DECK) != plan(8, 600, DECK)


def test_no_fault_comes_again_before_all_others_have_come() -> None:
    first = plan(3, 3600, DECK)[: len(DECK)]

    assert sorted((fault.target, fault.kind) for fault in first) == sorted((card.target, card.kind) for card in DECK)


def test_times_ascend_within_the_run() -> None:
    times = [fault.at for fault in plan(5, 120, DECK)]

    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 120


def test_without_the_permission_to_mount_no_disk_is_filled() -> None:
    assert not [card for card in deck(["web"], ["redis"], [], disks=False) if card.kind == "disk_full"]
    assert {card.target for card in DECK if card.kind == "disk_full"} == {"redis", "mongod", ROLES}


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 8)
    if not disk.mounted:
        pytest.skip("no permission to mount a file system")
    try:
        (disk.folder / "before").write_bytes(b"x" * 100_000)
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x" * 1_000_000)
        disk.free()
        (disk.folder / "more").write_bytes(b"x" * 1_000_000)
    finally:
        disk.remove()
