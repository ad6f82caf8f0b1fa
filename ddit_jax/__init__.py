"""D-DiT, the Dual Diffusion Transformer, in JAX.

In reading order:

- `config`: config files to a tree of frozen dataclasses.
- `batch`: the batch of one training step.
- `data`: records to batches on devices.
- `diffusion`: the mathematics of both diffusions.
- `losses`: the dual loss.
- `models`: the MM-DiT.
- `encoders`: the frozen text encoders and the autoencoder.
- `sharding`: where arrays live.
- `train`: one training step and the loop around it.
- `sampling`: images and texts from noise.
- `lora`: adapters of low rank.
- `post_training`: rewards and preferences in place of data.
- `checkpoint`: atomic, verified checkpoints.
- `conversion`: published weights to checkpoints and back.
- `monitor`: metrics and images of a run.
- `planning`: what a compiled program costs on a chip.
- `report`: one self-contained report.html.
- `experiment`: combines all of these into runs.
- `pipelines`: checkpoints as objects and tasks.
- `serving`: a checkpoint behind HTTP.
- `demo`: a checkpoint behind a page for a browser.
- `cli`: the command line.
- `digits`: the embedded world of coloured digits.
- `evaluation`: published scorers.
- `scoring`: official files of the benchmarks to figures.
- `protocols`: benchmarks as items for a model, and as official files.
- `prng`: random keys by purpose and step.
- `files`: paths, regular files, locks, atomic writes.
- `json_files`: untrusted JSON, and hashes.
- `errors`: errors shown to users as one line.

`ddit_jax.load(path)` returns a checkpoint as an object with a method per task;
docs/library.md shows the parts as a library.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submodules=[
    "data",
    "diffusion",
    "losses",
    "models",
    "sampling",
    "sharding",
    "train",
  ],
  submod_attrs={
    "batch": ["DualBatch", "ImageToTextBatch", "TextToImageBatch"],
    "experiment.model": ["DualModel"],
    "pipelines.generated_images": ["GeneratedImages"],
    "pipelines.load": ["load"],
    "pipelines.pipeline": ["Pipeline"],
  },
)
