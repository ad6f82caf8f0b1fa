"""The digit world: coloured handwritten digits, rendered and scored in numpy.

Each module imports only modules above it:

- `world`: words, colours, held-out compositions, sizes, handwriting.
- `scenes`: which digits in which colours, and where.
- `rendering`: images of scenes.
- `prompts`: the generation prompts, in the format of GenEval's metadata.
- `grammar`: captions, the facts they state, and every word.
- `questions`: questions about scenes, and ten annotators' answers.
- `datasets`: training data, with balanced answers.
- `evaluation_sets`: scenes to caption, questions, and the POPE sets.
- `benchmark_sets`: the questions of MME and GQA.
- `segmentation`: connected ink of a generated image.
- `digit_classifier`: which digit a segment shows.
- `judge`: does an image match its prompt?
- `metrics`: a metric with its interval, oracle and prior baseline.
- `caption_judge`: answers questions from a caption alone.
- `image_scores`: metrics of generated images.
- `text_scores`: metrics of generated captions and answers.
- `benchmark_scores`: CIDEr, MME and GQA.
- `tables`: the metrics as tables.
"""
