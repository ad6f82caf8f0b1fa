"""Folders of arrays, as Orbax reads and writes them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ddit_jax.conversion.zarr_arrays import ZarrArrays, create_arrays
from ddit_jax.errors import InputError

BLOCKS = np.arange(3 * 8 * 5).reshape(3, 8, 5).astype(ml_dtypes.bfloat16)
VECTOR = np.array([0, 1.5, -2], np.float32)
ARRAYS = {
  "blocks/out/kernel": (BLOCKS.shape, BLOCKS.dtype, True),
  "norm": (VECTOR.shape, VECTOR.dtype, False),
  "zeros/a": ((4,), np.dtype(np.float16), False),
}


@pytest.fixture
def folder(tmp_path):
  """A folder written block by block."""
  arrays = create_arrays(tmp_path / "params", ARRAYS)
  for block in (2, 0, 1):
    arrays.array("blocks/out/kernel")[block].write(BLOCKS[block]).result()
  arrays.array("norm").write(VECTOR).result()
  arrays.array("zeros/a").write(np.zeros(4, np.float16)).result()
  return tmp_path / "params"


def test_slices_come_back(folder):
  arrays = ZarrArrays(folder)
  assert arrays.paths == list(ARRAYS)
  got = arrays.array("blocks/out/kernel")[1].read().result()
  np.testing.assert_array_equal(got, BLOCKS[1])
  assert arrays.array("norm").dtype.numpy_dtype == np.float32


def test_each_block_has_its_own_file(folder):
  files = [p for p in (folder / "blocks.out.kernel").rglob("*") if p.is_file()]
  assert len(files) == 3 + 1


def test_large_blocks_are_cut(tmp_path):
  shape = (2, 2**13, 2**13)  # 128 MiB a block in bfloat16
  entry = (shape, np.dtype(ml_dtypes.bfloat16), True)
  array = create_arrays(tmp_path / "x", {"a": entry}).array("a")
  assert array.chunk_layout.write_chunk.shape == (1, 2**12, 2**13)


def abstract(sharding, dtype=None):
  def leaf(array):
    return jax.ShapeDtypeStruct(
      array.shape, dtype or array.dtype, sharding=sharding(array)
    )

  zeros = np.zeros(4, np.float16)
  return {
    "blocks": {"out": {"kernel": leaf(BLOCKS)}},
    "norm": leaf(VECTOR),
    "zeros": {"a": leaf(zeros)},
  }


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_orbax_restores_onto_a_mesh(folder, dtype):
  mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))

  def sharding(array):
    spec = (None, "fsdp") if array.ndim == 3 else ()
    return NamedSharding(mesh, PartitionSpec(*spec))

  target = abstract(sharding, dtype)
  restored = ocp.PyTreeCheckpointer().restore(
    folder,
    args=ocp.args.PyTreeRestore(
      target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
    ),
  )
  kernel = restored["blocks"]["out"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec(None, "fsdp")
  assert kernel.dtype == (dtype or jnp.bfloat16)
  np.testing.assert_array_equal(
    np.asarray(kernel, np.float32), BLOCKS.astype(np.float32)
  )
  np.testing.assert_array_equal(restored["norm"], VECTOR)
  assert not np.asarray(restored["zeros"]["a"]).any()


def test_orbax_restores_without_a_target_and_as_an_item(folder):
  tree = ocp.PyTreeCheckpointer().restore(folder)
  np.testing.assert_array_equal(tree["blocks"]["out"]["kernel"], BLOCKS)
  reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler("params"))
  args = ocp.args.Composite(params=ocp.args.PyTreeRestore())
  items = reader.restore(folder.parent, args=args)
  np.testing.assert_array_equal(items.params["norm"], VECTOR)


@pytest.mark.parametrize("is_ocdbt", [True, False])
@pytest.mark.parametrize("is_zarr3", [True, False])
def test_reads_what_orbax_wrote(tmp_path, is_ocdbt, is_zarr3):
  tree = {"blocks": {"out": {"kernel": jnp.asarray(BLOCKS)}}, "norm": VECTOR}
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=is_ocdbt, use_zarr3=is_zarr3)
  with ocp.Checkpointer(handler) as writer:
    writer.save(tmp_path / "x", args=ocp.args.PyTreeSave(tree))
  arrays = ZarrArrays(tmp_path / "x")
  assert set(arrays.paths) == {"blocks/out/kernel", "norm"}
  got = arrays.array("blocks/out/kernel")[2].read().result()
  np.testing.assert_array_equal(got, BLOCKS[2])


def test_a_file_that_is_gone_is_an_error(folder):
  """Zeros are stored too: an absent file never reads as zeros."""
  (folder / "zeros.a/c/0").unlink()
  with pytest.raises(ValueError, match="missing"):
    ZarrArrays(folder).array("zeros/a").read().result()
  (folder / "norm/zarr.json").unlink()
  with pytest.raises(InputError, match=r"array norm of .* cannot be read"):
    ZarrArrays(folder).array("norm")


def test_not_such_a_folder(tmp_path):
  with pytest.raises(InputError, match="not a folder of arrays"):
    ZarrArrays(tmp_path)
