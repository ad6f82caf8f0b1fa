"""Metrics and images of a run in progress.

- `device_stats`: speed, utilisation and memory as scalars.
- `image_grid`: images with a label below each, as one image.
- `metric_writer`: scalars and images to JSON lines, TensorBoard and PNG files.
- `progress`: the progress bar.
- `start_times`: where the time to the first step goes.
- `tensorboard`: event files, written without a thread.
"""
