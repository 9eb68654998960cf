"""Where a person's time goes: what to look at next, and what that is worth."""
