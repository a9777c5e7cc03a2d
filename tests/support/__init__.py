"""Layers made by hand, images made of them, a registry, and foreign tools that read our outputs back."""
