"""The recipe's stages, a file a subject. `stages` is the face."""
