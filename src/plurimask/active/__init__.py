"""What to annotate next: which images a model would learn most from, and whether that is so."""
