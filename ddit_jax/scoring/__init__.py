"""Official files of the benchmarks to figures, without a model and without JAX.

- `benchmarks`: the table of benchmarks; the result as JSON.
- `scored`: figures, the items behind them, notes.
- `records`: JSON and JSON lines, and the fields that they need.
- `vqa`: VQA v2, the D-DiT release's VQA v2, TextVQA, OK-VQA.
- `vizwiz`: VizWiz.
- `gqa`: GQA.
- `pope`: POPE.
- `mme`: MME.
- `captions`: COCO captions.
- `geneval`: GenEval.
- `t2i_compbench`: T2I-CompBench.
- `dpg`: DPG-Bench.
- `features`: Fréchet and kernel distance, CLIP score.
- `comparison`: two results on the same items.
- `submissions`: answers in the form that servers take.
"""
