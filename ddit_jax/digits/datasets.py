"""What training reads: images with captions, questions and answers.

Every scene holds seen compositions only, whoever wrote it.
"""

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from ddit_jax.digits import grammar, questions, scenes, world
from ddit_jax.digits import world as writers
from ddit_jax.digits.questions import COUNT_KINDS, PLACES, Question
from ddit_jax.digits.scenes import Scene
from ddit_jax.digits.world import COLORS, DIGIT_WORDS, World

_NUM_CANONICAL = 7
_NUM_SYNONYMS = 2
_COLOR_SYNONYMS = {
  "red": "scarlet",
  "orange": "amber",
  "yellow": "golden",
  "green": "lime",
  "cyan": "turquoise",
  "blue": "azure",
  "purple": "violet",
  "pink": "magenta",
}
_PLACE_SYNONYMS = {
  "top left": "upper left",
  "top": "upper middle",
  "top right": "upper right",
  "left": "middle left",
  "center": "middle",
  "right": "middle right",
  "bottom left": "lower left",
  "bottom": "lower middle",
  "bottom right": "lower right",
}
# Digits a hurried reader takes for each other.
_CONFUSED_DIGITS = {
  0: (6, 8),
  1: (7, 4),
  2: (3, 7),
  3: (8, 5),
  4: (9, 1),
  5: (3, 6),
  6: (0, 8),
  7: (1, 9),
  8: (3, 9),
  9: (4, 7),
}


def annotators(question: Question, seed: int) -> list[str]:
  """Ten answers: seven canonical, two a synonym, one a plausible error.

  Never unanimous, because the official scorer skips its normalisation where
  all ten agree. The order and the error depend on the seed only.
  """
  rng = np.random.default_rng(seed)
  errors = _plausible_errors(question)
  answers = [
    *[question.answer] * _NUM_CANONICAL,
    *[_synonym(question.answer)] * _NUM_SYNONYMS,
    errors[rng.integers(len(errors))],
  ]
  return [answers[i] for i in rng.permutation(len(answers))]


def _synonym(answer: str) -> str:
  if answer in DIGIT_WORDS:
    return str(DIGIT_WORDS.index(answer))
  yes_no = {"yes": "yeah", "no": "nope"}
  return (yes_no | _COLOR_SYNONYMS | _PLACE_SYNONYMS)[answer]


def _plausible_errors(question: Question) -> list[str]:
  answer = question.answer
  if question.answer_type == "yes/no":
    return ["no" if answer == "yes" else "yes"]
  if question.kind in COUNT_KINDS:
    count = DIGIT_WORDS.index(answer)
    return [DIGIT_WORDS[count - 1], DIGIT_WORDS[count + 1]]
  if answer in DIGIT_WORDS:
    confused = _CONFUSED_DIGITS[DIGIT_WORDS.index(answer)]
    return [DIGIT_WORDS[digit] for digit in confused]
  if answer in COLORS:
    index = COLORS.index(answer)
    return [COLORS[index - 1], COLORS[(index + 1) % len(COLORS)]]
  return _next_places(answer)


def _next_places(place: str) -> list[str]:
  """The places one step away along one axis."""
  row, column = divmod(PLACES.index(place), 3)
  return [
    PLACES[3 * r + c]
    for r in range(3)
    for c in range(3)
    if abs(r - row) + abs(c - column) == 1
  ]


_MAX_DRAWS = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAsker:
  """Asks about random scenes; remembers the answers it has given.

  Attributes:
    world: the sizes.
    sample: draws a scene.
    rng: source of the questions' choices.
    slack: how far an answer may be ahead of the rarest answer of its kind;
      0 gives exact balance, more needs fewer draws.
    counts: per kind of question, how often each answer was given.
  """

  world: World
  sample: Callable[[], Scene]
  rng: np.random.Generator
  slack: int = 0
  counts: dict[str, collections.Counter] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )

  def draw(self, kind: str) -> tuple[Scene, questions.Question]:
    """A scene and a question of this kind whose answer is not too frequent.

    Raises:
      ValueError: if the world has no such kind of question, or if scenes
        with the rarest answer do not turn up.
    """
    counts = self.counts[kind]
    answers = questions.possible_answers(kind, self.world)
    limit = min(counts[answer] for answer in answers) + self.slack
    for _ in range(_MAX_DRAWS):
      scene = self.sample()
      question = questions.ask(kind, scene, self.world, self.rng)
      if question is not None and counts[question.answer] <= limit:
        counts[question.answer] += 1
        return scene, question
    raise ValueError(
      f"none of {_MAX_DRAWS} scenes allowed a question of kind {kind!r} with "
      f"a rare answer, given so far {dict(counts)}: leave the kind out in "
      "this world"
    )


def generator(
  purpose: str, split: str, *, size: int, seed: int
) -> np.random.Generator:
  """The generator for one set of `size` records; the size changes no draw.

  Raises:
    ValueError: if the split is unknown, the size not positive or the seed
      negative.
  """
  if split not in world.SPLITS:
    raise ValueError(
      f"there is no split {split!r} of the digits; choose one of {world.SPLITS}"
    )
  if size < 1:
    raise ValueError(f"{size} {purpose} were asked for; ask for 1 or more")
  if seed < 0:
    raise ValueError(f"the seed is {seed}; choose 0 or more")
  address = [zlib.crc32(purpose.encode()), world.SPLITS.index(split), seed]
  return np.random.default_rng(address)


CAPTION = "caption"
# Exact balance would reject most scenes; this many more of one answer than
# of another go unnoticed in a pool of thousands.
_BALANCE_SLACK = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextToImagePool:
  """Captions and the images they ask for.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    captions: n texts; colours and places are sometimes left open.
  """

  images: np.ndarray
  captions: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageToTextPool:
  """Images and what to say about them.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    prompts: n given texts: "" for a caption, else "Q: ... A: ".
    texts: n texts to learn: a complete caption, or the answer.
    kinds: n kinds: "caption" or a kind of question.
  """

  images: np.ndarray
  prompts: list[str]
  texts: list[str]
  kinds: list[str]


def text_to_image_pool(
  world: World, split: str, size: int, seed: int
) -> TextToImagePool:
  """`size` random scenes by the writers of `split`, each with a caption.

  Raises:
    ValueError: if the split is unknown or the size not positive.
  """
  writing = writers.handwriting(split)
  rng = generator("text-to-image records", split, size=size, seed=seed)
  drawn = [
    scenes.sample_scene(world, rng, writing=writing, held_out=False)
    for _ in range(size)
  ]
  return TextToImagePool(
    images=scenes.render_all(drawn, world, writing),
    captions=[grammar.caption(scene, rng) for scene in drawn],
  )


def image_to_text_pool(
  world: World, split: str, size: int, seed: int, shares: Mapping[str, float]
) -> ImageToTextPool:
  """`size` random scenes by the writers of `split`, each with one task.

  Args:
    world: the sizes.
    split: one of writers.SPLITS.
    size: number of records.
    seed: of all draws.
    shares: weight of each kind of text, "caption" or one of
      questions.kinds(world); they need not add up to one. Kinds are drawn
      first, then a scene that allows the kind, so shares are kept. The
      answers of each kind are balanced.

  Raises:
    ValueError: if the split or a kind is unknown, a weight is negative, all
      weights are zero, or the size is not positive.
  """
  names, weights = _checked_shares(shares, world)
  writing = writers.handwriting(split)
  rng = generator("image-to-text records", split, size=size, seed=seed)

  def sample() -> scenes.Scene:
    return scenes.sample_scene(world, rng, writing=writing, held_out=False)

  asker = BalancedAsker(
    world=world, sample=sample, rng=rng, slack=_BALANCE_SLACK
  )
  kinds = [names[i] for i in rng.choice(len(names), size, p=weights)]
  drawn, prompts, texts = [], [], []
  for kind in kinds:
    if kind == CAPTION:
      scene, prompt = sample(), ""
      text = grammar.caption(scene, rng, is_complete=True)
    else:
      scene, question = asker.draw(kind)
      prompt, text = questions.prompt_text(question), question.answer
    drawn.append(scene)
    prompts.append(prompt)
    texts.append(text)
  images = scenes.render_all(drawn, world, writing)
  return ImageToTextPool(
    images=images, prompts=prompts, texts=texts, kinds=kinds
  )


def _checked_shares(
  shares: Mapping[str, float], world: World
) -> tuple[list[str], np.ndarray]:
  """Kinds and their probabilities; only kinds of positive weight."""
  known = (CAPTION, *questions.kinds(world))
  if unknown := sorted(set(shares) - set(known)):
    raise ValueError(
      f"shares name the kinds {unknown}; this world knows {known}"
    )
  if any(not weight >= 0 for weight in shares.values()) or not sum(
    shares.values()
  ):
    raise ValueError(
      f"shares are {dict(shares)}; weights must be 0 or more, one at least "
      "above 0"
    )
  names = [kind for kind, weight in shares.items() if weight > 0]
  weights = np.array([shares[kind] for kind in names], np.float64)
  return names, weights / weights.sum()


POPE_VARIANTS = ("random", "popular", "adversarial")
_POPE_YES = 3  # and as many no, an image
_NUM_COUNTED_SCENES = 4000
_NUM_DIGITS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaptionItem:
  """A scene to describe.

  Attributes:
    image: uint8 [canvas, canvas, 3].
    scene: what it shows.
    is_held_out: True if training never showed a composition in it.
  """

  image: np.ndarray
  scene: Scene
  is_held_out: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QuestionItem:
  """A scene and a question about it.

  Attributes:
    image: uint8 [canvas, canvas, 3].
    scene: what it shows.
    question: with its right answer.
    annotators: ten answers, as in the VQA v2 files.
    is_held_out: True if training never showed a composition in the scene.
  """

  image: np.ndarray
  scene: Scene
  question: Question
  annotators: list[str]
  is_held_out: bool


def caption_items(
  world: World, split: str, count: int, seed: int
) -> list[CaptionItem]:
  """`count` scenes by the writers of `split`, seen and held out in turn.

  Raises:
    ValueError: if the split is unknown or the count not positive.
  """
  writing = writers.handwriting(split)
  rng = generator("scenes to caption", split, size=count, seed=seed)
  is_held_out = _alternating(count)
  drawn = [
    scenes.sample_scene(world, rng, writing=writing, held_out=flag)
    for flag in is_held_out
  ]
  images = scenes.render_all(drawn, world, writing)
  return [
    CaptionItem(image=image, scene=scene, is_held_out=flag)
    for image, scene, flag in zip(images, drawn, is_held_out, strict=True)
  ]


def question_items(
  world: World, split: str, per_kind: int, seed: int
) -> list[QuestionItem]:
  """`per_kind` questions of every kind, seen and held out in turn.

  Within seen and within held out, no answer of a kind comes up more than
  once more often than another.

  Raises:
    ValueError: if the split is unknown or `per_kind` not positive.
  """
  writing = writers.handwriting(split)
  rng = generator("questions of a kind", split, size=per_kind, seed=seed)
  askers = {}
  for is_held_out in (False, True):
    sample = functools.partial(
      scenes.sample_scene, world, rng, writing=writing, held_out=is_held_out
    )
    askers[is_held_out] = BalancedAsker(world=world, sample=sample, rng=rng)
  asked = [
    (*askers[is_held_out].draw(kind), is_held_out)
    for kind in questions.kinds(world)
    for is_held_out in _alternating(per_kind)
  ]
  images = scenes.render_all([scene for scene, _, _ in asked], world, writing)
  return [
    _item(image, scene, question, is_held_out=is_held_out, rng=rng)
    for image, (scene, question, is_held_out) in zip(images, asked, strict=True)
  ]


def pope_items(
  world: World, split: str, images: int, seed: int
) -> dict[str, list[QuestionItem]]:
  """The three POPE sets: "is there a seven?", yes and no equally often.

  Every image has as many yes as no questions: three each, or one each in a
  one-digit world. The sets share images and yes questions. The absent digits
  asked for are random; or the most frequent in training ("popular"); or
  those that training showed most often beside the digits present
  ("adversarial"; where nothing is beside a digit this equals "popular").

  Args:
    world: the sizes.
    split: one of writers.SPLITS.
    images: number of images, seen and held out in turn.
    seed: of all draws.

  Returns:
    For each of POPE_VARIANTS, its questions image after image.

  Raises:
    ValueError: if the split is unknown or `images` not positive.
  """
  writing = writers.handwriting(split)
  rng = generator("POPE images", split, size=images, seed=seed)
  is_held_out = _alternating(images)
  drawn = [
    _pope_scene(world, rng, writing=writing, is_held_out=flag)
    for flag in is_held_out
  ]
  rendered = scenes.render_all(drawn, world, writing)
  found: dict[str, list[QuestionItem]] = {name: [] for name in POPE_VARIANTS}
  for image, scene, flag in zip(rendered, drawn, is_held_out, strict=True):
    present = np.array(sorted({thing.digit for thing in scene.things}))
    yes = rng.permutation(present)[:_POPE_YES]
    for name, absent in _absent_digits(present, world, rng).items():
      for digit, is_present in [
        *((d, True) for d in yes),
        *((d, False) for d in absent[: len(yes)]),
      ]:
        question = questions.presence_question(digit, is_present=is_present)
        item = _item(image, scene, question, is_held_out=flag, rng=rng)
        found[name].append(item)
  return found


def _alternating(count: int) -> list[bool]:
  """False, True, False, ...: is the item held out?"""
  return [index % 2 == 1 for index in range(count)]


def _item(image, scene, question, *, is_held_out, rng) -> QuestionItem:
  return QuestionItem(
    image=image,
    scene=scene,
    question=question,
    annotators=annotators(question, int(rng.integers(2**32))),
    is_held_out=is_held_out,
  )


def _pope_scene(world: World, rng, *, writing, is_held_out: bool) -> Scene:
  """A scene of as many different digits as a POPE image can ask about."""
  wanted = min(_POPE_YES, world.max_objects)
  kind = ("single", "two", "several")[wanted - 1]
  while True:
    scene = scenes.sample_scene(
      world, rng, writing=writing, held_out=is_held_out, kind=kind
    )
    if len({thing.digit for thing in scene.things}) >= wanted:
      return scene


def _absent_digits(present: np.ndarray, world: World, rng):
  """For each POPE variant, the absent digits, first choice first."""
  frequency, together = _training_counts(world)
  absent = np.setdiff1d(np.arange(_NUM_DIGITS), present)
  beside = together[present].sum(axis=0)
  return {
    "random": rng.permutation(absent),
    "popular": absent[np.argsort(-frequency[absent], kind="stable")],
    "adversarial": absent[np.lexsort((-frequency[absent], -beside[absent]))],
  }


@functools.cache
def _training_counts(world: World) -> tuple[np.ndarray, np.ndarray]:
  """In how many training scenes each digit, and each two digits, appear.

  Returns:
    int64 [10], and int64 [10, 10] with a zero diagonal.
  """
  writing = writers.handwriting("train")
  rng = generator("scenes to count", "train", size=_NUM_COUNTED_SCENES, seed=0)
  is_in = np.zeros((_NUM_COUNTED_SCENES, _NUM_DIGITS), np.int64)
  for row in range(_NUM_COUNTED_SCENES):
    scene = scenes.sample_scene(world, rng, writing=writing, held_out=False)
    is_in[row, [thing.digit for thing in scene.things]] = 1
  together = is_in.T @ is_in
  return is_in.sum(axis=0), together - np.diag(np.diag(together))
