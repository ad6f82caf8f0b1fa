"""A store gives back exactly what was saved, or says why it cannot."""

import os
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ddit_jax.checkpoint import store as store_module
from ddit_jax.checkpoint.manifest import CheckpointError
from ddit_jax.checkpoint.store import CheckpointStore

PLAIN = {
  "config": {"schema_version": 1, "model": {"width": 8}},
  "data_position": {"next_index": 96},
  "files": {"tokenizer.json": b"{}"},
}


def mesh(*sizes):
  names = ("data", "fsdp")[-len(sizes) :]
  return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def state_of(step):
  """Arrays of every kind we train with; all their values depend on `step`."""
  over_eight = NamedSharding(mesh(8), PartitionSpec("fsdp"))
  everywhere = NamedSharding(mesh(8), PartitionSpec())
  ramp = np.arange(64, dtype=np.float32).reshape(16, 4) + step

  def put(value, dtype, sharding=everywhere):
    return jax.device_put(np.asarray(value).astype(dtype), sharding)

  return {
    "params": {
      "blocks": [{"w": put(ramp, np.float32, over_eight)}],
      "bias": put(ramp[0] / 3, jnp.bfloat16),
      "unused": None,
    },
    "opt_state": {"count": put(step, np.int32)},
    "rng": {"key": put(jax.random.key_data(jax.random.key(step)), np.uint32)},
  }


def abstract(state, *, on=None, spec=None):
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=NamedSharding(on, spec) if on is not None else leaf.sharding,
    ),
    state,
  )


def assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save(store, step, **changes):
  store.save(step, state_of(step), **(PLAIN | changes))


@pytest.fixture
def saved(tmp_path):
  with CheckpointStore(tmp_path) as store:
    save(store, 10, metrics={"loss": 0.5})
  return tmp_path


def test_everything_comes_back_bit_for_bit(saved):
  state = state_of(10)
  with CheckpointStore(saved, read_only=True) as store:
    assert (store.steps(), store.latest_step()) == ([10], 10)
    assert_same(store.restore(10, abstract(state)), state)
    assert store.config(10) == PLAIN["config"]
    assert store.data_position(10) == PLAIN["data_position"]
    assert store.files(10) == PLAIN["files"]
    assert store.metrics(10) == {"loss": 0.5}


def test_only_the_asked_for_items_arrive_on_another_mesh(saved):
  params = state_of(10)["params"]
  two_by_four = mesh(2, 4)
  wanted = {"params": abstract(params, on=two_by_four, spec=PartitionSpec())}
  wanted["params"]["blocks"][0]["w"] = jax.ShapeDtypeStruct(
    (16, 4),
    np.float32,
    sharding=NamedSharding(two_by_four, PartitionSpec("fsdp", "data")),
  )
  with CheckpointStore(saved, read_only=True) as store:
    restored = store.restore(10, wanted)
  assert list(restored) == ["params"]
  assert_same(restored["params"], params)
  kernel = restored["params"]["blocks"][0]["w"]
  assert kernel.sharding.mesh.shape == {"data": 2, "fsdp": 4}
  assert kernel.addressable_shards[0].data.shape == (4, 2)


def test_saving_goes_on_in_the_background_and_survives_donation(tmp_path):
  update = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
  )
  everywhere = NamedSharding(mesh(8), PartitionSpec())
  make = jax.jit(
    lambda: {"w": jnp.arange(2.0**20).reshape(1024, 1024)},
    out_shardings=everywhere,
  )
  params = make()
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"params": params}, **PLAIN)
    assert store.steps() == []  # under way: not offered
    for _ in range(3):
      params = update(params)
    jax.block_until_ready(params)
    store.wait()
    assert store.steps() == [1]
    restored = store.restore(1, {"params": abstract(make())})
  assert_same(restored["params"], make())


def payload_files(folder):
  return sorted(p for p in (folder / "10").rglob("*") if p.is_file())


def test_a_flipped_bit_in_any_file_is_detected(saved):
  wanted = abstract(state_of(10))
  with CheckpointStore(saved, read_only=True) as store:
    for path in payload_files(saved):
      good = path.read_bytes()
      bad = bytearray(good)
      bad[len(bad) // 2] ^= 1
      path.write_bytes(bad)
      name = path.relative_to(saved / "10").as_posix()
      with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        store.restore(10, wanted)
      path.write_bytes(good)
    assert_same(store.restore(10, wanted), state_of(10))


def test_truncated_and_deleted_payload_is_detected(saved):
  wanted = abstract(state_of(10))
  arrays = [path for path in payload_files(saved) if "params" in path.parts]
  largest = max(arrays, key=lambda path: path.stat().st_size)
  content = largest.read_bytes()
  with CheckpointStore(saved, read_only=True) as store:
    largest.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"{largest.name} is truncated"):
      store.restore(10, wanted)
    largest.unlink()
    with pytest.raises(CheckpointError, match=f"{largest.name} is missing"):
      store.restore(10, wanted)


def test_altered_settings_are_not_handed_out(saved):
  path = saved / "10" / "plain" / "config.json"
  path.write_bytes(path.read_bytes().replace(b"8", b"9"))
  with CheckpointStore(saved, read_only=True) as store:
    with pytest.raises(CheckpointError, match=r"config\.json is altered"):
      store.config(10)


def test_a_checkpoint_of_another_model_gives_one_clear_line(saved):
  params = abstract(state_of(10)["params"])
  like = params["bias"]
  many = {f"layer{i}": like for i in range(7)}
  other = {"blocks": params["blocks"], "bias": params["blocks"][0]["w"]}
  with CheckpointStore(saved, read_only=True) as store:
    with pytest.raises(CheckpointError) as caught:
      store.restore(10, {"params": other | many})
    with pytest.raises(CheckpointError, match=r"no item 'ema'; it has \['opt"):
      store.restore(10, {"ema": params})
    with pytest.raises(CheckpointError, match=r"no finished step 11; .*\[10\]"):
      store.restore(11, {"params": params})
  line = str(caught.value)
  assert "another model; item 'params': layer0 is missing" in line
  assert "layer4 is missing; and 3 more" in line and "\n" not in line


def test_dtypes_are_never_cast(saved):
  wanted = abstract(state_of(10)["params"])
  wanted["bias"] = wanted["bias"].update(dtype=np.float32)
  with CheckpointStore(saved, read_only=True) as store:
    with pytest.raises(
      CheckpointError, match="bias has dtype bfloat16, the model float32"
    ):
      store.restore(10, {"params": wanted})


def test_the_last_two_and_the_best_are_kept(tmp_path):
  with CheckpointStore(tmp_path, keep_last=2, best_metric="fid") as store:
    for step, fid in [(1, 9.0), (2, 3.0), (3, 5.0), (4, 7.0), (5, 8.0)]:
      save(store, step, metrics={"fid": fid})
    save(store, 6)  # not evaluated
    store.wait()
    assert store.steps() == [2, 5, 6]
    assert (store.best_step(), store.latest_step()) == (2, 6)
  folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
  assert folders == ["2", "5", "6"]
  with CheckpointStore(
    tmp_path, keep_last=1, best_metric="fid", best_is_higher=True
  ) as store:
    assert store.best_step() == 5
    save(store, 7, metrics={"fid": 0.0})
    store.wait()
    assert store.steps() == [5, 7]  # the newest stays though it is the worst


def test_without_a_best_metric_there_is_no_best_step(saved):
  with CheckpointStore(saved, read_only=True) as store:
    assert store.best_step() is None


def test_a_step_must_be_newer_than_the_latest(saved):
  with CheckpointStore(saved) as store:
    for step in (10, 9, -1):
      with pytest.raises(CheckpointError, match=f"step {step} cannot be saved"):
        save(store, step)


def test_a_failed_save_is_reported_and_its_step_can_be_tried_again(
  tmp_path, monkeypatch, caplog
):
  def no_space(*_, **__):
    raise OSError("no space left")

  with CheckpointStore(tmp_path) as store:
    save(store, 1)
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(store_module, "write_manifest", no_space)
      save(store, 2)
      with pytest.raises(OSError, match="no space left"):
        store.wait()
    assert (store.steps(), store.unfinished_steps()) == ([1], [2])
    save(store, 2)
    store.wait()
    assert store.steps() == [1, 2]
  assert "step 2 was never finished" in caplog.text
  assert (tmp_path / "2.unfinished-0").is_dir()


def test_a_step_without_its_manifest_is_reported_and_never_offered(
  saved, caplog
):
  (saved / "10" / "manifest.json").unlink()
  with CheckpointStore(saved, read_only=True) as store:
    assert store.latest_step() is None
    assert store.unfinished_steps() == [10]
  assert "steps [10] are unfinished" in caplog.text
  with CheckpointStore(saved) as store:  # a writer makes room for a new 10
    assert store.unfinished_steps() == []
    save(store, 10)
  assert (saved / "10.unfinished-0" / "params").is_dir()


@pytest.fixture
def two(tmp_path):
  """A store with steps 10 and 20."""
  with CheckpointStore(tmp_path) as store:
    save(store, 10)
    save(store, 20)
  return tmp_path


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def largest_file(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("name", ["params", "plain", "manifest.json"])
def test_a_damaged_newest_step_is_reported_and_the_one_before_is_used(
  two, caplog, name
):
  path = two / "20" / name
  flip_a_bit(path if path.is_file() else largest_file(path))
  with CheckpointStore(two) as store:
    assert store.newest_whole_step() == 10
    assert_same(store.restore(10, abstract(state_of(10))), state_of(10))
    assert store.latest_step() == 10
    save(store, 20)
  with CheckpointStore(two) as store:
    assert store.newest_whole_step() == 20
  [line] = caplog.messages
  assert "20 is damaged" in line or "manifest.json is damaged" in line
  assert "; step 10 is used instead: it is now " in line
  assert line.endswith("20.damaged-0 and can be deleted")


def test_the_only_step_is_not_set_aside_when_it_is_damaged(saved):
  flip_a_bit(largest_file(saved / "10" / "params"))
  with CheckpointStore(saved) as store:
    with pytest.raises(CheckpointError, match=r"its hash differs.*none is who"):
      store.newest_whole_step()
    assert store.steps() == [10]


def test_a_step_under_another_name_is_no_step(two):
  wanted = abstract(state_of(10))
  (two / "20").rename(two / "21")
  (two / "22").symlink_to(two / "10")
  with CheckpointStore(two) as store:
    for step, holds in [(21, 20), (22, 10)]:
      message = f"{step} holds step {holds}, by its manifest"
      with pytest.raises(CheckpointError, match=message):
        store.restore(step, wanted)
      with pytest.raises(CheckpointError, match=message):
        store.data_position(step)
    assert store.newest_whole_step() == 10
  assert {path.name for path in two.iterdir()} == {
    *("10", "21.damaged-0", "22.damaged-0"),
  }


def test_swapped_steps_are_both_refused(two):
  with CheckpointStore(two) as store:
    save(store, 30)
  (two / "20").rename(two / "x")
  (two / "30").rename(two / "20")
  (two / "x").rename(two / "30")
  with CheckpointStore(two, keep_last=9) as store:
    with pytest.raises(CheckpointError, match="none is whole"):
      store.newest_whole_step()


def test_an_interrupt_ends_the_wait_but_not_the_save(tmp_path, monkeypatch):
  write_manifest = store_module.write_manifest

  def slowly(*args, **facts):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
    write_manifest(*args, **facts)

  monkeypatch.setattr(store_module, "write_manifest", slowly)
  with pytest.raises(KeyboardInterrupt), CheckpointStore(tmp_path) as store:
    save(store, 10)
    store.wait()
  with CheckpointStore(tmp_path) as store:
    assert store.newest_whole_step() == 10


def test_arrays_that_never_came_are_no_step(tmp_path, monkeypatch):
  with CheckpointStore(tmp_path) as store:
    monkeypatch.setattr(store._manager, "save", lambda *_, **__: None)
    save(store, 10)
    with pytest.raises(CheckpointError, match="lacks params, opt_state, rng"):
      store.wait()
  assert list(tmp_path.iterdir()) == []


def test_bad_use_is_refused_at_once(saved, tmp_path):
  with pytest.raises(ValueError, match="keep_last is 0"):
    CheckpointStore(tmp_path, keep_last=0)
  with pytest.raises(ValueError, match="mount the bucket"):
    CheckpointStore("gs://bucket/run")
  with pytest.raises(CheckpointError, match="does not exist"):
    CheckpointStore(tmp_path / "nowhere", read_only=True)
  assert not pathlib.Path("gs:").exists()
  with CheckpointStore(saved, read_only=True) as store:
    with pytest.raises(CheckpointError, match="is read-only"):
      save(store, 11)
  with CheckpointStore(saved, best_metric="fid") as store:
    with pytest.raises(ValueError, match="metrics lack 'fid'"):
      save(store, 11, metrics={"loss": 1.0})
    with pytest.raises(ValueError, match="item name 'plain' is reserved"):
      store.save(11, {"plain": state_of(1)["params"]}, **PLAIN)
  with pytest.raises(CheckpointError, match="is closed"):
    save(store, 11)
