"""What Raccoon counts, and where the counts go."""
