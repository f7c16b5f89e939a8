"""The command line that boots a brick host."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.uml import Guest


def guest(number: int) -> Guest:
    return Guest(
        name=f"brick{number}",
        number=number,
        address=f"10.77.0.{10 + number}",
        image=Path("/disks/root.img"),
        cow=Path(f"/disks/brick{number}.cow"),
        brick=Path(f"/disks/brick{number}.img"),
        second=Path(f"/disks/brick{number}-second.img"),
        socket_dir=Path("/run/x/uml"),
    )


def test_a_guest_gets_its_disks_and_its_address() -> None:
    argv = guest(2).argv()
    assert "ubda=/disks/brick2.cow,/disks/root.img" in argv
    assert "ubdb=/disks/brick2.img" in argv
    assert "systemd.setenv=BRICK_ADDRESS=10.77.0.12" in argv
    assert any(word.startswith("vec0:") and "ifname=tap2" in word for word in argv)


def test_guests_differ_in_all_that_must_be_unique() -> None:
    one, two = (set(guest(n).argv()) for n in (1, 2))
    shared = {word.split("=")[0] for word in one & two}
    assert shared.isdisjoint({"umid", "ubda", "ubdb", "vec0:transport", "systemd.hostname", "systemd.machine_id"})


def test_a_guest_keeps_its_identity_from_boot_to_boot() -> None:
    assert guest(1).argv() == guest(1).argv()
    assert guest(1).mac == "02:00:0a:4d:00:0b"
