"""What a run tells while it goes on; for process 0 only.

scalar_file.py    scalars.jsonl: one line a step, cut back after a resume
metric_writer.py  scalars and images to JSON lines, TensorBoard and PNG
progress.py       one moving line on a terminal, plain lines elsewhere
"""
