"""Checkpoints as objects with one method per task.

- `load`: a checkpoint or converted weights to a pipeline.
- `load_sd3`: the same for plain SD3.
- `pipeline`: D-DiT, with one method per task.
- `sd3`: plain SD3, text to image only.
- `image_pipeline`: text to image, the part that both share.
- `image_batches`, `sampler`: jitted sampling of images and of texts, batch by
  batch over a mesh.
- `text_batches`: batches of texts that shrink, texts that grow.
- `likelihood`: jitted likelihoods, batch by batch over a mesh.
- `ranking`: choices and pairs of images and captions, by likelihood.
- `inputs`, `edit_inputs`: checks of images, texts, masks and sampling settings.
- `requests`, `generating`: `ddit sample`.
- `evaluate`: `ddit evaluate`.
- `lora_export`: `ddit lora`.
- `benchmarks`: `ddit evaluate --tasks`.
- `job`: one benchmark to be run, and its result on one model.
- `own_data`: tasks on sources of the config.
- `outputs`: samples the items of a benchmark into a journal.
- `run_facts`: what a number depends on.
- `benchmark_report`: figures, manifest and report.html of benchmarks.
- `plan`: `ddit plan`.
- `plan_sweep`: `ddit plan --sweep`.
- `plan_text`: a plan for a terminal.
"""
