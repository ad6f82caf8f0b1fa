"""Published scorers in plain numpy; independent of models and data sets.

- `bootstrap`: a mean with its bootstrap interval.
- `paired`: whether two runs differ on the same items.
- `answer_forms`: the forms in which scorers compare answers.
- `vqa_accuracy`: agreement with the annotators, by each benchmark's rules.
- `yes_no`: POPE's yes/no parsing and confusion scores.
- `mme`: MME's scores of questions in pairs.
- `gqa`: GQA's metrics.
- `geneval`: GenEval's verdict on detected boxes.
- `ptb_tokens`: captions to Penn Treebank tokens.
- `caption_scores`: CIDEr-D, BLEU and ROUGE-L.
- `t2i_compbench`: T2I-CompBench's product of probabilities.
- `dpg`: DPG-Bench's propositions.
- `frechet`: Fréchet and kernel distance of features.
- `clip_score`: CLIP scores of features.
- `fact_scores`: precision, recall and F1 of sets of facts.
- `retrieval`: recall of images and captions from likelihoods.
"""
