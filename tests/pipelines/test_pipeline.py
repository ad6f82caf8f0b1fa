"""A checkpoint as an object with one method a task."""

import re

import jax
import numpy as np
import pytest

import ddit_jax
from ddit_jax.errors import InputError
from ddit_jax.pipelines.load import load
from ddit_jax.sampling.step_cache import StepCache
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run


@pytest.fixture(scope="module")
def pipeline(trained):
  """On one device, so that batches may have one row."""
  return load(str(trained), mesh=MeshConfig().make(jax.devices()[:1]))


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_images_are_drawn_from_prompts_alike_for_a_seed(pipeline):
  prompts = ["a picture of a red seven", "a blue two", "a red seven"]
  images = pipeline.text_to_image(prompts, seed=1).images
  assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
  np.testing.assert_array_equal(images, pipeline.text_to_image(prompts, seed=1))
  assert (images != pipeline.text_to_image(prompts, seed=2).images).any()
  assert (images[0] != images[2]).any()  # every row has noise of its own


def test_an_image_does_not_depend_on_the_batch_or_the_list(pipeline):
  prompts = ["a red seven", "a blue two", "a red seven"]
  want = pipeline.text_to_image(prompts, seed=1).images
  small = pipeline.text_to_image(prompts, seed=1, sample={"batch_size": 1})
  np.testing.assert_array_equal(small, want)
  alone = pipeline.text_to_image(prompts[2:], seed=1, indices=[2])
  np.testing.assert_array_equal(alone, want[2:])
  some = pipeline.text_to_image(
    [prompts[2], prompts[0]], seed=1, indices=np.array([2, 0])
  )
  np.testing.assert_array_equal(some, want[[2, 0]])
  assert (pipeline.text_to_image(prompts[2:], seed=1).images != want[2:]).any()


@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_tokens_do_not_depend_on_the_batch_or_the_list(pipeline, order):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
  tokens = np.full((5, 10), 5, np.int32)
  prompt_mask = np.arange(10) < rng.integers(0, 4, (5, 1))
  rows = images, tokens, prompt_mask
  sample = {"text.order": order, "text.temperature": 1.0}
  texts = pipeline.infill(*rows, sample=sample, keeps_trace=True)
  for batch_size in (1, 2):
    small = pipeline.infill(
      *rows, sample={**sample, "batch_size": batch_size}, keeps_trace=True
    )
    np.testing.assert_array_equal(small.tokens, texts.tokens)
    np.testing.assert_array_equal(small.trace, texts.trace)
  alone = pipeline.infill(
    *(x[3:4] for x in rows), sample=sample, indices=[3], keeps_trace=True
  )
  np.testing.assert_array_equal(alone.trace, texts.trace[3:4])


def test_a_change_keeps_the_checkpoints_other_settings(pipeline, images):
  length = pipeline.config.data.image_to_text.text_length
  rows = np.zeros((3, length), np.int32), np.zeros((3, length), bool)
  # The tiny run has 3 steps, the part's default is 16.
  texts = pipeline.infill(
    images, *rows, sample={"text.temperature": 0.5}, keeps_trace=True
  )
  assert texts.trace.shape[1] == 3
  for sample, message in [
    (
      {"text.temprature": 1.0},
      "sample: unknown config key text.temprature: did you mean 'temp",
    ),
    ({"image.guidance_scale": "x"}, "guidance_scale must be float, got 'x'"),
    ({"batch_size": 0}, "sample.batch_size must be positive, got 0"),
    (3, "sample must be a SampleConfig or a mapping"),
  ]:
    with pytest.raises(InputError, match=message):
      pipeline.caption(images, sample=sample)


def test_infilling_never_touches_what_is_fixed(pipeline):
  rng = np.random.default_rng(4)
  length, count = pipeline.config.data.image_to_text.text_length, 40
  images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
  vocab_size, mask_id = (
    pipeline.tokenizer.vocab_size,
    pipeline.tokenizer.mask_id,
  )
  tokens = rng.integers(0, vocab_size - 1, (count, length), np.int32)
  prompt_mask = rng.random((count, length)) < rng.random((count, 1))
  texts = pipeline.infill(images, tokens, prompt_mask, keeps_trace=True)
  filled, trace = texts.tokens, texts.trace
  np.testing.assert_array_equal(filled[prompt_mask], tokens[prompt_mask])
  assert (filled != mask_id).all()
  num_steps = pipeline.config.sample.text.num_steps
  assert trace.shape == (count, num_steps, length)
  for step in range(num_steps):
    now = trace[:, step]
    np.testing.assert_array_equal(now[prompt_mask], tokens[prompt_mask])
    # What was revealed once stays as it is to the end.
    is_shown = now != mask_id
    np.testing.assert_array_equal(now[is_shown], filled[is_shown])
  np.testing.assert_array_equal(trace[:, -1], filled)


def test_a_callback_sees_the_texts_after_every_call(pipeline, images):
  rows = [np.stack([part] * 3) for part in pipeline.template("a")]
  # One token a call, so that the states are those of the trace.
  options = {"sample": {"text.order": "first_hitting"}, "keeps_trace": True}
  whole, seen = pipeline.infill(images, *rows, **options), []

  def see(caller, places, texts):
    assert caller is pipeline and places[:3].tolist() == [0, 1, 2]
    seen.append(texts)

  live = pipeline.infill(images, *rows, **options, callback_on_call_end=see)
  for ours, theirs in zip(live, whole, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert len(seen) == whole.calls.max()
  for number, texts in enumerate(seen):
    np.testing.assert_array_equal(texts.tokens[:3], whole.trace[:, number])
    np.testing.assert_array_equal(
      texts.probabilities[:3], whole.trace_probabilities[:, number]
    )


def test_captions_and_answers_are_texts_of_known_words(pipeline, images):
  captions = pipeline.caption(images)
  answers = pipeline.answer(images, ["what color is it?"] * 3)
  for text in captions + answers:
    assert isinstance(text, str) and "<extra_id_0>" not in text
  # A caption continues nothing, an answer its prompt.
  assert captions == pipeline.complete(images, ["", "", ""])
  prompts = ["Q: what color is it? A: "] * 3
  assert answers == pipeline.complete(images, prompts)
  assert answers == pipeline.answer(images, prompts)


def test_latents_are_pixels_and_back(pipeline, images):
  latents = pipeline.encode(images)
  assert float(latents.min()) >= -1 and float(latents.max()) <= 1
  np.testing.assert_array_equal(pipeline.decode(latents), images)
  for wrong in (images, latents[0], latents[..., :2]):
    with pytest.raises(InputError, match="latents has the shape"):
      pipeline.decode(wrong)


@pytest.mark.parametrize(
  ("prompt", "message"),
  [
    ("a picture of a red dog", "does not know 'dog' in 'a picture of a red"),
    ("a <extra_id_0> seven", "does not know '<extra_id_0>' in"),
    ("a red seven " * 4, "has 12 tokens"),
  ],
)
def test_prompts_that_would_be_garbled_are_refused(
  pipeline, images, prompt, message
):
  with pytest.raises(InputError, match=message):
    pipeline.text_to_image([prompt])
  with pytest.raises(InputError, match=message):
    pipeline.complete(images[:1], [prompt])
  with pytest.raises(InputError, match=message):
    pipeline.text_to_image(["a red seven"], negative_prompt=prompt)


def test_questions_are_put_with_the_instruction_of_training(
  pipeline, images, monkeypatch
):
  monkeypatch.setattr(pipeline, "instructions", ("red",))
  asked = pipeline.answer(images, ["what color is it?"] * 3)
  prompt = "Q: what color is it? red A: "
  assert asked == pipeline.complete(images, [prompt] * 3)
  plain = pipeline.answer(images, ["what color is it?"] * 3, instruction="")
  assert plain == pipeline.complete(images, ["Q: what color is it? A: "] * 3)
  choices = ("briefly", "in a word")
  monkeypatch.setattr(pipeline, "instructions", choices)
  with pytest.raises(InputError, match="'briefly' or 'in a word': choose"):
    pipeline.answer(images, ["what color is it?"] * 3)


@pytest.mark.parametrize(
  "prompts", ["a red seven", b"a", [], [7], None, ["\ud800"]]
)
def test_prompts_must_be_a_list_of_texts(pipeline, images, prompts):
  for method in (pipeline.text_to_image, lambda p: pipeline.answer(images, p)):
    with pytest.raises(InputError):
      method(prompts)


def test_every_method_refuses_images_that_it_cannot_read(pipeline, images):
  length = pipeline.config.data.image_to_text.text_length
  rows = np.zeros((3, length), np.int32), np.zeros((3, length), bool)
  for method in (
    pipeline.caption,
    pipeline.encode,
    lambda x: pipeline.answer(x, ["is it red?"] * 3),
    lambda x: pipeline.complete(x, [""] * 3),
    lambda x: pipeline.infill(x, *rows),
  ):
    with pytest.raises(InputError, match="floats from 0 to 255"):
      method(images.astype(np.float32))
    want = method(images)
    got = method(images / np.float32(255))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
  ("tokens", "prompt_mask", "message"),
  [
    (np.zeros((2, 10), int), np.zeros((2, 10), bool), "3 images for 2 texts"),
    (np.zeros((3, 9), int), np.zeros((3, 10), bool), "give both as"),
    (np.zeros((3, 11), int), np.zeros((3, 11), bool), "11 tokens are too long"),
    (np.zeros((3, 10)), np.zeros((3, 10), bool), "the type float64 and"),
    (np.zeros((3, 10), int), np.zeros((3, 10), int), "and prompt_mask int64"),
    (np.full((3, 10), -1), np.ones((3, 10), bool), "have the tokens -1: give"),
    (np.full((3, 10), 999), np.ones((3, 10), bool), "have the tokens 999"),
  ],
)
def test_texts_to_fill_in_are_checked(
  pipeline, images, tokens, prompt_mask, message
):
  with pytest.raises(InputError, match=message):
    pipeline.infill(images, tokens, prompt_mask)


def test_a_negative_prompt_changes_guided_images_alone(pipeline):
  plain, other = (
    pipeline.text_to_image(["a red seven"], negative_prompt=negative).images
    for negative in ("", "a blue two")
  )
  assert (plain != other).any()
  with pytest.raises(InputError, match="has no effect without guidance"):
    pipeline.text_to_image(
      ["a red seven"],
      negative_prompt="a blue two",
      sample={"image.guidance_scale": 1.0},
    )


def test_an_image_may_have_any_size_of_whole_patches(pipeline):
  drawn = pipeline.text_to_image([""], size=(8, 12))
  assert drawn.images.shape == (1, 8, 12, 3)
  for size, message in [
    (0, "0 x 0 pixels do not fit"),
    (10, "multiples of 4"),
    (20, "too large"),
    ((8, 8, 8), "size must be a side"),
    (8.0, "size must be a side"),
    (True, "size must be a side"),
  ]:
    with pytest.raises(InputError, match=message):
      pipeline.text_to_image([""], size=size)


def test_results_say_what_draws_them_again(pipeline):
  drawn = pipeline.text_to_image(
    ["a red seven", "a blue two"],
    negative_prompt=["a blue two", ""],
    num_images_per_prompt=2,
    seed=3,
    guidance_scale=2.0,
  )
  assert len(drawn) == 4 and drawn.images.shape == (4, 16, 16, 3)
  assert drawn.prompts == ["a red seven"] * 2 + ["a blue two"] * 2
  assert drawn.settings.image.guidance_scale == 2.0
  assert (drawn.images[0] != drawn.images[1]).any()
  for i, record in enumerate(drawn.records()):
    again = pipeline.text_to_image(
      [record["prompt"]],
      negative_prompt=record["negative_prompt"],
      seed=record["seed"],
      indices=[record["index"]],
      **record["settings"],
    )
    # Rounded otherwise in a batch of another size.
    change = np.asarray(again, int)[0] - drawn.images[i]
    assert np.abs(change).max() <= 1
  assert np.asarray(drawn.pil()[2]).tobytes() == drawn.images[2].tobytes()
  assert len(pipeline.caption(drawn)) == 4


@pytest.mark.parametrize("solver", ["euler", "heun", "euler_stochastic"])
def test_a_callback_sees_every_step_and_may_change_it(pipeline, solver):
  options = {"solver": solver, "num_inference_steps": 3, "seed": 1}
  want = pipeline.text_to_image(["a red seven", ""], **options)
  seen = []

  def look(caller, step, time, values):
    assert caller is pipeline
    seen.append((step, time))
    assert pipeline.decode(values["latents"]).shape == (2, 16, 16, 3)
    assert values["indices"].tolist() == [0, 1]

  got = pipeline.text_to_image(
    ["a red seven", ""], callback_on_step_end=look, **options
  )
  change = np.asarray(got, int) - want.images
  assert np.abs(change).max() <= 1
  assert seen[0] == (0, 1000) and [step for step, _ in seen] == [0, 1, 2]

  def blank(caller, step, time, values):
    return {"latents": 0 * values["latents"]} if step == 2 else None

  got = pipeline.text_to_image([""], callback_on_step_end=blank, **options)
  assert np.ptp(got.images) == 0


def test_an_image_is_changed_where_the_mask_says(pipeline, images):
  mask = np.zeros((16, 16), bool)
  mask[:, 8:] = True
  drawn = pipeline.text_to_image(
    ["a red seven"] * 3, image=images, mask_image=mask, strength=0.9
  ).images
  np.testing.assert_array_equal(drawn[:, :, :8], images[:, :, :8])
  assert (drawn[:, :, 8:] != images[:, :, 8:]).any()
  free = pipeline.text_to_image(["a red seven"] * 3, image=images).images
  assert (free[:, :, :8] != images[:, :, :8]).any()
  with pytest.raises(InputError, match="mask_image needs an image"):
    pipeline.text_to_image([""], mask_image=mask)


def test_a_step_cache_says_what_it_costs(pipeline, caplog):
  caplog.set_level("INFO")
  report = pipeline.calibrate_step_cache(
    ["a red seven"], cache=StepCache(threshold=1.0), num_inference_steps=6
  )
  assert report.reused_steps and len(report.ratios) == 6
  assert report.largest_drift >= report.mean_drift >= 0
  line = f"{len(report.reused_steps)} of 6 steps reuse the blocks"
  assert line in caplog.text and "drift of pixels" in caplog.text


def test_a_step_cache_sees_the_negative_prompt(pipeline):
  options = {"num_inference_steps": 4, "guidance_scale": 3.0}
  first, second = (
    pipeline.calibrate_step_cache(
      ["a red seven"], negative_prompt=negative, **options
    ).ratios
    for negative in ("", "a blue two")
  )
  assert first != second


def test_what_cannot_be_calibrated_is_refused_before_it_is_drawn(
  pipeline, monkeypatch
):
  monkeypatch.setattr(pipeline, "text_to_image", None)
  with pytest.raises(InputError, match="a step cache is calibrated on steps"):
    pipeline.calibrate_step_cache([""], solver="heun")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"size": -8, "image": np.zeros((8, 8, 3), np.uint8)}, "do not fit this"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt must be in 1 to"),
    ({"guidence_scale": 2.0}, "image.guidence_scale: did you mean 'guidance_"),
    ({"skip_guidance_layers": (9,)}, "skip_guidance_layers has block 9, but"),
    ({"negative_prompt": ["", ""]}, "has 2 texts for 1 prompts"),
  ],
)
def test_settings_that_do_not_fit_are_refused(pipeline, options, message):
  with pytest.raises(InputError, match=message):
    pipeline.text_to_image([""], **options)


def test_the_example_of_the_documentation_runs(pipeline, monkeypatch):
  text = (tiny_run.ROOT / "docs" / "library.md").read_text(encoding="utf-8")
  _, code, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  monkeypatch.setattr(ddit_jax, "load", lambda path: pipeline)
  names = {"ddit_jax": ddit_jax}
  exec(compile(code, "docs/library.md", "exec"), names)
  assert len(names["answers"]) == 2
  # Rounded otherwise in a batch of another size.
  again, images = (np.asarray(names[x], int) for x in ("again", "images"))
  assert np.abs(again - images[1:]).max() <= 1
