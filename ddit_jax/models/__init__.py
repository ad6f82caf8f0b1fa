"""The trained network, as Flax Linen modules.

Read in this order: `sizes` (named configurations), `mmdit` (the whole
network), `joint_block` (one block), `attention` (where the kernel is chosen),
`patches`, `positions`, `time_embedding`, `text_embedding`, `heads`, `layers`.
`network` wraps it all as pure functions of a plain parameter tree, by
`pure_module`, which does the same for any module.
"""
