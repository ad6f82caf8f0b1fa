"""Encoder outputs on disk: latents' moments and text features."""
