"""Where the time to the first step goes."""

from ddit_jax.monitor import start_times


def test_phases_add_up_and_are_logged_once(monkeypatch, caplog):
  now = [10.0]
  monkeypatch.setattr(start_times.time, "monotonic", lambda: now[0])
  start_times.mark_begin()
  now[0] = 12.5
  times = start_times.StartTimes(start_times.seconds_since_begin())
  for phase, seconds in (("data", 1.0), ("restore", 3.0), ("data", 0.5)):
    now[0] += seconds
    times.end_phase(phase)
  caplog.set_level("INFO", "ddit_jax")
  times.log()
  times.log()
  assert caplog.messages == [
    "first step after 7.0 s: import 2.5, data 1.5, restore 3.0"
  ]
