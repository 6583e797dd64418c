"""Founders, their checkpoints, and how they become offspring."""
