"""The mathematics of both diffusions, without parameters.

`flow_path` (images) and `mask_process` (text) are the only places that know
the schedules: losses and samplers both ask them.
"""
