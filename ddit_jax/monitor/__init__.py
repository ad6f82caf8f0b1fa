"""What a run shows while it trains.

device_stats.py   speed, utilisation and memory as scalars
image_grid.py     images with a label below each, as one image
metric_writer.py  scalars and images to JSON lines, TensorBoard and PNG files
progress.py       the progress bar
"""
