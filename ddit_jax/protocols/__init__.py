"""Benchmarks on a model, without the model: items in, official files out.

- `protocol`: the table: files, prompts and settings of published numbers.
- `item`: one question, caption or image; subsets.
- `questions`: official files of questions and captions to items.
- `prompts`: official files of prompts to items.
- `caption_prompts`: questions that are answered from captions.
- `layouts`: outputs to official files and folders.
- `subsets`: references of some of the questions.
- `journal`: outputs on the disk, appended and resumed.
- `config`: the `benchmarks` section of a config.
"""
