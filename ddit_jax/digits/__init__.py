"""The embedded world: coloured handwritten digits, made and judged in numpy.

Read the files in this order (each imports only those above it):

  writers        scikit-learn's digits, split by writer
  compositions   the words, the colours, and what training never shows
  relations      left of, right of, above, below
  worlds         canvas and digit sizes
  contents       which digits in which colours a scene holds
  layouts        where they lie
  scenes         a scene, drawn and rendered
  prompts        the generation prompts, in GenEval's layout
  grammar        captions, the facts they state, and every word there is
  questions      questions about a scene, and their answers
  annotators     ten made-up answers to a question, as VQA v2 has them
  streams        random generators with an address
  balance        every answer equally often
  pools          what training reads
  exam_sets      what evaluation reads
  components     pieces of a generated image
  digit_reader   which digit a piece shows
  checker        does the image keep its prompt?
  metric_record  a metric with its interval, ceiling and baseline
  score_images   generated images into metrics
  score_captions generated captions into metrics
  score_answers  generated answers into metrics
  scoring        all three under one name
"""
