"""Published scorers in plain numpy; independent of models and data sets.

- `bootstrap`: a mean with its bootstrap interval.
- `vqa_accuracy`: VQA v2 answer normalisation and accuracy.
- `yes_no`: POPE's yes/no parsing and confusion scores.
- `geneval`: GenEval's verdict on detected boxes.
- `fact_scores`: precision, recall and F1 of sets of facts.
"""
