"""Guessing is slowed, and neither the guesser's own account nor their guesses hurt anybody else."""

from hypothesis import given
from hypothesis import strategies as st

from dicom_node.web.brake import DECAY_S, MOST, SLOWEST_S, Brake


class Time:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wrong(brake: Brake, name: str, address: str, times: int) -> None:
    for _ in range(times):
        brake.note(name, address)


def test_a_pair_is_held_after_ten_wrong_tries_and_let_go_slowly() -> None:
    time = Time()
    brake = Brake(time)
    wrong(brake, "anna", "10.0.0.1", MOST)
    assert brake.holds("anna", "10.0.0.1")
    time.now += DECAY_S
    assert not brake.holds("anna", "10.0.0.1")
    wrong(brake, "anna", "10.0.0.1", 1)
    assert brake.holds("anna", "10.0.0.1")


def test_nobody_is_shut_out_from_elsewhere() -> None:
    brake = Brake(Time())
    wrong(brake, "anna", "10.0.0.1", 1000)
    assert not brake.holds("anna", "10.0.0.2")


def test_an_address_is_slowed_and_never_shut() -> None:
    brake = Brake(Time())
    for number in range(1000):
        brake.note(f"user{number}", "10.0.0.1")
    assert not brake.holds("anna", "10.0.0.1")
    assert brake.pause("10.0.0.1") == SLOWEST_S
    assert brake.pause("10.0.0.2") == 0


def test_an_own_success_clears_its_own_pair_only() -> None:
    brake = Brake(Time())
    wrong(brake, "anna", "10.0.0.1", MOST)
    wrong(brake, "guesser", "10.0.0.1", 3)
    brake.lift("guesser", "10.0.0.1")
    assert brake.holds("anna", "10.0.0.1")


def test_addresses_of_one_network_of_ipv6_count_together() -> None:
    brake = Brake(Time())
    for number in range(MOST):
        brake.note("anna", f"2001:db8::{number:x}")
    assert brake.holds("anna", "2001:db8::ffff")
    assert not brake.holds("anna", "2001:db8:1::1")
    wrong(brake, "ben", "::ffff:10.0.0.1", MOST)
    assert brake.holds("ben", "10.0.0.1")


def test_a_flood_of_names_takes_little_memory_and_keeps_the_newest() -> None:
    brake = Brake(Time())
    for number in range(40_000):
        brake.note(f"user{number}", "10.0.0.1")
    assert len(brake._wrong) <= 16384
    assert brake.pause("10.0.0.1") == SLOWEST_S


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1.1.1.1", "2.2.2.2", "x"]),
                          st.booleans(), st.floats(0, 600)), max_size=60))  # fmt: skip
def test_no_pair_is_ever_held_longer_than_all_its_tries_decay(
    steps: list[tuple[str, str, bool, float]],
) -> None:
    time = Time()
    brake = Brake(time)
    for name, address, is_right, later in steps:
        (brake.lift if is_right else brake.note)(name, address)
        time.now += later
        assert 0 <= brake.pause(address) <= SLOWEST_S
    time.now += 2 * MOST * DECAY_S
    assert not any(brake.holds(name, address) for name, address, _, _ in steps)
    assert not any(brake.pause(address) for _, address, _, _ in steps)
