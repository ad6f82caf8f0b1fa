"""The table of benchmarks: their files, and how published numbers were made.

Settings that the paper (D-DiT, arXiv 2501.00289) and the D-DiT release state
are taken from them; `source` says which, and what is inferred.
"""

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ddit_jax.json_files import file_hash
from ddit_jax.protocols import layouts, prompts, questions, subsets
from ddit_jax.protocols.item import Item
from ddit_jax.protocols.subsets import Subset
from ddit_jax.scoring.pope import POPE_SPLITS

_SHORT = "Answer the question using a single word or phrase."
_SHORT_PROMPT = f"Q: {{question}} {_SHORT} A: "
_VIZWIZ_PROMPT = (
  f"Q: {{question}} {_SHORT} Reply unanswerable if information is not present "
  "in the image. A: "
)
_CAPTION_PROMPT = "Q: Describe the image concisely. A: "
_SHORT_ANSWER = {"text.preset": "short_answer"}
_CAPTION = {"text.preset": "caption"}
_EULER_28 = {
  "image.num_inference_steps": 28,
  "image.guidance_scale": 7.0,
  "image.shift": 3.0,
}
# Canvas of the release's questions, prompt and answer together.
_CANVAS = 128
_INCEPTION = (
  "clean-fid or pytorch-fid (name which, they differ), a row of the 2048 pool3 "
  "features of the 2015-12-05 Inception network"
)


@dataclass(frozen=True, kw_only=True)
class ScoredPart:
  """One scorer's figures of a benchmark.

  Attributes:
    scorer: name in the table of `ddit score`.
    references: roles of its references; those that are not given are left out.
    predictions: role of the file that another program makes from the images;
      "" for the answers themselves.
    tool: what makes that file.
  """

  scorer: str
  references: tuple[str, ...] = ()
  predictions: str = ""
  tool: str = ""


@dataclass(frozen=True, kw_only=True)
class Protocol:
  """One benchmark on a model.

  Attributes:
    kind: what a model makes of an item: "answer" to its question, "caption"
      (any text that continues the item's) or "image"; "likelihood" is an
      estimate for a given text and image, "retrieval" for all texts beside
      an image.
    files: role -> its usual name in the benchmark's folder, may have "*".
    optional: roles that it does without.
    read: (files) -> items, for images (files, images per prompt) -> items.
    write: items and outputs to official files; returns what is scored.
    parts: what is scored, by the prefix of its figures.
    subset: references of some of the questions; None where scorers take any.
    template: of the prompt, with {question}.
    sampling: changes of the sampling config.
    text_length: tokens of prompt and answer; 0 is the checkpoint's.
    image_size: pixels; 0 is the checkpoint's.
    images_per_prompt: images generated for each prompt.
    num_items: of the published files, questions, prompts or images.
    published: D-DiT's numbers.
    source: where the settings are from.
  """

  kind: Literal["answer", "caption", "image", "likelihood", "retrieval"]
  files: Mapping[str, str]
  read: Callable[..., list[Item]]
  write: Callable[..., pathlib.Path]
  parts: Mapping[str, ScoredPart]
  optional: tuple[str, ...] = ()
  subset: Subset | None = None
  template: str = ""
  sampling: Mapping[str, Any] = field(default_factory=dict)
  text_length: int = 0
  image_size: int = 0
  images_per_prompt: int = 1
  num_items: tuple[int, ...] = ()
  published: str = ""
  source: str = ""

  @property
  def tools(self) -> dict[str, str]:
    """Role of a file that another program makes -> that program."""
    return {
      part.predictions: part.tool
      for part in self.parts.values()
      if part.predictions
    }

  def items(self, files: Mapping[str, pathlib.Path]) -> list[Item]:
    """All items in their order; raises InputError for files of other forms."""
    if self.kind == "image":
      return self.read(files, self.images_per_prompt)
    return self.read(files)


def _question(
  read: Callable[..., list[Item]],
  write: Callable[..., pathlib.Path],
  parts: Mapping[str, ScoredPart],
  **changes: Any,
) -> Protocol:
  """A benchmark of short answers."""
  settings = {
    "template": _SHORT_PROMPT,
    "sampling": _SHORT_ANSWER,
    "text_length": _CANVAS,
  }
  return Protocol(
    kind="answer", read=read, write=write, parts=parts, **settings | changes
  )


def _image(
  read: Callable[..., list[Item]],
  write: Callable[..., pathlib.Path],
  parts: Mapping[str, ScoredPart],
  **changes: Any,
) -> Protocol:
  return Protocol(
    kind="image",
    read=read,
    write=write,
    parts=parts,
    sampling=_EULER_28,
    image_size=512,
    **changes,
  )


_SHORT_SOURCE = (
  "paper section 4: 16 steps for short answers; prompt, canvas and ancestral "
  "sampler of the release's scripts/vqa.py"
)
_INFERRED_PROMPT = f"{_SHORT_SOURCE}; prompt inferred, the release asks VQA v2"
_IMAGE_SOURCE = "paper Table 2: 512 pixels, 28 Euler steps, guidance 7"

PROTOCOLS: Mapping[str, Protocol] = {
  "vqav2": _question(
    questions.read_vqa,
    layouts.write_vqa,
    {
      "": ScoredPart(scorer="vqav2", references=("annotations",)),
      "release": ScoredPart(
        scorer="vqav2_ddit_release", references=("annotations",)
      ),
    },
    files={
      "questions": "v2_OpenEnded_mscoco_*_questions.json",
      "annotations": "v2_mscoco_*_annotations.json",
      "images": "images",
    },
    optional=("annotations",),
    subset=subsets.cut_vqa,
    num_items=(214_354,),
    published="60.1 at 512 pixels, 59.5 at 256 (Table 3)",
    source=_SHORT_SOURCE,
  ),
  "textvqa": _question(
    questions.read_textvqa,
    layouts.write_vqa,
    {"": ScoredPart(scorer="textvqa", references=("annotations",))},
    files={
      "questions": "TextVQA_*_val.json",
      "annotations": "TextVQA_*_val.json",
      "images": "train_images",
    },
    optional=("annotations",),
    subset=subsets.cut_vqa,
    num_items=(5_000,),
    source=f"not in the paper; as VQA v2: {_SHORT_SOURCE}",
  ),
  "vizwiz": _question(
    questions.read_vizwiz,
    layouts.write_vizwiz,
    {"": ScoredPart(scorer="vizwiz", references=("annotations",))},
    files={
      "questions": "val.json",
      "annotations": "val.json",
      "images": "val",
    },
    optional=("annotations",),
    subset=subsets.cut_vizwiz,
    template=_VIZWIZ_PROMPT,
    published="29.9 at 512 pixels, 19.4 at 256 (Table 3)",
    source=_SHORT_SOURCE,
  ),
  "okvqa": _question(
    questions.read_vqa,
    layouts.write_vqa,
    {"": ScoredPart(scorer="okvqa", references=("annotations",))},
    files={
      "questions": "OpenEnded_mscoco_*_questions.json",
      "annotations": "mscoco_*_annotations.json",
      "images": "images",
    },
    optional=("annotations",),
    subset=subsets.cut_vqa,
    num_items=(5_046,),
    published="25.3 at 512 pixels, 28.5 at 256 (Table 3)",
    source=_INFERRED_PROMPT,
  ),
  "gqa": _question(
    questions.read_gqa,
    layouts.write_gqa,
    {"": ScoredPart(scorer="gqa", references=("questions", "choices"))},
    files={
      "questions": "testdev_balanced_questions.json",
      "choices": "*_choices.json",
      "images": "images",
    },
    optional=("choices",),
    subset=subsets.cut_gqa,
    num_items=(12_578,),
    published="59.2 at 512 pixels, 55.1 at 256 (Table 3)",
    source=_INFERRED_PROMPT,
  ),
  "pope": _question(
    questions.read_pope,
    layouts.write_pope,
    {"": ScoredPart(scorer="pope", references=POPE_SPLITS)},
    files={split: f"coco_pope_{split}.json" for split in POPE_SPLITS}
    | {"images": "images"},
    subset=subsets.cut_pope,
    num_items=(9_000, 8_910),
    published="84.0 at 512 pixels, 79.2 at 256 (Table 3)",
    source=_INFERRED_PROMPT,
  ),
  "mme": _question(
    questions.read_mme,
    layouts.write_mme,
    {"": ScoredPart(scorer="mme")},
    files={"questions": "MME_Benchmark*"},
    template="Q: {question} A: ",
    num_items=(2_374,),
    published="1124.7 at 512 pixels, 897.5 at 256 (Table 3), inferred to be "
    "the total of perception",
    source=f"{_SHORT_SOURCE}; the questions end with their own instruction",
  ),
  "coco_captions": Protocol(
    kind="caption",
    read=questions.read_captions,
    write=layouts.write_captions,
    parts={"": ScoredPart(scorer="coco_captions", references=("annotations",))},
    files={
      "annotations": "captions_*.json",
      "split": "dataset_coco.json",
      "images": "images",
    },
    optional=("split",),
    template=_CAPTION_PROMPT,
    sampling=_CAPTION,
    num_items=(5_000, 40_504),
    published="CIDEr 56.2 with 64 steps, 51.3 with 32 (Tables 3 and 5)",
    source="paper Table 5: 64 steps; the prompt is the first of COCO's in the "
    "release's loader, which is inferred, as is the number of images",
  ),
  "geneval": _image(
    prompts.read_geneval,
    layouts.write_geneval,
    {
      "": ScoredPart(
        scorer="geneval",
        references=("prompts",),
        predictions="detections",
        tool="Mask2Former by evaluation/evaluate_images.py of "
        "djghosh13/geneval",
      )
    },
    files={"prompts": "evaluation_metadata.jsonl"},
    subset=subsets.cut_geneval,
    images_per_prompt=4,
    num_items=(553 * 4,),
    published="overall 0.65; 0.97, 0.80, 0.54, 0.76, 0.32, 0.50 (Table 2); SD3 "
    "0.62",
    source=_IMAGE_SOURCE,
  ),
  "t2i_compbench": _image(
    prompts.read_compbench,
    layouts.write_nothing,
    {
      category: ScoredPart(
        scorer="t2i_compbench",
        predictions=f"{category}_answers",
        tool="BLIP-VQA by BLIPvqa_eval/BLIP_vqa.py of "
        "Karine-Huang/T2I-CompBench",
      )
      for category in prompts.COMPBENCH_CATEGORIES
    },
    files={
      category: f"{category}_val.txt"
      for category in prompts.COMPBENCH_CATEGORIES
    },
    images_per_prompt=10,
    num_items=(9_000,),
    published="colour 0.8001, shape 0.5703, texture 0.6856 (Table 8); SD3 "
    "0.7993, 0.5816, 0.7389",
    source=f"{_IMAGE_SOURCE}, inferred for this benchmark",
  ),
  "dpg": _image(
    prompts.read_dpg,
    layouts.write_dpg,
    {
      prefix: ScoredPart(
        scorer=scorer,
        references=("questions",),
        predictions="answers",
        tool="mPLUG by dpg_bench/compute_dpg_bench.py of TencentQQGYLab/ELLA",
      )
      for prefix, scorer in (("", "dpg"), ("published", "dpg_official_bugs"))
    },
    files={"prompts": "prompts", "questions": "dpg_bench.csv"},
    subset=subsets.cut_dpg,
    images_per_prompt=4,
    num_items=(1_065 * 4,),
    source=f"not in the paper; as GenEval: {_IMAGE_SOURCE}",
  ),
  "mjhq": _image(
    prompts.read_mjhq,
    layouts.write_nothing,
    {
      "": ScoredPart(
        scorer="fid",
        references=("reference_features",),
        predictions="features",
        tool=_INCEPTION,
      )
    },
    files={"prompts": "meta_data.json"},
    num_items=(30_000,),
    published="FID 15.16 at 512 pixels (Table 7); SD3 16.45",
    source=f"{_IMAGE_SOURCE}, inferred for this benchmark",
  ),
  "coco30k": _image(
    prompts.read_coco30k,
    layouts.write_nothing,
    {
      "": ScoredPart(
        scorer="fid",
        references=("reference_features",),
        predictions="features",
        tool=_INCEPTION,
      ),
      "clip": ScoredPart(
        scorer="clip_score",
        references=("text_features",),
        predictions="clip_features",
        tool="CLIP features of the images and of their prompts, in the order "
        "of outputs.jsonl",
      ),
    },
    files={"annotations": "captions_val2014.json"},
    num_items=(30_000,),
    published="FID 9.4, CLIP 31.2 (Table 8); SD3 10.2, 30.9",
    source=f"{_IMAGE_SOURCE}, inferred for this benchmark",
  ),
}

# Task -> role -> BLAKE2b of the published file, and where it is from.
_PUBLISHED_FILES: Mapping[str, Mapping[str, tuple[str, str]]] = {
  "geneval": {
    "prompts": (
      "db9310c8d5fc6c2c86745c164390b91e",
      "djghosh13/geneval at af4902f",
    )
  },
  "t2i_compbench": {
    "color": (
      "9b2f2cbe9421c916c279593d561aab11",
      "Karine-Huang/T2I-CompBench at 1b70949",
    ),
    "shape": (
      "8ea63c8ec5e00f880baabe546dbab9c7",
      "Karine-Huang/T2I-CompBench at 1b70949",
    ),
    "texture": (
      "6eac08ae2e4a754c904d8ecabc428bd9",
      "Karine-Huang/T2I-CompBench at 1b70949",
    ),
  },
}


def shown_prompt(protocol: Protocol, item: Item) -> str:
  """The beginning of the text that the published numbers were made with."""
  question = " ".join(item.text.split())
  return protocol.template.replace("{question}", question)


def hashed_files(files: Mapping[str, pathlib.Path]) -> dict[pathlib.Path, str]:
  """BLAKE2b of each file; folders have no hash of their own.

  The images of a folder are not hashed: benchmarks have up to 100 GB of them.
  """
  found: dict[pathlib.Path, str] = {}
  for path in files.values():
    if path not in found and path.is_file():
      found[path] = file_hash(path)
  return found


def file_notes(
  name: str,
  files: Mapping[str, pathlib.Path],
  hashes: Mapping[pathlib.Path, str],
  num_items: int,
) -> list[str]:
  """What to say of a benchmark's files: their version, or that it is another.

  Args:
    name: of the benchmark.
    files: by role.
    hashes: see `hashed_files`.
    num_items: read from them.
  """
  notes = []
  for role, (wanted, version) in _PUBLISHED_FILES.get(name, {}).items():
    is_published = hashes.get(files[role]) == wanted
    notes.append(
      f"{role} is the file of {version}"
      if is_published
      else f"{role} is not the file of {version}: {files[role]}"
    )
  published = PROTOCOLS[name].num_items
  if published and num_items not in published:
    wanted = " or ".join(f"{number:,}" for number in published)
    notes.append(f"{num_items:,} items, the published files have {wanted}")
  return notes
