"""Compares `ddit_jax.scoring` with recorded outputs of the published scorers.

`docs/scoring.md` describes the folders of cases.

- `folder`: a folder of cases, and which of its files were read.
- `compare`: judges every figure of an expected output.
- `answer_cases`: answers: VQA, OK-VQA, VizWiz, GQA, POPE, MME.
- `caption_cases`: tokens and captions.
- `image_cases`: GenEval, DPG-Bench, T2I-CompBench, Fréchet distance, CLIP.
- `check`: every folder, and the lines of `tools/check_scorers.py`.
"""
