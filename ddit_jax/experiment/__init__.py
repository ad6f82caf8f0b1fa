"""Combines all other packages into runs.

- `config`: the root of a run's config, the nest of all parts.
- `model`: the network with its encoders.
- `model_config`: the section `model`, which makes it.
- `captioner`: a language model that reads image features, and its config.
- `captioner_weights`: what it starts from, and what stays frozen below it.
- `abstract_step`: a step's shapes and shardings, to compile it ahead of time.
- `step_flops`: the FLOPs of an update.
- `vocabulary`: the tokenizer of a run.
- `token_rows`: stored rows of tokens, matched by token.
- `data`: batches of both tasks from the config.
- `source_record`: what sources hold, to notice changes at a resume.
- `pretrained`: frozen encoders, and parameters that a run starts from.
- `encoder_placement`: how the mesh splits those encoders.
- `toy_model`: toy encoders for dry runs.
- `step_log`: the scalars of a run's steps.
- `processes`: the processes of one job: equal settings, and no endless wait.
- `compiled_step`: the step, lowered, compiled, timed and profiled.
- `state_source`: initialises a run's train state, or restores it.
- `trainer`: `ddit train`: build the parts, loop, roll back.
- `validation`: validation losses and sample grids.
- `run_report`: the page of a run's curves, samples and config.
- `stages`: several stages of training, each started from the one before.
- `layer_probe`: `ddit probe`: captioners on several layers, compared.
- `workdir`: the workdir of a run: its lock, resuming, full disks.
- `write_cache`: `ddit prepare --cache`: encodes a task's sources to disk.
"""
