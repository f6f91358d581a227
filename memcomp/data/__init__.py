"""Texts to compress and windows to train on."""
