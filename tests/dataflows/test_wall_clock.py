from dataflows.wall_clock import WallClock


class Clocks:
    """A system clock that can be set, beside a monotonic one."""

    def __init__(self) -> None:
        self.system, self.monotonic = 1_700_000_000.0, 50.0

    def pass_s(self, seconds: float) -> None:
        self.system += seconds
        self.monotonic += seconds

    def wall(self) -> WallClock:
        return WallClock(lambda: self.system, lambda: self.monotonic)


def test_follows_the_system_clock() -> None:
    clocks = Clocks()
    wall = clocks.wall()
    clocks.pass_s(2.5)
    assert wall.now_ms() == 1_700_000_002_500


def test_follows_a_step_forward() -> None:
    clocks = Clocks()
    wall = clocks.wall()
    clocks.system += 3600
    assert wall.now_ms() == 1_700_003_600_000


def test_goes_on_when_the_system_clock_steps_back_an_hour_and_says_so_once(capsys) -> None:
    clocks = Clocks()
    wall = clocks.wall()
    wall.now_ms()
    clocks.system -= 3600
    clocks.pass_s(1)
    assert wall.now_ms() == 1_700_000_001_000
    clocks.pass_s(1)
    assert wall.now_ms() == 1_700_000_002_000
    assert capsys.readouterr().out.count("stepped back") == 1
    clocks.system += 3700
    assert wall.now_ms() == 1_700_000_102_000, "a clock that was set right is followed again"
