"""Adapters of low rank: trained, merged and exchanged alone.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

- `lora`: adapters next to a frozen network.
"""
