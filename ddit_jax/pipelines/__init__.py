"""Checkpoints as objects with one method per task.

- `load`: a checkpoint or converted weights to a pipeline.
- `load_sd3`: the same for plain SD3.
- `pipeline`: D-DiT, with one method per task.
- `sd3`: plain SD3, text to image only.
- `image_pipeline`: text to image, the part that both share.
- `on_mesh`: what runs batch by batch over a mesh.
- `image_batches`: jitted sampling of images.
- `sampler`: the same of texts.
- `text_batches`: batches of texts that shrink, texts that grow.
- `likelihood`: jitted likelihoods.
- `ranking`: choices and pairs of images and captions, by likelihood.
- `inputs`: checks of images, texts and sampling settings.
- `edit_inputs`: checks of images and masks that are edited.
- `requests`: the requests of `ddit sample`.
- `generating`: `ddit sample`.
- `evaluate`: `ddit evaluate`.
- `lora_export`: `ddit lora`.
- `benchmarks`: `ddit evaluate --tasks`.
- `evaluation_task`: one benchmark to be run, and its result on one model.
- `own_data`: tasks on sources of the config.
- `outputs`: samples the items of a benchmark into a journal.
- `run_facts`: what a number depends on.
- `benchmark_report`: figures, manifest and report.html of benchmarks.
- `abstract_sampling`: a sampler's shapes, to compile it ahead of time.
- `plan`: `ddit plan`.
- `plan_sweep`: `ddit plan --sweep`.
- `plan_text`: a plan for a terminal.
"""
