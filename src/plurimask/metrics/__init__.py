"""How good what was found is, and how sure one may be of that number. Nothing here needs torch."""
